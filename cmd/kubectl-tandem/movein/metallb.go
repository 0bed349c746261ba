// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// metalLB is what is known of the MetalLB that an input is for. Defaults differ between versions, and between its own BGP ("native") and
// FRR.
type metalLB struct {
	assumption
	native, frr bool // neither where it is not known
	namespace   string
}

// metallbAway leaves out an object that is not in MetalLB's own namespace, where that is known: MetalLB reads the others never.
func (d *draft) metallbAway(o *object, m *metalLB) bool {
	if m.namespace == "" || o.namespace == "" || o.namespace == m.namespace {
		return false
	}
	o.whole("spec")
	d.add(Warn, "was-ignored", o.namespaced(""), "MetalLB reads the objects of its own namespace %s alone, so that this one has no effect; it is left out",
		m.namespace)
	return true
}

// metallb converts MetalLB's objects, and configurations of 0.12 and older.
func (d *draft) metallb() {
	m := &metalLB{assumption: d.assumed("metallb")}
	mode := m.first("native", "frr", "frr-k8s")
	m.native, m.frr = mode == "native", mode != "" && mode != "native"
	d.metallbWorkloads(m)
	d.metallbCharts(m)
	objects := slices.DeleteFunc(d.take("metallb.io", "", ""), func(o *object) bool { return d.metallbAway(o, m) })
	m.frr = m.frr || !m.native && slices.ContainsFunc(objects, (*object).needsFRR)
	current := slices.ContainsFunc(objects, func(o *object) bool { return o.kind == "IPAddressPool" }) && !m.before(0, 13)
	for _, c := range d.metallbConfigs(current) {
		d.metallbConfig(c, m)
	}
	defer d.metallbRefused(m)
	for _, kind := range []string{
		"BFDProfile", "Community", "IPAddressPool", "AddressPool", "BGPPeer", "L2Advertisement",
		"BGPAdvertisement",
	} {
		for _, o := range objects {
			if o.kind == kind {
				d.metallbObject(o, m)
			}
		}
	}
	for _, o := range d.objects {
		switch {
		case o.kind == "ConfigMap" && o.nick == "bgpextras":
			o.taken = true
			o.skip("data")
			d.add(Lost, "no-equal", o.namespaced("metallb-system"),
				"Tandem's speaker has no free configuration of FRR. What this one announces, learns or filters ends with MetalLB; keep "+
					"FRR on the nodes for it, over other sessions than Tandem's")
		case o.kind == "ConfigMap" && o.nick == "metallb-excludel2":
			o.taken = true
			o.skip("data")
			d.add(Info, "ignored", o.namespaced("metallb-system"), "Tandem answers only on interfaces that hold a prefix of the address, so that there is "+
				"nothing to exclude")
		case o.kind == "MetalLB" && o.group == "metallb.io":
			o.taken = true
			o.whole("spec")
			d.add(Info, "ignored", o.about, "it is for MetalLB's operator and pods; set what is wanted in Tandem's manifests")
		case o.kind == "FRRConfiguration":
			o.taken = true
			o.whole("spec")
			d.add(Lost, "no-equal", o.namespaced("metallb-system"),
				"frr-k8s has sessions and filters of its own here, which Tandem does not read. Leave it in place where its routes are "+
					"needed; it has to use another session than Tandem's")
		}
	}
}

// overlaps warns of pools of a product that share addresses, with a text that has both ranges and the name of the other pool. Tandem takes such an
// address from either.
func (d *draft) overlaps(product, code, text string) {
	for i, p := range d.pools {
		for _, other := range d.pools[:i] {
			if p.product != product || other.product != product {
				continue
			}
			if mine, theirs, ok := p.overlap(other); ok {
				d.add(Warn, code, p.about(), text, mine.text, theirs.text, other.name)
			}
		}
	}
}

// overlap returns the first entries of two pools that have an address in common.
func (p *pool) overlap(other *pool) (mine, theirs span, ok bool) {
	for _, mine := range p.spans {
		for _, theirs := range other.spans {
			if mine.addrs.Overlaps(theirs.addrs) {
				return mine, theirs, true
			}
		}
	}
	return span{}, span{}, false
}

// take returns the objects of an API group, of a kind and a name where those are given, that nobody has converted yet, and marks them as
// converted.
func (d *draft) take(group, kind, name string) (objects []*object) {
	for _, o := range d.objects {
		known := kind != "" || slices.Contains(kindsOf[group], o.kind)
		if o.group == group && (kind == "" || o.kind == kind) && (name == "" || o.nick == name) && known && !o.taken {
			o.taken = true
			objects = append(objects, o)
		}
	}
	return objects
}

