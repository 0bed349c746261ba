// SPDX-License-Identifier: Apache-2.0

// Package reachability has what speakers find out about addresses of Services by asking the LAN: who answers for one, and whether anything comes
// back that is sent there. Configuration and records say what should be. This says what is.
//
// There are two occasions. A [Tracker] says which address this node is to ask for next, one each second, all its time, and remembers which
// addresses do not answer. And a person asks for one address at once: [Asked] is what the speaker of one node then says of it.
//
//	198.51.100.200 is node1's          node2 asks on eth0            Asked.Stations
//	                                   02:…:0b, node1's              [{02:…:0b node1 Answers}]
//	                                   and 02:…:7f, nobody's         [{02:…:0b node1 Answers} {02:…:7f "" Silent}]: two answers, a finding
//
// The package is pure: frames are sent by package lan.
package reachability

import (
	"net/netip"
	"slices"
	"time"
)

// Asked is what the speaker of one node found out about an address at a moment.
type Asked struct {
	// Node is the one that asked, Interface its own on the link.
	Node      string     `json:"node"`
	Interface string     `json:"interface,omitempty"`
	Address   netip.Addr `json:"address"`
	// Stations are those that answer on the link that they have the address. Where nobody was to be asked, since the address is announced to
	// routers, it is the node that the routers send to.
	Stations []Station `json:"stations"`
	// Error says why nothing could be asked.
	Error string `json:"error,omitempty"`
}

// Station is a machine on a link.
type Station struct {
	MAC string `json:"mac"`
	// Node is the one that the machine is, "" for a machine that no speaker runs on.
	Node string `json:"node,omitempty"`
	// TCP is what came back from there for the first segment of a connection: Answers, Refused, Unreachable or Silent; "" if none was sent.
	TCP string `json:"tcp,omitempty"`
	// Error says why none could be sent.
	Error string `json:"error,omitempty"`
}

// Dialed is what the kernel of a node says to a connection that a program of the node opens: where kube-proxy runs, it answers, and nothing
// leaves the node. Refused has two causes here: no program listens, or kube-proxy rejects a Service without endpoints. It does so by an ICMP
// message, port unreachable, which connect reports as ECONNREFUSED, as it does a reset. Station.TCP tells the two apart.
type Dialed struct {
	Node string `json:"node"`
	TCP  string `json:"tcp"` // Answers, Refused, Unreachable or Silent
}

// Through is what came back for what the speaker of one node sent by way of a router of its link, as clients do that are behind the router. Own
// is the test of the test: the same for an address that the router has to pass on in any case, that of the node itself. For example the
// router has an old MAC for 198.51.100.200, which node1 holds:
//
//	to 198.51.100.200 by 198.51.100.1    nothing comes back    TCP: Silent
//	to 198.51.100.11, node1, by it       a reset               Own: Refused, so that the router passes on to node1
type Through struct {
	// Node is the one that asked.
	Node   string     `json:"node"`
	Router netip.Addr `json:"router"`
	// TCP is what came back for the address: Answers, Refused, Unreachable or Silent; "" if nothing was sent.
	TCP string `json:"tcp,omitempty"`
	// Own is what came back for the own address of the node, in the same words. It is "" where it was not asked, since TCP is Answers or
	// Refused.
	Own string `json:"own,omitempty"`
	// Error says why nothing was sent.
	Error string `json:"error,omitempty"`
}

// PassesOn reports whether the router is known to pass on to the node, and not what is for the address.
func (t *Through) PassesOn() bool {
	return (t.TCP == "Silent" || t.TCP == "Unreachable") && (t.Own == "Answers" || t.Own == "Refused")
}

// A Target is an address that the LAN is asked for, and the node that is to answer, on an interface of its own.
type Target struct {
	Address         netip.Addr
	Node, Interface string
}

// Losses is how many times in a row a Target has to be asked for in vain before it counts as one that does not answer. A takeover that is
// under way is over by then.
const Losses = 3

// Tracker says which Target to ask for next, and remembers the answers. One goroutine uses it. It takes the time as a value.
type Tracker struct {
	targets []*tracked // ordered as Set was given them
	turn    bool       // the next one is to be one of those that did not answer
}

// tracked is a Target with what is known of it.
type tracked struct {
	Target
	asked time.Time // when last, zero for never
	lost  int       // times in a row
	heard bool      // it has answered, and nothing that was heard since says otherwise
}

// Set declares the Targets. What is known of those that were declared before stays.
func (t *Tracker) Set(targets []Target) {
	known := make(map[Target]*tracked, len(t.targets))
	for _, old := range t.targets {
		known[old.Target] = old
	}
	t.targets = t.targets[:0]
	for _, target := range targets {
		kept := known[target]
		if kept == nil {
			kept = &tracked{Target: target}
		}
		t.targets = append(t.targets, kept)
	}
}

// Restore declares Targets that did not answer when another Tracker asked for them, such as that of the speaker of this node before it
// restarted. Those that Set declares next count as unanswered until they answer.
func (t *Tracker) Restore(unanswered []Target) {
	t.targets = nil
	for _, target := range unanswered {
		t.targets = append(t.targets, &tracked{Target: target, lost: Losses})
	}
}

// Next returns the Target to ask for at a time, and false if there is none. Every second one is one of those that were last asked for in vain,
// if there are any: so that a failure is certain soon, and its end is seen soon, however many Targets there are. The others follow one another,
// the one first that was never asked for, or not for the longest time.
func (t *Tracker) Next(now time.Time) (Target, bool) {
	next := t.oldest(func(x *tracked) bool { return (x.lost > 0) == t.turn })
	if next == nil {
		next = t.oldest(func(*tracked) bool { return true })
	}
	if next == nil {
		return Target{}, false
	}
	t.turn = !t.turn
	next.asked = now
	return next.Target, true
}

// oldest returns the one of a kind that was not asked for the longest time, nil if there is none.
func (t *Tracker) oldest(is func(*tracked) bool) (oldest *tracked) {
	for _, x := range t.targets {
		if is(x) && (oldest == nil || x.asked.Before(oldest.asked)) {
			oldest = x
		}
	}
	return oldest
}

// Heard takes in whether the node of a Target answered. It reports whether Unanswered has changed.
func (t *Tracker) Heard(target Target, answered bool) (changed bool) {
	x := t.find(target)
	if x == nil {
		return false
	}
	before := x.lost
	if x.lost, x.heard = before+1, answered; answered {
		x.lost = 0
	}
	return (before >= Losses) != (x.lost >= Losses)
}

// Excuse takes in that the node of a Target was not to answer after all: the Target neither answers nor fails to.
func (t *Tracker) Excuse(target Target) {
	if x := t.find(target); x != nil {
		x.lost, x.heard = 0, false
	}
}

// find returns what is known of a Target, nil for one that is not declared.
func (t *Tracker) find(target Target) *tracked {
	i := slices.IndexFunc(t.targets, func(x *tracked) bool { return x.Target == target })
	if i < 0 {
		return nil
	}
	return t.targets[i]
}

// Unanswered returns the Targets that do not answer, in the order of Set.
func (t *Tracker) Unanswered() (targets []Target) {
	for _, x := range t.targets {
		if x.lost >= Losses {
			targets = append(targets, x.Target)
		}
	}
	return targets
}

// Answered returns the Targets whose nodes answered when they were last asked, in the order of Set. One that could not be asked for, since
// the interface was down for example, is as it was before.
func (t *Tracker) Answered() (targets []Target) {
	for _, x := range t.targets {
		if x.heard {
			targets = append(targets, x.Target)
		}
	}
	return targets
}
