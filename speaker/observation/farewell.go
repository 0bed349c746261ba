// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
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
func Leaving(node *corev1.Node) string {
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
	switch {
	case node.Annotations[ipamv1alpha1.AnnotationDrain] == "true":
		return "the annotation " + ipamv1alpha1.AnnotationDrain + " drains the node"
	case isExcluded(node):
		return "the node is excluded from announcing"
	}
	return ""
}
