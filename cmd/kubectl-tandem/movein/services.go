// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// service is a Service of the input.
type service struct {
	*object
	loadBalancer            bool
	class, loadBalancerIP   string
	policy, familyPolicy    string
	families                []string
	externalIPs, finalizers []string
	ports                   []string // such as TCP/80
	status                  []netip.Addr
	hostname                string // of the status
	taken                   bool   // ServiceLB's
}

func (s *service) about() subject { return subject{"Service", s.namespace + "/" + s.nick} }

// otherClass reports whether the Service has the class of another product.
func (s *service) otherClass() bool { return s.class != "" && s.class != "tandem-lb.io/tandem" }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// readServices reads the Services of the input, once.
func (d *draft) readServices() []*service {
	if d.parsed != nil {
		return d.parsed
	}
	d.parsed = []*service{}
	for _, o := range d.objects {
		if o.kind != "Service" || o.group != "v1" && o.group != "" {
			continue
		}
		o.namespace = orElse(o.namespace, orElse(d.Options.Namespace, "default"))
		s := &service{object: o}
		o.about = s.about()
		spec := o.spec()
		spec.about = o.about
		kind := spec.text("type")
		// A patch in Git often has the annotations alone, and the type in another file.
		s.loadBalancer = kind == "LoadBalancer" || kind == "" && slices.ContainsFunc(sortedKeys(o.annotations), foreign)
		s.class, s.loadBalancerIP = spec.text("loadBalancerClass"), spec.text("loadBalancerIP")
		s.policy, s.familyPolicy = spec.text("externalTrafficPolicy"), spec.text("ipFamilyPolicy")
		s.families, s.externalIPs = spec.texts("ipFamilies"), spec.texts("externalIPs")
		s.finalizers = o.child("metadata").texts("finalizers")
		for _, port := range spec.list("ports") {
			s.ports = append(s.ports, orElse(port.text("protocol"), "TCP")+"/"+port.text("port"))
		}
		for _, item := range o.child("status").child("loadBalancer").list("ingress") {
			if a, err := netip.ParseAddr(item.text("ip")); err == nil {
				s.status = append(s.status, a.Unmap())
			}
			s.hostname = orElse(s.hostname, item.text("hostname"))
		}
		d.parsed = append(d.parsed, s)
	}
	return d.parsed
}

// services converts what Services ask for, once the pools are there.
func (d *draft) services() {
	all := d.readServices()
	for _, s := range all {
		d.finalizers(s)
		if s.nick == "" && s.loadBalancer {
			d.add(Error, "missing", subject{name: fmt.Sprintf("Service in %s line %d", s.file, s.line)}, "metadata.name: it has no name by which it could be patched")
		}
		switch {
		case s.taken:
		case (s.spec().peek("type") == "ExternalName" || s.spec().peek("clusterIP") == "None") && len(s.externalIPs) > 0:
			d.add(Info, "ignored", s.about(), "nodes ignore spec.externalIPs of a Service that is headless or of type ExternalName")
		case len(s.externalIPs) > 0 && s.class == "" && len(s.status) == 0 && s.hostname == "" && (!s.loadBalancer || d.waits(s)):
			d.externalIPs(s)
		case !s.loadBalancer && len(s.externalIPs) > 0:
			d.add(Info, "ignored", s.about(), "spec.externalIPs stays as it is, since the Service has a class or a status")
		case !s.loadBalancer && slices.ContainsFunc(sortedKeys(s.annotations), foreign):
			d.add(Info, "ignored", s.about(), "its annotations are for load balancers, and it is of type %s", s.spec().peek("type"))
		case s.loadBalancer && s.otherClass():
			d.add(Lost, "class", s.about(), "it has the class %s, which cannot be changed and which Tandem serves only with "+
				"--load-balancer-class=%s of its controller manager; else make the Service anew, without a class", s.class, s.class)
			d.serviceAnnotations(s)
		case s.loadBalancer:
			d.serviceAnnotations(s)
		}
	}
	d.sharedAcross(all)
	d.sharedWithoutKey(all)
	if d.Options.Live {
		d.adoption(all)
	}
}

