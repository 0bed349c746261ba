// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Document is an object of Tandem, a Secret, or a patch for a Service.
type Document struct {
	Object map[string]any `json:"object"`
	// From says what the object was made from.
	From string `json:"from"`
}

// Patch reports whether the document is a merge patch for a Service that is there already.
func (d Document) Patch() bool { return d.Object["kind"] == "Service" }

// YAML returns the document with a comment that says where it comes from.
func (d Document) YAML() ([]byte, error) {
	text, err := yaml.Marshal(d.Object)
	if err != nil {
		return nil, err
	}
	comment := "# From " + strings.ReplaceAll(d.From, "\n", " ") + ".\n"
	if d.Patch() {
		commands, err := d.commands()
		if err != nil {
			return nil, err
		}
		comment += "# A merge patch and no whole Service, so that kubectl apply would take away what is not here. Instead:\n# " +
			strings.Join(commands, "\n# ") + "\n"
	}
	return append([]byte(comment), text...), nil
}

// commands returns those of a shell that make a patch. One that makes a load balancer takes externalIPs away once the status has an address, so that
// nodes take the traffic all the while.
func (d Document) commands() (commands []string, err error) {
	meta := d.Object["metadata"].(map[string]any)
	namespace, name := fmt.Sprint(meta["namespace"]), fmt.Sprint(meta["name"])
	add := func(before string, patch map[string]any) {
		data, e := json.Marshal(patch)
		err = errors.Join(err, e)
		commands = append(commands, fmt.Sprintf("%skubectl patch service -n %s %s --type merge -p %s", before, quote(namespace), quote(name), quote(string(data))))
	}
	first := map[string]any{"metadata": map[string]any{"annotations": meta["annotations"]}}
	if d.Object["spec"] == nil {
		add("", first)
		return commands, err
	}
	first["spec"] = map[string]any{"type": "LoadBalancer"}
	add("", first)
	add(fmt.Sprintf("kubectl wait -n %s %s --for=jsonpath='{.status.loadBalancer.ingress}' --timeout=2m && ", quote(namespace), quote("service/"+name)),
		map[string]any{"spec": map[string]any{"externalIPs": nil}})
	return commands, err
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/.-]+$`)

// quote returns a text as a shell takes it for one word.
func quote(text string) string {
	if plainWord.MatchString(text) && !strings.HasPrefix(text, "-") {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// spec is the spec of an object, without what is left to its default.
type spec map[string]any

// set writes a field, unless it has the value that stands for the default.
func set[T comparable](s spec, field string, value, standard T) {
	if value != standard {
		s[field] = value
	}
}

func setList[T any](s spec, field string, list []T) {
	if len(list) > 0 {
		s[field] = list
	}
}

func tandem(kind, name string, labels map[string]string, s spec, from string) Document {
	meta := map[string]any{"name": name}
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	return Document{map[string]any{"apiVersion": "tandem-lb.io/v1alpha1", "kind": kind, "metadata": meta, "spec": map[string]any(s)}, from}
}

// documents renders the draft in the order in which the objects can be applied.
func (d *draft) documents() (docs []Document) {
	labelled := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool { return len(a.poolSelectors) > 0 })
	for _, p := range d.pools {
		docs = append(docs, p.document(labelled))
	}
	for _, p := range d.profiles {
		docs = append(docs, p.document())
	}
	for _, c := range d.communities {
		var values []map[string]string
		for _, v := range c.values {
			values = append(values, map[string]string{"name": v[0], "value": v[1]})
		}
		docs = append(docs, tandem(communityKind, c.name, nil, spec{"communities": values}, c.from))
	}
	secrets := map[[3]string]bool{}
	for _, p := range d.peers {
		made, content := p.documents(), [3]string{p.secret, p.key, p.password}
		if p.password != "" && secrets[content] { // Two peers with one Secret have one copy.
			made = made[1:]
		}
		secrets[content] = true
		docs = append(docs, made...)
	}
	for _, a := range d.advertisements {
		docs = append(docs, a.document())
	}
	for _, p := range d.patches {
		docs = append(docs, p.document())
	}
	return docs
}

func (p *pool) document(labelled bool) Document {
	s := spec{}
	if p.manual {
		s["autoAssign"] = false
	}
	set(s, "avoidBuggyIPs", p.avoidBuggy, false)
	set(s, "priority", p.priority, 0)
	setList(s, "namespaceSelectors", p.namespaces)
	setList(s, "serviceSelectors", p.services)
	for _, f := range family.All {
		spans, excluded := p.ofFamily(f)
		if len(spans) == 0 {
			continue
		}
		var ranges, exclude []string
		for _, entry := range spans {
			ranges = append(ranges, entry.text)
		}
		for _, a := range excluded {
			exclude = append(exclude, a.String())
		}
		partition := map[string]any{}
		setList(partition, "ranges", ranges)
		setList(partition, "exclude", distinct(exclude))
		s[partitionField(f)] = partition
	}
	var labels map[string]string
	if labelled {
		labels = p.labels
	}
	return tandem(poolKind, p.name, labels, s, p.from)
}

func (p *profile) document() Document {
	s := spec{}
	set(s, "receiveInterval", number("%dms", p.receive), "")
	set(s, "transmitInterval", number("%dms", p.transmit), "")
	set(s, "echoInterval", number("%dms", p.echo), "")
	for _, field := range []string{"receiveInterval", "transmitInterval"} {
		if s[field] == "300ms" {
			delete(s, field)
		}
	}
	if s["echoInterval"] == "50ms" {
		delete(s, "echoInterval")
	}
	set(s, "detectMultiplier", orDefault(p.multiplier, 3), 3)
	set(s, "minimumTTL", orDefault(p.ttl, 254), 254)
	set(s, "passiveMode", p.passive, false)
	return tandem("BFDProfile", p.name, nil, s, p.from)
}

func orDefault(n, standard int64) int64 {
	if n == 0 {
		return standard
	}
	return n
}

// documents returns the peer, after the Secret with its password where that was in clear.
func (p *peer) documents() (docs []Document) {
	s := spec{"myASN": p.my}
	set(s, "peerASN", p.theirs, 0)
	set(s, "dynamicASN", p.dynamic, "")
	set(s, "peerAddress", p.address, "")
	set(s, "defaultGateway", p.gateway, "")
	set(s, "interface", p.iface, "")
	set(s, "vrf", p.vrf, "")
	set(s, "peerPort", orDefault(p.port, 179), 179)
	set(s, "sourceAddress", p.source, "")
	set(s, "sourceInterface", p.sourceInterface, "")
	set(s, "routerID", p.routerID, "")
	if seconds(p.hold) != 90 {
		set(s, "holdTime", p.hold, "")
	}
	if seconds(p.keepalive)*3 != seconds(orElse(p.hold, "90s")) || s["holdTime"] != nil {
		set(s, "keepaliveTime", p.keepalive, "")
	}
	if seconds(p.connect) != 5 {
		set(s, "connectTime", p.connect, "")
	}
	set(s, "ebgpMultiHop", p.multihop, false)
	set(s, "ttlSecurityHops", p.securityHops, 0)
	set(s, "bfdProfile", p.bfd, "")
	if p.secret != "" {
		reference := map[string]any{"name": p.secret}
		if p.key != "" && p.key != "password" {
			reference["key"] = p.key
		}
		s["passwordSecret"] = reference
	}
	if p.graceful {
		restart := map[string]any{}
		set(restart, "restartTime", p.restart, "")
		s["gracefulRestart"] = restart
	}
	setList(s, "families", p.families)
	setList(s, "nodeSelectors", p.nodes)
	if p.password != "" {
		docs = append(docs, Document{map[string]any{
			"apiVersion": "v1", "kind": "Secret",
			"metadata":   map[string]any{"name": p.secret, "namespace": "tandem-system"},
			"stringData": map[string]any{orElse(p.key, "password"): p.password},
		}, p.from})
	}
	return append(docs, tandem(peerKind, p.name, nil, s, p.from))
}

func (a *advertisement) document() Document {
	s := spec{}
	setList(s, "addressPools", a.pools)
	setList(s, "addressPoolSelectors", a.poolSelectors)
	setList(s, "serviceSelectors", a.services)
	setList(s, "namespaceSelectors", a.namespaces)
	setList(s, "nodeSelectors", a.nodes)
	setList(s, "interfaces", a.interfaces)
	var preferred []map[string]any
	for _, p := range a.preferred {
		preferred = append(preferred, map[string]any{"weight": p.weight, "nodeSelector": p.nodes})
	}
	setList(s, "preferredNodes", preferred)
	setList(s, "peers", a.peers)
	setList(s, "families", a.families)
	setList(s, "communities", a.communities)
	set(s, "aggregationLength", orDefault(a.length, 32), 32)
	set(s, "aggregationLengthV6", orDefault(a.lengthV6, 128), 128)
	set(s, "interface", a.iface, "")
	if a.localPref != nil {
		s["localPref"] = *a.localPref
	}
	return tandem(a.kind, a.name, nil, s, a.from)
}

func (p *patch) document() Document {
	object := map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": p.name, "namespace": p.namespace}}
	if len(p.annotations) > 0 {
		object["metadata"].(map[string]any)["annotations"] = maps.Clone(p.annotations)
	}
	if p.loadBalancer {
		object["spec"] = map[string]any{"type": "LoadBalancer", "externalIPs": nil}
	}
	return Document{object, p.from}
}

// selectorsOf is a list of one selector, or none.
func selectorsOf(s *metav1.LabelSelector) []metav1.LabelSelector {
	if s == nil || empty(*s) {
		return nil
	}
	return []metav1.LabelSelector{*s}
}
