// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

// TestDeciderIsDecide changes clusters at random, and compares what a Decider has after each change with what Decide finds.
func TestDeciderIsDecide(t *testing.T) {
	const seed, clusters, steps = 3, 200, 25
	same := gocmp.Options{
		gocmp.Comparer(sameAddr), gocmp.Comparer(samePrefix), gocmp.Comparer(sameSecret), cmpopts.EquateEmpty(),
	}
	full := 0
	for n := range uint64(clusters) {
		r := rand.New(rand.NewPCG(seed, n))
		s := randomSnapshot(r)
		s.Probed = randomProbes(r)
		s.Node = slices.Sorted(maps.Keys(s.Nodes))[r.IntN(len(s.Nodes))]
		services := map[types.NamespacedName]*Service{}
		changed := map[types.NamespacedName]*Service{}
		for i := range s.Services {
			services[s.Services[i].Name], changed[s.Services[i].Name] = &s.Services[i], &s.Services[i]
		}
		var d Decider
		before := Desired{}
		for step := range steps {
			changes := d.Update(s, changed)
			s.Services = nil
			for _, name := range slices.SortedFunc(maps.Keys(services), compareNames) {
				s.Services = append(s.Services, *services[name])
			}
			want, got := Decide(s), d.Desired()
			slices.SortFunc(want.Layer2, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
			if diff := gocmp.Diff(want, got, same); diff != "" {
				t.Fatalf("cluster %d, step %d: the Decider differs (-want +got):\n%s", n, step, diff)
			}
			checkChanges(t, fmt.Sprintf("cluster %d, step %d", n, step), changes, before, got)
			before = got
			before.Records, before.Kept = maps.Clone(got.Records), maps.Clone(got.Kept)
			if changes.All {
				full++
			}
			next := *s
			s = &next
			changed = randomChange(r, s, services)
		}
	}
	if full > clusters*steps/2 {
		t.Errorf("%d of %d decisions were about everything: the test shows little", full, clusters*steps)
	}
}

func sameSecret(a, b bgp.Password) bool { return string(a) == string(b) }

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// randomChange changes some Services, or seldom something else in a snapshot. It returns the Services that have changed.
func randomChange(r *rand.Rand, s *Snapshot, services map[types.NamespacedName]*Service) map[types.NamespacedName]*Service {
	changed := map[types.NamespacedName]*Service{}
	other := randomSnapshot(r)
	for range min(r.IntN(4), len(other.Services)) {
		svc := other.Services[r.IntN(len(other.Services))]
		if svc.Name.Name += []string{"", "", "-more"}[r.IntN(3)]; r.IntN(4) == 0 {
			delete(services, svc.Name)
			changed[svc.Name] = nil
			continue
		}
		services[svc.Name], changed[svc.Name] = &svc, &svc
	}
	names := slices.Sorted(maps.Keys(s.Nodes))
	node := names[r.IntN(len(names))]
	switch r.IntN(36) {
	case 0:
		gone := names[r.IntN(len(names))]
		s.Alive = dead(gone)
	case 1:
		s.Nodes = maps.Clone(s.Nodes)
		s.Nodes[node] = other.Nodes[slices.Sorted(maps.Keys(other.Nodes))[0]]
	case 2:
		s.Isolated = !s.Isolated
	case 3, 4, 5:
		s.Probed = randomProbes(r)
	case 6:
		s.Config = other.Config
	case 7:
		s.Away = map[string]bool{node: true}
	case 8:
		s.StartupHold = !s.StartupHold
	case 9:
		s.Password = func(key config.SecretKey) (bgp.Password, error) { return bgp.Password(fmt.Sprint(key, node)), nil }
	case 10:
		s.Paths = other.Paths
	case 11:
		s.Departing = !s.Departing
	case 13:
		s.Away, s.Unreachable = map[string]bool{node: true}, map[string]bool{node: true}
	case 14:
		s.Passed = map[types.NamespacedName]map[string]bool{}
		for name := range services {
			if r.IntN(2) == 0 {
				s.Passed[name] = map[string]bool{names[r.IntN(len(names))]: true}
			}
		}
	case 15:
		s.Yielded = map[netip.Addr]bool{}
		for _, svc := range services {
			if len(svc.Addresses) > 0 && r.IntN(4) == 0 {
				s.Yielded[svc.Addresses[0].IP] = true
			}
		}
	case 16:
		s.CutOff = !s.CutOff
	case 17:
		s.Nodes = maps.Clone(s.Nodes)
		changeNode(s, node, func(n *Node) {
			n.Interfaces = slices.Clone(n.Interfaces)
			for i := range n.Interfaces {
				n.Interfaces[i].Silent = !n.Interfaces[i].Silent
			}
		})
	case 19:
		s.Leaving = !s.Leaving
	case 20:
		s.Ends = map[string]End{"peer0": {Err: errors.New(node)}}
	case 18:
		s.HealthyFor = time.Hour - s.HealthyFor
	case 12: // an equal Config that was compiled anew
		s.Config.L2, s.Config.BGP, s.Config.Peers = slices.Clone(s.Config.L2), slices.Clone(s.Config.BGP), slices.Clone(s.Config.Peers)
	}
	return changed
}

// checkChanges checks that Changes name each difference between two decisions and, of announcements, nothing else.
func checkChanges(t *testing.T, step string, changes Changes, before, after Desired) {
	t.Helper()
	announced := func(d Desired) map[netip.Addr]Announcement {
		all := map[netip.Addr]Announcement{}
		for _, a := range d.Layer2 {
			all[a.Address] = a
		}
		return all
	}
	old, current := announced(before), announced(after)
	var want []netip.Addr
	for ip := range current {
		if _, was := old[ip]; !was || !reflect.DeepEqual(old[ip], current[ip]) {
			want = append(want, ip)
		}
	}
	for ip := range old {
		if _, is := current[ip]; !is {
			want = append(want, ip)
		}
	}
	slices.SortFunc(want, netip.Addr.Compare)
	slices.SortFunc(changes.Layer2, netip.Addr.Compare)
	if !slices.Equal(want, changes.Layer2) {
		t.Fatalf("%s: the announcements of %v have changed, and the Changes say %v", step, want, changes.Layer2)
	}
	if !changes.BGP && !reflect.DeepEqual([]any{before.Peers, before.BGP, before.BFD, before.Problems, before.Doubts},
		[]any{after.Peers, after.BGP, after.BFD, after.Problems, after.Doubts}) {
		t.Fatalf("%s: BGP has changed, and the Changes do not say so", step)
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(before.Records)), slices.Collect(maps.Keys(after.Records))) {
		same := reflect.DeepEqual(before.Records[name], after.Records[name])
		if !same && !changes.All && !slices.Contains(changes.Services, name) {
			t.Fatalf("%s: the record of %s has changed, and the Changes do not name it", step, name)
		}
	}
}

