// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// item is something to look at again. One goroutine works the queue, so that what events do to the cache is never
// concurrent with itself.
type item struct {
	kind    kind
	service ipam.Service // of serviceChanged
	address netip.Addr   // of claimChanged
}

type kind int

const (
	poolsChanged kind = iota
	serviceChanged
	claimChanged
	wakeWaiting
)

// watch turns the informers' events into items.
func (s *Server) watch(cfg Config) error {
	pools := func(any) { s.queue.Add(item{kind: poolsChanged}) }
	claim := func(obj any) {
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		c, ok := obj.(*networkingv1.IPAddress)
		if !ok {
			return
		}
		if address, err := netip.ParseAddr(c.Name); err == nil {
			s.queue.Add(item{kind: claimChanged, address: address})
		}
	}
	service := func(obj any) {
		if namespace, name, err := splitKey(obj); err == nil {
			s.queue.Add(item{kind: serviceChanged, service: ipam.Service{Namespace: namespace, Name: name}})
		}
	}
	for _, w := range []struct {
		informer Informer
		handler  cache.ResourceEventHandler
	}{
		{cfg.PoolInformer, cache.ResourceEventHandlerFuncs{
			AddFunc: pools,
			UpdateFunc: func(old, cur any) {
				// Our own writes of the status are no news. A pool that was replaced while the watch was down starts at generation 1 again.
				if o, c := old.(*v1alpha1.AddressPool), cur.(*v1alpha1.AddressPool); o.Generation != c.Generation || o.UID != c.UID {
					pools(c)
				}
			},
			DeleteFunc: pools,
		}},
		{cfg.Claims.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: claim, DeleteFunc: claim}},
		{s.strangers, cache.ResourceEventHandlerFuncs{DeleteFunc: claim}},
		{cfg.Services.Informer(), cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, cur any) {
				o, c := old.(*corev1.Service), cur.(*corev1.Service)
				if !reflect.DeepEqual(o.Status, c.Status) || !reflect.DeepEqual(o.Labels, c.Labels) || !reflect.DeepEqual(o.Spec, c.Spec) {
					service(c)
				}
				if k := sharingOf(c); wants(c) && k.Key != "" && k.Backends != sharingOf(o).Backends {
					// The service controller does not look at selectors, by which the Service may have to leave those with whom it shares, or
					// may come in the way of nobody any more.
					s.wake(c)
				}
			},
			DeleteFunc: service,
		}},
		{cfg.Namespaces.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { s.queue.Add(item{kind: wakeWaiting}) },
			UpdateFunc: func(old, cur any) {
				if !reflect.DeepEqual(old.(*corev1.Namespace).Labels, cur.(*corev1.Namespace).Labels) {
					s.queue.Add(item{kind: wakeWaiting})
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

func splitKey(obj any) (namespace, name string, err error) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return "", "", err
	}
	return cache.SplitMetaNamespaceKey(key)
}

// Run reads everything that is held, opens the server for requests, and follows events until the context ends.
func (s *Server) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	if !cache.WaitForNamedCacheSyncWithContext(ctx, s.synced...) {
		return context.Cause(ctx)
	}
	start := time.Now()
	err := wait.ExponentialBackoffWithContext(ctx, wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 1 << 30, Cap: 10 * time.Second},
		func(ctx context.Context) (bool, error) {
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
	go s.publishUsage(ctx)
	go s.strangers.run(ctx)
	go func() {
		<-ctx.Done()
		s.queue.ShutDown()
	}()
	for {
		it, shutdown := s.queue.Get()
		if shutdown {
			return nil
		}
		if err := s.handle(ctx, it); err != nil {
			logger.Error(err, "Failed to follow an event, trying again", "item", it)
			s.queue.AddRateLimited(it)
		} else {
			s.queue.Forget(it)
		}
		s.queue.Done(it)
	}
}

// load brings the allocator up to what the API holds. It may run again after an error.
func (s *Server) load(ctx context.Context) error {
	if err := s.setPools(ctx); err != nil {
		return err
	}
	// The lister behind the informer may be older than what an earlier leader did last, so the claims are read afresh.
	list, err := s.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String(),
	})
	if err != nil {
		return fmt.Errorf("listing claims: %w", err)
	}
	for i := range list.Items {
		if err := s.adopt(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	services, err := s.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("listing Services: %w", err)
	}
	for _, svc := range services {
		if wants(svc) {
			for _, address := range published(svc) {
				if err := s.restore(ctx, svc, address, s.allocator.PoolOf(address)); err != nil {
					return err
				}
			}
		} else if s.unfinished(svc) {
			s.wake(svc)
		}
	}
	return s.adoptOrphans(ctx)
}

