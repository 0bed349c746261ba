// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

// model is what an allocator should know, kept in the plainest way: which Service has which address, which addresses are blocked, reserved or
// cooling.
type model struct {
	pools    []Pool
	users    map[netip.Addr]map[Service]Sharing
	from     map[netip.Addr]string // pool of each used or cooling address
	blocked  map[netip.Addr]bool
	reserved []Range
	left     map[netip.Addr]map[Service]time.Time
	until    map[netip.Addr]time.Time
	now      time.Time
}

func newModel() *model {
	return &model{
		users: map[netip.Addr]map[Service]Sharing{}, from: map[netip.Addr]string{}, blocked: map[netip.Addr]bool{},
		left: map[netip.Addr]map[Service]time.Time{}, until: map[netip.Addr]time.Time{}, now: noon,
	}
}

// pool returns the pool of a name, or an empty one.
func (m *model) pool(name string) Pool {
	if i := slices.IndexFunc(m.pools, func(p Pool) bool { return p.Name == name }); i >= 0 {
		return m.pools[i]
	}
	return Pool{}
}

// has reports whether the pool contains the address.
func (m *model) has(pool string, a netip.Addr) bool {
	p := m.pool(pool)
	in := func(r Range) bool { return r.Contains(a) }
	buggy := p.AvoidBuggyIPs && a.Is4() && (a.As4()[3] == 0 || a.As4()[3] == 255)
	return slices.ContainsFunc(p.Ranges, in) && !slices.ContainsFunc(p.Exclude, in) && !buggy
}

func (m *model) isReserved(a netip.Addr) bool {
	return slices.ContainsFunc(m.reserved, func(r Range) bool { return r.Contains(a) })
}

// allows reports whether the Service, which is not on the address, may be there.
func (m *model) allows(service Service, a netip.Addr, sharing Sharing) bool {
	if _, refused := m.refused(service, a, sharing); refused || m.isReserved(a) {
		return false
	}
	if _, cooling := m.until[a]; cooling {
		at, was := m.left[a][service]
		if !was || !at.Add(m.pool(m.from[a]).ReuseAfter).After(m.now) {
			return false
		}
	}
	return !m.blocked[a]
}

// within reports whether the limit of a pool lets the Service have the address for the one that it gives up.
func (m *model) within(service Service, pool string, a, gives netip.Addr) bool {
	limit, limited := m.pool(pool).PerNamespace[family.Of(a)]
	if !limited {
		return true
	}
	n := 0
	for other, users := range m.users {
		ofNamespace := 0
		for user := range users {
			if user.Namespace == service.Namespace {
				ofNamespace++
			}
		}
		if m.from[other] != pool || family.Of(other) != family.Of(a) || ofNamespace == 0 {
			continue
		}
		if other == a {
			return true
		}
		if _, own := users[service]; other != gives || !own || ofNamespace > 1 {
			n++
		}
	}
	return n < limit
}

// keeps reports whether the Service goes on with an address that it has.
func (m *model) keeps(req Request, a netip.Addr) bool {
	named := slices.ContainsFunc(req.Pools, func(c Candidate) bool { return c.Pool == m.from[a] || m.has(c.Pool, a) })
	_, refused := m.refused(req.Service, a, req.Sharing)
	gone := req.Reallocate && (!m.has(m.from[a], a) || m.isReserved(a) || refused)
	return (named || !req.Named) && !gone
}

// refused returns the first Service on the address that does not admit another one.
func (m *model) refused(service Service, a netip.Addr, sharing Sharing) (by Service, refused bool) {
	for _, user := range slices.SortedFunc(maps.Keys(m.users[a]), compareServices) {
		if user != service && sharing.Admits(m.users[a][user]) != nil {
			return user, true
		}
	}
	return Service{}, false
}

// gives returns the address of the family that the Service has, and goes on with or gives up.
func (m *model) gives(req Request, af family.Family) (best netip.Addr) {
	rank := func(a netip.Addr) (rank int) {
		if m.keeps(req, a) {
			rank += 2
		}
		if slices.Contains(req.Published, a) {
			rank++
		}
		return rank
	}
	for _, a := range slices.SortedFunc(slices.Values(m.held(req.Service, af)), netip.Addr.Compare) {
		if !best.IsValid() || rank(a) > rank(best) {
			best = a
		}
	}
	return best
}

