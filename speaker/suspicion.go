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
	// Sure are those of the Suspects that no other speaker could confirm, while the gateway beside them answers: see sure.
	Sure []lan.Key `json:"sure,omitempty"`
	// CutOff are the interfaces of From itself by which neither any node nor the gateway answers: see cutOff.
	CutOff []string `json:"cutOff,omitempty"`
}

func (s suspicion) equal(o suspicion) bool {
	return slices.Equal(s.Suspects, o.Suspects) && slices.Equal(s.Sure, o.Sure) && slices.Equal(s.CutOff, o.CutOff)
}

// isEmpty reports whether there is nothing to tell.
func (s suspicion) isEmpty() bool { return len(s.Suspects) == 0 && len(s.CutOff) == 0 }

// suspect returns what a speaker suspects by what it finds, which was cut off by some interfaces before.
func suspect(node string, states map[lan.Key]lan.State, on []lan.Target, before []string) suspicion {
	said := suspicion{From: node, Suspects: suspects(states, on), CutOff: cutOff(states, on, before)}
	said.Sure = sure(said.Suspects, on)
	return said
}

// suspects returns the interfaces that this speaker suspects. If nobody on one of its own links answers any more, that is more likely a
// failure of its own link, so that it suspects nobody there.
//
//	node1's probes by eth0   node2  node3     node1 suspects
//	                         -      answers   node2
//	                         -      -         nobody: its cable may be out, and node2 and node3 see that node1 is silent
//
// A gateway counts as somebody: where it answers, the link of this node is well.
func suspects(states map[lan.Key]lan.State, on []lan.Target) []lan.Key {
	answers := map[string]bool{}
	for _, t := range on {
		answers[t.Via] = answers[t.Via] || states[t.Key] == lan.Answers || states[t.Key] == lan.NoEcho
	}
	var all []lan.Key
	for _, t := range on {
		if !t.IsGateway() && states[t.Key] == lan.Silent && answers[t.Via] {
			all = append(all, t.Key)
		}
	}
	slices.SortFunc(all, lan.Key.Compare)
	return all
}

// sure returns those suspects that are alone with this node on their link. There is no third speaker that could confirm it. Since somebody on
// the link answers this node, which can only be the gateway, it is the other that has no power, or is cut off.
func sure(suspects []lan.Key, on []lan.Target) (sure []lan.Key) {
	hosts, via := map[string]int{}, map[lan.Key]string{}
	for _, t := range on {
		if via[t.Key] = t.Via; !t.IsGateway() {
			hosts[t.Via]++
		}
	}
	for _, key := range suspects {
		if hosts[via[key]] == 1 {
			sure = append(sure, key)
		}
	}
	return sure
}

// cutOff returns the interfaces of this node, sorted, by which everything that has answered is silent, the gateway included: then it is this
// node that is cut off. Without a gateway it cannot be known: the others may be dead. It stays so until something answers, even if nobody
// but the gateway is asked any more, or others begin to be asked. For example node1 is cut off, and gossip finds node2 to node20 dead one
// by one, so that node1 asks the kernels of those that it did not watch: until they have lost three questions too, it is still cut off.
func cutOff(states map[lan.Key]lan.State, on []lan.Target, before []string) []string {
	hosts, gateways, heard := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, via := range before {
		hosts[via] = true
	}
	for _, t := range on {
		switch state := states[t.Key]; {
		case state == lan.Silent && t.IsGateway():
			gateways[t.Via] = true
		case state == lan.Silent:
			hosts[t.Via] = true
		case state != lan.Unanswered && (state != lan.Unknown || !slices.Contains(before, t.Via)):
			heard[t.Via] = true
		}
	}
	maps.DeleteFunc(hosts, func(via string, _ bool) bool { return !gateways[via] || heard[via] })
	return slices.Sorted(maps.Keys(hosts))
}

// suspicions are what the speakers suspect, this one included.
type suspicions struct {
	latest map[string]heard
	silent map[lan.Key]bool // as Confirmed returned it last
}

