// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

const bothFamilies = `
router bgp 64513
 bgp router-id $R4
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor $S4 remote-as 64512
 address-family ipv4 unicast
  neighbor $S4 activate
 address-family ipv6 unicast
  neighbor $S4 activate
`

// withNeighbor is bothFamilies with one more setting of the neighbour.
func withNeighbor(setting string) string {
	return strings.Replace(bothFamilies, "remote-as 64512", "remote-as 64512\n neighbor $S4 "+setting, 1)
}

// peer returns the declaration that fits bothFamilies.
func (r *frr) peer() bgp.Peer {
	return bgp.Peer{
		Name: "tor1", LocalASN: 64512, PeerASN: 64513, Address: r.router4,
		RouterID: netip.MustParseAddr("192.0.2.254"),
	}
}

func (r *frr) route(prefix string) bgp.Route {
	p := netip.MustParsePrefix(prefix)
	if p.Addr().Is4() {
		return bgp.Route{Prefix: p, NextHop: r.speaker4}
	}
	return bgp.Route{Prefix: p, NextHop: r.speaker6}
}

// external is a path from AS 64512 with no attribute but the mandatory ones.
func external(via netip.Addr) path {
	p := path{Origin: "IGP", NextHops: []nextHop{{IP: via.String(), Used: true}}}
	if via.Is6() {
		p.NextHops[0].Scope = "global"
	}
	p.ASPath.String = "64512"
	p.Peer.RouterID, p.Peer.Type = "192.0.2.254", "external"
	return p
}

func TestBothFamiliesOverOneSession(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
	awaitState(t, s, "tor1", bgp.Established)
	r.wantRIB(map[string][]path{
		"198.51.100.200/32":     {external(r.speaker4)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
	})
}

func TestIPv6Session(t *testing.T) {
	for _, tt := range []struct {
		name     string
		address  func(*frr) netip.Addr
		neighbor string
	}{
		{"by a global address", func(r *frr) netip.Addr { return r.router6 }, "neighbor $S6 remote-as 64512"},
		{
			"by a link-local address",
			func(r *frr) netip.Addr { return netip.MustParseAddr("fe80::2").WithZone(r.link) },
			"neighbor $S6 remote-as 64512\n neighbor $S6 interface up",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := strings.Replace(bothFamilies, "neighbor $S4 remote-as 64512", tt.neighbor, 1)
			config = strings.ReplaceAll(config, "$S4", "$S6")
			if strings.Contains(tt.neighbor, "interface") {
				config = strings.ReplaceAll(config, "$S6", "fe80::1")
			}
			r := newRouter(t, config)
			peer := r.peer()
			peer.Address = tt.address(r)
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
			awaitState(t, s, "tor1", bgp.Established)
			r.wantRIB(map[string][]path{
				"198.51.100.200/32":     {external(r.speaker4)},
				"2001:db8:51::1000/128": {external(r.speaker6)},
			})
		})
	}
}

// TestExtendedNextHop covers RFC 8950: an IPv4 prefix with an IPv6 next hop is for peers that have offered to take it.
func TestExtendedNextHop(t *testing.T) {
	r := newRouter(t, strings.ReplaceAll(bothFamilies, "$S4", "$S6"))
	peer := r.peer()
	// The capability makes FRR send router advertisements, from which this side would get one more address to dial
	// from.
	peer.Address, peer.SourceAddress = r.router6, r.speaker6
	overIPv6 := bgp.Route{Prefix: netip.MustParsePrefix("198.51.100.200/32"), NextHop: r.speaker6}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{overIPv6, r.route("2001:db8:51::1000/128")}})
	state := await(t, s, "tor1", "a withheld prefix", func(state bgp.SessionState) bool { return state.Withheld[family.IPv4] == 1 })
	if diff := cmp.Diff(map[family.Family]int{family.IPv4: 0, family.IPv6: 1}, state.Advertised); diff != "" {
		t.Errorf("Unexpected counts (-want +got):\n%s", diff)
	}
	r.wantRIB(map[string][]path{"2001:db8:51::1000/128": {external(r.speaker6)}})

	r.configure("router bgp 64513", "neighbor $S6 capability extended-nexthop")
	r.wantRIB(map[string][]path{
		"198.51.100.200/32":     {external(r.speaker6)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
	})
	if state := awaitState(t, s, "tor1", bgp.Established); len(state.Withheld) != 0 {
		t.Errorf("Still withholding %v prefixes", state.Withheld)
	}
	overIPv6.LinkLocal = netip.MustParseAddr("fe80::1").WithZone(r.link) // as on a node with IPv6 alone
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{overIPv6}})
	both := external(r.speaker6)
	both.NextHops = []nextHop{{IP: r.speaker6.String(), Scope: "global"}, {IP: "fe80::1", Scope: "link-local", Used: true}}
	r.wantRIB(map[string][]path{"198.51.100.200/32": {both}})
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("2001:db8:51::1000/128")}})
	r.wantRIB(map[string][]path{"2001:db8:51::1000/128": {external(r.speaker6)}})
}

