// SPDX-License-Identifier: Apache-2.0

// Package ledger is the one owner of what the server remembers of addresses and Services. It reads informers, writes
// nothing to the API, and waits for nothing but the informers.
//
// It remembers what the API does not say. For example, web asks for an IPv4 address and is given 192.0.2.1: from
// then on the cache holds the address for web, a write says that its claim is on its way, and a mark that its status is.
// When both informers show what was written, the ledger has no write and no mark of the two any more.
//
// Its other half (requests.go) is what requests leave behind: what a Service was given, what it waits for, and what
// its user was told.
package ledger

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// byPublished is the index of Services by the addresses in their status.
const byPublished = "published"

// clockSkew is how much the clock of an earlier leader may be ahead of ours.
const clockSkew = time.Minute

// Ledger is what is known of addresses and Services. It is safe for concurrent use.
type Ledger struct {
	// Cache is the allocator; it has a lock of its own.
	Cache *ipam.Allocator
	// Rules are about annotations.
	Rules request.Rules
	// Grace is repair.Grace, and longer where leases last longer.
	Grace time.Duration

	services corelisters.ServiceLister
	statuses cache.Indexer // of Services, with the index byPublished
	claims   cache.Indexer // with the index byTenant

	mu sync.Mutex
	// mu guards all following fields.
	marks   map[pair]mark
	own     map[netip.Addr]written        // our last write to a claim, until the informer shows it
	waiting map[ipam.Service]Waiting      // the Services that have less than they asked for
	answers map[ipam.Service][]netip.Addr // what the last request of a Service gave it
	told    map[notice]string             // what a Service was told by an event, as long as it is so
}

// pair is a Service and an address that it holds.
type pair struct {
	service ipam.Service
	address netip.Addr
}

// mark says that a Service does not simply need an address that it holds: the status that will show it is being
// written, or it is surplus. For example, web goes from 192.0.2.1 to 192.0.2.9, and its status still shows the first one: 192.0.2.9 has
// the mark Writing, 192.0.2.1 the mark Surplus, and is released when the status does not show it any more.
type mark struct {
	need  repair.Need // Writing or Surplus
	until time.Time   // as in [repair.Standing]
}

// written is a write of ours: the creation of a claim, or the deletion of the one with the UID.
//
// Without it each of our own writes would look like a fault. For example, web is given 192.0.2.1, the status that
// shows it arrives by one watch, and the claim a few milliseconds later by another: in between, web publishes an
// address without a claim.
type written struct {
	deleted types.UID
	at      time.Time
}

// New returns a ledger over informers that the caller has not started yet. Leases last for so long.
func New(
	services coreinformers.ServiceInformer, claims networkinginformers.IPAddressInformer, rules request.Rules, lease time.Duration,
) (*Ledger, error) {
	if err := services.Informer().AddIndexers(cache.Indexers{byPublished: publishedAddresses}); err != nil {
		return nil, fmt.Errorf("indexing Services by address: %w", err)
	}
	if err := claims.Informer().AddIndexers(cache.Indexers{byTenant: tenants}); err != nil {
		return nil, fmt.Errorf("indexing claims by namespace: %w", err)
	}
	return &Ledger{
		Cache: ipam.New(), Rules: rules, Grace: max(repair.Grace, lease+5*time.Second),
		services: services.Lister(), statuses: services.Informer().GetIndexer(), claims: claims.Informer().GetIndexer(),
		marks: map[pair]mark{}, own: map[netip.Addr]written{}, waiting: map[ipam.Service]Waiting{},
		answers: map[ipam.Service][]netip.Addr{}, told: map[notice]string{},
	}, nil
}

