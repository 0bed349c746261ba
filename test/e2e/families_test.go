// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
)

const (
	single  = corev1.IPFamilyPolicySingleStack
	prefer  = corev1.IPFamilyPolicyPreferDualStack
	require = corev1.IPFamilyPolicyRequireDualStack
	v4      = corev1.IPv4Protocol
	v6      = corev1.IPv6Protocol
)

// promptly bounds the waits for what is to happen within two seconds.
const promptly = 2 * time.Second

func TestServicesGetTheFamiliesTheyAskForInTheirOrder(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	for _, row := range []struct {
		name     string
		policy   corev1.IPFamilyPolicy
		families []corev1.IPFamily
		want     []corev1.IPFamily
	}{
		{"SingleStack IPv4", single, []corev1.IPFamily{v4}, []corev1.IPFamily{v4}},
		{"SingleStack IPv6", single, []corev1.IPFamily{v6}, []corev1.IPFamily{v6}},
		{"PreferDualStack IPv4", prefer, []corev1.IPFamily{v4}, []corev1.IPFamily{v4, v6}},
		{"PreferDualStack IPv6", prefer, []corev1.IPFamily{v6}, []corev1.IPFamily{v6, v4}},
		{"PreferDualStack IPv4,IPv6", prefer, []corev1.IPFamily{v4, v6}, []corev1.IPFamily{v4, v6}},
		{"PreferDualStack IPv6,IPv4", prefer, []corev1.IPFamily{v6, v4}, []corev1.IPFamily{v6, v4}},
		{"RequireDualStack IPv4", require, []corev1.IPFamily{v4}, []corev1.IPFamily{v4, v6}},
		{"RequireDualStack IPv6", require, []corev1.IPFamily{v6}, []corev1.IPFamily{v6, v4}},
		{"RequireDualStack IPv4,IPv6", require, []corev1.IPFamily{v4, v6}, []corev1.IPFamily{v4, v6}},
		{"RequireDualStack IPv6,IPv4", require, []corev1.IPFamily{v6, v4}, []corev1.IPFamily{v6, v4}},
	} {
		t.Run(row.name, func(t *testing.T) {
			svc := s.service("order", row.families...)
			svc.Spec.IPFamilyPolicy = &row.policy
			s.add(t, svc)
			ips := s.addresses(t, svc.Name, len(row.want))
			if diff := cmp.Diff(row.want, families(t, ips)); diff != "" {
				t.Errorf("families of %v (-want +got):\n%s", ips, diff)
			}
			if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(svc), svc); err != nil {
				t.Fatal(err)
			}
			for _, ingress := range svc.Status.LoadBalancer.Ingress {
				if ingress.IPMode == nil || *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
					t.Errorf("%s: ipMode = %v, want VIP", ingress.IP, ptr.Deref(ingress.IPMode, "nil"))
				}
			}
			s.claimsBecome(t, pairs(svc.Name, ips...))
			s.remove(t, svc)
			s.claimsBecome(t, nil)
		})
	}
}

// A cluster without a pool for one of the families.
func TestRequireDualStackTakesBothOrNothing(t *testing.T) {
	for _, row := range []struct {
		missing corev1.IPFamily
		there   string
		late    string
	}{
		{v6, lanIPv4, lanIPv6},
		{v4, lanIPv6, lanIPv4},
	} {
		t.Run("without an "+string(row.missing)+" pool", func(t *testing.T) {
			s := newStage(t, dual)
			s.pool(t, "", row.there)
			s.add(t, s.service("pair", v4, v6))
			s.event(t, "pair", "SyncLoadBalancerFailed", string(row.missing), "add spec."+strings.ToLower(string(row.missing)))
			s.claimsBecome(t, nil)
			if ips := s.addresses(t, "pair", 0); len(ips) > 0 {
				t.Errorf("addresses = %v, want none", ips)
			}
			start := time.Now()
			s.pool(t, "-late", row.late)
			ips := s.addressesPromptly(t, "pair", 2)
			t.Logf("complete %v after the pool was created", time.Since(start).Round(time.Millisecond))
			s.claimsBecome(t, pairs("pair", ips...))
		})
	}
}

