// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// otherClass stands in the cache for the class of a Service without one that is left to another provider.
const otherClass = "tandem-lb.io/other-provider"

// viewedAnnotation marks a Service of the cache whose class was changed, so that it is not changed twice. The API refuses a key with a
// space: no user can set this annotation, and it could not be written by mistake.
const viewedAnnotation = "tandem-lb.io/class in the cache is not that of the API"

// A classView is the transformation of an informer after which, of the Services of type LoadBalancer, those without a class are ours.
//
//	class in the API       without -load-balancer-class-only    with it
//	tandem-lb.io/tandem    none                                 none
//	none                   none                                 tandem-lb.io/other-provider
//	example.com/other      example.com/other                    example.com/other
//
// Patches are worked out between two Services of the cache, so that neither the class nor the mark reaches the API.
type classView struct {
	// onlyOurs leaves Services without a class to another provider.
	onlyOurs bool
}

// transform is a cache.TransformFunc. Client-go applies it twice to the Services that it lists at the start, and so needs the mark: a
// Service of our class, once without it, would look like a Service that never had one. Managed fields are dropped to save memory.
func (v classView) transform(obj any) (any, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return obj, nil // what an informer says of a Service that is gone holds a Service of the cache
	}
	if _, viewed := svc.Annotations[viewedAnnotation]; viewed {
		return svc, nil
	}
	if svc.ManagedFields != nil { // The second time the object may have readers already.
		svc.ManagedFields = nil
	}
	class := svc.Spec.LoadBalancerClass
	switch {
	case class != nil && *class == v1alpha1.LoadBalancerClass:
		class = nil
	case class == nil && v.onlyOurs && svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		class = new(otherClass)
	default:
		return svc, nil
	}
	viewed := *svc
	viewed.Spec.LoadBalancerClass = class
	viewed.Annotations = map[string]string{viewedAnnotation: ""}
	maps.Copy(viewed.Annotations, svc.Annotations)
	return &viewed, nil
}

// serviceInformer is the informer as the service controller sees it: without the Services of other classes. By wake it hands the controller
// a Service once more.
type serviceInformer struct {
	coreinformers.ServiceInformer

	mu sync.Mutex
	// mu guards all following fields.
	handler cache.ResourceEventHandler // the one that the service controller registered
	early   []*corev1.Service          // woken before the controller registered
}

// Informer returns an informer whose handlers see the load balancers that are ours.
func (i *serviceInformer) Informer() cache.SharedIndexInformer {
	return &filteredInformer{SharedIndexInformer: i.ServiceInformer.Informer(), parent: i}
}

// wake makes the service controller look at a Service of ours, now or as soon as it runs.
func (i *serviceInformer) wake(svc *corev1.Service) {
	i.mu.Lock()
	handler := i.handler
	if handler == nil {
		i.early = append(i.early, svc)
	}
	i.mu.Unlock()
	if handler != nil {
		handler.OnAdd(svc, false)
	}
}

func (i *serviceInformer) register(handler cache.ResourceEventHandler) {
	i.mu.Lock()
	i.handler = handler
	early := i.early
	i.early = nil
	i.mu.Unlock()
	for _, svc := range early {
		handler.OnAdd(svc, false)
	}
}

type filteredInformer struct {
	cache.SharedIndexInformer
	parent *serviceInformer
}

// AddEventHandlerWithResyncPeriod is the method by which the service controller registers its handler.
func (i *filteredInformer) AddEventHandlerWithResyncPeriod(
	handler cache.ResourceEventHandler, resync time.Duration,
) (cache.ResourceEventHandlerRegistration, error) {
	filtered := cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool { return isOurs(lastSeen(obj)) },
		Handler:    onDelete{handler},
	}
	i.parent.register(handler)
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(filtered, resync)
}

// isOurs reports whether an object of the cache is a Service that is a load balancer of ours.
func isOurs(obj any) bool {
	svc, ok := obj.(*corev1.Service)
	return ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
}

// onDelete is a handler of the service controller that also sees Services go, or become something else than a load balancer of ours. The
// controller relies on its finalizer to see that. A Service without addresses has none, and may go while its first addresses are being
// allocated: the queue holds the deletion back until they are, and the controller, which then finds no Service, has them released.
type onDelete struct{ cache.ResourceEventHandler }

// OnDelete hands the Service to the controller's queue.
func (d onDelete) OnDelete(obj any) { d.OnAdd(lastSeen(obj), false) }

// lastSeen returns an object as it was when the informer last saw it, if what the informer hands out is a tombstone.
func lastSeen(obj any) any {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return obj
}
