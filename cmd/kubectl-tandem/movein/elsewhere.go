// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// translations are the annotations of other products by which a Service asks for addresses, with ours.
var translations = map[string]string{
	"lbipam.cilium.io/ips": "load-balancer-ips", "io.cilium/lb-ipam-ips": "load-balancer-ips",
	"lbipam.cilium.io/sharing-key": "allow-shared-ip", "io.cilium/lb-ipam-sharing-key": "allow-shared-ip",
	"kube-vip.io/loadbalancerIPs": "load-balancer-ips", "kube-vip.io/requestedIP": "load-balancer-ips",
	"purelb.io/service-group": "address-pool", "purelb.io/addresses": "load-balancer-ips", "purelb.io/allow-shared-ip": "allow-shared-ip",
	"projectcalico.org/loadBalancerIPs": "load-balancer-ips",
	"projectcalico.org/ipv4pools":       "address-pool", "projectcalico.org/ipv6pools": "address-pool",
}

// elsewhere looks for such annotations where they are not on a Service, as in the values of a chart or in a Gateway: a patch of the Service
// would be undone by the controller that copies them.
func (d *draft) elsewhere() {
	for _, o := range d.objects {
		if o.kind == "Service" {
			continue
		}
		about := o.about
		if o.kind == "" {
			about = subject{name: fmt.Sprintf("document %d of %s", o.index, o.file)}
		}
		d.searchAnnotations(about, o.node, "")
		d.gatewayAddresses(o)
	}
}

func (d *draft) searchAnnotations(about subject, n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			d.searchAnnotations(about, item, fmt.Sprintf("%s[%d]", path, i))
		}
	case yaml.ScalarNode:
		// Values of charts are often a text within the document.
		if strings.Contains(n.Value, "\n") && mentions(n.Value) {
			if text := writtenIn(n); text != nil {
				d.searchAnnotations(about, text, path)
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i].Value, n.Content[i+1]
			if key == "kubectl.kubernetes.io/last-applied-configuration" {
				continue
			}
			below := strings.TrimPrefix(path+"."+key, ".")
			name, text := namedAnnotation(n, key, value)
			if !d.annotationElsewhere(about, path, name, text) {
				d.searchAnnotations(about, text, below)
			}
		}
	}
}

// namedAnnotation returns an annotation and its value where an entry of a mapping only names it, and the entry itself where it does not.
func namedAnnotation(n *yaml.Node, key string, value *yaml.Node) (string, *yaml.Node) {
	of := lookup(n, "value")
	if of == nil {
		return key, value
	}
	// A patch in JSON names the annotation in its path, as in /metadata/annotations/lbipam.cilium.io~1ips.
	if _, name, ok := strings.Cut(value.Value, "/annotations/"); ok && key == "path" {
		return strings.ReplaceAll(name, "~1", "/"), of
	}
	// And a parameter of a chart in its name, as in controller.service.annotations.lbipam\.cilium\.io/ips.
	if _, name, ok := strings.Cut(value.Value, "annotations."); ok && key == "name" {
		return strings.ReplaceAll(name, `\.`, "."), of
	}
	return key, value
}

// annotationElsewhere says what becomes of an annotation, or of a field like one, that is not on a Service. It reports whether it is such.
func (d *draft) annotationElsewhere(about subject, path, key string, value *yaml.Node) bool {
	where := about
	where.name = strings.TrimSpace(where.name + " " + path)
	ours := translations[key]
	text := d.translate(key, value.Value)
	if strings.HasSuffix(key, "/address-pool") && isMetalLBAnnotation(key) && text != value.Value {
		ours = "address-pool" // The pool has another name now.
	}
	switch {
	case key == "loadBalancerIP" && value.Kind == yaml.ScalarNode || key == "externalIPs" && value.Kind == yaml.SequenceNode:
		d.plainElsewhere(about, path, key, value)
	case ours != "" && value.Kind == yaml.ScalarNode && text != "":
		d.asksAway = true
		d.add(Warn, "annotation-elsewhere", where, "add tandem-lb.io/%s: %q beside %s; the Service itself is in the live "+
			"cluster, and a patch of it would be undone here",
			ours, text, key)
	case withoutTranslation(key) && value.Kind == yaml.ScalarNode:
		d.add(Warn, "annotation-elsewhere", where, "%s: %q has no annotation of Tandem's that does the same; the Service "+
			"itself is in the live cluster", key, value.Value)
	case (key == serviceLBTolerations || key == serviceLBPriority) && value.Kind == yaml.ScalarNode:
		d.add(Warn, "tolerations", where, servicePods, key)
	case isMetalLBAnnotation(key) && value.Kind == yaml.ScalarNode:
		d.asksAway = true
		d.add(Info, "understood", where, "annotation %s works in Tandem as it is", key)
	default:
		return false
	}
	return true
}