func (m *model) held(service Service, af family.Family) (addresses []netip.Addr) {
	for a, users := range m.users {
		if _, uses := users[service]; uses && family.Of(a) == af {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// obtainable lists the addresses of the family that a request may get by right, whichever the allocator prefers: the
// fixed one, else those that the Service keeps, else those that are free or may be shared.
func (m *model) obtainable(req Request, af family.Family, universe []netip.Addr) (may []netip.Addr) {
	gives := m.gives(req, af)
	for _, a := range req.Addresses {
		if family.Of(a) != af {
			continue
		}
		if _, own := m.users[a][req.Service]; own {
			return []netip.Addr{a}
		}
		allowed := m.allows(req.Service, a, req.Sharing)
		for _, c := range req.Pools {
			pool := c.Pool
			if len(m.users[a]) > 0 && m.from[a] != "" {
				pool = m.from[a]
			}
			if m.has(c.Pool, a) && !m.pool(pool).FixedDenied {
				if allowed && m.within(req.Service, pool, a, gives) {
					may = []netip.Addr{a}
				}
				return may
			}
		}
		return nil
	}
	if gives.IsValid() && m.keeps(req, gives) {
		return []netip.Addr{gives}
	}
	for _, a := range universe {
		in := slices.ContainsFunc(req.Pools, func(c Candidate) bool {
			return c.Auto && m.has(c.Pool, a) && (len(m.users[a]) == 0 || m.from[a] == c.Pool) && m.within(req.Service, c.Pool, a, gives)
		})
		if _, own := m.users[a][req.Service]; own {
			continue // It would have been kept, if it were not to be given up.
		}
		if family.Of(a) == af && in && m.allows(req.Service, a, req.Sharing) {
			may = append(may, a)
		}
	}
	return may
}

// check holds the outcome of a request against the model as it was before.
func (m *model) check(req Request, out Outcome, err error, universe []netip.Addr) error {
	var missing, assigned []family.Family
	for _, af := range req.Families {
		may, held := m.obtainable(req, af, universe), m.held(req.Service, af)
		if len(may) == 0 {
			missing = append(missing, af)
			may = held
		}
		if len(may) == 0 {
			continue
		}
		assigned = append(assigned, af)
		if i := len(assigned) - 1; err == nil && (i >= len(out.Assigned) || !slices.Contains(may, out.Assigned[i].Address)) {
			return fmt.Errorf("%s may be one of %s", af, may)
		}
	}
	if fails := len(missing) > 0 && (req.RequireAll || len(missing) == len(req.Families)); fails || err != nil {
		if fails != (err != nil) {
			return fmt.Errorf("%s cannot be had: fails %v, want %v", missing, err != nil, fails)
		}
		return nil
	}
	var gotMissing []family.Family
	for _, e := range out.Missing {
		gotMissing = append(gotMissing, e.Family)
	}
	if !slices.Equal(missing, gotMissing) || len(out.Assigned) != len(assigned) {
		return fmt.Errorf("%s are missing and %s assigned; want %s and %s", gotMissing, out.Assigned, missing, assigned)
	}
	var added, surplus []netip.Addr
	var kept, gotKept []string
	for _, as := range out.Assigned {
		if _, uses := m.users[as.Address][req.Service]; !uses {
			added = append(added, as.Address)
		} else if by, refused := m.refused(req.Service, as.Address, req.Sharing); refused {
			kept = append(kept, fmt.Sprintf("%s beside %s", as.Address, by))
		}
	}
	for _, refusal := range out.Kept {
		gotKept = append(gotKept, fmt.Sprintf("%s beside %s", refusal.Address, refusal.By))
	}
	if !slices.Equal(kept, gotKept) {
		return fmt.Errorf("kept is %q, want %q", gotKept, kept)
	}
	for _, refusal := range out.Unshared {
		if why := req.Sharing.Admits(m.users[refusal.Address][refusal.By]); !errors.Is(why, ErrNoConsent) {
			return fmt.Errorf("%s is not shared with %s: %w", refusal.Address, refusal.By, why)
		}
		for user, theirs := range m.users[refusal.Address] {
			if theirs.Namespace = req.Sharing.Namespace; req.Sharing.Admits(theirs) != nil {
				return fmt.Errorf("%s would not be shared with %s if the namespace were the same", refusal.Address, user)
			}
		}
	}
	for _, af := range family.All {
		for _, a := range m.held(req.Service, af) {
			if !slices.ContainsFunc(out.Assigned, func(as Assignment) bool { return as.Address == a }) {
				surplus = append(surplus, a)
			}
		}
	}
	addressesOf := func(list []Assignment) (addresses []netip.Addr) {
		for _, as := range list {
			addresses = append(addresses, as.Address)
		}
		return addresses
	}
	if got := addressesOf(out.Added); !slices.Equal(added, got) {
		return fmt.Errorf("added is %s, want %s", got, added)
	}
	got := addressesOf(out.Surplus)
	slices.SortFunc(got, netip.Addr.Compare)
	slices.SortFunc(surplus, netip.Addr.Compare)
	if !slices.Equal(surplus, got) {
		return fmt.Errorf("surplus is %s, want %s", got, surplus)
	}
	return nil
}

func (m *model) hold(service Service, as Assignment, sharing Sharing) {
	if sharing.Key == "" {
		sharing = Sharing{}
	}
	delete(m.blocked, as.Address)
	delete(m.until, as.Address)
	_, uses := m.users[as.Address][service]
	if n := len(m.users[as.Address]); n == 0 || uses && n == 1 {
		m.from[as.Address] = as.Pool
	}
	if m.users[as.Address] == nil {
		m.users[as.Address] = map[Service]Sharing{}
	}
	m.users[as.Address][service] = sharing
}

func (m *model) release(service Service, a netip.Addr, at time.Time) {
	delete(m.users[a], service)
	if !at.IsZero() {
		m.leave(service, a, at)
	}
	if len(m.users[a]) == 0 {
		delete(m.users, a)
		m.cool(a)
	}
}

func (m *model) leave(service Service, a netip.Addr, at time.Time) {
	wait := m.pool(m.from[a]).ReuseAfter
	if wait == 0 {
		return
	}
	if m.left[a] == nil {
		m.left[a] = map[Service]time.Time{}
	}
	maps.DeleteFunc(m.left[a], func(_ Service, when time.Time) bool { return at.Sub(when) >= wait })
	m.left[a][service] = at
}

// cool has an address without users wait, or forgets it.
func (m *model) cool(a netip.Addr) {
	wait := m.pool(m.from[a]).ReuseAfter
	if wait == 0 || len(m.left[a]) == 0 {
		m.forget(a)
		return
	}
	m.until[a] = slices.MaxFunc(slices.Collect(maps.Values(m.left[a])), time.Time.Compare).Add(wait)
}

func (m *model) forget(a netip.Addr) {
	delete(m.from, a)
	delete(m.left, a)
	delete(m.until, a)
}

func (m *model) setPools(pools []Pool) {
	m.pools, m.blocked = pools, map[netip.Addr]bool{}
	for a := range maps.Clone(m.until) {
		if m.pool(m.from[a]).Name != "" { // otherwise it may be made again
			delete(m.until, a)
			m.cool(a)
		}
	}
}

func (m *model) expire() (freed bool) {
	for a, until := range maps.Clone(m.until) {
		if !until.After(m.now) {
			m.forget(a)
			freed = true
		}
	}
	return freed
}

// compare holds what the allocator knows against the model.
func (m *model) compare(a *Allocator) error {
	users, from, blocked := map[netip.Addr]map[Service]Sharing{}, map[netip.Addr]string{}, map[netip.Addr]bool{}
	until := map[netip.Addr]time.Time{}
	for address, h := range a.held {
		if h.blocked != "" {
			blocked[address] = true
			continue
		}
		if from[address] = h.pool; !h.until.IsZero() {
			until[address] = h.until
			continue
		}
		users[address] = maps.Collect(h.users.all())
	}
	diff := cmp.Diff(m.users, users) + cmp.Diff(m.from, from) + cmp.Diff(m.blocked, blocked) + cmp.Diff(m.until, until)
	if diff != "" {
		return fmt.Errorf("holdings (-want +got):\n%s", diff)
	}
	return checkConsistent(a)
}

// restart returns a new allocator that learns everything from the model, in any order, as from claims.
func (m *model) restart(rng *rand.Rand) *Allocator {
	a := New()
	poolsFirst := rng.IntN(2) == 0
	if poolsFirst {
		a.SetPools(m.pools)
	}
	for address, users := range m.users {
		for service, sharing := range users {
			a.Hold(service, address, m.from[address], sharing)
		}
	}
	m.setReserved(a)
	if !poolsFirst {
		a.SetPools(m.pools)
	}
	m.blocked = map[netip.Addr]bool{}
	for address := range maps.Clone(m.until) {
		if m.pool(m.from[address]).Name == "" {
			m.forget(address)
		}
	}
	for address, left := range m.left {
		services := slices.SortedFunc(maps.Keys(left), func(x, y Service) int { return left[x].Compare(left[y]) })
		m.left[address] = nil
		for _, service := range services {
			a.Released(service, address, m.from[address], left[service])
			m.leave(service, address, left[service])
		}
	}
	return a
}

func (m *model) setReserved(a *Allocator) {
	var reservations []Reservation
	for _, r := range m.reserved {
		reservations = append(reservations, Reservation{Range: r, Reason: ReasonNodeAddress, Owner: "somebody"})
	}
	a.SetReserved(reservations)
}

// randomPools makes up to four pools that may overlap and run out soon.
func randomPools(rng *rand.Rand, universe4, universe6 Range) []Pool {
	var pools []Pool
	for _, name := range []string{"a", "b", "c", "d"} {
		p := Pool{Name: name, AvoidBuggyIPs: rng.IntN(2) == 0, Stable: rng.IntN(2) == 0}
		p.Ranges = slices.Concat(randomRanges(rng, universe4, 1), randomRanges(rng, universe6, 1))
		p.Exclude = slices.Concat(randomRanges(rng, universe4, 1), randomRanges(rng, universe6, 1))
		if rng.IntN(3) > 0 {
			p.Exclude = nil
		}
		if rng.IntN(3) == 0 {
			p.PerNamespace = map[family.Family]int{family.IPv4: 1 + rng.IntN(3)}
		}
		if rng.IntN(3) == 0 {
			p.ReuseAfter = time.Duration(1+rng.IntN(10)) * time.Minute
		}
		p.FixedDenied = rng.IntN(4) == 0
		if rng.IntN(6) > 0 {
			pools = append(pools, p)
		}
	}
	return pools
}

func randomSharing(rng *rand.Rand, service Service) Sharing {
	s := Sharing{Key: []string{"", "", "k1", "k2"}[rng.IntN(4)], Namespace: service.Namespace, OwnNamespaceOnly: rng.IntN(10) == 0}
	s.Consents = [][]string{nil, {"default"}, {"team-a"}, {"default", "team-a", "team-b"}, {AnyNamespace}}[rng.IntN(5)]
	for range 1 + rng.IntN(2) {
		s.Ports = append(s.Ports, Port{"TCP", int32(80 + rng.IntN(5))})
	}
	if rng.IntN(4) == 0 {
		s.Backends = "app=web"
	}
	return s
}

func randomRequest(rng *rand.Rand, service Service, universe []netip.Addr) Request {
	req := Request{
		Service:    service,
		Families:   [][]family.Family{{family.IPv4}, {family.IPv6}, {family.IPv4, family.IPv6}, {family.IPv6, family.IPv4}}[rng.IntN(4)],
		RequireAll: rng.IntN(2) == 0,
		Named:      rng.IntN(4) == 0,
		Reallocate: rng.IntN(4) == 0,
		Sharing:    randomSharing(rng, service),
	}
	for _, i := range rng.Perm(5)[:rng.IntN(6)] {
		req.Pools = append(req.Pools, Candidate{string(rune('a' + i)), rng.IntN(5) > 0})
	}
	for range rng.IntN(3) {
		req.Published = append(req.Published, universe[rng.IntN(len(universe))])
	}
	for _, af := range req.Families {
		if a := universe[rng.IntN(len(universe))]; rng.IntN(3) == 0 && family.Of(a) == af {
			req.Addresses = append(req.Addresses, a)
		}
	}
	return req
}

// Random pools, requests, releases, edits and restarts agree with the model, step by step.
func TestAllocatorAgainstModel(t *testing.T) {
	universe4, universe6 := ranges("10.0.0.248-10.0.1.7")[0], ranges("2001:db8::fff8-2001:db8::1:7")[0]
	universe := slices.Concat(addresses(universe4), addresses(universe6))
	for round := range 6 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			rng := seeded(t)
			m := newModel()
			a := New()
			counts := map[string]int{}
			for step := range 1000 {
				service := Service{[]string{"default", "team-a"}[rng.IntN(2)], fmt.Sprint("s", rng.IntN(6))}
				address := universe[rng.IntN(len(universe))]
				what := ""
				switch dice := rng.IntN(100); {
				case dice < 3:
					what = "SetPools"
					m.setPools(randomPools(rng, universe4, universe6))
					a.SetPools(m.pools)
				case dice < 5:
					what, a = "Restart", m.restart(rng)
				case dice < 9:
					sharing := randomSharing(rng, service)
					what = fmt.Sprintf("Hold(%s, %s)", service, address)
					a.Hold(service, address, "b", sharing)
					m.hold(service, Assignment{address, "b"}, sharing)
				case dice < 12:
					what = fmt.Sprintf("Block(%s)", address)
					a.Block(address, "kubernetes")
					if len(m.users[address]) == 0 {
						m.forget(address)
						m.blocked[address] = true
					}
				case dice < 14:
					what = fmt.Sprintf("Unblock(%s)", address)
					a.Unblock(address)
					delete(m.blocked, address)
				case dice < 19:
					what, m.reserved = "SetReserved", slices.Concat(randomRanges(rng, universe4, 2), randomRanges(rng, universe6, 2))
					m.setReserved(a)
				case dice < 24:
					m.now = m.now.Add(time.Duration(rng.IntN(300)) * time.Second)
					what = "Expire"
					if got, want := a.expire(m.now), m.expire(); got != want {
						t.Fatalf("Step %d, %s = %v, want %v", step, what, got, want)
					}
				case dice < 40:
					at := m.now
					if rng.IntN(4) == 0 {
						at = time.Time{}
					}
					all := append(m.held(service, family.IPv4), m.held(service, family.IPv6)...)
					what = fmt.Sprintf("Release(%s, %s)", service, all)
					for _, x := range all {
						m.release(service, x, at)
						a.Release(at, service, x)
					}
				default:
					req := randomRequest(rng, service, universe)
					what = fmt.Sprintf("Allocate(%+v)", req)
					m.expire()
					out, err := allocateAt(t, a, m.now, req)
					if wrong := m.check(req, out, err, universe); wrong != nil {
						t.Fatalf("Step %d, %s did %s: %v\npools %v\nmodel %v", step, what, describe(out, err), wrong, m.pools, m.users)
					}
					counts[fmt.Sprintf("error %v, missing %d, added %d, surplus %d", err != nil, len(out.Missing), len(out.Added), len(out.Surplus))]++
					for _, as := range out.Assigned {
						m.hold(service, as, req.Sharing)
					}
					if rng.IntN(5) > 0 {
						for _, as := range out.Surplus {
							a.Release(m.now, service, as.Address)
							m.release(service, as.Address, m.now)
						}
					}
				}
				if err := m.compare(a); err != nil || t.Failed() {
					t.Fatalf("Step %d, %s: %v", step, what, err)
				}
			}
			if len(counts) < 10 {
				t.Errorf("the requests ended in few ways: %v", counts)
			}

			for address, users := range m.users {
				for service := range maps.Clone(users) {
					a.Release(time.Time{}, service, address)
				}
			}
			for address := range m.blocked {
				a.Unblock(address)
			}
			a.expire(m.now.Add(24 * time.Hour))
			a.SetReserved(nil)
			if diff := cmp.Diff(state(withPools(m.pools...)), state(a)); diff != "" {
				t.Errorf("after everything was released the pools are not wholly free (-want +got):\n%s", diff)
			}
		})
	}
}

