// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// origin is the load balancer that Services come from: how a move finds it, stops it, and starts it again. What a method does to the cluster it returns
// as the machine does: one action, or one that is done where nothing is left to do.
type origin interface {
	names() names
	// found reports whether the product serves in the cluster.
	found(o Objects) bool
	// allocator returns the Deployment that gives addresses, nil if there is none, and announcers the DaemonSets that announce them.
	allocator(o Objects) map[string]any
	announcers(o Objects) []map[string]any
	// configuration returns what [movein.Convert] reads beside Services, Nodes and DaemonSets.
	configuration(s *Snapshot) []map[string]any
	obstacles(s *Snapshot) []movein.Message
	// remember keeps what the move changes beside Services, the allocator and the DaemonSets.
	remember(s *Snapshot, r *Record, keep keeper)
	// holders returns the node that each Service is announced from on layer 2, as far as the product says it.
	holders(o Objects) map[string]string
	// narrow edits the product's objects while its allocator runs, so that the label hands over, and widen makes them as they were.
	narrow(m *machine) Action
	widen(m *machine) Action
	// stop has the product give no addresses any more, and start gives that back. Statuses stay. Stopped stops the move where something has started it.
	stop(m *machine) Action
	stopped(m *machine) Action
	start(m *machine) Action
	// units returns those of layer 2 for the Services that are announced so.
	units(m *machine, services []map[string]any) []*Unit
	// silence stops the announcing of a unit that both announce, and speak starts it again.
	silence(m *machine, u *Unit) Action
	speak(m *machine, u *Unit) Action
	// end has the product announce nothing once all has moved.
	end(m *machine) Action
	// tidy takes off a Service what the product has noted there.
	tidy(svc map[string]any)
	// own has the product take a Service for its own whose address Tandem gave during the move, so that it announces the address after an undo, and gives
	// it to nobody else.
	own(m *machine, svc map[string]any)
	// classes are the values of spec.loadBalancerClass that the product serves, as far as they are known.
	classes(o Objects) []string
	// writer returns what shows that the product gives addresses to Services without a class though it is not its allocator that does, nil if nothing does.
	writer(o Objects) map[string]any
	// rights are those that a move needs beside the ones that each needs.
	rights(s *Snapshot) []Right
	// after says what a person does with the product once the move has finished.
	after(r *Record) string
}

// keeper keeps some fields of an object in the Record.
type keeper func(o map[string]any, paths ...[]string)

// names are what a product and its parts are called.
type names struct {
	key       string // of movein.Products
	title     string // MetalLB
	allocator string // MetalLB's controller
	speakers  string // MetalLB's speakers
	page      string // docs/moving-in/metallb.md
	mark      string // begins the annotations by which it says who announces a Service, "" if it has none
	whole     bool   // it can only be stopped for all Services at once
}

// origins are the products that can be moved from while they serve.
var origins = []origin{metalLB{}, kubeVIP{}, pureLB{}, cilium{}}

// originOf returns a product by its key, nil for one that cannot be moved from.
func originOf(key string) origin {
	for _, o := range origins {
		if o.names().key == key {
			return o
		}
	}
	return nil
}

// Origins are the keys of the products that can be moved from while they serve.
func Origins() (keys []string) {
	for _, o := range origins {
		keys = append(keys, o.names().key)
	}
	return keys
}

