// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

// decideBGP fills in Peers, BGP, BFD, Problems and Doubts. What routes returns is its own.
func (v *view) decideBGP(d *Desired, routes func(*config.Peer) []bgp.Route) {
	node := v.Nodes[v.Node]
	for i := range v.Config.Peers {
		peer := &v.Config.Peers[i]
		if !peer.Nodes.Matches(node.Labels) {
			continue
		}
		d.Peers = append(d.Peers, *peer)
		if v.NotForwarding {
			d.Problems[peer.Name] = "kube-proxy of this node does not forward yet"
			continue
		}
		session, err := v.session(peer, routes(peer), d)
		if err != nil {
			d.Problems[peer.Name] = err.Error()
		}
		if session == nil {
			continue
		}
		d.Peers[len(d.Peers)-1].Peer.Address = session.Peer.Address
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
func (v *view) session(peer *config.Peer, routes []bgp.Route, d *Desired) (*bgp.Session, error) {
	resolved, problem, ok := v.peer(peer, v.Node)
	if !ok {
		return nil, problem
	}
	path := v.Paths[destination(&resolved)]
	if path.Own {
		return nil, fmt.Errorf("spec.peerAddress: %s is this node, and a router there takes no next hop that is its own; "+
			"have it redistribute an InterfaceAdvertisement, and leave this node out of nodeSelectors", resolved.Address)
	}
	if v.Leaving {
		leastPreferred(routes)
	}
	hops, err := v.nextHops(&resolved)
	routes, missing := withNextHops(routes, resolved.Families, hops)
	withLinkLocal(routes, &resolved, path)
	if len(missing) > 0 {
		d.NoNextHop[peer.Name] = missing
	}
	if tooFar(&resolved, path) {
		d.Doubts[peer.Name] = "the peer is behind a router: set spec.ebgpMultiHop, and allow several hops on the peer too"
	}
	return &bgp.Session{Peer: resolved, Routes: routes}, cmp.Or(problem, err, sayMissing(missing))
}

// peer fills in what each node has for itself. Without a session with the peer, ok is false and the problem says why; with one, there may be
// a problem all the same. What another node finds on its links is not known here, and its peer is then returned without it.
func (v *view) peer(peer *config.Peer, name string) (p bgp.Peer, problem error, ok bool) {
	p = peer.Peer
	node := v.Nodes[name]
	if node.BGP.ASN != 0 {
		p.LocalASN = node.BGP.ASN
		if peer.Dynamic == bgp.Internal {
			p.PeerASN = node.BGP.ASN
		}
	}
	p.RouterID = firstValid(node.BGP.RouterID, p.RouterID)
	if !p.RouterID.IsValid() && name == v.Node {
		p.RouterID = v.RouterID
	}
	if p.RouterID = firstValid(p.RouterID, node.RouterID); !p.RouterID.IsValid() {
		p.RouterID = bgp.RouterID(name)
	}
	found := peer.Gateway != "" || p.Unnumbered
	if name != v.Node && found {
		return p, nil, true
	}
	if end := v.Ends[peer.Name]; name == v.Node {
		p.Address, problem = v.addressOf(peer), end.Err
		if p.Unnumbered {
			problem = cmp.Or(v.Neighbors[p.Interface].Err, fmt.Errorf("the router on %s is still looked for", p.Interface))
			if p.Address.IsValid() {
				problem = v.Neighbors[p.Interface].Err
			}
		}
		if !p.Address.IsValid() {
			return p, problem, false
		}
		if peer.SourceInterface != "" {
			if p.SourceAddress = end.Source; !p.SourceAddress.IsValid() {
				return p, problem, false
			}
		}
	}
	if source, ok := node.BGP.Sources[family.Of(p.Address)]; ok && !isLinkLocal(p.Address) {
		p.SourceAddress = source
	}
	if peer.PasswordSecret != nil && v.Password != nil {
		password, err := v.Password(*peer.PasswordSecret)
		if err != nil {
			problem = fmt.Errorf("spec.passwordSecret: %w", err)
		}
		if p.Password = password; err != nil && password == "" {
			return p, problem, false
		}
	}
	if err := p.Validate(); err != nil {
		return p, err, false
	}
	return p, problem, true
}

func firstValid(addresses ...netip.Addr) netip.Addr {
	for _, a := range addresses {
		if a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

// tooFar reports whether an external peer is behind a router and its BGPPeer does not say so. The session comes up all the same where a static
// route leads to a peer on the link, or the peer sends with a TTL above 1.
func tooFar(peer *bgp.Peer, path link.Path) bool {
	return path.Err == nil && path.Interface != "" && !path.OnLink && peer.IsExternal() && !peer.EBGPMultiHop && peer.TTLSecurityHops <= 1
}

// nextHops returns the addresses of this node, one of each family that it has, to which a peer is to send. While there is no route to the
// peer they are those of the last path to it, and there is an error as well: what the peer has been told stays true while the route flaps,
// and if it does not come back, the hold time ends the session.
//
// A peer that is reached by its link-local address reaches this node by its own: always if it is unnumbered, since the router may have no subnet on
// the link, and else where the node has no global IPv6 address there. A node may also have its addresses on lo, as 192.0.2.11/32, and none on
// eth0: a peer that is internal, or several hops away, knows a route to the InternalIP of the Node.
func (v *view) nextHops(peer *bgp.Peer) (map[family.Family]netip.Addr, error) {
	path := v.Paths[destination(peer)]
	hops := map[family.Family]netip.Addr{}
	if !peer.Unnumbered && (peer.EBGPMultiHop || peer.TTLSecurityHops > 1 || !peer.IsExternal()) {
		maps.Copy(hops, v.Nodes[v.Node].InternalIPs)
	}
	if isLinkLocal(path.Source) {
		hops[family.IPv6] = path.Source
	}
	if !peer.Unnumbered {
		maps.Copy(hops, path.Addresses)
	}
	// Where the user says which address the session comes from, that address is where traffic is to go.
	if source := peer.SourceAddress; source.IsValid() && !isLinkLocal(source) {
		hops[family.Of(source)] = source
	}
	if path.Err != nil {
		return hops, fmt.Errorf("no route to the peer: %w", path.Err)
	}
	return hops, nil
}

// isLinkLocal reports whether an address is an IPv6 one that means something on one link only.
func isLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// leastPreferred has peers send by another node while there is one, whatever advertisements say of either. Some routers act on the community of RFC 8326 by themselves; the length
// of the AS path and the discriminator are for those that do not.
func leastPreferred(routes []bgp.Route) {
	for i := range routes {
		r := &routes[i]
		if !slices.Contains(r.Communities, bgp.GracefulShutdown) {
			r.Communities = append(slices.Clip(r.Communities), bgp.GracefulShutdown)
		}
		r.LocalPref, r.MED = new(uint32), new(uint32(math.MaxUint32))
		r.Prepend = max(r.Prepend, leavingPrepend)
	}
}

// leavingPrepend is how often the AS is prepended to routes of a node that leaves: by more than the paths of one fabric differ, which is 3, more
// often than an advertisement for other nodes may do it, which is 10.
const leavingPrepend = 13

// Yield returns sessions in whose routes peers prefer any other node.
func Yield(sessions []bgp.Session) []bgp.Session {
	yielding := slices.Clone(sessions)
	for i := range yielding {
		yielding[i].Routes = slices.Clone(yielding[i].Routes)
		leastPreferred(yielding[i].Routes)
	}
	return yielding
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

// withNextHops fills in, in place, the next hops of the routes whose families the session carries, and returns apart those that are missing,
// because the node has no address of their family on the peer's link.
func withNextHops(routes []bgp.Route, families []family.Family, hops map[family.Family]netip.Addr) (filled, missing []bgp.Route) {
	filled = routes[:0]
	for _, route := range routes {
		if !slices.Contains(families, route.Family()) {
			continue
		}
		hop, ok := nextHop(hops, route.Family())
		if !ok {
			missing = append(missing, route)
			continue
		}
		route.NextHop = hop
		filled = append(filled, route)
	}
	return filled, missing
}

// withLinkLocal fills in, in place, the link-local addresses that a peer is told beside next hops. RFC 2545 §3 wants one where the peer and the next hop
// are on one link, and none otherwise. For example the peer is 2001:db8:51::1 on eth0: the next hop 2001:db8:51::11 of eth0 has fe80::11 beside it,
// and 2001:db8:ffff::11 of lo has none. MetalLB with FRR says the same, so that a router's next hops stay when a session changes hands.
func withLinkLocal(routes []bgp.Route, peer *bgp.Peer, path link.Path) {
	for i := range routes {
		routes[i].LinkLocal = netip.Addr{}
		if hop := routes[i].NextHop; hop.Is6() && !isLinkLocal(hop) && path.OnLink && !peer.EBGPMultiHop && hop == path.Addresses[family.IPv6] {
			routes[i].LinkLocal = path.LinkLocal
		}
	}
}

// sayMissing says how many routes have no next hop, nil for none.
func sayMissing(missing []bgp.Route) error {
	counts := map[family.Family]int{}
	for i := range missing {
		counts[missing[i].Family()]++
	}
	var errs []error
	for _, af := range slices.Sorted(maps.Keys(counts)) {
		errs = append(errs, fmt.Errorf("%d %s prefixes are not announced: this node has no %s address on the peer's link", counts[af], af, af))
	}
	return errors.Join(errs...)
}

// bfdSession decides the BFD session that watches a peer. While there is no route to the peer, it is watched on the last path to it, where
// BFD finds it dead.
func (v *view) bfdSession(peer bgp.Peer, profile *config.BFD) (bfd.Session, error) {
	path := v.Paths[destination(&peer)]
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
	byPrefix := make(map[netip.Prefix]bgp.Route, len(v.Services))
	for i := range v.Config.BGP {
		for j := range v.Services {
			v.contribute(&v.Services[j], peer, i, func(ad *config.BGPAdvertisement, _ Address, prefix netip.Prefix) { merge(byPrefix, ad, prefix) })
		}
	}
	routes := slices.AppendSeq(make([]bgp.Route, 0, len(byPrefix)), maps.Values(byPrefix))
	slices.SortFunc(routes, compareRoutes)
	return routes
}

func compareRoutes(a, b bgp.Route) int { return comparePrefixes(a.Prefix, b.Prefix) }

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// isFor reports whether an advertisement is for a peer.
func isFor(ad *config.BGPAdvertisement, peer *config.Peer) bool {
	return ad.Peers == nil || ad.Peers[peer.Name]
}

// carries reports whether an advertisement is for addresses of a family.
func carries(ad *config.BGPAdvertisement, f family.Family) bool {
	return len(ad.Families) == 0 || slices.Contains(ad.Families, f)
}

// prefixes returns those in which a node announces an address of a Service to a peer. Beside the prefix of a local Service there is always
// the address alone: another node may announce the same prefix for another Service, and routers go by the longest one.
func (v *view) prefixes(ad *config.BGPAdvertisement, svc *Service, address Address, node string, peer *config.Peer) []netip.Prefix {
	length := ad.LengthIPv4
	if family.Of(address.IP) == family.IPv6 {
		length = ad.LengthIPv6
	}
	host := netip.PrefixFrom(address.IP, address.IP.BitLen())
	prefix := v.aggregate(address, length, node)
	switch {
	case prefix == host || prefix.Contains(v.addressOf(peer)):
		return []netip.Prefix{host}
	case svc.Local:
		return []netip.Prefix{prefix, host}
	}
	return []netip.Prefix{prefix}
}

// addressOf returns the address of a peer, the zero Addr if it is not known.
func (v *view) addressOf(peer *config.Peer) netip.Addr {
	switch {
	case peer.Peer.Address.IsValid():
		return peer.Peer.Address
	case peer.Peer.Unnumbered:
		return v.Neighbors[peer.Peer.Interface].Address
	}
	return v.Ends[peer.Name].Address
}

// aggregate returns the prefix of a length in which an address may be announced by a node, or else the address alone: where the prefix has
// addresses that are not of the pool, a subnet of the node, or an address of any node. For example 198.51.100.0/24 would draw the whole LAN
// of a node with 198.51.100.11/24 to it.
func (v *view) aggregate(address Address, length int, node string) netip.Prefix {
	prefix := netip.PrefixFrom(address.IP, length).Masked()
	pool := v.Config.Pools[address.Pool]
	if pool == nil || length >= address.IP.BitLen() || !pool.ContainsPrefix(prefix) || v.swallows(prefix, node) {
		return netip.PrefixFrom(address.IP, address.IP.BitLen())
	}
	return prefix
}

// nodePrefix is a prefix that a node would announce.
type nodePrefix struct {
	node   string
	prefix netip.Prefix
}

// swallows reports whether a prefix has a subnet of the node in it, or an address of any node.
func (v *view) swallows(prefix netip.Prefix, node string) bool {
	key := nodePrefix{node, prefix}
	swallows, known := v.swallowing[key]
	if known {
		return swallows
	}
	n := v.Nodes[node]
	_, swallows = n.findSubnet(func(p netip.Prefix) bool { return prefix.Bits() <= p.Bits() && prefix.Contains(p.Addr()) })
	for _, n := range v.Nodes {
		for _, ip := range n.InternalIPs {
			swallows = swallows || prefix.Contains(ip)
		}
	}
	if v.swallowing == nil {
		v.swallowing = map[nodePrefix]bool{}
	}
	v.swallowing[key] = swallows
	return swallows
}

// merge adds a prefix. Where two advertisements come to the same one, the peer is told it once, with the communities of both and each other
// attribute of the first by name that sets it.
func merge(byPrefix map[netip.Prefix]bgp.Route, ad *config.BGPAdvertisement, prefix netip.Prefix) {
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
