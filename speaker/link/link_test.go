// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tandem-lb/tandem/ipam/family"
)

var (
	byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	someMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
)

func address(prefix string, change ...func(*Address)) Address {
	a := Address{Prefix: netip.MustParsePrefix(prefix), Permanent: true}
	for _, c := range change {
		c(&a)
	}
	return a
}

func tentative(a *Address)  { a.Tentative = true }
func dadFailed(a *Address)  { a.DADFailed = true }
func deprecated(a *Address) { a.Deprecated = true }
func temporary(a *Address)  { a.Temporary = true }
func dynamic(a *Address)    { a.Permanent = false }
func secondary(a *Address)  { a.Secondary = true }

func TestUnusable(t *testing.T) {
	for _, tt := range []struct {
		name string
		i    Interface
		want Reason
	}{
		{"Ethernet that is up", Interface{Up: true, MAC: someMAC}, ""},
		{"bridge that is up", Interface{Up: true, MAC: someMAC, Kind: "bridge"}, ""},
		{"member of a VRF", Interface{Up: true, MAC: someMAC, Master: 7, InVRF: true}, ""},
		{"loopback", Interface{Up: true, MAC: make([]byte, 6), Loopback: true}, IsLoopback},
		{"down", Interface{MAC: someMAC}, Down},
		{"without ARP", Interface{Up: true, MAC: someMAC, NoARP: true}, NoARP},
		{"WireGuard has no MAC", Interface{Up: true}, NoMAC},
		{"MAC of zeros", Interface{Up: true, MAC: make([]byte, 6)}, NoMAC},
		{"InfiniBand", Interface{Up: true, MAC: make([]byte, 20)}, NoMAC},
		{"port of a bridge", Interface{Up: true, MAC: someMAC, Master: 7}, HasMaster},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.i.Unusable(); got != tt.want {
				t.Errorf("Unusable() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBestAddresses(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses []Address
		dst       string
		want      [2]string // per family, "" for none
	}{
		{
			"one of each family, whatever dst's is",
			[]Address{address("198.51.100.11/24"), address("2001:db8:51::11/64"), address("fe80::11/64")},
			"198.51.100.1",
			[2]string{"198.51.100.11", "2001:db8:51::11"},
		},
		{
			"the one in dst's subnet",
			[]Address{address("192.0.2.11/24"), address("198.51.100.11/24"), address("2001:db8:50::11/64"), address("2001:db8:51::11/64")},
			"2001:db8:51::1",
			[2]string{"192.0.2.11", "2001:db8:51::11"},
		},
		{
			"a link-local dst finds global ones",
			[]Address{address("fe80::11/64"), address("2001:db8:51::11/64")},
			"fe80::1%eth0",
			[2]string{"", "2001:db8:51::11"},
		},
		{
			"only addresses that stay",
			[]Address{
				address("2001:db8:51::1/64", tentative), address("2001:db8:51::2/64", dadFailed), address("2001:db8:51::3/64", deprecated),
				address("2001:db8:51::4/64", temporary, dynamic), address("2001:db8:51::5/64", dynamic),
			},
			"2001:db8:51::99",
			[2]string{"", "2001:db8:51::5"},
		},
		{
			"a permanent one rather than a dynamic one",
			[]Address{address("2001:db8:51::5/64", dynamic), address("2001:db8:51::11/64")},
			"2001:db8:51::99",
			[2]string{"", "2001:db8:51::11"},
		},
		{
			"never an excluded one", // The nearest, which is announced for a Service.
			[]Address{address("198.51.100.11/24"), address("198.51.100.10/24")},
			"198.51.100.1",
			[2]string{"198.51.100.11", ""},
		},
		{
			"a subnet's rather than a single one",
			[]Address{address("198.51.100.2/32"), address("198.51.100.11/24")},
			"203.0.113.1",
			[2]string{"198.51.100.11", ""},
		},
		{
			"the preferred one, in dst's subnet or in none", // see the Choice below
			[]Address{address("198.51.100.11/24"), address("198.51.100.77/24"), address("2001:db8:51::11/64"), address("2001:db8:51::77/64")},
			"198.51.100.1",
			[2]string{"198.51.100.77", "2001:db8:51::77"},
		},
		{
			"one in dst's subnet rather than the preferred one, to which a router on the link could not send",
			[]Address{address("192.0.2.11/24"), address("198.51.100.77/24")},
			"192.0.2.1",
			[2]string{"192.0.2.11", ""},
		},
		{
			"a single one if there is no other",
			[]Address{address("198.51.100.2/32")},
			"203.0.113.1",
			[2]string{"198.51.100.2", ""},
		},
		{"none", []Address{address("127.0.0.1/8"), address("fe80::1/64"), address("169.254.1.1/16")}, "203.0.113.1", [2]string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			excluded := func(a netip.Addr) bool { return a == netip.MustParseAddr("198.51.100.10") }
			i := Interface{Addresses: tt.addresses}
			best := i.BestAddresses(netip.MustParseAddr(tt.dst), Choice{Excluded: excluded, Preferred: []netip.Addr{
				netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("2001:db8:51::77"),
			}})
			got := [2]string{}
			for n, af := range family.All {
				if a, ok := best[af]; ok {
					got[n] = a.String()
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("BestAddresses(%s) differs (-want +got):\n%s", tt.dst, diff)
			}
		})
	}
}

func TestLinkLocal(t *testing.T) {
	for _, tt := range []struct {
		name      string
		addresses []Address
		want      netip.Addr
	}{
		{"none", []Address{address("169.254.1.1/16"), address("2001:db8:51::11/64")}, netip.Addr{}},
		{"one", []Address{address("2001:db8:51::11/64"), address("fe80::11/64")}, netip.MustParseAddr("fe80::11%eth0")},
		{"one that may be a duplicate", []Address{address("fe80::11/64", tentative), address("fe80::12/64", dadFailed)}, netip.Addr{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := Interface{Name: "eth0", Addresses: tt.addresses}
			if got := i.LinkLocal(); got != tt.want {
				t.Errorf("LinkLocal() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDefaultRouteAddresses(t *testing.T) {
	s := &Snapshot{
		Interfaces: []Interface{
			{Index: 2, Addresses: []Address{address("198.51.100.11/24"), address("2001:db8:51::11/64")}},
			{Index: 3, Addresses: []Address{address("192.0.2.11/24"), address("2001:db8:52::11/64")}},
			{Index: 4, Addresses: []Address{address("203.0.113.11/24"), address("2001:db8:53::11/64")}},
		},
		DefaultRoutes: map[family.Family][]DefaultRoute{
			family.IPv4: {{Metric: 100, Index: 3}, {Metric: 600, Index: 2}, {Metric: 700, Index: 2}, {Metric: 800, Index: 9}},
			family.IPv6: {{Metric: 1024, Index: 2}},
		},
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("2001:db8:51::11")}
	if diff := cmp.Diff(want, s.DefaultRouteAddresses(Choice{}), byValue); diff != "" {
		t.Errorf("DefaultRouteAddresses() differs (-want +got):\n%s", diff)
	}
}

// TestAddressesFor: of the peer's family the kernel's choice counts after what is preferred, and of the other one that of the default route.
func TestAddressesFor(t *testing.T) {
	addr := netip.MustParseAddr
	s := &Snapshot{
		Interfaces: []Interface{{Index: 2, Addresses: []Address{
			address("198.51.100.5/24"), address("198.51.100.11/24"), address("2001:db8:51::5/64"), address("2001:db8:51::11/64"),
		}}},
		DefaultRoutes: map[family.Family][]DefaultRoute{
			family.IPv4: {{Index: 2, Gateway: addr("198.51.100.1"), Source: addr("198.51.100.11")}},
			family.IPv6: {{Index: 2, Gateway: addr("fe80::1"), Source: addr("2001:db8:51::11")}},
		},
	}
	for _, tt := range []struct {
		name, dst, source string
		preferred         []netip.Addr
		want4, want6      string
	}{
		{name: "an IPv4 peer", dst: "198.51.100.1", source: "198.51.100.11", want4: "198.51.100.11", want6: "2001:db8:51::11"},
		{name: "an IPv6 peer", dst: "2001:db8:51::1", source: "2001:db8:51::5", want4: "198.51.100.11", want6: "2001:db8:51::5"},
		{
			name: "the InternalIP", dst: "198.51.100.1", source: "198.51.100.11", preferred: []netip.Addr{addr("198.51.100.5"), addr("2001:db8:51::5")},
			want4: "198.51.100.5", want6: "2001:db8:51::5",
		},
	} {
		got := s.AddressesFor(&s.Interfaces[0], addr(tt.dst), addr(tt.source), Choice{Preferred: tt.preferred})
		if got[family.IPv4] != addr(tt.want4) || got[family.IPv6] != addr(tt.want6) {
			t.Errorf("%s: %v, want %s and %s", tt.name, got, tt.want4, tt.want6)
		}
	}
}

func TestDefaultGateways(t *testing.T) {
	route := func(metric, index int, gateway string) DefaultRoute {
		r := DefaultRoute{Metric: metric, Index: index}
		if gateway != "" {
			r.Gateway = netip.MustParseAddr(gateway)
		}
		return r
	}
	s := &Snapshot{
		Interfaces: []Interface{{Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}},
		DefaultRoutes: map[family.Family][]DefaultRoute{
			family.IPv4: {route(100, 3, "192.0.2.1"), route(200, 2, ""), route(300, 2, "192.0.2.1"), route(400, 2, "fe80::4")},
			family.IPv6: {route(100, 2, "fe80::1"), route(100, 3, "fe80::1"), route(1024, 2, "2001:db8:51::1")},
		},
	}
	want := []string{"192.0.2.1", "fe80::4%eth0", "fe80::1%eth0", "fe80::1%eth1", "2001:db8:51::1"}
	var got []string
	for _, gateway := range s.DefaultGateways() {
		got = append(got, gateway.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DefaultGateways() differs (-want +got):\n%s", diff)
	}
	for f, want := range map[family.Family][]string{family.IPv4: {"eth1"}, family.IPv6: {"eth0", "eth1"}} {
		if got := s.DefaultInterfaces(f); !slices.Equal(got, want) {
			t.Errorf("DefaultInterfaces(%s) = %v, want %v", f, got, want)
		}
	}
	if got := new(Snapshot).DefaultInterfaces(family.IPv4); got != nil {
		t.Errorf("DefaultInterfaces without a route = %v", got)
	}
}

// TestSubnetOf: an address has the subnet by which the kernel reaches its link.
func TestSubnetOf(t *testing.T) {
	subnet := func(prefix string, index int) Subnet {
		return Subnet{Prefix: netip.MustParsePrefix(prefix), Index: index}
	}
	for _, tt := range []struct {
		name    string
		address string // of eth0, whose index is 2; that of eth1 is 3
		subnets []Subnet
		inVRF   bool
		down    bool // eth1
		want    string
	}{
		{name: "a prefix and its route", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 2)}, want: "198.51.100.11/24"},
		{name: "a prefix without a route", address: "198.51.100.11/24", want: "198.51.100.11/24"},
		{name: "a single address with a route, as by DHCPv6", address: "2001:db8:51::11/128", subnets: []Subnet{subnet("2001:db8:51::/64", 2)}, want: "2001:db8:51::11/64"},
		{name: "the longest of its routes", address: "198.51.100.11/32", subnets: []Subnet{subnet("198.51.100.0/24", 2), subnet("198.51.100.0/26", 2), subnet("198.51.0.0/16", 2)}, want: "198.51.100.11/26"},
		{name: "a single address without a route", address: "198.51.100.11/32", subnets: []Subnet{subnet("198.51.100.0/24", 3)}, want: "198.51.100.11/32"},
		{name: "another interface comes first", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 3), subnet("198.51.100.0/24", 2)}, want: "198.51.100.11/32"},
		{name: "and comes second", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 2), subnet("198.51.100.0/24", 3)}, want: "198.51.100.11/24"},
		{name: "and is down", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 3), subnet("198.51.100.0/24", 2)}, down: true, want: "198.51.100.11/24"},
		{name: "and has the only route", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 3)}, want: "198.51.100.11/24"},
		{name: "in a VRF", address: "198.51.100.11/24", subnets: []Subnet{subnet("198.51.100.0/24", 3), subnet("198.51.100.0/24", 2)}, inVRF: true, want: "198.51.100.11/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			s := &Snapshot{Interfaces: []Interface{
				{Name: "eth0", Index: 2, MAC: mac, Up: true, InVRF: tt.inVRF, Addresses: []Address{address(tt.address)}},
				{Name: "eth1", Index: 3, MAC: mac, Up: !tt.down},
			}, Subnets: tt.subnets}
			got := s.SubnetOf(&s.Interfaces[0], s.Interfaces[0].Addresses[0], func(i *Interface) bool { return i.Unusable() == "" })
			if got.String() != tt.want {
				t.Errorf("SubnetOf() = %s, want %s", got, tt.want)
			}
		})
	}
}
