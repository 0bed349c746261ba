// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// auditPeriod is the time between two audits. An event that was missed leaves an address wrong for so long at most.
// An audit reads memory only, 20,000 addresses in a fraction of a second.
const auditPeriod = 10 * time.Minute

// networkPeriod is how long changes of the network of the Nodes are gathered before it is read again.
const networkPeriod = 500 * time.Millisecond

// item is something to look at again. One goroutine takes items from Server.events and works in memory only, so
// that a slow API delays none of them. What needs the API goes on to Server.repairs.
type item struct {
	kind    kind
	service ipam.Service // of serviceChanged
	address netip.Addr   // of addressChanged
}

type kind int

const (
	// poolsChanged: read all AddressPools again.
	poolsChanged kind = iota
	// serviceChanged: look at the addresses that a Service holds or publishes. In Server.repairs, repair them under
	// the Service's lock.
	serviceChanged
	// addressChanged: look at an address. In Server.repairs, repair it.
	addressChanged
	// networkChanged: read the network of the Nodes again.
	networkChanged
	// wakeWaiting: something may be free that a waiting Service asked for.
	wakeWaiting
)

// watch turns the informers' events into items. The handlers do nothing else that could take time: client-go calls
// all handlers of an informer one after the other.
//
//	event                                        item
//	AddressPool created, changed, deleted        poolsChanged
//	claim created, changed, deleted              addressChanged
//	foreign claim deleted                        addressChanged; its creation is noticed when an address is claimed
//	Service changed in spec, status or labels    serviceChanged; its creation is the service controller's business
//	Service deleted                              serviceChanged
//	Namespace created, or its labels changed     wakeWaiting
func (s *Server) watch(cfg Config) error {
	pools := func(any) { s.events.Add(item{kind: poolsChanged}) }
	waiting := func(any) { s.events.Add(item{kind: wakeWaiting}) }
	for _, w := range []struct {
		informer Informer
		handler  cache.ResourceEventHandler
	}{
		{cfg.PoolInformer, cache.ResourceEventHandlerFuncs{
			AddFunc: pools,
			UpdateFunc: func(old, cur any) {
				// Our own writes of the status are no news. A pool that was replaced while the watch was down
				// starts at generation 1 again.
				if o, c := old.(*v1alpha1.AddressPool), cur.(*v1alpha1.AddressPool); o.Generation != c.Generation || o.UID != c.UID {
					pools(c)
				}
			},
			DeleteFunc: pools,
		}},
		{cfg.Claims.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.claimEvent(obj, false) },
			UpdateFunc: func(_, cur any) { s.claimEvent(cur, false) },
			DeleteFunc: func(obj any) { s.claimEvent(obj, true) },
		}},
		{s.foreignClaims, cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) { s.claimEvent(obj, true) }}},
		{cfg.Services.Informer(), cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, cur any) { s.serviceEvent(old.(*corev1.Service), cur.(*corev1.Service)) },
			DeleteFunc: func(obj any) {
				if key, err := cache.DeletionHandlingObjectToName(obj); err == nil {
					s.events.Add(item{kind: serviceChanged, service: ipam.Service{Namespace: key.Namespace, Name: key.Name}})
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

// claimEvent is the handler of IPAddresses, ours and foreign ones.
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
		s.ledger.seenDeletion(address, claim.UID)
	} else {
		s.ledger.seenClaim(address)
	}
	s.events.Add(item{kind: addressChanged, address: address})
}

// serviceEvent is the handler of changed Services. Most changes are annotations that other controllers write about
// themselves.
func (s *Server) serviceEvent(old, cur *corev1.Service) {
	s.ledger.seenStatus(cur)
	if !reflect.DeepEqual(old.Status, cur.Status) || !reflect.DeepEqual(old.Labels, cur.Labels) || !reflect.DeepEqual(old.Spec, cur.Spec) {
		s.events.Add(item{kind: serviceChanged, service: request.ServiceOf(cur)})
	}
	if sharing := request.SharingOf(cur); request.Served(cur) && sharing.Key != "" && sharing.Backends != request.SharingOf(old).Backends {
		// The service controller does not look at selectors. With another selector the Service may have to leave
		// its address to the Services that share it, or may keep no other Service from sharing any more.
		s.wake(cur)
	}
}

