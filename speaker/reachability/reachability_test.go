// SPDX-License-Identifier: Apache-2.0

package reachability

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func target(n int) Target {
	return Target{Address: netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", 200+n)), Node: "node1", Interface: "eth0"}
}

// TestTracker asks for three addresses, of which the second falls silent.
func TestTracker(t *testing.T) {
	now := time.Unix(0, 0)
	var tracker Tracker
	if next, ok := tracker.Next(now); ok {
		t.Errorf("there is nothing to ask for, and %v is", next)
	}
	tracker.Set([]Target{target(0), target(1), target(2)})
	var asked []int
	silent := map[Target]bool{target(1): true}
	ask := func(times int) (changes int) {
		for range times {
			now = now.Add(time.Second)
			next, _ := tracker.Next(now)
			asked = append(asked, int(next.Address.As4()[3])-200)
			if tracker.Heard(next, !silent[next]) {
				changes++
			}
		}
		return changes
	}
	if changes := ask(8); changes != 1 {
		t.Errorf("%d changes, want one", changes)
	}
	// Its third loss is that of the sixth question, and after it every second question is for it.
	if diff := cmp.Diff([]int{0, 1, 2, 1, 0, 1, 2, 1}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Target{target(1)}, tracker.Unanswered(), cmp.Comparer(equal)); diff != "" {
		t.Errorf("unanswered (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Target{target(0), target(2)}, tracker.Answered(), cmp.Comparer(equal)); diff != "" {
		t.Errorf("answered (-want +got):\n%s", diff)
	}

	// A target that is declared again keeps what is known of it, one with another holder is a new one.
	moved := target(2)
	moved.Node = "node3"
	tracker.Set([]Target{target(1), moved})
	if got := tracker.Unanswered(); len(got) != 1 {
		t.Errorf("after Set %v do not answer", got)
	}
	if got := tracker.Answered(); len(got) != 0 {
		t.Errorf("a target of another node answers: %v", got)
	}
	clear(silent)
	if changes := ask(2); changes != 1 || len(tracker.Unanswered()) > 0 {
		t.Errorf("%d changes, and %v do not answer; want one, and none", changes, tracker.Unanswered())
	}
	// A target whose node was not to answer after all neither answers nor fails to.
	tracker.Excuse(moved)
	if got := tracker.Answered(); len(got) != 1 || got[0] != target(1) {
		t.Errorf("%v answer, want %v alone", got, target(1))
	}
	// A question that was never answered, since it could not be sent, says nothing.
	tracker.Set([]Target{target(3)})
	tracker.Next(now)
	if got := tracker.Answered(); len(got) != 0 {
		t.Errorf("%v answer without an answer", got)
	}
	if tracker.Heard(target(0), false) {
		t.Error("what is declared no more has changed something")
	}
}

// TestRestore: target(1) and target(2) did not answer before a restart. The second is another node's to ask for by now.
func TestRestore(t *testing.T) {
	var tracker Tracker
	tracker.Restore([]Target{target(1), target(2)})
	if got := tracker.Unanswered(); len(got) != 2 {
		t.Errorf("%v do not answer, want both", got)
	}
	tracker.Set([]Target{target(0), target(1)})
	if got := tracker.Unanswered(); len(got) != 1 || got[0] != target(1) {
		t.Errorf("%v do not answer, want %v", got, target(1))
	}
	now := time.Unix(0, 0)
	for range 2 { // Every second question is for one that does not answer.
		now = now.Add(time.Second)
		next, _ := tracker.Next(now)
		tracker.Heard(next, true)
	}
	if got := tracker.Unanswered(); len(got) != 0 || len(tracker.Answered()) != 2 {
		t.Errorf("after two answers %v do not answer, and %v do", got, tracker.Answered())
	}
}

func equal(a, b Target) bool { return a == b }
