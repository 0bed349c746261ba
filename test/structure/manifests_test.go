// SPDX-License-Identifier: Apache-2.0

package structure_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// modes are Tandem's two, by the directory of each in manifests.
var modes = []string{"default", "services"}

// kustomize renders a directory as `kubectl apply -k` does.
func kustomize(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

// find decodes the one object of that kind and name.
func find[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) *T {
	t.Helper()
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[i].Object, typed, true); err != nil {
		t.Fatalf("%s %s: %v", kind, name, err)
	}
	return typed
}

// TestRollout looks whether each mode rolls out completely on a cluster of one node, at first and with a new version. Where the port is the
// node's, a node takes one pod, so that a second replica, or a new pod beside the old one, would wait for ever.
func TestRollout(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			objects := kustomize(t, "../../manifests/"+mode)
			deployment := find[appsv1.Deployment](t, objects, "Deployment", "tandem-cloud-controller-manager")
			pod := deployment.Spec.Template.Spec
			if preferred := pod.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) != 1 ||
				preferred[0].Preference.MatchExpressions[0].Key != "node-role.kubernetes.io/control-plane" {
				t.Errorf("preferred nodes = %v, want those of the control plane", preferred)
			}
			everywhere := find[appsv1.DaemonSet](t, objects, "DaemonSet", "tandem-speaker").Spec.Template.Spec.Tolerations
			if want := (corev1.Toleration{Operator: corev1.TolerationOpExists}); !slices.Contains(everywhere, want) {
				t.Errorf("the speaker tolerates %v, want any taint", everywhere)
			}
			budget := find[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", "tandem-cloud-controller-manager")
			if diff := cmp.Diff(deployment.Spec.Selector, budget.Spec.Selector); diff != "" || budget.Spec.MaxUnavailable.IntValue() != 1 {
				t.Errorf("the budget lets %v go, of (-Deployment +budget):\n%s", budget.Spec.MaxUnavailable, diff)
			}
			if pod.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
				t.Error("two pods have to be on two nodes")
			}
			if deployment.Spec.Replicas != nil {
				t.Errorf("%d replicas are asked for, so that each `kubectl apply` undoes what `kubectl scale` did", *deployment.Spec.Replicas)
			}
			if want := mode == "default"; pod.HostNetwork != want {
				t.Errorf("hostNetwork = %t, want %t", pod.HostNetwork, want)
			}
			for _, port := range pod.Containers[0].Ports {
				if port.HostPort != 0 {
					t.Errorf("port %s asks for port %d of the node", port.Name, port.HostPort)
				}
			}
			rolling := deployment.Spec.Strategy.RollingUpdate
			if rolling == nil || pod.HostNetwork && (rolling.MaxSurge.String() != "0" || rolling.MaxUnavailable.String() != "1") {
				t.Errorf("an update starts new pods before it ends old ones: %v", rolling)
			}
			for _, taint := range []string{
				"node.cloudprovider.kubernetes.io/uninitialized", "node-role.kubernetes.io/control-plane", // everywhere
				"node-role.kubernetes.io/etcd", "CriticalAddonsOnly", // RKE2 and k3s
			} {
				found := false
				for _, toleration := range pod.Tolerations {
					found = found || toleration.Key == taint
				}
				if !found {
					t.Errorf("taint %s is not tolerated", taint)
				}
			}
		})
	}
}

// TestPrograms looks whether each program has what keeps it from harm, and tells the kubelet how it is.
func TestPrograms(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			objects := kustomize(t, "../../manifests/"+mode)
			for _, pod := range []corev1.PodSpec{
				find[appsv1.Deployment](t, objects, "Deployment", "tandem-cloud-controller-manager").Spec.Template.Spec,
				find[appsv1.DaemonSet](t, objects, "DaemonSet", "tandem-speaker").Spec.Template.Spec,
			} {
				program := pod.Containers[0]
				if program.ReadinessProbe == nil || program.LivenessProbe == nil {
					t.Errorf("%s has not both probes", program.Name)
				}
				if program.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
					t.Errorf("%s ends, and its Pod does not say why", program.Name)
				}
				limit := program.Resources.Limits.Memory().Value()
				want := []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit*9/10, 10)}}
				if program.Name == "speaker" { // which is to notice soon that its API server has died
					want = append(want, corev1.EnvVar{Name: "HTTP2_READ_IDLE_TIMEOUT_SECONDS", Value: "5"},
						corev1.EnvVar{Name: "HTTP2_PING_TIMEOUT_SECONDS", Value: "3"})
				}
				if program.Name == "speaker" && (program.Resources.Requests.Cpu().MilliValue() < 200 || !program.Resources.Limits.Cpu().IsZero()) {
					t.Errorf("the speaker has the resources %v, want 200m of a processor or more, and no limit of it: one that gets none is taken for dead",
						program.Resources)
				}
				for _, variable := range want {
					if limit == 0 || !slices.Contains(program.Env, variable) {
						t.Errorf("%s has the memory limit %d and the environment %v, want %v", program.Name, limit, program.Env, variable)
					}
				}
			}
		})
	}
}

