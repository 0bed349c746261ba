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

// Paths asks the kernel how it reaches each of the addresses. A link-local address needs its zone, an interface name. The node's own
// addresses in a path are chosen as by link.Interface.BestAddresses; see there for excluded. Routes are looked up in the network
// namespace of the calling thread.
//
// There is a path for every address. While there is no route to one, its path is the one of the last call that found it, with Err saying
// why it is not current. The path to an address is remembered as long as each call asks for it.
func (w *Watcher) Paths(to []netip.Addr, excluded func(netip.Addr) bool) map[netip.Addr]link.Path {
	snapshot := w.Snapshot()
	paths := make(map[netip.Addr]link.Path, len(to))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, dst := range to {
		path, err := lookUp(snapshot, dst, excluded)
		last := w.paths[dst]
		if err != nil {
			path = last
			path.Err = fmt.Errorf("looking up the route to %s: %w", dst, err)
		} else if !path.Source.IsValid() && path.Interface == last.Interface {
			// The interface's link-local address is being checked for duplicates after a restart, for instance.
			path.Source = last.Source
		}
		paths[dst] = path
	}
	w.paths = paths
	return maps.Clone(paths)
}

// lookUp asks the kernel for the route to dst.
func lookUp(s *link.Snapshot, dst netip.Addr, excluded func(netip.Addr) bool) (link.Path, error) {
	if zone := dst.Zone(); zone != "" { // A zone names the interface, so that there is nothing to ask.
		i, ok := s.ByName(zone)
		if !ok {
			return link.Path{}, fmt.Errorf("no interface %s", zone)
		}
		return link.Path{Interface: zone, Source: i.LinkLocal(), OnLink: true, Addresses: i.BestAddresses(dst, excluded)}, nil
	}
	routes, err := netlink.RouteGet(dst.AsSlice())
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
	return link.Path{
		Interface: i.Name, Source: source.Unmap(), OnLink: route.Gw == nil && route.Via == nil, Addresses: i.BestAddresses(dst, excluded),
	}, nil
}
