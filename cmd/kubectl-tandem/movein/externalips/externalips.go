// SPDX-License-Identifier: Apache-2.0

// Package externalips finds Services with spec.externalIPs, says which of their addresses Tandem can adopt, and adopts them: the Service
// becomes a load balancer with the same address.
//
// Anybody who may create a Service can write any address into spec.externalIPs, and nodes then take the traffic for it (CVE-2020-8554). So
// an address is adopted only where the pool that has it consents (spec.adoptExternalIPs), where the Service may use that pool, and where
// nobody else has the address. For example, shop/web and blog/web both list 192.0.2.7: neither gets it until a person has decided.
package externalips

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam/selector"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Objects are the objects of a cluster that a Finding depends on.
type Objects struct {
	Services   []corev1.Service
	Nodes      []corev1.Node
	Namespaces []corev1.Namespace
	Claims     []networkingv1.IPAddress
	Pools      []v1alpha1.AddressPool
	Speakers   []speakerv1alpha1.SpeakerStatus
}

// A Finding is one external address of a Service.
type Finding struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Address   string `json:"address"`
	Pool      string `json:"pool,omitempty"` // the AddressPool that has the address
	// AnnouncedBy says who answers for the address now, as far as Kubernetes knows: "" for nobody.
	AnnouncedBy string `json:"announcedBy,omitempty"`
	// Refused says why the address cannot be adopted, and what to do; "" where it can.
	Refused string `json:"refused,omitempty"`
}

// Find returns a Finding for each address in spec.externalIPs, ordered by Service.
func Find(o *Objects) (findings []Finding) {
	compiled, _ := config.Compile(config.Objects{AddressPools: o.Pools})
	for i := range o.Services {
		svc := &o.Services[i]
		var families []bool
		var seen []netip.Addr
		for _, text := range svc.Spec.ExternalIPs {
			f := Finding{Namespace: svc.Namespace, Name: svc.Name, Address: text}
			a, err := netip.ParseAddr(text)
			if err != nil {
				f.Refused = "it is no address"
				findings = append(findings, f)
				continue
			}
			if a = a.Unmap(); slices.Contains(seen, a) {
				continue // It is there twice.
			}
			seen = append(seen, a)
			for _, name := range pools(o) {
				if compiled.Pools[name] != nil && compiled.Pools[name].Contains(a) && f.Pool == "" {
					f.Pool = name
				}
			}
			f.AnnouncedBy = announcer(o, svc, a)
			f.Refused = cmp.Or(kind(svc), family(svc, a), second(families, a), rival(o, svc, a), permission(o, svc, f.Pool))
			if f.Refused == "" {
				families = append(families, a.Is4())
			}
			findings = append(findings, f)
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return findings
}

// pools returns the names of the pools, sorted.
func pools(o *Objects) (names []string) {
	for i := range o.Pools {
		names = append(names, o.Pools[i].Name)
	}
	slices.Sort(names)
	return names
}

// kind says why a Service can be no load balancer of ours.
func kind(svc *corev1.Service) string {
	switch {
	case svc.DeletionTimestamp != nil:
		return "the Service is being deleted"
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return "the Service is headless (clusterIP None), and no load balancer can be; make a second Service with the same selector and a cluster IP"
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return "the Service is a name (type ExternalName) and has no endpoints"
	case svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass != nil &&
		*svc.Spec.LoadBalancerClass != v1alpha1.LoadBalancerClass:
		return "the Service is a load balancer of class " + *svc.Spec.LoadBalancerClass
	case svc.Spec.Type == corev1.ServiceTypeLoadBalancer && len(svc.Status.LoadBalancer.Ingress) > 0:
		return "the Service is a load balancer with another address already; make a second Service with the same selector"
	}
	return ""
}

// family says that a Service has nothing of the family of an address, which nodes then take no traffic for either.
func family(svc *corev1.Service, a netip.Addr) string {
	want := corev1.IPv4Protocol
	if a.Is6() {
		want = corev1.IPv6Protocol
	}
	if len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, want) {
		return ""
	}
	return fmt.Sprintf("the Service has no %s, so that nodes take no traffic for it: set spec.ipFamilyPolicy to PreferDualStack", want)
}

// sharing reports whether two Services of one namespace may share an address, since both have the same key for it.
func sharing(a, b *corev1.Service) bool {
	key := a.Annotations[v1alpha1.AnnotationAllowSharedIP]
	return key != "" && a.Namespace == b.Namespace && key == b.Annotations[v1alpha1.AnnotationAllowSharedIP]
}

// second says that the Service has an address of the family.
func second(families []bool, a netip.Addr) string {
	if slices.Contains(families, a.Is4()) {
		return "a Service has one address of each family; make a second Service with the same selector"
	}
	return ""
}

// rival says who else has the address.
func rival(o *Objects, svc *corev1.Service, a netip.Addr) string {
	if node := nodeWith(o, a); node != "" {
		return fmt.Sprintf("it is an address of node %s, which nobody but the node can have; take a free address", node)
	}
	if where := interfaceWith(o, a); where != "" {
		return fmt.Sprintf("it is on %s, and Tandem gives no Service what a node has: take it off the interface (keepalived, say), and adopt at once", where)
	}
	for i := range o.Claims {
		claim := &o.Claims[i]
		parent := claim.Spec.ParentRef
		if claim.Name == a.String() && (parent == nil || parent.Namespace != svc.Namespace || parent.Name != svc.Name && !sharing(svc, named(o, parent))) {
			whose := "another object"
			if parent != nil {
				whose = parent.Namespace + "/" + parent.Name
			}
			return fmt.Sprintf("%s has it (IPAddress %s)", whose, claim.Name)
		}
	}
	for i := range o.Services {
		other := &o.Services[i]
		if other.Namespace == svc.Namespace && other.Name == svc.Name {
			continue
		}
		external := slices.ContainsFunc(other.Spec.ExternalIPs, func(text string) bool { return same(text, a) })
		published := slices.ContainsFunc(other.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			return same(i.IP,
				a)
		})
		switch {
		case !external && !published, sharing(svc, other):
		case other.Namespace == svc.Namespace:
			return fmt.Sprintf("Service %s/%s has it too; if they are to share it, give both the same annotation %s", other.Namespace, other.Name,
				v1alpha1.AnnotationAllowSharedIP)
		default:
			return fmt.Sprintf("Service %s/%s has it too; decide whose it is, and take it away from the other", other.Namespace, other.Name)
		}
	}
	return ""
}

