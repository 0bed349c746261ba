// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// text writes ranges as the tables do.
func text(ranges []Range) string {
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = r.String()
	}
	return strings.Join(words, " ")
}

func TestMergeAndSubtract(t *testing.T) {
	tests := []struct {
		name, ranges, exclude, want string
	}{
		{name: "nothing"},
		{name: "ranges that are apart stay apart", ranges: "10.0.0.1-10.0.0.3 10.0.0.5", want: "10.0.0.1-10.0.0.3 10.0.0.5"},
		{
			name: "ranges are sorted", ranges: "10.0.1.0/24 10.0.3.0/24 10.0.0.0-10.0.0.9",
			want: "10.0.0.0-10.0.0.9 10.0.1.0-10.0.1.255 10.0.3.0-10.0.3.255",
		},
		{name: "ranges that touch become one", ranges: "10.0.0.128/25 10.0.0.0/25", want: "10.0.0.0-10.0.0.255"},
		{name: "ranges that overlap become one", ranges: "10.0.0.0-10.0.0.9 10.0.0.5-10.0.0.20", want: "10.0.0.0-10.0.0.20"},
		{name: "a range inside another disappears", ranges: "10.0.0.0/24 10.0.0.7 10.0.0.8-10.0.0.9", want: "10.0.0.0-10.0.0.255"},
		{name: "a range given twice counts once", ranges: "10.0.0.7 10.0.0.7", want: "10.0.0.7"},
		{
			name: "nothing comes after the top of IPv4", ranges: "255.255.255.254/31 255.255.255.255 0.0.0.0",
			want: "0.0.0.0 255.255.255.254-255.255.255.255",
		},
		{name: "nothing comes after the top of IPv6", ranges: "ffff::/16 " + topIPv6 + " ::", want: ":: ffff::-" + topIPv6},
		{name: "an exclusion inside splits", ranges: "10.0.0.0/29", exclude: "10.0.0.3-10.0.0.4", want: "10.0.0.0-10.0.0.2 10.0.0.5-10.0.0.7"},
		{name: "an exclusion of the ends shortens", ranges: "10.0.0.0/29", exclude: "10.0.0.0 10.0.0.7", want: "10.0.0.1-10.0.0.6"},
		{name: "an exclusion of everything leaves nothing", ranges: "10.0.0.0/29 10.0.1.0/29", exclude: "10.0.0.0/16"},
		{name: "an exclusion of just the range leaves nothing", ranges: "10.0.0.0/29", exclude: "10.0.0.0/29"},
		{
			name: "an exclusion across two ranges shortens both", ranges: "10.0.0.0/30 10.0.0.8/30", exclude: "10.0.0.3-10.0.0.8",
			want: "10.0.0.0-10.0.0.2 10.0.0.9-10.0.0.11",
		},
		{
			name: "exclusions that touch leave nothing between", ranges: "10.0.0.0/29", exclude: "10.0.0.2 10.0.0.3",
			want: "10.0.0.0-10.0.0.1 10.0.0.4-10.0.0.7",
		},
		{name: "an exclusion elsewhere changes nothing", ranges: "10.0.0.0/29", exclude: "10.0.1.0/24", want: "10.0.0.0-10.0.0.7"},
		{
			name: "an exclusion up to the top of IPv4", ranges: "255.255.255.248/29", exclude: "255.255.255.254/31",
			want: "255.255.255.248-255.255.255.253",
		},
		{name: "an exclusion from the bottom of IPv6", ranges: "::/120", exclude: "::-::f", want: "::10-::ff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := text(without(ranges(tt.ranges), ranges(tt.exclude)))
			if got != tt.want {
				t.Errorf("%s without %s is %s, want %s", tt.ranges, tt.exclude, got, tt.want)
			}
		})
	}
}

