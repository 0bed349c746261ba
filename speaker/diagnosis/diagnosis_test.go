// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/selector"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// The addresses of the tests. Those of the pool lan are in the subnets of eth0; off is of the pool off, and in no node's subnet.
const (
	lan4, lan6, off4 = "198.51.100.200", "2001:db8::200", "192.0.2.64"
)

var web = types.NamespacedName{Namespace: "default", Name: "web"}

// cluster has three nodes that are on the link of the pool lan, whose speakers are alive, and a Service web with endpoints of both
// families.
type cluster struct {
	*decision.Snapshot
	records map[types.NamespacedName]observation.Record
	dead    map[string]bool
}

func newCluster(addresses ...string) *cluster {
	c := &cluster{records: map[types.NamespacedName]observation.Record{}, dead: map[string]bool{}}
	c.Snapshot = &decision.Snapshot{
		Nodes:    map[string]decision.Node{},
		Services: []decision.Service{service("web", addresses...)},
		Sessions: map[decision.NodePeer]bgp.SessionState{},
		Alive:    func(node string) bool { return !c.dead[node] },
	}
	for i := range 3 {
		name := fmt.Sprintf("node%d", i+1)
		c.Nodes[name] = decision.Node{
			Labels: labels.Set{"name": name}, Ready: true, RouterID: netip.AddrFrom4([4]byte{198, 51, 100, byte(11 + i)}),
			Interfaces: []decision.Interface{{Name: "eth0", Prefixes: []netip.Prefix{
				netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64"),
			}}},
		}
	}
	return c
}

func service(name string, addresses ...string) decision.Service {
	svc := decision.Service{
		Name: types.NamespacedName{Namespace: "default", Name: name}, Labels: labels.Set{"app": name},
		Endpoints: map[family.Family]decision.Endpoints{},
	}
	for _, f := range family.All {
		svc.Endpoints[f] = decision.Endpoints{Any: true, Nodes: []string{"node1"}}
	}
	for _, text := range addresses {
		pool := "lan"
		if text == off4 {
			pool = "off"
		}
		svc.Addresses = append(svc.Addresses, decision.Address{IP: netip.MustParseAddr(text), Pool: pool})
	}
	return svc
}

func (c *cluster) web() *decision.Service { return &c.Services[0] }

// l2 adds an L2Advertisement of pools, or of all, on nodes.
func (c *cluster) l2(nodes string, pools ...string) *config.L2Advertisement {
	c.Config.L2 = append(c.Config.L2, config.L2Advertisement{Name: fmt.Sprintf("l2-%d", len(c.Config.L2)), Selection: selection(nodes, pools)})
	return &c.Config.L2[len(c.Config.L2)-1]
}

// bgp adds a BGPAdvertisement to all peers.
func (c *cluster) bgp(nodes string, pools ...string) *config.BGPAdvertisement {
	c.Config.BGP = append(c.Config.BGP, config.BGPAdvertisement{
		Name: "bgp", Selection: selection(nodes, pools), LengthIPv4: 32, LengthIPv6: 128,
	})
	return &c.Config.BGP[len(c.Config.BGP)-1]
}

// kernel adds an InterfaceAdvertisement, with speakers that have the right to follow it or not.
func (c *cluster) kernel(permitted bool, nodes string, pools ...string) {
	c.Config.Interfaces = append(c.Config.Interfaces, config.InterfaceAdvertisement{
		Name: "routes", Selection: selection(nodes, pools), LengthIPv4: 32, LengthIPv6: 128,
	})
	for name := range c.Nodes {
		c.change(name, func(n *decision.Node) { n.Redistributes = permitted })
	}
}

func selection(nodes string, pools []string) config.Selection {
	s := config.Selection{Services: selecting(""), Nodes: selecting(nodes)}
	for _, pool := range pools {
		if s.Pools == nil {
			s.Pools = map[string]bool{}
		}
		s.Pools[pool] = true
	}
	return s
}

func selecting(text string) selector.List {
	s, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return selector.List{s}
}

