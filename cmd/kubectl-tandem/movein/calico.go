// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// calicoPrefix is a network that Calico announces, whoever gives the addresses.
type calicoPrefix struct {
	prefix     netip.Prefix
	aggregated bool
	about      subject // the object that says it
}

// calicoCommunities are those of the routes within a prefix.
type calicoCommunities struct {
	prefix netip.Prefix
	values []string
}

// calicoOrigin is where advertisements of what Calico announces come from.
const calicoOrigin = "Calico's BGPConfiguration"

// calico converts pools for load balancers, and says what of Calico's BGP stays with Calico. Objects are of the API (projectcalico.org), or
// as they are stored (crd.projectcalico.org).
func (d *draft) calico() {
	find := func(kind string) []*object {
		return append(d.take("projectcalico.org", kind, ""), d.take("crd.projectcalico.org", kind, "")...)
	}
	onDemand := false
	for _, o := range find("KubeControllersConfiguration") {
		for _, name := range []string{
			"logSeverityScreen", "healthChecks", "etcdV3CompactionPeriod", "prometheusMetricsPort",
			"debugProfilePort",
		} {
			o.spec().skip(name)
		}
		controllers := o.spec().child("controllers")
		controllers.skip("node", "policy", "workloadEndpoint", "serviceAccount", "namespace")
		onDemand = controllers.child("loadBalancer").text("assignIPs") == "RequestedServicesOnly"
	}
	for _, o := range find("IPPool") {
		d.calicoPool(o, o.spec(), o.nick, onDemand)
	}
	d.calicoInstallation(onDemand)
	var own int64 = 64512
	for _, o := range find("BGPConfiguration") {
		own = d.calicoConfiguration(o, own)
	}
	filters := find("BGPFilter")
	for _, o := range filters {
		o.whole("spec")
		d.add(Lost, "no-equal", o.about, "Tandem has no filters; what this one hides on purpose is announced. A person has to read it")
	}
	d.calicoAnnounces()
	for _, o := range find("BGPPeer") {
		d.calicoPeer(o, own)
	}
}

// calicoInstallation converts the pools for load balancers in the Installations of Calico's operator, which makes IPPools of them.
func (d *draft) calicoInstallation(onDemand bool) {
	for _, o := range d.objects {
		if o.kind != "Installation" || o.group != "operator.tigera.io" || d.Options.From != "" && d.Options.From != "calico" {
			continue
		}
		for _, f := range o.spec().child("calicoNetwork").list("ipPools") {
			if !slices.Contains(f.texts("allowedUses"), "LoadBalancer") {
				f.whole("cidr")
				continue
			}
			f.skip("encapsulation")
			// What an IPPool calls disabled has another name here.
			f.node.Content = append(f.node.Content, scalarNode("disabled"), scalarNode(orElse(f.text("disableNewAllocations"), "false")))
			d.calicoPool(o, f, orElse(f.text("name"), dns(f.peek("cidr"), 63)), onDemand)
			d.unknown(f)
		}
	}
}

