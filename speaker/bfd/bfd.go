// SPDX-License-Identifier: Apache-2.0

// Package bfd watches peers by bidirectional forwarding detection: RFC 5880 in asynchronous mode, on one link (RFC 5881) or over several
// hops (RFC 5883). Both sides send a small packet every few milliseconds. A side that does not receive some in a row takes the other for
// dead, long before a BGP hold timer would.
//
// A caller hands over the whole desired set, and Speaker works out the differences, as package bgp does. A session that is no longer
// declared goes AdminDown, which its peer must not take for a failure (RFC 5882 §4.2).
//
// The protocol itself is in the type machine, which has neither clock nor socket. Around it, every session has one goroutine that owns its
// machine and a socket to send from, and every local address has one socket and one goroutine to receive.
//
// # Which packets count
//
// Packets decide whether routes are kept, and any host can send some. A packet on one link counts only if it arrives with a TTL or hop
// limit of 255, since a router would have lowered it (RFC 5881 §5). Over several hops the declared minimum is enough. A packet has to come
// from the session's peer, and after the first ones it has to name the session's discriminator, a random number.
//
// # What is not built
//
// This side never asks for demand mode, but follows a peer that does. Echo packets are neither sent nor asked for, and there is no
// authentication.
package bfd

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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/signal"
)

// Session is a peer to watch.
type Session struct {
	// Name is what the session is called in states, metrics and OnDown.
	Name string
	// Remote and Local are the ends, of one family. Link-local addresses have the interface as their zone.
	Remote, Local netip.Addr
	// Multihop says that there may be routers between the ends. Packets that arrive with a TTL or hop limit below MinimumTTL are dropped
	// then.
	Multihop   bool
	MinimumTTL uint8
	Params
}

// ends are what distinguishes sessions on the wire.
type ends struct {
	remote, local netip.Addr
	multihop      bool
}

func (s Session) ends() ends { return ends{s.Remote, s.Local, s.Multihop} }

// SessionState is what is known about a declared session.
type SessionState struct {
	Name  string
	State State
	// Since is when the session came into its state.
	Since time.Time
	// Diagnostic says why the session left the state Up the last time.
	Diagnostic Diagnostic
	// RemoteState is the state of the peer, as its last packet says.
	RemoteState State
	// Transmit is the interval of sending, Detection how long the peer may be silent. Both are zero before the first packet of the peer.
	Transmit, Detection time.Duration
	// Downs counts how often the session has failed.
	Downs uint64
}

// Config is what a Speaker works with.
type Config struct {
	Logger klog.Logger
	// OnDown is called when a session that was up has failed, and not when either side went AdminDown. It must not block.
	OnDown func(name, reason string)
}

// Speaker holds the sessions of one node. Its methods may be called from any goroutine.
type Speaker struct {
	cfg     Config
	changes signal.Signal
	dropped *prometheus.CounterVec

	setMu sync.Mutex // serialises Set and Close

	mu sync.Mutex
	// mu guards all following fields.
	closed    bool
	sessions  map[ends]*session
	leaving   map[ends]*session // those that announce AdminDown before they end
	listeners map[listenerKey]*listener
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

// Set makes the declared sessions the running ones. A session that cannot run, because its local address is gone or its port is in use, is
// reported in the error and tried again by the next Set. The others run all the same.
func (s *Speaker) Set(want []Session) error {
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
		key := w.ends()
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
func (s *Speaker) start(w Session) error {
	s.mu.Lock()
	old := s.leaving[w.ends()]
	s.mu.Unlock()
	if old != nil {
		s.end(w.ends(), old)
	}
	l, err := s.listen(w)
	if err != nil {
		return err
	}
	conn, err := dial(w.Local, w.Remote, w.ends().port())
	if err != nil {
		s.release(l)
		return err
	}
	fresh := newSession(w, s, l, conn)
	s.mu.Lock()
	s.sessions[w.ends()] = fresh
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
	go func() {
		<-old.done
		s.forget(key, old)
	}()
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
func (s *Speaker) States() []SessionState {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	states := make([]SessionState, 0, len(sessions))
	for _, session := range sessions {
		states = append(states, session.state())
	}
	slices.SortFunc(states, func(a, b SessionState) int { return cmp.Compare(a.Name, b.Name) })
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