// peer adds a BGPPeer, and a session of each node that has been sent so many IPv4 and IPv6 prefixes.
func (c *cluster) peer(name string, state bgp.State, sent4, sent6 int) *config.Peer {
	c.Config.Peers = append(c.Config.Peers, config.Peer{Name: name, Nodes: selecting(""), Peer: bgp.Peer{
		Name: name, Address: netip.MustParseAddr("198.51.100.1"), Port: 179, LocalASN: 64512, PeerASN: 64513,
		Families: []family.Family{family.IPv4, family.IPv6}, HoldTime: 90e9, KeepaliveTime: 30e9, ConnectTime: 5e9,
	}})
	for node := range c.Nodes {
		c.Sessions[decision.NodePeer{Node: node, Peer: name}] = bgp.SessionState{
			Peer: name, State: state, Families: family.All[:], Advertised: map[family.Family]int{family.IPv4: sent4, family.IPv6: sent6},
		}
	}
	return &c.Config.Peers[len(c.Config.Peers)-1]
}

func (c *cluster) change(node string, change func(n *decision.Node)) {
	n := c.Nodes[node]
	change(&n)
	c.Nodes[node] = n
}

// held puts a node on record for the addresses of web.
func (c *cluster) held(node string, addresses ...string) {
	record := observation.Record{Node: node}
	for _, text := range addresses {
		record.Addresses = append(record.Addresses, netip.MustParseAddr(text))
	}
	c.records[web], c.web().Holder = record, node
}

