// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/tandem-lb/tandem/speaker/bfd"
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
)

func (e ends) port() uint16 {
	if e.multihop {
		return multihopPort
	}
	return linkPort
}

// dial returns a socket that sends to the peer, from a port of the range that RFC 5881 §4 asks for.
func dial(local, remote netip.Addr, port uint16) (*net.UDPConn, error) {
	var conn *net.UDPConn
	var err error
	for range 100 {
		source := uint16(firstSource + rand.IntN(lastSource-firstSource+1))
		conn, err = net.DialUDP("udp",
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, source)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, port)))
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sending from %v: %w", local, err)
	}
	if remote.Is4() {
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
		return nil, fmt.Errorf("setting the TTL of packets to %v: %w", remote, err)
	}
	return conn, nil
}

type listenerKey struct {
	local netip.Addr
	port  uint16
}

// listener receives for all sessions of one local address.
type listener struct {
	key     listenerKey
	conn    *net.UDPConn
	read    func([]byte) (n, ttl int, from net.Addr, err error)
	dropped *prometheus.CounterVec
	users   int // guarded by Speaker.mu

	mu sync.Mutex
	// mu guards sessions.
	sessions map[*session]bool
}

// listen returns the listener that a session needs, and counts it as a user.
func (s *Speaker) listen(w bfd.Session) (*listener, error) {
	key := listenerKey{w.Local, endsOf(w).port()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[key]; l != nil {
		l.users++
		return l, nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(key.local, key.port)))
	if err != nil {
		return nil, fmt.Errorf("receiving on port %d of %v (does another BFD daemon run on this node?): %w", key.port, key.local, err)
	}
	l := &listener{key: key, conn: conn, dropped: s.dropped, users: 1, sessions: map[*session]bool{}}
	if key.local.Is4() {
		c := ipv4.NewPacketConn(conn)
		err = c.SetControlMessage(ipv4.FlagTTL, true)
		l.read = func(b []byte) (int, int, net.Addr, error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm == nil {
				return n, 0, from, err
			}
			return n, cm.TTL, from, err
		}
	} else {
		c := ipv6.NewPacketConn(conn)
		err = c.SetControlMessage(ipv6.FlagHopLimit, true)
		l.read = func(b []byte) (int, int, net.Addr, error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm == nil {
				return n, 0, from, err
			}
			return n, cm.HopLimit, from, err
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking for the TTL of packets to %v: %w", key.local, err)
	}
	s.listeners[key] = l
	go l.run()
	return l, nil
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
	// Longer than any packet, which has at most 255 bytes.
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
		source, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		if reason := l.deliver(b[:n], ttl, source.AddrPort().Addr().Unmap()); reason != "" {
			l.drop(reason)
		}
	}
}

func (l *listener) drop(reason dropReason) { l.dropped.WithLabelValues(string(reason)).Inc() }

// deliver hands a packet to its session, or says why the packet is dropped.
func (l *listener) deliver(b []byte, ttl int, from netip.Addr) (reason dropReason) {
	p, err := bfd.Parse(b)
	if err != nil {
		return dropMalformed
	}
	s := l.find(p, from)
	switch {
	case s == nil:
		return dropNoSession
	case !s.declared.Multihop && ttl != maxTTL, s.declared.Multihop && ttl < int(s.declared.MinimumTTL):
		return dropTTL
	}
	select {
	case s.packets <- p:
		return ""
	default:
		return dropBusy
	}
}

// find returns the session whose peer sent a packet (RFC 5880 §6.8.6), or nil if there is none. If the packet names a discriminator, it has
// to be that of the session.
func (l *listener) find(p bfd.Packet, from netip.Addr) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		if s.declared.Remote == from && (p.YourDiscriminator == 0 || p.YourDiscriminator == s.discriminator) {
			return s
		}
	}
	return nil
}
