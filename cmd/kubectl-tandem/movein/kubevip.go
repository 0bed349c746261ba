// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
)

// kubeVIP converts the ConfigMap of kube-vip's cloud provider and the environment of its pods.
func (d *draft) kubeVIP() {
	k := &kubeVIPState{draft: d}
	k.assumption = d.assumed("kube-vip")
	d.kubeVIPValues()
	var pods []container
	for _, o := range d.objects {
		for _, c := range o.containers() {
			if !strings.Contains(c.image, "kube-vip") || strings.Contains(c.image, "cloud-provider") {
				continue
			}
			o.taken = true
			o.whole("spec")
			if _, tag, ok := strings.Cut(c.image[strings.LastIndex(c.image, "/")+1:], ":"); ok {
				k.learn(tag)
			}
			if o.kind == "Pod" {
				if slices.ContainsFunc(pods, c.says) {
					k.add(Info, "duplicate", o.namespaced("kube-system"), "it says what the Pod of another node says, which is read once")
					continue
				}
				pods = append(pods, c)
			}
			k.fill(o, &c)
			k.manager(o, c)
		}
	}
	for _, o := range d.objects {
		if o.kind == "ConfigMap" && !o.taken && (o.nick == "kubevip" || o.nick == "plndr") {
			o.taken = true
			k.configMap(o)
		}
	}
	k.keepControlPlane()
}

// kubeVIPState is what is known of kube-vip while its objects are read.
type kubeVIPState struct {
	*draft
	assumption
	control  []netip.Addr // of the API server
	routed   bool         // addresses are announced by BGP alone
	workload subject

	fillIn         func(text string) (filled string, missing []string) // puts in the values of --set
	unknownControl []string                                            // addresses of the API server that somebody else fills in
}

// kubeVIPPool is an entry of the ConfigMap.
type kubeVIPPool struct{ key, namespace, text string }

// configMap converts pools. The provider looks for cidr-NS, cidr-global, range-NS, range-global, and takes the first alone.
func (k *kubeVIPState) configMap(o *object) {
	data := o.child("data")
	o.about = o.namespaced("kube-system")
	entries := map[string]kubeVIPPool{}
	var order []string
	skipEnds := false
	interfaces := map[string]string{}
	for i := 0; data != nil && i+1 < len(data.node.Content); i += 2 {
		key, value := data.node.Content[i].Value, data.node.Content[i+1]
		data.about = subject{}
		data.path = ""
		text := data.text(key)
		if value.Kind == yaml.ScalarNode && value.Tag != "!!str" && value.Tag != "!!null" {
			k.add(Info, "type", subject{name: key}, "the value is no string; the API server refuses the file as it is")
		}
		kind, namespace, _ := strings.Cut(key, "-")
		switch {
		case slices.Contains([]string{"cidr", "range", "interface"}, kind) && namespace == "":
			k.add(Warn, "unknown-field", o.about, "%s: it names neither global nor a namespace; it has no effect on what is written", key)
		case (kind == "cidr" || kind == "range") && entries[key].key != "":
		case kind == "cidr" || kind == "range":
			entries[key] = kubeVIPPool{key, namespace, text}
			order = append(order, key)
		case strings.HasPrefix(key, "allow-share-"):
			if strings.EqualFold(text, "true") {
				k.add(Lost, "sharing", subject{name: key}, "kube-vip puts Services of the namespace on one address wherever their "+
					"ports differ. In Tandem each of them needs the same tandem-lb.io/allow-shared-ip, before the take-over; without "+
					"it the second Service on an address loses it")
			}
		case kind == "interface":
			interfaces[namespace] = text
		case key == "search-order":
			if strings.EqualFold(text, "desc") {
				k.add(Lost, "order", subject{name: key}, "kube-vip takes the highest free address; Tandem takes the lowest")
			}
		case key == "skip-end-ips-in-cidr":
			skipEnds = strings.EqualFold(text, "true")
		case key == "kubevip-services" || kind == "config":
		default:
			k.add(Warn, "unknown-field", o.about, "%s: no key that is known; it has no effect on what is written", key)
		}
	}
	var used []string // namespaces with a pool of their own
	var global *pool
	for _, key := range order {
		e := entries[key]
		if dead := k.dead(entries, e); dead != "" {
			k.add(Warn, "dead-key", o.about, "%s is not used, because %s comes before it; it is left out", key, dead)
			continue
		}
		p := k.pool(o, data, e, skipEnds)
		switch {
		case e.namespace != "global":
			used = append(used, e.namespace) // Also where its addresses are all of DHCP: its Services get none of the others.
		case p != nil:
			global = p
		}
	}
	k.finishPools(global, used, interfaces, o)
}

