// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/btree"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Sharing describes what a Service does with its addresses, as far as others on the same address care.
type Sharing struct {
	// Key is common to all Services that share; a Service without a key shares with none.
	Key string
	// Namespace is that of the Service. Services of one namespace share by their key alone, those of two only where Consents of each names
	// the namespace of the other.
	Namespace string
	// Consents names other namespaces. [AnyNamespace] among them stands for all.
	Consents []string
	// OwnNamespaceOnly keeps the Service from sharing with other namespaces, whatever Consents says.
	OwnNamespaceOnly bool
	// Ports must be disjoint.
	Ports []Port
	// Backends names the endpoints of a Service whose traffic stays on the node (externalTrafficPolicy Local),
	// and is empty for any other. All that share must agree: one node answers for an address, and must serve all
	// its Services.
	Backends string
}

// AnyNamespace is the element of Sharing.Consents that names all namespaces.
const AnyNamespace = "*"

// Port is a transport protocol, spelt as in the Kubernetes API, and a port.
type Port struct {
	Protocol string
	Number   int32
}

// String returns protocol/number, as in TCP/443.
func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Number) }

// MarshalText returns what String does.
func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what String returns.
func (p *Port) UnmarshalText(text []byte) error {
	protocol, number, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no protocol/number, as in TCP/443: %w", text, err)
	}
	*p = Port{protocol, int32(n)}
	return nil
}

// Admits returns nil if s and other can be on one address, or why not: what to change for it, as a text about the Service of other. It
// wraps ErrNoConsent where nothing but the consent of a namespace is missing.
func (s Sharing) Admits(other Sharing) error {
	switch {
	case s.Key == "" || s.Key != other.Key:
		return errors.New("without the same sharing key")
	case s.Backends != other.Backends:
		return errors.New("and sends its traffic to other endpoints (externalTrafficPolicy Local)")
	}
	for _, p := range s.Ports {
		if slices.Contains(other.Ports, p) {
			return fmt.Errorf("on the same port %s", p)
		}
	}
	if !s.consents(other) {
		return s.noConsent(other)
	}
	return nil
}

// ErrNoConsent is that of Services in two namespaces that do not both consent to share an address.
var ErrNoConsent = errors.New("in another namespace")

// errDenied is ErrNoConsent where no annotation would help.
var errDenied = fmt.Errorf("%w, and with --cross-namespace-sharing=Deny these share no address", ErrNoConsent)

// shareWith is v1alpha1.AnnotationShareWithNamespaces, for what errors tell users to write.
const shareWith = "tandem-lb.io/share-with-namespaces"

// consents reports whether both are of one namespace, or name each other's.
func (s Sharing) consents(other Sharing) bool {
	return s.Namespace == other.Namespace ||
		!s.OwnNamespaceOnly && !other.OwnNamespaceOnly && s.consentsTo(other.Namespace) && other.consentsTo(s.Namespace)
}

func (s Sharing) consentsTo(namespace string) bool {
	return slices.Contains(s.Consents, namespace) || slices.Contains(s.Consents, AnyNamespace)
}

// noConsent says which annotations are missing.
func (s Sharing) noConsent(other Sharing) error {
	if s.OwnNamespaceOnly || other.OwnNamespaceOnly {
		return errDenied
	}
	var missing []string
	if !other.consentsTo(s.Namespace) {
		missing = append(missing, fmt.Sprintf("%s: %s on it", shareWith, s.Namespace))
	}
	if !s.consentsTo(other.Namespace) {
		missing = append(missing, fmt.Sprintf("%s: %s on this Service", shareWith, other.Namespace))
	}
	return fmt.Errorf("%w; to share, write the annotation %s", ErrNoConsent, strings.Join(missing, " and "))
}

