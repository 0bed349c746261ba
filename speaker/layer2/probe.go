// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/wait"
)

// An address is probed by three ARP probes, or three solicitations of duplicate address detection, and is free if no conflict was heard one
// interval after the last:
//
//	probe at 0 ms, 60 ms, 120 ms; announced at 180 ms
//
// RFC 5227 §1.1 probes for 4 to 8 seconds and RFC 4862 §5.1 for one. Theirs are hosts that start on a link they do not know, perhaps behind
// a switch port that forwards nothing yet. This is a node whose link has been up for long, and a Service that its users wait for.
const (
	probeCount    = 3
	probeInterval = 60 * time.Millisecond
)

// newProbeBackoff returns the delays after which an address that is in use is probed again: 1 s, then twice as long each time, up to 5
// minutes.
func newProbeBackoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Steps: 10, Cap: 5 * time.Minute}
}

// A probeState is what is known of an address on one interface.
type probeState uint8

const (
	// probeWaiting: nothing was asked yet.
	probeWaiting probeState = iota
	// probeAsking: probes are sent, and a conflict counts.
	probeAsking
	// probeConflict: another station has the address, or wants it, and it is probed again when that is due.
	probeConflict
	// probeFree: the address may be announced. It stays so.
	probeFree
)

// A probe is the probing of an address on one interface before it is announced there for the first time (RFC 5227 §2.1, RFC 4862 §5.4). It
// is pure: its methods are told the time, and their caller sends.
//
//	           Start          Step, after the third probe and an interval
//	probeWaiting ──▶ probeAsking ────────────────────────────────────────▶ probeFree
//	     ▲               │ Conflict
//	     └─────────── probeConflict
//	       Step, after the back-off
type probe struct {
	state probeState
	// due is when Step is to be called, in the states probeAsking and probeConflict.
	due     time.Time
	sent    int // probes of this round
	backoff wait.Backoff
	// station had the address when it was probed last, the zero mac if no station had it.
	station mac
}

// inUse reports whether a station was found to have the address, and it has not been found free since.
func (p *probe) inUse() bool { return p.state != probeFree && p.station != mac{} }

// Start begins a round of an address that waits. A round that has begun already goes on.
func (p *probe) Start(now time.Time) {
	if p.state == probeWaiting {
		p.state, p.sent, p.due = probeAsking, 0, now
	}
}

// Step does what is due, and reports whether a probe has to be sent. The time until the next step counts from now and not from when the
// step was due: a program that was held up must not take the silence of an instant for an answer.
func (p *probe) Step(now time.Time) (send bool) {
	if now.Before(p.due) {
		return false
	}
	switch {
	case p.state == probeAsking && p.sent < probeCount:
		p.sent++
		p.due = now.Add(probeInterval)
		return true
	case p.state == probeAsking:
		p.state = probeFree
	case p.state == probeConflict:
		p.state = probeWaiting
	}
	return false
}

// Conflict ends the round, since a station uses the address or probes it too. It reports whether it did: a conflict that was heard before
// the round began, or after its end, does not count.
func (p *probe) Conflict(now time.Time, station mac) bool {
	if p.state != probeAsking {
		return false
	}
	if p.backoff.Duration == 0 {
		p.backoff = newProbeBackoff()
	}
	p.state, p.station, p.due = probeConflict, station, now.Add(p.backoff.Step())
	return true
}

// Refused says that the probe of the latest Step could not be sent since the socket's queue is full. It is sent a moment later.
func (p *probe) Refused(now time.Time) {
	p.sent--
	p.due = now.Add(paceInterval)
}

// Interrupt ends a round without a result, since the interface cannot be used.
func (p *probe) Interrupt() {
	if p.state == probeAsking {
		p.state = probeWaiting
	}
}

// Skip frees an address that needs no probing.
func (p *probe) Skip() { p.state = probeFree }

// So many addresses a second begin to be probed on an interface by one protocol, after a first lot at once. These are fewer than 1,000
// probes a second, at which the storm control of switches may step in. Of 500 new addresses the last is announced 1.6 s after the first.
const (
	probeRate  = 300
	probeBurst = 30
	// queueInterval is how often a queue is looked at. Addresses that begin together go on together.
	queueInterval = 20 * time.Millisecond
)

