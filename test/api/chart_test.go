// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const root = "../.."

// helm runs the Helm that `make generate` runs.
func helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^HELM +:= (.*)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile does not say which Helm")
	}
	command := append(strings.Fields(string(line[1])), args...)
	var output, complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &output, &complaint
	if err := cmd.Run(); err != nil {
		return nil, errors.New(complaint.String())
	}
	return output.Bytes(), nil
}

// template renders the chart with the kustomize bases' namespace and some values, in --set's form.
func template(t *testing.T, namespace string, values ...string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	args := []string{"template", "tandem", "manifests/helm/tandem", "--namespace", namespace, "--kube-version", "1.33.0"}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	text, err := helm(t, args...)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			t.Fatalf("reading what the chart renders: %v", err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// TestChartIsAccepted offers the API server what the chart renders.
func TestChartIsAccepted(t *testing.T) {
	for _, namespace := range []string{"tandem-system", "lb-system"} {
		create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	}
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		name, namespace string
		values          []string
		check           func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet)
	}{
		{name: "the defaults", namespace: "tandem-system"},
		{name: "services", namespace: "lb-system", values: []string{"mode=services"}},
		{
			name: "images of a registry of one's own, by digest", namespace: "lb-system",
			values: []string{
				"image.registry=registry.example:5000/mirror/tandem", "image.pullSecrets={mirror}", "image.pullPolicy=Always",
				"controllerManager.digest=" + digest, "speaker.digest=" + digest,
			},
			check: func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet) {
				for program, pod := range map[string]corev1.PodSpec{
					"cloud-controller-manager": deployment.Spec.Template.Spec, "speaker": speaker.Spec.Template.Spec,
				} {
					want := "registry.example:5000/mirror/tandem/" + program + "@" + digest
					if got := pod.Containers[0].Image; got != want || pod.Containers[0].ImagePullPolicy != corev1.PullAlways {
						t.Errorf("image = %s (%s), want %s", got, pod.Containers[0].ImagePullPolicy, want)
					}
					if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "mirror"}}, pod.ImagePullSecrets); diff != "" {
						t.Errorf("pull secrets of %s (-want +got):\n%s", program, diff)
					}
				}
			},
		},
		{
			name: "all that may be set of the programs", namespace: "lb-system",
			values: []string{
				"loadBalancerClassOnly=true", "logging.format=json", "logging.verbosity=4",
				"controllerManager.replicas=3", "controllerManager.port=17575", "controllerManager.extraArgs={--concurrent-service-syncs=4}",
				"controllerManager.podAnnotations.a=b", "controllerManager.tolerations[0].key=mine", "controllerManager.priorityClassName=",
				"controllerManager.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key=metadata.name",
				"controllerManager.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].operator=In",
				"controllerManager.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values={node1}",
				"speaker.membershipPort=17573", "speaker.metricsPort=17574", "speaker.extraArgs={--host-ip=::1}", "speaker.maxUnavailable=10%",
				"speaker.resources.limits.memory=512Mi", "speaker.nodeSelector.rack=one",
			},
			check: func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet) {
				manager, announcer := deployment.Spec.Template.Spec.Containers[0], speaker.Spec.Template.Spec.Containers[0]
				if diff := cmp.Diff([]string{
					"--load-balancer-class-only", "--secure-port=17575", "--authentication-skip-lookup", "--profiling=false",
					"--logging-format=json", "--v=4", "--concurrent-service-syncs=4",
				}, manager.Args); diff != "" {
					t.Errorf("arguments of the controller manager (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]string{
					"--membership-port=17573", "--metrics-bind-address=:17574", "--logging-format=json", "--v=4", "--host-ip=::1",
				}, announcer.Args); diff != "" {
					t.Errorf("arguments of the speaker (-want +got):\n%s", diff)
				}
				if got := *deployment.Spec.Replicas; got != 3 {
					t.Errorf("replicas = %d, want 3", got)
				}
			},
		},
		{
			name: "neither CRDs nor aggregation", namespace: "lb-system", values: []string{"crds.install=false", "rbac.aggregate=false"},
		},
		{name: "CRDs that go with the release", namespace: "lb-system", values: []string{"crds.keep=false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rendered, err := template(t, tt.namespace, tt.values...)
			if err != nil {
				t.Fatal(err)
			}
			deployment, speaker := &appsv1.Deployment{}, &appsv1.DaemonSet{}
			for _, o := range rendered {
				if !strings.HasPrefix(o.GetName(), "tandem-") && o.GetKind() != "CustomResourceDefinition" {
					t.Errorf("%s %s might be somebody else's", o.GetKind(), o.GetName())
				}
				if o.GetNamespace() != "" && o.GetNamespace() != tt.namespace {
					t.Errorf("%s %s is in namespace %s", o.GetKind(), o.GetName(), o.GetNamespace())
				}
				switch o.GetKind() {
				case "Deployment":
					err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, deployment, true)
				case "DaemonSet":
					err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, speaker, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				// Fields that the API server does not know are errors of a server-side apply.
				err := apiClient.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.DryRunAll, client.FieldOwner("test"), client.ForceOwnership)
				if err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
			if tt.check != nil {
				tt.check(t, deployment, speaker)
			}
		})
	}
}

