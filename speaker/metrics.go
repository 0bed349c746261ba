// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/layer2"
)

var (
	sessionUpDesc = prometheus.NewDesc("tandem_bgp_session_up",
		"Whether the BGP session that is to carry the family is established; 0 too for a peer with which the node cannot have one.",
		[]string{"peer", "family"}, nil)
	announcedDesc = prometheus.NewDesc("tandem_bgp_announced_prefixes",
		"Prefixes that the peer has been sent.", []string{"peer", "family"}, nil)
	withheldDesc = prometheus.NewDesc("tandem_bgp_withheld_prefixes",
		"Prefixes that an established peer cannot be sent for want of a family or capability.", []string{"peer", "family"}, nil)
	receivedDesc = prometheus.NewDesc("tandem_bgp_received_prefixes",
		"Prefixes that the peer announces, which are not used; without maxReceivedPrefixes counted to 100,000.", []string{"peer", "family"}, nil)
	bfdUpDesc = prometheus.NewDesc("tandem_bfd_session_up",
		"Whether the BFD session is up; family is that of the peer's address.", []string{"peer", "family"}, nil)
	detectionDesc = prometheus.NewDesc("tandem_bfd_detection_seconds",
		"How long the peer may be silent before the BFD session fails; 0 before the peer was heard.", []string{"peer"}, nil)
	addressAnnouncedDesc = prometheus.NewDesc("tandem_layer2_address_announced",
		"Whether the node answers for an address that it holds; 0 while another station has it, or while it is probed.",
		[]string{"address", "interface"}, nil)
	reachableDesc = prometheus.NewDesc("tandem_address_reachable",
		"0 for each address that another node holds on layer 2, and for which it does not answer this node on the LAN; of more than 100 the first.",
		[]string{"family", "address", "holder"}, nil)
	reachableAddressesDesc = prometheus.NewDesc("tandem_reachable_addresses",
		"Addresses that other nodes hold on layer 2, and for which they answer this node on the LAN; each address is asked for by one node.",
		[]string{"family"}, nil)
	isolatedDesc = prometheus.NewDesc("tandem_speaker_isolated",
		"Whether the speaker sees neither another speaker nor the API, and takes nothing over on layer 2.", nil, nil)
)

// collector has the metrics that no single part of a speaker knows. They are read when they are asked for, so that those of a removed peer
// or address are gone with it. A peer has all of its gauges as long as its BGPPeer selects this node, with a session or without one: an
// alert on a gauge that is gone would not fire.
type collector struct {
	peers     func() []peerState
	announced func() []layer2.Status
	found     func() found
	isolated  *atomic.Bool
}

var _ prometheus.Collector = &collector{}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		sessionUpDesc, announcedDesc, withheldDesc, receivedDesc, bfdUpDesc, detectionDesc, addressAnnouncedDesc, reachableDesc,
		reachableAddressesDesc, isolatedDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, p := range c.peers() {
		for _, f := range slices.Compact(slices.Sorted(slices.Values(p.Peer.Peer.Families))) {
			gauge(sessionUpDesc, number(p.bgp.State == bgp.Established), p.Name, string(f))
			gauge(announcedDesc, float64(p.bgp.Advertised[f]), p.Name, string(f))
			gauge(withheldDesc, float64(p.bgp.Withheld[f]), p.Name, string(f))
			gauge(receivedDesc, float64(p.bgp.Received[f]), p.Name, string(f))
		}
		if p.BFD != nil {
			gauge(bfdUpDesc, number(p.bfd.State == bfd.Up), p.Name, string(family.Of(p.Peer.Peer.Address)))
			gauge(detectionDesc, p.bfd.Detection.Seconds(), p.Name)
		}
	}
	for _, a := range c.announced() {
		gauge(addressAnnouncedDesc, number(a.Announced), a.Address.String(), a.Interface)
	}
	found := c.found()
	for _, a := range found.unanswered {
		gauge(reachableDesc, 0, string(family.Of(a.Address)), a.Address.String(), a.Node)
	}
	for _, f := range family.All {
		gauge(reachableAddressesDesc, float64(found.answered[f]), string(f))
	}
	gauge(isolatedDesc, number(c.isolated.Load()))
}

// number returns 1 for what is true.
func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
