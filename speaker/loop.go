// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
)

const (
	// settle is how long changes of configuration and nodes in the API are gathered before a new decision, so that a burst of them costs one,
	// and how long those of Services and their endpoints are after such a decision: the first is followed at once. Changes that a failure
	// causes (of gossip, of interfaces) are never delayed.
	settle = 20 * time.Millisecond
	// auditPeriod is how often everything is read and decided anew, in case that a change was missed. With 10,000 Services that takes 0.3 s of a
	// processor, as much as a thousand changes.
	auditPeriod = 5 * time.Minute
	// lookPeriod is how often the surroundings are looked at if nothing changes: the kernel says nothing of a change of its routes, but of default
	// ones, and they decide where peers are told to send.
	lookPeriod = 30 * time.Second
	// manyAddresses is from how many changes on all announcements are declared anew, since each change moves those behind it.
	manyAddresses = 100
)

// loop decides what the parts of a speaker announce, whenever something has changed. One goroutine runs it.
type loop struct {
	*Speaker
	members   *membership.Members
	sessions  *sessions
	roster    *roster
	isolation isolation
	readiness readiness
	answers   <-chan answer // delivers what the API says; nil while it is not asked
	heard     *answer       // what it said last, until a decision has taken it in
	// arbitration settles disputes with other speakers; disputed are the names of the records that are about them.
	arbitration *arbitration
	disputed    []string
	// reconnection says what is only listened for after the node was off the LAN.
	reconnection reconnection
	asksLAN      bool // when the latest decision is announced
	watchdog     *watchdog
	handover     handover
	kept         kept
	peering      peering
	timing       timing
	// kernelTiming is for what other routing software of the node announces.
	kernelTiming timing
	routesDue    *time.Timer // fires when more routes are due
	// address has those of this node, and fail ends the speaker with an error.
	address hostAddress
	fail    func(error)
	// due fires when a decision by what was seen already would be another: each decision sets it.
	due *time.Timer
}

// newLoop returns the loop of a speaker that has joined the others.
func newLoop(s *Speaker, members *membership.Members, sessions *sessions, roster *roster) *loop {
	served := newlyServed{}
	return &loop{
		timing: timing{served: served}, kernelTiming: timing{served: served},
		Speaker: s, members: members, sessions: sessions, roster: roster, readiness: readiness{}, due: time.NewTimer(time.Hour),
		routesDue: time.NewTimer(time.Hour),
		handover:  handover{node: s.cfg.Node, drainTime: s.cfg.DrainTime}, arbitration: newArbitration(s.cfg.Node),
		watchdog: newWatchdog(), address: hostAddress{addresses: s.cfg.hostIPs(), fixed: s.cfg.HostIPFixed}, fail: func(error) {},
	}
}

// run decides anew whenever something has changed, until the context ends.
func (l *loop) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	linkChanges := l.links.Subscribe()
	startupHoldOver, discoveryOver := time.After(startupHold), time.After(discoveryWindow)
	check := time.NewTicker(isolationCheck)
	defer check.Stop()
	audit := time.NewTicker(auditPeriod)
	defer audit.Stop()
	forwards := l.kubeProxy.found
	lookAgain := time.NewTicker(lookPeriod)
	defer lookAgain.Stop()
	l.feed.others.Raise()
	gathered, rivals := signal.Gather(ctx, l.feed.others, settle), signal.Gather(ctx, l.rivals.changed, settle)
	paced := signal.Pace(ctx, l.feed.objects, settle)
	defer l.health.ended()
	for ctx.Err() == nil {
		l.health.turned(time.Now())
		decide := l.decide
		select {
		case <-ctx.Done():
			return
		case <-gathered:
		case <-rivals:
		case <-paced:
			decide = l.follow
		case <-audit.C:
			decide = l.audit
		case <-linkChanges:
			l.status.Raise()
		case <-l.routers.Changes():
		case <-l.members.Changes():
		case <-l.kernels.changes():
		case said := <-l.kernels.heard:
			if !l.kernels.Hear(time.Now(), said) {
				continue
			}
		case <-l.kernels.due.C:
		case <-l.due.C:
		case <-l.routesDue.C:
			l.setSessions()
			continue
		case <-lookAgain.C:
		case <-forwards:
			forwards = nil
		case <-startupHoldOver:
		case <-discoveryOver:
		case <-check.C:
			l.ask(ctx)
			l.askLAN()
			if err := l.address.Check(time.Now(), l.links.Snapshot(), l.ownNode()); err != nil {
				l.fail(err)
			}
			if !l.passOver(time.Now()) {
				continue
			}
		case a := <-l.answers:
			l.answers = nil
			if !l.heardAPI(logger, a) {
				continue
			}
		}
		if err := decide(ctx); err != nil && ctx.Err() == nil {
			logger.Error(err, "Failed to decide what to announce, keeping what is announced")
		}
	}
}

