// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

var (
	web   = Service{"default", "web"}
	other = Service{"default", "other"}
	third = Service{"default", "third"}
)

// noon is when the tests ask, where the time does not matter.
var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// makePool makes a pool of the ranges, of either family, separated by spaces.
func makePool(name, in string) Pool { return Pool{Name: name, Ranges: ranges(in)} }

// withPools returns an allocator with the pools.
func withPools(pools ...Pool) *Allocator {
	a := New()
	a.SetPools(pools)
	return a
}

// auto lists pools that may be chosen from.
func auto(names ...string) []Candidate {
	var pools []Candidate
	for _, name := range names {
		pools = append(pools, Candidate{Pool: name, Auto: true})
	}
	return pools
}

// state writes down all that an allocator knows. Two equal states mean that nothing has changed.
func state(a *Allocator) string {
	var lines []string
	for name, p := range a.pools {
		for af, part := range p.partitions {
			lines = append(lines, fmt.Sprintf("pool %s %s: taken %d, free %s", name, af, part.taken, text(part.runs())))
		}
	}
	for address, h := range a.held {
		lines = append(lines, fmt.Sprintf("held %s: pool %q, blocked %q, users %v, cooling until %s", address, h.pool, h.blocked, maps.Collect(h.users.all()), h.until))
	}
	for service, addresses := range a.byService {
		lines = append(lines, fmt.Sprintf("service %s: %s", service, addresses))
	}
	for key, g := range a.groups {
		for namespace, spot := range g.spots {
			line := fmt.Sprintf("group %v in %s: %d addresses in %d sets, ports %v:", key, namespace, spot.addresses, len(spot.sets), spot.ports)
			g.all.Ascend(func(s *sharers) bool {
				if s.spot == spot {
					line += fmt.Sprintf(" %s %v", s.address, s.ports)
				}
				return true
			})
			lines = append(lines, line)
		}
	}
	for t, has := range a.tenants {
		lines = append(lines, fmt.Sprintf("tenant %v: %v", t, has))
	}
	for service, addresses := range a.leftBy {
		slices.SortFunc(addresses, netip.Addr.Compare)
		lines = append(lines, fmt.Sprintf("service %s left %s", service, addresses))
	}
	a.cooling.Ascend(func(e expiry) bool { lines = append(lines, fmt.Sprintf("cooling %v", e)); return true })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// checkConsistent checks that the fields of an allocator agree.
func checkConsistent(a *Allocator) error {
	byService, byKey := map[Service][]netip.Addr{}, map[string][]netip.Addr{}
	tenants, leftBy := map[tenant]map[netip.Addr]int{}, map[Service][]netip.Addr{}
	coolingCount := 0
	for address, h := range a.held {
		cooling := !h.until.IsZero()
		if _, listed := a.cooling.Get(expiry{h.until, address}); listed != cooling {
			return fmt.Errorf("%s is cooling until %s, in the tree: %v", address, h.until, listed)
		}
		if cooling {
			coolingCount++
			for service := range h.left {
				leftBy[service] = append(leftBy[service], address)
			}
		}
		if states := count01(h.blocked != "") + count01(h.users.n() > 0) + count01(cooling); states != 1 {
			return fmt.Errorf("%s is blocked by %q, has users %v and is cooling until %s", address, h.blocked, maps.Collect(h.users.all()), h.until)
		}
		alike := map[[2]string]bool{} // keys and backends
		ports := map[Port]int{}
		first := "" // namespace
		for user, sharing := range h.users.all() {
			byService[user] = append(byService[user], address)
			if len(alike) == 0 || sharing.Namespace < first {
				first = sharing.Namespace
			}
			alike[[2]string{sharing.Key, sharing.Backends}] = true
			for _, p := range sharing.Ports {
				ports[p]++
			}
			if p := a.pools[h.pool]; p != nil && len(p.PerNamespace) > 0 {
				t := tenant{h.pool, user.Namespace, family.Of(address)}
				if tenants[t] == nil {
					tenants[t] = map[netip.Addr]int{}
				}
				tenants[t][address]++
			}
		}
		if h.sharers != nil {
			if diff := gocmp.Diff(ports, h.sharers.ports); diff != "" {
				return fmt.Errorf("ports of %s (-want +got):\n%s", address, diff)
			}
		}
		for k := range alike {
			if len(alike) == 1 && k[0] != "" {
				where := fmt.Sprint(groupKey{k[0], h.pool, family.Of(address)}, first)
				byKey[where] = append(byKey[where], address)
			}
		}
	}
	if coolingCount != a.cooling.Len() {
		return fmt.Errorf("%d addresses are cooling, and the tree has %d", coolingCount, a.cooling.Len())
	}
	groups := map[string][]netip.Addr{}
	for key, g := range a.groups {
		for namespace, spot := range g.spots {
			where := fmt.Sprint(key, namespace)
			ports := map[Port]int{}
			for k, set := range spot.sets {
				set.Ascend(func(s *sharers) bool {
					groups[where] = append(groups[where], s.address)
					for p := range s.ports {
						ports[p]++
					}
					if !g.all.Has(s) || s.group != g || s.spot != spot || s.setKey != k || a.held[s.address].sharers != s {
						groups[where] = append(groups[where], netip.Addr{}) // is found below
					}
					return true
				})
			}
			if diff := gocmp.Diff(ports, spot.ports); diff != "" || spot.addresses != len(groups[where]) {
				return fmt.Errorf("%s has %d addresses, %s; ports (-want +got):\n%s", where, spot.addresses, groups[where], diff)
			}
		}
	}
	sorted := gocmp.Transformer("sorted", func(in []netip.Addr) []string {
		out := make([]string, len(in))
		for i, address := range in {
			out[i] = address.String()
		}
		slices.Sort(out)
		return out
	})
	if diff := gocmp.Diff(byService, a.byService, sorted); diff != "" {
		return fmt.Errorf("addresses by Service (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(byKey, groups, sorted); diff != "" {
		return fmt.Errorf("addresses by sharing key (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(tenants, a.tenants, compareAddr); diff != "" {
		return fmt.Errorf("addresses by namespace (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(leftBy, a.leftBy, sorted); diff != "" {
		return fmt.Errorf("cooling addresses by Service (-want +got):\n%s", diff)
	}
	for name, p := range a.pools {
		for af, part := range p.partitions {
			var taken uint64
			free := new(big.Int)
			for address := range a.held {
				if part.contains(address) && !a.isReserved(address) {
					taken++
					if run, ok := part.runAtOrBefore(address); ok && run.Contains(address) {
						return fmt.Errorf("%s is held, and free in %s", address, name)
					}
				}
			}
			for _, run := range part.runs() {
				free.Add(free, part.usableIn(run))
				for _, s := range a.reserved.overlapping(run) {
					if cut, usable := part.trim(common(s.Range, run)); usable {
						return fmt.Errorf("%s is reserved, and free in %s", cut, name)
					}
				}
			}
			if part.taken != taken || free.Add(free, new(big.Int).SetUint64(taken)).Cmp(part.capacity) != 0 {
				return fmt.Errorf("pool %s %s: taken %d of %d, free and held %d; held %d", name, af, part.taken, part.capacity, free, taken)
			}
		}
	}
	return nil
}

func count01(is bool) int {
	if is {
		return 1
	}
	return 0
}

// describe writes an outcome as the tables do: assigned, then what is special.
func describe(out Outcome, err error) string {
	if err != nil {
		for _, known := range []error{ErrBadRequest, ErrNotInPool, ErrInUse, ErrExhausted, ErrNoPool, ErrReserved, ErrLimit, ErrFixedDenied, ErrReleased, ErrUncovered} {
			if errors.Is(err, known) {
				return "error: " + known.Error()
			}
		}
		return "error: " + err.Error()
	}
	var words []string
	list := func(what string, assignments []Assignment) {
		for _, as := range assignments {
			words = append(words, strings.TrimSpace(what+" "+as.Address.String()+"@"+as.Pool))
		}
	}
	list("", out.Assigned)
	list("added", out.Added)
	list("surplus", out.Surplus)
	for _, kept := range out.Kept {
		words = append(words, fmt.Sprintf("kept %s beside %s", kept.Address, kept.By.Name))
	}
	for _, unshared := range out.Unshared {
		words = append(words, fmt.Sprintf("not shared %s with %s", unshared.Address, unshared.By))
	}
	for _, missing := range out.Missing {
		words = append(words, fmt.Sprintf("missing %s (%s)", missing.Family, strings.TrimPrefix(describe(Outcome{}, missing), "error: ")))
	}
	return strings.Join(words, ", ")
}

// allocate makes the request and checks what holds for every request: on error nothing has changed, what Plan says
// Allocate does, asking again changes nothing, and the allocator agrees with itself.
func allocate(t *testing.T, a *Allocator, req Request) (Outcome, error) {
	t.Helper()
	return allocateAt(t, a, noon, req)
}

func allocateAt(t *testing.T, a *Allocator, now time.Time, req Request) (Outcome, error) {
	t.Helper()
	a.expire(now)
	before := state(a)
	plan := a.Plan(now, req)[0]
	if diff := gocmp.Diff(before, state(a)); diff != "" {
		t.Errorf("Plan(%+v) changed the allocator (-before +after):\n%s", req, diff)
	}
	out, err := a.Allocate(now, req)
	if describe(plan.Outcome, plan.Err) != describe(out, err) {
		t.Errorf("Plan said %s; Allocate did %s", describe(plan.Outcome, plan.Err), describe(out, err))
	}
	if diff := gocmp.Diff(before, state(a)); err != nil && diff != "" {
		t.Errorf("Allocate(%+v) changed something and ended with %v (-before +after):\n%s", req, err, diff)
	}
	if err == nil {
		after := state(a)
		again, err := a.Allocate(now, req)
		out := out
		out.Added, out.Unshared = nil, nil
		if describe(again, err) != describe(out, nil) {
			t.Errorf("Allocate(%+v) did %s, and asked again %s", req, describe(out, nil), describe(again, err))
		}
		if diff := gocmp.Diff(after, state(a)); diff != "" {
			t.Errorf("asking again changed something (-before +after):\n%s", diff)
		}
	}
	if err := checkConsistent(a); err != nil {
		t.Error(err)
	}
	return out, err
}

// Every policy with every order of families, every kind of pools and everything that the Service may have had before,
// against rules that know nothing of how the allocator works.
func TestAllocateFamilies(t *testing.T) {
	const (
		v4Range, v6Range = "192.0.2.1-192.0.2.4", "2001:db8::1-2001:db8::4"
		held4, held6     = "192.0.2.3", "2001:db8::3"
	)
	orders := [][]family.Family{{family.IPv4}, {family.IPv6}, {family.IPv4, family.IPv6}, {family.IPv6, family.IPv4}}
	pools := []struct {
		name      string
		pools     []Pool
		has       map[family.Family]string // the pool that has free addresses of the family
		exhausted family.Family
	}{
		{name: "no pool"},
		{name: "only IPv4", pools: []Pool{makePool("v4", v4Range)}, has: map[family.Family]string{family.IPv4: "v4"}},
		{name: "only IPv6", pools: []Pool{makePool("v6", v6Range)}, has: map[family.Family]string{family.IPv6: "v6"}},
		{name: "both in one pool", pools: []Pool{makePool("both", v4Range+" "+v6Range)}, has: map[family.Family]string{family.IPv4: "both", family.IPv6: "both"}},
		{
			name: "one pool for each family", pools: []Pool{makePool("v4", v4Range), makePool("v6", v6Range)},
			has: map[family.Family]string{family.IPv4: "v4", family.IPv6: "v6"},
		},
		{name: "IPv4 exhausted", pools: []Pool{makePool("both", v4Range+" "+v6Range)}, has: map[family.Family]string{family.IPv6: "both"}, exhausted: family.IPv4},
		{name: "IPv6 exhausted", pools: []Pool{makePool("both", v4Range+" "+v6Range)}, has: map[family.Family]string{family.IPv4: "both"}, exhausted: family.IPv6},
	}
	before := []struct {
		name string
		held map[family.Family]string
	}{
		{name: "nothing"},
		{name: "IPv4", held: map[family.Family]string{family.IPv4: held4}},
		{name: "IPv6", held: map[family.Family]string{family.IPv6: held6}},
		{name: "both", held: map[family.Family]string{family.IPv4: held4, family.IPv6: held6}},
	}
	first := map[family.Family]string{family.IPv4: "192.0.2.1", family.IPv6: "2001:db8::1"}
	for _, requireAll := range []bool{false, true} {
		for _, families := range orders {
			for _, pp := range pools {
				for _, had := range before {
					t.Run(fmt.Sprintf("all required %v, %v of %s, having %s", requireAll, families, pp.name, had.name), func(t *testing.T) {
						a := withPools(pp.pools...)
						for _, af := range family.All {
							if address, ok := had.held[af]; ok {
								a.Hold(web, addr(address), "", Sharing{})
							}
						}
						if pp.exhausted != "" {
							for i, r := range ofFamily(ranges(v4Range+" "+v6Range), pp.exhausted) {
								for j, address := range addresses(r) {
									if !slices.Contains(a.byService[web], address) {
										a.Hold(Service{"fill", fmt.Sprint(i, j)}, address, "", Sharing{})
									}
								}
							}
						}
						var candidates []Candidate
						for _, p := range pp.pools {
							candidates = append(candidates, Candidate{p.Name, true})
						}

						var want struct{ assigned, added, surplus, missing []string }
						for _, af := range families {
							switch pool, ok := pp.has[af]; {
							case had.held[af] != "":
								want.assigned = append(want.assigned, had.held[af]+"@"+a.PoolOf(addr(had.held[af])))
							case ok:
								want.assigned = append(want.assigned, first[af]+"@"+pool)
								want.added = append(want.added, "added "+first[af]+"@"+pool)
							case pp.exhausted == af:
								want.missing = append(want.missing, fmt.Sprintf("missing %s (%v)", af, ErrExhausted))
							default:
								want.missing = append(want.missing, fmt.Sprintf("missing %s (%v)", af, ErrNoPool))
							}
						}
						for _, af := range family.All {
							if address := had.held[af]; address != "" && !slices.Contains(families, af) {
								want.surplus = append(want.surplus, "surplus "+address+"@"+a.PoolOf(addr(address)))
							}
						}
						fails := len(want.missing) > 0 && (requireAll || len(want.assigned) == 0)

						out, err := allocate(t, a, Request{Service: web, Families: families, RequireAll: requireAll, Pools: candidates})
						if !fails {
							wantText := strings.Join(slices.Concat(want.assigned, want.added, want.surplus, want.missing), ", ")
							if got := describe(out, err); got != wantText {
								t.Errorf("got %s\nwant %s", got, wantText)
							}
							return
						}
						if err == nil {
							t.Fatalf("got %s, want an error", describe(out, err))
						}
						var missing []string
						for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
							var familyError *FamilyError
							if !errors.As(e, &familyError) {
								t.Fatalf("%v names no family", e)
							}
							missing = append(missing, describe(Outcome{Missing: []*FamilyError{familyError}}, nil))
						}
						if diff := gocmp.Diff(want.missing, missing); diff != "" {
							t.Errorf("missing families in the error (-want +got):\n%s", diff)
						}
					})
				}
			}
		}
	}
}

func TestAllocate(t *testing.T) {
	dual, lan := []family.Family{family.IPv4, family.IPv6}, makePool("lan", "192.0.2.0/29 2001:db8::/125")
	shared := func(number int32) Sharing {
		return Sharing{Key: "web", Ports: []Port{{"TCP", number}}}
	}
	sharedByTwo := func(a *Allocator) {
		a.Hold(other, addr("192.0.2.5"), "lan", shared(80))
		a.Hold(web, addr("192.0.2.5"), "lan", shared(443))
	}
	fixed := func(list string) []netip.Addr {
		var all []netip.Addr
		for word := range strings.FieldsSeq(list) {
			all = append(all, addr(word))
		}
		return all
	}
	tests := []struct {
		name  string
		pools []Pool
		// prepare brings the allocator where the request finds it.
		prepare func(a *Allocator)
		req     Request // of web
		want    string
		// says must be part of the error, or of the reason why a family is missing.
		says string
	}{
		// Which pool.
		{
			name:  "the first pool in order of preference serves, not the first by name",
			pools: []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1")},
			req:   Request{Families: []family.Family{family.IPv4}, Pools: auto("b", "a")},
			want:  "10.0.1.1@b, added 10.0.1.1@b",
		},
		{
			name:    "the next pool serves when the first is exhausted",
			pools:   []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.0.1"), "a", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Pools: auto("a", "b")},
			want:    "10.0.1.1@b, added 10.0.1.1@b",
		},
		{
			name:  "a pool of both families is preferred to earlier ones of one family each",
			pools: []Pool{makePool("v4", "10.0.0.1"), makePool("v6", "2001:db8::1"), makePool("both", "10.0.1.1 2001:db8:1::1")},
			req:   Request{Families: dual, RequireAll: true, Pools: auto("v4", "v6", "both")},
			want:  "10.0.1.1@both, 2001:db8:1::1@both, added 10.0.1.1@both, added 2001:db8:1::1@both",
		},
		{
			name:    "a pool of both families that has only one left is not preferred",
			pools:   []Pool{makePool("v4", "10.0.0.1"), makePool("v6", "2001:db8::1"), makePool("both", "10.0.1.1 2001:db8:1::1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.1.1"), "both", Sharing{}) },
			req:     Request{Families: dual, RequireAll: true, Pools: auto("v4", "v6", "both")},
			want:    "10.0.0.1@v4, 2001:db8::1@v6, added 10.0.0.1@v4, added 2001:db8::1@v6",
		},
		{
			name:    "the second family comes from the pool of the family that is held",
			pools:   []Pool{makePool("a", "10.0.0.1 2001:db8:a::1"), makePool("b", "10.0.1.1 2001:db8:b::1")},
			prepare: func(a *Allocator) { a.Hold(web, addr("10.0.1.1"), "b", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv6, family.IPv4}, RequireAll: true, Pools: auto("a", "b")},
			want:    "2001:db8:b::1@b, 10.0.1.1@b, added 2001:db8:b::1@b",
		},
		{
			name:    "the second family comes from elsewhere when the pool of the held one has none",
			pools:   []Pool{makePool("a", "2001:db8:a::1"), makePool("b", "10.0.1.1")},
			prepare: func(a *Allocator) { a.Hold(web, addr("10.0.1.1"), "b", Sharing{}) },
			req:     Request{Families: dual, RequireAll: true, Pools: auto("a", "b")},
			want:    "10.0.1.1@b, 2001:db8:a::1@a, added 2001:db8:a::1@a",
		},
		{
			name:  "a pool of both families without autoAssign does not stand in the way of one with it",
			pools: []Pool{makePool("private", "10.0.2.1 2001:db8:2::1"), makePool("v4", "10.0.0.1"), makePool("both", "10.0.1.1 2001:db8:1::1")},
			req:   Request{Families: dual, Pools: []Candidate{{Pool: "private"}, {Pool: "v4", Auto: true}, {Pool: "both", Auto: true}}},
			want:  "10.0.1.1@both, 2001:db8:1::1@both, added 10.0.1.1@both, added 2001:db8:1::1@both",
		},
		{
			name:  "a pool without autoAssign is passed over",
			pools: []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1")},
			req:   Request{Families: []family.Family{family.IPv4}, Pools: []Candidate{{Pool: "a"}, {Pool: "b", Auto: true}}},
			want:  "10.0.1.1@b, added 10.0.1.1@b",
		},
		{
			name:  "only a pool without autoAssign",
			pools: []Pool{makePool("a", "10.0.0.1")},
			req:   Request{Families: []family.Family{family.IPv4}, Pools: []Candidate{{Pool: "a"}}},
			want:  "error: no pool", says: "no pool that this Service may use without naming it; name pool a, or set its autoAssign",
		},
		{
			name: "a pool that does not exist",
			req:  Request{Families: []family.Family{family.IPv4}, Pools: auto("gone")},
			want: "error: no pool", says: "gone",
		},
		{
			name:  "an excluded partition is exhausted, not absent",
			pools: []Pool{{Name: "a", Ranges: ranges("10.0.0.0/24"), Exclude: ranges("10.0.0.0/24")}},
			req:   Request{Families: []family.Family{family.IPv4}, Pools: auto("a")},
			want:  "error: no free address", says: "pool a",
		},
		{
			name: "no family at all", pools: []Pool{lan},
			req:  Request{Pools: auto("lan")},
			want: "error: bad request",
		},
		// Named pools.
		{
			name:  "one named pool for each family",
			pools: []Pool{makePool("production-ipv4", "10.0.0.1"), makePool("production-ipv6", "2001:db8::1")},
			req:   Request{Families: []family.Family{family.IPv6, family.IPv4}, RequireAll: true, Named: true, Pools: auto("production-ipv4", "production-ipv6")},
			want:  "2001:db8::1@production-ipv6, 10.0.0.1@production-ipv4, added 2001:db8::1@production-ipv6, added 10.0.0.1@production-ipv4",
		},
		{
			name:  "naming a pool moves what came from another, and keeps what did not",
			pools: []Pool{makePool("a", "10.0.0.1 2001:db8:a::1"), makePool("b", "10.0.1.1 2001:db8:b::1")},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("10.0.0.1"), "a", Sharing{})
				a.Hold(web, addr("2001:db8:b::1"), "b", Sharing{})
			},
			req:  Request{Families: dual, RequireAll: true, Named: true, Pools: auto("b")},
			want: "10.0.1.1@b, 2001:db8:b::1@b, added 10.0.1.1@b, surplus 10.0.0.1@a",
		},
		{
			name:    "naming the pool that has the address by now keeps it",
			pools:   []Pool{makePool("renamed", "10.0.0.0/30")},
			prepare: func(a *Allocator) { a.Hold(web, addr("10.0.0.2"), "old", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Named: true, Pools: auto("renamed")},
			want:    "10.0.0.2@old",
		},
		{
			name:  "naming a pool that is full keeps what there is",
			pools: []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1 2001:db8:b::1")},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("10.0.0.1"), "a", Sharing{})
				a.Hold(other, addr("10.0.1.1"), "b", Sharing{})
			},
			req:  Request{Families: dual, Named: true, Pools: auto("b")},
			want: "10.0.0.1@a, 2001:db8:b::1@b, added 2001:db8:b::1@b, missing IPv4 (no free address)",
		},
		{
			name:    "a Service that no longer matches its pool keeps its address",
			pools:   []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1")},
			prepare: func(a *Allocator) { a.Hold(web, addr("10.0.0.1"), "a", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Pools: auto("b")},
			want:    "10.0.0.1@a",
		},
		{
			name:  "a move that was not finished does not take a third address",
			pools: []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.0/29")},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("10.0.0.1"), "a", Sharing{})
				a.Hold(web, addr("10.0.1.5"), "b", Sharing{})
			},
			req:  Request{Families: []family.Family{family.IPv4}, Named: true, Pools: auto("b")},
			want: "10.0.1.5@b, surplus 10.0.0.1@a",
		},
		// Fixed addresses.
		{
			name: "a fixed address that is free", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "fixed addresses of both families, in any order", pools: []Pool{lan},
			req:  Request{Families: dual, RequireAll: true, Addresses: fixed("2001:db8::5 192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.5@lan, 2001:db8::5@lan, added 192.0.2.5@lan, added 2001:db8::5@lan",
		},
		{
			name: "one family fixed, the other chosen", pools: []Pool{lan},
			req:  Request{Families: dual, RequireAll: true, Addresses: fixed("2001:db8::5"), Pools: auto("lan")},
			want: "192.0.2.0@lan, 2001:db8::5@lan, added 192.0.2.0@lan, added 2001:db8::5@lan",
		},
		{
			name:  "a fixed address draws the other family into its pool",
			pools: []Pool{makePool("a", "10.0.0.1 2001:db8:a::1"), makePool("b", "10.0.1.1 2001:db8:b::1")},
			req:   Request{Families: dual, RequireAll: true, Addresses: fixed("10.0.1.1"), Pools: auto("a", "b")},
			want:  "10.0.1.1@b, 2001:db8:b::1@b, added 10.0.1.1@b, added 2001:db8:b::1@b",
		},
		{
			name: "a fixed address that the Service has", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(web, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want:    "192.0.2.5@lan",
		},
		{
			name: "a fixed address in place of another", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(web, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.4"), Pools: auto("lan")},
			want:    "192.0.2.4@lan, added 192.0.2.4@lan, surplus 192.0.2.5@lan",
		},
		{
			name: "a fixed address that another Service has", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want:    "error: address is in use", says: "Service default/other has 192.0.2.5 without the same sharing key",
		},
		{
			name: "a fixed address that another Service has leaves the Service with its own", pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("192.0.2.5"), "lan", Sharing{})
				a.Hold(web, addr("192.0.2.4"), "lan", Sharing{})
			},
			req:  Request{Families: dual, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.4@lan, 2001:db8::@lan, added 2001:db8::@lan, missing IPv4 (address is in use)",
		},
		{
			name: "one of two fixed addresses is in use and both are required", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: dual, RequireAll: true, Addresses: fixed("192.0.2.5 2001:db8::5"), Pools: auto("lan")},
			want:    "error: address is in use", says: "IPv4: ",
		},
		{
			name: "a fixed address that is blocked", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Block(addr("192.0.2.5"), "Service default/cluster-ip") },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want:    "error: address is in use", says: "192.0.2.5 belongs to Service default/cluster-ip",
		},
		{
			name: "a fixed address in no pool", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("198.51.100.1"), Pools: auto("lan")},
			want: "error: address is in no pool the Service may use", says: "198.51.100.1; ask for one from pool lan",
		},
		{
			name:  "a fixed address in a pool that the Service may not use",
			pools: []Pool{lan, makePool("private", "198.51.100.0/24")},
			req:   Request{Families: []family.Family{family.IPv4}, Addresses: fixed("198.51.100.1"), Pools: auto("lan")},
			want:  "error: address is in no pool the Service may use",
		},
		{
			name:  "a fixed address that its pool excludes",
			pools: []Pool{{Name: "lan", Ranges: ranges("192.0.2.0/24"), Exclude: ranges("192.0.2.1")}},
			req:   Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.1"), Pools: auto("lan")},
			want:  "error: address is in no pool the Service may use",
		},
		{
			name:  "a fixed address that its pool avoids as buggy",
			pools: []Pool{{Name: "lan", Ranges: ranges("192.0.2.0/24"), AvoidBuggyIPs: true}},
			req:   Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.255"), Pools: auto("lan")},
			want:  "error: address is in no pool the Service may use",
		},
		{
			name: "a fixed address without any pool",
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.1")},
			want: "error: address is in no pool the Service may use", says: "no pool",
		},
		{
			name: "a fixed address in a pool without autoAssign", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: []Candidate{{Pool: "lan"}}},
			want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "a fixed address of a family that the Service does not have", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("2001:db8::5"), Pools: auto("lan")},
			want: "error: bad request", says: "2001:db8::5 is IPv6, which is not among the Service's ipFamilies",
		},
		{
			name: "two fixed addresses of one family", pools: []Pool{lan},
			req:  Request{Families: dual, Addresses: fixed("192.0.2.4 192.0.2.5"), Pools: auto("lan")},
			want: "error: bad request", says: "192.0.2.4 and 192.0.2.5 are both IPv4",
		},
		{
			name: "one fixed address twice", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5 192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "a fixed address with a zone", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv6}, Addresses: fixed("2001:db8::5%eth0"), Pools: auto("lan")},
			want: "error: bad request",
		},
		{
			name: "a fixed address that is IPv4-mapped", pools: []Pool{lan},
			req:  Request{Families: dual, Addresses: fixed("::ffff:192.0.2.5"), Pools: auto("lan")},
			want: "error: bad request",
		},
		{
			name: "a fixed address that is none", pools: []Pool{lan},
			req:  Request{Families: dual, Addresses: []netip.Addr{{}}, Pools: auto("lan")},
			want: "error: bad request",
		},
		// Pools that change.
		{
			name:  "an address that its pool no longer contains stays",
			pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("192.0.2.5"), "lan", Sharing{})
				a.SetPools([]Pool{makePool("lan", "198.51.100.0/24")})
			},
			req:  Request{Families: []family.Family{family.IPv4}, Pools: auto("lan")},
			want: "192.0.2.5@lan",
		},
		{
			name:  "an address stays when its pool is gone",
			pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("192.0.2.5"), "lan", Sharing{})
				a.SetPools(nil)
			},
			req:  Request{Families: []family.Family{family.IPv4}},
			want: "192.0.2.5@lan",
		},
		{
			name:  "a fixed address that its pool no longer contains stays",
			pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("192.0.2.5"), "lan", Sharing{})
				a.SetPools([]Pool{makePool("lan", "198.51.100.0/24")})
			},
			req:  Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.5@lan",
		},
		{
			name:  "Reallocate gives up what is stranded, and only that",
			pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("192.0.2.5"), "lan", Sharing{})
				a.Hold(web, addr("2001:db8::5"), "lan", Sharing{})
				a.SetPools([]Pool{makePool("lan", "198.51.100.1 2001:db8::/125")})
			},
			req:  Request{Families: dual, RequireAll: true, Reallocate: true, Pools: auto("lan")},
			want: "198.51.100.1@lan, 2001:db8::5@lan, added 198.51.100.1@lan, surplus 192.0.2.5@lan",
		},
		{
			name:    "Reallocate gives up what only another pool contains",
			pools:   []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.0/29")},
			prepare: func(a *Allocator) { a.Hold(web, addr("10.0.1.5"), "a", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Reallocate: true, Pools: auto("a")},
			want:    "10.0.0.1@a, added 10.0.0.1@a, surplus 10.0.1.5@a",
		},
		{
			name:  "Reallocate without a free address changes nothing",
			pools: []Pool{makePool("a", "10.0.0.1")},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("10.0.9.9"), "a", Sharing{})
				a.Hold(other, addr("10.0.0.1"), "a", Sharing{})
			},
			req:  Request{Families: []family.Family{family.IPv4}, Reallocate: true, Pools: auto("a")},
			want: "error: no free address",
		},
		{
			name: "an inherited address that no pool contains is not replaced", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Inherited: fixed("198.51.100.7"), Pools: auto("lan")},
			want: "error: address in the status is in no AddressPool", says: "198.51.100.7",
		},
		{
			name: "nor is one beside a family that could be given", pools: []Pool{lan},
			req:  Request{Families: dual, Inherited: fixed("198.51.100.7"), Pools: auto("lan")},
			want: "error: address in the status is in no AddressPool", says: "IPv4",
		},
		{
			name: "Reallocate gives up an inherited address", pools: []Pool{lan},
			req:  Request{Families: []family.Family{family.IPv4}, Reallocate: true, Inherited: fixed("198.51.100.7"), Pools: auto("lan")},
			want: "192.0.2.0@lan, added 192.0.2.0@lan",
		},
		{
			name: "an inherited address of a family of which the Service has one is passed over", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(web, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Inherited: fixed("198.51.100.7"), Pools: auto("lan")},
			want:    "192.0.2.5@lan",
		},
		{
			name: "an inherited address that a pool contains and the Service does not hold is another's", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Inherited: fixed("192.0.2.5"), Pools: auto("lan")},
			want:    "192.0.2.0@lan, added 192.0.2.0@lan",
		},
		{
			name: "a held address in no pool is not given to others, and does not count", pools: []Pool{makePool("a", "10.0.0.1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.9.9"), "", Sharing{}) },
			req:     Request{Families: []family.Family{family.IPv4}, Pools: auto("a")},
			want:    "10.0.0.1@a, added 10.0.0.1@a",
		},
		{
			name: "a blocked address is passed over", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Block(addr("192.0.2.0"), "kubernetes") },
			req:     Request{Families: []family.Family{family.IPv4}, Pools: auto("lan")},
			want:    "192.0.2.1@lan, added 192.0.2.1@lan",
		},
		{
			name:  "an address in two pools is taken in both",
			pools: []Pool{makePool("a", "10.0.0.1-10.0.0.2"), makePool("b", "10.0.0.1-10.0.0.3")},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("10.0.0.1"), "a", Sharing{})
			},
			req:  Request{Families: []family.Family{family.IPv4}, Pools: auto("b")},
			want: "10.0.0.2@b, added 10.0.0.2@b",
		},
		// Sharing.
		{
			name: "the same key and another port share", pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("192.0.2.5"), "lan", shared(80))
				a.Hold(other, addr("2001:db8::5"), "lan", shared(80))
			},
			req:  Request{Families: dual, RequireAll: true, Sharing: shared(443), Pools: auto("lan")},
			want: "192.0.2.5@lan, 2001:db8::5@lan, added 192.0.2.5@lan, added 2001:db8::5@lan",
		},
		{
			name: "the same key and the same port do not share", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Sharing: shared(80), Pools: auto("lan")},
			want:    "192.0.2.0@lan, added 192.0.2.0@lan",
		},
		{
			name: "the same port number of another protocol shares", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", shared(53)) },
			req:     Request{Families: []family.Family{family.IPv4}, Sharing: Sharing{Key: "web", Ports: []Port{{"UDP", 53}}}, Pools: auto("lan")},
			want:    "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "no key does not share", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", Sharing{Ports: []Port{{"TCP", 80}}}) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Sharing: Sharing{Ports: []Port{{"TCP", 443}}}, Pools: auto("lan")},
			want:    "error: address is in use",
		},
		{
			name: "a fixed address is shared by the same key", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Sharing: shared(443), Pools: auto("lan")},
			want:    "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "a fixed address on the same port is refused with the port", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Sharing: shared(80), Pools: auto("lan")},
			want:    "error: address is in use", says: "on the same port TCP/80",
		},
		{
			name: "other endpoints and local traffic are refused with the reason", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(other, addr("192.0.2.5"), "lan", shared(80)) },
			req: Request{
				Families: []family.Family{family.IPv4}, Addresses: fixed("192.0.2.5"), Pools: auto("lan"),
				Sharing: Sharing{Key: "web", Ports: []Port{{"TCP", 443}}, Backends: "app=web"},
			},
			want: "error: address is in use", says: "externalTrafficPolicy Local",
		},
		{
			name: "the address given first under the key is shared first", pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(third, addr("192.0.2.6"), "lan", shared(80))
				a.Hold(other, addr("192.0.2.5"), "lan", shared(80))
				a.Hold(third, addr("192.0.2.6"), "lan", shared(81)) // asking again does not send third to the end of the queue
			},
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: shared(443), Pools: auto("lan")},
			want: "192.0.2.6@lan, added 192.0.2.6@lan",
		},
		{
			name: "a shared address has room when the pool has none", pools: []Pool{makePool("a", "10.0.0.1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.0.1"), "a", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Sharing: shared(443), Pools: auto("a")},
			want:    "10.0.0.1@a, added 10.0.0.1@a",
		},
		{
			name: "an address of the key in another pool is not shared", pools: []Pool{makePool("a", "10.0.0.1"), makePool("b", "10.0.1.1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.0.1"), "a", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Named: true, Sharing: shared(443), Pools: auto("b")},
			want:    "10.0.1.1@b, added 10.0.1.1@b",
		},
		{
			name: "a stranded address is not offered for sharing", pools: []Pool{makePool("a", "10.0.0.1")},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.9.9"), "a", shared(80)) },
			req:     Request{Families: []family.Family{family.IPv4}, Sharing: shared(443), Pools: auto("a")},
			want:    "10.0.0.1@a, added 10.0.0.1@a",
		},
		{
			name: "a Service whose ports come to clash keeps its address", pools: []Pool{lan}, prepare: sharedByTwo,
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: shared(80), Pools: auto("lan")},
			want: "192.0.2.5@lan, kept 192.0.2.5 beside other", says: "Service default/other has 192.0.2.5 on the same port TCP/80",
		},
		{
			name: "a Service that loses its key keeps its address", pools: []Pool{lan}, prepare: sharedByTwo,
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: Sharing{Ports: shared(443).Ports}, Pools: auto("lan")},
			want: "192.0.2.5@lan, kept 192.0.2.5 beside other", says: "without the same sharing key",
		},
		{
			name: "a Service whose policy becomes Local keeps its address", pools: []Pool{lan}, prepare: sharedByTwo,
			req: Request{
				Families: []family.Family{family.IPv4}, Pools: auto("lan"),
				Sharing: Sharing{Key: "web", Ports: shared(443).Ports, Backends: "app=web"},
			},
			want: "192.0.2.5@lan, kept 192.0.2.5 beside other", says: "externalTrafficPolicy Local",
		},
		{
			name: "a Service whose ports come to clash keeps the fixed address that it has", pools: []Pool{lan}, prepare: sharedByTwo,
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: shared(80), Addresses: fixed("192.0.2.5"), Pools: auto("lan")},
			want: "192.0.2.5@lan, kept 192.0.2.5 beside other", says: "on the same port TCP/80",
		},
		{
			name: "a Service whose ports come to clash moves if it asks to be moved", pools: []Pool{lan}, prepare: sharedByTwo,
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: shared(80), Reallocate: true, Pools: auto("lan")},
			want: "192.0.2.0@lan, added 192.0.2.0@lan, surplus 192.0.2.5@lan",
		},
		{
			name: "a Service whose ports do not clash stays though it asks to be moved", pools: []Pool{lan}, prepare: sharedByTwo,
			req:  Request{Families: []family.Family{family.IPv4}, Sharing: shared(8443), Reallocate: true, Pools: auto("lan")},
			want: "192.0.2.5@lan",
		},
		{
			name: "a Service alone on its address may change key and ports", pools: []Pool{lan},
			prepare: func(a *Allocator) { a.Hold(web, addr("192.0.2.5"), "lan", shared(443)) },
			req:     Request{Families: []family.Family{family.IPv4}, Sharing: Sharing{Key: "mail", Ports: []Port{{"TCP", 25}}}, Pools: auto("lan")},
			want:    "192.0.2.5@lan",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(tt.pools...)
			if tt.prepare != nil {
				tt.prepare(a)
			}
			tt.req.Service = web
			out, err := allocate(t, a, tt.req)
			if got := describe(out, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tt.want)
			}
			why := fmt.Sprint(err)
			for _, missing := range out.Missing {
				why += missing.Error()
			}
			for _, refusal := range slices.Concat(out.Kept, out.Unshared) {
				why += refusal.Error()
			}
			if !strings.Contains(why, tt.says) {
				t.Errorf("the reason is %q, which does not say %q", why, tt.says)
			}
		})
	}
}

