// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestReadyCondition(t *testing.T) {
	sessions := []v1alpha1.BGPSession{{Peer: "tor1", State: v1alpha1.BGPEstablished}, {Peer: "tor2", State: v1alpha1.BGPActive}}
	broken := func(n int) []layer2.Status {
		all := []layer2.Status{{Address: netip.MustParseAddr(v6), Interface: "eth0", Announced: true}}
		for i := range n {
			all = append(all, layer2.Status{Address: netip.MustParseAddr(v4), Interface: fmt.Sprint("eth", i), Err: layer2.ErrNoInterface})
		}
		return all
	}
	const one = v4 + " on eth0: interface does not exist or cannot be used"
	for _, tt := range []struct {
		name      string
		failure   error
		announced []layer2.Status
		want      string
	}{
		{name: "all is well", announced: broken(0), want: "True Announcing: 1 of 2 BGP sessions established"},
		{
			name: "an address that another machine has is none of the speaker's troubles",
			announced: append(broken(0), layer2.Status{
				Address: netip.MustParseAddr(v4), Interface: "eth0", Err: &layer2.InUseError{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}},
			}),
			want: "True Announcing: 1 of 2 BGP sessions established; 1 addresses are not announced, because other machines have them",
		},
		{name: "a peer cannot be followed", failure: errors.New("port in use"), want: "False BGPFailed: port in use"},
		{name: "an address cannot be announced", announced: broken(1), want: "False Layer2Failed: " + one},
		{name: "layer 2 goes before BGP", failure: errors.New("port in use"), announced: broken(1), want: "False Layer2Failed: " + one},
		{
			name: "of many addresses five are named", announced: broken(9),
			want: "False Layer2Failed: " + one + "; " + v4 + " on eth1: interface does not exist or cannot be used; " + v4 +
				" on eth2: interface does not exist or cannot be used; " + v4 + " on eth3: interface does not exist or cannot be used; " + v4 +
				" on eth4: interface does not exist or cannot be used",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ready(sessions, tt.failure, tt.announced)
			if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); got != tt.want {
				t.Errorf("Ready is %s\nwant %s", got, tt.want)
			}
		})
	}
}

// The status is created with its Node as owner, filled in, and then left alone until something changes.
func TestStatusWriter(t *testing.T) {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", UID: "uid-node1"}}
	claim := claim(v4, ipamv1alpha1.ManagedBy, "lan")
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&node, &claim).
		WithStatusSubresource(&v1alpha1.SpeakerStatus{}).Build()
	w := &statusWriter{
		node: "node1", client: store, announced: func() []layer2.Status { return nil }, sessions: newSessions(t.Context(), signal.New()),
		links: func() *link.Snapshot {
			return &link.Snapshot{Interfaces: []link.Interface{{
				Name: "eth0", Kind: "device", Up: true, MAC: []byte{2, 0, 0, 0, 0, 1},
				Addresses: []link.Address{
					{Prefix: netip.MustParsePrefix("198.51.100.11/24")}, {Prefix: netip.MustParsePrefix(v4 + "/32")},
				},
			}}, DefaultRoutes: map[family.Family][]link.DefaultRoute{family.IPv4: {{Gateway: netip.MustParseAddr("198.51.100.1")}}}}
		},
	}
	var versions []string
	for range 2 {
		if err := w.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got v1alpha1.SpeakerStatus
		if err := store.Get(t.Context(), client.ObjectKey{Name: "node1"}, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != node.UID {
			t.Errorf("owners %v, want the Node", got.OwnerReferences)
		}
		if i := got.Status.Interfaces; len(i) != 1 || len(i[0].Addresses) != 1 || i[0].Addresses[0] != "198.51.100.11/24" {
			t.Errorf("interfaces %+v, want eth0 with its own address", i)
		}
		if diff := cmp.Diff([]string{"198.51.100.1"}, got.Status.DefaultGateways); diff != "" {
			t.Errorf("default gateways (-want +got):\n%s", diff)
		}
		versions = append(versions, got.ResourceVersion)
	}
	if versions[0] != versions[1] {
		t.Error("a status that has not changed was written again")
	}
}
