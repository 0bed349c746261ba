// SPDX-License-Identifier: Apache-2.0

package live

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// pureLB is PureLB, whose agents hold the addresses of local groups on the nodes' interfaces. There is no switch for a Service or a group: the agents
// go from all nodes at once.
type pureLB struct{ whole }

const pureLBGroup = "purelb.io"

func (pureLB) names() names {
	return names{
		key: "purelb", title: "PureLB", allocator: "PureLB's allocator", speakers: "PureLB's agents", page: "docs/moving-in/purelb.md",
		mark: "purelb.io/announcing", whole: true,
	}
}

func (p pureLB) found(o Objects) bool { return p.allocator(o) != nil || len(p.announcers(o)) > 0 }

// partOfPureLB reports whether a workload is a part of PureLB's, by the labels of its manifests or by its image.
func partOfPureLB(o map[string]any, part string) bool {
	all := table(o, "spec", "template", "metadata", "labels")
	if (all["app"] == "purelb" || all["app.kubernetes.io/name"] == "purelb") && (all["component"] == part || all["app.kubernetes.io/component"] == part) {
		return true
	}
	return slices.ContainsFunc(images(o), func(i string) bool { return strings.Contains(i, "purelb") && strings.Contains(i, "/"+part) })
}

func (pureLB) allocator(o Objects) map[string]any {
	for _, d := range o.of("apps", "Deployment") {
		if partOfPureLB(d, "allocator") {
			return d
		}
	}
	return nil
}

func (pureLB) announcers(o Objects) (list []map[string]any) {
	for _, d := range o.of("apps", "DaemonSet") {
		if partOfPureLB(d, "lbnodeagent") {
			list = append(list, d)
		}
	}
	return list
}

func (pureLB) configuration(s *Snapshot) []map[string]any {
	return append(s.Objects.of(pureLBGroup, "ServiceGroup"), s.Objects.of(pureLBGroup, "LBNodeAgent")...)
}

func (p pureLB) obstacles(s *Snapshot) (messages []movein.Message) {
	if p.allocator(s.Objects) == nil || len(p.announcers(s.Objects)) == 0 {
		messages = append(messages, refuse("no-purelb", "the cluster", "there is no Deployment of PureLB's allocator, or no DaemonSet of its agents; only a PureLB "+
			"that runs can be moved"))
	}
	for _, d := range p.announcers(s.Objects) {
		if i := slices.IndexFunc(images(d), func(i string) bool { return strings.Contains(i, "gobgp") }); i >= 0 {
			messages = append(messages, refuse("router", RefOf(d).String(), "its Pods have a router, %s, whose sessions and routes would end with them: run that "+
				"router in a DaemonSet of its own, or move by the steps of %s", images(d)[i], p.names().page))
		}
	}
	for _, svc := range s.Objects.moving() {
		if table(svc, "metadata", "annotations")["purelb.io/pool-type"] == "remote" {
			messages = append(messages, refuse("remote", RefOf(svc).String(), "its address is in no subnet of a node, but on kube-lb0, which PureLB's agents "+
				"remove when they end. Move these by the steps of %s", p.names().page))
		}
	}
	for _, group := range s.Objects.of(pureLBGroup, "ServiceGroup") {
		if remoteGroup(group, s.Objects.of("", "Node")) {
			messages = append(messages, refuse("remote", RefOf(group).String(), "its addresses are in no subnet of a node: they are on kube-lb0, for the routing "+
				"software of the nodes, and PureLB's agents remove that interface when they end. Move these by the steps of %s", p.names().page))
		}
	}
	return messages
}

