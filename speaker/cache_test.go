// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
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
	preferred := map[string]string{ipamv1alpha1.AnnotationPreferredNodes: "rack=1"}
	maps.Copy(svc.Annotations, preferred)
	mark := map[string]string{ipamv1alpha1.AnnotationFinalizer: "true"}
	former := published("former", v4)
	former.ObjectMeta, former.Spec.LoadBalancerClass = bulk("former"), new("purelb.io/purelb")
	for _, s := range []*corev1.Service{&svc, &former} {
		maps.Copy(s.Annotations, mark)
	}
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
	drained := map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
	maps.Copy(node.Annotations, drained)
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
			name: "a Service of type LoadBalancer keeps labels, policy, addresses and what it prefers",
			want: func() *corev1.Service {
				s := published("web", v4)
				s.Labels, s.Annotations = map[string]string{"tier": "front"}, preferred
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				return &s
			}(), got: stripped(stripService, svc.DeepCopy()),
		},
		{
			name: "a Service of another class keeps that Tandem serves it, too",
			want: func() *corev1.Service {
				s := published("former", v4)
				s.Labels, s.Annotations = map[string]string{"tier": "front"}, mark
				s.Spec.LoadBalancerClass = new("purelb.io/purelb")
				return &s
			}(), got: stripped(stripService, former.DeepCopy()),
		},
		{
			name: "a Service of another type keeps its type alone",
			want: &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
			}, got: stripped(stripService, clusterIP.DeepCopy()),
		},
		{
			name: "a Node keeps labels, taints, addresses, conditions and whether it is drained",
			want: func() *corev1.Node {
				n := node.DeepCopy()
				n.Annotations, n.ManagedFields = drained, nil
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
	changed, status := newFeed(), signal.New()
	if err := watch(t.Context(), informers, changed, status); err != nil {
		t.Fatal(err)
	}
	informer, err := informers.FakeInformerFor(t.Context(), &v1alpha1.SpeakerStatus{})
	if err != nil {
		t.Fatal(err)
	}
	informer.Delete(&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	if len(changed.others) != 1 || len(status) != 1 {
		t.Errorf("changed %d, status %d: the status is not written again", len(changed.others), len(status))
	}
}

// TestMatters: only an update that can change a decision wakes the loop.
func TestMatters(t *testing.T) {
	heartbeat := func(second int64, ready corev1.ConditionStatus) any {
		node, err := stripNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", ResourceVersion: fmt.Sprint(second)}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.Unix(second, 0)}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return node
	}
	status := func(prefixes int32, summary, iface string) *v1alpha1.SpeakerStatus {
		return &v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1", ResourceVersion: fmt.Sprint(prefixes)}, Status: v1alpha1.SpeakerState{
			BGPSessions: []v1alpha1.BGPSession{{Peer: "tor", AdvertisedIPv4: prefixes}},
			Summary:     &v1alpha1.SpeakerSummary{BGPEstablished: summary},
			Interfaces:  []v1alpha1.InterfaceState{{Name: iface, Usable: true}},
		}}
	}
	draining := func(reason string) *v1alpha1.SpeakerStatus {
		return &v1alpha1.SpeakerStatus{Status: v1alpha1.SpeakerState{
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionDraining, Reason: reason}},
		}}
	}
	pool := func(allocated int64, ranges string) *ipamv1alpha1.AddressPool {
		return &ipamv1alpha1.AddressPool{
			ObjectMeta: metav1.ObjectMeta{Name: "lan", ResourceVersion: fmt.Sprint(allocated)},
			Spec:       ipamv1alpha1.AddressPoolSpec{IPv4: &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{ipamv1alpha1.IPv4Range(ranges)}}},
			Status:     ipamv1alpha1.AddressPoolStatus{IPv4: &ipamv1alpha1.PartitionStatus{Allocated: allocated}},
		}
	}
	for _, tt := range []struct {
		name         string
		old, current any
		want         bool
	}{
		{"the heartbeat of a kubelet", heartbeat(10, corev1.ConditionTrue), heartbeat(20, corev1.ConditionTrue), false},
		{"a node that is not Ready any more", heartbeat(10, corev1.ConditionTrue), heartbeat(20, corev1.ConditionFalse), true},
		{"the counts of a SpeakerStatus", status(1, "1/1", "eth0"), status(2, "0/1", "eth0"), false},
		{"the interfaces of a SpeakerStatus", status(1, "1/1", "eth0"), status(1, "1/1", "eth1"), true},
		{"a condition of a SpeakerStatus", draining(v1alpha1.ReasonNotDraining), draining(v1alpha1.ReasonGone), false},
		{"a speaker that ignores the label from now on", draining(v1alpha1.ReasonNotDraining), draining(v1alpha1.ReasonExcludeLabelIgnored), true},
		{"the count of a pool", pool(1, "198.51.100.200"), pool(2, "198.51.100.200"), false},
		{"the range of a pool", pool(1, "198.51.100.200"), pool(1, "198.51.100.201"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := matters(tt.old, tt.current); got != tt.want {
				t.Errorf("the update matters: %v, want %v", got, tt.want)
			}
		})
	}
}

// TestNoStatusOfConfigurationMatters: the controller manager writes whether speakers use an object, which changes no decision of theirs.
func TestNoStatusOfConfigurationMatters(t *testing.T) {
	for _, kind := range config.Kinds() {
		accepted := kind.DeepCopyObject()
		conditions := reflect.ValueOf(accepted).Elem().FieldByName("Status").FieldByName("Conditions")
		if _, users := reflect.TypeAssert[[]metav1.Condition](conditions); !users {
			continue // a Namespace
		}
		conditions.Set(reflect.ValueOf([]metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue}}))
		if matters(kind, accepted) {
			t.Errorf("the condition of a %T wakes the loop", kind)
		}
	}
}

func TestMembershipKeys(t *testing.T) {
	secret := func(namespace, name string, data map[string][]byte) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
	}
	both := map[string][]byte{"key": []byte("new"), "previous": []byte("old")}
	for _, tt := range []struct {
		name    string
		secrets []corev1.Secret
		want    []string
	}{
		{name: "no Secret"},
		{name: "a key", secrets: []corev1.Secret{secret("tandem-system", "tandem-membership", map[string][]byte{"key": []byte("new")})}, want: []string{"new"}},
		{name: "and the one before", secrets: []corev1.Secret{secret("tandem-system", "tandem-membership", both)}, want: []string{"new", "old"}},
		{name: "a Secret without a key", secrets: []corev1.Secret{secret("tandem-system", "tandem-membership", map[string][]byte{"previous": []byte("old")})}},
		{name: "other Secrets", secrets: []corev1.Secret{secret("other", "tandem-membership", both), secret("tandem-system", "other", both)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, key := range membershipKeys(tt.secrets, "tandem-system") {
				got = append(got, string(key))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}