func TestSum(t *testing.T) {
	only4 := []string{lan4}
	for _, tt := range []struct {
		name      string
		addresses []string
		set       func(c *cluster)
		before    bool // announced already
		reason    string
		message   string
	}{
		{
			name: "the record of a live speaker", addresses: only4, set: func(c *cluster) { c.l2(""); c.held("node1", lan4) },
			reason: "Announced", message: "198.51.100.200 is announced on layer 2",
		},
		{
			name: "both families on record", addresses: []string{lan4, lan6}, set: func(c *cluster) { c.l2(""); c.held("node1", lan4, lan6) },
			reason: "Announced", message: "IPv4: 198.51.100.200 is announced on layer 2; IPv6: 2001:db8::200 is announced on layer 2",
		},
		{
			name: "a machine on the link has the address", addresses: only4,
			set: func(c *cluster) {
				c.l2("")
				c.Probed = func(string, string, netip.Addr) decision.Probe { return decision.Probe{UsedBy: "02:00:00:00:00:42"} }
			},
			reason: "AddressInUse", message: "another machine has 198.51.100.200: node node1 hears 02:00:00:00:00:42 on eth0",
		},
		{
			name: "the holder asks whether a machine has the address", addresses: only4,
			set: func(c *cluster) {
				c.l2("")
				c.Probed = func(string, string, netip.Addr) decision.Probe { return decision.Probe{} }
			},
			reason: "Pending", message: "node node1 asks whether another machine has 198.51.100.200",
		},
		{
			name: "no address", addresses: nil, set: func(*cluster) {}, reason: "NotAllocated", message: "no address yet",
		},
		{
			name: "no advertisement at all", addresses: only4, set: func(*cluster) {},
			reason: "NoAdvertisement", message: "there is no L2Advertisement and no BGPAdvertisement",
		},
		{
			name: "no advertisement selects the pool", addresses: only4, set: func(c *cluster) { c.l2("", "other"); c.bgp("", "another") },
			reason: "NoAdvertisement", message: "no advertisement selects pool lan",
		},
		{
			name: "an advertisement of the pool for other Services", addresses: only4,
			set:    func(c *cluster) { c.l2("", "lan").Services = selecting("app=db") },
			reason: "NoAdvertisement", message: "serviceSelectors of L2Advertisement l2-0 do not select the Service",
		},
		{
			name: "an advertisement of the pool for another namespace", addresses: only4,
			set: func(c *cluster) {
				ad := c.l2("", "lan")
				ad.Namespaces, ad.Services = map[string]bool{"shop": true}, selecting("app=db")
			},
			reason: "NoAdvertisement", message: "namespaceSelectors of L2Advertisement l2-0 do not select namespace default",
		},
		{
			name: "a BGPAdvertisement for another namespace", addresses: only4,
			set:    func(c *cluster) { c.bgp("", "lan").Namespaces = map[string]bool{} },
			reason: "NoAdvertisement", message: "namespaceSelectors of BGPAdvertisement bgp do not select namespace default",
		},
		{
			name: "an advertisement of the pool for the namespace", addresses: only4,
			set:    func(c *cluster) { c.l2("", "lan").Namespaces = map[string]bool{"default": true} },
			reason: "Pending", message: "node node1 has not recorded yet that it answers for 198.51.100.200",
		},
		{
			name: "a sharer is selected", addresses: only4,
			set: func(c *cluster) {
				c.l2("").Services = selecting("app=db")
				c.Services = append(c.Services, service("db", lan4))
			},
			reason: "Pending", message: "node node1 has not recorded yet that it answers for 198.51.100.200",
		},
		{
			name: "no node is in the subnet", addresses: []string{off4}, set: func(c *cluster) { c.l2("", "off") }, reason: "NoInterface",
			message: "no node has an interface in the subnet of 192.0.2.64; set interfaces of the L2Advertisement if routers know the way",
		},
		{
			name: "no selected node is in the subnet", addresses: []string{off4}, set: func(c *cluster) { c.l2("name=node1", "off") },
			reason: "NoInterface", message: "no node that nodeSelectors select has an interface in the subnet of 192.0.2.64; " +
				"set interfaces of the L2Advertisement if routers know the way",
		},
		{
			name: "interfaces of a wrong name", addresses: only4, set: func(c *cluster) { c.l2("").Interfaces = []string{"bond*"} },
			reason: "NoInterface", message: "no node has an interface that matches the interfaces of the L2Advertisement " +
				"(eth0 of node1 is in the subnet of 198.51.100.200)",
		},
		{
			name: "nodeSelectors select no node", addresses: only4, set: func(c *cluster) { c.l2("node-role.kubernetes.io/edge=") },
			reason: "NoNode", message: "nodeSelectors select no node",
		},
		{
			name: "nodeSelectors select an excluded node", addresses: only4,
			set: func(c *cluster) {
				c.l2("name=node1")
				c.change("node1", func(n *decision.Node) { n.Excluded = true })
			},
			reason: "NoNode", message: "nodeSelectors select no node that may announce (excluded: node node1)",
		},
		{
			name: "all nodes are excluded", addresses: only4,
			set: func(c *cluster) {
				c.l2("")
				for node := range maps.Clone(c.Nodes) {
					c.change(node, func(n *decision.Node) { n.Excluded = true })
				}
			},
			reason: "NoNode", message: "nodes that are excluded announce nothing: nodes node1, node2 and node3",
		},
		{
			name: "no ready endpoint of one family", addresses: []string{lan4, lan6},
			set: func(c *cluster) {
				c.l2("")
				c.held("node1", lan4)
				delete(c.web().Endpoints, family.IPv6)
			},
			reason: "NoReadyEndpoint", message: "IPv4: 198.51.100.200 is announced on layer 2; IPv6: no ready IPv6 endpoint",
		},
		{
			name: "all endpoints are gone at once, so that the record stays as it was", addresses: []string{lan4, lan6},
			set: func(c *cluster) {
				c.l2("")
				c.held("node1", lan4, lan6)
				clear(c.web().Endpoints)
			},
			reason: "NoReadyEndpoint", message: "IPv4: no ready IPv4 endpoint; IPv6: no ready IPv6 endpoint",
		},
		{
			name: "by the routing software of nodes", addresses: only4, set: func(c *cluster) { c.kernel(true, "") },
			reason: "Announced", message: "198.51.100.200 is in the kernel of nodes, for their routing software to announce",
		},
		{
			name: "speakers have no right to change the kernel", addresses: only4, set: func(c *cluster) { c.kernel(false, "") },
			reason: "Pending", message: "no node has 198.51.100.200 in its kernel: see the condition KernelRoutes of the SpeakerStatuses",
		},
		{
			name: "no ready endpoint for the routing software of nodes", addresses: only4,
			set:    func(c *cluster) { c.kernel(true, ""); delete(c.web().Endpoints, family.IPv4) },
			reason: "NoReadyEndpoint", message: "no ready IPv4 endpoint",
		},
		{
			name: "no local endpoint where it could be announced", addresses: only4,
			set:     func(c *cluster) { c.l2("name=node2"); c.web().Local = true },
			reason:  "NoLocalEndpoint",
			message: "externalTrafficPolicy is Local, and no node that could announce 198.51.100.200 has a ready endpoint",
		},
		{
			name: "all speakers have stopped", addresses: only4,
			set: func(c *cluster) {
				c.l2("")
				c.held("node1", lan4)
				c.dead = map[string]bool{"node1": true, "node2": true, "node3": true}
			},
			reason: "NoLiveSpeaker", message: "no speaker is alive on any node",
		},
		{
			name: "the only selected node's speaker has stopped", addresses: only4,
			set: func(c *cluster) {
				c.l2("name=node1")
				c.held("node1", lan4)
				c.dead["node1"] = true
			},
			reason: "NoLiveSpeaker", message: "no speaker is alive on node node1, where it could be announced",
		},
		{
			name: "a record of a Node that is gone", addresses: only4, set: func(c *cluster) { c.l2(""); c.held("gone", lan4) },
			reason: "Pending", message: "node node1 has not recorded yet that it answers for 198.51.100.200",
		},
		{
			name: "the holder has one family on its link", addresses: []string{lan4, lan6},
			set: func(c *cluster) {
				c.l2("name=node1").Pools = nil
				c.change("node1", func(n *decision.Node) { n.Interfaces[0].Prefixes = n.Interfaces[0].Prefixes[:1] })
				c.Config.L2[0].Nodes = append(c.Config.L2[0].Nodes, selecting("name=node2")...)
				c.change("node2", func(n *decision.Node) { n.Interfaces[0].Prefixes = n.Interfaces[0].Prefixes[1:] })
				c.held("node1", lan4)
			},
			reason: "OtherHolder", message: "IPv4: 198.51.100.200 is announced on layer 2; " +
				"IPv6: node node1 answers for the Service's other addresses and not for 2001:db8::200 " +
				"(no node that nodeSelectors select has an interface in the subnet of 2001:db8::200; " +
				"set interfaces of the L2Advertisement if routers know the way)",
		},
		{
			name: "an established session that has sent all", addresses: only4,
			set:    func(c *cluster) { c.bgp(""); c.peer("tor1", bgp.Established, 1, 0) },
			reason: "Announced", message: "198.51.100.200 is announced by BGP",
		},
		{
			name: "an established session that has not sent all", addresses: only4,
			set: func(c *cluster) {
				c.bgp("")
				c.Services = append(c.Services, service("db", "198.51.100.201"))
				c.peer("tor1", bgp.Established, 1, 0)
			},
			reason: "Pending", message: "198.51.100.200 has not been sent to tor1 yet",
		},
		{
			name: "a Service that was announced stays so while others are added", addresses: only4, before: true,
			set: func(c *cluster) {
				c.bgp("")
				c.Services = append(c.Services, service("db", "198.51.100.201"))
				c.peer("tor1", bgp.Established, 1, 0)
			},
			reason: "Announced", message: "198.51.100.200 is announced by BGP",
		},
		{
			name: "the session is down on all nodes", addresses: only4, set: func(c *cluster) { c.bgp(""); c.peer("tor1", bgp.Active, 0, 0) },
			reason: "SessionDown", message: "BGP session with tor1 is down on all 3 nodes",
		},
		{
			name: "sessions with two peers are down on one node", addresses: only4, before: true,
			set: func(c *cluster) {
				c.bgp("name=node2")
				c.peer("tor1", bgp.Idle, 0, 0)
				c.peer("tor2", bgp.OpenSent, 0, 0)
			},
			reason: "SessionDown", message: "BGP sessions with tor1 and tor2 are down on node node2",
		},
		{
			name: "one node is enough", addresses: only4,
			set: func(c *cluster) {
				c.bgp("")
				c.peer("tor1", bgp.Active, 0, 0)
				c.Sessions[decision.NodePeer{Node: "node3", Peer: "tor1"}] = bgp.SessionState{
					State: bgp.Established, Families: family.All[:], Advertised: map[family.Family]int{family.IPv4: 1},
				}
			},
			reason: "Announced", message: "198.51.100.200 is announced by BGP",
		},
		{
			name: "an established session of a speaker that is dead", addresses: only4,
			set: func(c *cluster) {
				c.bgp("name=node1")
				c.peer("tor1", bgp.Established, 1, 0)
				c.dead["node1"] = true
			},
			reason: "NoLiveSpeaker", message: "no speaker is alive on node node1, where it could be announced",
		},
		{
			name: "a session that carries nothing of the family", addresses: []string{lan6}, before: true,
			set:    func(c *cluster) { c.bgp(""); c.peer("tor1", bgp.Established, 5, 0) },
			reason: "Withheld", message: "BGP session with tor1 is established and carries no IPv6 prefix: see SpeakerStatus node1",
		},
		{
			name: "a family that the peer leaves out", addresses: []string{lan6},
			set: func(c *cluster) {
				c.bgp("")
				c.peer("tor1", bgp.Established, 5, 0).Peer.Families = []family.Family{family.IPv4}
			},
			reason: "FamilyNotCarried", message: "spec.families of BGPPeer tor1 leaves out IPv6",
		},
		{
			name: "no peer", addresses: only4, set: func(c *cluster) { c.bgp("") },
			reason: "NoPeer", message: "there is no BGPPeer to announce to",
		},
		{
			name: "a peer of no node", addresses: only4,
			set:    func(c *cluster) { c.bgp(""); c.peer("tor1", bgp.Idle, 0, 0).Nodes = selecting("rack=none") },
			reason: "NoNode", message: "nodeSelectors of BGPPeer tor1 select no node",
		},
		{
			name: "an advertisement to another peer", addresses: only4,
			set: func(c *cluster) {
				c.bgp("").Peers = map[string]bool{"tor9": true}
				c.peer("tor1", bgp.Established, 0, 0)
			},
			reason: "NoPeer", message: "peers of no BGPAdvertisement name a BGPPeer of a node",
		},
		{
			name: "of layer 2 and BGP that counts which comes closer", addresses: []string{off4},
			set:    func(c *cluster) { c.l2("", "off"); c.bgp(""); c.peer("tor1", bgp.Active, 0, 0) },
			reason: "SessionDown", message: "BGP session with tor1 is down on all 3 nodes",
		},
		{
			name: "without a claim", addresses: nil,
			set:    func(c *cluster) { c.l2(""); c.web().Unclaimed = []netip.Addr{netip.MustParseAddr(lan4)} },
			reason: "NoClaim", message: "no IPAddress of Tandem stands for 198.51.100.200",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(tt.addresses...)
			tt.set(c)
			announced, reason, message := Sum(New(c.Snapshot, c.records).Service(web, tt.before))
			if reason != tt.reason || message != tt.message || announced != (tt.reason == "Announced") {
				t.Errorf("announced is %v, %s: %s\n                    want %s: %s", announced, reason, message, tt.reason, tt.message)
			}
		})
	}
}

