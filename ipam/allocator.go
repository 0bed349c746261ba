// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/tandem-lb/tandem/ipam/family"
)

// The reasons why a family of a request cannot be met. Each error that Allocate returns wraps one or more of them.
var (
	ErrNoPool    = errors.New("no pool")
	ErrExhausted = errors.New("no free address")
	ErrNotInPool = errors.New("address is in no pool the Service may use")
	ErrInUse     = errors.New("address is in use")
	// ErrReserved is that of an address that must not be given, see [Allocator.SetReserved].
	ErrReserved = errors.New("address is reserved")
	// ErrLimit is that of a namespace that has as many addresses as a pool gives it.
	ErrLimit = errors.New("namespace is at its limit")
	// ErrFixedDenied is that of a Service that asks for an address of a pool with FixedDenied.
	ErrFixedDenied = errors.New("pool gives no address that is asked for")
	// ErrReleased is that of an address that another Service released, less than the pool's ReuseAfter ago.
	ErrReleased = errors.New("address was released too recently")
	// ErrUncovered is that of a Service that shows an address of somebody else, see [Request.Inherited].
	ErrUncovered  = errors.New("address in the status is in no AddressPool")
	ErrBadRequest = errors.New("bad request")
)

// Request asks for one address for each of Families.
type Request struct {
	Service Service
	// Families are the ones wanted, in the order of the answer; at least one, none twice.
	Families []family.Family
	// RequireAll makes a missing family an error. Without it a missing family is reported in Outcome.Missing, as
	// long as another one is there.
	RequireAll bool
	// Addresses are the fixed addresses, at most one for each family.
	Addresses []netip.Addr
	// Pools may serve the request, best first.
	Pools []Candidate
	// Named says that the user named the pools: an address that neither came from one of these nor is in one is
	// given up for one from these.
	Named bool
	// Reallocate lets stranded addresses go, which the pool they came from no longer contains, reserved ones, and those on which another
	// Service does not admit this one.
	Reallocate bool
	// Sharing says with which Services an address may be shared. The zero value shares with none.
	Sharing Sharing
	// Published are the addresses that the Service shows to its clients. Of two of one family that it holds, it goes on with one of these.
	Published []netip.Addr
	// Inherited are the addresses that the Service shows, and that we have not given it, as those of a load balancer before us. One of Families that no pool
	// contains keeps the request from being met: the clients know it, and another one would take its place. Reallocate gives it up.
	Inherited []netip.Addr
}

// Candidate is a pool that may serve a request.
type Candidate struct {
	Pool string
	// Auto reports whether an address may be chosen from the pool; without it the pool gives only addresses asked
	// for by name.
	Auto bool
}

// Assignment is an address and the pool that it was taken from.
type Assignment struct {
	Address netip.Addr
	Pool    string
}

// AddressesOf returns the addresses without their pools.
func AddressesOf(assigned []Assignment) []netip.Addr {
	var addresses []netip.Addr
	for _, as := range assigned {
		addresses = append(addresses, as.Address)
	}
	return addresses
}

// FamilyError says why a family has no address, or not the one asked for.
type FamilyError struct {
	Family family.Family
	// Pools are those that were asked for an address of the family.
	Pools []string
	Err   error
}

// Error names the family.
func (e *FamilyError) Error() string { return fmt.Sprintf("%s: %v", e.Family, e.Err) }

// Unwrap returns the reason, which wraps one of the package's sentinels.
func (e *FamilyError) Unwrap() error { return e.Err }

// Outcome is the answer to a request.
type Outcome struct {
	// Assigned has the Service's addresses in the order of Request.Families.
	Assigned []Assignment
	// Added are those of them that the Service did not hold before.
	Added []Assignment
	// Surplus are addresses that the Service holds and no longer wants. They stay held until Release, so that the
	// caller can first publish the new ones.
	Surplus []Assignment
	// Missing says, for each family that is not as asked for, why.
	Missing []*FamilyError
	// Kept are those of Assigned that the Service keeps although another Service there does not admit it, as after an edit of its ports.
	Kept []Refusal
	// Unshared are addresses that the Service would have shared if both namespaces consented, one for a family in which it got another one.
	Unshared []Refusal
}

// Refusal says which of the Services on an address does not admit another Service, and why.
type Refusal struct {
	Address netip.Addr
	By      Service
	Err     error
}

