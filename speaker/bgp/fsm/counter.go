// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync/atomic"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
)

// mostCounted is where the count of a peer without a limit stops: it bounds the memory that a peer can take, at about 2.5 MB. A router should
// announce nothing to a node.
const mostCounted = 100_000

// counter counts the prefixes that a peer announces on one connection. It keeps a hash of each, so that a prefix that is announced twice, as
// one with a changed attribute is, counts once.
//
// It goes through an UPDATE by its lengths alone. Where they do not fit, the rest of the message is not counted, and nothing else happens: an error
// in a route does no harm where no route is used.
type counter struct {
	limit    *atomic.Int64 // the greatest number that is allowed, 0 for any
	seed     maphash.Seed
	prefixes map[uint64]struct{}
	ipv4     atomic.Int64
	ipv6     atomic.Int64
}

func newCounter(limit *atomic.Int64) *counter {
	return &counter{limit: limit, seed: maphash.MakeSeed(), prefixes: map[uint64]struct{}{}}
}

// exceeded returns the limit if there are more prefixes than that, else 0.
func (c *counter) exceeded() int64 {
	if limit := c.limit.Load(); limit > 0 && int64(len(c.prefixes)) > limit {
		return limit
	}
	return 0
}

// of returns the number of prefixes of a family.
func (c *counter) of(f family.Family) *atomic.Int64 {
	if f == family.IPv4 {
		return &c.ipv4
	}
	return &c.ipv6
}

// update counts what the body of an UPDATE announces and withdraws in the families.
//
//	withdrawn length (2) | withdrawn IPv4 prefixes | attributes length (2) | attributes | announced IPv4 prefixes
func (c *counter) update(body []byte, families []family.Family) {
	withdrawn, rest, ok := field(body)
	if !ok {
		return
	}
	attributes, announced, ok := field(rest)
	if !ok {
		return
	}
	has := func(f family.Family) bool { return slices.Contains(families, f) }
	if has(family.IPv4) {
		c.each(family.IPv4, withdrawn, c.remove)
	}
	for len(attributes) >= 3 {
		flags, kind := packet.BGPAttrFlag(attributes[0]), packet.BGPAttrType(attributes[1])
		size, header := int(attributes[2]), 3
		if flags&packet.BGP_ATTR_FLAG_EXTENDED_LENGTH != 0 {
			if len(attributes) < 4 {
				return
			}
			size, header = int(binary.BigEndian.Uint16(attributes[2:])), 4
		}
		if len(attributes) < header+size {
			return
		}
		value := attributes[header : header+size]
		attributes = attributes[header+size:]
		if len(value) < 3 || value[2] != packet.SAFI_UNICAST {
			continue
		}
		f := family.IPv4
		if binary.BigEndian.Uint16(value) == packet.AFI_IP6 {
			f = family.IPv6
		}
		if !has(f) {
			continue
		}
		switch kind {
		case packet.BGP_ATTR_TYPE_MP_UNREACH_NLRI:
			c.each(f, value[3:], c.remove)
		case packet.BGP_ATTR_TYPE_MP_REACH_NLRI: // the next hop with its length, and a reserved byte, come first
			if len(value) > 3 && len(value) > 5+int(value[3]) {
				c.each(f, value[5+int(value[3]):], c.add)
			}
		}
	}
	if has(family.IPv4) {
		c.each(family.IPv4, announced, c.add)
	}
}

// field returns a field that is preceded by its length of two bytes, and what follows it.
func field(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:end], b[end:], true
}

// each calls do with the hash of each prefix: its length in bits, and as many bytes as that takes.
func (c *counter) each(f family.Family, prefixes []byte, do func(family.Family, uint64)) {
	bits := 32
	if f == family.IPv6 {
		bits = 128
	}
	var hash maphash.Hash
	hash.SetSeed(c.seed)
	for len(prefixes) > 0 {
		size := 1 + (int(prefixes[0])+7)/8
		if int(prefixes[0]) > bits || len(prefixes) < size {
			return
		}
		hash.Reset()
		_ = hash.WriteByte(byte(bits)) // it returns no error, by its documentation
		_, _ = hash.Write(prefixes[:size])
		do(f, hash.Sum64())
		prefixes = prefixes[size:]
	}
}

func (c *counter) add(f family.Family, prefix uint64) {
	most := mostCounted
	if limit := c.limit.Load(); limit > 0 {
		most = int(limit) + 1
	}
	if _, ok := c.prefixes[prefix]; !ok && len(c.prefixes) < most {
		c.prefixes[prefix] = struct{}{}
		c.of(f).Add(1)
	}
}

func (c *counter) remove(f family.Family, prefix uint64) {
	if _, ok := c.prefixes[prefix]; ok {
		delete(c.prefixes, prefix)
		c.of(f).Add(-1)
	}
}
