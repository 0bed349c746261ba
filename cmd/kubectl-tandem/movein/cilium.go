// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The labels by which Cilium's selectors name a Service itself.
const (
	ciliumServiceName      = "io.kubernetes.service.name"
	ciliumServiceNamespace = "io.kubernetes.service.namespace"
)

// cilium converts pools, layer 2 policies and BGP of both versions.
func (d *draft) cilium() {
	c := &ciliumState{draft: d, instances: map[string]bool{}, referred: map[string]bool{}, policies: map[string][]metav1.LabelSelector{}}
	c.assumption = d.assumed("cilium")
	for _, o := range d.take("cilium.io", "CiliumLoadBalancerIPPool", "") {
		c.pool(o)
	}
	d.overlaps("cilium", "was-ignored", "Cilium gives no address of the newer of two pools that overlap (%s and %s of AddressPool %s), and Tandem does; "+
		"take the common addresses out of one of them")
	for _, o := range d.take("cilium.io", "CiliumL2AnnouncementPolicy", "") {
		c.policy(o)
	}
	for _, o := range d.take("cilium.io", "CiliumBGPPeeringPolicy", "") {
		c.peering(o)
	}
	c.controlPlane()
	for _, o := range d.take("cilium.io", "CiliumBGPNodeConfig", "") {
		o.whole("spec")
		c.add(Info, "ignored", o.about, "Cilium's operator writes it, and it repeats the other objects")
	}
}

// ciliumState is what is known of Cilium while its objects are read.
type ciliumState struct {
	*draft
	assumption
	policies            map[string][]metav1.LabelSelector // nodes of CiliumBGPPeeringPolicies, by their names
	instances, referred map[string]bool                   // BGP instances, and names of CiliumBGPPeerConfigs that peers refer to
}

// pool converts a CiliumLoadBalancerIPPool.
func (c *ciliumState) pool(o *object) {
	spec := o.spec()
	p := c.newPool(o.nick, "cilium", o.origin())
	p.labels = o.labels
	p.manual = spec.boolean("disabled", false)
	if p.manual {
		c.add(Info, "disabled", p.about(), "a disabled pool gives no new address in Cilium; with autoAssign: false it gives those that "+
			"a Service asks for")
	}
	first := strings.ToLower(spec.text("allowFirstLastIPs"))
	allowed := first == "yes" || first == "true" || first == "" && !c.before(1, 16)
	single := 0
	blocks, cidrs := spec.list("blocks"), spec.list("cidrs")
	switch old := c.before(1, 16); {
	case len(cidrs) == 0:
	case len(blocks) == 0 || old:
		if c.versioned() && !old {
			c.add(Warn, "was-ignored", p.about(), "Cilium ignores cidrs since 1.16 and takes blocks; its pool is empty, and this one is not")
		}
		blocks = append(blocks, cidrs...)
	default:
		c.add(Warn, "was-ignored", p.about(), "Cilium ignores cidrs since 1.16 and takes blocks, and so does the pool. Say --assume cilium=1.15 for an older one")
		spec.whole("cidrs")
		for _, f := range cidrs {
			f.skip("cidr", "start", "stop")
		}
	}
	for _, block := range blocks {
		cidr, start, stop := block.text("cidr"), block.text("start"), block.text("stop")
		text, where := cidr, "cidr"
		switch {
		case cidr != "" && start+stop != "":
			block.report(Warn, "ambiguous", "cidr", "the block has start and stop as well; Cilium takes cidr, and so does the pool")
		case cidr == "" && start == "":
			if block.peek("cidr")+block.peek("start") == "" {
				block.report(Error, "missing", "cidr", "the block has neither cidr nor start")
			}
			continue
		case cidr == "":
			if text, where = start, "start"; stop != "" && stop != start {
				text += "-" + stop
			} else {
				single++
			}
		}
		if where == "cidr" && !strings.Contains(text, "/") {
			block.report(Warn, "was-refused", where, "%s has no mask, and Cilium takes a CIDR here; the pool has it as it is", text)
		}
		c.block(p, block, where, text, allowed)
	}
	if single > 0 && single == len(blocks) {
		c.add(Warn, "node-address", p.about(), "if these are addresses of nodes (live: compare), Tandem must not announce them: "+
			"traffic to the node itself would go astray")
	}
	c.poolSelector(o, p, spec.selector("serviceSelector"))
}

