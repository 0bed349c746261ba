// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Kinds of objects of Tandem.
const (
	poolKind      = "AddressPool"
	peerKind      = "BGPPeer"
	communityKind = "Community"
	l2Kind        = "L2Advertisement"
	bgpKind       = "BGPAdvertisement"
	interfaceKind = "InterfaceAdvertisement"
)

// draft are the objects on their way. Products add to it; finish checks what can be checked once all are there.
type draft struct {
	*journal
	Options        Options
	objects        []*object
	pools          []*pool
	peers          []*peer
	advertisements []*advertisement
	profiles       []*profile
	communities    []*community
	patches        []*patch

	// poolNames, profileNames and communityNames are ours by theirs.
	poolNames, profileNames, communityNames map[string]string

	parsed []*service
	nodes  map[netip.Addr]string // the names of Nodes by their addresses, nil until they are asked for

	kubeVIPGeneral    []*advertisement // kube-vip's on layer 2, one for each workload
	kubeVIPRestricted bool             // they are limited to some pools
	kubeVIPNamespace  string           // the only one whose Services kube-vip serves, "" for all
	kubeVIPServes     bool             // there are pods of kube-vip that serve Services

	calicoBGP []*calicoPrefix // what Calico announces, whoever gives the addresses

	calicoCommunities []calicoCommunities
	tookPools         bool // of Options
	asksAway          bool // addresses are asked for by annotations that are not on Services
}

func newDraft(j *journal, o Options) *draft {
	return &draft{
		journal: j, Options: o, poolNames: map[string]string{}, profileNames: map[string]string{}, communityNames: map[string]string{},
	}
}

// pool is an AddressPool on its way.
type pool struct {
	name, from           string
	product              string
	labels               map[string]string
	manual               bool // autoAssign: false
	avoidBuggy           bool
	priority             int64
	namespaces, services []metav1.LabelSelector
	spans                []span
	exclude              []netip.Addr
	ofServices           bool  // made of addresses of Services, none of which names it
	elsewhere            bool  // announced by another program, on purpose
	notExported          bool  // by Calico
	remote               bool  // of PureLB, in no subnet of the nodes
	length, lengthV6     int64 // of the prefixes by which PureLB announces a remote pool
	onePoolPerService    bool  // in their product both addresses of a Service come from one pool
}

func (p *pool) about() subject { return subject{poolKind, p.name} }

// holds reports whether the pool could give the address.
func (p *pool) holds(a netip.Addr) bool { return p.covers(a) && !p.leavesOut(a) }

func (p *pool) covers(a netip.Addr) bool {
	return slices.ContainsFunc(p.spans, func(s span) bool { return s.addrs.Contains(a) })
}

// leavesOut reports whether exclude or avoidBuggyIPs takes the address out.
func (p *pool) leavesOut(a netip.Addr) bool {
	last := a.AsSlice()[len(a.AsSlice())-1]
	return slices.Contains(p.exclude, a) || p.avoidBuggy && a.Is4() && (last == 0 || last == 255)
}

// hasFamily reports whether the pool has addresses of a family.
func (p *pool) hasFamily(f family.Family) bool {
	return slices.ContainsFunc(p.spans, func(s span) bool { return s.family() == f })
}

// dual reports whether the pool has addresses of both families.
func (p *pool) dual() bool { return p.hasFamily(family.IPv4) && p.hasFamily(family.IPv6) }

// ofFamily returns the entries of a family, and the addresses that are left out of them.
func (p *pool) ofFamily(f family.Family) (spans []span, exclude []netip.Addr) {
	for _, s := range p.spans {
		if s.family() == f {
			spans = append(spans, s)
		}
	}
	for _, a := range p.exclude {
		if family.Of(a) == f {
			exclude = append(exclude, a)
		}
	}
	return spans, exclude
}

// partitionField is the field of an AddressPool that has the addresses of a family.
func partitionField(f family.Family) string { return strings.ToLower(string(f)) }

