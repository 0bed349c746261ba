// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
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

// waiting is what a Service that lacks something was told, and the addresses it goes on with meanwhile.
type waiting struct {
	message string
	has     []netip.Addr
	// woken says that the Service was woken since it was told so, to get the addresses in promised.
	woken    bool
	promised []netip.Addr
	// failed says that the Service was woken and got nothing; it stands behind the others from then on.
	failed bool
	// refused says that the API failed or refused a claim. To wake the Service would not help; the service
	// controller tries again with a back-off of 5 to 300 seconds.
	refused bool
}

// report records and tells the user, by events on the Service, what came of a request. An error has its own event,
// SyncLoadBalancerFailed of the service controller.
func (s *Server) report(svc *corev1.Service, out ipam.Outcome, err error) {
	service := request.ServiceOf(svc)
	before, waited := s.waitsFor(service)
	if before.woken && !slices.Equal(addressesOf(out.Assigned), before.promised) {
		// Others were not woken, because this one was.
		s.events.AddAfter(item{kind: wakeWaiting}, nextWake)
	}
	if err != nil {
		recordFailure(err)
		// Only a namespace is not found, and its event wakes the Service.
		refused := reason(err) == reasonAPI && !apierrors.IsNotFound(err)
		s.setWaiting(service, waiting{message: err.Error(), has: request.Published(svc), failed: before.woken, refused: refused})
		return
	}
	if request.SharingOf(svc).Key != "" {
		// Its ports, its key or its policy may no longer keep waiting Services from sharing its addresses.
		s.events.Add(item{kind: wakeWaiting})
	}
	if len(out.Added) > 0 {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventAllocatedAddresses, "Allocated %s", describe(out.Added))
	}
	if len(out.Missing) == 0 {
		s.ledger.mu.Lock()
		delete(s.ledger.waiting, service)
		s.ledger.mu.Unlock()
		return
	}
	var why []string
	for _, m := range out.Missing {
		why = append(why, m.Error())
		recordMissing(m)
	}
	message := strings.Join(why, "; ")
	s.setWaiting(service, waiting{message: message, has: addressesOf(out.Assigned)})
	if !waited || before.message != message {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventMissingAddress, "Waiting for an address: %s", message)
	}
}

// waitsFor returns what a Service waits for.
func (s *Server) waitsFor(service ipam.Service) (w waiting, waits bool) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	w, waits = s.ledger.waiting[service]
	return w, waits
}

// setWaiting records that a Service waits, and forgets that it was woken.
func (s *Server) setWaiting(service ipam.Service, w waiting) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.ledger.waiting[service] = w
}

// forget ends the waiting of a Service that is not served any more. Where it was woken for an address, another
// Service can have that.
func (s *Server) forget(service ipam.Service) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if s.ledger.waiting[service].woken {
		s.events.Add(item{kind: wakeWaiting})
	}
	delete(s.ledger.waiting, service)
	delete(s.ledger.answers, service)
}

// wakeStranded wakes Services that have asked to be moved when their addresses are stranded, and can be. For
// example, web has 192.0.2.1 and the annotation reallocate, and the range of its pool becomes 198.51.100.0/24: web
// is woken, and gets 198.51.100.1.
func (s *Server) wakeStranded() {
	services, _ := s.services.List(labels.Everything()) // a lister does not fail
	for _, svc := range services {
		if !request.Served(svc) {
			continue
		}
		if req, err := s.request(svc); err == nil && req.Reallocate {
			if answer := s.ledger.allocator.Plan(time.Now(), req)[0]; answer.Err == nil && len(answer.Outcome.Added) > 0 {
				s.wake(svc)
			}
		}
	}
}

// wakeWaiting wakes the waiting Services that would now get something, the longest-lived first. They are planned
// together, so that one free address wakes one Service and not all that would like it. For example, p, q and r wait
// for an IPv4 address when 192.0.2.1 becomes free: p is woken. If it does not take the address, q is woken a second
// later.
func (s *Server) wakeWaiting(ctx context.Context) {
	type candidate struct {
		*corev1.Service
		failed int // sorts those that failed behind the others
	}
	var candidates []candidate
	s.ledger.mu.Lock()
	for service, w := range s.ledger.waiting {
		svc := s.ledger.service(service)
		switch {
		case svc == nil || !request.Served(svc):
			delete(s.ledger.waiting, service)
		case w.failed:
			candidates = append(candidates, candidate{svc, 1})
		default:
			candidates = append(candidates, candidate{svc, 0})
		}
	}
	s.ledger.mu.Unlock()
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.failed, b.failed), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	services := make([]*corev1.Service, len(candidates))
	for i, c := range candidates {
		services[i] = c.Service
	}
	if woken := s.wakeServable(services...); woken > 0 {
		klog.FromContext(ctx).V(2).Info("Woke waiting Services", "woken", woken, "waiting", len(candidates))
	}
}

// wakeServable wakes those of the waiting Services that would get something, the first served first, and returns
// their number. It asks the allocator before the service controller, whose every attempt writes events.
func (s *Server) wakeServable(candidates ...*corev1.Service) (woken int) {
	var services []*corev1.Service
	var requests []ipam.Request
	for _, svc := range candidates {
		if w, waits := s.waitsFor(request.ServiceOf(svc)); !waits || w.refused {
			continue
		}
		if req, err := s.request(svc); err == nil {
			services, requests = append(services, svc), append(requests, req)
		}
	}
	for i, answer := range s.ledger.allocator.Plan(time.Now(), requests...) {
		svc, out := services[i], answer.Outcome
		s.ledger.mu.Lock()
		w, waits := s.ledger.waiting[request.ServiceOf(svc)]
		// A Service with one of two families is helped by the other one, or by a pair that is better than what it
		// has.
		helps := waits && answer.Err == nil && (len(out.Missing) == 0 || !slices.Equal(addressesOf(out.Assigned), w.has))
		if helps {
			w.woken, w.promised = true, addressesOf(out.Assigned)
			s.ledger.waiting[request.ServiceOf(svc)] = w
		}
		s.ledger.mu.Unlock()
		if helps {
			s.wake(svc)
			woken++
		}
	}
	return woken
}
