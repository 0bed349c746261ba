// SPDX-License-Identifier: Apache-2.0

// Package repair decides what has to be done so that the records of an address agree. It is pure: no client, no
// clock, no lock.
//
// Three records say which Service has an address: the claim in the API, the cache, and the statuses of Services.
// Leaders end between two writes, two of them work at the same time, users edit statuses and pools, and the
// ClusterIP allocator takes addresses too. Whatever has happened, an [Entry] says what the records say now, and
// [Steps] returns what brings them together. The doc comment of Steps is the table of all cases, and each of its
// lines is a row of TestSteps.
package repair

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/ipam"
)

// Grace is how long a Service keeps an address that it does not want any more and that its status does not show.
// Another leader, which has not yet noticed that it was deposed, may be about to publish it; leases last 15 seconds
// by default, and the ledger takes more where they last longer. It is also how long the answer to a request may be on
// its way into the status.
const Grace = 20 * time.Second

// ClaimState is what the API has under the name of an address.
type ClaimState int

// States of a claim.
const (
	// NoClaim means that there is no IPAddress of that name.
	NoClaim ClaimState = iota
	// Pending means that this process is writing the claim, or has written it and the informer does not show that yet.
	Pending
	// Ours is a claim, with a Service as its parent.
	Ours
	// Foreign is an IPAddress of anybody else, of a ClusterIP for example.
	Foreign
)

// Claim is the IPAddress of an address.
type Claim struct {
	State   ClaimState
	UID     string
	Version string       // the resourceVersion, by which a write fails where another one came first
	Parent  ipam.Service // of Ours, as all following fields but Owner
	Pool    string       // the AddressPool on its label
	Key     string       // the sharing key that it was created with
	// Sharers are the Services that have the address, with their ports there, where several may: the parent too, unless it has no key.
	// Earlier versions wrote none.
	Sharers map[ipam.Service][]ipam.Port
	// Left says which Services have left the address since the claim was created, and when. A parent is immutable, so
	// that the claim of a shared address keeps its parent when that leaves, and an address that cools does.
	Left map[ipam.Service]time.Time
	// PoolGone says that no AddressPool has the name on the label.
	PoolGone bool
	Owner    string // of Foreign, in words
}

// Names reports whether the claim is ours and says that the Service has the address: as one of the sharers, or as the parent, unless that
// has left.
func (c Claim) Names(service ipam.Service) bool {
	_, shares := c.Sharers[service]
	return c.State == Ours && (shares || service == c.Parent && c.Left[service].IsZero())
}

// Named returns the Services that the claim names, sorted by name. Where there are none, the claim is for the Services that publish the
// address, to which an earlier version left it, or the address waits.
func (c Claim) Named() []ipam.Service {
	var named []ipam.Service
	for service := range c.Sharers {
		named = append(named, service)
	}
	if !slices.Contains(named, c.Parent) && c.Names(c.Parent) {
		named = append(named, c.Parent)
	}
	slices.SortFunc(named, compareServices)
	return named
}

func compareServices(a, b ipam.Service) int { return strings.Compare(a.String(), b.String()) }

// Need is what a Service has to do with an address, whether or not it has it.
type Need int

// Needs of a Service.
const (
	// Needed: the Service is served by us and goes on with the address.
	Needed Need = iota
	// Writing: the address is needed, and was given by a request whose answer is on its way into the status until
	// Standing.Until.
	Writing
	// Surplus: the Service is served by us and gave the address up. It is released when it is not published, from
	// Standing.Until on. Until is zero where the address was published when it was given up.
	Surplus
	// Duplicate: the Service publishes another address of the family that it holds. Two leaders that served the
	// Service at the same time leave one, and so does a crash between claim and status.
	Duplicate
	// Finishing: the Service is not served any more, and the service controller has its addresses released.
	Finishing
	// OtherProvider: the Service is the load balancer of another provider.
	OtherProvider
	// Gone: the Service does not exist, or is no load balancer and has lost the finalizer by which the service
	// controller would notice.
	Gone
	// Unread: the API has the Service, and the informer does not show it yet.
	Unread
)

// Standing is how one Service stands to an address.
type Standing struct {
	Service   ipam.Service
	Holds     bool // by the cache
	Publishes bool // by its status
	Need      Need
	Until     time.Time // of Writing and Surplus
	Sharing   ipam.Sharing
	// HasOther says that the Service holds another address of the family.
	HasOther bool
}

// ended reports whether nothing keeps the Service on the address any more, whatever else it does.
func (s Standing) ended() bool { return s.Need == Gone || s.Need == OtherProvider && !s.Publishes }

