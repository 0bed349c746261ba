// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
)

const (
	// suspicionPeriod is how often a speaker repeats what it suspects, since a message may be lost, and suspicionTimeout is for how long it
	// counts.
	suspicionPeriod  = 200 * time.Millisecond
	suspicionTimeout = time.Second
	// confirmations are how many speakers have to suspect an interface until it is taken for silent.
	confirmations = 2
	// maxSuspects bounds the suspects in a message, which has to fit into a packet.
	maxSuspects = 16
)

// suspicion is what a speaker tells the others: which interfaces of nodes have answered it and are silent now. It is a JSON object, of
// which a speaker ignores the fields that it does not know.
type suspicion struct {
	From     string    `json:"from"`
	Suspects []lan.Key `json:"suspects"`
}

// suspects returns the interfaces that this speaker suspects. If nobody on one of its own links answers any more, that is more likely a
// failure of its own link, so that it suspects nobody there.
//
//	node1's probes by eth0   node2  node3     node1 suspects
//	                         -      answers   node2
//	                         -      -         nobody: its cable may be out, and node2 and node3 see that node1 is silent
func suspects(states map[lan.Key]lan.State, on []lan.Target) []lan.Key {
	answers := map[string]bool{}
	for _, t := range on {
		answers[t.Via] = answers[t.Via] || states[t.Key] == lan.Answers
	}
	var all []lan.Key
	for _, t := range on {
		if states[t.Key] == lan.Silent && answers[t.Via] {
			all = append(all, t.Key)
		}
	}
	slices.SortFunc(all, lan.Key.Compare)
	return all
}

// suspicions are what the speakers suspect, this one included.
type suspicions struct {
	latest map[string]heard
}

// heard is the latest suspicion of a speaker.
type heard struct {
	suspects []lan.Key
	at       time.Time
}

// Hear takes in a suspicion, which replaces the one before of the same speaker. It reports whether the two differ.
func (s *suspicions) Hear(now time.Time, said suspicion) (changed bool) {
	if s.latest == nil {
		s.latest = map[string]heard{}
	}
	list := said.Suspects[:min(len(said.Suspects), maxSuspects)]
	changed = !slices.Equal(s.latest[said.From].suspects, list)
	s.latest[said.From] = heard{list, now}
	return changed
}

// Confirmed returns the interfaces that enough speakers suspect, each of them alive, and how long that holds at least if nothing more is
// heard. A node does not count for its own interfaces.
func (s *suspicions) Confirmed(now time.Time, alive func(node string) bool) (silent map[lan.Key]bool, ends time.Duration) {
	maps.DeleteFunc(s.latest, func(_ string, h heard) bool { return now.Sub(h.at) >= suspicionTimeout })
	by := map[lan.Key]int{}
	ends = time.Hour
	for from, h := range s.latest {
		if !alive(from) || len(h.suspects) == 0 {
			continue
		}
		ends = min(ends, h.at.Add(suspicionTimeout).Sub(now))
		for _, key := range h.suspects {
			if key.Node != from {
				by[key]++
			}
		}
	}
	silent = map[lan.Key]bool{}
	for key, count := range by {
		if count >= confirmations {
			silent[key] = true
		}
	}
	return silent, ends
}

// readSuspicion reads a message of another speaker, and reports whether it is a suspicion.
func readSuspicion(message []byte) (said suspicion, ok bool) {
	err := json.Unmarshal(message, &said)
	return said, err == nil && said.From != "" && said.Suspects != nil
}

// withoutInterfaces takes interfaces out of nodes, as if their speakers had reported them unusable.
func withoutInterfaces(nodes map[string]decision.Node, silent map[lan.Key]bool) {
	for key := range silent {
		node, ok := nodes[key.Node]
		if !ok {
			continue
		}
		node.Interfaces = slices.DeleteFunc(slices.Clone(node.Interfaces), func(i decision.Interface) bool { return i.Name == key.Interface })
		nodes[key.Node] = node
	}
}
