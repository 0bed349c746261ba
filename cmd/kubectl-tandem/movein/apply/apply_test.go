// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
)

// newAPI returns an API over objects in memory, with the client for reactors. Its time is over at once, unless the test says otherwise.
func newAPI(objects ...runtime.Object) (*API, *fake.FakeDynamicClient) {
	lists := map[schema.GroupVersionResource]string{
		core("configmaps"): "ConfigMapList", core("secrets"): "SecretList", core("pods"): "PodList",
	}
	for _, k := range live.Kinds {
		lists[k.GroupVersionResource] = k.Kind + "List"
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	client := fake.NewSimpleDynamicClientWithCustomListKinds(scheme, lists, objects...)
	return &API{
		Client: client, System: "tandem-system", Told: func(string) {},
		Probe: func(context.Context, *live.Snapshot, *live.Unit, bool) string { return "" },
	}, client
}

// label is a machine that labels a Service, and has nothing else to do.
func label(s *live.Snapshot) (live.Action, error) {
	ref := live.Ref{Kind: "Service", Namespace: "shop", Name: "web"}
	if meta := s.Objects[ref]["metadata"].(map[string]any); meta["labels"] != nil {
		return live.Action{}, nil
	}
	body := map[string]any{"metadata": map[string]any{"labels": map[string]any{"moved": "yes"}}}
	return live.Action{Write: &live.Write{Verb: live.Patch, Ref: ref, Body: body, Why: "label web"}}, nil
}

func web() *corev1.Service {
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = "shop", "web"
	return svc
}

// TestWrittenBack: a program that undoes each write does not keep the command writing for ever.
func TestWrittenBack(t *testing.T) {
	api, client := newAPI(web())
	writes := 0
	client.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		writes++
		return true, web(), nil
	})
	err := api.Run(t.Context(), label)
	if stopped, ok := errors.AsType[Stopped](err); !ok || writes != mostOfOne || !strings.Contains(stopped.Why, "Service shop/web has been written") {
		t.Errorf("after %d writes: %v", writes, err)
	}
}

// TestRun: what is refused since it has changed is worked out anew, and what cannot succeed ends the command.
func TestRun(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{}, "web", errors.New("changed"))
	forbidden := apierrors.NewForbidden(schema.GroupResource{}, "web", errors.New("no"))
	for name, tt := range map[string]struct {
		errors  []error // of the first writes
		timeout time.Duration
		want    func(error) bool
	}{
		"at once":              {want: func(err error) bool { return err == nil }},
		"after a conflict":     {errors: []error{conflict}, timeout: time.Minute, want: func(err error) bool { return err == nil }},
		"conflict on conflict": {errors: []error{conflict, conflict, conflict}, want: apierrors.IsConflict},
		"forbidden":            {errors: []error{forbidden}, timeout: time.Minute, want: apierrors.IsForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			api, client := newAPI(web())
			api.Timeout = tt.timeout
			left := tt.errors
			client.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				if len(left) == 0 {
					return false, nil, nil
				}
				err := left[0]
				left = left[1:]
				return true, nil, err
			})
			if err := api.Run(t.Context(), label); !tt.want(err) {
				t.Errorf("the command ends with %v", err)
			}
		})
	}
}

// TestWrites: the command stops before the write that is one too many.
func TestWrites(t *testing.T) {
	api, client := newAPI(web())
	api.Writes = 1
	endless := func(*live.Snapshot) (live.Action, error) {
		body := map[string]any{"metadata": map[string]any{"labels": map[string]any{"n": "x"}}}
		return live.Action{Write: &live.Write{Verb: live.Patch, Ref: live.Ref{Kind: "Service", Namespace: "shop", Name: "web"}, Body: body}}, nil
	}
	if err := api.Run(t.Context(), endless); !errors.Is(err, ErrWrites) {
		t.Errorf("the command ends with %v", err)
	}
	patches := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			patches++
		}
	}
	if patches != 1 {
		t.Errorf("it has written %d times", patches)
	}
}

