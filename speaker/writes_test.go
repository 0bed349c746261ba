// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestWrites: what a speaker has written is a sign of its life. That an informer has listed objects anew is none, nor is what a user writes.
func TestWrites(t *testing.T) {
	informers := &informertest.FakeInformers{Scheme: config.Scheme()}
	var w writes
	if err := w.watch(t.Context(), informers); err != nil {
		t.Fatal(err)
	}
	statuses, err := informers.FakeInformerFor(t.Context(), &v1alpha1.SpeakerStatus{})
	if err != nil {
		t.Fatal(err)
	}
	records, err := informers.FakeInformerFor(t.Context(), &v1alpha1.L2Announcement{})
	if err != nil {
		t.Fatal(err)
	}
	status := func(node, iface string) *v1alpha1.SpeakerStatus {
		return &v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1alpha1.SpeakerState{
			Interfaces: []v1alpha1.InterfaceState{{Name: iface}},
		}}
	}
	record := announcement("web", "node2", v4)
	moved, taken, more := toward("node1", record), announcement("web", "node3", v4), announcement("mail", "node5", v6)
	for _, step := range []struct {
		name string
		do   func()
		want []string
	}{
		{"a status is listed anew", func() { statuses.Update(status("node1", "eth0"), status("node1", "eth0")) }, nil},
		{"a record is listed anew", func() { records.Update(&record, &record) }, nil},
		{"a user names a target", func() { records.Update(&record, &moved) }, nil},
		{"a record without a holder", func() { records.Add(new(cleared("parked", v4))) }, nil},
		{"a node takes a record over", func() { records.Update(&moved, &taken) }, []string{"node3"}},
		{"a status changes", func() { statuses.Update(status("node4", "eth0"), status("node4", "eth1")) }, []string{"node3", "node4"}},
		{"a record is new", func() { records.Add(&more) }, []string{"node3", "node4", "node5"}},
		{"a status is new", func() { statuses.Add(status("node6", "eth0")) }, []string{"node3", "node4", "node5", "node6"}},
	} {
		step.do()
		if diff := cmp.Diff(step.want, slices.Sorted(maps.Keys(w.latest()))); diff != "" {
			t.Errorf("%s: these have written (-want +got):\n%s", step.name, diff)
		}
	}
}
