// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// newCache returns a cache of the objects that a speaker reads, without the fields that it does not use, and a client that reads from the
// cache and writes to the API.
func newCache(cfg Config) (cache.Cache, client.Client, error) {
	scheme := config.Scheme()
	away, err := newOutage(cfg.REST)
	if err != nil {
		return nil, nil, err
	}
	objects, err := cache.New(cfg.REST, cache.Options{
		Scheme:           scheme,
		NewInformer:      away.Informer,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:  {Namespaces: map[string]cache.Config{cfg.SecretsNamespace: {}}},
			&corev1.Service{}: {Transform: stripService},
			&corev1.Node{}:    {Transform: stripNode},
			// Of their labels alone, since some write annotations onto them all the time.
			&corev1.Namespace{}: {Transform: stripNamespace},
			// Those of a headless Service have no address of ours.
			&discoveryv1.EndpointSlice{}: {Transform: stripEndpointSlice, Label: withoutLabel(corev1.IsHeadlessService)},
			&networkingv1.IPAddress{}: {
				Transform: stripClaim, Label: labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy}),
			},
			&v1alpha1.L2Announcement{}: {Transform: stripAnnouncement},
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

// withoutLabel selects the objects that do not have a label.
func withoutLabel(key string) labels.Selector {
	absent, err := labels.NewRequirement(key, selection.DoesNotExist, nil)
	utilruntime.Must(err) // The keys are ours to choose.
	return labels.NewSelector().Add(*absent)
}

// watch feeds every change of an object that can change a decision. It raises statusDeleted when a SpeakerStatus is deleted: a SpeakerStatus
// goes with its Node, and the Node may come back while this speaker runs.
func watch(ctx context.Context, informers cache.Informers, feed *feed, statusDeleted signal.Signal) error {
	kinds := append(config.Kinds(), &corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}, &networkingv1.IPAddress{}, &corev1.Secret{},
		&v1alpha1.L2Announcement{}, &v1alpha1.SpeakerStatus{})
	for _, obj := range kinds {
		informer, err := informers.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching %T (are the CustomResourceDefinitions installed?): %w", obj, err)
		}
		handler := feed.handler(obj)
		if _, ok := obj.(*v1alpha1.SpeakerStatus); ok {
			handler.DeleteFunc = func(any) { feed.change(); statusDeleted.Raise() }
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
	}
	return nil
}

// matters reports whether the update of an object can change a decision. What is known to change none is left out, and everything else
// matters: a field that is new to a kind does so until somebody finds out that it does not.
func matters(old, current any) bool {
	return !equality.Semantic.DeepEqual(essence(old), essence(current))
}

// essence returns a copy of an object without what changes no decision: its version, the status of what users write and, of a SpeakerStatus,
// what it says of BGP sessions, of addresses that do not answer, and to people. Each new Service changes the counts of its pool, and those of
// sessions on each node. Of the conditions one counts: whether the node announces though a label excludes it.
func essence(obj any) any {
	o, ok := obj.(client.Object)
	if !ok {
		return obj
	}
	o = o.DeepCopyObject().(client.Object)
	o.SetResourceVersion("")
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *v1alpha1.SpeakerStatus:
		ignoresLabel := observation.IgnoresLabel(o)
		o.Status.BGPSessions, o.Status.Unanswered, o.Status.Summary, o.Status.Conditions = nil, nil, nil, nil
		if ignoresLabel {
			o.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDraining, Reason: v1alpha1.ReasonExcludeLabelIgnored}}
		}
	case *ipamv1alpha1.AddressPool:
		o.Status = ipamv1alpha1.AddressPoolStatus{}
	case *v1alpha1.L2Advertisement:
		o.Status = v1alpha1.ConfigStatus{}
	case *v1alpha1.BGPPeer:
		o.Status = v1alpha1.ConfigStatus{}
	case *v1alpha1.BGPAdvertisement:
		o.Status = v1alpha1.ConfigStatus{}
	case *v1alpha1.BFDProfile:
		o.Status = v1alpha1.ConfigStatus{}
	case *v1alpha1.Community:
		o.Status = v1alpha1.ConfigStatus{}
	case *v1alpha1.InterfaceAdvertisement:
		o.Status = v1alpha1.ConfigStatus{}
	}
	return o
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

// membershipKeys returns the keys of gossip, the one to use first: none where there is no Secret, or no key in it, so that the ones before
// stay.
func membershipKeys(secrets []corev1.Secret, namespace string) (keys [][]byte) {
	for i := range secrets {
		secret := &secrets[i]
		key := secret.Data[config.MembershipSecretKey]
		if secret.Namespace != namespace || secret.Name != config.MembershipSecret || len(key) == 0 {
			continue
		}
		keys = append(keys, key)
		if previous := secret.Data[config.MembershipSecretPrevious]; len(previous) > 0 {
			keys = append(keys, previous)
		}
	}
	return keys
}

// The strip functions drop the fields that the speaker does not use: the cache of every node has every Service of the cluster. What many
// objects have in common they share: see interned.

// strip drops what no object needs of its metadata. The labels and annotations are left to the caller.
func strip(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{
		Name: m.Name, Namespace: internedNames.Get(m.Namespace), UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels, Annotations: m.Annotations,
	}
}

