// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPAdvertisement announces addresses to BGP peers. Several advertisements of one address to one peer are united: the
// prefixes of each are announced. Where they come to the same prefix it has the communities of all, and each other
// attribute of the first by name that sets it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=bgpadvertisements,scope=Cluster,shortName=bgpadv,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.status.summary.pools`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.status.summary.peers`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Effective",type=string,JSONPath=`.status.conditions[?(@.type=="Effective")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.status.summary.communities`,priority=1
// +kubebuilder:printcolumn:name="Effect",type=string,JSONPath=`.status.conditions[?(@.type=="Effective")].message`,priority=1
type BGPAdvertisement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which addresses are announced to which peers, and with which attributes. An empty spec announces every
	// address to every peer.
	// +optional
	// +kubebuilder:default={}
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`

	// status says whether the advertisement is in use.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// BGPAdvertisementList is a list of BGP advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}

// BGPAdvertisementSpec says which addresses are announced to which peers, and with which attributes.
type BGPAdvertisementSpec struct {
	Selection `json:",inline"`

	// peers names the BGPPeers to tell. Without it all are told.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Peers []string `json:"peers,omitempty"`

	// families are the families whose addresses are announced. Without it they are both.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	Families []corev1.IPFamily `json:"families,omitempty"`

	// aggregationLength is the length of the prefixes in which IPv4 addresses are announced. An address whose prefix reaches
	// beyond its pool, or holds a subnet or an address of a node, or the peer, is announced by a route of its own. So is one of a Service
	// with externalTrafficPolicy Local, beside the prefix.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=32
	// +kubebuilder:validation:XValidation:rule="self != 0",message="is a default route, which would draw all traffic of the network to the nodes; use 1 to 32"
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// aggregationLengthV6 is the length of the prefixes in which IPv6 addresses are announced, with the same exceptions.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	// +kubebuilder:validation:XValidation:rule="self != 0",message="is a default route, which would draw all traffic of the network to the nodes; use 1 to 128"
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`

	// localPref is the local preference; higher is better. Internal peers only are told (RFC 4271 section 5.1.5).
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`

	// med is the multi-exit discriminator; lower is better (RFC 4271 section 5.1.4).
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// asPathPrepend is how many more times myASN is put before the AS path.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`

	// communities are attached to each prefix: a value ("64512:100", or the same in decimal, "4227858532"), a large one
	// ("large:64512:1:2"), a well-known name ("no-export") or a name that a Community object defines.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Communities []CommunityReference `json:"communities,omitempty"`
}

// CommunityReference is the value of a community or its name.
//
// +kubebuilder:validation:XValidation:rule="(self.matches('^[0-9]{1,5}:[0-9]{1,5}$') && self.split(':').all(n, int(n) <= 65535)) || (self.matches('^large(:[0-9]{1,10}){3}$') && self.substring(6).split(':').all(n, int(n) <= 4294967295)) || (self.matches('^[0-9]{5,10}$') && int(self) >= 65536 && int(self) <= 4294967295) || self.matches('^[A-Za-z][A-Za-z0-9_.-]*$')",message="must be two numbers up to 65535 (64512:100), one from 65536 to 4294967295 (4227858532), large: and three numbers up to 4294967295 (large:64512:1:2), or a name"
// +kubebuilder:validation:MaxLength=63
type CommunityReference string
