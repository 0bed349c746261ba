// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

// Reason says whether a node announces an address in one way, and if it does not, the one reason why not: of several the first in the order
// below.
type Reason string

// The reasons, from what concerns the address everywhere to what concerns one session.
const (
	// NoClaim: the Service publishes the address, and no claim of ours backs it.
	NoClaim Reason = "NoClaim"
	// PeerNotOnNode: the BGPPeer does not select the node.
	PeerNotOnNode Reason = "PeerNotOnNode"
	// NoAdvertisement: there is no L2Advertisement, or no BGPAdvertisement.
	NoAdvertisement Reason = "NoAdvertisement"
	// PoolNotSelected, ServiceNotSelected, NodeNotSelected, PeerNotSelected: no advertisement selects the address. The one that comes closest
	// fails by its pools, the labels of the Service or of its namespace, the labels of the node, or its peers or families.
	PoolNotSelected    Reason = "PoolNotSelected"
	ServiceNotSelected Reason = "ServiceNotSelected"
	NodeNotSelected    Reason = "NodeNotSelected"
	PeerNotSelected    Reason = "PeerNotSelected"
	// NodeExcluded: the node announces nothing (Node.Excluded).
	NodeExcluded Reason = "NodeExcluded"
	// NoReadyEndpoint: no node has a usable endpoint of the address's family.
	NoReadyEndpoint Reason = "NoReadyEndpoint"
	// NoLocalEndpoint: externalTrafficPolicy is Local, and the node has no endpoint of the Service or, on layer 2, of another Service that
	// shares the address.
	NoLocalEndpoint Reason = "NoLocalEndpoint"
	// NoInterface: no usable interface of the node holds the address's subnet, or none has a name that the advertisement wants.
	NoInterface Reason = "NoInterface"
	// NoLiveSpeaker: no speaker is alive on the node.
	NoLiveSpeaker Reason = "NoLiveSpeaker"
	// Yielded: the speaker of another node answers for the address, and the one of this node, which holds it, cannot ask the API.
	Yielded Reason = "Yielded"
	// Draining: another node is to answer for the address on layer 2, the Holder, and the node that is on record answers until that one is.
	Draining Reason = "Draining"
	// OtherHolder: another node answers for the address on layer 2, the Holder.
	OtherHolder Reason = "OtherHolder"
	// AddressInUse: another station on the link has the address, so that the holder does not announce it. Detail has its MAC.
	AddressInUse Reason = "AddressInUse"
	// Probing: the holder asks whether another station has the address, before it announces it for the first time.
	Probing Reason = "Probing"
	// StartupHold: the speaker has just started, and takes nothing new for a moment.
	StartupHold Reason = "StartupHold"
	// NoSession: the node cannot have a session with the peer, for the reason in Detail.
	NoSession Reason = "NoSession"
	// FamilyNotCarried: the families of the BGPPeer leave the address's out.
	FamilyNotCarried Reason = "FamilyNotCarried"
	// NoNextHop: the node has no address to which the peer could send, for the reason in Detail.
	NoNextHop Reason = "NoNextHop"
	// SessionDown: the prefix is declared, and the session is not established. Detail has its latest error.
	SessionDown Reason = "SessionDown"
	// Withheld: the prefix is declared, and the peer has not agreed to the family, or to an IPv6 next hop for an IPv4 prefix (RFC 8950).
	Withheld Reason = "Withheld"
	// Announced: the node answers for the address on layer 2, or the peer is told a prefix of it.
	Announced Reason = "Announced"
)

// Explanation says whether one node announces one address in one way.
type Explanation struct {
	Address netip.Addr
	Node    string
	// Peer is the name of the BGPPeer, "" for layer 2.
	Peer   string
	Reason Reason
	// Interfaces are the names of those on which the node answers, if it is Announced on layer 2, or Draining.
	Interfaces []string
	// Holder is the node that answers instead, if the Reason is OtherHolder or Draining; "" if there is none yet.
	Holder string
	// Prefixes are those that the peer is told of the address, if it is Announced, SessionDown or Withheld by BGP. NextHop is theirs; the zero
	// Addr for a node whose paths the snapshot does not have.
	Prefixes []netip.Prefix
	NextHop  netip.Addr
	// Detail is the error that a Reason speaks of.
	Detail string
}

