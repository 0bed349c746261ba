// SPDX-License-Identifier: Apache-2.0

package request

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/internal/fixture"
)

// compareAddr lets cmp look into addresses, which have no exported fields.
var compareAddr = cmp.Comparer(func(x, y netip.Addr) bool { return x == y })

// rules are those of a controller manager without flags.
var rules = Rules{Honour: AllProducts}

// The tests below speak of fixtures by these names.
const (
	single  = fixture.Single
	prefer  = fixture.Prefer
	require = fixture.Require
)

var (
	addrs         = fixture.Addrs
	newService    = fixture.Service
	annotate      = fixture.Annotate
	label         = fixture.Label
	local         = fixture.Local
	newPool       = fixture.Pool
	noAutoAssign  = fixture.NoAutoAssign
	priority      = fixture.Priority
	forServices   = fixture.ForServices
	forNamespaces = fixture.ForNamespaces
)

func TestNew(t *testing.T) {
	const both = "192.0.2.0/24 2001:db8::/64"
	auto := func(names ...string) (pools []ipam.Candidate) {
		for _, name := range names {
			pools = append(pools, ipam.Candidate{Pool: name, Auto: true})
		}
		return pools
	}
	tests := []struct {
		name      string
		svc       *corev1.Service
		namespace labels.Set
		pools     []*v1alpha1.AddressPool
		want      ipam.Request // Service, Families and Sharing are those of svc unless given
		wantError string
	}{
		{
			name: "SingleStack requires its one family",
			svc:  newService("web", single, "IPv6"),
			want: ipam.Request{Families: []family.Family{family.IPv6}, RequireAll: true},
		},
		{
			name: "a Service without a policy is one of SingleStack",
			svc: newService("web", single, "IPv4", func(svc *corev1.Service) {
				svc.Spec.IPFamilyPolicy = nil
			}),
			want: ipam.Request{Families: []family.Family{family.IPv4}, RequireAll: true},
		},
		{
			name: "RequireDualStack requires both in the order of ipFamilies",
			svc:  newService("web", require, "IPv6 IPv4"),
			want: ipam.Request{Families: []family.Family{family.IPv6, family.IPv4}, RequireAll: true},
		},
		{
			name: "PreferDualStack does not require both",
			svc:  newService("web", prefer, "IPv4 IPv6"),
			want: ipam.Request{Families: []family.Family{family.IPv4, family.IPv6}},
		},
		{
			name:  "every pool is a candidate, those without autoAssign for fixed addresses only",
			svc:   newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{newPool("a", both), newPool("b", both, noAutoAssign)},
			want:  ipam.Request{RequireAll: true, Pools: []ipam.Candidate{{Pool: "a", Auto: true}, {Pool: "b"}}},
		},
		{
			name: "pools are tried by priority, then by name, those without priority last",
			svc:  newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{
				newPool("a", both), newPool("b", both), newPool("c", both, priority(20)), newPool("d", both, priority(10)), newPool("e", both, priority(10)),
			},
			want: ipam.Request{RequireAll: true, Pools: auto("d", "e", "c", "a", "b")},
		},
		{
			name: "pools kept for certain Services come before those for everyone, whatever their priority",
			svc:  newService("web", single, "IPv4", label("tier", "edge")),
			pools: []*v1alpha1.AddressPool{
				newPool("first", both, priority(1)), newPool("edge", both, priority(9), forServices("tier", "edge")),
			},
			want: ipam.Request{RequireAll: true, Pools: auto("edge", "first")},
		},
		{
			name:  "a pool whose serviceSelectors do not match is no candidate",
			svc:   newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{newPool("edge", both, forServices("tier", "edge")), newPool("lan", both)},
			want:  ipam.Request{RequireAll: true, Pools: auto("lan")},
		},
		{
			name:      "a pool whose namespaceSelectors match is a candidate",
			svc:       newService("web", single, "IPv4"),
			namespace: labels.Set{"team": "shop"},
			pools:     []*v1alpha1.AddressPool{newPool("shop", both, forNamespaces("team", "shop")), newPool("bank", both, forNamespaces("team", "bank"))},
			want:      ipam.Request{RequireAll: true, Pools: auto("shop")},
		},
		{
			name:      "with both selectors a Service has to match both",
			svc:       newService("web", single, "IPv4", label("tier", "edge")),
			namespace: labels.Set{"team": "bank"},
			pools:     []*v1alpha1.AddressPool{newPool("shop", both, forNamespaces("team", "shop"), forServices("tier", "edge"))},
			want:      ipam.Request{RequireAll: true},
		},
		{
			name: "one of two selectors has to match",
			svc:  newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{newPool("a", both, func(ap *v1alpha1.AddressPool) {
				ap.Spec.NamespaceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"team": "b"}}, {}}
			}), newPool("b", both, func(ap *v1alpha1.AddressPool) {
				ap.Spec.NamespaceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"team": "b"}}, {MatchLabels: map[string]string{"team": "c"}}}
			})},
			want: ipam.Request{RequireAll: true, Pools: auto("a")},
		},
		{
			name: "an empty list restricts nothing",
			svc:  newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{newPool("a", both), newPool("z", both, func(ap *v1alpha1.AddressPool) {
				ap.Spec.NamespaceSelectors = []metav1.LabelSelector{}
			})},
			want: ipam.Request{RequireAll: true, Pools: auto("a", "z")},
		},
		{
			name: "an empty selector matches everything and still comes first",
			svc:  newService("web", single, "IPv4"),
			pools: []*v1alpha1.AddressPool{newPool("a", both), newPool("z", both, func(ap *v1alpha1.AddressPool) {
				ap.Spec.NamespaceSelectors = []metav1.LabelSelector{{}}
			})},
			want: ipam.Request{RequireAll: true, Pools: auto("z", "a")},
		},
		{
			name:  "a named pool is the only candidate, autoAssign or not",
			svc:   newService("web", single, "IPv4", annotate("tandem-lb.io/address-pool", "b")),
			pools: []*v1alpha1.AddressPool{newPool("a", both), newPool("b", both, noAutoAssign)},
			want:  ipam.Request{RequireAll: true, Named: true, Pools: auto("b")},
		},
		{
			name:  "one pool per family, in the order of the annotation",
			svc:   newService("web", require, "IPv4 IPv6", annotate("metallb.universe.tf/address-pool", "production-ipv6, production-ipv4,")),
			pools: []*v1alpha1.AddressPool{newPool("production-ipv4", "192.0.2.0/24"), newPool("production-ipv6", "2001:db8::/64")},
			want:  ipam.Request{RequireAll: true, Named: true, Pools: auto("production-ipv6", "production-ipv4")},
		},
		{
			name: "our annotation wins over metallb.io, and that over metallb.universe.tf",
			svc: newService("web", single, "IPv4", annotate("metallb.universe.tf/address-pool", "c"), annotate("metallb.io/address-pool", "b"),
				annotate("tandem-lb.io/address-pool", "a")),
			pools: []*v1alpha1.AddressPool{newPool("a", both), newPool("b", both), newPool("c", both)},
			want:  ipam.Request{RequireAll: true, Named: true, Pools: auto("a")},
		},
		{
			name:  "metallb.io wins over metallb.universe.tf",
			svc:   newService("web", single, "IPv4", annotate("metallb.universe.tf/address-pool", "c"), annotate("metallb.io/address-pool", "b")),
			pools: []*v1alpha1.AddressPool{newPool("b", both), newPool("c", both)},
			want:  ipam.Request{RequireAll: true, Named: true, Pools: auto("b")},
		},
		{
			name:  "an annotation that names nothing is as good as none",
			svc:   newService("web", single, "IPv4", annotate("tandem-lb.io/address-pool", " , ")),
			pools: []*v1alpha1.AddressPool{newPool("a", both)},
			want:  ipam.Request{RequireAll: true, Pools: auto("a")},
		},
		{
			name:      "a named pool that does not exist",
			svc:       newService("web", single, "IPv4", annotate("metallb.io/address-pool", "lan,wan")),
			pools:     []*v1alpha1.AddressPool{newPool("lan", both)},
			wantError: `annotation metallb.io/address-pool names AddressPool "wan", which does not exist`,
		},
		{
			name:      "a named pool that is not for this Service",
			svc:       newService("web", single, "IPv4", annotate("tandem-lb.io/address-pool", "edge")),
			pools:     []*v1alpha1.AddressPool{newPool("edge", both, forServices("tier", "edge"))},
			wantError: `annotation tandem-lb.io/address-pool names AddressPool "edge", whose namespaceSelectors or serviceSelectors do not match`,
		},
		{
			name: "fixed addresses of both families",
			svc:  newService("web", require, "IPv4 IPv6", annotate("tandem-lb.io/load-balancer-ips", "2001:db8::7, 192.0.2.7")),
			want: ipam.Request{RequireAll: true, Addresses: addrs("2001:db8::7 192.0.2.7")},
		},
		{
			name: "a fixed address that is no address",
			svc:  newService("web", single, "IPv4", annotate("metallb.io/loadBalancerIPs", "192.0.2.300")),

			wantError: `annotation metallb.io/loadBalancerIPs: "192.0.2.300" is not an IP address`,
		},
		{
			name:      "a consent that names no namespace",
			svc:       newService("web", single, "IPv4", annotate("tandem-lb.io/share-with-namespaces", "shop, Blog")),
			wantError: `annotation tandem-lb.io/share-with-namespaces: "Blog" is not the name of a namespace`,
		},
		{
			name:      "a consent to all namespaces",
			svc:       newService("web", single, "IPv4", annotate("tandem-lb.io/share-with-namespaces", "*")),
			wantError: `annotation tandem-lb.io/share-with-namespaces: "*" is not the name of a namespace; name each`,
		},
		{
			name: "reallocation is asked for",
			svc:  newService("web", single, "IPv4", annotate("tandem-lb.io/reallocate", "true")),
			want: ipam.Request{RequireAll: true, Reallocate: true},
		},
		{
			name: "reallocation is not asked for by any other value",
			svc:  newService("web", single, "IPv4", annotate("tandem-lb.io/reallocate", "yes")),
			want: ipam.Request{RequireAll: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pools []Pool
			for _, ap := range tt.pools {
				pools = append(pools, ParsePool(ap))
			}
			before := tt.svc.DeepCopy()
			got, err := rules.New(tt.svc, NewPools(pools), tt.namespace, nil, false)
			if diff := cmp.Diff(before, tt.svc); diff != "" {
				t.Errorf("the Service was changed (-before +after):\n%s", diff)
			}
			if tt.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantError) {
					t.Fatalf("got error %v, want one that says %q", err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			want.Service = ipam.Service{Namespace: "default", Name: "web"}
			want.Sharing = rules.SharingOf(tt.svc)
			if want.Families == nil {
				for _, af := range tt.svc.Spec.IPFamilies {
					want.Families = append(want.Families, family.Family(af))
				}
			}
			if diff := cmp.Diff(want, got, compareAddr); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParsePool(t *testing.T) {
	tests := []struct {
		name        string
		ap          *v1alpha1.AddressPool
		wantRanges  string
		wantExclude string
		wantInvalid []string
		matches     bool // a Service without labels
	}{
		{
			name: "both families with CIDRs, first-last ranges and addresses", ap: newPool("lan", "192.0.2.0/30 192.0.2.8-192.0.2.9 2001:db8::/127 2001:db8::7"),
			wantRanges: "192.0.2.0-192.0.2.3 192.0.2.8-192.0.2.9 2001:db8::-2001:db8::1 2001:db8::7", matches: true,
		},
		{
			name: "exclude in both families",
			ap: newPool("lan", "192.0.2.0/30 2001:db8::/127", func(ap *v1alpha1.AddressPool) {
				ap.Spec.IPv4.Exclude = []v1alpha1.IPv4Range{"192.0.2.1"}
				ap.Spec.IPv6.Exclude = []v1alpha1.IPv6Range{"2001:db8::"}
			}),
			wantRanges: "192.0.2.0-192.0.2.3 2001:db8::-2001:db8::1", wantExclude: "192.0.2.1 2001:db8::", matches: true,
		},
		{
			name: "a range that does not parse takes no other away",
			ap: newPool("lan", "192.0.2.0/30 192.0.2.9-192.0.2.8 2001:db8::/127", func(ap *v1alpha1.AddressPool) {
				ap.Spec.IPv6.Exclude = []v1alpha1.IPv6Range{"oops"}
			}),
			wantRanges: "192.0.2.0-192.0.2.3 2001:db8::-2001:db8::1", wantInvalid: []string{"spec.ipv4.ranges[1]: ", "spec.ipv6.exclude[0]: "}, matches: true,
		},
		{
			name: "a range under the other family",
			ap: newPool("lan", "192.0.2.0/30", func(ap *v1alpha1.AddressPool) {
				ap.Spec.IPv4.Ranges = append(ap.Spec.IPv4.Ranges, "2001:db8::/64")
				ap.Spec.IPv6 = &v1alpha1.IPv6Partition{Ranges: []v1alpha1.IPv6Range{"192.0.2.77"}}
			}),
			wantRanges:  "192.0.2.0-192.0.2.3",
			wantInvalid: []string{`spec.ipv4.ranges[1]: "2001:db8::/64" is not IPv4`, `spec.ipv6.ranges[0]: "192.0.2.77" is not IPv6`}, matches: true,
		},
		{
			name: "a selector with an unknown operator admits nobody",
			ap: newPool("lan", "192.0.2.0/30", func(ap *v1alpha1.AddressPool) {
				ap.Spec.ServiceSelectors = []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: "Like"}}}}
			}),
			wantRanges: "192.0.2.0-192.0.2.3", wantInvalid: []string{`spec.serviceSelectors[0]: "Like" is not`},
		},
		{name: "no range at all", ap: newPool("lan", ""), matches: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := ParsePool(tt.ap)
			if got := texts(p.Ranges); got != tt.wantRanges {
				t.Errorf("ranges %q, want %q", got, tt.wantRanges)
			}
			if got := texts(p.Exclude); got != tt.wantExclude {
				t.Errorf("exclude %q, want %q", got, tt.wantExclude)
			}
			if (p.Invalid != nil) != (tt.wantInvalid != nil) {
				t.Errorf("invalid: %v, want %q", p.Invalid, tt.wantInvalid)
			}
			for _, want := range tt.wantInvalid {
				if p.Invalid != nil && !strings.Contains(p.Invalid.Error(), want) {
					t.Errorf("invalid: %v, want it to say %q", p.Invalid, want)
				}
			}
			if got := p.matches(newService("web", single, "IPv4"), nil); got != tt.matches {
				t.Errorf("matches a Service without labels: %v, want %v", got, tt.matches)
			}
		})
	}
}

