// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// metallbSpelling are the keys of the configuration of MetalLB 0.12 and older, by the fields of its objects.
var metallbSpelling = map[string]string{
	"myASN": "my-asn", "peerASN": "peer-asn", "peerAddress": "peer-address", "sourceAddress": "source-address", "peerPort": "peer-port",
	"holdTime": "hold-time", "keepaliveTime": "keepalive-time", "routerID": "router-id", "nodeSelectors": "node-selectors",
	"matchLabels": "match-labels", "matchExpressions": "match-expressions", "bfdProfile": "bfd-profile", "ebgpMultiHop": "ebgp-multihop",
	"autoAssign": "auto-assign", "avoidBuggyIPs": "avoid-buggy-ips", "bgpAdvertisements": "bgp-advertisements",
	"aggregationLength": "aggregation-length", "aggregationLengthV6": "aggregation-length-v6", "localPref": "localpref",
	"receiveInterval": "receive-interval", "transmitInterval": "transmit-interval", "echoInterval": "echo-interval",
	"echoMode":    "echo-mode",
	"passiveMode": "passive-mode", "minimumTtl": "minimum-ttl", "detectMultiplier": "detect-multiplier",
	// Fields that came with the objects: only their own spelling would be found, and a configuration with them is refused.
	"connectTime": "connect-time", "localASN": "local-asn", "dynamicASN": "dynamic-asn", "passwordSecret": "password-secret",
	"enableGracefulRestart": "enable-graceful-restart", "disableMP": "disable-mp", "dualStackAddressFamily": "dual-stack-address-family",
}

// metallbConfiguration is a configuration with the object that it was found in.
type metallbConfiguration struct {
	*fields
	origin string
	frr    bool // the values beside it ask for FRR
}

// metallbConfigs finds configurations: in ConfigMaps, in values of Helm charts under configInline, and files that are nothing else. ignored says
// that MetalLB reads none of them.
func (d *draft) metallbConfigs(ignored bool) (configs []metallbConfiguration) {
	found := func(o *object, n, values *yaml.Node) {
		o.taken = true
		if ignored {
			d.add(Warn, "was-ignored", o.aboutOr(fmt.Sprintf("document %d of %s", o.index, o.file)), "MetalLB 0.13 and later reads objects such as the "+
				"IPAddressPools of the input, and no configuration; it is left out")
			return
		}
		if o.kind != "ConfigMap" {
			d.metallbChart(o)
		}
		frr, _ := valuesForFRR(values)
		if f := o.nested(n, metallbSpelling); f != nil {
			configs = append(configs, metallbConfiguration{f, fmt.Sprintf("MetalLB's configuration (%s, line %d)", o.file, n.Line), frr})
		}
	}
	for _, o := range d.objects {
		switch {
		case o.kind == "" && !o.listed && (lookup(o.node, "address-pools") != nil || lookup(o.node, "peers") != nil && lookup(o.node, "service") == nil):
			found(o, o.node, nil)
			for i := 0; i < len(o.node.Content); i += 2 {
				o.skip(o.node.Content[i].Value) // The configuration has fields of its own.
			}
		case o.kind == "ConfigMap":
			data := lookup(o.node, "data")
			if data == nil || data.Kind != yaml.MappingNode {
				continue
			}
			config := lookup(data, "config")
			if config == nil { // Cilium before 1.14 had MetalLB within it, whose ConfigMap is bgp-config.
				config = lookup(data, "config.yaml")
			}
			if config != nil && (strings.Contains(o.namespace+o.nick, "metallb") || strings.Contains(config.Value, "address-pools") ||
				strings.Contains(config.Value, "peer-address")) {
				found(o, config, nil)
				o.whole("data")
			}
		case o.kind != "Service":
			d.metallbValues(o, o.node, "", found)
		}
	}
	return configs
}

