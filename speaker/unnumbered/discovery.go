// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// advertisementInterval is the longest time between two of our advertisements, and three quarters of it the shortest. FRR, which sends
	// one every 10 s as well, forgets a router that it has not heard for three times as long.
	advertisementInterval = 10 * time.Second
	// The first advertisements come sooner, since one may get lost (RFC 4861 §6.2.4).
	initialAdvertisements, initialInterval = 3, time.Second
	// minDelay is the least time between two advertisements to all nodes, however many nodes ask (MIN_DELAY_BETWEEN_RAS of RFC 4861 §10).
	minDelay = 3 * time.Second

	// firstPatience is how long other routers may answer after the first one. A router answers a solicitation within 0.5 s
	// (MAX_RA_DELAY_TIME).
	firstPatience = time.Second
	// pollPatience is how long a router that is known may take to answer a solicitation. It waits for minDelay if it has advertised just
	// before.
	pollPatience = minDelay + 2*time.Second
	// Routers that are known are asked three times, since a solicitation may get lost, and with it a session.
	solicitationInterval, lastSolicitation = time.Second, 2 * time.Second
	// maxRouters is how many routers are told apart on a link. A flood of forged ones costs no more memory than that.
	maxRouters = 8
)

// discovery is what is known of the routers on one link, and when to say what there. It has neither a socket nor a clock. A new one is due
// at once.
//
// The first router that is heard becomes the peer a second later, if it is still the only one. From then on it stays: a silent router is
// asked only when another one is heard, and is given up for that one if it does not answer. For example fe80::1 is replaced by a router
// fe80::2, whose first advertisement has us ask; five seconds later fe80::2 is the peer. Where both answer, fe80::1 stays the peer and an
// error says so. Where there was no peer yet, there is none.
type discovery struct {
	heard map[netip.Addr]time.Time // when each router was heard last
	peer  netip.Addr               // the zero Addr for none
	// asked is when the routers were asked which of them are there, the zero Time if they are not being asked; due is when those that have
	// not answered count as gone.
	asked, due time.Time
	// rivals are the routers that have answered, if there are several.
	rivals []netip.Addr

	solicitation   time.Time // when the routers are to be asked next, the zero Time if they are not
	sent           int       // how many advertisements
	lastSent, next time.Time
}

// restart has the link advertised on and asked anew, as when its socket has been opened again. What is known stays.
func (d *discovery) restart(now time.Time) {
	d.sent, d.lastSent, d.next = 0, time.Time{}, now
	if d.peer.IsValid() {
		d.poll(now)
	}
}

// wakeUp is when step has something to do next.
func (d *discovery) wakeUp() time.Time {
	wakeUp := d.next
	for _, at := range []time.Time{d.due, d.solicitation} {
		if !at.IsZero() && at.Before(wakeUp) {
			wakeUp = at
		}
	}
	return wakeUp
}

// step returns what is to be sent to the link now.
func (d *discovery) step(now time.Time) (advertise, solicit bool) {
	if !d.due.IsZero() && !now.Before(d.due) {
		d.settle()
	}
	if advertise = !now.Before(d.next); advertise {
		d.sent, d.lastSent = d.sent+1, now
		d.next = now.Add(initialInterval)
		if d.sent >= initialAdvertisements {
			d.next = now.Add(advertisementInterval - rand.N(advertisementInterval/4))
		}
		if len(d.rivals) > 0 && d.asked.IsZero() { // one of them may have gone
			d.poll(now)
		}
		solicit = !d.peer.IsValid()
	}
	if !d.solicitation.IsZero() && !now.Before(d.solicitation) {
		solicit = true
		d.solicitation = now.Add(solicitationInterval)
		if d.solicitation.Sub(d.asked) > lastSolicitation {
			d.solicitation = time.Time{}
		}
	}
	return advertise, solicit
}

// hearAdvertisement takes note of a router.
func (d *discovery) hearAdvertisement(now time.Time, router netip.Addr) {
	_, known := d.heard[router]
	if !known && len(d.heard) == maxRouters {
		return
	}
	if d.heard == nil {
		d.heard = map[netip.Addr]time.Time{}
	}
	d.heard[router] = now
	switch {
	case known || !d.asked.IsZero():
	case d.peer.IsValid():
		d.poll(now)
	default:
		d.asked, d.due = now, now.Add(firstPatience)
	}
}

// hearSolicitation has the next advertisement come soon. Of many solicitations all are answered by one.
func (d *discovery) hearSolicitation(now time.Time) {
	soon := now
	if earliest := d.lastSent.Add(minDelay); earliest.After(now) {
		soon = earliest
	}
	if soon.Before(d.next) {
		d.next = soon
	}
}

// poll asks which routers are there.
func (d *discovery) poll(now time.Time) {
	d.asked, d.due, d.solicitation = now, now.Add(pollPatience), now
}

// settle goes by the answers. While none comes, because the link is cut for instance, nothing changes.
func (d *discovery) settle() {
	var present []netip.Addr
	for router, at := range d.heard {
		if !at.Before(d.asked) {
			present = append(present, router)
		}
	}
	d.asked, d.due, d.solicitation = time.Time{}, time.Time{}, time.Time{}
	if len(present) == 0 {
		return
	}
	slices.SortFunc(present, netip.Addr.Compare)
	for router := range d.heard {
		if !slices.Contains(present, router) {
			delete(d.heard, router)
		}
	}
	d.rivals = nil
	switch {
	case len(present) == 1:
		d.peer = present[0]
	case !slices.Contains(present, d.peer):
		d.peer, d.rivals = netip.Addr{}, present
	default:
		d.rivals = present
	}
}

// neighbor returns the peer on an interface, and what is wrong with it.
func (d *discovery) neighbor(iface string) (netip.Addr, error) {
	switch {
	case len(d.rivals) > 0:
		var names []string
		for _, router := range d.rivals {
			names = append(names, router.WithZone("").String())
		}
		consequence := "no session is opened"
		if d.peer.IsValid() {
			consequence = fmt.Sprintf("the session stays with %s, which was there first", d.peer.WithZone(""))
		}
		return d.peer, fmt.Errorf("%d routers answer on %s (%s), and an unnumbered session is for a link with one: %s; "+
			"write the router's address as spec.peerAddress, or keep the others from sending router advertisements", len(names), iface, strings.Join(names, ", "), consequence)
	case !d.peer.IsValid():
		return d.peer, fmt.Errorf("no router answers on %s yet: the router has to send router advertisements there (RFC 4861), "+
			"as FRR does for `neighbor IFACE interface`, and BIRD by its protocol radv", iface)
	}
	return d.peer, nil
}
