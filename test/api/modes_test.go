// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	speakerconfig "github.com/tandem-lb/tandem/speaker/config"
)

const patience = 60 * time.Second

// TestModes runs the controller manager as each mode installs it, with the arguments of its Deployment and the rights of its service account,
// in a namespace that is not the default one. A Service gets its address in both modes, and a Node is written in one.
func TestModes(t *testing.T) {
	program := buildProgram(t, "cloud-controller-manager")
	for _, tt := range []struct {
		mode        string
		values      []string // beside the mode
		secrets     string   // the namespace of the Secrets, where it is another one
		wantTainted bool
	}{
		{mode: "services", wantTainted: true},
		{
			mode: "cloud-provider", wantTainted: false,
			values:  []string{"honourAnnotations={metallb,cilium}", "crossNamespaceSharing=Deny", "logging.format=json", "logging.verbosity=2"},
			secrets: "lb-secrets-of-speakers",
		},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			namespace := "lb-" + tt.mode
			create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
			values, secrets := append(tt.values, "mode="+tt.mode), namespace
			if tt.secrets != "" {
				secrets = tt.secrets
				values = append(values, "secretsNamespace="+secrets)
				create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: secrets}})
			}
			m := runInstalled(t, program, namespace, install(t, namespace, values...))

			create(t, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{
					Name: namespace, Annotations: map[string]string{cloudproviderapi.AnnotationAlphaProvidedIPAddr: "198.51.100.99"},
				},
				Spec: corev1.NodeSpec{Taints: []corev1.Taint{
					{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule},
				}},
			})
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
			patchAsAdmin(t, node, `{"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.99"}]}}`)
			create(t, object(t, "AddressPool", `spec: {ipv4: {ranges: [192.0.2.1-192.0.2.9]}}`))
			service := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: metav1.NamespaceDefault},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
			}
			create(t, service)
			t.Cleanup(func() { // while the controller manager runs, which takes the finalizer away
				remove(t, service)
			})
			m.until(t, "an address", func(ctx context.Context) bool {
				err := apiClient.Get(ctx, client.ObjectKeyFromObject(service), service)
				return err == nil && len(service.Status.LoadBalancer.Ingress) == 1
			})
			m.until(t, "the Secret of the speakers and the lease", func(ctx context.Context) bool {
				secret, lease := &corev1.Secret{}, &coordinationv1.Lease{}
				return apiClient.Get(ctx, client.ObjectKey{Namespace: secrets, Name: speakerconfig.MembershipSecret}, secret) == nil &&
					apiClient.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "tandem-cloud-controller-manager"}, lease) == nil
			})
			if !tt.wantTainted {
				m.until(t, "the end of the taint", func(ctx context.Context) bool {
					return apiClient.Get(ctx, client.ObjectKeyFromObject(node), node) == nil && !uninitialized(node)
				})
			}
			if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(node), node); err != nil {
				t.Fatal(err)
			}
			if uninitialized(node) != tt.wantTainted || (node.Spec.ProviderID == "") != tt.wantTainted {
				t.Errorf("the node bears %v and has provider ID %q, want it uninitialised: %t", node.Spec.Taints, node.Spec.ProviderID, tt.wantTainted)
			}
			if log := m.log.String(); strings.Contains(log, "forbidden") || strings.Contains(log, "Forbidden") {
				t.Errorf("a right is missing:\n%s", log)
			}
			// The holder of a token is known, and has no right to the metrics.
			got := map[string]int{"/healthz": m.get(t, "/healthz", ""), "/metrics with a token": m.get(t, "/metrics", m.token)}
			if diff := cmp.Diff(map[string]int{"/healthz": 200, "/metrics with a token": 403}, got); diff != "" {
				t.Errorf("answers of the port (-want +got):\n%s", diff)
			}
			if code := m.get(t, "/metrics", "not-a-token"); code != http.StatusUnauthorized {
				t.Errorf("GET /metrics with a token of nobody: %d, want 401", code)
			}
			m.holdConnections(t, 100)
		})
	}
}

// buildProgram builds a program of cmd, and returns the path of what is built.
func buildProgram(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "tandem-"+name)
	version := "-X k8s.io/component-base/version.gitVersion=v0.1.0+0123456789ab" // with a commit, as `make images` sets it
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", version, "-o", program, "./cmd/"+name)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return program
}

func uninitialized(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == cloudproviderapi.TaintExternalCloudProvider })
}

// install creates the service account and the roles that the chart has with these values, and returns the arguments of the controller manager.
func install(t *testing.T, namespace string, values ...string) []string {
	t.Helper()
	rendered, err := template(t, namespace, append(values, "crds.install=false")...)
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, o := range rendered {
		switch _, hook := o.GetAnnotations()["helm.sh/hook"]; {
		case hook || o.GetKind() == "DaemonSet":
		case o.GetKind() == "Deployment":
			deployment := &appsv1.Deployment{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, deployment); err != nil {
				t.Fatal(err)
			}
			args = deployment.Spec.Template.Spec.Containers[0].Args
		default:
			create(t, o)
		}
	}
	return args
}

