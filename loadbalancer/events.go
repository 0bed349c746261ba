// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// firstRetry and lastRetry bound the back-off of an item that fails, which doubles from one to the other. The service
// controller waits up to 300 seconds; a claim that is missing keeps an address from being announced, so we try more
// often.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// auditPeriod is the time between two audits. An event that was missed leaves an address wrong for so long at most.
// An audit reads memory only, 20,000 addresses in a fraction of a second.
const auditPeriod = 10 * time.Minute

// networkPeriod is how long changes of the network of the Nodes are gathered before it is read again.
const networkPeriod = 500 * time.Millisecond

// item is something to do, in one of two queues. A queue hands out an item to one goroutine at a time, and once where
// it was added several times before.
type item struct {
	kind    kind
	service ipam.Service // of repairService and nameWriter
	address netip.Addr   // of repairAddress and checkBlocked
}

type kind int

const (
	// The following are the items of Server.plans. One goroutine takes them, and works in memory only.
	setPools     kind = iota // read all AddressPools again
	replacePools             // give the addresses of a pool that stays away to another one
	setNetwork               // read the network of the Nodes again
	wakeWaiting              // something may be free that a waiting Service asked for
	audit                    // look at everything, as if there had been an event of each object

	// The following are the items of Server.repairs. The workers take them, and ask the
	// API.
	repairAddress
	checkBlocked  // repair an address when its foreign claim is gone
	repairService // repair the addresses that a Service holds or publishes, under the Service's lock
	writeUsage    // write the statuses of AddressPools
	nameWriter    // find out who else writes the status of a Service
)

// newQueue returns a queue for items.
func newQueue() workqueue.TypedRateLimitingInterface[item] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](firstRetry, lastRetry))
}

// watch registers the handlers of the informers.
//
//	event                                        leads to
//	AddressPool created, changed, deleted        setPools
//	claim created, changed, deleted              a look at the address
//	Service changed in spec, status or labels    a look at the addresses that it holds or publishes
//	Service deleted                              a look at the addresses that it held
//	Namespace created, or its labels changed     wakeWaiting
//
// The creation of a Service is the service controller's business. Foreign claims are not watched, since most clusters
// have one or two for each of their Services, the ClusterIPs, and none of them in a pool: a foreign claim is noticed
// when we want to claim its address.
func (s *Server) watch(cfg Config) error {
	pools := func(any) { s.plans.Add(item{kind: setPools}) }
	waiting := func(any) { s.plans.Add(item{kind: wakeWaiting}) }
	for _, w := range []struct {
		informer Informer
		handler  cache.ResourceEventHandler
	}{
		{cfg.PoolInformer, cache.ResourceEventHandlerFuncs{
			AddFunc: pools,
			UpdateFunc: func(old, cur any) {
				// A pool that was replaced while the watch was down starts at generation 1 again. A status that comes
				// late, or that somebody has edited, is compared with what it should be.
				if o, c := old.(*v1alpha1.AddressPool), cur.(*v1alpha1.AddressPool); o.Generation != c.Generation || o.UID != c.UID {
					pools(c)
				} else if o.ResourceVersion != c.ResourceVersion {
					s.usageChanged()
				}
			},
			DeleteFunc: pools,
		}},
		{cfg.Claims.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.claimEvent(obj, false) },
			UpdateFunc: func(_, cur any) { s.claimEvent(cur, false) },
			DeleteFunc: func(obj any) { s.claimEvent(obj, true) },
		}},
		{cfg.Services.Informer(), cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, cur any) { s.serviceEvent(old.(*corev1.Service), cur.(*corev1.Service)) },
			DeleteFunc: func(obj any) {
				if key, err := cache.DeletionHandlingObjectToName(obj); err == nil {
					s.changed(item{kind: repairService, service: ipam.Service{Namespace: key.Namespace, Name: key.Name}})
				}
			},
		}},
		{cfg.Namespaces.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: waiting,
			UpdateFunc: func(old, cur any) {
				if !reflect.DeepEqual(old.(*corev1.Namespace).Labels, cur.(*corev1.Namespace).Labels) {
					waiting(cur)
				}
			},
		}},
	} {
		if _, err := w.informer.AddEventHandler(w.handler); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		s.synced = append(s.synced, w.informer.HasSynced)
	}
	return nil
}

// claimEvent is the handler of claims. The ledger is told first: what follows has to know that the informer shows our
// own write by now. For example, the claim of 192.0.2.1 appears, which we have created for web. The records agree,
// and the event ends here. Where another leader has created it, web does not hold 192.0.2.1 yet, and a worker looks
// at the address.
func (s *Server) claimEvent(obj any, gone bool) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	claim, ok := obj.(*networkingv1.IPAddress)
	if !ok {
		return
	}
	address, err := netip.ParseAddr(claim.Name)
	if err != nil {
		return
	}
	if gone {
		s.ledger.SeenDeletion(address, claim.UID)
	} else {
		s.ledger.SeenClaim(address)
	}
	s.changed(item{kind: repairAddress, address: address})
}

