// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/bgp"
)

const (
	// A connection is waited for as long as ConnectTime says, within these bounds. In 3 s the kernel sends its SYN three times; after 15 s it
	// would wait so long for the next one that a new attempt is better.
	leastDialTimeout = 3 * time.Second
	mostDialTimeout  = 15 * time.Second

	// Class selector 6, for network control, as FRR and BIRD have it (RFC 4594 §3.1): in the upper six bits of the field.
	trafficClass = 48 << 2
	// The greatest TTL is what GTSM wants to see (RFC 5082 §3), and does no harm elsewhere.
	mostTTL = 255
)

// dial opens the TCP connection to a peer.
func dial(ctx context.Context, peer bgp.Peer) (net.Conn, error) {
	d := net.Dialer{
		Timeout: min(max(peer.ConnectTime, leastDialTimeout), mostDialTimeout),
		ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
			var failed error
			if err := raw.Control(func(fd uintptr) { failed = setOptions(int(fd), peer) }); err != nil {
				return err
			}
			return failed
		},
	}
	source, err := withIndex(peer.SourceAddress)
	if err != nil {
		return nil, err
	}
	remote, err := withIndex(peer.Address)
	if err != nil {
		return nil, err
	}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(remote, peer.Port).String())
	if op, ok := errors.AsType[*net.OpError](err); ok { // for people the zone is a name
		op.Addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(peer.Address, peer.Port))
	}
	return conn, err
}

// withIndex returns a link-local address with the index of its interface as the zone. Package net remembers for a minute which index a name had, and
// a link that is made anew has another one.
func withIndex(a netip.Addr) (netip.Addr, error) {
	if a.Zone() == "" {
		return a, nil
	}
	iface, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return a, fmt.Errorf("looking up interface %s: %w", a.Zone(), err)
	}
	return a.WithZone(strconv.Itoa(iface.Index)), nil
}

// dialFailure says why dial has failed, and what else looks the same.
func dialFailure(err error, peer bgp.Peer) string {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return err.Error()
	}
	// By RFC 2385 §4.1 and RFC 5082 §3 a packet with a wrong signature or TTL is dropped, and not answered.
	text := fmt.Sprintf("%v: no answer from the peer; a different password or TTL security looks the same", err)
	if peer.IsExternal() && !peer.EBGPMultiHop && peer.TTLSecurityHops <= 1 {
		text += ", and so does a peer that is behind a router, and is not set up for that (ebgpMultiHop, and the same on the peer)"
	}
	return text
}

// setOptions sets the options of the socket before it connects, so that they hold for the first packet.
func setOptions(fd int, peer bgp.Peer) error {
	type option struct{ level, name, value int }
	options := []option{
		{unix.IPPROTO_IP, unix.IP_TTL, mostTTL},
		{unix.IPPROTO_IP, unix.IP_TOS, trafficClass},
		{unix.IPPROTO_IP, unix.IP_MINTTL, leastTTL(peer)},
	}
	if peer.Address.Is6() {
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, mostTTL},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, trafficClass},
			{unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, leastTTL(peer)},
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("setting option %d of level %d: %w", o.name, o.level, err)
		}
	}
	if device := peer.Device(); device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("binding to interface %s: %w", device, err)
		}
	}
	if peer.Password == "" {
		return nil
	}
	return setPassword(fd, peer)
}

// leastTTL is what packets of the peer have to arrive with: 255 on the link, and one less for each router on the way. 0 is anything.
func leastTTL(peer bgp.Peer) int {
	if peer.TTLSecurityHops == 0 {
		return 0
	}
	return mostTTL + 1 - int(peer.TTLSecurityHops)
}

// setPassword has the kernel sign packets to the peer, and drop those of it that are not signed (RFC 2385).
func setPassword(fd int, peer bgp.Peer) error {
	signature := unix.TCPMD5Sig{Keylen: uint16(len(peer.Password))}
	copy(signature.Key[:], peer.Password)
	// The address is in a struct sockaddr_in, after the port, or sockaddr_in6, after the port and the flow label.
	if peer.Address.Is4() {
		signature.Addr.Family = unix.AF_INET
		copy(signature.Addr.Data[2:], peer.Address.AsSlice())
	} else {
		signature.Addr.Family = unix.AF_INET6
		copy(signature.Addr.Data[6:], peer.Address.AsSlice())
	}
	if peer.VRF != "" { // The kernel looks keys up by routing domain.
		vrf, err := net.InterfaceByName(peer.VRF)
		if err != nil {
			return fmt.Errorf("looking up VRF %s: %w", peer.VRF, err)
		}
		signature.Ifindex, signature.Flags = int32(vrf.Index), unix.TCP_MD5SIG_FLAG_IFINDEX
	}
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG_EXT, &signature); err != nil {
		return fmt.Errorf("setting the password: %w", err)
	}
	return nil
}
