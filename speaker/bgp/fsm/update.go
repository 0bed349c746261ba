// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// attributes is what a peer is told of a route besides its prefix. Routes with equal attributes share UPDATEs, and a route whose attributes
// have not changed needs none.
type attributes struct {
	nextHop     netip.Addr // without a zone
	linkLocal   netip.Addr // beside a global nextHop, without a zone; the zero Addr for none
	prepend     uint8      // 0 on an internal session
	localPref   uint32     // 0 on an external session
	hasMED      bool
	med         uint32
	communities string // sorted, without repetition, as packed by packCommunities
}

// attributesOf returns what the peer is told of a route.
func attributesOf(r bgp.Route, peer bgp.Peer) attributes {
	a := attributes{nextHop: r.NextHop.WithZone(""), linkLocal: r.LinkLocal.WithZone(""), communities: packCommunities(r.Communities)}
	if r.MED != nil {
		a.hasMED, a.med = true, *r.MED
	}
	switch {
	case peer.IsExternal():
		a.prepend = r.Prepend
	case r.LocalPref != nil:
		a.localPref = *r.LocalPref
	default:
		a.localPref = 100 // RFC 4271 §9.1.1: what a speaker without another preference says
	}
	return a
}

// sameButPrefix reports whether two routes are written the same but for their prefixes, and so have the same attributes. It compares pointers,
// since the routes of one advertisement share what they point to.
func sameButPrefix(r, q bgp.Route) bool {
	return r.NextHop == q.NextHop && r.LinkLocal == q.LinkLocal && r.LocalPref == q.LocalPref && r.MED == q.MED && r.Prepend == q.Prepend &&
		slices.Equal(r.Communities, q.Communities)
}

// route returns the route that the attributes are those of, as the peer is told it.
func (a attributes) route(prefix netip.Prefix, peer bgp.Peer) bgp.Route {
	r := bgp.Route{Prefix: prefix, NextHop: a.nextHop, LinkLocal: a.linkLocal, Prepend: a.prepend}
	if a.hasMED {
		r.MED = &a.med
	}
	if !peer.IsExternal() {
		r.LocalPref = &a.localPref
	}
	for c := range slices.Chunk([]byte(a.communities), packedCommunity) {
		r.Communities = append(r.Communities, unpackCommunity(c))
	}
	return r
}

const packedCommunity = 1 + 3*4 // bytes

// packCommunities returns communities as a string, which compares. Unlike a slice it can be in the key of a map.
func packCommunities(communities []bgp.Community) string {
	if len(communities) == 0 {
		return ""
	}
	communities = slices.Clone(communities)
	slices.SortFunc(communities, bgp.Community.Compare)
	packed := make([]byte, 0, packedCommunity*len(communities))
	for _, c := range slices.Compact(communities) {
		large := byte(0)
		if c.Large {
			large = 1
		}
		packed = append(packed, large)
		for _, n := range []uint32{c.A, c.B, c.C} {
			packed = binary.BigEndian.AppendUint32(packed, n)
		}
	}
	return string(packed)
}

func unpackCommunity(b []byte) bgp.Community {
	return bgp.Community{
		Large: b[0] == 1, A: binary.BigEndian.Uint32(b[1:]), B: binary.BigEndian.Uint32(b[5:]), C: binary.BigEndian.Uint32(b[9:]),
	}
}

// unpack returns the standard and the large communities in GoBGP's terms.
func (a attributes) unpack() (standard []uint32, large []*packet.LargeCommunity) {
	for b := range slices.Chunk([]byte(a.communities), packedCommunity) {
		if c := unpackCommunity(b); c.Large {
			large = append(large, packet.NewLargeCommunity(c.A, c.B, c.C))
		} else {
			standard = append(standard, c.A<<16|c.B)
		}
	}
	return standard, large
}

// asPath returns the AS_PATH and, for a peer that reads AS numbers of two octets only, the AS4_PATH where ours does not fit (RFC 6793 §4.2.2).
func asPath(asn uint32, times int, fourOctets bool) []packet.PathAttributeInterface {
	const mostInSegment = 255
	var long []*packet.As4PathParam
	var params []packet.AsPathParamInterface
	for segment := range slices.Chunk(slices.Repeat([]uint32{asn}, times), mostInSegment) {
		long = append(long, packet.NewAs4PathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, segment))
		short := uint16(packet.AS_TRANS)
		if asn <= 65535 {
			short = uint16(asn)
		}
		if fourOctets {
			params = append(params, long[len(long)-1])
		} else {
			params = append(params, packet.NewAsPathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, slices.Repeat([]uint16{short}, len(segment))))
		}
	}
	path := []packet.PathAttributeInterface{packet.NewPathAttributeAsPath(params)}
	if !fourOctets && asn > 65535 && len(long) > 0 {
		path = append(path, packet.NewPathAttributeAs4Path(long))
	}
	return path
}

