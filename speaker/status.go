// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// statusPeriod is the least time between two writes of the SpeakerStatus.
const statusPeriod = 500 * time.Millisecond

// publishStatus writes what this node sees and does when it may have changed.
func (s *Speaker) publishStatus(ctx context.Context) error {
	signal(s.status)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.status:
		}
		if err := s.writeStatus(ctx); err != nil && ctx.Err() == nil {
			if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				klog.FromContext(ctx).Error(err, "Failed to publish the status of this node, trying again")
			}
			signal(s.status)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(statusPeriod):
		}
	}
}

func (s *Speaker) writeStatus(ctx context.Context) error {
	var node corev1.Node
	if err := s.cache.Get(ctx, client.ObjectKey{Name: s.cfg.Node}, &node); err != nil {
		return fmt.Errorf("reading this node: %w", err)
	}
	var published v1alpha1.SpeakerStatus
	err := s.cache.Get(ctx, client.ObjectKey{Name: s.cfg.Node}, &published)
	if apierrors.IsNotFound(err) {
		published = v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{
			Name:            s.cfg.Node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}
		err = s.client.Create(ctx, &published)
	}
	if err != nil {
		return fmt.Errorf("SpeakerStatus %s: %w", s.cfg.Node, err)
	}
	old := published.DeepCopy()
	published.Status = s.state(ctx, published.Status)
	if equality.Semantic.DeepEqual(old.Status, published.Status) {
		return nil
	}
	if err := s.client.Status().Update(ctx, &published); err != nil {
		return fmt.Errorf("status of SpeakerStatus %s: %w", s.cfg.Node, err)
	}
	return nil
}

// state describes the node as it is now. Conditions keep their times from the old state.
func (s *Speaker) state(ctx context.Context, old v1alpha1.SpeakerState) v1alpha1.SpeakerState {
	var o objects
	held := func(netip.Addr) bool { return false }
	if err := s.cache.List(ctx, &o.claims, client.UnsafeDisableDeepCopy); err == nil {
		held = o.held()
	}
	links := s.links.Snapshot()
	state := v1alpha1.SpeakerState{Conditions: old.Conditions}
	for _, address := range links.DefaultRouteAddresses(held) {
		state.Addresses = append(state.Addresses, address.String())
	}
	state.Interfaces = announcing(links, held)
	state.BGPSessions = s.bgpSessions()
	var trouble []string
	for _, announced := range s.layer2.Announced() {
		if announced.Err != nil {
			trouble = append(trouble, fmt.Sprintf("%s on %s: %v", announced.Address, announced.Interface, announced.Err))
		}
	}
	established := 0
	for _, session := range state.BGPSessions {
		if session.State == v1alpha1.BGPEstablished {
			established++
		}
	}
	condition := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAnnouncing,
		Message: fmt.Sprintf("%d of %d BGP sessions established", established, len(state.BGPSessions)),
	}
	if err := s.bgpError.Load(); err != nil && *err != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonBGPFailed, (*err).Error()
	}
	if len(trouble) > 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonLayer2Failed
		condition.Message = strings.Join(trouble[:min(len(trouble), 5)], "; ")
	}
	meta.SetStatusCondition(&state.Conditions, condition)
	return state
}

// announcing describes the interfaces that announce or might. The decision of this node is made from it as well, so that what
// the others believe of this node is what it goes by itself. Addresses that Services hold are not the node's.
func announcing(links *link.Snapshot, held func(netip.Addr) bool) []v1alpha1.InterfaceState {
	var states []v1alpha1.InterfaceState
	for _, i := range links.Interfaces {
		state := v1alpha1.InterfaceState{Name: i.Name, MAC: i.MAC.String(), Usable: i.Unusable() == "", Reason: string(i.Unusable())}
		for _, a := range i.Addresses {
			if ip := a.Prefix.Addr(); !held(ip) && !ip.IsLinkLocalUnicast() {
				state.Addresses = append(state.Addresses, a.Prefix.String())
			}
		}
		// The host's ends of pods' links come and go by the hundred; they have no address, and no Service is announced there.
		if i.Loopback || len(state.Addresses) == 0 && (i.Kind == "veth" || !state.Usable) {
			continue
		}
		states = append(states, state)
	}
	return states
}

// bgpSession describes a session. What keeps prefixes from a peer now says more than what once ended the session.
func bgpSession(state bgp.SessionState) v1alpha1.BGPSession {
	since := metav1.NewTime(state.Since.Truncate(time.Second))
	session := v1alpha1.BGPSession{
		Peer: state.Peer, Address: state.Address.String(), State: v1alpha1.BGPState(state.State), Since: &since,
		AdvertisedIPv4: int32(state.Advertised[family.IPv4]), AdvertisedIPv6: int32(state.Advertised[family.IPv6]),
		LastError: state.LastError,
	}
	if state.Withheld > 0 {
		session.LastError = fmt.Sprintf("%d prefixes are not announced: the peer has agreed to %v only, or to no IPv6 next hops for IPv4 (RFC 8950); "+
			"activate the missing family or capability there", state.Withheld, state.Families)
	}
	return session
}

// bgpSessions describes every peer of this node, those without a session too.
func (s *Speaker) bgpSessions() []v1alpha1.BGPSession {
	problems := map[string]string{}
	if p := s.problems.Load(); p != nil {
		problems = maps.Clone(*p)
	}
	watched := map[string]v1alpha1.BFDState{}
	for _, state := range s.bfd.States() {
		watched[state.Name] = v1alpha1.BFDState(state.State.String())
	}
	var sessions []v1alpha1.BGPSession
	for _, state := range s.bgp.States() {
		session := bgpSession(state)
		session.BFD = watched[state.Peer]
		if problem, ok := problems[state.Peer]; ok {
			session.LastError = problem
			delete(problems, state.Peer)
		}
		sessions = append(sessions, session)
	}
	for _, peer := range slices.Sorted(maps.Keys(problems)) {
		sessions = append(sessions, v1alpha1.BGPSession{Peer: peer, State: v1alpha1.BGPIdle, LastError: problems[peer]})
	}
	return sessions
}