// named returns the Service that a claim is of, an empty one if there is none.
func named(o *Objects, parent *networkingv1.ParentReference) *corev1.Service {
	i := slices.IndexFunc(o.Services, func(s corev1.Service) bool { return s.Namespace == parent.Namespace && s.Name == parent.Name })
	if i < 0 {
		return &corev1.Service{}
	}
	return &o.Services[i]
}

func same(text string, a netip.Addr) bool {
	other, err := netip.ParseAddr(text)
	return err == nil && other.Unmap() == a
}

// nodeWith returns the name of the Node that has the address, "" if none has.
func nodeWith(o *Objects, a netip.Addr) string {
	for i := range o.Nodes {
		if slices.ContainsFunc(o.Nodes[i].Status.Addresses, func(n corev1.NodeAddress) bool { return same(n.Address, a) }) {
			return o.Nodes[i].Name
		}
	}
	return ""
}

// interfaceWith returns the interface that the address is on as its node's speaker reports it, as "eth0 of node node1", "" for none. One that is claimed
// may be there for its Service.
func interfaceWith(o *Objects, a netip.Addr) string {
	if slices.ContainsFunc(o.Claims, func(c networkingv1.IPAddress) bool { return c.Name == a.String() }) {
		return ""
	}
	for i := range o.Speakers {
		for _, link := range o.Speakers[i].Status.Interfaces {
			if slices.ContainsFunc(link.Addresses, func(text string) bool {
				p, err := netip.ParsePrefix(text)
				return err == nil && p.Addr().Unmap() == a
			}) {
				return link.Name + " of node " + o.Speakers[i].Name
			}
		}
	}
	return ""
}

// announcer says who answers for an address, as far as Kubernetes knows.
func announcer(o *Objects, svc *corev1.Service, a netip.Addr) string {
	if node := nodeWith(o, a); node != "" {
		return "node " + node
	}
	if where := interfaceWith(o, a); where != "" {
		return where
	}
	if slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return same(i.IP, a) }) {
		return "the load balancer of the Service"
	}
	return ""
}

// permission says why a Service may not have an address of a pool by adoption.
func permission(o *Objects, svc *corev1.Service, name string) string {
	at := slices.IndexFunc(o.Pools, func(p v1alpha1.AddressPool) bool { return p.Name == name })
	if at < 0 {
		return "no AddressPool has it, or the one that does excludes it; add it to a pool with adoptExternalIPs: true"
	}
	spec := &o.Pools[at].Spec
	namespace := labels.Set{corev1.LabelMetadataName: svc.Namespace}
	for i := range o.Namespaces {
		if o.Namespaces[i].Name == svc.Namespace {
			namespace = labels.Merge(o.Namespaces[i].Labels, namespace)
		}
	}
	namespaces, errs := selector.Compile("namespaceSelectors", spec.NamespaceSelectors)
	services, more := selector.Compile("serviceSelectors", spec.ServiceSelectors)
	switch {
	case !spec.AdoptExternalIPs:
		return fmt.Sprintf("AddressPool %s does not consent; set adoptExternalIPs: true in its spec", name)
	case len(errs)+len(more) > 0:
		return fmt.Sprintf("AddressPool %s has selectors that cannot be read", name)
	case !namespaces.Matches(namespace) || !services.Matches(labels.Set(svc.Labels)):
		return fmt.Sprintf("AddressPool %s is not for this Service: its selectors do not match", name)
	case spec.FixedAddresses == v1alpha1.FixedAddressesDenied:
		return fmt.Sprintf("AddressPool %s lets no Service ask for a certain address (fixedAddresses: Denied)", name)
	}
	return ""
}