// newPool adds a pool with a name that the API server takes.
func (d *draft) newPool(theirs, product, from string) *pool {
	name := unique(dns(theirs, 63), 63, func(n string) bool { return d.pool(n) != nil })
	p := &pool{name: name, product: product, from: from}
	if _, taken := d.poolNames[theirs]; !taken {
		d.poolNames[theirs] = name
	}
	if name != theirs && theirs != "" {
		d.add(Warn, "renamed", p.about(), "stands for %q, which is no name of an object (or is taken); Services that name the old pool "+
			"have to name this one",
			theirs)
	}
	d.pools = append(d.pools, p)
	return p
}

func (d *draft) pool(name string) *pool {
	if i := slices.IndexFunc(d.pools, func(p *pool) bool { return p.name == name }); i >= 0 {
		return d.pools[i]
	}
	return nil
}

// addSpan puts a range into a pool. where is the field of f that has it.
func (d *draft) addSpan(p *pool, f *fields, where, text string) {
	s, notes, problem := parseSpan(text)
	if problem != nil {
		f.report(Error, problem.code, where, "%s", problem.text)
		return
	}
	for _, n := range notes {
		if f.about.kind != "" && n.code == "blanks" { // One sentence for all of an object.
			d.add(Info, n.code, f.about, "%s", n.text)
			continue
		}
		f.report(Info, n.code, where, "%s", n.text)
	}
	switch {
	case s.addrs.From().Is4In6():
		f.report(Warn, "ipv4-mapped", where, "%s is IPv4 written as IPv6 and is left out; write it as IPv4", text)
		return
	case impossible(s):
		f.report(Warn, "reserved", where, "no Service can have an address of %s (loopback, link-local, multicast or class E); it is "+
			"left out", text)
		return
	case slices.ContainsFunc(p.spans, func(other span) bool { return other.text == s.text }):
		f.report(Info, "duplicate", where, "%s is there twice, and is written once", text)
		return
	}
	p.spans = append(p.spans, s)
}

// holder returns the first pool by name that holds the address.
func (d *draft) holder(a netip.Addr) *pool {
	var first *pool
	for _, p := range d.pools {
		if p.holds(a) && (first == nil || p.name < first.name) {
			first = p
		}
	}
	return first
}

// peer is a BGPPeer on its way.
type peer struct {
	name, from, origin                    string // origin is the name of the object or instance it was made from
	my, theirs                            int64
	dynamic, address, gateway, iface, vrf string
	port                                  int64
	source, sourceInterface, routerID     string
	hold, keepalive, connect              string
	multihop                              bool
	securityHops                          int64
	secret, key, password, bfd, restart   string
	graceful                              bool
	families                              []string
	nodes                                 []metav1.LabelSelector
	single                                []string // the names of the peers that single nodes have in its place
}

func (p *peer) about() subject { return subject{peerKind, p.name} }

// external reports whether the peer is known to be in another autonomous system.
func (p *peer) external() bool {
	return p.dynamic == "External" || p.dynamic == "" && p.theirs != 0 && p.my != p.theirs
}

// ownFamily limits the session to the family of its address.
func (p *peer) ownFamily() bool {
	a, err := netip.ParseAddr(p.address)
	if err != nil {
		return false
	}
	p.families = []string{"IPv4"}
	if a.Is6() {
		p.families = []string{"IPv6"}
	}
	return true
}

func (d *draft) newPeer(theirs, from string) *peer {
	p := &peer{origin: theirs, from: from}
	p.name = unique(dns(theirs, 253), 253, func(n string) bool { return d.peer(n) != nil })
	if p.name != theirs {
		d.add(Warn, "renamed", p.about(), "stands for %q, which is no name of an object (or is taken)", theirs)
	}
	d.peers = append(d.peers, p)
	return p
}

func (d *draft) peer(name string) *peer {
	if i := slices.IndexFunc(d.peers, func(p *peer) bool { return p.name == name }); i >= 0 {
		return d.peers[i]
	}
	return nil
}

// dropPeer takes a peer out that carries nothing, and what was said of it.
func (d *draft) dropPeer(p *peer) {
	d.entries = slices.DeleteFunc(d.entries, func(e entry) bool { return e.subject == p.about() && e.level != Error && e.code != "dangling" })
	d.peers = slices.DeleteFunc(d.peers, func(other *peer) bool { return other == p })
}

