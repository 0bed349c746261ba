// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// A kind is a kind of question.
type kind uint8

const (
	// toNeighbour asks by unicast ARP or Neighbour Solicitation, as a kernel asks that confirms an entry of its neighbour cache (RFC 1122
	// §2.3.2.1 (2), RFC 4861 §7.3.1).
	toNeighbour kind = iota
	// toGroup asks all stations of the link who has an address: by an ARP probe, of which no station learns, or by a multicast solicitation.
	toGroup
	// echo is an ICMP echo request. Switches that answer ARP and solicitations for their hosts (ARP suppression in EVPN) do not answer it.
	echo
)

// question returns a frame that asks a station whether it has an address. The id marks an echo as ours.
func question(k kind, own, station neighbor.MAC, p Pair, id uint16) []byte {
	switch {
	case k == echo:
		return echoRequest(own, station, p, id)
	case p.Target.Is4() && k == toGroup:
		return neighbor.ARP(own, neighbor.Broadcast, arp.OperationRequest, own, netip.IPv4Unspecified(), neighbor.MAC{}, p.Target)
	case p.Target.Is4():
		return neighbor.ARP(own, station, arp.OperationRequest, own, p.Own, neighbor.MAC{}, p.Target)
	}
	target := p.Target.WithZone("")
	ns := &ndp.NeighborSolicitation{
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(own[:])}},
	}
	if k == toNeighbour {
		return neighbor.NDP(own, station, ns, p.Own.WithZone(""), target)
	}
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		panic("lan: the group of " + target.String() + ": " + err.Error()) // It is an IPv6 address.
	}
	dst := neighbor.MAC{0: 0x33, 1: 0x33}
	copy(dst[2:], group.AsSlice()[12:]) // RFC 2464 §7
	return neighbor.NDP(own, dst, ns, p.Own.WithZone(""), group)
}

// echoRequest returns an echo request without data (RFC 792, RFC 4443 §4.1).
func echoRequest(own, station neighbor.MAC, p Pair, id uint16) []byte {
	message := binary.BigEndian.AppendUint16([]byte{uint8(ipv4.ICMPTypeEcho), 0, 0, 0}, id)
	message = append(message, 0, 0) // sequence number
	b := append(append([]byte{}, station[:]...), own[:]...)
	if p.Target.Is4() {
		b = append(b, 0x08, 0x00, 0x45, 0, 0, byte(ipv4.HeaderLen+len(message)), 0, 0, 0x40, 0, 64, unix.IPPROTO_ICMP, 0, 0)
		b = append(append(b, p.Own.AsSlice()...), p.Target.AsSlice()...)
		binary.BigEndian.PutUint16(b[neighbor.HeaderLen+10:], internetChecksum(b[neighbor.HeaderLen:]))
		binary.BigEndian.PutUint16(message[2:], internetChecksum(message))
		return append(b, message...)
	}
	message[0] = uint8(ipv6.ICMPTypeEchoRequest)
	b = append(b, 0x86, 0xdd, ipv6.Version<<4, 0, 0, 0, 0, byte(len(message)), neighbor.NextHeaderICMP, 64)
	b = append(append(b, p.Own.AsSlice()...), p.Target.AsSlice()...)
	binary.BigEndian.PutUint16(message[2:], neighbor.Checksum(b[len(b)-32:], message))
	return append(b, message...)
}

// internetChecksum returns the checksum of RFC 1071 over an even number of bytes. Over data that has its correct checksum it is 0.
func internetChecksum(data []byte) uint16 {
	sum := uint32(0)
	for ; len(data) >= 2; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// An answer says that a station has an address.
type answer struct {
	mac     neighbor.MAC
	address netip.Addr
	// kind is that of the question.
	kind kind
}

// parseARP reads an ARP reply. That to a probe is for nobody.
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
	a = answer{mac: neighbor.MAC(p.SenderHardwareAddr), address: p.SenderIP}
	if p.TargetIP.IsUnspecified() {
		a.kind = toGroup
	}
	return a, true
}

