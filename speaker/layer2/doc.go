// SPDX-License-Identifier: Apache-2.0

// Package layer2 answers ARP and NDP for the addresses that this node announces, so that neighbours on the LAN send the traffic for them
// here although no interface holds them.
//
// The caller declares everything at once, and the [Announcer] works out what changed: [Announcer.Set] names the addresses and the
// interfaces each is announced on, [Announcer.SetInterfaces] says which of these interfaces can be used and with which MAC. Which node
// shall announce an address is not decided here.
//
// # What is answered
//
// Each interface with at least one address has two AF_PACKET sockets, one for ARP (RFC 826) and one for Neighbour Solicitations and
// Advertisements (RFC 4861), each with a BPF filter that lets nothing else through. An AF_PACKET socket is needed for NDP too: a raw ICMPv6
// socket never sees a unicast solicitation for an address that the kernel does not hold, and neighbours refresh their caches by unicast.
// What to do with a frame is decided by two pure functions, decideARP and decideNDP. A frame is answered exactly once or dropped for a
// [DropReason], and each has its counter. Frames of a VLAN are rejected by the filter itself, whether the VLAN has a device here or not; the
// tests' kernels have no such devices, and try it with a macvlan, whose frames come the same way. What the kernel drops, since a reader did not
// come to take it, is counted every ten seconds.
//
// # Where answers come from
//
// All frames are written whole, Ethernet header included, so that the kernel selects neither source nor route and an interface without a
// usable link-local address (tentative, duplicate, or none at all) answers like any other. The IPv6 source of an advertisement is the
// announced address itself. RFC 4861 §4.4 allows any address assigned to the interface, and Linux does the same for its own addresses.
//
// # Probing
//
// An address that was never announced on an interface is asked for before: by ARP probes (RFC 5227 §2.1) or by duplicate address detection
// (RFC 4862 §5.4), of which neighbours learn nothing. While it is probed it is neither answered for nor announced. It is in use if a
// station that is no speaker uses it or probes it as well. Then it stays silent, the conflict is reported, and it is probed again after a
// back-off. Else it is announced after 180 ms. The caller names the interfaces in [Announcement.Probe]: a takeover is not probed, since its
// clients wait, and since the node that had the address may still answer. Probing begins at a bounded rate, and delays no other address.
//
// # Takeover
//
// An address that is new on an interface, or was found free, is told to all neighbours by gratuitous ARP or unsolicited Neighbour
// Advertisements at 0, 0.1, 0.3, 1, 2 and 4 seconds, then slowly for as long as it is announced: hosts keep what they learnt, switches
// forget. The same starts again when the interface's MAC or index changes, when it comes back, and on [Announcer.Refresh]. The schedule
// belongs to the goroutine that also applies changes, so an address that was withdrawn is never announced again. An interface sends 500
// announcements a second at most ([Config.Rate]), the first of each address before the second of any; answers to conflicts go before all
// others. What the socket has no room for is sent again. RFC 4861 §7.2.6 wants three unsolicited advertisements at most, a second apart, of
// a host that changes its link-layer address: six in four seconds are more, since clients wait for this one.
//
// Solicited-node groups are joined after the announcements, some at a time. With more than 64 groups the interface receives all multicast at
// once, and the groups are joined for switches that forward multicast only to its members.
//
// # Deputies
//
// The node that holds an address may be without a speaker for a moment, while its kernel goes on forwarding. Then another node is its
// deputy ([Announcement.As]): it answers broadcast requests and multicast solicitations with the MAC of the holder. For example node1
// holds 198.51.100.200 and restarts its speaker. A client that asks "who has 198.51.100.200?" hears from node2 that it is at node1's MAC.
// Only the source of the Ethernet frame is node2's, so that switches keep both nodes where they are. Clients that know the address ask the
// holder by unicast, get no answer, and ask by broadcast after three seconds; until then they send on. A deputy announces, probes and
// defends nothing. Two deputies, or a deputy and a holder that has come back, give the same answer.
//
// A node that hands an address over to another one is its own deputy for that moment: it goes on answering, by unicast too, and does not
// contradict the announcements of the other node.
//
// # Conflicts
//
// A station that uses an announced address with another MAC is in conflict with us. The conflict is counted, reported, and answered by one
// announcement, at most one every ten seconds for each address, as RFC 5227 §2.4 (c) wants of a host that must keep its address. A station
// that is another node's speaker ([Announcer.SetSpeakers]) is answered a second after its last use of the address, since one of the two
// gives it up as soon as both see the same.
//
// A speaker of another node that uses an address is a [Rival]. Which of the two goes on is decided elsewhere, by what the API has on record.
// [Announcer.Ask] finds rivals that have not been heard, and so does a probe a second after a takeover began, and with each later
// announcement. A node that has fallen silent for a rival listens on ([Announcement.Listen]), so that it knows when the rival is gone.
//
// # Ownership of state
//
// The goroutine in [Announcer.Run] owns interfaces, sockets, groups, schedule and probes. One reader per socket decides and answers on its
// own from an immutable set of addresses with a phase each, so that neither a change of thousands of addresses nor trouble on another
// interface delays an answer. An interface that fails is closed, reported by [Announcer.Announced], and opened again with a growing delay.
// Opening needs CAP_NET_RAW and nothing else.
package layer2
