// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/schema"
	"github.com/tandem-lb/tandem/ipam/family"
)

// mostParts is how many objects are made of one, whose lists are longer than Tandem takes. What would need more is refused.
const mostParts = 64

// mostKeys bounds the labels by which selectors are put together, since each of them is a round over the whole list.
const mostKeys = 64

// fit shortens lists that have more entries than the definition of their kind takes: selectors that differ in the values of one label become one, ranges
// that touch are put together, and what is too much still goes to a further object. A list that remains too long is refused by refuse.
func (d *draft) fit() {
	if d.failed() {
		return
	}
	for _, p := range slices.Clone(d.peers) {
		shorten(d, p.about(), "nodeSelectors", &p.nodes)
		d.splitPeer(p)
	}
	for _, p := range slices.Clone(d.pools) {
		d.fitRanges(p)
		shorten(d, p.about(), "namespaceSelectors", &p.namespaces)
		shorten(d, p.about(), "serviceSelectors", &p.services)
		d.splitPool(p)
	}
	for _, a := range slices.Clone(d.advertisements) {
		a.pools, a.peers, a.interfaces, a.communities = distinct(a.pools), distinct(a.peers), distinct(a.interfaces), distinct(a.communities)
		shorten(d, a.about(), "nodeSelectors", &a.nodes)
		shorten(d, a.about(), "serviceSelectors", &a.services)
		shorten(d, a.about(), "namespaceSelectors", &a.namespaces)
		shorten(d, a.about(), "addressPoolSelectors", &a.poolSelectors)
		d.splitAdvertisement(a)
	}
	for _, c := range slices.Clone(d.communities) {
		d.splitCommunity(c)
	}
}

// tooMany reports whether a list has more entries than the field takes.
func tooMany[T any](kind, field string, list []T) bool {
	if len(list) <= 1 {
		return false
	}
	most := schema.MaxItems(kind, "spec."+field)
	return most > 0 && len(list) > most
}

// shorten puts selectors together where there are too many.
func shorten(d *draft, about subject, field string, list *[]metav1.LabelSelector) {
	if !tooMany(about.kind, field, *list) {
		return
	}
	if short := together(*list); len(short) < len(*list) {
		d.add(Info, "merged", about, "selectors that differ in one label are put together, since %s takes %d", field, schema.MaxItems(about.kind, "spec."+field))
		*list = short
	}
}

// together returns a list of selectors, of which one has to match, with those put together that differ in the values of one label alone. For example
// {rack: a, row: 1} and {rack: b, row: 1} become rack In (a, b), row In (1).
func together(list []metav1.LabelSelector) []metav1.LabelSelector {
	asked := map[string]int{}
	for _, s := range list {
		for _, e := range expressions(s) {
			asked[e.Key]++
		}
	}
	maps.DeleteFunc(asked, func(_ string, times int) bool { return times < 2 })
	if len(asked) > mostKeys {
		return list
	}
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		list = togetherBy(list, key)
	}
	return list
}

// togetherBy puts together the selectors that are the same but for the values that they ask of one label.
func togetherBy(list []metav1.LabelSelector, key string) (short []metav1.LabelSelector) {
	first := map[string]int{} // where in short, by what else a selector asks for
	for _, s := range list {
		values, rest, ok := without(s, key)
		if !ok {
			short = append(short, s)
			continue
		}
		data, err := json.Marshal(rest)
		at, known := first[string(data)]
		if err != nil || !known {
			first[string(data)] = len(short)
			short = append(short, s)
			continue
		}
		more, _, _ := without(short[at], key)
		values = append(values, more...)
		slices.Sort(values)
		short[at] = metav1.LabelSelector{MatchExpressions: append(in(key, slices.Compact(values)...).MatchExpressions, rest...)}
	}
	return short
}

// without returns the values that a selector asks of a label, one of which has to be there, and what else it asks for. It is false for a selector that does
// not ask for such values, or asks twice.
func without(s metav1.LabelSelector, key string) (values []string, rest []metav1.LabelSelectorRequirement, ok bool) {
	for _, e := range expressions(s) {
		switch {
		case e.Key != key:
			rest = append(rest, e)
		case ok || e.Operator != metav1.LabelSelectorOpIn:
			return nil, nil, false
		default:
			values, ok = slices.Clone(e.Values), true
		}
	}
	slices.SortFunc(rest, func(a, b metav1.LabelSelectorRequirement) int { return slices.Compare(ordered(a), ordered(b)) })
	return values, rest, ok
}