// parseEcho reads an ICMP echo reply with an id. The station is the source of the frame.
func parseEcho(frame []byte, id uint16) (a answer, ok bool) {
	if len(frame) < neighbor.HeaderLen+ipv4.HeaderLen || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return answer{}, false
	}
	packet := frame[neighbor.HeaderLen:]
	header, length := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if packet[0]>>4 != ipv4.Version || header < ipv4.HeaderLen || packet[9] != unix.IPPROTO_ICMP || length < header+8 || len(packet) < length {
		return answer{}, false
	}
	message := packet[header:length]
	if message[0] != uint8(ipv4.ICMPTypeEchoReply) || binary.BigEndian.Uint16(message[4:]) != id || internetChecksum(message[:len(message)&^1]) != 0 {
		return answer{}, false
	}
	return answer{mac: neighbor.MAC(frame[6:12]), address: netip.AddrFrom4([4]byte(packet[12:16])), kind: echo}, true
}

// parseICMPv6 reads a Neighbour Advertisement, or an echo reply with an id. The station is the source of the frame: a kernel need not give
// a link-layer address in an answer to a unicast solicitation, while in one to a multicast solicitation it has to (RFC 4861 §4.4).
func parseICMPv6(frame []byte, id uint16) (a answer, ok bool) {
	if len(frame) < neighbor.HeaderLen+ipv6.HeaderLen+8 || binary.BigEndian.Uint16(frame[12:]) != neighbor.TypeIPv6 {
		return answer{}, false
	}
	// The fields of the IPv6 header are at the offsets of RFC 8200 §3.
	packet := frame[neighbor.HeaderLen:]
	length := int(binary.BigEndian.Uint16(packet[4:6]))
	if packet[0]>>4 != ipv6.Version || packet[6] != neighbor.NextHeaderICMP || length < 8 || len(packet)-ipv6.HeaderLen < length {
		return answer{}, false
	}
	message := packet[ipv6.HeaderLen : ipv6.HeaderLen+length] // Ethernet padding may follow.
	if message[1] != 0 || neighbor.Checksum(packet[8:40], message) != 0 {
		return answer{}, false
	}
	a = answer{mac: neighbor.MAC(frame[6:12])}
	switch {
	case message[0] == uint8(ipv6.ICMPTypeEchoReply) && binary.BigEndian.Uint16(message[4:]) == id:
		a.address, a.kind = netip.AddrFrom16([16]byte(packet[8:24])), echo
	// A packet with a hop limit other than 255 may be from beyond the link (RFC 4861 §7.1.2).
	case message[0] == neighbor.Advertisement && length >= neighbor.MessageLen && packet[7] == ndp.HopLimit:
		a.address = netip.AddrFrom16([16]byte(message[8:24]))
		if length > neighbor.MessageLen {
			a.kind = toGroup
		}
	default:
		return answer{}, false
	}
	return a, true
}

// The filters let in answers that are for this host (PACKET_HOST) and came by this very interface, so that the questions and answers of
// others fill no buffer. Frames of a VLAN device reach the sockets of the device below it too, with the tag taken away.

func arpFilter(index int) []bpf.RawInstruction {
	return neighbor.Assemble(append(forHost(index, 3),
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(arp.OperationReply), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)...)
}

func echoFilter(index int, id uint16) []bpf.RawInstruction {
	return neighbor.Assemble(append(forHost(index, 8),
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 6},
		bpf.LoadMemShift{Off: neighbor.HeaderLen},
		bpf.LoadIndirect{Off: neighbor.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ipv4.ICMPTypeEchoReply), SkipTrue: 3},
		bpf.LoadIndirect{Off: neighbor.HeaderLen + 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)...)
}

func icmpv6Filter(index int, id uint16) []bpf.RawInstruction {
	return neighbor.Assemble(append(forHost(index, 8),
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.NextHeaderICMP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(neighbor.Advertisement), SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ipv6.ICMPTypeEchoReply), SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen + 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)...)
}

// forHost begins a filter of which so many instructions follow before the last, which rejects.
func forHost(index int, following uint8) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(index), SkipTrue: following + 2},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_HOST, SkipTrue: following},
	}
}

// maxFrame holds any answer; of a longer frame the rest is cut.
const maxFrame = 512
