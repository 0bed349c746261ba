// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tandem-lb/tandem/test/documents"
)

// TestREADME types what the first screen of README says, but for the installation, in a cluster with a Deployment called web.
func TestREADME(t *testing.T) {
	lan, lines := documents.FirstScreen(t, root)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lan.yaml"), []byte(lan), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kubectl, filepath.Join(dir, "kubectl")); err != nil {
		t.Fatal(err)
	}
	kubeconfig := adminKubeconfig(t)
	clientset := kubernetes.NewForConfigOrDie(config)
	labels := map[string]string{"app": "web"}
	if _, err := clientset.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
			},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	sh := func(command string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", command)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "KUBECONFIG="+kubeconfig, "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s\n%v: %s", command, err, out)
		}
		return string(out)
	}
	for _, line := range lines[1:] {
		t.Log(sh(line))
	}
	service, err := clientset.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Spec.IPFamilies) != 2 {
		t.Errorf("the Service is of type %s with families %v, want LoadBalancer with both", service.Spec.Type, service.Spec.IPFamilies)
	}
	if got := sh("kubectl get tandem -o name"); !strings.Contains(got, "addresspool.tandem-lb.io/lan\n") ||
		!strings.Contains(got, "l2advertisement.tandem-lb.io/lan\n") {
		t.Errorf("kubectl get tandem shows:\n%s", got)
	}
	sh("kubectl delete -f lan.yaml && kubectl delete service,deployment web")
}
