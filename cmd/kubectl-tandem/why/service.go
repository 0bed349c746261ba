// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Engine explains the Services of one State. It works out what they have in common once.
type Engine struct {
	state     *cluster.State
	explainer *decision.Explainer
	services  map[types.NamespacedName]*corev1.Service
	speakers  map[string]*v1alpha1.SpeakerStatus
	claims    map[netip.Addr]*networkingv1.IPAddress // of any manager
	// Prober asks speakers; nil asks nobody.
	Prober Prober
	// Port is the TCP port to probe, 0 for the first of the Service.
	Port uint16
}

// New returns an Engine of a State that asks nobody.
func New(s *cluster.State) *Engine {
	e := &Engine{
		state: s, explainer: decision.NewExplainer(s.Snapshot), services: map[types.NamespacedName]*corev1.Service{},
		speakers: map[string]*v1alpha1.SpeakerStatus{}, claims: map[netip.Addr]*networkingv1.IPAddress{},
	}
	for i := range s.Services.Items {
		svc := &s.Services.Items[i]
		e.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = svc
	}
	for i := range s.Speakers.Items {
		e.speakers[s.Speakers.Items[i].Name] = &s.Speakers.Items[i]
	}
	for i := range s.Claims.Items {
		if ip, err := netip.ParseAddr(s.Claims.Items[i].Name); err == nil {
			e.claims[ip] = &s.Claims.Items[i]
		}
	}
	return e
}

// Service explains a Service, and false if there is none of type LoadBalancer with the name.
func (e *Engine) Service(ctx context.Context, name types.NamespacedName) (*Answer, bool) {
	svc := e.services[name]
	if svc == nil {
		return nil, false
	}
	a := &Answer{Kind: "Service", Name: name.String()}
	var observed *decision.Service
	for i := range e.state.Snapshot.Services {
		if e.state.Snapshot.Services[i].Name == name {
			observed = &e.state.Snapshot.Services[i]
		}
	}
	was := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAnnounced)
	findings := e.state.Diagnoser.Service(name, was != nil && was.Status == metav1.ConditionTrue)
	for _, f := range family.All {
		asked := slices.Contains(svc.Spec.IPFamilies, corev1.IPFamily(f))
		of := slices.DeleteFunc(slices.Clone(findings), func(x diagnosis.Finding) bool { return family.Of(x.Address) != f })
		if !asked && len(of) == 0 {
			a.Chains = append(a.Chains, notAsked(svc, f))
			continue
		}
		if len(of) == 0 {
			a.Chains = append(a.Chains, e.withoutAddress(svc, f))
			continue
		}
		for _, finding := range of {
			c := Chain{Family: f, Address: finding.Address.String()}
			e.withAddress(ctx, &c, svc, observed, finding)
			a.Chains = append(a.Chains, c)
		}
	}
	return a, true
}

// notAsked is the chain of a family that a Service does not have.
func notAsked(svc *corev1.Service, f family.Family) Chain {
	c := Chain{Family: f}
	policy := corev1.IPFamilyPolicySingleStack
	if svc.Spec.IPFamilyPolicy != nil {
		policy = *svc.Spec.IPFamilyPolicy
	}
	remedy := ""
	if policy == corev1.IPFamilyPolicySingleStack {
		remedy = "ipFamilyPolicy: PreferDualStack asks for both families, if the cluster has both"
	}
	c.unknown(AskedFor,
		fmt.Sprintf("the Service does not ask for %s: ipFamilyPolicy is %s, ipFamilies %v", f, policy, svc.Spec.IPFamilies), remedy)
	return c
}

// settled is after what time the controller manager has said something of a Service.
const settled = time.Minute

