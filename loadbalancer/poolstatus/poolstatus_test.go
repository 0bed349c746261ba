// SPDX-License-Identifier: Apache-2.0

package poolstatus

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	promtest "github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/internal/fixture"
)

const dualPool = "192.0.2.1-192.0.2.9 2001:db8::1-2001:db8::9"

func TestSet(t *testing.T) {
	both := fixture.Pool("lan", dualPool)
	many := fixture.Addrs("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 2001:db8::1")
	node := []ipam.Reservation{{
		Range: ipam.Range{First: fixture.Addr("192.0.2.5"), Last: fixture.Addr("192.0.2.5")}, Owner: "address of Node node7",
	}}
	tests := []struct {
		name    string
		pool    *v1alpha1.AddressPool
		usage   ipam.PoolUsage
		want    map[string]string // condition -> status reason
		message map[string]string // condition -> part of its message
		wantV4  *v1alpha1.PartitionStatus
		wantV6  *v1alpha1.PartitionStatus
	}{
		{
			name:   "a pool with room in both families",
			pool:   both,
			usage:  ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Allocated: 8, Available: 1}, family.IPv6: {Capacity: 9, Available: 9}}},
			want:   map[string]string{"Ready": "True Available", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			wantV4: &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 8, Available: 1}, wantV6: &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name:   "huge counts stay at the largest number",
			pool:   both,
			usage:  ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv6: {Capacity: math.MaxInt64, Allocated: 5, Available: math.MaxInt64}}},
			want:   map[string]string{"Ready": "True Available", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			wantV6: &v1alpha1.PartitionStatus{Capacity: math.MaxInt64, Allocated: 5, Available: math.MaxInt64},
		},
		{
			name:    "one family is exhausted",
			pool:    both,
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Allocated: 9}, family.IPv6: {Capacity: 9, Available: 9}}},
			want:    map[string]string{"Ready": "False Exhausted", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "no free IPv4 address; add ranges"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 9}, wantV6: &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name:    "both families are exhausted",
			pool:    both,
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Allocated: 9}, family.IPv6: {Capacity: 9, Allocated: 9}}},
			want:    map[string]string{"Ready": "False Exhausted", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "no free IPv4 and no free IPv6 address"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 9}, wantV6: &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 9},
		},
		{
			name: "a partition that excludes all of its ranges is invalid rather than exhausted",
			pool: fixture.Pool("lan", "192.0.2.1", func(ap *v1alpha1.AddressPool) {
				ap.Spec.IPv4.Exclude = []v1alpha1.IPv4Range{"192.0.2.0/24"}
			}),
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {}}},
			want:    map[string]string{"Ready": "False Invalid", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "spec.ipv4 excludes every address"},
			wantV4:  &v1alpha1.PartitionStatus{},
		},
		{
			name: "a range that does not parse",
			pool: fixture.Pool("lan", "192.0.2.1 192.0.2.9-192.0.2.8"),
			usage: ipam.PoolUsage{Families: map[family.Family]ipam.Usage{
				family.IPv4: {Capacity: 1, Allocated: 1},
			}},
			want:    map[string]string{"Ready": "False Invalid", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "spec.ipv4.ranges[1]: "},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 1, Allocated: 1},
		},
		{
			name:    "no range at all",
			pool:    fixture.Pool("lan", ""),
			want:    map[string]string{"Ready": "False Invalid", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "spec: the pool has no range"},
		},
		{
			name:    "pools that overlap",
			pool:    both,
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Available: 9}}, Overlaps: []string{"dmz", "wan"}},
			want:    map[string]string{"Ready": "True Available", "Overlapping": "True AddressesInSeveralPools", "Stranded": "False NoneStranded"},
			message: map[string]string{"Overlapping": "dmz, wan"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name:    "stranded addresses are named, and counted beyond five",
			pool:    both,
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Available: 9}}, Stranded: many},
			want:    map[string]string{"Ready": "True Available", "Overlapping": "False NoOverlap", "Stranded": "True AddressesOutsidePool"},
			message: map[string]string{"Stranded": "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 2 more in use"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name:    "addresses that wait for reuseAfter",
			pool:    fixture.Pool("lan", dualPool, fixture.ReuseAfter(10*time.Minute)),
			usage:   ipam.PoolUsage{Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Allocated: 6, Cooling: 3}}},
			want:    map[string]string{"Ready": "False Exhausted", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded"},
			message: map[string]string{"Ready": "no free IPv4 address; add ranges or delete Services; 3 addresses wait as spec.reuseAfter says"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 6, Cooling: 3},
		},
		{
			name: "reserved addresses are counted, and the first are named",
			pool: both,
			usage: ipam.PoolUsage{
				Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Available: 9}},
				Reserved: ipam.ReservedUsage{Addresses: map[family.Family]int64{family.IPv4: 2, family.IPv6: 7}, First: node},
			},
			want: map[string]string{
				"Ready": "True Available", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded", "Reserved": "True AddressesReserved",
			},
			message: map[string]string{"Reserved": "2 IPv4 and 7 IPv6 addresses are never given, the first of them: 192.0.2.5 (address of Node node7)"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name: "reserved addresses that Services hold are named first",
			pool: both,
			usage: ipam.PoolUsage{
				Families: map[family.Family]ipam.Usage{family.IPv4: {Capacity: 9, Available: 9}},
				Reserved: ipam.ReservedUsage{
					Addresses: map[family.Family]int64{family.IPv4: 1}, First: node, Held: fixture.Addrs("192.0.2.5"),
				},
			},
			want: map[string]string{
				"Ready": "True Available", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded",
				"Reserved": "True ReservedAddressesInUse",
			},
			message: map[string]string{"Reserved": "192.0.2.5 reserved and in use; they go with their Services"},
			wantV4:  &v1alpha1.PartitionStatus{Capacity: 9, Available: 9},
		},
		{
			name: "a pool of reserved addresses alone is exhausted",
			pool: fixture.Pool("lan", "192.0.2.5"),
			usage: ipam.PoolUsage{
				Families: map[family.Family]ipam.Usage{family.IPv4: {}},
				Reserved: ipam.ReservedUsage{Addresses: map[family.Family]int64{family.IPv4: 1}, First: node},
			},
			want: map[string]string{
				"Ready": "False Exhausted", "Overlapping": "False NoOverlap", "Stranded": "False NoneStranded", "Reserved": "True AddressesReserved",
			},
			message: map[string]string{"Ready": "no free IPv4 address", "Reserved": "1 IPv4 addresses are never given"},
			wantV4:  &v1alpha1.PartitionStatus{},
		},
	}
	for _, tt := range tests {
		if tt.want["Reserved"] == "" {
			tt.want["Reserved"] = "False NoneReserved"
		}
		t.Run(tt.name, func(t *testing.T) {
			ap := tt.pool.DeepCopy()
			ap.Generation = 7
			Set(ap, tt.usage)
			got := map[string]string{}
			for _, condition := range ap.Status.Conditions {
				got[condition.Type] = string(condition.Status) + " " + condition.Reason
				if condition.ObservedGeneration != 7 || condition.LastTransitionTime.IsZero() {
					t.Errorf("condition %s: observedGeneration %d, lastTransitionTime %v", condition.Type, condition.ObservedGeneration, condition.LastTransitionTime)
				}
				if want, ok := tt.message[condition.Type]; ok != (condition.Message != "") || !strings.Contains(condition.Message, want) {
					t.Errorf("condition %s says %q, want %q", condition.Type, condition.Message, want)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			want := v1alpha1.AddressPoolStatus{IPv4: tt.wantV4, IPv6: tt.wantV6}
			if ap.Status.Summary == nil {
				t.Error("the status has no summary")
			}
			if diff := cmp.Diff(want, ap.Status, cmpopts.IgnoreFields(v1alpha1.AddressPoolStatus{}, "Conditions", "Summary")); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			again := ap.DeepCopy()
			Set(again, tt.usage)
			if diff := cmp.Diff(ap, again); diff != "" {
				t.Errorf("the same usage changed the status (-first +second):\n%s", diff)
			}
			// A family that the spec loses goes from the status too.
			Set(ap, ipam.PoolUsage{})
			if ap.Status.IPv4 != nil || ap.Status.IPv6 != nil {
				t.Errorf("status without families: %v", ap.Status)
			}
		})
	}
}

func TestListed(t *testing.T) {
	for n, want := range []string{"", "192.0.2.0", "192.0.2.0, 192.0.2.1"} {
		var addresses []netip.Addr
		for i := range n {
			addresses = append(addresses, fixture.Addr(fmt.Sprintf("192.0.2.%d", i)))
		}
		if got := listed(addresses); got != want {
			t.Errorf("listed %d: %q, want %q", n, got, want)
		}
	}
}

func TestGauges(t *testing.T) {
	usage := func(available int64) map[string]ipam.PoolUsage {
		return map[string]ipam.PoolUsage{"gauges": {
			Families: map[family.Family]ipam.Usage{family.IPv6: {Capacity: 8, Allocated: 8 - available, Available: available}},
			Reserved: ipam.ReservedUsage{Addresses: map[family.Family]int64{family.IPv6: 4}, Held: fixture.Addrs("2001:db8::1 192.0.2.1")},
		}}
	}
	pools := []v1alpha1.AddressPool{*fixture.Pool("gauges", "2001:db8::/125"), *fixture.Pool("gone", "2001:db8:1::/125"), *fixture.Pool("young", "2001:db8:2::/125")}
	SetGauges(pools, map[string]ipam.PoolUsage{"gone": usage(1)["gauges"], "gauges": usage(1)["gauges"]})
	kept := available.WithLabelValues("gauges", "IPv6")
	SetGauges(pools[:1], usage(5))
	if got, err := testutil.GetGaugeMetricValue(valid.WithLabelValues("gauges")); err != nil || got != 1 {
		t.Errorf("valid: %v, %v, want 1", got, err)
	}
	SetGauges([]v1alpha1.AddressPool{*fixture.Pool("gauges", "2001:db8::/1290")}, usage(5))
	if got, err := testutil.GetGaugeMetricValue(valid.WithLabelValues("gauges")); err != nil || got != 0 {
		t.Errorf("valid with a range that is none: %v, %v, want 0", got, err)
	}
	if n := promtest.CollectAndCount(valid.GaugeVec); n != 1 {
		t.Errorf("valid: %d series, want that of the pool that is left", n)
	}
	if got, err := testutil.GetGaugeMetricValue(kept); err != nil || got != 5 {
		t.Errorf("the series of a pool that stays has %v, %v, want 5: it was made anew, and was gone for a moment", got, err)
	}
	for name, tt := range map[string]struct {
		gauge *metrics.GaugeVec
		want  float64
	}{"capacity": {capacity, 8}, "allocated": {allocated, 3}, "available": {available, 5}, "reserved": {reserved, 4}, "in use": {reservedInUse, 1}} {
		if got, err := testutil.GetGaugeMetricValue(tt.gauge.WithLabelValues("gauges", "IPv6")); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tt.want)
		}
		if n := promtest.CollectAndCount(tt.gauge.GaugeVec); n != 1 {
			t.Errorf("%s: %d series, want that of the pool that is left", name, n)
		}
	}
}
