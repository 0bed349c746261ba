// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

func TestWithNextHops(t *testing.T) {
	both := []family.Family{family.IPv4, family.IPv6}
	for _, tt := range []struct {
		name      string
		prefixes  []netip.Prefix
		families  []family.Family
		own       []string // this node's addresses on the peer's link
		want      []string
		wantError string
	}{
		{
			name:     "each family goes to the node's address of that family",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: both, own: []string{own4, own6},
			want: []string{v4 + "/32 nextHop=" + own4, v6 + "/128 nextHop=" + own6},
		},
		{
			name:     "an IPv4 prefix goes to an IPv6 address on a link without IPv4 (RFC 8950)",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: both, own: []string{own6},
			want: []string{v4 + "/32 nextHop=" + own6, v6 + "/128 nextHop=" + own6},
		},
		{
			name:     "an IPv6 prefix is left out on a link without IPv6",
			prefixes: prefixes(v4+"/32", v6+"/128", other6+"/128"), families: both, own: []string{own4},
			want:      []string{v4 + "/32 nextHop=" + own4},
			wantError: "2 IPv6 prefixes are not announced: this node has no IPv6 address on the peer's link",
		},
		{
			name:     "both families are left out, in order, on a link without any address",
			prefixes: prefixes(v6+"/128", v4+"/32"), families: both,
			wantError: "1 IPv4 prefixes are not announced: this node has no IPv4 address on the peer's link\n" +
				"1 IPv6 prefixes are not announced: this node has no IPv6 address on the peer's link",
		},
		{
			name:     "the node needs no next hop of a family that the session does not carry",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: []family.Family{family.IPv4}, own: []string{own4},
			want: []string{v4 + "/32 nextHop=" + own4},
		},
		{name: "nothing to announce needs no address", families: both},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var routes []bgp.Route
			for _, p := range tt.prefixes {
				routes = append(routes, bgp.Route{Prefix: p})
			}
			filled, missing := withNextHops(routes, tt.families, addresses(tt.own...))
			err := sayMissing(missing)
			var got []string
			for _, route := range filled {
				got = append(got, sayRoute(route))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if (err == nil) != (tt.wantError == "") || err != nil && err.Error() != tt.wantError {
				t.Errorf("error %v, want %q", err, tt.wantError)
			}
		})
	}
}

