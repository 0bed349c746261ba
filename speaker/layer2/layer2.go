// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
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
	// questions that are asked of a group with that MAC, and is silent otherwise. With its own MAC it answers all questions, and neither
	// announces nor defends the address, since it hands the address over to another node.
	As map[string]net.HardwareAddr
	// Listen has the address neither announced nor answered for: the Announcer only tells by OnRival which speakers use it.
	Listen bool
}

// as returns the MAC of the node whose deputy this one is on an interface, the zero mac if it is none's.
func (an *Announcement) as(iface string) (as mac) {
	copy(as[:], an.As[iface])
	return as
}

func (an *Announcement) equal(other *Announcement) bool {
	return an.Address == other.Address && slices.Equal(an.Interfaces, other.Interfaces) && slices.Equal(an.Probe, other.Probe) &&
		an.Listen == other.Listen && maps.EqualFunc(an.As, other.As, func(x, y net.HardwareAddr) bool { return bytes.Equal(x, y) })
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

// A Rival is a speaker of another node that uses an address which is announced here, or listened for, or is being handed over for long.
type Rival struct {
	Address   netip.Addr
	Interface string
	MAC       net.HardwareAddr
}

// Config configures an Announcer. Each field may be left out. The functions are called by the goroutine in Run and must return soon.
type Config struct {
	Registerer prometheus.Registerer
	// Rate is how many announcements a second an interface sends at most; 0 stands for DefaultRate.
	Rate int
	// OnConflict is called when an address is defended, and so at most every ten seconds for each address and interface, and when a probed
	// address turns out to be in use, and so in growing intervals from a second to five minutes.
	OnConflict func(Conflict)
	// OnRival is called for each frame of another speaker that uses an address which is announced, or listened for.
	OnRival func(Rival)
	// OnProbed is called when the probing of addresses has ended, with either result. Announced returns the result.
	OnProbed func()
	// OnChange is called when what Announced returns has changed.
	OnChange func()
	// OnFailed is called when what Failed returns has changed.
	OnFailed func()
}

// An Announcer answers ARP and NDP for a declared set of addresses. Its methods may be called at any time, by any goroutine.
type Announcer struct {
	config  Config
	metrics *metrics
	open    func(Interface, handler, func(error)) (wire, error)

	wake signal.Signal // raised when desired has changed
	asks signal.Signal // raised when ask has
	mu   sync.Mutex    // guards all of desired
	desired

	// stations are the MACs of all usable interfaces, speakers those of all nodes' speakers.
	stations, speakers atomic.Pointer[stationSet]

	status    atomic.Pointer[statuses]
	failed    atomic.Pointer[map[string]error]
	failures  chan failure
	conflicts *conflictSet

	// What follows is owned by the goroutine in Run.

	ports    map[string]*port
	entries  map[onInterface]*entry // of all that is declared, on interfaces that cannot be used too
	schedule schedule
	// ended are the addresses whose probing has ended, and is to be published; results is when it is, the zero Time if there are none;
	// lastResults is when it was last.
	ended                []netip.Addr
	results, lastResults time.Time
	// refreshAt is when all announcements are repeated, the zero Time if that was not asked for; refreshed is when they were last.
	refreshAt, refreshed time.Time
	// missing are the interfaces of announcements that cannot be used, and elsewhere the addresses that are declared on such interfaces, be they
	// another node's to announce or not.
	missing   []Status
	elsewhere map[netip.Addr]bool
}

// desired is what the callers have declared.
type desired struct {
	announcements []Announcement // sorted by address
	updates       []update       // of the announcements, since apply has looked at them
	// whole is set if more than these updates was declared since then.
	whole      bool
	interfaces []Interface // sorted by name
	refresh    string      // the reason, "" for none
	ask        []netip.Addr
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
	a := &Announcer{
		config:    config,
		metrics:   newMetrics(config.Registerer),
		open:      openSockets,
		wake:      signal.New(),
		asks:      signal.New(),
		failures:  make(chan failure),
		conflicts: &conflictSet{wake: signal.New(), found: map[conflictKey]conflict{}},
		ports:     map[string]*port{},
		entries:   map[onInterface]*entry{},
	}
	a.status.Store(newStatuses())
	return a
}

// Set declares all addresses that are to be announced. An address that it does not name is no longer answered for. An address that is not a
// unicast address is ignored. Calling Set again with the same announcements, in whatever order, does nothing.
func (a *Announcer) Set(announcements []Announcement) {
	announcements = normal(announcements)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.updates) > 0 || !slices.EqualFunc(a.announcements, announcements, func(x, y Announcement) bool { return x.equal(&y) }) {
		a.announcements, a.updates, a.whole = announcements, nil, true
		a.wake.Raise()
	}
}

