// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tandem-lb/tandem/ipam/family"
)

// The reasons why a family of a request cannot be met. Each error that Allocate returns wraps one or more of them.
var (
	ErrNoPool     = errors.New("no pool")
	ErrExhausted  = errors.New("no free address")
	ErrNotInPool  = errors.New("address is in no pool the Service may use")
	ErrInUse      = errors.New("address is in use")
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
	// Reallocate lets stranded addresses go: those that the pool they came from no longer contains.
	Reallocate bool
	// Sharing says with which Services an address may be shared. The zero value shares with none.
	Sharing Sharing
}

// Candidate is a pool that may serve a request.
type Candidate struct {
	Pool string
	// Auto reports whether an address may be chosen from the pool; without it the pool gives only addresses asked
	// for by name.
	Auto bool
}

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

// Assignment is an address and the pool that it was taken from.
type Assignment struct {
	Address netip.Addr
	Pool    string
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
}

// holding is an address that is not free.
type holding struct {
	pool    string // that the first of the users took it from
	users   map[Service]Sharing
	blocked string // the owner of a blocked address, which has no users
}

// Allocator knows the pools, and which Services hold which address. It is safe for concurrent use; requests of one Service must
// not run at the same time.
type Allocator struct {
	mu sync.Mutex
	// mu guards all following fields.
	pools     map[string]*pool
	held      map[netip.Addr]*holding
	byService map[Service][]netip.Addr
	byKey     map[string][]netip.Addr // sharing key -> addresses, in the order in which they were given
}

type pool struct {
	Pool
	partitions map[family.Family]*partition
}

// New returns an allocator without pools.
func New() *Allocator {
	return &Allocator{
		pools:     map[string]*pool{},
		held:      map[netip.Addr]*holding{},
		byService: map[Service][]netip.Addr{},
		byKey:     map[string][]netip.Addr{},
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
	for _, want := range pools {
		if have, ok := a.pools[want.Name]; ok && same(have.Pool, want) {
			kept[want.Name] = have
			continue
		}
		p := &pool{Pool: want, partitions: map[family.Family]*partition{}}
		for _, af := range family.All {
			if own := ofFamily(want.Ranges, af); len(own) > 0 {
				p.partitions[af] = newPartition(own, ofFamily(want.Exclude, af), want.AvoidBuggyIPs, want.Stable)
			}
		}
		kept[want.Name] = p
		for address := range a.held {
			p.take(address)
		}
	}
	a.pools = kept
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

// PoolOf returns the first pool, by name, that contains the address, or "".
func (a *Allocator) PoolOf(address netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.poolOf(address)
}

func (a *Allocator) poolOf(address netip.Addr) string {
	for _, name := range slices.Sorted(maps.Keys(a.pools)) {
		if a.pools[name].contains(address) {
			return name
		}
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
}

// Lookup returns what is known of an address.
func (a *Allocator) Lookup(address netip.Addr) Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.held[address]
	if !ok || h.blocked != "" {
		return Record{Pool: a.poolOf(address), Blocked: ok}
	}
	return Record{Pool: h.pool, Services: slices.SortedFunc(maps.Keys(h.users), compareServices)}
}

// Addresses returns every address that is held or blocked, in no order.
func (a *Allocator) Addresses() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.held))
}

// ReplaceDeletedPools records that the held addresses of pools that are gone belong to the first pool, by name, that contains them now, and
// returns these addresses. For example, web holds 192.0.2.1 from lan, and lan is replaced by office with the same ranges: the address then
// belongs to office.
func (a *Allocator) ReplaceDeletedPools() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	var moved []netip.Addr
	for address, h := range a.held {
		if h.blocked != "" || a.pools[h.pool] != nil {
			continue
		}
		if pool := a.poolOf(address); pool != "" {
			h.pool = pool
			moved = append(moved, address)
		}
	}
	return moved
}

