// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// change reads an object, changes it and writes it, as another program would.
func change[T client.Object](t *testing.T, c client.Client, object T, name string, change func(T)) {
	t.Helper()
	if err := c.Get(context.Background(), client.ObjectKey{Name: name}, object); err != nil {
		t.Error(err)
		return
	}
	change(object)
	if err := c.Update(context.Background(), object); err != nil {
		t.Error(err)
	}
}

// takeOver puts a node on record for default/web.
func takeOver(t *testing.T, c client.Client, node string) {
	t.Helper()
	change(t, c, &v1alpha1.L2Announcement{}, "default.web", func(a *v1alpha1.L2Announcement) {
		a.Status.Node = node
		if a.Spec.Target == node {
			a.Spec.Target = ""
		}
	})
}

// drains has the speaker of node1 say how far it is.
func drains(t *testing.T, c client.Client, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	change(t, c, &v1alpha1.SpeakerStatus{}, "node1", func(s *v1alpha1.SpeakerStatus) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDraining, Status: status, Reason: reason, Message: message})
	})
}

// annotated returns what the annotation of node1 is.
func annotated(t *testing.T, c client.Client) string {
	t.Helper()
	node := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "node1"}, node); err != nil {
		t.Fatal(err)
	}
	return node.Annotations[ipamv1alpha1.AnnotationDrain]
}

// A drain waits for the node to say that it is gone, and tells of the moves when they are seen: make before break.
func TestAwaitDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fixture.Client(append(fixture.LAN(), fixture.Service("web", "node1", everywhere, v4)...)...)
		plan, err := PlanDrain(fixture.Read(t, c), "node1")
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		start := time.Now()
		api := &API{Client: c, Told: func(m Move) { told = append(told, time.Since(start).String()+" "+m.Service+" "+m.To) }}
		if err := api.SetDrain(t.Context(), "node1", true); err != nil || annotated(t, c) != "true" {
			t.Fatalf("the annotation is %q: %v", annotated(t, c), err)
		}
		go func() {
			time.Sleep(700 * time.Millisecond)
			drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonLeaving, "")
			takeOver(t, c, "node2") // another one than the plan said, since something has happened in between
			time.Sleep(9 * time.Second)
			drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonGone, "")
		}()
		progress, err := api.AwaitDrained(t.Context(), plan)
		if err != nil || progress.Recorded != nil {
			t.Errorf("%+v %v", progress, err)
		}
		if diff := cmp.Diff([]string{"1s default/web node2"}, told); diff != "" {
			t.Errorf("moves (-want +got):\n%s", diff)
		}
		if waited := time.Since(start); waited != 10*time.Second {
			t.Errorf("it waited for %v, want 10s: until the speaker said that it is gone", waited)
		}
	})
}

// A node whose speaker says nothing is waited for until the time is over. The node stays drained, and the condition tells how far it is.
func TestAwaitDrainedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fixture.Client(append(fixture.LAN(), fixture.Service("web", "node1", everywhere, v4)...)...)
		drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonLeaving, "still here")
		plan := &Drain{Node: "node1", Speaker: true}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		progress, err := (&API{Client: c}).AwaitDrained(ctx, plan)
		if !errors.Is(err, ErrTimeout) || progress.Condition.Message != "still here" || !cmp.Equal(progress.Recorded, []string{"default/web"}) {
			t.Errorf("%+v %v", progress, err)
		}
		plan.Speaker = false
		takeOver(t, c, "node2") // Of a dead speaker the records say that others have what it had.
		if _, err := (&API{Client: c, Told: func(Move) {}}).AwaitDrained(t.Context(), plan); err != nil {
			t.Error(err)
		}
	})
}