// Error reads as in "Service shop/web has 192.0.2.1 on the same port TCP/443".
func (r Refusal) Error() string { return fmt.Sprintf("Service %s has %s %v", r.By, r.Address, r.Err) }

// Unwrap returns what [Sharing.Admits] said.
func (r Refusal) Unwrap() error { return r.Err }

// holding is an address that is not free.
type holding struct {
	pool    string // that the first of the users took it from
	users   users
	blocked string // the owner of a blocked address, which has no users
	sharers *sharers
	left    map[Service]time.Time // when Services released it, the last time each, if the pool has ReuseAfter
	until   time.Time             // the end of its cooling; zero while it is not cooling
}

// Allocator knows the pools, and which Services hold which address. It is safe for concurrent use; requests of one Service must
// not run at the same time.
type Allocator struct {
	mu sync.Mutex
	// mu guards all following fields.
	pools        map[string]*pool
	ordered      []*pool // by name
	index        index   // of the addresses of ordered
	held         map[netip.Addr]*holding
	byService    map[Service][]netip.Addr
	groups       map[groupKey]*group
	sequence     uint64 // the latest order of sharers
	reservations []Reservation
	reserved     index                         // of reservations
	limited      bool                          // a pool has limits
	tenants      map[tenant]map[netip.Addr]int // users of each address; of pools with limits
	now          time.Time                     // of the request that is being answered
	cooling      *btree.BTreeG[expiry]
	leftBy       map[Service][]netip.Addr // what is cooling, by the Services that released it
}

type pool struct {
	Pool
	partitions map[family.Family]*partition
	overlaps   []string // sorted
}

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		pools:        map[string]*pool{},
		held:         map[netip.Addr]*holding{},
		byService:    map[Service][]netip.Addr{},
		groups:       map[groupKey]*group{},
		reservations: special,
		reserved:     specialIndex,
		tenants:      map[tenant]map[netip.Addr]int{},
		cooling:      newExpiries(),
		leftBy:       map[Service][]netip.Addr{},
	}
}

// SetPools replaces all pools. No holding changes. Blocked addresses are forgotten, so that a changed pool is tried
// afresh.
func (a *Allocator) SetPools(pools []Pool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for address, h := range a.held {
		if h.blocked != "" {
			a.free(address)
		}
	}
	kept := map[string]*pool{}
	var changed []*pool
	for _, want := range pools {
		p, ok := a.pools[want.Name]
		if !ok || !same(p.Pool, want) {
			p = newPool(want)
			changed = append(changed, p)
		}
		p.Pool = want
		kept[want.Name] = p
	}
	if len(changed) > 0 || len(kept) != len(a.pools) {
		a.pools = kept
		a.arrange()
	}
	a.fill(changed)
	a.countTenants()
	a.coolAgain()
}

func newPool(want Pool) *pool {
	p := &pool{Pool: want, partitions: map[family.Family]*partition{}}
	for _, af := range family.All {
		if own := ofFamily(want.Ranges, af); len(own) > 0 {
			p.partitions[af] = newPartition(own, ofFamily(want.Exclude, af), want.AvoidBuggyIPs, want.Stable)
		}
	}
	return p
}

// fill takes what is reserved and what is held out of new pools.
func (a *Allocator) fill(pools []*pool) {
	isNew := map[*pool]bool{}
	for _, p := range pools {
		isNew[p] = true
		for _, part := range p.partitions {
			for _, allowed := range part.allowed {
				for _, s := range a.reserved.overlapping(allowed) {
					part.reserve(common(s.Range, allowed))
				}
			}
		}
	}
	for address := range a.held {
		if len(pools) < 10 { // After an edit, to ask these few is quicker than the index.
			for _, p := range pools {
				p.take(address)
			}
			continue
		}
		for p := range a.poolsWith(address) {
			if isNew[p] {
				p.take(address)
			}
		}
	}
}

// arrange makes the index of the pools, and finds those that overlap.
func (a *Allocator) arrange() {
	a.ordered = a.ordered[:0]
	for _, name := range slices.Sorted(maps.Keys(a.pools)) {
		a.ordered = append(a.ordered, a.pools[name])
	}
	var spans []span
	for i, p := range a.ordered {
		p.overlaps = nil
		for _, part := range p.partitions {
			for _, r := range part.allowed {
				spans = append(spans, span{r, i})
			}
		}
	}
	a.index = newIndex(spans)
	together := map[int]map[int]bool{}
	for _, s := range a.index {
		for _, i := range s.items {
			for _, j := range s.items {
				if i != j {
					if together[i] == nil {
						together[i] = map[int]bool{}
					}
					together[i][j] = true
				}
			}
		}
	}
	for i, others := range together {
		for _, j := range slices.Sorted(maps.Keys(others)) {
			a.ordered[i].overlaps = append(a.ordered[i].overlaps, a.ordered[j].Name)
		}
	}
}