// origin returns the product that a move comes from: that of a move that has begun, the one that was asked for, or the only one that there is.
// The error says what to do where it cannot be told.
func (s *Snapshot) origin() (origin, error) {
	key := s.From
	if phase := s.PhaseOf(); phase != "" && phase != Finished {
		begun := text(s.Objects[headRef(s.System)], "data", "from")
		if key != "" && key != begun {
			return nil, fmt.Errorf("--from %s: the move that has begun is from %s", key, begun)
		}
		key = begun
	}
	if key != "" {
		if o := originOf(key); o != nil {
			return o, nil
		}
		return nil, fmt.Errorf("--from %s: give one of %s; for another product do the steps of docs/moving-in.md by hand", key, strings.Join(Origins(), ", "))
	}
	var found []origin
	var keys []string
	for _, o := range origins {
		if o.found(s.Objects) {
			found, keys = append(found, o), append(keys, o.names().key)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("give --from: there are %s", strings.Join(keys, " and "))
	}
	return nil, nil
}

// deployed is what products have in common whose allocator is a Deployment of its own, and announces nothing.
type deployed struct{}

func (deployed) remember(*Snapshot, *Record, keeper) {}

func (deployed) narrow(*machine) Action { return Action{} }

// stop takes the allocator away. Statuses stay, and what announces goes on.
func (deployed) stop(m *machine) Action {
	if a := m.scale(m.Record.Theirs, 0, "stop "+m.names().allocator); !a.Done() {
		return a
	}
	return m.awaitEnd(m.Record.Theirs, m.names().allocator)
}

func (deployed) stopped(m *machine) Action {
	for _, o := range []map[string]any{m.Objects[m.Record.Theirs], m.allocator(m.Objects)} {
		if number(o, "spec", "replicas") > 0 {
			return stop("%s runs again, and writes over what Tandem writes: pause what has started it (Flux, Argo CD, Helm, an operator), and scale it to 0; "+
				"or go back by kubectl tandem move-in undo", RefOf(o))
		}
	}
	return m.awaitEnd(m.Record.Theirs, m.names().allocator)
}

func (deployed) start(m *machine) Action {
	replicas := number(m.Record.before(m.Record.Theirs), "spec", "replicas")
	if a := m.scale(m.Record.Theirs, replicas, "start "+m.names().allocator); !a.Done() {
		return a
	}
	if o := m.Objects[m.Record.Theirs]; o != nil && number(o, "status", "readyReplicas") < replicas {
		return Action{Wait: m.names().allocator}
	}
	return Action{}
}

func (deployed) end(m *machine) Action { return m.endSpeakers() }

func (deployed) own(*machine, map[string]any) {}

func (deployed) writer(Objects) map[string]any { return nil }

// whole is what products have in common whose announcing can only be stopped for all Services at once.
type whole struct{ deployed }

func (whole) units(m *machine, services []map[string]any) []*Unit {
	if len(services) == 0 {
		return nil
	}
	u := &Unit{Name: "all Services of " + m.names().title, Whole: true}
	for _, svc := range services {
		u.Services = append(u.Services, nameOf(svc))
	}
	return []*Unit{u}
}

// stopped also stops the move where the product announces again what has moved: somebody has written its DaemonSet back, or has made another one.
func (w whole) stopped(m *machine) Action {
	return first(func() Action { return w.deployed.stopped(m) }, func() Action {
		gone := slices.ContainsFunc(m.Objects.of("", "Service"), func(svc map[string]any) bool { return m.progress(RefOf(svc)) == moved })
		all := append(slices.DeleteFunc(slices.Clone(m.announcers(m.Objects)), func(d map[string]any) bool { return !m.announcesAgain(d) }),
			m.Objects.staticKubeVIP()...)
		if gone && len(all) > 0 {
			return stop("%s has been written back, so that %s announces what has moved, too: pause what has done it (Flux, Argo CD, Helm, an operator), and go back "+
				"by kubectl tandem move-in undo", RefOf(all[0]), m.names().title)
		}
		return Action{}
	})
}

// announcesAgain reports whether a DaemonSet of a product that can only be stopped whole has no sign of the move that stops it.
func (m *machine) announcesAgain(d map[string]any) bool {
	if text(d, "spec", "template", "spec", "nodeSelector", label) != "" {
		return false
	}
	return kubeVIPContainer(podSpec(d)) == nil || does(podSpec(d), kubeVIPServices)
}

// silence takes the product's DaemonSets off all nodes, and then its marks off the Services: that they are back says that it announces again.
func (whole) silence(m *machine, u *Unit) Action {
	return first(m.endSpeakers, func() Action { return m.unmark(u) })
}

func (whole) speak(m *machine, u *Unit) Action {
	return first(func() Action { return m.yieldIPv6(u) }, m.speakersBack, m.speakersReady, func() Action { return m.marked(u) })
}

// yieldIPv6 hands back those Services of a unit that have an IPv6 address, before the product puts it on an interface: the kernel of another node would
// hear Tandem answer its duplicate address detection, and leave the address unused for good.
func (m *machine) yieldIPv6(u *Unit) Action {
	if m.yieldsAtOnce() {
		return Action{} // closeOurs has silenced Tandem already.
	}
	for _, name := range u.Services {
		ref := serviceRef(name)
		if m.progress(ref) != "" && slices.ContainsFunc(addressesOf(m.Objects[ref]), netip.Addr.Is6) {
			return m.handBack(ref)
		}
	}
	return Action{}
}

// marks returns the annotations of a Service by which its product says who announces it. They start with a prefix.
func marks(svc map[string]any, prefix string) (keys []string) {
	for key := range table(svc, "metadata", "annotations") {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// unmark takes off the Services of a unit by which the product says who announces them.
func (m *machine) unmark(u *Unit) Action {
	for _, name := range u.Services {
		if a := m.change(serviceRef(name), "take the note of who announced it off Service "+name, m.dropMarks); !a.Done() {
			return a
		}
	}
	return Action{}
}

// dropMarks removes the annotations by which the product says who announces a Service.
func (m *machine) dropMarks(svc map[string]any) {
	for _, key := range marks(svc, m.names().mark) {
		set(svc, nil, "metadata", "annotations", key)
	}
	set(svc, at(svc, "metadata", "annotations"), "metadata", "annotations") // An empty mapping goes.
}

// marked waits until the product says of each Service of a unit that it announces it, where it said so before.
func (m *machine) marked(u *Unit) Action {
	for _, name := range u.Services {
		svc, prefix := m.Objects[serviceRef(name)], m.names().mark
		before := m.Record.before(serviceRef(name))
		if m.progress(serviceRef(name)) != "" && len(marks(before, prefix)) > 0 && len(marks(svc, prefix)) == 0 {
			return Action{Wait: fmt.Sprintf("%s to announce Service %s, which has no annotation %s yet (without its label %s it is not waited for)",
				m.names().title, name, marks(before, prefix)[0], label)}
		}
	}
	return Action{}
}