// TestDeciderKnowsEachFunction fails when a Snapshot gets a function that the Decider does not ask again: then each Update would decide
// everything anew, which is right and slow.
func TestDeciderKnowsEachFunction(t *testing.T) {
	known := []string{"Alive", "Probed", "Password"}
	for field := range reflect.TypeFor[Snapshot]().Fields() {
		if field.Type.Kind() == reflect.Func && !slices.Contains(known, field.Name) {
			t.Errorf("Snapshot.%s is a function: have Decider remember its answers, or hand over a map", field.Name)
		}
	}
}

// An address that another station has costs no more than any other: when its holder is on record, all speakers decide by what has changed.
func TestDeciderIsPartialWithAnAddressInUse(t *testing.T) {
	s := lan(service("web", v4)).from("node3") // which is elected
	mail := service("mail", other4)
	s.Probed = func(_, _ string, ip netip.Addr) Probe {
		if ip == netip.MustParseAddr(v4) {
			return Probe{UsedBy: "02:00:00:00:00:42"}
		}
		return Probe{Free: true}
	}
	var d Decider
	d.Update(s, map[types.NamespacedName]*Service{web: &s.Services[0], mail.Name: new(heldBy("node1", mail))})
	record, held, _ := d.Record(web)
	if !held {
		t.Fatal("node3 does not put itself on record for web")
	}
	recorded := s.Services[0]
	recorded.Holder, recorded.Recorded = "node3", record
	d.Update(s, map[types.NamespacedName]*Service{web: &recorded})
	if changes := d.Update(s, map[types.NamespacedName]*Service{mail.Name: new(heldBy("node2", mail))}); changes.All {
		t.Error("a change of mail had everything decided anew")
	}
}

