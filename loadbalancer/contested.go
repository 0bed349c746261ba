// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// Contested says who else writes the status of a Service, as [contest.Contests.Writer] does.
func (s *Server) Contested(service ipam.Service) (message string, until time.Time) {
	return s.contests.Writer(service, time.Now())
}

// wakeForStatus has the status of a Service written again that shows something else than what the Service has, now or
// after a pause.
//
//	last answer    status           what it means
//	none           192.0.2.1        the leader has just started, and its first answer may differ: write now
//	192.0.2.1      192.0.2.1        our own status, and the address has to change: write now
//	192.0.2.1      198.51.100.11    another writer: write now or, from the fourth time on, after a pause
func (s *Server) wakeForStatus(svc *corev1.Service) {
	given, answered := s.ledger.Answer(request.ServiceOf(svc))
	if !answered || showsAll(&svc.Status.LoadBalancer, given) {
		s.wake(svc) // The status is ours, and has to change.
		return
	}
	write, pause := s.contests.Next(request.ServiceOf(svc), svc.ResourceVersion, time.Now())
	if write {
		s.wake(svc)
	} else if pause > 0 {
		s.repairs.AddAfter(item{kind: repairService, service: request.ServiceOf(svc)}, pause)
		s.repairs.Add(item{kind: nameWriter, service: request.ServiceOf(svc)})
	}
}

// nameWriter finds out who else writes the status of a Service, and tells the user, as in "k3s writes 198.51.100.11 over
// 192.0.2.1 in the status". The API is asked: the informer's Services have no managedFields.
func (s *Server) nameWriter(ctx context.Context, service ipam.Service) error {
	svc, err := s.client.CoreV1().Services(service.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading who writes the status of Service %s: %w", service, err)
	}
	given, _ := s.ledger.Answer(service)
	writer, at := statusWriter(svc)
	shown := "nothing"
	if published := request.Published(svc); len(published) > 0 {
		shown = join(published)
	}
	message := fmt.Sprintf("%s writes %s over %s in the status. Clients find what was written last. Let one of the two serve this "+
		"Service: stop the other controller, or create the Service again with spec.loadBalancerClass, %s for Tandem; "+
		"see also --load-balancer-class-only",
		cmp.Or(writer, "another controller"), shown, join(given), v1alpha1.LoadBalancerClass)
	s.contests.Name(service, message)
	if cached := s.ledger.Service(service); cached != nil {
		if writer != "" {
			message += fmt.Sprintf(" (last at %s)", at.UTC().Format(time.RFC3339))
		}
		s.recorder.Event(cached, corev1.EventTypeWarning, v1alpha1.EventStatusOverwritten, message)
	}
	return nil
}

// statusWriter returns the manager other than us that was the last to write the addresses in the status of a Service, and
// when; "" where none is known. The API server names a manager after its program, or as the program asks for. For example, ServiceLB of
// k3s is "k3s", and kubectl edit --subresource=status is "kubectl-edit".
func statusWriter(svc *corev1.Service) (manager string, at time.Time) {
	us, _, _ := strings.Cut(rest.DefaultKubernetesUserAgent(), "/")
	for _, entry := range svc.ManagedFields {
		if entry.Manager == us || entry.Subresource != "status" || entry.FieldsV1 == nil || entry.Time == nil ||
			!strings.Contains(entry.FieldsV1.GetRawString(), `"f:loadBalancer"`) {
			continue
		}
		if manager == "" || entry.Time.After(at) {
			manager, at = entry.Manager, entry.Time.Time
		}
	}
	return manager, at
}

// join lists addresses as "192.0.2.1 and 2001:db8::1".
func join(addresses []netip.Addr) string {
	var texts []string
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " and ")
}
