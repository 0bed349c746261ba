// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"slices"
	"time"

	"github.com/tandem-lb/tandem/speaker/decision"
)

// departure is for how long a node that was excluded answers at most for what it is on record for. By then a successor that can write is on
// record. One that cannot has announced the addresses all the same.
const departure = 3 * time.Second

// A handover remembers what takes time when addresses move from one live node to another, since decisions have no clock.
type handover struct {
	node string
	// drainTime is for how long routes are announced with the least preference, after the node was excluded.
	drainTime time.Duration
	// own is this node as it was last, nil while none was seen. excluded is since when it announces nothing, the zero Time while it may.
	own      *decision.Node
	excluded time.Time
	// announced is set once this process has seen that the node may announce. One that starts while it may not has nothing to withdraw.
	announced bool
	// healthy is since when this node has been healthy, the zero Time while it is not.
	healthy time.Time
}

// Begin completes a snapshot before it is decided on, and returns after how long the next decision will be another; an hour if none will. A
// Node that was deleted a moment ago is one that is excluded: its addresses go to other nodes, and it hands them over.
func (h *handover) Begin(now time.Time, s *decision.Snapshot, alone bool) (wait time.Duration) {
	own, exists := s.Nodes[h.node]
	switch {
	case exists && !own.Excluded:
		h.excluded, h.announced = time.Time{}, true
	case h.excluded.IsZero():
		h.excluded = now
	}
	wait = h.recover(now, s, exists && !own.Excluded && own.Ready && !alone && !s.Isolated && !s.StartupHold && h.hasAll(own))
	if exists {
		h.own = &own
	}
	if h.excluded.IsZero() || h.own == nil {
		return wait
	}
	if left := h.excluded.Add(departure).Sub(now); left > 0 {
		s.Departing, wait = true, min(wait, left)
	}
	if left := h.excluded.Add(h.drainTime).Sub(now); left > 0 && h.announced && !h.own.Gone {
		s.Leaving, wait = true, min(wait, left)
	}
	if !exists && (s.Departing || s.Leaving) {
		own = *h.own
		own.Excluded = true
		s.Nodes[h.node] = own
	}
	return wait
}

// hasAll reports whether a node has all interfaces that this one had when it was seen last, and is heard on each of them.
func (h *handover) hasAll(node decision.Node) bool {
	heard := func(name string) bool {
		return slices.ContainsFunc(node.Interfaces, func(i decision.Interface) bool { return i.Name == name && !i.Silent })
	}
	return h.own == nil || !slices.ContainsFunc(h.own.Interfaces, func(i decision.Interface) bool { return !heard(i.Name) })
}

// recover sets HealthyFor by whether this node is healthy now, and returns after how long it will be another.
func (h *handover) recover(now time.Time, s *decision.Snapshot, healthy bool) (wait time.Duration) {
	wait = time.Hour
	if !healthy {
		h.healthy = time.Time{}
		return wait
	}
	if h.healthy.IsZero() {
		h.healthy = now
	}
	for i := range s.Config.L2 {
		after := s.Config.L2[i].FailbackAfter
		if left := h.healthy.Add(after).Sub(now); left > 0 {
			wait = min(wait, left)
		} else {
			s.HealthyFor = max(s.HealthyFor, after)
		}
	}
	return wait
}
