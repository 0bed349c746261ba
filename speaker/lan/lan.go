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
// whom a node watches, so that each is watched by four others, and a node has the same work however many there are.
//
// # What is no loss
//
// A question counts as lost only if it was sent, and if everything that had arrived one interval later was read and held no answer. So
// a program that was stopped for a second finds the answer in its socket when it goes on. If the kernel had to drop frames of the socket,
// nothing is taken for lost.
//
// # Kinds of questions
//
// A host is asked in turn in each family, by a question to its neighbour cache and by an ICMP echo, so that neither an address that it has
// given up nor a firewall that drops echoes is a death. What was never answered is left out of the turn, and tried again each five seconds:
//
//	198.51.100.12 by ARP, 2001:db8:51::12 by a solicitation, 198.51.100.12 by an echo, 2001:db8:51::12 by an echo, and from the beginning
//
// Switches with ARP suppression (EVPN) answer ARP and solicitations for hosts that are dead. They do not answer echoes: a host whose echoes were
// answered, and are not any more while ARP is, is NoEcho.
//
// A host whose last questions were lost is looked for by a question to all stations. If the address is answered for with another MAC, the
// host has changed its MAC, and is not dead: its state is Unknown until the caller declares the new one.
//
// # Gateways
//
// A target without a MAC is a gateway, which is asked for its MAC first. A gateway is asked while a host on its link does not answer, and
// else every five seconds, since a router answers few questions a second from all nodes together.
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

// A Target is an interface of another node that is to be asked, or a gateway.
type Target struct {
	// Key has no Node, and the address as the Interface, if this is a gateway.
	Key
	// Via is the name of the interface of this node that is on the same link.
	Via string
	// MAC is zero for a gateway.
	MAC neighbor.MAC
	// Pairs are what to ask for, and from which address of this node: at most one of each family, and at least one.
	Pairs []Pair
}

// A Pair is an address of this node and one of the target in the same subnet.
type Pair struct {
	Own, Target netip.Addr
}

// IsGateway reports whether this is a gateway.
func (t *Target) IsGateway() bool { return t.MAC == neighbor.MAC{} }

func (t *Target) equal(other *Target) bool {
	return t.Key == other.Key && t.Via == other.Via && t.MAC == other.MAC && slices.Equal(t.Pairs, other.Pairs)
}

// A State is what is known of a target.
type State uint8

// The states.
const (
	// Unknown is the state of a target that was not asked often enough.
	Unknown State = iota
	// Answers means that the kernel has answered one of the last questions and, of a gateway, the last one.
	Answers
	// NoEcho means that questions to the neighbour cache are answered, but echoes, which were answered before, are not any more. If the
	// speaker of the node is alive, its firewall has changed; else a switch answers for a host that is dead.
	NoEcho
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
	case NoEcho:
		return "answering, but no echo"
	case Silent:
		return "silent"
	case Unanswered:
		return "not answering"
	}
	return "unknown"
}

const (
	// losses are how many questions in a row have to be lost until a target is silent.
	losses = 3
	// tries are how many questions of a kind are asked before it is left out of the turn, while others are answered.
	tries = 3
	// retry is each how many questions one is tried again that was left out, or a gateway is asked that need not be.
	retry = 64
	// forgotten is after how many lost questions a kind that was answered counts as one that never was.
	forgotten = 100
)

// A watch is what is known of one target over time. It is pure.
type watch struct {
	state State
	asked int // intervals
	lost  int // of the last questions, in a row
	// slots are the questions that are asked in turn.
	slots []slot
	turn  int // the slot of the last question
	// out says that a question was sent and its interval has not ended, failed that it could not be sent, answered that an answer came since,
	// and elsewhere that another station has answered that it has the address.
	out, failed, answered, elsewhere bool
	// moved says that another station had the address when it was looked for last.
	moved bool
	// gateway says that the target is one, of which a single loss counts.
	gateway bool
}

// A slot is a question that is asked again and again.
type slot struct {
	pair     int
	kind     kind
	asked    int
	lost     int // in a row, the one that is out included
	answered bool
}

// newWatch returns the watch of a target with so many pairs.
func newWatch(pairs int, gateway bool) watch {
	w := watch{gateway: gateway}
	for i := range pairs {
		w.slots = append(w.slots, slot{pair: i, kind: toNeighbour})
	}
	for i := range pairs {
		if !gateway {
			w.slots = append(w.slots, slot{pair: i, kind: echo})
		}
	}
	w.turn = len(w.slots) - 1
	return w
}

