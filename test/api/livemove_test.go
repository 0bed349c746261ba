// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/apply"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/documents"
	"github.com/tandem-lb/tandem/test/lab"
)

// moveArena is an API server of its own, whose Services are MetalLB's, and a client that plays the programs of both products.
type moveArena struct {
	api      *apply.API // as the person who moves
	nobody   *apply.API // as a person without rights
	programs *apply.API
	// host and transport reach the API server as the person who moves, and so does a client with the configuration person.
	person    *rest.Config
	host      string
	transport http.RoundTripper
	// addresses are those of MetalLB's Services.
	addresses map[string][]string
}

// mover is a person who has the ClusterRole of docs/moving-in.md.
const mover = "mover"

// allow gives mover the ClusterRole that the page shows.
func (a *moveArena) allow(t *testing.T, client dynamic.Interface) {
	t.Helper()
	given := false
	for _, block := range documents.Read(t, filepath.Join("..", ".."), "docs/moving-in.md").Blocks {
		if !strings.Contains(block.Text, "kind: ClusterRole") {
			continue
		}
		for _, role := range decode(t, []byte(block.Text)) {
			given = true
			if _, err := client.Resource(rbacv1.SchemeGroupVersion.WithResource("clusterroles")).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			binding := decode(t, fmt.Appendf(nil, "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: mover}, roleRef: "+
				"{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %s}]}",
				role.GetName(), mover))[0]
			if _, err := client.Resource(rbacv1.SchemeGroupVersion.WithResource("clusterrolebindings")).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !given {
		t.Fatal("docs/moving-in.md has no ClusterRole")
	}
}

// newMoveArena starts the API server. The products' CRDs take any field, but L2Advertisement says that it has serviceSelectors.
func newMoveArena(t *testing.T) *moveArena {
	t.Helper()
	env := &envtest.Environment{CRDInstallOptions: envtest.CRDInstallOptions{Paths: []string{filepath.Join("..", "..", "manifests", "crd")}}}
	known := map[string]bool{}
	for _, k := range live.Kinds { // Of two versions the newer one comes first.
		if crd := looseCRD(k); k.Optional && !known[crd.Name] {
			known[crd.Name] = true
			env.CRDInstallOptions.CRDs = append(env.CRDInstallOptions.CRDs, crd)
		}
	}
	env.BinaryAssetsDirectory = os.Getenv("TANDEM_LAB_BIN")
	apiServer := env.ControlPlane.GetAPIServer()
	apiServer.Configure().Set("service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112")
	if env.BinaryAssetsDirectory == "" {
		bin, err := lab.Build(t.Context(), os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		apiServer.Path, env.ControlPlane.KubectlPath = bin["kube-apiserver"], bin["kubectl"]
		env.ControlPlane.Etcd = &envtest.Etcd{Path: bin["etcd"]}
	}
	restConfig, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(restConfig)
	if err != nil {
		t.Fatal(err)
	}
	a := &moveArena{
		programs: &apply.API{Client: client, System: "tandem-system"}, host: restConfig.Host,
		addresses: map[string][]string{"web": {"192.0.2.1", "2001:db8::1"}, "mail": {"192.0.2.2"}},
	}
	a.allow(t, client)
	stranger := rest.CopyConfig(restConfig)
	stranger.Impersonate.UserName = "nobody"
	strange, err := dynamic.NewForConfig(stranger)
	if err != nil {
		t.Fatal(err)
	}
	a.nobody = &apply.API{Client: strange, System: "tandem-system"}
	person := rest.CopyConfig(restConfig)
	person.Impersonate.UserName = mover
	a.person = person
	if a.transport, err = rest.TransportFor(person); err != nil {
		t.Fatal(err)
	}
	limited, err := dynamic.NewForConfig(person)
	if err != nil {
		t.Fatal(err)
	}
	a.api = &apply.API{
		Client: limited, System: "tandem-system", Timeout: time.Minute, Told: func(string) {},
		Probe: func(context.Context, *live.Snapshot, *live.Unit, bool) string { return "" },
	}
	for _, namespace := range []string{"tandem-system", "metallb-system", "purelb-system", "shop"} {
		o := &unstructured.Unstructured{}
		o.SetName(namespace)
		o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		if _, err := client.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// looseCRD returns the definition of a kind of a product's that takes any field.
func looseCRD(k live.Kind) *apiextensionsv1.CustomResourceDefinition {
	yes := true
	spec := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes, Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"serviceSelectors": {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{
			Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes},
		}},
	}}
	scope := apiextensionsv1.NamespaceScoped
	if k.Group == "cilium.io" {
		scope = apiextensionsv1.ClusterScoped
	}
	schema := &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes, Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec}}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: k.Resource + "." + k.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: k.Group, Scope: scope,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: k.Kind, ListKind: k.Kind + "List", Plural: k.Resource, Singular: strings.ToLower(k.Kind)},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: k.Version, Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema},
			}},
		},
	}
}

