// SPDX-License-Identifier: Apache-2.0

package kernelroutes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/signal"
)

const (
	// mostErrors is how many errors of one reconciliation are told.
	mostErrors = 5
	// mostDumps is how often at most a list is read that changes meanwhile.
	mostDumps = 5
)

// kernel changes the kernel. One goroutine uses it.
type kernel struct {
	netlink *netlink.Handle
	// indexes are those of the interfaces in use, for the goroutine that watches them.
	indexes atomic.Pointer[map[int32]bool]
	// had are the entries whose address this process has put there: it is ours also while its route is missing.
	had map[Entry]bool
}

// open returns the kernel in the network namespace of the calling thread.
func open() (*kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	k := &kernel{netlink: handle, had: map[Entry]bool{}}
	k.indexes.Store(&map[int32]bool{})
	return k, nil
}

func (k *kernel) close() { k.netlink.Close() }

// reconcile makes the kernel have these entries, and nothing else that is ours, and returns what it has.
//
// A route goes before its address and stays longer than that: if this process ends in between, the next one knows the address.
func (k *kernel) reconcile(entries []Entry) (state State) {
	var errs []error
	links, err := k.links(entries)
	if err != nil {
		errs = append(errs, err)
	}
	failed := missing(entries, links)
	names, indexes := map[int]string{}, map[int32]bool{}
	for name, link := range links {
		names[link.Attrs().Index], indexes[int32(link.Attrs().Index)] = name, true
	}
	k.indexes.Store(&indexes)
	present, err := k.routes()
	if err != nil {
		state.Err = errors.Join(append(errs, err)...)
		return state
	}
	have := map[Entry]bool{}
	for _, route := range present {
		e := Entry{prefixOf(route.Dst), names[route.LinkIndex]}
		if _, wanted := slices.BinarySearchFunc(entries, e, compare); wanted && !have[e] {
			have[e] = true
		} else if e.Interface == "" && isOn(failed, entries, e.Prefix) {
			continue // It may be right.
		} else if err := k.remove(route); err != nil {
			errs = append(errs, err)
		}
	}
	addressed, err := k.addresses(links)
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range entries {
		link, ok := links[e.Interface]
		if !ok {
			continue // links has said why
		}
		if addressed[e] && !have[e] && !k.had[e] {
			errs = append(errs, fmt.Errorf("%s is on %s already, by another program: when it is removed there, Tandem adds its own", e.Prefix, e.Interface))
			continue
		}
		if err := k.add(e, link, have[e], addressed[e]); err != nil {
			errs = append(errs, err)
			continue
		}
		state.Entries = append(state.Entries, e)
		if e.isAddress() {
			k.had[e] = true
		}
	}
	maps.DeleteFunc(k.had, func(e Entry, _ bool) bool { _, wanted := slices.BinarySearchFunc(entries, e, compare); return !wanted })
	if err := k.sweep(links, failed); err != nil {
		errs = append(errs, err)
	}
	if more := len(errs) - mostErrors; more > 0 {
		errs = append(errs[:mostErrors], fmt.Errorf("%d more errors", more))
	}
	state.Err = errors.Join(errs...)
	return state
}

// missing returns the names of the interfaces of entries that are not among links.
func missing(entries []Entry, links map[string]netlink.Link) map[string]bool {
	names := map[string]bool{}
	for _, e := range entries {
		if links[e.Interface] == nil {
			names[e.Interface] = true
		}
	}
	return names
}

// isOn reports whether there is an entry of a prefix on one of these interfaces.
func isOn(interfaces map[string]bool, entries []Entry, prefix netip.Prefix) bool {
	for name := range interfaces {
		if _, is := slices.BinarySearchFunc(entries, Entry{prefix, name}, compare); is {
			return true
		}
	}
	return false
}

// links returns the interfaces of entries by their names, and makes those that do not exist.
func (k *kernel) links(entries []Entry) (map[string]netlink.Link, error) {
	links := map[string]netlink.Link{}
	var errs []error
	last := ""
	for _, e := range entries {
		if e.Interface == last {
			continue
		}
		last = e.Interface
		link, err := k.netlink.LinkByName(last)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			link, err = k.make(last)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("interface %s: %w", last, err))
			continue
		case link.Attrs().Flags&net.FlagUp == 0 && link.Attrs().Alias == alias:
			err = k.netlink.LinkSetUp(link)
		case link.Attrs().Flags&net.FlagUp == 0:
			err = errors.New("it is down, and was not made by Tandem: set it up")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", last, err))
			continue
		}
		links[last] = link
	}
	return links, errors.Join(errs...)
}

// make makes an interface that sends nothing anywhere.
func (k *kernel) make(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := k.netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) { // the kernel has no dummies
		err = k.netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	}
	if err != nil {
		return nil, fmt.Errorf("making it: %w", err)
	}
	link, err := k.netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(k.netlink.LinkSetAlias(link, alias), k.netlink.LinkSetARPOff(link), k.netlink.LinkSetUp(link)); err != nil {
		return nil, fmt.Errorf("setting it up: %w", err)
	}
	return k.netlink.LinkByName(name)
}

