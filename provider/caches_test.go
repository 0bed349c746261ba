// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"maps"
	"reflect"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

var writtenBy = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}

// What no part of this program reads is not kept, and all else is. A second transformation changes nothing: objects may have readers then.
func TestTrim(t *testing.T) {
	yes, no, node1, node2 := true, false, "node1", "node2"
	ready, starting := discoveryv1.EndpointConditions{Ready: &yes}, discoveryv1.EndpointConditions{Ready: &no}
	parent := &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "web"}
	for _, tt := range []struct {
		name      string
		trim      func(any) (any, error)
		obj, want any
	}{
		{
			"a Service applied by kubectl", classView{}.transform,
			&corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1", ManagedFields: writtenBy, Annotations: map[string]string{
					corev1.LastAppliedConfigAnnotation: "{...}", ipamv1alpha1.AnnotationReallocate: "true",
				}},
				Spec:   corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
				Status: corev1.ServiceStatus{Conditions: []metav1.Condition{{Type: "A", Status: metav1.ConditionTrue, Message: "yes"}}},
			},
			&corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1", Annotations: map[string]string{ipamv1alpha1.AnnotationReallocate: "true"}},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
				Status:     corev1.ServiceStatus{Conditions: []metav1.Condition{{Type: "A", Status: metav1.ConditionTrue, Message: "yes"}}},
			},
		},
		{
			"a claim", (&claimTrimmer{}).trim,
			&networkingv1.IPAddress{
				ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1", UID: "1", ManagedFields: writtenBy, Annotations: map[string]string{"a": "b"}, Labels: map[string]string{
					networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan",
				}},
				Spec: networkingv1.IPAddressSpec{ParentRef: parent},
			},
			&networkingv1.IPAddress{
				ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1", UID: "1", Annotations: map[string]string{"a": "b"}, Labels: map[string]string{
					networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan",
				}},
				Spec: networkingv1.IPAddressSpec{ParentRef: parent},
			},
		},
		{
			"a Node with images", trimNode,
			&corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: node1, ManagedFields: writtenBy, Annotations: map[string]string{"a": "b"}},
				Status: corev1.NodeStatus{
					Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}, Images: []corev1.ContainerImage{{Names: []string{"web"}}},
				},
			},
			&corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: node1, Annotations: map[string]string{"a": "b"}},
				Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}},
			},
		},
		{
			"an EndpointSlice with three Pods on two nodes", trimEndpointSlice,
			&discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "web-1", ManagedFields: writtenBy, Labels: map[string]string{discoveryv1.LabelServiceName: "web", "a": "b"}},
				Endpoints: []discoveryv1.Endpoint{
					{Addresses: []string{"10.0.0.1"}, NodeName: &node1, Conditions: ready},
					{Addresses: []string{"10.0.0.2"}, NodeName: &node1, Conditions: ready},
					{Addresses: []string{"10.0.0.3"}, NodeName: &node1, Conditions: starting},
					{Addresses: []string{"10.0.0.4"}, NodeName: &node2, Conditions: ready},
				},
			},
			&discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
				Endpoints: []discoveryv1.Endpoint{
					{NodeName: &node1, Conditions: ready}, {NodeName: &node1, Conditions: starting}, {NodeName: &node2, Conditions: ready},
				},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				got, err := tt.trim(tt.obj)
				if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
			}
		})
	}
}

// Claims of one pool have one map of labels, unless somebody has given one of them another label.
func TestClaimsShareLabels(t *testing.T) {
	trimmer := &claimTrimmer{}
	labelsOf := func(more string) map[string]string {
		labels := map[string]string{
			networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan",
		}
		if more != "" {
			labels[more] = ""
		}
		obj, err := trimmer.trim(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Labels: labels}})
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*networkingv1.IPAddress).Labels
	}
	first, second, other := labelsOf(""), labelsOf(""), labelsOf("example.com/other")
	same := func(a, b map[string]string) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
	if !same(first, second) {
		t.Error("two claims of one pool have two maps")
	}
	if same(first, other) || !maps.Equal(first, second) || len(other) != 3 {
		t.Errorf("a claim with another label has the labels %v", other)
	}
}

// Equal strings of two objects are one string in memory.
func TestIntern(t *testing.T) {
	a, b := string([]byte("default")), string([]byte("default"))
	intern(&a, &b)
	if unsafe.StringData(a) != unsafe.StringData(b) {
		t.Error("there are still two")
	}
}
