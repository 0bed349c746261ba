// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// A TCPResult is what came back for the first segment of a TCP connection.
type TCPResult string

// The results.
const (
	// TCPAnswers means that the connection was accepted (SYN and ACK). It is reset at once.
	TCPAnswers TCPResult = "Answers"
	// TCPRefused means that it was reset: the packet has arrived, and no program listens. A program that connects by the kernel cannot tell
	// a reset from an ICMP message that says port unreachable; reachability.Dialed says more.
	TCPRefused TCPResult = "Refused"
	// TCPUnreachable means that an ICMP message said so: kube-proxy rejects a Service without endpoints, a firewall rejects, or a node has
	// no route.
	TCPUnreachable TCPResult = "Unreachable"
	// TCPSilent means that nothing came back.
	TCPSilent TCPResult = "Silent"
)

const (
	// syns are how many times the first segment is sent, synTime is the time for an answer after each, and lookTime how often it is looked
	// for.
	syns     = 3
	synTime  = 700 * time.Millisecond
	lookTime = 20 * time.Millisecond
)

// Connect opens a TCP connection to an address by the station that has a MAC, as a router does that sends to it, and says what came back. It does not
// ask the kernel of this node to connect: where kube-proxy runs, that would never leave the node.
//
//	node2                              node1, which holds 198.51.100.200
//	  ── SYN to 198.51.100.200:80, ──▶   kube-proxy → Pod
//	     in a frame to node1's MAC
//	  ◀── SYN, ACK ──────────────────    Answers
//	  ── RST ────────────────────────▶
//
// Own is the address of this node that the answer is to be sent to, of the same family, on the link of the interface. The sockets are opened in the
// network namespace of the calling thread, and need CAP_NET_RAW.
func Connect(ctx context.Context, on *net.Interface, own netip.Addr, station net.HardwareAddr, to netip.AddrPort) (TCPResult, error) {
	if len(on.HardwareAddr) != len(neighbor.MAC{}) || len(station) != len(neighbor.MAC{}) {
		return "", fmt.Errorf("%s or the station %s has no Ethernet address", on.Name, station)
	}
	if !own.IsValid() || own.Is4() != to.Addr().Is4() {
		return "", fmt.Errorf("this node has no address on %s that %s could answer to", on.Name, to.Addr())
	}
	port, release, err := reservePort(own)
	if err != nil {
		return "", fmt.Errorf("taking a TCP port of %s: %w", own, err)
	}
	defer release()
	etherType, filter := unix.ETH_P_IP, tcpFilter4(on.Index, port)
	if own.Is6() {
		etherType, filter = unix.ETH_P_IPV6, tcpFilter6(on.Index, port)
	}
	conn, err := neighbor.Listen(on, etherType, filter)
	if err != nil {
		return "", fmt.Errorf("connecting on %s: %w", on.Name, err)
	}
	defer func() { _ = conn.Close() }()
	h := handshake{
		own: neighbor.MAC(on.HardwareAddr), station: neighbor.MAC(station), from: netip.AddrPortFrom(own, port), to: to, sequence: rand.Uint32(),
	}
	for range syns {
		if err := neighbor.Send(conn, h.segment(h.sequence, synFlag)); err != nil {
			return "", fmt.Errorf("connecting on %s: %w", on.Name, err)
		}
		for range int(synTime / lookTime) {
			if err := pause(ctx, lookTime); err != nil {
				return "", err
			}
			if result, err := h.result(conn); result != "" || err != nil {
				return result, err
			}
		}
	}
	return TCPSilent, nil
}

// reservePort takes a TCP port of an address of this node until it is released, so that no program uses it meanwhile.
func reservePort(own netip.Addr) (port uint16, release func(), err error) {
	domain, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: own.As16()})
	if own.Is4() {
		domain, address = unix.AF_INET, &unix.SockaddrInet4{Addr: own.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	release = func() { _ = unix.Close(fd) }
	if err := unix.Bind(fd, address); err != nil {
		release()
		return 0, nil, os.NewSyscallError("bind", err)
	}
	switch bound, err := unix.Getsockname(fd); bound := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(bound.Port), release, nil
	case *unix.SockaddrInet6:
		return uint16(bound.Port), release, nil
	default:
		release()
		return 0, nil, os.NewSyscallError("getsockname", err)
	}
}

// handshake is the opening of one connection.
type handshake struct {
	own, station neighbor.MAC
	from, to     netip.AddrPort
	sequence     uint32 // of the SYN
}

// Flags of a TCP segment (RFC 9293 §3.1), and the length of its header without options.
const (
	synFlag, rstFlag, ackFlag = 0x02, 0x04, 0x10
	tcpHeaderLen              = 20
)

