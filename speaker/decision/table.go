// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

// A table is what a peer is to be told by this node, kept up to date by the addresses that come and go. For example 192.0.2.10 and
// 192.0.2.11 are both announced in 192.0.2.0/24 by the advertisement of the third place: its count is two, and the prefix stays until the
// count is zero.
type table struct {
	peer   *config.Peer
	counts map[contribution]int
	local  map[netip.Prefix]int // how many of them are of Services with externalTrafficPolicy Local
	routes []bgp.Route          // by prefix, without next hops
}

// A contribution is a prefix, and the place in the Config of an advertisement that announces an address in it.
type contribution struct {
	prefix        netip.Prefix
	advertisement int
}

// newTable returns the table of a peer, by all Services.
func (d *Decider) newTable(peer *config.Peer) *table {
	t := &table{peer: peer, counts: make(map[contribution]int, len(d.services)), local: map[netip.Prefix]int{}}
	byPrefix := make(map[netip.Prefix]bgp.Route, len(d.services))
	for i := range d.view.Config.BGP {
		for _, svc := range d.services {
			d.view.contribute(svc, peer, i, func(ad *config.BGPAdvertisement, _ Address, prefix netip.Prefix) {
				c := contribution{prefix, i}
				if svc.Local {
					t.local[prefix]++
				}
				if t.counts[c]++; t.counts[c] == 1 {
					merge(byPrefix, ad, prefix)
				}
			})
		}
	}
	t.routes = slices.SortedFunc(maps.Values(byPrefix), compareRoutes)
	return t
}

// count adds a number of addresses for each that a Service has, in the tables of all peers. The prefixes are touched; nil stands for
// tables that are not kept.
func (d *Decider) count(svc *Service, by int, touched map[netip.Prefix]bool) {
	if touched == nil {
		return
	}
	d.kernel.count(&d.view, svc, by)
	for _, t := range d.tables {
		for i := range d.view.Config.BGP {
			d.view.contribute(svc, t.peer, i, func(_ *config.BGPAdvertisement, _ Address, prefix netip.Prefix) {
				c := contribution{prefix, i}
				if t.counts[c] += by; t.counts[c] == 0 {
					delete(t.counts, c)
				}
				if svc.Local {
					if t.local[prefix] += by; t.local[prefix] == 0 {
						delete(t.local, prefix)
					}
				}
				touched[prefix] = true
			})
		}
	}
}

// contribute calls add for each address of a Service that this node announces to a peer by the advertisement of a place, with each prefix of it.
func (v *view) contribute(svc *Service, peer *config.Peer, place int, add func(*config.BGPAdvertisement, Address, netip.Prefix)) {
	ad := &v.Config.BGP[place]
	node, ok := v.Nodes[v.Node]
	if !ok || node.Excluded && !v.Leaving || !ad.Nodes.Matches(node.Labels) || !isFor(ad, peer) {
		return
	}
	for _, address := range svc.Addresses {
		if ad.Selects(address.Pool, svc.Name.Namespace, svc.Labels) && carries(ad, family.Of(address.IP)) && svc.servedFrom(v.Node, address.IP) {
			for _, prefix := range v.prefixes(ad, svc, address, v.Node, peer) {
				add(ad, address, prefix)
			}
		}
	}
}

// update brings the routes of the touched prefixes up to date, and reports whether any has changed.
func (t *table) update(advertisements []config.BGPAdvertisement, touched map[netip.Prefix]bool) (changed bool) {
	updated, copied := []bgp.Route(nil), 0 // all routes before the place copied are in updated
	for _, prefix := range slices.SortedFunc(maps.Keys(touched), comparePrefixes) {
		byPrefix := map[netip.Prefix]bgp.Route{}
		for i := range advertisements {
			if t.counts[contribution{prefix, i}] > 0 {
				merge(byPrefix, &advertisements[i], prefix)
			}
		}
		place, was := slices.BinarySearchFunc(t.routes, prefix, func(r bgp.Route, p netip.Prefix) int { return comparePrefixes(r.Prefix, p) })
		route, is := byPrefix[prefix]
		if was == is && (!is || reflect.DeepEqual(t.routes[place], route)) {
			continue
		}
		if !changed {
			updated, changed = make([]bgp.Route, 0, len(t.routes)+len(touched)), true
		}
		updated = append(updated, t.routes[copied:place]...)
		if copied = place; was {
			copied++
		}
		if is {
			updated = append(updated, route)
		}
	}
	if changed {
		t.routes = append(updated, t.routes[copied:]...)
	}
	return changed
}
