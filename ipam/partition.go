// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"math"
	"math/big"
	"net/netip"
	"slices"

	"github.com/google/btree"
	"go4.org/netipx"
)

// partition is one family of one pool: the addresses that may be given, and those of them that are free.
//
// Free addresses are kept as maximal runs in a tree, never one by one, so that a /64 costs as much as a /32. In 192.0.2.0/29, of which
// 192.0.2.2 is taken, two runs are free, 192.0.2.0-192.0.2.1 and 192.0.2.3-192.0.2.7.
//
// The ends of a run are usable addresses. With avoidBuggy there may be addresses inside it that are not, and two runs of one allowed range
// are never separated by such addresses alone: 192.0.2.254-192.0.3.1 is one run. So the neighbour of any address in a run is found in at
// most two steps.
//
// Reserved addresses are neither free nor taken, and capacity does not count them, although the partition contains them.
type partition struct {
	ranges     []Range // sorted, disjoint, not adjacent
	allowed    []Range // ranges without what is excluded; sorted, disjoint, not adjacent
	avoidBuggy bool
	stable     bool
	usable     *big.Int // addresses in allowed that avoidBuggy does not leave out
	capacity   *big.Int // usable ones that are not reserved
	taken      uint64   // of capacity
	free       *btree.BTreeG[Range]
}

func newPartition(ranges, exclude []Range, avoidBuggy, stable bool) *partition {
	p := &partition{
		allowed:    without(ranges, exclude),
		avoidBuggy: avoidBuggy,
		stable:     stable,
		usable:     new(big.Int),
		free:       btree.NewG(16, func(a, b Range) bool { return a.First.Less(b.First) }),
	}
	p.ranges = p.allowed
	if len(exclude) > 0 {
		p.ranges = without(ranges, nil)
	}
	for _, r := range p.allowed {
		p.usable.Add(p.usable, p.usableIn(r))
		p.insertFree(r)
	}
	p.capacity = new(big.Int).Set(p.usable)
	return p
}

// contains reports whether a is one of the partition's addresses, reserved or not.
func (p *partition) contains(a netip.Addr) bool {
	_, ok := p.rangeOf(a)
	return ok && !p.skips(a)
}

// rangeOf returns the allowed range that a lies in.
func (p *partition) rangeOf(a netip.Addr) (Range, bool) {
	i, found := slices.BinarySearchFunc(p.allowed, a, func(r Range, a netip.Addr) int { return r.First.Compare(a) })
	if !found {
		i--
	}
	if i < 0 || !p.allowed[i].Contains(a) {
		return Range{}, false
	}
	return p.allowed[i], true
}

