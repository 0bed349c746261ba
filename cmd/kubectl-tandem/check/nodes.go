// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// unasked says why there are no facts of nodes.
func unasked(in *Input) string {
	for _, node := range slices.Sorted(maps.Keys(in.FactsErrs)) {
		return fmt.Sprintf("no speaker could be asked: %v", in.FactsErrs[node])
	}
	return "no speaker was asked"
}

// asked says of how many nodes there are facts, where not of all.
func asked(in *Input) string {
	if len(in.FactsErrs) == 0 {
		return ""
	}
	return fmt.Sprintf("; %s could not be asked: %s", plural(len(in.FactsErrs), "node"), strings.Join(slices.Sorted(maps.Keys(in.FactsErrs)), ", "))
}

// sysctls looks at the parameters of the kernel on which forwarding depends.
func sysctls(in *Input) *Step {
	const name = "sysctls"
	if len(in.Facts) == 0 {
		return skip(name, "%s", unasked(in))
	}
	var f found
	var untold []string // nodes whose speakers do not tell routes
	for _, node := range slices.Sorted(maps.Keys(in.Facts)) {
		status := in.speaker(node)
		sysctl := func(name string) string { return in.Facts[node].Sysctls[name] }
		if sysctl("net.ipv4.ip_forward") == "0" {
			f.fail("%s: net.ipv4.ip_forward is 0", node)
		}
		if sysctl("net.ipv6.conf.all.forwarding") == "0" && has6(status) {
			f.fail("%s: net.ipv6.conf.all.forwarding is 0", node)
		}
		for _, i := range usable(status) {
			dev := strings.ReplaceAll(i.Name, ".", "/")
			if max(sysctl("net.ipv4.conf.all.rp_filter"), sysctl("net.ipv4.conf."+dev+".rp_filter")) == "1" { // 2 is loose, and wins.
				if in.Facts[node].Routes == nil {
					untold = append(untold, node)
				}
				for _, harm := range in.dropped(node, i) {
					f.warn("%s: net.ipv4.conf.%s.rp_filter is 1 (strict), and drops %s", node, dev, harm)
				}
			}
			if sysctl("net.ipv6.conf."+dev+".disable_ipv6") == "1" && in.wants6() {
				f.warn("%s: net.ipv6.conf.%s.disable_ipv6 is 1, and a pool has IPv6 addresses", node, dev)
			}
			learned := slices.ContainsFunc(status.Status.DefaultGateways, func(g string) bool { return strings.HasPrefix(g, "fe80:") })
			if sysctl("net.ipv6.conf.all.forwarding") == "1" && sysctl("net.ipv6.conf."+dev+".accept_ra") == "1" && learned {
				f.warn("%s: net.ipv6.conf.%s.accept_ra is 1, and a node that forwards heeds router advertisements with 2 alone: "+
					"the default route goes when it expires", node, dev)
			}
		}
	}
	well := "all nodes forward" + asked(in)
	if len(untold) > 0 {
		well += "; whether a strict rp_filter does harm is not known of " + strings.Join(slices.Compact(untold), ", ")
	}
	return f.step(name, well, "set them by sysctl -w, and in /etc/sysctl.d for the next boot; rp_filter to 2 (loose), unless the routes can be mended")
}

// dropped says what a strict rp_filter of an interface of a node is known to drop: packets whose way back is by another interface. That is no harm by
// itself: a node with a network of its own for storage sends back by no other way than packets come. It is where others are known to send by the
// interface:
//
//	eth0 is 198.51.100.11/24, and                            drops
//	198.51.100.12, node2's, has a route by fab0              what node2 (198.51.100.12) sends by eth0
//	the default route is by eth1, and 198.51.100.1 is the    what comes from behind 198.51.100.1 by eth0
//	gateway of another node, or a peer of a BGP session
func (in *Input) dropped(node string, link v1alpha1.InterfaceState) (harm []string) {
	facts := in.Facts[node]
	for _, n := range in.neighboursOn(node, link) {
		if by := facts.Routes[n.address.String()]; by != "" && by != link.Name {
			harm = append(harm, fmt.Sprintf("what %s (%s) sends by %s, since the way back is by %s", n.node, n.address, link.Name, by))
		}
	}
	if len(facts.DefaultRoute) == 0 || slices.Contains(facts.DefaultRoute, link.Name) {
		return harm
	}
	for _, router := range in.routersOn(node, link) {
		harm = append(harm, fmt.Sprintf("what comes from behind %s by %s, unless a route to its sender is by %s too: the default route is by %s",
			router, link.Name, link.Name, strings.Join(facts.DefaultRoute, " and ")))
	}
	return harm
}

