// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// Annotations that the API has and that have no effect in this version. Fields of our own kinds are named by a condition of the object; a
// Service and a Node have an event instead.
var (
	serviceAnnotationsWithoutEffect = []string{v1alpha1.AnnotationPreferredNodes}
	nodeAnnotationsWithoutEffect    = []string{
		v1alpha1.AnnotationDrain, v1alpha1.AnnotationBGPASN, v1alpha1.AnnotationBGPRouterID,
		v1alpha1.AnnotationBGPSourceIPv4, v1alpha1.AnnotationBGPSourceIPv6,
	}
)

// warnOfAnnotations writes an event on each load balancer of ours and on each Node that has one of these annotations: once for each value,
// and once more when another controller manager takes the lead.
func warnOfAnnotations(factory informers.SharedInformerFactory, recorder record.EventRecorder) error {
	services := cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool { return isOurs(lastSeen(obj)) },
		Handler:    annotationHandler(recorder, serviceAnnotationsWithoutEffect),
	}
	if _, err := factory.Core().V1().Services().Informer().AddEventHandler(services); err != nil {
		return fmt.Errorf("watching the annotations of Services: %w", err)
	}
	nodes := annotationHandler(recorder, nodeAnnotationsWithoutEffect)
	if _, err := factory.Core().V1().Nodes().Informer().AddEventHandler(nodes); err != nil {
		return fmt.Errorf("watching the annotations of Nodes: %w", err)
	}
	return nil
}

func annotationHandler(recorder record.EventRecorder, annotations []string) cache.ResourceEventHandler {
	warn := func(old map[string]string, obj any) {
		current := obj.(metav1.Object).GetAnnotations()
		for _, annotation := range annotations {
			if value := current[annotation]; value != "" && value != old[annotation] {
				recorder.Eventf(obj.(runtime.Object), corev1.EventTypeWarning, v1alpha1.EventNotImplemented,
					"the annotation %s has no effect in this version", annotation)
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { warn(nil, obj) },
		UpdateFunc: func(old, cur any) { warn(old.(metav1.Object).GetAnnotations(), cur) },
	}
}
