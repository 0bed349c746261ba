// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"maps"
	"net"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

// Desired is what this node announces and records.
type Desired struct {
	// Layer2 are the addresses that this node answers for, in no order.
	Layer2 []Announcement
	// Records are the Services that this node holds on layer 2.
	Records map[types.NamespacedName]Record
	// Kept are the Services for which this node stays on record as it is, although it does not hold them: it answers for nothing of them at
	// present, or until another node is on record.
	Kept map[types.NamespacedName]bool
	// Awaited are the nodes that this one expects to put themselves on record, by the first Service of each group.
	Awaited map[types.NamespacedName]string
	// Peers are the peers that this node is to have, ordered by their names, with a session or without one.
	Peers []config.Peer
	// BGP are the sessions of this node with all that their peers are to be told, ordered by the peers' names.
	BGP []bgp.Session
	// BFD are the sessions that watch those peers whose BGPPeer names a BFDProfile, in the same order.
	BFD []bfd.Session
	// Problems say, by the peer's name, why a peer of this node has no session, or less than it should.
	Problems map[string]string
	// Doubts say, by the peer's name, why a session may not come up. They mean nothing once the peer has answered.
	Doubts map[string]string
	// NoNextHop are the routes, by the peer's name, that it is not told since the node has no address to name as their next hop.
	NoNextHop map[string][]bgp.Route
	// Kernel is what other routing software of this node is to find in the kernel, ordered by interface and prefix.
	Kernel []KernelEntry
	// Redistributes is set if some InterfaceAdvertisement selects this node.
	Redistributes bool
	// Refusals say of addresses why it is less than InterfaceAdvertisements ask for, ordered by advertisement and address.
	Refusals []Refusal
	// HostRoutes are what the kernel gets instead of an aggregate that a peer is told, by the aggregate: one for each address of a Service for
	// which it is told, in order. An aggregate that the kernel may have is left out.
	HostRoutes map[netip.Prefix][]netip.Prefix
}

// Announcement is an address that this node answers for on layer 2.
type Announcement struct {
	Address netip.Addr
	// Interfaces are the names of the interfaces to answer on, sorted; at least one.
	Interfaces []string
	// Probe are those of the Interfaces on which the address is announced for the first time, sorted. There it is probed before.
	Probe []string
	// As has, by the interface, the MAC of the holder whose deputy this node is there; nil for an address that this node holds. A node that
	// hands an address over is its own deputy: it answers, and neither announces nor defends the address.
	As map[string]net.HardwareAddr
	// Listen says that this node answers for the address no more, and looks whether another node does.
	Listen bool
}

// Record is what the holder writes down about a Service: the addresses that it answers for, in the order of the Service, and the names of
// the interfaces on which it does, sorted. A holder that answers for none of them, since other stations have them, has an empty Record.
type Record struct {
	Addresses, Interfaces []string
	// Refusal is why the Target of the Service does not take the addresses over, "" if there is none, or if it does.
	Refusal string
}

// Decide works out what the node announces. Speakers with the same view come to the same answer.
func Decide(s *Snapshot) Desired {
	v := &view{Snapshot: s}
	d := Desired{
		Records: map[types.NamespacedName]Record{}, Kept: map[types.NamespacedName]bool{},
		Awaited: map[types.NamespacedName]string{}, Problems: map[string]string{}, Doubts: map[string]string{}, NoNextHop: map[string][]bgp.Route{},
	}
	v.decideLayer2(&d)
	v.decideBGP(&d, v.routes)
	v.decideKernel(&d)
	return d
}

// view is a Snapshot with the intermediate results that are computed once for a decision.
type view struct {
	*Snapshot
	// subnets are those of all nodes' interfaces, by their lengths and then themselves; nil before subnet has been asked.
	subnets map[int]map[netip.Prefix]bool
	// named says of advertisements that name interfaces whether some node has one, for those that hasInterface has been asked of.
	named map[*config.L2Advertisement]bool
	// pools are the advertisements that select a pool, by its name, for those that selecting has been asked of.
	pools map[string]advertisements
	// elections are the candidates for Services by what their addresses have in common.
	elections map[[len(family.All)]Alike]contenders
	// all are the groups, and places where those go that no live node holds; nil before that was asked.
	all    []*group
	places map[*group]string
	// contested is set if there was a choice in that.
	contested bool
	// classes are those of the groups that waited in that, shares those of the groups that counted, by the key of the group, and shared says
	// that not all that waited are simple.
	classes map[string]*class
	shares  map[string]share
	shared  bool
	// deputies are the nodes that can be the deputy of a node that is away, for those links of it that neighbours has been asked of.
	deputies map[nodeInterface]neighbours
	// swallowing is what swallows has returned.
	swallowing map[nodePrefix]bool
}

// advertisements are those that have something in common.
type advertisements struct {
	layer2 []*config.L2Advertisement
	bgp    []*config.BGPAdvertisement
}

