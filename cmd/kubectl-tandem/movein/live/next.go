// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// Verb is what a Write does to an object.
type Verb string

// Verbs. A Patch is a JSON merge patch (RFC 7386) with the resource version of the object that it was worked out for.
const (
	Create Verb = "create"
	Patch  Verb = "patch"
	Delete Verb = "delete"
)

// Write is one write to the API.
type Write struct {
	Verb Verb
	Ref  Ref
	// Subresource is "status" or "".
	Subresource string
	// Body is the object, or the patch.
	Body map[string]any
	// Why says what the write does, as "stop MetalLB's controller".
	Why string
}

// Action is what comes next. At most one of Write, Wait, Probe and Stop is set; with none there is nothing left to do.
type Action struct {
	Write *Write
	// Wait says what is waited for: the cluster is to be read again.
	Wait string
	// Probe is a unit that is to be asked for; the answer belongs into Snapshot.Probes by ProbeName.
	Probe     *Unit
	ProbeName string
	// Early says that the other product still announces the unit, so that only Tandem's own records count.
	Early bool
	// Stop says why the move does not go on.
	Stop string
	// Unit is the name of the unit that the action belongs to, "" for none.
	Unit string
}

// Done reports whether there is nothing left to do.
func (a Action) Done() bool { return a.Write == nil && a.Wait == "" && a.Probe == nil && a.Stop == "" }

// Stops returns why a command would stop before it has done anything, "" if it would do something.
func Stops(s *Snapshot, next func(*Snapshot) (Action, error)) string {
	a, err := next(s)
	if err != nil {
		return "" // The command says so itself.
	}
	return a.Stop
}

// machine works out the next action of a move that has begun.
type machine struct {
	*Snapshot
	origin
	Record *Record
	sets   map[Ref]*netipx.IPSet
}

// set returns the addresses of a pool. They are worked out once.
func (m *machine) set(pool map[string]any) *netipx.IPSet {
	ref := RefOf(pool)
	if m.sets == nil {
		m.sets = map[Ref]*netipx.IPSet{}
	}
	if m.sets[ref] == nil {
		m.sets[ref] = poolSet(pool)
	}
	return m.sets[ref]
}

// first returns the first action that there is.
func first(stages ...func() Action) Action {
	for _, stage := range stages {
		if a := stage(); !a.Done() {
			return a
		}
	}
	return Action{}
}

func stop(format string, args ...any) Action { return Action{Stop: fmt.Sprintf(format, args...)} }

// change returns the write that makes an object what the function makes of it. An object that is gone, or is so already, needs none.
func (s *Snapshot) change(ref Ref, why string, mutate func(map[string]any)) Action {
	return s.changePart(ref, "", why, mutate)
}

func (s *Snapshot) changePart(ref Ref, subresource, why string, mutate func(map[string]any)) Action {
	before := s.Objects[ref]
	if before == nil {
		return Action{}
	}
	after := clone(before)
	mutate(after)
	patch := mergePatch(before, after)
	if patch == nil {
		return Action{}
	}
	if version := text(before, "metadata", "resourceVersion"); version != "" {
		set(patch, version, "metadata", "resourceVersion")
	}
	return Action{Write: &Write{Patch, ref, subresource, patch, why}}
}

func (s *Snapshot) create(o map[string]any, why string) Action {
	return Action{Write: &Write{Create, RefOf(o), "", o, why}}
}

func (s *Snapshot) remove(ref Ref, why string) Action {
	if s.Objects[ref] == nil {
		return Action{}
	}
	return Action{Write: &Write{Delete, ref, "", nil, why}}
}

// enter writes the phase.
func (s *Snapshot) enter(phase Phase) func() Action {
	return func() Action {
		return s.change(headRef(s.System), "phase "+string(phase), func(o map[string]any) {
			set(o, string(phase), "data", "phase")
			set(o, seal(phase, text(o, "data", "sha256")), "data", "seal")
		})
	}
}

