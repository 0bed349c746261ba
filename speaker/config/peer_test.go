// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func seconds(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Second}
}

// compiledPeer returns the one peer that comes of a spec, and its condition.
func compiledPeer(t *testing.T, spec v1alpha1.BGPPeerSpec, profiles ...v1alpha1.BFDProfile) (*Peer, metav1.Condition) {
	t.Helper()
	config, conditions := Compile(Objects{BGPPeers: []v1alpha1.BGPPeer{{ObjectMeta: named("tor"), Spec: spec}}, BFDProfiles: profiles})
	if len(config.Peers) == 0 {
		return nil, conditions[Key{"BGPPeer", "tor"}]
	}
	return &config.Peers[0], conditions[Key{"BGPPeer", "tor"}]
}

func TestPeer(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name     string
		spec     v1alpha1.BGPPeerSpec
		profile  *v1alpha1.BFDProfileSpec
		want     func(*Peer) // changes what is wanted of the least that is needed
		password SecretKey
	}{
		{
			name: "the required fields alone",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1"},
			want: func(*Peer) {},
		},
		{
			name: "all fields",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 4200000000, DynamicASN: v1alpha1.DynamicASNExternal, PeerAddress: "2001:db8:51::1", PeerPort: 1790,
				SourceAddress: "2001:db8:51::11", RouterID: "10.0.0.1",
				HoldTime: seconds(9), KeepaliveTime: seconds(3), ConnectTime: seconds(7),
				TTLSecurityHops: 1, PasswordSecret: &v1alpha1.SecretKeyReference{Name: "tor-auth", Key: "key"},
				GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(true), RestartTime: seconds(60)},
				Families:        []corev1.IPFamily{corev1.IPv6Protocol},
			},
			want: func(p *Peer) {
				p.PasswordSecret, p.Dynamic = &SecretKey{"tor-auth", "key"}, bgp.External
				p.Peer = bgp.Peer{
					Name: "tor", LocalASN: 4200000000, Dynamic: bgp.External, Address: addr("2001:db8:51::1"), Port: 1790,
					SourceAddress: addr("2001:db8:51::11"), RouterID: addr("10.0.0.1"),
					HoldTime: 9 * time.Second, KeepaliveTime: 3 * time.Second, ConnectTime: 7 * time.Second, TTLSecurityHops: 1,
					GracefulRestart: bgp.GracefulRestart{Enabled: true, RestartTime: time.Minute}, Families: []family.Family{family.IPv6},
				}
			},
		},
		{
			name: "multihop, and graceful restart turned off",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 64512, PeerASN: 64513, PeerAddress: "203.0.113.1", EBGPMultiHop: true,
				GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(false)},
			},
			want: func(p *Peer) { p.Peer.Address, p.Peer.EBGPMultiHop = addr("203.0.113.1"), true },
		},
		{
			name: "an empty gracefulRestart is enabled, for half a minute",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", GracefulRestart: &v1alpha1.GracefulRestart{},
			},
			want: func(p *Peer) {
				p.Peer.GracefulRestart = bgp.GracefulRestart{Enabled: true, RestartTime: 30 * time.Second}
			},
		},
		{
			name: "a link-local peer is on its interface",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "fe80::1", Interface: "eth1"},
			want: func(p *Peer) { p.Peer.Address, p.Peer.Interface = addr("fe80::1%eth1"), "eth1" },
		},
		{
			name: "a link-local source is on the interface of its peer",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "fe80::1", SourceAddress: "fe80::11", Interface: "eth1"},
			want: func(p *Peer) {
				p.Peer.Address, p.Peer.SourceAddress, p.Peer.Interface = addr("fe80::1%eth1"), addr("fe80::11%eth1"), "eth1"
			},
		},
		{
			name: "a peer that is not link-local is on its interface too",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "2001:db8:51::1", Interface: "eth1"},
			want: func(p *Peer) { p.Peer.Address, p.Peer.Interface = addr("2001:db8:51::1"), "eth1" },
		},
		{
			name: "a peer that is named by its interface is found by each node",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, Interface: "eth1"},
			want: func(p *Peer) { p.Peer.Address, p.Peer.Unnumbered, p.Peer.Interface = netip.Addr{}, true, "eth1" },
		},
		{
			name: "the key of a password is password where none is named",
			spec: v1alpha1.BGPPeerSpec{
				MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "tor-auth"},
			},
			want: func(p *Peer) { p.PasswordSecret = &SecretKey{"tor-auth", "password"} },
		},
		{
			name:    "an empty BFD profile",
			spec:    v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", BFDProfile: "fast"},
			profile: &v1alpha1.BFDProfileSpec{},
			want: func(p *Peer) {
				p.BFD = &BFD{bfd.Params{Receive: 300 * time.Millisecond, Transmit: 300 * time.Millisecond, Multiplier: 3}, 254}
			},
		},
		{
			name: "a BFD profile with all fields",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", BFDProfile: "fast"},
			profile: &v1alpha1.BFDProfileSpec{
				ReceiveInterval: seconds(1), TransmitInterval: seconds(2), DetectMultiplier: 5, PassiveMode: true, MinimumTTL: 250,
			},
			want: func(p *Peer) {
				p.BFD = &BFD{bfd.Params{Receive: time.Second, Transmit: 2 * time.Second, Multiplier: 5, Passive: true}, 250}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var profiles []v1alpha1.BFDProfile
			if tt.profile != nil {
				profiles = []v1alpha1.BFDProfile{{ObjectMeta: named("fast"), Spec: *tt.profile}}
			}
			got, condition := compiledPeer(t, tt.spec, profiles...)
			if got == nil {
				t.Fatalf("the peer is not used: %s", condition.Message)
			}
			want := Peer{Name: "tor", Peer: bgp.Peer{
				Name: "tor", LocalASN: 64512, PeerASN: 64513, Address: addr("198.51.100.1"), Port: 179,
				HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second, ConnectTime: 5 * time.Second, Families: family.All[:],
			}}
			tt.want(&want)
			if diff := cmp.Diff(want, *got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("peer (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInvalidPeers: what bgp.Peer.Faults finds is what the BGPPeer's condition says, and such a peer has no session.
func TestInvalidPeers(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec v1alpha1.BGPPeerSpec
		want string
	}{
		{
			name: "a peerAddress that is no address",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "tor1"},
			want: `spec.peerAddress: ParseAddr("tor1"): unable to parse IP`,
		},
		{
			name: "a sourceAddress that is no address",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", SourceAddress: "eth0"},
			want: `spec.sourceAddress: ParseAddr("eth0"): unable to parse IP`,
		},
		{
			name: "a routerID that is no address",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", RouterID: "one"},
			want: `spec.routerID: ParseAddr("one"): unable to parse IP`,
		},
		{
			name: "neither an AS number nor a relation",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerAddress: "198.51.100.1"},
			want: "spec.peerASN: required, or dynamicASN",
		},
		{
			name: "two faults",
			spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "224.0.0.1", HoldTime: seconds(2), KeepaliveTime: seconds(1)},
			want: "spec.peerAddress: 224.0.0.1 is not the address of a router; spec.holdTime: 2s is not between 3s and 18h12m15s; " +
				"spec.keepaliveTime: 1s is more than a third of holdTime 2s (RFC 4271 §4.4)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			peer, condition := compiledPeer(t, tt.spec)
			if peer != nil {
				t.Errorf("the peer is used: %+v", peer)
			}
			if condition.Reason != v1alpha1.ReasonInvalid || condition.Message != tt.want {
				t.Errorf("the condition is %s: %s\nwant %s: %s", condition.Reason, condition.Message, v1alpha1.ReasonInvalid, tt.want)
			}
		})
	}
}

