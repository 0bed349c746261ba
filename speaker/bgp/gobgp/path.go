// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"reflect"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// normalRoute returns the route with its communities sorted and without repetition, so that equal routes compare equal.
func normalRoute(r bgp.Route) bgp.Route {
	communities := slices.Clone(r.Communities)
	slices.SortFunc(communities, bgp.Community.Compare)
	if r.Communities = slices.Compact(communities); len(r.Communities) == 0 {
		r.Communities = nil
	}
	return r
}

// equalRoutes reports whether two normal routes are the same.
func equalRoutes(r, q bgp.Route) bool { return reflect.DeepEqual(r, q) }

// newPath returns the route with the attributes that the peer may be told, in GoBGP's terms.
func newPath(r bgp.Route, peer bgp.Peer) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(r.Prefix)
	if err != nil {
		return nil, err
	}
	af := packet.RF_IPv4_UC
	if r.Family() == family.IPv6 {
		af = packet.RF_IPv6_UC
	}
	attrs := []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if af == packet.RF_IPv4_UC && r.NextHop.Is4() {
		nextHop, err := packet.NewPathAttributeNextHop(r.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, nextHop)
	} else {
		reach, err := packet.NewPathAttributeMpReachNLRI(af, []packet.PathNLRI{{NLRI: nlri}}, r.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, reach)
	}
	if peer.IsExternal() && r.Prepend > 0 {
		segment := packet.NewAs4PathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ,
			slices.Repeat([]uint32{peer.LocalASN}, int(r.Prepend)))
		attrs = append(attrs, packet.NewPathAttributeAsPath([]packet.AsPathParamInterface{segment}))
	}
	if r.LocalPref != nil && !peer.IsExternal() {
		attrs = append(attrs, packet.NewPathAttributeLocalPref(*r.LocalPref))
	}
	if r.MED != nil {
		attrs = append(attrs, packet.NewPathAttributeMultiExitDisc(*r.MED))
	}
	var standard []uint32
	var large []*packet.LargeCommunity
	for _, c := range r.Communities {
		if c.Large {
			large = append(large, packet.NewLargeCommunity(c.A, c.B, c.C))
		} else {
			standard = append(standard, c.A<<16|c.B)
		}
	}
	if len(standard) > 0 {
		attrs = append(attrs, packet.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attrs = append(attrs, packet.NewPathAttributeLargeCommunities(large))
	}
	return &apiutil.Path{Family: af, Nlri: nlri, Attrs: attrs}, nil
}
