// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// notice is a state of a Service that an event tells of: once when it begins or changes, and not at each request.
type notice struct {
	service ipam.Service
	reason  string // of the event
}

// tell writes an event where there are texts, and the Service has not been told the same. It reports whether a state has ended, which has no
// texts any more.
func (s *Server) tell(svc *corev1.Service, reason string, texts []string) (ended bool) {
	n, message := notice{request.ServiceOf(svc), reason}, strings.Join(texts, "; ")
	s.ledger.mu.Lock()
	before := s.ledger.told[n]
	if s.ledger.told[n] = message; message == "" {
		delete(s.ledger.told, n)
	}
	s.ledger.mu.Unlock()
	if message != "" && message != before {
		s.recorder.Event(svc, corev1.EventTypeWarning, reason, strings.ToUpper(message[:1])+message[1:])
	}
	return message == "" && before != ""
}

// tellOfSharing tells what came of a request as to sharing. For example, web and mail share 192.0.2.1, and the port 25 of mail is added to web: web
// keeps the address, and is told that mail has the port there, once. When mail gives the port up, web is told that the two agree.
func (s *Server) tellOfSharing(svc *corev1.Service, out ipam.Outcome) {
	var kept []string
	for _, refusal := range out.Kept {
		kept = append(kept, fmt.Sprintf("%v; this Service keeps %s", refusal, refusal.Address))
	}
	if len(kept) > 0 {
		kept = append(kept, fmt.Sprintf("what was changed has no effect on addresses until the Services agree or one of them leaves, "+
			"while kube-proxy follows their specs and takes a port of both for one of them; the annotation %s: \"true\" moves this Service",
			v1alpha1.AnnotationReallocate))
	}
	if s.tell(svc, v1alpha1.EventKeptAddress, kept) {
		s.recorder.Event(svc, corev1.EventTypeNormal, v1alpha1.EventSharingAgrees, "Admitted by all Services on its addresses")
	}
	for _, refusal := range out.Unshared {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventNotShared, "Got an address of its own: %v", refusal)
	}
}

// wakeAgreeing wakes the Services that were told that another one does not admit them, and that all admit now.
func (s *Server) wakeAgreeing() {
	var told []ipam.Service
	s.ledger.mu.Lock()
	for n := range s.ledger.told {
		if n.reason == v1alpha1.EventKeptAddress {
			told = append(told, n.service)
		}
	}
	s.ledger.mu.Unlock()
	for _, service := range told {
		svc := s.ledger.service(service)
		if svc == nil || !request.Served(svc) {
			continue
		}
		if req, err := s.request(svc); err == nil {
			if answer := s.ledger.allocator.Plan(time.Now(), req)[0]; answer.Err == nil && len(answer.Outcome.Kept) == 0 {
				s.wake(svc)
			}
		}
	}
}

// shownBefore returns what a Service shows before a request is answered, and whether this is the first request of this leader.
func (s *Server) shownBefore(svc *corev1.Service) (shows []netip.Addr, first bool) {
	shows = s.ledger.shows(svc)
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	_, answered := s.ledger.answers[request.ServiceOf(svc)]
	return shows, !answered
}
