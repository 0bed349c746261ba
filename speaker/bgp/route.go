// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Route is a prefix as one peer is told it.
type Route struct {
	Prefix netip.Prefix
	// NextHop is where the peer is to send the packets: this node's own address on the peer's link. It has the prefix's
	// family, or is IPv6 for an IPv4 prefix (RFC 8950). It may be link-local where the peer's address is.
	NextHop netip.Addr
	// LinkLocal is this node's link-local address on the link that it shares with the peer, which the peer is told beside a global IPv6
	// NextHop of that link (RFC 2545 §3); the zero Addr for none. A router that prefers it, as FRR does, forwards to it.
	LinkLocal netip.Addr
	// LocalPref is sent to internal peers only, 100 where it is nil (RFC 4271 §5.1.5).
	LocalPref *uint32
	MED       *uint32
	// Prepend is how many times the local AS is added to the one time it always is. Internal peers see none of it: they
	// would find their own AS in the path and take it for a loop (RFC 4271 §9.1.2).
	Prepend     uint8
	Communities []Community
}

// Family returns the family of the prefix.
func (r Route) Family() family.Family { return family.Of(r.Prefix.Addr()) }

// Validate reports why a route cannot be announced to a peer.
func (r Route) Validate(to Peer) error {
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
	case nh.IsUnspecified() || nh.IsMulticast() || nh.IsLoopback(), isLinkLocal(nh) && !isLinkLocal(to.Address):
		return fmt.Errorf("prefix %v: next hop %v is not an address the peer can forward to", r.Prefix, nh)
	case r.Family() == family.IPv6 && nh.Is4():
		return fmt.Errorf("prefix %v: an IPv6 prefix needs an IPv6 next hop, not %v", r.Prefix, nh)
	case r.LinkLocal.IsValid() && (!isLinkLocal(r.LinkLocal) || !nh.Is6() || isLinkLocal(nh)):
		return fmt.Errorf("prefix %v: %v is no link-local address beside a global IPv6 next hop", r.Prefix, r.LinkLocal)
	}
	return nil
}

// isLinkLocal reports whether an address means something on one link only. An IPv4 address of 169.254.0.0/16 does so for hosts, but routers
// take it for a next hop.
func isLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