// waits reports whether a load balancer asks for no address, and no pool of the input gives it one by itself. Where one product alone is converted, that
// is not known.
func (d *draft) waits(s *service) bool {
	gives := func(p *pool) bool { return !p.manual && matches(p.services, s.labels) }
	return (d.Options.From == "" || d.Options.From == "services") && !s.names() && !slices.ContainsFunc(d.pools, gives)
}

// finalizers warns of those that the old product alone takes away: once it is gone, the Service cannot be deleted any more. An example is
// svccontroller.k3s.cattle.io/daemonset of k3s before 1.24.
func (d *draft) finalizers(s *service) {
	for _, name := range s.finalizers {
		if s.loadBalancer && !slices.Contains([]string{cleanup, "foregroundDeletion", "orphan"}, name) {
			d.add(Warn, "finalizer", s.about(), "finalizer %s is another controller's; if nobody takes it away any more after the move, "+
				"remove it, or the Service cannot be deleted", name)
		}
	}
}

// serviceAnnotations translates the annotations of one Service to a patch.
func (d *draft) serviceAnnotations(s *service) {
	d.conflictingRequests(s)
	if len(s.externalIPs) > 0 {
		d.add(Info, "ignored", s.about(), "spec.externalIPs stays as it is: nodes take the traffic for %s, and Tandem does not announce it",
			strings.Join(s.externalIPs, ", "))
	}
	asked := false
	for _, read := range []func(*service) bool{d.metallbService, d.ciliumService, d.kubeVIPService, d.purelbService, d.calicoService} {
		asked = read(s) || asked
	}
	if ip := s.loadBalancerIP; ip != "" && ip != "0.0.0.0" && !asked {
		asked = true
		d.plainAddress(s, ip)
	}
	switch borrowed := len(s.status) > 0 && d.ofNode(s, s.status[0]); {
	case asked, d.Options.Live, s.otherClass(), len(s.status) == 0, slices.ContainsFunc(s.status, func(a netip.Addr) bool { return d.holder(a) != nil }):
	case borrowed:
		d.nodeAddress(s, s.status)
	default:
		d.add(Warn, "status-in-file", s.about(), "a status in a file says nothing about the cluster and asks for nothing. If %s is its "+
			"address (live: look), add tandem-lb.io/load-balancer-ips and put it into a pool",
			join(s.status))
	}
	if !s.loadBalancer {
		return
	}
	said := slices.ContainsFunc(d.entries, func(e entry) bool { return e.code == "one-per-family" && e.subject == s.about() })
	if kept, more := onePerFamily(s.status); len(more) > 0 && !said && d.Options.Live {
		d.add(Lost, "one-per-family", s.about(), "has %s; a Service has one address of each family in Tandem, and keeps "+
			"%s", join(s.status), join(kept))
	}
}

// conflictingRequests warns of annotations of two products that ask for different addresses. A patch has the second one, which comes before MetalLB's
// in Tandem; of an export of a cluster the status says which one counts.
func (d *draft) conflictingRequests(s *service) {
	var first string
	for _, key := range []string{
		"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs", "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips",
		"kube-vip.io/loadbalancerIPs", "purelb.io/addresses",
	} {
		text := strings.Join(strings.Fields(s.annotations[key]), "")
		switch {
		case text == "" || first != "" && text == strings.Join(strings.Fields(s.annotations[first]), ""):
		case first == "":
			first = key
		case !d.Options.Live:
			d.add(Warn, "ambiguous", s.about(), "%s asks for %s, and %s for %s; write the address of the product that is in use into "+
				"tandem-lb.io/load-balancer-ips", first, s.annotations[first], key, s.annotations[key])
			return
		}
	}
}

