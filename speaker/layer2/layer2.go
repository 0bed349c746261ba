// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/signal"
)

// An Announcement asks for one address to be answered for on some interfaces.
type Announcement struct {
	Address netip.Addr
	// Interfaces are exact names.
	Interfaces []string
	// Probe are those of the Interfaces on which the address is announced for the first time. There it is probed before, unless this
	// Announcer has found it free already, and announced only if no other station has it.
	Probe []string
	// As has, by the interface, the MAC of the node that holds the address and is away for a moment. There this node is its deputy: it answers
	// questions that are asked of a group with that MAC, and is silent otherwise.
	As map[string]net.HardwareAddr
}

// as returns the MAC of the node whose deputy this one is on an interface, the zero mac if it is none's.
func (an *Announcement) as(iface string) (as mac) {
	copy(as[:], an.As[iface])
	return as
}

func (an *Announcement) equal(other *Announcement) bool {
	return an.Address == other.Address && slices.Equal(an.Interfaces, other.Interfaces) && slices.Equal(an.Probe, other.Probe) &&
		maps.EqualFunc(an.As, other.As, func(x, y net.HardwareAddr) bool { return bytes.Equal(x, y) })
}

// An Interface can be used for announcing: it is up, and its MAC answers.
type Interface struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
}

func (i Interface) equal(j Interface) bool {
	return i.Name == j.Name && i.Index == j.Index && bytes.Equal(i.MAC, j.MAC)
}

// ErrNoInterface is the Err of a Status whose interface is not among those that SetInterfaces declared.
var ErrNoInterface = errors.New("interface does not exist or cannot be used")

// A Status says whether one address is announced on one interface.
type Status struct {
	Address   netip.Addr
	Interface string
	// Announced is true once the interface answers for the address.
	Announced bool
	// Err is why the address is not announced. It is nil while the address is probed, and an *InUseError from when another station was
	// found to have it until none is. If the address is announced, Err is why neighbours may not reach us: its multicast group could not be
	// joined.
	Err error
}

// An InUseError is the Err of a Status whose address another station uses or probes. The address is probed again later.
type InUseError struct {
	MAC net.HardwareAddr // of the other station
}

// Error implements error.
func (e *InUseError) Error() string { return "in use by " + e.MAC.String() }

// A Conflict says that another station uses an address that is announced here (RFC 5227 §2.4), or one that was probed (RFC 5227 §2.1.1, RFC
// 4862 §5.4).
type Conflict struct {
	Address   netip.Addr
	Interface string
	MAC       net.HardwareAddr // of the other station
	Protocol  Protocol
	// Probed says that the address was probed, and is not announced. Else it is announced, and was defended.
	Probed bool
}

// Config configures an Announcer. Each field may be left out. The functions are called by the goroutine in Run and must return soon.
type Config struct {
	Registerer prometheus.Registerer
	// Rate is how many announcements a second an interface sends at most; 0 stands for DefaultRate.
	Rate int
	// OnConflict is called when an address is defended, and so at most every ten seconds for each address and interface, and when a probed
	// address turns out to be in use, and so in growing intervals from a second to five minutes.
	OnConflict func(Conflict)
	// OnProbed is called when the probing of addresses has ended, with either result. Announced returns the result.
	OnProbed func()
	// OnChange is called when what Announced returns has changed.
	OnChange func()
}

// An Announcer answers ARP and NDP for a declared set of addresses. Its methods may be called at any time, by any goroutine.
type Announcer struct {
	config  Config
	metrics *metrics
	open    func(Interface, handler, func(error)) (wire, error)

	wake signal.Signal // raised when desired has changed
	mu   sync.Mutex    // guards all of desired
	desired

	// stations are the MACs of all usable interfaces, speakers those of all nodes' speakers.
	stations, speakers atomic.Pointer[stationSet]

	status    atomic.Pointer[[]Status]
	failures  chan failure
	conflicts *conflictSet

	// What follows is owned by the goroutine in Run.

	ports    map[string]*port
	entries  map[onInterface]*entry // of all that is declared, on interfaces that cannot be used too
	schedule schedule
	// results is when ended probing is published next, the zero Time if there is none to publish; lastResults is when it was last.
	results, lastResults time.Time
	// missing are the interfaces of announcements that cannot be used.
	missing []Status
}