// block adds the addresses of one block.
func (c *ciliumState) block(p *pool, f *fields, where, text string, allowed bool) {
	s, _, problem := parseSpan(text)
	if problem == nil && s.addrs.From().Is4In6() {
		f.report(Warn, "ipv4-mapped", where, "%s is IPv4 written as IPv6 and is left out; Services that have an address of it (live: "+
			"look at their status) cannot keep it", text)
		return
	}
	c.addSpan(p, f, where, text)
	if problem == nil && where == "cidr" && !allowed {
		p.exclude = append(p.exclude, ends(s.cidr)...)
	}
}

// poolSelector converts the selector of a pool, which may name a Service or a namespace by labels of Cilium's own.
func (c *ciliumState) poolSelector(o *object, p *pool, s *metav1.LabelSelector) {
	names, namespaces, rest := c.special(o.about, s)
	if len(namespaces) > 0 {
		p.namespaces = []metav1.LabelSelector{in(namespaceName, namespaces...)}
	}
	if rest != nil {
		var own metav1.LabelSelector // what else is said of the namespace, such as NotIn
		rest.MatchExpressions = slices.DeleteFunc(rest.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			if e.Key == ciliumServiceName {
				c.add(Warn, "service-name", o.about, "no AddressPool can leave out a Service by its name; %s %s is left out", e.Operator,
					strings.Join(e.Values, ", "))
			}
			if e.Key == ciliumServiceNamespace && e.Operator == metav1.LabelSelectorOpNotIn {
				own.MatchExpressions = append(own.MatchExpressions, requirement(namespaceName, e.Operator, e.Values...).MatchExpressions...)
			}
			return e.Key == ciliumServiceName || e.Key == ciliumServiceNamespace
		})
		if len(p.namespaces) > 0 {
			own.MatchExpressions = append(p.namespaces[0].MatchExpressions, own.MatchExpressions...)
		}
		p.namespaces = selectorsOf(&own)
		if everything(*rest) {
			c.everything(o.about, rest)
			rest = nil
		}
	}
	p.services = selectorsOf(rest)
	if len(names) == 0 {
		return
	}
	p.manual = true
	c.add(Warn, "service-name", o.about, "no AddressPool can select a Service by its name; %s has autoAssign: false and the Service "+
		"names it. Other Services of its namespace could name it too", p.name)
	if len(namespaces) == 0 { // in all namespaces, of which the input has these
		for _, s := range c.readServices() {
			if s.loadBalancer && slices.Contains(names, s.nick) {
				c.patch(s.namespace, s.nick, o.origin()).annotations["tandem-lb.io/address-pool"] = p.name
			}
		}
	}
	for _, namespace := range namespaces {
		for _, name := range names {
			c.patch(namespace, name, o.origin()).annotations["tandem-lb.io/address-pool"] = p.name
			if strings.HasPrefix(name, "cilium-gateway-") || strings.HasPrefix(name, "cilium-ingress-") {
				c.add(Warn, "owned", subject{"Service", namespace + "/" + name}, "a controller of Cilium writes it; set the annotation "+
					"in the Gateway's spec.infrastructure.annotations, or it may be taken away again")
			}
		}
	}
}

// special takes the labels of Cilium's own out of a selector. Where it asks for a name or a namespace twice, what is in both lists is left.
func (c *ciliumState) special(about subject, s *metav1.LabelSelector) (names, namespaces []string, rest *metav1.LabelSelector) {
	if s == nil {
		return nil, nil, nil
	}
	rest = c.withoutAlways(about, s)
	take := func(key string) (values []string) {
		asked := false
		both := func(list []string) {
			if !asked {
				values, asked = slices.Clone(list), true
				return
			}
			if values = slices.DeleteFunc(values, func(value string) bool { return !slices.Contains(list, value) }); len(values) == 0 {
				c.add(Error, "bad-value", about, "its selector asks for two values of %s that no Service has both", key)
			}
		}
		if value, ok := rest.MatchLabels[key]; ok {
			both([]string{value})
			delete(rest.MatchLabels, key)
		}
		rest.MatchExpressions = slices.DeleteFunc(rest.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			found := e.Key == key && e.Operator == metav1.LabelSelectorOpIn
			if found {
				both(e.Values)
			}
			return found
		})
		return values
	}
	return take(ciliumServiceName), take(ciliumServiceNamespace), rest
}

