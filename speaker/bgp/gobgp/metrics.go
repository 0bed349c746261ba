// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	establishedDesc = prometheus.NewDesc("tandem_bgp_session_established_total",
		"How many times the BGP session was established.", []string{"peer"}, nil)
	announcedDesc = prometheus.NewDesc("tandem_bgp_announced_prefixes",
		"Prefixes that the peer has been sent.", []string{"peer", "family"}, nil)
	withheldDesc = prometheus.NewDesc("tandem_bgp_withheld_prefixes",
		"Prefixes that an established peer cannot be sent for want of a family or capability.", []string{"peer"}, nil)
	updatesDesc = prometheus.NewDesc("tandem_bgp_updates_sent_total",
		"UPDATE messages sent to the peer.", []string{"peer"}, nil)
)

var _ prometheus.Collector = &Speaker{}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{establishedDesc, announcedDesc, withheldDesc, updatesDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. The figures are read when they are asked for, so those of a removed peer are
// gone with it.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	running, err := s.running()
	if err != nil {
		return // closed: nothing is left to measure
	}
	for name, session := range running {
		state := session.state()
		session.mu.Lock()
		established := session.established
		session.mu.Unlock()
		ch <- prometheus.MustNewConstMetric(establishedDesc, prometheus.CounterValue, float64(established), name)
		for _, f := range session.peer.Families {
			ch <- prometheus.MustNewConstMetric(announcedDesc, prometheus.GaugeValue,
				float64(state.Advertised[f]), name, string(f))
		}
		ch <- prometheus.MustNewConstMetric(withheldDesc, prometheus.GaugeValue, float64(state.Withheld), name)
		ch <- prometheus.MustNewConstMetric(updatesDesc, prometheus.CounterValue,
			float64(session.updatesSent(context.Background())), name)
	}
}
