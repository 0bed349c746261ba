// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=services;nodes;namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=ipaddresses,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools;l2advertisements;bgppeers;bgpadvertisements;bfdprofiles;communities;interfaceadvertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2announcements,verbs=get;list;watch;create;update
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses,verbs=get;list;watch;create
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses/status,verbs=update
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",roleName=tandem-speaker-secrets,namespace=tandem-system,resources=secrets,verbs=get;list;watch

// readMany returns what a cache holds of the kinds with many objects. They are the cache's own: nothing in them may be changed.
func readMany(ctx context.Context, informers cache.Informers) (o observation.Many, err error) {
	var errs [4]error
	o.Services, errs[0] = stored[*corev1.Service](ctx, informers, &corev1.Service{})
	o.EndpointSlices, errs[1] = stored[*discoveryv1.EndpointSlice](ctx, informers, &discoveryv1.EndpointSlice{})
	o.Claims, errs[2] = stored[*networkingv1.IPAddress](ctx, informers, &networkingv1.IPAddress{})
	o.Announcements, errs[3] = stored[*v1alpha1.L2Announcement](ctx, informers, &v1alpha1.L2Announcement{})
	return o, errors.Join(errs[:]...)
}

// stored returns the objects of a kind that the informer of a cache has.
func stored[T client.Object](ctx context.Context, informers cache.Informers, kind client.Object) ([]T, error) {
	informer, err := informers.GetInformer(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("reading %T: %w", kind, err)
	}
	has, ok := informer.(interface{ GetStore() toolscache.Store })
	if !ok {
		return nil, fmt.Errorf("reading %T: the informer, a %T, has no store", kind, informer)
	}
	all := has.GetStore().List()
	objects := make([]T, 0, len(all))
	for _, obj := range all {
		objects = append(objects, obj.(T))
	}
	return objects, nil
}

// readFew returns what a cache holds of the kinds with few objects: all but those that a feed has. Nothing in it may be changed.
func readFew(ctx context.Context, reader client.Reader) (*observation.Objects, error) {
	configuration, err := config.Read(func(list config.List) error { return reader.List(ctx, list, client.UnsafeDisableDeepCopy) })
	if err != nil {
		return nil, err
	}
	o := &observation.Objects{Config: configuration}
	for _, list := range []client.ObjectList{&o.Nodes, &o.Speakers, &o.Secrets} {
		if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("reading %T: %w", list, err)
		}
	}
	return o, nil
}