// A probeQueue has the tasks of one port and protocol whose probing is to start. Some may have been withdrawn, or need no probing any more.
type probeQueue struct {
	tasks   []*task
	limiter *rate.Limiter
	// due is when the queue is looked at again, the zero Time if it is empty.
	due time.Time
}

func newProbeQueue() *probeQueue { return &probeQueue{limiter: rate.NewLimiter(probeRate, probeBurst)} }

func (q *probeQueue) add(t *task) { q.tasks = append(q.tasks, t) }

func (q *probeQueue) clear() { q.tasks, q.due = nil, time.Time{} }

// next takes out a task whose probing is to start now. It returns nil if there is none, or if all have to wait.
func (q *probeQueue) next(now time.Time) *task {
	for ; len(q.tasks) > 0; q.tasks = q.tasks[1:] {
		t := q.tasks[0]
		if t.port.tasks[t.address] != t || t.entry.probe.state != probeWaiting {
			continue
		}
		if !q.limiter.AllowN(now, 1) {
			q.due = now.Add(queueInterval)
			return nil
		}
		q.tasks = q.tasks[1:]
		return t
	}
	q.clear()
	return nil
}

// A phase says what the readers do about an address.
type phase uint32

const (
	// phaseSilent: nothing is answered, and nothing is a conflict.
	phaseSilent phase = iota
	// phaseProbing: nothing is answered, and a station that uses or probes the address is in conflict with us.
	phaseProbing
	// phaseAnnounced: questions are answered, and a station that uses the address is in conflict with us.
	phaseAnnounced
	// phaseListening: nothing is answered, and a speaker that uses the address is our rival.
	phaseListening
	// phaseDeputy: questions to a group are answered with the MAC of the holder, and nothing is a conflict.
	phaseDeputy
)

// An entry is an address on one interface, for as long as it is declared: it outlives the port, so that an address that was found free is
// not probed again when its interface comes back.
type entry struct {
	// phase is read by the readers and set by the goroutine in Run.
	phase atomic.Uint32
	// as is the MAC of the address's holder, whose deputy this node is, the zero mac for an address of our own. It is never changed.
	as mac
	// listens says that the address is only listened for. It is never changed.
	listens bool
	// since is when the entry was declared. It is never changed.
	since time.Time
	// nonce marks our solicitations of duplicate address detection (RFC 7527 §4.1), so that one that the link returns is known for ours. It
	// is set before the first phaseProbing and never again.
	nonce *ndp.Nonce
	// probe is owned by the goroutine in Run.
	probe probe
}

// passive reports whether the address is another node's to announce.
func (e *entry) passive() bool { return e.listens || e.as != mac{} }

// show tells the readers what the probe has come to.
func (e *entry) show() {
	switch {
	case e.as != mac{}:
		e.phase.Store(uint32(phaseDeputy))
	case e.listens:
		e.phase.Store(uint32(phaseListening))
	case e.probe.state == probeFree:
		e.phase.Store(uint32(phaseAnnounced))
	case e.probe.state == probeAsking:
		e.phase.Store(uint32(phaseProbing))
	default:
		e.phase.Store(uint32(phaseSilent))
	}
}

// deputyAnswers reports whether a deputy answers a question: one that is asked of a group, unless the holder asks it. A node that is its own
// deputy, since it hands the address over, answers what it is asked by unicast too.
func (e *entry) deputyAnswers(toGroup bool, own, asker mac) bool {
	return (toGroup || e.as == own) && asker != e.as
}

// contested returns the phase of an address, and whether it matters that another station uses it. One that this node hands over is as one
// that it listens for: another speaker may use it.
func (s addressSet) contested(addr netip.Addr, own mac) (p phase, ok bool) {
	switch p = s.of(addr); p {
	case phaseSilent:
		return p, false
	case phaseDeputy:
		if s[addr].as != own {
			return p, false
		}
		return phaseListening, true
	}
	return p, true
}

// of returns the phase of an address, which is phaseSilent for one that is not in the set.
func (s addressSet) of(addr netip.Addr) phase {
	if e, ok := s[addr]; ok {
		return phase(e.phase.Load())
	}
	return phaseSilent
}
