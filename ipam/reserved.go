// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Reason says why an address is reserved, as values of metrics are spelt.
type Reason string

// The reasons.
const (
	// ReasonSpecial is that of the ranges that no Service can have on any network, such as loopback. They are always reserved.
	ReasonSpecial Reason = "special"
	// ReasonNodeAddress is that of an address that a Node has.
	ReasonNodeAddress Reason = "node_address"
	// ReasonGateway is that of the default gateway of a Node.
	ReasonGateway Reason = "gateway"
	// ReasonPeer is that of a BGP peer.
	ReasonPeer Reason = "bgp_peer"
	// ReasonAPIServer is that of an endpoint of the API server.
	ReasonAPIServer Reason = "api_server"
	// ReasonNetworkAddress is that of the lowest address of an IPv4 subnet that a Node is on (RFC 1122 §3.2.1.3).
	ReasonNetworkAddress Reason = "network_address"
	// ReasonBroadcast is that of the highest address of an IPv4 subnet that a Node is on (RFC 919 §7).
	ReasonBroadcast Reason = "broadcast"
	// ReasonSubnetRouterAnycast is that of the lowest address of an IPv6 prefix that a Node is on (RFC 4291 §2.6.1). Every router of the
	// link answers for it, and so does a Node that forwards.
	ReasonSubnetRouterAnycast Reason = "subnet_router_anycast"
)

// Reservation keeps addresses from being given, whichever pools contain them.
type Reservation struct {
	// Range is what is reserved, mostly a single address.
	Range Range
	// Reason is the kind of the reservation.
	Reason Reason
	// Owner says whose the addresses are, in words that complete "198.51.100.12 is the …": "address of Node node2".
	Owner string
	// Node is the name of the first of the Nodes that the reservation comes from, or "".
	Node string
}

// String returns the addresses and their owner: "198.51.100.12 (address of Node node2)".
func (r Reservation) String() string { return fmt.Sprintf("%s (%s)", r.Range, r.Owner) }

// special are the reservations that every allocator has.
var special = func() (reservations []Reservation) {
	for _, s := range []struct{ in, owner string }{
		{"0.0.0.0", "unspecified address"},
		{"0.0.0.1-0.255.255.255", "this network, reserved by RFC 1122"},
		{"127.0.0.0/8", "loopback"},
		{"169.254.0.0/16", "link-local"},
		{"224.0.0.0/4", "multicast"},
		{"240.0.0.0-255.255.255.254", "class E, reserved by RFC 1112"},
		{"255.255.255.255", "limited broadcast"},
		{"::", "unspecified address"},
		{"::1", "loopback"},
		{"fe80::/10", "link-local"},
		{"ff00::/8", "multicast"},
	} {
		r, err := ParseRange(s.in)
		if err != nil {
			panic(err)
		}
		reservations = append(reservations, Reservation{Range: r, Reason: ReasonSpecial, Owner: s.owner})
	}
	mapped := Range{netip.MustParseAddr("::ffff:0.0.0.0"), netip.MustParseAddr("::ffff:255.255.255.255")} // ParseRange refuses them.
	return append(reservations, Reservation{Range: mapped, Reason: ReasonSpecial, Owner: "IPv4-mapped"})
}()

// Network is what is known of the network that the Nodes are on.
type Network struct {
	Nodes []NetworkNode
	// Peers are BGP peers that are no Nodes.
	Peers []NetworkPeer
	// APIServers are the addresses under which the API server is reached.
	APIServers []netip.Addr
}

// NetworkNode is a Node with its place in the network.
type NetworkNode struct {
	Name string
	// Addresses are those of the Node's status.
	Addresses []netip.Addr
	// Interfaces are the addresses on the Node's interfaces with the lengths of their subnets: 198.51.100.11/24. The caller leaves out
	// what is there for a Service, such as an address that a claim holds.
	Interfaces []netip.Prefix
	// Gateways are the next hops of the Node's default routes.
	Gateways []netip.Addr
}

// NetworkPeer is a BGP peer.
type NetworkPeer struct {
	Name    string
	Address netip.Addr
}

