// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// question returns a frame that asks the kernel of a target whether it has an address, as a kernel asks that confirms an entry of its
// neighbour cache (RFC 1122 §2.3.2.1 (2), RFC 4861 §7.3.1).
func question(own neighbor.MAC, t *Target, p Pair) []byte {
	if p.Target.Is4() {
		return neighbor.ARP(own, t.MAC, arp.OperationRequest, own, p.Own, neighbor.MAC{}, p.Target)
	}
	ns := &ndp.NeighborSolicitation{
		TargetAddress: p.Target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(own[:])}},
	}
	return neighbor.NDP(own, t.MAC, ns, p.Own, p.Target)
}

// An answer says that a station has an address.
type answer struct {
	mac     neighbor.MAC
	address netip.Addr
}

// parseARP reads an ARP reply.
func parseARP(frame []byte) (a answer, ok bool) {
	if len(frame) < neighbor.HeaderLen+neighbor.ARPLen || binary.BigEndian.Uint16(frame[12:]) != neighbor.TypeARP {
		return answer{}, false
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[neighbor.HeaderLen:]); err != nil {
		return answer{}, false
	}
	if p.Operation != arp.OperationReply || p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return answer{}, false
	}
	return answer{neighbor.MAC(p.SenderHardwareAddr), p.SenderIP}, true
}

// parseNDP reads a Neighbour Advertisement. The station is the source of the frame: a kernel need not give a link-layer address in an
// answer to a unicast solicitation (RFC 4861 §4.4).
func parseNDP(frame []byte) (a answer, ok bool) {
	if len(frame) < neighbor.HeaderLen+ipv6.HeaderLen+neighbor.MessageLen || binary.BigEndian.Uint16(frame[12:]) != neighbor.TypeIPv6 {
		return answer{}, false
	}
	// The fields of the IPv6 header are at the offsets of RFC 8200 §3. A packet with a hop limit other than 255 may be from beyond the link
	// (RFC 4861 §7.1.2).
	packet := frame[neighbor.HeaderLen:]
	length := int(binary.BigEndian.Uint16(packet[4:6]))
	if packet[0]>>4 != ipv6.Version || packet[6] != neighbor.NextHeaderICMP || packet[7] != ndp.HopLimit ||
		length < neighbor.MessageLen || len(packet)-ipv6.HeaderLen < length {
		return answer{}, false
	}
	message := packet[ipv6.HeaderLen : ipv6.HeaderLen+length] // Ethernet padding may follow.
	if message[0] != neighbor.Advertisement || message[1] != 0 || neighbor.Checksum(packet[8:40], message) != 0 {
		return answer{}, false
	}
	return answer{neighbor.MAC(frame[6:12]), netip.AddrFrom16([16]byte(message[8:24]))}, true
}

// The filters let in answers that are for this host (PACKET_HOST), so that the questions and answers of others fill no buffer.
var (
	arpFilter = neighbor.Assemble(
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_HOST, SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(arp.OperationReply), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)
	ndpFilter = neighbor.Assemble(
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_HOST, SkipTrue: 5},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.NextHeaderICMP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(neighbor.Advertisement), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)
)

// maxFrame holds any answer; of a longer frame the rest is cut.
const maxFrame = 512