// plainAddress handles spec.loadBalancerIP.
func (d *draft) plainAddress(s *service, ip string) {
	list, bad := addresses(ip)
	if len(bad) > 0 {
		d.add(Error, "bad-address", s.about(), "spec.loadBalancerIP %q is no address", ip)
		return
	}
	if d.stale(s, "spec.loadBalancerIP", list) {
		return
	}
	d.add(Info, "understood", s.about(), "Tandem honours spec.loadBalancerIP")
	name := "requested"
	if d.ofKubeVIP(s) {
		name = "kube-vip-requested"
	}
	d.wanted(s, list, name)
}

// wanted puts addresses that a Service asks for and no pool holds into a pool that gives nothing by itself.
func (d *draft) wanted(s *service, list []netip.Addr, name string) {
	product := slices.ContainsFunc(d.pools, func(p *pool) bool { return p.product != "requested" && p.product != "kube-vip" })
	for _, a := range list {
		if d.holder(a) != nil {
			continue
		}
		if product && name == "requested" {
			if !d.Options.Live || !slices.Contains(s.status, a) { // What it has is a matter of adoption.
				d.add(Warn, "no-pool", s.about(), "it asks for %s, which no pool holds, so that it gets no address", a)
			}
			continue
		}
		p := d.pool(name)
		if p == nil {
			p = d.newPool(name, map[string]string{"kube-vip-requested": "kube-vip"}[name], s.origin())
			p.product, p.manual, p.ofServices = orElse(p.product, "requested"), true, true
			if name == "kube-vip-requested" && d.kubeVIPNamespace != "" {
				p.namespaces = []metav1.LabelSelector{in(namespaceName, d.kubeVIPNamespace)}
			}
			d.announceRequested(p)
			d.add(Info, "pool", p.about(), "addresses that Services ask for and no pool holds")
		}
		p.spans = append(p.spans, spanOf(a))
	}
}

func spanOf(a netip.Addr) span {
	s, _, _ := parseSpan(a.String())
	return s
}

// ask writes the patch for the addresses that a Service asks for. It keeps one of each family.
func (d *draft) ask(s *service, list []netip.Addr) (kept []netip.Addr) {
	if d.Options.Live { // What the Service has comes before what it could not get.
		has := func(a netip.Addr) bool { return slices.Contains(s.status, a) }
		if len(s.status) > 0 && len(list) > 0 && !slices.ContainsFunc(list, has) {
			d.stale(s, "an annotation of the old product", list)
			return nil
		}
		slices.SortStableFunc(list, func(a, b netip.Addr) int {
			switch {
			case has(a) == has(b):
				return 0
			case has(a):
				return -1
			}
			return 1
		})
	}
	kept, rest := onePerFamily(list)
	for _, a := range rest {
		d.add(Lost, "one-per-family", s.about(), "asks for %s; a Service has one address of each family in Tandem. %s is given up at "+
			"the take-over; make a second Service for it if it is to stay", join(list), a)
	}
	if len(kept) > 0 {
		d.patch(s.namespace, s.nick, s.origin()).annotations["tandem-lb.io/load-balancer-ips"] = join(kept)
	}
	return kept
}

func (d *draft) annotate(s *service, name, value string) {
	_, missing := s.in.fill(value)
	switch {
	case len(missing) > 0:
		d.add(Error, "placeholder", s.about(), "%q is filled in elsewhere; give it by --set %s=..., or read the live cluster by --from-cluster", value, missing[0])
	case templateMark.MatchString(value):
		d.add(Error, "template", s.about(), "%q is filled in by a template. Render it first", value)
	case value != "":
		d.patch(s.namespace, s.nick, s.origin()).annotations["tandem-lb.io/"+name] = value
	}
}

// listOf reads the value of an annotation as addresses, and says which are none.
func (d *draft) listOf(s *service, key, text string) []netip.Addr {
	if _, missing := s.in.fill(text); len(missing) > 0 {
		d.add(Error, "placeholder", s.about(), "%s: %q is filled in elsewhere; give it by --set %s=..., or read the live "+
			"cluster by --from-cluster", key, text, missing[0])
		return nil
	}
	if templateMark.MatchString(text) {
		d.add(Error, "template", s.about(), "%s: %q is filled in by a template. Render it first", key, text)
		return nil
	}
	list, bad := addresses(text)
	for _, word := range bad {
		d.add(Error, "bad-address", s.about(), "%s: %q is no address", key, word)
	}
	return list
}

