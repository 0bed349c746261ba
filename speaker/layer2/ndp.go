// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

var (
	allNodes = netip.MustParseAddr("ff02::1")
	// solicitedNode is the prefix of solicited-node multicast addresses, per RFC 4291 §2.7.1.
	solicitedNode = netip.MustParsePrefix("ff02::1:ff00:0/104")
)

// decideNDP answers a Neighbour Solicitation for one of the announced addresses, multicast or unicast, after all checks of RFC 4861 §7.1.1.
// The answer goes to the solicitation's source, with the Solicited and Override flags. A solicitation from the unspecified address is
// another host's duplicate address detection: its answer goes to all nodes, without the Solicited flag, and ends the detection (RFC 4862
// §5.4.3).
//
// A Neighbour Advertisement for one of the announced addresses, with another MAC, is a conflict, and so is a solicitation from such an
// address, which is never answered. While we probe an address ourselves, the duplicate address detection of another station is a conflict as
// well (RFC 4862 §5.4.3), and our own solicitation that the link returns is not (RFC 7527).
//
// For an address of which this node is the deputy, multicast solicitations are answered with the MAC of its holder.
func decideNDP(frame []byte, own mac, addresses addressSet) outcome {
	// Groups are mapped to 33:33:…, per RFC 2464 §7.
	isForGroup := func(dst mac) bool { return dst[0] == 0x33 && dst[1] == 0x33 }
	src, reason := checkEthernet(frame, own, neighbor.TypeIPv6, isForGroup)
	if reason != dropNone {
		return drop(reason)
	}
	// The fields of the IPv6 header are at the offsets of RFC 8200 §3; ipv6.ParseHeader would allocate.
	packet := frame[neighbor.HeaderLen:]
	if len(packet) < ipv6.HeaderLen {
		return drop(DropTruncated)
	}
	// A fragmented message is ignored, per RFC 6980 §5, and so is a message behind any other extension header.
	if packet[0]>>4 != ipv6.Version || packet[6] != neighbor.NextHeaderICMP {
		return drop(DropProtocol)
	}
	// The hop limit is always 255, per RFC 4861 §7.1.1: nothing from beyond the link is believed.
	if packet[7] != ndp.HopLimit {
		return drop(DropHopLimit)
	}
	source, destination := netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	length := int(binary.BigEndian.Uint16(packet[4:6]))
	if len(packet)-ipv6.HeaderLen < length {
		return drop(DropTruncated)
	}
	// What follows the IPv6 payload is Ethernet padding.
	message := packet[ipv6.HeaderLen : ipv6.HeaderLen+length]
	if length < neighbor.MessageLen {
		return drop(DropMalformed)
	}
	if t := message[0]; t != neighbor.Solicitation && t != neighbor.Advertisement {
		return drop(DropOperation)
	}
	if message[1] != 0 {
		return drop(DropCode)
	}
	if neighbor.Checksum(packet[8:40], message) != 0 {
		return drop(DropChecksum)
	}
	m, err := ndp.ParseMessage(message)
	if err != nil {
		return drop(DropMalformed) // An option of length zero is refused here.
	}
	if source.IsMulticast() {
		return drop(DropInvalidSender)
	}
	switch m := m.(type) {
	case *ndp.NeighborSolicitation:
		return decideSolicitation(m, src, source, destination, own, addresses)
	case *ndp.NeighborAdvertisement:
		return decideAdvertisement(m, src, destination, own, addresses)
	}
	return drop(DropOperation)
}

func decideSolicitation(
	ns *ndp.NeighborSolicitation, src mac, source, destination netip.Addr, own mac, addresses addressSet,
) outcome {
	if ns.TargetAddress.IsMulticast() {
		return drop(DropTargetMulticast)
	}
	linkLayer, given := linkLayerAddress(ns.Options, ndp.Source)
	detection, holder := source.IsUnspecified(), own
	if detection && (given || !solicitedNode.Contains(destination)) {
		return drop(DropUnspecifiedSource)
	}
	if !given {
		linkLayer = src
	}
	if phase, ok := addresses.contested(source, own); ok && linkLayer != own {
		return conflictAbout(source, linkLayer, src, phase)
	}
	switch phase := addresses.of(ns.TargetAddress); {
	case phase == phaseProbing && detection && hasNonce(ns.Options, addresses[ns.TargetAddress].nonce):
		return drop(DropOwnFrame)
	case phase == phaseProbing && detection:
		return conflictAbout(ns.TargetAddress, src, src, phase)
	case phase == phaseAnnounced:
	case phase == phaseDeputy && addresses[ns.TargetAddress].deputyAnswers(destination.IsMulticast(), own, src):
		holder = addresses[ns.TargetAddress].as
	default:
		return drop(DropNotAnnounced)
	}
	if detection {
		return outcome{reply: advertisementFrame(own, holder, ns.TargetAddress, allNodesMAC, allNodes, false)}
	}
	switch {
	case linkLayer == own:
		return drop(DropOwnFrame)
	case !linkLayer.CanSend():
		return drop(DropInvalidSender)
	}
	return outcome{reply: advertisementFrame(own, holder, ns.TargetAddress, linkLayer, source, true)}
}

