// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
)

// externalIPs makes a load balancer of a Service with spec.externalIPs: the address goes into a pool, and a patch asks for it.
func (d *draft) externalIPs(s *service) {
	var list []netip.Addr
	for _, text := range s.externalIPs {
		list = append(list, d.listOf(s, "spec.externalIPs", text)...)
	}
	list = slices.DeleteFunc(list, func(a netip.Addr) bool {
		name := d.node(a)
		if name != "" {
			d.add(Warn, "node-address", s.about(), "%s is an address of node %s, which cannot become Tandem's; take a free one", a, name)
		}
		return name != ""
	})
	kept, rest := onePerFamily(list)
	for _, a := range rest {
		d.add(Lost, "one-per-family", s.about(), "%s cannot be had by the same Service; make a second Service for it (same selector "+
			"and ports) and give %s to it", a, a)
	}
	if len(kept) == 0 {
		return
	}
	d.annotate(s, "load-balancer-ips", join(kept))
	d.patch(s.namespace, s.nick, s.origin()).loadBalancer = true
	d.add(Warn, "external-ips-status", s.about(), "the patch makes it a Service of type LoadBalancer; nodes take traffic for "+
		"externalIPs from the moment they are written, for a status address from the moment Tandem has set it. Apply annotation and "+
		"type first, and drop externalIPs when the status has the address")
	for _, a := range kept {
		if d.holder(a) != nil {
			continue
		}
		p := d.pool("external-ips")
		if p == nil {
			p = d.newPool("external-ips", "requested", s.origin())
			p.manual, p.ofServices = true, true
		}
		p.spans = append(p.spans, spanOf(a))
		d.add(Warn, "node-address", s.about(), "if %s is a node's address (live: compare), it cannot become Tandem's; take a free one", a)
	}
}
