// SPDX-License-Identifier: Apache-2.0

package kernelroutes

import "github.com/prometheus/client_golang/prometheus"

var prefixesDesc = prometheus.NewDesc("tandem_interface_prefixes",
	"Prefixes that the kernel has for other routing software to redistribute, by the interface that they are on.",
	[]string{"interface", "family"}, nil)

var _ prometheus.Collector = &Table{}

// Describe implements prometheus.Collector.
func (t *Table) Describe(ch chan<- *prometheus.Desc) { ch <- prefixesDesc }

// Collect implements prometheus.Collector. An interface without prefixes has no series.
func (t *Table) Collect(ch chan<- prometheus.Metric) {
	counts := map[string]map[string]int{}
	for _, e := range t.State().Entries {
		if counts[e.Interface] == nil {
			counts[e.Interface] = map[string]int{"IPv4": 0, "IPv6": 0}
		}
		f := "IPv4"
		if e.Prefix.Addr().Is6() {
			f = "IPv6"
		}
		counts[e.Interface][f]++
	}
	for name, families := range counts {
		for f, n := range families {
			ch <- prometheus.MustNewConstMetric(prefixesDesc, prometheus.GaugeValue, float64(n), name, f)
		}
	}
}
