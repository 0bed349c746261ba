// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Community gives names to BGP community values. Every advertisement may use the names of every Community object.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=communities,singular=community,scope=Cluster,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type Community struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec holds the names and their values.
	// +required
	Spec CommunitySpec `json:"spec"`

	// status says whether the names are in use.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// CommunityList is a list of Community objects.
//
// +kubebuilder:object:root=true
type CommunityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Community `json:"items"`
}

// CommunitySpec holds names and values.
type CommunitySpec struct {
	// communities are names and their values. A name stands for one value.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Communities []NamedCommunity `json:"communities"`
}

// NamedCommunity is the name of a community value.
type NamedCommunity struct {
	// name is what advertisements call the value.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// value is two numbers of 16 bits ("64512:100", RFC 1997) or "large:" and three numbers of 32 bits
	// ("large:64512:1:2", RFC 8092).
	// +required
	// +kubebuilder:validation:MaxLength=63
	Value string `json:"value"`
}
