// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func speakerWith(node string, interfaces ...v1alpha1.InterfaceState) v1alpha1.SpeakerStatus {
	return v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1alpha1.SpeakerState{Interfaces: interfaces}}
}

func usable(name, mac string, addresses ...string) v1alpha1.InterfaceState {
	return v1alpha1.InterfaceState{Name: name, MAC: mac, Usable: true, Addresses: addresses}
}

func TestOnLinks(t *testing.T) {
	own := []v1alpha1.InterfaceState{
		usable("eth0", "02:00:00:00:00:0b", "198.51.100.11/24", "2001:db8:51::11/64", "2001:db8:51::1111/64"),
		usable("eth1", "02:00:00:00:01:0b", "10.0.0.11/24"),
		{Name: "eth2", MAC: "02:00:00:00:02:0b", Addresses: []string{"172.16.0.11/24"}},
	}
	pair := func(own, target string) lan.Pair {
		return lan.Pair{Own: netip.MustParseAddr(own), Target: netip.MustParseAddr(target)}
	}
	both := []lan.Pair{pair("198.51.100.11", "198.51.100.12"), pair("2001:db8:51::11", "2001:db8:51::12")}
	mac12 := [6]byte{2, 0, 0, 0, 0, 12}
	for _, tt := range []struct {
		name   string
		theirs v1alpha1.SpeakerStatus
		want   []lan.Target
	}{
		{
			name:   "one target of both families, whatever the interface is called there",
			theirs: speakerWith("node2", usable("ens3", "02:00:00:00:00:0c", "198.51.100.12/24", "2001:db8:51::12/64", "2001:db8:51::13/64")),
			want:   []lan.Target{{Key: lan.Key{Node: "node2", Interface: "ens3"}, Via: "eth0", MAC: mac12, Pairs: both}},
		},
		{
			name:   "each link is asked",
			theirs: speakerWith("node2", usable("a", "02:00:00:00:00:0c", "198.51.100.12/24"), usable("b", "02:00:00:00:00:0c", "10.0.0.12/24")),
			want: []lan.Target{
				{Key: lan.Key{Node: "node2", Interface: "a"}, Via: "eth0", MAC: mac12, Pairs: both[:1]},
				{Key: lan.Key{Node: "node2", Interface: "b"}, Via: "eth1", MAC: mac12, Pairs: []lan.Pair{pair("10.0.0.11", "10.0.0.12")}},
			},
		},
		{name: "another subnet", theirs: speakerWith("node2", usable("eth0", "02:00:00:00:00:0c", "203.0.113.12/24"))},
		{name: "a subnet of another length", theirs: speakerWith("node2", usable("eth0", "02:00:00:00:00:0c", "198.51.100.12/25"))},
		{name: "an interface of ours that is down", theirs: speakerWith("node2", usable("eth0", "02:00:00:00:00:0c", "172.16.0.12/24"))},
		{
			name: "one of theirs that is down",
			theirs: speakerWith("node2", v1alpha1.InterfaceState{
				Name: "eth0", MAC: "02:00:00:00:00:0c", Addresses: []string{"198.51.100.12/24"},
			}),
		},
		{name: "an address that both have", theirs: speakerWith("node2", usable("eth0", "02:00:00:00:00:0c", "198.51.100.11/24"))},
		{name: "single addresses", theirs: speakerWith("node2", usable("lo", "02:00:00:00:00:0c", "198.51.100.12/32"))},
		{name: "no MAC", theirs: speakerWith("node2", usable("eth0", "", "198.51.100.12/24"))},
		{name: "a MAC of InfiniBand", theirs: speakerWith("node2", usable("ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:00:01", "198.51.100.12/24"))},
		{name: "what cannot be read", theirs: speakerWith("node2", usable("eth0", "02:00:00:00:00:0c", "198.51.100.12"))},
		{name: "ourselves", theirs: speakerWith("node1", usable("eth0", "02:00:00:00:00:0c", "198.51.100.12/24"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := onLinks("node1", own, []v1alpha1.SpeakerStatus{tt.theirs})
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoIsAway(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := presence{
		alive:    func(node string) bool { return node == "node1" || node == "node4" },
		expected: map[string]time.Time{"node2": until, "node3": until},
	}
	key := func(node, iface string) lan.Key { return lan.Key{Node: node, Interface: iface} }
	for _, tt := range []struct {
		name   string
		states map[lan.Key]lan.State
		want   []string
		found  map[lan.Key]bool // interfaces that several speakers find silent
		lost   map[string]bool  // interfaces of node2 that are marked
	}{
		{name: "nobody whose kernel cannot be asked"},
		{name: "one whose kernel answers", states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Answers}, want: []string{"node2"}},
		{name: "one of which this is not known yet", states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Unknown}, want: []string{"node2"}},
		{
			name: "not one whose kernel is silent", states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Silent},
			lost: map[string]bool{"eth0": true},
		},
		{
			name:   "one that has lost one of two links, without it",
			states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Silent, key("node2", "eth1"): lan.Answers},
			want:   []string{"node2"}, lost: map[string]bool{"eth0": true},
		},
		{
			name: "not one whose kernel has never answered", states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Unanswered},
			lost: map[string]bool{"eth0": true},
		},
		{
			name:   "not one that others have found silent, of which this is not known here yet",
			states: map[lan.Key]lan.State{key("node2", "eth0"): lan.Unknown}, found: map[lan.Key]bool{key("node2", "eth0"): true},
			lost: map[string]bool{"eth0": true},
		},
		{
			name: "not one whose echoes are not answered any more", states: map[lan.Key]lan.State{key("node2", "eth0"): lan.NoEcho},
			lost: map[string]bool{"eth0": true},
		},
		{name: "nobody who is alive", states: map[lan.Key]lan.State{key("node4", "eth0"): lan.Answers}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			interfaces := []decision.Interface{{Name: "eth0"}, {Name: "eth1"}}
			nodes := map[string]decision.Node{"node2": {Interfaces: interfaces}}
			waited, silent := away(p, tt.states, tt.found, nodes)
			got := slices.Sorted(maps.Keys(waited))
			if want := len(tt.states) == 1 && tt.lost != nil; want != slices.Equal(silent, []string{"node2"}) {
				t.Errorf("silent on all links are %v", silent)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("away (-want +got):\n%s", diff)
			}
			for _, i := range interfaces {
				is := slices.ContainsFunc(nodes["node2"].Interfaces, func(o decision.Interface) bool { return o.Name == i.Name && o.Silent })
				if is != tt.lost[i.Name] {
					t.Errorf("%s of node2 is silent: %t", i.Name, is)
				}
			}
			if interfaces[0].Silent {
				t.Error("the interfaces were changed where they are")
			}
		})
	}
}

