// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

	"github.com/tandem-lb/tandem/speaker/observation"
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

// template renders the chart in a namespace with some values, in the form of --set, or with a list in brackets in that of --set-json.
func template(t *testing.T, namespace string, values ...string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	var flags []string
	for _, value := range values {
		flag := "--set"
		if strings.Contains(value, "=[") {
			flag = "--set-json"
		}
		flags = append(flags, flag, value)
	}
	return render(t, namespace, flags...)
}

// render renders the chart in a namespace with some flags of Helm.
func render(t *testing.T, namespace string, flags ...string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	text, err := helm(t, append([]string{"template", "tandem", "manifests/helm/tandem", "--namespace", namespace, "--kube-version", "1.33.0"}, flags...)...)
	if err != nil {
		return nil, err
	}
	return decode(t, text), nil
}

// chartCase is a set of values for the chart.
type chartCase struct {
	name, namespace string
	values          []string
	check           func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet)
	// Texts that what is rendered has; texts that it has not, and that it has with the defaults.
	with, without []string
}

func chartCases() []chartCase {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	pods := []string{ // of both programs
		"podAnnotations.a=b", "nodeSelector.rack=one", "tolerations[0].key=mine", "resources.limits.memory=1Gi",
		"extraVolumes[0].name=cert", "extraVolumes[0].secret.secretName=cert", "extraVolumeMounts[0].name=cert",
		"extraVolumeMounts[0].mountPath=/cert",
		"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=rack",
		"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
	}
	of := func(program string, more ...string) (values []string) {
		for _, value := range append(more, pods...) {
			values = append(values, program+"."+value)
		}
		return values
	}
	return []chartCase{
		{name: "the defaults", namespace: "tandem-system"},
		{name: "services", namespace: "lb-system", values: []string{"mode=services"}},
		{
			name: "images of a registry of one's own, by digest", namespace: "lb-system",
			values: []string{
				"image.registry=registry.example:5000/mirror/tandem", "image.pullSecrets={mirror}", "image.pullPolicy=Always",
				"controllerManager.digest=" + digest, "speaker.digest=" + digest, "tests.digest=" + digest,
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
			with: []string{"registry.example:5000/mirror/tandem/kubectl-tandem@" + digest},
		},
		{
			name: "images of another version", namespace: "lb-system", values: []string{"image.tag=v0.1.1"},
			with: []string{"/speaker:v0.1.1", "/cloud-controller-manager:v0.1.1"},
		},
		{
			name: "all that may be set of the programs", namespace: "lb-system",
			values: slices.Concat([]string{
				"loadBalancerClassOnly=true", "honourAnnotations={metallb,cilium}", "crossNamespaceSharing=Deny", "logging.format=json", "logging.verbosity=4",
			}, of("controllerManager", "replicas=3", "port=17575", "extraArgs={--concurrent-service-syncs=4}", "priorityClassName="),
				of("speaker", "membershipPort=17573", "metricsPort=17574", "extraArgs={--host-ip=::1}", "maxUnavailable=10%", "minReadySeconds=30",
					"priorityClassName=mine")),
			check: checkPrograms,
		},
		{
			name: "speakers that write into the kernel", namespace: "lb-system", values: []string{"speaker.kernelRoutes=true"},
			with: []string{`"NET_ADMIN"`},
		},
		{
			name: "speakers on control planes", namespace: "lb-system", values: []string{"speaker.ignoreExcludeLabel=true"},
			with: []string{`"--ignore-exclude-label"`},
		},
		{
			name: "speakers with a real-time policy", namespace: "lb-system", values: []string{"speaker.realtime=true"},
			with: []string{`"--realtime"`, `"SYS_NICE"`},
		},
		{
			name: "no annotations of other products", namespace: "lb-system", values: []string{"honourAnnotations=[]"},
			with: []string{`"--honour-annotations="`},
		},
		{
			name: "no limits, and speakers that restart when they are told to", namespace: "lb-system",
			values: []string{"controllerManager.resources.limits=null", "speaker.resources.limits=null", "speaker.updateStrategy=OnDelete"},
			with:   []string{`{"type":"OnDelete"}`},
			check: func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet) {
				for _, pod := range []corev1.PodSpec{deployment.Spec.Template.Spec, speaker.Spec.Template.Spec} {
					if slices.ContainsFunc(pod.Containers[0].Env, func(v corev1.EnvVar) bool { return v.Name == "GOMEMLIMIT" }) {
						t.Errorf("%s has no limit of memory, and GOMEMLIMIT", pod.Containers[0].Name)
					}
				}
			},
		},
		{
			name: "a test with fewer rights, by an image of a registry", namespace: "lb-system",
			values: []string{
				"image.registry=registry.example/tandem", "tests.digest=sha256:" + strings.Repeat("0", 64), "tests.askSpeakers=false",
				"tests.skip={Services}", "tests.wait=90s",
			},
			with: []string{
				`"registry.example/tandem/kubectl-tandem@sha256:000`,
				`["check","--tandem-namespace=lb-system","--wait=90s","--ask-speakers=false","--skip=Services"]`,
			},
			without: []string{"pods/portforward"},
		},
		{
			name: "a speaker that overlaps with the one before it", namespace: "lb-system",
			values: []string{"mode=services", "speaker.maxSurge=1", "speaker.metricsPort=17574", "monitoring.serviceMonitors=true"},
			with:   []string{`"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}`, `{"name":"metrics","port":7574,"targetPort":17574}`},
			// Two Pods that declare one port of the node are not put on that node.
			without: []string{`"containerPort":7573`},
		},
		{
			name: "a namespace of the Secrets' own", namespace: "lb-system", values: []string{"secretsNamespace=lb-secrets"},
			check: func(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet) {
				for _, pod := range []corev1.PodSpec{deployment.Spec.Template.Spec, speaker.Spec.Template.Spec} {
					if args := pod.Containers[0].Args; !slices.Contains(args, "--secrets-namespace=lb-secrets") {
						t.Errorf("%s has arguments %v, want the namespace of the Secrets", pod.Containers[0].Name, args)
					}
				}
			},
		},
		{
			name: "monitoring, a network policy and OpenShift", namespace: "lb-system",
			values: []string{
				"mode=services", "openshift=true", "networkPolicy=true", "controllerManager.port=17575", "monitoring.serviceMonitors=true",
				"monitoring.podMonitors=true", "monitoring.rules=true", "monitoring.dashboard=true", "monitoring.labels.release=prometheus",
				"apiServerPorts={443,8443}",
			},
			with: []string{
				"SecurityContextConstraints", `"kind":"NetworkPolicy"`, `"ports":[{"port":17575,"protocol":"TCP"}]`, `"kind":"ServiceMonitor"`,
				`"egress":[{"ports":[{"port":443,"protocol":"TCP"},{"port":8443,"protocol":"TCP"}]},`,
				`"kind":"PodMonitor"`, `"kind":"PrometheusRule"`, `"release":"prometheus"`, "grafana_dashboard",
			},
			without: []string{`"runAsUser":65532`}, // OpenShift admits only users of the namespace's range
		},
		{
			name: "neither CRDs nor aggregation nor policies", namespace: "lb-system",
			values:  []string{"crds.install=false", "rbac.aggregate=false", "admissionPolicies=false"},
			without: []string{"CustomResourceDefinition", "aggregate-to-", "ValidatingAdmissionPolicy"},
		},
		{
			name: "CRDs that go with the release", namespace: "lb-system", values: []string{"crds.keep=false"},
			without: []string{"helm.sh/resource-policy"},
		},
	}
}

