// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// step is what a speaker sees so long after its start.
type step struct {
	after time.Duration
	alive []string
	// restarting and lost are the speakers that said that they restart, until after, and those that fell silent, at after.
	restarting, lost map[string]time.Duration
}

// grace is for how long the rosters of these tests expect a speaker back that said nothing.
const grace = 10 * time.Second

// update takes a roster through steps, and returns what comes of the last.
func update(known []string, steps ...step) presence {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRoster(start, grace)
	speakers := map[string]netip.Addr{}
	for _, node := range known {
		speakers[node] = netip.Addr{}
	}
	var p presence
	for _, s := range steps {
		shown := aliveNodes(s.alive...)
		times := func(after map[string]time.Duration) map[string]time.Time {
			all := map[string]time.Time{}
			for node, d := range after {
				all[node] = start.Add(d)
			}
			return all
		}
		shown.Restarting, shown.Lost = times(s.restarting), times(s.lost)
		p = r.Update(start.Add(s.after), shown, speakers)
	}
	return p
}

func TestRosterReturned(t *testing.T) {
	at := map[string]time.Duration{"node2": time.Second}
	fresh, both := step{alive: []string{"node1"}}, step{alive: []string{"node1", "node2"}}
	alone, restarts := step{alive: []string{"node1"}, lost: at}, step{alive: []string{"node1"}, restarting: at}
	for _, tt := range []struct {
		name  string
		steps []step
		want  bool
	}{
		{name: "a speaker that starts alone", steps: []step{fresh}},
		{name: "one that is seen for the first time does not return", steps: []step{fresh, both}},
		{name: "one that stays does not return", steps: []step{fresh, both, both}},
		{name: "one that is lost", steps: []step{fresh, both, alone}},
		{name: "one that was lost returns", steps: []step{fresh, both, alone, both}, want: true},
		{name: "once", steps: []step{fresh, both, alone, both, both}},
		{name: "one that leaves and comes back was not lost", steps: []step{fresh, both, fresh, both}},
		{name: "one that restarts was not lost", steps: []step{fresh, both, restarts, both}},
		{
			name: "one that is lost, is heard to restart and is back, was not lost", steps: []step{both, alone, restarts, both},
		},
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
			steps: []step{{alive: []string{"node1", "node2"}}, {alive: []string{"node1"}}}, want: []string{"node1"}, complete: true, startupHold: true,
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

func TestRosterExpects(t *testing.T) {
	one, both := []string{"node1"}, []string{"node1", "node2"}
	until := func(d time.Duration) map[string]time.Duration { return map[string]time.Duration{"node2": d} }
	for _, tt := range []struct {
		name  string
		steps []step
		want  map[string]time.Duration // until when a node is expected back
	}{
		{name: "nobody while all are alive", steps: []step{{alive: both}}},
		{name: "nobody that has left", steps: []step{{alive: both}, {after: time.Second, alive: one}}},
		{
			name:  "one that said that it restarts, for as long as it said",
			steps: []step{{alive: both}, {after: time.Second, alive: one, restarting: until(31 * time.Second)}}, want: until(31 * time.Second),
		},
		{
			name:  "not after that",
			steps: []step{{alive: both}, {after: 31 * time.Second, alive: one, restarting: until(31 * time.Second)}},
		},
		{
			name:  "one that fell silent, for the grace",
			steps: []step{{alive: both}, {after: 2 * time.Second, alive: one, lost: until(time.Second)}}, want: until(time.Second + grace),
		},
		{
			name:  "not after that",
			steps: []step{{alive: both}, {after: time.Second + grace, alive: one, lost: until(time.Second)}},
		},
		{
			name:  "one that it has not met, from the discovery window on, for the grace since the start",
			steps: []step{{alive: one}, {after: discoveryWindow, alive: one}}, want: until(grace),
		},
		{
			name: "one that is back, until its sockets are surely open",
			steps: []step{
				{alive: both},
				{after: time.Second, alive: one, restarting: until(31 * time.Second)},
				{after: 3 * time.Second, alive: both},
				{after: 4 * time.Second, alive: both},
			},
			want: until(3*time.Second + overlap),
		},
		{
			name: "not after that",
			steps: []step{
				{alive: both},
				{after: time.Second, alive: one, restarting: until(31 * time.Second)},
				{after: 3 * time.Second, alive: both},
				{after: 3*time.Second + overlap, alive: both},
			},
		},
		{name: "within the window it is presumed alive", steps: []step{{alive: one}}},
		{name: "not after the grace", steps: []step{{alive: one}, {after: grace, alive: one}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			got := map[string]time.Duration{}
			for node, until := range update([]string{"node1", "node2"}, tt.steps...).expected {
				got[node] = until.Sub(start)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("expected back (-want +got):\n%s", diff)
			}
		})
	}
}

// A speaker whose kernel fell silent is not expected back when its kernel answers again: its node has started anew. When the speaker is
// alive and is lost again, it is.
func TestRosterGivesUp(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRoster(start, grace)
	known := map[string]netip.Addr{"node1": {}, "node2": {}}
	expects := func(lost bool) bool {
		s := aliveNodes("node1", "node2")
		if lost {
			s = aliveNodes("node1")
			s.Lost = map[string]time.Time{"node2": start}
		}
		_, expected := r.Update(start.Add(time.Second), s, known).expected["node2"]
		return expected
	}
	expects(false)
	if !expects(true) {
		t.Error("a speaker that was lost is not expected back")
	}
	r.GiveUp([]string{"node2"})
	if expects(true) {
		t.Error("it is expected back after it was given up")
	}
	expects(false)
	if !expects(true) {
		t.Error("it is not expected back when it was alive since")
	}
}

// A speaker that crashes and comes back, while its kernel answers, has not returned, and nobody repeats all announcements for it. One that
// comes back when it was not waited for any more has.
func TestRosterHears(t *testing.T) {
	for _, tt := range []struct {
		name string
		away []bool // whether node2 is away, after each of two updates in which it is lost
		want bool
	}{
		{name: "its kernel answered all the while", away: []bool{true, true}},
		{name: "its kernel fell silent", away: []bool{true, false}, want: true},
		{name: "its kernel could not be asked", away: []bool{false, false}, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			r := newRoster(start, grace)
			both, lost := aliveNodes("node1", "node2"), aliveNodes("node1")
			lost.Lost = map[string]time.Time{"node2": start}
			r.Update(start, both, nil)
			for _, away := range tt.away {
				r.Update(start.Add(time.Second), lost, nil)
				if away {
					r.Heard(map[string]bool{"node2": true})
				}
			}
			if got := r.Update(start.Add(2*time.Second), both, nil).returned; got != tt.want {
				t.Errorf("returned: %v, want %v", got, tt.want)
			}
		})
	}
}