// ask asks the API, if it is to be asked and is not being asked.
func (l *loop) ask(ctx context.Context) {
	if !l.isolation.asks() && len(l.disputed)+len(l.watchdog.waits) == 0 || l.answers != nil {
		return
	}
	answers := make(chan answer, 1)
	l.answers = answers
	state, names := l.isolation, l.disputed
	go func() { answers <- l.probe.Ask(ctx, state, names) }()
}

// ownNode returns the Node of this speaker, nil while it is not known.
func (l *loop) ownNode() *corev1.Node {
	if l.kept.few == nil {
		return nil
	}
	nodes := l.kept.few.Nodes.Items
	if i := slices.IndexFunc(nodes, func(n corev1.Node) bool { return n.Name == l.cfg.Node }); i >= 0 {
		return &nodes[i]
	}
	return nil
}

// passOver reports whether a node that is to put itself on record has had enough time, so that another one is to be elected.
func (l *loop) passOver(now time.Time) bool {
	apiAnswers := now.Sub(l.isolation.answered) < watchdogPatience
	return l.watchdog.Update(now, l.kept.decider.Awaited(), l.writes.latest(), apiAnswers)
}

// askLAN asks whether the speakers of other nodes answer for what is disputed, or only listened for, and, if this one is isolated, for anything that
// it announces.
func (l *loop) askLAN() {
	listening, _ := l.reconnection.Listening(time.Now())
	addresses := slices.Concat(l.arbitration.Disputed(), listening)
	if l.isolation.isolated {
		for _, s := range l.layer2.Announced() {
			addresses = append(addresses, s.Address)
		}
	}
	if len(addresses) > 0 {
		slices.SortFunc(addresses, netip.Addr.Compare)
		l.layer2.Ask(slices.Compact(addresses))
	}
}

// arbitrate takes in what was heard of other speakers that use addresses of this node, and what the API has said of them since. It returns
// after how long a decision without any news would be another.
func (l *loop) arbitrate(ctx context.Context, now time.Time, alive membership.Snapshot) (wait time.Duration) {
	heard := l.rivals.take(l.kept.few.Speakers.Items)
	for address, node := range heard {
		l.arbitration.Hear(now, address, node)
		l.reconnection.Hear(now, address)
	}
	if l.heard == nil && l.isolation.isolated {
		l.heard = &answer{outOfReach: true} // as it was a moment ago
	}
	if l.heard != nil {
		if !l.heard.outOfReach {
			l.reconnection.Answered(l.heard.asked)
		}
		l.roster.Lives(l.arbitration.Settle(*l.heard, now, heldBy(l.kept.index.Records()), alive.Has))
		l.heard = nil
	}
	wait = l.arbitration.Expire(now)
	l.disputed = nil
	listening, _ := l.reconnection.Listening(now)
	if addresses := slices.Concat(l.arbitration.Disputed(), listening); len(addresses) > 0 {
		l.disputed = recordsAbout(addresses, l.kept.index)
		if len(heard) > 0 {
			l.ask(ctx)
		}
	}
	return wait
}

