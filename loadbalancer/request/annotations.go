// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// meaning is what an annotation asks for.
type meaning int

const (
	fixed      meaning = iota // certain addresses
	pools                     // pools to take addresses from
	sharingKey                // an address in common with Services of the same key
	shareWith                 // consent to share with other namespaces
)

// spelling is an annotation of ours, or of another product, that is read as if it were ours. For example, a Service that came from
// MetalLB has metallb.io/address-pool: lan, and gets an address of the AddressPool lan.
type spelling struct {
	meaning meaning
	name    string
	product Product // "" where the annotation is ours
	// dormant annotations count only while the Service has no address. Clusters that have left a product still carry its annotations, and
	// what nobody has followed for years must not move a Service.
	dormant bool
}

// spellings are all annotations by which a Service asks for addresses. Of two with one meaning the earlier counts.
var spellings = []spelling{
	{meaning: fixed, name: v1alpha1.AnnotationLoadBalancerIPs},
	{meaning: fixed, name: v1alpha1.MetalLBAnnotationLoadBalancerIPs, product: MetalLB},
	{meaning: fixed, name: v1alpha1.MetalLBLegacyAnnotationLoadBalancerIPs, product: MetalLB},
	{meaning: fixed, name: v1alpha1.KubeVIPAnnotationLoadBalancerIPs, product: KubeVIP, dormant: true},
	{meaning: fixed, name: v1alpha1.CiliumAnnotationIPs, product: Cilium, dormant: true},
	{meaning: fixed, name: v1alpha1.CiliumLegacyAnnotationIPs, product: Cilium, dormant: true},

	{meaning: pools, name: v1alpha1.AnnotationAddressPool},
	{meaning: pools, name: v1alpha1.MetalLBAnnotationAddressPool, product: MetalLB},
	{meaning: pools, name: v1alpha1.MetalLBLegacyAnnotationAddressPool, product: MetalLB},

	{meaning: sharingKey, name: v1alpha1.AnnotationAllowSharedIP},
	{meaning: sharingKey, name: v1alpha1.MetalLBAnnotationAllowSharedIP, product: MetalLB},
	{meaning: sharingKey, name: v1alpha1.MetalLBLegacyAnnotationAllowSharedIP, product: MetalLB},
	{meaning: sharingKey, name: v1alpha1.CiliumAnnotationSharingKey, product: Cilium},
	{meaning: sharingKey, name: v1alpha1.CiliumLegacyAnnotationSharingKey, product: Cilium},

	{meaning: shareWith, name: v1alpha1.AnnotationShareWithNamespaces},
	{meaning: shareWith, name: v1alpha1.CiliumAnnotationSharingCrossNamespace, product: Cilium},
	{meaning: shareWith, name: v1alpha1.CiliumLegacyAnnotationSharingCrossNamespace, product: Cilium},
}

// Product is a load balancer whose annotations on Services are understood.
type Product string

// Products.
const (
	MetalLB Product = "metallb"
	KubeVIP Product = "kube-vip"
	Cilium  Product = "cilium"
)

// Products is a list of products, and the value of a flag.
type Products []Product

// AllProducts are all that there are.
var AllProducts = Products{MetalLB, KubeVIP, Cilium}

// String joins the products with commas.
func (p *Products) String() string {
	var names []string
	for _, product := range *p {
		names = append(names, string(product))
	}
	return strings.Join(names, ",")
}

// Set reads products separated by commas; "" is none.
func (p *Products) Set(text string) error {
	*p = nil
	for name := range strings.SplitSeq(text, ",") {
		product := Product(strings.TrimSpace(name))
		switch {
		case product == "":
		case !slices.Contains(AllProducts, product):
			return fmt.Errorf("%q is none of %s", product, AllProducts.String())
		default:
			*p = append(*p, product)
		}
	}
	return nil
}

// Type names the type in the help of the flag.
func (p *Products) Type() string { return "products" }

// CrossNamespaceSharing says when Services of several namespaces may share an address, and is the value of a flag.
type CrossNamespaceSharing string

// Values of CrossNamespaceSharing.
const (
	// Deny lets no Services of two namespaces share.
	Deny CrossNamespaceSharing = "Deny"
	// OptIn lets them share where both name the namespace of the other.
	OptIn CrossNamespaceSharing = "OptIn"
	// Allow is OptIn, and takes a sharing key that is spelled as MetalLB's for the consent to all namespaces, as MetalLB does.
	Allow CrossNamespaceSharing = "Allow"
)

// String returns the value.
func (c *CrossNamespaceSharing) String() string { return string(*c) }

// Set reads a value.
func (c *CrossNamespaceSharing) Set(text string) error {
	if *c = CrossNamespaceSharing(text); *c != Deny && *c != OptIn && *c != Allow {
		return fmt.Errorf("%q is none of %s, %s, %s", text, Deny, OptIn, Allow)
	}
	return nil
}

// Type names the type in the help of the flag.
func (c *CrossNamespaceSharing) Type() string { return "Deny|OptIn|Allow" }

// Rules are what an administrator decides about annotations for the whole cluster.
type Rules struct {
	// Honour are the products whose annotations count.
	Honour Products
	// CrossNamespace is OptIn where it is "".
	CrossNamespace CrossNamespaceSharing
}

// honoured reports whether the annotation counts.
func (r Rules) honoured(s spelling) bool {
	return s.product == "" || slices.Contains(r.Honour, s.product)
}

