// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

var since = metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))

// announcement is a record of Service default/name.
func announcement(name, node string, addresses ...string) v1alpha1.L2Announcement {
	a := v1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "default." + name, UID: types.UID("uid-" + name)},
		Service:    v1alpha1.ServiceReference{Namespace: "default", Name: name},
	}
	if node != "" {
		a.Status = v1alpha1.L2AnnouncementStatus{Node: node, Addresses: addresses, Interfaces: []string{"eth0"}, Since: &since}
	}
	return a
}

// toward names a node as the target of a record.
func toward(target string, a v1alpha1.L2Announcement) v1alpha1.L2Announcement {
	a.Spec.Target = target
	return a
}

// cleared is a record whose holder has taken itself off.
func cleared(name string, addresses ...string) v1alpha1.L2Announcement {
	a := announcement(name, "")
	a.Status.Addresses = addresses
	return a
}

func holding(addresses ...string) decision.Record {
	return decision.Record{Addresses: addresses, Interfaces: []string{"eth0"}}
}

func TestRecorder(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	svc := published("web", v4, v6)
	living := map[client.ObjectKey]*corev1.Service{web: &svc}
	const announcing = "Normal AnnouncingLayer2 Node node1 answers for " + v4 + " and " + v6 + " on eth0"
	for _, tt := range []struct {
		name   string
		stored []v1alpha1.L2Announcement
		// cached is what the recorder has read, where that is not what is stored now.
		cached  []v1alpha1.L2Announcement
		records map[types.NamespacedName]decision.Record
		kept    map[types.NamespacedName]bool
		gone    bool // the Service is
		want    []v1alpha1.L2Announcement
		writes  int
		events  []string
	}{
		{
			name:    "the first holder creates the record and says so",
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1, events: []string{announcing},
		},
		{
			name:    "a successor takes the record over and names its predecessor",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node2", v4, v6)},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1, events: []string{announcing + ", after node node2"},
		},
		{
			name:    "a record that was cleared is taken without naming its last holder",
			stored:  []v1alpha1.L2Announcement{cleared("web", v4, v6)},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1, events: []string{announcing},
		},
		{
			name:    "what is on record already is not written again",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)},
		},
		{
			name:    "a holder of more addresses than before writes them, and no event",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node1", v4)},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1,
		},
		{
			name:    "a holder that was on record for no address, since another station had them, says that it answers",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node1")},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1, events: []string{announcing},
		},
		{
			name:    "of two nodes that take over at once the second leaves the record alone",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)},
			cached:  []v1alpha1.L2Announcement{announcement("web", "node2", v4, v6)},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)}, writes: 1,
		},
		{
			name:    "of two nodes that create a record the second leaves it alone",
			stored:  []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)},
			cached:  []v1alpha1.L2Announcement{},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)}, writes: 1,
		},
		{
			name:    "a node that was named as the target removes the name when it is on record",
			stored:  []v1alpha1.L2Announcement{toward("node1", announcement("web", "node2", v4, v6))},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1, events: []string{announcing + ", after node node2"},
		},
		{
			name:    "one that was on record already removes it too",
			stored:  []v1alpha1.L2Announcement{toward("node1", announcement("web", "node1", v4, v6))},
			records: map[types.NamespacedName]decision.Record{web: holding(v4, v6)},
			want:    []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, writes: 1,
		},
		{
			name:   "a target that cannot take the addresses over stays, and the holder says why",
			stored: []v1alpha1.L2Announcement{toward("node9", announcement("web", "node1", v4))},
			records: map[types.NamespacedName]decision.Record{
				web: {Addresses: []string{v4, v6}, Interfaces: []string{"eth0"}, Refusal: "there is no such Node"},
			},
			want: []v1alpha1.L2Announcement{toward("node9", announcement("web", "node1", v4, v6))}, writes: 1,
			events: []string{
				"Warning TargetRefused spec.target of L2Announcement default.web: node node9 does not take the addresses over: there is no such Node",
			},
		},
		{
			name:   "a holder that answers for nothing any more clears the record, and leaves the addresses for the next to know",
			stored: []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)},
			want:   []v1alpha1.L2Announcement{cleared("web", v4, v6)}, writes: 1,
		},
		{
			name:   "one that is to stay on record does",
			stored: []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)}, kept: map[types.NamespacedName]bool{web: true},
			want: []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)},
		},
		{
			name:   "a holder that clears its record does not clear that of a successor",
			stored: []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)},
			cached: []v1alpha1.L2Announcement{announcement("web", "node1", v4, v6)},
			want:   []v1alpha1.L2Announcement{announcement("web", "node3", v4, v6)}, writes: 1,
		},
		{
			name:   "a record of another node is left alone",
			stored: []v1alpha1.L2Announcement{announcement("web", "node2", v4, v6)},
			want:   []v1alpha1.L2Announcement{announcement("web", "node2", v4, v6)},
		},
		{
			name:   "the record of a Service that is gone is left to the controller manager",
			stored: []v1alpha1.L2Announcement{announcement("web", "node1", v4)}, gone: true,
			want: []v1alpha1.L2Announcement{announcement("web", "node1", v4)},
		},
		{
			name:    "a Service that was deleted a moment ago is not recorded",
			records: map[types.NamespacedName]decision.Record{web: holding(v4)}, gone: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var writes atomic.Int32
			store := storeOf(t, &writes, tt.stored...)
			var cached v1alpha1.L2AnnouncementList
			if err := store.List(t.Context(), &cached); err != nil {
				t.Fatal(err)
			}
			if tt.cached != nil {
				cached.Items = tt.cached
				for i := range cached.Items {
					cached.Items[i].ResourceVersion = "1" // older than anything in the store
				}
			}
			services := maps.Clone(living)
			if tt.gone {
				services = nil
			}
			events := record.NewFakeRecorder(10)
			r := newRecorder(store, "node1", events, signal.New())
			w := wanted{records: tt.records, kept: tt.kept, announcements: byService(cached.Items), services: services}
			if err := r.write(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			var got v1alpha1.L2AnnouncementList
			if err := store.List(t.Context(), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.Items, cmpopts.EquateEmpty(),
				cmpopts.IgnoreTypes(metav1.TypeMeta{}, metav1.ObjectMeta{}, &metav1.MicroTime{})); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			if got := int(writes.Load()); got != tt.writes {
				t.Errorf("%d writes, want %d", got, tt.writes)
			}
			if diff := cmp.Diff(tt.events, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// storeOf returns a store of records that counts the attempts to write to it.
func storeOf(t *testing.T, writes *atomic.Int32, stored ...v1alpha1.L2Announcement) client.WithWatch {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(config.Scheme())
	for i := range stored {
		builder = builder.WithObjects(&stored[i])
	}
	return builder.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			writes.Add(1)
			return c.Create(ctx, obj, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			writes.Add(1)
			return c.Update(ctx, obj, opts...)
		},
	}).Build()
}

// byService returns records by their Services.
func byService(records []v1alpha1.L2Announcement) map[types.NamespacedName]*v1alpha1.L2Announcement {
	all := map[types.NamespacedName]*v1alpha1.L2Announcement{}
	for i := range records {
		all[types.NamespacedName{Namespace: records[i].Service.Namespace, Name: records[i].Service.Name}] = &records[i]
	}
	return all
}

// The refusal of a target is told once, and again after it has been another.
func TestRefusalIsToldOnce(t *testing.T) {
	svc := published("web", v4)
	a := toward("node9", announcement("web", "node1", v4))
	events := record.NewFakeRecorder(10)
	r := newRecorder(nil, "node1", events, signal.New())
	for _, refusal := range []string{"one", "one", "other", "one", "", "one"} {
		r.tellRefusal(client.ObjectKeyFromObject(&svc), &svc, refusal, &a)
	}
	if got := drain(events); len(got) != 4 {
		t.Errorf("events: %q, want four", got)
	}
}

func drain(events *record.FakeRecorder) []string {
	var got []string
	for {
		select {
		case event := <-events.Events:
			got = append(got, event)
		default:
			return got
		}
	}
}

func TestRecordKeepsSinceWithTheHolder(t *testing.T) {
	var writes atomic.Int32
	store := storeOf(t, &writes, announcement("mine", "node1", v4), announcement("taken", "node2", v6))
	var cached v1alpha1.L2AnnouncementList
	if err := store.List(t.Context(), &cached); err != nil {
		t.Fatal(err)
	}
	mine, taken := published("mine", v4, other4), published("taken", v6)
	services := map[client.ObjectKey]*corev1.Service{client.ObjectKeyFromObject(&mine): &mine, client.ObjectKeyFromObject(&taken): &taken}
	r := newRecorder(store, "node1", record.NewFakeRecorder(10), signal.New())
	if err := r.write(t.Context(), wanted{
		records: map[types.NamespacedName]decision.Record{
			client.ObjectKeyFromObject(&mine): holding(v4, other4), client.ObjectKeyFromObject(&taken): holding(v6),
		},
		announcements: byService(cached.Items), services: services,
	}); err != nil {
		t.Fatal(err)
	}
	var got v1alpha1.L2Announcement
	if err := store.Get(t.Context(), client.ObjectKey{Name: "default.mine"}, &got); err != nil {
		t.Fatal(err)
	}
	if !got.Status.Since.Equal(&since) {
		t.Errorf("the holder got another address and has its addresses since %v, want %v", got.Status.Since, since)
	}
	if err := store.Get(t.Context(), client.ObjectKey{Name: "default.taken"}, &got); err != nil {
		t.Fatal(err)
	}
	if !got.Status.Since.After(since.Time) {
		t.Errorf("a successor has its addresses since %v, the time of its predecessor", got.Status.Since)
	}
}

// A record that this node has written counts until the cache has it, or a later one.
func TestRecorderRenewsWhatTheCacheHas(t *testing.T) {
	version := func(a v1alpha1.L2Announcement, version string) v1alpha1.L2Announcement {
		a.ResourceVersion = version
		return a
	}
	svc := published("web", v4)
	name := client.ObjectKeyFromObject(&svc)
	old := announcement("web", "node1", v4)
	var writes atomic.Int32
	store := storeOf(t, &writes, old)
	var stale v1alpha1.L2AnnouncementList
	if err := store.List(t.Context(), &stale); err != nil {
		t.Fatal(err)
	}
	changed := signal.New()
	r := newRecorder(store, "node3", record.NewFakeRecorder(10), changed)
	renewed := func(cached ...v1alpha1.L2Announcement) (holders string) {
		var all []*v1alpha1.L2Announcement
		for i := range cached {
			all = append(all, cached[i].DeepCopy())
		}
		r.Renew(all)
		for _, a := range all {
			holders += a.Status.Node + "@" + a.ResourceVersion + " "
			if a.Status.Node == "node3" && a.Status.Addresses[0] != v4 {
				t.Errorf("the record names %v, want %s", a.Status.Addresses, v4)
			}
			a.Status.Addresses[0] = "changed" // as a write of this record does, while the next decision reads its own
		}
		return strings.TrimSpace(holders)
	}
	w := wanted{
		announcements: byService(stale.Items), services: map[client.ObjectKey]*corev1.Service{name: &svc},
		records: map[types.NamespacedName]decision.Record{name: holding(v4)},
	}
	if err := r.write(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nothing says that there is a record by which to decide")
	}
	before := stale.Items[0].ResourceVersion
	for _, step := range []struct {
		name   string
		cached []v1alpha1.L2Announcement
		want   string
	}{
		{"the cache is behind", []v1alpha1.L2Announcement{version(old, before)}, "node3@1000"},
		{"it still is", []v1alpha1.L2Announcement{version(old, before)}, "node3@1000"},
		{
			"another record is left alone",
			[]v1alpha1.L2Announcement{version(announcement("mail", "node2", v6), before), version(old, before)},
			"node2@" + before + " node3@1000",
		},
		{"another node has taken over since", []v1alpha1.L2Announcement{version(announcement("web", "node2", v4), "1001")}, "node2@1001"},
		{"what is known to be older is forgotten", []v1alpha1.L2Announcement{version(old, before)}, "node1@" + before},
		{"a record that was deleted does not come back", nil, ""},
	} {
		if got := renewed(step.cached...); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

func TestRecorderReportsWhatItCannotWrite(t *testing.T) {
	resource := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "l2announcements"}
	for _, tt := range []struct {
		name    string
		refusal error
		wantErr bool
	}{
		{name: "no permission is an error", refusal: apierrors.NewForbidden(resource, "default.web", nil), wantErr: true},
		{name: "an API that is away is an error", refusal: errors.New("connection refused"), wantErr: true},
		{name: "a record that has changed brings a new decision by itself", refusal: apierrors.NewConflict(resource, "default.web", nil)},
		{name: "so does a record that vanished", refusal: apierrors.NewNotFound(resource, "default.web")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc := published("web", v4)
			store := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
				Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
					return tt.refusal
				},
			}).Build()
			events := record.NewFakeRecorder(1)
			r := newRecorder(store, "node1", events, signal.New())
			err := r.write(t.Context(), wanted{
				records:  map[types.NamespacedName]decision.Record{client.ObjectKeyFromObject(&svc): holding(v4)},
				services: map[client.ObjectKey]*corev1.Service{client.ObjectKeyFromObject(&svc): &svc},
			})
			if (err != nil) != tt.wantErr {
				t.Errorf("write = %v, want an error: %v", err, tt.wantErr)
			}
			if got := drain(events); got != nil {
				t.Errorf("an event says what did not happen: %q", got)
			}
		})
	}
}

