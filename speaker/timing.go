// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
)

const (
	// announceDelay is how long a prefix waits after a Service has begun to serve its address: the kube-proxies of the nodes learn of a new Service, or of
	// its first endpoint, at the same moment as their speakers, and take up to a second to forward to it.
	announceDelay = time.Second
	// A prefix that comes back within flapWindow of its withdrawal waits for flapDelay, for twice as long the next time, and for flapDelayMost
	// at most. Routers that damp flapping routes (RFC 2439) would suppress it for much longer. What has been announced for flapReset without a
	// break is new again.
	flapWindow    = 10 * time.Second
	flapDelay     = 2 * time.Second
	flapDelayMost = 30 * time.Second
	flapReset     = time.Minute
)

// timing says when the prefixes of a decision are announced, since decisions have no clock. What is withdrawn is withdrawn at once.
//
// For example the Service web gets 192.0.2.10: the prefix is announced a second later. Its only pod fails for 3 s: the prefix is withdrawn, and
// announced 2 s after it is ready again. All that this speaker finds when it starts is announced at once: it was announced before. So is what a BGPPeer
// that begins to select this node is told of Services that have served for longer: another program may have announced them until now, and
// its router keeps those routes until End-of-RIB.
//
// What counts is what advertisements say, whether or not there is a session or a next hop for it at the moment. For example the IPv6 address of
// the node is away for a second: its IPv6 prefixes have not flapped. And the router on eth1 is found a second after the speaker has
// started: its prefixes are not new, and End-of-RIB must not come before them.
//
// An address that another Service gets has not flapped, however soon: somebody has deleted one and created the other.
//
// A prefix of a Service with externalTrafficPolicy Local does not wait the first time: it may have come here from a node that has failed.
type timing struct {
	prefixes map[netip.Prefix]appearance
	// publishers returns the Services that have an address; nil where they do not count.
	publishers func(netip.Addr) iter.Seq[types.NamespacedName]
	// served are the addresses that are new; with nil all are.
	served newlyServed
}

// newlyServed are the addresses that Services have begun to serve within announceDelay (observation.Difference.Served), with when they did.
type newlyServed map[netip.Addr]time.Time

// note takes in that some addresses are served, which were not, and forgets those that are not new any more.
func (s newlyServed) note(now time.Time, addresses []netip.Addr) {
	if len(addresses) == 0 {
		return
	}
	maps.DeleteFunc(s, func(_ netip.Addr, since time.Time) bool { return now.Sub(since) >= announceDelay })
	for _, address := range addresses {
		s[address] = now
	}
}

// due returns when a prefix may be announced that was not declared before: once all its addresses have been served for announceDelay.
func (s newlyServed) due(prefix netip.Prefix, now time.Time) time.Time {
	if s == nil {
		return now.Add(announceDelay)
	}
	latest := s[prefix.Addr()]
	if !prefix.IsSingleIP() {
		for address, since := range s {
			if prefix.Contains(address) && since.After(latest) {
				latest = since
			}
		}
	}
	if due := latest.Add(announceDelay); due.After(now) {
		return due
	}
	return now
}

// appearance is what is remembered of a prefix.
type appearance struct {
	due     time.Time     // when it may be announced
	gone    time.Time     // since when it is not to be announced any more, zero while it is
	flapped time.Duration // how long it has waited for its latest flap
	// service is the first by name of the Services that had the address when it appeared, for a prefix of one address.
	service types.NamespacedName
}

// Apply returns the sessions without the routes that are not due, and after how long it is to be called again if nothing changes before. It
// changes nothing in the sessions. Wanted has all prefixes that peers are to be told, also those in no session yet, and says which of them are
// of a Service with externalTrafficPolicy Local. Time begins with the first session.
func (t *timing) Apply(now time.Time, sessions []bgp.Session, wanted map[netip.Prefix]bool) (timely []bgp.Session, wait time.Duration) {
	if len(sessions) == 0 && t.prefixes == nil {
		return sessions, time.Hour
	}
	wait, held := t.advance(now, wanted)
	if !held {
		return sessions, wait
	}
	for _, s := range sessions {
		routes := make([]bgp.Route, 0, len(s.Routes))
		for _, r := range s.Routes {
			if !t.prefixes[r.Prefix].due.After(now) {
				routes = append(routes, r)
			}
		}
		timely = append(timely, bgp.Session{Peer: s.Peer, Routes: routes})
	}
	return timely, wait
}

