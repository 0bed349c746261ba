// SPDX-License-Identifier: Apache-2.0

package rtnetlink

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/link"
)

// Paths asks the kernel how it reaches each of the destinations. A link-local address needs its zone, an interface name. The node's own
// addresses in a path are chosen as by link.Snapshot.AddressesFor. Routes are looked up in the network namespace of the calling thread.
//
// There is a path for every address. While there is no route to one, its path is the one of the last call that found it, with Err saying
// why it is not current. The path to an address is remembered as long as each call asks for it.
func (w *Watcher) Paths(to []link.Destination, choice link.Choice) map[link.Destination]link.Path {
	snapshot := w.Snapshot()
	paths := make(map[link.Destination]link.Path, len(to))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, dst := range to {
		path, err := lookUp(snapshot, dst, choice)
		last := w.paths[dst]
		if err != nil {
			path = last
			path.Err = fmt.Errorf("looking up the route to %s: %w", dst.Address, err)
		} else if !path.Source.IsValid() && path.Interface == last.Interface {
			// The interface's link-local address is being checked for duplicates after a restart, for instance.
			path.Source = last.Source
		}
		paths[dst] = path
	}
	w.paths = paths
	return maps.Clone(paths)
}

// InterfaceTo asks the kernel by which interface it sends to an address, in the network namespace of the calling thread.
func (w *Watcher) InterfaceTo(address netip.Addr) (string, error) {
	path, err := lookUp(w.Snapshot(), link.Destination{Address: address}, link.Choice{})
	return path.Interface, err
}

// lookUp asks the kernel for the route to dst.
func lookUp(s *link.Snapshot, to link.Destination, choice link.Choice) (link.Path, error) {
	dst := to.Address
	if zone := dst.Zone(); zone != "" { // A zone names the interface, so that there is nothing to ask.
		i, ok := s.ByName(zone)
		if !ok {
			return link.Path{}, fmt.Errorf("no interface %s", zone)
		}
		local := i.LinkLocal()
		return link.Path{Interface: zone, Source: local, OnLink: true, LinkLocal: local, Addresses: s.AddressesFor(&i, dst, netip.Addr{}, choice)}, nil
	}
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Oif: to.Interface})
	if err != nil {
		return link.Path{}, err
	}
	if len(routes) == 0 {
		return link.Path{}, unix.ENETUNREACH
	}
	route := routes[0]
	i, ok := s.ByIndex(route.LinkIndex)
	if !ok {
		return link.Path{}, fmt.Errorf("interface %d is not known yet", route.LinkIndex)
	}
	source, _ := netip.AddrFromSlice(route.Src) // the zero Addr where the kernel names none
	source = source.Unmap()
	return link.Path{
		Interface: i.Name, Source: source, OnLink: route.Gw == nil && route.Via == nil, Own: route.Type == unix.RTN_LOCAL,
		LinkLocal: i.LinkLocal(), Addresses: s.AddressesFor(&i, dst, source, choice),
	}, nil
}
