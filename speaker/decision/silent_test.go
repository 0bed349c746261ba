// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSilentInterfaces asks every node what it answers for when some find the eth0 of others silent.
func TestSilentInterfaces(t *testing.T) {
	for _, tt := range []struct {
		name    string
		service Service
		silent  []string // nodes whose eth0 is silent
		dead    []string
		// notReady is a Node that is not Ready.
		notReady string
		cutOff   bool
		want     string // the nodes that answer
	}{
		{name: "nobody is silent", service: heldBy("node1", service("web", v4, v6)), want: "node1"},
		{name: "the holder is: another node takes over", service: heldBy("node1", service("web", v4, v6)), silent: []string{"node1"}, want: "node3"},
		{
			name:    "the holder is, and nobody else is alive: it goes on",
			service: heldBy("node1", service("web", v4, v6)), silent: []string{"node1"}, dead: []string{"node2", "node3"}, want: "node1",
		},
		{
			name:    "the holder is, and it alone has an endpoint: it goes on",
			service: heldBy("node1", localOn(service("web", v4, v6), "node1")), silent: []string{"node1"}, want: "node1",
		},
		{
			name:    "all are: the holder goes on",
			service: heldBy("node1", service("web", v4, v6)), silent: []string{"node1", "node2", "node3"}, want: "node1",
		},
		{
			name:    "all are, and the holder's Node is not Ready: it goes on",
			service: heldBy("node1", service("web", v4, v6)), silent: []string{"node1", "node2", "node3"}, notReady: "node1", want: "node1",
		},
		{
			name: "all are, and a Service is new: one node answers", service: service("web", v4, v6),
			silent: []string{"node1", "node2", "node3"}, want: "node3",
		},
		{
			name: "a node that is cut off takes nothing over", service: heldBy("node1", service("web", v4, v6)),
			silent: []string{"node3"}, dead: []string{"node1", "node2"}, cutOff: true,
		},
		{
			name: "and goes on with what it has", service: heldBy("node3", service("web", v4, v6)),
			silent: []string{"node3"}, dead: []string{"node1", "node2"}, cutOff: true, want: "node3",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, node := range []string{"node1", "node2", "node3"} {
				s := lan(tt.service).from(node)
				s.Alive, s.CutOff = dead(tt.dead...), tt.cutOff
				for _, silent := range tt.silent {
					changeNode(s, silent, func(n *Node) { n.Interfaces[0].Silent = true })
				}
				if tt.notReady != "" {
					changeNode(s, tt.notReady, func(n *Node) { n.Ready = false })
				}
				if slices.Contains(tt.dead, node) {
					continue
				}
				if d := Decide(s); len(d.Layer2) > 0 {
					got = append(got, node)
					if records := slices.Collect(maps.Values(d.Records)); len(records) != 1 || !slices.Equal(records[0].Interfaces, []string{"eth0"}) {
						t.Errorf("%s records %v", node, records)
					}
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("answering (-want +got):\n%s", diff)
			}
		})
	}
}

// A node whose interface is silent is nobody's deputy there.
func TestASilentNodeIsNoDeputy(t *testing.T) {
	for _, silent := range []string{"node2", "node3"} {
		for _, node := range []string{"node2", "node3"} {
			s := lan(heldBy("node1", service("web", v4))).from(node)
			s.Alive, s.Away = dead("node1"), map[string]bool{"node1": true}
			changeNode(s, "node1", func(n *Node) { n.Interfaces[0].MAC = []byte{2, 0, 0, 0, 0, 11} })
			changeNode(s, silent, func(n *Node) { n.Interfaces[0].Silent = true })
			if d := Decide(s); (len(d.Layer2) > 0) != (node != silent) {
				t.Errorf("%s is silent, and %s answers for %v", silent, node, d.Layer2)
			}
		}
	}
}
