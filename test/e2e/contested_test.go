// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// overwrite puts a node's address into the status of a Service whenever something else is there, as ServiceLB of k3s does, until stop is
// called. It returns how often it did.
func (s *stage) overwrite(t *testing.T, service, manager string) (stop func() int) {
	t.Helper()
	const theirs = "198.51.100.11"
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var writing sync.WaitGroup
	writing.Go(func() {
		_ = cluster.Until(ctx, patience*4, "the end", func(ctx context.Context) (bool, string) {
			svc := &corev1.Service{}
			err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: service}, svc)
			if err != nil || len(svc.Status.LoadBalancer.Ingress) == 1 && svc.Status.LoadBalancer.Ingress[0].IP == theirs {
				return false, ""
			}
			patch := client.RawPatch("application/merge-patch+json", []byte(`{"status": {"loadBalancer": {"ingress": [{"ip": "`+theirs+`"}]}}}`))
			if s.Client.Status().Patch(ctx, svc, patch, client.FieldOwner(manager)) == nil {
				n++
			}
			return false, ""
		})
	})
	stop = func() int { cancel(); writing.Wait(); return n }
	t.Cleanup(func() { stop() })
	return stop
}

// Another controller writes the status of a Service. Tandem backs off, says who it is, and goes on announcing what it has given.
func TestAnotherWriterOfTheStatusIsNamed(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.bgp(t)
	s.web(t, s.Nodes()...)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.announcedFrom(t, ips, s.Nodes()...)
	holder := s.holder(t, "web", 2)
	// versions are those of the first claim and of the record of the holder.
	versions := func() (versions []string) {
		t.Helper()
		claim := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ips[0]}}
		record := &speakerv1alpha1.L2Announcement{ObjectMeta: metav1.ObjectMeta{Name: s.ns + ".web"}}
		for _, obj := range []client.Object{claim, record} {
			if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
				t.Fatal(err)
			}
			versions = append(versions, obj.GetResourceVersion())
		}
		return versions
	}
	before := versions()
	c := s.tcpdump(t, lab.Client)
	s.answeredBy(t, c, holder, ips)
	withdrawn := s.withdrawals(t, ips)

	const other = "svclb-controller"
	stop := s.overwrite(t, "web", other)
	s.event(t, "web", ipamv1alpha1.EventStatusOverwritten, other+" writes 198.51.100.11 over "+ips[0], "--load-balancer-class-only")
	s.says(t, "web", ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionFalse, other)
	s.answeredBy(t, c, holder, ips)
	s.announcedFrom(t, ips, s.Nodes()...)
	n := stop()
	t.Logf("the other controller wrote %d times until it was named", n)
	if got := s.addresses(t, "web", 2); !slices.Equal(got, ips) {
		t.Errorf("addresses = %v, want %v as before", got, ips)
	}
	if n := withdrawn(); n > 0 {
		t.Errorf("the router was told %d times that an address is unreachable", n)
	}
	if after := versions(); !slices.Equal(after, before) {
		t.Errorf("the claim and the record of node %s have the versions %v, want %v as before", holder, after, before)
	}
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
	}
}
