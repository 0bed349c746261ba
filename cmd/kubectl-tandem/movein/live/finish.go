// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
)

// Finish returns what comes next on the way to the end of a move.
func Finish(s *Snapshot) (Action, error) {
	switch phase := s.PhaseOf(); phase {
	case "":
		if s.PhaseLost() {
			return stop("%s", s.noPhase()), nil
		}
		return stop("there is no move; kubectl tandem move-in start begins one"), nil
	case Finished:
		return Action{}, nil
	case Announcing, Finishing:
		m, err := s.machine()
		if err != nil {
			return Action{}, err
		}
		return first(s.allowed, m.allMoved, m.enter(Finishing), func() Action { return m.end(m) }, m.settleOurs, m.settleServices, m.settleNodes,
			m.enter(Finished)), nil
	default:
		return stop("the move is in phase %s, and cannot be finished; kubectl tandem move-in status says what comes next", phase), nil
	}
}

// allMoved stops where something has not moved yet, or the product gives addresses or announces again.
func (m *machine) allMoved() Action {
	if m.PhaseOf() == Finishing {
		return Action{}
	}
	if a := m.theirsStopped(); !a.Done() {
		return a
	}
	var left []string
	for _, u := range m.units() {
		if !m.has(u) {
			left = append(left, u.Name)
		}
	}
	if len(left) > 0 {
		return stop("%s still announces %s: kubectl tandem move-in start --all moves the rest", m.names().title, strings.Join(left, ", "))
	}
	return Action{}
}

// endSpeakers takes the product's DaemonSets off all nodes: without the label they would announce again.
func (m *machine) endSpeakers() Action { return m.offNodes(m.Record.Speakers) }

// offNodes takes DaemonSets off all nodes, and waits for the end of their Pods.
func (m *machine) offNodes(refs []Ref) Action {
	for _, ref := range refs {
		if a := m.change(ref, "take "+m.names().speakers+" off all nodes", func(o map[string]any) {
			set(o, "finished", "spec", "template", "spec", "nodeSelector", label)
		}); !a.Done() {
			return a
		}
	}
	for _, ref := range refs {
		if a := m.awaitEnd(ref, ref.String()); !a.Done() {
			return a
		}
	}
	return Action{}
}

// settleOurs takes the move's label out of Tandem's objects.
func (m *machine) settleOurs() Action {
	for _, doc := range m.Record.Documents {
		ref := RefOf(doc)
		if a := m.change(ref, "take the move's label out of "+ref.String(), func(o map[string]any) {
			for _, field := range []string{"serviceSelectors", "nodeSelectors"} {
				if kind := ref.Kind; kind == "L2Advertisement" && field == "serviceSelectors" || kind == "BGPPeer" && field == "nodeSelectors" {
					set(o, withoutSwitch(list(o, "spec", field)), "spec", field)
				}
			}
			unlabel(o)
		}); !a.Done() {
			return a
		}
	}
	for _, name := range m.Record.Secrets {
		if a := m.change(Ref{Kind: "Secret", Namespace: m.System, Name: name}, "take the move's label off Secret "+name, unlabel); !a.Done() {
			return a
		}
	}
	return Action{}
}

// unlabel removes the label of the move.
func unlabel(o map[string]any) {
	set(o, nil, "metadata", "labels", label)
	set(o, at(o, "metadata", "labels"), "metadata", "labels") // An empty mapping goes.
}

// settleServices removes the label of the move, and the product's notes to itself.
func (m *machine) settleServices() Action {
	for _, svc := range m.Objects.of("", "Service") {
		if a := m.change(RefOf(svc), fmt.Sprintf("take the move's label and the notes of %s off %s", m.names().title, RefOf(svc)), func(o map[string]any) {
			unlabel(o)
			m.tidy(o)
			set(o, at(o, "metadata", "annotations"), "metadata", "annotations")
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

func (m *machine) settleNodes() Action {
	for _, node := range m.Objects.of("", "Node") {
		if a := m.change(RefOf(node), fmt.Sprintf("take the move's label off %s", RefOf(node)), unlabel); !a.Done() {
			return a
		}
	}
	return Action{}
}
