// SPDX-License-Identifier: Apache-2.0

// Package fsm announces prefixes to BGP routers from declared sessions and routes: it is the finite state machine of RFC 4271 §8 for a
// speaker that opens its connections itself, sends routes, and takes none.
//
// A caller hands over the whole desired set, every peer with every route that it is to be told, and [Speaker] works out the differences: a
// session is opened, closed, or restarted because something that its OPEN message or its TCP connection depends on has changed, and
// everything else is an UPDATE. A peer that comes up late, or comes back, is told everything. Nothing is learned: UPDATEs are counted and
// thrown away. No connection is accepted, so that port 179 stays free for a routing daemon on the same node, and no two connections of one
// peer ever collide. The types are those of package bgp.
//
// # Invariants
//
//   - A peer is told exactly the routes declared for it. No route and no attribute leaks between two peers.
//   - A changed attribute is one UPDATE that replaces the path (RFC 4271 §3.1). The prefix is never withdrawn for it. New paths are sent
//     before old ones are withdrawn: where 192.0.2.0/24 takes the place of 192.0.2.10/32, the peer has one of the two at any moment.
//   - The next hop is always the caller's.
//   - LOCAL_PREF is not sent on an external session (RFC 4271 §5.1.5), and the local AS is not prepended on an internal one.
//   - An IPv4 prefix with an IPv6 next hop waits until the peer has said that it understands it (RFC 8950 §4).
//   - A password is in no log, error or state.
//   - One peer's bad declaration, or its failure, changes nothing for another.
//   - Whatever a peer sends, or leaves unread, ends its own session at worst. A message is read into 4 KiB, one that does not come within the
//     hold time ends the session, and so does an UPDATE of ours that the peer does not take within it.
//
// # Stopping
//
// A process that will be back at once closes with bgp.Restart: peers with graceful restart (RFC 4724) keep forwarding while it is away. A
// process that goes for good closes with bgp.Withdraw: every prefix is withdrawn, then the session ends with CEASE. To move traffic away
// before that, declare the same routes with bgp.GracefulShutdown (RFC 8326) and the lowest local preference, wait, and close then.
//
// The OPEN says that the node forwards on (the F bits of RFC 4724 §3) always, since the kernel does so while no speaker runs, and that
// the speaker has restarted (the R bit) until the session is established for the first time: so the peer keeps the routes of the process
// before. If there was none, it changes nothing.
//
// # How it is built
//
// One goroutine owns a session, from one connection to the next: session.run. For each connection it has a second one, which reads
// (reader). A context ends a connection, and its cause, a *loss, is both what the peer is told in a NOTIFICATION and what the user reads in
// bgp.SessionState. A longer-lived context of the same kind ends the session.
//
// Messages, capabilities, path attributes and the names of errors are those of GoBGP's package packet/bgp. Its server is not used, but as
// one of three routers in the tests: see speaker/DESIGN.md for the reasons. UPDATEs are not decoded by it, since decoding what is then
// thrown away is where BGP implementations have crashed most.
package fsm

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

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// ErrClosed is returned by Set after Close.
var ErrClosed = errors.New("the speaker is closed")

// Config is what a Speaker works with.
type Config struct {
	Logger klog.Logger
	// Guard returns the Guard of a session that is started for a peer. Nil stands for none.
	Guard func(bgp.Peer) Guard
}

// Speaker holds the sessions of one node. Its methods may be called from any goroutine.
type Speaker struct {
	cfg     Config
	changes signal.Signal

	setMu sync.Mutex // serialises Set and Close

	mu       sync.Mutex // guards all following fields
	closed   bool
	sessions map[string]*session // peer name => session
}

// connectionKey has the fields by which a router tells sessions apart.
type connectionKey struct {
	remote, local netip.Addr
	port          uint16
	device        string
}

// connectionOf returns the key of a peer. An address of 169.254.0.0/16 is that of another router on each link, as one of IPv6 with a zone is; any
// other address is that of one router, by whatever interface.
func connectionOf(p bgp.Peer) connectionKey {
	device := p.VRF
	if p.Address.Is4() && p.Address.IsLinkLocalUnicast() {
		device = p.Device()
	}
	return connectionKey{p.Address, p.SourceAddress, p.Port, device}
}

