// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/selector"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

// The addresses of the tests: v4 and v6 are a pair, shared4 and shared6 are those that Services share.
const (
	v4, v6           = "198.51.100.200", "2001:db8:51::1200"
	other4, other6   = "198.51.100.201", "2001:db8:51::1201"
	shared4, shared6 = "198.51.100.202", "2001:db8:51::1202"
	routed4          = "192.0.2.5"                        // in no subnet of any node
	own4, own6       = "198.51.100.11", "2001:db8:51::11" // of the node itself, on the link to its peer
)

// service returns a Service with addresses of pool lan and an endpoint of each family on a node that is not in the cluster.
func service(name string, addresses ...string) Service {
	svc := Service{
		Name:      types.NamespacedName{Namespace: "default", Name: name},
		Endpoints: map[family.Family]Endpoints{family.IPv4: endpointsOn("elsewhere"), family.IPv6: endpointsOn("elsewhere")},
	}
	for _, a := range addresses {
		svc.Addresses = append(svc.Addresses, Address{netip.MustParseAddr(a), "lan"})
	}
	return svc
}

func endpointsOn(nodes ...string) Endpoints {
	return Endpoints{Any: true, Nodes: slices.Compact(slices.Sorted(slices.Values(nodes)))}
}

// with returns the Service as change leaves it.
func with(svc Service, change func(*Service)) Service {
	change(&svc)
	return svc
}

// heldBy puts a node on record for all addresses of the Service.
func heldBy(node string, svc Service) Service {
	svc.Holder = node
	svc.Recorded = Record{Interfaces: []string{"eth0", "eth1"}}
	for _, a := range svc.Addresses {
		svc.Recorded.Addresses = append(svc.Recorded.Addresses, a.IP.String())
	}
	return svc
}

func localOn(svc Service, nodes ...string) Service {
	svc.Local = true
	svc.Endpoints = map[family.Family]Endpoints{family.IPv4: endpointsOn(nodes...), family.IPv6: endpointsOn(nodes...)}
	return svc
}

func everywhere() config.Selection {
	return config.Selection{}
}

// selectors is a list of one selector.
func selectors(text string) selector.List { return selector.List{labelSelector(text)} }

func labelSelector(text string) labels.Selector {
	s, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

// lan returns three nodes on one LAN, with two interfaces each and a path to the router 198.51.100.1, all alive, and one layer 2
// advertisement of everything.
func lan(services ...Service) *Snapshot {
	s := &Snapshot{
		Config:   config.Config{L2: []config.L2Advertisement{{Name: "everything", Selection: everywhere()}}},
		Services: services,
		Nodes:    map[string]Node{},
		Alive:    func(string) bool { return true },
		Paths: map[link.Destination]link.Path{{Address: netip.MustParseAddr("198.51.100.1")}: {
			Interface: "eth0", Source: netip.MustParseAddr(own4), OnLink: true, Addresses: addresses(own4, own6),
		}},
	}
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("node%d", i)
		s.Nodes[name] = Node{
			Labels: labels.Set{"name": name},
			Ready:  true,
			Interfaces: []Interface{
				{Name: "eth0", Prefixes: prefixes("198.51.100.0/24", "2001:db8:51::/64")},
				{Name: "eth1", Prefixes: prefixes("10.0.0.0/24")},
			},
		}
	}
	return s
}

