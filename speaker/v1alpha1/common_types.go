// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Selection says which addresses an advertisement concerns, and on which nodes. An address is selected where its pool,
// its Service and the node all match; what is left out matches everything.
type Selection struct {
	// addressPools names pools. Together with addressPoolSelectors it is a union: a pool matches that is named or
	// selected. Where neither is set every pool matches.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	AddressPools []string `json:"addressPools,omitempty"`

	// addressPoolSelectors select pools by their labels: a pool is selected that one of the selectors matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	AddressPoolSelectors []metav1.LabelSelector `json:"addressPoolSelectors,omitempty"`

	// serviceSelectors, where set, limit the advertisement to Services with these labels: one of the selectors has to
	// match the Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// nodeSelectors, where set, limit the advertisement to nodes with these labels: one of the selectors has to match
	// the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// ConfigStatus is what speakers say about an object that users write.
type ConfigStatus struct {
	// conditions say whether the object is in use (Ready) and, where it is not, what to change.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionReady is the type of the condition that says whether an object is in use. In a SpeakerStatus it says whether
// the speaker of that node announces.
const ConditionReady = "Ready"

// Reasons of the condition Ready.
const (
	// ReasonAccepted is the reason of Ready=True: the object is valid and in use.
	ReasonAccepted = "Accepted"
	// ReasonUnknownReference is the reason where the object names a pool, peer, profile or community that does not exist.
	// What it names besides is used. The message names what is missing. A Secret that is missing is told of in the
	// SpeakerStatus of each node, since only speakers may read Secrets.
	ReasonUnknownReference = "UnknownReference"
	// ReasonInvalid is the reason where the API server could not see a mistake, such as a selector with an unknown
	// operator. The message names the field. The object is not used; of a Community only the community at fault.
	ReasonInvalid = "Invalid"
	// ReasonNotImplemented is the reason where the object asks for something this version of the speaker does not do.
	// The message names the field. The rest of the object is used.
	ReasonNotImplemented = "NotImplemented"
)
