// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/config"
)

func TestTarget(t *testing.T) {
	toward := func(target string, svc Service) Service {
		svc.Target = target
		return svc
	}
	web := heldBy("node1", service("web", v4))
	stays := func(refusal string) map[string]string {
		return map[string]string{"node1 holds " + v4 + " on [eth0]": refusal}
	}
	for _, tt := range []struct {
		name     string
		services []Service
		change   func(*Snapshot)
		want     []string
		refused  map[string]string // the one line that is wanted, and the refusal on record
	}{
		{
			name: "the target takes over, and the holder answers until it is on record", services: []Service{toward("node2", web)},
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web", "node2 holds " + v4 + " on [eth0]"},
		},
		{
			name: "then the holder is silent", services: []Service{toward("node2", heldBy("node2", service("web", v4)))},
			want: []string{"node2 holds " + v4 + " on [eth0]"},
		},
		{
			name:     "Services that share an address move together",
			services: []Service{heldBy("node1", service("mail", shared4)), toward("node2", heldBy("node1", service("web", shared4)))},
			want: []string{
				"node1 hands over " + shared4 + " on [eth0]", "node1 keeps the record of mail", "node1 keeps the record of web",
				"node2 holds " + shared4 + " on [eth0]",
			},
		},
		{
			name: "a target takes what nobody has", services: []Service{toward("node2", service("web", v4))},
			want: []string{"node2 holds " + v4 + " on [eth0]"},
		},
		{
			name: "a holder that restarts is waited for", services: []Service{toward("node2", web)},
			change: func(s *Snapshot) { s.Alive, s.Away = dead("node1"), map[string]bool{"node1": true} },
			want:   []string{"node3 hands over " + v4 + " on [eth0]", "node3 answers that " + v4 + " is at 02:00:00:00:01:00"},
		},
		{name: "a node that does not exist", services: []Service{toward("node9", web)}, refused: stays("there is no such Node")},
		{
			name: "a node that is excluded", services: []Service{toward("node2", web)},
			change:  func(s *Snapshot) { changeNode(s, "node2", func(n *Node) { n.Excluded = true }) },
			refused: stays("it is drained or excluded from announcing"),
		},
		{
			name: "a node without a speaker", services: []Service{toward("node2", web)},
			change: func(s *Snapshot) { s.Alive = dead("node2") }, refused: stays("its speaker is not alive"),
		},
		{
			name: "a node that was passed over", services: []Service{toward("node2", web)},
			change: func(s *Snapshot) {
				s.Passed = map[types.NamespacedName]map[string]bool{{Namespace: "default", Name: "web"}: {"node2": true}}
			},
			refused: stays("it has been asked to, and does not put itself on record"),
		},
		{
			name: "a node that is away", services: []Service{toward("node2", web)},
			change: func(s *Snapshot) { s.Away = map[string]bool{"node2": true} }, refused: stays("its speaker is not alive"),
		},
		{
			name: "a node on another LAN", services: []Service{toward("node2", web)},
			change:  func(s *Snapshot) { changeNode(s, "node2", func(n *Node) { n.Interfaces = n.Interfaces[1:] }) },
			refused: stays("it has no interface for the addresses, or no endpoint, or no advertisement selects it"),
		},
		{
			name: "a node that serves as much, and something else", services: []Service{toward("node2", heldBy("node1", service("web", v4, v6)))},
			change: func(s *Snapshot) {
				s.Config.L2 = append(s.Config.L2[:0], config.L2Advertisement{Selection: config.Selection{Nodes: selectors("name=node1")}},
					config.L2Advertisement{Selection: config.Selection{Nodes: selectors("name=node2")}})
				for node, prefix := range map[string]string{"node1": "198.51.100.0/24", "node2": "2001:db8:51::/64"} {
					changeNode(s, node, func(n *Node) { n.Interfaces[0].Prefixes = prefixes(prefix) })
				}
			},
			refused: stays("it cannot answer for all addresses that the present node answers for"),
		},
		{
			name: "a node that is not Ready, while others are", services: []Service{toward("node2", web)},
			change: func(s *Snapshot) { changeNode(s, "node2", func(n *Node) { n.Ready = false }) }, refused: stays("it is not Ready"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withMACs(lan(tt.services...))
			if tt.change != nil {
				tt.change(s)
			}
			for line, refusal := range tt.refused {
				tt.want = []string{line}
				record := Decide(s.from("node1")).Records[types.NamespacedName{Namespace: "default", Name: "web"}]
				if record.Refusal != refusal {
					t.Errorf("the refusal is %q, want %q", record.Refusal, refusal)
				}
			}
			if diff := cmp.Diff(tt.want, sayHanding(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