// addresses are one of each family at the most.
func addresses(texts ...string) map[family.Family]netip.Addr {
	byFamily := map[family.Family]netip.Addr{}
	for _, text := range texts {
		a := netip.MustParseAddr(text)
		byFamily[family.Of(a)] = a
	}
	return byFamily
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func changeNode(s *Snapshot, name string, change func(*Node)) {
	node := s.Nodes[name]
	change(&node)
	s.Nodes[name] = node
}

func dead(nodes ...string) func(string) bool {
	return func(node string) bool { return !slices.Contains(nodes, node) }
}

// from returns the snapshot as the speaker of a node has it.
func (s *Snapshot) from(node string) *Snapshot {
	view := *s
	view.Node = node
	return &view
}

// sayAll tells in sentences what all speakers come to, sorted by node: which node answers for which address, and what is recorded.
func sayAll(s *Snapshot) (answers, records []string) {
	for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
		if !s.Alive(node) {
			continue
		}
		d := Decide(s.from(node))
		slices.SortFunc(d.Layer2, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
		for _, a := range d.Layer2 {
			answers = append(answers, fmt.Sprintf("%s: %s on %s", node, a.Address, strings.Join(a.Interfaces, ", ")))
		}
		for _, name := range slices.SortedFunc(maps.Keys(d.Records), func(a, b types.NamespacedName) int {
			return strings.Compare(a.String(), b.String())
		}) {
			r := d.Records[name]
			records = append(records, fmt.Sprintf("%s: %s has %s on %s", node, name.Name,
				strings.Join(r.Addresses, ", "), strings.Join(r.Interfaces, ", ")))
		}
		for name := range d.Kept {
			records = append(records, fmt.Sprintf("%s: %s is kept", node, name.Name))
		}
	}
	return answers, records
}

func TestLayer2(t *testing.T) {
	const elected = "node3" // XXH64 ranks it first for default/web
	pair := func(node string) []string {
		return []string{node + ": " + v4 + " on eth0", node + ": " + v6 + " on eth0"}
	}
	for _, tt := range []struct {
		name     string
		snapshot *Snapshot
		change   func(*Snapshot)
		want     []string
	}{
		{
			name:     "both families of a Service are on one node, on the interface that holds their prefixes",
			snapshot: lan(service("web", v4, v6)), want: pair(elected),
		},
		{
			name:     "nothing is announced without an advertisement",
			snapshot: lan(service("web", v4, v6)),
			change:   func(s *Snapshot) { s.Config.L2 = nil },
		},
		{
			name:     "nothing is announced where the advertisement is for another namespace",
			snapshot: lan(service("web", v4, v6)),
			change:   func(s *Snapshot) { s.Config.L2[0].Namespaces = map[string]bool{"shop": true} },
		},
		{
			name:     "an advertisement for the namespace announces",
			snapshot: lan(service("web", v4, v6)),
			change:   func(s *Snapshot) { s.Config.L2[0].Namespaces = map[string]bool{"shop": true, "default": true} }, want: pair(elected),
		},
		{
			name:     "nothing is announced where no advertisement names the pool",
			snapshot: lan(service("web", v4, v6)),
			change:   func(s *Snapshot) { s.Config.L2[0].Pools = map[string]bool{"other": true} },
		},
		{
			name:     "only the address whose pool is named is announced",
			snapshot: lan(with(service("web", v4, v6), func(svc *Service) { svc.Addresses[1].Pool = "production-ipv6" })),
			change:   func(s *Snapshot) { s.Config.L2[0].Pools = map[string]bool{"production-ipv6": true} },
			want:     []string{elected + ": " + v6 + " on eth0"},
		},
		{
			name: "only Services that the advertisement selects are announced",
			snapshot: lan(with(service("hidden", other4), func(svc *Service) { svc.Labels = labels.Set{"expose": "no"} }),
				with(service("web", v4), func(svc *Service) { svc.Labels = labels.Set{"expose": "yes"} })),
			change: func(s *Snapshot) { s.Config.L2[0].Services = selectors("expose=yes") },
			want:   []string{elected + ": " + v4 + " on eth0"},
		},
		{
			name:     "only nodes that the advertisement selects announce",
			snapshot: lan(service("web", v4, v6)),
			change:   func(s *Snapshot) { s.Config.L2[0].Nodes = selectors("name=node2") },
			want:     pair("node2"),
		},
		{
			name:     "an address in no node's subnet is announced nowhere",
			snapshot: lan(service("web", routed4)),
		},
		{
			name:     "a pattern of names announces on an interface that does not hold the prefix",
			snapshot: lan(heldBy("node1", service("web", routed4))),
			change:   func(s *Snapshot) { s.Config.L2[0].Interfaces = []string{"eth*"} },
			want:     []string{"node1: " + routed4 + " on eth0, eth1"},
		},
		{
			name:     "a name announces there only, though another interface holds the prefix",
			snapshot: lan(heldBy("node1", service("web", v4))),
			change:   func(s *Snapshot) { s.Config.L2[0].Interfaces = []string{"eth1"} },
			want:     []string{"node1: " + v4 + " on eth1"},
		},
		{
			name:     "a pattern that matches no interface announces nowhere",
			snapshot: lan(service("web", v4)),
			change:   func(s *Snapshot) { s.Config.L2[0].Interfaces = []string{"bond?"} },
		},
		{
			name:     "two advertisements of one address are announced on the interfaces of both",
			snapshot: lan(heldBy("node1", service("web", v4))),
			change: func(s *Snapshot) {
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{Selection: everywhere(), Interfaces: []string{"eth*"}})
			},
			want: []string{"node1: " + v4 + " on eth0, eth1"},
		},
		{
			name:     "two advertisements on different nodes make candidates of both, each with its own interfaces",
			snapshot: lan(heldBy("node2", service("web", v4))),
			change: func(s *Snapshot) {
				s.Config.L2[0].Nodes = selectors("name=node1")
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{
					Selection:  config.Selection{Nodes: selectors("name=node2")},
					Interfaces: []string{"eth1"},
				})
			},
			want: []string{"node2: " + v4 + " on eth1"},
		},

		{
			name:     "a preferred node takes addresses without a holder",
			snapshot: lan(service("web", v4, v6)),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 1, Nodes: labelSelector("name=node1")}}
			},
			want: pair("node1"),
		},
		{
			name:     "weights of several preferences and advertisements add up",
			snapshot: lan(service("web", v4, v6)),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{
					{Weight: 50, Nodes: labelSelector("name=node1")}, {Weight: 30, Nodes: labelSelector("name=node2")},
				}
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{
					Selection: everywhere(), Preferred: []config.Preference{{Weight: 30, Nodes: labelSelector("name=node2")}},
				})
			},
			want: pair("node2"),
		},
		{
			name:     "an advertisement of both families counts its preferences once",
			snapshot: lan(with(service("web", v4, v6), func(svc *Service) { svc.Addresses[1].Pool = "v6" })),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 30, Nodes: labelSelector("name=node1")}}
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{
					Selection: config.Selection{Pools: map[string]bool{"v6": true}},
					Preferred: []config.Preference{{Weight: 40, Nodes: labelSelector("name=node2")}},
				})
			},
			want: pair("node2"),
		},
		{
			name:     "a preferred node takes nothing from the recorded holder",
			snapshot: lan(heldBy("node2", service("web", v4, v6))),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 1, Nodes: labelSelector("name=node1")}}
			},
			want: pair("node2"),
		},

		{
			name:     "a node that the Service prefers takes its addresses",
			snapshot: lan(with(service("web", v4, v6), func(svc *Service) { svc.Preferred = labelSelector("name=node1") })),
			want:     pair("node1"),
		},
		{
			name:     "that counts as much as the strongest preference of an advertisement",
			snapshot: lan(with(service("web", v4, v6), func(svc *Service) { svc.Preferred = labelSelector("name=node1") })),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{
					{Weight: 100, Nodes: labelSelector("name=node2")}, {Weight: 1, Nodes: labelSelector("name=node2")},
				}
			},
			want: pair("node2"),
		},
		{
			name: "of two Services that are alike each has the node that it prefers",
			snapshot: lan(with(service("mail", other4), func(svc *Service) { svc.Preferred = labelSelector("name=node2") }),
				with(service("web", v4), func(svc *Service) { svc.Preferred = labelSelector("name=node1") })),
			want: []string{"node1: " + v4 + " on eth0", "node2: " + other4 + " on eth0"},
		},

		{
			name:     "the recorded holder keeps its addresses",
			snapshot: lan(heldBy("node1", service("web", v4, v6))), want: pair("node1"),
		},
		{
			name:     "a dead holder loses them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { s.Alive = dead("node1") },
			want:     pair(elected),
		},
		{
			name:     "an excluded holder loses them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
			want:     pair(elected),
		},
		{
			name:     "a holder whose Node is deleted loses them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { delete(s.Nodes, "node1") },
			want:     pair(elected),
		},
		{
			name:     "a holder whose interface is gone loses them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Interfaces = n.Interfaces[1:] }) },
			want:     pair(elected),
		},
		{
			name:     "a holder that an edited advertisement no longer selects loses them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { s.Config.L2[0].Nodes = selectors("name!=node1") },
			want:     pair(elected),
		},
		{
			name:     "a holder that lost one family's subnet loses both to a node that has them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) {
					n.Interfaces = []Interface{{Name: "eth0", Prefixes: prefixes("198.51.100.0/24")}}
				})
			},
			want: pair(elected),
		},
		{
			name:     "where no node has both families' subnets the holder keeps the one it has",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change: func(s *Snapshot) {
				for name := range s.Nodes {
					changeNode(s, name, func(n *Node) {
						n.Interfaces = []Interface{{Name: "eth0", Prefixes: prefixes("198.51.100.0/24")}}
					})
				}
			},
			want: []string{"node1: " + v4 + " on eth0"},
		},

		{
			name:     "a live holder that is not Ready keeps them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Ready = false }) },
			want:     pair("node1"),
		},
		{
			name:     "when it has not been Ready for long it loses them to one that is",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Ready, n.LongNotReady = false, true }) },
			want:     pair(elected),
		},
		{
			name:     "a live holder that is not Ready loses them to a node that serves more",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) {
					n.Ready, n.Interfaces = false, []Interface{{Name: "eth0", Prefixes: prefixes("198.51.100.0/24")}}
				})
			},
			want: pair(elected),
		},
		{
			name:     "a live holder that is not Ready and serves a part keeps it where nobody serves more",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change: func(s *Snapshot) {
				for name := range s.Nodes {
					changeNode(s, name, func(n *Node) {
						n.Ready, n.Interfaces = name != "node1", []Interface{{Name: "eth0", Prefixes: prefixes("198.51.100.0/24")}}
					})
				}
			},
			want: []string{"node1: " + v4 + " on eth0"},
		},
		{
			name:     "where no candidate is Ready the holder keeps them",
			snapshot: lan(heldBy("node1", service("web", v4, v6))),
			change: func(s *Snapshot) {
				for name := range s.Nodes {
					changeNode(s, name, func(n *Node) { n.Ready = false })
				}
			},
			want: pair("node1"),
		},
		{
			name:     "a node that is not Ready and serves both families goes before a Ready one that serves one",
			snapshot: lan(service("web", v4, v6)),
			change: func(s *Snapshot) {
				for _, name := range []string{"node2", "node3"} {
					changeNode(s, name, func(n *Node) { n.Interfaces[0].Prefixes = prefixes("198.51.100.0/24") })
				}
				changeNode(s, "node1", func(n *Node) { n.Ready = false })
			},
			want: pair("node1"),
		},
		{
			name:     "a preference does not make up for not being Ready",
			snapshot: lan(service("web", v4, v6)),
			change: func(s *Snapshot) {
				s.Config.L2[0].Preferred = []config.Preference{{Weight: 100, Nodes: labelSelector("name=node1")}}
				changeNode(s, "node1", func(n *Node) { n.Ready = false })
			},
			want: pair(elected),
		},

		{
			name:     "nothing is announced without a usable endpoint",
			snapshot: lan(heldBy("node1", with(service("web", v4, v6), func(svc *Service) { svc.Endpoints = nil }))),
		},
		{
			name:     "only the family that has endpoints is announced",
			snapshot: lan(heldBy("node1", with(service("web", v4, v6), func(svc *Service) { delete(svc.Endpoints, family.IPv4) }))),
			want:     []string{"node1: " + v6 + " on eth0"},
		},
		{
			name:     "an endpoint on an unknown node suffices for externalTrafficPolicy Cluster",
			snapshot: lan(heldBy("node1", with(service("web", v4), func(svc *Service) { svc.Endpoints[family.IPv4] = Endpoints{Any: true} }))),
			want:     []string{"node1: " + v4 + " on eth0"},
		},
		{
			name:     "with externalTrafficPolicy Local the node with the endpoint announces",
			snapshot: lan(localOn(service("web", v4, v6), "node2")), want: pair("node2"),
		},
		{
			name:     "with externalTrafficPolicy Local a holder without an endpoint loses its addresses",
			snapshot: lan(heldBy("node1", localOn(service("web", v4, v6), "node2"))), want: pair("node2"),
		},
		{
			name:     "with externalTrafficPolicy Local an endpoint on an unknown node does not count",
			snapshot: lan(heldBy("node1", localOn(service("web", v4, v6)))),
		},
		{
			name: "with externalTrafficPolicy Local a node with endpoints of both families goes before one with one",
			snapshot: lan(heldBy("node1", with(localOn(service("web", v4, v6), "node1", "node2"), func(svc *Service) {
				svc.Endpoints[family.IPv6] = endpointsOn("node2")
			}))),
			want: pair("node2"),
		},

		{
			name:     "Services that share an address are elected together, whatever their records say",
			snapshot: lan(heldBy("node1", service("a", shared4, v6)), heldBy("node2", service("b", shared4, other6))),
			want: []string{
				"node1: " + shared4 + " on eth0", "node1: " + v6 + " on eth0", "node1: " + other6 + " on eth0",
			},
		},
		{
			name:     "a dead node's record does not outweigh that of its live successor",
			snapshot: lan(heldBy("node1", service("a", shared4)), heldBy("node3", service("b", shared4))),
			change:   func(s *Snapshot) { s.Alive = dead("node1") },
			want:     []string{"node3: " + shared4 + " on eth0"},
		},
		{
			name:     "the record of any Service in the group counts",
			snapshot: lan(service("a", shared4), heldBy("node2", service("b", shared4))),
			want:     []string{"node2: " + shared4 + " on eth0"},
		},
		{
			name: "a chain of three, joined by its middle one read last, is one group",
			snapshot: lan(heldBy("node1", service("a", shared4, v6)), heldBy("node2", service("b", other4, shared6)),
				heldBy("node3", service("c", shared4, shared6))),
			want: []string{
				"node1: " + other4 + " on eth0", "node1: " + shared4 + " on eth0",
				"node1: " + v6 + " on eth0", "node1: " + shared6 + " on eth0",
			},
		},
		{
			name:     "a shared address needs a node that serves every Local Service on it",
			snapshot: lan(heldBy("node1", localOn(service("a", shared4), "node1", "node2")), localOn(service("b", shared4), "node2", "node3")),
			want:     []string{"node2: " + shared4 + " on eth0"},
		},
		{
			name:     "local Services without a common node leave a shared address with its holder",
			snapshot: lan(heldBy("node2", localOn(service("a", shared4), "node1")), localOn(service("b", shared4), "node2")),
			want:     []string{"node2: " + shared4 + " on eth0"},
		},
		{
			name:     "a holder that serves none of the local Services loses a shared address",
			snapshot: lan(heldBy("node3", localOn(service("a", shared4), "node2")), localOn(service("b", shared4), "node2")),
			want:     []string{"node2: " + shared4 + " on eth0"},
		},
		{
			name: "a Service without endpoints does not hold up another on the same address",
			snapshot: lan(heldBy("node1", service("a", shared4)),
				with(localOn(service("b", shared4)), func(svc *Service) { svc.Endpoints = nil })),
			want: []string{"node1: " + shared4 + " on eth0"},
		},
		{
			name: "a shared address is announced if an advertisement selects one of its Services",
			snapshot: lan(heldBy("node1", service("a", shared4)), with(service("b", shared4), func(svc *Service) {
				svc.Labels = labels.Set{"expose": "yes"}
			})),
			change: func(s *Snapshot) { s.Config.L2[0].Services = selectors("expose=yes") },
			want:   []string{"node1: " + shared4 + " on eth0"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.snapshot)
			}
			got, _ := sayAll(tt.snapshot)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("announced on layer 2 (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecords(t *testing.T) {
	for _, tt := range []struct {
		name     string
		snapshot *Snapshot
		change   func(*Snapshot)
		want     []string
	}{
		{
			name:     "addresses are recorded in the order of the Service",
			snapshot: lan(heldBy("node1", service("web", v6, v4))),
			want:     []string{"node1: web has " + v6 + ", " + v4 + " on eth0"},
		},
		{
			name:     "an address without endpoints is not recorded",
			snapshot: lan(heldBy("node1", with(service("web", v4, v6), func(svc *Service) { delete(svc.Endpoints, family.IPv6) }))),
			want:     []string{"node1: web has " + v4 + " on eth0"},
		},
		{
			name:     "interfaces are those of all addresses together",
			snapshot: lan(heldBy("node1", with(service("web", v4, v6), func(svc *Service) { svc.Addresses[1].Pool = "v6" }))),
			change: func(s *Snapshot) {
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{
					Selection:  config.Selection{Pools: map[string]bool{"v6": true}},
					Interfaces: []string{"eth1"},
				})
			},
			want: []string{"node1: web has " + v4 + ", " + v6 + " on eth0, eth1"},
		},
		{
			name:     "each Service of a group is recorded with its own addresses",
			snapshot: lan(heldBy("node1", service("a", shared4, v6)), service("b", shared4, other6)),
			want: []string{
				"node1: a has " + shared4 + ", " + v6 + " on eth0",
				"node1: b has " + shared4 + ", " + other6 + " on eth0",
			},
		},
		{
			name: "a Service without endpoints is recorded with the address that it shares",
			snapshot: lan(heldBy("node1", service("a", shared4, v6)), with(service("b", shared4, other6), func(svc *Service) {
				svc.Endpoints = nil
			})),
			want: []string{
				"node1: a has " + shared4 + ", " + v6 + " on eth0",
				"node1: b has " + shared4 + " on eth0",
			},
		},
		{
			name:     "a Service that has no endpoint any more stays on record as it is",
			snapshot: lan(heldBy("node1", with(service("web", v4, v6), func(svc *Service) { svc.Endpoints = nil }))),
			want:     []string{"node1: web is kept"},
		},
		{
			name:     "but not if nothing announces it on layer 2 any more",
			snapshot: lan(heldBy("node1", with(service("web", v4), func(svc *Service) { svc.Endpoints = nil }))),
			change:   func(s *Snapshot) { s.Config.L2[0].Pools = map[string]bool{"other": true} },
		},
		{
			name:     "nor if it has endpoints, and no node can serve it",
			snapshot: lan(heldBy("node1", service("web", v4))),
			change: func(s *Snapshot) {
				for name := range s.Nodes {
					changeNode(s, name, func(n *Node) { n.Excluded = true })
				}
			},
		},
		{
			name: "a Service none of whose addresses is announced is not recorded, though its group is",
			snapshot: lan(heldBy("node1", with(service("a", routed4, v4), func(svc *Service) { svc.Addresses[0].Pool = "routed" })),
				with(service("b", routed4), func(svc *Service) { svc.Addresses[0].Pool = "routed" })),
			change: func(s *Snapshot) { s.Config.L2[0].Pools = map[string]bool{"lan": true} },
			want:   []string{"node1: a has " + v4 + " on eth0"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.snapshot)
			}
			_, got := sayAll(tt.snapshot)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("recorded (-want +got):\n%s", diff)
			}
		})
	}
}

