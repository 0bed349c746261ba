// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// readerCache is a cache that lists and does nothing else.
type readerCache struct {
	cache.Cache
	reader client.Reader
}

func (c readerCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.reader.List(ctx, list, opts...)
}

// GetInformer returns an informer that has what can be listed of a kind.
func (c readerCache) GetInformer(ctx context.Context, kind client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	gvk, err := apiutil.GVKForObject(kind, config.Scheme())
	if err != nil {
		return nil, err
	}
	list, err := config.Scheme().New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err != nil {
		return nil, err
	}
	if err := c.reader.List(ctx, list.(client.ObjectList)); err != nil {
		return nil, err
	}
	informer := storeInformer{store: toolscache.NewStore(toolscache.MetaNamespaceKeyFunc)}
	return informer, meta.EachListItem(list, func(obj runtime.Object) error { return informer.store.Add(obj) })
}

// storeInformer is an informer that has objects and does nothing else.
type storeInformer struct {
	cache.Informer
	store toolscache.Store
}

func (i storeInformer) GetStore() toolscache.Store { return i.store }

// TestSilentAPIHoldsUpNothing: a speaker that is alone asks an API that does not answer, and decides meanwhile.
func TestSilentAPIHoldsUpNothing(t *testing.T) {
	asked, over := make(chan *http.Request, 10), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(api.Close)
	t.Cleanup(func() { close(over) })
	ctx, cancel := context.WithCancel(t.Context())
	other, die := context.WithCancel(ctx)
	members := joined(t, ctx, "node1", 1)
	joined(t, other, "node2", 2)
	members.SetPeers(map[string][]netip.Addr{"node2": {netip.MustParseAddr("127.9.47.2")}})
	for !members.Alive().Has("node2") {
		<-members.Changes()
	}
	die()
	for !members.Alive().Alone {
		<-members.Changes()
	}
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.9.47.2"}},
		}},
		&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node2"}},
	).Build()
	s, err := newSpeaker(Config{
		Node: "node1", HostIP: netip.MustParseAddr("127.9.47.1"), REST: &rest.Config{Host: api.URL}, Registerer: prometheus.NewRegistry(),
	}, readerCache{reader: store}, store)
	if err != nil {
		t.Fatal(err)
	}
	sessions := newSessions(ctx, s.status)
	done := make(chan struct{})
	go func() { defer close(done); newLoop(s, members, sessions, newRoster(time.Now(), 0)).run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-sessions.desired
	request := <-asked
	for range 5 {
		select {
		case <-s.liveness.latest: // of an earlier decision
		default:
		}
		s.feed.change()
		<-s.liveness.latest
	}
	if turned := s.health.latest.Load(); turned == nil || s.Healthy() != nil {
		t.Errorf("the loop came round at %v, and is healthy: %v", turned, s.Healthy())
	}
	if request.Context().Err() != nil {
		t.Error("changes were followed after the request had ended, and not meanwhile")
	}
}

// aLoop returns the loop of node1, which has started an hour ago and forwards. The API knows two more nodes with speakers, of which node3 is Ready.
func aLoop(t *testing.T, members *membership.Members) *loop {
	t.Helper()
	var objects []client.Object
	for _, name := range []string{"node1", "node2", "node3"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.9.47." + name[len("node"):]}},
		}}
		if name != "node2" {
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		}
		objects = append(objects, node, &v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(objects...).Build()
	s, err := newSpeaker(Config{
		Node: "node1", HostIP: netip.MustParseAddr("127.9.47.1"), REST: &rest.Config{}, Registerer: prometheus.NewRegistry(),
	}, readerCache{reader: store}, store)
	if err != nil {
		t.Fatal(err)
	}
	s.kubeProxy.forwards.Store(true)
	return newLoop(s, members, newSessions(t.Context(), s.status), newRoster(time.Now().Add(-time.Hour), time.Minute))
}

