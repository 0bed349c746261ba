// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// twoTeams returns the stages of two teams on one cluster, and a pool with that spec for both.
func twoTeams(t *testing.T, spec string) (a, b *stage, pool string) {
	t.Helper()
	a, b = newStage(t, dual), newStage(t, dual)
	a.create(t, fmt.Sprintf(`
apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: $NS}
spec:
  namespaceSelectors: [{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [$NS, %s]}]}]
  ipv4: {ranges: [192.0.2.64/28]}
  %s
`, b.ns, spec))
	return a, b, a.ns
}

// shared returns a Service with that sharing key and port, which consents to sharing with the namespaces.
func (s *stage) shared(name, key string, port int32, namespaces string) *corev1.Service {
	svc := with(s.service(name, v4), ipamv1alpha1.AnnotationAllowSharedIP, key)
	if namespaces != "" {
		svc.Annotations[ipamv1alpha1.AnnotationShareWithNamespaces] = namespaces
	}
	svc.Spec.Ports[0].Port = port
	return svc
}

// A sharing key is no secret. The address is shared with another namespace where both sides consent, and nowhere else.
func TestTeamsShareAnAddressWhereBothConsent(t *testing.T) {
	a, b, _ := twoTeams(t, "")
	a.add(t, a.shared("front", "web", 80, ""))
	of := func(s *stage, name string) string { t.Helper(); return s.addresses(t, name, 1)[0] }
	theirs := of(a, "front")
	b.add(t, b.shared("guess", "web", 81, ""))
	if got := of(b, "guess"); got == theirs {
		t.Errorf("a Service of another namespace got %s by its sharing key", got)
	}
	b.event(t, "guess", ipamv1alpha1.EventNotShared, ipamv1alpha1.AnnotationShareWithNamespaces, a.ns)
	b.add(t, b.shared("alone", "web", 82, a.ns))
	if got := of(b, "alone"); got == theirs {
		t.Errorf("a Service of another namespace got %s by its own consent", got)
	}
	fixed := b.shared("fixed", "web", 83, a.ns)
	fixed.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = theirs
	b.add(t, fixed)
	b.event(t, "fixed", "SyncLoadBalancerFailed", theirs, a.ns+"/front")

	a.add(t, a.shared("agreed", "both", 80, b.ns))
	both := of(a, "agreed")
	b.add(t, b.shared("agreed", "both", 81, a.ns))
	if got := of(b, "agreed"); got != both {
		t.Errorf("the address of the second Service is %s, want the %s that both consent to share", got, both)
	}
}

// A limit of a namespace holds over a restart of the controller managers, and is no limit of another namespace.
func TestTheLimitOfATeamHoldsOverARestart(t *testing.T) {
	a, b, pool := twoTeams(t, "limits: {perNamespace: {ipv4: 2}}")
	refused := func(name string) {
		t.Helper()
		a.add(t, a.service(name, v4))
		a.event(t, name, "SyncLoadBalancerFailed", "2 of 2", pool)
		a.says(t, name, ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionFalse, "2 of 2")
	}
	for _, name := range []string{"one", "two"} {
		a.add(t, a.service(name, v4))
		a.addresses(t, name, 1)
	}
	refused("three")
	const deployment = "deployment/tandem-cloud-controller-manager"
	a.kubectl(t, "rollout", "restart", "-n", "tandem-system", deployment)
	a.kubectl(t, "rollout", "status", "-n", "tandem-system", deployment, "--timeout=120s")
	refused("four")
	b.add(t, b.service("one", v4))
	b.addresses(t, "one", 1)
	if claims := a.claims(t.Context(), t); len(claims) != 2 {
		t.Errorf("claims = %v, want two", claims)
	}
	a.remove(t, a.service("one"))
	a.until(t, patience, "a third claim", func(ctx context.Context) (bool, string) {
		claims := a.claims(ctx, t)
		return len(claims) == 2 && !slices.Contains(slices.Collect(maps.Values(claims)), "one"), fmt.Sprint(claims)
	})
}

// An address that a team has released is kept for it for a while, whoever waits for it.
func TestAReleasedAddressWaitsForItsTeam(t *testing.T) {
	a, b, pool := twoTeams(t, "reuseAfter: 1h")
	web := a.service("web", v4)
	a.add(t, web)
	ip := a.addresses(t, "web", 1)[0]
	b.add(t, with(b.service("parked", v4), ipamv1alpha1.AnnotationLoadBalancerIPs, ip))
	b.event(t, "parked", "SyncLoadBalancerFailed", ip, a.ns+"/web")
	a.remove(t, web)
	b.event(t, "parked", "SyncLoadBalancerFailed", ip, "kept until", a.ns+"/web")
	b.add(t, b.service("next", v4))
	if got := b.addresses(t, "next", 1)[0]; got == ip {
		t.Errorf("another team got %s, which has just been released", got)
	}
	a.add(t, a.service("web", v4))
	if got := a.addresses(t, "web", 1)[0]; got != ip {
		t.Errorf("the Service that was created again has %s, want its old %s", got, ip)
	}
	a.remove(t, a.service("web"))
	b.says(t, "parked", ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionFalse, "kept until")
	a.patch(t, &ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: pool}}, `{spec: {reuseAfter: null}}`)
	if got := b.addresses(t, "parked", 1)[0]; got != ip {
		t.Errorf("the Service that waited has %s, want %s, which waits no more", got, ip)
	}
}