// Start returns what comes next on the way to a goal.
func Start(s *Snapshot, goal Goal, keepInUse bool) (Action, error) {
	switch phase := s.PhaseOf(); phase {
	case "", Finished:
		return s.begin(keepInUse)
	case Undone:
		return first(s.allowed, s.settled), nil
	case Undoing:
		return stop("the move is being undone: kubectl tandem move-in undo goes on with that"), nil
	case Finishing:
		return stop("the move is being finished: kubectl tandem move-in finish goes on with that"), nil
	case Preparing, Adopting, Announcing:
		m, err := s.machine()
		if err != nil {
			return Action{}, err
		}
		return first(s.allowed, func() Action { return m.forward(phase, &goal) }), nil
	default:
		return Action{}, fmt.Errorf("ConfigMap %s/%s has phase %q, which this version does not know: use the version that began the move, or go back by "+
			"kubectl tandem move-in undo", s.System, ConfigMapName, phase)
	}
}

func (s *Snapshot) machine() (*machine, error) {
	r, err := s.record()
	if err != nil {
		return nil, err
	}
	from := originOf(r.From)
	if from == nil {
		return nil, fmt.Errorf("the move is from %q, which this version does not know; use the version that began the move", r.From)
	}
	return &machine{Snapshot: s, Record: r, origin: from}, nil
}

// begin writes the Record down. Until its head is written there is no move, and parts that are there are of a command that was interrupted.
func (s *Snapshot) begin(keepInUse bool) (Action, error) {
	plan, err := MakePlan(s, keepInUse)
	if err != nil {
		return Action{}, err
	}
	if plan.Refused {
		var reasons []string
		for _, m := range plan.Messages {
			if m.Level == movein.Error {
				reasons = append(reasons, m.String())
			}
		}
		return stop("the move cannot start:\n%s", strings.Join(reasons, "\n")), nil
	}
	configMaps, err := plan.Record.encode(s.System)
	if err != nil {
		return Action{}, err
	}
	for _, o := range configMaps {
		ref, why := RefOf(o), "save what there is in "+RefOf(o).String()
		if ref == headRef(s.System) {
			why = "begin the move, phase " + string(Preparing)
		}
		if s.Objects[ref] == nil {
			return s.create(o, why), nil
		}
		if at(o, "immutable") == true && !reflect.DeepEqual(s.Objects[ref]["data"], o["data"]) {
			return s.remove(ref, "make room for it in "+ref.String()), nil
		}
		if a := s.change(ref, why, func(old map[string]any) { set(old, o["data"], "data") }); !a.Done() {
			return a, nil
		}
	}
	return Action{}, errors.New("the record of the move is written and does not count; this is a fault of this program")
}

// forward returns what comes next of a move that has begun.
func (m *machine) forward(phase Phase, goal *Goal) Action {
	switch phase {
	case Preparing:
		return first(m.stopOurs, func() Action { return m.narrow(m) }, m.makeOurs, m.annotate, func() Action { return m.stop(m) }, m.enter(Adopting))
	case Adopting:
		return first(m.theirsStopped, m.startOurs, m.adopted, m.enter(Announcing))
	}
	return first(m.theirsStopped, m.startOurs, func() Action { return m.moveUnits(goal) }, m.openOurs)
}

// openOurs has Tandem announce all Services, with the label or without it, once a product has stopped that can only be stopped whole: there is nobody else who
// would announce one that is made now, or whose labels another program replaces.
func (m *machine) openOurs() Action {
	gone := slices.ContainsFunc(m.Objects.of("", "Service"), func(svc map[string]any) bool { return m.progress(RefOf(svc)) == moved })
	if !m.names().whole || !gone {
		return Action{}
	}
	return m.selectServices("have Tandem announce Services that come from now on, too", func(doc map[string]any) map[string]any { return doc })
}

// closeOurs takes back what openOurs has done, before the product announces again.
func (m *machine) closeOurs() Action {
	if !m.names().whole {
		return Action{}
	}
	if m.yieldsAtOnce() {
		return m.selectServices("have Tandem announce nothing, so that "+m.names().title+" finds IPv6 addresses free", silenced)
	}
	if m.selects(silenced) {
		return Action{} // A start was interrupted before Tandem announced any.
	}
	return m.selectServices("have Tandem announce no Services but those that have moved", temporary)
}

// shut has Tandem announce no Service of a unit that is stopped whole, before the first of them gets the label. With release after the last one, both
// products announce for as long as the other one takes to stop, however many Services there are.
func (m *machine) shut(u *Unit) Action {
	if !u.Whole || m.begun(u) || !m.selects(temporary) {
		return Action{} // After openOurs nobody else announces.
	}
	return m.selectServices("have Tandem announce nothing until all Services are marked", silenced)
}

