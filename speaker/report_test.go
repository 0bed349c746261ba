// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
)

func TestReportOn(t *testing.T) {
	known := map[string][]netip.Addr{}
	for _, node := range []string{"node1", "node2", "node3", "node4", "node5"} {
		known[node] = []netip.Addr{netip.MustParseAddr("198.51.100.11")}
	}
	for _, tt := range []struct {
		name    string
		node    string
		alive   []string
		reports bool
		dead    []string
	}{
		{"the first three by name report", "node3", []string{"node1", "node2", "node3", "node4", "node5"}, true, nil},
		{"the fourth does not", "node4", []string{"node1", "node2", "node3", "node4", "node5"}, false, nil},
		{"it does when one of them is dead", "node4", []string{"node2", "node3", "node4", "node5"}, true, []string{"node1"}},
		{"a speaker that is alone reports the others dead", "node5", []string{"node5"}, true, []string{"node1", "node2", "node3", "node4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shown := aliveNodes(tt.alive...)
			o := &observation.Objects{Nodes: corev1.NodeList{Items: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: tt.node, UID: "uid"}}}}}
			got := reportOn(tt.node, shown, shown.Has, known, o)
			want := livenessReport{
				reports: tt.reports, dead: tt.dead, owner: &metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: tt.node, UID: "uid"},
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(livenessReport{})); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

// A report creates its Lease, and renews it without reading it.
func TestReporterWrites(t *testing.T) {
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).Build()
	r := &reporter{client: store, namespace: "tandem-system", node: "node1"}
	read := func() coordinationv1.Lease {
		t.Helper()
		var lease coordinationv1.Lease
		key := client.ObjectKey{Namespace: "tandem-system", Name: observation.ReportName("node1")}
		if err := store.Get(t.Context(), key, &lease); err != nil {
			t.Fatal(err)
		}
		return lease
	}
	owner := &metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "node1", UID: "uid"}
	if err := r.write(t.Context(), livenessReport{reports: true, owner: owner}); err != nil {
		t.Fatal(err)
	}
	created := read()
	dead, listed := created.Annotations[observation.AnnotationDead]
	if len(created.OwnerReferences) != 1 || created.Labels[observation.LabelReport] == "" || dead != "" || !listed {
		t.Errorf("the Lease is %v", created)
	}
	created.Spec.RenewTime = &metav1.MicroTime{Time: time.Unix(0, 0)}
	if err := store.Update(t.Context(), &created); err != nil {
		t.Fatal(err)
	}
	if err := r.write(t.Context(), livenessReport{reports: true, owner: owner, dead: []string{"node2", "node3"}}); err != nil {
		t.Fatal(err)
	}
	renewed := read()
	if !renewed.Spec.RenewTime.After(created.Spec.RenewTime.Time) || renewed.Annotations[observation.AnnotationDead] != "node2,node3" {
		t.Errorf("the renewed Lease is %v", renewed)
	}
}

func aliveNodes(nodes ...string) membership.Snapshot {
	s := membership.Snapshot{Nodes: map[string]struct{}{}}
	for _, node := range nodes {
		s.Nodes[node] = struct{}{}
	}
	return s
}
