// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// kernels is what this speaker knows by the answers of other nodes' kernels: which nodes are away, and which interfaces are silent. The
// others are told what it suspects, and tell it what they suspect.
type kernels struct {
	node   string
	prober prober // nil where no kernel is asked
	// suspects is what this speaker suspects, for the others, and heard is what they suspect.
	suspects signal.Latest[suspicion]
	heard    chan suspicion
	cutOff   atomic.Pointer[[]string] // as CutOff returns it

	// What follows is owned by the goroutine of the loop.

	// due fires when the first of the speakers that are expected back is not expected any longer, or the first suspicion is over.
	due        *time.Timer
	dueAt      time.Time
	suspicions suspicions
	alive      func(node string) bool // as the latest Update was told
	own        suspicion              // what this speaker suspects
	away       map[string]bool        // what the latest Update found, to be logged when it changes
}

// prober asks kernels, as lan.Prober does.
type prober interface {
	Run(ctx context.Context) error
	Set(targets []lan.Target, interfaces []net.Interface)
	States() map[lan.Key]lan.State
	Changes() <-chan struct{}
}

// newKernels returns the kernels of a speaker. Without a prober no node is ever away, and no interface silent.
func newKernels(node string, p prober) *kernels {
	return &kernels{
		node: node, prober: p, suspects: signal.NewLatest[suspicion](), heard: make(chan suspicion, 64),
		due:   time.NewTimer(time.Hour), // set by each Update
		alive: func(string) bool { return false },
	}
}

// run asks the kernels until the context ends.
func (k *kernels) run(ctx context.Context) error {
	if k.prober == nil {
		return nil
	}
	return k.prober.Run(ctx)
}

// changes is raised when the state of a kernel has changed.
func (k *kernels) changes() <-chan struct{} {
	if k.prober == nil {
		return nil
	}
	return k.prober.Changes()
}

// Update has the kernels asked that are to be watched, and returns the nodes that are away, and those whose speakers need not be expected
// back. It marks silent interfaces in nodes: those of nodes that may be back by what this speaker finds alone, those of any other
// node, and this one, if another speaker confirms it.
//
//	the speaker of node2        its kernel by eth0   node2
//	restarts, back in 10 s      answers              is away, for 10 s at most
//	restarts, back in 10 s      silent               has a silent eth0 and, if it has no other link, is hopeless: it has no power
//	is alive                    silent               has a silent eth0 once another speaker says the same
func (k *kernels) Update(
	ctx context.Context, now time.Time, p presence, on []lan.Target, via []layer2.Interface, nodes map[string]decision.Node,
) (isAway map[string]bool, hopeless []string) {
	if k.prober == nil {
		return nil, nil
	}
	var interfaces []net.Interface
	for _, i := range via {
		interfaces = append(interfaces, net.Interface{Name: i.Name, Index: i.Index, HardwareAddr: i.MAC})
	}
	on = watched(on, k.node, p, k.own.CutOff)
	k.prober.Set(on, interfaces)
	states := k.prober.States()
	k.own = suspect(k.node, states, on, k.own.CutOff)
	k.suspects.Put(k.own)
	k.suspicions.Hear(now, k.own)
	k.suspicions.Forget(func(node string) bool { _, exists := nodes[node]; return !exists })
	before := k.suspicions.silent
	silent, wait := k.suspicions.Confirmed(now, p.alive)
	blind(states, on, p.alive)
	isAway, hopeless = away(p, states, silent, nodes)
	markSilent(nodes, silent)
	k.log(klog.FromContext(ctx), p, isAway, before)
	k.away = isAway
	for _, until := range p.expected {
		wait = min(wait, until.Sub(now))
	}
	k.alive = p.alive
	k.setDue(now, wait)
	return isAway, hopeless
}

// setDue has due fire after some time.
func (k *kernels) setDue(now time.Time, wait time.Duration) {
	k.dueAt = now.Add(wait)
	k.due.Reset(max(wait, 0))
}

// Hear takes in a message from heard, and all that wait behind it. It reports whether other interfaces are silent by that than at the latest
// Update: most messages repeat one, or are the first of those that are needed. When three of a hundred nodes die, each of the others hears of it
// from twelve.
func (k *kernels) Hear(now time.Time, said suspicion) (changed bool) {
	for waiting := true; waiting; {
		k.suspicions.Hear(now, said)
		select {
		case said = <-k.heard:
		default:
			waiting = false
		}
	}
	silent, ends := k.suspicions.confirm(now, k.alive)
	if at := now.Add(ends); at.Before(k.dueAt) {
		k.setDue(now, ends)
	}
	return !maps.Equal(silent, k.suspicions.silent)
}

// isCutOff reports whether this node hears nothing by one of its links.
func (k *kernels) isCutOff() bool { return len(k.own.CutOff) > 0 }

// CutOff returns the interfaces by which this node hears nothing. Any goroutine may call it.
func (k *kernels) CutOff() []string {
	if names := k.cutOff.Load(); names != nil {
		return *names
	}
	return nil
}

// publish makes the interfaces by which nothing is heard visible to CutOff, and reports whether they have changed.
func (k *kernels) publish() (changed bool) {
	if slices.Equal(k.own.CutOff, k.CutOff()) {
		return false
	}
	names := k.own.CutOff
	k.cutOff.Store(&names)
	return true
}

// log says what has changed since the latest Update, when k.away was away and the interfaces before were silent.
func (k *kernels) log(logger klog.Logger, p presence, isAway map[string]bool, before map[lan.Key]bool) {
	if silent := k.suspicions.silent; !maps.Equal(silent, before) {
		logger.Info("Interfaces that are silent on the LAN, as several speakers find",
			"interfaces", slices.SortedFunc(maps.Keys(silent), lan.Key.Compare))
	}
	for node := range isAway {
		if !k.away[node] {
			logger.Info("Waiting for a speaker to come back, since its node answers on the LAN", "node", node, "until", p.expected[node])
		}
	}
	for node := range k.away {
		if !isAway[node] && !p.alive(node) {
			logger.Info("Waiting no longer for a speaker to come back", "node", node)
		}
	}
}

// tell tells the others what this speaker suspects, at once and again and again, until the context ends.
func (k *kernels) tell(ctx context.Context, send func([]byte)) error {
	repeat := time.NewTicker(suspicionPeriod)
	defer repeat.Stop()
	var current suspicion
	for {
		again := repeat.C
		if current.isEmpty() {
			again = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case next := <-k.suspects:
			if next.equal(current) {
				continue
			}
			current = next
			repeat.Reset(suspicionPeriod)
		case <-again:
		}
		said := current.bounded()
		said.From, said.Suspects = k.node, append([]lan.Key{}, said.Suspects...) // an empty list, and none
		message, err := json.Marshal(said)
		if err != nil {
			return err
		}
		send(message)
	}
}

// hear takes in a message of another speaker. If too many wait, it is dropped: it will be repeated.
func (k *kernels) hear(message []byte) {
	if said, ok := readSuspicion(message); ok && said.From != k.node {
		select {
		case k.heard <- said:
		default:
		}
	}
}
