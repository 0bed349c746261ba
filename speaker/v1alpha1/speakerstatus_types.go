// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
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

	// bgpSessions are the sessions with the peers that select the node. New counts alone are written at most every 10 s.
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

	// unanswered are the addresses that other nodes hold on layer 2, and for which their nodes do not answer this node on the LAN, which asks
	// for each again and again. Of more than 100 the first are listed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Unanswered []UnansweredAddress `json:"unanswered,omitempty"`

	// summary has in a few words what kubectl shows in columns.
	// +optional
	Summary *SpeakerSummary `json:"summary,omitempty"`

	// conditions say whether the speaker announces (Ready), whether the node is being drained (Draining), and what else is the matter.
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

	// addresses are the interface's own addresses, each with the length of the subnet that the node reaches on the link of the interface, by the
	// prefix of the address or by a route. One of a single address has no subnet there.
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

// MaxAddresses, MaxConflicts and MaxUnanswered are how many addresses, conflicts and addresses without an answer a SpeakerStatus lists at most.
const (
	MaxAddresses  = 100
	MaxConflicts  = 100
	MaxUnanswered = 100
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

// UnansweredAddress is an address of a Service for which the node that holds it does not answer.
type UnansweredAddress struct {
	// address is the address.
	// +required
	Address string `json:"address"`

	// node is the node that is to answer.
	// +required
	Node string `json:"node"`

	// interface is that of the node.
	// +required
	Interface string `json:"interface"`
}

// BGPSession is a session of a speaker with one peer.
type BGPSession struct {
	// peer is the name of the BGPPeer.
	// +required
	Peer string `json:"peer"`

	// address is the address of the peer, also where the session is unnumbered and has found it.
	// +optional
	Address string `json:"address,omitempty"`

	// localAddress is the node's own address in the session, while it is established.
	// +optional
	LocalAddress string `json:"localAddress,omitempty"`

	// remoteASN is the autonomous system number that the peer gave last.
	// +optional
	RemoteASN int64 `json:"remoteASN,omitempty"`

	// state is the state of the session, in the words of RFC 4271 section 8.2.2.
	// +required
	State BGPState `json:"state"`

	// since is when the session came into its state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// families are those that both sides have agreed to, while the session is established.
	// +optional
	// +listType=atomic
	Families []corev1.IPFamily `json:"families,omitempty"`

	// nextHops are the addresses of the node to which the peer is told to send, at most one of each family.
	// +optional
	// +listType=atomic
	NextHops []string `json:"nextHops,omitempty"`

	// gracefulRestart says that both sides have agreed to it: the peer keeps the routes while the speaker restarts.
	// +optional
	GracefulRestart bool `json:"gracefulRestart,omitempty"`

	// advertisedIPv4 is the number of IPv4 prefixes announced to the peer.
	// +optional
	AdvertisedIPv4 int32 `json:"advertisedIPv4"`

	// advertisedIPv6 is the number of IPv6 prefixes announced to the peer.
	// +optional
	AdvertisedIPv6 int32 `json:"advertisedIPv6"`

	// withheld is the number of prefixes that cannot be announced to the peer in this session. lastError says why.
	// +optional
	Withheld int32 `json:"withheld,omitempty"`

	// bfd is the state of the BFD session with the peer, in the words of RFC 5880 section 6.2. It is absent where the peer has no
	// BFDProfile.
	// +optional
	BFD BFDState `json:"bfd,omitempty"`

	// lastError is why the session ended last, could not be opened, or carries less than it should.
	// +optional
	LastError string `json:"lastError,omitempty"`

	// lastErrorTime is when that was found.
	// +optional
	LastErrorTime *metav1.Time `json:"lastErrorTime,omitempty"`
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
