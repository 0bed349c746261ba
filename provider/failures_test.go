// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"errors"
	"testing"

	"github.com/tandem-lb/tandem/speaker/signal"
)

// The service controller asks whether a Service has a load balancer when the Service is to have none any more, and asks nothing else where it
// has none. What is remembered of a Service that waited must go then.
func TestFailuresAreForgotten(t *testing.T) {
	web := service("web", nil)
	l := notingLoadBalancer{&balancer{refuse: errors.New("no free address")}, newFailures(signal.New())}
	if _, err := l.EnsureLoadBalancer(t.Context(), "kubernetes", web, nil); err == nil {
		t.Fatal("no error")
	}
	if l.failures.of(web.UID) == "" {
		t.Error("the failure is not remembered")
	}
	if _, exists, err := l.GetLoadBalancer(t.Context(), "kubernetes", web); err != nil || exists {
		t.Fatalf("GetLoadBalancer: %t, %v", exists, err)
	}
	if len(l.failures.services) != 0 {
		t.Errorf("still remembered: %v", l.failures.services)
	}
}
