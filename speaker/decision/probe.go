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

// unconfirmed returns those interfaces on which a node is not known to answer for an address, of those to be probed and, if it takes the
// group over, of all. They are not recorded: a node that cannot open its sockets is not to be taken for the holder. The recorded holder
// stays on record where it needs no probing, though it may just have started, or its interface may be down for an instant.
func (v *view) unconfirmed(g *group, ip netip.Addr, node string, interfaces, probes []string) []string {
	if slices.ContainsFunc(g.services, func(svc *Service) bool { return svc.Holder == node }) {
		return v.notFree(ip, node, probes)
	}
	return v.notFree(ip, node, interfaces)
}

// notFree returns those interfaces on which probing an address has not found it free, or has not ended.
func (v *view) notFree(ip netip.Addr, node string, probes []string) []string {
	if v.Probed == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(probes), func(name string) bool { return v.Probed(node, name, ip).Free })
}

// isProbing reports whether a node has yet to find out about an address of a Service that was never on record. For example the probes of the IPv4
// address of a new Service have ended, and those of its IPv6 address end a moment later.
func (v *view) isProbing(g *group, svc *Service, node string) bool {
	return svc.Holder == "" && len(svc.Recorded.Addresses) == 0 && v.Probed != nil && slices.ContainsFunc(svc.Addresses, func(a Address) bool {
		probes := v.probes(g, a.IP, node, v.interfaces(g, a, node))
		return slices.ContainsFunc(probes, func(name string) bool { return v.Probed(node, name, a.IP) == Probe{} })
	})
}

// isInUse reports whether a node has found that other stations have all addresses of a Service that it can answer for.
func (v *view) isInUse(g *group, svc *Service, node string) bool {
	return v.Probed != nil && !slices.ContainsFunc(svc.Addresses, func(a Address) bool {
		return slices.ContainsFunc(v.interfaces(g, a, node), func(name string) bool { return v.Probed(node, name, a.IP).UsedBy == "" })
	})
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
