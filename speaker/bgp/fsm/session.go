// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// routes are prefixes with what is said of them.
type routes map[netip.Prefix]unique.Handle[attributes]

// session is one peer, from its declaration to its end. Its goroutine, run, opens one connection after the other.
type session struct {
	peer   bgp.Peer
	guard  Guard
	logger klog.Logger
	notify func()
	dial   func(context.Context, bgp.Peer) (net.Conn, error)

	changed signal.Signal           // raised when other routes are declared
	stop    context.CancelCauseFunc // ends the session for the cause, a *loss
	done    chan struct{}           // closed when run has returned

	limit                atomic.Int64 // Peer.MaxReceivedPrefixes, which may change while the session runs
	established, updates atomic.Uint64

	mu       sync.Mutex // guards all following fields
	declared routes     // replaced by other routes, and never changed
	status   bgp.SessionState
	// lost is why an established session has ended; failed is why the latest attempt since has not led to another one.
	lost, failed reason
	// conn is the latest connection, count counts on it, and end ends it for the cause, a *loss. They are nil before the first one.
	conn  net.Conn
	count *counter
	end   context.CancelCauseFunc
	// agreed and sent are those of the latest connection on which the session was established. The goroutine of the session changes sent.
	agreed *agreement
	sent   routes
}

// reason is something that has gone wrong, and when it did so first.
type reason struct {
	text string
	at   time.Time
}

// newSession returns a session that has not started.
func newSession(cfg Config, peer bgp.Peer, notify func()) *session {
	s := &session{
		peer: peer, guard: noGuard{}, logger: klog.LoggerWithValues(cfg.Logger, "peer", peer.Name), notify: notify, dial: dial,
		changed: signal.New(), done: make(chan struct{}),
		status: bgp.SessionState{Peer: peer.Name, Address: peer.Address, State: bgp.Idle, Since: time.Now()},
	}
	if cfg.Guard != nil {
		s.guard = cfg.Guard(peer)
	}
	return s
}

// start begins to connect. The session outlives the context: close ends it.
func (s *session) start(ctx context.Context) {
	ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	s.logger.Info("Started BGP session", "address", s.peer.Address, "localASN", s.peer.LocalASN, "peerASN", s.peer.PeerASN)
	go s.run(ctx)
}

// close ends the session for a cause, and returns when nothing of it is left. It cuts the farewell short when ctx ends.
func (s *session) close(ctx context.Context, cause *loss) {
	s.stop(cause)
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != nil {
			_ = s.conn.Close() // nothing is done with the connection any more
		}
	})()
	<-s.done
	s.logger.Info("Closed BGP session")
}

// reset ends the connection if the session is established.
func (s *session) reset(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State == bgp.Established {
		s.end(&loss{
			reason: why, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_ADMINISTRATIVE_RESET, data: shutdownCommunication(why),
		})
	}
}

const (
	// firstRetry is how soon after a loss, or a first attempt that has failed, the next one is made. The wait doubles from one to the next.
	firstRetry = time.Second
	// mostRefusalWait is how long the wait becomes for a router that is there and refuses us, or ends session after session. One that does
	// not answer is tried each ConnectTime.
	mostRefusalWait = time.Minute
	// A session that has lasted for so long was a good one.
	goodSession = 30 * time.Second
	// mostGuardWait is how soon at the latest the Guard is asked again.
	mostGuardWait = 10 * time.Second
)

// run connects, again and again, until ctx ends.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	var kind time.Duration // the longest wait after a failure of the kind of the latest one
	for failures := 0; ctx.Err() == nil; failures++ {
		least, most, good := s.attempt(ctx)
		if good || most != kind { // A router that refuses us after it was away for an hour may be about to take us.
			failures, kind = 0, most
		}
		wait := max(least, min(firstRetry<<min(failures, 16), most))
		select {
		case <-ctx.Done():
		case <-time.After(wait - rand.N(wait/4)): // RFC 4271 §10 asks for so much jitter
		}
	}
}

// attempt opens a connection and uses it to its end. It returns how long to wait for the next attempt, at least and at most, and whether the
// session has been a good one.
func (s *session) attempt(ctx context.Context) (least, most time.Duration, good bool) {
	if err := s.guard.Allow(); err != nil {
		s.fail(bgp.Idle, err.Error())
		return 0, min(s.peer.ConnectTime, mostGuardWait), false
	}
	s.enter(bgp.Active)
	conn, err := s.dial(ctx, s.peer)
	if err != nil {
		if ctx.Err() == nil {
			s.fail(bgp.Active, dialFailure(err, s.peer))
		}
		return 0, s.peer.ConnectTime, false
	}
	began := time.Now()
	l := s.converse(ctx, conn)
	state := bgp.Active
	if l.wait > 0 {
		state = bgp.Idle
	}
	s.fail(state, l.reason)
	return l.wait, max(s.peer.ConnectTime, mostRefusalWait), time.Since(began) > goodSession
}

// declare makes the routes of a declaration the declared ones, and takes over what of its peer may change while the session runs.
func (s *session) declare(want bgp.Session) error {
	s.limit.Store(int64(want.Peer.MaxReceivedPrefixes))
	return s.setRoutes(want.Routes)
}

