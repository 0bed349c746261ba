// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestInterfaceStates(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	iface := func(name, kind string, change func(*link.Interface), addresses ...string) link.Interface {
		i := link.Interface{Name: name, Kind: kind, MAC: mac, Up: true}
		for _, a := range addresses {
			i.Addresses = append(i.Addresses, link.Address{Prefix: netip.MustParsePrefix(a)})
		}
		if change != nil {
			change(&i)
		}
		return i
	}
	down := func(i *link.Interface) { i.Up = false }
	claimed := func(a netip.Addr) bool { return a == netip.MustParseAddr(v4) }
	usable := func(name string, addresses ...string) []v1alpha1.InterfaceState {
		return []v1alpha1.InterfaceState{{Name: name, MAC: mac.String(), Usable: true, Addresses: addresses}}
	}
	for _, tt := range []struct {
		name string
		in   link.Interface
		want []v1alpha1.InterfaceState
	}{
		{
			name: "an interface with its own addresses of both families",
			in:   iface("eth0", "device", nil, "198.51.100.11/24", "2001:db8:51::11/64"),
			want: usable("eth0", "198.51.100.11/24", "2001:db8:51::11/64"),
		},
		{
			name: "an address that a Service has is not the node's, link-local ones say nothing",
			in:   iface("eth0", "device", nil, "198.51.100.11/24", v4+"/32", "fe80::1/64", "169.254.1.1/16"),
			want: usable("eth0", "198.51.100.11/24"),
		},
		{
			name: "an interface without an address can announce by its name",
			in:   iface("eth1", "device", nil), want: usable("eth1"),
		},
		{
			name: "the loopback interface is not listed",
			in:   iface("lo", "device", func(i *link.Interface) { i.Loopback = true }, "10.0.0.1/32"),
		},
		{name: "the host's end of a pod's link is not listed", in: iface("veth1234", "veth", nil, "fe80::1/64")},
		{
			name: "a veth with an address is an interface like others",
			in:   iface("eth0", "veth", nil, "198.51.100.11/24"), want: usable("eth0", "198.51.100.11/24"),
		},
		{
			name: "an interface that is down and has addresses is listed with the reason",
			in:   iface("eth0", "device", down, "198.51.100.11/24"),
			want: []v1alpha1.InterfaceState{{
				Name: "eth0", MAC: mac.String(), Addresses: []string{"198.51.100.11/24"}, Reason: "down or without carrier",
			}},
		},
		{name: "an interface that is down and has none is not", in: iface("eth2", "device", down)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := interfaceStates(&link.Snapshot{Interfaces: []link.Interface{tt.in}}, claimed)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
		})
	}
}
