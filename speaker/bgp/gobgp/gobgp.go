// SPDX-License-Identifier: Apache-2.0

// Package gobgp announces prefixes to BGP routers from declared sessions and routes.
//
// A caller hands over the whole desired set, every peer with every route that it is to be told, and [Speaker] works out
// the differences: a session is opened, closed, or restarted because something that its OPEN message or its TCP
// connection depends on has changed, and everything else is an UPDATE. A peer that comes up late, or comes back, is
// told everything. Nothing is learned: the routes that a router sends are refused by policy, and no connection is
// accepted, so that port 179 stays free for a routing daemon on the same node. The types are those of package bgp.
//
// # Invariants
//
//   - A peer is told exactly the routes declared for it. No route and no attribute leaks between two peers.
//   - A changed attribute is one UPDATE that replaces the path (RFC 4271 §3.1). The prefix is never withdrawn for it.
//   - The next hop is always the caller's. Left alone, GoBGP would send ::ffff:a.b.c.d as the next hop of an IPv6
//     prefix on an IPv4 session; routers install that, and it forwards nothing. bgp.Route.Validate refuses it.
//   - LOCAL_PREF is not sent on an external session (RFC 4271 §5.1.5), and the local AS is not prepended on an
//     internal one.
//   - An IPv4 prefix with an IPv6 next hop waits until the peer has said that it understands it (RFC 8950 §4).
//   - A password is in no log, error or state.
//   - One peer's bad declaration, or its failure, changes nothing for another.
//
// # Stopping
//
// A process that will be back at once closes with bgp.Restart: peers with graceful restart (RFC 4724) keep forwarding
// while it is away. A process that goes for good closes with bgp.Withdraw: every prefix is withdrawn, then the session
// ends with CEASE. To move traffic away before that, declare the same routes with bgp.GracefulShutdown (RFC 8326) and
// the lowest local preference, wait, and close then.
//
// # GoBGP, one server for each peer
//
// The protocol is spoken by GoBGP, which is embedded, and no other package imports it.
//
// It is GoBGP v4 because v3 ended with v3.37.0 and keeps CVE-2026-41643: an UPDATE with an empty AS4_PATH before
// AS_PATH panics in a goroutine of the library, and that ends this whole process. v4 survives the packet. It also
// mends MD5 over link-local addresses, a hold time of zero, a goroutine leaked at every stop and wrong graceful
// restart bits.
//
// Every peer has an embedded server of its own. Advertisements differ from peer to peer in local preference,
// communities, MED, prepending and in the prefixes themselves. In one shared RIB that would take export policies, whose
// mistakes leak routes; with a RIB each, the separation, the router ID and the local AS of every peer are true by
// construction. A server restricted to the two unicast families costs about 0.8 MiB and a peer about 0.4 MiB.
//
// What to know about GoBGP when working here:
//
//   - What goes wrong before a session is established (a refused connection, a rejected OPEN) appears only in its
//     log, so the log is where bgp.SessionState.LastError comes from.
//   - It tries a new peer after 2 s at most and an old one 5 s plus 2 s after a loss. Connect times below 2 s have no
//     effect.
//   - It cannot propose a hold time of zero. It does follow a peer that proposes it.
//   - It keeps what a peer sends, though the policy lets none of it in. A router had better send nothing.
//   - Every server that starts stores the same zero values in two package variables, which another server may be
//     reading because its peer sends an UPDATE. Nothing wrong can be read, but the race detector reports it.
package gobgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// ErrClosed is returned by Set after Close.
var ErrClosed = errors.New("the speaker is closed")

// Speaker holds the sessions of one node. Its methods may be called from any goroutine.
type Speaker struct {
	logger  klog.Logger
	changes signal.Signal

	setMu sync.Mutex // serialises Set and Close

	mu       sync.Mutex // guards all following fields
	closed   bool
	sessions map[string]*session // peer name => session
}

// connection has the fields by which a router tells sessions apart.
type connection struct {
	remote, local netip.Addr
	port          uint16
}

func connectionOf(p bgp.Peer) connection { return connection{p.Address, p.SourceAddress, p.Port} }

// New returns a Speaker without sessions.
func New(logger klog.Logger) *Speaker {
	return &Speaker{
		logger:   logger,
		changes:  signal.New(),
		sessions: map[string]*session{},
	}
}

