// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// The addresses of the tests: v4 and v6 are a pair.
const (
	v4, v6         = "198.51.100.200", "2001:db8:51::1200"
	other4, other6 = "198.51.100.201", "2001:db8:51::1201"
)

func endpointsOn(nodes ...string) decision.Endpoints {
	return decision.Endpoints{Any: true, Nodes: slices.Compact(slices.Sorted(slices.Values(nodes)))}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func sameAddr(a, b netip.Addr) bool     { return a == b }
func samePrefix(a, b netip.Prefix) bool { return a == b }

// endpoint returns one endpoint. Each condition is "+", "-" or, for nil, "?"; no node is "".
func endpoint(node, ready, serving, terminating string) discoveryv1.Endpoint {
	condition := func(text string) *bool {
		switch text {
		case "+":
			return new(true)
		case "-":
			return new(false)
		}
		return nil
	}
	e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{
		Ready: condition(ready), Serving: condition(serving), Terminating: condition(terminating),
	}}
	if node != "" {
		e.NodeName = &node
	}
	return e
}

func endpointSlice(af discoveryv1.AddressType, service string, endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
	return discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: af,
		Endpoints:   endpoints,
	}
}

func TestObservedEndpoints(t *testing.T) {
	const v4, v6, fqdn = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN
	for _, tt := range []struct {
		name   string
		slices []discoveryv1.EndpointSlice
		want   map[family.Family]decision.Endpoints
	}{
		{
			name:   "a ready endpoint counts on its node",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("node1", "+", "+", "-"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node1")},
		},
		{
			name:   "an endpoint whose condition ready is not set is ready",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("node1", "?", "?", "?"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node1")},
		},
		{
			name:   "an endpoint that is not ready does not count",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("node1", "-", "-", "-"), endpoint("node2", "+", "+", "-"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node2")},
		},
		{
			name:   "where none is ready there is none",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("node1", "-", "-", "-"), endpoint("node2", "-", "+", "-"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: {}},
		},
		{
			name:   "a terminating endpoint that still serves counts where none is ready",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("node1", "-", "+", "+"), endpoint("node2", "-", "-", "+"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node1")},
		},
		{
			name: "a terminating endpoint does not count beside a ready one in another slice",
			slices: []discoveryv1.EndpointSlice{
				endpointSlice(v4, "web", endpoint("node1", "-", "+", "+")),
				endpointSlice(v4, "web", endpoint("node2", "+", "+", "-")),
			},
			want: map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node2")},
		},
		{
			name: "a ready endpoint of one family does not keep a terminating one of the other out",
			slices: []discoveryv1.EndpointSlice{
				endpointSlice(v4, "web", endpoint("node1", "-", "+", "+")),
				endpointSlice(v6, "web", endpoint("node2", "+", "+", "-")),
			},
			want: map[family.Family]decision.Endpoints{family.IPv4: endpointsOn("node1"), family.IPv6: endpointsOn("node2")},
		},
		{
			name:   "an endpoint without a node counts on none",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "web", endpoint("", "+", "+", "-"))},
			want:   map[family.Family]decision.Endpoints{family.IPv4: endpointsOn()},
		},
		{
			name: "several slices of a family are one set",
			slices: []discoveryv1.EndpointSlice{
				endpointSlice(v6, "web", endpoint("node1", "+", "+", "-")),
				endpointSlice(v6, "web", endpoint("node2", "+", "+", "-"), endpoint("node1", "+", "+", "-")),
			},
			want: map[family.Family]decision.Endpoints{family.IPv6: endpointsOn("node1", "node2")},
		},
		{
			name:   "names are no addresses",
			slices: []discoveryv1.EndpointSlice{endpointSlice(fqdn, "web", endpoint("node1", "+", "+", "-"))},
		},
		{
			name:   "another Service's endpoints are its own",
			slices: []discoveryv1.EndpointSlice{endpointSlice(v4, "other", endpoint("node1", "+", "+", "-"))},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := observedEndpoints(tt.slices)[types.NamespacedName{Namespace: "default", Name: "web"}]
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

// A Service prefers the nodes that a selector in its annotation selects. One that cannot be read selects none.
func TestPreferredNodes(t *testing.T) {
	for value, want := range map[string]string{"": "", "rack=1": "rack=1", "rack in (2,1)": "rack in (1,2)", "rack==1==2": ""} {
		svc := corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{ipamv1alpha1.AnnotationPreferredNodes: value}},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
				Ingress: []corev1.LoadBalancerIngress{{IP: "198.51.100.200"}},
			}},
		}
		o := Objects{Services: corev1.ServiceList{Items: []corev1.Service{svc}}}
		got := ""
		if preferred := o.observedServices()[0].Preferred; preferred != nil {
			got = preferred.String()
		}
		if got != want {
			t.Errorf("nodes preferred by %q: %q, want %q", value, got, want)
		}
	}
}

// TestExclusion: some nodes have nothing to hand over, and a cordon counts where the administrator says so.
func TestExclusion(t *testing.T) {
	cordoned := corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}
	if reason, _ := Exclusion(&cordoned, ExclusionRules{CordonCounts: true}); reason != "the node is cordoned" {
		t.Errorf("a node that is cordoned: %q", reason)
	}
	if Withdraws(&cordoned) == "" || Withdraws(&corev1.Node{}) != "" {
		t.Error("a speaker that stops on a node withdraws if the node is cordoned, and only then")
	}
	for name, node := range map[string]corev1.Node{
		"out of service": {Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}},
		"without a network": {Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}},
		}},
	} {
		node.Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
		if _, gone := Exclusion(&node, ExclusionRules{}); !gone {
			t.Errorf("a drained node %s has something to hand over", name)
		}
	}
	if _, gone := Exclusion(&corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, ExclusionRules{}); gone {
		t.Error("a node that is deleted has nothing to hand over")
	}
}

