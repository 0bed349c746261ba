// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/membership"
)

// farewells notes what a shutdown does, in its order.
type farewells struct {
	done  []string
	alive int // speakers, this one included
	fails error
}

func (f *farewells) Alive() membership.Snapshot {
	nodes := map[string]struct{}{}
	for i := range f.alive {
		nodes[fmt.Sprint("node", i+1)] = struct{}{}
	}
	return membership.Snapshot{Nodes: nodes}
}

func (f *farewells) Restart(_ context.Context, grace time.Duration) error {
	f.done = append(f.done, "restart "+grace.String())
	return f.fails
}

func (f *farewells) Leave(context.Context) error {
	f.done = append(f.done, "leave")
	return f.fails
}

// TestShutdown: what restarts goes on answering, what leaves is silent once the others know. The end of sessions comes last.
func TestShutdown(t *testing.T) {
	node := func(edit func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		edit(n)
		return n
	}
	stays := node(func(*corev1.Node) {})
	excluded := node(func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} })
	const grace = 10 * time.Second
	lost := errors.New("lost")
	for name, tt := range map[string]struct {
		node  *corev1.Node // nil if it is deleted
		fails bool         // the API, or rather the cache
		grace time.Duration
		alive int
		lost  error // of the farewell
		want  string
	}{
		"it restarts":                             {node: stays, grace: grace, alive: 2, want: "restart 10s, end Restart"},
		"it restarts, and nobody hears it":        {node: stays, grace: grace, alive: 2, lost: lost, want: "restart 10s, end Restart"},
		"it restarts, and the others do not wait": {node: stays, alive: 2, want: "leave, silent, end Restart"},
		"the node is excluded":                    {node: excluded, grace: grace, alive: 2, want: "leave, silent, end Withdraw"},
		"the node is deleted":                     {grace: grace, alive: 2, want: "leave, silent, end Withdraw"},
		"no other node is there to take over":     {grace: grace, alive: 1, want: "leave, end Withdraw"},
		"nobody hears that it leaves":             {grace: grace, alive: 2, lost: lost, want: "leave, end Withdraw"},
		"the Node cannot be read":                 {fails: true, grace: grace, alive: 2, want: "restart 10s, end Restart"},
	} {
		t.Run(name, func(t *testing.T) {
			cached := fake.NewClientBuilder().WithScheme(config.Scheme())
			if tt.node != nil {
				cached.WithObjects(tt.node)
			}
			if tt.fails {
				cached.WithInterceptorFuncs(interceptor.Funcs{
					Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
						return errors.New("the cache has stopped")
					},
				})
			}
			members := &farewells{alive: tt.alive, fails: tt.lost}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			shutdown{
				node: "node1", grace: tt.grace, cached: cached.Build(), members: members,
				silence: func() { members.done = append(members.done, "silent") },
				endSessions: func(ctx context.Context, mode bgp.CloseMode) {
					if ctx.Err() != nil {
						t.Error("there is no time to end the sessions")
					}
					members.done = append(members.done, fmt.Sprint("end ", mode))
				},
			}.run(ended)
			if diff := cmp.Diff(tt.want, strings.Join(members.done, ", ")); diff != "" {
				t.Errorf("done (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrace(t *testing.T) {
	for _, tt := range []struct {
		restart, probe, want time.Duration
	}{
		{restart: time.Minute, probe: time.Second, want: time.Minute},
		{restart: time.Minute}, // Where no kernel is asked nobody waits.
		{probe: time.Second},
	} {
		if got := (Config{RestartGrace: tt.restart, LANProbeInterval: tt.probe}).grace(); got != tt.want {
			t.Errorf("a grace of %v, with kernels asked each %v, is %v, want %v", tt.restart, tt.probe, got, tt.want)
		}
	}
}
