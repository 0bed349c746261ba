// SPDX-License-Identifier: Apache-2.0

// Package export reads from a live cluster what package movein converts: the objects of other load balancers, the workloads and ConfigMaps
// that configure them, Nodes, Services, and the addresses that Tandem has given already. It writes nothing, and decides nothing.
package export

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// groups are the API groups of the products.
var groups = []string{
	"metallb.io", "frrk8s.metallb.io", "purelb.io", "bgp.purelb.io", "cilium.io", "projectcalico.org",
	"crd.projectcalico.org",
}

// core are the kinds of Kubernetes that are read, with what is kept of them.
var core = []struct {
	schema.GroupVersionResource
	keep func(*unstructured.Unstructured) bool
}{
	{schema.GroupVersionResource{Version: "v1", Resource: "services"}, serving},
	{schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, func(*unstructured.Unstructured) bool { return true }},
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, configuring},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, announcing},
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, static},
}

// claims are what says which addresses Tandem has given already.
var claims = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"}

// Read returns what there is as a List in JSON. A kind that the user may not list is an error, since a conversion without it would be
// wrong. Claims alone may be kept from the user: who may not list them has no role of Tandem, as before Tandem is installed.
func Read(ctx context.Context, client dynamic.Interface, api discovery.DiscoveryInterface) ([]byte, error) {
	resources, err := cluster.Within(ctx, func() ([]schema.GroupVersionResource, error) { return products(api) })
	if err != nil {
		return nil, err
	}
	var items []map[string]any
	add := func(r schema.GroupVersionResource, keep func(*unstructured.Unstructured) bool) error {
		list, err := client.Resource(r).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing %s: %w", r.GroupResource(), err)
		}
		for i := range list.Items {
			if o := &list.Items[i]; keep == nil || keep(o) {
				o.SetManagedFields(nil)
				items = append(items, o.Object)
			}
		}
		return nil
	}
	for _, r := range resources {
		if err := add(r, nil); err != nil {
			return nil, err
		}
	}
	for _, r := range core {
		if err := add(r.GroupVersionResource, r.keep); err != nil {
			return nil, err
		}
	}
	if err := add(claims, ofTandem); err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	return json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

// products returns the resources of the products' groups that the cluster serves, each in the version that it prefers.
func products(api discovery.DiscoveryInterface) (resources []schema.GroupVersionResource, err error) {
	lists, err := discovery.ServerPreferredResources(api)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, err
	}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil || !slices.Contains(groups, version.Group) {
			continue
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") && wanted(version.Group, r.Kind) {
				resources = append(resources, version.WithResource(r.Name))
			}
		}
	}
	return resources, nil
}

// wanted reports whether a kind is about load balancers. Cilium and Calico have many that are not.
func wanted(group, kind string) bool {
	switch group {
	case "cilium.io":
		return strings.HasPrefix(kind, "CiliumBGP") || strings.HasPrefix(kind, "CiliumL2") || strings.HasPrefix(kind, "CiliumLoadBalancer")
	case "projectcalico.org", "crd.projectcalico.org":
		return slices.Contains([]string{"IPPool", "BGPConfiguration", "BGPPeer", "BGPFilter", "KubeControllersConfiguration"}, kind)
	case "metallb.io":
		return !strings.HasSuffix(kind, "Status") && kind != "ConfigurationState"
	}
	return !strings.HasSuffix(kind, "Status")
}

// serving reports whether a Service has, or asks for, addresses from outside.
func serving(o *unstructured.Unstructured) bool {
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "type")
	external, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "externalIPs")
	return kind == "LoadBalancer" || len(external) > 0
}

// ofTandem reports whether a claim of an address is Tandem's: Kubernetes has others for cluster IPs.
func ofTandem(o *unstructured.Unstructured) bool {
	return o.GetLabels()[networkingv1.LabelManagedBy] == ipamv1alpha1.ManagedBy
}

// configuring reports whether a ConfigMap configures a load balancer.
func configuring(o *unstructured.Unstructured) bool {
	config, _, _ := unstructured.NestedString(o.Object, "data", "config")
	return slices.Contains([]string{"kubevip", "plndr", "bgpextras"}, o.GetName()) || strings.Contains(config, "address-pools:")
}

// announcing reports whether a DaemonSet is one of MetalLB's or kube-vip's.
func announcing(o *unstructured.Unstructured) bool { return hasImage(o, "spec", "template", "spec") }

// static reports whether a Pod is kube-vip as the kubelet runs it from a file; one for each node says the same, and so one is enough.
func static(o *unstructured.Unstructured) bool {
	return hasImage(o, "spec") && o.GetAnnotations()["kubernetes.io/config.mirror"] != ""
}

func hasImage(o *unstructured.Unstructured, path ...string) bool {
	containers, _, _ := unstructured.NestedSlice(o.Object, append(path, "containers")...)
	return slices.ContainsFunc(containers, func(c any) bool {
		container, _ := c.(map[string]any)
		image, _ := container["image"].(string)
		return strings.Contains(image, "kube-vip") || strings.Contains(image, "metallb")
	})
}
