// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Network returns which addresses of the Nodes' network are no Service's: those of the Nodes and of their default gateways, as their statuses and their
// speakers say, those of BGP peers, and those of the endpoints of the Service kubernetes. What cannot be read as an address is left out: the API server
// has refused most of it.
func Network(
	nodes []*corev1.Node, speakers []v1alpha1.SpeakerStatus, peers []v1alpha1.BGPPeer, apiServers []*discoveryv1.EndpointSlice,
) ipam.Network {
	var network ipam.Network
	states := map[string]*v1alpha1.SpeakerState{}
	for i := range speakers {
		states[speakers[i].Name] = &speakers[i].Status
	}
	for _, node := range nodes {
		network.Nodes = append(network.Nodes, networkNode(node, states[node.Name]))
	}
	for _, peer := range peers {
		if address, err := netip.ParseAddr(peer.Spec.PeerAddress); err == nil {
			network.Peers = append(network.Peers, ipam.NetworkPeer{Name: peer.Name, Address: address})
		}
	}
	for _, slice := range apiServers {
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					network.APIServers = append(network.APIServers, address)
				}
			}
		}
	}
	return network
}

// networkNode describes a Node by what its speaker has published, nil if it has none.
func networkNode(node *corev1.Node, state *v1alpha1.SpeakerState) ipam.NetworkNode {
	n := ipam.NetworkNode{Name: node.Name}
	for _, a := range node.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil { // Others are names.
			n.Addresses = append(n.Addresses, address)
		}
	}
	if state == nil {
		return n
	}
	for _, text := range state.DefaultGateways {
		if address, err := netip.ParseAddr(text); err == nil {
			n.Gateways = append(n.Gateways, address)
		}
	}
	for _, link := range state.Interfaces {
		for _, text := range link.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				n.Interfaces = append(n.Interfaces, prefix)
			}
		}
	}
	return n
}