// add creates the objects of a text, with their statuses.
func (a *moveArena) add(t *testing.T, text string) {
	t.Helper()
	for _, o := range decode(t, []byte(text)) {
		status, hasStatus := o.Object["status"]
		ref := live.RefOf(o.Object)
		if err := a.programs.Write(t.Context(), &live.Write{Verb: live.Create, Ref: ref, Body: o.Object}); err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if hasStatus && ref.Group != "metallb.io" {
			a.patch(t, ref, "status", map[string]any{"status": status})
		}
	}
}

func (a *moveArena) patch(t *testing.T, ref live.Ref, subresource string, body map[string]any) {
	t.Helper()
	if err := a.programs.Write(t.Context(), &live.Write{Verb: live.Patch, Ref: ref, Subresource: subresource, Body: body}); err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
}

// now returns the cluster as the programs see it.
func (a *moveArena) now(t *testing.T) *live.Snapshot {
	t.Helper()
	s, err := a.programs.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// settle plays the programs: Deployments become ready, Tandem's controller manager claims addresses, and its speakers go on record.
func (a *moveArena) settle(t *testing.T, s *live.Snapshot) {
	t.Helper()
	replicas := map[string]int64{}
	for ref, o := range s.Objects {
		if ref.Kind == "Deployment" {
			n, _, _ := unstructured.NestedInt64(o, "spec", "replicas")
			replicas[ref.Name] = n
			if ready, _, _ := unstructured.NestedInt64(o, "status", "readyReplicas"); ready != n {
				a.patch(t, ref, "status", map[string]any{"status": map[string]any{"replicas": n, "readyReplicas": n}})
			}
		}
	}
	pools := false
	for ref := range s.Objects {
		pools = pools || ref.Kind == "AddressPool"
	}
	for ref, o := range s.Objects {
		if ref.Kind != "Service" || ref.Namespace != "shop" || replicas["tandem-cloud-controller-manager"] == 0 || !pools {
			continue
		}
		u := &unstructured.Unstructured{Object: o}
		if len(u.GetFinalizers()) == 0 {
			a.patch(t, ref, "", map[string]any{"metadata": map[string]any{
				"finalizers": []any{ipamv1alpha1.Finalizer}, "annotations": map[string]any{ipamv1alpha1.AnnotationFinalizer: "true"},
			}})
			a.claim(t, u)
		}
	}
	for ref, o := range s.Objects {
		target, _, _ := unstructured.NestedString(o, "spec", "target")
		if ref.Kind == "L2Announcement" && target != "" {
			a.patch(t, ref, "", map[string]any{"spec": map[string]any{"target": nil}, "status": map[string]any{"node": target}})
		}
	}
}

// claim claims the addresses of a Service, and writes its status as Tandem does.
func (a *moveArena) claim(t *testing.T, svc *unstructured.Unstructured) {
	t.Helper()
	ingress, _, _ := unstructured.NestedSlice(svc.Object, "status", "loadBalancer", "ingress")
	for _, item := range ingress {
		a.add(t, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: %q, labels: {ipaddress.kubernetes.io/managed-by: tandem-lb.io, %s: lan}}
spec: {parentRef: {resource: services, namespace: %s, name: %s}}`, item.(map[string]any)["ip"], ipamv1alpha1.LabelAddressPool, svc.GetNamespace(), svc.GetName()))
	}
	a.patch(t, live.RefOf(svc.Object), "status", map[string]any{"status": map[string]any{"conditions": []any{map[string]any{
		"type": ipamv1alpha1.ServiceConditionAllocated, "status": "True", "reason": "Allocated", "message": "", "lastTransitionTime": "2026-01-02T15:04:05Z",
	}}}})
}

// objects returns what there is, without what the API server counts and dates.
func (a *moveArena) objects(t *testing.T) live.Objects {
	t.Helper()
	s, err := a.api.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for ref, o := range s.Objects {
		u := &unstructured.Unstructured{Object: o}
		u.SetResourceVersion("")
		u.SetUID(types.UID(""))
		u.SetGeneration(0)
		u.SetCreationTimestamp(metav1.Time{})
		unstructured.RemoveNestedField(o, "metadata", "annotations", "deprecated.daemonset.template.generation")
		if ref.Kind == "CustomResourceDefinition" || ref.Kind == "Lease" {
			delete(s.Objects, ref)
		}
	}
	return s.Objects
}

// tandemRuns is a Node, and the controller manager of Tandem.
const tandemRuns = `
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: tandem-system
  name: tandem-cloud-controller-manager
  labels: {app.kubernetes.io/name: tandem, app.kubernetes.io/component: cloud-controller-manager}
spec:
  replicas: 1
  selector: {matchLabels: {component: cloud-controller-manager}}
  template: {metadata: {labels: {component: cloud-controller-manager}}, spec: {containers: [{name: c, image: tandem}]}}
status: {replicas: 1, readyReplicas: 1}
---
`

// metalLBRuns is a MetalLB of layer 2.
const metalLBRuns = tandemRuns + `apiVersion: apps/v1
kind: Deployment
metadata: {namespace: metallb-system, name: controller}
spec:
  replicas: 1
  selector: {matchLabels: {app: metallb, component: controller}}
  template: {metadata: {labels: {app: metallb, component: controller}}, spec: {containers: [{name: c, image: "quay.io/metallb/controller:v0.16.1"}]}}
status: {replicas: 1, readyReplicas: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: metallb-system, name: speaker}
spec:
  selector: {matchLabels: {app: metallb, component: speaker}}
  template: {metadata: {labels: {app: metallb, component: speaker}}, spec: {containers: [{name: c, image: "quay.io/metallb/speaker:v0.16.1"}]}}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {namespace: metallb-system, name: lan}
spec: {addresses: ["192.0.2.0/28", "2001:db8::/124"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {namespace: metallb-system, name: lan}
spec: {ipAddressPools: [lan]}
---
`

const metalLBServes = metalLBRuns + `apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {namespace: metallb-system, name: l2-1}
status: {node: node1, serviceNamespace: shop, serviceName: web}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {namespace: metallb-system, name: tor}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.254, password: secret}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {namespace: metallb-system, name: all}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, annotations: {metallb.io/ip-allocated-from-pool: lan}}
spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: mail}
spec: {type: LoadBalancer, ports: [{port: 25}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
`

// TestLiveMove moves on a real API server, with the rights of the page, which takes every write. The commands are those of the plugin, each in a process of
// its own.
func TestLiveMove(t *testing.T) {
	a := newMoveArena(t)
	a.add(t, metalLBServes)
	a.speaks(t, "node1", map[string]any{"peer": "tor", "state": string(speakerv1alpha1.BGPEstablished)})
	// The API server reads roles from a cache.
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := a.api.Read(ctx)
		return err == nil, nil
	}); err != nil {
		_, err := a.api.Read(t.Context())
		t.Fatal(err)
	}
	before := a.now(t)
	a.testRights(t, before)
	var whole undisturbed
	if !t.Run("undisturbed", func(t *testing.T) { whole = a.testUndisturbed(t, before.Objects) }) {
		return
	}
	t.Run("killed", func(t *testing.T) { a.testKilled(t, before.Objects, &whole) })
	t.Run("answers lost", func(t *testing.T) { a.testLossy(t, before.Objects, &whole) })
	t.Run("two at once", func(t *testing.T) { a.testTwoAtOnce(t, before.Objects) })
}

// testRights: the API server says that the ClusterRole of the page has all rights that a move asks for, and which a person without it lacks.
func (a *moveArena) testRights(t *testing.T, s *live.Snapshot) {
	t.Helper()
	a.api.Review(t.Context(), s)
	if len(s.Missing)+len(s.Unwatched) > 0 {
		t.Errorf("the ClusterRole of docs/moving-in.md lacks %v %v", s.Missing, s.Unwatched)
	}
	a.nobody.Review(t.Context(), s)
	if diff := cmp.Diff(append(s.Rights(), s.RightsToWatch()...), append(s.Missing, s.Unwatched...)); diff != "" {
		t.Errorf("a person without rights lacks (-all +answered):\n%s", diff)
	}
	s.Missing, s.Unwatched = nil, nil
}

// undisturbed is what commands leave that nothing disturbs, and how often they write, by the command. The two writes of a process that make and delete its
// Lease count, too.
type undisturbed struct {
	leaves map[string]live.Objects
	writes map[string]int
}

// testUndisturbed moves, undoes it, moves again and finishes, without a process. Undone, the cluster is as it was.
func (a *moveArena) testUndisturbed(t *testing.T, raw live.Objects) undisturbed {
	defer a.restore(t, raw)
	before := a.objects(t)
	whole := undisturbed{map[string]live.Objects{}, map[string]int{}}
	run := func(what string, next func(*live.Snapshot) (live.Action, error)) {
		t.Helper()
		whole.writes[what] = 2
		a.api.Spent = func(part string, _ time.Duration) {
			if part == "write" {
				whole.writes[what]++
			}
		}
		if err := a.api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
			a.settle(t, a.now(t))
			return next(s)
		}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		whole.leaves[what] = a.objects(t)
	}
	start := func(s *live.Snapshot) (live.Action, error) { return live.Start(s, live.Goal{All: true}, false) }
	run("start", start)
	run("undo", live.Undo)
	if diff := cmp.Diff(before, whole.leaves["undo"]); diff != "" {
		t.Errorf("after undo the cluster is (-before +after):\n%s", diff)
	}
	run("start", start)
	run("finish", live.Finish)
	for ref, o := range whole.leaves["finish"] {
		if labels := (&unstructured.Unstructured{Object: o}).GetLabels(); labels[ipamv1alpha1.LabelMoveIn] != "" && ref.Kind != "ConfigMap" {
			t.Errorf("%s still has the label of the move", ref)
		}
	}
	return whole
}