func TestWatched(t *testing.T) {
	var on []lan.Target
	for _, node := range []string{"node2", "node3", "node4"} {
		on = append(on, lan.Target{Key: lan.Key{Node: node, Interface: "eth0"}, Via: "eth0", MAC: [6]byte{2}})
	}
	p := presence{alive: func(node string) bool { return node == "node2" }, expected: map[string]time.Time{"node3": {}}}
	for i := range 3 {
		gateway := fmt.Sprintf("192.0.2.%d", i)
		on = append(on, lan.Target{Key: lan.Key{Interface: gateway}, Via: fmt.Sprint("eth", i)})
	}
	var got []string
	for _, t := range watched(on, "node1", p, []string{"eth2"}) {
		got = append(got, t.Node+t.Interface)
	}
	if diff := cmp.Diff([]string{"node2eth0", "node3eth0", "192.0.2.0", "192.0.2.2"}, got); diff != "" {
		t.Errorf("node4 is neither alive nor expected back, nobody is asked by eth1, and the others are watched (-want +got):\n%s", diff)
	}
}

func TestBlind(t *testing.T) {
	target := func(node, via string) lan.Target {
		return lan.Target{Key: lan.Key{Node: node, Interface: "eth0"}, Via: via, MAC: [6]byte{2}}
	}
	for _, tt := range []struct {
		name   string
		states []lan.State // of node2, which is alive, and of node3 and node4, which are not
		via    string      // the interface by which node2 is asked
		want   []lan.State
	}{
		{
			name: "this node's link", via: "eth0", states: []lan.State{lan.Silent, lan.Silent, lan.Unanswered},
			want: []lan.State{lan.Silent, lan.Unknown, lan.Unanswered},
		},
		{name: "one that is alive answers", via: "eth0", states: []lan.State{lan.Answers, lan.Silent, lan.Silent}},
		{name: "one that is not alive answers", via: "eth0", states: []lan.State{lan.Silent, lan.Answers, lan.Silent}},
		{name: "one that is alive has never answered", via: "eth0", states: []lan.State{lan.Unanswered, lan.Silent, lan.Silent}},
		{name: "another link", via: "eth1", states: []lan.State{lan.Silent, lan.Silent, lan.Silent}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on := []lan.Target{target("node2", tt.via), target("node3", "eth0"), target("node4", "eth0")}
			states := map[lan.Key]lan.State{}
			for i, target := range on {
				states[target.Key] = tt.states[i]
			}
			blind(states, on, func(node string) bool { return node == "node2" })
			var got []lan.State
			for _, target := range on {
				got = append(got, states[target.Key])
			}
			want := tt.want
			if want == nil {
				want = tt.states
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestGateways(t *testing.T) {
	address := func(prefix string) link.Address {
		return link.Address{Prefix: netip.MustParsePrefix(prefix), Permanent: true}
	}
	eth := func(index int, addresses ...link.Address) link.Interface {
		return link.Interface{
			Name: fmt.Sprint("eth", index), Index: index, Kind: "device", MAC: []byte{2, 0, 0, 0, 0, byte(index)}, Up: true, Addresses: addresses,
		}
	}
	route := func(index int, gateway string) link.DefaultRoute {
		return link.DefaultRoute{Index: index, Gateway: netip.MustParseAddr(gateway)}
	}
	links := &link.Snapshot{
		Interfaces: []link.Interface{
			eth(0, address("198.51.100.11/24"), address("2001:db8:51::11/64"), address("fe80::11/64")),
			eth(1, address("10.0.0.11/24")), eth(2),
		},
		DefaultRoutes: map[family.Family][]link.DefaultRoute{
			family.IPv4: {route(0, "198.51.100.1"), route(0, "198.51.100.2"), route(1, "10.0.0.1"), route(2, "192.0.2.1"), {Index: 1}},
			family.IPv6: {route(0, "fe80::1"), route(7, "2001:db8::1")},
		},
	}
	links.Interfaces[1].Up = false
	pair := func(own, target string) []lan.Pair {
		return []lan.Pair{{Own: netip.MustParseAddr(own), Target: netip.MustParseAddr(target)}}
	}
	want := []lan.Target{
		{Key: lan.Key{Interface: "198.51.100.1"}, Via: "eth0", Pairs: pair("198.51.100.11", "198.51.100.1")},
		{Key: lan.Key{Interface: "fe80::1%eth0"}, Via: "eth0", Pairs: pair("fe80::11%eth0", "fe80::1%eth0")},
	}
	if diff := cmp.Diff(want, gateways(links), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("gateways (-want +got):\n%s", diff)
	}
}
