// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestReconnection(t *testing.T) {
	address := netip.MustParseAddr(v4)
	const ms = time.Millisecond
	at := func(d time.Duration) time.Time { return isolationStart.Add(d) }
	type step struct {
		after time.Duration
		// links says what is known of the only interface: usable, gone, deaf or silent.
		links    string
		heard    bool // another speaker uses the address
		answered bool // by the API
		asked    time.Duration
		listens  bool
		asks     bool
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"a node that was never off the LAN listens for nothing", []step{
			{links: "usable"}, {after: time.Second, links: "usable", heard: true},
		}},
		{"a link that comes up for the first time is not back", []step{{links: "gone"}, {links: "usable"}}},
		{"nobody is heard for a fifth of a second", []step{
			{links: "usable"},
			{after: time.Second, links: "gone"},
			{after: 3 * time.Second, links: "usable", listens: true, asks: true},
			{after: 3050 * ms, links: "usable", listens: true},
			{after: 3100 * ms, links: "usable", listens: true, asks: true},
			{after: 3200 * ms, links: "usable"},
			{after: time.Minute, links: "usable", heard: true},
		}},
		{"another speaker is heard again and again, and then the API answers", []step{
			{links: "usable"},
			{after: time.Second, links: "gone"},
			{after: 3 * time.Second, links: "usable", listens: true, asks: true},
			{after: 3010 * ms, links: "usable", heard: true, listens: true},
			{after: 3400 * ms, links: "usable", heard: true, listens: true, asks: true},
			{after: 3800 * ms, links: "usable", heard: true, listens: true, asks: true},
			{after: 4 * time.Second, links: "usable", answered: true, asked: 3900 * ms},
		}},
		{"the API has answered what was asked before", []step{
			{links: "usable"},
			{after: time.Second, links: "gone"},
			{after: 3 * time.Second, links: "usable", listens: true, asks: true},
			{after: 3050 * ms, links: "usable", answered: true, asked: 2 * time.Second, listens: true},
		}},
		{"another speaker goes on for long, and is the matter of arbitration", []step{
			{links: "usable"},
			{after: time.Second, links: "gone"},
			{after: 3 * time.Second, links: "usable", listens: true, asks: true},
			{after: 3100 * ms, links: "usable", heard: true, listens: true, asks: true},
			{after: 7900 * ms, links: "usable", heard: true, listens: true, asks: true},
			{after: 8 * time.Second, links: "usable", heard: true},
		}},
		{"a node that hears nothing is off the LAN, until others hear it too", []step{
			{links: "usable"},
			{after: time.Second, links: "deaf"},
			{after: 2 * time.Second, links: "silent"},
			{after: 3 * time.Second, links: "usable", listens: true, asks: true},
		}},
		{"a node that only others find silent is not off the LAN", []step{
			{links: "usable"}, {after: time.Second, links: "silent"}, {after: 2 * time.Second, links: "usable"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r reconnection
			for _, s := range tt.steps {
				now := at(s.after)
				if s.heard {
					r.Hear(now, address)
				}
				if s.answered {
					r.Answered(at(s.asked))
				}
				var usable, deaf, silent []string
				if s.links != "gone" {
					usable = []string{"eth0"}
				}
				switch s.links {
				case "deaf":
					deaf = usable
				case "silent":
					silent = usable
				}
				r.Listening(now)
				r.Update(now, usable, deaf, silent, func([]string) []netip.Addr { return []netip.Addr{address} })
				asks := r.Due(now)
				listens, wait := r.Listening(now)
				if got := slices.Contains(listens, address); got != s.listens || got != (wait <= reconnectionPatience) {
					t.Errorf("after %v it listens: %t for %v, want %t", s.after, got, wait, s.listens)
				}
				if asks != s.asks {
					t.Errorf("after %v it asks: %t, want %t", s.after, asks, s.asks)
				}
			}
		})
	}
}

// TestBackOnTheLAN has node1, which holds web, lose its link and get it back, while its cache still names it. It answers for the address when the API has
// said that it holds it, and not before. All the while it answers for the address of another Service, which is on another link.
func TestBackOnTheLAN(t *testing.T) {
	lan := nettest.NewSwitch(t, "speaker-switch")
	node := nettest.New(t, "speaker-node1")
	lan.Plug(t, node, "02:00:00:00:00:0b")
	node.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node.IP(t, "link set eth0 up")
	lan.Await(t, node)
	const elsewhere = "192.0.2.10"
	node.IP(t, "link add eth1 type veth peer name eth1-peer")
	node.IP(t, "addr add 192.0.2.11/24 dev eth1")
	node.IP(t, "link set eth1 up")
	node.IP(t, "link set eth1-peer up")

	objects := []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "everything"}},
	}
	held := announcement("web", "node1", v4)
	for name, address := range map[string]string{"web": v4, "other": elsewhere} {
		svc, claimed, record := published(name, address), claim(address, ipamv1alpha1.ManagedBy, "lan"), announcement(name, "node1", address)
		slice := endpointSlice(discoveryv1.AddressTypeIPv4, name, endpoint("node3", "+", "+", "-"))
		slice.Name = name
		objects = append(objects, &svc, &claimed, &slice, &record)
	}
	cached := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(objects...).Build()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, l, _ := loopOn(t, ctx, node, cached, cached)
	defer waitFor(node.Go(t, func() error { return s.links.Run(ctx) }))()
	defer waitFor(node.Go(t, func() error { return s.layer2.Run(ctx) }))()
	defer cancel()
	changes := s.links.Subscribe()
	// decided decides whenever the links change, until the announcement of the address is as wanted.
	decided := func(what string, announced, listens bool) {
		t.Helper()
		for {
			if err := l.decide(ctx); err != nil {
				t.Fatal(err)
			}
			a, ok := l.kept.decider.Announcement(netip.MustParseAddr(v4))
			if b, ok := l.kept.decider.Announcement(netip.MustParseAddr(elsewhere)); !ok || b.Listen {
				t.Errorf("%s: the address on eth1 is announced: %t, it only listens: %t", what, ok, b.Listen)
			}
			if ok == announced && a.Listen == listens {
				return
			}
			select {
			case <-changes:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: announced %t, it only listens: %t; want %t and %t", what, ok, a.Listen, announced, listens)
			}
		}
	}
	decided("before", true, false)
	node.IP(t, "link set eth0 down")
	decided("without a link", false, false)
	node.IP(t, "link set eth0 up")
	decided("with the link again", true, true)
	l.heardAPI(klog.Background(), answer{asked: time.Now(), records: []v1alpha1.L2Announcement{held}})
	decided("when the API has answered", true, false)
}
