// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// backlog is how many packets may wait for a session. More are dropped, as a link may drop them, and the peer sends others.
const backlog = 16

// received is a packet with the port that the peer has sent it from.
type received struct {
	bfd.Packet
	port uint16
}

// session runs a machine.
type session struct {
	ends       // those of its declaration, which do not change
	minimumTTL atomic.Uint32
	// discriminator is ours, zero while it may be that of an earlier process. suggested is what it is if it is not.
	discriminator atomic.Uint32
	suggested     uint32
	speaker       *Speaker
	listener      *listener
	conn          *net.UDPConn
	plug          plug            // owned by run
	ctx           context.Context // ends the session at once
	cancel        context.CancelFunc
	packets       chan received
	leave         chan struct{} // closed for the session to go AdminDown
	suspend       chan struct{} // closed for the session to end in silence, when the peer expects it
	done          chan struct{} // closed when it has ended
	params        signal.Latest[bfd.Params]

	mu sync.Mutex
	// mu guards status.
	status bfd.SessionState
}

func newSession(w bfd.Session, at ends, s *Speaker, l *listener, conn *net.UDPConn) *session {
	ctx, cancel := context.WithCancel(context.Background())
	fresh := &session{
		ends:      at,
		suggested: s.newDiscriminator(at),
		speaker:   s,
		listener:  l,
		conn:      conn,
		ctx:       ctx,
		cancel:    cancel,
		packets:   make(chan received, backlog),
		leave:     make(chan struct{}),
		suspend:   make(chan struct{}),
		done:      make(chan struct{}),
		params:    signal.NewLatest[bfd.Params](),
		status:    bfd.SessionState{Name: w.Name, State: bfd.Down, Since: time.Now(), RemoteState: bfd.Down},
	}
	fresh.minimumTTL.Store(uint32(w.MinimumTTL))
	return fresh
}

// update has the session go on as it is declared now. Only Set calls it, one call at a time.
func (s *session) update(w bfd.Session) {
	s.minimumTTL.Store(uint32(w.MinimumTTL))
	s.params.Put(w.Params)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Name = w.Name
}

func (s *session) state() bfd.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// run owns the machine until the session has ended.
func (s *session) run(params bfd.Params) {
	defer close(s.done)
	defer s.conn.Close()
	defer s.plug.close()
	m := bfd.NewMachine(time.Now(), params, s.suggested, rand.Float64)
	if s.speaker.cfg.TakeOver {
		m.Await(time.Now(), func(discriminator uint32) bool { return tagOf(discriminator) == tagOf(s.suggested) })
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	leave, suspend, gone := s.leave, s.suspend, (<-chan time.Time)(nil)
	for suspend != nil || !m.Settled() {
		s.discriminator.Store(m.Discriminator())
		if at := m.Deadline(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		var send []bfd.Packet
		select {
		case <-s.ctx.Done():
			return
		case <-gone:
			return
		case <-leave:
			tell := m.AdminDownTime()
			send = m.GoAdminDown(time.Now())
			leave, gone = nil, time.After(tell)
			if len(send) == 0 {
				return // the peer has never heard of this session
			}
		case <-suspend:
			suspend = nil
			send = m.Suspend(time.Now())
		case params := <-s.params:
			if params != m.Params() && suspend != nil {
				send = m.Change(time.Now(), params)
			}
		case p := <-s.packets:
			send = s.receive(m, p)
		case <-timer.C:
			// After a stall of this process both are there, and the peer was not silent.
			for waiting := true; waiting; {
				select {
				case p := <-s.packets:
					send = append(send, s.receive(m, p)...)
				default:
					waiting = false
				}
			}
			send = append(send, m.Tick(time.Now())...)
		}
		for _, p := range send {
			// An error is a lost packet, for which the protocol is made.
			_, _ = s.conn.WriteToUDPAddrPort(p.Append(nil), netip.AddrPortFrom(s.here(s.remote), s.port()))
		}
		s.note(m)
	}
}

// receive hands a packet to the machine. The plug is open while the session is up. A packet that names our discriminator has brought it up:
// the peer's session is with us, and with no other daemon of this node.
func (s *session) receive(m *bfd.Machine, p received) []bfd.Packet {
	send := m.Receive(time.Now(), p.Packet)
	if m.State() == bfd.Up && p.YourDiscriminator == m.Discriminator() {
		s.plug.set(netip.AddrPortFrom(s.here(s.local), s.port()), netip.AddrPortFrom(s.here(s.remote), p.port))
	}
	return send
}

// note publishes the state of the machine.
func (s *session) note(m *bfd.Machine) {
	if m.State() != bfd.Up {
		s.plug.close()
	}
	s.mu.Lock()
	old, name := s.status.State, s.status.Name
	s.status.RemoteState, s.status.Transmit, s.status.Detection = m.RemoteState(), 0, 0
	if m.Heard() {
		s.status.Transmit, s.status.Detection = m.Interval(), m.Detection()
	}
	changed := m.State() != old
	if changed {
		s.status.State, s.status.Since, s.status.Diagnostic = m.State(), time.Now(), m.Diagnostic()
	}
	failed := old == bfd.Up && m.State() == bfd.Down && m.RemoteState() != bfd.AdminDown
	if failed {
		s.status.Downs++
	}
	s.mu.Unlock()
	if !changed {
		return
	}
	logger := klog.LoggerWithValues(s.speaker.cfg.Logger, "peer", name, "address", s.remote)
	reason := ""
	switch {
	case failed && m.Diagnostic() == bfd.DetectionTimeExpired:
		reason = fmt.Sprintf("nothing was heard from the peer for %v", m.Detection())
	case failed:
		reason = "the peer said that it does not hear us"
	case m.State() == bfd.Up:
		logger.Info("BFD session is up", "transmit", m.Interval(), "detection", m.Detection())
	case old == bfd.Up:
		logger.Info("BFD session was taken down on purpose", "byPeer", m.RemoteState() == bfd.AdminDown)
	}
	if failed {
		logger.Info("BFD session failed", "reason", reason)
		if s.speaker.cfg.OnDown != nil {
			s.speaker.cfg.OnDown(name, reason)
		}
	}
	s.speaker.changes.Raise()
}