// desired is what the callers have declared.
type desired struct {
	announcements []Announcement // sorted by address
	interfaces    []Interface    // sorted by name
	refresh       string         // the reason, "" for none
}

// onInterface names an address on an interface.
type onInterface struct {
	address netip.Addr
	iface   string
}

// A stationSet has the MACs of some stations. It is never changed once a reader can see it.
type stationSet map[mac]struct{}

func (s *stationSet) has(m mac) bool {
	if s == nil {
		return false
	}
	_, ok := (*s)[m]
	return ok
}

// A failure ends the use of a wire.
type failure struct {
	port   *port
	closed <-chan struct{} // which of the port's wires
	err    error
}

// A conflict is a Conflict as a reader sees it.
type conflict struct {
	port     *port
	protocol Protocol
	address  netip.Addr
	station  mac
}

// A conflictSet has the conflicts that the readers have found, until the goroutine in Run takes them: of each address on each port the
// latest. However fast they come, none is lost. Else an address that is in use could be taken for free.
type conflictSet struct {
	wake  signal.Signal // raised when there is one
	mu    sync.Mutex    // guards found
	found map[conflictKey]conflict
}

type conflictKey struct {
	port    *port
	address netip.Addr
}

func (s *conflictSet) add(c conflict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found[conflictKey{c.port, c.address}] = c
	s.wake.Raise()
}

func (s *conflictSet) take() map[conflictKey]conflict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.found) == 0 {
		return nil
	}
	found := s.found
	s.found = map[conflictKey]conflict{}
	return found
}

// New returns an Announcer that announces nothing yet.
func New(config Config) *Announcer {
	config.Rate = cmp.Or(config.Rate, DefaultRate)
	return &Announcer{
		config:    config,
		metrics:   newMetrics(config.Registerer),
		open:      openSockets,
		wake:      signal.New(),
		failures:  make(chan failure),
		conflicts: &conflictSet{wake: signal.New(), found: map[conflictKey]conflict{}},
		ports:     map[string]*port{},
		entries:   map[onInterface]*entry{},
	}
}

// Set declares all addresses that are to be announced. An address that it does not name is no longer answered for. An address that is not a
// unicast address is ignored. Calling Set again with the same announcements, in whatever order, does nothing.
func (a *Announcer) Set(announcements []Announcement) {
	announcements = slices.Clone(announcements)
	for i := range announcements {
		an := &announcements[i]
		an.Address = an.Address.Unmap().WithZone("")
		an.Interfaces = slices.Compact(slices.Sorted(slices.Values(an.Interfaces)))
		an.Probe = slices.Compact(slices.Sorted(slices.Values(an.Probe)))
	}
	announcements = slices.DeleteFunc(announcements, func(an Announcement) bool {
		return !an.Address.IsValid() || an.Address.IsMulticast() || an.Address.IsUnspecified()
	})
	slices.SortFunc(announcements, func(x, y Announcement) int { return x.Address.Compare(y.Address) })

	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.EqualFunc(a.announcements, announcements, func(x, y Announcement) bool { return x.equal(&y) }) {
		a.announcements = announcements
		a.wake.Raise()
	}
}

// SetInterfaces declares the interfaces that can be used now. Sockets are open only on interfaces on which an address is announced. An
// interface that is left out is closed. One with another index or MAC than before is opened again, and its addresses are announced anew.
func (a *Announcer) SetInterfaces(interfaces []Interface) {
	interfaces = slices.Clone(interfaces)
	slices.SortFunc(interfaces, func(x, y Interface) int { return cmp.Compare(x.Name, y.Name) })

	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.EqualFunc(a.interfaces, interfaces, Interface.equal) {
		a.interfaces = interfaces
		a.wake.Raise()
	}
}

