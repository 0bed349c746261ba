// SPDX-License-Identifier: Apache-2.0

package speaker

import (
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
	wait = time.Hour
	if !mostAreReady(nodes, alive) {
		clear(r)
		return wait
	}
	for name, node := range nodes {
		if node.Ready {
			delete(r, name)
			continue
		}
		since, ok := r[name]
		if !ok {
			since = now
			r[name] = since
		}
		if left := since.Add(readinessPatience).Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		node.LongNotReady = true
		nodes[name] = node
	}
	maps.DeleteFunc(r, func(name string, _ time.Time) bool { _, exists := nodes[name]; return !exists })
	return wait
}

// mostAreReady reports whether more than half of the nodes with a live speaker are Ready.
func mostAreReady(nodes map[string]decision.Node, alive func(node string) bool) bool {
	living, ready := 0, 0
	for name, node := range nodes {
		if alive(name) {
			living++
			if node.Ready {
				ready++
			}
		}
	}
	return 2*ready > living
}
