// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestMeet(t *testing.T) {
	s := &Speaker{met: map[string]bool{}}
	for _, step := range []struct {
		name  string
		alive []string
		want  bool
	}{
		{name: "a speaker that starts alone", alive: []string{"node1"}},
		{name: "one that is met for the first time does not come back", alive: []string{"node1", "node2"}},
		{name: "one that stays does not come back", alive: []string{"node1", "node2"}},
		{name: "one that is lost", alive: []string{"node1"}},
		{name: "one that was lost comes back, once", alive: []string{"node1", "node2", "node3"}, want: true},
		{name: "after which it is here", alive: []string{"node1", "node2", "node3"}},
	} {
		if got := s.meet(aliveNodes(step.alive...)); got != step.want {
			t.Errorf("%s: returned %v, want %v", step.name, got, step.want)
		}
	}
}

func TestPresumedAlive(t *testing.T) {
	node := func(name, address string) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
		}}
	}
	o := &objects{
		nodes: corev1.NodeList{Items: []corev1.Node{node("node1", "198.51.100.11"), node("node2", "198.51.100.12"), node("node3", "198.51.100.13")}},
		speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
			{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, {ObjectMeta: metav1.ObjectMeta{Name: "node2"}},
		}},
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		alive []string
		// before is whom gossip showed earlier.
		before []string
		want   []string
		ready  bool
	}{
		{name: "a speaker that starts presumes those alive that have a speaker", alive: []string{"node1"}, want: []string{"node1", "node2"}},
		{name: "it is ready when it has met them", alive: []string{"node1", "node2"}, want: []string{"node1", "node2"}, ready: true},
		{name: "one that it has met and lost is dead", alive: []string{"node1"}, before: []string{"node2"}, want: []string{"node1"}, ready: true},
		{name: "after the introduction whoever does not gossip is dead", after: introduction, alive: []string{"node1"}, want: []string{"node1"}, ready: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Speaker{cfg: Config{HostIP: netip.MustParseAddr("198.51.100.11")}, met: map[string]bool{}, started: time.Now()}
				time.Sleep(tt.after)
				s.meet(aliveNodes(tt.before...))
				alive := aliveNodes(tt.alive...)
				s.meet(alive)
				presumed := s.presumedAlive(o, alive)
				var got []string
				for _, name := range []string{"node1", "node2", "node3", "node4"} {
					if presumed(name) {
						got = append(got, name)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("presumed alive (-want +got):\n%s", diff)
				}
				if got := s.Ready(nil) == nil; got != tt.ready {
					t.Errorf("ready: %v, want %v", got, tt.ready)
				}
			})
		})
	}
}

// readerCache is a cache that reads and does nothing else.
type readerCache struct {
	cache.Cache
	reader client.Reader
}

func (c readerCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.reader.List(ctx, list, opts...)
}

