// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// metallbCharts learns version and mode from what has MetalLB's chart installed, such as a HelmRelease, and which Services and nodes its values are about.
func (d *draft) metallbCharts(m *metalLB) {
	for _, o := range d.objects {
		chart, text := metallbChartOf(o.node)
		release, ok := parseRelease(text)
		if !ok {
			continue
		}
		if o.kind == "HelmRelease" { // whose values are not beside the name of the chart
			chart = o.node
		}
		if class := anywhere(chart, "loadBalancerClass"); class != nil {
			d.metallbClass(o.about, class.Value)
		}
		if ignore := anywhere(chart, "speaker", "ignoreExcludeLB"); ignore != nil && strings.EqualFold(ignore.Value, "true") {
			d.metallbIgnoresLabel(o.about)
		}
		if release.major > 0 { // Bitnami's, whose version is not MetalLB's.
			continue
		}
		m.learn(text)
		if !m.native && !m.frr && !m.before(0, 13) { // Before there is a configuration, which is native unless it asks for more.
			frr, said := valuesForFRR(chart)
			m.frr = frr || !said && !m.before(0, 13, 10) // whose default is FRR
			m.native = !m.frr
		}
	}
}

// valuesForFRR reports whether values of MetalLB's chart ask for FRR, and whether they say anything of it.
func valuesForFRR(values *yaml.Node) (frr, said bool) {
	for _, path := range [][]string{{"speaker", "frr", "enabled"}, {"frrk8s", "enabled"}, {"frrk8s", "external"}} {
		if enabled := anywhere(values, path...); enabled != nil {
			said = true
			frr = frr || strings.EqualFold(enabled.Value, "true")
		}
	}
	return frr, said
}

// metallbChartOf returns the mapping in a document that names MetalLB's chart, and the version of it; nil where there is none. Examples are the chart of a
// HelmRelease, and the source of an Application of Argo CD.
func metallbChartOf(n *yaml.Node) (chart *yaml.Node, version string) {
	if n.Kind == yaml.MappingNode {
		name := orElse(scalarOf(n, "chart"), scalarOf(n, "name"))
		version = orElse(scalarOf(n, "version"), scalarOf(n, "targetRevision"))
		if version != "" && name[strings.LastIndex(name, "/")+1:] == "metallb" {
			return n, version
		}
	}
	for _, item := range n.Content {
		if chart, version = metallbChartOf(item); chart != nil {
			return chart, version
		}
	}
	return nil, ""
}