// release has Tandem announce, by one write, all Services of a unit that shut has kept from it.
func (m *machine) release(u *Unit) Action {
	if !u.Whole || !m.selects(silenced) {
		return Action{}
	}
	return m.selectServices("have Tandem announce all Services that are marked", temporary)
}

// selects reports whether an L2Advertisement of Tandem's has the serviceSelectors that a function makes of each.
func (m *machine) selects(as func(doc map[string]any) map[string]any) bool {
	return slices.ContainsFunc(m.Record.documents("L2Advertisement"), func(doc map[string]any) bool {
		o := m.Objects[RefOf(doc)]
		return o != nil && reflect.DeepEqual(list(o, "spec", "serviceSelectors"), list(as(doc), "spec", "serviceSelectors"))
	})
}

// silenced returns an L2Advertisement that selects no Service: none has the label with that value.
func silenced(doc map[string]any) map[string]any {
	o := temporary(doc)
	set(o, []any{map[string]any{"matchLabels": map[string]any{label: made}}}, "spec", "serviceSelectors")
	return o
}

// yieldsAtOnce reports whether an undo silences Tandem for all Services by one write: all that have moved have an IPv6 address, so that each would have to
// be handed back before the product starts, and without an announcer until the last one is.
func (m *machine) yieldsAtOnce() bool {
	return m.PhaseOf() == Undoing && !slices.ContainsFunc(m.Objects.moving(), func(svc map[string]any) bool {
		return m.progress(RefOf(svc)) != "" && !slices.ContainsFunc(addressesOf(svc), netip.Addr.Is6)
	})
}

