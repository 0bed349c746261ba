// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InterfaceAdvertisement puts addresses on a network interface of the nodes, for other routing software there to
// redistribute.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=interfaceadvertisements,scope=Cluster,shortName=ifadv,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.addressPools`
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

	// spec says which addresses are put where.
	// +required
	Spec InterfaceAdvertisementSpec `json:"spec"`

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

// InterfaceAdvertisementSpec says which addresses are put on which interface.
type InterfaceAdvertisementSpec struct {
	Selection `json:",inline"`

	// interface is the name of the interface. A dummy interface of that name is made where there is none.
	// +required
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:]]+$') && self != '.' && self != '..'",message="must be the name of a network interface"
	Interface string `json:"interface"`

	// aggregationLength is the prefix length with which IPv4 addresses are put on the interface.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// aggregationLengthV6 is the prefix length with which IPv6 addresses are put on the interface.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`
}