// askedFor adds the hop AskedFor, and reports whether Tandem is to serve the Service.
func (e *Engine) askedFor(c *Chain, svc *corev1.Service) bool {
	marked := svc.Annotations[ipamv1alpha1.AnnotationFinalizer] != "" // Services of --load-balancer-class are, too.
	untouched := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated) == nil && !marked
	switch {
	case observation.OfOtherClass(svc) && !marked:
		class := *svc.Spec.LoadBalancerClass
		c.fault(AskedFor, fmt.Sprintf("spec.loadBalancerClass is %s: the Service is another provider's", class),
			"a class cannot be changed. Where that provider is gone, the argument --load-balancer-class="+class+" of the controller manager has "+
				"Tandem serve it. Otherwise delete the Service, and create it with loadBalancerClass: "+ipamv1alpha1.LoadBalancerClass+", or "+
				"without a class")
		return false
	case svc.DeletionTimestamp != nil:
		c.fault(AskedFor, "the Service is being deleted, and waits for "+list(svc.Finalizers), "see what keeps the finalizers: kubectl "+
			"get service -o yaml")
		return false
	case untouched && c.Address == "" && e.state.Now.Sub(svc.CreationTimestamp.Time) > settled:
		c.fault(AskedFor, "the controller manager has taken no notice of the Service",
			"kubectl get pods -n "+e.state.System+": does it run? With --load-balancer-class-only a Service needs loadBalancerClass: "+
				ipamv1alpha1.LoadBalancerClass)
		return false
	}
	policy := ""
	if svc.Spec.IPFamilyPolicy != nil {
		policy = fmt.Sprintf(" (%s)", *svc.Spec.IPFamilyPolicy)
	}
	var families []string
	for _, f := range svc.Spec.IPFamilies {
		families = append(families, string(f))
	}
	c.well(AskedFor, "type LoadBalancer, %s%s", list(families), policy)
	return true
}

// withoutAddress is the chain of a family of which a Service asks for an address and publishes none. Only the controller manager knows why: its
// condition says it.
func (e *Engine) withoutAddress(svc *corev1.Service, f family.Family) Chain {
	c := Chain{Family: f}
	if !e.askedFor(&c, svc) {
		return c
	}
	allocated := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated)
	if allocated == nil {
		c.unknown(Pool, "no address yet, and no reason: the Service is new", "ask again in a minute")
		return c
	}
	if allocated.Reason == ipamv1alpha1.ServiceReasonStatusOverwritten {
		c.fault(Status, allocated.Message, remedyFor(Status, allocated.Reason, allocated.Message))
		return c
	}
	var reasons []string
	for part := range strings.SplitSeq(allocated.Message, "; ") {
		if !strings.Contains(part, " from pool ") {
			reasons = append(reasons, part)
		}
	}
	text := strings.Join(reasons, "; ")
	if text == "" {
		text = "no address of " + string(f) + " yet"
	}
	if preferred := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack; preferred &&
		len(svc.Status.LoadBalancer.Ingress) > 0 {
		c.unknown(Pool, text+"; PreferDualStack goes on without it", remedyFor(Pool, allocated.Reason, text))
		return c
	}
	c.fault(Pool, text, remedyFor(Pool, allocated.Reason, text))
	return c
}

// withAddress is the chain of an address that a Service has.
func (e *Engine) withAddress(ctx context.Context, c *Chain, svc *corev1.Service, observed *decision.Service, finding diagnosis.Finding) {
	f := family.Of(finding.Address)
	if !e.askedFor(c, svc) || !e.owned(c, svc, observed, finding) {
		return
	}
	i := slices.IndexFunc(observed.Addresses, func(a decision.Address) bool { return a.IP == finding.Address })
	address := observed.Addresses[i]
	hop := hopOf(finding)
	endpoints := observed.Endpoints[f]
	if !endpoints.Any && hop != Advertisement {
		// The record of a holder outlives the last endpoint.
		hop, finding.Announced = Endpoint, false
		finding.Reason, finding.Message = ipamv1alpha1.ServiceReasonNoReadyEndpoint, fmt.Sprintf("no ready %s endpoint", f)
	}
	broken := func(at Hop) bool {
		if finding.Announced || hop != at {
			return false
		}
		text := finding.Message + e.errors(at, finding)
		c.fault(at, text, strings.ReplaceAll(remedyFor(at, finding.Reason, text), "service-name=NAME", "service-name="+svc.Name))
		return true
	}
	if broken(Advertisement) {
		return
	}
	layer2, toPeers := e.explainer.Selected(svcName(svc), address)
	c.well(Advertisement, "%s", e.advertisements(observed, address))
	if broken(Endpoint) {
		return
	}
	c.well(Endpoint, "%s", endpointText(observed, f))
	if broken(Holder) || broken(Session) || broken(Route) {
		return
	}
	w := way{layer2: layer2}
	if layer2 {
		w.nodes, w.interfaces = e.layer2(ctx, c, observed, address)
	}
	if toPeers && c.Fault() == nil {
		w.peers = e.byBGP(ctx, c, observed, address, !layer2)
		for _, peer := range sortedKeys(w.peers) {
			w.nodes = append(w.nodes, w.peers[peer]...)
		}
	}
	if finding.Way == diagnosis.InKernel {
		c.unknown(Route, finding.Message, "ask the routing software of the node: vtysh -c 'show bgp summary', birdc show protocols")
	}
	if c.Fault() == nil {
		e.forwarding(ctx, c, svc, address.IP, w)
	}
}