// served reports whether the Service is to have the address.
func (s Standing) served() bool { return s.Need == Needed || s.Need == Writing }

// An Entry is what the three records, claim, cache and statuses, say of one address at one moment.
type Entry struct {
	Address netip.Addr
	// Pool is the AddressPool that the address was taken from, by the cache or else by the claim. Where neither
	// says it, it is one that contains the address; "" where none does.
	Pool  string
	Claim Claim
	// ReuseAfter is how long the address waits for the Services that have left it, before others may have it.
	ReuseAfter time.Duration
	// Blocked says that the cache knows a foreign claim, and Cooling that it knows that the address waits.
	Blocked, Cooling bool
	// Starting says that the cache is being filled after a start: it does not know yet which Services shared the
	// address.
	Starting bool
	// Services are those that hold or publish the address, and those that the claim names, sorted by name.
	Services []Standing
}

// Action is what a step does.
type Action int

// Actions of a step. Those up to Share change what the API or other Services see, and need another look first.
const (
	// Hold records in the cache that Service has the address, with Sharing.
	Hold Action = iota
	// Write creates the claim, with Service as its parent.
	Write
	// Release takes the address from Service, in the cache and then in the claim as Step.Claim says. The lock of
	// Service is needed, so that no request goes on with the address.
	Release
	// Collect is Release for a Service that does not hold the address, or for none. It needs no lock.
	Collect
	// Drop takes the address from Service in the cache, and leaves the claim, which is another's.
	Drop
	// Block records the foreign claim in the cache.
	Block
	// Unblock forgets the foreign claim.
	Unblock
	// Relabel writes Entry.Pool on the claim.
	Relabel
	// Share writes Entry.Sharers on the claim.
	Share
	// MarkSurplus records that Service gives the address up, at Until.
	MarkSurplus
	// Keep records that Service does not give the address up.
	Keep
	// Cool records in the cache that the address waits for the Services that have left it.
	Cool
	// Wake has the service controller look at Service.
	Wake
	// Look has the address looked at again, at Until.
	Look
)

// ClaimEnd is what becomes of the claim when a Service is released.
type ClaimEnd int

// Ends of a claim.
const (
	// KeepClaim leaves it as it is: it does not name the Service, or is not ours.
	KeepClaim ClaimEnd = iota
	// TakeOff takes the Service off its sharers.
	TakeOff
	// MarkLeft is TakeOff, and records on it that the Service has left.
	MarkLeft
	// DeleteClaim deletes it.
	DeleteClaim
)

// NeedsLook reports whether the API has to be asked before a step is taken, since the informers may lag behind it. The
// other steps are taken in memory, and do no harm where they were not necessary.
func (a Action) NeedsLook() bool { return a < MarkSurplus }

// A Step brings the records of an address closer together.
type Step struct {
	Do      Action
	Service ipam.Service
	Claim   ClaimEnd     // of Release and Collect
	Sharing ipam.Sharing // of Hold
	Until   time.Time    // of MarkSurplus and Look
}

