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
	text := orElse(s.annotations[prefix+"loadbalancerIPs"], s.annotations[prefix+"requestedIP"])
	if s.annotations[prefix+"loadbalancerIPs"] == "" && text == "" && s.loadBalancerIP != "0.0.0.0" {
		d.kubeVIPLost(s, false)
		return false
	}
	list := d.listOf(s, prefix+"loadbalancerIPs", text)
	dhcp := s.loadBalancerIP == "0.0.0.0" || slices.ContainsFunc(list, netip.Addr.IsUnspecified)
	d.kubeVIPLost(s, dhcp)
	list = slices.DeleteFunc(list, netip.Addr.IsUnspecified)
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

// kubeVIPLost names the annotations without an equal, in one message for each Service.
func (d *draft) kubeVIPLost(s *service, dhcp bool) {
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
	case dhcp:
		d.add(Lost, "no-equal", s.about(), "Tandem leases no addresses from DHCP. Reserve %s outside the DHCP server's range, put it "+
			"into a pool, and ask for it in place of 0.0.0.0; or leave this Service to kube-vip by a class, which only a new Service "+
			"can have. What goes with it: %s",
			orElse(join(s.status), "an address"), orElse(strings.Join(lost, ", "), "nothing else"))
	case len(lost) > 0:
		d.add(Lost, "no-equal", s.about(), "annotations %s have no equal", strings.Join(lost, ", "))
	}
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
