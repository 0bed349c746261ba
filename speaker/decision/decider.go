// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"bytes"
	"cmp"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

// A Decider keeps a decision and brings it up to date. It comes to what Decide would, and looks only at what has changed: where some
// Services have, at their sharing groups and their prefixes. Where anything else has that a decision has looked at, it decides everything
// anew. For example an endpoint of web has come, and web shares an address with mail: the group of both is decided, and of ten thousand
// other Services nothing is read.
//
// One goroutine uses it. The zero Decider has decided nothing.
type Decider struct {
	services map[types.NamespacedName]*Service
	sharers  map[netip.Addr][]types.NamespacedName // the Services on an address

	// view has the Snapshot of the latest decision, and intermediate results that hold as long as nothing but Services changes.
	view    view
	decided bool
	// placed is the view of the latest full decision, if it has placed groups that no live node holds, and had a choice. Waits are the keys of
	// those that no decision has found held since.
	placed view
	waits  map[string]bool
	// alive, probes and passwords are what the functions of the Snapshot have answered, to find out whether they still do.
	alive     map[string]bool
	probes    map[netip.Addr][]probed
	passwords map[config.SecretKey]password

	layer2  map[netip.Addr]Announcement
	records map[types.NamespacedName]Record
	kept    map[types.NamespacedName]bool
	awaited map[types.NamespacedName]string
	tables  map[string]*table // of the peers of this node, by their names
	kernel  *kernelTable      // nil before a full decision
	bgp     Desired           // Peers, BGP, BFD, Problems, Doubts, Kernel, Refusals and HostRoutes
}

// probed is what Snapshot.Probed has answered for an address.
type probed struct {
	at    nodeInterface
	probe Probe
}

// A password is what Snapshot.Password has answered.
type password struct {
	password bgp.Password
	err      string
}

// Changes say what an Update has decided anew.
type Changes struct {
	// All is set if it was everything.
	All bool
	// Services are those whose records were decided anew, and those that have come or gone. It is empty if All is set.
	Services []types.NamespacedName
	// Layer2 are the addresses whose announcements are others than before, in no order.
	Layer2 []netip.Addr
	// BGP is set if the Peers, BGP, BFD, Problems, Doubts, Kernel, Refusals or HostRoutes may be others than before.
	BGP bool
}

// Update takes in which Services have changed, each as it is now, or nil if there is none any more, and decides by them and the Snapshot. The
// Services of the Snapshot are not looked at. Neither the Services nor what the Snapshot refers to may be changed afterwards.
func (d *Decider) Update(s *Snapshot, changed map[types.NamespacedName]*Service) Changes {
	if d.services == nil {
		d.services, d.sharers = map[types.NamespacedName]*Service{}, map[netip.Addr][]types.NamespacedName{}
	}
	if !d.decided || !d.same(s) {
		for name, svc := range changed {
			d.replace(name, svc, nil)
		}
		return d.Full(s)
	}
	dirty := map[types.NamespacedName]bool{} // all Services that were or are connected with one that has changed
	for name := range changed {
		d.connect(name, dirty)
	}
	for ip := range d.changedProbes(s) {
		for _, name := range d.sharers[ip] {
			d.connect(name, dirty)
		}
	}
	touched := map[netip.Prefix]bool{}
	addresses := map[netip.Addr]bool{} // of the dirty Services, before and after
	d.gather(dirty, addresses)
	for name, svc := range changed {
		d.replace(name, svc, touched)
		d.connect(name, dirty)
	}
	d.gather(dirty, addresses)
	for ip := range addresses {
		delete(d.probes, ip)
	}
	changes := Changes{Services: slices.Collect(maps.Keys(dirty)), BGP: !d.samePasswords(s)}
	partial := d.decide(s, changes.Services)
	defer d.forget()
	if d.view.contested || len(d.waits) > 0 && !d.placesStay(dirty) {
		return d.Full(s) // Where a group goes that no live node holds depends on all the others.
	}
	for ip := range addresses {
		old, was := d.layer2[ip]
		now, is := partial[ip]
		if was != is || is && !old.equal(&now) {
			changes.Layer2 = append(changes.Layer2, ip)
		}
		if delete(d.layer2, ip); is {
			d.layer2[ip] = now
		}
	}
	for _, t := range d.tables {
		changes.BGP = t.update(d.view.Config.BGP, touched) || changes.BGP
	}
	changes.BGP = changes.BGP || d.kernel.changed
	if changes.BGP {
		d.decideBGP()
	}
	return changes
}

