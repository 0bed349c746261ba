// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"strings"
)

func serviceRef(name string) Ref {
	namespace, name, _ := strings.Cut(name, "/")
	return Ref{Kind: "Service", Namespace: namespace, Name: name}
}

func nodeRef(name string) Ref { return Ref{Kind: "Node", Name: name} }

// recordRef names the record of who announces a Service on layer 2.
func recordRef(service string) Ref {
	return Ref{Group: ourGroup, Kind: "L2Announcement", Name: strings.Replace(service, "/", ".", 1)}
}

// Records names the records of the Services of a unit: Tandem writes there who announces them on layer 2.
func (u *Unit) Records() (refs []Ref) {
	for _, name := range u.Services {
		refs = append(refs, recordRef(name))
	}
	return refs
}

// progress returns the label of a Service or Node: "", moving or moved.
func (s *Snapshot) progress(ref Ref) string { return text(s.Objects[ref], "metadata", "labels", label) }

func (s *Snapshot) write(ref Ref, value any, why string) Action {
	return s.change(ref, why, func(o map[string]any) {
		if value == nil {
			unlabel(o)
			return
		}
		set(o, value, "metadata", "labels", label)
	})
}

// both reports whether both products announce a unit for a moment, since its product is stopped otherwise than by the label.
func (u *Unit) both() bool { return u.Pool != "" || u.Whole }

// refs names what has the label of a unit.
func (u *Unit) refs() (refs []Ref) {
	if u.Node != "" {
		return []Ref{nodeRef(u.Node)}
	}
	for _, name := range u.Services {
		refs = append(refs, serviceRef(name))
	}
	return refs
}

// has reports whether all that a unit consists of has moved.
func (m *machine) has(u *Unit) bool {
	return !slices.ContainsFunc(u.refs(), func(ref Ref) bool { return m.progress(ref) != moved })
}

// moveUnits moves those units that are wanted, one after the other.
func (m *machine) moveUnits(goal *Goal) Action {
	units := m.units()
	for _, u := range units {
		if !goal.wants(m, u) || m.has(u) {
			continue
		}
		if u.Whole && !goal.All {
			return stop("%s can only be stopped for all Services at once: kubectl tandem move-in start --all moves them in one step", m.names().title)
		}
		a := first(func() Action { return m.layer2First(u, units) }, func() Action { return m.moveUnit(u) })
		if a.Unit = u.Name; !a.Done() {
			return a
		}
	}
	return Action{}
}

// layer2First stops at a Node that the product's speaker would leave while it answers for Services on layer 2.
func (m *machine) layer2First(u *Unit, units []*Unit) Action {
	if u.Node == "" || m.progress(nodeRef(u.Node)) != "" {
		return Action{}
	}
	for _, other := range units {
		if other.Node == "" && !m.has(other) {
			return stop("%s announces %s on layer 2 still, and its speaker goes from the Node whose sessions move: move the Services first", m.names().title,
				other.Name)
		}
	}
	return Action{}
}

// moveUnit moves one unit, or takes it back where a probe has found that it does not answer.
func (m *machine) moveUnit(u *Unit) Action {
	outcome, probed := m.Probes[u.Name]
	early, asked := m.Probes[u.Name+" early"]
	if why := outcome.Why + early.Why; why != "" {
		return m.giveBack(u, why)
	}
	stages := []func() Action{
		func() Action { return m.seed(u) }, func() Action { return m.shut(u) }, func() Action { return m.mark(u, "", moving) },
		func() Action { return m.release(u) },
	}
	if u.Node != "" {
		stages = []func() Action{
			func() Action { return m.mark(u, "", leaving) }, func() Action { return m.left(u.Node) }, func() Action { return m.mark(u, leaving, moving) },
		}
	}
	if u.both() {
		stages = append(stages, func() Action {
			if asked || probed {
				return Action{}
			}
			return Action{Probe: u, ProbeName: u.Name + " early", Early: true}
		}, func() Action { return m.silence(m, u) })
	}
	return first(append(stages, func() Action {
		if probed {
			return Action{}
		}
		return Action{Probe: u, ProbeName: u.Name}
	}, func() Action { return m.mark(u, moving, moved) })...)
}

