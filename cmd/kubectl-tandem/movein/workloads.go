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
	args  []string
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
		c := container{env: map[string]string{}}
		if image := lookupPath(item, "image"); image != nil {
			c.image = image.Value
		}
		if args := lookupPath(item, "args"); args != nil {
			for _, arg := range args.Content {
				c.args = append(c.args, arg.Value)
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
				}
			}
		}
		list = append(list, c)
	}
	return list
}