func ordered(e metav1.LabelSelectorRequirement) []string {
	return append([]string{e.Key, string(e.Operator)}, e.Values...)
}

// fitRanges puts together the entries of a family of which a pool has too many, and leaves excluded addresses out of the entries where there are too many of
// those. For example Cilium keeps the first and the last address of each block, so that 40 blocks exclude 80 addresses: 192.0.2.0/24 becomes
// 192.0.2.1-192.0.2.254.
func (d *draft) fitRanges(p *pool) {
	for _, f := range family.All {
		spans, exclude := p.ofFamily(f)
		field := partitionField(f)
		most := func(list string) int { return schema.MaxItems(poolKind, "spec."+field+"."+list) }
		fewer := regrouped(spans, nil)
		switch {
		case tooMany(poolKind, field+".exclude", exclude):
			fewer = regrouped(spans, exclude)
			p.exclude = slices.DeleteFunc(p.exclude, func(a netip.Addr) bool { return family.Of(a) == f })
			d.add(Info, "merged", p.about(), "its ranges leave out the %d addresses that it excludes, since an AddressPool takes %d of them", len(exclude), most("exclude"))
		case tooMany(poolKind, field+".ranges", spans) && len(fewer) < len(spans):
			d.add(Info, "merged", p.about(), "entries that touch are put together, since an AddressPool takes %d of a family", most("ranges"))
		default:
			continue
		}
		p.spans = append(slices.DeleteFunc(p.spans, func(s span) bool { return s.family() == f }), fewer...)
	}
}

// surplus moves what a list has beyond what its field takes to the same list of another object. It reports whether there was any.
func surplus[T any](kind, field string, from, to *[]T) bool {
	if !tooMany(kind, field, *from) {
		return false
	}
	most := schema.MaxItems(kind, "spec."+field)
	*to, *from = (*from)[most:], (*from)[:most:most]
	return true
}

// split takes parts out of an object until no list of it is too long: rest takes one part out of an object, or returns nil if there is none. Parts that are
// too long themselves are split as well. add adds a part to the draft and returns its name. An object that would become more than mostParts stays whole.
func split[T any](of *T, rest func(*T) *T, add func(*T) string) (further []string) {
	first := *of
	parts := []*T{&first}
	for i := 0; i < len(parts); i++ {
		for part := rest(parts[i]); part != nil; part = rest(parts[i]) {
			if parts = append(parts, part); len(parts) > mostParts {
				return nil
			}
		}
	}
	*of = first
	for _, part := range parts[1:] {
		further = append(further, add(part))
	}
	return further
}

// rest takes out of an advertisement what one of its lists has too much, and returns the advertisement that has it, nil if no list is too long.
// Advertisements add up: a route, or an address on a node, is there as soon as one of them says so, and a route has the communities of all.
func (a *advertisement) rest() *advertisement {
	rest := *a
	switch {
	case surplus(a.kind, "nodeSelectors", &a.nodes, &rest.nodes):
	case surplus(a.kind, "serviceSelectors", &a.services, &rest.services):
	case surplus(a.kind, "namespaceSelectors", &a.namespaces, &rest.namespaces):
	case surplus(a.kind, "addressPools", &a.pools, &rest.pools):
		rest.poolSelectors = nil // One of both is enough, and the first has them.
	case surplus(a.kind, "addressPoolSelectors", &a.poolSelectors, &rest.poolSelectors):
		rest.pools = nil
	case surplus(a.kind, "interfaces", &a.interfaces, &rest.interfaces):
	case surplus(a.kind, "peers", &a.peers, &rest.peers):
	case surplus(a.kind, "communities", &a.communities, &rest.communities):
	default:
		return nil
	}
	return &rest
}

// splitAdvertisement makes several of an advertisement whose lists are too long. Not so where it prefers nodes: the preferences would count twice.
func (d *draft) splitAdvertisement(a *advertisement) {
	if len(a.preferred) > 0 {
		return
	}
	further := split(a, (*advertisement).rest, func(rest *advertisement) string {
		rest.name = d.advertisementName(a.kind, a.name)
		d.advertisements = append(d.advertisements, rest)
		return rest.name
	})
	if len(further) > 0 {
		d.add(Info, "split", a.about(), "it has longer lists than one object takes: the rest is in %s, and adds up with it", strings.Join(further, ", "))
	}
}