// serviceSelector converts a selector of an announcement. ok is false where an advertisement cannot say it.
func (c *ciliumState) serviceSelector(about subject, s *metav1.LabelSelector) (of selected, ok bool) {
	names, namespaces, rest := c.special(about, s)
	var others []string // those of which the namespace has to be none
	if rest != nil && !everything(*rest) {
		rest.MatchExpressions = slices.DeleteFunc(rest.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			found := e.Key == ciliumServiceNamespace && e.Operator == metav1.LabelSelectorOpNotIn
			if found {
				others = append(others, e.Values...)
			}
			return found
		})
	}
	var own metav1.LabelSelector
	if len(namespaces) > 0 {
		own.MatchExpressions = in(namespaceName, namespaces...).MatchExpressions
	}
	if len(others) > 0 {
		own.MatchExpressions = append(own.MatchExpressions, requirement(namespaceName, metav1.LabelSelectorOpNotIn, others...).MatchExpressions...)
	}
	of.namespaces = selectorsOf(&own)
	switch {
	case len(names) > 0:
		c.add(Error, "service-name", about, "no advertisement selects a Service by its name; give the Service a label, or a pool of "+
			"its own, and select that")
		return selected{}, false
	case rest != nil && everything(*rest):
		c.everything(about, rest)
		return of, true
	case rest != nil && slices.ContainsFunc(rest.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return e.Key == ciliumServiceName || e.Key == ciliumServiceNamespace
	}):
		c.add(Lost, "no-equal", about, "no advertisement leaves out Services by their name, or by whether they have a namespace, and it is left out; "+
			"give the others a pool of their own, and write an advertisement for it")
		return selected{}, false
	}
	of.services = selectorsOf(rest)
	return of, true
}

func (c *ciliumState) everything(about subject, s *metav1.LabelSelector) {
	e := s.MatchExpressions[0]
	c.add(Info, "everything", about, `the selector "%s" stands for every Service and is left out`,
		strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Key, e.Operator, strings.Join(e.Values, ", "))))
}

// withoutAlways leaves out that a Service has a name or a namespace, which each has.
func (c *ciliumState) withoutAlways(about subject, s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	s = s.DeepCopy()
	s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		always := e.Operator == metav1.LabelSelectorOpExists && (e.Key == ciliumServiceName || e.Key == ciliumServiceNamespace)
		if always {
			c.everything(about, &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{e}})
		}
		return always
	})
	return s
}

// policy converts a CiliumL2AnnouncementPolicy.
func (c *ciliumState) policy(o *object) {
	spec := o.spec()
	announces := spec.boolean("loadBalancerIPs", false)
	if spec.boolean("externalIPs", false) {
		c.add(Lost, "external-ips", o.about, "Tandem does not announce spec.externalIPs. Make those Services load balancers; see "+
			"kubectl tandem externalips")
	}
	nodes := selectorsOf(spec.selector("nodeSelector"))
	services, ok := c.serviceSelector(o.about, spec.selector("serviceSelector"))
	var interfaces []string
	for i, expression := range spec.texts("interfaces") {
		interfaces = append(interfaces, c.interfaceGlobs(subject{l2Kind, o.nick}, spec, "interfaces["+itoa(i)+"]", expression, true)...)
	}
	if !announces {
		c.add(Warn, "nothing-announced", o.about, "loadBalancerIPs is not true, so that the policy announces no address of a load "+
			"balancer; it is left out")
		return
	}
	if !ok {
		return
	}
	a := c.newAdvertisement(l2Kind, o.nick, o.origin())
	a.nodes, a.selected, a.interfaces = nodes, services, interfaces
	if len(nodes) == 0 || controlPlane(nodes) {
		c.excluded("Cilium", o.about)
	}
}

