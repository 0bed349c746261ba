// SPDX-License-Identifier: Apache-2.0

// Package speaker announces the addresses of Services from one node.
//
// It computes one desired state for the node and hands it whole to each announcer, which works out the difference:
//
//	API objects ─┐
//	interfaces ──┼─▶ Snapshot ─▶ Decide ─▶ Desired ─┬─▶ layer2.Announcer   ARP and NDP
//	gossip ──────┘                                  ├─▶ bgp.Speaker        routes for each peer
//	                                                ├─▶ bfd.Speaker        peers to watch
//	                                                └─▶ records            who holds what, for kubectl and for the others
//
// [Decide] is pure. Around it one goroutine, in [Speaker.Run], takes a new snapshot whenever something has changed, and is the
// only one to do so.
//
// An address is announced where the Service publishes it, a claim of ours backs it, an advertisement selects it, and an
// endpoint of its family would get the traffic: without a ready endpoint nothing is announced, and with externalTrafficPolicy
// Local only where one runs. On layer 2 one node answers for all addresses of a Service, and of the Services that it shares
// addresses with; the node is elected by package election, for which every speaker publishes its interfaces in a
// SpeakerStatus and the holder itself in an L2Announcement. By BGP every node announces to every peer that selects it.
//
// The API may go away: what was read last stays in force, and deaths of nodes are still seen by gossip. A node that has lost the
// API and every other speaker is more likely cut off than alone in the world, so it stops answering on layer 2.
package speaker