func TestReportConflict(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	const speakersMAC = "02:00:00:00:00:02"
	web, other := published("web", "198.51.100.200", "2001:db8::200"), published("other", "198.51.100.201")
	reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(&web, &other, &v1alpha1.SpeakerStatus{
		ObjectMeta: metav1.ObjectMeta{Name: "node2"},
		Status:     v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", MAC: speakersMAC}}},
	}).Build()
	for _, tt := range []struct {
		name, address, mac string
		want               []string
	}{
		{
			name: "another machine has the address of a Service", address: "2001:db8::200", mac: "02:00:00:00:00:99",
			want: []string{"Warning AddressConflict 02:00:00:00:00:99 on eth0 of node node1 says that it has 2001:db8::200 too; " +
				"take the address out of the pool with spec.ipv4.exclude or spec.ipv6.exclude, or away from that host"},
		},
		{name: "another speaker is no other machine", address: "198.51.100.200", mac: speakersMAC},
		{name: "the address of no Service", address: "198.51.100.202", mac: "02:00:00:00:00:99"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := record.NewFakeRecorder(10)
			s := &Speaker{cfg: Config{Node: "node1", Recorder: events}, cache: readerCache{reader: reader}}
			mac, err := net.ParseMAC(tt.mac)
			if err != nil {
				t.Fatal(err)
			}
			s.reportConflict(t.Context(), layer2.Conflict{Address: netip.MustParseAddr(tt.address), Interface: "eth0", MAC: mac})
			if diff := cmp.Diff(tt.want, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// A speaker withdraws when it has lost both the API and every other speaker, and comes back with either.
func TestCheckIsolation(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(api.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	s := &Speaker{cfg: Config{REST: &rest.Config{Host: gone.URL}}, cache: readerCache{reader: fake.NewClientBuilder().WithScheme(scheme).Build()}}
	for _, step := range []struct {
		name              string
		alone             bool
		host              string
		changed, isolated bool
	}{
		{name: "with others, the API away", host: gone.URL},
		{name: "alone with the API, that answers something", alone: true, host: api.URL},
		{name: "alone without the API", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "still", alone: true, host: gone.URL, isolated: true},
		{name: "the API comes back", alone: true, host: api.URL, changed: true},
		{name: "and goes", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "another speaker comes back", host: gone.URL, changed: true},
	} {
		s.alone, s.cfg.REST.Host = step.alone, step.host
		if changed := s.isolate(t.Context(), s.askAPI(t.Context(), s.alone, s.isolated)); changed != step.changed || s.isolated != step.isolated {
			t.Errorf("%s: changed %v, isolated %v; want %v and %v", step.name, changed, s.isolated, step.changed, step.isolated)
		}
	}
}

// A speaker that comes back from isolation is silent until its cache knows who has taken over: its watch may take a minute more than
// the network.
func TestIsolationEndsWithTheCache(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	taken := announcement("web", "node2", v4)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(v1alpha1.L2AnnouncementList{Items: []v1alpha1.L2Announcement{taken}})
	}))
	t.Cleanup(api.Close)
	s := &Speaker{cfg: Config{Node: "node1", REST: &rest.Config{}}}
	for _, step := range []struct {
		name     string
		alone    bool
		host     string
		cached   string // holder
		isolated bool
	}{
		{name: "alone without the API", alone: true, host: gone.URL, cached: "node1", isolated: true},
		{name: "the API comes back first, the cache is behind", alone: true, host: api.URL, cached: "node1", isolated: true},
		{name: "the others come back, the cache is behind", host: api.URL, cached: "node1", isolated: true},
		{name: "the cache has caught up", host: api.URL, cached: "node2"},
		{name: "alone again", alone: true, host: gone.URL, cached: "node3", isolated: true},
		{name: "the cache is behind in what was never this node's", host: api.URL, cached: "node3"},
	} {
		cached := announcement("web", step.cached, v4)
		s.cache = readerCache{reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(&cached).Build()}
		s.alone, s.cfg.REST.Host = step.alone, step.host
		if s.isolate(t.Context(), s.askAPI(t.Context(), s.alone, s.isolated)); s.isolated != step.isolated {
			t.Errorf("%s: isolated %v, want %v", step.name, s.isolated, step.isolated)
		}
	}
}

func TestLatestReplaces(t *testing.T) {
	l := make(latest[int], 1)
	for i := range 3 {
		l.put(i)
	}
	if got := <-l; got != 2 {
		t.Errorf("received %d, want the latest, 2", got)
	}
}

func TestAnnouncing(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	iface := func(name, kind string, change func(*link.Interface), addresses ...string) link.Interface {
		i := link.Interface{Name: name, Kind: kind, MAC: mac, Up: true}
		for _, a := range addresses {
			i.Addresses = append(i.Addresses, link.Address{Prefix: netip.MustParsePrefix(a)})
		}
		if change != nil {
			change(&i)
		}
		return i
	}
	down := func(i *link.Interface) { i.Up = false }
	held := func(a netip.Addr) bool { return a == netip.MustParseAddr(v4) }
	usable := func(name string, addresses ...string) []v1alpha1.InterfaceState {
		return []v1alpha1.InterfaceState{{Name: name, MAC: mac.String(), Usable: true, Addresses: addresses}}
	}
	for _, tt := range []struct {
		name string
		in   link.Interface
		want []v1alpha1.InterfaceState
	}{
		{
			name: "an interface with its own addresses of both families",
			in:   iface("eth0", "device", nil, "198.51.100.11/24", "2001:db8:51::11/64"),
			want: usable("eth0", "198.51.100.11/24", "2001:db8:51::11/64"),
		},
		{
			name: "an address that a Service holds is not the node's, link-local ones say nothing",
			in:   iface("eth0", "device", nil, "198.51.100.11/24", v4+"/32", "fe80::1/64", "169.254.1.1/16"),
			want: usable("eth0", "198.51.100.11/24"),
		},
		{
			name: "an interface without an address can announce by its name",
			in:   iface("eth1", "device", nil), want: usable("eth1"),
		},
		{
			name: "the loopback interface is not listed",
			in:   iface("lo", "device", func(i *link.Interface) { i.Loopback = true }, "10.0.0.1/32"),
		},
		{name: "the host's end of a pod's link is not listed", in: iface("veth1234", "veth", nil, "fe80::1/64")},
		{
			name: "a veth with an address is an interface like others",
			in:   iface("eth0", "veth", nil, "198.51.100.11/24"), want: usable("eth0", "198.51.100.11/24"),
		},
		{
			name: "an interface that is down and has addresses is listed with the reason",
			in:   iface("eth0", "device", down, "198.51.100.11/24"),
			want: []v1alpha1.InterfaceState{{
				Name: "eth0", MAC: mac.String(), Addresses: []string{"198.51.100.11/24"}, Reason: "down or without carrier",
			}},
		},
		{name: "an interface that is down and has none is not", in: iface("eth2", "device", down)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := announcing(&link.Snapshot{Interfaces: []link.Interface{tt.in}}, held)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
		})
	}
}

// What is dropped before it is cached must not be what the snapshot is made from.
func TestStripKeepsWhatIsRead(t *testing.T) {
	bulk := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{"tier": "front"},
			Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		}
	}
	svc := published("web", v4)
	svc.ObjectMeta = bulk("web")
	svc.Spec.Ports, svc.Spec.Selector = []corev1.ServicePort{{Port: 443}}, map[string]string{"app": "web"}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	clusterIP := corev1.Service{
		ObjectMeta: bulk("db"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 1}}},
	}
	node := corev1.Node{ObjectMeta: bulk("node1"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}, Status: corev1.NodeStatus{
		Images: []corev1.ContainerImage{{Names: []string{"big"}}}, Capacity: corev1.ResourceList{}, Allocatable: corev1.ResourceList{},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.51.100.11"}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	slice := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node1", "-", "+", "+"))
	slice.Labels["other"], slice.Annotations = "label", map[string]string{"some": "annotation"}
	slice.Ports = []discoveryv1.EndpointPort{{Port: new(int32(443))}}
	slice.Endpoints[0].Addresses, slice.Endpoints[0].TargetRef = []string{"10.244.1.2"}, &corev1.ObjectReference{Name: "web-0"}

	stripped := func(strip func(any) (any, error), obj any) any {
		t.Helper()
		got, err := strip(obj)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, tt := range []struct {
		name      string
		want, got any
	}{
		{
			name: "a Service of type LoadBalancer keeps labels, policy and addresses",
			want: func() *corev1.Service {
				s := published("web", v4)
				s.Labels = map[string]string{"tier": "front"}
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				return &s
			}(), got: stripped(stripService, svc.DeepCopy()),
		},
		{
			name: "of another Service its type is left, by which it is passed over",
			want: &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
			}, got: stripped(stripService, clusterIP.DeepCopy()),
		},
		{
			name: "a Node keeps labels, taints, addresses and conditions",
			want: func() *corev1.Node {
				n := node.DeepCopy()
				n.Annotations, n.ManagedFields = nil, nil
				n.Status.Images, n.Status.Capacity, n.Status.Allocatable = nil, nil, nil
				return n
			}(), got: stripped(stripNode, node.DeepCopy()),
		},
		{
			name: "an EndpointSlice keeps its Service, its family, and conditions and nodes",
			want: func() *discoveryv1.EndpointSlice {
				s := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node1", "-", "+", "+"))
				return &s
			}(), got: stripped(stripEndpointSlice, slice.DeepCopy()),
		},
		{
			name: "what is none of these passes",
			want: "tombstone", got: stripped(stripService, stripped(stripNode, stripped(stripEndpointSlice, "tombstone"))),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("stripped (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStatusComesBack deletes the SpeakerStatus of this node, as the garbage collector does when the Node is deleted.
func TestStatusComesBack(t *testing.T) {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	informers := &informertest.FakeInformers{Scheme: scheme}
	s := &Speaker{cache: informers, changed: make(chan struct{}, 1), status: make(chan struct{}, 1)}
	if err := s.watch(t.Context()); err != nil {
		t.Fatal(err)
	}
	informer, err := informers.FakeInformerFor(t.Context(), &v1alpha1.SpeakerStatus{})
	if err != nil {
		t.Fatal(err)
	}
	informer.Delete(&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	if len(s.status) != 1 {
		t.Error("the status is not written again")
	}
}
