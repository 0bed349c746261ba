// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Advertisements returns the condition Effective of each advertisement of the snapshot: whether there is a pool, a node with a live speaker,
// and an interface or an established session to announce by. Messages stay the same while nodes come and go. An advertisement that
// the configuration leaves out as invalid has no such condition.
func Advertisements(s *decision.Snapshot) map[config.Key]metav1.Condition {
	conditions := map[config.Key]metav1.Condition{}
	say := func(kind, name, reason, message string) {
		c := metav1.Condition{Type: v1alpha1.ConditionEffective, Status: metav1.ConditionFalse, Reason: reason, Message: message}
		if reason == v1alpha1.ReasonEffective {
			c.Status = metav1.ConditionTrue
		}
		conditions[config.Key{Kind: kind, Name: name}] = c
	}
	for i := range s.Config.L2 {
		ad := &s.Config.L2[i]
		pools, nodes, reason, message := selectedBy(s, ad.Selection)
		if reason == v1alpha1.ReasonEffective && !hasInterface(s, ad, nodes, pools) {
			reason = v1alpha1.ReasonNoInterface
			message = "no selected node has an interface in the subnet of a selected pool; set interfaces if routers know the way"
			if len(ad.Interfaces) > 0 {
				message = fmt.Sprintf("no selected node has a usable interface whose name matches interfaces %q", ad.Interfaces)
			}
		}
		if reason == v1alpha1.ReasonEffective && !hasInterface(s, ad, alive(s, nodes), pools) {
			reason, message = v1alpha1.ReasonNoLiveSpeaker, noLiveSpeaker
		}
		say("L2Advertisement", ad.Name, reason, message)
	}
	for i := range s.Config.BGP {
		ad := &s.Config.BGP[i]
		_, nodes, reason, message := selectedBy(s, ad.Selection)
		if reason == v1alpha1.ReasonEffective {
			reason, message = sessionsOf(s, ad, nodes)
		}
		say("BGPAdvertisement", ad.Name, reason, message)
	}
	for i := range s.Config.Interfaces {
		ad := &s.Config.Interfaces[i]
		_, nodes, reason, message := selectedBy(s, ad.Selection)
		if reason == v1alpha1.ReasonEffective && len(alive(s, nodes)) == 0 {
			reason, message = v1alpha1.ReasonNoLiveSpeaker, noLiveSpeaker
		} else if reason == v1alpha1.ReasonEffective &&
			!slices.ContainsFunc(alive(s, nodes), func(node string) bool { return s.Nodes[node].Redistributes }) {
			reason = v1alpha1.ReasonNotPermitted
			message = "the speakers of the selected nodes may not change the kernel's routes: set the value speaker.kernelRoutes of the chart, " +
				"or add the component manifests/kernel-routes"
		}
		say("InterfaceAdvertisement", ad.Name, reason, message)
	}
	return conditions
}

// selectedBy returns the addresses of the pools and the nodes that an advertisement selects, or the reason why there is none of either, or no namespace.
func selectedBy(
	s *decision.Snapshot, selected config.Selection,
) (pools []*netipx.IPSet, nodes []string, reason, message string) {
	for name, addresses := range s.Config.Pools {
		if selected.SelectsPool(name) {
			pools = append(pools, addresses)
		}
	}
	if len(pools) == 0 {
		return nil, nil, v1alpha1.ReasonNoPool, "addressPools and addressPoolSelectors select no AddressPool"
	}
	if selected.Namespaces != nil && len(selected.Namespaces) == 0 {
		return nil, nil, v1alpha1.ReasonNoNamespace, "namespaceSelectors select no Namespace"
	}
	var excluded []string
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		node := s.Nodes[name]
		switch {
		case !selected.Nodes.Matches(node.Labels):
		case node.Excluded:
			excluded = append(excluded, name)
		default:
			nodes = append(nodes, name)
		}
	}
	if len(nodes) == 0 {
		message = "nodeSelectors select no node"
		if len(excluded) > 0 {
			message += " that may announce (excluded: " + some(excluded) + ")"
		}
		return nil, nil, v1alpha1.ReasonNoNode, message
	}
	return pools, nodes, v1alpha1.ReasonEffective, ""
}

// hasInterface reports whether a node can answer on an interface for some address of the pools.
func hasInterface(s *decision.Snapshot, ad *config.L2Advertisement, nodes []string, pools []*netipx.IPSet) bool {
	for _, node := range nodes {
		for _, i := range s.Nodes[node].Interfaces {
			if ad.MatchesInterface(i.Name) {
				return true
			}
			if len(ad.Interfaces) == 0 && slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return inSubnet(p, pools) }) {
				return true
			}
		}
	}
	return false
}

// inSubnet reports whether some address of the pools is in a subnet.
func inSubnet(subnet netip.Prefix, pools []*netipx.IPSet) bool {
	return slices.ContainsFunc(pools, func(addresses *netipx.IPSet) bool { return addresses.OverlapsPrefix(subnet) })
}

const noLiveSpeaker = "no speaker is alive on the selected nodes that could announce"

// alive returns the nodes whose speakers are alive.
func alive(s *decision.Snapshot, nodes []string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(node string) bool { return !s.Alive(node) })
}

// sessionsOf says whether some of the nodes has an established session with a peer of the advertisement, and why not.
func sessionsOf(s *decision.Snapshot, ad *config.BGPAdvertisement, nodes []string) (reason, message string) {
	var peers []string // of nodes whose speakers are alive
	reason = v1alpha1.ReasonNoPeer
	message = "no selected node has one of the peers: there is no BGPPeer, or nodeSelectors of the BGPPeer leave the nodes out"
	for i := range s.Config.Peers {
		p := &s.Config.Peers[i]
		if ad.Peers != nil && !ad.Peers[p.Name] {
			continue
		}
		for _, node := range nodes {
			if !p.Nodes.Matches(s.Nodes[node].Labels) {
				continue
			}
			if !s.Alive(node) {
				reason, message = v1alpha1.ReasonNoLiveSpeaker, noLiveSpeaker
				continue
			}
			if s.Sessions[decision.NodePeer{Node: node, Peer: p.Name}].State == bgp.Established {
				return v1alpha1.ReasonEffective, ""
			}
			if !slices.Contains(peers, p.Name) {
				peers = append(peers, p.Name)
			}
		}
	}
	if len(peers) > 0 {
		return v1alpha1.ReasonSessionDown, "no BGP session with " + Join(peers) + " is established"
	}
	return reason, message
}