// metallbValues looks for configInline in values of a Helm chart, also those of a parent chart, and in values that are written as a text.
func (d *draft) metallbValues(o *object, n *yaml.Node, path string, found func(o *object, config, values *yaml.Node)) {
	if n.Kind == yaml.SequenceNode {
		if config := d.metallbParameters(o, n); config != nil {
			found(o, config, nil)
			o.wholeObject()
		}
	}
	for i, item := range n.Content {
		if n.Kind == yaml.SequenceNode { // such as the sources of an Application of Argo CD, or the charts of a Kustomization
			d.metallbValues(o, item, path+"["+itoa(i)+"]", found)
		}
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		below := strings.TrimPrefix(path+"."+key, ".")
		switch {
		case key == "configInline" && value.Tag != "!!null":
			found(o, value, n)
			d.metallbSiblings(o, n, path)
			o.wholeObject()
		case value.Kind == yaml.MappingNode || value.Kind == yaml.SequenceNode:
			d.metallbValues(o, value, below, found)
		case value.Kind == yaml.ScalarNode && strings.Contains(value.Value, "configInline:"):
			if text := writtenIn(value); text != nil {
				d.metallbValues(o, text, below, found)
			}
		}
	}
}

// metallbSiblings names the values beside configInline, which are for MetalLB's own pods. Those that say images alone are about the
// version.
func (d *draft) metallbSiblings(o *object, n *yaml.Node, path string) {
	path = strings.TrimPrefix(path, "spec.")
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		value := n.Content[i+1]
		if key == "configInline" || key == "kind" || key == "apiVersion" || onlyImages(value) {
			continue
		}
		name := strings.TrimPrefix(path+"."+key, ".")
		if key == "existingConfigMap" && value.Value != "" {
			d.add(Warn, "was-ignored", subject{name: name}, "the chart takes its configuration from ConfigMap %s, and not from "+
				"configInline; convert that one", value.Value)
			continue
		}
		d.add(Info, "ignored", subject{name: name}, "belongs to MetalLB's pods; set it in Tandem's manifests where wanted")
	}
}

// metallbChart warns of a chart that ignores configInline: MetalLB's own since 0.13, and Bitnami's since 4.0.
func (d *draft) metallbChart(o *object) {
	_, text := metallbChartOf(o.node)
	if v, ok := parseRelease(text); ok && (v.major == 0 && v.minor > 12 || v.major > 3) {
		d.add(Warn, "was-ignored", o.about, "the chart %s ignores configInline; the objects in the cluster count, and not this file", text)
	}
}

// onlyImages reports whether a value says nothing but which images are used.
func onlyImages(n *yaml.Node) bool {
	if n.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch key := n.Content[i].Value; {
		case key == "image":
		case !onlyImages(n.Content[i+1]):
			return false
		}
	}
	return true
}

// metallbConfig converts a configuration. MetalLB reads it strictly, and so do we: an unknown key is an error.
func (d *draft) metallbConfig(c metallbConfiguration, known *metalLB) {
	m := *known
	peers := c.list("peers")
	if !m.native && !m.frr {
		m.frr = c.frr || c.has("bfd-profiles") || slices.ContainsFunc(peers, (*fields).needsFRR) || largeCommunity(c.node) ||
			slices.ContainsFunc(c.list("address-pools"), sixByBGP)
		m.native = !m.frr
	}
	if !m.versioned() {
		m.release.minor = 12
	}
	for _, f := range c.list("bfd-profiles") {
		d.metallbProfile(f, d.newProfile(f.text("name"), c.origin))
	}
	d.metallbCommunities(c)
	for i, f := range peers {
		p := d.newPeer("peer"+strconv.Itoa(i+1), f.path+" of "+c.origin)
		d.metallbPeer(f, p, &m, "")
	}
	count := map[string]int{}
	next := func(kind string) string {
		count[kind]++
		return strings.ToLower(kind) + strconv.Itoa(count[kind])
	}
	for _, f := range c.list("address-pools") {
		name := f.text("name")
		if name == "" && !f.has("name") {
			f.report(Error, "missing", "name", "the pool has no name")
			f.skip("protocol", "addresses", "autoAssign", "avoidBuggyIPs", "bgpAdvertisements")
			continue
		}
		p := d.newPool(name, "metallb", f.path+" of "+c.origin)
		p.onePoolPerService = true
		d.metallbRanges(f, p, f)
		d.metallbProtocol(f, p, " the file", next, p.from)
	}
	d.strict(c.fields)
}

