// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The API groups of both products.
const (
	theirGroup = "metallb.io"
	frrGroup   = "frrk8s.metallb.io"
	ourGroup   = "tandem-lb.io"
)

// Kind is a kind of object that a move reads.
type Kind struct {
	schema.GroupVersionResource
	Kind string
	// Optional kinds need not exist in a cluster.
	Optional bool
	// Labels and Fields select the objects that are read, "" all.
	Labels, Fields string
}

// Kinds are the kinds that a Snapshot has, those that a cluster serves in two versions with the newer one first. Objects that are no part of a move,
// such as Deployments of others, do no harm in it.
var Kinds = []Kind{
	{Kind: "Service", GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "services"}},
	{Kind: "Node", GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "nodes"}},
	{Kind: "Deployment", GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}},
	{Kind: "DaemonSet", GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}},
	{Kind: "StatefulSet", GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}},
	{
		Kind: "IPAddress", GroupVersionResource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"},
		Labels: "ipaddress.kubernetes.io/managed-by=tandem-lb.io",
	},
	{
		Kind:                 "ValidatingWebhookConfiguration",
		GroupVersionResource: schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"},
	},
	configMaps("kubevip"), configMaps("cilium-config"),
	theirs(theirGroup, "IPAddressPool", "v1beta1", "ipaddresspools"), theirs(theirGroup, "L2Advertisement", "v1beta1", "l2advertisements"),
	theirs(theirGroup, "BGPAdvertisement", "v1beta1", "bgpadvertisements"), theirs(theirGroup, "BGPPeer", "v1beta2", "bgppeers"),
	theirs(theirGroup, "BFDProfile", "v1beta1", "bfdprofiles"), theirs(theirGroup, "Community", "v1beta1", "communities"),
	theirs(theirGroup, "ServiceL2Status", "v1beta1", "servicel2statuses"), theirs(theirGroup, "MetalLB", "v1beta1", "metallbs"),
	theirs(frrGroup, "FRRConfiguration", "v1beta1", "frrconfigurations"),
	theirs(pureLBGroup, "ServiceGroup", "v2", "servicegroups"), theirs(pureLBGroup, "ServiceGroup", "v1", "servicegroups"),
	theirs(pureLBGroup, "LBNodeAgent", "v2", "lbnodeagents"), theirs(pureLBGroup, "LBNodeAgent", "v1", "lbnodeagents"),
	theirs(ciliumGroup, "CiliumLoadBalancerIPPool", "v2", "ciliumloadbalancerippools"),
	theirs(ciliumGroup, "CiliumLoadBalancerIPPool", "v2alpha1", "ciliumloadbalancerippools"),
	theirs(ciliumGroup, "CiliumL2AnnouncementPolicy", "v2alpha1", "ciliuml2announcementpolicies"),
	theirs(ciliumGroup, "CiliumBGPClusterConfig", "v2", "ciliumbgpclusterconfigs"),
	theirs(ciliumGroup, "CiliumBGPClusterConfig", "v2alpha1", "ciliumbgpclusterconfigs"),
	theirs(ciliumGroup, "CiliumBGPPeeringPolicy", "v2alpha1", "ciliumbgppeeringpolicies"),
	ours("AddressPool", "addresspools"), ours("BFDProfile", "bfdprofiles"), ours("Community", "communities"), ours("BGPPeer", "bgppeers"),
	ours("L2Advertisement", "l2advertisements"), ours("BGPAdvertisement", "bgpadvertisements"), ours("L2Announcement", "l2announcements"),
	{
		Kind:                 "CustomResourceDefinition",
		GroupVersionResource: schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		Fields:               "metadata.name=l2advertisements.metallb.io",
	},
}

func theirs(group, kind, version, resource string) Kind {
	return Kind{Kind: kind, GroupVersionResource: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Optional: true}
}