func decideAdvertisement(
	na *ndp.NeighborAdvertisement, src mac, destination netip.Addr, own mac, addresses addressSet,
) outcome {
	if na.TargetAddress.IsMulticast() {
		return drop(DropTargetMulticast)
	}
	// RFC 4861 §7.1.2.
	if na.Solicited && destination.IsMulticast() {
		return drop(DropMalformed)
	}
	phase, ok := addresses.contested(na.TargetAddress, own)
	if !ok {
		return drop(DropNotAnnounced)
	}
	linkLayer, given := linkLayerAddress(na.Options, ndp.Target)
	if !given {
		linkLayer = src
	}
	if linkLayer == own {
		return drop(DropOwnFrame)
	}
	return conflictAbout(na.TargetAddress, linkLayer, src, phase)
}

func hasNonce(options []ndp.Option, nonce *ndp.Nonce) bool {
	return slices.ContainsFunc(options, func(o ndp.Option) bool {
		n, ok := o.(*ndp.Nonce)
		return ok && nonce != nil && n.Equal(nonce)
	})
}

// linkLayerAddress returns the link-layer address option of a direction, and false if there is none. The library has checked that it has
// six bytes.
func linkLayerAddress(options []ndp.Option, direction ndp.Direction) (mac, bool) {
	for _, o := range options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == direction {
			return mac(lla.Addr), true
		}
	}
	return mac{}, false
}

// unsolicitedAdvertisement tells all nodes where addr is (RFC 4861 §7.2.6). The Override flag is set: without it neighbours keep the MAC
// they know.
func unsolicitedAdvertisement(own mac, addr netip.Addr) []byte {
	return advertisementFrame(own, own, addr, allNodesMAC, allNodes, false)
}

// probeNDP returns the solicitation of duplicate address detection (RFC 4862 §5.4.2), with a nonce (RFC 7527 §4.1). Its source is ::, so
// that no neighbour learns from it.
func probeNDP(own mac, addr netip.Addr, nonce *ndp.Nonce) []byte {
	group := solicitedNodeGroup(addr)
	dst := mac{0: 0x33, 1: 0x33}
	copy(dst[2:], group.AsSlice()[12:]) // RFC 2464 §7
	ns := &ndp.NeighborSolicitation{TargetAddress: addr, Options: []ndp.Option{nonce}}
	return neighbor.NDP(own, dst, ns, netip.IPv6Unspecified(), group)
}

// askNDP returns a solicitation whose answer goes to this node alone. That of duplicate address detection would be answered to all nodes,
// so that neighbours would believe the one that answers last. Its source is the link-local address that RFC 4862 §5.3 makes of the MAC.
func askNDP(own mac, addr netip.Addr) []byte {
	source := netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: own[0] ^ 0x02, 9: own[1], 10: own[2], 11: 0xff, 12: 0xfe, 13: own[3], 14: own[4], 15: own[5],
	})
	group := solicitedNodeGroup(addr)
	dst := mac{0: 0x33, 1: 0x33}
	copy(dst[2:], group.AsSlice()[12:]) // RFC 2464 §7
	ns := &ndp.NeighborSolicitation{
		TargetAddress: addr, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(own[:])}},
	}
	return neighbor.NDP(own, dst, ns, source, group)
}

// advertisementFrame returns a Neighbour Advertisement from own as a whole frame, which says that addr is at holder. Its source is addr
// itself; the package comment says why. The target link-layer address option is always there: RFC 4861 §4.4 wants it in answers to multicast
// solicitations, and in others it does no harm.
func advertisementFrame(own, holder mac, addr netip.Addr, dstMAC mac, dst netip.Addr, solicited bool) []byte {
	na := &ndp.NeighborAdvertisement{
		Solicited:     solicited,
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: net.HardwareAddr(holder[:])}},
	}
	return neighbor.NDP(own, dstMAC, na, addr, dst)
}

// solicitedNodeGroup returns the multicast group in which a solicitation for addr is sent, per RFC 4291 §2.7.1.
func solicitedNodeGroup(addr netip.Addr) netip.Addr {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		panic("layer2: the group of " + addr.String() + ": " + err.Error()) // no caller passes an address that is not IPv6
	}
	return group
}
