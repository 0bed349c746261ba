// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/internal/fixture"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// compareAddr lets cmp look into addresses, which have no exported fields.
var compareAddr = cmp.Comparer(func(x, y netip.Addr) bool { return x == y })

// rules are those of a controller manager without flags.
var rules = request.Rules{Honour: request.AllProducts}

// The tests below speak of fixtures by these names.
const (
	single  = fixture.Single
	prefer  = fixture.Prefer
	require = fixture.Require
)

var (
	addr          = fixture.Addr
	addrs         = fixture.Addrs
	newService    = fixture.Service
	setFamilies   = fixture.SetFamilies
	annotate      = fixture.Annotate
	label         = fixture.Label
	listen        = fixture.Listen
	local         = fixture.Local
	newPool       = fixture.Pool
	noAutoAssign  = fixture.NoAutoAssign
	stable        = fixture.Stable
	priority      = fixture.Priority
	reuseAfter    = fixture.ReuseAfter
	forServices   = fixture.ForServices
	forNamespaces = fixture.ForNamespaces
)

func TestStatus(t *testing.T) {
	vip := corev1.LoadBalancerIPModeVIP
	got := status([]ipam.Assignment{{Address: addr("2001:db8::1")}, {Address: addr("192.0.2.1")}})
	want := &corev1.LoadBalancerStatus{
		Ingress: []corev1.LoadBalancerIngress{{IP: "2001:db8::1", IPMode: &vip}, {IP: "192.0.2.1", IPMode: &vip}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	svc := &corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: *got}}
	svc.Status.LoadBalancer.Ingress = slices.Insert(svc.Status.LoadBalancer.Ingress, 1, corev1.LoadBalancerIngress{Hostname: "lb.example"})
	if diff := cmp.Diff(addrs("2001:db8::1 192.0.2.1"), request.Published(svc), compareAddr); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
}

// The finalizer that package request looks for is that of the service controller.
func TestFinalizer(t *testing.T) {
	if v1alpha1.Finalizer != servicehelper.LoadBalancerCleanupFinalizer {
		t.Errorf("our finalizer is %s, that of the service controller %s", v1alpha1.Finalizer, servicehelper.LoadBalancerCleanupFinalizer)
	}
}
