// SPDX-License-Identifier: Apache-2.0

// Package bgp has the types of BGP (RFC 4271) with which a speaker is configured and in which it reports: a [Peer] with its defaults and
// its faults, a [Route] with its attributes and communities, the [Session] that consists of a Peer and its Routes, and the [SessionState]
// that says how the session goes.
//
// The package imports netip and package family alone, so that every program can use it: the speaker decides and explains with these types,
// and the controller manager writes the conditions of BGPPeers from them. Package gobgp speaks the protocol, in speakers only.
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

// A session that is trying to connect is Active: GoBGP does not tell Connect and Active apart.
const (
	Idle        State = "Idle"
	Active      State = "Active"
	OpenSent    State = "OpenSent"
	OpenConfirm State = "OpenConfirm"
	Established State = "Established"
)

// SessionState is what is known about a declared session.
type SessionState struct {
	// Peer is the peer's name, Address its address.
	Peer    string
	Address netip.Addr
	State   State
	// Since is when the session was established or, while it is not, when it was lost or declared.
	Since time.Time
	// RemoteASN and RouterID are what the peer's OPEN said. They stay after a loss.
	RemoteASN uint32
	RouterID  netip.Addr
	// Families are the negotiated ones, in the order of the peer's declaration; none while not Established.
	Families []family.Family
	// Advertised counts the prefixes that the peer has been sent, for each negotiated family.
	Advertised map[family.Family]int
	// Withheld counts the declared prefixes that the peer cannot be sent, for each family that has some: the family was
	// not negotiated, or they are IPv4 prefixes with an IPv6 next hop and the peer has not offered RFC 8950. Empty while
	// not Established.
	Withheld map[family.Family]int
	// LastError is the latest thing that went wrong. A session that is Established again keeps it.
	LastError string
}