// owned adds the hops Pool, Claim and Status, and reports whether the address is the Service's.
func (e *Engine) owned(c *Chain, svc *corev1.Service, observed *decision.Service, finding diagnosis.Finding) bool {
	ip := finding.Address
	i := slices.IndexFunc(observed.Addresses, func(a decision.Address) bool { return a.IP == ip })
	if i < 0 {
		return e.unclaimed(c, svc, ip)
	}
	pool := observed.Addresses[i].Pool
	switch set, exists := e.state.Snapshot.Config.Pools[pool]; {
	case !exists:
		c.well(Pool, "%s, which does not exist any more; the Service keeps the address", pool)
	case !set.Contains(ip):
		c.well(Pool, "%s, which has lost the address; the Service keeps it", pool)
	default:
		c.well(Pool, "%s", pool)
	}
	c.well(Claim, "IPAddress %s", ip)
	announced := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAnnounced)
	published := slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := netip.ParseAddr(in.IP)
		return err == nil && a == ip
	})
	switch {
	case announced != nil && announced.Reason == ipamv1alpha1.ServiceReasonStatusOverwritten:
		c.fault(Status, announced.Message, remedyFor(Status, announced.Reason, announced.Message))
		return false
	case !published:
		c.fault(Status, "the status of the Service shows other addresses: another controller has written them",
			remedyFor(Status, ipamv1alpha1.ServiceReasonStatusOverwritten, ""))
		return false
	}
	c.well(Status, "published")
	return true
}

// unclaimed adds the hops of an address that a Service publishes without a claim of ours. One of a pool has lost its claim; any other was written by
// another controller.
func (e *Engine) unclaimed(c *Chain, svc *corev1.Service, ip netip.Addr) bool {
	for name, set := range e.state.Snapshot.Config.Pools {
		if !set.Contains(ip) {
			continue
		}
		c.well(Pool, "%s", name)
		text := fmt.Sprintf("no IPAddress of Tandem stands for %s", ip)
		if foreign := e.claims[ip]; foreign != nil {
			text = fmt.Sprintf("the IPAddress %s is managed by %q", ip, foreign.Labels[networkingv1.LabelManagedBy])
		}
		c.fault(Claim, text, remedyFor(Claim, ipamv1alpha1.ServiceReasonNoClaim, text))
		return false
	}
	text := fmt.Sprintf("the status of the Service shows %s, which is in no pool: another controller has written it", ip)
	reason := ipamv1alpha1.ServiceReasonStatusOverwritten
	if announced := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAnnounced); announced != nil &&
		announced.Reason == reason {
		text = announced.Message
	} else if allocated := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated); allocated != nil &&
		allocated.Reason == ipamv1alpha1.ServiceReasonAddressInNoPool {
		text, reason = fmt.Sprintf("the status of the Service shows %s, which Tandem has not given and no pool holds", ip), allocated.Reason
	}
	c.fault(Status, text, remedyFor(Status, reason, text))
	return false
}

// hopOf returns the hop that a finding is about.
func hopOf(f diagnosis.Finding) Hop {
	switch f.Reason {
	case ipamv1alpha1.ServiceReasonNoClaim:
		return Claim
	case ipamv1alpha1.ServiceReasonNoAdvertisement:
		return Advertisement
	case ipamv1alpha1.ServiceReasonNoNode:
		if strings.Contains(f.Message, "excluded") {
			return Holder
		}
		return Advertisement
	case ipamv1alpha1.ServiceReasonNoReadyEndpoint, ipamv1alpha1.ServiceReasonNoLocalEndpoint:
		return Endpoint
	case ipamv1alpha1.ServiceReasonNoPeer, ipamv1alpha1.ServiceReasonNoSession, ipamv1alpha1.ServiceReasonFamilyNotCarried,
		ipamv1alpha1.ServiceReasonSessionDown:
		return Session
	case ipamv1alpha1.ServiceReasonWithheld:
		return Route
	case ipamv1alpha1.ServiceReasonPending:
		if strings.Contains(f.Message, "has not been sent") {
			return Route
		}
	}
	return Holder
}

