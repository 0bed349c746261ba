// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// tries is how many addresses a Service prefers in a stable partition. Beside others that have theirs, or where much is excluded, the second
// and third of them is more stable than the next address that happens to be free.
const tries = 4

// seeds returns the random numbers that draw the preferred addresses of a Service, best first. They depend on its name alone.
func seeds(service Service) (seeds [tries]u128) {
	hash := sha256.Sum256([]byte(service.String()))
	for i := range seeds {
		if i < 2 {
			seeds[i] = u128{binary.BigEndian.Uint64(hash[16*i:]), binary.BigEndian.Uint64(hash[16*i+8:])}
		} else {
			seeds[i] = u128{mix(seeds[i-2].hi), mix(seeds[i-2].lo)}
		}
	}
	return seeds
}

// draw returns the address of the partition's ranges that a random number draws, whether or not it is excluded, reserved or taken, so that
// nothing but an edit of the ranges changes it.
//
// It is found by halving, as in rendezvous hashing: the address space is cut in halves, one of them is drawn with a chance in proportion to
// the addresses that the ranges have in it, and so on. For example, every name draws the one half of 10.0.0.0/24 that the range 10.0.0.0/25
// is. When the range grows to 10.0.0.0/24, there are two equal halves: one half of the names keep their address, and the others go to the
// new ones. What is drawn depends on the length of the network alone, so that a name which goes on with the same half finds the same address
// in it.
func (p *partition) draw(seed u128) netip.Addr {
	rs := p.ranges
	is4 := rs[0].First.Is4()
	for {
		first, last := number(rs[0].First), number(rs[len(rs)-1].Last)
		// The network that has all of rs, and so addresses in both of its halves, has this many bits for hosts.
		hostBits := first.xor(last).len()
		hosts := mask(hostBits)
		if len(rs) == 1 && first.and(hosts) == (u128{}) && last.and(hosts) == hosts {
			return address(first.or(seed.and(hosts)), is4)
		}
		middle := first.or(hosts).xor(mask(hostBits - 1)) // the first address of the upper half
		lower, upper, below, above := split(rs, middle, is4)
		if seed.draws(hostBits, below, above) {
			rs = upper
		} else {
			rs = lower
		}
	}
}

// split cuts sorted ranges in two at an address, and counts the addresses on both sides of it.
func split(rs []Range, middle u128, is4 bool) (lower, upper []Range, below, above u128) {
	at := address(middle, is4)
	i := 0
	for i < len(rs) && rs[i].Last.Less(at) {
		i++
	}
	lower, upper = rs[:i], rs[i:]
	if i < len(rs) && rs[i].First.Less(at) {
		lower = append(rs[:i:i], Range{rs[i].First, at.Prev()})
		upper = append([]Range{{at, rs[i].Last}}, rs[i+1:]...)
	}
	return lower, upper, count(lower), count(upper)
}

func count(rs []Range) (n u128) {
	for _, r := range rs {
		n = n.add(number(r.Last).sub(number(r.First))).add(u128{0, 1})
	}
	return n
}

// u128 is a number of 128 bits: an address, a count of addresses, or a random number.
type u128 struct{ hi, lo uint64 }

func (x u128) and(y u128) u128 { return u128{x.hi & y.hi, x.lo & y.lo} }
func (x u128) or(y u128) u128  { return u128{x.hi | y.hi, x.lo | y.lo} }
func (x u128) xor(y u128) u128 { return u128{x.hi ^ y.hi, x.lo ^ y.lo} }

func (x u128) add(y u128) u128 {
	lo, carry := bits.Add64(x.lo, y.lo, 0)
	hi, _ := bits.Add64(x.hi, y.hi, carry)
	return u128{hi, lo}
}

func (x u128) sub(y u128) u128 {
	lo, borrow := bits.Sub64(x.lo, y.lo, 0)
	hi, _ := bits.Sub64(x.hi, y.hi, borrow)
	return u128{hi, lo}
}

// len returns the number of bits without leading zeros.
func (x u128) len() int {
	if x.hi > 0 {
		return 64 + bits.Len64(x.hi)
	}
	return bits.Len64(x.lo)
}

// top returns the number without its lowest n bits, which leaves at most 64.
func (x u128) top(n int) uint64 {
	if n >= 64 {
		return x.hi >> (n - 64)
	}
	return x.hi<<(64-n) | x.lo>>n
}

// bit reports whether bit n is one; the lowest is bit 0.
func (x u128) bit(n int) bool { return x.top(n)&1 == 1 }

// draws reports whether the random number draws the upper half of a network with this many host bits, where the halves have so many
// addresses. Between equal halves the bit of the same number decides, so that draw need not halve a network that it has all of.
func (x u128) draws(hostBits int, below, above u128) bool {
	random := mix(x.lo^mix(x.hi+uint64(hostBits))) >> 1
	if x.bit(hostBits - 1) {
		random |= 1 << 63
	}
	sum := below.add(above)
	shift := max(sum.len()-63, 0) // leaves 63 bits of the sum
	high, _ := bits.Mul64(random, sum.top(shift))
	return high >= below.top(shift)
}

// mix spreads a number over all of its bits. It is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
// Generators", 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// mask returns a number whose lowest n bits are ones.
func mask(n int) u128 {
	switch {
	case n >= 128:
		return u128{1<<64 - 1, 1<<64 - 1}
	case n > 64:
		return u128{1<<(n-64) - 1, 1<<64 - 1}
	}
	return u128{0, 1<<n - 1}
}

func number(a netip.Addr) u128 {
	if a.Is4() {
		return u128{0, uint64(v4(a))}
	}
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func address(x u128, is4 bool) netip.Addr {
	if is4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(x.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], x.hi)
	binary.BigEndian.PutUint64(b[8:], x.lo)
	return netip.AddrFrom16(b)
}