// TestSelectorLeavesCRDsOut checks that `kubectl apply --selector app.kubernetes.io/name=tandem`, by which docs/upgrading.md goes back to an older
// version, applies everything but the CRDs and the namespace.
func TestSelectorLeavesCRDsOut(t *testing.T) {
	for _, mode := range modes {
		for _, o := range kustomize(t, "../../manifests/"+mode) {
			shared := o.GetKind() == "CustomResourceDefinition" || o.GetKind() == "Namespace"
			if got := o.GetLabels()["app.kubernetes.io/name"] == "tandem"; got == shared {
				t.Errorf("%s: the selector finds %s %s: %t", mode, o.GetKind(), o.GetName(), got)
			}
		}
	}
}

// TestServicesModeWritesNoNodes checks that the service account of the controller manager has no right to write Nodes in mode services.
func TestServicesModeWritesNoNodes(t *testing.T) {
	writes := map[string]bool{}
	for _, mode := range modes {
		objects := kustomize(t, "../../manifests/"+mode)
		for _, o := range objects {
			if o.GetKind() != "ClusterRole" || !strings.Contains(o.GetName(), "cloud-controller-manager") {
				continue
			}
			for _, rule := range find[rbacv1.ClusterRole](t, objects, "ClusterRole", o.GetName()).Rules {
				for _, resource := range rule.Resources {
					if strings.HasPrefix(resource, "nodes") || resource == "*" {
						writes[mode] = writes[mode] || slices.ContainsFunc(rule.Verbs, func(verb string) bool {
							return !slices.Contains([]string{"get", "list", "watch"}, verb)
						})
					}
				}
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"default": true, "services": false}, writes); diff != "" {
		t.Errorf("modes whose controller manager writes Nodes (-want +got):\n%s", diff)
	}
}

// TestOneNodeOverlaps checks that the component for one node lets two speakers be on it, whose metrics the Service of monitoring finds all the same.
func TestOneNodeOverlaps(t *testing.T) {
	for _, mode := range modes {
		objects := overlay(t, strings.ReplaceAll(`
resources: [MANIFESTS/MODE]
components: [MANIFESTS/monitoring, MANIFESTS/one-node]
`, "MODE", mode))
		speaker := find[appsv1.DaemonSet](t, objects, "DaemonSet", "tandem-speaker")
		if rolling := speaker.Spec.UpdateStrategy.RollingUpdate; rolling.MaxSurge.String() != "1" || rolling.MaxUnavailable.String() != "0" {
			t.Errorf("%s: the update strategy is %v, want an overlap", mode, rolling)
		}
		if ports := speaker.Spec.Template.Spec.Containers[0].Ports; len(ports) > 0 {
			t.Errorf("%s: the Pod declares %v, so that a node takes one", mode, ports)
		}
		if got := find[corev1.Service](t, objects, "Service", "tandem-speaker").Spec.Ports[0].TargetPort; got.IntValue() != 7574 {
			t.Errorf("%s: the Service of the metrics looks for port %v, which the Pod does not declare", mode, got.String())
		}
	}
}

// overlay returns the objects of a kustomization, in which MANIFESTS stands for the directory of the manifests.
func overlay(t *testing.T, kustomization string) []*unstructured.Unstructured {
	t.Helper()
	manifests, err := filepath.Abs("../../manifests")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if manifests, err = filepath.Rel(dir, manifests); err != nil {
		t.Fatal(err)
	}
	kustomization = strings.ReplaceAll(kustomization, "MANIFESTS", manifests)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	return kustomize(t, dir)
}

// TestAnotherNamespace puts an overlay with a namespace over each mode, with monitoring and the network policy. Nothing may stay in
// tandem-system, or refer to it.
func TestAnotherNamespace(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			objects := overlay(t, strings.ReplaceAll(`
namespace: lb-system
resources: [MANIFESTS/MODE, MANIFESTS/monitoring/pod-monitors]
components: [MANIFESTS/monitoring, MANIFESTS/network-policy, MANIFESTS/openshift, MANIFESTS/kernel-routes, MANIFESTS/one-node]
`, "MODE", mode))
			for _, o := range objects {
				if o.GetKind() == "CustomResourceDefinition" {
					continue // their descriptions may speak of any namespace
				}
				text, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				for _, other := range []string{"tandem-system", "kube-system"} {
					if bytes.Contains(text, []byte(other)) {
						t.Errorf("%s %s speaks of %s: %s", o.GetKind(), o.GetName(), other, text)
					}
				}
			}
		})
	}
}