// Steps returns the steps that make the records of an address agree. It returns none where they do.
//
// A and B are Services. "A*" in the column of holders is A, beside Services with which it shares the address or
// alone; then the claim may have another parent. A claim "A" names A: as its parent, or as one of its sharers. A claim
// "left" names no Service: its parent has left the address to wait, or an earlier version left it to Services with which it
// shared it. Every line of the table is a row of TestSteps.
//
//	 #  claim    holds    publishes  need                      steps
//	 1  pending  any      any        any                       none: a request is at work
//	 2  A, left  A*       A          A needed                  none
//	 3  A, left  A*       -          A writing                 none: the status is being written
//	 4  A, left  A*       -          A needed                  wake A: the status was wiped
//	 5  A, left  A*       A          A surplus                 none: clients still find A here
//	 6  A, left  A*       -          A surplus, later          look again then
//	 7  A, left  A*       -          A surplus, now            release A
//	 8  A, left  A*       A          A surplus, was unused     keep A: another leader has published it
//	 9  A, left  A*       -          A duplicate               mark A's surplus, from 20 s on: another leader may be about
//	                                                          to publish it
//	10  A, left  A*       any        A finishing, unread       none: the service controller or the informer comes to it
//	11  A, left  A*       A          A of another provider     none: A answers here until that provider has published other
//	                                                          addresses
//	12  A, left  A*       -          A of another provider     release A
//	13  A, left  A*       any        A gone                    release A
//	14  A        -        any        A any but the next three  hold A: another leader created the claim
//	15  A        -        A          A of another provider     hold A
//	16  A        -        -          A of another provider     collect the claim
//	17  A        -        any        A gone                    collect the claim
//	18  A        A, B     any        A to be released          release A, and take it off the claim, with the mark that it has
//	                                                          left where it is the parent
//	19  A        A        B          A to be released          hold B, and as 18
//	20  A        -        B          A gone, B needed          hold B, and as 18
//	21  A        B        any        B admitted by A           hold A: they share
//	22  A        B        any        B not admitted            hold A, drop B, wake B where B is served: the claim decides
//	23  A, left  A        A, B       B needed, admitted by A   hold B, wake B: they share, which no claim says
//	24  A, left  A        A, B       B needed, at the start    hold B, wake B: they shared before one of them was edited,
//	                                                          and both keep the address. Only where the claim has a key
//	                                                          or B that of A, and B no other address.
//	25  A, left  A or -   A, B       B otherwise not admitted  wake B: it gets another address
//	26  A        A*       any        claim names a lost pool   relabel to the pool in the cache; a pool that exists stays
//	27  none     A        any        A needed, writing         claim for A; A holds the address meanwhile
//	28  none     A        A          A surplus                 claim for A
//	29  none     A        -          A surplus, duplicate      release A: another leader has deleted the claim
//	30  none     A        any        A finishing, unread       none
//	31  none     A        A          A of another provider     none
//	32  none     A        -          A of another provider     release A
//	33  none     A        any        A gone                    release A
//	34  none     -        A          A needed, in a pool       hold A, claim for A, wake A
//	35  none     -        A          A needed, in no pool      wake A: a person has to decide
//	36  none     -        A, B       both needed, in a pool    hold A, claim for A, wake A; then B as in 23 to 25
//	37  none     blocked  any        any                       unblock
//	38  foreign  A        any        any                       drop A, block, wake A where it is served
//	39  foreign  -        A          A needed                  block, wake A
//	40  foreign  -        -          -                         block
//	41  foreign  blocked  -          -                         none
//	42  left     B        any        B to be released          release B, the last one, and delete the claim
//	43  left     -        B          B needed                  hold B, wake B: B has shared the address, or may have it
//	                                                          back. Only where B has the claim's key, or has left, or the
//	                                                          claim has no key and the pool no reuseAfter.
//	44  left     -        B          B finishing, unread       hold B, until the service controller releases it
//	45  left     -        -          reuseAfter not over       cool, look again when it is over
//	46  left     -        -          reuseAfter over, or none  collect the claim
//	47  any      A        -          the last to be released,  release A, and mark that A has left: the address cools
//	                                 of a pool with reuseAfter
//	48  any      A*       A          needed, and A shares      write on the claim that A shares: an earlier version did not, or
//	                                 unlike the claim says     A's key or ports have changed
//
// For example, 192.0.2.1 is claimed for web, web holds it by the cache and does not publish it (4). A user has
// edited the status, and the service controller, woken, writes it again. Or web and api share 192.0.2.1, which is
// claimed for web, and web is deleted (18): the claim stays and has the mark that web has left, so that the speakers
// announce the address of api without a break. The claim is deleted when api goes (42).
func Steps(entry Entry, now time.Time) []Step {
	entry.Services = slices.Clone(entry.Services) // join writes into it
	switch entry.Claim.State {
	case Pending:
		return nil
	case Foreign:
		return entry.giveWay()
	case NoClaim:
		return entry.claimAgain()
	}
	if steps := entry.learn(); len(steps) > 0 {
		return steps
	}
	var steps []Step
	for i, s := range entry.Services {
		if !s.Holds {
			steps = append(steps, entry.join(i, entry.parent())...)
			continue
		}
		more := entry.follow(s, now)
		if len(more) > 0 && more[0].Do == Hold {
			return more // the others are looked at when that is done
		}
		steps = append(steps, more...)
	}
	switch {
	case !slices.ContainsFunc(entry.Services, func(s Standing) bool { return s.Holds }):
		return append(steps, entry.wait(now)...)
	case slices.ContainsFunc(steps, func(s Step) bool { return s.Do.NeedsLook() }):
		return steps
	case entry.unlisted():
		return append(steps, Step{Do: Share})
	case len(steps) == 0 && entry.Claim.PoolGone && entry.Claim.Pool != "" && entry.Claim.Pool != entry.Pool:
		// A claim that names a pool that exists is left alone, whatever the cache says: two leaders whose caches differ
		// would relabel it in turn, without end.
		return []Step{{Do: Relabel}}
	}
	return steps
}

