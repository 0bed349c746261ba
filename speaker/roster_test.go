// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"net/netip"
	"slices"
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
	cutOff, filtered []string // of lost
	notReady         []string
	written          map[string]time.Duration // when a speaker wrote last
}

// grace is for how long the rosters of these tests expect a speaker back that said nothing.
const grace = 10 * time.Second

// notReady is said of each node where that does not matter.
func notReady(string) bool { return false }

// update takes a roster through steps, and returns what comes of the last.
func update(known []string, steps ...step) presence {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRoster(start, grace)
	speakers := map[string][]netip.Addr{}
	for _, node := range known {
		speakers[node] = nil
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
		shown.Alone, shown.CutOff = len(s.alive) == 1 && len(s.lost) > 0, map[string]bool{}
		for _, node := range s.cutOff {
			shown.CutOff[node] = true
		}
		shown.Filtered = map[string]bool{}
		for _, node := range s.filtered {
			shown.Filtered[node] = true
		}
		p = r.Update(start.Add(s.after), shown, seenByAPI{
			known: speakers, written: times(s.written), ready: func(node string) bool { return !slices.Contains(s.notReady, node) },
		})
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
			name: "not one whose node is off the network of the cluster",
			steps: []step{{alive: both}, {
				after: 2 * time.Second, alive: one, lost: until(time.Second), cutOff: []string{"node2"},
			}},
		},
		{
			name:  "one that it has not met on a node that is not Ready, from the discovery window on, for the grace since the start",
			steps: []step{{alive: one}, {after: discoveryWindow, alive: one, notReady: []string{"node2"}}}, want: until(grace),
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
		{name: "not after the grace", steps: []step{{alive: one}, {after: grace, alive: one, notReady: []string{"node2"}}}},
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

// Some speakers live though gossip does not show them.
func TestRosterUnreachable(t *testing.T) {
	all, one, other := []string{"node1", "node2", "node3"}, []string{"node1"}, []string{"node1", "node2"}
	second := func(nodes ...string) map[string]time.Duration {
		times := map[string]time.Duration{}
		for _, node := range nodes {
			times[node] = time.Second
		}
		return times
	}
	lost := step{after: 2 * time.Second, alive: other, lost: second("node3"), cutOff: []string{"node3"}}
	wrote := lost
	wrote.after, wrote.written = 5*time.Second, map[string]time.Duration{"node3": time.Second + afterLoss + 1}
	early := wrote
	early.written = map[string]time.Duration{"node3": time.Second + afterLoss}
	at := func(after time.Duration, notReady ...string) step {
		s := wrote
		s.after, s.notReady = after, notReady
		return s
	}
	met := step{alive: all}
	for _, tt := range []struct {
		name  string
		steps []step
		want  []string
		met   bool
		wait  time.Duration // 0 where it does not matter
	}{
		{name: "all are alive", steps: []step{met}, met: true},
		{name: "nobody was met", steps: []step{{after: discoveryWindow, alive: one}}, want: []string{"node2", "node3"}},
		{name: "they are met later", steps: []step{{after: discoveryWindow, alive: one}, {after: time.Minute, alive: all}}, met: true},
		{
			name: "no other is Ready", steps: []step{{after: discoveryWindow, alive: one, notReady: []string{"node2", "node3"}}}, met: true,
		},
		{name: "one of three is lost", steps: []step{met, lost}, met: true},
		{name: "it has written something since", steps: []step{met, lost, wrote}, want: []string{"node3"}, met: true},
		{
			name: "a firewall closes its port", want: []string{"node3"}, met: true,
			steps: []step{met, {after: 2 * time.Second, alive: other, lost: second("node3"), filtered: []string{"node3"}}},
		},
		{name: "what it wrote was on its way when it was lost", steps: []step{met, lost, early}, met: true},
		{
			name: "its Node is not Ready for a moment", want: []string{"node3"}, met: true, wait: time.Second,
			steps: []step{met, lost, wrote, at(6*time.Second, "node3"), at(65*time.Second, "node3")},
		},
		{name: "its Node is not Ready for a minute", steps: []step{met, lost, wrote, at(6*time.Second, "node3"), at(66*time.Second, "node3")}, met: true},
		{
			name: "nor later", met: true,
			steps: []step{met, lost, wrote, at(6*time.Second, "node3"), at(66*time.Second, "node3"), at(67*time.Second, "node3")},
		},
		{
			name: "its Node was Ready meanwhile", want: []string{"node3"}, met: true,
			steps: []step{met, lost, wrote, at(6*time.Second, "node3"), at(60 * time.Second), at(61*time.Second, "node3"), at(67*time.Second, "node3")},
		},
		{
			name: "no kubelet has reached the control plane for minutes, and that of node1 is the first that does", want: []string{"node3"}, met: true,
			steps: []step{
				met, lost, wrote, at(6*time.Second, all...), at(3*time.Minute, all...), at(4*time.Minute, "node2", "node3"), at(5*time.Minute, "node3"),
				at(5*time.Minute+readinessPatience-1, "node3"),
			},
		},
		{name: "it is back", steps: []step{met, lost, wrote, met}, met: true},
		{
			name: "it restarts", met: true,
			steps: []step{met, lost, wrote, {after: time.Minute, alive: other, restarting: map[string]time.Duration{"node3": time.Hour}}},
		},
		{
			name: "one that it has never met restarts, and does not come back", met: true,
			steps: []step{
				{after: time.Second, alive: other, restarting: map[string]time.Duration{"node3": 31 * time.Second}}, {after: time.Minute, alive: other},
			},
		},
		{
			name: "all others are lost together", want: []string{"node2", "node3"}, met: true,
			steps: []step{met, {after: 2 * time.Second, alive: one, lost: second("node2", "node3"), cutOff: []string{"node2", "node3"}}},
		},
		{
			name: "and stay so", want: []string{"node2", "node3"}, met: true,
			steps: []step{
				met,
				{after: 2 * time.Second, alive: one, lost: second("node2", "node3"), cutOff: []string{"node2", "node3"}},
				{after: time.Minute, alive: one, lost: second("node2", "node3"), cutOff: []string{"node2", "node3"}},
			},
		},
		{
			name: "their kernels refuse connections: they have crashed", met: true,
			steps: []step{met, {after: 2 * time.Second, alive: one, lost: second("node2", "node3")}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := update(all, tt.steps...)
			if got := slices.Sorted(maps.Keys(p.unreachable)); !slices.Equal(got, tt.want) || p.met != tt.met {
				t.Errorf("unreachable %v, met %v; want %v and %v", got, p.met, tt.want, tt.met)
			}
			if tt.wait > 0 && p.wait != tt.wait {
				t.Errorf("that holds for %v, want %v", p.wait, tt.wait)
			}
			for _, node := range tt.want {
				if _, expected := p.expected[node]; !expected || p.alive(node) {
					t.Errorf("%s is expected: %v, alive: %v", node, expected, p.alive(node))
				}
			}
		})
	}
}

// While half of the Nodes are not Ready it is more likely the control plane that fails.
func TestRosterUnreachableWhereHalfAreReady(t *testing.T) {
	alone := step{after: discoveryWindow, alive: []string{"node1"}}
	late := step{after: time.Hour, alive: []string{"node1"}, notReady: []string{"node2"}}
	later := late
	later.after = 2 * time.Hour
	if p := update([]string{"node1", "node2"}, alone, late, later); !p.unreachable["node2"] {
		t.Error("the Node of one of two speakers is not Ready, and the speaker does not live")
	}
}

// A speaker that is heard to answer lives, until its kernel falls silent.
func TestRosterLives(t *testing.T) {
	r := newRoster(isolationStart, grace)
	lost := aliveNodes("node1", "node3")
	lost.Lost, lost.CutOff = map[string]time.Time{"node2": isolationStart}, map[string]bool{"node2": true}
	update := func() bool {
		return r.Update(isolationStart.Add(time.Minute), lost, seenByAPI{
			known: map[string][]netip.Addr{"node2": nil}, ready: func(string) bool { return true },
		}).unreachable["node2"]
	}
	r.Update(isolationStart, aliveNodes("node1", "node2", "node3"), seenByAPI{})
	if update() {
		t.Error("a lost speaker of which nothing is known lives")
	}
	if r.Lives([]string{"node2"}); !update() {
		t.Error("one that was heard does not live")
	}
	if r.GiveUp([]string{"node2"}); update() {
		t.Error("one whose kernel is silent lives")
	}
}

func TestRosterDoubts(t *testing.T) {
	lost := func(after time.Duration, nodes ...string) map[string]time.Duration {
		all := map[string]time.Duration{}
		for _, node := range nodes {
			all[node] = after
		}
		return all
	}
	for _, tt := range []struct {
		name            string
		step            step
		alone, doubtful bool
		wait            time.Duration
	}{
		{name: "with others", step: step{alive: []string{"node1", "node2"}}, wait: time.Hour},
		{
			name: "one of three is lost", step: step{after: 2 * time.Second, alive: []string{"node1", "node2"}, lost: lost(time.Second, "node3")},
			wait: doubtWindow - time.Second,
		},
		{
			name: "three of five are lost", doubtful: true, wait: doubtWindow - time.Second,
			step: step{after: 2 * time.Second, alive: []string{"node1", "node2"}, lost: lost(time.Second, "node3", "node4", "node5")},
		},
		{
			name: "they were lost long ago", wait: time.Hour,
			step: step{after: time.Second + doubtWindow, alive: []string{"node1", "node2"}, lost: lost(time.Second, "node3", "node4", "node5")},
		},
		{
			name: "the only other is lost", alone: true, doubtful: true, wait: time.Hour,
			step: step{after: time.Minute, alive: []string{"node1"}, lost: lost(time.Second, "node2")},
		},
		{
			name: "all others restart", wait: time.Second,
			step: step{after: time.Second, alive: []string{"node1"}, restarting: lost(2*time.Second, "node2")},
		},
		{
			name: "all others said that they restart, and are not back in time", alone: true, doubtful: true, wait: time.Hour,
			step: step{after: 2 * time.Second, alive: []string{"node1"}, restarting: lost(2*time.Second, "node2")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := update(nil, tt.step)
			if p.alone != tt.alone || p.doubtful != tt.doubtful || p.wait != tt.wait {
				t.Errorf("alone %v, doubtful %v, wait %v; want %v, %v and %v", p.alone, p.doubtful, p.wait, tt.alone, tt.doubtful, tt.wait)
			}
		})
	}
}

// A speaker whose kernel fell silent is not expected back when its kernel answers again: its node has started anew. When the speaker is
// alive and is lost again, it is.
func TestRosterGivesUp(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newRoster(start, grace)
	known := map[string][]netip.Addr{"node1": nil, "node2": nil}
	expects := func(lost bool) bool {
		s := aliveNodes("node1", "node2")
		if lost {
			s = aliveNodes("node1")
			s.Lost = map[string]time.Time{"node2": start}
		}
		_, expected := r.Update(start.Add(time.Second), s, seenByAPI{known: known, ready: notReady}).expected["node2"]
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
			r.Update(start, both, seenByAPI{})
			for _, away := range tt.away {
				r.Update(start.Add(time.Second), lost, seenByAPI{})
				if away {
					r.Heard(map[string]bool{"node2": true})
				}
			}
			if got := r.Update(start.Add(2*time.Second), both, seenByAPI{}).returned; got != tt.want {
				t.Errorf("returned: %v, want %v", got, tt.want)
			}
		})
	}
}
