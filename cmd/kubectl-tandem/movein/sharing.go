// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strings"
)

// sharedAcross writes the consent of Services that share an address across namespaces. MetalLB needs the common key alone; Tandem needs
// both sides to name the other's namespace.
func (d *draft) sharedAcross(all []*service) {
	namespaces := map[string][]string{}
	key := func(s *service) string {
		return orElse(s.annotations["metallb.io/allow-shared-ip"], orElse(s.annotations["metallb.universe.tf/allow-shared-ip"],
			s.annotations["purelb.io/allow-shared-ip"]))
	}
	for _, s := range all {
		if k := key(s); k != "" && s.loadBalancer && !slices.Contains(namespaces[k], s.namespace) {
			namespaces[k] = append(namespaces[k], s.namespace)
		}
	}
	for _, s := range all {
		var others []string
		for _, namespace := range namespaces[key(s)] {
			if namespace != s.namespace {
				others = append(others, namespace)
			}
		}
		if key(s) == "" || !s.loadBalancer || len(others) == 0 || s.annotations["tandem-lb.io/share-with-namespaces"] != "" {
			continue
		}
		slices.Sort(others)
		d.annotate(s, "share-with-namespaces", strings.Join(others, ","))
		d.add(Info, "sharing", s.about(), "it has the sharing key of Services in other namespaces. In Tandem both sides consent to it, "+
			"and the patch does (tandem-lb.io/share-with-namespaces)")
	}
}

// sharedWithoutKey lets Services share an address that ask for the same one of kube-vip, or in spec.externalIPs, where their ports alone keep
// them apart. In Tandem they need a common key as well. For example, dns-tcp and dns-udp with 192.0.2.53 get the key 192.0.2.53.
func (d *draft) sharedWithoutKey(all []*service) {
	sharers := map[netip.Addr][]*service{}
	var order []netip.Addr
	for _, s := range all {
		p := d.patchOf(s)
		kubeVIP := s.annotations["kube-vip.io/loadbalancerIPs"]+s.annotations["kube-vip.io/requestedIP"] != ""
		if p == nil || !kubeVIP && !p.loadBalancer || s.annotations["tandem-lb.io/allow-shared-ip"] != "" {
			continue
		}
		list, _ := addresses(p.annotations["tandem-lb.io/load-balancer-ips"])
		for _, a := range list {
			if sharers[a] = append(sharers[a], s); len(sharers[a]) == 2 {
				order = append(order, a)
			}
		}
	}
	for _, a := range order {
		if problem := d.share(a, sharers[a]); problem != "" {
			for _, s := range sharers[a] {
				d.add(Lost, "sharing", s.about(), "asks for %s, and so does another Service. In Tandem one of them gets it, since %s", a, problem)
			}
		}
	}
}

// share gives Services a common key. It returns why that is of no use.
func (d *draft) share(a netip.Addr, sharers []*service) (problem string) {
	key := a.String()
	var ports []string
	for _, s := range sharers {
		switch {
		case s.namespace != sharers[0].namespace:
			return "they are of two namespaces, which have to consent by tandem-lb.io/allow-shared-ip and tandem-lb.io/share-with-namespaces"
		case s.policy == "Local":
			return "with externalTrafficPolicy Local Services share an address only if they have the same selector, and the same tandem-lb.io/allow-shared-ip"
		}
		for _, port := range s.ports {
			if slices.Contains(ports, port) {
				return "both have port " + port
			}
			ports = append(ports, port)
		}
		if other := d.patchOf(s).annotations["tandem-lb.io/allow-shared-ip"]; other != "" {
			key = other // of its address of the other family
		}
	}
	for _, s := range sharers {
		d.annotate(s, "allow-shared-ip", key)
		d.add(Info, "sharing", s.about(), "shares %s with another Service; in Tandem they need a common key, which the patch has", a)
	}
	return ""
}

// patchOf returns the patch of a Service, nil if it has none.
func (d *draft) patchOf(s *service) *patch {
	i := slices.IndexFunc(d.patches, func(p *patch) bool { return p.namespace == s.namespace && p.name == s.nick })
	if i < 0 {
		return nil
	}
	return d.patches[i]
}
