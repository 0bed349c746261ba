// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func init() {
	kindsOf["purelb.io"] = []string{"ServiceGroup", "LBNodeAgent"}
	kindsOf["bgp.purelb.io"] = []string{"BGPConfiguration", "BGPNodeStatus"}
}

// agent is an LBNodeAgent: it says on which interfaces the nodes that it selects answer.
type agent struct {
	interfaces []string
	nodes      []metav1.LabelSelector
	dummy      string
}

// purelb converts PureLB's objects of both versions, and the configuration of k8gobgp.
func (d *draft) purelb() {
	d.purelbValues()
	d.purelbWorkloads()
	objects := d.take("purelb.io", "", "")
	agents := d.purelbAgents(objects)
	bgp := d.take("bgp.purelb.io", "BGPConfiguration", "")
	var imported []*pool // those whose addresses k8gobgp announces
	for _, o := range objects {
		if o.kind != "ServiceGroup" {
			continue
		}
		if other := purelbTwin(o, objects); other != nil {
			d.add(Warn, "ambiguous", o.namespaced("purelb"), "another group has the name in namespace %s, and only those in PureLB's own "+
				"namespace count; this one is left out", other.namespace)
			o.whole("spec")
			continue
		}
		if p := d.purelbGroup(o, agents, len(bgp) > 0); p != nil {
			imported = append(imported, p)
		}
	}
	for _, o := range bgp {
		d.purelbBGP(o, imported)
	}
}

// purelbWorkloads reads from PureLB's allocator which Services it serves.
func (d *draft) purelbWorkloads() {
	for _, o := range d.objects {
		for _, c := range o.containers() {
			if other := c.env["DEFAULT_ANNOUNCER"]; strings.Contains(c.image, "purelb/allocator") && other != "" && other != "PureLB" {
				d.add(Lost, "class", o.namespaced("purelb"), "PureLB serves Services of its classes alone (DEFAULT_ANNOUNCER is %s), and Tandem those without a class: give "+
					"Tandem's controller manager --load-balancer-class-only and --load-balancer-class=purelb.io/purelb", other)
			}
		}
	}
}

// purelbTwin returns the group of the same name that counts in place of a group: the one in PureLB's namespace, which is that of its agents
// or has its name.
func purelbTwin(o *object, objects []*object) *object {
	own := func(o *object) bool {
		return strings.Contains(o.namespace, "purelb") || slices.ContainsFunc(objects, func(agent *object) bool {
			return agent.kind == "LBNodeAgent" && agent.namespace == o.namespace
		})
	}
	for _, other := range objects {
		if other.kind == o.kind && other.nick == o.nick && other.namespace != o.namespace && !own(o) && own(other) {
			return other
		}
	}
	return nil
}

// v1 reports whether an object is of PureLB's first API.
func (o *object) v1() bool { return strings.HasSuffix(o.peek("apiVersion"), "/v1") }

// purelbAgents reads the LBNodeAgents.
func (d *draft) purelbAgents(objects []*object) (agents []agent) {
	for _, o := range objects {
		if o.kind != "LBNodeAgent" {
			continue
		}
		spec := o.spec()
		local := spec.child("local")
		a := agent{nodes: selectorsOf(spec.selector("nodeSelector")), dummy: "kube-lb0"}
		for _, field := range []string{"localint", "localInterface"} {
			if expression := local.text(field); expression != "" && expression != "default" {
				globs := d.interfaceGlobs(o.about, local, field, expression, false)
				if a.interfaces = append(a.interfaces, globs...); len(globs) == 0 {
					continue
				}
				d.add(Info, "interfaces", o.about, "%s is %s. PureLB uses an interface for an address only if it holds its subnet; "+
					"Tandem uses those that are named",
					expression, strings.Join(a.interfaces, ", "))
			}
		}
		further := local.texts("interfaces")
		if name := orElse(local.peek("localint"), orElse(local.peek("localInterface"), "default")); name != "default" {
			a.interfaces = append(a.interfaces, further...)
		} else if len(further) > 0 {
			d.add(Info, "interfaces", o.about, "the interface of the default route and %s: Tandem answers on every interface that has a prefix of the "+
				"address, and has no word for the first one, so that interfaces are left out", strings.Join(further, ", "))
		}
		a.dummy = orElse(local.text("extlbint"), orElse(local.text("dummyInterface"), a.dummy))
		for _, field := range []string{"sendgarp", "garpConfig"} {
			if local.has(field) {
				local.whole(field)
				d.add(Info, "garp", o.about, "%s has no equal; Tandem always sends gratuitous ARP and unsolicited neighbour "+
					"advertisements when a node takes an address", field)
			}
		}
		if local.has("addressConfig") {
			d.add(Info, "ignored", o.about, "addressConfig: Tandem puts no addresses on interfaces of the nodes' subnets")
		}
		for _, f := range []*fields{spec, local} {
			if f.has("addressGuard") {
				d.add(Lost, "no-equal", o.about, "addressGuard: Tandem probes an address before it answers for it (RFC 5227), and has "+
					"nothing else that can be set")
			}
		}
		if controlPlane(a.nodes) {
			d.excluded("PureLB", o.about)
		}
		agents = append(agents, a)
	}
	if len(agents) > 0 && !slices.ContainsFunc(objects, func(o *object) bool { return o.kind == "ServiceGroup" }) {
		for _, o := range objects {
			d.add(Info, "unused", o.about, "it says where addresses of ServiceGroups go, and there is none in the input")
		}
	}
	if len(agents) == 0 {
		agents = []agent{{dummy: "kube-lb0"}}
	}
	return agents
}

