// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// kept is what the loop keeps from one decision to the next, so that a change costs what depends on it, and not what depends on nothing
// that has changed.
type kept struct {
	index   *observation.Index   // nil before anything was read
	few     *observation.Objects // of the kinds with few objects
	config  config.Config        // compiled from few
	decider decision.Decider
	// surroundings is the latest snapshot of everything but Services, and published what SpeakerStatuses say of addresses in use.
	surroundings *decision.Snapshot
	published    func(node, iface string, ip netip.Addr) decision.Probe
	ofOthers     map[netip.Addr]bool // the addresses of other nodes
}

// read takes in what has changed of the API's objects, and reports whether more than Services may have changed by that.
func (l *loop) read(ctx context.Context) (changed bool, err error) {
	events, stale := l.feed.take() // before the cache is read, so that what comes later is not missed
	if l.kept.index == nil {
		l.kept.index = observation.NewIndex()
		l.timing.publishers, l.kernelTiming.publishers = l.kept.index.Publishers, l.kept.index.Publishers
		if err := l.synchronize(ctx); err != nil {
			l.kept.index = nil
			l.feed.change() // All is to be read again.
			return false, err
		}
	}
	for _, e := range events {
		changed = l.apply(e) || changed
	}
	for _, a := range l.records.Fresh() {
		service := types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}
		if known := l.kept.index.Record(service); known == nil || !isOlder(a, known) {
			l.kept.index.Put(a)
		}
	}
	if !stale {
		return changed, nil
	}
	few, err := readFew(ctx, l.cache)
	if err != nil {
		l.feed.change() // It is to be read again.
		return false, err
	}
	l.keep(few)
	return true, nil
}

// keep replaces the objects of the kinds with few objects. Their configuration is compiled once.
func (l *loop) keep(few *observation.Objects) {
	few.Rules = l.cfg.exclusionRules()
	l.kept.few = few
	l.kept.config, _ = config.Compile(few.Config)
}

// apply takes in one event. A record that this node has written, or read past the cache, counts until the cache has it. It reports whether
// the event is that of a record whose node is not known to be alive: a speaker that writes is.
func (l *loop) apply(e event) (news bool) {
	object := e.object
	if a, ok := object.(*v1alpha1.L2Announcement); ok {
		if newest := l.records.Newest(a); newest != a {
			e.exists, object = true, newest
		}
		news = a.Status.Node != "" && (l.kept.surroundings == nil || !l.kept.surroundings.Alive(a.Status.Node))
	}
	if e.exists {
		l.kept.index.Put(object)
	} else {
		l.kept.index.Delete(object)
	}
	return news
}

// synchronize takes in all objects that the cache has, whatever the events said.
func (l *loop) synchronize(ctx context.Context) error {
	few, err := readFew(ctx, l.cache)
	if err != nil {
		return err
	}
	many, err := readMany(ctx, l.cache)
	if err != nil {
		return err
	}
	l.records.Renew(many.Announcements)
	l.kept.index.Synchronize(many)
	l.keep(few)
	return nil
}

// has reports whether an interface has an address.
func has(links *link.Snapshot, ip netip.Addr) bool {
	return slices.ContainsFunc(links.Interfaces, func(i link.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(a link.Address) bool { return a.Prefix.Addr() == ip })
	})
}
