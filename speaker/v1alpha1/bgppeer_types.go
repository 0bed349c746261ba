// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router that speakers hold a BGP session with. Both families go over one session unless families says
// otherwise.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=bgppeers,scope=Cluster,shortName=peer,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.status.summary.peer`
// +kubebuilder:printcolumn:name="My ASN",type=integer,JSONPath=`.spec.myASN`
// +kubebuilder:printcolumn:name="Peer ASN",type=string,JSONPath=`.status.summary.peerASN`
// +kubebuilder:printcolumn:name="Established",type=string,JSONPath=`.status.summary.established`
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.spec.bfdProfile`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type BGPPeer struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec describes the router and the session with it.
	// +required
	Spec BGPPeerSpec `json:"spec"`

	// status says whether the peer is in use. The state of each node's session is in the node's SpeakerStatus.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// BGPPeerList is a list of BGP peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

// BGPPeerSpec describes a router and the session with it.
//
// +kubebuilder:validation:XValidation:rule="has(self.peerAddress) || has(self.defaultGateway) || has(self.interface)",fieldPath=".peerAddress",reason=FieldValueRequired,message="set peerAddress, or defaultGateway, or interface for an unnumbered session"
// +kubebuilder:validation:XValidation:rule="!has(self.peerAddress) || !has(self.defaultGateway)",fieldPath=".defaultGateway",message="peerAddress and defaultGateway exclude each other; remove one of them"
// +kubebuilder:validation:XValidation:rule="has(self.peerASN) || has(self.dynamicASN)",fieldPath=".peerASN",reason=FieldValueRequired,message="set peerASN or dynamicASN"
// +kubebuilder:validation:XValidation:rule="!has(self.peerASN) || !has(self.dynamicASN)",fieldPath=".dynamicASN",message="peerASN and dynamicASN exclude each other"
// +kubebuilder:validation:XValidation:rule="!has(self.peerAddress) || !isIP(self.peerAddress) || ip(self.peerAddress).family() == 4 || !ip(self.peerAddress).isLinkLocalUnicast() || has(self.interface)",fieldPath=".interface",reason=FieldValueRequired,message="a link-local IPv6 peerAddress needs the interface it is on"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || has(self.peerAddress) || has(self.defaultGateway)",fieldPath=".sourceAddress",message="an unnumbered session has a link-local source; remove sourceAddress or set peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.sourceAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()",fieldPath=".sourceAddress",message="must be of the same family as peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.defaultGateway) || has(self.peerAddress) || !isIP(self.sourceAddress) || (ip(self.sourceAddress).family() == 4) == (self.defaultGateway == 'IPv4')",fieldPath=".sourceAddress",message="must be of the family that defaultGateway names"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceInterface) || !has(self.sourceAddress)",fieldPath=".sourceInterface",message="sourceAddress and sourceInterface exclude each other; remove one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceInterface) || has(self.peerAddress) || has(self.defaultGateway)",fieldPath=".sourceInterface",message="an unnumbered session has its source on interface; remove sourceInterface or set peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !self.keepaliveTime.matches('^([0-9]{1,5}[hms])+$') || !self.holdTime.matches('^([0-9]{1,5}[hms])+$') || (duration(self.keepaliveTime).getSeconds() * 3 <= duration(self.holdTime).getSeconds() && (duration(self.keepaliveTime) > duration('0s') || duration(self.holdTime) == duration('0s')))",fieldPath=".keepaliveTime",message="must be at least 1s and at most a third of holdTime, or 0s where holdTime is 0s (RFC 4271 section 4.4)"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !has(self.ttlSecurityHops)",fieldPath=".ttlSecurityHops",message="ttlSecurityHops and ebgpMultiHop exclude each other; ttlSecurityHops allows that many hops by itself"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || has(self.peerAddress) || has(self.defaultGateway)",fieldPath=".ebgpMultiHop",message="an unnumbered session is one hop long; remove ebgpMultiHop or set peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !isIP(self.sourceAddress) || ip(self.sourceAddress).family() == 4 || !ip(self.sourceAddress).isLinkLocalUnicast() || has(self.interface)",fieldPath=".interface",reason=FieldValueRequired,message="a link-local sourceAddress needs the interface it is on"
// +kubebuilder:validation:XValidation:rule="!has(self.vrf) || !has(self.interface)",fieldPath=".vrf",message="an interface is in its VRF already; remove vrf or interface"
// +kubebuilder:validation:XValidation:rule="!has(self.vrf) || !has(self.bfdProfile)",fieldPath=".bfdProfile",message="BFD sessions run in the main table only; remove bfdProfile or vrf"
// +kubebuilder:validation:XValidation:rule="!has(self.vrf) || has(self.peerAddress)",fieldPath=".vrf",message="the default gateway is looked for in the main table only; set peerAddress, or remove vrf"
type BGPPeerSpec struct {
	// myASN is the autonomous system number of the speakers in this session.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:XValidation:rule="self != 23456",message="23456 is AS_TRANS, which stands for numbers of 32 bits (RFC 6793 section 9); use the router's or the nodes' own number"
	MyASN int64 `json:"myASN"`

	// peerASN is the autonomous system number of the peer. A peer with another one is turned away.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:XValidation:rule="self != 23456",message="23456 is AS_TRANS, which stands for numbers of 32 bits (RFC 6793 section 9); use the router's or the nodes' own number"
	PeerASN int64 `json:"peerASN,omitempty"`

	// dynamicASN takes the peer's number from the peer, instead of peerASN: External accepts any but ours, Internal
	// only ours.
	// +optional
	DynamicASN DynamicASN `json:"dynamicASN,omitempty"`

	// peerAddress is the address of the peer. Without it and without defaultGateway the session is unnumbered: the
	// speaker talks to the router that answers on interface.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^%]+%[^%]+$') || (isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast() || ip(self).isLoopback()))",message="must be an IPv4 or IPv6 address of one machine"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[^%]+%[^%]+$')",message="has a zone; write the address here and what follows % in spec.interface"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || !ip(self).isLoopback()",message="is the node itself, and a router there takes no next hop that is its own; have it redistribute an InterfaceAdvertisement instead of peering with it"
	PeerAddress string `json:"peerAddress,omitempty"`

	// defaultGateway takes the node's default gateway of that family for the peer, instead of peerAddress: one object
	// serves racks whose routers have different addresses. With interface it is the gateway on that link.
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	DefaultGateway corev1.IPFamily `json:"defaultGateway,omitempty"`

	// interface is the link the peer is on: the session uses no other one. A link-local IPv6 peerAddress needs it, and so do
	// IPv4 addresses that several links have, such as 169.254.0.1.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:]]+$') && self != '.' && self != '..'",message="must be the name of a network interface"
	Interface string `json:"interface,omitempty"`

	// vrf is the VRF device of Linux in whose routing table the peer is looked for. Without it that is the main table, or that of
	// interface.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:]]+$') && self != '.' && self != '..'",message="must be the name of a network interface"
	VRF string `json:"vrf,omitempty"`

	// peerPort is the TCP port of the peer.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// sourceAddress is the address the session is opened from. Without it and without sourceInterface the kernel
	// chooses.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast())",message="must be an IPv4 or IPv6 address of one machine, and no loopback address"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// sourceInterface is the interface whose address of the session's family the session is opened from, such as lo on
	// hosts that have their own address there.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:]]+$') && self != '.' && self != '..'",message="must be the name of a network interface"
	SourceInterface string `json:"sourceInterface,omitempty"`

	// routerID is the BGP identifier of the speakers. Since it is the same on every node of the peer, it suits peers that
	// nodeSelectors limit to one node. Without it each node uses its IPv4 address, or a number derived from its name.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast() || ip(self).isLoopback())",message="must be an IPv4 address other than 0.0.0.0 and no multicast one, whatever the session's family is"
	RouterID string `json:"routerID,omitempty"`

	// holdTime is how long a silent peer is taken for alive (RFC 4271 section 4.2). The smaller of both sides' values
	// counts; 0s turns the check off.
	// +optional
	// +kubebuilder:default="90s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}[hms])+$') && (duration(self) == duration('0s') || (duration(self) >= duration('3s') && duration(self) <= duration('65535s')))",message="must be 0s, or whole seconds from 3s to 65535s such as 9s (RFC 4271 section 4.2)"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// keepaliveTime is the time between two keepalive messages. Without it it is a third of the hold time.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}[hms])+$') && duration(self) >= duration('0s') && duration(self) <= duration('21845s')",message="must be whole seconds up to 21845s such as 3s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// connectTime is the time between two tries to connect.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}[hms])+$') && duration(self) >= duration('1s') && duration(self) <= duration('65535s')",message="must be whole seconds from 1s to 65535s such as 5s"
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`

	// ebgpMultiHop allows an external peer to be more than one hop away.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`

	// ttlSecurityHops turns on the generalised TTL security mechanism (RFC 5082): packets from more than this many
	// hops away are dropped. 1 is a peer on the same link.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurityHops int32 `json:"ttlSecurityHops,omitempty"`

	// passwordSecret names the Secret, in the namespace of Tandem's Secrets, with the password of the session (TCP MD5,
	// RFC 2385).
	// +optional
	PasswordSecret *SecretKeyReference `json:"passwordSecret,omitempty"`

	// bfdProfile names the BFDProfile that watches the peer. Without it the peer is not watched by BFD.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	BFDProfile string `json:"bfdProfile,omitempty"`

	// gracefulRestart asks the peer to keep the routes while the speaker restarts (RFC 4724).
	// +optional
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`

	// families are the families whose addresses the session carries. Without it they are both, whatever family
	// peerAddress has.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	Families []corev1.IPFamily `json:"families,omitempty"`

	// maxReceivedPrefixes ends the session when the peer announces more prefixes than this. Speakers announce and use
	// no route that they receive, so that a peer has no reason to announce any. Without it there is no bound. The speaker
	// remembers every prefix that it counts, so that the greatest number is a million, or some 40 MB.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxReceivedPrefixes int32 `json:"maxReceivedPrefixes,omitempty"`

	// nodeSelectors, where set, limit the peer to nodes with these labels: one of the selectors has to match the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// DynamicASN says which autonomous system numbers of a peer are accepted.
//
// +kubebuilder:validation:Enum=External;Internal
type DynamicASN string

const (
	// DynamicASNExternal accepts any number but ours.
	DynamicASNExternal DynamicASN = "External"
	// DynamicASNInternal accepts only ours.
	DynamicASNInternal DynamicASN = "Internal"
)

// SecretKeyReference is a key of a Secret in the speakers' own namespace.
type SecretKeyReference struct {
	// name is the name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// key is the key within the Secret.
	// +optional
	// +kubebuilder:default=password
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// GracefulRestart says whether and for how long a peer shall keep the routes of a speaker that restarts.
type GracefulRestart struct {
	// enabled offers graceful restart to the peer.
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// restartTime is how long the peer waits for the speaker to come back (RFC 4724 section 3). For as long it sends packets
	// to a node that dies while its speaker restarts.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}[hms])+$') && duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="must be whole seconds from 1s to 4095s such as 30s (RFC 4724 section 3)"
	RestartTime *metav1.Duration `json:"restartTime,omitempty"`
}
