// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestReadyCondition(t *testing.T) {
	sessions := []v1alpha1.BGPSession{{Peer: "tor1", State: v1alpha1.BGPEstablished}, {Peer: "tor2", State: v1alpha1.BGPActive}}
	broken := func(n int) []layer2.Status {
		var all []layer2.Status
		for i := range n {
			all = append(all, layer2.Status{Address: netip.MustParseAddr(v4), Interface: fmt.Sprint("eth", i), Err: layer2.ErrNoInterface})
		}
		return all
	}
	const one = v4 + " on eth0: interface does not exist or cannot be used"
	for _, tt := range []struct {
		name    string
		failure error
		failing []layer2.Status
		failed  map[string]error
		want    string
	}{
		{name: "all is well", failing: broken(0), want: "True Announcing: 1 of 2 BGP sessions established"},
		{
			name: "an address that another machine has is none of the speaker's troubles",
			failing: append(broken(0), layer2.Status{
				Address: netip.MustParseAddr(v4), Interface: "eth0", Err: &layer2.InUseError{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}},
			}),
			want: "True Announcing: 1 of 2 BGP sessions established; 1 addresses are not announced, because other machines have them",
		},
		{name: "a peer cannot be followed", failure: errors.New("port in use"), want: "False BGPFailed: port in use"},
		{name: "an address cannot be announced", failing: broken(1), want: "False Layer2Failed: " + one},
		{
			name: "an interface cannot be opened", failed: map[string]error{"eth0": errors.New("operation not permitted")},
			want: "False Layer2Failed: eth0 cannot be used for layer 2: operation not permitted",
		},
		{name: "layer 2 goes before BGP", failure: errors.New("port in use"), failing: broken(1), want: "False Layer2Failed: " + one},
		{
			name: "of many addresses five are named", failing: broken(9),
			want: "False Layer2Failed: " + one + "; " + v4 + " on eth1: interface does not exist or cannot be used; " + v4 +
				" on eth2: interface does not exist or cannot be used; " + v4 + " on eth3: interface does not exist or cannot be used; " + v4 +
				" on eth4: interface does not exist or cannot be used",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ready(sessions, tt.failure, tt.failing, tt.failed)
			if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); got != tt.want {
				t.Errorf("Ready is %s\nwant %s", got, tt.want)
			}
		})
	}
}

// idleStatusWriter returns the statusWriter of a node that has no interface and on which nothing is wrong, with the sessions of someSessions.
func idleStatusWriter(node string, store client.Client) *statusWriter {
	return &statusWriter{
		node: node, client: store, failing: func() []layer2.Status { return nil }, failed: func() map[string]error { return nil },
		cutOff: func() []string { return nil }, unreachable: func() map[string]netip.Addr { return nil },
		draining:     func() (drainState, bool) { return drainState{}, false },
		found:        func() found { return found{} },
		kernelRoutes: func() *metav1.Condition { return nil },
		sessions:     someSessions{new(atomic.Int32)}, links: func() *link.Snapshot { return &link.Snapshot{} },
	}
}

