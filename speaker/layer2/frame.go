// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"net/netip"
)

// Offsets and values of Ethernet II, without a VLAN tag.
const (
	ethernetHeaderLen = 14

	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
	// IEEE 802.1Q and 802.1ad.
	etherTypeVLAN        = 0x8100
	etherTypeServiceVLAN = 0x88a8
)

// A mac is an Ethernet address. Unlike net.HardwareAddr it can be compared and costs no allocation.
type mac [6]byte

var (
	broadcastMAC = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// allNodesMAC is where ff02::1 is mapped to, per RFC 2464 §7.
	allNodesMAC = mac{0x33, 0x33, 0, 0, 0, 1}
)

// isMulticast reports whether m is a group address; broadcast is one.
func (m mac) isMulticast() bool { return m[0]&1 == 1 }

// canSend reports whether m can be the address of a single station.
func (m mac) canSend() bool { return !m.isMulticast() && m != mac{} }

// An addressSet is the set of addresses announced on one interface. It is never changed once a reader can see it.
type addressSet map[netip.Addr]struct{}

// A verdict says what to do with a received frame.
type verdict struct {
	// reply is the whole frame to send, nil where reason is set.
	reply []byte
	// reason says why there is no reply.
	reason DropReason
	// claimed is one of our addresses, and claimant the station that claims it, where reason is DropConflict.
	claimed  netip.Addr
	claimant mac
}

func drop(reason DropReason) verdict { return verdict{reason: reason} }

// checkEthernet looks at what ARP and NDP have in common: the frame's type, where it comes from, and whom it is for.
// A reply to a frame that a bridge or a promiscuous interface showed us, but that is for another station, would be
// a second answer to its question.
func checkEthernet(frame []byte, own mac, etherType uint16, isForGroup func(mac) bool) (src mac, reason DropReason) {
	if len(frame) < ethernetHeaderLen {
		return mac{}, DropTruncated
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherType:
	case etherTypeVLAN, etherTypeServiceVLAN:
		return mac{}, DropVLAN
	default:
		return mac{}, DropProtocol
	}
	dst, src := mac(frame[0:6]), mac(frame[6:12])
	if dst != own && !isForGroup(dst) {
		return mac{}, DropOtherHost
	}
	if src == own {
		return mac{}, DropOwnFrame
	}
	if !src.canSend() {
		return mac{}, DropInvalidSender
	}
	return src, dropNone
}

// appendEthernet appends an Ethernet header.
func appendEthernet(b []byte, dst, src mac, etherType uint16) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}