// kindsOf are the kinds that are read, by API group.
var kindsOf = map[string][]string{
	"metallb.io": {
		"IPAddressPool", "AddressPool", "L2Advertisement", "BGPPeer", "BGPAdvertisement", "Community", "BFDProfile",
		"ServiceL2Status", "ServiceBGPStatus", "ConfigurationState",
	},
}

// metallbWorkloads learns version and mode from MetalLB's own DaemonSet.
func (d *draft) metallbWorkloads(m *metalLB) {
	for _, o := range d.objects {
		if o.kind == "MetalLB" && o.group == "metallb.io" {
			d.metallbOperator(o, m)
		}
		for _, c := range o.containers() {
			if strings.Contains(c.image, "metallb/") || strings.Contains(c.image, "metallb-") {
				d.metallbArguments(o, c)
			}
			if !strings.Contains(c.image, "metallb/speaker") && !strings.Contains(c.image, "metallb-speaker") {
				continue
			}
			m.namespace = o.namespace
			_, tag, _ := strings.Cut(c.image[strings.LastIndex(c.image, "/"):], ":")
			m.learn(tag)
			mode, says := c.env["METALLB_BGP_TYPE"]
			if !says && len(c.whole) == 0 {
				mode = "native" // which MetalLB takes where the variable is not set, as in its manifest metallb-native.yaml
			}
			switch mode {
			case "native", "frr", "frr-k8s":
				m.native, m.frr = mode == "native", mode != "native"
			}
		}
	}
}

// metallbOperator reads what MetalLB's operator makes its pods from.
func (d *draft) metallbOperator(o *object, m *metalLB) {
	spec := o.spec()
	if mode := spec.text("bgpBackend"); mode != "" {
		m.native, m.frr = mode == "native", mode != "native"
	}
	d.metallbClass(o.about, spec.text("loadBalancerClass"))
	if nodes := spec.stringMap("nodeSelector"); len(nodes) > 0 {
		d.metallbNodeSelector(o.about, nodes)
	}
}

// metallbArguments reads the arguments of MetalLB's pods that say which Services it serves, and from which nodes.
func (d *draft) metallbArguments(o *object, c container) {
	about := o.namespaced("metallb-system")
	for _, arg := range c.args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case name == "lb-class":
			d.metallbClass(about, value)
		case name == "ignore-exclude-lb" && value != "false":
			d.metallbIgnoresLabel(about)
		}
	}
	pod := &fields{in: o.in, node: o.podSpec(), about: about, read: map[string]bool{}}
	nodes := pod.stringMap("nodeSelector")
	delete(nodes, "kubernetes.io/os") // linux, in MetalLB's own manifests
	if o.kind == "DaemonSet" && len(nodes) > 0 {
		d.metallbNodeSelector(about, nodes)
	}
}

func (d *draft) metallbIgnoresLabel(about subject) {
	d.add(Warn, "exclude-label", about, "its speakers announce from nodes with the label %s too; give Tandem's --ignore-exclude-label", excludeLabel)
}

// metallbClass warns of Services that no other load balancer serves once MetalLB is gone.
func (d *draft) metallbClass(about subject, class string) {
	if class != "" {
		d.add(Lost, "class", about, "MetalLB serves Services of class %s alone. The class of a Service cannot be changed: give Tandem's controller manager "+
			"--load-balancer-class=%s, or make the Services anew", class, class)
	}
}

func (d *draft) metallbNodeSelector(about subject, nodes map[string]string) {
	var labels []string
	for _, key := range sortedKeys(nodes) {
		labels = append(labels, key+"="+nodes[key])
	}
	d.add(Info, "nodes", about, "its speakers run, and announce, on nodes with %s alone; give Tandem's speakers the same nodeSelector, or the advertisements "+
		"nodeSelectors", strings.Join(labels, ","))
}

// needsFRR reports whether MetalLB refuses the object in native mode.
func (o *object) needsFRR() bool {
	return o.kind == "BFDProfile" || o.kind == "BGPPeer" && o.spec().needsFRR() || largeCommunity(o.spec().node)
}

// largeCommunity reports whether a value below a node is a large community, such as large:64512:1:2.
func largeCommunity(n *yaml.Node) bool {
	return strings.HasPrefix(n.Value, "large:") || slices.ContainsFunc(n.Content, largeCommunity)
}

// needsFRR reports whether a peer has a field that MetalLB refuses in native mode.
func (f *fields) needsFRR() bool {
	for _, field := range []string{
		"keepaliveTime", "connectTime", "bfdProfile", "vrf", "enableGracefulRestart", "interface", "localASN",
		"dynamicASN", "disableMP", "dualStackAddressFamily",
	} {
		if n := f.peek(field); n != "" && n != "0s" && n != "false" {
			return true
		}
	}
	return false
}

