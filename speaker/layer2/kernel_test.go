// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
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
			client.IP(t, "neigh flush dev eth0") // What the takeover announcements left.
			client.talk(t, vip)
			client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE)
			// In this state the kernel asks by unicast, and forgets the neighbour if there is no answer.
			client.IP(t, "neigh replace %s lladdr %s dev eth0 nud probe", vip, own)
			client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE)
		})
	}
	t.Run("arping", func(t *testing.T) { client.Exec(t, "arping", "-c1", "-w5", "-I", "eth0", vip4.String()) })
	t.Run("arping as duplicate address detection", func(t *testing.T) {
		// Exits with 0 in this mode, if the address is free.
		client.Exec(t, "sh", "-c", "! arping -D -c1 -w5 -I eth0 "+vip4.String())
	})
	t.Run("ndisc6", func(t *testing.T) { client.Exec(t, "ndisc6", "-1", "-r1", "-w5000", vip6.String(), "eth0") })
}

// countAnswers sends question, then a question about another address as the last one, and returns how many answers to question came before
// the answer to the last. One reader answers in order, so none can come after.
func countAnswers(t *testing.T, p *tap, question, last []byte, isAnswer func(f []byte, question []byte) bool) int {
	t.Helper()
	p.send(t, question)
	p.send(t, last)
	n := 0
	for _, f := range p.until(t, func(f []byte) bool { return isAnswer(f, last) }) {
		if isAnswer(f, question) {
			n++
		}
	}
	return n
}

func isARPAnswer(f, question []byte) bool {
	return len(f) >= 42 && f[21] == 2 && bytes.Equal(f[28:32], question[38:42]) && mac(f[:6]) == clientMAC
}

func isNDPAnswer(f, question []byte) bool {
	return len(f) >= 78 && f[54] == neighbor.Advertisement && f[58]&0x40 != 0 && bytes.Equal(f[62:78], question[62:78])
}

func TestEachQuestionIsAnsweredExactlyOnce(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	l.add(t, "node2", 12) // A kernel that owns nothing of it.
	r := node.announce(t)
	lastVIP6 := netip.MustParseAddr("2001:db8:51::c0de:201")
	r.set(t, vip4, otherVIP4, vip6, lastVIP6)

	arpTap := client.tap(t, neighbor.TypeARP)
	lastARP := with(frame(arpBroadcast), 41, 201)
	for name, question := range map[string]string{"broadcast ARP": arpBroadcast, "unicast ARP": arpUnicast} {
		if n := countAnswers(t, arpTap, frame(question), lastARP, isARPAnswer); n != 1 {
			t.Errorf("%s request was answered %d times, want once", name, n)
		}
	}
	ndpTap := client.tap(t, neighbor.TypeIPv6)
	lastNDP := summed(with(with(frame(nsMulticast), 77, 1), 53, 1))
	lastNDP = with(lastNDP, 5, 1)
	for name, question := range map[string]string{"multicast": nsMulticast, "unicast": nsUnicast} {
		if n := countAnswers(t, ndpTap, frame(question), lastNDP, isNDPAnswer); n != 1 {
			t.Errorf("%s solicitation was answered %d times, want once", name, n)
		}
	}

	r.stop() // So that the last answer is counted.
	if got, want := r.counter(t, "tandem_layer2_answers_total", "arp", "eth0"), 4.0; got != want {
		t.Errorf("Counted %v answers to ARP requests, want %v", got, want)
	}
	if got, want := r.counter(t, "tandem_layer2_answers_total", "ndp", "eth0"), 4.0; got != want {
		t.Errorf("Counted %v answers to solicitations, want %v", got, want)
	}
}

func TestTakeoverReplacesTheClientsEntriesAtOnce(t *testing.T) {
	l := newLAN(t)
	client, node1, node2 := l.add(t, "client", 1), l.add(t, "node1", 11), l.add(t, "node2", 12)
	r1, r2 := node1.announce(t), node2.announce(t)
	r1.set(t, vip4, vip6)
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, node1.eth0(t).MAC, netlink.NUD_REACHABLE)
	}

	// The client asks nothing now: its entries are valid for at least 15 s, and the wait is shorter.
	r1.stop()
	r2.set(t, vip4, vip6)
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.waitNeighbour(t, vip, node2.eth0(t).MAC, netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY)
	}
}