// path returns the attributes of a path in GoBGP's terms, in the order of their types, but for those that hold the next hop.
func (a attributes) path(peer bgp.Peer, fourOctets bool) []packet.PathAttributeInterface {
	attrs := []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if peer.IsExternal() {
		attrs = append(attrs, asPath(peer.LocalASN, 1+int(a.prepend), fourOctets)...)
	} else {
		attrs = append(attrs, asPath(peer.LocalASN, 0, fourOctets)...)
		attrs = append(attrs, packet.NewPathAttributeLocalPref(a.localPref))
	}
	if a.hasMED {
		attrs = append(attrs, packet.NewPathAttributeMultiExitDisc(a.med))
	}
	standard, large := a.unpack()
	if len(standard) > 0 {
		attrs = append(attrs, packet.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attrs = append(attrs, packet.NewPathAttributeLargeCommunities(large))
	}
	slices.SortStableFunc(attrs, func(a, b packet.PathAttributeInterface) int { return int(a.GetType()) - int(b.GetType()) })
	return attrs
}

// errTooLong is returned for attributes that leave no room for a prefix in a message.
var errTooLong = errors.New("the attributes do not fit into an UPDATE: it has too many communities")

// What an UPDATE has besides attributes and prefixes: its header and the two fields with lengths (RFC 4271 §4.3). And what MP_REACH_NLRI and
// MP_UNREACH_NLRI have besides prefixes: the header of a long attribute, the family, and the former an IPv6 next hop with its length and a
// reserved byte (RFC 4760 §3, §4), and maybe a link-local address (RFC 2545 §3).
const (
	updateOverhead  = packet.BGP_HEADER_LENGTH + 2 + 2
	reachOverhead   = 4 + 3 + 1 + packet.BGP_ATTR_NHLEN_IPV6_GLOBAL + 1
	unreachOverhead = 4 + 3

	linkLocalOverhead = packet.BGP_ATTR_NHLEN_IPV6_GLOBAL_AND_LL - packet.BGP_ATTR_NHLEN_IPV6_GLOBAL
)

// announcements returns the UPDATEs that announce prefixes of one family with these attributes, each as full as 4,096 bytes allow.
//
// An IPv4 prefix with an IPv4 next hop is in the fields that BGP has for it since RFC 4271, anything else in an MP_REACH_NLRI, which is the
// first attribute (RFC 7606 §5.1).
func announcements(peer bgp.Peer, fourOctets bool, a attributes, f family.Family, prefixes []netip.Prefix) ([]update, error) {
	attrs := a.path(peer, fourOctets)
	multiprotocol := a.multiprotocol(f)
	room := packet.BGP_MAX_MESSAGE_LENGTH - updateOverhead
	if multiprotocol {
		room -= reachOverhead
		if a.linkLocal.IsValid() {
			room -= linkLocalOverhead
		}
	} else {
		hop, err := packet.NewPathAttributeNextHop(a.nextHop)
		if err != nil {
			return nil, err
		}
		attrs = slices.Insert(attrs, 2, packet.PathAttributeInterface(hop)) // after ORIGIN and AS_PATH
	}
	for _, attr := range attrs {
		room -= attr.Len()
	}
	return pack(prefixes, room, func(nlri []packet.PathNLRI) (*packet.BGPMessage, error) {
		if !multiprotocol {
			return packet.NewBGPUpdateMessage(nil, attrs, nlri), nil
		}
		reach, err := packet.NewPathAttributeMpReachNLRI(unicast[f], nlri, a.nextHop, a.linkLocal)
		if err != nil {
			return nil, err
		}
		return packet.NewBGPUpdateMessage(nil, slices.Insert(slices.Clone(attrs), 0, packet.PathAttributeInterface(reach)), nil), nil
	})
}

// multiprotocol reports whether a prefix of a family is sent as RFC 4760 has it.
func (a attributes) multiprotocol(f family.Family) bool { return f == family.IPv6 || a.nextHop.Is6() }

// withdrawals returns the UPDATEs that withdraw prefixes of one family, in the fields that are like those they were announced in. Routers take IPv4
// prefixes from both, as far as is known; they send them like this.
func withdrawals(f family.Family, multiprotocol bool, prefixes []netip.Prefix) ([]update, error) {
	if !multiprotocol {
		return pack(prefixes, packet.BGP_MAX_MESSAGE_LENGTH-updateOverhead, func(nlri []packet.PathNLRI) (*packet.BGPMessage, error) {
			return packet.NewBGPUpdateMessage(nlri, nil, nil), nil
		})
	}
	return pack(prefixes, packet.BGP_MAX_MESSAGE_LENGTH-updateOverhead-unreachOverhead, func(nlri []packet.PathNLRI) (*packet.BGPMessage, error) {
		unreach, err := packet.NewPathAttributeMpUnreachNLRI(unicast[f], nlri)
		if err != nil {
			return nil, err
		}
		return packet.NewBGPUpdateMessage(nil, []packet.PathAttributeInterface{unreach}, nil), nil
	})
}

// update is a message with the prefixes that it is about.
type update struct {
	message  []byte
	prefixes []netip.Prefix
}

// pack puts prefixes into as few messages as have so many bytes of room for them.
func pack(prefixes []netip.Prefix, room int, message func([]packet.PathNLRI) (*packet.BGPMessage, error)) ([]update, error) {
	var updates []update
	for len(prefixes) > 0 {
		var nlri []packet.PathNLRI
		size := 0
		for _, prefix := range prefixes {
			p, err := packet.NewIPAddrPrefix(prefix)
			if err != nil {
				return nil, fmt.Errorf("prefix %v: %w", prefix, err)
			}
			if size += p.Len(); size > room {
				break
			}
			nlri = append(nlri, packet.PathNLRI{NLRI: p})
		}
		if len(nlri) == 0 {
			return nil, errTooLong
		}
		m, err := message(nlri)
		if err != nil {
			return nil, err
		}
		b, err := m.Serialize()
		if err != nil {
			return nil, err
		}
		updates = append(updates, update{b, prefixes[:len(nlri)]})
		prefixes = prefixes[len(nlri):]
	}
	return updates, nil
}