// serviceEvent is the handler of changed Services. Most changes are annotations that other controllers write about
// themselves.
func (s *Server) serviceEvent(old, cur *corev1.Service) {
	s.ledger.SeenStatus(cur)
	before, sharing := s.ledger.Rules.SharingOf(old), s.ledger.Rules.SharingOf(cur)
	relabelled := !reflect.DeepEqual(old.Labels, cur.Labels)
	if relabelled || before.Key != sharing.Key || !reflect.DeepEqual(old.Status, cur.Status) || !reflect.DeepEqual(old.Spec, cur.Spec) {
		s.changed(item{kind: repairService, service: request.ServiceOf(cur)})
	}
	// The service controller looks neither at labels, by which a pool may admit the Service now, nor at selectors, nor
	// at ipFamilyPolicy. With another selector the Service may have to leave its address to the Services that share it,
	// or may keep no other Service from sharing any more. With another policy it may be content with one family, or not
	// any more.
	if relabelled {
		s.plans.Add(item{kind: wakeWaiting})
	}
	if !request.Served(cur) {
		return
	}
	if !ptr.Equal(old.Spec.IPFamilyPolicy, cur.Spec.IPFamilyPolicy) || sharing.Key != "" && sharing.Backends != before.Backends {
		s.wake(cur)
	}
}

// changed looks at what an item names, and leaves it to the workers where there is more to do than can be done in
// memory.
//
// It takes no lock, and asks nothing of the API, because nearly all events are echoes of our own writes: the claim of
// 192.0.2.1 appears, the status of web shows 192.0.2.1. The records agree then, and there is nothing to do. It may be
// called in a handler, where client-go lets no other event of the informer through.
func (s *Server) changed(it item) {
	if !s.isReady() || s.look(it) {
		s.repairs.Add(it)
	}
}

// look repairs in memory what can be repaired there, of one address or of all that a Service holds or publishes. It
// reports whether there is more to do.
//
// For example, a user empties the status of web, which holds 192.0.2.1. The step is to wake web, which needs no look at
// the API. Or the Service web is deleted without its finalizer: then 192.0.2.1 has to be released, which a worker does,
// after it has asked the API whether web is really gone.
func (s *Server) look(it item) (more bool) {
	addresses := []netip.Addr{it.address}
	if it.kind == repairService {
		if svc := s.ledger.Service(it.service); svc == nil || !request.Served(svc) {
			s.forget(it.service)
		}
		addresses = s.ledger.Of(it.service)
	}
	for _, address := range addresses {
		e := s.ledger.Observe(address)
		steps := repair.Steps(e, time.Now())
		if slices.ContainsFunc(steps, func(step repair.Step) bool { return step.Do.NeedsLook() }) {
			more = true
			continue
		}
		for _, step := range steps {
			s.remember(e, step)
		}
	}
	return more
}

// process takes items from a queue until this is shut down. An item that fails is tried again later, and keeps no
// other one waiting.
func (s *Server) process(ctx context.Context, queue workqueue.TypedRateLimitingInterface[item]) {
	for {
		it, shutdown := queue.Get()
		if shutdown {
			return
		}
		if queue == s.plans {
			s.planning.Store(time.Now().UnixNano())
		}
		if err := s.handle(ctx, it); err == nil {
			queue.Forget(it)
		} else {
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Failed, trying again", "item", it)
			}
			queue.AddRateLimited(it)
		}
		if queue == s.plans {
			s.planning.Store(0)
		}
		queue.Done(it)
	}
}

// stuckAfter is how long one item of plans may take, which works in memory only. To plan 10,000 Services takes seconds.
const stuckAfter = time.Minute

// Healthy returns an error where the goroutine that plans is stuck, so that nothing that becomes free is given to
// anybody. To start again is all that helps.
func (s *Server) Healthy() error {
	if since := s.planning.Load(); since != 0 && time.Since(time.Unix(0, since)) > stuckAfter {
		return fmt.Errorf("planning what waiting Services get has not ended since %s", time.Unix(0, since).UTC().Format(time.RFC3339))
	}
	return nil
}

// handle does what an item asks for. An error has the item tried again, with a back-off.
func (s *Server) handle(ctx context.Context, it item) error {
	switch it.kind {
	case setPools:
		if err := s.setPools(ctx); err != nil {
			return err
		}
		// What waits for reuseAfter may have to wait now, or for less long.
		for _, address := range s.ledger.Left() {
			s.changed(item{kind: repairAddress, address: address})
		}
		s.usageChanged()
		s.wakeStranded()
		s.wakeWaiting(ctx)
	case replacePools:
		s.replacePools()
	case setNetwork:
		return s.setReserved(ctx)
	case wakeWaiting:
		s.wakeWaiting(ctx)
	case audit:
		s.audit()
	case repairAddress:
		return s.repair(ctx, it.address, caller{quiet: s.repairs.NumRequeues(it) > 0})
	case repairService:
		return s.repairService(ctx, it)
	case checkBlocked:
		return s.checkBlocked(ctx, it)
	case writeUsage:
		return s.writeUsage(ctx)
	case nameWriter:
		return s.nameWriter(ctx, it.service)
	}
	return nil
}