// calicoPool converts an IPPool that is for load balancers. o is the object that has it, the IPPool itself or an Installation of the operator.
func (d *draft) calicoPool(o *object, spec *fields, name string, onDemand bool) {
	lb := false
	for _, use := range spec.texts("allowedUses") {
		lb = lb || use == "LoadBalancer"
	}
	for _, name := range []string{"blockSize", "natOutgoing", "nat-outgoing", "ipipMode", "vxlanMode"} {
		spec.skip(name)
	}
	spec.whole("ipip")
	cidr, namespaces := spec.text("cidr"), spec.text("namespaceSelector")
	mode, disabled := spec.text("assignmentMode"), spec.boolean("disabled", false)
	noBGP := spec.boolean("disableBGPExport", false)
	nodes := spec.text("nodeSelector")
	switch {
	case lb:
	case disabled:
		d.add(Warn, "workload-pool", o.about, "it gives no address, and stays with Calico. A pool that is disabled often lets BIRD announce what another "+
			"product puts on the nodes' interfaces, for which an InterfaceAdvertisement stands")
		return
	default:
		d.add(Warn, "workload-pool", o.about, "it gives addresses to pods, and stays with Calico")
		return
	}
	if nodes != "" && nodes != "all()" {
		spec.report(Warn, "was-refused", "nodeSelector", "%q: Calico takes all() alone for a pool of load balancers; it is left out", nodes)
	}
	p := d.newPool(name, "calico", o.origin())
	d.addSpan(p, spec, "cidr", cidr)
	p.labels = o.labels
	p.manual = strings.EqualFold(mode, "Manual") || disabled || onDemand
	if p.notExported = noBGP; noBGP {
		d.add(Info, "disabled", p.about(), "disableBGPExport: Calico does not announce it by BGP")
	}
	if namespaces == "" || namespaces == "all()" {
		return
	}
	if s, ok := calicoSelector(namespaces); ok {
		p.namespaces = []metav1.LabelSelector{s}
		return
	}
	spec.report(Error, "bad-value", "namespaceSelector", "no label selector says what %q says; write namespaceSelectors by "+
		"hand", namespaces)
}

var calicoTerm = regexp.MustCompile(`^(!?)\s*has\(\s*([^)\s]+)\s*\)$|^(\S+?)\s*(==|!=)\s*["']([^"']*)["']$|^(\S+)\s+(not in|in)\s*\{([^}]*)\}$`)