// Full decides everything anew by the Services that were taken in so far. Where nothing but Services has changed, it finds no announcement
// that Update has not, unless there is a mistake in either: so it is an audit of the Updates before.
func (d *Decider) Full(s *Snapshot) Changes {
	before := d.layer2
	d.decided = true
	defer d.forget()
	d.view = view{Snapshot: s}
	d.alive, d.probes, d.passwords = map[string]bool{}, map[netip.Addr][]probed{}, map[config.SecretKey]password{}
	d.records, d.kept, d.awaited = map[types.NamespacedName]Record{}, map[types.NamespacedName]bool{}, map[types.NamespacedName]string{}
	d.layer2 = d.decide(s, slices.Collect(maps.Keys(d.services)))
	d.placed, d.waits = view{}, map[string]bool{}
	if d.view.contested {
		d.placed = d.view
		for g := range d.view.places {
			d.waits[g.key()] = true
		}
	}
	changes := Changes{All: true, BGP: true}
	for ip, now := range d.layer2 {
		if old, was := before[ip]; !was || !old.equal(&now) {
			changes.Layer2 = append(changes.Layer2, ip)
		}
	}
	for ip := range before {
		if _, is := d.layer2[ip]; !is {
			changes.Layer2 = append(changes.Layer2, ip)
		}
	}
	d.tables = map[string]*table{}
	for i := range d.view.Config.Peers {
		if peer := &d.view.Config.Peers[i]; peer.Nodes.Matches(d.view.Nodes[d.view.Node].Labels) {
			d.tables[peer.Name] = d.newTable(peer)
		}
	}
	d.kernel = newKernelTable()
	for _, svc := range d.services {
		d.kernel.count(&d.view, svc, 1)
	}
	d.decideBGP()
	return changes
}

// placesStay reports whether the groups that no live node holds go where the latest full decision has placed them. They do if all groups of
// the Services that were decided now are held, and count for what they counted for then. For example node1 has died, and held 5,000
// groups: node2 puts itself on record for one that was placed there, which decides nothing anew of the others (see view.place).
func (d *Decider) placesStay(decided map[types.NamespacedName]bool) bool {
	shares := map[string]share{}
	for _, g := range d.view.all {
		if holder, ok := d.view.retained(g); ok && !d.view.Away[holder] {
			if s := d.view.shareHeld(g, d.placed.shared); d.placed.classes[s.class] != nil {
				shares[g.key()] = s
			}
		}
	}
	for name := range decided {
		if key := name.String(); shares[key] != d.placed.shares[key] {
			return false
		}
	}
	for name := range decided {
		delete(d.waits, name.String())
	}
	return true
}

// Sessions returns the Peers, BGP, BFD, Problems, Doubts, Kernel, Refusals and HostRoutes of the decision, and nothing else of it.
func (d *Decider) Sessions() Desired { return d.bgp }

// Prefixes returns what the peers of this node are to be told, with a session or without one, and with a next hop or without one. The
// values say which of them are Local, as IsLocal does.
func (d *Decider) Prefixes() map[netip.Prefix]bool {
	prefixes := map[netip.Prefix]bool{}
	for _, t := range d.tables {
		for i := range t.routes {
			prefix := t.routes[i].Prefix
			prefixes[prefix] = prefixes[prefix] || t.local[prefix] > 0
		}
	}
	return prefixes
}

// IsLocal reports whether a prefix is announced for a Service with externalTrafficPolicy Local, perhaps among others.
func (d *Decider) IsLocal(prefix netip.Prefix) bool {
	for _, t := range d.tables {
		if t.local[prefix] > 0 {
			return true
		}
	}
	return d.kernel != nil && d.kernel.local[prefix] > 0
}

