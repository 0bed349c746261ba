// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudproviderapi "k8s.io/cloud-provider/api"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// In this cluster another provider has the nodes and the Services without a class. Tandem leaves both alone, and also a Service with the
// standard finalizer that once was a load balancer of that provider.
func TestBesideAnotherProvider(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	const deployment = "deployment/tandem-cloud-controller-manager"
	rollOut := func(patch string) {
		s.kubectl(t, "patch", "-n", "tandem-system", deployment, "--type=json", "-p", patch)
		s.kubectl(t, "rollout", "status", "-n", "tandem-system", deployment, "--timeout=120s")
	}
	args := s.kubectl(t, "get", "-n", "tandem-system", deployment, "-o", "jsonpath={.spec.template.spec.containers[0].args}")
	const path = "/spec/template/spec/containers/0/args"
	alone := fmt.Sprintf(`[{"op": "replace", "path": %q, "value": %s}]`, path, args)
	flags := `"--load-balancer-class-only","--controllers=service-lb-controller"]`
	rollOut(fmt.Sprintf(`[{"op": "replace", "path": %q, "value": %s,%s}]`, path, strings.TrimSuffix(args, "]"), flags))
	restored := false
	t.Cleanup(func() {
		if !restored {
			s.kubectlAfter(t, "patch", "-n", "tandem-system", deployment, "--type=json", "-p", alone)
			s.kubectlAfter(t, "rollout", "status", "-n", "tandem-system", deployment, "--timeout=120s")
		}
	})

	theirs := s.service("theirs", v4, v6)
	theirs.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
	s.add(t, theirs)
	t.Cleanup(func() {
		s.kubectlAfter(t, "patch", "service", "-n", s.ns, "theirs", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	})
	taint := corev1.Taint{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.ns, Annotations: map[string]string{cloudproviderapi.AnnotationAlphaProvidedIPAddr: "198.51.100.99"},
		},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}},
	}
	s.add(t, node)
	tainted := func(ctx context.Context) (bool, error) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(node), node)
		return slices.ContainsFunc(node.Spec.Taints, func(other corev1.Taint) bool { return other.Key == taint.Key }), err
	}
	untouched := func() {
		t.Helper()
		if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs); err != nil {
			t.Fatal(err)
		}
		if len(theirs.Finalizers) != 1 || len(theirs.Status.LoadBalancer.Ingress) > 0 {
			t.Errorf("the other provider's Service has finalizers %v and status %v", theirs.Finalizers, theirs.Status.LoadBalancer)
		}
		if is, err := tainted(t.Context()); !is || err != nil {
			t.Errorf("the other provider's node has taints %v, %v", node.Spec.Taints, err)
		}
	}
	serve := func(name string) *corev1.Service {
		t.Helper()
		ours := s.service(name, v4, v6)
		ours.Spec.LoadBalancerClass = new(ipamv1alpha1.LoadBalancerClass)
		s.add(t, ours)
		s.addresses(t, name, 2)
		return ours
	}

	first := serve("first")
	untouched()
	s.patch(t, theirs, `{spec: {type: ClusterIP}}`)
	s.patch(t, first, `{spec: {type: ClusterIP, loadBalancerClass: null}}`)
	s.until(t, patience, "the end of what was our load balancer", func(ctx context.Context) (bool, string) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(first), first)
		return err == nil && len(first.Finalizers) == 0, fmt.Sprint(first.Finalizers, err)
	})
	second := serve("second")
	untouched()
	s.claimsBecome(t, pairs("second", s.addresses(t, "second", 2)...))

	// When the other provider has gone, Tandem still has its addresses, and initialises the node.
	before := s.addresses(t, "second", 2)
	rollOut(alone)
	restored = true
	s.until(t, patience, "the initialisation of the node", func(ctx context.Context) (bool, string) {
		is, err := tainted(ctx)
		return !is && err == nil && node.Spec.ProviderID == "tandem://"+node.Name, fmt.Sprint(node.Spec, err)
	})
	if after := s.addresses(t, "second", 2); !slices.Equal(before, after) {
		t.Errorf("addresses = %v, want %v as before", after, before)
	}
	s.remove(t, second)
	s.claimsBecome(t, nil)
}
