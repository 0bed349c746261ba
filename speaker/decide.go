// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/election"
	"github.com/tandem-lb/tandem/speaker/layer2"
)

// Snapshot is everything that a decision depends on, at one moment.
type Snapshot struct {
	// Node is the node of this speaker.
	Node     string
	Config   config.Config
	Services []Service
	Nodes    map[string]Node
	// Alive reports whether the node's speaker is alive.
	Alive func(node string) bool
	// subnets are those of all nodes' interfaces, found out once.
	subnets map[netip.Prefix]bool
	// Newcomer is a speaker that has just started. It goes on with what it is on record for, and takes nothing else before it
	// has had time to meet the others.
	Newcomer bool
}

// Service is a Service with at least one address of ours.
type Service struct {
	Name   types.NamespacedName
	Labels labels.Set
	// Addresses are those that the Service publishes and that a claim of ours backs, in the order of its status.
	Addresses []Address
	// Local is externalTrafficPolicy Local: only a node with an endpoint can serve.
	Local bool
	// Endpoints are the usable endpoints that have the family of their key.
	Endpoints map[family.Family]Endpoints
	// Holder is the recorded holder of the Service's addresses on layer 2, or "".
	Holder string
}

// Address is an address and the pool that it was taken from.
type Address struct {
	IP   netip.Addr
	Pool string
}

// Endpoints says where the usable endpoints of one family are. There may be some on no node that is known.
type Endpoints struct {
	Any   bool
	Nodes map[string]bool
}

// Node is what matters of a node.
type Node struct {
	Labels labels.Set
	// Excluded nodes announce nothing.
	Excluded bool
	// Ready is the Node's condition. A node that is not takes addresses on layer 2 only where no other can.
	Ready bool
	// Interfaces are those that can announce on their link.
	Interfaces []Interface
}

// Interface is a link that can announce, and the subnets that the node has addresses of there.
type Interface struct {
	Name     string
	Prefixes []netip.Prefix
}

// Desired is what this node announces and records.
type Desired struct {
	Layer2 []layer2.Announcement
	// Records are the Services that this node holds on layer 2.
	Records map[types.NamespacedName]Record
	// Routes are what each peer of this node shall hear, by the peer's name. Next hops are left to fill in.
	Routes map[string][]bgp.Route
}

// Record is what the holder writes down about a Service.
type Record struct {
	Addresses, Interfaces []string
}

// Decide works out what the node announces. It is pure: speakers with the same view come to the same answer.
func Decide(s *Snapshot) Desired {
	d := Desired{Records: map[types.NamespacedName]Record{}, Routes: s.routes()}
	for _, g := range s.groups() {
		holder, ok := s.holder(g)
		if !ok || holder != s.Node || s.Newcomer && s.recorded(g) != s.Node {
			continue
		}
		announced := map[netip.Addr][]string{}
		for _, address := range g.addresses {
			if interfaces := s.interfaces(g, address, s.Node); len(interfaces) > 0 {
				announced[address.IP] = interfaces
				d.Layer2 = append(d.Layer2, layer2.Announcement{Address: address.IP, Interfaces: interfaces})
			}
		}
		for _, svc := range g.services {
			record := Record{}
			used := map[string]bool{}
			for _, address := range svc.Addresses {
				if interfaces, ok := announced[address.IP]; ok {
					record.Addresses = append(record.Addresses, address.IP.String())
					for _, name := range interfaces {
						used[name] = true
					}
				}
			}
			if len(record.Addresses) == 0 {
				continue // only its group has something to announce
			}
			record.Interfaces = slices.Sorted(maps.Keys(used))
			d.Records[svc.Name] = record
		}
	}
	return d
}

// group is Services that one node has to hold together: one Service, or several that share addresses.
type group struct {
	services  []*Service
	addresses []Address
	// advertisements are, for each address, those that concern it on some node.
	advertisements map[netip.Addr][]*config.L2Advertisement
}