// neighbour is an address of another node.
type neighbour struct {
	node    string
	address netip.Addr
}

// neighboursOn returns the IPv4 addresses of other nodes in the subnets of an interface of a node.
func (in *Input) neighboursOn(node string, link v1alpha1.InterfaceState) (all []neighbour) {
	if in.State == nil {
		return nil
	}
	subnets := subnetsOf(link)
	for i := range in.State.Speakers.Items {
		other := &in.State.Speakers.Items[i]
		if other.Name == node {
			continue
		}
		for _, theirs := range other.Status.Interfaces {
			for _, text := range theirs.Addresses {
				own, err := netip.ParsePrefix(text)
				if err == nil && slices.Contains(subnets, own.Masked()) {
					all = append(all, neighbour{other.Name, own.Addr()})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b neighbour) int { return a.address.Compare(b.address) })
	return all
}

// routersOn returns the routers in the IPv4 subnets of an interface of a node by which clients are known to come: gateways of nodes where layer 2
// announces, and peers of BGP sessions of this node.
func (in *Input) routersOn(node string, link v1alpha1.InterfaceState) (routers []netip.Addr) {
	if in.State == nil {
		return nil
	}
	subnets := subnetsOf(link)
	add := func(text string) {
		address, err := netip.ParseAddr(text)
		if err == nil && !slices.Contains(routers, address) && slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(address) }) {
			routers = append(routers, address)
		}
	}
	for i := range in.State.Speakers.Items {
		status := &in.State.Speakers.Items[i].Status
		if len(in.State.Snapshot.Config.L2) > 0 {
			for _, gateway := range status.DefaultGateways {
				add(gateway)
			}
		}
		for _, session := range status.BGPSessions {
			if in.State.Speakers.Items[i].Name == node {
				add(session.Address)
			}
		}
	}
	slices.SortFunc(routers, netip.Addr.Compare)
	return routers
}

// subnetsOf returns the IPv4 subnets of an interface.
func subnetsOf(link v1alpha1.InterfaceState) (subnets []netip.Prefix) {
	for _, text := range link.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() && !p.IsSingleIP() {
			subnets = append(subnets, p.Masked())
		}
	}
	return subnets
}

// speaker returns the SpeakerStatus of a node, an empty one if it has none.
func (in *Input) speaker(node string) *v1alpha1.SpeakerStatus {
	if in.State != nil {
		for i := range in.State.Speakers.Items {
			if in.State.Speakers.Items[i].Name == node {
				return &in.State.Speakers.Items[i]
			}
		}
	}
	return &v1alpha1.SpeakerStatus{}
}

// wants6 reports whether a pool has IPv6 addresses.
func (in *Input) wants6() bool {
	return in.State != nil && slices.ContainsFunc(in.State.Config.AddressPools, func(p ipamv1alpha1.AddressPool) bool { return p.Spec.IPv6 != nil })
}

// has6 reports whether a node has a global IPv6 address.
func has6(status *v1alpha1.SpeakerStatus) bool {
	return slices.ContainsFunc(status.Status.Addresses, func(text string) bool {
		address, err := netip.ParseAddr(text)
		return err == nil && address.Is6()
	})
}

// usable returns the interfaces of a node that can announce.
func usable(status *v1alpha1.SpeakerStatus) []v1alpha1.InterfaceState {
	return slices.DeleteFunc(slices.Clone(status.Status.Interfaces), func(i v1alpha1.InterfaceState) bool { return !i.Usable })
}