// TestIgnoredLabel: a speaker goes by its flag about its own node, and by what the others say about theirs.
func TestIgnoredLabel(t *testing.T) {
	labelled := func(name string) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""}}}
	}
	speaker := func(name, reason string) v1alpha1.SpeakerStatus {
		s := v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}
		s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDraining, Status: metav1.ConditionFalse, Reason: reason}}
		return s
	}
	drained := labelled("drained")
	drained.Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
	o := &Objects{
		Nodes: corev1.NodeList{Items: []corev1.Node{labelled("own"), labelled("ignores"), labelled("obeys"), labelled("silent"), drained}},
		Speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
			speaker("own", v1alpha1.ReasonNotDraining), speaker("ignores", v1alpha1.ReasonExcludeLabelIgnored),
			speaker("obeys", v1alpha1.ReasonNotDraining), speaker("drained", v1alpha1.ReasonExcludeLabelIgnored),
		}},
	}
	for _, tt := range []struct {
		ignores bool
		own     string
		want    string // the nodes that may announce
	}{
		{ignores: true, own: "own", want: "ignores own"},
		{ignores: false, own: "own", want: "ignores"},
		{ignores: false, own: "ignores", want: ""}, // its flag is gone, and its status is not written yet
		{ignores: false, want: "ignores"},          // the controller manager and the plugin
	} {
		o.Rules = ExclusionRules{IgnoreLabel: tt.ignores}
		var may []string
		for name, node := range o.Snapshot(tt.own, nil).Nodes {
			if !node.Excluded {
				may = append(may, name)
			}
		}
		slices.Sort(may)
		if got := strings.Join(may, " "); got != tt.want {
			t.Errorf("on %q with the flag %t: %q may announce, want %q", tt.own, tt.ignores, got, tt.want)
		}
	}
	if got := Leaving(&o.Nodes.Items[0], true); got != "" {
		t.Errorf("a node whose label is ignored is left: %s", got)
	}
}

