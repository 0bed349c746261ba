// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/config"
)

// All but node3, which is on record, have been healthy for ten minutes. Each decides for itself.
func TestFailback(t *testing.T) {
	prefer := func(selector string, after time.Duration) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Config.L2[0].Preferred = []config.Preference{{Weight: 10, Nodes: labelSelector(selector)}}
			s.Config.L2[0].FailbackAfter = after
		}
	}
	stays := []string{"node3 holds " + v4 + " on [eth0]"}
	for _, tt := range []struct {
		name   string
		change func(*Snapshot)
		want   []string
	}{
		{name: "no live node loses an address to a preferred one", change: prefer("name=node1", 0), want: stays},
		{
			name: "but to one that has been healthy for long", change: prefer("name=node1", 10*time.Minute),
			want: []string{"node1 holds " + v4 + " on [eth0]", "node3 holds " + v4 + " on [eth0]"}, // until the record names node1
		},
		{name: "and not before", change: prefer("name=node1", 11*time.Minute), want: stays},
		{
			name: "a node that is as much preferred as the holder takes nothing, though it would be elected",
			change: func(s *Snapshot) {
				prefer("name", time.Minute)(s)
				s.Services = []Service{heldBy("node1", service("web", v4))}
			},
			want: []string{"node1 holds " + v4 + " on [eth0]"},
		},
		{
			name: "of two one takes it", change: prefer("name in (node1, node2)", time.Minute),
			want: []string{"node2 holds " + v4 + " on [eth0]", "node3 holds " + v4 + " on [eth0]"},
		},
		{
			name: "a node that serves the other family takes nothing",
			change: func(s *Snapshot) {
				prefer("name=node1", time.Minute)(s)
				s.Services = []Service{heldBy("node3", service("web", v4, v6))}
				changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = prefixes("2001:db8:51::/64") })
				for _, name := range []string{"node2", "node3"} {
					changeNode(s, name, func(n *Node) { n.Interfaces[0].Prefixes = prefixes("198.51.100.0/24") })
				}
			},
			want: stays,
		},
		{
			name: "a node without an interface takes nothing",
			change: func(s *Snapshot) {
				prefer("name=node1", time.Minute)(s)
				changeNode(s, "node1", func(n *Node) { n.Interfaces = nil })
			},
			want: stays,
		},
		{
			name: "the shortest time of the advertisements counts",
			change: func(s *Snapshot) {
				prefer("name=node1", time.Hour)(s)
				s.Config.L2 = append(s.Config.L2, config.L2Advertisement{Name: "other", FailbackAfter: time.Minute})
			},
			want: []string{"node1 holds " + v4 + " on [eth0]", "node3 holds " + v4 + " on [eth0]"},
		},
		{
			name: "a holder that restarts is waited for",
			change: func(s *Snapshot) {
				prefer("name=node1", time.Minute)(s)
				s.Alive, s.Away = dead("node3"), map[string]bool{"node3": true}
			},
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 answers that " + v4 + " is at 02:00:00:00:03:00"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withMACs(lan(heldBy("node3", service("web", v4))))
			s.HealthyFor = 10 * time.Minute
			tt.change(s)
			if diff := cmp.Diff(tt.want, sayHanding(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
