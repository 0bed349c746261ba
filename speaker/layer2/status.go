// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/google/btree"
)

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

func (s Status) equal(o Status) bool {
	return s.Address == o.Address && s.Interface == o.Interface && s.Announced == o.Announced &&
		(s.Err == nil) == (o.Err == nil) && (s.Err == nil || s.Err.Error() == o.Err.Error())
}

// isInUse reports whether another station has the address.
func (s Status) isInUse() bool { _, is := errors.AsType[*InUseError](s.Err); return is }

// statuses are those of all addresses, and the failing ones among them, both ordered by address and interface. What was published is never
// changed: the next state is a clone, which shares with it what has not changed. So one change among 20,000 addresses costs some kilobytes, and not
// all of them.
type statuses struct{ all, failing *btree.BTreeG[Status] }

func newStatuses() *statuses {
	less := func(x, y Status) bool {
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.Interface, y.Interface)) < 0
	}
	return &statuses{all: btree.NewG(16, less), failing: btree.NewG(16, less)}
}

func (x *statuses) clone() *statuses {
	return &statuses{all: x.all.Clone(), failing: x.failing.Clone()}
}

// put adds a Status, in place of the one of the same address and interface.
func (x *statuses) put(s Status) {
	x.all.ReplaceOrInsert(s)
	if s.Err != nil {
		x.failing.ReplaceOrInsert(s)
	} else {
		x.failing.Delete(s)
	}
}

// remove removes the Status of the same address and interface.
func (x *statuses) remove(s Status) {
	x.all.Delete(s)
	x.failing.Delete(s)
}

// listed returns statuses in their order.
func listed(of *btree.BTreeG[Status]) (list []Status) {
	of.Ascend(func(s Status) bool {
		list = append(list, s)
		return true
	})
	return list
}

// Announced returns the Status of each declared address on each of its interfaces, ordered by address and interface, but for those of which
// this node is only the deputy, and those that it listens for. All are of one moment.
func (a *Announcer) Announced() []Status {
	return listed(a.status.Load().all)
}

// Failing returns those of Announced that have an Err.
func (a *Announcer) Failing() []Status {
	return listed(a.status.Load().failing)
}

// Lookup returns a function that finds single Statuses among those that Announced would return now.
func (a *Announcer) Lookup() func(address netip.Addr, iface string) (s Status, found bool) {
	now := a.status.Load().all
	return func(address netip.Addr, iface string) (Status, bool) {
		return now.Get(Status{Address: address, Interface: iface})
	}
}

// publish makes the current state visible to Announced.
func (a *Announcer) publish() {
	now := newStatuses()
	for _, s := range a.missing {
		now.put(s) // The same address may have been declared twice.
	}
	for name, p := range a.ports {
		inUse := 0
		for address := range p.addresses {
			if s, ok := p.status(address); ok {
				now.put(s)
				inUse += count(s)
			}
		}
		a.metrics.inUse.WithLabelValues(name).Set(float64(inUse))
	}
	if !slices.EqualFunc(listed(a.status.Load().all), listed(now.all), Status.equal) {
		a.show(now)
	}
}

// publishSome does so with what has changed of some addresses on the interfaces that are in use.
func (a *Announcer) publishSome(changed []netip.Addr) {
	before := a.status.Load()
	now := before
	for _, address := range changed {
		for name, p := range a.ports {
			old, was := now.all.Get(Status{Address: address, Interface: name})
			s, is := p.status(address)
			if was == is && s.equal(old) {
				continue
			}
			if now == before {
				now = before.clone()
			}
			if is {
				now.put(s)
			} else {
				now.remove(old)
			}
			a.metrics.inUse.WithLabelValues(name).Add(float64(count(s) - count(old)))
		}
	}
	if now != before {
		a.show(now)
	}
}

// count returns 1 for an address that another station has.
func count(s Status) int {
	if s.isInUse() {
		return 1
	}
	return 0
}

// show has Announced return another state.
func (a *Announcer) show(now *statuses) {
	a.status.Store(now)
	if a.config.OnChange != nil {
		a.config.OnChange()
	}
}

// status returns that of an address, false if the port does not announce it: then it is another node's.
func (p *port) status(address netip.Addr) (s Status, announces bool) {
	e := p.addresses[address]
	if e == nil || e.passive() {
		return Status{}, false
	}
	s = Status{Address: address, Interface: p.iface.Name, Announced: p.wire != nil && e.probe.state == probeFree, Err: p.err}
	if p.wire != nil && address.Is6() {
		s.Err = p.unjoined[solicitedNodeGroup(address)]
	}
	if e.probe.inUse() {
		s.Err = cmp.Or(p.err, error(&InUseError{MAC: slices.Clone(e.probe.station[:])}))
	}
	return s, true
}