// TestNodeAddresses: an InternalIP that two Nodes have is none of either, and annotations that cannot be read say nothing.
func TestNodeAddresses(t *testing.T) {
	node := func(name string, annotations map[string]string, ips ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		return n
	}
	o := Objects{
		Nodes: corev1.NodeList{Items: []corev1.Node{
			node("node1", map[string]string{
				ipamv1alpha1.AnnotationBGPASN: "64512", ipamv1alpha1.AnnotationBGPRouterID: "10.0.0.1",
				ipamv1alpha1.AnnotationBGPSourceIPv4: "10.1.1.11", ipamv1alpha1.AnnotationBGPSourceIPv6: "2001:db8:1::11",
			}, "10.0.2.15", "2001:db8:51::11"),
			node("node2", map[string]string{
				ipamv1alpha1.AnnotationBGPASN: "23456", ipamv1alpha1.AnnotationBGPRouterID: "2001:db8::1",
				ipamv1alpha1.AnnotationBGPSourceIPv4: "2001:db8:1::11", ipamv1alpha1.AnnotationBGPSourceIPv6: "fe80::1",
			}, "10.0.2.15", "2001:db8:51::12"),
		}},
		Speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
			{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: v1alpha1.SpeakerState{
				Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{"10.0.2.15/24", "198.51.100.11/24"}}},
			}},
			{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: v1alpha1.SpeakerState{
				Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{"10.0.2.15/24", "198.51.100.12/24"}}},
			}},
		}},
	}
	nodes := o.observedNodes("node1", nil)
	addr := netip.MustParseAddr
	wantBGP := decision.Overrides{ASN: 64512, RouterID: addr("10.0.0.1"), Sources: map[family.Family]netip.Addr{
		family.IPv4: addr("10.1.1.11"), family.IPv6: addr("2001:db8:1::11"),
	}}
	if diff := cmp.Diff(wantBGP, nodes["node1"].BGP, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("annotations of node1 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(decision.Overrides{}, nodes["node2"].BGP, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("annotations of node2 (-want +got):\n%s", diff)
	}
	want := map[family.Family]netip.Addr{family.IPv6: addr("2001:db8:51::11")}
	if diff := cmp.Diff(want, nodes["node1"].InternalIPs, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("InternalIPs of node1 (-want +got):\n%s", diff)
	}
	if others := o.OfOthers("node1"); len(others) > 0 {
		t.Errorf("addresses of a node that is not Ready: %v", others)
	}
	o.Nodes.Items[1].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	others := o.OfOthers("node1")
	if !others[addr("10.0.2.15")] || !others[addr("198.51.100.12")] || others[addr("198.51.100.11")] {
		t.Errorf("addresses of other nodes: %v", others)
	}
}

func TestIsExcluded(t *testing.T) {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeStatus {
		return corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: kind, Status: status}}}
	}
	label := func(value string) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelNodeExcludeBalancers: value}}}
	}
	for _, tt := range []struct {
		name string
		node corev1.Node
		want bool
	}{
		{name: "an ordinary node", node: corev1.Node{Status: condition(corev1.NodeReady, corev1.ConditionTrue)}},
		{name: "the label alone", node: label(""), want: true},
		{name: "the label true", node: label("true"), want: true},
		{name: "the label false", node: label("false")},
		{name: "the label 0", node: label("0")},
		{name: "drained", node: corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{ipamv1alpha1.AnnotationDrain: "true"}}}, want: true},
		{name: "not drained any more", node: corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Annotations: map[string]string{ipamv1alpha1.AnnotationDrain: "false"},
		}}},
		{name: "perhaps to be drained", node: corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Annotations: map[string]string{ipamv1alpha1.AnnotationDrain: "yes"},
		}}},
		{name: "being deleted", node: corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}}}, want: true},
		{name: "the label with a text that is no truth value", node: label("garbage"), want: true},
		{
			name: "shut down for good", want: true,
			node: corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown"}}}},
		},
		{
			name: "the network is not set up",
			node: corev1.Node{Status: condition(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)}, want: true,
		},
		{name: "the network is set up", node: corev1.Node{Status: condition(corev1.NodeNetworkUnavailable, corev1.ConditionFalse)}},
		{name: "cordoned: a node that takes no new pods serves those it has", node: corev1.Node{Spec: corev1.NodeSpec{
			Unschedulable: true, Taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable}},
		}}},
		{name: "not ready", node: corev1.Node{Status: condition(corev1.NodeReady, corev1.ConditionFalse)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if reason, _ := Exclusion(&tt.node, ExclusionRules{}); (reason != "") != tt.want {
				t.Errorf("excluded: %q, want %v", reason, tt.want)
			}
		})
	}
}

