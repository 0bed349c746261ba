// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerconfig "github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/test/lab"
)

// The API server of all tests. TestMain sets all before any test runs.
var (
	config    *rest.Config
	apiClient client.Client
	kubectl   string // the path of a kubectl of the same version
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run runs the tests between the start and the end of an API server that knows our kinds.
func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	env := &envtest.Environment{
		CRDInstallOptions: envtest.CRDInstallOptions{
			Paths:              []string{filepath.Join("..", "..", "manifests", "crd")},
			ErrorIfPathMissing: true,
		},
	}
	if err := start(ctx, env); err != nil {
		fmt.Fprintf(os.Stderr, "starting the API server: %v\n", errors.Join(err, env.Stop()))
		return 1
	}
	defer func() {
		if err := errors.Join(env.Stop(), os.RemoveAll(filepath.Dir(auditLog))); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the API server: %v\n", err)
		}
	}()

	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	select {
	case code := <-done:
		return code
	case <-ctx.Done():
		return 1
	}
}

func start(ctx context.Context, env *envtest.Environment) error {
	apiServer := env.ControlPlane.GetAPIServer()
	apiServer.Configure().Set("service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112")
	dir, err := os.MkdirTemp("", "tandem-audit-")
	if err != nil {
		return err
	}
	auditLog = filepath.Join(dir, "log")
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	apiServer.Configure().Set("audit-policy-file", policy).Set("audit-log-path", auditLog)
	env.BinaryAssetsDirectory = os.Getenv("TANDEM_LAB_BIN")
	kubectl = filepath.Join(env.BinaryAssetsDirectory, "kubectl")
	if env.BinaryAssetsDirectory == "" {
		bin, err := lab.Build(ctx, os.Stderr)
		if err != nil {
			return err
		}
		apiServer.Path, env.ControlPlane.KubectlPath = bin["kube-apiserver"], bin["kubectl"]
		env.ControlPlane.Etcd = &envtest.Etcd{Path: bin["etcd"]}
		kubectl = bin["kubectl"]
	}

	if config, err = env.Start(); err != nil {
		return err
	}
	scheme := speakerconfig.Scheme()
	if err := errors.Join(apiextensionsv1.AddToScheme(scheme), appsv1.AddToScheme(scheme), rbacv1.AddToScheme(scheme)); err != nil {
		return err
	}
	apiClient, err = client.New(config, client.Options{Scheme: scheme})
	return err
}

// object reads one object as a user types it; kind and name come before the rest.
func object(t *testing.T, kind, rest string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(rest), &obj.Object); err != nil {
		t.Fatalf("reading the test's own object: %v", err)
	}
	if obj.Object == nil {
		obj.Object = map[string]any{}
	}
	obj.SetGroupVersionKind(ipamv1alpha1.GroupVersion.WithKind(kind))
	obj.SetName(cmp.Or(obj.GetName(), "test"))
	return obj
}

// objects reads a file of objects.
func objects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

// decode reads objects in YAML. Documents that are empty, or comments alone, are left out.
func decode(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := decoder.Decode(&obj.Object); errors.Is(err, io.EOF) {
			return objs
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if len(obj.Object) > 0 {
			objs = append(objs, obj)
		}
	}
}

// create creates obj until the test ends.
func create(t *testing.T, obj client.Object) {
	t.Helper()
	if err := apiClient.Create(t.Context(), obj, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		t.Fatalf("creating %s: %v", obj.GetName(), err)
	}
	t.Cleanup(func() {
		if err := apiClient.Delete(context.WithoutCancel(t.Context()), obj); client.IgnoreNotFound(err) != nil {
			t.Errorf("deleting %s: %v", obj.GetName(), err)
		}
	})
}

// tryCreate returns what the API server says to obj, without creating it.
func tryCreate(ctx context.Context, obj client.Object) error {
	return apiClient.Create(ctx, obj, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
}

// tryApply returns what the API server says to a server-side apply of obj, of which fields that it does not know are errors. It writes nothing.
func tryApply(ctx context.Context, obj *unstructured.Unstructured) error {
	return apiClient.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), client.DryRunAll, client.FieldOwner("test"), client.ForceOwnership)
}

// patchAsAdmin merges a body into an object by its subresource status.
func patchAsAdmin(t *testing.T, obj client.Object, body string) {
	t.Helper()
	if err := apiClient.Status().Patch(t.Context(), obj, client.RawPatch("application/merge-patch+json", []byte(body))); err != nil {
		t.Fatal(err)
	}
}

// causes returns every complaint of err as "field: message", without the API server's remark that it has skipped the
// CEL rules of an object whose schema does not fit.
func causes(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) {
		t.Fatalf("got error %v, want one of validation", err)
	}
	var all []string
	for _, cause := range status.Status().Details.Causes {
		if cause.Field != "<nil>" {
			all = append(all, cause.Field+": "+cause.Message)
		}
	}
	return all
}

// adminKubeconfig writes the kubeconfig of an account that may do everything, and returns its path.
func adminKubeconfig(t testing.TB) string {
	t.Helper()
	return writeKubeconfig(t, &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData})
}

// writeKubeconfig writes the kubeconfig of a user, and returns its path.
func writeKubeconfig(t testing.TB, user *clientcmdapi.AuthInfo) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": user},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "c",
	}, file); err != nil {
		t.Fatal(err)
	}
	return file
}
