// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bfd/udp"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/bgp/fsm"
	"github.com/tandem-lb/tandem/speaker/bgp/guard"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// bfdRetry is how soon a BFD session that could not be started is tried again.
const bfdRetry = 5 * time.Second

// sessions hands the desired sessions of this node over to what speaks BGP and BFD, in a goroutine of its own: a session that ends takes
// time, and layer 2 must not wait for it.
type sessions struct {
	bgp     *fsm.Speaker
	bfd     *udp.Speaker
	others  *guard.Guard  // knows of other programs with sessions
	changed signal.Signal // raised when the states may have changed
	moved   signal.Signal // the same, for events
	desired signal.Latest[peerings]
	joined  signal.Signal // raised when a BGP session may have been established
	// declared is what was made the desired one last; nil before there is any.
	declared atomic.Pointer[peerings]
	// noNextHop are the routes that lack a next hop, and waiting those that are not due, by the peers' names; each nil before there are any.
	noNextHop, waiting atomic.Pointer[map[string][]bgp.Route]
	// peers are those of this node; problems say why one of them has no session, or less than it should, and doubts why a session may not
	// come up; failure is the error of the last hand-over. All are nil before there is any.
	peers            atomic.Pointer[[]config.Peer]
	problems, doubts atomic.Pointer[map[string]problem]
	// refused are the problems that the last hand-over has found, by the names of the peers; nil before there is any.
	refused atomic.Pointer[map[string]problem]
	failure atomic.Pointer[error]
}

// peerings are the sessions that this node is to have.
type peerings struct {
	bgp []bgp.Session
	bfd []bfd.Session
	// handedOver are the names of peers whose sessions another program on this node is to have (peering.handOver). None of them is in bgp.
	handedOver []string
}

// peerState is what is known about a peer of this node.
type peerState struct {
	config.Peer
	// bgp and bfd are the states of its sessions, each the zero value where it has no such session.
	bgp bgp.SessionState
	bfd bfd.SessionState
	// problem says why it has no session, or less than it should; the zero problem if nothing is the matter.
	problem problem
	// doubt says why its session may not come up, which means nothing once the peer has answered.
	doubt problem
	// nextHops are those of the routes that are declared for it.
	nextHops []netip.Addr
}

// newSessions returns a sessions that has none yet.
func newSessions(ctx context.Context, changed signal.Signal) *sessions {
	logger := klog.FromContext(ctx)
	s := &sessions{
		others: guard.New(logger, changed), changed: changed, moved: signal.New(), desired: signal.NewLatest[peerings](), joined: signal.New(),
	}
	s.bgp = fsm.New(fsm.Config{Logger: logger, Guard: func(peer bgp.Peer) fsm.Guard { return s.others.Session(peer) }})
	s.bfd = udp.New(udp.Config{Logger: logger, TakeOver: true, OnDown: func(peer, reason string) { s.bgp.Reset(peer, "BFD: "+reason) }})
	return s
}

// Set makes the sessions of a decision the desired ones, and has those with some other peers handed over. It does not wait for them.
func (s *sessions) Set(d decision.Desired, handedOver []string) {
	declared := peerings{bgp: d.BGP, bfd: d.BFD, handedOver: handedOver}
	s.declared.Store(&declared)
	s.noNextHop.Store(&d.NoNextHop)
	s.desired.Put(declared)
	s.peers.Store(&d.Peers)
	old := s.problems.Load()
	problems := notedAt(time.Now(), old, d.Problems)
	s.problems.Store(&problems)
	oldDoubts := s.doubts.Load()
	doubts := notedAt(time.Now(), oldDoubts, d.Doubts)
	s.doubts.Store(&doubts)
	if old == nil || !maps.Equal(*old, problems) || oldDoubts == nil || !maps.Equal(*oldDoubts, doubts) {
		s.raise()
	}
}

// raise says that the states may have changed.
func (s *sessions) raise() {
	s.changed.Raise()
	s.moved.Raise()
}

// run follows the desired sessions until the context ends. It leaves them running.
func (s *sessions) run(ctx context.Context) error {
	var desired peerings
	var bgpErr error
	known := establishedPeers{}
	var retry <-chan time.Time
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case desired = <-s.desired:
			s.bgp.HandOver(ctx, desired.handedOver)
			bgpErr = s.bgp.Set(ctx, desired.bgp)
			refused := notedAt(time.Now(), s.refused.Load(), refusals(bgpErr))
			s.refused.Store(&refused)
		case <-s.joined:
		case <-retry: // an address that was not there yet
		case <-look.C:
			if peers := s.peers.Load(); peers != nil && len(*peers) > 0 {
				s.others.Look()
			}
			continue
		}
		retry = nil
		_, taken := s.others.OtherRouter()
		bfdErr := s.bfd.Set(known.watch(desired.bfd, s.bgp.States(), taken))
		if bfdErr != nil {
			retry = time.After(bfdRetry)
		}
		err := errors.Join(bfdErr, bgpErr)
		if old := s.failure.Swap(&err); err != nil && ctx.Err() == nil && (old == nil || fmt.Sprint(*old) != err.Error()) {
			klog.FromContext(ctx).Error(err, "Failed to follow a peer, the others are followed")
		}
		s.raise()
	}
}