func stripService(obj any) (any, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		strip(&svc.ObjectMeta)
		used := []string{ipamv1alpha1.AnnotationPreferredNodes}
		if observation.OfOtherClass(svc) { // Of all other Services it says nothing that a decision needs.
			used = append(used, ipamv1alpha1.AnnotationFinalizer)
		}
		svc.Annotations = only(svc.Annotations, used...)
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			svc.UID, svc.Labels, svc.Annotations = "", nil, nil
			svc.Spec, svc.Status = corev1.ServiceSpec{Type: svc.Spec.Type}, corev1.ServiceStatus{}
			return svc, nil
		}
		svc.Spec = corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: svc.Spec.ExternalTrafficPolicy, LoadBalancerClass: svc.Spec.LoadBalancerClass,
		}
		var ingress []corev1.LoadBalancerIngress
		for _, in := range svc.Status.LoadBalancer.Ingress {
			ingress = append(ingress, corev1.LoadBalancerIngress{IP: in.IP, Hostname: in.Hostname})
		}
		svc.Status = corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress}}
	}
	return obj, nil
}

func stripNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		node.ManagedFields = nil
		node.Annotations = only(node.Annotations, ipamv1alpha1.AnnotationDrain, ipamv1alpha1.AnnotationBGPASN,
			ipamv1alpha1.AnnotationBGPRouterID, ipamv1alpha1.AnnotationBGPSourceIPv4, ipamv1alpha1.AnnotationBGPSourceIPv6)
		node.Status.Images = nil
		node.Status.Capacity, node.Status.Allocatable = nil, nil
		for i := range node.Status.Conditions { // So the heartbeat of a kubelet changes nothing.
			node.Status.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return obj, nil
}

// stripNamespace leaves the labels.
func stripNamespace(obj any) (any, error) {
	if namespace, ok := obj.(*corev1.Namespace); ok {
		namespace.ObjectMeta = metav1.ObjectMeta{Name: namespace.Name, ResourceVersion: namespace.ResourceVersion, Labels: namespace.Labels}
		namespace.Spec, namespace.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	}
	return obj, nil
}

// only returns those of the annotations that have one of these keys.
func only(annotations map[string]string, keys ...string) map[string]string {
	var kept map[string]string
	for _, key := range keys {
		if value, ok := annotations[key]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = value
		}
	}
	return kept
}

func stripEndpointSlice(obj any) (any, error) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		strip(&slice.ObjectMeta)
		slice.UID, slice.Annotations, slice.Ports = "", nil, nil
		slice.Labels = internedServices.Get(slice.Labels[discoveryv1.LabelServiceName])
		for i, e := range slice.Endpoints {
			slice.Endpoints[i] = discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{
				Ready: shared(e.Conditions.Ready), Serving: shared(e.Conditions.Serving), Terminating: shared(e.Conditions.Terminating),
			}}
			if e.NodeName != nil {
				slice.Endpoints[i].NodeName = internedNodes.Get(*e.NodeName)
			}
		}
	}
	return obj, nil
}

func stripClaim(obj any) (any, error) {
	if claim, ok := obj.(*networkingv1.IPAddress); ok {
		strip(&claim.ObjectMeta)
		claim.UID = ""
		claim.Annotations = only(claim.Annotations, ipamv1alpha1.AnnotationSharers, ipamv1alpha1.AnnotationLeft)
		if claim.Labels[networkingv1.LabelManagedBy] == ipamv1alpha1.ManagedBy {
			claim.Labels = internedPools.Get(claim.Labels[ipamv1alpha1.LabelAddressPool])
		}
		if ref := claim.Spec.ParentRef; ref != nil {
			ref.Resource, ref.Namespace = internedNames.Get(ref.Resource), internedNames.Get(ref.Namespace)
		}
	}
	return obj, nil
}

func stripAnnouncement(obj any) (any, error) {
	if a, ok := obj.(*v1alpha1.L2Announcement); ok {
		a.ManagedFields = nil // All else stays: a write of the record has to have it.
		a.Service.Namespace, a.Status.Node = internedNames.Get(a.Service.Namespace), internedNames.Get(a.Status.Node)
		for i, iface := range a.Status.Interfaces {
			a.Status.Interfaces[i] = internedNames.Get(iface)
		}
	}
	return obj, nil
}

// The values that many objects have in common: names of namespaces, nodes and interfaces, and the labels by which EndpointSlices name their
// Services, and claims their pools.
var (
	internedNames    = interned[string]{of: strings.Clone}
	internedNodes    = interned[*string]{of: func(name string) *string { return &name }}
	internedServices = interned[map[string]string]{of: func(service string) map[string]string {
		return map[string]string{discoveryv1.LabelServiceName: service}
	}}
	internedPools = interned[map[string]string]{of: func(pool string) map[string]string {
		return map[string]string{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: pool}
	}}
)

// maxInterned bounds how many values are remembered to be shared. Names of nodes and namespaces come and go for months.
const maxInterned = 4096

// interned has objects with equal values share them, since an object of the cache is never changed. For example 20,000 EndpointSlices name
// three nodes: three strings are kept, and not 40,000.
type interned[V any] struct {
	of func(string) V // makes the value of a key

	mu  sync.Mutex // guards all
	all map[string]V
}

// Get returns the value of a key. It is not to be changed.
func (x *interned[V]) Get(key string) V {
	x.mu.Lock()
	defer x.mu.Unlock()
	value, known := x.all[key]
	if !known {
		if x.all == nil || len(x.all) >= maxInterned {
			x.all = map[string]V{}
		}
		value = x.of(key)
		x.all[key] = value
	}
	return value
}

var sharedTrue, sharedFalse = true, false

// shared returns a pointer to what a pointer points to, always the same two, or nil.
func shared(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &sharedTrue
	}
	return &sharedFalse
}