// Standing returns how a Service stands to the address.
func (e Entry) Standing(service ipam.Service) Standing {
	for _, s := range e.Services {
		if s.Service == service {
			return s
		}
	}
	return Standing{Service: service, Need: Gone}
}

// parent returns how the parent of the claim stands to the address, the zero value where it has left.
func (e Entry) parent() Standing {
	if !e.Claim.Names(e.Claim.Parent) {
		return Standing{}
	}
	return e.Standing(e.Claim.Parent)
}

// Key returns the sharing key for a new claim of the address: that of the claim or of a Service that holds the
// address, "" where there is none.
func (e Entry) Key() string {
	key := e.Claim.Key
	for _, s := range e.Services {
		if s.Holds && key == "" {
			key = s.Sharing.Key
		}
	}
	return key
}

// lists reports whether a Service belongs among the sharers of the claim: it publishes the address or is listed already, and
// others may or do have it too. One that is listed need not publish it: another controller may have overwritten its status.
func (e Entry) lists(s Standing) bool {
	_, listed := e.Claim.Sharers[s.Service]
	return s.Holds && (s.Publishes || listed) && s.served() && (s.Sharing.Key != "" || s.Service != e.Claim.Parent)
}

// unlisted reports whether the sharers of the claim are not those that Sharers returns.
func (e Entry) unlisted() bool {
	return slices.ContainsFunc(e.Services, func(s Standing) bool {
		ports, listed := e.Claim.Sharers[s.Service]
		return e.lists(s) && (!listed || !slices.Equal(ports, s.Sharing.Ports))
	})
}

// Sharers returns the sharers that the claim should have, beside those that it has already.
func (e Entry) Sharers() map[ipam.Service][]ipam.Port {
	sharers := map[ipam.Service][]ipam.Port{}
	maps.Copy(sharers, e.Claim.Sharers)
	for _, s := range e.Services {
		if e.lists(s) {
			sharers[s.Service] = s.Sharing.Ports
		}
	}
	return sharers
}

// follow is for a Service that holds the address, and has a claim of its own or shares with the Service that has the
// claim (2 to 13).
func (e Entry) follow(s Standing, now time.Time) []Step {
	switch {
	case s.ended():
		return e.release(s, Release)
	case s.Need == Surplus && s.Publishes:
		if s.Until.IsZero() {
			return nil
		}
		return []Step{{Do: Keep, Service: s.Service}}
	case s.Need == Surplus && now.Before(s.Until):
		return []Step{{Do: Look, Until: s.Until}}
	case s.Need == Surplus:
		return e.release(s, Release)
	case s.Need == Duplicate:
		return []Step{{Do: MarkSurplus, Service: s.Service, Until: now.Add(Grace)}}
	case s.Need == Needed && !s.Publishes, s.Need == Writing && !s.Publishes && !now.Before(s.Until):
		return []Step{{Do: Wake, Service: s.Service}}
	}
	return nil
}

// release ends what a Service has (7, 12, 13, 16 to 20, 42, 47). Where another Service stays on the address, the claim
// stays too, without a moment in which it is not there.
func (e Entry) release(s Standing, how Action) []Step {
	step, named := Step{Do: how, Service: s.Service}, e.Claim.Names(s.Service)
	var hold []Step
	stays := false
	for _, other := range e.Services {
		stays = stays || other.Service != s.Service && other.Holds && !other.ended()
	}
	for _, other := range e.Services {
		if named && !stays && other.Service != s.Service && other.Publishes && other.served() {
			hold, stays = []Step{{Do: Hold, Service: other.Service, Sharing: other.Sharing}}, true
		}
	}
	switch {
	case stays && named && s.Service == e.Claim.Parent, !stays && e.ReuseAfter > 0:
		step.Claim = MarkLeft
	case stays && named:
		step.Claim = TakeOff
	case !stays:
		step.Claim = DeleteClaim
	}
	return append(hold, step)
}

// wait is for a claim that its parent has left, and of which no other Service has anything (45, 46).
func (e Entry) wait(now time.Time) []Step {
	var until time.Time
	for _, at := range e.Claim.Left {
		if end := at.Add(e.ReuseAfter); end.After(until) {
			until = end
		}
	}
	switch {
	case !now.Before(until) || e.ReuseAfter == 0:
		return []Step{{Do: Collect, Claim: DeleteClaim}}
	case e.Cooling:
		return []Step{{Do: Look, Until: until}}
	}
	return []Step{{Do: Cool}, {Do: Look, Until: until}}
}

