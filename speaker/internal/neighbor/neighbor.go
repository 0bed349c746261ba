// SPDX-License-Identifier: Apache-2.0

// Package neighbor writes the frames of ARP (RFC 826) and Neighbour Discovery (RFC 4861), and opens the sockets on which they are sent and
// received. Frames are written whole, Ethernet header included, so that the kernel selects neither the source nor the route. What to say is
// not decided here:
//
//	neighbor.ARP(own, neighbor.Broadcast, arp.OperationRequest, own, ip, neighbor.MAC{}, ip)   // a gratuitous ARP
//	neighbor.NDP(own, dst, &ndp.NeighborSolicitation{TargetAddress: ip}, source, ip)           // asks whether a neighbour is still there
package neighbor

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Offsets and values of Ethernet II, without a VLAN tag, and of what it carries.
const (
	// HeaderLen is the length of an Ethernet header, and ARPLen that of an ARP packet for IPv4 over Ethernet, per RFC 826.
	HeaderLen = 14
	ARPLen    = 28

	TypeARP         = unix.ETH_P_ARP
	TypeIPv6        = unix.ETH_P_IPV6
	TypeVLAN        = unix.ETH_P_8021Q
	TypeServiceVLAN = unix.ETH_P_8021AD

	// NextHeaderICMP says that an ICMPv6 message follows an IPv6 header.
	NextHeaderICMP = unix.IPPROTO_ICMPV6
	// Solicitation and Advertisement are the types of the two messages, and MessageLen is their length without options (RFC 4861 §4.3, §4.4).
	Solicitation  = uint8(ipv6.ICMPTypeNeighborSolicitation)
	Advertisement = uint8(ipv6.ICMPTypeNeighborAdvertisement)
	MessageLen    = 24
)

// A MAC is an Ethernet address. Unlike net.HardwareAddr it can be compared and costs no allocation.
type MAC [6]byte

// Broadcast is the address of all stations.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// IsMulticast reports whether m is a group address; Broadcast is one.
func (m MAC) IsMulticast() bool { return m[0]&1 == 1 }

// CanSend reports whether m can be the address of a single station.
func (m MAC) CanSend() bool { return !m.IsMulticast() && m != MAC{} }

// String returns m as in 02:00:00:00:00:0b.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// ARP returns a whole frame from src to dst. It is shorter than Ethernet's minimum; drivers pad.
func ARP(src, dst MAC, op arp.Operation, sender MAC, senderIP netip.Addr, target MAC, targetIP netip.Addr) []byte {
	p := arp.Packet{
		HardwareType: 1, ProtocolType: 0x0800, HardwareAddrLength: 6, IPLength: 4, Operation: op,
		SenderHardwareAddr: net.HardwareAddr(sender[:]), SenderIP: senderIP,
		TargetHardwareAddr: net.HardwareAddr(target[:]), TargetIP: targetIP,
	}
	b, _ := p.MarshalBinary() // Never fails, per its contract.
	return append(appendEthernet(make([]byte, 0, HeaderLen+ARPLen), dst, src, TypeARP), b...)
}

// NDP returns a message from src to dst as a whole frame.
func NDP(src, dst MAC, m ndp.Message, source, destination netip.Addr) []byte {
	message, err := ndp.MarshalMessage(m)
	if err != nil {
		// Only an address that is not IPv6 fails, and no caller passes one.
		panic("neighbor: marshalling a message to " + destination.String() + ": " + err.Error())
	}
	b := make([]byte, 0, HeaderLen+ipv6.HeaderLen+len(message))
	b = appendEthernet(b, dst, src, TypeIPv6)
	b = append(b, ipv6.Version<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	b = append(b, NextHeaderICMP, ndp.HopLimit)
	b = append(b, source.AsSlice()...)
	b = append(b, destination.AsSlice()...)
	binary.BigEndian.PutUint16(message[2:], Checksum(b[len(b)-32:], message))
	return append(b, message...)
}

// Checksum returns the ICMPv6 checksum of message (RFC 4443 §2.3), of which addresses are the IPv6 source and destination. Over a message
// that carries its correct checksum it is 0. The library checks no checksum of a message that it reads; ndp.MarshalMessageChecksum does no
// more than this when it writes one, and allocates.
func Checksum(addresses, message []byte) uint16 {
	sum := uint32(len(message)) + NextHeaderICMP
	for _, b := range [...][]byte{addresses, message} {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// appendEthernet appends an Ethernet header.
func appendEthernet(b []byte, dst, src MAC, etherType uint16) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}
