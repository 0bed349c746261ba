// SPDX-License-Identifier: Apache-2.0

// Package diagnosis says of each address of a Service whether it is announced and, where it is not, the one thing that helps most to know.
//
// Package decision explains what each node does with an address on layer 2 and for each BGP peer, which is hundreds of explanations on a
// hundred nodes. A user wants one sentence. Of all explanations the one counts that is closest to an announcement. For example node1 is not
// selected, and node2 has no interface in the subnet of 192.0.2.64: the user hears about the interface.
//
// What is configured is no proof. An address is announced if its record names it and a speaker that is alive, or if a session is
// established and has been sent all that it should carry.
//
// The package is pure. The controller manager writes what it says into the conditions of Services.
package diagnosis

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// Finding says of one address of a Service whether it is announced.
type Finding struct {
	Address   netip.Addr
	Announced bool
	// Way is how it is announced, "" if it is not.
	Way Way
	// Reason is one of the ServiceReasons of package ipam/v1alpha1, and Message a sentence without a full stop. The message of an address
	// that is announced names no node, so that it stays when another node takes the address over.
	Reason, Message string
}

// Way is how an address is announced.
type Way string

// The ways to announce an address.
const (
	Layer2   Way = "layer 2"
	BGP      Way = "BGP"
	InKernel Way = "kernel" // by the routing software of the node, which finds the address in the kernel
)

// Diagnoser diagnoses the Services of a snapshot.
type Diagnoser struct {
	snapshot  *decision.Snapshot
	explainer *decision.Explainer
	services  map[types.NamespacedName]*decision.Service
	records   map[types.NamespacedName]observation.Record
	speakers  int                                          // that are alive
	complete  map[decision.NodePeer]map[family.Family]bool // sessions that have been sent all that they should carry
	known     map[decision.Alike]*explanations
	size      int // how many explanations are known
}

// mostKnown is how many explanations are kept, about 32 MiB of them. When there are more, all are forgotten.
const mostKnown = 500_000

// New returns a Diagnoser of a snapshot, which has Sessions, belongs to no node and may not be changed any more.
func New(s *decision.Snapshot, records map[types.NamespacedName]observation.Record) *Diagnoser {
	d := &Diagnoser{
		snapshot: s, explainer: decision.NewExplainer(s), records: records,
		services: make(map[types.NamespacedName]*decision.Service, len(s.Services)),
		complete: map[decision.NodePeer]map[family.Family]bool{}, known: map[decision.Alike]*explanations{},
	}
	for i := range s.Services {
		d.services[s.Services[i].Name] = &s.Services[i]
	}
	for node := range s.Nodes {
		if s.Alive(node) {
			d.speakers++
		}
	}
	return d
}

// Service returns a Finding for each address that a Service publishes: first those that a claim of ours backs, and none for a Service that
// is not in the snapshot. For a Service that was announced already, an established session needs to carry any prefix of the family, and not
// to have been sent all of them: while others are being added, those that it has stay.
func (d *Diagnoser) Service(name types.NamespacedName, announced bool) []Finding {
	svc := d.services[name]
	if svc == nil {
		return nil
	}
	var findings []Finding
	for _, address := range svc.Addresses {
		findings = append(findings, d.address(svc, address, announced))
	}
	for _, ip := range svc.Unclaimed {
		findings = append(findings, Finding{
			Address: ip, Reason: ipamv1alpha1.ServiceReasonNoClaim, Message: fmt.Sprintf("no IPAddress of Tandem stands for %s", ip),
		})
	}
	return findings
}

