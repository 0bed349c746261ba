// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestLeaving(t *testing.T) {
	tainted := func(key string) *corev1.Node {
		return &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key, Effect: corev1.TaintEffectNoSchedule}}}}
	}
	ready := func(status corev1.ConditionStatus, message string) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Message: message}}}}
	}
	for _, tt := range []struct {
		name string
		node *corev1.Node
		want string // in the reason, "" if the speaker restarts
	}{
		{name: "a node like any other", node: ready(corev1.ConditionTrue, "kubelet is posting ready status")},
		{name: "a node that is not Ready", node: ready(corev1.ConditionFalse, "container runtime is down")},
		{name: "a kubelet that is silent", node: ready(corev1.ConditionUnknown, "Kubelet stopped posting node status.")},
		{name: "a node that is cordoned", node: tainted(corev1.TaintNodeUnschedulable)},
		{
			name: "a node whose label excludes nothing", node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Labels: map[string]string{corev1.LabelNodeExcludeBalancers: "false"},
			}},
		},
		{name: "a Node that is gone", want: "deleted"},
		{name: "a Node that goes", node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}}}, want: "deleted"},
		{
			name: "a node that is shutting down", node: ready(corev1.ConditionFalse, "[container runtime is down, node is shutting down]"),
			want: "shutting down",
		},
		{name: "a node that the autoscaler removes", node: tainted("ToBeDeletedByClusterAutoscaler"), want: "ToBeDeletedByClusterAutoscaler"},
		{name: "a node that Karpenter removes", node: tainted("karpenter.sh/disrupted"), want: "karpenter.sh/disrupted"},
		{name: "a node out of service", node: tainted(corev1.TaintNodeOutOfService), want: "shut down"},
		{
			name: "a node that is excluded", node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""},
			}},
			want: "excludes",
		},
		{
			name: "a node that is drained", node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Annotations: map[string]string{ipamv1alpha1.AnnotationDrain: "true"},
			}},
			want: "drains",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Leaving(tt.node, false); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("Leaving = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRemoved(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Labels: map[string]string{"speaker": "yes"}}}
	daemonSet := func(edit func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
		ds := &appsv1.DaemonSet{}
		edit(ds)
		return ds
	}
	selects := func(value string) *appsv1.DaemonSet {
		return daemonSet(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"speaker": value} })
	}
	requires := func(value string) *appsv1.DaemonSet {
		return daemonSet(func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "speaker", Operator: corev1.NodeSelectorOpIn, Values: []string{value}}},
				}}},
			}}
		})
	}
	for _, tt := range []struct {
		name      string
		daemonSet *appsv1.DaemonSet
		want      string // in the reason, "" if the speaker is started again
	}{
		{name: "a DaemonSet for all nodes", daemonSet: daemonSet(func(*appsv1.DaemonSet) {})},
		{name: "one that selects the node", daemonSet: selects("yes")},
		{name: "one that requires what the node has", daemonSet: requires("yes")},
		{name: "one that is gone", want: "deleted"},
		{
			name:      "one that goes, as with --cascade=foreground",
			daemonSet: daemonSet(func(ds *appsv1.DaemonSet) { ds.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }), want: "deleted",
		},
		{name: "one that selects other nodes", daemonSet: selects("no"), want: "does not select"},
		{name: "one that requires what other nodes have", daemonSet: requires("no"), want: "does not select"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Removed(tt.daemonSet, node); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("Removed = %q, want %q", got, tt.want)
			}
		})
	}
}