func same(a, b Pool) bool {
	return slices.Equal(a.Ranges, b.Ranges) && slices.Equal(a.Exclude, b.Exclude) && a.AvoidBuggyIPs == b.AvoidBuggyIPs && a.Stable == b.Stable
}

func ofFamily(ranges []Range, af family.Family) []Range {
	return slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return r.Family() != af })
}

func (p *pool) contains(a netip.Addr) bool {
	part, ok := p.partitions[family.Of(a)]
	return ok && part.contains(a)
}

func (p *pool) take(a netip.Addr) {
	if p.contains(a) {
		p.partitions[family.Of(a)].take(a)
	}
}

// poolsWith returns the pools that contain an address, by name.
func (a *Allocator) poolsWith(address netip.Addr) iter.Seq[*pool] {
	return func(yield func(*pool) bool) {
		for _, i := range a.index.at(address) {
			if p := a.ordered[i]; p.contains(address) && !yield(p) {
				return
			}
		}
	}
}

// takeFromPools has every pool know that an address is not free any more.
func (a *Allocator) takeFromPools(address netip.Addr) {
	for p := range a.poolsWith(address) {
		p.take(address)
	}
}

// Hold records that the Service has the address, which came from the named pool. It is how claims that exist are made
// known, before and beside Allocate, and it never fails: what the API holds is so, whether or not a pool still
// contains it. An empty pool name means the first pool, by name, that contains the address.
func (a *Allocator) Hold(service Service, address netip.Addr, pool string, sharing Sharing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if pool == "" {
		pool = a.poolOf(address)
	}
	a.hold(service, Assignment{address, pool}, sharing)
}

// HasPool reports whether there is a pool of the name.
func (a *Allocator) HasPool(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pools[name] != nil
}

// PoolOf returns the first pool, by name, that contains the address, or "".
func (a *Allocator) PoolOf(address netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.poolOf(address)
}

func (a *Allocator) poolOf(address netip.Addr) string {
	for p := range a.poolsWith(address) {
		return p.Name
	}
	return ""
}

// Record is what the allocator knows of one address.
type Record struct {
	// Pool is the one that the address was taken from or, where nobody holds it, the first by name that contains it; "" where none does.
	Pool string
	// Services hold the address, sorted by name.
	Services []Service
	// Blocked says that Block took the address.
	Blocked bool
	// Cooling says that the address was released lately, and is nil for any other. It has no Services then.
	Cooling *Cooling
}

// Lookup returns what is known of an address.
func (a *Allocator) Lookup(address netip.Addr) Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.held[address]
	if !ok || h.blocked != "" {
		return Record{Pool: a.poolOf(address), Blocked: ok}
	}
	record := Record{Pool: h.pool, Services: h.users.sorted()}
	if !h.until.IsZero() {
		record.Cooling = &Cooling{h.until, maps.Clone(h.left)}
	}
	return record
}

// Addresses returns every address that is held, blocked or cooling, in no order.
func (a *Allocator) Addresses() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.held))
}

// ReplaceDeletedPools records that the held and cooling addresses of pools that are gone belong to the first pool, by
// name, that contains them now, and returns these addresses. For example, web holds 192.0.2.1 from lan, and lan is
// replaced by office with the same ranges: the address then belongs to office.
func (a *Allocator) ReplaceDeletedPools() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	var moved []netip.Addr
	for address, h := range a.held {
		if h.blocked != "" || a.pools[h.pool] != nil {
			continue
		}
		if pool := a.poolOf(address); pool != "" {
			a.setPool(address, h, pool)
			moved = append(moved, address)
			if !h.until.IsZero() && !a.cool(address, h) {
				a.free(address)
			}
		}
	}
	return moved
}

// Block keeps an address of another owner, such as a ClusterIP, from being given, until the next SetPools or a Hold or Unblock of
// it. by names the owner, for errors.
func (a *Allocator) Block(address netip.Addr, by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h, ok := a.held[address]; ok {
		if !h.until.IsZero() {
			a.warm(address, h)
			*h = holding{blocked: by}
		}
		return
	}
	a.held[address] = &holding{blocked: by}
	a.takeFromPools(address)
}

