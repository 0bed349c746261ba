// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// with sets an annotation.
func with(svc *corev1.Service, annotation, value string) *corev1.Service {
	svc.Annotations = map[string]string{annotation: value}
	return svc
}

// claimUIDs returns the UIDs of the claims on addresses.
func (s *stage) claimUIDs(t *testing.T, ips []string) (uids []types.UID) {
	t.Helper()
	for _, ip := range ips {
		var claim networkingv1.IPAddress
		if err := s.Client.Get(t.Context(), client.ObjectKey{Name: ip}, &claim); err != nil {
			t.Fatal(err)
		}
		uids = append(uids, claim.UID)
	}
	return uids
}

func TestAClaimThatSomebodyDeletedIsRestored(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	for _, ip := range ips {
		claim := &networkingv1.IPAddress{}
		if err := s.Client.Get(t.Context(), client.ObjectKey{Name: ip}, claim); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		s.until(t, patience, "another claim on "+ip, func(ctx context.Context) (bool, string) {
			var again networkingv1.IPAddress
			if err := s.Client.Get(ctx, client.ObjectKey{Name: ip}, &again); err != nil {
				return false, err.Error()
			}
			return again.UID != claim.UID && again.Spec.ParentRef.Name == "web", again.String()
		})
	}
	if diff := cmp.Diff(ips, s.addresses(t, "web", 2)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestAnAddressThatIsAClusterIPIsSteppedOver(t *testing.T) {
	s := newStage(t, dual)
	inside := s.service("inside", v4, v6)
	inside.Spec.Type = corev1.ServiceTypeClusterIP
	inside.Spec.ClusterIP, inside.Spec.ClusterIPs = "10.96.200.1", []string{"10.96.200.1", "fd00:96::c801"}
	s.add(t, inside)
	s.pool(t, "", "10.96.200.1-10.96.200.2", "fd00:96::c801-fd00:96::c802")
	s.add(t, s.service("web", v4, v6))
	if diff := cmp.Diff([]string{"10.96.200.2", "fd00:96::c802"}, s.addresses(t, "web", 2)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestFixedAddressesAreGivenOrRefused(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	for _, row := range []struct {
		name string
		svc  *corev1.Service
		want []string
	}{
		{
			"both families",
			with(s.service("both", v4, v6), ipamv1alpha1.AnnotationLoadBalancerIPs, "2001:db8:51::1042, 198.51.100.222"),
			[]string{"198.51.100.222", "2001:db8:51::1042"},
		},
		{
			"one family, and any address of the other",
			with(s.service("one", v6, v4), ipamv1alpha1.AnnotationLoadBalancerIPs, "198.51.100.223"),
			[]string{"2001:db8:51::1000", "198.51.100.223"},
		},
		{
			"MetalLB's annotation",
			with(s.service("metallb", v4, v6), "metallb.universe.tf/loadBalancerIPs", "198.51.100.224,2001:db8:51::1044"),
			[]string{"198.51.100.224", "2001:db8:51::1044"},
		},
		{
			"spec.loadBalancerIP",
			func() *corev1.Service {
				svc := s.service("field", v6)
				svc.Spec.LoadBalancerIP = "2001:db8:51::1045"
				return svc
			}(),
			[]string{"2001:db8:51::1045"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.add(t, row.svc)
			if diff := cmp.Diff(row.want, s.addresses(t, row.svc.Name, len(row.want))); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("an address that another Service has", func(t *testing.T) {
		s.add(t, with(s.service("taken", v4), ipamv1alpha1.AnnotationLoadBalancerIPs, "198.51.100.222"))
		s.event(t, "taken", "SyncLoadBalancerFailed", "198.51.100.222", s.ns+"/both")
	})
	t.Run("a change that cannot be met leaves the addresses as they are", func(t *testing.T) {
		before := s.addresses(t, "both", 2)
		svc := &corev1.Service{ObjectMeta: s.service("both").ObjectMeta}
		s.patch(t, svc, `{metadata: {annotations: {`+ipamv1alpha1.AnnotationLoadBalancerIPs+`: 192.0.2.77}}}`)
		s.event(t, "both", "SyncLoadBalancerFailed", "192.0.2.77", s.ns)
		if diff := cmp.Diff(before, s.addresses(t, "both", 2)); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
}

// Annotations as users of MetalLB have typed them, of which two cannot be met.
func TestFixedAddressesAsTyped(t *testing.T) {
	s := newStage(t, dual)
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS-odd}, spec: {autoAssign: false,
  ipv4: {ranges: [192.168.20.7/24, 192.168.21.0/31, 192.168.21.9/32]}}}`)
	opposite := with(s.service("opposite", v4), ipamv1alpha1.MetalLBAnnotationAddressPool, s.ns+"-odd")
	opposite.Annotations[ipamv1alpha1.MetalLBAnnotationLoadBalancerIPs] = "192.168.1.210"
	s.add(t, opposite)
	s.event(t, "opposite", "SyncLoadBalancerFailed", "192.168.1.210", "in no pool")
	keycloak := with(s.service("keycloak", v4, v6), ipamv1alpha1.MetalLBLegacyAnnotationLoadBalancerIPs, "146.103.52.6, 2001:67c:2284::6")
	keycloak.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyPreferDualStack)
	s.add(t, keycloak)
	s.event(t, "keycloak", "SyncLoadBalancerFailed", "146.103.52.6", "2001:67c:2284::6")
	if claims := s.claims(t.Context(), t); len(claims) != 0 {
		t.Errorf("claims = %v, want none", claims)
	}
	s.pool(t, "", "146.103.52.0/28", "2001:67c:2284::/124")
	if diff := cmp.Diff([]string{"146.103.52.6", "2001:67c:2284::6"}, s.addresses(t, "keycloak", 2)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestAPoolForEachFamilyIsChosenByAnnotation(t *testing.T) {
	s := newStage(t, dual)
	for _, pool := range []*ipamv1alpha1.AddressPool{s.pool(t, "-ipv4", "203.0.113.0/25"), s.pool(t, "-ipv6", "2001:db8:1::/65")} {
		s.patch(t, pool, `{spec: {autoAssign: false}}`)
	}
	s.pool(t, "", lanIPv4, lanIPv6)
	s.add(t, with(s.service("production", v6, v4), ipamv1alpha1.AnnotationAddressPool, s.ns+"-ipv4,"+s.ns+"-ipv6"))
	if diff := cmp.Diff([]string{"2001:db8:1::", "203.0.113.0"}, s.addresses(t, "production", 2)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	s.add(t, s.service("other", v4, v6))
	if diff := cmp.Diff([]string{"198.51.100.200", "2001:db8:51::1000"}, s.addresses(t, "other", 2)); diff != "" {
		t.Errorf("addresses of a Service without the annotation (-want +got):\n%s", diff)
	}
	s.add(t, with(s.service("unknown", v4, v6), ipamv1alpha1.AnnotationAddressPool, "no-such-pool"))
	s.event(t, "unknown", "SyncLoadBalancerFailed", `"no-such-pool", which does not exist`, "create it or change the annotation")
}

func TestServicesShareAddressesByKey(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	port := func(svc *corev1.Service, n int32) *corev1.Service {
		svc.Spec.Ports = []corev1.ServicePort{{Port: n, TargetPort: intstr.FromInt32(8080)}}
		return with(svc, ipamv1alpha1.AnnotationAllowSharedIP, "web")
	}
	fixed := func(svc *corev1.Service, ips []string) *corev1.Service {
		svc.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = ips[0] + "," + ips[1]
		return svc
	}
	first := port(s.service("first", v4, v6), 80)
	s.add(t, first)
	ips := s.addresses(t, "first", 2)
	s.add(t, fixed(port(s.service("second", v4, v6), 443), ips))
	if diff := cmp.Diff(ips, s.addresses(t, "second", 2)); diff != "" {
		t.Errorf("addresses of the second (-want +got):\n%s", diff)
	}
	s.claimsBecome(t, pairs("first", ips...))

	s.add(t, fixed(port(s.service("same-port", v4, v6), 443), ips))
	s.event(t, "same-port", "SyncLoadBalancerFailed", ips[0], "443")
	s.remove(t, s.service("same-port")) // which would be given the addresses when the second is gone

	// The claims stay as they are for the Service that is left, and go with it.
	before := s.claimUIDs(t, ips)
	s.remove(t, first)
	if diff := cmp.Diff(ips, s.addresses(t, "second", 2)); diff != "" {
		t.Errorf("addresses of the second after the first is gone (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, s.claimUIDs(t, ips)); diff != "" {
		t.Errorf("claims after the first is gone (-want +got):\n%s", diff)
	}
	s.remove(t, s.service("second"))
	s.claimsBecome(t, nil)
}

func TestAPoolEditStrandsAddressesAndTakesNone(t *testing.T) {
	s := newStage(t, dual)
	pool := s.pool(t, "", lanIPv4, lanIPv6)
	svc := s.service("web", v4, v6)
	s.add(t, svc)
	before := s.addresses(t, "web", 2)
	s.patch(t, pool, `{spec: {ipv4: {ranges: ["198.51.100.230-198.51.100.239"]}}}`)
	s.until(t, patience, "the condition Stranded", func(ctx context.Context) (bool, string) {
		if err := s.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(pool.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == ipamv1alpha1.ConditionStranded && c.Status == "True"
		}), fmt.Sprintf("%+v", pool.Status.Conditions)
	})
	if diff := cmp.Diff(before, s.addresses(t, "web", 2)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	s.patch(t, svc, `{metadata: {annotations: {`+ipamv1alpha1.AnnotationReallocate+`: "true"}}}`)
	s.until(t, patience, "an address that the pool has", func(ctx context.Context) (bool, string) {
		ips := s.addresses(t, "web", 2)
		return slices.Equal(ips, []string{"198.51.100.230", before[1]}), fmt.Sprint(ips)
	})
	s.claimsBecome(t, pairs("web", "198.51.100.230", before[1]))
}
