// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// backlog is how many packets may wait for a session. More are dropped, as a link may drop them, and the peer sends others.
const backlog = 16

// session runs a machine.
type session struct {
	declared      bfd.Session // with the Params that it began with
	discriminator uint32
	speaker       *Speaker
	listener      *listener
	conn          *net.UDPConn
	logger        klog.Logger
	ctx           context.Context // ends the session at once
	cancel        context.CancelFunc
	packets       chan bfd.Packet
	leave         chan struct{} // closed for the session to go AdminDown
	done          chan struct{} // closed when it has ended
	params        signal.Latest[bfd.Params]

	mu sync.Mutex
	// mu guards status.
	status bfd.SessionState
}

func newSession(declared bfd.Session, s *Speaker, l *listener, conn *net.UDPConn) *session {
	ctx, cancel := context.WithCancel(context.Background())
	return &session{
		declared:      declared,
		discriminator: s.discriminator(),
		speaker:       s,
		listener:      l,
		conn:          conn,
		logger:        klog.LoggerWithValues(s.cfg.Logger, "peer", declared.Name, "address", declared.Remote),
		ctx:           ctx,
		cancel:        cancel,
		packets:       make(chan bfd.Packet, backlog),
		leave:         make(chan struct{}),
		done:          make(chan struct{}),
		params:        signal.NewLatest[bfd.Params](),
		status:        bfd.SessionState{Name: declared.Name, State: bfd.Down, Since: time.Now(), RemoteState: bfd.Down},
	}
}

// update tells the session to go on with these parameters. Only Set calls it, one call at a time.
func (s *session) update(params bfd.Params) { s.params.Put(params) }

func (s *session) state() bfd.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// run owns the machine until the session has ended.
func (s *session) run() {
	defer close(s.done)
	defer s.conn.Close()
	m := bfd.NewMachine(time.Now(), s.declared.Params, s.discriminator, rand.Float64)
	timer := time.NewTimer(0)
	defer timer.Stop()
	leave, gone := s.leave, (<-chan time.Time)(nil)
	for {
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
		case params := <-s.params:
			if params != m.Params() {
				send = m.Change(time.Now(), params)
			}
		case p := <-s.packets:
			send = m.Receive(time.Now(), p)
		case now := <-timer.C:
			send = m.Tick(now)
		}
		for _, p := range send {
			// An error is a lost packet, for which the protocol is made.
			_, _ = s.conn.Write(p.Append(nil))
		}
		s.note(m)
	}
}

// note publishes the state of the machine.
func (s *session) note(m *bfd.Machine) {
	s.mu.Lock()
	old := s.status.State
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
	switch {
	case failed && m.Diagnostic() == bfd.DetectionTimeExpired:
		s.fail(fmt.Sprintf("nothing was heard from the peer for %v", m.Detection()))
	case failed:
		s.fail("the peer said that it does not hear us")
	case m.State() == bfd.Up:
		s.logger.Info("BFD session is up", "transmit", m.Interval(), "detection", m.Detection())
	case old == bfd.Up:
		s.logger.Info("BFD session was taken down on purpose", "byPeer", m.RemoteState() == bfd.AdminDown)
	}
	s.speaker.changes.Raise()
}

func (s *session) fail(reason string) {
	s.logger.Info("BFD session failed", "reason", reason)
	if s.speaker.cfg.OnDown != nil {
		s.speaker.cfg.OnDown(s.declared.Name, reason)
	}
}
