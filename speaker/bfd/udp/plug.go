// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A plug is a UDP socket that takes the packets of one peer and reads none of them: the listener's raw socket receives them as well.
// Without it the kernel would hand them to another BFD daemon of this node, which logs each as one of an unknown session, or tell the peer
// that the port is closed. The zero plug is not open.
//
// Since it is connected, from 198.51.100.11:3784 to 198.51.100.1:49160 for example, it takes no packet of any other peer, and a daemon that
// has port 3784 of all addresses keeps its own peers, whichever of the two is there first.
type plug struct {
	conn net.Conn
	port uint16 // of the peer
}

// set opens the plug for the port that the peer sends from, instead of the one before. A plug that cannot be opened is done without.
func (p *plug) set(local, remote netip.AddrPort) {
	if p.port == remote.Port() {
		return
	}
	p.close()
	p.port = remote.Port()
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(local), Control: reuseAddress}
	conn, err := dialer.Dial("udp", remote.String())
	if err != nil {
		return
	}
	p.conn = conn
	go func() {
		b := make([]byte, 1)
		for err := error(nil); err == nil; {
			_, err = conn.Read(b)
		}
	}()
}

// reuseAddress lets a socket have a port that another program has for all addresses, if that program does the same, as BIRD and FRR do.
func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var optErr error
	err := raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, optErr)
}

// close closes the plug if it is open.
func (p *plug) close() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	*p = plug{}
}