func TestFamiliesThePeerDoesNotHave(t *testing.T) {
	r := newRouter(t, strings.Replace(bothFamilies, " address-family ipv6 unicast\n  neighbor $S4 activate\n", "", 1))
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
	got := await(t, s, "tor1", "a withheld prefix", func(state bgp.SessionState) bool { return state.Withheld[family.IPv6] == 1 })
	got.Since = time.Time{}
	want := bgp.SessionState{
		Peer: "tor1", Address: r.router4, State: bgp.Established, Local: r.speaker4, RemoteASN: 64513, RouterID: r.router4,
		Families: []family.Family{family.IPv4}, HoldTime: 90 * time.Second, Advertised: map[family.Family]int{family.IPv4: 1},
		Withheld: map[family.Family]int{family.IPv6: 1}, Received: map[family.Family]int{family.IPv4: 0},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("Unexpected state (-want +got):\n%s", diff)
	}
}

func TestAttributes(t *testing.T) {
	var communities []bgp.Community
	for _, c := range []string{"no-export", "large:64512:1:2", "64512:100", "64512:100"} {
		parsed, err := bgp.ParseCommunity(c)
		if err != nil {
			t.Fatal(err)
		}
		communities = append(communities, parsed)
	}
	for _, tt := range []struct {
		name      string
		remoteASN string
		peerASN   uint32
		want      func(*path)
	}{
		{
			name: "an external peer is told the prepended path and no local preference", remoteASN: "64512", peerASN: 64513,
			want: func(p *path) { p.ASPath.String = "64512 64512 64512" },
		},
		{
			name: "an internal peer is told the local preference and an empty path", remoteASN: "64513", peerASN: 64513,
			want: func(p *path) {
				p.ASPath.String, p.Peer.Type = "Local", "internal"
				p.LocalPref = new(200)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t, strings.Replace(bothFamilies, "remote-as 64512", "remote-as "+tt.remoteASN, 1))
			peer := r.peer()
			if tt.remoteASN == "64513" {
				peer.LocalASN = 64513
			}
			want := map[string][]path{}
			var routes []bgp.Route
			for _, prefix := range []string{"198.51.100.0/24", "2001:db8:51::/64"} {
				route := r.route(prefix)
				p := external(route.NextHop)
				p.MED = new(10)
				p.Community.String, p.LargeCommunity.String = "64512:100 no-export", "64512:1:2"
				tt.want(&p)
				want[prefix] = []path{p}
				route.LocalPref, route.MED, route.Prepend, route.Communities = new(uint32(200)), new(uint32(10)), 2, communities
				routes = append(routes, route)
			}
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer, Routes: routes})
			awaitState(t, s, "tor1", bgp.Established)
			r.wantRIB(want)
		})
	}
}

// TestPeersAreToldTheirOwn declares one prefix to two routers in two ways.
func TestPeersAreToldTheirOwn(t *testing.T) {
	r1, r2 := newRouter(t, bothFamilies), newRouter(t, bothFamilies)
	p1, p2 := r1.peer(), r2.peer()
	p2.Name, p2.RouterID = "tor2", netip.MustParseAddr("192.0.2.253")
	one, two, only := r1.route("198.51.100.200/32"), r2.route("198.51.100.200/32"), r2.route("2001:db8:51::1000/128")
	one.MED, two.Communities = new(uint32(10)), []bgp.Community{{A: 64512, B: 2}}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: p1, Routes: []bgp.Route{one}}, bgp.Session{Peer: p2, Routes: []bgp.Route{two, only}})

	want1, want2, wantOnly := external(r1.speaker4), external(r2.speaker4), external(r2.speaker6)
	want1.MED, want2.Community.String = new(10), "64512:2"
	want2.Peer.RouterID, wantOnly.Peer.RouterID = "192.0.2.253", "192.0.2.253"
	r1.wantRIB(map[string][]path{"198.51.100.200/32": {want1}})
	r2.wantRIB(map[string][]path{"198.51.100.200/32": {want2}, "2001:db8:51::1000/128": {wantOnly}})

	// A peer that is no longer declared loses its routes at once, and the other does not notice.
	since := awaitState(t, s, "tor1", bgp.Established).Since
	set(t, s, bgp.Session{Peer: p1, Routes: []bgp.Route{one}})
	r2.wantRIB(map[string][]path{})
	r1.wantRIB(map[string][]path{"198.51.100.200/32": {want1}})
	if states := s.States(); len(states) != 1 || states[0].Since != since {
		t.Errorf("The remaining session was disturbed: %+v", states)
	}
}

