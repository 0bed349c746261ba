// SPDX-License-Identifier: Apache-2.0

package udp

import "github.com/prometheus/client_golang/prometheus"

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

var downsDesc = prometheus.NewDesc("tandem_bfd_session_failures_total",
	"How many times the BFD session has failed.", []string{"peer"}, nil)

var _ prometheus.Collector = &Speaker{}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	ch <- downsDesc
	s.dropped.Describe(ch)
}

// Collect implements prometheus.Collector. It has the counters. Those of sessions are read when they are asked for, so that those of a
// removed peer are gone with it. Gauges are package speaker's, which knows of peers without a session.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	for _, state := range s.States() {
		ch <- prometheus.MustNewConstMetric(downsDesc, prometheus.CounterValue, float64(state.Downs), state.Name)
	}
	s.dropped.Collect(ch)
}
