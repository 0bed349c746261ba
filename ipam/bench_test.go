// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

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
						out, err := a.Allocate(noon, req)
						if err != nil {
							b.Fatal(err)
						}
						for _, as := range out.Assigned {
							a.Release(time.Time{}, web, as.Address)
						}
					}
				})
			}
		}
	}
}

// BenchmarkUsage measures the state of all pools, which is asked for up to twice a second.
func BenchmarkUsage(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("%d pools", n), func(b *testing.B) {
			a := withPools(manyPools(n)...)
			for b.Loop() {
				a.Usage()
			}
		})
	}
}

// BenchmarkSetPools measures an edit of one of many pools, beside 10,000 addresses that are held.
func BenchmarkSetPools(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("%d pools", n), func(b *testing.B) {
			pools := manyPools(n)
			a := withPools(pools...)
			fill(a, n, 10_000)
			for b.Loop() {
				pools[0].Stable = !pools[0].Stable
				a.SetPools(pools)
			}
		})
	}
}

// BenchmarkPools measures one Service that comes and goes, and may use all of many pools.
func BenchmarkPools(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("%d pools", n), func(b *testing.B) {
			pools := manyPools(n)
			a := withPools(pools...)
			var candidates []Candidate
			for _, p := range pools {
				candidates = append(candidates, Candidate{p.Name, true})
			}
			req := Request{Service: web, Families: []family.Family{family.IPv4}, RequireAll: true, Pools: candidates}
			for b.Loop() {
				out, err := a.Allocate(noon, req)
				if err != nil {
					b.Fatal(err)
				}
				a.Release(time.Time{}, web, out.Assigned[0].Address)
			}
		})
	}
}

// manyPools makes pools of a /24 each.
func manyPools(n int) (pools []Pool) {
	for i := range n {
		pools = append(pools, makePool(fmt.Sprint("pool-", i), fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))
	}
	return pools
}

// fill holds addresses of many pools, one after the other.
func fill(a *Allocator, pools, services int) {
	for i := range services {
		p := i % pools
		address := netip.AddrFrom4([4]byte{10, byte(p / 256), byte(p % 256), byte(i / pools)})
		a.Hold(Service{"default", fmt.Sprint(i)}, address, fmt.Sprint("pool-", p), Sharing{})
	}
}

// BenchmarkSharingKey measures Services under one sharing key that come one after the other. ns/Service is the time for one of them, and must
// not grow with their number.
func BenchmarkSharingKey(b *testing.B) {
	for _, mix := range []struct {
		name       string
		ports      func(i int) []Port
		namespaces int // 1 where it is 0
		consents   []string
	}{
		{name: "all on 443", ports: func(int) []Port { return []Port{{"TCP", 443}} }},
		{name: "half on 443, then half on 80"},
		{name: "443 and one of their own", ports: func(i int) []Port { return []Port{{"TCP", 443}, {"TCP", int32(1000 + i)}} }},
		{name: "all on one address", ports: func(i int) []Port { return []Port{{"TCP", int32(1000 + i)}} }},
		{name: "1,000 namespaces", ports: func(i int) []Port { return []Port{{"TCP", int32(80 + i%2)}} }, namespaces: 1000},
		{name: "1,000 namespaces that consent to all", ports: func(i int) []Port { return []Port{{"TCP", int32(80 + i%2)}} }, namespaces: 1000, consents: []string{AnyNamespace}},
	} {
		for _, n := range []int{1000, 10_000} {
			ports := mix.ports
			if ports == nil {
				ports = func(i int) []Port { return []Port{{"TCP", int32(443 - 363*(2*i/n))}} }
			}
			b.Run(fmt.Sprintf("%s/%d Services", mix.name, n), func(b *testing.B) {
				for b.Loop() {
					a := withPools(makePool("a", "10.0.0.0/16"))
					for i := range n {
						namespace := fmt.Sprint(i % max(1, mix.namespaces))
						req := Request{
							Service: Service{namespace, fmt.Sprint(i)}, Families: []family.Family{family.IPv4}, Pools: auto("a"),
							Sharing: Sharing{Key: "shared", Namespace: namespace, Consents: mix.consents, Ports: ports(i)},
						}
						if _, err := a.Allocate(noon, req); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/Service")
			})
		}
	}
}

// BenchmarkSetReserved measures one Node that joins and leaves a cluster of 1,000, whose addresses are in a pool.
func BenchmarkSetReserved(b *testing.B) {
	for _, pool := range []string{"10.0.0.0/16", "2001:db8::/64", "10.0.0.0/16 2001:db8::/64"} {
		b.Run(pool, func(b *testing.B) {
			network := Network{}
			for i := range 1001 {
				network.Nodes = append(network.Nodes, NetworkNode{Name: fmt.Sprintf("node%04d", i), Interfaces: []netip.Prefix{
					netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), 16),
					netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/64", i+1)),
				}})
			}
			with := ReservedOf(network)
			network.Nodes = network.Nodes[:1000]
			without := ReservedOf(network)
			a := withPools(makePool("a", pool))
			for b.Loop() {
				a.SetReserved(with)
				a.SetReserved(without)
			}
		})
	}
}
