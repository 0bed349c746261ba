// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"testing"

	"go4.org/netipx"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
)

func TestAdvertisements(t *testing.T) {
	pool := func(ranges string) *netipx.IPSet {
		var addresses netipx.IPSetBuilder
		addresses.AddRange(netipx.MustParseIPRange(ranges))
		set, err := addresses.IPSet()
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	pools := map[string]*netipx.IPSet{
		"lan": pool("198.51.100.200-198.51.100.209"), "off": pool("192.0.2.64-192.0.2.71"), "wide": pool("198.51.0.0-198.51.255.255"),
	}
	const (
		l2Kind, bgpKind = "L2Advertisement", "BGPAdvertisement"
		kernelKind      = "InterfaceAdvertisement"
		noSubnet        = "no selected node has an interface in the subnet of a selected pool; set interfaces if routers know the way"
		noPeer          = "no selected node has one of the peers: there is no BGPPeer, or nodeSelectors of the BGPPeer leave the nodes out"
	)
	for _, tt := range []struct {
		name            string
		set             func(c *cluster)
		kind            string
		reason, message string
	}{
		{"everything", func(c *cluster) { c.l2("") }, l2Kind, "Effective", ""},
		{"everything in the kernel", func(c *cluster) { c.kernel(true, "") }, kernelKind, "Effective", ""},
		{
			"speakers without the right to change the kernel", func(c *cluster) { c.kernel(false, "") }, kernelKind, "NotPermitted",
			"the speakers of the selected nodes may not change the kernel's routes: set the value speaker.kernelRoutes of the chart, " +
				"or add the component manifests/kernel-routes",
		},
		{
			"no live speaker for the kernel", func(c *cluster) { c.kernel(true, ""); c.Alive = func(string) bool { return false } },
			kernelKind, "NoLiveSpeaker", noLiveSpeaker,
		},
		{"a pool in the subnet", func(c *cluster) { c.l2("name=node1", "lan") }, l2Kind, "Effective", ""},
		{"a pool around the subnet", func(c *cluster) { c.l2("", "wide") }, l2Kind, "Effective", ""},
		{
			"a pool that does not exist", func(c *cluster) { c.l2("", "gone") }, l2Kind, "NoPool",
			"addressPools and addressPoolSelectors select no AddressPool",
		},
		{
			"no namespace", func(c *cluster) { c.l2("").Namespaces = map[string]bool{} }, l2Kind, "NoNamespace",
			"namespaceSelectors select no Namespace",
		},
		{"a namespace", func(c *cluster) { c.l2("").Namespaces = map[string]bool{"shop": true} }, l2Kind, "Effective", ""},
		{"no node", func(c *cluster) { c.l2("rack=9") }, l2Kind, "NoNode", "nodeSelectors select no node"},
		{
			"an excluded node",
			func(c *cluster) { c.l2("name=node1"); c.change("node1", func(n *decision.Node) { n.Excluded = true }) },
			l2Kind, "NoNode", "nodeSelectors select no node that may announce (excluded: node node1)",
		},
		{"a pool in no subnet", func(c *cluster) { c.l2("", "off") }, l2Kind, "NoInterface", noSubnet},
		{"a pool in no subnet, on interfaces", func(c *cluster) { c.l2("", "off").Interfaces = []string{"eth*"} }, l2Kind, "Effective", ""},
		{
			"interfaces of a wrong name", func(c *cluster) { c.l2("").Interfaces = []string{"bond0"} }, l2Kind, "NoInterface",
			`no selected node has a usable interface whose name matches interfaces ["bond0"]`,
		},
		{
			"no speaker is alive in the subnet",
			func(c *cluster) {
				c.l2("")
				c.dead["node1"], c.dead["node2"] = true, true
				c.change("node3", func(n *decision.Node) { n.Interfaces = nil })
			},
			l2Kind, "NoLiveSpeaker", "no speaker is alive on the selected nodes that could announce",
		},
		{"to a peer", func(c *cluster) { c.bgp("", "off"); c.peer("tor1", bgp.Established, 0, 0) }, bgpKind, "Effective", ""},
		{
			"sessions are down", func(c *cluster) { c.bgp(""); c.peer("tor1", bgp.Idle, 0, 0); c.peer("tor2", bgp.Active, 0, 0) },
			bgpKind, "SessionDown", "no BGP session with tor1 and tor2 is established",
		},
		{
			"an established session of a speaker that is dead",
			func(c *cluster) { c.bgp("name=node1"); c.peer("tor1", bgp.Established, 0, 0); c.dead["node1"] = true },
			bgpKind, "NoLiveSpeaker", "no speaker is alive on the selected nodes that could announce",
		},
		{"no peer", func(c *cluster) { c.bgp("") }, bgpKind, "NoPeer", noPeer},
		{
			"a peer of other nodes", func(c *cluster) { c.bgp("name=node1"); c.peer("tor1", bgp.Idle, 0, 0).Nodes = selecting("name=node2") },
			bgpKind, "NoPeer", noPeer,
		},
		{
			"another peer", func(c *cluster) { c.bgp("").Peers = map[string]bool{"tor2": true}; c.peer("tor1", bgp.Idle, 0, 0) },
			bgpKind, "NoPeer", noPeer,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster()
			tt.set(c)
			name := map[string]string{l2Kind: "l2-0", bgpKind: "bgp", kernelKind: "routes"}[tt.kind]
			c.Config.Pools = pools
			got := Advertisements(c.Snapshot)[config.Key{Kind: tt.kind, Name: name}]
			if got.Reason != tt.reason || got.Message != tt.message || (got.Status == "True") != (tt.reason == "Effective") {
				t.Errorf("%s %s: %s\nwant %s: %s", got.Status, got.Reason, got.Message, tt.reason, tt.message)
			}
		})
	}
}