// TestChangedAttributesReplaceThePath drains as RFC 8326 has it, and reads in the router's log that the prefix was
// never withdrawn on the way.
func TestChangedAttributesReplaceThePath(t *testing.T) {
	r := newRouter(t, strings.Replace(bothFamilies, "remote-as 64512", "remote-as 64513", 1))
	log := "/run/frr/" + r.ns + "/bgpd.log"
	r.configure("log file "+log, "debug bgp updates in")
	peer := r.peer()
	peer.LocalASN = 64513
	routes := []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	internal := func(via netip.Addr) path {
		p := external(via)
		p.ASPath.String, p.Peer.Type, p.LocalPref = "Local", "internal", new(100)
		return p
	}
	want4, want6 := internal(r.speaker4), internal(r.speaker6)
	r.wantRIB(map[string][]path{"198.51.100.200/32": {want4}, "2001:db8:51::1000/128": {want6}})
	before := r.neighbor(r.speaker4).MessageStats.UpdatesRecv

	for i := range routes {
		routes[i].LocalPref, routes[i].Communities = new(uint32(0)), []bgp.Community{bgp.GracefulShutdown}
	}
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	want4.LocalPref, want4.Community.String = new(0), "graceful-shutdown"
	want6.LocalPref, want6.Community.String = new(0), "graceful-shutdown"
	r.wantRIB(map[string][]path{"198.51.100.200/32": {want4}, "2001:db8:51::1000/128": {want6}})
	set(t, s, bgp.Session{Peer: peer, Routes: routes}) // the same again is nothing to tell
	if got := r.neighbor(r.speaker4).MessageStats.UpdatesRecv - before; got != 2 {
		t.Errorf("The change took %d UPDATEs, want one for each family", got)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "rcvd 198.51.100.200/32") || strings.Contains(string(text), "withdrawn") {
		t.Errorf("The router saw a withdrawal or nothing at all:\n%s", text)
	}

	set(t, s, bgp.Session{Peer: peer, Routes: routes[:1]})
	r.wantRIB(map[string][]path{"198.51.100.200/32": {want4}})
}

func TestPassword(t *testing.T) {
	r := newRouter(t, withNeighbor("password correct"))
	peer := r.peer()
	peer.Password = "wrong"
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	state := await(t, s, "tor1", "an error", func(state bgp.SessionState) bool { return state.LastError != "" })
	if state.State != bgp.Active || !strings.Contains(state.LastError, "a different password or TTL security looks the same") ||
		strings.Contains(state.LastError, "wrong") {
		t.Errorf("A wrong password looks like this: %+v", state)
	}
	peer.Password = "correct"
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	awaitState(t, s, "tor1", bgp.Established)
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
}

// TestPasswordOverIPv6 has the kernel sign packets between global and between link-local addresses.
func TestPasswordOverIPv6(t *testing.T) {
	for _, tt := range []struct{ name, speaker, router string }{{"global", "$S6", "$R6"}, {"link-local", "fe80::1", "fe80::2"}} {
		t.Run(tt.name, func(t *testing.T) {
			neighbor := "remote-as 64512\n neighbor $S4 password correct"
			if tt.name == "link-local" {
				neighbor += "\n neighbor $S4 interface up"
			}
			r := newRouter(t, strings.ReplaceAll(strings.Replace(bothFamilies, "remote-as 64512", neighbor, 1), "$S4", tt.speaker))
			peer := r.peer()
			peer.Password, peer.Address = "correct", netip.MustParseAddr(r.expand(tt.router))
			if peer.Address.IsLinkLocalUnicast() {
				peer.Address = peer.Address.WithZone(r.link)
			}
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer})
			awaitState(t, s, "tor1", bgp.Established)
		})
	}
}

// TestInterface binds connections to an interface: to the one of the link, and to one that is not there.
func TestInterface(t *testing.T) {
	r := newRouter(t, bothFamilies)
	peer := r.peer()
	peer.Interface = "nowhere"
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer})
	await(t, s, "tor1", "an error", func(state bgp.SessionState) bool {
		return strings.Contains(state.LastError, "binding to interface nowhere: no such device")
	})
	peer.Interface = r.link
	set(t, s, bgp.Session{Peer: peer})
	awaitState(t, s, "tor1", bgp.Established)
}

// TestLinkLocalBesideTheNextHop: a router on the link is told both addresses, as RFC 2545 wants it, whatever family carries the session.
func TestLinkLocalBesideTheNextHop(t *testing.T) {
	for _, over := range []string{"$S4", "$S6"} {
		t.Run(over, func(t *testing.T) {
			r := newRouter(t, strings.ReplaceAll(bothFamilies, "$S4", over))
			peer := r.peer()
			if over == "$S6" {
				peer.Address = r.router6
			}
			route := r.route("2001:db8:51::1000/128")
			route.LinkLocal = netip.MustParseAddr("fe80::1").WithZone(r.link)
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32"), route}})
			both := external(r.speaker6)
			both.NextHops = []nextHop{{IP: r.speaker6.String(), Scope: "global"}, {IP: "fe80::1", Scope: "link-local", Used: true}}
			r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}, "2001:db8:51::1000/128": {both}})
			eventually(t, "the route in the router's kernel", func() string {
				if routes := nettest.Run(t, "ip", "-n", r.ns, "-6", "route", "show", "proto", "bgp"); !strings.Contains(routes, "fe80::1 dev up") {
					return routes
				}
				return ""
			})

			set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("2001:db8:51::1000/128")}}) // Its link has no such address any more.
			r.wantRIB(map[string][]path{"2001:db8:51::1000/128": {external(r.speaker6)}})
		})
	}
}

