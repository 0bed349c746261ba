package bgp

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Community is a standard community (RFC 1997) or a large one (RFC 8092). Communities are comparable.
type Community struct {
	large bool
	// A standard community has its two halves in a and b.
	a, b, c uint32
}

// GracefulShutdown asks for the lowest preference, so that traffic leaves before the route does (RFC 8326).
var GracefulShutdown = Community{a: 65535, b: 0}

// wellKnown holds the names of IANA's registry of well-known communities that a route originator may use.
var wellKnown = map[string]Community{
	"graceful-shutdown":   GracefulShutdown,      // RFC 8326
	"accept-own":          {a: 65535, b: 1},      // RFC 7611
	"llgr-stale":          {a: 65535, b: 6},      // RFC 9494
	"no-llgr":             {a: 65535, b: 7},      // RFC 9494
	"blackhole":           {a: 65535, b: 666},    // RFC 7999
	"no-export":           {a: 65535, b: 0xff01}, // RFC 1997
	"no-advertise":        {a: 65535, b: 0xff02}, // RFC 1997
	"no-export-subconfed": {a: 65535, b: 0xff03}, // RFC 1997
	"local-as":            {a: 65535, b: 0xff03}, // the same, as routers call it
	"no-peer":             {a: 65535, b: 0xff04}, // RFC 3765
	"internet":            {a: 0, b: 0},          // by convention
}

// ParseCommunity reads "64512:100", "large:64512:1:2" or the name of a well-known community, such as "no-export".
func ParseCommunity(s string) (Community, error) {
	if c, ok := wellKnown[s]; ok {
		return c, nil
	}
	fields, large := strings.CutPrefix(s, "large:")
	bits, want := 16, 2
	if large {
		bits, want = 32, 3
	}
	parts := strings.Split(fields, ":")
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
	return Community{large: large, a: n[0], b: n[1], c: n[2]}, nil
}

// String returns the form that ParseCommunity reads, in numbers.
func (c Community) String() string {
	if c.large {
		return fmt.Sprintf("large:%d:%d:%d", c.a, c.b, c.c)
	}
	return fmt.Sprintf("%d:%d", c.a, c.b)
}

func compareCommunities(x, y Community) int {
	if x.large != y.large {
		if y.large {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b), cmp.Compare(x.c, y.c))
}
