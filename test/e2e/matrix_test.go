// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
)

// familyCase is one way in which a Service comes to ask for addresses. Each case has Services, pools and addresses of its own, so that all
// of them can play at the same time.
type familyCase struct {
	number int
	policy corev1.IPFamilyPolicy
	asks   []corev1.IPFamily   // in order; the first never changes, the API server sees to that
	had    []corev1.IPFamily   // what the Service had before, in order
	pools  [][]corev1.IPFamily // what each pool has when the Service asks
	manual bool                // the pools have autoAssign off
}

// familyCases returns every combination for a cluster of these families: policy, order, what the pools hold, and what the Service had
// before, as far as the API server lets a Service come there.
func familyCases(clusterFamilies ...corev1.IPFamily) []familyCase {
	var cases []familyCase
	for _, first := range clusterFamilies {
		second := v4
		if first == v4 {
			second = v6
		}
		had := [][]corev1.IPFamily{nil, {first}}
		asks := map[corev1.IPFamilyPolicy][]corev1.IPFamily{single: {first}, prefer: {first}}
		if len(clusterFamilies) == 2 {
			had = append(had, []corev1.IPFamily{second}, []corev1.IPFamily{first, second})
			asks[prefer], asks[require] = []corev1.IPFamily{first, second}, []corev1.IPFamily{first, second}
		}
		for _, policy := range []corev1.IPFamilyPolicy{single, prefer, require} {
			if asks[policy] == nil {
				continue
			}
			for _, before := range had {
				for _, pools := range [][][]corev1.IPFamily{nil, {{v4}}, {{v6}}, {{v4, v6}}, {{v4}, {v6}}} {
					cases = append(cases, familyCase{policy: policy, asks: asks[policy], had: before, pools: pools})
				}
				cases = append(cases, familyCase{policy: policy, asks: asks[policy], had: before, pools: [][]corev1.IPFamily{{v4, v6}}, manual: true})
			}
		}
	}
	for i := range cases {
		cases[i].number = i
	}
	return cases
}

func (c familyCase) String() string {
	pools := fmt.Sprint(c.pools)
	if c.manual {
		pools += " without autoAssign"
	}
	return fmt.Sprintf("%s of %v from pools %s after %v", c.policy, c.asks, pools, c.had)
}

func (c familyCase) service() string { return fmt.Sprintf("case-%d", c.number) }

// oldIPs and newIPs are the addresses that the case's Service had before and can get when it asks.
func (c familyCase) oldIPs() map[corev1.IPFamily]string {
	return map[corev1.IPFamily]string{v4: fmt.Sprintf("10.200.%d.1", c.number), v6: fmt.Sprintf("fd00:200:0:%x::1", c.number)}
}

func (c familyCase) newIPs() map[corev1.IPFamily]string {
	return map[corev1.IPFamily]string{v4: fmt.Sprintf("10.201.%d.1", c.number), v6: fmt.Sprintf("fd00:201:0:%x::1", c.number)}
}

// before returns what the Service publishes before it asks.
func (c familyCase) before() []string {
	var ips []string
	for _, family := range c.had {
		ips = append(ips, c.oldIPs()[family])
	}
	return ips
}

// want returns what the Service is to publish in the end. Three rules say what is right: a family can be had if the Service has an
// address of it or a pool does; PreferDualStack needs one family, the other policies all that they ask for; and a Service whose request is
// refused keeps its addresses.
func (c familyCase) want() (ips []string, refused corev1.IPFamily) {
	var missing []corev1.IPFamily
	for _, family := range c.asks {
		switch {
		case slices.Contains(c.had, family):
			ips = append(ips, c.oldIPs()[family])
		case !c.manual && slices.ContainsFunc(c.pools, func(pool []corev1.IPFamily) bool { return slices.Contains(pool, family) }):
			ips = append(ips, c.newIPs()[family])
		default:
			missing = append(missing, family)
		}
	}
	if len(ips) == 0 || len(missing) > 0 && c.policy != prefer {
		return c.before(), missing[0]
	}
	return ips, ""
}

func TestEveryCaseOfFamilies(t *testing.T) {
	playEveryCase(t, dual, v4, v6)
}

