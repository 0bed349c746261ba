// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// memoryTime is for how long another program's connection is remembered after it was seen last. It is longer than the upgrade of a
	// daemon takes, its image included.
	memoryTime = 10 * time.Minute
	// bootPhase is how long after the boot of the node its programs may still be starting, and listenerPatience for how long a program that
	// listens for BGP is given time to open its session.
	bootPhase        = 5 * time.Minute
	listenerPatience = time.Minute
	// bgpPort is where routers listen (RFC 4271 §8.2.1).
	bgpPort = 179
)

// A socket is a TCP socket of the node. Addresses are IPv4 or IPv6, none is IPv4 in IPv6 form, and link-local ones have their interface as
// the zone.
type socket struct {
	local, remote netip.AddrPort
	state         uint8 // as netlink.TCP_ESTABLISHED and the like
	// foreign says that another process has it, orphan that no process has it any more: it is left of a connection that was closed.
	foreign, orphan bool
}

// listensForBGP reports whether another program accepts sessions by this socket.
func (s socket) listensForBGP() bool {
	return s.foreign && s.state == netlink.TCP_LISTEN && s.local.Port() == bgpPort
}

// A connection is that of a session: from an address of this node to a router.
type connection struct {
	local  netip.Addr // the zero Addr while there is no route to the router: then no other session is in the way, and none can be opened
	remote netip.AddrPort
}

// isTakenBy reports whether a socket is another program's session with the same router, or about to be: one that this node has opened, or
// one that the router has.
func (c connection) isTakenBy(s socket) bool {
	switch s.state {
	case netlink.TCP_SYN_SENT, netlink.TCP_SYN_RECV, netlink.TCP_ESTABLISHED:
	default:
		return false
	}
	return s.foreign && s.remote.Addr() == c.remote.Addr() && s.local.Addr() == c.local &&
		(s.remote.Port() == c.remote.Port() || s.local.Port() == bgpPort)
}

// memory is what is remembered for a session. The zero memory has seen nothing.
type memory struct {
	seen time.Time // when another program had the session last
}

// advice is what a user can do about another program.
const advice = "let that program announce, as an InterfaceAdvertisement makes it do, or give spec.sourceAddress another address of the node"

// see takes in that another program has the session, and returns that as the reason to leave the router alone.
func (m *memory) see(now time.Time, c connection) error {
	m.seen = now
	router := c.remote.Addr().WithZone("").String()
	if c.remote.Addr().Is6() {
		router = "[" + router + "]"
	}
	return fmt.Errorf("another program on this node already has a BGP session with this router, or is opening one "+
		"(`ss -tnp 'dst %s'` names it), and a router keeps one for each address: %s", router, advice)
}

// judge takes in which sockets there are, and returns why the connection is not to be ours now, or nil. Startup is until when others of a node
// that has just booted go first. The texts of two looks at the same state of things are equal.
func (m *memory) judge(now, startup time.Time, c connection, sockets []socket) error {
	if slices.ContainsFunc(sockets, c.isTakenBy) {
		return m.see(now, c)
	}
	if again := m.seen.Add(memoryTime); !m.seen.IsZero() && now.Before(again) {
		return fmt.Errorf("another program on this node had a BGP session with this router until a moment ago and may want it back: "+
			"it is left alone until %s, or until the BGPPeer is changed; %s", again.UTC().Format(time.TimeOnly+" MST"), advice)
	}
	if now.Before(startup) {
		return fmt.Errorf("this node has just booted, and another program on it listens on port %d: its sessions go first, until %s",
			bgpPort, startup.UTC().Format(time.TimeOnly+" MST"))
	}
	return nil
}