func claim(address, manager, pool string) networkingv1.IPAddress {
	return networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{
		networkingv1.LabelManagedBy: manager, ipamv1alpha1.LabelAddressPool: pool,
	}}}
}

// claimFor returns a claim of ours with a Service as its parent.
func claimFor(service, address, pool string) networkingv1.IPAddress {
	c := claim(address, ipamv1alpha1.ManagedBy, pool)
	c.Spec.ParentRef = &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: service}
	return c
}

// leftBy marks a claim as one whose address a Service has left.
func leftBy(service string, c networkingv1.IPAddress) networkingv1.IPAddress {
	c.Annotations = map[string]string{ipamv1alpha1.AnnotationLeft: `{"` + service + `":"2026-01-02T15:04:05Z"}`}
	return c
}

// sharedBy writes on a claim which Services share the address.
func sharedBy(sharers string, c networkingv1.IPAddress) networkingv1.IPAddress {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[ipamv1alpha1.AnnotationSharers] = sharers
	return c
}

// published returns a Service of type LoadBalancer with addresses in its status.
func published(name string, addresses ...string) corev1.Service {
	svc := corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, a := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return svc
}

func TestObservedServices(t *testing.T) {
	ours := []networkingv1.IPAddress{claim(v4, ipamv1alpha1.ManagedBy, "lan"), claim(v6, ipamv1alpha1.ManagedBy, "six")}
	for _, tt := range []struct {
		name    string
		objects Objects
		want    []decision.Service
	}{
		{
			name: "addresses come in the order of the status, each with the pool of its claim",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", v6, v4)}}, Claims: networkingv1.IPAddressList{Items: ours},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v6), Pool: "six"}, {IP: netip.MustParseAddr(v4), Pool: "lan"},
			}}},
		},
		{
			name: "an address that is published and not claimed is none to announce",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", v4, other6)}}, Claims: networkingv1.IPAddressList{Items: ours},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v4), Pool: "lan"},
			}, Unclaimed: []netip.Addr{netip.MustParseAddr(other6)}}},
		},
		{
			name: "what another controller writes into the status takes no claimed address from the Service",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", "203.0.113.9")}},
				Claims:   networkingv1.IPAddressList{Items: []networkingv1.IPAddress{claimFor("web", v6, "six"), claimFor("web", v4, "lan")}},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v4), Pool: "lan"}, {IP: netip.MustParseAddr(v6), Pool: "six"},
			}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}},
		},
		{
			name: "a hostname that another controller writes takes no claimed address from the Service either",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{func() corev1.Service {
					svc := published("web")
					svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
					return svc
				}()}},
				Claims: networkingv1.IPAddressList{Items: []networkingv1.IPAddress{claimFor("web", v4, "lan")}},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v4), Pool: "lan"},
			}}},
		},
		{
			name: "a Service whose status another controller writes keeps no address that it has left to others, or to wait for reuseAfter",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", "203.0.113.9")}},
				Claims: networkingv1.IPAddressList{Items: []networkingv1.IPAddress{
					claimFor("web", v4, "lan"), leftBy("default/web", claimFor("web", "192.0.2.77", "lan")),
					leftBy("default/api", claimFor("web", v6, "six")),
				}},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v4), Pool: "lan"}, {IP: netip.MustParseAddr(v6), Pool: "six"},
			}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}},
		},
		{
			name: "a Service that shares an address keeps it when another controller writes its status, also when the parent has left",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("api", "203.0.113.9"), published("web", "203.0.113.9")}},
				Claims: networkingv1.IPAddressList{Items: []networkingv1.IPAddress{
					sharedBy(`{"default/api":["TCP/443"],"default/web":["TCP/80"]}`, claimFor("web", v4, "lan")),
					sharedBy(`{"default/api":["TCP/443"]}`, leftBy("default/web", claimFor("web", v6, "six"))),
				}},
			},
			want: []decision.Service{
				{
					Name: types.NamespacedName{Namespace: "default", Name: "api"}, Addresses: []decision.Address{
						{IP: netip.MustParseAddr(v4), Pool: "lan"}, {IP: netip.MustParseAddr(v6), Pool: "six"},
					}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
				},
				{
					Name:      types.NamespacedName{Namespace: "default", Name: "web"},
					Addresses: []decision.Address{{IP: netip.MustParseAddr(v4), Pool: "lan"}}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
				},
			},
		},
		{
			name: "a Service that another provider serves by its class keeps nothing, nor does one whose status shows another claimed address",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("new", v4), func() corev1.Service {
					svc := published("theirs", "203.0.113.9")
					svc.Spec.LoadBalancerClass = new("example.com/other")
					return svc
				}()}},
				Claims: networkingv1.IPAddressList{Items: []networkingv1.IPAddress{
					claimFor("new", v4, "lan"), claimFor("new", "192.0.2.77", "lan"), claimFor("theirs", v6, "six"),
				}},
			},
			want: []decision.Service{
				{
					Name:      types.NamespacedName{Namespace: "default", Name: "new"},
					Addresses: []decision.Address{{IP: netip.MustParseAddr(v4), Pool: "lan"}},
				},
				{Name: types.NamespacedName{Namespace: "default", Name: "theirs"}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")}},
			},
		},
		{
			name: "a Service of another class that Tandem serves keeps its address when another controller writes its status",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{func() corev1.Service {
					svc := published("web", "203.0.113.9")
					svc.Spec.LoadBalancerClass = new("purelb.io/purelb")
					svc.Annotations = map[string]string{ipamv1alpha1.AnnotationFinalizer: "true"}
					return svc
				}()}},
				Claims: networkingv1.IPAddressList{Items: []networkingv1.IPAddress{claimFor("web", v4, "lan")}},
			},
			want: []decision.Service{{Name: types.NamespacedName{Namespace: "default", Name: "web"}, Addresses: []decision.Address{
				{IP: netip.MustParseAddr(v4), Pool: "lan"},
			}, Unclaimed: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}},
		},
		{
			name: "an address that is claimed and not published is not announced yet",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web")}}, Claims: networkingv1.IPAddressList{Items: ours},
			},
		},
		{
			name: "an IPAddress of another controller is no claim of ours, whatever its other labels",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", v4)}},
				Claims:   networkingv1.IPAddressList{Items: []networkingv1.IPAddress{claim(v4, "ipallocator.k8s.io", "lan")}},
			},
			want: []decision.Service{{
				Name: types.NamespacedName{Namespace: "default", Name: "web"}, Unclaimed: []netip.Addr{netip.MustParseAddr(v4)},
			}},
		},
		{
			name: "a hostname is no address",
			objects: Objects{Services: corev1.ServiceList{Items: []corev1.Service{{
				ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
				Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: "lb.example"}}}},
			}}}, Claims: networkingv1.IPAddressList{Items: ours}},
		},
		{
			name: "a Service of another type with addresses left in its status has none",
			objects: Objects{Services: corev1.ServiceList{Items: []corev1.Service{func() corev1.Service {
				svc := published("web", v4)
				svc.Spec.Type = corev1.ServiceTypeNodePort
				return svc
			}()}}, Claims: networkingv1.IPAddressList{Items: ours}},
		},
		{
			name: "policy, labels, endpoints, holder and record are those of the Service, and Services are in order",
			objects: Objects{
				Services: corev1.ServiceList{Items: []corev1.Service{published("web", v4), func() corev1.Service {
					svc := published("db", v6)
					svc.Labels = map[string]string{"tier": "back"}
					svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
					return svc
				}()}},
				Claims: networkingv1.IPAddressList{Items: ours},
				EndpointSlices: discoveryv1.EndpointSliceList{Items: []discoveryv1.EndpointSlice{
					endpointSlice(discoveryv1.AddressTypeIPv6, "db", endpoint("node2", "+", "+", "-")),
				}},
				Announcements: v1alpha1.L2AnnouncementList{Items: []v1alpha1.L2Announcement{{
					Service: v1alpha1.ServiceReference{Namespace: "default", Name: "db"},
					Status:  v1alpha1.L2AnnouncementStatus{Node: "node2", Addresses: []string{v6}, Interfaces: []string{"eth0"}},
				}}},
			},
			want: []decision.Service{
				{
					Name: types.NamespacedName{Namespace: "default", Name: "db"}, Labels: map[string]string{"tier": "back"}, Local: true, Holder: "node2",
					Recorded:  decision.Record{Addresses: []string{v6}, Interfaces: []string{"eth0"}},
					Addresses: []decision.Address{{IP: netip.MustParseAddr(v6), Pool: "six"}},
					Endpoints: map[family.Family]decision.Endpoints{family.IPv6: endpointsOn("node2")},
				},
				{
					Name:      types.NamespacedName{Namespace: "default", Name: "web"},
					Addresses: []decision.Address{{IP: netip.MustParseAddr(v4), Pool: "lan"}},
				},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.objects.observedServices(), cmp.Comparer(sameAddr)); diff != "" {
				t.Errorf("Services (-want +got):\n%s", diff)
			}
		})
	}
}