// heard is the latest suspicion of a speaker.
type heard struct {
	suspicion
	at time.Time
}

// Hear takes in a suspicion, which replaces the one before of the same speaker. It reports whether the two differ.
func (s *suspicions) Hear(now time.Time, said suspicion) (changed bool) {
	if s.latest == nil {
		s.latest = map[string]heard{}
	}
	said = said.bounded()
	changed = !s.latest[said.From].equal(said)
	s.latest[said.From] = heard{said, now}
	return changed
}

// bounded returns the suspicion with as many of each as a message has.
func (s suspicion) bounded() suspicion {
	s.Suspects = s.Suspects[:min(len(s.Suspects), maxSuspects)]
	s.Sure = s.Sure[:min(len(s.Sure), maxSuspects)]
	s.CutOff = s.CutOff[:min(len(s.CutOff), maxSuspects)]
	return s
}

// Confirmed returns the interfaces that enough speakers suspect, each of them alive, and how long that holds at least if nothing more is
// heard. One speaker is enough if it is sure, or says that it is itself cut off. Otherwise a node does not count for its own interfaces, nor
// for those of a node that fewer speakers suspect than itself, or as many: when the LAN is cut in two, each side suspects the other, and at
// most the smaller side is to fall silent.
//
//	node1 and node2 suspect node3 and node4, which suspect them            nobody is silent
//	node1, node2 and node5 suspect node3 and node4, which suspect them     node3 and node4 are
//	node1 is sure that node2 is silent, and node2 says nothing             node2 is
//	node1 and node2 are each sure of the other                             nobody is silent
//	node1 says that it is cut off                                          node1 is
//
// What is silent stays so while its speaker is not alive: those that suspect it stop asking a node that is dead.
func (s *suspicions) Confirmed(now time.Time, alive func(node string) bool) (silent map[lan.Key]bool, ends time.Duration) {
	silent, ends = s.confirm(now, alive)
	s.silent = silent
	return silent, ends
}

// confirm returns what Confirmed does.
func (s *suspicions) confirm(now time.Time, alive func(node string) bool) (silent map[lan.Key]bool, ends time.Duration) {
	maps.DeleteFunc(s.latest, func(_ string, h heard) bool { return now.Sub(h.at) >= suspicionTimeout })
	by, suspectedBy := map[lan.Key]map[string]bool{}, map[string]map[string]bool{} // interfaces and nodes, and the speakers
	silent, ends = map[lan.Key]bool{}, time.Hour
	for from, h := range s.latest {
		if !alive(from) || h.isEmpty() {
			continue
		}
		ends = min(ends, h.at.Add(suspicionTimeout).Sub(now))
		for _, name := range h.CutOff {
			silent[lan.Key{Node: from, Interface: name}] = true
		}
		for _, key := range h.Suspects {
			if key.Node != from {
				add(by, key, from)
				add(suspectedBy, key.Node, from)
			}
		}
	}
	for key, from := range by {
		maps.DeleteFunc(from, func(node string, _ bool) bool { return len(suspectedBy[node]) >= len(suspectedBy[key.Node]) })
		for node := range from {
			if len(from) >= confirmations || slices.Contains(s.latest[node].Sure, key) {
				silent[key] = true
			}
		}
	}
	for key := range s.silent {
		if !alive(key.Node) {
			silent[key] = true
		}
	}
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

// markSilent marks interfaces of nodes as Silent.
func markSilent(nodes map[string]decision.Node, silent map[lan.Key]bool) {
	for key := range silent {
		node, ok := nodes[key.Node]
		if !ok {
			continue
		}
		node.Interfaces = slices.Clone(node.Interfaces) // Other snapshots may have the same ones.
		for i := range node.Interfaces {
			node.Interfaces[i].Silent = node.Interfaces[i].Silent || node.Interfaces[i].Name == key.Interface
		}
		nodes[key.Node] = node
	}
}