// checkPrograms looks for what the case with all that may be set of the programs sets.
func checkPrograms(t *testing.T, deployment *appsv1.Deployment, speaker *appsv1.DaemonSet) {
	manager, announcer := deployment.Spec.Template.Spec.Containers[0], speaker.Spec.Template.Spec.Containers[0]
	if diff := cmp.Diff([]string{
		"--load-balancer-class-only", "--honour-annotations=metallb,cilium", "--cross-namespace-sharing=Deny", "--secure-port=17575",
		"--authentication-skip-lookup", "--profiling=false", "--logging-format=json", "--v=4", "--concurrent-service-syncs=4",
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
	if got := speaker.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); got != "10%" {
		t.Errorf("maxUnavailable = %s, want 10%%", got)
	}
	if got := speaker.Spec.MinReadySeconds; got != 30 {
		t.Errorf("minReadySeconds = %d, want 30", got)
	}
	for program, pod := range map[string]corev1.PodTemplateSpec{"": deployment.Spec.Template, "mine": speaker.Spec.Template} {
		// The priority class tells the two apart.
		if pod.Spec.PriorityClassName != program {
			t.Errorf("the priority class is %q, want %q", pod.Spec.PriorityClassName, program)
		}
		if diff := cmp.Diff(map[string]string{"a": "b"}, pod.Annotations); diff != "" {
			t.Errorf("annotations (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{"kubernetes.io/os": "linux", "rack": "one"}, pod.Spec.NodeSelector); diff != "" {
			t.Errorf("node selector (-want +got):\n%s", diff)
		}
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(toleration corev1.Toleration) bool { return toleration.Key == "mine" }) {
			t.Errorf("tolerations = %v, want one of mine", pod.Spec.Tolerations)
		}
		container := pod.Spec.Containers[0]
		forGo := corev1.EnvVar{Name: "GOMEMLIMIT", Value: "966367641"} // nine tenths
		if got := container.Resources.Limits.Memory().String(); got != "1Gi" || !slices.Contains(container.Env, forGo) {
			t.Errorf("the limit of memory is %s, and the environment %v, want 1Gi and %v", got, container.Env, forGo)
		}
		if !slices.ContainsFunc(pod.Spec.Volumes, func(volume corev1.Volume) bool { return volume.Name == "cert" && volume.Secret != nil }) ||
			!slices.Contains(container.VolumeMounts, corev1.VolumeMount{Name: "cert", MountPath: "/cert"}) {
			t.Errorf("volumes = %v, mounted at %v, want the certificate among them", pod.Spec.Volumes, container.VolumeMounts)
		}
		if affinity := pod.Spec.Affinity; affinity.PodAntiAffinity != nil || affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution != nil ||
			affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			t.Errorf("affinity = %v, want the given one alone", affinity)
		}
	}
}

