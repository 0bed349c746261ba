// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Limits, fixed addresses that are denied, and addresses that cool.
func TestTenants(t *testing.T) {
	v4 := []family.Family{family.IPv4}
	dual := []family.Family{family.IPv4, family.IPv6}
	shared := func(port int32) Sharing { return Sharing{Key: "k", Ports: []Port{{"TCP", port}}} }
	limited := Pool{Name: "lan", Ranges: ranges("10.0.0.0/29 2001:db8::/125"), PerNamespace: map[family.Family]int{family.IPv4: 2}}
	denied := Pool{Name: "lan", Ranges: ranges("10.0.0.0/29"), FixedDenied: true}
	reuse := Pool{Name: "lan", Ranges: ranges("10.0.0.0/30"), ReuseAfter: 10 * time.Minute}
	another := Service{"team-b", "web"}
	// released has other hold an address and release it so long before noon.
	released := func(ago time.Duration, address string) func(a *Allocator) {
		return func(a *Allocator) {
			a.Hold(other, addr(address), "lan", Sharing{})
			a.Release(noon.Add(-ago), other, addr(address))
		}
	}
	hold := func(as ...any) func(a *Allocator) {
		return func(a *Allocator) {
			for i := 0; i < len(as); i += 2 {
				a.Hold(as[i].(Service), addr(as[i+1].(string)), "lan", Sharing{})
			}
		}
	}
	tests := []struct {
		name    string
		pools   []Pool
		prepare func(a *Allocator)
		service Service // web where there is none
		req     Request
		want    string
		says    string
	}{
		// Limits.
		{
			name: "a namespace below its limit", pools: []Pool{limited}, prepare: hold(other, "10.0.0.5"),
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a namespace at its limit", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5"),
			req: Request{Families: v4, Pools: auto("lan")}, want: "error: namespace is at its limit",
			says: "IPv4: namespace is at its limit: namespace default has 2 of 2 IPv4 addresses of pool lan: 10.0.0.5 (Service third), 10.0.0.6 (Service other); " +
				"delete one of its Services or raise limits.perNamespace",
		},
		{
			name: "a namespace that has many addresses", pools: []Pool{limited},
			prepare: hold(other, "10.0.0.1", other, "10.0.0.2", other, "10.0.0.3", other, "10.0.0.4", third, "10.0.0.5", third, "10.0.0.6"),
			req:     Request{Families: v4, Pools: auto("lan")}, want: "error: namespace is at its limit",
			says: "namespace default has 6 of 2 IPv4 addresses of pool lan; delete one of its Services",
		},
		{
			name: "a fixed address counts, too", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5"),
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.7")}},
			want: "error: namespace is at its limit",
		},
		{
			name: "another namespace has its own limit", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5"),
			service: another, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a family without a limit is given", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5"),
			req:  Request{Families: dual, Pools: auto("lan")},
			want: "2001:db8::@lan, added 2001:db8::@lan, missing IPv4 (namespace is at its limit)",
		},
		{
			name: "another pool serves the namespace", pools: []Pool{limited, makePool("wan", "192.0.2.1")}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5"),
			req: Request{Families: v4, Pools: auto("lan", "wan")}, want: "192.0.2.1@wan, added 192.0.2.1@wan",
		},
		{
			name: "a namespace over its limit keeps what it has", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", third, "10.0.0.5", web, "10.0.0.4"),
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.4@lan",
		},
		{
			name: "a Service moves within the limit", pools: []Pool{limited}, prepare: hold(other, "10.0.0.6", web, "10.0.0.4"),
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.1")}},
			want: "10.0.0.1@lan, added 10.0.0.1@lan, surplus 10.0.0.4@lan",
		},
		{
			name: "a Service that has not released what it gave up does not move on", pools: []Pool{limited},
			prepare: hold(other, "10.0.0.6", web, "10.0.0.4", web, "10.0.0.3"),
			req:     Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.1")}},
			want:    "error: namespace is at its limit",
		},
		{
			name: "an address that is shared within the namespace counts once", pools: []Pool{limited},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("10.0.0.5"), "lan", shared(80))
				a.Hold(third, addr("10.0.0.5"), "lan", shared(81))
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a namespace at its limit may still share what it has", pools: []Pool{limited},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("10.0.0.5"), "lan", shared(80))
				a.Hold(third, addr("10.0.0.6"), "lan", Sharing{})
			},
			req: Request{Families: v4, Pools: auto("lan"), Sharing: shared(443)}, want: "10.0.0.5@lan, added 10.0.0.5@lan",
		},
		{
			name: "but not what another namespace has", pools: []Pool{limited},
			prepare: func(a *Allocator) {
				hold(other, "10.0.0.6", third, "10.0.0.5")(a)
				a.Hold(another, addr("10.0.0.4"), "lan", shared(80))
			},
			req: Request{Families: v4, Pools: auto("lan"), Sharing: shared(443)}, want: "error: namespace is at its limit",
		},
		{
			name: "an address that came from another pool does not count", pools: []Pool{limited, makePool("wan", "10.0.0.0/28")},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("10.0.0.6"), "wan", Sharing{})
				a.Hold(third, addr("10.0.0.5"), "lan", Sharing{})
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a limit that comes later counts what there is", pools: []Pool{makePool("lan", "10.0.0.0/29")},
			prepare: func(a *Allocator) {
				hold(other, "10.0.0.6", third, "10.0.0.5")(a)
				a.SetPools([]Pool{limited})
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "error: namespace is at its limit",
		},
		{
			name: "an exhausted pool is exhausted, whatever the limit", prepare: hold(other, "10.0.0.1"),
			pools: []Pool{{Name: "lan", Ranges: ranges("10.0.0.1"), PerNamespace: map[family.Family]int{family.IPv4: 1}}},
			req:   Request{Families: v4, Pools: auto("lan")}, want: "error: no free address",
		},
		// Fixed addresses.
		{
			name: "a pool that denies fixed addresses", pools: []Pool{denied},
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.5")}},
			want: "error: pool gives no address that is asked for", says: "pool lan has fixedAddresses Denied; do not ask for 10.0.0.5",
		},
		{
			name: "a Service keeps the address that it has and asks for", pools: []Pool{denied}, prepare: hold(web, "10.0.0.5"),
			req: Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.5")}}, want: "10.0.0.5@lan",
		},
		{
			name: "a Service keeps its address where it asks for another", pools: []Pool{denied, makePool("v6", "2001:db8::1")}, prepare: hold(web, "10.0.0.5"),
			req:  Request{Families: dual, Pools: auto("lan", "v6"), Addresses: []netip.Addr{addr("10.0.0.4")}},
			want: "10.0.0.5@lan, 2001:db8::1@v6, added 2001:db8::1@v6, missing IPv4 (pool gives no address that is asked for)",
		},
		{
			name: "another pool that contains the address gives it", pools: []Pool{denied, makePool("wan", "10.0.0.0/24")},
			req:  Request{Families: v4, Pools: auto("lan", "wan"), Addresses: []netip.Addr{addr("10.0.0.5")}},
			want: "10.0.0.5@wan, added 10.0.0.5@wan",
		},
		{
			name: "a shared address cannot be asked for either", pools: []Pool{denied},
			prepare: func(a *Allocator) { a.Hold(other, addr("10.0.0.5"), "lan", shared(80)) },
			req:     Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.5")}, Sharing: shared(443)},
			want:    "error: pool gives no address that is asked for",
		},
		// Released addresses.
		{
			name: "another Service gets the next address", pools: []Pool{reuse}, prepare: released(9*time.Minute, "10.0.0.0"),
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.1@lan, added 10.0.0.1@lan",
		},
		{
			name: "another Service that asks for it is told until when, and for whom", pools: []Pool{reuse}, prepare: released(9*time.Minute, "10.0.0.0"),
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.0")}},
			want: "error: address was released too recently", says: "10.0.0.0 is kept until 2026-11-27T12:01:00Z for Service default/other, which released it",
		},
		{
			name: "when all is taken the reason says that addresses wait, and not which", pools: []Pool{{Name: "lan", Ranges: ranges("10.0.0.0"), ReuseAfter: time.Minute}},
			prepare: released(0, "10.0.0.0"), req: Request{Families: v4, Pools: auto("lan")},
			want: "error: no free address", says: "no free address in pool lan; addresses that were released wait for reuseAfter",
		},
		{
			name: "after its time it is free", pools: []Pool{reuse}, prepare: released(10*time.Minute, "10.0.0.0"),
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "the same Service gets it back at once, and not a lower one", pools: []Pool{reuse}, prepare: released(time.Second, "10.0.0.2"),
			service: other, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.2@lan, added 10.0.0.2@lan",
		},
		{
			name: "also where it asks for it", pools: []Pool{reuse}, prepare: released(time.Second, "10.0.0.2"),
			service: other, req: Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.2")}},
			want: "10.0.0.2@lan, added 10.0.0.2@lan",
		},
		{
			name: "a Service of this name in another namespace does not", pools: []Pool{reuse}, prepare: released(time.Second, "10.0.0.0"),
			service: Service{"team-b", "other"}, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.1@lan, added 10.0.0.1@lan",
		},
		{
			name: "of two that it released it gets the later one", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(time.Minute, "10.0.0.1")(a)
				released(time.Second, "10.0.0.2")(a)
			},
			service: other, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.2@lan, added 10.0.0.2@lan",
		},
		{
			name: "not if it is reserved by now", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(time.Second, "10.0.0.2")(a)
				a.SetReserved(reserve("10.0.0.2", "node1"))
			},
			service: other, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "every Service that left a shared address can come back", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				a.Hold(third, addr("10.0.0.2"), "lan", shared(80))
				a.Hold(other, addr("10.0.0.2"), "lan", shared(81))
				a.Release(noon.Add(-2*time.Second), third, addr("10.0.0.2"))
				a.Release(noon.Add(-time.Second), other, addr("10.0.0.2"))
			},
			service: third, req: Request{Families: v4, Pools: auto("lan"), Sharing: shared(80)}, want: "10.0.0.2@lan, added 10.0.0.2@lan",
		},
		{
			name: "one that left it too long ago cannot", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				a.Hold(third, addr("10.0.0.2"), "lan", shared(80))
				a.Hold(other, addr("10.0.0.2"), "lan", shared(81))
				a.Release(noon.Add(-20*time.Minute), third, addr("10.0.0.2"))
				a.Release(noon.Add(-time.Second), other, addr("10.0.0.2"))
			},
			service: third, req: Request{Families: v4, Pools: auto("lan"), Sharing: shared(80)}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "what was never claimed is free at once", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				a.Hold(other, addr("10.0.0.0"), "lan", Sharing{})
				a.Release(time.Time{}, other, addr("10.0.0.0"))
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a pool edit lengthens what is cooling", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(9*time.Minute, "10.0.0.0")(a)
				longer := reuse
				longer.ReuseAfter = time.Hour
				a.SetPools([]Pool{longer})
				a.expire(noon.Add(50 * time.Minute))
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.1@lan, added 10.0.0.1@lan",
		},
		{
			name: "a pool edit without reuseAfter ends it", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(0, "10.0.0.0")(a)
				a.SetPools([]Pool{makePool("lan", "10.0.0.0/30")})
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "after a restart the time goes on", pools: []Pool{reuse},
			prepare: func(a *Allocator) { a.Released(other, addr("10.0.0.0"), "lan", noon.Add(-9*time.Minute)) },
			req:     Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.1@lan, added 10.0.0.1@lan",
		},
		{
			name: "after a restart the same Service gets it back", pools: []Pool{reuse},
			prepare: func(a *Allocator) { a.Released(other, addr("10.0.0.2"), "lan", noon.Add(-9*time.Minute)) },
			service: other, req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.2@lan, added 10.0.0.2@lan",
		},
		{
			name: "after a restart that took long it is free", pools: []Pool{reuse},
			prepare: func(a *Allocator) { a.Released(other, addr("10.0.0.0"), "lan", noon.Add(-time.Hour)) },
			req:     Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.0@lan, added 10.0.0.0@lan",
		},
		{
			name: "a claim of another leader ends the cooling", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(0, "10.0.0.0")(a)
				a.Hold(third, addr("10.0.0.0"), "lan", Sharing{})
				a.expire(noon.Add(time.Hour))
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "10.0.0.1@lan, added 10.0.0.1@lan",
		},
		{
			name: "what is cooling can be another owner's", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(0, "10.0.0.0")(a)
				a.Block(addr("10.0.0.0"), "services kube-system/dns")
			},
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("10.0.0.0")}},
			want: "error: address is in use", says: "kube-system/dns",
		},
		{
			name: "a deleted pool's addresses go on cooling, as it may be made again", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(0, "10.0.0.0")(a)
				a.SetPools([]Pool{makePool("wan", "10.0.0.0/30")})
			},
			req: Request{Families: v4, Pools: auto("wan")}, want: "10.0.0.1@wan, added 10.0.0.1@wan",
		},
		{
			name: "until they are those of a pool without reuseAfter", pools: []Pool{reuse},
			prepare: func(a *Allocator) {
				released(0, "10.0.0.0")(a)
				a.SetPools([]Pool{makePool("wan", "10.0.0.0/30")})
				a.ReplaceDeletedPools()
			},
			req: Request{Families: v4, Pools: auto("wan")}, want: "10.0.0.0@wan, added 10.0.0.0@wan",
		},
		// Published addresses.
		{
			name: "of two that it holds the Service goes on with the one it shows", pools: []Pool{makePool("lan", "10.0.0.0/29")},
			prepare: hold(web, "10.0.0.1", web, "10.0.0.5"),
			req:     Request{Families: v4, Pools: auto("lan"), Published: []netip.Addr{addr("10.0.0.5")}},
			want:    "10.0.0.5@lan, surplus 10.0.0.1@lan",
		},
		{
			name: "also where it is the lower", pools: []Pool{makePool("lan", "10.0.0.0/29")},
			prepare: hold(web, "10.0.0.5", web, "10.0.0.1"),
			req:     Request{Families: v4, Pools: auto("lan"), Published: []netip.Addr{addr("10.0.0.1")}},
			want:    "10.0.0.1@lan, surplus 10.0.0.5@lan",
		},
		{
			name: "but not with one that it shows and is moving away from", pools: []Pool{makePool("lan", "10.0.0.0/29"), makePool("wan", "192.0.2.0/29")},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("10.0.0.5"), "lan", Sharing{})
				a.Hold(web, addr("192.0.2.1"), "wan", Sharing{})
			},
			req:  Request{Families: v4, Pools: auto("wan"), Named: true, Published: []netip.Addr{addr("10.0.0.5")}},
			want: "192.0.2.1@wan, surplus 10.0.0.5@lan",
		},
		{
			name: "what it shows and does not hold does not matter", pools: []Pool{makePool("lan", "10.0.0.0/29")}, prepare: hold(web, "10.0.0.1"),
			req: Request{Families: v4, Pools: auto("lan"), Published: []netip.Addr{addr("10.0.0.5")}}, want: "10.0.0.1@lan",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(tt.pools...)
			if tt.prepare != nil {
				tt.prepare(a)
			}
			if tt.req.Service = tt.service; tt.service == (Service{}) {
				tt.req.Service = web
			}
			out, err := allocate(t, a, tt.req)
			if got := describe(out, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tt.want)
			}
			if !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("the error is\n%q, which does not say\n%q", err, tt.says)
			}
		})
	}
}

