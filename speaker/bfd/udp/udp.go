// SPDX-License-Identifier: Apache-2.0

// Package udp runs BFD sessions over UDP, on one link (RFC 5881) or over several hops (RFC 5883).
//
// A caller hands over the whole desired set, and Speaker works out the differences, as package fsm does. A session that is no longer
// declared goes AdminDown, which its peer must not take for a failure (RFC 5882 §4.2).
//
// Every session has one goroutine that owns its bfd.Machine and a socket to send from, and every local address has one socket and one
// goroutine to receive.
//
// # Beside another BFD daemon
//
// BIRD, which Calico runs on each node, and FRR have the ports of BFD, 3784 and 4784, for all addresses. A socket of ours with the port
// would fail where one of them is there first, and take its packets where it is not. So packets are received by a raw socket, which gets a
// copy of each UDP packet to the node's address, and takes nothing away from anybody; a filter passes those to the port of BFD. Once a
// session is up, a plug takes the packets of its peer, and of no other, so that the daemon does not see them and the kernel does not call
// the port closed.
//
// # A speaker that restarts
//
// Suspend ends all sessions in silence when their peers have agreed to wait, and a Speaker with Config.TakeOver goes on with them; see
// package bfd. The first byte of a discriminator is a hash of the ends of its session, so that a packet for the session that another
// daemon of this node has with the same peer is, but for one case in 256, not taken for one of an earlier speaker.
//
// # Which packets count
//
// Packets decide whether routes are kept, and any host can send some. A packet on one link counts only if it arrives with a TTL or hop
// limit of 255, since a router would have lowered it (RFC 5881 §5). Over several hops the declared minimum is enough. A packet has to come
// from the session's peer, and after the first ones it has to name the session's discriminator, a random number.
package udp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// Config is what a Speaker works with.
type Config struct {
	Logger klog.Logger
	// OnDown is called when a session that was up has failed, and not when either side went AdminDown. It must not block.
	OnDown func(name, reason string)
	// TakeOver has a session that starts wait for its peer for two seconds, to go on with the session that an earlier Speaker has suspended.
	TakeOver bool
}

// Speaker runs the sessions of one node. Its methods may be called from any goroutine.
type Speaker struct {
	cfg     Config
	changes signal.Signal
	dropped *prometheus.CounterVec

	setMu      sync.Mutex     // serialises Set and Close
	forgetting sync.WaitGroup // for the sessions that leave, until their listeners are closed

	mu sync.Mutex
	// mu guards all following fields.
	closed    bool
	sessions  map[ends]*session
	leaving   map[ends]*session // those that announce AdminDown before they end
	listeners map[listenerKey]*listener
}

// ends are what distinguishes sessions on the wire. The index is that of the interface of a link-local peer, 0 for any other peer: an
// interface that is deleted and made anew under its name needs new sockets.
type ends struct {
	remote, local netip.Addr
	multihop      bool
	index         int
}

// endsOf returns the ends of a session. While the interface of a link-local peer is gone they are those of the session that runs there.
func (s *Speaker) endsOf(w bfd.Session) ends {
	e := ends{remote: w.Remote, local: w.Local, multihop: w.Multihop}
	if zone := w.Remote.Zone(); zone != "" {
		if iface, err := net.InterfaceByName(zone); err == nil {
			e.index = iface.Index
			return e
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for running := range s.sessions {
			if running.remote == e.remote && running.local == e.local && running.multihop == e.multihop {
				return running
			}
		}
	}
	return e
}

// here returns an address of the session with the index of its interface as the zone. Package net remembers for up to a minute which index
// a name had.
func (e ends) here(a netip.Addr) netip.Addr {
	if a.Zone() == "" {
		return a
	}
	return a.WithZone(strconv.Itoa(e.index))
}

// New returns a Speaker without sessions.
func New(cfg Config) *Speaker {
	return &Speaker{
		cfg:       cfg,
		changes:   signal.New(),
		dropped:   newDropped(),
		sessions:  map[ends]*session{},
		leaving:   map[ends]*session{},
		listeners: map[listenerKey]*listener{},
	}
}

// ErrClosed is returned by Set after Close.
var ErrClosed = errors.New("the BFD speaker is closed")

// Set makes the declared sessions the running ones. A session goes on as long as its ends are the same, whatever else is declared of it.
// One that cannot run, because its local address is gone for example, is reported in the error and tried again by the next Set. The others
// run all the same.
func (s *Speaker) Set(want []bfd.Session) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	s.mu.Lock()
	closed, running := s.closed, maps.Clone(s.sessions)
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	declared := map[ends]bool{}
	var errs []error
	for _, w := range want {
		key := s.endsOf(w)
		if declared[key] {
			errs = append(errs, fmt.Errorf("BFD with peer %q: another peer has the same addresses", w.Name))
			continue
		}
		declared[key] = true
		if old := running[key]; old != nil {
			old.update(w)
		} else if err := s.start(w, key); err != nil {
			errs = append(errs, fmt.Errorf("BFD with peer %q: %w", w.Name, err))
		}
	}
	for key, old := range running {
		if !declared[key] {
			s.leave(key, old)
		}
	}
	return errors.Join(errs...)
}