// skips reports whether a is one of the addresses that avoidBuggy leaves out.
func (p *partition) skips(a netip.Addr) bool {
	if !p.avoidBuggy || !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

// take removes a, which the partition contains, from the free addresses. It does nothing if a is not free.
func (p *partition) take(a netip.Addr) {
	run, ok := p.runAtOrBefore(a)
	if !ok || !run.Contains(a) || p.skips(a) {
		return
	}
	p.free.Delete(run)
	if run.First.Less(a) {
		p.insertFree(Range{run.First, a.Prev()})
	}
	if a.Less(run.Last) {
		p.insertFree(Range{a.Next(), run.Last})
	}
	p.taken++
}

// put makes a free again, which take has removed from the free addresses.
func (p *partition) put(a netip.Addr) {
	p.join(Range{a, a})
	p.taken--
}

// join adds a run, of which no address is free and whose ends are usable, to the free addresses.
func (p *partition) join(run Range) {
	if before, ok := p.runAtOrBefore(run.First); ok && p.next(before.Last) == run.First && p.adjoins(before.Last, run.First) {
		p.free.Delete(before)
		run.First = before.First
	}
	next := p.next(run.Last)
	if after, ok := p.free.Get(Range{First: next}); ok && p.adjoins(run.Last, next) {
		p.free.Delete(after)
		run.Last = after.Last
	}
	p.free.ReplaceOrInsert(run)
}

// reserve takes the partition's addresses in r, of which none is reserved, from those that may be given, whether they are free or taken. It
// costs as much as r has free runs.
func (p *partition) reserve(r Range) {
	for _, allowed := range rangesAround(p.allowed, r) {
		cut, ok := p.trim(common(allowed, r))
		if !ok {
			continue
		}
		var runs []Range
		if before, ok := p.runAtOrBefore(cut.First); ok && before.Overlaps(cut) {
			runs = append(runs, before)
		}
		p.free.AscendGreaterOrEqual(cut, func(run Range) bool {
			if run.First.Compare(cut.Last) > 0 {
				return false
			}
			if run.First != cut.First || len(runs) == 0 {
				runs = append(runs, run)
			}
			return true
		})
		taken := p.usableIn(cut)
		for _, run := range runs {
			taken.Sub(taken, p.usableIn(common(run, cut)))
			p.free.Delete(run)
			if run.First.Less(cut.First) {
				p.insertFree(Range{run.First, cut.First.Prev()})
			}
			if cut.Last.Less(run.Last) {
				p.insertFree(Range{cut.Last.Next(), run.Last})
			}
		}
		p.capacity.Sub(p.capacity, p.usableIn(cut))
		p.taken -= taken.Uint64()
	}
}

// unreserve undoes reserve. The addresses in held come back as taken, and all others as free. It reports whether there are any of these.
func (p *partition) unreserve(r Range, held []netip.Addr) (freed bool) {
	for _, allowed := range rangesAround(p.allowed, r) {
		cut, ok := p.trim(common(allowed, r))
		if !ok {
			continue
		}
		p.join(cut)
		back := p.usableIn(cut)
		p.capacity.Add(p.capacity, back)
		before := p.taken
		for _, a := range held {
			if cut.Contains(a) {
				p.take(a)
			}
		}
		freed = freed || back.Cmp(new(big.Int).SetUint64(p.taken-before)) > 0
	}
	return freed
}

// adjoins reports whether a and b lie in the same allowed range.
func (p *partition) adjoins(a, b netip.Addr) bool {
	r, ok := p.rangeOf(a)
	return ok && r.Contains(b)
}

// first returns the free address that service gets: the lowest one, or, in a stable partition, the first free one of those that
// the service prefers. Where none of these is free, the service gets the first one that follows the one it prefers most, going round at the end.
func (p *partition) first(service Service) (netip.Addr, bool) {
	if p.stable && len(p.ranges) > 0 {
		var start netip.Addr
		for i, seed := range seeds(service) {
			preferred := p.draw(seed)
			if p.isFree(preferred) {
				return preferred, true
			}
			if i == 0 {
				start = preferred
			}
		}
		if run, ok := p.runAtOrBefore(start); ok && run.Contains(start) { // avoidBuggy leaves out start.
			return p.next(start), true
		}
		found := Range{}
		p.free.AscendGreaterOrEqual(Range{First: start}, func(run Range) bool { found = run; return false })
		if found.First.IsValid() {
			return found.First, true
		}
	}
	run, ok := p.free.Min()
	return run.First, ok
}

// isFree reports whether a may be given.
func (p *partition) isFree(a netip.Addr) bool {
	run, ok := p.runAtOrBefore(a)
	return ok && run.Contains(a) && !p.skips(a)
}

// next returns the usable address after a, which may lie outside the partition.
func (p *partition) next(a netip.Addr) netip.Addr {
	for a = a.Next(); a.IsValid() && p.skips(a); {
		a = a.Next()
	}
	return a
}

func (p *partition) runAtOrBefore(a netip.Addr) (found Range, ok bool) {
	p.free.DescendLessOrEqual(Range{First: a}, func(run Range) bool { found, ok = run, true; return false })
	return found, ok
}

// insertFree adds the addresses from the first to the last usable one of r to the free ones.
func (p *partition) insertFree(r Range) {
	if r, ok := p.trim(r); ok {
		p.free.ReplaceOrInsert(r)
	}
}

// trim takes away from both ends of r what avoidBuggy leaves out, and reports whether anything is left.
func (p *partition) trim(r Range) (trimmed Range, ok bool) {
	for p.skips(r.First) && r.First.Less(r.Last) {
		r.First = r.First.Next()
	}
	for p.skips(r.Last) && r.First.Less(r.Last) {
		r.Last = r.Last.Prev()
	}
	return r, !p.skips(r.First)
}

// usableIn counts the addresses of r that avoidBuggy does not leave out.
func (p *partition) usableIn(r Range) *big.Int {
	if !r.First.Is4() {
		return size(r)
	}
	first, last := uint64(v4(r.First)), uint64(v4(r.Last))
	n := last - first + 1
	if p.avoidBuggy {
		// upTo(n, k) counts the numbers below n that are k modulo 256.
		upTo := func(n, k uint64) uint64 { return (n + 255 - k) / 256 }
		for _, k := range []uint64{0, 255} {
			n -= upTo(last+1, k) - upTo(first, k)
		}
	}
	return new(big.Int).SetUint64(n)
}

// saturated returns a count, or math.MaxInt64 where it is larger.
func saturated(n *big.Int) int64 {
	if !n.IsInt64() {
		return math.MaxInt64
	}
	return n.Int64()
}

func v4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// size counts the addresses of r.
func size(r Range) *big.Int {
	first, last := new(big.Int).SetBytes(r.First.AsSlice()), new(big.Int).SetBytes(r.Last.AsSlice())
	return last.Sub(last, first).Add(last, big.NewInt(1))
}

// without returns what ranges of one family have beyond exclude: sorted, disjoint, not adjacent.
func without(ranges, exclude []Range) []Range {
	var set netipx.IPSetBuilder
	for _, r := range ranges {
		set.AddRange(netipx.IPRangeFrom(r.First, r.Last))
	}
	for _, r := range exclude {
		set.RemoveRange(netipx.IPRangeFrom(r.First, r.Last))
	}
	left, _ := set.IPSet() // The error would be of a range that ends before it starts: it is left out.
	var allowed []Range
	for _, r := range left.Ranges() {
		allowed = append(allowed, Range{r.From(), r.To()})
	}
	return allowed
}
