// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/ledger"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/loadbalancer/writer"
)

// Waiting Services
//
// A Service waits when it has less than it asked for. The service controller would try again by itself only after a
// back-off of up to 300 seconds, and not at all where the Service got one of two families. Therefore everything
// that may help a waiting Service leads to wakeWaiting: a pool edit, a release, a label of a namespace, a claim
// that goes, a Service that shares differently. It asks the allocator what each of them would get, and wakes those
// that would get more than they have.

// nextWake is how long the other waiting Services wait where one was woken for an address and did not take it. It
// keeps a Service that fails again and again from being woken without a pause.
const nextWake = time.Second

// report records and tells the user, by events on the Service, what came of a request. An error has its own event,
// SyncLoadBalancerFailed of the service controller.
//
//	what came of it                      events                               the Service
//	192.0.2.1, new                       AllocatedAddresses                   does not wait
//	192.0.2.1, which it had              none                                 does not wait
//	192.0.2.1, and no IPv6 address       MissingAddress, once for a reason    waits for IPv6
//	"no free address in pool lan"        SyncLoadBalancerFailed               waits
//	the API server refuses the claim     SyncLoadBalancerFailed               is not woken: the service controller tries again
func (s *Server) report(svc *corev1.Service, out ipam.Outcome, err error) {
	now := ledger.Waiting{Has: ipam.AddressesOf(out.Assigned)}
	switch {
	case err != nil:
		recordFailure(err)
		now = ledger.Waiting{
			Message: err.Error(), Has: request.Published(svc),
			Refused: refused(err),
		}
	case len(out.Missing) > 0:
		var why []string
		for _, m := range out.Missing {
			why = append(why, m.Error())
			recordMissing(m)
		}
		now.Message = strings.Join(why, "; ")
	}
	before := s.ledger.Wait(request.ServiceOf(svc), now)
	if before.Woken {
		s.plans.AddAfter(item{kind: wakeWaiting}, nextWake) // others were not woken, because this one was
	}
	if err != nil {
		return
	}
	if s.ledger.Rules.SharingOf(svc).Key != "" {
		// Its ports, its key or its policy may no longer keep waiting Services from sharing its addresses.
		s.plans.Add(item{kind: wakeWaiting})
	}
	if len(out.Added) > 0 {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventAllocatedAddresses, "Allocated %s", describe(out.Added))
	}
	if now.Message != "" && now.Message != before.Message {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventMissingAddress, "Waiting for an address: %s", now.Message)
	}
}

// refused reports whether the API has failed or refused a claim, or another leader has come first. Only a namespace is not
// found, and its event wakes the Service.
func refused(err error) bool {
	_, claimed := errors.AsType[*writer.ClaimedByOther](err)
	return claimed || errors.Is(err, errAtOnce) || errors.Is(err, writer.ErrStale) || reason(err) == reasonAPI && !apierrors.IsNotFound(err)
}

// forget ends the waiting of a Service that is not served any more. Where it was woken for an address, another
// Service can have that.
func (s *Server) forget(service ipam.Service) {
	if s.ledger.Forget(service, v1alpha1.EventKeptAddress, v1alpha1.EventIgnoredAnnotation) {
		s.plans.Add(item{kind: wakeWaiting})
	}
	s.contests.Forget(service)
}

// wakeStranded wakes Services that have asked to be moved when their addresses are stranded, and can be. For
// example, web has 192.0.2.1 and the annotation reallocate, and the range of its pool becomes 198.51.100.0/24: web
// is woken, and gets 198.51.100.1.
func (s *Server) wakeStranded() {
	for _, svc := range s.ledger.Services() {
		if svc.Annotations[v1alpha1.AnnotationReallocate] == "" || !request.Served(svc) {
			continue
		}
		if req, err := s.request(svc); err == nil && req.Reallocate {
			if answer := s.ledger.Cache.Plan(time.Now(), req)[0]; answer.Err == nil && len(answer.Outcome.Added) > 0 {
				s.wake(svc)
			}
		}
	}
}

// wakeWaiting wakes the waiting Services that would now get something, the oldest first. It asks the allocator
// before the service controller, whose every attempt writes events. They are planned together, so that one free
// address wakes one Service and not all that would like it. For example, p, q and r wait for an IPv4 address when
// 192.0.2.1 becomes free: p is woken. If it does not take the address, q is woken a second later.
func (s *Server) wakeWaiting(ctx context.Context) {
	services := s.ledger.Helpable()
	slices.SortFunc(services, func(a, b *corev1.Service) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	var planned []*corev1.Service
	var requests []ipam.Request
	for _, svc := range services {
		if req, err := s.request(svc); err == nil {
			planned, requests = append(planned, svc), append(requests, req)
		}
	}
	woken := 0
	for i, answer := range s.ledger.Cache.Plan(time.Now(), requests...) {
		if answer.Err == nil && s.ledger.Helps(requests[i].Service, answer.Outcome) {
			s.wake(planned[i])
			woken++
		}
	}
	s.wakeAgreeing()
	// An address cools in the cache alone where its claim was deleted by hand.
	if at, ok := s.ledger.Cache.NextExpiry(); ok {
		s.plans.AddAfter(item{kind: wakeWaiting}, time.Until(at))
	}
	if woken > 0 {
		klog.FromContext(ctx).V(2).Info("Woke waiting Services", "woken", woken, "waiting", len(services))
	}
}