// nodePeer makes the peer that a node has in place of another one, which leaves the node out.
func (d *draft) nodePeer(p *peer, o *object, host string) *peer {
	own := *p
	own.name = unique(dns(p.name+"-"+o.nick, 253), 253, func(n string) bool { return d.peer(n) != nil })
	own.from, own.single = o.origin(), nil
	own.nodes = []metav1.LabelSelector{{MatchLabels: map[string]string{hostname: host}}}
	d.peers = append(d.peers, &own)
	p.single = append(p.single, own.name)
	p.nodes = except(p.nodes, host)
	d.add(Warn, "split", p.about(), "node %s has settings of its own; it has the BGPPeer %s, and the others leave it out", o.nick, own.name)
	return &own
}

// peersOf returns the names of the peers that were made from an object of that name.
func (d *draft) peersOf(origin string) (names []string) {
	for _, p := range d.peers {
		if p.origin == origin {
			names = append(names, p.name)
		}
	}
	return names
}

// checkPeer says what is wrong with a peer, or meant otherwise, whatever product it is from.
func (d *draft) checkPeer(p *peer, f *fields, addressField string) {
	if a, err := netip.ParseAddr(p.address); p.address != "" && err != nil {
		f.report(Error, "bad-address", addressField, "%q is no address", p.address)
	} else if err == nil && a.Zone() != "" {
		p.address, p.iface = a.WithZone("").String(), a.Zone()
	} else if err == nil && a.IsLinkLocalUnicast() && p.iface == "" {
		f.report(Error, "link-local", addressField, "%s is a link-local address; a BGPPeer needs spec.interface with it", a)
	}
	d.checkEnds(p, f, addressField)
	d.checkSource(p)
	d.checkVRF(p)
	if _, err := netip.ParseAddr(p.routerID); err == nil && !oneNode(p.nodes) {
		d.add(Warn, "router-id", p.about(), "every node would use router id %s; give it to one node, or leave it out", p.routerID)
	}
	if p.source != "" && !oneNode(p.nodes) {
		d.add(Warn, "source", p.about(), "sourceAddress %s has to be an address of the node; only a node that has it can open the "+
			"session", p.source)
	}
	if p.keepalive != "" && seconds(p.keepalive)*3 > seconds(orElse(p.hold, "90s")) {
		d.add(Warn, "keepalive", p.about(), "keepaliveTime %s is more than a third of the hold time; it is left out, which means a "+
			"third", p.keepalive)
		p.keepalive = ""
	}
	if p.password != "" && p.secret == "" {
		p.secret = d.passwordSecret(p)
	}
}

// passwordSecret returns a name for the Secret that is made for a peer.
func (d *draft) passwordSecret(p *peer) string {
	return unique(dns(p.name+"-password", 253), 253, func(n string) bool {
		return slices.ContainsFunc(d.peers, func(other *peer) bool { return other != p && other.secret == n })
	})
}

// checkEnds refuses an address that is none of a single machine, at either end of a session.
func (d *draft) checkEnds(p *peer, f *fields, addressField string) {
	for _, end := range []struct{ name, text string }{{"its address", p.address}, {"its source address", p.source}} {
		a, err := netip.ParseAddr(end.text)
		switch {
		case end.text == "", err != nil && end.text == p.address: // It is reported already.
		case err != nil:
			f.report(Error, "bad-address", addressField, "%s %q is no address", end.name, end.text)
		case a.IsLoopback() && end.text == p.address:
			f.report(Error, "bad-address", addressField, "%s is the node itself, whose router takes no next hop that is its own; have it redistribute an "+
				"InterfaceAdvertisement", a)
		case a.Is4In6() || !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast():
			f.report(Error, "bad-address", addressField, "%s %s is not that of one machine", end.name, a)
		}
	}
}

// checkSource leaves out what an unnumbered session cannot have, and a source of another family than the router's address.
func (d *draft) checkSource(p *peer) {
	if p.iface != "" && p.address == "" && p.gateway == "" {
		if p.multihop {
			p.multihop = false
			d.add(Info, "multihop", p.about(), "an unnumbered session is one hop long; ebgpMultiHop is left out")
		}
		if p.source != "" {
			d.add(Info, "source", p.about(), "an unnumbered session has its source on its own interface; sourceAddress %s is left out", p.source)
			p.source = ""
		}
	}
	source, err := netip.ParseAddr(p.source)
	if err != nil {
		return
	}
	to, err := netip.ParseAddr(p.address)
	if err == nil && to.Is6() != source.Is6() || p.gateway != "" && (p.gateway == "IPv6") != source.Is6() {
		d.add(Warn, "source", p.about(), "sourceAddress %s is of another family than the router's address, and is left out", source)
		p.source = ""
	}
}

