// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
			filled, err := withNextHops(routes, tt.families, addresses(tt.own...))
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
		p := s.Paths[addr("198.51.100.1")]
		change(&p)
		s.Paths[addr("198.51.100.1")] = p
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
			if got != tt.want || gotBFD != tt.wantBFD || d.Problems["tor"] != tt.wantProblem || len(d.Problems) > 1 {
				t.Errorf("session %q, BFD %q, problem %q\nwant    %q, BFD %q, problem %q", got, gotBFD, d.Problems, tt.want, tt.wantBFD, tt.wantProblem)
			}
		})
	}
}

func TestPeerAddresses(t *testing.T) {
	here, there, both := tor("here"), tor("there"), tor("both")
	here.Nodes, there.Nodes = selectors("name=node1"), selectors("name=node2")
	both.Peer.Address = netip.MustParseAddr("fe80::1%eth0")
	got := PeerAddresses(config.Config{Peers: []config.Peer{both, here, there}}, map[string]string{"name": "node1"})
	if want := []netip.Addr{both.Peer.Address, here.Peer.Address}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}
