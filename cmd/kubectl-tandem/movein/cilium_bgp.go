// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// peering converts a CiliumBGPPeeringPolicy, the first version of BGP.
func (c *ciliumState) peering(o *object) {
	spec := o.spec()
	nodes := selectorsOf(spec.selector("nodeSelector"))
	if controlPlane(nodes) {
		c.excluded("Cilium", o.about)
	}
	for _, name := range sortedKeys(c.policies) {
		if !apart(nodes, c.policies[name]) {
			c.add(Warn, "was-ignored", o.about, "a node may match CiliumBGPPeeringPolicy %s too, and Cilium then uses none of the two; Tandem has the sessions of both", name)
		}
	}
	c.policies[o.nick] = nodes
	count := 0
	for _, router := range spec.list("virtualRouters") {
		asn := c.ownASN(router)
		if router.boolean("exportPodCIDR", false) {
			c.podCIDR(o.about, "exportPodCIDR")
		}
		if router.selector("podIPPoolSelector") != nil {
			c.podCIDR(o.about, "podIPPoolSelector")
		}
		selector := router.selector("serviceSelector")
		services, ok := c.serviceSelector(o.about, selector)
		kinds := router.texts("serviceAdvertisements")
		ours := c.notOurs(o.about, kinds) || len(kinds) == 0
		if selector != nil && !ours {
			c.add(Warn, "nothing-announced", o.about, "serviceAdvertisements has no LoadBalancerIP, so that its session carries nothing of Tandem's; it is left out")
		}
		var peers []string
		var attributes []func()
		for _, f := range router.list("neighbors") {
			count++
			p := c.neighbor(o, f, asn, count, nodes)
			if selector == nil || !ours || !ok {
				c.dropPeer(p)
				continue
			}
			peers = append(peers, p.name)
			for k, item := range f.list("advertisedPathAttributes") {
				attributes = append(attributes, func() { c.pathAttributes(o, item, p, services, k+1) })
			}
		}
		switch {
		case selector == nil:
			c.add(Warn, "nothing-announced", o.about, "no serviceSelector, so its session carries nothing; it is left out")
		case ours && ok && len(peers) > 0:
			a := c.newAdvertisement(bgpKind, o.nick, o.origin())
			a.peers, a.selected = peers, services
		}
		for _, add := range attributes {
			add()
		}
	}
}

// neighbor converts a neighbour of a virtual router to the peer <policy>-<n>.
func (c *ciliumState) neighbor(o *object, f *fields, asn int64, index int, nodes []metav1.LabelSelector) *peer {
	p := c.newPeer(fmt.Sprintf("%s-%d", o.nick, index), o.origin())
	p.my, p.nodes = asn, nodes
	c.asn(f, p)
	p.address = c.prefixAddress(f, "peerAddress")
	p.port, _ = f.number("peerPort")
	p.connect, p.hold, p.keepalive = f.seconds("connectRetryTimeSeconds"), f.seconds("holdTimeSeconds"), f.seconds("keepAliveTimeSeconds")
	f.gracefulRestart(p)
	c.multihop(f, p, "eBGPMultihopTTL")
	p.families = bothOrOne(c.families(p.about(), f.list("families")))
	c.secret(f, p)
	f.list("advertisedPathAttributes")
	c.checkPeer(p, f, "peerAddress")
	return p
}

// ownASN returns the number of the nodes' autonomous system.
func (c *ciliumState) ownASN(f *fields) int64 {
	asn, ok := f.number("localASN")
	if !ok {
		f.report(Error, "missing", "localASN", "a session needs the number of the nodes' autonomous system")
	}
	return asn
}

func (c *ciliumState) multihop(f *fields, p *peer, field string) {
	if ttl, ok := f.number(field); ok && ttl > 1 {
		p.multihop = true
		c.add(Info, "multihop", p.about(), "%s %d is ebgpMultiHop, which sets no limit", field, ttl)
	}
}

func (c *ciliumState) secret(f *fields, p *peer) {
	if p.secret = f.text("authSecretRef"); p.secret != "" {
		c.noteSecret(p, "kube-system")
	}
}

