// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// settle is how long events are gathered, counted from the first, before the state is listed: an interface that
	// comes up causes a dozen. It is also the delay with which a change is seen.
	settle = 50 * time.Millisecond
	// When the socket fails or the listing does, it is tried again after minRetry, then after twice as long each
	// time, up to maxRetry.
	minRetry = 100 * time.Millisecond
	maxRetry = 10 * time.Second
)

// A Watcher keeps a Snapshot current. All methods may be called by any goroutine.
type Watcher struct {
	current atomic.Pointer[Snapshot]

	mu          sync.Mutex // guards subscribers
	subscribers []chan struct{}

	// Owned by the goroutine in Run once it runs.

	events *nl.NetlinkSocket
	handle *netlink.Handle
	// hints has room for one: a hint that waits already covers what follows.
	hints  chan struct{}
	failed chan error
}

// Open lists the interfaces for the first time and returns a Watcher, which is to be run. It watches the network
// namespace of the calling thread.
func Open() (*Watcher, error) {
	w := &Watcher{hints: make(chan struct{}, 1), failed: make(chan error)}
	if err := w.open(); err != nil {
		return nil, err
	}
	s, err := list(w.handle)
	for range 3 { // A listing is interrupted by each change in between.
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		s, err = list(w.handle)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	w.current.Store(s)
	return w, nil
}

// Snapshot returns the current state, never nil.
func (w *Watcher) Snapshot() *Snapshot { return w.current.Load() }

// Subscribe returns a channel that receives after each change of the Snapshot. Changes that happen before
// the receiver comes to it are received once. Who subscribes first and reads the Snapshot then misses nothing.
// Subscriptions last as long as the Watcher.
func (w *Watcher) Subscribe() <-chan struct{} {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribers = append(w.subscribers, ch)
	return ch
}

// Run keeps the Snapshot current until the context ends, then closes the sockets. A Watcher runs once. Should the
// socket fail, it is opened again in the network namespace of the thread that calls Run.
func (w *Watcher) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	defer w.close()
	done := make(chan struct{})
	defer close(done)
	go w.read(w.events, done)

	var timer <-chan time.Time // runs while there is something to list
	retry := minRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.hints:
			if timer == nil {
				timer = time.After(settle)
			}
		case err := <-w.failed:
			logger.Error(err, "Lost the netlink socket, opening it again")
			w.close()
			timer = time.After(retry)
		case <-timer:
			timer = nil
			if err := w.update(logger, done); err != nil {
				if !errors.Is(err, netlink.ErrDumpInterrupted) {
					logger.Error(err, "Could not list interfaces, trying again", "after", retry)
				}
				timer = time.After(retry)
				retry = min(2*retry, maxRetry)
			} else {
				retry = minRetry
			}
		}
	}
}

// update lists the state and tells the subscribers if it is a new one.
func (w *Watcher) update(logger klog.Logger, done <-chan struct{}) error {
	if w.events == nil {
		if err := w.open(); err != nil {
			return err
		}
		go w.read(w.events, done)
	}
	s, err := list(w.handle)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(w.current.Load(), s) {
		return nil
	}
	logger.V(2).Info("Interfaces changed", "count", len(s.Interfaces))
	w.current.Store(s)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	return nil
}

func (w *Watcher) open() error {
	// Both sockets stay in the namespace they were opened in.
	events, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribing to netlink events: %w", err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	w.events, w.handle = events, handle
	return nil
}

func (w *Watcher) close() {
	if w.events != nil {
		w.events.Close()
		w.handle.Close()
		w.events, w.handle = nil, nil
	}
}

// read turns events into hints until the socket is closed or fails.
func (w *Watcher) read(events *nl.NetlinkSocket, done <-chan struct{}) {
	for {
		messages, _, err := events.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Events were lost but the socket goes on. The listing finds what they said.
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case w.failed <- fmt.Errorf("receiving netlink events: %w", err):
			case <-done:
			}
			return
		default:
			relevant := false
			for _, m := range messages {
				relevant = relevant || isRelevant(m.Header.Type, m.Data)
			}
			if !relevant {
				continue
			}
		}
		select {
		case w.hints <- struct{}{}:
		default:
		}
	}
}

// isRelevant reports whether a message may change a Snapshot. Of routes only default ones do: a node that runs a
// routing daemon changes others all the time.
func isRelevant(messageType uint16, data []byte) bool {
	switch messageType {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(data) >= unix.SizeofRtMsg && data[1] == 0 // rtm_dst_len
	}
	return false
}

