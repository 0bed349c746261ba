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
//	    tandem-lb.io/sharers: '{"default/web":["TCP/80"]}'
//	spec:
//	  parentRef: {group: "", resource: services, namespace: default, name: web}
//
// A shared address has one claim, with the first of its Services as the parent. The API server lets nobody change a
// parent, so that annotations say which Services have the address. When api joins web, and when web leaves then, to api
// or to wait for reuseAfter:
//
//	tandem-lb.io/sharers: '{"default/api":["TCP/443"],"default/web":["TCP/80"]}'
//
//	tandem-lb.io/sharers: '{"default/api":["TCP/443"]}'
//	tandem-lb.io/left: '{"default/web":"2026-01-02T15:04:05Z"}'
//
// Every patch has the UID and the resourceVersion of the claim that it was made for. The API server refuses it where
// another write came first, so that two leaders that let two Services with one port join the same address cannot both
// succeed.
package claim

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
)

// New returns the claim of an address for a Service that shares it under a key, or with none where the key is "".
// Sharers are the Services that have the address from the beginning, with their ports, where it has a key.
func New(as ipam.Assignment, service ipam.Service, key string, sharers map[ipam.Service][]ipam.Port) *networkingv1.IPAddress {
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
	if len(sharers) > 0 {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, v1alpha1.AnnotationSharers, *text(sharers))
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
		State:   repair.Ours,
		UID:     string(claim.UID),
		Version: claim.ResourceVersion,
		Parent:  ipam.Service{Namespace: ref.Namespace, Name: ref.Name},
		Pool:    claim.Labels[v1alpha1.LabelAddressPool],
		Key:     claim.Annotations[v1alpha1.AnnotationAllowSharedIP],
		Sharers: byService[[]ipam.Port](claim.Annotations[v1alpha1.AnnotationSharers]),
		Left:    byService[time.Time](claim.Annotations[v1alpha1.AnnotationLeft]),
	}
}

// byService reads what an annotation says of Services. A text that we did not write says nothing, and neither does what it
// says of a name that no Service can have, such as "web" without a namespace: the API cannot be asked for that one, and
// nobody else would leave the address any more.
func byService[V any](annotation string) map[ipam.Service]V {
	var values map[string]V
	if annotation == "" || json.Unmarshal([]byte(annotation), &values) != nil {
		return nil
	}
	services := map[ipam.Service]V{}
	for name, value := range values {
		namespace, name, _ := strings.Cut(name, "/")
		if namespace != "" && name != "" && len(content.IsPathSegmentName(namespace))+len(content.IsPathSegmentName(name)) == 0 {
			services[ipam.Service{Namespace: namespace, Name: name}] = value
		}
	}
	return services
}

// text is the inverse of byService. It is nil, which removes the annotation, where there is nothing to say.
func text[V any](services map[ipam.Service]V) *string {
	if len(services) == 0 {
		return nil
	}
	values := map[string]V{}
	for service, value := range services {
		values[service.String()] = value
	}
	written, _ := json.Marshal(values) // a map of times or of ports can always be written
	return new(string(written))
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

// Share returns the patch that writes the sharing key, and which Services have the address.
func Share(claim repair.Claim, key string, sharers map[ipam.Service][]ipam.Port) []byte {
	annotations := map[string]*string{v1alpha1.AnnotationSharers: text(sharers)}
	if key != "" {
		annotations[v1alpha1.AnnotationAllowSharedIP] = &key
	}
	return patch(claim, map[string]any{"annotations": annotations})
}

// Leave returns the patch that takes a Service off the sharers. Where the time is not zero, it adds the Service to
// those that have left.
func Leave(claim repair.Claim, service ipam.Service, at time.Time) []byte {
	sharers := maps.Clone(claim.Sharers)
	delete(sharers, service)
	annotations := map[string]*string{v1alpha1.AnnotationSharers: text(sharers)}
	if !at.IsZero() {
		left := map[ipam.Service]time.Time{}
		maps.Copy(left, claim.Left)
		left[service] = at.UTC().Truncate(time.Second)
		annotations[v1alpha1.AnnotationLeft] = text(left)
	}
	return patch(claim, map[string]any{"annotations": annotations})
}

// patch returns a merge patch of the metadata. Where the claim has been written since, or another IPAddress has taken
// its name, the API server refuses it.
func patch(claim repair.Claim, metadata map[string]any) []byte {
	metadata["uid"], metadata["resourceVersion"] = claim.UID, claim.Version
	written, _ := json.Marshal(map[string]any{"metadata": metadata})
	return written
}
