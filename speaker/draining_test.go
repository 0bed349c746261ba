// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
)

func TestDrainCondition(t *testing.T) {
	for _, tt := range []struct {
		state drainState
		want  string
	}{
		{drainState{}, "False NotDraining: the node may announce"},
		{
			drainState{ignores: true}, "False ExcludeLabelIgnored: the node may announce, whether or not the label " +
				"node.kubernetes.io/exclude-from-external-load-balancers excludes it (--ignore-exclude-label)",
		},
		{drainState{reason: "the node is cordoned", ignores: true}, "True Gone: the node is cordoned: it announces nothing"},
		{
			drainState{reason: "the node is cordoned", leaving: true},
			"True Leaving: the node is cordoned: other nodes take over what it announces, and routers that have another node prefer it",
		},
		{drainState{reason: "the Node is deleted"}, "True Gone: the Node is deleted: it announces nothing"},
	} {
		c := tt.state.condition()
		if got := string(c.Status) + " " + c.Reason + ": " + c.Message; got != tt.want {
			t.Errorf("Draining is %s\nwant %s", got, tt.want)
		}
	}
}

// TestShowDrain: events on the Node tell when a drain begins and ends. A speaker that finds its node drained tells nothing.
func TestShowDrain(t *testing.T) {
	const begins = "Normal Draining This node hands over what it announces, since the annotation tandem-lb.io/drain drains the node"
	const ends = "Normal Drained This node announces nothing any more, since the annotation tandem-lb.io/drain drains the node"
	for _, tt := range []struct {
		name    string
		drained []bool
		leaving []bool // by BGP
		departs []bool // on layer 2
		want    []string
	}{
		{name: "a drain", drained: []bool{false, true, true, true}, leaving: []bool{false, true, true, false}, want: []string{begins, ends}},
		{name: "without time", drained: []bool{false, true}, want: []string{ends}},
		{name: "without time, on layer 2", drained: []bool{false, true, true}, departs: []bool{false, true}, want: []string{begins, ends}},
		{name: "drained before the start", drained: []bool{true, true, false}},
		{name: "drained before the start, and still on record", drained: []bool{true, true, false}, departs: []bool{true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := record.NewFakeRecorder(10)
			l := &loop{Speaker: &Speaker{cfg: Config{Node: "node1", Recorder: events}, status: signal.New()}}
			for i := range tt.drained {
				node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
				if tt.drained[i] {
					node.Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
				}
				l.kept.few = &observation.Objects{Nodes: corev1.NodeList{Items: []corev1.Node{node}}}
				at := func(all []bool) bool { return i < len(all) && all[i] }
				l.showDrain(&decision.Snapshot{Leaving: at(tt.leaving), Departing: at(tt.departs)})
			}
			if diff := cmp.Diff(tt.want, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestYieldWithoutSessions: a speaker whose peers know no routes of it need not wait for them.
func TestYieldWithoutSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions(t.Context(), signal.New())
		defer s.close(t.Context(), bgp.Withdraw)
		start := time.Now()
		s.yield(t.Context(), time.Minute)
		if waited := time.Since(start); waited > 0 {
			t.Errorf("waited for %v", waited)
		}
	})
}
