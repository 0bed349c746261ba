// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/election"
)

// place decides where the groups go that no live node holds, with bounded loads: of the groups that have the same candidates, one of these
// gets no more than 1.25 of the average, rounded up. The groups are placed in the order of their keys, each at the first candidate in rank
// that is not full. What the records say of other groups counts.
//
// For example node1 dies, and held 10 of 30 groups that node1, node2 and node3 could hold; node2 and node3 have 10 each. There are 15 for each
// of the two, and neither gets more than 19.
//
// While the records of what was placed arrive, the places stay. A node that was full for a group is full still: all that it had then is now
// on record or placed before. And the node that the group went to has room still, since the limit is that of all groups of the class. So
// speakers that have seen different records of one takeover agree.
//
// A group whose holder is away has a place too: it says who would take over, and is the deputy.
func (v *view) place() {
	v.places = map[*group]string{}
	classes := map[string]*class{}
	var waiting, held []*group
	shared := false
	for _, g := range v.all {
		if holder, ok := v.retained(g); len(g.advertisements) == 0 || ok && !v.Away[holder] {
			held = append(held, g)
			continue
		}
		if c := v.contest(g); len(c.top) > 0 {
			waiting = append(waiting, g)
			shared = shared || !g.isSimple()
			v.contested = v.contested || len(c.top) > 1
			if classes[c.class] == nil {
				classes[c.class] = &class{load: map[string]int{}}
			}
			classes[c.class].groups++
		}
	}
	if len(waiting) == 0 {
		return
	}
	v.shares, v.classes, v.shared = map[string]share{}, classes, shared
	for _, g := range held {
		s := v.shareHeld(g, shared)
		if c := classes[s.class]; c != nil {
			c.groups++
			c.load[s.node]++
			v.shares[g.key()] = s
		}
	}
	slices.SortFunc(waiting, func(a, b *group) int { return cmp.Compare(a.key(), b.key()) })
	for _, g := range waiting {
		contenders := v.contest(g)
		c := classes[contenders.class]
		limit := c.limit(len(contenders.top))
		node := election.Place(g.key(), contenders.top, func(node string) bool { return c.load[node] >= limit }, g.hasEndpointOn)
		c.load[node]++
		v.places[g], v.shares[g.key()] = node, share{contenders.class, node}
	}
}

// share is what a group counts for while groups are placed: its class, and the node that has it or gets it. The zero share is that of a
// group that does not count.
type share struct {
	class, node string
}

// shareHeld returns the share of a group that a live node holds. Shared says that groups wait that are not simple. If none does, the class of
// one that is not simple is none of those that wait, and would cost a look at each node.
func (v *view) shareHeld(g *group, shared bool) share {
	if len(g.advertisements) == 0 || !shared && !g.isSimple() {
		return share{}
	}
	contenders, holder := v.contenders(g), v.recorded(g)
	if !slices.ContainsFunc(contenders.top, func(c election.Candidate) bool { return c.Node == holder }) {
		return share{}
	}
	return share{contenders.class, holder}
}

// class are the groups for which the same nodes contend.
type class struct {
	groups int            // that wait, or are held by one of the nodes
	load   map[string]int // how many of them a node has
}

// limit returns how many groups of the class one of n nodes gets at most: 1.25 of the average, rounded up. For example 30 groups and 3 nodes
// have the limit 13.
func (c *class) limit(n int) int { return (5*c.groups + 4*n - 1) / (4 * n) }

// placed returns where a group goes that no live node holds, and false if there is no candidate.
func (v *view) placed(g *group) (string, bool) {
	if v.places == nil {
		if len(v.candidates(g)) == 0 {
			return "", false
		}
		v.place()
	}
	node, ok := v.places[g]
	return node, ok
}

// contest returns who contends for a group that is to be placed: not the holder, which is away and may be back already, and none that was
// passed over.
func (v *view) contest(g *group) contenders {
	c := v.contenders(g)
	rest := v.withoutPassed(g, c.candidates)
	if away := v.recorded(g); v.Away[away] {
		rest = slices.DeleteFunc(slices.Clone(rest), func(c election.Candidate) bool { return c.Node == away })
	}
	if len(rest) == len(c.candidates) {
		return c
	}
	return newContenders(rest, c.lastResort, g.isSimple())
}

// withoutPassed returns the candidates that were not passed over for a group, or all if there is no other.
func (v *view) withoutPassed(g *group, candidates []election.Candidate) []election.Candidate {
	passed := v.Passed[g.services[0].Name]
	if len(passed) == 0 {
		return candidates
	}
	rest := slices.DeleteFunc(slices.Clone(candidates), func(c election.Candidate) bool { return passed[c.Node] })
	if len(rest) == 0 {
		return candidates
	}
	return rest
}

// contenders are the candidates for a group, and whether that is by interfaces that are Silent.
type contenders struct {
	candidates []election.Candidate
	lastResort bool
	// top are those with the highest weight, and class names them.
	top   []election.Candidate
	class string
}

func newContenders(candidates []election.Candidate, lastResort, simple bool) contenders {
	c := contenders{candidates: candidates, lastResort: lastResort}
	var names []string
	for _, candidate := range candidates {
		if len(c.top) > 0 && candidate.Weight > c.top[0].Weight {
			c.top, names = nil, nil
		}
		if len(c.top) == 0 || candidate.Weight == c.top[0].Weight {
			c.top, names = append(c.top, candidate), append(names, candidate.Node)
		}
	}
	slices.Sort(names)
	if c.class = strings.Join(names, ","); !simple {
		c.class = "one by one:" + c.class
	}
	return c
}

// isSimple reports whether the candidates for a group are those of all groups that are alike.
func (g *group) isSimple() bool {
	return len(g.services) == 1 && !g.services[0].Local && len(g.addresses) <= len(family.All)
}

// hasEndpointOn reports whether some Service of the group has an endpoint on a node.
func (g *group) hasEndpointOn(node string) bool {
	return slices.ContainsFunc(g.services, func(svc *Service) bool {
		return slices.ContainsFunc(svc.Addresses, func(a Address) bool { return svc.Endpoints[family.Of(a.IP)].on(node) })
	})
}
