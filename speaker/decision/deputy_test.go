// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/election"
)

// awayNode1 is the lan of node1, node2 and node3, whose interfaces have MACs, while node1 is away.
func awayNode1(services ...Service) *Snapshot {
	s := lan(services...)
	s.Alive, s.Away = dead("node1"), map[string]bool{"node1": true}
	for name := range s.Nodes {
		changeNode(s, name, func(n *Node) {
			n.Interfaces = slices.Clone(n.Interfaces)
			for i := range n.Interfaces {
				n.Interfaces[i].MAC = macOf(name, n.Interfaces[i].Name)
			}
		})
	}
	return s
}

// macOf returns 02:00:00:00:01:00 for eth0 of node1.
func macOf(node, iface string) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, node[len(node)-1] - '0', iface[len(iface)-1] - '0'}
}

func TestDeputies(t *testing.T) {
	const deputy = "node3" // XXH64 ranks it first for default/web
	web := heldBy("node1", service("web", v4, v6))
	pair := func(node string) []string {
		return []string{node + ": " + v4 + " on eth0 as node1's eth0", node + ": " + v6 + " on eth0 as node1's eth0"}
	}
	for _, tt := range []struct {
		name     string
		snapshot *Snapshot
		change   func(*Snapshot)
		want     []string
	}{
		{name: "one deputy answers for both families with the holder's MAC", snapshot: awayNode1(web), want: pair(deputy)},
		{
			name: "nobody does while the holder is alive", snapshot: awayNode1(web),
			change: func(s *Snapshot) { s.Away, s.Alive = nil, dead() },
			want:   []string{"node1: " + v4 + " on eth0", "node1: " + v6 + " on eth0"},
		},
		{
			name: "a holder that is dead is replaced", snapshot: awayNode1(web), change: func(s *Snapshot) { s.Away = nil },
			want: []string{"node3: " + v4 + " on eth0", "node3: " + v6 + " on eth0"},
		},
		{
			name: "a node that is away takes nothing new", snapshot: awayNode1(service("web", v4)),
			want: []string{"node3: " + v4 + " on eth0"},
		},
		{
			name: "a deputy needs no endpoint, no advertisement and no Ready", snapshot: awayNode1(with(web, func(svc *Service) {
				svc.Local, svc.Endpoints = true, map[family.Family]Endpoints{family.IPv4: endpointsOn("node1"), family.IPv6: endpointsOn("node1")}
			})),
			change: func(s *Snapshot) {
				s.Config.L2[0].Nodes = selectors("name=node1")
				changeNode(s, "node2", func(n *Node) { n.Ready = false })
				changeNode(s, "node3", func(n *Node) { n.Ready = false })
			},
			want: pair(deputy),
		},
		{
			name: "nor is a holder that is away and not Ready replaced", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Ready = false }) },
			want:   pair(deputy),
		},
		{
			name: "the deputy is the node that would take over: one that an advertisement prefers", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 1, Nodes: labelSelector("name=node2")}}
			},
			want: pair("node2"),
		},
		{
			name: "or one that is Ready", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, deputy, func(n *Node) { n.Ready = false }) },
			want:   pair("node2"),
		},
		{
			name: "also while the holder is back, and its deputy goes on for a moment", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 1, Nodes: labelSelector("name in (node1, node2)")}}
				s.Alive = dead()
			},
			want: pair("node2"),
		},
		{
			name: "a node that is excluded is the last choice", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, deputy, func(n *Node) { n.Excluded = true }) },
			want:   pair("node2"),
		},
		{
			name: "and a choice where there is no other", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				s.Alive = dead("node1", "node2")
				changeNode(s, deputy, func(n *Node) { n.Excluded = true })
			},
			want: pair(deputy),
		},
		{
			name: "the last choice also where no node would take over", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				s.Config.L2[0].Nodes = selectors("name=node1")
				changeNode(s, deputy, func(n *Node) { n.Excluded = true })
			},
			want: pair("node2"),
		},
		{
			name: "a node that is not heard on the link is none", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				s.Config.L2[0].Nodes = selectors("name=node1")
				changeNode(s, deputy, func(n *Node) { n.Interfaces[0].Silent = true })
			},
			want: pair("node2"),
		},
		{
			name: "a holder that is excluded has no deputy, and is replaced", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
			want:   []string{"node3: " + v4 + " on eth0", "node3: " + v6 + " on eth0"},
		},
		{
			name: "a holder that has lost its link is replaced", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Interfaces = n.Interfaces[1:] }) },
			want:   []string{"node3: " + v4 + " on eth0", "node3: " + v6 + " on eth0"},
		},
		{
			name: "a holder that has lost the subnet of one family keeps the other for the moment", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = n.Interfaces[0].Prefixes[:1] })
			},
			want: []string{deputy + ": " + v4 + " on eth0 as node1's eth0"},
		},
		{
			name: "only for what the holder was answering for", snapshot: awayNode1(with(web, func(svc *Service) {
				svc.Recorded.Addresses = []string{v4} // Another station has the other.
			})),
			want: []string{deputy + ": " + v4 + " on eth0 as node1's eth0"},
		},
		{
			name: "without an endpoint for nothing", snapshot: awayNode1(with(web, func(svc *Service) { svc.Endpoints = nil })),
		},
		{
			name: "on each link of the holder one answers, on whatever interface it has there", snapshot: awayNode1(heldBy("node1", service("web", routed4))),
			change: func(s *Snapshot) {
				s.Config.L2[0].Interfaces = []string{"eth*"}
				// node3 has only the link of node1's eth0, by its eth1.
				changeNode(s, deputy, func(n *Node) {
					n.Interfaces = []Interface{{Name: "eth1", MAC: macOf(deputy, "eth1"), Prefixes: prefixes("198.51.100.0/24")}}
				})
			},
			want: []string{"node2: " + routed4 + " on eth1 as node1's eth1", deputy + ": " + routed4 + " on eth1 as node1's eth0"},
		},
		{
			name: "interfaces without addresses are on one link if they have one name", snapshot: awayNode1(heldBy("node1", service("web", routed4))),
			change: func(s *Snapshot) {
				s.Config.L2[0].Interfaces = []string{"eth1"}
				for _, name := range []string{"node1", "node2", "node3"} {
					changeNode(s, name, func(n *Node) { n.Interfaces[1].Prefixes = nil })
				}
			},
			want: []string{deputy + ": " + routed4 + " on eth1 as node1's eth1"},
		},
		{
			name: "nobody in another subnet is a deputy", snapshot: awayNode1(web),
			change: func(s *Snapshot) {
				for _, name := range []string{"node2", "node3"} {
					changeNode(s, name, func(n *Node) { n.Interfaces = n.Interfaces[1:] })
				}
			},
		},
		{
			name: "nor for a MAC that is not known", snapshot: awayNode1(web),
			change: func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Interfaces[0].MAC = nil }) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.snapshot)
			}
			var got []string
			for _, node := range []string{"node1", "node2", "node3"} {
				if tt.snapshot.Away[node] {
					continue
				}
				d := Decide(tt.snapshot.from(node))
				for _, a := range d.Layer2 {
					text := fmt.Sprintf("%s: %s on %s", node, a.Address, strings.Join(a.Interfaces, ", "))
					for _, name := range a.Interfaces {
						if mac, ok := a.As[name]; ok {
							text += fmt.Sprintf(" as node%d's eth%d", mac[4], mac[5])
						}
					}
					got = append(got, text)
				}
				for name, record := range d.Records {
					if tt.snapshot.Away["node1"] && len(d.Layer2) > 0 && d.Layer2[0].As != nil {
						t.Errorf("a deputy records %s: %v", name, record)
					}
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("announced (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTheDeputyOfAHolderThatLives: a holder that gossip does not show, and that lives, could take its own addresses over. Its deputy is the one of
// the others that would.
func TestTheDeputyOfAHolderThatLives(t *testing.T) {
	first := func(key string, nodes ...string) string {
		var candidates []election.Candidate
		for _, node := range nodes {
			candidates = append(candidates, election.Candidate{Node: node})
		}
		best, _ := election.Holder(key, "", candidates, func(string) bool { return true })
		return best
	}
	name := "web0"
	for i := 1; first("default/"+name, "node1", "node2") != "node1" || first("default/"+name, "node2", "node3") != "node3"; i++ {
		name = fmt.Sprint("web", i)
	}
	s := awayNode1(heldBy("node1", service(name, v4)))
	s.Unreachable = map[string]bool{"node1": true}
	s.Config.L2[0].Preferred = []config.Preference{{Weight: 1, Nodes: labelSelector("name in (node1, node2)")}}
	if d := Decide(s.from("node2")); len(d.Layer2) != 1 || d.Layer2[0].As == nil {
		t.Errorf("node2, which would take %s over, announces %+v, want that it answers for node1", name, d.Layer2)
	}
	if d := Decide(s.from("node3")); len(d.Layer2) > 0 {
		t.Errorf("node3 announces %+v, want nothing", d.Layer2)
	}
}

// Of many Services of a node that is away, the deputies are spread over the other nodes.
func TestDeputiesAreSpread(t *testing.T) {
	var services []Service
	for i := range 100 {
		ip := netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i)})
		services = append(services, heldBy("node1", service(fmt.Sprint("web", i), ip.String())))
	}
	s := awayNode1(services...)
	a, b := len(Decide(s.from("node2")).Layer2), len(Decide(s.from("node3")).Layer2)
	if a+b != 100 || a < 30 || b < 30 {
		t.Errorf("node2 and node3 are the deputies for %d and %d addresses", a, b)
	}
}
