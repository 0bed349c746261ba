// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/speaker/membership"
)

const (
	// startupHold is how long a speaker that has just started takes nothing but what it is on record for. Within that time gossip, which the
	// speaker joins by the addresses in the API, has shown it every speaker that is alive.
	startupHold = time.Second
	// discoveryWindow is how long after its start a speaker presumes those alive that the API knows and gossip has not shown.
	discoveryWindow = 3 * time.Second
	// overlap is for how long a speaker that is back is treated as if it was still away. Gossip shows it before it has opened its sockets and
	// answers. Until then its deputies go on, with the same answers.
	overlap = 2 * time.Second
)

// roster remembers which speakers gossip has shown. A speaker that has just started has seen no other: by gossip alone it would take over
// everything. For example node1 starts anew, and the API knows speakers on node2 and node3. node1 presumes both alive until gossip shows
// them. If it does not show node3 within the discoveryWindow, node3 is dead.
type roster struct {
	started time.Time
	// grace is for how long a speaker that is gone without a word is expected back.
	grace time.Duration
	seen  map[string]bool // the speakers that gossip has shown at least once
	lost  map[string]bool // those of them that it has lost since, without a farewell
	// gone are the speakers that were not alive and expected at the latest update, back those that have come back since: until when they
	// overlap.
	gone map[string]bool
	back map[string]time.Time
	// hopeless are the speakers that are not expected back any more, since their kernels fell silent. The next answer of such a kernel is
	// that of a node that has started anew, which forwards nothing before its speaker is alive.
	hopeless map[string]bool
	// unreachable are the speakers that gossip does not show, and that live all the same, as far as is known.
	unreachable map[string]bool
	// readiness remembers which of the Nodes that have a speaker are not Ready for long.
	readiness readiness
}

// newRoster returns the roster of a speaker that starts now.
func newRoster(now time.Time, grace time.Duration) *roster {
	return &roster{
		started: now, grace: grace, seen: map[string]bool{}, lost: map[string]bool{},
		gone: map[string]bool{}, back: map[string]time.Time{}, hopeless: map[string]bool{},
		unreachable: map[string]bool{}, readiness: readiness{},
	}
}

// presence is what follows from an update of a roster.
type presence struct {
	// alive reports whether the speaker of a node is alive, or presumed to be.
	alive func(node string) bool
	// expected are the nodes whose speakers are not alive and may soon be back, each with when that hope ends: one that said so when it
	// stopped, one that fell silent, and one that this speaker has not met since its own start. One that has come back is among them for a
	// moment.
	expected map[string]time.Time
	// unreachable are those of the expected nodes whose speakers live, as far as is known, though gossip does not show them.
	unreachable map[string]bool
	// met says that gossip has shown another speaker, or that no other node has one that could be met.
	met bool
	// complete says that no speaker is merely presumed to be alive.
	complete bool
	// returned says that a speaker is alive again that had been lost without a farewell, and was not heard on the LAN.
	returned bool
	// startupHold says that this speaker has just started, and is to take over nothing.
	startupHold bool
	// alone says that no other speaker is alive, and at least one of them has not said that it would go, or has said that it would be back
	// by now. doubtful says that it is, or that more than half of the speakers fell silent within doubtWindow: then this node is more likely
	// cut off than they are dead.
	alone, doubtful bool
	// wait is after how long an update without any news would find another presence than this one.
	wait time.Duration
}

// afterLoss is how long after the loss of a speaker something that it has written counts as a sign of its life: news takes a moment.
const afterLoss = 2 * time.Second

// doubtWindow is within which time the deaths count that make a speaker doubt that it is connected.
const doubtWindow = 10 * time.Second

// seenByAPI is what the API says of speakers.
type seenByAPI struct {
	// known are the nodes that have a speaker, with their addresses.
	known map[string][]netip.Addr
	// ready reports whether a Node is Ready.
	ready func(node string) bool
	// written is when each speaker was last seen to write something.
	written map[string]time.Time
}

// Update takes in which speakers gossip shows at a time, and what the API says of them.
//
// A speaker that gossip does not show may live: where the port of gossip is closed on a node, or on all, speakers reach the API and the LAN,
// and not each other. Those are unreachable, for as long as their Nodes are Ready and their kernels answer. A Node that is not Ready for a
// moment, or while most are not, is no reason either, as for a speaker that is alive (see readiness): else an outage of the control plane would
// move all addresses, again and again, where gossip's port is closed.
//
//   - one that this speaker has never met,
//   - one that has written something to the API since it was lost,
//   - one that answers on the LAN for what it has on record, see Lives,
//   - one whose port of gossip a firewall has closed: its kernel answers at another, and does not refuse at that one, as after a crash,
//   - one of those that were lost together, if they are more than are left, and do not refuse connections either.
//
// What they hold stays where it is. Without that, each speaker would take over what all others have, again and again.
func (r *roster) Update(now time.Time, alive membership.Snapshot, api seenByAPI) presence {
	p := presence{
		startupHold: now.Sub(r.started) < startupHold, expected: map[string]time.Time{}, alone: alive.Alone, wait: time.Hour,
	}
	r.meet(now, alive, &p)
	lately := r.lose(now, alive, api, &p)
	r.await(now, alive, &p)
	presumed := r.presume(now, alive, api, &p)
	r.dropUnreachable(now, api, &p)
	for node := range r.unreachable {
		p.expected[node] = now.Add(time.Hour)
	}
	p.unreachable = maps.Clone(r.unreachable)
	over := func(_ string, until time.Time) bool { return !now.Before(until) }
	maps.DeleteFunc(p.expected, over)
	maps.DeleteFunc(p.expected, func(node string, _ time.Time) bool { return r.hopeless[node] })
	maps.DeleteFunc(r.back, over)
	clear(r.gone)
	for node := range p.expected {
		r.gone[node] = !alive.Has(node)
	}
	p.complete = len(presumed) == 0
	p.doubtful = p.alone || lately > len(alive.Nodes)
	p.alive = func(node string) bool { return alive.Has(node) || presumed[node] }
	return p
}

