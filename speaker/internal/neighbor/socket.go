// SPDX-License-Identifier: Apache-2.0

package neighbor

import (
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveBuffer is what a socket can hold of frames that have not been read: the kernel gives it what net.core.rmem_max lets, which is twice the
// default, or some 500 frames.
const receiveBuffer = 1 << 20

// Listen opens a packet socket for frames of one Ethernet type on an interface that is up, in the network namespace of the calling thread.
// Binding to an interface that is down succeeds, and only the first read fails: here that is an error at once.
func Listen(iface *net.Interface, etherType int, filter []bpf.RawInstruction) (*packet.Conn, error) {
	conn, err := packet.Listen(iface, packet.Raw, etherType, &packet.Config{Filter: filter})
	if err != nil {
		return nil, err
	}
	enlargeBuffer(conn)
	if err := pendingError(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// enlargeBuffer gives the socket more room for what it receives. It works without, too.
func enlargeBuffer(conn *packet.Conn) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) })
	}
}

// pendingError returns what the next read would fail with.
func pendingError(conn *packet.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var errno int
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		errno, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	}); err != nil {
		return err
	}
	if optErr == nil && errno != 0 {
		optErr = syscall.Errno(errno)
	}
	return os.NewSyscallError("bind", optErr)
}

// Send sends a whole frame on the interface that the socket is bound to. It never waits: an interface whose queue is full must not hold up
// anything else.
func Send(conn *packet.Conn, frame []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Write(func(fd uintptr) bool {
		sendErr = unix.Send(int(fd), frame, unix.MSG_DONTWAIT)
		return true
	}); err != nil {
		return err
	}
	return os.NewSyscallError("send", sendErr)
}

// maxDrained is how many frames Drain reads at most, which is more than a socket holds.
const maxDrained = 4096

// Drain hands each frame that waits in a socket to receive, and returns when there is none left. It never waits, and returns even if a station
// sends faster than frames are read. The frame is overwritten after receive has returned. It reports whether frames were dropped by the
// kernel since the last call, or were left in the socket.
func Drain(conn *packet.Conn, buffer []byte, receive func(frame []byte)) (dropped bool, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var readErr error
	left := true
	if err := raw.Control(func(fd uintptr) {
		for range maxDrained {
			n, _, err := unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
			case err != nil:
				readErr = os.NewSyscallError("recvfrom", err)
			default:
				receive(buffer[:n])
				continue
			}
			left = false
			break
		}
	}); err != nil {
		return false, err
	}
	return Dropped(conn) > 0 || left, readErr
}

// Dropped returns how many frames the kernel had to drop since the last call, since the socket's buffer was full.
func Dropped(conn *packet.Conn) (frames uint32) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // Of a socket that is closed nothing is known.
		// Reading the counter resets it.
		if stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			frames = stats.Drops
		}
	})
	return frames
}

// Assemble returns a BPF program as the kernel takes it. A program that cannot be assembled is a fault of its author.
func Assemble(program ...bpf.Instruction) []bpf.RawInstruction {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic(err)
	}
	return raw
}
