// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// TestPatches changes Services as the service controller does, through its own function.
func TestPatches(t *testing.T) {
	finalizers := func(names ...string) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Finalizers = names }
	}
	status := func(ips ...string) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Status.LoadBalancer.Ingress = nil
			for _, ip := range ips {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
		}
	}
	deleted := func(svc *corev1.Service) { svc.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	clusterIP := func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }
	others := func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = new("example.com/other") }
	mark := func(svc *corev1.Service) { svc.Annotations = map[string]string{v1alpha1.AnnotationFinalizer: "true"} }
	const ours = servicehelper.LoadBalancerCleanupFinalizer
	const marks, unmarks = `"annotations":{"tandem-lb.io/finalizer":"true"}`, `"annotations":{"tandem-lb.io/finalizer":null}`
	type edits []func(*corev1.Service)

	for name, test := range map[string]struct {
		is   edits
		then func(*corev1.Service)
		want string // empty where nothing is sent
	}{
		"the finalizer of a Service without addresses waits": {
			then: finalizers(ours),
		},
		"the finalizer of a Service that another product gave an address is written": {
			is:   edits{status("192.0.2.1")},
			then: finalizers(ours),
			want: `{"metadata":{` + marks + `,"finalizers":["` + ours + `"]}}`,
		},
		"the first addresses bring the finalizer": {
			then: status("192.0.2.1"),
			want: `{"metadata":{` + marks + `,"finalizers":["` + ours + `"]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`,
		},
		"the first addresses keep the finalizers of others": {
			is:   edits{finalizers("example.com/one", "example.com/two")},
			then: status("192.0.2.1"),
			want: `{"metadata":{` + marks + `,"finalizers":["` + ours + `"]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`,
		},
		"new addresses leave the finalizer alone": {
			is:   edits{finalizers(ours), mark, status("192.0.2.1")},
			then: status("192.0.2.2"),
			want: `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.2"}]}}}`,
		},
		"new addresses mark the finalizer of an earlier version": {
			is:   edits{finalizers(ours), status("192.0.2.1")},
			then: status("192.0.2.2"),
			want: `{"metadata":{` + marks + `,"finalizers":["` + ours + `"]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.2"}]}}}`,
		},
		"the mark goes with the finalizer": {
			is:   edits{clusterIP, mark, finalizers(ours, "example.com/one")},
			then: finalizers("example.com/one"),
			want: `{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + ours + `"],"$setElementOrder/finalizers":["example.com/one"],` + unmarks + `}}`,
		},
		"of another provider's load balancer a marked finalizer is removed, and the status stays": {
			is:   edits{others, mark, finalizers(ours), status("203.0.113.7")},
			then: finalizers(),
			want: `{"metadata":{` + unmarks + `,"finalizers":null}}`,
		},
		"of another provider's load balancer an unmarked finalizer stays": {
			is:   edits{others, finalizers(ours), status("203.0.113.7")},
			then: finalizers(),
		},
		"the status of another provider's load balancer stays": {
			is:   edits{others, mark, status("203.0.113.7")},
			then: status(),
		},
		"the status of what is no load balancer any more is cleared without a finalizer": {
			is:   edits{clusterIP, status("192.0.2.1")},
			then: status(),
			want: `{"status":{"loadBalancer":{"ingress":null}}}`,
		},
		"the finalizer of a deleted Service is removed": {
			is:   edits{deleted, mark, finalizers(ours), status("192.0.2.1")},
			then: finalizers(),
			want: `{"metadata":{` + unmarks + `,"finalizers":null},"status":{"loadBalancer":{"ingress":null}}}`,
		},
		"the status of a deleted Service goes with it": {
			is:   edits{deleted, finalizers(ours), status("192.0.2.1")},
			then: status(),
		},
		"the status of a deleted Service that another's finalizer keeps is cleared": {
			is:   edits{deleted, finalizers("example.com/other"), status("192.0.2.1")},
			then: status(),
			want: `{"status":{"loadBalancer":{"ingress":null}}}`,
		},
		"a deleted Service gets no finalizer": {
			is:   edits{deleted, finalizers("example.com/other")},
			then: status("192.0.2.1"),
			want: `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			}
			for _, edit := range test.is {
				edit(svc)
			}
			cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
			if err := cached.Add(svc); err != nil {
				t.Fatal(err)
			}
			api := fake.NewClientset(svc)
			updated := svc.DeepCopy()
			test.then(updated)
			if _, err := servicehelper.PatchService(filteringClient{api, corelisters.NewServiceLister(cached), nil}.CoreV1(), svc, updated); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, action := range api.Actions() {
				got += string(action.(clienttesting.PatchAction).GetPatch())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("patch (-want +got):\n%s", diff)
			}
		})
	}
}