// selecting returns the advertisements that select a pool.
func (v *view) selecting(pool string) advertisements {
	found, known := v.pools[pool]
	if known {
		return found
	}
	for i := range v.Config.L2 {
		if v.Config.L2[i].SelectsPool(pool) {
			found.layer2 = append(found.layer2, &v.Config.L2[i])
		}
	}
	for i := range v.Config.BGP {
		if v.Config.BGP[i].SelectsPool(pool) {
			found.bgp = append(found.bgp, &v.Config.BGP[i])
		}
	}
	if v.pools == nil {
		v.pools = map[string]advertisements{}
	}
	v.pools[pool] = found
	return found
}

// decideLayer2 fills in Layer2 and Records.
func (v *view) decideLayer2(d *Desired) {
	v.all, v.places, v.contested = v.groups(), nil, false
	for _, g := range v.all {
		if len(g.advertisements) == 0 {
			continue
		}
		holder, ok := v.holder(g)
		if ok && v.awaits(g, holder) {
			d.Awaited[g.services[0].Name] = holder
		}
		if !ok {
			v.keep(g, d)
		}
		switch drains := v.drains(g, holder, v.Node); {
		case drains && v.yields(g):
			v.listen(g, d) // The other answers, and cannot put itself on record, or this node cannot read that.
			continue
		case drains:
			v.drain(g, holder, d)
			continue
		}
		if ok && v.Away[holder] {
			if !v.Isolated { // An old record may name the wrong holder.
				d.Layer2 = append(d.Layer2, v.deputize(g, holder)...)
			}
			continue
		}
		if !ok || holder != v.Node || v.startupHolds(g) {
			continue
		}
		if v.yields(g) {
			v.listen(g, d)
			continue
		}
		announced := map[netip.Addr][]string{} // without those interfaces on which this node is not known to answer
		for _, address := range g.addresses {
			if interfaces := v.interfaces(g, address, v.Node); len(interfaces) > 0 {
				probes := v.probes(g, address.IP, v.Node, interfaces)
				announced[address.IP] = without(interfaces, v.unconfirmed(g, address.IP, v.Node, interfaces, probes))
				d.Layer2 = append(d.Layer2, Announcement{Address: address.IP, Interfaces: interfaces, Probe: probes})
			}
		}
		for _, svc := range g.services {
			if v.isProbing(g, svc, v.Node) {
				continue // It is put on record once, with all that the node answers for.
			}
			record := Record{}
			used := map[string]bool{}
			held := false
			for _, address := range svc.Addresses {
				interfaces, ok := announced[address.IP]
				held = held || ok
				if len(interfaces) > 0 {
					record.Addresses = append(record.Addresses, address.IP.String())
					for _, name := range interfaces {
						used[name] = true
					}
				}
			}
			// A node that is on record stays the holder while it probes. One that is not is put on record when it answers, or when other
			// stations have all addresses: another node would find the same, and while none is on record all speakers look for a holder.
			if len(record.Addresses) == 0 && (!held || svc.Holder != v.Node && !v.isInUse(g, svc, v.Node)) {
				continue
			}
			record.Interfaces, record.Refusal = slices.Sorted(maps.Keys(used)), v.refusal(g, svc.Target)
			d.Records[svc.Name] = record
		}
	}
}

// awaits reports whether another node is to put itself on record for a group.
func (v *view) awaits(g *group, holder string) bool {
	return holder != v.Node && holder != v.recorded(g) && !v.StartupHold && !v.Isolated
}

// yields reports whether this node leaves a group to a speaker that answers for one of its addresses.
func (v *view) yields(g *group) bool {
	return len(v.Yielded) > 0 && slices.ContainsFunc(g.addresses, func(a Address) bool { return v.Yielded[a.IP] })
}

// listen has this node look whether another one answers for the addresses of a group that it holds by the records that it knows. It stays on
// record: a speaker that knows a newer one does not listen.
func (v *view) listen(g *group, d *Desired) {
	for _, address := range g.addresses {
		if interfaces := v.interfaces(g, address, v.Node); len(interfaces) > 0 {
			d.Layer2 = append(d.Layer2, Announcement{Address: address.IP, Interfaces: interfaces, Listen: true})
		}
	}
	for _, svc := range g.services {
		if svc.Holder == v.Node {
			d.Kept[svc.Name] = true
		}
	}
}

// keep has this node stay on record for those Services of a group that it held, while no Service of the group has an endpoint. So the
// addresses are where they were when an endpoint is ready again, and no two speakers elect a holder anew by different views of who is
// alive. For example node1 holds web, and the only pod of web restarts.
func (v *view) keep(g *group, d *Desired) {
	if slices.ContainsFunc(g.addresses, func(a Address) bool { return g.hasEndpoint(a.IP) }) {
		return
	}
	for _, svc := range g.services {
		if svc.Holder == v.Node {
			d.Kept[svc.Name] = true
		}
	}
}
