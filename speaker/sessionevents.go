// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// A node writes so many events on one BGPPeer at once, and then one in each period. Two failures of a router and its two returns are told
	// as they happen; a session that flaps each few seconds costs the API server a write a minute.
	sessionEventBurst  = 4
	sessionEventPeriod = time.Minute
	// sessionEventRetry is how soon an event that was held back is tried again.
	sessionEventRetry = 5 * time.Second
)

// errHeldBack is returned while a change of a session is still to be told.
var errHeldBack = errors.New("events of BGP sessions are held back")

// sessionReporter tells users by events on the BGPPeers which sessions of this node are established, and which are lost and why.
//
// It compares the states with what it has told, so that what comes and goes while events are held back costs nothing. For example, a
// session that was told to be established, and is established since a later moment, was lost in between.
type sessionReporter struct {
	node   string
	cache  client.Reader
	events record.EventRecorder
	peers  func() []peerState
	told   map[string]*toldSession // by the names of peers; owned by run
}

// toldSession is the state of a session that users have been told.
type toldSession struct {
	since    time.Time // when the session was established; zero if it is not
	families []family.Family
	limiter  *rate.Limiter
}

func newSessionReporter(node string, cache client.Reader, events record.EventRecorder, peers func() []peerState) *sessionReporter {
	return &sessionReporter{node: node, cache: cache, events: events, peers: peers, told: map[string]*toldSession{}}
}

// run reports whenever the states may have changed, until the context ends. It waits a moment, in which a session may be back.
func (r *sessionReporter) run(ctx context.Context, changed signal.Signal) {
	signal.Every(ctx, signal.Gather(ctx, changed, time.Second), 0, sessionEventRetry, r.report)
}

// report writes an event for each session that was established, or lost, since the last one. It returns errHeldBack if there are more.
func (r *sessionReporter) report(ctx context.Context) error {
	var held error
	declared := map[string]bool{}
	for _, p := range r.peers() {
		declared[p.Name] = true
		told := r.told[p.Name]
		if told == nil {
			told = &toldSession{limiter: rate.NewLimiter(rate.Every(sessionEventPeriod), sessionEventBurst)}
			r.told[p.Name] = told
		}
		var since time.Time
		if p.bgp.State == bgp.Established {
			since = p.bgp.Since
		}
		if since.Equal(told.since) {
			continue
		}
		if !told.limiter.Allow() {
			held = errHeldBack
			continue
		}
		r.tell(ctx, p, *told)
		told.since = since
		if !since.IsZero() {
			told.families = p.bgp.Families
		}
	}
	for name := range r.told {
		if !declared[name] { // The user has taken the peer away from this node, and need not be told that its session ends.
			delete(r.told, name)
		}
	}
	return held
}

// tell writes the event of a session whose state is not what was told.
func (r *sessionReporter) tell(ctx context.Context, p peerState, told toldSession) {
	var peer v1alpha1.BGPPeer
	if r.cache.Get(ctx, client.ObjectKey{Name: p.Name}, &peer) != nil {
		return // it has been deleted
	}
	// The recorder's scheme need not know the kind.
	ref := &corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "BGPPeer", Name: peer.Name, UID: peer.UID, ResourceVersion: peer.ResourceVersion,
	}
	why := cmp.Or(p.problem.text, p.bgp.LastError, "it is started anew, since the BGPPeer or the node has changed")
	switch {
	case p.bgp.State != bgp.Established:
		r.events.Eventf(ref, corev1.EventTypeWarning, ipamv1alpha1.EventBGPSessionLost, "Node %s has lost its session with %s for %s: %s",
			r.node, p.Peer.Peer.Address, list(told.families), why)
	case told.since.IsZero():
		r.events.Eventf(ref, corev1.EventTypeNormal, ipamv1alpha1.EventBGPSessionEstablished, "Node %s has a session with %s for %s",
			r.node, p.Peer.Peer.Address, list(p.bgp.Families))
	default:
		r.events.Eventf(ref, corev1.EventTypeNormal, ipamv1alpha1.EventBGPSessionEstablished,
			"Node %s has a session with %s for %s again, which was lost in between: %s", r.node, p.Peer.Peer.Address, list(p.bgp.Families), why)
	}
}

// list names families as in a sentence.
func list(families []family.Family) string {
	if len(families) == 0 {
		return "no family"
	}
	var names []string
	for _, f := range families {
		names = append(names, string(f))
	}
	return strings.Join(names, " and ")
}
