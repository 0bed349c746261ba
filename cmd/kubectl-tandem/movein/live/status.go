// SPDX-License-Identifier: Apache-2.0

package live

import "k8s.io/apimachinery/pkg/types"

// Status says how far a move has come.
type Status struct {
	// From is the product that Services come from, as MetalLB, "" where there is no move.
	From string `json:"from,omitempty"`
	// Phase is "" where there is no move.
	Phase Phase        `json:"phase"`
	Units []UnitStatus `json:"units,omitempty"`
	// Next is what comes next, by itself or when a person asks for it.
	Next string `json:"next"`
}

// UnitStatus says whether a unit has moved.
type UnitStatus struct {
	Unit
	// State says who announces it: Status.From, "moving" or "Tandem".
	State string `json:"state"`
}

// StatusOf says how far the move in a cluster has come.
func StatusOf(s *Snapshot) (*Status, error) {
	st := &Status{Phase: s.PhaseOf()}
	switch st.Phase {
	case "":
		st.Next = "kubectl tandem move-in plan says what a move would do"
		if s.PhaseLost() {
			st.Phase, st.Next = PhaseUnknown, s.noPhase()
		}
		return st, nil
	case Finished:
		st.Next = "uninstall the other load balancer as its page in docs/moving-in says, and put Tandem's objects into Git"
		if m, err := s.machine(); err == nil {
			st.From, st.Next = m.names().title, m.after(m.Record)+", and put Tandem's objects into Git"
		}
		return st, nil
	case Undone:
		st.Next = "kubectl tandem move-in undo deletes what was saved"
		return st, nil
	}
	m, err := s.machine()
	if err != nil {
		return nil, err
	}
	st.From = m.names().title
	left := 0
	for _, u := range m.units() {
		state := st.From
		switch {
		case m.has(u):
			state = "Tandem"
		case m.begun(u):
			state = moving
		}
		if state != "Tandem" {
			left++
		}
		st.Units = append(st.Units, UnitStatus{*u, state})
	}
	switch {
	case st.Phase == Undoing:
		st.Next = "kubectl tandem move-in undo goes on"
	case st.Phase == Finishing:
		st.Next = "kubectl tandem move-in finish goes on"
	case st.Phase != Announcing:
		st.Next = "kubectl tandem move-in start goes on"
	case left > 0:
		st.Next = "kubectl tandem move-in start --all moves the rest, and kubectl tandem move-in undo goes back"
	default:
		st.Next = "look from outside; then kubectl tandem move-in finish ends the move, or kubectl tandem move-in undo goes back"
	}
	if a := m.theirsStopped(); a.Stop != "" && (st.Phase == Adopting || st.Phase == Announcing) {
		st.Next = a.Stop
	}
	return st, nil
}

// Unknown returns those of the Services and Nodes that a goal names which no unit has.
func (s *Snapshot) Unknown(goal *Goal) (names []string, err error) {
	r := &Record{}
	if phase := s.PhaseOf(); phase == "" || phase == Finished {
		plan, err := MakePlan(s, true)
		if err != nil || plan.Record == nil {
			return nil, err // What is refused is said elsewhere.
		}
		r = plan.Record
	} else if r, err = s.record(); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	m := &machine{Snapshot: s, Record: r, origin: originOf(r.From)}
	for _, u := range m.units() {
		known["node "+u.Node] = true
		for _, name := range u.Services {
			known[name] = true
		}
	}
	for _, doc := range r.documents("AddressPool") {
		known["pool "+text(doc, "metadata", "name")] = true
	}
	for _, name := range goal.Services {
		if !known[name] {
			names = append(names, "Service "+name)
		}
	}
	for _, list := range []struct {
		kind  string
		names []string
	}{{"pool ", goal.Pools}, {"node ", goal.Nodes}} {
		for _, name := range list.names {
			if !known[list.kind+name] {
				names = append(names, list.kind+name)
			}
		}
	}
	return names, nil
}

// PeersOf returns the names of Tandem's BGPPeers that a Node has.
func (s *Snapshot) PeersOf(node string) (names []string) {
	all := table(s.Objects[nodeRef(node)], "metadata", "labels")
	for _, peer := range s.Objects.of(ourGroup, "BGPPeer") {
		if matchesAny(list(peer, "spec", "nodeSelectors"), all) {
			names = append(names, text(peer, "metadata", "name"))
		}
	}
	return names
}

// Names returns the Services of a unit.
func (u *Unit) Names() (names []types.NamespacedName) {
	for _, name := range u.Services {
		ref := serviceRef(name)
		names = append(names, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name})
	}
	return names
}
