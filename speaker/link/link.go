// SPDX-License-Identifier: Apache-2.0

// Package link describes the interfaces and addresses of a node at one moment, and says what follows from them. It is pure: package
// rtnetlink below it reads the description from the kernel and keeps it current.
//
// [Interface.Unusable] says why an interface cannot announce addresses on its link. [Interface.BestAddresses] and
// [Snapshot.DefaultRouteAddresses] choose the addresses at which others may reach this node. A [Path] says how this node reaches an
// address, and so from where it speaks with a peer.
package link

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
)

// A Snapshot is the state of the node's interfaces at one moment. It is never changed.
type Snapshot struct {
	// Interfaces are ordered by index.
	Interfaces []Interface
	// DefaultRoutes are the unicast default routes of the main table, the preferred one first.
	DefaultRoutes map[family.Family][]DefaultRoute
	// Subnets are the prefixes on the links of interfaces, the route that the kernel prefers first.
	Subnets []Subnet
}

// A Subnet is a prefix that a route of the main table, without a next hop, says to be on the link of an interface. It is neither a single
// address nor link-local.
type Subnet struct {
	Prefix netip.Prefix
	// Metric says how much the route is preferred: the lowest is.
	Metric int
	// Index is that of the interface.
	Index int
}

// A DefaultRoute is one next hop of a default route.
type DefaultRoute struct {
	// Metric says how much the route is preferred: the lowest is.
	Metric int
	// Index is that of the interface that leads to the next hop.
	Index int
	// Gateway is the next hop, the zero Addr where the route leads to a link without one. That of an IPv4 route may be an IPv6 address.
	Gateway netip.Addr
	// Source is the address that the route says to send from, the zero Addr where it leaves that to the kernel.
	Source netip.Addr
}

// An Interface is a network interface with its addresses.
type Interface struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	// Kind is the driver's kind, as in `ip -d link`: device, bridge, bond, vlan, veth, vrf, …
	Kind string

	// Up means that the interface is set up and has a carrier (IFF_UP and IFF_RUNNING).
	Up       bool
	Loopback bool
	NoARP    bool

	// Master is the index of the bridge, bond, team or VRF that the interface belongs to, 0 for none.
	Master int
	// InVRF means that the master is a VRF.
	InVRF bool

	// Addresses are ordered by prefix.
	Addresses []Address
}

// An Address is one address of an interface.
type Address struct {
	// Prefix is the address, unmasked, with the length of its subnet.
	Prefix netip.Prefix
	// Tentative and DADFailed are the states of duplicate address detection in which an address must not be used. An optimistic address
	// (RFC 4429) is not tentative.
	Tentative, DADFailed bool
	// Deprecated addresses are not for new communication; Temporary ones (RFC 8981) change.
	Deprecated, Temporary bool
	// Secondary IPv4 addresses are in the subnet of another one that came before, which the kernel sends from.
	Secondary bool
	// Permanent addresses were configured without a lifetime.
	Permanent bool
}

// IsUsable reports whether others may be told to send to this address: it is unique on the link, preferred, and stays.
func (a Address) IsUsable() bool {
	addr := a.Prefix.Addr()
	return !a.Tentative && !a.DADFailed && !a.Deprecated && !a.Temporary && addr.IsGlobalUnicast()
}

// A Reason says why an interface cannot announce addresses on its link.
type Reason string

// The reasons.
const (
	Down       Reason = "down or without carrier"
	IsLoopback Reason = "loopback"
	NoARP      Reason = "does not use ARP"
	NoMAC      Reason = "has no Ethernet address"
	HasMaster  Reason = "belongs to a bridge or bond"
)

// Unusable returns why the interface cannot announce addresses on its link, or "" if it can. A port of a bridge, bond or team cannot: its
// master has the addresses and answers. A member of a VRF can: it keeps its own ARP and NDP.
func (i *Interface) Unusable() Reason {
	switch {
	case i.Loopback:
		return IsLoopback
	case !i.Up:
		return Down
	case i.NoARP:
		return NoARP
	case len(i.MAC) != 6 || [6]byte(i.MAC) == [6]byte{}:
		return NoMAC
	case i.Master != 0 && !i.InVRF:
		return HasMaster
	}
	return ""
}

// ByName returns the interface of a name.
func (s *Snapshot) ByName(name string) (Interface, bool) {
	return s.find(func(i Interface) bool { return i.Name == name })
}

// ByIndex returns the interface of an index.
func (s *Snapshot) ByIndex(index int) (Interface, bool) {
	return s.find(func(i Interface) bool { return i.Index == index })
}

func (s *Snapshot) find(match func(Interface) bool) (Interface, bool) {
	if n := slices.IndexFunc(s.Interfaces, match); n >= 0 {
		return s.Interfaces[n], true
	}
	return Interface{}, false
}