func TestPlanOfSeveralRequests(t *testing.T) {
	a := withPools(makePool("a", "10.0.0.0/30 2001:db8::/127"))
	a.Hold(Service{"default", "old"}, addr("10.0.0.0"), "a", Sharing{})
	request := func(name string, requireAll bool, key string, port int32, families ...family.Family) Request {
		return Request{
			Service: Service{"default", name}, Families: families, RequireAll: requireAll, Pools: auto("a"),
			Sharing: Sharing{Key: key, Ports: []Port{{"TCP", port}}},
		}
	}
	reqs := []Request{
		request("pair", true, "", 80, family.IPv4, family.IPv6),
		request("old", true, "", 80, family.IPv4, family.IPv6),
		request("one IPv4 alone", false, "k", 80, family.IPv6, family.IPv4),
		request("refused", true, "", 80, family.IPv6),
		request("another refused", true, "", 80, family.IPv4, family.IPv6),
		request("shares", true, "k", 81, family.IPv4),
		request("the last IPv4", true, "k", 80, family.IPv4),
		request("shares the last IPv4", true, "k", 81, family.IPv4),
	}
	want := []string{
		"10.0.0.1@a, 2001:db8::@a, added 10.0.0.1@a, added 2001:db8::@a",
		"10.0.0.0@a, 2001:db8::1@a, added 2001:db8::1@a",
		"10.0.0.2@a, added 10.0.0.2@a, missing IPv6 (no free address)",
		"error: no free address",
		"error: no free address",
		"10.0.0.2@a, added 10.0.0.2@a",
		"10.0.0.3@a, added 10.0.0.3@a",
		"10.0.0.3@a, added 10.0.0.3@a",
	}
	before := state(a)
	var got []string
	for _, answer := range a.Plan(noon, reqs...) {
		got = append(got, describe(answer.Outcome, answer.Err))
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("Plan (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(before, state(a)); diff != "" {
		t.Errorf("Plan changed the allocator (-before +after):\n%s", diff)
	}
	got = nil
	for _, req := range reqs {
		out, err := a.Allocate(noon, req)
		got = append(got, describe(out, err))
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("Allocate (-want +got):\n%s", diff)
	}
}

// What a Service on a shared address has changed, and cannot have there, makes none of the others move, and no further Service joins them
// against it until somebody changes it back.
func TestServiceThatMayNotShareAnyMore(t *testing.T) {
	for _, tt := range []struct {
		name    string
		edit    Sharing
		refuses Sharing // that web, as it was, would have admitted
	}{
		{"port", onPorts(80), onPorts(80)},
		{"another port beside", onPorts(80, 9000), onPorts(9000)},
		{"key", Sharing{Key: "other", Ports: onPorts(443).Ports}, onPorts(81)},
		{"no key", Sharing{Ports: onPorts(443).Ports}, onPorts(81)},
		{"policy", Sharing{Key: "web", Ports: onPorts(443).Ports, Backends: "app=web"}, onPorts(81)},
		{"namespace", Sharing{Key: "web", Ports: onPorts(443).Ports, Namespace: "blog"}, onPorts(81)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(makePool("a", "10.0.0.1-10.0.0.2"))
			a.Hold(other, addr("10.0.0.1"), "a", onPorts(80))
			a.Hold(web, addr("10.0.0.1"), "a", onPorts(443))
			request := func(service Service, sharing Sharing) Request {
				return Request{Service: service, Families: []family.Family{family.IPv4}, Sharing: sharing, Pools: auto("a")}
			}
			for _, step := range []struct {
				req  Request
				want string
			}{
				{request(web, tt.edit), "10.0.0.1@a, kept 10.0.0.1 beside other"},
				{request(other, onPorts(80)), "10.0.0.1@a, kept 10.0.0.1 beside web"},
				{request(third, tt.refuses), "10.0.0.2@a, added 10.0.0.2@a"},
				{request(web, onPorts(443)), "10.0.0.1@a"},
				{request(other, onPorts(80)), "10.0.0.1@a"},
			} {
				out, err := allocate(t, a, step.req)
				out.Unshared = nil
				if got := describe(out, err); got != step.want {
					t.Errorf("%s got %s, want %s", step.req.Service, got, step.want)
				}
			}
		})
	}
}

