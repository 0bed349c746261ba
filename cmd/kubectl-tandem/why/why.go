// SPDX-License-Identifier: Apache-2.0

// Package why says, for one Service, where the way to each of its addresses ends: family by family and hop by hop, with what to do.
//
//	IPv4 198.51.100.200
//	  ✓ asked for       type LoadBalancer, IPv4 and IPv6 (RequireDualStack)
//	  ✓ pool            lan
//	  ✓ claim           IPAddress 198.51.100.200
//	  ✓ status          published
//	  ✓ advertisement   L2Advertisement lan
//	  ✓ endpoint        2 nodes: node1 and node2
//	  ✓ holder          node1 on eth0 since 11:48:00
//	  ✗ neighbour       nobody answers node2 and node3 for the address
//	                    → a switch or a firewall drops ARP …
//
// What should be is said by decision.Explain and package diagnosis, which speakers and conditions follow: there is no rule of its own here. Each
// reason of a diagnosis belongs to one [Hop], and the chain ends at the first that is at fault, since what follows depends on it. The hop [Router] is
// asked last, since the nodes have to answer first, and keeps its place.
//
// What is, is said by a [Prober]. Its speakers ask the LAN, and open connections. Without one a step that only a probe can know is marked
// [Unknown], and so is one whose probe could not be made: a step is [Well] only if something said so.
package why

import (
	"fmt"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
)

// Hop is a step on the way to an address.
type Hop string

// The hops of an address, in their order. The way divides after Endpoint: by layer 2, by BGP, or by both.
const (
	AskedFor      Hop = "asked for"
	Pool          Hop = "pool"
	Claim         Hop = "claim"
	Status        Hop = "status"
	Advertisement Hop = "advertisement"
	Endpoint      Hop = "endpoint"
	Holder        Hop = "holder"     // layer 2: the node that answers
	Neighbour     Hop = "neighbour"  // layer 2: the LAN hears the holder's MAC
	Session       Hop = "session"    // BGP: with the peers
	Route         Hop = "route"      // BGP: that was sent to them
	Router        Hop = "router"     // BGP: that they have; layer 2: the gateway, which passes on to the holder
	KubeProxy     Hop = "kube-proxy" // on the node that gets the traffic
	TCP           Hop = "TCP"        // from the LAN, by that node
	Here          Hop = "from here"  // from the machine that runs the plugin
	Program       Hop = "program"    // behind the address: no probe asks it
)

// Hops of a node and of a peer, beside Session.
const (
	Speaker  Hop = "speaker"
	Excluded Hop = "may announce"
	Link     Hop = "interface"
	Layer2   Hop = "layer 2"
	ByBGP    Hop = "BGP"
	Object   Hop = "object" // the BGPPeer
)

// Mark says what is known of a hop.
type Mark string

// The marks.
const (
	Well    Mark = "Well"
	Fault   Mark = "Fault"
	Unknown Mark = "Unknown" // not known, or not to be
)

// Sign returns the mark as one character.
func (m Mark) Sign() string {
	switch m {
	case Well:
		return "✓"
	case Fault:
		return "✗"
	}
	return "–"
}

// Step is what is known of one hop.
type Step struct {
	Hop    Hop    `json:"hop"`
	Mark   Mark   `json:"mark"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Chain are the steps to one address, or of a node or a peer.
type Chain struct {
	Family  family.Family `json:"family,omitempty"` // "" for nodes and peers
	Address string        `json:"address,omitempty"`
	Steps   []Step        `json:"steps"`
}

// Answer is what is known of a Service, a node or a peer.
type Answer struct {
	Kind   string  `json:"kind"` // Service, Node or BGPPeer
	Name   string  `json:"name"` // default/web for a Service
	Chains []Chain `json:"chains"`
}

// Problem reports whether something is at fault.
func (a *Answer) Problem() bool {
	return slices.ContainsFunc(a.Chains, func(c Chain) bool { return c.Fault() != nil })
}

// Fault returns the first step that is at fault, nil if there is none.
func (c *Chain) Fault() *Step {
	if i := slices.IndexFunc(c.Steps, func(s Step) bool { return s.Mark == Fault }); i >= 0 {
		return &c.Steps[i]
	}
	return nil
}

// add adds a step.
func (c *Chain) add(hop Hop, mark Mark, text, remedy string) {
	c.Steps = append(c.Steps, Step{Hop: hop, Mark: mark, Text: text, Remedy: remedy})
}

// set changes the step of a hop, and adds it where there is none.
func (c *Chain) set(hop Hop, mark Mark, text, remedy string) {
	if i := slices.IndexFunc(c.Steps, func(s Step) bool { return s.Hop == hop }); i >= 0 {
		c.Steps[i] = Step{Hop: hop, Mark: mark, Text: text, Remedy: remedy}
		return
	}
	c.add(hop, mark, text, remedy)
}

// well, fault and unknown add a step with that mark.
func (c *Chain) well(hop Hop, format string, args ...any) {
	c.add(hop, Well, fmt.Sprintf(format, args...), "")
}

func (c *Chain) fault(hop Hop, text, remedy string) { c.add(hop, Fault, text, remedy) }

func (c *Chain) unknown(hop Hop, text, remedy string) { c.add(hop, Unknown, text, remedy) }

// list names things in a sentence, each once and in order.
func list(names []string) string {
	return diagnosis.Join(slices.Compact(slices.Sorted(slices.Values(names))))
}

// verb returns the form of a verb for so many things: verb(1, "answers", "answer").
func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
