// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
)

// withMACs gives each interface of a snapshot its MAC, which a node needs to know to be a deputy, of another node or of itself.
func withMACs(s *Snapshot) *Snapshot {
	for name := range s.Nodes {
		changeNode(s, name, func(n *Node) {
			n.Interfaces = slices.Clone(n.Interfaces)
			for i := range n.Interfaces {
				n.Interfaces[i].MAC = macOf(name, n.Interfaces[i].Name)
			}
		})
	}
	return s
}

// sayHanding tells what all speakers come to: which node holds an address, which hands one over, and which stays on record. All of them
// have been told of an exclusion just now.
func sayHanding(s *Snapshot) (said []string) {
	for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
		if !s.Alive(node) {
			continue
		}
		view := s.from(node)
		view.Departing = s.Departing && s.Nodes[node].Excluded
		d := Decide(view)
		slices.SortFunc(d.Layer2, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
		for _, a := range d.Layer2 {
			verb := "holds"
			if a.As != nil {
				verb = "hands over"
			}
			said = append(said, fmt.Sprintf("%s %s %s on %v", node, verb, a.Address, a.Interfaces))
			for iface, mac := range a.As {
				if mac.String() != macOf(node, iface).String() {
					said = append(said, fmt.Sprintf("%s answers that %s is at %s", node, a.Address, mac))
				}
			}
		}
		for _, svc := range s.Services {
			if d.Kept[svc.Name] {
				said = append(said, fmt.Sprintf("%s keeps the record of %s", node, svc.Name.Name))
			}
		}
	}
	return said
}

// TestAwaited: all others expect the node that is elected to put itself on record, but for one that goes by old views.
func TestAwaited(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for _, tt := range []struct {
		name   string
		change func(*Snapshot)
		want   string
	}{
		{"another is elected", func(*Snapshot) {}, "node3"},
		{"another is on record", func(s *Snapshot) { s.Services = []Service{heldBy("node2", service("web", v4))} }, ""},
		{"this speaker has just started", func(s *Snapshot) { s.StartupHold = true }, ""},
		{"this speaker is isolated", func(s *Snapshot) { s.Isolated = true }, ""},
	} {
		s := lan(service("web", v4))
		tt.change(s)
		if got := Decide(s.from("node1")).Awaited[web]; got != tt.want {
			t.Errorf("%s: %q is awaited, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDrain(t *testing.T) {
	const elected = "node3" // XXH64 ranks it first for default/web
	exclude := func(nodes ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Departing = true
			for _, node := range nodes {
				changeNode(s, node, func(n *Node) { n.Excluded = true })
			}
		}
	}
	web := heldBy("node1", service("web", v4))
	for _, tt := range []struct {
		name     string
		services []Service
		change   func(*Snapshot)
		want     []string
	}{
		{
			name: "a holder that is excluded answers until another is on record", services: []Service{web}, change: exclude("node1"),
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web", elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "then it is silent", services: []Service{heldBy(elected, service("web", v4))}, change: exclude("node1"),
			want: []string{elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "or when its time is over", services: []Service{web},
			change: func(s *Snapshot) { exclude("node1")(s); s.Departing = false },
			want:   []string{elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "it waits as long where no other node is left", services: []Service{web}, change: exclude("node1", "node2", "node3"),
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web"},
		},
		{
			name: "it does so too for a successor that lives, and that gossip does not show", services: []Service{web},
			change: func(s *Snapshot) {
				exclude("node1")(s)
				s.Alive, s.Away, s.Unreachable = dead(elected), map[string]bool{elected: true}, map[string]bool{elected: true}
			},
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web"},
		},
		{
			name: "nor for an address that the successor cannot serve", services: []Service{heldBy("node1", service("web", v4, v6))},
			change: func(s *Snapshot) {
				exclude("node1")(s)
				for _, name := range []string{"node2", "node3"} {
					changeNode(s, name, func(n *Node) { n.Interfaces[0].Prefixes = prefixes("198.51.100.0/24") })
				}
			},
			want: []string{"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web", elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "it answers for nothing that is not on record", services: []Service{service("web", v4)}, change: exclude("node1"),
			want: []string{elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "nor on an interface on which it never did", services: []Service{with(web, func(svc *Service) { svc.Recorded.Interfaces = []string{"eth9"} })},
			change: exclude("node1"),
			want:   []string{elected + " holds " + v4 + " on [eth0]"},
		},
		{
			name: "nor where it leads to no endpoint any more", services: []Service{heldBy("node1", localOn(service("web", v4), "node2"))},
			want: []string{"node2 holds " + v4 + " on [eth0]"},
		},
		{
			name: "all Services of a group are handed over, as far as they are on record",
			services: []Service{
				heldBy("node1", service("web", shared4)), heldBy("node2", service("mail", shared4)),
			},
			change: exclude("node2"), // mail comes first
			want: []string{
				"node2 hands over " + shared4 + " on [eth0]", "node2 keeps the record of mail", elected + " holds " + shared4 + " on [eth0]",
			},
		},
		{
			name:     "a holder that loses to one that serves more goes on with what it has, for as long as it takes",
			services: []Service{heldBy("node1", service("web", v4, v6))},
			change: func(s *Snapshot) {
				changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = prefixes("198.51.100.0/24") })
			},
			want: []string{
				"node1 hands over " + v4 + " on [eth0]", "node1 keeps the record of web",
				elected + " holds " + v4 + " on [eth0]", elected + " holds " + v6 + " on [eth0]",
			},
		},
		{
			name: "a holder without endpoints has nothing to hand over", change: exclude("node1"),
			services: []Service{with(web, func(svc *Service) { svc.Endpoints = map[family.Family]Endpoints{} })},
			want:     []string{"node1 keeps the record of web"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withMACs(lan(tt.services...))
			if tt.change != nil {
				tt.change(s)
			}
			if diff := cmp.Diff(tt.want, sayHanding(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A node that hands over an address of which it has found another station begins nothing: what is in use is not announced.
func TestDrainBeginsNothing(t *testing.T) {
	svc := heldBy("node1", service("web", v4, v6))
	svc.Recorded.Addresses = []string{v4}
	s := withMACs(lan(svc)).from("node1")
	s.Departing = true
	changeNode(s, "node1", func(n *Node) { n.Excluded = true })
	d := Decide(s)
	if len(d.Layer2) != 1 || d.Layer2[0].Address != netip.MustParseAddr(v4) {
		t.Errorf("node1 answers for %v, want %s alone, which it is on record for", d.Layer2, v4)
	}
}

// A node that hands addresses over listens as soon as it has to leave them to the other, as where neither can write or read the record.
func TestDrainYields(t *testing.T) {
	s := withMACs(lan(heldBy("node1", service("web", v4, v6)))).from("node1")
	changeNode(s, "node1", func(n *Node) { n.Interfaces[0].Prefixes = prefixes("198.51.100.0/24") })
	for _, yields := range []bool{false, true} {
		s.Yielded = map[netip.Addr]bool{netip.MustParseAddr(v4): yields}
		d := Decide(s)
		if len(d.Layer2) != 1 || d.Layer2[0].Listen != yields || (d.Layer2[0].As == nil) != yields {
			t.Errorf("yields: %v, and it announces %+v", yields, d.Layer2)
		}
		if !d.Kept[types.NamespacedName{Namespace: "default", Name: "web"}] {
			t.Errorf("yields: %v, and its record does not stay", yields)
		}
	}
}
