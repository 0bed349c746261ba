// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// container is what a workload says of one of its containers.
type container struct {
	image string
	env   map[string]string
	order []string // the names of env as written
	args  []string // with those that stand in command
	// from has where the values of variables are that are not in env, by the variable, and whole the ConfigMaps and Secrets that are variables as a whole.
	from  map[string]reference
	whole []reference
}

// reference names a key of a ConfigMap or of a Secret, or all of it. For example, {ConfigMap kube-vip bgp_as} is that of
// valueFrom: {configMapKeyRef: {name: kube-vip, key: bgp_as}}.
type reference struct{ kind, name, key string }

// referenceOf reads what a valueFrom or an entry of envFrom refers to. Any other source, such as a field of the Pod, has neither kind nor name.
func referenceOf(n *yaml.Node) reference {
	for field, kind := range map[string]string{
		"configMapKeyRef": "ConfigMap", "configMapRef": "ConfigMap", "secretKeyRef": "Secret", "secretRef": "Secret",
	} {
		if source := lookupPath(n, field); source != nil && source.Kind == yaml.MappingNode {
			return reference{kind, scalarOf(source, "name"), scalarOf(source, "key")}
		}
	}
	return reference{}
}

// podSpec returns the spec of the pods of a workload, nil for any other object.
func (o *object) podSpec() *yaml.Node {
	switch o.kind {
	case "Pod":
		return lookupPath(o.node, "spec")
	case "DaemonSet", "Deployment", "StatefulSet":
		return lookupPath(o.node, "spec", "template", "spec")
	}
	return nil
}

// containers returns the containers of a workload.
func (o *object) containers() (list []container) {
	pod := o.podSpec()
	if pod == nil {
		return nil
	}
	items := lookupPath(pod, "containers")
	if items == nil {
		return nil
	}
	for _, item := range items.Content {
		c := container{env: map[string]string{}, from: map[string]reference{}}
		if image := lookupPath(item, "image"); image != nil {
			c.image = image.Value
		}
		for _, field := range []string{"command", "args"} {
			if args := lookupPath(item, field); args != nil {
				for _, arg := range args.Content {
					c.args = append(c.args, arg.Value)
				}
			}
		}
		if env := lookupPath(item, "env"); env != nil {
			for _, variable := range env.Content {
				name := lookupPath(variable, "name")
				if name == nil {
					continue
				}
				c.order = append(c.order, name.Value)
				c.env[name.Value] = ""
				if value := lookupPath(variable, "value"); value != nil {
					c.env[name.Value] = strings.TrimSpace(value.Value)
				} else if source := lookupPath(variable, "valueFrom"); source != nil {
					c.from[name.Value] = referenceOf(source)
				}
			}
		}
		if sources := lookupPath(item, "envFrom"); sources != nil {
			for _, source := range sources.Content {
				c.whole = append(c.whole, referenceOf(source))
			}
		}
		list = append(list, c)
	}
	return list
}
