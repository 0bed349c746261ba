// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Offsets and values of Ethernet II, without a VLAN tag.
const (
	ethernetHeaderLen = 14

	etherTypeARP         = unix.ETH_P_ARP
	etherTypeIPv6        = unix.ETH_P_IPV6
	etherTypeVLAN        = unix.ETH_P_8021Q
	etherTypeServiceVLAN = unix.ETH_P_8021AD
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

// An addressSet has the addresses that are declared on one interface. It is never changed once a reader can see it; the phases of its
// entries are.
type addressSet map[netip.Addr]*entry

// An outcome says what to do with a received frame.
type outcome struct {
	// reply is the whole frame to send, nil where reason is set.
	reply []byte
	// reason says why there is no reply.
	reason DropReason
	// address is an announced or probed address, and station the other station that uses or probes it, if reason is DropConflict.
	address netip.Addr
	station mac
	// probing says that the address is not announced yet.
	probing bool
}

func drop(reason DropReason) outcome { return outcome{reason: reason} }

func conflictAbout(addr netip.Addr, station mac, p phase) outcome {
	return outcome{reason: DropConflict, address: addr, station: station, probing: p == phaseProbing}
}

// checkEthernet checks what ARP and NDP have in common: the type of the frame, its source, which it returns, and its destination. A frame
// for another station is dropped. A bridge or a promiscuous interface shows us such frames, and the station that they are for answers them.
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