// A speaker that has just started goes on with what it is on record for and takes nothing else, though it sees no other speaker alive.
func TestStartupHold(t *testing.T) {
	s := lan(heldBy("node1", service("mine", v4)), heldBy("node2", service("theirs", other4)), service("nobodys", shared4)).from("node1")
	s.Alive = dead("node2", "node3")
	s.StartupHold = true
	want := []Announcement{{Address: netip.MustParseAddr(v4), Interfaces: []string{"eth0"}}}
	if diff := cmp.Diff(want, Decide(s).Layer2, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("announced during the startup hold (-want +got):\n%s", diff)
	}
	s.StartupHold = false
	if got := Decide(s).Layer2; len(got) != 3 {
		t.Errorf("announced %v after the startup hold, want all three addresses", got)
	}
}

// A speaker that is isolated goes on with what it is on record for, takes nothing, is nobody's deputy, and leaves its BGP sessions alone.
func TestIsolated(t *testing.T) {
	s := lan(heldBy("node1", service("web", v4)), heldBy("node2", service("dead", other4)), heldBy("node3", service("away", shared4))).from("node1")
	s.Config.Peers, s.Config.BGP = []config.Peer{tor("tor1")}, []config.BGPAdvertisement{toAll("all")}
	s.Alive, s.Away = dead("node2", "node3"), map[string]bool{"node3": true}
	changeNode(s, "node3", func(n *Node) { n.Interfaces[0].MAC = net.HardwareAddr{2, 0, 0, 0, 0, 3} })
	routes := len(Decide(s).BGP[0].Routes)
	if got := Decide(s).Layer2; len(got) != 3 {
		t.Fatalf("a speaker that is not isolated answers for %v, want all three addresses", got)
	}
	s.Isolated = true
	d := Decide(s)
	want := []Announcement{{Address: netip.MustParseAddr(v4), Interfaces: []string{"eth0"}}}
	if diff := cmp.Diff(want, d.Layer2, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("announced by an isolated speaker (-want +got):\n%s", diff)
	}
	if len(d.BGP) != 1 || len(d.BGP[0].Routes) != routes {
		t.Errorf("the sessions of an isolated speaker are %+v, want one with %d routes", d.BGP, routes)
	}
}

