// SPDX-License-Identifier: Apache-2.0

package rtnetlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/link"
)

// patience bounds each wait for an event. No test depends on how soon one comes.
const patience = 10 * time.Second

// A node is a network namespace.
type node struct{ *nettest.Namespace }

func newNode(t *testing.T) node {
	t.Helper()
	return node{nettest.New(t, "rtnetlink")}
}

func (n node) open(t *testing.T) (w *Watcher) {
	t.Helper()
	n.Do(t, func() (err error) {
		w, err = Open()
		return err
	})
	return w
}

// run runs a Watcher in the node until the test ends.
func (n node) run(t *testing.T, w *Watcher) {
	ctx, cancel := context.WithCancel(t.Context())
	done := n.Go(t, func() error { return w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// waitFor waits until the interface of a name fulfils a condition.
func waitFor(t *testing.T, w *Watcher, changes <-chan struct{}, what, name string, condition func(i link.Interface, ok bool) bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		if i, ok := w.Snapshot().ByName(name); condition(i, ok) {
			return
		}
		select {
		case <-changes:
		case <-timeout:
			i, ok := w.Snapshot().ByName(name)
			t.Fatalf("%s: not seen of %s in time; last: %t %+v", what, name, ok, i)
		}
	}
}

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func address(prefix string, change ...func(*link.Address)) link.Address {
	a := link.Address{Prefix: netip.MustParsePrefix(prefix), Permanent: true}
	for _, c := range change {
		c(&a)
	}
	return a
}

func TestOpenListsWhatThereIs(t *testing.T) {
	n := newNode(t)
	n.IP(t, "link set lo up")
	n.IP(t, "link add br0 address 02:00:00:00:00:0b type bridge")
	n.IP(t, "link add eth0 address 02:00:00:00:00:0c mtu 1400 type veth peer name port0 address 02:00:00:00:00:0d")
	n.IP(t, "link set port0 master br0 addrgenmode none up")
	n.IP(t, "link set br0 addrgenmode none up")
	n.IP(t, "link set eth0 addrgenmode none arp off up")
	n.IP(t, "addr add 198.51.100.11/24 dev br0")
	n.IP(t, "addr add 198.51.100.12/24 dev br0") // Secondary, which has the bit of a temporary address.
	n.IP(t, "addr add 2001:db8:51::11/64 dev br0 nodad")
	n.IP(t, "addr add 2001:db8:51::12/64 dev br0 nodad preferred_lft 0 valid_lft 3600")
	n.IP(t, "route add default via 198.51.100.1 dev br0 metric 100")
	n.IP(t, "-4 route add default via inet6 fe80::4 dev br0 metric 200")
	n.IP(t, "route add default dev br0 metric 300")
	n.IP(t, "route add blackhole default metric 4000")
	n.IP(t, "route add default dev eth0 metric 50 table 77")
	n.IP(t, "route add 203.0.113.0/24 dev eth0")
	n.IP(t, "route add 192.0.2.0/24 via 198.51.100.1")
	n.IP(t, "route add 192.0.2.7 dev eth0")
	n.IP(t, "-6 route add default metric 10 nexthop via 2001:db8:51::1 dev br0 nexthop via fe80::1 dev eth0")

	s := n.open(t).Snapshot()
	for deadline := time.Now().Add(patience); !running(s, "br0", "port0", "eth0"); s = n.open(t).Snapshot() { // A carrier takes a moment to be seen.
		if time.Now().After(deadline) {
			t.Fatalf("not all are up: %+v", s.Interfaces)
		}
	}
	index := func(name string) int {
		i, _ := s.ByName(name)
		return i.Index
	}
	want := &link.Snapshot{
		Interfaces: []link.Interface{
			{
				Name: "lo", Index: index("lo"), Kind: "device", Up: true, Loopback: true,
				Addresses: []link.Address{address("127.0.0.1/8"), address("::1/128")},
			},
			{
				Name: "br0", Index: index("br0"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0b}, Kind: "bridge", Up: true,
				Addresses: []link.Address{
					address("198.51.100.11/24"), address("198.51.100.12/24", func(a *link.Address) { a.Secondary = true }),
					address("2001:db8:51::11/64"),
					address("2001:db8:51::12/64", func(a *link.Address) { a.Deprecated, a.Permanent = true, false }),
				},
			},
			{
				Name: "port0", Index: index("port0"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0d}, Kind: "veth", Up: true,
				Master: index("br0"),
			},
			{
				Name: "eth0", Index: index("eth0"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0c}, Kind: "veth", Up: true,
				NoARP: true,
			},
		},
		DefaultRoutes: map[family.Family][]link.DefaultRoute{
			family.IPv4: {
				{Metric: 100, Index: index("br0"), Gateway: netip.MustParseAddr("198.51.100.1")},
				{Metric: 200, Index: index("br0"), Gateway: netip.MustParseAddr("fe80::4")},
				{Metric: 300, Index: index("br0")},
			},
			family.IPv6: {
				{Metric: 10, Index: index("br0"), Gateway: netip.MustParseAddr("2001:db8:51::1")},
				{Metric: 10, Index: index("eth0"), Gateway: netip.MustParseAddr("fe80::1")},
			},
		},
		Subnets: []link.Subnet{
			{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Index: index("br0")},
			{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Index: index("eth0")},
			{Prefix: netip.MustParsePrefix("2001:db8:51::/64"), Metric: 256, Index: index("br0")},
		},
	}
	if diff := cmp.Diff(want, s, byValue); diff != "" {
		t.Errorf("Snapshot differs (-want +got):\n%s", diff)
	}
}

// running reports whether all interfaces with these names are up.
func running(s *link.Snapshot, names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		i, _ := s.ByName(name)
		return !i.Up
	})
}