// New returns a Speaker without sessions.
func New(cfg Config) *Speaker {
	return &Speaker{cfg: cfg, changes: signal.New(), sessions: map[string]*session{}}
}

// A PeerError is why a peer has no session, or not all routes that were declared.
type PeerError struct {
	Peer string // its name
	Err  error
}

func (e *PeerError) Error() string { return fmt.Sprintf("peer %q: %v", e.Peer, e.Err) }

// Unwrap returns the error without the name of the peer.
func (e *PeerError) Unwrap() error { return e.Err }

// Set makes the declared sessions the running ones. The peers have their defaults filled in (bgp.Peer.Defaults).
//
// A peer whose declaration cannot be used is reported in the error and left as it is, running or absent; the others are served all the
// same. Of two peers that are the same router, for example tor1 and tor2 both with peerAddress 192.0.2.1, the one whose session runs is
// served, and the other has no session. A peer that is no longer declared is sent its withdrawals and CEASE, as long as ctx lasts. Set
// returns once the sessions have taken the changes, not once the peers have: States tells that.
func (s *Speaker) Set(ctx context.Context, want []bgp.Session) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	running, err := s.running()
	if err != nil {
		return err
	}

	var errs []error
	refuse := func(peer string, err error) { errs = append(errs, &PeerError{peer, err}) }
	declared := map[string]bool{}
	var fresh []bgp.Session
	ending := map[string]*loss{} // why sessions are to be ended, by name
	connections := served(running, want)
	for _, w := range want {
		name := w.Peer.Name
		if declared[name] {
			refuse(name, errors.New("declared twice"))
			continue
		}
		declared[name] = true
		if err := w.Peer.Validate(); err != nil {
			refuse(name, err)
			continue
		}
		c := connectionOf(w.Peer)
		if other, ok := connections[c]; ok && other != name {
			refuse(name, fmt.Errorf("peerAddress: %v is that of peer %q, and a router keeps one session "+
				"with each address of ours: merge the two or give one a sourceAddress", c.remote, other))
			ending[name] = cease(packet.BGP_ERROR_SUB_PEER_DECONFIGURED) // the peer is not declared with the old router any more
			continue
		}
		connections[c] = name
		if old := running[name]; old == nil || !old.serves(w.Peer) {
			fresh, ending[name] = append(fresh, w), cease(packet.BGP_ERROR_SUB_OTHER_CONFIGURATION_CHANGE)
		} else if err := old.declare(w); err != nil {
			refuse(name, err)
		}
	}
	for name := range running {
		if !declared[name] {
			ending[name] = cease(packet.BGP_ERROR_SUB_PEER_DECONFIGURED)
		}
	}
	// A router would refuse a session from an address from which it still has one: that of a BGPPeer that has been renamed, for example.
	s.end(ctx, running, ending)
	for _, w := range fresh {
		if err := s.start(ctx, w); err != nil {
			refuse(w.Peer.Name, err)
		}
	}
	return errors.Join(errs...)
}

// HandOver ends the sessions with some peers as Close does with bgp.Restart, since another program on this node is to have them: a router that has agreed
// to graceful restart keeps the routes until that program has sent its own. A peer without a session is passed over. Set would start a session that is
// declared to it anew.
func (s *Speaker) HandOver(ctx context.Context, peers []string) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	running, err := s.running()
	if err != nil {
		return // closed already
	}
	ending := map[string]*loss{}
	for _, name := range peers {
		ending[name] = restarting(packet.BGP_ERROR_SUB_PEER_DECONFIGURED)
	}
	s.end(ctx, running, ending)
}

// cease is the loss of a session that ends for good: the routes are withdrawn, then the peer is sent a CEASE of a subcode.
func cease(subcode uint8) *loss {
	return &loss{withdraw: true, code: packet.BGP_ERROR_CEASE, subcode: subcode}
}

// restarting is the loss of a session whose routes the peer is to keep, if it has agreed to that. Another peer is sent a CEASE of a subcode.
func restarting(subcode uint8) *loss {
	return &loss{restart: true, code: packet.BGP_ERROR_CEASE, subcode: subcode}
}

