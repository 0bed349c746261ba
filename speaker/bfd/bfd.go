// SPDX-License-Identifier: Apache-2.0

// Package bfd is the protocol of bidirectional forwarding detection, RFC 5880 in asynchronous mode, by which a node watches its peers. Both
// sides send a small packet every few milliseconds. A side that does not receive some in a row takes the other for dead, long before a BGP
// hold timer would.
//
// A [Session] declares a peer to watch. A [Machine] is the protocol of one session: it has neither clock nor socket. A [Packet] is what
// both sides send. Package udp below it runs machines, on one link (RFC 5881) or over several hops (RFC 5883).
//
// # A process that restarts
//
// A node whose speaker restarts forwards all the while, and the peer must not take it for dead. So the machine of a process that stops
// agrees with the peer on slow packets (Suspend), and is silent then. The machine of the process that follows waits (Await) until it hears
// the peer, whose packet says that the session is up and names both discriminators; it takes the session over, and is soon as fast as
// before:
//
//	old process                       peer                           new process
//	Poll, 10 s between packets   →
//	                             ←    Final; it now waits for 30 s
//	ends
//	                                  Up, discriminators 7 and 9  →   is 9, and Up
//	                             ←    Poll, 1 s between packets, and after 5 s 100 ms
//
// A crash is not covered: the peer notices it like the death of the node.
//
// # What is not built
//
// This side never asks for demand mode, but follows a peer that does. Echo packets are neither sent nor asked for: they would have to be
// looped by the peer's forwarding plane to a port of this node, while control packets every few milliseconds find the same failures. There
// is no authentication.
package bfd

import (
	"net/netip"
	"time"
)

// Session is a peer to watch.
type Session struct {
	// Name is what the session is called in states, metrics and OnDown.
	Name string
	// Remote and Local are the ends, of one family. Link-local addresses have the interface as their zone.
	Remote, Local netip.Addr
	// Multihop says that there may be routers between the ends. Packets that arrive with a TTL or hop limit below MinimumTTL are dropped
	// then.
	Multihop   bool
	MinimumTTL uint8
	Params
}

// SessionState is what is known about a declared session.
type SessionState struct {
	Name  string
	State State
	// Since is when the session came into its state.
	Since time.Time
	// Diagnostic says why the session left the state Up the last time.
	Diagnostic Diagnostic
	// RemoteState is the state of the peer, as its last packet says.
	RemoteState State
	// Transmit is the interval of sending, Detection how long the peer may be silent. Both are zero before the first packet of the peer.
	Transmit, Detection time.Duration
	// Downs counts how often the session has failed.
	Downs uint64
}
