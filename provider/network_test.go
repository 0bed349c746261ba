// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestNetwork(t *testing.T) {
	slice := func(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: addresses}},
		}
	}
	api := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "198.51.100.11"},
			{Type: corev1.NodeExternalIP, Address: "203.0.113.11"},
			{Type: corev1.NodeHostName, Address: "node1"},
		}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}}, // whose speaker has not started
		slice("kubernetes", "kubernetes", "198.51.100.10", "2001:db8:51::10"), slice("web", "web", "10.244.0.7"),
	)
	kinds := ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: v1alpha1.SpeakerState{
			DefaultGateways: []string{"198.51.100.1", "2001:db8:51::1", "fe80::1%eth0"},
			Interfaces: []v1alpha1.InterfaceState{
				{Name: "eth0", Addresses: []string{"198.51.100.11/24", "2001:db8:51::11/64"}, Usable: true},
				{Name: "lo", Addresses: []string{"127.0.0.1/8", "not an address"}},
			},
		}},
		&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Status: v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{
			{Name: "eth0", Addresses: []string{"198.51.100.99/24"}},
		}}},
		&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor1"}, Spec: v1alpha1.BGPPeerSpec{PeerAddress: "198.51.100.1"}},
		&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "unnumbered"}, Spec: v1alpha1.BGPPeerSpec{Interface: "eth1"}},
	).Build()
	core, endpoints := informers.NewSharedInformerFactory(api, 0), apiServerEndpoints(api)
	n := &network{nodes: core.Core().V1().Nodes().Lister(), apiServers: endpoints.Discovery().V1().EndpointSlices().Lister(), kinds: kinds}
	for _, factory := range []informers.SharedInformerFactory{core, endpoints} {
		factory.Start(t.Context().Done())
		factory.WaitForCacheSync(t.Context().Done())
	}
	got, err := n.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := ipam.Network{
		Nodes: []ipam.NetworkNode{
			{
				Name: "node1", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("203.0.113.11")},
				Interfaces: []netip.Prefix{
					netip.MustParsePrefix("198.51.100.11/24"), netip.MustParsePrefix("2001:db8:51::11/64"), netip.MustParsePrefix("127.0.0.1/8"),
				},
				Gateways: []netip.Addr{
					netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:51::1"), netip.MustParseAddr("fe80::1%eth0"),
				},
			},
			{Name: "node2"},
		},
		Peers:      []ipam.NetworkPeer{{Name: "tor1", Address: netip.MustParseAddr("198.51.100.1")}},
		APIServers: []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:51::10")},
	}
	plain := cmp.Options{
		cmp.Comparer(func(x, y netip.Addr) bool { return x == y }), cmp.Comparer(func(x, y netip.Prefix) bool { return x == y }),
		cmp.Transformer("byName", func(nodes []ipam.NetworkNode) map[string]ipam.NetworkNode {
			byName := map[string]ipam.NetworkNode{}
			for _, n := range nodes {
				byName[n.Name] = n
			}
			return byName
		}),
	}
	if diff := cmp.Diff(want, got, plain); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

// What has the network read again: a change of an address, and none of what is in every other update.
func TestAddressesIn(t *testing.T) {
	status := func(gateway, iface string, state v1alpha1.BGPState) *v1alpha1.SpeakerStatus {
		return &v1alpha1.SpeakerStatus{Status: v1alpha1.SpeakerState{
			DefaultGateways: []string{gateway},
			Interfaces:      []v1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{iface}}},
			BGPSessions:     []v1alpha1.BGPSession{{Peer: "tor1", State: state}},
		}}
	}
	was := addressesIn(status("198.51.100.1", "198.51.100.11/24", v1alpha1.BGPIdle))
	for _, tt := range []struct {
		name string
		is   *v1alpha1.SpeakerStatus
		same bool
	}{
		{"another state of a session", status("198.51.100.1", "198.51.100.11/24", v1alpha1.BGPEstablished), true},
		{"another address", status("198.51.100.1", "198.51.100.12/24", v1alpha1.BGPIdle), false},
		{"another gateway", status("198.51.100.2", "198.51.100.11/24", v1alpha1.BGPIdle), false},
	} {
		if got := cmp.Equal(was, addressesIn(tt.is)); got != tt.same {
			t.Errorf("%s: the same is %v, want %v", tt.name, got, tt.same)
		}
	}
}