// pathAttributes makes the advertisement <policy>-<n>-attributes-<k>, which adds attributes for pools with certain labels.
func (c *ciliumState) pathAttributes(o *object, f *fields, p *peer, services selected, index int) {
	kind := f.text("selectorType")
	selector := f.selector("selector")
	a := &advertisement{}
	c.attributes(f, a)
	if kind != "CiliumLoadBalancerIPPool" {
		c.podCIDR(o.about, "advertisedPathAttributes of "+kind)
		return
	}
	made := c.newAdvertisement(bgpKind, fmt.Sprintf("%s-attributes-%d", p.name, index), o.origin())
	made.peers, made.selected, made.poolSelectors = []string{p.name}, services, selectorsOf(selector)
	made.communities, made.localPref = a.communities, a.localPref
	c.add(Info, "attributes", o.about, "advertisedPathAttributes: a further BGPAdvertisement adds the attributes for pools with "+
		"certain labels (advertisements that come to the same prefix are announced once, with the communities of both)")
}

// route is an entry of a CiliumBGPAdvertisement that announces addresses of load balancers.
type route struct {
	*advertisement
	labels map[string]string
	by     map[string][]string // families, by the peer that selects the route for them
}

// controlPlane converts the second version of BGP: CiliumBGPClusterConfig and what it refers to.
func (c *ciliumState) controlPlane() {
	var routes []*route
	for _, o := range c.take("cilium.io", "CiliumBGPAdvertisement", "") {
		routes = append(routes, c.routes(o)...)
	}
	configs := map[string]*object{}
	for _, o := range c.take("cilium.io", "CiliumBGPPeerConfig", "") {
		configs[o.nick] = o
	}
	overrides := c.take("cilium.io", "CiliumBGPNodeConfigOverride", "")
	clusters := c.take("cilium.io", "CiliumBGPClusterConfig", "")
	uses := map[string]int{} // of the names of peers: two instances may each have a peer tor
	for _, o := range clusters {
		for _, instance := range o.spec().list("bgpInstances") {
			for _, f := range instance.list("peers") {
				uses[f.peek("name")]++
			}
		}
	}
	for _, o := range clusters {
		c.cluster(o, uses, configs, routes, overrides)
	}
	for _, name := range sortedKeys(configs) {
		o := configs[name]
		if !c.referred[name] {
			c.add(Info, "unused", o.about, "no CiliumBGPClusterConfig of the input refers to it")
		}
		c.peerConfig(o.spec(), &peer{name: o.nick}, false)
		o.spec().list("families")
	}
	for _, o := range overrides {
		c.override(o, nil, "")
		for _, f := range o.spec().list("bgpInstances") {
			if name := f.text("name"); !c.instances[name] {
				c.add(Info, "unused", o.about, "no CiliumBGPClusterConfig of the input has the instance %q", name)
			}
		}
	}
	for _, r := range routes {
		for peer, families := range r.by {
			p := c.peer(peer)
			r.peers = append(append(r.peers, p.name), p.single...)
			if len(bothOrOne(families)) == 1 && len(bothOrOne(p.families)) != 1 {
				r.families = families
			}
		}
		slices.Sort(r.peers)
		if len(r.by) == 0 {
			c.add(Warn, "nothing-announced", r.about(), "no peer selects it, so that it announces nothing; it is left out")
			c.advertisements = slices.DeleteFunc(c.advertisements, func(a *advertisement) bool { return a == r.advertisement })
		}
	}
}

// routes converts the entries of a CiliumBGPAdvertisement.
func (c *ciliumState) routes(o *object) (routes []*route) {
	for _, f := range o.spec().list("advertisements") {
		kind := f.text("advertisementType")
		selector := f.selector("selector")
		service := f.child("service")
		kinds := service.texts("addresses")
		length, _ := service.number("aggregationLengthIPv4")
		lengthV6, _ := service.number("aggregationLengthIPv6")
		f.child("interface").skip("name")
		a := &advertisement{kind: bgpKind, from: o.origin(), length: length, lengthV6: lengthV6}
		c.attributes(f.child("attributes"), a)
		if kind != "Service" {
			c.notServices(o.about, kind)
			continue
		}
		ours := c.notOurs(o.about, kinds)
		if len(kinds) == 0 {
			c.add(Warn, "nothing-announced", o.about, "an entry without service.addresses announces no address; it is left out")
		}
		services, ok := c.serviceSelector(o.about, selector)
		switch {
		case selector == nil:
			c.add(Warn, "nothing-announced", o.about, "an entry without a selector selects no Service; it is left out")
			continue
		case !ours || !ok:
			continue
		}
		made := c.newAdvertisement(bgpKind, o.nick, o.origin())
		a.name, a.selected = made.name, services
		*made = *a
		routes = append(routes, &route{made, o.labels, map[string][]string{}})
	}
	return routes
}

