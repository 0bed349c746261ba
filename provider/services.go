// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// otherClass stands for the class of a Service without one that is left to another provider.
const otherClass = "tandem-lb.io/other-provider"

// classes says how Services are shown: of type LoadBalancer, one is ours if and only if it is shown without a class.
//
// A transformation of the informer cannot say it. Client-go applies that twice to what it lists at the start, when a Service of our class
// and one without a class would look the same already. Patches are worked out between two Services that were both shown, so that no
// change of a class reaches the API.
type classes struct {
	// onlyOurs leaves Services without a class to another provider.
	onlyOurs bool
}

// show returns the Service itself or, where it is shown with another class, a shallow copy.
func (c classes) show(svc *corev1.Service) *corev1.Service {
	class := svc.Spec.LoadBalancerClass
	switch {
	case class != nil && *class == v1alpha1.LoadBalancerClass:
		class = nil
	case class == nil && c.onlyOurs && svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		class = new(otherClass)
	default:
		return svc
	}
	shown := *svc
	shown.Spec.LoadBalancerClass = class
	return &shown
}

// showAny shows what an informer hands out: a Service, or what was one when it was last seen.
func (c classes) showAny(obj any) any {
	switch obj := obj.(type) {
	case *corev1.Service:
		return c.show(obj)
	case cache.DeletedFinalStateUnknown:
		return cache.DeletedFinalStateUnknown{Key: obj.Key, Obj: c.showAny(obj.Obj)}
	}
	return obj
}

// shownServices is an informer of Services, whose handlers and listers see the Services as they are shown.
type shownServices struct {
	coreinformers.ServiceInformer
	classes classes
}

// Informer returns an informer whose handlers see the Services as they are shown.
func (s shownServices) Informer() cache.SharedIndexInformer {
	return shownInformer{s.ServiceInformer.Informer(), s.classes}
}

// Lister returns a lister of the Services as they are shown.
func (s shownServices) Lister() corelisters.ServiceLister {
	return shownLister{s.ServiceInformer.Lister(), s.classes}
}

type shownInformer struct {
	cache.SharedIndexInformer
	classes classes
}

func (i shownInformer) AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(shownHandler{handler, i.classes})
}

func (i shownInformer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(shownHandler{handler, i.classes}, resync)
}

func (i shownInformer) AddEventHandlerWithOptions(handler cache.ResourceEventHandler, options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithOptions(shownHandler{handler, i.classes}, options)
}

type shownHandler struct {
	cache.ResourceEventHandler
	classes classes
}

func (h shownHandler) OnAdd(obj any, isInInitialList bool) {
	h.ResourceEventHandler.OnAdd(h.classes.showAny(obj), isInInitialList)
}

func (h shownHandler) OnUpdate(old, cur any) {
	h.ResourceEventHandler.OnUpdate(h.classes.showAny(old), h.classes.showAny(cur))
}

func (h shownHandler) OnDelete(obj any) {
	h.ResourceEventHandler.OnDelete(h.classes.showAny(obj))
}

type shownLister struct {
	corelisters.ServiceLister
	classes classes
}

func (l shownLister) List(selector labels.Selector) ([]*corev1.Service, error) {
	return showAll(l.classes, selector, l.ServiceLister.List)
}

func (l shownLister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return shownNamespaceLister{l.ServiceLister.Services(namespace), l.classes}
}

type shownNamespaceLister struct {
	corelisters.ServiceNamespaceLister
	classes classes
}

func (l shownNamespaceLister) List(selector labels.Selector) ([]*corev1.Service, error) {
	return showAll(l.classes, selector, l.ServiceNamespaceLister.List)
}

func (l shownNamespaceLister) Get(name string) (*corev1.Service, error) {
	svc, err := l.ServiceNamespaceLister.Get(name)
	if err != nil {
		return nil, err
	}
	return l.classes.show(svc), nil
}

func showAll(c classes, selector labels.Selector, list func(labels.Selector) ([]*corev1.Service, error)) ([]*corev1.Service, error) {
	services, err := list(selector)
	for i, svc := range services {
		services[i] = c.show(svc)
	}
	return services, err
}

// serviceInformer is the informer as the service controller sees it: without the Services of other classes, and with a way to
// hand it one again.
type serviceInformer struct {
	coreinformers.ServiceInformer

	mu sync.Mutex
	// mu guards all following fields.
	handler cache.ResourceEventHandler // the one that the service controller registered
	early   []*corev1.Service          // woken before it did
}

// Informer returns an informer whose handlers see the load balancers that are ours.
func (i *serviceInformer) Informer() cache.SharedIndexInformer {
	return &filteredInformer{SharedIndexInformer: i.ServiceInformer.Informer(), parent: i}
}

// wake makes the service controller look at the Service, which is ours, now or as soon as it runs.
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

// AddEventHandlerWithResyncPeriod is the way in which the service controller registers.
func (i *filteredInformer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	filtered := cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			svc, ok := obj.(*corev1.Service)
			return ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
		},
		Handler: deletions{handler},
	}
	i.parent.register(handler)
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(filtered, resync)
}

// deletions is a handler of the service controller that also sees Services go, or become something else than a load balancer of ours. The
// controller relies on its finalizer to see that; a Service without addresses has none, and may go while the first are being allocated. The
// queue holds the deletion back until then, and the controller, which finds the Service gone, has everything released.
type deletions struct{ cache.ResourceEventHandler }

// OnDelete hands the Service to the controller's queue.
func (d deletions) OnDelete(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	d.OnAdd(obj, false)
}