// A shared address stays with the pool that it was taken from, also when a Service of an overlapping pool joins.
func TestSharedAddressKeepsItsPool(t *testing.T) {
	a := withPools(makePool("a", "10.0.0.0/24"), makePool("b", "10.0.0.0/25"))
	http, https := Sharing{Key: "web", Ports: []Port{{"TCP", 80}}}, Sharing{Key: "web", Ports: []Port{{"TCP", 443}}}
	a.Hold(other, addr("10.0.0.7"), "a", http)

	out, err := allocate(t, a, Request{
		Service: web, Families: []family.Family{family.IPv4}, Addresses: []netip.Addr{addr("10.0.0.7")}, Named: true, Sharing: https, Pools: auto("b"),
	})
	if got, want := describe(out, err), "10.0.0.7@a, added 10.0.0.7@a"; got != want {
		t.Errorf("joining gave %s, want %s", got, want)
	}
	out, err = allocate(t, a, Request{Service: other, Families: []family.Family{family.IPv4}, Named: true, Sharing: http, Pools: auto("a")})
	if got, want := describe(out, err), "10.0.0.7@a"; got != want {
		t.Errorf("the first user got %s, want %s", got, want)
	}
	a.Release(time.Time{}, other, addr("10.0.0.7"))
	if diff := gocmp.Diff([]Assignment{{addr("10.0.0.7"), "a"}}, a.Held(web), compareAddr); diff != "" {
		t.Errorf("held after the first user left (-want +got):\n%s", diff)
	}
}

