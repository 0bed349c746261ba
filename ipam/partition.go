// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
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
type partition struct {
	allowed    []Range // sorted, disjoint, not adjacent
	avoidBuggy bool
	stable     bool
	capacity   uint64 // usable addresses in allowed; saturates at math.MaxInt64
	taken      uint64
	free       *btree.BTreeG[Range]
}

func newPartition(ranges, exclude []Range, avoidBuggy, stable bool) *partition {
	p := &partition{
		allowed:    without(ranges, exclude),
		avoidBuggy: avoidBuggy,
		stable:     stable,
		free:       btree.NewG(16, func(a, b Range) bool { return a.First.Less(b.First) }),
	}
	for _, r := range p.allowed {
		p.capacity = saturatingAdd(p.capacity, p.usableIn(r))
		p.insertFree(r)
	}
	return p
}

// contains reports whether the partition may give a.
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
	run := Range{a, a}
	if before, ok := p.runAtOrBefore(a); ok && p.next(before.Last) == a && p.adjoins(before.Last, a) {
		p.free.Delete(before)
		run.First = before.First
	}
	next := p.next(a)
	if after, ok := p.free.Get(Range{First: next}); ok && p.adjoins(a, next) {
		p.free.Delete(after)
		run.Last = after.Last
	}
	p.free.ReplaceOrInsert(run)
	p.taken--
}

// adjoins reports whether a and b lie in the same allowed range.
func (p *partition) adjoins(a, b netip.Addr) bool {
	r, ok := p.rangeOf(a)
	return ok && r.Contains(b)
}

// first returns the free address that service gets: the lowest one, or, in a stable partition, the first at or after
// the address that the service's name hashes to, going round at the end.
func (p *partition) first(service Service) (netip.Addr, bool) {
	if p.stable && len(p.allowed) > 0 {
		start := p.hashed(service)
		if run, ok := p.runAtOrBefore(start); ok && run.Contains(start) {
			if p.skips(start) {
				start = p.next(start)
			}
			return start, true
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

// hashed returns the allowed address at a hash of the service's name, taken modulo the size of the partition.
func (p *partition) hashed(service Service) netip.Addr {
	total := new(big.Int)
	for _, r := range p.allowed {
		total.Add(total, size(r))
	}
	hash := sha256.Sum256([]byte(service.String()))
	offset := new(big.Int).SetBytes(hash[:])
	offset.Mod(offset, total)
	for _, r := range p.allowed {
		n := size(r)
		if offset.Cmp(n) < 0 {
			return add(r.First, offset)
		}
		offset.Sub(offset, n)
	}
	panic("ipam: an offset below the size of a partition lies in none of its ranges")
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
	for p.skips(r.First) && r.First.Less(r.Last) {
		r.First = r.First.Next()
	}
	for p.skips(r.Last) && r.First.Less(r.Last) {
		r.Last = r.Last.Prev()
	}
	if !p.skips(r.First) {
		p.free.ReplaceOrInsert(r)
	}
}

// usableIn counts the addresses of r that may be given, saturating at math.MaxInt64.
func (p *partition) usableIn(r Range) uint64 {
	if !r.First.Is4() {
		first, last := r.First.As16(), r.Last.As16()
		lo, borrow := bits.Sub64(binary.BigEndian.Uint64(last[8:]), binary.BigEndian.Uint64(first[8:]), 0)
		hi, _ := bits.Sub64(binary.BigEndian.Uint64(last[:8]), binary.BigEndian.Uint64(first[:8]), borrow)
		if hi > 0 || lo >= math.MaxInt64 {
			return math.MaxInt64
		}
		return lo + 1
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
	return n
}

func v4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// saturatingAdd adds two counts of at most math.MaxInt64, which is also the most that it returns.
func saturatingAdd(a, b uint64) uint64 { return min(a+b, math.MaxInt64) }

func size(r Range) *big.Int {
	first, last := new(big.Int).SetBytes(r.First.AsSlice()), new(big.Int).SetBytes(r.Last.AsSlice())
	return last.Sub(last, first).Add(last, big.NewInt(1))
}

func add(a netip.Addr, offset *big.Int) netip.Addr {
	b := a.AsSlice()
	new(big.Int).Add(new(big.Int).SetBytes(b), offset).FillBytes(b)
	sum, _ := netip.AddrFromSlice(b)
	return sum
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
