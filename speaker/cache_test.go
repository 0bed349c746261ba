// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestStripKeepsWhatIsRead: the strip functions drop no field that the snapshot is made from.
func TestStripKeepsWhatIsRead(t *testing.T) {
	bulk := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{"tier": "front"},
			Annotations:   map[string]string{corev1.LastAppliedConfigAnnotation: "{}"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		}
	}
	svc := published("web", v4)
	svc.ObjectMeta = bulk("web")
	svc.Spec.Ports, svc.Spec.Selector = []corev1.ServicePort{{Port: 443}}, map[string]string{"app": "web"}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	clusterIP := corev1.Service{
		ObjectMeta: bulk("db"),
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 1}}},
	}
	taints := corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}
	node := corev1.Node{ObjectMeta: bulk("node1"), Spec: taints, Status: corev1.NodeStatus{
		Images: []corev1.ContainerImage{{Names: []string{"big"}}}, Capacity: corev1.ResourceList{}, Allocatable: corev1.ResourceList{},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.51.100.11"}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	slice := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node1", "-", "+", "+"))
	slice.Labels["other"], slice.Annotations = "label", map[string]string{"some": "annotation"}
	slice.Ports = []discoveryv1.EndpointPort{{Port: new(int32(443))}}
	slice.Endpoints[0].Addresses, slice.Endpoints[0].TargetRef = []string{"10.244.1.2"}, &corev1.ObjectReference{Name: "web-0"}

	stripped := func(strip func(any) (any, error), obj any) any {
		t.Helper()
		got, err := strip(obj)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, tt := range []struct {
		name      string
		want, got any
	}{
		{
			name: "a Service of type LoadBalancer keeps labels, policy and addresses",
			want: func() *corev1.Service {
				s := published("web", v4)
				s.Labels = map[string]string{"tier": "front"}
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				return &s
			}(), got: stripped(stripService, svc.DeepCopy()),
		},
		{
			name: "a Service of another type keeps its type alone",
			want: &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
			}, got: stripped(stripService, clusterIP.DeepCopy()),
		},
		{
			name: "a Node keeps labels, taints, addresses and conditions",
			want: func() *corev1.Node {
				n := node.DeepCopy()
				n.Annotations, n.ManagedFields = nil, nil
				n.Status.Images, n.Status.Capacity, n.Status.Allocatable = nil, nil, nil
				return n
			}(), got: stripped(stripNode, node.DeepCopy()),
		},
		{
			name: "an EndpointSlice keeps its Service, its family, and conditions and nodes",
			want: func() *discoveryv1.EndpointSlice {
				s := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node1", "-", "+", "+"))
				return &s
			}(), got: stripped(stripEndpointSlice, slice.DeepCopy()),
		},
		{
			name: "an object of another kind is left as it is",
			want: "tombstone", got: stripped(stripService, stripped(stripNode, stripped(stripEndpointSlice, "tombstone"))),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("stripped (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStatusComesBack deletes the SpeakerStatus of this node, as the garbage collector does when the Node is deleted.
func TestStatusComesBack(t *testing.T) {
	informers := &informertest.FakeInformers{Scheme: config.Scheme()}
	changed, status := signal.New(), signal.New()
	if err := watch(t.Context(), informers, changed, status); err != nil {
		t.Fatal(err)
	}
	informer, err := informers.FakeInformerFor(t.Context(), &v1alpha1.SpeakerStatus{})
	if err != nil {
		t.Fatal(err)
	}
	informer.Delete(&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	if len(changed) != 1 || len(status) != 1 {
		t.Errorf("changed %d, status %d: the status is not written again", len(changed), len(status))
	}
}