// Where each rack has peers of its own, a speaker keeps no routes for the peers of other racks.
func TestDeciderKeepsTablesOfItsPeers(t *testing.T) {
	s := lan(service("web", v4)).from("node1")
	s.Config.BGP = []config.BGPAdvertisement{toAll("all")}
	for _, node := range []string{"node1", "node2", "node3"} {
		peer := tor("tor-of-" + node)
		peer.Nodes = selectors("name=" + node)
		s.Config.Peers = append(s.Config.Peers, peer)
	}
	var d Decider
	d.Update(s, map[types.NamespacedName]*Service{web: &s.Services[0]})
	if names := slices.Collect(maps.Keys(d.tables)); !slices.Equal(names, []string{"tor-of-node1"}) {
		t.Errorf("node1 has the tables of %v, want that of its own peer alone", names)
	}
}

// TestPrefixesOfDecider: a peer whose router is not found yet counts too.
func TestPrefixesOfDecider(t *testing.T) {
	s := lan(service("web", v4, v6)).from("node1")
	fabric := tor("fabric")
	fabric.Peer.Address, fabric.Peer.Unnumbered, fabric.Peer.Interface = netip.Addr{}, true, "eth1"
	s.Config = config.Config{Peers: []config.Peer{fabric}, BGP: []config.BGPAdvertisement{toAll("all")}}
	var d Decider
	d.Update(s, map[types.NamespacedName]*Service{s.Services[0].Name: &s.Services[0]})
	if n := len(d.Sessions().BGP); n > 0 {
		t.Fatalf("there are %d sessions", n)
	}
	if got, want := fmt.Sprint(d.Prefixes()), fmt.Sprintf("map[%s/32:false %s/128:false]", v4, v6); got != want {
		t.Errorf("prefixes %v, want %v", got, want)
	}
}

// BenchmarkDecider is the change of one endpoint in the cluster of BenchmarkDecide, and a full pass.
func BenchmarkDecider(b *testing.B) {
	s := large()
	services := map[types.NamespacedName]*Service{}
	for i := range s.Services {
		services[s.Services[i].Name] = &s.Services[i]
	}
	base := services[types.NamespacedName{Namespace: "default", Name: "service00100"}] // which this node holds
	variants := []*Service{base, new(*base), new(*base)}
	variants[1].Endpoints = nil
	for _, run := range []struct {
		name    string
		variant int
		peers   []config.Peer
	}{
		{"an endpoint comes and changes nothing", 2, nil},
		{"the only endpoint comes and goes", 1, nil},
		{"an endpoint comes and changes nothing, with a peer", 2, s.Config.Peers},
		{"the only endpoint comes and goes, with a peer", 1, s.Config.Peers},
	} {
		b.Run(run.name, func(b *testing.B) {
			s := new(*s)
			s.Config.Peers = run.peers
			var d Decider
			d.Update(s, services)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				d.Update(s, map[types.NamespacedName]*Service{base.Name: variants[i%2*run.variant]})
			}
		})
	}
	b.Run("full", func(b *testing.B) {
		var d Decider
		d.Update(s, services)
		b.ReportAllocs()
		for b.Loop() {
			d.Full(s)
		}
	})
}
