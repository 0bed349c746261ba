// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"slices"
	"time"

	"github.com/tandem-lb/tandem/speaker/election"
)

// takesBack reports whether this node takes a group from a live holder, since it is preferred to the holder, would be elected if there was
// none, and has been healthy for the shortest FailbackAfter of the group's advertisements. The decision is that of this node alone: the
// holder goes on until it sees another node on record.
//
// For example an advertisement prefers node1 and has a FailbackAfter of ten minutes. node1 died, and node3 is on record since. node1 is back,
// and ten minutes later it announces the addresses and takes the record; node3 sees that and is silent.
func (v *view) takesBack(g *group, recorded string) bool {
	if v.HealthyFor == 0 || recorded == "" || recorded == v.Node {
		return false
	}
	after := time.Duration(0)
	for _, ads := range g.advertisements {
		for _, ad := range ads {
			if ad.FailbackAfter > 0 && (after == 0 || ad.FailbackAfter < after) {
				after = ad.FailbackAfter
			}
		}
	}
	holder, exists := v.Nodes[recorded]
	if after == 0 || v.HealthyFor < after || !exists || v.weight(g, v.Nodes[v.Node]) <= v.weight(g, holder) {
		return false
	}
	candidates := v.candidates(g)
	if !slices.ContainsFunc(candidates, func(c election.Candidate) bool { return c.Node == v.Node }) {
		return false
	}
	elected, _ := election.Holder(g.key(), "", candidates, v.lives)
	return elected == v.Node && v.servesAll(g, v.Node, recorded)
}
