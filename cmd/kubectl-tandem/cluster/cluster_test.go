// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// TestMapper compares what the mapper says with the CRDs and, of kinds of Kubernetes, with what their API server says.
func TestMapper(t *testing.T) {
	m := mapper(config.Scheme())
	check := func(gvk schema.GroupVersionKind, resource string, scope meta.RESTScopeName) {
		t.Helper()
		mapping, err := m.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			t.Error(err)
		} else if mapping.Resource.Resource != resource || mapping.Scope.Name() != scope {
			t.Errorf("%s is %s in scope %s, want %s in %s", gvk.Kind, mapping.Resource.Resource, mapping.Scope.Name(), resource, scope)
		}
	}
	files, err := filepath.Glob("../../../manifests/crd/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no CRDs: %v", err)
	}
	crds := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &crd); err != nil {
			t.Fatal(err)
		}
		if crd.Kind != "CustomResourceDefinition" {
			continue
		}
		crds++
		scope := map[apiextensionsv1.ResourceScope]meta.RESTScopeName{
			apiextensionsv1.ClusterScoped: meta.RESTScopeNameRoot, apiextensionsv1.NamespaceScoped: meta.RESTScopeNameNamespace,
		}[crd.Spec.Scope]
		check(ipamv1alpha1.GroupVersion.WithKind(crd.Spec.Names.Kind), crd.Spec.Names.Plural, scope)
	}
	if crds != 9 {
		t.Errorf("there are %d CRDs, want 9", crds)
	}
	for _, k := range []struct {
		group, kind, resource string
		scope                 meta.RESTScopeName
	}{
		{"", "Service", "services", meta.RESTScopeNameNamespace},
		{"", "Pod", "pods", meta.RESTScopeNameNamespace},
		{"", "Event", "events", meta.RESTScopeNameNamespace},
		{"", "Node", "nodes", meta.RESTScopeNameRoot},
		{"", "Namespace", "namespaces", meta.RESTScopeNameRoot},
		{"coordination.k8s.io", "Lease", "leases", meta.RESTScopeNameNamespace},
		{"discovery.k8s.io", "EndpointSlice", "endpointslices", meta.RESTScopeNameNamespace},
		{"networking.k8s.io", "IPAddress", "ipaddresses", meta.RESTScopeNameRoot},
	} {
		gvk := schema.GroupVersionKind{Group: k.group, Version: "v1", Kind: k.kind}
		if !scheme.Scheme.Recognizes(gvk) {
			t.Errorf("Kubernetes has no %s", gvk)
		}
		check(gvk, k.resource, k.scope)
	}
}

// TestSilentServer interrupts a reading of an API server that accepts connections and says nothing. The reading ends, and so does a function that takes no
// context.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // Nobody accepts, and so nobody answers.
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	flags, none := genericclioptions.NewConfigFlags(false), os.DevNull
	url := "https://" + listener.Addr().String()
	flags.APIServer, flags.KubeConfig = &url, &none
	c, err := Connect(flags, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Read(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("reading: %v, want that it was interrupted", err)
	}
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	if _, err := Within(ctx, func() (string, error) { <-never; return "", nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that does not return: %v, want that it was interrupted", err)
	}
}

// TestWithin returns what a call returns.
func TestWithin(t *testing.T) {
	failed := errors.New("failed")
	if got, err := Within(t.Context(), func() (string, error) { return "v1.36.3", failed }); got != "v1.36.3" || !errors.Is(err, failed) {
		t.Errorf("Within returns %q and %v", got, err)
	}
}

// TestForeign adds the IPAddress of another manager, and neither Tandem's own, which a State has already, nor one that does not exist.
func TestForeign(t *testing.T) {
	claim := func(name, manager string) *networkingv1.IPAddress {
		return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: manager}}}
	}
	c := &Cluster{Client: fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		claim("192.0.2.1", ipamv1alpha1.ManagedBy), claim("192.0.2.2", "example.com"), claim("192.0.2.3", "example.com"),
	).Build()}
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.9")}
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for _, tt := range []struct {
		name string
		read func(*State) error
		want []string
	}{
		{name: "addresses", read: func(s *State) error { return c.Foreign(t.Context(), s, addresses...) }, want: []string{"192.0.2.2"}},
		{name: "a Service", read: func(s *State) error { return c.ForeignOf(t.Context(), s, web) }, want: []string{"192.0.2.3"}},
		{
			name: "a Service without addresses",
			read: func(s *State) error {
				return c.ForeignOf(t.Context(), s, types.NamespacedName{Namespace: "default", Name: "new"})
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &State{Snapshot: &decision.Snapshot{Services: []decision.Service{{Name: web, Unclaimed: []netip.Addr{netip.MustParseAddr("192.0.2.3")}}}}}
			if err := tt.read(s); err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range s.Claims.Items {
				got = append(got, s.Claims.Items[i].Name)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("the State has got IPAddresses %v, want %v", got, tt.want)
			}
		})
	}
}