// kubeProxy looks at the mode of kube-proxy, by what it says on nodes or by its ConfigMap.
func kubeProxy(in *Input) *Step {
	const name, fix = "kube-proxy", "set mode: nftables in kube-proxy's configuration; with ipvs set ipvs.strictARP: true"
	modes := map[string][]string{}
	var f found
	for _, node := range slices.Sorted(maps.Keys(in.Facts)) {
		facts := in.Facts[node]
		modes[facts.KubeProxyMode] = append(modes[facts.KubeProxyMode], node)
		if facts.KubeProxyError != "" {
			f.warn("%s: %s", node, facts.KubeProxyError)
		}
	}
	silent := modes[""]
	delete(modes, "")
	if len(modes) == 0 {
		mode, strictARP := kubeProxyConfig(in.KubeProxy)
		switch {
		case in.KubeProxy == "" && len(in.Facts) > 0 && len(f.warnings) == 0:
			return skip(name, "nothing answers at 127.0.0.1:10249 of the nodes: another program stands in for kube-proxy, or it tells its mode elsewhere")
		case in.KubeProxy == "" && len(in.Facts) == 0:
			return skip(name, "%s", unasked(in))
		case mode == "ipvs" && !strictARP:
			f.fail("it is configured for ipvs without strictARP, so that every node answers ARP for the addresses of Services")
		}
		return f.step(name, mode+", by its ConfigMap", fix)
	}
	if nodes := modes["ipvs"]; len(nodes) > 0 {
		mode, strictARP := kubeProxyConfig(in.KubeProxy)
		switch {
		case mode != "ipvs":
			f.warn("%s: ipvs, and whether strictARP is set cannot be read", strings.Join(nodes, ", "))
		case !strictARP:
			f.fail("%s: ipvs without strictARP, so that every node answers ARP for the addresses of Services", strings.Join(nodes, ", "))
		}
	}
	if len(modes) > 1 {
		f.warn("nodes differ: %s", strings.Join(slices.Sorted(maps.Keys(modes)), ", "))
	}
	silent = slices.DeleteFunc(silent, func(node string) bool { return in.Facts[node].KubeProxyError != "" })
	if len(silent) > 0 {
		f.fail("nothing answers at 127.0.0.1:10249 of %s, and kube-proxy does on the other nodes: it does not run there", strings.Join(silent, ", "))
	}
	return f.step(name, strings.Join(slices.Sorted(maps.Keys(modes)), ", ")+asked(in), fix)
}

// kubeProxyConfig reads a KubeProxyConfiguration as far as it matters here. An empty mode is iptables, the default on Linux.
func kubeProxyConfig(text string) (mode string, strictARP bool) {
	mode = "iptables"
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.Trim(strings.TrimSpace(value), `"`); key {
		case "mode":
			if value != "" {
				mode = value
			}
		case "strictARP":
			strictARP = value == "true"
		}
	}
	return mode, strictARP
}

// A program is known by a part of the name of its image.
type program struct{ image, name string }

// find returns which of the programs run, each with the workload that shows it.
func (in *Input) find(programs []program) map[string]Workload {
	running := map[string]Workload{}
	for _, w := range in.Workloads {
		for _, p := range programs {
			if slices.ContainsFunc(w.Images, func(image string) bool { return strings.Contains(image, p.image) }) {
				running[p.name] = w
			}
		}
	}
	return running
}

// podNetworks are those that docs/networks.md speaks of.
var podNetworks = []program{
	{"calico/node", "Calico"},
	{"cilium/cilium", "Cilium"},
	{"flannel", "Flannel"},
	{"kube-router", "kube-router"},
	{"antrea/antrea", "Antrea"},
	{"weave-kube", "Weave"},
	{"kube-ovn", "Kube-OVN"},
	{"kindnetd", "kindnet"},
}

