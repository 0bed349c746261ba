// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
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

const (
	// statusPeriod is the least time between two writes of the SpeakerStatus.
	statusPeriod = 500 * time.Millisecond
	// countsPeriod is the least time between two writes of it that bring new counts alone. Each new Service changes how many prefixes each
	// node has announced, and each write goes to every speaker.
	countsPeriod = 10 * time.Second
	// statusTimeout bounds a write. The others elect by what this node publishes, and an API server that never answers must not end that.
	statusTimeout = 10 * time.Second
)

// statusWriter publishes what this node sees and does in its SpeakerStatus.
type statusWriter struct {
	node   string
	client client.Client // reads from the cache
	// links, failing (of layer 2, the addresses that are not announced as they should be) and sessions return the state that is published.
	links    func() *link.Snapshot
	failing  func() []layer2.Status
	failed   func() map[string]error
	cutOff   func() []string
	sessions interface {
		published() []v1alpha1.BGPSession
		err() error
		otherRouter() (metav1.Condition, bool)
	}
	// kernelRoutes is the condition KernelRoutes, nil if there is none.
	kernelRoutes func() *metav1.Condition
	// unreachable are the nodes whose speakers gossip does not reach, which they use port for, with their addresses; nil while that is not known.
	unreachable func() map[string]netip.Addr
	port        uint16
	// draining returns how far the node has announced its routes away, and false while that is not known.
	draining func() (drainState, bool)
	// found is what the LAN has answered to the questions for addresses of other nodes.
	found func() found
	// countsDue raises the signal when new counts, which wait for it, may be written.
	countsDue *time.Timer
	counted   time.Time // when a write brought new counts alone last
}

