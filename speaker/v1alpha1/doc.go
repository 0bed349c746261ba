// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the part of the API group tandem-lb.io that says how the addresses of Services are announced,
// and the objects in which speakers report what they do.
//
// Three kinds of advertisement choose addresses, all by the same [Selection]: an [L2Advertisement] answers ARP and NDP
// from one node, a [BGPAdvertisement] tells routers, and an [InterfaceAdvertisement] puts addresses on an interface for
// other routing software to find. A [BGPPeer] is a router to talk to, a [BFDProfile] says how to notice its death, and
// a [Community] gives names to community values. Whatever a selection leaves out means all: no pools means every pool,
// no peers every peer, no nodes every node.
//
// Users write the spec of these kinds; speakers answer in the condition Ready. Two more kinds are written by speakers
// only: one [SpeakerStatus] for each node, and one [L2Announcement] for each Service that is announced on layer 2.
//
// AddressPool belongs to the same group and lives in ipam/v1alpha1, as do the names that every component shares.
//
// +kubebuilder:object:generate=true
// +groupName=tandem-lb.io
package v1alpha1