// purelbGroup converts a ServiceGroup. It returns the pool if another program announces its addresses.
func (d *draft) purelbGroup(o *object, agents []agent, bgp bool) *pool {
	spec := o.spec()
	o.about = o.namespaced("purelb")
	spec.about = o.about
	p := d.newPool(o.nick, "purelb", o.origin())
	local, remote := spec.child("local"), spec.child("remote")
	for _, field := range []string{"netbox", "external"} {
		if spec.has(field) {
			spec.whole(field)
			d.add(Lost, "no-equal", o.about, "%s: the addresses come from another program, and Tandem's only from AddressPools. Those "+
				"in use become a pool by --keep-in-use on an export of the cluster", field)
		}
	}
	d.purelbRanges(p, local)
	d.purelbRanges(p, remote)
	d.purelbRest(o, p, spec)
	if len(p.spans) == 0 {
		if !spec.has("netbox") && !spec.has("external") && !d.failed() {
			d.add(Warn, "no-pools", o.about, "it has neither a pool of local addresses nor one of remote ones; it is left out")
		}
		d.pools = slices.DeleteFunc(d.pools, func(other *pool) bool { return other == p })
		return nil
	}
	p.remote = d.purelbRemote(o, local, remote)
	if remote == nil {
		remote = local // The first version has no other word for both.
	}
	switch {
	case !p.remote:
		for _, a := range agents {
			l2 := d.newAdvertisement(l2Kind, o.nick, o.origin())
			l2.pools, l2.interfaces, l2.nodes = []string{p.name}, a.interfaces, a.nodes
		}
		// On Services of the input it is said of each.
		if o.v1() && !slices.ContainsFunc(d.readServices(), func(s *service) bool { return s.loadBalancer }) {
			d.add(Warn, "etp-rewritten", subject{name: "Services of local pools"}, "PureLB has set externalTrafficPolicy Cluster on "+
				"those that asked for Local; where Git says Local it takes effect when the manifests are applied again")
		}
	case bgp:
		p.length, p.lengthV6 = d.purelbLengths(p, remote)
		return p
	default:
		d.purelbInterface(o, p, agents, remote)
	}
	return nil
}

// purelbRemote reports whether the addresses of a group are in no subnet of the nodes. The first version calls both kinds local; there the Nodes of the
// input tell.
func (d *draft) purelbRemote(o *object, local, remote *fields) bool {
	switch {
	case slices.Contains(d.Options.Local, o.nick):
		return false
	case remote != nil, slices.Contains(d.Options.Remote, o.nick):
		return true
	case !o.v1() || !d.awayFromNodes(local):
		return false
	}
	d.add(Warn, "ambiguous", o.about, "no Node of the input has an address in its subnet, so that it is taken for remote; if another interface of the nodes has "+
		"one, say --local %s", o.nick)
	return true
}

// awayFromNodes reports whether it is known that no Node has an address in a subnet of a group.
func (d *draft) awayFromNodes(group *fields) bool {
	d.node(netip.Addr{}) // reads them
	known := false
	for _, item := range slices.Concat([]*fields{group}, poolsOf(group, "v4pool"), poolsOf(group, "v6pool")) {
		subnet, err := netip.ParsePrefix(item.peek("subnet"))
		if err != nil {
			continue
		}
		for a := range d.nodes {
			if subnet.Contains(a) {
				return false
			}
			known = known || a.Is6() == subnet.Addr().Is6()
		}
	}
	return known
}

// purelbInterface hands the addresses of a remote group to the routing software of the nodes, on PureLB's interface.
//
// PureLB gives an address the mask of its subnet there, so that the routing software announces the subnet, unless aggregation says another
// length.
func (d *draft) purelbInterface(o *object, p *pool, agents []agent, remote *fields) {
	length, lengthV6 := d.purelbLengths(p, remote)
	for _, g := range agents {
		a := d.newAdvertisement(interfaceKind, o.nick, o.origin())
		a.pools, a.iface, a.nodes = []string{p.name}, g.dummy, g.nodes
		a.length, a.lengthV6 = length, lengthV6
	}
	d.add(Info, "redistributed", p.about(), "its addresses go on interface %s of every node, as PureLB has them, and the routing "+
		"software of the nodes announces them", agents[0].dummy)
}

