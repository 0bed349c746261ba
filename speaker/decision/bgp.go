// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

// decideBGP fills in Peers, BGP, BFD and Problems.
func (v *view) decideBGP(d *Desired) {
	node := v.Nodes[v.Node]
	for i := range v.Config.Peers {
		peer := &v.Config.Peers[i]
		if !peer.Nodes.Matches(node.Labels) {
			continue
		}
		d.Peers = append(d.Peers, *peer)
		session, err := v.session(peer, v.routes(peer))
		if err != nil {
			d.Problems[peer.Name] = err.Error()
		}
		if session == nil {
			continue
		}
		d.BGP = append(d.BGP, *session)
		if peer.BFD == nil {
			continue
		}
		watch, err := v.bfdSession(session.Peer, peer.BFD)
		if err != nil {
			d.Problems[peer.Name] = err.Error()
			continue
		}
		d.BFD = append(d.BFD, watch)
	}
}

// session decides the session of this node with one peer. There may be both a session and an error, where some routes have no next hop.
func (v *view) session(peer *config.Peer, routes []bgp.Route) (*bgp.Session, error) {
	resolved, err := v.peer(peer, v.Node)
	if err != nil {
		return nil, err
	}
	hops, err := v.nextHops(&resolved)
	routes, missing := withNextHops(routes, resolved.Families, hops)
	return &bgp.Session{Peer: resolved, Routes: routes}, cmp.Or(err, missing)
}

// peer fills in what each node has for itself, the router ID and the password. Its errors say why the node has no session with the peer.
func (v *view) peer(peer *config.Peer, node string) (bgp.Peer, error) {
	p := peer.Peer
	if !p.RouterID.IsValid() {
		p.RouterID = v.Nodes[node].RouterID
	}
	if !p.RouterID.IsValid() {
		p.RouterID = bgp.RouterID(node)
	}
	if peer.PasswordSecret != nil && v.Password != nil {
		password, err := v.Password(*peer.PasswordSecret)
		if err != nil {
			return p, fmt.Errorf("spec.passwordSecret: %w", err)
		}
		p.Password = password
	}
	return p, p.Validate()
}

// nextHops returns the addresses of this node, one of each family that it has, to which a peer is to send. While there is no route to the
// peer they are those of the last path to it, and there is an error as well: what the peer has been told stays true while the route flaps,
// and if it does not come back, the hold time ends the session.
func (v *view) nextHops(peer *bgp.Peer) (map[family.Family]netip.Addr, error) {
	path := v.Paths[peer.Address]
	hops := path.Addresses
	// Where the user says which address the session comes from, that address is where traffic is to go.
	if source := peer.SourceAddress; source.Is4() || source.Is6() && !source.IsLinkLocalUnicast() {
		hops = maps.Clone(hops)
		if hops == nil {
			hops = map[family.Family]netip.Addr{}
		}
		hops[family.Of(source)] = source
	}
	if path.Err != nil {
		return hops, fmt.Errorf("no route to the peer: %w", path.Err)
	}
	return hops, nil
}

// nextHop returns which of the next hops a prefix of a family gets: one of the family or, on a link without IPv4, an IPv6 one for an IPv4
// prefix (RFC 8950).
func nextHop(hops map[family.Family]netip.Addr, f family.Family) (netip.Addr, bool) {
	if hop, ok := hops[f]; ok {
		return hop, true
	}
	hop, ok := hops[family.IPv6]
	return hop, ok
}

// withNextHops fills in, in place, the next hops of the routes whose families the session carries, and says which routes it leaves out
// because the node has no address of their family on the peer's link.
func withNextHops(routes []bgp.Route, families []family.Family, hops map[family.Family]netip.Addr) ([]bgp.Route, error) {
	filled := routes[:0]
	missing := map[family.Family]int{}
	for _, route := range routes {
		if !slices.Contains(families, route.Family()) {
			continue
		}
		hop, ok := nextHop(hops, route.Family())
		if !ok {
			missing[route.Family()]++
			continue
		}
		route.NextHop = hop
		filled = append(filled, route)
	}
	var errs []error
	for _, af := range slices.Sorted(maps.Keys(missing)) {
		errs = append(errs, fmt.Errorf("%d %s prefixes are not announced: this node has no %s address on the peer's link",
			missing[af], af, af))
	}
	return filled, errors.Join(errs...)
}

