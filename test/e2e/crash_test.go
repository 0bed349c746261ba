// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestNoAddressIsLostOrGivenTwiceInACrash kills the leader while Services are being created, and compares the three records of
// addresses: statuses, claims and the pool's count.
func TestNoAddressIsLostOrGivenTwiceInACrash(t *testing.T) {
	const n = 200
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")

	t.Run("the leader is killed while 200 Services are being created", func(t *testing.T) {
		s.createMany(t, n, func() {
			leader := s.leader(t)
			t.Logf("killing the leader, on %s, with %d addresses claimed", leader, len(s.claims(t.Context(), t)))
			if err := s.kill(leader, programs["cloud-controller-manager"]); err != nil {
				t.Fatal(err)
			}
		})
		s.checkMany(t, n)
		s.deleteMany(t, n)
	})
	t.Run("nobody is killed", func(t *testing.T) {
		s.createMany(t, n, func() {})
		s.checkMany(t, n)
		s.logMemory(t)
	})
	t.Run("the leader is killed while 200 Services are being deleted", func(t *testing.T) {
		s.deleteManyThen(t, n, func() {
			if err := s.kill(s.leader(t), programs["cloud-controller-manager"]); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// leader returns the node of the controller manager that leads.
func (s *stage) leader(t *testing.T) string {
	t.Helper()
	var lease coordinationv1.Lease
	key := client.ObjectKey{Namespace: "tandem-system", Name: "tandem-cloud-controller-manager"}
	if err := s.Client.Get(t.Context(), key, &lease); err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		t.Fatal("nobody leads")
	}
	node, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return node
}

// createMany creates n dual-stack Services, calls halfway when half of them are, and waits until all have a pair of addresses.
func (s *stage) createMany(t *testing.T, n int, halfway func()) {
	t.Helper()
	start := time.Now()
	var group errgroup.Group
	group.SetLimit(8)
	for i := range n {
		if i == n/2 {
			halfway()
		}
		group.Go(func() error {
			return s.Create(t.Context(), s.service(fmt.Sprintf("many-%03d", i), corev1.IPv4Protocol, corev1.IPv6Protocol))
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	created := time.Since(start)
	s.until(t, 90*time.Second, "a pair of addresses for every Service", func(ctx context.Context) (bool, string) {
		pairs := 0
		for _, svc := range s.services(ctx, t) {
			if len(svc.Status.LoadBalancer.Ingress) == 2 {
				pairs++
			}
		}
		return pairs == n, fmt.Sprintf("%d of %d have one", pairs, n)
	})
	took := time.Since(start)
	t.Logf("%d dual-stack Services were created in %v and all had their addresses after %v: %.0f a second",
		n, created.Round(time.Millisecond), took.Round(time.Millisecond), float64(n)/took.Seconds())
}

func (s *stage) services(ctx context.Context, t *testing.T) []corev1.Service {
	t.Helper()
	var list corev1.ServiceList
	if err := s.List(ctx, &list, client.InNamespace(s.ns)); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	return list.Items
}

// checkMany compares what the Services publish with the claims and the pool's status.
func (s *stage) checkMany(t *testing.T, n int) {
	t.Helper()
	claims := s.claims(t.Context(), t)
	if len(claims) != 2*n {
		t.Errorf("there are %d claims, want %d", len(claims), 2*n)
	}
	published := map[string]string{}
	for _, svc := range s.services(t.Context(), t) {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			if other, twice := published[ingress.IP]; twice {
				t.Errorf("%s is given twice, to %s and %s", ingress.IP, other, svc.Name)
			}
			published[ingress.IP] = svc.Name
			if claims[ingress.IP] != svc.Name {
				t.Errorf("%s of Service %s is claimed by %q", ingress.IP, svc.Name, claims[ingress.IP])
			}
		}
	}
	s.usage(t, "", int64(n), int64(n))
}

// deleteMany deletes all Services of the namespace and waits for the end of their claims.
func (s *stage) deleteMany(t *testing.T, n int) {
	t.Helper()
	s.deleteManyThen(t, n, func() {})
}

func (s *stage) deleteManyThen(t *testing.T, n int, halfway func()) {
	t.Helper()
	start := time.Now()
	var group errgroup.Group
	group.SetLimit(8)
	for i, svc := range s.services(t.Context(), t) {
		if i == n/2 {
			halfway()
		}
		group.Go(func() error { return client.IgnoreNotFound(s.Delete(t.Context(), &svc)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	s.until(t, 90*time.Second, "the end of every Service and claim", func(ctx context.Context) (bool, string) {
		services, claims := len(s.services(ctx, t)), len(s.claims(ctx, t))
		return services == 0 && claims == 0, fmt.Sprintf("%d Services and %d claims are left", services, claims)
	})
	took := time.Since(start)
	t.Logf(
		"%d Services were deleted and their addresses free after %v: %.0f a second", n, took.Round(time.Millisecond), float64(n)/took.Seconds(),
	)
	s.usage(t, "", 0, 0)
}
