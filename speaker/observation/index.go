// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// An Index keeps what the API says of Services, and finds out which of them are others when an object changes. Its Services are those of
// [Objects.Snapshot]. The objects are Services, EndpointSlices, claims and L2Announcements, of which there are thousands. For example an
// EndpointSlice of web changes: web is read anew, with its claims and its record. Nothing is read of any other Service, and if the usable
// endpoints are the same as before, web has not changed.
//
// One goroutine uses it. It refers to the objects, which may not be changed. What an address or a Service has one or two of is a slice: a map
// of one element takes ten times the memory.
type Index struct {
	services   map[types.NamespacedName]*corev1.Service // of type LoadBalancer
	publishers map[netip.Addr][]types.NamespacedName    // the Services whose status shows an address
	slices     map[types.NamespacedName][]*discoveryv1.EndpointSlice
	claims     map[netip.Addr]*networkingv1.IPAddress // of any manager
	owned      map[types.NamespacedName][]netip.Addr
	records    map[types.NamespacedName]*v1alpha1.L2Announcement

	dirty   map[types.NamespacedName]bool // whose objects have changed since the latest Take
	touched map[netip.Addr]bool           // whose claims have come or gone since then
	current map[types.NamespacedName]*decision.Service
}

// Many are the objects of the kinds of which there are thousands.
type Many struct {
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	Claims         []*networkingv1.IPAddress // of any manager
	Announcements  []*v1alpha1.L2Announcement
}

// NewIndex returns an Index of nothing.
func NewIndex() *Index {
	return &Index{
		services: map[types.NamespacedName]*corev1.Service{}, publishers: map[netip.Addr][]types.NamespacedName{},
		slices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
		claims: map[netip.Addr]*networkingv1.IPAddress{}, owned: map[types.NamespacedName][]netip.Addr{},
		records: map[types.NamespacedName]*v1alpha1.L2Announcement{},
		dirty:   map[types.NamespacedName]bool{}, touched: map[netip.Addr]bool{}, current: map[types.NamespacedName]*decision.Service{},
	}
}

// A Difference is what has changed in an Index from one Take to the next.
type Difference struct {
	// Services are those that are others than before, each as it is now, nil for one that publishes no address any more.
	Services map[types.NamespacedName]*decision.Service
	// Names are those of all Services of which an object has changed, whether it makes a difference or not.
	Names []types.NamespacedName
	// Claimed are the addresses whose claims have come or gone.
	Claimed []netip.Addr
	// Served are the addresses to which kube-proxies begin to forward: a Service shows one that it did not show, or has its first usable endpoint of the
	// family. A claim makes no difference, since they do not look at it: an address that is adopted was served before.
	Served []netip.Addr
}

// Put takes in an object as it is now. An object of another kind is ignored.
func (x *Index) Put(obj any) {
	switch o := obj.(type) {
	case *corev1.Service:
		name := nameOf(o)
		x.publish(name, false)
		if delete(x.services, name); o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			x.services[name] = o
		}
		x.publish(name, true)
		x.dirty[name] = true
	case *discoveryv1.EndpointSlice:
		name, ok := serviceOf(o)
		if !ok {
			return
		}
		x.dropSlice(name, o.Name)
		x.slices[name] = append(x.slices[name], o)
		x.dirty[name] = true
	case *networkingv1.IPAddress:
		x.claim(o, true)
	case *v1alpha1.L2Announcement:
		name := types.NamespacedName{Namespace: o.Service.Namespace, Name: o.Service.Name}
		x.records[name] = o
		x.dirty[name] = true
	}
}

// Delete takes in that an object is gone.
func (x *Index) Delete(obj any) {
	switch o := obj.(type) {
	case *corev1.Service:
		name := nameOf(o)
		x.publish(name, false)
		delete(x.services, name)
		x.dirty[name] = true
	case *discoveryv1.EndpointSlice:
		name, _ := serviceOf(o)
		x.dropSlice(name, o.Name)
		x.dirty[name] = true
	case *networkingv1.IPAddress:
		x.claim(o, false)
	case *v1alpha1.L2Announcement:
		name := types.NamespacedName{Namespace: o.Service.Namespace, Name: o.Service.Name}
		if known := x.records[name]; known != nil && known.Name == o.Name {
			delete(x.records, name)
		}
		x.dirty[name] = true
	}
}

