// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// An interface that cannot be opened, or not join a group, is tried again after minBackoff, then after twice as long
// each time, up to maxBackoff. The first delay covers an interface that is set down and up again.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// A port is an interface with at least one announced address. All is owned by the goroutine in Run, except what
// handle uses.
type port struct {
	iface    Interface
	mac      mac
	counters map[Protocol]*counters
	claims   chan<- claim
	stations *atomic.Pointer[map[mac]struct{}]
	// owned is what the readers answer for.
	owned atomic.Pointer[addressSet]

	// wire and closed are nil while the port is not open; closed is closed before the wire is.
	wire   wire
	closed chan struct{}

	err      error // why wire is nil
	attempts int   // failures in a row
	retryAt  time.Time
	openedAt time.Time

	tasks    map[netip.Addr]*task // of all owned addresses while the port is open
	groups   map[netip.Addr]int   // solicited-node group => owned addresses in it
	unjoined map[netip.Addr]error // the groups that could not be joined
	defended map[netip.Addr]time.Time
}

func newPort(iface Interface, a *Announcer) *port {
	p := &port{
		iface: iface,
		counters: map[Protocol]*counters{
			ARP: a.metrics.counters(ARP, iface.Name),
			NDP: a.metrics.counters(NDP, iface.Name),
		},
		claims:   a.claims,
		stations: &a.stations,
		tasks:    map[netip.Addr]*task{},
		groups:   map[netip.Addr]int{},
		unjoined: map[netip.Addr]error{},
		defended: map[netip.Addr]time.Time{},
	}
	copy(p.mac[:], iface.MAC)
	p.owned.Store(&addressSet{})
	return p
}

// handle decides about a received frame. The readers call it.
func (p *port) handle(protocol Protocol, frame []byte, send func([]byte) error) {
	decide := decideARP
	if protocol == NDP {
		decide = decideNDP
	}
	v, c := decide(frame, p.mac, *p.owned.Load()), p.counters[protocol]
	if v.reason == DropConflict {
		// Two interfaces on one LAN hear each other.
		if _, ours := (*p.stations.Load())[v.claimant]; ours {
			v.reason = DropOwnFrame
		}
	}
	if v.reason == dropNone {
		if err := send(v.reply); err != nil {
			v.reason = DropSendFailed
		}
	}
	switch v.reason {
	case dropNone:
		c.answered.Inc()
		return
	case DropConflict:
		c.conflicts.Inc()
		select {
		case p.claims <- claim{port: p, protocol: protocol, address: v.claimed, by: v.claimant}:
		default:
		}
	}
	c.dropped[v.reason].Inc()
}

// announce tells all neighbours where an address is: in a burst by both forms of gratuitous ARP, later by the request
// alone, since it only has to keep switches from forgetting.
func (p *port) announce(address netip.Addr, burst bool) {
	if address.Is6() {
		p.broadcast(NDP, unsolicitedAdvertisement(p.mac, address))
		return
	}
	request, reply := gratuitousARP(p.mac, address)
	p.broadcast(ARP, request)
	if burst {
		p.broadcast(ARP, reply)
	}
}

func (p *port) broadcast(protocol Protocol, frame []byte) {
	if err := p.wire.send(protocol, frame); err != nil {
		p.counters[protocol].dropped[DropSendFailed].Inc()
		return
	}
	p.counters[protocol].announced.Inc()
}

// hold replaces the addresses that the port answers for.
func (p *port) hold(s *schedule, set addressSet, now time.Time) {
	old := *p.owned.Load()
	if maps.Equal(old, set) {
		return
	}
	p.owned.Store(&set)
	for address := range old {
		if _, ok := set[address]; ok {
			continue
		}
		if t := p.tasks[address]; t != nil {
			s.remove(t)
			delete(p.tasks, address)
		}
		delete(p.defended, address)
		if address.Is6() {
			p.release(solicitedNodeGroup(address))
		}
	}
	for address := range set {
		if _, ok := old[address]; ok {
			continue
		}
		if p.wire != nil {
			p.tasks[address] = s.add(p, address, now)
		}
		if address.Is6() {
			p.groups[solicitedNodeGroup(address)]++
		}
	}
}

// release leaves a group with its last address.
func (p *port) release(group netip.Addr) {
	if p.groups[group]--; p.groups[group] > 0 {
		return
	}
	delete(p.groups, group)
	delete(p.unjoined, group)
	if p.wire != nil {
		p.wire.leave(group)
	}
}

// ensure opens the port and joins its groups, where that is still to be done and not to be waited for.
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
		for address := range *p.owned.Load() {
			p.tasks[address] = s.add(p, address, now)
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
		p.backOff(now)
		break
	}
}

// open opens the wire. A reader's failure is delivered to failures unless the port is closed first.
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
		p.attempts = 0
	}
	p.close(s)
	p.err = err
	p.backOff(now)
}

func (p *port) backOff(now time.Time) {
	delay := maxBackoff
	if p.attempts < 10 { // Beyond, the shift would exceed maxBackoff anyway.
		delay = min(minBackoff<<p.attempts, maxBackoff)
	}
	p.attempts++
	p.retryAt = now.Add(delay)
}

// close closes the wire and ends all announcements, but keeps what the port is to answer for.
func (p *port) close(s *schedule) {
	for _, t := range p.tasks {
		s.remove(t)
	}
	clear(p.tasks)
	clear(p.unjoined)
	if p.wire != nil {
		close(p.closed)
		p.wire.close()
		p.wire, p.closed = nil, nil
	}
}