// TestChartIsAccepted offers the API server what the chart renders.
func TestChartIsAccepted(t *testing.T) {
	for _, namespace := range []string{"tandem-system", "lb-system", "lb-secrets"} {
		create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	}
	defaults := ""
	for _, tt := range chartCases() {
		t.Run(tt.name, func(t *testing.T) {
			rendered, err := template(t, tt.namespace, tt.values...)
			if err != nil {
				t.Fatal(err)
			}
			deployment, speaker := &appsv1.Deployment{}, &appsv1.DaemonSet{}
			var all strings.Builder
			for _, o := range rendered {
				if !strings.HasPrefix(o.GetName()+"-", "tandem-") && o.GetKind() != "CustomResourceDefinition" {
					t.Errorf("%s %s might be somebody else's", o.GetKind(), o.GetName())
				}
				namespace := tt.namespace
				if slices.Contains(tt.values, "secretsNamespace=lb-secrets") && strings.HasSuffix(o.GetName(), "-secrets") {
					namespace = "lb-secrets"
				}
				if o.GetNamespace() != "" && o.GetNamespace() != namespace {
					t.Errorf("%s %s is in namespace %s, want %s", o.GetKind(), o.GetName(), o.GetNamespace(), namespace)
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
				text, err := o.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				all.Write(text)
				if foreign.MatchString(o.GetAPIVersion()) {
					continue
				}
				if err := tryApply(t.Context(), o); err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
			if len(tt.values) == 0 {
				defaults = all.String()
			}
			for _, text := range tt.with {
				if !strings.Contains(all.String(), text) {
					t.Errorf("nothing has %s", text)
				}
			}
			for _, text := range tt.without {
				if strings.Contains(all.String(), text) || !strings.Contains(defaults, text) {
					t.Errorf("something has %s, or nothing has it with the defaults either", text)
				}
			}
			if tt.check != nil {
				tt.check(t, deployment, speaker)
			}
		})
	}
}

// TestPodSecurity offers the Pods to a namespace for each Pod Security level. Only the speaker needs the level privileged, for its network
// and NET_RAW, and the controller manager of mode cloud-provider, for its network.
func TestPodSecurity(t *testing.T) {
	for _, level := range []string{"restricted", "privileged"} {
		labels := map[string]string{"pod-security.kubernetes.io/enforce": level}
		create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: level, Labels: labels}})
	}
	for mode, want := range map[string]map[string]string{
		"services":       {"Deployment": "restricted", "Pod": "restricted", "DaemonSet": "privileged"},
		"cloud-provider": {"Deployment": "privileged", "Pod": "restricted", "DaemonSet": "privileged"},
	} {
		t.Run(mode, func(t *testing.T) {
			rendered, err := template(t, "tandem-system", "mode="+mode, "crds.install=false")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, o := range rendered {
				spec, _, _ := unstructured.NestedMap(o.Object, "spec")
				switch o.GetKind() {
				case "Deployment", "DaemonSet":
					spec, _, _ = unstructured.NestedMap(spec, "template", "spec")
				case "Pod":
				default:
					continue
				}
				for _, level := range []string{"privileged", "restricted"} {
					pod := &unstructured.Unstructured{Object: map[string]any{
						"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "test", "namespace": level}, "spec": spec,
					}}
					if err := tryCreate(t.Context(), pod); err == nil {
						got[o.GetKind()] = level
					} else if level == "privileged" || !strings.Contains(err.Error(), "violates PodSecurity") {
						t.Errorf("%s in a namespace of level %s: %v", o.GetKind(), level, err)
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("levels that the Pods need (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryValueIsSet checks that the cases set every value of the chart, so that one that does nothing is noticed.
func TestEveryValueIsSet(t *testing.T) {
	text, err := os.ReadFile(root + "/manifests/helm/tandem/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	var visit func(path string, value any)
	visit = func(path string, value any) {
		set := slices.ContainsFunc(chartCases(), func(c chartCase) bool {
			return slices.ContainsFunc(c.values, func(v string) bool {
				after, ok := strings.CutPrefix(v, path)
				return ok && strings.IndexAny(after, "=.[") == 0
			})
		})
		section, ok := value.(map[string]any)
		switch {
		case !set:
			t.Errorf("no case sets %s", path)
		case ok && len(section) > 0 && !strings.HasSuffix(path, ".nodeSelector") && !strings.HasSuffix(path, ".resources"):
			for name, value := range section {
				visit(path+"."+name, value)
			}
		}
	}
	for name, value := range values {
		visit(name, value)
	}
}

// TestChartAsDependency renders a chart of a platform team that has this one as a dependency, unpacked and switched by a condition.
func TestChartAsDependency(t *testing.T) {
	platform := t.TempDir()
	chart, err := filepath.Abs(root + "/manifests/helm/tandem")
	if err != nil {
		t.Fatal(err)
	}
	const about = `{apiVersion: v2, name: platform, version: 1.0.0, dependencies: [{name: tandem, version: "*", condition: tandem.enabled}]}`
	if err := errors.Join(
		os.WriteFile(filepath.Join(platform, "Chart.yaml"), []byte(about), 0o600), os.Mkdir(filepath.Join(platform, "charts"), 0o700),
		os.Symlink(chart, filepath.Join(platform, "charts", "tandem")),
	); err != nil {
		t.Fatal(err)
	}
	alone, err := template(t, "lb-system", "mode=services")
	if err != nil {
		t.Fatal(err)
	}
	for enabled, want := range map[string]int{"true": len(alone), "false": 0} {
		text, err := helm(t, "template", "platform", platform, "--namespace", "lb-system", "--kube-version", "1.33.0",
			"--set", "tandem.mode=services,tandem.enabled="+enabled)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(decode(t, text)); got != want {
			t.Errorf("with tandem.enabled=%s there are %d objects, want %d", enabled, got, want)
		}
	}
}

// TestChartRefuses checks that a value that cannot work is refused before anything is installed, in words that name it.
func TestChartRefuses(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"a mode that there is not", "mode=bgp", "mode"},
		{"a value that is misspelt", "speaker.metricPort=9100", "metricPort"},
		{"a port out of range", "speaker.metricsPort=70000", "metricsPort"},
		{"one port for two", "speaker.metricsPort=7573", "speaker.metricsPort: it is speaker.membershipPort too"},
		{"a port of the speaker's", "controllerManager.port=7574", "controllerManager.port: in mode cloud-provider it is a port of the node"},
		{"a digest without its algorithm", "speaker.digest=0123", "digest"},
		{"an argument without its dashes", "speaker.extraArgs={v=4}", "extraArgs"},
		{"no node at a time", "speaker.maxUnavailable=0", "maxUnavailable"},
		{"an overlap of speakers that restart when they are told to", "speaker.maxSurge=1,speaker.updateStrategy=OnDelete", "speaker.maxSurge"},
		{"monitors of ports that there are not", "speaker.maxSurge=1,monitoring.podMonitors=true", "monitoring.podMonitors"},
		{"a product that there is not", "honourAnnotations={metalb}", "honourAnnotations"},
		{"a registry that ends in a slash", "image.registry=registry.example/", "registry"},
		{"a registry with a scheme", "image.registry=https://registry.example/tandem", "registry"},
		{"no speaker", "speaker=null", "speaker"},
		{"no controller manager", "controllerManager=null", "controllerManager"},
		{"no mode", "mode=null", "mode"},
		{"no number of nodes", "speaker.maxUnavailable=null", "maxUnavailable"},
		{"a limit of memory from which GOMEMLIMIT cannot be made", "speaker.resources.limits.memory=1.5Gi", "memory"},
		{"limits that are misspelt", "speaker.resources.limit.memory=1Gi", "limit"},
		{"a toleration that is misspelt", "speaker.tolerations[0].effects=NoSchedule", "effects"},
		{"an affinity that is misspelt", "controllerManager.affinity.nodeAfinity.a=b", "nodeAfinity"},
		{"a namespace that cannot be", "secretsNamespace=Secrets", "secretsNamespace"},
		{"a network policy for the network of a node", "networkPolicy=true", "networkPolicy: in mode cloud-provider"},
		{"OpenShift's nodes", "openshift=true", "openshift: OpenShift initialises its nodes itself"},
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

// TestChartIsTheComponents compares what the chart renders with the components of kustomize, object for object.
func TestChartIsTheComponents(t *testing.T) {
	rendered, err := template(t, "tandem-system", "mode=services", "openshift=true", "networkPolicy=true", "monitoring.serviceMonitors=true",
		"monitoring.podMonitors=true", "monitoring.rules=true", "monitoring.dashboard=true")
	if err != nil {
		t.Fatal(err)
	}
	got := byName(t, rendered)
	for _, file := range []string{
		"monitoring/rules/metrics-reader.yaml", "monitoring/rules/rules.yaml", "monitoring/service-monitors/services.yaml",
		"monitoring/service-monitors/service-monitors.yaml", "monitoring/pod-monitors/secret.yaml", "monitoring/pod-monitors/pod-monitors.yaml",
		"network-policy/controller-manager.yaml", "openshift/scc.yaml",
	} {
		for name, want := range byName(t, objects(t, root+"/manifests/"+file)) {
			if diff := cmp.Diff(want, got[name]); diff != "" {
				t.Errorf("%s of %s and the chart differ (-manifests +chart):\n%s", name, file, diff)
			}
		}
	}
	dashboard, err := os.ReadFile(root + "/manifests/monitoring/rules/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	want := any(map[string]any{"tandem.json": string(dashboard)})
	if diff := cmp.Diff(want, got["ConfigMap/tandem-system/tandem-dashboard"]["data"]); diff != "" {
		t.Errorf("the dashboard and the chart differ (-manifests +chart):\n%s", diff)
	}
}

// TestHelmTest runs what `helm test` runs, the plugin with the rights of the test's service account, on an installation that gets ready meanwhile: the
// plugin looks again until then. Steps for which these rights are too few are skipped.
func TestHelmTest(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lb-test"}})
	rendered, err := template(t, "lb-test", "mode=services", "crds.install=false")
	if err != nil {
		t.Fatal(err)
	}
	rolledOut := map[string]string{
		"Deployment": `{"status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}}`,
		"DaemonSet": `{"status": {"observedGeneration": 1, "currentNumberScheduled": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1,
			"numberReady": 1, "numberAvailable": 1, "numberMisscheduled": 0}}`,
	}
	pod := &corev1.Pod{}
	var workloads []*unstructured.Unstructured
	for _, o := range rendered {
		_, workload := rolledOut[o.GetKind()]
		switch _, hook := o.GetAnnotations()["helm.sh/hook"]; {
		case workload:
			create(t, o)
			workloads = append(workloads, o)
		case hook && o.GetKind() == "Pod":
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, pod, true); err != nil {
				t.Fatal(err)
			}
		case hook, o.GetKind() == "ClusterRole" && o.GetName() == "tandem-view":
			create(t, o)
		}
	}
	create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	speaker := object(t, "SpeakerStatus", `metadata: {name: node1}`)
	create(t, speaker)
	patchAsAdmin(t, speaker, `{"status": {"conditions": [
		{"type": "Ready", "status": "True", "reason": "Announcing", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		{"type": "PeersReachable", "status": "True", "reason": "Reachable", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}`)
	create(t, observation.Report("lb-test", "node1", nil, nil, time.Now().Add(time.Hour)))
	tester := writeKubeconfig(t, &clientcmdapi.AuthInfo{Token: newToken(t, "lb-test", pod.Spec.ServiceAccountName, nil)})
	if len(pod.Spec.Containers) != 1 {
		t.Fatalf("the test has %d containers, want 1", len(pod.Spec.Containers))
	}
	cmd := exec.CommandContext(t.Context(), builtPlugin(t), append(pod.Spec.Containers[0].Args, "--kubeconfig", tester)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, o := range workloads {
		patchAsAdmin(t, o, rolledOut[o.GetKind()])
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %v", cmd.Args, err)
	}
	for _, step := range []string{
		"PASS  reading: ", "PASS  controller manager: 1 replica available", "PASS  speakers run: 1 speaker available", "PASS  speakers ready: ",
		"SKIP  sysctls: ", "SKIP  other load balancers: ",
	} {
		if !strings.Contains(out.String(), step) {
			t.Errorf("there is no %q", step)
		}
	}
	if t.Failed() {
		t.Log(out.String())
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

// TestHelm installs the chart, changes its mode, installs a version without its CRDs over it, as on the way back to an older one, and
// uninstalls it: a role that a mode does not have goes, and the CRDs stay.
func TestHelm(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "helm"}})
	clientset := kubernetes.NewForConfigOrDie(config)
	admin := adminKubeconfig(t)
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
		{args: []string{"upgrade", "tandem", "manifests/helm/tandem", "--set", "mode=services", "--set", "crds.install=false"}, wantNodes: false},
		{args: []string{"upgrade", "tandem", "manifests/helm/tandem", "--set", "mode=services"}, wantNodes: false},
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
		var crds apiextensionsv1.CustomResourceDefinitionList
		if err := apiClient.List(t.Context(), &crds); err != nil {
			t.Fatal(err)
		}
		if len(crds.Items) != 9 || slices.ContainsFunc(crds.Items, func(crd apiextensionsv1.CustomResourceDefinition) bool {
			return crd.DeletionTimestamp != nil
		}) {
			t.Errorf("after helm %s %d CRDs are left, or are being deleted", step.args[0], len(crds.Items))
		}
	}
	if _, err := clientset.AppsV1().DaemonSets("helm").Get(t.Context(), "tandem-speaker", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the speakers after helm uninstall: %v", err)
	}
}