// slice returns the EndpointSlice of a Service that has a name, nil if there is none.
func (x *Index) slice(service types.NamespacedName, name string) *discoveryv1.EndpointSlice {
	for _, slice := range x.slices[service] {
		if slice.Name == name {
			return slice
		}
	}
	return nil
}

// dropSlice takes an EndpointSlice off its Service.
func (x *Index) dropSlice(service types.NamespacedName, name string) {
	if old := x.slice(service, name); old != nil {
		drop(x.slices, service, old)
	}
}

// drop takes a value out of the slice of a key, and the key with the last one.
func drop[K, V comparable](all map[K][]V, key K, value V) {
	rest := slices.DeleteFunc(all[key], func(v V) bool { return v == value })
	if all[key] = rest; len(rest) == 0 {
		delete(all, key)
	}
}

// publish adds a Service to the publishers of the addresses in its status, or takes it off.
func (x *Index) publish(name types.NamespacedName, is bool) {
	svc := x.services[name]
	if svc == nil {
		return
	}
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		address, err := netip.ParseAddr(ingress.IP)
		switch {
		case err != nil:
		case !is:
			drop(x.publishers, address, name)
		case !slices.Contains(x.publishers[address], name):
			x.publishers[address] = append(x.publishers[address], name)
		}
	}
}

// claim takes in a claim that exists, or is gone.
func (x *Index) claim(claim *networkingv1.IPAddress, exists bool) {
	address, err := netip.ParseAddr(claim.Name)
	if err != nil {
		return
	}
	old := x.claims[address]
	if old != nil {
		for name := range namedBy(old) {
			drop(x.owned, name, address)
			x.dirty[name] = true
		}
		delete(x.claims, address)
	}
	if exists {
		x.claims[address] = claim
		for name := range namedBy(claim) {
			x.owned[name] = append(x.owned[name], address)
			x.dirty[name] = true
		}
	}
	for _, name := range x.publishers[address] {
		x.dirty[name] = true
	}
	if exists != (old != nil) {
		x.touched[address] = true
	}
}

// Take returns what has changed since the latest Take.
func (x *Index) Take() Difference {
	d := Difference{
		Services: map[types.NamespacedName]*decision.Service{}, Names: slices.Collect(maps.Keys(x.dirty)), Claimed: slices.Collect(maps.Keys(x.touched)),
	}
	// A map stays as large as it ever was, and so does what it takes to go through it: after the start there were all Services in it.
	x.dirty, x.touched = map[types.NamespacedName]bool{}, map[netip.Addr]bool{}
	for _, name := range d.Names {
		before, now := x.current[name], x.observe(name)
		if before == nil && now == nil || before != nil && now != nil && reflect.DeepEqual(before, now) {
			continue
		}
		if d.Services[name] = now; now == nil {
			delete(x.current, name)
			continue
		}
		for _, address := range now.Addresses {
			if serves(now, address.IP) && !serves(before, address.IP) {
				d.Served = append(d.Served, address.IP)
			}
		}
		x.current[name] = now
	}
	return d
}

// serves reports whether kube-proxies forward what comes for an address of a Service, which may be nil.
func serves(svc *decision.Service, ip netip.Addr) bool {
	return svc != nil && svc.Endpoints[family.Of(ip)].Any &&
		(slices.Contains(svc.Unclaimed, ip) || slices.ContainsFunc(svc.Addresses, func(a decision.Address) bool { return a.IP == ip }))
}