// ReservedOf returns what must not be given on a network, sorted by address and then by reason, one reservation for each
// address and reason. Where several Nodes have the same one, the first by name is named and the others are counted. For
// example, node1 with the interface 198.51.100.11/24 reserves 198.51.100.0, 198.51.100.11 and 198.51.100.255, and with
// 2001:db8:51::11/64 it reserves 2001:db8:51:: and 2001:db8:51::11.
//
// A subnet of one or two addresses has no network, broadcast or anycast address: /31 (RFC 3021), /32, /127 (RFC 6164), /128. Addresses that
// are always reserved, such as 127.0.0.1 and link-local gateways, are left out.
func ReservedOf(network Network) []Reservation {
	owners := owners{}
	nodes := slices.SortedFunc(slices.Values(network.Nodes), func(a, b NetworkNode) int { return strings.Compare(a.Name, b.Name) })
	for _, node := range nodes {
		for _, a := range node.Addresses {
			owners.add(a, ReasonNodeAddress, "address of Node ", node.Name)
		}
		for _, p := range node.Interfaces {
			owners.addInterface(p, node.Name)
		}
		for _, a := range node.Gateways {
			owners.add(a, ReasonGateway, "default gateway of ", node.Name)
		}
	}
	for _, peer := range network.Peers {
		owners.add(peer.Address, ReasonPeer, "BGP peer ", peer.Name)
	}
	for _, a := range network.APIServers {
		owners.add(a, ReasonAPIServer, "endpoint of the API server", "")
	}
	return owners.reservations()
}

// owners has, for each reserved address and reason, the names of those that have it, in the order in which they were added. For
// example, where node1 and node2 are on 198.51.100.0/24, both own its broadcast address 198.51.100.255.
type owners map[reservedFor][]string

type reservedFor struct {
	address netip.Addr
	reason  Reason
	what    string // in words, before the name of the owner
}

// add adds an owner, once, unless the address is always reserved.
func (o owners) add(a netip.Addr, reason Reason, what, owner string) {
	a = a.Unmap().WithZone("")
	k := reservedFor{a, reason, what}
	if n := len(o[k]); a.IsValid() && len(specialIndex.at(a)) == 0 && (n == 0 || o[k][n-1] != owner) {
		o[k] = append(o[k], owner)
	}
}

// addInterface adds the address of a Node's interface, and what its subnet reserves.
func (o owners) addInterface(p netip.Prefix, node string) {
	if !p.IsValid() {
		return
	}
	o.add(p.Addr(), ReasonNodeAddress, "address of Node ", node)
	switch subnet := p.Masked(); {
	case p.Addr().BitLen()-p.Bits() < 2:
	case subnet.Addr().Is4():
		o.add(subnet.Addr(), ReasonNetworkAddress, fmt.Sprintf("network address of %s on ", subnet), node)
		o.add(netipx.PrefixLastIP(subnet), ReasonBroadcast, fmt.Sprintf("broadcast address of %s on ", subnet), node)
	default:
		o.add(subnet.Addr(), ReasonSubnetRouterAnycast, fmt.Sprintf("subnet-router anycast address of %s (RFC 4291 §2.6.1) on ", subnet), node)
	}
}

// reservations returns a reservation for each address and reason, sorted, as in "default gateway of node1 and 2 more".
func (o owners) reservations() (all []Reservation) {
	for _, k := range slices.SortedFunc(maps.Keys(o), func(a, b reservedFor) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.reason, b.reason), strings.Compare(a.what, b.what))
	}) {
		names := o[k]
		owner := k.what + names[0]
		if more := len(names) - 1; more > 0 {
			owner += fmt.Sprintf(" and %d more", more)
		}
		r := Reservation{Range: Range{k.address, k.address}, Reason: k.reason, Owner: owner}
		if k.reason != ReasonPeer && k.reason != ReasonAPIServer {
			r.Node = names[0]
		}
		all = append(all, r)
	}
	return all
}

var specialIndex = reservationIndex(special)