// Unblock makes an address that Block took free again.
func (a *Allocator) Unblock(address netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h, ok := a.held[address]; ok && h.blocked != "" {
		a.free(address)
	}
}

// Held returns what the Service has, IPv4 first.
func (a *Allocator) Held(service Service) []Assignment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heldBy(service)
}

func (a *Allocator) heldBy(service Service) []Assignment {
	var held []Assignment
	for _, address := range a.byService[service] {
		held = append(held, Assignment{address, a.held[address].pool})
	}
	slices.SortFunc(held, func(x, y Assignment) int { return x.Address.Compare(y.Address) })
	return held
}

// Sharers returns the Services on the address that admit one that shares like this, sorted by name.
func (a *Allocator) Sharers(address netip.Addr, sharing Sharing) []Service {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.held[address]
	if !ok || sharing.Key == "" {
		return nil
	}
	return slices.DeleteFunc(h.users.sorted(), func(user Service) bool {
		theirs, _ := h.users.of(user)
		return sharing.Admits(theirs) != nil
	})
}

func compareServices(x, y Service) int {
	return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
}

// Release ends the Service's hold on the address at this time. It does nothing if the Service does not hold the address.
// Where no other Service holds it, the address is free, or cooling if it came from a pool with ReuseAfter; Lookup says so.
// A zero time means that no client knows the address from the Service, as where its claim could not be created: it does
// not cool.
func (a *Allocator) Release(at time.Time, service Service, address netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.held[address]
	if !ok {
		return
	}
	if _, uses := h.users.of(service); !uses {
		return
	}
	a.drop(service, address)
	if !at.IsZero() {
		a.left(h, service, at)
	}
	if h.users.n() == 0 && !a.cool(address, h) {
		a.free(address)
	}
}

// Allocate answers the request and records the outcome. On error nothing has changed, and the error wraps a
// *FamilyError for every family that could not be had. The Service's addresses in Outcome.Surplus stay held.
func (a *Allocator) Allocate(now time.Time, req Request) (Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(now)
	out, err := a.plan(req)
	if err != nil {
		return Outcome{}, err
	}
	for _, as := range out.Assigned {
		a.hold(req.Service, as, req.Sharing)
	}
	return out, nil
}

// Answer is an outcome, or why there is none.
type Answer struct {
	Outcome Outcome
	Err     error
}

// Plan returns, for each request, what Allocate would answer if it got one after the other, and changes nothing. The requests are of
// different Services. For a request the addresses that earlier ones have taken are not free. What these change about addresses that their
// Services hold already does not count, such as a sharing key, or an address that becomes surplus.
func (a *Allocator) Plan(now time.Time, reqs ...Request) []Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(now)
	answers := make([]Answer, len(reqs))
	pools := map[netip.Addr]string{} // of addresses that were cooling
	failed := map[shape]error{}
	for i, req := range reqs {
		shape, plain := a.shapeOf(req)
		if answers[i].Err = failed[shape]; plain && answers[i].Err != nil {
			continue
		}
		out, err := a.plan(req)
		answers[i] = Answer{out, err}
		if plain && err != nil {
			failed[shape] = err
		}
		for _, as := range out.Added {
			if h := a.held[as.Address]; h != nil && !h.until.IsZero() {
				pools[as.Address] = h.pool
			}
			a.hold(req.Service, as, req.Sharing)
		}
	}
	for i, req := range slices.Backward(reqs) {
		for _, as := range answers[i].Outcome.Added {
			a.drop(req.Service, as.Address)
			h := a.held[as.Address]
			if h.users.n() > 0 {
				continue
			}
			if pool, was := pools[as.Address]; was {
				h.pool = pool
			}
			if !a.cool(as.Address, h) {
				a.free(as.Address)
			}
		}
	}
	return answers
}

