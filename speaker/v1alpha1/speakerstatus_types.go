// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpeakerStatus is what the speaker of one node sees and does. It bears the node's name, and only that speaker writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=speakerstatuses,singular=speakerstatus,scope=Cluster,shortName=speaker,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.summary.addresses`
// +kubebuilder:printcolumn:name="BGP",type=string,JSONPath=`.status.summary.bgpEstablished`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="BGP Sessions",type=string,JSONPath=`.status.summary.bgpSessions`,priority=1
type SpeakerStatus struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// status is what the speaker sees and does.
	// +optional
	Status SpeakerState `json:"status,omitempty"`
}

// SpeakerStatusList is a list of the statuses of speakers.
//
// +kubebuilder:object:root=true
type SpeakerStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpeakerStatus `json:"items"`
}

// SpeakerState is what a speaker sees and does.
type SpeakerState struct {
	// addresses are the node's own addresses of both families on the interfaces with its default routes, the one the
	// kernel prefers first. The node controller reports them where the kubelet names none. Of more than 100 the first are listed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="must be an IP address"
	Addresses []string `json:"addresses,omitempty"`

	// defaultGateways are the next hops of the node's default routes, the one the kernel prefers first. No Service is given
	// such an address.
	// +optional
	// +listType=atomic
	DefaultGateways []string `json:"defaultGateways,omitempty"`

	// interfaces are the node's links that have addresses or could announce some, with the reason where one does not.
	// +optional
	// +listType=map
	// +listMapKey=name
	Interfaces []InterfaceState `json:"interfaces,omitempty"`

	// bgpSessions are the sessions with the peers that select the node.
	// +optional
	// +listType=map
	// +listMapKey=peer
	BGPSessions []BGPSession `json:"bgpSessions,omitempty"`

	// conflicts are the addresses that the node would answer for on layer 2 if another machine on the link did not have them. The node
	// probes them again, at least every 5 minutes. Of more than 100 the first are listed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Conflicts []AddressConflict `json:"conflicts,omitempty"`

	// summary has in a few words what kubectl shows in columns.
	// +optional
	Summary *SpeakerSummary `json:"summary,omitempty"`

	// conditions say whether the speaker announces (Ready).
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpeakerSummary says in a few words what a speaker sees and does: of each list its first elements, and how many there are beside. It is for
// people: programs read the lists.
type SpeakerSummary struct {
	// addresses are those of the node.
	// +optional
	Addresses string `json:"addresses,omitempty"`

	// bgpEstablished says how many BGP sessions of how many are established: 1/2.
	// +optional
	BGPEstablished string `json:"bgpEstablished,omitempty"`

	// bgpSessions are the BGP sessions with their states.
	// +optional
	BGPSessions string `json:"bgpSessions,omitempty"`
}

// InterfaceState is what a speaker sees of one interface.
type InterfaceState struct {
	// name is the name of the interface.
	// +required
	Name string `json:"name"`

	// mac is the hardware address with which the node answers.
	// +optional
	MAC string `json:"mac,omitempty"`

	// addresses are the interface's own addresses with their prefix lengths.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`

	// usable says whether addresses are announced on the interface.
	// +required
	Usable bool `json:"usable"`

	// reason says why the interface is not usable.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// MaxAddresses and MaxConflicts are how many addresses and conflicts a SpeakerStatus lists at most.
const (
	MaxAddresses = 100
	MaxConflicts = 100
)

// AddressConflict is an address of a Service that another machine has (RFC 5227).
type AddressConflict struct {
	// address is the address.
	// +required
	Address string `json:"address"`

	// interface is the interface of the node on whose link the machine is.
	// +required
	Interface string `json:"interface"`

	// mac is the hardware address of the machine.
	// +required
	MAC string `json:"mac"`
}

// BGPSession is a session of a speaker with one peer.
type BGPSession struct {
	// peer is the name of the BGPPeer.
	// +required
	Peer string `json:"peer"`

	// address is the address of the peer, also where the session is unnumbered and has found it.
	// +optional
	Address string `json:"address,omitempty"`

	// state is the state of the session, in the words of RFC 4271 section 8.2.2.
	// +required
	State BGPState `json:"state"`

	// since is when the session came into its state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// advertisedIPv4 is the number of IPv4 prefixes announced to the peer.
	// +optional
	AdvertisedIPv4 int32 `json:"advertisedIPv4"`

	// advertisedIPv6 is the number of IPv6 prefixes announced to the peer.
	// +optional
	AdvertisedIPv6 int32 `json:"advertisedIPv6"`

	// bfd is the state of the BFD session with the peer, in the words of RFC 5880 section 6.2. It is absent where the peer has no
	// BFDProfile.
	// +optional
	BFD BFDState `json:"bfd,omitempty"`

	// lastError is why the session ended last, or could not be opened.
	// +optional
	LastError string `json:"lastError,omitempty"`
}

// BFDState is a state of a BFD session.
//
// +kubebuilder:validation:Enum=AdminDown;Down;Init;Up
type BFDState string

// BGPState is a state of a BGP session.
//
// +kubebuilder:validation:Enum=Idle;Connect;Active;OpenSent;OpenConfirm;Established
type BGPState string

// The states of a BGP session (RFC 4271 section 8.2.2).
const (
	BGPIdle        BGPState = "Idle"
	BGPConnect     BGPState = "Connect"
	BGPActive      BGPState = "Active"
	BGPOpenSent    BGPState = "OpenSent"
	BGPOpenConfirm BGPState = "OpenConfirm"
	BGPEstablished BGPState = "Established"
)
