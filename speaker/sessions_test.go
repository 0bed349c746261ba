// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

func TestWithNextHops(t *testing.T) {
	const own4, own6 = "198.51.100.11", "2001:db8:51::11"
	both := []family.Family{family.IPv4, family.IPv6}
	for _, tt := range []struct {
		name      string
		prefixes  []netip.Prefix
		families  []family.Family
		v4, v6    string // this node's addresses on the peer's link
		want      []string
		wantError string
	}{
		{
			name:     "each family goes to the node's address of that family",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: both, v4: own4, v6: own6,
			want: []string{v4 + "/32 nextHop=" + own4, v6 + "/128 nextHop=" + own6},
		},
		{
			name:     "an IPv4 prefix goes to an IPv6 address on a link without IPv4 (RFC 8950)",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: both, v6: own6,
			want: []string{v4 + "/32 nextHop=" + own6, v6 + "/128 nextHop=" + own6},
		},
		{
			name:     "an IPv6 prefix is left out on a link without IPv6",
			prefixes: prefixes(v4+"/32", v6+"/128", other6+"/128"), families: both, v4: own4,
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
			name:     "a family that the session does not carry is not missed",
			prefixes: prefixes(v4+"/32", v6+"/128"), families: []family.Family{family.IPv4}, v4: own4,
			want: []string{v4 + "/32 nextHop=" + own4},
		},
		{name: "nothing to announce needs no address", families: both},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var routes []bgp.Route
			for _, p := range tt.prefixes {
				routes = append(routes, bgp.Route{Prefix: p})
			}
			address := func(text string) netip.Addr {
				a, _ := netip.ParseAddr(text)
				return a
			}
			filled, err := withNextHops(routes, tt.families, address(tt.v4), address(tt.v6))
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

func TestPeer(t *testing.T) {
	s := &Speaker{cfg: Config{Node: "node1", Namespace: "tandem-system"}}
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "2001:db8:51::11"}, {Type: corev1.NodeInternalIP, Address: "198.51.100.11"},
	}}}
	secret := func(namespace, name, key, value string) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{key: []byte(value)}}
	}
	o := &objects{
		nodes: corev1.NodeList{Items: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node0"}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.51.100.10"}},
		}}, node}},
		secrets: corev1.SecretList{Items: []corev1.Secret{
			secret("elsewhere", "tor-auth", "password", "not ours"),
			secret("tandem-system", "tor-auth", "password", "s3cret"),
			secret("tandem-system", "empty", "other", "x"),
			secret("tandem-system", "blank", "password", ""),
		}},
	}
	for _, tt := range []struct {
		name         string
		password     *config.SecretKey
		routerID     string
		objects      *objects
		wantRouterID string
		wantPassword bgp.Password
		wantError    string
	}{
		{name: "the router ID is the node's IPv4 address", wantRouterID: "198.51.100.11"},
		{name: "a node without IPv4 derives its router ID from its name", objects: &objects{}, wantRouterID: bgp.RouterID("node1").String()},
		{name: "the peer's router ID goes before the node's", routerID: "10.0.0.1", wantRouterID: "10.0.0.1"},
		{
			name: "a password of our own namespace", password: &config.SecretKey{Secret: "tor-auth", Key: "password"},
			wantPassword: "s3cret", wantRouterID: "198.51.100.11",
		},
		{
			name: "a password whose Secret is missing", password: &config.SecretKey{Secret: "tor2-auth", Key: "password"},
			wantError: "spec.passwordSecret: there is no Secret tandem-system/tor2-auth",
		},
		{
			name: "a password whose key is missing", password: &config.SecretKey{Secret: "empty", Key: "password"},
			wantError: `spec.passwordSecret: Secret tandem-system/empty has no key "password"`,
		},
		{
			name: "a password that is empty opens no session without one", password: &config.SecretKey{Secret: "blank", Key: "password"},
			wantError: `spec.passwordSecret: key "password" of Secret tandem-system/blank is empty`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.objects == nil {
				tt.objects = o
			}
			peer := config.Peer{Name: "tor", Peer: tor("tor"), PasswordSecret: tt.password}
			peer.Peer.RouterID, _ = netip.ParseAddr(tt.routerID)
			got, err := s.peer(peer, tt.objects)
			if tt.wantError != "" {
				if err == nil || err.Error() != tt.wantError {
					t.Errorf("error %v, want %q", err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.RouterID.String() != tt.wantRouterID || got.Password != tt.wantPassword {
				t.Errorf("router ID %v and password %q, want %v and %q", got.RouterID, string(got.Password), tt.wantRouterID, string(tt.wantPassword))
			}
		})
	}
}

// tor returns a peer as package config leaves it.
func tor(name string) bgp.Peer {
	p := bgp.Peer{Name: name, LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("198.51.100.1")}
	p.Defaults()
	return p
}

func TestWatchedOn(t *testing.T) {
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
			name: "a peer of a dynamic internal session behind a router", peer: with(internal, func(p *bgp.Peer) { p.PeerASN, p.Dynamic = 0, bgp.Internal }), path: far,
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
			if got := watchedOn(tt.path, tt.peer, &tt.profile); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A peer that cannot be resolved is left out, costs the others nothing, and has SpeakerStatus published once.
func TestResolveReportsProblemsOnce(t *testing.T) {
	s := &Speaker{cfg: Config{Node: "node1", Namespace: "tandem-system"}, status: make(chan struct{}, 1)}
	snapshot := lan().from("node1")
	snapshot.Config.Peers = []config.Peer{
		{Name: "no-password", Peer: tor("no-password"), PasswordSecret: &config.SecretKey{Secret: "missing", Key: "password"}},
		{Name: "elsewhere", Nodes: selectors("name=node2"), Peer: tor("elsewhere"), PasswordSecret: &config.SecretKey{Secret: "missing", Key: "password"}},
	}
	for range 2 {
		if got := s.resolve(snapshot, &objects{}, Decide(snapshot), func(netip.Addr) bool { return false }); len(got.bgp)+len(got.bfd) > 0 {
			t.Errorf("sessions %+v, want none", got)
		}
	}
	want := map[string]string{
		"no-password": "spec.passwordSecret: there is no Secret tandem-system/missing",
	}
	if diff := cmp.Diff(want, *s.problems.Load()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if len(s.status) != 1 {
		t.Fatal("the problems are not published")
	}
	<-s.status
	s.resolve(snapshot, &objects{}, Decide(snapshot), func(netip.Addr) bool { return false })
	if len(s.status) != 0 {
		t.Error("problems that have not changed are published again")
	}
}
