// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InterfaceAdvertisement hands addresses to other routing software on the nodes, which redistributes them: as addresses on a
// network interface ("redistribute connected"), or as routes of the kernel ("redistribute kernel", or BIRD's "learn").
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=interfaceadvertisements,scope=Cluster,shortName=ifadv,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.status.summary.pools`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type InterfaceAdvertisement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which addresses are put where. An empty spec makes a route of the kernel for every address on every
	// node.
	// +optional
	// +kubebuilder:default={}
	Spec InterfaceAdvertisementSpec `json:"spec,omitempty"`

	// status says whether the advertisement is in use.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// InterfaceAdvertisementList is a list of interface advertisements.
//
// +kubebuilder:object:root=true
type InterfaceAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []InterfaceAdvertisement `json:"items"`
}

// InterfaceAdvertisementSpec says which addresses are put on which interface, or made routes of the kernel.
type InterfaceAdvertisementSpec struct {
	Selection `json:",inline"`

	// interface is the name of the interface that the addresses are put on. A dummy interface of that name is made where
	// there is none. Without it the addresses become routes of the kernel, and no interface has them. Addresses inside a
	// subnet of the node are put on no interface, since every node would answer ARP for them.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:]]+$') && self != '.' && self != '..'",message="must be the name of a network interface"
	Interface string `json:"interface,omitempty"`

	// aggregationLength is the length of the prefixes in which IPv4 addresses are put there. An address whose prefix reaches beyond its pool, or
	// holds an address that the pool excludes, a BGPPeer, or an address or subnet of a node, has a host route instead. Where it does not
	// reach beyond the pool, the condition KernelRoutes of each node's SpeakerStatus says why, and no condition here. One of a Service with externalTrafficPolicy Local has a host route beside the prefix.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32
	// +kubebuilder:validation:XValidation:rule="self != 0",message="is a default route, which would draw all traffic of the network to the nodes; use 1 to 32"
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// aggregationLengthV6 is the length of the prefixes in which IPv6 addresses are put there.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	// +kubebuilder:validation:XValidation:rule="self != 0",message="is a default route, which would draw all traffic of the network to the nodes; use 1 to 128"
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`
}
