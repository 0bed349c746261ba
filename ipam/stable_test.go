// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"testing"
)

// How many of 1,000 names prefer another address after an edit of the pool, each alone in it.
func TestStableThroughEdits(t *testing.T) {
	const names = 1000
	tests := []struct {
		name                  string
		ranges, exclude       string
		newRanges, newExclude string
		reserved              string
		least, most           int // of the names that move
		onlyTo                string
	}{
		{name: "no edit", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24"},
		{name: "ranges in another order and cut in two", ranges: "10.0.0.0/24 10.0.2.0/24", newRanges: "10.0.2.0/24 10.0.0.0/25 10.0.0.128/25"},
		{name: "an exclusion elsewhere", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24", newExclude: "192.0.2.1"},
		{name: "one address of 256 is excluded: its names move", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24", newExclude: "10.0.0.1", most: 15},
		{name: "one address of 256 is reserved: its names move", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24", reserved: "10.0.0.1", most: 15},
		{name: "a quarter is excluded: a quarter moves", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24", newExclude: "10.0.0.64/26", least: 200, most: 300},
		{
			name: "an exclusion ends: those that had to leave come back, and others stay", ranges: "10.0.0.0/24", exclude: "10.0.0.64/26", newRanges: "10.0.0.0/24",
			least: 200, most: 300, onlyTo: "10.0.0.64/26",
		},
		{name: "a /28 becomes a /27: one half moves, to the new half", ranges: "10.0.0.0/28", newRanges: "10.0.0.0/27", least: 440, most: 560, onlyTo: "10.0.0.16/28"},
		{name: "a /24 becomes a /23", ranges: "10.0.1.0/24", newRanges: "10.0.0.0/23", least: 440, most: 560, onlyTo: "10.0.0.0/24"},
		{name: "a /24 gets another /24 far away", ranges: "10.0.0.0/24", newRanges: "10.0.0.0/24 192.168.7.0/24", least: 440, most: 560, onlyTo: "192.168.7.0/24"},
		{name: "a block of 16 is added to 256: a 17th moves", ranges: "10.0.0.0/24", newRanges: "10.0.0.0-10.0.1.15", least: 30, most: 95, onlyTo: "10.0.1.0/28"},
		{name: "a block of 16 is added below 256", ranges: "10.0.1.0/24", newRanges: "10.0.0.240-10.0.1.255", least: 30, most: 95, onlyTo: "10.0.0.240/28"},
		{name: "40 addresses grow by 8", ranges: "10.0.0.200-10.0.0.239", newRanges: "10.0.0.200-10.0.0.247", least: 120, most: 330},
		{name: "a /64 becomes a /63", ranges: "2001:db8::/64", newRanges: "2001:db8::/63", least: 440, most: 560, onlyTo: "2001:db8:0:1::/64"},
		{name: "a /64 grows by a /68", ranges: "2001:db8::/64", newRanges: "2001:db8::/64 2001:db8:0:1::/68", least: 30, most: 95, onlyTo: "2001:db8:0:1::/68"},
		{name: "a /112 loses its first address", ranges: "2001:db8::/112", newRanges: "2001:db8::1-2001:db8::ffff", most: 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := newPartition(ranges(tt.ranges), ranges(tt.exclude), false, true)
			after := newPartition(ranges(tt.newRanges), ranges(tt.newExclude), false, true)
			for _, r := range ranges(tt.reserved) {
				after.reserve(r)
			}
			moved, elsewhere := 0, 0
			for i := range names {
				service := Service{"default", fmt.Sprint("web-", i)}
				was, _ := before.first(service)
				is, ok := after.first(service)
				if !ok || !after.isFree(is) {
					t.Fatalf("%s gets %s, %v", service, is, ok)
				}
				if was != is {
					moved++
					if tt.onlyTo != "" && !ranges(tt.onlyTo)[0].Contains(is) {
						elsewhere++
					}
				}
			}
			t.Logf("%d of %d move, %d of them to addresses that the pool had", moved, names, elsewhere)
			if moved < tt.least || moved > tt.most || elsewhere > 0 {
				t.Errorf("%d of %d move, want %d to %d; %d move to addresses that the pool had", moved, names, tt.least, tt.most, elsewhere)
			}
		})
	}
}

// Names spread over uneven ranges as the addresses do.
func TestStableSpreads(t *testing.T) {
	for _, r := range []string{"10.0.0.200-10.0.0.239", "10.0.0.0/24 10.0.1.0/28 192.168.0.7", "2001:db8::3-2001:db8::fe", "10.0.0.1-10.0.0.254"} {
		t.Run(r, func(t *testing.T) {
			p := newPartition(ranges(r), nil, false, true)
			const each = 100
			n := int(p.capacity.Int64())
			count := map[netip.Addr]int{}
			for i := range each * n {
				count[p.draw(seeds(Service{"default", fmt.Sprint(i)})[0])]++
			}
			// Of a sum of squares of n normal deviates the mean is n, and the deviation the root of 2n.
			chi := 0.0
			for _, seen := range count {
				chi += float64((seen-each)*(seen-each)) / each
			}
			if len(count) != n || chi < 0.4*float64(n) || chi > 1.7*float64(n)+10 {
				t.Errorf("%d of %d addresses are drawn, with a deviation of %.0f", len(count), n, chi)
			}
		})
	}
}

// Which addresses a name prefers is part of what users rely on: an upgrade must not change it.
func TestStableGolden(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/24":                  "10.0.0.217 10.0.0.63 10.0.0.38 10.0.0.119",
		"10.0.0.200-10.0.0.239":        "10.0.0.217 10.0.0.239 10.0.0.230 10.0.0.231",
		"2001:db8::/64":                "2001:db8::2a4d:420e:670d:6cd9 2001:db8::d668:9e64:5c8e:b33f 2001:db8::1105:11a2:af65:f326 2001:db8::b427:a839:4b6b:9b77",
		"2001:db8::1-2001:db8::ffff:0": "2001:db8::670d:6cd9 2001:db8::5c8e:b33f 2001:db8::af65:f326 2001:db8::4b6b:9b77",
		"10.0.0.0/24 192.168.0.0/16":   "192.168.108.217 192.168.179.63 192.168.243.38 192.168.155.119",
	} {
		got := ""
		for _, seed := range seeds(web) {
			got += " " + newPartition(ranges(in), nil, false, true).draw(seed).String()
		}
		if got != " "+want {
			t.Errorf("the preferred addresses of %s in %s are%s, and were %s", web, in, got, want)
		}
	}
}
