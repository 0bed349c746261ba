// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// newCache returns a cache of the objects that a speaker reads, without the fields that it does not use, and a client that reads from the
// cache and writes to the API.
func newCache(cfg Config) (cache.Cache, client.Client, error) {
	scheme := config.Scheme()
	objects, err := cache.New(cfg.REST, cache.Options{
		Scheme:           scheme,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:             {Namespaces: map[string]cache.Config{cfg.SecretsNamespace: {}}},
			&corev1.Service{}:            {Transform: stripService},
			&corev1.Node{}:               {Transform: stripNode},
			&discoveryv1.EndpointSlice{}: {Transform: stripEndpointSlice},
			&networkingv1.IPAddress{}:    {Label: labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy})},
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("building the cache: %w", err)
	}
	writer, err := client.New(cfg.REST, client.Options{Scheme: scheme, Cache: &client.CacheOptions{Reader: objects}})
	if err != nil {
		return nil, nil, fmt.Errorf("building the client: %w", err)
	}
	return objects, writer, nil
}

// watch raises changed with every change of an object that a speaker reads. It raises statusDeleted too when a SpeakerStatus is deleted: a
// SpeakerStatus goes with its Node, and the Node may come back while this speaker runs.
func watch(ctx context.Context, informers cache.Informers, changed, statusDeleted signal.Signal) error {
	raise := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed.Raise() },
		UpdateFunc: func(any, any) { changed.Raise() },
		DeleteFunc: func(any) { changed.Raise() },
	}
	for _, obj := range []client.Object{
		&corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}, &networkingv1.IPAddress{}, &corev1.Secret{},
		&ipamv1alpha1.AddressPool{}, &v1alpha1.L2Advertisement{}, &v1alpha1.BGPPeer{}, &v1alpha1.BGPAdvertisement{},
		&v1alpha1.BFDProfile{}, &v1alpha1.Community{}, &v1alpha1.InterfaceAdvertisement{}, &v1alpha1.L2Announcement{}, &v1alpha1.SpeakerStatus{},
	} {
		informer, err := informers.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching %T (are the CustomResourceDefinitions installed?): %w", obj, err)
		}
		handler := raise
		if _, ok := obj.(*v1alpha1.SpeakerStatus); ok {
			handler.DeleteFunc = func(any) { changed.Raise(); statusDeleted.Raise() }
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
	}
	return nil
}

// keyRetry is how soon the Secret of membership is looked for again.
const keyRetry = 500 * time.Millisecond

// membershipKey returns the key of gossip. It waits for the Secret, which the controller manager makes, as long as the context lasts.
func membershipKey(ctx context.Context, reader client.Reader, namespace string) (key []byte, err error) {
	waits := false
	err = wait.PollUntilContextCancel(ctx, keyRetry, true, func(ctx context.Context) (bool, error) {
		var secret corev1.Secret
		err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: config.MembershipSecret}, &secret)
		if key = secret.Data[config.MembershipSecretKey]; err == nil && len(key) > 0 {
			return true, nil
		}
		if !waits {
			klog.FromContext(ctx).Info("Waiting for the controller manager to create the Secret of membership",
				"secret", klog.KRef(namespace, config.MembershipSecret))
			waits = true
		}
		return false, nil
	})
	if err != nil {
		return nil, context.Cause(ctx)
	}
	return key, nil
}

// The strip functions drop the fields that the speaker does not use: the cache of every node has every Service of the cluster.

func stripService(obj any) (any, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		svc.ManagedFields = nil
		svc.Annotations = nil
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			svc.Labels, svc.Spec, svc.Status = nil, corev1.ServiceSpec{Type: svc.Spec.Type}, corev1.ServiceStatus{}
		}
		svc.Spec.Ports, svc.Spec.Selector = nil, nil
	}
	return obj, nil
}

func stripNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		node.ManagedFields = nil
		node.Annotations = nil
		node.Status.Images = nil
		node.Status.Capacity, node.Status.Allocatable = nil, nil
	}
	return obj, nil
}

func stripEndpointSlice(obj any) (any, error) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		slice.ManagedFields = nil
		service := slice.Labels[discoveryv1.LabelServiceName]
		slice.Annotations, slice.Labels, slice.Ports = nil, map[string]string{discoveryv1.LabelServiceName: service}, nil
		for i, e := range slice.Endpoints {
			slice.Endpoints[i] = discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName}
		}
	}
	return obj, nil
}