// translate returns the value of another product's annotation as Tandem's takes it. For example, the group purelb/lan is the pool lan, and Calico's
// ["192.0.2.1"] is 192.0.2.1.
func (d *draft) translate(key, text string) string {
	var list []string
	switch {
	case key == "purelb.io/service-group":
		group := text[strings.LastIndex(text, "/")+1:]
		return orElse(d.poolNames[group], group)
	case isMetalLBAnnotation(key) && strings.HasSuffix(key, "/address-pool"):
		return orElse(d.poolNames[text], text)
	case strings.HasPrefix(key, "projectcalico.org/") && json.Unmarshal([]byte(text), &list) == nil:
		return strings.Join(list, ",")
	}
	return text
}

// plainElsewhere speaks of the fields loadBalancerIP and externalIPs of a Service that a chart makes.
func (d *draft) plainElsewhere(about subject, path, key string, value *yaml.Node) {
	about.name = strings.TrimSpace(about.name + " " + path)
	var list []string
	for _, item := range append([]*yaml.Node{value}, value.Content...) {
		text, missing := (&input{set: d.Options.Set}).fill(item.Value)
		if some, bad := addresses(text); len(some) > 0 && len(bad) == 0 || len(missing) > 0 {
			list = append(list, text)
		}
	}
	switch {
	case len(list) == 0: // nothing, or something else of that name
	case key == "loadBalancerIP":
		d.asksAway = true
		d.add(Info, "understood", about, "Tandem honours loadBalancerIP %s, which has to be in a pool", list[0])
	default:
		d.add(Lost, "external-ips", about, "Tandem does not announce externalIPs %s. Make the Service a load balancer, and add "+
			"tandem-lb.io/load-balancer-ips to its annotations", strings.Join(list, ", "))
	}
}

// gatewayAddresses warns of the addresses of a Gateway of Cilium, of which it makes an annotation of its own.
func (d *draft) gatewayAddresses(o *object) {
	if o.kind != "Gateway" || o.group != "gateway.networking.k8s.io" {
		return
	}
	class, list := lookupPath(o.node, "spec", "gatewayClassName"), lookupPath(o.node, "spec", "addresses")
	if class == nil || list == nil || !strings.Contains(class.Value, "cilium") {
		return
	}
	for _, item := range list.Content {
		if item.Kind == yaml.MappingNode && scalarOf(item, "value") != "" {
			d.asksAway = true
			d.add(Warn, "annotation-elsewhere", subject{o.kind, o.nick + " spec.addresses"}, "add tandem-lb.io/load-balancer-ips: %q under "+
				"spec.infrastructure.annotations; Cilium makes an annotation of its own of it, which Tandem does not read", scalarOf(item, "value"))
		}
	}
}

// foreign reports whether an annotation is one by which a Service asks another product for something.
func foreign(key string) bool {
	return translations[key] != "" || withoutTranslation(key) || isMetalLBAnnotation(key)
}

// withoutTranslation reports whether an annotation is another product's, asks for something, and has no equal of ours.
func withoutTranslation(key string) bool {
	name, ok := strings.CutPrefix(key, "kube-vip.io/")
	switch {
	case ok:
		return translations[key] == "" && name != "vipHost" && name != "has-ip" && name != "kube-vip-class"
	case strings.HasPrefix(key, "service.cilium.io/"):
		return slices.Contains([]string{"node", "node-selector", "type"}, strings.TrimPrefix(key, "service.cilium.io/"))
	}
	return key == "purelb.io/multi-pool" || key == "purelb.io/allow-local" || key == "purelb.io/node-affinity"
}

func isMetalLBAnnotation(key string) bool {
	name, ok := strings.CutPrefix(key, "metallb.io/")
	if !ok {
		name, ok = strings.CutPrefix(key, "metallb.universe.tf/")
	}
	return ok && (name == "address-pool" || name == "loadBalancerIPs" || name == "allow-shared-ip")
}

func mentions(text string) bool {
	text = strings.ReplaceAll(text, "~1", "/")
	for key := range translations {
		if strings.Contains(text, key) {
			return true
		}
	}
	return slices.ContainsFunc([]string{
		"loadBalancerIP:", "externalIPs:", "kube-vip.io/", "purelb.io/", "service.cilium.io/", serviceLBPrefix, "metallb.io/", "metallb.universe.tf/",
	}, func(sign string) bool { return strings.Contains(text, sign) })
}
