// SPDX-License-Identifier: Apache-2.0

package nodeinfo_test

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
)

func TestInternalIPs(t *testing.T) {
	v4, v6 := netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("2001:db8:51::11")
	internal := func(addresses ...string) (list []corev1.NodeAddress) {
		for _, a := range addresses {
			list = append(list, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return list
	}
	for _, tt := range []struct {
		name       string
		addresses  []corev1.NodeAddress
		want       []netip.Addr
		ipv4, ipv6 netip.Addr
	}{
		{name: "a Node without addresses"},
		{name: "both families keep their order", addresses: internal("2001:db8:51::11", "198.51.100.11"), want: []netip.Addr{v6, v4}, ipv4: v4, ipv6: v6},
		{name: "one family", addresses: internal("198.51.100.11"), want: []netip.Addr{v4}, ipv4: v4},
		{name: "the first of a family counts", addresses: internal("198.51.100.11", "192.0.2.11"), want: []netip.Addr{v4, netip.MustParseAddr("192.0.2.11")}, ipv4: v4},
		{
			name: "other types do not count",
			addresses: append([]corev1.NodeAddress{
				{Type: corev1.NodeExternalIP, Address: "203.0.113.11"}, {Type: corev1.NodeHostName, Address: "node1"},
			}, internal("198.51.100.11")...),
			want: []netip.Addr{v4}, ipv4: v4,
		},
		{name: "an address that cannot be read is left out", addresses: internal("198.51.100", "198.51.100.11"), want: []netip.Addr{v4}, ipv4: v4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := &corev1.Node{Status: corev1.NodeStatus{Addresses: tt.addresses}}
			if got := nodeinfo.InternalIPs(node); !slices.Equal(got, tt.want) {
				t.Errorf("InternalIPs = %v, want %v", got, tt.want)
			}
			if got := nodeinfo.InternalIP(node, family.IPv4); got != tt.ipv4 {
				t.Errorf("InternalIP of IPv4 = %v, want %v", got, tt.ipv4)
			}
			if got := nodeinfo.InternalIP(node, family.IPv6); got != tt.ipv6 {
				t.Errorf("InternalIP of IPv6 = %v, want %v", got, tt.ipv6)
			}
		})
	}
}

func TestUninitialized(t *testing.T) {
	node := &corev1.Node{}
	if nodeinfo.Uninitialized(node) {
		t.Error("a Node without taints is uninitialised")
	}
	node.Spec.Taints = []corev1.Taint{{Key: nodeinfo.TaintUninitialized, Effect: corev1.TaintEffectNoSchedule}}
	if !nodeinfo.Uninitialized(node) {
		t.Errorf("a Node with the taint %s is initialised", nodeinfo.TaintUninitialized)
	}
}