// TestLinkLocalNextHops are those of a peer that has no other address on the link, for both families.
func TestLinkLocalNextHops(t *testing.T) {
	config := strings.Replace(bothFamilies, "remote-as 64512",
		"remote-as 64512\n neighbor $S4 interface up\n neighbor $S4 capability extended-nexthop", 1)
	r := newRouter(t, strings.ReplaceAll(config, "$S4", "fe80::1"))
	peer := r.peer()
	peer.Address = netip.MustParseAddr("fe80::2").WithZone(r.link)
	hop := netip.MustParseAddr("fe80::1").WithZone(r.link)
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{
		{Prefix: netip.MustParsePrefix("198.51.100.200/32"), NextHop: hop}, {Prefix: netip.MustParsePrefix("2001:db8:51::1000/128"), NextHop: hop},
	}})
	eventually(t, "both routes in the router's kernel", func() string {
		for _, family := range []string{"-4", "-6"} {
			if routes := nettest.Run(t, "ip", "-n", r.ns, family, "route", "show", "proto", "bgp"); !strings.Contains(routes, "via ") ||
				!strings.Contains(routes, "fe80::1 dev up") {
				return routes
			}
		}
		return ""
	})
}

func TestGTSM(t *testing.T) {
	r := newRouter(t, withNeighbor("ttl-security hops 1"))
	// The kernel of the router sets its bound after the accept; this one sees the SYN as well.
	r.nft("table ip near { chain in { type filter hook input priority 0; tcp dport 179 ip ttl != 255 drop; }; }")
	peer := r.peer()
	peer.TTLSecurityHops = 1
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})

	// From here on the router sends as if from one hop further away: two are needed, and one refuses it.
	r.nft("table ip far { chain out { type filter hook output priority 0; ip ttl set 254; }; }")
	set(t, s)
	set(t, s, bgp.Session{Peer: peer})
	await(t, s, "tor1", "a refusal", func(state bgp.SessionState) bool {
		return state.State != bgp.Established && strings.Contains(state.LastError, "no answer from the peer")
	})
	peer.TTLSecurityHops = 2
	set(t, s, bgp.Session{Peer: peer})
	awaitState(t, s, "tor1", bgp.Established)
}

// TestMultihop puts a rule on the router that drops packets whose TTL would not have lasted for a second hop.
func TestMultihop(t *testing.T) {
	r := newRouter(t, withNeighbor("ebgp-multihop"))
	r.nft("table ip hop { chain in { type filter hook input priority 0; tcp dport 179 ip ttl < 2 drop; }; }")
	peer := r.peer()
	peer.EBGPMultiHop = true
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer})
	awaitState(t, s, "tor1", bgp.Established)
}

// TestPeerOnTheLink shows that a peer without ttlSecurityHops has a session with a router that checks TTLs and with one that sends the least:
// FRR sends a TTL of 1 to external peers, unless it checks those of theirs.
func TestPeerOnTheLink(t *testing.T) {
	for _, config := range []string{bothFamilies, withNeighbor("ttl-security hops 1")} {
		for _, ipv6 := range []bool{false, true} {
			// The kernel of the router sets its bound after the accept; these rules see the SYN as well. FRR and BIRD mark their packets as network
			// control, too.
			rules := "table ip near { chain in { type filter hook input priority 0; tcp dport 179 ip ttl != 255 drop; tcp dport 179 ip dscp != cs6 drop; }; }"
			if ipv6 {
				config = strings.ReplaceAll(config, "$S4", "$S6")
				rules = strings.NewReplacer("table ip ", "table ip6 ", "ip ttl", "ip6 hoplimit", "ip dscp", "ip6 dscp").Replace(rules)
			}
			r := newRouter(t, config)
			r.nft(rules)
			peer := r.peer()
			peer.PeerASN, peer.Dynamic = 0, bgp.External
			if ipv6 {
				peer.Address = r.router6
			}
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
			r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
		}
	}
}

func (r *frr) nft(rules string) {
	r.t.Helper()
	nettest.Run(r.t, "nsenter", "--net=/run/netns/"+r.ns, "--", "nft", rules)
}

func TestSourceAddressRouterIDAndTimers(t *testing.T) {
	r := newRouter(t, strings.ReplaceAll(bothFamilies, "$S4", "10.99.0.1"))
	nettest.Run(t, "ip", "addr", "add", "10.99.0.1/32", "dev", r.link)
	r.namespace.IP(t, "route add 10.99.0.1/32 dev up")
	r.configure("router bgp 64513", "neighbor 10.99.0.1 disable-connected-check")
	source := netip.MustParseAddr("10.99.0.1")
	peer := r.peer()
	peer.SourceAddress, peer.RouterID = source, netip.MustParseAddr("10.0.0.1")
	peer.HoldTime, peer.KeepaliveTime = 9*time.Second, 3*time.Second
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer})
	awaitState(t, s, "tor1", bgp.Established)
	eventually(t, "the router's view (-want +got)", func() string {
		got := r.neighbor(source)
		want := neighbor{
			BGPState: "Established", RemoteRouterID: "10.0.0.1", HostLocal: r.router4.String(),
			HostForeign: "10.99.0.1", HoldTime: 9000, KeepAlive: 3000,
		}
		got.MessageStats.UpdatesRecv, got.LastResetDueTo = 0, ""
		return cmp.Diff(want, got)
	})
}