// see has a loop decide, and returns what it has decided by.
func (l *loop) see(t *testing.T) *decision.Snapshot {
	t.Helper()
	if err := l.decide(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l.kept.surroundings
}

// TestLookTakesInWhatWasFound: what takes time to find out reaches the decisions.
func TestLookTakesInWhatWasFound(t *testing.T) {
	now, address, web := time.Now(), netip.MustParseAddr(v4), types.NamespacedName{Namespace: "default", Name: "web"}
	l := aLoop(t, joined(t, t.Context(), "node1", 1))
	l.roster.started = now // Until it has met the others it presumes that they are alive.
	if s := l.see(t); s.Yielded != nil || s.Passed != nil || s.Nodes["node2"].LongNotReady || s.Isolated {
		t.Errorf("before anything was found: %+v", s)
	}
	l.arbitration.rivals[address] = rival{node: "node2", first: now, last: now, yielded: true}
	l.watchdog.passed[web] = map[string]time.Time{"node3": now.Add(time.Hour)}
	l.readiness["node2"] = now.Add(-readinessPatience)
	l.isolation.isolated = true
	switch s := l.see(t); {
	case !s.Yielded[address]:
		t.Error("the addresses of a rival are not left to it")
	case !s.Passed[web]["node3"]:
		t.Error("a node that has not put itself on record is elected again")
	case !s.Nodes["node2"].LongNotReady || s.Nodes["node3"].LongNotReady:
		t.Errorf("node2 has not been Ready for a minute: %+v", s.Nodes)
	case !s.Isolated:
		t.Error("an isolated speaker takes addresses over")
	}
}

// TestLookInDoubt: a speaker that has lost the only other asks the API at once, and takes nothing over before it answers. One that has met nobody
// is not ready.
func TestLookInDoubt(t *testing.T) {
	ctx, die := context.WithCancel(t.Context())
	members := joined(t, t.Context(), "node1", 1)
	l := aLoop(t, members)
	if s := l.see(t); s.StartupHold || l.health.complete.Load() {
		t.Errorf("before another was met: takes nothing over %t, has seen all %t; want neither", s.StartupHold, l.health.complete.Load())
	}
	joined(t, ctx, "node2", 2)
	for !members.Alive().Has("node2") {
		<-members.Changes()
	}
	if s := l.see(t); s.StartupHold || !l.health.complete.Load() || l.answers != nil {
		t.Errorf("with another: takes nothing over %t, has seen all %t, asks the API %t; want the second alone", s.StartupHold, l.health.complete.Load(), l.answers != nil)
	}
	die()
	for !members.Alive().Alone {
		<-members.Changes()
	}
	if s := l.see(t); !s.StartupHold || l.answers == nil {
		t.Errorf("in doubt: takes nothing over %t, asks the API %t; want both", s.StartupHold, l.answers != nil)
	}
	l.heardAPI(klog.Background(), answer{asked: time.Now()})
	if s := l.see(t); s.StartupHold {
		t.Error("it takes nothing over when the API has answered")
	}
}

// TestLookAtARival: a speaker that hears another one answer for its address asks the API at once, and knows by the answer that the other lives.
func TestLookAtARival(t *testing.T) {
	l := aLoop(t, joined(t, t.Context(), "node1", 1))
	web, record := published("web", v4), announcement("web", "node1", v4)
	record.ResourceVersion = "7"
	l.roster.seen["node3"] = true // It was lost long ago.
	l.see(t)
	l.feed.put(&web, true)
	l.feed.put(&record, true)
	l.see(t)
	if l.answers != nil || len(l.disputed) > 0 {
		t.Fatalf("before anything was heard it asks about %v", l.disputed)
	}
	l.kept.few.Speakers.Items = []v1alpha1.SpeakerStatus{speakerOn("node3", "02:00:00:00:00:0d")}
	l.rivals.note(layer2.Rival{Address: netip.MustParseAddr(v4), MAC: []byte{2, 0, 0, 0, 0, 0x0d}})
	if l.see(t); l.answers == nil || !slices.Equal(l.disputed, []string{"default.web"}) {
		t.Errorf("it asks the API %t, about %v; want to ask about default.web", l.answers != nil, l.disputed)
	}
	taken := *record.DeepCopy()
	taken.ResourceVersion, taken.Status.Node = "8", "node3"
	l.heardAPI(klog.Background(), answer{asked: time.Now(), records: []v1alpha1.L2Announcement{taken}})
	l.see(t)
	if now := l.kept.index.Record(types.NamespacedName{Namespace: "default", Name: "web"}); now == nil || now.Status.Node != "node3" {
		t.Errorf("the record that the API has said is %+v", now)
	}
	if !l.roster.unreachable["node3"] || len(l.disputed) > 0 {
		t.Errorf("the rival lives: %t, disputed: %v; want that it does, and nothing", l.roster.unreachable["node3"], l.disputed)
	}
}

// TestLookLearnsTheKey: a speaker that runs takes over another key of gossip from the Secret, and meets one that uses it already.
func TestLookLearnsTheKey(t *testing.T) {
	members := joined(t, t.Context(), "node1", 1)
	l := aLoop(t, members)
	l.cfg.SecretsNamespace = "tandem-system"
	other, err := membership.Join(t.Context(), membership.Config{
		Node: "node2", Bind: netip.MustParseAddr("127.9.47.2"), Port: 7946, Key: []byte("new"), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Leave(context.Background()) })
	if err := other.SetKeys(time.Now(), []byte("new"), []byte("key")); err != nil { // "key" is that of node1.
		t.Fatal(err)
	}
	l.see(t)
	l.kept.few.Secrets.Items = []corev1.Secret{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: config.MembershipSecret},
		Data:       map[string][]byte{config.MembershipSecretKey: []byte("new"), config.MembershipSecretPrevious: []byte("key")},
	}}
	l.see(t)
	for late := time.After(10 * time.Second); !members.Alive().Has("node2"); {
		select {
		case <-members.Changes():
		case <-late:
			t.Fatal("node1 has not met node2, which uses the new key")
		}
	}
}