// manager is a controller manager that runs as a process of this machine.
type manager struct {
	token string // of its service account
	port  int
	log   *buffer
}

// runInstalled starts the controller manager with the token of its service account, and ends it with the test.
func runInstalled(t *testing.T, program, namespace string, args []string) *manager {
	t.Helper()
	m := &manager{token: newToken(t, namespace, "tandem-cloud-controller-manager", nil), port: freePort(t), log: &buffer{}}
	kubeconfig := writeKubeconfig(t, &clientcmdapi.AuthInfo{Token: m.token})
	cmd := exec.Command(program, append(args, // of two flags of one name the last counts
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", m.port), "--cert-dir="+t.TempDir(),
	)...)
	cmd.Env = append(os.Environ(), "POD_NAMESPACE="+namespace)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(m.log.String())
		}
	})
	return m
}

// until waits for a condition.
func (m *manager) until(t *testing.T, what string, condition func(context.Context) bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		return condition(ctx), nil
	}); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// get returns the status of the port's answer.
func (m *manager) get(t *testing.T, path, token string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", m.port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := insecure.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// holdConnections opens connections, asks for the health on each, and keeps it. More than 64 are not kept by the controller manager, which goes on
// answering.
func (m *manager) holdConnections(t *testing.T, n int) {
	t.Helper()
	var closed atomic.Int32
	for range n {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", m.port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: tandem\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn) // until the controller manager closes it
			closed.Add(1)
		}()
	}
	m.until(t, "the end of the oldest connections", func(context.Context) bool { return int(closed.Load()) >= n-64 })
	if code := m.get(t, "/healthz", ""); code != http.StatusOK {
		t.Errorf("GET /healthz beside %d connections: %d, want 200", n, code)
	}
}

// remove deletes a Service and waits until it is gone.
func remove(t *testing.T, service *corev1.Service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := apiClient.Delete(ctx, service); err != nil {
		t.Error(err)
	}
	if err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		return apierrors.IsNotFound(apiClient.Get(ctx, client.ObjectKeyFromObject(service), &corev1.Service{})), nil
	}); err != nil {
		t.Errorf("Service %s stays: %v", service.Name, err)
	}
}

// freePort returns a port on which nobody listens. It is none of those that the kernel gives to connections, of which one could have it before the
// program listens that it is for.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		if l, err := net.Listen("tcp", fmt.Sprint(":", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("a hundred ports are taken")
	return 0
}

// buffer collects what a process prints.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestRolesForPeople asks the API server what holders of the two roles may do.
func TestRolesForPeople(t *testing.T) {
	rendered, err := template(t, "tandem-system", "crds.install=false")
	if err != nil {
		t.Fatal(err)
	}
	clientset := kubernetes.NewForConfigOrDie(config)
	for _, o := range rendered {
		if o.GetKind() != "ClusterRole" || o.GetName() != "tandem-view" && o.GetName() != "tandem-edit" {
			continue
		}
		create(t, o)
		create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: o.GetName()},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: o.GetName()},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: o.GetName()}},
		})
	}
	for _, tt := range []struct {
		user, verb, group, resource string
		want                        bool
	}{
		{"tandem-view", "list", "tandem-lb.io", "addresspools", true},
		{"tandem-view", "list", "tandem-lb.io", "speakerstatuses", true},
		{"tandem-view", "list", "networking.k8s.io", "ipaddresses", true},
		{"tandem-view", "list", "networking.k8s.io", "servicecidrs", true},
		{"tandem-view", "create", "tandem-lb.io", "addresspools", false},
		{"tandem-edit", "create", "tandem-lb.io", "addresspools", true},
		{"tandem-edit", "delete", "tandem-lb.io", "bgppeers", true},
		{"tandem-edit", "patch", "tandem-lb.io", "l2announcements", true}, // for spec.target
		{"tandem-edit", "create", "tandem-lb.io", "l2announcements", false},
		{"tandem-edit", "patch", "tandem-lb.io", "speakerstatuses", false},
		{"tandem-edit", "delete", "networking.k8s.io", "ipaddresses", false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               tt.user,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: tt.verb, Group: tt.group, Resource: tt.resource},
		}}
		poll := func(ctx context.Context) (bool, error) { // the API server reads roles from a cache
			answer, err := clientset.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			return err == nil && answer.Status.Allowed == tt.want, err
		}
		if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 10*time.Second, true, poll); err != nil {
			t.Errorf("that %s may %s %s is not %t: %v", tt.user, tt.verb, tt.resource, tt.want, err)
		}
	}
}