// Run reads everything that is held, opens the server for requests, and follows events until the context ends. It
// returns an error only where the context ended before, and tries for ever to read what is held: a server that
// exited would not be better off in the next attempt.
func (s *Server) Run(ctx context.Context) error {
	if !cache.WaitForNamedCacheSyncWithContext(ctx, s.synced...) {
		return context.Cause(ctx)
	}
	logger, start := klog.FromContext(ctx), time.Now()
	backoff := wait.Backoff{Duration: firstRetry, Factor: 2, Jitter: 0.1, Steps: 10, Cap: lastRetry}
	err := backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := s.load(ctx)
		if err != nil {
			logger.Error(err, "Failed to read what is held, trying again")
		}
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	logger.Info("Read pools, Services and claims", "took", time.Since(start))
	close(s.ready)
	s.usageChanged()
	var parts sync.WaitGroup
	parts.Go(func() { s.publishUsage(ctx) })
	parts.Go(func() { s.foreignClaims.run(ctx) })
	parts.Go(func() {
		_ = wait.PollUntilContextCancel(ctx, auditPeriod, false, func(context.Context) (bool, error) {
			s.audit()
			return false, nil
		})
	})
	parts.Go(func() { s.follow(ctx) })
	for range repairWorkers {
		parts.Go(func() { s.work(ctx) })
	}
	<-ctx.Done()
	s.events.ShutDown()
	s.repairs.ShutDown()
	parts.Wait()
	return nil
}

// load brings the cache up to what the API holds. It may run again after an error.
//
//  1. The pools are read, so that each address has one.
//  2. What is claimed is held for the claims' parents. What is published is held for the Services that publish it, where no claim speaks against it.
//  3. Everything is audited. What has to be written or deleted is left to the workers: a claim that cannot be written holds up nobody, and its Service
//     holds its address meanwhile.
func (s *Server) load(ctx context.Context) error {
	if err := s.setPools(ctx); err != nil {
		return err
	}
	// The lister behind the informer may be older than what an earlier leader did last, so the claims are read
	// afresh.
	list, err := s.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String(),
	})
	if err != nil {
		return fmt.Errorf("listing claims: %w", err)
	}
	known := s.ledger.addresses()
	claims := map[netip.Addr]*networkingv1.IPAddress{}
	for i, claim := range list.Items {
		if address, err := netip.ParseAddr(claim.Name); err == nil {
			claims[address] = &list.Items[i]
			known[address] = struct{}{}
		}
	}
	// The parents of claims come first: whether a Service may stay on an address that it publishes, beside the
	// parent, depends on what else it holds. For example, b publishes 192.0.2.1, which is claimed for a, and has a
	// claim of 192.0.2.2: b is not held on 192.0.2.1.
	for _, onlyParents := range []bool{true, false} {
		for _, address := range slices.SortedFunc(maps.Keys(known), netip.Addr.Compare) {
			e := s.ledger.observe(address, claims[address])
			for _, step := range repair.Steps(e, time.Now()) {
				if step.Do == repair.Hold && (!onlyParents || step.Service == e.Claim.Parent) {
					s.ledger.hold(e, step)
				}
			}
		}
	}
	s.ledger.allocator.ReplaceDeletedPools()
	if err := s.setReserved(ctx); err != nil {
		return err
	}
	s.audit()
	return nil
}

// audit looks at every address and every Service, as if there had been an event of each. It is the last part of the
// start, and runs every auditPeriod from then on.
func (s *Server) audit() {
	s.ledger.expireWrites()
	for _, address := range slices.SortedFunc(maps.Keys(s.ledger.addresses()), netip.Addr.Compare) {
		if s.look(address) {
			s.repairs.Add(item{kind: addressChanged, address: address})
		}
	}
	services, _ := s.services.List(labels.Everything()) // a lister does not fail
	for _, svc := range services {
		if s.interrupted(svc) || s.handedOver(svc) {
			s.wake(svc)
		}
	}
	s.events.Add(item{kind: wakeWaiting})
}

