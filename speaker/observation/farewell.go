// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// removals are taints of nodes that are about to be removed, by what removes them: Cluster Autoscaler and Karpenter.
var removals = []string{"ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"}

// shuttingDown is what the kubelet says in the condition Ready while it shuts the node down.
const shuttingDown = "node is shutting down"

// Leaving returns why a speaker that stops on a node leaves the node for good, or for long, "" if it merely restarts. Nil stands for a
// Node that does not exist any more. What leaves hands over at once, on layer 2 and by BGP. What restarts keeps what it has, and the
// others wait for it.
//
// A wrong answer costs little: who waits for a node that has gone takes over when its kernel falls silent.
func Leaving(node *corev1.Node, ignoreLabel bool) string {
	if node == nil || node.DeletionTimestamp != nil {
		return "the Node is deleted"
	}
	for _, t := range node.Spec.Taints {
		if slices.Contains(removals, t.Key) {
			return "the taint " + t.Key + " says that the node is about to be removed"
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue && strings.Contains(c.Message, shuttingDown) {
			return "the node is shutting down"
		}
	}
	reason, _ := Exclusion(node, ExclusionRules{IgnoreLabel: ignoreLabel})
	return reason
}

// Withdraws returns why a speaker that stops on a node withdraws its routes, though it does not leave the node by what Leaving says; "" if it
// does not. Whoever drains a node cordons it first, and a rollout of the speakers does not: a speaker that stops on a node that is cordoned is
// mostly followed by a reboot. On layer 2 the others find that out by themselves, and routers do not.
func Withdraws(node *corev1.Node) string {
	if node.Spec.Unschedulable {
		return "the node is cordoned"
	}
	return ""
}

// Removed returns why a speaker that stops on a node is not started there again, by the DaemonSet that runs it; "" if it is. Nil stands for
// a DaemonSet that does not exist any more.
func Removed(daemonSet *appsv1.DaemonSet, node *corev1.Node) string {
	if daemonSet == nil || daemonSet.DeletionTimestamp != nil {
		return "the DaemonSet of the speakers is deleted"
	}
	required := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: daemonSet.Spec.Template.Spec})
	if selects, err := required.Match(node); err == nil && !selects {
		return "the DaemonSet of the speakers does not select the node any more"
	}
	return ""
}
