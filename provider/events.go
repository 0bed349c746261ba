// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// progress are the reasons of the events with which the service controller reports each step that succeeded. These events say less than
// those of package loadbalancer, which name the addresses, and would be two of seven writes for every new Service.
var progress = map[string]bool{
	"EnsuringLoadBalancer": true,
	"EnsuredLoadBalancer":  true,
	"UpdatedLoadBalancer":  true, // nothing depends on the set of nodes here
	"DeletingLoadBalancer": true,
	"DeletedLoadBalancer":  true,
}

// failureReason is the reason of the event with which the service controller reports each attempt that failed.
const failureReason = "SyncLoadBalancerFailed"

// filteringClient is a client that keeps needless writes of the service controller from the API server: its progress events, repeated
// events of failures, and half of its patches of Services.
type filteringClient struct {
	kubernetes.Interface
	services corelisters.ServiceLister
	failures *failures
}

// CoreV1 returns a client whose events are filtered and whose patches of Services are merged.
func (c filteringClient) CoreV1() typedcorev1.CoreV1Interface {
	return filteringCore{c.Interface.CoreV1(), c.services, c.failures}
}

type filteringCore struct {
	typedcorev1.CoreV1Interface
	services corelisters.ServiceLister
	failures *failures
}

func (c filteringCore) Services(namespace string) typedcorev1.ServiceInterface {
	return patchMerger{c.CoreV1Interface.Services(namespace), c.services.Services(namespace)}
}

func (c filteringCore) Events(namespace string) typedcorev1.EventInterface {
	return eventFilter{c.CoreV1Interface.Events(namespace), c.failures}
}

// eventFilter drops progress events, and failures that were reported within failurePeriod. It overrides the methods that an event sink
// uses. Client-go puts repeated events together, but only those of the last 4,096 objects.
type eventFilter struct {
	typedcorev1.EventInterface
	failures *failures
}

// filter sends an event, or drops it. A failure counts as reported when the API server has taken the event: client-go tries again where the
// server could not be reached, and creates an event that it could not patch since the server has forgotten it.
func (f eventFilter) filter(event *corev1.Event, send func() (*corev1.Event, error)) (*corev1.Event, error) {
	switch {
	case progress[event.Reason]:
		return event, nil
	case event.Reason != failureReason:
		return send()
	}
	service, now := event.InvolvedObject.UID, time.Now()
	message, due := f.failures.due(service, now)
	if !due {
		return event, nil
	}
	sent, err := send()
	if err == nil {
		f.failures.reported(service, message, now)
	}
	return sent, err
}

func (f eventFilter) CreateWithEventNamespace(event *corev1.Event) (*corev1.Event, error) {
	return f.filter(event, func() (*corev1.Event, error) {
		return f.EventInterface.CreateWithEventNamespace(event) //nolint:staticcheck // The sink calls this one.
	})
}

func (f eventFilter) PatchWithEventNamespace(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return f.filter(event, func() (*corev1.Event, error) {
		return f.EventInterface.PatchWithEventNamespace(event, data) //nolint:staticcheck // The sink calls this one.
	})
}