// Declared reports whether Decide announces the address: it is Announced, or would be if the session with the peer carried it, or the node
// still answers for it.
func (e Explanation) Declared() bool {
	return e.Reason == Announced || e.Reason == Draining || e.Reason == SessionDown || e.Reason == Withheld
}

// Explain says why each address that a Service publishes is announced or not: by each node on layer 2 and then to each peer, ordered by
// address as in the Service's status, by node and by peer. It returns nothing for a Service that is not in the snapshot.
//
// Where the snapshot lacks a fact, Explain assumes that nothing is wrong there. A snapshot has the paths of its own node alone, and may
// lack Sessions and Password. For example, the speaker of node1 does not know how node2 reaches a peer, and never says NoNextHop of node2.
func Explain(s *Snapshot, service types.NamespacedName) []Explanation {
	return NewExplainer(s).Explain(service)
}

// Explainer explains several Services of one Snapshot. It works out their sharing groups and holders once, and not again for each Service.
type Explainer struct {
	view
	groups  map[types.NamespacedName]*group
	holders map[*group]string
	nodes   []string // sorted
}

// NewExplainer returns an Explainer of a Snapshot, which may not be changed any more.
func NewExplainer(s *Snapshot) *Explainer {
	e := &Explainer{
		view: view{Snapshot: s}, groups: map[types.NamespacedName]*group{}, holders: map[*group]string{},
		nodes: slices.Sorted(maps.Keys(s.Nodes)),
	}
	e.all = e.view.groups()
	for _, g := range e.all {
		for _, svc := range g.services {
			e.groups[svc.Name] = g
		}
	}
	return e
}

// Explain returns what the function Explain returns.
func (e *Explainer) Explain(service types.NamespacedName) []Explanation {
	g := e.groups[service]
	if g == nil {
		return nil
	}
	svc := g.services[slices.IndexFunc(g.services, func(svc *Service) bool { return svc.Name == service })]
	var all []Explanation
	for _, address := range svc.Addresses {
		all = slices.AppendSeq(all, e.ExplainAddress(service, address))
	}
	for _, ip := range svc.Unclaimed {
		noClaim := func(string) Explanation { return Explanation{Reason: NoClaim} }
		all = slices.AppendSeq(all, e.each(ip, noClaim, func(node string, _ *config.Peer) Explanation { return noClaim(node) }))
	}
	return all
}

// ExplainAddress yields the explanations of one address of a Service, which a claim backs, in the order of Explain. A caller that looks for
// one node that announces the address need not wait for the explanations of all others.
func (e *Explainer) ExplainAddress(service types.NamespacedName, address Address) iter.Seq[Explanation] {
	g := e.groups[service]
	return e.each(address.IP, func(node string) Explanation { return e.layer2(g, address, node) },
		func(node string, peer *config.Peer) Explanation { return e.toPeer(g, address, node, peer) })
}

// Alike returns that of an address of a Service, and false where other Services belong to its sharing group: no other is explained alike.
func (e *Explainer) Alike(service types.NamespacedName, address Address) (Alike, bool) {
	g := e.groups[service]
	if len(g.services) > 1 {
		return Alike{}, false
	}
	return e.alike(g.services[0], address), true
}

// Selected reports whether some L2Advertisement and some BGPAdvertisement selects an address of a Service, or of a sharer, on whatever
// node.
func (e *Explainer) Selected(service types.NamespacedName, address Address) (layer2, toPeers bool) {
	ads := e.selecting(address.Pool)
	for _, svc := range e.groups[service].services {
		if svc.has(address.IP) {
			layer2 = layer2 || slices.ContainsFunc(ads.layer2, func(ad *config.L2Advertisement) bool { return ad.SelectsService(svc.Name.Namespace, svc.Labels) })
			toPeers = toPeers || slices.ContainsFunc(ads.bgp, func(ad *config.BGPAdvertisement) bool { return ad.SelectsService(svc.Name.Namespace, svc.Labels) })
		}
	}
	return layer2, toPeers
}

