// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/speaker/election"
)

// nodeInterface names an interface of a node.
type nodeInterface struct {
	node, iface string
}

// neighbours are the nodes that have an interface on some link, with a speaker that is alive: their interfaces there, and the same nodes as
// candidates.
type neighbours struct {
	interfaces map[string]string
	candidates []election.Candidate
}

// deputize returns the addresses of a group for which this node answers in the place of the holder, which is away. On each link of the
// holder one node does so, with the holder's MAC, for the addresses that the holder was answering for there by its record.
//
// It is the node that would take over, if that is on the link. For some speaker may take the holder for dead while others wait for it: one
// of a version without deputies, or one that alone has lost three probes. Then both have the same node answer, with its own MAC or the
// holder's, and never two nodes or none. If the successor is not on the link, or there is none, another node there answers. It needs
// neither an endpoint nor an advertisement, since it gets no traffic.
//
// For example node1 holds 192.0.2.10 on eth0 and restarts. node2 and node3 have interfaces in node1's subnet, and node3 ranks first: node3
// answers that 192.0.2.10 is at the MAC of node1's eth0. If an advertisement prefers node2, then node2 does.
func (v *view) deputize(g *group, holder string) (announcements []Announcement) {
	successor, _ := v.placed(g)
	for _, address := range g.addresses {
		recorded := map[string]bool{}
		for _, svc := range g.services {
			if svc.Holder == holder && slices.Contains(svc.Recorded.Addresses, address.IP.String()) {
				for _, name := range svc.Recorded.Interfaces {
					recorded[name] = true
				}
			}
		}
		as := map[string]net.HardwareAddr{}
		for _, name := range v.interfaces(g, address, holder) {
			n := v.neighbours(nodeInterface{holder, name})
			deputy, ok := successor, n.interfaces[successor] != ""
			if !ok {
				deputy, ok = election.Holder(g.key(), "", n.candidates, v.Alive)
			}
			if own := n.interfaces[v.Node]; ok && deputy == v.Node && recorded[name] {
				as[own] = v.interfaceAt(nodeInterface{holder, name}).MAC
			}
		}
		if len(as) > 0 {
			announcements = append(announcements, Announcement{Address: address.IP, Interfaces: slices.Sorted(maps.Keys(as)), As: as})
		}
	}
	return announcements
}

// neighbours returns the nodes that can be the deputy of a node on the link of one of its interfaces. Those that are excluded from
// announcing come after all others: they get no traffic by it, but whoever excludes a node wants to see little of it.
func (v *view) neighbours(of nodeInterface) neighbours {
	if known, ok := v.deputies[of]; ok {
		return known
	}
	n := neighbours{interfaces: map[string]string{}}
	link := v.interfaceAt(of)
	for name, node := range v.Nodes {
		if name == of.node || len(link.MAC) == 0 || !v.Alive(name) {
			continue
		}
		for i := range node.Interfaces {
			if node.Interfaces[i].Silent || !node.Interfaces[i].onLinkOf(&link) {
				continue
			}
			weight := int32(1)
			if node.Excluded {
				weight = 0
			}
			n.interfaces[name] = node.Interfaces[i].Name
			n.candidates = append(n.candidates, election.Candidate{Node: name, Weight: weight})
			break
		}
	}
	if v.deputies == nil {
		v.deputies = map[nodeInterface]neighbours{}
	}
	v.deputies[of] = n
	return n
}

// interfaceAt returns an interface, the zero Interface if the node has none of that name that can announce.
func (v *view) interfaceAt(p nodeInterface) Interface {
	for _, i := range v.Nodes[p.node].Interfaces {
		if i.Name == p.iface {
			return i
		}
	}
	return Interface{}
}

// onLinkOf reports whether two interfaces of different nodes are on one link, as far as addresses tell: they have a subnet in common or,
// where neither has any, the same name.
func (i *Interface) onLinkOf(other *Interface) bool {
	if len(i.Prefixes) == 0 && len(other.Prefixes) == 0 {
		return i.Name == other.Name
	}
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() && slices.Contains(other.Prefixes, p) })
}
