// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"maps"
	"strconv"
	"sync"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/utils/ptr"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The functions in this file are transformations of informers (cache.TransformFunc): they drop what this program does not read from what
// its caches keep. With 10,000 Services that is half of the heap. Patches are worked out between two objects of a cache, so that what is
// missing in both stays as it is in the API. Client-go may call them twice for an object, and hands them a tombstone for one that is gone.

// intern keeps one copy in memory of strings that many objects of a cache have in common, such as the name of a namespace.
func intern[S ~string](texts ...*S) {
	for _, text := range texts {
		*text = unique.Make(*text).Value()
	}
}

// trimService drops what kubectl apply notes on a Service for itself, and who wrote which field.
func trimService(svc *corev1.Service) {
	svc.ManagedFields = nil
	delete(svc.Annotations, corev1.LastAppliedConfigAnnotation)
	intern(&svc.Namespace)
	intern(&svc.Spec.Type)
	intern(&svc.Spec.SessionAffinity)
	intern(&svc.Spec.ExternalTrafficPolicy)
	for i := range svc.Finalizers {
		intern(&svc.Finalizers[i])
	}
	for i := range svc.Spec.IPFamilies {
		intern(&svc.Spec.IPFamilies[i])
	}
	for i := range svc.Status.Conditions {
		c := &svc.Status.Conditions[i]
		intern(&c.Type, &c.Reason)
		intern(&c.Status)
	}
}

// claimTrimmer trims claims. Those of one pool have their labels in common, which are maps of 400 bytes.
type claimTrimmer struct {
	labels sync.Map // the labels of a pool's claims by the pool's name
}

// trim drops from a claim who wrote which field, and the label that says its family, which its name says too.
func (t *claimTrimmer) trim(obj any) (any, error) {
	claim, ok := obj.(*networkingv1.IPAddress)
	if !ok || claim.Labels[networkingv1.LabelIPAddressFamily] == "" {
		return obj, nil
	}
	claim.ManagedFields = nil
	delete(claim.Labels, networkingv1.LabelIPAddressFamily)
	shared, _ := t.labels.LoadOrStore(claim.Labels[ipamv1alpha1.LabelAddressPool], claim.Labels)
	if labels := shared.(map[string]string); maps.Equal(labels, claim.Labels) {
		claim.Labels = labels
	}
	if ref := claim.Spec.ParentRef; ref != nil {
		intern(&ref.Group, &ref.Resource, &ref.Namespace)
	}
	return claim, nil
}

// trimNode drops what a Node says of images and volumes, which is most of it, and who wrote which field.
func trimNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok && (node.ManagedFields != nil || node.Status.Images != nil) {
		node.ManagedFields = nil
		node.Status.Images, node.Status.VolumesInUse, node.Status.VolumesAttached = nil, nil, nil
	}
	return obj, nil
}

// trimEndpointSlice drops what no diagnosis looks at. Of the endpoints that are on one node in one state, it keeps one.
func trimEndpointSlice(obj any) (any, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.ManagedFields == nil && slice.Ports == nil {
		return obj, nil
	}
	service := slice.Labels[discoveryv1.LabelServiceName]
	slice.ManagedFields, slice.Annotations, slice.OwnerReferences, slice.Ports = nil, nil, nil, nil
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	intern(&slice.Namespace)
	type place struct{ node, ready, serving, terminating string }
	text := func(is *bool) string {
		if is == nil {
			return ""
		}
		return strconv.FormatBool(*is)
	}
	seen := map[place]bool{}
	var kept []discoveryv1.Endpoint
	for _, e := range slice.Endpoints {
		e = discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName}
		at := place{ptr.Deref(e.NodeName, ""), text(e.Conditions.Ready), text(e.Conditions.Serving), text(e.Conditions.Terminating)}
		if !seen[at] {
			seen[at], kept = true, append(kept, e)
		}
	}
	slice.Endpoints = kept
	return slice, nil
}
