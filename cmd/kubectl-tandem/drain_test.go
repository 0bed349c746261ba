// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestDrainOfDrained drains nodes that bear the annotation already: the command does not say that a node announces nothing before its speaker does.
func TestDrainOfDrained(t *testing.T) {
	for _, tt := range []struct {
		name   string
		node   string
		files  []string
		reason string // of the condition Draining, "" if the speaker has not written it
		holder string // of default/web on layer 2
		dryRun bool
		code   int
		want   string
	}{
		{name: "the speaker has not seen it", node: "node1", holder: "node1", dryRun: true, code: 1, want: "node1 is handing over what it announces ("},
		{
			name: "the speaker may still announce", node: "node1", reason: v1alpha1.ReasonNotDraining, holder: "node1", dryRun: true, code: 1,
			want: "node1 is handing over what it announces (",
		},
		{
			name: "others have taken over on layer 2, and routes are left", node: "node1", reason: v1alpha1.ReasonLeaving, holder: "node2", dryRun: true, code: 1,
			want: "node1 is handing over what it announces (the annotation tandem-lb.io/drain drains the node).",
		},
		{
			name: "the node is gone", node: "node1", reason: v1alpha1.ReasonGone, holder: "node2", dryRun: true,
			want: "node1 announces nothing now (the annotation tandem-lb.io/drain drains the node).",
		},
		{
			name: "a dead speaker, and a record", node: "node3", files: []string{"faults.yaml"}, reason: v1alpha1.ReasonGone, holder: "node3", dryRun: true, code: 1,
			want: "no speaker is alive on node3: others take over what it is on record for (",
		},
		{
			name: "a dead speaker, and no record", node: "node3", files: []string{"faults.yaml"}, holder: "node2", dryRun: true,
			want: "no speaker is alive on node3: no record of it is left; its routes are not known (",
		},
		{
			name: "a dead speaker is waited for no longer than its records", node: "node3", files: []string{"faults.yaml"}, holder: "node2",
			want: "DRAINED: no speaker is alive on node3: no record of it is left; its routes are not known.",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := load(t, append([]string{"healthy.yaml"}, tt.files...)...)
			drained(objects, tt.node, tt.reason, tt.holder)
			args := []string{"drain", tt.node}
			if tt.dryRun {
				args = append(args, "--dry-run")
			}
			output, code := runOn(t.Context(), fakeCluster(objects), args...)
			if code != tt.code || !strings.Contains(output, tt.want) {
				t.Errorf("exit code %d, want %d and %q in:\n%s", code, tt.code, tt.want, output)
			}
			if strings.Contains(output, "SAFE TO REBOOT") {
				t.Errorf("nobody can know that:\n%s", output)
			}
		})
	}
}

// drained puts the annotation on a node, the condition Draining into its SpeakerStatus, and a holder on record for default/web.
func drained(objects []client.Object, node, reason, holder string) {
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Node:
			if o.Name == node {
				o.Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
			}
		case *v1alpha1.SpeakerStatus:
			if o.Name == node && reason != "" {
				status := metav1.ConditionTrue
				if reason == v1alpha1.ReasonNotDraining {
					status = metav1.ConditionFalse
				}
				o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDraining, Status: status, Reason: reason})
			}
		case *v1alpha1.L2Announcement:
			o.Status.Node = holder
		}
	}
}
