// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestListed(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []string
		want string
	}{
		{"none", nil, ""},
		{"one", []string{"192.0.2.0/24"}, "192.0.2.0/24"},
		{"two that fit", []string{"192.0.2.0/28", "192.0.2.32/28"}, "192.0.2.0/28, 192.0.2.32/28"},
		{"more than fit", []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8"}, "192.0.2.0/24, +3 more"},
		{"a long one and another", []string{"198.51.100.200-198.51.100.239", "192.0.2.0/24"}, "198.51.100.200-198..., +1 more"},
		{"one of just the width", []string{"198.51.100.200-198.51.100.239x"}, "198.51.100.200-198.51.100.239x"},
		{"one too long", []string{"2001:db8:0:1::1000-2001:db8:0:1::1fff"}, "2001:db8:0:1::1000-2001:db8..."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Listed(tt.list, 30)
			if got != tt.want || len(got) > 30 {
				t.Errorf("Listed() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSummarizePool(t *testing.T) {
	for _, tt := range []struct {
		name string
		pool AddressPool
		want PoolSummary
	}{
		{"both families", AddressPool{
			Spec: AddressPoolSpec{
				IPv4: &IPv4Partition{Ranges: []IPv4Range{"192.0.2.0/24"}}, IPv6: &IPv6Partition{Ranges: []IPv6Range{"2001:db8::/64"}},
			},
			Status: AddressPoolStatus{
				IPv4: &PartitionStatus{Capacity: 254, Allocated: 3, Available: 251},
				IPv6: &PartitionStatus{Capacity: math.MaxInt64, Allocated: 3, Available: math.MaxInt64},
			},
		}, PoolSummary{IPv4: "192.0.2.0/24", IPv4Free: "251/254", IPv6: "2001:db8::/64", IPv6Free: ">9.2e18"}},
		{"one family, not counted yet", AddressPool{
			Spec: AddressPoolSpec{IPv4: &IPv4Partition{Ranges: []IPv4Range{"192.0.2.0/24"}}},
		}, PoolSummary{IPv4: "192.0.2.0/24"}},
		{"a large one", AddressPool{
			Status: AddressPoolStatus{IPv4: &PartitionStatus{Capacity: 1 << 24, Available: 1<<24 - 1}, IPv6: &PartitionStatus{Capacity: 1 << 20}},
		}, PoolSummary{IPv4Free: "1.7e7", IPv6Free: "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.pool.Summarize()
			if diff := cmp.Diff(&tt.want, tt.pool.Status.Summary); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
		})
	}
}
