// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/test/documents"
)

// The groups of other projects' kinds, of which this API server knows nothing.
var foreign = regexp.MustCompile(`^(kubeadm\.k8s\.io|kube(let|proxy)\.config\.k8s\.io|gateway\.networking\.k8s\.io|` +
	`monitoring\.coreos\.com|projectcalico\.org|cilium\.io|security\.openshift\.io)/`)

// TestYAMLOfDocuments offers the API server each object that a page shows, and each file of manifests/examples, without creating it. What
// is no object is part of one: of a Service, of the spec of an AddressPool, of a kustomization, or values of the chart. The files of other
// programs, such as those of k3s, have another word on their fence: "yaml k3s".
func TestYAMLOfDocuments(t *testing.T) {
	blocks := 0
	for _, page := range documents.Pages(t, root) {
		for _, block := range page.Blocks {
			if block.Language == "yaml" {
				blocks++
				t.Run(block.String(), func(t *testing.T) { offer(t, block.Text) })
			}
		}
	}
	if blocks < 14 {
		t.Errorf("found %d blocks of YAML", blocks)
	}
	err := filepath.WalkDir(root+"/manifests/examples", func(path string, entry os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".yaml" && entry.Name() != "overlay.yaml" { // which is for Juju
			t.Run(path, func(t *testing.T) {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				offer(t, string(text))
			})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// offer offers the API server the objects in a text.
func offer(t *testing.T, text string) {
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		obj := &unstructured.Unstructured{}
		err := yaml.Unmarshal([]byte(document), &obj.Object)
		switch {
		case err != nil:
			t.Errorf("%v:\n%s", err, document)
		case len(obj.Object) == 0 || foreign.MatchString(obj.GetAPIVersion()):
		case obj.GetKind() == "Kustomization" || obj.GetKind() == "Component":
			if err := build(t, document); err != nil {
				t.Errorf("%v:\n%s", err, document)
			}
		case obj.GetKind() != "":
			if err := offerObject(t, obj); err != nil {
				t.Errorf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
			}
		default:
			if err := offerPart(t, obj.Object, document); err != nil {
				t.Errorf("the text is part of nothing that can be:\n%s\n%v", document, err)
			}
		}
	}
}

func offerObject(t *testing.T, obj *unstructured.Unstructured) error {
	if namespaced, err := apiClient.IsObjectNamespaced(obj); err != nil {
		return err
	} else if namespaced {
		if obj.GetNamespace() == "" {
			obj.SetNamespace("default")
		}
		ensureNamespace(t, obj.GetNamespace())
	}
	// Such as the namespace itself, which another test may have made.
	return client.IgnoreAlreadyExists(tryCreate(t.Context(), obj))
}

// build builds a kustomization, in which directories of this repository stand for those of the release that it names. If it has no resources,
// it is part of one that has those of mode services.
func build(t *testing.T, text string) error {
	var k types.Kustomization
	if err := yaml.UnmarshalStrict([]byte(text), &k); err != nil {
		return err
	}
	if len(k.Resources) == 0 {
		k.Resources = []string{"tandem/manifests/services"}
	}
	for _, list := range [][]string{k.Resources, k.Components} {
		for i, path := range list {
			path, _, _ = strings.Cut(path, "?ref=")
			list[i] = strings.Replace(path, "https://github.com/tandem-lb/tandem//", "tandem/", 1)
		}
	}
	dir := t.TempDir()
	repository, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	file, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.Symlink(repository, filepath.Join(dir, "tandem")), os.WriteFile(filepath.Join(dir, "kustomization.yaml"), file, 0o600),
	); err != nil {
		return err
	}
	_, err = krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	return err
}

// offerPart tries what the part of an object, whose fields are given, could be a part of, and returns all complaints if nothing takes it.
func offerPart(t *testing.T, part map[string]any, text string) error {
	whole := func(base string, under ...string) error {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(base), &obj.Object); err != nil {
			t.Fatal(err)
		}
		merge(obj.Object, part, under)
		return offerObject(t, obj)
	}
	service := whole("{apiVersion: v1, kind: Service, metadata: {name: part}, spec: {type: LoadBalancer, ports: [{port: 80}]}}")
	const poolWith = `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: part}, spec: {ipv4: {ranges: [192.0.2.0/24]}}}`
	pool := whole(poolWith, "spec")
	kustomization := build(t, text)
	var values error
	if service != nil && pool != nil && kustomization != nil {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, values = helm(t, "template", "tandem", "manifests/helm/tandem", "--values", file)
	}
	for _, err := range []error{service, pool, kustomization, values} {
		if err == nil {
			return nil
		}
	}
	return errors.Join(service, pool, kustomization, values)
}

// merge puts the fields of part into an object, below the field that is named.
func merge(into, part map[string]any, under []string) {
	for _, name := range under {
		into = into[name].(map[string]any)
	}
	for name, value := range part {
		fields, isObject := value.(map[string]any)
		if old, ok := into[name].(map[string]any); ok && isObject {
			merge(old, fields, nil)
			continue
		}
		into[name] = value
	}
}

// ensureNamespace creates a namespace, unless it is there. Nothing here ends namespaces that are deleted, as a cluster would.
func ensureNamespace(t testing.TB, name string) {
	t.Helper()
	namespaces := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces()
	wanted := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := namespaces.Create(t.Context(), wanted, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	is, err := namespaces.Get(t.Context(), name, metav1.GetOptions{})
	if err == nil && is.DeletionTimestamp != nil {
		is.Spec.Finalizers = nil
		if _, err = namespaces.Finalize(t.Context(), is, metav1.UpdateOptions{}); err == nil {
			_, err = namespaces.Create(t.Context(), wanted, metav1.CreateOptions{})
		}
		if err == nil { // What admits objects goes by a cache, which has the namespace as terminating for a moment still.
			err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
				probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "probe"}}
				err := apiClient.Create(ctx, probe, client.DryRunAll)
				if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
					return false, nil
				}
				return err == nil, err
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKubectlOfDocuments types each kubectl command of the pages. Commands that write are told --dry-run=server. An object that is not
// there is no error; a kind, a flag, a verb, an argument or a path in an object that there is not is one. What the plugin is told is
// parsed by its own tests.
func TestKubectlOfDocuments(t *testing.T) {
	for _, name := range []string{"tandem-system", "shop", "monitoring"} {
		ensureNamespace(t, name)
	}
	pages := documents.Pages(t, root)
	dir := workingDirectory(t, pages)
	kubeconfig := adminKubeconfig(t)
	typed := map[string]bool{}
	for _, page := range pages {
		commands, err := page.Commands()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if c.Args[0] == "microk8s" {
				c.Args = c.Args[1:]
			}
			line := strings.Join(c.Args, " ")
			if c.Args[0] != "kubectl" || c.Args[1] == "tandem" || typed[line+c.Input] {
				continue
			}
			typed[line+c.Input] = true
			cmd := exec.CommandContext(t.Context(), kubectl, onTrial(c.Args[1:])...)
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(c.Input)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
			if out, err := cmd.CombinedOutput(); err != nil && !notThere(string(out)) {
				t.Errorf("%s\n%v: %s", c, err, out)
			}
		}
	}
	if len(typed) < 50 {
		t.Errorf("found %d commands", len(typed))
	}
}

// onTrial returns arguments of kubectl with what keeps the command from writing.
func onTrial(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		switch arg { // what stands for something of the reader's
		case "DIRECTORY":
			args[i] = "manifests/services"
		case "NODE", "NAMESPACE", "NAME", "POOL", "PEER":
			args[i] = strings.ToLower(arg)
		case "KIND":
			args[i] = "addresspools"
		}
	}
	verbs := []string{"annotate", "apply", "create", "delete", "expose", "label", "patch", "replace", "scale", "taint"}
	writes := slices.ContainsFunc(args, func(arg string) bool { return slices.Contains(verbs, arg) })
	args = slices.DeleteFunc(args, func(arg string) bool { return arg == "--force" }) // which kubectl does not try
	if writes && !slices.Contains(args, "--dry-run=server") && !slices.Contains(args, "token") {
		args = append(args, "--dry-run=server")
	}
	return args
}

