// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// What is written on Nodes is a role of its own, which the controller manager does not have where it serves Services alone.
// +kubebuilder:rbac:groups="",roleName=tandem-cloud-controller-manager-nodes,resources=nodes,verbs=update;patch
// +kubebuilder:rbac:groups="",roleName=tandem-cloud-controller-manager-nodes,resources=nodes/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=services/status,verbs=patch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses,verbs=get;list;watch

// instances answers the questions that the upstream node controllers ask a cloud. Here is no cloud: a machine exists as long as its Node
// does, and its addresses are those that the machine itself reports.
type instances struct {
	speakers client.Reader
	claims   networkinglisters.IPAddressLister // ours
	synced   cache.InformerSynced              // of claims
}

var _ cloudprovider.InstancesV2 = &instances{}

// InstanceExists is always true. The Node is the only record of the machine; a false here would delete it, NotReady or not.
func (*instances) InstanceExists(context.Context, *corev1.Node) (bool, error) { return true, nil }

// InstanceShutdown is always false: nothing here knows a machine that is off from one that is cut off.
func (*instances) InstanceShutdown(context.Context, *corev1.Node) (bool, error) { return false, nil }

// InstanceMetadata returns the provider ID tandem://<node> and the addresses of both families: those of the kubelet's
// --node-ip; without it those that the speaker found on the interfaces with the default routes, and for a family of which the speaker
// found none those of the Node's status. The family that is first in the Node's status stays first.
//
//	--node-ip        speaker                          status           InternalIPs
//	198.51.100.11    198.51.100.11, 2001:db8:51::11   198.51.100.11    198.51.100.11
//	                 198.51.100.11, 2001:db8:51::11   198.51.100.11    198.51.100.11, 2001:db8:51::11
//	                 198.51.100.11                    2001:db8:51::11  2001:db8:51::11, 198.51.100.11
//
// Whoever may write a SpeakerStatus must not send the API server anywhere: what the speaker found counts only if it is an address at which a
// node can be reached, and no claim has it. Loopback, multicast and link-local addresses never are.
//
// If there is no address at all, the error keeps the Node's taint until the next try.
//
// Where the addresses shall stay as they are, it returns none, which makes the node controller leave them alone. If it returned them, that
// controller, which asks for every Node again and again, would take two addresses of one type for a change, and write the status.
func (i *instances) InstanceMetadata(ctx context.Context, node *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	metadata := &cloudprovider.InstanceMetadata{ProviderID: providerID(node)} // for zone and region see [topology]
	// The addresses of a node that we don't initialise are written by its kubelet or by another provider, which would remove any that we add.
	if !initialises(node) && len(nodeinfo.InternalIPs(node)) > 0 {
		return metadata, nil
	}
	ips, err := i.addresses(ctx, node)
	if err != nil {
		return nil, err
	}
	addresses := []corev1.NodeAddress{}
	for _, ip := range ips {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: hostname(node)})
	if nodeinfo.Uninitialized(node) || !slices.Equal(addresses, node.Status.Addresses) {
		metadata.NodeAddresses = addresses
	}
	return metadata, nil
}

// addresses returns the Node's addresses of type InternalIP as they shall be.
func (i *instances) addresses(ctx context.Context, node *corev1.Node) ([]string, error) {
	if provided := node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr]; provided != "" {
		return strings.Split(provided, ","), nil
	}
	own := slices.DeleteFunc(nodeinfo.InternalIPs(node), func(ip netip.Addr) bool { return !reachable(ip) })
	var speaker speakerv1alpha1.SpeakerStatus
	err := i.speakers.Get(ctx, client.ObjectKey{Name: node.Name}, &speaker)
	if !i.synced() {
		return nil, fmt.Errorf("the addresses of node %s have to wait until the claims have been read", node.Name)
	}
	var ips []netip.Addr
	for _, address := range speaker.Status.Addresses {
		if ip, err := netip.ParseAddr(address); err == nil && reachable(ip) && !slices.Contains(ips, ip) && !i.claimed(ip) {
			ips = append(ips, ip)
		}
	}
	found := slices.Clone(ips)
	for _, ip := range own {
		if !slices.ContainsFunc(found, func(f netip.Addr) bool { return family.Of(f) == family.Of(ip) }) {
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("asking what the speaker of node %s has found: %w", node.Name, err)
		}
		return nil, fmt.Errorf("node %s has no address yet: start its kubelet with --node-ip, or wait for its speaker", node.Name)
	}
	if len(own) > 0 {
		rank := func(ip netip.Addr) int {
			if family.Of(ip) == family.Of(own[0]) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(ips, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	}
	addresses := make([]string, len(ips))
	for i, ip := range ips {
		addresses[i] = ip.String()
	}
	return addresses, nil
}

// reachable reports whether others can reach a node at an address.
func reachable(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && ip.Zone() == "" && !ip.Is4In6()
}

// claimed reports whether an address is a Service's.
func (i *instances) claimed(ip netip.Addr) bool {
	_, err := i.claims.Get(ip.String())
	return err == nil
}

// initialises reports whether we have initialised the node, or are about to.
func initialises(node *corev1.Node) bool {
	return node.Spec.ProviderID == providerID(node) || nodeinfo.Uninitialized(node)
}

func providerID(node *corev1.Node) string { return Name + "://" + node.Name }

func hostname(node *corev1.Node) string {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeHostName {
			return a.Address
		}
	}
	return node.Name
}
