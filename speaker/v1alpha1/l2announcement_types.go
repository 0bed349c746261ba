// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// L2Announcement records which node answers for the addresses of a Service on layer 2. It is named
// "<namespace>.<service>", and the speaker that takes the addresses writes it. The controller manager deletes it when the Service is gone.
//
// A user moves the addresses of a Service by hand by naming another node in spec.target: that node announces them at once, is recorded, and the one
// before goes on answering until then.
//
// It has no status subresource, so that taking the addresses is one write, and the resource version of that write
// decides between two speakers.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=l2announcements,scope=Cluster,shortName=l2ann,categories=tandem
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.addresses[0]`
// +kubebuilder:printcolumn:name="Second Address",type=string,JSONPath=`.status.addresses[1]`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.status.interfaces[0]`,priority=1
// +kubebuilder:printcolumn:name="Second Interface",type=string,JSONPath=`.status.interfaces[1]`,priority=1
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.since`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.target`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.service.__namespace__ + '.' + self.service.name",fieldPath=".metadata",message="name must be that of the Service after its namespace and a dot: default.web"
type L2Announcement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// service is the Service that the addresses belong to. It cannot change, since the name says which it is.
	// +required
	Service ServiceReference `json:"service"`

	// spec says which node is to answer.
	// +optional
	Spec L2AnnouncementSpec `json:"spec,omitempty"`

	// status says which node answers for which addresses.
	// +optional
	Status L2AnnouncementStatus `json:"status,omitempty"`
}

// L2AnnouncementList is a list of layer 2 announcements.
//
// +kubebuilder:object:root=true
type L2AnnouncementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Announcement `json:"items"`
}

// ServiceReference names a Service.
type ServiceReference struct {
	// namespace is the namespace of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// name is the name of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
}

// L2AnnouncementSpec says which node is to answer for the addresses of a Service.
type L2AnnouncementSpec struct {
	// target is the name of the node that is to take the addresses over, once: it removes the name when it has them. Services that share
	// addresses move together. A node that cannot answer for all that the present one answers for takes nothing, and the Service has an event
	// TargetRefused that says why; it takes them later if it can by then and is named still. With failbackAfter of an L2Advertisement the addresses
	// go back to a preferred node that has been healthy for that long, at once if it has been already.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Target string `json:"target,omitempty"`
}

// L2AnnouncementStatus says which node answers for which addresses.
type L2AnnouncementStatus struct {
	// node is the name of the node that answers or, while the Service has no ready endpoint, that did and will again. While other stations have
	// the addresses it is the node that will answer when they are free. It is empty after the holder gave the addresses up and before another
	// node has taken them over.
	// +optional
	Node string `json:"node,omitempty"`

	// addresses are the addresses the node answers for, in the order of the Service. While node is empty they are those that the last
	// holder answered for.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`

	// interfaces are the names of the interfaces it answers on.
	// +optional
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`

	// since is when the node took the addresses over.
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
}