// After a failure the records that are wanted by then are written again, without a new decision.
func TestRecorderTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := published("web", v4)
		name := client.ObjectKeyFromObject(&svc)
		attempts := 0
		store := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				if attempts++; attempts < 3 {
					return errors.New("connection refused")
				}
				return nil
			},
		}).Build()
		events := record.NewFakeRecorder(1)
		r := newRecorder(store, "node1", events, signal.New())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = r.run(ctx) }()
		r.Want(wanted{
			records:  map[types.NamespacedName]decision.Record{name: holding(v4)},
			services: map[client.ObjectKey]*corev1.Service{name: &svc},
		})
		if event, want := <-events.Events, "Normal AnnouncingLayer2 Node node1 answers for "+v4+" on eth0"; event != want {
			t.Errorf("event %q, want %q", event, want)
		}
		if attempts != 3 {
			t.Errorf("%d attempts, want 3", attempts)
		}
	})
}

// TestRecorderWritesManyAtOnce: each write takes a second, and the first is never answered. A node that takes 100 Services over is on record for
// all others soon, and for the first when the write has ended.
func TestRecorderWritesManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const services = 100
		var mu sync.Mutex
		created := map[string]bool{} // guarded by mu, with whether it was written
		store := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, _ client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
				mu.Lock()
				_, again := created[obj.GetName()]
				created[obj.GetName()] = false
				first := len(created) == 1 && !again
				mu.Unlock()
				if first {
					<-ctx.Done()
					return ctx.Err()
				}
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				created[obj.GetName()] = true
				return nil
			},
		}).Build()
		written := func() (n int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, done := range created {
				if done {
					n++
				}
			}
			return n
		}
		w := newWanted()
		for i := range services {
			svc := published(fmt.Sprint("web", i), v4)
			name := client.ObjectKeyFromObject(&svc)
			w.services[name], w.records[name] = &svc, holding(v4)
		}
		r := newRecorder(store, "node1", record.NewFakeRecorder(services), signal.New())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = r.run(ctx) }()
		r.Want(w)
		time.Sleep(services / (recordWriters - 1) * time.Second)
		if n := written(); n < services-recordWriters {
			t.Errorf("%d of %d records are written after %d s", n, services, services/(recordWriters-1))
		}
		time.Sleep(2 * recordTimeout)
		if n := written(); n != services {
			t.Errorf("%d of %d records are written when the first write must have been tried again", n, services)
		}
	})
}

