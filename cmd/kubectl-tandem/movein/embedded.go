// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"bytes"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// converted reports whether objects of a kind are read on their own, and so wherever they stand.
func converted(group, kind string) bool {
	switch group {
	case "cilium.io":
		return kind == "CiliumLoadBalancerIPPool" || kind == "CiliumL2AnnouncementPolicy" || strings.HasPrefix(kind, "CiliumBGP")
	case "projectcalico.org", "crd.projectcalico.org":
		return slices.Contains([]string{"IPPool", "BGPConfiguration", "BGPPeer", "BGPFilter", "KubeControllersConfiguration"}, kind)
	}
	return slices.Contains(kindsOf[group], kind)
}

// configures reports whether an object is a ConfigMap with the configuration of MetalLB 0.12 and older.
func configures(n *yaml.Node) bool {
	if n.Kind != yaml.MappingNode || scalarOf(n, "kind") != "ConfigMap" {
		return false
	}
	config := lookupPath(n, "data", "config")
	return config != nil && (strings.Contains(config.Value, "address-pools:") || strings.Contains(config.Value, "peer-address:"))
}

// embedding looks for objects within a document that is something else, such as the values of a chart, the machine configuration of Talos,
// a task of Ansible, or a ConfigMap of a ClusterResourceSet.
type embedding struct {
	in      *input
	file    string
	index   int
	within  string // what the document is, for messages
	patches bool   // the document is a Kustomization, which has patches of objects
	objects []*object
}

// embedded returns the objects that stand within a document.
func (in *input) embedded(file string, index int, root *yaml.Node) (objects []*object) {
	kind, version := "", ""
	if root.Kind == yaml.MappingNode {
		if items := lookup(root, "items"); items != nil && items.Kind == yaml.SequenceNode { // of a List, whose items are documents
			for _, item := range items.Content {
				objects = append(objects, in.embedded(file, index, item)...)
			}
			return objects
		}
		kind, version = scalarOf(root, "kind"), scalarOf(root, "apiVersion")
	}
	if root.Kind == yaml.SequenceNode { // whose elements are documents, too
		for _, item := range root.Content {
			objects = append(objects, in.embedded(file, index, item)...)
		}
		return objects
	}
	group, _, _ := strings.Cut(version, "/")
	if kind == "CustomResourceDefinition" || converted(group, kind) || configures(root) {
		return nil
	}
	e := &embedding{in: in, file: file, index: index, within: kind, patches: kind == "Kustomization"}
	if meta := lookupPath(root, "metadata"); meta != nil && meta.Kind == yaml.MappingNode {
		e.within = strings.TrimSpace(kind + " " + scalarOf(meta, "name"))
	}
	if e.within == "" {
		e.within = "document " + itoa(index) + " of " + file
	}
	e.walk(root, "", 0, false)
	return e.objects
}

// walk looks into a node. line is where the text begins that has it, 0 in the document itself, and patch says that it is one.
func (e *embedding) walk(n *yaml.Node, path string, line int, patch bool) {
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			e.walk(item, path+"["+itoa(i)+"]", line, patch)
		}
	case yaml.ScalarNode:
		if strings.Contains(n.Value, "\n") && strings.Contains(n.Value, "apiVersion:") {
			e.text(n, path, line, patch)
		}
	case yaml.MappingNode:
		group, _, _ := strings.Cut(scalarOf(n, "apiVersion"), "/")
		if kind := scalarOf(n, "kind"); converted(group, kind) || configures(n) {
			e.found(n, kind, path, line, patch)
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if key == "kubectl.kubernetes.io/last-applied-configuration" {
				continue
			}
			patches := strings.Contains(strings.ToLower(key), "patch")
			e.walk(n.Content[i+1], strings.TrimPrefix(path+"."+key, "."), line, patch || e.patches && patches)
		}
	}
}

// text looks into a text that is YAML itself. One that is none says nothing of objects.
func (e *embedding) text(n *yaml.Node, path string, line int, patch bool) {
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(n.Value)))
	for {
		var root yaml.Node
		if decoder.Decode(&root) != nil {
			return
		}
		if inner, err := value(&root); err == nil && inner != nil {
			e.walk(inner, path, line+n.Line, patch)
		}
	}
}

// found takes an object, or says that it is a patch of one.
func (e *embedding) found(n *yaml.Node, kind, path string, line int, patch bool) {
	for _, o := range e.in.document(e.file, e.index, n, "", "") {
		o.line += line
		if patch {
			e.in.add(Warn, "unknown-kind", o.about, "a patch of it within %s (%s) is no whole object and is left out; build it first, as with kubectl kustomize, "+
				"or read the live cluster by --from-cluster", e.within, path)
			continue
		}
		e.in.add(Info, "embedded", subject{kind, o.nick}, "stands within %s (%s)", e.within, path)
		e.objects = append(e.objects, o)
	}
}
