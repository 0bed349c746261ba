// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/tandem-lb/tandem/speaker/signal"
)

// failures remembers why Services have no addresses, for their condition Allocated.
type failures struct {
	changed signal.Signal

	mu       sync.Mutex
	messages map[types.UID]string // mu guards it
}

func newFailures(changed signal.Signal) *failures {
	return &failures{changed: changed, messages: map[types.UID]string{}}
}

// of returns why a Service has no addresses, "" if nothing is known.
func (f *failures) of(service types.UID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages[service]
}

func (f *failures) note(service types.UID, err error) {
	message := ""
	if err != nil {
		message = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.messages[service] == message {
		return
	}
	if message == "" {
		delete(f.messages, service)
	} else {
		f.messages[service] = message
	}
	f.changed.Raise()
}

// notingLoadBalancer is a load balancer whose failures are remembered.
type notingLoadBalancer struct {
	cloudprovider.LoadBalancer
	failures *failures
}

// EnsureLoadBalancer gives a Service its addresses.
func (l notingLoadBalancer) EnsureLoadBalancer(
	ctx context.Context, cluster string, svc *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	status, err := l.LoadBalancer.EnsureLoadBalancer(ctx, cluster, svc, nodes)
	l.failures.note(svc.UID, err)
	return status, err
}

// EnsureLoadBalancerDeleted takes the addresses of a Service away.
func (l notingLoadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, cluster string, svc *corev1.Service) error {
	l.failures.note(svc.UID, nil)
	return l.LoadBalancer.EnsureLoadBalancerDeleted(ctx, cluster, svc)
}