// notThere reports whether kubectl complains of nothing but what this cluster has not: objects, rights of accounts, kinds of other
// projects.
func notThere(output string) bool {
	// Of l2advertisements it is MetalLB's that are not there, since ours are.
	known := regexp.MustCompile(`(?m)\((NotFound|AlreadyExists)\)| not found$|no matching resources found|` +
		`User "system:serviceaccount:\S+" cannot|` +
		`the server doesn't have a resource type "(servicemonitor|podmonitor|gateway|kubecontrollersconfiguration|l2advertisement)s?"`)
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(strings.ToLower(line), "error") && !known.MatchString(line) {
			return false
		}
	}
	return known.MatchString(output)
}

// TestHelmOfDocuments renders the chart with the flags of each `helm install`, `helm upgrade` and `helm template` of the pages.
func TestHelmOfDocuments(t *testing.T) {
	found := 0
	for _, page := range documents.Pages(t, root) {
		commands, err := page.Commands()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if c.Args[0] != "helm" || len(c.Args) < 4 || !slices.Contains([]string{"install", "upgrade", "template"}, c.Args[1]) {
				continue
			}
			found++
			args := []string{"template"}
			for _, arg := range c.Args[2:] {
				switch {
				case strings.HasSuffix(arg, ".tgz"):
					arg = "manifests/helm/tandem"
				case arg == "--take-ownership" || arg == "--reuse-values" || arg == "--install": // of a release that is there
					continue
				}
				args = append(args, strings.ReplaceAll(arg, "sha256:…", "sha256:"+strings.Repeat("0", 64)))
			}
			if _, err := helm(t, args...); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		}
	}
	if found == 0 {
		t.Error("found no command of Helm")
	}
}