// interrupted reports whether a leader ended before it had cleaned up after a Service that is no load balancer any
// more. The claims go first. Where the finalizer bears our mark, the service controller looks at the Service by
// itself; an earlier version wrote the finalizer without it.
func (s *Server) interrupted(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeLoadBalancer && servicehelper.HasLBFinalizer(svc) &&
		slices.ContainsFunc(s.ledger.of(request.ServiceOf(svc)), func(address netip.Addr) bool {
			record := s.ledger.allocator.Lookup(address)
			return slices.Contains(record.Services, request.ServiceOf(svc)) || s.ledger.allocator.PoolOf(address) != ""
		})
}

// follow takes items until the queue is shut down. It is the only goroutine that does so; what it plans for waiting
// Services is never planned by another at the same time.
func (s *Server) follow(ctx context.Context) {
	for {
		it, shutdown := s.events.Get()
		if shutdown {
			return
		}
		s.handle(ctx, it)
		s.events.Done(it)
	}
}

// handle does what an item asks for, in memory, and leaves the rest to the workers.
func (s *Server) handle(ctx context.Context, it item) {
	switch it.kind {
	case poolsChanged:
		if err := s.setPools(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to read AddressPools, trying again")
			s.events.AddAfter(it, time.Second)
			return
		}
		for _, address := range s.ledger.allocator.ReplaceDeletedPools() {
			s.events.Add(item{kind: addressChanged, address: address})
		}
		s.usageChanged()
		s.wakeStranded()
		s.wakeWaiting(ctx)
	case serviceChanged:
		svc := s.ledger.service(it.service)
		if svc == nil || !request.Served(svc) {
			s.forget(it.service)
		}
		if svc == nil {
			s.ledger.release(it.service, false)
		}
		more := false
		for _, address := range s.ledger.of(it.service) {
			more = s.look(address) || more
		}
		if more {
			s.repairs.Add(it)
		}
		if svc != nil && request.Served(svc) {
			s.wakeServable(svc)
		}
	case addressChanged:
		if s.look(it.address) {
			s.repairs.Add(it)
		}
		// Until foreign claims are watched, a blocked address has to be looked at without an event.
		if s.ledger.allocator.Lookup(it.address).Blocked && !s.foreignClaims.watching() {
			s.events.AddAfter(it, time.Second)
		}
	case networkChanged:
		if err := s.setReserved(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to read the network of the Nodes, trying again")
			s.events.AddAfter(it, time.Second)
		}
	case wakeWaiting:
		s.wakeWaiting(ctx)
	}
}

// setPools gives the allocator the pools as they are, with what it cannot use of them left out. What Services
// publish and no Service holds is held first, before a pool that is to come gives it away; the workers claim it.
func (s *Server) setPools(ctx context.Context) error {
	var list v1alpha1.AddressPoolList
	if err := s.poolClient.List(ctx, &list); err != nil {
		return fmt.Errorf("listing AddressPools: %w", err)
	}
	var pools []request.Pool
	var described []ipam.Pool
	for i := range list.Items {
		p := request.ParsePool(&list.Items[i])
		pools = append(pools, p)
		described = append(described, p.Pool)
	}
	request.SortPools(pools)
	select {
	case <-s.ready:
		s.holdPublished(described)
	default: // load does it when it knows the claims
	}
	s.ledger.allocator.SetPools(described)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools = pools
	return nil
}

// holdPublished holds for Services what they publish, where no Service holds it and one of the pools to come
// contains it. For example, web came from another load balancer with 192.0.2.5 in its status, and a pool is widened
// to 192.0.2.0/24.
func (s *Server) holdPublished(pools []ipam.Pool) {
	coming := ipam.New()
	coming.SetPools(pools)
	services, _ := s.services.List(labels.Everything()) // a lister does not fail
	for _, svc := range services {
		if !request.Served(svc) {
			continue
		}
		for _, address := range request.Published(svc) {
			record := s.ledger.allocator.Lookup(address)
			if pool := coming.PoolOf(address); len(record.Services) == 0 && !record.Blocked && pool != "" {
				s.ledger.allocator.Hold(request.ServiceOf(svc), address, pool, request.SharingOf(svc))
				s.events.Add(item{kind: addressChanged, address: address})
			}
		}
	}
}