// segment returns a frame with a segment without data. The SYN says how long segments may be, as that of any host.
func (h *handshake) segment(sequence uint32, flags byte) []byte {
	var options []byte
	if flags == synFlag {
		options = []byte{2, 4, 1220 >> 8, 1220 & 0xff}
	}
	segment := binary.BigEndian.AppendUint16(nil, h.from.Port())
	segment = binary.BigEndian.AppendUint16(segment, h.to.Port())
	segment = binary.BigEndian.AppendUint32(segment, sequence)
	segment = append(segment, 0, 0, 0, 0, byte((tcpHeaderLen+len(options))/4)<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	segment = append(segment, options...)
	from, to := h.from.Addr().AsSlice(), h.to.Addr().AsSlice()
	pseudo := append(append([]byte{}, from...), to...)
	if len(from) == net.IPv4len {
		pseudo = append(pseudo, 0, unix.IPPROTO_TCP)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(segment)))
	} else {
		pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(segment))), 0, 0, 0, unix.IPPROTO_TCP)
	}
	binary.BigEndian.PutUint16(segment[16:], internetChecksum(append(pseudo, segment...)))
	b := append(append([]byte{}, h.station[:]...), h.own[:]...)
	if len(from) == net.IPv4len {
		b = append(b, 0x08, 0x00, 0x45, 0, 0, byte(ipv4.HeaderLen+len(segment)), 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0)
		b = append(append(b, from...), to...)
		binary.BigEndian.PutUint16(b[neighbor.HeaderLen+10:], internetChecksum(b[neighbor.HeaderLen:]))
	} else {
		b = append(b, 0x86, 0xdd, ipv6.Version<<4, 0, 0, 0, 0, byte(len(segment)), unix.IPPROTO_TCP, 64)
		b = append(append(b, from...), to...)
	}
	return append(b, segment...)
}

// result returns what the packets that wait in a socket say, "" if they say nothing. A connection that was accepted is reset.
func (h *handshake) result(conn *packet.Conn) (result TCPResult, err error) {
	_, err = neighbor.Drain(conn, make([]byte, maxFrame), func(frame []byte) {
		if said := h.parse(frame); said != "" && (result == "" || said == TCPAnswers) {
			result = said
		}
	})
	if result == TCPAnswers {
		_ = neighbor.Send(conn, h.segment(h.sequence+1, rstFlag)) // Without it the other side gives up by itself, later.
	}
	return result, err
}

// parse returns what a frame says of the connection, "" if nothing. Checksums of frames from a veth need not be there yet.
func (h *handshake) parse(frame []byte) TCPResult {
	header, icmpTo, protocol := ipv4.HeaderLen, 16, 9 // where the header of IP has what
	source, destination := 12, 16
	if h.from.Addr().Is6() {
		header, icmpTo, protocol, source, destination = ipv6.HeaderLen, 24, 6, 8, 24
	}
	if len(frame) < neighbor.HeaderLen+header {
		return ""
	}
	ip := frame[neighbor.HeaderLen:]
	if h.from.Addr().Is4() {
		header = int(ip[0]&0xf) * 4
	}
	address := func(packet []byte, at int) netip.Addr {
		a, _ := netip.AddrFromSlice(packet[at : at+h.from.Addr().BitLen()/8])
		return a
	}
	if len(ip) < header+8 || address(ip, destination) != h.from.Addr() {
		return ""
	}
	payload := ip[header:]
	switch ip[protocol] {
	case unix.IPPROTO_TCP:
		if len(payload) < tcpHeaderLen || address(ip, source) != h.to.Addr() || binary.BigEndian.Uint16(payload) != h.to.Port() ||
			binary.BigEndian.Uint32(payload[8:]) != h.sequence+1 {
			return ""
		}
		switch payload[13] & (synFlag | rstFlag | ackFlag) {
		case synFlag | ackFlag:
			return TCPAnswers
		case rstFlag, rstFlag | ackFlag:
			return TCPRefused
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		// The message quotes the packet that it is about: its header, and of the segment the ports at least.
		quoted := payload[8:]
		if h.from.Addr().Is4() && len(quoted) >= ipv4.HeaderLen {
			header = int(quoted[0]&0xf) * 4
		}
		if len(quoted) >= header+8 && address(quoted, icmpTo) == h.to.Addr() && quoted[protocol] == unix.IPPROTO_TCP &&
			binary.BigEndian.Uint16(quoted[header:]) == h.from.Port() {
			return TCPUnreachable
		}
	}
	return ""
}

// tcpFilter4 and tcpFilter6 let in the segments for a port of this host, and the messages that a destination is unreachable.

func tcpFilter4(index int, port uint16) []bpf.RawInstruction {
	return neighbor.Assemble(append(forHost(index, 9),
		bpf.LoadMemShift{Off: neighbor.HeaderLen},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 5},
		bpf.LoadIndirect{Off: neighbor.HeaderLen + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 2, SkipFalse: 3},
		bpf.LoadIndirect{Off: neighbor.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ipv4.ICMPTypeDestinationUnreachable), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)...)
}

func tcpFilter6(index int, port uint16) []bpf.RawInstruction {
	return neighbor.Assemble(append(forHost(index, 8),
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 2, SkipFalse: 3},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ipv6.ICMPTypeDestinationUnreachable), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)...)
}
