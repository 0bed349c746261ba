// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the group and version of every kind of Tandem, those of ipam/v1alpha1 included.
	GroupVersion = schema.GroupVersion{Group: "tandem-lb.io", Version: "v1alpha1"}

	// SchemeBuilder collects what adds this package's kinds to a scheme.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds this package's kinds to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&L2Advertisement{}, &L2AdvertisementList{},
		&BGPPeer{}, &BGPPeerList{},
		&BGPAdvertisement{}, &BGPAdvertisementList{},
		&BFDProfile{}, &BFDProfileList{},
		&Community{}, &CommunityList{},
		&InterfaceAdvertisement{}, &InterfaceAdvertisementList{},
		&SpeakerStatus{}, &SpeakerStatusList{},
		&L2Announcement{}, &L2AnnouncementList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
