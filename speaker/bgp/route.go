// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/community"
)

// Route is a prefix as one peer shall hear it.
type Route struct {
	Prefix netip.Prefix
	// NextHop is where the peer shall send the packets: this node's own address on the peer's link. It has the prefix's
	// family, or is IPv6 for an IPv4 prefix (RFC 8950).
	NextHop netip.Addr
	// LocalPref is sent to internal peers only, 100 where it is nil (RFC 4271 §5.1.5).
	LocalPref *uint32
	MED       *uint32
	// Prepend is how many times the local AS is added to the one time it always is. Internal peers see none of it: they
	// would find their own AS in the path and take it for a loop (RFC 4271 §9.1.2).
	Prepend     uint8
	Communities []community.Community
}

// Family returns the family of the prefix.
func (r Route) Family() family.Family { return family.Of(r.Prefix.Addr()) }

// Validate reports why a route cannot be announced.
func (r Route) Validate() error {
	switch p := r.Prefix; {
	case !p.IsValid():
		return errors.New("a route without a prefix")
	case p.Addr().Is4In6():
		return fmt.Errorf("prefix %v is IPv4 in IPv6 form", p)
	case p != p.Masked():
		return fmt.Errorf("prefix %v has host bits: it would be %v", p, p.Masked())
	}
	switch nh := r.NextHop; {
	case !nh.IsValid():
		return fmt.Errorf("prefix %v has no next hop", r.Prefix)
	case nh.Is4In6():
		return fmt.Errorf("prefix %v: next hop %v is IPv4 in IPv6 form, which routers accept and cannot forward to",
			r.Prefix, nh)
	case nh.IsUnspecified() || nh.IsMulticast() || nh.IsLoopback() || nh.Is6() && nh.IsLinkLocalUnicast():
		return fmt.Errorf("prefix %v: next hop %v is not an address the peer can forward to", r.Prefix, nh)
	case r.Family() == family.IPv6 && nh.Is4():
		return fmt.Errorf("prefix %v: an IPv6 prefix needs an IPv6 next hop, not %v", r.Prefix, nh)
	}
	return nil
}

// extendedNextHop reports whether the route needs the capability of RFC 8950.
func (r Route) extendedNextHop() bool { return r.Family() == family.IPv4 && r.NextHop.Is6() }

// normal returns the route with its communities in an order of their own and without repetition, so that equal routes
// compare equal.
func (r Route) normal() Route {
	communities := slices.Clone(r.Communities)
	slices.SortFunc(communities, community.Compare)
	if r.Communities = slices.Compact(communities); len(r.Communities) == 0 {
		r.Communities = nil
	}
	return r
}

func (r Route) equal(q Route) bool { return reflect.DeepEqual(r, q) }

// path returns the route with the attributes that peer may hear.
func (r Route) path(peer Peer) (*apiutil.Path, error) {
	nlri, err := gobgp.NewIPAddrPrefix(r.Prefix)
	if err != nil {
		return nil, err
	}
	af := gobgp.RF_IPv4_UC
	if r.Family() == family.IPv6 {
		af = gobgp.RF_IPv6_UC
	}
	attrs := []gobgp.PathAttributeInterface{gobgp.NewPathAttributeOrigin(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if af == gobgp.RF_IPv4_UC && r.NextHop.Is4() {
		nextHop, err := gobgp.NewPathAttributeNextHop(r.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, nextHop)
	} else {
		reach, err := gobgp.NewPathAttributeMpReachNLRI(af, []gobgp.PathNLRI{{NLRI: nlri}}, r.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, reach)
	}
	if peer.external() && r.Prepend > 0 {
		segment := gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ,
			slices.Repeat([]uint32{peer.LocalASN}, int(r.Prepend)))
		attrs = append(attrs, gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{segment}))
	}
	if r.LocalPref != nil && !peer.external() {
		attrs = append(attrs, gobgp.NewPathAttributeLocalPref(*r.LocalPref))
	}
	if r.MED != nil {
		attrs = append(attrs, gobgp.NewPathAttributeMultiExitDisc(*r.MED))
	}
	var standard []uint32
	var large []*gobgp.LargeCommunity
	for _, c := range r.Communities {
		if c.Large {
			large = append(large, gobgp.NewLargeCommunity(c.A, c.B, c.C))
		} else {
			standard = append(standard, c.A<<16|c.B)
		}
	}
	if len(standard) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeLargeCommunities(large))
	}
	return &apiutil.Path{Family: af, Nlri: nlri, Attrs: attrs}, nil
}
