// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// TestWaysOfChoosing asks once in every way that pools and Services have to say which address it shall be. In each row the Service of
// interest comes last.
func TestWaysOfChoosing(t *testing.T) {
	type services []*corev1.Service
	service := func(name string, edits ...func(*corev1.Service)) *corev1.Service {
		svc := (&stage{}).service(name, v4)
		svc.Labels = map[string]string{"tier": "edge"}
		svc.Annotations = map[string]string{}
		for _, edit := range edits {
			edit(svc)
		}
		return svc
	}
	annotated := func(annotation, value string) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Annotations[annotation] = value }
	}
	port := func(n int32) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Spec.Ports[0].Port = n }
	}
	const selected = `namespaceSelectors: [{matchLabels: {kubernetes.io/metadata.name: $NS}}]`
	for _, row := range []struct {
		name     string
		pools    []string // specs, of pools named $NS-a, $NS-b and so on
		services services
		want     string
	}{
		{
			"the lower priority first", []string{
				`{priority: 20, ipv4: {ranges: [10.202.0.1/32]}, ` + selected + `}`,
				`{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
				`{priority: 10, ipv4: {ranges: [10.202.0.3/32]}, ` + selected + `}`,
			}, services{service("web")}, "10.202.0.3",
		},
		{
			"a pool whose serviceSelectors match", []string{
				`{ipv4: {ranges: [10.202.0.1/32]}, serviceSelectors: [{matchLabels: {tier: core}}], ` + selected + `}`,
				`{ipv4: {ranges: [10.202.0.2/32]}, serviceSelectors: [{matchExpressions: [{key: tier, operator: In, values: [edge]}]}], ` + selected + `}`,
			}, services{service("web")}, "10.202.0.2",
		},
		{
			"a pool whose namespaceSelectors match", []string{
				`{ipv4: {ranges: [10.202.0.1/32]}, namespaceSelectors: [{matchLabels: {kubernetes.io/metadata.name: default}}]}`,
				`{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
			}, services{service("web")}, "10.202.0.2",
		},
		{
			"not a pool without autoAssign", []string{
				`{autoAssign: false, ipv4: {ranges: [10.202.0.1/32]}, ` + selected + `}`,
				`{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
			}, services{service("web")}, "10.202.0.2",
		},
		{
			"a pool without autoAssign by its name", []string{
				`{autoAssign: false, ipv4: {ranges: [10.202.0.1/32]}, ` + selected + `}`,
				`{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
			}, services{service("web", annotated(ipamv1alpha1.AnnotationAddressPool, "$NS-a"))}, "10.202.0.1",
		},
		{
			"a pool by MetalLB's annotation", []string{
				`{ipv4: {ranges: [10.202.0.1/32]}, ` + selected + `}`, `{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
			}, services{service("web", annotated(ipamv1alpha1.MetalLBAnnotationAddressPool, "$NS-b"))}, "10.202.0.2",
		},
		{
			"a pool by MetalLB's older annotation", []string{
				`{ipv4: {ranges: [10.202.0.1/32]}, ` + selected + `}`, `{ipv4: {ranges: [10.202.0.2/32]}, ` + selected + `}`,
			}, services{service("web", annotated(ipamv1alpha1.MetalLBLegacyAnnotationAddressPool, "$NS-b"))}, "10.202.0.2",
		},
		{
			"an address by MetalLB's annotation",
			[]string{`{ipv4: {ranges: [10.202.0.0/28]}, ` + selected + `}`},
			services{service("web", annotated(ipamv1alpha1.MetalLBAnnotationLoadBalancerIPs, "10.202.0.7"))},
			"10.202.0.7",
		},
		{
			"an address by spec.loadBalancerIP",
			[]string{`{ipv4: {ranges: [10.202.0.0/28]}, ` + selected + `}`},
			services{service("web", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "10.202.0.8" })},
			"10.202.0.8",
		},
		{
			"no buggy address",
			[]string{`{avoidBuggyIPs: true, ipv4: {ranges: [10.202.0.255-10.202.1.9]}, ` + selected + `}`},
			services{service("web")},
			"10.202.1.1",
		},
		{
			"no excluded address",
			[]string{`{ipv4: {ranges: [10.202.0.0/28], exclude: [10.202.0.0/30, 10.202.0.4-10.202.0.5]}, ` + selected + `}`},
			services{service("web")},
			"10.202.0.6",
		},
		{
			"a shared address by MetalLB's annotation",
			[]string{`{ipv4: {ranges: [10.202.0.0/28]}, ` + selected + `}`},
			services{
				service("one", annotated(ipamv1alpha1.MetalLBAnnotationAllowSharedIP, "key")),
				service("two", port(81)),
				service("web", annotated(ipamv1alpha1.MetalLBLegacyAnnotationAllowSharedIP, "key"), port(81)),
			},
			"10.202.0.0",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			for i, spec := range row.pools {
				s.create(t, fmt.Sprintf(`{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS-%c}, spec: %s}`, 'a'+i, spec))
			}
			s.poolsReady(t, len(row.pools)) // which the controller manager knows from then on
			var ips []string
			for _, svc := range row.services {
				svc.Namespace = s.ns
				for key, value := range svc.Annotations {
					svc.Annotations[key] = strings.ReplaceAll(value, "$NS", s.ns)
				}
				s.add(t, svc)
				ips = s.addresses(t, svc.Name, 1)
			}
			if got := strings.Join(ips, " "); got != row.want {
				t.Errorf("address = %s, want %s", got, row.want)
			}
		})
	}
}

// A Service that is deleted and created again gets the addresses that it had, although other Services were created meanwhile.
func TestAStablePoolGivesTheSameAddressAgain(t *testing.T) {
	s := newStage(t, dual)
	// A Stable pool begins its search at a hash of the Service's name. If two names had the same hash, the Service that comes first would
	// have the address; among four million addresses, five names (which are others in each run) have five hashes.
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS}, spec: {allocation: Stable,
  ipv4: {ranges: [10.0.0.0/10]}, ipv6: {ranges: ["fd00:202::/64"]}, namespaceSelectors: [{matchLabels: {kubernetes.io/metadata.name: $NS}}]}}`)
	want := map[string][]string{}
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		s.add(t, s.service(name, v4, v6))
		want[name] = s.addresses(t, name, 2)
	}
	for _, name := range names {
		svc := &corev1.Service{}
		if err := s.Client.Get(t.Context(), client.ObjectKey{Namespace: s.ns, Name: name}, svc); err != nil {
			t.Fatal(err)
		}
		s.remove(t, svc)
	}
	s.claimsBecome(t, nil)
	s.add(t, s.service("new", v4, v6))
	s.addresses(t, "new", 2)
	for _, name := range []string{"c", "a", "d", "b"} {
		s.add(t, s.service(name, v4, v6))
		if diff := cmp.Diff(want[name], s.addresses(t, name, 2)); diff != "" {
			t.Errorf("addresses of %s (-before +after):\n%s", name, diff)
		}
	}
}