// TestRecordOfServiceThatIsGone: nothing is written for a Service that is gone, not even what it was to have before.
func TestRecordOfServiceThatIsGone(t *testing.T) {
	svc, mine := published("web", v4), announcement("web", "node1", v4)
	name := client.ObjectKeyFromObject(&svc)
	var writes atomic.Int32
	r := newRecorder(storeOf(t, &writes, mine), "node1", record.NewFakeRecorder(10), signal.New())
	latest := newWanted()
	latest.replace(wanted{
		records:  map[types.NamespacedName]decision.Record{name: holding(v4, other4)},
		services: map[client.ObjectKey]*corev1.Service{name: &svc}, announcements: byService([]v1alpha1.L2Announcement{mine}),
	})
	r.Want(wanted{services: map[client.ObjectKey]*corev1.Service{name: nil}, announcements: byService([]v1alpha1.L2Announcement{mine})})
	latest.replace(r.take())
	if err := r.write(t.Context(), latest); err != nil || writes.Load() > 0 || len(latest.services) > 0 {
		t.Errorf("%d writes, error %v, and %d Services are still to be recorded; want none", writes.Load(), err, len(latest.services))
	}
}

// TestIsolationVoidsRecords: what a speaker was to write before it was isolated, and could not, is not written when the API is back. For
// example node1 loses its network: it misses node2 first, takes web over, and cannot write that. Then it misses all others, and is isolated.
func TestIsolationVoidsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := published("web", v4)
		name := client.ObjectKeyFromObject(&web)
		var away atomic.Bool
		created := 0
		store := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				if away.Load() {
					return errors.New("connection refused")
				}
				created++
				return nil
			},
		}).Build()
		r := newRecorder(store, "node1", record.NewFakeRecorder(1), signal.New())
		l := &loop{
			Speaker: &Speaker{records: r, layer2: layer2.New(layer2.Config{Registerer: prometheus.NewRegistry()})},
			kept:    kept{index: observation.NewIndex(), surroundings: &decision.Snapshot{Isolated: true}},
		}
		l.kept.index.Put(&web)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = r.run(ctx) }()
		away.Store(true)
		r.Want(wanted{
			records:  map[types.NamespacedName]decision.Record{name: holding(v4)},
			services: map[client.ObjectKey]*corev1.Service{name: &web},
		})
		time.Sleep(time.Minute)
		l.announce(decision.Changes{All: true}, nil)
		synctest.Wait()
		away.Store(false)
		time.Sleep(time.Minute)
		if created > 0 {
			t.Error("an isolated speaker has written what it wanted before")
		}
	})
}