// adoptOrphans gives addresses whose pool is gone to one that holds them now, as where a pool was renamed: speakers announce an address by
// the pool on its claim.
func (s *Server) adoptOrphans(ctx context.Context) error {
	for _, as := range s.allocator.Orphans() {
		if err := s.claims.relabel(ctx, as); err != nil {
			return err
		}
		s.allocator.Adopt(as)
	}
	return nil
}

// unfinished reports whether an earlier leader ended before it had cleaned up after a Service that is a load balancer no more: first the
// claims go, then the finalizer, then the status.
func (s *Server) unfinished(svc *corev1.Service) bool {
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer || !servicehelper.HasLBFinalizer(svc) {
		return false
	}
	return len(s.allocator.Held(serviceOf(svc))) > 0 ||
		slices.ContainsFunc(published(svc), func(address netip.Addr) bool { return s.allocator.PoolOf(address) != "" })
}

func (s *Server) handle(ctx context.Context, it item) error {
	switch it.kind {
	case poolsChanged:
		if err := s.setPools(ctx); err != nil {
			return err
		}
		if err := s.adoptOrphans(ctx); err != nil {
			return err
		}
		s.usageChanged()
		if err := s.wakeStranded(); err != nil {
			return err
		}
		s.wakeWaiting(ctx)
	case serviceChanged:
		return s.followService(ctx, it.service)
	case claimChanged:
		return s.followClaim(ctx, it.address)
	case wakeWaiting:
		s.wakeWaiting(ctx)
	}
	return nil
}

// setPools gives the allocator the pools as they are.
func (s *Server) setPools(ctx context.Context) error {
	var list v1alpha1.AddressPoolList
	if err := s.poolClient.List(ctx, &list); err != nil {
		return fmt.Errorf("listing AddressPools: %w", err)
	}
	var pools []pool
	var described []ipam.Pool
	for i := range list.Items {
		p := parsePool(&list.Items[i])
		pools = append(pools, p)
		described = append(described, p.Pool)
	}
	sortPools(pools)
	select {
	case <-s.ready:
		if err := s.restoreFree(ctx, described); err != nil {
			return err
		}
	default: // load does it when it knows the claims
	}
	s.allocator.SetPools(described)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools = pools
	return nil
}

