// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"slices"

	"github.com/tandem-lb/tandem/speaker/election"
)

// target returns the node that is to hold a group by hand: the first target of its Services that is a candidate. All speakers come to it, so
// that the node announces the addresses at once; the recorded holder drains. When the node records itself it removes its name as the target.
//
// For example node1 is on record for web and mail, which share 192.0.2.10, and a user sets the target of web to node2: node2 takes both.
func (v *view) target(g *group) (string, bool) {
	for _, svc := range g.services {
		if svc.Target != "" && v.refusal(g, svc.Target) == "" {
			return svc.Target, true
		}
	}
	return "", false
}

// refusal returns why a node cannot be the target of a group; "" if it can, or if there is no target.
func (v *view) refusal(g *group, target string) string {
	node, exists := v.Nodes[target]
	switch {
	case target == "":
		return ""
	case !exists:
		return "there is no such Node"
	case node.Excluded:
		return "it is drained or excluded from announcing"
	case !v.Alive(target) || v.Away[target]:
		return "its speaker is not alive"
	case v.Passed[g.services[0].Name][target]:
		return "it has been asked to, and does not put itself on record"
	case v.serves(g, target) == 0:
		return "it has no interface for the addresses, or no endpoint, or no advertisement selects it"
	case !v.servesAll(g, target, v.recorded(g)):
		return "it cannot answer for all addresses that the present node answers for"
	case slices.ContainsFunc(v.candidates(g), func(c election.Candidate) bool { return c.Node == target }):
		return ""
	case !node.Ready:
		return "it is not Ready"
	}
	return "other nodes can answer for more of the addresses"
}

// servesAll reports whether a node can answer for each address of a group that another one can answer for.
func (v *view) servesAll(g *group, node, other string) bool {
	return !slices.ContainsFunc(g.addresses, func(a Address) bool {
		return len(v.interfaces(g, a, other)) > 0 && len(v.interfaces(g, a, node)) == 0
	})
}