// A Choice says which of its own addresses a node names to others.
type Choice struct {
	// Excluded reports whether an address is not this node's alone: the node has it for a Service, or another node has it too. Nil excludes
	// none.
	Excluded func(netip.Addr) bool
	// Preferred are the addresses that go before others, the first of them before the next: the InternalIPs of the Node.
	Preferred []netip.Addr
}

// preferring returns a Choice in which more addresses are preferred, after those that are.
func (c Choice) preferring(addresses ...netip.Addr) Choice {
	c.Preferred = slices.Concat(c.Preferred, addresses)
	return c
}

// BestAddresses returns the interface's best own address of each family for others that are near dst to reach this node at. A family for
// which there is none is missing. Only addresses that are usable (Address.IsUsable) and not excluded count.
//
// Of several addresses the one comes first whose subnet contains dst: a router on the link can send to no other one. Then comes one that is
// preferred, then a primary one (a secondary one may be keepalived's, and gone to another node the next moment), then a permanent one, then
// one of a subnet rather than a single address, then the lowest. For example an interface with 192.0.2.11/24, 198.51.100.5/24 (secondary) and
// 198.51.100.11/24 is reached at 198.51.100.11 from 198.51.100.1, and at 198.51.100.5 if that is the Node's InternalIP.
func (i *Interface) BestAddresses(dst netip.Addr, choice Choice) map[family.Family]netip.Addr {
	usable := slices.DeleteFunc(slices.Clone(i.Addresses), func(a Address) bool {
		return !a.IsUsable() || choice.Excluded != nil && choice.Excluded(a.Prefix.Addr())
	})
	rank := func(a Address) int {
		if n := slices.Index(choice.Preferred, a.Prefix.Addr()); n >= 0 {
			return n
		}
		return len(choice.Preferred)
	}
	slices.SortStableFunc(usable, func(x, y Address) int {
		return cmp.Or(
			trueFirst(x.Prefix.Contains(dst.WithZone("")), y.Prefix.Contains(dst.WithZone(""))),
			cmp.Compare(rank(x), rank(y)),
			trueFirst(!x.Secondary, !y.Secondary),
			trueFirst(x.Permanent, y.Permanent),
			trueFirst(!x.Prefix.IsSingleIP(), !y.Prefix.IsSingleIP()),
			x.Prefix.Addr().Compare(y.Prefix.Addr()),
		)
	})
	best := map[family.Family]netip.Addr{}
	for _, a := range usable {
		addr := a.Prefix.Addr()
		if _, ok := best[family.Of(addr)]; !ok {
			best[family.Of(addr)] = addr
		}
	}
	return best
}

// LinkLocal returns an IPv6 link-local address of the interface that can be used, with the interface as its zone, or the zero Addr if there
// is none.
func (i *Interface) LinkLocal() netip.Addr {
	for _, a := range i.Addresses {
		if addr := a.Prefix.Addr(); addr.Is6() && addr.IsLinkLocalUnicast() && !a.Tentative && !a.DADFailed {
			return addr.WithZone(i.Name)
		}
	}
	return netip.Addr{}
}