// metallbService says that MetalLB's annotations work as they are.
func (d *draft) metallbService(s *service) (asks bool) {
	var understood, fixed []string
	for _, prefix := range []string{"metallb.io/", "metallb.universe.tf/"} {
		for _, name := range []string{"address-pool", "loadBalancerIPs", "allow-shared-ip"} {
			key := prefix + name
			value, ok := s.annotations[key]
			if !ok {
				continue
			}
			understood = append(understood, key)
			switch name {
			case "loadBalancerIPs":
				fixed = append(fixed, key)
				list := d.listOf(s, key, value)
				if _, more := onePerFamily(list); len(more) > 0 {
					list = d.ask(s, list)
				}
				if asks = true; !d.stale(s, "annotation "+key, list) {
					d.wanted(s, list, "requested")
				}
			case "address-pool":
				d.metallbPoolName(s, value)
			}
		}
	}
	for _, key := range sortedKeys(s.annotations) {
		name, ok := strings.CutPrefix(key, "metallb.io/")
		if !ok {
			name, ok = strings.CutPrefix(key, "metallb.universe.tf/")
		}
		if ok && name != "ip-allocated-from-pool" && !isMetalLBAnnotation(key) {
			d.unknownAnnotation(s, key)
		}
	}
	if len(understood) > 0 {
		d.add(Info, "understood", s.about(), "annotation %s works in Tandem as it is", strings.Join(understood, ", "))
	}
	for _, prefix := range []string{"metallb.io/", "metallb.universe.tf/"} {
		if _, ok := s.annotations[prefix+"ip-allocated-from-pool"]; ok {
			d.add(Info, "understood", s.about(), "%sip-allocated-from-pool is MetalLB's own note and may go after the move", prefix)
		}
	}
	if len(fixed) > 0 && s.loadBalancerIP != "" {
		d.add(Warn, "was-refused", s.about(), "MetalLB refuses a Service with both %s and spec.loadBalancerIP; Tandem takes the "+
			"annotation", fixed[0])
	}
	return asks
}

// unknownAnnotation names an annotation that has the prefix of a product, and that the product does not know, such as a misspelt one.
func (d *draft) unknownAnnotation(s *service, key string) {
	d.add(Warn, "unknown-field", s.about(), "annotation %s: no annotation that is known; it has no effect on what is written", key)
}

// metallbPoolName follows the renaming of a pool that a Service names.
func (d *draft) metallbPoolName(s *service, value string) {
	name := strings.TrimSpace(value)
	switch ours := d.ourPool(name); {
	case d.pool(ours) == nil && len(d.pools) > 0:
		d.add(Warn, "dangling", s.about(), "AddressPool %q is not in the input", name)
	case ours != name && d.pool(ours) != nil:
		d.annotate(s, "address-pool", ours)
	}
}

// stale warns of a request for another address than the Service has, such as an annotation that nobody obeys any more, and reports whether it is
// one.
func (d *draft) stale(s *service, request string, list []netip.Addr) bool {
	if !d.Options.Live || len(s.status) == 0 || len(list) == 0 || slices.ContainsFunc(list, func(a netip.Addr) bool { return slices.Contains(s.status, a) }) {
		return false
	}
	kept, _ := onePerFamily(s.status)
	d.add(Warn, "stale-annotation", s.about(), "%s asks for %s, and the Service has %s. Tandem would obey the request; the patch keeps the present address",
		request, join(list), join(s.status))
	d.annotate(s, "load-balancer-ips", join(kept))
	return true
}