// key names the group for the election. It is that of the first Service by name.
func (g *group) key() string { return g.services[0].Name.String() }

// recorded returns the recorded holder: that of the first Service whose holder is alive or else of the first that has one. Where a
// takeover is recorded in part, the dead holder's records must not outweigh those of its successor.
func (s *Snapshot) recorded(g *group) string {
	recorded := ""
	for _, svc := range g.services {
		if svc.Holder != "" && s.Alive(svc.Holder) {
			return svc.Holder
		}
		recorded = cmp.Or(recorded, svc.Holder)
	}
	return recorded
}

// groups joins the Services that share addresses, and leaves out groups that no layer 2 advertisement concerns.
func (s *Snapshot) groups() []*group {
	byAddress := make(map[netip.Addr]*group, len(s.Services))
	all := make([]*group, 0, len(s.Services))
	for i := range s.Services {
		svc := &s.Services[i]
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
			for i := range s.Config.L2 {
				if ad := &s.Config.L2[i]; ad.Selects(address.Pool, svc.Labels) && !slices.Contains(g.advertisements[address.IP], ad) {
					g.advertisements[address.IP] = append(g.advertisements[address.IP], ad)
				}
			}
		}
	}
	all = slices.DeleteFunc(all, func(g *group) bool { return len(g.services) == 0 || len(g.advertisements) == 0 })
	for _, g := range all {
		slices.SortFunc(g.services, func(a, b *Service) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
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

// holder returns the node that answers for the group.
func (s *Snapshot) holder(g *group) (string, bool) {
	recorded := s.recorded(g)
	if node, ok := s.Nodes[recorded]; ok && node.Ready && s.Alive(recorded) {
		if n := s.serves(g, recorded); n > 0 && n == s.servable(g) {
			return recorded, true // the usual case, which needs no look at the other nodes
		}
	}
	var candidates []election.Candidate
	best := 0
	ready := false
	for name, node := range s.Nodes {
		n := s.serves(g, name)
		// A node that serves both families goes before one that serves one, and among equals a Ready one before one that is not.
		if n == 0 || n < best || n == best && ready && !node.Ready || !s.Alive(name) {
			continue
		}
		if n > best || node.Ready && !ready {
			best, ready, candidates = n, node.Ready, nil
		}
		candidates = append(candidates, election.Candidate{Node: name, Weight: s.weight(g, node)})
	}
	return election.Holder(g.key(), recorded, candidates, s.Alive)
}

// servable counts the addresses of the group that have an endpoint somewhere and an advertisement that some node could follow. It is
// never less than what any node serves.
func (s *Snapshot) servable(g *group) int {
	n := 0
	for _, address := range g.addresses {
		followed := slices.ContainsFunc(g.advertisements[address.IP], func(ad *config.L2Advertisement) bool {
			return len(ad.Interfaces) > 0 || s.onLink(address.IP)
		})
		if followed && slices.ContainsFunc(g.services, func(svc *Service) bool {
			return svc.has(address.IP) && svc.Endpoints[family.Of(address.IP)].Any
		}) {
			n++
		}
	}
	return n
}

// onLink reports whether some node has an interface in the address's subnet.
func (s *Snapshot) onLink(ip netip.Addr) bool {
	if s.subnets == nil {
		s.subnets = map[netip.Prefix]bool{}
		for _, node := range s.Nodes {
			for _, i := range node.Interfaces {
				for _, p := range i.Prefixes {
					s.subnets[p] = true
				}
			}
		}
	}
	for p := range s.subnets {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// serves counts the addresses of the group that the node can answer for.
func (s *Snapshot) serves(g *group, node string) int {
	n := 0
	for _, address := range g.addresses {
		for range s.usable(g, address, node) {
			n++
			break
		}
	}
	return n
}

// interfaces returns, sorted, where the node can answer for an address of the group.
func (s *Snapshot) interfaces(g *group, address Address, node string) []string {
	return slices.Compact(slices.Sorted(s.usable(g, address, node)))
}

// usable yields where the node can answer for an address of the group, some names more than once: none unless every Service on the
// address that has endpoints at all can be served from there.
func (s *Snapshot) usable(g *group, address Address, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		node, ok := s.Nodes[name]
		if !ok || node.Excluded || !g.servedFrom(name, address.IP) {
			return
		}
		for _, ad := range g.advertisements[address.IP] {
			if !ad.Nodes.Matches(node.Labels) {
				continue
			}
			for _, i := range node.Interfaces {
				holds := len(ad.Interfaces) == 0 && slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(address.IP) })
				if (holds || ad.MatchesInterface(i.Name)) && !yield(i.Name) {
					return
				}
			}
		}
	}
}

// servedFrom reports whether every Service on the address that has endpoints at all can be served from the node, and there is one.
func (g *group) servedFrom(node string, ip netip.Addr) bool {
	live := false
	for _, svc := range g.services {
		if !svc.has(ip) || !svc.Endpoints[family.Of(ip)].Any {
			continue
		}
		if !svc.servedFrom(node, ip) {
			return false
		}
		live = true
	}
	return live
}

// weight sums the preferences of the group's advertisements that match the node, each advertisement counted once.
func (s *Snapshot) weight(g *group, node Node) int32 {
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

func (svc *Service) has(ip netip.Addr) bool {
	return slices.ContainsFunc(svc.Addresses, func(a Address) bool { return a.IP == ip })
}

// servedFrom reports whether traffic for the address that reaches the node finds an endpoint.
func (svc *Service) servedFrom(node string, ip netip.Addr) bool {
	endpoints := svc.Endpoints[family.Of(ip)]
	return endpoints.Any && (!svc.Local || endpoints.Nodes[node])
}

// routes returns what each peer of this node shall hear. Every peer that selects the node has an entry.
func (s *Snapshot) routes() map[string][]bgp.Route {
	node, ok := s.Nodes[s.Node]
	announces := ok && !node.Excluded
	routes := map[string][]bgp.Route{}
	for _, peer := range s.Config.Peers {
		if !peer.Nodes.Matches(node.Labels) {
			continue
		}
		byPrefix := make(map[netip.Prefix]bgp.Route, len(s.Services))
		for i := range s.Config.BGP {
			ad := &s.Config.BGP[i]
			if !announces || !ad.Nodes.Matches(node.Labels) || ad.Peers != nil && !ad.Peers[peer.Name] {
				continue
			}
			for j := range s.Services {
				for _, address := range s.Services[j].Addresses {
					if ad.Selects(address.Pool, s.Services[j].Labels) && s.Services[j].servedFrom(s.Node, address.IP) {
						merge(byPrefix, ad, address.IP)
					}
				}
			}
		}
		routes[peer.Name] = slices.SortedFunc(maps.Values(byPrefix), func(a, b bgp.Route) int {
			return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
		})
	}
	return routes
}

// merge adds the prefix of an address. Where two advertisements come to the same prefix, the peer hears it once, with the communities
// of both and each other attribute of the first by name that sets it.
func merge(byPrefix map[netip.Prefix]bgp.Route, ad *config.BGPAdvertisement, ip netip.Addr) {
	length := ad.LengthIPv4
	if ip.Is6() {
		length = ad.LengthIPv6
	}
	prefix := netip.PrefixFrom(ip, length).Masked()
	route := byPrefix[prefix]
	route.Prefix = prefix
	route.LocalPref, route.MED = cmp.Or(route.LocalPref, ad.LocalPref), cmp.Or(route.MED, ad.MED)
	route.Prepend = cmp.Or(route.Prepend, ad.ASPathPrepend)
	for _, c := range ad.Communities {
		if !slices.Contains(route.Communities, c) {
			route.Communities = append(route.Communities, c)
		}
	}
	byPrefix[prefix] = route
}
