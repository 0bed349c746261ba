// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The tests of this file are of statuses that another load balancer has written.

func TestAddressOfAnotherLoadBalancerOutsidePools(t *testing.T) {
	reallocate := annotate(v1alpha1.AnnotationReallocate, "true")
	const refused = "198.51.100.7 was not given by Tandem"
	bubble("stays until a person gives it up", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv4", publish("198.51.100.7")))
		l := c.lead()
		l.wantError("web", refused, `tandem-lb.io/reallocate: "true"`)
		c.wantClaims("")
		c.edit("web", reallocate)
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
	})
	bubble("is held as soon as a pool has it", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv4", publish("198.51.100.7")))
		l := c.lead()
		l.wantError("web", refused)
		c.setPool(newPool("old", "198.51.100.0/28"))
		c.settle()
		l.wantWoken("web")
		l.mustSync("web")
		c.wantShown("web", "198.51.100.7")
		c.wantClaims("198.51.100.7=web")
	})
	bubble("keeps the other family from being given alone", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", prefer, "IPv4 IPv6", publish("198.51.100.7")))
		l := c.lead()
		l.wantError("web", refused)
	})
	bubble("does not count of a family that the Service has no more", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv4", publish("198.51.100.7 2001:db8:51::7")))
		l := c.lead()
		l.wantError("web", "198.51.100.7 was not given by Tandem")
		c.setPool(newPool("old", "198.51.100.0/28"))
		c.settle()
		l.syncWoken()
		c.wantShown("web", "198.51.100.7")
	})
	bubble("is one of two, of which the other one is in a pool", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", require, "IPv4 IPv6", publish("198.51.100.7 2001:db8::7")))
		l := c.lead()
		l.wantError("web", refused)
		c.wantClaims("2001:db8::7=web")
		c.setPool(newPool("old", "198.51.100.0/28"))
		c.settle()
		l.syncWoken()
		c.wantShown("web", "198.51.100.7 2001:db8::7")
	})
	bubble("moves where Tandem's annotation asks for another one, and not where that of another product does", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("ours", single, "IPv4", publish("198.51.100.7"), annotate(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.5")),
			newService("theirs", single, "IPv4", publish("198.51.100.7"), annotate(v1alpha1.MetalLBAnnotationLoadBalancerIPs, "192.0.2.6")))
		l := c.lead()
		l.mustSync("ours")
		c.wantShown("ours", "192.0.2.5")
		l.wantError("theirs", refused)
	})
	bubble("is no more than an overwritten status after our answer, also for the next leader", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv4"))
		l := c.lead()
		l.mustSync("web")
		c.edit("web", publish("198.51.100.7"))
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
		c.edit("web", publish("198.51.100.7"))
		l.stop()
		l = c.lead()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
	})
	bubble("is ours where we gave it and the pool has lost it, also after a restart", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", ipv4Pool))
		c.create(newService("web", single, "IPv4"))
		l := c.lead()
		l.mustSync("web")
		c.setPool(newPool("lan", "198.51.100.0/28"))
		c.settle()
		l.stop()
		l = c.lead()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
		c.wantClaims("192.0.2.1=web")
	})
}

func TestStatusOfAnotherLoadBalancerIsKept(t *testing.T) {
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	ports := []corev1.PortStatus{{Port: 80, Protocol: corev1.ProtocolTCP}}
	both := []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &vip}, {IP: "2001:db8::1", IPMode: &vip}}
	for _, tt := range []struct {
		name        string
		shows, want []corev1.LoadBalancerIngress // want is nil where the status is kept
	}{
		{name: "as ours", shows: both},
		{name: "another order", shows: []corev1.LoadBalancerIngress{{IP: "2001:db8::1", IPMode: &vip}, {IP: "192.0.2.1", IPMode: &vip}}},
		{name: "no mode", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}},
		{name: "ports", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", Ports: ports}, {IP: "2001:db8::1", Ports: ports}}},
		{name: "another spelling", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:DB8:0::1"}}},
		{name: "an address twice", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.1"}, {IP: "2001:db8::1"}}},
		{name: "the mode Proxy", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &proxy}, {IP: "2001:db8::1"}}, want: both},
		{name: "a name beside", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}, {Hostname: "web.example.com"}}, want: both},
		{name: "one family", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}, want: both},
		{name: "a second address", shows: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.2"}, {IP: "2001:db8::1"}}, want: both},
	} {
		bubble(tt.name, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", dualPool))
			c.create(newService("web", require, "IPv4 IPv6", func(svc *corev1.Service) { svc.Status.LoadBalancer.Ingress = tt.shows }))
			got, err := c.lead().ensure("web")
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want == nil {
				want = tt.shows
			}
			if diff := cmp.Diff(want, got.Ingress); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}
