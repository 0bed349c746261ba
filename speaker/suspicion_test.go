// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tandem-lb/tandem/speaker/lan"
)

// eth0 names interfaces of nodes.
func eth0(nodes ...string) []lan.Key {
	var keys []lan.Key
	for _, node := range nodes {
		keys = append(keys, lan.Key{Node: node, Interface: "eth0"})
	}
	return keys
}

func TestSuspects(t *testing.T) {
	for _, tt := range []struct {
		name   string
		states map[string]lan.State // of the eth0 of each node
		want   []lan.Key
	}{
		{name: "nobody who answers", states: map[string]lan.State{"node2": lan.Answers, "node3": lan.Answers}},
		{name: "nobody who is alive and answers no echo any more", states: map[string]lan.State{"node2": lan.NoEcho}},
		{name: "one that is silent where another answers no echo", states: map[string]lan.State{"node2": lan.Silent, "node3": lan.NoEcho}, want: eth0("node2")},
		{name: "one that is silent", states: map[string]lan.State{"node2": lan.Silent, "node3": lan.Answers}, want: eth0("node2")},
		{name: "not one that has never answered", states: map[string]lan.State{"node2": lan.Unanswered, "node3": lan.Answers}},
		{name: "nobody when all are silent: this node's link is", states: map[string]lan.State{"node2": lan.Silent, "node3": lan.Silent}},
		{name: "nor the only other", states: map[string]lan.State{"node2": lan.Silent}},
		{
			name:   "of many those that are silent",
			states: map[string]lan.State{"node4": lan.Silent, "node2": lan.Silent, "node3": lan.Answers}, want: eth0("node2", "node4"),
		},
		{
			name:   "nobody on a link where nobody answers, though others answer elsewhere",
			states: map[string]lan.State{"node2": lan.Silent, "node3/eth1": lan.Answers},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states, on := map[lan.Key]lan.State{}, []lan.Target{}
			for name, state := range tt.states {
				node, iface, ok := strings.Cut(name, "/")
				if !ok {
					iface = "eth0"
				}
				key := lan.Key{Node: node, Interface: iface}
				states[key] = state
				on = append(on, lan.Target{Key: key, Via: iface, MAC: [6]byte{2}})
			}
			if diff := cmp.Diff(tt.want, suspects(states, on)); diff != "" {
				t.Errorf("suspects (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSuspect has node1 watch others by its eth0, of which some are gateways.
func TestSuspect(t *testing.T) {
	gateway := lan.Key{Interface: "198.51.100.1"}
	for _, tt := range []struct {
		name   string
		hosts  map[string]lan.State
		router lan.State
		before []string
		want   suspicion
	}{
		{name: "all is well", hosts: map[string]lan.State{"node2": lan.Answers}, router: lan.Answers},
		{
			name: "the only other is silent, and the gateway answers", hosts: map[string]lan.State{"node2": lan.Silent}, router: lan.Answers,
			want: suspicion{Suspects: eth0("node2"), Sure: eth0("node2")},
		},
		{name: "the gateway has not answered yet", hosts: map[string]lan.State{"node2": lan.Silent}, router: lan.Unknown},
		{name: "there is no gateway that answers", hosts: map[string]lan.State{"node2": lan.Silent}, router: lan.Unanswered},
		{
			name: "the gateway is silent too", hosts: map[string]lan.State{"node2": lan.Silent}, router: lan.Silent,
			want: suspicion{CutOff: []string{"eth0"}},
		},
		{
			name: "all hosts are silent, and the gateway answers", hosts: map[string]lan.State{"node2": lan.Silent, "node3": lan.Silent},
			router: lan.Answers, want: suspicion{Suspects: eth0("node2", "node3")},
		},
		{name: "the gateway alone is silent", hosts: map[string]lan.State{"node2": lan.Answers}, router: lan.Silent},
		{
			name: "one that never answered does not count", hosts: map[string]lan.State{"node2": lan.Silent, "node3": lan.Unanswered},
			router: lan.Silent, want: suspicion{CutOff: []string{"eth0"}},
		},
		{name: "another has hardly been asked yet", hosts: map[string]lan.State{"node2": lan.Silent, "node3": lan.Unknown}, router: lan.Silent},
		{
			name: "it was cut off, and another has hardly been asked yet", hosts: map[string]lan.State{"node2": lan.Silent, "node3": lan.Unknown},
			router: lan.Silent, before: []string{"eth0"}, want: suspicion{CutOff: []string{"eth0"}},
		},
		{
			name: "it was cut off, and another answers", hosts: map[string]lan.State{"node2": lan.Silent, "node3": lan.Answers},
			router: lan.Silent, before: []string{"eth0"}, want: suspicion{Suspects: eth0("node2")},
		},
		{name: "it was cut off, and the gateway answers again", router: lan.Answers, before: []string{"eth0"}},
		{name: "it was cut off, and nobody else is asked any more", router: lan.Silent, before: []string{"eth0"}, want: suspicion{CutOff: []string{"eth0"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states, on := map[lan.Key]lan.State{gateway: tt.router}, []lan.Target{{Key: gateway, Via: "eth0"}}
			for name, state := range tt.hosts {
				key := lan.Key{Node: name, Interface: "eth0"}
				states[key] = state
				on = append(on, lan.Target{Key: key, Via: "eth0", MAC: [6]byte{2}})
			}
			tt.want.From = "node1"
			if diff := cmp.Diff(tt.want, suspect("node1", states, on, tt.before), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("suspects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSuspicionsAreConfirmed(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type said = struct {
		after    time.Duration
		from     string
		suspects []lan.Key
		sure     []lan.Key
		cutOff   []string
	}
	for _, tt := range []struct {
		name  string
		said  []said
		after time.Duration
		want  []lan.Key
	}{
		{name: "nobody suspects anything"},
		{name: "one speaker is not enough", said: []said{{after: 0, from: "node1", suspects: eth0("node3")}}},
		{name: "nor is it if it repeats itself", said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: 1, from: "node1", suspects: eth0("node3")}}},
		{name: "two are", said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: 1, from: "node2", suspects: eth0("node3", "node4")}}, want: eth0("node3")},
		{name: "a dead speaker does not count", said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: 1, from: "dead", suspects: eth0("node3")}}},
		{name: "nor does a node for itself", said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: 1, from: "node3", suspects: eth0("node3")}}},
		{
			name: "two halves of a LAN suspect each other, and neither falls silent",
			said: []said{
				{after: 0, from: "node1", suspects: eth0("node3", "node4")},
				{after: 0, from: "node2", suspects: eth0("node3", "node4")},
				{after: 0, from: "node3", suspects: eth0("node1", "node2")},
				{after: 0, from: "node4", suspects: eth0("node1", "node2")},
			},
		},
		{
			name: "the smaller part of a LAN falls silent",
			said: []said{
				{after: 0, from: "node1", suspects: eth0("node3", "node4")},
				{after: 0, from: "node2", suspects: eth0("node3", "node4")},
				{after: 0, from: "node5", suspects: eth0("node3", "node4")},
				{after: 0, from: "node3", suspects: eth0("node1", "node2", "node5")},
				{after: 0, from: "node4", suspects: eth0("node1", "node2", "node5")},
			},
			want: eth0("node3", "node4"),
		},
		{name: "one that is sure is enough", said: []said{{from: "node1", suspects: eth0("node2"), sure: eth0("node2")}}, want: eth0("node2")},
		{
			name: "two that are sure of each other",
			said: []said{
				{from: "node1", suspects: eth0("node2"), sure: eth0("node2")}, {from: "node2", suspects: eth0("node1"), sure: eth0("node1")},
			},
		},
		{name: "a node that is cut off says so itself", said: []said{{from: "node1", cutOff: []string{"eth0"}}}, want: eth0("node1")},
		{name: "and one that is dead says nothing", said: []said{{from: "dead", cutOff: []string{"eth0"}}}},
		{
			name: "a speaker that one other suspects counts",
			said: []said{{after: 0, from: "node1", suspects: eth0("node2", "node3")}, {after: 0, from: "node2", suspects: eth0("node3")}}, want: eth0("node3"),
		},
		{
			name: "a suspicion that was taken back",
			said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: 1, from: "node2", suspects: eth0("node3")}, {after: 2, from: "node1", suspects: nil}},
		},
		{
			name:  "one that was not repeated for long",
			said:  []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: time.Second / 2, from: "node2", suspects: eth0("node3")}},
			after: suspicionTimeout,
		},
		{
			name: "one that was", after: suspicionTimeout, want: eth0("node3"),
			said: []said{{after: 0, from: "node1", suspects: eth0("node3")}, {after: time.Second / 2, from: "node2", suspects: eth0("node3")}, {after: time.Second / 2, from: "node1", suspects: eth0("node3")}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s suspicions
			for _, m := range tt.said {
				s.Hear(start.Add(m.after), suspicion{From: m.from, Suspects: m.suspects, Sure: m.sure, CutOff: m.cutOff})
			}
			silent, ends := s.Confirmed(start.Add(max(tt.after, 3)), func(node string) bool { return node != "dead" })
			if diff := cmp.Diff(tt.want, slices.SortedFunc(maps.Keys(silent), lan.Key.Compare)); diff != "" {
				t.Errorf("silent (-want +got):\n%s", diff)
			}
			if ends <= 0 || len(tt.want) > 0 && ends > suspicionTimeout {
				t.Errorf("that holds for %v", ends)
			}
		})
	}
}