// errors returns what speakers say of the sessions that a finding is about, each error once.
func (e *Engine) errors(at Hop, f diagnosis.Finding) string {
	if at != Session && at != Route {
		return ""
	}
	said := map[string][]string{}
	var texts []string
	for node, status := range e.speakers {
		for _, session := range status.Status.BGPSessions {
			if session.LastError == "" || session.State == v1alpha1.BGPEstablished && at == Session || !strings.Contains(f.Message, session.Peer) {
				continue
			}
			if said[session.LastError] == nil {
				texts = append(texts, session.LastError)
			}
			said[session.LastError] = append(said[session.LastError], node)
		}
	}
	slices.Sort(texts)
	var text strings.Builder
	for _, t := range texts[:min(len(texts), 2)] {
		fmt.Fprintf(&text, "; %s: %s", list(said[t]), t)
	}
	return text.String()
}

// advertisements names those that select an address.
func (e *Engine) advertisements(svc *decision.Service, address decision.Address) string {
	configuration := &e.state.Snapshot.Config
	var names []string
	for i := range configuration.L2 {
		if ad := &configuration.L2[i]; ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) {
			names = append(names, "L2Advertisement "+ad.Name)
		}
	}
	for i := range configuration.BGP {
		if ad := &configuration.BGP[i]; ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) {
			names = append(names, "BGPAdvertisement "+ad.Name)
		}
	}
	for i := range configuration.Interfaces {
		if ad := &configuration.Interfaces[i]; ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) {
			names = append(names, "InterfaceAdvertisement "+ad.Name)
		}
	}
	if len(names) == 0 {
		return "that of a Service which shares the address"
	}
	return list(names)
}

// endpointText says where the endpoints of a family are.
func endpointText(svc *decision.Service, f family.Family) string {
	endpoints := svc.Endpoints[f]
	text := fmt.Sprintf("ready on %s", list(endpoints.Nodes))
	if len(endpoints.Nodes) == 0 {
		text = "ready, on no node of the cluster"
	}
	if svc.Local {
		text += "; externalTrafficPolicy is Local"
	}
	return text
}

// layer2 adds the hops of layer 2, and returns the node that gets the traffic, and the interfaces on which it answers.
func (e *Engine) layer2(ctx context.Context, c *Chain, svc *decision.Service, address decision.Address) (nodes, interfaces []string) {
	record := e.record(svc.Name)
	if record == nil || record.Status.Node == "" || !slices.Contains(record.Status.Addresses, address.IP.String()) {
		_, x := e.explainer.Holder(svc.Name, address)
		c.unknown(Holder, fmt.Sprintf("no node answers on layer 2 (%s)", x.Reason), "")
		return nil, nil
	}
	holder, text := record.Status.Node, fmt.Sprintf("%s on %s", record.Status.Node, list(record.Status.Interfaces))
	if record.Status.Since != nil {
		text += " since " + since(e.state.Now, record.Status.Since.Time)
	}
	if status := e.speakers[holder]; status != nil {
		cut := meta.FindStatusCondition(status.Status.Conditions, v1alpha1.ConditionIsolatedFromLAN)
		if cut != nil && cut.Status == metav1.ConditionTrue {
			c.fault(Holder, text+": "+cut.Message, "look for the cable, the switch port and its VLAN")
			return nil, nil
		}
	}
	c.well(Holder, "%s", text)
	iface := ""
	if len(record.Status.Interfaces) > 0 {
		iface = record.Status.Interfaces[0]
	}
	e.neighbour(ctx, c, address.IP, holder, iface)
	return []string{holder}, record.Status.Interfaces
}

// record returns the L2Announcement of a Service, nil if there is none.
func (e *Engine) record(name types.NamespacedName) *v1alpha1.L2Announcement {
	for i := range e.state.Announcements.Items {
		if a := &e.state.Announcements.Items[i]; a.Service.Namespace == name.Namespace && a.Service.Name == name.Name {
			return a
		}
	}
	return nil
}

