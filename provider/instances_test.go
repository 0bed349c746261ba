// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestInstanceMetadata(t *testing.T) {
	const v4, v6, second4, claimed4 = "198.51.100.11", "2001:db8:51::11", "203.0.113.11", "198.51.100.200"
	uninitialized := []corev1.Taint{{Key: cloudproviderapi.TaintExternalCloudProvider, Effect: corev1.TaintEffectNoSchedule}}

	for _, test := range []struct {
		name       string
		provided   string // the kubelet's --node-ip
		status     []string
		speaker    []string // nil where no speaker has reported
		providerID string
		taints     []corev1.Taint
		want       []string // nil where the addresses shall stay as they are
		wantErr    string
	}{
		{
			name:     "both addresses of --node-ip, in its order",
			provided: v6 + "," + v4, status: []string{v6, v4}, speaker: []string{v4, v6}, taints: uninitialized,
			want: []string{v6, v4},
		},
		{
			name:     "one address of --node-ip is all that the upstream controller lets pass",
			provided: v4, status: []string{v4}, speaker: []string{v4, v6}, taints: uninitialized,
			want: []string{v4},
		},
		{
			name:    "the addresses that the speaker found, where the kubelet knows none",
			speaker: []string{v4, v6}, taints: uninitialized,
			want: []string{v4, v6},
		},
		{
			name:   "an address that the speaker found and the kubelet has not",
			status: []string{v4}, speaker: []string{v4, v6}, taints: uninitialized,
			want: []string{v4, v6},
		},
		{
			name:   "IPv6 first, where the kubelet was started with --node-ip=::",
			status: []string{v6}, speaker: []string{v4, second4, v6}, taints: uninitialized,
			want: []string{v6, v4, second4},
		},
		{
			name:   "the addresses that the kubelet knows, until the speaker reports",
			status: []string{v4}, taints: uninitialized,
			want: []string{v4},
		},
		{
			name:   "the other family for a node that was initialised without it",
			status: []string{v4}, speaker: []string{v4, v6}, providerID: "tandem://node1",
			want: []string{v4, v6},
		},
		{
			name:   "no address is lost with the default route of a family",
			status: []string{v6, v4}, speaker: []string{v4}, providerID: "tandem://node1",
		},
		{
			name:   "an address that changed is replaced",
			status: []string{v4, v6}, speaker: []string{second4, v6}, providerID: "tandem://node1",
			want: []string{second4, v6},
		},
		{
			name:   "a node that its kubelet looks after is left alone",
			status: []string{v4}, speaker: []string{v4, v6},
		},
		{
			name:   "a node that another provider looks after is left alone",
			status: []string{second4}, speaker: []string{v4, v6}, providerID: "metal://4711",
		},
		{
			name:     "a node that another provider looks after is left alone, whatever its kubelet was told",
			provided: second4, status: []string{second4}, speaker: []string{v4, v6}, providerID: "metal://4711",
		},
		{
			name: "of what a speaker reports only addresses count at which others reach the node",
			speaker: []string{
				"attacker.example", "127.0.0.1", "224.0.0.1", "0.0.0.0", "169.254.1.1", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:198.51.100.9", v4, v6, v4,
			},
			taints: uninitialized,
			want:   []string{v4, v6},
		},
		{
			name:    "a Service's address is none of a node",
			speaker: []string{claimed4, v6}, taints: uninitialized,
			want: []string{v6},
		},
		{
			name:   "an address of the kubelet stays where the speaker reports none of the family that counts",
			status: []string{v4}, speaker: []string{claimed4, v6}, providerID: "tandem://node1",
			want: []string{v4, v6},
		},
		{
			name:    "nobody knows an address that others reach",
			speaker: []string{"127.0.0.1", claimed4}, taints: uninitialized,
			wantErr: "start its kubelet with --node-ip, or wait for its speaker",
		},
		{
			name:    "nobody knows an address",
			taints:  uninitialized,
			wantErr: "start its kubelet with --node-ip, or wait for its speaker",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			node := &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{
					Name: "node1", Annotations: map[string]string{v1alpha1.AnnotationZone: "hall-1", v1alpha1.AnnotationRegion: "vienna"},
				},
				Spec: corev1.NodeSpec{ProviderID: test.providerID, Taints: test.taints},
				Status: corev1.NodeStatus{
					Addresses: append(internal(test.status...), corev1.NodeAddress{Type: corev1.NodeHostName, Address: "node1.example"}),
				},
			}
			if test.provided != "" {
				node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr] = test.provided
			}
			speakers := fake.NewClientBuilder().WithScheme(config.Scheme())
			if test.speaker != nil {
				speakers.WithObjects(&speakerv1alpha1.SpeakerStatus{
					ObjectMeta: metav1.ObjectMeta{Name: "node1"},
					Status:     speakerv1alpha1.SpeakerState{Addresses: test.speaker},
				})
			}
			got, err := newInstances(t, speakers.Build(), claimed4).InstanceMetadata(t.Context(), node)
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("InstanceMetadata() = %v, %v, want an error with %q", got, err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want []corev1.NodeAddress
			if test.want != nil {
				want = append(internal(test.want...), corev1.NodeAddress{Type: corev1.NodeHostName, Address: "node1.example"})
			}
			if diff := cmp.Diff(want, got.NodeAddresses); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if got.ProviderID != "tandem://node1" || got.Zone != "" || got.Region != "" { // which keep no Node from being initialised
				t.Errorf("provider ID, zone and region = %s, %s, %s", got.ProviderID, got.Zone, got.Region)
			}
		})
	}
}

func internal(ips ...string) []corev1.NodeAddress {
	addresses := []corev1.NodeAddress{}
	for _, ip := range ips {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return addresses
}

// newInstances returns instances that know these speakers and claims.
func newInstances(t *testing.T, speakers client.Reader, claims ...string) *instances {
	t.Helper()
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, name := range claims {
		if err := indexer.Add(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	return &instances{speakers: speakers, claims: networkinglisters.NewIPAddressLister(indexer), synced: func() bool { return true }}
}