func (a *Allocator) plan(req Request) (Outcome, error) {
	fixed, err := fixedByFamily(req)
	if err != nil {
		return Outcome{}, err
	}
	if err := a.uncovered(req); err != nil {
		return Outcome{}, err
	}
	held := a.goesOnWith(req)
	chosen, failed := map[family.Family]Assignment{}, map[family.Family]error{}
	var open []family.Family // families for which any address will do and none is held
	for _, af := range req.Families {
		if address, ok := fixed[af]; ok {
			chosen[af], failed[af] = a.planFixed(req, address, held[af])
		} else if have, ok := held[af]; ok && a.keeps(req, have) {
			chosen[af] = have
		} else {
			open = append(open, af)
		}
	}
	for _, af := range open {
		chosen[af], failed[af] = a.planAny(req, af, a.preferred(req, open, chosen, held), held[af])
	}

	var out Outcome
	for _, af := range req.Families {
		as := chosen[af]
		if err := failed[af]; err != nil {
			out.Missing = append(out.Missing, &FamilyError{af, a.asked(req, af), err})
			// The Service keeps its address, which is better than none, although it is not the one asked for.
			if as = held[af]; !as.Address.IsValid() {
				continue
			}
		}
		out.Assigned = append(out.Assigned, as)
		if !slices.Contains(a.byService[req.Service], as.Address) {
			out.Added = append(out.Added, as)
			if refusal, ok := a.unshared(req, af); ok && slices.Contains(open, af) && a.held[as.Address] == nil {
				out.Unshared = append(out.Unshared, refusal)
			}
		} else if refusal, refused := a.refusal(req, as.Address); refused {
			out.Kept = append(out.Kept, refusal)
		}
	}
	if len(out.Missing) > 0 && (req.RequireAll || len(out.Missing) == len(req.Families)) {
		errs := make([]error, len(out.Missing))
		for i, e := range out.Missing {
			errs[i] = e
		}
		return Outcome{}, errors.Join(errs...)
	}
	for _, address := range a.byService[req.Service] {
		if !slices.ContainsFunc(out.Assigned, func(as Assignment) bool { return as.Address == address }) {
			out.Surplus = append(out.Surplus, Assignment{address, a.held[address].pool})
		}
	}
	return out, nil
}

// uncovered returns an error for an inherited address that no pool contains, where the Service wants its family and holds no address of it. For example,
// web comes from another load balancer with 198.51.100.7 in its status, and the only pool is 192.0.2.0/24.
func (a *Allocator) uncovered(req Request) error {
	if req.Reallocate {
		return nil
	}
	for _, address := range req.Inherited {
		af := family.Of(address)
		holds := slices.ContainsFunc(a.byService[req.Service], func(held netip.Addr) bool { return family.Of(held) == af })
		if slices.Contains(req.Families, af) && !holds && a.poolOf(address) == "" {
			return &FamilyError{Family: af, Err: fmt.Errorf("%w: %s was not given by Tandem, and stays. Where another load balancer "+
				"serves it still, kubectl tandem move-in takes it over; else add it to a pool to keep it, or give it up for another one by the annotation "+
				"tandem-lb.io/reallocate: \"true\" of the Service", ErrUncovered, address)}
		}
	}
	return nil
}

// goesOnWith returns the address of each family that the Service holds and would rather keep than another one that it holds.
func (a *Allocator) goesOnWith(req Request) map[family.Family]Assignment {
	held := map[family.Family]Assignment{}
	for _, have := range a.heldBy(req.Service) {
		// A Service holds two addresses of one family while its surplus has not been released, or after two leaders served it. Of the
		// two, the address that it goes on with is kept, so that asking again does not take a third, and rather the one that its
		// clients know.
		af := family.Of(have.Address)
		if other, ok := held[af]; !ok || a.rank(req, have) > a.rank(req, other) {
			held[af] = have
		}
	}
	return held
}

func fixedByFamily(req Request) (map[family.Family]netip.Addr, error) {
	if len(req.Families) == 0 {
		return nil, fmt.Errorf("%w: the Service asks for no family", ErrBadRequest)
	}
	fixed := map[family.Family]netip.Addr{}
	for _, address := range req.Addresses {
		if !address.IsValid() || address.Zone() != "" || address.Is4In6() {
			return nil, fmt.Errorf("%w: %s is not a plain IPv4 or IPv6 address", ErrBadRequest, address)
		}
		af := family.Of(address)
		if other, ok := fixed[af]; ok && other != address {
			return nil, fmt.Errorf("%w: %s and %s are both %s; ask for one address of each family", ErrBadRequest, other, address, af)
		}
		if !slices.Contains(req.Families, af) {
			return nil, fmt.Errorf("%w: %s is %s, which is not among the Service's ipFamilies", ErrBadRequest, address, af)
		}
		fixed[af] = address
	}
	return fixed, nil
}