// TestDefaultsAreThoseOfTheAPI fills in the defaults of the CustomResourceDefinitions, as the API server does, and compares what comes of
// them with what comes of empty fields.
func TestDefaultsAreThoseOfTheAPI(t *testing.T) {
	var filled v1alpha1.BGPPeerSpec
	var profile v1alpha1.BFDProfileSpec
	defaults(t, "../../manifests/crd/tandem-lb.io_bgppeers.yaml", &filled)
	defaults(t, "../../manifests/crd/tandem-lb.io_bfdprofiles.yaml", &profile)
	empty := v1alpha1.BGPPeerSpec{}
	for _, spec := range []*v1alpha1.BGPPeerSpec{&filled, &empty} {
		spec.MyASN, spec.PeerASN, spec.PeerAddress, spec.BFDProfile = 64512, 64513, "198.51.100.1", "fast"
	}
	empty.GracefulRestart, empty.PasswordSecret = &v1alpha1.GracefulRestart{}, &v1alpha1.SecretKeyReference{}
	want, _ := compiledPeer(t, filled, v1alpha1.BFDProfile{ObjectMeta: named("fast"), Spec: profile})
	got, _ := compiledPeer(t, empty, v1alpha1.BFDProfile{ObjectMeta: named("fast")})
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("the peer of empty fields (-of the API server's defaults +of ours):\n%s", diff)
	}
}

// defaults fills a spec with the defaults in the schema of a CustomResourceDefinition, those of nested objects too.
func defaults(t *testing.T, file string, into any) {
	t.Helper()
	type schema struct {
		Default    any
		Properties map[string]schema
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	var fill func(schema) any
	fill = func(s schema) any {
		if s.Default != nil || s.Properties == nil {
			return s.Default
		}
		object := map[string]any{}
		for name, property := range s.Properties {
			if value := fill(property); value != nil {
				object[name] = value
			}
		}
		if len(object) == 0 {
			return nil
		}
		return object
	}
	filled, err := json.Marshal(fill(crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(filled, into); err != nil {
		t.Fatalf("%v in %s", err, filled)
	}
}
