// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go4.org/netipx"

	"github.com/tandem-lb/tandem/speaker/config"
)

// routed and on are InterfaceAdvertisements of everything, by routes alone and on an interface.
func routed(length4, length6 int) config.InterfaceAdvertisement {
	return config.InterfaceAdvertisement{Name: "routes", Selection: everywhere(), LengthIPv4: length4, LengthIPv6: length6}
}

func on(iface string, length4, length6 int) config.InterfaceAdvertisement {
	ad := routed(length4, length6)
	ad.Name, ad.Interface = "on-"+iface, iface
	return ad
}

func TestKernel(t *testing.T) {
	const routed6 = "2001:db8:c::10"
	const overlap = "has a host route, since 198.51.100.192/27 and 198.51.100.0/24, a subnet of this node, overlap"
	const arp = "is inside 198.51.100.0/24, a subnet of this node, where every node would answer ARP or NDP for it: " +
		"use an L2Advertisement, or leave spec.interface out"
	web := service("web", routed4, routed6)
	for _, tt := range []struct {
		name     string
		ads      []config.InterfaceAdvertisement
		services []Service
		change   func(*Snapshot)
		want     []string // "192.0.2.5/32", "192.0.2.5/32 on kube-lb0"
		refused  []string // "routes 198.51.100.200 has a host route…"
	}{
		{name: "no advertisement", services: []Service{web}},
		{
			name: "for one namespace", ads: []config.InterfaceAdvertisement{routed(32, 128)}, services: []Service{web, in("shop", service("mail", "192.0.2.6"))},
			change: func(s *Snapshot) { s.Config.Interfaces[0].Namespaces = map[string]bool{"shop": true} }, want: []string{"192.0.2.6/32"},
		},
		{
			name: "routes of both families", ads: []config.InterfaceAdvertisement{routed(32, 128)}, services: []Service{web},
			want: []string{"192.0.2.5/32", "2001:db8:c::10/128"},
		},
		{
			name: "addresses on an interface, beside routes", ads: []config.InterfaceAdvertisement{routed(32, 128), on("kube-lb0", 32, 128)},
			services: []Service{web},
			want:     []string{"192.0.2.5/32", "2001:db8:c::10/128", "192.0.2.5/32 on kube-lb0", "2001:db8:c::10/128 on kube-lb0"},
		},
		{
			name: "aggregates of each family, of two addresses", ads: []config.InterfaceAdvertisement{routed(24, 120)},
			services: []Service{web, service("mail", "192.0.2.6")}, want: []string{"192.0.2.0/24", "2001:db8:c::/120"},
		},
		{
			name: "an aggregate that reaches beyond the pool", ads: []config.InterfaceAdvertisement{routed(23, 48)},
			services: []Service{web}, want: []string{"192.0.2.5/32", "2001:db8:c::10/128"},
		},
		{
			name: "an aggregate with a router in it", ads: []config.InterfaceAdvertisement{routed(24, 120)}, services: []Service{web},
			change: func(s *Snapshot) {
				s.Config.Peers = []config.Peer{tor("tor1")}
				s.Config.Peers[0].Peer.Address = netip.MustParseAddr("192.0.2.1")
			},
			want:    []string{"192.0.2.5/32", "2001:db8:c::/120"},
			refused: []string{"routes 192.0.2.5 has a host route, since BGPPeer tor1 is in 192.0.2.0/24"},
		},
		{
			name: "an aggregate with the address of another node", ads: []config.InterfaceAdvertisement{routed(24, 120)}, services: []Service{web},
			change:  func(s *Snapshot) { changeNode(s, "node2", func(n *Node) { n.InternalIPs = addresses("192.0.2.12") }) },
			want:    []string{"192.0.2.5/32", "2001:db8:c::/120"},
			refused: []string{"routes 192.0.2.5 has a host route, since an address of a node is in 192.0.2.0/24"},
		},
		{
			name: "aggregates with what the pool excludes", ads: []config.InterfaceAdvertisement{routed(24, 120)}, services: []Service{web},
			change: func(s *Snapshot) {
				s.Config.Excluded = map[string]*netipx.IPSet{"lan": ranges("192.0.2.1/32", "2001:db8:c::80/121"), "wan": ranges("192.0.2.2/32")}
			},
			want: []string{"192.0.2.5/32", "2001:db8:c::10/128"},
			refused: []string{
				"routes 192.0.2.5 has a host route, since pool lan excludes addresses in 192.0.2.0/24",
				"routes 2001:db8:c::10 has a host route, since pool lan excludes addresses in 2001:db8:c::/120",
			},
		},
		{
			name: "an aggregate without what the pool excludes", ads: []config.InterfaceAdvertisement{routed(28, 128)},
			services: []Service{service("web", routed4)}, want: []string{"192.0.2.0/28"},
			change: func(s *Snapshot) { s.Config.Excluded = map[string]*netipx.IPSet{"lan": ranges("192.0.2.128/25")} },
		},
		{
			name: "a local Service has host routes beside them", ads: []config.InterfaceAdvertisement{routed(24, 120)},
			services: []Service{localOn(web, "node1")},
			want:     []string{"192.0.2.0/24", "192.0.2.5/32", "2001:db8:c::/120", "2001:db8:c::10/128"},
		},
		{
			name: "a local Service of another node has none", ads: []config.InterfaceAdvertisement{routed(24, 120)},
			services: []Service{localOn(web, "node2")},
		},
		{
			name: "a Service without endpoints has none", ads: []config.InterfaceAdvertisement{routed(32, 128)},
			services: []Service{with(web, func(svc *Service) { svc.Endpoints = nil })},
		},
		{
			name: "a node that is excluded has none", ads: []config.InterfaceAdvertisement{routed(32, 128)}, services: []Service{web},
			change: func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
		},
		{
			name: "an advertisement for other nodes", services: []Service{web},
			ads: []config.InterfaceAdvertisement{{Name: "other", Selection: config.Selection{Nodes: selectors("name=node2")}, LengthIPv4: 32, LengthIPv6: 128}},
		},
		{
			name: "an address of the LAN is routed, and on no interface", ads: []config.InterfaceAdvertisement{routed(32, 128), on("kube-lb0", 32, 128)},
			services: []Service{service("web", v4)}, want: []string{"198.51.100.200/32"}, refused: []string{"on-kube-lb0 198.51.100.200 " + arp},
		},
		{
			name: "an address of a LAN whose link is down", ads: []config.InterfaceAdvertisement{on("kube-lb0", 32, 128)},
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces, n.DownSubnets = nil, prefixes("198.51.100.0/24") })
			},
			services: []Service{service("web", v4)}, refused: []string{"on-kube-lb0 198.51.100.200 " + arp},
		},
		{
			name: "an aggregate inside a subnet of the node", ads: []config.InterfaceAdvertisement{routed(27, 128)},
			services: []Service{service("web", v4)}, want: []string{"198.51.100.200/32"}, refused: []string{"routes 198.51.100.200 " + overlap},
		},
		{
			name: "an aggregate around a subnet of the node", ads: []config.InterfaceAdvertisement{on("kube-lb0", 16, 128)},
			services: []Service{service("web", "10.0.1.5")}, want: []string{"10.0.1.5/32 on kube-lb0"},
			refused: []string{"on-kube-lb0 10.0.1.5 has a host route, since 10.0.0.0/16 and 10.0.0.0/24, a subnet of this node, overlap"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(tt.services...).from("node1")
			var pool netipx.IPSetBuilder
			for _, p := range prefixes("192.0.2.0/24", "2001:db8:c::/64", "198.51.100.192/26", "10.0.0.0/16") {
				pool.AddPrefix(p)
			}
			set, err := pool.IPSet()
			if err != nil {
				t.Fatal(err)
			}
			s.Config.Pools = map[string]*netipx.IPSet{"lan": set}
			s.Config.Interfaces = tt.ads
			if tt.change != nil {
				tt.change(s)
			}
			d := Decide(s)
			var got, refused []string
			for _, e := range d.Kernel {
				text := e.Prefix.String()
				if e.Interface != "" {
					text += " on " + e.Interface
				}
				got = append(got, text)
			}
			for _, r := range d.Refusals {
				refused = append(refused, r.Advertisement+" "+r.Address.String()+" "+r.Reason)
			}
			slices.Sort(refused)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.refused, refused); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHostRoutes has aggregates that peers are told and that the node's kernel must not have: routers have longer prefixes to the other hosts in
// them, and the node has not.
func TestHostRoutes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Snapshot)
		want   map[string]string
	}{
		{name: "nobody else in it", change: func(*Snapshot) {}},
		{
			name: "addresses that the pool excludes",
			change: func(s *Snapshot) {
				s.Config.Excluded = map[string]*netipx.IPSet{"lan": ranges("192.0.2.128/25", "2001:db8:c::1/128")}
			},
			want: map[string]string{"192.0.2.0/24": "[192.0.2.5/32 192.0.2.6/32]", "2001:db8:c::/120": "[2001:db8:c::10/128]"},
		},
		{
			name: "another peer of the node",
			change: func(s *Snapshot) {
				s.Config.Peers = append(s.Config.Peers, tor("tor2"))
				s.Config.Peers[1].Peer.Address = netip.MustParseAddr("192.0.2.1")
			},
			want: map[string]string{"192.0.2.0/24": "[192.0.2.5/32 192.0.2.6/32]"},
		},
		{
			name: "a peer of another node",
			change: func(s *Snapshot) {
				s.Config.Peers = append(s.Config.Peers, tor("tor2"))
				s.Config.Peers[1].Peer.Address, s.Config.Peers[1].Nodes = netip.MustParseAddr("192.0.2.1"), selectors("name=node2")
			},
		},
		{
			name: "a subnet of the node around it",
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.DownSubnets = prefixes("192.0.0.0/16") })
			},
			want: map[string]string{"192.0.2.0/24": "[192.0.2.5/32 192.0.2.6/32]"},
		},
		{
			name: "no Service that is announced",
			change: func(s *Snapshot) {
				s.Config.Excluded = map[string]*netipx.IPSet{"lan": ranges("192.0.2.128/25")}
				s.Services = nil
			},
		},
	} {
		s := lan(service("web", routed4, "2001:db8:c::10"), service("mail", "192.0.2.6")).from("node1")
		s.Config = config.Config{
			Peers: []config.Peer{tor("tor")}, Pools: map[string]*netipx.IPSet{"lan": ranges("192.0.2.0/24", "2001:db8:c::/64")},
			BGP: []config.BGPAdvertisement{advertise(toAll("all"), func(a *config.BGPAdvertisement) {
				a.Peers, a.LengthIPv4, a.LengthIPv6 = map[string]bool{"tor": true}, 24, 120
			})},
		}
		tt.change(s)
		d := Decide(s)
		if n := len(d.BGP[0].Routes); n != 2 && len(s.Services) > 0 {
			t.Errorf("%s: the peer is told %d prefixes, want the aggregate of each family", tt.name, n)
		}
		got := map[string]string{}
		for prefix, hosts := range d.HostRoutes {
			got[prefix.String()] = fmt.Sprint(hosts)
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: host routes (-want +got):\n%s", tt.name, diff)
		}
	}
}