// notServices says that an entry is not of Services.
func (c *ciliumState) notServices(about subject, kind string) {
	switch kind {
	case "PodCIDR", "CiliumPodIPPool":
		c.podCIDR(about, kind)
	case "Interface":
		c.add(Lost, "pod-cidr", about, "Interface; Tandem announces addresses of Services, and none that an interface of the node has. Leave this "+
			"to Cilium, or to a routing daemon on the nodes")
	default:
		c.add(Lost, "no-equal", about, "advertisementType %q; Tandem announces addresses of Services", kind)
	}
}

// cluster converts the peers of a CiliumBGPClusterConfig.
func (c *ciliumState) cluster(o *object, uses map[string]int, configs map[string]*object, routes []*route, overrides []*object) {
	spec := o.spec()
	nodes := selectorsOf(spec.selector("nodeSelector"))
	if controlPlane(nodes) {
		c.excluded("Cilium", o.about)
	}
	for _, instance := range spec.list("bgpInstances") {
		name := instance.text("name")
		c.instances[name] = true
		asn := c.ownASN(instance)
		if _, ok := instance.number("localPort"); ok {
			c.add(Info, "listen", o.about, "localPort: Tandem's speakers dial and never listen")
		}
		for _, f := range instance.list("peers") {
			theirs := f.text("name")
			if uses[theirs] > 1 {
				theirs = name + "-" + theirs
			}
			c.clusterPeer(o, f, name, theirs, asn, nodes, configs, routes, overrides)
		}
	}
}

func (c *ciliumState) clusterPeer(o *object, f *fields, instance, name string, asn int64, nodes []metav1.LabelSelector,
	configs map[string]*object,
	routes []*route, overrides []*object,
) {
	p := c.newPeer(name, o.origin())
	p.my, p.nodes = asn, nodes
	c.asn(f, p)
	p.address = c.prefixAddress(f, "peerAddress")
	discovery := f.child("autoDiscovery")
	switch mode := discovery.text("mode"); mode {
	case "DefaultGateway":
		if p.gateway = "IPv4"; p.address != "" {
			c.add(Warn, "was-ignored", p.about(), "peerAddress %s: Cilium takes the default gateway of each node, and so does the BGPPeer", p.address)
			p.address = ""
		}
		if strings.EqualFold(discovery.child("defaultGateway").text("addressFamily"), "ipv6") {
			p.gateway = "IPv6"
		}
	case "Unnumbered":
		if p.address != "" {
			c.add(Warn, "was-ignored", p.about(), "peerAddress %s: Cilium looks for the router on the interface, and so does the BGPPeer", p.address)
			p.address = ""
		}
		p.iface = discovery.child("unnumbered").text("interface")
	case "":
		if p.address == "" && !f.has("peerAddress") {
			f.report(Error, "missing", "peerAddress", "the peer has no address")
		}
	default:
		f.report(Error, "bad-value", "autoDiscovery.mode", "%q is neither DefaultGateway nor Unnumbered", mode)
	}
	reference := f.child("peerConfigRef")
	reference.skip("group", "kind")
	c.referred[reference.text("name")] = true
	config := configs[reference.text("name")]
	if config != nil {
		c.peerConfig(config.spec(), p, true)
		c.selectRoutes(config, p, routes)
	} else if reference != nil {
		c.add(Warn, "dangling", p.about(), "CiliumBGPPeerConfig %q is not in the input; without it a peer has the defaults and "+
			"announces nothing", reference.text("name"))
	}
	c.checkPeer(p, f, "peerAddress")
	if !slices.ContainsFunc(routes, func(r *route) bool { return r.by[p.name] != nil }) {
		c.dropPeer(p)
		c.add(Warn, "nothing-announced", p.about(), "no advertisement is selected for it, so that its session carries nothing; it is "+
			"left out")
		return
	}
	for _, override := range overrides {
		c.override(override, p, instance)
	}
}