// Many Services come and go at the same time in a pool that is too small for all, while its pools are edited and
// looked at.
func TestConcurrentServices(t *testing.T) {
	small, large := makePool("a", "10.0.0.0/29 2001:db8::/125"), makePool("a", "10.0.0.0/28 2001:db8::/124")
	a := withPools(small)
	var (
		mu    sync.Mutex
		owner = map[netip.Addr]Service{} // the Service that believes to have an address
		wg    sync.WaitGroup
	)
	for i := range 16 {
		wg.Go(func() {
			service := Service{"default", fmt.Sprint(i)}
			for range 300 {
				out, err := a.Allocate(noon,
					Request{Service: service, Families: []family.Family{family.IPv4, family.IPv6}, RequireAll: i%2 == 0, Pools: auto("a")},
				)
				if err != nil {
					continue
				}
				mu.Lock()
				for _, as := range out.Assigned {
					if was, taken := owner[as.Address]; taken {
						t.Errorf("%s got %s, which %s has", service, as.Address, was)
					}
					owner[as.Address] = service
				}
				mu.Unlock()
				if held := a.Held(service); len(held) != len(out.Assigned) {
					t.Errorf("%s holds %v after it got %v", service, held, out.Assigned)
				}
				mu.Lock()
				for _, as := range out.Assigned {
					delete(owner, as.Address)
				}
				mu.Unlock()
				for _, as := range out.Assigned {
					a.Release(time.Time{}, service, as.Address)
				}
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			a.SetPools([]Pool{large})
			a.Block(addr("10.0.0.3"), "kubernetes")
			a.Usage()
			a.SetPools([]Pool{small})
			a.Unblock(addr("10.0.0.3"))
		}
	})
	wg.Wait()
	if err := checkConsistent(a); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(state(withPools(small)), state(a)); diff != "" {
		t.Errorf("after everything was released (-want +got):\n%s", diff)
	}
}
