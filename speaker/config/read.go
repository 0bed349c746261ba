// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// The Secret with the key that encrypts the speakers' gossip, the key within its data, and the one before that, by which what still uses it is
// understood, if there is one. It is in the namespace of the Secrets; the controller manager's leader creates it.
const (
	MembershipSecret         = "tandem-membership"
	MembershipSecretKey      = "key"
	MembershipSecretPrevious = "previous"
)

// A List is a list of objects of one kind, as clients fill it.
type List interface {
	metav1.ListInterface
	runtime.Object
}

// An Object is an object of one kind, as clients watch it.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kinds returns an empty object of each kind that Read may list. A caller of Read that follows the API watches all of them.
func Kinds() []Object {
	return []Object{
		&ipamv1alpha1.AddressPool{}, &v1alpha1.L2Advertisement{}, &v1alpha1.BGPPeer{}, &v1alpha1.BGPAdvertisement{}, &v1alpha1.BFDProfile{},
		&v1alpha1.Community{}, &v1alpha1.InterfaceAdvertisement{}, &corev1.Namespace{},
	}
}

// lists are the lists of all kinds.
type lists struct {
	pools       ipamv1alpha1.AddressPoolList
	l2          v1alpha1.L2AdvertisementList
	peers       v1alpha1.BGPPeerList
	bgp         v1alpha1.BGPAdvertisementList
	profiles    v1alpha1.BFDProfileList
	communities v1alpha1.CommunityList
	interfaces  v1alpha1.InterfaceAdvertisementList
	namespaces  corev1.NamespaceList
}

// needNamespaces reports whether an advertisement selects namespaces by their labels.
func (l *lists) needNamespaces() bool {
	return slices.ContainsFunc(l.l2.Items, func(ad v1alpha1.L2Advertisement) bool { return len(ad.Spec.NamespaceSelectors) > 0 }) ||
		slices.ContainsFunc(l.bgp.Items, func(ad v1alpha1.BGPAdvertisement) bool { return len(ad.Spec.NamespaceSelectors) > 0 }) ||
		slices.ContainsFunc(l.interfaces.Items, func(ad v1alpha1.InterfaceAdvertisement) bool { return len(ad.Spec.NamespaceSelectors) > 0 })
}

// all returns the lists but that of the namespaces, which is read where it is needed.
func (l *lists) all() []List {
	return []List{&l.pools, &l.l2, &l.peers, &l.bgp, &l.profiles, &l.communities, &l.interfaces}
}

func (l *lists) objects() Objects {
	return Objects{
		AddressPools: l.pools.Items, L2Advertisements: l.l2.Items, BGPPeers: l.peers.Items, BGPAdvertisements: l.bgp.Items, BFDProfiles: l.profiles.Items,
		Communities: l.communities.Items, InterfaceAdvertisements: l.interfaces.Items, Namespaces: l.namespaces.Items,
	}
}

// Read fills Objects by means of list, which is called once for each kind; for namespaces only where an advertisement selects them. The first error of list
// ends it, and is returned with the kind.
// If list does not copy the objects, they may not be changed.
func Read(list func(List) error) (Objects, error) {
	var l lists
	for _, objects := range l.all() {
		if err := list(objects); err != nil {
			return Objects{}, fmt.Errorf("reading %T: %w", objects, err)
		}
	}
	if l.needNamespaces() {
		if err := list(&l.namespaces); err != nil {
			return Objects{}, fmt.Errorf("reading %T: %w", &l.namespaces, err)
		}
	}
	return l.objects(), nil
}

// ReadAtOnce fills Objects as Read does, with a list that asks the API server: it is called for all kinds at the same time. What it does not fill is
// empty.
func ReadAtOnce(list func(List)) Objects {
	var l lists
	var wait sync.WaitGroup
	for _, objects := range l.all() {
		wait.Go(func() { list(objects) })
	}
	wait.Wait()
	if l.needNamespaces() {
		list(&l.namespaces)
	}
	return l.objects()
}