func TestBFDSessionOn(t *testing.T) {
	addr := netip.MustParseAddr
	external := bgp.Peer{Name: "tor1", LocalASN: 64512, PeerASN: 64513, Address: addr("192.0.2.1")}
	internal := bgp.Peer{Name: "tor1", LocalASN: 64512, PeerASN: 64512, Address: addr("192.0.2.1")}
	onLink := link.Path{Source: addr("192.0.2.11"), OnLink: true}
	far := link.Path{Source: addr("198.51.100.11")}
	params := bfd.Params{Receive: 300 * time.Millisecond, Transmit: 300 * time.Millisecond, Multiplier: 3}
	with := func(peer bgp.Peer, edit func(*bgp.Peer)) bgp.Peer {
		edit(&peer)
		return peer
	}
	for _, tt := range []struct {
		name    string
		peer    bgp.Peer
		path    link.Path
		profile config.BFD
		want    bfd.Session
	}{
		{
			name: "an external peer is on the link", peer: external, path: onLink,
			want: bfd.Session{Local: onLink.Source, Params: params},
		},
		{
			name: "an external peer is on the link, whatever the way to it", peer: external, path: far,
			want: bfd.Session{Local: far.Source, Params: params},
		},
		{
			name: "an external peer several hops away", peer: with(external, func(p *bgp.Peer) { p.EBGPMultiHop = true }), path: far,
			want: bfd.Session{Local: far.Source, Multihop: true, Params: params},
		},
		{
			name: "an external peer with TTL security over two hops", peer: with(external, func(p *bgp.Peer) { p.TTLSecurityHops = 2 }), path: far,
			want: bfd.Session{Local: far.Source, Multihop: true, Params: params},
		},
		{
			name: "an external peer with TTL security on the link", peer: with(external, func(p *bgp.Peer) { p.TTLSecurityHops = 1 }), path: onLink,
			want: bfd.Session{Local: onLink.Source, Params: params},
		},
		{
			name: "an internal peer on the link", peer: internal, path: onLink,
			want: bfd.Session{Local: onLink.Source, Params: params},
		},
		{
			name: "an internal peer behind a router", peer: internal, path: far,
			want: bfd.Session{Local: far.Source, Multihop: true, Params: params},
		},
		{
			name: "a peer of a dynamic internal session behind a router",
			peer: with(internal, func(p *bgp.Peer) { p.PeerASN, p.Dynamic = 0, bgp.Internal }), path: far,
			want: bfd.Session{Local: far.Source, Multihop: true, Params: params},
		},
		{
			name: "a source address and a profile", peer: with(external, func(p *bgp.Peer) { p.SourceAddress = addr("203.0.113.1") }), path: onLink,
			profile: config.BFD{
				MinimumTTL: 250, Params: bfd.Params{Receive: time.Second, Transmit: 2 * time.Second, Multiplier: 5, Passive: true},
			},
			want: bfd.Session{
				Local: addr("203.0.113.1"), MinimumTTL: 250,
				Params: bfd.Params{Receive: time.Second, Transmit: 2 * time.Second, Multiplier: 5, Passive: true},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Name, tt.want.Remote = "tor1", tt.peer.Address
			if tt.want.MinimumTTL == 0 {
				tt.want.MinimumTTL, tt.profile = 254, config.BFD{Params: params, MinimumTTL: 254}
			}
			if got := bfdSessionOn(tt.path, tt.peer, &tt.profile); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestSessions has one peer of node1, two Services to announce to it, and one thing after the other that a node fills in, or lacks.
func TestSessions(t *testing.T) {
	addr := netip.MustParseAddr
	gone := errors.New("looking up the route to 198.51.100.1: network is unreachable")
	watched := &config.BFD{Params: bfd.Params{Receive: time.Second, Transmit: time.Second, Multiplier: 3}, MinimumTTL: 254}
	path := func(s *Snapshot, change func(*link.Path)) {
		to := link.Destination{Address: addr("198.51.100.1")}
		p := s.Paths[to]
		change(&p)
		s.Paths[to] = p
	}
	const (
		prefix4, prefix6 = v4 + "/32", v6 + "/128"
		usual            = "tor at 198.51.100.1 routerID=198.51.100.11"
		hop4, hop6       = " " + prefix4 + " nextHop=" + own4, " " + prefix6 + " nextHop=" + own6
	)
	for _, tt := range []struct {
		name        string
		change      func(s *Snapshot, peer *config.Peer)
		want        string // the session, "" for none
		wantBFD     string
		wantProblem string
		wantDoubt   string
	}{
		{name: "both families to the node's own addresses", change: func(*Snapshot, *config.Peer) {}, want: usual + hop4 + hop6},
		{
			name:   "a peer that does not select the node has no session",
			change: func(_ *Snapshot, p *config.Peer) { p.Nodes = selectors("name=node2") },
		},
		{
			name:   "the peer's router ID goes before the node's",
			change: func(_ *Snapshot, p *config.Peer) { p.Peer.RouterID = addr("10.0.0.1") },
			want:   "tor at 198.51.100.1 routerID=10.0.0.1" + hop4 + hop6,
		},
		{
			name: "the identifier of the process goes before the node's", change: func(s *Snapshot, _ *config.Peer) { s.RouterID = addr("10.0.0.9") },
			want: "tor at 198.51.100.1 routerID=10.0.0.9" + hop4 + hop6,
		},
		{
			name: "annotations of the Node go before everything",
			change: func(s *Snapshot, p *config.Peer) {
				s.RouterID, p.Peer.RouterID = addr("10.0.0.9"), addr("10.0.0.1")
				changeNode(s, "node1", func(n *Node) {
					n.BGP = Overrides{RouterID: addr("10.0.0.2"), Sources: addresses("203.0.113.7", "2001:db8::7")}
				})
			},
			want: "tor at 198.51.100.1 routerID=10.0.0.2 " + prefix4 + " nextHop=203.0.113.7" + hop6,
		},
		{
			name: "a password that was there before keeps the session",
			change: func(s *Snapshot, p *config.Peer) {
				p.PasswordSecret = &config.SecretKey{Secret: "tor-auth", Key: "password"}
				s.Password = func(config.SecretKey) (bgp.Password, error) {
					return "before", errors.New("there is no Secret tandem-system/tor-auth")
				}
			},
			want: usual + " password=before" + hop4 + hop6, wantProblem: "spec.passwordSecret: there is no Secret tandem-system/tor-auth",
		},
		{
			name: "an external peer behind a router",
			change: func(s *Snapshot, p *config.Peer) {
				path(s, func(p *link.Path) { p.OnLink = false })
			},
			want:      usual + hop4 + hop6,
			wantDoubt: "the peer is behind a router: set spec.ebgpMultiHop, and allow several hops on the peer too",
		},
		{
			name: "an external peer behind a router that may be there, from a host whose addresses are on lo",
			change: func(s *Snapshot, p *config.Peer) {
				p.Peer.EBGPMultiHop = true
				path(s, func(p *link.Path) { p.OnLink, p.Addresses = false, nil })
				changeNode(s, "node1", func(n *Node) { n.InternalIPs = addresses("10.1.1.11", "2001:db8:1::11") })
			},
			want: usual + " " + prefix4 + " nextHop=10.1.1.11 " + prefix6 + " nextHop=2001:db8:1::11",
		},
		{
			name: "an internal peer of a host whose addresses are on lo",
			change: func(s *Snapshot, p *config.Peer) {
				p.Peer.PeerASN = p.Peer.LocalASN
				path(s, func(p *link.Path) { p.Addresses = nil })
				changeNode(s, "node1", func(n *Node) { n.InternalIPs = addresses("10.1.1.11") })
			},
			want:        usual + " " + prefix4 + " nextHop=10.1.1.11",
			wantProblem: "1 IPv6 prefixes are not announced: this node has no IPv6 address on the peer's link",
		},
		{
			name:   "the node itself is no peer",
			change: func(s *Snapshot, p *config.Peer) { path(s, func(p *link.Path) { p.Own = true }) },
			wantProblem: "spec.peerAddress: 198.51.100.1 is this node, and a router there takes no next hop that is its own; " +
				"have it redistribute an InterfaceAdvertisement, and leave this node out of nodeSelectors",
		},
		{
			name:        "kube-proxy does not forward yet",
			change:      func(s *Snapshot, _ *config.Peer) { s.NotForwarding = true },
			wantProblem: "kube-proxy of this node does not forward yet",
		},
		{
			name: "a node without IPv4 derives its router ID from its name",
			change: func(s *Snapshot, _ *config.Peer) {
				changeNode(s, "node1", func(n *Node) { n.RouterID = netip.Addr{} })
			},
			want: "tor at 198.51.100.1 routerID=" + bgp.RouterID("node1").String() + hop4 + hop6,
		},
		{
			name:   "a node that is deleted keeps its sessions, and withdraws everything",
			change: func(s *Snapshot, _ *config.Peer) { delete(s.Nodes, "node1") },
			want:   "tor at 198.51.100.1 routerID=" + bgp.RouterID("node1").String(),
		},
		{
			name: "a password",
			change: func(s *Snapshot, p *config.Peer) {
				p.PasswordSecret = &config.SecretKey{Secret: "tor-auth", Key: "password"}
				s.Password = func(key config.SecretKey) (bgp.Password, error) { return bgp.Password(key.Secret + "/" + key.Key), nil }
			},
			want: usual + " password=tor-auth/password" + hop4 + hop6,
		},
		{
			name: "a password that is not there opens no session",
			change: func(s *Snapshot, p *config.Peer) {
				p.PasswordSecret = &config.SecretKey{Secret: "tor-auth", Key: "password"}
				s.Password = func(config.SecretKey) (bgp.Password, error) {
					return "", errors.New("there is no Secret tandem-system/tor-auth")
				}
			},
			wantProblem: "spec.passwordSecret: there is no Secret tandem-system/tor-auth",
		},
		{
			name: "a password that no kernel takes opens no session",
			change: func(s *Snapshot, p *config.Peer) {
				p.PasswordSecret = &config.SecretKey{Secret: "tor-auth", Key: "password"}
				s.Password = func(config.SecretKey) (bgp.Password, error) { return bgp.Password(strings.Repeat("x", 81)), nil }
			},
			wantProblem: "password: 81 bytes are more than the 80 of a TCP MD5 key",
		},
		{
			name:   "a source address is where traffic is to go",
			change: func(_ *Snapshot, p *config.Peer) { p.Peer.SourceAddress = addr("203.0.113.7") },
			want:   usual + " " + prefix4 + " nextHop=203.0.113.7" + hop6,
		},
		{
			name: "a link-local source address is no next hop",
			change: func(_ *Snapshot, p *config.Peer) {
				p.Peer.Address, p.Peer.SourceAddress = addr("fe80::1%eth0"), addr("fe80::11%eth0")
			},
			want: "tor at fe80::1%eth0 routerID=198.51.100.11",
			wantProblem: "1 IPv4 prefixes are not announced: this node has no IPv4 address on the peer's link\n" +
				"1 IPv6 prefixes are not announced: this node has no IPv6 address on the peer's link",
		},
		{
			name: "a route that is gone leaves the next hops that the peer was told",
			change: func(s *Snapshot, _ *config.Peer) {
				path(s, func(p *link.Path) { p.Err = gone })
			},
			want: usual + hop4 + hop6, wantProblem: "no route to the peer: " + gone.Error(),
		},
		{
			name: "a route that never was leaves a session without prefixes",
			change: func(s *Snapshot, p *config.Peer) {
				path(s, func(p *link.Path) { *p = link.Path{Err: gone} })
			},
			want: usual, wantProblem: "no route to the peer: " + gone.Error(),
		},
		{
			name:   "a peer with BFD is watched from the path's source",
			change: func(_ *Snapshot, p *config.Peer) { p.BFD = watched },
			want:   usual + hop4 + hop6, wantBFD: own4 + " to 198.51.100.1",
		},
		{
			name: "a route that is gone leaves the BFD session, which finds the peer dead",
			change: func(s *Snapshot, p *config.Peer) {
				p.BFD = watched
				path(s, func(p *link.Path) { p.Err = gone })
			},
			want: usual + hop4 + hop6, wantBFD: own4 + " to 198.51.100.1", wantProblem: "no route to the peer: " + gone.Error(),
		},
		{
			name: "a route that never was gives no BFD session",
			change: func(s *Snapshot, p *config.Peer) {
				p.BFD = watched
				path(s, func(p *link.Path) { *p = link.Path{Err: gone} })
			},
			want: usual, wantProblem: "no BFD: " + gone.Error(),
		},
		{
			name: "an interface without an address to send from gives no BFD session",
			change: func(s *Snapshot, p *config.Peer) {
				p.BFD = watched
				path(s, func(p *link.Path) { p.Source = netip.Addr{} })
			},
			want: usual + hop4 + hop6, wantProblem: "no BFD: interface eth0 has no address to send from",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(service("web", v4, v6)).from("node1")
			changeNode(s, "node1", func(n *Node) { n.RouterID = addr("198.51.100.11") })
			peer := tor("tor")
			tt.change(s, &peer)
			s.Config.Peers, s.Config.BGP = []config.Peer{peer}, []config.BGPAdvertisement{toAll("all")}
			d := Decide(s)
			var got, gotBFD string
			for _, session := range d.BGP {
				got += fmt.Sprintf("%s at %s routerID=%s", session.Peer.Name, session.Peer.Address, session.Peer.RouterID)
				if session.Peer.Password != "" {
					got += " password=" + string(session.Peer.Password)
				}
				for _, route := range session.Routes {
					got += " " + sayRoute(route)
				}
			}
			for _, session := range d.BFD {
				gotBFD += fmt.Sprintf("%s to %s", session.Local, session.Remote)
			}
			if d.Doubts["tor"] != tt.wantDoubt || len(d.Doubts) > 1 {
				t.Errorf("doubts %q, want %q", d.Doubts, tt.wantDoubt)
			}
			if got != tt.want || gotBFD != tt.wantBFD || d.Problems["tor"] != tt.wantProblem || len(d.Problems) > 1 {
				t.Errorf("session %q, BFD %q, problem %q\nwant    %q, BFD %q, problem %q", got, gotBFD, d.Problems, tt.want, tt.wantBFD, tt.wantProblem)
			}
		})
	}
}

func TestDestinations(t *testing.T) {
	here, there, both, bound, gateway, lost := tor("here"), tor("there"), tor("both"), tor("bound"), tor("gateway"), tor("lost")
	router, none := tor("router"), tor("none")
	for name, peer := range map[string]*config.Peer{"eth1": &router, "eth2": &none} {
		peer.Peer.Address, peer.Peer.Unnumbered, peer.Peer.Interface = netip.Addr{}, true, name
	}
	here.Nodes, there.Nodes = selectors("name=node1"), selectors("name=node2")
	both.Peer.Address, both.Peer.Interface = netip.MustParseAddr("fe80::1%eth0"), "eth0"
	bound.Peer.Address, bound.Peer.Interface = netip.MustParseAddr("169.254.0.1"), "eth1"
	for _, p := range []*config.Peer{&gateway, &lost} {
		p.Gateway, p.Peer.Address = family.IPv4, netip.Addr{}
	}
	s := &Snapshot{
		Node: "node1", Nodes: map[string]Node{"node1": {Labels: map[string]string{"name": "node1"}}},
		Config:    config.Config{Peers: []config.Peer{both, bound, gateway, here, lost, none, router, there}},
		Neighbors: map[string]Neighbor{"eth1": {Address: netip.MustParseAddr("fe80::9%eth1")}, "eth2": {Err: errors.New("nobody")}},
		Ends:      map[string]End{"gateway": {Address: netip.MustParseAddr("198.51.100.254")}},
	}
	want := []link.Destination{
		{Address: both.Peer.Address},
		{Address: bound.Peer.Address, Interface: "eth1"},
		{Address: netip.MustParseAddr("198.51.100.254")},
		{Address: here.Peer.Address},
		{Address: netip.MustParseAddr("fe80::9%eth1")},
	}
	if got := Destinations(s); !slices.Equal(got, want) {
		t.Errorf("destinations %v, want %v", got, want)
	}
	if got, want := s.UnnumberedInterfaces(), []string{"eth1", "eth2"}; !slices.Equal(got, want) {
		t.Errorf("interfaces %v, want %v", got, want)
	}
}

// TestAggregates has one advertisement of lengths 28 and 120, and addresses whose prefixes reach beyond the pool, or would draw to the node what
// is not a Service's.
func TestAggregates(t *testing.T) {
	const routed, elsewhere = "192.0.2.5", "2001:db8:c::5"
	for _, tt := range []struct {
		name     string
		services []Service
		pool     []string // the ranges of the pool lan
		change   func(*Snapshot)
		want     []string
	}{
		{
			name: "prefixes inside the pool", pool: []string{"192.0.2.0/28", "2001:db8:c::/120"},
			services: []Service{service("web", routed, elsewhere)}, want: []string{"192.0.2.0/28", "2001:db8:c::/120"},
		},
		{
			name: "two ranges that are one prefix together", pool: []string{"192.0.2.0/29", "192.0.2.8-192.0.2.15"},
			services: []Service{service("web", routed)}, want: []string{"192.0.2.0/28"},
		},
		{
			name: "a prefix that reaches beyond the pool", pool: []string{"192.0.2.1-192.0.2.15"},
			services: []Service{service("web", routed)}, want: []string{routed + "/32"},
		},
		{
			name: "a prefix within a pool that was deleted", services: []Service{service("web", routed)}, want: []string{routed + "/32"},
		},
		{
			name: "a local Service is announced alone as well, and another one is not", pool: []string{"192.0.2.0/28"},
			services: []Service{
				with(service("web", routed), func(svc *Service) {
					svc.Local, svc.Endpoints = true, map[family.Family]Endpoints{family.IPv4: endpointsOn("node1")}
				}), service("mail", "192.0.2.6"),
			},
			want: []string{"192.0.2.0/28", routed + "/32"},
		},
		{
			name: "a prefix with a subnet of the node", pool: []string{"192.0.2.0/28"}, services: []Service{service("web", routed)},
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = prefixes("192.0.2.8/30") })
			},
			want: []string{routed + "/32"},
		},
		{
			name: "a prefix with a subnet of the node on a link that is down", pool: []string{"192.0.2.0/28"}, services: []Service{service("web", routed)},
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.DownSubnets = prefixes("192.0.2.8/30") })
			},
			want: []string{routed + "/32"},
		},
		{
			name: "a prefix in a subnet of the node", pool: []string{"192.0.2.0/28"}, services: []Service{service("web", routed)},
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = prefixes("192.0.2.0/24") })
			},
			want: []string{"192.0.2.0/28"},
		},
		{
			name: "a prefix with an address of another node", pool: []string{"192.0.2.0/28"}, services: []Service{service("web", routed)},
			change: func(s *Snapshot) {
				changeNode(s, "node2", func(n *Node) { n.InternalIPs = addresses("192.0.2.12") })
			},
			want: []string{routed + "/32"},
		},
		{
			name: "a prefix with the peer", pool: []string{"192.0.2.0/28"}, services: []Service{service("web", routed)},
			change: func(s *Snapshot) {
				s.Config.Peers[0].Peer.Address = netip.MustParseAddr("192.0.2.1")
				s.Paths[link.Destination{Address: netip.MustParseAddr("192.0.2.1")}] = link.Path{Addresses: addresses(own4, own6)}
			},
			want: []string{routed + "/32"},
		},
		{
			name: "one family alone", pool: []string{"192.0.2.0/28", "2001:db8:c::/120"}, services: []Service{service("web", routed, elsewhere)},
			change: func(s *Snapshot) { s.Config.BGP[0].Families = []family.Family{family.IPv6} },
			want:   []string{"2001:db8:c::/120"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(tt.services...).from("node1")
			s.Config = config.Config{
				Peers: []config.Peer{tor("tor")}, Pools: map[string]*netipx.IPSet{"lan": ranges(tt.pool...)},
				BGP: []config.BGPAdvertisement{advertise(toAll("all"), func(a *config.BGPAdvertisement) { a.LengthIPv4, a.LengthIPv6 = 28, 120 })},
			}
			if tt.pool == nil {
				s.Config.Pools = nil
			}
			if tt.change != nil {
				tt.change(s)
			}
			var got []string
			for _, route := range Decide(s).BGP[0].Routes {
				got = append(got, route.Prefix.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("prefixes (-want +got):\n%s", diff)
			}
			e := NewExplainer(s)
			for _, x := range e.Explain(tt.services[0].Name) {
				for _, prefix := range x.Prefixes {
					if x.Node == "node1" && !slices.Contains(tt.want, prefix.String()) {
						t.Errorf("Explain says that %v is announced", prefix)
					}
				}
			}
		})
	}
}

