// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"testing"
	"time"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// TestDeparting: a node that is excluded, or whose Node is deleted, hands over for the time of a departure, and no longer.
func TestDeparting(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type step struct {
		after         time.Duration
		node          *decision.Node // nil if there is none
		departing     bool
		wait          time.Duration
		isInDecisions bool
	}
	stays, excluded := &decision.Node{Ready: true}, &decision.Node{Ready: true, Excluded: true}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{
			name: "it is excluded, for good",
			steps: []step{
				{after: 0, node: stays, wait: time.Hour, isInDecisions: true},
				{after: time.Second, node: excluded, departing: true, wait: departure, isInDecisions: true},
				{after: 3 * time.Second, node: excluded, departing: true, wait: departure - 2*time.Second, isInDecisions: true},
				{after: 4 * time.Second, node: excluded, wait: time.Hour, isInDecisions: true},
			},
		},
		{
			name: "it is excluded twice",
			steps: []step{
				{after: 0, node: excluded, departing: true, wait: departure, isInDecisions: true},
				{after: 2 * time.Second, node: stays, wait: time.Hour, isInDecisions: true},
				{after: 5 * time.Second, node: excluded, departing: true, wait: departure, isInDecisions: true},
			},
		},
		{
			name: "its Node is deleted",
			steps: []step{
				{after: 0, node: stays, wait: time.Hour, isInDecisions: true},
				{after: time.Second, departing: true, wait: departure, isInDecisions: true},
				{after: 4 * time.Second, wait: time.Hour},
			},
		},
		{name: "its Node was never seen", steps: []step{{wait: time.Hour}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := handover{node: "node1"}
			for _, step := range tt.steps {
				s := &decision.Snapshot{Nodes: map[string]decision.Node{"node2": {}}}
				if step.node != nil {
					s.Nodes["node1"] = *step.node
				}
				wait := h.Begin(start.Add(step.after), s, false)
				own, is := s.Nodes["node1"]
				if wait != step.wait || s.Departing != step.departing || is != step.isInDecisions || step.node == nil && is && !own.Excluded {
					t.Errorf("after %v: departing %v, again after %v, in decisions %v (%+v), want %+v", step.after, s.Departing, wait, is, own, step)
				}
			}
		})
	}
}

// TestHealthyFor: what keeps a node from being healthy begins the time anew.
func TestHealthyFor(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	eth0, eth1 := decision.Interface{Name: "eth0"}, decision.Interface{Name: "eth1"}
	both := []decision.Interface{eth0, eth1}
	silent := []decision.Interface{{Name: "eth0", Silent: true}, eth1}
	const short, long = time.Minute, 10 * time.Minute
	for _, tt := range []struct {
		name string
		ill  decision.Snapshot // at 5 minutes; its node is node1
		node decision.Node
		lone bool
		want time.Duration // at 12 minutes
	}{
		{name: "nothing", node: decision.Node{Ready: true, Interfaces: both}, want: long},
		{
			name: "an interface more, which goes a second later and is missed until then",
			node: decision.Node{Ready: true, Interfaces: append(both[:2:2], decision.Interface{Name: "docker0"})},
		},
		{name: "not Ready", node: decision.Node{Interfaces: both}, want: short},
		{name: "excluded", node: decision.Node{Ready: true, Excluded: true, Interfaces: both}, want: short},
		{name: "an interface less", node: decision.Node{Ready: true, Interfaces: both[:1]}, want: short},
		{name: "an interface that is not heard", node: decision.Node{Ready: true, Interfaces: silent}, want: short},
		{name: "no other speaker", node: decision.Node{Ready: true, Interfaces: both}, lone: true, want: short},
		{name: "isolated", ill: decision.Snapshot{Isolated: true}, node: decision.Node{Ready: true, Interfaces: both}, want: short},
		{
			name: "in doubt whether the others are dead", ill: decision.Snapshot{StartupHold: true},
			node: decision.Node{Ready: true, Interfaces: both}, want: short,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := handover{node: "node1"}
			decide := func(after time.Duration, s decision.Snapshot, node decision.Node, alone bool) (time.Duration, time.Duration) {
				s.Nodes = map[string]decision.Node{"node1": node}
				s.Config.L2 = []config.L2Advertisement{{FailbackAfter: long}, {}, {FailbackAfter: short}}
				wait := h.Begin(start.Add(after), &s, alone)
				return s.HealthyFor, wait
			}
			well := decision.Node{Ready: true, Interfaces: both}
			if healthy, wait := decide(0, decision.Snapshot{}, well, false); healthy != 0 || wait != short {
				t.Errorf("a node that was seen just now is healthy for %v, and again after %v", healthy, wait)
			}
			decide(5*time.Minute, tt.ill, tt.node, tt.lone)
			decide(5*time.Minute+time.Second, decision.Snapshot{}, well, false)
			if got, _ := decide(12*time.Minute, decision.Snapshot{}, well, false); got != tt.want {
				t.Errorf("healthy for %v, want %v", got, tt.want)
			}
		})
	}
}

// TestLeaving: a node that announced, and is excluded, goes on by BGP for the drain time; one that cannot, or did not, does not.
func TestLeaving(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	stays, excluded := &decision.Node{}, &decision.Node{Excluded: true}
	gone := &decision.Node{Excluded: true, Gone: true}
	for _, tt := range []struct {
		name  string
		nodes []*decision.Node // one each 4 s, nil for none
		want  []bool
	}{
		{"it is excluded", []*decision.Node{stays, excluded, excluded, excluded, excluded}, []bool{false, true, true, true, false}},
		{"it is excluded when the speaker starts", []*decision.Node{excluded, excluded}, []bool{false, false}},
		{"it may announce again, and is excluded once more", []*decision.Node{excluded, stays, excluded}, []bool{false, false, true}},
		{"it is out of service", []*decision.Node{stays, gone}, []bool{false, false}},
		{"its network fails while it leaves", []*decision.Node{stays, excluded, gone}, []bool{false, true, false}},
		{"its Node is deleted", []*decision.Node{stays, nil, nil, nil, nil}, []bool{false, true, true, true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := handover{node: "node1", drainTime: 10 * time.Second}
			for i, node := range tt.nodes {
				s := &decision.Snapshot{Nodes: map[string]decision.Node{}}
				if node != nil {
					s.Nodes["node1"] = *node
				}
				wait := h.Begin(start.Add(time.Duration(i)*4*time.Second), s, false)
				if s.Leaving != tt.want[i] || s.Leaving && (wait > 10*time.Second || !s.Nodes["node1"].Excluded) {
					t.Errorf("at %d s: leaving %v, want %v; again after %v", 4*i, s.Leaving, tt.want[i], wait)
				}
			}
		})
	}
}