// SetSpeakers declares the MACs of all speakers' interfaces, on whatever node. A station with one of these is no obstacle to an address
// that is probed: two speakers may probe the same address for a moment, or one may still answer for it.
func (a *Announcer) SetSpeakers(macs []net.HardwareAddr) {
	speakers := stationSet{}
	for _, m := range macs {
		if len(m) == len(mac{}) {
			speakers[mac(m)] = struct{}{}
		}
	}
	a.speakers.Store(&speakers)
}

// Refresh repeats the takeover announcements of all addresses, for instance because another node may have announced them while it could not
// be heard.
func (a *Announcer) Refresh(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh = cmp.Or(reason, "unknown")
	a.wake.Raise()
}

// Announced returns the Status of each declared address on each of its interfaces, ordered by address and interface, but for those of which
// this node is only the deputy. All are of one moment.
// The caller must not change the slice.
func (a *Announcer) Announced() []Status {
	if s := a.status.Load(); s != nil {
		return *s
	}
	return nil
}

// Run announces until the context ends, then closes all sockets. Nothing is sent to withdraw an address: neighbours follow the node that
// announces it next. Sockets are opened in the network namespace of the thread that calls Run. An Announcer runs once.
func (a *Announcer) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	defer func() {
		for _, p := range a.ports {
			p.close(&a.schedule)
		}
		clear(a.ports)
		a.missing = nil
		a.publish()
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			a.apply(logger)
		case f := <-a.failures:
			if f.port.closed == f.closed {
				logger.Error(f.err, "Closed interface after a failure", "interface", f.port.iface.Name)
				f.port.fail(&a.schedule, f.err, time.Now())
				a.publish()
			}
		case <-a.conflicts.wake:
			a.catchUp(logger)
			a.proceed(logger, time.Now())
		case <-timer.C:
			a.catchUp(logger)
			a.retry(logger)
			a.proceed(logger, time.Now())
		}
		if next, ok := a.next(); ok {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// catchUp applies a declaration that waits. An event that was received before it must not announce an address that Set has withdrawn
// already.
func (a *Announcer) catchUp(logger klog.Logger) {
	select {
	case <-a.wake:
		a.apply(logger)
	default:
	}
}

// next returns when the next probe, announcement or retry is due, and false if none is.
func (a *Announcer) next() (next time.Time, ok bool) {
	earliest := func(due time.Time) {
		if !due.IsZero() && (!ok || due.Before(next)) {
			next, ok = due, true
		}
	}
	if len(a.schedule) > 0 {
		earliest(a.schedule[0].due)
	}
	earliest(a.results)
	for _, p := range a.ports {
		earliest(p.retryAt)
		earliest(p.pace.due)
		for _, q := range p.queues {
			earliest(q.due)
		}
	}
	return next, ok
}

// apply makes interfaces, groups and schedule what the callers have declared.
func (a *Announcer) apply(logger klog.Logger) {
	a.mu.Lock()
	want := a.desired
	a.refresh = ""
	a.mu.Unlock()
	now := time.Now()

	usable, stations := map[string]Interface{}, stationSet{}
	for _, iface := range want.interfaces {
		usable[iface.Name] = iface
		if len(iface.MAC) == len(mac{}) {
			stations[mac(iface.MAC)] = struct{}{}
		}
	}
	a.stations.Store(&stations)
	a.missing = nil
	wanted, entries := map[string]addressSet{}, make(map[onInterface]*entry, len(a.entries))
	for _, an := range want.announcements {
		for _, name := range an.Interfaces {
			key := onInterface{an.Address, name}
			e, as := a.entries[key], an.as(name)
			if e == nil || e.as != as {
				e = &entry{as: as}
			}
			entries[key] = e
			if !slices.Contains(an.Probe, name) || as != (mac{}) {
				e.probe.Skip()
			}
			if _, ok := usable[name]; !ok && as != (mac{}) {
				continue
			} else if !ok {
				a.missing = append(a.missing, Status{Address: an.Address, Interface: name, Err: ErrNoInterface})
				continue
			}
			if wanted[name] == nil {
				wanted[name] = addressSet{}
			}
			wanted[name][an.Address] = e
		}
	}
	a.entries = entries

	for name, p := range a.ports {
		if len(wanted[name]) == 0 || !p.iface.equal(usable[name]) {
			p.close(&a.schedule)
			delete(a.ports, name)
			a.metrics.inUse.DeleteLabelValues(name)
			logger.V(2).Info("Closed interface", "interface", name)
		}
	}
	if want.refresh != "" {
		for _, p := range a.ports {
			for _, t := range p.tasks {
				if t.entry.probe.state == probeFree {
					a.schedule.burst(t, now)
				}
			}
		}
		logger.V(2).Info("Repeated announcements", "reason", want.refresh, "count", len(a.schedule))
	}
	for name, set := range wanted {
		p := a.ports[name]
		if p == nil {
			p = newPort(usable[name], a)
			a.ports[name] = p
		}
		p.setAddresses(&a.schedule, set, now)
		p.ensure(logger, &a.schedule, a.openPort, now)
	}
	a.proceed(logger, now)
	a.publish()
}

// retry opens what could not be opened before.
func (a *Announcer) retry(logger klog.Logger) {
	now, changed := time.Now(), false
	for _, p := range a.ports {
		if !p.retryAt.IsZero() && !now.Before(p.retryAt) {
			p.ensure(logger, &a.schedule, a.openPort, now)
			changed = true
		}
	}
	if changed {
		a.publish()
	}
}

// proceed does what is due: it takes in conflicts first, so that none comes too late for an address whose probing ends now, and then sends
// probes and announcements. Only addresses that are declared at this moment are in the schedule.
func (a *Announcer) proceed(logger klog.Logger, now time.Time) {
	probed := false
	for _, c := range a.conflicts.take() {
		probed = a.handleConflict(logger, c, now) || probed
	}
	for len(a.schedule) > 0 && !now.Before(a.schedule[0].due) {
		switch t := a.schedule[0]; {
		case t.entry.probe.state != probeFree:
			probed = a.stepProbe(logger, t, now) || probed
		case t.conflict != nil:
			a.defend(logger, *t.conflict, now)
			a.schedule.sent(t, now)
		default:
			a.schedule.remove(t)
			t.port.pace.add(t)
		}
	}
	for _, p := range a.ports {
		for t, forms := p.pace.next(now); t != nil; t, forms = p.pace.next(now) {
			p.announce(t.address, forms)
			a.schedule.sent(t, now)
		}
	}
	for _, p := range a.ports {
		for _, q := range p.queues {
			for t := q.next(now); t != nil; t = q.next(now) {
				if t.address.Is6() && t.entry.nonce == nil {
					t.entry.nonce = ndp.NewNonce()
				}
				t.entry.probe.Start(now)
				a.stepProbe(logger, t, now)
			}
		}
	}
	if probed && a.results.IsZero() {
		a.results = later(now, a.lastResults.Add(resultsInterval))
	}
	if !a.results.IsZero() && !now.Before(a.results) {
		a.results, a.lastResults = time.Time{}, now
		a.publish()
		if a.config.OnProbed != nil {
			a.config.OnProbed()
		}
	}
}

// resultsInterval is the least time between two publications of ended probing, since thousands of addresses end one after the other. No
// announcement waits for that.
const resultsInterval = 100 * time.Millisecond

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// stepProbe goes on with the probing of an address. It reports whether the address is free, and so announced from now on.
func (a *Announcer) stepProbe(logger klog.Logger, t *task, now time.Time) (free bool) {
	p, e := t.port, t.entry
	send := e.probe.Step(now)
	e.show() // The readers listen before the question is out.
	if send {
		p.probe(t.address, e.nonce)
	}
	switch e.probe.state {
	case probeFree:
		logger.V(2).Info("Found no other station with the address", "address", t.address, "interface", p.iface.Name)
		a.schedule.burst(t, now)
		return true
	case probeWaiting:
		a.schedule.remove(t)
		p.queues[protocolOf(t.address)].add(t)
	default:
		a.schedule.put(t, e.probe.due)
	}
	return false
}

// defendInterval is RFC 5227's DEFEND_INTERVAL.
const defendInterval = 10 * time.Second

// handleConflict ends the probing of an address, and reports whether it did. An address that is announced already is defended by one
// announcement (RFC 5227 §2.4 (c)). We never give it up, since which node announces it is decided elsewhere. The interval keeps two hosts
// that both defend an address from an endless exchange.
//
// The last of several conflicts within an interval is answered when the interval ends, or neighbours would believe the other station until
// the next refresh. For example, of conflicts about 198.51.100.200 at 0 s, 1 s and 3 s, the first is answered at 0 s and the last at 10 s.
func (a *Announcer) handleConflict(logger klog.Logger, c conflict, now time.Time) (endedProbing bool) {
	p := c.port
	t := p.tasks[c.address]
	if a.ports[p.iface.Name] != p || t == nil {
		return false // The address was withdrawn since.
	}
	if e := t.entry; e.probe.state != probeFree {
		if !e.probe.Conflict(now, c.station) {
			return false
		}
		e.show()
		a.schedule.put(t, e.probe.due)
		logger.Info("Did not announce an address that another station has", "address", c.address, "interface", p.iface.Name,
			"mac", net.HardwareAddr(c.station[:]).String(), "protocol", c.protocol, "probedAgainIn", e.probe.due.Sub(now).String())
		a.report(c, true)
		return true
	}
	if last, ok := p.defended[c.address]; ok && now.Sub(last) < defendInterval {
		a.schedule.deferDefence(t, last.Add(defendInterval), c)
		return false
	}
	a.defend(logger, c, now)
	return false
}

// defend announces the address and reports the conflict.
func (a *Announcer) defend(logger klog.Logger, c conflict, now time.Time) {
	p := c.port
	p.defended[c.address] = now
	p.announce(c.address, bothForms)
	logger.Info("Defended an address that another station uses",
		"address", c.address, "interface", p.iface.Name, "mac", net.HardwareAddr(c.station[:]).String(), "protocol", c.protocol)
	a.report(c, false)
}

func (a *Announcer) report(c conflict, probed bool) {
	if a.config.OnConflict != nil {
		a.config.OnConflict(Conflict{
			Address: c.address, Interface: c.port.iface.Name, MAC: c.station[:], Protocol: c.protocol, Probed: probed,
		})
	}
}

// publish makes the current state visible to Announced.
func (a *Announcer) publish() {
	status := slices.Clone(a.missing)
	for name, p := range a.ports {
		inUse := 0
		for address, e := range *p.addresses.Load() {
			if e.as != (mac{}) {
				continue // It is announced by its holder.
			}
			s := Status{Address: address, Interface: name, Announced: p.wire != nil && e.probe.state == probeFree, Err: p.err}
			if p.wire != nil && address.Is6() {
				s.Err = p.unjoined[solicitedNodeGroup(address)]
			}
			if e.probe.inUse() {
				inUse++
				s.Err = cmp.Or(p.err, error(&InUseError{MAC: slices.Clone(e.probe.station[:])}))
			}
			status = append(status, s)
		}
		a.metrics.inUse.WithLabelValues(name).Set(float64(inUse))
	}
	slices.SortFunc(status, func(x, y Status) int {
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.Interface, y.Interface))
	})
	// The same address may have been declared twice.
	status = slices.CompactFunc(status, func(x, y Status) bool {
		return x.Address == y.Address && x.Interface == y.Interface
	})
	if slices.EqualFunc(a.Announced(), status, func(x, y Status) bool {
		return x.Address == y.Address && x.Interface == y.Interface && x.Announced == y.Announced &&
			(x.Err == nil) == (y.Err == nil) && (x.Err == nil || x.Err.Error() == y.Err.Error())
	}) {
		return
	}
	a.status.Store(&status)
	if a.config.OnChange != nil {
		a.config.OnChange()
	}
}

// An opener opens the wire of a port. When closed is closed, the readers of the wire stop reporting a failure.
type opener func(p *port, closed <-chan struct{}) (wire, error)

func (a *Announcer) openPort(p *port, closed <-chan struct{}) (wire, error) {
	return a.open(p.iface, p.handle, func(err error) {
		select {
		case a.failures <- failure{port: p, closed: closed, err: err}:
		case <-closed:
		}
	})
}