// meet takes in the speakers that gossip shows. One that has come back is expected for a moment.
func (r *roster) meet(now time.Time, alive membership.Snapshot, p *presence) {
	for node := range alive.Nodes {
		p.returned = p.returned || r.lost[node]
		delete(r.lost, node)
		r.seen[node] = true
		delete(r.hopeless, node)
		delete(r.unreachable, node)
		if r.gone[node] {
			r.back[node] = now.Add(overlap)
		}
		if until, ok := r.back[node]; ok {
			p.expected[node] = until
		}
	}
}

// lose takes in the speakers that fell silent, and returns how many did of late.
func (r *roster) lose(now time.Time, alive membership.Snapshot, api seenByAPI, p *presence) (lately int) {
	for node, since := range alive.Lost {
		r.lost[node] = true
		if left := since.Add(doubtWindow).Sub(now); left > 0 {
			lately++
			p.wait = min(p.wait, left)
		}
		// A node that is off the network of the cluster may forward for as long as its kernel runs, but reaches no pod of another node. The
		// LAN does not tell, which may be another network.
		if !alive.CutOff[node] {
			p.expected[node] = since.Add(r.grace)
		}
		if alive.Filtered[node] || api.written[node].After(since.Add(afterLoss)) {
			r.unreachable[node] = true
		}
	}
	for node := range alive.CutOff {
		if lately > len(alive.Nodes) {
			r.unreachable[node] = true
		}
	}
	return lately
}

// await takes in the speakers that have said that they restart.
func (r *roster) await(now time.Time, alive membership.Snapshot, p *presence) {
	for node, until := range alive.Restarting {
		if now.Before(until) {
			p.wait = min(p.wait, until.Sub(now))
		} else {
			p.alone = p.alone || len(alive.Nodes) == 1
		}
		delete(r.lost, node)
		delete(r.unreachable, node)
		r.seen[node] = true
		p.expected[node] = until
	}
}

// presume takes in the speakers that the API knows, and returns those that gossip has not shown yet and that are taken to be alive.
func (r *roster) presume(now time.Time, alive membership.Snapshot, api seenByAPI, p *presence) (presumed map[string]bool) {
	presumed = map[string]bool{}
	others := 0
	for node := range api.known {
		if !alive.Has(node) && api.ready(node) {
			others++
		}
		switch {
		case r.seen[node]:
		case now.Sub(r.started) < discoveryWindow:
			presumed[node] = true
		case api.ready(node) && !r.hopeless[node]:
			r.unreachable[node] = true
		default:
			p.expected[node] = r.started.Add(r.grace)
		}
	}
	p.met = len(r.seen) > 1 || others == 0
	return presumed
}

// dropUnreachable drops those of the unreachable speakers that have no Node any more, or one that is not Ready for long, or whose kernels are
// silent.
func (r *roster) dropUnreachable(now time.Time, api seenByAPI, p *presence) {
	nodes := func(yield func(name string, ready bool) bool) {
		for node := range api.known {
			if !yield(node, api.ready(node)) {
				return
			}
		}
	}
	r.readiness.note(now, nodes, func(string) bool { return true })
	maps.DeleteFunc(r.unreachable, func(node string, _ bool) bool {
		_, known := api.known[node]
		left, notReady := r.readiness.left(now, node)
		if notReady && left > 0 {
			p.wait = min(p.wait, left)
		}
		return !known || notReady && left <= 0 || r.hopeless[node]
	})
}

// Lives says that speakers which gossip does not show live, since they answer for addresses that they have on record.
func (r *roster) Lives(nodes []string) {
	for _, node := range nodes {
		r.unreachable[node] = true
	}
}

// GiveUp says that the speakers of nodes are not to be expected back before gossip shows them.
func (r *roster) GiveUp(nodes []string) {
	for _, node := range nodes {
		r.hopeless[node] = true
		delete(r.unreachable, node)
	}
}

// Heard says that nodes are away, and that their kernels answer on the LAN. If one comes back then, that is no return: had it announced an
// address of this node meanwhile, this node would have heard that, and defended the address.
func (r *roster) Heard(away map[string]bool) {
	for node := range away {
		delete(r.lost, node)
	}
}