// neighbour adds the hop Neighbour by what speakers have found out by themselves, and by a probe if there is one.
func (e *Engine) neighbour(ctx context.Context, c *Chain, ip netip.Addr, holder, iface string) {
	for _, node := range e.nodeNames() {
		status := e.speakers[node]
		if status == nil {
			continue
		}
		k := meta.FindStatusCondition(status.Status.Conditions, v1alpha1.ConditionKernelAnswers)
		if node != holder && k != nil && k.Status == metav1.ConditionTrue && strings.Contains(k.Message, ip.String()+" on ") {
			c.fault(Neighbour, fmt.Sprintf("two nodes answer: %s, and the kernel of %s", holder, node), k.Message)
			return
		}
	}
	if e.Prober != nil {
		e.probeNeighbour(ctx, c, ip, holder, iface)
		return
	}
	for _, node := range e.nodeNames() {
		status := e.speakers[node]
		if status == nil || !e.state.Snapshot.Alive(node) {
			continue
		}
		isIt := func(u v1alpha1.UnansweredAddress) bool { return u.Address == ip.String() && u.Node == holder }
		if slices.ContainsFunc(status.Status.Unanswered, isIt) {
			c.fault(Neighbour, fmt.Sprintf("node %s asks for the address on the LAN, and %s does not answer", node, holder), remedySilent)
			return
		}
	}
	c.unknown(Neighbour, "not asked", "--probe asks the LAN, from the other nodes")
}

// byBGP adds the hops of BGP, and returns the peers that send to nodes, with the nodes. Where layer 2 announces the address too, BGP is at fault by
// itself.
func (e *Engine) byBGP(ctx context.Context, c *Chain, svc *decision.Service, address decision.Address, alone bool) (peers map[string][]string) {
	f := family.Of(address.IP)
	peers = map[string][]string{}
	var hops, down []string
	for x := range e.explainer.ExplainAddress(svc.Name, address) {
		if x.Peer == "" {
			continue
		}
		switch x.Reason {
		case decision.Announced:
			peers[x.Peer] = append(peers[x.Peer], x.Node)
			hops = append(hops, e.nextHop(x.Node, x.Peer, f))
		case decision.SessionDown:
			down = append(down, x.Peer+" on "+x.Node+": "+x.Detail)
		}
	}
	var texts []string
	for _, peer := range sortedKeys(peers) {
		texts = append(texts, peer+" on "+list(peers[peer]))
	}
	switch {
	case len(texts) == 0 && alone:
		c.unknown(Session, "no session carries the address", "kubectl tandem why peer/NAME")
		return nil
	case len(texts) == 0:
		c.fault(Session, "no session carries the address: "+strings.Join(down[:min(len(down), 2)], "; "),
			remedyFor(Session, "", strings.Join(down, "; ")))
		return nil
	}
	text := "established: " + strings.Join(texts, "; ")
	if len(down) > 0 {
		text += fmt.Sprintf("; down: %s", strings.Join(down[:min(len(down), 2)], "; "))
	}
	c.well(Session, "%s", text)
	hops = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(hops))), func(h string) bool { return h == "" })
	if e.Prober != nil {
		e.probeRoutes(ctx, c, address.IP, peers)
	} else {
		c.well(Route, "all prefixes of the sessions are sent, next hops %s", list(hops))
	}
	if c.Fault() != nil {
		return nil
	}
	if far := e.distant(peers); len(far) > 0 {
		c.unknown(Router, list(far)+": a router that does not expect several hops keeps the route, and does not use it, since the next hop is on no "+
			"link of its own", remedyMultihop)
		return peers
	}
	c.unknown(Router, "what a router does with a route it does not say", fmt.Sprintf("on the router: show bgp %s unicast %s",
		strings.ToLower(string(f)), netip.PrefixFrom(address.IP, address.IP.BitLen())))
	return peers
}

// nextHop returns the next hop of a family that a session of a node tells.
func (e *Engine) nextHop(node, peer string, f family.Family) string {
	status := e.speakers[node]
	if status == nil {
		return ""
	}
	for _, session := range status.Status.BGPSessions {
		for _, text := range session.NextHops {
			if ip, err := netip.ParseAddr(text); err == nil && session.Peer == peer && family.Of(ip) == f {
				return text
			}
		}
	}
	return ""
}

// nodeNames returns the names of the nodes, sorted.
func (e *Engine) nodeNames() []string { return sortedKeys(e.state.Snapshot.Nodes) }

func svcName(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}

// since says when something began: the time of a day, or the day too.
func since(now, t time.Time) string {
	if now.Sub(t) < 24*time.Hour {
		return t.UTC().Format("15:04:05")
	}
	return t.UTC().Format("2006-01-02 15:04")
}
