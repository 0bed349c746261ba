// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"slices"
	"strings"
)

// neighbor reads a neighbour of k8gobgp, whose peer group says what the neighbour does not.
type neighbor struct{ own, group *fields }

// sections returns the mappings of that path, the neighbour's own first.
func (n neighbor) sections(path ...string) (list []*fields) {
	for _, f := range []*fields{n.own, n.group} {
		for _, name := range path {
			f = f.child(name)
		}
		list = append(list, f)
	}
	return list
}

func (n neighbor) text(section, field string) (text string) {
	for _, f := range n.sections(section) {
		text = orElse(text, f.text(field))
	}
	return text
}

func (n neighbor) number(field string, section ...string) (value int64) {
	for _, f := range n.sections(section...) {
		if own, ok := f.number(field); ok && value == 0 {
			value = own
		}
	}
	return value
}

// purelbBGP converts the configuration of k8gobgp. pools are those whose addresses PureLB puts on its interface.
func (d *draft) purelbBGP(o *object, pools []*pool) {
	spec := o.spec()
	global := spec.child("global")
	asn, _ := global.number("asn")
	if global != nil {
		global.zeros = nil
	}
	d.purelbGlobal(o, spec, global)
	groups := map[string]*fields{}
	for _, g := range spec.list("peerGroups") {
		groups[g.child("config").text("peerGroupName")] = g
	}
	var peers []string
	for i, f := range spec.list("neighbors") {
		n := neighbor{f, groups[f.child("config").text("peerGroup")]}
		if f.child("config").boolean("adminDown", false) {
			d.add(Info, "admin-down", o.about, "neighbors[%d] is down by hand and is left out", i)
			f.wholeObject()
			continue
		}
		if p := d.purelbNeighbor(o, n, asn, global, i+1); p != nil {
			peers = append(peers, p.name)
		}
	}
	if dynamic := spec.list("dynamicNeighbors"); len(dynamic) > 0 {
		level := Info
		if len(peers) == 0 {
			level = Error
		}
		for _, f := range dynamic {
			f.skip("prefix", "peerGroup")
			if g := groups[f.quiet("peerGroup")]; g != nil {
				g.wholeObject()
			}
		}
		d.add(level, "listen", o.about, "dynamicNeighbors: Tandem's speakers dial and never listen; write a BGPPeer for each router")
	}
	imports := spec.child("netlinkImport")
	imports.skip("vrf", "interfaceList")
	if !imports.boolean("enabled", false) {
		return
	}
	if len(pools) == 0 && len(peers) > 0 {
		d.add(Warn, "nothing-announced", o.about, "its sessions announce what remote ServiceGroups have on PureLB's interface, and there is no "+
			"such group in the input")
	}
	d.purelbImport(o, pools, peers)
}

// purelbImport announces the pools whose addresses are on PureLB's interface: an advertisement for those of each length of prefixes.
func (d *draft) purelbImport(o *object, pools []*pool, peers []string) {
	var made []*advertisement
	for _, p := range pools {
		i := slices.IndexFunc(made, func(a *advertisement) bool {
			return orDefault(a.length, 32) == orDefault(p.length, 32) && orDefault(a.lengthV6, 128) == orDefault(p.lengthV6, 128)
		})
		if i < 0 {
			a := d.newAdvertisement(bgpKind, o.nick, o.origin())
			a.peers, a.length, a.lengthV6 = peers, p.length, p.lengthV6
			made, i = append(made, a), len(made)
		}
		made[i].pools = append(made[i].pools, p.name)
	}
}

// purelbGlobal names what has no equal in the rest of the configuration.
func (d *draft) purelbGlobal(o *object, spec, global *fields) {
	for _, lost := range []struct {
		f     *fields
		names []string
	}{
		{spec, []string{"definedSets", "policyDefinitions", "vrfs"}},
		{global, []string{
			"confederation", "applyPolicy", "bindToDevice", "defaultRouteDistance", "routeSelectionOptions",
			"useMultiplePaths",
		}},
	} {
		for _, name := range lost.names {
			if lost.f.has(name) {
				d.add(Lost, "no-equal", o.about, "%s: Tandem has no such policy; what it filtered or changed is announced as it "+
					"is", lost.f.at(name))
			}
		}
	}
	if spec.child("netlinkExport").boolean("enabled", false) {
		d.add(Lost, "no-equal", o.about, "netlinkExport: Tandem uses no route that it receives; keep a routing daemon on the nodes for "+
			"them, over another session")
	}
	if export := spec.child("netlinkExport"); export != nil {
		export.skip("dampeningInterval", "routeProtocol", "rules")
	}
	if port, list := global.has("listenPort"), global.has("listenAddresses"); port || list {
		d.add(Info, "listen", o.about, "listenPort, listenAddresses: Tandem's speakers dial and never listen")
	}
	if pool := global.text("routerIDPool"); pool != "" {
		d.add(Info, "router-id", o.about, "routerIDPool %s: without routerID Tandem uses the node's IPv4 address; the annotation "+
			"tandem-lb.io/bgp-router-id of a Node says another", pool)
	}
	global.skip("nodeStatus", "routerID", "families", "gracefulRestart")
}

