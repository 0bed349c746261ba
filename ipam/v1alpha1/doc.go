// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the part of the API group tandem-lb.io that says which addresses Services may get, and the
// names that users and other programs see of Tandem: the load balancer class, annotations, labels, conditions and events.
//
// An [AddressPool] has one partition per family. A dual-stack Service takes a pair, one address of each partition, and
// every address it holds is claimed by a networking.k8s.io/v1 IPAddress of the same name. A pool therefore never
// records which Service has which address: its status only counts.
//
// The API server refuses the mistakes that one object shows by itself, by CEL rules beside the fields, so that they never
// reach the allocator. Conditions report those that take more than one object (overlapping pools, addresses in use that a
// pool has lost), and fields that have no effect in this version.
//
// The speaker's kinds belong to the same group and live in speaker/v1alpha1.
//
// +kubebuilder:object:generate=true
// +groupName=tandem-lb.io
package v1alpha1