// TestHoldTime stops the router without closing the connection, which only the hold timer notices.
func TestHoldTime(t *testing.T) {
	r := newRouter(t, bothFamilies)
	peer := r.peer()
	peer.HoldTime = 3 * time.Second
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	awaitState(t, s, "tor1", bgp.Established)
	r.signalBGP(syscall.SIGSTOP)
	state := await(t, s, "tor1", "a loss", func(state bgp.SessionState) bool { return state.State != bgp.Established })
	if !strings.Contains(state.LastError, "hold timer expired") {
		t.Errorf("The loss has no good reason: %+v", state)
	}
	r.signalBGP(syscall.SIGCONT)
	awaitState(t, s, "tor1", bgp.Established)
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
}

// TestZeroHoldTime follows a router that wants no KEEPALIVEs (RFC 4271 §4.2).
func TestZeroHoldTime(t *testing.T) {
	r := newRouter(t, withNeighbor("timers 0 0"))
	peer := r.peer()
	peer.HoldTime = 3 * time.Second
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	since := awaitState(t, s, "tor1", bgp.Established).Since
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
	if n := r.neighbor(r.speaker4); n.HoldTime != 0 || n.KeepAlive != 0 {
		t.Errorf("The router counts on KEEPALIVEs: %+v", n)
	}
	eventually(t, "twice our own hold time to pass", func() string {
		if time.Since(since) < 2*peer.HoldTime {
			return "not yet"
		}
		return ""
	})
	if state := awaitState(t, s, "tor1", bgp.Established); state.Since != since {
		t.Errorf("The session was lost in silence: %+v", state)
	}
}

// TestNothingIsLearned has a router announce a prefix of ours back to us.
func TestNothingIsLearned(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
	r.configure("router bgp 64513", "no bgp network import-check", "address-family ipv4 unicast",
		"network 198.51.100.200/32", "network 203.0.113.0/24")
	eventually(t, "the router to announce its own", func() string {
		var routes struct{ TotalPrefixCounter int }
		r.show(&routes, "bgp ipv4 unicast neighbors "+r.speaker4.String()+" advertised-routes")
		return cmp.Diff(2, routes.TotalPrefixCounter)
	})
	set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
	eventually(t, "our own to be all we announce", func() string {
		var ours []string
		for prefix, paths := range r.rib() {
			for _, p := range paths {
				if p.Peer.RouterID == "192.0.2.254" {
					ours = append(ours, prefix)
				}
			}
		}
		slices.Sort(ours)
		return cmp.Diff([]string{"198.51.100.200/32", "2001:db8:51::1000/128"}, ours)
	})
}

func TestRouterRestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
		want   string
	}{
		{"in order", syscall.SIGTERM, "received NOTIFICATION"},
		{"out of the blue", syscall.SIGKILL, "connection was closed or reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t, bothFamilies)
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
			want := map[string][]path{
				"198.51.100.200/32":     {external(r.speaker4)},
				"2001:db8:51::1000/128": {external(r.speaker6)},
			}
			r.wantRIB(want)
			r.stopBGP(tt.signal)
			state := await(t, s, "tor1", "a loss", func(state bgp.SessionState) bool { return state.State != bgp.Established })
			if !strings.Contains(state.LastError, tt.want) {
				t.Errorf("The loss has the reason %q, want %q", state.LastError, tt.want)
			}
			r.startBGP()
			began := time.Now()
			r.wantRIB(want)
			t.Logf("Everything was announced again %v after the router had come back", time.Since(began))
		})
	}
}

// keeps waits until the router has paths of a peer that is away, for a peer that comes back.
func (r *frr) keeps(want map[string][]path) {
	r.t.Helper()
	stale := map[string][]path{}
	for prefix, paths := range want {
		kept := paths[0]
		kept.Stale, kept.Peer.RouterID = true, ""
		stale[prefix] = []path{kept}
	}
	eventually(r.t, "the routes to be kept (-want +got)", func() string {
		got := r.rib()
		for _, paths := range got { // FRR forgets the router ID of a peer that is away, sooner or later.
			for i := range paths {
				paths[i].Peer.RouterID = ""
			}
		}
		return cmp.Diff(stale, got)
	})
}

