// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Address explains an address: the Services that have it, each with its chain to the address alone; or why no Service has it.
func (e *Engine) Address(ctx context.Context, ip netip.Addr) []*Answer {
	var answers []*Answer
	for _, svc := range e.state.Snapshot.Services {
		has := slices.Contains(svc.Unclaimed, ip) || slices.ContainsFunc(svc.Addresses, func(a decision.Address) bool { return a.IP == ip })
		if !has {
			continue
		}
		if a, ok := e.Service(ctx, svc.Name); ok {
			a.Chains = slices.DeleteFunc(a.Chains, func(c Chain) bool { return c.Address != ip.String() })
			answers = append(answers, a)
		}
	}
	if len(answers) > 0 {
		slices.SortFunc(answers, func(a, b *Answer) int { return strings.Compare(a.Name, b.Name) })
		return answers
	}
	c := Chain{Family: family.Of(ip), Address: ip.String()}
	pools := []string{}
	for _, name := range sortedKeys(e.state.Snapshot.Config.Pools) {
		if e.state.Snapshot.Config.Pools[name].Contains(ip) {
			pools = append(pools, name)
		}
	}
	claim := e.claims[ip]
	switch {
	case len(pools) == 0 && claim == nil:
		c.fault(Pool, "the address is in no pool, and no Service has it", "kubectl tandem pools shows the pools")
	case claim != nil && claim.Labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy:
		c.fault(Claim, fmt.Sprintf("the IPAddress is managed by %q: it is no load balancer's", claim.Labels[networkingv1.LabelManagedBy]),
			"take the address out of the pool, or free it from its owner")
	case claim != nil:
		c.unknown(Claim, claimText(claim), "")
	default:
		c.well(Pool, "%s", list(pools))
		text := e.reserved(ip)
		if text == "" {
			text = "no Service has the address: it is free"
		}
		c.unknown(Claim, text, "")
	}
	return []*Answer{{Kind: "Address", Name: ip.String(), Chains: []Chain{c}}}
}

// claimText says what a claim of ours says which no Service publishes.
func claimText(claim *networkingv1.IPAddress) string {
	var left map[string]string
	if json.Unmarshal([]byte(claim.Annotations[ipamv1alpha1.AnnotationLeft]), &left) == nil && len(left) > 0 {
		return fmt.Sprintf("kept for a Service of the same name as reuseAfter of pool %s says: %s left it at %s",
			claim.Labels[ipamv1alpha1.LabelAddressPool], list(sortedKeys(left)), left[sortedKeys(left)[0]])
	}
	if ref := claim.Spec.ParentRef; ref != nil {
		return fmt.Sprintf("claimed for Service %s/%s, which does not publish it yet", ref.Namespace, ref.Name)
	}
	return "claimed, and no Service publishes it"
}

// reserved says which node has an address, or uses it as its gateway, "" if none does.
func (e *Engine) reserved(ip netip.Addr) string {
	for _, node := range e.nodeNames() {
		status := e.speakers[node]
		if status == nil {
			continue
		}
		if slices.Contains(status.Status.DefaultGateways, ip.String()) {
			return "reserved: it is a gateway of node " + node
		}
		for _, i := range status.Status.Interfaces {
			if slices.ContainsFunc(i.Addresses, func(text string) bool { p, err := netip.ParsePrefix(text); return err == nil && p.Addr() == ip }) {
				return fmt.Sprintf("reserved: it is an address of node %s, on %s", node, i.Name)
			}
		}
	}
	return ""
}

