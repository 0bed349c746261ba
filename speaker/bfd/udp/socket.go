// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

const (
	// linkPort and multihopPort are where packets are sent to (RFC 5881 §4, RFC 5883 §5).
	linkPort, multihopPort = 3784, 4784
	// firstSource and lastSource are the first and last of the ports that packets may come from (RFC 5881 §4).
	firstSource, lastSource = 49152, 65535
	// maxTTL is the TTL or hop limit that packets are sent with, and on one link arrive with.
	maxTTL = 255
	// trafficClass is CS6, that of routing protocols, which lossy links drop last.
	trafficClass = 0xc0
	// unreadPause is how long a listener waits after an error, so that a socket which fails at once does not occupy a processor.
	unreadPause = 10 * time.Millisecond
	// headerLength is that of a UDP header, which a raw socket delivers with the packet (RFC 768).
	headerLength = 8
)

func (e ends) port() uint16 {
	if e.multihop {
		return multihopPort
	}
	return linkPort
}

// open returns a socket that sends from a port of the range that RFC 5881 §4 asks for. It is not connected: the kernel would report that
// the peer refuses packets, as one that has just restarted does, and lose the next packet by that.
func open(local netip.Addr) (*net.UDPConn, error) {
	var conn *net.UDPConn
	var err error
	for range 100 {
		source := uint16(firstSource + rand.IntN(lastSource-firstSource+1))
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, source)))
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sending from %v: %w", local, err)
	}
	if local.Is4() {
		c := ipv4.NewConn(conn)
		if err = c.SetTTL(maxTTL); err == nil {
			err = c.SetTOS(trafficClass)
		}
	} else {
		c := ipv6.NewConn(conn)
		if err = c.SetHopLimit(maxTTL); err == nil {
			err = c.SetTrafficClass(trafficClass)
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("setting the TTL of packets from %v: %w", local, err)
	}
	return conn, nil
}

type listenerKey struct {
	local netip.Addr
	port  uint16
	index int // as in ends
}

// listener receives for all sessions of one local address, by a raw socket: see the package comment.
type listener struct {
	key     listenerKey
	conn    *net.IPConn
	read    func([]byte) (n, ttl int, from net.Addr, err error)
	dropped *prometheus.CounterVec
	users   int // guarded by Speaker.mu

	mu sync.Mutex
	// mu guards sessions.
	sessions map[*session]bool
}

// listen returns the listener that a session needs, and counts it as a user.
func (s *Speaker) listen(at ends) (*listener, error) {
	key := listenerKey{at.local, at.port(), at.index}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[key]; l != nil {
		l.users++
		return l, nil
	}
	network := "ip4:17"
	if key.local.Is6() {
		network = "ip6:17"
	}
	conn, err := net.ListenIP(network, &net.IPAddr{IP: key.local.AsSlice(), Zone: at.here(key.local).Zone()})
	if err != nil {
		return nil, fmt.Errorf("receiving on %v: %w", key.local, err)
	}
	l := &listener{key: key, conn: conn, dropped: s.dropped, users: 1, sessions: map[*session]bool{}}
	if err := l.prepare(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("preparing to receive on %v: %w", key.local, err)
	}
	s.listeners[key] = l
	go l.run()
	return l, nil
}

// prepare has the socket receive packets to the port alone, with their TTLs or hop limits.
func (l *listener) prepare() error {
	if l.key.local.Is4() {
		c := ipv4.NewPacketConn(l.conn)
		l.read = func(b []byte) (int, int, net.Addr, error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm == nil {
				return n, 0, from, err
			}
			return n, cm.TTL, from, err
		}
		// The filter sees the IPv4 header as well.
		program := filter(l.key.port, bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 2, Size: 2})
		return errors.Join(c.SetControlMessage(ipv4.FlagTTL, true), c.SetBPF(program))
	}
	c := ipv6.NewPacketConn(l.conn)
	l.read = func(b []byte) (int, int, net.Addr, error) {
		n, cm, from, err := c.ReadFrom(b)
		if cm == nil {
			return n, 0, from, err
		}
		return n, cm.HopLimit, from, err
	}
	return errors.Join(c.SetControlMessage(ipv6.FlagHopLimit, true), c.SetBPF(filter(l.key.port, bpf.LoadAbsolute{Off: 2, Size: 2})))
}

// filter returns a program that passes packets to a port, which load has put into the accumulator.
func filter(port uint16, load ...bpf.Instruction) []bpf.RawInstruction {
	return neighbor.Assemble(append(load,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipFalse: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	)...)
}

// release says that a session does not use a listener any more. The listener ends with its last user.
func (s *Speaker) release(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.listeners, l.key)
		l.conn.Close()
	}
}

func (l *listener) add(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[s] = true
}

func (l *listener) remove(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
}

// run receives until the socket is closed.
func (l *listener) run() {
	// Longer than any packet, which has at most 255 bytes and its header.
	b := make([]byte, 512)
	for {
		n, ttl, from, err := l.read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.drop(dropUnread)
			time.Sleep(unreadPause)
			continue
		}
		source, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		address, _ := netip.AddrFromSlice(source.IP)
		if reason := l.deliver(b[:n], ttl, address.Unmap().WithZone(source.Zone)); reason != "" {
			l.drop(reason)
		}
	}
}

func (l *listener) drop(reason dropReason) { l.dropped.WithLabelValues(string(reason)).Inc() }

// deliver hands a packet, which begins with its UDP header, to its session, or says why the packet is dropped. The checksum of UDP is not
// looked at: virtual links leave it to be filled in by a card that the packet never meets.
func (l *listener) deliver(b []byte, ttl int, from netip.Addr) (reason dropReason) {
	if len(b) < headerLength {
		return dropMalformed
	}
	p, err := bfd.Parse(b[headerLength:])
	if err != nil {
		return dropMalformed
	}
	s := l.find(p, from)
	switch {
	case s == nil:
		return dropNoSession
	case !s.multihop && ttl != maxTTL, s.multihop && ttl < int(s.minimumTTL.Load()):
		return dropTTL
	}
	select {
	case s.packets <- received{p, binary.BigEndian.Uint16(b)}:
		return ""
	default:
		return dropBusy
	}
}

// find returns the session whose peer sent a packet (RFC 5880 §6.8.6), or nil if there is none. If the packet names a discriminator, it has
// to be that of the session, which can be any while the session waits for one to take over.
func (l *listener) find(p bfd.Packet, from netip.Addr) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		if mine := s.discriminator.Load(); s.remote == from && (p.YourDiscriminator == 0 || mine == 0 || p.YourDiscriminator == mine) {
			return s
		}
	}
	return nil
}
