// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// TestTwoLeaders lets two controller managers that both believe they lead serve Services at once. Their claims are all that keeps them from
// giving an address twice, more of them than a limit allows, or one port of an address to two Services.
func TestTwoLeaders(t *testing.T) {
	ctx := t.Context()
	a, err := newArena(ctx, "leaders", 1, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	tandem, err := a.newTandem(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{7575, 7576} {
		leader, err := tandem.startAt(ctx, port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			leader.end()
			if t.Failed() {
				said, err := os.ReadFile(leader.log)
				t.Logf("%s: %v, %v: %s", leader.log, leader.err, err, said[max(0, len(said)-4000):])
			}
		})
	}
	if err := a.warm(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("2,000 Services", func(t *testing.T) {
		const services = 2000
		if err := a.create(ctx, "leaders", services); err != nil {
			t.Fatal(err)
		}
		if err := a.await(ctx, "served", services, func() int { return len(a.done) }); err != nil {
			t.Fatal(err)
		}
		// Where both served a Service at the same time, one status is the last, and what it does not show is released when the other leader can
		// no longer mean to publish it.
		if err := a.awaitClaims(ctx, 2*services); err != nil {
			t.Error(err)
		}
		a.clean(t)
	})
	t.Run("a limit", a.testLimit)
	t.Run("a port of a shared address", a.testSharedPort)
}

// testLimit has 40 Services ask for a pair of a pool of which the namespace may have five. No moment has more than five claims of a family.
func (a *arena) testLimit(t *testing.T) {
	const services, limit = 40, 5
	ctx := t.Context()
	if err := a.apply(ctx, fmt.Sprintf(`apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: limited}
spec: {autoAssign: false, limits: {perNamespace: {ipv4: %d, ipv6: %d}}, ipv4: {ranges: [10.129.0.0/24]}, ipv6: {ranges: ["fd00:129::/120"]}}`,
		limit, limit)); err != nil {
		t.Fatal(err)
	}
	most := a.mostClaims(t, "10.129.0.0/24", "fd00:129::/120")
	if err := a.create(ctx, "limited", services, func(_ int, svc *corev1.Service) {
		svc.Annotations = map[string]string{v1alpha1.AnnotationAddressPool: "limited"}
	}); err != nil {
		t.Fatal(err)
	}
	if err := a.await(ctx, "served", limit, func() int { return len(a.done) }); err != nil {
		t.Fatal(err)
	}
	// One that is deleted makes way for another one.
	a.mu.Lock()
	var served string
	for name := range a.done {
		served = name
	}
	a.mu.Unlock()
	if err := a.api.CoreV1().Services(namespace).Delete(ctx, served, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := a.await(ctx, "served", limit+1, func() int { return len(a.done) }); err != nil {
		t.Error(err)
	}
	a.clean(t)
	if got := most(); got[0] != limit || got[1] != limit {
		t.Errorf("there were as many as %v claims of IPv4 and IPv6 at a time, want the limit of %d", got, limit)
	}
}

// testSharedPort has 40 Services ask for one pair of addresses with one sharing key. Each port is that of two of them, of which one gets the
// addresses: 192.0.2.1:1001 cannot be two Services.
func (a *arena) testSharedPort(t *testing.T) {
	const services = 40
	ctx := t.Context()
	if err := a.create(ctx, "shared", services, func(i int, svc *corev1.Service) {
		svc.Spec.Ports[0].Port = int32(1000 + i/2)
		svc.Annotations = map[string]string{
			v1alpha1.AnnotationAllowSharedIP: "web", v1alpha1.AnnotationLoadBalancerIPs: "10.128.7.7,fd00:128::707",
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := a.await(ctx, "served", services/2, func() int { return len(a.done) }); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	ports := map[int32][]string{}
	for name := range a.done {
		port := a.seen[name].Spec.Ports[0].Port
		ports[port] = append(ports[port], name)
	}
	a.mu.Unlock()
	for port, names := range ports {
		if len(names) > 1 {
			t.Errorf("port %d is that of the Services %v", port, names)
		}
	}
	a.clean(t)
}

// mostClaims follows the claims. What it returns says how many of each prefix there were at a time at most.
func (a *arena) mostClaims(t *testing.T, prefixes ...string) (most func() []int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	watch, err := a.api.NetworkingV1().IPAddresses().Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	now, highest := make([]int, len(prefixes)), make([]int, len(prefixes))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		there := map[string]bool{}
		for event := range watch.ResultChan() {
			claim, ok := event.Object.(*networkingv1.IPAddress)
			if !ok {
				continue
			}
			i := slices.IndexFunc(prefixes, func(p string) bool {
				return netip.MustParsePrefix(p).Contains(netip.MustParseAddr(claim.Name))
			})
			if is := event.Type != "DELETED"; i >= 0 && is != there[claim.Name] {
				there[claim.Name] = is
				if is {
					now[i]++
				} else {
					now[i]--
				}
				highest[i] = max(highest[i], now[i])
			}
		}
	}()
	return func() []int {
		stop()
		<-ended
		return highest
	}
}

// clean deletes all Services, and waits until their claims are gone.
func (a *arena) clean(t *testing.T) {
	t.Helper()
	if err := a.delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.awaitClaims(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

// awaitClaims waits until exactly n addresses are claimed, each for the Service that shows it and no other.
func (a *arena) awaitClaims(ctx context.Context, n int) error {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		published, err := a.published()
		if err != nil {
			return err
		}
		claims, err := a.claims(ctx)
		if err != nil {
			return err
		}
		if len(claims) == n && maps.Equal(claims, published) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d claims (+) are not the %d addresses that Services show (-): %s", len(claims), n, cmp.Diff(published, claims))
		}
	}
}
