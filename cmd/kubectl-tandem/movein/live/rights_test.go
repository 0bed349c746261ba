// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestRights: each write of a move, of its undo and of its end is one that has been asked for before the first.
func TestRights(t *testing.T) {
	for name, documents := range clusters {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, documents...)
			rights := s.snapshot(nil).Rights()
			for _, next := range []func(*Snapshot) (Action, error){all, Undo, all, Finish} {
				s.complete(next)
			}
			for _, w := range s.did {
				need := Right{Verb: string(w.Verb), Group: w.Ref.Group, Resource: resourceOf(t, w.Ref), Subresource: w.Subresource, Namespace: w.Ref.Namespace}
				anywhere := need
				anywhere.Namespace = ""
				if !slices.Contains(rights, need) && !slices.Contains(rights, anywhere) {
					t.Errorf("nobody has asked for the right to %s: %s", need, w.Why)
				}
			}
		})
	}
}

func resourceOf(t *testing.T, ref Ref) string {
	t.Helper()
	for _, k := range Kinds {
		if k.Group == ref.Group && k.Kind == ref.Kind {
			return k.Resource
		}
	}
	if ref.Kind == "Secret" {
		return "secrets"
	}
	t.Fatalf("%s is of no kind that is known", ref)
	return ""
}

// TestRightsToWatch: each kind that a cluster has is followed, and a person who may not watch is told so and moves all the same.
func TestRightsToWatch(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	snapshot := s.snapshot(nil)
	list := snapshot.RightsToWatch()
	for ref := range snapshot.Objects {
		if !slices.ContainsFunc(list, func(r Right) bool {
			return r.Verb == "watch" && r.Group == ref.Group && r.Resource == watchedAs(t, ref)
		}) {
			t.Errorf("nobody asks for the right to watch %s", ref)
		}
	}
	snapshot.Unwatched = list[:1]
	plan, err := MakePlan(snapshot, false)
	if err != nil || plan.Refused {
		t.Fatalf("the move is refused: %v, %v", plan, err)
	}
	if !slices.ContainsFunc(plan.Messages, func(m movein.Message) bool { return m.Code == "watch" && strings.Contains(m.Text, list[0].String()) }) {
		t.Errorf("the plan does not say that %s lacks: %v", list[0], plan.Messages)
	}
}

func watchedAs(t *testing.T, ref Ref) string {
	t.Helper()
	switch ref.Kind {
	case "Pod":
		return "pods"
	case "ConfigMap":
		return "configmaps"
	}
	return resourceOf(t, ref)
}

// TestRightsMissing: no command writes anything that would stop halfway for want of rights.
func TestRightsMissing(t *testing.T) {
	s := newSim(t, clusters["kube-vip"]...)
	lacking := func(next func(*Snapshot) (Action, error)) func(*Snapshot) (Action, error) {
		return func(snapshot *Snapshot) (Action, error) {
			snapshot.Missing = []Right{{Verb: "patch", Resource: "services", Subresource: "status"}}
			return next(snapshot)
		}
	}
	check := func(command string, next func(*Snapshot) (Action, error)) {
		t.Helper()
		if writes, stopped := s.run(lacking(next), -1); writes > 0 || !strings.Contains(stopped, "you may not patch services/status") {
			t.Errorf("%s makes %d writes and says %q", command, writes, stopped)
		}
	}
	check("start", all)
	s.run(all, 12)
	check("start again", all)
	check("undo", Undo)
	s.run(all, -1)
	check("finish", Finish)
	s.run(Undo, 2)
	check("undo again", Undo)
}
