// SPDX-License-Identifier: Apache-2.0

package live

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Unit is what moves at once.
type Unit struct {
	// Name is "Service shop/web", "pool lan" or "node node1".
	Name string `json:"name"`
	// Services are those of the unit on layer 2, as shop/web.
	Services []string `json:"services,omitempty"`
	// Pool is the AddressPool, where a pool is the smallest unit, and Advertisements are MetalLB's L2Advertisements of it.
	Pool           string   `json:"pool,omitempty"`
	Advertisements []string `json:"-"`
	// Whole says that these are all Services, since the product can only be stopped whole.
	Whole bool `json:"whole,omitempty"`
	// Node is the Node of a unit of BGP.
	Node string `json:"node,omitempty"`
}

// Goal is what a user wants moved.
type Goal struct {
	All      bool
	Services []string        // as shop/web
	Selector labels.Selector // nil for none
	// Namespace limits Selector, "" for all.
	Namespace string
	Pools     []string
	Nodes     []string
}

// wants reports whether a unit is to move.
func (g *Goal) wants(m *machine, u *Unit) bool {
	if g.All || u.Node != "" && slices.Contains(g.Nodes, u.Node) {
		return true
	}
	return slices.ContainsFunc(u.Services, func(name string) bool {
		svc := m.Objects[serviceRef(name)]
		named := slices.Contains(g.Services, name)
		selected := g.Selector != nil && (g.Namespace == "" || g.Namespace == text(svc, "metadata", "namespace")) &&
			g.Selector.Matches(labels.Set(table(svc, "metadata", "labels")))
		return named || selected || slices.ContainsFunc(g.Pools, func(pool string) bool { return slices.Contains(m.poolsOf(svc), pool) })
	})
}

// documents returns those of Tandem's objects that are of a kind, as they are when the move has finished.
func (r *Record) documents(kind string) (docs []map[string]any) {
	for _, doc := range r.Documents {
		if text(doc, "kind") == kind {
			docs = append(docs, doc)
		}
	}
	return docs
}

// poolsOf returns the AddressPools that hold the addresses of a Service.
func (m *machine) poolsOf(svc map[string]any) (names []string) {
	for _, doc := range m.Record.documents("AddressPool") {
		set := m.set(doc)
		if slices.ContainsFunc(addressesOf(svc), set.Contains) {
			names = append(names, text(doc, "metadata", "name"))
		}
	}
	return names
}

// announces reports whether an advertisement of Tandem selects a Service that has an address of a pool.
func (m *machine) announces(ad, svc map[string]any) bool {
	// The objects of a move select namespaces by their names alone.
	namespace := map[string]string{corev1.LabelMetadataName: text(svc, "metadata", "namespace")}
	if !matchesAny(list(ad, "spec", "serviceSelectors"), table(svc, "metadata", "labels")) ||
		!matchesAny(list(ad, "spec", "namespaceSelectors"), namespace) {
		return false
	}
	names, selectors := texts(ad, "spec", "addressPools"), list(ad, "spec", "addressPoolSelectors")
	return slices.ContainsFunc(m.poolsOf(svc), func(pool string) bool {
		if len(names)+len(selectors) == 0 || slices.Contains(names, pool) {
			return true
		}
		i := slices.IndexFunc(m.Record.documents("AddressPool"), func(d map[string]any) bool { return text(d, "metadata", "name") == pool })
		return len(selectors) > 0 && matchesAny(selectors, table(m.Record.documents("AddressPool")[i], "metadata", "labels"))
	})
}

// by reports whether Tandem will announce a Service by advertisements of a kind.
func (m *machine) by(kind string, svc map[string]any) bool {
	return slices.ContainsFunc(m.Record.documents(kind), func(ad map[string]any) bool { return m.announces(ad, svc) })
}

// units returns all units: those of layer 2, in the order of their names, and then the Nodes.
func (m *machine) units() (units []*Unit) {
	var services []map[string]any
	for _, svc := range m.Objects.moving() {
		if m.by("L2Advertisement", svc) {
			services = append(services, svc)
		}
	}
	units = m.origin.units(m, services)
	if m.bgp() {
		for _, node := range m.Objects.of("", "Node") {
			all := table(node, "metadata", "labels")
			excluded := m.excludes(all)
			peered := slices.ContainsFunc(m.Record.documents("BGPPeer"), func(p map[string]any) bool { return matchesAny(list(p, "spec", "nodeSelectors"), all) })
			if name := text(node, "metadata", "name"); peered && !excluded {
				units = append(units, &Unit{Name: "node " + name, Node: name})
			}
		}
	}
	return units
}

// excludes reports whether Tandem announces nothing from a Node with these labels, as package observation of its speakers has it.
func (m *machine) excludes(all map[string]string) bool {
	value, labelled := all["node.kubernetes.io/exclude-from-external-load-balancers"]
	says, err := strconv.ParseBool(value)
	return labelled && (says || err != nil) && !slices.ContainsFunc(m.Objects.of("apps", "DaemonSet"), func(d map[string]any) bool {
		return text(d, "metadata", "namespace") == m.System && slices.ContainsFunc(items(d, "spec", "template", "spec", "containers"), func(c map[string]any) bool {
			return slices.Contains(texts(c, "args"), "--ignore-exclude-label") || slices.Contains(texts(c, "args"), "--ignore-exclude-label=true")
		})
	})
}

// bgp reports whether the move has sessions.
func (m *machine) bgp() bool { return len(m.Record.documents("BGPPeer")) > 0 }

// sharingUnits returns a unit for each Service with those that share an address with it, directly or by others.
func sharingUnits(services []map[string]any) (units []*Unit) {
	unitOf := map[netip.Addr]*Unit{}
	for _, svc := range services {
		unit := &Unit{Name: "Service " + nameOf(svc), Services: []string{nameOf(svc)}}
		for _, a := range addressesOf(svc) {
			other := unitOf[a]
			if other == nil || other == unit {
				continue
			}
			if len(unit.Services) == 1 && !slices.Contains(units, unit) {
				other.Services, unit = append(other.Services, unit.Services...), other
				continue
			}
			unit.Services = append(unit.Services, other.Services...) // The Service brings two units together.
			units = slices.DeleteFunc(units, func(u *Unit) bool { return u == other })
			for address, u := range unitOf {
				if u == other {
					unitOf[address] = unit
				}
			}
		}
		for _, a := range addressesOf(svc) {
			unitOf[a] = unit
		}
		if !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	return units
}

// poolUnits returns a unit for each of MetalLB's pools that it announces on layer 2.
func (m *machine) poolUnits(services []map[string]any) (units []*Unit) {
	for _, pool := range m.Record.refsBefore(theirGroup, "IPAddressPool") {
		set := m.set(m.Record.before(pool))
		unit := &Unit{Name: "pool " + pool.Name, Pool: pool.Name}
		for _, svc := range services {
			if slices.ContainsFunc(addressesOf(svc), set.Contains) {
				unit.Services = append(unit.Services, nameOf(svc))
			}
		}
		for _, ad := range m.poolAdvertisements() {
			if names := texts(ad, "spec", "ipAddressPools"); len(names) == 1 && names[0] == pool.Name {
				unit.Advertisements = append(unit.Advertisements, text(ad, "metadata", "name"))
			}
		}
		if len(unit.Services) > 0 {
			units = append(units, unit)
		}
	}
	return units
}
