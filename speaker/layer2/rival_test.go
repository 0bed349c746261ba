// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A speaker that uses an address of ours is told to the caller, be the address announced or only listened for. Any other station is not,
// and neither is what a deputy says of its holder.
func TestRivals(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		rival := holderMAC
		claim := with(with(frame(arpAnnouncement), 6, rival[:]...), 22, rival[:]...)
		claim6 := advertisementFrame(rival, rival, vip6, allNodesMAC, netip.MustParseAddr("ff02::1"), false)
		deputy := with(frame(arpAnnouncementReply), 22, rival[:]...) // from another station
		b.SetInterfaces([]Interface{eth0})
		b.SetSpeakers([]net.HardwareAddr{rival[:]})
		for _, listen := range []bool{false, true} {
			announcements := on("eth0", vip4, vip6)
			for i := range announcements {
				announcements[i].Listen = listen
			}
			b.Set(announcements)
			sent := b.pass(10 * time.Second)
			if listen != (len(sent) == 0) {
				t.Errorf("Listening %t, it sent %q", listen, sent)
			}
			w := b.wires["eth0"]
			for _, f := range [][]byte{claim, deputy, frame(arpAnnouncement)} {
				w.receive(ARP, f)
				b.pass(time.Millisecond)
			}
			w.receive(NDP, claim6)
			b.pass(time.Millisecond)
			want := []string{fmt.Sprintf("%s on eth0: %s", vip4, net.HardwareAddr(rival[:])), fmt.Sprintf("%s on eth0: %s", vip6, net.HardwareAddr(rival[:]))}
			if diff := cmp.Diff(want, b.rivals); diff != "" {
				t.Errorf("Listening %t, rivals (-want +got):\n%s", listen, diff)
			}
			b.rivals = nil
			if answer := w.receive(ARP, frame(arpBroadcast)); (answer == nil) != listen {
				t.Errorf("Listening %t, it answered %x", listen, answer)
			}
			if listen != (len(b.Announced()) == 0) {
				t.Errorf("Listening %t, it says that it announces %v", listen, b.Announced())
			}
			if listen && len(b.conflicts) > 1 {
				t.Errorf("Conflicts about addresses of another node: %v", b.conflicts)
			}
			b.pass(time.Minute)
			b.conflicts = nil
		}
	})
}

// Ask asks for what is announced or listened for, and for nothing else.
func TestAsk(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(slices.Concat(on("eth0", vip4), []Announcement{{Address: vip6, Interfaces: []string{"eth0"}, Listen: true}}))
		b.pass(time.Minute)
		b.Ask([]netip.Addr{vip4, otherVIP4, vip6})
		expectSent(t, b.pass(time.Second), "1m0s eth0 probe 198.51.100.200", "1m0s eth0 probe 2001:db8:51::c0de:200")
		many := slices.Repeat([]netip.Addr{vip4}, 1000)
		b.Ask(many)
		if sent := b.pass(time.Second); len(sent) == 0 || len(sent) > paceBurst {
			t.Errorf("Of 1000 addresses %d were asked for at once, want as many as are announced at once", len(sent))
		}
	})
}

// A speaker answers the question of another one to that alone, by either protocol, so that no neighbour changes its mind.
func TestTheAnswerToASpeaker(t *testing.T) {
	for name, answer := range map[string]outcome{
		"ARP": decideARP(probeARP(clientMAC, vip4), ownMAC, announced), "NDP": decideNDP(askNDP(clientMAC, vip6), ownMAC, announced),
	} {
		if answer.reply == nil || mac(answer.reply[:6]) != clientMAC || mac(answer.reply[6:12]) != ownMAC {
			t.Errorf("%s: the answer is %x, dropped for %s", name, answer.reply, answer.reason)
		}
	}
	set := inPhase(phaseAnnounced, vip4, vip6)
	heard := decideNDP(decideNDP(askNDP(clientMAC, vip6), ownMAC, announced).reply, clientMAC, set)
	if heard.reason != DropConflict || heard.station != ownMAC || heard.source != ownMAC {
		t.Errorf("the one that asks hears %+v", heard)
	}
}
