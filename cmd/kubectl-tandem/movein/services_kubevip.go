// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeVIPService translates kube-vip's annotations.
func (d *draft) kubeVIPService(s *service) (asks bool) {
	const prefix = "kube-vip.io/"
	if s.annotations[prefix+"ignore"] == "true" && s.otherClass() {
		d.add(Info, "ignored", s.about(), "kube-vip leaves it alone by the annotation kube-vip.io/ignore, and Tandem by its class")
		return false
	}
	if s.annotations[prefix+"ignore"] == "true" {
		d.add(Error, "ignored-service", s.about(), "kube-vip leaves it alone by the annotation kube-vip.io/ignore; Tandem serves it "+
			"nevertheless, unless it has another load balancer class")
	}
	text, wish := s.annotations[prefix+"loadbalancerIPs"], s.annotations[prefix+"requestedIP"]
	if text == "" && wish == "" && s.loadBalancerIP != "0.0.0.0" {
		d.kubeVIPLost(s, false, nil)
		return false
	}
	list, wished := d.listOf(s, prefix+"loadbalancerIPs", text), d.listOf(s, prefix+"requestedIP", wish)
	dhcp := wish != "" || s.loadBalancerIP == "0.0.0.0" || slices.ContainsFunc(list, netip.Addr.IsUnspecified)
	list = slices.DeleteFunc(list, netip.Addr.IsUnspecified)
	if len(list) == 0 { // What it would have of the DHCP server is what it asks Tandem for.
		list = slices.DeleteFunc(wished, netip.Addr.IsUnspecified)
	}
	d.kubeVIPLost(s, dhcp, list)
	if len(list) == 0 {
		return true
	}
	kept := d.ask(s, list)
	if len(s.families) > 1 && len(kept) > 1 && (s.families[0] == "IPv6") != kept[0].Is6() {
		d.add(Info, "order", s.about(), "Tandem lists %s first (ipFamilies), kube-vip in the order of the annotation", s.families[0])
	}
	d.wanted(s, kept, "kube-vip-requested")
	return true
}

// kubeVIPWithoutEffect are annotations that are read elsewhere, or that stand for how kube-vip works within.
var kubeVIPWithoutEffect = []string{
	"loadbalancerIPs", "requestedIP", "ignore", "vipHost", "leaseName", "forcePerServiceElection", "allow-reconcile-without-endpoints",
	"ignore-service-security", "has-ip",
}

// kubeVIPLost names the annotations without an equal, in one message for each Service. dhcp says that kube-vip leases its address, and asks are the
// addresses that its patch asks for in place of a lease.
func (d *draft) kubeVIPLost(s *service, dhcp bool, asks []netip.Addr) {
	const prefix = "kube-vip.io/"
	var lost []string
	for _, key := range sortedKeys(s.annotations) {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		switch {
		case slices.Contains([]string{
			"loadbalancerHostname", "hwaddr", "macvlanName", "dhcp-broadcast", "ddns", "flush-conntrack",
			"forwardUPNP",
			"upnp-lease-duration", "rp_filter", "serviceVLAN",
		}, name), strings.HasPrefix(name, "egress"), strings.HasPrefix(name,
			"active-endpoint"):
			lost = append(lost, key)
		case name == "serviceInterface":
			if !dhcp && s.annotations[key] != "auto" { // With auto it is the interface that has a prefix of the address, as in Tandem.
				d.kubeVIPInterface(s, s.annotations[key])
			}
		case !slices.Contains(kubeVIPWithoutEffect, name):
			d.unknownAnnotation(s, key)
		}
	}
	switch {
	case dhcp && len(asks) > 0:
		d.add(Lost, "no-equal", s.about(), "Tandem leases no addresses from DHCP, and the patch asks for %s. Reserve it outside the DHCP server's range. "+
			"What goes with it: %s", join(asks), orElse(strings.Join(lost, ", "), "nothing else"))
	case dhcp:
		d.add(Lost, "no-equal", s.about(), "Tandem leases no addresses from DHCP. Reserve %s outside the DHCP server's range, put it "+
			"into a pool, and ask for it in place of 0.0.0.0; or leave this Service to kube-vip by a class, which only a new Service "+
			"can have. What goes with it: %s",
			orElse(join(s.status), "an address"), orElse(strings.Join(lost, ", "), "nothing else"))
	case len(lost) > 0:
		d.add(Lost, "no-equal", s.about(), "annotations %s have no equal", strings.Join(lost, ", "))
	}
}

// ofKubeVIP reports whether a Service has a mark of kube-vip or of its cloud provider, or the input has kube-vip.
func (d *draft) ofKubeVIP(s *service) bool {
	return d.kubeVIPServes || s.labels["implementation"] == "kube-vip" || d.assumed("kube-vip").known ||
		slices.ContainsFunc(sortedKeys(s.annotations), func(key string) bool { return strings.HasPrefix(key, "kube-vip.io/") }) ||
		slices.ContainsFunc(d.pools, func(p *pool) bool { return p.product == "kube-vip" }) ||
		slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return strings.HasPrefix(a.name, "kube-vip") })
}

// ofNode reports whether the address in the status of a Service is a node's, which cannot become Tandem's: a Node of the input has it, or the Service
// asks for none and is kube-vip's without its cloud provider, which then publishes the address of the node that serves it.
func (d *draft) ofNode(s *service, a netip.Addr) bool {
	if slices.ContainsFunc(d.objects, func(o *object) bool { return o.kind == "Node" }) {
		return d.node(a) != ""
	}
	alone := d.kubeVIPServes || d.assumed("kube-vip").says("without")
	gives := func(p *pool) bool { return p.product != "requested" && p.name != "kube-vip-requested" }
	return alone && s.class == "" && !s.names() && !slices.ContainsFunc(d.pools, gives)
}

// node returns the name of the Node of the input that has an address, "" for none.
func (d *draft) node(a netip.Addr) string {
	if d.nodes == nil {
		d.nodes = map[netip.Addr]string{}
		for _, o := range d.objects {
			if o.kind != "Node" {
				continue
			}
			for _, item := range o.child("status").list("addresses") {
				if own, err := netip.ParseAddr(item.text("address")); err == nil {
					d.nodes[own.Unmap()] = o.nick
				}
			}
		}
	}
	return d.nodes[a]
}

// nodeAddress warns of an address that a Service has, and that is a node's.
func (d *draft) nodeAddress(s *service, list []netip.Addr) {
	whose := "a node"
	if name := d.node(list[0]); name != "" {
		whose = "node " + name
	}
	d.add(Warn, "node-address", s.about(), "it has %s of %s, which cannot become Tandem's, and Tandem gives it no other one by itself; have it ask for a free "+
		"one by tandem-lb.io/load-balancer-ips", join(list), whose)
}

// kubeVIPInterface makes an advertisement for the one Service, where a label selects it.
func (d *draft) kubeVIPInterface(s *service, name string) {
	if len(s.labels) == 0 {
		d.add(Lost, "no-equal", s.about(), "annotation kube-vip.io/serviceInterface %s: an L2Advertisement with serviceSelectors and "+
			"interfaces does it, once the Service has a label", name)
		return
	}
	a := d.newAdvertisement(l2Kind, s.namespace+"-"+s.nick, s.origin())
	a.partial = true
	a.services, a.interfaces = []metav1.LabelSelector{{MatchLabels: s.labels}}, []string{name}
}