// sweep deletes the interfaces that we have made and that are not in use: neither among links nor those that failed. For example the kernel
// is out of memory for a moment, and tandem-routes cannot be read: it stays, with all its routes.
func (k *kernel) sweep(links map[string]netlink.Link, failed map[string]bool) error {
	all, err := whole(k.netlink.LinkList)
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	var errs []error
	for _, link := range all {
		if _, used := links[link.Attrs().Name]; link.Attrs().Alias == alias && !used && !failed[link.Attrs().Name] {
			if err := k.netlink.LinkDel(link); err != nil {
				errs = append(errs, fmt.Errorf("deleting interface %s: %w", link.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// routes returns all routes of ours.
func (k *kernel) routes() ([]netlink.Route, error) {
	var all []netlink.Route
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return k.netlink.RouteListFiltered(f, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		all = append(all, routes...)
	}
	return all, nil
}

// whole reads a list of the kernel until no change interrupts it, a few times at most. A node with a routing daemon changes its routes all the
// time, and one that starts Pods its interfaces.
func whole[T any](dump func() ([]T, error)) (all []T, err error) {
	for range mostDumps {
		if all, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// addresses returns the single addresses that the interfaces have, ours and others, as entries.
func (k *kernel) addresses(links map[string]netlink.Link) (map[Entry]bool, error) {
	found := map[Entry]bool{}
	var errs []error
	for name, link := range links {
		if name == Device {
			continue
		}
		addresses, err := whole(func() ([]netlink.Addr, error) { return k.netlink.AddrList(link, netlink.FAMILY_ALL) })
		if err != nil {
			errs = append(errs, fmt.Errorf("listing addresses of %s: %w", name, err))
		}
		for _, a := range addresses {
			found[Entry{prefixOf(a.IPNet), name}] = true
		}
	}
	return found, errors.Join(errs...)
}

// add puts an entry into the kernel. Routed and addressed say that its route and its address are there already.
func (k *kernel) add(e Entry, link netlink.Link, routed, addressed bool) error {
	if !routed {
		route := &netlink.Route{
			Dst: netOf(e.Prefix), LinkIndex: link.Attrs().Index, Protocol: Protocol, Scope: unix.RT_SCOPE_LINK,
			Priority: metric + link.Attrs().Index, // since two interfaces may have the prefix
		}
		if err := k.netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route %s on %s: %w", e.Prefix, e.Interface, err)
		}
	}
	if !e.isAddress() || addressed {
		return nil
	}
	address := &netlink.Addr{IPNet: netOf(e.Prefix)}
	if e.Prefix.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := k.netlink.AddrAdd(link, address); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s on %s: %w", e.Prefix, e.Interface, err)
	}
	return nil
}

// remove removes a route of ours, after the address that goes with it.
func (k *kernel) remove(route netlink.Route) error {
	prefix := prefixOf(route.Dst)
	if link, err := k.netlink.LinkByIndex(route.LinkIndex); err == nil && (Entry{prefix, link.Attrs().Name}).isAddress() {
		err := k.netlink.AddrDel(link, &netlink.Addr{IPNet: netOf(prefix)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing address %s from %s: %w", prefix, link.Attrs().Name, err)
		}
	}
	if err := k.netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("removing route %s: %w", prefix, err)
	}
	return nil
}

// watch raises the signal that it returns whenever something of ours may have been changed by another program, until the context ends.
func (k *kernel) watch(ctx context.Context) (<-chan struct{}, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribing to netlink events: %w", err)
	}
	context.AfterFunc(ctx, socket.Close)
	events := signal.New()
	go func() {
		for ctx.Err() == nil {
			messages, _, err := socket.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return // The period finds what events do not tell any more.
			}
			indexes := *k.indexes.Load()
			ours := func(m syscall.NetlinkMessage) bool { return concerns(m.Header.Type, m.Data, indexes) }
			if err != nil || slices.ContainsFunc(messages, ours) {
				events.Raise()
			}
		}
	}()
	return events, nil
}

// concerns reports whether an event may be that something of ours is gone: a route of our protocol, or an interface of these indexes or an
// address of it.
func concerns(event uint16, data []byte, indexes map[int32]bool) bool {
	switch event {
	case unix.RTM_DELROUTE:
		return len(data) >= unix.SizeofRtMsg && data[5] == Protocol // rtm_protocol
	case unix.RTM_DELADDR, unix.RTM_NEWLINK, unix.RTM_DELLINK: // ifa_index and ifi_index are in the same place
		return len(data) >= 8 && indexes[int32(binary.NativeEndian.Uint32(data[4:]))]
	}
	return false
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	address, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), bits)
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