// TestLeaving has a node that is excluded: first it announces with the least preference, and then not at all.
func TestLeaving(t *testing.T) {
	s := lan(service("web", v4)).from("node1")
	s.Config = config.Config{
		Peers: []config.Peer{tor("tor")},
		BGP: []config.BGPAdvertisement{advertise(toAll("all"), func(a *config.BGPAdvertisement) {
			a.Communities, a.LocalPref, a.MED = []bgp.Community{{A: 64512, B: 1}}, new(uint32(200)), new(uint32(10))
		})},
	}
	check := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, route := range Decide(s).BGP[0].Routes {
			got = append(got, sayRoute(route))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	usual := v4 + "/32 localPref=200 med=10 64512:1 nextHop=" + own4
	check("before", usual)
	changeNode(s, "node1", func(n *Node) { n.Excluded = true })
	s.Leaving = true
	check("leaving", v4+"/32 localPref=0 med=4294967295 prepend=13 64512:1 65535:0 nextHop="+own4)
	if yielded := Yield([]bgp.Session{{Routes: []bgp.Route{{Prefix: prefixes(v4 + "/32")[0]}}}}); *yielded[0].Routes[0].MED != math.MaxUint32 {
		t.Errorf("MED %d, want the highest", *yielded[0].Routes[0].MED)
	}
	s.Leaving = false
	check("gone")
	if len(s.Config.BGP[0].Communities) != 1 {
		t.Error("the advertisement has got a community that it does not have")
	}
}

// TestFoundPeers has peers that the node finds by itself.
func TestFoundPeers(t *testing.T) {
	addr := netip.MustParseAddr
	links := &link.Snapshot{
		Interfaces: []link.Interface{
			{Name: "lo", Index: 1, Loopback: true, Addresses: []link.Address{{Prefix: netip.MustParsePrefix("10.1.1.11/32"), Permanent: true}}},
			{Name: "eth0", Index: 2, Addresses: []link.Address{{Prefix: netip.MustParsePrefix("198.51.100.11/24")}}},
			{Name: "eth1", Index: 3},
		},
		DefaultRoutes: map[family.Family][]link.DefaultRoute{
			family.IPv4: {{Index: 2, Gateway: addr("198.51.100.254")}, {Index: 3, Gateway: addr("203.0.113.1"), Metric: 100}},
			family.IPv6: {{Index: 2, Gateway: addr("fe80::1")}},
		},
	}
	for _, tt := range []struct {
		name string
		peer func(*config.Peer)
		want End
	}{
		{"the default gateway", func(p *config.Peer) { p.Gateway = family.IPv4 }, End{Address: addr("198.51.100.254")}},
		{"the default gateway of IPv6", func(p *config.Peer) { p.Gateway = family.IPv6 }, End{Address: addr("fe80::1%eth0")}},
		{
			"the gateway on another link", func(p *config.Peer) { p.Gateway, p.Peer.Interface = family.IPv4, "eth1" },
			End{Address: addr("203.0.113.1")},
		},
		{
			"no gateway", func(p *config.Peer) { p.Gateway, p.Peer.Interface = family.IPv6, "eth1" },
			End{Err: fmt.Errorf("%w on eth1", errors.New("spec.defaultGateway: this node has no default route of IPv6 by a gateway"))},
		},
		{"from lo", func(p *config.Peer) { p.Gateway, p.SourceInterface = family.IPv4, "lo" }, End{Address: addr("198.51.100.254"), Source: addr("10.1.1.11")}},
		{
			"from an interface without an address", func(p *config.Peer) { p.Peer.Address, p.SourceInterface = addr("198.51.100.1"), "eth1" },
			End{Err: errors.New("spec.sourceInterface: eth1 has no IPv4 address that others may be told")},
		},
		{
			"from no interface", func(p *config.Peer) { p.Peer.Address, p.SourceInterface = addr("198.51.100.1"), "eth9" },
			End{Err: errors.New("spec.sourceInterface: this node has no interface eth9")},
		},
		{
			"from no interface, and from an address of the Node's annotation",
			func(p *config.Peer) { p.Peer.Address, p.SourceInterface = addr("2001:db8:51::1"), "eth9" },
			End{Source: addr("2001:db8:1::11")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(service("web", v4)).from("node1")
			changeNode(s, "node1", func(n *Node) { n.BGP.Sources = addresses("2001:db8:1::11") })
			peer := tor("tor")
			peer.Peer.Address = netip.Addr{}
			tt.peer(&peer)
			s.Config = config.Config{Peers: []config.Peer{peer}, BGP: []config.BGPAdvertisement{toAll("all")}}
			s.Ends = FindEnds(s, links, link.Choice{})
			got := s.Ends["tor"]
			if got.Address != tt.want.Address || got.Source != tt.want.Source || fmt.Sprint(got.Err) != fmt.Sprint(tt.want.Err) {
				t.Errorf("end %v, want %v", got, tt.want)
			}
			d := Decide(s)
			if len(d.BGP) == 0 == (tt.want.Err == nil) || tt.want.Err != nil && d.Problems["tor"] != tt.want.Err.Error() {
				t.Errorf("%d sessions, problem %q", len(d.BGP), d.Problems["tor"])
			}
			if len(d.BGP) > 0 && (d.BGP[0].Peer.SourceAddress != tt.want.Source || tt.want.Address.IsValid() && d.BGP[0].Peer.Address != tt.want.Address) {
				t.Errorf("session %+v", d.BGP[0].Peer)
			}
			for _, x := range Explain(s, s.Services[0].Name) { // Other nodes find theirs by themselves.
				if x.Node == "node2" && x.Peer == "tor" && x.Reason != Announced {
					t.Errorf("of node2: %v", x)
				}
			}
		})
	}
}

// TestUnnumberedPeer: the address of the peer is that of the router that the node has found, and the next hop is the node's link-local address.
func TestUnnumberedPeer(t *testing.T) {
	found := netip.MustParseAddr("fe80::1%eth1")
	two := errors.New("2 routers answer on eth1")
	for _, tt := range []struct {
		name      string
		neighbors map[string]Neighbor
		own       []string // global addresses of the node on the link
		internal  bool     // the router has the AS of the nodes
		want      string   // the address and the next hop, "" where there is no session
		problem   string
	}{
		{name: "found", neighbors: map[string]Neighbor{"eth1": {Address: found}}, want: "fe80::1%eth1 by fe80::11%eth1"},
		{
			name: "found on a link with global addresses", neighbors: map[string]Neighbor{"eth1": {Address: found}}, own: []string{own4, own6},
			want: "fe80::1%eth1 by fe80::11%eth1",
		},
		{
			name: "internal, on a node with addresses elsewhere", neighbors: map[string]Neighbor{"eth1": {Address: found}}, internal: true,
			want: "fe80::1%eth1 by fe80::11%eth1",
		},
		{name: "two routers from the start", neighbors: map[string]Neighbor{"eth1": {Err: two}}, problem: two.Error()},
		{
			name: "a second router", neighbors: map[string]Neighbor{"eth1": {Address: found, Err: two}},
			want: "fe80::1%eth1 by fe80::11%eth1", problem: two.Error(),
		},
		{name: "not looked for yet", neighbors: map[string]Neighbor{}, problem: "the router on eth1 is still looked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer := tor("tor")
			peer.Peer.Address, peer.Peer.Unnumbered, peer.Peer.Interface = netip.Addr{}, true, "eth1"
			if tt.internal {
				peer.Peer.PeerASN = peer.Peer.LocalASN
			}
			own := Node{InternalIPs: addresses(own4, own6)}
			v := &view{Snapshot: &Snapshot{
				Node: "node1", Config: config.Config{Peers: []config.Peer{peer}}, Nodes: map[string]Node{"node1": own}, Neighbors: tt.neighbors,
				Paths: map[link.Destination]link.Path{{Address: found}: {
					Interface: "eth1", OnLink: true, Source: netip.MustParseAddr("fe80::11%eth1"), Addresses: addresses(tt.own...),
				}},
			}}
			d := Desired{Problems: map[string]string{}, NoNextHop: map[string][]bgp.Route{}}
			v.decideBGP(&d, func(*config.Peer) []bgp.Route { return []bgp.Route{{Prefix: prefixes(v4 + "/32")[0]}} })
			got := ""
			if len(d.BGP) > 0 {
				got = fmt.Sprintf("%v by %v", d.BGP[0].Peer.Address, d.BGP[0].Routes[0].NextHop)
				if d.Peers[0].Peer.Address != d.BGP[0].Peer.Address {
					t.Errorf("the peer is %v, and its session %v", d.Peers[0].Peer.Address, d.BGP[0].Peer.Address)
				}
			}
			if got != tt.want || d.Problems["tor"] != tt.problem {
				t.Errorf("session %q, problem %q; want %q, %q", got, d.Problems["tor"], tt.want, tt.problem)
			}
		})
	}
}

