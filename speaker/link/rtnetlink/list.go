// SPDX-License-Identifier: Apache-2.0

package rtnetlink

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/link"
)

// isRelevant reports whether a message may change a link.Snapshot. Of routes only the default ones may, and those of a subnet without a next hop:
// a node that runs a routing daemon changes others all the time, and one that starts Pods those of single addresses.
func isRelevant(messageType uint16, data []byte) bool {
	switch messageType {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(data) < unix.SizeofRtMsg {
			return false
		}
		bits := data[1] // rtm_dst_len
		single := data[0] == unix.AF_INET && bits == 32 || data[0] == unix.AF_INET6 && bits == 128
		return bits == 0 || !single && !hasNextHop(data[unix.SizeofRtMsg:])
	}
	return false
}

// hasNextHop reports whether the attributes of a route name a next hop, or several, or cannot be read.
func hasNextHop(attributes []byte) bool {
	all, err := nl.ParseRouteAttr(attributes)
	return err != nil || slices.ContainsFunc(all, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.RTA_GATEWAY || a.Attr.Type == unix.RTA_VIA || a.Attr.Type == unix.RTA_MULTIPATH
	})
}

// list reads the whole state.
func list(h *netlink.Handle) (*link.Snapshot, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	s := &link.Snapshot{DefaultRoutes: map[family.Family][]link.DefaultRoute{}}
	for af, id := range map[family.Family]int{family.IPv4: netlink.FAMILY_V4, family.IPv6: netlink.FAMILY_V6} {
		// There may be a million routes, of which few are kept as they are read.
		var defaults []netlink.Route
		err := h.RouteListFilteredIter(id, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if subnet, ok := newSubnet(&r); ok {
				s.Subnets = append(s.Subnets, subnet)
			} else if isDefault(&r) {
				defaults = append(defaults, r)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		s.DefaultRoutes[af] = defaultRoutes(defaults)
	}
	// The kernel lists routes of equal metrics in the order in which it uses them.
	slices.SortStableFunc(s.Subnets, func(x, y link.Subnet) int { return cmp.Compare(x.Metric, y.Metric) })
	for _, l := range links {
		s.Interfaces = append(s.Interfaces, newInterface(l))
	}
	slices.SortFunc(s.Interfaces, func(x, y link.Interface) int { return cmp.Compare(x.Index, y.Index) })
	for _, a := range addrs {
		n, ok := slices.BinarySearchFunc(s.Interfaces, a.LinkIndex, func(i link.Interface, index int) int {
			return cmp.Compare(i.Index, index)
		})
		if address, valid := newAddress(a); ok && valid { // An address without an interface came after the links were listed.
			s.Interfaces[n].Addresses = append(s.Interfaces[n].Addresses, address)
		}
	}
	for n := range s.Interfaces {
		slices.SortFunc(s.Interfaces[n].Addresses, func(x, y link.Address) int { return x.Prefix.Compare(y.Prefix) })
	}
	return s, nil
}

func newInterface(l netlink.Link) link.Interface {
	attrs := l.Attrs()
	const running = unix.IFF_UP | unix.IFF_RUNNING
	i := link.Interface{
		Name:     attrs.Name,
		Index:    attrs.Index,
		MAC:      bytes.Clone(attrs.HardwareAddr),
		Kind:     l.Type(),
		Up:       attrs.RawFlags&running == running,
		Loopback: attrs.RawFlags&unix.IFF_LOOPBACK != 0,
		NoARP:    attrs.RawFlags&unix.IFF_NOARP != 0,
		Master:   attrs.MasterIndex,
	}
	if attrs.Slave != nil {
		i.InVRF = attrs.Slave.SlaveType() == "vrf"
	}
	return i
}

func newAddress(a netlink.Addr) (link.Address, bool) {
	if a.IPNet == nil {
		return link.Address{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return link.Address{}, false
	}
	bits, _ := a.Mask.Size()
	return link.Address{
		Prefix:     netip.PrefixFrom(addr, bits),
		Tentative:  a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0,
		DADFailed:  a.Flags&unix.IFA_F_DADFAILED != 0,
		Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0,
		// IFA_F_TEMPORARY is the same bit as IFA_F_SECONDARY, which is meant for IPv4.
		Temporary: addr.Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0,
		Secondary: addr.Is4() && a.Flags&unix.IFA_F_SECONDARY != 0,
		Permanent: a.Flags&unix.IFA_F_PERMANENT != 0,
	}, true
}

// isDefault reports whether a route is a unicast default route.
func isDefault(r *netlink.Route) bool {
	return r.Type == unix.RTN_UNICAST && (r.Dst == nil || isZero(r.Dst))
}

// newSubnet returns the subnet that a route says to be on a link, and false if it does not.
func newSubnet(r *netlink.Route) (link.Subnet, bool) {
	if r.Type != unix.RTN_UNICAST || r.Dst == nil || r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0 || r.Encap != nil || r.LinkIndex == 0 {
		return link.Subnet{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	prefix := netip.PrefixFrom(addr, bits)
	if !ok || bits == 0 || prefix.IsSingleIP() || addr.IsLinkLocalUnicast() || addr.IsMulticast() {
		return link.Subnet{}, false
	}
	return link.Subnet{Prefix: prefix.Masked(), Metric: r.Priority, Index: r.LinkIndex}, true
}

// defaultRoutes returns each next hop of default routes.
func defaultRoutes(routes []netlink.Route) []link.DefaultRoute {
	var defaults []link.DefaultRoute
	for _, r := range routes {
		source, _ := netip.AddrFromSlice(r.Src)
		source = source.Unmap()
		if r.LinkIndex != 0 {
			defaults = append(defaults, link.DefaultRoute{
				Metric: r.Priority, Index: r.LinkIndex, Gateway: gateway(r.Gw, r.Via), Source: source,
			})
		}
		for _, hop := range r.MultiPath {
			defaults = append(defaults, link.DefaultRoute{
				Metric: r.Priority, Index: hop.LinkIndex, Gateway: gateway(hop.Gw, hop.Via), Source: source,
			})
		}
	}
	slices.SortFunc(defaults, func(x, y link.DefaultRoute) int {
		return cmp.Or(cmp.Compare(x.Metric, y.Metric), cmp.Compare(x.Index, y.Index), x.Gateway.Compare(y.Gateway))
	})
	return slices.Compact(defaults)
}

// gateway returns a next hop of the route's own family, or else the one of the other family (RFC 8950), or the zero Addr.
func gateway(own net.IP, other netlink.Destination) netip.Addr {
	if via, ok := other.(*netlink.Via); ok && own == nil {
		own = via.Addr
	}
	address, _ := netip.AddrFromSlice(own)
	return address.Unmap()
}

func isZero(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}