// ciliumService translates the annotations of LB-IPAM.
func (d *draft) ciliumService(s *service) (asks bool) {
	for _, key := range []string{"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"} {
		if text, ok := s.annotations[key]; ok && !asks {
			asks = true
			d.wanted(s, d.ask(s, d.listOf(s, key, text)), "requested")
		}
	}
	for _, key := range []string{"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"} {
		if text := s.annotations[key]; text != "" {
			d.annotate(s, "allow-shared-ip", text)
		}
	}
	for _, key := range []string{"lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"} {
		if s.annotations[key] != "" {
			d.add(Info, "sharing", subject{name: "sharing-cross-namespace"}, "Tandem reads it as it is: Services of two namespaces "+
				"share where both name the other's, or all by *")
		}
	}
	if _, ok := s.annotations["io.cilium.nodeipam/match-node-labels"]; ok || s.class == "io.cilium/node" {
		d.add(Lost, "no-equal", s.about(), "Cilium gives it the addresses of nodes (Node IPAM), which cannot become Tandem's; it gets one of a pool")
	}
	for _, key := range []string{"service.cilium.io/node", "service.cilium.io/node-selector", "service.cilium.io/type"} {
		if s.annotations[key] != "" {
			d.add(Lost, "no-equal", s.about(), "annotation %s has no equal; an advertisement with serviceSelectors and nodeSelectors "+
				"chooses the nodes", key)
		}
	}
	return asks
}

// purelbAnnotations are those that PureLB reads on a Service, or writes.
var purelbAnnotations = []string{
	"service-group", "addresses", "allow-shared-ip", "allow-local", "multi-pool", "node-affinity", "re-evaluate", "allocated-by", "allocated-from",
	"pool-type", "announcing", "announcing-IPv4", "announcing-IPv6", "skip-ipv6-dad",
}

// purelbService translates PureLB's annotations.
func (d *draft) purelbService(s *service) (asks bool) {
	const prefix = "purelb.io/"
	name := "default"
	if group := s.annotations[prefix+"service-group"]; group != "" {
		name = group[strings.LastIndex(group, "/")+1:]
		d.annotate(s, "address-pool", d.ourPool(name))
		if len(d.pools) > 0 && d.pool(d.ourPool(name)) == nil {
			d.add(Warn, "dangling", s.about(), "AddressPool %q is not in the input", group)
		}
	}
	if text, ok := s.annotations[prefix+"addresses"]; ok {
		asks = true
		d.wanted(s, d.ask(s, d.listOf(s, prefix+"addresses", text)), "requested")
	}
	d.annotate(s, "allow-shared-ip", s.annotations[prefix+"allow-shared-ip"])
	if s.annotations[prefix+"multi-pool"] != "" {
		d.add(Lost, "one-per-family", s.about(), "annotation purelb.io/multi-pool: a Service has one address of each family in Tandem")
	}
	if s.annotations[prefix+"node-affinity"] != "" {
		d.add(Info, "node-affinity", s.about(), "annotation purelb.io/node-affinity: externalTrafficPolicy Local keeps the traffic on nodes "+
			"with endpoints, and Cluster needs nothing")
	}
	purelb := false
	for _, key := range sortedKeys(s.annotations) {
		if annotation, ok := strings.CutPrefix(key, prefix); ok {
			purelb = true
			if !slices.Contains(purelbAnnotations, annotation) {
				d.unknownAnnotation(s, key)
			}
		}
	}
	group := d.pool(d.ourPool(name))
	if _, local := s.annotations[prefix+"allow-local"]; purelb && !local && s.policy == "Local" && (group == nil || !group.remote) {
		d.add(Warn, "etp-rewritten", s.about(), "PureLB has made externalTrafficPolicy Cluster of its Local on pools of the nodes' "+
			"subnet; with Tandem it is Local when the manifest is applied again")
	}
	return asks
}