// HasEndpoint reports whether a Service that publishes the address, the given one or another of its sharing group, has a ready endpoint of the address's
// family. Without one no node answers for the address, and its record stays as it is.
func (e *Explainer) HasEndpoint(service types.NamespacedName, address Address) bool {
	return e.groups[service].hasEndpoint(address.IP)
}

// ExplainAlike yields what ExplainAddress would if every candidate on layer 2 were the holder and, for an address that has an Alike, if the
// Service were not local: what all addresses have in common that are Alike.
func (e *Explainer) ExplainAlike(service types.NamespacedName, address Address) iter.Seq[Explanation] {
	g := e.groups[service]
	if len(g.services) == 1 && g.services[0].Local {
		svc, common := *g.services[0], *g
		svc.Local, common.services = false, []*Service{&svc}
		g = &common
	}
	e.candidates(g) // This finds out whether interfaces count that are Silent.
	return e.each(address.IP, func(node string) Explanation { return e.candidate(g, address, node) },
		func(node string, peer *config.Peer) Explanation { return e.toPeer(g, address, node, peer) })
}

// Holder returns the node that answers for a Service on layer 2, "" if there is none, and why that node announces an address or does not.
func (e *Explainer) Holder(service types.NamespacedName, address Address) (node string, x Explanation) {
	g := e.groups[service]
	node = e.holderOf(g)
	x = e.layer2(g, address, node)
	x.Address, x.Node = address.IP, node
	return node, x
}

// Refusal returns why a node would not take the addresses of a Service over if a user named it as the Target, "" if it would.
func (e *Explainer) Refusal(service types.NamespacedName, target string) string {
	g := e.groups[service]
	if g == nil {
		return "the Service publishes no address"
	}
	e.holderOf(g) // This finds out whether interfaces count that are Silent.
	return e.refusal(g, target)
}

// Sharers returns the Services of the sharing group of a Service, itself among them, sorted by name: they move together.
func (e *Explainer) Sharers(service types.NamespacedName) (names []types.NamespacedName) {
	if g := e.groups[service]; g != nil {
		for _, svc := range g.services {
			names = append(names, svc.Name)
		}
	}
	return names
}

// each yields an explanation for each node on layer 2, and for each node and peer.
func (e *Explainer) each(
	ip netip.Addr, layer2 func(node string) Explanation, toPeer func(node string, peer *config.Peer) Explanation,
) iter.Seq[Explanation] {
	return func(yield func(Explanation) bool) {
		for _, node := range e.nodes {
			x := layer2(node)
			x.Address, x.Node = ip, node
			if !yield(x) {
				return
			}
			for i := range e.Config.Peers {
				peer := &e.Config.Peers[i]
				x := toPeer(node, peer)
				x.Address, x.Node, x.Peer = ip, node, peer.Name
				if !yield(x) {
					return
				}
			}
		}
	}
}

// Declared counts the prefixes of a family that a node declares to a peer, those of all Services together.
func (e *Explainer) Declared(session NodePeer, f family.Family) int {
	i := slices.IndexFunc(e.Config.Peers, func(p config.Peer) bool { return p.Name == session.Peer })
	if _, known := e.Nodes[session.Node]; i < 0 || !known {
		return 0
	}
	prefixes := map[netip.Prefix]bool{}
	for j := range e.Services {
		svc := &e.Services[j]
		for _, address := range svc.Addresses {
			if family.Of(address.IP) != f {
				continue
			}
			if x := e.toPeer(e.groups[svc.Name], address, session.Node, &e.Config.Peers[i]); x.Declared() {
				for _, p := range x.Prefixes {
					prefixes[p] = true
				}
			}
		}
	}
	return len(prefixes)
}