// learn is for a claim that names Services that do not hold the address (14 to 17, 20 to 22).
func (e Entry) learn() (steps []Step) {
	var learned []ipam.Sharing
	for i, s := range e.Services {
		if !s.Holds && e.Claim.Names(s.Service) && !s.ended() {
			e.Services[i].Holds = true
			steps = append(steps, Step{Do: Hold, Service: s.Service, Sharing: s.Sharing})
			learned = append(learned, s.Sharing)
		}
	}
	for i, s := range e.Services {
		switch {
		case e.Claim.Names(s.Service):
			if len(learned) == 0 && !s.Holds {
				return e.release(s, Collect)
			}
		case len(learned) == 0:
		case !s.Holds:
			steps = append(steps, e.join(i, e.parent())...)
		case slices.ContainsFunc(learned, func(other ipam.Sharing) bool { return s.Sharing.Admits(other) != nil }):
			steps = append(steps, drop(s)...)
		}
	}
	return steps
}

// drop takes the address from a Service.
func drop(s Standing) []Step {
	steps := []Step{{Do: Drop, Service: s.Service}}
	if s.Need <= Duplicate {
		steps = append(steps, Step{Do: Wake, Service: s.Service})
	}
	return steps
}

// join is for a Service that publishes the address and does not hold it, beside first, which has the claim or gets
// it, or beside those to which the parent has left it (23 to 25, 43, 44).
func (e Entry) join(i int, first Standing) []Step {
	s, left := &e.Services[i], e.Claim.State == Ours && len(e.Claim.Named()) == 0
	if left && s.Publishes && (s.Need == Finishing || s.Need == Unread) {
		s.Holds = true
		return []Step{{Do: Hold, Service: s.Service, Sharing: s.Sharing}}
	}
	if !s.Publishes || !s.served() {
		return nil
	}
	wake := Step{Do: Wake, Service: s.Service}
	// At the start they may have agreed before. With the same key they may come from another load balancer, which asks
	// for no consent.
	shared := e.Starting && e.Claim.Key != ""
	sameKey := s.Sharing.Key != "" && s.Sharing.Key == first.Sharing.Key && (e.Starting || e.Claim.State == NoClaim)
	for _, other := range e.Services {
		if other.Holds && s.Sharing.Admits(other.Sharing) != nil && (!shared && !sameKey || s.HasOther) {
			return []Step{wake}
		}
	}
	if left && !shared && !e.leftTo(*s) {
		return []Step{wake}
	}
	s.Holds = true
	return []Step{{Do: Hold, Service: s.Service, Sharing: s.Sharing}, wake}
}

// leftTo reports whether an address that its parent has left can be that of a Service that publishes it.
func (e Entry) leftTo(s Standing) bool {
	if e.Claim.Key != "" {
		return s.Sharing.Key == e.Claim.Key
	}
	return e.ReuseAfter == 0 || !e.Claim.Left[s.Service].IsZero()
}

// claimAgain is for an address without a claim (27 to 37).
func (e Entry) claimAgain() []Step {
	if e.Blocked {
		return []Step{{Do: Unblock}}
	}
	var steps, releases []Step
	var first *Standing // that gets the claim
	ending := false     // a holder is about to be released, and not by us
	for i, s := range e.Services {
		switch {
		case !s.Holds:
		case s.served(), s.Need == Surplus && s.Publishes:
			if first == nil {
				first = &e.Services[i]
			}
		case s.Need == Surplus, s.Need == Duplicate, s.ended():
			releases = append(releases, Step{Do: Release, Service: s.Service})
		default:
			ending = true
		}
	}
	for i, s := range e.Services {
		switch {
		case s.Holds || !s.Publishes || !s.served():
		case first == nil && (ending || e.Pool == ""):
			steps = append(steps, Step{Do: Wake, Service: s.Service})
		case first == nil:
			first = &e.Services[i]
			first.Holds = true
			steps = append(steps, Step{Do: Hold, Service: s.Service, Sharing: s.Sharing}, Step{Do: Wake, Service: s.Service})
		default:
			steps = append(steps, e.join(i, *first)...)
		}
	}
	if first != nil {
		steps = append(steps, Step{Do: Write, Service: first.Service})
	}
	return append(steps, releases...)
}

// giveWay is for an address with a foreign claim (38 to 41).
func (e Entry) giveWay() []Step {
	var steps []Step
	for _, s := range e.Services {
		switch {
		case s.Holds:
			steps = append(steps, drop(s)...)
		case s.Publishes && s.served():
			steps = append(steps, Step{Do: Wake, Service: s.Service})
		}
	}
	if !e.Blocked {
		steps = append(steps, Step{Do: Block})
	}
	return steps
}
