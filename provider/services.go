// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
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
//	example.com/former     none                                 none
//
// The class of a Service cannot be changed. Those that a former load balancer has left behind (-load-balancer-class=example.com/former) are ours.
//
// Patches are worked out between two Services of the cache, so that neither the class nor the mark reaches the API.
type classView struct {
	// onlyOurs leaves Services without a class to another provider.
	onlyOurs bool
	// former are classes of other load balancers that are ours now.
	former []string
}

// transform is a cache.TransformFunc. Client-go applies it twice to the Services that it lists at the start, and so needs the mark: a
// Service of our class, once without it, would look like a Service that never had one. See [trimService] for what it drops.
func (v classView) transform(obj any) (any, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return obj, nil // what an informer says of a Service that is gone holds a Service of the cache
	}
	if _, viewed := svc.Annotations[viewedAnnotation]; viewed {
		return svc, nil
	}
	if svc.ManagedFields != nil { // The second time the object may have readers already.
		trimService(svc)
		if maps.Equal(svc.Annotations, markAlone) {
			svc.Annotations = markAlone
		}
	}
	class := svc.Spec.LoadBalancerClass
	switch {
	case class != nil && (*class == v1alpha1.LoadBalancerClass || slices.Contains(v.former, *class)):
		class = nil
	case class == nil && v.onlyOurs && svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		class = new(otherClass)
	default:
		return svc, nil
	}
	viewed := *svc
	viewed.Spec.LoadBalancerClass = class
	if maps.Equal(svc.Annotations, markAlone) {
		viewed.Annotations = markViewed
		return &viewed, nil
	}
	viewed.Annotations = map[string]string{viewedAnnotation: ""}
	maps.Copy(viewed.Annotations, svc.Annotations)
	return &viewed, nil
}

// The annotations of most Services are one of these two maps, which they have in common in the cache: a map is 400 bytes.
var (
	markAlone  = map[string]string{v1alpha1.AnnotationFinalizer: "true"}
	markViewed = map[string]string{v1alpha1.AnnotationFinalizer: "true", viewedAnnotation: ""}
)

// serviceInformer is the informer as the service controller sees it: load balancers of ours, and Services that have to be cleaned up after. By
// wake it hands the controller a Service once more.
//
//	Service                                 with our finalizer    with an unmarked finalizer      without
//	load balancer of ours                   shown                 shown                           shown
//	load balancer of another provider       when woken            hidden                          hidden
//	none                                    shown                 when deleted and we are alone   hidden
//
// The last row is what a controller manager leaves that ends while a load balancer becomes a ClusterIP Service. The middle one is a Service
// that has been handed over; package loadbalancer wakes it when nothing of ours is left of it.
type serviceInformer struct {
	coreinformers.ServiceInformer
	// alone reports whether ours is the only provider in the cluster, so that no other one cleans up after a Service.
	alone func() bool

	mu sync.Mutex
	// mu guards all following fields.
	handler cache.ResourceEventHandler // the one that the service controller registered
	early   []*corev1.Service          // woken before the controller registered
}

// Informer returns an informer whose handlers see the load balancers that are ours.
func (i *serviceInformer) Informer() cache.SharedIndexInformer {
	return &filteredInformer{SharedIndexInformer: i.ServiceInformer.Informer(), parent: i}
}

// wake makes the service controller look at a Service, now or as soon as it runs.
func (i *serviceInformer) wake(svc *corev1.Service) {
	i.mu.Lock()
	handler := i.handler
	if handler == nil {
		i.early = append(i.early, svc)
	}
	i.mu.Unlock()
	if handler != nil {
		queue(handler, svc)
	}
}

func (i *serviceInformer) register(handler cache.ResourceEventHandler) {
	i.mu.Lock()
	i.handler = handler
	early := i.early
	i.early = nil
	i.mu.Unlock()
	for _, svc := range early {
		queue(handler, svc)
	}
}

// queue has the service controller look at a Service. Its handler takes only one that wants a load balancer or needs to be cleaned up after,
// and keeps the name alone; so one that is another provider's load balancer by now is handed over by its name, with the finalizer.
func queue(handler cache.ResourceEventHandler, svc *corev1.Service) {
	if !isOurs(svc) {
		svc = &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: svc.Name, Finalizers: []string{v1alpha1.Finalizer},
		}}
	}
	handler.OnAdd(svc, false)
}

// concerns reports whether the service controller is to see an object of the cache.
func (i *serviceInformer) concerns(obj any) bool {
	svc, ok := obj.(*corev1.Service)
	if !ok || svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return isOurs(obj)
	}
	return request.FinalizerIsOurs(svc) || servicehelper.HasLBFinalizer(svc) && svc.DeletionTimestamp != nil && i.alone()
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
		FilterFunc: func(obj any) bool { return i.parent.concerns(lastSeen(obj)) },
		Handler:    controllerHandler{handler},
	}
	i.parent.register(handler)
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(filtered, resync)
}

// isOurs reports whether an object of the cache is a Service that is a load balancer of ours.
func isOurs(obj any) bool {
	svc, ok := obj.(*corev1.Service)
	return ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
}

// controllerHandler is the handler of the service controller, which is told more of Services that go, and less of what it writes itself.
type controllerHandler struct{ cache.ResourceEventHandler }

// OnDelete hands a Service to the controller's queue that is gone, or that has become something else than a load balancer of ours. The
// controller relies on its finalizer to see that. A Service without addresses has none, and may go while its first addresses are being
// allocated: the queue holds the deletion back until they are, and the controller, which then finds no Service, has them released.
func (h controllerHandler) OnDelete(obj any) {
	if svc, ok := lastSeen(obj).(*corev1.Service); ok {
		queue(h.ResourceEventHandler, svc)
	}
}

// OnUpdate hides from the controller that our mark has come, since it looks at a Service once more when the annotations change.
func (h controllerHandler) OnUpdate(old, cur any) {
	before, now := old.(*corev1.Service), cur.(*corev1.Service)
	if mark := now.Annotations[v1alpha1.AnnotationFinalizer]; mark != "" && before.Annotations[v1alpha1.AnnotationFinalizer] == "" {
		marked := *before
		marked.Annotations = map[string]string{v1alpha1.AnnotationFinalizer: mark}
		maps.Copy(marked.Annotations, before.Annotations)
		old = &marked
	}
	h.ResourceEventHandler.OnUpdate(old, cur)
}

// lastSeen returns an object as it was when the informer last saw it, if what the informer hands out is a tombstone.
func lastSeen(obj any) any {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return obj
}

// noOtherProvider returns a function that reports whether no Node has the provider ID of another provider. Where there is one, it runs the
// service controller too, or may run it again, and an unmarked finalizer may be its own. While the Nodes are not known it reports false.
func noOtherProvider(nodes coreinformers.NodeInformer) func() bool {
	synced, lister := nodes.Informer().HasSynced, nodes.Lister()
	return func() bool {
		all, err := lister.List(labels.Everything())
		return err == nil && synced() && !slices.ContainsFunc(all, func(node *corev1.Node) bool {
			return node.Spec.ProviderID != "" && node.Spec.ProviderID != providerID(node)
		})
	}
}