// A speaker that leaves an address to another one answers for no address of the group, listens for all, and stays on record.
func TestYielded(t *testing.T) {
	s := lan(heldBy("node1", service("web", v4, v6)), heldBy("node1", service("mail", other4))).from("node1")
	s.Yielded = map[netip.Addr]bool{netip.MustParseAddr(v6): true, netip.MustParseAddr(shared4): true}
	d := Decide(s)
	want := []Announcement{
		{Address: netip.MustParseAddr(v4), Interfaces: []string{"eth0"}, Listen: true},
		{Address: netip.MustParseAddr(v6), Interfaces: []string{"eth0"}, Listen: true},
		{Address: netip.MustParseAddr(other4), Interfaces: []string{"eth0"}},
	}
	slices.SortFunc(d.Layer2, func(a, b Announcement) int { return slices.IndexFunc(want, is(a)) - slices.IndexFunc(want, is(b)) })
	if diff := cmp.Diff(want, d.Layer2, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	if _, recorded := d.Records[web]; recorded || !d.Kept[web] || len(d.Records) != 1 {
		t.Errorf("recorded %v, kept %v; want mail recorded, and web kept", d.Records, d.Kept)
	}
}

// A node that was elected, and does not put itself on record, is passed over, unless there is no other.
func TestPassed(t *testing.T) {
	const elected = "node3" // XXH64 ranks it first for default/web
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	next := ""
	for _, node := range []string{"node1", "node2"} {
		s := lan(service("web", v4)).from(node)
		s.Alive = dead(elected)
		if len(Decide(s).Layer2) == 1 {
			next = node
		}
	}
	for _, tt := range []struct {
		name    string
		node    string // which decides
		svc     Service
		passed  []string
		want    bool // it announces
		awaited string
	}{
		{name: "another node is elected", node: next, svc: service("web", v4), awaited: elected},
		{name: "it is elected itself", node: elected, svc: service("web", v4), want: true},
		{name: "the elected node is on record", node: next, svc: heldBy(elected, service("web", v4))},
		{name: "it is passed over", node: elected, svc: service("web", v4), passed: []string{elected}, awaited: next},
		{name: "the next in rank takes its place", node: next, svc: service("web", v4), passed: []string{elected}, want: true},
		{name: "all are passed over", node: elected, svc: service("web", v4), passed: []string{"node1", "node2", "node3"}, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(tt.svc).from(tt.node)
			s.Passed = map[types.NamespacedName]map[string]bool{web: {}}
			for _, node := range tt.passed {
				s.Passed[web][node] = true
			}
			if d := Decide(s); len(d.Layer2) == 1 != tt.want || d.Awaited[web] != tt.awaited {
				t.Errorf("announces %v, awaits %v; want %v and %q", d.Layer2, d.Awaited, tt.want, tt.awaited)
			}
		})
	}
}

