// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// Undo returns what comes next on the way back.
func Undo(s *Snapshot) (Action, error) {
	switch s.PhaseOf() {
	case "":
		if s.PhaseLost() {
			return s.headBack(), nil
		}
		return s.forget(), nil
	case Finishing, Finished:
		return stop("the move is finished, and there is no undo after that. The objects of the other load balancer are still there, so that you can move back " +
			"by hand: docs/moving-in.md"), nil
	case Undone:
		return first(s.allowed, s.settled), nil
	case Undoing:
		m, err := s.machine()
		if err != nil {
			return Action{}, err
		}
		return first(s.allowed, m.theirsThere, m.policiesThere, m.unitsBack, m.stopOurs, m.servicesBack, func() Action { return m.start(m) },
			func() Action { return m.widen(m) }, m.removeOurs, m.enter(Undone)), nil
	}
	return first(s.allowed, s.enter(Undoing)), nil
}

// policiesThere makes those of Cilium's policies again that somebody has deleted, before what has moved needs them.
func (m *machine) policiesThere() Action {
	for _, ref := range m.Record.refsBefore(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		if m.Objects[ref] == nil {
			return m.create(m.Record.before(ref), "make "+ref.String()+" again")
		}
	}
	return Action{}
}

// theirsThere stops an undo where a program of the product is gone, which nobody would start again: its Services would be without an announcer.
func (m *machine) theirsThere() Action {
	for _, ref := range append(slices.Clone(m.Record.Speakers), m.Record.Theirs) {
		if ref.Name != "" && m.Objects[ref] == nil {
			return stop("%s is gone, which served the Services before, so that nobody would serve them: install it again as it was (the move's record in ConfigMaps "+
				"%s/%s-0 and following has the rest), and kubectl tandem move-in undo goes on", ref, m.System, ConfigMapName)
		}
	}
	return Action{}
}

// settled ends an undo: Tandem's controller manager gets the replicas that it had, and what was saved is deleted. This has a phase of its own, since
// the phase before keeps the controller manager away.
func (s *Snapshot) settled() Action {
	m, err := s.machine()
	if err != nil {
		return s.forget() // A part of the record is deleted already, which comes last.
	}
	return first(m.oursBack, s.forget)
}

// forget deletes the ConfigMaps of a move that has been undone, or whose record was never finished. The head goes last.
func (s *Snapshot) forget() Action {
	for _, o := range s.Objects.of("", "ConfigMap") {
		if ref := RefOf(o); ref.Namespace == s.System && strings.HasPrefix(ref.Name, ConfigMapName+"-") {
			return s.remove(ref, "delete what was saved")
		}
	}
	return s.remove(headRef(s.System), "delete the record of the move")
}

// unitsBack hands all that has the label back: Node by Node, so that the product's speakers are everywhere, and then pools and Services.
func (m *machine) unitsBack() Action {
	for _, node := range m.Objects.of("", "Node") {
		if m.progress(RefOf(node)) != "" {
			return first(m.speakersAwait, func() Action { return m.handBack(RefOf(node)) })
		}
	}
	if a := m.closeOurs(); !a.Done() {
		return a
	}
	for _, u := range m.units() {
		if u.both() && m.begun(u) {
			if a := m.speak(m, u); !a.Done() {
				return a
			}
		}
	}
	for _, svc := range m.Objects.of("", "Service") {
		if m.progress(RefOf(svc)) != "" {
			return first(m.speakersAwait, func() Action { return m.handBack(RefOf(svc)) })
		}
	}
	if slices.ContainsFunc(m.units(), func(u *Unit) bool { return u.Whole }) {
		return m.widen(m) // Nobody announces the Services that yieldIPv6 has handed back, so that this does not wait for the rest.
	}
	return Action{}
}

func (m *machine) handBack(ref Ref) Action {
	a := m.write(ref, nil, fmt.Sprintf("hand %s back to %s", ref, m.names().title))
	a.Unit = ref.String()
	return a
}

// begun reports whether something of a unit has the label.
func (m *machine) begun(u *Unit) bool {
	return slices.ContainsFunc(u.refs(), func(ref Ref) bool { return m.progress(ref) != "" })
}

// speakersAwait waits for the product's speakers of the Nodes that have been handed back already, so that one Node moves at a time.
func (m *machine) speakersAwait() Action {
	if !m.bgp() {
		return Action{} // They have never left.
	}
	return m.speakersReady()
}

// speakersReady waits until each Node that had a Pod of the product's DaemonSets has one again, but for Nodes that have moved.
func (m *machine) speakersReady() Action {
	for _, ref := range m.Record.Speakers {
		for _, name := range m.Record.Nodes[ref.String()] {
			node := m.Objects[nodeRef(name)]
			if node == nil || m.progress(nodeRef(name)) != "" || !isTrue(node, "Ready") {
				continue
			}
			if !slices.ContainsFunc(m.Objects.podsOf(m.Objects[ref]), func(pod map[string]any) bool {
				return text(pod, "spec", "nodeName") == name && isTrue(pod, "Ready")
			}) {
				return Action{Wait: fmt.Sprintf("%s on Node %s", ref, name)}
			}
		}
	}
	return Action{}
}

// servicesBack takes off Services what Tandem and the move have put there. Neither controller runs, so that nobody writes in between.
func (m *machine) servicesBack() Action {
	for _, svc := range m.Objects.of("", "Service") {
		ref, before := RefOf(svc), m.Record.before(RefOf(svc))
		if before != nil && text(before, "metadata", "uid") != text(svc, "metadata", "uid") {
			before = nil // It has been made anew.
		}
		if text(svc, "spec", "loadBalancerClass") != "" {
			continue
		}
		a := first(func() Action {
			return m.change(ref, fmt.Sprintf("take Tandem's finalizer and annotations off %s", ref), func(o map[string]any) { m.metadataBack(o, before) })
		}, func() Action {
			return m.changePart(ref, "status", fmt.Sprintf("write the status of %s as it was", ref), func(o map[string]any) { statusBack(o, before) })
		})
		if !a.Done() {
			return a
		}
	}
	return Action{}
}