func TestInterfaceWithoutUsableLinkLocalAddress(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, node host){
		"absent": func(t *testing.T, node host) {
			node.IP(t, "link set eth0 addrgenmode none")
			node.IP(t, "addr flush dev eth0 scope link")
		},
		"tentative": func(t *testing.T, node host) {
			node.IP(t, "addr flush dev eth0 scope link")
			// One attempt each hour: it stays tentative.
			node.Exec(t, "sysctl", "-qw", "net.ipv6.neigh.eth0.retrans_time_ms=3600000")
			node.IP(t, "addr add fe80::11/64 dev eth0 scope link")
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
			prepare(t, node)
			node.announce(t).set(t, vip6)
			client.IP(t, "neigh flush dev eth0")
			client.talk(t, vip6)
			client.waitNeighbour(t, vip6, node.eth0(t).MAC, netlink.NUD_REACHABLE)
		})
	}
}

func TestInterfaceSetDownAndUpAnswersAgain(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4, vip6)
	group := solicitedNodeGroup(vip6)
	node.waitGroup(t, group)

	// The Announcer is not told: its readers notice.
	node.IP(t, "link set eth0 down")
	r.waitUntil(t, "closed", func(s []Status) bool { return len(s) == 2 && !s[0].Announced && s[0].Err != nil })
	node.IP(t, "link set eth0 up")
	r.waitUntil(t, "announced again", func(s []Status) bool { return len(s) == 2 && s[0].Announced && s[1].Announced && s[1].Err == nil })
	node.waitGroup(t, group)
	client.IP(t, "neigh flush dev eth0")
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, node.eth0(t).MAC, netlink.NUD_REACHABLE)
	}
}

func TestNewMACIsAnnounced(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4, vip6)
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, node.eth0(t).MAC, netlink.NUD_REACHABLE)
	}
	node.IP(t, "link set eth0 address 02:00:00:00:00:99")
	r.SetInterfaces([]Interface{node.eth0(t)})
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.waitNeighbour(t, vip, net.HardwareAddr{2, 0, 0, 0, 0, 0x99}, netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY)
	}
	client.IP(t, "neigh flush dev eth0")
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, net.HardwareAddr{2, 0, 0, 0, 0, 0x99}, netlink.NUD_REACHABLE)
	}
}

func TestInterfaceRemovedAndMadeAgain(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4, vip6)
	node.IP(t, "link del eth0")
	r.SetInterfaces(nil)
	r.waitUntil(t, "closed", func(s []Status) bool { return len(s) == 2 && errors.Is(s[0].Err, ErrNoInterface) })
	l.plug(t, node, 11)
	r.SetInterfaces([]Interface{node.eth0(t)})
	r.set(t, vip4, vip6)
	node.waitGroup(t, solicitedNodeGroup(vip6))
	client.IP(t, "neigh flush dev eth0")
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, node.eth0(t).MAC, netlink.NUD_REACHABLE)
	}
}

func TestConflictIsReportedAndDefended(t *testing.T) {
	l := newLAN(t)
	client, intruder, node := l.add(t, "client", 1), l.add(t, "intruder", 66), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4, vip6)
	own, foreign := node.eth0(t).MAC, intruder.eth0(t).MAC
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE)
	}
	// The intruder announces the addresses to the whole link, as the holder on the other side of a partition would when it heals.
	request, _ := gratuitousARP(mac(foreign), vip4)
	intruder.tap(t, neighbor.TypeARP).send(t, request)
	intruder.tap(t, neighbor.TypeIPv6).send(t, unsolicitedAdvertisement(mac(foreign), vip6))
	got := []Conflict{r.conflict(t), r.conflict(t)}
	slices.SortFunc(got, func(x, y Conflict) int { return cmp.Compare(x.Protocol, y.Protocol) })
	want := []Conflict{
		{Address: vip4, Interface: "eth0", MAC: foreign, Protocol: ARP},
		{Address: vip6, Interface: "eth0", MAC: foreign, Protocol: NDP},
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("Conflicts differ (-want +got):\n%s", diff)
	}
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.waitNeighbour(t, vip, own, netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY)
	}
	if got := r.counter(t, "tandem_layer2_conflicts_total"); got != 2 {
		t.Errorf("Counted %v conflicts, want 2", got)
	}
}

