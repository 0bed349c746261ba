// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
)

// span is a range that belongs to the item of this number: to a pool, or to a reservation.
type span struct {
	Range
	item int
}

// segment is a range in which every address belongs to the same items, in ascending order.
type segment struct {
	Range
	items []int
}

// index says which items an address belongs to, in time that grows with the logarithm of their number. Its segments are
// sorted and disjoint. For example, item 0 has 10.0.0.0-10.0.0.9, and item 1 has 10.0.0.8-10.0.0.15. The index has three
// segments: 10.0.0.0-10.0.0.7 of item 0, 10.0.0.8-10.0.0.9 of both, and 10.0.0.10-10.0.0.15 of item 1.
type index []segment

func newIndex(spans []span) index {
	type bound struct {
		at    netip.Addr
		item  int
		opens bool
	}
	var x index
	for _, af := range family.All {
		var bounds []bound
		for _, s := range spans {
			if s.Family() != af {
				continue
			}
			bounds = append(bounds, bound{s.First, s.item, true})
			if after := s.Last.Next(); after.IsValid() { // A span up to the last address of its family never ends.
				bounds = append(bounds, bound{after, s.item, false})
			}
		}
		slices.SortFunc(bounds, func(a, b bound) int { return a.at.Compare(b.at) })
		var open []int // the items of open spans, in order; one is there once for each of its spans
		for i, b := range bounds {
			at, _ := slices.BinarySearch(open, b.item)
			if b.opens {
				open = slices.Insert(open, at, b.item)
			} else {
				open = slices.Delete(open, at, at+1)
			}
			last := lastOf(af)
			if i+1 < len(bounds) {
				if bounds[i+1].at == b.at {
					continue
				}
				last = bounds[i+1].at.Prev()
			}
			if len(open) > 0 {
				x = append(x, segment{Range{b.at, last}, slices.Compact(slices.Clone(open))})
			}
		}
	}
	return x
}

// lastOf returns the highest address of the family.
func lastOf(af family.Family) netip.Addr {
	if af == family.IPv4 {
		return netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	var all [16]byte
	for i := range all {
		all[i] = 255
	}
	return netip.AddrFrom16(all)
}

// at returns the items that the address belongs to.
func (x index) at(a netip.Addr) []int {
	i, found := slices.BinarySearchFunc(x, a, func(s segment, a netip.Addr) int { return s.First.Compare(a) })
	if !found {
		i--
	}
	if i < 0 || !x[i].Contains(a) {
		return nil
	}
	return x[i].items
}

// overlapping returns the segments that have an address in common with the range.
func (x index) overlapping(r Range) index {
	low, _ := slices.BinarySearchFunc(x, r, func(s segment, r Range) int {
		if s.Last.Less(r.First) {
			return -1
		}
		return 1
	})
	high := low
	for high < len(x) && x[high].Overlaps(r) {
		high++
	}
	return x[low:high]
}

// beyond returns the ranges of x that y does not cover.
func (x index) beyond(y index) (ranges []Range) {
	for _, s := range x {
		rest, left := s.Range, true
		for len(y) > 0 && y[0].Last.Less(rest.First) {
			y = y[1:]
		}
		for i := 0; left && i < len(y) && y[i].Overlaps(rest); i++ {
			if rest.First.Less(y[i].First) {
				ranges = append(ranges, Range{rest.First, y[i].First.Prev()})
			}
			if left = y[i].Last.Less(rest.Last); left {
				rest.First = y[i].Last.Next()
			}
		}
		if left {
			ranges = append(ranges, rest)
		}
	}
	return ranges
}

// common returns the addresses that two ranges, which overlap, have in common.
func common(a, b Range) Range {
	return Range{maxAddr(a.First, b.First), minAddr(a.Last, b.Last)}
}

func minAddr(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

// rangesAround returns the sorted, disjoint ranges that overlap r, as they are.
func rangesAround(sorted []Range, r Range) []Range {
	low, _ := slices.BinarySearchFunc(sorted, r, func(s, r Range) int {
		if s.Last.Less(r.First) {
			return -1
		}
		return 1
	})
	high := low
	for high < len(sorted) && sorted[high].Overlaps(r) {
		high++
	}
	return sorted[low:high]
}