func TestStableSurvivesReleaseAndRestart(t *testing.T) {
	pool := Pool{Name: "a", Ranges: ranges("10.0.0.0/16 2001:db8::/64"), Stable: true}
	req := Request{Service: web, Families: []family.Family{family.IPv4, family.IPv6}, RequireAll: true, Pools: auto("a")}
	a := withPools(pool)
	first, err := allocate(t, a, req)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // others come meanwhile, in pairs
		if _, err := allocate(t, a, Request{Service: Service{"default", fmt.Sprint(i)}, Families: req.Families, Pools: req.Pools}); err != nil {
			t.Fatal(err)
		}
	}
	for _, as := range first.Assigned {
		a.Release(time.Time{}, web, as.Address)
	}
	again, err := allocate(t, a, req)
	if diff := gocmp.Diff(describe(first, nil), describe(again, err)); diff != "" {
		t.Errorf("created again (-want +got):\n%s", diff)
	}
	rebuilt, err := allocate(t, withPools(pool), req)
	if diff := gocmp.Diff(describe(first, nil), describe(rebuilt, err)); diff != "" {
		t.Errorf("in a rebuilt cluster (-want +got):\n%s", diff)
	}
}

func TestHoldAndRelease(t *testing.T) {
	a := withPools(makePool("a", "10.0.0.0/30"), makePool("b", "10.0.0.0/30"))
	key := Sharing{Key: "web", Ports: []Port{{"TCP", 80}}}
	a.Hold(web, addr("10.0.0.1"), "", key)
	a.Hold(web, addr("10.0.0.1"), "", key) // a claim that is seen twice
	a.Hold(web, addr("2001:db8::1"), "", Sharing{})
	a.Hold(other, addr("10.0.0.1"), "b", Sharing{Key: "web", Ports: []Port{{"TCP", 443}}})
	if diff := gocmp.Diff([]Assignment{{addr("10.0.0.1"), "a"}, {addr("2001:db8::1"), ""}}, a.Held(web), compareAddr); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff([]Service{other, web}, a.Lookup(addr("10.0.0.1")).Services); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	if got := a.PoolOf(addr("10.0.0.3")) + a.PoolOf(addr("10.0.0.4")) + a.PoolOf(addr("2001:db8::1")); got != "a" {
		t.Errorf("PoolOf gave %q", got)
	}
	for i, step := range []struct {
		service Service
		address string
		frees   bool
	}{
		{third, "10.0.0.1", false}, // not its own
		{web, "10.0.0.2", false},   // held by no Service
		{web, "10.0.0.1", false},   // other still has it
		{web, "10.0.0.1", false},   // a second time
		{other, "10.0.0.1", true},
		{web, "2001:db8::1", true},
	} {
		before := len(a.Addresses())
		a.Release(noon, step.service, addr(step.address))
		if got := len(a.Addresses()) < before; got != step.frees {
			t.Errorf("step %d: Release(%s, %s) freed the address: %v, want %v", i, step.service, step.address, got, step.frees)
		}
		if err := checkConsistent(a); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if fresh := withPools(makePool("a", "10.0.0.0/30"), makePool("b", "10.0.0.0/30")); state(a) != state(fresh) {
		t.Errorf("after releasing all (-want +got):\n%s", gocmp.Diff(state(fresh), state(a)))
	}
}

func TestBlock(t *testing.T) {
	lan := makePool("lan", "10.0.0.0/30")
	req := Request{Service: web, Families: []family.Family{family.IPv4}, Pools: auto("lan")}
	tests := []struct {
		name        string
		then        func(a *Allocator)
		wantBlocked bool
		want        string
	}{
		{"it stays out", func(*Allocator) {}, true, "10.0.0.1"},
		{"Unblock frees it", func(a *Allocator) { a.Unblock(addr("10.0.0.0")) }, false, "10.0.0.0"},
		{"Unblock of another does nothing", func(a *Allocator) { a.Unblock(addr("10.0.0.1")) }, true, "10.0.0.1"},
		{"SetPools forgets it", func(a *Allocator) { a.SetPools([]Pool{lan}) }, false, "10.0.0.0"},
		{"SetPools of changed pools forgets it", func(a *Allocator) { a.SetPools([]Pool{makePool("lan", "10.0.0.0/29")}) }, false, "10.0.0.0"},
		{"Hold gives it to a Service", func(a *Allocator) { a.Hold(other, addr("10.0.0.0"), "lan", Sharing{}) }, false, "10.0.0.1"},
		{"Hold and Release free it", func(a *Allocator) {
			a.Hold(other, addr("10.0.0.0"), "lan", Sharing{})
			a.Release(time.Time{}, other, addr("10.0.0.0"))
		}, false, "10.0.0.0"},
		{"Release for a Service that does not hold it does nothing", func(a *Allocator) { a.Release(time.Time{}, web, addr("10.0.0.0")) }, true, "10.0.0.1"},
		{"a held address cannot be blocked", func(a *Allocator) {
			a.Hold(other, addr("10.0.0.1"), "lan", Sharing{})
			a.Block(addr("10.0.0.1"), "kubernetes")
			a.Unblock(addr("10.0.0.1"))
		}, true, "10.0.0.2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(lan)
			a.Block(addr("10.0.0.0"), "kubernetes")
			a.Block(addr("10.0.0.0"), "somebody else")
			tt.then(a)
			if got := a.Lookup(addr("10.0.0.0")).Blocked; got != tt.wantBlocked {
				t.Errorf("Blocked = %v, want %v", got, tt.wantBlocked)
			}
			if out, err := allocate(t, a, req); err != nil || out.Assigned[0].Address != addr(tt.want) {
				t.Errorf("got %s, want %s", describe(out, err), tt.want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	a := withPools(
		makePool("a", "10.0.0.0/24 2001:db8::/64"),
		makePool("b", "10.0.0.128/25"),
		makePool("c", "2001:db8::1:0/112"),
		Pool{Name: "d", Ranges: ranges("10.0.0.0/16"), Exclude: ranges("10.0.0.0/24"), AvoidBuggyIPs: true},
	)
	a.Hold(web, addr("10.0.0.200"), "a", Sharing{}) // in b as well
	a.Hold(web, addr("2001:db8::5"), "a", Sharing{})
	a.Hold(other, addr("10.0.0.5"), "b", Sharing{})     // b never contained it, a does
	a.Hold(other, addr("192.0.2.9"), "gone", Sharing{}) // its pool was deleted
	a.Hold(third, addr("192.0.2.10"), "", Sharing{})    // came from nowhere
	a.Hold(third, addr("192.0.2.8"), "gone", Sharing{}) // sorted before .9
	a.Block(addr("10.0.1.1"), "kubernetes")             // counts as allocated
	a.Hold(third, addr("10.0.1.0"), "d", Sharing{})     // given before avoidBuggyIPs was set
	want := map[string]PoolUsage{
		"a": {
			Families: map[family.Family]Usage{
				family.IPv4: {Capacity: 256, Allocated: 2, Available: 254},
				family.IPv6: {Capacity: math.MaxInt64, Allocated: 1, Available: math.MaxInt64},
			},
			Overlaps: []string{"b", "c"},
		},
		"b": {
			Families: map[family.Family]Usage{family.IPv4: {Capacity: 128, Allocated: 1, Available: 127}},
			Overlaps: []string{"a"}, Stranded: []netip.Addr{addr("10.0.0.5")},
		},
		"c":    {Families: map[family.Family]Usage{family.IPv6: {Capacity: 65536, Allocated: 0, Available: 65536}}, Overlaps: []string{"a"}},
		"d":    {Families: map[family.Family]Usage{family.IPv4: {Capacity: 255 * 254, Allocated: 1, Available: 255*254 - 1}}, Stranded: []netip.Addr{addr("10.0.1.0")}},
		"gone": {Stranded: []netip.Addr{addr("192.0.2.8"), addr("192.0.2.9")}},
	}
	if diff := gocmp.Diff(want, a.Usage(), compareAddr); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}

	for _, service := range []Service{web, other, third} {
		for _, as := range a.Held(service) {
			a.Release(time.Time{}, service, as.Address)
		}
	}
	a.SetPools([]Pool{makePool("b", "10.0.0.128/25")})
	want = map[string]PoolUsage{"b": {Families: map[family.Family]Usage{family.IPv4: {Capacity: 128, Available: 128}}}}
	if diff := gocmp.Diff(want, a.Usage(), compareAddr); diff != "" {
		t.Errorf("usage of the pool that is left (-want +got):\n%s", diff)
	}
}

// A pool edit moves the counts and nothing else, and undoing it brings them back.
func TestSetPools(t *testing.T) {
	before := []Pool{makePool("a", "10.0.0.0/24 2001:db8::/64"), makePool("b", "192.0.2.0/24")}
	a := withPools(before...)
	a.Hold(web, addr("10.0.0.7"), "a", Sharing{})
	a.Hold(web, addr("2001:db8::7"), "a", Sharing{})
	a.Hold(other, addr("192.0.2.7"), "b", Sharing{})
	want := state(a)
	for _, edit := range [][]Pool{
		nil,
		{makePool("a", "10.0.0.0/29")},
		{makePool("a", "2001:db8::/120"), makePool("b", "10.0.0.0/24")},
		{{Name: "a", Ranges: before[0].Ranges, Exclude: ranges("10.0.0.7 2001:db8::7"), AvoidBuggyIPs: true, Stable: true}, before[1]},
		{before[1], before[0], makePool("c", "::/0 0.0.0.0/0")},
	} {
		held := maps.Clone(a.held)
		a.SetPools(edit)
		if diff := gocmp.Diff(len(held), len(a.held)); diff != "" {
			t.Errorf("SetPools(%v) changed what is held (-want +got):\n%s", edit, diff)
		}
		if err := checkConsistent(a); err != nil {
			t.Errorf("SetPools(%v): %v", edit, err)
		}
		a.SetPools(before)
		if diff := gocmp.Diff(want, state(a)); diff != "" {
			t.Errorf("after %v and back (-want +got):\n%s", edit, diff)
		}
	}
}