// Left returns the addresses of claims on which it is written that Services have left, of pools that exist. Those of a
// pool that is gone keep what is written for a while, since the pool may be about to be made again.
func (l *Ledger) Left() (addresses []netip.Addr) {
	for _, item := range l.claims.List() {
		object := item.(*networkingv1.IPAddress)
		address, err := netip.ParseAddr(object.Name)
		if err == nil && object.Annotations[v1alpha1.AnnotationLeft] != "" && l.Cache.HasPool(object.Labels[v1alpha1.LabelAddressPool]) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// Services returns the Services as the informer shows them.
func (l *Ledger) Services() []*corev1.Service {
	services, _ := l.services.List(labels.Everything()) // a lister does not fail
	return services
}

// Service returns the Service as the informer shows it, or nil.
func (l *Ledger) Service(service ipam.Service) *corev1.Service {
	svc, err := l.services.Services(service.Namespace).Get(service.Name)
	if err != nil {
		return nil
	}
	return svc
}

// Claim returns the claim of an address as the informer shows it, nil where there is none. pending says that we have
// written a claim of the address, and the informer does not show that yet.
func (l *Ledger) Claim(address netip.Addr) (object *networkingv1.IPAddress, pending bool) {
	l.mu.Lock()
	own, wrote := l.own[address]
	l.mu.Unlock()
	item, exists, _ := l.claims.GetByKey(address.String()) // an indexer does not fail
	if exists && item.(*networkingv1.IPAddress).UID != own.deleted {
		object = item.(*networkingv1.IPAddress)
	}
	return object, wrote && own.deleted == ""
}

// Observe returns what is known of an address without asking the API. Our own writes, which the informers do not
// show yet, are taken into account: a claim that was just written is Pending, and one that was just deleted is not
// there.
func (l *Ledger) Observe(address netip.Addr) repair.Entry {
	have, pending := l.Claim(address)
	if pending {
		e := l.Entry(address, nil)
		e.Claim.State = repair.Pending
		return e
	}
	e := l.Entry(address, have)
	if have == nil && e.Blocked {
		e.Claim.State = repair.Foreign
	}
	return e
}

// Entry returns what is known of an address with this claim, or with none where it is nil.
func (l *Ledger) Entry(address netip.Addr, object *networkingv1.IPAddress) repair.Entry {
	record := l.Cache.Lookup(address)
	e := repair.Entry{
		Address: address, Pool: record.Pool, Claim: claim.Read(object), Blocked: record.Blocked, Cooling: record.Cooling != nil,
	}
	// A time to come was written by hand, or by a clock that was wrong, and the address would wait for years. Without
	// it the claim names a Service that is gone, and the time is written again.
	maps.DeleteFunc(e.Claim.Left, func(_ ipam.Service, at time.Time) bool { return time.Until(at) > clockSkew })
	services := map[ipam.Service]repair.Standing{}
	for _, service := range record.Services {
		services[service] = repair.Standing{Service: service, Holds: true}
	}
	published, _ := l.statuses.ByIndex(byPublished, address.String()) // fails for an unknown index
	for _, obj := range published {
		service := request.ServiceOf(obj.(*corev1.Service))
		services[service] = repair.Standing{Service: service, Holds: services[service].Holds, Publishes: true}
	}
	if e.Claim.State == repair.Ours {
		e.Claim.PoolGone = !l.Cache.HasPool(e.Claim.Pool)
		if len(record.Services) == 0 && e.Claim.Pool != "" {
			e.Pool = e.Claim.Pool
		}
		for _, service := range e.Claim.Named() {
			standing := services[service]
			standing.Service = service
			if ports, shares := e.Claim.Sharers[service]; shares { // as far as is known where the informer does not show the Service yet
				standing.Sharing = ipam.Sharing{Key: e.Claim.Key, Namespace: service.Namespace, Ports: ports}
			}
			services[service] = standing
		}
	}
	e.ReuseAfter = l.Cache.ReuseAfter(e.Pool)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range services {
		l.describe(&s, address)
		e.Services = append(e.Services, s)
	}
	slices.SortFunc(e.Services, func(a, b repair.Standing) int {
		return strings.Compare(a.Service.String(), b.Service.String())
	})
	return e
}

// describe fills in what a Service needs of an address: what its spec says comes first, then what it gave up, then
// what is being written. The caller holds mu.
func (l *Ledger) describe(s *repair.Standing, address netip.Addr) {
	svc := l.Service(s.Service)
	if svc != nil {
		// The status is read again, now that mu is held. An informer shows a status before its handler calls
		// seenStatus, so that a status whose mark has gone is always seen here. Otherwise a Service whose status has
		// just been written would be woken without need.
		s.Publishes = slices.Contains(request.Published(svc), address)
	}
	switch {
	case svc == nil || request.CleanupIsOurs(svc):
		s.Need = repair.Gone
		return
	case request.OtherProvider(svc):
		s.Need = repair.OtherProvider
		return
	case !request.Served(svc):
		s.Need = repair.Finishing
		return
	}
	s.Sharing = l.Rules.SharingOf(svc)
	duplicate := false
	// The other addresses of the Service matter only where it has this one by one record alone. Most addresses are
	// held and published.
	if !s.Holds || !s.Publishes {
		for _, as := range l.Cache.Held(s.Service) {
			if as.Address != address && family.Of(as.Address) == family.Of(address) {
				s.HasOther = true
				duplicate = duplicate || s.Holds && slices.Contains(request.Published(svc), as.Address)
			}
		}
	}
	m, marked := l.marks[pair{s.Service, address}]
	switch {
	case duplicate && m.need != repair.Surplus:
		s.Need = repair.Duplicate
	case marked:
		s.Need, s.Until = m.need, m.until
	}
}

// Hold takes a step Hold. Where another leader has created the claim, it may be about to publish it.
func (l *Ledger) Hold(e repair.Entry, step repair.Step) {
	l.Cache.Hold(step.Service, e.Address, e.Pool, step.Sharing)
	if svc := l.Service(step.Service); svc != nil {
		l.MarkWriting(svc, []ipam.Assignment{{Address: e.Address}})
	}
}

// Share takes a step Share: the cache learns the ports that the claim has now. Most requests bring them too, but those that
// fail. For example, web has 192.0.2.1 with port 80, and one edit asks for port 81 and for a pool that does not exist: api,
// which asks for port 81, must not be sent to 192.0.2.1, whose claim has that port of web.
func (l *Ledger) Share(e repair.Entry) {
	for _, s := range e.Services {
		if _, listed := e.Claim.Sharers[s.Service]; listed && s.Holds && (s.Need == repair.Needed || s.Need == repair.Writing) {
			l.Cache.Hold(s.Service, e.Address, e.Pool, s.Sharing)
		}
	}
}

// Drop takes the address from the Service in the cache at this time, and forgets what was known of the two. The time is
// zero where no client has found the Service there, so that the address need not wait for it.
func (l *Ledger) Drop(at time.Time, service ipam.Service, address netip.Addr) {
	l.Cache.Release(at, service, address)
	l.Keep(service, address)
}

// MarkWriting records that a request gives the Service these addresses, or leaves them to it, and that the status is to
// show them soon. What the Service gave up before and goes on with is surplus no more.
func (l *Ledger) MarkWriting(svc *corev1.Service, given []ipam.Assignment) {
	shown, writing := request.Published(svc), mark{repair.Writing, time.Now().Add(l.Grace)}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, as := range given {
		if p := (pair{request.ServiceOf(svc), as.Address}); slices.Contains(shown, as.Address) {
			delete(l.marks, p)
		} else {
			l.marks[p] = writing
		}
	}
}

// MarkSurplus records that the Service does not want these addresses any more. What it publishes stays until the status
// changes, however long that takes; what it does not publish stays for the grace.
func (l *Ledger) MarkSurplus(svc *corev1.Service, surplus []ipam.Assignment) {
	service, shown := request.ServiceOf(svc), request.Published(svc)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, as := range surplus {
		p, m := pair{service, as.Address}, mark{need: repair.Surplus}
		if l.marks[p].need == repair.Surplus {
			continue // the time counts from the first request that gave it up
		}
		if !slices.Contains(shown, as.Address) {
			m.until = time.Now().Add(l.Grace)
		}
		l.marks[p] = m
	}
}

// Cool takes a step Cool: it records who has left the address, and when.
func (l *Ledger) Cool(e repair.Entry) {
	for service, at := range e.Claim.Left {
		l.Cache.Released(service, e.Address, e.Pool, at)
	}
}

// Keep records that the Service goes on with an address that it had given up.
func (l *Ledger) Keep(service ipam.Service, address netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.marks, pair{service, address})
}

// SeenStatus records what a status shows, even if it shows it for a moment only. What it shows is not on its way
// into the status any more; if it is missing later, it was taken out.
func (l *Ledger) SeenStatus(svc *corev1.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, address := range request.Published(svc) {
		if p := (pair{request.ServiceOf(svc), address}); l.marks[p].need == repair.Writing {
			delete(l.marks, p)
		}
	}
}

// Wrote records a write of ours to the claim of an address: a creation, or the deletion of the claim with the UID.
func (l *Ledger) Wrote(address netip.Addr, deleted types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own[address] = written{deleted: deleted, at: time.Now()}
}

// SeenClaim records that the informer shows the claim of an address, so that it is right about our creation, or
// that a creation failed.
func (l *Ledger) SeenClaim(address netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own[address].deleted == "" {
		delete(l.own, address)
	}
}

// SeenDeletion records that the informer shows the deletion of the claim with the UID, or that the deletion failed.
func (l *Ledger) SeenDeletion(address netip.Addr, uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own[address].deleted == uid {
		delete(l.own, address)
	}
}

// ExpireWrites forgets writes that the informer should have shown long ago, as where a claim was created and
// deleted while its watch was down.
func (l *Ledger) ExpireWrites() {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.own, func(_ netip.Addr, w written) bool { return time.Since(w.at) > time.Minute })
}

// Addresses returns every address that anything is known of: held or blocked by the cache, published, or claimed.
func (l *Ledger) Addresses() map[netip.Addr]struct{} {
	known := map[netip.Addr]struct{}{}
	for _, address := range l.Cache.Addresses() {
		known[address] = struct{}{}
	}
	names := l.statuses.ListIndexFuncValues(byPublished)
	names = append(names, l.claims.ListKeys()...)
	for _, name := range names {
		if address, err := netip.ParseAddr(name); err == nil {
			known[address] = struct{}{}
		}
	}
	return known
}

// Of returns the addresses that a Service holds or publishes, each once. For example, web holds 192.0.2.1, and k3s has written
// 198.51.100.11 into its status: both have to be looked at.
func (l *Ledger) Of(service ipam.Service) []netip.Addr {
	addresses := ipam.AddressesOf(l.Cache.Held(service))
	if svc := l.Service(service); svc != nil {
		for _, address := range request.Published(svc) {
			if !slices.Contains(addresses, address) {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// publishedAddresses is the index function of byPublished. Names are spelt as netip does.
func publishedAddresses(obj any) ([]string, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	var names []string
	for _, address := range request.Published(svc) {
		names = append(names, address.String())
	}
	return names, nil
}
