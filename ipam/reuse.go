// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/btree"
)

// An address that was released to a pool with ReuseAfter is cooling: it is in held without a user, taken in all partitions, until it
// was released for so long. Meanwhile the Services that left it, and only these, can have it.

// expiry is the end of an address's cooling.
type expiry struct {
	until   time.Time
	address netip.Addr
}

func newExpiries() *btree.BTreeG[expiry] {
	return btree.NewG(16, func(a, b expiry) bool {
		if c := a.until.Compare(b.until); c != 0 {
			return c < 0
		}
		return a.address.Less(b.address)
	})
}

// Cooling is what is known of an address that was released lately.
type Cooling struct {
	// Until is when it becomes free.
	Until time.Time
	// Released says when Services left the address. These can have it back as long as that is not longer ago than ReuseAfter.
	Released map[Service]time.Time
}

// Released records that the Service gave up the address, which was taken from the named pool, at this time. It is how a caller makes known,
// after a restart, what it wrote down when Release left an address cooling. Call it after SetPools: where the pool does not exist, has no
// ReuseAfter, or the time has passed by the next Allocate, the address is free.
func (a *Allocator) Released(service Service, address netip.Addr, pool string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.held[address]
	if h == nil {
		h = &holding{pool: pool}
		a.held[address] = h
		a.takeFromPools(address)
	}
	a.warm(address, h)
	a.left(h, service, at)
	if h.users.n() == 0 && h.blocked == "" && !a.cool(address, h) {
		a.free(address)
	}
}

// left records that a Service left an address of a pool that has ReuseAfter.
func (a *Allocator) left(h *holding, service Service, at time.Time) {
	wait := a.reuseAfter(h.pool)
	if wait == 0 {
		return
	}
	if h.left == nil {
		h.left = map[Service]time.Time{}
	}
	for other, when := range h.left {
		if at.Sub(when) >= wait {
			delete(h.left, other)
		}
	}
	if at.After(h.left[service]) {
		h.left[service] = at
	}
}

// ReuseAfter returns how long a released address of the pool waits; zero where there is no such pool.
func (a *Allocator) ReuseAfter(pool string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reuseAfter(pool)
}

func (a *Allocator) reuseAfter(pool string) time.Duration {
	if p := a.pools[pool]; p != nil {
		return p.ReuseAfter
	}
	return 0
}

// cool has an address that lost its last user wait, if it has to. It reports whether it does.
func (a *Allocator) cool(address netip.Addr, h *holding) bool {
	a.warm(address, h)
	wait := a.reuseAfter(h.pool)
	if wait == 0 || len(h.left) == 0 {
		return false
	}
	for service, at := range h.left {
		if until := at.Add(wait); until.After(h.until) {
			h.until = until
		}
		a.leftBy[service] = append(a.leftBy[service], address)
	}
	a.cooling.ReplaceOrInsert(expiry{h.until, address})
	return true
}

// warm ends the cooling of an address, as where a Service takes it back. What its pool knows of it stays as it is.
func (a *Allocator) warm(address netip.Addr, h *holding) {
	if h.until.IsZero() {
		return
	}
	a.cooling.Delete(expiry{h.until, address})
	h.until = time.Time{}
	for service := range h.left {
		a.leftBy[service] = slices.DeleteFunc(a.leftBy[service], func(x netip.Addr) bool { return x == address })
		if len(a.leftBy[service]) == 0 {
			delete(a.leftBy, service)
		}
	}
}

// coolAgain makes pools' changed ReuseAfter count for what is cooling. The addresses of a pool that has no ReuseAfter any more become free.
// Those of a pool that is gone go on as they are, since it may be about to be made again.
func (a *Allocator) coolAgain() {
	var all []netip.Addr
	a.cooling.Ascend(func(e expiry) bool { all = append(all, e.address); return true })
	for _, address := range all {
		if h := a.held[address]; a.pools[h.pool] != nil && !a.cool(address, h) {
			a.free(address)
		}
	}
}

// expire frees the addresses that have been cooling long enough, and reports whether there were any.
func (a *Allocator) expire(now time.Time) (freed bool) {
	a.now = now
	for {
		next, ok := a.cooling.Min()
		if !ok || next.until.After(now) {
			return freed
		}
		a.warm(next.address, a.held[next.address])
		a.free(next.address)
		freed = true
	}
}

// NextExpiry returns when the next address will have been cooling long enough, so that the caller can wake the Services that wait for an
// address. ok is false where none is cooling.
func (a *Allocator) NextExpiry() (at time.Time, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, ok := a.cooling.Min()
	return next.until, ok
}

// mayReturn reports whether the Service may have an address that is cooling.
func (a *Allocator) mayReturn(req Request, h *holding) bool {
	at, was := h.left[req.Service]
	return was && at.Add(a.reuseAfter(h.pool)).After(a.now)
}

// coolingError says how long an address is kept, and for which Services.
func (a *Allocator) coolingError(address netip.Addr, h *holding) error {
	var names []string
	for service := range h.left {
		names = append(names, service.String())
	}
	slices.Sort(names)
	return fmt.Errorf("%w: %s is kept until %s for Service %s, which released it", ErrReleased, address, h.until.UTC().Format(time.RFC3339),
		listed(names, len(names)))
}

// returning returns the address of the pool that the Service released last of those that are kept for it and fit.
func (a *Allocator) returning(req Request, fits func(netip.Addr) bool) (netip.Addr, bool) {
	var best netip.Addr
	if a.cooling.Len() == 0 {
		return best, false
	}
	for _, address := range a.leftBy[req.Service] {
		h := a.held[address]
		if !fits(address) || !a.mayReturn(req, h) {
			continue
		}
		if c := h.left[req.Service].Compare(latest(a.held[best], req.Service)); !best.IsValid() || c > 0 || c == 0 && address.Less(best) {
			best = address
		}
	}
	return best, best.IsValid()
}

func latest(h *holding, service Service) time.Time {
	if h == nil {
		return time.Time{}
	}
	return h.left[service]
}

// coolsIn reports whether an address of one of the pools is cooling, and can be given afterwards.
func (a *Allocator) coolsIn(pools []string) (found bool) {
	a.cooling.Ascend(func(e expiry) bool {
		for p := range a.poolsWith(e.address) {
			found = found || slices.Contains(pools, p.Name) && !a.isReserved(e.address)
		}
		return !found
	})
	return found
}
