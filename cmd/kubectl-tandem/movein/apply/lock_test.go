// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientset "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
)

// now is the time of the API server in these tests.
var now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

const ana, ben = "kubectl tandem move-in start of ana on laptop (process 4711, AAAAAAAA)", "kubectl tandem move-in undo of ben on desk (process 12, BBBBBBBB)"

// leaseOf returns the Lease of a command that began two minutes ago, and was heard of some time ago.
func leaseOf(identity string, ago time.Duration) *coordinationv1.Lease {
	since, renewed := metav1.NewMicroTime(now.Add(-2*time.Minute)), metav1.NewMicroTime(now.Add(-ago))
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: live.ConfigMapName, ResourceVersion: "7"},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &identity, AcquireTime: &since, RenewTime: &renewed},
	}
}

// locked returns an API whose Lock has ana's name, and its clients.
func locked(leases ...runtime.Object) (*API, *clientset.Clientset, func() int) {
	api, client := newAPI(web())
	set := clientset.NewClientset(leases...)
	api.Timeout = time.Minute
	api.Lock = &Lock{Leases: set.CoordinationV1().Leases("tandem-system"), Identity: ana, Now: func() time.Time { return now }}
	return api, set, func() (patches int) {
		for _, a := range client.Actions() {
			if a.GetVerb() == "patch" {
				patches++
			}
		}
		return patches
	}
}

// holder returns who has the Lease, "" for nobody.
func holder(t *testing.T, api *API) string {
	t.Helper()
	r, err := api.Lock.Runner(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return ""
	}
	return r.Identity
}

// TestLock: a command that runs keeps others away until it ends, or has not been heard of for long, or a person says that it is dead.
func TestLock(t *testing.T) {
	for name, tt := range map[string]struct {
		lease    *coordinationv1.Lease
		takeOver bool
		why      string // why the command stops, "" if it does not
	}{
		"nobody runs":      {},
		"another one runs": {lease: leaseOf(ben, 4*time.Second), why: ben + " has been running since 2026-01-02T15:02:05Z, for 2m0s, and was heard of 4s ago"},
		"what to do":       {lease: leaseOf(ben, 29*time.Second), why: "give the command again in 1s, or now with --take-over"},
		"it is dead":       {lease: leaseOf(ben, 30*time.Second)},
		"it is taken over": {lease: leaseOf(ben, 4*time.Second), takeOver: true},
		"its own":          {lease: leaseOf(ana, 4*time.Second)},
		"it has let go":    {lease: leaseOf("", 4*time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			var leases []runtime.Object
			if tt.lease != nil {
				leases = append(leases, tt.lease)
			}
			api, _, patches := locked(leases...)
			api.Lock.TakeOver = tt.takeOver
			during := ""
			err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
				during = holder(t, api)
				return label(s)
			})
			if tt.why != "" {
				if !isStopped(err) || !strings.Contains(err.Error(), tt.why) || patches() > 0 || holder(t, api) != ben {
					t.Errorf("the command ends with %v, after %d writes, and %q has the Lease; want it to say %q", err, patches(), holder(t, api), tt.why)
				}
				return
			}
			if err != nil || patches() != 1 || during != ana || holder(t, api) != "" {
				t.Errorf("the command ends with %v, after %d writes; %q had the Lease, and %q has it", err, patches(), during, holder(t, api))
			}
		})
	}
}

// TestLockLost: a command whose Lease another one has taken, or somebody has deleted, writes nothing more, and leaves the Lease alone.
func TestLockLost(t *testing.T) {
	for name, tt := range map[string]struct {
		take func(context.Context, *API) error
		want string
		has  string
	}{
		"taken": {take: func(ctx context.Context, api *API) error {
			_, err := api.Lock.Leases.Update(ctx, leaseOf(ben, 0), metav1.UpdateOptions{})
			return err
		}, want: ben + " has taken the move over", has: ben},
		"deleted": {take: func(ctx context.Context, api *API) error {
			return api.Lock.Leases.Delete(ctx, live.ConfigMapName, metav1.DeleteOptions{})
		}, want: "or somebody has deleted the Lease"},
	} {
		t.Run(name, func(t *testing.T) {
			api, _, patches := locked()
			err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
				if err := tt.take(t.Context(), api); err != nil {
					t.Fatal(err)
				}
				return label(s)
			})
			if !isStopped(err) || !strings.Contains(err.Error(), tt.want) || patches() > 0 || holder(t, api) != tt.has {
				t.Errorf("the command ends with %v, after %d writes, and %q has the Lease", err, patches(), holder(t, api))
			}
		})
	}
}

// TestRenew: the Lease says when the command was last heard of, and that another one has it.
func TestRenew(t *testing.T) {
	api, _, _ := locked(leaseOf(ana, 20*time.Second))
	if err := api.Lock.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := api.Lock.Runner(t.Context()); err != nil || !r.Renewed.Time.Equal(now) || !r.Since.Time.Equal(now.Add(-2*time.Minute)) || r.Dead {
		t.Errorf("after renewing the Lease is %+v, %v", r, err)
	}
	api, _, _ = locked(leaseOf(ben, 40*time.Second))
	if err := api.Lock.renew(t.Context()); !isStopped(err) {
		t.Errorf("renewing the Lease of another command: %v", err)
	}
}

// TestLockRace: where another command is faster, it is in the way; rights that lack end the command at once.
func TestLockRace(t *testing.T) {
	api, set, patches := locked()
	set.PrependReactor("create", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		err := set.Tracker().Add(leaseOf(ben, 0))
		return true, nil, errors.Join(err, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "leases"}, live.ConfigMapName))
	})
	if err := api.Run(t.Context(), label); !isStopped(err) || patches() > 0 {
		t.Errorf("the slower command ends with %v, after %d writes", err, patches())
	}
	api, set, patches = locked()
	set.PrependReactor("create", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, live.ConfigMapName, errors.New("no"))
	})
	if err := api.Run(t.Context(), label); !apierrors.IsForbidden(err) || patches() > 0 {
		t.Errorf("a command without the right ends with %v, after %d writes", err, patches())
	}
}

// TestIdentity: two processes that have all in common have two names.
func TestIdentity(t *testing.T) {
	one, other := Identity("kubectl tandem move-in start"), Identity("kubectl tandem move-in start")
	if one == other || !strings.HasPrefix(one, "kubectl tandem move-in start of ") {
		t.Errorf("they are %q and %q", one, other)
	}
}