// The status is created with its Node as owner, filled in, and then left alone until something changes.
func TestStatusWriter(t *testing.T) {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", UID: "uid-node1"}}
	claim, record := claim(v4, ipamv1alpha1.ManagedBy, "lan"), announcement("web", "node2", v4)
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node, &claim, &record).
		WithStatusSubresource(&v1alpha1.SpeakerStatus{}).Build()
	w := &statusWriter{
		node: "node1", client: store, failing: func() []layer2.Status { return nil }, failed: func() map[string]error { return nil },
		cutOff: func() []string { return []string{"eth1"} }, port: 7573,
		unreachable: func() map[string]netip.Addr {
			return map[string]netip.Addr{"node2": netip.MustParseAddr("198.51.100.12")}
		},
		draining:     func() (drainState, bool) { return drainState{reason: "the node is cordoned", leaving: true}, true },
		found:        func() found { return found{} },
		kernelRoutes: func() *metav1.Condition { return nil },
		sessions:     newSessions(t.Context(), signal.New()),
		links: func() *link.Snapshot {
			return &link.Snapshot{Interfaces: []link.Interface{{
				Name: "eth0", Kind: "device", Up: true, MAC: []byte{2, 0, 0, 0, 0, 1},
				Addresses: []link.Address{
					{Prefix: netip.MustParsePrefix("198.51.100.11/24")}, {Prefix: netip.MustParsePrefix(v4 + "/32")},
				},
			}}, DefaultRoutes: map[family.Family][]link.DefaultRoute{family.IPv4: {{Gateway: netip.MustParseAddr("198.51.100.1")}}}}
		},
	}
	var versions []string
	for range 2 {
		if err := w.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got v1alpha1.SpeakerStatus
		if err := store.Get(t.Context(), client.ObjectKey{Name: "node1"}, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != node.UID {
			t.Errorf("owners %v, want the Node", got.OwnerReferences)
		}
		if i := got.Status.Interfaces; len(i) != 1 || len(i[0].Addresses) != 1 || i[0].Addresses[0] != "198.51.100.11/24" {
			t.Errorf("interfaces %+v, want eth0 with its own address", i)
		}
		if diff := cmp.Diff([]string{"198.51.100.1"}, got.Status.DefaultGateways); diff != "" {
			t.Errorf("default gateways (-want +got):\n%s", diff)
		}
		conditions := map[string]string{}
		for _, c := range got.Status.Conditions {
			conditions[c.Type] = string(c.Status) + " " + c.Reason
		}
		if diff := cmp.Diff(map[string]string{
			v1alpha1.ConditionReady: "True Announcing", v1alpha1.ConditionAddressesAnswer: "Unknown NotAsked",
			v1alpha1.ConditionIsolatedFromLAN: "True NothingAnswers", v1alpha1.ConditionPeersReachable: "False Unreachable",
			v1alpha1.ConditionKernelAnswers: "True AddressOnInterface", v1alpha1.ConditionDraining: "True Leaving",
		}, conditions); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
		versions = append(versions, got.ResourceVersion)
	}
	if versions[0] != versions[1] {
		t.Error("a status that has not changed was written again")
	}
}

// TestAddressOfADeadNode: an address that another node has too is published only while that node is not Ready.
func TestAddressOfADeadNode(t *testing.T) {
	for ready, want := range map[corev1.ConditionStatus][]string{corev1.ConditionUnknown: {"198.51.100.11"}, corev1.ConditionTrue: nil} {
		node, other := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node4"}}, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		other.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		reported := v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		reported.Status.Interfaces = []v1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{"198.51.100.11/24"}}}
		w := idleStatusWriter("node4", fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node, &other, &reported).Build())
		w.links = func() *link.Snapshot {
			return &link.Snapshot{
				Interfaces:    []link.Interface{{Name: "eth0", Addresses: []link.Address{{Prefix: netip.MustParsePrefix("198.51.100.11/24")}}}},
				DefaultRoutes: map[family.Family][]link.DefaultRoute{family.IPv4: {{Gateway: netip.MustParseAddr("198.51.100.1")}}},
			}
		}
		if diff := cmp.Diff(want, w.state(t.Context(), &node, v1alpha1.SpeakerState{}).Addresses); diff != "" {
			t.Errorf("addresses while the other node is Ready=%s (-want +got):\n%s", ready, diff)
		}
	}
}

// someSessions are BGP sessions that have announced some prefixes.
type someSessions struct{ prefixes *atomic.Int32 }

func (s someSessions) published() []v1alpha1.BGPSession {
	return []v1alpha1.BGPSession{{Peer: "tor", State: v1alpha1.BGPEstablished, AdvertisedIPv4: s.prefixes.Load()}}
}

func (s someSessions) err() error { return nil }

func (s someSessions) otherRouter() (metav1.Condition, bool) { return metav1.Condition{}, false }

