// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// inNode calls f in a node, with its eth0.
func inNode(t *testing.T, node *nettest.Namespace, f func(eth0 *net.Interface) error) {
	t.Helper()
	node.Do(t, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return f(eth0)
	})
}

// TestStations asks the kernels of a LAN for addresses: node2 has 198.51.100.12, and node3 is given it too.
func TestStations(t *testing.T) {
	lan, node1, _ := nodes(t)
	node3 := nettest.New(t, "lan-node3")
	lan.Plug(t, node3, "02:00:00:00:00:0d")
	node3.IP(t, "link set eth0 up")
	lan.Await(t, node3)
	want := func(own, address netip.Addr, want ...string) {
		t.Helper()
		inNode(t, node1, func(eth0 *net.Interface) error {
			found, err := Stations(t.Context(), eth0, own, address, 2)
			var got []string
			for _, mac := range found {
				got = append(got, mac.String())
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s asks for %s: %v, want %v", own, address, got, want)
			}
			return err
		})
	}
	nobody4, nobody6 := netip.MustParseAddr("198.51.100.99"), netip.MustParseAddr("2001:db8:51::99")
	want(own4, peer4, peerMAC.String())
	want(own6, peer6, peerMAC.String())
	want(netip.Addr{}, peer4, peerMAC.String()) // from 0.0.0.0
	want(own4, nobody4)
	want(own6, nobody6)
	node3.IP(t, "addr add %s/32 dev eth0", peer4)
	node3.IP(t, "addr add %s/128 dev eth0 nodad", peer6)
	want(own4, peer4, peerMAC.String(), "02:00:00:00:00:0d")
	want(own6, peer6, peerMAC.String(), "02:00:00:00:00:0d")
	inNode(t, node1, func(eth0 *net.Interface) error {
		if _, err := Stations(t.Context(), eth0, netip.Addr{}, peer6, 1); err == nil {
			t.Error("IPv6 asks without an address")
		}
		return nil
	})
}

// TestTargetLinkLayer reads the advertisement of a deputy, which gives the MAC of the holder in a frame of its own.
func TestTargetLinkLayer(t *testing.T) {
	holder, deputy := neighbor.MAC{2, 0, 0, 0, 0, 1}, neighbor.MAC{2, 0, 0, 0, 0, 2}
	frame := make([]byte, neighbor.HeaderLen+40+neighbor.MessageLen)
	if got := targetLinkLayer(frame, deputy); got != deputy {
		t.Errorf("without the option: %s", got)
	}
	frame = append(append(frame, 2, 1), holder[:]...)
	if got := targetLinkLayer(frame, deputy); got != holder {
		t.Errorf("with the option: %s", got)
	}
}

// TestConnect sends to addresses of node2, and to one that it knows no way to, as a router would: by its MAC.
func TestConnect(t *testing.T) {
	_, node1, node2 := nodes(t)
	for _, setting := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"} {
		node2.Exec(t, "sysctl", "-qw", setting)
	}
	unreachable4, unreachable6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:99::9")
	node2.IP(t, "route add unreachable %s", unreachable4)
	node2.IP(t, "-6 route add unreachable %s", unreachable6)
	ports := map[netip.Addr]uint16{}
	node2.Do(t, func() error {
		for _, address := range []netip.Addr{peer4, peer6} {
			listener, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = listener.Close() })
			ports[address] = listener.Addr().(*net.TCPAddr).AddrPort().Port()
		}
		return nil
	})
	for _, tt := range []struct {
		own, to netip.Addr
		port    uint16
		want    TCPResult
	}{
		{own4, peer4, ports[peer4], TCPAnswers},
		{own6, peer6, ports[peer6], TCPAnswers},
		{own4, peer4, 1, TCPRefused},
		{own6, peer6, 1, TCPRefused},
		{own4, unreachable4, 80, TCPUnreachable},
		{own6, unreachable6, 80, TCPUnreachable},
	} {
		t.Run(fmt.Sprintf("%s to %s", tt.want, tt.to), func(t *testing.T) {
			inNode(t, node1, func(eth0 *net.Interface) error {
				got, err := Connect(t.Context(), eth0, tt.own, peerMAC[:], netip.AddrPortFrom(tt.to, tt.port))
				if got != tt.want {
					t.Errorf("got %q", got)
				}
				return err
			})
		})
	}
	t.Run("Silent", func(t *testing.T) {
		inNode(t, node1, func(eth0 *net.Interface) error {
			got, err := Connect(t.Context(), eth0, own4, net.HardwareAddr{2, 0, 0, 0, 0, 0x7f}, netip.AddrPortFrom(peer4, 80))
			if got != TCPSilent {
				t.Errorf("a station that does not exist: %q", got)
			}
			return err
		})
	})
}
