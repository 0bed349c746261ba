// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestRecordsPastTheCache: what was read past the cache counts until the cache has it, whatever the cache tells meanwhile. For example a watch
// was cut off for minutes, and is tried again only in half a minute.
func TestRecordsPastTheCache(t *testing.T) {
	record := func(node, version string) *v1alpha1.L2Announcement {
		a := announcement("web", node, v4)
		a.ResourceVersion = version
		return &a
	}
	failed := errors.New("the cache has not started")
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(record("node1", "5")).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if failed != nil {
				return failed
			}
			return c.List(ctx, list, opts...)
		},
	}).Build()
	s, err := newSpeaker(
		Config{Node: "node1", REST: &rest.Config{}, Registerer: prometheus.NewRegistry()}, readerCache{reader: store}, store,
	)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(s, nil, newSessions(t.Context(), s.status), newRoster(time.Now(), 0))
	if _, err := l.read(t.Context()); !errors.Is(err, failed) {
		t.Errorf("the cache cannot be read: %v", err)
	}
	failed = nil
	if changed, err := l.read(t.Context()); !changed || err != nil {
		t.Errorf("what is read for the first time changes everything: %v, %v", changed, err)
	}
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"the cache was read", func() {}, "node1"},
		{"another node is on record", func() { s.records.Learn([]v1alpha1.L2Announcement{*record("node2", "8")}) }, "node2"},
		{"the cache tells of an older one", func() { s.feed.put(record("node1", "6"), true) }, "node2"},
		{"everything is read from the cache again", func() { err = l.synchronize(t.Context()) }, "node2"},
		{"the cache has it, and a later one", func() {
			s.records.wrote(record("node1", "9"))
			s.feed.put(record("node1", "9"), true)
			s.feed.put(record("node3", "10"), true)
		}, "node3"},
		{"an answer comes late", func() { s.records.Learn([]v1alpha1.L2Announcement{*record("node2", "8")}) }, "node3"},
	} {
		step.do()
		if _, errRead := l.read(t.Context()); err != nil || errRead != nil {
			t.Fatal(err, errRead)
		}
		a := l.kept.index.Record(types.NamespacedName{Namespace: "default", Name: "web"})
		if a == nil || a.Status.Node != step.want {
			t.Errorf("%s: the record is %v, want that of %s", step.name, a, step.want)
		}
	}
}

// TestARecordIsASignOfLife: a record that is written for a node that is not known to live has everything looked at anew: its speaker may live, though
// gossip does not show it. All other records cost what their Services cost.
func TestARecordIsASignOfLife(t *testing.T) {
	s, err := newSpeaker(Config{Node: "node1", REST: &rest.Config{}, Registerer: prometheus.NewRegistry()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(s, nil, newSessions(t.Context(), s.status), newRoster(time.Now(), 0))
	l.kept.index = observation.NewIndex()
	l.kept.surroundings = &decision.Snapshot{Alive: func(node string) bool { return node == "node2" }}
	for node, want := range map[string]bool{"node2": false, "node3": true, "": false} {
		a := announcement("web", node, v4)
		if got := l.apply(event{object: &a, exists: true}); got != want {
			t.Errorf("a record of %q has everything looked at: %t, want %t", node, got, want)
		}
	}
}

// TestFeedWaitsForTheLoop: what informers see before the loop reads the cache is not kept, and what they see from then on is.
func TestFeedWaitsForTheLoop(t *testing.T) {
	f := newFeed()
	web := published("web", v4)
	for range 1000 {
		f.put(&web, true)
	}
	if n := len(f.events); n > 0 || len(f.objects) != 1 {
		t.Errorf("%d events are kept before the loop reads the cache, and raised is %d", n, len(f.objects))
	}
	if events, stale := f.take(); len(events) > 0 || !stale {
		t.Errorf("the first take returns %d events, and stale %v", len(events), stale)
	}
	f.put(&web, true)
	f.put(&web, false)
	if events, _ := f.take(); len(events) != 2 || !events[0].exists || events[1].exists {
		t.Errorf("events %v, want that web exists, and is gone", events)
	}
}

// BenchmarkChange is the change of one EndpointSlice among ten thousand dual-stack Services, of which this node holds a third, from the
// informer's event to the Set of the announcers.
func BenchmarkChange(b *testing.B) {
	const services, nodes = 10_000, 3
	for _, run := range []struct {
		name string
		left int // of two endpoints, after every second change
	}{{"one of two endpoints comes or goes", 1}, {"all endpoints come or go", 0}} {
		b.Run(run.name, func(b *testing.B) {
			s, err := newSpeaker(Config{Node: "node0", REST: &rest.Config{}, Registerer: prometheus.NewRegistry()}, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			l := newLoop(s, nil, newSessions(b.Context(), s.status), newRoster(time.Now(), 0))
			s.feed.take()
			changing := fill(s.feed, services, nodes)
			o := &observation.Objects{}
			for i := range nodes {
				o.Nodes.Items = append(o.Nodes.Items, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node", i)}})
				o.Speakers.Items = append(o.Speakers.Items, v1alpha1.SpeakerStatus{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node", i)}, Status: v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{
						{Name: "eth0", Usable: true, Addresses: []string{fmt.Sprintf("10.0.0.%d/8", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)}},
					}},
				})
			}
			o.Config.L2Advertisements = []v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}
			l.kept.index = observation.NewIndex()
			l.keep(o)
			l.kept.surroundings = o.Surroundings(l.kept.config, "node0", o.Speakers.Items[0].Status.Interfaces)
			l.kept.published = func(string, string, netip.Addr) decision.Probe { return decision.Probe{Free: true} }
			l.kept.surroundings.Alive = func(string) bool { return true }
			s.feed.stale = false
			if err := l.follow(b.Context()); err != nil {
				b.Fatal(err)
			}
			variants := []*discoveryv1.EndpointSlice{changing, changing.DeepCopy()}
			variants[1].Endpoints = variants[1].Endpoints[:run.left]
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				s.feed.put(variants[i%2], true)
				if err := l.follow(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill feeds dual-stack Services with claims, endpoints and records on so many nodes. It returns an EndpointSlice of one on the first node.
func fill(f *feed, services, nodes int) (first *discoveryv1.EndpointSlice) {
	for i := range services {
		name := fmt.Sprintf("service%05d", i)
		addresses := []string{fmt.Sprintf("10.1.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::1:%x", i+1)}
		svc, record := published(name, addresses...), announcement(name, fmt.Sprint("node", i%nodes), addresses...)
		f.put(&svc, true)
		f.put(&record, true)
		for j, af := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			claim := claim(addresses[j], ipamv1alpha1.ManagedBy, "lan")
			slice := endpointSlice(af, name, endpoint("node1", "+", "+", "-"), endpoint("node2", "+", "+", "-"))
			slice.Name = fmt.Sprint(name, "-", j)
			f.put(&claim, true)
			f.put(&slice, true)
			if i == 0 && j == 0 {
				first = &slice
			}
		}
	}
	return first
}
