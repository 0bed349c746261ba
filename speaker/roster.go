// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
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
	// overlap is for how long a speaker that is back is treated as if it was still away. Gossip shows it before it has opened its sockets and
	// answers. Until then its deputies go on, with the same answers.
	overlap = 2 * time.Second
)

// roster remembers which speakers gossip has shown. A speaker that has just started has seen no other: by gossip alone it would take over
// everything. For example node1 starts anew, and the API knows speakers on node2 and node3. node1 presumes both alive until gossip shows
// them. If it does not show node3 within the discoveryWindow, node3 is dead.
type roster struct {
	started time.Time
	// grace is for how long a speaker that is gone without a word is expected back.
	grace time.Duration
	seen  map[string]bool // the speakers that gossip has shown at least once
	lost  map[string]bool // those of them that it has lost since, without a farewell
	// gone are the speakers that were not alive and expected at the latest update, back those that have come back since: until when they
	// overlap.
	gone map[string]bool
	back map[string]time.Time
	// hopeless are the speakers that are not expected back any more, since their kernels fell silent. The next answer of such a kernel is
	// that of a node that has started anew, which forwards nothing before its speaker is alive.
	hopeless map[string]bool
}

// newRoster returns the roster of a speaker that starts now.
func newRoster(now time.Time, grace time.Duration) *roster {
	return &roster{
		started: now, grace: grace, seen: map[string]bool{}, lost: map[string]bool{},
		gone: map[string]bool{}, back: map[string]time.Time{}, hopeless: map[string]bool{},
	}
}

// presence is what follows from an update of a roster.
type presence struct {
	// alive reports whether the speaker of a node is alive, or presumed to be.
	alive func(node string) bool
	// expected are the nodes whose speakers are not alive and may soon be back, each with when that hope ends: one that said so when it
	// stopped, one that fell silent, and one that this speaker has not met since its own start. One that has come back is among them for a
	// moment.
	expected map[string]time.Time
	// complete says that no speaker is merely presumed to be alive.
	complete bool
	// returned says that a speaker is alive again that had been lost without a farewell, and was not heard on the LAN.
	returned bool
	// startupHold says that this speaker has just started, and is to take over nothing.
	startupHold bool
}

// Update takes in which speakers gossip shows at a time. The keys of known are the nodes that have a speaker according to the API.
func (r *roster) Update(now time.Time, alive membership.Snapshot, known map[string]netip.Addr) presence {
	p := presence{startupHold: now.Sub(r.started) < startupHold, expected: map[string]time.Time{}}
	for node := range alive.Nodes {
		p.returned = p.returned || r.lost[node]
		delete(r.lost, node)
		r.seen[node] = true
		delete(r.hopeless, node)
		if r.gone[node] {
			r.back[node] = now.Add(overlap)
		}
		if until, ok := r.back[node]; ok {
			p.expected[node] = until
		}
	}
	for node, since := range alive.Lost {
		r.lost[node] = true
		p.expected[node] = since.Add(r.grace)
	}
	for node, until := range alive.Restarting {
		delete(r.lost, node)
		r.seen[node] = true
		p.expected[node] = until
	}
	presumed := map[string]bool{}
	for node := range known {
		switch {
		case r.seen[node]:
		case now.Sub(r.started) < discoveryWindow:
			presumed[node] = true
		default:
			p.expected[node] = r.started.Add(r.grace)
		}
	}
	over := func(_ string, until time.Time) bool { return !now.Before(until) }
	maps.DeleteFunc(p.expected, over)
	maps.DeleteFunc(p.expected, func(node string, _ time.Time) bool { return r.hopeless[node] })
	maps.DeleteFunc(r.back, over)
	clear(r.gone)
	for node := range p.expected {
		r.gone[node] = !alive.Has(node)
	}
	p.complete = len(presumed) == 0
	p.alive = func(node string) bool { return alive.Has(node) || presumed[node] }
	return p
}

// GiveUp says that the speakers of nodes are not to be expected back before gossip shows them.
func (r *roster) GiveUp(nodes []string) {
	for _, node := range nodes {
		r.hopeless[node] = true
	}
}

// Heard says that nodes are away, and that their kernels answer on the LAN. If one comes back then, that is no return: had it announced an
// address of this node meanwhile, this node would have heard that, and defended the address.
func (r *roster) Heard(away map[string]bool) {
	for node := range away {
		delete(r.lost, node)
	}
}