// What is worked out once for all addresses that are alike is what each address is explained by itself: Services with and without local
// endpoints and sharers, on nodes and with sessions in all states.
func TestAlike(t *testing.T) {
	const seed, clusters = 8, 500
	seen := map[decision.Reason]int{}
	for n := range uint64(clusters) {
		c := randomCluster(rand.New(rand.NewPCG(seed, n)))
		d := New(c.Snapshot, c.records)
		for i := range c.Services {
			svc := &c.Services[i]
			for _, address := range svc.Addresses {
				layer2, toPeers := d.explainer.Selected(svc.Name, address)
				e, shared := d.explain(svc, address, layer2, toPeers)
				var endpoints map[string]bool
				if svc.Local && !shared {
					endpoints = endpointNodes(svc, address.IP)
				}
				got := collection{collected: e.collect(endpoints), address: address.IP}
				if got.layer2 {
					got.holder, got.ofHolder = d.explainer.Holder(svc.Name, address)
				}
				want := map[decision.Reason]int{}
				for x := range d.explainer.ExplainAddress(svc.Name, address) {
					switch {
					case x.Peer == "" && !layer2 || x.Peer != "" && !toPeers:
						continue
					case x.Peer != "" && x.Reason == decision.Announced && d.sent(x.Node, x.Peer, family.Of(address.IP)) == 0:
						x.Reason = decision.Withheld
					case x.Reason == decision.OtherHolder && got.holds(): // The holder's own reason says more.
						continue
					}
					want[x.Reason]++
					seen[x.Reason]++
				}
				for _, r := range closest {
					if got.has(r) != (want[r] > 0) {
						t.Fatalf("cluster %d, %s of %s: has %s is %v, and it is explained %v", n, address.IP, svc.Name, r, got.has(r), want)
					}
				}
			}
		}
	}
	t.Logf("reasons: %v", seen)
	for _, r := range []decision.Reason{
		decision.Announced, decision.OtherHolder, decision.SessionDown, decision.Withheld, decision.NoLocalEndpoint, decision.NoReadyEndpoint,
		decision.NoInterface, decision.NoLiveSpeaker, decision.NodeExcluded, decision.NodeNotSelected,
	} {
		if seen[r] == 0 {
			t.Errorf("no address is %s: the comparison says little about it", r)
		}
	}
}