// Desired returns the decision, with Layer2 ordered by address. Its maps are the Decider's, and hold until the next Update.
func (d *Decider) Desired() Desired {
	desired := d.bgp
	desired.Layer2 = slices.SortedFunc(maps.Values(d.layer2), func(a, b Announcement) int { return a.Address.Compare(b.Address) })
	desired.Records, desired.Kept, desired.Awaited = d.records, d.kept, d.awaited
	return desired
}

// Announcement returns how this node answers for an address on layer 2, and whether it does.
func (d *Decider) Announcement(ip netip.Addr) (Announcement, bool) {
	a, ok := d.layer2[ip]
	return a, ok
}

// Awaited returns the nodes that are to put themselves on record, by the first Service of each group, until the next Update.
func (d *Decider) Awaited() map[types.NamespacedName]string { return d.awaited }

// Record returns what this node records about a Service, whether it holds it, and whether it stays on record as it is without.
func (d *Decider) Record(name types.NamespacedName) (record Record, held, kept bool) {
	record, held = d.records[name]
	return record, held, d.kept[name]
}

// same reports whether a Snapshot says the same of everything but Services, as far as the latest decision has looked at it. All fields of
// a Snapshot count, also those that are added later. A function is the same if it gives the answers that it gave. One that is added later
// is the same never, so that all is decided anew each time; see TestDeciderKnowsEachFunction.
func (d *Decider) same(s *Snapshot) bool {
	for node, alive := range d.alive {
		if s.Alive(node) != alive {
			return false
		}
	}
	before, now := reflect.ValueOf(d.view.Snapshot).Elem(), reflect.ValueOf(s).Elem()
	for i := range now.NumField() {
		switch now.Type().Field(i).Name {
		case "Services", "Sessions": // taken in apart, and not looked at
			continue
		case "Alive", "Probed", "Password": // asked again
			if before.Field(i).IsNil() != now.Field(i).IsNil() {
				return false
			}
			continue
		}
		if !reflect.DeepEqual(before.Field(i).Interface(), now.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// changedProbes returns the addresses of which a probe says something else than when it was looked at.
func (d *Decider) changedProbes(s *Snapshot) map[netip.Addr]bool {
	changed := map[netip.Addr]bool{}
	for ip, probes := range d.probes {
		for _, p := range probes {
			if s.Probed(p.at.node, p.at.iface, ip) != p.probe {
				changed[ip] = true
			}
		}
	}
	return changed
}

// samePasswords reports whether all passwords are what they were when they were looked at.
func (d *Decider) samePasswords(s *Snapshot) bool {
	for key, before := range d.passwords {
		if askPassword(s, key) != before {
			return false
		}
	}
	return true
}

func askPassword(s *Snapshot, key config.SecretKey) password {
	secret, err := s.Password(key)
	if err != nil {
		return password{password: secret, err: err.Error()}
	}
	return password{password: secret}
}

// remembering returns a copy of a Snapshot with some Services, whose functions have their answers remembered.
func (d *Decider) remembering(s *Snapshot, services []Service) *Snapshot {
	r := *s
	r.Services, r.Config = services, d.view.Config // The intermediate results point into the Config. It is equal to that of s.
	r.Alive = func(node string) bool {
		alive, known := d.alive[node]
		if !known {
			alive = s.Alive(node)
			d.alive[node] = alive
		}
		return alive
	}
	if s.Probed != nil {
		r.Probed = func(node, iface string, ip netip.Addr) Probe {
			answer := probed{nodeInterface{node, iface}, s.Probed(node, iface, ip)}
			if !slices.Contains(d.probes[ip], answer) {
				d.probes[ip] = append(d.probes[ip], answer)
			}
			return answer.probe
		}
	}
	if s.Password != nil {
		r.Password = func(key config.SecretKey) (bgp.Password, error) {
			d.passwords[key] = askPassword(s, key)
			return s.Password(key)
		}
	}
	return &r
}

// connect adds a Service, and all that are connected with it by common addresses.
func (d *Decider) connect(name types.NamespacedName, connected map[types.NamespacedName]bool) {
	waiting := []types.NamespacedName{name}
	for len(waiting) > 0 {
		next := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		if connected[next] && next != name {
			continue
		}
		connected[next] = true
		svc := d.services[next]
		if svc == nil {
			continue
		}
		for _, address := range svc.Addresses {
			for _, sharer := range d.sharers[address.IP] {
				if !connected[sharer] {
					waiting = append(waiting, sharer)
				}
			}
		}
	}
}

// gather adds the addresses of Services.
func (d *Decider) gather(names map[types.NamespacedName]bool, addresses map[netip.Addr]bool) {
	for name := range names {
		if svc := d.services[name]; svc != nil {
			for _, address := range svc.Addresses {
				addresses[address.IP] = true
			}
		}
	}
}

// replace puts a Service in the place of the one with its name. The prefixes of both are touched. Nil stands for no tables to be kept.
func (d *Decider) replace(name types.NamespacedName, svc *Service, touched map[netip.Prefix]bool) {
	if old := d.services[name]; old != nil {
		d.count(old, -1, touched)
		for _, address := range old.Addresses {
			rest := slices.DeleteFunc(d.sharers[address.IP], func(sharer types.NamespacedName) bool { return sharer == name })
			if d.sharers[address.IP] = rest; len(rest) == 0 {
				delete(d.sharers, address.IP)
			}
		}
	}
	if svc == nil {
		delete(d.services, name)
		return
	}
	d.services[name] = svc
	d.count(svc, 1, touched)
	for _, address := range svc.Addresses {
		if !slices.Contains(d.sharers[address.IP], name) {
			d.sharers[address.IP] = append(d.sharers[address.IP], name)
		}
	}
}

// decide decides the groups of some Services on layer 2, of which no Service is left out. It returns their announcements, and puts their
// records in the place of those before.
func (d *Decider) decide(s *Snapshot, names []types.NamespacedName) map[netip.Addr]Announcement {
	slices.SortFunc(names, func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	services := make([]Service, 0, len(names))
	for _, name := range names {
		delete(d.records, name)
		delete(d.kept, name)
		delete(d.awaited, name)
		if svc := d.services[name]; svc != nil {
			services = append(services, *svc)
		}
	}
	d.view.Snapshot = d.remembering(s, services)
	partial := Desired{Records: d.records, Kept: d.kept, Awaited: d.awaited}
	d.view.decideLayer2(&partial)
	announced := make(map[netip.Addr]Announcement, len(partial.Layer2))
	for _, a := range partial.Layer2 {
		announced[a.Address] = a
	}
	return announced
}

// forget lets go of the groups that were decided, and of their Services: the next decision makes its own.
func (d *Decider) forget() { d.view.all, d.view.places, d.view.Services = nil, nil, nil }

// decideBGP decides the sessions, and what the kernel is to have, by the tables.
func (d *Decider) decideBGP() {
	clear(d.passwords)
	d.bgp = Desired{
		Problems: map[string]string{}, Doubts: map[string]string{}, NoNextHop: map[string][]bgp.Route{},
		Kernel: d.bgp.Kernel, Redistributes: d.bgp.Redistributes, Refusals: d.bgp.Refusals, HostRoutes: d.bgp.HostRoutes,
	}
	if d.kernel.changed {
		d.kernel.decide(&d.view, &d.bgp)
	}
	d.view.decideBGP(&d.bgp, func(peer *config.Peer) []bgp.Route { return slices.Clone(d.tables[peer.Name].routes) })
}

// equal reports whether two announcements are the same.
func (a *Announcement) equal(b *Announcement) bool {
	return a.Address == b.Address && slices.Equal(a.Interfaces, b.Interfaces) && slices.Equal(a.Probe, b.Probe) &&
		a.Listen == b.Listen && maps.EqualFunc(a.As, b.As, func(x, y net.HardwareAddr) bool { return bytes.Equal(x, y) })
}
