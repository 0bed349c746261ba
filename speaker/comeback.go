// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// comebackPatience bounds how long a speaker waits for the BGP sessions that it had before: a router that is down does not stop an upgrade.
const comebackPatience = time.Minute

// comeback is what a speaker that has just started waits for before it is ready, so that in an upgrade the speaker of the next node does
// not restart while this one's routes are gone. For example node1 and node2 announce 192.0.2.10 by BGP. The speaker of node1 restarts, and
// is ready when its session is established again; only then does that of node2 restart.
type comeback struct {
	until time.Time
	peers []string // whose sessions were established
}

// readComeback returns what the speaker of a node that starts now waits for: the sessions that its SpeakerStatus shows, as the speaker
// before it has published them.
func readComeback(ctx context.Context, now time.Time, reader client.Reader, node string) (comeback, error) {
	var published v1alpha1.SpeakerStatus
	if err := reader.Get(ctx, client.ObjectKey{Name: node}, &published); client.IgnoreNotFound(err) != nil {
		return comeback{}, fmt.Errorf("reading what the speaker before this one has published: %w", err)
	}
	c := comeback{until: now.Add(comebackPatience)}
	for _, session := range published.Status.BGPSessions {
		if session.State == v1alpha1.BGPEstablished {
			c.peers = append(c.peers, session.Peer)
		}
	}
	return c, nil
}

// Missing returns the peers whose sessions are not back, until it has waited long enough. A peer that this node is to have no session with
// any more is not waited for.
func (c comeback) Missing(now time.Time, sessions func() []v1alpha1.BGPSession) []string {
	if len(c.peers) == 0 || !now.Before(c.until) {
		return nil
	}
	var missing []string
	for _, session := range sessions() {
		if session.State != v1alpha1.BGPEstablished && slices.Contains(c.peers, session.Peer) {
			missing = append(missing, session.Peer)
		}
	}
	return missing
}
