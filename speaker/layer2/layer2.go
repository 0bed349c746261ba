// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/signal"
)

// An Announcement asks for one address to be answered for on some interfaces.
type Announcement struct {
	Address netip.Addr
	// Interfaces are exact names.
	Interfaces []string
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
	// Err is why the address is not announced, or, where it is, why neighbours may not reach us: its multicast group could not be joined.
	Err error
}

// A Conflict says that another station uses an address that is announced here (RFC 5227 §2.4).
type Conflict struct {
	Address   netip.Addr
	Interface string
	MAC       net.HardwareAddr // of the other station
	Protocol  Protocol
}

// Config configures an Announcer. Each field may be left out. The functions are called by the goroutine in Run and must return soon.
type Config struct {
	Registerer prometheus.Registerer
	// OnConflict is called when an address is defended, and so at most every ten seconds for each address and interface.
	OnConflict func(Conflict)
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

	// stations are the MACs of all usable interfaces.
	stations  atomic.Pointer[map[mac]struct{}]
	status    atomic.Pointer[[]Status]
	failures  chan failure
	conflicts chan conflict

	// What follows is owned by the goroutine in Run.

	ports    map[string]*port
	schedule schedule
	// missing are the interfaces of announcements that cannot be used.
	missing []Status
}

// desired is what the callers have declared.
type desired struct {
	announcements []Announcement // sorted by address
	interfaces    []Interface    // sorted by name
	refresh       string         // the reason, "" for none
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

// New returns an Announcer that announces nothing yet.
func New(config Config) *Announcer {
	return &Announcer{
		config:   config,
		metrics:  newMetrics(config.Registerer),
		open:     openSockets,
		wake:     signal.New(),
		failures: make(chan failure),
		// While so many wait, further conflicts are only counted.
		conflicts: make(chan conflict, 64),
		ports:     map[string]*port{},
	}
}

// Set declares all addresses that are to be announced. An address that it does not name is no longer answered for. An address that is not a
// unicast address is ignored. Calling Set again with the same announcements, in whatever order, does nothing.
func (a *Announcer) Set(announcements []Announcement) {
	announcements = slices.Clone(announcements)
	for i := range announcements {
		names := slices.Sorted(slices.Values(announcements[i].Interfaces))
		announcements[i].Address = announcements[i].Address.Unmap().WithZone("")
		announcements[i].Interfaces = slices.Compact(names)
	}
	announcements = slices.DeleteFunc(announcements, func(an Announcement) bool {
		return !an.Address.IsValid() || an.Address.IsMulticast() || an.Address.IsUnspecified()
	})
	slices.SortFunc(announcements, func(x, y Announcement) int { return x.Address.Compare(y.Address) })

	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.EqualFunc(a.announcements, announcements, func(x, y Announcement) bool {
		return x.Address == y.Address && slices.Equal(x.Interfaces, y.Interfaces)
	}) {
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

// Refresh repeats the takeover announcements of all addresses, for instance because another node may have announced them while it could not
// be heard.
func (a *Announcer) Refresh(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh = cmp.Or(reason, "unknown")
	a.wake.Raise()
}

// Announced returns the Status of each declared address on each of its interfaces, ordered by address and interface. All are of one moment.
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
		case c := <-a.conflicts:
			a.catchUp(logger)
			a.handleConflict(logger, c)
		case <-timer.C:
			a.catchUp(logger)
			a.retry(logger)
			a.announceDue(logger, time.Now())
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

// next returns when the next announcement or retry is due, and false if none is.
func (a *Announcer) next() (next time.Time, ok bool) {
	if len(a.schedule) > 0 {
		next, ok = a.schedule[0].due, true
	}
	for _, p := range a.ports {
		if !p.retryAt.IsZero() && (!ok || p.retryAt.Before(next)) {
			next, ok = p.retryAt, true
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

	usable, stations := map[string]Interface{}, map[mac]struct{}{}
	for _, iface := range want.interfaces {
		usable[iface.Name] = iface
		if len(iface.MAC) == len(mac{}) {
			stations[mac(iface.MAC)] = struct{}{}
		}
	}
	a.stations.Store(&stations)
	a.missing = nil
	wanted := map[string]addressSet{}
	for _, an := range want.announcements {
		for _, name := range an.Interfaces {
			if _, ok := usable[name]; !ok {
				a.missing = append(a.missing, Status{Address: an.Address, Interface: name, Err: ErrNoInterface})
				continue
			}
			if wanted[name] == nil {
				wanted[name] = addressSet{}
			}
			wanted[name][an.Address] = struct{}{}
		}
	}

	for name, p := range a.ports {
		if len(wanted[name]) == 0 || !p.iface.equal(usable[name]) {
			p.close(&a.schedule)
			delete(a.ports, name)
			logger.V(2).Info("Closed interface", "interface", name)
		}
	}
	if want.refresh != "" {
		a.schedule.restart(now)
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
	a.announceDue(logger, now)
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

// announceDue sends the announcements whose time has come. Only addresses that are announced at this moment are in the schedule.
func (a *Announcer) announceDue(logger klog.Logger, now time.Time) {
	for len(a.schedule) > 0 && !now.Before(a.schedule[0].due) {
		t := a.schedule[0]
		if c := t.conflict; c != nil {
			a.defend(logger, *c, now)
		} else {
			t.port.announce(t.address, t.isBurst())
		}
		a.schedule.sent(t, now)
	}
}

// defendInterval is RFC 5227's DEFEND_INTERVAL.
const defendInterval = 10 * time.Second

// handleConflict defends the address by one announcement (RFC 5227 §2.4 (c)). We never give the address up, since which node announces it
// is decided elsewhere. The interval keeps two hosts that both defend an address from an endless exchange.
//
// The last of several conflicts within an interval is answered when the interval ends, or neighbours would believe the other station until
// the next refresh. For example, of conflicts about 198.51.100.200 at 0 s, 1 s and 3 s, the first is answered at 0 s and the last at 10 s.
func (a *Announcer) handleConflict(logger klog.Logger, c conflict) {
	p := c.port
	t := p.tasks[c.address]
	if a.ports[p.iface.Name] != p || t == nil {
		return // The address was withdrawn since.
	}
	now := time.Now()
	if last, ok := p.defended[c.address]; ok && now.Sub(last) < defendInterval {
		a.schedule.deferDefence(t, last.Add(defendInterval), c)
		return
	}
	a.defend(logger, c, now)
}

// defend announces the address and reports the conflict.
func (a *Announcer) defend(logger klog.Logger, c conflict, now time.Time) {
	p := c.port
	p.defended[c.address] = now
	p.announce(c.address, true)
	report := Conflict{Address: c.address, Interface: p.iface.Name, MAC: c.station[:], Protocol: c.protocol}
	logger.Info("Defended an address that another station uses",
		"address", c.address, "interface", p.iface.Name, "mac", report.MAC.String(), "protocol", c.protocol)
	if a.config.OnConflict != nil {
		a.config.OnConflict(report)
	}
}

// publish makes the current state visible to Announced.
func (a *Announcer) publish() {
	status := slices.Clone(a.missing)
	for name, p := range a.ports {
		for address := range *p.announced.Load() {
			s := Status{Address: address, Interface: name, Announced: p.wire != nil, Err: p.err}
			if p.wire != nil && address.Is6() {
				s.Err = p.unjoined[solicitedNodeGroup(address)]
			}
			status = append(status, s)
		}
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
