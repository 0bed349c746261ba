// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net/netip"

	"github.com/mdlayher/arp"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// decideARP answers a request for one of the announced addresses that is broadcast, or sent to our own MAC: neighbours ask by unicast
// whether an entry is still valid. A probe (RFC 5227 §2.1.1), whose sender is 0.0.0.0, is answered too: it asks whether the address is in
// use.
//
// A packet whose sender is one of the announced addresses, with another MAC, is a conflict. It is never answered, whatever it asks for (RFC
// 5227 §2.4). While we probe an address ourselves, another station's probe for it is a conflict as well (RFC 5227 §2.1.1).
//
// For an address of which this node is the deputy, broadcast requests are answered with the MAC of its holder.
func decideARP(frame []byte, own mac, addresses addressSet) outcome {
	src, reason := checkEthernet(frame, own, neighbor.TypeARP, func(dst mac) bool { return dst == neighbor.Broadcast })
	if reason != dropNone {
		return drop(reason)
	}
	if len(frame) < neighbor.HeaderLen+neighbor.ARPLen {
		return drop(DropTruncated)
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[neighbor.HeaderLen:]); err != nil {
		return drop(DropMalformed)
	}
	if p.HardwareType != 1 || p.ProtocolType != 0x0800 || p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return drop(DropMalformed)
	}
	if p.Operation != arp.OperationRequest && p.Operation != arp.OperationReply {
		return drop(DropOperation)
	}

	sender := mac(p.SenderHardwareAddr)
	switch {
	case sender == own:
		return drop(DropOwnFrame)
	case !sender.CanSend(), p.SenderIP.IsMulticast(), p.SenderIP.IsLoopback(), p.SenderIP == broadcastIPv4:
		return drop(DropInvalidSender)
	}
	if phase, ok := addresses.contested(p.SenderIP, own); ok {
		return conflictAbout(p.SenderIP, sender, src, phase)
	} else if phase == phaseDeputy {
		return drop(DropNotAnnounced) // its holder, or a matter of its holder
	}
	if p.Operation != arp.OperationRequest {
		return drop(DropOperation)
	}
	switch phase := addresses.of(p.TargetIP); {
	case phase == phaseProbing && p.SenderIP.IsUnspecified():
		return conflictAbout(p.TargetIP, sender, src, phase)
	case phase == phaseAnnounced:
		return outcome{reply: neighbor.ARP(own, sender, arp.OperationReply, own, p.TargetIP, sender, p.SenderIP)}
	case phase == phaseDeputy && addresses[p.TargetIP].deputyAnswers(mac(frame[:6]) == neighbor.Broadcast, own, sender):
		return outcome{reply: neighbor.ARP(own, sender, arp.OperationReply, addresses[p.TargetIP].as, p.TargetIP, sender, p.SenderIP)}
	}
	return drop(DropNotAnnounced)
}

var broadcastIPv4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// gratuitousARP returns the two forms that replace an entry at once: a request with both addresses equal (the ARP Announcement of RFC 5227
// §3) and a reply whose target hardware address equals the sender's. Hosts differ in which one they take. A reply with a broadcast target
// hardware address is no third form: Linux ignores it while an entry is younger than its lock time.
func gratuitousARP(own mac, addr netip.Addr) (request, reply []byte) {
	return neighbor.ARP(own, neighbor.Broadcast, arp.OperationRequest, own, addr, mac{}, addr),
		neighbor.ARP(own, neighbor.Broadcast, arp.OperationReply, own, addr, own, addr)
}

// probeARP returns the ARP probe of RFC 5227 §1.1. Its sender is 0.0.0.0, so that no neighbour learns from it.
func probeARP(own mac, addr netip.Addr) []byte {
	return neighbor.ARP(own, neighbor.Broadcast, arp.OperationRequest, own, netip.IPv4Unspecified(), mac{}, addr)
}
