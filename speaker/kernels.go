// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"slices"
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
	suspects signal.Latest[[]lan.Key]
	heard    chan suspicion

	// What follows is owned by the goroutine of the loop.

	// due fires when the first of the speakers that are expected back is not expected any longer, or the first suspicion is over.
	due        *time.Timer
	suspicions suspicions
	away       map[string]bool // what the latest Update found, to be logged when it changes
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
		node: node, prober: p, suspects: signal.NewLatest[[]lan.Key](), heard: make(chan suspicion, 64),
		due: time.NewTimer(time.Hour), // set by each Update
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
// back. It takes silent interfaces out of nodes: those of nodes that may be back by what this speaker finds alone, those of any other
// node, and this one, if another speaker confirms it.
//
//	the speaker of node2        its kernel by eth0   node2 is
//	restarts, back in 10 s      answers              away, for 10 s at most
//	restarts, back in 10 s      silent               without eth0 and, if it has no other link, hopeless: it has no power
//	is alive                    silent               without eth0 once another speaker says the same
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
	on = watched(on, k.node, p)
	k.prober.Set(on, interfaces)
	states := k.prober.States()
	own := suspects(states, on)
	k.suspects.Put(own)
	k.suspicions.Hear(now, suspicion{From: k.node, Suspects: own})
	k.suspicions.Forget(func(node string) bool { _, exists := nodes[node]; return !exists })
	before := k.suspicions.silent
	silent, wait := k.suspicions.Confirmed(now, p.alive)
	blind(states, on, p.alive)
	isAway, hopeless = away(p, states, silent, nodes)
	withoutInterfaces(nodes, silent)
	k.log(klog.FromContext(ctx), p, isAway, before)
	k.away = isAway
	for _, until := range p.expected {
		wait = min(wait, until.Sub(now))
	}
	k.due.Reset(max(wait, 0))
	return isAway, hopeless
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
	var current []lan.Key
	for {
		select {
		case <-ctx.Done():
			return nil
		case next := <-k.suspects:
			if slices.Equal(next, current) {
				continue
			}
			current = next
		case <-repeat.C:
			if len(current) == 0 {
				continue
			}
		}
		message, err := json.Marshal(suspicion{From: k.node, Suspects: append([]lan.Key{}, current[:min(len(current), maxSuspects)]...)})
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
