// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// newBackoff returns the delays after which an interface that cannot be opened, or cannot join a group, is tried again: 0.1 s, then twice
// as long each time, up to 10 s. The first delay covers an interface that is set down and up again.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 10, Cap: maxBackoff}
}

// maxBackoff is the longest delay. An interface that was open for longer than that begins with the shortest delay again.
const maxBackoff = 10 * time.Second

// A port is an interface with at least one announced address. The goroutine in Run owns all fields except those that handle uses.
type port struct {
	iface     Interface
	mac       mac
	counters  map[Protocol]*counters
	conflicts *conflictSet
	stations  *atomic.Pointer[stationSet] // of this node
	speakers  *atomic.Pointer[stationSet] // of all nodes with a speaker
	// addresses are those that the readers look at.
	addresses addressSet
	changing  sync.RWMutex // held by readers, and by the goroutine in Run while it changes addresses

	// wire and closed are nil while the port is not open; closed is closed before the wire is.
	wire   wire
	closed chan struct{}

	err         error     // why wire is nil
	failedSince time.Time // since when wire is nil, while err is set
	backoff     wait.Backoff
	retryAt     time.Time
	openedAt    time.Time

	tasks    map[netip.Addr]*task // of all addresses while the port is open
	groups   map[netip.Addr]int   // solicited-node group => addresses in it
	unjoined map[netip.Addr]error // the groups that could not be joined
	refused  bool                 // whether unjoined has changed since joinSome has reported it
	joins    []netip.Addr         // the groups that are to be joined; some may be needed no more
	joinDue  time.Time            // the zero Time if there are none
	// allMulticast says that all multicast is received.
	allMulticast bool
	defended     map[netip.Addr]time.Time

	queues map[Protocol]*probeQueue
	pace   *pace
}

func newPort(iface Interface, a *Announcer) *port {
	p := &port{
		iface: iface,
		counters: map[Protocol]*counters{
			ARP: a.metrics.counters(ARP, iface.Name),
			NDP: a.metrics.counters(NDP, iface.Name),
		},
		conflicts: a.conflicts,
		stations:  &a.stations,
		speakers:  &a.speakers,
		backoff:   newBackoff(),
		tasks:     map[netip.Addr]*task{},
		groups:    map[netip.Addr]int{},
		unjoined:  map[netip.Addr]error{},
		defended:  map[netip.Addr]time.Time{},
		queues:    map[Protocol]*probeQueue{ARP: newProbeQueue(), NDP: newProbeQueue()},
		pace:      newPace(a.config.Rate),
	}
	copy(p.mac[:], iface.MAC)
	p.addresses = addressSet{}
	return p
}

// handle decides about a received frame. The readers call it.
func (p *port) handle(protocol Protocol, frame []byte, send func([]byte) error) {
	decide := decideARP
	if protocol == NDP {
		decide = decideNDP
	}
	p.changing.RLock()
	o, c := decide(frame, p.mac, p.addresses), p.counters[protocol]
	p.changing.RUnlock()
	switch {
	case o.reason != DropConflict:
	case p.stations.Load().has(o.station):
		o.reason = DropOwnFrame // Two interfaces of this node that are on one LAN hear each other.
	case o.station != o.source && p.speakers.Load().has(o.station):
		o.reason = DropNotAnnounced // A deputy says where its holder is.
	case o.listening && !p.speakers.Load().has(o.station):
		o.reason = DropNotAnnounced // The node that announces the address is in conflict with that station.
	case o.probing && p.speakers.Load().has(o.station):
		o.reason = DropNotAnnounced // Two speakers settle by the record which of them announces, and not by probes.
	}
	if o.reason == dropNone {
		if err := send(o.reply); err != nil {
			o.reason = DropSendFailed
		}
	}
	switch o.reason {
	case dropNone:
		c.answers.Inc()
		return
	case DropConflict:
		c.conflicts.Inc()
		p.conflicts.add(conflict{port: p, protocol: protocol, address: o.address, station: o.station})
	}
	c.dropped[o.reason].Inc()
}

// announce tells all neighbours where an address is, in some forms. It reports whether the socket had room for that.
func (p *port) announce(address netip.Addr, forms []form) (accepted bool) {
	if address.Is6() {
		return p.send(NDP, unsolicitedAdvertisement(p.mac, address), p.counters[NDP].announcements)
	}
	request, reply := gratuitousARP(p.mac, address)
	for _, f := range forms {
		frame := request
		if f == formReply {
			frame = reply
		}
		if !p.send(ARP, frame, p.counters[ARP].announcements) {
			return false
		}
	}
	return true
}

