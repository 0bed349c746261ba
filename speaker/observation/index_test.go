// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestIndexIsSnapshot changes objects at random, and compares the Services of an Index with those of a Snapshot of all objects. What Take
// returns is what has changed.
func TestIndexIsSnapshot(t *testing.T) {
	const seed, clusters, steps = 4, 100, 50
	for n := range uint64(clusters) {
		r := rand.New(rand.NewPCG(seed, n))
		o, x := &Objects{}, NewIndex()
		current := map[types.NamespacedName]*decision.Service{}
		for step := range steps {
			for range 1 + r.IntN(3) {
				randomEvent(r, o, x, step)
			}
			if r.IntN(10) == 0 { // as the audit does
				x.Synchronize(many(o))
			}
			for name, svc := range x.Take().Services {
				if before := current[name]; before == svc || before != nil && svc != nil && cmp.Equal(before, svc, cmp.Comparer(sameAddr)) {
					t.Fatalf("cluster %d, step %d: %s has not changed", n, step, name)
				}
				if current[name] = svc; svc == nil {
					delete(current, name)
				}
			}
			want := map[types.NamespacedName]*decision.Service{}
			snapshot := o.Snapshot("node1", nil)
			for i := range snapshot.Services {
				want[snapshot.Services[i].Name] = &snapshot.Services[i]
			}
			if diff := cmp.Diff(want, current, cmp.Comparer(sameAddr), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("cluster %d, step %d: Services (-want +got):\n%s", n, step, diff)
			}
		}
	}
}

// TestServed: an address is served from when its Service both shows it and has an endpoint of its family. A claim, a second endpoint and a Service that
// shares the address make nothing new.
func TestServed(t *testing.T) {
	x := NewIndex()
	web, shown := published("web"), published("web", "192.0.2.1", "2001:db8:c::1")
	ready := func(af discoveryv1.AddressType, nodes ...string) *discoveryv1.EndpointSlice {
		var endpoints []discoveryv1.Endpoint
		for _, node := range nodes {
			endpoints = append(endpoints, endpoint(node, "+", "+", "-"))
		}
		slice := endpointSlice(af, "web", endpoints...)
		slice.Name = "web-" + string(af)
		return &slice
	}
	claim4, claim6 := claimFor("web", "192.0.2.1", "pool"), claimFor("web", "2001:db8:c::1", "pool")
	for _, step := range []struct {
		name   string
		object any
		gone   bool
		want   string
	}{
		{name: "a Service without an address", object: &web},
		{name: "an IPv4 endpoint", object: ready("IPv4", "node1")},
		{name: "a claim", object: &claim4},
		{name: "the other claim", object: &claim6},
		{name: "the addresses are shown", object: &shown, want: "192.0.2.1"},
		{name: "another endpoint", object: ready("IPv4", "node1", "node2")},
		{name: "the first IPv6 endpoint", object: ready("IPv6", "node1"), want: "2001:db8:c::1"},
		{name: "the claim goes", object: &claim4, gone: true},
		{name: "the address is adopted", object: &claim4},
		{name: "no endpoint", object: ready("IPv4")},
		{name: "an endpoint again", object: ready("IPv4", "node2"), want: "192.0.2.1"},
		{name: "the Service goes", object: &shown, gone: true},
	} {
		tell(x, step.object, !step.gone)
		var got []string
		for _, ip := range x.Take().Served {
			got = append(got, ip.String())
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("%s: %v are served, want %q", step.name, got, step.want)
		}
	}
}

