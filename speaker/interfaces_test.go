// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestAddressesOfIPVSAreNotPublished: kube-proxy in IPVS mode has the ClusterIPs of thousands of Services on kube-ipvs0. Here that is a bridge, since
// the tests' kernels have no dummy interfaces; it is down as well.
func TestAddressesOfIPVSAreNotPublished(t *testing.T) {
	ns := nettest.New(t, "ipvs")
	var addresses strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&addresses, "addr add 10.96.%d.%d/32 dev kube-ipvs0\naddr add fd00::%x/128 dev kube-ipvs0 nodad\n", i/256, i%256, i+1)
	}
	batch := filepath.Join(t.TempDir(), "addresses")
	if err := os.WriteFile(batch, []byte(addresses.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.IP(t, "link add kube-ipvs0 type bridge")
	ns.IP(t, "-batch %s", batch)
	var links *rtnetlink.Watcher
	ns.Do(t, func() (err error) {
		links, err = rtnetlink.Open()
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Cleanup(func() { _ = links.Run(ctx) }) // which closes it
	if i, found := links.Snapshot().ByName("kube-ipvs0"); !found || len(i.Addresses) != 4000 {
		t.Fatalf("kube-ipvs0 has %d addresses", len(i.Addresses))
	}
	for _, published := range interfaceStates(links.Snapshot(), func(netip.Addr) bool { return false }, nil) {
		if published.Name == "kube-ipvs0" {
			t.Errorf("kube-ipvs0 is published with %d addresses", len(published.Addresses))
		}
	}
}

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
	many := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("198.51.100.%d/24", i+1))
		}
		return all
	}
	for _, tt := range []struct {
		name string
		in   link.Interface
		// failed are interfaces on which layer 2 cannot be opened.
		failed map[string]error
		want   []v1alpha1.InterfaceState
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
			name: "an interface on which layer 2 cannot be opened",
			in:   iface("eth0", "device", nil, "198.51.100.11/24"), failed: map[string]error{"eth0": errors.New("operation not permitted")},
			want: []v1alpha1.InterfaceState{
				{Name: "eth0", MAC: mac.String(), Reason: "operation not permitted", Addresses: []string{"198.51.100.11/24"}},
			},
		},
		{
			name: "an interface without an address can announce by its name",
			in:   iface("eth1", "device", nil), want: usable("eth1"),
		},
		{
			name: "an interface that an InterfaceAdvertisement has made, a dummy",
			in:   iface("kube-lb0", "dummy", func(i *link.Interface) { i.NoARP = true }, v4+"/32", "192.0.2.10/32", "2001:db8:c::10/128"),
		},
		{
			name: "an address that a Service has is the node's too where it brings a subnet",
			in:   iface("eth0", "device", nil, v4+"/24"), want: usable("eth0", v4+"/24"),
		},
		{
			name: "but not on an interface on which nothing is announced",
			in:   iface("kube-lb0", "dummy", func(i *link.Interface) { i.NoARP = true }, v4+"/24"),
		},
		{
			name: "kube-proxy's interface has no address of the node",
			in:   iface("kube-ipvs0", "dummy", func(i *link.Interface) { i.Up, i.NoARP = false, true }, "10.96.0.1/32"),
		},
		{
			name: "nor has that of another such program",
			in:   iface("kube-dummy-if", "dummy", func(i *link.Interface) { i.NoARP = true }, "10.96.0.1/32", "2001:db8:96::1/128"),
		},
		{name: "nor has one of another kind", in: iface("kube-ipvs0", "bridge", down, "10.96.0.1/32", "10.96.0.2/32")},
		{name: "it is not the name", in: iface("kube-ipvs0", "bridge", nil, "198.51.100.11/24"), want: usable("kube-ipvs0", "198.51.100.11/24")},
		{
			name: "of many addresses the first are listed", in: iface("eth0", "device", nil, many(maxInterfaceAddresses+1)...),
			want: usable("eth0", many(maxInterfaceAddresses)...),
		},
		{
			name: "the loopback interface of a node that has its address there",
			in:   iface("lo", "device", func(i *link.Interface) { i.Loopback = true }, "10.0.0.1/32", "127.0.0.1/8", "::1/128"),
			want: []v1alpha1.InterfaceState{{Name: "lo", Addresses: []string{"10.0.0.1/32"}, Reason: "loopback"}},
		},
		{
			name: "the loopback interface is not listed without such an address",
			in:   iface("lo", "device", func(i *link.Interface) { i.Loopback = true }, "127.0.0.1/8", "::1/128"),
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
			got := interfaceStates(&link.Snapshot{Interfaces: []link.Interface{tt.in}}, claimed, tt.failed)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProbed(t *testing.T) {
	ip4, ip6 := netip.MustParseAddr(v4), netip.MustParseAddr(v6)
	states := []layer2.Status{
		{Address: ip4, Interface: "eth0", Announced: true},
		{Address: ip4, Interface: "eth1", Err: &layer2.InUseError{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}}},
		{Address: ip4, Interface: "eth2"},
		{Address: ip6, Interface: "eth0", Err: layer2.ErrNoInterface},
	}
	published := conflicts(states)
	want := []v1alpha1.AddressConflict{{Address: v4, Interface: "eth1", MAC: "02:00:00:00:00:42"}}
	if diff := cmp.Diff(want, published); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	o := observation.Objects{Speakers: v1alpha1.SpeakerStatusList{Items: []v1alpha1.SpeakerStatus{
		{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, // what is published of this node is older than what layer 2 says
		{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: v1alpha1.SpeakerState{Conflicts: published}},
	}}}
	lookup := func(ip netip.Addr, iface string) (layer2.Status, bool) {
		i := slices.IndexFunc(states, func(s layer2.Status) bool { return s.Address == ip && s.Interface == iface })
		if i < 0 {
			return layer2.Status{}, false
		}
		return states[i], true
	}
	find := probed("node1", lookup, o.Snapshot("node1", nil).Probed)
	for _, tt := range []struct {
		name        string
		node, iface string
		ip          netip.Addr
		want        decision.Probe
	}{
		{name: "an address that is announced is free", node: "node1", ip: ip4, iface: "eth0", want: decision.Probe{Free: true}},
		{name: "an address in use is not", node: "node1", ip: ip4, iface: "eth1", want: decision.Probe{UsedBy: "02:00:00:00:00:42"}},
		{name: "of an address that is probed nothing is known", node: "node1", ip: ip4, iface: "eth2"},
		{name: "nor of one whose interface fails", node: "node1", ip: ip6, iface: "eth0"},
		{name: "nor of one on another interface", node: "node1", ip: ip6, iface: "eth1"},
		{
			name: "another node publishes its conflicts", node: "node2", ip: ip4, iface: "eth1",
			want: decision.Probe{UsedBy: "02:00:00:00:00:42"},
		},
		{name: "its other addresses are free", node: "node2", ip: ip4, iface: "eth0", want: decision.Probe{Free: true}},
		{name: "so are all of a node without a speaker", node: "node3", ip: ip4, iface: "eth1", want: decision.Probe{Free: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := find(tt.node, tt.iface, tt.ip); got != tt.want {
				t.Errorf("Probe is %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestSpeakerMACs(t *testing.T) {
	speaker := func(name string, macs ...string) v1alpha1.SpeakerStatus {
		s := v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, mac := range macs {
			s.Status.Interfaces = append(s.Status.Interfaces, v1alpha1.InterfaceState{MAC: mac})
		}
		return s
	}
	got := speakerMACs([]v1alpha1.SpeakerStatus{
		speaker("node1", "02:00:00:00:00:01", ""), speaker("node2"), speaker("node3", "02:00:00:00:00:03"),
	})
	want := []net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("MACs (-want +got):\n%s", diff)
	}
}
