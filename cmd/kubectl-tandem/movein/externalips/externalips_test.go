// SPDX-License-Identifier: Apache-2.0

package externalips

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func service(namespace, name string, addresses ...string) corev1.Service {
	return corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ExternalIPs: addresses},
	}
}

func changed(change func(*corev1.Service)) corev1.Service {
	svc := service("shop", "web", "192.0.2.7")
	change(&svc)
	return svc
}

func shared(namespace, name string) corev1.Service {
	svc := service(namespace, name, "192.0.2.7")
	svc.Annotations = map[string]string{v1alpha1.AnnotationAllowSharedIP: "web"}
	return svc
}

func addressPool(name, addresses string, change func(*v1alpha1.AddressPoolSpec)) v1alpha1.AddressPool {
	p := v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressPoolSpec{AdoptExternalIPs: true}}
	p.Spec.IPv4 = &v1alpha1.IPv4Partition{Ranges: []v1alpha1.IPv4Range{v1alpha1.IPv4Range(addresses)}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

// onInterface is what the speaker of n1 reports, which has an address on eth0.
func onInterface(prefix string) []speakerv1alpha1.SpeakerStatus {
	return []speakerv1alpha1.SpeakerStatus{{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Status:     speakerv1alpha1.SpeakerState{Interfaces: []speakerv1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{prefix}}}},
	}}
}

func TestFind(t *testing.T) {
	open := addressPool("open", "192.0.2.0/28", nil)
	for _, tt := range []struct {
		name    string
		objects Objects
		refused string // a part of the reason for the last Finding
	}{
		{name: "the pool consents", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")},
			Pools:    []v1alpha1.AddressPool{open},
		}},
		{
			name: "the pool does not consent", refused: "does not consent",
			objects: Objects{Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{
				addressPool("closed", "192.0.2.0/28", func(s *v1alpha1.AddressPoolSpec) { s.AdoptExternalIPs = false }),
			}},
		},
		{
			name: "the pool is for other namespaces", refused: "is not for this Service",
			objects: Objects{Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{
				addressPool("team", "192.0.2.0/28", func(s *v1alpha1.AddressPoolSpec) {
					s.NamespaceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"team": "a"}}}
				}),
			}},
		},
		{name: "no pool has it", refused: "no AddressPool has it", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "198.51.100.1")}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "a node has it", refused: "address of node n1", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open},
			Nodes: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}},
			}}},
		}},
		{name: "a node has it on an interface", refused: "it is on eth0 of node n1", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open}, Speakers: onInterface("192.0.2.7/32"),
		}},
		{name: "a node has it on an interface for the Service", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open}, Speakers: onInterface("192.0.2.7/32"),
			Claims: []networkingv1.IPAddress{{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.7"}, Spec: networkingv1.IPAddressSpec{
				ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "shop", Name: "web"},
			}}},
		}},
		{name: "a node has another address of the subnet", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open}, Speakers: onInterface("192.0.2.1/24"),
		}},
		{name: "two Services of two namespaces list it", refused: "blog/web has it too", objects: Objects{
			Services: []corev1.Service{service("blog", "web", "192.0.2.7"), service("shop", "web", "192.0.2.7")},
			Pools:    []v1alpha1.AddressPool{open},
		}},
		{name: "another Service was given it", refused: "blog/mail has it", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open},
			Claims: []networkingv1.IPAddress{{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.7"}, Spec: networkingv1.IPAddressSpec{
				ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "blog", Name: "mail"},
			}}},
		}},
		{name: "a second address of the family", refused: "one address of each family", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7", "192.0.2.8")}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "two Services of a namespace list it", refused: "give both the same annotation tandem-lb.io/allow-shared-ip", objects: Objects{
			Services: []corev1.Service{service("shop", "tcp", "192.0.2.7"), service("shop", "udp", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "two Services of a namespace share it", objects: Objects{
			Services: []corev1.Service{shared("shop", "tcp"), shared("shop", "udp")}, Pools: []v1alpha1.AddressPool{open},
			Claims: []networkingv1.IPAddress{{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.7"}, Spec: networkingv1.IPAddressSpec{
				ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "shop", Name: "tcp"},
			}}},
		}},
		{name: "two Services of two namespaces have one key", refused: "blog/tcp has it too", objects: Objects{
			Services: []corev1.Service{shared("blog", "tcp"), shared("shop", "udp")}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "the Service is headless", refused: "headless", objects: Objects{
			Services: []corev1.Service{changed(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "the Service is being deleted", refused: "being deleted", objects: Objects{
			Services: []corev1.Service{changed(func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} })}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "the Service has the other family", refused: "has no IPv4", objects: Objects{
			Services: []corev1.Service{changed(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })},
			Pools:    []v1alpha1.AddressPool{open},
		}},
		{name: "the address is there twice", objects: Objects{
			Services: []corev1.Service{service("shop", "web", "192.0.2.7", "192.0.2.7")}, Pools: []v1alpha1.AddressPool{open},
		}},
		{name: "text that is no address", refused: "no " +
			"address", objects: Objects{Services: []corev1.Service{service("shop", "web", "web.example")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			findings := Find(&tt.objects)
			if len(findings) == 0 {
				t.Fatal("there is no Finding")
			}
			last := findings[len(findings)-1]
			if (last.Refused == "") != (tt.refused == "") || !strings.Contains(last.Refused, tt.refused) {
				t.Errorf("refused because %q, want %q", last.Refused, tt.refused)
			}
		})
	}
}

// TestAdopt plays the controller manager, which publishes the address that a Service asks for, or does not.
func TestAdopt(t *testing.T) {
	for _, publishes := range []bool{true, false} {
		svc := service("shop", "web", "192.0.2.7", "192.0.2.8")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&svc).WithInterceptorFuncs(interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, options ...client.GetOption) error {
				err := c.Get(ctx, key, obj, options...)
				got := obj.(*corev1.Service)
				switch {
				case got.Spec.Type != corev1.ServiceTypeLoadBalancer:
				case publishes:
					got.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: got.Annotations[v1alpha1.AnnotationLoadBalancerIPs]}}
				default:
					cancel()
				}
				return err
			},
		}).Build()
		key := client.ObjectKeyFromObject(&svc)
		err := Adopt(ctx, c, key, []string{"192.0.2.7"})
		if publishes != (err == nil) || !publishes && !errors.Is(err, context.Canceled) {
			t.Errorf("publishes = %t: error %v", publishes, err)
		}
		got := &corev1.Service{}
		if err := c.Get(t.Context(), key, got); err != nil {
			t.Fatal(err)
		}
		want := []string{"192.0.2.7", "192.0.2.8"}
		if publishes {
			want = want[1:] // what was not adopted stays
		}
		if strings.Join(got.Spec.ExternalIPs, ",") != strings.Join(want, ",") || got.Spec.Type != corev1.ServiceTypeLoadBalancer {
			t.Errorf("publishes = %t: type %s with externalIPs %q, want %q", publishes, got.Spec.Type, got.Spec.ExternalIPs, want)
		}
	}
}