// Planned together, the Services of a namespace get as many addresses as its limit allows.
func TestPlanWithinLimit(t *testing.T) {
	a := withPools(Pool{Name: "lan", Ranges: ranges("10.0.0.0/29"), PerNamespace: map[family.Family]int{family.IPv4: 2}})
	var reqs []Request
	for i := range 4 {
		reqs = append(reqs, Request{Service: Service{"default", fmt.Sprint(i)}, Families: []family.Family{family.IPv4}, Pools: auto("lan")})
	}
	var got []string
	for _, answer := range a.Plan(noon, reqs...) {
		got = append(got, describe(answer.Outcome, answer.Err))
	}
	limit := "error: " + ErrLimit.Error()
	if diff := cmp.Diff([]string{"10.0.0.0@lan, added 10.0.0.0@lan", "10.0.0.1@lan, added 10.0.0.1@lan", limit, limit}, got); diff != "" {
		t.Errorf("Plan (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(state(withPools(a.ordered[0].Pool)), state(a)); diff != "" {
		t.Errorf("Plan changed the allocator (-before +after):\n%s", diff)
	}
}

// What cools is told, counts neither as allocated nor as available, and becomes free in the order of time.
func TestCooling(t *testing.T) {
	a := withPools(Pool{Name: "lan", Ranges: ranges("10.0.0.0/29"), ReuseAfter: 10 * time.Minute})
	if at, ok := a.NextExpiry(); ok {
		t.Errorf("next expiry of nothing is %s", at)
	}
	for i, service := range []Service{web, other, third} {
		a.Hold(service, addr(fmt.Sprintf("10.0.0.%d", 5-i)), "lan", Sharing{})
	}
	a.Release(noon, web, addr("10.0.0.5"))
	a.Release(noon.Add(time.Minute), other, addr("10.0.0.4"))
	want := Usage{Capacity: 8, Allocated: 1, Cooling: 2, Available: 5}
	if diff := cmp.Diff(want, a.Usage()["lan"].Families[family.IPv4]); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	record := Record{Pool: "lan", Cooling: &Cooling{Until: noon.Add(10 * time.Minute), Released: map[Service]time.Time{web: noon}}}
	if diff := cmp.Diff(record, a.Lookup(addr("10.0.0.5"))); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	for _, step := range []struct {
		at, next time.Duration
		frees    bool
	}{
		{9 * time.Minute, 10 * time.Minute, false},
		{10 * time.Minute, 11 * time.Minute, true},
		{10*time.Minute + 59*time.Second, 11 * time.Minute, false},
		{11 * time.Minute, 0, true},
	} {
		if got := a.expire(noon.Add(step.at)); got != step.frees {
			t.Errorf("expire after %s = %v, want %v", step.at, got, step.frees)
		}
		if at, ok := a.NextExpiry(); ok != (step.next > 0) || ok && !at.Equal(noon.Add(step.next)) {
			t.Errorf("after %s the next address is free at %s, %v; want after %s", step.at, at, ok, step.next)
		}
		if err := checkConsistent(a); err != nil {
			t.Error(err)
		}
	}
	want = Usage{Capacity: 8, Allocated: 1, Available: 7}
	if diff := cmp.Diff(want, a.Usage()["lan"].Families[family.IPv4]); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

// A parked request for a's address does not get it while reuseAfter lasts, and a's new Service does, over a restart.
func TestParkedRequest(t *testing.T) {
	pool := Pool{Name: "lan", Ranges: ranges("10.0.0.0/29"), ReuseAfter: 10 * time.Minute}
	parked := Request{
		Service: Service{"team-b", "parked"}, Families: []family.Family{family.IPv4}, Addresses: []netip.Addr{addr("10.0.0.3")}, Pools: auto("lan"),
	}
	a := withPools(pool)
	a.Hold(web, addr("10.0.0.3"), "lan", Sharing{})
	a.Release(noon, web, addr("10.0.0.3"))
	written := a.Lookup(addr("10.0.0.3"))
	for restart := range 2 {
		if restart > 0 {
			a = withPools(pool)
			for service, at := range written.Cooling.Released {
				a.Released(service, addr("10.0.0.3"), written.Pool, at)
			}
		}
		if answer := a.Plan(noon.Add(10*time.Minute-1), parked)[0]; answer.Err == nil {
			t.Errorf("restart %d: the parked request gets %s", restart, describe(answer.Outcome, nil))
		}
		back := Request{Service: web, Families: parked.Families, Pools: auto("lan")}
		if answer := a.Plan(noon.Add(10*time.Minute-1), back)[0]; describe(answer.Outcome, answer.Err) != "10.0.0.3@lan, added 10.0.0.3@lan" {
			t.Errorf("restart %d: the Service that had the address gets %s", restart, describe(answer.Outcome, answer.Err))
		}
		if next, ok := a.NextExpiry(); !ok || !next.Equal(noon.Add(10*time.Minute)) {
			t.Errorf("restart %d: the address is free at %s, %v", restart, next, ok)
		}
	}
	if answer := a.Plan(noon.Add(10*time.Minute), parked)[0]; describe(answer.Outcome, answer.Err) != "10.0.0.3@lan, added 10.0.0.3@lan" {
		t.Errorf("when it is free the parked request gets %s", describe(answer.Outcome, answer.Err))
	}
}

func TestUsageAtLimit(t *testing.T) {
	lan := Pool{Name: "lan", Ranges: ranges("10.0.0.0/28 2001:db8::/124"), PerNamespace: map[family.Family]int{family.IPv4: 2}}
	a := withPools(lan, makePool("wan", "192.0.2.0/28"))
	shared := func(port int32) Sharing { return Sharing{Key: "k", Ports: []Port{{"TCP", port}}} }
	for _, hold := range []struct {
		namespace, name, address, pool string
		sharing                        Sharing
	}{
		{"over", "a", "10.0.0.1", "lan", Sharing{}},
		{"over", "b", "10.0.0.2", "lan", Sharing{}},
		{"over", "c", "10.0.0.3", "lan", Sharing{}},
		{"at", "a", "10.0.0.4", "lan", Sharing{}},
		{"at", "b", "10.0.0.5", "lan", Sharing{}},
		{"below", "a", "10.0.0.6", "lan", shared(80)}, // one that two share counts once
		{"below", "b", "10.0.0.6", "lan", shared(81)},
		{"below", "c", "192.0.2.1", "wan", Sharing{}}, // and one of another pool not at all
		{"v6", "a", "2001:db8::1", "lan", Sharing{}},
		{"v6", "b", "2001:db8::2", "lan", Sharing{}},
	} {
		a.Hold(Service{hold.namespace, hold.name}, addr(hold.address), hold.pool, hold.sharing)
	}
	if diff := cmp.Diff(map[family.Family][]string{family.IPv4: {"at", "over"}}, a.Usage()["lan"].AtLimit); diff != "" {
		t.Errorf("at the limit of lan (-want +got):\n%s", diff)
	}
	if got := a.Usage()["wan"].AtLimit; got != nil {
		t.Errorf("at the limit of wan, which has none: %v", got)
	}
	lan.PerNamespace[family.IPv4] = 1
	a.SetPools([]Pool{lan})
	if diff := cmp.Diff(map[family.Family][]string{family.IPv4: {"at", "below", "over"}}, a.Usage()["lan"].AtLimit); diff != "" {
		t.Errorf("at the lower limit of lan (-want +got):\n%s", diff)
	}
}
