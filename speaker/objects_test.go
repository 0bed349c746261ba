// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The addresses of the tests: v4 and v6 are a pair.
const (
	v4, v6         = "198.51.100.200", "2001:db8:51::1200"
	other4, other6 = "198.51.100.201", "2001:db8:51::1201"
)

// endpoint returns one endpoint. Each condition is "+", "-" or, for nil, "?"; no node is "".
func endpoint(node, ready, serving, terminating string) discoveryv1.Endpoint {
	condition := func(text string) *bool {
		switch text {
		case "+":
			return new(true)
		case "-":
			return new(false)
		}
		return nil
	}
	e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{
		Ready: condition(ready), Serving: condition(serving), Terminating: condition(terminating),
	}}
	if node != "" {
		e.NodeName = &node
	}
	return e
}

func endpointSlice(af discoveryv1.AddressType, service string, endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
	return discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: af,
		Endpoints:   endpoints,
	}
}

func claim(address, manager, pool string) networkingv1.IPAddress {
	return networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{
		networkingv1.LabelManagedBy: manager, ipamv1alpha1.LabelAddressPool: pool,
	}}}
}

// published returns a Service of type LoadBalancer with addresses in its status.
func published(name string, addresses ...string) corev1.Service {
	svc := corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, a := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return svc
}