func reservationIndex(reservations []Reservation) index {
	spans := make([]span, len(reservations))
	for i, r := range reservations {
		spans[i] = span{r.Range, i}
	}
	return newIndex(spans)
}

// SetReserved replaces all reservations but those of special ranges, which are always there. Reserved addresses are not
// given, neither chosen nor asked for, and capacity does not count them. A Service that holds one keeps it. It reports
// whether an address became free.
//
// The partitions of pools change by the difference to the reservations before, whatever their size is.
func (a *Allocator) SetReserved(reservations []Reservation) (freed bool) {
	all := slices.Concat(special, reservations)
	next := reservationIndex(all)
	a.mu.Lock()
	defer a.mu.Unlock()
	come, gone := next.beyond(a.reserved), a.reserved.beyond(next)
	a.reservations, a.reserved = all, next
	for _, r := range come {
		for p, part := range a.partitionsIn(r) {
			p.partitions[part.Family()].reserve(part)
		}
	}
	for _, r := range gone {
		held := a.heldIn(r)
		for p, part := range a.partitionsIn(r) {
			freed = p.partitions[part.Family()].unreserve(part, held) || freed
		}
	}
	return freed
}

// partitionsIn yields every pool with each part of the range that it may contain.
func (a *Allocator) partitionsIn(r Range) iter.Seq2[*pool, Range] {
	return func(yield func(*pool, Range) bool) {
		for _, s := range a.index.overlapping(r) {
			for _, i := range s.items {
				if !yield(a.ordered[i], common(s.Range, r)) {
					return
				}
			}
		}
	}
}

// heldIn returns the addresses of the range that are not free, in no order.
func (a *Allocator) heldIn(r Range) (held []netip.Addr) {
	if n := size(r); n.IsInt64() && n.Int64() <= int64(len(a.held)) {
		for address := r.First; ; address = address.Next() {
			if _, ok := a.held[address]; ok {
				held = append(held, address)
			}
			if address == r.Last {
				return held
			}
		}
	}
	for address := range a.held {
		if r.Contains(address) {
			held = append(held, address)
		}
	}
	return held
}

// ReservedAt returns the reservations of an address, in the order in which they were given to SetReserved.
func (a *Allocator) ReservedAt(address netip.Addr) (reservations []Reservation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.reserved.at(address) {
		reservations = append(reservations, a.reservations[i])
	}
	return reservations
}

// isReserved reports whether the address is reserved.
func (a *Allocator) isReserved(address netip.Addr) bool { return len(a.reserved.at(address)) > 0 }

// reservedError says whose a reserved address is, and is nil for any other.
func (a *Allocator) reservedError(address netip.Addr) error {
	var owners []string
	for _, i := range a.reserved.at(address) {
		owners = append(owners, a.reservations[i].Owner)
	}
	if len(owners) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s (%s)", ErrReserved, address, strings.Join(owners, ", "))
}

// ReservedUsage is what of a pool is reserved.
type ReservedUsage struct {
	// Addresses is their number, by family; it saturates at math.MaxInt64.
	Addresses map[family.Family]int64
	// First are the lowest ten reservations, cut to the addresses of the pool.
	First []Reservation
	// Held are the reserved addresses that Services hold from this pool, sorted. They count neither as capacity nor as allocated.
	Held []netip.Addr
}

// mostReserved is how many reservations of a pool Usage names.
const mostReserved = 10

// reservedIn returns the lowest reservations in a pool, at most so many.
func (a *Allocator) reservedIn(p *pool, most int) (first []Reservation) {
	for _, af := range family.All {
		part := p.partitions[af]
		if part == nil {
			continue
		}
		for _, allowed := range part.allowed {
			for _, s := range a.reserved.overlapping(allowed) {
				cut, ok := part.trim(common(s.Range, allowed))
				if !ok {
					continue
				}
				for _, i := range s.items {
					if len(first) == most {
						return first
					}
					r := a.reservations[i]
					r.Range = cut
					first = append(first, r)
				}
			}
		}
	}
	return first
}
