// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFiles: what goes into Git is what the move has made, without anything that the API server, kubectl or Tandem writes. Before the end of the move
// there is nothing to be put into Git.
func TestFiles(t *testing.T) {
	for _, name := range []string{"service by service", "node by node"} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters[name]...)
			s.complete(all)
			if _, err := Files(s.snapshot(nil)); err == nil || !strings.Contains(err.Error(), "move-in finish") {
				t.Errorf("in the middle of the move: %v", err)
			}
			s.complete(Finish)
			record, err := s.snapshot(nil).record()
			if err != nil {
				t.Fatal(err)
			}
			for _, doc := range record.Documents {
				o := s.objects[RefOf(doc)]
				set(o, "7", "metadata", "resourceVersion")
				set(o, "{}", "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
				set(o, "True", "status", "ready")
			}
			files, err := Files(s.snapshot(nil))
			if err != nil {
				t.Fatal(err)
			}
			byRef := func(a, b map[string]any) int { return strings.Compare(RefOf(a).String(), RefOf(b).String()) }
			want := slices.SortedFunc(slices.Values(record.Documents), byRef)
			if diff := cmp.Diff(want, slices.SortedFunc(slices.Values(files), byRef)); diff != "" || len(want) < 2 {
				t.Errorf("files of %d objects (-want +got):\n%s", len(want), diff)
			}
		})
	}
}

// TestNoFiles: a List of no objects has an empty list of items, and not null, which kubectl does not read.
func TestNoFiles(t *testing.T) {
	files, err := Files(&Snapshot{})
	if text, _ := json.Marshal(files); err != nil || string(text) != "[]" {
		t.Errorf("files of no objects are %s (%v), want []", text, err)
	}
}

// TestStops: finish stops at once while something has not moved, and undo once the move is finished. Then nobody has to be asked.
func TestStops(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	stops := func(when string, finish, undo bool) {
		t.Helper()
		for _, tt := range []struct {
			command string
			next    func(*Snapshot) (Action, error)
			want    bool
		}{{"finish", Finish, finish}, {"undo", Undo, undo}} {
			if why := Stops(s.snapshot(nil), tt.next); (why != "") != tt.want {
				t.Errorf("%s, %s stops at once: %t, want %t (%s)", when, tt.command, why != "", tt.want, why)
			}
		}
	}
	s.complete(start(Goal{}))
	stops("where nothing has moved", true, false)
	s.complete(all)
	stops("where all has moved", false, false)
	s.complete(Finish)
	stops("after the end", false, true)
}
