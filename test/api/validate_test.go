// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/documents"
)

// TestValidationScript runs manifests/examples/validate.sh as docs/validate.md says, for a Service that works and for one that is not
// announced, and compares what it prints with what that page shows. A curl that answers as it is told stands for the network.
func TestValidationScript(t *testing.T) {
	ensureNamespace(t, "tandem-system")
	rolledOut(t)
	createWithStatus(t, &speakerv1alpha1.SpeakerStatus{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Status: speakerv1alpha1.SpeakerState{
			BGPSessions: []speakerv1alpha1.BGPSession{{Peer: "tor1", State: speakerv1alpha1.BGPEstablished}},
			Conditions:  []metav1.Condition{condition("Ready", metav1.ConditionTrue, "Announcing", "")},
		},
	})
	const why = "no advertisement selects pool lan"
	for name, announced := range map[string]metav1.Condition{
		"web":    condition(ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "Announced", ""),
		"silent": condition(ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "NoAdvertisement", why),
	} {
		createWithStatus(t, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
			Status: corev1.ServiceStatus{
				LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "198.51.100.200"}, {IP: "2001:db8:51::1000"}}},
				Conditions:   []metav1.Condition{condition(ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionTrue, "Allocated", ""), announced},
			},
		})
	}

	page := documents.Read(t, root, "docs/validate.md")
	shown := func(begin string) string {
		for _, block := range page.Blocks {
			if strings.HasPrefix(block.Text, begin) {
				return block.Text
			}
		}
		t.Fatalf("docs/validate.md shows nothing that begins with %q", begin)
		return ""
	}
	want := shown("$ sh manifests/examples/validate.sh web\n")
	_, want, _ = strings.Cut(want, "\n")
	admin := adminKubeconfig(t)
	output, code := validate(t, admin, "web", 0)
	if diff := cmp.Diff(want, output); diff != "" || code != 0 {
		t.Errorf("the script ends with %d; output (-page +script):\n%s", code, diff)
	}
	speakers := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "tandem-speaker"}}
	onDelete := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}`))
	if err := apiClient.Patch(t.Context(), speakers, onDelete); err != nil {
		t.Fatal(err)
	}
	output, code = validate(t, admin, "web", 0)
	if diff := cmp.Diff(want, output); diff != "" || code != 0 {
		t.Errorf("of speakers with the strategy OnDelete the script ends with %d; output (-page +script):\n%s", code, diff)
	}
	patchAsAdmin(t, speakers, `{"status": {"numberAvailable": 0}}`)
	if output, code := validate(t, admin, "web", 0); !strings.Contains(output, "0 of 1 speakers are available") || code != 1 {
		t.Errorf("of a speaker that is not available the script says, with exit code %d:\n%s", code, output)
	}
	patchAsAdmin(t, speakers, `{"status": {"numberAvailable": 1}}`)
	failure := strings.ReplaceAll(shown("FAILED"), "services/web", "services/silent")
	if output, code := validate(t, admin, "silent", 0); !strings.Contains(output, failure) || code != 1 {
		t.Errorf("of a Service that is not announced the script says, with exit code %d:\n%s", code, output)
	}
	stranger := writeKubeconfig(t, &clientcmdapi.AuthInfo{Token: "not-a-token"})
	if output, code := validate(t, stranger, "web", 0); strings.Contains(output, "\nok") || code != 6 {
		t.Errorf("to a user that the API server does not know the script says, with exit code %d:\n%s", code, output)
	}
	if output, code := validate(t, admin, "web", 7); strings.Count(output, "FAILED  http://") != 2 || code != 2 {
		t.Errorf("of a Service that does not answer the script says, with exit code %d:\n%s", code, output)
	}
}

// rolledOut creates a controller manager and speakers whose statuses say that all are there.
func rolledOut(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "tandem-system", Name: name} }
	labels := map[string]string{"app": "test"}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}},
	}
	createWithStatus(t, &appsv1.Deployment{
		ObjectMeta: meta("tandem-cloud-controller-manager"),
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
	})
	createWithStatus(t, &appsv1.DaemonSet{
		ObjectMeta: meta("tandem-speaker"),
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		Status: appsv1.DaemonSetStatus{
			ObservedGeneration: 1, DesiredNumberScheduled: 1, CurrentNumberScheduled: 1, UpdatedNumberScheduled: 1,
			NumberReady: 1, NumberAvailable: 1,
		},
	})
}

// createWithStatus creates obj until the test ends, and then writes its status.
func createWithStatus(t *testing.T, obj client.Object) {
	t.Helper()
	status := obj.DeepCopyObject().(client.Object)
	create(t, obj)
	status.SetResourceVersion(obj.GetResourceVersion())
	if service, ok := status.(*corev1.Service); ok { // whose spec the API server completes, and validates with the status
		service.Spec = obj.(*corev1.Service).Spec
	}
	if err := apiClient.Status().Update(t.Context(), status); err != nil {
		t.Fatal(err)
	}
}

// validate runs the script for a Service as the user of a kubeconfig, with a curl that ends with the code given, and returns what it prints and its
// exit code.
func validate(t *testing.T, kubeconfig, service string, curl int) (output string, code int) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(kubectl, filepath.Join(dir, "kubectl")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte("#!/bin/sh\nexit "+string(rune('0'+curl))+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "manifests/examples/validate.sh", service)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "TIMEOUT=1s",
		"KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}
