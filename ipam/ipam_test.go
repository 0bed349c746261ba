// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

// compareAddr lets cmp look into addresses, which have no exported fields.
var compareAddr = cmp.Comparer(func(x, y netip.Addr) bool { return x == y })

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// ranges reads ranges separated by spaces; each must parse.
func ranges(s string) []Range {
	var parsed []Range
	for word := range strings.FieldsSeq(s) {
		r, err := ParseRange(word)
		if err != nil {
			panic(err)
		}
		parsed = append(parsed, r)
	}
	return parsed
}

const topIPv6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

func TestParseRange(t *testing.T) {
	tests := []struct {
		name, in    string
		first, last string
		wantError   string
	}{
		{name: "an IPv4 CIDR", in: "192.0.2.0/24", first: "192.0.2.0", last: "192.0.2.255"},
		{name: "an IPv4 CIDR with host bits", in: "192.0.2.77/24", first: "192.0.2.0", last: "192.0.2.255"},
		{name: "an IPv4 CIDR that ends inside an octet", in: "192.0.2.77/29", first: "192.0.2.72", last: "192.0.2.79"},
		{name: "an IPv4 point-to-point link", in: "192.0.2.4/31", first: "192.0.2.4", last: "192.0.2.5"},
		{name: "an IPv4 host route", in: "192.0.2.4/32", first: "192.0.2.4", last: "192.0.2.4"},
		{name: "all of IPv4", in: "0.0.0.0/0", first: "0.0.0.0", last: "255.255.255.255"},
		{name: "an IPv6 CIDR", in: "2001:db8::/64", first: "2001:db8::", last: "2001:db8::ffff:ffff:ffff:ffff"},
		{name: "an IPv6 CIDR with host bits", in: "2001:db8::1000/116", first: "2001:db8::1000", last: "2001:db8::1fff"},
		{name: "an IPv6 CIDR that ends inside an octet", in: "2001:db8::/65", first: "2001:db8::", last: "2001:db8::7fff:ffff:ffff:ffff"},
		{name: "an IPv6 host route", in: "2001:db8::1/128", first: "2001:db8::1", last: "2001:db8::1"},
		{name: "all of IPv6", in: "::/0", first: "::", last: topIPv6},
		{name: "an IPv4 first-last pair", in: "192.0.2.1-192.0.2.9", first: "192.0.2.1", last: "192.0.2.9"},
		{name: "an IPv6 first-last pair", in: "2001:db8::1-2001:db8::ff", first: "2001:db8::1", last: "2001:db8::ff"},
		{name: "a pair with spaces around the dash", in: "192.0.2.1 - 192.0.2.9", first: "192.0.2.1", last: "192.0.2.9"},
		{name: "a pair of one address", in: "192.0.2.1-192.0.2.1", first: "192.0.2.1", last: "192.0.2.1"},
		{name: "a pair up to the top of IPv4", in: "255.255.255.250-255.255.255.255", first: "255.255.255.250", last: "255.255.255.255"},
		{name: "a pair up to the top of IPv6", in: "ffff::-" + topIPv6, first: "ffff::", last: topIPv6},
		{name: "one IPv4 address", in: "192.0.2.4", first: "192.0.2.4", last: "192.0.2.4"},
		{name: "one IPv6 address, not in its short form", in: "2001:0db8:0:0::0001", first: "2001:db8::1", last: "2001:db8::1"},

		{name: "nothing", in: "", wantError: "is not a CIDR, a first-last range or an address"},
		{name: "a name", in: "lan", wantError: "is not a CIDR, a first-last range or an address"},
		{name: "an IPv4 address with a leading zero", in: "192.0.2.01", wantError: "is not a CIDR, a first-last range or an address"},
		{name: "an IPv4 address with three octets", in: "192.0.2", wantError: "is not a CIDR, a first-last range or an address"},
		{name: "an IPv4 prefix of 33 bits", in: "192.0.2.0/33", wantError: "is not a CIDR"},
		{name: "an IPv6 prefix of 129 bits", in: "2001:db8::/129", wantError: "is not a CIDR"},
		{name: "a CIDR without a length", in: "192.0.2.0/", wantError: "is not a CIDR"},
		{name: "a CIDR with spaces", in: "192.0.2.0 / 24", wantError: "is not a CIDR"},
		{name: "a pair of CIDRs", in: "192.0.2.0/25-192.0.2.128/25", wantError: "is not a CIDR"},
		{name: "a pair without an end", in: "192.0.2.1-", wantError: "does not end with an address"},
		{name: "a pair without a start", in: "-192.0.2.1", wantError: "is not a CIDR, a first-last range or an address"},
		{name: "a pair whose end is only the last octet", in: "192.0.2.1-9", wantError: "does not end with an address"},
		{name: "three addresses", in: "192.0.2.1-192.0.2.2-192.0.2.3", wantError: "does not end with an address"},
		{name: "last before first", in: "192.0.2.20-192.0.2.10", wantError: "ends before it starts"},
		{name: "IPv6 last before first", in: "2001:db8::2-2001:db8::1", wantError: "ends before it starts"},
		{name: "an IPv4 start and an IPv6 end", in: "192.0.2.1-2001:db8::1", wantError: "starts in one family and ends in the other"},
		{name: "an IPv6 start and an IPv4 end", in: "::1-192.0.2.1", wantError: "starts in one family and ends in the other"},
		{name: "an address with a zone", in: "fe80::1%eth0", wantError: "has a zone"},
		{name: "a pair that ends with a zone", in: "fe80::1-fe80::2%eth0", wantError: "has a zone"},
		{name: "a CIDR with a zone", in: "fe80::%eth0/64", wantError: "is not a CIDR"},
		{name: "an IPv4-mapped address", in: "::ffff:192.0.2.1", wantError: "is IPv4-mapped"},
		{name: "an IPv4-mapped CIDR", in: "::ffff:192.0.2.0/120", wantError: "is IPv4-mapped"},
		{name: "a pair that ends IPv4-mapped", in: "::1-::ffff:192.0.2.1", wantError: "is IPv4-mapped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRange(tt.in)
			if tt.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantError) || !strings.Contains(err.Error(), `"`+tt.in+`"`) {
					t.Errorf("ParseRange(%q) = %v, %v; want an error that quotes it and says %q", tt.in, got, err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatalf("ParseRange(%q): %v", tt.in, err)
			}
			if diff := cmp.Diff(Range{addr(tt.first), addr(tt.last)}, got, compareAddr); diff != "" {
				t.Errorf("ParseRange(%q) (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestRange(t *testing.T) {
	tests := []struct {
		name      string
		r         string
		contains  string
		excludes  string
		overlaps  string
		separate  string
		asString  string
		hasFamily family.Family
	}{
		{
			name: "an IPv4 range", r: "192.0.2.10-192.0.2.20",
			contains: "192.0.2.10 192.0.2.15 192.0.2.20",
			excludes: "192.0.2.9 192.0.2.21 :: ::c000:20f ::ffff:192.0.2.15",
			overlaps: "192.0.2.0-192.0.2.10 192.0.2.20 192.0.2.0/24 192.0.2.12/31",
			separate: "192.0.2.0-192.0.2.9 192.0.2.21 ::/0",
			asString: "192.0.2.10-192.0.2.20", hasFamily: family.IPv4,
		},
		{
			name: "an IPv6 range", r: "2001:db8::10-2001:db8::1f",
			contains: "2001:db8::10 2001:db8::1f",
			excludes: "2001:db8::f 2001:db8::20 192.0.2.1 2001:db8::15%eth0",
			overlaps: "2001:db8::/64 2001:db8::1f",
			separate: "2001:db8::20 2001:db8::f 0.0.0.0/0",
			asString: "2001:db8::10-2001:db8::1f", hasFamily: family.IPv6,
		},
		{
			name: "one address at the top of IPv4", r: "255.255.255.255/32",
			contains: "255.255.255.255", excludes: "255.255.255.254 " + topIPv6,
			overlaps: "0.0.0.0/0", separate: "0.0.0.0-255.255.255.254",
			asString: "255.255.255.255", hasFamily: family.IPv4,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := ranges(tt.r)[0]
			for a := range strings.FieldsSeq(tt.contains) {
				if !r.Contains(addr(a)) {
					t.Errorf("%s does not contain %s", r, a)
				}
			}
			for a := range strings.FieldsSeq(tt.excludes) {
				if r.Contains(addr(a)) {
					t.Errorf("%s contains %s", r, a)
				}
			}
			if r.Contains(netip.Addr{}) {
				t.Errorf("%s contains the zero address", r)
			}
			for _, o := range ranges(tt.overlaps) {
				if !r.Overlaps(o) || !o.Overlaps(r) {
					t.Errorf("%s and %s do not overlap", r, o)
				}
			}
			for _, o := range ranges(tt.separate) {
				if r.Overlaps(o) || o.Overlaps(r) {
					t.Errorf("%s and %s overlap", r, o)
				}
			}
			if r.String() != tt.asString || r.Family() != tt.hasFamily {
				t.Errorf("got %s of %s, want %s of %s", r, r.Family(), tt.asString, tt.hasFamily)
			}
		})
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.0/24", "192.0.2.77/29", "192.0.2.1-192.0.2.9", "192.0.2.1 - 192.0.2.9", "192.0.2.4", "0.0.0.0/0", "255.255.255.255",
		"2001:db8::/64", "2001:db8::1-2001:db8::ff", "::/0", topIPv6, "fe80::1%eth0", "::ffff:192.0.2.1", "-", "/", "192.0.2.9-192.0.2.1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if r.Last.Less(r.First) || r.First.Is4() != r.Last.Is4() || !r.Contains(r.First) || !r.Contains(r.Last) {
			t.Fatalf("ParseRange(%q) = %v-%v, which is no range", s, r.First, r.Last)
		}
		if prefix, err := netip.ParsePrefix(s); err == nil {
			prefix = prefix.Masked()
			if r.First != prefix.Addr() || !prefix.Contains(r.Last) || r.Last.IsValid() && prefix.Contains(r.Last.Next()) {
				t.Fatalf("ParseRange(%q) = %s, which is not %s", s, r, prefix)
			}
		}
		again, err := ParseRange(r.String())
		if err != nil || again != r {
			t.Fatalf("ParseRange(%q) = %s, which reads back as %s, %v", s, r, again, err)
		}
		// Of every text that parses, a partition can be made, which gives an address and takes it back, or has none to give.
		p := newPartition([]Range{r}, nil, true, true)
		a, ok := p.first(Service{"default", s})
		if ok != (p.capacity.Sign() > 0) {
			t.Fatalf("a partition of %s has room for %d, and first says %v", r, p.capacity, ok)
		}
		if ok {
			p.take(a)
			p.take(a)
			if !p.contains(a) || p.taken != 1 {
				t.Fatalf("%s of %s could not be taken exactly once", a, r)
			}
			p.put(a)
			if again, _ := p.first(Service{"default", s}); again != a {
				t.Fatalf("%s was put back, and first gives %s", a, again)
			}
		}
	})
}