// A frame of VLAN 7 on a link without a device for it must not be answered as if it were untagged; VLAN 0 is only a priority.
func TestTaggedFramesAreNotAnswered(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	r := node.announce(t)
	lastVIP6 := netip.MustParseAddr("2001:db8:51::c0de:201")
	r.set(t, vip4, otherVIP4, vip6, lastVIP6)
	tagged := func(question []byte, vlan byte) []byte {
		return slices.Concat(question[:12], []byte{0x81, 0x00, 0x00, vlan}, question[12:])
	}
	p := client.tap(t, neighbor.TypeARP)
	for _, vlan := range []byte{7, 0} {
		p.send(t, tagged(frame(arpBroadcast), vlan))
	}
	countAnswers(t, p, with(frame(arpBroadcast), 41, 202), with(frame(arpBroadcast), 41, 201), isARPAnswer)
	p = client.tap(t, neighbor.TypeIPv6)
	for _, vlan := range []byte{7, 0} {
		p.send(t, tagged(frame(nsUnicast), vlan))
	}
	last := summed(with(frame(nsUnicast), 77, 1))
	p.send(t, last)
	p.until(t, func(f []byte) bool { return isNDPAnswer(f, last) })
	r.stop() // So that the last answer is counted.
	for _, protocol := range []string{"arp", "ndp"} {
		if got, want := r.counter(t, "tandem_layer2_answers_total", protocol), 2.0; got != want {
			t.Errorf("%s: answered %v questions, want %v: the one of VLAN 0 and the last", protocol, got, want)
		}
	}
}

// TestFramesOfADeviceAboveAreItsOwn: the kernel shows a socket on eth0 the frames of a device above it, too, as eth0.7 for VLAN 7. An answer to one
// would be that of another LAN. Here the device is a macvlan, whose frames come the same way.
func TestFramesOfADeviceAboveAreItsOwn(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	device := mac{2, 0, 0, 0, 0, 0x77}
	node.IP(t, "link add link eth0 name above address %s type macvlan mode bridge", device)
	node.IP(t, "link set above up")
	eth0, index := node.eth0(t), 0
	node.Do(t, func() error {
		ifi, err := net.InterfaceByName("above")
		if err == nil {
			index = ifi.Index
		}
		return err
	})
	for _, tt := range []struct {
		name     string
		protocol int
		filter   func(index int) []bpf.RawInstruction
		question string
	}{{"ARP", neighbor.TypeARP, arpFilter, arpUnicast}, {"NDP", neighbor.TypeIPv6, ndpFilter, nsUnicast}} {
		t.Run(tt.name, func(t *testing.T) {
			onEth0 := func(filter []bpf.RawInstruction) *tap {
				var p tap
				node.Do(t, func() (err error) {
					p.conn, err = neighbor.Listen(&net.Interface{Index: eth0.Index, HardwareAddr: eth0.MAC}, tt.protocol, filter)
					return err
				})
				t.Cleanup(func() { _ = p.conn.Close() })
				return &p
			}
			own, shown := onEth0(tt.filter(eth0.Index)), onEth0(tt.filter(index))
			p := client.tap(t, tt.protocol)
			p.send(t, slices.Concat(device[:], frame(tt.question)[6:]))
			p.send(t, slices.Concat(eth0.MAC, frame(tt.question)[6:]))
			is := func(station []byte) func([]byte) bool {
				return func(f []byte) bool { return bytes.Equal(f[:6], station) && mac(f[6:12]) == clientMAC }
			}
			shown.until(t, is(device[:])) // Else the test would show nothing.
			if seen := own.until(t, is(eth0.MAC)); slices.ContainsFunc(seen, is(device[:])) {
				t.Errorf("the socket on eth0 has taken a frame of the device above it: %x", seen)
			}
		})
	}
}

