// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/bfd/udp"
	"github.com/tandem-lb/tandem/speaker/bgp/gobgp"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestGather(t *testing.T) {
	for _, row := range []struct {
		name    string
		changes int
		every   time.Duration
		want    int
	}{
		{"one change", 1, time.Millisecond, 1},
		{"a burst", 10, time.Millisecond, 1},
		{"changes far apart", 5, time.Second, 5},
		{"changes that do not cease", 2000, time.Millisecond, 95}, // 2 s, each time 20 ms and until the next change
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				changes, got := make(chan struct{}, 1), 0
				gathered := gather(ctx, changes, settle)
				for range row.changes {
					signal(changes)
					time.Sleep(row.every)
					select {
					case <-gathered:
						got++
					default:
					}
				}
				time.Sleep(time.Second)
				select {
				case <-gathered:
					got++
				default:
				}
				if got < row.want || got > row.want+5 && row.changes > 5 {
					t.Errorf("received %d times, want %d", got, row.want)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// TestSilentAPIHoldsUpNothing has a speaker that is alone ask an API that does not answer. A decision does not wait for that.
func TestSilentAPIHoldsUpNothing(t *testing.T) {
	asked, over := make(chan *http.Request, 10), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(api.Close)
	t.Cleanup(func() { close(over) })
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	other, die := context.WithCancel(ctx)
	members := joined(t, ctx, "node1", 1)
	joined(t, other, "node2", 2)
	members.SetPeers(map[string]netip.Addr{"node2": netip.MustParseAddr("127.9.47.2")})
	for !members.Alive().Has("node2") {
		<-members.Changes()
	}
	die()
	for !members.Alive().Alone {
		<-members.Changes()
	}
	s := &Speaker{
		cfg: Config{Node: "node1", HostIP: netip.MustParseAddr("127.9.47.1"), REST: &rest.Config{Host: api.URL}},
		cache: readerCache{reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.9.47.2"}}}},
			&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node2"}},
		).Build()},
		members: members, bgp: gobgp.New(klog.Background()), bfd: udp.New(udp.Config{Logger: klog.Background()}), layer2: layer2.New(layer2.Config{}),
		records: &recorder{wanted: make(latest[wanted], 1)},
		changed: make(chan struct{}, 1), status: make(chan struct{}, 1), sessions: make(latest[peerings], 1),
		met: map[string]bool{}, started: time.Now(),
	}
	if s.links, err = rtnetlink.Open(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.loop(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-s.sessions
	request := <-asked
	for range 5 {
		select {
		case <-s.sessions: // of an earlier decision
		default:
		}
		signal(s.changed)
		<-s.sessions
	}
	if request.Context().Err() != nil {
		t.Error("changes were followed after the request had ended, and not meanwhile")
	}
}

func joined(t *testing.T, ctx context.Context, node string, n byte) *membership.Members {
	t.Helper()
	m, err := membership.Join(ctx, membership.Config{
		Node: node, Bind: netip.AddrFrom4([4]byte{127, 9, 47, n}), Port: 7946, Key: []byte("key"), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Leave(context.Background()) })
	return m
}