// sixByBGP reports whether a pool has IPv6 addresses that go by BGP, which native MetalLB refuses.
func sixByBGP(f *fields) bool {
	list := lookup(f.node, "addresses")
	return f.peek("protocol") == "bgp" && list != nil && slices.ContainsFunc(list.Content, func(item *yaml.Node) bool { return strings.Contains(item.Value, ":") })
}

// strict makes an error of each key that nobody has asked for.
func (d *draft) strict(f *fields) {
	parents := map[string][]string{}
	var order []string
	for _, path := range f.unread() {
		parent, key := "", path
		// A key may have dots itself; the parent is the longest path of a mapping that was read.
		for _, kid := range f.all() {
			if rest, ok := strings.CutPrefix(path, kid.path+"."); ok && len(kid.path) > len(parent) {
				parent, key = kid.path, rest
			}
		}
		if parents[parent] == nil {
			order = append(order, parent)
		}
		parents[parent] = append(parents[parent], strconv.Quote(key))
	}
	for _, parent := range order {
		text := "unknown key %s; MetalLB refuses the file. Correct or remove it"
		if strings.HasSuffix(parent, "]") && strings.Contains(parent, "selectors") {
			text = "unknown key %s; MetalLB refuses the file. Indent it under match-labels (as it stands every node would be selected)"
		}
		d.add(Error, "unknown-key", subject{name: orElse(parent, strings.Trim(parents[parent][0],
			`"`))}, text, strings.Join(parents[parent], ", "))
	}
	d.reportZeros(f)
}

// all returns the mappings below, and the mapping itself.
func (f *fields) all() []*fields {
	list := []*fields{f}
	for _, kid := range f.children {
		list = append(list, kid.all()...)
	}
	return list
}

// metallbProtocol makes the advertisements of a pool that says itself how it is announced. name names one of a kind.
func (d *draft) metallbProtocol(f *fields, p *pool, refuses string, name func(kind string) string, from string) {
	advertisements := f.list("bgpAdvertisements")
	switch protocol := f.text("protocol"); protocol {
	case "layer2":
		if len(advertisements) > 0 {
			f.whole("bgpAdvertisements")
			f.report(Warn, "was-refused", "bgpAdvertisements", "MetalLB refuses them beside protocol layer2; they are left out")
		}
		d.newAdvertisement(l2Kind, name(l2Kind), from).pools = []string{p.name}
	case "bgp":
		for _, item := range advertisements {
			a := d.newAdvertisement(bgpKind, name(bgpKind), from)
			a.pools = []string{p.name}
			d.metallbRoute(item, a)
		}
		if len(advertisements) == 0 {
			d.newAdvertisement(bgpKind, name(bgpKind), from).pools = []string{p.name}
		}
	case "":
		p.elsewhere = true
		if !f.has("protocol") {
			f.report(Error, "missing", "protocol", "it is layer2 or bgp; MetalLB refuses%s", refuses)
		}
	default:
		p.elsewhere = true
		f.report(Error, "bad-protocol", "protocol", "%q is none of layer2, bgp; MetalLB refuses%s", protocol, refuses)
	}
}

// metallbCommunities converts the names of communities of a configuration.
func (d *draft) metallbCommunities(c metallbConfiguration) {
	names := c.child("bgp-communities")
	if names == nil {
		return
	}
	made := &community{name: d.communityObject("communities"), from: c.origin}
	for i := 0; i+1 < len(names.node.Content); i += 2 {
		key := names.node.Content[i].Value
		d.addCommunity(made, names, key, names.text(key), key)
	}
	d.keepCommunity(made)
}
