// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

var (
	sessionUpDesc = prometheus.NewDesc("tandem_bgp_session_up",
		"Whether the BGP session is established; 0 too for a peer with which the node cannot have one.", []string{"peer"}, nil)
	addressAnnouncedDesc = prometheus.NewDesc("tandem_layer2_address_announced",
		"Whether the node answers for an address that it holds; 0 while another station has it, or while it is probed.",
		[]string{"address", "interface"}, nil)
	isolatedDesc = prometheus.NewDesc("tandem_speaker_isolated",
		"Whether the speaker sees neither another speaker nor the API, and answers for nothing on layer 2.", nil, nil)
)

// collector has the metrics that no single part of a speaker knows. They are read when they are asked for, so those of a removed peer or
// address are gone with it.
type collector struct {
	sessions  func() []v1alpha1.BGPSession // of all peers of this node
	announced func() []layer2.Status
	isolated  *atomic.Bool
}

var _ prometheus.Collector = &collector{}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sessionUpDesc, addressAnnouncedDesc, isolatedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, session := range c.sessions() {
		ch <- prometheus.MustNewConstMetric(sessionUpDesc, prometheus.GaugeValue, number(session.State == v1alpha1.BGPEstablished), session.Peer)
	}
	for _, a := range c.announced() {
		ch <- prometheus.MustNewConstMetric(addressAnnouncedDesc, prometheus.GaugeValue, number(a.Announced), a.Address.String(), a.Interface)
	}
	ch <- prometheus.MustNewConstMetric(isolatedDesc, prometheus.GaugeValue, number(c.isolated.Load()))
}

// number returns 1 for what is true.
func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
