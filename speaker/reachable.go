// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// askPeriod is the time between two questions for an address: a frame a second for each node, however many addresses there are.
	askPeriod = time.Second
	// recordsPeriod is how often it is found out anew which addresses this node is to ask for.
	recordsPeriod = 15 * time.Second
)

// reachable asks the LAN for addresses that other nodes hold, again and again, and remembers which do not answer. Records say what should be, and
// each address is asked for by one of the nodes that share a link with its holder, so that the holder is seen as a client sees it. For example node1
// holds 198.51.100.200 on eth0, and its switch port filters ARP: node2, which asks for that address, gets no answer three times, and says so in its
// status and its metrics.
type reachable struct {
	node    string
	objects client.Reader
	// records returns all L2Announcements that the cache has. They are the cache's own.
	records func(context.Context) ([]*v1alpha1.L2Announcement, error)
	status  signal.Signal // raised when found has changed
	// surroundings is a copy of the latest snapshot of the loop, without Services.
	surroundings atomic.Pointer[decision.Snapshot]
	results      atomic.Pointer[found]
	// ask asks a link for an address, as lan.Stations does, once.
	ask func(ctx context.Context, on string, own, address netip.Addr) ([]net.HardwareAddr, error)

	// What follows is owned by the goroutine in run.

	tracker  reachability.Tracker
	services map[netip.Addr][]types.NamespacedName // that have an address on record
	listed   time.Time
}

// found is what the LAN has answered.
type found struct {
	// asks is set once this node has asked for an address, or has none to ask for. It is not while the node is cut off or isolated.
	asks       bool
	unanswered []reachability.Target
	answered   map[family.Family]int
}

func newReachable(
	node string, objects client.Reader, records func(context.Context) ([]*v1alpha1.L2Announcement, error), status signal.Signal,
) *reachable {
	return &reachable{node: node, objects: objects, records: records, status: status, ask: askOnce}
}

// askOnce asks the link of an interface for an address.
func askOnce(ctx context.Context, on string, own, address netip.Addr) ([]net.HardwareAddr, error) {
	iface, err := net.InterfaceByName(on)
	if err != nil {
		return nil, err
	}
	return lan.Stations(ctx, iface, own, address, 1)
}

// restore takes in which addresses did not answer the speaker of this node before this one, as its SpeakerStatus says. Without it they
// would seem to answer until each has been asked for again, which takes minutes with hundreds of addresses. It is to return before run
// begins and before the status is written.
func (r *reachable) restore(ctx context.Context) error {
	var published v1alpha1.SpeakerStatus
	if err := r.objects.Get(ctx, client.ObjectKey{Name: r.node}, &published); err != nil {
		return client.IgnoreNotFound(err)
	}
	var unanswered []reachability.Target
	for _, a := range published.Status.Unanswered {
		if address, err := netip.ParseAddr(a.Address); err == nil {
			unanswered = append(unanswered, reachability.Target{Address: address, Node: a.Node, Interface: a.Interface})
		}
	}
	r.tracker.Restore(unanswered)
	r.publish(false)
	return nil
}

// follow takes in a new snapshot of the loop's.
func (r *reachable) follow(s *decision.Snapshot) {
	surroundings := *s
	r.surroundings.Store(&surroundings)
}

// found returns what was found out. Any goroutine may call it.
func (r *reachable) found() found {
	if results := r.results.Load(); results != nil {
		return *results
	}
	return found{}
}

// run asks until the context ends.
func (r *reachable) run(ctx context.Context) error {
	pace := time.NewTicker(askPeriod)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-pace.C:
			if err := r.step(ctx, now); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).V(2).Info("Could not ask for an address of another node", "err", err)
			}
		}
	}
}

// step asks for one address, and takes the answer in. A node that hears nothing by its own link, or nobody at all, asks for nothing, and
// says nothing of others: what it heard before then may be the fault of its own link.
func (r *reachable) step(ctx context.Context, now time.Time) error {
	s := r.surroundings.Load()
	if s == nil {
		return nil
	}
	if s.CutOff || s.Isolated {
		r.tracker, r.listed = reachability.Tracker{}, time.Time{}
		r.publish(false)
		return nil
	}
	if now.Sub(r.listed) >= recordsPeriod {
		if err := r.list(ctx, s); err != nil {
			return err
		}
		r.listed = now
	}
	target, ok := r.tracker.Next(now)
	if !ok {
		r.publish(true)
		return nil
	}
	answers, err := r.answers(ctx, target)
	if err != nil {
		return fmt.Errorf("asking for %s of %s: %w", target.Address, target.Node, err)
	}
	if answers || r.expected(ctx, s, target) {
		r.tracker.Heard(target, answers)
	} else {
		r.tracker.Excuse(target)
		r.listed = time.Time{} // It is another node's by now, or nobody's.
	}
	r.publish(true)
	return nil
}

