// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
)

// ownAddresses says which addresses a node names to others: never one that is claimed, or that another node has too that is Ready, and the
// InternalIPs of its Node first. The Node may be nil.
func ownAddresses(node *corev1.Node, claimed func(netip.Addr) bool, ofOthers map[netip.Addr]bool) link.Choice {
	choice := link.Choice{Excluded: func(ip netip.Addr) bool { return ofOthers[ip] || claimed(ip) }}
	if node != nil {
		choice.Preferred = nodeinfo.InternalIPs(node)
	}
	return choice
}

// A peering remembers what BGP sessions of this node depend on and what must not change while they run.
type peering struct {
	// routerID is the BGP identifier of this process, the zero Addr before the Node has an address. A Node whose addresses are listed in another
	// order, or that is created anew, must not reset every session.
	routerID  netip.Addr
	passwords map[config.SecretKey]bgp.Password
	ends      map[endKey]decision.End

	movedIn    bool            // `kubectl tandem move-in` has handed this node over to Tandem
	peers      []string        // those of the latest decision
	handedOver map[string]bool // those whose sessions the other load balancer is to have again
}

// An endKey names what an End was found for. A BGPPeer that asks for something else has another key.
type endKey struct {
	peer            string
	gateway         family.Family
	link            string
	sourceInterface string
}

// identify gives a snapshot the router ID of this process.
func (p *peering) identify(s *decision.Snapshot) {
	if own := s.Nodes[s.Node]; !p.routerID.IsValid() && len(own.InternalIPs) > 0 {
		if p.routerID = own.RouterID; !p.routerID.IsValid() {
			p.routerID = bgp.RouterID(s.Node)
		}
	}
	s.RouterID = p.routerID
}

// handOver returns the peers whose sessions another load balancer on this node is to have: when the label of a move goes from the Node, those that do not
// select it any more, until they do again. For example `kubectl tandem move-in undo` takes tandem-lb.io/move-in=moved off node1: the BGPPeer tor, which
// selects Nodes with the label, has no session here any more, and MetalLB's speaker opens one. The router keeps the routes meanwhile where both agreed to
// graceful restart; kube-proxy forwards all the time, whoever announces. A Node that is deleted hands nothing over: its speaker leaves, and withdraws.
func (p *peering) handOver(s *decision.Snapshot, peers []config.Peer) []string {
	node, exists := s.Nodes[s.Node]
	was := p.movedIn && exists
	p.movedIn = node.Labels[v1alpha1.LabelMoveIn] != ""
	before := p.peers
	p.peers = nil
	for i := range peers {
		p.peers = append(p.peers, peers[i].Name)
	}
	if p.handedOver == nil {
		p.handedOver = map[string]bool{}
	}
	if was && !p.movedIn {
		for _, name := range before {
			p.handedOver[name] = true
		}
	}
	for _, name := range p.peers {
		delete(p.handedOver, name)
	}
	return slices.Sorted(maps.Keys(p.handedOver))
}

// keepEnds fills in what an End lacks from what was found last for the same declaration; the End goes on to say what is wrong. For example the
// default route is away while the network of the node is set up anew: the session with the router goes on as one with a peerAddress would.
func (p *peering) keepEnds(peers []config.Peer, found map[string]decision.End) {
	kept := map[endKey]decision.End{}
	for i := range peers {
		peer := &peers[i]
		end, ok := found[peer.Name]
		if !ok {
			continue
		}
		key := endKey{peer.Name, peer.Gateway, peer.Peer.Interface, peer.SourceInterface}
		if last := p.ends[key]; end.Err != nil {
			if !end.Address.IsValid() {
				end.Address = last.Address
			}
			if !end.Source.IsValid() {
				end.Source = last.Source
			}
			found[peer.Name] = end
		}
		kept[key] = end
	}
	p.ends = kept
}

// passwordsFor returns what a snapshot's Password is to be: what read returns and, where that is an error, also the password that was read last,
// if a session runs with it. For example the Secret is deleted and made again: the session goes on meanwhile, and the error says that the Secret
// is missing. The sessions are those of the latest decision.
func (p *peering) passwordsFor(latest decision.Desired, read func(config.SecretKey) (bgp.Password, error)) func(config.SecretKey) (bgp.Password, error) {
	runs := map[string]bool{}
	for i := range latest.BGP {
		runs[latest.BGP[i].Peer.Name] = true
	}
	used := map[config.SecretKey]bool{}
	for i := range latest.Peers {
		if key := latest.Peers[i].PasswordSecret; key != nil && runs[latest.Peers[i].Name] {
			used[*key] = true
		}
	}
	kept := map[config.SecretKey]bgp.Password{}
	for key, password := range p.passwords {
		if used[key] {
			kept[key] = password
		}
	}
	p.passwords = kept
	return func(key config.SecretKey) (bgp.Password, error) {
		password, err := read(key)
		if err != nil {
			return kept[key], err
		}
		kept[key] = password
		return password, nil
	}
}