// metadataBack restores the annotations and finalizers of a Service. Before is what it was, nil for one that is new.
func (m *machine) metadataBack(o, before map[string]any) {
	_, marked := table(o, "metadata", "annotations")[v1alpha1.AnnotationFinalizer]
	if marked && !slices.Contains(texts(before, "metadata", "finalizers"), v1alpha1.Finalizer) {
		var rest []any
		for _, name := range texts(o, "metadata", "finalizers") {
			if name != v1alpha1.Finalizer {
				rest = append(rest, name)
			}
		}
		set(o, rest, "metadata", "finalizers")
	}
	keys := []string{v1alpha1.AnnotationFinalizer}
	for key := range m.Record.Patches[nameOf(o)] {
		keys = append(keys, key)
	}
	for _, key := range keys {
		set(o, at(before, "metadata", "annotations", key), "metadata", "annotations", key)
	}
	set(o, at(o, "metadata", "annotations"), "metadata", "annotations") // An empty mapping goes.
	if text(o, "spec", "type") == "LoadBalancer" && len(addressesOf(before)) == 0 && len(addressesOf(o)) > 0 {
		m.own(m, o)
	}
}

// statusBack restores the form of a status, and takes Tandem's conditions away. Addresses that have changed meanwhile stay.
func statusBack(o, before map[string]any) {
	var conditions []any
	for _, value := range list(o, "status", "conditions") {
		if c, ok := value.(map[string]any); !ok || !strings.HasPrefix(text(c, "type"), ourGroup+"/") {
			conditions = append(conditions, value)
		}
	}
	for _, value := range list(before, "status", "conditions") {
		if c, ok := value.(map[string]any); ok && strings.HasPrefix(text(c, "type"), ourGroup+"/") {
			conditions = append(conditions, value)
		}
	}
	set(o, conditions, "status", "conditions")
	if before != nil && sameAddresses(addressesOf(o), addressesOf(before)) {
		set(o, at(before, "status", "loadBalancer"), "status", "loadBalancer")
	}
}

// advertisementsBack restores MetalLB's L2Advertisements.
func (m *machine) advertisementsBack() Action {
	originals := m.Record.refsBefore(theirGroup, "L2Advertisement")
	for _, ref := range originals {
		before := m.Record.before(ref)
		if m.Objects[ref] == nil {
			return m.create(before, "make "+ref.String()+" again")
		}
		if a := m.change(ref, "write "+ref.String()+" as it was", func(o map[string]any) {
			set(o, at(before, "spec", "serviceSelectors"), "spec", "serviceSelectors")
		}); !a.Done() {
			return a
		}
	}
	for _, o := range m.Objects.of(theirGroup, "L2Advertisement") {
		if text(o, "metadata", "labels", label) == made {
			return m.remove(RefOf(o), "delete the copy "+RefOf(o).String())
		}
	}
	if m.Record.Webhook != nil {
		return m.policy(m.Record.FailurePolicy, "have MetalLB's webhook count again")
	}
	return Action{}
}

// speakersBack restores the product's DaemonSets.
func (m *machine) speakersBack() Action {
	for _, ref := range m.Record.Speakers {
		before := m.Record.before(ref)
		if a := m.change(ref, "write "+ref.String()+" as it was", func(o map[string]any) {
			set(o, at(before, "spec", "updateStrategy"), "spec", "updateStrategy")
			set(o, at(before, "spec", "template", "spec", "affinity"), "spec", "template", "spec", "affinity")
			set(o, at(before, "spec", "template", "spec", "nodeSelector"), "spec", "template", "spec", "nodeSelector")
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

// removeOurs deletes what the move has made of Tandem's, advertisements first, and what Tandem has made of that.
func (m *machine) removeOurs() Action {
	refs := []Ref{}
	for _, doc := range slices.Backward(m.Record.Documents) {
		refs = append(refs, RefOf(doc))
	}
	for _, name := range m.Record.Secrets {
		refs = append(refs, Ref{Kind: "Secret", Namespace: m.System, Name: name})
	}
	for _, ref := range refs {
		if m.progress(ref) != made {
			continue
		}
		if a := m.remove(ref, "delete "+ref.String()); !a.Done() {
			return a
		}
	}
	for _, o := range m.Objects.of(ourGroup, "L2Announcement") {
		if m.classless(text(o, "service", "namespace"), text(o, "service", "name")) && !slices.Contains(m.Record.Existed, RefOf(o)) {
			return m.remove(RefOf(o), "delete "+RefOf(o).String())
		}
	}
	for _, o := range m.Objects.of("networking.k8s.io", "IPAddress") {
		parent := []string{"spec", "parentRef"}
		if m.classless(text(o, append(parent, "namespace")...), text(o, append(parent, "name")...)) && !slices.Contains(m.Record.Existed, RefOf(o)) {
			return m.remove(RefOf(o), "delete the claim "+RefOf(o).String())
		}
	}
	return Action{}
}

// classless reports whether a Service has no class, or is gone.
func (m *machine) classless(namespace, name string) bool {
	return text(m.Objects[Ref{Kind: "Service", Namespace: namespace, Name: name}], "spec", "loadBalancerClass") == ""
}

// oursBack gives Tandem's controller manager the replicas that it had.
func (m *machine) oursBack() Action {
	return m.scale(m.Record.Ours, number(m.Record.before(m.Record.Ours), "spec", "replicas"), "start Tandem's controller manager as before")
}
