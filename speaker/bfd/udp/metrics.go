// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-lb/tandem/speaker/bfd"
)

// dropReason says why a packet was dropped.
type dropReason string

// The reasons.
const (
	// dropMalformed is a packet that Parse refuses.
	dropMalformed dropReason = "malformed"
	// dropNoSession is a packet that is of no session's peer, or names a discriminator that is not the session's.
	dropNoSession dropReason = "no_session"
	// dropTTL is a packet that arrived with too low a TTL or hop limit.
	dropTTL dropReason = "ttl"
	// dropBusy is a packet for a session that had not dealt with the ones before.
	dropBusy dropReason = "busy"
	// dropUnread is a packet that could not be read from the socket.
	dropUnread dropReason = "unread"
)

// dropReasons are all of them.
var dropReasons = []dropReason{dropMalformed, dropNoSession, dropTTL, dropBusy, dropUnread}

// newDropped returns the counter of dropped packets, which has a series for each reason from the start.
func newDropped() *prometheus.CounterVec {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tandem_bfd_dropped_packets_total", Help: "BFD packets that were dropped, by reason.",
	}, []string{"reason"})
	for _, reason := range dropReasons {
		dropped.WithLabelValues(string(reason))
	}
	return dropped
}

var (
	upDesc = prometheus.NewDesc("tandem_bfd_session_up",
		"Whether the BFD session is up.", []string{"peer"}, nil)
	downsDesc = prometheus.NewDesc("tandem_bfd_session_failures_total",
		"How many times the BFD session has failed.", []string{"peer"}, nil)
	detectionDesc = prometheus.NewDesc("tandem_bfd_detection_seconds",
		"How long the peer may be silent before the BFD session fails.", []string{"peer"}, nil)
)

var _ prometheus.Collector = &Speaker{}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, downsDesc, detectionDesc} {
		ch <- d
	}
	s.dropped.Describe(ch)
}

// Collect implements prometheus.Collector. The figures of sessions are read when they are asked for, so that those of a removed peer are
// gone with it.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	for _, state := range s.States() {
		up := 0.0
		if state.State == bfd.Up {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up, state.Name)
		ch <- prometheus.MustNewConstMetric(downsDesc, prometheus.CounterValue, float64(state.Downs), state.Name)
		ch <- prometheus.MustNewConstMetric(detectionDesc, prometheus.GaugeValue, state.Detection.Seconds(), state.Name)
	}
	s.dropped.Collect(ch)
}
