// SPDX-License-Identifier: Apache-2.0

// Package family tells IPv4 from IPv6, once for the whole module: for the partitions of a pool, for the endpoints of a Service, and for the
// routes of a BGP session.
//
//	family.Of(netip.MustParseAddr("198.51.100.7"))   // family.IPv4
//	family.Of(netip.MustParseAddr("2001:db8::7"))    // family.IPv6
//
// It knows netip and nothing else, so that every other package may import it.
package family

import "net/netip"

// Family is an IP address family, spelt as corev1.IPFamily and discoveryv1.AddressType spell it.
type Family string

// The two families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// All lists both families, IPv4 first.
var All = [...]Family{IPv4, IPv6}

// Of returns the family of a valid address. The IPv4-mapped form of an IPv4 address, such as ::ffff:198.51.100.7 (RFC 4291 §2.5.5.2),
// counts as IPv6. Code that reads addresses from users refuses that form.
func Of(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Valid reports whether f is one of the two families.
func (f Family) Valid() bool { return f == IPv4 || f == IPv6 }

// Bits returns the length of an address of the family: 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}
