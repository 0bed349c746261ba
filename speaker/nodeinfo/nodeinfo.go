// SPDX-License-Identifier: Apache-2.0

// Package nodeinfo reads from a Node, for speakers and for the controller manager alike, by which addresses other nodes reach it, and
// whether a cloud provider has initialised it.
//
//	addresses of the Node       InternalIPs      InternalIP(node, family.IPv6)
//	InternalIP 198.51.100.11
//	ExternalIP 203.0.113.11
//	InternalIP 2001:db8:51::11  198.51.100.11    2001:db8:51::11
//	Hostname   node1            2001:db8:51::11
//
// It is pure, and links nothing of the cloud provider framework.
package nodeinfo

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
)

// TaintUninitialized is on a Node that was started with --cloud-provider=external, until a cloud provider has initialised it. It is the
// constant TaintExternalCloudProvider of k8s.io/cloud-provider/api, which a speaker does not link.
const TaintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// InternalIPs returns the addresses of type InternalIP in the order of the Node's status. An address that cannot be read is left out.
func InternalIPs(node *corev1.Node) []netip.Addr {
	var ips []netip.Addr
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); a.Type == corev1.NodeInternalIP && err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// InternalIP returns the first InternalIP of a family. It is not valid if there is none.
func InternalIP(node *corev1.Node, f family.Family) netip.Addr {
	ips := InternalIPs(node)
	if i := slices.IndexFunc(ips, func(ip netip.Addr) bool { return family.Of(ip) == f }); i >= 0 {
		return ips[i]
	}
	return netip.Addr{}
}

// Uninitialized reports whether the Node waits for a cloud provider to initialise it.
func Uninitialized(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == TaintUninitialized })
}
