// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/config"
)

// KernelEntry is a prefix that this node puts into its kernel, for other routing software to redistribute: as a route to an interface, and
// if it is a single address and has an Interface, as an address of that as well.
type KernelEntry struct {
	Prefix netip.Prefix
	// Interface is the name of the interface, "" for one of ours that has no addresses.
	Interface string
}

// Refusal says of an address why this node does less with it than an InterfaceAdvertisement asks for.
type Refusal struct {
	Advertisement string
	Address       netip.Addr
	// Reason is a clause without a subject, such as "is inside 198.51.100.0/24, a subnet of this node".
	Reason string
}

// kernelEntries calls put for each entry that a node makes of an address of a Service by an InterfaceAdvertisement, and refuse if that is
// not what it asks for.
//
// An address gets the prefix of the advertisement's length, and none beside it: routers then have one route for many addresses. It gets a
// host route beside that where the Service is Local, since other nodes have the same prefix and no endpoint; and instead of it where the
// prefix would take packets that are not for Services: for an address that is outside the pool or that the pool excludes, or for a node, a peer,
// or a subnet of this node.
//
//	address         pool               length   of the node        entries
//	192.0.2.10      192.0.2.0/24       24                          192.0.2.0/24
//	192.0.2.10      192.0.2.0/24       24       (Service is Local) 192.0.2.0/24, 192.0.2.10/32
//	192.0.2.10      192.0.2.0/28       24                          192.0.2.10/32
//	192.0.2.10      the first          24       (excludes .1)      192.0.2.10/32, refused to be more
//	198.51.100.64   198.51.100.64/28   28       198.51.100.11/24   198.51.100.64/32 without an interface, refused to be more;
//	                                                               nothing on one: every node would answer ARP for it
func (v *view) kernelEntries(
	ad *config.InterfaceAdvertisement, name string, svc *Service, put func(KernelEntry), refuse func(Refusal),
) {
	node, ok := v.Nodes[name]
	if !ok || node.Excluded || !ad.Nodes.Matches(node.Labels) {
		return
	}
	for _, address := range svc.Addresses {
		if !ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) || !svc.servedFrom(name, address.IP) {
			continue
		}
		host := netip.PrefixFrom(address.IP, address.IP.BitLen())
		if subnet, inside := node.Overlaps(host); inside && ad.Interface != "" {
			refuse(Refusal{ad.Name, address.IP, fmt.Sprintf("is inside %s, a subnet of this node, "+
				"where every node would answer ARP or NDP for it: use an L2Advertisement, or leave spec.interface out", subnet)})
			continue
		}
		prefix, reason := v.kernelPrefix(ad, name, address)
		if reason != "" {
			refuse(Refusal{ad.Name, address.IP, reason})
		}
		put(KernelEntry{prefix, ad.Interface})
		if svc.Local && prefix != host {
			put(KernelEntry{host, ad.Interface})
		}
	}
}

// kernelPrefix returns the prefix of an address, and why it is no shorter.
func (v *view) kernelPrefix(ad *config.InterfaceAdvertisement, name string, address Address) (prefix netip.Prefix, reason string) {
	host := netip.PrefixFrom(address.IP, address.IP.BitLen())
	length := ad.LengthIPv4
	if family.Of(address.IP) == family.IPv6 {
		length = ad.LengthIPv6
	}
	prefix = netip.PrefixFrom(address.IP, length).Masked()
	if prefix == host {
		return host, ""
	}
	if why := v.notInKernel(prefix, address.Pool, name); why != "" {
		return host, "has a host route, since " + why
	}
	// The condition of the advertisement tells of prefixes that reach beyond the pool.
	return v.aggregate(address, length, name), ""
}

// notInKernel returns why the kernel of a node must not have a route to an aggregate of addresses from a pool, "" if it may: packets that the
// node itself sends to others in the prefix would end on the node. Routers are told such a prefix by BGP all the same, since they have longer
// ones to the others. For example the pool has 192.0.2.0/24 and excludes 192.0.2.1, a router's.
func (v *view) notInKernel(prefix netip.Prefix, pool, name string) (why string) {
	node := v.Nodes[name]
	if subnet, overlaps := node.Overlaps(prefix); overlaps {
		return fmt.Sprintf("%s and %s, a subnet of this node, overlap", prefix, subnet)
	}
	for i := range v.Config.Peers {
		if peer := &v.Config.Peers[i]; peer.Nodes.Matches(node.Labels) && prefix.Contains(peer.Peer.Address) {
			return fmt.Sprintf("BGPPeer %s is in %s", peer.Name, prefix)
		}
	}
	if v.swallows(prefix, name) {
		return fmt.Sprintf("an address of a node is in %s", prefix)
	}
	if excluded := v.Config.Excluded[pool]; excluded != nil && excluded.OverlapsPrefix(prefix) {
		return fmt.Sprintf("pool %s excludes addresses in %s", pool, prefix)
	}
	return ""
}

// Overlaps returns a subnet of the node that has addresses in common with a prefix.
func (n *Node) Overlaps(prefix netip.Prefix) (subnet netip.Prefix, overlaps bool) {
	return n.findSubnet(prefix.Overlaps)
}

