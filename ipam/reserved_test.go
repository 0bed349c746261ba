// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam/family"
)

// reserve makes reservations of ranges separated by spaces.
func reserve(in, owner string) (reservations []Reservation) {
	for _, r := range ranges(in) {
		reservations = append(reservations, Reservation{Range: r, Reason: ReasonNodeAddress, Owner: owner})
	}
	return reservations
}

func TestReservedOf(t *testing.T) {
	node := func(name, addresses, interfaces, gateways string) NetworkNode {
		n := NetworkNode{Name: name}
		for s := range strings.FieldsSeq(addresses) {
			n.Addresses = append(n.Addresses, addr(s))
		}
		for s := range strings.FieldsSeq(interfaces) {
			n.Interfaces = append(n.Interfaces, netip.MustParsePrefix(s))
		}
		for s := range strings.FieldsSeq(gateways) {
			n.Gateways = append(n.Gateways, addr(s))
		}
		return n
	}
	tests := []struct {
		name string
		in   Network
		want []string
	}{
		{name: "nothing"},
		{
			name: "an address of the status alone has no subnet",
			in:   Network{Nodes: []NetworkNode{node("node1", "198.51.100.11 2001:db8:51::11", "", "")}},
			want: []string{
				"node_address 198.51.100.11 (address of Node node1)",
				"node_address 2001:db8:51::11 (address of Node node1)",
			},
		},
		{
			name: "an IPv4 subnet has a network and a broadcast address",
			in:   Network{Nodes: []NetworkNode{node("node1", "198.51.100.11", "198.51.100.11/24", "198.51.100.1")}},
			want: []string{
				"network_address 198.51.100.0 (network address of 198.51.100.0/24 on node1)",
				"gateway 198.51.100.1 (default gateway of node1)",
				"node_address 198.51.100.11 (address of Node node1)",
				"broadcast 198.51.100.255 (broadcast address of 198.51.100.0/24 on node1)",
			},
		},
		{
			name: "an IPv6 prefix has a subnet-router anycast address, and its last address is like any other",
			in:   Network{Nodes: []NetworkNode{node("node1", "", "2001:db8:51::11/64", "")}},
			want: []string{
				"subnet_router_anycast 2001:db8:51:: (subnet-router anycast address of 2001:db8:51::/64 (RFC 4291 §2.6.1) on node1)",
				"node_address 2001:db8:51::11 (address of Node node1)",
			},
		},
		{
			name: "subnets of one or two addresses have neither",
			in:   Network{Nodes: []NetworkNode{node("node1", "", "192.0.2.1/32 192.0.2.4/31 2001:db8::1/128 2001:db8::4/127", "")}},
			want: []string{
				"node_address 192.0.2.1 (address of Node node1)",
				"node_address 192.0.2.4 (address of Node node1)",
				"node_address 2001:db8::1 (address of Node node1)",
				"node_address 2001:db8::4 (address of Node node1)",
			},
		},
		{
			name: "subnets of four addresses have them",
			in:   Network{Nodes: []NetworkNode{node("node1", "", "192.0.2.5/30 2001:db8::5/126", "")}},
			want: []string{
				"network_address 192.0.2.4 (network address of 192.0.2.4/30 on node1)",
				"node_address 192.0.2.5 (address of Node node1)",
				"broadcast 192.0.2.7 (broadcast address of 192.0.2.4/30 on node1)",
				"subnet_router_anycast 2001:db8::4 (subnet-router anycast address of 2001:db8::4/126 (RFC 4291 §2.6.1) on node1)",
				"node_address 2001:db8::5 (address of Node node1)",
			},
		},
		{
			name: "what several Nodes have is named after the first, whatever their order",
			in: Network{Nodes: []NetworkNode{
				node("node3", "", "198.51.100.13/24", "198.51.100.1"), node("node1", "", "198.51.100.11/24", "198.51.100.1"),
				node("node2", "", "198.51.100.12/25", "198.51.100.1"),
			}},
			want: []string{
				"network_address 198.51.100.0 (network address of 198.51.100.0/24 on node1 and 1 more)",
				"network_address 198.51.100.0 (network address of 198.51.100.0/25 on node2)",
				"gateway 198.51.100.1 (default gateway of node1 and 2 more)",
				"node_address 198.51.100.11 (address of Node node1)",
				"node_address 198.51.100.12 (address of Node node2)",
				"node_address 198.51.100.13 (address of Node node3)",
				"broadcast 198.51.100.127 (broadcast address of 198.51.100.0/25 on node2)",
				"broadcast 198.51.100.255 (broadcast address of 198.51.100.0/24 on node1 and 1 more)",
			},
		},
		{
			name: "a router is a gateway and a peer, and a control plane node is an endpoint",
			in: Network{
				Nodes:      []NetworkNode{node("node1", "198.51.100.11", "", "198.51.100.1")},
				Peers:      []NetworkPeer{{"tor1", addr("198.51.100.1")}, {"tor1-v6", addr("2001:db8:51::1")}},
				APIServers: []netip.Addr{addr("198.51.100.11"), addr("198.51.100.11")},
			},
			want: []string{
				"bgp_peer 198.51.100.1 (BGP peer tor1)",
				"gateway 198.51.100.1 (default gateway of node1)",
				"api_server 198.51.100.11 (endpoint of the API server)",
				"node_address 198.51.100.11 (address of Node node1)",
				"bgp_peer 2001:db8:51::1 (BGP peer tor1-v6)",
			},
		},
		{
			name: "what is always reserved, and what is no address, is left out",
			in: Network{
				Nodes: []NetworkNode{{
					Name: "node1", Addresses: []netip.Addr{{}, addr("127.0.0.1"), addr("::1")}, Gateways: []netip.Addr{addr("fe80::1"), addr("fe80::1%eth0")},
					Interfaces: []netip.Prefix{{}, netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::11/64")},
				}},
				Peers: []NetworkPeer{{"unnumbered", netip.Addr{}}},
			},
		},
		{
			name: "an IPv4-mapped address is the IPv4 address",
			in:   Network{APIServers: []netip.Addr{addr("::ffff:198.51.100.11")}},
			want: []string{"api_server 198.51.100.11 (endpoint of the API server)"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, r := range ReservedOf(tt.in) {
				got = append(got, string(r.Reason)+" "+r.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reserved (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReserved(t *testing.T) {
	lan := makePool("lan", "198.51.100.0/29 2001:db8:51::/64")
	network := ReservedOf(Network{
		Nodes: []NetworkNode{{Name: "node1", Interfaces: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.2/29"), netip.MustParsePrefix("2001:db8:51::1/64"),
		}}},
		Peers: []NetworkPeer{{"tor1", addr("198.51.100.1")}},
	})
	v4, v6 := []family.Family{family.IPv4}, []family.Family{family.IPv6}
	shared := func(port int32) Sharing { return Sharing{Key: "k", Ports: []Port{{"TCP", port}}} }
	tests := []struct {
		name     string
		pools    []Pool
		reserved []Reservation
		prepare  func(a *Allocator) // after pools and reservations are there
		req      Request
		want     string
		says     string
	}{
		{
			name: "chosen addresses start behind what is reserved", pools: []Pool{lan}, reserved: network,
			req:  Request{Families: []family.Family{family.IPv4, family.IPv6}, Pools: auto("lan")},
			want: "198.51.100.3@lan, 2001:db8:51::2@lan, added 198.51.100.3@lan, added 2001:db8:51::2@lan",
		},
		{
			name: "who asks for an address of a Node is told whose it is", pools: []Pool{lan}, reserved: network,
			req:  Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("198.51.100.2")}},
			want: "error: address is reserved", says: "IPv4: address is reserved: 198.51.100.2 (address of Node node1)",
		},
		{
			name: "who asks for the subnet-router anycast address, too", pools: []Pool{lan}, reserved: network,
			req:  Request{Families: v6, Pools: auto("lan"), Addresses: []netip.Addr{addr("2001:db8:51::")}},
			want: "error: address is reserved", says: "subnet-router anycast address of 2001:db8:51::/64 (RFC 4291 §2.6.1) on node1",
		},
		{
			name: "all owners are told", pools: []Pool{lan},
			reserved: []Reservation{{ranges("198.51.100.1")[0], ReasonGateway, "default gateway of node1", "node1"}, {ranges("198.51.100.1")[0], ReasonPeer, "BGP peer tor1", ""}},
			req:      Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("198.51.100.1")}},
			want:     "error: address is reserved", says: "198.51.100.1 (default gateway of node1, BGP peer tor1)",
		},
		{
			name: "an address that is reserved and in no pool is told so, since adding it to a pool would not help",
			req:  Request{Families: v4, Addresses: []netip.Addr{addr("0.0.0.0")}}, pools: []Pool{lan},
			want: "error: address is reserved", says: "0.0.0.0 (unspecified address)",
		},
		{
			name: "all but reserved ones are given", pools: []Pool{makePool("lan", "198.51.100.0-198.51.100.2")}, reserved: network,
			req:  Request{Families: v4, Pools: auto("lan")},
			want: "error: no free address",
		},
		{
			name: "a Service keeps an address that becomes reserved", pools: []Pool{lan},
			prepare: func(a *Allocator) {
				a.Hold(web, addr("198.51.100.2"), "lan", Sharing{})
				a.SetReserved(network)
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "198.51.100.2@lan",
		},
		{
			name: "a Service that asks for a reserved address that it has keeps it", pools: []Pool{lan}, reserved: network,
			prepare: func(a *Allocator) { a.Hold(web, addr("198.51.100.2"), "lan", Sharing{}) },
			req:     Request{Families: v4, Pools: auto("lan"), Addresses: []netip.Addr{addr("198.51.100.2")}},
			want:    "198.51.100.2@lan",
		},
		{
			name: "Reallocate gives up a reserved address", pools: []Pool{lan}, reserved: network,
			prepare: func(a *Allocator) { a.Hold(web, addr("198.51.100.2"), "lan", Sharing{}) },
			req:     Request{Families: v4, Pools: auto("lan"), Reallocate: true},
			want:    "198.51.100.3@lan, added 198.51.100.3@lan, surplus 198.51.100.2@lan",
		},
		{
			name: "a reserved address is not shared with others", pools: []Pool{lan}, reserved: network,
			prepare: func(a *Allocator) { a.Hold(other, addr("198.51.100.2"), "lan", shared(80)) },
			req:     Request{Families: v4, Pools: auto("lan"), Sharing: shared(443)},
			want:    "198.51.100.3@lan, added 198.51.100.3@lan",
		},
		{
			name: "nor when asked for", pools: []Pool{lan}, reserved: network,
			prepare: func(a *Allocator) { a.Hold(other, addr("198.51.100.2"), "lan", shared(80)) },
			req:     Request{Families: v4, Pools: auto("lan"), Sharing: shared(443), Addresses: []netip.Addr{addr("198.51.100.2")}},
			want:    "error: address is reserved",
		},
		{
			name: "an address that is not reserved any more is free", pools: []Pool{lan}, reserved: network,
			prepare: func(a *Allocator) { a.SetReserved(nil) },
			req:     Request{Families: v4, Pools: auto("lan")}, want: "198.51.100.0@lan, added 198.51.100.0@lan",
		},
		{
			name: "what was released while it was reserved is free when it is not reserved any more", pools: []Pool{makePool("lan", "198.51.100.2")}, reserved: network,
			prepare: func(a *Allocator) {
				a.Hold(other, addr("198.51.100.2"), "lan", Sharing{})
				a.Release(noon, other, addr("198.51.100.2"))
				a.SetReserved(nil)
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "198.51.100.2@lan, added 198.51.100.2@lan",
		},
		{
			name: "what is held while it is not reserved any more stays taken", pools: []Pool{makePool("lan", "198.51.100.2")}, reserved: network,
			prepare: func(a *Allocator) {
				a.Hold(other, addr("198.51.100.2"), "lan", Sharing{})
				a.SetReserved(nil)
			},
			req: Request{Families: v4, Pools: auto("lan")}, want: "error: no free address",
		},
		{
			name: "a pool that comes later has them reserved, too", reserved: network,
			prepare: func(a *Allocator) { a.SetPools([]Pool{lan}) },
			req:     Request{Families: v4, Pools: auto("lan")}, want: "198.51.100.3@lan, added 198.51.100.3@lan",
		},
		{
			name: "a pool of everything gives the first address that a Service can have", pools: []Pool{makePool("all", "0.0.0.0/0 ::/0")},
			req:  Request{Families: []family.Family{family.IPv4, family.IPv6}, Pools: auto("all")},
			want: "1.0.0.0@all, ::2@all, added 1.0.0.0@all, added ::2@all",
		},
		{
			name: "a stable pool gives none", pools: []Pool{{Name: "lan", Ranges: ranges("198.51.100.0/29"), Stable: true}},
			reserved: reserve("198.51.100.0-198.51.100.4 198.51.100.6/31", "somebody"),
			req:      Request{Families: v4, Pools: auto("lan")}, want: "198.51.100.5@lan, added 198.51.100.5@lan",
		},
	}
	for _, s := range special {
		for _, address := range []netip.Addr{s.Range.First, s.Range.Last} {
			if address.Is4In6() {
				continue // is no plain address, which is another error
			}
			tests = append(tests, tests[0])
			tt := &tests[len(tests)-1]
			tt.name, tt.pools, tt.reserved = fmt.Sprintf("%s is never given", address), []Pool{makePool("all", "0.0.0.0/0 ::/0")}, nil
			tt.req = Request{Families: []family.Family{family.Of(address)}, Addresses: []netip.Addr{address}, Pools: auto("all")}
			tt.want, tt.says = "error: address is reserved", s.Owner
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(tt.pools...)
			a.SetReserved(tt.reserved)
			if tt.prepare != nil {
				tt.prepare(a)
			}
			tt.req.Service = web
			out, err := allocate(t, a, tt.req)
			if got := describe(out, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tt.want)
			}
			if !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("the error is %q, which does not say %q", err, tt.says)
			}
		})
	}
}

func TestReservedUsage(t *testing.T) {
	a := withPools(makePool("lan", "198.51.100.0/24 2001:db8::/64"), makePool("all", "0.0.0.0/0 ::/0"),
		Pool{Name: "no-buggy", Ranges: ranges("198.51.100.250-198.51.101.5"), AvoidBuggyIPs: true})
	a.SetReserved(slices.Concat(reserve("198.51.100.255", "somebody"), reserve("198.51.100.1-198.51.100.3", "node1"), reserve("2001:db8::1", "node1")))
	a.Hold(web, addr("198.51.100.2"), "lan", Sharing{})
	a.Hold(other, addr("198.51.100.9"), "lan", Sharing{})
	usage := a.Usage()
	want := PoolUsage{
		Families: map[family.Family]Usage{
			family.IPv4: {Capacity: 252, Allocated: 1, Available: 251},
			family.IPv6: {Capacity: math.MaxInt64, Available: math.MaxInt64},
		},
		Overlaps: []string{"all", "no-buggy"},
		Reserved: ReservedUsage{
			Addresses: map[family.Family]int64{family.IPv4: 4, family.IPv6: 1},
			First: slices.Concat(reserve("198.51.100.1-198.51.100.3", "node1"), reserve("198.51.100.255", "somebody"),
				reserve("2001:db8::1", "node1")),
			Held: []netip.Addr{addr("198.51.100.2")},
		},
	}
	if diff := cmp.Diff(want, usage["lan"], compareAddr); diff != "" {
		t.Errorf("usage of lan (-want +got):\n%s", diff)
	}
	want = PoolUsage{
		Families: map[family.Family]Usage{family.IPv4: {Capacity: 10, Available: 10}}, // .250-.254 and .1-.5
		Overlaps: []string{"all", "lan"},
	}
	if diff := cmp.Diff(want, usage["no-buggy"], compareAddr); diff != "" {
		t.Errorf("usage of a pool that would not give the reserved address anyhow (-want +got):\n%s", diff)
	}
	if got := len(usage["all"].Reserved.First); got != mostReserved {
		t.Errorf("%d reservations of all are named, want %d", got, mostReserved)
	}
	special4 := int64(1<<24 + 1<<24 + 1<<16 + 1<<28 + 1<<28)
	if got, want := usage["all"].Families[family.IPv4].Capacity, int64(1<<32)-special4-4; got != want {
		t.Errorf("of all IPv4 addresses %d can be given, want %d", got, want)
	}
}

// Whatever the order of the reservations, what comes and goes leaves every pool as a new allocator would have it.
func TestSetReservedAgain(t *testing.T) {
	pools := []Pool{makePool("a", "10.0.0.0/24 2001:db8::/64"), makePool("b", "10.0.0.128/25"), {Name: "c", Ranges: ranges("10.0.0.0/22"), AvoidBuggyIPs: true}}
	sets := [][]Reservation{
		nil,
		reserve("10.0.0.1 2001:db8::1", "node1"),
		reserve("10.0.0.1 10.0.0.1 10.0.0.0/25 2001:db8::-2001:db8::ffff", "node1"),
		reserve("10.0.0.100-10.0.1.5 2001:db8::8/126", "node2"),
		reserve("0.0.0.0/0 ::/0", "everybody"),
		reserve("10.0.0.254-10.0.1.1", "node3"),
	}
	a := withPools(pools...)
	held := []string{"10.0.0.1", "10.0.0.130", "10.0.0.255", "10.0.1.1", "2001:db8::9", "192.0.2.1"}
	for _, address := range held {
		a.Hold(web, addr(address), "a", Sharing{})
	}
	for i, from := range sets {
		for j, to := range sets {
			a.SetReserved(from)
			before := freeCount(a)
			freed := a.SetReserved(to)
			if err := checkConsistent(a); err != nil {
				t.Fatalf("from %d to %d: %v", i, j, err)
			}
			fresh := New()
			fresh.SetReserved(to)
			fresh.SetPools(pools)
			for _, address := range held {
				fresh.Hold(web, addr(address), "a", Sharing{})
			}
			if diff := cmp.Diff(state(fresh), state(a)); diff != "" {
				t.Errorf("from %d to %d (-fresh +got):\n%s", i, j, diff)
			}
			if after := freeCount(a); after.Cmp(before) > 0 && !freed || i == j && freed {
				t.Errorf("from %d to %d SetReserved said %v; free were %d and are %d", i, j, freed, before, after)
			}
		}
	}
}

func freeCount(a *Allocator) *big.Int {
	n := new(big.Int)
	for _, p := range a.pools {
		for _, part := range p.partitions {
			for _, run := range part.runs() {
				n.Add(n, part.usableIn(run))
			}
		}
	}
	return n
}
