// SPDX-License-Identifier: Apache-2.0

package provider

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// progress are the events with which the service controller reports each step that went well. They say less than the events of
// package loadbalancer, which name the addresses, and would be two out of seven writes for every new Service.
var progress = map[string]bool{
	"EnsuringLoadBalancer": true,
	"EnsuredLoadBalancer":  true,
	"UpdatedLoadBalancer":  true, // nothing depends on the set of nodes here
	"DeletingLoadBalancer": true,
	"DeletedLoadBalancer":  true,
}

// quiet is a client that spares the API server what the service controller writes without need: progress events, those of failures pass,
// and half of the patches of Services.
type quiet struct {
	kubernetes.Interface
	services corelisters.ServiceLister
}

// CoreV1 returns a client whose events are filtered and whose patches of Services are merged.
func (q quiet) CoreV1() typedcorev1.CoreV1Interface {
	return quietCore{q.Interface.CoreV1(), q.services}
}

type quietCore struct {
	typedcorev1.CoreV1Interface
	services corelisters.ServiceLister
}

func (q quietCore) Services(namespace string) typedcorev1.ServiceInterface {
	return thriftyServices{q.CoreV1Interface.Services(namespace), q.services.Services(namespace)}
}

func (q quietCore) Events(namespace string) typedcorev1.EventInterface {
	return quietEvents{q.CoreV1Interface.Events(namespace)}
}

// quietEvents filters the methods that an event sink uses.
type quietEvents struct{ typedcorev1.EventInterface }

func (q quietEvents) CreateWithEventNamespace(event *corev1.Event) (*corev1.Event, error) {
	if progress[event.Reason] {
		return event, nil
	}
	return q.EventInterface.CreateWithEventNamespace(event) //nolint:staticcheck // The sink calls this one.
}

func (q quietEvents) PatchWithEventNamespace(event *corev1.Event, data []byte) (*corev1.Event, error) {
	if progress[event.Reason] {
		return event, nil
	}
	return q.EventInterface.PatchWithEventNamespace(event, data) //nolint:staticcheck // The sink calls this one.
}
