package layer2

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

var (
	vip4 = netip.MustParseAddr("198.51.100.200")
	vip6 = netip.MustParseAddr("2001:db8:51::c0de:200")
)

func TestKernelClientResolvesAndConfirms(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4, vip6)
	own := node.eth0(t).MAC

	for _, vip := range []netip.Addr{vip4, vip6} {
		t.Run(vip.String(), func(t *testing.T) {
			client.ip(t, "neigh", "flush", "dev", "eth0") // What the takeover announcements left.
			client.talk(t, vip)
			client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE)
			// In this state the kernel asks by unicast, and forgets the neighbour when nobody answers.
			client.ip(t, "neigh", "replace", vip.String(), "lladdr", own.String(), "dev", "eth0", "nud", "probe")
			client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE)
		})
	}
	t.Run("arping", func(t *testing.T) { client.exec(t, "arping", "-c1", "-w5", "-I", "eth0", vip4.String()) })
	t.Run("arping as duplicate address detection", func(t *testing.T) {
		// Exits with 0 in this mode, if the address is free.
		client.exec(t, "sh", "-c", "! arping -D -c1 -w5 -I eth0 "+vip4.String())
	})
	t.Run("ndisc6", func(t *testing.T) { client.exec(t, "ndisc6", "-1", "-r1", "-w5000", vip6.String(), "eth0") })
}
