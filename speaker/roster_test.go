// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// step is what a speaker sees so long after its start.
type step struct {
	after time.Duration
	alive []string
}

// update takes a roster through steps, and returns what comes of the last.
func update(known []string, steps ...step) presence {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRoster(start)
	speakers := map[string]netip.Addr{}
	for _, node := range known {
		speakers[node] = netip.Addr{}
	}
	var p presence
	for _, s := range steps {
		p = r.Update(start.Add(s.after), aliveNodes(s.alive...), speakers)
	}
	return p
}

func TestRosterReturned(t *testing.T) {
	alone, both := step{alive: []string{"node1"}}, step{alive: []string{"node1", "node2"}}
	for _, tt := range []struct {
		name  string
		steps []step
		want  bool
	}{
		{name: "a speaker that starts alone", steps: []step{alone}},
		{name: "one that is seen for the first time does not return", steps: []step{alone, both}},
		{name: "one that stays does not return", steps: []step{alone, both, both}},
		{name: "one that is lost", steps: []step{alone, both, alone}},
		{name: "one that was lost returns", steps: []step{alone, both, alone, both}, want: true},
		{name: "once", steps: []step{alone, both, alone, both, both}},
		{
			name: "one returns and another is new", want: true,
			steps: []step{both, alone, {alive: []string{"node1", "node2", "node3"}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := update(nil, tt.steps...).returned; got != tt.want {
				t.Errorf("returned: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRosterPresumesAlive(t *testing.T) {
	for _, tt := range []struct {
		name        string
		steps       []step
		want        []string
		complete    bool
		startupHold bool
	}{
		{
			name:  "a speaker that starts presumes those alive that have a speaker",
			steps: []step{{alive: []string{"node1"}}}, want: []string{"node1", "node2"}, startupHold: true,
		},
		{
			name:  "the roster is complete when it has seen them",
			steps: []step{{alive: []string{"node1", "node2"}}}, want: []string{"node1", "node2"}, complete: true, startupHold: true,
		},
		{
			name:  "one that it has seen and lost is dead",
			steps: []step{{alive: []string{"node2"}}, {alive: []string{"node1"}}}, want: []string{"node1"}, complete: true, startupHold: true,
		},
		{
			name:  "after the startup hold it goes on presuming",
			steps: []step{{after: startupHold, alive: []string{"node1"}}}, want: []string{"node1", "node2"},
		},
		{
			name:  "after the discovery window a speaker that does not gossip is dead",
			steps: []step{{after: discoveryWindow, alive: []string{"node1"}}}, want: []string{"node1"}, complete: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := update([]string{"node1", "node2"}, tt.steps...)
			var got []string
			for _, name := range []string{"node1", "node2", "node3", "node4"} {
				if p.alive(name) {
					got = append(got, name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("presumed alive (-want +got):\n%s", diff)
			}
			if p.complete != tt.complete || p.startupHold != tt.startupHold {
				t.Errorf("complete %v, startup hold %v; want %v and %v", p.complete, p.startupHold, tt.complete, tt.startupHold)
			}
		})
	}
}
