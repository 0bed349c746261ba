// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

func TestLiveness(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	// report is the Lease of a speaker whose clock is an hour off.
	report := func(node string, renewed int, dead ...string) *coordinationv1.Lease {
		return Report("tandem-system", node, nil, dead, at(renewed-3600))
	}
	type step struct {
		at     int
		leases []*coordinationv1.Lease
		known  bool
		alive  string // of node1 and node2: "++" if both are
	}
	one := func(l ...*coordinationv1.Lease) []*coordinationv1.Lease { return l }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"no Lease: all are dead, which is known after the timeout", []step{
			{0, nil, false, "--"},
			{7, nil, false, "--"},
			{8, nil, true, "--"},
		}},
		{"a Lease counts from the first renewal that is seen", []step{
			{0, one(report("node1", 0)), false, "--"},
			{2, one(report("node1", 2)), true, "++"},
		}},
		{"a Lease that is left over never counts", []step{
			{0, one(report("node1", 0)), false, "--"},
			{8, one(report("node1", 0)), true, "--"},
		}},
		{"all speakers stop", []step{
			{0, one(report("node1", 0)), false, "--"},
			{2, one(report("node1", 2)), true, "++"},
			{9, one(report("node1", 2)), true, "++"},
			{10, one(report("node1", 2)), true, "--"},
		}},
		{"a speaker is dead", []step{
			{0, one(report("node1", 0)), false, "--"},
			{2, one(report("node1", 2, "node2")), true, "+-"},
		}},
		{"the speakers are partitioned, and each says that the other is dead", []step{
			{0, one(report("node1", 0), report("node2", 0)), false, "--"},
			{2, one(report("node1", 2, "node2"), report("node2", 2, "node1")), true, "++"},
			{8, one(report("node1", 8, "node2"), report("node2", 2, "node1")), true, "++"},
			{10, one(report("node1", 10, "node2"), report("node2", 2, "node1")), true, "+-"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLiveness(start)
			for _, s := range tt.steps {
				v := l.Update(at(s.at), s.leases)
				alive := ""
				for _, node := range []string{"node1", "node2"} {
					if v.Alive(node) {
						alive += "+"
					} else {
						alive += "-"
					}
				}
				if v.Known != s.known || alive != s.alive {
					t.Errorf("after %d s: known is %v, alive %s, want %v and %s", s.at, v.Known, alive, s.known, s.alive)
				}
			}
		})
	}
}

// Who waits for a view to end by itself is told when that is.
func TestLivenessEnds(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := NewLiveness(start)
	lease := Report("tandem-system", "node1", nil, nil, start)
	if v := l.Update(start, []*coordinationv1.Lease{lease}); !v.Until.Equal(start.Add(ReportTimeout)) {
		t.Errorf("before any renewal the view ends at %v", v.Until)
	}
	lease = Report("tandem-system", "node1", nil, nil, start.Add(time.Second))
	if v := l.Update(start.Add(time.Second), []*coordinationv1.Lease{lease}); !v.Until.Equal(start.Add(time.Second + ReportTimeout)) {
		t.Errorf("after a renewal the view ends at %v", v.Until)
	}
	if v := l.Update(start.Add(time.Minute), []*coordinationv1.Lease{lease}); !v.Until.IsZero() {
		t.Errorf("after the timeout the view ends at %v", v.Until)
	}
}
