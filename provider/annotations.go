// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// A check returns what is wrong with a value of an annotation. Fields of our own kinds are checked by the API server, or named by a condition
// of the object; a Service and a Node have an event instead.
type check func(value string) error

// The annotations that are checked, and whose checks do not depend on other objects.
var (
	serviceAnnotations = map[string]check{v1alpha1.AnnotationPreferredNodes: checkSelector}
	nodeAnnotations    = map[string]check{
		v1alpha1.AnnotationDrain:         checkBoolean,
		v1alpha1.AnnotationBGPASN:        func(value string) error { _, err := observation.ParseASN(value); return err },
		v1alpha1.AnnotationBGPRouterID:   func(value string) error { _, err := observation.ParseRouterID(value); return err },
		v1alpha1.AnnotationBGPSourceIPv4: func(value string) error { _, err := observation.ParseSource(value, family.IPv4); return err },
		v1alpha1.AnnotationBGPSourceIPv6: func(value string) error { _, err := observation.ParseSource(value, family.IPv6); return err },
	}
)

func checkSelector(value string) error {
	if _, err := labels.Parse(value); err != nil {
		return fmt.Errorf("%q is no label selector such as rack=1: %w", value, err)
	}
	return nil
}

func checkBoolean(value string) error {
	if _, err := strconv.ParseBool(value); err != nil {
		return fmt.Errorf("%q is neither true nor false", value)
	}
	return nil
}

// warnOfAnnotations writes an event on each load balancer of ours and on each Node that has an annotation with something wrong: once for each
// value, and once more when another controller manager takes the lead.
func warnOfAnnotations(factory informers.SharedInformerFactory, recorder record.EventRecorder) error {
	services := cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool { return isOurs(lastSeen(obj)) },
		Handler:    annotationHandler(recorder, serviceAnnotations),
	}
	if _, err := factory.Core().V1().Services().Informer().AddEventHandler(services); err != nil {
		return fmt.Errorf("watching the annotations of Services: %w", err)
	}
	nodes := annotationHandler(recorder, nodeAnnotations)
	if _, err := factory.Core().V1().Nodes().Informer().AddEventHandler(nodes); err != nil {
		return fmt.Errorf("watching the annotations of Nodes: %w", err)
	}
	return nil
}

func annotationHandler(recorder record.EventRecorder, checks map[string]check) cache.ResourceEventHandler {
	warn := func(old map[string]string, obj any) {
		current := obj.(metav1.Object).GetAnnotations()
		for annotation, check := range checks {
			value := current[annotation]
			if value == "" || value == old[annotation] {
				continue
			}
			if err := check(value); err != nil {
				recorder.Eventf(obj.(runtime.Object), corev1.EventTypeWarning, v1alpha1.EventInvalidAnnotation,
					"the annotation %s has no effect, since %v", annotation, err)
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { warn(nil, obj) },
		UpdateFunc: func(old, cur any) { warn(old.(metav1.Object).GetAnnotations(), cur) },
	}
}