// TestLoopWatchesTheAddress: a speaker whose address is on no interface any more ends, so that the next one uses the new address.
func TestLoopWatchesTheAddress(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := aLoop(t, joined(t, ctx, "node1", 1))
	l.address = hostAddress{addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11")}, fixed: true, since: time.Now().Add(-addressPatience)}
	failed, done := make(chan error, 1), make(chan struct{})
	l.fail = func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), "198.51.100.11") {
			t.Errorf("the speaker ends since %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the speaker does not end")
	}
}

func joined(t testing.TB, ctx context.Context, node string, n byte) *membership.Members {
	t.Helper()
	m, err := membership.Join(ctx, membership.Config{
		Node: node, Bind: netip.AddrFrom4([4]byte{127, 9, 47, n}), Port: 7946, Key: []byte("key"), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Leave(context.Background()) })
	return m
}

// loopOn returns a speaker of node1 with its loop, in the network of a node of the test. The API is there, kube-proxy forwards, and the speaker has long
// been running. It binds gossip to 127.9.47.1.
func loopOn(t *testing.T, ctx context.Context, node *nettest.Namespace, cached client.Reader, api client.WithWatch) (*Speaker, *loop, *membership.Members) {
	t.Helper()
	var s *Speaker
	node.Do(t, func() (err error) {
		s, err = newSpeaker(Config{
			Node: "node1", HostIP: netip.MustParseAddr("127.9.47.1"), REST: &rest.Config{Host: "http://127.0.0.1:1"},
			Registerer: prometheus.NewRegistry(), Recorder: record.NewFakeRecorder(10),
		}, readerCache{reader: cached}, api)
		return err
	})
	s.kubeProxy.forwards.Store(true)
	members := joined(t, ctx, s.cfg.Node, 1)
	l := newLoop(s, members, newSessions(ctx, s.status), newRoster(time.Now().Add(-time.Hour), 0))
	l.isolation.answered = time.Now().Add(time.Hour)
	return s, l, members
}