// TestProbed: a unit whose time is over has the last answer, and one that answers has none.
func TestProbed(t *testing.T) {
	unit := &live.Unit{Name: "Service shop/web", Services: []string{"shop/web"}}
	for _, why := range []string{"", "nobody hears it"} {
		api, _ := newAPI(web())
		api.Timeout = time.Millisecond
		api.Probe = func(context.Context, *live.Snapshot, *live.Unit, bool) string { return why }
		var got *live.Outcome
		err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
			if outcome, ok := s.Probes[unit.Name]; ok {
				got = &outcome
				return live.Action{}, nil
			}
			return live.Action{Probe: unit, ProbeName: unit.Name}, nil
		})
		if err != nil || got == nil || got.Why != why {
			t.Errorf("for the answer %q: %v, %v", why, got, err)
		}
	}
}

// TestPace: between two units the command waits, and longer between two Nodes, whose router has yet to take in the routes of the first.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, _ := newAPI()
		api.Pace, api.NodePace, api.Timeout = time.Second, 3*time.Second, time.Minute
		start, begun := time.Now(), map[string]time.Duration{}
		units := []string{"Service shop/web", "Service shop/web", "Service shop/mail", "node node1", "node node2", "node node2"}
		api.Probe = func(_ context.Context, _ *live.Snapshot, u *live.Unit, _ bool) string {
			begun[u.Name] = time.Since(start)
			return ""
		}
		if err := api.Run(t.Context(), func(*live.Snapshot) (live.Action, error) {
			if len(units) == 0 {
				return live.Action{}, nil
			}
			name := units[0]
			units = units[1:]
			return live.Action{Probe: &live.Unit{Name: name}, ProbeName: name, Unit: name}, nil
		}); err != nil {
			t.Fatal(err)
		}
		want := map[string]time.Duration{"Service shop/web": 0, "Service shop/mail": time.Second, "node node1": 2 * time.Second, "node node2": 5 * time.Second}
		if !maps.Equal(begun, want) {
			t.Errorf("units begin after %v, want %v", begun, want)
		}
	})
}

// TestStopped: what does not come in time, and what the machine stops at, end the command with the reason.
func TestStopped(t *testing.T) {
	for _, a := range []live.Action{{Wait: "the end of time"}, {Stop: "the end of time"}} {
		api, _ := newAPI()
		err := api.Run(t.Context(), func(*live.Snapshot) (live.Action, error) { return a, nil })
		if _, ok := errors.AsType[Stopped](err); !ok {
			t.Errorf("%+v ends with %v", a, err)
		}
	}
}

// TestReview: rights that the API server refuses are in each Snapshot, and what it does not answer counts as a right.
func TestReview(t *testing.T) {
	for name, tt := range map[string]struct {
		refused func(attributes map[string]any) bool
		err     error
		want    []string
	}{
		"all rights": {refused: func(map[string]any) bool { return false }},
		"no status of Services": {
			refused: func(a map[string]any) bool { return a["resource"] == "services" && a["subresource"] == "status" }, want: []string{"patch services/status"},
		},
		"nothing in a namespace": {
			refused: func(a map[string]any) bool { return a["resource"] == "configmaps" && a["namespace"] == "tandem-system" },
			want:    []string{"create configmaps in tandem-system", "patch configmaps in tandem-system", "delete configmaps in tandem-system"},
		},
		"no answer": {err: errors.New("the API server sleeps")},
	} {
		t.Run(name, func(t *testing.T) {
			api, client := newAPI(web())
			client.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if tt.err != nil {
					return true, nil, tt.err
				}
				o := action.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured).DeepCopy()
				attributes, _, _ := unstructured.NestedMap(o.Object, "spec", "resourceAttributes")
				err := unstructured.SetNestedField(o.Object, !tt.refused(attributes), "status", "allowed")
				return true, o, err
			})
			s, err := api.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			api.Review(t.Context(), s)
			again, err := api.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*live.Snapshot{s, again} {
				var got []string
				for _, r := range s.Missing {
					got = append(got, r.String())
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("missing are %q, want %q", got, tt.want)
				}
			}
		})
	}
}
