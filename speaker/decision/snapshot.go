// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

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
	// CutOff is set while this node hears nothing by one of its links, not even the gateway. Then it goes on with what it is on record for, and
	// takes nothing over by an interface that is Silent.
	CutOff bool
	// RouterID is the BGP identifier of this speaker where a peer names none. It stays as it is while the speaker runs. The zero Addr stands for
	// that of the Node.
	RouterID netip.Addr
	// NotForwarding is set while the speaker has just started and the node may not forward yet what it would announce. It has no BGP sessions then:
	// routers with graceful restart wait for the first one to bring all routes.
	NotForwarding bool
	// Leaving is set for a while when the node of this speaker has been excluded. It then announces by BGP what it has announced before, with
	// the least preference, so that traffic leaves before the routes do.
	Leaving bool
	// Departing is set for a moment when the node of this speaker has been excluded. It then answers for what it is on record for, until
	// another node is.
	Departing bool
	// Unreachable are those of Away whose speakers live, as far as is known, though gossip does not show them: its port may be closed. They are
	// elected as if they were alive.
	Unreachable map[string]bool
	// HealthyFor is for how long the node of this speaker has been healthy, as far as it matters: the longest FailbackAfter of the Config that
	// is not longer, zero if there is none.
	HealthyFor time.Duration
	// Isolated is set while the speaker sees neither another speaker nor the API. It goes on with what it is on record for, takes nothing else,
	// and is nobody's deputy.
	Isolated bool
	// Yielded are the addresses for which the speaker of another node answers, while this one cannot ask the API which of the two is to, and for a
	// moment those for which another may answer, since this node was off the LAN. This node answers for none of the groups that they belong to, and
	// listens.
	Yielded map[netip.Addr]bool
	// Passed are nodes that were elected for a group and have not put themselves on record, by the name of the group's first Service. Others are
	// elected in their place, if there are any.
	Passed map[types.NamespacedName]map[string]bool

	// Probed returns what a node has found out about an address on an interface. Of other nodes, of which less is known, an address is Free
	// unless it is known to be in use. Nil stands for a caller that knows of no probes: then each address is taken to be free.
	Probed func(node, iface string, ip netip.Addr) Probe
	// Neighbors are the routers that this node has found on the interfaces that UnnumberedInterfaces names.
	Neighbors map[string]Neighbor
	// Ends are those that FindEnds has found, by the peer's name.
	Ends map[string]End
	// Paths are how this node reaches its peers, see Destinations.
	Paths map[link.Destination]link.Path
	// Password returns the password of a peer from its Secret, or an error that names the Secret. With an error there may be a password all the
	// same, with which a session that runs goes on. Nil stands for a caller that may read no
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
	// Preferred selects the nodes that are preferred to hold the Service's addresses on layer 2, nil for none.
	Preferred labels.Selector
	// Local is externalTrafficPolicy Local: only a node with an endpoint can serve.
	Local bool
	// Endpoints are the usable endpoints that have the family of their key.
	Endpoints map[family.Family]Endpoints
	// Holder is the recorded holder of the Service's addresses on layer 2, or "".
	Holder string
	// Target is the node that is to take the Service's addresses over on layer 2 by hand, or "".
	Target string
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
	Nodes []string // sorted
}

// on reports whether one is on a node.
func (e Endpoints) on(node string) bool {
	_, found := slices.BinarySearch(e.Nodes, node)
	return found
}

// Node is what matters of a node.
type Node struct {
	Labels labels.Set
	// Excluded nodes announce nothing, but for a moment in which they hand over what they have.
	Excluded bool
	// Gone nodes are Excluded and have nothing to hand over: they are off, or their network does not work.
	Gone bool
	// Ready is the Node's condition. A node that is not Ready takes addresses on layer 2 only where no other can.
	Ready bool
	// LongNotReady says that the node has not been Ready for so long, while most others were, that it is to lose what it holds on layer 2.
	LongNotReady bool
	// Redistributes says that the speaker of the node puts into the kernel what InterfaceAdvertisements ask for. Decide does not look at it.
	Redistributes bool
	// Interfaces are those that can announce on their link.
	Interfaces []Interface
	// DownSubnets are the subnets of the interfaces that cannot announce at the moment, for example since the link has no carrier. They stay
	// the node's own: once eth0 with 198.51.100.11/24 is up again, its kernel answers ARP there for all addresses that the node has.
	DownSubnets []netip.Prefix
	// RouterID is the node's IPv4 address, which is its BGP identifier where a peer names none; the zero Addr where it has none.
	RouterID netip.Addr
	// InternalIPs are the addresses of the Node, one of each family that it has. One that several Nodes have is left out.
	InternalIPs map[family.Family]netip.Addr
	// BGP is what annotations of the Node say, which goes before what BGPPeers do.
	BGP Overrides
}

