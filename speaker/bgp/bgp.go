// SPDX-License-Identifier: Apache-2.0

// Package bgp has the types of BGP (RFC 4271) with which a speaker is configured and in which it reports: a [Peer] with its defaults and
// its faults, a [Route] with its attributes and communities, the [Session] that consists of a Peer and its Routes, and the [SessionState]
// that says how the session goes.
//
// The package imports netip and package family alone, so that every program can use it: the speaker decides and explains with these types,
// and the controller manager writes the conditions of BGPPeers from them. Package fsm speaks the protocol, in speakers only.
package bgp

import (
	"net/netip"
	"time"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Session is a peer and everything that it is to be told.
type Session struct {
	Peer   Peer
	Routes []Route
}

// CloseMode says how sessions end.
type CloseMode string

const (
	// Withdraw takes every prefix back, then sends CEASE.
	Withdraw CloseMode = "Withdraw"
	// Restart closes the connection without a NOTIFICATION where graceful restart is enabled, so that the peer keeps
	// the routes for the restart time (RFC 4724 §4.2). Other peers get CEASE.
	Restart CloseMode = "Restart"
)

// State is a state of the BGP finite state machine (RFC 4271 §8.2.2).
type State string

// A session that opens a connection, or waits to open the next one, is Active; RFC 4271 calls the first of the two Connect. One that must
// open none for now is Idle, and its LastError says why.
const (
	Idle        State = "Idle"
	Active      State = "Active"
	OpenSent    State = "OpenSent"
	OpenConfirm State = "OpenConfirm"
	Established State = "Established"
)

// RouteState is a declared route as the peer is told it, and whether it has been.
type RouteState struct {
	// Route has the attributes that the peer is told: no LocalPref where the session is external, and no Prepend where it is internal.
	Route
	// Withheld says why the peer of the session has not been sent the route; it is empty if it has.
	Withheld string
}

// SessionState is what is known about a declared session. A field that says so describes an established session, and has its zero value
// while there is none.
type SessionState struct {
	// Peer is the peer's name, Address its address.
	Peer    string
	Address netip.Addr
	State   State
	// Since is when the session was established or, while it is not, when it was lost or declared.
	Since time.Time
	// Local is this node's address of the established session, which the kernel has chosen where the peer has no SourceAddress. A link-local
	// one has its interface as the zone.
	Local netip.Addr
	// RemoteASN and RouterID are what the peer's OPEN said. They stay after a loss.
	RemoteASN uint32
	RouterID  netip.Addr
	// Families are the negotiated ones of the established session, in the order of the peer's declaration.
	Families []family.Family
	// HoldTime is the negotiated one of the established session: the lesser of the two that were proposed, and 0 where neither side sends
	// KEEPALIVEs.
	HoldTime time.Duration
	// GracefulRestart says of the established session that both sides have agreed to RFC 4724, so that the peer keeps the routes while this
	// speaker restarts.
	GracefulRestart bool
	// Advertised counts the prefixes that the peer has been sent, for each negotiated family.
	Advertised map[family.Family]int
	// Withheld counts the declared prefixes that the peer of the established session cannot be sent, for each family that has some: the
	// family was not negotiated, or they are IPv4 prefixes with an IPv6 next hop and the peer has not offered RFC 8950.
	Withheld map[family.Family]int
	// Received counts the prefixes that the peer of the established session announces, for each negotiated family. Nothing is done with
	// them. Where Peer.MaxReceivedPrefixes sets no bound, the sum of the counts stops at 100,000.
	Received map[family.Family]int
	// LastError is the latest thing that went wrong, and LastErrorAt when it did so first. While the session is not established, it is why
	// the session was lost, followed by why the latest attempt since has failed. A session that is established again keeps the first part.
	// For example, "hold timer expired; since then: dial tcp 192.0.2.1:179: connect: connection refused" becomes "hold timer expired".
	LastError   string
	LastErrorAt time.Time
}
