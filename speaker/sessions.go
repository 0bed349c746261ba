// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bfd/udp"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/bgp/gobgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// bfdRetry is how soon a BFD session that could not be started is tried again.
const bfdRetry = 5 * time.Second

// sessions hands the desired sessions of this node over to what speaks BGP and BFD, in a goroutine of its own: a session that ends takes
// time, and layer 2 must not wait for it.
type sessions struct {
	bgp     *gobgp.Speaker
	bfd     *udp.Speaker
	changed signal.Signal // raised when the states may have changed
	desired signal.Latest[peerings]
	// peers are those that are to have a session; problems say why a peer of this node has none, or less than it should; failure is the error
	// of the last hand-over. All are nil before there is any.
	peers    atomic.Pointer[[]string]
	problems atomic.Pointer[map[string]string]
	failure  atomic.Pointer[error]
}

// peerings are the sessions that this node is to have.
type peerings struct {
	bgp []bgp.Session
	bfd []bfd.Session
}

// newSessions returns a sessions that has none yet. A reset that BFD causes ends with ctx.
func newSessions(ctx context.Context, changed signal.Signal) *sessions {
	logger := klog.FromContext(ctx)
	s := &sessions{bgp: gobgp.New(logger), changed: changed, desired: signal.NewLatest[peerings]()}
	s.bfd = udp.New(udp.Config{Logger: logger, OnDown: func(peer, reason string) {
		go func() { // a reset takes its time, and OnDown must not
			if err := s.bgp.Reset(ctx, peer, "BFD: "+reason); err != nil && ctx.Err() == nil {
				logger.Error(err, "Failed to end the BGP session of a peer that BFD has lost", "peer", peer)
			}
		}()
	}})
	return s
}

// Set makes the sessions of a decision the desired ones. It does not wait for them.
func (s *sessions) Set(d decision.Desired) {
	s.desired.Put(peerings{bgp: d.BGP, bfd: d.BFD})
	var peers []string
	for i := range d.BGP {
		peers = append(peers, d.BGP[i].Peer.Name)
	}
	s.peers.Store(&peers)
	if old := s.problems.Swap(&d.Problems); old == nil || !maps.Equal(*old, d.Problems) {
		s.changed.Raise()
	}
}

// run follows the desired sessions until the context ends. It leaves them running.
func (s *sessions) run(ctx context.Context) error {
	var desired peerings
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case desired = <-s.desired:
		case <-retry: // a port that was in use, or an address that was not there yet
		}
		retry = nil
		bfdErr := s.bfd.Set(desired.bfd)
		if bfdErr != nil {
			retry = time.After(bfdRetry)
		}
		err := errors.Join(bfdErr, s.bgp.Set(ctx, desired.bgp))
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to follow a BGP peer, the others are followed")
		}
		s.failure.Store(&err)
		s.changed.Raise()
	}
}

// watch raises changed after changes of states until the context ends.
func (s *sessions) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.bgp.Changes():
		case <-s.bfd.Changes():
		}
		s.changed.Raise()
	}
}

// close ends all sessions so that peers with graceful restart keep the routes for the speaker that follows. BFD ends after BGP: a router
// that knows of the restart does not take the end of BFD for a failure (RFC 5882 §4.3.2).
func (s *sessions) close(ctx context.Context) {
	s.bgp.Close(ctx, bgp.Restart)
	s.bfd.Close(ctx)
}

// err returns the error of the last hand-over.
func (s *sessions) err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// states describes every peer of this node, those without a session too.
func (s *sessions) states() []v1alpha1.BGPSession {
	problems := map[string]string{}
	if p := s.problems.Load(); p != nil {
		problems = maps.Clone(*p)
	}
	bfdStates := map[string]v1alpha1.BFDState{}
	for _, state := range s.bfd.States() {
		bfdStates[state.Name] = v1alpha1.BFDState(state.State.String())
	}
	var states []v1alpha1.BGPSession
	for _, state := range s.bgp.States() {
		session := bgpSession(state)
		session.BFD = bfdStates[state.Peer]
		if problem, ok := problems[state.Peer]; ok {
			session.LastError = problem
			delete(problems, state.Peer)
		}
		states = append(states, session)
	}
	if peers := s.peers.Load(); peers != nil { // Some may have been handed over a moment ago, or refused.
		for _, peer := range *peers {
			if !slices.ContainsFunc(states, func(session v1alpha1.BGPSession) bool { return session.Peer == peer }) && problems[peer] == "" {
				problems[peer] = ""
			}
		}
	}
	for _, peer := range slices.Sorted(maps.Keys(problems)) {
		states = append(states, v1alpha1.BGPSession{Peer: peer, State: v1alpha1.BGPIdle, LastError: problems[peer]})
	}
	return states
}

// bgpSession describes a session. While prefixes are withheld, LastError says why, rather than why the session once ended.
func bgpSession(state bgp.SessionState) v1alpha1.BGPSession {
	since := metav1.NewTime(state.Since.Truncate(time.Second))
	session := v1alpha1.BGPSession{
		Peer: state.Peer, Address: state.Address.String(), State: v1alpha1.BGPState(state.State), Since: &since,
		AdvertisedIPv4: int32(state.Advertised[family.IPv4]), AdvertisedIPv6: int32(state.Advertised[family.IPv6]),
		LastError: state.LastError,
	}
	if state.Withheld > 0 {
		session.LastError = fmt.Sprintf("%d prefixes are not announced: the peer has agreed to %v only, "+
			"or to no IPv6 next hops for IPv4 (RFC 8950); "+
			"activate the missing family or capability there", state.Withheld, state.Families)
	}
	return session
}
