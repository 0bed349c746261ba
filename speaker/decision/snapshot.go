// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"net"
	"net/netip"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

// Snapshot is everything that a decision depends on, at one moment. Decide and Explain change nothing in it.
type Snapshot struct {
	// Node is the node of this speaker.
	Node     string
	Config   config.Config
	Services []Service
	Nodes    map[string]Node
	// Alive reports whether the speaker of a node is alive.
	Alive func(node string) bool
	// Away holds the nodes whose speakers are not alive, are expected back, and whose kernels go on forwarding meanwhile. Such a node keeps what it
	// is on record for, and a deputy answers in its place.
	Away map[string]bool
	// StartupHold is set while a speaker has just started. It goes on with what it is on record for, and takes nothing else before it has had
	// time to see the others.
	StartupHold bool
	// Isolated is set while the speaker sees neither another speaker nor the API. Then it answers for nothing on layer 2.
	Isolated bool

	// Probed returns what a node has found out about an address on an interface. Of other nodes, of which less is known, an address is Free
	// unless it is known to be in use. Nil stands for a caller that knows of no probes: then each address is taken to be free.
	Probed func(node, iface string, ip netip.Addr) Probe
	// Paths are how this node reaches the addresses that PeerAddresses names.
	Paths map[netip.Addr]link.Path
	// Password returns the password of a peer from its Secret, or an error that names the Secret. Nil stands for a caller that may read no
	// Secrets: then each password is taken to be there.
	Password func(config.SecretKey) (bgp.Password, error)
	// Sessions are the states of BGP sessions, as the speakers report them. Decide does not look at them, Explain does. Nil means that nothing
	// is known of any session.
	Sessions map[NodePeer]bgp.SessionState
}

// NodePeer names the BGP session of a node with a peer.
type NodePeer struct {
	Node, Peer string
}

// Service is a Service with at least one published address.
type Service struct {
	Name   types.NamespacedName
	Labels labels.Set
	// Addresses are those that the Service publishes and that a claim of ours backs, in the order of its status. Where another controller has
	// written its own addresses into the status, those of the Service's claims follow.
	Addresses []Address
	// Unclaimed are the addresses that the Service publishes without a claim of ours, in the order of its status. They are not announced.
	Unclaimed []netip.Addr
	// Local is externalTrafficPolicy Local: only a node with an endpoint can serve.
	Local bool
	// Endpoints are the usable endpoints that have the family of their key.
	Endpoints map[family.Family]Endpoints
	// Holder is the recorded holder of the Service's addresses on layer 2, or "".
	Holder string
	// Recorded is what the Holder has on record or, if Holder is "", the node that was it last.
	Recorded Record
}

// Address is an address and the pool that it was taken from.
type Address struct {
	IP   netip.Addr
	Pool string
}

// Endpoints says where the usable endpoints of one family are. Some may be on no node that is known.
type Endpoints struct {
	Any   bool
	Nodes map[string]bool
}

// Node is what matters of a node.
type Node struct {
	Labels labels.Set
	// Excluded nodes announce nothing.
	Excluded bool
	// Ready is the Node's condition. A node that is not Ready takes addresses on layer 2 only where no other can.
	Ready bool
	// Interfaces are those that can announce on their link.
	Interfaces []Interface
	// RouterID is the node's IPv4 address, which is its BGP identifier where a peer names none; the zero Addr where it has none.
	RouterID netip.Addr
}

// Interface is a link that can announce, and the subnets that the node has addresses of there.
type Interface struct {
	Name string
	// MAC is the hardware address that answers; nil where it is not known.
	MAC      net.HardwareAddr
	Prefixes []netip.Prefix
}

// PeerAddresses returns the addresses of the peers that the configuration gives a node with these labels.
func PeerAddresses(c config.Config, node labels.Set) []netip.Addr {
	var addresses []netip.Addr
	for i := range c.Peers {
		if peer := &c.Peers[i]; peer.Nodes.Matches(node) {
			addresses = append(addresses, peer.Peer.Address)
		}
	}
	return addresses
}

func (svc *Service) has(ip netip.Addr) bool {
	for i := range svc.Addresses {
		if svc.Addresses[i].IP == ip {
			return true
		}
	}
	return false
}

// servedFrom reports whether traffic for the address that reaches the node finds an endpoint.
func (svc *Service) servedFrom(node string, ip netip.Addr) bool {
	endpoints := svc.Endpoints[family.Of(ip)]
	return endpoints.Any && (!svc.Local || endpoints.Nodes[node])
}
