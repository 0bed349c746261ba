// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestATakeoverOutlastsAnOldCache has node2 die while the API is away. When the API is back, node1 records that it has taken over, and
// node2 comes back before node1's cache has the record, as it does after a long outage. node1 stays the holder.
func TestATakeoverOutlastsAnOldCache(t *testing.T) {
	lan := nettest.NewSwitch(t, "speaker-switch")
	node := nettest.New(t, "speaker-node1")
	lan.Plug(t, node, "02:00:00:00:00:0b")
	node.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node.IP(t, "link set eth0 up")
	lan.Await(t, node)

	svc, claimed, held := published("web", v4), claim(v4, ipamv1alpha1.ManagedBy, "lan"), announcement("web", "node2", v4)
	slice := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node3", "+", "+", "-"))
	slice.Name = "web"
	cached := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}}, &svc, &claimed, &slice, &held,
		&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "everything"}},
		&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: v1alpha1.SpeakerState{
			Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", MAC: "02:00:00:00:00:0c", Usable: true, Addresses: []string{"198.51.100.12/24"}}},
		}},
	).Build()
	same := announcement("web", "node2", v4)
	var writes atomic.Int32
	api := storeOf(t, &writes, same)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, l, members := loopOn(t, ctx, node, cached, api)
	defer waitFor(node.Go(t, func() error { return s.links.Run(ctx) }))()
	defer waitFor(node.Go(t, func() error { return s.layer2.Run(ctx) }))()
	defer cancel()
	// holds decides when node2 is alive, or dead, and reports whether node1 is then to be on record.
	holds := func(alive bool) bool {
		t.Helper()
		for members.Alive().Has("node2") != alive {
			<-members.Changes()
		}
		if err := l.decide(ctx); err != nil {
			t.Fatal(err)
		}
		w := s.records.take()
		if err := s.records.write(ctx, w); err != nil {
			t.Fatal(err)
		}
		_, held, _ := l.kept.decider.Record(types.NamespacedName{Namespace: "default", Name: "web"})
		return held
	}
	rejoin := func() *membership.Members {
		m := joined(t, ctx, "node2", 2)
		m.SetPeers(map[string][]netip.Addr{"node1": {s.cfg.HostIP}})
		return m
	}
	other := rejoin()
	if holds(true) {
		t.Fatal("node1 takes over from a holder that is alive")
	}
	if err := other.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	for !holds(false) { // It is on record when layer 2 answers.
		select {
		case <-s.feed.objects:
		case <-time.After(20 * time.Second):
			t.Fatal("node1 does not take over from a dead holder")
		}
	}
	rejoin()
	if !holds(true) {
		t.Error("node1 gives up what it has recorded")
	}
	if n := writes.Load(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
}
