// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"net/netip"
	"slices"
)

// Probe is what a node has found out by probing an address on one of its interfaces (RFC 5227 §2.1, RFC 4862 §5.4).
type Probe struct {
	// Free says that no other station has the address, so that the node answers for it.
	Free bool
	// UsedBy is the MAC of the station that has the address, "" if none is known.
	UsedBy string
}

// probes returns those of the interfaces on which a node has to probe an address before it announces it: those on which the address was
// never announced. The records of the group say where it was.
//
//   - No record names 192.0.2.10, since web is new or has a new address: it is probed on eth0 and eth1.
//   - The node is on record for 192.0.2.10 on eth0, and eth1 has come up: it is probed on eth1. A speaker that starts anew probes nothing.
//   - Another node is on record, dead or alive, or some node gave the address up: this is a takeover, for which clients wait. Nothing is
//     probed.
func (v *view) probes(g *group, ip netip.Addr, node string, interfaces []string) []string {
	var before []string // interfaces of the node on which the address was announced
	recorded := false
	for _, svc := range g.services {
		if !slices.Contains(svc.Recorded.Addresses, ip.String()) {
			continue
		}
		if svc.Holder != node {
			return nil
		}
		recorded = true
		before = append(before, svc.Recorded.Interfaces...)
	}
	if !recorded {
		return interfaces
	}
	return without(interfaces, before)
}

// notFree returns those interfaces on which probing an address has not found it free, or has not ended.
func (v *view) notFree(ip netip.Addr, node string, probes []string) []string {
	if v.Probed == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(probes), func(name string) bool { return v.Probed(node, name, ip).Free })
}

// without returns the names that are not among the others, nil if there are none.
func without(names, others []string) (rest []string) {
	if len(others) == 0 {
		return names
	}
	for _, name := range names {
		if !slices.Contains(others, name) {
			rest = append(rest, name)
		}
	}
	return rest
}