// Next returns what to ask next, and whether all stations are to be asked too. It leaves out what was never answered where something was.
func (w *watch) Next() (s *slot, toAll bool) {
	w.asked++
	leftOut := func(s slot) bool { return w.isKnown() && !s.answered && s.asked >= tries }
	for range w.slots {
		if w.turn = (w.turn + 1) % len(w.slots); !leftOut(w.slots[w.turn]) {
			break
		}
	}
	if w.asked%retry == 0 {
		for i, s := range w.slots {
			if leftOut(s) && (!leftOut(w.slots[w.turn]) || s.asked < w.slots[w.turn].asked) {
				w.turn = i
			}
		}
	}
	s = &w.slots[w.turn]
	if w.moved {
		return s, w.lost%2 == 1
	}
	return s, w.lost%8 == losses-1 && w.state != Unknown && w.state != Unanswered
}

// Rest lets an interval pass without a question, and reports whether it may: now and then it may not.
func (w *watch) Rest() bool {
	if w.asked%retry == 0 {
		return false
	}
	w.asked++
	return true
}

// Rests returns how often Rest may still be called before a question is due.
func (w *watch) Rests() int { return (retry - w.asked%retry) % retry }

// Asked says that the question of Next was sent, or could not be sent for a reason of this node.
func (w *watch) Asked(sent bool) {
	if sent {
		w.slots[w.turn].asked++
		w.slots[w.turn].lost++
	}
	w.out, w.failed, w.answered, w.elsewhere = sent, !sent, false, false
}

// Heard takes in an answer to a question of a kind about the address of a pair.
func (w *watch) Heard(pair int, k kind) {
	w.answered = true
	for i := range w.slots {
		if s := &w.slots[i]; s.pair == pair && s.kind == k {
			s.answered, s.lost = true, 0
		}
	}
}

// HeardElsewhere takes in that another station has the address.
func (w *watch) HeardElsewhere() { w.elsewhere = true }

// Step ends the interval after a question, when everything that had arrived by then was heard. If some was dropped unheard, nothing is
// lost. Nor is a question that could not be sent, unless nothing is known of the target: one that cannot be asked at all is not to be
// waited for.
func (w *watch) Step(dropped bool) {
	if s := &w.slots[w.turn]; w.out && dropped && s.lost > 0 {
		s.lost--
	}
	switch {
	case w.answered:
		for i := range w.slots {
			w.slots[i].answered = w.slots[i].answered && w.slots[i].lost < forgotten
		}
		w.state, w.lost, w.moved = Answers, 0, false
		if w.noEcho() {
			w.state = NoEcho
		}
	case w.elsewhere && w.state != Unanswered && (w.moved || w.state != Unknown):
		w.state, w.lost, w.moved = Unknown, 0, true
	case w.out && !dropped, w.failed && w.state == Unknown:
		w.lost++
		switch {
		case w.lost >= losses && w.state == Unknown && (!w.gateway || !w.isKnown()):
			w.state = Unanswered
		case w.lost >= losses && w.state != Unanswered:
			w.state = Silent
		case w.gateway && w.state == Answers:
			w.state = Unknown
		}
	}
	w.out, w.failed, w.answered, w.elsewhere = false, false, false, false
}

// isKnown reports whether some question was answered.
func (w *watch) isKnown() bool {
	return slices.ContainsFunc(w.slots, func(s slot) bool { return s.answered })
}

// noEcho reports whether the last echoes are lost of each family in which they were answered before: three, or two of each of two families.
func (w *watch) noEcho() bool {
	families, fewest := 0, w.asked
	for _, s := range w.slots {
		if s.kind == echo && s.answered {
			families, fewest = families+1, min(fewest, s.lost)
		}
	}
	return families > 0 && fewest*families >= losses
}

const (
	// ringSize is how many others a node watches, and by how many it is watched: of three that die at once each is still watched by two.
	ringSize = 4
	// small is a number of nodes up to which each watches all others: then several may die at once, and still each is watched by all that
	// live.
	small = 8
)

// Ring returns those of the nodes that a node watches, sorted. In a larger cluster they are the four that follow it on a ring, on which
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