// find returns the comma-separated values of the first annotation with a meaning that the Service has and that counts. has says that the
// Service has an address. For example, a Service has kube-vip.io/loadbalancerIPs: 192.0.2.9. It asks for that address as long as it has
// none; once it has 192.0.2.5, the annotation is dormant, and there are no values.
func (r Rules) find(svc *corev1.Service, m meaning, has bool) (values []string, found spelling) {
	for _, s := range spellings {
		text, ok := svc.Annotations[s.name]
		if asleep := s.dormant && has; ok && s.meaning == m && r.honoured(s) && !asleep {
			return valuesOf(text), s
		}
	}
	return nil, spelling{}
}

// valuesOf splits the value of an annotation at commas.
func valuesOf(text string) (values []string) {
	for value := range strings.SplitSeq(text, ",") {
		if value = strings.TrimSpace(value); value != "" {
			values = append(values, value)
		}
	}
	return values
}

// fixedAddresses returns the addresses that the Service asks for by annotation or in spec.loadBalancerIP.
func (r Rules) fixedAddresses(svc *corev1.Service, has bool) ([]netip.Addr, error) {
	texts, found := r.find(svc, fixed, has)
	source := "annotation " + found.name
	if ip := svc.Spec.LoadBalancerIP; len(texts) == 0 && ip != "" {
		texts, source = []string{ip}, "spec.loadBalancerIP"
	}
	return parseAddresses(texts, source, found)
}

// parseAddresses reads addresses. An error begins with source, which is what the user has to change.
func parseAddresses(texts []string, source string, s spelling) (addresses []netip.Addr, err error) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%s: %q is not an IP address", source, text)
		}
		if s.product == KubeVIP && a.IsUnspecified() {
			continue // It asks for an address from DHCP.
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// Ignored returns a text for each annotation of another product that asks for an address other than the one that the Service shows. For
// example, a Service that came from Cilium with 192.0.2.1 still has the annotation lbipam.cilium.io/ips: 192.0.2.9, which does not count
// as long as the Service has an address.
func (r Rules) Ignored(svc *corev1.Service, shows []netip.Addr) (texts []string) {
	_, counts := r.find(svc, fixed, len(shows) > 0)
	for _, s := range spellings {
		text, ok := svc.Annotations[s.name]
		if !ok || s.meaning != fixed || s.product == "" || !r.honoured(s) {
			continue
		}
		addresses, err := parseAddresses(valuesOf(text), "", s)
		if err != nil {
			continue // Where it counts, the request has failed for it.
		}
		for _, a := range addresses {
			other := func(shown netip.Addr) bool { return family.Of(shown) == family.Of(a) }
			i := slices.IndexFunc(shows, other)
			if i < 0 || slices.Contains(shows, a) {
				continue
			}
			why := "the Service moves if it can, since the annotation counts; remove it if it is a leftover"
			switch {
			case s.dormant:
				why = fmt.Sprintf("the annotation does not count while the Service has an address; remove it, "+
					"or write %s: %s to move the Service", v1alpha1.AnnotationLoadBalancerIPs, a)
			case s != counts:
				why = fmt.Sprintf("%s counts instead; remove the other annotation", counts.name)
			}
			texts = append(texts, fmt.Sprintf("annotation %s asks for %s, and the Service has %s: %s", s.name, a, shows[i], why))
		}
	}
	return texts
}

// SharingOf returns the key, the ports, the endpoints and the consents of a Service, which decide which other Services the Service may
// share an address with. What is wrong with the consents it leaves out; New names it.
//
// With externalTrafficPolicy Local, only nodes with an endpoint get traffic of an address, so that two Services can share one if their
// endpoints are the same: web and mail of the namespace shop, both with the selector app=front, have the Backends "shop/app=front".
func (r Rules) SharingOf(svc *corev1.Service) ipam.Sharing {
	keys, key := r.find(svc, sharingKey, false)
	s := ipam.Sharing{Key: strings.Join(keys, ","), Namespace: svc.Namespace, OwnNamespaceOnly: r.CrossNamespace == Deny}
	s.Consents, _ = r.consents(svc)
	if r.CrossNamespace == Allow && key.product == MetalLB {
		s.Consents = []string{ipam.AnyNamespace}
	}
	for _, port := range svc.Spec.Ports {
		s.Ports = append(s.Ports, ipam.Port{Protocol: string(port.Protocol), Number: port.Port})
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		// Without a selector the endpoints are the Service's own.
		if s.Backends = svc.Namespace + "/" + svc.Name; len(svc.Spec.Selector) > 0 {
			s.Backends = svc.Namespace + "/" + labels.Set(svc.Spec.Selector).String()
		}
	}
	return s
}

// consents returns the namespaces that the Service consents to share an address with, sorted. For example, shop/web names blog, and
// blog/web names shop: the two may be on 192.0.2.1. Where one of them names nobody, they are not.
func (r Rules) consents(svc *corev1.Service) (namespaces []string, err error) {
	values, found := r.find(svc, shareWith, false)
	for _, value := range values {
		switch {
		case value == ipam.AnyNamespace && found.product == Cilium, len(validation.IsDNS1123Label(value)) == 0:
			namespaces = append(namespaces, value)
		default:
			err = fmt.Errorf("annotation %s: %q is not the name of a namespace; name each that the Service may share an address with",
				found.name, value)
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), err
}