// sharers sums up the users of an address that has a user with a sharing key, so that a request need not look at each of them.
type sharers struct {
	address netip.Addr
	// order numbers the addresses of a key as they were given: requests try the oldest first.
	order uint64
	key   string // that order belongs to
	// kinds counts the users by what decides about others but their ports, and ports by these.
	kinds map[kind]*counted
	ports map[Port]int
	sum   uint64 // of portHash of ports
	// spot is where requests find the address; nil where no further Service can be on it.
	spot  *spot
	group *group // of spot
	setKey
}

// kind is what is alike in Services that admit the same others, but for ports.
type kind struct {
	key, backends, namespace, consents string
	ownNamespaceOnly                   bool
}

func (s Sharing) kind() kind {
	return kind{s.Key, s.Backends, s.Namespace, strings.Join(s.Consents, ","), s.OwnNamespaceOnly}
}

// counted is a number of Services of a kind, and what one of them wants.
type counted struct {
	Sharing
	n int
}

// group is the addresses of one sharing key, pool and family.
type group struct {
	groupKey
	all   *addressSet
	spots map[string]*spot // by namespace
}

type groupKey struct {
	key, pool string
	family    family.Family
}

// spot is the addresses of a group with a Service of one namespace. An address with Services of several is in the spot of the first of
// these by name: whichever Service may share it consents to that one too. For example, of a thousand Services of one namespace with the key
// "web" and the port 443, and one with the port 80, each has an address but the last, which is on the first: two sets, one with the first
// address and the ports 80 and 443, and one with 999 addresses and the port 443. A request for port 443 looks at the first address of both
// sets, and need not look further.
type spot struct {
	namespace string
	addresses int
	ports     map[Port]int // the number of addresses that have the port
	sets      map[setKey]*addressSet
}

// setKey is what the addresses of a set have in common: a request that one of them refuses is refused by all.
type setKey struct {
	backends string
	// ports and consents are sums of hashes; two sets with one sum cost a Service a chance to share, and nothing else.
	ports, consents uint64
}

// addressSet has addresses in the order in which they were given.
type addressSet = btree.BTreeG[*sharers]

func newAddressSet() *addressSet {
	return btree.NewG(8, func(a, b *sharers) bool { return a.order < b.order })
}

var seed = maphash.MakeSeed()

func portHash(p Port) uint64 { return maphash.Comparable(seed, p) }

func newSharers(address netip.Addr) *sharers {
	return &sharers{address: address, kinds: map[kind]*counted{}, ports: map[Port]int{}}
}

// enter counts a user of the address.
func (s *sharers) enter(sharing Sharing) {
	k := sharing.kind()
	if s.kinds[k] == nil {
		s.kinds[k] = &counted{Sharing: sharing}
	}
	s.kinds[k].n++
	for _, p := range sharing.Ports {
		if s.ports[p]++; s.ports[p] == 1 {
			s.sum += portHash(p)
			if s.spot != nil {
				s.spot.ports[p]++
			}
		}
	}
}