// start runs a session, in the place of one with the same ends that still announces AdminDown.
func (s *Speaker) start(w bfd.Session, key ends) error {
	s.mu.Lock()
	old := s.leaving[key]
	s.mu.Unlock()
	if old != nil {
		s.end(key, old)
	}
	l, err := s.listen(key)
	if err != nil {
		return err
	}
	conn, err := open(key.here(w.Local))
	if err != nil {
		s.release(l)
		return err
	}
	fresh := newSession(w, key, s, l, conn)
	s.mu.Lock()
	s.sessions[key] = fresh
	s.mu.Unlock()
	l.add(fresh)
	go fresh.run(w.Params)
	s.changes.Raise()
	return nil
}

// end ends a session at once, without AdminDown.
func (s *Speaker) end(key ends, old *session) {
	old.cancel()
	<-old.done
	s.forget(key, old)
}

// leave takes a session AdminDown, and ends it when the peer has been told.
func (s *Speaker) leave(key ends, old *session) {
	s.mu.Lock()
	delete(s.sessions, key)
	s.leaving[key] = old
	s.mu.Unlock()
	close(old.leave)
	s.changes.Raise()
	s.forgetting.Go(func() {
		<-old.done
		s.forget(key, old)
	})
}

// forget removes an ended session, and its listener with the last session that used it.
func (s *Speaker) forget(key ends, old *session) {
	s.mu.Lock()
	known := s.sessions[key] == old || s.leaving[key] == old
	if s.sessions[key] == old {
		delete(s.sessions, key)
	}
	if s.leaving[key] == old {
		delete(s.leaving, key)
	}
	s.mu.Unlock()
	if known {
		old.listener.remove(old)
		s.release(old.listener)
	}
}

// States returns the state of every declared session, ordered by name.
func (s *Speaker) States() []bfd.SessionState {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	states := make([]bfd.SessionState, 0, len(sessions))
	for _, session := range sessions {
		states = append(states, session.state())
	}
	slices.SortFunc(states, func(a, b bfd.SessionState) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// Changes returns a channel that receives after the State of a session has changed. Changes that come close together are one receive.
func (s *Speaker) Changes() <-chan struct{} { return s.changes }

// suspendTimeout is how long Suspend waits for peers that do not answer.
const suspendTimeout = time.Second

// Suspend ends every session without telling the peers, which have agreed to wait for another Speaker where their sessions were up. It
// returns after a second at the latest.
func (s *Speaker) Suspend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	s.finish(ctx, func(_ ends, session *session) { close(session.suspend) })
}

// Close takes every session AdminDown, and returns when the peers have been told or the context ends.
func (s *Speaker) Close(ctx context.Context) { s.finish(ctx, s.leave) }

// finish has every session begin to end, and waits for their ends.
func (s *Speaker) finish(ctx context.Context, begin func(ends, *session)) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	ending := maps.Clone(s.sessions)
	s.mu.Unlock()
	for key, session := range ending {
		if first {
			begin(key, session)
		}
	}
	s.mu.Lock()
	maps.Copy(ending, s.leaving)
	s.mu.Unlock()
	for key, session := range ending {
		select {
		case <-session.done:
		case <-ctx.Done():
		}
		s.end(key, session)
	}
	s.forgetting.Wait() // and so no socket is open any more
}

// tagOf is the part of a discriminator that its session determines.
func tagOf(discriminator uint32) byte { return byte(discriminator >> 24) }

// newDiscriminator returns a number that no session of this node has. All of it is random but its tag.
func (s *Speaker) newDiscriminator(at ends) uint32 {
	h := fnv.New32a()
	h.Write(fmt.Appendf(nil, "%v %v %v", at.remote, at.local, at.multihop))
	tag := h.Sum32() << 24
	for {
		if n := tag | rand.Uint32()>>8; n != 0 && !s.known(n) {
			return n
		}
	}
}

func (s *Speaker) known(discriminator uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sessions := range []map[ends]*session{s.sessions, s.leaving} {
		for _, session := range sessions {
			if session.suggested == discriminator || session.discriminator.Load() == discriminator {
				return true
			}
		}
	}
	return false
}