func (d *Diagnoser) address(svc *decision.Service, address decision.Address, announced bool) Finding {
	f := Finding{Address: address.IP}
	record := d.records[svc.Name]
	if record.Node != "" && slices.Contains(record.Addresses, address.IP) && d.alive(record.Node) && d.explainer.HasEndpoint(svc.Name, address) {
		f.Announced, f.Way, f.Reason, f.Message = true, Layer2, ipamv1alpha1.ServiceReasonAnnounced, fmt.Sprintf("%s is announced on layer 2", address.IP)
		return f
	}
	layer2, toPeers := d.explainer.Selected(svc.Name, address)
	inKernel, there := d.explainer.InKernel(svc.Name, address)
	switch {
	case there:
		f.Announced, f.Way, f.Reason = true, InKernel, ipamv1alpha1.ServiceReasonAnnounced
		f.Message = fmt.Sprintf("%s is in the kernel of nodes, for their routing software to announce", address.IP)
		return f
	case inKernel && !layer2 && !toPeers && !svc.Endpoints[family.Of(address.IP)].Any:
		f.Reason = ipamv1alpha1.ServiceReasonNoReadyEndpoint
		f.Message = fmt.Sprintf("no ready %s endpoint", family.Of(address.IP))
		return f
	case inKernel && !layer2 && !toPeers:
		f.Reason = ipamv1alpha1.ServiceReasonPending
		f.Message = fmt.Sprintf("no node has %s in its kernel: see the condition KernelRoutes of the SpeakerStatuses", address.IP)
		return f
	case !layer2 && !toPeers:
		f.Reason, f.Message = ipamv1alpha1.ServiceReasonNoAdvertisement, d.notSelected(svc, address)
		return f
	case d.speakers == 0:
		f.Reason, f.Message = ipamv1alpha1.ServiceReasonNoLiveSpeaker, "no speaker is alive on any node"
		return f
	case !layer2 && len(d.snapshot.Config.Peers) == 0:
		f.Reason, f.Message = ipamv1alpha1.ServiceReasonNoPeer, "there is no BGPPeer to announce to"
		return f
	}
	e, shared := d.explain(svc, address, layer2, toPeers)
	var endpoints map[string]bool
	if svc.Local && !shared {
		endpoints = endpointNodes(svc, address.IP)
	}
	if d.byBGP(e, family.Of(address.IP), announced, endpoints) {
		f.Announced, f.Way, f.Reason, f.Message = true, BGP, ipamv1alpha1.ServiceReasonAnnounced, fmt.Sprintf("%s is announced by BGP", address.IP)
		return f
	}
	c := collection{collected: e.collect(endpoints), address: address.IP}
	if c.layer2 {
		c.holder, c.ofHolder = d.explainer.Holder(svc.Name, address)
	}
	f.Reason, f.Message = d.why(&c)
	return f
}

// endpointNodes returns the nodes that have a usable endpoint of a Service for an address.
func endpointNodes(svc *decision.Service, ip netip.Addr) map[string]bool {
	nodes := map[string]bool{}
	for _, node := range svc.Endpoints[family.Of(ip)].Nodes {
		nodes[node] = true
	}
	return nodes
}

// alive reports whether a node exists and its speaker is alive.
func (d *Diagnoser) alive(node string) bool {
	_, known := d.snapshot.Nodes[node]
	return known && d.snapshot.Alive(node)
}

// notSelected says why no advertisement selects an address of a Service.
func (d *Diagnoser) notSelected(svc *decision.Service, address decision.Address) string {
	config := &d.snapshot.Config
	if len(config.L2)+len(config.BGP)+len(config.Interfaces) == 0 {
		return "there is no L2Advertisement and no BGPAdvertisement"
	}
	for i := range config.L2 {
		if config.L2[i].SelectsPool(address.Pool) {
			return selectorsOf("L2Advertisement", config.L2[i].Name, config.L2[i].Selection, svc)
		}
	}
	for i := range config.BGP {
		if config.BGP[i].SelectsPool(address.Pool) {
			return selectorsOf("BGPAdvertisement", config.BGP[i].Name, config.BGP[i].Selection, svc)
		}
	}
	for i := range config.Interfaces {
		if config.Interfaces[i].SelectsPool(address.Pool) {
			return selectorsOf("InterfaceAdvertisement", config.Interfaces[i].Name, config.Interfaces[i].Selection, svc)
		}
	}
	return "no advertisement selects pool " + address.Pool
}

// selectorsOf says which selectors of an advertisement keep a Service out.
func selectorsOf(kind, name string, s config.Selection, svc *decision.Service) string {
	if !s.SelectsNamespace(svc.Name.Namespace) {
		return fmt.Sprintf("namespaceSelectors of %s %s do not select namespace %s", kind, name, svc.Name.Namespace)
	}
	return fmt.Sprintf("serviceSelectors of %s %s do not select the Service", kind, name)
}

