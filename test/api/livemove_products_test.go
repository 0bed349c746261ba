// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// shopServes is Tandem beside a product that serves two Services.
const shopServes = tandemRuns + `apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ports: [{port: 80, protocol: TCP}]}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: mail}
spec: {type: LoadBalancer, ports: [{port: 25}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
---
`

// productsServe are the objects of products that serve both Services.
var productsServe = map[string]string{
	"kube-vip": `
apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: kubevip}
data: {range-global: 192.0.2.1-192.0.2.14}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: kube-system, name: kube-vip-cloud-provider}
spec:
  replicas: 1
  selector: {matchLabels: {app: provider}}
  template: {metadata: {labels: {app: provider}}, spec: {containers: [{name: c, image: "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"}]}}
status: {replicas: 1, readyReplicas: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: kube-system, name: kube-vip-ds}
spec:
  selector: {matchLabels: {app: kube-vip}}
  template:
    metadata: {labels: {app: kube-vip}}
    spec:
      containers:
      - name: c
        image: "ghcr.io/kube-vip/kube-vip:v1.0.0"
        env: [{name: vip_arp, value: "true"}, {name: cp_enable, value: "PLANE"}, {name: svc_enable, value: "true"}]
`,
	"PureLB": `
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: purelb-system, name: allocator}
spec:
  replicas: 1
  selector: {matchLabels: {app: purelb, component: allocator}}
  template: {metadata: {labels: {app: purelb, component: allocator}}, spec: {containers: [{name: c, image: "ghcr.io/purelb/purelb/allocator:v0.17.0"}]}}
status: {replicas: 1, readyReplicas: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: purelb-system, name: lbnodeagent}
spec:
  selector: {matchLabels: {app: purelb, component: lbnodeagent}}
  template:
    metadata: {labels: {app: purelb, component: lbnodeagent}}
    spec: {containers: [{name: c, image: "ghcr.io/purelb/purelb/lbnodeagent:v0.17.0"}]}
---
apiVersion: purelb.io/v2
kind: ServiceGroup
metadata: {namespace: purelb-system, name: default}
spec: {local: {v4pools: [{subnet: 192.0.2.0/24, pool: 192.0.2.1-192.0.2.14}]}}
`,
	"Cilium": `
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: kube-system, name: cilium-operator}
spec:
  replicas: 1
  selector: {matchLabels: {io.cilium/app: operator}}
  template: {metadata: {labels: {io.cilium/app: operator}}, spec: {containers: [{name: c, image: "quay.io/cilium/operator-generic:v1.18.2"}]}}
status: {replicas: 1, readyReplicas: 1}
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: cilium-config}
data: {default-lb-service-ipam: lbipam}
---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: lan}
spec: {blocks: [{start: 192.0.2.1, stop: 192.0.2.14}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: lan}
spec: {loadBalancerIPs: true}
`,
}

// settleProduct plays the programs of a product: kube-vip and PureLB note on Services that they announce them, and Cilium's operator restarts.
func (a *moveArena) settleProduct(t *testing.T, s *live.Snapshot) {
	t.Helper()
	for ref, o := range s.Objects {
		if ref.Kind == "Deployment" && ref.Name == "cilium-operator" {
			a.restartOperator(t, s, o)
		}
		mark := map[string]string{"kube-vip-ds": "kube-vip.io/vipHost", "lbnodeagent": "purelb.io/announcing-IPv4"}[ref.Name]
		selector, _, _ := unstructured.NestedStringMap(o, "spec", "template", "spec", "nodeSelector")
		containers, _, _ := unstructured.NestedSlice(o, "spec", "template", "spec", "containers")
		if ref.Kind != "DaemonSet" || mark == "" || selector[ipamv1alpha1.LabelMoveIn] != "" || variable(containers, "svc_enable") == "false" {
			continue
		}
		for _, name := range []string{"web", "mail"} {
			service := live.Ref{Kind: "Service", Namespace: "shop", Name: name}
			u := &unstructured.Unstructured{Object: s.Objects[service]}
			if u.GetAnnotations()[mark] == "" {
				a.patch(t, service, "", map[string]any{"metadata": map[string]any{"annotations": map[string]any{mark: "node1,eth0"}}})
			}
		}
	}
}

// variable returns the value of a variable of the first of some containers.
func variable(containers []any, name string) string {
	for _, c := range containers {
		env, _, _ := unstructured.NestedSlice(c.(map[string]any), "env")
		for _, v := range env {
			if v, _ := v.(map[string]any); v["name"] == name {
				return v["value"].(string)
			}
		}
	}
	return ""
}

