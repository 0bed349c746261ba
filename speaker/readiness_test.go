// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/speaker/decision"
)

func TestReadiness(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const most, half = "node2 node3", "node2" // of the three that have a speaker
	r := readiness{}
	for _, step := range []struct {
		name     string
		after    time.Duration
		ready    string // nodes
		want     bool   // node1 is LongNotReady
		wantWait time.Duration
	}{
		{name: "Ready", ready: "node1 node2 node3", wantWait: time.Hour},
		{name: "not Ready since now", after: time.Second, ready: most, wantWait: readinessPatience},
		{name: "for half a minute", after: 31 * time.Second, ready: most, wantWait: readinessPatience / 2},
		{name: "for a minute", after: 61 * time.Second, ready: most, want: true, wantWait: time.Hour},
		{name: "Ready again", after: 62 * time.Second, ready: "node1 node2 node3", wantWait: time.Hour},
		{name: "and not", after: 63 * time.Second, ready: most, wantWait: readinessPatience},
		{name: "one more is not Ready", after: 64 * time.Second, ready: half, wantWait: time.Hour},
		{name: "for minutes", after: 264 * time.Second, ready: half, wantWait: time.Hour},
		{name: "most are Ready again", after: 265 * time.Second, ready: most, wantWait: readinessPatience},
		{name: "for a minute", after: 325 * time.Second, ready: most, want: true, wantWait: time.Hour},
	} {
		nodes := map[string]decision.Node{"node1": {}, "node2": {}, "node3": {}, "node4": {Ready: true}, "node5": {Ready: true}}
		for name := range strings.FieldsSeq(step.ready) {
			nodes[name] = decision.Node{Ready: true}
		}
		wait := r.Update(start.Add(step.after), nodes, func(node string) bool { return node < "node4" })
		if got := nodes["node1"].LongNotReady; got != step.want || wait != step.wantWait {
			t.Errorf("%s: %v and %v to wait, want %v and %v", step.name, got, wait, step.want, step.wantWait)
		}
	}
	everyone := func(string) bool { return true }
	halves := readiness{}
	for _, after := range []time.Duration{0, readinessPatience} {
		nodes := map[string]decision.Node{"node1": {}, "node2": {Ready: true}}
		if halves.Update(start.Add(after), nodes, everyone); nodes["node1"].LongNotReady {
			t.Error("one of two nodes is not Ready for long, though no more than half are Ready")
		}
	}
	r.Update(start, map[string]decision.Node{"node1": {}, "node2": {Ready: true}, "node3": {Ready: true}}, everyone)
	if r.Update(start, map[string]decision.Node{"node2": {Ready: true}}, everyone); len(r) > 0 {
		t.Errorf("a Node that does not exist any more is remembered: %v", r)
	}
}
