// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bfd/udp"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/bgp/gobgp"
	"github.com/tandem-lb/tandem/speaker/config"
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
	moved   signal.Signal // the same, for events
	desired signal.Latest[peerings]
	// peers are those of this node; problems say why one of them has no session, or less than it should; failure is the error of the last
	// hand-over. All are nil before there is any.
	peers    atomic.Pointer[[]config.Peer]
	problems atomic.Pointer[map[string]string]
	failure  atomic.Pointer[error]
}

// peerings are the sessions that this node is to have.
type peerings struct {
	bgp []bgp.Session
	bfd []bfd.Session
}

// peerState is what is known about a peer of this node.
type peerState struct {
	config.Peer
	// bgp and bfd are the states of its sessions, each the zero value where it has no such session.
	bgp bgp.SessionState
	bfd bfd.SessionState
	// problem says why it has no session, or less than it should; "" if nothing is the matter.
	problem string
}

// newSessions returns a sessions that has none yet. A reset that BFD causes ends with ctx.
func newSessions(ctx context.Context, changed signal.Signal) *sessions {
	logger := klog.FromContext(ctx)
	s := &sessions{bgp: gobgp.New(logger), changed: changed, moved: signal.New(), desired: signal.NewLatest[peerings]()}
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
	s.peers.Store(&d.Peers)
	if old := s.problems.Swap(&d.Problems); old == nil || !maps.Equal(*old, d.Problems) {
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
		s.raise()
	}
}

// watch says so after changes of states, until the context ends.
func (s *sessions) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.bgp.Changes():
		case <-s.bfd.Changes():
		}
		s.raise()
	}
}

// close ends all sessions: so that peers with graceful restart keep the routes for the speaker that follows, or so that they do not. BFD
// ends after BGP: a router that knows of the restart does not take the end of BFD for a failure (RFC 5882 §4.3.2).
func (s *sessions) close(ctx context.Context, mode bgp.CloseMode) {
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
	peers, problems := s.peers.Load(), s.problems.Load()
	if peers == nil || problems == nil {
		return nil
	}
	ofBGP, ofBFD := map[string]bgp.SessionState{}, map[string]bfd.SessionState{}
	for _, state := range s.bgp.States() {
		ofBGP[state.Peer] = state
	}
	for _, state := range s.bfd.States() {
		ofBFD[state.Name] = state
	}
	states := make([]peerState, 0, len(*peers))
	for _, peer := range *peers {
		states = append(states, peerState{Peer: peer, bgp: ofBGP[peer.Name], bfd: ofBFD[peer.Name], problem: (*problems)[peer.Name]})
	}
	return states
}

// published describes every peer of this node for its SpeakerStatus.
func (s *sessions) published() []v1alpha1.BGPSession {
	var published []v1alpha1.BGPSession
	for _, state := range s.states() {
		published = append(published, bgpSession(state))
	}
	return published
}

// bgpSession describes a peer. While prefixes are withheld, LastError says why, rather than why the session once ended.
func bgpSession(s peerState) v1alpha1.BGPSession {
	session := v1alpha1.BGPSession{
		Peer: s.Name, Address: s.Peer.Peer.Address.String(), State: cmp.Or(v1alpha1.BGPState(s.bgp.State), v1alpha1.BGPIdle),
		AdvertisedIPv4: int32(s.bgp.Advertised[family.IPv4]), AdvertisedIPv6: int32(s.bgp.Advertised[family.IPv6]),
		LastError: s.bgp.LastError,
	}
	if !s.bgp.Since.IsZero() {
		session.Since = new(metav1.NewTime(s.bgp.Since.Truncate(time.Second)))
	}
	if s.bfd.Name != "" {
		session.BFD = v1alpha1.BFDState(s.bfd.State.String())
	}
	withheld := 0
	for _, n := range s.bgp.Withheld {
		withheld += n
	}
	if withheld > 0 {
		session.LastError = fmt.Sprintf("%d prefixes are not announced: the peer has agreed to %v only, "+
			"or to no IPv6 next hops for IPv4 (RFC 8950); "+
			"activate the missing family or capability there", withheld, s.bgp.Families)
	}
	session.LastError = cmp.Or(s.problem, session.LastError)
	return session
}