// calicoService translates Calico's annotations, whose values are lists in JSON.
func (d *draft) calicoService(s *service) (asks bool) {
	list := func(key string) (values []string) {
		text, ok := s.annotations["projectcalico.org/"+key]
		if !ok {
			return nil
		}
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			d.add(Error, "bad-value", s.about(), "annotation projectcalico.org/%s: %q is no list in JSON", key, text)
		}
		return values
	}
	if fixed := list("loadBalancerIPs"); len(fixed) > 0 {
		asks = true
		d.wanted(s, d.ask(s, d.listOf(s, "projectcalico.org/loadBalancerIPs", strings.Join(fixed, ","))), "requested")
	}
	var names []string
	for _, value := range append(list("ipv4pools"), list("ipv6pools")...) {
		name := value
		if prefix, err := netip.ParsePrefix(value); err == nil {
			for _, p := range d.pools {
				if contains(prefix, p) {
					name = p.name
				}
			}
		}
		if name = d.ourPool(name); len(d.pools) > 0 && d.pool(name) == nil {
			d.add(Warn, "dangling", s.about(), "AddressPool %q is not in the input", value)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	d.annotate(s, "address-pool", strings.Join(names, ","))
	if s.annotations["lb.projectcalico.org/external-traffic-strategy"] != "" {
		d.add(Lost, "no-equal", s.about(), "annotation lb.projectcalico.org/external-traffic-strategy has no equal")
	}
	return asks
}

// claims returns the addresses that Tandem has given already: an IPAddress of the input, whose name is the address, says so of each.
func (d *draft) claims() map[netip.Addr]bool {
	claims := map[netip.Addr]bool{}
	for _, o := range d.objects {
		if o.kind != "IPAddress" || o.labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy {
			continue
		}
		if a, err := netip.ParseAddr(o.nick); err == nil {
			claims[a] = true
		}
	}
	return claims
}

// adoption checks, on an export of a cluster, that a pool holds every address that a Service has: Tandem adopts those, and serves no Service
// with another one. Addresses that Tandem has given itself are in pools of the cluster, which are not converted.
func (d *draft) adoption(all []*service) {
	claims := d.claims()
	for _, s := range all {
		if !s.loadBalancer || s.taken || s.otherClass() {
			continue
		}
		kept, _ := onePerFamily(s.status)
		for _, a := range kept {
			if claims[a] || d.holder(a) != nil {
				continue
			}
			if d.ofNode(s, a) {
				d.nodeAddress(s, []netip.Addr{a})
				continue
			}
			if d.Options.KeepInUse {
				d.keepInUse(s, a)
				continue
			}
			if at := slices.IndexFunc(d.pools, func(p *pool) bool { return p.covers(a) }); at >= 0 {
				p := d.pools[at]
				why := "exclude"
				if p.avoidBuggy && !slices.Contains(p.exclude, a) {
					why = "avoidBuggyIPs"
				}
				d.add(Error, "uncovered", s.about(), "it has %s, which AddressPool %s leaves out (%s): Tandem would not adopt it. "+
					"Remove %s, give the Service another address first, or say --keep-in-use",
					a, p.name, why, why)
				continue
			}
			d.add(Error, "uncovered", s.about(), "it has %s, which no pool holds: Tandem would not adopt it, and not serve the Service. "+
				"Add it to a pool, or say --keep-in-use", a)
		}
		given := slices.ContainsFunc(d.pools, func(p *pool) bool {
			return (!p.manual || s.names()) && matches(p.services, s.labels)
		})
		refused := slices.ContainsFunc(d.entries, func(e entry) bool { return e.code == "no-pool" && e.subject == s.about() })
		if len(s.status) == 0 && given && !refused {
			d.add(Warn, "gets-address", s.about(), "it has %s today, and gets an address as soon as Tandem runs",
				orElse(s.hostname, "no address"))
		}
	}
}

// keepInUse puts an address into the pool in-use.
func (d *draft) keepInUse(s *service, a netip.Addr) {
	p := d.pool("in-use")
	if p == nil {
		p = d.newPool("in-use", "requested", s.origin())
		p.manual, p.ofServices = true, true
		d.add(Info, "pool", p.about(), "addresses that Services have and no other pool holds")
	}
	if !p.covers(a) {
		p.spans = append(p.spans, spanOf(a))
	}
}
