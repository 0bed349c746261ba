// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"maps"
	"net"
	"slices"
)

// drains reports whether a node that is to lose a group goes on answering for it. It does so until another node is on record, so that some
// node answers at each moment, and in its own decision alone: for all others the holder is the node that takes the group.
//
// For example web is on record for node1, and node1 is excluded. All speakers elect node3. node1 may see that first, and node3 a moment
// later: meanwhile node1 answers, and it stops when the record names node3. If the record does not come, node1 stops as soon as it is not
// Departing any more. A node that is not excluded, and loses the group to one that serves more of it, is not held to that time.
func (v *view) drains(g *group, holder, name string) bool {
	if holder == name || !v.Alive(name) || v.recorded(g) != name {
		return false
	}
	return !v.Nodes[name].Excluded || name == v.Node && v.Departing
}

// drained returns the interfaces on which a node that drains goes on answering for an address, with its own MACs there. It begins nothing:
// an interface on which the address was never announced is left out. An address that the holder cannot serve is left out too, since the
// addresses of a group are on one node.
func (v *view) drained(g *group, holder string, address Address, name string) map[string]net.HardwareAddr {
	if holder != "" && len(v.interfaces(g, address, holder)) == 0 {
		return nil
	}
	names := slices.Compact(slices.Sorted(v.reachable(g, address, name)))
	as := map[string]net.HardwareAddr{}
	for _, iface := range without(names, v.probes(g, address.IP, name, names)) {
		if mac := v.interfaceAt(nodeInterface{name, iface}).MAC; len(mac) > 0 {
			as[iface] = mac
		}
	}
	return as
}

// drain has this node answer for a group until another node is on record: as its own deputy, since neighbours are to believe the other
// node, and not the one that defends the addresses last.
func (v *view) drain(g *group, holder string, d *Desired) {
	for _, address := range g.addresses {
		if as := v.drained(g, holder, address, v.Node); len(as) > 0 {
			d.Layer2 = append(d.Layer2, Announcement{Address: address.IP, Interfaces: slices.Sorted(maps.Keys(as)), As: as})
			for _, svc := range g.services {
				if svc.Holder == v.Node && svc.has(address.IP) {
					d.Kept[svc.Name] = true
				}
			}
		}
	}
}