// Set makes the declared sessions the running ones. The peers have their defaults filled in (bgp.Peer.Defaults).
//
// A peer whose declaration cannot be used is reported in the error and left as it is, running or absent; the others
// are served all the same. Of two peers that are the same router, for example tor1 and tor2 both with peerAddress
// 192.0.2.1, the one whose session runs is served, and the other has no session. A peer that is no longer declared is
// sent its withdrawals and CEASE. Set returns once GoBGP has taken the changes, not once the peers have: States tells
// that.
func (s *Speaker) Set(ctx context.Context, want []bgp.Session) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	running, err := s.running()
	if err != nil {
		return err
	}

	var errs []error
	declared := map[string]bool{}
	connections := map[connection]string{}
	for _, w := range want {
		// Of two declarations of one router the one whose session runs is served, whatever their order: a session that is left alone
		// would go on with routes that are never withdrawn.
		if old := running[w.Peer.Name]; old != nil && sameSession(old.peer, w.Peer) {
			connections[connectionOf(w.Peer)] = w.Peer.Name
		}
	}
	for _, w := range want {
		name := w.Peer.Name
		if declared[name] {
			errs = append(errs, fmt.Errorf("peer %q: declared twice", name))
			continue
		}
		declared[name] = true
		if err := w.Peer.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("peer %q: %w", name, err))
			continue
		}
		c := connectionOf(w.Peer)
		if other, ok := connections[c]; ok && other != name {
			errs = append(errs, fmt.Errorf("peer %q: peerAddress: %v is that of peer %q, and a router keeps one session "+
				"with each address of ours: merge the two or give one a sourceAddress", name, c.remote, other))
			if old := running[name]; old != nil { // the peer is not declared with the old router any more
				old.close(ctx, bgp.Withdraw)
				s.remove(name)
			}
			continue
		}
		connections[c] = name
		old := running[name]
		if old != nil && (!sameSession(old.peer, w.Peer) ||
			old.peer.ConnectTime != w.Peer.ConnectTime && old.state().State != bgp.Established) {
			old.close(ctx, bgp.Withdraw)
			s.remove(name)
			old = nil
		}
		if old == nil {
			fresh, err := startSession(ctx, s.logger, w.Peer, s.notify)
			if err != nil {
				errs = append(errs, fmt.Errorf("peer %q: %w", name, err))
				continue
			}
			s.add(name, fresh)
			old = fresh
		}
		if err := old.setRoutes(w.Routes); err != nil {
			errs = append(errs, fmt.Errorf("peer %q: %w", name, err))
		}
	}

	var closing sync.WaitGroup
	for name, old := range running {
		if declared[name] {
			continue
		}
		closing.Go(func() { old.close(ctx, bgp.Withdraw) })
		s.remove(name)
	}
	closing.Wait()
	return errors.Join(errs...)
}

// Reset ends the connection of an established session whose peer is known to be dead, and has it connect again. The reason is in its state
// and in the CEASE. A peer without a session, or one that is not established, is left as it is.
func (s *Speaker) Reset(ctx context.Context, peer, reason string) error {
	s.mu.Lock()
	session := s.sessions[peer]
	s.mu.Unlock()
	if session == nil {
		return nil
	}
	return session.reset(ctx, reason)
}

// States returns the state of every running session, ordered by peer name.
func (s *Speaker) States() []bgp.SessionState {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	states := make([]bgp.SessionState, 0, len(sessions))
	for _, session := range sessions {
		states = append(states, session.state())
	}
	slices.SortFunc(states, func(a, b bgp.SessionState) int { return cmp.Compare(a.Peer, b.Peer) })
	return states
}

// Changes returns a channel that receives after States has changed. Changes that come close together are one receive.
func (s *Speaker) Changes() <-chan struct{} { return s.changes }

// Close ends every session and returns when nothing of them is left. Withdrawals that a peer does not take before ctx
// ends are left to the CEASE that follows.
func (s *Speaker) Close(ctx context.Context, mode bgp.CloseMode) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	running, err := s.running()
	if err != nil {
		return // closed already
	}
	s.mu.Lock()
	s.closed = true
	s.sessions = map[string]*session{}
	s.mu.Unlock()

	var closing sync.WaitGroup
	for _, session := range running {
		closing.Go(func() { session.close(ctx, mode) })
	}
	closing.Wait()
	s.notify()
}

func (s *Speaker) running() (map[string]*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return maps.Clone(s.sessions), nil
}

func (s *Speaker) add(name string, session *session) {
	s.mu.Lock()
	s.sessions[name] = session
	s.mu.Unlock()
	s.notify()
}

func (s *Speaker) remove(name string) {
	s.mu.Lock()
	delete(s.sessions, name)
	s.mu.Unlock()
	s.notify()
}

func (s *Speaker) notify() { s.changes.Raise() }

// sameSession reports whether a running session of p serves q as well: whether both have the same OPEN message and the same connection. A
// session that has not come up yet serves no other ConnectTime, see Speaker.Set.
func sameSession(p, q bgp.Peer) bool { return reflect.DeepEqual(normalPeer(p), normalPeer(q)) }

// normalPeer returns p without the differences that its session does not depend on.
func normalPeer(p bgp.Peer) bgp.Peer {
	p.ConnectTime = 0
	p.Families = slices.Sorted(slices.Values(p.Families))
	if !p.GracefulRestart.Enabled {
		p.GracefulRestart = bgp.GracefulRestart{}
	}
	return p
}