// Update declares some addresses anew, and withdraws others, in the place of what was declared of them. All other addresses stay as they
// are, so that it costs less than Set where one of thousands has changed.
func (a *Announcer) Update(announcements []Announcement, withdrawn []netip.Addr) {
	announcements = normal(announcements)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.updates = append(a.updates, update{announcements, withdrawn})
	a.wake.Raise()
}

// An update is what one call of Update has declared.
type update struct {
	announcements []Announcement
	withdrawn     []netip.Addr
}

// merge makes the updates part of the announcements, in place. The caller holds mu, and is the only one who reads the announcements without.
func (d *desired) merge() {
	for _, u := range d.updates {
		for _, ip := range u.withdrawn {
			from, to := d.find(ip)
			d.announcements = slices.Delete(d.announcements, from, to)
		}
		for _, an := range u.announcements {
			from, to := d.find(an.Address)
			d.announcements = slices.Replace(d.announcements, from, to, an)
		}
	}
	d.updates = nil
}

// find returns the place of the announcements of an address.
func (d *desired) find(ip netip.Addr) (from, to int) {
	from, _ = slices.BinarySearchFunc(d.announcements, ip, func(an Announcement, ip netip.Addr) int { return an.Address.Compare(ip) })
	for to = from; to < len(d.announcements) && d.announcements[to].Address == ip; to++ {
	}
	return from, to
}

