// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// evictingListener keeps at most limit connections open. A new one is always accepted. If it is one too many, the oldest connection of the
// source that has the most is closed. For example, 64 connections are the limit, 192.0.2.66 holds 63 of them, and Prometheus at 192.0.2.5 one:
// each further connection of 192.0.2.66 ends one of its own. A listener that made new connections wait would let the first 64 keep all others
// out.
type evictingListener struct {
	net.Listener
	limit int

	mu   sync.Mutex
	open []*connection // the oldest first; guarded by mu
}

// connection is a connection that leaves its listener's list when it is closed.
type connection struct {
	net.Conn
	source   netip.Prefix
	listener *evictingListener
}

// Accept implements net.Listener.
func (l *evictingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, source: source(conn.RemoteAddr().String()), listener: l}
	if evicted := l.add(c); evicted != nil {
		_ = evicted.Conn.Close()
	}
	return c, nil
}

// add puts c on the list. It returns the connection that had to leave it, if any.
func (l *evictingListener) add(c *connection) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, c)
	if len(l.open) <= l.limit {
		return nil
	}
	counts := map[netip.Prefix]int{}
	for _, other := range l.open {
		counts[other.source]++
	}
	victim := 0
	for i, other := range l.open {
		if counts[other.source] > counts[l.open[victim].source] {
			victim = i
		}
	}
	evicted := l.open[victim]
	l.open = slices.Delete(l.open, victim, victim+1)
	return evicted
}

// Close closes the connection, once or more often.
func (c *connection) Close() error {
	c.listener.mu.Lock()
	if i := slices.Index(c.listener.open, c); i >= 0 {
		c.listener.open = slices.Delete(c.listener.open, i, i+1)
	}
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// source returns what tells callers apart: the IPv4 address, or the first 64 bits of the IPv6 address, of which a host has all the others.
func source(remote string) netip.Prefix {
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