// purelbLengths returns the lengths of the prefixes that are on PureLB's interface, and so are announced, 0 where there is none of the
// family.
func (d *draft) purelbLengths(p *pool, remote *fields) (length, lengthV6 int64) {
	for _, item := range slices.Concat([]*fields{remote}, poolsOf(remote, "v4pool"), poolsOf(remote, "v6pool")) {
		subnet, err := netip.ParsePrefix(item.peek("subnet"))
		if err != nil {
			continue
		}
		bits := int64(subnet.Bits())
		if aggregation := item.peek("aggregation"); strings.HasPrefix(aggregation, "/") {
			bits = numberOf(aggregation[1:])
		}
		one := &length
		if subnet.Addr().Is6() {
			one = &lengthV6
		}
		if *one != 0 && *one != bits {
			d.add(Lost, "aggregate", p.about(), "its ranges are announced by prefixes of two lengths (/%d and /%d); in Tandem all are by the longer one",
				min(*one, bits), max(*one, bits))
		}
		*one = max(*one, bits)
	}
	return length, lengthV6
}

// poolsOf returns the one pool of a family, and those of the list.
func poolsOf(f *fields, field string) (list []*fields) {
	if one := f.child(field); one != nil {
		list = append(list, one)
	}
	return append(list, f.list(field+"s")...)
}

// purelbRanges reads the pools of one part of a group.
func (d *draft) purelbRanges(p *pool, f *fields) {
	if f == nil {
		return
	}
	if f.has("pool") { // the flat form of the first versions
		d.purelbRange(p, f)
	}
	f.skip("subnet", "aggregation")
	for _, item := range append(poolsOf(f, "v4pool"), poolsOf(f, "v6pool")...) {
		d.purelbRange(p, item)
	}
	if f.boolean("multiPool", false) {
		d.add(Lost, "one-per-family", f.about, "multiPool: a Service has one address of each range in PureLB, and one of each family "+
			"in Tandem")
	}
	if f.boolean("balancePools", false) {
		d.add(Lost, "no-equal", f.about, "balancePools: Tandem takes the lowest free address; allocation: Stable spreads them")
	}
	f.skip("skipIPv6DAD")
}

// purelbRange reads one pool, which has to lie in its subnet.
func (d *draft) purelbRange(p *pool, f *fields) {
	text, subnet, aggregation := f.text("pool"), f.text("subnet"), f.text("aggregation")
	if aggregation != "" && aggregation != "default" && !slices.Contains(d.Options.Remote, p.name) && !strings.Contains(f.path, "remote") {
		d.add(Info, "aggregation", f.about, "aggregation %s concerns the mask on the NIC, which Tandem does not put addresses "+
			"on", aggregation)
	}
	f.skip("skipIPv6DAD")
	if text == "" {
		if !f.has("pool") {
			f.report(Error, "missing", "pool", "there is no range")
		}
		return
	}
	if strings.Contains(text, ",") {
		f.report(Error, "bad-address", "pool", "%q is none of CIDR, range, address; PureLB refuses it. Write one entry for each under "+
			"v4pools or v6pools", text)
		return
	}
	s, _, problem := parseSpan(text)
	if network, _, bad := parseSpan(subnet); problem == nil && subnet != "" {
		switch {
		case bad != nil:
			f.report(Error, "bad-address", "subnet", "%s", bad.text)
		case !network.addrs.Contains(s.addrs.From()) || !network.addrs.Contains(s.addrs.To()):
			f.report(Error, "outside-subnet", "pool", "%s is not within subnet %s; PureLB refuses it", text, subnet)
		}
	}
	d.addSpan(p, f, "pool", text)
}

// purelbRest reads which Services get addresses of the group.
func (d *draft) purelbRest(o *object, p *pool, spec *fields) {
	names := spec.texts("namespaces")
	enforced := spec.boolean("enforceNamespaces", false)
	if spec.boolean("namespaceDefault", false) {
		p.priority = 1
	}
	if len(names) == 0 {
		if p.manual = o.nick != "default"; p.manual && len(p.spans) > 0 {
			d.add(Info, "default-group", p.about(), "only the group default serves Services without an annotation, so autoAssign is false")
		}
		return
	}
	p.namespaces = []metav1.LabelSelector{in(namespaceName, names...)}
	list := strings.Join(names, " and ")
	d.add(Warn, "fallback", p.about(), "when it has run out, Services of %s get addresses from other pools that serve everybody; in "+
		"PureLB they wait", list)
	if !enforced {
		d.add(Warn, "boundary", p.about(), "a Service of another namespace that names it is refused; in PureLB it gets an address "+
			"(enforceNamespaces is not set)")
	}
}