func randomCluster(r *rand.Rand) *cluster {
	c := newCluster()
	c.Services = nil
	for i := range 8 {
		svc := service(fmt.Sprintf("service%d", i), fmt.Sprintf("%s.%d", []string{"198.51.100", "192.0.2"}[r.IntN(2)], 200+r.IntN(20)),
			fmt.Sprintf("2001:db8::%d", 200+r.IntN(20)))
		svc.Local = r.IntN(2) == 0
		for _, f := range family.All {
			svc.Endpoints[f] = decision.Endpoints{Any: r.IntN(5) > 0, Nodes: []string{fmt.Sprintf("node%d", 1+r.IntN(3))}}
		}
		if r.IntN(3) == 0 {
			svc.Holder = fmt.Sprintf("node%d", 1+r.IntN(3))
		}
		c.Services = append(c.Services, svc)
	}
	c.l2([]string{"", "name=node1", "name in (node1, node2)"}[r.IntN(3)])
	c.bgp([]string{"", "name=node3", "name in (node1, node2)"}[r.IntN(3)])
	c.Config.L2[0].Services = selecting([]string{"", "app!=service0", "app in (service1, service2)"}[r.IntN(3)])
	c.Config.BGP[0].Services = selecting([]string{"", "app!=service0", "app in (service1, service2)"}[r.IntN(3)])
	c.peer("tor1", []bgp.State{bgp.Active, bgp.Established}[r.IntN(2)], r.IntN(2), r.IntN(2))
	for node := range maps.Clone(c.Nodes) {
		c.change(node, func(n *decision.Node) {
			n.Excluded, c.dead[node] = r.IntN(8) == 0, r.IntN(8) == 0
			if r.IntN(3) == 0 {
				n.Interfaces[0].Prefixes = n.Interfaces[0].Prefixes[r.IntN(2):][:1]
			}
		})
	}
	return c
}
