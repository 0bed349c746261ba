// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// listSockets returns those TCP sockets of the network namespace that the calling thread is in which have to do with BGP: with the local port of
// BGP, or a remote port. The kernel looks at all, and tells of no others, of which a node with an ingress has thousands.
func listSockets(remotePort uint16) ([]socket, error) {
	// A socket of ours that is closed in between has no inode any more, and one that is opened in between is in the second list.
	before, err := ownInodes()
	if err != nil {
		return nil, err
	}
	var dumps [][]byte
	for _, af := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, ports := range [][2]uint16{{bgpPort, 0}, {0, remotePort}} {
			r := newDiagRequest(af, ports[0], ports[1])
			if ports[0] == 0 {
				r.States &^= 1 << netlink.TCP_LISTEN // which have no remote port
			}
			messages, err := r.execute(unix.NLM_F_DUMP)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				return nil, fmt.Errorf("asking the kernel for its TCP sockets: %w", err)
			}
			dumps = append(dumps, messages...)
		}
	}
	after, err := ownInodes()
	if err != nil {
		return nil, err
	}
	sockets := make([]socket, 0, len(dumps))
	for _, message := range dumps {
		a, err := parseDiag(message)
		if err != nil {
			return nil, err
		}
		s := socket{local: a.addrPort(a.Local, a.LocalPort), remote: a.addrPort(a.Remote, a.RemotePort), state: a.State}
		if a.Inode == 0 {
			// A connection from the router that is not accepted yet has no inode either.
			s.orphan, s.foreign = s.local.Port() != bgpPort, s.local.Port() == bgpPort
		} else {
			s.foreign = !before[a.Inode] && !after[a.Inode]
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// hasSocket reports whether this node has a connection with these ends that is not this process's own, or had one a moment ago. Packets of it
// come by the interface with that index. The kernel looks it up by its hash, which takes 20 µs where a list of all sockets takes a millisecond.
func hasSocket(local, remote netip.AddrPort, index int) bool {
	af := uint8(unix.AF_INET)
	if local.Addr().Is6() {
		af = unix.AF_INET6
	}
	r := newDiagRequest(af, local.Port(), remote.Port())
	copy(r.Local[:], local.Addr().AsSlice())
	copy(r.Remote[:], remote.Addr().AsSlice())
	r.Interface = uint32(index)
	messages, err := r.execute(0)
	if err != nil || len(messages) == 0 {
		return false // there is none
	}
	a, err := parseDiag(messages[0])
	if err != nil || a.State == netlink.TCP_LISTEN { // what the kernel finds where there is no connection
		return false
	}
	own, err := ownInodes()
	return err == nil && !own[a.Inode]
}

// diagID names a socket: struct inet_diag_sockid of the kernel's inet_diag.h.
type diagID struct {
	LocalPort, RemotePort [2]byte
	Local, Remote         [16]byte
	Interface             uint32
	Cookie                [2]uint32
}

// diagRequest asks for sockets: struct inet_diag_req_v2.
type diagRequest struct {
	Family, Protocol, Extensions, _ uint8
	States                          uint32
	diagID
}

// diagAnswer is a socket: struct inet_diag_msg.
type diagAnswer struct {
	Family, State, Timer, Retransmissions uint8
	diagID
	Expires, ReceiveQueue, SendQueue, UID, Inode uint32
}

// newDiagRequest asks for sockets in any state. A port of 0 stands for any in a dump.
func newDiagRequest(af uint8, localPort, remotePort uint16) *diagRequest {
	r := &diagRequest{Family: af, Protocol: unix.IPPROTO_TCP, States: ^uint32(0)}
	r.Cookie = [2]uint32{nl.TCPDIAG_NOCOOKIE, nl.TCPDIAG_NOCOOKIE}
	binary.BigEndian.PutUint16(r.LocalPort[:], localPort)
	binary.BigEndian.PutUint16(r.RemotePort[:], remotePort)
	return r
}

// Len implements nl.NetlinkRequestData.
func (r *diagRequest) Len() int { return binary.Size(r) }

// Serialize implements nl.NetlinkRequestData.
func (r *diagRequest) Serialize() []byte {
	b, _ := binary.Append(nil, binary.NativeEndian, r) // It has a fixed size, so that nothing can fail.
	return b
}

func (r *diagRequest) execute(flags int) ([][]byte, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, flags)
	request.AddData(r)
	return request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
}

func parseDiag(message []byte) (a diagAnswer, err error) {
	if _, err := binary.Decode(message, binary.NativeEndian, &a); err != nil {
		return a, fmt.Errorf("reading what the kernel says of a socket: %w", err)
	}
	return a, nil
}

// addrPort returns an end of the socket.
func (a *diagAnswer) addrPort(ip [16]byte, port [2]byte) netip.AddrPort {
	address := netip.AddrFrom16(ip).Unmap()
	if a.Family == unix.AF_INET {
		address = netip.AddrFrom4([4]byte(ip[:4]))
	}
	if address.Is6() && address.IsLinkLocalUnicast() {
		if iface, err := net.InterfaceByIndex(int(a.Interface)); err == nil {
			address = address.WithZone(iface.Name)
		}
	}
	return netip.AddrPortFrom(address, binary.BigEndian.Uint16(port[:]))
}

// ownInodes returns the inodes of this process's sockets.
func ownInodes() (map[uint32]bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := map[uint32]bool{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name())) // as in socket:[48213]; one that is closed meanwhile has none
		if number, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); err == nil {
				inodes[uint32(inode)] = true
			}
		}
	}
	return inodes, nil
}

// bootTime returns when the node has booted, by the clock of the wall. Where the kernel does not say it, that is long ago.
func bootTime() time.Time {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(info.Uptime) * time.Second)
}