// advance takes in which prefixes are wanted, and which of them are local. It returns for how long that holds, and whether any is not due.
func (t *timing) advance(now time.Time, wanted map[netip.Prefix]bool) (wait time.Duration, held bool) {
	wait = time.Hour
	first := t.prefixes == nil
	if first {
		t.prefixes = map[netip.Prefix]appearance{}
	}
	lengths := t.lengths()
	current := map[netip.Prefix]appearance{}
	for prefix, local := range wanted {
		a, known := t.prefixes[prefix]
		switch {
		case !known || !a.gone.IsZero():
			service, due := t.publisher(prefix), now
			if !first && !local && !t.overlaps(prefix, lengths) {
				due = t.served.due(prefix, now)
			}
			a = a.appears(now, known && a.service == service, due)
			a.service = service
		case now.Sub(a.due) >= flapReset:
			a.flapped = 0
		}
		current[prefix] = a
		if left := a.due.Sub(now); left > 0 {
			held, wait = true, min(wait, left)
		}
	}
	maps.Copy(t.prefixes, current) // not before all have been compared with what was declared until now
	for prefix, a := range t.prefixes {
		_, stays := current[prefix]
		switch {
		case stays:
		case a.gone.IsZero():
			a.gone = now
			t.prefixes[prefix] = a
		case now.Sub(a.gone) >= flapReset:
			delete(t.prefixes, prefix)
		}
	}
	return wait, held
}

// publisher returns the first by name of the Services that have the address of a prefix.
func (t *timing) publisher(prefix netip.Prefix) types.NamespacedName {
	if t.publishers == nil || !prefix.IsSingleIP() {
		return types.NamespacedName{}
	}
	names := slices.SortedFunc(t.publishers(prefix.Addr()), func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	if len(names) == 0 {
		return types.NamespacedName{}
	}
	return names[0]
}

// ApplyKernel returns the entries for other routing software without those that are not due, like Apply. Local reports whether a prefix is one
// of a Service with externalTrafficPolicy Local.
func (t *timing) ApplyKernel(
	now time.Time, entries []decision.KernelEntry, local func(netip.Prefix) bool,
) (timely []decision.KernelEntry, wait time.Duration) {
	wanted := make(map[netip.Prefix]bool, len(entries))
	for _, e := range entries {
		wanted[e.Prefix] = local(e.Prefix)
	}
	wait, _ = t.advance(now, wanted)
	for _, e := range entries {
		if !t.prefixes[e.Prefix].due.After(now) {
			timely = append(timely, e)
		}
	}
	return timely, wait
}

// appears is what is to be remembered of a prefix that was not declared a moment ago. Known says that it was before, for the same Service. Due is when
// it may be announced unless it has flapped.
func (a appearance) appears(now time.Time, known bool, due time.Time) appearance {
	if a.due = due; known && now.Sub(a.gone) < flapWindow {
		a.flapped = min(max(2*a.flapped, flapDelay), flapDelayMost)
		a.due = now.Add(a.flapped)
	}
	if a.gone = (time.Time{}); !known {
		a.flapped = 0
	}
	return a
}

// length is the length of a prefix of a family.
type length struct {
	family family.Family
	bits   int
}

// lengths returns those of the prefixes that are declared.
func (t *timing) lengths() map[length]bool {
	lengths := map[length]bool{}
	for prefix, a := range t.prefixes {
		if a.gone.IsZero() {
			lengths[length{family.Of(prefix.Addr()), prefix.Bits()}] = true
		}
	}
	return lengths
}

// overlaps reports whether a prefix has addresses in common with another one that has been declared until now: then it only takes the place of that one, as
// 192.0.2.0/24 does of 192.0.2.10/32 when an aggregationLength is edited.
func (t *timing) overlaps(prefix netip.Prefix, lengths map[length]bool) bool {
	for l := range lengths {
		if l.family == family.Of(prefix.Addr()) && l.bits < prefix.Bits() {
			if a, known := t.prefixes[netip.PrefixFrom(prefix.Addr(), l.bits).Masked()]; known && a.gone.IsZero() {
				return true
			}
		}
	}
	if prefix.IsSingleIP() {
		return false
	}
	for known, a := range t.prefixes {
		if a.gone.IsZero() && known != prefix && known.Overlaps(prefix) {
			return true
		}
	}
	return false
}
