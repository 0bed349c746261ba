// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/election"
)

// A Move is a sharing group that goes from the node that is on record for it to another one.
type Move struct {
	// Services are those of the group, sorted by name. To name the target of one of them moves all.
	Services []types.NamespacedName
	From, To string
}

// Rebalance returns the fewest moves by hand after which no node holds more than it would have been given by bounded loads (see view.place).
// Nothing moves by itself, since each move ends connections: a user asks for it.
//
// For example node3 was away, and node1 and node2 hold 15 of 30 Services each. Each of the three could hold all, so that the limit is 13:
// two Services of node1 and two of node2 go to node3.
//
// A group that a node holds by less than the highest preference stays, since failback is what brings it home, and so does a group that has
// a target already, or whose holder is away.
func Rebalance(s *Snapshot) (moves []Move) {
	v := &view{Snapshot: s}
	v.all = v.groups()
	classes, held := map[string]*class{}, []*group(nil)
	for _, g := range v.all {
		if holder, ok := v.retained(g); !ok || v.Away[holder] || holder != v.recorded(g) {
			continue
		}
		if share := v.shareHeld(g, true); share.class != "" {
			if classes[share.class] == nil {
				classes[share.class] = &class{load: map[string]int{}}
			}
			classes[share.class].groups++
			classes[share.class].load[share.node]++
			held = append(held, g)
		}
	}
	slices.SortFunc(held, func(a, b *group) int { return cmp.Compare(a.key(), b.key()) })
	for _, g := range held {
		contenders, from := v.contenders(g), v.recorded(g)
		c := classes[contenders.class]
		limit := c.limit(len(contenders.top))
		if c.load[from] <= limit {
			continue
		}
		to := election.Place(g.key(), contenders.top, func(node string) bool { return c.load[node] >= limit }, g.hasEndpointOn)
		if c.load[to] >= limit || v.refusal(g, to) != "" {
			continue
		}
		c.load[from]--
		c.load[to]++
		move := Move{From: from, To: to}
		for _, svc := range g.services {
			move.Services = append(move.Services, svc.Name)
		}
		moves = append(moves, move)
	}
	return moves
}
