// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

var web = types.NamespacedName{Namespace: "default", Name: "web"}

// explained is the line about one address of the Service web, by one node in one way, from its Reason on.
func explained(t *testing.T, s *Snapshot, address, node, peer string) string {
	t.Helper()
	for _, e := range Explain(s, web) {
		if e.Address == netip.MustParseAddr(address) && e.Node == node && e.Peer == peer {
			_, reason, _ := strings.Cut(e.String(), ": ")
			return reason
		}
	}
	return ""
}

// onLAN is the cluster of lan as node1 sees it, with the Service web, which has v4 and v6, its endpoint on node1, and node1 as its recorded
// holder.
func onLAN() *Snapshot { return lan(heldBy("node1", service("web", v4, v6))).from("node1") }

func TestExplainLayer2(t *testing.T) {
	for _, tt := range []struct {
		name    string
		address string // v4 unless it says otherwise
		node    string // node1 unless it says otherwise
		change  func(s *Snapshot, web *Service)
		want    string
	}{
		{name: "the holder announces", want: "Announced (eth0)"},
		{name: "the holder announces the other family too", address: v6, want: "Announced (eth0)"},
		{name: "another node does not", node: "node2", want: "OtherHolder (node1)"},
		{
			name: "without a claim nothing is announced", address: routed4,
			change: func(_ *Snapshot, web *Service) { web.Unclaimed = []netip.Addr{netip.MustParseAddr(routed4)} },
			want:   "NoClaim",
		},
		{name: "there is no advertisement", change: func(s *Snapshot, _ *Service) { s.Config.L2 = nil }, want: "NoAdvertisement"},
		{
			name:   "no advertisement names the pool",
			change: func(s *Snapshot, _ *Service) { s.Config.L2[0].Selection = inPools("other") },
			want:   "PoolNotSelected",
		},
		{
			name:   "no advertisement selects the Service",
			change: func(s *Snapshot, _ *Service) { s.Config.L2[0].Services = selectors("expose=yes") },
			want:   "ServiceNotSelected",
		},
		{
			name:   "no advertisement selects the node",
			change: func(s *Snapshot, _ *Service) { s.Config.L2[0].Nodes = selectors("name=node2") },
			want:   "NodeNotSelected",
		},
		{
			name: "of two advertisements the one counts that comes closest",
			change: func(s *Snapshot, _ *Service) {
				s.Config.L2[0].Services = selectors("expose=yes")
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{Name: "other", Selection: inPools("other")})
			},
			want: "ServiceNotSelected",
		},
		{
			name:   "an excluded node announces nothing",
			change: func(s *Snapshot, _ *Service) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
			want:   "NodeExcluded",
		},
		{
			name: "an excluded node hands over what it is on record for",
			change: func(s *Snapshot, _ *Service) {
				changeNode(s, "node1", func(n *Node) { n.Excluded, n.Interfaces[0].MAC = true, macOf("node1", "eth0") })
				s.Departing = true
			},
			want: "Draining (eth0, node3)",
		},
		{
			name: "nobody else knows that it still answers", node: "node1",
			change: func(s *Snapshot, _ *Service) {
				changeNode(s, "node1", func(n *Node) { n.Excluded = true })
				s.Node, s.Departing = "node2", true
			},
			want: "NodeExcluded",
		},
		{
			name:   "no endpoint is ready",
			change: func(_ *Snapshot, web *Service) { web.Endpoints = nil },
			want:   "NoReadyEndpoint",
		},
		{
			name:   "no endpoint of the address's family is ready",
			change: func(_ *Snapshot, web *Service) { delete(web.Endpoints, family.IPv4) },
			want:   "NoReadyEndpoint",
		},
		{
			name: "an endpoint of the other family is ready, and its address is announced", address: v6,
			change: func(_ *Snapshot, web *Service) { delete(web.Endpoints, family.IPv4) },
			want:   "Announced (eth0)",
		},
		{
			name: "no endpoint is on the node", node: "node2",
			change: func(_ *Snapshot, web *Service) { *web = localOn(*web, "node1") },
			want:   "NoLocalEndpoint",
		},
		{
			name: "a sharer is local, and has no endpoint on the node", node: "node2",
			change: func(s *Snapshot, _ *Service) {
				s.Services = append(s.Services, localOn(service("sharer", v4), "node1"))
			},
			want: "NoLocalEndpoint",
		},
		{
			name: "no interface holds the subnet",
			change: func(s *Snapshot, _ *Service) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces = n.Interfaces[1:] })
			},
			want: "NoInterface",
		},
		{
			name:   "no interface has the name that the advertisement wants",
			change: func(s *Snapshot, _ *Service) { s.Config.L2[0].Interfaces = []string{"bond*"} },
			want:   "NoInterface",
		},
		{
			name: "no speaker is alive on the node", node: "node2",
			change: func(s *Snapshot, _ *Service) { s.Alive = dead("node2") },
			want:   "NoLiveSpeaker",
		},
		{
			name:   "another speaker answers, and the node cannot ask the API",
			change: func(s *Snapshot, _ *Service) { s.Yielded = map[netip.Addr]bool{netip.MustParseAddr(v4): true} }, want: "Yielded",
		},
		{
			name: "a node that just started takes nothing new",
			change: func(s *Snapshot, web *Service) {
				s.StartupHold, web.Holder, s.Alive = true, "node2", dead("node2", "node3")
			},
			want: "StartupHold",
		},
		{
			name:   "a node that just started keeps what it is on record for",
			change: func(s *Snapshot, _ *Service) { s.StartupHold = true }, want: "Announced (eth0)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := onLAN()
			if tt.change != nil {
				tt.change(s, &s.Services[0])
			}
			if tt.address == "" {
				tt.address = v4
			}
			if tt.node == "" {
				tt.node = "node1"
			}
			if got := explained(t, s, tt.address, tt.node, ""); got != tt.want {
				t.Errorf("%s by %s: %s, want %s", tt.address, tt.node, got, tt.want)
			}
		})
	}
}