// publish makes the results visible to found.
func (r *reachable) publish(asks bool) {
	next := found{asks: asks, unanswered: r.tracker.Unanswered(), answered: map[family.Family]int{}}
	for _, t := range r.tracker.Answered() {
		next.answered[family.Of(t.Address)]++
	}
	next.unanswered = next.unanswered[:min(len(next.unanswered), v1alpha1.MaxUnanswered)]
	before := r.found()
	r.results.Store(&next)
	if before.asks != asks || !slices.Equal(before.unanswered, next.unanswered) {
		r.status.Raise()
	}
}

// list finds out which addresses this node is to ask for: those of which it is the one that asks, see asker.
func (r *reachable) list(ctx context.Context, s *decision.Snapshot) error {
	records, err := r.records(ctx)
	if err != nil {
		return err
	}
	var targets []reachability.Target
	r.services = map[netip.Addr][]types.NamespacedName{}
	type links struct {
		lan.Key
		family family.Family
	}
	askers := map[links][]string{}
	for _, record := range records {
		if record.Status.Node == "" || record.Status.Node == r.node || len(record.Status.Interfaces) == 0 {
			continue
		}
		key := lan.Key{Node: record.Status.Node, Interface: record.Status.Interfaces[0]}
		for _, text := range record.Status.Addresses {
			address, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			of := links{key, family.Of(address)}
			if _, known := askers[of]; !known {
				askers[of] = onLinkOf(s, key, of.family)
			}
			if asker(address, askers[of]) != r.node {
				continue
			}
			if len(r.services[address]) == 0 {
				targets = append(targets, reachability.Target{Address: address, Node: key.Node, Interface: key.Interface})
			}
			r.services[address] = append(r.services[address], types.NamespacedName{Namespace: record.Service.Namespace, Name: record.Service.Name})
		}
	}
	slices.SortFunc(targets, func(a, b reachability.Target) int { return a.Address.Compare(b.Address) })
	r.tracker.Set(targets)
	return nil
}