// playEveryCase plays all cases of a cluster of these families at once.
func playEveryCase(t *testing.T, on *cluster.Cluster, clusterFamilies ...corev1.IPFamily) {
	s := newStage(t, on)
	cases := familyCases(clusterFamilies...)
	old := map[int][]client.Object{}
	for _, c := range cases {
		if len(c.had) == 0 {
			continue
		}
		old[c.number] = append(old[c.number], s.casePool(t, c, "old", c.oldIPs(), c.had))
		svc := s.caseService(c)
		svc.Spec.IPFamilies = c.asks[:1]
		switch {
		case len(c.had) == 2:
			svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = c.had, new(require)
		case c.had[0] != c.asks[0]: // it has had the other family alone, for want of the first
			svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = []corev1.IPFamily{c.asks[0], c.had[0]}, new(prefer)
		default:
			svc.Spec.IPFamilyPolicy = new(single)
		}
		s.add(t, svc)
	}
	for _, c := range cases {
		s.publishes(t, c, c.before())
	}

	for _, c := range cases {
		for _, pool := range old[c.number] {
			if err := s.Delete(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
		}
		for i, families := range c.pools {
			s.casePool(t, c, fmt.Sprintf("new%d", i), c.newIPs(), families)
		}
		svc := s.caseService(c)
		if len(c.had) == 0 {
			s.add(t, svc)
			continue
		}
		if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(svc), svc); err != nil {
			t.Fatal(err)
		}
		// A change of the policy alone is no news to the upstream service controller, a change of an annotation is.
		patch := fmt.Sprintf(`{metadata: {annotations: {case: asks}}, spec: {ipFamilyPolicy: %s}}`, c.policy)
		if len(c.asks) == 1 { // the second family goes by leaving it out
			patch = fmt.Sprintf(`{metadata: {annotations: {case: asks}}, spec: {ipFamilyPolicy: %s, ipFamilies: [%s], clusterIPs: [%q]}}`,
				c.policy, c.asks[0], svc.Spec.ClusterIPs[0])
		}
		s.patch(t, svc, patch)
	}
	// The second look finds what happened after the first, if there is anything.
	for _, look := range []string{"", ", later"} {
		for _, c := range cases {
			t.Run(c.String()+look, func(t *testing.T) {
				ips, refused := c.want()
				if refused != "" {
					s.event(t, c.service(), "SyncLoadBalancerFailed", string(refused))
				}
				s.publishes(t, c, ips)
			})
		}
	}
	want := map[string]string{}
	for _, c := range cases {
		ips, _ := c.want()
		for _, ip := range ips {
			want[ip] = c.service()
		}
	}
	s.claimsBecome(t, want)
	t.Logf("%d cases", len(cases))
}

// caseService returns the Service of a case as it asks, which has not been created.
func (s *stage) caseService(c familyCase) *corev1.Service {
	svc := s.service(c.service(), c.asks...)
	svc.Labels = map[string]string{"case": svc.Name}
	svc.Spec.IPFamilyPolicy = new(c.policy)
	return svc
}

// casePool creates a pool for the Service of a case alone, with one address for each of these families.
func (s *stage) casePool(
	t *testing.T, c familyCase, name string, ips map[corev1.IPFamily]string, families []corev1.IPFamily,
) *ipamv1alpha1.AddressPool {
	t.Helper()
	pool := &ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: s.ns + "-" + c.service() + "-" + name}}
	pool.Spec.ServiceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"case": c.service()}}}
	pool.Spec.AutoAssign = new(name == "old" || !c.manual)
	for _, family := range families {
		if family == v4 {
			pool.Spec.IPv4 = &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{ipamv1alpha1.IPv4Range(ips[v4] + "/32")}}
		} else {
			pool.Spec.IPv6 = &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{ipamv1alpha1.IPv6Range(ips[v6] + "/128")}}
		}
	}
	s.add(t, pool)
	return pool
}

// publishes waits until the Service of a case publishes exactly these addresses.
func (s *stage) publishes(t *testing.T, c familyCase, want []string) {
	t.Helper()
	s.until(t, patience, strings.Join(want, " and ")+" in the status of "+c.service(), func(ctx context.Context) (bool, string) {
		var svc corev1.Service
		if err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: c.service()}, &svc); err != nil {
			return apierrors.IsNotFound(err) && len(want) == 0, err.Error()
		}
		diff := cmp.Diff(want, cluster.IPs(&svc))
		return diff == "", "(-want +got)\n" + diff
	})
}