// dead returns the key that is found before an entry, "" if there is none.
func (k *kubeVIPState) dead(entries map[string]kubeVIPPool, e kubeVIPPool) string {
	var before []string
	switch kind, _, _ := strings.Cut(e.key, "-"); {
	case kind == "range" && e.namespace == "global":
		before = []string{"cidr-global"}
	case kind == "range":
		before = []string{"cidr-" + e.namespace, "cidr-global"}
	}
	for _, key := range before {
		if _, ok := entries[key]; ok {
			return key
		}
	}
	return ""
}

// pool converts an entry.
func (k *kubeVIPState) pool(o *object, data *fields, e kubeVIPPool, skipEnds bool) *pool {
	p := k.newPool(e.namespace, "kube-vip", o.origin())
	kind, _, _ := strings.Cut(e.key, "-")
	for _, text := range strings.FieldsFunc(e.text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if text != strings.TrimSpace(text) && strings.Contains(e.text, ",") {
			k.add(Info, "blanks", subject{name: e.key}, "blanks beside a comma are left out; kube-vip's cloud provider takes none")
		}
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		s, _, problem := parseSpan(text)
		if problem == nil && (kind == "cidr" && !s.cidr.IsValid() || kind == "range" && !strings.Contains(text, "-")) {
			k.add(Warn, "was-refused", subject{name: e.key}, "kube-vip's cloud provider gives no address at all from it, since %q is no %s; AddressPool "+
				"%s takes it", text, map[string]string{"cidr": "CIDR", "range": "range such as 192.0.2.1-192.0.2.9"}[kind], p.name)
		}
		if strings.HasPrefix(text, "0.0.0.0") {
			k.add(Lost, "no-equal", subject{name: e.key}, "%s stands for DHCP; Tandem leases no addresses. Reserve some outside the "+
				"DHCP server's range, and put them into a pool", text)
			continue
		}
		k.addSpan(p, data, e.key, text)
	}
	for _, s := range p.spans {
		if !s.cidr.IsValid() || s.family() == family.IPv6 && !skipEnds {
			continue
		}
		if skipEnds {
			p.exclude = append(p.exclude, ends(s.cidr)...)
			continue
		}
		for _, last := range []byte{0, 255} {
			first := s.addrs.From().As4()
			first[3] = last
			if a := netip.AddrFrom4(first); s.addrs.Contains(a) && !p.avoidBuggy {
				p.avoidBuggy = true
				k.add(Info, "buggy", p.about(), "kube-vip never gives .0 and .255 of a CIDR, so avoidBuggyIPs is set")
			}
		}
	}
	if len(p.spans) == 0 {
		k.pools = slices.DeleteFunc(k.pools, func(other *pool) bool { return other == p })
		return nil
	}
	if e.namespace != "global" {
		p.namespaces = []metav1.LabelSelector{in(namespaceName, e.namespace)}
	}
	return p
}

// finishPools limits the global pool to the namespaces that have none of their own, and writes advertisements for pools with an interface.
func (k *kubeVIPState) finishPools(global *pool, used []string, interfaces map[string]string, o *object) {
	switch {
	case global == nil:
	case k.kubeVIPNamespace != "":
		global.namespaces = []metav1.LabelSelector{in(namespaceName, k.kubeVIPNamespace)}
	case len(used) > 0:
		slices.Sort(used)
		global.namespaces = []metav1.LabelSelector{requirement(namespaceName, metav1.LabelSelectorOpNotIn, used...)}
		k.add(Info, "namespaces", global.about(), "leaves out the namespaces that have their own pool: kube-vip lets their Services "+
			"wait when it has run out")
	}
	if len(interfaces) == 0 {
		return
	}
	special := k.namespaceInterfaces(global, interfaces, o)
	for _, p := range k.pools {
		name := orElse(interfaces[p.name], interfaces["global"])
		switch {
		case slices.Contains(special, p.name):
		case p.product != "kube-vip" || name == "":
		case k.routed:
			k.add(Info, "no-interface-address", p.about(), "its interface %s is where kube-vip puts addresses, and Tandem puts none on an interface", name)
		default:
			a := k.newAdvertisement(l2Kind, p.name, o.origin())
			a.pools, a.interfaces = []string{p.name}, kubeVIPInterfaces(name)
			a.nodes = k.announcing()
			special = append(special, p.name)
		}
	}
	k.restrict(special)
}