func TestAwaitUndrained(t *testing.T) {
	for name, tt := range map[string]struct {
		labels  map[string]string
		cordon  bool
		after   func(t *testing.T, c client.Client)
		want    string
		timeout bool
	}{
		"the speaker may announce": {after: func(t *testing.T, c client.Client) {
			drains(t, c, metav1.ConditionFalse, v1alpha1.ReasonNotDraining, "the node may announce")
		}},
		"a label excludes the node": {
			labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""},
			want:   "the label node.kubernetes.io/exclude-from-external-load-balancers excludes the node",
			after: func(t *testing.T, c client.Client) {
				drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonGone,
					"the label node.kubernetes.io/exclude-from-external-load-balancers excludes the node: it announces nothing")
			},
		},
		"the speaker ignores the label": {
			labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""},
			after: func(t *testing.T, c client.Client) {
				drains(t, c, metav1.ConditionFalse, v1alpha1.ReasonExcludeLabelIgnored, "the node may announce")
			},
		},
		"a cordon counts": {
			cordon: true, want: "the node is cordoned",
			after: func(t *testing.T, c client.Client) {
				drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonGone, "the node is cordoned: it announces nothing")
			},
		},
		"the speaker says nothing": {timeout: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := fixture.Client(fixture.LAN()...)
				change(t, c, &corev1.Node{}, "node1", func(n *corev1.Node) {
					n.Annotations, n.Labels, n.Spec.Unschedulable = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}, tt.labels, tt.cordon
				})
				drains(t, c, metav1.ConditionTrue, v1alpha1.ReasonGone, "the annotation drains the node: it announces nothing")
				api := &API{Client: c}
				if err := api.SetDrain(t.Context(), "node1", false); err != nil || annotated(t, c) != "" {
					t.Fatalf("the annotation is %q: %v", annotated(t, c), err)
				}
				if tt.after != nil {
					time.AfterFunc(3*time.Second, func() { tt.after(t, c) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				reason, err := api.AwaitUndrained(ctx, "node1")
				if reason != tt.want || errors.Is(err, ErrTimeout) != tt.timeout || err != nil && !tt.timeout {
					t.Errorf("%q %v, want %q", reason, err, tt.want)
				}
			})
		})
	}
}

// targetOf returns the target that is named for default/web.
func targetOf(t *testing.T, c client.Client) string {
	t.Helper()
	record := &v1alpha1.L2Announcement{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "default.web"}, record); err != nil {
		t.Fatal(err)
	}
	return record.Spec.Target
}

// A target is taken back if the Service has not moved in time, but for one that somebody else has named meanwhile.
func TestAwaitMove(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for name, tt := range map[string]struct {
		after func(t *testing.T, c client.Client)
		moved bool
		left  string // the target that is named afterwards
	}{
		"node2 takes it":            {moved: true, after: func(t *testing.T, c client.Client) { takeOver(t, c, "node2") }},
		"node2 does not take it":    {},
		"another target was named":  {left: "node3", after: func(t *testing.T, c client.Client) { name3(t, c) }},
		"another node has taken it": {after: func(t *testing.T, c client.Client) { takeOver(t, c, "node3") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := fixture.Client(append(fixture.LAN(), fixture.Service("web", "node1", everywhere, v4)...)...)
				plan, err := PlanMove(fixture.Read(t, c), web, "node2")
				if err != nil {
					t.Fatal(err)
				}
				told := 0
				api := &API{Client: c, Told: func(Move) { told++ }}
				if err := api.SetTarget(t.Context(), web, "node2"); err != nil || targetOf(t, c) != "node2" {
					t.Fatal(targetOf(t, c), err)
				}
				if tt.after != nil {
					time.AfterFunc(time.Second, func() { tt.after(t, c) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				err = api.AwaitMove(ctx, web, plan)
				if (err == nil) != tt.moved || (told == 1) != tt.moved || err != nil && !errors.Is(err, ErrTimeout) {
					t.Errorf("told %d times, %v", told, err)
				}
				if !tt.moved && !strings.Contains(err.Error(), "has been taken back") {
					t.Errorf("the error does not say that the target was taken back: %v", err)
				}
				if left := targetOf(t, c); left != tt.left {
					t.Errorf("the target is %q, want %q", left, tt.left)
				}
			})
		})
	}
}

// name3 names node3 as the target of default/web, as another user would.
func name3(t *testing.T, c client.Client) {
	t.Helper()
	change(t, c, &v1alpha1.L2Announcement{}, "default.web", func(a *v1alpha1.L2Announcement) { a.Spec.Target = "node3" })
}