// leave undoes enter.
func (s *sharers) leave(sharing Sharing) {
	k := sharing.kind()
	if s.kinds[k].n--; s.kinds[k].n == 0 {
		delete(s.kinds, k)
	}
	for _, p := range sharing.Ports {
		if decrement(s.ports, p) {
			s.sum -= portHash(p)
			if s.spot != nil {
				decrement(s.spot.ports, p)
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

// admit reports whether each user of the address admits a Service that is there as own, or not at all, as want.
func (s *sharers) admit(want Sharing, own *Sharing) bool {
	return s.agree(want, own) && s.apart(want, own)
}

// The claim of a shared address lists its Services and their ports in an annotation, and the API server refuses annotations
// of more than 256 KiB. One address takes 1,683 Services with one port each, or 18 with a thousand ports each, by the longest
// names that there can be.
const (
	listBytes    = 240 << 10
	serviceBytes = len(`"/":[],`) + 2*63
	portBytes    = len(`"SCTP/65535",`)
)

// hasRoom reports whether the list on the claim has room for one Service more.
func (s *sharers) hasRoom(want Sharing) bool {
	services := 1
	for _, others := range s.kinds {
		services += others.n
	}
	return services*serviceBytes+(len(s.ports)+len(want.Ports))*portBytes <= listBytes
}

// agree is admit without a look at ports.
func (s *sharers) agree(want Sharing, own *Sharing) bool {
	var mine kind
	if own != nil {
		mine = own.kind()
	}
	for k, others := range s.kinds {
		if own != nil && k == mine && others.n == 1 {
			continue
		}
		if want.Key == "" || want.Key != k.key || want.Backends != k.backends || !want.consents(others.Sharing) {
			return false
		}
	}
	return true
}

// apart reports whether no other user has one of the ports.
func (s *sharers) apart(want Sharing, own *Sharing) bool {
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

// locate returns the group and the namespace under which requests find the address, and its set there. ok is false where users have not the
// same key and backends: no further Service can be on the address then.
func (s *sharers) locate(pool string) (g groupKey, namespace string, set setKey, ok bool) {
	for k := range s.kinds {
		if !ok {
			g, namespace, set.backends, ok = groupKey{k.key, pool, family.Of(s.address)}, k.namespace, k.backends, true
		}
		if k.key == "" || k.key != g.key || k.backends != set.backends {
			return groupKey{}, "", setKey{}, false
		}
		namespace = min(namespace, k.namespace)
		k.key, k.backends = "", ""
		set.consents += maphash.Comparable(seed, k)
	}
	set.ports = s.sum
	return g, namespace, set, ok
}

// share puts the address where requests find it, after its users or its pool changed.
func (a *Allocator) share(h *holding) {
	s := h.sharers
	if s == nil {
		return
	}
	key, namespace, set, ok := s.locate(h.pool)
	if s.spot != nil {
		s.remove()
	}
	if s.spot != nil && (!ok || s.group.groupKey != key || s.spot.namespace != namespace || s.key != key.key) {
		a.withdraw(s)
	}
	if !ok {
		return
	}
	if s.key != key.key {
		a.sequence++
		s.key, s.order = key.key, a.sequence
	}
	if s.spot == nil {
		a.offer(s, key, namespace)
	}
	if s.setKey = set; s.spot.sets[set] == nil {
		s.spot.sets[set] = newAddressSet()
	}
	s.spot.sets[set].ReplaceOrInsert(s)
}

// offer puts the address into a spot.
func (a *Allocator) offer(s *sharers, key groupKey, namespace string) {
	if s.group = a.groups[key]; s.group == nil {
		s.group = &group{groupKey: key, all: newAddressSet(), spots: map[string]*spot{}}
		a.groups[key] = s.group
	}
	if s.spot = s.group.spots[namespace]; s.spot == nil {
		s.spot = &spot{namespace: namespace, ports: map[Port]int{}, sets: map[setKey]*addressSet{}}
		s.group.spots[namespace] = s.spot
	}
	s.group.all.ReplaceOrInsert(s)
	s.spot.addresses++
	for p := range s.ports {
		s.spot.ports[p]++
	}
}

// withdraw undoes offer.
func (a *Allocator) withdraw(s *sharers) {
	s.group.all.Delete(s)
	s.spot.addresses--
	for p := range s.ports {
		decrement(s.spot.ports, p)
	}
	if s.spot.addresses == 0 {
		delete(s.group.spots, s.spot.namespace)
	}
	if s.group.all.Len() == 0 {
		delete(a.groups, s.group.groupKey)
	}
	s.group, s.spot = nil, nil
}

// remove takes the address out of its set.
func (s *sharers) remove() {
	set := s.spot.sets[s.setKey]
	if set.Delete(s); set.Len() == 0 {
		delete(s.spot.sets, s.setKey)
	}
}

// shareable returns the address of a pool that has been there longest of those that the request may share and that fit. The Service is on
// none of them that does: it would have kept that.
func (a *Allocator) shareable(req Request, af family.Family, pool string, fits func(netip.Addr) bool) (netip.Addr, bool) {
	g := a.groups[groupKey{req.Sharing.Key, pool, af}]
	if req.Sharing.Key == "" || g == nil {
		return netip.Addr{}, false
	}
	var best *sharers
	for s := range g.within(req.Sharing) {
		if slices.ContainsFunc(req.Sharing.Ports, func(p Port) bool { return s.ports[p] == s.addresses }) {
			continue
		}
		for key, set := range s.sets {
			if key.backends == req.Sharing.Backends {
				best = a.firstShareable(req, set, best, fits)
			}
		}
	}
	if best == nil {
		return netip.Addr{}, false
	}
	return best.address, true
}

// within yields the spots in which a Service could find an address. To look at all is slower only where it consents to all namespaces.
func (g *group) within(want Sharing) iter.Seq[*spot] {
	return func(yield func(*spot) bool) {
		if !want.OwnNamespaceOnly && slices.Contains(want.Consents, AnyNamespace) {
			for _, s := range g.spots {
				if !yield(s) {
					return
				}
			}
			return
		}
		for i, namespace := range append([]string{want.Namespace}, want.Consents...) {
			s := g.spots[namespace]
			if s != nil && (i == 0 || namespace != want.Namespace && !want.OwnNamespaceOnly) && !yield(s) {
				return
			}
		}
	}
}

// firstShareable returns the first address of a set that the request may share and that fits, if it was given before best.
func (a *Allocator) firstShareable(req Request, set *addressSet, best *sharers, fits func(netip.Addr) bool) *sharers {
	set.Ascend(func(s *sharers) bool {
		if best != nil && best.order < s.order {
			return false
		}
		if _, own := a.held[s.address].users.of(req.Service); own {
			return true
		}
		if !s.admit(req.Sharing, nil) {
			return false // So do the others of the set.
		}
		if !s.hasRoom(req.Sharing) || !fits(s.address) {
			return true
		}
		best = s
		return false
	})
	return best
}

// mostLooked bounds at how many addresses unshared looks, so that a request does not become slower with their number.
const mostLooked = 10

// unshared returns the first address that the request could share if namespaces consented, with a Service that does not admit it for that
// reason.
func (a *Allocator) unshared(req Request, af family.Family) (refusal Refusal, ok bool) {
	if req.Sharing.Key == "" || req.Sharing.OwnNamespaceOnly {
		return Refusal{}, false
	}
	for _, c := range req.Pools {
		g, p := a.groups[groupKey{req.Sharing.Key, c.Pool, af}], a.pools[c.Pool]
		if g == nil || p == nil || !c.Auto {
			continue
		}
		looked := 0
		g.all.Ascend(func(s *sharers) bool {
			looked++
			if !s.agree(req.Sharing, nil) && s.apart(req.Sharing, nil) && p.contains(s.address) && !a.isReserved(s.address) {
				refusal, ok = a.refusal(req, s.address)
				ok = ok && errors.Is(refusal.Err, ErrNoConsent) && !errors.Is(refusal.Err, errDenied)
			}
			return !ok && looked < mostLooked
		})
		if ok {
			return refusal, true
		}
	}
	return Refusal{}, false
}

// refusal returns the first user of the address, by name, that does not admit the Service. ok is false where all do.
func (a *Allocator) refusal(req Request, address netip.Addr) (refusal Refusal, ok bool) {
	h := a.held[address]
	mine, uses := h.users.of(req.Service)
	if uses && h.users.n() == 1 {
		return Refusal{}, false
	}
	if h.sharers != nil {
		var own *Sharing
		if uses {
			own = &mine
		}
		if h.sharers.admit(req.Sharing, own) {
			return Refusal{}, false
		}
	}
	for _, user := range h.users.sorted() {
		if user == req.Service {
			continue
		}
		theirs, _ := h.users.of(user)
		if why := req.Sharing.Admits(theirs); why != nil {
			return Refusal{address, user, why}, true
		}
	}
	return Refusal{}, false
}