// changed returns the addresses that the updates are about.
func (d *desired) changed() (all []netip.Addr) {
	for _, u := range d.updates {
		all = append(all, u.withdrawn...)
		for i := range u.announcements {
			all = append(all, u.announcements[i].Address)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// normal returns announcements ordered by address, with ordered interfaces, and without those of no unicast address.
func normal(announcements []Announcement) []Announcement {
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
	return announcements
}

// SetInterfaces declares the interfaces that can be used now. Sockets are open only on interfaces on which an address is announced. An
// interface that is left out is closed. One with another index or MAC than before is opened again, and its addresses are announced anew.
func (a *Announcer) SetInterfaces(interfaces []Interface) {
	interfaces = slices.Clone(interfaces)
	slices.SortFunc(interfaces, func(x, y Interface) int { return cmp.Compare(x.Name, y.Name) })

	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.EqualFunc(a.interfaces, interfaces, Interface.equal) {
		a.interfaces, a.whole = interfaces, true
		a.wake.Raise()
	}
}

// SetSpeakers declares the MACs of all speakers' interfaces, on whatever node. A station with one of these is no obstacle to an address
// that is probed: two speakers may probe the same address for a moment, or one may still answer for it. An address that is announced is
// not defended against it at once.
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
// be heard. Of several calls within ten seconds one repeats them, when the seconds are over.
func (a *Announcer) Refresh(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh, a.whole = cmp.Or(reason, "unknown"), true
	a.wake.Raise()
}

// Ask asks the LAN, by ARP probes and neighbour solicitations, of whose answers neighbours learn nothing, whether other stations use addresses
// that are announced, or listened for. A speaker that answers is told to OnRival. Of many addresses as many are asked for as the rate of
// announcements lets; the caller asks again.
func (a *Announcer) Ask(addresses []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ask = slices.Clone(addresses)
	a.asks.Raise()
}

// failedAfter is how long an interface could not be opened until it has failed. One that is set down and up again has not.
const failedAfter = 2 * time.Second

// Failed returns the interfaces that could not be opened for two seconds, with the reason. They are tried again, whether an address is
// announced there any more or not, until they can be opened or are not declared any more. The caller must not change the map.
func (a *Announcer) Failed() map[string]error {
	if failed := a.failed.Load(); failed != nil {
		return *failed
	}
	return nil
}

// countInterval is how often the frames are counted that the kernel had to drop.
const countInterval = 10 * time.Second

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

	timer, count := time.NewTimer(0), time.NewTicker(countInterval)
	defer timer.Stop()
	defer count.Stop()
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
		case <-a.asks:
			a.catchUp(logger)
			a.askAll(time.Now())
		case <-a.conflicts.wake:
			a.catchUp(logger)
			a.proceed(logger, time.Now())
		case <-count.C:
			for _, p := range a.ports {
				p.countDropped()
			}
			continue
		case <-timer.C:
			a.catchUp(logger)
			a.retry(logger)
			a.repeat(logger, time.Now())
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

// askAll asks for the addresses that Ask was given, in no order, so that each has its turn.
func (a *Announcer) askAll(now time.Time) {
	a.mu.Lock()
	addresses := a.ask
	a.ask = nil
	a.mu.Unlock()
	for _, i := range rand.Perm(len(addresses)) {
		for _, p := range a.ports {
			p.ask(addresses[i], now)
		}
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
	earliest(a.refreshAt)
	for _, p := range a.ports {
		earliest(p.retryAt)
		if _, failed := a.Failed()[p.iface.Name]; !failed && p.err != nil {
			earliest(p.failedSince.Add(failedAfter))
		}
		earliest(p.pace.due)
		earliest(p.joinDue)
		for _, q := range p.queues {
			earliest(q.due)
		}
	}
	return next, ok
}

// apply makes interfaces, groups and schedule what the callers have declared.
func (a *Announcer) apply(logger klog.Logger) {
	a.mu.Lock()
	changed := a.changed()
	a.merge()
	want := a.desired
	a.refresh, a.whole = "", false
	a.mu.Unlock()
	now := time.Now()
	if !want.whole && a.applySome(logger, want, changed, now) {
		return
	}
	a.applyAll(logger, want, now)
}

// entryFor returns the entry of an announcement on an interface: the one that there is, unless it is another node's address by now, or ours.
func (a *Announcer) entryFor(an *Announcement, iface string, now time.Time) *entry {
	e, as := a.entries[onInterface{an.Address, iface}], an.as(iface)
	if e == nil || e.as != as || e.listens != an.Listen {
		e = &entry{as: as, listens: an.Listen, since: now}
	}
	if !slices.Contains(an.Probe, iface) || e.passive() {
		e.probe.Skip()
	}
	return e
}

// applySome applies the announcements of some addresses, where nothing else was declared. It reports false, and has done nothing, if they need an
// interface that is not in use, or leave one without any.
func (a *Announcer) applySome(logger klog.Logger, want desired, changed []netip.Addr, now time.Time) bool {
	on := map[string]addressSet{} // what changes, by the interface
	for name, p := range a.ports {
		on[name] = addressSet{}
		for _, ip := range changed {
			if p.addresses[ip] != nil {
				on[name][ip] = nil
			}
		}
		if len(on[name]) > 0 && len(on[name]) == len(p.addresses) || p.err != nil {
			return false
		}
	}
	var announcements []*Announcement
	for _, ip := range changed {
		from, to := want.find(ip)
		for i := from; i < to; i++ {
			announcements = append(announcements, &want.announcements[i])
			if slices.ContainsFunc(want.announcements[i].Interfaces, func(name string) bool { return a.ports[name] == nil }) {
				return false
			}
		}
	}
	if slices.ContainsFunc(changed, func(ip netip.Addr) bool { return a.elsewhere[ip] }) {
		return false
	}
	entries := map[onInterface]*entry{}
	for _, an := range announcements {
		for _, name := range an.Interfaces {
			e := a.entryFor(an, name, now)
			entries[onInterface{an.Address, name}], on[name][an.Address] = e, e
		}
	}
	for name, set := range on {
		for ip := range set {
			delete(a.entries, onInterface{ip, name})
		}
		if len(set) > 0 {
			a.ports[name].changeAddresses(&a.schedule, set, now)
		}
	}
	maps.Copy(a.entries, entries)
	a.proceed(logger, now)
	a.publishSome(changed)
	return true
}

// applyAll applies everything that is declared.
func (a *Announcer) applyAll(logger klog.Logger, want desired, now time.Time) {
	usable, stations := map[string]Interface{}, stationSet{}
	for _, iface := range want.interfaces {
		usable[iface.Name] = iface
		if len(iface.MAC) == len(mac{}) {
			stations[mac(iface.MAC)] = struct{}{}
		}
	}
	a.stations.Store(&stations)
	a.missing, a.elsewhere = nil, map[netip.Addr]bool{}
	wanted, entries := map[string]addressSet{}, make(map[onInterface]*entry, len(a.entries))
	for _, an := range want.announcements {
		for _, name := range an.Interfaces {
			e := a.entryFor(&an, name, now)
			entries[onInterface{an.Address, name}] = e
			if _, ok := usable[name]; !ok {
				if a.elsewhere[an.Address] = true; !e.passive() {
					a.missing = append(a.missing, Status{Address: an.Address, Interface: name, Err: ErrNoInterface})
				}
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
		switch {
		case !p.iface.equal(usable[name]) || len(wanted[name]) == 0 && p.err == nil:
			a.closePort(logger, p)
		case len(wanted[name]) == 0:
			p.setAddresses(&a.schedule, addressSet{}, now) // It is tried again for Failed alone.
		}
	}
	if want.refresh != "" && a.refreshAt.IsZero() {
		a.refreshAt = later(now, a.refreshed.Add(refreshPause))
	}
	a.repeat(logger, now)
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
	a.publishFailed(now)
}

// refreshPause is the least time between two repetitions by Refresh.
const refreshPause = 10 * time.Second

// repeat begins the announcements of all addresses anew, if that is due.
func (a *Announcer) repeat(logger klog.Logger, now time.Time) {
	if a.refreshAt.IsZero() || now.Before(a.refreshAt) {
		return
	}
	a.refreshAt, a.refreshed = time.Time{}, now
	for _, p := range a.ports {
		for _, t := range p.tasks {
			if t.entry.probe.state == probeFree {
				a.schedule.burst(t, now)
			}
		}
	}
	logger.V(2).Info("Repeated announcements", "count", len(a.schedule))
}

// closePort ends the use of an interface.
func (a *Announcer) closePort(logger klog.Logger, p *port) {
	p.close(&a.schedule)
	delete(a.ports, p.iface.Name)
	a.metrics.inUse.DeleteLabelValues(p.iface.Name)
	logger.V(2).Info("Closed interface", "interface", p.iface.Name)
}

// retry opens what could not be opened before. An interface without an address was tried only to find out whether it can be.
func (a *Announcer) retry(logger klog.Logger) {
	now, changed := time.Now(), false
	for _, p := range a.ports {
		if !p.retryAt.IsZero() && !now.Before(p.retryAt) {
			p.ensure(logger, &a.schedule, a.openPort, now)
			changed = true
			if len(p.addresses) == 0 && p.err == nil {
				a.closePort(logger, p)
			}
		}
	}
	if changed {
		a.publish()
	}
	a.publishFailed(now)
}

// proceed does what is due: it takes in conflicts first, so that none comes too late for an address whose probing ends now, and then sends
// probes and announcements. Only addresses that are declared at this moment are in the schedule.
func (a *Announcer) proceed(logger klog.Logger, now time.Time) {
	for _, c := range a.conflicts.take() {
		a.handleConflict(logger, c, now)
	}
	for len(a.schedule) > 0 && !now.Before(a.schedule[0].due) {
		switch t := a.schedule[0]; {
		case t.entry.probe.state != probeFree:
			a.stepProbe(logger, t, now)
		default:
			a.schedule.remove(t)
			t.port.pace.add(t)
		}
	}
	refused := false
	for _, p := range a.ports {
		a.announce(logger, p, now)
		refused = p.joinSome(logger, now) || refused
	}
	if refused {
		a.publish()
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
	if len(a.ended) > 0 && a.results.IsZero() {
		a.results = later(now, a.lastResults.Add(resultsInterval))
	}
	if !a.results.IsZero() && !now.Before(a.results) {
		a.publishSome(a.ended)
		a.ended, a.results, a.lastResults = nil, time.Time{}, now
		if a.config.OnProbed != nil {
			a.config.OnProbed()
		}
	}
}

// announce announces on an interface what is due there, as far as the pace and the socket let.
func (a *Announcer) announce(logger klog.Logger, p *port, now time.Time) {
	for t, forms := p.pace.next(now); t != nil; t, forms = p.pace.next(now) {
		if !p.announce(t.address, forms) {
			p.pace.refused(t, now)
			return
		}
		if t.conflict != nil {
			a.defended(logger, *t.conflict, now)
		} else if t.step == askAfter || !t.isBurst() {
			p.ask(t.address, now) // Two speakers that took the address over at the same time learn of each other.
		}
		a.schedule.sent(t, now)
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

// stepProbe goes on with the probing of an address. If the address is free, it is announced from now on.
func (a *Announcer) stepProbe(logger klog.Logger, t *task, now time.Time) {
	p, e := t.port, t.entry
	send := e.probe.Step(now)
	e.show() // The readers listen before the question is out.
	if send && !p.probe(t.address, e.nonce) {
		e.probe.Refused(now)
	}
	switch e.probe.state {
	case probeFree:
		logger.V(2).Info("Found no other station with the address", "address", t.address, "interface", p.iface.Name)
		a.schedule.burst(t, now)
		a.ended = append(a.ended, t.address)
	case probeWaiting:
		a.schedule.remove(t)
		p.queues[protocolOf(t.address)].add(t)
	default:
		a.schedule.put(t, e.probe.due)
	}
}

// defendInterval is RFC 5227's DEFEND_INTERVAL, and speakerDefence how long after its last conflict a speaker is answered. For
// handoverPatience this node may answer for an address beside the node that it hands it over to.
const (
	defendInterval   = 10 * time.Second
	speakerDefence   = time.Second
	handoverPatience = 3 * time.Second
)

// handleConflict ends the probing of an address. An address that is announced already is defended by one
// announcement (RFC 5227 §2.4 (c)). We never give it up, since which node announces it is decided elsewhere. The interval keeps two hosts
// that both defend an address from an endless exchange.
//
// The last of several conflicts within an interval is answered when the interval ends, or neighbours would believe the other station until
// the next refresh. For example, of conflicts about 198.51.100.200 at 0 s, 1 s and 3 s, the first is answered at 0 s and the last at 10 s.
//
// A speaker that uses the address is answered a second after its last conflict, and never at once: the two soon agree which of them announces
// it, and until then an answer would only cause the next one. For example node2 has lost the cluster's network, announces the address at 0 s,
// 0.1 s, 0.3 s and 1 s, and then finds that it is alone: neighbours hear from us at 2 s.
func (a *Announcer) handleConflict(logger klog.Logger, c conflict, now time.Time) {
	p := c.port
	if e := p.addresses[c.address]; e != nil && e.passive() && a.ports[p.iface.Name] == p {
		if a.config.OnRival != nil && (e.listens || now.Sub(e.since) >= handoverPatience) {
			a.config.OnRival(Rival{Address: c.address, Interface: p.iface.Name, MAC: c.station[:]})
		}
		return
	}
	t := p.tasks[c.address]
	if a.ports[p.iface.Name] != p || t == nil {
		return // The address was withdrawn since.
	}
	if e := t.entry; e.probe.state != probeFree {
		if !e.probe.Conflict(now, c.station) {
			return
		}
		e.show()
		a.schedule.put(t, e.probe.due)
		logger.Info("Did not announce an address that another station has", "address", c.address, "interface", p.iface.Name,
			"mac", net.HardwareAddr(c.station[:]).String(), "protocol", c.protocol, "probedAgainIn", e.probe.due.Sub(now).String())
		a.report(c, true)
		a.ended = append(a.ended, c.address)
		return
	}
	if t.conflict != nil && t.queue > 0 {
		t.conflict = &c // An answer waits for its turn.
		return
	}
	due := now
	if a.speakers.Load().has(c.station) {
		if a.config.OnRival != nil {
			a.config.OnRival(Rival{Address: c.address, Interface: p.iface.Name, MAC: c.station[:]})
		}
		due = now.Add(speakerDefence)
	}
	if last, ok := p.defended[c.address]; ok {
		due = later(due, last.Add(defendInterval))
	}
	if due.After(now) {
		a.schedule.deferDefence(t, due, c)
		return
	}
	a.schedule.defend(t, c)
}

// defended reports a conflict that an announcement has answered.
func (a *Announcer) defended(logger klog.Logger, c conflict, now time.Time) {
	p := c.port
	p.defended[c.address] = now
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

// publishFailed makes the interfaces that cannot be opened visible to Failed.
func (a *Announcer) publishFailed(now time.Time) {
	failed := map[string]error{}
	for name, p := range a.ports {
		if p.err != nil && !now.Before(p.failedSince.Add(failedAfter)) {
			failed[name] = p.err
		}
	}
	if maps.EqualFunc(failed, a.Failed(), func(x, y error) bool { return x.Error() == y.Error() }) {
		return
	}
	a.failed.Store(&failed)
	if a.config.OnFailed != nil {
		a.config.OnFailed()
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
