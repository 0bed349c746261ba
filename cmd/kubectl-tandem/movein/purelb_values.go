// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// purelbValues reads values of PureLB's chart, which stand alone, in a HelmRelease, or in an Application of Argo CD. Its serviceGroup and
// lbnodeagent become the objects that the chart makes of them.
func (d *draft) purelbValues() {
	if d.Options.Live { // An export has the objects.
		return
	}
	for _, o := range slices.Clone(d.objects) {
		if o.taken || o.kind == "Service" || o.group == "purelb.io" {
			continue
		}
		found := d.purelbValuesOf(o, o.node)
		if found && o.kind == "" {
			o.taken = true
			o.wholeObject()
		}
	}
}

// purelbValuesOf looks for values below a node, also in values that are written as a text.
func (d *draft) purelbValuesOf(o *object, n *yaml.Node) (found bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		if strings.Contains(n.Value, "serviceGroup:") || strings.Contains(n.Value, "lbnodeagent:") {
			if text := writtenIn(n); text != nil && text.Kind == yaml.MappingNode {
				return d.purelbValuesOf(o, text)
			}
		}
	case yaml.MappingNode:
		group, agent := mappingOf(n, "serviceGroup"), mappingOf(n, "lbnodeagent")
		if group != nil && (lookup(group, "create") != nil || lookup(group, "spec") != nil) || agent != nil {
			d.purelbChart(o, group, agent)
			return true
		}
	}
	for i, item := range n.Content {
		if n.Kind == yaml.SequenceNode || i%2 == 1 {
			found = d.purelbValuesOf(o, item) || found
		}
	}
	return found
}

// purelbChart makes the objects of the values serviceGroup and lbnodeagent, each of which may be nil.
func (d *draft) purelbChart(o *object, group, agent *yaml.Node) {
	version := "v2"
	if agent != nil {
		for _, key := range []string{"localint", "extlbint", "sendgarp"} { // names that the second version has changed
			if lookup(agent, key) != nil {
				version = "v1"
			}
		}
		for _, key := range []string{"sendgarp", "garpConfig"} {
			if lookup(agent, key) != nil {
				d.add(Info, "garp", subject{name: "lbnodeagent." + key}, "Tandem always sends gratuitous ARP and unsolicited "+
					"neighbour advertisements when a node takes an address")
			}
		}
		if local := only(agent, "localint", "localInterface", "interfaces", "extlbint", "dummyInterface"); len(local.Content) > 0 {
			d.purelbObject(o, version, "LBNodeAgent", "default", mapping("local", local))
		}
	}
	if group == nil {
		return
	}
	spec := mappingOf(group, "spec")
	switch create := strings.ToLower(scalarOf(group, "create")); {
	case create != "true" && create != "yes" && spec != nil:
		d.add(Warn, "was-ignored", subject{name: "serviceGroup"}, "create is not true, so that the chart makes no ServiceGroup of it; it is left out")
	case spec != nil && len(spec.Content) > 0:
		d.purelbObject(o, version, "ServiceGroup", orElse(scalarOf(group, "name"), "default"), spec)
	}
}

// purelbObject adds an object that the chart makes.
func (d *draft) purelbObject(o *object, version, kind, name string, spec *yaml.Node) {
	n := mapping("apiVersion", scalarNode("purelb.io/"+version), "kind", scalarNode(kind), "metadata", mapping("name", scalarNode(name)), "spec", spec)
	n.Line = spec.Line
	d.objects = append(d.objects, o.in.document(o.file, o.index, n, "", "")...)
}
