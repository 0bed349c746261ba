// SPDX-License-Identifier: Apache-2.0

// Package request says what a Service asks for: it translates the Service, with the AddressPools and the labels of its namespace, into a
// request to the allocator. It also says which Services are ours, what a Service publishes, and with which others it may share. It is
// pure.
//
// For example, web in a namespace with the label team=a asks for both families, and the annotation tandem-lb.io/address-pool names no
// pool: [New] returns a request whose candidates are the pools with a selector that matches web, then those by priority, then those by
// name.
package request

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/selector"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// Served reports whether a Service is to have addresses from us. The load balancer class is not looked at: package provider shows us only
// Services that are ours without a class, and those of other providers with one.
func Served(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// CleanupIsOurs reports whether a Service is no load balancer any more and the service controller will not clean up after it, because its
// finalizer is gone. For example, web has 192.0.2.1, and a user removes the finalizer by hand and makes web a ClusterIP: nobody but us
// will release 192.0.2.1.
func CleanupIsOurs(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeLoadBalancer && !slices.Contains(svc.Finalizers, v1alpha1.Finalizer)
}

// FinalizerIsOurs reports whether the finalizer of a Service bears our mark, whatever the Service is now.
func FinalizerIsOurs(svc *corev1.Service) bool {
	return slices.Contains(svc.Finalizers, v1alpha1.Finalizer) && svc.Annotations[v1alpha1.AnnotationFinalizer] != ""
}

// OtherProvider reports whether a Service is another provider's load balancer. We may have served it, as where Services without a class
// were ours and are not any more.
func OtherProvider(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass != nil &&
		*svc.Spec.LoadBalancerClass != v1alpha1.LoadBalancerClass
}

// ServiceOf returns the name of a Service.
func ServiceOf(svc *corev1.Service) ipam.Service {
	return ipam.Service{Namespace: svc.Namespace, Name: svc.Name}
}

// Pool is an AddressPool made ready: its ranges parsed, its selectors compiled.
type Pool struct {
	ipam.Pool
	auto                bool
	priority            int32 // math.MaxInt32 where there is none
	namespaces, service selector.List
	restricted          bool // has a selector
	// Invalid names the fields that cannot be used, and is nil if there is none.
	Invalid error
}

// ParsePool never fails: what it cannot use it leaves out and names, with its field, in invalid, so that one bad range takes no other
// away. CEL has refused such pools before; this serves clusters whose CRD is older than the pool. For example, of the ranges 192.0.2.0/24
// and 192.0.2.300 the pool has the first one, and Invalid begins with "spec.ipv4.ranges[1]".
func ParsePool(ap *v1alpha1.AddressPool) Pool {
	p := Pool{
		Pool: ipam.Pool{
			Name:          ap.Name,
			AvoidBuggyIPs: ap.Spec.AvoidBuggyIPs,
			Stable:        ap.Spec.Allocation == v1alpha1.AllocationStable,
			PerNamespace:  perNamespace(ap.Spec.Limits),
			FixedDenied:   ap.Spec.FixedAddresses == v1alpha1.FixedAddressesDenied,
			ReuseAfter:    reuseAfter(ap),
		},
		auto:     ap.Spec.AutoAssign == nil || *ap.Spec.AutoAssign,
		priority: math.MaxInt32,
	}
	if ap.Spec.Priority != nil {
		p.priority = *ap.Spec.Priority
	}
	var errs []string
	parse := func(af family.Family, field string, texts []string) (ranges []ipam.Range) {
		for i, text := range texts {
			r, err := ipam.ParseRange(text)
			if err == nil && r.Family() != af {
				err = fmt.Errorf("%q is not %s", text, af)
			}
			if err != nil {
				errs = append(errs, fmt.Sprintf("%s[%d]: %v", field, i, err))
				continue
			}
			ranges = append(ranges, r)
		}
		return ranges
	}
	if v4 := ap.Spec.IPv4; v4 != nil {
		p.Ranges = append(p.Ranges, parse(family.IPv4, "spec.ipv4.ranges", stringsOf(v4.Ranges))...)
		p.Exclude = append(p.Exclude, parse(family.IPv4, "spec.ipv4.exclude", stringsOf(v4.Exclude))...)
	}
	if v6 := ap.Spec.IPv6; v6 != nil {
		p.Ranges = append(p.Ranges, parse(family.IPv6, "spec.ipv6.ranges", stringsOf(v6.Ranges))...)
		p.Exclude = append(p.Exclude, parse(family.IPv6, "spec.ipv6.exclude", stringsOf(v6.Exclude))...)
	}
	compile := func(field string, selectors []metav1.LabelSelector) selector.List {
		compiled, problems := selector.Compile(field, selectors)
		for _, err := range problems {
			errs = append(errs, err.Error())
		}
		return compiled
	}
	p.namespaces = compile("spec.namespaceSelectors", ap.Spec.NamespaceSelectors)
	p.service = compile("spec.serviceSelectors", ap.Spec.ServiceSelectors)
	p.restricted = len(p.namespaces) > 0 || len(p.service) > 0
	if len(errs) > 0 {
		p.Invalid = fmt.Errorf("%s", strings.Join(errs, "; "))
	}
	return p
}

func reuseAfter(ap *v1alpha1.AddressPool) time.Duration {
	if ap.Spec.ReuseAfter == nil {
		return 0
	}
	return ap.Spec.ReuseAfter.Duration
}

// perNamespace returns the limits of a pool by family. A family that spec.limits does not name has none.
func perNamespace(limits *v1alpha1.PoolLimits) map[family.Family]int {
	if limits == nil {
		return nil
	}
	most := map[family.Family]int{}
	for af, n := range map[family.Family]*int32{family.IPv4: limits.PerNamespace.IPv4, family.IPv6: limits.PerNamespace.IPv6} {
		if n != nil {
			most[af] = int(*n)
		}
	}
	return most
}

func stringsOf[S ~string](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

// matches reports whether the pool's selectors admit the Service.
func (p Pool) matches(svc *corev1.Service, namespace labels.Set) bool {
	return p.namespaces.Matches(namespace) && p.service.Matches(labels.Set(svc.Labels))
}

// Pools are all pools, in the order in which they are tried. It is safe for concurrent use.
type Pools struct {
	sorted              []Pool
	namespaces, service named // what the selectors of all pools name
	// admitting has the candidates, never changed, by what the selectors see of the labels. They are worked out once for
	// each: 10,000 waiting Services and 1,000 pools would otherwise be ten million matches.
	admitting sync.Map
}

// named is the values that selectors name, by the key of the label. To a selector all other values of a label are alike,
// as those of the labels of which it does not name the key. For example, where selectors name tier=edge and tier=core
// alone, the labels tier=test,app=web are to them like tier=lab,app=mail.
type named map[string]sets.Set[string]

// add adds what a list of selectors names.
func (n named) add(list selector.List) {
	for _, s := range list {
		requirements, _ := s.Requirements() // none where the selector matches nothing, or everything
		for _, r := range requirements {
			if n[r.Key()] == nil {
				n[r.Key()] = sets.New[string]()
			}
			n[r.Key()].Insert(r.ValuesUnsorted()...)
		}
	}
}

// seen returns labels as the selectors see them, with "*" for any value that none of them names.
func (n named) seen(set labels.Set) string {
	seen := labels.Set{}
	for key, value := range set {
		if values, names := n[key]; names && values.Has(value) {
			seen[key] = value
		} else if names {
			seen[key] = "*"
		}
	}
	return seen.String()
}

// NewPools orders pools as they are tried: those kept for certain Services before those for everyone, then by priority, then by
// name. MetalLB orders them the same way.
//
//	tried   pool   selectors   priority
//	first   edge   tier=edge
//	second  wan                10
//	third   lan                           a pool without a priority comes after all that have one
func NewPools(pools []Pool) *Pools {
	slices.SortFunc(pools, func(a, b Pool) int {
		if a.restricted != b.restricted {
			if a.restricted {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.Name, b.Name))
	})
	all := &Pools{sorted: pools, namespaces: named{}, service: named{}}
	for _, p := range pools {
		all.namespaces.add(p.namespaces)
		all.service.add(p.service)
	}
	return all
}

// candidates returns the pools that admit a Service, those without autoAssign among them: these give only addresses that are asked for.
func (p *Pools) candidates(svc *corev1.Service, namespace labels.Set) (candidates []ipam.Candidate) {
	key := p.namespaces.seen(namespace) + ";" + p.service.seen(svc.Labels)
	if known, ok := p.admitting.Load(key); ok {
		return known.([]ipam.Candidate)
	}
	for _, pool := range p.sorted {
		if pool.matches(svc, namespace) {
			candidates = append(candidates, ipam.Candidate{Pool: pool.Name, Auto: pool.auto})
		}
	}
	p.admitting.Store(key, candidates)
	return candidates
}

// New translates what the Service says into a request to the allocator. Errors name the annotation or field at fault.
// shows is what the Service shows its clients, and has says that it has an address, shown or not.
//
// For example, a Service with the annotation address-pool: "lan,wan" and ipFamilies IPv6, IPv4 asks for an address of each
// family from lan or wan, in this order, and is refused where one of the two does not exist or does not admit it. Without
// the annotation every pool that admits the Service is asked, in the order of [NewPools].
func (r Rules) New(svc *corev1.Service, known *Pools, namespace labels.Set, shows []netip.Addr, has bool) (ipam.Request, error) {
	req := ipam.Request{
		Service:    ServiceOf(svc),
		RequireAll: svc.Spec.IPFamilyPolicy == nil || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack,
		Reallocate: svc.Annotations[v1alpha1.AnnotationReallocate] == "true",
		Sharing:    r.SharingOf(svc),
		Published:  shows,
	}
	for _, af := range svc.Spec.IPFamilies {
		req.Families = append(req.Families, family.Family(af))
	}
	var err error
	if req.Addresses, err = r.fixedAddresses(svc, has); err != nil {
		return req, err
	}
	if _, err := r.consents(svc); err != nil {
		return req, err
	}
	names, found := r.find(svc, pools, has)
	if len(names) == 0 {
		req.Pools = known.candidates(svc, namespace)
		return req, nil
	}
	req.Named = true
	for _, name := range names {
		i := slices.IndexFunc(known.sorted, func(p Pool) bool { return p.Name == name })
		switch {
		case i < 0:
			return req, fmt.Errorf("annotation %s names AddressPool %q, which does not exist; create it or change the annotation", found.name, name)
		case !known.sorted[i].matches(svc, namespace):
			return req, fmt.Errorf("annotation %s names AddressPool %q, whose namespaceSelectors or serviceSelectors do not match this Service",
				found.name, name)
		}
		req.Pools = append(req.Pools, ipam.Candidate{Pool: name, Auto: true})
	}
	return req, nil
}

// Inherited returns the addresses in the Service's status, as they are before we have given it any. An address of a family for which
// Tandem's own annotation asks for another one is left out: a person has decided. The annotations of other products may be leftovers.
func Inherited(svc *corev1.Service) []netip.Addr {
	var asked []netip.Addr
	for _, text := range valuesOf(svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs]) {
		if a, err := netip.ParseAddr(text); err == nil {
			asked = append(asked, a)
		}
	}
	return slices.DeleteFunc(Published(svc), func(shown netip.Addr) bool {
		return !slices.Contains(asked, shown) &&
			slices.ContainsFunc(asked, func(a netip.Addr) bool { return family.Of(a) == family.Of(shown) })
	})
}

// Published returns the addresses in the Service's status.
func Published(svc *corev1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(ingress.IP); err == nil {
			addresses = append(addresses, a)
		}
	}
	return addresses
}
