// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestReachable is node2's view of a LAN with node1, which holds v4 and v6: node1 answers for v6 alone.
func TestReachable(t *testing.T) {
	store := lanOfTwo(t)
	r := newReachable("node2", store, recordsOf(store), signal.New())
	answering := map[netip.Addr]net.HardwareAddr{netip.MustParseAddr(v6): {2, 0, 0, 0, 0, 0x0b}}
	var failure error
	r.ask = func(_ context.Context, on string, own, address netip.Addr) ([]net.HardwareAddr, error) {
		if on != "eth0" || family.Of(own) != family.Of(address) {
			t.Errorf("asks for %s on %s from %s", address, on, own)
		}
		if mac := answering[address]; mac != nil {
			return []net.HardwareAddr{mac}, failure
		}
		return nil, failure
	}
	now := time.Unix(0, 0)
	ask := func(times int) {
		t.Helper()
		for range times {
			now = now.Add(time.Second)
			if err := r.step(t.Context(), now); err != nil && failure == nil {
				t.Fatal(err)
			}
		}
	}
	want := func(reason string, unanswered ...string) {
		t.Helper()
		var got []string
		for _, a := range r.found().published() {
			got = append(got, a.Address+" of "+a.Node+" on "+a.Interface)
		}
		if diff := cmp.Diff(unanswered, got); diff != "" {
			t.Errorf("unanswered (-want +got):\n%s", diff)
		}
		if c := addressesAnswer(r.found()); c.Reason != reason {
			t.Errorf("the condition is %s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	ask(5) // Before the loop has decided anything nothing is known.
	want("NotAsked")
	s := surroundingsOfTwo()
	cut := *s
	cut.CutOff = true
	r.follow(&cut)
	ask(10)
	want("NotAsked")

	answer := func(four, six int) {
		t.Helper()
		if got := r.found().answered; got[family.IPv4] != four || got[family.IPv6] != six {
			t.Errorf("answered: %v, want %d of IPv4 and %d of IPv6", got, four, six)
		}
	}
	raised := func() bool {
		select {
		case <-r.status:
			return true
		default:
			return false
		}
	}
	// What cannot be asked from the beginning does not count as answering.
	failure = errors.New("network is down")
	r.follow(s)
	ask(10)
	want("NotAsked")
	failure = nil
	ask(1)
	want("HoldersAnswer")
	answer(0, 0) // The first answer that can be heard is for IPv4, and there is none.

	ask(20)
	want("NoAnswer", v4+" of node1 on eth0")
	answer(0, 1)
	// A node that is cut off says nothing of others, and neither does one that is isolated. Afterwards it asks anew.
	for _, reset := range []func(s *decision.Snapshot){
		func(s *decision.Snapshot) { s.CutOff = true }, func(s *decision.Snapshot) { s.Isolated = true },
	} {
		away := *s
		reset(&away)
		r.follow(&away)
		raised()
		ask(1)
		want("NotAsked")
		answer(0, 0)
		if !raised() {
			t.Error("the status is not written anew")
		}
		r.follow(s)
		ask(3) // one question for IPv6, and two for IPv4, which is not certain yet
		want("HoldersAnswer")
		answer(0, 1)
		ask(20)
		want("NoAnswer", v4+" of node1 on eth0")
		answer(0, 1)
	}
	// Another machine that answers is not node1.
	answering[netip.MustParseAddr(v4)] = net.HardwareAddr{2, 0, 0, 0, 0, 0x7f}
	ask(10)
	want("NoAnswer", v4+" of node1 on eth0")
	answering[netip.MustParseAddr(v4)] = answering[netip.MustParseAddr(v6)]
	ask(10)
	want("HoldersAnswer")

	// What cannot be asked says nothing.
	clear(answering)
	failure = errors.New("network is down")
	ask(20)
	want("HoldersAnswer")

	// A Service without endpoints is not to be answered for, although node1 stays on record.
	failure = nil
	var endpoints discoveryv1.EndpointSliceList
	if err := store.List(t.Context(), &endpoints); err != nil {
		t.Fatal(err)
	}
	for i := range endpoints.Items {
		if err := store.Delete(t.Context(), &endpoints.Items[i]); err != nil {
			t.Fatal(err)
		}
	}
	ask(20)
	want("HoldersAnswer")
	answer(0, 0)
}

// TestReachableAfterARestart: v4 did not answer the speaker of node2 before this one.
func TestReachableAfterARestart(t *testing.T) {
	store := lanOfTwo(t)
	var own v1alpha1.SpeakerStatus
	if err := store.Get(t.Context(), client.ObjectKey{Name: "node2"}, &own); err != nil {
		t.Fatal(err)
	}
	own.Status.Unanswered = []v1alpha1.UnansweredAddress{{Address: v4, Node: "node1", Interface: "eth0"}}
	if err := store.Update(t.Context(), &own); err != nil {
		t.Fatal(err)
	}
	r := newReachable("node2", store, recordsOf(store), signal.New())
	var answers []net.HardwareAddr
	r.ask = func(context.Context, string, netip.Addr, netip.Addr) ([]net.HardwareAddr, error) { return answers, nil }
	if err := r.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	unanswered := func(when string, want ...v1alpha1.UnansweredAddress) {
		t.Helper()
		if diff := cmp.Diff(want, r.found().published()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	unanswered("before the first decision", own.Status.Unanswered...)
	if c := addressesAnswer(r.found()); c.Reason != v1alpha1.ReasonNoAnswer {
		t.Errorf("before the first question the condition is %s %s", c.Status, c.Reason)
	}
	r.follow(surroundingsOfTwo())
	step := func() {
		t.Helper()
		now = now.Add(time.Second)
		if err := r.step(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	step()
	unanswered("after a question", own.Status.Unanswered...)
	answers = []net.HardwareAddr{{2, 0, 0, 0, 0, 0x0b}}
	step()
	step()
	unanswered("after answers")
}

// TestWhoCanAsk: node2 shares both subnets with node1, node3 that of IPv4 alone, and node4 that of IPv6 alone.
func TestWhoCanAsk(t *testing.T) {
	s := surroundingsOfTwo()
	both := s.Nodes["node1"].Interfaces[0].Prefixes
	s.Nodes["node3"] = decision.Node{Interfaces: []decision.Interface{{Name: "eth0", Prefixes: both[:1]}}}
	s.Nodes["node4"] = decision.Node{Interfaces: []decision.Interface{{Name: "eth0", Prefixes: both[1:]}}}
	for asking, want := range map[family.Family][]string{
		family.IPv4: {"node2", "node3", "node4"}, family.IPv6: {"node2", "node4"},
	} {
		if diff := cmp.Diff(want, onLinkOf(s, lan.Key{Node: "node1", Interface: "eth0"}, asking)); diff != "" {
			t.Errorf("who can ask for %s (-want +got):\n%s", asking, diff)
		}
	}
}

// recordsOf returns what reads the L2Announcements of a store.
func recordsOf(store client.Reader) func(context.Context) ([]*v1alpha1.L2Announcement, error) {
	return func(ctx context.Context) (records []*v1alpha1.L2Announcement, err error) {
		var list v1alpha1.L2AnnouncementList
		err = store.List(ctx, &list)
		for i := range list.Items {
			records = append(records, &list.Items[i])
		}
		return records, err
	}
}

// lanOfTwo returns what the API has of a Service web with the addresses v4 and v6, which node1 holds, on a LAN with node2.
func lanOfTwo(t *testing.T) client.Client {
	t.Helper()
	web := published("web", v4, v6)
	four, six := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node2", "+", "+", "-")),
		endpointSlice(discoveryv1.AddressTypeIPv6, "web", endpoint("node2", "+", "+", "-"))
	four.Name, six.Name = "web-4", "web-6"
	claim4, claim6 := claim(v4, ipamv1alpha1.ManagedBy, "lan"), claim(v6, ipamv1alpha1.ManagedBy, "lan")
	record := v1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "default.web"}, Service: v1alpha1.ServiceReference{Namespace: "default", Name: "web"},
		Status: v1alpha1.L2AnnouncementStatus{Node: "node1", Addresses: []string{v4, v6}, Interfaces: []string{"eth0"}},
	}
	objects := []client.Object{&web, &four, &six, &claim4, &claim6, &record}
	for name, host := range map[string]string{"node1": "11", "node2": "12"} {
		objects = append(objects, &v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerState{
			Interfaces: []v1alpha1.InterfaceState{{
				Name: "eth0", MAC: map[string]string{"11": "02:00:00:00:00:0b", "12": "02:00:00:00:00:0c"}[host], Usable: true,
				Addresses: []string{"198.51.100." + host + "/24", "2001:db8:51::" + host + "/64"},
			}},
		}})
	}
	return fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(objects...).Build()
}

// surroundingsOfTwo returns the snapshot of node2's loop.
func surroundingsOfTwo() *decision.Snapshot {
	nodes := map[string]decision.Node{}
	for _, name := range []string{"node1", "node2"} {
		nodes[name] = decision.Node{Ready: true, Interfaces: []decision.Interface{{Name: "eth0", Prefixes: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/64"),
		}}}}
	}
	return &decision.Snapshot{
		Node: "node2", Nodes: nodes, Alive: func(string) bool { return true },
		Config: config.Config{L2: []config.L2Advertisement{{Name: "lan"}}},
	}
}

// TestAsker: each address is asked for by one node, whoever works it out.
func TestAsker(t *testing.T) {
	counts := map[string]int{}
	for n := range 250 {
		counts[asker(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), []string{"node2", "node3"})]++
	}
	if counts["node2"] < 75 || counts["node3"] < 75 || counts["node2"]+counts["node3"] != 250 {
		t.Errorf("the addresses are asked for by %v", counts)
	}
	if got := asker(netip.MustParseAddr(v4), nil); got != "" {
		t.Errorf("no node is %q", got)
	}
}
