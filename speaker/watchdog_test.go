// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestWatchdog(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	at := func(seconds float64) time.Time {
		return isolationStart.Add(time.Duration(seconds * float64(time.Second)))
	}
	type step struct {
		at      float64
		awaited string  // the node; "" for none
		written float64 // when it wrote last, 0 if never
		away    bool    // the API is
		passes  bool
		passed  string // the node that is passed over after the step
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"it is on record in time", []step{{at: 0, awaited: "node3"}, {at: 2, awaited: "node3"}, {at: 3}}},
		{"it never is", []step{
			{at: 0, awaited: "node3"},
			{at: 2.9, awaited: "node3"},
			{at: 3, awaited: "node3", passes: true, passed: "node3"},
			{at: 4, passed: "node3"},
			{at: 32, passed: "node3"},
			{at: 33},
		}},
		{"it writes other records meanwhile", []step{
			{at: 0, awaited: "node3"},
			{at: 2, awaited: "node3", written: 1.5},
			{at: 4, awaited: "node3", written: 1.5},
			{at: 4.5, awaited: "node3", written: 1.5, passes: true, passed: "node3"},
		}},
		{"another is elected", []step{{at: 0, awaited: "node3"}, {at: 2, awaited: "node2"}, {at: 4, awaited: "node2"}}},
		{"the API does not answer this node either", []step{{at: 0, awaited: "node3"}, {at: 5, awaited: "node3", away: true}, {at: 7, awaited: "node3"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatchdog()
			for _, s := range tt.steps {
				awaited, written := map[types.NamespacedName]string{}, map[string]time.Time{}
				if s.awaited != "" {
					awaited[web] = s.awaited
				}
				if s.written > 0 {
					written["node3"] = at(s.written)
				}
				passes := w.Update(at(s.at), awaited, written, !s.away)
				if passes != s.passes || len(w.Passed()[web]) > 1 || w.Passed()[web][s.passed] != (s.passed != "") || s.passed == "" && w.Passed() != nil {
					t.Errorf("at %v: passes %v, passed %v; want %v and %q", s.at, passes, w.Passed(), s.passes, s.passed)
				}
			}
		})
	}
}

// TestWatchdogRemembersSilence: a node that did not put itself on record for one group is passed over for the next at once, until it writes, or for a while.
func TestWatchdogRemembersSilence(t *testing.T) {
	web, mail := types.NamespacedName{Namespace: "default", Name: "web"}, types.NamespacedName{Namespace: "default", Name: "mail"}
	for _, tt := range []struct {
		name          string
		after         time.Duration // mail comes so long after web
		writes, quiet bool          // node3 has written something between, the API does not answer this node
		want          bool
	}{
		{name: "a moment later", after: 4 * time.Second, want: true},
		{name: "it has written something", after: 4 * time.Second, writes: true},
		{name: "the API does not answer", after: 4 * time.Second, quiet: true},
		{name: "long after", after: watchdogPatience + passedFor},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, written := newWatchdog(), map[string]time.Time{}
			w.Update(isolationStart, map[types.NamespacedName]string{web: "node3"}, written, true)
			if !w.Update(isolationStart.Add(watchdogPatience), map[types.NamespacedName]string{web: "node3"}, written, true) {
				t.Fatal("node3 is not passed over for web")
			}
			now := isolationStart.Add(tt.after)
			if tt.writes {
				written["node3"] = now.Add(-time.Millisecond)
			}
			if got := w.Update(now, map[types.NamespacedName]string{mail: "node3"}, written, !tt.quiet); got != tt.want || w.Passed()[mail]["node3"] != tt.want {
				t.Errorf("node3 is passed over for mail: %t, %v; want %t", got, w.Passed(), tt.want)
			}
		})
	}
}
