// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// k3sSettings are what files say of k3s' ServiceLB that are no objects of Kubernetes: /etc/rancher/k3s/config.yaml and the files of config.yaml.d,
// and whatever has the arguments of k3s, such as an inventory of Ansible, a configuration of k3d, or the user data of a machine.
type k3sSettings struct {
	on, off bool                // ServiceLB runs as far as they say, and does not
	labels  map[string][]string // those of ServiceLB that nodes get, with their values
	running []subject           // Nodes of which k3s has noted that it runs with ServiceLB, and the DaemonSets that ServiceLB makes
}

var (
	disablesServiceLB = regexp.MustCompile(`--(?:disable|no-deploy)(?:[= ]["']?|"\s*,\s*")[\w,-]*\bservicelb\b`)
	labelsNode        = regexp.MustCompile(regexp.QuoteMeta(serviceLBPrefix) + `(enablelb|lbpool)=([\w.-]+)`)
	// k3sComponents are what k3s brings along; RKE2's have other names.
	k3sComponents = []string{"coredns", "traefik", "local-storage", "metrics-server", "runtimes"}
)

// readK3sSettings reads the settings of all documents, and adds a message for each document that has some.
func (d *draft) readK3sSettings() k3sSettings {
	all := k3sSettings{labels: map[string][]string{}}
	for _, o := range d.objects {
		if o.taken || o.kind == "Service" {
			continue
		}
		one := k3sSettings{labels: all.labels}
		if o.kind == "Node" {
			one.arguments(o.annotations["k3s.io/node-args"])
		} else {
			one.search(o.node)
		}
		about := o.about
		if o.kind == "" {
			about = subject{name: fmt.Sprintf("document %d of %s", o.index, o.file)}
		}
		switch {
		case one.off:
			d.add(Info, "servicelb", about, "it disables ServiceLB, as every k3s server has to. k3s' own cloud controller, which initialises nodes, stays")
		case one.on:
			d.add(Info, "servicelb", about, "it does not disable ServiceLB. Add servicelb to disable on every k3s server before Tandem's controller starts: "+
				"two controllers that give addresses to Services without a class write over each other")
		}
		all.on, all.off = all.on || one.on, all.off || one.off
		if o.kind == "Node" && one.on && !one.off || o.kind == "DaemonSet" && o.labels[serviceLBPrefix+"svcname"] != "" {
			all.running = append(all.running, about)
		}
	}
	all.off = all.off && len(all.running) == 0 // One server without the flag is enough.
	return all
}

// arguments reads those with which k3s runs on a node, as it notes them in JSON: ["server","--disable","servicelb"].
func (k *k3sSettings) arguments(text string) {
	k.text(text)
	k.on = strings.HasPrefix(strings.TrimSpace(text), `["server"`)
}

// search looks into a node, and into texts that are YAML themselves.
func (k *k3sSettings) search(n *yaml.Node) {
	switch n.Kind {
	case yaml.ScalarNode:
		k.text(n.Value)
		if strings.Contains(n.Value, "\n") && strings.Contains(n.Value, "servicelb") {
			if text := writtenIn(n); text != nil && text.Kind == yaml.MappingNode {
				k.search(text)
			}
		}
	case yaml.SequenceNode:
		k.text(strings.Join(words(n), " ")) // An argument and its value may be two elements.
		for _, item := range n.Content {
			k.search(item)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k.setting(strings.TrimSuffix(n.Content[i].Value, "+"), n.Content[i+1]) // disable+ adds to what other files have.
			k.search(n.Content[i+1])
		}
	}
}

// text reads arguments of k3s.
func (k *k3sSettings) text(text string) {
	k.off = k.off || disablesServiceLB.MatchString(text)
	for _, m := range labelsNode.FindAllStringSubmatch(text, -1) {
		k.labels[serviceLBPrefix+m[1]] = append(k.labels[serviceLBPrefix+m[1]], m[2])
	}
}

// setting reads a key of k3s' configuration.
func (k *k3sSettings) setting(key string, value *yaml.Node) {
	switch list := words(value); key {
	case "disable", "no-deploy":
		k.off = k.off || slices.Contains(list, "servicelb")
		k.on = k.on || slices.ContainsFunc(list, func(name string) bool { return slices.Contains(k3sComponents, name) })
	case "servicelb-namespace":
		k.on = k.on || len(list) > 0
	case "enable-servicelb": // of RKE2
		k.on = k.on || slices.Contains(list, "true")
	}
}

// words returns the scalars of a list, or what a scalar has between commas and blanks.
func words(n *yaml.Node) (list []string) {
	for _, item := range append([]*yaml.Node{n}, n.Content...) {
		if item.Kind == yaml.ScalarNode && n.Kind != yaml.MappingNode {
			list = append(list, strings.FieldsFunc(item.Value, func(r rune) bool { return strings.ContainsRune(", \t\n", r) })...)
		}
	}
	return list
}
