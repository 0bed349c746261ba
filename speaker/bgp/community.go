// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Community is a label on a route that tells routers what to do with it: a standard community (RFC 1997), such as 64512:100, or a large one
// (RFC 8092), such as large:64512:1:2. Communities are comparable.
type Community struct {
	Large bool
	// A standard community has its two halves, 16 bits each, in A and B. A large one has its global administrator in A and
	// its two local parts in B and C.
	A, B, C uint32
}

// GracefulShutdown asks for the lowest preference, so that traffic leaves before the route does (RFC 8326).
var GracefulShutdown = Community{A: 65535, B: 0}

// WellKnownCommunities holds the names of IANA's registry of well-known communities, and what routers call some of them. The CEL rule of the
// Community kind repeats them, and a test in test/api compares the two. The map is never changed.
var WellKnownCommunities = map[string]Community{
	"graceful-shutdown":          GracefulShutdown,      // RFC 8326
	"planned-shut":               GracefulShutdown,      // the same, as routers call it
	"accept-own":                 {A: 65535, B: 1},      // RFC 7611
	"route-filter-translated-v4": {A: 65535, B: 2},      // draft-l3vpn-legacy-rtc
	"route-filter-v4":            {A: 65535, B: 3},      // draft-l3vpn-legacy-rtc
	"route-filter-translated-v6": {A: 65535, B: 4},      // draft-l3vpn-legacy-rtc
	"route-filter-v6":            {A: 65535, B: 5},      // draft-l3vpn-legacy-rtc
	"llgr-stale":                 {A: 65535, B: 6},      // RFC 9494
	"no-llgr":                    {A: 65535, B: 7},      // RFC 9494
	"accept-own-nexthop":         {A: 65535, B: 8},      // draft-agrewal-idr-accept-own-nexthop
	"standby-pe":                 {A: 65535, B: 9},      // RFC 9026
	"blackhole":                  {A: 65535, B: 666},    // RFC 7999
	"no-export":                  {A: 65535, B: 0xff01}, // RFC 1997
	"no-advertise":               {A: 65535, B: 0xff02}, // RFC 1997
	"no-export-subconfed":        {A: 65535, B: 0xff03}, // RFC 1997
	"local-as":                   {A: 65535, B: 0xff03}, // the same, as routers call it
	"no-peer":                    {A: 65535, B: 0xff04}, // RFC 3765
	"internet":                   {A: 0, B: 0},          // by convention
}

// ParseCommunity reads "64512:100", the same as one number ("4227858532"), "large:64512:1:2" or the name of a well-known community, such as
// "no-export". A number below 65536 is refused: the communities of AS 0 are reserved (RFC 1997), so that it is half of one, more likely.
func ParseCommunity(s string) (Community, error) {
	if c, ok := WellKnownCommunities[s]; ok {
		return c, nil
	}
	fields, large := strings.CutPrefix(s, "large:")
	bits, want := 16, 2
	if large {
		bits, want = 32, 3
	}
	parts := strings.Split(fields, ":")
	if v, err := strconv.ParseUint(fields, 10, 32); err == nil && !large && v >= 1<<16 {
		return Community{A: uint32(v >> 16), B: uint32(v & 0xffff)}, nil
	}
	if len(parts) != want {
		return Community{}, fmt.Errorf(
			"%q is not a community: write two numbers (64512:100), a large one (large:64512:1:2) or a well-known name", s)
	}
	var n [3]uint32
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return Community{}, fmt.Errorf("%q is not a community: %q is not a number of %d bits", s, part, bits)
		}
		n[i] = uint32(v)
	}
	return Community{Large: large, A: n[0], B: n[1], C: n[2]}, nil
}

// String returns the form that ParseCommunity reads, in numbers.
func (c Community) String() string {
	if c.Large {
		return fmt.Sprintf("large:%d:%d:%d", c.A, c.B, c.C)
	}
	return fmt.Sprintf("%d:%d", c.A, c.B)
}

// Compare orders communities: standard ones first, then by their numbers.
func (x Community) Compare(y Community) int {
	if x.Large != y.Large {
		if y.Large {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(x.A, y.A), cmp.Compare(x.B, y.B), cmp.Compare(x.C, y.C))
}
