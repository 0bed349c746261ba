// SPDX-License-Identifier: Apache-2.0

// Package connections bounds the open connections of Tandem's TCP ports, which every host on the networks of the node reaches.
//
// A new connection is always taken. If it is one too many, the oldest connection of the source that has the most is closed. For example, 64
// connections are the limit, 192.0.2.66 holds 63 of them, and Prometheus at 192.0.2.5 one: each further connection of 192.0.2.66 ends one of its own.
// A limit that made new connections wait would let the first 64 keep all others out.
//
// What the open connections have been sent is bounded likewise where a server keeps it. If it is too much, the source that has sent most loses the
// connection by which it has sent most.
package connections

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Set is a set of open connections, at most Limit of them.
type Set struct {
	Limit int
	// Bytes bounds what all open connections together have been sent; zero is no bound.
	Bytes int

	mu       sync.Mutex    // guards what follows
	open     []*connection // the oldest first
	received int           // by those that are open
}

// connection is a connection that leaves its set when it is closed.
type connection struct {
	net.Conn
	source   netip.Prefix
	set      *Set
	received int // guarded by set.mu
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
	victim := s.open[0]
	for _, other := range s.open {
		if counts[other.source] > counts[victim.source] {
			victim = other
		}
	}
	s.remove(victim)
	return victim
}

// receive counts what c has been sent. It returns the connection that had to leave the set for it, if any.
func (s *Set) receive(c *connection, n int) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Bytes == 0 || !slices.Contains(s.open, c) {
		return nil
	}
	c.received += n
	s.received += n
	if s.received <= s.Bytes {
		return nil
	}
	sums := map[netip.Prefix]int{}
	for _, other := range s.open {
		sums[other.source] += other.received
	}
	victim := c
	for _, other := range s.open {
		if cmp.Or(cmp.Compare(sums[other.source], sums[victim.source]), cmp.Compare(other.received, victim.received)) > 0 {
			victim = other
		}
	}
	s.remove(victim)
	return victim
}

// remove takes c out of the set if it is in it. mu is held.
func (s *Set) remove(c *connection) {
	if i := slices.Index(s.open, c); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
		s.received -= c.received
	}
}

// Read implements net.Conn.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if evicted := c.set.receive(c, n); evicted != nil {
		_ = evicted.Conn.Close()
	}
	return n, err
}

// Close closes the connection, once or more often.
func (c *connection) Close() error {
	c.set.mu.Lock()
	c.set.remove(c)
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