// DefaultRouteAddresses returns the node's best own addresses on the interfaces that carry a default route, of each family those of its
// default routes: the IPv4 ones first, and the preferred route's first among those of a family. These are what a node is usually known by.
func (s *Snapshot) DefaultRouteAddresses(choice Choice) []netip.Addr {
	var addrs []netip.Addr
	for _, af := range family.All {
		for _, route := range s.DefaultRoutes[af] {
			i, ok := s.ByIndex(route.Index)
			if !ok {
				continue
			}
			if addr, ok := i.BestAddresses(route.Gateway, choice.preferring(route.Source))[af]; ok && !slices.Contains(addrs, addr) {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// DefaultGateways returns the next hops of the default routes, those of IPv4 first, and the preferred route's first among those of a
// family. Those that are link-local have the interface as their zone: fe80::1%eth0.
func (s *Snapshot) DefaultGateways() []netip.Addr {
	var gateways []netip.Addr
	for _, af := range family.All {
		for _, route := range s.DefaultRoutes[af] {
			gateway := route.Gateway
			if i, ok := s.ByIndex(route.Index); ok && gateway.Is6() && gateway.IsLinkLocalUnicast() {
				gateway = gateway.WithZone(i.Name)
			}
			if gateway.IsValid() && !slices.Contains(gateways, gateway) {
				gateways = append(gateways, gateway)
			}
		}
	}
	return gateways
}

// DefaultInterfaces returns the names of the interfaces of the default route of a family that the kernel prefers: several where it has several next hops,
// as of "default nexthop via 198.51.100.1 dev eth0 nexthop via 203.0.113.1 dev eth1".
func (s *Snapshot) DefaultInterfaces(f family.Family) (names []string) {
	routes := s.DefaultRoutes[f]
	for _, route := range routes {
		if i, ok := s.ByIndex(route.Index); ok && route.Metric == routes[0].Metric && !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	return names
}

// SubnetOf returns an address of an interface with the length of the subnet that the node reaches on the link of that interface. It is a single
// address if there is none. Usable says which interfaces can be used.
//
//	address of eth0         routes without a next hop                          SubnetOf
//	198.51.100.11/24        198.51.100.0/24 dev eth0                           198.51.100.11/24
//	2001:db8:51::11/128     2001:db8:51::/64 dev eth0, as by DHCPv6            2001:db8:51::11/64
//	198.51.100.11/24        198.51.100.0/24 dev eth1 and then eth0             198.51.100.11/32, since one interface answers on a link
//	                        the same, and eth1 is down                         198.51.100.11/24
//
// An address whose subnet has no route counts as it stands, and so does one in a VRF, whose routes are in another table.
func (s *Snapshot) SubnetOf(i *Interface, a Address, usable func(*Interface) bool) netip.Prefix {
	addr := a.Prefix.Addr()
	if i.InVRF {
		return a.Prefix
	}
	if a.Prefix.IsSingleIP() {
		longest := a.Prefix
		for _, subnet := range s.Subnets {
			if subnet.Index == i.Index && subnet.Prefix.Contains(addr) && (longest.IsSingleIP() || subnet.Prefix.Bits() > longest.Bits()) {
				longest = netip.PrefixFrom(addr, subnet.Prefix.Bits())
			}
		}
		return longest
	}
	routed := slices.ContainsFunc(s.Subnets, func(subnet Subnet) bool { return subnet.Index == i.Index && subnet.Prefix == a.Prefix.Masked() })
	for _, subnet := range s.Subnets {
		if !routed || subnet.Prefix != a.Prefix.Masked() {
			continue
		}
		if subnet.Index == i.Index {
			break
		}
		if other, ok := s.ByIndex(subnet.Index); ok && usable(&other) {
			return netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	return a.Prefix
}

// DefaultGateway returns the next hop of the most preferred default route of a family that has one, with the interface as its zone if it is
// link-local. With a name of an interface it is that of the routes on this interface.
func (s *Snapshot) DefaultGateway(f family.Family, onInterface string) (netip.Addr, bool) {
	for _, route := range s.DefaultRoutes[f] {
		i, ok := s.ByIndex(route.Index)
		if !ok || !route.Gateway.IsValid() || onInterface != "" && i.Name != onInterface {
			continue
		}
		if route.Gateway.Is6() && route.Gateway.IsLinkLocalUnicast() {
			return route.Gateway.WithZone(i.Name), true
		}
		return route.Gateway, true
	}
	return netip.Addr{}, false
}

// AddressesFor returns the addresses of each family at which dst, to which this interface leads, may reach this node: those of BestAddresses
// where, of dst's family, the one that the kernel sends from comes after those that are preferred, and of the other family the one that a
// default route on the interface says.
func (s *Snapshot) AddressesFor(i *Interface, dst, source netip.Addr, choice Choice) map[family.Family]netip.Addr {
	addresses := map[family.Family]netip.Addr{}
	for _, f := range family.All {
		near, by := dst, source
		if f != family.Of(dst) {
			near, by = netip.Addr{}, netip.Addr{}
			for _, route := range s.DefaultRoutes[f] {
				if route.Index == i.Index {
					near, by = route.Gateway, route.Source
					break
				}
			}
		}
		if best, ok := i.BestAddresses(near, choice.preferring(by))[f]; ok {
			addresses[f] = best
		}
	}
	return addresses
}

// A Destination is an address that this node sends to.
type Destination struct {
	Address netip.Addr
	// Interface is the name of the interface, or of the VRF, by which alone packets are to leave; "" leaves that to the routes. A link-local
	// IPv6 address has its interface as the zone instead.
	Interface string
}

// A Path says how this node reaches an address.
type Path struct {
	// Interface is the name of the interface that leads there, "" where no path was ever found.
	Interface string
	// Source is the address that packets are sent from where the sender asks for none, the zero Addr if there is none. If the destination
	// is link-local, so is Source, with its zone.
	Source netip.Addr
	// OnLink says that there is no router on the way.
	OnLink bool
	// Own says that the address is one of this node.
	Own bool
	// LinkLocal is the IPv6 link-local address of the interface, with its zone, the zero Addr if there is none (Interface.LinkLocal).
	LinkLocal netip.Addr
	// Addresses are the addresses of each family at which the destination may reach this node (Interface.BestAddresses).
	Addresses map[family.Family]netip.Addr
	// Err says why there is no path now. The other fields then describe the last path that was found, or none.
	Err error
}

func trueFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}
