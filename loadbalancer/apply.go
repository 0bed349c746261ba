// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/loadbalancer/writer"
)

// blockedPeriod is the time between two looks at an address with a foreign claim. An address of the Service CIDR that
// is in a pool by mistake costs one request to the API in this time.
const blockedPeriod = 30 * time.Second

// caller says on whose behalf an address is repaired. The zero value is that of a worker that has no Service's lock.
type caller struct {
	service    ipam.Service // whose lock the caller holds; no other Service can be released
	requesting bool         // a request of the Service is being answered: there is no need to wake it
	releasing  bool         // the Service is to be released, whatever its spec says
	quiet      bool         // the Service has been told of a claim that fails
	lagging    bool         // the informer is known to be behind the API about the claim
}

// repair locks an address, looks at its records again, at the API where the informers may lag, and makes them
// agree.
//
// A Service can be released under its own lock only, and that lock is taken before an address's. A step that
// releases another Service than the caller's is therefore left to the workers. For example, the claim of 192.0.2.1
// is found to be web's, and web is gone and still holds the address: the worker that looked at 192.0.2.1 queues
// web, and the one that takes web releases all its addresses.
func (s *Server) repair(ctx context.Context, address netip.Addr, c caller) error {
	unlock, err := s.addressLocks.Acquire(ctx, address)
	if err != nil {
		return err
	}
	defer unlock()
	for range writer.MaxTries {
		if err = s.repairLocked(ctx, address, c); !errors.Is(err, writer.ErrStale) {
			return err
		}
		c.lagging = true
	}
	return err
}

// repairLocked is repair for a caller that holds the address's lock. The error is writer.ErrStale where another write
// to the claim came first. For example, api leaves 192.0.2.1, the informer shows web and api on the claim, and
// another leader has just added mail. The patch that would leave web alone there is refused, and the next attempt
// takes api off the three.
func (s *Server) repairLocked(ctx context.Context, address netip.Addr, c caller) error {
	e, err := s.reread(ctx, address, c)
	if err != nil {
		return err
	}
	again := false
	for _, step := range repair.Steps(e, time.Now()) {
		switch {
		case step.Do == repair.Release && step.Service != c.service:
			s.repairs.Add(item{kind: repairService, service: step.Service})
			continue
		case step.Do == repair.Wake && step.Service == c.service && c.requesting:
			continue
		case step.Do < repair.Relabel:
			again = true
		}
		if err := s.apply(ctx, e, step, c); err != nil {
			return err
		}
	}
	if again {
		s.changed(item{kind: repairAddress, address: address})
		s.usageChanged()
	}
	return nil
}

// reread is Observe after a look at the API, where the informers may lag behind it.
//
//   - The informer of claims is trusted where it shows a claim that names Services that all hold the address: a claim is only
//     ever written or deleted as it was read, so that a later one is safe. So a release costs no read.
//   - The informer of Services is not trusted where it lacks a Service. Another leader may have served one that was created a moment ago.
func (s *Server) reread(ctx context.Context, address netip.Addr, c caller) (repair.Entry, error) {
	e := s.ledger.Observe(address)
	named := e.Claim.Named()
	unknown := slices.ContainsFunc(named, func(service ipam.Service) bool { return !e.Standing(service).Holds })
	if c.lagging || e.Claim.State != repair.Ours || len(named) == 0 || unknown {
		claim, err := s.claims.Read(ctx, address)
		if err != nil {
			return repair.Entry{}, err
		}
		e = s.ledger.Entry(address, claim)
	}
	for i := range e.Services {
		standing := &e.Services[i]
		if c.releasing && standing.Service == c.service {
			standing.Need = repair.Gone
		} else if standing.Need == repair.Gone || standing.Need == repair.OtherProvider {
			svc, err := s.client.CoreV1().Services(standing.Service.Namespace).Get(ctx, standing.Service.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err) || err == nil && request.CleanupIsOurs(svc):
				standing.Need = repair.Gone
			case err != nil:
				return repair.Entry{}, fmt.Errorf("reading Service %s, which has or had %s: %w", standing.Service, address, err)
			case standing.Need == repair.Gone:
				standing.Need = repair.Unread
			default:
				standing.Publishes = slices.Contains(request.Published(svc), address)
			}
		}
	}
	return e, nil
}

// apply takes one step. The caller holds the address's lock and, for a Release, the Service's. An error leaves the
// rest of the steps to the next attempt, which starts from what the records say then; so steps need not be undone.
func (s *Server) apply(ctx context.Context, e repair.Entry, step repair.Step, c caller) error {
	logger := klog.FromContext(ctx)
	switch step.Do {
	case repair.Write:
		err := s.claimFor(ctx, e, step.Service)
		if err != nil {
			s.reportClaim(step.Service, err, c.quiet)
			return err
		}
		logger.Info("Claimed an address again", "service", step.Service, "address", e.Address)
	case repair.Release, repair.Collect:
		now, err := time.Now().Truncate(time.Second), error(nil) // as the claim can say it
		switch step.Claim {
		case repair.TakeOff:
			err = s.claims.Patch(ctx, e.Address, claim.Leave(e.Claim, step.Service, time.Time{}))
		case repair.MarkLeft:
			err = s.claims.Patch(ctx, e.Address, claim.Leave(e.Claim, step.Service, now))
		case repair.DeleteClaim:
			err = s.claims.Delete(ctx, e.Address, e.Claim)
		}
		if err != nil {
			return err
		}
		s.ledger.Drop(now, step.Service, e.Address)
		logger.Info("Released an address", "service", step.Service, "address", e.Address)
		// Even where others stay on the address: the Service may have kept another one from sharing it.
		s.plans.Add(item{kind: wakeWaiting})
		if svc := s.ledger.Service(step.Service); svc != nil && s.handedOver(svc) {
			s.wake(svc)
		}
	case repair.Relabel:
		return s.claims.Patch(ctx, e.Address, claim.Relabel(e.Claim, e.Pool))
	case repair.Share:
		if err := s.claims.Patch(ctx, e.Address, claim.Share(e.Claim, e.Key(), e.Sharers())); err != nil {
			return err
		}
		s.ledger.Share(e)
		s.plans.Add(item{kind: wakeWaiting}) // one may wait for a port that is given up
	default:
		s.remember(e, step)
	}
	return nil
}