func is(a Announcement) func(Announcement) bool {
	return func(b Announcement) bool { return a.Address == b.Address }
}

// Nodes that gossip does not reach, and that live all the same, are elected like others. So all nodes agree where gossip's port is closed.
func TestUnreachable(t *testing.T) {
	for name, svc := range map[string]Service{"new": service("web", v4), "held": heldBy("node2", service("web", v4))} {
		elected := map[string]bool{}
		for _, node := range []string{"node1", "node2", "node3"} {
			s := lan(svc).from(node)
			s.Alive = func(other string) bool { return other == node }
			s.Away, s.Unreachable = map[string]bool{}, map[string]bool{}
			for other := range s.Nodes {
				s.Away[other], s.Unreachable[other] = other != node, other != node
			}
			for _, a := range Decide(s).Layer2 {
				if len(a.As) == 0 {
					elected[node] = true
				}
			}
		}
		if len(elected) != 1 || name == "held" && !elected["node2"] {
			t.Errorf("%s: announced by %v, want by one node, and by node2 where it is on record", name, elected)
		}
	}
}

func sameAddr(a, b netip.Addr) bool     { return a == b }
func samePrefix(a, b netip.Prefix) bool { return a == b }
func sayRoute(r bgp.Route) string {
	return strings.TrimSpace(fmt.Sprint(r.Prefix, " ", sayAttributes(r)))
}

func inPools(names ...string) config.Selection {
	s := everywhere()
	s.Pools = map[string]bool{}
	for _, name := range names {
		s.Pools[name] = true
	}
	return s
}

// sayAttributes tells the attributes that are set.
func sayAttributes(r bgp.Route) string {
	var words []string
	if r.LocalPref != nil {
		words = append(words, fmt.Sprintf("localPref=%d", *r.LocalPref))
	}
	if r.MED != nil {
		words = append(words, fmt.Sprintf("med=%d", *r.MED))
	}
	if r.Prepend > 0 {
		words = append(words, fmt.Sprintf("prepend=%d", r.Prepend))
	}
	for _, c := range r.Communities {
		words = append(words, c.String())
	}
	if r.NextHop.IsValid() {
		words = append(words, "nextHop="+r.NextHop.String())
	}
	return strings.Join(words, " ")
}

// tor returns a peer at 198.51.100.1, as package config compiles it.
func tor(name string) config.Peer {
	p := config.Peer{Name: name, Peer: bgp.Peer{Name: name, LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("198.51.100.1")}}
	p.Peer.Defaults()
	return p
}

// in returns a Service in another namespace.
func in(namespace string, svc Service) Service {
	svc.Name.Namespace = namespace
	return svc
}

// toAll returns an advertisement of every address to every peer.
func toAll(name string) config.BGPAdvertisement {
	return config.BGPAdvertisement{Name: name, Selection: everywhere(), LengthIPv4: 32, LengthIPv6: 128}
}

