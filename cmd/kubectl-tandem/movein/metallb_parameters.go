// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mostOfParameters is the highest index of a list that is read in the name of a parameter.
const mostOfParameters = 1000

// step is one step into a value: a key of a mapping, or an index of a list.
var step = regexp.MustCompile(`^(?:\.?((?:[^.\[\\]|\\.)+)|\[(\d+)\])`)

// setParameter sets a value by its path, as Helm's --set and the parameters of an Application of Argo CD have it. It reports whether the path is one. For
// example, address-pools[0].addresses[0] and 192.0.2.0/28 make {address-pools: [{addresses: [192.0.2.0/28]}]}. {a,b} is a list.
func setParameter(n *yaml.Node, path, value string) bool {
	if path == "" {
		return false
	}
	for path != "" {
		m := step.FindStringSubmatch(path)
		if m == nil {
			return false
		}
		path = path[len(m[0]):]
		if m[2] == "" {
			n = parameterKey(n, strings.ReplaceAll(m[1], `\`, ""))
		} else {
			index, err := strconv.Atoi(m[2])
			if err != nil || index > mostOfParameters {
				return false
			}
			n = parameterItem(n, index)
		}
		if n == nil {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(value, "{"); ok && strings.HasSuffix(inner, "}") {
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		for item := range strings.SplitSeq(strings.TrimSuffix(inner, "}"), ",") {
			n.Content = append(n.Content, scalarNode(strings.TrimSpace(item)))
		}
		return true
	}
	*n = *scalarNode(value)
	return true
}

// parameterKey returns the value of a key of a mapping, nil for what is a list or a value already. A node without a kind becomes the mapping.
func parameterKey(n *yaml.Node, key string) *yaml.Node {
	if n.Kind == 0 {
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	if value := lookup(n, key); value != nil {
		return value
	}
	value := &yaml.Node{Line: n.Line}
	n.Content = append(n.Content, scalarNode(key), value)
	return value
}

// parameterItem returns an element of a list as parameterKey does.
func parameterItem(n *yaml.Node, index int) *yaml.Node {
	if n.Kind == 0 {
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
	}
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	for len(n.Content) <= index {
		n.Content = append(n.Content, &yaml.Node{Line: n.Line})
	}
	return n.Content[index]
}

// metallbParameters returns the configuration that the parameters in a list are about, nil where there are none.
func (d *draft) metallbParameters(o *object, list *yaml.Node) *yaml.Node {
	config := &yaml.Node{Line: list.Line}
	for _, item := range list.Content {
		name, value := lookupPath(item, "name"), lookupPath(item, "value")
		if name == nil || value == nil || value.Kind != yaml.ScalarNode {
			continue
		}
		path, ok := strings.CutPrefix(name.Value, "configInline.")
		if _, below, found := strings.Cut(name.Value, ".configInline."); !ok && found { // under the key of a parent chart
			path, ok = below, true
		}
		if ok && !setParameter(config, path, value.Value) {
			d.add(Lost, "no-equal", o.about, "the parameter %s of the chart is not read; write configInline as values", name.Value)
		}
	}
	if config.Kind == 0 {
		return nil
	}
	return config
}