// TestCountsAreWrittenSeldom: a thousand Services that come within a minute change the counts of prefixes a thousand times, and cost each
// node one write in ten seconds. The last count is written too, and a link that fails at once.
func TestCountsAreWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var all []time.Duration // guarded by mu
		written := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node).WithStatusSubresource(&v1alpha1.SpeakerStatus{}).
			WithInterceptorFuncs(interceptor.Funcs{SubResourceUpdate: func(
				ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption,
			) error {
				mu.Lock()
				all = append(all, time.Since(start))
				mu.Unlock()
				return c.SubResource(sub).Update(ctx, obj, opts...)
			}}).Build()
		changed, sessions := signal.New(), someSessions{new(atomic.Int32)}
		var links atomic.Pointer[link.Snapshot]
		links.Store(&link.Snapshot{})
		w := idleStatusWriter("node1", store)
		w.sessions, w.links = sessions, links.Load
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.run(ctx, changed) }()
		for range 1000 {
			time.Sleep(60 * time.Millisecond)
			sessions.prefixes.Add(1)
			changed.Raise()
		}
		writes := written()
		if n := len(writes); n > 8 {
			t.Errorf("written %d times within a minute, want the first time, and then once in 10 s: %v", n, writes)
		}
		for i := 2; i < len(writes); i++ {
			if gap := writes[i] - writes[i-1]; gap < countsPeriod {
				t.Errorf("written at %v and again %v later", writes[i-1], gap)
			}
		}
		time.Sleep(countsPeriod)
		var got v1alpha1.SpeakerStatus
		if err := store.Get(ctx, client.ObjectKey{Name: "node1"}, &got); err != nil || got.Status.BGPSessions[0].AdvertisedIPv4 != 1000 {
			t.Errorf("the last count is not written: %+v, %v", got.Status.BGPSessions, err)
		}
		sessions.prefixes.Add(1)
		changed.Raise()
		time.Sleep(time.Second)
		before := len(written())
		links.Store(&link.Snapshot{Interfaces: []link.Interface{{Name: "eth0", Kind: "device", MAC: []byte{2, 0, 0, 0, 0, 1}, Addresses: []link.Address{
			{Prefix: netip.MustParsePrefix("198.51.100.11/24")},
		}}}})
		changed.Raise()
		time.Sleep(time.Second)
		if now := len(written()); now != before+1 {
			t.Errorf("an interface that failed was written %d times within a second, want once", now-before)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestStatusWriterGoesOn: a write that the API never answers holds up no later one.
func TestStatusWriterGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node).WithStatusSubresource(&v1alpha1.SpeakerStatus{}).
			WithInterceptorFuncs(interceptor.Funcs{SubResourceUpdate: func(
				ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption,
			) error {
				if asked.Add(1) == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return c.SubResource(sub).Update(ctx, obj, opts...)
			}}).Build()
		w := idleStatusWriter("node1", store)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.run(ctx, signal.New()) }()
		time.Sleep(time.Minute)
		var got v1alpha1.SpeakerStatus
		if err := store.Get(ctx, client.ObjectKey{Name: "node1"}, &got); err != nil || len(got.Status.BGPSessions) != 1 {
			t.Errorf("a minute after a write that was not answered: %+v, %v; want the session", got.Status, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestStatusIsLookedAtAgain: the kernel has an address of a Service before the address is on record, and nothing tells this node of the status
// when it is.
func TestStatusIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		claim := claim(v4, ipamv1alpha1.ManagedBy, "lan")
		store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node, &claim).
			WithStatusSubresource(&v1alpha1.SpeakerStatus{}).Build()
		w := idleStatusWriter("node1", store)
		w.links = func() *link.Snapshot {
			return &link.Snapshot{Interfaces: []link.Interface{{
				Name: "eth0", Kind: "device", Up: true, MAC: []byte{2, 0, 0, 0, 0, 1}, Addresses: []link.Address{{Prefix: netip.MustParsePrefix(v4 + "/32")}},
			}}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.run(ctx, signal.New()) }()
		answers := func() metav1.ConditionStatus {
			var got v1alpha1.SpeakerStatus
			if err := store.Get(ctx, client.ObjectKey{Name: "node1"}, &got); err != nil {
				t.Fatal(err)
			}
			if c := meta.FindStatusCondition(got.Status.Conditions, v1alpha1.ConditionKernelAnswers); c != nil {
				return c.Status
			}
			return metav1.ConditionUnknown
		}
		time.Sleep(time.Second)
		if got := answers(); got != metav1.ConditionFalse {
			t.Errorf("KernelAnswers is %s before the address is on record, want False", got)
		}
		record := announcement("web", "node2", v4)
		if err := store.Create(ctx, &record); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookPeriod)
		if got := answers(); got != metav1.ConditionTrue {
			t.Errorf("KernelAnswers is %s when the address has been on record for %v, want True", got, lookPeriod)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPeersReachable(t *testing.T) {
	for _, tt := range []struct {
		name        string
		unreachable map[string]netip.Addr
		want        metav1.Condition
	}{
		{
			name: "all", unreachable: map[string]netip.Addr{},
			want: metav1.Condition{Status: metav1.ConditionTrue, Reason: "Reachable", Message: "gossip reaches all speakers that live"},
		},
		{
			name: "some are not", unreachable: map[string]netip.Addr{
				"node2": netip.MustParseAddr("198.51.100.12"), "node3": netip.MustParseAddr("2001:db8:51::13"),
			},
			want: metav1.Condition{
				Status: metav1.ConditionFalse, Reason: "Unreachable",
				Message: "node2 (198.51.100.12:7573), node3 ([2001:db8:51::13]:7573) run speakers that do not answer; open port 7573, TCP and UDP, between all nodes",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Type = "PeersReachable"
			if diff := cmp.Diff(tt.want, peersReachable(tt.unreachable, 7573)); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
		})
	}
	many := map[string]netip.Addr{}
	for i := range 100 {
		many[fmt.Sprint("node", i)] = netip.MustParseAddr("198.51.100.12")
	}
	if got := peersReachable(many, 7573).Message; !strings.Contains(got, ", 95 more run speakers") {
		t.Errorf("of many: %q", got)
	}
}

func TestIsolatedFromLAN(t *testing.T) {
	if c := isolatedFromLAN(nil); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonLANAnswers {
		t.Errorf("hearing others: %+v", c)
	}
	c := isolatedFromLAN([]string{"eth0", "eth1"})
	if c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonNothingAnswers || !strings.HasPrefix(c.Message, "by eth0 and eth1 neither") {
		t.Errorf("hearing nobody: %+v", c)
	}
}

func TestKernelAnswers(t *testing.T) {
	eth0 := link.Interface{Name: "eth0", Index: 2, Kind: "device", MAC: []byte{2, 0, 0, 0, 0, 1}, Up: true}
	ipvs := link.Interface{Name: "kube-ipvs0", Index: 3, Kind: "dummy", NoARP: true}
	with := func(i link.Interface, addresses ...string) link.Interface {
		for _, a := range addresses {
			i.Addresses = append(i.Addresses, link.Address{Prefix: netip.MustParsePrefix(a)})
		}
		return i
	}
	announced := func(ip netip.Addr) bool { return ip == netip.MustParseAddr(v4) || ip == netip.MustParseAddr(v6) }
	for _, tt := range []struct {
		name       string
		interfaces []link.Interface
		ignore     int
		want       []string
	}{
		{name: "no interface has it", interfaces: []link.Interface{with(eth0, "198.51.100.11/24"), ipvs}},
		{name: "IPVS", interfaces: []link.Interface{eth0, with(ipvs, "10.96.0.1/32", v4+"/32")}, want: []string{v4 + " on kube-ipvs0"}},
		{name: "IPVS with strictARP", interfaces: []link.Interface{eth0, with(ipvs, v4+"/32")}, ignore: 1},
		{name: "IPVS, IPv6", interfaces: []link.Interface{eth0, with(ipvs, v6+"/128")}},
		{
			name: "on the link itself", interfaces: []link.Interface{with(eth0, v4+"/32", v6+"/128")}, ignore: 1,
			want: []string{v4 + " on eth0", v6 + " on eth0"},
		},
		{name: "on the link itself, with arp_ignore 3", interfaces: []link.Interface{with(eth0, v4+"/32", v6+"/128")}, ignore: 3, want: []string{v6 + " on eth0"}},
		{name: "no link that can announce", interfaces: []link.Interface{with(ipvs, v4+"/32")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := kernelAnswers(&link.Snapshot{Interfaces: tt.interfaces}, announced, func(string) int { return tt.ignore })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("192.0.2.%d/32", i))
	}
	read := map[string]int{}
	kernelAnswers(&link.Snapshot{Interfaces: []link.Interface{eth0, with(ipvs, many...)}}, func(netip.Addr) bool { return true },
		func(iface string) int { read[iface]++; return 1 })
	if diff := cmp.Diff(map[string]int{"eth0": 1}, read); diff != "" {
		t.Errorf("arp_ignore was read for 100 addresses (-want +got):\n%s", diff)
	}
	if c := kernelAnswersCondition(nil); c.Status != metav1.ConditionFalse {
		t.Errorf("answering for nothing: %+v", c)
	}
	c := kernelAnswersCondition([]string{"a on b", "c on d", "e on f", "g on h", "i on j"})
	if c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "a on b, c on d, e on f and 2 more") {
		t.Errorf("answering for five: %+v", c)
	}
}