func TestRoutes(t *testing.T) {
	ad := toAll
	peer := func(name, nodes string) config.Peer {
		p := tor(name)
		p.Nodes = selectors(nodes)
		return p
	}
	for _, tt := range []struct {
		name     string
		peers    []config.Peer
		ads      []config.BGPAdvertisement
		services []Service
		change   func(*Snapshot)
		want     map[string][]string // what each peer of node1 is told
	}{
		{
			name:  "a peer is told both families of every Service, whatever family its session has",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v6, v4), service("routed", routed4)},
			want:     map[string][]string{"tor1": {routed4 + "/32", v4 + "/32", v6 + "/128"}},
		},
		{
			name:  "a peer is told of the Services in the namespaces that the advertisement is for",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v4), in("shop", service("mail", routed4))},
			change:   func(s *Snapshot) { s.Config.BGP[0].Namespaces = map[string]bool{"shop": true} },
			want:     map[string][]string{"tor1": {routed4 + "/32"}},
		},
		{
			name:  "a peer without an advertisement has a session and is told nothing",
			peers: []config.Peer{peer("tor1", "")}, services: []Service{service("web", v4)},
			want: map[string][]string{"tor1": nil},
		},
		{
			name:  "a peer that does not select the node has no session",
			peers: []config.Peer{peer("tor1", "name=node1"), peer("tor2", "name=node2")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": {v4 + "/32"}},
		},
		{
			name:     "a node does not announce by an advertisement that does not select it",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.Nodes = selectors("name=node2") })},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": nil},
		},
		{
			name:     "an advertisement is for the peers that it names",
			peers:    []config.Peer{peer("tor1", ""), peer("tor2", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.Peers = map[string]bool{"tor2": true} })},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": nil, "tor2": {v4 + "/32"}},
		},
		{
			name:     "an advertisement whose peers do not exist is for none",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.Peers = map[string]bool{} })},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": nil},
		},
		{
			name:  "one pool goes to different peers with different attributes",
			peers: []config.Peer{peer("tor1", ""), peer("tor2", "")},
			ads: []config.BGPAdvertisement{
				advertise(ad("primary"), func(a *config.BGPAdvertisement) {
					a.Peers, a.LocalPref, a.MED = map[string]bool{"tor1": true}, new(uint32(200)), new(uint32(10))
				}),
				advertise(ad("secondary"), func(a *config.BGPAdvertisement) { a.Peers, a.ASPathPrepend = map[string]bool{"tor2": true}, 3 }),
			},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": {v4 + "/32 localPref=200 med=10"}, "tor2": {v4 + "/32 prepend=3"}},
		},
		{
			name:     "only addresses of the pools are announced",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.Selection = inPools("v6") })},
			services: []Service{with(service("web", v4, v6), func(svc *Service) { svc.Addresses[1].Pool = "v6" })},
			want:     map[string][]string{"tor1": {v6 + "/128"}},
		},
		{
			name:     "only Services that the advertisement selects are announced",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.Services = selectors("tier=front") })},
			services: []Service{service("back", other4), with(service("web", v4), func(svc *Service) { svc.Labels = labels.Set{"tier": "front"} })},
			want:     map[string][]string{"tor1": {v4 + "/32"}},
		},
		{
			name:  "a family without a usable endpoint is not announced",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{with(service("web", v4, v6), func(svc *Service) { delete(svc.Endpoints, family.IPv4) })},
			want:     map[string][]string{"tor1": {v6 + "/128"}},
		},
		{
			name:  "with externalTrafficPolicy Local a node without an endpoint announces nothing",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{localOn(service("here", v4), "node1", "node2"), localOn(service("there", other4), "node2")},
			want:     map[string][]string{"tor1": {v4 + "/32"}},
		},
		{
			name:  "an excluded node withdraws everything and keeps its sessions",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v4)},
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Excluded = true }) },
			want:     map[string][]string{"tor1": nil},
		},
		{
			name:  "a node that is deleted withdraws everything",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v4)},
			change:   func(s *Snapshot) { delete(s.Nodes, "node1") },
			want:     map[string][]string{"tor1": nil},
		},
		{
			name:  "a node that is not Ready goes on: its endpoints say what it serves",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("web", v4)},
			change:   func(s *Snapshot) { changeNode(s, "node1", func(n *Node) { n.Ready = false }) },
			want:     map[string][]string{"tor1": {v4 + "/32"}},
		},
		{
			name:     "two Services in one aggregate are one prefix, of the length of their family",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.LengthIPv4, a.LengthIPv6 = 28, 120 })},
			services: []Service{service("a", v4, v6), service("b", other4, other6)},
			want:     map[string][]string{"tor1": {"198.51.100.192/28", "2001:db8:51::1200/120"}},
		},
		{
			name:     "an aggregate stays while one of its Services has an endpoint",
			peers:    []config.Peer{peer("tor1", "")},
			ads:      []config.BGPAdvertisement{advertise(ad("all"), func(a *config.BGPAdvertisement) { a.LengthIPv4 = 28 })},
			services: []Service{with(service("a", v4), func(svc *Service) { svc.Endpoints = nil }), service("b", other4)},
			want:     map[string][]string{"tor1": {"198.51.100.192/28"}},
		},
		{
			name:  "two lengths for one address are both announced",
			peers: []config.Peer{peer("tor1", "")},
			ads: []config.BGPAdvertisement{
				advertise(ad("aggregate"), func(a *config.BGPAdvertisement) { a.LengthIPv4 = 28 }),
				advertise(ad("exact"), func(a *config.BGPAdvertisement) { a.LocalPref = new(uint32(50)) }),
			},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": {"198.51.100.192/28", v4 + "/32 localPref=50"}},
		},
		{
			name:  "an advertisement of everything takes no attribute from one of something that comes after it",
			peers: []config.Peer{peer("tor1", "")},
			ads: []config.BGPAdvertisement{
				ad("all"),
				advertise(ad("primary"), func(a *config.BGPAdvertisement) {
					a.LocalPref, a.MED, a.ASPathPrepend = new(uint32(200)), new(uint32(0)), 2
				}),
			},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": {v4 + "/32 localPref=200 med=0 prepend=2"}},
		},
		{
			name:  "two advertisements to one prefix give it the communities of both and each attribute of the first by name that sets it",
			peers: []config.Peer{peer("tor1", "")},
			ads: []config.BGPAdvertisement{
				advertise(ad("a"), func(a *config.BGPAdvertisement) {
					a.LocalPref, a.Communities = new(uint32(200)), []bgp.Community{{A: 64512, B: 1}, {A: 64512, B: 2}}
				}),
				advertise(ad("b"), func(a *config.BGPAdvertisement) {
					a.LocalPref, a.MED = new(uint32(100)), new(uint32(7))
					a.Communities = []bgp.Community{{A: 64512, B: 2}, {Large: true, A: 64512, B: 1, C: 2}}
				}),
			},
			services: []Service{service("web", v4)},
			want:     map[string][]string{"tor1": {v4 + "/32 localPref=200 med=7 64512:1 64512:2 large:64512:1:2"}},
		},
		{
			name:  "Services that share an address are one prefix",
			peers: []config.Peer{peer("tor1", "")}, ads: []config.BGPAdvertisement{ad("all")},
			services: []Service{service("a", shared4), service("b", shared4)},
			want:     map[string][]string{"tor1": {shared4 + "/32"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(tt.services...).from("node1")
			s.Config = config.Config{Peers: tt.peers, BGP: tt.ads, Pools: lanPool()}
			if tt.change != nil {
				tt.change(s)
			}
			got := map[string][]string{}
			for _, session := range Decide(s).BGP {
				got[session.Peer.Name] = nil
				for _, route := range session.Routes {
					route.NextHop = netip.Addr{} // of which TestSessions has more
					got[session.Peer.Name] = append(got[session.Peer.Name], sayRoute(route))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
		})
	}
}

// lanPool has the pool of the tests, in the subnet of the nodes.
func lanPool() map[string]*netipx.IPSet {
	return map[string]*netipx.IPSet{"lan": ranges("198.51.100.192-198.51.100.239", "2001:db8:51::1000/116")}
}

func ranges(texts ...string) *netipx.IPSet {
	var all netipx.IPSetBuilder
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			all.AddPrefix(prefix)
		} else {
			all.AddRange(netipx.MustParseIPRange(text))
		}
	}
	set, err := all.IPSet()
	if err != nil {
		panic(err)
	}
	return set
}

func advertise(ad config.BGPAdvertisement, change func(*config.BGPAdvertisement)) config.BGPAdvertisement {
	change(&ad)
	return ad
}

// randomSnapshot returns a small cluster in which anything may be wrong with anything.
func randomSnapshot(r *rand.Rand) *Snapshot {
	s := randomSnapshotWithoutKernel(r)
	for i, ad := range s.Config.BGP { // those of the kernel are like those of BGP
		s.Config.Interfaces = append(s.Config.Interfaces, config.InterfaceAdvertisement{
			Name: ad.Name, Selection: ad.Selection, Interface: []string{"", "kube-lb0"}[i%2], LengthIPv4: ad.LengthIPv4, LengthIPv6: 128,
		})
	}
	return s
}