// peek returns a scalar without marking it as read.
func (f *fields) peek(field string) string {
	if f == nil {
		return ""
	}
	if n := lookup(f.node, f.name(field)); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func (d *draft) metallbObject(o *object, m *metalLB) {
	spec := o.spec()
	switch o.kind {
	case "IPAddressPool":
		d.metallbPool(o, spec, m)
	case "AddressPool":
		p := d.metallbPool(o, spec, m)
		d.metallbProtocol(spec, p, "", func(string) string { return o.nick }, o.origin())
	case "BGPPeer":
		p := d.newPeer(o.nick, o.origin())
		d.metallbPeer(spec, p, m, o.namespace)
	case "L2Advertisement", "BGPAdvertisement":
		a := d.newAdvertisement(o.kind, o.nick, o.origin())
		d.metallbAdvertisement(spec, a)
	case "Community":
		c := &community{name: d.communityObject(o.nick), from: o.origin()}
		for _, item := range spec.list("communities") {
			d.addCommunity(c, item, item.text("name"), item.text("value"), "value")
		}
		d.keepCommunity(c)
	case "BFDProfile":
		d.metallbProfile(spec, d.newProfile(o.nick, o.origin()))
	}
}

// metallbPool converts an IPAddressPool, or what came before it.
func (d *draft) metallbPool(o *object, spec *fields, m *metalLB) *pool {
	p := d.newPool(o.nick, "metallb", o.origin())
	p.labels, p.onePoolPerService = o.labels, true
	d.metallbRanges(spec, p, o.fields)
	allocation := spec.child("serviceAllocation")
	p.priority, _ = allocation.number("priority")
	if names := allocation.texts("namespaces"); len(names) > 0 {
		p.namespaces = append(p.namespaces, in(namespaceName, names...))
	}
	p.namespaces = append(p.namespaces, allocation.selectors("namespaceSelectors")...)
	p.services = anyOf(allocation.selectors("serviceSelectors"))
	p.namespaces = anyOf(p.namespaces)
	if p.priority > 0 && len(p.namespaces)+len(p.services) == 0 && (m.before(0, 15) || !m.versioned()) {
		d.add(Warn, "was-ignored", p.about(), "MetalLB before 0.15 gives no address by itself from a pool that has a priority and no "+
			"selectors; Tandem does")
	}
	if allocation != nil && p.priority == 0 {
		allocation.zeros = nil
	}
	return p
}

// metallbRanges reads addresses, autoAssign and avoidBuggyIPs of a pool. about is where an empty list is reported.
func (d *draft) metallbRanges(spec *fields, p *pool, about *fields) {
	p.manual = !spec.boolean("autoAssign", true)
	p.avoidBuggy = spec.boolean("avoidBuggyIPs", false)
	if letters := spec.letters("addresses"); letters != "" {
		spec.report(Error, "bad-address", "addresses", "%d entries of one letter each; a string was taken for a list (put together: "+
			"%s). Write it as one entry",
			len(letters), letters)
		return
	}
	list, n := []string{}, spec.get("addresses")
	switch {
	case n != nil && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			list = append(list, spec.scalar(item, "addresses["+itoa(i)+"]"))
		}
	case n != nil:
		list = spec.texts("addresses")
	}
	for i, text := range list {
		if text == "" { // It is empty, or reported already.
			if n.Kind == yaml.SequenceNode && n.Content[i].Value == "" && n.Content[i].Kind == yaml.ScalarNode {
				spec.report(Error, "bad-address", "addresses["+itoa(i)+"]", "it is empty; MetalLB refuses it")
			}
			continue
		}
		field := spec.name("addresses") + "[" + itoa(i) + "]"
		if _, err := netip.ParseAddr(text); err == nil {
			spec.report(Warn, "was-refused", field, "MetalLB refuses %q (it has no mask) and with it the configuration, so that the "+
				"cluster need not run what the file says; AddressPool %s takes it as one address",
				text, p.name)
		}
		d.addSpan(p, spec, field, text)
	}
	if len(list) == 0 && (n == nil || n.Kind == yaml.SequenceNode && len(n.Content) == 0) {
		field := "addresses"
		if about != spec {
			field = orElse(spec.at(field), "spec.addresses")
		}
		about.report(Error, "missing", field, "the pool has no addresses")
	}
}

