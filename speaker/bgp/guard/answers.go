// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// Flags of the TCP header, in its byte flagsOffset (RFC 9293 §3.1).
const (
	flagsOffset             = 13
	flagFIN, flagSYN        = 0x01, 0x02
	flagRST, flagACK        = 0x04, 0x10
	sourcePort, destination = 0, 2 // offsets of the ports
)

// answers receives the SYN+ACK with which a router answers a connection of another program of this node. They come to a raw socket, which
// needs CAP_NET_RAW, before they come to that program. A connection that the router refuses lasts a millisecond: five lists of all sockets
// a second would show one of them after half a minute.
//
// A packet proves nothing, since any host may send one in the name of the router. That the kernel has a socket which it belongs to does.
// The kernel has one for a while also after a connection was closed, and the router may repeat its SYN+ACK until then: what was closed
// before we listen, by this speaker or the one before, is no other program's connection.
type answers struct {
	conn          *net.IPConn
	local, remote netip.AddrPort // of our own connection
	read          func([]byte) (n, index int, err error)
	// has is hasSocket, but for tests.
	has func(local, remote netip.AddrPort, index int) bool
}

// listenForAnswers listens for answers to all connections between the ends of conn but conn itself.
func listenForAnswers(conn net.Conn) (*answers, error) {
	local, okLocal := conn.LocalAddr().(*net.TCPAddr)
	remote, okRemote := conn.RemoteAddr().(*net.TCPAddr)
	if !okLocal || !okRemote {
		return nil, fmt.Errorf("a connection from %v to %v is not TCP", conn.LocalAddr(), conn.RemoteAddr())
	}
	network := "ip4:tcp"
	if remote.IP.To4() == nil {
		network = "ip6:tcp"
	}
	// The kernel hands a connected socket the packets of its peer alone.
	raw, err := net.DialIP(network, &net.IPAddr{IP: local.IP, Zone: local.Zone}, &net.IPAddr{IP: remote.IP, Zone: remote.Zone})
	if err != nil {
		return nil, err
	}
	a := &answers{conn: raw, local: unmapped(local), remote: unmapped(remote), has: hasSocket}
	program := filter(a.local.Addr().Is4(), a.remote.Port(), a.local.Port())
	if a.local.Addr().Is4() {
		c := ipv4.NewPacketConn(raw)
		err = errors.Join(c.SetBPF(program), c.SetControlMessage(ipv4.FlagInterface, true))
		a.read = func(b []byte) (int, int, error) {
			n, control, _, err := c.ReadFrom(b)
			if control == nil {
				return n, 0, err
			}
			return n, control.IfIndex, err
		}
	} else {
		c := ipv6.NewPacketConn(raw)
		err = errors.Join(c.SetBPF(program), c.SetControlMessage(ipv6.FlagInterface, true))
		a.read = func(b []byte) (int, int, error) {
			n, control, _, err := c.ReadFrom(b)
			if control == nil {
				return n, 0, err
			}
			return n, control.IfIndex, err
		}
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("filtering packets of %v: %w", remote, err)
	}
	return a, nil
}

func unmapped(a *net.TCPAddr) netip.AddrPort {
	return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
}

// filter accepts a SYN+ACK from a port of the router to another port than ours. A raw socket of IPv4 receives packets with their IP header,
// one of IPv6 without.
func filter(header bool, router, ours uint16) []bpf.RawInstruction {
	var begin bpf.Instruction = bpf.LoadConstant{Dst: bpf.RegX, Val: 0}
	if header {
		begin = bpf.LoadMemShift{Off: 0} // X is the length of the IPv4 header
	}
	return neighbor.Assemble(
		begin,
		bpf.LoadIndirect{Off: flagsOffset, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagFIN | flagSYN | flagRST | flagACK},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: flagSYN | flagACK, SkipTrue: 5},
		bpf.LoadIndirect{Off: sourcePort, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(router), SkipTrue: 3},
		bpf.LoadIndirect{Off: destination, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ours), SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	)
}

// errorPause is how long an error holds up the next read: one that an ICMP message has caused is gone by then.
const errorPause = 100 * time.Millisecond

// next waits for an answer to another program. Before has the sockets that were there when we began to listen: an answer to an orphan
// among them does not count. It returns false when the socket is closed.
func (a *answers) next(before []socket) bool {
	orphan := func(port uint16) bool {
		return slices.ContainsFunc(before, func(s socket) bool {
			return s.orphan && s.remote == a.remote && s.local == netip.AddrPortFrom(a.local.Addr(), port)
		})
	}
	var packet [64]byte
	for {
		n, index, err := a.read(packet[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return false
		case err != nil:
			time.Sleep(errorPause)
		case n >= destination+2:
			port := binary.BigEndian.Uint16(packet[destination:])
			if !orphan(port) && a.has(netip.AddrPortFrom(a.local.Addr(), port), a.remote, index) {
				return true
			}
		}
	}
}

func (a *answers) close() { _ = a.conn.Close() }