// onLinkOf returns the nodes, sorted, that have an interface on the link of another node's, whose speakers are alive, and that can ask
// there for addresses of a family. A neighbour solicitation needs an IPv6 address to ask from, while ARP asks from 0.0.0.0 too: a node that
// shares 198.51.100.0/24 with the other, and no IPv6 subnet, asks for 198.51.100.200 and not for 2001:db8:51::1000.
func onLinkOf(s *decision.Snapshot, of lan.Key, asking family.Family) (nodes []string) {
	theirs := s.Nodes[of.Node].Interfaces
	i := slices.IndexFunc(theirs, func(i decision.Interface) bool { return i.Name == of.Interface })
	if i < 0 {
		return nil
	}
	for name, node := range s.Nodes {
		if name != of.Node && (name == s.Node || s.Alive(name)) &&
			slices.ContainsFunc(node.Interfaces, func(ours decision.Interface) bool {
				return shareSubnet(ours.Prefixes, theirs[i].Prefixes, asking)
			}) {
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// shareSubnet reports whether two interfaces have a subnet in common by which one can ask for addresses of a family.
func shareSubnet(ours, theirs []netip.Prefix, asking family.Family) bool {
	return slices.ContainsFunc(ours, func(p netip.Prefix) bool {
		return !p.IsSingleIP() && slices.Contains(theirs, p) && (asking == family.IPv4 || p.Addr().Is6())
	})
}

// asker returns the one of some nodes that asks for an address, "" if there are none: by a hash, so that the addresses of a holder spread over all
// others, and every speaker comes to the same answer.
func asker(address netip.Addr, nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	return nodes[xxhash.Sum64(address.AsSlice())%uint64(len(nodes))]
}

// answers asks for an address, and reports whether the node that is to answer does.
func (r *reachable) answers(ctx context.Context, t reachability.Target) (bool, error) {
	var speakers v1alpha1.SpeakerStatusList
	if err := r.objects.List(ctx, &speakers, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	link, ok := linkTo(r.node, speakers.Items, t.Node, t.Interface)
	if !ok {
		return false, fmt.Errorf("no interface of this node is on the link of %s", t.Interface)
	}
	found, err := r.ask(ctx, link.Via, ownOn(&link, t.Address), t.Address)
	holder := net.HardwareAddr(link.MAC[:]).String()
	return slices.ContainsFunc(found, func(mac net.HardwareAddr) bool { return mac.String() == holder }), err
}

// linkTo returns how a node reaches an interface of another node on the link, by what the SpeakerStatuses say; any of its interfaces for
// "".
func linkTo(self string, speakers []v1alpha1.SpeakerStatus, node, iface string) (lan.Target, bool) {
	var own []v1alpha1.InterfaceState
	for i := range speakers {
		if speakers[i].Name == self {
			own = speakers[i].Status.Interfaces
		}
	}
	targets := onLinks(self, own, speakers)
	i := slices.IndexFunc(targets, func(t lan.Target) bool { return t.Node == node && (iface == "" || t.Interface == iface) })
	if i < 0 {
		return lan.Target{}, false
	}
	return targets[i], true
}

// ownOn returns this node's address of the family of an address on a link, the zero Addr where it has none.
func ownOn(link *lan.Target, address netip.Addr) netip.Addr {
	for _, pair := range link.Pairs {
		if family.Of(pair.Own) == family.Of(address) {
			return pair.Own
		}
	}
	return netip.Addr{}
}

// expected reports whether the node of a Target is to answer at the moment: it is on record, and by all that is known it announces the
// address.
// A holder whose Service has no ready endpoint, for example, stays on record and answers for nothing.
func (r *reachable) expected(ctx context.Context, s *decision.Snapshot, t reachability.Target) bool {
	var o observation.Objects
	for _, name := range r.services[t.Address] {
		r.read(ctx, &o, name)
	}
	snapshot := *s
	snapshot.Services = o.Snapshot("", nil).Services
	for i := range snapshot.Services {
		if snapshot.Services[i].Holder != t.Node {
			continue
		}
		for _, x := range decision.Explain(&snapshot, snapshot.Services[i].Name) {
			if x.Node == t.Node && x.Address == t.Address && x.Peer == "" && x.Reason == decision.Announced {
				return true
			}
		}
	}
	return false
}

// read adds a Service to the objects, with its endpoints, claims and record. What cannot be read is not there.
func (r *reachable) read(ctx context.Context, o *observation.Objects, name types.NamespacedName) {
	var svc corev1.Service
	var record v1alpha1.L2Announcement
	if r.objects.Get(ctx, name, &svc) != nil || r.objects.Get(ctx, client.ObjectKey{Name: name.Namespace + "." + name.Name}, &record) != nil {
		return
	}
	o.Services.Items, o.Announcements.Items = append(o.Services.Items, svc), append(o.Announcements.Items, record)
	var endpoints discoveryv1.EndpointSliceList
	if r.objects.List(ctx, &endpoints, client.InNamespace(name.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: name.Name}) == nil {
		o.EndpointSlices.Items = append(o.EndpointSlices.Items, endpoints.Items...)
	}
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		var claim networkingv1.IPAddress
		if address, err := netip.ParseAddr(ingress.IP); err == nil && r.objects.Get(ctx, client.ObjectKey{Name: address.String()}, &claim) == nil {
			o.Claims.Items = append(o.Claims.Items, claim)
		}
	}
}

// published returns what a SpeakerStatus lists.
func (f found) published() (all []v1alpha1.UnansweredAddress) {
	for _, t := range f.unanswered {
		all = append(all, v1alpha1.UnansweredAddress{Address: t.Address.String(), Node: t.Node, Interface: t.Interface})
	}
	return all
}

// addressesAnswer returns the condition AddressesAnswer of a SpeakerStatus. Its message has no counts of what answers, which change with
// each Service.
func addressesAnswer(f found) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionAddressesAnswer, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonHoldersAnswer,
		Message: "the nodes that hold addresses on layer 2 answer for those that this node asks for",
	}
	if len(f.unanswered) == 0 {
		if !f.asks {
			condition.Status, condition.Reason = metav1.ConditionUnknown, v1alpha1.ReasonNotAsked
			condition.Message = "this node has asked for no address since its speaker started, or since it was cut off from its link"
		}
		return condition
	}
	var texts []string
	for _, t := range f.unanswered[:min(len(f.unanswered), 3)] {
		texts = append(texts, fmt.Sprintf("node %s does not answer for %s on the link of its %s", t.Node, t.Address, t.Interface))
	}
	if more := len(f.unanswered) - 3; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonNoAnswer
	condition.Message = strings.Join(texts, "; ") + ": look for a switch or a firewall that drops ARP or neighbour solicitations"
	return condition
}