func TestRunFollowsChanges(t *testing.T) {
	n := newNode(t)
	w := n.open(t)
	changes := w.Subscribe()
	n.run(t, w)

	for _, step := range []struct {
		command string
		want    func(i link.Interface, ok bool) bool
	}{
		{"link add br0 type bridge", func(link.Interface, bool) bool { return true }},
		{"link add eth0 type veth peer name peer0", func(i link.Interface, ok bool) bool { return ok && !i.Up && i.Kind == "veth" }},
		{"link set eth0 up", func(i link.Interface, _ bool) bool { return !i.Up && i.Unusable() == link.Down }}, // No carrier.
		{"link set peer0 up", func(i link.Interface, _ bool) bool { return i.Up && i.Unusable() == "" }},
		{"link set eth0 address 02:00:00:00:00:99", func(i link.Interface, _ bool) bool { return i.MAC.String() == "02:00:00:00:00:99" }},
		{"addr add 198.51.100.11/24 dev eth0", func(i link.Interface, _ bool) bool {
			return slices.Contains(i.Addresses, address("198.51.100.11/24"))
		}},
		{"addr add 2001:db8:51::11/64 dev eth0", func(i link.Interface, _ bool) bool { // Tentative until detection ends.
			return slices.Contains(i.Addresses, address("2001:db8:51::11/64"))
		}},
		{"route add default via 198.51.100.1", func(i link.Interface, _ bool) bool {
			gateway := netip.MustParseAddr("198.51.100.1")
			return slices.Equal(w.Snapshot().DefaultRoutes[family.IPv4], []link.DefaultRoute{{Index: i.Index, Gateway: gateway}})
		}},
		{"addr del 198.51.100.11/24 dev eth0", func(i link.Interface, _ bool) bool {
			return !slices.Contains(i.Addresses, address("198.51.100.11/24")) && len(w.Snapshot().DefaultRoutes[family.IPv4]) == 0
		}},
		{"link set eth0 master br0", func(i link.Interface, _ bool) bool { return i.Unusable() == link.HasMaster }},
		{"link set eth0 nomaster", func(i link.Interface, _ bool) bool { return i.Unusable() == "" }},
		{"link set peer0 down", func(i link.Interface, _ bool) bool { return i.Unusable() == link.Down }},
		{"link del eth0", func(_ link.Interface, ok bool) bool { return !ok }},
	} {
		n.IP(t, "%s", step.command)
		waitFor(t, w, changes, "ip "+step.command, "eth0", step.want)
	}
}

