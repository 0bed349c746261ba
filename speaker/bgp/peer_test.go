// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

func TestPeerValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Peer)
		want   []string // the beginning of every line of the error
	}{
		{name: "the least a peer needs", change: func(*Peer) {}},
		{name: "a link-local peer with its zone", change: func(p *Peer) { p.Address = netip.MustParseAddr("fe80::1%eth0") }},
		{name: "external by relation", change: func(p *Peer) { p.PeerASN, p.Dynamic = 0, External }},
		{name: "internal by relation", change: func(p *Peer) { p.PeerASN, p.Dynamic = 0, Internal }},
		{name: "a password as long as the kernel takes", change: func(p *Peer) { p.Password = Password(strings.Repeat("x", 80)) }},
		{name: "GTSM over one hop", change: func(p *Peer) { p.TTLSecurityHops = 1 }},
		{name: "no hold timer", change: func(p *Peer) { p.NoHoldTimer = true }},
		{
			name:   "a keepalive time without a hold timer",
			change: func(p *Peer) { p.NoHoldTimer, p.KeepaliveTime = true, time.Second },
			want:   []string{"keepaliveTime: 1s has no effect with holdTime 0s"},
		},
		{
			name:   "a negative limit",
			change: func(p *Peer) { p.MaxReceivedPrefixes = -1 },
			want:   []string{"maxReceivedPrefixes: -1 is negative"},
		},
		{
			name:   "nothing at all",
			change: func(p *Peer) { *p = Peer{} },
			want:   []string{"name: ", "myASN: ", "peerASN: ", "peerAddress: ", "routerID: "},
		},
		{
			name:   "no address",
			change: func(p *Peer) { p.Address = netip.Addr{} },
			want:   []string{"peerAddress: required"},
		},
		{
			name:   "both an AS number and a relation",
			change: func(p *Peer) { p.Dynamic = External },
			want:   []string{"dynamicASN: cannot be combined with peerASN"},
		},
		{
			name:   "an unknown relation",
			change: func(p *Peer) { p.PeerASN, p.Dynamic = 0, "Foreign" },
			want:   []string{`dynamicASN: "Foreign" is neither External nor Internal`},
		},
		{
			name:   "AS_TRANS for an AS number",
			change: func(p *Peer) { p.LocalASN, p.PeerASN = 23456, 23456 },
			want:   []string{"myASN: ", "peerASN: "},
		},
		{
			name:   "a link-local peer without a zone",
			change: func(p *Peer) { p.Address = netip.MustParseAddr("fe80::1") },
			want:   []string{"peerAddress: fe80::1 is link-local and needs the zone of its interface, such as fe80::1%eth1"},
		},
		{
			name:   "a zone where none belongs",
			change: func(p *Peer) { p.Address = netip.MustParseAddr("2001:db8::1%eth0") },
			want:   []string{"peerAddress: "},
		},
		{
			name:   "an IPv4 peer in IPv6 form",
			change: func(p *Peer) { p.Address = netip.MustParseAddr("::ffff:192.0.2.1") },
			want:   []string{"peerAddress: ::ffff:192.0.2.1 is an IPv4 address in IPv6 form: write 192.0.2.1"},
		},
		{
			name:   "a multicast peer",
			change: func(p *Peer) { p.Address = netip.MustParseAddr("224.0.0.1") },
			want:   []string{"peerAddress: "},
		},
		{
			name:   "a source address of the other family",
			change: func(p *Peer) { p.SourceAddress = netip.MustParseAddr("2001:db8::1") },
			want:   []string{"sourceAddress: "},
		},
		{
			name:   "an IPv6 router ID",
			change: func(p *Peer) { p.RouterID = netip.MustParseAddr("2001:db8::1") },
			want:   []string{"routerID: 2001:db8::1 is not a unicast IPv4 address"},
		},
		{
			name:   "a hold time that RFC 4271 forbids",
			change: func(p *Peer) { p.HoldTime = 2 * time.Second },
			want:   []string{"holdTime: 2s is not between 3s and", "keepaliveTime: "},
		},
		{
			name:   "a keepalive time above a third of the hold time",
			change: func(p *Peer) { p.HoldTime, p.KeepaliveTime = 9*time.Second, 4*time.Second },
			want:   []string{"keepaliveTime: 4s is more than a third of holdTime 9s"},
		},
		{
			name:   "times that BGP cannot express",
			change: func(p *Peer) { p.HoldTime, p.ConnectTime = 4500*time.Millisecond, 20*time.Hour },
			want:   []string{"holdTime: 4.5s is not a whole number of seconds", "connectTime: 20h0m0s is not between"},
		},
		{
			name:   "multihop and GTSM at once",
			change: func(p *Peer) { p.EBGPMultiHop, p.TTLSecurityHops = true, 1 },
			want:   []string{"ttlSecurityHops: cannot be combined with ebgpMultiHop"},
		},
		{
			name:   "GTSM over more hops than a TTL holds",
			change: func(p *Peer) { p.TTLSecurityHops = 255 },
			want:   []string{"ttlSecurityHops: "},
		},
		{
			name:   "a password longer than the kernel takes",
			change: func(p *Peer) { p.Password = Password(strings.Repeat("x", 81)) },
			want:   []string{"password: 81 bytes are more than the 80"},
		},
		{
			name: "a restart time beyond twelve bits",
			change: func(p *Peer) {
				p.GracefulRestart = GracefulRestart{Enabled: true, RestartTime: 4096 * time.Second}
			},
			want: []string{"gracefulRestart.restartTime: "},
		},
		{
			name:   "a family twice and one that does not exist",
			change: func(p *Peer) { p.Families = []family.Family{family.IPv6, family.IPv6, "IPX"} },
			want:   []string{"families: IPv6 is named twice", `families: "IPX"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Peer{
				Name: "tor1", LocalASN: 64512, PeerASN: 64513,
				Address: netip.MustParseAddr("192.0.2.1"), RouterID: netip.MustParseAddr("192.0.2.254"),
			}
			tt.change(&p)
			p.Defaults()
			var got []string
			if err := p.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			for i := range min(len(got), len(tt.want)) {
				if strings.HasPrefix(got[i], tt.want[i]) {
					got[i] = tt.want[i]
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Unexpected faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPeerDefaults(t *testing.T) {
	got := Peer{LocalASN: 64512, Dynamic: Internal, HoldTime: 10 * time.Second, GracefulRestart: GracefulRestart{Enabled: true}}
	got.Defaults()
	want := Peer{
		LocalASN: 64512, PeerASN: 64512, Port: 179,
		HoldTime: 10 * time.Second, KeepaliveTime: 3 * time.Second, ConnectTime: 5 * time.Second,
		GracefulRestart: GracefulRestart{Enabled: true, RestartTime: 30 * time.Second},
		Families:        []family.Family{family.IPv4, family.IPv6},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("Unexpected peer (-want +got):\n%s", diff)
	}
}

func TestPasswordIsNeverPrinted(t *testing.T) {
	p := Peer{Name: "tor1", Password: "correct horse"}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s", p, p, p, p.Password), string(text)} {
		if strings.Contains(printed, "horse") {
			t.Errorf("The password is in %q", printed)
		}
	}
}

func TestRouterID(t *testing.T) {
	// These values are what running clusters have: a change resets their sessions.
	for node, want := range map[string]string{"node1": "203.18.243.27", "node2": "22.177.138.114", "": "5.176.196.66"} {
		if got := RouterID(node).String(); got != want {
			t.Errorf("RouterID(%q) = %v, want %v", node, got, want)
		}
	}
	for i := range 10_000 {
		id := RouterID(fmt.Sprintf("worker-%d.example.org", i))
		if first := id.As4()[0]; first < 1 || first > 223 {
			t.Fatalf("RouterID gave %v, which is not unicast", id)
		}
	}
}