// candidate explains why a node cannot answer for an address of a group on layer 2, or says that it would be Announced if the node were the
// holder.
func (e *Explainer) candidate(g *group, address Address, name string) Explanation {
	node := e.Nodes[name]
	reason := NoAdvertisement
	for i := range e.Config.L2 {
		for _, svc := range g.services {
			if svc.has(address.IP) {
				reason = later(reason, selects(e.Config.L2[i].Selection, address.Pool, svc, node.Labels))
			}
		}
	}
	interfaces := e.interfaces(g, address, name)
	switch {
	case reason == NoAdvertisement || reason == PoolNotSelected || reason == ServiceNotSelected:
		return Explanation{Reason: reason}
	case node.Excluded:
		return Explanation{Reason: NodeExcluded}
	case reason == NodeNotSelected:
		return Explanation{Reason: reason}
	case !g.hasEndpoint(address.IP):
		return Explanation{Reason: NoReadyEndpoint}
	case !g.servedFrom(name, address.IP):
		return Explanation{Reason: NoLocalEndpoint}
	case len(interfaces) == 0:
		return Explanation{Reason: NoInterface}
	case !e.lives(name):
		return Explanation{Reason: NoLiveSpeaker}
	}
	return Explanation{Reason: Announced, Interfaces: interfaces}
}

// layer2 explains an address of a group on layer 2.
func (e *Explainer) layer2(g *group, address Address, name string) Explanation {
	holder := e.holderOf(g) // This also finds out whether interfaces count that are Silent.
	x := e.candidate(g, address, name)
	if e.drains(g, holder, name) && name == e.Node && e.yields(g) {
		return Explanation{Reason: Yielded}
	}
	if e.drains(g, holder, name) {
		if as := e.drained(g, holder, address, name); len(as) > 0 {
			return Explanation{Reason: Draining, Interfaces: slices.Sorted(maps.Keys(as)), Holder: holder}
		}
	}
	switch {
	case x.Reason != Announced:
		return x
	case holder != name:
		return Explanation{Reason: OtherHolder, Holder: holder}
	case name == e.Node && e.startupHolds(g):
		return Explanation{Reason: StartupHold}
	case name == e.Node && e.yields(g):
		return Explanation{Reason: Yielded}
	}
	notFree := e.notFree(address.IP, name, e.probes(g, address.IP, name, x.Interfaces))
	if len(notFree) == len(x.Interfaces) {
		return e.notAnnounced(address.IP, name, notFree)
	}
	x.Interfaces = without(x.Interfaces, notFree)
	return x
}

// notAnnounced explains an address that a node has not found to be free on any interface.
func (e *Explainer) notAnnounced(ip netip.Addr, node string, interfaces []string) Explanation {
	for _, name := range interfaces {
		if station := e.Probed(node, name, ip).UsedBy; station != "" {
			return Explanation{Reason: AddressInUse, Detail: station + " on " + name}
		}
	}
	return Explanation{Reason: Probing}
}

// holderOf returns the node that answers for a group, "" if there is none.
func (e *Explainer) holderOf(g *group) string {
	holder, ok := e.holders[g]
	if !ok {
		holder, _ = e.holder(g)
		e.holders[g] = holder
	}
	return holder
}

