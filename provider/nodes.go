// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/speaker/nodeinfo"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// nodeInformer is the informer as the node controller sees it. It keeps the handler that the controller registers, and hands it a Node once
// more when the node's speaker has found addresses. Without that, a Node whose kubelet knows no address would wait for the controller's next
// attempt, up to 1000 seconds.
type nodeInformer struct {
	coreinformers.NodeInformer

	mu      sync.Mutex
	handler cache.ResourceEventHandler // that the node controller registered; guarded by mu
}

// Informer returns an informer that keeps the handler that is registered.
func (i *nodeInformer) Informer() cache.SharedIndexInformer {
	return &keepingInformer{SharedIndexInformer: i.NodeInformer.Informer(), parent: i}
}

// speakerHandler is the handler for SpeakerStatuses.
func (i *nodeInformer) speakerHandler() cache.ResourceEventHandler {
	found := func(old []string, obj any) {
		if status, ok := obj.(*speakerv1alpha1.SpeakerStatus); ok && !slices.Equal(old, status.Status.Addresses) {
			i.wake(status.Name)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { found(nil, obj) },
		UpdateFunc: func(old, cur any) {
			if status, ok := old.(*speakerv1alpha1.SpeakerStatus); ok {
				found(status.Status.Addresses, cur)
			}
		},
	}
}

// wake makes the node controller look at a Node that waits to be initialised.
func (i *nodeInformer) wake(name string) {
	i.mu.Lock()
	handler := i.handler
	i.mu.Unlock()
	if node, err := i.Lister().Get(name); err == nil && handler != nil && nodeinfo.Uninitialized(node) {
		handler.OnAdd(node, false)
	}
}

type keepingInformer struct {
	cache.SharedIndexInformer
	parent *nodeInformer
}

// AddEventHandler is the method by which the node controller registers its handler.
func (i *keepingInformer) AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.parent.mu.Lock()
	i.parent.handler = handler
	i.parent.mu.Unlock()
	return i.SharedIndexInformer.AddEventHandler(handler)
}

// oneNode shows the service controller one Node that never changes, whatever Nodes there are. Shown all of them, the controller would
// compare them with those that it has last seen, for each Service, whenever one comes, goes, or is initialised, and would remember them
// for each Service: five seconds and 80 MB for 10,000 Services and 1,000 Nodes, all for our UpdateLoadBalancer, which does nothing. Shown
// none, it would warn of that at each try of each Service. Client-go lets only so many warnings of one object pass, and would then hold
// back the event that says why the Service has no address.
type oneNode struct{}

// Informer returns an informer that has no events.
func (oneNode) Informer() cache.SharedIndexInformer { return silentInformer{} }

// Lister returns a lister of the one Node.
func (oneNode) Lister() corelisters.NodeLister {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	utilruntime.Must(nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "any"}}))
	return corelisters.NewNodeLister(nodes)
}

// silentInformer has the two methods that the service controller uses.
type silentInformer struct{ cache.SharedIndexInformer }

// HasSynced is true: there is nothing to wait for.
func (silentInformer) HasSynced() bool { return true }

// AddEventHandlerWithResyncPeriod registers nothing.
func (silentInformer) AddEventHandlerWithResyncPeriod(
	cache.ResourceEventHandler, time.Duration,
) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}
