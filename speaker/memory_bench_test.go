// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// storesCache is a cache that has the objects of some kinds in stores, and those of the others in a reader.
type storesCache struct {
	cache.Cache
	client.Reader
	stores map[reflect.Type]toolscache.Store
}

func (c storesCache) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return c.Reader.Get(ctx, key, obj, opts...)
}

func (c storesCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.Reader.List(ctx, list, opts...)
}

func (c storesCache) GetInformer(_ context.Context, kind client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	return storeInformer{store: c.stores[reflect.TypeOf(kind)]}, nil
}

// BenchmarkMemory is the memory of a speaker that announces the addresses of ten thousand dual-stack Services on layer 2, as far as it is in use:
// that of the process is up to twice as much, as long as the garbage collector lets it grow. TANDEM_HEAP_PROFILE names a file for a profile.
func BenchmarkMemory(b *testing.B) {
	const services = 10_000
	before := heapInUse()
	lan, node := nettest.NewSwitch(b, "speaker-switch"), nettest.New(b, "speaker-node1")
	lan.Plug(b, node, "02:00:00:00:00:0b")
	node.IP(b, "addr add 10.0.0.11/8 dev eth0")
	node.IP(b, "addr add 2001:db8::11/64 dev eth0 nodad")
	node.IP(b, "link set eth0 up")
	few := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "everything"}},
	).Build()
	ctx, cancel := context.WithCancel(b.Context())
	var s *Speaker
	node.Do(b, func() (err error) {
		s, err = newSpeaker(Config{
			Node: "node1", HostIP: netip.MustParseAddr("127.9.47.1"), REST: &rest.Config{Host: "http://127.0.0.1:1"},
			Registerer: prometheus.NewRegistry(), Recorder: record.NewFakeRecorder(10), AnnouncementRate: 100_000,
		}, storesCache{Reader: few, stores: storesOf(b, services)}, few)
		return err
	})
	l := newLoop(s, joined(b, ctx, "node1", 1), newSessions(ctx, s.status), newRoster(time.Now().Add(-time.Hour), 0))
	for _, run := range []func(context.Context) error{
		s.links.Run, s.layer2.Run, s.records.run, func(ctx context.Context) error { l.run(ctx); return nil },
	} {
		b.Cleanup(waitFor(node.Go(b, func() error { return run(ctx) })))
	}
	b.Cleanup(cancel)
	for announced := 0; announced < 2*services; {
		<-s.status // which is raised when what is announced has changed
		announced = 0
		for _, a := range s.layer2.Announced() {
			if a.Announced && a.Err == nil {
				announced++
			}
		}
	}
	after := heapInUse()
	if file := os.Getenv("TANDEM_HEAP_PROFILE"); file != "" {
		f, err := os.Create(file)
		if err == nil {
			err = pprof.WriteHeapProfile(f)
		}
		if err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(after-before)/(1<<20), "MiB")
}

// heapInUse returns the bytes that are reachable.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// storesOf returns what the informers have of Services with claims, endpoints and records on node1: each object is read from JSON, and stripped.
func storesOf(b *testing.B, services int) map[reflect.Type]toolscache.Store {
	stores := map[reflect.Type]toolscache.Store{}
	add := func(obj, into client.Object, strip func(any) (any, error)) {
		obj.SetUID(types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", obj.GetGeneration())))
		obj.SetResourceVersion("1000000")
		text, err := json.Marshal(obj)
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err == nil {
			_, err = strip(into)
		}
		store := stores[reflect.TypeOf(into)]
		if store == nil {
			store = toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{
				toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc,
			})
			stores[reflect.TypeOf(into)] = store
		}
		if err == nil {
			err = store.Add(into)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range services {
		name := fmt.Sprintf("service%05d", i)
		addresses := []string{fmt.Sprintf("10.1.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::1:%x", i+1)}
		svc, record := published(name, addresses...), announcement(name, "node1", addresses...)
		add(&svc, &corev1.Service{}, stripService)
		add(&record, &v1alpha1.L2Announcement{}, stripAnnouncement)
		for j, af := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			claim := claim(addresses[j], ipamv1alpha1.ManagedBy, "lan")
			claim.Spec.ParentRef = &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: name}
			add(&claim, &networkingv1.IPAddress{}, stripClaim)
			slice := endpointSlice(af, name, endpoint("node1", "+", "+", "-"), endpoint("node2", "+", "+", "-"))
			slice.Name = fmt.Sprint(name, "-", j)
			add(&slice, &discoveryv1.EndpointSlice{}, stripEndpointSlice)
		}
	}
	return stores
}