func randomSnapshotWithoutKernel(r *rand.Rand) *Snapshot {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	s := &Snapshot{Nodes: map[string]Node{}}
	var names []string
	alive := map[string]bool{}
	for i := range 1 + r.IntN(5) {
		name := fmt.Sprintf("node%d", i)
		names = append(names, name)
		alive[name] = chance(80)
		node := Node{Labels: labels.Set{"rack": fmt.Sprint(r.IntN(2))}, Excluded: chance(10), Ready: chance(85)}
		for n := range r.IntN(3) {
			subnets := prefixes("198.51.100.0/24", "2001:db8:51::/64", "192.0.2.0/24")
			r.Shuffle(len(subnets), func(i, j int) { subnets[i], subnets[j] = subnets[j], subnets[i] })
			node.Interfaces = append(node.Interfaces, Interface{
				Name: fmt.Sprintf("eth%d", n), MAC: macOf(name, fmt.Sprint("eth", n)), Prefixes: subnets[:r.IntN(4)],
			})
		}
		s.Nodes[name] = node
	}
	s.Alive = func(node string) bool { return alive[node] }
	selection := func() config.Selection {
		sel := everywhere()
		if chance(40) {
			sel.Pools = map[string]bool{fmt.Sprint("pool", r.IntN(3)): true}
		}
		if chance(30) {
			sel.Services = selectors("expose=yes")
		}
		if chance(20) {
			sel.Namespaces = map[string]bool{"default": chance(50)}
		}
		if chance(30) {
			sel.Nodes = selectors("rack=1")
		}
		return sel
	}
	for i := range r.IntN(4) {
		ad := config.L2Advertisement{Name: fmt.Sprint("ad", i), Selection: selection()}
		if chance(30) {
			ad.Interfaces = []string{[]string{"eth0", "eth*", "eth1"}[r.IntN(3)]}
		}
		if chance(30) {
			ad.Preferred = []config.Preference{{Weight: int32(r.IntN(100)), Nodes: labelSelector("rack=0")}}
		}
		s.Config.L2 = append(s.Config.L2, ad)
	}
	s.Config.Pools = map[string]*netipx.IPSet{}
	for i := range 3 {
		s.Config.Pools[fmt.Sprint("pool", i)] = ranges("198.51.100.0/25", "192.0.2.0/28", "2001:db8:51::/112")
	}
	s.Config.Excluded = map[string]*netipx.IPSet{"pool1": ranges("192.0.2.9/32")}
	for i := range r.IntN(3) {
		peer := tor(fmt.Sprint("peer", i))
		peer.Nodes = selection().Nodes
		s.Config.Peers = append(s.Config.Peers, peer)
		s.Config.BGP = append(s.Config.BGP, config.BGPAdvertisement{
			Name: fmt.Sprint("ad", i), Selection: selection(), LengthIPv4: 28 + 4*r.IntN(2), LengthIPv6: 128 - 8*r.IntN(2),
			Communities: []bgp.Community{{A: 64512, B: uint32(i)}},
		})
		if chance(20) {
			s.Config.BGP[i].Peers = map[string]bool{fmt.Sprint("peer", r.IntN(3)): true}
		}
	}
	pool := func(a string) Address { // the pool follows from the address
		ip := netip.MustParseAddr(a)
		return Address{ip, fmt.Sprint("pool", ip.As16()[15]%3)}
	}
	for i := range r.IntN(10) {
		svc := Service{
			Name:      types.NamespacedName{Namespace: fmt.Sprint("ns", r.IntN(2)), Name: fmt.Sprint("svc", i)},
			Local:     chance(30),
			Endpoints: map[family.Family]Endpoints{},
		}
		if chance(50) {
			svc.Labels = labels.Set{"expose": "yes"}
		}
		if chance(80) {
			svc.Addresses = append(svc.Addresses, pool([]string{
				fmt.Sprintf("198.51.100.%d", r.IntN(8)), fmt.Sprintf("192.0.2.%d", r.IntN(4)),
			}[r.IntN(2)]))
		}
		if chance(80) || svc.Addresses == nil {
			svc.Addresses = append(svc.Addresses, pool(fmt.Sprintf("2001:db8:51::%d", r.IntN(8))))
		}
		for _, af := range []family.Family{family.IPv4, family.IPv6} {
			if chance(85) {
				svc.Endpoints[af] = endpointsOn(names[r.IntN(len(names))], names[r.IntN(len(names))])
			}
		}
		if chance(60) {
			svc = heldBy(names[r.IntN(len(names))], svc)
			svc.Recorded.Addresses = svc.Recorded.Addresses[:r.IntN(len(svc.Addresses)+1)]
			svc.Recorded.Interfaces = svc.Recorded.Interfaces[:1+r.IntN(2)]
			if chance(20) {
				svc.Target = names[r.IntN(len(names))]
			}
		}
		s.Services = append(s.Services, svc)
	}
	randomPeers(r, s)
	return s
}

// randomPeers lets anything be wrong with the peers of a snapshot, and with the sessions of its nodes.
func randomPeers(r *rand.Rand, s *Snapshot) {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	s.Paths = map[link.Destination]link.Path{}
	s.Sessions = map[NodePeer]bgp.SessionState{}
	s.Password = func(key config.SecretKey) (bgp.Password, error) {
		if key.Secret == "missing" {
			return "", errors.New("there is no Secret tandem-system/missing")
		}
		return "s3cret", nil
	}
	for i := range s.Config.Peers {
		peer := &s.Config.Peers[i]
		peer.Peer.Address = netip.MustParseAddr(fmt.Sprint("198.51.100.", 250+i))
		if chance(30) {
			peer.Peer.Families = family.All[r.IntN(2):][:1]
		}
		if chance(30) {
			peer.PasswordSecret = &config.SecretKey{Secret: []string{"missing", "tor-auth"}[r.IntN(2)], Key: "password"}
		}
		if chance(20) {
			peer.Peer.SourceAddress = netip.MustParseAddr("198.51.100.77")
		}
		path := link.Path{Interface: "eth0", Source: netip.MustParseAddr(own4), Addresses: addresses([]string{own4, own6}[r.IntN(3):]...)}
		if chance(15) {
			path.Err = errors.New("network is unreachable")
		}
		if chance(90) {
			s.Paths[link.Destination{Address: peer.Peer.Address}] = path
		}
		for node := range s.Nodes {
			if chance(70) {
				s.Sessions[NodePeer{node, peer.Name}] = bgp.SessionState{
					State: []bgp.State{bgp.Established, bgp.Established, bgp.Active}[r.IntN(3)], Families: family.All[r.IntN(2):],
					Advertised: map[family.Family]int{family.IPv4: r.IntN(2)},
				}
			}
		}
	}
	for i := range s.Services {
		if chance(20) {
			s.Services[i].Unclaimed = []netip.Addr{netip.MustParseAddr(fmt.Sprint("203.0.113.", r.IntN(4)))}
		}
	}
}

func TestDecideProperties(t *testing.T) {
	const seed, clusters = 2, 5000
	for n := range uint64(clusters) {
		r := rand.New(rand.NewPCG(seed, n))
		s := randomSnapshot(r)
		holders := map[netip.Addr]string{}
		recorded := map[types.NamespacedName]string{}
		for node := range s.Nodes {
			d := Decide(s.from(node))
			for _, a := range d.Layer2 {
				if !s.Alive(node) {
					continue // it does what it likes; the others see it as dead
				}
				if a.As != nil {
					checkDraining(t, n, s, node, a)
					continue
				}
				if other, taken := holders[a.Address]; taken {
					t.Fatalf("cluster %d: %s is announced by %s and %s", n, a.Address, other, node)
				}
				holders[a.Address] = node
				checkAnnouncement(t, n, s, node, a)
			}
			for name, record := range d.Records {
				if other, taken := recorded[name]; taken && s.Alive(node) {
					t.Fatalf("cluster %d: %s is recorded by %s and %s", n, name, other, node)
				}
				recorded[name] = node
				if len(record.Addresses) == 0 || len(record.Interfaces) == 0 {
					t.Fatalf("cluster %d: the record of %s is empty: %+v", n, name, record)
				}
			}
		}
		checkTogether(t, n, s, holders)
		checkOrder(t, n, s, r)
		checkStays(t, n, s, holders)
	}
}

