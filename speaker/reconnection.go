// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// reconnectionListen is for how long a speaker listens for an address after its node is back on a link: about as long as an address is probed
	// that is new. The link may have been down for an instant, in which nobody has taken anything over.
	reconnectionListen = 200 * time.Millisecond
	// reconnectionPatience is for how long it listens after another speaker was heard that uses the address.
	reconnectionPatience = 500 * time.Millisecond
	// reconnectionAsk is how often it asks the LAN and the API meanwhile.
	reconnectionAsk = 100 * time.Millisecond
	// reconnectionLimit is for how long it listens at most. By then arbitration has settled who goes on.
	reconnectionLimit = 5 * time.Second
)

// reconnection has a speaker listen before it answers again on a link that its node was off: while it was, others have taken over what this
// node holds by the records that it knows, and it may take seconds until it learns of that. For example the cable of node1 is pulled for
// five seconds, and node2 takes 192.0.2.10 over:
//
//	0.00 s   the cable is back; by the records that node1 knows it holds 192.0.2.10. It listens, and asks the LAN and the API
//	0.01 s   node2 answers for 192.0.2.10; node1 goes on listening as long as it hears that
//	1.20 s   the API answers node1: node2 holds 192.0.2.10
//
// Where no other speaker answers for a fifth of a second, as after the failure of a switch between all nodes and the API, node1 goes on.
//
// It is pure: its methods are told the time, and their caller asks.
type reconnection struct {
	// off has the interfaces that were usable once, and whether the node has been off their links since it last was on them.
	off map[string]bool
	// since is when the node was back on a link, the zero Time if there is nothing to learn any more.
	since time.Time
	// listens has the addresses that are listened for, and until when, if no other speaker is heard that uses them.
	listens map[netip.Addr]time.Time
	asked   time.Time // when Due last reported true, the zero Time if it has not yet
}

// Update takes in the interfaces that can be used, those of them by which nothing is heard, and those on which the node does not answer
// since others find it silent. If the node is back on some, it listens for the addresses that held returns for these: those that it holds, but for
// such as it announces by other links.
func (r *reconnection) Update(now time.Time, usable, deaf, silent []string, held func(back []string) []netip.Addr) {
	var back []string
	for name := range r.off {
		if !slices.Contains(usable, name) || slices.Contains(deaf, name) {
			r.off[name] = true
		}
	}
	for _, name := range usable {
		if slices.Contains(deaf, name) || slices.Contains(silent, name) {
			continue
		}
		if r.off == nil {
			r.off = map[string]bool{}
		}
		if r.off[name] {
			back = append(back, name)
		}
		r.off[name] = false
	}
	if len(back) == 0 {
		return
	}
	r.since, r.asked, r.listens = now, time.Time{}, map[netip.Addr]time.Time{}
	for _, address := range held(back) {
		r.listens[address] = now.Add(reconnectionListen)
	}
}

// Hear takes in that the speaker of another node uses an address.
func (r *reconnection) Hear(now time.Time, address netip.Addr) {
	if _, ok := r.listens[address]; ok {
		r.listens[address] = now.Add(reconnectionPatience)
	}
}

// Answered takes in that the API has answered a question for the records that was asked at a time.
func (r *reconnection) Answered(asked time.Time) {
	if !asked.Before(r.since) {
		r.listens = nil
	}
}

// Listening returns the addresses that are only listened for at a time, and after how long they would be others, or Due would report true.
func (r *reconnection) Listening(now time.Time) (addresses []netip.Addr, wait time.Duration) {
	wait = time.Hour
	for address, until := range r.listens {
		if left := min(until.Sub(now), reconnectionLimit-now.Sub(r.since)); left > 0 {
			wait = min(wait, left)
		} else {
			delete(r.listens, address)
		}
	}
	if len(r.listens) > 0 && !r.asked.IsZero() {
		wait = min(wait, max(0, reconnectionAsk-now.Sub(r.asked)))
	}
	return slices.SortedFunc(maps.Keys(r.listens), netip.Addr.Compare), wait
}

// Due reports whether the LAN and the API are to be asked at a time. It does so once for each time.
func (r *reconnection) Due(now time.Time) bool {
	if len(r.listens) == 0 || !r.asked.IsZero() && now.Sub(r.asked) < reconnectionAsk {
		return false
	}
	r.asked = now
	return true
}
