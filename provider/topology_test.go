// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestTopology(t *testing.T) {
	const zone, region = corev1.LabelTopologyZone, corev1.LabelTopologyRegion
	for _, tt := range []struct {
		name       string
		providerID string
		labels     map[string]string
		annotate   map[string]string
		want       map[string]string
		event      string
	}{
		{
			name: "both", providerID: "tandem://node1", labels: map[string]string{"rack": "2"},
			annotate: map[string]string{v1alpha1.AnnotationZone: "hall-1", v1alpha1.AnnotationRegion: "vienna"},
			want:     map[string]string{"rack": "2", zone: "hall-1", region: "vienna"},
		},
		{
			name: "another zone", providerID: "tandem://node1", labels: map[string]string{zone: "hall-1", region: "vienna"},
			annotate: map[string]string{v1alpha1.AnnotationZone: "hall-2"}, want: map[string]string{zone: "hall-2", region: "vienna"},
		},
		{
			name: "a label without an annotation stays", providerID: "tandem://node1", labels: map[string]string{zone: "hall-1"},
			annotate: map[string]string{"note": "x"}, want: map[string]string{zone: "hall-1"},
		},
		{
			name: "an annotation that cannot be a label", providerID: "tandem://node1",
			annotate: map[string]string{v1alpha1.AnnotationZone: "hall 1", v1alpha1.AnnotationRegion: "vienna"},
			want:     map[string]string{region: "vienna"},
			event:    `Warning InvalidTopologyLabel "hall 1" cannot be the label topology.kubernetes.io/zone; change the annotation: `,
		},
		{name: "a node of another provider", providerID: "metal://4711", annotate: map[string]string{v1alpha1.AnnotationZone: "hall-1"}},
		{name: "a node of no provider", annotate: map[string]string{v1alpha1.AnnotationZone: "hall-1"}},
	} {
		for _, when := range []string{"annotated before", "annotated later", "initialised later"} {
			t.Run(tt.name+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					node := &corev1.Node{
						ObjectMeta: metav1.ObjectMeta{Name: "node1", Labels: maps.Clone(tt.labels)}, Spec: corev1.NodeSpec{ProviderID: tt.providerID},
					}
					annotated := node.DeepCopy()
					annotated.Annotations = tt.annotate
					switch when {
					case "annotated before":
						node = annotated
					case "initialised later":
						node = annotated.DeepCopy()
						node.Spec.ProviderID = ""
					}
					client := fake.NewClientset(node)
					factory := informers.NewSharedInformerFactory(client, 0)
					recorder := record.NewFakeRecorder(10)
					labeller, err := newTopology(client, factory.Core().V1().Nodes(), recorder)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(context.Background())
					factory.Start(ctx.Done())
					stopped := make(chan struct{})
					go func() { defer close(stopped); labeller.run(ctx) }()
					defer func() { cancel(); <-stopped; factory.Shutdown() }()
					synctest.Wait()
					if when != "annotated before" {
						if _, err := client.CoreV1().Nodes().Update(ctx, annotated, metav1.UpdateOptions{}); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(time.Minute) // of the bubble's clock
					synctest.Wait()
					after, err := client.CoreV1().Nodes().Get(ctx, "node1", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(tt.want, after.Labels); diff != "" {
						t.Errorf("labels (-want +got):\n%s", diff)
					}
					event := ""
					select {
					case event = <-recorder.Events:
					default:
					}
					if len(recorder.Events) > 0 {
						t.Errorf("a second event: %s", <-recorder.Events)
					}
					if !strings.HasPrefix(event, tt.event) || tt.event == "" && event != "" {
						t.Errorf("event %q, want %q", event, tt.event)
					}
				})
			})
		}
	}
}
