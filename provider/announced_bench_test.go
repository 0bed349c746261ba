// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// BenchmarkDiagnose is a pass over ten thousand Services of two addresses each on a hundred nodes, for each thing that may be the matter
// with all of them at once.
func BenchmarkDiagnose(b *testing.B) {
	layer2 := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}
	bgp := []client.Object{
		&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: v1alpha1.BGPAdvertisementSpec{
			AggregationLength: new(int32(32)), AggregationLengthV6: new(int32(128)),
		}},
	}
	for i := range 2 {
		bgp = append(bgp, &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("tor%d", i)}, Spec: v1alpha1.BGPPeerSpec{
			MyASN: 64512, PeerASN: 64513, PeerAddress: fmt.Sprintf("10.0.0.%d", i+1), PeerPort: 179,
		}})
	}
	established := func(advertised int32) func(*v1alpha1.SpeakerState) {
		return func(s *v1alpha1.SpeakerState) {
			for i := range 2 {
				s.BGPSessions = append(s.BGPSessions, v1alpha1.BGPSession{
					Peer: fmt.Sprintf("tor%d", i), State: v1alpha1.BGPEstablished, AdvertisedIPv4: advertised, AdvertisedIPv6: advertised,
				})
			}
		}
	}
	offLink := func(s *v1alpha1.SpeakerState) { s.Interfaces[0].Addresses = []string{"192.0.2.1/24"} }
	for _, bb := range []struct {
		name    string
		kinds   []client.Object
		records bool
		pods    bool
		state   func(*v1alpha1.SpeakerState)
		reason  string
	}{
		{"announced on layer 2", []client.Object{layer2}, true, true, nil, ipamv1alpha1.ServiceReasonAnnounced},
		{"announced by BGP", bgp, false, true, established(10_000), ipamv1alpha1.ServiceReasonAnnounced},
		{"not sent yet", bgp, false, true, established(9_999), ipamv1alpha1.ServiceReasonPending},
		{"sessions down", bgp, false, true, nil, ipamv1alpha1.ServiceReasonSessionDown},
		{"not recorded yet", []client.Object{layer2}, false, true, nil, ipamv1alpha1.ServiceReasonPending},
		{"no interface", []client.Object{layer2}, false, true, offLink, ipamv1alpha1.ServiceReasonNoInterface},
		{"no endpoint", []client.Object{layer2}, false, false, nil, ipamv1alpha1.ServiceReasonNoReadyEndpoint},
		{"no advertisement", nil, false, true, nil, ipamv1alpha1.ServiceReasonNoAdvertisement},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := newBenchConditions(b, benchServices, benchNodes, bb.kinds, bb.records, bb.pods, bb.state)
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.diagnose(b.Context(), now); err != nil {
					b.Fatal(err)
				}
			}
			todos, _, err := c.diagnose(b.Context(), now.Add(time.Hour/2))
			if err == nil && len(todos) != benchServices {
				err = fmt.Errorf("%d Services are to be written, want %d", len(todos), benchServices)
			}
			if err != nil {
				b.Fatal(err)
			}
			if got := find(todos[0].conditions, ipamv1alpha1.ServiceConditionAnnounced); got.Reason != bb.reason {
				b.Fatalf("the condition is %v, want the reason %s", got, bb.reason)
			}
		})
	}
}

const benchServices, benchNodes = 10_000, 100

// newBenchConditions returns what diagnoses Services on nodes, with these objects of Tandem's kinds.
func newBenchConditions(
	b *testing.B, services, nodes int, kinds []client.Object, records, pods bool, state func(*v1alpha1.SpeakerState),
) *serviceConditions {
	b.Helper()
	store := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(store, 0)
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	objects := &listed{Client: ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(kinds...).Build()}
	for i := range nodes {
		name := fmt.Sprintf("node%d", i)
		must(shared.Core().V1().Nodes().Informer().GetIndexer().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
		speaker := v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerState{
			Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", Usable: true, Addresses: []string{"10.0.0.1/8", "2001:db8::1/64"}}},
		}}
		if state != nil {
			state(&speaker.Status)
		}
		objects.speakers = append(objects.speakers, speaker)
	}
	for i := range services {
		name, addresses := fmt.Sprintf("web%d", i), []string{fmt.Sprintf("10.1.%d.%d", i/256, i%256), fmt.Sprintf("2001:db8::1:%x", i)}
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			},
		}
		for _, address := range addresses {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: address})
			must(shared.Networking().V1().IPAddresses().Informer().GetIndexer().Add(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
				Name: address, Labels: map[string]string{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan"},
			}}))
		}
		must(shared.Core().V1().Services().Informer().GetIndexer().Add(svc))
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "default", Name: name + string(family), Labels: map[string]string{discoveryv1.LabelServiceName: name},
				},
				AddressType: family,
			}
			if pods {
				slice.Endpoints = []discoveryv1.Endpoint{{}}
			}
			must(shared.Discovery().V1().EndpointSlices().Informer().GetIndexer().Add(slice))
		}
		if records {
			objects.announcements = append(objects.announcements, v1alpha1.L2Announcement{
				Service: v1alpha1.ServiceReference{Namespace: "default", Name: name},
				Status:  v1alpha1.L2AnnouncementStatus{Node: fmt.Sprintf("node%d", i%nodes), Addresses: addresses},
			})
		}
	}
	now := time.Now()
	c := &serviceConditions{
		client: store, services: shared.Core().V1().Services(), slices: shared.Discovery().V1().EndpointSlices(),
		nodes: shared.Core().V1().Nodes(), claims: shared.Networking().V1().IPAddresses(), objects: objects,
		recorder: &record.FakeRecorder{}, effective: newEffective(), changed: signal.New(), liveness: newLiveness(now),
		diagnosed: map[types.NamespacedName]*diagnosed{},
	}
	c.failures = newFailures(c.changed)
	c.contested = func(ipam.Service) (string, time.Time) { return "", now }
	for i := range 2 { // The Lease is renewed for ever.
		c.liveness.update(now.Add(time.Hour/2), observation.Report("tandem-system", "node1", nil, nil, now.Add(time.Duration(i))), true)
	}
	return c
}

// listed lists speakers and announcements as a cache does, without copying them.
type listed struct {
	client.Client
	speakers      []v1alpha1.SpeakerStatus
	announcements []v1alpha1.L2Announcement
	byName        map[string]*v1alpha1.SpeakerStatus
}

func (l *listed) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	switch list := list.(type) {
	case *v1alpha1.SpeakerStatusList:
		list.Items = l.speakers
	case *v1alpha1.L2AnnouncementList:
		list.Items = l.announcements
	default:
		return l.Client.List(ctx, list)
	}
	return nil
}
