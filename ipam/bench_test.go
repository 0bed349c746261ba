// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tandem-lb/tandem/ipam/family"
)

// BenchmarkAllocate measures one Service that comes and goes in a pool that is used to a degree: from the start, as
// Services that stay leave it, or with holes anywhere, as Services that come and go do. The IPv6 partition is a /64
// that holds as many addresses.
func BenchmarkAllocate(b *testing.B) {
	const room = 1 << 16
	v4, v6 := addresses(ranges("10.0.0.0/16")[0]), addresses(ranges("2001:db8::/112")[0])
	for _, pool := range []Pool{
		makePool("IPv4", "10.0.0.0/16"),
		makePool("IPv6", "2001:db8::/64"),
		makePool("pair", "10.0.0.0/16 2001:db8::/64"),
		{Name: "pair, no buggy", Ranges: ranges("10.0.0.0/16 2001:db8::/64"), AvoidBuggyIPs: true},
		{Name: "pair, stable", Ranges: ranges("10.0.0.0/16 2001:db8::/64"), Stable: true},
	} {
		var families []family.Family
		for _, af := range family.All {
			if len(ofFamily(pool.Ranges, af)) > 0 {
				families = append(families, af)
			}
		}
		for _, holes := range []string{"sequential", "random"} {
			for _, use := range []float64{1, 50, 99.9} {
				b.Run(fmt.Sprintf("%s/%s/%v%%", pool.Name, holes, use), func(b *testing.B) {
					a := withPools(pool)
					order := make([]int, room)
					for i := range order {
						order[i] = i
					}
					if holes == "random" {
						order = rand.New(rand.NewPCG(1, 2)).Perm(room)
					}
					for _, i := range order[:int(use*room/100)] {
						for _, address := range []netip.Addr{v4[i], v6[i]} {
							if a.PoolOf(address) != "" {
								a.Hold(Service{"default", fmt.Sprint(i)}, address, pool.Name, Sharing{})
							}
						}
					}
					req := Request{Service: web, Families: families, RequireAll: true, Pools: auto(pool.Name)}
					b.ReportAllocs()
					for b.Loop() {
						out, err := a.Allocate(req)
						if err != nil {
							b.Fatal(err)
						}
						for _, as := range out.Assigned {
							a.Release(web, as.Address)
						}
					}
				})
			}
		}
	}
}
