// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// holderMAC is that of the node which holds the addresses and is away.
var holderMAC = mac{0x02, 0, 0, 0, 0, 0x0c}

// deputized returns a set of addresses of which this node is the deputy.
func deputized(addrs ...netip.Addr) addressSet {
	set := inPhase(phaseDeputy, addrs...)
	for _, e := range set {
		e.as = holderMAC
	}
	return set
}

func TestDeputyDecidesARP(t *testing.T) {
	testDecideIn(t, phaseDeputy, deputized(vip4, vip6), decideARP, []decideTest{
		{
			name: "broadcast request is answered with the holder's MAC", frame: frame(arpBroadcast),
			want: "020000000001 02000000000b 0806 0001 0800 06 04 0002 02000000000c c63364c8 020000000001 c6336401",
		},
		{
			name: "probe of another host is answered with the holder's MAC", frame: frame(arpProbe),
			want: "020000000001 02000000000b 0806 0001 0800 06 04 0002 02000000000c c63364c8 020000000001 00000000",
		},
		{name: "unicast request is not answered", frame: frame(arpUnicast), wantReason: DropNotAnnounced},
		{
			name:       "request of the holder is not answered",
			frame:      with(with(frame(arpBroadcast), 6, holderMAC[:]...), 22, holderMAC[:]...),
			wantReason: DropNotAnnounced,
		},
		{
			name:       "announcement by the holder is no conflict",
			frame:      with(with(frame(arpAnnouncement), 6, holderMAC[:]...), 22, holderMAC[:]...),
			wantReason: DropNotAnnounced,
		},
		{name: "announcement by another station is the holder's matter", frame: frame(arpAnnouncement), wantReason: DropNotAnnounced},
		{name: "reply by another station is the holder's matter", frame: frame(arpAnnouncementReply), wantReason: DropNotAnnounced},
	})
}

func TestDeputyDecidesNDP(t *testing.T) {
	testDecideIn(t, phaseDeputy, deputized(vip4, vip6), decideNDP, []decideTest{
		{
			name: "multicast solicitation is answered with the holder's MAC", frame: frame(nsMulticast),
			want: `020000000001 02000000000b 86dd 60000000 0020 3a ff
				20010db80051000000000000c0de0200 20010db8005100000000000000000001
				88 00 03bb 60000000 20010db80051000000000000c0de0200 020102000000000c`,
		},
		{
			name: "duplicate address detection is answered with the holder's MAC", frame: frame(nsDetection),
			want: `333300000001 02000000000b 86dd 60000000 0020 3a ff
				20010db80051000000000000c0de0200 ff020000000000000000000000000001
				88 00 72c2 20000000 20010db80051000000000000c0de0200 020102000000000c`,
		},
		{name: "unicast solicitation is not answered", frame: frame(nsUnicast), wantReason: DropNotAnnounced},
		{
			name: "solicitation of the holder is not answered", frame: with(frame(nsMulticast), 6, holderMAC[:]...),
			wantReason: DropNotAnnounced,
		},
		{
			name: "advertisement by another station is the holder's matter", frame: with(frame(naUnsolicited), 6, clientMAC[:]...),
			wantReason: DropNotAnnounced,
		},
	})
}

// A node that hands an address over answers all questions with its own MAC, and defends nothing.
func TestItsOwnDeputyDecides(t *testing.T) {
	set := inPhase(phaseDeputy, vip4, vip6)
	for _, e := range set {
		e.as = ownMAC
	}
	answered := inPhase(phaseAnnounced, vip4, vip6)
	for _, question := range [][]byte{frame(arpBroadcast), frame(arpUnicast), frame(arpProbe)} {
		if diff := gocmp.Diff(decideARP(question, ownMAC, answered).reply, decideARP(question, ownMAC, set).reply); diff != "" {
			t.Errorf("answer to %x (-as the holder +as its own deputy):\n%s", question, diff)
		}
	}
	for _, question := range [][]byte{frame(nsMulticast), frame(nsUnicast), frame(nsDetection)} {
		if diff := gocmp.Diff(decideNDP(question, ownMAC, answered).reply, decideNDP(question, ownMAC, set).reply); diff != "" {
			t.Errorf("answer to %x (-as the holder +as its own deputy):\n%s", question, diff)
		}
	}
	for name, got := range map[string]outcome{
		"a gratuitous ARP": decideARP(frame(arpAnnouncement), ownMAC, set), "a reply": decideARP(frame(arpAnnouncementReply), ownMAC, set),
		"an advertisement": decideNDP(advertisementFrame(clientMAC, clientMAC, vip6, allNodesMAC, allNodes, false), ownMAC, set),
	} {
		if got.reason != DropConflict || !got.listening {
			t.Errorf("%s of the successor is %+v, want it to be a speaker's to use", name, got)
		}
	}
}