// setRoutes makes routes the declared ones. A route that cannot be announced is left out and reported. Of two routes with the
// same prefix and different attributes the first counts.
func (s *session) setRoutes(want []bgp.Route) error {
	var errs []error
	declared := make(routes, len(want))
	var before bgp.Route // mostly they differ by their prefixes alone
	var a unique.Handle[attributes]
	for _, r := range want {
		if err := r.Validate(s.peer); err != nil {
			errs = append(errs, err)
			continue
		}
		if !before.Prefix.IsValid() || !sameButPrefix(r, before) {
			before, a = r, unique.Make(attributesOf(r, s.peer))
		}
		if err := checkSize(r, a.Value(), s.peer); err != nil {
			errs = append(errs, fmt.Errorf("prefix %v: %w", r.Prefix, err))
			continue
		}
		first, ok := declared[r.Prefix]
		switch {
		case !ok:
			declared[r.Prefix] = a
		case first != a:
			errs = append(errs, fmt.Errorf("prefix %v is declared twice with different attributes", r.Prefix))
		}
	}
	s.mu.Lock()
	changed := !maps.Equal(s.declared, declared)
	s.declared = declared
	s.mu.Unlock()
	if changed {
		s.changed.Raise()
	}
	return errors.Join(errs...)
}

// checkSize reports whether a route does not fit into a message, which takes hundreds of communities.
func checkSize(r bgp.Route, a attributes, peer bgp.Peer) error {
	if len(r.Communities) < 100 {
		return nil
	}
	_, err := announcements(peer, false, a, r.Family(), []netip.Prefix{r.Prefix})
	return err
}

// enter takes note of a state of the machine other than Established.
func (s *session) enter(state bgp.State) {
	s.mu.Lock()
	changed := s.step(state)
	s.mu.Unlock()
	if changed {
		s.notify()
	}
}

// step takes note of a state. What describes an established session is gone with it. It is called with mu held.
func (s *session) step(state bgp.State) (changed bool) {
	old := s.status
	if old.State == state {
		return false
	}
	s.status.State = state
	if old.State == bgp.Established {
		s.status = bgp.SessionState{
			Peer: old.Peer, Address: old.Address, State: state, Since: time.Now(), RemoteASN: old.RemoteASN, RouterID: old.RouterID,
		}
	}
	return true
}

// fail takes note that a session was lost, or that an attempt has failed, and why. The text is empty where the user has ended the session.
func (s *session) fail(state bgp.State, text string) {
	s.mu.Lock()
	was := s.status.State
	kind, now := &s.failed, time.Now()
	if was == bgp.Established {
		kind = &s.lost
		s.failed = reason{}
	}
	told := text == "" || kind.text == text && was != bgp.Established
	if !told {
		*kind = reason{text, now}
	}
	changed := s.step(state)
	s.mu.Unlock()

	switch {
	case text == "":
	case was == bgp.Established:
		s.logger.Info("Lost BGP session", "reason", text)
	case !told:
		s.logger.V(2).Info("Failed to establish BGP session", "reason", text)
	}
	if changed || !told {
		s.notify()
	}
}

// establish takes note that the session is established, on what terms, and where the routes are that the peer has been sent.
func (s *session) establish(conn net.Conn, agreed *agreement, sent routes) {
	s.established.Add(1)
	s.mu.Lock()
	s.failed = reason{}
	s.agreed, s.sent = agreed, sent
	s.status = bgp.SessionState{
		Peer: s.peer.Name, Address: s.peer.Address, State: bgp.Established, Since: time.Now(), Local: localAddress(conn),
		RemoteASN: agreed.asn, RouterID: agreed.routerID, Families: agreed.families, HoldTime: agreed.holdTime,
		GracefulRestart: agreed.gracefulRestart,
	}
	s.mu.Unlock()
	s.logger.Info("Established BGP session", "remoteASN", agreed.asn, "routerID", agreed.routerID, "families", agreed.families)
	s.notify()
}

func localAddress(conn net.Conn) netip.Addr {
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		return local.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// state returns what is known about the session.
func (s *session) state() bgp.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.status
	state.Families = slices.Clone(state.Families)
	state.Advertised, state.Withheld = maps.Clone(state.Advertised), maps.Clone(state.Withheld)
	if state.State == bgp.Established {
		state.Received = make(map[family.Family]int, len(state.Families))
		for _, f := range state.Families {
			state.Received[f] = int(s.count.of(f).Load())
		}
	}
	state.LastError, state.LastErrorAt = s.lost.text, s.lost.at
	if s.failed.text != "" && s.failed.text != s.lost.text {
		if state.LastError != "" {
			state.LastError += "; since then: "
		}
		state.LastError, state.LastErrorAt = state.LastError+s.failed.text, s.failed.at
	}
	return state
}

// routes returns the declared routes, ordered by prefix, and whether the peer has been sent them.
func (s *session) routes() []bgp.RouteState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]bgp.RouteState, 0, len(s.declared))
	for prefix, a := range s.declared {
		state := bgp.RouteState{Route: a.Value().route(prefix, s.peer)}
		switch sent, ok := s.sent[prefix]; {
		case s.status.State != bgp.Established:
			state.Withheld = "the session is not established"
		case !slices.Contains(s.agreed.families, state.Family()):
			state.Withheld = fmt.Sprintf("the peer has not agreed to %s", state.Family())
		case !s.agreed.carries(prefix, a):
			state.Withheld = "the peer takes no IPv4 prefixes with IPv6 next hops (RFC 8950)"
		case !ok || sent != a:
			state.Withheld = "it is being sent"
		}
		states = append(states, state)
	}
	slices.SortFunc(states, func(a, b bgp.RouteState) int { return a.Prefix.Compare(b.Prefix) })
	return states
}
