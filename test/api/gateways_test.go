// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// TestServicesOfGateways has the controller manager serve Services as implementations of Gateway API make them for a Gateway whose
// spec.infrastructure has annotations of Tandem, or whose spec.addresses has an address. docs/gateway-api.md says which implementation does
// what.
func TestServicesOfGateways(t *testing.T) {
	create(t, object(t, "AddressPool",
		`{metadata: {name: gateways}, spec: {ipv4: {ranges: [192.0.2.112/29]}, ipv6: {ranges: ["2001:db8:6::/125"]}}}`))
	startManager(t)
	for _, test := range []struct{ name, service, want string }{
		{
			"Envoy Gateway with ipFamily DualStack", `
metadata:
  annotations: {tandem-lb.io/load-balancer-ips: "192.0.2.114,2001:db8:6::4"}
  labels: {app.kubernetes.io/managed-by: envoy-gateway, gateway.envoyproxy.io/owning-gateway-name: web}
spec:
  externalTrafficPolicy: Local
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: None`, "192.0.2.114 2001:db8:6::4",
		},
		{
			"Istio with an address in the Gateway", `
metadata:
  labels: {gateway.networking.k8s.io/gateway-name: web, gateway.networking.k8s.io/gateway-class-name: istio}
spec:
  ipFamilyPolicy: PreferDualStack
  loadBalancerIP: 192.0.2.115`, "192.0.2.115 2001:db8:6::",
		},
		{
			"Contour with a pool", `
metadata:
  annotations: {tandem-lb.io/address-pool: gateways}
  labels: {projectcontour.io/owning-gateway-name: web}
spec:
  externalTrafficPolicy: Local
  ipFamilyPolicy: SingleStack`, "192.0.2.112",
		},
		{
			"Cilium with addresses", `
metadata:
  annotations: {tandem-lb.io/load-balancer-ips: "192.0.2.116,2001:db8:6::6"}
  labels: {gateway.networking.k8s.io/gateway-name: web, io.cilium.gateway/owning-gateway: web}
spec:
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack`, "192.0.2.116 2001:db8:6::6",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			service := &corev1.Service{}
			if err := yaml.UnmarshalStrict([]byte(test.service), service); err != nil {
				t.Fatal(err)
			}
			service.Namespace, service.Name = "default", "gateway-"+strings.ToLower(strings.Fields(test.name)[0])
			service.Spec.Type, service.Spec.Ports = corev1.ServiceTypeLoadBalancer, []corev1.ServicePort{{Name: "http", Port: 80}}
			create(t, service)
			t.Cleanup(func() { remove(t, service) }) // while the controller manager runs
			until(t, "addresses", func() string {
				var got []string
				if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(service), service); err != nil {
					return err.Error()
				}
				for _, ingress := range service.Status.LoadBalancer.Ingress {
					got = append(got, ingress.IP)
				}
				return cmp.Diff(test.want, strings.Join(got, " "))
			})
		})
	}
}