// TestLinkLocalBesideTheNextHop: it is told where the peer and the next hop are on one link, and nowhere else.
func TestLinkLocalBesideTheNextHop(t *testing.T) {
	const elsewhere = "2001:db8:ffff::11" // on lo
	local := netip.MustParseAddr("fe80::11%eth1")
	here := link.Path{Interface: "eth1", OnLink: true, LinkLocal: local, Addresses: addresses(own4, own6)}
	behind := here
	behind.OnLink = false
	for _, tt := range []struct {
		name string
		path link.Path
		hop  string
		far  bool // ebgpMultiHop
		want netip.Addr
	}{
		{name: "IPv6 on the link", path: here, hop: own6, want: local},
		{name: "IPv4", path: here, hop: own4},
		{name: "an address of another interface", path: here, hop: elsewhere},
		{name: "a link-local address alone", path: here, hop: "fe80::11%eth1"},
		{name: "a peer behind a router", path: behind, hop: own6},
		{name: "a peer that may be several hops away", path: here, hop: own6, far: true},
		{name: "an interface without one", path: link.Path{OnLink: true, Addresses: addresses(own6)}, hop: own6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes := []bgp.Route{{NextHop: netip.MustParseAddr(tt.hop), LinkLocal: netip.MustParseAddr("fe80::99%eth9")}}
			withLinkLocal(routes, &bgp.Peer{EBGPMultiHop: tt.far}, tt.path)
			if got := routes[0].LinkLocal; got != tt.want {
				t.Errorf("beside %s there is %v, want %v", tt.hop, got, tt.want)
			}
		})
	}
}

// TestLinkLocalNextHop: a peer with a link-local address is told the node's where the link has no global one.
func TestLinkLocalNextHop(t *testing.T) {
	peer := bgp.Peer{Address: netip.MustParseAddr("fe80::1%eth1")}
	local := netip.MustParseAddr("fe80::11%eth1")
	for _, tt := range []struct {
		name string
		own  []string
		want map[family.Family]netip.Addr
	}{
		{"no global address", nil, map[family.Family]netip.Addr{family.IPv6: local}},
		{"an IPv4 address", []string{own4}, map[family.Family]netip.Addr{family.IPv4: netip.MustParseAddr(own4), family.IPv6: local}},
		{"both", []string{own4, own6}, addresses(own4, own6)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := link.Path{Interface: "eth1", OnLink: true, Source: local, Addresses: addresses(tt.own...)}
			v := &view{Snapshot: &Snapshot{Paths: map[link.Destination]link.Path{{Address: peer.Address}: path}}}
			got, err := v.nextHops(&peer)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
				t.Errorf("next hops (-want +got):\n%s%v", diff, err)
			}
		})
	}
}