func TestPartition(t *testing.T) {
	tests := []struct {
		name            string
		ranges, exclude string
		avoidBuggy      bool
		capacity        uint64
		free            string
	}{
		{name: "a /24", ranges: "10.0.0.0/24", capacity: 256, free: "10.0.0.0-10.0.0.255"},
		{name: "a /24 without buggy addresses", ranges: "10.0.0.0/24", avoidBuggy: true, capacity: 254, free: "10.0.0.1-10.0.0.254"},
		{name: "a run may have buggy addresses inside", ranges: "10.0.0.0/22", avoidBuggy: true, capacity: 1016, free: "10.0.0.1-10.0.3.254"},
		{name: "only buggy addresses", ranges: "10.0.0.255-10.0.1.0", avoidBuggy: true},
		{name: "one buggy address", ranges: "10.0.0.0/32", avoidBuggy: true},
		{name: "buggy addresses at both ends", ranges: "10.0.0.255-10.0.2.0", avoidBuggy: true, capacity: 254, free: "10.0.1.1-10.0.1.254"},
		{
			name: "avoiding buggy addresses concerns IPv4 alone", ranges: "2001:db8::/120", avoidBuggy: true, capacity: 256,
			free: "2001:db8::-2001:db8::ff",
		},
		{
			name: "the top of IPv4 without buggy addresses", ranges: "255.255.255.252/30", avoidBuggy: true, capacity: 3,
			free: "255.255.255.252-255.255.255.254",
		},
		{
			name: "excluded addresses", ranges: "10.0.0.0/24", exclude: "10.0.0.1 10.0.0.128/25", capacity: 127,
			free: "10.0.0.0 10.0.0.2-10.0.0.127",
		},
		{name: "all excluded", ranges: "10.0.0.0/24", exclude: "10.0.0.0/8"},
		{name: "all of IPv4", ranges: "0.0.0.0/0", capacity: 1 << 32, free: "0.0.0.0-255.255.255.255"},
		{
			name: "all of IPv4 without buggy addresses", ranges: "0.0.0.0/0", avoidBuggy: true, capacity: 1<<32 - 2<<24,
			free: "0.0.0.1-255.255.255.254",
		},
		{name: "a /65 just saturates", ranges: "2001:db8::/65", capacity: math.MaxInt64, free: "2001:db8::-2001:db8::7fff:ffff:ffff:ffff"},
		{
			name: "two less than a /65 does not", ranges: "2001:db8::2-2001:db8::7fff:ffff:ffff:ffff", capacity: math.MaxInt64 - 1,
			free: "2001:db8::2-2001:db8::7fff:ffff:ffff:ffff",
		},
		{
			name: "a range across a /64 boundary", ranges: "2001:db8::ffff:ffff:ffff:fffe-2001:db8:0:1::1", capacity: 4,
			free: "2001:db8::ffff:ffff:ffff:fffe-2001:db8:0:1::1",
		},
		{name: "all of IPv6 saturates", ranges: "::/0", capacity: math.MaxInt64, free: "::-" + topIPv6},
		{
			name: "two saturated ranges saturate", ranges: "2001:db8::/64 2001:db9::/64", capacity: math.MaxInt64,
			free: "2001:db8::-2001:db8::ffff:ffff:ffff:ffff 2001:db9::-2001:db9::ffff:ffff:ffff:ffff",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPartition(ranges(tt.ranges), ranges(tt.exclude), tt.avoidBuggy, false)
			if uint64(saturated(p.capacity)) != tt.capacity {
				t.Errorf("capacity is %d, want %d", p.capacity, tt.capacity)
			}
			if got := text(p.runs()); got != tt.free {
				t.Errorf("free is %s, want %s", got, tt.free)
			}
			first, ok := p.first(Service{"default", "web"})
			if ok != (tt.free != "") || ok && first != ranges(tt.free)[0].First {
				t.Errorf("first is %s, %v; free is %s", first, ok, tt.free)
			}
		})
	}
}

// runs lists the free runs in order.
func (p *partition) runs() []Range {
	var runs []Range
	p.free.Ascend(func(r Range) bool { runs = append(runs, r); return true })
	return runs
}

// modelPartition is a partition written one address at a time.
type modelPartition struct {
	ranged   []netip.Addr // with the excluded ones
	allowed  []netip.Addr // with the buggy ones
	usable   []netip.Addr
	free     map[netip.Addr]bool
	reserved map[netip.Addr]bool // of usable
}

func newModelPartition(universe Range, ranges, exclude []Range, avoidBuggy bool) *modelPartition {
	m := &modelPartition{free: map[netip.Addr]bool{}, reserved: map[netip.Addr]bool{}}
	in := func(ranges []Range, a netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(r Range) bool { return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 })
	}
	for _, a := range addresses(universe) {
		if in(ranges, a) {
			m.ranged = append(m.ranged, a)
		}
		if !in(ranges, a) || in(exclude, a) {
			continue
		}
		m.allowed = append(m.allowed, a)
		if s := a.String(); avoidBuggy && (strings.HasSuffix(s, ".0") || strings.HasSuffix(s, ".255")) {
			continue
		}
		m.usable = append(m.usable, a)
		m.free[a] = true
	}
	return m
}

