// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/election"
)

// group is a sharing group: the Services that are connected by common addresses, and so have one holder. For example web and mail share
// 192.0.2.10, and mail and dns share 2001:db8::10: the three are one group with two addresses.
type group struct {
	services  []*Service // sorted by name
	addresses []Address
	// advertisements are, for each address, those that select it on some node.
	advertisements map[netip.Addr][]*config.L2Advertisement
}

// key names the group for the election. It is that of the first Service by name.
func (g *group) key() string { return g.services[0].Name.String() }

// recorded returns the recorded holder of a group: that of the first Service whose holder is alive or else of the first Service that has
// one. For example, mail and web share 192.0.2.10, and node1, which is on record for both, dies. node2 takes over and has recorded itself
// for web so far: the holder is node2, although mail, which still names node1, comes first by name.
func (v *view) recorded(g *group) string {
	recorded := ""
	for _, svc := range g.services {
		if svc.Holder != "" && (v.Alive(svc.Holder) || v.Away[svc.Holder]) {
			return svc.Holder
		}
		recorded = cmp.Or(recorded, svc.Holder)
	}
	return recorded
}

// startupHolds reports whether this node leaves the group alone since it has just started and is not on record for the group.
func (v *view) startupHolds(g *group) bool { return v.StartupHold && v.recorded(g) != v.Node }

// groups joins the Services that share addresses. A group that no layer 2 advertisement selects is among them, without advertisements.
func (v *view) groups() []*group {
	byAddress := make(map[netip.Addr]*group, len(v.Services))
	all := make([]*group, 0, len(v.Services))
	for i := range v.Services {
		svc := &v.Services[i]
		g := &group{advertisements: map[netip.Addr][]*config.L2Advertisement{}}
		all = append(all, g)
		g.services = []*Service{svc}
		for _, address := range svc.Addresses {
			other := byAddress[address.IP]
			if other == nil {
				g.addresses = append(g.addresses, address)
				byAddress[address.IP] = g
			} else if other != g {
				other.absorb(g, byAddress)
				g = other
			}
			for _, ad := range v.selecting(address.Pool).layer2 {
				if ad.Services.Matches(svc.Labels) && !slices.Contains(g.advertisements[address.IP], ad) {
					g.advertisements[address.IP] = append(g.advertisements[address.IP], ad)
				}
			}
		}
	}
	all = slices.DeleteFunc(all, func(g *group) bool { return len(g.services) == 0 }) // absorbed
	for _, g := range all {
		if len(g.services) > 1 {
			slices.SortFunc(g.services, func(a, b *Service) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
		}
	}
	return all
}

// absorb moves everything from another group into g.
func (g *group) absorb(other *group, byAddress map[netip.Addr]*group) {
	g.services = append(g.services, other.services...)
	g.addresses = append(g.addresses, other.addresses...)
	maps.Copy(g.advertisements, other.advertisements)
	for _, address := range other.addresses {
		byAddress[address.IP] = g
	}
	*other = group{}
}

// holder returns the node that holds the group, and false if no node can. A recorded holder that is away keeps the group as long as it can
// serve any of it: it will soon be back, and a move would end all connections.
func (v *view) holder(g *group) (string, bool) {
	recorded := v.recorded(g)
	if v.Away[recorded] && v.serves(g, recorded) > 0 {
		return recorded, true
	}
	if node, ok := v.Nodes[recorded]; ok && node.Ready && v.Alive(recorded) {
		if n := v.serves(g, recorded); n > 0 && n == v.servable(g) {
			return recorded, true // the usual case, which needs no look at the other nodes
		}
	}
	return election.Holder(g.key(), recorded, v.candidates(g), v.Alive)
}

// candidates returns the nodes of which one answers for the group if no holder is on record, or the recorded one cannot. They are the same
// for all Services that stand alone and whose addresses are Alike.
func (v *view) candidates(g *group) (candidates []election.Candidate) {
	if svc := g.services[0]; len(g.services) == 1 && !svc.Local && len(g.addresses) <= len(family.All) {
		var all [len(family.All)]Alike
		for i, address := range g.addresses {
			all[i] = v.alike(svc, address)
		}
		known, ok := v.elections[all]
		if ok {
			return known
		}
		if v.elections == nil {
			v.elections = map[[len(family.All)]Alike][]election.Candidate{}
		}
		defer func() { v.elections[all] = candidates }()
	}
	best := 0
	ready := false
	for name, node := range v.Nodes {
		n := v.serves(g, name)
		// A node that serves both families goes before one that serves one, and among equals a Ready one before one that is not.
		if n == 0 || n < best || n == best && ready && !node.Ready || !v.Alive(name) {
			continue
		}
		if n > best || node.Ready && !ready {
			best, ready, candidates = n, node.Ready, nil
		}
		candidates = append(candidates, election.Candidate{Node: name, Weight: v.weight(g, node)})
	}
	return candidates
}

// Alike is the same for addresses that are explained alike: they have the same candidates on layer 2, the same reasons of other nodes, and
// the same states of sessions. Prefixes, the holder and, of a local Service, the nodes without an endpoint are the only difference.
type Alike struct {
	family   family.Family
	endpoint bool         // there is a usable one
	subnet   netip.Prefix // see view.subnet
	selected string       // names the advertisements that select the address
}

// alike returns that of an address of a Service that shares none.
func (v *view) alike(svc *Service, address Address) Alike {
	f := family.Of(address.IP)
	var selected []byte
	ads := v.selecting(address.Pool)
	for _, ad := range ads.layer2 {
		if ad.Services.Matches(svc.Labels) {
			selected = append(append(selected, ad.Name...), ',')
		}
	}
	selected = append(selected, ';')
	for _, ad := range ads.bgp {
		if ad.Services.Matches(svc.Labels) {
			selected = append(append(selected, ad.Name...), ',')
		}
	}
	return Alike{family: f, endpoint: svc.Endpoints[f].Any, subnet: v.subnet(address.IP), selected: string(selected)}
}

// servable counts the addresses of the group that have an endpoint somewhere and an advertisement that some node could follow. It is
// never less than what any node serves.
func (v *view) servable(g *group) int {
	n := 0
	for _, address := range g.addresses {
		followed := slices.ContainsFunc(g.advertisements[address.IP], func(ad *config.L2Advertisement) bool {
			return len(ad.Interfaces) > 0 || v.subnet(address.IP).IsValid()
		})
		if followed && g.hasEndpoint(address.IP) {
			n++
		}
	}
	return n
}

// hasEndpoint reports whether a Service on the address has a usable endpoint of its family anywhere.
func (g *group) hasEndpoint(ip netip.Addr) bool {
	return slices.ContainsFunc(g.services, func(svc *Service) bool { return svc.has(ip) && svc.Endpoints[family.Of(ip)].Any })
}

// subnet returns the smallest subnet of any node's interface that contains the address, the zero Prefix if there is none. Addresses with
// the same one are in the subnets of the same interfaces.
func (v *view) subnet(ip netip.Addr) (smallest netip.Prefix) {
	if v.subnets == nil {
		v.subnets = map[int]map[netip.Prefix]bool{}
		for _, node := range v.Nodes {
			for _, i := range node.Interfaces {
				for _, p := range i.Prefixes {
					if v.subnets[p.Bits()] == nil {
						v.subnets[p.Bits()] = map[netip.Prefix]bool{}
					}
					v.subnets[p.Bits()][p.Masked()] = true
				}
			}
		}
	}
	for bits, of := range v.subnets {
		if p, err := ip.Prefix(bits); err == nil && of[p] && (!smallest.IsValid() || bits > smallest.Bits()) {
			smallest = p
		}
	}
	return smallest
}

// serves counts the addresses of the group that the node can answer for.
func (v *view) serves(g *group, node string) int {
	n := 0
	for _, address := range g.addresses {
		for range v.usable(g, address, node) {
			n++
			break
		}
	}
	return n
}

// interfaces returns, sorted, the names of the interfaces on which the node can answer for an address of the group.
func (v *view) interfaces(g *group, address Address, node string) []string {
	return slices.Compact(slices.Sorted(v.usable(g, address, node)))
}

// usable yields the names of the interfaces on which the node can answer for an address of the group, some more than once: none unless
// every Service on the address that has endpoints at all can be served from there.
func (v *view) usable(g *group, address Address, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		node, ok := v.Nodes[name]
		if !ok || node.Excluded || !g.servedFrom(name, address.IP) {
			return
		}
		for _, ad := range g.advertisements[address.IP] {
			if !ad.Nodes.Matches(node.Labels) {
				continue
			}
			for _, i := range node.Interfaces {
				if (len(ad.Interfaces) == 0 && i.onLink(address.IP) || ad.MatchesInterface(i.Name)) && !yield(i.Name) {
					return
				}
			}
		}
	}
}