// TestRecorderSaysWhatFails: of thousands of failures a few are told, and a takeover that has to wait hides none.
func TestRecorderSaysWhatFails(t *testing.T) {
	const services = 100
	store := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return errors.New("connection refused")
		},
	}).Build()
	r := newRecorder(store, "node1", record.NewFakeRecorder(1), signal.New())
	w := newWanted()
	for i := range services {
		svc := published(fmt.Sprint("service", i), v4)
		name := client.ObjectKeyFromObject(&svc)
		w.services[name], w.records[name] = &svc, holding(v4)
	}
	svc, dead := published("web", v4), announcement("web", "node2", v4)
	name := client.ObjectKeyFromObject(&svc)
	w.services[name], w.records[name], w.announcements[name] = &svc, holding(v4), &dead
	r.takeovers[name] = time.Now()
	err := r.write(t.Context(), w)
	if err == nil || errors.Is(err, errTooSoon) || !strings.Contains(err.Error(), "connection refused") || !strings.HasSuffix(err.Error(), "and 95 more") {
		t.Errorf("error %q, want five refusals and that there are 95 more", err)
	}
	if len(w.services) != services+1 {
		t.Errorf("%d Services are still to be recorded, want all", len(w.services))
	}
}

// Two nodes that believe each other dead overwrite a record at most once in ten seconds each. A user may move the addresses sooner.
func TestRecorderTakesOverSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := published("web", v4)
		name := client.ObjectKeyFromObject(&svc)
		var writes atomic.Int32
		store := storeOf(t, &writes, announcement("web", "node2", v4))
		r := newRecorder(store, "node1", record.NewFakeRecorder(10), signal.New())
		take := func(target string) error {
			t.Helper()
			var a v1alpha1.L2Announcement
			if err := store.Get(t.Context(), client.ObjectKey{Name: "default.web"}, &a); err != nil {
				t.Fatal(err)
			}
			a.Status.Node, a.Spec.Target = "node2", target
			w := wanted{
				records: map[types.NamespacedName]decision.Record{name: holding(v4)}, announcements: byService([]v1alpha1.L2Announcement{a}),
				services: map[client.ObjectKey]*corev1.Service{name: &svc},
			}
			return r.write(t.Context(), w)
		}
		for _, step := range []struct {
			wait   time.Duration
			target string
			soon   bool
			writes int
		}{
			{0, "", false, 1},
			{time.Second, "", true, 1},
			{8 * time.Second, "", true, 1},
			{time.Second, "", false, 2},
			{time.Second, "node3", true, 2},
			{0, "node1", false, 3},
			{time.Second, "", true, 3},
		} {
			time.Sleep(step.wait)
			if err := take(step.target); errors.Is(err, errTooSoon) != step.soon || int(writes.Load()) != step.writes {
				t.Errorf("%v later: %v, %d writes; want that it is too soon: %v, and %d", step.wait, err, writes.Load(), step.soon, step.writes)
			}
		}
	})
}
