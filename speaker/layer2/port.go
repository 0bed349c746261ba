// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
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
	addresses atomic.Pointer[addressSet]

	// wire and closed are nil while the port is not open; closed is closed before the wire is.
	wire   wire
	closed chan struct{}

	err      error // why wire is nil
	backoff  wait.Backoff
	retryAt  time.Time
	openedAt time.Time

	tasks    map[netip.Addr]*task // of all addresses while the port is open
	groups   map[netip.Addr]int   // solicited-node group => addresses in it
	unjoined map[netip.Addr]error // the groups that could not be joined
	defended map[netip.Addr]time.Time

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
	p.addresses.Store(&addressSet{})
	return p
}

// handle decides about a received frame. The readers call it.
func (p *port) handle(protocol Protocol, frame []byte, send func([]byte) error) {
	decide := decideARP
	if protocol == NDP {
		decide = decideNDP
	}
	o, c := decide(frame, p.mac, *p.addresses.Load()), p.counters[protocol]
	switch {
	case o.reason != DropConflict:
	case p.stations.Load().has(o.station):
		o.reason = DropOwnFrame // Two interfaces of this node that are on one LAN hear each other.
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

// announce tells all neighbours where an address is, in some forms.
func (p *port) announce(address netip.Addr, forms []form) {
	if address.Is6() {
		p.broadcast(NDP, unsolicitedAdvertisement(p.mac, address))
		return
	}
	request, reply := gratuitousARP(p.mac, address)
	for _, f := range forms {
		if f == formReply {
			p.broadcast(ARP, reply)
		} else {
			p.broadcast(ARP, request)
		}
	}
}

func (p *port) broadcast(protocol Protocol, frame []byte) {
	if p.send(protocol, frame) {
		p.counters[protocol].announcements.Inc()
	}
}

// probe asks all neighbours whether one of them has an address.
func (p *port) probe(address netip.Addr, nonce *ndp.Nonce) {
	protocol, frame := protocolOf(address), []byte(nil)
	if protocol == NDP {
		frame = probeNDP(p.mac, address, nonce)
	} else {
		frame = probeARP(p.mac, address)
	}
	if p.send(protocol, frame) {
		p.counters[protocol].probes.Inc()
	}
}

func (p *port) send(protocol Protocol, frame []byte) (sent bool) {
	err := p.wire.send(protocol, frame)
	if err != nil {
		p.counters[protocol].dropped[DropSendFailed].Inc()
	}
	return err == nil
}

// setAddresses replaces the addresses of the port, and begins to announce those that need no probing, or none any more.
func (p *port) setAddresses(s *schedule, set addressSet, now time.Time) {
	old := *p.addresses.Load()
	for address, e := range set {
		if e.as != (mac{}) {
			e.show()
			continue
		}
		if e.probe.state != probeFree || phase(e.phase.Load()) == phaseAnnounced {
			continue
		}
		e.show()
		if t := p.tasks[address]; t != nil && t.entry == e {
			s.burst(t, now)
		}
	}
	if maps.Equal(old, set) {
		return
	}
	p.addresses.Store(&set)
	// Groups are joined before others are left, so that an address that changes its entry leaves none.
	for address := range set {
		if old[address] == nil && address.Is6() {
			p.groups[solicitedNodeGroup(address)]++
		}
	}
	for address, e := range old {
		if set[address] == e {
			continue
		}
		if t := p.tasks[address]; t != nil {
			s.remove(t)
			delete(p.tasks, address)
		}
		delete(p.defended, address)
		if set[address] == nil && address.Is6() {
			p.leaveGroup(solicitedNodeGroup(address))
		}
	}
	for address, e := range set {
		if old[address] != e && p.wire != nil {
			p.begin(s, address, e, now)
		}
	}
}

// begin announces an address, or has it probed first. That of another node, whose deputy this one is, is neither probed nor announced.
func (p *port) begin(s *schedule, address netip.Addr, e *entry, now time.Time) {
	if e.as != (mac{}) {
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

// ensure opens the port and joins its groups, unless that is done already or has to wait for retryAt.
func (p *port) ensure(logger klog.Logger, s *schedule, open opener, now time.Time) {
	if now.Before(p.retryAt) && p.wire == nil {
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
		for address, e := range *p.addresses.Load() {
			p.begin(s, address, e, now)
		}
	}
	p.retryAt = time.Time{}
	clear(p.unjoined)
	for group := range p.groups {
		if err := p.wire.join(group); err != nil {
			p.unjoined[group] = err
		}
	}
	for _, err := range p.unjoined {
		logger.Error(err, "Could not join multicast groups", "interface", p.iface.Name, "count", len(p.unjoined))
		p.retryAt = now.Add(p.backoff.Step())
		break
	}
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
	if p.wire != nil {
		close(p.closed)
		p.wire.close()
		p.wire, p.closed = nil, nil
	}
}