// probe asks all neighbours whether one of them has an address. It reports whether the socket had room for that.
func (p *port) probe(address netip.Addr, nonce *ndp.Nonce) (accepted bool) {
	protocol, frame := protocolOf(address), []byte(nil)
	if protocol == NDP {
		frame = probeNDP(p.mac, address, nonce)
	} else {
		frame = probeARP(p.mac, address)
	}
	return p.send(protocol, frame, p.counters[protocol].probes)
}

// countDropped counts the frames that the kernel had to drop.
func (p *port) countDropped() {
	if p.wire == nil {
		return
	}
	for protocol, c := range p.counters {
		c.dropped[DropReceiveBuffer].Add(float64(p.wire.dropped(protocol)))
	}
}

// ask asks whether another speaker uses an address that is announced, handed over or listened for, unless too much was sent of late.
func (p *port) ask(address netip.Addr, now time.Time) {
	e := p.addresses[address]
	isOthers := e != nil && e.as != mac{} && e.as != p.mac
	if e == nil || p.wire == nil || isOthers || !e.listens && e.probe.state != probeFree || !p.pace.limiter.AllowN(now, 1) {
		return
	}
	if address.Is6() {
		p.send(NDP, askNDP(p.mac, address), p.counters[NDP].probes)
	} else {
		p.send(ARP, probeARP(p.mac, address), p.counters[ARP].probes)
	}
}

// send sends a frame and counts it. It reports whether the socket had room for it: if not, it is to be sent again. With any other error a
// reader will soon fail too.
func (p *port) send(protocol Protocol, frame []byte, sent prometheus.Counter) (accepted bool) {
	err := p.wire.send(protocol, frame)
	if err != nil {
		p.counters[protocol].dropped[DropSendFailed].Inc()
	} else {
		sent.Inc()
	}
	return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS)
}

// setAddresses replaces the addresses of the port, and begins to announce those that need no probing, or none any more.
func (p *port) setAddresses(s *schedule, set addressSet, now time.Time) {
	for address, e := range set {
		p.show(s, address, e, now)
	}
	changed := addressSet{}
	for address, e := range set {
		if p.addresses[address] != e {
			changed[address] = e
		}
	}
	for address := range p.addresses {
		if set[address] == nil {
			changed[address] = nil
		}
	}
	if len(changed) > 0 {
		p.replace(s, changed, now)
	}
}

// changeAddresses does so with some addresses, with nil for those that are gone. All others stay as they are.
func (p *port) changeAddresses(s *schedule, changed addressSet, now time.Time) {
	for address, e := range changed {
		if e != nil {
			p.show(s, address, e, now)
		}
	}
	p.replace(s, changed, now)
}

// show begins to announce an address that needs no probing any more.
func (p *port) show(s *schedule, address netip.Addr, e *entry, now time.Time) {
	switch {
	case e.passive():
		e.show()
	case e.probe.state == probeFree && phase(e.phase.Load()) != phaseAnnounced:
		e.show()
		if t := p.tasks[address]; t != nil && t.entry == e {
			s.burst(t, now)
		}
	}
}

// replace puts those addresses that have changed in the place of those before.
func (p *port) replace(s *schedule, changed addressSet, now time.Time) {
	old := make(addressSet, len(changed))
	p.changing.Lock()
	for address, e := range changed {
		if was := p.addresses[address]; was != nil {
			old[address] = was
		}
		if delete(p.addresses, address); e != nil {
			p.addresses[address] = e
		}
	}
	p.changing.Unlock()
	// Groups are joined before others are left, so that an address that changes its entry leaves none.
	for address, e := range changed {
		if e != nil && old[address] == nil && address.Is6() {
			group := solicitedNodeGroup(address)
			if p.groups[group]++; p.groups[group] == 1 {
				p.joins = append(p.joins, group)
			}
		}
	}
	for address, e := range changed {
		if old[address] == nil || old[address] == e {
			continue
		}
		if t := p.tasks[address]; t != nil {
			s.remove(t)
			delete(p.tasks, address)
		}
		delete(p.defended, address)
		if e == nil && address.Is6() {
			p.leaveGroup(solicitedNodeGroup(address))
		}
	}
	for address, e := range changed {
		if e != nil && old[address] != e && p.wire != nil {
			p.begin(s, address, e, now)
		}
	}
}

// begin announces an address, or has it probed first. That of another node is neither probed nor announced.
func (p *port) begin(s *schedule, address netip.Addr, e *entry, now time.Time) {
	if e.passive() {
		return
	}
	t := &task{port: p, address: address, entry: e, index: -1}
	p.tasks[address] = t
	switch e.probe.state {
	case probeFree:
		s.burst(t, now)
	case probeConflict:
		s.put(t, e.probe.due)
	default:
		p.queues[protocolOf(address)].add(t)
	}
}