// refusals returns the texts of the errors of peers that are joined in one error, by the names of the peers.
func refusals(err error) map[string]string {
	texts := map[string]string{}
	if all := (interface{ Unwrap() []error })(nil); errors.As(err, &all) {
		for _, one := range all.Unwrap() {
			if of, ok := errors.AsType[*fsm.PeerError](one); ok {
				texts[of.Peer] = of.Err.Error()
			}
		}
	}
	return texts
}

// establishedPeers has the peers with which BGP has been established since they were declared, by their names.
type establishedPeers map[string]addressPair

// addressPair has the addresses of a BGP session.
type addressPair struct {
	remote netip.Addr
	local  netip.Addr // that of the latest session, the zero Addr if it is not known
}

// watch returns the BFD sessions that are to run. One begins when BGP with its peer is established: FRR changes the source of its own when
// BGP comes up, which takes a session that is there already down, and BGP with it. From then on it runs on, so that a router that is dead
// is known to be. Its local address is that of the BGP session: the router watches that one, whatever the kernel would choose at present.
// For example a node has got 198.51.100.50/24 as well, and BGP still runs from 198.51.100.11.
//
// A peer that is left to another program (taken) is not watched any more: a router has one BFD session for each pair of addresses, and ends
// that program's BGP when it ends. It ends before that program's BGP is established, when it harms nobody.
func (e establishedPeers) watch(desired []bfd.Session, states []bgp.SessionState, taken []string) (running []bfd.Session) {
	declared := map[string]bool{}
	for _, session := range desired {
		if slices.Contains(taken, session.Name) {
			continue
		}
		declared[session.Name] = true
		known, ok := e[session.Name]
		if ok && known.remote != session.Remote {
			delete(e, session.Name)
			ok = false
		}
		for _, state := range states {
			if state.Peer == session.Name && state.Address == session.Remote && state.State == bgp.Established {
				known, ok = addressPair{session.Remote, state.Local}, true
				e[session.Name] = known
			}
		}
		if !ok {
			continue
		}
		if known.local.IsValid() {
			session.Local = known.local
		}
		running = append(running, session)
	}
	maps.DeleteFunc(e, func(peer string, _ addressPair) bool { return !declared[peer] })
	return running
}

// watch says so after changes of states, until the context ends.
func (s *sessions) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.bgp.Changes():
			s.joined.Raise()
		case <-s.bfd.Changes():
		}
		s.raise()
	}
}

// close ends all sessions: so that peers with graceful restart keep the routes for the speaker that follows, or so that they do not.
//
// For a speaker that follows, BFD ends in silence, after the peers have agreed to wait: a BIRD that loses BFD drops the routes, graceful
// restart or not. Else BFD says goodbye after BGP has ended: a FRR that loses BFD first takes that for a failure.
func (s *sessions) close(ctx context.Context, mode bgp.CloseMode) {
	if mode == bgp.Restart {
		s.bfd.Suspend(ctx)
	}
	s.bgp.Close(ctx, mode)
	s.bfd.Close(ctx)
}

// err returns the error of the last hand-over.
func (s *sessions) err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// states returns what is known about each peer of this node, ordered by name.
func (s *sessions) states() []peerState {
	peers, problems, doubts := s.peers.Load(), s.problems.Load(), s.doubts.Load()
	if peers == nil || problems == nil || doubts == nil {
		return nil
	}
	ofBGP, ofBFD := map[string]bgp.SessionState{}, map[string]bfd.SessionState{}
	for _, state := range s.bgp.States() {
		ofBGP[state.Peer] = state
	}
	for _, state := range s.bfd.States() {
		ofBFD[state.Name] = state
	}
	var refused map[string]problem
	if latest := s.refused.Load(); latest != nil {
		refused = *latest
	}
	hops := s.nextHops()
	states := make([]peerState, 0, len(*peers))
	for _, peer := range *peers {
		states = append(states, peerState{
			Peer: peer, bgp: ofBGP[peer.Name], bfd: ofBFD[peer.Name], doubt: (*doubts)[peer.Name], nextHops: hops[peer.Name],
			problem: cmp.Or((*problems)[peer.Name], refused[peer.Name]),
		})
	}
	return states
}
