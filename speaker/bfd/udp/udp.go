// SPDX-License-Identifier: Apache-2.0

// Package udp runs BFD sessions over UDP, on one link (RFC 5881) or over several hops (RFC 5883).
//
// A caller hands over the whole desired set, and Speaker works out the differences, as package gobgp does. A session that is no longer
// declared goes AdminDown, which its peer must not take for a failure (RFC 5882 §4.2).
//
// Every session has one goroutine that owns its bfd.Machine and a socket to send from, and every local address has one socket and one
// goroutine to receive.
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
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

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

// ends are what distinguishes sessions on the wire.
type ends struct {
	remote, local netip.Addr
	multihop      bool
}

func endsOf(s bfd.Session) ends { return ends{s.Remote, s.Local, s.Multihop} }

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

// Set makes the declared sessions the running ones. A session that cannot run, because its local address is gone or its port is in use, is
// reported in the error and tried again by the next Set. The others run all the same.
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
		key := endsOf(w)
		if declared[key] {
			errs = append(errs, fmt.Errorf("BFD with peer %q: another peer has the same addresses", w.Name))
			continue
		}
		declared[key] = true
		if old := running[key]; old != nil && old.declared.Name == w.Name && old.declared.MinimumTTL == w.MinimumTTL {
			old.update(w.Params)
			continue
		} else if old != nil {
			s.end(key, old)
		}
		if err := s.start(w); err != nil {
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
func (s *Speaker) start(w bfd.Session) error {
	s.mu.Lock()
	old := s.leaving[endsOf(w)]
	s.mu.Unlock()
	if old != nil {
		s.end(endsOf(w), old)
	}
	l, err := s.listen(w)
	if err != nil {
		return err
	}
	conn, err := dial(w.Local, w.Remote, endsOf(w).port())
	if err != nil {
		s.release(l)
		return err
	}
	fresh := newSession(w, s, l, conn)
	s.mu.Lock()
	s.sessions[endsOf(w)] = fresh
	s.mu.Unlock()
	l.add(fresh)
	go fresh.run()
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

// Close takes every session AdminDown, and returns when the peers have been told or the context ends.
func (s *Speaker) Close(ctx context.Context) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	s.mu.Lock()
	s.closed = true
	running := maps.Clone(s.sessions)
	s.mu.Unlock()
	for key, session := range running {
		s.leave(key, session)
	}
	s.mu.Lock()
	leaving := maps.Clone(s.leaving)
	s.mu.Unlock()
	for key, session := range leaving {
		select {
		case <-session.done:
		case <-ctx.Done():
		}
		s.end(key, session)
	}
	s.forgetting.Wait() // and so no socket is open any more
}

// discriminator returns a random number that no session of this node has.
func (s *Speaker) discriminator() uint32 {
	for {
		if n := rand.Uint32(); n != 0 && !s.known(n) {
			return n
		}
	}
}

func (s *Speaker) known(discriminator uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sessions := range []map[ends]*session{s.sessions, s.leaving} {
		for _, session := range sessions {
			if session.discriminator == discriminator {
				return true
			}
		}
	}
	return false
}
