// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// L2Advertisement makes addresses answer on the local network: one node at a time answers ARP for an IPv4 address and
// neighbour discovery for an IPv6 address, and both families of a Service are on the same node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=l2advertisements,scope=Cluster,shortName=l2adv,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.status.summary.pools`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.summary.interfaces`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Effective",type=string,JSONPath=`.status.conditions[?(@.type=="Effective")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Effect",type=string,JSONPath=`.status.conditions[?(@.type=="Effective")].message`,priority=1
type L2Advertisement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which addresses are announced, on which interfaces and by which nodes. An empty spec announces every
	// address on every interface that has an address in the same subnet.
	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`

	// status says whether the advertisement is in use.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// L2AdvertisementList is a list of layer 2 advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}

// L2AdvertisementSpec says which addresses are announced on layer 2, on which interfaces and by which nodes.
type L2AdvertisementSpec struct {
	Selection `json:",inline"`

	// interfaces are the names of the interfaces to answer on; "*" and "?" stand for any characters and any one
	// character. Without it an address is announced on every interface that has an address in the same subnet.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Interfaces []InterfacePattern `json:"interfaces,omitempty"`

	// preferredNodes order the nodes that could announce an address: the node with the highest sum of the weights it
	// matches takes it. A preference decides where an address goes that has no holder; it takes none from a live node,
	// unless failbackAfter is set.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	PreferredNodes []PreferredNode `json:"preferredNodes,omitempty"`

	// failbackAfter is how long a node that preferredNodes rank higher than the holder has to be healthy before it takes
	// an address back. Without it no live node ever loses an address to a preferred one.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}([.][0-9]{1,6})?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('720h')",message="must be a duration from 1s to 720h such as 10m; without it no address goes back"
	FailbackAfter *metav1.Duration `json:"failbackAfter,omitempty"`
}

// InterfacePattern is the name of a network interface; "*" and "?" stand for any characters and any one character.
//
// +kubebuilder:validation:XValidation:rule=`self.matches('^[^][/:\\\\[:space:]]+$')`,message="must be the name of a network interface, in which * and ? may stand for other characters"
// +kubebuilder:validation:MaxLength=64
type InterfacePattern string

// PreferredNode prefers the nodes with some labels.
type PreferredNode struct {
	// weight is added to the rank of each node that nodeSelector selects.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`

	// nodeSelector selects nodes by their labels.
	// +required
	NodeSelector metav1.LabelSelector `json:"nodeSelector"`
}