// keeps reports whether the Service goes on with an address that it holds.
func (a *Allocator) keeps(req Request, have Assignment) bool {
	named := func(c Candidate) bool {
		p := a.pools[c.Pool]
		return c.Pool == have.Pool || p != nil && p.contains(have.Address)
	}
	if req.Named && !slices.ContainsFunc(req.Pools, named) {
		return false
	}
	if !req.Reallocate {
		return true
	}
	_, refused := a.refusal(req, have.Address)
	return !refused && !a.stranded(have) && !a.isReserved(have.Address)
}

// rank is the higher the more an address that the Service holds is the one to go on with.
func (a *Allocator) rank(req Request, have Assignment) (rank int) {
	if a.keeps(req, have) {
		rank += 2
	}
	if slices.Contains(req.Published, have.Address) {
		rank++
	}
	return rank
}

// stranded reports whether the pool that an address came from no longer contains it.
func (a *Allocator) stranded(as Assignment) bool {
	p := a.pools[as.Pool]
	return p == nil || !p.contains(as.Address)
}

func (a *Allocator) planFixed(req Request, address netip.Addr, gives Assignment) (Assignment, error) {
	pool, own := "", false
	if h, ok := a.held[address]; ok && h.users.n() > 0 {
		_, own = h.users.of(req.Service)
		pool = h.pool
	}
	if own {
		return Assignment{address, pool}, nil
	}
	if err := a.reservedError(address); err != nil {
		return Assignment{}, err
	}
	var denied error
	for _, c := range req.Pools {
		if p, ok := a.pools[c.Pool]; !ok || !p.contains(address) {
			continue
		}
		as := Assignment{address, cmp.Or(pool, c.Pool)} // All that share an address have it from one pool.
		if p := a.pools[as.Pool]; p != nil && p.FixedDenied {
			denied = fmt.Errorf("%w: pool %s has fixedAddresses Denied; do not ask for %s, or ask for one of another pool",
				ErrFixedDenied, as.Pool, address)
			continue
		}
		if err := a.available(req, address); err != nil {
			return as, err
		}
		if af := family.Of(address); !a.withinLimit(req, as.Pool, af, address, gives) {
			return as, a.limitError(req, as.Pool, af)
		}
		return as, nil
	}
	if denied != nil {
		return Assignment{}, denied
	}
	return Assignment{}, fmt.Errorf("%w: %s; ask for one from %s, or add it to one of them", ErrNotInPool, address, candidates(req.Pools))
}

// available returns nil if the Service, which does not hold the address, may have it.
func (a *Allocator) available(req Request, address netip.Addr) error {
	if err := a.reservedError(address); err != nil {
		return err
	}
	h, ok := a.held[address]
	switch {
	case !ok:
		return nil
	case h.blocked != "":
		return fmt.Errorf("%w: %s belongs to %s", ErrInUse, address, h.blocked)
	case !h.until.IsZero() && !a.mayReturn(req, h):
		return a.coolingError(address, h)
	}
	if refusal, refused := a.refusal(req, address); refused {
		return fmt.Errorf("%w: %w", ErrInUse, refusal)
	}
	if h.sharers != nil && !h.sharers.hasRoom(req.Sharing) {
		return fmt.Errorf("%w: %s has %d Services, and its IPAddress has no room to name another one", ErrInUse, address, h.users.n())
	}
	return nil
}

// preferred returns the pool to try first: the one that serves the families already chosen, or the first that can
// serve all those that are open, so that a pair comes from one pool where it can.
func (a *Allocator) preferred(req Request, open []family.Family, chosen, held map[family.Family]Assignment) string {
	for _, as := range chosen {
		if as.Pool != "" {
			return as.Pool
		}
	}
	if len(open) < 2 {
		return "" // The first pool that has the family is the one.
	}
	for _, c := range req.Pools {
		all := c.Auto
		for _, af := range open {
			if !all {
				break
			}
			_, all = a.firstIn(req, af, c.Pool, held[af])
		}
		if all {
			return c.Pool
		}
	}
	return ""
}

func (a *Allocator) planAny(req Request, af family.Family, preferred string, gives Assignment) (Assignment, error) {
	if preferred != "" && slices.Contains(req.Pools, Candidate{preferred, true}) {
		if address, ok := a.firstIn(req, af, preferred, gives); ok {
			return Assignment{address, preferred}, nil
		}
	}
	for _, c := range req.Pools {
		if !c.Auto {
			continue
		}
		if address, ok := a.firstIn(req, af, c.Pool, gives); ok {
			return Assignment{address, c.Pool}, nil
		}
	}
	return Assignment{}, a.whyNone(req, af, gives)
}