// findSubnet returns a subnet of the node that matches.
func (n *Node) findSubnet(match func(netip.Prefix) bool) (subnet netip.Prefix, found bool) {
	for i := range n.Interfaces {
		if j := slices.IndexFunc(n.Interfaces[i].Prefixes, match); j >= 0 {
			return n.Interfaces[i].Prefixes[j], true
		}
	}
	if i := slices.IndexFunc(n.DownSubnets, match); i >= 0 {
		return n.DownSubnets[i], true
	}
	return netip.Prefix{}, false
}

// kernelTable is what this node puts into its kernel, kept up to date by the Services that come and go. An entry stays until its count is
// zero.
type kernelTable struct {
	entries  map[KernelEntry]int
	local    map[netip.Prefix]int // those of entries of Services with externalTrafficPolicy Local
	refusals map[Refusal]int
	// hosts are the addresses of Services, as prefixes, for which peers are told an aggregate that the kernel must not have, by the aggregate.
	hosts   map[netip.Prefix]map[netip.Prefix]int
	changed bool // since decide was called
}

// newKernelTable returns the table of a view without Services.
func newKernelTable() *kernelTable {
	return &kernelTable{
		entries: map[KernelEntry]int{}, local: map[netip.Prefix]int{}, refusals: map[Refusal]int{},
		hosts: map[netip.Prefix]map[netip.Prefix]int{}, changed: true,
	}
}

// count adds a number for all that a Service has in the kernel.
func (t *kernelTable) count(v *view, svc *Service, by int) {
	for i := range v.Config.Peers {
		if peer := &v.Config.Peers[i]; peer.Nodes.Matches(v.Nodes[v.Node].Labels) {
			t.countHosts(v, svc, peer, by)
		}
	}
	for i := range v.Config.Interfaces {
		v.kernelEntries(&v.Config.Interfaces[i], v.Node, svc, func(e KernelEntry) {
			t.changed = true
			if t.entries[e] += by; t.entries[e] == 0 {
				delete(t.entries, e)
			}
			if svc.Local {
				if t.local[e.Prefix] += by; t.local[e.Prefix] == 0 {
					delete(t.local, e.Prefix)
				}
			}
		}, func(r Refusal) {
			t.changed = true
			if t.refusals[r] += by; t.refusals[r] == 0 {
				delete(t.refusals, r)
			}
		})
	}
}

// countHosts adds a number for each address of a Service for which a peer is told an aggregate that the kernel must not have.
func (t *kernelTable) countHosts(v *view, svc *Service, peer *config.Peer, by int) {
	for i := range v.Config.BGP {
		v.contribute(svc, peer, i, func(_ *config.BGPAdvertisement, address Address, prefix netip.Prefix) {
			if prefix.IsSingleIP() || v.notInKernel(prefix, address.Pool, v.Node) == "" {
				return
			}
			t.changed = true
			hosts, host := t.hosts[prefix], netip.PrefixFrom(address.IP, address.IP.BitLen())
			if hosts == nil {
				hosts = map[netip.Prefix]int{}
				t.hosts[prefix] = hosts
			}
			if hosts[host] += by; hosts[host] == 0 {
				delete(hosts, host)
			}
			if len(hosts) == 0 {
				delete(t.hosts, prefix)
			}
		})
	}
}

// decide fills in Kernel, Refusals, Redistributes and HostRoutes.
func (t *kernelTable) decide(v *view, d *Desired) {
	t.changed = false
	d.Redistributes = slices.ContainsFunc(v.Config.Interfaces, func(ad config.InterfaceAdvertisement) bool {
		return ad.Nodes.Matches(v.Nodes[v.Node].Labels)
	})
	d.Kernel = slices.SortedFunc(maps.Keys(t.entries), func(a, b KernelEntry) int {
		return cmp.Or(strings.Compare(a.Interface, b.Interface), comparePrefixes(a.Prefix, b.Prefix))
	})
	d.Refusals = slices.SortedFunc(maps.Keys(t.refusals), func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Advertisement, b.Advertisement), a.Address.Compare(b.Address))
	})
	d.HostRoutes = make(map[netip.Prefix][]netip.Prefix, len(t.hosts))
	for prefix, hosts := range t.hosts {
		d.HostRoutes[prefix] = slices.SortedFunc(maps.Keys(hosts), comparePrefixes)
	}
}

// decideKernel fills in Kernel, Refusals, Redistributes and HostRoutes by all Services.
func (v *view) decideKernel(d *Desired) {
	t := newKernelTable()
	for i := range v.Services {
		t.count(v, &v.Services[i], 1)
	}
	t.decide(v, d)
}

// InKernel says whether some InterfaceAdvertisement selects an address of a Service, on whatever node, and whether some node has it in its
// kernel: one whose speaker is alive, and says that it can.
func (e *Explainer) InKernel(service types.NamespacedName, address Address) (selected, there bool) {
	if len(e.Config.Interfaces) == 0 {
		return false, false
	}
	g := e.groups[service]
	svc := *g.services[slices.IndexFunc(g.services, func(svc *Service) bool { return svc.Name == service })]
	svc.Addresses = []Address{address}
	for i := range e.Config.Interfaces {
		ad := &e.Config.Interfaces[i]
		if !ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) {
			continue
		}
		selected = true
		for _, name := range e.nodes {
			if e.Nodes[name].Redistributes && e.Alive(name) {
				e.kernelEntries(ad, name, &svc, func(KernelEntry) { there = true }, func(Refusal) {})
			}
			if there {
				return selected, there
			}
		}
	}
	return selected, false
}
