// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// statusPeriod is the least time between two writes of the SpeakerStatus.
const statusPeriod = 500 * time.Millisecond

// statusWriter publishes what this node sees and does in its SpeakerStatus.
type statusWriter struct {
	node   string
	client client.Client // reads from the cache
	// links, announced and sessions return the state that is published.
	links     func() *link.Snapshot
	announced func() []layer2.Status
	sessions  *sessions
}

// run writes the status at first, and whenever changed is raised.
func (w *statusWriter) run(ctx context.Context, changed signal.Signal) error {
	changed.Raise()
	signal.Every(ctx, changed, statusPeriod, statusPeriod, func(ctx context.Context) error {
		err := w.write(ctx)
		if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			klog.FromContext(ctx).Error(err, "Failed to publish the status of this node, trying again")
		}
		return err
	})
	return nil
}

// write brings the SpeakerStatus up to date, and creates it where there is none.
func (w *statusWriter) write(ctx context.Context) error {
	var node corev1.Node
	if err := w.client.Get(ctx, client.ObjectKey{Name: w.node}, &node); err != nil {
		return fmt.Errorf("reading this node: %w", err)
	}
	var published v1alpha1.SpeakerStatus
	err := w.client.Get(ctx, client.ObjectKey{Name: w.node}, &published)
	if apierrors.IsNotFound(err) {
		published = v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{
			Name:            w.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}
		err = w.client.Create(ctx, &published)
	}
	if err != nil {
		return fmt.Errorf("SpeakerStatus %s: %w", w.node, err)
	}
	old := published.DeepCopy()
	published.Status = w.state(ctx, published.Status)
	if equality.Semantic.DeepEqual(old.Status, published.Status) {
		return nil
	}
	if err := w.client.Status().Update(ctx, &published); err != nil {
		return fmt.Errorf("status of SpeakerStatus %s: %w", w.node, err)
	}
	return nil
}

// state describes the node as it is now. Conditions keep their times from the old state.
func (w *statusWriter) state(ctx context.Context, old v1alpha1.SpeakerState) v1alpha1.SpeakerState {
	claimed := func(netip.Addr) bool { return false }
	var claims networkingv1.IPAddressList
	if err := w.client.List(ctx, &claims, client.UnsafeDisableDeepCopy); err == nil {
		claimed = observation.Claimed(claims.Items)
	}
	links := w.links()
	state := v1alpha1.SpeakerState{Conditions: old.Conditions}
	for _, address := range links.DefaultRouteAddresses(claimed) {
		if len(state.Addresses) < v1alpha1.MaxAddresses {
			state.Addresses = append(state.Addresses, address.String())
		}
	}
	for _, gateway := range links.DefaultGateways() {
		state.DefaultGateways = append(state.DefaultGateways, gateway.String())
	}
	state.Interfaces = interfaceStates(links, claimed)
	state.BGPSessions = w.sessions.published()
	announced := w.announced()
	state.Conflicts = conflicts(announced)
	meta.SetStatusCondition(&state.Conditions, ready(state.BGPSessions, w.sessions.err(), announced))
	state.Summarize()
	return state
}

// ready returns the condition Ready of a SpeakerStatus.
func ready(sessions []v1alpha1.BGPSession, bgpFailure error, announced []layer2.Status) metav1.Condition {
	established := 0
	for _, session := range sessions {
		if session.State == v1alpha1.BGPEstablished {
			established++
		}
	}
	condition := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAnnouncing,
		Message: fmt.Sprintf("%d of %d BGP sessions established", established, len(sessions)),
	}
	if bgpFailure != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonBGPFailed, bgpFailure.Error()
	}
	var failures []string
	inUse := 0
	for _, a := range announced {
		if _, ok := errors.AsType[*layer2.InUseError](a.Err); ok {
			inUse++
		} else if a.Err != nil {
			failures = append(failures, fmt.Sprintf("%s on %s: %v", a.Address, a.Interface, a.Err))
		}
	}
	if inUse > 0 { // The speaker is well. The addresses are not ours to use.
		condition.Message += fmt.Sprintf("; %d addresses are not announced, because other machines have them", inUse)
	}
	if len(failures) > 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonLayer2Failed
		condition.Message = strings.Join(failures[:min(len(failures), 5)], "; ")
	}
	return condition
}
