// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestStatusesOfNodesWithoutASpeaker: what is deleted is the status of a node that the DaemonSet does not select, once its speaker has been
// dead for a minute, or has had no Pod for as long.
func TestStatusesOfNodesWithoutASpeaker(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	selecting := func(labels map[string]string) *appsv1.DaemonSet {
		return &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "tandem-speaker", Generation: 2},
			Spec:       appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{NodeSelector: labels}}},
		}
	}
	edge := map[string]string{"edge": "yes"}
	// says returns one whose controller has looked at a generation, and found so many nodes that have a Pod and are to have none.
	says := func(generation int64, misscheduled int32) *appsv1.DaemonSet {
		d := selecting(edge)
		d.Status = appsv1.DaemonSetStatus{ObservedGeneration: generation, NumberMisscheduled: misscheduled}
		return d
	}
	for _, tt := range []struct {
		name      string
		daemonSet *appsv1.DaemonSet
		dead      []string
		silent    bool // no speaker reports any more
		after     time.Duration
		want      []string // statuses that are left
	}{
		{name: "a dead speaker that is not selected", daemonSet: selecting(edge), dead: []string{"node2", "node3"}, after: time.Minute, want: []string{"node1", "node2"}},
		{name: "for less than a minute", daemonSet: selecting(edge), dead: []string{"node3"}, after: 50 * time.Second, want: []string{"node1", "node2", "node3"}},
		{name: "a speaker that is alive and not selected", daemonSet: selecting(edge), after: time.Hour, want: []string{"node1", "node2", "node3"}},
		{name: "dead speakers that are selected", daemonSet: selecting(nil), dead: []string{"node2", "node3"}, after: time.Hour, want: []string{"node1", "node2", "node3"}},
		{name: "no speaker says that one without a Pod is dead", daemonSet: says(2, 0), after: time.Minute, want: []string{"node1", "node2"}},
		{name: "for less than a minute, either", daemonSet: says(2, 0), after: 50 * time.Second, want: []string{"node1", "node2", "node3"}},
		{name: "its Pod is being deleted", daemonSet: says(2, 1), after: time.Hour, want: []string{"node1", "node2", "node3"}},
		{name: "a dead speaker whose Pod stays", daemonSet: says(2, 1), dead: []string{"node3"}, after: time.Minute, want: []string{"node1", "node2"}},
		{name: "what is said is of another selector", daemonSet: says(1, 0), after: time.Hour, want: []string{"node1", "node2", "node3"}},
		{name: "no DaemonSet", dead: []string{"node2", "node3"}, after: time.Hour, want: []string{"node1", "node2", "node3"}},
		{name: "nobody says who is dead", daemonSet: selecting(edge), dead: []string{"node3"}, silent: true, after: time.Hour, want: []string{"node1", "node2", "node3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clientset := fake.NewClientset()
			if tt.daemonSet != nil {
				clientset = fake.NewClientset(tt.daemonSet)
			}
			factory := informers.NewSharedInformerFactory(clientset, 0)
			builder := ctrlfake.NewClientBuilder().WithScheme(config.Scheme())
			for _, name := range []string{"node1", "node2", "node3"} {
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
				if name != "node3" {
					node.Labels = edge
				}
				if err := factory.Core().V1().Nodes().Informer().GetStore().Add(node); err != nil {
					t.Fatal(err)
				}
				builder.WithObjects(&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid"}})
			}
			c := &statusCollector{
				client: builder.Build(), api: clientset, nodes: factory.Core().V1().Nodes(), namespace: "tandem-system",
				liveness: newLiveness(start), gone: map[string]time.Time{},
			}
			var first *coordinationv1.Lease
			for at := -observation.ReportPeriod; at <= tt.after; at += observation.ReportPeriod {
				now := start.Add(at)
				if lease := observation.Report("tandem-system", "node1", nil, tt.dead, now); !tt.silent || first == nil {
					first = lease
					c.liveness.update(now, lease, true)
				}
				if at >= 0 && at%statusPeriod == 0 {
					if err := c.collect(t.Context(), now); err != nil {
						t.Fatal(err)
					}
				}
			}
			var left v1alpha1.SpeakerStatusList
			if err := c.client.List(t.Context(), &left); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range left.Items {
				names = append(names, s.Name)
			}
			slices.Sort(names)
			if diff := cmp.Diff(tt.want, names); diff != "" {
				t.Errorf("statuses (-want +got):\n%s", diff)
			}
		})
	}
}