// checkAnnouncement checks what holds for an address that a node announces, without the code under test.
func checkAnnouncement(t *testing.T, n uint64, s *Snapshot, node string, a Announcement) {
	t.Helper()
	if len(a.Interfaces) == 0 || s.Nodes[node].Excluded {
		t.Fatalf("cluster %d: %s announces %s on %v; excluded: %v", n, node, a.Address, a.Interfaces, s.Nodes[node].Excluded)
	}
	for _, name := range a.Interfaces {
		if !slices.ContainsFunc(s.Nodes[node].Interfaces, func(i Interface) bool { return i.Name == name }) {
			t.Fatalf("cluster %d: %s announces %s on %s, which it does not have", n, node, a.Address, name)
		}
	}
	served, live := map[string]int{}, 0 // how many Services each node serves, of those with endpoints
	for _, svc := range s.Services {
		endpoints := svc.Endpoints[family.Of(a.Address)]
		if !endpoints.Any || !slices.ContainsFunc(svc.Addresses, func(own Address) bool { return own.IP == a.Address }) {
			continue
		}
		live++
		for name := range s.Nodes {
			if !svc.Local || endpoints.on(name) {
				served[name]++
			}
		}
	}
	if served[node] == 0 {
		t.Fatalf("cluster %d: %s announces %s, which has no endpoint there", n, node, a.Address)
	}
	for name, m := range served {
		if m == live && served[node] < live {
			t.Fatalf("cluster %d: %s announces %s for %d of %d Services, and %s could for all", n, node, a.Address, served[node], live, name)
		}
	}
}

// checkDraining checks that a node which answers for an address that another one is to hold is on record for it, and not excluded.
func checkDraining(t *testing.T, n uint64, s *Snapshot, node string, a Announcement) {
	t.Helper()
	recorded := slices.ContainsFunc(s.Services, func(svc Service) bool { return svc.Holder == node })
	if !recorded || s.Nodes[node].Excluded {
		t.Fatalf("cluster %d: %s hands over %s; on record: %v, excluded: %v", n, node, a.Address, recorded, s.Nodes[node].Excluded)
	}
}

// checkTogether checks that all announced addresses of a Service are on one node.
func checkTogether(t *testing.T, n uint64, s *Snapshot, holders map[netip.Addr]string) {
	t.Helper()
	for _, svc := range s.Services {
		nodes := map[string]bool{}
		for _, a := range svc.Addresses {
			if node, ok := holders[a.IP]; ok {
				nodes[node] = true
			}
		}
		if len(nodes) > 1 {
			t.Fatalf("cluster %d: the addresses of Service %s are on %v", n, svc.Name, nodes)
		}
	}
}

// checkOrder checks that the order of Services and of layer 2 advertisements, which is that of a cache, changes nothing.
func checkOrder(t *testing.T, n uint64, s *Snapshot, r *rand.Rand) {
	t.Helper()
	shuffled := *s
	shuffled.Services, shuffled.Config.L2 = slices.Clone(s.Services), slices.Clone(s.Config.L2)
	r.Shuffle(len(s.Services), func(i, j int) {
		shuffled.Services[i], shuffled.Services[j] = shuffled.Services[j], shuffled.Services[i]
	})
	r.Shuffle(len(s.Config.L2), func(i, j int) {
		shuffled.Config.L2[i], shuffled.Config.L2[j] = shuffled.Config.L2[j], shuffled.Config.L2[i]
	})
	for node := range s.Nodes {
		want, got := Decide(s.from(node)), Decide(shuffled.from(node))
		for _, d := range []Desired{want, got} {
			slices.SortFunc(d.Layer2, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameAddr), cmp.Comparer(samePrefix)); diff != "" {
			t.Fatalf("cluster %d: the order matters to %s (-want +got):\n%s", n, node, diff)
		}
	}
}

// checkStays checks that nothing moves once it is recorded.
func checkStays(t *testing.T, n uint64, s *Snapshot, holders map[netip.Addr]string) {
	t.Helper()
	next := *s
	next.Services = slices.Clone(s.Services)
	for i := range next.Services {
		next.Services[i].Target = "" // It has taken over, or cannot. A second target in a group would be the next.
	}
	for node := range s.Nodes {
		if !s.Alive(node) {
			continue
		}
		d := Decide(s.from(node))
		for i := range next.Services {
			name := next.Services[i].Name
			if _, held := d.Records[name]; held {
				next.Services[i].Holder = node
			} else if next.Services[i].Holder == node && !d.Kept[name] {
				next.Services[i].Holder = "" // The node takes itself off the record.
			}
		}
	}
	again := map[netip.Addr]string{}
	for node := range s.Nodes {
		if !s.Alive(node) {
			continue
		}
		for _, a := range Decide(next.from(node)).Layer2 {
			if a.As == nil {
				again[a.Address] = node
			}
		}
	}
	if diff := cmp.Diff(holders, again, cmp.Comparer(sameAddr)); diff != "" {
		t.Fatalf("cluster %d: addresses moved after they were recorded (-want +got):\n%s", n, diff)
	}
}

// BenchmarkDecide is one decision in a cluster of ten thousand dual-stack Services and a hundred nodes, by a node that holds a
// hundredth of them and has one peer.
func BenchmarkDecide(b *testing.B) {
	s := large()
	run := func(name string, s *Snapshot) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Decide(s)
			}
		})
	}
	run("steady", s)
	afterDeath := *s
	afterDeath.Alive = dead("node001")
	run("a node died", &afterDeath)
	layer2Only := *s
	layer2Only.Config.Peers = nil
	run("steady, layer 2 alone", &layer2Only)
	unrecorded := *s
	unrecorded.Services = slices.Clone(s.Services)
	for i := range unrecorded.Services {
		unrecorded.Services[i].Holder = ""
	}
	run("nothing recorded", &unrecorded)
}

// large is a cluster of ten thousand dual-stack Services and a hundred nodes, seen by a node that holds a hundredth of them and has one
// peer.
func large() *Snapshot {
	const services, nodes = 10_000, 100
	s := &Snapshot{
		Node: "node000",
		Config: config.Config{
			L2:    []config.L2Advertisement{{Name: "all", Selection: everywhere()}},
			Peers: []config.Peer{tor("tor")},
			BGP:   []config.BGPAdvertisement{{Name: "all", Selection: everywhere(), LengthIPv4: 32, LengthIPv6: 128}},
		},
		Nodes: map[string]Node{},
		Alive: func(string) bool { return true },
		Paths: lan().Paths,
	}
	name := func(i int) string { return fmt.Sprintf("node%03d", i%nodes) }
	for i := range nodes {
		s.Nodes[name(i)] = Node{Ready: true, Interfaces: []Interface{{Name: "eth0", Prefixes: prefixes("10.0.0.0/8", "2001:db8::/64")}}}
	}
	for i := range services {
		svc := service(fmt.Sprintf("service%05d", i), fmt.Sprintf("10.0.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::%x", i+1))
		s.Services = append(s.Services, heldBy(name(i), svc))
	}
	return s
}
