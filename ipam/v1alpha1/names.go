// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// LoadBalancerClass is the spec.loadBalancerClass of Services that want Tandem, whatever the cluster's default is.
const LoadBalancerClass = "tandem-lb.io/tandem"

// ManagedBy is the value of the label networkingv1.LabelManagedBy on every IPAddress that Tandem creates. An IPAddress
// with another value (the API server's own, for cluster IPs) is never touched.
const ManagedBy = "tandem-lb.io"

// LabelAddressPool is the label of an IPAddress that names the AddressPool the address was taken from.
const LabelAddressPool = "tandem-lb.io/address-pool"

// Annotations of a Service, as users type them.
const (
	// AnnotationAddressPool names the pools a Service may take addresses from, separated by commas. One pool of both
	// families or one pool per family will do.
	AnnotationAddressPool = "tandem-lb.io/address-pool"

	// AnnotationLoadBalancerIPs fixes the addresses of a Service, separated by commas, at most one of each family.
	AnnotationLoadBalancerIPs = "tandem-lb.io/load-balancer-ips"

	// AnnotationAllowSharedIP is a key. Services with the same key may share an address as long as their ports are
	// disjoint and their traffic policies agree.
	AnnotationAllowSharedIP = "tandem-lb.io/allow-shared-ip"

	// AnnotationReallocate, set to "true", gives up the addresses that their pool no longer holds and takes new ones.
	AnnotationReallocate = "tandem-lb.io/reallocate"
)

// Annotations of MetalLB that mean the same as ours, so that a Service need not be edited to move here. Where both are
// present ours wins, and metallb.io wins over the older metallb.universe.tf.
const (
	// MetalLBAnnotationAddressPool means the same as [AnnotationAddressPool].
	MetalLBAnnotationAddressPool = "metallb.io/address-pool"

	// MetalLBAnnotationLoadBalancerIPs means the same as [AnnotationLoadBalancerIPs].
	MetalLBAnnotationLoadBalancerIPs = "metallb.io/loadBalancerIPs"

	// MetalLBAnnotationAllowSharedIP means the same as [AnnotationAllowSharedIP].
	MetalLBAnnotationAllowSharedIP = "metallb.io/allow-shared-ip"

	// MetalLBLegacyAnnotationAddressPool means the same as [AnnotationAddressPool].
	MetalLBLegacyAnnotationAddressPool = "metallb.universe.tf/address-pool"

	// MetalLBLegacyAnnotationLoadBalancerIPs means the same as [AnnotationLoadBalancerIPs].
	MetalLBLegacyAnnotationLoadBalancerIPs = "metallb.universe.tf/loadBalancerIPs"

	// MetalLBLegacyAnnotationAllowSharedIP means the same as [AnnotationAllowSharedIP].
	MetalLBLegacyAnnotationAllowSharedIP = "metallb.universe.tf/allow-shared-ip"
)

// Reasons of the events that Tandem writes on a Service, beside those of the upstream service controller.
const (
	// EventAllocatedAddresses says which addresses the Service was given, and from which AddressPools.
	EventAllocatedAddresses = "AllocatedAddresses"

	// EventReleasedAddresses says which addresses the Service no longer has.
	EventReleasedAddresses = "ReleasedAddresses"

	// EventMissingAddress says which family of a PreferDualStack Service has no address, and why.
	EventMissingAddress = "MissingAddress"

	// EventClaimFailed says that the IPAddress of an address that the Service publishes could not be created, and why. It is
	// tried again.
	EventClaimFailed = "ClaimFailed"
)