// leaveGroup takes an address out of a group, and leaves the group with its last address.
func (p *port) leaveGroup(group netip.Addr) {
	if p.groups[group]--; p.groups[group] > 0 {
		return
	}
	delete(p.groups, group)
	delete(p.unjoined, group)
	if p.wire != nil {
		p.wire.leave(group)
	}
}

// ensure opens the port, or has the groups joined that could not be, unless there is nothing to do or it has to wait for retryAt. What a port
// is told meanwhile brings no attempt forward: an interface without IPv6 refuses thousands of groups each time.
func (p *port) ensure(logger klog.Logger, s *schedule, open opener, now time.Time) {
	if now.Before(p.retryAt) || p.wire != nil && p.retryAt.IsZero() {
		return
	}
	if p.wire == nil {
		if err := p.open(open); err != nil {
			logger.Error(err, "Could not open interface", "interface", p.iface.Name)
			p.fail(s, err, now)
			return
		}
		logger.Info("Opened interface", "interface", p.iface.Name, "mac", p.iface.MAC.String())
		p.err, p.openedAt = nil, now
		p.joins, p.allMulticast = slices.Collect(maps.Keys(p.groups)), false
		for address, e := range p.addresses {
			p.begin(s, address, e, now)
		}
	}
	p.retryAt = time.Time{}
	p.joins = slices.AppendSeq(p.joins, maps.Keys(p.unjoined))
}

const (
	// joinChunk is how many groups are joined at a time, between announcements and answers to conflicts: each takes a lock of the kernel's
	// that a node which starts Pods holds for milliseconds.
	joinChunk = 64
	// manyGroups is how many groups an interface can have until it receives all multicast. So many fill the filter of any network card.
	manyGroups = 64
)

// joinSome joins some of the groups that were not joined yet, after the announcements. Of many groups all multicast is received at once, and they
// are joined behind that for switches that forward multicast only to its members. It reports, when the last was tried, whether some were refused, or
// had been before.
func (p *port) joinSome(logger klog.Logger, now time.Time) (refused bool) {
	p.joinDue = time.Time{}
	if p.wire == nil {
		return false
	}
	if many := len(p.groups) > manyGroups; many != p.allMulticast && (many || len(p.joins) == 0) {
		if err := p.wire.receiveAllMulticast(many); err != nil {
			logger.Error(err, "Could not receive all multicast", "interface", p.iface.Name)
		}
		p.allMulticast = many
	}
	if len(p.joins) == 0 {
		return false
	}
	chunk := p.joins[:min(len(p.joins), joinChunk)]
	p.joins = p.joins[len(chunk):]
	for _, group := range chunk {
		if p.groups[group] == 0 {
			continue
		}
		_, was := p.unjoined[group]
		err := p.wire.join(group)
		if p.refused = p.refused || was || err != nil; err != nil {
			p.unjoined[group] = err
		} else {
			delete(p.unjoined, group)
		}
	}
	if len(p.joins) > 0 {
		p.joinDue = now
		return false
	}
	for _, err := range p.unjoined {
		if p.retryAt.IsZero() {
			logger.Error(err, "Could not join multicast groups", "interface", p.iface.Name, "count", len(p.unjoined))
			p.retryAt = now.Add(p.backoff.Step())
		}
		break
	}
	refused, p.refused = p.refused, false
	return refused
}

// open opens the wire. A failure of a reader is delivered to Announcer.failures unless the port is closed first.
func (p *port) open(open opener) error {
	if len(p.iface.MAC) != len(p.mac) {
		return fmt.Errorf("hardware address %q is not an Ethernet address", p.iface.MAC)
	}
	closed := make(chan struct{})
	w, err := open(p, closed)
	if err != nil {
		return err
	}
	p.wire, p.closed = w, closed
	return nil
}

// fail closes the port after an error, to be opened again later.
func (p *port) fail(s *schedule, err error, now time.Time) {
	if p.wire != nil && now.Sub(p.openedAt) > maxBackoff {
		p.backoff = newBackoff()
	}
	p.close(s)
	if p.err == nil {
		p.failedSince = now
	}
	p.err = err
	p.retryAt = now.Add(p.backoff.Step())
}

// close closes the wire and ends all probing and announcements. The port keeps the addresses that it is to answer for.
func (p *port) close(s *schedule) {
	for _, t := range p.tasks {
		s.remove(t)
		t.entry.probe.Interrupt()
		t.entry.show()
	}
	clear(p.tasks)
	for _, q := range p.queues {
		q.clear()
	}
	p.pace.clear()
	clear(p.unjoined)
	p.joins, p.joinDue = nil, time.Time{}
	if p.wire != nil {
		close(p.closed)
		p.wire.close()
		p.wire, p.closed = nil, nil
	}
}
