// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// onLinks returns the interfaces of other nodes that are on a link of this one, as far as addresses tell, and how to ask for them: two
// interfaces that have a subnet in common are on one link. For example node1 has 198.51.100.11/24 on eth0, and node2 has 198.51.100.12/24
// on eth1: node1 asks for 198.51.100.12 by eth0.
func onLinks(self string, own []v1alpha1.InterfaceState, speakers []v1alpha1.SpeakerStatus) []lan.Target {
	var targets []lan.Target
	for i := range speakers {
		if speakers[i].Name == self {
			continue
		}
		for _, theirs := range speakers[i].Status.Interfaces {
			hardware, err := net.ParseMAC(theirs.MAC)
			if err != nil || len(hardware) != len(neighbor.MAC{}) || !theirs.Usable {
				continue
			}
			for _, ours := range own {
				if pairs := commonSubnets(ours.Addresses, theirs.Addresses); ours.Usable && len(pairs) > 0 {
					targets = append(targets, lan.Target{
						Key: lan.Key{Node: speakers[i].Name, Interface: theirs.Name}, Via: ours.Name, MAC: neighbor.MAC(hardware), Pairs: pairs,
					})
					break
				}
			}
		}
	}
	return targets
}

// commonSubnets returns, of each family, the first two addresses that are in one subnet.
func commonSubnets(ours, theirs []string) []lan.Pair {
	var pairs []lan.Pair
	for _, own := range prefixes(ours) {
		if slices.ContainsFunc(pairs, func(p lan.Pair) bool { return p.Own.Is4() == own.Addr().Is4() }) {
			continue
		}
		for _, other := range prefixes(theirs) {
			if own.Masked() == other.Masked() && own.Addr() != other.Addr() {
				pairs = append(pairs, lan.Pair{Own: own.Addr(), Target: other.Addr()})
				break
			}
		}
	}
	return pairs
}

// prefixes reads addresses with their prefix lengths. One that cannot be read, or is of no subnet, is left out.
func prefixes(texts []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil && !p.IsSingleIP() {
			all = append(all, p)
		}
	}
	return all
}

// gateways returns the next hops of the default routes that are on a link of a usable interface, of each link the preferred one of each
// family. For example node1 has 198.51.100.11/24 on eth0, and its default route leads to 198.51.100.1.
func gateways(links *link.Snapshot) (targets []lan.Target) {
	known := map[string]bool{}
	for _, f := range family.All {
		for _, route := range links.DefaultRoutes[f] {
			i, ok := links.ByIndex(route.Index)
			if !ok || i.Unusable() != "" || !route.Gateway.IsValid() || known[i.Name+string(family.Of(route.Gateway))] {
				continue
			}
			own, gateway := i.BestAddresses(route.Gateway, link.Choice{})[family.Of(route.Gateway)], route.Gateway
			if gateway.IsLinkLocalUnicast() && gateway.Is6() {
				own, gateway = i.LinkLocal(), gateway.WithZone(i.Name)
			}
			if !own.IsValid() {
				continue
			}
			known[i.Name+string(family.Of(route.Gateway))] = true
			targets = append(targets, lan.Target{
				Key: lan.Key{Interface: gateway.String()}, Via: i.Name, Pairs: []lan.Pair{{Own: own, Target: gateway}},
			})
		}
	}
	return targets
}

// watched returns the targets that this speaker has to ask: those of the nodes that it watches, of those whose speakers are alive or may
// be back, those of every node that may be back, which is asked at once whether its kernel answers, and the gateways beside them. Those by
// which this node is cut off are asked until they answer, even if all others have long been given up.
func watched(on []lan.Target, self string, p presence, cutOff []string) []lan.Target {
	var nodes []string
	for _, t := range on {
		if _, expected := p.expected[t.Node]; !t.IsGateway() && (expected || p.alive(t.Node)) {
			nodes = append(nodes, t.Node)
		}
	}
	ring, via := lan.Ring(self, nodes), map[string]bool{}
	on = slices.DeleteFunc(on, func(t lan.Target) bool {
		_, expected := p.expected[t.Node]
		return !t.IsGateway() && !expected && !slices.Contains(ring, t.Node)
	})
	for _, t := range on {
		via[t.Via] = via[t.Via] || !t.IsGateway() || slices.Contains(cutOff, t.Via)
	}
	return slices.DeleteFunc(on, func(t lan.Target) bool { return !via[t.Via] })
}

// away returns those of the nodes that may be back whose kernels are not known to be silent on a link of this node, and those that are
// silent on all. An interface of a node that may be back, and is not alive, is marked in nodes when it is silent, or when its echoes are not
// answered any more: then a switch may answer ARP for a node that is dead (ARP suppression). What several speakers
// have found silent is so, even if this one has just begun to ask.
func away(p presence, states map[lan.Key]lan.State, found map[lan.Key]bool, nodes map[string]decision.Node) (
	away map[string]bool, silent []string,
) {
	away, lost := map[string]bool{}, map[lan.Key]bool{}
	for key, state := range states {
		if _, expected := p.expected[key.Node]; !expected {
			continue
		}
		switch alive := p.alive(key.Node); {
		case (state == lan.Answers || state == lan.Unknown || state == lan.NoEcho && alive) && (alive || !found[key]):
			away[key.Node] = true
		case !alive:
			lost[key] = true
		}
	}
	markSilent(nodes, lost)
	for key := range lost {
		if !away[key.Node] && !slices.Contains(silent, key.Node) {
			silent = append(silent, key.Node)
		}
	}
	return away, silent
}

// blind makes unknown what is silent, of nodes that are not alive, by those interfaces of this node by which nothing answers, not even a
// node whose speaker is alive, nor the gateway: then the link of this node has failed. For example node1 restarts, and node3, whose cable is
// out, hears neither it nor node2: node3 must not take over what node1 holds.
func blind(states map[lan.Key]lan.State, on []lan.Target, alive func(node string) bool) {
	answers, deaf := map[string]bool{}, map[string]bool{}
	for _, t := range on {
		answers[t.Via] = answers[t.Via] || states[t.Key] == lan.Answers || states[t.Key] == lan.NoEcho
		deaf[t.Via] = deaf[t.Via] || states[t.Key] == lan.Silent && (t.IsGateway() || alive(t.Node))
	}
	for _, t := range on {
		if states[t.Key] == lan.Silent && !t.IsGateway() && !alive(t.Node) && deaf[t.Via] && !answers[t.Via] {
			states[t.Key] = lan.Unknown
		}
	}
}
