// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	// kubeVIPMarks are the variables by which values of a chart are known to be kube-vip's.
	kubeVIPMarks = []string{"vip_arp", "vip_interface", "vip_address", "svc_enable", "cp_enable", "bgp_enable", "bgp_peers", "bgp_as"}
	poolKey      = regexp.MustCompile(`^(cidr|range)-`)
	mayBeKubeVIP = regexp.MustCompile(`\b(vip|svc|cp|bgp)_[a-z]|\b(cidr|range)-`)
)

// kubeVIPValues adds the DaemonSet and the ConfigMap that charts make of their values: kube-vip's own, those of its cloud provider, and any chart that
// takes a mapping of variables. For example, env: {vip_interface: eth0} in a HelmRelease makes the DaemonSet kube-vip with that variable.
func (d *draft) kubeVIPValues() {
	for _, o := range slices.Clone(d.objects) {
		if o.kind == "Service" || o.kind == "ConfigMap" || o.podSpec() != nil {
			continue
		}
		d.searchKubeVIPValues(o, o.node, true)
	}
}

// searchKubeVIPValues looks for values in a node and below. own says that they may be those of kube-vip's own chart, which has defaults.
func (d *draft) searchKubeVIPValues(o *object, n *yaml.Node, own bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		if strings.Contains(n.Value, "\n") && mayBeKubeVIP.MatchString(n.Value) {
			if text := writtenIn(n); text != nil && text.Kind == yaml.MappingNode {
				d.searchKubeVIPValues(o, text, own)
			}
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			d.searchKubeVIPValues(o, item, own)
		}
	case yaml.MappingNode:
		if data := generatedPools(n); data != nil {
			d.addMade(o, n, mapping("kind", scalarNode("ConfigMap"), "metadata", mapping("name", scalarNode(scalarOf(n, "name")), "namespace",
				scalarNode("kube-system")), "data", data))
		}
		if data := lookupPath(n, "cm", "data"); data != nil && data.Kind == yaml.MappingNode && hasKey(data, poolKey.MatchString) {
			d.addMade(o, data, mapping("kind", scalarNode("ConfigMap"), "metadata", mapping("name", scalarNode("kubevip"), "namespace",
				scalarNode("kube-system")), "data", data))
		}
		if env := kubeVIPVariablesOf(n, own); env != nil {
			d.addMade(o, n, kubeVIPDaemonSet(n, env))
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			d.searchKubeVIPValues(o, n.Content[i+1], own && n.Content[i].Value != "containers")
		}
	}
}

// generatedPools returns the data that a Kustomization makes of an entry of its configMapGenerator, nil unless they are pools. An example is
// {name: kubevip, literals: ["range-global=192.0.2.1-192.0.2.9"]}.
func generatedPools(n *yaml.Node) *yaml.Node {
	literals := lookup(n, "literals")
	if literals == nil || scalarOf(n, "name") != "kubevip" && scalarOf(n, "name") != "plndr" {
		return nil
	}
	data := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, item := range literals.Content {
		if key, value, ok := strings.Cut(item.Value, "="); ok {
			data.Content = append(data.Content, scalarNode(key), scalarNode(strings.Trim(value, `"'`)))
		}
	}
	if !hasKey(data, poolKey.MatchString) {
		return nil
	}
	return data
}

// addMade adds an object that a chart makes of values.
func (d *draft) addMade(o *object, values, made *yaml.Node) {
	made.Line = values.Line
	o.taken = true
	o.wholeObject()
	d.objects = append(d.objects, o.in.document(o.file, o.index, made, "", "")...)
}

// kubeVIPVariablesOf returns the variables of values as a container has them, nil where there are none of kube-vip. They are in env, as a mapping or as a
// list, and in config, where older charts have some of them and newer ones the address of the API server.
func kubeVIPVariablesOf(values *yaml.Node, own bool) *yaml.Node {
	env := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	var names []string
	add := func(name string, value *yaml.Node) {
		if value.Kind == yaml.ScalarNode && !slices.Contains(names, name) {
			names = append(names, name)
			env.Content = append(env.Content, mapping("name", scalarNode(name), "value", scalarNode(value.Value)))
		}
	}
	for _, key := range []string{"env", "config"} {
		n := lookup(values, key)
		switch {
		case n == nil:
		case n.Kind == yaml.SequenceNode:
			for _, item := range n.Content {
				if name := lookupPath(item, "name"); name != nil && !slices.Contains(names, name.Value) {
					names = append(names, name.Value)
					env.Content = append(env.Content, item)
				}
			}
		case n.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				add(n.Content[i].Value, n.Content[i+1])
			}
		}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(kubeVIPMarks, name) }) {
		return nil
	}
	if own { // What the chart sets where nothing else is said.
		add("vip_arp", scalarNode("true"))
		add("svc_enable", scalarNode("true"))
	}
	return env
}

// kubeVIPDaemonSet returns the DaemonSet that is made of values.
func kubeVIPDaemonSet(values, env *yaml.Node) *yaml.Node {
	image := "ghcr.io/kube-vip/kube-vip"
	if tag := lookupPath(values, "image", "tag"); tag != nil && tag.Value != "" {
		image += ":" + tag.Value
	}
	args := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if extra := lookup(values, "extraArgs"); extra != nil && extra.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(extra.Content); i += 2 {
			args.Content = append(args.Content, scalarNode("--"+extra.Content[i].Value+"="+extra.Content[i+1].Value))
		}
	}
	if from := lookup(values, "envValueFrom"); from != nil && from.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(from.Content); i += 2 {
			env.Content = append(env.Content, mapping("name", from.Content[i], "valueFrom", from.Content[i+1]))
		}
	}
	container := mapping("image", scalarNode(image), "args", args, "env", env, "envFrom", lookup(values, "envFrom"))
	pod := mapping("nodeSelector", lookup(values, "nodeSelector"), "affinity", lookup(values, "affinity"), "containers",
		&yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{container}})
	return mapping("kind", scalarNode("DaemonSet"), "metadata", mapping("name", scalarNode("kube-vip"), "namespace", scalarNode("kube-system")),
		"spec", mapping("template", mapping("spec", pod)))
}