// checkVRF leaves out what a peer cannot have beside a VRF.
func (d *draft) checkVRF(p *peer) {
	if p.vrf != "" && p.bfd != "" {
		d.add(Lost, "no-equal", p.about(), "BFD sessions run in the main table only, and not in VRF %s; bfdProfile %s is left out, and the hold time finds a "+
			"router that is dead", p.vrf, p.bfd)
		p.bfd = ""
	}
	if p.vrf != "" && p.iface != "" {
		d.add(Info, "vrf", p.about(), "interface %s is in its VRF already; vrf %s is left out", p.iface, p.vrf)
		p.vrf = ""
	}
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// noteSecret copies the Secret of a peer where the input has it, and else says that it has to be copied to Tandem's namespace.
func (d *draft) noteSecret(p *peer, namespace string) {
	for _, o := range d.objects {
		if o.kind != "Secret" || o.nick != p.secret || o.namespace != "" && namespace != "" && o.namespace != namespace {
			continue
		}
		if value := o.password(orElse(p.key, "password")); value != "" {
			p.password, o.taken = value, true
			o.whole("type")
			d.add(Info, "secret", p.about(), "its Secret %s is copied to tandem-system", p.secret)
			return
		}
	}
	if namespace != "" {
		namespace += "/"
	}
	d.add(Warn, "secret", p.about(), "copy Secret %s%s (key %s) to tandem-system before the session is needed", namespace, p.secret,
		orElse(p.key, "password"))
}

// advertisement is one of the three kinds of advertisement on its way.
type advertisement struct {
	kind, name, from string
	partial          bool // for some Services alone of those of its pools
	// pools are the names of AddressPools; those of pools that are not in the input are as they would be named.
	pools                []string
	poolSelectors, nodes []metav1.LabelSelector
	selected
	interfaces                   []string
	preferred                    []preference
	peers, families, communities []string
	length, lengthV6             int64
	localPref                    *int64
	iface                        string
}

// selected says which Services an advertisement is for: of each list, where it has elements, one has to match. Namespaces are selected by their names.
type selected struct{ services, namespaces []metav1.LabelSelector }

// has reports whether a Service is among them.
func (s *selected) has(namespace string, labels map[string]string) bool {
	return matches(s.services, labels) && matches(s.namespaces, map[string]string{namespaceName: namespace})
}

type preference struct {
	weight int64
	nodes  metav1.LabelSelector
}

func (a *advertisement) about() subject { return subject{a.kind, a.name} }

// selects reports whether the advertisement selects the pool. theirs tells the pool's name in the input.
func (d *draft) selects(a *advertisement, p *pool) bool {
	if len(a.pools)+len(a.poolSelectors) == 0 || len(a.poolSelectors) > 0 && matches(a.poolSelectors, p.labels) {
		return true
	}
	return slices.Contains(a.pools, p.name)
}

// ourPool translates the name of a pool.
func (d *draft) ourPool(theirs string) string {
	if name, ok := d.poolNames[theirs]; ok {
		return name
	}
	if placeholder.MatchString(theirs) || templateMark.MatchString(theirs) { // It is an error where it is used.
		return theirs
	}
	return dns(theirs, 63)
}

// advertisementName returns a name for a further advertisement of a kind.
func (d *draft) advertisementName(kind, theirs string) string {
	return unique(dns(theirs, 253), 253, func(n string) bool {
		return slices.ContainsFunc(d.advertisements, func(other *advertisement) bool { return other.kind == kind && other.name == n })
	})
}

func (d *draft) newAdvertisement(kind, theirs, from string) *advertisement {
	a := &advertisement{kind: kind, name: d.advertisementName(kind, theirs), from: from}
	if a.name != theirs && !strings.HasPrefix(a.name, theirs+"-") {
		d.add(Warn, "renamed", a.about(), "stands for %q, which is no name of an object", theirs)
	}
	d.advertisements = append(d.advertisements, a)
	return a
}

// profile is a BFDProfile on its way.
type profile struct {
	name, from              string
	receive, transmit, echo int64 // milliseconds
	multiplier, ttl         int64
	passive                 bool
}

// newProfile adds a profile with a name that the API server takes.
func (d *draft) newProfile(theirs, from string) *profile {
	name := unique(dns(theirs, 253), 253, func(n string) bool {
		return slices.ContainsFunc(d.profiles, func(p *profile) bool { return p.name == n })
	})
	p := &profile{name: name, from: from}
	if _, taken := d.profileNames[theirs]; !taken {
		d.profileNames[theirs] = name
	}
	if name != theirs {
		d.add(Warn, "renamed", subject{"BFDProfile", name}, "stands for %q, which is no name of an object (or is taken)", theirs)
	}
	d.profiles = append(d.profiles, p)
	return p
}

// ourProfile translates the name of a profile, "" for none.
func (d *draft) ourProfile(theirs string) string {
	if name, ok := d.profileNames[theirs]; ok || theirs == "" {
		return name
	}
	return dns(theirs, 253)
}

// community is a Community on its way.
type community struct {
	name, from string
	values     [][2]string
}

// communityObject returns a name for a further Community.
func (d *draft) communityObject(theirs string) string {
	return unique(dns(theirs, 253), 253, func(n string) bool {
		return slices.ContainsFunc(d.communities, func(c *community) bool { return c.name == n })
	})
}

// patch is a merge patch for a Service.
type patch struct {
	namespace, name, from string
	annotations           map[string]string
	loadBalancer          bool // makes it one, without externalIPs
}

func (d *draft) patch(namespace, name, from string) *patch {
	for _, p := range d.patches {
		if p.namespace == namespace && p.name == name {
			return p
		}
	}
	p := &patch{namespace: namespace, name: name, from: from, annotations: map[string]string{}}
	d.patches = append(d.patches, p)
	return p
}

// finish checks what needs all objects.
func (d *draft) finish() {
	d.dropEmpty()
	d.calicoRequested()
	d.announceRest()
	d.checkReferences()
	for _, p := range d.pools {
		d.checkPool(p)
	}
	d.checkFamilies()
	d.checkLabels()
	d.checkSessions()
	bgp := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return a.kind == bgpKind })
	if bgp && len(d.peers) == 0 {
		d.add(Warn, "no-peers", subject{name: "the input"}, "addresses are announced by BGP, and there is no BGPPeer")
	}
	named := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return len(a.pools) > 0 })
	if len(d.pools) == 0 && (len(d.advertisements) > 0 && !named || d.asksAway) {
		d.add(Warn, "no-pools", subject{name: "the input"}, "there is no address pool in the input")
	}
}

