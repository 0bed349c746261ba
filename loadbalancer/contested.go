// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// Another writer of the status
//
// Where ServiceLB of k3s, MetalLB or kube-vip serves the same Services, each of the two writes its own addresses over
// those of the other. We write a status back at once as long as that is rare, since a user may have edited it. From the
// fourth time in a minute on we wait before each write, longer each time, and say who else writes. Speakers announce
// meanwhile what our claims stand for (package observation).
//
//	writes over ours    we write back after
//	1 to 3              0 s
//	4                   10 s
//	5                   20 s
//	9 and later         300 s

const (
	freeRounds  = 3
	roundPeriod = time.Minute
	firstPause  = 10 * time.Second
	lastPause   = 5 * time.Minute
)

// contest is what is remembered of another writer of one Service's status.
type contest struct {
	version string        // of the Service, for which we have written the status again, or are about to
	rounds  int           // how often, since
	since   time.Time     // the first of them
	last    time.Time     // the last of them
	pause   time.Duration // the last one, 0 where there was none
	until   time.Time     // the end of the pause that there is, or zero
	message string        // who else writes, "" if nobody does or it is not known yet
}

// over returns when the other writer can be taken to have stopped.
func (c *contest) over() time.Time { return c.last.Add(roundPeriod + 2*c.pause) }

// next reports whether the status is to be written again now, which is another one than ours in this version of the
// Service. Otherwise it is to be written in pause; that is 0 where it has been said before.
func (c *contest) next(version string, now time.Time) (write bool, pause time.Duration) {
	switch {
	case now.Before(c.until):
		return false, 0
	case !c.until.IsZero(): // the pause is over
		c.until, c.version, c.last = time.Time{}, version, now
		return true, 0
	case version == c.version: // the other address of a pair
		return true, 0
	case now.After(c.over()), c.pause == 0 && now.Sub(c.since) > roundPeriod:
		*c = contest{since: now}
	}
	c.rounds++
	c.version = version
	if c.rounds <= freeRounds {
		c.last = now
		return true, 0
	}
	c.pause = min(max(firstPause, 2*c.pause), lastPause)
	c.last, c.until = now, now.Add(c.pause)
	return false, c.pause
}

// contests are the Services whose statuses others write too.
type contests struct {
	mu sync.Mutex
	// mu guards all following fields.
	services map[ipam.Service]*contest
}

// next is that of the Service's contest.
func (c *contests) next(svc *corev1.Service, now time.Time) (write bool, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	service := request.ServiceOf(svc)
	if c.services[service] == nil {
		c.services[service] = &contest{since: now, last: now}
	}
	return c.services[service].next(svc.ResourceVersion, now)
}

// name records who writes the status of a Service.
func (c *contests) name(service ipam.Service, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.services[service]; known != nil {
		known.message = message
	}
}

// forget ends the contest of a Service.
func (c *contests) forget(service ipam.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, service)
}

// Contested says who else writes the status of a Service, and until when this is to be taken for true if nothing
// happens. The message is "" where nobody does. A single write over ours is no contest.
func (s *Server) Contested(service ipam.Service) (message string, until time.Time) {
	s.contests.mu.Lock()
	defer s.contests.mu.Unlock()
	c := s.contests.services[service]
	if c == nil || c.message == "" || time.Now().After(c.over()) {
		return "", time.Time{}
	}
	return c.message, c.over()
}

// wakeForStatus has the status of a Service written again that shows something else than what the Service has, now or
// after a pause.
func (s *Server) wakeForStatus(svc *corev1.Service) {
	given, answered := s.ledger.answer(request.ServiceOf(svc))
	if !answered || slices.Equal(given, request.Published(svc)) {
		s.wake(svc) // The status is ours, and has to change.
		return
	}
	write, pause := s.contests.next(svc, time.Now())
	if write {
		s.wake(svc)
	} else if pause > 0 {
		s.repairs.AddAfter(item{kind: repairService, service: request.ServiceOf(svc)}, pause)
		s.repairs.Add(item{kind: nameWriter, service: request.ServiceOf(svc)})
	}
}

// nameWriter finds out who else writes the status of a Service, and tells the user.
func (s *Server) nameWriter(ctx context.Context, service ipam.Service) error {
	svc, err := s.client.CoreV1().Services(service.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading who writes the status of Service %s: %w", service, err)
	}
	given, _ := s.ledger.answer(service)
	writer, at := statusWriter(svc)
	shown := "nothing"
	if published := request.Published(svc); len(published) > 0 {
		shown = join(published)
	}
	message := fmt.Sprintf("%s writes %s over %s in the status. Clients find what was written last. Let one of the two serve this "+
		"Service: stop the other controller, or create the Service again with spec.loadBalancerClass, %s for Tandem; "+
		"see also --load-balancer-class-only",
		cmp.Or(writer, "another controller"), shown, join(given), v1alpha1.LoadBalancerClass)
	s.contests.name(service, message)
	if cached := s.ledger.service(service); cached != nil {
		if writer != "" {
			message += fmt.Sprintf(" (last at %s)", at.UTC().Format(time.RFC3339))
		}
		s.recorder.Event(cached, corev1.EventTypeWarning, v1alpha1.EventStatusOverwritten, message)
	}
	return nil
}

// statusWriter returns the manager other than us that was the last to write the addresses in the status of a Service, and
// when; "" where none is known. The API server names a manager after its program, or as the program asks for.
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