// first is what a service gets: the lowest free address or, in a stable partition, the first free one that it prefers, or else what follows the one
// that it prefers most, going round.
func (m *modelPartition) first(service Service, stable bool) (netip.Addr, bool) {
	start := 0
	if stable && len(m.ranged) > 0 {
		for i, seed := range seeds(service) {
			preferred := modelDraw(m.ranged, seed)
			if m.free[preferred] {
				return preferred, true
			}
			if i == 0 {
				start = max(0, slices.IndexFunc(m.allowed, func(a netip.Addr) bool { return !a.Less(preferred) }))
			}
		}
	}
	for i := range m.allowed {
		if a := m.allowed[(start+i)%len(m.allowed)]; m.free[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// modelDraw draws between the halves of a list until one address is left.
func modelDraw(list []netip.Addr, seed u128) netip.Addr {
	if len(list) == 1 {
		return list[0]
	}
	hostBits := number(list[0]).xor(number(list[len(list)-1])).len()
	middle := slices.IndexFunc(list, func(a netip.Addr) bool { return number(a).bit(hostBits - 1) })
	if seed.draws(hostBits, u128{0, uint64(middle)}, u128{0, uint64(len(list) - middle)}) {
		return modelDraw(list[middle:], seed)
	}
	return modelDraw(list[:middle], seed)
}

// reserveOrBack reserves a run of addresses that are not reserved, or ends the reservation of one that is. Of the addresses that come back some
// are held.
func (m *modelPartition) reserveOrBack(p *partition, rng *rand.Rand, all []netip.Addr) {
	i := rng.IntN(len(all))
	j := i
	for most := rng.IntN(12); j+1 < len(all) && j-i < most && (m.reserved[all[j+1]] == m.reserved[all[i]] || !slices.Contains(m.usable, all[j+1])); {
		j++
	}
	var held []netip.Addr
	back := m.reserved[all[i]]
	for _, a := range all[i : j+1] {
		if !slices.Contains(m.usable, a) {
			continue
		}
		if !back {
			m.reserved[a] = true
			delete(m.free, a)
			continue
		}
		delete(m.reserved, a)
		if m.free[a] = rng.IntN(3) > 0; !m.free[a] {
			delete(m.free, a)
			held = append(held, a)
		}
	}
	if back {
		p.unreserve(Range{all[i], all[j]}, held)
	} else {
		p.reserve(Range{all[i], all[j]})
	}
}

// addresses lists a small range.
func addresses(r Range) []netip.Addr {
	list := []netip.Addr{r.First}
	for a := r.First; a != r.Last; {
		a = a.Next()
		list = append(list, a)
	}
	return list
}

// checkPartition compares a partition with its model and holds it against what its comment promises.
func checkPartition(p *partition, m *modelPartition) error {
	if want := len(m.usable) - len(m.reserved); saturated(p.capacity) != int64(want) {
		return fmt.Errorf("capacity is %d, want %d", p.capacity, want)
	}
	if want := len(m.usable) - len(m.reserved) - len(m.free); p.taken != uint64(want) {
		return fmt.Errorf("taken is %d, want %d", p.taken, want)
	}
	// The maximal runs of the model: free addresses with nothing but buggy ones, all of them allowed, between two.
	var want []Range
	var before netip.Addr // the allowed address seen last
	broken := true
	for _, a := range m.allowed {
		broken = broken || before.Next() != a
		before = a
		switch usable := slices.Contains(m.usable, a); {
		case usable && !m.free[a]:
			broken = true
		case usable && broken:
			want = append(want, Range{a, a})
			broken = false
		case usable:
			want[len(want)-1].Last = a
		}
	}
	if diff := cmp.Diff(text(want), text(p.runs())); diff != "" {
		return fmt.Errorf("free runs (-want +got):\n%s", diff)
	}
	return nil
}

// seeded returns a source of random numbers that is another one in every run, and prints its seed if the test fails.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("The seed was %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// randomRanges picks up to n ranges inside the universe, some of them next to each other.
func randomRanges(rng *rand.Rand, universe Range, n int) []Range {
	all := addresses(universe)
	var picked []Range
	for range rng.IntN(n + 1) {
		i := rng.IntN(len(all))
		j := min(i+rng.IntN(1+len(all)/4), len(all)-1)
		picked = append(picked, Range{all[i], all[j]})
		if j+1 < len(all) && rng.IntN(3) == 0 {
			picked = append(picked, Range{all[j+1], all[min(j+1+rng.IntN(8), len(all)-1)]})
		}
	}
	return picked
}

// Random partitions agree with a model that knows nothing of runs, operation by operation.
func TestPartitionAgainstModel(t *testing.T) {
	universes := ranges("10.0.0.240-10.0.1.15 0.0.0.0-0.0.0.40 255.255.254.230-255.255.255.255 " +
		"2001:db8::ffe0-2001:db8::1:0020 ::-::20 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffe0-" + topIPv6)
	for _, universe := range universes {
		t.Run(universe.String(), func(t *testing.T) {
			rng := seeded(t)
			for range 60 {
				in, out := randomRanges(rng, universe, 4), randomRanges(rng, universe, 3)
				if rng.IntN(4) == 0 { // the boundary that avoidBuggy makes anyhow
					out = append(out, ranges("10.0.0.255-10.0.1.0")...)
				}
				avoidBuggy, stable := rng.IntN(2) == 0, rng.IntN(2) == 0
				p, m := newPartition(in, ofFamily(out, universe.Family()), avoidBuggy, stable), newModelPartition(universe, in, out, avoidBuggy)
				what := fmt.Sprintf("ranges %s exclude %s avoidBuggy %v stable %v", text(in), text(out), avoidBuggy, stable)
				if err := checkPartition(p, m); err != nil {
					t.Fatalf("New, %s: %v", what, err)
				}
				all := addresses(universe)
				for op := range 150 {
					a := all[rng.IntN(len(all))]
					taken := slices.Contains(m.usable, a) && !m.free[a] && !m.reserved[a]
					switch {
					case rng.IntN(5) == 0:
						m.reserveOrBack(p, rng, all)
						a = all[0]
					case rng.IntN(2) == 0 && taken:
						p.put(a)
						m.free[a] = true
					case rng.IntN(2) == 0:
						service := Service{"default", fmt.Sprint("s", op)}
						want, wantOK := m.first(service, stable)
						got, ok := p.first(service)
						if got != want || ok != wantOK {
							t.Fatalf("Operation %d, %s: first is %s, %v; want %s, %v", op, what, got, ok, want, wantOK)
						}
						if a = got; !ok {
							continue
						}
						fallthrough
					default:
						before := p.taken
						p.take(a)
						if got, want := p.taken > before, m.free[a]; got != want {
							t.Fatalf("Operation %d, %s: take(%s) found it free: %v, want %v", op, what, a, got, want)
						}
						delete(m.free, a)
					}
					if got, want := p.contains(a), slices.Contains(m.usable, a); got != want {
						t.Fatalf("Operation %d, %s: contains(%s) = %v, want %v", op, what, a, got, want)
					}
					if err := checkPartition(p, m); err != nil {
						t.Fatalf("Operation %d on %s, %s: %v", op, a, what, err)
					}
				}
			}
		})
	}
}

// Runs do not grow together across an exclusion of just the addresses that avoidBuggy passes over.
func TestExcludedBuggyAddresses(t *testing.T) {
	p := newPartition(ranges("10.0.0.250-10.0.1.5"), ranges("10.0.0.255-10.0.1.0"), true, false)
	want := text(p.runs())
	for _, order := range []string{"10.0.0.254 10.0.1.1", "10.0.1.1 10.0.0.254"} {
		for a := range strings.FieldsSeq(order) {
			p.take(addr(a))
		}
		for a := range strings.FieldsSeq(order) {
			p.put(addr(a))
		}
		if got := text(p.runs()); got != want {
			t.Errorf("after take and put of %s free is %s, want %s", order, got, want)
		}
	}
}

func TestStable(t *testing.T) {
	for _, r := range []string{"10.0.0.0/24", "10.0.0.0/8", "10.0.0.7/32", "2001:db8::/64", "::/0", "10.0.0.0/25 10.0.1.0/25"} {
		t.Run(r, func(t *testing.T) {
			web := Service{"default", "web"}
			p := newPartition(ranges(r), nil, false, true)
			first, ok := p.first(web)
			if !ok || !p.contains(first) {
				t.Fatalf("first is %s, %v", first, ok)
			}
			p.take(first)
			p.put(first)
			if again, _ := p.first(web); again != first {
				t.Errorf("after take and put first is %s, was %s", again, first)
			}
			if elsewhere, _ := newPartition(ranges(r), nil, false, true).first(web); elsewhere != first {
				t.Errorf("a fresh partition gives %s, this one gave %s", elsewhere, first)
			}
		})
	}
	t.Run("names spread over the pool", func(t *testing.T) {
		p := newPartition(ranges("10.0.0.0/24"), nil, false, true)
		seen := map[netip.Addr]bool{}
		for i := range 256 {
			a, _ := p.first(Service{"default", fmt.Sprint(i)})
			seen[a] = true
		}
		if len(seen) < 128 { // 162 are expected of 256 throws into 256 addresses
			t.Errorf("256 names share %d addresses", len(seen))
		}
	})
	t.Run("every address is given once, and no buggy one", func(t *testing.T) {
		p := newPartition(ranges("10.0.0.250-10.0.1.5"), nil, true, true)
		web := Service{"default", "web"}
		var got []netip.Addr
		for {
			a, ok := p.first(web)
			if !ok {
				break
			}
			p.take(a)
			got = append(got, a)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		var want []netip.Addr
		for _, a := range addresses(ranges("10.0.0.250-10.0.1.5")[0]) {
			if a != addr("10.0.0.255") && a != addr("10.0.1.0") {
				want = append(want, a)
			}
		}
		if diff := cmp.Diff(want, got, compareAddr); diff != "" {
			t.Errorf("addresses given, sorted (-want +got):\n%s", diff)
		}
	})
}