// dropEmpty takes out pools without an address, which the API server refuses.
func (d *draft) dropEmpty() {
	if d.failed() { // Nothing is written, and what was wrong with the addresses has been said.
		return
	}
	d.pools = slices.DeleteFunc(d.pools, func(p *pool) bool {
		if len(p.spans) == 0 {
			d.add(Warn, "no-pools", p.about(), "there is no address in it; it is left out")
		}
		return len(p.spans) == 0
	})
}

// announceRest makes the advertisement that --announce asks for, of pools that nothing announces.
func (d *draft) announceRest() {
	if d.Options.Announce == "calico" && len(d.calicoBGP) == 0 {
		d.leaveToCalico()
		return
	}
	kind := map[string]string{"l2": l2Kind, "bgp": bgpKind}[d.Options.Announce]
	if kind == "" {
		return
	}
	for _, p := range d.pools {
		if p.elsewhere || d.announced(p) {
			continue
		}
		if p.product == "kube-vip" { // One advertisement for all pools, as kube-vip announces all.
			d.newAdvertisement(kind, "kube-vip", "--announce "+d.Options.Announce)
			continue
		}
		d.newAdvertisement(kind, p.name, "--announce "+d.Options.Announce).pools = []string{p.name}
	}
}

// leaveToCalico takes pools that nothing announces for announced, since --announce says so and no BGPConfiguration says which prefixes.
func (d *draft) leaveToCalico() {
	for _, p := range d.pools {
		if !p.elsewhere && !d.announced(p) {
			p.elsewhere = true
			d.add(Info, "announced-by-calico", p.about(), "Calico announces it (--announce calico); its BGPConfiguration has to list the addresses in "+
				"serviceLoadBalancerIPs")
		}
	}
}