// whyNone says why no pool has an address for the request.
func (a *Allocator) whyNone(req Request, af family.Family, gives Assignment) error {
	asked := a.asked(req, af)
	auto := slices.DeleteFunc(slices.Clone(req.Pools), func(c Candidate) bool { return !c.Auto })
	for _, name := range asked {
		if !a.withinLimit(req, name, af, netip.Addr{}, gives) && a.pools[name].partitions[af].free.Len() > 0 {
			return a.limitError(req, name, af)
		}
	}
	switch {
	case len(asked) > 0:
		advice := "widen a pool or delete a Service"
		if a.coolsIn(asked) {
			// The reason names no address and no time, so that it stays the same while others cool: a new one is an event for each
			// Service that waits.
			advice = "addresses that were released wait for reuseAfter"
		}
		if refusal, ok := a.unshared(req, af); ok {
			advice += "; " + refusal.Error()
		}
		return fmt.Errorf("%w in pool %s; %s", ErrExhausted, listed(asked, len(asked)), advice)
	case len(auto) > 0:
		return fmt.Errorf("%w with %s addresses among %s; add spec.%s to one of them", ErrNoPool, af, candidates(auto),
			strings.ToLower(string(af)))
	case len(req.Pools) > 0:
		return fmt.Errorf("%w that this Service may use without naming it; name %s, or set its autoAssign", ErrNoPool, candidates(req.Pools))
	}
	return fmt.Errorf("%w that this Service may use; create an AddressPool with autoAssign, "+
		"or check its namespaceSelectors and serviceSelectors", ErrNoPool)
}

// asked returns the pools that may give the Service any address of the family.
func (a *Allocator) asked(req Request, af family.Family) []string {
	var names []string
	for _, c := range req.Pools {
		if p := a.pools[c.Pool]; c.Auto && p != nil && p.partitions[af] != nil {
			names = append(names, c.Pool)
		}
	}
	return names
}

// firstIn returns the address that the Service would get from a pool: one that it released and that is kept for it, then
// one that it may share, then a free one. gives is what it has of the family, and would give up.
func (a *Allocator) firstIn(req Request, af family.Family, name string, gives Assignment) (netip.Addr, bool) {
	p := a.pools[name]
	if p == nil || p.partitions[af] == nil {
		return netip.Addr{}, false
	}
	fits := func(address netip.Addr) bool {
		return family.Of(address) == af && p.contains(address) && !a.isReserved(address) && a.withinLimit(req, name, af, address, gives)
	}
	if address, ok := a.returning(req, fits); ok {
		return address, true
	}
	if address, ok := a.shareable(req, af, name, fits); ok {
		return address, true
	}
	if !a.withinLimit(req, name, af, netip.Addr{}, gives) {
		return netip.Addr{}, false
	}
	return p.partitions[af].first(req.Service)
}

func candidates(pools []Candidate) string {
	if len(pools) == 0 {
		return "no pool"
	}
	names := make([]string, len(pools))
	for i, c := range pools {
		names[i] = c.Pool
	}
	return "pool " + listed(names, len(names))
}

// hold records a user of an address. The caller has checked that it may be one.
func (a *Allocator) hold(service Service, as Assignment, sharing Sharing) {
	if sharing.Key == "" {
		sharing = Sharing{} // It admits no other Service, whatever its ports.
	}
	h, ok := a.held[as.Address]
	if !ok {
		h = &holding{}
		a.held[as.Address] = h
		a.takeFromPools(as.Address)
	}
	a.warm(as.Address, h)
	if h.blocked != "" {
		h.blocked = ""
	}
	old, uses := h.users.of(service)
	if !uses {
		a.byService[service] = append(a.byService[service], as.Address)
	} else if h.sharers != nil {
		h.sharers.leave(old)
	}
	if pool := as.Pool; pool != h.pool && (h.users.n() == 0 || uses && h.users.n() == 1) {
		a.setPool(as.Address, h, pool)
	}
	if h.sharers == nil && sharing.Key != "" {
		h.sharers = newSharers(as.Address)
		for user, other := range h.users.all() {
			if user != service {
				h.sharers.enter(other)
			}
		}
	}
	h.users.set(service, sharing)
	if h.sharers != nil {
		h.sharers.enter(sharing)
		a.share(h)
	}
	if !uses {
		a.countTenant(as.Address, h, service, 1)
	}
}

