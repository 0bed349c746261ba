// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Selection says which addresses an advertisement concerns, and on which nodes. An address is selected where its pool,
// its Service, the namespace of the Service and the node all match; what is left out matches everything.
type Selection struct {
	// addressPools names pools. Together with addressPoolSelectors it is a union: a pool that is named or selected
	// matches. Where neither is set every pool matches.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	AddressPools []string `json:"addressPools,omitempty"`

	// addressPoolSelectors select pools by their labels: one of the selectors has to match the pool.
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

	// namespaceSelectors, where set, limit the advertisement to Services in namespaces with these labels: one of the
	// selectors has to match the namespace. Together with serviceSelectors a Service has to match both lists.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// nodeSelectors, where set, limit the advertisement to nodes with these labels: one of the selectors has to match
	// the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// ConfigStatus says of an object that users write whether speakers use it.
type ConfigStatus struct {
	// conditions say whether the object is in use (Ready) and, where it is not, what to change.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// summary has in a few words what kubectl shows in columns.
	// +optional
	Summary *ConfigSummary `json:"summary,omitempty"`
}

// ConfigSummary says in a few words what an object selects or names: of each list its first elements, and how many there are beside. It is
// for people: programs read spec.
type ConfigSummary struct {
	// pools are the pools that an advertisement selects.
	// +optional
	Pools string `json:"pools,omitempty"`

	// interfaces are the interfaces of an L2Advertisement.
	// +optional
	Interfaces string `json:"interfaces,omitempty"`

	// peers are the peers of a BGPAdvertisement.
	// +optional
	Peers string `json:"peers,omitempty"`

	// communities are those of a BGPAdvertisement, or the names and values of a Community.
	// +optional
	Communities string `json:"communities,omitempty"`

	// peer is the peer of a BGPPeer: its address, or how it is found.
	// +optional
	Peer string `json:"peer,omitempty"`

	// established says on how many nodes of how many the session with a BGPPeer is established: 2/3.
	// +optional
	Established string `json:"established,omitempty"`

	// peerASN is the autonomous system number of a BGPPeer, or External or Internal.
	// +optional
	PeerASN string `json:"peerASN,omitempty"`
}