func (d *draft) announced(p *pool) bool {
	return slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return !a.partial && d.selects(a, p) })
}

// checkReferences names what advertisements and peers refer to and the input does not have.
func (d *draft) checkReferences() {
	for _, a := range d.advertisements {
		for _, name := range a.pools {
			if d.pool(name) == nil {
				d.add(Warn, "dangling", a.about(), "AddressPool %q is not in the input", name)
			}
		}
		for _, name := range a.peers {
			if d.peer(name) == nil {
				d.add(Warn, "dangling", a.about(), "BGPPeer %q is not in the input", name)
			}
		}
		for _, name := range a.communities {
			if !communityValue.MatchString(name) && wellKnown[name] == "" && !d.named(name) {
				d.add(Warn, "dangling", a.about(), "no Community in the input has the name %q", name)
			}
		}
	}
	for _, p := range d.peers {
		if p.bfd != "" && !slices.ContainsFunc(d.profiles, func(known *profile) bool { return known.name == p.bfd }) {
			d.add(Warn, "dangling", p.about(), "BFDProfile %q is not in the input", p.bfd)
		}
	}
}

func (d *draft) named(name string) bool {
	return slices.ContainsFunc(d.communities, func(c *community) bool {
		return slices.ContainsFunc(c.values, func(v [2]string) bool { return v[0] == name })
	})
}

// checkPool says what a person should look at in a pool.
func (d *draft) checkPool(p *pool) {
	if p.elsewhere || len(p.spans) == 0 {
		return
	}
	if !d.announced(p) {
		d.add(Warn, "no-advertisement", p.about(), "nothing in the input announces its addresses; write an advertisement, or say "+
			"--announce l2 or --announce bgp")
		return
	}
	lan := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return a.kind == l2Kind && d.selects(a, p) })
	if !lan {
		return
	}
	for _, s := range p.spans {
		if last := s.addrs.To(); last.Is4() && last.As4()[3] == 255 && p.holds(last) {
			d.add(Warn, "last-of-subnet", p.about(), "%s is the broadcast address of a /24; set avoidBuggyIPs or end the range before "+
				"it, unless a Service has it", last)
		}
		if p.product == "cilium" && s.cidr.IsValid() && s.cidr.Addr().Is4() && s.cidr.Bits() <= 24 {
			d.add(Warn, "wide-pool", p.about(), "%s holds other machines as well if it is the nodes' subnet. Tandem gives no address "+
				"of a Node, a gateway or the API server; exclude what else is there, or list what is free",
				s.text)
		}
	}
}

// checkFamilies warns where a Service that gets one address today gets a second one from another pool. For example, one MetalLB pool has
// IPv4 and another one IPv6: a Service that prefers both families has one address in MetalLB, which takes both from one pool, and two in
// Tandem.
func (d *draft) checkFamilies() {
	var single []*pool
	for _, p := range d.pools {
		if p.onePoolPerService && !p.manual && p.hasFamily(family.IPv4) != p.hasFamily(family.IPv6) {
			single = append(single, p)
		}
	}
	both := slices.ContainsFunc(d.pools, func(p *pool) bool { return !p.manual && p.dual() })
	for _, f := range family.All {
		if !slices.ContainsFunc(single, func(p *pool) bool { return p.hasFamily(f) }) {
			return
		}
	}
	if said := d.serviceFamilies(); said || both {
		return
	}
	for _, p := range single {
		d.add(Warn, "second-family", p.about(), "their Services have the addresses of one pool; in Tandem a Service of both families "+
			"gets the second one from another pool")
	}
}

