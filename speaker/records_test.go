// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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
			writes := 0
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
			services := living
			if tt.gone {
				services = nil
			}
			events := record.NewFakeRecorder(10)
			r := newRecorder(store, "node1", events, signal.New())
			w := wanted{records: tt.records, kept: tt.kept, announcements: cached.Items, services: services}
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
			if writes != tt.writes {
				t.Errorf("%d writes, want %d", writes, tt.writes)
			}
			if diff := cmp.Diff(tt.events, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// storeOf returns a store of records that counts the attempts to write to it.
func storeOf(t *testing.T, writes *int, stored ...v1alpha1.L2Announcement) client.WithWatch {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(config.Scheme())
	for i := range stored {
		builder = builder.WithObjects(&stored[i])
	}
	return builder.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			*writes++
			return c.Create(ctx, obj, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			*writes++
			return c.Update(ctx, obj, opts...)
		},
	}).Build()
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
	writes := 0
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
		announcements: cached.Items, services: services,
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
	writes := 0
	store := storeOf(t, &writes, old)
	var stale v1alpha1.L2AnnouncementList
	if err := store.List(t.Context(), &stale); err != nil {
		t.Fatal(err)
	}
	changed := signal.New()
	r := newRecorder(store, "node3", record.NewFakeRecorder(10), changed)
	renewed := func(cached ...v1alpha1.L2Announcement) (holders string) {
		r.Renew(cached)
		for _, a := range cached {
			holders += a.Status.Node + "@" + a.ResourceVersion + " "
			if a.Status.Node == "node3" && a.Status.Addresses[0] != v4 {
				t.Errorf("the record names %v, want %s", a.Status.Addresses, v4)
			}
			a.Status.Addresses[0] = "changed" // as a write of this record does, while the next decision reads its own
		}
		return strings.TrimSpace(holders)
	}
	w := wanted{
		announcements: stale.Items, services: map[client.ObjectKey]*corev1.Service{name: &svc},
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
		r.wanted.Put(wanted{
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