// Overrides are the parameters of BGP that a node has of its own, each the zero value where it has not.
type Overrides struct {
	ASN      uint32
	RouterID netip.Addr
	// Sources are the addresses that sessions with peers of each family come from.
	Sources map[family.Family]netip.Addr
}

// Interface is a link that can announce, and the subnets that the node has addresses of there.
type Interface struct {
	Name string
	// MAC is the hardware address that answers; nil where it is not known.
	MAC      net.HardwareAddr
	Prefixes []netip.Prefix
	// Silent says that neighbours hear nothing of it on its link. The node answers there only for what no other node can serve.
	Silent bool
}

// An End is what a node finds out of a session that its BGPPeer does not say.
type End struct {
	// Address is that of the peer where it is the default gateway.
	Address netip.Addr
	// Source is the address of the interface that spec.sourceInterface names, or the one that an annotation of the Node says instead.
	Source netip.Addr
	// Err says why one of them is missing, or what is the matter with it.
	Err error
}

// FindEnds returns the Ends of the sessions of a snapshot's node, by the interfaces that it has.
func FindEnds(s *Snapshot, links *link.Snapshot, choice link.Choice) map[string]End {
	ends := map[string]End{}
	for i := range s.Config.Peers {
		peer := &s.Config.Peers[i]
		if (peer.Gateway != "" || peer.SourceInterface != "") && peer.Nodes.Matches(s.Nodes[s.Node].Labels) {
			ends[peer.Name] = findEnd(peer, s.Nodes[s.Node].BGP.Sources, links, choice)
		}
	}
	return ends
}

// findEnd returns the End of a session. The sources are those that the Node says.
func findEnd(peer *config.Peer, sources map[family.Family]netip.Addr, links *link.Snapshot, choice link.Choice) (end End) {
	address := peer.Peer.Address
	if peer.Gateway != "" {
		gateway, ok := links.DefaultGateway(peer.Gateway, peer.Peer.Interface)
		if !ok {
			end.Err = fmt.Errorf("spec.defaultGateway: this node has no default route of %s by a gateway", peer.Gateway)
			if peer.Peer.Interface != "" {
				end.Err = fmt.Errorf("%w on %s", end.Err, peer.Peer.Interface)
			}
			return end
		}
		end.Address, address = gateway, gateway
	}
	if peer.SourceInterface == "" {
		return end
	}
	if source, ok := sources[family.Of(address)]; ok && !isLinkLocal(address) {
		end.Source = source
		return end
	}
	i, ok := links.ByName(peer.SourceInterface)
	if !ok {
		end.Err = fmt.Errorf("spec.sourceInterface: this node has no interface %s", peer.SourceInterface)
		return end
	}
	if end.Source, ok = i.BestAddresses(address, choice)[family.Of(address)]; !ok {
		end.Err = fmt.Errorf("spec.sourceInterface: %s has no %s address that others may be told", i.Name, family.Of(address))
	}
	return end
}

// Neighbor is the router at the other end of a link.
type Neighbor struct {
	// Address is its link-local address, with the zone, as in fe80::1%eth1. It is the zero Addr where none was found.
	Address netip.Addr
	// Err says what is wrong. With an Address as well, sessions go on with that.
	Err error
}

// UnnumberedInterfaces returns the interfaces by which the configuration names peers of the node, sorted.
func (s *Snapshot) UnnumberedInterfaces() []string {
	var names []string
	for i := range s.Config.Peers {
		if peer := &s.Config.Peers[i]; peer.Peer.Unnumbered && peer.Nodes.Matches(s.Nodes[s.Node].Labels) {
			names = append(names, peer.Peer.Interface)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Destinations returns where the peers are that the node of a snapshot is to have, as far as that is known by its Ends.
func Destinations(s *Snapshot) []link.Destination {
	v := view{Snapshot: s}
	var all []link.Destination
	for i := range s.Config.Peers {
		if peer := &s.Config.Peers[i]; peer.Nodes.Matches(s.Nodes[s.Node].Labels) && v.addressOf(peer).IsValid() {
			p := peer.Peer
			p.Address = v.addressOf(peer)
			all = append(all, destination(&p))
		}
	}
	return all
}

// destination returns where a peer is.
func destination(peer *bgp.Peer) link.Destination {
	if peer.Address.Zone() != "" {
		return link.Destination{Address: peer.Address}
	}
	return link.Destination{Address: peer.Address, Interface: peer.Device()}
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
	return endpoints.Any && (!svc.Local || endpoints.on(node))
}
