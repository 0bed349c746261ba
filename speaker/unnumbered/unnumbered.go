// SPDX-License-Identifier: Apache-2.0

// Package unnumbered finds the routers of unnumbered BGP peers, whose BGPPeers name an interface and no address. Both sides of such a link
// have a link-local address and nothing else, and each tells the other its own by router advertisements (RFC 4861 §4.2):
//
//	node fe80::11%eth1 ── RA, lifetime 0 ──▶  router fe80::1      the router learns that fe80::11 may be a BGP neighbour
//	                   ◀── RA ──────────────                      [Watcher.Peer]("eth1") = fe80::1%eth1
//
// Our advertisements have a router lifetime of 0 and no prefix, so that no host on the link takes the node for a router. They are sent only
// on the interfaces that [Watcher.Set] names.
//
// An advertisement counts if its hop limit is 255, so that it comes from this link, its source is link-local, and its code is 0 (RFC 4861
// §6.1.2). Nothing else in it is used. Type discovery decides which router is the peer where several are heard, or one falls silent.
package unnumbered

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// maxPackets is how many packets a second are read from a link, which has one router that sends one every few seconds. The kernel drops
// packets that its buffer has no room for.
const maxPackets = 100

// A Watcher finds the router on each of some interfaces. Its methods may be called from any goroutine.
type Watcher struct {
	logger  klog.Logger
	changes signal.Signal

	mu    sync.Mutex // guards all following fields
	ports map[string]*port
	own   map[netip.Addr][]string // the link-local addresses of this node, without zones, and the MACs of the interfaces that have them
}

// port is an interface on which the router is looked for.
type port struct {
	name      string
	discovery discovery // guarded by Watcher.mu
	// index, address and mac are those that the socket was opened with, and stop closes it; nil while there is none, with the reason in
	// err.
	index   int
	address netip.Addr
	mac     string
	stop    func()
	err     error
}

// New returns a Watcher of no interface.
func New(logger klog.Logger) *Watcher {
	return &Watcher{logger: logger, changes: signal.New(), ports: map[string]*port{}}
}

// Changes returns a channel that receives after Peer says something else of an interface. Changes that come close together are one receive.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Set looks for routers on the named interfaces, as they are in the snapshot, and on no others. It is called again when either changes.
// Sockets are opened in the network namespace of the calling thread. What was found on an interface stays known while it is down.
func (w *Watcher) Set(names []string, links *link.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = map[netip.Addr][]string{}
	for _, i := range links.Interfaces {
		for _, a := range i.Addresses {
			if addr := a.Prefix.Addr(); addr.Is6() && addr.IsLinkLocalUnicast() {
				w.own[addr] = append(w.own[addr], string(i.MAC))
			}
		}
	}
	for name, p := range w.ports {
		if !slices.Contains(names, name) {
			if p.stop != nil {
				p.stop()
			}
			delete(w.ports, name)
		}
	}
	for _, name := range names {
		p := w.ports[name]
		if p == nil {
			p = &port{name: name}
			w.ports[name] = p
		}
		w.open(p, links)
	}
}

// Peer returns the link-local address of the router on an interface that Set has named, with its zone, as in fe80::1%eth1. With an error,
// which says what to do, the address may be the zero Addr, or one with which a session is to go on.
func (w *Watcher) Peer(name string) (netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[name]
	if p == nil {
		return netip.Addr{}, fmt.Errorf("interface %s is not watched", name)
	}
	peer, err := p.discovery.neighbor(name)
	if p.err != nil {
		err = p.err
	}
	return peer, err
}

// Close ends all sockets.
func (w *Watcher) Close() { w.Set(nil, &link.Snapshot{}) }

// open opens the socket of an interface, unless it is open or the interface cannot be used. It is called with mu held.
func (w *Watcher) open(p *port, links *link.Snapshot) {
	i, ok := links.ByName(p.name)
	address := i.LinkLocal()
	err := error(nil)
	switch {
	case !ok:
		err = fmt.Errorf("this node has no interface %s", p.name)
	case !i.Up:
		err = fmt.Errorf("interface %s is down or without carrier", p.name)
	case !address.IsValid():
		err = fmt.Errorf("interface %s has no IPv6 link-local address, which an unnumbered session needs: is IPv6 off there?", p.name)
	case p.stop != nil && p.index == i.Index && p.address == address && p.mac == string(i.MAC):
		return
	}
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	if err == nil {
		err = w.start(p, i, address)
	}
	if err == nil || p.err == nil || err.Error() != p.err.Error() {
		w.changes.Raise()
	}
	p.err = err
}

// start opens the socket of a port and runs it.
func (w *Watcher) start(p *port, i link.Interface, address netip.Addr) error {
	s, err := listen(i, address)
	if err != nil {
		return fmt.Errorf("router discovery on %s: %w", p.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.index, p.address, p.mac, p.stop = i.Index, address, string(i.MAC), func() {
		cancel()
		s.close() // which ends a read
	}
	p.discovery.restart(time.Now())
	heard := signal.New() // discovery may be due sooner
	go w.receive(s, p, heard)
	go w.run(ctx, s, p, heard)
	return nil
}

// run sends what is due on a port, until the context ends.
func (w *Watcher) run(ctx context.Context, s *socket, p *port, heard signal.Signal) {
	for ctx.Err() == nil {
		w.mu.Lock()
		before, errBefore := p.discovery.neighbor(p.name)
		advertise, solicit := p.discovery.step(time.Now())
		after, errAfter := p.discovery.neighbor(p.name)
		wait := time.Until(p.discovery.wakeUp())
		w.mu.Unlock()
		if after != before || fmt.Sprint(errAfter) != fmt.Sprint(errBefore) {
			w.logger.Info("Found routers by router advertisements", "interface", p.name, "peer", after, "problem", errAfter)
			w.changes.Raise()
		}
		if err := s.send(advertise, solicit); err != nil && ctx.Err() == nil {
			w.logger.V(2).Info("Failed to send a router advertisement or solicitation", "interface", p.name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-heard:
		case <-time.After(wait):
		}
	}
}

// receive takes in what is heard on a port, until its socket is closed.
func (w *Watcher) receive(s *socket, p *port, heard signal.Signal) {
	limit := rate.NewLimiter(maxPackets, maxPackets)
	for {
		message, source, err := s.receive()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		_ = limit.Wait(context.Background()) // It cannot fail: one packet is never more than the burst.
		if err != nil {
			w.logger.V(4).Info("Dropped a packet of router discovery", "interface", p.name, "reason", err)
			continue
		}
		w.mu.Lock()
		switch m := message.(type) {
		case *ndp.RouterAdvertisement:
			if !w.isOwn(m, source) {
				p.discovery.hearAdvertisement(time.Now(), source)
			}
		case *ndp.RouterSolicitation:
			p.discovery.hearSolicitation(time.Now())
		}
		w.mu.Unlock()
		heard.Raise()
	}
}

// isOwn reports whether an advertisement is that of another interface of this node, which may be on the same link. Its address alone does not
// tell where it names a MAC: a router and docker0 of this node may both have fe80::1. It is called with mu held.
func (w *Watcher) isOwn(m *ndp.RouterAdvertisement, source netip.Addr) bool {
	macs, own := w.own[source.WithZone("")]
	for _, option := range m.Options {
		if a, ok := option.(*ndp.LinkLayerAddress); ok && a.Direction == ndp.Source {
			return slices.Contains(macs, string(a.Addr))
		}
	}
	return own
}
