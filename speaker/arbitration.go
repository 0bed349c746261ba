// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// rivalTimeout is for how long a rival counts after it was heard last.
	rivalTimeout = 3 * time.Second
	// rivalPatience is how long a speaker that gossip shows may go on answering before this one yields to it: when a node has come back, the two
	// need a moment to agree.
	rivalPatience = 3 * time.Second
	// yieldTurn is how much longer the one of two speakers listens whose name comes second, so that they do not both begin again at once.
	yieldTurn = 2 * time.Second
)

// arbitration settles which of two speakers goes on that answer for one address. They do not agree in who is alive, or have not read the
// same records: gossip may be cut, or the API out of reach. What the API has on record decides, if it can be asked:
//
//	the API says     this node
//	itself           goes on, and layer 2 announces the address again
//	the other        knows that the other lives, so that it holds what it has on record
//	nothing          yields to the other, until nobody answers any more. To one that gossip shows it yields after a moment only: both go by
//	                 the same old record then.
//
// It is pure: its methods are told the time, and their caller asks.
type arbitration struct {
	node   string
	rivals map[netip.Addr]rival
}

// rival is the speaker of another node that uses an address of this one.
type rival struct {
	node        string
	first, last time.Time
	yielded     bool
}

func newArbitration(node string) *arbitration {
	return &arbitration{node: node, rivals: map[netip.Addr]rival{}}
}

// Hear takes in that the speaker of a node uses an address.
func (a *arbitration) Hear(now time.Time, address netip.Addr, node string) {
	r, known := a.rivals[address]
	if !known {
		r.first = now
	}
	r.node, r.last = node, now
	a.rivals[address] = r
}

// Settle takes in an answer of the API, by which an address has a holder, "" for none. It returns the nodes whose speakers are known to live
// by what was heard of them, and is on record.
func (a *arbitration) Settle(answer answer, now time.Time, holder func(netip.Addr) string, alive func(node string) bool) (live []string) {
	for address, r := range a.rivals {
		switch {
		case !answer.outOfReach && answer.asked.Before(r.first): // The question is older than what it would have to answer.
		case !answer.outOfReach:
			if holder(address) == r.node && !slices.Contains(live, r.node) {
				live = append(live, r.node)
			}
			delete(a.rivals, address)
		case !alive(r.node) || r.last.Sub(r.first) >= rivalPatience:
			r.yielded = true
			a.rivals[address] = r
		}
	}
	slices.Sort(live)
	return live
}

// Expire forgets rivals that were not heard for long, and so ends what was yielded to them. It returns after how long the next will be
// forgotten.
func (a *arbitration) Expire(now time.Time) (wait time.Duration) {
	wait = time.Hour
	for address, r := range a.rivals {
		timeout := rivalTimeout
		if r.yielded && a.node > r.node {
			timeout += yieldTurn
		}
		if left := r.last.Add(timeout).Sub(now); left > 0 {
			wait = min(wait, left)
		} else {
			delete(a.rivals, address)
		}
	}
	return wait
}

// Disputed returns the addresses that have a rival, so that the API and the LAN are to be asked about them.
func (a *arbitration) Disputed() []netip.Addr {
	return slices.SortedFunc(maps.Keys(a.rivals), netip.Addr.Compare)
}

// Yielded returns the addresses that are left to rivals; nil if there are none.
func (a *arbitration) Yielded() (yielded map[netip.Addr]bool) {
	for address, r := range a.rivals {
		if r.yielded {
			if yielded == nil {
				yielded = map[netip.Addr]bool{}
			}
			yielded[address] = true
		}
	}
	return yielded
}

// rivals are what layer 2 has heard of other speakers, until the loop takes it. The zero value has heard nothing.
type rivals struct {
	changed signal.Signal
	mu      sync.Mutex // guards heard
	heard   map[netip.Addr]string
}

// note takes in what layer 2 has heard. It does not block.
func (r *rivals) note(heard layer2.Rival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.heard == nil {
		r.heard = map[netip.Addr]string{}
	}
	r.heard[heard.Address] = heard.MAC.String()
	r.changed.Raise()
}

// take returns the nodes of the rivals that were heard since it was called last, by the addresses that they use. Their MACs are in the
// statuses of speakers.
func (r *rivals) take(speakers []v1alpha1.SpeakerStatus) map[netip.Addr]string {
	r.mu.Lock()
	heard := r.heard
	r.heard = nil
	r.mu.Unlock()
	if len(heard) == 0 {
		return nil
	}
	nodes := map[string]string{}
	for i := range speakers {
		for _, state := range speakers[i].Status.Interfaces {
			nodes[state.MAC] = speakers[i].Name
		}
	}
	byAddress := make(map[netip.Addr]string, len(heard))
	for address, mac := range heard {
		if node := nodes[mac]; node != "" {
			byAddress[address] = node
		}
	}
	return byAddress
}

// heldBy finds the node that L2Announcements name as the holder of an address.
func heldBy(announcements iter.Seq[*v1alpha1.L2Announcement]) func(netip.Addr) string {
	holders := map[string]string{}
	for a := range announcements {
		for _, address := range a.Status.Addresses {
			holders[address] = a.Status.Node
		}
	}
	return func(address netip.Addr) string { return holders[address.String()] }
}