func TestObservedNodes(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	status := func(name string, interfaces ...v1alpha1.InterfaceState) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerState{Interfaces: interfaces},
		}
	}
	o := Objects{
		Nodes: corev1.NodeList{Items: []corev1.Node{
			node("node1", corev1.ConditionTrue), node("node2", corev1.ConditionUnknown), node("node3", corev1.ConditionTrue),
		}},
		Speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
			status("node1", v1alpha1.InterfaceState{Name: "stale", Usable: true}),
			status("node2",
				v1alpha1.InterfaceState{Name: "eth0", Usable: true, Addresses: []string{"198.51.100.12/24", "garbage", "2001:db8:51::12/64"}},
				v1alpha1.InterfaceState{Name: "eth1", Usable: false, Reason: "down or without carrier", Addresses: []string{"10.0.0.12/24"}},
				v1alpha1.InterfaceState{Name: "lo", Usable: false, Reason: "loopback", Addresses: []string{"192.0.2.12/32"}},
				v1alpha1.InterfaceState{Name: "wg0", Usable: false, Reason: "does not use ARP", Addresses: []string{"203.0.113.12/24"}}),
			status("gone", v1alpha1.InterfaceState{Name: "eth0", Usable: true}),
		}},
	}
	own := []v1alpha1.InterfaceState{{Name: "eth0", Usable: true, Addresses: []string{"198.51.100.11/24"}}}
	want := map[string]decision.Node{
		// What this node sees of itself goes before what it published.
		"node1": {Labels: map[string]string{"name": "node1"}, Ready: true, Interfaces: []decision.Interface{
			{Name: "eth0", Prefixes: prefixes("198.51.100.0/24")},
		}},
		// A prefix is that of the subnet. What cannot be read does not count.
		"node2": {Labels: map[string]string{"name": "node2"}, Interfaces: []decision.Interface{
			{Name: "eth0", Prefixes: prefixes("198.51.100.0/24", "2001:db8:51::/64")},
		}, DownSubnets: prefixes("10.0.0.0/24")},
		// A node without a speaker is known, and has nothing to announce on.
		"node3": {Labels: map[string]string{"name": "node3"}, Ready: true},
	}
	if diff := cmp.Diff(want, o.observedNodes("node1", own), cmp.Comparer(samePrefix), cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestSpeakerAddresses(t *testing.T) {
	node := func(name string, addresses ...corev1.NodeAddress) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: addresses}}
	}
	internal := func(a string) corev1.NodeAddress { return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a} }
	o := Objects{
		Nodes: corev1.NodeList{Items: []corev1.Node{
			node("both", corev1.NodeAddress{Type: corev1.NodeHostName, Address: "both"},
				corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, internal("2001:db8:51::11"), internal("198.51.100.11")),
			node("six", internal("2001:db8:51::12")),
			node("no-speaker", internal("198.51.100.13")),
		}},
		Speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
			{ObjectMeta: metav1.ObjectMeta{Name: "both"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "six"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "gone"}},
		}},
	}
	want := map[string][]netip.Addr{
		"both": {netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("2001:db8:51::11")}, "six": {netip.MustParseAddr("2001:db8:51::12")},
	}
	if diff := cmp.Diff(want, o.SpeakerAddresses(), cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

// BenchmarkSnapshot is the reading of all objects of large.
func BenchmarkSnapshot(b *testing.B) {
	o := large()
	b.ReportAllocs()
	for b.Loop() {
		if s := o.Snapshot("node000", nil); len(s.Services) != len(o.Services.Items) {
			b.Fatalf("the snapshot has %d Services, want %d", len(s.Services), len(o.Services.Items))
		}
	}
}

// large are the objects of a cluster of ten thousand dual-stack Services and a hundred nodes.
func large() *Objects {
	const services, nodes = 10_000, 100
	var o Objects
	for i := range nodes {
		name := fmt.Sprintf("node%03d", i)
		o.Nodes.Items = append(o.Nodes.Items, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		o.Speakers.Items = append(o.Speakers.Items, v1alpha1.SpeakerStatus{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerState{
				Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", Usable: true, Addresses: []string{"10.0.0.1/8", "2001:db8::1/64"}}},
			},
		})
	}
	for i := range services {
		name, node := fmt.Sprintf("service%05d", i), fmt.Sprintf("node%03d", i%nodes)
		addresses := []string{fmt.Sprintf("10.0.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::%x", i+1)}
		o.Services.Items = append(o.Services.Items, published(name, addresses...))
		for _, a := range addresses {
			o.Claims.Items = append(o.Claims.Items, claim(a, ipamv1alpha1.ManagedBy, "lan"))
		}
		o.EndpointSlices.Items = append(o.EndpointSlices.Items,
			endpointSlice(discoveryv1.AddressTypeIPv4, name, endpoint(node, "+", "+", "-")),
			endpointSlice(discoveryv1.AddressTypeIPv6, name, endpoint(node, "+", "+", "-")))
		o.Announcements.Items = append(o.Announcements.Items, v1alpha1.L2Announcement{
			Service: v1alpha1.ServiceReference{Namespace: "default", Name: name}, Status: v1alpha1.L2AnnouncementStatus{Node: node},
		})
	}
	return &o
}

func TestPassword(t *testing.T) {
	secret := func(namespace, name, key, value string) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{key: []byte(value)}}
	}
	o := &Objects{Secrets: corev1.SecretList{Items: []corev1.Secret{
		secret("elsewhere", "tor-auth", "password", "not ours"),
		secret("tandem-system", "tor-auth", "password", "s3cret"),
		secret("tandem-system", "empty", "other", "x"),
		secret("tandem-system", "blank", "password", ""),
		secret("tandem-system", "file", "password", strings.Repeat("x", 81)),
	}}}
	for _, tt := range []struct {
		name      string
		key       config.SecretKey
		want      bgp.Password
		wantError string
	}{
		{name: "a password of our own namespace", key: config.SecretKey{Secret: "tor-auth", Key: "password"}, want: "s3cret"},
		{
			name: "a Secret that is missing", key: config.SecretKey{Secret: "tor2-auth", Key: "password"},
			wantError: "there is no Secret tandem-system/tor2-auth",
		},
		{
			name: "a key that is missing", key: config.SecretKey{Secret: "empty", Key: "password"},
			wantError: `there is no key "password" in Secret tandem-system/empty`,
		},
		{
			name: "a password that is empty", key: config.SecretKey{Secret: "blank", Key: "password"},
			wantError: `key "password" of Secret tandem-system/blank is empty`,
		},
		{
			name: "a password that is too long", key: config.SecretKey{Secret: "file", Key: "password"},
			wantError: `key "password" of Secret tandem-system/file has 81 bytes, more than the 80 of a TCP MD5 key`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := o.Password("tandem-system", tt.key)
			if (err == nil) != (tt.wantError == "") || err != nil && err.Error() != tt.wantError {
				t.Fatalf("error %v, want %q", err, tt.wantError)
			}
			if got != tt.want {
				t.Errorf("password %q, want %q", string(got), string(tt.want))
			}
		})
	}
}
