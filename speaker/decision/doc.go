// SPDX-License-Identifier: Apache-2.0

// Package decision works out what a node announces from everything that it knows at one moment, and says why not more.
//
//	API objects ─┐                           Layer2    an address and the interfaces that answer for it
//	interfaces ──┼─▶ Snapshot ─▶ Decide ─▶   Records   Services that this node holds on layer 2
//	gossip ──────┘        │                  BGP, BFD  whole sessions: peers, routes, next hops
//	                      │                  Peers     with a session or without
//	                      │                  Problems  why a peer has no session, or less than it should
//	                      │                  Doubts    why a session may not come up
//	                      └─────▶ Explain ─▶ for each address, node and way: announced, or the one reason why not
//
// [Decide] and [Explain] are pure. They have no client, no clock and no memory: what takes time (a speaker that has just started, a route
// that is gone and was there a moment ago) is said in the [Snapshot]. Speakers with the same view come to the same answer, and a test or a
// command that has the Snapshot of a speaker comes to the answer of that speaker.
//
// # What is announced
//
// An address is announced where the Service publishes it, a claim of ours backs it, an advertisement selects it, and an endpoint of its
// family would get the traffic: without a ready endpoint nothing is announced, and with externalTrafficPolicy Local only where one runs.
//
// On layer 2 one node answers for all addresses of a Service, and of the Services that it shares addresses with: the holder of the sharing
// group. The recorded holder keeps the group while its speaker is alive and it can serve as much of it as any node could; else package
// election elects one among the candidates. For example, web has 192.0.2.10 and 2001:db8::10, and node2, which is on record, loses its IPv6
// address: a node that has both subnets takes both addresses, and if there is none, node2 keeps the one.
//
// By BGP every node announces to every peer that selects it, each address in the prefix of its advertisement's aggregation length.
package decision
