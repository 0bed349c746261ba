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
	// lastResort says that no node can serve the group on an interface that is heard, so that those count that are Silent.
	lastResort bool
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

// startupHolds reports whether this node leaves the group alone since it has just started, is isolated, or is cut off, and is not on
// record for the group.
func (v *view) startupHolds(g *group) bool {
	return (v.StartupHold || v.Isolated || v.CutOff && g.lastResort) && v.recorded(g) != v.Node
}

// lives reports whether the speaker of a node is alive, by gossip or by other signs.
func (v *view) lives(node string) bool { return v.Alive(node) || v.Unreachable[node] }

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
				if ad.SelectsService(svc.Name.Namespace, svc.Labels) && !slices.Contains(g.advertisements[address.IP], ad) {
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
//
// Readiness chooses among nodes for a new holder. A recorded one whose speaker is alive keeps what it has while its Node is not Ready: its
// kernel forwards, whatever keeps the kubelet from saying so. It loses the group only when the Node has not been Ready for long, and most
// others are. For example the kubelets of all nodes cannot reach the control plane, and that of node3 can again before those of node1 and
// node2: node3 takes nothing.
//
// A group that no live node holds is placed.
func (v *view) holder(g *group) (string, bool) {
	if holder, ok := v.retained(g); ok {
		return holder, true
	}
	return v.placed(g)
}

// retained returns the node that holds the group whatever other groups there are: the recorded holder, or the one that takes it over by hand
// or as the preferred one.
func (v *view) retained(g *group) (string, bool) {
	recorded := v.recorded(g)
	// Whether silent interfaces count is found out first, whatever was found before: they do not if the recorded holder is heard.
	g.lastResort = false
	served := v.serves(g, recorded)
	if served == 0 || !v.lives(recorded) {
		v.candidates(g)
		served = v.serves(g, recorded)
	}
	if v.Away[recorded] && served > 0 {
		return recorded, true
	}
	if target, ok := v.target(g); ok {
		return target, true
	}
	if v.takesBack(g, recorded) {
		return v.Node, true
	}
	kept := 0 // how many addresses the recorded holder would keep
	if node, ok := v.Nodes[recorded]; ok && v.Alive(recorded) && !node.LongNotReady {
		if kept = served; kept > 0 && kept == v.servable(g) {
			return recorded, true // the usual case, which needs no look at the other nodes
		}
	}
	candidates := v.candidates(g)
	if kept > 0 && len(candidates) > 0 && v.serves(g, candidates[0].Node) <= kept {
		return recorded, true
	}
	rest := v.withoutPassed(g, candidates)
	if recorded != "" && v.lives(recorded) && slices.ContainsFunc(rest, func(c election.Candidate) bool { return c.Node == recorded }) {
		return recorded, true
	}
	return "", false
}

// candidates returns the nodes of which one answers for the group if no holder is on record, or the recorded one cannot. They are the same
// for all Services that stand alone and whose addresses are Alike.
//
// Where no node can serve the group on an interface that is heard, those that are Silent count, as the last resort: it costs nothing to
// answer where perhaps nobody hears it, and the finding may be wrong. For example node1 alone has an endpoint of the local Service web,
// and two other nodes find its eth0 silent: node1 goes on.
func (v *view) candidates(g *group) []election.Candidate { return v.contenders(g).candidates }

// contenders returns the candidates for a group, and sets the group's lastResort.
func (v *view) contenders(g *group) contenders {
	if !g.isSimple() {
		return v.contend(g)
	}
	var all [len(family.All)]Alike
	for i, address := range g.addresses {
		all[i] = v.alike(g.services[0], address)
	}
	known, ok := v.elections[all]
	if !ok {
		if v.elections == nil {
			v.elections = map[[len(family.All)]Alike]contenders{}
		}
		known = v.contend(g)
		v.elections[all] = known
	}
	g.lastResort = known.lastResort
	return known
}

// contend works out what contenders returns.
func (v *view) contend(g *group) contenders {
	g.lastResort = false
	found := v.liveCandidates(g)
	if len(found) == 0 {
		g.lastResort = true
		found = v.liveCandidates(g)
		g.lastResort = len(found) > 0
	}
	return newContenders(found, g.lastResort, g.isSimple())
}

// liveCandidates returns, of the nodes with a live speaker, those that serve most of the group and, of these, those that are Ready if any is.
func (v *view) liveCandidates(g *group) (candidates []election.Candidate) {
	best := 0
	ready := false
	for name, node := range v.Nodes {
		n := v.serves(g, name)
		// A node that serves both families goes before one that serves one, and among equals a Ready one before one that is not.
		if n == 0 || n < best || n == best && ready && !node.Ready || !v.lives(name) {
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
	selected string       // names the advertisements that select the address, and the nodes that the Service prefers
}

// alike returns that of an address of a Service that shares none.
func (v *view) alike(svc *Service, address Address) Alike {
	f := family.Of(address.IP)
	var selected []byte
	ads := v.selecting(address.Pool)
	for _, ad := range ads.layer2 {
		if ad.SelectsService(svc.Name.Namespace, svc.Labels) {
			selected = append(append(selected, ad.Name...), ',')
		}
	}
	if svc.Preferred != nil {
		selected = append(append(selected, '/'), svc.Preferred.String()...)
	}
	selected = append(selected, ';')
	for _, ad := range ads.bgp {
		if ad.SelectsService(svc.Name.Namespace, svc.Labels) {
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
			return len(ad.Interfaces) > 0 && v.hasInterface(ad) || len(ad.Interfaces) == 0 && v.subnet(address.IP).IsValid()
		})
		if followed && g.hasEndpoint(address.IP) {
			n++
		}
	}
	return n
}

// hasInterface reports whether some node that an advertisement selects has an interface that it names.
func (v *view) hasInterface(ad *config.L2Advertisement) bool {
	has, known := v.named[ad]
	if known {
		return has
	}
	for _, node := range v.Nodes {
		has = has || ad.Nodes.Matches(node.Labels) && slices.ContainsFunc(node.Interfaces, func(i Interface) bool { return ad.MatchesInterface(i.Name) })
	}
	if v.named == nil {
		v.named = map[*config.L2Advertisement]bool{}
	}
	v.named[ad] = has
	return has
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

// usable yields the names of the interfaces on which the node can answer for an address of the group, some more than once: none if the
// node is excluded.
func (v *view) usable(g *group, address Address, name string) iter.Seq[string] {
	if v.Nodes[name].Excluded {
		return func(func(string) bool) {}
	}
	return v.reachable(g, address, name)
}

// reachable yields the names of the interfaces on which an answer of the node for an address of the group would lead to an endpoint, some
// more than once: none unless every Service on the address that has endpoints at all can be served from there.
func (v *view) reachable(g *group, address Address, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		node, ok := v.Nodes[name]
		if !ok || !g.servedFrom(name, address.IP) {
			return
		}
		for _, ad := range g.advertisements[address.IP] {
			if !ad.Nodes.Matches(node.Labels) {
				continue
			}
			for _, i := range node.Interfaces {
				if i.Silent && !g.lastResort {
					continue
				}
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
	var common []string
	first := true
	for _, svc := range g.services {
		endpoints := svc.Endpoints[family.Of(ip)]
		if !svc.has(ip) || !endpoints.Any || !svc.Local {
			continue
		}
		if first {
			common, first = slices.Clone(endpoints.Nodes), false
		}
		common = slices.DeleteFunc(common, func(node string) bool { return !endpoints.on(node) })
	}
	return len(common) > 0
}

// preferredWeight is the weight of the nodes that a Service prefers: that of the strongest preference of an L2Advertisement.
const preferredWeight = 100

// weight sums the preferences of the group's Services and advertisements that match the node, each of them counted once.
func (v *view) weight(g *group, node Node) int32 {
	var weight int32
	for _, svc := range g.services {
		if svc.Preferred != nil && svc.Preferred.Matches(node.Labels) {
			weight += preferredWeight
		}
	}
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