// listen takes in by which links this node is on the LAN. It returns the addresses for which this node does not answer: those that it leaves to rivals,
// and those that it only listens for since it is back on a link. It also returns after how long they would be others.
func (l *loop) listen(ctx context.Context, now time.Time, usable []layer2.Interface, nodes map[string]decision.Node) (map[netip.Addr]bool, time.Duration) {
	var names, silent []string
	for _, i := range usable {
		names = append(names, i.Name)
	}
	for _, i := range nodes[l.cfg.Node].Interfaces {
		if i.Silent {
			silent = append(silent, i.Name)
		}
	}
	l.reconnection.Update(now, names, l.kernels.own.CutOff, silent, l.heldBack)
	l.asksLAN = l.reconnection.Due(now)
	listening, wait := l.reconnection.Listening(now)
	if l.asksLAN {
		l.disputed = recordsAbout(slices.Concat(l.arbitration.Disputed(), listening), l.kept.index)
		l.ask(ctx)
	}
	yielded := l.arbitration.Yielded()
	for _, address := range listening {
		if yielded == nil {
			yielded = map[netip.Addr]bool{}
		}
		yielded[address] = true
	}
	return yielded, wait
}

// heldBack returns the addresses for which this node is on record, but for those that it announces now by other interfaces than those that are back. For
// example node1 holds 192.0.2.10 on eth0 and 198.51.100.10 on eth1: when eth1 is back it goes on answering for the first.
func (l *loop) heldBack(back []string) (addresses []netip.Addr) {
	isBack := func(name string) bool { return slices.Contains(back, name) }
	for record := range l.kept.index.Records() {
		if record.Status.Node != l.cfg.Node {
			continue
		}
		for _, text := range record.Status.Addresses {
			address, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			now, _ := l.kept.decider.Announcement(address)
			if now.Listen || slices.ContainsFunc(now.Interfaces, isBack) || len(now.Interfaces) == 0 {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// heardAPI takes in what the API said, and reports whether that changes what may be announced.
func (l *loop) heardAPI(logger klog.Logger, a answer) (changed bool) {
	l.records.Learn(a.records)
	l.heard = &a
	changed = l.isolation.Step(a) || len(l.disputed) > 0
	if isolated := l.isolation.isolated; l.isolated.Swap(isolated) != isolated {
		logger.Info("Changed isolation: without the API and any other speaker nothing is taken over on layer 2", "isolated", isolated)
	}
	return changed
}

// decide looks at everything that a decision depends on, and hands what follows from it to the announcers.
func (l *loop) decide(ctx context.Context) error { return l.step(ctx, true) }

// follow does so with what has changed of Services, and of what layer 2 has found out. Nothing else has.
func (l *loop) follow(ctx context.Context) error { return l.step(ctx, false) }

// audit reads and decides everything anew.
func (l *loop) audit(ctx context.Context) error {
	if err := l.synchronize(ctx); err != nil {
		return err
	}
	if err := l.decide(ctx); err != nil {
		return err
	}
	changes := l.kept.decider.Full(l.kept.surroundings)
	if len(changes.Layer2) > 0 {
		klog.FromContext(ctx).Error(nil, "Found announcements that should have changed before", "addresses", changes.Layer2)
	}
	l.announce(changes, nil)
	return nil
}

// step takes in what has changed, looks anew at the surroundings of the Services if it is told to or something of them has changed, and
// decides.
func (l *loop) step(ctx context.Context, look bool) error {
	changed, err := l.read(ctx)
	if err != nil {
		return err
	}
	difference := l.kept.index.Take()
	if l.kept.surroundings != nil { // What there is at the start is not new.
		l.timing.served.note(time.Now(), difference.Served)
	}
	links := l.links.Snapshot()
	if look || changed || slices.ContainsFunc(difference.Claimed, func(ip netip.Addr) bool { return has(links, ip) }) {
		l.look(ctx)
	}
	snapshot := l.kept.surroundings
	snapshot.Probed = probed(l.cfg.Node, l.layer2.Lookup(), l.kept.published)
	l.announce(l.kept.decider.Update(snapshot, difference.Services), difference.Names)
	if l.asksLAN { // for what was declared just now
		l.asksLAN = false
		l.askLAN()
	}
	return nil
}

// look takes a new snapshot of the surroundings of the Services: the nodes, who is alive, and the kernel.
func (l *loop) look(ctx context.Context) {
	o, index := l.kept.few, l.kept.index
	links := l.links.Snapshot()
	usable, own := usableInterfaces(links), interfaceStates(links, index.Claimed, l.layer2.Failed())
	l.layer2.SetInterfaces(usable)
	l.layer2.SetSpeakers(speakerMACs(o.Speakers.Items))
	speakers := o.SpeakerAddresses()
	alive := l.members.Alive()
	l.members.SetPeers(speakers)
	now := time.Now()
	if keys := membershipKeys(o.Secrets.Items, l.cfg.SecretsNamespace); len(keys) > 0 {
		if err := l.members.SetKeys(now, keys...); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to take over the key of gossip, going on with the one before")
		}
	}
	rivalWait := l.arbitrate(ctx, now, alive)
	presence := l.roster.Update(now, alive, seenByAPI{known: speakers, ready: o.IsReady(), written: l.writes.latest()})
	l.showUnreachable(presence.unreachable, speakers)
	l.isolation.alone = presence.alone
	if l.isolation.Doubt(now, presence.doubtful) {
		l.ask(ctx)
	}

	snapshot := o.Surroundings(l.kept.config, l.cfg.Node, own)
	snapshot.Alive = presence.alive
	wait := min(presence.wait, rivalWait, l.readiness.Update(now, snapshot.Nodes, presence.alive))
	away, gone := l.kernels.Update(ctx, now, presence,
		append(onLinks(l.cfg.Node, own, o.Speakers.Items), gateways(links)...), usable, snapshot.Nodes)
	l.roster.GiveUp(gone)
	l.roster.Heard(away)
	snapshot.Away, snapshot.Unreachable = away, both(presence.unreachable, away)
	yielded, listenWait := l.listen(ctx, now, usable, snapshot.Nodes)
	snapshot.Yielded, snapshot.Passed = yielded, l.watchdog.Passed()
	here := func(node string) bool { return presence.alive(node) || snapshot.Away[node] }
	l.liveness.latest.Put(reportOn(l.cfg.Node, alive, here, speakers, o))
	if l.kernels.publish() {
		l.status.Raise()
	}
	snapshot.CutOff = l.kernels.isCutOff()
	snapshot.NotForwarding = !l.kubeProxy.forwards.Load()
	snapshot.StartupHold = presence.startupHold || l.isolation.holds() || snapshot.NotForwarding
	snapshot.Isolated = l.isolation.isolated
	l.due.Reset(min(wait, listenWait, l.handover.Begin(now, snapshot, alive.Alone)))
	l.showDrain(snapshot)
	l.peering.identify(snapshot)
	choice := l.choice()
	snapshot.Neighbors = l.neighbors(snapshot.UnnumberedInterfaces(), links)
	snapshot.Ends = decision.FindEnds(snapshot, links, choice)
	l.peering.keepEnds(snapshot.Config.Peers, snapshot.Ends)
	snapshot.Paths = l.links.Paths(decision.Destinations(snapshot), choice)
	snapshot.Password = l.peering.passwordsFor(l.kept.decider.Sessions(), func(key config.SecretKey) (bgp.Password, error) {
		return o.Password(l.cfg.SecretsNamespace, key)
	})
	l.kept.surroundings, l.kept.published = snapshot, snapshot.Probed
	l.reachable.follow(snapshot)
	l.health.complete.Store(presence.complete && presence.met)
	if presence.returned {
		// A speaker that comes back may have announced our addresses on its side of a partition.
		l.layer2.Refresh("another speaker came back")
	}
}

// choice says which addresses this node names to others.
func (l *loop) choice() link.Choice {
	ofOthers := l.kept.few.OfOthers(l.cfg.Node)
	if !maps.Equal(ofOthers, l.kept.ofOthers) {
		l.status.Raise() // It names addresses too.
	}
	l.kept.ofOthers = ofOthers
	return ownAddresses(l.ownNode(), l.kept.index.Claimed, ofOthers)
}

// announce hands what has changed to the announcers, and the records of the Services that were decided or whose objects have changed to the
// recorder.
func (l *loop) announce(changes decision.Changes, names []types.NamespacedName) {
	decider := &l.kept.decider
	l.announceLayer2(changes)
	if changes.BGP {
		l.setSessions()
	}
	w := newWanted()
	if changes.All {
		w.services = maps.Clone(l.kept.index.LoadBalancers())
	}
	if l.kept.surroundings.Isolated {
		// An isolated speaker has no API to write to. What it was to write before is void: it may have taken addresses from nodes that live, when
		// it lost sight of one after the other.
		for name := range w.services {
			w.services[name] = nil
		}
		l.records.Want(w)
		return
	}
	for _, name := range slices.Concat(changes.Services, names) {
		w.services[name] = l.kept.index.LoadBalancers()[name]
	}
	for name := range w.services {
		record, held, kept := decider.Record(name)
		if held {
			w.records[name] = record
		}
		w.kept[name] = kept
		w.announcements[name] = l.kept.index.Record(name)
	}
	l.records.Want(w)
}

// announceLayer2 hands what has changed of layer 2 to it. A decision of everything declares everything, since the first one of a loop does
// not know what an earlier loop has declared. For example this speaker stood by and answered for 192.0.2.10, and the Service with that
// address was deleted before its turn came: no change names the address, and Set withdraws it.
func (l *loop) announceLayer2(changes decision.Changes) {
	decider := &l.kept.decider
	if changes.All || len(changes.Layer2) > manyAddresses {
		l.layer2.Set(announcements(decider.Desired()))
		return
	}
	var announced []layer2.Announcement
	var withdrawn []netip.Addr
	for _, ip := range changes.Layer2 {
		if a, ok := decider.Announcement(ip); ok {
			announced = append(announced, layer2.Announcement(a))
		} else {
			withdrawn = append(withdrawn, ip)
		}
	}
	if len(changes.Layer2) > 0 {
		l.layer2.Update(announced, withdrawn)
	}
}

// neighbors has the routers of some interfaces looked for, and returns what was found so far.
func (l *loop) neighbors(names []string, links *link.Snapshot) map[string]decision.Neighbor {
	l.routers.Set(names, links)
	found := map[string]decision.Neighbor{}
	for _, name := range names {
		address, err := l.routers.Peer(name)
		found[name] = decision.Neighbor{Address: address, Err: err}
	}
	return found
}

// setSessions hands the sessions of the latest decision over, with the routes that are due.
func (l *loop) setSessions() {
	desired := l.kept.decider.Sessions()
	var wait time.Duration
	all := desired.BGP
	desired.BGP, wait = l.timing.Apply(time.Now(), all, l.kept.decider.Prefixes())
	l.sessions.hold(all, desired.BGP)
	l.sessions.Set(desired, l.peering.handOver(l.kept.surroundings, desired.Peers))
	if !l.kept.surroundings.NotForwarding { // Until then the kernel keeps what an earlier speaker has left there.
		var kernelWait time.Duration
		desired.Kernel, kernelWait = l.kernelTiming.ApplyKernel(time.Now(), desired.Kernel, l.kept.decider.IsLocal)
		l.kernel.Set(desired)
		wait = min(wait, kernelWait)
	}
	l.routesDue.Reset(wait)
}

// showUnreachable has the status of this node say which speakers gossip does not reach, with their addresses.
func (l *loop) showUnreachable(nodes map[string]bool, addresses map[string][]netip.Addr) {
	unreachable := map[string]netip.Addr{}
	for node := range nodes {
		if of := addresses[node]; len(of) > 0 {
			unreachable[node] = of[0]
		}
	}
	if before := l.unreachable.Swap(&unreachable); before == nil || !maps.Equal(*before, unreachable) {
		l.status.Raise()
	}
}

// both returns the names that are in two sets.
func both(a, b map[string]bool) map[string]bool {
	common := map[string]bool{}
	for name := range a {
		if b[name] {
			common[name] = true
		}
	}
	return common
}

// recordsAbout returns the names of the L2Announcements of the Services that publish one of the addresses.
func recordsAbout(addresses []netip.Addr, index *observation.Index) (names []string) {
	for _, address := range addresses {
		for name := range index.Publishers(address) {
			names = append(names, name.Namespace+"."+name.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
