// SPDX-License-Identifier: Apache-2.0

// Package guard keeps a speaker from taking a router away from another program of its node.
//
// A router keeps one BGP session with each address. Calico's BIRD, say, has one from 198.51.100.11 to the router 198.51.100.1, with
// graceful restart. RFC 4724 §5 has the router take a second connection from 198.51.100.11 for the sign that BIRD has restarted: it closes
// BIRD's, and the pod network of the node is gone until BIRD is back. A router without graceful restart refuses the second connection; then
// the program that was second gets no session as long as the first one lives.
//
// So a speaker gives way to every other program:
//
//   - Before each dial it looks at the TCP sockets of the node ([Session.Allow]), and does not dial where another program has a connection
//     to the router from the same address, or is opening one.
//   - What it has seen it remembers for ten minutes after the last sight: otherwise it would take the session over while BIRD restarts.
//   - While it has a connection of its own it listens for the router's answer to another one ([Session.Hold]), and gives the session up
//     at once when there is one.
//   - In the first minutes after the node has booted it waits a minute, once, for a program that listens on port 179 to open its sessions.
//
// A program that dials from another address of the node, or to other routers, is in no session's way.
//
// The process of the speaker before is not mistaken for another program: it has ended before this one has its turn, and the
// connections that it leaves behind belong to no process.
//
// The decision is pure, see memory.judge; sockets.go and answers.go read what the kernel has.
package guard

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// Guard knows what other programs of this node do with BGP. Its methods may be called from any goroutine.
type Guard struct {
	logger  klog.Logger
	changed signal.Signal
	booted  time.Time

	mu sync.Mutex // guards all following fields and the memories of sessions
	// listening says that another program listens on the port of BGP.
	listening bool
	// heard is when such a program was first seen, the zero Time before. It stays when a BGPPeer is edited, whose Session is a new one.
	heard time.Time
	taken map[string]bool // the peers that are left to another program, by name
}

// New returns a Guard of the network namespace that the calling thread is in. It raises changed when OtherRouter says something else.
func New(logger klog.Logger, changed signal.Signal) *Guard {
	return &Guard{logger: logger, changed: changed, booted: bootTime(), taken: map[string]bool{}}
}

// Session returns what watches over one session. It has seen nothing yet: a peer whose declaration changes gets another one, and is tried
// at once.
func (g *Guard) Session(peer bgp.Peer) *Session { return &Session{guard: g, peer: peer} }

// OtherRouter returns whether another program of this node listens on the port of BGP, and the names of those peers that are left to
// another program, sorted. It says what was found by the latest look for each peer, also for those that have no Session any more.
func (g *Guard) OtherRouter() (listening bool, taken []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.listening, slices.Sorted(maps.Keys(g.taken))
}

// Look takes note of whether another program listens on the port of BGP. Allow does so as well, but it is not asked while a session is up:
// Calico that is installed then would not be seen.
func (g *Guard) Look() {
	sockets, err := listSockets(bgpPort)
	if err != nil {
		g.logger.Error(err, "Failed to look for other programs that listen for BGP, going on without")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if listening := slices.ContainsFunc(sockets, socket.listensForBGP); listening != g.listening {
		g.listening = listening
		g.changed.Raise()
	}
}

// Session watches over the session with one peer.
type Session struct {
	guard  *Guard
	peer   bgp.Peer
	memory memory // guarded by guard.mu
}

// Allow returns why the peer must not be dialled now, or nil. It looks at the TCP sockets of the node, which takes a millisecond or two. Where
// the kernel does not list them, the peer may be dialled.
func (s *Session) Allow() error {
	sockets, err := listSockets(s.peer.Port)
	if err != nil {
		s.guard.logger.Error(err, "Failed to look for BGP sessions of other programs, going on without", "peer", s.peer.Name)
		return nil
	}
	wanted := s.connection()
	s.guard.mu.Lock()
	defer s.guard.mu.Unlock()
	now, listening := time.Now(), slices.ContainsFunc(sockets, socket.listensForBGP)
	verdict := s.memory.judge(now, s.guard.startup(now, listening), wanted, sockets)
	s.guard.note(s.peer.Name, verdict != nil && !s.memory.seen.IsZero(), listening)
	return verdict
}

// Hold looks after a connection to the peer. It calls yield, in a goroutine of its own and at most once, when another program has a
// connection to the same router or is opening one: then the session is to be given up, and Allow refuses to dial. It ends when release is
// called. After release has returned, yield is not called any more; so yield must not wait for release.
func (s *Session) Hold(conn net.Conn, yield func(reason error)) (release func()) {
	answers, err := listenForAnswers(conn)
	if err != nil {
		s.guard.logger.Error(err, "Failed to listen for connections of other programs to the router, going on without", "peer", s.peer.Name)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The answer to what was opened after Allow and before the socket is gone. Without a list it is not known, and the next one comes.
		sockets, _ := listSockets(s.peer.Port)
		if slices.ContainsFunc(sockets, s.connection().isTakenBy) || answers.next(sockets) {
			yield(s.see())
		}
	}()
	return func() {
		answers.close()
		<-done
	}
}

// startup returns until when another program of a node that has just booted is given time to open its sessions, the zero Time for none. It is
// called with mu held.
func (g *Guard) startup(now time.Time, listening bool) time.Time {
	if listening && g.heard.IsZero() {
		g.heard = now
	}
	if !listening || g.heard.Sub(g.booted) >= bootPhase {
		return time.Time{}
	}
	return g.heard.Add(listenerPatience)
}

// see takes note that another program has the session, and returns that as a reason.
func (s *Session) see() error {
	wanted := s.connection()
	s.guard.mu.Lock()
	defer s.guard.mu.Unlock()
	s.guard.note(s.peer.Name, true, s.guard.listening)
	return s.memory.see(time.Now(), wanted)
}

// note takes in what was found. It is called with mu held.
func (g *Guard) note(peer string, taken, listening bool) {
	if g.taken[peer] == taken && g.listening == listening {
		return
	}
	g.listening = listening
	if delete(g.taken, peer); taken {
		g.taken[peer] = true
	}
	g.changed.Raise()
}

// connection returns the connection that the session would have.
func (s *Session) connection() connection {
	return connection{local: s.source(), remote: netip.AddrPortFrom(s.peer.Address, s.peer.Port)}
}

// source returns the address that a connection to the peer would come from, the zero Addr if there is no route to it.
func (s *Session) source() netip.Addr {
	if s.peer.SourceAddress.IsValid() {
		return s.peer.SourceAddress
	}
	// To connect a UDP socket sends nothing, and has the kernel choose as it does for TCP. Package net remembers for a minute which index the
	// interface of a link-local address had, so that the socket is bound to the interface and the address is without it.
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		device := cmp.Or(s.peer.Device(), s.peer.Address.Zone())
		if device == "" {
			return nil
		}
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), device) }); err != nil {
			return err
		}
		return failed
	}}
	conn, err := d.Dial("udp", netip.AddrPortFrom(s.peer.Address.WithZone(""), s.peer.Port).String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