// The speakers that have found a node silent suspect it no more when gossip shows that it is dead. It stays silent until its speaker is
// alive.
func TestSilenceOutlastsTheSuspicions(t *testing.T) {
	var s suspicions
	now, alive := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), true
	check := func(what string, want bool) {
		t.Helper()
		silent, _ := s.Confirmed(now, func(node string) bool { return node != "node3" || alive })
		if got := silent[eth0("node3")[0]]; got != want {
			t.Errorf("%s, node3 is silent: %t, want %t", what, got, want)
		}
	}
	say := func(keys ...lan.Key) {
		s.Hear(now, suspicion{From: "node1", Suspects: keys})
		s.Hear(now, suspicion{From: "node2", Suspects: keys})
	}
	say(eth0("node3")...)
	check("suspected by two", true)
	alive = false
	say()
	check("dead, and suspected by nobody", true)
	check("later", true)
	alive = true
	check("alive, and suspected by nobody", false)
	alive = false
	check("dead once more", false)
	say(eth0("node3")...)
	check("suspected again", true)
	s.Forget(func(node string) bool { return node == "node3" })
	say()
	check("deleted", false)
}

func TestReadSuspicion(t *testing.T) {
	for _, text := range []string{"", "x", "{}", "[]", `{"from":"node2"}`, `{"suspects":[]}`, `{"from":"node2","suspects":7}`} {
		if said, ok := readSuspicion([]byte(text)); ok {
			t.Errorf("%q is read as %+v", text, said)
		}
	}
	said, ok := readSuspicion([]byte(`{"from":"node2","suspects":[{"node":"node3","interface":"eth0"}],"more":true}`))
	if diff := cmp.Diff(suspicion{From: "node2", Suspects: eth0("node3")}, said); !ok || diff != "" {
		t.Errorf("read %t (-want +got):\n%s", ok, diff)
	}
}

func FuzzReadSuspicion(f *testing.F) {
	f.Add([]byte(`{"from":"node2","suspects":[{"node":"node3","interface":"eth0"}]}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if said, ok := readSuspicion(message); ok {
			var s suspicions
			s.Hear(time.Time{}, said)
			if len(s.latest[said.From].Suspects) > maxSuspects {
				t.Errorf("%d suspects were taken in", len(s.latest[said.From].Suspects))
			}
		}
	})
}