// More groups than one socket can hold at any setting of net.core.optmem_max.
func TestThousandsOfGroups(t *testing.T) {
	l := newLAN(t)
	node := l.add(t, "node1", 11)
	r := node.announce(t)
	var addrs []netip.Addr
	for n := range 2000 {
		addrs = append(addrs, netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(n >> 8), 15: byte(n)}))
	}
	r.set(t, addrs...)
	for _, a := range []netip.Addr{addrs[0], addrs[1000], addrs[1999]} {
		node.waitGroup(t, solicitedNodeGroup(a))
	}
	node.waitAllMulticast(t, 1)
	r.set(t, addrs[:1]...)
	if node.inGroup(t, solicitedNodeGroup(addrs[1999])) {
		t.Errorf("Still in the group of %s", addrs[1999])
	}
	node.waitAllMulticast(t, 0)
}

// A node takes over 5,000 addresses on default settings, of which a client has the MAC of the node before. After the first pass, which the
// rate bounds, the client has the new MAC of all.
func TestThousandsOfAddressesAreTakenOver(t *testing.T) {
	const n = 5000
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node2", 12)
	var addrs []netip.Addr
	known := &strings.Builder{}
	for i := range n {
		addrs = append(addrs, netip.AddrFrom4([4]byte{198, 51, byte(101 + i>>8), byte(i)}))
		// The kernel removes what it has learnt itself where there are more than a thousand.
		fmt.Fprintf(known, "neigh replace %s lladdr 02:00:00:00:00:0b dev eth0 nud stale extern_learn\n", addrs[i])
	}
	batch := filepath.Join(t.TempDir(), "neighbours")
	if err := os.WriteFile(batch, []byte(known.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	client.IP(t, "addr add 198.51.99.1/16 dev eth0")
	client.IP(t, "-batch %s", batch)
	p := client.tap(t, neighbor.TypeARP)
	r := node.announce(t)
	own, start := node.eth0(t).MAC, time.Now()
	r.set(t, addrs...)
	heard, frames, second := map[netip.Addr]bool{}, 0, 0
	var last netip.Addr
	if err := p.conn.SetReadDeadline(start.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for f := make([]byte, maxFrame); len(heard) < n; {
		if _, _, err := p.conn.ReadFrom(f); err != nil {
			t.Fatalf("%d addresses were announced: %v", len(heard), err)
		}
		if ip := netip.AddrFrom4([4]byte(f[28:32])); mac(f[6:12]) == mac(own) {
			if frames++; heard[ip] {
				second++
			}
			heard[ip], last = true, ip
		}
	}
	took := time.Since(start)
	t.Logf("the first pass over %d addresses took %v: %.0f frames a second, %d of them repeated", n, took, float64(frames)/took.Seconds(), second)
	if most := DefaultRate*took.Seconds() + paceBurst; float64(frames) > most {
		t.Errorf("%d frames in %v, want %.0f at most", frames, took, most)
	}
	if second > 0 {
		t.Errorf("%d addresses were announced twice before all were once", second)
	}
	// The tap sees a frame before the kernel has taken it in.
	client.waitNeighbour(t, last, own, netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY)
	if old := strings.Count(client.Exec(t, "ip", "neigh", "show", "dev", "eth0"), "02:00:00:00:00:0b"); old > 0 {
		t.Errorf("%d neighbours are left with the old MAC", old)
		for line := range strings.Lines(client.Exec(t, "ip", "-s", "neigh", "show", "dev", "eth0")) {
			if strings.Contains(line, "02:00:00:00:00:0b") {
				t.Logf("the last was %s, and left is %s", last, line)
			}
		}
	}
}

// Services that come and go leave no sockets behind.
func TestGroupsThatComeAndGo(t *testing.T) {
	g := groups{index: 1, joined: map[netip.Addr]int{}, used: map[int]int{}}
	t.Cleanup(g.close)
	most := 0
	for round := range 5 {
		for n := range 3000 {
			if err := g.join(netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 14: byte(n >> 8), 15: byte(n)})); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			most = len(g.fds)
		}
		for group := range maps.Clone(g.joined) {
			g.leave(group)
		}
	}
	if len(g.fds) > most {
		t.Errorf("%d sockets for no group, want %d at most, as many as for 3000", len(g.fds), most)
	}
}
