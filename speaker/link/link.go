// SPDX-License-Identifier: Apache-2.0

// Package link tells what interfaces and addresses this node has, and tells it again whenever they change.
//
// A [Watcher] listens to the kernel's rtnetlink events and keeps the current state as an immutable [Snapshot]. An
// event is only a hint that something changed: what changed is read by listing interfaces, addresses and default
// routes anew, so that lost, reordered or merged events (a full socket buffer, ENOBUFS) never leave a state that the
// kernel does not have. Events that come close together are answered by one listing, and a listing that finds nothing
// new notifies nobody. Nothing is polled.
//
// What to conclude from a Snapshot is pure: [Snapshot.Holding] finds the interfaces in an address's subnet,
// [Interface.Unusable] says why one cannot announce, [Interface.SourceOn] and [Snapshot.DefaultRouteAddresses] choose
// own addresses. Only [Watcher.SourceFor] asks the kernel, for a route.
package link

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
)

// A Snapshot is the state of the node's interfaces at one moment. It is never changed.
type Snapshot struct {
	// Interfaces are ordered by index.
	Interfaces []Interface
	// DefaultIPv4 and DefaultIPv6 are the unicast default routes of the main table, the preferred one first.
	DefaultIPv4, DefaultIPv6 []DefaultRoute
}

// A DefaultRoute is one next hop of a default route.
type DefaultRoute struct {
	Metric int
	Index  int // of the interface
}

// An Interface is a network interface with its addresses.
type Interface struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	MTU   int
	// Kind is the driver's kind, as in `ip -d link`: device, bridge, bond, vlan, veth, vrf, …
	Kind string

	// Up means that the interface is set up and has a carrier (IFF_UP and IFF_RUNNING).
	Up       bool
	Loopback bool
	NoARP    bool

	// Master is the index of the bridge, bond, team or VRF the interface belongs to, 0 for none.
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
	// Tentative and DADFailed are the states of duplicate address detection in which an address must not be used. An
	// optimistic address (RFC 4429) is not tentative.
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
	Enslaved   Reason = "belongs to a bridge or bond"
)

// Unusable returns why the interface cannot announce addresses on its link, or "" if it can. A port of a bridge, bond
// or team cannot: its master has the addresses and answers. A member of a VRF can: it keeps its own ARP and NDP.
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
		return Enslaved
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

// Holding returns the interfaces in whose subnets addr lies, usable or not. A prefix of a single address names no
// subnet and does not count, wherever it is; neither do the loopback interface's.
func (s *Snapshot) Holding(addr netip.Addr) []Interface {
	var holding []Interface
	for _, i := range s.Interfaces {
		if !i.Loopback && slices.ContainsFunc(i.Addresses, func(a Address) bool {
			return !a.Prefix.IsSingleIP() && a.Prefix.Contains(addr)
		}) {
			holding = append(holding, i)
		}
	}
	return holding
}

// SourceOn returns the interface's best own address of each family for others to reach this node at, when they are
// near dst; the zero Addr where there is none. Only addresses that are usable (Address.IsUsable) and not excluded
// count, excluded being what the node holds for others. One whose subnet contains dst comes first, then a primary
// one (a secondary one may be keepalived's and gone to another node the next moment), then a permanent one, then one of
// a subnet rather than a single address, then the lowest.
func (i *Interface) SourceOn(dst netip.Addr, excluded func(netip.Addr) bool) (v4, v6 netip.Addr) {
	usable := slices.DeleteFunc(slices.Clone(i.Addresses), func(a Address) bool {
		return !a.IsUsable() || excluded != nil && excluded(a.Prefix.Addr())
	})
	slices.SortStableFunc(usable, func(x, y Address) int {
		return cmp.Or(
			trueFirst(x.Prefix.Contains(dst.WithZone("")), y.Prefix.Contains(dst.WithZone(""))),
			trueFirst(!x.Secondary, !y.Secondary),
			trueFirst(x.Permanent, y.Permanent),
			trueFirst(!x.Prefix.IsSingleIP(), !y.Prefix.IsSingleIP()),
			x.Prefix.Addr().Compare(y.Prefix.Addr()),
		)
	})
	for _, a := range usable {
		switch addr := a.Prefix.Addr(); {
		case addr.Is4() && !v4.IsValid():
			v4 = addr
		case addr.Is6() && !v6.IsValid():
			v6 = addr
		}
	}
	return v4, v6
}

// DefaultRouteAddresses returns the node's best own address of each family on the interfaces that carry that family's
// default route, the preferred route's first. These are what a node is usually known by.
func (s *Snapshot) DefaultRouteAddresses(excluded func(netip.Addr) bool) (v4, v6 []netip.Addr) {
	collect := func(routes []DefaultRoute, isIPv4 bool) (addrs []netip.Addr) {
		for _, route := range routes {
			i, ok := s.ByIndex(route.Index)
			if !ok {
				continue
			}
			addr, addr6 := i.SourceOn(netip.Addr{}, excluded)
			if !isIPv4 {
				addr = addr6
			}
			if addr.IsValid() && !slices.Contains(addrs, addr) {
				addrs = append(addrs, addr)
			}
		}
		return addrs
	}
	return collect(s.DefaultIPv4, true), collect(s.DefaultIPv6, false)
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