// restoreFree claims what Services show and nobody has, where it is in one of the pools that are to come, before these give it to anybody.
func (s *Server) restoreFree(ctx context.Context, pools []ipam.Pool) error {
	coming := ipam.New()
	coming.SetPools(pools)
	services, err := s.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("listing Services: %w", err)
	}
	for _, svc := range services {
		if !wants(svc) {
			continue
		}
		for _, address := range published(svc) {
			if len(s.allocator.Users(address)) > 0 {
				continue
			}
			if err := s.restore(ctx, svc, address, coming.PoolOf(address)); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold records a claim in the allocator.
func (s *Server) hold(service ipam.Service, address netip.Addr, claim *networkingv1.IPAddress) {
	var sharing ipam.Sharing
	if svc, err := s.services.Services(service.Namespace).Get(service.Name); err == nil {
		sharing = sharingOf(svc)
	}
	s.allocator.Hold(service, address, claim.Labels[v1alpha1.LabelAddressPool], sharing)
}

// adopt records an existing claim, or deletes it where its Service is gone.
func (s *Server) adopt(ctx context.Context, claim *networkingv1.IPAddress) error {
	service, ok := parentOf(claim)
	address, err := netip.ParseAddr(claim.Name)
	if !ok || err != nil {
		return nil
	}
	svc, err := s.services.Services(service.Namespace).Get(service.Name)
	theirs := err == nil && handedOver(svc)
	if err != nil || abandoned(svc) || theirs {
		// The lister may lag behind a Service that another leader serves already.
		svc, err = s.client.CoreV1().Services(service.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (abandoned(svc) || theirs && !slices.Contains(published(svc), address)) {
			klog.FromContext(ctx).Info("Released a claim whose Service is gone, or another provider's", "address", address, "service", service)
			return s.claims.delete(ctx, claim)
		}
		if err != nil {
			return fmt.Errorf("reading the Service of claim %s: %w", claim.Name, err)
		}
	}
	// The claim is the truth: who has the address beside its parent shares it, or has lost it.
	s.hold(service, address, claim)
	s.dispossess(address, service)
	s.retireLater(svc, s.doubles(svc))
	return nil
}

// restore claims an address that a Service shows in its status and that the allocator does not know it to have. Where
// somebody else has it by now, or no pool ever had it, the Service will be given another.
func (s *Server) restore(ctx context.Context, svc *corev1.Service, address netip.Addr, pool string) error {
	service, sharing := serviceOf(svc), sharingOf(svc)
	users := s.allocator.Users(address)
	if slices.Contains(users, service) || s.allocator.Blocked(address) {
		return nil
	}
	if pool == "" && len(users) == 0 {
		return nil
	}
	if len(users) == 0 {
		err := s.claims.create(ctx, ipam.Assignment{Address: address, Pool: pool}, service, func() []ipam.Service { return nil })
		if taken, ok := errors.AsType[*conflict](err); ok {
			if err := s.learn(ctx, taken); err != nil {
				return err
			}
			if users = s.allocator.Users(address); len(users) == 0 {
				return nil
			}
		} else if err != nil {
			return err
		} else {
			klog.FromContext(ctx).Info("Claimed a published address again", "service", klog.KObj(svc), "address", address)
		}
	}
	if len(users) > 0 && slices.ContainsFunc(users, func(user ipam.Service) bool { return !s.agrees(sharing, user) }) {
		// It shared the address once and found no other when that ended. It stays until it does, in nobody's way if that can be.
		if owner, err := s.services.Services(users[0].Namespace).Get(users[0].Name); err == nil && sharingOf(owner).Key != "" {
			sharing = ipam.Sharing{Key: sharingOf(owner).Key, Backends: sharingOf(owner).Backends}
		}
	}
	s.allocator.Hold(service, address, pool, sharing)
	return nil
}

// agrees reports whether one who shares like this can be on an address with a Service.
func (s *Server) agrees(sharing ipam.Sharing, user ipam.Service) bool {
	svc, err := s.services.Services(user.Namespace).Get(user.Name)
	return err == nil && sharing.Admits(sharingOf(svc)) == nil
}

// followService releases what a Service has given up and its status no longer shows, and everything of a Service that is gone.
func (s *Server) followService(ctx context.Context, service ipam.Service) error {
	s.mu.Lock()
	retires := len(s.retiring[service]) > 0
	s.mu.Unlock()
	svc, err := s.services.Services(service.Namespace).Get(service.Name)
	if gone := apierrors.IsNotFound(err) || err == nil && (abandoned(svc) || handedOver(svc)); gone || retires {
		// A request on the way may want again what is to be released, or claim the other half of a pair for a Service that has gone.
		done, cancelled := s.turns.take(ctx, service)
		if cancelled != nil {
			return cancelled
		}
		defer done()
		svc, err = s.services.Services(service.Namespace).Get(service.Name)
	}
	if apierrors.IsNotFound(err) || err == nil && abandoned(svc) {
		return s.releaseAll(ctx, service)
	}
	if err != nil {
		return err
	}
	if handedOver(svc) {
		return s.handOver(ctx, svc)
	}
	s.mu.Lock()
	retiring := maps.Clone(s.retiring[service])
	_, waits := s.waiting[service]
	s.mu.Unlock()
	for _, as := range s.allocator.Held(service) {
		from, retires := retiring[as.Address]
		if !retires {
			continue
		}
		if slices.Contains(published(svc), as.Address) {
			if !from.IsZero() {
				// It was given up because nobody published it.
				s.mu.Lock()
				delete(s.retiring[service], as.Address)
				s.mu.Unlock()
			}
			continue
		}
		if wait := time.Until(from); wait > 0 {
			// The queue has merged this with what was due earlier.
			s.queue.AddAfter(item{kind: serviceChanged, service: service}, wait)
			continue
		}
		if err := s.release(ctx, service, as); err != nil {
			return err
		}
		s.mu.Lock()
		delete(s.retiring[service], as.Address)
		s.mu.Unlock()
	}
	s.retireLater(svc, s.doubles(svc))
	if wants(svc) {
		if err := s.vindicate(ctx, svc); err != nil {
			return err
		}
	}
	if waits && wants(svc) {
		s.wakeServable(svc)
	}
	return nil
}

// handOver releases what a Service of another provider has from us, as soon as that provider has written addresses of its own over it. Until
// then the Service answers on ours.
func (s *Server) handOver(ctx context.Context, svc *corev1.Service) error {
	service := serviceOf(svc)
	s.mu.Lock()
	delete(s.waiting, service)
	delete(s.retiring, service)
	s.mu.Unlock()
	for _, as := range s.allocator.Held(service) {
		if slices.Contains(published(svc), as.Address) {
			continue
		}
		if err := s.release(ctx, service, as); err != nil {
			return err
		}
	}
	return nil
}

// givesUp reports whether the Service holds an address that it does not show and that is to be released. Two leaders that took turns to
// release such an address and to restore its claim would never come to an end.
func (s *Server) givesUp(svc *corev1.Service, address netip.Addr) bool {
	if slices.Contains(published(svc), address) {
		return false
	}
	s.mu.Lock()
	_, retires := s.retiring[serviceOf(svc)][address]
	s.mu.Unlock()
	return retires || slices.ContainsFunc(s.doubles(svc), func(as ipam.Assignment) bool { return as.Address == address })
}

// doubles returns what a Service has beside an address of the same family that it shows. It remains where two leaders served the
// Service at the same time, or a crash came between claim and status.
func (s *Server) doubles(svc *corev1.Service) []ipam.Assignment {
	var shown, hidden []ipam.Assignment
	for _, as := range s.allocator.Held(serviceOf(svc)) {
		if slices.Contains(published(svc), as.Address) {
			shown = append(shown, as)
		} else {
			hidden = append(hidden, as)
		}
	}
	return slices.DeleteFunc(hidden, func(as ipam.Assignment) bool {
		return !slices.ContainsFunc(shown, func(other ipam.Assignment) bool {
			return family.Of(other.Address) == family.Of(as.Address)
		})
	})
}

// vindicate claims what a Service shows and does not have, as a leader that was deposed while it worked may have left it, or has the status
// corrected where somebody else has it, and where it does not show what the Service has.
func (s *Server) vindicate(ctx context.Context, svc *corev1.Service) error {
	for _, address := range published(svc) {
		if slices.Contains(s.allocator.Users(address), serviceOf(svc)) {
			continue
		}
		if len(s.allocator.Users(address)) == 0 {
			if err := s.restore(ctx, svc, address, s.allocator.PoolOf(address)); err != nil {
				return err
			}
		}
		s.wake(svc)
	}
	for _, as := range s.allocator.Held(serviceOf(svc)) {
		if !slices.Contains(published(svc), as.Address) && !s.givesUp(svc, as.Address) {
			s.wake(svc) // somebody took it out of the status
			break
		}
	}
	return nil
}

// followClaim brings the allocator in line with one claim: learns one that another leader made, forgets one that is gone, and
// restores one that a Service still needs.
func (s *Server) followClaim(ctx context.Context, address netip.Addr) error {
	s.mu.Lock()
	busy := s.inFlight[address] > 0
	s.mu.Unlock()
	if busy {
		s.queue.AddAfter(item{kind: claimChanged, address: address}, time.Second)
		return nil
	}
	users := s.allocator.Users(address)
	// Most events are echoes of our own writes. Only where cache and lister differ is the claim itself read.
	seen, err := s.claimLister.Get(address.String())
	if parent, ours := parentOf(seen); err == nil && ours && slices.Contains(users, parent) {
		return nil
	}
	if apierrors.IsNotFound(err) && len(users) == 0 && !s.allocator.Blocked(address) {
		return nil
	}
	claim, err := s.client.NetworkingV1().IPAddresses().Get(ctx, address.String(), metav1.GetOptions{})
	switch {
	case err == nil:
		if parent, ours := parentOf(claim); !slices.Contains(users, parent) && (ours || len(users) > 0) {
			if err := s.learn(ctx, &conflict{address, claim}); err != nil {
				return err
			}
			s.usageChanged()
		}
		if s.allocator.Blocked(address) && !s.strangers.watched() {
			s.queue.AddAfter(item{kind: claimChanged, address: address}, time.Second)
		}
		return nil
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("reading the claim of %s: %w", address, err)
	}
	// The allocator goes on holding the address, so that nobody else gets it meanwhile.
	err = s.claims.restore(ctx, address, func() (pool string, heirs []ipam.Service) {
		for _, user := range s.allocator.Users(address) {
			svc, err := s.services.Services(user.Namespace).Get(user.Name)
			if err != nil || !wants(svc) {
				continue // its own release is on the way
			}
			if s.givesUp(svc, address) {
				s.allocator.Release(user, address) // another leader was faster to release it
				continue
			}
			heirs = append(heirs, user)
			for _, as := range s.allocator.Held(user) {
				if as.Address == address {
					pool = as.Pool
				}
			}
		}
		return pool, heirs
	})
	var taken *conflict
	if errors.As(err, &taken) {
		err = s.learn(ctx, taken)
	}
	if err != nil {
		return err
	}
	if s.allocator.Blocked(address) && taken == nil {
		s.allocator.Unblock(address)
	}
	s.usageChanged()
	s.wakeWaiting(ctx)
	return nil
}

// wakeStranded wakes Services that have asked to be moved when their addresses are stranded, and can be.
func (s *Server) wakeStranded() error {
	services, err := s.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("listing Services: %w", err)
	}
	for _, svc := range services {
		if !wants(svc) {
			continue
		}
		if req, err := s.request(svc); err == nil && req.Reallocate {
			if answer := s.allocator.Plan(req)[0]; answer.Err == nil && len(answer.Outcome.Added) > 0 {
				s.wake(svc)
			}
		}
	}
	return nil
}

// wakeWaiting wakes the waiting Services that would now get something, the longest-lived first. They are planned together, so that one free
// address wakes one Service and not all who would like it.
func (s *Server) wakeWaiting(ctx context.Context) {
	s.mu.Lock()
	var candidates []*corev1.Service
	failed := map[*corev1.Service]bool{}
	for service, w := range s.waiting {
		svc, err := s.services.Services(service.Namespace).Get(service.Name)
		if err != nil || !wants(svc) {
			delete(s.waiting, service)
			continue
		}
		candidates = append(candidates, svc)
		failed[svc] = w.failed
	}
	s.mu.Unlock()
	slices.SortFunc(candidates, func(a, b *corev1.Service) int {
		switch {
		case failed[a] != failed[b] && failed[b]:
			return -1
		case failed[a] != failed[b]:
			return 1
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	if woken := s.wakeServable(candidates...); woken > 0 {
		klog.FromContext(ctx).V(2).Info("Woke waiting Services", "woken", woken, "waiting", len(candidates))
	}
}

// wakeServable wakes those of the waiting Services that would get something, the first served first, and returns their number. It asks the
// allocator before the service controller, whose every attempt writes events.
func (s *Server) wakeServable(candidates ...*corev1.Service) (woken int) {
	var services []*corev1.Service
	var reqs []ipam.Request
	for _, svc := range candidates {
		if req, err := s.request(svc); err == nil {
			services, reqs = append(services, svc), append(reqs, req)
		}
	}
	for i, answer := range s.allocator.Plan(reqs...) {
		svc, out := services[i], answer.Outcome
		s.mu.Lock()
		w, waits := s.waiting[serviceOf(svc)]
		helps := waits && answer.Err == nil && (len(out.Missing) == 0 || !slices.Equal(addressesOf(out.Assigned), w.has))
		if helps {
			w.woken, w.promised = true, addressesOf(out.Assigned)
			s.waiting[serviceOf(svc)] = w
		}
		s.mu.Unlock()
		if helps {
			s.wake(svc)
			woken++
		}
	}
	return woken
}
