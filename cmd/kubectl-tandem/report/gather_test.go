// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// failing returns a cluster with one Service. Each list for which fail returns an error fails with it.
func failing(fail func(client.ObjectList) error) *cluster.Cluster {
	objects := append(fixture.LAN(), fixture.Service("web", "node1", []string{"node2"}, "198.51.100.200")...)
	return &cluster.Cluster{
		Client: interceptor.NewClient(fixture.Client(objects...), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
				if err := fail(list); err != nil {
					return err
				}
				return c.List(ctx, list, options...)
			},
		}),
		Clientset: kubefake.NewClientset(),
		Now:       func() time.Time { return fixture.Now },
	}
}

// What may not be read is missing from a report, and all else is in it.
func TestGatherGoesOn(t *testing.T) {
	b, err := Gather(t.Context(), failing(func(list client.ObjectList) error {
		switch list.(type) {
		case *corev1.NodeList, *v1alpha1.BGPPeerList:
			return apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "", errors.New("not you"))
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"services", "addresspools", "l2advertisements", "speakerstatuses"} {
		if len(b.Objects["objects/"+file]) == 0 {
			t.Errorf("it has no %s", file)
		}
	}
	for _, kind := range []string{"*v1.NodeList", "*v1alpha1.BGPPeerList"} {
		if !slices.ContainsFunc(b.Missing, func(line string) bool {
			return strings.Contains(line, kind) && strings.Contains(line, "not you") && strings.Contains(line, "tandem-view")
		}) {
			t.Errorf("nothing says that %s is missing: %q", kind, b.Missing)
		}
	}
}

// A cluster of which nothing can be read makes no report.
func TestGatherNothing(t *testing.T) {
	down := errors.New("connection refused")
	if _, err := Gather(t.Context(), failing(func(client.ObjectList) error { return down })); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
}

// Of a cluster with more events than are read, the report says so.
func TestGatherManyEvents(t *testing.T) {
	for next, want := range map[string]bool{"more": true, "": false} {
		c := failing(func(client.ObjectList) error { return nil })
		c.Clientset.(*kubefake.Clientset).PrependReactor("list", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &corev1.EventList{ListMeta: metav1.ListMeta{Continue: next}, Items: make([]corev1.Event, 3)}, nil
		})
		b, err := Gather(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(b.Missing, "events: the cluster has more than the 3 that were looked through"); got != want {
			t.Errorf("with %q to go on from it is %t that the report says so: %q", next, got, b.Missing)
		}
	}
}