// handedOver reports whether a Service is another provider's load balancer, has no address of ours any more, and
// still has the finalizer that we wrote. The service controller, woken, removes the finalizer. For example, web has
// no class and was given 192.0.2.1; since then we serve only our own class, and the other provider has published
// 203.0.113.7.
func (s *Server) handedOver(svc *corev1.Service) bool {
	return request.OtherProvider(svc) && request.FinalizerIsOurs(svc) && len(s.ledger.Cache.Held(request.ServiceOf(svc))) == 0
}

// claimFor claims the address of an entry for a Service, beside the Services that hold it already. Where the claim
// turns out to be another's, the address is looked at again.
func (s *Server) claimFor(ctx context.Context, e repair.Entry, service ipam.Service) error {
	now := s.ledger.Entry(e.Address, nil) // with what steps before this one have changed
	now.Claim.Parent = service
	holders := s.ledger.Cache.Lookup(e.Address).Services
	err := s.claims.Create(ctx, ipam.Assignment{Address: e.Address, Pool: e.Pool}, writer.Claimant{
		Service: service, Key: now.Key(), Sharers: now.Sharers(), Others: holders,
	})
	if _, ok := errors.AsType[*writer.ClaimedByOther](err); ok {
		s.repairs.Add(item{kind: repairAddress, address: e.Address})
		return nil
	}
	return err
}

// remember takes a step that changes nothing but memory. It may be called without the address's lock for steps that
// need no second look. Such a step may turn out to be unnecessary, and does no harm then: for example, web is woken
// since its status was wiped, and the service controller finds that it has been written again.
func (s *Server) remember(e repair.Entry, step repair.Step) {
	svc := s.ledger.Service(step.Service)
	switch step.Do {
	case repair.Hold:
		s.ledger.Hold(e, step)
		s.plans.Add(item{kind: wakeWaiting}) // it may be what the Service waits for
	case repair.Drop:
		s.ledger.Drop(time.Time{}, step.Service, e.Address)
	case repair.Block:
		s.ledger.Cache.Block(e.Address, e.Claim.Owner)
		s.repairs.AddAfter(item{kind: checkBlocked, address: e.Address}, blockedPeriod)
	case repair.Unblock:
		s.ledger.Cache.Unblock(e.Address)
		s.plans.Add(item{kind: wakeWaiting})
	case repair.MarkSurplus:
		if svc != nil {
			s.markSurplus(svc, []ipam.Assignment{{Address: e.Address}})
		}
	case repair.Keep:
		s.ledger.Keep(step.Service, e.Address)
	case repair.Cool:
		s.ledger.Cool(e)
	case repair.Look:
		s.repairs.AddAfter(item{kind: repairAddress, address: e.Address}, time.Until(step.Until))
	case repair.Wake:
		// When it starts, the service controller looks at every Service anyway.
		if svc != nil && request.Served(svc) && s.isReady() {
			s.wakeForStatus(svc)
		}
	}
}

// reportClaim says on the Service that its claim cannot be written, once and not at each new attempt, and counts
// each attempt.
func (s *Server) reportClaim(service ipam.Service, err error, quiet bool) {
	recordFailure(err)
	if svc := s.ledger.Service(service); svc != nil && !quiet {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventClaimFailed, "Trying again: %v", err)
	}
}

// checkBlocked repairs an address whose foreign claim is gone. For example, the Service CIDR is 192.0.2.0/28, and is
// by mistake in a pool. 192.0.2.3 was to be given and is the ClusterIP of dns, so that the cache has it blocked;
// foreign claims are not watched. When dns has gone, 192.0.2.3 is free within 30 seconds.
func (s *Server) checkBlocked(ctx context.Context, it item) error {
	object, err := s.claims.Read(ctx, it.address)
	if err != nil {
		return err
	}
	if claim.Read(object).State == repair.Foreign {
		s.repairs.AddAfter(it, blockedPeriod)
		return nil
	}
	return s.repair(ctx, it.address, caller{})
}

// repairService repairs what a Service holds and publishes, as after its deletion, or when its status has changed.
// Its lock keeps a request on its way from going on with what is to be released, or from claiming the other half of a
// pair for a Service that has gone. For example, web asks for a pair, and is deleted when 192.0.2.1 is claimed and 2001:db8::1 is not
// yet: the request ends first, and then both are released.
func (s *Server) repairService(ctx context.Context, it item) error {
	unlock, err := s.serviceLocks.Acquire(ctx, it.service)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.look(it) {
		return nil // another worker was faster
	}
	var errs []error
	for _, address := range s.ledger.Of(it.service) {
		errs = append(errs, s.repair(ctx, address, caller{service: it.service, quiet: s.repairs.NumRequeues(it) > 0}))
	}
	return errors.Join(errs...)
}
