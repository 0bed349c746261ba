// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"strings"
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
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
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
	duration := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for _, tt := range []struct {
		name      string
		spec      v1alpha1.BGPPeerSpec
		objects   *objects
		want      bgp.Peer
		wantError string
	}{
		{
			name: "the least that is needed, with the node's IPv4 address as router ID",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1"},
			want: bgp.Peer{LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("198.51.100.1"), RouterID: netip.MustParseAddr("198.51.100.11")},
		},
		{
			name: "a node without IPv4 derives its router ID from its name",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "2001:db8:51::1"}, objects: &objects{},
			want: bgp.Peer{LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("2001:db8:51::1"), RouterID: bgp.RouterID("node1")},
		},
		{
			name: "everything that can be said",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 4200000000, DynamicASN: v1alpha1.DynamicASNExternal, PeerAddress: "2001:db8:51::1", PeerPort: 1790,
				SourceAddress: "2001:db8:51::11", RouterID: "10.0.0.1",
				HoldTime: duration(9 * time.Second), KeepaliveTime: duration(3 * time.Second), ConnectTime: duration(5 * time.Second),
				TTLSecurityHops: 1, PasswordSecret: &v1alpha1.SecretKeyReference{Name: "tor-auth", Key: "password"},
				GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(true), RestartTime: duration(2 * time.Minute)},
				Families:        []corev1.IPFamily{corev1.IPv6Protocol},
			},
			want: bgp.Peer{
				LocalASN: 4200000000, Dynamic: bgp.External, Address: netip.MustParseAddr("2001:db8:51::1"), Port: 1790,
				SourceAddress: netip.MustParseAddr("2001:db8:51::11"), RouterID: netip.MustParseAddr("10.0.0.1"),
				HoldTime: 9 * time.Second, KeepaliveTime: 3 * time.Second, ConnectTime: 5 * time.Second,
				TTLSecurityHops: 1, Password: "s3cret",
				GracefulRestart: bgp.GracefulRestart{Enabled: true, RestartTime: 2 * time.Minute}, Families: []family.Family{family.IPv6},
			},
		},
		{
			name: "multihop, and graceful restart turned off",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 64512, PeerASN: 64513, PeerAddress: "203.0.113.1", EBGPMultiHop: true,
				GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(false)},
			},
			want: bgp.Peer{
				LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("203.0.113.1"), EBGPMultiHop: true,
				RouterID: netip.MustParseAddr("198.51.100.11"),
			},
		},
		{
			name: "a link-local peer is on its interface",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "fe80::1", Interface: "eth1"},
			want: bgp.Peer{LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("fe80::1%eth1"), RouterID: netip.MustParseAddr("198.51.100.11")},
		},
		{
			name: "a link-local source is on the interface of its peer",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "fe80::1", SourceAddress: "fe80::11", Interface: "eth1"},
			want: bgp.Peer{
				LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("fe80::1%eth1"), SourceAddress: netip.MustParseAddr("fe80::11%eth1"),
				RouterID: netip.MustParseAddr("198.51.100.11"),
			},
		},
		{
			name: "an interface says nothing about a peer that is not link-local",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "2001:db8:51::1", Interface: "eth1"},
			want: bgp.Peer{LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("2001:db8:51::1"), RouterID: netip.MustParseAddr("198.51.100.11")},
		},
		{
			name: "the key of a password is password where none is named",
			spec: v1alpha1.BGPPeerSpec{MyASN: 1, PeerASN: 2, PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "tor-auth"}},
			want: bgp.Peer{
				LocalASN: 1, PeerASN: 2, Address: netip.MustParseAddr("198.51.100.1"), RouterID: netip.MustParseAddr("198.51.100.11"), Password: "s3cret",
			},
		},
		{
			name:      "a password whose Secret is missing",
			spec:      v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "tor2-auth"}},
			wantError: "spec.passwordSecret: there is no Secret tandem-system/tor2-auth",
		},
		{
			name:      "a password whose key is missing",
			spec:      v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "empty", Key: "password"}},
			wantError: `spec.passwordSecret: Secret tandem-system/empty has no key "password"`,
		},
		{
			name:      "a password that is empty opens no session without one",
			spec:      v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "blank", Key: "password"}},
			wantError: `spec.passwordSecret: key "password" of Secret tandem-system/blank is empty`,
		},
		{name: "an address that is none", spec: v1alpha1.BGPPeerSpec{PeerAddress: "tor1"}, wantError: "spec.peerAddress: "},
		{
			name: "a source address that is none",
			spec: v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1", SourceAddress: "eth0"}, wantError: "spec.sourceAddress: ",
		},
		{
			name: "a router ID that is none",
			spec: v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1", RouterID: "one"}, wantError: "spec.routerID: ",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.objects == nil {
				tt.objects = o
			}
			got, err := s.peer(config.Peer{Name: "tor", Spec: tt.spec}, tt.objects)
			if tt.wantError != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.wantError) {
					t.Errorf("error %v, want one that begins with %q", err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Name = "tor"
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(sameAddr)); diff != "" {
				t.Errorf("peer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWatchedOn(t *testing.T) {
	addr := netip.MustParseAddr
	seconds := func(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Second} }
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
		profile v1alpha1.BFDProfileSpec
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
			profile: v1alpha1.BFDProfileSpec{
				ReceiveInterval: seconds(1), TransmitInterval: seconds(2), DetectMultiplier: 5, PassiveMode: true, MinimumTTL: 250,
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
				tt.want.MinimumTTL = 254
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
		{Name: "no-password", Nodes: selectors(""), Spec: v1alpha1.BGPPeerSpec{
			MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "missing"},
		}},
		{Name: "invalid", Nodes: selectors(""), Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerAddress: "198.51.100.1"}},
		{Name: "elsewhere", Nodes: selectors("name=node2"), Spec: v1alpha1.BGPPeerSpec{PeerAddress: "garbage"}},
	}
	for range 2 {
		if got := s.resolve(snapshot, &objects{}, Decide(snapshot), func(netip.Addr) bool { return false }); len(got.bgp)+len(got.bfd) > 0 {
			t.Errorf("sessions %+v, want none", got)
		}
	}
	want := map[string]string{
		"no-password": "spec.passwordSecret: there is no Secret tandem-system/missing",
		"invalid":     "peerASN: required, or dynamicASN",
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