// randomEvent creates, changes or deletes an object, in the lists and in the Index.
func randomEvent(r *rand.Rand, o *Objects, x *Index, step int) {
	name, node := fmt.Sprint("svc", r.IntN(4)), fmt.Sprint("node", r.IntN(3))
	address := []string{fmt.Sprint("198.51.100.", r.IntN(4)), fmt.Sprint("2001:db8::", r.IntN(3))}[r.IntN(2)]
	exists := r.IntN(4) > 0
	meta := func(m *metav1.ObjectMeta, name string) {
		m.Name, m.ResourceVersion = name, fmt.Sprint(step, "-", r.Uint32())
	}
	switch r.IntN(4) {
	case 0:
		svc := published(name, []string{address, "198.51.100.1"}[:r.IntN(3)]...)
		if r.IntN(5) == 0 {
			svc.Spec.Type = corev1.ServiceTypeClusterIP
		}
		meta(&svc.ObjectMeta, name)
		put(&o.Services.Items, svc, func(a *corev1.Service) string { return a.Name }, exists)
		tell(x, &svc, exists)
	case 1:
		slice := endpointSlice([]discoveryv1.AddressType{"IPv4", "IPv6"}[r.IntN(2)], name, endpoint(node, []string{"+", "-"}[r.IntN(2)], "+", "+"))
		meta(&slice.ObjectMeta, fmt.Sprint(name, "-", r.IntN(2)))
		put(&o.EndpointSlices.Items, slice, func(a *discoveryv1.EndpointSlice) string { return a.Name }, exists)
		tell(x, &slice, exists)
	case 2:
		c := claim(address, []string{ipamv1alpha1.ManagedBy, "someone"}[min(1, r.IntN(8)/7)], fmt.Sprint("pool", r.IntN(2)))
		c.Spec.ParentRef = &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: name}
		if r.IntN(3) == 0 {
			c.Annotations = map[string]string{ipamv1alpha1.AnnotationSharers: fmt.Sprintf(`{"default/svc%d":["TCP/80"]}`, r.IntN(4))}
		}
		meta(&c.ObjectMeta, address)
		put(&o.Claims.Items, c, func(a *networkingv1.IPAddress) string { return a.Name }, exists)
		tell(x, &c, exists)
	case 3:
		a := v1alpha1.L2Announcement{
			Service: v1alpha1.ServiceReference{Namespace: "default", Name: name},
			Status:  v1alpha1.L2AnnouncementStatus{Node: node, Addresses: []string{address}},
		}
		meta(&a.ObjectMeta, "default."+name)
		put(&o.Announcements.Items, a, func(a *v1alpha1.L2Announcement) string { return a.Name }, exists)
		tell(x, &a, exists)
	}
}

// many returns those of the objects of which there are thousands. They may be changed no more.
func many(o *Objects) (m Many) {
	m.Services = pointers(slices.Clone(o.Services.Items))
	m.EndpointSlices = pointers(slices.Clone(o.EndpointSlices.Items))
	m.Claims = pointers(slices.Clone(o.Claims.Items))
	m.Announcements = pointers(slices.Clone(o.Announcements.Items))
	return m
}

func pointers[T any](items []T) (all []*T) {
	for i := range items {
		all = append(all, &items[i])
	}
	return all
}

// put puts an object into a list in the place of one with its name, or removes that.
func put[T any](list *[]T, object T, name func(*T) string, exists bool) {
	*list = slices.DeleteFunc(slices.Clone(*list), func(other T) bool { return name(&other) == name(&object) })
	if exists {
		*list = append(*list, object)
	}
}

func tell(x *Index, object any, exists bool) {
	if exists {
		x.Put(object)
	} else {
		x.Delete(object)
	}
}

// BenchmarkIndex is the reading of one EndpointSlice that has changed, among ten thousand dual-stack Services.
func BenchmarkIndex(b *testing.B) {
	o := large()
	x := NewIndex()
	x.Synchronize(many(o))
	x.Take()
	variants := []*discoveryv1.EndpointSlice{&o.EndpointSlices.Items[100], o.EndpointSlices.Items[100].DeepCopy()}
	variants[1].Endpoints = nil
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if x.Put(variants[i%2]); len(x.Take().Services) != 1 {
			b.Fatal("an endpoint has come or gone, and no Service has changed")
		}
	}
}
