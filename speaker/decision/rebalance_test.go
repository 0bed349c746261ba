// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// follow returns how many Services each node has on record after moves, of which each is looked at as a target that a user names.
func follow(t *testing.T, s *Snapshot, moves []Move) map[string]int {
	t.Helper()
	for _, m := range moves {
		explainer := NewExplainer(s)
		for _, name := range m.Services {
			if refusal := explainer.Refusal(name, m.To); refusal != "" {
				t.Errorf("%s refuses %s: %s", m.To, name.Name, refusal)
			}
			for i := range s.Services {
				if s.Services[i].Name == name {
					s.Services[i].Holder = m.To
				}
			}
		}
	}
	loads := map[string]int{}
	for i := range s.Services {
		loads[s.Services[i].Holder]++
	}
	return loads
}

func TestRebalance(t *testing.T) {
	for _, tt := range []struct {
		name   string
		s      *Snapshot
		change func(*Snapshot)
		moves  int
		want   map[string]int
	}{
		{
			name: "a node is back, and the others have 1.25 of the average at most", s: crowd(30, "node1", "node2"), moves: 4,
			want: map[string]int{"node1": 13, "node2": 13, "node3": 4},
		},
		{name: "loads within the bound stay", s: crowd(30, "node1", "node2", "node3"), want: map[string]int{"node1": 10, "node2": 10, "node3": 10}},
		{
			name: "a node that is drained gets nothing", s: crowd(30, "node1", "node2"), want: map[string]int{"node1": 15, "node2": 15},
			change: func(s *Snapshot) { changeNode(s, "node3", func(n *Node) { n.Excluded = true }) },
		},
		{
			name: "a node without a speaker gets nothing", s: crowd(30, "node1", "node2"), want: map[string]int{"node1": 15, "node2": 15},
			change: func(s *Snapshot) { s.Alive = dead("node3") },
		},
		{
			name: "what was placed by a preference stays", s: crowd(30, "node1"), want: map[string]int{"node1": 30},
			change: func(s *Snapshot) {
				for i := range s.Services {
					s.Services[i].Preferred = labelSelector("name=node1")
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.s)
			}
			moves := Rebalance(tt.s)
			if len(moves) != tt.moves {
				t.Errorf("%d moves, want %d: %v", len(moves), tt.moves, moves)
			}
			if diff := cmp.Diff(tt.want, follow(t, tt.s, moves)); diff != "" {
				t.Errorf("loads afterwards (-want +got):\n%s", diff)
			}
		})
	}
}

// Refusal says before a user names a target what the holder would say after it.
func TestRefusalAndSharers(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	s := lan(heldBy("node1", service("mail", shared4)), heldBy("node1", service("web", shared4)))
	changeNode(s, "node3", func(n *Node) { n.Interfaces = n.Interfaces[1:] })
	e := NewExplainer(s)
	for target, want := range map[string]string{
		"node1": "", "node2": "", "node3": "it has no interface for the addresses, or no endpoint, or no advertisement selects it",
		"node9": "there is no such Node",
	} {
		if got := e.Refusal(web, target); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	if diff := cmp.Diff([]types.NamespacedName{{Namespace: "default", Name: "mail"}, web}, e.Sharers(web)); diff != "" {
		t.Errorf("sharers (-want +got):\n%s", diff)
	}
	if e.Refusal(types.NamespacedName{Name: "x"}, "node1") == "" {
		t.Error("a Service without an address can be moved")
	}
}
