// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"net/netip"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// foreignClaims watches the IPAddresses that are not ours, so that a blocked address is given again when the
// foreign claim goes. Most clusters have one or two for each of their Services, the ClusterIPs, and none of them in
// a pool. The watch therefore begins with the first foreign claim that blocks an address.
type foreignClaims struct {
	cache.SharedIndexInformer
	found chan struct{} // closed when there is one
	once  sync.Once
}

// newForeignClaims returns a watch that has not begun. It keeps nothing of a foreign claim but its name, since
// there may be many.
func newForeignClaims(client kubernetes.Interface) *foreignClaims {
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
	return &foreignClaims{SharedIndexInformer: informer, found: make(chan struct{})}
}

// start begins the watch.
func (f *foreignClaims) start() { f.once.Do(func() { close(f.found) }) }

// run watches from the first call of start until the context ends.
func (f *foreignClaims) run(ctx context.Context) {
	select {
	case <-f.found:
		f.RunWithContext(ctx)
	case <-ctx.Done():
	}
}

// HasSynced is true where there is nothing to wait for: no allocation depends on this watch.
func (f *foreignClaims) HasSynced() bool { return true }

// watching reports whether the watch has begun, so that the deletion of each foreign claim will be an event.
func (f *foreignClaims) watching() bool { return f.SharedIndexInformer.HasSynced() }

// has reports whether there is a foreign claim. Before the watch begins, the cache is believed.
func (f *foreignClaims) has(address netip.Addr, blocked bool) bool {
	if !f.watching() {
		return blocked
	}
	_, found, _ := f.GetStore().GetByKey(address.String()) // a store in memory does not fail
	return found
}