// calicoSelector converts a selector of Calico's language: has(k), k == 'v', k != 'v', k in {…}, k not in {…}, and && between them. ok is false for any
// other, such as !k == 'v', and for one that asks for what no label can be.
func calicoSelector(text string) (s metav1.LabelSelector, ok bool) {
	for term := range strings.SplitSeq(withoutParentheses(text), "&&") {
		if term = withoutParentheses(term); term == "all()" {
			continue
		}
		m := calicoTerm.FindStringSubmatch(term)
		if m == nil || m[7] != "" && strings.TrimSpace(m[8]) == "" { // k in {} selects nothing.
			return s, false
		}
		e := metav1.LabelSelectorRequirement{Key: m[2] + m[3] + m[6]}
		if e.Key == "projectcalico.org/name" { // Calico's own label for the name of a namespace.
			e.Key = namespaceName
		}
		switch {
		case m[2] != "" && m[1] == "":
			e.Operator = metav1.LabelSelectorOpExists
		case m[2] != "":
			e.Operator = metav1.LabelSelectorOpDoesNotExist
		case m[4] == "==":
			e.Operator, e.Values = metav1.LabelSelectorOpIn, []string{m[5]}
		case m[4] == "!=":
			e.Operator, e.Values = metav1.LabelSelectorOpNotIn, []string{m[5]}
		default:
			e.Operator = map[string]metav1.LabelSelectorOperator{"in": metav1.LabelSelectorOpIn, "not " +
				"in": metav1.LabelSelectorOpNotIn}[m[7]]
			for value := range strings.SplitSeq(m[8], ",") {
				e.Values = append(e.Values, strings.Trim(strings.TrimSpace(value), `"'`))
			}
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	_, err := metav1.LabelSelectorAsSelector(&s)
	return s, err == nil
}

// withoutParentheses takes blanks and parentheses around a whole selector away: ((a == 'b')) is a == 'b', and (a == 'b') && (has(c)) stays.
func withoutParentheses(text string) string {
	for text = strings.TrimSpace(text); strings.HasPrefix(text, "(") && strings.HasSuffix(text, ")"); text = strings.TrimSpace(text[1 : len(text)-1]) {
		depth := 0
		for i, r := range text {
			switch r {
			case '(':
				depth++
			case ')':
				depth--
			}
			if depth == 0 && i < len(text)-1 {
				return text
			}
		}
	}
	return text
}

// asNumber reads the number of an autonomous system, which may be written as two: 1.10 is 65546 (RFC 5396). It is 0 where it is absent.
func (f *fields) asNumber(field string) int64 {
	high, low, dotted := strings.Cut(f.peek(field), ".")
	if !dotted {
		n, _ := f.number(field)
		return n
	}
	f.skip(field)
	h, err := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if err != nil || err2 != nil {
		f.report(Error, "bad-value", field, "%q is no number of an autonomous system", f.peek(field))
	}
	return int64(h<<16 | l)
}

// cidrs reads a list of {cidr}.
func (f *fields) cidrs(field string) (list []netip.Prefix, texts []string) {
	for _, item := range f.list(field) {
		text := item.text("cidr")
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			item.report(Error, "bad-address", "cidr", "%q is no CIDR", text)
			continue
		}
		list, texts = append(list, prefix.Masked()), append(texts, text)
	}
	return list, texts
}

// calicoConfiguration reads a BGPConfiguration, and returns the AS number of the nodes.
func (d *draft) calicoConfiguration(o *object, own int64) int64 {
	spec := o.spec()
	if o.namespace != "" {
		d.add(Info, "namespace", o.about, "metadata.namespace means nothing for this kind")
	}
	if strings.HasPrefix(o.nick, "node.") {
		o.whole("spec")
		d.add(Info, "ignored", o.about, "it is about one node, and stays with Calico; what is announced stands in the one named default")
		return own
	}
	if asn := spec.asNumber("asNumber"); asn != 0 {
		own = asn
	}
	aggregated := !strings.EqualFold(spec.text("serviceLoadBalancerAggregation"), "Disabled")
	balancers, _ := spec.cidrs("serviceLoadBalancerIPs")
	for _, prefix := range balancers {
		d.calicoBGP = append(d.calicoBGP, &calicoPrefix{prefix, aggregated, o.about})
	}
	if _, texts := spec.cidrs("serviceExternalIPs"); len(texts) > 0 {
		d.add(Lost, "external-ips", o.about, "Calico announces spec.externalIPs of Services within %s. Tandem announces status "+
			"addresses of Services of type LoadBalancer only; leave this to Calico, or change such Services",
			strings.Join(texts, ", "))
	}
	if _, texts := spec.cidrs("serviceClusterIPs"); len(texts) > 0 {
		d.add(Lost, "cluster-ips", o.about, "Calico announces ClusterIPs within %s; Tandem announces addresses of load balancers only. "+
			"Leave this to Calico", strings.Join(texts, ", "))
	}
	values := map[string]string{}
	for _, item := range spec.list("communities") {
		values[item.text("name")] = item.text("value")
	}
	for _, item := range spec.list("prefixAdvertisements") {
		of := calicoCommunities{}
		of.prefix, _ = netip.ParsePrefix(item.text("cidr"))
		for _, name := range item.texts("communities") {
			of.values = append(of.values, calicoCommunity(orElse(values[name], name)))
		}
		if of.prefix.IsValid() {
			d.calicoCommunities = append(d.calicoCommunities, of)
		}
	}
	for _, name := range []string{
		"nodeToNodeMeshEnabled", "logSeverityScreen", "listenPort", "nodeMeshMaxRestartTime", "bindMode",
		"ignoredInterfaces", "localWorkloadPeeringIPV4", "localWorkloadPeeringIPV6", "programClusterRoutes", "ipv4NormalRoutePriority",
		"ipv6NormalRoutePriority",
	} {
		spec.skip(name)
	}
	spec.whole("nodeMeshPassword")
	return own
}

// calicoCommunity writes a large community as Tandem does.
func calicoCommunity(value string) string {
	if strings.Count(value, ":") == 2 && !strings.HasPrefix(value, "large:") {
		return "large:" + value
	}
	return value
}

// stays reports whether Calico goes on announcing what it announces.
func (d *draft) stays() bool {
	return len(d.calicoBGP) > 0 && (d.Options.Announce == "" || d.Options.Announce == "calico")
}

// calicoAnnounces marks the pools that Calico announces, or makes advertisements for them: one for all that have the same communities.
func (d *draft) calicoAnnounces() {
	made := map[string]*advertisement{}
	for _, known := range d.calicoBGP {
		found := false
		for _, p := range d.pools {
			if !contains(known.prefix, p) {
				continue
			}
			if found = true; d.stays() {
				if !p.notExported {
					d.calicoStays(p, known)
				}
				continue
			}
			if d.Options.Announce == "bgp" {
				d.calicoAdvertise(made, p, known)
			}
		}
		if !found {
			d.asksAway = true // by whatever gives addresses today
			d.add(Info, "announced-by-calico", known.about, "Calico announces %s today, whoever writes the Services' status, and no pool of the input is "+
				"within it", known.prefix)
		}
	}
}

// calicoStays marks a pool as one that Calico announces.
func (d *draft) calicoStays(p *pool, known *calicoPrefix) {
	p.elsewhere = true
	d.add(Info, "announced-by-calico", p.about(), "Calico announces %s, whoever writes the Services' status; no Tandem "+
		"advertisement is made", known.prefix)
}

// calicoRequested marks the pools of what Services ask for, which are made after the others.
func (d *draft) calicoRequested() {
	for _, known := range d.calicoBGP {
		for _, p := range d.pools {
			if d.stays() && !p.elsewhere && !p.notExported && contains(known.prefix, p) {
				d.calicoStays(p, known)
			}
		}
	}
}

// calicoAdvertise adds a pool to the advertisement for its communities.
func (d *draft) calicoAdvertise(made map[string]*advertisement, p *pool, known *calicoPrefix) {
	var communities []string
	for _, of := range d.calicoCommunities {
		for _, value := range of.values {
			if contains(of.prefix, p) && !slices.Contains(communities, value) {
				communities = append(communities, value)
			}
		}
	}
	key := strings.Join(communities, " ")
	a := made[key]
	if a == nil {
		a = d.newAdvertisement(bgpKind, "calico", calicoOrigin)
		a.communities, made[key] = communities, a
	}
	a.pools = append(a.pools, p.name)
	if known.aggregated {
		d.add(Lost, "aggregate", a.about(), "Calico announces %s from every node, whether an address of it is given or not; "+
			"Tandem announces what Services have (aggregationLength: %d sends the whole from nodes that serve at least one of "+
			"its addresses)",
			known.prefix, known.prefix.Bits())
	}
}

// calicoPeer converts a BGPPeer of Calico's if Tandem is to announce; else it stays with Calico.
func (d *draft) calicoPeer(o *object, own int64) {
	spec := o.spec()
	if o.namespace != "" {
		d.add(Info, "namespace", o.about, "metadata.namespace means nothing for this kind")
	}
	p, peers, lost := d.calicoSession(o, spec, own)
	if peers {
		d.add(Info, "ignored", o.about, "peers among nodes or pods stay with Calico")
	}
	if d.stays() || peers || p.address == "" {
		return
	}
	d.add(Warn, "same-router", o.about, "Calico has a session with %s, which carries the routes of pods too. A router takes one "+
		"session from an address: a session of Tandem from the same node replaces it. Announce by layer 2 or from another source "+
		"address, or let Calico announce (serviceLoadBalancerIPs)",
		p.address)
	if d.Options.Announce != "bgp" || len(d.pools) == 0 {
		return
	}
	if p.theirs == 0 {
		spec.report(Error, "missing", "asNumber", "a session needs the number of the router's autonomous system")
	}
	if len(lost) > 0 {
		d.add(Lost, "no-equal", o.about, "%s: no equal in Tandem; filters may hide routes on purpose, so that a person has to read "+
			"them", strings.Join(lost, ", "))
	}
	p.name = unique(p.name, 253, func(n string) bool { return d.peer(n) != nil })
	d.peers = append(d.peers, p)
	if p.secret != "" {
		d.noteSecret(p, "calico-system")
	}
	if p.ownFamily() {
		d.add(Info, "families", p.about(), "a BIRD session of Calico carries the family of its address")
	}
	all := []*peer{p}
	if spec.peek("localASNumber") == "" {
		all = append(all, d.calicoNodeNumbers(p)...)
	}
	for _, p := range all {
		if p.external() && p.securityHops == 0 {
			d.add(Warn, "multihop", p.about(), "eBGP. Calico's sessions are multihop; set ebgpMultiHop: true unless the router is on the "+
				"nodes' own link")
		}
		d.checkPeer(p, spec, "peerIP")
	}
	for _, a := range d.advertisements {
		if a.from == calicoOrigin {
			a.peers = append(append(a.peers, p.name), p.single...)
		}
	}
}

// calicoNodeNumbers makes a peer of its own for each Node that has another AS number by an annotation, and returns them.
func (d *draft) calicoNodeNumbers(p *peer) (made []*peer) {
	const annotation = "projectcalico.org/ASNumber"
	for _, o := range d.objects {
		if o.kind != "Node" || o.annotations[annotation] == "" {
			continue
		}
		own := &fields{in: o.in, node: mapping(annotation, scalarNode(o.annotations[annotation])), about: o.about, read: map[string]bool{}}
		asn, host := own.asNumber(annotation), orElse(o.labels[hostname], o.nick)
		labels := maps.Clone(o.labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels[hostname] = host
		switch {
		case asn == 0, asn == p.my, !matches(p.nodes, labels):
		case oneNode(p.nodes):
			p.my = asn
		default:
			single := d.nodePeer(p, o, host)
			single.my = asn
			made = append(made, single)
		}
	}
	return made
}

// calicoSession reads what a BGPPeer of Calico's says of its session. peers says that it is one among nodes or pods, lost has the fields
// without an equal.
func (d *draft) calicoSession(o *object, spec *fields, own int64) (p *peer, peers bool, lost []string) {
	scratch := &draft{journal: &journal{}, Options: d.Options}
	p = scratch.newPeer(o.nick, o.origin())
	p.my = orDefault(spec.asNumber("localASNumber"), own)
	p.theirs = spec.asNumber("asNumber")
	p.address = spec.text("peerIP")
	if address, err := netip.ParseAddrPort(p.address); err == nil {
		p.address, p.port = address.Addr().String(), int64(address.Port())
	}
	p.restart = spec.duration("maxRestartTime")
	p.graceful = p.restart != ""
	if p.keepalive = spec.duration("keepaliveTime"); p.keepalive != "" {
		p.hold = number("%ds", int64(seconds(p.keepalive)*3))
	}
	p.securityHops, _ = spec.number("ttlSecurity")
	for _, name := range []string{"peerSelector", "localWorkloadSelector", "reversePeering"} {
		peers = spec.has(name) || peers
	}
	if reference := spec.child("password").child("secretKeyRef"); reference != nil {
		p.secret, p.key = reference.text("name"), reference.text("key")
		reference.skip("optional")
	}
	d.calicoNodes(spec, p)
	for _, name := range []string{"keepOriginalNextHop", "nextHopMode", "numAllowedLocalASNumbers", "reachableBy", "filters"} {
		if spec.has(name) {
			lost = append(lost, name)
		}
	}
	spec.skip("sourceAddress")
	return p, peers, lost
}

// calicoNodes reads the nodes of a peer: one by its name, or a selector in Calico's language.
func (d *draft) calicoNodes(spec *fields, p *peer) {
	if node := spec.text("node"); node != "" {
		p.nodes = []metav1.LabelSelector{{MatchLabels: map[string]string{hostname: node}}}
	}
	if text := spec.text("nodeSelector"); text != "" && text != "all()" {
		s, ok := calicoSelector(text)
		if !ok && d.Options.Announce == "bgp" { // Else the session stays with Calico.
			spec.report(Error, "bad-value", "nodeSelector", "no label selector says what %q says; write nodeSelectors by hand", text)
			return
		}
		p.nodes = selectorsOf(&s)
	}
}