// selectServices writes the serviceSelectors of Tandem's L2Advertisements: those of what a function makes of each.
func (m *machine) selectServices(why string, as func(doc map[string]any) map[string]any) Action {
	for _, doc := range m.Record.documents("L2Advertisement") {
		if a := m.change(RefOf(doc), why, func(o map[string]any) {
			set(o, list(as(doc), "spec", "serviceSelectors"), "spec", "serviceSelectors")
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

// scale sets the replicas of a Deployment.
func (m *machine) scale(ref Ref, replicas int64, why string) Action {
	return m.change(ref, why, func(o map[string]any) { set(o, replicas, "spec", "replicas") })
}

// stopOurs takes Tandem's controller manager away, so that it gives no addresses while another one does.
func (m *machine) stopOurs() Action {
	if a := m.scale(m.Record.Ours, 0, "stop Tandem's controller manager for the time being"); !a.Done() {
		return a
	}
	return m.awaitEnd(m.Record.Ours, "Tandem's controller manager")
}

func (m *machine) awaitEnd(ref Ref, what string) Action {
	if pods := m.Objects.podsOf(m.Objects[ref]); len(pods) > 0 {
		return Action{Wait: fmt.Sprintf("the end of the pods of %s, such as %s%s", what, nameOf(pods[0]), m.ifLost(pods[0]))}
	}
	return Action{}
}

// ifLost says what to do about a Pod whose end nobody reports, since its Node is not there, "" for one on a Node that is ready.
func (m *machine) ifLost(pod map[string]any) string {
	name := text(pod, "spec", "nodeName")
	if node := m.Objects[nodeRef(name)]; name == "" || node != nil && isTrue(node, "Ready") {
		return ""
	}
	return fmt.Sprintf(" (Node %s is not Ready: if that machine is off, kubectl delete pod -n %s %s --force)", name, text(pod, "metadata", "namespace"),
		text(pod, "metadata", "name"))
}

// openWebhook lets the API server take L2Advertisements of MetalLB while its controller is away, where a pool may have to go back then.
func (m *machine) openWebhook() Action {
	if m.Record.Webhook == nil {
		return Action{}
	}
	return m.policy("Ignore", "let MetalLB's L2Advertisements be written while its controller is away")
}

func (m *machine) policy(policy, why string) Action {
	return m.change(*m.Record.Webhook, why, func(o map[string]any) {
		if i := webhookOfL2(o); i >= 0 {
			items(o, "webhooks")[i]["failurePolicy"] = policy
		}
	})
}

// narrowTheirs edits MetalLB's objects, so that a label hands over. It changes nothing of what is announced.
func (m *machine) narrowTheirs() Action {
	for _, ref := range m.Record.refsBefore(theirGroup, "L2Advertisement") {
		if m.Record.ByPool {
			break
		}
		selectors := withSwitch(list(m.Record.before(ref), "spec", "serviceSelectors"), "DoesNotExist")
		if a := m.change(ref, "leave Services with the label out of "+ref.String(), func(o map[string]any) {
			set(o, selectors, "spec", "serviceSelectors")
		}); !a.Done() {
			return a
		}
	}
	if m.Record.ByPool {
		if a := m.splitTheirs(); !a.Done() {
			return a
		}
	}
	if !m.bgp() {
		return Action{}
	}
	for _, ref := range m.Record.Speakers {
		if a := m.change(ref, "have MetalLB's speakers leave Nodes with the label", leaveLabelled); !a.Done() {
			return a
		}
	}
	return Action{}
}

// switched returns those of MetalLB's objects that do not hand over by the label: somebody has written back what narrowTheirs has edited, or has made another
// L2Advertisement since.
func (m *machine) switched() (refs []Ref) {
	kept := map[Ref]bool{}
	for _, ad := range m.poolAdvertisements() {
		kept[RefOf(ad)] = true
	}
	for _, o := range m.Objects.of(theirGroup, "L2Advertisement") {
		selectors := list(o, "spec", "serviceSelectors")
		open := len(selectors) == 0 || slices.ContainsFunc(selectors, func(value any) bool { return !hasSwitch(value) })
		if ref := RefOf(o); m.Record.ByPool && !kept[ref] || !m.Record.ByPool && open {
			refs = append(refs, ref)
		}
	}
	for _, ref := range m.Record.Speakers {
		if a := m.change(ref, "", leaveLabelled); m.bgp() && !a.Done() {
			refs = append(refs, ref)
		}
	}
	return refs
}

// leaveLabelled makes a DaemonSet leave the Nodes that have the label. With updateStrategy OnDelete all other pods stay as they are.
func leaveLabelled(o map[string]any) {
	set(o, map[string]any{"type": "OnDelete"}, "spec", "updateStrategy")
	path := []string{"spec", "template", "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"}
	set(o, withSwitch(withoutSwitch(list(o, path...)), "DoesNotExist"), path...)
}

// poolAdvertisements returns MetalLB's L2Advertisements as they are where a pool is the smallest unit: one for each pool. One that is so already
// stays, and the others get a copy for each of their pools.
func (m *machine) poolAdvertisements() (ads []map[string]any) {
	for _, ref := range m.Record.refsBefore(theirGroup, "L2Advertisement") {
		ad := m.Record.before(ref)
		names, selectors := texts(ad, "spec", "ipAddressPools"), list(ad, "spec", "ipAddressPoolSelectors")
		if len(names) == 1 && len(selectors) == 0 {
			ads = append(ads, ad)
			continue
		}
		for _, pool := range m.Record.refsBefore(theirGroup, "IPAddressPool") {
			selected := len(selectors) > 0 && matchesAny(selectors, table(m.Record.before(pool), "metadata", "labels"))
			if len(names)+len(selectors) > 0 && !slices.Contains(names, pool.Name) && !selected {
				continue
			}
			copied := clone(ad)
			set(copied, ref.Name+"."+pool.Name, "metadata", "name")
			set(copied, made, "metadata", "labels", label)
			set(copied, nil, "metadata", "annotations")
			set(copied, nil, "spec", "ipAddressPoolSelectors")
			set(copied, []any{pool.Name}, "spec", "ipAddressPools")
			ads = append(ads, copied)
		}
	}
	return ads
}

// splitTheirs makes the copies, and then deletes what they are copies of.
func (m *machine) splitTheirs() Action {
	kept := map[Ref]bool{}
	for _, ad := range m.poolAdvertisements() {
		kept[RefOf(ad)] = true
		if m.Objects[RefOf(ad)] == nil {
			return m.create(ad, "give a pool of MetalLB an L2Advertisement of its own")
		}
	}
	for _, ref := range m.Record.refsBefore(theirGroup, "L2Advertisement") {
		if !kept[ref] {
			if a := m.remove(ref, "delete what the L2Advertisements of the pools stand for"); !a.Done() {
				return a
			}
		}
	}
	return Action{}
}

// temporary returns an object of Tandem as it is during the move: it concerns only Services that have the label, or Nodes that MetalLB's speaker has left.
func temporary(doc map[string]any) map[string]any {
	o := clone(doc)
	set(o, made, "metadata", "labels", label)
	switch text(o, "kind") {
	case "L2Advertisement":
		set(o, withSwitch(list(o, "spec", "serviceSelectors"), "Exists"), "spec", "serviceSelectors")
	case "BGPPeer":
		set(o, withSwitch(list(o, "spec", "nodeSelectors"), "In", moving, moved), "spec", "nodeSelectors")
	}
	return o
}

// makeOurs makes Tandem's objects, Secrets first.
func (m *machine) makeOurs() Action {
	for _, name := range m.Record.Secrets {
		if m.Objects[Ref{Kind: "Secret", Namespace: m.System, Name: name}] != nil {
			continue
		}
		secret, err := m.secret(name)
		if err != nil || secret == nil {
			return stop("Secret %s for a BGPPeer cannot be made any more (%v); make it in namespace %s by hand, with the key password", name, err, m.System)
		}
		set(secret, made, "metadata", "labels", label)
		return m.create(secret, "copy the password of a BGP session")
	}
	for _, doc := range m.Record.Documents {
		o := m.Objects[RefOf(doc)]
		if o == nil {
			return m.create(temporary(doc), "make Tandem's objects")
		}
		if text(o, "metadata", "labels", label) != made {
			return stop("%s has been made by somebody else meanwhile; rename or delete it", RefOf(doc))
		}
	}
	return Action{}
}

// annotate writes what Services need for Tandem to understand them as the other product does.
func (m *machine) annotate() Action {
	for _, svc := range m.Objects.of("", "Service") {
		for key, value := range m.Record.Patches[nameOf(svc)] {
			if a := m.change(RefOf(svc), "write what Tandem has to know", func(o map[string]any) {
				set(o, value, "metadata", "annotations", key)
			}); !a.Done() {
				return a
			}
		}
	}
	return Action{}
}

// theirsStopped stops the move if something else gives addresses again, or has begun to.
func (m *machine) theirsStopped() Action {
	return first(func() Action { return m.stopped(m) }, func() Action {
		for _, other := range m.Objects.otherWriters(m.origin) {
			return stop("%s: %s", other.Object, other.Text)
		}
		return Action{}
	})
}

// startOurs lets Tandem adopt.
func (m *machine) startOurs() Action {
	replicas := max(1, number(m.Record.before(m.Record.Ours), "spec", "replicas"))
	if number(m.Objects[m.Record.Ours], "spec", "replicas") > 0 {
		return Action{} // A person may have another number in mind.
	}
	return m.scale(m.Record.Ours, replicas, "start Tandem's controller manager, which adopts the addresses")
}

// adopted waits until each Service has its addresses claimed, and stops if one has another address than before.
func (m *machine) adopted() Action {
	claimed := map[string]bool{}
	for _, claim := range m.Objects.of("networking.k8s.io", "IPAddress") {
		claimed[text(claim, "metadata", "name")] = true
	}
	var missing []string
	for _, svc := range m.Objects.moving() {
		before := m.Record.before(RefOf(svc))
		if before == nil || text(before, "metadata", "uid") != text(svc, "metadata", "uid") || len(addressesOf(before)) == 0 {
			continue // It is new, or gets its first address.
		}
		if now := addressesOf(svc); !sameAddresses(now, addressesOf(before)) {
			return stop("Service %s had %s and has %s: kubectl tandem move-in undo goes back; kubectl describe service says why", nameOf(svc),
				joined(addressesOf(before)), joined(now))
		}
		for _, a := range addressesOf(svc) {
			if !claimed[a.String()] {
				missing = append(missing, fmt.Sprintf("%s of %s", a, nameOf(svc)))
			}
		}
	}
	if len(missing) > 0 {
		return Action{Wait: fmt.Sprintf("Tandem's claims of %d addresses, such as %s", len(missing), missing[0])}
	}
	return Action{}
}
