// SPDX-License-Identifier: Apache-2.0

package fsm

import "github.com/prometheus/client_golang/prometheus"

var (
	establishedDesc = prometheus.NewDesc("tandem_bgp_session_established_total",
		"How many times the BGP session was established.", []string{"peer"}, nil)
	updatesDesc = prometheus.NewDesc("tandem_bgp_updates_sent_total",
		"UPDATE messages sent to the peer.", []string{"peer"}, nil)
)

var _ prometheus.Collector = &Speaker{}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	ch <- establishedDesc
	ch <- updatesDesc
}

// Collect implements prometheus.Collector. It has the counters of sessions, which are read when they are asked for, so
// that those of a removed peer are gone with it. Gauges are package speaker's, which knows of peers without a session.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	running, err := s.running()
	if err != nil {
		return // closed: nothing is left to measure
	}
	for name, session := range running {
		ch <- prometheus.MustNewConstMetric(establishedDesc, prometheus.CounterValue, float64(session.established.Load()), name)
		ch <- prometheus.MustNewConstMetric(updatesDesc, prometheus.CounterValue, float64(session.updates.Load()), name)
	}
}