func texts(ranges []ipam.Range) string {
	var words []string
	for _, r := range ranges {
		words = append(words, r.String())
	}
	return strings.Join(words, " ")
}

// What Services may use is worked out once for all whose labels are alike to the pools' selectors.
func TestPoolsOfAlikeLabels(t *testing.T) {
	type selectors func(*v1alpha1.AddressPool) *[]metav1.LabelSelector
	chooses := func(field selectors, key string, op metav1.LabelSelectorOperator, values ...string) Pool {
		ap := newPool(strings.Join(append([]string{key, string(op)}, values...), "-"), "192.0.2.0/24")
		*field(ap) = []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op, Values: values}}}}
		return ParsePool(ap)
	}
	services := func(ap *v1alpha1.AddressPool) *[]metav1.LabelSelector { return &ap.Spec.ServiceSelectors }
	namespaces := func(ap *v1alpha1.AddressPool) *[]metav1.LabelSelector { return &ap.Spec.NamespaceSelectors }
	pools := NewPools([]Pool{
		ParsePool(newPool("lan", "192.0.2.0/24")),
		chooses(services, "tier", metav1.LabelSelectorOpIn, "edge", "core"),
		chooses(services, "tier", metav1.LabelSelectorOpNotIn, "core"),
		chooses(services, "tier", metav1.LabelSelectorOpExists),
		chooses(services, "tier", metav1.LabelSelectorOpDoesNotExist),
		chooses(services, "tier", "Near", "edge"), // matches nothing
		chooses(namespaces, "team", metav1.LabelSelectorOpIn, "edge", "shop"),
		chooses(namespaces, "team", metav1.LabelSelectorOpNotIn, "shop"),
		chooses(namespaces, "team", metav1.LabelSelectorOpExists),
		chooses(namespaces, "team", metav1.LabelSelectorOpDoesNotExist),
	})
	choices := func(key string, values ...string) []labels.Set {
		sets := []labels.Set{nil, {"app": "web"}}
		for _, value := range values {
			sets = append(sets, labels.Set{key: value}, labels.Set{key: value, "app": "web"})
		}
		return sets
	}
	lists := map[*ipam.Candidate]bool{}
	for _, of := range choices("tier", "edge", "core", "test", "lab", "") {
		for _, namespace := range choices("team", "edge", "shop", "bank", "blog", "") {
			svc := newService("web", single, "IPv4", func(svc *corev1.Service) { svc.Labels = of })
			got := pools.candidates(svc, namespace)
			var want []ipam.Candidate
			for _, pool := range pools.sorted {
				if pool.matches(svc, namespace) {
					want = append(want, ipam.Candidate{Pool: pool.Name, Auto: true})
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("of a Service with %v in a namespace with %v (-want +got):\n%s", of, namespace, diff)
			}
			lists[&got[0]] = true
		}
	}
	// Of each, there is none, the two values that selectors name, and any other.
	if len(lists) != 4*4 {
		t.Errorf("%d lists of pools are in memory, want 16", len(lists))
	}
}

func TestInherited(t *testing.T) {
	for _, tt := range []struct{ name, asks, shows, want string }{
		{name: "what the status shows", shows: "192.0.2.1 2001:db8::1", want: "192.0.2.1 2001:db8::1"},
		{name: "the address that is asked for", asks: "192.0.2.1", shows: "192.0.2.1", want: "192.0.2.1"},
		{name: "a person asks for another one", asks: "192.0.2.9", shows: "192.0.2.1 2001:db8::1", want: "2001:db8::1"},
		{name: "nothing is shown", asks: "192.0.2.9"},
		{name: "what is asked for cannot be read", asks: "oops", shows: "192.0.2.1", want: "192.0.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc := newService("web", single, "IPv4")
			if tt.asks != "" {
				annotate(v1alpha1.AnnotationLoadBalancerIPs, tt.asks)(svc)
			}
			for _, a := range addrs(tt.shows) {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
			}
			if got := Inherited(svc); !slices.Equal(got, addrs(tt.want)) {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}