// restartOperator gives Cilium's operator a Pod as its template says.
func (a *moveArena) restartOperator(t *testing.T, s *live.Snapshot, operator map[string]any) {
	t.Helper()
	want, _, _ := unstructured.NestedStringMap(operator, "spec", "template", "metadata", "annotations")
	ref := live.Ref{Kind: "Pod", Namespace: "kube-system", Name: "cilium-operator-0"}
	pods := a.programs.Client.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(ref.Namespace)
	if pod := s.Objects[ref]; pod != nil {
		if (&unstructured.Unstructured{Object: pod}).GetAnnotations()[ipamv1alpha1.LabelMoveIn] == want[ipamv1alpha1.LabelMoveIn] {
			return
		}
		if err := pods.Delete(t.Context(), ref.Name, atOnce); err != nil {
			t.Fatal(err)
		}
	}
	pod := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "quay.io/cilium/operator-generic:v1.18.2"}}},
	}}
	pod.SetName(ref.Name)
	pod.SetLabels(map[string]string{"io.cilium/app": "operator"})
	pod.SetAnnotations(want)
	made, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Object["status"] = map[string]any{"phase": "Running", "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}
	if _, err := pods.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// atOnce deletes a Pod that no kubelet runs.
var atOnce = metav1.DeleteOptions{GracePeriodSeconds: new(int64)}

// clear deletes all objects that a move may read, but for what the API server has made of its own.
func (a *moveArena) clear(t *testing.T) {
	t.Helper()
	var err error
	for ref, o := range a.now(t).Objects {
		switch {
		case ref.Kind == "CustomResourceDefinition", ref.Kind == "Lease", ref.Namespace == "default":
			continue
		case ref.Kind == "Pod":
			err = a.programs.Client.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(ref.Namespace).Delete(t.Context(), ref.Name, atOnce)
		default:
			if len((&unstructured.Unstructured{Object: o}).GetFinalizers()) > 0 {
				a.patch(t, ref, "", map[string]any{"metadata": map[string]any{"finalizers": nil}})
			}
			err = a.programs.Write(t.Context(), &live.Write{Verb: live.Delete, Ref: ref})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatalf("deleting %s: %v", ref, err)
		}
	}
}

// TestLiveMoveOfProducts has a real API server take every write of a move from each product but MetalLB, of its undo and of its end, with the rights of
// the page. Undone, the cluster is as it was.
func TestLiveMoveOfProducts(t *testing.T) {
	a := newMoveArena(t)
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := a.api.Read(ctx)
		return err == nil, nil
	}); err != nil {
		_, err := a.api.Read(t.Context())
		t.Fatal(err)
	}
	for name, objects := range map[string]string{
		"kube-vip":                        strings.ReplaceAll(productsServe["kube-vip"], "PLANE", "false"),
		"kube-vip with the control plane": strings.ReplaceAll(productsServe["kube-vip"], "PLANE", "true"),
		"PureLB":                          productsServe["PureLB"],
		"Cilium":                          productsServe["Cilium"],
	} {
		t.Run(name, func(t *testing.T) {
			a.add(t, shopServes+objects)
			defer a.clear(t)
			a.testProduct(t)
		})
	}
	t.Run("many", a.testMany)
}

// testProduct moves, undoes it, moves again and finishes.
func (a *moveArena) testProduct(t *testing.T) {
	t.Helper()
	run := func(what string, next func(*live.Snapshot) (live.Action, error)) {
		t.Helper()
		if err := a.api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
			now := a.now(t)
			a.settle(t, now)
			a.settleProduct(t, now)
			return next(s)
		}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	start := func(s *live.Snapshot) (live.Action, error) { return live.Start(s, live.Goal{All: true}, false) }
	run("nothing", func(*live.Snapshot) (live.Action, error) { return live.Action{}, nil })
	before := a.objects(t)
	s, err := a.api.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.testRights(t, s)
	run("start", start)
	run("undo", live.Undo)
	if diff := cmp.Diff(before, a.objects(t)); diff != "" {
		t.Errorf("after undo the cluster is (-before +after):\n%s", diff)
	}
	run("start again", start)
	run("finish", live.Finish)
	for ref, o := range a.objects(t) {
		labels := (&unstructured.Unstructured{Object: o}).GetLabels()
		if labels[ipamv1alpha1.LabelMoveIn] != "" && ref.Kind != "ConfigMap" {
			t.Errorf("%s still has the label of the move", ref)
		}
	}
}
