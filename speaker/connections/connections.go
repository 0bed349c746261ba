// SPDX-License-Identifier: Apache-2.0

// Package connections bounds the open connections of Tandem's TCP ports, which every host on the networks of the node reaches.
//
// A new connection is always taken. If it is one too many, the oldest connection of the source that has the most is closed. For example, 64
// connections are the limit, 192.0.2.66 holds 63 of them, and Prometheus at 192.0.2.5 one: each further connection of 192.0.2.66 ends one of its own.
// A limit that made new connections wait would let the first 64 keep all others out.
package connections

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Set is a set of open connections, at most Limit of them.
type Set struct {
	Limit int

	mu   sync.Mutex
	open []*connection // the oldest first; guarded by mu
}

// connection is a connection that leaves its set when it is closed.
type connection struct {
	net.Conn
	source netip.Prefix
	set    *Set
}

// Add takes a connection into the set, and closes the one that has to leave the set for it, if any. The connection that it returns is to be
// used, and closed, instead of conn.
func (s *Set) Add(conn net.Conn) net.Conn {
	c := &connection{Conn: conn, source: Source(conn.RemoteAddr().String()), set: s}
	if evicted := s.add(c); evicted != nil {
		_ = evicted.Conn.Close()
	}
	return c
}

// Len returns the number of open connections.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// add puts c into the set. It returns the connection that had to leave it, if any.
func (s *Set) add(c *connection) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, c)
	if len(s.open) <= s.Limit {
		return nil
	}
	counts := map[netip.Prefix]int{}
	for _, other := range s.open {
		counts[other.source]++
	}
	victim := 0
	for i, other := range s.open {
		if counts[other.source] > counts[s.open[victim].source] {
			victim = i
		}
	}
	evicted := s.open[victim]
	s.open = slices.Delete(s.open, victim, victim+1)
	return evicted
}

// Close closes the connection, once or more often.
func (c *connection) Close() error {
	c.set.mu.Lock()
	if i := slices.Index(c.set.open, c); i >= 0 {
		c.set.open = slices.Delete(c.set.open, i, i+1)
	}
	c.set.mu.Unlock()
	return c.Conn.Close()
}

// Listener is a listener whose connections are those of a set.
type Listener struct {
	net.Listener
	*Set
}

// Accept implements net.Listener.
func (l Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.Add(conn), nil
}

// Source returns what tells callers apart: the IPv4 address, or the first 64 bits of the IPv6 address, of which a host has all the others. The zero
// Prefix is that of an address that is none.
func Source(remote string) netip.Prefix {
	parsed, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	address := parsed.Addr().Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits)
	return prefix
}
