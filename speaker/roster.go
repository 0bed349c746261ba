// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/speaker/membership"
)

const (
	// startupHold is how long a speaker that has just started takes nothing but what it is on record for. Within that time gossip, which the
	// speaker joins by the addresses in the API, has shown it every speaker that is alive.
	startupHold = time.Second
	// discoveryWindow is how long after its start a speaker presumes those alive that the API knows and gossip has not shown.
	discoveryWindow = 3 * time.Second
)

// roster remembers which speakers gossip has shown. A speaker that has just started has seen no other: by gossip alone it would take over
// everything. For example node1 starts anew, and the API knows speakers on node2 and node3. node1 presumes both alive until gossip shows
// them. If it does not show node3 within the discoveryWindow, node3 is dead.
type roster struct {
	started time.Time
	seen    map[string]bool // the speakers that gossip has shown at least once => whether it shows them now
}

// newRoster returns the roster of a speaker that starts now.
func newRoster(now time.Time) *roster { return &roster{started: now, seen: map[string]bool{}} }

// presence is what follows from an update of a roster.
type presence struct {
	// alive reports whether the speaker of a node is alive, or presumed to be.
	alive func(node string) bool
	// complete says that no speaker is merely presumed to be alive.
	complete bool
	// returned says that a speaker is alive again that had been lost.
	returned bool
	// startupHold says that this speaker has just started, and is to take over nothing.
	startupHold bool
}

// Update takes in which speakers gossip shows at a time. The keys of known are the nodes that have a speaker according to the API.
func (r *roster) Update(now time.Time, alive membership.Snapshot, known map[string]netip.Addr) presence {
	p := presence{startupHold: now.Sub(r.started) < startupHold}
	for node := range alive.Nodes {
		if shown, seen := r.seen[node]; seen && !shown {
			p.returned = true
		}
	}
	for node := range r.seen {
		r.seen[node] = alive.Has(node)
	}
	for node := range alive.Nodes {
		r.seen[node] = true
	}
	presumed := map[string]bool{}
	if now.Sub(r.started) < discoveryWindow {
		for node := range known {
			if _, seen := r.seen[node]; !seen {
				presumed[node] = true
			}
		}
	}
	p.complete = len(presumed) == 0
	p.alive = func(node string) bool { return alive.Has(node) || presumed[node] }
	return p
}
