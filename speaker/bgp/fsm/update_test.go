// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// manyPrefixes returns host routes of a family.
func manyPrefixes(f family.Family, n int) []netip.Prefix {
	address := netip.MustParseAddr("198.18.0.0")
	if f == family.IPv6 {
		address = netip.MustParseAddr("2001:db8:51::")
	}
	prefixes := make([]netip.Prefix, 0, n)
	for range n {
		prefixes = append(prefixes, netip.PrefixFrom(address, address.BitLen()))
		address = address.Next()
	}
	return prefixes
}

// TestPacking: messages have 4,096 bytes at most, the fewest there can be have every prefix once, and GoBGP reads them.
func TestPacking(t *testing.T) {
	external, internal := peerOfFakes(), peerOfFakes()
	internal.PeerASN = internal.LocalASN
	hop4, hop6, local := netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11"), netip.MustParseAddr("fe80::11%eth0")
	communities := make([]bgp.Community, 100)
	for i := range communities {
		communities[i] = bgp.Community{A: 64512, B: uint32(i)}
	}
	for _, tt := range []struct {
		name     string
		peer     bgp.Peer
		family   family.Family
		route    bgp.Route
		withdraw bool
		want     int // messages for 10,000 prefixes
	}{
		// 4,096 less 23 of the message, and 4 + 9 + 7 of ORIGIN, AS_PATH and NEXT_HOP, leave room for 810 prefixes of 5 bytes.
		{name: "IPv4", peer: external, family: family.IPv4, route: bgp.Route{NextHop: hop4}, want: 13},
		// 23 + 25 of MP_REACH_NLRI + 4 + 9 leave room for 237 prefixes of 17 bytes.
		{name: "IPv6", peer: external, family: family.IPv6, route: bgp.Route{NextHop: hop6}, want: 43},
		{name: "IPv4 by IPv6", peer: external, family: family.IPv4, route: bgp.Route{NextHop: hop6}, want: 13},
		// 16 bytes more leave room for 236.
		{name: "IPv6 with a link-local address", peer: external, family: family.IPv6, route: bgp.Route{NextHop: hop6, LinkLocal: local}, want: 43},
		{
			// 489 bytes of attributes leave room for 212 prefixes.
			name: "everything that a route can have", peer: internal, family: family.IPv6, want: 48,
			route: bgp.Route{NextHop: hop6, LinkLocal: local, MED: new(uint32(7)), LocalPref: new(uint32(7)), Communities: communities},
		},
		{name: "withdrawn IPv4", peer: external, family: family.IPv4, route: bgp.Route{NextHop: hop4}, withdraw: true, want: 13},
		{name: "withdrawn IPv6", peer: external, family: family.IPv6, route: bgp.Route{NextHop: hop6}, withdraw: true, want: 42},
		{name: "withdrawn IPv4 by IPv6", peer: external, family: family.IPv4, route: bgp.Route{NextHop: hop6}, withdraw: true, want: 13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			prefixes := manyPrefixes(tt.family, 10_000)
			updates, err := withdrawals(tt.family, tt.route.NextHop.Is6(), prefixes)
			if !tt.withdraw {
				updates, err = announcements(tt.peer, true, attributesOf(tt.route, tt.peer), tt.family, prefixes)
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(updates) != tt.want {
				t.Errorf("%d messages, want %d", len(updates), tt.want)
			}
			var got []netip.Prefix
			for _, u := range updates {
				if len(u.message) > packet.BGP_MAX_MESSAGE_LENGTH {
					t.Fatalf("a message has %d bytes", len(u.message))
				}
				got = append(got, prefixesOf(t, u.message, tt.withdraw)...)
			}
			if !slices.Equal(prefixes, got) {
				t.Errorf("%d prefixes are not those that were packed", len(got))
			}
		})
	}
}

// prefixesOf returns what a message announces or withdraws, in the words of GoBGP.
func prefixesOf(t *testing.T, message []byte, withdrawn bool) (prefixes []netip.Prefix) {
	t.Helper()
	m, err := packet.ParseBGPMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	u := m.Body.(*packet.BGPUpdate)
	if ok, err := packet.ValidateUpdateMsg(u, map[packet.Family]packet.BGPAddPathMode{packet.RF_IPv4_UC: 0, packet.RF_IPv6_UC: 0},
		true, false, false); !ok && !withdrawn {
		t.Fatalf("GoBGP does not take a message: %v", err)
	}
	nlri := u.NLRI
	if withdrawn {
		nlri = u.WithdrawnRoutes
	}
	for _, attr := range u.PathAttributes {
		switch attr := attr.(type) {
		case *packet.PathAttributeMpReachNLRI:
			nlri = attr.Value
		case *packet.PathAttributeMpUnreachNLRI:
			nlri = attr.Value
		}
	}
	for _, n := range nlri {
		prefixes = append(prefixes, n.NLRI.(*packet.IPAddrPrefix).Prefix)
	}
	return prefixes
}

// TestTooManyCommunities: a route that no message can hold is reported, and the others are announced.
func TestTooManyCommunities(t *testing.T) {
	s := newSession(Config{Logger: discard}, peerOfFakes(), func() {})
	huge, other := route("198.51.100.200/32", "192.0.2.11"), route("198.51.100.201/32", "192.0.2.11")
	for i := range 2000 {
		huge.Communities = append(huge.Communities, bgp.Community{A: 64512, B: uint32(i)})
	}
	err := s.setRoutes([]bgp.Route{huge, other})
	if want := "prefix 198.51.100.200/32: " + errTooLong.Error(); err == nil || err.Error() != want {
		t.Errorf("setRoutes() = %v, want %s", err, want)
	}
	if len(s.declared) != 1 {
		t.Errorf("%d routes are declared", len(s.declared))
	}
}

// TestEqualAttributes: routes that a peer is told the same of share their UPDATEs, whatever differs in what it is not told.
func TestEqualAttributes(t *testing.T) {
	external := peerOfFakes()
	one, two := route("198.51.100.200/32", "192.0.2.11"), route("198.51.100.201/32", "192.0.2.11")
	one.LocalPref = new(uint32(7)) // not for external peers
	a, b := bgp.Community{A: 64512, B: 1}, bgp.Community{Large: true, A: 64512, B: 1, C: 2}
	one.Communities, two.Communities = []bgp.Community{a, b, a}, []bgp.Community{b, a}
	x, y := attributesOf(one, external), attributesOf(two, external)
	if diff := cmp.Diff(x, y, cmp.AllowUnexported(attributes{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("The attributes differ:\n%s", diff)
	}
	standard, large := x.unpack()
	if len(standard) != 1 || standard[0] != 64512<<16|1 || len(large) != 1 || *large[0] != *packet.NewLargeCommunity(64512, 1, 2) {
		t.Errorf("The communities are %v and %v", standard, large)
	}
}