// remoteGroup reports whether the addresses of a group are in no subnet of the nodes. The second version says so, and in the first a group is local where
// a node has an address in its subnet.
func remoteGroup(group map[string]any, nodes []map[string]any) bool {
	if at(group, "spec", "remote") != nil || text(group, "spec", "external", "announce") == "remote" {
		return true
	}
	if !strings.HasSuffix(text(group, "apiVersion"), "/v1") {
		return false
	}
	ranges := append(items(group, "spec", "local", "v4pools"), items(group, "spec", "local", "v6pools")...)
	for _, field := range []string{"v4pool", "v6pool"} {
		if one, ok := at(group, "spec", "local", field).(map[string]any); ok {
			ranges = append(ranges, one)
		}
	}
	if local, ok := at(group, "spec", "local").(map[string]any); ok && text(local, "subnet") != "" {
		ranges = append(ranges, local)
	}
	for _, r := range ranges {
		subnet, err := netip.ParsePrefix(text(r, "subnet"))
		if err == nil && !slices.ContainsFunc(nodes, func(node map[string]any) bool { return inSubnet(node, subnet.Masked()) }) {
			return true
		}
	}
	return false
}

// inSubnet reports whether a node may have an address in a subnet: one of its addresses is in it, or none of the family is known.
func inSubnet(node map[string]any, subnet netip.Prefix) bool {
	known := false
	for _, item := range items(node, "status", "addresses") {
		if a, err := netip.ParseAddr(text(item, "address")); err == nil && a.Is4() == subnet.Addr().Is4() {
			known = true
			if subnet.Contains(a) {
				return true
			}
		}
	}
	return !known
}

// holders: the agents note on a Service which node holds which address, by an annotation for each family.
func (p pureLB) holders(o Objects) map[string]string {
	agents := map[string]bool{}
	for _, d := range p.announcers(o) {
		for _, pod := range o.podsOf(d) {
			node := text(pod, "spec", "nodeName")
			agents[node] = agents[node] || isTrue(pod, "Ready")
		}
	}
	nodes := map[string]string{}
	for _, svc := range o.moving() {
		for _, key := range marks(svc, p.names().mark) { // IPv4 comes before IPv6.
			if nodes[nameOf(svc)] == "" {
				nodes[nameOf(svc)] = holderIn(table(svc, "metadata", "annotations")[key], agents)
			}
		}
	}
	return nodes
}

// holderIn returns the node that holds the first address of a note: "node1,eth0" in the first version, and "node1,eth0,192.0.2.1 node2,eth0,192.0.2.1"
// in the second. There a node adds itself when it takes an address, and none removes itself, so that the note has all nodes that ever held it. The agents
// give the address to the node with the least SHA-256 of "node1#192.0.2.1", of the nodes that have an agent.
func holderIn(note string, agents map[string]bool) (holder string) {
	var address, least string
	for entry := range strings.FieldsSeq(note) {
		fields := append(strings.Split(entry, ","), "")
		if len(fields) < 3 {
			continue // No entry of PureLB's.
		}
		node, of := fields[0], fields[2]
		if holder == "" {
			holder, address = node, of
		}
		hash := sha256.Sum256([]byte(node + "#" + of))
		if sum := string(hash[:]); of == address && agents[node] && (least == "" || sum < least) {
			holder, least = node, sum
		}
	}
	return holder
}

// widen has nothing to do where the agents have not been stopped: no unit may have had Services.
func (pureLB) widen(m *machine) Action { return m.speakersBack() }

// own: the agents announce what the annotation says to be PureLB's, and its allocator gives all else to other Services.
func (pureLB) own(m *machine, svc map[string]any) {
	for _, group := range m.Objects.of(pureLBGroup, "ServiceGroup") {
		if name := text(group, "metadata", "name"); slices.Contains(m.poolsOf(svc), name) {
			set(svc, "PureLB", "metadata", "annotations", "purelb.io/allocated-by")
			set(svc, name, "metadata", "annotations", "purelb.io/allocated-from")
			set(svc, "local", "metadata", "annotations", "purelb.io/pool-type")
			return
		}
	}
}

func (pureLB) classes(Objects) []string { return []string{"purelb.io/purelb", "purelb.io/purelbv2"} }

func (pureLB) after(*Record) string { return "uninstall PureLB as you installed it" }

func (p pureLB) tidy(svc map[string]any) {
	notes := []string{"purelb.io/allocated-by", "purelb.io/allocated-from", "purelb.io/pool-type"}
	for _, key := range append(notes, marks(svc, p.names().mark)...) {
		set(svc, nil, "metadata", "annotations", key)
	}
}
