// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the part of the API group tandem-lb.io that says how the addresses of Services are announced,
// and the objects in which speakers report what they do.
//
// Three kinds of advertisement choose addresses, all by the same [Selection]: an [L2Advertisement] answers ARP and NDP
// from one node, a [BGPAdvertisement] tells routers, and an [InterfaceAdvertisement] hands addresses to other routing
// software on the node. A [BGPPeer] is a router that speakers have sessions with, a [BFDProfile] says how its death is
// noticed, and a [Community] gives names to community values.
//
// Selectors are lists, of which one has to match. Whatever a selection leaves out means all: no pools and no
// addressPoolSelectors mean every pool, no peers every peer, no nodeSelectors every node.
//
// Users write the spec of these kinds. The controller manager says in the condition Ready whether an object is in use, from
// the same code that speakers follow (package speaker/config). Two more kinds are written by speakers only: one
// [SpeakerStatus] for each node, and one [L2Announcement] for each Service that is announced on layer 2.
//
// AddressPool belongs to the same group and lives in ipam/v1alpha1, as do the names of annotations, labels and events.
//
// +kubebuilder:object:generate=true
// +groupName=tandem-lb.io
package v1alpha1