// run writes the status at first, and whenever changed is raised. It looks each lookPeriod whether it has changed without that: of some of it
// nothing tells. For example kube-proxy in IPVS mode has 192.0.2.10 on kube-ipvs0 before the address is on record for node2, and node1, which
// answers too, hears of the record alone. Nor does the kernel tell that a sysctl has changed.
func (w *statusWriter) run(ctx context.Context, changed signal.Signal) error {
	changed.Raise()
	w.countsDue = time.AfterFunc(0, changed.Raise)
	defer w.countsDue.Stop()
	lookAgain := time.AfterFunc(lookPeriod, changed.Raise)
	defer lookAgain.Stop()
	signal.Every(ctx, changed, statusPeriod, statusPeriod, func(ctx context.Context) error {
		lookAgain.Reset(lookPeriod)
		bounded, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		err := w.write(bounded)
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
	published.Status = w.state(ctx, &node, published.Status)
	if equality.Semantic.DeepEqual(old.Status, published.Status) {
		return nil
	}
	if equality.Semantic.DeepEqual(withoutCounts(&old.Status), withoutCounts(&published.Status)) {
		if wait := countsPeriod - time.Since(w.counted); wait > 0 {
			w.countsDue.Reset(wait)
			return nil
		}
		w.counted = time.Now()
	}
	if err := w.client.Status().Update(ctx, &published); err != nil {
		return fmt.Errorf("status of SpeakerStatus %s: %w", w.node, err)
	}
	return nil
}

// withoutCounts returns a copy of a state without what changes with each Service: counts, and texts that have counts in them.
func withoutCounts(of *v1alpha1.SpeakerState) *v1alpha1.SpeakerState {
	state := of.DeepCopy()
	for i := range state.BGPSessions {
		session := &state.BGPSessions[i]
		session.AdvertisedIPv4, session.AdvertisedIPv6, session.Withheld, session.LastError, session.LastErrorTime = 0, 0, 0, "", nil
	}
	for i := range state.Conditions {
		state.Conditions[i].Message = ""
	}
	return state
}

// state describes the node as it is now. Conditions keep their times from the old state.
func (w *statusWriter) state(ctx context.Context, node *corev1.Node, old v1alpha1.SpeakerState) v1alpha1.SpeakerState {
	claimed := func(ip netip.Addr) bool {
		return w.client.Get(ctx, client.ObjectKey{Name: ip.String()}, &networkingv1.IPAddress{}) == nil
	}
	links := w.links()
	state := v1alpha1.SpeakerState{Conditions: old.Conditions}
	var objects observation.Objects
	for _, list := range []client.ObjectList{&objects.Speakers, &objects.Nodes} {
		if err := w.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to read what other nodes have, taking all addresses for those of this node alone")
		}
	}
	for _, address := range links.DefaultRouteAddresses(ownAddresses(node, claimed, objects.OfOthers(w.node))) {
		if len(state.Addresses) < v1alpha1.MaxAddresses {
			state.Addresses = append(state.Addresses, address.String())
		}
	}
	for _, gateway := range links.DefaultGateways() {
		state.DefaultGateways = append(state.DefaultGateways, gateway.String())
	}
	state.Interfaces = interfaceStates(links, claimed, w.failed())
	state.BGPSessions = w.sessions.published()
	failing := w.failing()
	state.Conflicts = conflicts(failing)
	reachable := w.found()
	state.Unanswered = reachable.published()
	meta.SetStatusCondition(&state.Conditions, addressesAnswer(reachable))
	meta.SetStatusCondition(&state.Conditions, isolatedFromLAN(w.cutOff()))
	if found, err := w.kernelAnswers(ctx, links, claimed); err == nil {
		meta.SetStatusCondition(&state.Conditions, kernelAnswersCondition(found))
	}
	if other, known := w.sessions.otherRouter(); known {
		meta.SetStatusCondition(&state.Conditions, other)
	} else {
		meta.RemoveStatusCondition(&state.Conditions, other.Type)
	}
	meta.SetStatusCondition(&state.Conditions, ready(state.BGPSessions, w.sessions.err(), failing, w.failed()))
	if condition := w.kernelRoutes(); condition != nil {
		meta.SetStatusCondition(&state.Conditions, *condition)
	} else {
		meta.RemoveStatusCondition(&state.Conditions, v1alpha1.ConditionKernelRoutes)
	}
	if drain, known := w.draining(); known {
		meta.SetStatusCondition(&state.Conditions, drain.condition())
	}
	if unreachable := w.unreachable(); unreachable != nil {
		meta.SetStatusCondition(&state.Conditions, peersReachable(unreachable, w.port))
	}
	state.Summarize()
	return state
}

// kernelAnswers returns the addresses for which the kernel of this node answers. The records are read if an interface has a claimed address: no
// other is on record, and mostly there is none.
func (w *statusWriter) kernelAnswers(ctx context.Context, links *link.Snapshot, claimed func(netip.Addr) bool) ([]string, error) {
	var err error
	onRecord := sync.OnceValue(func() func(netip.Addr) bool {
		var records v1alpha1.L2AnnouncementList
		err = w.client.List(ctx, &records, client.UnsafeDisableDeepCopy)
		return recorded(records.Items)
	})
	found := kernelAnswers(links, func(ip netip.Addr) bool { return claimed(ip) && onRecord()(ip) }, readARPIgnore)
	return found, err
}

// peersReachable returns the condition PeersReachable of a SpeakerStatus.
func peersReachable(unreachable map[string]netip.Addr, port uint16) metav1.Condition {
	if len(unreachable) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionPeersReachable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPeersReachable,
			Message: "gossip reaches all speakers that live",
		}
	}
	nodes := slices.Sorted(maps.Keys(unreachable))
	shown := nodes[:min(len(nodes), 5)]
	var places []string
	for _, node := range shown {
		places = append(places, fmt.Sprintf("%s (%s)", node, netip.AddrPortFrom(unreachable[node], port)))
	}
	if more := len(nodes) - len(shown); more > 0 {
		places = append(places, fmt.Sprintf("%d more", more))
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionPeersReachable, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPeersUnreachable,
		Message: fmt.Sprintf("%s run speakers that do not answer; open port %d, TCP and UDP, between all nodes", strings.Join(places, ", "), port),
	}
}

// recorded returns whether an address is on record on layer 2.
func recorded(records []v1alpha1.L2Announcement) func(netip.Addr) bool {
	addresses := map[string]bool{}
	for i := range records {
		for _, address := range records[i].Status.Addresses {
			addresses[address] = true
		}
	}
	return func(ip netip.Addr) bool { return addresses[ip.String()] }
}

// ready returns the condition Ready of a SpeakerStatus.
func ready(sessions []v1alpha1.BGPSession, bgpFailure error, failing []layer2.Status, failed map[string]error) metav1.Condition {
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
	if len(sessions) > 0 && established == 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonNoSession
		condition.Message += "; status.bgpSessions says why"
	}
	if bgpFailure != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonBGPFailed, bgpFailure.Error()
	}
	var failures []string
	inUse := 0
	for _, a := range failing {
		if _, ok := errors.AsType[*layer2.InUseError](a.Err); ok {
			inUse++
		} else {
			failures = append(failures, fmt.Sprintf("%s on %s: %v", a.Address, a.Interface, a.Err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		failures = append(failures, fmt.Sprintf("%s cannot be used for layer 2: %v", name, failed[name]))
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
