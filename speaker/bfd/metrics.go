// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// dropReason is why a packet was dropped.
type dropReason string

const (
	dropMalformed dropReason = "malformed"
	dropNoSession dropReason = "no-session"
	dropTTL       dropReason = "ttl"
	dropBusy      dropReason = "busy"
	dropUnread    dropReason = "unread"
)

// drops counts dropped packets.
type drops struct {
	mu sync.Mutex
	// mu guards counts.
	counts map[dropReason]float64
}

func (d *drops) add(reason dropReason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[dropReason]float64{}
	}
	d.counts[reason]++
}

func (d *drops) all() map[dropReason]float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

var (
	upDesc = prometheus.NewDesc("tandem_bfd_session_up",
		"Whether the BFD session is up.", []string{"peer"}, nil)
	downsDesc = prometheus.NewDesc("tandem_bfd_session_failures_total",
		"How many times the BFD session has failed.", []string{"peer"}, nil)
	detectionDesc = prometheus.NewDesc("tandem_bfd_detection_seconds",
		"How long the peer may be silent before the BFD session fails.", []string{"peer"}, nil)
	droppedDesc = prometheus.NewDesc("tandem_bfd_dropped_packets_total",
		"BFD packets that were dropped.", []string{"reason"}, nil)
)

var _ prometheus.Collector = &Speaker{}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, downsDesc, detectionDesc, droppedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. The figures are read when they are asked for, so those of a removed peer are gone with it.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	for _, state := range s.States() {
		up := 0.0
		if state.State == Up {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up, state.Name)
		ch <- prometheus.MustNewConstMetric(downsDesc, prometheus.CounterValue, float64(state.Downs), state.Name)
		ch <- prometheus.MustNewConstMetric(detectionDesc, prometheus.GaugeValue, state.Detection.Seconds(), state.Name)
	}
	for reason, count := range s.drops.all() {
		ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, count, string(reason))
	}
}