// onLink reports whether the address is in a subnet of the interface.
func (i *Interface) onLink(ip netip.Addr) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// servedFrom reports whether every Service on the address that has endpoints at all can be served from the node, and there is one. For
// example web and mail share 192.0.2.10, web is local and has its endpoint on node1, mail has none: node1 serves the address, and no other
// node does. Where no node can serve all, since mail has become local too and has its endpoint on node2, either serves the address: the
// Service whose policy was changed gets no traffic, which is better than none for both.
func (g *group) servedFrom(node string, ip netip.Addr) bool {
	some, all := false, true
	for _, svc := range g.services {
		if svc.has(ip) && svc.Endpoints[family.Of(ip)].Any {
			served := svc.servedFrom(node, ip)
			some, all = some || served, all && served
		}
	}
	return some && (all || !g.haveCommonNode(ip))
}

// haveCommonNode reports whether the endpoints of the local Services on the address have a node in common.
func (g *group) haveCommonNode(ip netip.Addr) bool {
	var common map[string]bool // nil before the first local Service
	for _, svc := range g.services {
		endpoints := svc.Endpoints[family.Of(ip)]
		if !svc.has(ip) || !endpoints.Any || !svc.Local {
			continue
		}
		if common == nil {
			common = maps.Clone(endpoints.Nodes)
		}
		maps.DeleteFunc(common, func(node string, _ bool) bool { return !endpoints.Nodes[node] })
	}
	return len(common) > 0
}

// weight sums the preferences of the group's advertisements that match the node, each advertisement counted once.
func (v *view) weight(g *group, node Node) int32 {
	var weight int32
	var counted []*config.L2Advertisement
	for _, address := range g.addresses {
		for _, ad := range g.advertisements[address.IP] {
			if slices.Contains(counted, ad) {
				continue
			}
			counted = append(counted, ad)
			for _, p := range ad.Preferred {
				if p.Nodes.Matches(node.Labels) {
					weight += p.Weight
				}
			}
		}
	}
	return weight
}