// workingDirectory makes a directory with what a reader has: the files of a release, a clone's manifests, and the files that pages show.
func workingDirectory(t *testing.T, pages []documents.Page) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	manifests, err := filepath.Abs(root + "/manifests")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(manifests, filepath.Join(dir, "manifests")); err != nil {
		t.Fatal(err)
	}
	for file, from := range map[string]string{
		"install.yaml": "default", "install-services.yaml": "services", "crds.yaml": "crd", "kustomization.yaml": "services",
	} {
		var out, complaint bytes.Buffer
		cmd := exec.CommandContext(t.Context(), kubectl, "kustomize", "manifests/"+from)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, complaint.String())
		}
		text := out.Bytes()
		if file == "kustomization.yaml" {
			text, err = json.Marshal(types.Kustomization{Resources: []string{"install-services.yaml"}})
			if err != nil {
				t.Fatal(err)
			}
		}
		write(file, text)
	}
	converted, err := os.ReadFile(root + "/cmd/kubectl-tandem/movein/testdata/cases/17-metallb-crd-l2-both-families/expected.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write("tandem.yaml", converted) // what kubectl tandem convert writes
	for _, page := range pages {
		for _, block := range page.Blocks {
			if name := block.File(); name != "" && name != "kustomization.yaml" && block.Language == "yaml" {
				write(name, []byte(block.Text))
			}
		}
	}
	return dir
}

// TestValuesOfDistributions renders the chart with the values of each distribution, and offers the API server what comes of it.
func TestValuesOfDistributions(t *testing.T) {
	files, err := filepath.Glob(root + "/manifests/examples/*/values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d files of values: %v", len(files), err)
	}
	ensureNamespace(t, "tandem-system")
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			rendered, err := render(t, "tandem-system", "--values", strings.TrimPrefix(file, root+"/"))
			if err != nil {
				t.Fatal(err)
			}
			for _, obj := range rendered {
				if foreign.MatchString(obj.GetAPIVersion()) {
					continue
				}
				if err := tryApply(t.Context(), obj); err != nil {
					t.Errorf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
				}
			}
		})
	}
}
