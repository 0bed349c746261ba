// SPDX-License-Identifier: Apache-2.0

package request

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestFixedAddresses(t *testing.T) {
	const ours, metallb, legacy = "tandem-lb.io/load-balancer-ips", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"
	const kubeVIP, cilium, ciliumLegacy = "kube-vip.io/loadbalancerIPs", "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"
	loadBalancerIP := func(ip string) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = ip }
	}
	tests := []struct {
		name      string
		edits     []func(*corev1.Service)
		has       bool // the Service has an address
		want      string
		wantError string
	}{
		{name: "none asked for"},
		{name: "spec.loadBalancerIP", edits: []func(*corev1.Service){loadBalancerIP("192.0.2.1")}, want: "192.0.2.1"},
		{name: "an annotation wins over spec.loadBalancerIP", edits: []func(*corev1.Service){loadBalancerIP("192.0.2.1"), annotate(ours, "192.0.2.2")}, want: "192.0.2.2"},
		{name: "an empty annotation does not", edits: []func(*corev1.Service){loadBalancerIP("192.0.2.1"), annotate(ours, " ")}, want: "192.0.2.1"},
		{name: "ours wins over MetalLB's", edits: []func(*corev1.Service){annotate(legacy, "192.0.2.1"), annotate(metallb, "192.0.2.2"), annotate(ours, "192.0.2.3")}, want: "192.0.2.3"},
		{name: "MetalLB's newer one wins over its older one", edits: []func(*corev1.Service){annotate(legacy, "192.0.2.1"), annotate(metallb, "192.0.2.2")}, want: "192.0.2.2"},
		{name: "MetalLB's older one", edits: []func(*corev1.Service){annotate(legacy, "192.0.2.1,2001:db8::1")}, want: "192.0.2.1 2001:db8::1"},
		{name: "IPv6 in a long form", edits: []func(*corev1.Service){annotate(ours, "2001:0DB8:0:0::1")}, want: "2001:db8::1"},
		{name: "spec.loadBalancerIP is a name", edits: []func(*corev1.Service){loadBalancerIP("lb.example")}, wantError: `spec.loadBalancerIP: "lb.example" is not an IP address`},
		{name: "a list in spec.loadBalancerIP", edits: []func(*corev1.Service){loadBalancerIP("192.0.2.1,2001:db8::1")}, wantError: "spec.loadBalancerIP"},
		{name: "a range", edits: []func(*corev1.Service){annotate(ours, "192.0.2.1-192.0.2.9")}, wantError: "annotation " + ours},
		{name: "an address with a zone", edits: []func(*corev1.Service){annotate(ours, "fe80::1%eth0")}, wantError: "is not an IP address"},
		{name: "an IPv4-mapped address", edits: []func(*corev1.Service){annotate(ours, "::ffff:192.0.2.1")}, wantError: "is not an IP address"},
		{name: "kube-vip's", edits: []func(*corev1.Service){annotate(kubeVIP, "192.0.2.1,2001:db8::1")}, want: "192.0.2.1 2001:db8::1"},
		{name: "kube-vip's wish for DHCP", edits: []func(*corev1.Service){annotate(kubeVIP, "0.0.0.0")}},
		{name: "kube-vip's, where there is an address", edits: []func(*corev1.Service){annotate(kubeVIP, "192.0.2.1")}, has: true},
		{name: "kube-vip's nonsense, where there is an address", edits: []func(*corev1.Service){annotate(kubeVIP, "oops")}, has: true},
		{name: "kube-vip's nonsense", edits: []func(*corev1.Service){annotate(kubeVIP, "oops")}, wantError: "annotation " + kubeVIP + `: "oops"`},
		{name: "Cilium's", edits: []func(*corev1.Service){annotate(cilium, "192.0.2.1")}, want: "192.0.2.1"},
		{name: "Cilium's, where there is an address", edits: []func(*corev1.Service){annotate(cilium, "192.0.2.1")}, has: true},
		{name: "Cilium's older one", edits: []func(*corev1.Service){annotate(ciliumLegacy, "192.0.2.1")}, want: "192.0.2.1"},
		{name: "Cilium's newer one wins over its older one", edits: []func(*corev1.Service){annotate(ciliumLegacy, "192.0.2.1"), annotate(cilium, "192.0.2.2")}, want: "192.0.2.2"},
		{name: "kube-vip's wins over Cilium's", edits: []func(*corev1.Service){annotate(cilium, "192.0.2.1"), annotate(kubeVIP, "192.0.2.2")}, want: "192.0.2.2"},
		{name: "MetalLB's wins over kube-vip's", edits: []func(*corev1.Service){annotate(kubeVIP, "192.0.2.1"), annotate(legacy, "192.0.2.2")}, want: "192.0.2.2"},
		{name: "MetalLB's counts where there is an address", edits: []func(*corev1.Service){annotate(metallb, "192.0.2.1")}, has: true, want: "192.0.2.1"},
		{name: "spec.loadBalancerIP beside a dormant one", edits: []func(*corev1.Service){annotate(kubeVIP, "192.0.2.1"), loadBalancerIP("192.0.2.2")}, has: true, want: "192.0.2.2"},
		{name: "one wrong address among right ones", edits: []func(*corev1.Service){annotate(ours, "192.0.2.1,oops")}, wantError: `"oops"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rules.fixedAddresses(newService("web", require, "IPv4 IPv6", tt.edits...), tt.has)
			if tt.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantError) {
					t.Fatalf("got %v and error %v, want an error that says %q", got, err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(addrs(tt.want), got, compareAddr); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSharingOf(t *testing.T) {
	tcp80 := []ipam.Port{{Protocol: "TCP", Number: 80}}
	const ours, metallb, legacy = "tandem-lb.io/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"
	const cilium, ciliumLegacy = "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"
	const consent, ciliumConsent = "tandem-lb.io/share-with-namespaces", "lbipam.cilium.io/sharing-cross-namespace"
	with := func(edits ...func(*corev1.Service)) *corev1.Service {
		return newService("web", single, "IPv4", edits...)
	}
	tests := []struct {
		name  string
		svc   *corev1.Service
		rules Rules
		want  ipam.Sharing // of namespace default with port TCP/80 unless given
	}{
		{name: "no key", svc: with()},
		{name: "our key", svc: with(annotate(ours, "k")), want: ipam.Sharing{Key: "k"}},
		{name: "MetalLB's key", svc: with(annotate(metallb, "k")), want: ipam.Sharing{Key: "k"}},
		{name: "MetalLB's older key", svc: with(annotate(legacy, "k")), want: ipam.Sharing{Key: "k"}},
		{name: "Cilium's key", svc: with(annotate(cilium, "k")), want: ipam.Sharing{Key: "k"}},
		{name: "Cilium's older key", svc: with(annotate(ciliumLegacy, "k")), want: ipam.Sharing{Key: "k"}},
		{name: "our key wins", svc: with(annotate(metallb, "theirs"), annotate(ours, "ours")), want: ipam.Sharing{Key: "ours"}},
		{name: "MetalLB's key wins over Cilium's", svc: with(annotate(metallb, "k"), annotate(cilium, "c")), want: ipam.Sharing{Key: "k"}},
		{name: "a key with commas is one key", svc: with(annotate(ours, "a, b")), want: ipam.Sharing{Key: "a,b"}},
		{name: "a product that is not honoured", svc: with(annotate(metallb, "k"), annotate(cilium, "c")), rules: Rules{Honour: Products{Cilium}}, want: ipam.Sharing{Key: "c"}},
		{
			name: "the same number in two protocols is two ports",
			svc: newService("dns", single, "IPv4", func(svc *corev1.Service) {
				svc.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolUDP, Port: 53}, {Protocol: corev1.ProtocolTCP, Port: 53}}
			}),
			want: ipam.Sharing{Ports: []ipam.Port{{Protocol: "UDP", Number: 53}, {Protocol: "TCP", Number: 53}}},
		},
		{name: "with policy Local the backends are those of the selector", svc: with(local("shop")), want: ipam.Sharing{Backends: "default/app=shop"}},
		{name: "with policy Local and no selector the backends are the Service's own", svc: with(local("")), want: ipam.Sharing{Backends: "default/web"}},
		{
			name: "consents, sorted, each once", svc: with(annotate(ours, "k"), annotate(consent, "shop, blog,shop")),
			want: ipam.Sharing{Key: "k", Consents: []string{"blog", "shop"}},
		},
		{
			name: "a consent that is no name is left out", svc: with(annotate(ours, "k"), annotate(consent, "shop,*,Blog")),
			want: ipam.Sharing{Key: "k", Consents: []string{"shop"}},
		},
		{
			name: "Cilium's consents", svc: with(annotate(cilium, "k"), annotate(ciliumConsent, "shop,*")),
			want: ipam.Sharing{Key: "k", Consents: []string{"*", "shop"}},
		},
		{
			name: "Cilium's older consents", svc: with(annotate(cilium, "k"), annotate("io.cilium/lb-ipam-sharing-cross-namespace", "shop")),
			want: ipam.Sharing{Key: "k", Consents: []string{"shop"}},
		},
		{
			name: "our consents win", svc: with(annotate(cilium, "k"), annotate(ciliumConsent, "*"), annotate(consent, "shop")),
			want: ipam.Sharing{Key: "k", Consents: []string{"shop"}},
		},
		{
			name: "MetalLB's key, by default", svc: with(annotate(metallb, "k"), annotate(consent, "shop")), rules: Rules{AllProducts, OptIn},
			want: ipam.Sharing{Key: "k", Consents: []string{"shop"}},
		},
		{
			name: "MetalLB's key consents to all where that is allowed", svc: with(annotate(metallb, "k")), rules: Rules{AllProducts, Allow},
			want: ipam.Sharing{Key: "k", Consents: []string{"*"}},
		},
		{name: "our key does not", svc: with(annotate(ours, "k")), rules: Rules{AllProducts, Allow}, want: ipam.Sharing{Key: "k"}},
		{name: "Cilium's key does not", svc: with(annotate(cilium, "k")), rules: Rules{AllProducts, Allow}, want: ipam.Sharing{Key: "k"}},
		{
			name: "no consent counts where it is denied", svc: with(annotate(ours, "k"), annotate(consent, "shop")), rules: Rules{AllProducts, Deny},
			want: ipam.Sharing{Key: "k", Consents: []string{"shop"}, OwnNamespaceOnly: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rules.Honour == nil {
				tt.rules = rules
			}
			if tt.want.Namespace = "default"; tt.want.Ports == nil {
				tt.want.Ports = tcp80
			}
			if diff := cmp.Diff(tt.want, tt.rules.SharingOf(tt.svc)); diff != "" {
				t.Errorf("sharing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFind(t *testing.T) {
	const ours, metallb = "tandem-lb.io/address-pool", "metallb.io/address-pool"
	tests := []struct {
		name           string
		annotations    map[string]string
		honour         Products
		want           []string
		wantAnnotation string
	}{
		{name: "no annotations", honour: AllProducts},
		{name: "another annotation", annotations: map[string]string{"c": "x"}, honour: AllProducts},
		{name: "the first one", annotations: map[string]string{ours: "x", metallb: "y"}, honour: AllProducts, want: []string{"x"}, wantAnnotation: ours},
		{name: "the second one alone", annotations: map[string]string{metallb: "y"}, honour: AllProducts, want: []string{"y"}, wantAnnotation: metallb},
		{name: "the second one alone, not honoured", annotations: map[string]string{metallb: "y"}, honour: Products{KubeVIP, Cilium}},
		{name: "an empty first one hides the second", annotations: map[string]string{ours: "", metallb: "y"}, honour: AllProducts, wantAnnotation: ours},
		{name: "spaces and empty values are dropped", annotations: map[string]string{ours: " x ,, y,"}, want: []string{"x", "y"}, wantAnnotation: ours},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, found := Rules{Honour: tt.honour}.find(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: tt.annotations}}, pools, true)
			if diff := cmp.Diff(tt.want, got); diff != "" || found.name != tt.wantAnnotation {
				t.Errorf("got annotation %q, want %q; values (-want +got):\n%s", found.name, tt.wantAnnotation, diff)
			}
		})
	}
}

func TestIgnored(t *testing.T) {
	const ours, metallb, kubeVIP, cilium = "tandem-lb.io/load-balancer-ips", "metallb.io/loadBalancerIPs", "kube-vip.io/loadbalancerIPs", "lbipam.cilium.io/ips"
	tests := []struct {
		name  string
		svc   *corev1.Service
		rules Rules
		shows string
		want  string
	}{
		{name: "no annotation", svc: newService("web", single, "IPv4"), shows: "192.0.2.1"},
		{name: "no address", svc: newService("web", single, "IPv4", annotate(cilium, "192.0.2.9"))},
		{name: "the address that it shows", svc: newService("web", single, "IPv4", annotate(cilium, "192.0.2.1")), shows: "192.0.2.1"},
		{name: "one of another family", svc: newService("web", single, "IPv4", annotate(cilium, "2001:db8::1")), shows: "192.0.2.1"},
		{name: "our own", svc: newService("web", single, "IPv4", annotate(ours, "192.0.2.9")), shows: "192.0.2.1"},
		{name: "no address at all", svc: newService("web", single, "IPv4", annotate(cilium, "oops")), shows: "192.0.2.1"},
		{name: "a product that is not honoured", svc: newService("web", single, "IPv4", annotate(cilium, "192.0.2.9")), rules: Rules{Honour: Products{MetalLB}}, shows: "192.0.2.1"},
		{
			name: "Cilium's", svc: newService("web", require, "IPv4 IPv6", annotate(cilium, "192.0.2.9,2001:db8::1")), shows: "192.0.2.1 2001:db8::1",
			want: "annotation lbipam.cilium.io/ips asks for 192.0.2.9, and the Service has 192.0.2.1: the annotation does not count while the Service " +
				"has an address; remove it, or write tandem-lb.io/load-balancer-ips: 192.0.2.9 to move the Service",
		},
		{
			name: "MetalLB's beside ours", svc: newService("web", single, "IPv4", annotate(metallb, "192.0.2.9"), annotate(ours, "192.0.2.1")), shows: "192.0.2.1",
			want: "annotation metallb.io/loadBalancerIPs asks for 192.0.2.9, and the Service has 192.0.2.1: tandem-lb.io/load-balancer-ips counts instead; " +
				"remove the other annotation",
		},
		{
			name: "MetalLB's, which counts", svc: newService("web", single, "IPv4", annotate(metallb, "192.0.2.9"), annotate(kubeVIP, "192.0.2.1")), shows: "192.0.2.1",
			want: "annotation metallb.io/loadBalancerIPs asks for 192.0.2.9, and the Service has 192.0.2.1: the Service moves if it can, since the annotation " +
				"counts; remove it if it is a leftover",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rules.Honour == nil {
				tt.rules = rules
			}
			if got := strings.Join(tt.rules.Ignored(tt.svc, addrs(tt.shows)), "; "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		text, want, wantError string
	}{
		{text: "metallb,kube-vip,cilium", want: "metallb,kube-vip,cilium"},
		{text: " cilium ", want: "cilium"},
		{text: ""},
		{text: "metallb,kubevip", wantError: `"kubevip" is none of metallb,kube-vip,cilium`},
	} {
		got := slices.Clone(AllProducts)
		err := got.Set(tt.text)
		if err == nil && got.String() != tt.want || err != nil && err.Error() != tt.wantError || (err == nil) != (tt.wantError == "") {
			t.Errorf("products %q: got %q and error %v, want %q and %q", tt.text, got.String(), err, tt.want, tt.wantError)
		}
	}
	var sharing CrossNamespaceSharing
	if err := sharing.Set("Deny"); err != nil || sharing != Deny {
		t.Errorf("Deny: got %q and error %v", sharing, err)
	}
	if err := sharing.Set("deny"); err == nil || err.Error() != `"deny" is none of Deny, OptIn, Allow` {
		t.Errorf("deny: got error %v", err)
	}
}

// What ipam tells users to write is the annotation that is read.
func TestConsentIsAskedForByItsAnnotation(t *testing.T) {
	shop, blog := newService("web", single, "IPv4", annotate(v1alpha1.AnnotationAllowSharedIP, "k")), newService("web", single, "IPv4", annotate(v1alpha1.AnnotationAllowSharedIP, "k"))
	shop.Namespace, blog.Namespace, blog.Spec.Ports[0].Port = "shop", "blog", 81
	for _, text := range []string{v1alpha1.AnnotationShareWithNamespaces + ": blog on it", v1alpha1.AnnotationShareWithNamespaces + ": shop on this Service"} {
		if why := rules.SharingOf(blog).Admits(rules.SharingOf(shop)); why == nil || !strings.Contains(why.Error(), text) {
			t.Errorf("blog/web beside shop/web: %v, want it to say %q", why, text)
		}
	}
	annotate(v1alpha1.AnnotationShareWithNamespaces, "blog")(shop)
	annotate(v1alpha1.AnnotationShareWithNamespaces, "shop")(blog)
	if why := rules.SharingOf(blog).Admits(rules.SharingOf(shop)); why != nil {
		t.Errorf("both consent, and yet: %v", why)
	}
}

// The example of a policy for tenants knows every annotation that is read, and so do the documents.
func TestAnnotationsAreInThePolicyForTenants(t *testing.T) {
	for _, file := range []string{"../../manifests/examples/tenancy.yaml", "../../docs/addresses.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range spellings {
			if !strings.Contains(string(text), s.name+"'") && !strings.Contains(string(text), s.name+"`") {
				t.Errorf("%s lacks %s", file, s.name)
			}
		}
	}
}
