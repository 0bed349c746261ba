// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// strangers watches the IPAddresses that are not ours, so that one in the way is missed when it goes. Most clusters have one or two for each
// of their Services, the ClusterIPs, and none of them in a pool. The watch therefore begins with the first one that is met.
type strangers struct {
	cache.SharedIndexInformer
	met  chan struct{} // closed when there is one
	once sync.Once
}

func newStrangers(client kubernetes.Interface) *strangers {
	informer := networkinginformers.NewFilteredIPAddressInformer(client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = networkingv1.LabelManagedBy + "!=" + v1alpha1.ManagedBy
	})
	// Fails on a running informer only.
	_ = informer.SetTransform(func(obj any) (any, error) {
		if claim, ok := obj.(*networkingv1.IPAddress); ok {
			return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: claim.Name, ResourceVersion: claim.ResourceVersion}}, nil
		}
		return obj, nil
	})
	return &strangers{SharedIndexInformer: informer, met: make(chan struct{})}
}

// meet begins the watch.
func (s *strangers) meet() { s.once.Do(func() { close(s.met) }) }

// run watches from the first meeting until the context ends.
func (s *strangers) run(ctx context.Context) {
	select {
	case <-s.met:
		s.RunWithContext(ctx)
	case <-ctx.Done():
	}
}

// HasSynced is true where there is nothing to wait for: nothing that is given depends on this watch.
func (s *strangers) HasSynced() bool { return true }

// watched reports whether the watch has begun, so that whoever is there now will be missed.
func (s *strangers) watched() bool { return s.SharedIndexInformer.HasSynced() }