// splitPeer makes two peers of one that has more selectors than a peer takes. No node may have both, since a router takes one session from an address: the
// first has selectors that ask for one label, and the second leaves out the nodes that have it. For example rack In (a, b) and {row: 1, room: 2} become
// rack In (a, b), and row In (1), room In (2), rack NotIn (a, b). Where that does not do, the peer is refused.
func (d *draft) splitPeer(p *peer) {
	if !tooMany(peerKind, "nodeSelectors", p.nodes) {
		return
	}
	var first, others []metav1.LabelSelector
	var away []metav1.LabelSelectorRequirement
	for _, s := range p.nodes {
		key, values := single(s)
		if key == "" || len(first) == schema.MaxItems(peerKind, "spec.nodeSelectors") {
			others = append(others, s)
			continue
		}
		first = append(first, s)
		away = append(away, requirement(key, metav1.LabelSelectorOpNotIn, values...).MatchExpressions...)
	}
	if len(first) == 0 || tooMany(peerKind, "nodeSelectors", others) {
		return
	}
	rest := *p
	rest.name, rest.nodes, p.nodes = unique(p.name, 253, func(n string) bool { return d.peer(n) != nil }), nil, first
	for _, s := range others {
		rest.nodes = append(rest.nodes, metav1.LabelSelector{MatchExpressions: append(expressions(s), away...)})
	}
	d.peers = append(d.peers, &rest)
	for _, a := range d.advertisements {
		if slices.Contains(a.peers, p.name) {
			a.peers = append(a.peers, rest.name)
		}
	}
	d.add(Warn, "split", p.about(), "it has more selectors than a peer takes: the rest is in %s, which leaves out the nodes of the first", rest.name)
}

// rest does for a pool what it does for an advertisement. An address is given once, whichever of the pools it is taken from. Ranges go to another pool only
// where no Service names the pool: a Service that does has all of its addresses.
func (p *pool) rest() *pool {
	rest := *p
	switch {
	case p.ofServices && p.surplusRanges(&rest, family.IPv4):
	case p.ofServices && p.surplusRanges(&rest, family.IPv6):
	case surplus(poolKind, "namespaceSelectors", &p.namespaces, &rest.namespaces):
	case surplus(poolKind, "serviceSelectors", &p.services, &rest.services):
	default:
		return nil
	}
	return &rest
}

// surplusRanges moves what a pool has beyond what it takes of a family to another one. It reports whether there was any.
func (p *pool) surplusRanges(rest *pool, f family.Family) bool {
	spans, _ := p.ofFamily(f)
	var more []span
	if !surplus(poolKind, partitionField(f)+".ranges", &spans, &more) {
		return false
	}
	rest.spans = more
	p.spans = append(slices.DeleteFunc(slices.Clone(p.spans), func(s span) bool { return s.family() == f }), spans...)
	return true
}

// splitPool makes several pools of one that has more selectors than a pool takes, with the same addresses, or more ranges.
func (d *draft) splitPool(p *pool) {
	further := split(p, (*pool).rest, func(rest *pool) string {
		rest.name = unique(p.name, 63, func(n string) bool { return d.pool(n) != nil })
		d.pools = append(d.pools, rest)
		for _, a := range d.advertisements {
			if slices.Contains(a.pools, p.name) {
				a.pools = append(a.pools, rest.name)
			}
		}
		return rest.name
	})
	switch {
	case len(further) == 0:
	case p.ofServices:
		d.add(Info, "split", p.about(), "it has more addresses than a pool takes: the rest is in %s", strings.Join(further, ", "))
	default:
		d.add(Warn, "split", p.about(), "it has more selectors than a pool takes: the rest is in %s, with the same addresses. A Service that names %s, and "+
			"that another one selects, has to name that one", strings.Join(further, ", "), p.name)
	}
}

// splitCommunity makes several objects of one with too many communities. Names are looked for in all of them.
func (d *draft) splitCommunity(c *community) {
	further := split(c, func(c *community) *community {
		rest := *c
		if !surplus(communityKind, "communities", &c.values, &rest.values) {
			return nil
		}
		return &rest
	}, func(rest *community) string {
		rest.name = d.communityObject(c.name)
		d.communities = append(d.communities, rest)
		return rest.name
	})
	if len(further) > 0 {
		d.add(Info, "split", subject{communityKind, c.name}, "it has more communities than one object takes: the rest is in %s", strings.Join(further, ", "))
	}
}

// distinct returns a list of texts without those that are there already.
func distinct(list []string) (once []string) {
	seen := map[string]bool{}
	for _, text := range list {
		if !seen[text] {
			once = append(once, text)
		}
		seen[text] = true
	}
	return once
}