// left waits until the product's speakers have left a Node. Tandem's speaker opens no session with a router that another program of its Node has one with,
// and remembers what it has seen for ten minutes.
func (m *machine) left(node string) Action {
	if m.progress(nodeRef(node)) != leaving {
		return Action{}
	}
	for _, ref := range m.Record.Speakers {
		for _, pod := range m.Objects.podsOf(m.Objects[ref]) {
			if text(pod, "spec", "nodeName") == node {
				return Action{Wait: fmt.Sprintf("the end of %s on Node %s%s", ref, node, m.ifLost(pod))}
			}
		}
	}
	return Action{}
}

// mark changes the label of what a unit consists of from one value to another.
func (m *machine) mark(u *Unit, from, to string) Action {
	for _, ref := range u.refs() {
		if m.progress(ref) != from {
			continue
		}
		why := fmt.Sprintf("hand %s over", ref)
		switch to {
		case leaving:
			why = fmt.Sprintf("have %s leave %s", m.names().speakers, ref)
		case moved:
			why = fmt.Sprintf("note that %s has moved", ref)
		}
		if a := m.write(ref, to, why); !a.Done() {
			return a
		}
	}
	return Action{}
}

// holdersOf returns the node that each Service of a unit is announced from. Services that share an address go to one node: Cilium elects one for each of
// them, and Tandem one for the address.
func (m *machine) holdersOf(u *Unit) map[string]string {
	now := m.holders(m.Objects)
	var services []map[string]any
	for _, name := range u.Services {
		if svc := m.Objects[serviceRef(name)]; svc != nil {
			services = append(services, svc)
		}
	}
	for _, sharing := range sharingUnits(services) {
		i := slices.IndexFunc(sharing.Services, func(name string) bool { return now[name] != "" })
		for _, name := range sharing.Services {
			if i >= 0 {
				now[name] = now[sharing.Services[i]]
			}
		}
	}
	return now
}

// seed has the node that a Service is announced from take it over in Tandem, so that its MAC stays. Addresses that are on record count as
// announced before, so that the node asks nobody for them first.
func (m *machine) seed(u *Unit) Action {
	now := m.holdersOf(u)
	for _, name := range u.Services {
		svc := m.Objects[serviceRef(name)]
		record := recordRef(name)
		if m.progress(serviceRef(name)) != "" {
			continue
		}
		var addresses []any
		for _, a := range addressesOf(svc) {
			addresses = append(addresses, a.String())
		}
		fill := func(o map[string]any) {
			if text(o, "status", "node") == "" {
				set(o, addresses, "status", "addresses")
				if node := now[name]; node != "" {
					set(o, node, "spec", "target")
				}
			}
		}
		a := m.change(record, fmt.Sprintf("have the node of %s go on answering", name), fill)
		if m.Objects[record] == nil {
			namespace, short, _ := strings.Cut(name, "/")
			o := map[string]any{
				"apiVersion": ourGroup + "/v1alpha1", "kind": "L2Announcement", "metadata": map[string]any{"name": record.Name},
				"service": map[string]any{"namespace": namespace, "name": short},
			}
			fill(o)
			a = m.create(o, fmt.Sprintf("have the node of %s go on answering", name))
		}
		if !a.Done() {
			return a
		}
	}
	return Action{}
}

// giveBack hands a unit back, and stops the move. Of a product that has been stopped whole already, it hands back no more than what has come since:
// the product would announce all again.
func (m *machine) giveBack(u *Unit, why string) Action {
	if late := slices.DeleteFunc(u.refs(), func(ref Ref) bool { return m.progress(ref) == moved }); u.Whole && len(late) < len(u.Services) {
		return first(func() Action {
			for _, ref := range late {
				if m.progress(ref) == moving {
					return m.handBack(ref)
				}
			}
			return Action{}
		}, func() Action {
			return stop("%s does not answer: %s. What had moved before stays with Tandem", u.Name, why)
		})
	}
	back := func() Action {
		if u.both() {
			return m.speak(m, u)
		}
		return Action{}
	}
	return first(back, func() Action {
		for _, ref := range u.refs() {
			if m.progress(ref) == moving {
				return m.handBack(ref)
			}
		}
		return Action{}
	}, func() Action { return stop("%s does not answer, and is %s's again: %s", u.Name, m.names().title, why) })
}
