// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// poolGrace is how long a pool may be gone before its addresses are given to another one. It is enough for tools that
// replace an object by a deletion and a creation.
const poolGrace = 30 * time.Second

// repairWorkers is the number of goroutines that repair. A request to the API may hang for half a minute behind a
// webhook, and the others go on meanwhile.
const repairWorkers = 8

// Run reads everything that is held, opens the server for requests, and follows events until the context ends. It
// returns an error only where the context ended before. It tries for ever to read what is held: to exit and to start
// again would not help.
func (s *Server) Run(ctx context.Context) error {
	if !cache.WaitForNamedCacheSyncWithContext(ctx, s.synced...) {
		return context.Cause(ctx)
	}
	logger, start := klog.FromContext(ctx), time.Now()
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
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
	parts.Go(func() { s.process(ctx, s.plans) })
	for range repairWorkers {
		parts.Go(func() { s.process(ctx, s.repairs) })
	}
	<-ctx.Done()
	s.plans.ShutDown()
	s.repairs.ShutDown()
	parts.Wait()
	return nil
}

// load brings the cache up to what the API holds. It may run again after an error.
//
//  1. The pools are read, so that each address has one.
//  2. The Services that claims name hold what is claimed for them. Services that publish an address hold it too, where its claim lets them.
//  3. Everything is audited. What has to be written or deleted is left to the workers: a claim that cannot be written holds up nobody, and
//     its Service holds its address meanwhile.
func (s *Server) load(ctx context.Context) error {
	if err := s.setPools(ctx); err != nil {
		return err
	}
	// The lister behind the informer may be older than what an earlier leader did last, so the claims are read
	// afresh.
	claims, err := s.claims.List(ctx)
	if err != nil {
		return err
	}
	known := s.ledger.Addresses()
	for address := range claims {
		known[address] = struct{}{}
	}
	// What claims name comes first: whether a Service may stay on an address that it publishes, beside the
	// parent, depends on what else it holds. For example, b publishes 192.0.2.1, which is claimed for a, and has a
	// claim of 192.0.2.2: b is not held on 192.0.2.1.
	for _, onlyNamed := range []bool{true, false} {
		for _, address := range slices.SortedFunc(maps.Keys(known), netip.Addr.Compare) {
			e := s.ledger.Entry(address, claims[address])
			e.Starting = true
			for _, step := range repair.Steps(e, time.Now()) {
				switch {
				case step.Do == repair.Hold && (!onlyNamed || e.Claim.Names(step.Service)):
					s.ledger.Hold(e, step)
				case step.Do == repair.Cool:
					s.ledger.Cool(e)
				}
			}
		}
	}
	if err := s.setReserved(ctx); err != nil {
		return err
	}
	s.loaded = time.Now()
	s.audit()
	return nil
}

// setPools gives the allocator the pools as they are, with what it cannot use of them left out: a range that is none, for
// example, costs the pool this range and a condition, and no other range. What Services
// publish and no Service holds is held first, before a pool that is to come gives it away; the workers claim it.
func (s *Server) setPools(ctx context.Context) error {
	var list v1alpha1.AddressPoolList
	if err := s.poolClient.List(ctx, &list); err != nil {
		return fmt.Errorf("listing AddressPools: %w", err)
	}
	var pools []request.Pool
	var described []ipam.Pool
	generations := make(map[string]int64, len(list.Items))
	for i := range list.Items {
		generations[list.Items[i].Name] = list.Items[i].Generation
		p := request.ParsePool(&list.Items[i])
		pools = append(pools, p)
		described = append(described, p.Pool)
	}
	if s.isReady() { // otherwise load does it, when it knows the claims
		s.holdPublished(described)
	}
	s.ledger.Cache.SetPools(described)
	before := s.generations.Load()
	lost := before == nil // at the start, a pool may have been away for any time
	if before != nil {
		for name := range *before {
			_, there := generations[name]
			lost = lost || !there
		}
	}
	if lost {
		s.poolLost = time.Now()
		s.plans.AddAfter(item{kind: replacePools}, poolGrace)
	}
	s.pools.Store(request.NewPools(pools))
	s.generations.Store(&generations)
	return nil
}

// replacePools gives the addresses of pools that are gone to others that contain them, poolGrace after the last pool
// has gone. For example lan, 192.0.2.0/24, is deleted and created again beside all, 192.0.0.0/16: its addresses stay
// those of lan, which the advertisements name. But if office has been created in its place, they are those of office
// after a while.
func (s *Server) replacePools() {
	if left := poolGrace - time.Since(s.poolLost); left > 0 {
		s.plans.AddAfter(item{kind: replacePools}, left)
		return
	}
	for _, address := range s.ledger.Cache.ReplaceDeletedPools() {
		s.changed(item{kind: repairAddress, address: address})
	}
	s.plans.Add(item{kind: wakeWaiting}) // the other pools may have no reuseAfter
	s.usageChanged()
}

// holdPublished holds for Services what they publish, where no Service holds it and one of the pools to come
// contains it. For example, web came from another load balancer with 192.0.2.5 in its status, and a pool is widened
// to 192.0.2.0/24.
func (s *Server) holdPublished(pools []ipam.Pool) {
	coming := ipam.New()
	coming.SetPools(pools)
	for _, svc := range s.ledger.Services() {
		if !request.Served(svc) {
			continue
		}
		for _, address := range request.Published(svc) {
			record := s.ledger.Cache.Lookup(address)
			if pool := coming.PoolOf(address); len(record.Services) == 0 && !record.Blocked && pool != "" {
				s.ledger.Cache.Hold(request.ServiceOf(svc), address, pool, s.ledger.Rules.SharingOf(svc))
				s.repairs.Add(item{kind: repairAddress, address: address})
			}
		}
	}
}

// audit looks at every address and every Service, as if there had been an event of each. It is the last part of the
// start, and runs every auditPeriod from then on.
//
// For example, the watch of Services broke down while web was deleted without its finalizer, and client-go's list afterwards
// came before the claim of 192.0.2.1 was known. No event will come any more, and the audit releases 192.0.2.1.
func (s *Server) audit() {
	s.ledger.ExpireWrites()
	for _, address := range slices.SortedFunc(maps.Keys(s.ledger.Addresses()), netip.Addr.Compare) {
		if it := (item{kind: repairAddress, address: address}); s.look(it) {
			s.repairs.Add(it)
		}
	}
	for _, svc := range s.ledger.Services() {
		if s.interrupted(svc) || s.handedOver(svc) {
			s.wake(svc)
		}
	}
	s.plans.Add(item{kind: wakeWaiting})
	s.plans.AddAfter(item{kind: audit}, auditPeriod)
}

// interrupted reports whether a leader ended before it had cleaned up after a Service that is no load balancer any
// more. The claims go first. Where the finalizer bears our mark, the service controller looks at the Service by
// itself; an earlier version wrote the finalizer without it. For example, web becomes a ClusterIP, and the leader ends
// after it has deleted the claim of 192.0.2.1: that of 2001:db8::1 says that web had the finalizer from us.
func (s *Server) interrupted(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeLoadBalancer && servicehelper.HasLBFinalizer(svc) &&
		slices.ContainsFunc(s.ledger.Of(request.ServiceOf(svc)), func(address netip.Addr) bool {
			record := s.ledger.Cache.Lookup(address)
			return slices.Contains(record.Services, request.ServiceOf(svc)) || s.ledger.Cache.PoolOf(address) != ""
		})
}

// isReady reports whether everything that is held has been read.
func (s *Server) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}
