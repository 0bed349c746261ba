// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// A wire is what the Announcer needs of one interface. Only its own methods touch its sockets.
type wire interface {
	// send sends a whole frame and never waits: an interface whose queue is full must not stop the others.
	send(protocol Protocol, frame []byte) error
	// join and leave change the interface's membership in a multicast group.
	join(group netip.Addr) error
	leave(group netip.Addr)
	// receiveAllMulticast has the interface receive all multicast, or only that of its groups.
	receiveAllMulticast(on bool) error
	// dropped returns how many frames the kernel could not hand over since the last call, because the readers had not taken those before.
	dropped(protocol Protocol) uint32
	// close ends the readers and returns when they are gone.
	close()
}

// A handler decides about one received frame and may send an answer. Several goroutines call it at once. The frame is overwritten after it
// returns.
type handler func(protocol Protocol, frame []byte, send func([]byte) error)

// maxFrame holds any solicitation; a longer frame is cut and then dropped as truncated.
const maxFrame = 2048

// sockets is a wire on a real interface.
type sockets struct {
	arp, ndp *packet.Conn
	readers  sync.WaitGroup

	groups groups
}

// openSockets opens both sockets of an interface in the network namespace of the calling thread and starts a reader for each. A reader that
// ends with an error, for instance because the interface is gone, calls failed.
func openSockets(iface Interface, handle handler, failed func(error)) (wire, error) {
	ifi := &net.Interface{Index: iface.Index, Name: iface.Name, HardwareAddr: iface.MAC}
	arpConn, err := neighbor.Listen(ifi, neighbor.TypeARP, arpFilter(iface.Index))
	if err != nil {
		return nil, fmt.Errorf("opening ARP socket: %w", err)
	}
	ndpConn, err := neighbor.Listen(ifi, neighbor.TypeIPv6, ndpFilter(iface.Index))
	if err != nil {
		_ = arpConn.Close()
		return nil, fmt.Errorf("opening NDP socket: %w", err)
	}
	s := &sockets{arp: arpConn, ndp: ndpConn, groups: groups{index: iface.Index, joined: map[netip.Addr]int{}, used: map[int]int{}}}
	s.readers.Go(func() { s.read(ARP, handle, failed) })
	s.readers.Go(func() { s.read(NDP, handle, failed) })
	return s, nil
}

func (s *sockets) conn(protocol Protocol) *packet.Conn {
	if protocol == ARP {
		return s.arp
	}
	return s.ndp
}

func (s *sockets) read(protocol Protocol, handle handler, failed func(error)) {
	conn, buf := s.conn(protocol), make([]byte, maxFrame)
	send := func(frame []byte) error { return s.send(protocol, frame) }
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failed(fmt.Errorf("reading %s: %w", protocol, err))
			return
		}
		handle(protocol, buf[:n], send)
	}
}

func (s *sockets) send(protocol Protocol, frame []byte) error {
	return neighbor.Send(s.conn(protocol), frame)
}

func (s *sockets) dropped(protocol Protocol) uint32 { return neighbor.Dropped(s.conn(protocol)) }

func (s *sockets) receiveAllMulticast(on bool) error {
	raw, err := s.ndp.SyscallConn()
	if err != nil {
		return err
	}
	option := unix.PACKET_DROP_MEMBERSHIP
	if on {
		option = unix.PACKET_ADD_MEMBERSHIP
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, option, &unix.PacketMreq{
			Ifindex: int32(s.groups.index), Type: unix.PACKET_MR_ALLMULTI,
		})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", optErr)
}

func (s *sockets) join(group netip.Addr) error { return s.groups.join(group) }
func (s *sockets) leave(group netip.Addr)      { s.groups.leave(group) }

func (s *sockets) close() {
	_ = s.arp.Close()
	_ = s.ndp.Close()
	s.groups.close()
	s.readers.Wait()
}

// groups are the multicast memberships of one interface. Each socket charges its memberships to net.core.optmem_max, about 365 at today's
// default and a sixth of that on kernels before 6.6, so a new socket is opened whenever the last one is full. The sockets are never bound:
// they take no port and receive nothing.
type groups struct {
	index  int
	fds    []int
	joined map[netip.Addr]int // group => socket
	used   map[int]int        // socket => groups
}

func (g *groups) join(group netip.Addr) error {
	if _, ok := g.joined[group]; ok {
		return nil
	}
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.index)}
	for range 2 {
		if len(g.fds) > 0 {
			fd := g.fds[len(g.fds)-1]
			err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)
			if err == nil {
				g.joined[group] = fd
				g.used[fd]++
				return nil
			}
			if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
				return fmt.Errorf("joining %s: %w", group, err)
			}
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening a socket to join %s: %w", group, err)
		}
		g.fds = append(g.fds, fd)
	}
	return fmt.Errorf("joining %s: %w", group, unix.ENOMEM)
}

// leave leaves a group; that the interface and with it the membership may be gone already is no error.
func (g *groups) leave(group netip.Addr) {
	fd, ok := g.joined[group]
	if !ok {
		return
	}
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.index)}
	_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, mreq)
	delete(g.joined, group)
	if g.used[fd]--; g.used[fd] == 0 { // only the last socket takes new groups
		_ = unix.Close(fd)
		delete(g.used, fd)
		g.fds = slices.DeleteFunc(g.fds, func(other int) bool { return other == fd })
	}
}

func (g *groups) close() {
	for _, fd := range g.fds {
		_ = unix.Close(fd)
	}
	g.fds = nil
}

// Both filters reject frames of a VLAN: an answer would go out untagged, to the wrong VLAN. If the VLAN has no device here, the kernel takes such
// a frame's tag away before we see it and leaves only a mark: the packet type becomes PACKET_OTHERHOST. That also covers frames for other
// stations on a promiscuous interface. A priority tag (VLAN 0) leaves no mark and is as good as none. If the VLAN has a device, eth0.7 say, the
// kernel shows its frames to the sockets of eth0 too, without any mark but that they belong to another interface.

func arpFilter(index int) []bpf.RawInstruction {
	return neighbor.Assemble(
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(index), SkipTrue: 7},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 5},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.TypeARP, SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)
}

func ndpFilter(index int) []bpf.RawInstruction {
	return neighbor.Assemble(
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(index), SkipTrue: 12},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 10},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.TypeIPv6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.NextHeaderICMP, SkipTrue: 4},
		bpf.LoadAbsolute{Off: neighbor.HeaderLen + ipv6.HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(neighbor.Solicitation), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(neighbor.Advertisement), SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	)
}