// namespaceInterfaces writes advertisements of the global pool for namespaces that have an interface and no pool of their own, and one for the other
// namespaces. It returns the names of the pools that are done. For example, with cidr-global, interface-dev: eth1 and vip_interface eth0 the addresses of
// dev's Services are announced on eth1, and those of all other Services on eth0.
func (k *kubeVIPState) namespaceInterfaces(global *pool, interfaces map[string]string, o *object) (done []string) {
	var namespaces []string
	for _, namespace := range sortedKeys(interfaces) {
		if namespace == "global" || k.draft.pool(namespace) != nil {
			continue
		}
		if global == nil || k.routed {
			k.add(Info, "no-interface-address", subject{name: "interface-" + namespace}, "no pool of the namespace is announced by layer 2")
			continue
		}
		a := k.newAdvertisement(l2Kind, namespace, o.origin())
		a.partial, a.pools, a.interfaces = true, []string{global.name}, kubeVIPInterfaces(interfaces[namespace])
		a.namespaces = []metav1.LabelSelector{in(namespaceName, namespace)}
		namespaces = append(namespaces, namespace)
	}
	if len(namespaces) == 0 || len(k.kubeVIPGeneral) == 0 && interfaces["global"] == "" {
		return nil
	}
	rest := k.newAdvertisement(l2Kind, global.name, o.origin())
	rest.pools = []string{global.name}
	rest.namespaces = []metav1.LabelSelector{requirement(namespaceName, metav1.LabelSelectorOpNotIn, namespaces...)}
	if len(k.kubeVIPGeneral) > 0 {
		rest.interfaces = k.kubeVIPGeneral[0].interfaces
	}
	if name := interfaces["global"]; name != "" {
		rest.interfaces = kubeVIPInterfaces(name)
	}
	for _, a := range k.advertisements {
		if a.kind == l2Kind && slices.Contains(a.pools, global.name) {
			a.nodes = k.announcing()
		}
	}
	return []string{global.name}
}

// announcing returns the nodes that announce on layer 2, of all workloads of the input.
func (k *kubeVIPState) announcing() (nodes []metav1.LabelSelector) {
	for _, a := range k.kubeVIPGeneral {
		if len(a.nodes) == 0 {
			return nil
		}
		nodes = append(nodes, a.nodes...)
	}
	return nodes
}

// kubeVIPInterfaces returns the names of interfaces. With auto kube-vip takes the one that has a prefix of the address, as Tandem does without a name.
func kubeVIPInterfaces(text string) (names []string) {
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name == "auto" {
			return nil
		}
		names = append(names, nonempty(name)...)
	}
	return names
}

// restrict limits the general advertisements to the pools that have none of their own.
func (k *kubeVIPState) restrict(special []string) {
	var rest []string
	for _, p := range k.pools {
		if p.product == "kube-vip" && !slices.Contains(special, p.name) {
			rest = append(rest, p.name)
		}
	}
	k.kubeVIPRestricted = true
	for _, a := range k.kubeVIPGeneral {
		a.pools = slices.Clone(rest)
	}
	if len(rest) == 0 {
		k.advertisements = slices.DeleteFunc(k.advertisements, func(a *advertisement) bool { return slices.Contains(k.kubeVIPGeneral, a) })
	}
}

// announceRequested adds a pool of addresses that Services ask for to the general advertisements, where restrict has limited them to other pools: the
// interface of a ConfigMap is for addresses that the cloud provider gives.
func (d *draft) announceRequested(p *pool) {
	if !d.kubeVIPRestricted || p.product != "kube-vip" {
		return
	}
	for _, a := range d.kubeVIPGeneral {
		if a.pools = append(a.pools, p.name); !slices.Contains(d.advertisements, a) {
			d.advertisements = append(d.advertisements, a)
		}
	}
}

// keepControlPlane takes the address of the API server out of the pools.
func (k *kubeVIPState) keepControlPlane() {
	if slices.ContainsFunc(k.pools, func(p *pool) bool { return p.product == "kube-vip" }) {
		for _, text := range k.unknownControl {
			k.add(Error, "placeholder", k.workload, "address: %q is filled in elsewhere, and no pool may give it; give it by --set, or read the live "+
				"cluster by --from-cluster", text)
		}
	}
	for _, a := range k.control {
		for _, p := range k.pools {
			if p.product != "kube-vip" || !p.holds(a) {
				continue
			}
			if len(p.spans) == 1 && p.spans[0].addrs.From() == p.spans[0].addrs.To() {
				k.add(Error, "control-plane", p.about(), "its one address %s is that of the API server, which stays with kube-vip; "+
					"give Services another one", a)
				continue
			}
			p.exclude = append(p.exclude, a)
			k.add(Warn, "reserved", p.about(), "%s is the address of the API server, which stays with kube-vip; it is excluded", a)
		}
	}
}

