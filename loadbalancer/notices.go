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

// tellOfSharing tells what came of a request as to sharing. For example, web and mail share 192.0.2.1, and the port
// 25 of mail is added to web: web keeps the address, and is told once that mail has the port there. When mail gives
// the port up, web is told that the two agree.
func (s *Server) tellOfSharing(svc *corev1.Service, out ipam.Outcome) {
	var kept []string
	for _, refusal := range out.Kept {
		kept = append(kept, fmt.Sprintf("%v; this Service keeps %s", refusal, refusal.Address))
	}
	message := strings.Join(kept, "; ")
	tell, ended := s.ledger.Note(request.ServiceOf(svc), v1alpha1.EventKeptAddress, message)
	if tell {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventKeptAddress, "%s; what was changed has no effect on addresses "+
			"until the Services agree or one of them leaves; meanwhile kube-proxy follows their specs, and connections to a port of both "+
			"reach one of them; the annotation %s: \"true\" moves this Service", message, v1alpha1.AnnotationReallocate)
	}
	if ended {
		s.recorder.Event(svc, corev1.EventTypeNormal, v1alpha1.EventSharingAgrees, "Admitted by all Services on its addresses")
	}
	if len(out.Unshared) > 0 { // the Services of a second family are the same
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventNotShared, "Got an address of its own: %v", out.Unshared[0])
	}
}

// tellOfAnnotations tells of annotations of other products that ask for other addresses than the Service shows. For
// example, web has 192.0.2.5 and still the annotation kube-vip.io/loadbalancerIPs: 192.0.2.9, which moves nobody.
func (s *Server) tellOfAnnotations(svc *corev1.Service, shows []netip.Addr) {
	message := strings.Join(s.ledger.Rules.Ignored(svc, shows), "; ")
	if tell, _ := s.ledger.Note(request.ServiceOf(svc), v1alpha1.EventIgnoredAnnotation, message); tell {
		s.recorder.Event(svc, corev1.EventTypeWarning, v1alpha1.EventIgnoredAnnotation, "The "+message)
	}
}

// wakeAgreeing wakes the Services that were told that another one does not admit them, and that all admit now: their next
// request tells them so. The other one has changed, or has left, and nothing about these has. For example, web was told that mail has its
// port 25 on 192.0.2.1, and mail is deleted: no event of web follows from that.
func (s *Server) wakeAgreeing() {
	for _, service := range s.ledger.Told(v1alpha1.EventKeptAddress) {
		svc := s.ledger.Service(service)
		if svc == nil || !request.Served(svc) {
			continue
		}
		if req, err := s.request(svc); err == nil {
			if answer := s.ledger.Cache.Plan(time.Now(), req)[0]; answer.Err == nil && len(answer.Outcome.Kept) == 0 {
				s.wake(svc)
			}
		}
	}
}