// list reads the whole state.
func list(h *netlink.Handle) (*Snapshot, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	s := &Snapshot{}
	for _, family := range []struct {
		id     int
		routes *[]DefaultRoute
	}{{netlink.FAMILY_V4, &s.DefaultIPv4}, {netlink.FAMILY_V6, &s.DefaultIPv6}} {
		// A nil destination stands for the default route. The filter is applied to each route as it is read.
		routes, err := h.RouteListFiltered(family.id, &netlink.Route{Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		*family.routes = defaultRoutes(routes)
	}
	for _, l := range links {
		s.Interfaces = append(s.Interfaces, newInterface(l))
	}
	slices.SortFunc(s.Interfaces, func(x, y Interface) int { return cmp.Compare(x.Index, y.Index) })
	for _, a := range addrs {
		n, ok := slices.BinarySearchFunc(s.Interfaces, a.LinkIndex, func(i Interface, index int) int {
			return cmp.Compare(i.Index, index)
		})
		if address, valid := newAddress(a); ok && valid { // Without an interface, it came after links were listed.
			s.Interfaces[n].Addresses = append(s.Interfaces[n].Addresses, address)
		}
	}
	for n := range s.Interfaces {
		slices.SortFunc(s.Interfaces[n].Addresses, func(x, y Address) int { return x.Prefix.Compare(y.Prefix) })
	}
	return s, nil
}

func newInterface(l netlink.Link) Interface {
	attrs := l.Attrs()
	const running = unix.IFF_UP | unix.IFF_RUNNING
	i := Interface{
		Name:     attrs.Name,
		Index:    attrs.Index,
		MAC:      bytes.Clone(attrs.HardwareAddr),
		MTU:      attrs.MTU,
		Kind:     l.Type(),
		Up:       attrs.RawFlags&running == running,
		Loopback: attrs.RawFlags&unix.IFF_LOOPBACK != 0,
		NoARP:    attrs.RawFlags&unix.IFF_NOARP != 0,
		Master:   attrs.MasterIndex,
	}
	if attrs.Slave != nil {
		i.InVRF = attrs.Slave.SlaveType() == "vrf"
	}
	return i
}

func newAddress(a netlink.Addr) (Address, bool) {
	if a.IPNet == nil {
		return Address{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return Address{}, false
	}
	bits, _ := a.Mask.Size()
	return Address{
		Prefix:     netip.PrefixFrom(addr, bits),
		Tentative:  a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0,
		DADFailed:  a.Flags&unix.IFA_F_DADFAILED != 0,
		Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0,
		// The same bit means secondary for IPv4.
		Temporary: addr.Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0,
		Secondary: addr.Is4() && a.Flags&unix.IFA_F_SECONDARY != 0,
		Permanent: a.Flags&unix.IFA_F_PERMANENT != 0,
	}, true
}

// defaultRoutes returns each next hop of the unicast default routes among routes.
func defaultRoutes(routes []netlink.Route) []DefaultRoute {
	var defaults []DefaultRoute
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && !isZero(r.Dst) {
			continue
		}
		if r.LinkIndex != 0 {
			defaults = append(defaults, DefaultRoute{Metric: r.Priority, Index: r.LinkIndex})
		}
		for _, hop := range r.MultiPath {
			defaults = append(defaults, DefaultRoute{Metric: r.Priority, Index: hop.LinkIndex})
		}
	}
	slices.SortFunc(defaults, func(x, y DefaultRoute) int {
		return cmp.Or(cmp.Compare(x.Metric, y.Metric), cmp.Compare(x.Index, y.Index))
	})
	return slices.Compact(defaults)
}

func isZero(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}

// A Path is how the kernel reaches an address.
type Path struct {
	// Source is the address that packets come from where nothing else is asked for. That of a link-local destination has its zone.
	Source netip.Addr
	// OnLink says that there is no router on the way.
	OnLink bool
}

// PathTo asks the kernel how it reaches dst. A link-local dst needs its zone, an interface name. The route is looked up in the network
// namespace of the calling thread.
func (w *Watcher) PathTo(dst netip.Addr) (Path, error) {
	if zone := dst.Zone(); zone != "" {
		i, ok := w.Snapshot().ByName(zone)
		if !ok {
			return Path{}, fmt.Errorf("looking up the route to %s: no interface %s", dst, zone)
		}
		for _, a := range i.Addresses {
			if a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Addr().Is6() && !a.Tentative && !a.DADFailed {
				return Path{Source: a.Prefix.Addr().WithZone(zone), OnLink: true}, nil
			}
		}
		return Path{}, fmt.Errorf("looking up the route to %s: interface %s has no link-local address", dst, zone)
	}
	routes, err := netlink.RouteGet(dst.AsSlice())
	if err != nil {
		return Path{}, fmt.Errorf("looking up the route to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return Path{}, fmt.Errorf("looking up the route to %s: %w", dst, unix.ENETUNREACH)
	}
	source, ok := netip.AddrFromSlice(routes[0].Src)
	if !ok {
		return Path{}, fmt.Errorf("looking up the route to %s: it has no source address", dst)
	}
	return Path{Source: source.Unmap(), OnLink: routes[0].Gw == nil && routes[0].Via == nil}, nil
}

// SourceFor asks the kernel by which interface dst is reached and returns it with its best own address of each
// family, chosen as by Interface.SourceOn. A link-local dst needs its zone, an interface name. The route is looked up
// in the network namespace of the calling thread.
func (w *Watcher) SourceFor(
	dst netip.Addr, excluded func(netip.Addr) bool,
) (i Interface, v4, v6 netip.Addr, err error) {
	s, ok := w.Snapshot(), false
	if zone := dst.Zone(); zone != "" {
		i, ok = s.ByName(zone)
		if !ok {
			return i, v4, v6, fmt.Errorf("looking up the route to %s: no interface %s", dst, zone)
		}
	} else {
		routes, err := netlink.RouteGet(dst.AsSlice())
		if err != nil {
			return i, v4, v6, fmt.Errorf("looking up the route to %s: %w", dst, err)
		}
		if len(routes) == 0 {
			return i, v4, v6, fmt.Errorf("looking up the route to %s: %w", dst, unix.ENETUNREACH)
		}
		i, ok = s.ByIndex(routes[0].LinkIndex)
		if !ok {
			err := fmt.Errorf("interface %d is not known yet", routes[0].LinkIndex)
			return i, v4, v6, fmt.Errorf("looking up the route to %s: %w", dst, err)
		}
	}
	v4, v6 = i.SourceOn(dst, excluded)
	return i, v4, v6, nil
}
