// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/ipam/family"
)

// tenant is a namespace, as far as one pool and family go.
type tenant struct {
	pool, namespace string
	family          family.Family
}

// countTenants counts afresh what each namespace has of the pools with limits.
func (a *Allocator) countTenants() {
	clear(a.tenants)
	a.limited = slices.ContainsFunc(a.ordered, func(p *pool) bool { return len(p.PerNamespace) > 0 })
	if !a.limited {
		return
	}
	for address, h := range a.held {
		for user := range h.users.all() {
			a.countTenant(address, h, user, 1)
		}
	}
}

// countTenant adds a user of an address to what its namespace has, or takes it away. It does nothing where the pool of the address has
// no limit.
func (a *Allocator) countTenant(address netip.Addr, h *holding, user Service, n int) {
	if !a.limited {
		return
	}
	if p := a.pools[h.pool]; p == nil || len(p.PerNamespace) == 0 {
		return
	}
	t := tenant{h.pool, user.Namespace, family.Of(address)}
	if a.tenants[t] == nil {
		a.tenants[t] = map[netip.Addr]int{}
	}
	if a.tenants[t][address] += n; a.tenants[t][address] <= 0 {
		delete(a.tenants[t], address)
	}
	if len(a.tenants[t]) == 0 {
		delete(a.tenants, t)
	}
}

// Limit returns how many addresses of a family the Services of one namespace can have from the pool, if that is limited.
func (a *Allocator) Limit(pool string, af family.Family) (limit int, limited bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pools[pool]; p != nil {
		limit, limited = p.PerNamespace[af]
	}
	return limit, limited
}

// withinLimit reports whether the namespace of the Service may have the address from the pool, or one address more where
// it is the zero address. An address that the Service has from the pool, and that it would give up for the other, does
// not count, so that a namespace at its limit can still move from one address to another.
func (a *Allocator) withinLimit(req Request, pool string, af family.Family, address netip.Addr, gives Assignment) bool {
	p := a.pools[pool]
	if p == nil {
		return true
	}
	limit, limited := p.PerNamespace[af]
	if !limited {
		return true
	}
	has := a.tenants[tenant{pool, req.Service.Namespace, af}]
	n := len(has)
	if has[gives.Address] == 1 {
		n--
	}
	return has[address] > 0 || n < limit
}

// limitError says what the namespace of the Service has of the pool. It names a few addresses, and none of many: each
// new text is an event for each Service that waits, and some of many change all the time.
func (a *Allocator) limitError(req Request, pool string, af family.Family) error {
	has := a.tenants[tenant{pool, req.Service.Namespace, af}]
	var names []string
	if len(has) <= mostNamed {
		for _, address := range slices.SortedFunc(maps.Keys(has), netip.Addr.Compare) {
			users := a.held[address].users.sorted()
			i := slices.IndexFunc(users, func(user Service) bool { return user.Namespace == req.Service.Namespace })
			names = append(names, fmt.Sprintf("%s (Service %s)", address, users[i].Name))
		}
	}
	those := strings.Join(names, ", ")
	if those != "" {
		those = ": " + those
	}
	return fmt.Errorf("%w: namespace %s has %d of %d %s addresses of pool %s%s; delete one of its Services or raise limits.perNamespace",
		ErrLimit, req.Service.Namespace, len(has), a.pools[pool].PerNamespace[af], af, pool, those)
}

// addAtLimit fills in PoolUsage.AtLimit.
func (a *Allocator) addAtLimit(usage map[string]PoolUsage) {
	for t, has := range a.tenants {
		limit, limited := a.pools[t.pool].PerNamespace[t.family]
		if !limited || len(has) < limit {
			continue
		}
		u := usage[t.pool]
		if u.AtLimit == nil {
			u.AtLimit = map[family.Family][]string{}
		}
		u.AtLimit[t.family] = append(u.AtLimit[t.family], t.namespace)
		usage[t.pool] = u
	}
	for _, u := range usage {
		for _, namespaces := range u.AtLimit {
			slices.Sort(namespaces)
		}
	}
}

// mostNamed is how many things an error names.
const mostNamed = 5

// listed joins the first names, and counts the rest of all.
func listed(names []string, all int) string {
	text := strings.Join(names[:min(len(names), mostNamed)], ", ")
	if more := all - mostNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