// TestHandOver: the router keeps the routes of a session that another program on the node is to have, and takes them out when the session just ends.
func TestHandOver(t *testing.T) {
	r := newRouter(t, strings.Replace(bothFamilies, "router bgp 64513", "router bgp 64513\n bgp graceful-restart", 1))
	peer := r.peer()
	peer.GracefulRestart.Enabled = true
	session := bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}}
	want := map[string][]path{"198.51.100.200/32": {external(r.speaker4)}, "2001:db8:51::1000/128": {external(r.speaker6)}}
	s := newSpeaker(t)
	set(t, s, session)
	r.wantRIB(want)
	s.HandOver(t.Context(), []string{"tor2", "tor1"})
	if states := s.States(); len(states) != 0 {
		t.Errorf("there is still %+v", states)
	}
	set(t, s)
	r.keeps(want)
	other := newSpeaker(t)
	set(t, other, session)
	r.wantRIB(want)
	set(t, other)
	r.wantRIB(map[string][]path{})
}

// TestClose tells a stop, which takes every route back at once, from a restart, through which the router keeps them.
func TestClose(t *testing.T) {
	config := strings.Replace(bothFamilies, "router bgp 64513", "router bgp 64513\n bgp graceful-restart", 1)
	r := newRouter(t, config)
	peer := r.peer()
	peer.GracefulRestart.Enabled = true
	session := bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}}
	want := map[string][]path{
		"198.51.100.200/32":     {external(r.speaker4)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
	}
	log := "/run/frr/" + r.ns + "/bgpd.log"
	s := newSpeaker(t)
	set(t, s, session)
	r.wantRIB(want)
	r.configure("log file "+log, "debug bgp updates in", "debug bgp zebra")

	s.Close(context.Background(), bgp.Restart)
	r.keeps(want)
	s = newSpeaker(t)
	set(t, s, session)
	r.wantRIB(want)
	// Without both bits a router deletes the routes when the session is back, and adds them again a moment later.
	if gr := r.neighbor(r.speaker4).GracefulRestart; !gr.RBit || !gr.IPv4Unicast.FBit || !gr.IPv6Unicast.FBit {
		t.Errorf("The OPEN after the restart does not tell of it: %+v", gr)
	}
	if text, err := os.ReadFile(log); err != nil || strings.Contains(string(text), "Tx route delete") {
		t.Errorf("The restart took routes out of the router's kernel table: %v\n%s", err, text)
	}

	s.Close(context.Background(), bgp.Withdraw)
	r.wantRIB(map[string][]path{})
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "withdrawn") {
		t.Errorf("The stop did not withdraw the routes in so many words: %v\n%s", err, text)
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "Tx route delete") {
		t.Errorf("The stop left routes in the router's kernel table: %v\n%s", err, text)
	}
	if err := s.Set(context.Background(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Set after Close = %v, want %v", err, ErrClosed)
	}
}

// TestReset: a connection that breaks is no restart, but the node has forwarded on. The router keeps the routes in its kernel until the session
// is back, those by RFC 8950 too, and takes out the one that has gone meanwhile.
func TestReset(t *testing.T) {
	config := strings.Replace(bothFamilies, "router bgp 64513", "router bgp 64513\n bgp graceful-restart", 1)
	r := newRouter(t, strings.ReplaceAll(strings.Replace(config, "remote-as 64512",
		"remote-as 64512\n neighbor $S4 capability extended-nexthop", 1), "$S4", "$S6"))
	peer := r.peer()
	peer.Address, peer.SourceAddress, peer.GracefulRestart.Enabled = r.router6, r.speaker6, true
	overIPv6 := bgp.Route{Prefix: netip.MustParsePrefix("198.51.100.201/32"), NextHop: r.speaker6}
	routes := []bgp.Route{r.route("198.51.100.200/32"), overIPv6, r.route("2001:db8:51::1000/128"), r.route("2001:db8:51::1001/128")}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	want := map[string][]path{
		"198.51.100.200/32":     {external(r.speaker4)},
		"198.51.100.201/32":     {external(r.speaker6)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
		"2001:db8:51::1001/128": {external(r.speaker6)},
	}
	r.wantRIB(want)
	log := "/run/frr/" + r.ns + "/bgpd.log"
	r.configure("log file "+log, "debug bgp zebra")

	since := awaitState(t, s, "tor1", bgp.Established).Since
	session := s.sessions["tor1"]
	session.mu.Lock()
	conn := session.conn.(*net.TCPConn)
	session.mu.Unlock()
	_ = conn.SetLinger(0) // what the kernel sends is a reset
	conn.Close()
	set(t, s, bgp.Session{Peer: peer, Routes: routes[:3]})
	await(t, s, "tor1", "the next session", func(state bgp.SessionState) bool {
		return state.State == bgp.Established && state.Since.After(since)
	})
	delete(want, "2001:db8:51::1001/128")
	r.wantRIB(want)
	if gr := r.neighbor(r.speaker6).GracefulRestart; gr.RBit || !gr.IPv4Unicast.FBit || !gr.IPv6Unicast.FBit {
		t.Errorf("The OPEN after the reset says %+v", gr)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var deleted []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "Tx route delete") {
			deleted = append(deleted, line)
		}
	}
	if len(deleted) != 1 || !strings.Contains(deleted[0], "2001:db8:51::1001/128") {
		t.Errorf("The router took these out of its kernel table, want 2001:db8:51::1001/128 alone:\n%s", strings.Join(deleted, ""))
	}
}