// bfdSession decides the BFD session that watches a peer. While there is no route to the peer, it is watched on the last path to it, where
// BFD finds it dead.
func (v *view) bfdSession(peer bgp.Peer, profile *config.BFD) (bfd.Session, error) {
	path := v.Paths[peer.Address]
	if path.Err != nil && path.Interface == "" { // there never was one
		return bfd.Session{}, fmt.Errorf("no BFD: %w", path.Err)
	}
	session := bfdSessionOn(path, peer, profile)
	if !session.Local.IsValid() {
		return bfd.Session{}, fmt.Errorf("no BFD: interface %s has no address to send from", path.Interface)
	}
	return session, nil
}

// bfdSessionOn returns the BFD session that watches a peer over a path. An external peer is several hops away if its BGPPeer says so, by
// ebgpMultiHop or ttlSecurityHops, whatever the path is. A BGPPeer does not say how far away an internal peer is, so that the path decides.
// For example, 198.51.100.1 of our own AS is watched on the link from 198.51.100.11/24, and 203.0.113.1 behind a router over several hops.
func bfdSessionOn(path link.Path, peer bgp.Peer, profile *config.BFD) bfd.Session {
	local := peer.SourceAddress
	if !local.IsValid() {
		local = path.Source
	}
	internal := peer.PeerASN == peer.LocalASN || peer.Dynamic == bgp.Internal
	return bfd.Session{
		Name: peer.Name, Remote: peer.Address, Local: local,
		Multihop:   peer.EBGPMultiHop || peer.TTLSecurityHops > 1 || internal && !path.OnLink,
		MinimumTTL: profile.MinimumTTL, Params: profile.Params,
	}
}

// routes returns what a peer is to be told by this node, without next hops.
func (v *view) routes(peer *config.Peer) []bgp.Route {
	node, ok := v.Nodes[v.Node]
	if !ok || node.Excluded {
		return nil
	}
	byPrefix := make(map[netip.Prefix]bgp.Route, len(v.Services))
	for i := range v.Config.BGP {
		ad := &v.Config.BGP[i]
		if !ad.Nodes.Matches(node.Labels) || !isFor(ad, peer) {
			continue
		}
		for j := range v.Services {
			svc := &v.Services[j]
			for _, address := range svc.Addresses {
				if ad.Selects(address.Pool, svc.Labels) && svc.servedFrom(v.Node, address.IP) {
					merge(byPrefix, ad, address.IP)
				}
			}
		}
	}
	routes := slices.AppendSeq(make([]bgp.Route, 0, len(byPrefix)), maps.Values(byPrefix))
	slices.SortFunc(routes, func(a, b bgp.Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return routes
}

// isFor reports whether an advertisement is for a peer.
func isFor(ad *config.BGPAdvertisement, peer *config.Peer) bool {
	return ad.Peers == nil || ad.Peers[peer.Name]
}

// prefixOf returns the prefix in which an advertisement announces an address.
func prefixOf(ad *config.BGPAdvertisement, ip netip.Addr) netip.Prefix {
	length := ad.LengthIPv4
	if family.Of(ip) == family.IPv6 {
		length = ad.LengthIPv6
	}
	return netip.PrefixFrom(ip, length).Masked()
}

// merge adds the prefix of an address. Where two advertisements come to the same prefix, the peer is told it once, with the communities
// of both and each other attribute of the first by name that sets it.
func merge(byPrefix map[netip.Prefix]bgp.Route, ad *config.BGPAdvertisement, ip netip.Addr) {
	prefix := prefixOf(ad, ip)
	route := byPrefix[prefix]
	route.Prefix = prefix
	route.LocalPref, route.MED = cmp.Or(route.LocalPref, ad.LocalPref), cmp.Or(route.MED, ad.MED)
	route.Prepend = cmp.Or(route.Prepend, ad.ASPathPrepend)
	for _, c := range ad.Communities {
		if !slices.Contains(route.Communities, c) {
			route.Communities = append(route.Communities, c)
		}
	}
	byPrefix[prefix] = route
}
