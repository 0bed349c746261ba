// SPDX-License-Identifier: Apache-2.0

package family_test

import (
	"net/netip"
	"testing"

	"github.com/tandem-lb/tandem/ipam/family"
)

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		address string
		want    family.Family
		bits    int
	}{
		{"198.51.100.7", family.IPv4, 32},
		{"2001:db8::7", family.IPv6, 128},
		{"fe80::1%eth0", family.IPv6, 128},
		{"::ffff:198.51.100.7", family.IPv6, 128}, // IPv4-mapped: an IPv6 address by its form
	} {
		address := netip.MustParseAddr(tt.address)
		got := family.Of(address)
		if got != tt.want || got.Bits() != tt.bits || got.Bits() != address.BitLen() || !got.Valid() {
			t.Errorf("Of(%s) = %s of %d bits, want %s of %d", tt.address, got, got.Bits(), tt.want, tt.bits)
		}
	}
	if family.Family("ipv4").Valid() || family.Family("").Valid() {
		t.Error("a spelling that is not Kubernetes' is valid")
	}
}