// prefixAddress reads the address of a neighbour, which may have a mask.
func (c *ciliumState) prefixAddress(f *fields, field string) string {
	text := f.text(field)
	if prefix, err := netip.ParsePrefix(text); err == nil {
		if !prefix.IsSingleIP() {
			c.add(Info, "prefix", f.about, "the mask of %s is left out", text)
		}
		return prefix.Addr().String()
	}
	return text
}

// gracefulRestart reads it; both products leave it off without being asked.
func (f *fields) gracefulRestart(p *peer) {
	restart := f.child("gracefulRestart")
	time := restart.seconds("restartTimeSeconds")
	if restart.boolean("enabled", false) {
		p.graceful, p.restart = true, time
	}
}

// asn sets the number of the router, or that it is not known.
func (c *ciliumState) asn(f *fields, p *peer) {
	zeros := f.zeros
	f.zeros = nil
	p.theirs, _ = f.number("peerASN")
	f.zeros = zeros
	if p.theirs == 0 {
		p.dynamic = "External"
		c.add(Warn, "ambiguous", p.about(), "Cilium takes any AS number of the router; dynamicASN is External, which takes any but %d. "+
			"Write Internal if the router has that one", p.my)
	}
}

// families returns the families of a session from afi and safi; both are left out.
func (c *ciliumState) families(about subject, list []*fields) (families []string) {
	for _, f := range list {
		afi, safi := strings.ToLower(f.text("afi")), strings.ToLower(f.text("safi"))
		family := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[afi]
		if family == "" || safi != "" && safi != "unicast" {
			c.add(Lost, "no-equal", about, "family %s %s: sessions carry IPv4 and IPv6 unicast", afi, safi)
			continue
		}
		if !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	return families
}

// bothOrOne leaves out the list of both families, which is Tandem's default.
func bothOrOne(families []string) []string {
	if len(families) == 2 {
		return nil
	}
	return families
}

// attributes reads communities and the local preference into an advertisement.
func (c *ciliumState) attributes(f *fields, a *advertisement) {
	if f == nil {
		return
	}
	communities := f.child("communities")
	for i, text := range communities.texts("standard") {
		text = decimal(text)
		if problem := communityProblem(text); problem != "" {
			communities.report(Error, "bad-value", "standard["+itoa(i)+"]", "%q %s", text, problem)
			continue
		}
		a.communities = append(a.communities, text)
	}
	for _, name := range communities.texts("wellKnown") {
		// These are no names of the routers that Tandem's were taken from, and their values say the same.
		if name == "planned-shut" || strings.HasPrefix(name, "route-filter-") {
			name = orElse(wellKnown[name], name)
		}
		a.communities = append(a.communities, name)
	}
	for i, text := range communities.texts("large") {
		if problem := communityProblem("large:" + text); problem != "" {
			communities.report(Error, "bad-value", "large["+itoa(i)+"]", "%q %s", text, problem)
			continue
		}
		a.communities = append(a.communities, "large:"+text)
	}
	a.communities = distinct(a.communities)
	if f.peek("localPreference") == "0" { // which is the least, and no default
		f.skip("localPreference")
		a.localPref = new(int64)
	} else if pref, ok := f.number("localPreference"); ok {
		a.localPref = &pref
	}
}

// notOurs names the kinds of addresses that Tandem does not announce. It reports whether those of load balancers are among them.
func (c *ciliumState) notOurs(about subject, kinds []string) (ours bool) {
	for _, kind := range kinds {
		switch kind {
		case "LoadBalancerIP":
			ours = true
		case "ClusterIP":
			c.add(Lost, "cluster-ips", about, "ClusterIP; Tandem announces LoadBalancer addresses only, so ClusterIPs are no longer "+
				"reachable from outside")
		case "ExternalIP":
			c.add(Lost, "external-ips", about, "ExternalIP; Tandem does not announce spec.externalIPs. Make those Services load "+
				"balancers; see kubectl tandem externalips")
		}
	}
	return ours
}

func (c *ciliumState) podCIDR(about subject, what string) {
	c.add(Lost, "pod-cidr", about, "%s; Tandem announces no pod networks. If the router routes to pods, Cilium has to keep its "+
		"session, and a router takes one session from an address: give the router a second address for Tandem, or let Cilium announce "+
		"the addresses that Tandem gives", what)
}