func TestExplainBGP(t *testing.T) {
	addr := netip.MustParseAddr
	path := func(s *Snapshot, p link.Path) { s.Paths[link.Destination{Address: addr("198.51.100.1")}] = p }
	session := func(s *Snapshot, node string, state bgp.SessionState) {
		s.Sessions = map[NodePeer]bgp.SessionState{{node, "tor"}: state}
	}
	both := family.All[:]
	for _, tt := range []struct {
		name    string
		address string // v4 unless it says otherwise
		node    string // node1 unless it says otherwise
		change  func(s *Snapshot, web *Service)
		want    string
	}{
		{name: "the peer is told the prefix", want: "Announced (" + v4 + "/32, next hop " + own4 + ")"},
		{name: "the peer is told the prefix of the other family too", address: v6, want: "Announced (" + v6 + "/128, next hop " + own6 + ")"},
		{name: "another node tells it too, by paths that only it knows", node: "node2", want: "Announced (" + v4 + "/32)"},
		{
			name: "two lengths are two prefixes",
			change: func(s *Snapshot, _ *Service) {
				s.Config.BGP = append(s.Config.BGP, advertise(toAll("wide"), func(a *config.BGPAdvertisement) { a.LengthIPv4 = 28 }))
				s.Config.Pools = lanPool()
			},
			want: "Announced (" + v4 + "/32, 198.51.100.192/28, next hop " + own4 + ")",
		},
		{
			name: "without a claim nothing is announced", address: routed4,
			change: func(_ *Snapshot, web *Service) { web.Unclaimed = []netip.Addr{addr(routed4)} },
			want:   "NoClaim",
		},
		{
			name: "the peer is not one of the node's", node: "node2",
			change: func(s *Snapshot, _ *Service) { s.Config.Peers[0].Nodes = selectors("name=node1") },
			want:   "PeerNotOnNode",
		},
		{name: "there is no advertisement", change: func(s *Snapshot, _ *Service) { s.Config.BGP = nil }, want: "NoAdvertisement"},
		{
			name:   "no advertisement names the pool",
			change: func(s *Snapshot, _ *Service) { s.Config.BGP[0].Selection = inPools("other") },
			want:   "PoolNotSelected",
		},
		{
			name:   "no advertisement selects the Service",
			change: func(s *Snapshot, _ *Service) { s.Config.BGP[0].Services = selectors("expose=yes") },
			want:   "ServiceNotSelected",
		},
		{
			name: "an advertisement selects a sharer of the address",
			change: func(s *Snapshot, _ *Service) {
				s.Config.BGP[0].Services = selectors("expose=yes")
				s.Services = append(s.Services, with(service("sharer", v4), func(svc *Service) { svc.Labels = labels.Set{"expose": "yes"} }))
			},
			want: "Announced (" + v4 + "/32, next hop " + own4 + ")",
		},
		{
			name:   "no advertisement selects the node",
			change: func(s *Snapshot, _ *Service) { s.Config.BGP[0].Nodes = selectors("name=node2") },
			want:   "NodeNotSelected",
		},
		{
			name:   "no advertisement names the peer",
			change: func(s *Snapshot, _ *Service) { s.Config.BGP[0].Peers = map[string]bool{"tor9": true} },
			want:   "PeerNotSelected",
		},
		{
			name:   "an excluded node announces nothing",
			change: func(s *Snapshot, _ *Service) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
			want:   "NodeExcluded",
		},
		{name: "no endpoint is ready", change: func(_ *Snapshot, web *Service) { web.Endpoints = nil }, want: "NoReadyEndpoint"},
		{
			name: "no endpoint is on the node", node: "node2",
			change: func(_ *Snapshot, web *Service) { *web = localOn(*web, "node1") },
			want:   "NoLocalEndpoint",
		},
		{
			name: "no speaker is alive on the node", node: "node2",
			change: func(s *Snapshot, _ *Service) { s.Alive = dead("node2") },
			want:   "NoLiveSpeaker",
		},
		{
			name: "the password is not there",
			change: func(s *Snapshot, _ *Service) {
				s.Config.Peers[0].PasswordSecret = &config.SecretKey{Secret: "tor-auth", Key: "password"}
				s.Password = func(config.SecretKey) (bgp.Password, error) {
					return "", errors.New("there is no Secret tandem-system/tor-auth")
				}
			},
			want: "NoSession (spec.passwordSecret: there is no Secret tandem-system/tor-auth)",
		},
		{
			name: "a caller that may not read Secrets assumes that the password is there",
			change: func(s *Snapshot, _ *Service) {
				s.Config.Peers[0].PasswordSecret = &config.SecretKey{Secret: "tor-auth"}
			},
			want: "Announced (" + v4 + "/32, next hop " + own4 + ")",
		},
		{
			name:   "the peer is not told of the family",
			change: func(s *Snapshot, _ *Service) { s.Config.Peers[0].Peer.Families = both[1:] },
			want:   "FamilyNotCarried",
		},
		{
			name:   "the node has no address on the peer's link",
			change: func(s *Snapshot, _ *Service) { path(s, link.Path{Interface: "eth0"}) },
			want:   "NoNextHop (this node has no IPv4 address on the peer's link)",
		},
		{
			name:   "there never was a route to the peer",
			change: func(s *Snapshot, _ *Service) { path(s, link.Path{Err: errors.New("network is unreachable")}) },
			want:   "NoNextHop (no route to the peer: network is unreachable)",
		},
		{
			name: "the session is not established",
			change: func(s *Snapshot, _ *Service) {
				session(s, "node1", bgp.SessionState{State: bgp.Active, LastError: "connection refused"})
			},
			want: "SessionDown (" + v4 + "/32, next hop " + own4 + ", connection refused)",
		},
		{
			name:   "the speaker does not report the session",
			change: func(s *Snapshot, _ *Service) { session(s, "node2", bgp.SessionState{}) },
			want:   "SessionDown (" + v4 + "/32, next hop " + own4 + ", the speaker reports no session with the peer)",
		},
		{
			name: "another node's session is not established", node: "node2",
			change: func(s *Snapshot, _ *Service) {
				session(s, "node2", bgp.SessionState{State: bgp.Idle, LastError: "hold timer expired"})
			},
			want: "SessionDown (" + v4 + "/32, hold timer expired)",
		},
		{
			name: "the session is established",
			change: func(s *Snapshot, _ *Service) {
				session(s, "node1", bgp.SessionState{State: bgp.Established, Families: both, LastError: "of yesterday"})
			},
			want: "Announced (" + v4 + "/32, next hop " + own4 + ")",
		},
		{
			name: "the peer has not agreed to the family", address: v6,
			change: func(s *Snapshot, _ *Service) {
				session(s, "node1", bgp.SessionState{State: bgp.Established, Families: both[:1]})
			},
			want: "Withheld (" + v6 + "/128, next hop " + own6 + ", the peer has agreed to [IPv4] only)",
		},
		{
			name: "the peer has not agreed to IPv6 next hops",
			change: func(s *Snapshot, _ *Service) {
				path(s, link.Path{Interface: "eth0", Addresses: addresses(own6)})
				session(s, "node1", bgp.SessionState{State: bgp.Established, Families: both, Advertised: map[family.Family]int{family.IPv6: 1}})
			},
			want: "Withheld (" + v4 + "/32, next hop " + own6 + ", the peer has not agreed to IPv6 next hops for IPv4 prefixes (RFC 8950))",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := onLAN()
			s.Config.Peers, s.Config.BGP = []config.Peer{tor("tor")}, []config.BGPAdvertisement{toAll("all")}
			if tt.change != nil {
				tt.change(s, &s.Services[0])
			}
			if tt.address == "" {
				tt.address = v4
			}
			if tt.node == "" {
				tt.node = "node1"
			}
			if got := explained(t, s, tt.address, tt.node, "tor"); got != tt.want {
				t.Errorf("%s by %s: %s, want %s", tt.address, tt.node, got, tt.want)
			}
		})
	}
}