// hasAll reports whether a session has been sent all prefixes of a family that its node declares.
func (d *Diagnoser) hasAll(session decision.NodePeer, f family.Family) bool {
	if d.complete[session] == nil {
		d.complete[session] = map[family.Family]bool{}
	}
	all, known := d.complete[session][f]
	if !known {
		all = d.sent(session.Node, session.Peer, f) >= d.explainer.Declared(session, f)
		d.complete[session][f] = all
	}
	return all
}

// closest has the reasons from that which is closest to an announcement.
var closest = []decision.Reason{
	decision.Announced, decision.Withheld, decision.SessionDown, decision.AddressInUse, decision.Probing, decision.StartupHold,
	decision.Yielded, decision.NoNextHop, decision.FamilyNotCarried, decision.NoSession, decision.OtherHolder, decision.NoLiveSpeaker, decision.NoInterface,
	decision.NoLocalEndpoint, decision.NoReadyEndpoint, decision.PeerNotSelected, decision.NodeNotSelected, decision.NodeExcluded,
	decision.PeerNotOnNode, decision.ServiceNotSelected, decision.PoolNotSelected, decision.NoAdvertisement,
}

// why returns the one reason and message of an address that is not announced.
func (d *Diagnoser) why(c *collection) (reason, message string) {
	if i := slices.IndexFunc(closest, c.has); i >= 0 {
		return d.describe(c, closest[i])
	}
	return ipamv1alpha1.ServiceReasonNoLiveSpeaker, "there is no Node"
}

// describe words a reason.
func (d *Diagnoser) describe(c *collection, r decision.Reason) (reason, message string) {
	nodes, peers, detail := c.named(r)
	f := family.Of(c.address)
	switch r {
	case decision.Announced, decision.StartupHold, decision.Yielded:
		if len(peers) > 0 {
			return ipamv1alpha1.ServiceReasonPending, fmt.Sprintf("%s has not been sent to %s yet", c.address, Join(peers))
		}
		return ipamv1alpha1.ServiceReasonPending, fmt.Sprintf("node %s has not recorded yet that it answers for %s", nodes[0], c.address)
	case decision.Withheld:
		return ipamv1alpha1.ServiceReasonWithheld, fmt.Sprintf(
			"%s established and %s no %s prefix: see SpeakerStatus %s", sessions(peers, "is", "are"), plural(peers, "carries", "carry"), f, nodes[0])
	case decision.SessionDown:
		return ipamv1alpha1.ServiceReasonSessionDown, fmt.Sprintf("%s down %s", sessions(peers, "is", "are"), d.on(c, nodes))
	case decision.NoNextHop, decision.NoSession:
		return ipamv1alpha1.ServiceReasonNoSession, fmt.Sprintf("no node can have a BGP session with %s: %s", Join(peers), detail)
	case decision.FamilyNotCarried:
		return ipamv1alpha1.ServiceReasonFamilyNotCarried, fmt.Sprintf("spec.families of BGPPeer %s %s out %s",
			Join(peers), plural(peers, "leaves", "leave"), f)
	case decision.Probing:
		return ipamv1alpha1.ServiceReasonPending, fmt.Sprintf("node %s asks whether another machine has %s", nodes[0], c.address)
	case decision.AddressInUse:
		return ipamv1alpha1.ServiceReasonAddressInUse, fmt.Sprintf("another machine has %s: node %s hears %s", c.address, nodes[0], detail)
	case decision.OtherHolder:
		_, why := d.describe(c, c.ofHolder.Reason)
		return ipamv1alpha1.ServiceReasonOtherHolder, fmt.Sprintf(
			"node %s answers for the Service's other addresses and not for %s (%s)", c.holder, c.address, why)
	case decision.NoLiveSpeaker:
		return ipamv1alpha1.ServiceReasonNoLiveSpeaker, "no speaker is alive " + d.on(c, nodes) + ", where it could be announced"
	case decision.NoInterface:
		return ipamv1alpha1.ServiceReasonNoInterface, d.noInterface(c, nodes)
	case decision.NoLocalEndpoint:
		return ipamv1alpha1.ServiceReasonNoLocalEndpoint, fmt.Sprintf(
			"externalTrafficPolicy is Local, and no node that could announce %s has a ready endpoint", c.address)
	case decision.NoReadyEndpoint:
		return ipamv1alpha1.ServiceReasonNoReadyEndpoint, fmt.Sprintf("no ready %s endpoint", f)
	case decision.PeerNotSelected:
		return ipamv1alpha1.ServiceReasonNoPeer, "peers of no BGPAdvertisement name a BGPPeer of a node"
	case decision.NodeNotSelected:
		message = "nodeSelectors select no node"
		if excluded, _, _ := c.named(decision.NodeExcluded); len(excluded) > 0 {
			message += " that may announce (excluded: " + some(excluded) + ")"
		}
		return ipamv1alpha1.ServiceReasonNoNode, message
	case decision.NodeExcluded:
		return ipamv1alpha1.ServiceReasonNoNode, "nodes that are excluded announce nothing: " + some(nodes)
	case decision.PeerNotOnNode:
		return ipamv1alpha1.ServiceReasonNoNode, fmt.Sprintf("nodeSelectors of BGPPeer %s select no node", Join(peers))
	}
	return ipamv1alpha1.ServiceReasonNoAdvertisement, "no advertisement selects the address"
}

