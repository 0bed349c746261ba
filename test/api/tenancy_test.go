// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// labelFor has, for each annotation by which a Service can choose, the label with which the example lets a namespace do so. A test of package
// request holds the example against all annotations that are read.
var labelFor = map[string]string{
	"tandem-lb.io/load-balancer-ips":            "fixed-addresses",
	"metallb.io/loadBalancerIPs":                "fixed-addresses",
	"metallb.universe.tf/loadBalancerIPs":       "fixed-addresses",
	"kube-vip.io/loadbalancerIPs":               "fixed-addresses",
	"lbipam.cilium.io/ips":                      "fixed-addresses",
	"io.cilium/lb-ipam-ips":                     "fixed-addresses",
	"tandem-lb.io/address-pool":                 "pools",
	"metallb.io/address-pool":                   "pools",
	"metallb.universe.tf/address-pool":          "pools",
	"tandem-lb.io/allow-shared-ip":              "sharing",
	"metallb.io/allow-shared-ip":                "sharing",
	"metallb.universe.tf/allow-shared-ip":       "sharing",
	"lbipam.cilium.io/sharing-key":              "sharing",
	"io.cilium/lb-ipam-sharing-key":             "sharing",
	"tandem-lb.io/share-with-namespaces":        "sharing",
	"lbipam.cilium.io/sharing-cross-namespace":  "sharing",
	"io.cilium/lb-ipam-sharing-cross-namespace": "sharing",
}

// TestTenancyPolicy applies manifests/examples/tenancy.yaml, and has tenants create Services.
func TestTenancyPolicy(t *testing.T) {
	namespaces := map[string][]string{ // with what they may do
		"tenant": nil, "tenant-fixed-addresses": {"fixed-addresses"}, "tenant-pools": {"pools"}, "tenant-sharing": {"sharing"},
		"tenant-all": {"fixed-addresses", "pools", "sharing"},
	}
	for name, may := range namespaces {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		for _, what := range may {
			ns.Labels["tandem.example.com/"+what] = "true"
		}
		create(t, ns)
	}
	service := func(namespace string, annotations map[string]string, ip string) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Annotations: annotations},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
		}
	}
	old := service("tenant", map[string]string{"metallb.io/address-pool": "lan"}, "192.0.2.7")
	old.Name = "old"
	create(t, old)
	for _, obj := range objects(t, "../../manifests/examples/tenancy.yaml") {
		create(t, obj)
	}
	// The API server follows policies by a watch.
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		return tryCreate(ctx, service("tenant", map[string]string{"tandem-lb.io/load-balancer-ips": "192.0.2.1"}, "")) != nil, nil
	})
	if err != nil {
		t.Fatalf("the policy has no effect: %v", err)
	}

	check := func(t *testing.T, what string, err error, wantError string) {
		t.Helper()
		switch {
		case wantError == "" && err != nil:
			t.Errorf("%s was refused: %v", what, err)
		case wantError != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), wantError)):
			t.Errorf("%s: got error %v, want one that says %q", what, err, wantError)
		}
	}
	refusals := map[string]string{
		"fixed-addresses": "may not ask for certain addresses; remove ", "pools": "may not choose pools; remove ", "sharing": "may not share addresses; remove ",
	}
	for namespace, may := range namespaces {
		t.Run(namespace, func(t *testing.T) {
			allowed := strings.Join(may, " ")
			check(t, "a plain Service", tryCreate(t.Context(), service(namespace, nil, "")), "")
			check(t, "another annotation", tryCreate(t.Context(), service(namespace, map[string]string{"example.com/x": "y"}, "")), "")
			check(t, "reallocate", tryCreate(t.Context(), service(namespace, map[string]string{"tandem-lb.io/reallocate": "true"}, "")), "")
			for annotation, label := range labelFor {
				want := "namespace " + namespace + " " + refusals[label] + "the annotation " + annotation
				if strings.Contains(allowed, label) {
					want = ""
				}
				check(t, annotation, tryCreate(t.Context(), service(namespace, map[string]string{annotation: "x"}, "")), want)
			}
			want := "namespace " + namespace + " may not ask for certain addresses; remove spec.loadBalancerIP"
			if strings.Contains(allowed, "fixed-addresses") {
				want = ""
			}
			check(t, "spec.loadBalancerIP", tryCreate(t.Context(), service(namespace, nil, "192.0.2.1")), want)
		})
	}
	t.Run("what was there before stays", func(t *testing.T) {
		for _, edit := range []struct {
			name, wantError string
			edit            func(*corev1.Service)
		}{
			{name: "something else", edit: func(svc *corev1.Service) { svc.Spec.Ports[0].Port = 81 }},
			{name: "the annotation removed", edit: func(svc *corev1.Service) { delete(svc.Annotations, "metallb.io/address-pool") }},
			{name: "spec.loadBalancerIP removed", edit: func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "" }},
			{name: "another pool", wantError: "may not choose pools", edit: func(svc *corev1.Service) { svc.Annotations["metallb.io/address-pool"] = "wan" }},
			{name: "another annotation", wantError: "may not share", edit: func(svc *corev1.Service) { svc.Annotations["tandem-lb.io/allow-shared-ip"] = "k" }},
			{name: "another spec.loadBalancerIP", wantError: "remove spec.loadBalancerIP", edit: func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "192.0.2.8" }},
		} {
			svc := old.DeepCopy()
			edit.edit(svc)
			check(t, edit.name, apiClient.Update(t.Context(), svc, client.DryRunAll), edit.wantError)
		}
	})
}