// TestExplainOrder: an explanation for each address, node and way, in this order, and none of a Service that nobody knows.
func TestExplainOrder(t *testing.T) {
	s := onLAN()
	s.Config.Peers, s.Config.BGP = []config.Peer{tor("tor1"), tor("tor2")}, []config.BGPAdvertisement{toAll("all")}
	s.Services[0].Unclaimed = []netip.Addr{netip.MustParseAddr(routed4)}
	var got, want []string
	for _, e := range Explain(s, web) {
		got = append(got, fmt.Sprint(e.Address, e.Node, e.Peer))
	}
	for _, address := range []string{v4, v6, routed4} {
		for _, node := range []string{"node1", "node2", "node3"} {
			for _, peer := range []string{"", "tor1", "tor2"} {
				want = append(want, address+node+peer)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("explanations (-want +got):\n%s", diff)
	}
	if got := Explain(s, types.NamespacedName{Name: "web"}); got != nil {
		t.Errorf("Explain of an unknown Service = %v, want none", got)
	}
}

// randomProbes returns results of probes, half of which have found the address free.
func randomProbes(r *rand.Rand) func(node, iface string, ip netip.Addr) Probe {
	known := map[string]Probe{}
	return func(node, iface string, ip netip.Addr) Probe {
		key := fmt.Sprint(node, iface, ip)
		if _, ok := known[key]; !ok {
			known[key] = []Probe{{Free: true}, {Free: true}, {}, {UsedBy: "02:00:00:00:00:42"}}[r.IntN(4)]
		}
		return known[key]
	}
}

// TestExplainIsWhatDecideDoes compares the two over random clusters: what Explain calls declared is what Decide announces, on the same
// interfaces, in the same prefixes and with the same next hops, and what Decide records, and every reason comes up.
func TestExplainIsWhatDecideDoes(t *testing.T) {
	const seeds, clusters = 8, 900
	seen := map[Reason]int{}
	for i := range uint64(seeds * clusters) {
		seed, n := 1+i/clusters, i%clusters
		r := rand.New(rand.NewPCG(seed, n))
		s := randomSnapshot(r)
		for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
			view := s.from(node)
			view.Isolated, view.StartupHold, view.Departing = r.IntN(100) < 5, r.IntN(100) < 15, r.IntN(100) < 50
			view.Probed = randomProbes(r)
			view.Yielded = map[netip.Addr]bool{}
			for i := range s.Services {
				for _, a := range s.Services[i].Addresses {
					if r.IntN(100) < 3 {
						view.Yielded[a.IP] = true
					}
				}
			}
			view.Away, view.Unreachable = map[string]bool{}, map[string]bool{}
			for _, other := range slices.Sorted(maps.Keys(s.Nodes)) {
				if !s.Alive(other) && other != node && r.IntN(100) < 50 {
					view.Away[other], view.Unreachable[other] = true, true
				}
			}
			announced, explained := map[string]bool{}, map[string]bool{}
			view.Nodes = maps.Clone(s.Nodes)
			silent := []int{10, 30, 90}[r.IntN(3)] // Where nearly all are, silent interfaces count.
			for _, other := range slices.Sorted(maps.Keys(s.Nodes)) {
				if r.IntN(100) < silent {
					changeNode(view, other, func(n *Node) { n.Interfaces = slices.Clone(n.Interfaces) })
					for i := range view.Nodes[other].Interfaces {
						view.Nodes[other].Interfaces[i].Silent = true
					}
				}
			}
			d := Decide(view)
			for _, a := range d.Layer2 {
				isDeputy := func(iface string) bool { return a.As != nil && a.As[iface].String() != macOf(node, iface).String() }
				if a.Listen || slices.ContainsFunc(a.Interfaces, isDeputy) {
					continue // Explain does not tell who looks, or answers in the place of another node.
				}
				free := slices.DeleteFunc(slices.Clone(a.Interfaces), func(name string) bool {
					return slices.Contains(a.Probe, name) && !view.Probed(node, name, a.Address).Free
				})
				if len(free) > 0 {
					announced[fmt.Sprint(a.Address, " on ", free)] = true
				}
			}
			for service, record := range d.Records {
				for _, address := range record.Addresses {
					announced[fmt.Sprint(service, " has ", address)] = true
				}
			}
			for _, session := range d.BGP {
				for _, route := range session.Routes {
					announced[fmt.Sprint(route.Prefix, " to ", session.Peer.Name, " by ", route.NextHop)] = true
				}
			}
			explainer := NewExplainer(view)
			for i := range s.Services {
				for _, e := range explainer.Explain(s.Services[i].Name) {
					seen[e.Reason]++
					if e.Node != node || !e.Declared() {
						continue
					}
					if e.Peer == "" {
						explained[fmt.Sprint(e.Address, " on ", e.Interfaces)] = true
					}
					if e.Reason == Announced && e.Peer == "" {
						g := explainer.groups[s.Services[i].Name]
						// It is recorded when it answers, and the probes of a new Service have ended.
						if len(explainer.unconfirmed(g, e.Address, node, e.Interfaces, nil)) < len(e.Interfaces) &&
							!explainer.isProbing(g, &s.Services[i], node) {
							explained[fmt.Sprint(s.Services[i].Name, " has ", e.Address)] = true
						}
					}
					for _, prefix := range e.Prefixes {
						explained[fmt.Sprint(prefix, " to ", e.Peer, " by ", e.NextHop)] = true
					}
				}
			}
			if !maps.Equal(announced, explained) {
				t.Fatalf("seed %d, cluster %d, %s (-announced by Decide +explained):\n%s", seed, n, node, cmp.Diff(announced, explained))
			}
		}
	}
	t.Logf("reasons: %v", seen)
	for _, reason := range []Reason{
		NoClaim, PeerNotOnNode, NoAdvertisement, PoolNotSelected, ServiceNotSelected, NodeNotSelected, PeerNotSelected,
		NodeExcluded, Draining, NoReadyEndpoint, NoLocalEndpoint,
		NoInterface, NoLiveSpeaker, Yielded, OtherHolder, AddressInUse, Probing, StartupHold, NoSession, FamilyNotCarried,
		NoNextHop, SessionDown, Withheld, Announced,
	} {
		if seen[reason] == 0 {
			t.Errorf("no cluster has the reason %s: the comparison says little about it", reason)
		}
	}
}

// TestExplainOthers compares what a speaker says of the other nodes with what these nodes do. It does not know their paths. So it may say
// of node2, which has no IPv6 next hop, that node2 announces 2001:db8::10 to a peer: where a node has a problem with a peer, the speaker
// may name more prefixes than the node announces, and never fewer.
func TestExplainOthers(t *testing.T) {
	const seed, clusters = 4, 1000
	for n := range uint64(clusters) {
		s := randomSnapshot(rand.New(rand.NewPCG(seed, n)))
		announced, explained := map[string]bool{}, map[string]bool{}
		problem := map[NodePeer]bool{}
		for node := range s.Nodes {
			d := Decide(s.from(node))
			for _, a := range d.Layer2 {
				announced[fmt.Sprint(node, a.Address)] = true
			}
			for _, session := range d.BGP {
				for _, route := range session.Routes {
					if s.Alive(node) {
						announced[fmt.Sprint(node, route.Prefix, session.Peer.Name)] = true
					}
				}
			}
			for peer := range d.Problems {
				problem[NodePeer{node, peer}] = true
			}
		}
		explainer := NewExplainer(s.from("a node without a speaker"))
		for i := range s.Services {
			for _, e := range explainer.Explain(s.Services[i].Name) {
				if e.Peer == "" && e.Declared() {
					explained[fmt.Sprint(e.Node, e.Address)] = true
				}
				for _, prefix := range e.Prefixes {
					line := fmt.Sprint(e.Node, prefix, e.Peer)
					if announced[line] || !problem[NodePeer{e.Node, e.Peer}] {
						explained[line] = true
					}
				}
			}
		}
		if diff := cmp.Diff(announced, explained); diff != "" {
			t.Fatalf("cluster %d (-announced +explained):\n%s", n, diff)
		}
	}
}
