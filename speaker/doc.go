// SPDX-License-Identifier: Apache-2.0

// Package speaker announces the addresses of Services from one node.
//
// It works out one desired state for the node and hands it whole to each announcer, which works out the difference:
//
//	API objects ─┐
//	interfaces ──┼─▶ Snapshot ─▶ Decide ─▶ Desired ─┬─▶ layer2.Announcer   ARP and NDP
//	gossip ──────┘                                  ├─▶ fsm.Speaker        sessions and routes
//	                                                ├─▶ udp.Speaker        peers to watch by BFD
//	                                                └─▶ records            this node as the holder of addresses on layer 2
//
// Package decision, which is pure, says what is announced and why. Around it one goroutine, in [Speaker.Run], takes a new snapshot whenever
// something has changed, and is the only one to do so. So that all speakers come to the same answer, each publishes its interfaces in a
// SpeakerStatus, and the holder of addresses on layer 2 itself in an L2Announcement.
//
// The API may go away: what was read last stays in force, and deaths of nodes are still seen by gossip. A node that has lost the
// API and every other speaker is more likely cut off than alone in the world, so it stops answering on layer 2.
package speaker