// noInterface says which interface is missing: one with a name that an advertisement wants, or one in the subnet.
func (d *Diagnoser) noInterface(c *collection, nodes []string) string {
	who := "no node has"
	if c.has(decision.NodeNotSelected) || c.has(decision.NodeExcluded) {
		who = "no node that nodeSelectors select has"
	}
	for _, node := range nodes {
		for _, i := range d.snapshot.Nodes[node].Interfaces {
			for _, p := range i.Prefixes {
				if p.Contains(c.address) { // so that its name must be wrong
					return fmt.Sprintf("%s an interface that matches the interfaces of the L2Advertisement (%s of %s is in the subnet of %s)",
						who, i.Name, node, c.address)
				}
			}
		}
	}
	return fmt.Sprintf("%s an interface in the subnet of %s; set interfaces of the L2Advertisement if routers know the way", who, c.address)
}

// on says on which nodes something is so: "on node1", or "on all 3 nodes" where it is so on every node that was not left out by a selector.
func (d *Diagnoser) on(c *collection, nodes []string) string {
	switch {
	case len(nodes) == 1:
		return "on node " + nodes[0]
	case len(nodes) == c.candidates:
		return fmt.Sprintf("on all %d nodes", len(nodes))
	}
	return "on " + some(nodes)
}

// sessions begins a sentence on the sessions with peers.
func sessions(peers []string, one, many string) string {
	return "BGP " + plural(peers, "session", "sessions") + " with " + Join(peers) + " " + plural(peers, one, many)
}

func plural(names []string, one, many string) string {
	if len(names) == 1 {
		return one
	}
	return many
}

// Join lists names in a sentence: "tor1", "tor1 and tor2", "tor1, tor2 and 3 more".
func Join(names []string) string {
	switch n := len(names); {
	case n == 0:
		return ""
	case n == 1:
		return names[0]
	case n <= 3:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return fmt.Sprintf("%s, %s and %d more", names[0], names[1], len(names)-2)
}

// some lists the first of many nodes.
func some(nodes []string) string { return plural(nodes, "node ", "nodes ") + Join(nodes) }

// Sum makes of the Findings of a Service whether all its addresses are announced, and the reason and message of that. Where its families
// differ, the message says which is which:
//
//	IPv4: 192.0.2.10 is announced on layer 2; IPv6: no ready IPv6 endpoint
//
// The reason is that of the first address that is not announced.
func Sum(findings []Finding) (announced bool, reason, message string) {
	announced = true
	var messages []string
	same := true
	for _, f := range findings {
		if !f.Announced && announced {
			announced, reason = false, f.Reason
		}
		same = same && f.Message == findings[0].Message
		messages = append(messages, fmt.Sprintf("%s: %s", family.Of(f.Address), f.Message))
	}
	switch {
	case len(findings) == 0:
		return false, ipamv1alpha1.ServiceReasonNotAllocated, "no address yet"
	case announced:
		reason = ipamv1alpha1.ServiceReasonAnnounced
	}
	if same {
		return announced, reason, findings[0].Message
	}
	return announced, reason, strings.Join(messages, "; ")
}