// Block keeps an address of another owner, such as a ClusterIP, from being given, until the next SetPools or a Hold or Unblock of
// it. by names the owner, for errors.
func (a *Allocator) Block(address netip.Addr, by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.held[address]; ok {
		return
	}
	a.held[address] = &holding{blocked: by}
	for _, p := range a.pools {
		p.take(address)
	}
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

// Sharers returns the Services that hold the address with this sharing key, sorted by name; none for an empty key.
func (a *Allocator) Sharers(address netip.Addr, key string) []Service {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.held[address]
	if !ok || key == "" {
		return nil
	}
	users := slices.SortedFunc(maps.Keys(h.users), compareServices)
	return slices.DeleteFunc(users, func(user Service) bool { return h.users[user].Key != key })
}

func compareServices(x, y Service) int {
	return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
}

// Release ends the Service's hold on the address, and frees the address where no other Service holds it. It does nothing if the Service
// does not hold the address.
func (a *Allocator) Release(service Service, address netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.release(service, address)
}

func (a *Allocator) release(service Service, address netip.Addr) {
	h, ok := a.held[address]
	if !ok {
		return
	}
	if _, uses := h.users[service]; !uses {
		return
	}
	a.drop(service, address)
	if len(h.users) == 0 {
		a.free(address)
	}
}

// Allocate answers the request and records the outcome. On error nothing has changed, and the error wraps a
// *FamilyError for every family that could not be had. The Service's addresses in Outcome.Surplus stay held.
func (a *Allocator) Allocate(req Request) (Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out, err := a.plan(req)
	if err != nil {
		return Outcome{}, err
	}
	for _, as := range out.Assigned {
		// A Service may keep an address that its new key or ports forbid, because there is no other. The address stays recorded with
		// the old key and ports, since the Services that share it have changed nothing that should make them move.
		if a.available(req, as.Address) == nil {
			a.hold(req.Service, as, req.Sharing)
		}
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
func (a *Allocator) Plan(reqs ...Request) []Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	answers := make([]Answer, len(reqs))
	for i, req := range reqs {
		out, err := a.plan(req)
		answers[i] = Answer{out, err}
		for _, as := range out.Added {
			a.hold(req.Service, as, req.Sharing)
		}
	}
	for i, req := range slices.Backward(reqs) {
		for _, as := range answers[i].Outcome.Added {
			a.release(req.Service, as.Address)
		}
	}
	return answers
}

func (a *Allocator) plan(req Request) (Outcome, error) {
	fixed, err := fixedByFamily(req)
	if err != nil {
		return Outcome{}, err
	}
	held := map[family.Family]Assignment{}
	for _, have := range a.heldBy(req.Service) {
		// A Service holds two addresses of one family while its surplus has not been released. Of the two, the address that it goes on
		// with is kept, so that asking again does not take a third.
		af := family.Of(have.Address)
		if other, ok := held[af]; !ok || !a.keeps(req, other) && a.keeps(req, have) {
			held[af] = have
		}
	}

	chosen, failed := map[family.Family]Assignment{}, map[family.Family]error{}
	var open []family.Family // families for which any address will do and none is held
	for _, af := range req.Families {
		if address, ok := fixed[af]; ok {
			chosen[af], failed[af] = a.planFixed(req, address)
		} else if have, ok := held[af]; ok && a.keeps(req, have) {
			chosen[af] = have
		} else {
			open = append(open, af)
		}
	}
	for _, af := range open {
		chosen[af], failed[af] = a.planAny(req, af, a.preferred(req, open, chosen))
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
	if req.Reallocate && a.stranded(have) {
		return false
	}
	return a.available(req, have.Address) == nil
}

// stranded reports whether the pool that an address came from no longer contains it.
func (a *Allocator) stranded(as Assignment) bool {
	p := a.pools[as.Pool]
	return p == nil || !p.contains(as.Address)
}

func (a *Allocator) planFixed(req Request, address netip.Addr) (Assignment, error) {
	pool, own := "", false
	if h, ok := a.held[address]; ok {
		_, own = h.users[req.Service]
		pool = h.pool
	}
	if own && a.available(req, address) == nil {
		return Assignment{address, pool}, nil
	}
	for _, c := range req.Pools {
		if p, ok := a.pools[c.Pool]; ok && p.contains(address) {
			// All that share an address have it from one pool.
			return Assignment{address, cmp.Or(pool, c.Pool)}, a.available(req, address)
		}
	}
	return Assignment{}, fmt.Errorf("%w: %s; ask for one from %s, or add it to one of them", ErrNotInPool, address, candidates(req.Pools))
}

// available returns nil if the Service may have, or go on having, the address.
func (a *Allocator) available(req Request, address netip.Addr) error {
	h, ok := a.held[address]
	if !ok {
		return nil
	}
	if h.blocked != "" {
		return fmt.Errorf("%w: %s belongs to %s", ErrInUse, address, h.blocked)
	}
	for _, user := range slices.SortedFunc(maps.Keys(h.users), compareServices) {
		if user == req.Service {
			continue
		}
		if why := req.Sharing.Admits(h.users[user]); why != nil {
			return fmt.Errorf("%w: Service %s has %s %w", ErrInUse, user, address, why)
		}
	}
	return nil
}

// preferred returns the pool to try first: the one that serves the families already chosen, or the first that can
// serve all those that are open, so that a pair comes from one pool where it can.
func (a *Allocator) preferred(req Request, open []family.Family, chosen map[family.Family]Assignment) string {
	for _, as := range chosen {
		if as.Pool != "" {
			return as.Pool
		}
	}
	for _, c := range req.Pools {
		all := c.Auto
		for _, af := range open {
			_, ok := a.firstIn(req, af, c.Pool)
			all = all && ok
		}
		if all {
			return c.Pool
		}
	}
	return ""
}

func (a *Allocator) planAny(req Request, af family.Family, preferred string) (Assignment, error) {
	best := Assignment{}
	for _, c := range req.Pools {
		if !c.Auto {
			continue
		}
		address, ok := a.firstIn(req, af, c.Pool)
		if ok && (c.Pool == preferred || !best.Address.IsValid()) {
			best = Assignment{address, c.Pool}
		}
	}
	if best.Address.IsValid() {
		return best, nil
	}
	asked := a.asked(req, af)
	auto := slices.DeleteFunc(slices.Clone(req.Pools), func(c Candidate) bool { return !c.Auto })
	switch {
	case len(asked) > 0:
		return best, fmt.Errorf("%w in pool %s; widen a pool or delete a Service", ErrExhausted, strings.Join(asked, ", "))
	case len(auto) > 0:
		return best, fmt.Errorf("%w with %s addresses among %s; add spec.%s to one of them", ErrNoPool, af, candidates(auto),
			strings.ToLower(string(af)))
	case len(req.Pools) > 0:
		return best, fmt.Errorf("%w that this Service may use without naming it; name %s, or set its autoAssign",
			ErrNoPool, candidates(req.Pools))
	}
	return best, fmt.Errorf("%w that this Service may use; create an AddressPool with autoAssign, "+
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

// firstIn returns the address that the Service would get from a pool: one that it may share before a free one.
func (a *Allocator) firstIn(req Request, af family.Family, name string) (netip.Addr, bool) {
	p := a.pools[name]
	if p == nil || p.partitions[af] == nil {
		return netip.Addr{}, false
	}
	if req.Sharing.Key != "" {
		for _, address := range a.byKey[req.Sharing.Key] {
			if family.Of(address) == af && a.held[address].pool == name && p.contains(address) && a.available(req, address) == nil {
				return address, true
			}
		}
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
	return "pool " + strings.Join(names, ", ")
}

// hold records a user of an address. The caller has checked that it may be one.
func (a *Allocator) hold(service Service, as Assignment, sharing Sharing) {
	h, ok := a.held[as.Address]
	if !ok {
		h = &holding{users: map[Service]Sharing{}}
		a.held[as.Address] = h
		for _, p := range a.pools {
			p.take(as.Address)
		}
	}
	if h.blocked != "" {
		h.blocked, h.users = "", map[Service]Sharing{}
	}
	old, uses := h.users[service]
	if !uses {
		a.byService[service] = append(a.byService[service], as.Address)
	} else if old.Key != sharing.Key {
		a.unindex(old.Key, as.Address, service)
	}
	if len(h.users) == 0 || uses && len(h.users) == 1 {
		h.pool = as.Pool
	}
	h.users[service] = sharing
	if sharing.Key != "" && !slices.Contains(a.byKey[sharing.Key], as.Address) {
		a.byKey[sharing.Key] = append(a.byKey[sharing.Key], as.Address)
	}
}

func (a *Allocator) drop(service Service, address netip.Addr) {
	h := a.held[address]
	key := h.users[service].Key
	a.unindex(key, address, service)
	delete(h.users, service)
	a.byService[service] = slices.DeleteFunc(a.byService[service], func(x netip.Addr) bool { return x == address })
	if len(a.byService[service]) == 0 {
		delete(a.byService, service)
	}
}

// unindex removes the address from the sharing key's list, unless another user has the same key.
func (a *Allocator) unindex(key string, address netip.Addr, except Service) {
	if key == "" {
		return
	}
	for user, sharing := range a.held[address].users {
		if user != except && sharing.Key == key {
			return
		}
	}
	a.byKey[key] = slices.DeleteFunc(a.byKey[key], func(x netip.Addr) bool { return x == address })
	if len(a.byKey[key]) == 0 {
		delete(a.byKey, key)
	}
}

func (a *Allocator) free(address netip.Addr) {
	delete(a.held, address)
	for _, p := range a.pools {
		if p.contains(address) {
			p.partitions[family.Of(address)].put(address)
		}
	}
}

// Usage is how full one partition of a pool is. Counts saturate at math.MaxInt64, and so does Available wherever
// Capacity does.
type Usage struct {
	Capacity, Allocated, Available int64
}

// PoolUsage is the state of one pool.
type PoolUsage struct {
	// Families has an entry for each family that the pool has a partition of.
	Families map[family.Family]Usage
	// Overlaps names the pools that contain some of the same addresses, sorted.
	Overlaps []string
	// Stranded are the addresses that were taken from this pool and that it no longer contains, sorted.
	Stranded []netip.Addr
}

// Usage returns the state of every pool, and of each pool that is gone while Services hold addresses from it, under its name.
func (a *Allocator) Usage() map[string]PoolUsage {
	a.mu.Lock()
	defer a.mu.Unlock()
	usage := map[string]PoolUsage{}
	for name, p := range a.pools {
		u := PoolUsage{Families: map[family.Family]Usage{}}
		for af, part := range p.partitions {
			f := Usage{Capacity: int64(part.capacity), Allocated: int64(part.taken), Available: math.MaxInt64}
			if part.capacity < math.MaxInt64 {
				f.Available = f.Capacity - f.Allocated
			}
			u.Families[af] = f
		}
		for other, o := range a.pools {
			if other != name && p.overlaps(o) {
				u.Overlaps = append(u.Overlaps, other)
			}
		}
		slices.Sort(u.Overlaps)
		usage[name] = u
	}
	for address, h := range a.held {
		if h.pool != "" && a.stranded(Assignment{address, h.pool}) {
			u := usage[h.pool]
			u.Stranded = append(u.Stranded, address)
			usage[h.pool] = u
		}
	}
	for _, u := range usage {
		slices.SortFunc(u.Stranded, netip.Addr.Compare)
	}
	return usage
}

func (p *pool) overlaps(o *pool) bool {
	for af, mine := range p.partitions {
		theirs := o.partitions[af]
		if theirs == nil {
			continue
		}
		for _, r := range mine.allowed {
			if slices.ContainsFunc(theirs.allowed, r.Overlaps) {
				return true
			}
		}
	}
	return false
}
