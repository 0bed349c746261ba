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
	"github.com/tandem-lb/tandem/speaker/election"
)

// Desired is what this node announces and records.
type Desired struct {
	// Layer2 are the addresses that this node answers for, in no order.
	Layer2 []Announcement
	// Records are the Services that this node holds on layer 2.
	Records map[types.NamespacedName]Record
	// Kept are the Services for which this node stays on record as it is, although it answers for nothing.
	Kept map[types.NamespacedName]bool
	// Peers are the peers that this node is to have, ordered by their names, with a session or without one.
	Peers []config.Peer
	// BGP are the sessions of this node with all that their peers are to be told, ordered by the peers' names.
	BGP []bgp.Session
	// BFD are the sessions that watch those peers whose BGPPeer names a BFDProfile, in the same order.
	BFD []bfd.Session
	// Problems say, by the peer's name, why a peer of this node has no session, or less than it should.
	Problems map[string]string
}

// Announcement is an address that this node answers for on layer 2.
type Announcement struct {
	Address netip.Addr
	// Interfaces are the names of the interfaces to answer on, sorted; at least one.
	Interfaces []string
	// Probe are those of the Interfaces on which the address is announced for the first time, sorted. There it is probed before.
	Probe []string
	// As has, by the interface, the MAC of the holder whose deputy this node is there; nil for an address that this node holds.
	As map[string]net.HardwareAddr
}

// Record is what the holder writes down about a Service: the addresses that it answers for, in the order of the Service, and the names of
// the interfaces on which it does, sorted. A holder that answers for none of them, since other stations have them, has an empty Record.
type Record struct {
	Addresses, Interfaces []string
}

// Decide works out what the node announces. Speakers with the same view come to the same answer.
func Decide(s *Snapshot) Desired {
	v := &view{Snapshot: s}
	d := Desired{Records: map[types.NamespacedName]Record{}, Kept: map[types.NamespacedName]bool{}, Problems: map[string]string{}}
	if !s.Isolated {
		v.decideLayer2(&d)
	}
	v.decideBGP(&d)
	return d
}

// view is a Snapshot with the intermediate results that are computed once for a decision.
type view struct {
	*Snapshot
	// subnets are those of all nodes' interfaces, by their lengths and then themselves; nil before subnet has been asked.
	subnets map[int]map[netip.Prefix]bool
	// pools are the advertisements that select a pool, by its name, for those that selecting has been asked of.
	pools map[string]advertisements
	// elections are the candidates for Services by what their addresses have in common.
	elections map[[len(family.All)]Alike][]election.Candidate
	// deputies are the nodes that can be the deputy of a node that is away, for those links of it that neighbours has been asked of.
	deputies map[nodeInterface]neighbours
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
	for _, g := range v.groups() {
		if len(g.advertisements) == 0 {
			continue
		}
		holder, ok := v.holder(g)
		if ok && v.Away[holder] {
			d.Layer2 = append(d.Layer2, v.deputize(g, holder)...)
			continue
		}
		if !ok {
			v.keep(g, d)
		}
		if !ok || holder != v.Node || v.startupHolds(g) {
			continue
		}
		announced := map[netip.Addr][]string{} // without those interfaces on which it is not known to be free
		for _, address := range g.addresses {
			if interfaces := v.interfaces(g, address, v.Node); len(interfaces) > 0 {
				probes := v.probes(g, address.IP, v.Node, interfaces)
				announced[address.IP] = without(interfaces, v.notFree(address.IP, v.Node, probes))
				d.Layer2 = append(d.Layer2, Announcement{Address: address.IP, Interfaces: interfaces, Probe: probes})
			}
		}
		for _, svc := range g.services {
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
			// A node that is on record stays the holder while it probes. One that is not is put on record when it answers.
			if len(record.Addresses) == 0 && (!held || svc.Holder != v.Node) {
				continue
			}
			record.Interfaces = slices.Sorted(maps.Keys(used))
			d.Records[svc.Name] = record
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