// Node explains what a node announces, and why not more; false if there is no such Node.
func (e *Engine) Node(name string) (*Answer, bool) {
	node, exists := e.state.Snapshot.Nodes[name]
	if !exists {
		return nil, false
	}
	c := Chain{}
	a := func() (*Answer, bool) { return &Answer{Kind: "Node", Name: name, Chains: []Chain{c}}, true }
	status := e.speakers[name]
	switch {
	case status == nil:
		c.fault(Speaker, "no speaker has run here", "kubectl get pods -n "+e.state.System+" -o wide: do tolerations and nodeSelector of "+
			"the speaker leave the node out?")
		return a()
	case !e.state.Snapshot.Alive(name):
		c.fault(Speaker, "the speaker is not alive, as other speakers say", "kubectl get pods -n "+e.state.System+" -o wide "+
			"--field-selector spec.nodeName="+name)
		return a()
	}
	e.speakerOf(&c, status)
	if node.Excluded {
		reason := "drained or cordoned, as its speaker says"
		for i := range e.state.Nodes.Items {
			if e.state.Nodes.Items[i].Name == name {
				if why, _ := observation.Exclusion(&e.state.Nodes.Items[i], observation.ExclusionRules{}); why != "" {
					reason = why
				}
			}
		}
		c.fault(Excluded, reason, "kubectl tandem undrain "+name+", or remove the label, the annotation or the taint; the speaker's flag "+
			"--ignore-exclude-label ignores the label")
	} else if _, labelled := node.Labels[corev1.LabelNodeExcludeBalancers]; labelled && observation.IgnoresLabel(status) {
		c.well(Excluded, "the label %s is ignored: the speaker has --ignore-exclude-label", corev1.LabelNodeExcludeBalancers)
	} else {
		c.well(Excluded, "nothing excludes the node")
	}
	for _, i := range status.Status.Interfaces {
		if i.Usable {
			c.well(Link, "%s %s (%s)", i.Name, strings.Join(i.Addresses, " "), i.MAC)
		} else {
			c.unknown(Link, fmt.Sprintf("%s announces nothing: %s", i.Name, i.Reason), "")
		}
	}
	e.announces(&c, name)
	for _, session := range status.Status.BGPSessions {
		e.session(&c, name, session)
	}
	return a()
}

// speakerOf adds what the conditions of a speaker say.
func (e *Engine) speakerOf(c *Chain, status *v1alpha1.SpeakerStatus) {
	c.well(Speaker, "alive")
	for _, bad := range []struct {
		condition string
		status    metav1.ConditionStatus
		remedy    string
	}{
		{v1alpha1.ConditionReady, metav1.ConditionFalse, "kubectl logs of the speaker; a firewall or a missing right where layer 2 has " +
			"failed"},
		{v1alpha1.ConditionPeersReachable, metav1.ConditionFalse, "open port 7573, TCP and UDP, between all nodes"},
		{v1alpha1.ConditionIsolatedFromLAN, metav1.ConditionTrue, "look for the cable, the switch port and its VLAN"},
		{v1alpha1.ConditionKernelAnswers, metav1.ConditionTrue, "take the addresses off the interface; kube-proxy in IPVS mode needs " +
			"strictARP"},
		{v1alpha1.ConditionOtherRouter, metav1.ConditionTrue, "docs/troubleshooting.md says what to do beside another BGP program"},
		{v1alpha1.ConditionAddressesAnswer, metav1.ConditionFalse, "kubectl tandem why ADDRESS --probe"},
	} {
		found := meta.FindStatusCondition(status.Status.Conditions, bad.condition)
		if found == nil || found.Status != bad.status {
			continue
		}
		if found.Reason == v1alpha1.ReasonListensForBGP || found.Reason == v1alpha1.ReasonNoSession {
			c.unknown(Speaker, found.Message, bad.remedy)
			continue
		}
		c.fault(Speaker, found.Message, bad.remedy)
	}
}

// announces adds what a node holds on layer 2, and why it does not answer for the rest.
func (e *Engine) announces(c *Chain, node string) {
	var held []string
	reasons := map[decision.Reason]int{}
	known := map[decision.Alike]decision.Reason{}
	for i := range e.state.Snapshot.Services {
		svc := &e.state.Snapshot.Services[i]
		for _, address := range svc.Addresses {
			if layer2, _ := e.explainer.Selected(svc.Name, address); !layer2 {
				continue
			}
			if svc.Holder == node {
				held = append(held, address.IP.String())
				continue
			}
			reasons[e.candidate(svc.Name, address, node, known)]++
		}
	}
	if len(held) > 0 {
		text := strings.Join(held[:min(len(held), 5)], ", ")
		if more := len(held) - 5; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		c.well(Layer2, "holds %d %s: %s", len(held), verb(len(held), "address", "addresses"), text)
	} else {
		c.unknown(Layer2, "holds no address", "")
	}
	for _, reason := range sortedKeys(reasons) {
		text := map[decision.Reason]string{
			decision.Announced: "could hold %d more, which other nodes hold", decision.NodeNotSelected: "is not selected for %d",
			decision.NodeExcluded: "is excluded, also from %d", decision.NoInterface: "has no interface in the subnet of %d",
			decision.NoReadyEndpoint:    "waits for an endpoint of %d",
			decision.NoLocalEndpoint:    "has no endpoint of %d with externalTrafficPolicy Local",
			decision.ServiceNotSelected: "no L2Advertisement selects %d", decision.PoolNotSelected: "no L2Advertisement selects %d",
		}[reason]
		if text == "" {
			text = string(reason) + ": %d"
		}
		c.unknown(Layer2, fmt.Sprintf(text, reasons[reason]), "")
	}
}