// podNetwork names the pod network, and what of it is known to be in the way of Tandem.
func podNetwork(in *Input) *Step {
	const name = "pod network"
	if in.WorkloadsErr != nil {
		return skip(name, "%v", in.WorkloadsErr)
	}
	running := in.find(podNetworks)
	if len(running) == 0 {
		return skip(name, "none that is known here runs as a DaemonSet")
	}
	var f found
	setting := func(key string) string {
		for line := range strings.Lines(in.Cilium) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && k == key {
				return v
			}
		}
		return ""
	}
	if setting("enable-l2-announcements") == "true" {
		f.fail("Cilium announces on layer 2 (enable-l2-announcements), and answers for every address in a status")
	}
	if lb := setting("default-lb-service-ipam"); setting("enable-lb-ipam") == "true" && lb != "none" && in.Cilium != "" {
		f.warn("Cilium's LB IPAM may serve Services without a class (default-lb-service-ipam is %q) once there is a CiliumLoadBalancerIPPool", lb)
	}
	if router, ok := running["kube-router"]; ok && slices.ContainsFunc(router.Args, func(a string) bool {
		return strings.HasPrefix(a, "--advertise-loadbalancer-ip") && !strings.HasSuffix(a, "=false")
	}) {
		f.warn("kube-router announces the addresses of Services by BGP, too (--advertise-loadbalancer-ip)")
	}
	if _, ok := running["Cilium"]; ok && in.CiliumErr != nil && len(f.warnings) == 0 {
		return skip(name, "whether Cilium announces is not known: %v", in.CiliumErr)
	}
	return f.step(name, strings.Join(slices.Sorted(maps.Keys(running)), ", "), "docs/networks.md says what to switch off")
}

// balancers are other load balancers of Services.
var balancers = []program{
	{"metallb/speaker", "MetalLB"},
	{"metallb/controller", "MetalLB"},
	{"metallb-speaker", "MetalLB"},
	{"kube-vip", "kube-vip"},
	{"purelb/", "PureLB"},
	{"openelb", "OpenELB"},
	{"klipper-lb", "ServiceLB of k3s"},
	{"kube-loxilb", "LoxiLB"},
	{"cloud-provider-kind", "cloud-provider-kind"},
}

// serves reports whether a program serves Services without a class, as far as it is told by its arguments: kube-vip may be there for the API server
// alone, and MetalLB serve a class of its own.
func serves(name string, w Workload) bool {
	switch name {
	case "kube-vip":
		return slices.Contains(w.Env, "svc_enable=true") || slices.Contains(w.Args, "--services") || slices.Contains(w.Args, "--services=true")
	case "MetalLB":
		return !slices.ContainsFunc(w.Args, func(a string) bool { return strings.HasPrefix(a, "--lb-class=") && a != "--lb-class=" })
	}
	return true
}

// others looks for other load balancers.
func others(in *Input) *Step {
	const name = "other load balancers"
	if in.WorkloadsErr != nil {
		return skip(name, "%v", in.WorkloadsErr)
	}
	var f found
	var names []string
	for _, of := range slices.Sorted(maps.Keys(in.find(balancers))) {
		w := in.find(balancers)[of]
		if serves(of, w) {
			names = append(names, fmt.Sprintf("%s (%s %s/%s)", of, w.Kind, w.Namespace, w.Name))
		}
	}
	if in.Deployment != nil && hasArg(&in.Deployment.Spec.Template.Spec, "--load-balancer-class-only") {
		message := "Tandem serves Services of its class alone"
		if len(names) > 0 {
			message += "; there are " + strings.Join(names, ", ")
		}
		return f.step(name, message, "")
	}
	if in.StaticPodsErr != nil && len(names) == 0 {
		return skip(name, "the static Pods of kube-system could not be read: %v", in.StaticPodsErr)
	}
	for _, n := range names {
		f.fail("%s", n)
	}
	return f.step(name, "none found", "kubectl tandem move-in moves its Services and stops it (docs/moving-in.md); else remove it, or let Tandem serve its class alone: "+
		"--load-balancer-class-only (docs/install.md). Two that serve one Service write its status in turn")
}

// answers looks whether a Service answers here.
func answers(in *Input) *Step {
	name := in.Service + " answers"
	if in.State == nil {
		return skip(name, "its addresses are not known: %v", in.StateErr)
	}
	var f found
	var well []string
	for _, a := range in.Answers {
		if a.Err != nil {
			f.fail("%s: %v", a.Address, a.Err)
		} else {
			well = append(well, a.Address.String())
		}
	}
	switch {
	case !in.Published:
		f.fail("its status has no address")
	case len(in.Answers) == 0:
		return skip(name, "it has no TCP port")
	}
	return f.step(name, "by TCP at "+strings.Join(well, ", "), "kubectl tandem why "+in.Service+"; this machine has to reach the addresses, such as one of the same LAN")
}
