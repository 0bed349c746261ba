// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// failurePeriod is the least time between two events with which a Service says the same failure. With 10,000 Services that cannot be served, a
// try of each every five minutes would be 33 events a second. The API server forgets an event after an hour.
const failurePeriod = time.Hour

// failures remembers why Services have no addresses, for their condition Allocated and their events.
type failures struct {
	changed signal.Signal

	mu       sync.Mutex
	services map[types.UID]failure // mu guards it
}

// failure is why a Service has no addresses, and when an event last said so.
type failure struct {
	message   string
	uncovered bool // it is ipam.ErrUncovered
	reported  time.Time
}

func newFailures(changed signal.Signal) *failures {
	return &failures{changed: changed, services: map[types.UID]failure{}}
}

// of returns why a Service has no addresses, "" if nothing is known.
func (f *failures) of(service types.UID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.services[service].message
}

// uncovered reports whether a Service has no addresses of ours since its status shows one that no pool holds.
func (f *failures) uncovered(service types.UID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.services[service].uncovered
}

// due reports whether an event is to say the failure of a Service: it is another one than before, or the last event is too old. Failures
// that are not noted, such as those of a deletion, are always said. The message is for reported.
func (f *failures) due(service types.UID, now time.Time) (message string, due bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.services[service]
	return known.message, now.Sub(known.reported) >= failurePeriod
}

// reported notes that an event has said the failure of a Service that has this message.
func (f *failures) reported(service types.UID, message string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.services[service]; ok && known.message == message {
		known.reported = now
		f.services[service] = known
	}
}

func (f *failures) note(service types.UID, err error) {
	message := ""
	if err != nil {
		message = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.services[service].message == message {
		return
	}
	if message == "" {
		delete(f.services, service)
	} else {
		f.services[service] = failure{message: message, uncovered: errors.Is(err, ipam.ErrUncovered)}
	}
	f.changed.Raise()
}

// notingLoadBalancer is a load balancer whose failures are remembered.
type notingLoadBalancer struct {
	cloudprovider.LoadBalancer
	failures *failures
}

// EnsureLoadBalancer gives a Service its addresses, whatever Nodes there are.
func (l notingLoadBalancer) EnsureLoadBalancer(
	ctx context.Context, cluster string, svc *corev1.Service, _ []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	status, err := l.LoadBalancer.EnsureLoadBalancer(ctx, cluster, svc, nil)
	l.failures.note(svc.UID, err)
	return status, err
}

// GetLoadBalancer reports whether a Service has addresses. The service controller asks before it takes them away, and does not take any away
// where there are none, as from a Service that never got one and is no load balancer any more.
func (l notingLoadBalancer) GetLoadBalancer(
	ctx context.Context, cluster string, svc *corev1.Service,
) (status *corev1.LoadBalancerStatus, exists bool, err error) {
	if status, exists, err = l.LoadBalancer.GetLoadBalancer(ctx, cluster, svc); err == nil && !exists {
		l.failures.note(svc.UID, nil)
	}
	return status, exists, err
}

// EnsureLoadBalancerDeleted takes the addresses of a Service away.
func (l notingLoadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, cluster string, svc *corev1.Service) error {
	l.failures.note(svc.UID, nil)
	return l.LoadBalancer.EnsureLoadBalancerDeleted(ctx, cluster, svc)
}
