// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address a Service gets. It is pure: it knows netip and nothing of Kubernetes, does no I/O
// and never waits.
//
// A [Pool] is cut into one partition for each address family, so that IPv4 and IPv6 live side by side under one name
// and run out independently. An [Allocator] holds the pools and every address that is not free, and answers a
// [Request] with one address for each family that the Service wants, in the order in which it wants them.
//
// Five rules hold whatever happens:
//
//   - A request is a transaction. Either its outcome is in place when Allocate returns, or nothing has changed.
//   - An address that a Service has, it keeps, unless the request itself asks for something else. A pool that shrinks
//     takes nothing away: an address that it no longer contains is stranded, and goes when the Service gives it up.
//   - An address has one holder, or several that share it by a common key, with disjoint ports and the same idea of
//     where traffic goes; if they are of several namespaces, each consents to the others'. Where one of them changes so that this holds no
//     more, all keep the address, and [Outcome.Kept] says so.
//   - An address that is reserved ([Allocator.SetReserved]) is never given. A Service that has it when it becomes reserved keeps it.
//   - The cost of an allocation depends on the number of free runs of addresses, and on that only as its logarithm: a
//     /64 is as cheap as a /29, and the last free address as cheap as the first.
//
// The allocator is a cache. What makes an allocation true is the claim in the Kubernetes API that carries its name
// (package loadbalancer). An address whose claim turns out to be another owner's is made known by [Allocator.Block].
package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Service names the Service that asks for or holds an address.
type Service struct {
	Namespace, Name string
}

// String returns namespace/name.
func (s Service) String() string { return s.Namespace + "/" + s.Name }

// Range is the addresses from First to Last, both included and of one family, First not after Last.
type Range struct {
	First, Last netip.Addr
}

// ParseRange reads a CIDR ("192.0.2.0/24"; host bits are cleared), a first-last pair ("192.0.2.1-192.0.2.9") or one
// address. Zones and IPv4-mapped IPv6 addresses are errors.
func ParseRange(s string) (Range, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Range{}, fmt.Errorf("%q is not a CIDR: %w", s, err)
		}
		p = p.Masked()
		return checked(s, Range{p.Addr(), netipx.PrefixLastIP(p)})
	}
	first, last, isPair := strings.Cut(s, "-")
	a, err := netip.ParseAddr(strings.TrimSpace(first))
	if err != nil {
		return Range{}, fmt.Errorf("%q is not a CIDR, a first-last range or an address: %w", s, err)
	}
	if !isPair {
		return checked(s, Range{a, a})
	}
	b, err := netip.ParseAddr(strings.TrimSpace(last))
	if err != nil {
		return Range{}, fmt.Errorf("%q does not end with an address: %w", s, err)
	}
	return checked(s, Range{a, b})
}

func checked(s string, r Range) (Range, error) {
	switch {
	case r.First.Zone() != "" || r.Last.Zone() != "":
		return Range{}, fmt.Errorf("%q has a zone; a pool holds addresses without one", s)
	case r.First.Is4In6() || r.Last.Is4In6():
		return Range{}, fmt.Errorf("%q is IPv4-mapped IPv6; write it as IPv4", s)
	case family.Of(r.First) != family.Of(r.Last):
		return Range{}, fmt.Errorf("%q starts in one family and ends in the other", s)
	case r.Last.Less(r.First):
		return Range{}, fmt.Errorf("%q ends before it starts", s)
	}
	return r, nil
}

// Contains reports whether a lies in the range. An address with a zone lies in none: it is another one on each link.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a) && a.Zone() == ""
}

// Overlaps reports whether the two ranges have an address in common.
func (r Range) Overlaps(o Range) bool {
	return r.First.Is4() == o.First.Is4() && !r.Last.Less(o.First) && !o.Last.Less(r.First)
}

// Family returns the family of the range's addresses.
func (r Range) Family() family.Family { return family.Of(r.First) }

// String returns first-last, or the address alone where there is one.
func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// Pool describes a pool: what it holds and how an address is chosen from it. Which Services may use it is the caller's
// business.
type Pool struct {
	Name string
	// Ranges and Exclude may mix families; each goes to the partition of its own.
	Ranges, Exclude []Range
	// AvoidBuggyIPs leaves out IPv4 addresses that end in .0 or .255, which some old equipment refuses.
	AvoidBuggyIPs bool
	// Stable gives an address that follows from the Service's name instead of the lowest one, so that a Service that comes back finds the
	// address it had, where that is free.
	Stable bool
	// PerNamespace bounds how many addresses of a family the Services of one namespace have from the pool; a family that is missing has no
	// bound. An address that several of them share counts once.
	PerNamespace map[family.Family]int
	// FixedDenied refuses Services that ask for a certain address. One that has it keeps it.
	FixedDenied bool
	// ReuseAfter is how long a released address is kept for a Service of the same namespace and name, before another one may get it.
	ReuseAfter time.Duration
}