// TestChartRefuses checks that a value that cannot work is refused before anything is installed, in words that name it.
func TestChartRefuses(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"a mode that there is not", "mode=bgp", "mode"},
		{"a value that is misspelt", "speaker.metricPort=9100", "metricPort"},
		{"a port out of range", "speaker.metricsPort=70000", "metricsPort"},
		{"a digest without its algorithm", "speaker.digest=0123", "digest"},
		{"an argument without its dashes", "speaker.extraArgs={v=4}", "extraArgs"},
		{"no node at a time", "speaker.maxUnavailable=0", "maxUnavailable"},
		{"a product that there is not", "honourAnnotations={metalb}", "honourAnnotations"},
		{"a registry that ends in a slash", "image.registry=registry.example/", "registry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := template(t, "tandem-system", tt.value); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one that names %s", err, tt.want)
			}
		})
	}
}

// TestChartIsTheManifests compares what the chart renders with what `kubectl apply -k` of each mode applies, object for object.
func TestChartIsTheManifests(t *testing.T) {
	for mode, dir := range map[string]string{"cloud-provider": "default", "services": "services"} {
		t.Run(mode, func(t *testing.T) {
			rendered, err := template(t, "tandem-system", "mode="+mode)
			if err != nil {
				t.Fatal(err)
			}
			want := byName(t, objects(t, root+"/manifests/"+dir+"/tandem.yaml"))
			got := byName(t, slices.DeleteFunc(rendered, func(o *unstructured.Unstructured) bool {
				_, hook := o.GetAnnotations()["helm.sh/hook"]
				return hook || o.GetKind() == "CustomResourceDefinition" // which manifests/crd has, and make generate compares
			}))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("manifests/%s and the chart differ (-manifests +chart); run make generate:\n%s", dir, diff)
			}
		})
	}
}

// byName indexes objects by what kubectl calls them.
func byName(t *testing.T, objects []*unstructured.Unstructured) map[string]map[string]any {
	t.Helper()
	index := map[string]map[string]any{}
	for _, o := range objects {
		key := strings.Join([]string{o.GetKind(), o.GetNamespace(), o.GetName()}, "/")
		if _, twice := index[key]; twice {
			t.Errorf("there are two of %s", key)
		}
		index[key] = o.Object
	}
	return index
}

// TestHelm installs the chart, changes its mode and uninstalls it: a role that a mode does not have goes, and the CRDs stay.
func TestHelm(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "helm"}})
	clientset := kubernetes.NewForConfigOrDie(config)
	admin := writeKubeconfig(t, &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData})
	nodesRole := func() bool {
		_, err := clientset.RbacV1().ClusterRoles().Get(t.Context(), "tandem-cloud-controller-manager-nodes", metav1.GetOptions{})
		return err == nil
	}
	// The CRDs are those of all tests, so that the release has to take them over.
	for _, step := range []struct {
		args      []string
		wantNodes bool
	}{
		{args: []string{"install", "tandem", "manifests/helm/tandem", "--take-ownership"}, wantNodes: true},
		{args: []string{"upgrade", "tandem", "manifests/helm/tandem", "--take-ownership", "--set", "mode=services"}, wantNodes: false},
		{args: []string{"uninstall", "tandem"}, wantNodes: false},
	} {
		out, err := helm(t, append(step.args, "--namespace", "helm", "--kubeconfig", admin)...)
		if err != nil {
			t.Fatalf("helm %s: %v", strings.Join(step.args, " "), err)
		}
		t.Logf("%s", out)
		if got := nodesRole(); got != step.wantNodes {
			t.Errorf("after helm %s the role to write Nodes is there: %t, want %t", step.args[0], got, step.wantNodes)
		}
	}
	if _, err := clientset.AppsV1().DaemonSets("helm").Get(t.Context(), "tandem-speaker", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the speakers after helm uninstall: %v", err)
	}
	var crds apiextensionsv1.CustomResourceDefinitionList
	if err := apiClient.List(t.Context(), &crds); err != nil {
		t.Fatal(err)
	}
	if len(crds.Items) != 9 || slices.ContainsFunc(crds.Items, func(crd apiextensionsv1.CustomResourceDefinition) bool {
		return crd.DeletionTimestamp != nil
	}) {
		t.Errorf("%d CRDs are left, or are being deleted", len(crds.Items))
	}
}