func TestFailedSocketIsOpenedAgain(t *testing.T) {
	n := newNode(t)
	w := n.open(t)
	changes := w.Subscribe()
	n.run(t, w)
	w.failed <- errors.New("test: no buffer space for anything")
	n.IP(t, "link add br0 type bridge") // Perhaps while no socket listens.
	waitFor(t, w, changes, "made while the socket was closed", "br0", func(_ link.Interface, ok bool) bool { return ok })
	n.IP(t, "link set br0 up")
	n.IP(t, "addr add 192.0.2.1/24 dev br0")
	waitFor(t, w, changes, "address after that", "br0", func(i link.Interface, _ bool) bool { return len(i.Addresses) > 0 })
}

func TestLostEventsAreMadeUpFor(t *testing.T) {
	n := newNode(t)
	w := n.open(t)
	changes := w.Subscribe()
	if err := w.events.SetReceiveBufferSize(1, false); err != nil { // The kernel makes it its minimum, about one event.
		t.Fatal(err)
	}
	for i := range 10 { // The Watcher does not read yet, so the buffer overruns.
		n.IP(t, "link add br%d type bridge", i)
	}
	n.run(t, w)
	waitFor(t, w, changes, "the last of them", "br9", func(_ link.Interface, ok bool) bool { return ok })
	n.IP(t, "link del br9")
	waitFor(t, w, changes, "a change after the overrun", "br9", func(_ link.Interface, ok bool) bool { return !ok })
}

func TestPathsAsksTheKernel(t *testing.T) {
	n := newNode(t)
	n.IP(t, "link add eth0 type veth peer name peer0")
	n.IP(t, "link add eth1 type veth peer name peer1")
	n.IP(t, "link set eth0 addrgenmode none")
	n.IP(t, "link set eth1 addrgenmode none")
	for _, name := range []string{"eth0", "peer0", "eth1", "peer1"} {
		n.IP(t, "link set %s up", name)
	}
	n.IP(t, "addr add 198.51.100.11/24 dev eth0")
	n.IP(t, "addr add 198.51.100.5/24 dev eth0") // What keepalived adds, which may be gone to another node the next moment.
	n.IP(t, "addr add 2001:db8:51::11/64 dev eth0 nodad")
	n.IP(t, "addr add fe80::11/64 dev eth1 nodad")
	n.IP(t, "addr add 192.0.2.11/24 dev eth1")
	n.IP(t, "route add 203.0.113.0/24 via 192.0.2.1")
	w := n.open(t)

	for _, tt := range []struct {
		name, dst, want string
	}{
		{"neighbour over IPv4", "198.51.100.1", "eth0 from 198.51.100.11, on link true, at 198.51.100.11 2001:db8:51::11"},
		{"neighbour over IPv6", "2001:db8:51::1", "eth0 from 2001:db8:51::11, on link true, at 198.51.100.11 2001:db8:51::11"},
		{"behind a gateway", "203.0.113.1", "eth1 from 192.0.2.11, on link false, at 192.0.2.11 invalid IP"},
		{"link-local with its interface", "fe80::1%eth1", "eth1 from fe80::11%eth1, on link true, at 192.0.2.11 invalid IP"},
		{"link-local where there is none", "fe80::1%eth0", "eth0 from invalid IP, on link true, at 198.51.100.11 2001:db8:51::11"},
		{"no route", "10.0.0.1", "looking up the route to 10.0.0.1: network is unreachable"},
		{"link-local of no interface", "fe80::1%eth7", "looking up the route to fe80::1%eth7: no interface eth7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := netip.MustParseAddr(tt.dst)
			if got := describe(n.paths(t, w, dst)[dst]); got != tt.want {
				t.Errorf("the path to %s = %s, want %s", tt.dst, got, tt.want)
			}
		})
	}
}

