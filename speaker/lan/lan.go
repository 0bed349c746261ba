// SPDX-License-Identifier: Apache-2.0

// Package lan tells whether the kernels of other nodes answer on the links that carry addresses.
//
// Gossip (package membership) tells whether the speaker of a node lives. That is a process: when it is killed, or restarts, the kernel of
// its node goes on forwarding what clients send to it. Only a node whose kernel is silent has to be replaced at once. So each node asks
// the kernels of others, on the very link on which they answer for addresses, by unicast ARP and Neighbour Solicitations, which a kernel
// answers in a softirq, however busy its programs are:
//
//	node1                                   node2, 198.51.100.12, 02:…:0c
//	  0 ms   ── who has 198.51.100.12? ──▶    answers: its kernel lives
//	 75 ms   ── who has 198.51.100.12? ──▶    (no power)
//	150 ms   ── who has 198.51.100.12? ──▶
//	225 ms   ── who has 198.51.100.12? ──▶
//	300 ms   three are lost: Silent (if it had never answered: Unanswered)
//
// The caller declares by [Prober.Set] whom to ask, and by which of its interfaces, and reads the result from [Prober.States]. [Ring] says
// whom a node watches, so that each is watched by three others, and a node has the same work however many there are.
//
// # What is no loss
//
// A question counts as lost only if it was sent, and if everything that had arrived one interval later was read and held no answer. So
// a program that was stopped for a second finds the answer in its socket when it goes on. If the kernel had to drop frames of the socket,
// nothing is taken for lost.
//
// A host of both families is asked by one and the other in turn, so that an address that it has given up is no death.
package lan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// A Key names an interface of a node.
type Key struct {
	Node      string `json:"node"`
	Interface string `json:"interface"`
}

// Compare orders keys by node and interface.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Node, o.Node), cmp.Compare(k.Interface, o.Interface))
}

// A Target is an interface of another node that is to be asked.
type Target struct {
	Key
	// Via is the name of the interface of this node that is on the same link.
	Via string
	MAC neighbor.MAC
	// Pairs are what to ask for, and from which address of this node: at most one of each family, and at least one.
	Pairs []Pair
}

// A Pair is an address of this node and one of the target in the same subnet.
type Pair struct {
	Own, Target netip.Addr
}

func (t *Target) equal(other *Target) bool {
	return t.Key == other.Key && t.Via == other.Via && t.MAC == other.MAC && slices.Equal(t.Pairs, other.Pairs)
}

// A State is what is known of a target.
type State uint8

// The states.
const (
	// Unknown is the state of a target that was not asked often enough.
	Unknown State = iota
	// Answers means that the kernel has answered one of the last questions.
	Answers
	// Silent means that it has answered before, and none of the last questions.
	Silent
	// Unanswered means that it has never answered, and was asked often enough.
	Unanswered
)

// String returns the state in words.
func (s State) String() string {
	switch s {
	case Answers:
		return "answering"
	case Silent:
		return "silent"
	case Unanswered:
		return "not answering"
	}
	return "unknown"
}

// losses are how many questions in a row have to be lost until a target is silent.
const losses = 3

// A watch is what is known of one target over time. It is pure.
type watch struct {
	state State
	asked int // questions that were sent
	lost  int // of the last questions, in a row
	// out says that a question was sent and its interval has not ended, failed that it could not be sent, answered that an answer came since.
	out, failed, answered bool
}

// Heard takes in an answer.
func (w *watch) Heard() { w.answered = true }

// Asked says that a question was sent, or could not be sent for a reason of this node.
func (w *watch) Asked(sent bool) {
	if sent {
		w.asked++
	}
	w.out, w.failed, w.answered = sent, !sent, false
}

// Step ends the interval after a question, when everything that had arrived by then was heard. If some was dropped unheard, nothing is
// lost. Nor is a question that could not be sent, unless nothing is known of the target: one that cannot be asked at all is not to be
// waited for.
func (w *watch) Step(dropped bool) {
	switch {
	case w.answered:
		w.state, w.lost = Answers, 0
	case w.out && !dropped, w.failed && w.state == Unknown:
		if w.lost++; w.lost >= losses && w.state == Answers {
			w.state = Silent
		} else if w.lost >= losses && w.state == Unknown {
			w.state = Unanswered
		}
	}
	w.out, w.failed, w.answered = false, false, false
}

const (
	// ringSize is how many others a node watches, and by how many it is watched.
	ringSize = 3
	// small is a number of nodes up to which each watches all others: then several may die at once, and still each is watched by all that
	// live.
	small = 8
)

// Ring returns those of the nodes that a node watches, sorted. In a larger cluster they are the three that follow it on a ring, on which
// the hashes of the names place them: if no node comes or goes, the nodes that watch one another stay the same.
func Ring(self string, nodes []string) []string {
	others := slices.Compact(slices.Sorted(slices.Values(nodes)))
	others = slices.DeleteFunc(others, func(n string) bool { return n == self })
	if len(others) < small {
		return others
	}
	own := xxhash.Sum64String(self)
	// The distance from this node, clockwise. It wraps around.
	distance := func(n string) uint64 { return xxhash.Sum64String(n) - own }
	slices.SortFunc(others, func(a, b string) int { return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(a, b)) })
	others = others[:ringSize]
	slices.Sort(others)
	return others
}