func TestPreferDualStackTakesWhatThereIsAndTheRestWhenItComes(t *testing.T) {
	for _, row := range []struct {
		name     string
		families []corev1.IPFamily
		there    string
		add      func(*testing.T, *stage)
	}{
		{"the IPv6 pool is created later", []corev1.IPFamily{v4, v6}, lanIPv4, func(t *testing.T, s *stage) { s.pool(t, "-late", lanIPv6) }},
		{"the IPv4 pool is created later", []corev1.IPFamily{v4, v6}, lanIPv6, func(t *testing.T, s *stage) { s.pool(t, "-late", lanIPv4) }},
		{"the pool is widened later", []corev1.IPFamily{v6, v4}, lanIPv6, func(t *testing.T, s *stage) {
			pool := &ipamv1alpha1.AddressPool{}
			pool.Name = s.ns
			s.patch(t, pool, `{spec: {ipv4: {ranges: ["`+lanIPv4+`"]}}}`)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			s.pool(t, "", row.there)
			svc := s.service("pair", row.families...)
			svc.Spec.IPFamilyPolicy = new(prefer)
			s.add(t, svc)
			first := s.addresses(t, "pair", 1)
			missing := v4
			if families(t, first)[0] == v4 {
				missing = v6
			}
			s.event(t, "pair", "MissingAddress", string(missing), "add spec."+strings.ToLower(string(missing)))
			s.claimsBecome(t, pairs("pair", first...))
			start := time.Now()
			row.add(t, s)
			ips := s.addressesPromptly(t, "pair", 2)
			t.Logf("complete after %v", time.Since(start).Round(time.Millisecond))
			if diff := cmp.Diff(row.families, families(t, ips)); diff != "" {
				t.Errorf("families of %v (-want +got):\n%s", ips, diff)
			}
			if !slices.Contains(ips, first[0]) {
				t.Errorf("addresses = %v, want %s to stay", ips, first[0])
			}
			s.claimsBecome(t, pairs("pair", ips...))
		})
	}
	t.Run("a deleted Service frees the missing address", func(t *testing.T) {
		s := newStage(t, dual)
		s.pool(t, "", lanIPv4, "2001:db8:51::1000/128")
		owner := s.service("owner", v6)
		s.add(t, owner)
		s.addresses(t, "owner", 1)
		svc := s.service("pair", v4, v6)
		svc.Spec.IPFamilyPolicy = new(prefer)
		s.add(t, svc)
		first := s.addresses(t, "pair", 1)
		s.event(t, "pair", "MissingAddress", "IPv6", s.ns)
		s.remove(t, owner)
		if diff := cmp.Diff([]string{first[0], "2001:db8:51::1000"}, s.addressesPromptly(t, "pair", 2)); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
}

func TestAServiceKeepsTheAddressOfTheFamilyItKeeps(t *testing.T) {
	for _, first := range []corev1.IPFamily{v4, v6} {
		t.Run("from "+string(first)+" to both and back", func(t *testing.T) {
			s := newStage(t, dual)
			s.pool(t, "", lanIPv4, lanIPv6)
			svc := s.service("web", first)
			s.add(t, svc)
			before := s.addresses(t, "web", 1)

			s.patch(t, svc, `{spec: {ipFamilyPolicy: RequireDualStack}}`)
			pair := s.addressesPromptly(t, "web", 2)
			if pair[0] != before[0] {
				t.Errorf("addresses = %v, want %s to stay the first", pair, before[0])
			}
			s.claimsBecome(t, pairs("web", pair...))

			start := time.Now()
			s.patch(t, svc, fmt.Sprintf(`{spec: {ipFamilyPolicy: SingleStack, ipFamilies: [%s], clusterIPs: [%q]}}`, first, svc.Spec.ClusterIPs[0]))
			if diff := cmp.Diff(before, s.addressesPromptly(t, "web", 1)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			s.claimsBecome(t, pairs("web", before...))
			t.Logf("released after %v", time.Since(start).Round(time.Millisecond))
		})
	}
}

func TestAServiceThatWantsNoAddressFreesIt(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	t.Run("type ClusterIP", func(t *testing.T) {
		svc := s.service("web", v4, v6)
		s.add(t, svc)
		s.claimsBecome(t, pairs("web", s.addresses(t, "web", 2)...))
		s.patch(t, svc, `{spec: {type: ClusterIP}}`)
		s.claimsBecome(t, nil)
		s.addressesPromptly(t, "web", 0)
		s.remove(t, svc)
	})
	t.Run("deleted", func(t *testing.T) {
		svc := s.service("web", v4, v6)
		s.add(t, svc)
		s.claimsBecome(t, pairs("web", s.addresses(t, "web", 2)...))
		s.remove(t, svc)
		s.claimsBecome(t, nil)
		s.usage(t, "", 0, 0)
	})
}

// A Service that never was a load balancer of ours bears the finalizer of one, as after the end of another provider or from a backup.
func TestAnOrphanedFinalizerHoldsUpNoDeletion(t *testing.T) {
	s := newStage(t, dual)
	orphan := s.service("orphan", v4)
	orphan.Spec.Type = corev1.ServiceTypeClusterIP
	orphan.Finalizers = []string{ipamv1alpha1.Finalizer}
	s.add(t, orphan)
	t.Cleanup(func() { // so that a failure leaves no namespace behind that cannot be deleted
		none := client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`))
		if err := s.Patch(context.Background(), orphan, none); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	s.remove(t, orphan)
}

func TestOnlyOurLoadBalancerClassIsServed(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	other := s.service("other", v4, v6)
	other.Spec.LoadBalancerClass = new("example.com/other")
	// On account of this finalizer the upstream controller would clean up.
	other.Finalizers = []string{"service.kubernetes.io/load-balancer-cleanup"}
	s.add(t, other)
	ours := s.service("ours", v4, v6)
	ours.Spec.LoadBalancerClass = new(ipamv1alpha1.LoadBalancerClass)
	s.add(t, ours)

	s.claimsBecome(t, pairs("ours", s.addresses(t, "ours", 2)...))
	s.remove(t, ours)
	s.claimsBecome(t, nil)

	// Ours has come and gone meanwhile, so that other would have got its addresses, had anyone looked at it.
	if err := s.Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	late := s.service("late", v4, v6)
	s.add(t, late)
	s.addresses(t, "late", 2)
	if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(other), other); err != nil {
		t.Fatalf("the other provider's Service is gone, its finalizer taken: %v", err)
	}
	if len(other.Finalizers) != 1 || len(other.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("finalizers %v, status %v, want the one that is the other provider's and no address", other.Finalizers, other.Status)
	}
	s.patch(t, other, `{metadata: {finalizers: null}}`)
}

// pairs returns the claims of one Service on addresses.
func pairs(service string, ips ...string) map[string]string {
	claims := map[string]string{}
	for _, ip := range ips {
		claims[ip] = service
	}
	return claims
}

// claimsBecome waits until the claims of the stage are exactly these.
func (s *stage) claimsBecome(t *testing.T, want map[string]string) {
	t.Helper()
	s.until(t, promptly, "the claims", func(ctx context.Context) (bool, string) {
		if want == nil {
			want = map[string]string{}
		}
		diff := cmp.Diff(want, s.claims(ctx, t))
		return diff == "", "(-want +got)\n" + diff
	})
}

// addressesPromptly waits for no longer than promptly until the Service publishes n addresses.
func (s *stage) addressesPromptly(t *testing.T, name string, n int) []string {
	t.Helper()
	var ips []string
	s.until(t, promptly, fmt.Sprintf("%d addresses of Service %s", n, name), func(ctx context.Context) (bool, string) {
		var svc corev1.Service
		if err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: name}, &svc); err != nil {
			return false, err.Error()
		}
		ips = cluster.IPs(&svc)
		return len(ips) == n, fmt.Sprintf("it has %v", ips)
	})
	return ips
}