func TestInterfaceToAsksTheKernel(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"eth0", "fab0"} {
		n.IP(t, "link add %s type veth peer name p%s", name, name)
		n.IP(t, "link set %s up", name)
		n.IP(t, "link set p%s up", name)
	}
	n.IP(t, "addr add 198.51.100.11/24 dev eth0")
	n.IP(t, "addr add 192.168.77.1/24 dev fab0")
	n.IP(t, "route add 198.51.100.12/32 via 192.168.77.2")
	w := n.open(t)
	n.Do(t, func() error {
		for address, want := range map[string]string{"198.51.100.13": "eth0", "198.51.100.12": "fab0", "10.0.0.1": ""} {
			got, err := w.InterfaceTo(netip.MustParseAddr(address))
			if got != want || (err == nil) != (want != "") {
				t.Errorf("InterfaceTo(%s) = %q, %v, want %q", address, got, err, want)
			}
		}
		return nil
	})
}

// paths asks for paths in the node's network namespace.
func (n node) paths(t *testing.T, w *Watcher, to ...netip.Addr) map[netip.Addr]link.Path {
	t.Helper()
	paths := map[netip.Addr]link.Path{}
	n.Do(t, func() error {
		var destinations []link.Destination
		for _, address := range to {
			destinations = append(destinations, link.Destination{Address: address})
		}
		for destination, path := range w.Paths(destinations, link.Choice{}) {
			paths[destination.Address] = path
		}
		return nil
	})
	return paths
}

// describe describes a path, or says why there is none and what it was last.
func describe(p link.Path) string {
	path := fmt.Sprintf("%s from %v, on link %t, at %v %v",
		p.Interface, p.Source, p.OnLink, p.Addresses[family.IPv4], p.Addresses[family.IPv6])
	switch {
	case p.Err == nil:
		return path
	case p.Interface == "":
		return p.Err.Error()
	}
	return p.Err.Error() + "; last " + path
}

func TestPathsRemembersTheLastOne(t *testing.T) {
	n := newNode(t)
	n.IP(t, "link add eth0 type veth peer name peer0")
	n.IP(t, "link set eth0 addrgenmode none up")
	n.IP(t, "link set peer0 addrgenmode none up")
	n.IP(t, "addr add 198.51.100.11/24 dev eth0")
	n.IP(t, "addr add fe80::11/64 dev eth0 nodad")
	w := n.open(t)
	changes := w.Subscribe()
	n.run(t, w)
	router, neighbour := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fe80::1%eth0")
	const routerPath = "eth0 from 198.51.100.11, on link true, at 198.51.100.11 invalid IP"
	const neighbourPath = "eth0 from fe80::11%eth0, on link true, at 198.51.100.11 invalid IP"
	check := func(when string, paths map[netip.Addr]link.Path, want map[netip.Addr]string) {
		t.Helper()
		got := map[netip.Addr]string{}
		for dst, path := range paths {
			got[dst] = describe(path)
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("paths %s differ (-want +got):\n%s", when, diff)
		}
	}
	want := map[netip.Addr]string{router: routerPath, neighbour: neighbourPath}
	check("at first", n.paths(t, w, router, neighbour), want)

	n.IP(t, "addr del fe80::11/64 dev eth0")
	waitFor(t, w, changes, "without its link-local address", "eth0", func(i link.Interface, _ bool) bool { return len(i.Addresses) == 1 })
	check("without a link-local address", n.paths(t, w, router, neighbour), want)

	n.IP(t, "link set eth0 down")
	const unreachable = "looking up the route to 198.51.100.1: network is unreachable"
	want[router] = unreachable + "; last " + routerPath
	check("while the interface is down", n.paths(t, w, router, neighbour), want)
	n.IP(t, "link set eth0 up")
	want[router] = routerPath
	check("when it is up again", n.paths(t, w, router, neighbour), want)

	n.IP(t, "link set eth0 down")
	check("of the neighbour alone", n.paths(t, w, neighbour), map[netip.Addr]string{neighbour: neighbourPath})
	want[router] = unreachable
	check("of a router that was not asked for in between", n.paths(t, w, router, neighbour), want)
}