func configMaps(name string) Kind {
	return Kind{
		Kind: "ConfigMap", GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, Fields: "metadata.name=" + name,
	}
}

func ours(kind, resource string) Kind {
	return Kind{Kind: kind, GroupVersionResource: schema.GroupVersionResource{Group: ourGroup, Version: "v1alpha1", Resource: resource}}
}

// Ref names an object.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String returns the kind and the name, as "Service shop/web". MetalLB's kinds have their product's name, since Tandem has kinds of the same name.
func (r Ref) String() string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	if r.Group == theirGroup {
		return "MetalLB's " + r.Kind + " " + name
	}
	return r.Kind + " " + name
}

// RefOf returns the name of an object.
func RefOf(o map[string]any) Ref {
	u := unstructured.Unstructured{Object: o}
	group := u.GroupVersionKind().Group
	return Ref{group, u.GetKind(), u.GetNamespace(), u.GetName()}
}

// Objects are those of a cluster, by their names. Nothing in it may be changed.
type Objects map[Ref]map[string]any

// of returns the objects of a kind, sorted by namespace and name.
func (o Objects) of(group, kind string) (list []map[string]any) {
	var refs []Ref
	for ref := range maps.Keys(o) {
		if ref.Group == group && ref.Kind == kind {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, ref := range refs {
		list = append(list, o[ref])
	}
	return list
}

// at returns what lies at a path, nil if there is nothing.
func at(o map[string]any, path ...string) any {
	var value any = o
	for _, field := range path {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[field]
	}
	return value
}

// text returns the string at a path, "" if there is none.
func text(o map[string]any, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

// number returns the number at a path, 0 if there is none.
func number(o map[string]any, path ...string) int64 {
	switch n := at(o, path...).(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

// items returns the mappings of a list at a path.
func items(o map[string]any, path ...string) (list []map[string]any) {
	values, _ := at(o, path...).([]any)
	for _, value := range values {
		if m, ok := value.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list
}

// texts returns the strings of a list at a path.
func texts(o map[string]any, path ...string) (list []string) {
	values, _ := at(o, path...).([]any)
	for _, value := range values {
		if s, ok := value.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// table returns the mapping of strings at a path, such as labels.
func table(o map[string]any, path ...string) map[string]string {
	values, _ := at(o, path...).(map[string]any)
	m := map[string]string{}
	for key, value := range values {
		if s, ok := value.(string); ok {
			m[key] = s
		}
	}
	return m
}

// set puts a value at a path, and makes the mappings on the way. A nil removes what is there, and an empty mapping or list is nil.
func set(o map[string]any, value any, path ...string) {
	for _, field := range path[:len(path)-1] {
		next, ok := o[field].(map[string]any)
		if !ok {
			if value == nil {
				return
			}
			next = map[string]any{}
			o[field] = next
		}
		o = next
	}
	last := path[len(path)-1]
	switch v := value.(type) {
	case nil:
		delete(o, last)
		return
	case map[string]any:
		if len(v) == 0 {
			delete(o, last)
			return
		}
	case []any:
		if len(v) == 0 {
			delete(o, last)
			return
		}
	}
	o[last] = value
}

// mergePatch returns the JSON merge patch (RFC 7386) that makes one mapping of another, nil if they are the same.
func mergePatch(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range from {
		if _, ok := to[key]; !ok {
			patch[key] = nil
		}
	}
	for key, value := range to {
		before, known := from[key]
		a, isMap := before.(map[string]any)
		b, both := value.(map[string]any)
		switch {
		case known && isMap && both:
			if inner := mergePatch(a, b); inner != nil {
				patch[key] = inner
			}
		case !known || !reflect.DeepEqual(before, value):
			patch[key] = value
		}
	}
	if len(patch) == 0 {
		return nil
	}
	return patch
}

// clone returns a deep copy.
func clone(o map[string]any) map[string]any {
	return (&unstructured.Unstructured{Object: o}).DeepCopy().Object
}