// observe returns a Service as decisions take it, nil if it publishes no address.
func (x *Index) observe(name types.NamespacedName) *decision.Service {
	svc := x.services[name]
	if svc == nil {
		return nil
	}
	owned := func() []decision.Address {
		var addresses []decision.Address
		for _, ip := range x.owned[name] {
			if pool, ours := x.pool(ip); ours {
				addresses = append(addresses, decision.Address{IP: ip, Pool: pool})
			}
		}
		slices.SortFunc(addresses, func(a, b decision.Address) int { return a.IP.Compare(b.IP) })
		return addresses
	}
	observed, ok := observedService(svc, x.pool, owned, usableEndpoints(x.slices[name]), x.records[name])
	if !ok {
		return nil
	}
	return &observed
}

// pool returns the pool of an address, and whether a claim of ours stands for it.
func (x *Index) pool(ip netip.Addr) (string, bool) {
	claim := x.claims[ip]
	if claim == nil || claim.Labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy {
		return "", false
	}
	return claim.Labels[ipamv1alpha1.LabelAddressPool], true
}

// Claimed reports whether a claim has an address. Such an address is a Service's, and never a node's own.
func (x *Index) Claimed(ip netip.Addr) bool { return x.claims[ip] != nil }

// LoadBalancers returns the Services of type LoadBalancer by name, whether they publish an address or not. The caller must not change the
// map.
func (x *Index) LoadBalancers() map[types.NamespacedName]*corev1.Service { return x.services }

// Record returns the L2Announcement of a Service, nil if there is none.
func (x *Index) Record(service types.NamespacedName) *v1alpha1.L2Announcement {
	return x.records[service]
}

// Records returns all L2Announcements.
func (x *Index) Records() iter.Seq[*v1alpha1.L2Announcement] { return maps.Values(x.records) }

// Publishers returns the Services whose status shows an address.
func (x *Index) Publishers(ip netip.Addr) iter.Seq[types.NamespacedName] {
	return slices.Values(x.publishers[ip])
}

// Synchronize takes in all objects of the four kinds as they are. What the Index has already, by their resource versions, it leaves alone.
func (x *Index) Synchronize(o Many) {
	services := make(map[types.NamespacedName]bool, len(x.services))
	for _, svc := range o.Services {
		known := x.services[nameOf(svc)]
		if known == nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer || known != nil && !same(known, svc) {
			x.Put(svc)
		}
		services[nameOf(svc)] = svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	}
	for name, svc := range x.services {
		if !services[name] {
			x.Delete(svc)
		}
	}
	x.synchronizeSlices(o.EndpointSlices)
	claims := make(map[netip.Addr]bool, len(x.claims))
	for _, claim := range o.Claims {
		address, err := netip.ParseAddr(claim.Name)
		claims[address] = err == nil
		if known := x.claims[address]; err == nil && (known == nil || !same(known, claim)) {
			x.Put(claim)
		}
	}
	for address, claim := range x.claims {
		if !claims[address] {
			x.Delete(claim)
		}
	}
	records := make(map[string]bool, len(x.records))
	for _, a := range o.Announcements {
		records[a.Name] = true
		if known := x.records[types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}]; known == nil || !same(known, a) {
			x.Put(a)
		}
	}
	for _, a := range x.records {
		if !records[a.Name] {
			x.Delete(a)
		}
	}
}

// synchronizeSlices does what Synchronize does with EndpointSlices.
func (x *Index) synchronizeSlices(all []*discoveryv1.EndpointSlice) {
	type sliceName struct {
		service types.NamespacedName
		name    string
	}
	present := make(map[sliceName]bool, 2*len(x.slices))
	for _, slice := range all {
		service, _ := serviceOf(slice)
		present[sliceName{service, slice.Name}] = true
		if known := x.slice(service, slice.Name); known == nil || !same(known, slice) {
			x.Put(slice)
		}
	}
	for service, of := range x.slices {
		for _, slice := range slices.Clone(of) {
			if !present[sliceName{service, slice.Name}] {
				x.Delete(slice)
			}
		}
	}
}

// same reports whether two objects of one name are the same version: the API server gives no version twice.
func same(a, b metav1.Object) bool {
	return a.GetResourceVersion() == b.GetResourceVersion() && a.GetResourceVersion() != ""
}