// candidate returns why a node could not hold an address, Announced if it could. What is alike is explained once.
func (e *Engine) candidate(
	name types.NamespacedName, address decision.Address, node string, known map[decision.Alike]decision.Reason,
) decision.Reason {
	alike, ok := e.explainer.Alike(name, address)
	if reason, found := known[alike]; ok && found {
		return reason
	}
	for x := range e.explainer.ExplainAlike(name, address) {
		if x.Node == node && x.Peer == "" {
			if ok {
				known[alike] = x.Reason
			}
			return x.Reason
		}
	}
	return decision.NoAdvertisement
}

// session adds what is known of the session of a node with a peer.
func (e *Engine) session(c *Chain, node string, s v1alpha1.BGPSession) {
	text := fmt.Sprintf("%s on %s: %s, %d IPv4 and %d IPv6 prefixes sent", s.Peer, node, s.State, s.AdvertisedIPv4, s.AdvertisedIPv6)
	if s.BFD != "" {
		text += ", BFD " + string(s.BFD)
	}
	switch {
	case s.State != v1alpha1.BGPEstablished:
		if s.LastError != "" {
			text += ": " + s.LastError
		}
		c.fault(Session, text, remedyFor(Session, "", s.LastError))
	case s.Withheld > 0:
		c.fault(Session, fmt.Sprintf("%s, %d withheld: %s", text, s.Withheld, s.LastError), remedyFor(Route, "", s.LastError))
	default:
		c.well(Session, "%s", text)
	}
}

// Peer explains the sessions with a BGPPeer; false if there is none of the name.
func (e *Engine) Peer(name string) (*Answer, bool) {
	objects := e.state.Config.BGPPeers
	i := slices.IndexFunc(objects, func(p v1alpha1.BGPPeer) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	c := Chain{}
	compiled := slices.IndexFunc(e.state.Snapshot.Config.Peers, func(p config.Peer) bool { return p.Name == name })
	ready := meta.FindStatusCondition(objects[i].Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready != nil && ready.Status == metav1.ConditionFalse:
		c.fault(Object, ready.Message, "correct the BGPPeer")
	case compiled < 0:
		c.fault(Object, "the BGPPeer is not in use", "kubectl describe bgppeer "+name)
	default:
		p := e.state.Snapshot.Config.Peers[compiled]
		c.well(Object, "AS %d, families %v", p.Peer.PeerASN, familiesOf(p.Peer))
	}
	if compiled >= 0 {
		e.peerOnNodes(&c, &e.state.Snapshot.Config.Peers[compiled])
	}
	return &Answer{Kind: "BGPPeer", Name: name, Chains: []Chain{c}}, true
}

// peerOnNodes adds a hop for each node.
func (e *Engine) peerOnNodes(c *Chain, peer *config.Peer) {
	var notSelected []string
	for _, node := range e.nodeNames() {
		if !peer.Nodes.Matches(e.state.Snapshot.Nodes[node].Labels) {
			notSelected = append(notSelected, node)
			continue
		}
		status := e.speakers[node]
		if status == nil || !e.state.Snapshot.Alive(node) {
			c.fault(Session, peer.Name+" on "+node+": no speaker is alive there", "kubectl tandem why node/"+node)
			continue
		}
		i := slices.IndexFunc(status.Status.BGPSessions, func(s v1alpha1.BGPSession) bool { return s.Peer == peer.Name })
		if i < 0 {
			c.fault(Session, peer.Name+" on "+node+": the speaker reports no session", "kubectl tandem why node/"+node)
			continue
		}
		e.session(c, node, status.Status.BGPSessions[i])
	}
	if len(notSelected) > 0 {
		c.unknown(Session, "nodeSelectors leave out "+list(notSelected), "")
	}
}

func familiesOf(p bgp.Peer) []corev1.IPFamily {
	var all []corev1.IPFamily
	for _, f := range p.Families {
		all = append(all, corev1.IPFamily(f))
	}
	return all
}
