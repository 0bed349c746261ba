// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/google/btree"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Sharing describes what a Service does with its addresses, as far as others on the same address care.
type Sharing struct {
	// Key is common to all Services that share; a Service without a key shares with none.
	Key string
	// Ports must be disjoint.
	Ports []Port
	// Backends names the endpoints of a Service whose traffic stays on the node (externalTrafficPolicy Local),
	// and is empty for any other. All that share must agree: one node answers for an address, and must serve all
	// its Services.
	Backends string
}

// Port is a transport protocol, spelt as in the Kubernetes API, and a port.
type Port struct {
	Protocol string
	Number   int32
}

// Admits returns nil if s and other can be on one address, or why not.
func (s Sharing) Admits(other Sharing) error {
	switch {
	case s.Key == "" || s.Key != other.Key:
		return errors.New("without the same sharing key")
	case s.Backends != other.Backends:
		return errors.New("and sends its traffic to other endpoints (externalTrafficPolicy Local)")
	}
	for _, p := range s.Ports {
		if slices.Contains(other.Ports, p) {
			return fmt.Errorf("on the same port %s/%d", p.Protocol, p.Number)
		}
	}
	return nil
}

// sharers sums up the users of an address that has a user with a sharing key, so that a request need not look at each of them.
type sharers struct {
	address netip.Addr
	// turn is the place of the address among those of its key, in the order in which they were given.
	turn uint64
	key  string // that turn belongs to
	// kinds counts the users by what has to be equal, and ports by what has to differ.
	kinds map[kind]int
	ports map[Port]int
	sum   uint64 // of portHash of ports
	group *group
	setKey
}

// kind is what is equal in all Services that share an address.
type kind struct{ key, backends string }

// group is the addresses of one sharing key, pool and family. For example, of a thousand Services with the key "web" and the port 443, and
// one with the port 80, each has an address but the last, which is on the first: two sets, one with the first address and the ports 80 and
// 443, and one with 999 addresses and the port 443. A request for port 443 looks at the first address of both sets, and need not look
// further.
type group struct {
	groupKey
	addresses int
	ports     map[Port]int // the number of addresses that have the port
	sets      map[setKey]*addressSet
}

type groupKey struct {
	key, pool string
	family    family.Family
}

// setKey is what the addresses of a set have in common: a request that one of them refuses for its ports or backends is refused by all.
type setKey struct {
	backends string
	ports    uint64 // the sum of portHash; two sets of ports with one sum cost a Service a chance to share, and nothing else
}

// addressSet has addresses in their turn.
type addressSet = btree.BTreeG[*sharers]

var portSeed = maphash.MakeSeed()

func portHash(p Port) uint64 { return maphash.Comparable(portSeed, p) }

// enter counts a user of the address.
func (s *sharers) enter(sharing Sharing) {
	s.kinds[kind{sharing.Key, sharing.Backends}]++
	for _, p := range sharing.Ports {
		if s.ports[p]++; s.ports[p] == 1 {
			s.sum += portHash(p)
			if s.group != nil {
				s.group.ports[p]++
			}
		}
	}
}

// leave undoes enter.
func (s *sharers) leave(sharing Sharing) {
	decrement(s.kinds, kind{sharing.Key, sharing.Backends})
	for _, p := range sharing.Ports {
		if decrement(s.ports, p) {
			s.sum -= portHash(p)
			if s.group != nil {
				decrement(s.group.ports, p)
			}
		}
	}
}

// decrement counts one less, and reports whether none is left.
func decrement[K comparable](counts map[K]int, k K) bool {
	counts[k]--
	if counts[k] > 0 {
		return false
	}
	delete(counts, k)
	return true
}

// admit reports whether a Service, which is on the address as own or not at all, can be there as want. Where it says no, it may be wrong if
// the users do not agree with each other.
func (s *sharers) admit(want Sharing, own *Sharing) bool {
	others := len(s.kinds)
	if own != nil && s.kinds[kind{own.Key, own.Backends}] == 1 {
		others--
	}
	if others == 0 {
		return true
	}
	same := s.kinds[kind{want.Key, want.Backends}]
	if own != nil && own.Key == want.Key && own.Backends == want.Backends {
		same--
	}
	if want.Key == "" || others > 1 || same == 0 {
		return false
	}
	for _, p := range want.Ports {
		n := s.ports[p]
		if own != nil && slices.Contains(own.Ports, p) {
			n--
		}
		if n > 0 {
			return false
		}
	}
	return true
}

// share puts the address into the set of its group, after its users or its pool changed. An address whose users do not agree is in none, since
// no further Service can be on it.
func (a *Allocator) share(address netip.Addr, h *holding) {
	s := h.sharers
	if s == nil {
		return
	}
	var want groupKey
	if len(s.kinds) == 1 {
		for k := range s.kinds {
			want = groupKey{k.key, h.pool, family.Of(address)}
		}
	}
	s.remove()
	if s.group != nil && s.group.groupKey != want {
		g := s.group
		s.group = nil
		g.addresses--
		for p := range s.ports {
			decrement(g.ports, p)
		}
		if g.addresses == 0 {
			delete(a.groups, g.groupKey)
		}
	}
	if want.key == "" {
		return
	}
	if s.key != want.key {
		a.turns++
		s.key, s.turn = want.key, a.turns
	}
	if s.group == nil {
		g := a.groups[want]
		if g == nil {
			g = &group{groupKey: want, ports: map[Port]int{}, sets: map[setKey]*addressSet{}}
			a.groups[want] = g
		}
		s.group = g
		g.addresses++
		for p := range s.ports {
			g.ports[p]++
		}
	}
	for k := range s.kinds {
		s.setKey = setKey{k.backends, s.sum}
	}
	set := s.group.sets[s.setKey]
	if set == nil {
		set = btree.NewG(8, func(a, b *sharers) bool { return a.turn < b.turn })
		s.group.sets[s.setKey] = set
	}
	set.ReplaceOrInsert(s)
}

// remove takes the address out of its set.
func (s *sharers) remove() {
	if s.group == nil {
		return
	}
	set := s.group.sets[s.setKey]
	if set.Delete(s); set.Len() == 0 {
		delete(s.group.sets, s.setKey)
	}
}

// shareable returns the address of a pool that has been there longest of those that the request may share and that fit. The Service is on none
// of them that does: it would have kept that.
func (a *Allocator) shareable(req Request, af family.Family, pool string, fits func(netip.Addr) bool) (netip.Addr, bool) {
	if req.Sharing.Key == "" {
		return netip.Addr{}, false
	}
	g := a.groups[groupKey{req.Sharing.Key, pool, af}]
	if g == nil {
		return netip.Addr{}, false
	}
	for _, p := range req.Sharing.Ports {
		if g.ports[p] == g.addresses {
			return netip.Addr{}, false
		}
	}
	var best *sharers
	for key, set := range g.sets {
		if key.backends != req.Sharing.Backends {
			continue
		}
		set.Ascend(func(s *sharers) bool {
			if best != nil && best.turn < s.turn {
				return false
			}
			if _, own := a.held[s.address].users.of(req.Service); own {
				return true
			}
			if !s.admit(req.Sharing, nil) {
				return false // So do the others of the set.
			}
			if !fits(s.address) {
				return true
			}
			best = s
			return false
		})
	}
	if best == nil {
		return netip.Addr{}, false
	}
	return best.address, true
}
