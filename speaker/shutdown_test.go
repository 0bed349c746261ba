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
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	cordoned := node(func(n *corev1.Node) { n.Spec.Unschedulable = true })
	const grace = 10 * time.Second
	lost := errors.New("lost")
	for name, tt := range map[string]struct {
		node  *corev1.Node // nil if it is deleted
		fails bool         // the API, or rather the cache
		grace time.Duration
		alive int
		lost  error // of the farewell
		// uninstalled says that the API has no DaemonSet of the speakers any more.
		uninstalled bool
		want        string
	}{
		"it restarts":                                         {node: stays, grace: grace, alive: 2, want: "restart 10s, end Restart"},
		"it restarts, and nobody hears it":                    {node: stays, grace: grace, alive: 2, lost: lost, want: "restart 10s, end Restart"},
		"it restarts, and the others do not wait":             {node: stays, alive: 2, want: "leave, silent, end Restart"},
		"the node is cordoned, which says nothing of layer 2": {node: cordoned, grace: grace, alive: 2, want: "restart 10s, yield, end Withdraw"},
		"Tandem is removed":                                   {node: stays, grace: grace, alive: 2, uninstalled: true, want: "leave, silent, yield, end Withdraw"},
		"the node is excluded":                                {node: excluded, grace: grace, alive: 2, want: "leave, silent, yield, end Withdraw"},
		"the node is deleted":                                 {grace: grace, alive: 2, want: "leave, silent, yield, end Withdraw"},
		"no other node is there to take over":                 {grace: grace, alive: 1, want: "leave, yield, end Withdraw"},
		"nobody hears that it leaves":                         {grace: grace, alive: 2, lost: lost, want: "leave, yield, end Withdraw"},
		"the Node cannot be read":                             {fails: true, grace: grace, alive: 2, want: "restart 10s, end Restart"},
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
				daemonSet: func(context.Context) (*appsv1.DaemonSet, bool) { return nil, tt.uninstalled },
				silence:   func() { members.done = append(members.done, "silent") },
				yield:     func(context.Context) { members.done = append(members.done, "yield") },
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

// A DaemonSet that was never seen was not deleted, and one that cannot be asked for is not known.
func TestDaemonSet(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	existing := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: daemonSetName}}
	var away error
	store := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if away != nil {
				return away
			}
			return c.Get(ctx, key, obj, opts...)
		},
	}).Build()
	started := true
	d := &daemonSet{live: store, key: client.ObjectKeyFromObject(existing), started: func(context.Context) bool { return started }}
	check := func(when string, wantExists, wantOK bool) {
		t.Helper()
		if got, ok := d.Get(t.Context()); (got != nil) != wantExists || ok != wantOK {
			t.Errorf("%s: %v, %v; want one: %v, known: %v", when, got, ok, wantExists, wantOK)
		}
	}
	check("there never was one", false, false)
	if err := store.Create(t.Context(), existing); err != nil {
		t.Fatal(err)
	}
	check("there is one", true, true)
	away = errors.New("connection refused")
	check("the API is away", false, false)
	away = apierrors.NewForbidden(schema.GroupResource{Resource: "daemonsets"}, daemonSetName, errors.New("no RBAC policy matched"))
	check("the role is deleted", false, true)
	started = false
	check("an API server starts", false, false)
	d.started = func(context.Context) bool { away = nil; return true }
	check("an API server has read the roles meanwhile", true, true)
	away = apierrors.NewUnauthorized("the Pod is deleted")
	check("the Pod was deleted by force, and its token is not accepted", false, false)
	away = nil
	if err := store.Delete(t.Context(), existing); err != nil {
		t.Fatal(err)
	}
	check("it was deleted", false, true)
}
