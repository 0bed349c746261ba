// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"iter"
	"maps"
	"time"

	"github.com/tandem-lb/tandem/speaker/decision"
)

// readinessPatience is for how long a node that is not Ready keeps what it holds. A restart of its kubelet or of its container runtime is
// over by then, and so is a control plane that many kubelets could not reach for a moment.
const readinessPatience = time.Minute

// A readiness remembers since when this speaker has seen each node not Ready while most were, by its own clock.
//
// While half of the nodes or more are not Ready it is more likely the control plane that fails than the nodes, and nothing counts: the node
// controller of Kubernetes goes by the same rule. For example the API server is away for two minutes, and the kubelets of node3, node2 and node1
// come back one after the other. When node2 is Ready most are, and node1 has a minute from then on.
type readiness map[string]time.Time

// Update takes in which nodes are Ready at a time, and sets LongNotReady of those that have not been for the readinessPatience. Alive says
// which nodes have a live speaker: the others do not count. It returns after how long the next node will be one of them; an hour if none will.
func (r readiness) Update(now time.Time, nodes map[string]decision.Node, alive func(node string) bool) (wait time.Duration) {
	all := func(yield func(name string, ready bool) bool) {
		for name, node := range nodes {
			if !yield(name, node.Ready) {
				return
			}
		}
	}
	r.note(now, all, alive)
	wait = time.Hour
	for name := range r {
		left, _ := r.left(now, name)
		if left > 0 {
			wait = min(wait, left)
			continue
		}
		node := nodes[name]
		node.LongNotReady = true
		nodes[name] = node
	}
	return wait
}

// note takes in which nodes there are at a time, and whether each is Ready. It remembers nothing unless more than half of the nodes that count are.
func (r readiness) note(now time.Time, nodes iter.Seq2[string, bool], counts func(node string) bool) {
	counted, ready, notReady := 0, 0, map[string]bool{}
	for name, isReady := range nodes {
		if counts(name) {
			counted++
			if isReady {
				ready++
			}
		}
		if !isReady {
			notReady[name] = true
		}
	}
	if 2*ready <= counted {
		clear(r)
		return
	}
	maps.DeleteFunc(r, func(name string, _ time.Time) bool { return !notReady[name] })
	for name := range notReady {
		if _, noted := r[name]; !noted {
			r[name] = now
		}
	}
}

// left returns for how long a node that is not Ready still counts as Ready, 0 or less once it does not any more, and false for any other node.
func (r readiness) left(now time.Time, name string) (left time.Duration, notReady bool) {
	since, notReady := r[name]
	return since.Add(readinessPatience).Sub(now), notReady
}
