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
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.status.summary.communities`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
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

// NamedCommunity is the name of a community value. A well-known name may be repeated here, with its own value only.
//
// +kubebuilder:validation:XValidation:rule="['graceful-shutdown=65535:0', 'planned-shut=65535:0', 'accept-own=65535:1', 'route-filter-translated-v4=65535:2', 'route-filter-v4=65535:3', 'route-filter-translated-v6=65535:4', 'route-filter-v6=65535:5', 'llgr-stale=65535:6', 'no-llgr=65535:7', 'accept-own-nexthop=65535:8', 'standby-pe=65535:9', 'blackhole=65535:666', 'no-export=65535:65281', 'no-advertise=65535:65282', 'no-export-subconfed=65535:65283', 'local-as=65535:65283', 'no-peer=65535:65284', 'internet=0:0'].all(known, !known.startsWith(self.name + '=') || known == self.name + '=' + self.value)",fieldPath=".name",message="is a well-known community with another value; choose another name"
type NamedCommunity struct {
	// name is what advertisements call the value.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z][A-Za-z0-9_.-]*$')",message="must begin with a letter, followed by letters, digits, '-', '_' or '.'"
	Name string `json:"name"`

	// value is two numbers of 16 bits ("64512:100", RFC 1997), the same as one number ("4227858532"), or "large:" and three
	// numbers of 32 bits ("large:64512:1:2", RFC 8092).
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="(self.matches('^[0-9]{1,5}:[0-9]{1,5}$') && self.split(':').all(n, int(n) <= 65535)) || (self.matches('^large(:[0-9]{1,10}){3}$') && self.substring(6).split(':').all(n, int(n) <= 4294967295)) || (self.matches('^[0-9]{5,10}$') && int(self) >= 65536 && int(self) <= 4294967295)",message="must be two numbers up to 65535 (64512:100), one from 65536 to 4294967295 (4227858532), or large: and three numbers up to 4294967295 (large:64512:1:2)"
	Value string `json:"value"`
}
