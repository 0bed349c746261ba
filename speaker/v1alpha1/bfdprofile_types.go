// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BFDProfile says how bidirectional forwarding detection (RFC 5880) watches a peer.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=bfdprofiles,scope=Cluster,shortName=bfd,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Receive",type=string,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Transmit",type=string,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type BFDProfile struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec holds the session's parameters. An empty spec detects a death in 900 ms.
	// +optional
	// +kubebuilder:default={}
	Spec BFDProfileSpec `json:"spec,omitempty"`

	// status says whether the profile is in use.
	// +optional
	Status ConfigStatus `json:"status,omitempty"`
}

// BFDProfileList is a list of BFD profiles.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}

// BFDProfileSpec holds the parameters of a BFD session.
type BFDProfileSpec struct {
	// receiveInterval is the shortest time between two packets that we are ready to receive.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}([.][0-9]{1,6})?(ms|s|m))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="must be a duration from 10ms to 60s such as 300ms"
	ReceiveInterval *metav1.Duration `json:"receiveInterval,omitempty"`

	// transmitInterval is the shortest time between two packets that we want to send. The peer's receive interval can
	// make it longer.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}([.][0-9]{1,6})?(ms|s|m))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="must be a duration from 10ms to 60s such as 300ms"
	TransmitInterval *metav1.Duration `json:"transmitInterval,omitempty"`

	// detectMultiplier is how many packets in a row have to be lost for the session to go down.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`

	// echoMode is to be false: the echo function (RFC 5880 section 6.4) is not built.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self",message="the echo function is not built, since control packets detect a failure as fast; remove echoMode, and set transmitInterval and receiveInterval, such as 50ms"
	EchoMode bool `json:"echoMode,omitempty"`

	// echoInterval is a parameter of echoMode, and matters as little while that is false.
	// +optional
	// +kubebuilder:default="50ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}([.][0-9]{1,6})?(ms|s|m))+$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="must be a duration from 10ms to 60s such as 300ms"
	EchoInterval *metav1.Duration `json:"echoInterval,omitempty"`

	// passiveMode sends nothing until the peer has spoken (RFC 5880 section 6.1).
	// +optional
	PassiveMode bool `json:"passiveMode,omitempty"`

	// minimumTTL is the smallest TTL or hop limit that packets of a multihop session may arrive with. Packets of a
	// session on one link always need 255 (RFC 5881 section 5).
	// +optional
	// +kubebuilder:default=254
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL int32 `json:"minimumTTL,omitempty"`
}
