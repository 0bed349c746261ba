// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// period is how often the API is asked how far a hand-over is.
const period = 500 * time.Millisecond

// ErrTimeout is the error of a wait whose time is over. The messages around it say how far the hand-over has come, and what goes on.
var ErrTimeout = errors.New("the time is over")

// API is how this package writes, and follows what it has asked for.
type API struct {
	client.Client
	// Told is called for each Service that has moved, when that is seen.
	Told func(Move)
}

// SetDrain sets the annotation tandem-lb.io/drain of a Node, or removes it.
func (a *API) SetDrain(ctx context.Context, node string, drain bool) error {
	var value any // null removes the annotation
	if drain {
		value = "true"
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{ipamv1alpha1.AnnotationDrain: value}}})
	if err != nil {
		return err
	}
	err = a.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, client.RawPatch(types.MergePatchType, patch))
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; to drain a node takes the right to patch Nodes, which no role of Tandem gives", err)
	case err != nil:
		return fmt.Errorf("setting the annotation %s of Node %s: %w", ipamv1alpha1.AnnotationDrain, node, err)
	}
	return nil
}

// Progress is how far a node has handed over.
type Progress struct {
	// Condition is the condition Draining of the node, nil where its speaker has not written any.
	Condition *metav1.Condition
	// Recorded are the Services for which the node is on record on layer 2, sorted.
	Recorded []string
}

// gone reports whether the node has handed over. A speaker says so itself. Where none is alive, no record of the node is left: nothing says whether
// routers still have its routes, such as those that they keep while a speaker restarts.
func (p Progress) gone(speaker bool) bool {
	if !speaker {
		return len(p.Recorded) == 0
	}
	return p.Condition != nil && p.Condition.Status == metav1.ConditionTrue && p.Condition.Reason == v1alpha1.ReasonGone
}

// AwaitDrained waits until a node that is drained has handed over, and calls Told for each Service of the plan that another node has. The
// records that the node keeps are those of Services without a ready endpoint, for which no node answers at present.
func (a *API) AwaitDrained(ctx context.Context, plan *Drain) (Progress, error) {
	var p Progress
	waiting := slices.Clone(plan.Moves)
	err := a.until(ctx, func() (bool, error) {
		var err error
		if p.Condition, err = a.draining(ctx, plan.Node); err != nil {
			return false, err
		}
		holders, err := a.holders(ctx)
		if err != nil {
			return false, err
		}
		waiting = slices.DeleteFunc(waiting, func(m Move) bool {
			holder := holders[m.Service]
			moved := holder != "" && holder != plan.Node
			if m.To = holder; moved {
				a.Told(m)
			}
			return moved
		})
		p.Recorded = nil
		for service, holder := range holders {
			if holder == plan.Node {
				p.Recorded = append(p.Recorded, service)
			}
		}
		slices.Sort(p.Recorded)
		return p.gone(plan.Speaker), nil
	})
	return p, err
}

// AwaitUndrained waits until the speaker of a node says that the node may announce. Reason is why it may not although the annotation is gone, such as
// a label that excludes it, "" if it may.
func (a *API) AwaitUndrained(ctx context.Context, name string) (reason string, err error) {
	err = a.until(ctx, func() (bool, error) {
		node := &corev1.Node{}
		if err := a.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
			return false, err
		}
		condition, err := a.draining(ctx, name)
		if err != nil || condition == nil {
			return false, err
		}
		// The condition may still be that of the annotation. A cordon, or the label, counts where the condition speaks of it: the speaker has
		// flags for both.
		if reason, _ = observation.Exclusion(node, observation.ExclusionRules{IgnoreLabel: true}); reason != "" {
			return true, nil
		}
		for _, rules := range []observation.ExclusionRules{{}, {CordonCounts: true}} {
			if reason, _ = observation.Exclusion(node, rules); reason != "" && condition.Message == reason+": it announces nothing" {
				return true, nil
			}
		}
		reason = ""
		return condition.Status == metav1.ConditionFalse, nil
	})
	return reason, err
}

// draining returns the condition Draining of a node, nil where there is none.
func (a *API) draining(ctx context.Context, node string) (*metav1.Condition, error) {
	status := &v1alpha1.SpeakerStatus{}
	if err := a.Get(ctx, client.ObjectKey{Name: node}, status); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return meta.FindStatusCondition(status.Status.Conditions, v1alpha1.ConditionDraining), nil
}

// holders returns the nodes that are on record, by the Service as default/web.
func (a *API) holders(ctx context.Context) (map[string]string, error) {
	var records v1alpha1.L2AnnouncementList
	// The API server answers from its cache, as it does to the list of an informer: ten thousand records are no matter for etcd.
	if err := a.List(ctx, &records, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}); err != nil {
		return nil, err
	}
	holders := make(map[string]string, len(records.Items))
	for i := range records.Items {
		r := &records.Items[i]
		holders[r.Service.Namespace+"/"+r.Service.Name] = r.Status.Node
	}
	return holders, nil
}

// until asks until the answer is yes, or fails, or the context ends. An API that does not answer at the moment is asked again: it may be the node
// of one of its servers that is drained.
func (a *API) until(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errors.Join(ErrTimeout, err)
			}
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