// letters returns the text of a list whose entries are single letters, "" for any other list. YAML reads "- -" as a list in the list.
func (f *fields) letters(field string) string {
	n := f.get(field)
	if n == nil || n.Kind != yaml.SequenceNode || len(n.Content) < 4 {
		return ""
	}
	text := ""
	var walk func(*yaml.Node) bool
	walk = func(n *yaml.Node) bool {
		if n.Kind == yaml.SequenceNode {
			text += "-"
			return !slices.ContainsFunc(n.Content, func(kid *yaml.Node) bool { return !walk(kid) })
		}
		if n.Tag != "!!null" {
			text += n.Value
		}
		return len(n.Value) <= 1
	}
	if slices.ContainsFunc(n.Content, func(kid *yaml.Node) bool { return !walk(kid) }) {
		return ""
	}
	return text
}

// metallbPeer converts a peer, of an object or of a configuration. namespace is that of the Secret with its password.
func (d *draft) metallbPeer(f *fields, p *peer, m *metalLB, namespace string) {
	p.my, _ = f.number("myASN")
	if local, ok := f.number("localASN"); ok {
		p.my = local
	}
	p.theirs, _ = f.number("peerASN")
	d.metallbDynamic(f, p)
	p.address, p.iface, p.vrf = f.text("peerAddress"), f.text("interface"), f.text("vrf")
	p.source, p.routerID = f.text("sourceAddress"), f.text("routerID")
	p.port = f.within("peerPort", 1, 65535)
	// Before 0.14.9 an object that says nothing of the time is exported with 0s; since then, and in a configuration, 0s turns the check off.
	if p.hold = "0s"; !f.off("holdTime") || f.spelling == nil && (m.before(0, 14, 9) || !m.versioned()) {
		p.hold = f.duration("holdTime")
	}
	p.keepalive, p.connect = f.duration("keepaliveTime"), f.duration("connectTime")
	p.multihop, p.bfd = f.boolean("ebgpMultiHop", false), d.ourProfile(f.text("bfdProfile"))
	p.graceful = f.boolean("enableGracefulRestart", false)
	p.nodes = d.metallbNodes(f)
	d.metallbPassword(f, p, namespace)
	none := func(field string) bool { return f.peek(field) == "" || f.peek(field) == "0" } // What is there and wrong has been reported.
	switch {
	case none("myASN") && p.my == 0:
		f.report(Error, "missing", "myASN", "a peer needs the number of our autonomous system")
	case none("peerASN") && f.peek("dynamicASN") == "":
		f.report(Error, "missing", "peerASN", "a peer needs the number of its autonomous system")
	case f.peek("peerAddress") == "" && f.peek("interface") == "":
		f.report(Error, "missing", "peerAddress", "a peer needs an address, or an interface")
	}
	d.metallbFamilies(f, p, m)
	if m.native && p.external() && !p.multihop {
		d.add(Warn, "multihop", p.about(), "eBGP. MetalLB's native BGP sends with TTL 64 and reaches the router over others too; set "+
			"ebgpMultiHop: true unless the router is on the node's own link")
	}
	d.checkPeer(p, f, "peerAddress")
}

// metallbDynamic reads the kind of neighbour that stands in place of a number.
func (d *draft) metallbDynamic(f *fields, p *peer) {
	text := f.text("dynamicASN")
	p.dynamic = map[string]string{"internal": "Internal", "external": "External"}[strings.ToLower(text)]
	switch {
	case text != "" && p.dynamic == "":
		f.report(Error, "bad-value", "dynamicASN", "%q is none of internal, external", text)
	case text != "" && p.theirs != 0:
		p.dynamic = ""
		f.report(Warn, "was-refused", "dynamicASN", "MetalLB refuses it beside peerASN; the number is written")
	}
}

// metallbFamilies sets the families of a session, which is the default that differs most between MetalLB's modes and versions.
func (d *draft) metallbFamilies(f *fields, p *peer, m *metalLB) {
	one, both := f.boolean("disableMP", false), f.boolean("dualStackAddressFamily", false)
	switch {
	case m.native:
		p.families = []string{"IPv4"}
		d.add(Info, "families", p.about(), "MetalLB's native BGP carries IPv4 only, so families is [IPv4]; leave it out to let the "+
			"session carry both")
	case both, p.address == "", m.frr && m.before(0, 15) && !one:
	case p.ownFamily():
		d.add(Info, "families", p.about(), "families is that of the address, as in MetalLB; leave it out to let the session carry both")
	}
}

// bookkeeping is the prefix of labels that a cloud provider writes into selectors, and that no node has.
const bookkeeping = "nomatch.metal.equinix.com/"

