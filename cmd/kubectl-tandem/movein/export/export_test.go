// SPDX-License-Identifier: Apache-2.0

package export

import (
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	discoveryfake "k8s.io/client-go/discovery/fake"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestRead reads a cluster with MetalLB: its pools, the Services that have addresses and what Tandem has given, and no ConfigMap,
// Service or claim of anything else.
func TestRead(t *testing.T) {
	object := func(apiVersion, kind, name string, fields map[string]any) *unstructured.Unstructured {
		o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "default"}}
		maps.Copy(o, fields)
		return &unstructured.Unstructured{Object: o}
	}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Version: "v1", Resource: "services"}: "ServiceList", {Version: "v1", Resource: "nodes"}: "NodeList",
		{Version: "v1", Resource: "configmaps"}: "ConfigMapList", {Version: "v1", Resource: "pods"}: "PodList",
		{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"}:  "IPAddressList",
		{Group: "apps", Version: "v1", Resource: "daemonsets"}:                "DaemonSetList",
		{Group: "metallb.io", Version: "v1beta1", Resource: "ipaddresspools"}: "IPAddressPoolList",
	},
		object("metallb.io/v1beta1", "IPAddressPool", "lan", nil),
		object("v1", "Service", "web", map[string]any{"spec": map[string]any{"type": "LoadBalancer"}}),
		object("v1", "Service", "inside", map[string]any{"spec": map[string]any{"type": "ClusterIP"}}),
		object("v1", "ConfigMap", "kubevip", nil),
		object("v1", "ConfigMap", "other", nil),
		object("networking.k8s.io/v1", "IPAddress", "192.0.2.1", map[string]any{"metadata": map[string]any{
			"name": "192.0.2.1", "labels": map[string]any{"ipaddress.kubernetes.io/managed-by": "tandem-lb.io"},
		}}),
		object("networking.k8s.io/v1", "IPAddress", "10.96.0.1", map[string]any{"metadata": map[string]any{
			"name": "10.96.0.1", "labels": map[string]any{"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
		}}),
	)
	api := &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{
		{GroupVersion: "metallb.io/v1beta1", APIResources: []metav1.APIResource{
			{Name: "ipaddresspools", Kind: "IPAddressPool", Verbs: metav1.Verbs{"list"}, Namespaced: true},
			{Name: "servicel2statuses", Kind: "ServiceL2Status", Verbs: metav1.Verbs{"list"}, Namespaced: true},
		}},
	}}}
	data, err := Read(t.Context(), client, api)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		`"lan"`: true, `"web"`: true, `"kubevip"`: true, `"inside"`: false, `"other"`: false, `"192.0.2.1"`: true, `"10.96.0.1"`: false,
	} {
		if got := strings.Contains(string(data), text); got != want {
			t.Errorf("%s is there: %t, want %t, in %s", text, got, want, data)
		}
	}
}
