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
	silent map[lan.Key]bool // as Confirmed returned it last
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
// heard. A node does not count for its own interfaces, nor for those of a node that fewer speakers suspect than itself, or as many: when
// the LAN is cut in two, each side suspects the other, and at most the smaller side is to fall silent.
//
//	node1 and node2 suspect node3 and node4, which suspect them            nobody is silent
//	node1, node2 and node5 suspect node3 and node4, which suspect them     node3 and node4 are
//
// What is silent stays so while its speaker is not alive: those that suspect it stop asking a node that is dead.
func (s *suspicions) Confirmed(now time.Time, alive func(node string) bool) (silent map[lan.Key]bool, ends time.Duration) {
	maps.DeleteFunc(s.latest, func(_ string, h heard) bool { return now.Sub(h.at) >= suspicionTimeout })
	by, suspectedBy := map[lan.Key]map[string]bool{}, map[string]map[string]bool{} // interfaces and nodes, and the speakers
	ends = time.Hour
	for from, h := range s.latest {
		if !alive(from) || len(h.suspects) == 0 {
			continue
		}
		ends = min(ends, h.at.Add(suspicionTimeout).Sub(now))
		for _, key := range h.suspects {
			if key.Node != from {
				add(by, key, from)
				add(suspectedBy, key.Node, from)
			}
		}
	}
	silent = map[lan.Key]bool{}
	for key, from := range by {
		maps.DeleteFunc(from, func(node string, _ bool) bool { return len(suspectedBy[node]) >= len(suspectedBy[key.Node]) })
		if len(from) >= confirmations {
			silent[key] = true
		}
	}
	for key := range s.silent {
		if !alive(key.Node) {
			silent[key] = true
		}
	}
	s.silent = silent
	return silent, ends
}

// add puts a member into one of several sets.
func add[K comparable](sets map[K]map[string]bool, key K, member string) {
	if sets[key] == nil {
		sets[key] = map[string]bool{}
	}
	sets[key][member] = true
}

// Forget drops what is silent of nodes that do not exist any more.
func (s *suspicions) Forget(gone func(node string) bool) {
	maps.DeleteFunc(s.silent, func(key lan.Key, _ bool) bool { return gone(key.Node) })
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