// purelbNeighbor converts a neighbour to the BGPPeer <configuration>-<n>.
func (d *draft) purelbNeighbor(o *object, n neighbor, asn int64, global *fields, index int) *peer {
	config := n.own.child("config")
	p := d.newPeer(o.nick+"-"+itoa(index), o.origin())
	p.my, p.theirs = asn, n.number("peerAsn", "config")
	if local := n.number("localAsn", "config"); local != 0 {
		p.my = local
	}
	if p.my == 0 {
		global.reportOr(o, Error, "missing", "asn", "a session needs the number of the nodes' autonomous system")
	}
	if p.theirs == 0 {
		config.reportOr(o, Error, "missing", "peerAsn", "a session needs the number of the router's autonomous system")
	}
	p.address, p.iface = config.text("neighborAddress"), orElse(config.text("neighborInterface"), n.text("transport", "bindInterface"))
	p.source = n.text("transport", "localAddress")
	config.skip("description")
	if vrf := config.text("vrf"); vrf != "" {
		p.vrf = vrf
	}
	for _, f := range n.sections("transport") {
		if f.boolean("passiveMode", false) {
			f.report(Error, "listen", "passiveMode", "the router dials, and Tandem's speakers never listen; let the router listen, and "+
				"remove passiveMode")
		}
	}
	d.purelbSecurity(n, p, o.namespace)
	for _, f := range n.sections("ebgpMultihop") {
		p.multihop = f.boolean("enabled", false) || p.multihop
	}
	if ttl := n.number("multihopTtl", "ebgpMultihop"); ttl > 1 {
		d.add(Info, "multihop", p.about(), "multihopTtl %d is ebgpMultiHop, which sets no limit", ttl)
	}
	d.purelbTimers(n, global, p)
	p.families = d.purelbFamilies(n, global, p)
	for _, f := range n.sections() {
		p.nodes = append(p.nodes, selectorsOf(f.selector("nodeSelector"))...)
		for _, name := range []string{"applyPolicy", "routeReflector"} {
			if f.has(name) {
				d.add(Lost, "no-equal", p.about(), "%s has no equal in Tandem", name)
			}
		}
	}
	d.purelbRouterID(global, p)
	if p.address == "" && p.iface == "" && !d.failed() {
		config.reportOr(o, Error, "missing", "neighborAddress", "a session needs the router's address, or an interface")
	}
	d.checkPeer(p, config, "neighborAddress")
	return p
}

// purelbRouterID reads the router id, which is one for all nodes: a session has it only where one node has the session.
func (d *draft) purelbRouterID(global *fields, p *peer) {
	const own = "is left out; without it Tandem uses the node's IPv4 address, and the annotation tandem-lb.io/bgp-router-id of a Node says another"
	switch id := global.quiet("routerID"); {
	case strings.ContainsAny(id, "{$"):
		d.add(Info, "router-id", p.about(), "routerID %s is another one on each node and %s", id, own)
	case id != "" && !oneNode(p.nodes):
		d.add(Warn, "router-id", p.about(), "routerID %s would be that of every node and %s", id, own)
	default:
		p.routerID = id
	}
}

// purelbTimers reads the times of a session.
func (d *draft) purelbTimers(n neighbor, global *fields, p *peer) {
	p.connect = number("%ds", n.number("connectRetry", "timers", "config"))
	p.hold = number("%ds", n.number("holdTime", "timers", "config"))
	p.keepalive = number("%ds", n.number("keepaliveInterval", "timers", "config"))
	if interval := n.number("minimumAdvertisementInterval", "timers", "config"); interval != 0 {
		d.add(Info, "ignored", p.about(), "minimumAdvertisementInterval %d: Tandem announces a change at once", interval)
	}
	own := n.sections("gracefulRestart")
	for _, f := range []*fields{global.child("gracefulRestart"), own[1], own[0]} { // The last one counts.
		if seconds, _ := f.number("restartTime"); f != nil {
			enabled, helper := f.boolean("enabled", false), f.boolean("helperOnly", false)
			p.graceful, p.restart = enabled && !helper, number("%ds", seconds)
		}
	}
}

// purelbSecurity reads the password of a neighbour. namespace is that of its Secret.
func (d *draft) purelbSecurity(n neighbor, p *peer, namespace string) {
	for _, f := range n.sections("config") {
		reference := f.child("authPasswordSecretRef")
		reference.skip("optional", "key")
		f.skip("description")
		if name := reference.text("name"); name != "" && p.secret == "" && p.password == "" {
			p.secret, p.key = name, reference.text("key")
			d.noteSecret(p, orElse(namespace, "purelb"))
		}
		if password := f.text("authPassword"); password != "" && p.secret == "" && p.password == "" { // A reference comes first.
			p.password = password
			d.add(Info, "password", p.about(), "the password is in clear in the input; it goes to a Secret in tandem-system named "+
				"after the peer")
		}
	}
}

// purelbFamilies returns the families of a session; other ones than IPv4 and IPv6 unicast are lost.
func (d *draft) purelbFamilies(n neighbor, global *fields, p *peer) (families []string) {
	names := global.texts("families")
	var own []string
	for _, f := range n.sections() {
		for _, item := range f.list("afiSafis") {
			if family := item.text("family"); item.boolean("enabled", true) {
				own = append(own, family)
			}
			for _, name := range []string{"addPaths", "prefixLimit"} {
				if item.has(name) {
					d.add(Lost, "no-equal", p.about(), "%s has no equal in Tandem", name)
				}
			}
		}
	}
	if len(own) > 0 {
		names = own
	}
	for _, name := range names {
		family := map[string]string{"ipv4-unicast": "IPv4", "ipv6-unicast": "IPv6"}[strings.ToLower(name)]
		switch {
		case family == "":
			d.add(Lost, "no-equal", p.about(), "family %s: sessions carry IPv4 and IPv6 unicast", name)
		case !slices.Contains(families, family):
			families = append(families, family)
		}
	}
	if len(families) == 2 {
		return nil
	}
	return families
}
