// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
)

// arpLen is the length of an ARP packet for IPv4 over Ethernet, per RFC 826.
const arpLen = 28

// decideARP answers a request for one of the announced addresses that is broadcast, or sent to our own MAC: neighbours ask by unicast
// whether an entry is still valid. A probe (RFC 5227 §2.1.1), whose sender is 0.0.0.0, is answered too: it asks whether the address is in
// use.
//
// A packet whose sender is one of the announced addresses, with another MAC, is a conflict. It is never answered, whatever it asks for (RFC
// 5227 §2.4). While we probe an address ourselves, another station's probe for it is a conflict as well (RFC 5227 §2.1.1).
func decideARP(frame []byte, own mac, addresses addressSet) outcome {
	_, reason := checkEthernet(frame, own, etherTypeARP, func(dst mac) bool { return dst == broadcastMAC })
	if reason != dropNone {
		return drop(reason)
	}
	if len(frame) < ethernetHeaderLen+arpLen {
		return drop(DropTruncated)
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[ethernetHeaderLen:]); err != nil {
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
	case !sender.canSend(), p.SenderIP.IsMulticast(), p.SenderIP.IsLoopback(), p.SenderIP == broadcastIPv4:
		return drop(DropInvalidSender)
	}
	if phase := addresses.of(p.SenderIP); phase != phaseSilent {
		return conflictAbout(p.SenderIP, sender, phase)
	}
	if p.Operation != arp.OperationRequest {
		return drop(DropOperation)
	}
	switch phase := addresses.of(p.TargetIP); {
	case phase == phaseProbing && p.SenderIP.IsUnspecified():
		return conflictAbout(p.TargetIP, sender, phase)
	case phase != phaseAnnounced:
		return drop(DropNotAnnounced)
	}
	return outcome{reply: arpFrame(arp.OperationReply, sender, own, p.TargetIP, sender, p.SenderIP)}
}

var broadcastIPv4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// gratuitousARP returns the two forms that replace an entry at once: a request with both addresses equal (the ARP Announcement of RFC 5227
// §3) and a reply whose target hardware address equals the sender's. Hosts differ in which one they take. A reply with a broadcast target
// hardware address is no third form: Linux ignores it while an entry is younger than its lock time.
func gratuitousARP(own mac, addr netip.Addr) (request, reply []byte) {
	return arpFrame(arp.OperationRequest, broadcastMAC, own, addr, mac{}, addr),
		arpFrame(arp.OperationReply, broadcastMAC, own, addr, own, addr)
}

// probeARP returns the ARP probe of RFC 5227 §1.1. Its sender is 0.0.0.0, so that no neighbour learns from it.
func probeARP(own mac, addr netip.Addr) []byte {
	return arpFrame(arp.OperationRequest, broadcastMAC, own, netip.IPv4Unspecified(), mac{}, addr)
}

// arpFrame returns a whole frame. It is shorter than Ethernet's minimum; drivers pad.
func arpFrame(op arp.Operation, dst, sender mac, senderIP netip.Addr, target mac, targetIP netip.Addr) []byte {
	p := arp.Packet{
		HardwareType: 1, ProtocolType: 0x0800, HardwareAddrLength: 6, IPLength: 4, Operation: op,
		SenderHardwareAddr: net.HardwareAddr(sender[:]), SenderIP: senderIP,
		TargetHardwareAddr: net.HardwareAddr(target[:]), TargetIP: targetIP,
	}
	b, _ := p.MarshalBinary() // Never fails, per its contract.
	return append(appendEthernet(make([]byte, 0, ethernetHeaderLen+arpLen), dst, sender, etherTypeARP), b...)
}
