// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"
)

func TestRouteValidate(t *testing.T) {
	for _, tt := range []struct {
		name, prefix, nextHop string
		linkLocal             string
		peer                  string // 198.51.100.1 where it is empty
		wantError             string
	}{
		{name: "IPv4 by IPv4", prefix: "192.0.2.1/32", nextHop: "198.51.100.11"},
		{name: "IPv6 by IPv6", prefix: "2001:db8::1/128", nextHop: "2001:db8:51::11"},
		{name: "IPv4 by IPv6", prefix: "192.0.2.1/32", nextHop: "2001:db8:51::11"},
		{name: "an aggregate", prefix: "192.0.2.0/24", nextHop: "198.51.100.11"},
		{name: "IPv6 by IPv4", prefix: "2001:db8::1/128", nextHop: "198.51.100.11", wantError: "needs an IPv6 next hop"},
		{
			name:   "IPv6 by an IPv4 address in IPv6 form",
			prefix: "2001:db8::1/128", nextHop: "::ffff:198.51.100.11", wantError: "IPv4 in IPv6 form",
		},
		{name: "a link-local next hop", prefix: "2001:db8::1/128", nextHop: "fe80::1", wantError: "not an address the peer can forward to"},
		{name: "the unspecified address", prefix: "2001:db8::1/128", nextHop: "::", wantError: "not an address the peer can forward to"},
		{name: "a link-local next hop for a link-local peer", prefix: "2001:db8::1/128", nextHop: "fe80::1", peer: "fe80::2%eth0"},
		{name: "IPv4 by a link-local next hop for a link-local peer", prefix: "192.0.2.1/32", nextHop: "fe80::1%eth0", peer: "fe80::2%eth0"},
		{
			name: "a link-local next hop for a peer of 169.254.0.0/16", prefix: "2001:db8::1/128", nextHop: "fe80::1", peer: "169.254.1.1",
			wantError: "not an address the peer can forward to",
		},
		{name: "a link-local address beside it", prefix: "2001:db8::1/128", nextHop: "2001:db8:51::11", linkLocal: "fe80::11%eth0"},
		{
			name: "a global address beside it", prefix: "2001:db8::1/128", nextHop: "2001:db8:51::11", linkLocal: "2001:db8:51::12",
			wantError: "no link-local address beside a global IPv6 next hop",
		},
		{
			name: "a link-local address beside IPv4", prefix: "192.0.2.1/32", nextHop: "198.51.100.11", linkLocal: "fe80::11",
			wantError: "no link-local address beside a global IPv6 next hop",
		},
		{name: "no next hop", prefix: "192.0.2.1/32", wantError: "has no next hop"},
		{name: "host bits", prefix: "192.0.2.1/24", nextHop: "198.51.100.11", wantError: "would be 192.0.2.0/24"},
		{name: "no prefix", nextHop: "198.51.100.11", wantError: "without a prefix"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Route
			if tt.prefix != "" {
				r.Prefix = netip.MustParsePrefix(tt.prefix)
			}
			if tt.nextHop != "" {
				r.NextHop = netip.MustParseAddr(tt.nextHop)
			}
			if tt.linkLocal != "" {
				r.LinkLocal = netip.MustParseAddr(tt.linkLocal)
			}
			err := r.Validate(Peer{Address: netip.MustParseAddr(cmp.Or(tt.peer, "198.51.100.1"))})
			switch {
			case tt.wantError == "" && err != nil:
				t.Error(err)
			case tt.wantError != "" && (err == nil || !strings.Contains(err.Error(), tt.wantError)):
				t.Errorf("Validate() = %v, want an error with %q", err, tt.wantError)
			}
		})
	}
}