func TestDynamicASN(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	peer := r.peer()
	peer.PeerASN, peer.Dynamic = 0, bgp.External
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
	if state := awaitState(t, s, "tor1", bgp.Established); state.RemoteASN != 64513 {
		t.Errorf("The peer's AS is %d, want 64513", state.RemoteASN)
	}

	r.configure("router bgp 64513", "neighbor $S4 remote-as 64513")
	peer.LocalASN = 64513
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	await(t, s, "tor1", "the refusal", func(state bgp.SessionState) bool {
		return state.State == bgp.Idle && strings.Contains(state.LastError, "the peer is in our own AS 64513")
	})
	r.wantRIB(map[string][]path{})
	peer.Dynamic = bgp.Internal
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	awaitState(t, s, "tor1", bgp.Established)
}

func TestWrongASNumbersAreReported(t *testing.T) {
	for _, tt := range []struct {
		name       string
		ours, peer uint32
		want       string
	}{
		{"the peer's number is another", 64512, 64999, "sent NOTIFICATION code 2(open) subcode 2(bad peer as)"},
		{"the peer expects another number of ours", 64999, 64513, "AS number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t, bothFamilies)
			peer := r.peer()
			peer.LocalASN, peer.PeerASN = tt.ours, tt.peer
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: peer})
			await(t, s, "tor1", tt.want, func(state bgp.SessionState) bool { return strings.Contains(state.LastError, tt.want) })
		})
	}
}

// TestSetServesTheOthers shows that one bad declaration changes nothing for the other peers, and leaves the session that it was to
// change as it is.
func TestSetServesTheOthers(t *testing.T) {
	r := newRouter(t, bothFamilies)
	good, bad := r.peer(), r.peer()
	bad.Name, bad.RouterID, bad.Port = "broken", netip.Addr{}, 1790
	again := good
	again.Name = "again"
	s := newSpeaker(t)
	err := s.Set(context.Background(), withDefaults([]bgp.Session{
		{Peer: bad},
		{Peer: good, Routes: []bgp.Route{
			{Prefix: netip.MustParsePrefix("2001:db8:51::1000/128"), NextHop: r.speaker4},
			r.route("198.51.100.200/32"),
		}},
		{Peer: again},
		{Peer: good},
	}))
	want := `peer "broken": routerID: invalid IP is not a unicast IPv4 address
peer "again": peerAddress: ` + r.router4.String() + ` is that of peer "tor1", and a router keeps one session ` +
		`with each address of ours: merge the two or give one a sourceAddress
peer "tor1": declared twice
peer "tor1": prefix 2001:db8:51::1000/128: an IPv6 prefix needs an IPv6 next hop, not ` + r.speaker4.String()
	if err == nil || err.Error() != want {
		t.Errorf("Set() = %v, want %s", err, want)
	}
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})

	worse := good
	worse.HoldTime = time.Second
	if err := s.Set(context.Background(), withDefaults([]bgp.Session{{Peer: worse}})); err == nil {
		t.Error("A hold time of 1s was accepted")
	}
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}})
}

// TestSamePeerTwice: a second declaration of a router that has a session changes nothing for the session that runs: it goes on to be
// told what to announce.
func TestSamePeerTwice(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	first, second := r.peer(), r.peer()
	second.Name = "tor0" // before tor1 in the order of names
	set(t, s, bgp.Session{Peer: first, Routes: []bgp.Route{r.route("198.51.100.200/32"), r.route("198.51.100.201/32")}})
	since := awaitState(t, s, "tor1", bgp.Established).Since
	r.wantRIB(map[string][]path{"198.51.100.200/32": {external(r.speaker4)}, "198.51.100.201/32": {external(r.speaker4)}})

	// The Service of .200 is deleted, and one with .202 is created.
	routes := []bgp.Route{r.route("198.51.100.201/32"), r.route("198.51.100.202/32")}
	err := s.Set(context.Background(), withDefaults([]bgp.Session{{Peer: second, Routes: routes}, {Peer: first, Routes: routes}}))
	if err == nil || !strings.Contains(err.Error(), `peer "tor0": peerAddress: `+r.router4.String()+` is that of peer "tor1"`) {
		t.Errorf("Set() = %v, want a refusal of tor0", err)
	}
	r.wantRIB(map[string][]path{"198.51.100.201/32": {external(r.speaker4)}, "198.51.100.202/32": {external(r.speaker4)}})
	if states := s.States(); len(states) != 1 || states[0].Since != since {
		t.Errorf("The session was disturbed: %+v", states)
	}
}