// metallbNodes reads the nodes of a peer: any of the selectors has to match.
func (d *draft) metallbNodes(f *fields) []metav1.LabelSelector {
	list := f.selectors("nodeSelectors")
	kept := slices.DeleteFunc(slices.Clone(list), func(s metav1.LabelSelector) bool {
		for key := range s.MatchLabels {
			if strings.HasPrefix(key, bookkeeping) {
				return true
			}
		}
		return false
	})
	if len(kept) == 0 {
		return list // They match no node together either.
	}
	if len(kept) < len(list) {
		d.add(Info, "selector", f.aboutOr(f.path), "%s with labels %s... match no node and are left "+
			"out", f.name("nodeSelectors"), bookkeeping)
	}
	return anyOf(kept)
}

func (d *draft) metallbPassword(f *fields, p *peer, namespace string) {
	if p.password = f.text("password"); p.password != "" {
		p.secret = d.passwordSecret(p)
		about := subject{name: f.at("password")}
		if f.about.kind != "" {
			about = p.about()
		}
		d.add(Info, "password", about, "the password is in clear in the input; it goes to a Secret in tandem-system named after the peer")
	}
	reference := f.child("passwordSecret")
	if reference == nil {
		return
	}
	if len(reference.node.Content) == 0 {
		f.zero("passwordSecret", "{}")
		return
	}
	name := reference.text("name")
	namespace = orElse(reference.text("namespace"), orElse(namespace, "metallb-system"))
	switch {
	case name == "":
		f.zero("passwordSecret", "{}")
		return
	case p.password != "":
		f.report(Warn, "was-refused", "passwordSecret", "MetalLB refuses it beside password, which is written; Secret %s/%s is not used", namespace, name)
		return
	}
	p.secret = name
	d.noteSecret(p, namespace)
}

// metallbAdvertisement converts an advertisement of either kind. spec may be nil: all pools, everywhere.
func (d *draft) metallbAdvertisement(spec *fields, a *advertisement) {
	for _, name := range spec.texts("ipAddressPools") {
		a.pools = append(a.pools, d.ourPool(name))
	}
	a.poolSelectors = spec.selectors("ipAddressPoolSelectors")
	a.services = anyOf(spec.selectors("serviceSelectors"))
	a.nodes = anyOf(spec.selectors("nodeSelectors"))
	if spec != nil {
		spec.zeros = nil // Empty lists say the same as none.
	}
	if a.kind == l2Kind {
		a.interfaces = spec.texts("interfaces")
		for _, item := range spec.list("preferredNodeSelectors") {
			weight, _ := item.number("weight")
			p := preference{weight: weight}
			if s := item.selector("preference"); s != nil {
				p.nodes = *s
			}
			a.preferred = append(a.preferred, p)
		}
		if len(a.preferred) > 0 {
			d.add(Warn, "preference", a.about(), "MetalLB takes an address back to a preferred node that has come back; Tandem leaves "+
				"it where it is, unless failbackAfter is set")
		}
		return
	}
	for _, name := range spec.texts("peers") {
		if names := d.peersOf(name); len(names) > 0 {
			a.peers = append(a.peers, names...)
			continue
		}
		a.peers = append(a.peers, name)
	}
	d.metallbRoute(spec, a)
}

// metallbRoute reads the attributes of a route.
func (d *draft) metallbRoute(f *fields, a *advertisement) {
	a.length, a.lengthV6 = f.within("aggregationLength", 0, 32), f.within("aggregationLengthV6", 0, 128)
	if pref, ok := f.number("localPref"); ok {
		a.localPref = &pref
	}
	for i, text := range f.texts("communities") {
		problem := communityProblem(text)
		if _, err := strconv.Atoi(text); err == nil && problem == "" && !communityValue.MatchString(text) {
			problem = "is half of a community such as 64512:100"
		}
		if problem != "" {
			f.report(Error, "bad-value", "communities["+itoa(i)+"]", "%q %s", text, problem)
			continue
		}
		a.communities = append(a.communities, d.ourCommunity(text))
	}
}

func (d *draft) metallbProfile(spec *fields, p *profile) {
	p.receive, p.transmit = spec.within("receiveInterval", 10, 60000), spec.within("transmitInterval", 10, 60000)
	p.echo = spec.within("echoInterval", 10, 60000)
	p.multiplier, p.ttl = spec.within("detectMultiplier", 2, 255), spec.within("minimumTtl", 1, 254)
	p.passive = spec.boolean("passiveMode", false)
	if spec.boolean("echoMode", false) {
		d.add(Warn, "bfd-echo", subject{"BFDProfile", p.name}, "the echo function is not built, and echoMode is left out; control "+
			"packets at the same interval find a failure as fast: shorten transmitInterval and receiveInterval")
	}
}
