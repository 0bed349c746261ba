// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"net/netip"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// A mac is an Ethernet address.
type mac = neighbor.MAC

// allNodesMAC is where ff02::1 is mapped to, per RFC 2464 §7.
var allNodesMAC = mac{0x33, 0x33, 0, 0, 0, 1}

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
	// source is where that frame came from: the station itself, unless a deputy answers for it.
	source mac
	// probing says that the address is not announced yet, listening that it is only listened for.
	probing, listening bool
}

func drop(reason DropReason) outcome { return outcome{reason: reason} }

func conflictAbout(addr netip.Addr, station, source mac, p phase) outcome {
	return outcome{
		reason: DropConflict, address: addr, station: station, source: source, probing: p == phaseProbing, listening: p == phaseListening,
	}
}

// checkEthernet checks what ARP and NDP have in common: the type of the frame, its source, which it returns, and its destination. A frame
// for another station is dropped. A bridge or a promiscuous interface shows us such frames, and the station that they are for answers them.
func checkEthernet(frame []byte, own mac, etherType uint16, isForGroup func(mac) bool) (src mac, reason DropReason) {
	if len(frame) < neighbor.HeaderLen {
		return mac{}, DropTruncated
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherType:
	case neighbor.TypeVLAN, neighbor.TypeServiceVLAN:
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
	if !src.CanSend() {
		return mac{}, DropInvalidSender
	}
	return src, dropNone
}