// toPeer explains an address of a group by BGP.
func (e *Explainer) toPeer(g *group, address Address, name string, peer *config.Peer) Explanation {
	node, f := e.Nodes[name], family.Of(address.IP)
	if !peer.Nodes.Matches(node.Labels) {
		return Explanation{Reason: PeerNotOnNode}
	}
	reason, prefixes := NoAdvertisement, []netip.Prefix(nil)
	for i := range e.Config.BGP {
		ad := &e.Config.BGP[i]
		for _, svc := range g.services {
			if !svc.has(address.IP) {
				continue
			}
			why := selects(ad.Selection, address.Pool, svc, node.Labels)
			switch {
			case why != Announced:
			case !isFor(ad, peer) || !carries(ad, f):
				why = PeerNotSelected
			case !svc.Endpoints[f].Any:
				why = NoReadyEndpoint
			case !svc.servedFrom(name, address.IP):
				why = NoLocalEndpoint
			default:
				for _, prefix := range e.prefixes(ad, svc, address, name, peer) {
					if !slices.Contains(prefixes, prefix) {
						prefixes = append(prefixes, prefix)
					}
				}
			}
			reason = later(reason, why)
		}
	}
	switch {
	case node.Excluded && (!e.Leaving || name != e.Node) && reason != NoAdvertisement && reason != PoolNotSelected && reason != ServiceNotSelected:
		return Explanation{Reason: NodeExcluded}
	case reason != Announced:
		return Explanation{Reason: reason}
	case name != e.Node && !e.Alive(name):
		return Explanation{Reason: NoLiveSpeaker}
	}
	resolved, problem, ok := e.peer(peer, name)
	if !ok {
		return Explanation{Reason: NoSession, Detail: problem.Error()}
	}
	if !slices.Contains(resolved.Families, f) {
		return Explanation{Reason: FamilyNotCarried}
	}
	x := Explanation{Prefixes: prefixes}
	if name == e.Node { // The snapshot has no paths of other nodes.
		hops, err := e.nextHops(&resolved)
		hop, ok := nextHop(hops, f)
		if !ok {
			if err == nil {
				err = fmt.Errorf("this node has no %s address on the peer's link", f)
			}
			return Explanation{Reason: NoNextHop, Detail: err.Error()}
		}
		x.NextHop = hop
	}
	x.Reason, x.Detail = e.carried(NodePeer{name, peer.Name}, f, x.NextHop)
	return x
}

// carried returns Announced if the session carries a prefix that is declared for it, or else SessionDown or Withheld, with the cause.
func (e *Explainer) carried(session NodePeer, f family.Family, hop netip.Addr) (reason Reason, detail string) {
	if e.Sessions == nil {
		return Announced, ""
	}
	state, known := e.Sessions[session]
	switch {
	case !known:
		return SessionDown, "the speaker reports no session with the peer"
	case state.State != bgp.Established:
		return SessionDown, state.LastError
	case !slices.Contains(state.Families, f):
		return Withheld, fmt.Sprintf("the peer has agreed to %v only", state.Families)
	case f == family.IPv4 && hop.Is6() && state.Advertised[f] == 0:
		// All IPv4 prefixes of a session have the same next hop, so that the peer is told all of them or none.
		return Withheld, "the peer has not agreed to IPv6 next hops for IPv4 prefixes (RFC 8950)"
	}
	return Announced, ""
}

// selects returns Announced if an advertisement with this selection is for an address of a Service on a node, or the selector that fails.
func selects(s config.Selection, pool string, svc *Service, node labels.Set) Reason {
	switch {
	case !s.SelectsPool(pool):
		return PoolNotSelected
	case !s.SelectsService(svc.Name.Namespace, svc.Labels):
		return ServiceNotSelected
	case !s.Nodes.Matches(node):
		return NodeNotSelected
	}
	return Announced
}

// order ranks the reasons where several pairs of an advertisement and a Service have the address: the last of them in this order counts.
// For example, one BGPAdvertisement does not select the pool and another does not select the node: the reason is NodeNotSelected.
var order = []Reason{
	NoAdvertisement, PoolNotSelected, ServiceNotSelected, NodeNotSelected, PeerNotSelected, NoReadyEndpoint, NoLocalEndpoint, Announced,
}

// later returns the one of two reasons that is later in the order.
func later(a, b Reason) Reason {
	if slices.Index(order, a) < slices.Index(order, b) {
		return b
	}
	return a
}

// String returns a line such as "192.0.2.10 by node1 on layer 2: OtherHolder (node2)".
func (e Explanation) String() string {
	way := "on layer 2"
	if e.Peer != "" {
		way = "to " + e.Peer
	}
	var details []string
	details = append(details, e.Interfaces...)
	for _, p := range e.Prefixes {
		details = append(details, p.String())
	}
	if e.NextHop.IsValid() {
		details = append(details, "next hop "+e.NextHop.String())
	}
	for _, text := range []string{e.Holder, e.Detail} {
		if text != "" {
			details = append(details, text)
		}
	}
	line := fmt.Sprintf("%s by %s %s: %s", e.Address, e.Node, way, e.Reason)
	if len(details) > 0 {
		line += " (" + strings.Join(details, ", ") + ")"
	}
	return line
}
