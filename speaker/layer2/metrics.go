// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
)

// A DropReason says why a received frame was not answered.
type DropReason uint8

// The reasons, in about the order in which frames are checked.
const (
	dropNone DropReason = iota
	// DropTruncated is a frame that ends before what its headers promise.
	DropTruncated
	// DropVLAN is a frame that carries a VLAN tag.
	DropVLAN
	// DropProtocol is a frame that is neither ARP nor ICMPv6.
	DropProtocol
	// DropOtherHost is a frame sent to another station's MAC.
	DropOtherHost
	// DropOwnFrame is a frame that we sent ourselves, which a bridge or switch returned.
	DropOwnFrame
	// DropInvalidSender is a frame whose sender cannot be answered: a group, zero or loopback address.
	DropInvalidSender
	// DropMalformed is an ARP packet that is not for IPv4 over Ethernet, or an NDP message too short or with broken options.
	DropMalformed
	// DropOperation is a valid message that asks for nothing, such as an ARP reply.
	DropOperation
	// DropHopLimit is an NDP message with a hop limit other than 255, so possibly from beyond the link.
	DropHopLimit
	// DropCode is an NDP message with a code other than 0.
	DropCode
	// DropChecksum is an NDP message with a wrong checksum.
	DropChecksum
	// DropTargetMulticast is an NDP message for a multicast target.
	DropTargetMulticast
	// DropUnspecifiedSource is a solicitation from :: that is no duplicate address detection: not sent to a solicited-node group, or with a
	// source link-layer address.
	DropUnspecifiedSource
	// DropNotAnnounced is a message about an address that is not announced here, or not yet.
	DropNotAnnounced
	// DropConflict is a message in which another station uses an address that is announced here as its own, or uses or probes one that is
	// probed here.
	DropConflict
	// DropReceiveBuffer is a frame that the kernel dropped since the socket's buffer was full. What it was is not known.
	DropReceiveBuffer
	// DropSendFailed is an answer or announcement that could not be sent.
	DropSendFailed

	numDropReasons
)

var dropReasonNames = [numDropReasons]string{
	dropNone:              "none",
	DropTruncated:         "truncated",
	DropVLAN:              "vlan",
	DropProtocol:          "protocol",
	DropOtherHost:         "other_host",
	DropOwnFrame:          "own_frame",
	DropInvalidSender:     "invalid_sender",
	DropMalformed:         "malformed",
	DropOperation:         "operation",
	DropHopLimit:          "hop_limit",
	DropCode:              "code",
	DropChecksum:          "checksum",
	DropTargetMulticast:   "target_multicast",
	DropUnspecifiedSource: "unspecified_source",
	DropNotAnnounced:      "not_announced",
	DropConflict:          "conflict",
	DropReceiveBuffer:     "receive_buffer",
	DropSendFailed:        "send_failed",
}

// String returns the reason as the metric's label has it.
func (r DropReason) String() string {
	if r >= numDropReasons {
		return "unknown"
	}
	return dropReasonNames[r]
}

// A Protocol is ARP or NDP.
type Protocol string

// The protocols, as the metrics' label has them.
const (
	ARP Protocol = "arp"
	NDP Protocol = "ndp"
)

// protocolOf returns the protocol in which neighbours ask for an address.
func protocolOf(address netip.Addr) Protocol {
	if address.Is6() {
		return NDP
	}
	return ARP
}

// metrics are the counters of all interfaces.
type metrics struct {
	dropped, answers, announcements, probes, conflicts *prometheus.CounterVec

	inUse *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_layer2_dropped_frames_total", Help: "Frames not answered, and answers not sent, by reason.",
		}, []string{"protocol", "interface", "reason"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_layer2_answers_total", Help: "ARP requests and neighbour solicitations answered.",
		}, []string{"protocol", "interface"}),
		announcements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_layer2_announcements_total", Help: "Gratuitous ARP packets and unsolicited neighbour advertisements sent.",
		}, []string{"protocol", "interface"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_layer2_probes_total", Help: "ARP probes and solicitations of duplicate address detection sent.",
		}, []string{"protocol", "interface"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_layer2_conflicts_total", Help: "Frames in which another station uses an announced or probed address (RFC 5227).",
		}, []string{"protocol", "interface"}),
		inUse: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tandem_layer2_addresses_in_use", Help: "Addresses that are not announced because another station has them.",
		}, []string{"interface"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.dropped, m.answers, m.announcements, m.probes, m.conflicts, m.inUse)
	}
	return m
}

// counters are one interface's counters for one protocol, looked up once rather than for every frame.
type counters struct {
	dropped                                   [numDropReasons]prometheus.Counter
	answers, announcements, probes, conflicts prometheus.Counter
}

func (m *metrics) counters(protocol Protocol, iface string) *counters {
	c := &counters{
		answers:       m.answers.WithLabelValues(string(protocol), iface),
		announcements: m.announcements.WithLabelValues(string(protocol), iface),
		probes:        m.probes.WithLabelValues(string(protocol), iface),
		conflicts:     m.conflicts.WithLabelValues(string(protocol), iface),
	}
	for r := dropNone + 1; r < numDropReasons; r++ {
		c.dropped[r] = m.dropped.WithLabelValues(string(protocol), iface, r.String())
	}
	return c
}