// served returns the connections of sessions that run as they are wanted, with the names of their peers. Of two declarations of one router the
// one whose session runs is served, whatever their order: a session that is left alone would go on with routes that are never withdrawn.
func served(running map[string]*session, want []bgp.Session) map[connectionKey]string {
	connections := map[connectionKey]string{}
	for _, w := range want {
		if old := running[w.Peer.Name]; old != nil && sameSession(old.peer, w.Peer) {
			connections[connectionOf(w.Peer)] = w.Peer.Name
		}
	}
	return connections
}

// start makes a session known and starts it. It has its routes before it connects: a router with graceful restart that got End-of-RIB before them
// would drop those of the speaker before. Its error is of the routes.
func (s *Speaker) start(ctx context.Context, want bgp.Session) error {
	session := newSession(s.cfg, want.Peer, s.changes.Raise)
	err := session.declare(want)
	s.mu.Lock()
	s.sessions[want.Peer.Name] = session
	s.mu.Unlock()
	session.start(ctx)
	s.changes.Raise()
	return err
}

// end ends those running sessions that are named, each as its loss says, and forgets them.
func (s *Speaker) end(ctx context.Context, running map[string]*session, losses map[string]*loss) {
	var ending sync.WaitGroup
	for name, why := range losses {
		old := running[name]
		if old == nil {
			continue
		}
		s.mu.Lock()
		delete(s.sessions, name)
		s.mu.Unlock()
		ending.Go(func() {
			old.close(ctx, why)
			s.changes.Raise()
		})
	}
	ending.Wait()
}

// Reset ends the connection of an established session whose peer is known to be dead, and has it connect again. The reason is in its state
// and in the CEASE. A peer without a session, or one that is not established, is left as it is. Reset does not wait.
func (s *Speaker) Reset(peer, reason string) {
	s.mu.Lock()
	session := s.sessions[peer]
	s.mu.Unlock()
	if session != nil {
		session.reset(reason)
	}
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

// Routes returns the declared routes of a peer, ordered by prefix, and whether the peer has been sent them; nil for a peer without a session.
func (s *Speaker) Routes(peer string) []bgp.RouteState {
	s.mu.Lock()
	session := s.sessions[peer]
	s.mu.Unlock()
	if session == nil {
		return nil
	}
	return session.routes()
}

// Changes returns a channel that receives after States has changed. Changes that come close together are one receive. A count of received
// prefixes changes without a word.
func (s *Speaker) Changes() <-chan struct{} { return s.changes }

// Close ends every session and returns when nothing of them is left. A peer that does not take its farewell gets half a second for it, or less
// where ctx ends.
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
		closing.Go(func() {
			if mode == bgp.Restart {
				session.close(ctx, restarting(packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN))
				return
			}
			session.close(ctx, cease(packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN))
		})
	}
	closing.Wait()
	s.changes.Raise()
}

func (s *Speaker) running() (map[string]*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return maps.Clone(s.sessions), nil
}

// serves reports whether the session is the one for a declaration. One that is not established yet is started anew for another ConnectTime or
// EBGPMultiHop, since it may be waiting for the next attempt, and says what might be the matter.
func (s *session) serves(p bgp.Peer) bool {
	same := s.peer.ConnectTime == p.ConnectTime && s.peer.EBGPMultiHop == p.EBGPMultiHop
	return sameSession(s.peer, p) && (same || s.state().State == bgp.Established)
}

// sameSession reports whether a running session of p serves q as well: whether both have the same OPEN message and the same connection.
func sameSession(p, q bgp.Peer) bool { return reflect.DeepEqual(normalPeer(p), normalPeer(q)) }

// normalPeer returns p without the differences that its session does not depend on.
func normalPeer(p bgp.Peer) bgp.Peer {
	p.ConnectTime, p.MaxReceivedPrefixes, p.EBGPMultiHop, p.Unnumbered = 0, 0, false, false
	p.Families = slices.Sorted(slices.Values(p.Families))
	if !p.GracefulRestart.Enabled {
		p.GracefulRestart = bgp.GracefulRestart{}
	}
	return p
}