// manager converts what the environment of kube-vip's pods says.
func (k *kubeVIPState) manager(o *object, c container) {
	k.workload = o.namespaced("kube-system")
	c.flags()
	k.fillIn = o.in.fill
	complete := k.placeholders(&c)
	on := func(name string) bool { v, _ := strconv.ParseBool(c.env[name]); return v }
	k.variables(o, c)
	address := orElse(c.env["address"], c.env["vip_address"])
	if a, err := netip.ParseAddr(address); err == nil { // It is the API server's also where other Pods, or another program, serve it.
		k.control = append(k.control, a)
	}
	if on("cp_enable") {
		k.add(Lost, "control-plane", k.workload,
			`Tandem has no address for the API server. Leave kube-vip for %s and set svc_enable to "false"`, orElse(address, "it"))
	}
	if !on("svc_enable") {
		k.add(Info, "control-plane", k.workload, "svc_enable is not set, so that these pods serve no Services; they stay")
		return
	}
	legacy, err := strconv.ParseBool(c.env["lb_class_legacy_handling"])
	if on("lb_class_only") || err == nil && !legacy { // By default it serves Services without a class, too.
		k.add(Lost, "class", k.workload, "it serves Services of class %s alone; the class of a Service cannot be changed, so that it "+
			"has to be made anew for Tandem",
			orElse(c.env["lb_class_name"], "kube-vip.io/kube-vip-class"))
	} else if class := c.env["lb_class_name"]; class != "" {
		k.add(Info, "class", k.workload, "it serves Services of class %s beside those without one; Services with a class stay as they are", class)
	}
	k.kubeVIPNamespace = c.env["svc_namespace"]
	k.kubeVIPServes = true
	nodes := k.nodes(o)
	if !complete {
		return
	}
	k.routed = on("bgp_enable") && !on("vip_arp")
	if on("vip_arp") {
		a := k.newAdvertisement(l2Kind, "kube-vip", o.origin())
		k.kubeVIPGeneral = append(k.kubeVIPGeneral, a)
		a.nodes = nodes
		if name := orElse(c.env["vip_servicesinterface"], c.env["vip_interface"]); name != "lo" {
			a.interfaces = kubeVIPInterfaces(name)
		}
	}
	if on("bgp_enable") {
		k.newAdvertisement(bgpKind, "kube-vip", o.origin()).nodes = nodes
		k.bgp(o, c, nodes)
		if on("svc_election") || on("enableServicesElection") {
			k.add(Warn, "all-nodes", k.workload, "one node announces an address here, the one that is elected; with Tandem every node "+
				"with a session does")
		}
	}
	if controlPlane(nodes) || len(nodes) == 0 && toleratesControlPlane(o.podSpec()) {
		k.add(Warn, "exclude-label", k.workload, "kubeadm labels control-plane nodes %s; kube-vip ignores the label, Tandem announces "+
			"nothing from such nodes. Remove the label, give the speakers --ignore-exclude-label, or leave nodeSelectors out so that other nodes announce",
			excludeLabel)
	}
}

// toleratesControlPlane reports whether pods that no selector keeps away run on nodes of the control plane, too.
func toleratesControlPlane(pod *yaml.Node) bool {
	list := lookupPath(pod, "tolerations")
	return list != nil && slices.ContainsFunc(list.Content, func(item *yaml.Node) bool {
		switch key, effect := scalarOf(item, "key"), scalarOf(item, "effect"); {
		case effect != "" && effect != "NoSchedule":
			return false
		case key == "":
			return scalarOf(item, "operator") == "Exists"
		default:
			return key == "node-role.kubernetes.io/control-plane" || key == "node-role.kubernetes.io/master"
		}
	})
}

// nodes returns selectors of the nodes on which the pods run.
func (k *kubeVIPState) nodes(o *object) (list []metav1.LabelSelector) {
	if o.kind == "Pod" {
		return []metav1.LabelSelector{requirement("node-role.kubernetes.io/control-plane", metav1.LabelSelectorOpExists)}
	}
	pod := o.podSpec()
	base := metav1.LabelSelector{}
	own := &fields{in: o.in, node: pod, about: o.about, read: map[string]bool{}}
	if labels := own.stringMap("nodeSelector"); len(labels) > 0 {
		base.MatchLabels = labels
	}
	terms := lookupPath(pod, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if terms == nil || len(terms.Content) == 0 {
		return selectorsOf(&base)
	}
	for _, term := range terms.Content {
		f := &fields{in: o.in, node: term, about: o.about, read: map[string]bool{}}
		s := f.ownSelector()
		s.MatchLabels = base.MatchLabels
		for _, field := range f.list("matchFields") { // metadata.name is the only one.
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: hostname, Operator: metav1.LabelSelectorOperator(field.text("operator")), Values: field.texts("values"),
			})
		}
		list = append(list, s)
	}
	return anyOf(list)
}
