// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/kernelroutes"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// What is there at the start is put into the kernel at once. A prefix that comes later waits for kube-proxy, unless it is of a local
// Service.
func TestKernelWaitsForKubeProxy(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	old, fresh, local := entry("192.0.2.1/32"), entry("192.0.2.2/32"), entry("192.0.2.3/32")
	isLocal := func(p netip.Prefix) bool { return p == local.Prefix }
	var timing timing
	for _, step := range []struct {
		name    string
		after   time.Duration
		desired []decision.KernelEntry
		want    []decision.KernelEntry
		wait    time.Duration
	}{
		{"at the start", 0, []decision.KernelEntry{old}, []decision.KernelEntry{old}, time.Hour},
		{"with others", 2 * time.Second, []decision.KernelEntry{old, fresh, local}, []decision.KernelEntry{old, local}, time.Second},
		{"a second later", 3 * time.Second, []decision.KernelEntry{old, fresh, local}, []decision.KernelEntry{old, fresh, local}, time.Hour},
		{"without all", 4 * time.Second, nil, nil, time.Hour},
	} {
		got, wait := timing.ApplyKernel(now.Add(step.after), step.desired, isLocal)
		if diff := cmp.Diff(step.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || wait != step.wait {
			t.Errorf("%s: again after %v, want %v; entries (-want +got):\n%s", step.name, wait, step.wait, diff)
		}
	}
}

func entry(prefix string) decision.KernelEntry {
	return decision.KernelEntry{Prefix: netip.MustParsePrefix(prefix)}
}

// What peers are told by BGP is in the kernel too, so that no packet goes to and fro between node and router. Where the node must not have an
// aggregate, it is the addresses that the aggregate is announced for.
func TestRoutesOfBGPAreInTheKernel(t *testing.T) {
	var routes []bgp.Route
	for _, p := range []string{"198.51.100.200/32", "198.51.100.192/28", "192.0.2.0/24", "2001:db8:c::10/128"} {
		routes = append(routes, bgp.Route{Prefix: netip.MustParsePrefix(p)})
	}
	got := entriesOf(decision.Desired{
		Kernel: []decision.KernelEntry{{Prefix: netip.MustParsePrefix("192.0.2.10/32"), Interface: "kube-lb0"}},
		BGP:    []bgp.Session{{Routes: routes}, {Routes: routes}},
		HostRoutes: map[netip.Prefix][]netip.Prefix{
			netip.MustParsePrefix("198.51.100.192/28"): {netip.MustParsePrefix("198.51.100.201/32"), netip.MustParsePrefix("198.51.100.202/32")},
			netip.MustParsePrefix("203.0.113.0/24"):    {netip.MustParsePrefix("203.0.113.7/32")}, // announced later
		},
	})
	want := []kernelroutes.Entry{{Prefix: netip.MustParsePrefix("192.0.2.10/32"), Interface: "kube-lb0"}}
	for range 2 { // peers
		for _, p := range []string{"198.51.100.200/32", "198.51.100.201/32", "198.51.100.202/32", "192.0.2.0/24", "2001:db8:c::10/128"} {
			want = append(want, kernelroutes.Entry{Prefix: netip.MustParsePrefix(p)})
		}
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// What InterfaceAdvertisements ask for is a condition where one selects the node.
func TestKernelRoutesCondition(t *testing.T) {
	refused := []decision.Refusal{
		{Advertisement: "kube-lb0", Address: netip.MustParseAddr("198.51.100.200"), Reason: "is inside 198.51.100.0/24"},
		{Advertisement: "kube-lb0", Address: netip.MustParseAddr("198.51.100.201"), Reason: "is inside 198.51.100.0/24"},
		{Advertisement: "kube-lb0", Address: netip.MustParseAddr("198.51.100.202"), Reason: "is inside 198.51.100.0/24"},
		{Advertisement: "kube-lb0", Address: netip.MustParseAddr("198.51.100.203"), Reason: "is inside 198.51.100.0/24"},
	}
	for _, tt := range []struct {
		name      string
		permitted bool
		desired   decision.Desired
		want      string // "" for no condition
	}{
		{"no advertisement", true, decision.Desired{}, ""},
		{"nothing is the matter", true, decision.Desired{Redistributes: true}, "True InTheKernel: the kernel has all that InterfaceAdvertisements ask for"},
		{
			"without the right", false,
			decision.Desired{Redistributes: true},
			"False NotPermitted: the speaker has no right to change the kernel's routes (NET_ADMIN): set the value speaker.kernelRoutes of the chart, " +
				"or add the component manifests/kernel-routes",
		},
		{
			"some are refused", true,
			decision.Desired{Redistributes: true, Refusals: refused},
			"False AddressesRefused: InterfaceAdvertisement kube-lb0: 198.51.100.200 is inside 198.51.100.0/24; " +
				"InterfaceAdvertisement kube-lb0: 198.51.100.201 is inside 198.51.100.0/24; " +
				"InterfaceAdvertisement kube-lb0: 198.51.100.202 is inside 198.51.100.0/24; 1 more addresses",
		},
	} {
		changed := signal.New()
		r := newRedistribution(changed)
		r.permitted = tt.permitted
		r.Set(tt.desired)
		got := ""
		if c := r.condition(); c != nil {
			got = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
		if got != tt.want {
			t.Errorf("%s: condition %q, want %q", tt.name, got, tt.want)
		}
		if len(changed) != 1 {
			t.Errorf("%s: the condition is not published", tt.name)
		}
	}
}

// A speaker that starts on a node that boots leaves the kernel as it is until kube-proxy forwards.
func TestTheKernelWaitsUntilTheNodeForwards(t *testing.T) {
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).Build()
	s, err := newSpeaker(Config{Node: "node1", REST: &rest.Config{}, Registerer: prometheus.NewRegistry()}, readerCache{reader: store}, store)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(s, nil, newSessions(t.Context(), s.status), newRoster(time.Now(), 0))
	for _, notForwarding := range []bool{true, false} {
		l.kept.surroundings = &decision.Snapshot{Node: "node1", NotForwarding: notForwarding}
		l.setSessions()
		if set := s.kernel.desired.Load() != nil; set == notForwarding {
			t.Errorf("entries were handed over: %t, while the node does not forward: %t", set, notForwarding)
		}
	}
}
