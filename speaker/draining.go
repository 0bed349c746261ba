// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// drainState says how far a node has handed over what it announces. The zero drainState is that of a node that may announce.
type drainState struct {
	reason  string // why the node is not to announce, "" if it may
	leaving bool   // it still announces
	found   bool   // it was not to announce when this speaker started
	ignores bool   // the label that excludes nodes has no effect
}

// condition returns the condition Draining of a SpeakerStatus.
func (d drainState) condition() metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionDraining, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonGone,
		Message: d.reason + ": it announces nothing",
	}
	switch {
	case d.reason == "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonNotDraining, "the node may announce"
		if d.ignores {
			c.Reason = v1alpha1.ReasonExcludeLabelIgnored
			c.Message += ", whether or not the label " + corev1.LabelNodeExcludeBalancers + " excludes it (--ignore-exclude-label)"
		}
	case d.leaving:
		c.Reason, c.Message = v1alpha1.ReasonLeaving, d.reason+": other nodes take over what it announces, and routers that have another node prefer it"
	}
	return c
}

// draining returns how far this node has handed over what it announces, and false before the first decision.
func (s *Speaker) draining() (drainState, bool) {
	if d := s.drain.Load(); d != nil {
		return *d, true
	}
	return drainState{}, false
}

// showDrain has the status of this node say how far it has handed over, and events on the Node. A speaker that starts on a node that was
// drained before writes no event.
func (l *loop) showDrain(s *decision.Snapshot) {
	current := drainState{reason: "the Node is deleted", leaving: s.Leaving || s.Departing, ignores: l.cfg.IgnoreExcludeLabel}
	node := l.ownNode()
	if node != nil {
		current.reason, _ = observation.Exclusion(node, l.cfg.exclusionRules())
	}
	before := l.drain.Load()
	current.found = current.reason != "" && (before == nil || before.found)
	l.drain.Store(&current)
	if before != nil && *before == current {
		return
	}
	l.status.Raise()
	if before == nil || node == nil || current.reason == "" || current.found {
		return
	}
	ref := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}
	switch {
	case current.leaving && !before.leaving:
		l.cfg.Recorder.Eventf(ref, corev1.EventTypeNormal, ipamv1alpha1.EventDraining,
			"This node hands over what it announces, since %s", current.reason)
	case !current.leaving && (before.leaving || before.reason == ""):
		l.cfg.Recorder.Eventf(ref, corev1.EventTypeNormal, ipamv1alpha1.EventDrained, "This node announces nothing any more, since %s", current.reason)
	}
}

// yield has the peers of established sessions prefer any other node, and gives their routers some time to follow. It returns at once where no
// peer has been told anything.
func (s *sessions) yield(ctx context.Context, wait time.Duration) {
	declared := s.declared.Load()
	if declared == nil || wait <= 0 || !s.advertises() {
		return
	}
	s.desired.Put(peerings{bgp: decision.Yield(declared.bgp), bfd: declared.bfd})
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// advertises reports whether an established session has announced a prefix.
func (s *sessions) advertises() bool {
	for _, state := range s.bgp.States() {
		for _, n := range state.Advertised {
			if state.State == bgp.Established && n > 0 {
				return true
			}
		}
	}
	return false
}
