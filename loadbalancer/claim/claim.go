// SPDX-License-Identifier: Apache-2.0

// Package claim says what an IPAddress of ours looks like, and what it means. It is pure.
//
// An address is claimed by an IPAddress of the same name, whose parent is the Service. The claim of 192.0.2.1 for
// Service default/web, which shares the address under the key "k", from AddressPool lan:
//
//	apiVersion: networking.k8s.io/v1
//	kind: IPAddress
//	metadata:
//	  name: 192.0.2.1
//	  labels:
//	    ipaddress.kubernetes.io/ip-family: IPv4
//	    ipaddress.kubernetes.io/managed-by: tandem-lb.io
//	    tandem-lb.io/address-pool: lan
//	  annotations:
//	    tandem-lb.io/allow-shared-ip: k
//	spec:
//	  parentRef: {group: "", resource: services, namespace: default, name: web}
//
// A shared address has one claim, with the first of its Services as the parent. The API server lets nobody change a
// parent. When web leaves, to the others or to wait for reuseAfter, that is written on the claim:
//
//	tandem-lb.io/left: '{"default/web":"2026-01-02T15:04:05Z"}'
package claim

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
)

// New returns the claim of an address for a Service that shares it under a key, or with none where the key is "".
func New(as ipam.Assignment, service ipam.Service, key string) *networkingv1.IPAddress {
	claim := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: as.Address.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family.Of(as.Address)),
				networkingv1.LabelManagedBy:       v1alpha1.ManagedBy,
				v1alpha1.LabelAddressPool:         as.Pool,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: service.Namespace, Name: service.Name,
		}},
	}
	if key != "" {
		claim.Annotations = map[string]string{v1alpha1.AnnotationAllowSharedIP: key}
	}
	return claim
}

// Read returns what an IPAddress says. None is a nil one, and a foreign claim is one that we did not create.
func Read(claim *networkingv1.IPAddress) repair.Claim {
	if claim == nil {
		return repair.Claim{}
	}
	ref := claim.Spec.ParentRef
	if claim.Labels[networkingv1.LabelManagedBy] != v1alpha1.ManagedBy || ref == nil || ref.Group != "" || ref.Resource != "services" {
		return repair.Claim{State: repair.Foreign, Owner: Owner(claim)}
	}
	return repair.Claim{
		State:  repair.Ours,
		UID:    string(claim.UID),
		Parent: ipam.Service{Namespace: ref.Namespace, Name: ref.Name},
		Pool:   claim.Labels[v1alpha1.LabelAddressPool],
		Key:    claim.Annotations[v1alpha1.AnnotationAllowSharedIP],
		Left:   left(claim.Annotations[v1alpha1.AnnotationLeft]),
	}
}

// left reads the annotation. A text that we did not write means that nobody has left.
func left(text string) map[ipam.Service]time.Time {
	var times map[string]time.Time
	if text == "" || json.Unmarshal([]byte(text), &times) != nil {
		return nil
	}
	services := map[ipam.Service]time.Time{}
	for name, at := range times {
		namespace, name, _ := strings.Cut(name, "/")
		services[ipam.Service{Namespace: namespace, Name: name}] = at
	}
	return services
}

// Owner describes the owner of any IPAddress, for messages: "services kube-system/dns, managed by
// ipallocator.k8s.io".
func Owner(claim *networkingv1.IPAddress) string {
	ref := claim.Spec.ParentRef
	if ref == nil {
		return "an unknown owner"
	}
	owner := fmt.Sprintf("%s %s/%s", ref.Resource, ref.Namespace, ref.Name)
	if by := claim.Labels[networkingv1.LabelManagedBy]; by != "" {
		owner += ", managed by " + by
	}
	return owner
}

// Relabel returns the patch that writes another pool.
func Relabel(claim repair.Claim, pool string) []byte {
	return patch(claim, map[string]any{"labels": map[string]string{v1alpha1.LabelAddressPool: pool}})
}

// Share returns the patch that writes the sharing key, where another Service comes to a claim that was created without one.
func Share(claim repair.Claim, key string) []byte {
	return patch(claim, map[string]any{"annotations": map[string]string{v1alpha1.AnnotationAllowSharedIP: key}})
}

// Leave returns the patch that adds a Service to those that have left.
func Leave(claim repair.Claim, service ipam.Service, at time.Time) []byte {
	times := map[string]time.Time{}
	for other, when := range maps.All(claim.Left) {
		times[other.String()] = when
	}
	times[service.String()] = at.UTC().Truncate(time.Second)
	text, _ := json.Marshal(times) // a map of times can always be written
	return patch(claim, map[string]any{"annotations": map[string]string{v1alpha1.AnnotationLeft: string(text)}})
}

// patch returns a merge patch of the metadata. Where another IPAddress has taken the name since, the UID in the patch
// keeps it as it is.
func patch(claim repair.Claim, metadata map[string]any) []byte {
	metadata["uid"] = claim.UID
	text, _ := json.Marshal(map[string]any{"metadata": metadata})
	return text
}