// peerConfig merges a CiliumBGPPeerConfig into a peer.
func (c *ciliumState) peerConfig(spec *fields, p *peer, report bool) {
	transport := spec.child("transport")
	p.port, _ = transport.number("peerPort")
	if source := transport.text("sourceInterface"); source != "" && report {
		if p.sourceInterface = source; p.address == "" && p.gateway == "" {
			p.sourceInterface = ""
			c.add(Info, "source", p.about(), "sourceInterface %s: an unnumbered session has its source on its own interface", source)
		}
	}
	if _, ok := transport.number("localPort"); ok && report {
		c.add(Info, "listen", p.about(), "localPort: Tandem's speakers dial and never listen")
	}
	timers := spec.child("timers")
	p.connect, p.hold, p.keepalive = timers.seconds("connectRetryTimeSeconds"), timers.seconds("holdTimeSeconds"),
		timers.seconds("keepAliveTimeSeconds")
	spec.gracefulRestart(p)
	if !report {
		spec.skip("ebgpMultihop", "authSecretRef")
		for _, f := range spec.list("families") {
			f.skip("afi", "safi")
			f.selector("advertisements")
		}
		return
	}
	c.multihop(spec, p, "ebgpMultihop")
	c.secret(spec, p)
}

// selectRoutes finds the routes that each family of a peer announces, and sets the families of the session. A family without advertisements
// carries nothing.
func (c *ciliumState) selectRoutes(config *object, p *peer, routes []*route) {
	var carrying []*fields
	list := config.spec().list("families")
	for _, f := range list {
		selector := f.selector("advertisements")
		families := c.families(p.about(), []*fields{f})
		if selector == nil || len(families) == 0 {
			continue
		}
		carrying = append(carrying, f)
		for _, r := range routes {
			if matches([]metav1.LabelSelector{*selector}, r.labels) && !slices.Contains(r.by[p.name], families[0]) {
				r.by[p.name] = append(r.by[p.name], families[0])
			}
		}
	}
	p.families = bothOrOne(c.families(p.about(), carrying))
}

// override converts what a CiliumBGPNodeConfigOverride says of one peer of one node: a peer for that node, which the general one leaves
// out.
func (c *ciliumState) override(o *object, p *peer, instance string) {
	for _, f := range o.spec().list("bgpInstances") {
		same := f.text("name") == instance && p != nil
		routerID, port := f.text("routerID"), f.text("localPort")
		asn, _ := f.number("localASN")
		source := ""
		for _, item := range f.list("peers") {
			item.skip("localPort")
			if name := item.text("name"); p != nil && (name == p.origin || instance+"-"+name == p.origin) {
				source = item.text("localAddress")
			}
			item.skip("localAddress")
		}
		if same && port != "" {
			c.add(Info, "listen", o.about, "localPort: Tandem's speakers dial and never listen")
		}
		if !same || routerID == "" && asn == 0 && source == "" {
			continue
		}
		own := c.nodePeer(p, o, o.nick)
		if own.routerID = routerID; source != "" {
			own.source, own.sourceInterface = source, ""
		}
		if asn != 0 {
			own.my = asn
		}
		c.checkPeer(own, f, "peers")
	}
}

// except takes a node out of selectors.
func except(list []metav1.LabelSelector, node string) (less []metav1.LabelSelector) {
	if len(list) == 0 {
		list = []metav1.LabelSelector{{}}
	}
	for _, s := range list {
		s = *s.DeepCopy()
		at := slices.IndexFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			return e.Key == hostname && e.Operator == metav1.LabelSelectorOpNotIn
		})
		if at >= 0 {
			s.MatchExpressions[at].Values = append(s.MatchExpressions[at].Values, node)
		} else {
			s.MatchExpressions = append(s.MatchExpressions, requirement(hostname, metav1.LabelSelectorOpNotIn, node).MatchExpressions...)
		}
		less = append(less, s)
	}
	return less
}
