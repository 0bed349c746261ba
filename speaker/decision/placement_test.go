// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
)

// holders are the nodes that hold Services, as each of them says.
func holders(t *testing.T, s *Snapshot) map[string]string {
	t.Helper()
	all := map[string]string{}
	for node := range s.Nodes {
		for name := range Decide(s.from(node)).Records {
			if other := all[name.Name]; other != "" && s.Alive(node) {
				t.Fatalf("%s is held by %s and %s", name.Name, other, node)
			}
			if s.Alive(node) {
				all[name.Name] = node
			}
		}
	}
	return all
}

// crowd is the lan with Services that are held by nodes in turn.
func crowd(n int, nodes ...string) *Snapshot {
	var services []Service
	for i := range n {
		svc := service(fmt.Sprintf("svc%03d", i), fmt.Sprintf("198.51.100.%d", 50+i))
		if len(nodes) > 0 {
			svc = heldBy(nodes[i%len(nodes)], svc)
		}
		services = append(services, svc)
	}
	return lan(services...)
}

func loads(holders map[string]string) map[string]int {
	loads := map[string]int{}
	for _, node := range holders {
		loads[node]++
	}
	return loads
}

// TestServable: an advertisement counts that some node could follow. Else each decision about a group with an address that no node can serve
// would look at all nodes.
func TestServable(t *testing.T) {
	for _, tt := range []struct {
		name       string
		interfaces []string
		nodes      string
		want       int
	}{
		{"by the subnet", nil, "", 1},
		{"by an interface", []string{"eth*"}, "", 1},
		{"an interface that no node has", []string{"wlan0"}, "", 0},
		{"an interface of a node that is not selected", []string{"eth0"}, "name=node9", 0},
	} {
		s := lan(heldBy("node1", service("web", v4)))
		s.Config.L2[0].Interfaces = tt.interfaces
		if tt.nodes != "" {
			s.Config.L2[0].Nodes = selectors(tt.nodes)
		}
		v := &view{Snapshot: s}
		if got := v.servable(v.groups()[0]); got != tt.want {
			t.Errorf("%s: %d addresses can be served, want %d", tt.name, got, tt.want)
		}
	}
}

func TestLoadsAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		s     *Snapshot
		alive func(string) bool
		limit int
	}{
		{name: "a node dies, and the others had as much", s: crowd(120, "node1", "node2", "node3"), alive: dead("node1"), limit: 75},
		{name: "a node dies, and one of the others had nothing", s: crowd(120, "node1", "node2"), alive: dead("node1"), limit: 75},
		{name: "all Services are new", s: crowd(100), limit: 42},
		{name: "three Services are new", s: crowd(3), limit: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.alive != nil {
				tt.s.Alive = tt.alive
			}
			for node, n := range loads(holders(t, tt.s)) {
				if n > tt.limit {
					t.Errorf("%s has %d Services, want %d at most", node, n, tt.limit)
				}
			}
		})
	}
}

// While the records of a takeover arrive, in whatever order, no Service moves.
func TestPlacesStayWhileRecordsArrive(t *testing.T) {
	s := crowd(60, "node1", "node1", "node2")
	s.Alive = dead("node1")
	want := holders(t, s)
	r := rand.New(rand.NewPCG(1, 2))
	for n, i := range r.Perm(len(s.Services)) {
		s.Services[i].Holder = want[s.Services[i].Name.Name]
		if n%7 > 0 {
			continue
		}
		if diff := cmp.Diff(want, holders(t, s)); diff != "" {
			t.Fatalf("after %d records (-want +got):\n%s", n+1, diff)
		}
	}
}

// While the records of a takeover arrive, a Decider decides each time about the Service that has been recorded, and comes to what Decide does.
// A record of another node than the one that a Service was placed at may move others, so that everything is decided.
func TestDeciderFollowsTheRecordsOfATakeover(t *testing.T) {
	s := crowd(60, "node1", "node1", "node2").from("node2")
	s.Alive = dead("node1")
	want := holders(t, s)
	services := map[types.NamespacedName]*Service{}
	for i := range s.Services {
		services[s.Services[i].Name] = new(s.Services[i])
	}
	var d Decider
	d.Update(s, services)
	r := rand.New(rand.NewPCG(3, 4))
	for n, i := range r.Perm(len(s.Services)) {
		svc := &s.Services[i]
		if svc.Holder == "node1" {
			svc.Holder = want[svc.Name.Name]
		}
		astray := n == 20
		if astray {
			svc.Holder = map[string]string{"node2": "node3", "node3": "node2"}[svc.Holder]
		}
		changes := d.Update(s, map[types.NamespacedName]*Service{svc.Name: new(*svc)})
		if changes.All != astray {
			t.Errorf("record %d: everything was decided: %t, want %t", n, changes.All, astray)
		}
		if astray {
			want = holders(t, s)
		}
		desired := Decide(s)
		slices.SortFunc(desired.Layer2, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
		if diff := cmp.Diff(desired, d.Desired(), cmp.Comparer(sameAddr), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("record %d: the Decider differs (-want +got):\n%s", n, diff)
		}
	}
	if len(d.waits) > 0 {
		t.Errorf("%v wait still", d.waits)
	}
}

// What is preferred goes before what is balanced, and what is balanced before a local endpoint.
func TestPlacesPreferences(t *testing.T) {
	preferred := crowd(30)
	for i := range preferred.Services {
		preferred.Services[i].Preferred = labelSelector("name=node1")
	}
	if got := loads(holders(t, preferred)); got["node1"] != 30 {
		t.Errorf("of Services that prefer node1 the nodes have %v", got)
	}
	local := crowd(30)
	for i := range local.Services {
		local.Services[i].Endpoints = map[family.Family]Endpoints{family.IPv4: endpointsOn("node1")}
	}
	if got := loads(holders(t, local)); got["node1"] != 13 {
		t.Errorf("of Services with an endpoint on node1 the nodes have %v, want 13 on node1", got)
	}
	alone := lan(with(service("web", v4), func(svc *Service) {
		svc.Endpoints = map[family.Family]Endpoints{family.IPv4: endpointsOn("node2")}
	}))
	if got := holders(t, alone); got["web"] != "node2" {
		t.Errorf("a Service with an endpoint on node2 is held by %v", got)
	}
}

// A deputy is the node that would take over, whatever the others have.
func TestDeputiesAreTheSuccessors(t *testing.T) {
	s := withMACs(crowd(60, "node1", "node1", "node2"))
	s.Alive = dead("node1")
	successors := holders(t, s)
	s.Away = map[string]bool{"node1": true}
	deputies := map[string]string{}
	for _, node := range []string{"node2", "node3"} {
		for _, a := range Decide(s.from(node)).Layer2 {
			i := slices.IndexFunc(s.Services, func(svc Service) bool { return svc.has(a.Address) })
			deputies[s.Services[i].Name.Name] = node // or the holder
		}
	}
	if diff := cmp.Diff(successors, deputies); diff != "" {
		t.Errorf("(-successors +deputies):\n%s", diff)
	}
}