// TestEditedIntoAnother: a peer that takes the address of another has no session, and leaves no routes at the router it had.
func TestEditedIntoAnother(t *testing.T) {
	r1, r2 := newRouter(t, bothFamilies), newRouter(t, bothFamilies)
	p1, p2 := r1.peer(), r2.peer()
	p2.Name = "tor2"
	s := newSpeaker(t)
	one := bgp.Session{Peer: p1, Routes: []bgp.Route{r1.route("198.51.100.200/32")}}
	set(t, s, one, bgp.Session{Peer: p2, Routes: []bgp.Route{r2.route("198.51.100.200/32")}})
	r2.wantRIB(map[string][]path{"198.51.100.200/32": {external(r2.speaker4)}})
	p2.Address = p1.Address
	if err := s.Set(context.Background(), withDefaults([]bgp.Session{one, {Peer: p2}})); err == nil {
		t.Error("tor2 was accepted")
	}
	r2.wantRIB(map[string][]path{})
	r1.wantRIB(map[string][]path{"198.51.100.200/32": {external(r1.speaker4)}})
}

// TestEditsThatNeedNoNewSession changes fields on which neither an OPEN message nor a connection depends.
func TestEditsThatNeedNoNewSession(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	peer := r.peer()
	routes := []bgp.Route{r.route("198.51.100.200/32")}
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	since := awaitState(t, s, "tor1", bgp.Established).Since
	for _, tt := range []struct {
		name string
		edit func(*bgp.Peer)
	}{
		{"another connect time", func(p *bgp.Peer) { p.ConnectTime = 30 * time.Second }},
		{"the families in another order", func(p *bgp.Peer) { p.Families = []family.Family{family.IPv6, family.IPv4} }},
		{"graceful restart turned off, which it is", func(p *bgp.Peer) { p.GracefulRestart.RestartTime = 2 * time.Minute }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edited := peer
			tt.edit(&edited)
			set(t, s, bgp.Session{Peer: edited, Routes: routes})
			state := awaitState(t, s, "tor1", bgp.Established)
			if state.Since != since {
				t.Error("the session was restarted")
				since = state.Since
			}
			set(t, s, bgp.Session{Peer: peer, Routes: routes})
			since = awaitState(t, s, "tor1", bgp.Established).Since
		})
	}
}

// TestWellKnownCommunities: routes that bear a well-known community are sent, and none of them is kept back.
func TestWellKnownCommunities(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	var routes []bgp.Route
	for i, name := range slices.Sorted(maps.Keys(bgp.WellKnownCommunities)) {
		route := r.route(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32).String())
		route.Communities = []bgp.Community{bgp.WellKnownCommunities[name]}
		routes = append(routes, route)
	}
	set(t, s, bgp.Session{Peer: r.peer(), Routes: routes})
	eventually(t, "every route", func() string {
		rib := r.rib()
		for _, route := range routes {
			if _, ok := rib[route.Prefix.String()]; !ok {
				return route.Communities[0].String()
			}
		}
		return ""
	})
}

func TestMetrics(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{
		r.route("198.51.100.200/32"), r.route("198.51.100.201/32"), r.route("2001:db8:51::1000/128"),
	}})
	awaitState(t, s, "tor1", bgp.Established)
	r.wantRIB(map[string][]path{
		"198.51.100.200/32":     {external(r.speaker4)},
		"198.51.100.201/32":     {external(r.speaker4)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
	})
	want := map[string]float64{
		"tandem_bgp_session_established_total tor1": 1,
		"tandem_bgp_updates_sent_total tor1":        2,
	}
	if diff := cmp.Diff(want, gather(t, registry)); diff != "" {
		t.Errorf("Unexpected metrics (-want +got):\n%s", diff)
	}
	set(t, s)
	if diff := cmp.Diff(map[string]float64{}, gather(t, registry)); diff != "" {
		t.Errorf("The metrics of a removed peer remain (-want +got):\n%s", diff)
	}
}

func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, metric := range families {
		for _, m := range metric.GetMetric() {
			name := metric.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// TestSessionsLeaveNothingBehind starts and stops sessions in every state a stop can find them in.
func TestSessionsLeaveNothingBehind(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	connecting := r.peer()
	connecting.Name, connecting.Address = "nobody", netip.MustParseAddr("10.77.255.1")
	cycle := func() {
		set(t, s, bgp.Session{Peer: r.peer(), Routes: []bgp.Route{r.route("198.51.100.200/32")}}, bgp.Session{Peer: connecting})
	}
	// The first round starts what the libraries keep for good.
	cycle()
	awaitState(t, s, "tor1", bgp.Established)
	set(t, s)
	settled := func(limit int) func() string {
		return func() string {
			if n := runtime.NumGoroutine(); n > limit {
				stacks := make([]byte, 1<<20)
				return string(stacks[:runtime.Stack(stacks, true)])
			}
			return ""
		}
	}
	before := runtime.NumGoroutine()
	for i := range 50 {
		cycle()
		if i%25 == 0 {
			awaitState(t, s, "tor1", bgp.Established)
		}
		set(t, s)
	}
	eventually(t, "the goroutines to end", settled(before))
}