// setPool records the pool that an address was taken from.
func (a *Allocator) setPool(address netip.Addr, h *holding, pool string) {
	users := h.users.n() // most addresses have none yet, and to look at none would cost as much as the rest of hold
	if users > 0 {
		for user := range h.users.all() {
			a.countTenant(address, h, user, -1)
		}
	}
	if h.pool = pool; users > 0 {
		for user := range h.users.all() {
			a.countTenant(address, h, user, 1)
		}
	}
	a.share(h)
}

func (a *Allocator) drop(service Service, address netip.Addr) {
	h := a.held[address]
	a.countTenant(address, h, service, -1)
	sharing, _ := h.users.of(service)
	h.users.remove(service)
	if h.sharers != nil {
		h.sharers.leave(sharing)
		a.share(h)
		if h.users.n() == 0 {
			h.sharers = nil
		}
	}
	a.byService[service] = slices.DeleteFunc(a.byService[service], func(x netip.Addr) bool { return x == address })
	if len(a.byService[service]) == 0 {
		delete(a.byService, service)
	}
}

// free makes an address that has no users any more free, unless it is reserved.
func (a *Allocator) free(address netip.Addr) {
	delete(a.held, address)
	if a.isReserved(address) {
		return
	}
	for p := range a.poolsWith(address) {
		p.partitions[family.Of(address)].put(address)
	}
}

// Usage is how full one partition of a pool is. Counts saturate at math.MaxInt64, and so does Available wherever
// Capacity does.
type Usage struct {
	// Capacity is the number of addresses that the pool gives: not of those that are reserved.
	Capacity int64
	// Allocated is the number of them that are held or blocked, and Cooling the number of those that were released lately.
	Allocated, Cooling int64
	// Available is the number of them that are free.
	Available int64
}

// PoolUsage is the state of one pool.
type PoolUsage struct {
	// Families has an entry for each family that the pool has a partition of.
	Families map[family.Family]Usage
	// Overlaps names the pools that contain some of the same addresses, sorted. The caller must not change it.
	Overlaps []string
	// Stranded are the addresses that were taken from this pool and that it no longer contains, sorted.
	Stranded []netip.Addr
	// Reserved is what the pool contains and does not give.
	Reserved ReservedUsage
	// AtLimit names, for each family, the namespaces that have as many addresses as PerNamespace lets them have, or more, sorted.
	AtLimit map[family.Family][]string
}

// Usage returns the state of every pool, and of each pool that is gone while Services hold addresses from it, under its name.
func (a *Allocator) Usage() map[string]PoolUsage {
	a.mu.Lock()
	defer a.mu.Unlock()
	cooling := map[*partition]int64{}
	a.cooling.Ascend(func(e expiry) bool {
		if !a.isReserved(e.address) {
			for p := range a.poolsWith(e.address) {
				cooling[p.partitions[family.Of(e.address)]]++
			}
		}
		return true
	})
	usage := map[string]PoolUsage{}
	for name, p := range a.pools {
		u := PoolUsage{Families: map[family.Family]Usage{}, Overlaps: p.overlaps}
		for af, part := range p.partitions {
			f := Usage{
				Capacity: saturated(part.capacity), Allocated: int64(part.taken) - cooling[part], Cooling: cooling[part], Available: math.MaxInt64,
			}
			if part.capacity.IsInt64() {
				f.Available = f.Capacity - int64(part.taken)
			}
			u.Families[af] = f
			if reserved := saturated(new(big.Int).Sub(part.usable, part.capacity)); reserved > 0 {
				if u.Reserved.Addresses == nil {
					u.Reserved.Addresses = map[family.Family]int64{}
					u.Reserved.First = a.reservedIn(p, mostReserved)
				}
				u.Reserved.Addresses[af] = reserved
			}
		}
		usage[name] = u
	}
	a.addAtLimit(usage)
	for address, h := range a.held {
		if h.users.n() == 0 || h.pool == "" {
			continue
		}
		stranded, reserved := a.stranded(Assignment{address, h.pool}), a.isReserved(address)
		if !stranded && !reserved {
			continue
		}
		u := usage[h.pool]
		if stranded {
			u.Stranded = append(u.Stranded, address)
		}
		if reserved {
			u.Reserved.Held = append(u.Reserved.Held, address)
		}
		usage[h.pool] = u
	}
	for _, u := range usage {
		slices.SortFunc(u.Stranded, netip.Addr.Compare)
		slices.SortFunc(u.Reserved.Held, netip.Addr.Compare)
	}
	return usage
}