// serviceFamilies says the same of the Services of the input that want both families. It reports whether there are any.
func (d *draft) serviceFamilies() (said bool) {
	metalLB := d.assumed("metallb")
	// Before 0.14.9 a Service that prefers both families has no address at all from MetalLB where no pool has both.
	older := metalLB.before(0, 14, 9) && !strings.HasPrefix(strings.TrimSpace(metalLB.words), ">")
	for _, s := range d.parsed {
		dual := slices.ContainsFunc(d.pools, func(p *pool) bool {
			return !p.manual && p.dual() && matches(p.services, s.labels)
		})
		switch {
		case !s.loadBalancer || s.taken:
		case s.names():
			if d.ofTwoPools(s) {
				said = true
				d.add(Warn, "gets-address", s.about(), "it asks for addresses of two pools, which MetalLB does not give, so that it waits; in Tandem it gets them as soon "+
					"as Tandem runs")
			}
		case dual:
		case s.familyPolicy == "RequireDualStack", s.familyPolicy == "PreferDualStack" && older:
			said = true
			d.add(Warn, "gets-address", s.about(), "it wants both families, which no pool of MetalLB has, so that it waits; in Tandem it "+
				"gets them from two pools as soon as Tandem runs")
		case s.familyPolicy == "PreferDualStack":
			said = true
			d.add(Warn, "second-family", s.about(), "it has one address, since MetalLB takes both families from one pool; in Tandem it "+
				"gets the second one from another pool")
		}
	}
	return said
}

// ofTwoPools reports whether a Service asks MetalLB for addresses of two pools, and has none.
func (d *draft) ofTwoPools(s *service) bool {
	list, _ := addresses(orElse(s.annotations["metallb.io/loadBalancerIPs"], s.annotations["metallb.universe.tf/loadBalancerIPs"]))
	if len(list) < 2 || len(s.status) > 0 && d.Options.Live {
		return false
	}
	first := d.holder(list[0])
	return first != nil && slices.ContainsFunc(list, func(a netip.Addr) bool { return d.holder(a) != nil && d.holder(a) != first })
}

// names reports whether a Service names a pool or an address.
func (s *service) names() bool {
	return s.loadBalancerIP != "" || slices.ContainsFunc(sortedKeys(s.annotations), func(key string) bool {
		ours := translations[key]
		return ours == "load-balancer-ips" || ours == "address-pool" || isMetalLBAnnotation(key) && !strings.HasSuffix(key, "-shared-ip")
	})
}

// checkLabels names Services of the input that no pool or no advertisement selects, because they lack the label.
func (d *draft) checkLabels() {
	automatic := slices.DeleteFunc(slices.Clone(d.pools), func(p *pool) bool { return p.manual })
	for _, s := range d.parsed {
		if !s.loadBalancer || s.taken || s.otherClass() {
			continue
		}
		if len(automatic) > 0 && !s.names() && !slices.ContainsFunc(automatic, func(p *pool) bool { return matches(p.services, s.labels) }) {
			d.add(Warn, "no-label", s.about(), "it has no label that a pool selects, and gets no address")
			continue
		}
		general := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return !a.partial })
		if general && !slices.ContainsFunc(d.advertisements,
			func(a *advertisement) bool { return a.has(s.namespace, s.labels) }) {
			d.add(Warn, "no-label", s.about(), "no advertisement selects its labels and its namespace, and its address is not announced")
		}
	}
}

// checkSessions warns of two peers with one address that a node may both have: a router takes one session from an address, so that they
// replace each other.
func (d *draft) checkSessions() {
	for i, p := range d.peers {
		for _, other := range d.peers[:i] {
			same := p.address == other.address && p.iface == other.iface && p.vrf == other.vrf && p.source == other.source &&
				p.sourceInterface == other.sourceInterface
			if p.address != "" && same && !apart(p.nodes, other.nodes) {
				d.add(Warn, "same-router", p.about(), "BGPPeer %s has the address %s too, and a node may have both; a router takes one "+
					"session from an address. Give them nodeSelectors that exclude each other", other.name, p.address)
			}
		}
	}
}

// contains reports whether a prefix holds all addresses of a pool of its family.
func contains(prefix netip.Prefix, p *pool) bool {
	whole := netipx.RangeOfPrefix(prefix)
	found := false
	for _, s := range p.spans {
		if s.family() != family.Of(prefix.Addr()) {
			continue
		}
		if found = true; !whole.Contains(s.addrs.From()) || !whole.Contains(s.addrs.To()) {
			return false
		}
	}
	return found
}

// seconds returns the seconds of a duration that was read already.
func seconds(text string) float64 {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return d.Seconds()
}

func number(format string, n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}