// A node that hands an address over lets the other speaker use it, and tells of it after three seconds: by then one of the two should have
// stopped.
func TestARivalOfAHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.SetInterfaces([]Interface{eth0})
		b.SetSpeakers([]net.HardwareAddr{clientMAC[:]})
		own := map[string]net.HardwareAddr{"eth0": ownMAC[:]}
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0"}, As: own}, {Address: vip6, Interfaces: []string{"eth0"}, As: own}})
		b.pass(time.Second)
		for _, late := range []bool{false, true} {
			w := b.wires["eth0"]
			w.receive(ARP, frame(arpAnnouncement))
			w.receive(NDP, advertisementFrame(clientMAC, clientMAC, vip6, allNodesMAC, allNodes, false))
			if sent := b.pass(handoverPatience); len(sent) > 0 || len(b.conflicts) > 0 {
				t.Errorf("sent %q, conflicts %v", sent, b.conflicts)
			}
			if late != (len(b.rivals) == 2) || !late && len(b.rivals) > 0 {
				t.Errorf("late: %v, and told of the rivals %q", late, b.rivals)
			}
		}
		b.Ask([]netip.Addr{vip4})
		if sent := b.pass(time.Second); len(sent) != 1 || !strings.HasSuffix(sent[0], "probe 198.51.100.200") {
			t.Errorf("asked the LAN by %q", sent)
		}
	})
}

// A deputy announces nothing, and defends nothing. When it takes the address over, it announces it as its own.
func TestADeputyIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		eth0 := Interface{Name: "eth0", Index: 2, MAC: ownMAC[:]}
		b.SetInterfaces([]Interface{eth0})
		as := map[string]net.HardwareAddr{"eth0": holderMAC[:]}
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0"}, As: as}, {Address: vip6, Interfaces: []string{"eth0"}, As: as}})
		sent := b.pass(time.Minute)
		b.Refresh("a test")
		if sent = append(sent, b.pass(5*time.Minute)...); len(sent) > 0 {
			t.Errorf("A deputy sent %q", sent)
		}
		w := b.wires["eth0"]
		if !w.groups[solicitedNodeGroup(vip6)] {
			t.Error("A deputy is not in the group in which it is asked")
		}
		if answer := w.receive(ARP, frame(arpBroadcast)); answer == nil || mac(answer[22:28]) != holderMAC {
			t.Errorf("A deputy answers %x", answer)
		}
		w.receive(ARP, frame(arpAnnouncement))
		if sent := b.pass(time.Minute); len(sent) > 0 || len(b.conflicts) > 0 {
			t.Errorf("A deputy defended with %q, and reported %v", sent, b.conflicts)
		}
		if status := b.Announced(); len(status) > 0 {
			t.Errorf("A deputy says that it announces %v", status)
		}

		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0"}}, {Address: vip6, Interfaces: []string{"eth0"}}})
		want := []string{"advertisement " + vip6.String(), "reply " + vip4.String(), "request " + vip4.String()}
		got := b.pass(time.Millisecond)
		for i := range got {
			got[i] = got[i][slices.Index([]byte(got[i]), ' ')+len(" eth0 "):]
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("sent when it takes over (-want +got):\n%s", diff)
		}
		if answer := b.wires["eth0"].receive(ARP, frame(arpBroadcast)); answer == nil || mac(answer[22:28]) != ownMAC {
			t.Errorf("The new holder answers %x", answer)
		}
		if b.opened["eth0"] != 1 || !b.wires["eth0"].groups[solicitedNodeGroup(vip6)] {
			t.Error("The interface was opened again, or its groups were left, although nothing changed there")
		}

		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0"}, As: as}})
		if sent := b.pass(5 * time.Minute); len(sent) > 0 {
			t.Errorf("A holder that became a deputy sent %q", sent)
		}
	})
}

// While the holder has no responder, a kernel resolves the addresses to the holder's MAC by the answers of the deputy, from another node. So it does
// after it has asked the holder in vain.
func TestKernelClientResolvesByADeputy(t *testing.T) {
	l := newLAN(t)
	client, holder, deputy := l.add(t, "client", 1), l.add(t, "node1", 12), l.add(t, "node2", 11)
	r := deputy.announce(t)
	mac1 := holder.eth0(t).MAC
	as := map[string]net.HardwareAddr{"eth0": mac1}
	announcements := []Announcement{
		{Address: vip4, Interfaces: []string{"eth0"}, As: as}, {Address: vip6, Interfaces: []string{"eth0"}, As: as},
	}
	r.Set(append(announcements, Announcement{Address: otherVIP4, Interfaces: []string{"eth0"}}))
	r.waitUntil(t, "open", func(s []Status) bool { return len(s) == 1 && s[0].Announced })
	for _, vip := range []netip.Addr{vip4, vip6} {
		t.Run(vip.String(), func(t *testing.T) {
			client.talk(t, vip)
			client.waitNeighbour(t, vip, mac1, netlink.NUD_REACHABLE)
			client.IP(t, "neigh replace %s lladdr %s dev eth0 nud probe", vip, mac1)
			client.waitNeighbour(t, vip, nil, netlink.NUD_FAILED) // The holder has not answered, and the next packet asks everybody.
			client.talk(t, vip)
			client.waitNeighbour(t, vip, mac1, netlink.NUD_REACHABLE)
		})
	}
	// The switch has learnt the deputy's MAC at the deputy's port, and the holder's at the holder's: frames for the holder reach it.
	p := holder.tap(t, neighbor.TypeARP)
	client.tap(t, neighbor.TypeARP).send(t, with(frame(arpUnicast), 0, mac1...))
	p.until(t, func(f []byte) bool { return mac(f[:6]) == mac(mac1) && mac(f[6:12]) == clientMAC })
}
