// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// A feed has what the informers have seen until the loop takes it. Of Services, EndpointSlices, claims and L2Announcements, of which there
// are thousands, it has the objects. Of the other kinds it has only that some object has changed. Before it is taken for the first time it
// has no objects, since the loop then reads all from the cache: a speaker may wait for hours until there is a key of gossip.
type feed struct {
	// objects is raised when an object of the first kinds has changed, and others when one of the other kinds has.
	objects, others signal.Signal

	mu     sync.Mutex // guards all following fields
	events []event
	taken  bool // for the first time
	stale  bool // an object of the other kinds has changed
}

// An event is an object that exists, or is gone.
type event struct {
	object client.Object
	exists bool
}

func newFeed() *feed { return &feed{objects: signal.New(), others: signal.New(), stale: true} }

// handler returns the handler of the informer of one kind.
func (f *feed) handler(kind client.Object) toolscache.ResourceEventHandlerFuncs {
	switch kind.(type) {
	case *corev1.Service, *discoveryv1.EndpointSlice, *networkingv1.IPAddress, *v1alpha1.L2Announcement:
		return toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { f.put(obj, true) },
			UpdateFunc: func(old, obj any) { f.replace(old, obj) },
			DeleteFunc: func(obj any) { f.put(obj, false) },
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f.change() },
		UpdateFunc: func(old, obj any) {
			if matters(old, obj) {
				f.change()
			}
		},
		DeleteFunc: func(any) { f.change() },
	}
}

// put takes in an object that exists, or is gone.
func (f *feed) put(obj any, exists bool) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	object, ok := obj.(client.Object)
	if !ok {
		return
	}
	f.mu.Lock()
	if f.taken {
		f.events = append(f.events, event{object, exists})
	}
	f.mu.Unlock()
	f.objects.Raise()
}

// replace takes in an object that has changed. An EndpointSlice may go from one Service to another.
func (f *feed) replace(old, obj any) {
	before, _ := old.(*discoveryv1.EndpointSlice)
	if now, ok := obj.(*discoveryv1.EndpointSlice); ok && before != nil &&
		before.Labels[discoveryv1.LabelServiceName] != now.Labels[discoveryv1.LabelServiceName] {
		f.put(old, false)
	}
	f.put(obj, true)
}

// change takes in that an object of the other kinds has changed.
func (f *feed) change() {
	f.mu.Lock()
	f.stale = true
	f.mu.Unlock()
	f.others.Raise()
}

// take returns the events in their order, and whether an object of the other kinds has changed.
func (f *feed) take() (events []event, stale bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, stale = f.events, f.stale
	f.events, f.stale, f.taken = nil, false, true
	return events, stale
}
