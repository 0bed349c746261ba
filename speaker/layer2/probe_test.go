// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

func TestProbe(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at       time.Duration
		do       string // start, step, conflict, interrupt or skip
		send     bool   // whether step sends, or conflict ends the round
		want     probeState
		wantDue  time.Duration // in the states that have it
		wantFrom mac
	}
	// round is a whole round that begins at a time and finds nobody.
	round := func(at time.Duration) []step {
		return []step{
			{at: at, do: "start", want: probeAsking, wantDue: at},
			{at: at, do: "step", send: true, want: probeAsking, wantDue: at + 60*ms},
			{at: at + 60*ms, do: "step", send: true, want: probeAsking, wantDue: at + 120*ms},
			{at: at + 120*ms, do: "step", send: true, want: probeAsking, wantDue: at + 180*ms},
			{at: at + 180*ms, do: "step", want: probeFree},
		}
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"three probes, and nobody objects within 180 ms", round(0)},
		{"a step before it is due does nothing", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 59 * ms, do: "step", want: probeAsking, wantDue: 60 * ms},
		}},
		{"a second start changes nothing", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 10 * ms, do: "start", want: probeAsking, wantDue: 60 * ms},
		}},
		{"a conflict ends the round, and the address is probed again after a second", append([]step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 1 * ms, do: "conflict", send: true, want: probeConflict, wantDue: 1001 * ms, wantFrom: clientMAC},
			{at: 60 * ms, do: "step", want: probeConflict, wantDue: 1001 * ms, wantFrom: clientMAC},
			{at: 500 * ms, do: "conflict", want: probeConflict, wantDue: 1001 * ms, wantFrom: clientMAC},
			{at: 1001 * ms, do: "step", want: probeWaiting},
		}, round(1001*ms)...)},
		{"a conflict in the last interval counts, after it no more", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 60 * ms, do: "step", send: true, want: probeAsking, wantDue: 120 * ms},
			{at: 120 * ms, do: "step", send: true, want: probeAsking, wantDue: 180 * ms},
			{at: 179 * ms, do: "conflict", send: true, want: probeConflict, wantDue: 1179 * ms, wantFrom: clientMAC},
		}},
		{"what is free stays free", append(round(0), step{at: time.Hour, do: "conflict", want: probeFree},
			step{at: time.Hour, do: "interrupt", want: probeFree}, step{at: time.Hour, do: "start", want: probeFree})},
		{"a conflict before the first round does not count", []step{{do: "conflict", want: probeWaiting}}},
		{"an interface that fails interrupts the round, which begins anew", append([]step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 60 * ms, do: "step", send: true, want: probeAsking, wantDue: 120 * ms},
			{at: 70 * ms, do: "interrupt", want: probeWaiting},
		}, round(time.Second)...)},
		{"an interface that fails does not shorten the back-off", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 1 * ms, do: "conflict", send: true, want: probeConflict, wantDue: 1001 * ms, wantFrom: clientMAC},
			{at: 70 * ms, do: "interrupt", want: probeConflict, wantDue: 1001 * ms, wantFrom: clientMAC},
		}},
		{"a program that was held up waits for an answer all the same", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 500 * ms, do: "step", send: true, want: probeAsking, wantDue: 560 * ms},
			{at: 700 * ms, do: "step", send: true, want: probeAsking, wantDue: 760 * ms},
			{at: 759 * ms, do: "step", want: probeAsking, wantDue: 760 * ms},
			{at: 900 * ms, do: "step", want: probeFree},
		}},
		{"an address that needs no probing is free at once", []step{{do: "skip", want: probeFree}}},
		{"an address that needs no probing any more is free at once", []step{
			{do: "start", want: probeAsking},
			{do: "step", send: true, want: probeAsking, wantDue: 60 * ms},
			{at: 10 * ms, do: "skip", want: probeFree},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p probe
			zero := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for i, s := range tt.steps {
				now, got := zero.Add(s.at), false
				switch s.do {
				case "start":
					p.Start(now)
				case "step":
					got = p.Step(now)
				case "conflict":
					got = p.Conflict(now, clientMAC)
				case "interrupt":
					p.Interrupt()
				case "skip":
					p.Skip()
				}
				if got != s.send || p.state != s.want {
					t.Fatalf("%d: %s at %s returned %t and came to state %d, want %t and %d", i, s.do, s.at, got, p.state, s.send, s.want)
				}
				if timed := s.want == probeAsking || s.want == probeConflict; timed && !p.due.Equal(zero.Add(s.wantDue)) {
					t.Fatalf("%d: after %s at %s the next step is due at %s, want %s", i, s.do, s.at, p.due.Sub(zero), s.wantDue)
				}
				if s.want == probeConflict && p.station != s.wantFrom {
					t.Fatalf("%d: the address is %x's, want %x's", i, p.station, s.wantFrom)
				}
			}
		})
	}
}

func TestProbeTakesAtMost200Milliseconds(t *testing.T) {
	if total := probeCount * probeInterval; total > 200*time.Millisecond {
		t.Errorf("An address is announced %s after its first probe", total)
	}
}

func TestProbeBackoffGrowsToFiveMinutes(t *testing.T) {
	var p probe
	var got []time.Duration
	now := time.Now()
	for range 12 {
		p.Start(now)
		p.Conflict(now, clientMAC)
		got = append(got, p.due.Sub(now))
		now = p.due
		p.Step(now)
	}
	const s = time.Second
	want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s, 300 * s}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Delays differ (-want +got):\n%s", diff)
	}
}

// What we send is what Linux sends before it takes an address of its own.
func TestProbeFrames(t *testing.T) {
	want := "ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b 00000000 000000000000 c63364c8"
	if diff := cmp.Diff(frame(want), probeARP(ownMAC, vip4)); diff != "" {
		t.Errorf("ARP probe differs (-want +got):\n%s", diff)
	}
	m, err := ndp.ParseMessage(frame(nsDetection)[54:])
	if err != nil {
		t.Fatal(err)
	}
	nonce := m.(*ndp.NeighborSolicitation).Options[0].(*ndp.Nonce)
	if diff := cmp.Diff(frame(nsDetection), probeNDP(clientMAC, vip6, nonce)); diff != "" {
		t.Errorf("Duplicate address detection differs (-want +got):\n%s", diff)
	}
}

// isProbe6 reports whether a frame is our duplicate address detection of an address, with whatever nonce.
func isProbe6(f []byte, own mac, addr netip.Addr) bool {
	m, err := ndp.ParseMessage(f[min(54, len(f)):])
	ns, ok := m.(*ndp.NeighborSolicitation)
	if err != nil || !ok || len(ns.Options) != 1 {
		return false
	}
	nonce, ok := ns.Options[0].(*ndp.Nonce)
	return ok && bytes.Equal(f, probeNDP(own, addr, nonce))
}

func TestDecideWhileProbing(t *testing.T) {
	probing := inPhase(phaseProbing, vip4, vip6)
	probing[vip6].nonce = ndp.NewNonce()
	ours := probeNDP(ownMAC, vip6, probing[vip6].nonce)
	testDecideIn(t, phaseProbing, probing, decideARP, []decideTest{
		{name: "request is not answered yet", frame: frame(arpBroadcast), wantReason: DropNotAnnounced},
		{
			name: "another station's answer is a conflict", frame: with(frame(arpAnswerToProbe), 0, []byte(swapped)...),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name: "another station's announcement is a conflict", frame: frame(arpAnnouncement),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name: "a request by the station that has the address is a conflict", frame: with(frame(arpAnnouncement), 41, 1),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name: "another station's probe is a conflict", frame: frame(arpProbe),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{name: "another station's probe for another address", frame: with(frame(arpProbe), 41, 1), wantReason: DropNotAnnounced},
		{name: "our own probe returned", frame: probeARP(ownMAC, vip4), wantReason: DropOwnFrame},
	})
	foreign := summed(with(with(frame(naUnsolicited), 6, clientMAC[:]...), 80, clientMAC[:]...))
	testDecideIn(t, phaseProbing, probing, decideNDP, []decideTest{
		{name: "solicitation is not answered yet", frame: frame(nsMulticast), wantReason: DropNotAnnounced},
		{
			name: "another station's advertisement is a conflict", frame: foreign,
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{
			name: "another station's duplicate address detection is a conflict", frame: frame(nsDetection),
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{
			name: "so it is without a nonce", frame: summed(frame(nsDetection)[:78]),
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{name: "our own solicitation returned", frame: ours, wantReason: DropOwnFrame},
		{
			name:  "our own solicitation returned by a bridge that changes the source",
			frame: with(ours, 6, clientMAC[:]...), wantReason: DropOwnFrame,
		},
	})
	silent := inPhase(phaseSilent, vip4, vip6)
	testDecideIn(t, phaseSilent, silent, decideARP, []decideTest{
		{name: "request for an address that is in use", frame: frame(arpBroadcast), wantReason: DropNotAnnounced},
		{name: "announcement by the station that has the address", frame: frame(arpAnnouncementReply), wantReason: DropOperation},
	})
	testDecideIn(t, phaseSilent, silent, decideNDP, []decideTest{
		{name: "solicitation for an address that is in use", frame: frame(nsMulticast), wantReason: DropNotAnnounced},
		{name: "advertisement by the station that has the address", frame: foreign, wantReason: DropNotAnnounced},
	})
}

// swapped exchanges the MACs of the kernel's answer to a probe: it comes from the client and is for us.
const swapped = "\x02\x00\x00\x00\x00\x0b\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02\x02\x00\x00\x00\x00\x01"

// probed declares addresses that have not been announced on an interface before.
func probed(iface string, addrs ...netip.Addr) (announcements []Announcement) {
	for _, a := range on(iface, addrs...) {
		a.Probe = a.Interfaces
		announcements = append(announcements, a)
	}
	return announcements
}

func TestNewAddressIsProbedAndThenAnnounced(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip4, vip6))
		expectSent(t, b.pass(179*time.Millisecond),
			"0s eth0 probe 198.51.100.200", "0s eth0 probe 2001:db8:51::c0de:200",
			"60ms eth0 probe 198.51.100.200", "60ms eth0 probe 2001:db8:51::c0de:200",
			"120ms eth0 probe 198.51.100.200", "120ms eth0 probe 2001:db8:51::c0de:200")
		w := b.wires["eth0"]
		if !w.groups[solicitedNodeGroup(vip6)] {
			t.Error("Not in the group in which another station would ask for the address")
		}
		if answer := w.receive(ARP, frame(arpBroadcast)); answer != nil {
			t.Errorf("Answered %x for an address that is probed", answer)
		}
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: false <nil>", "2001:db8:51::c0de:200 on eth0: false <nil>")
		expectSent(t, b.pass(2*time.Millisecond),
			"180ms eth0 request 198.51.100.200", "180ms eth0 reply 198.51.100.200", "180ms eth0 advertisement 2001:db8:51::c0de:200")
		if answer := w.receive(ARP, frame(arpBroadcast)); answer == nil {
			t.Error("Did not answer after probing")
		}
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>", "2001:db8:51::c0de:200 on eth0: true <nil>")
		if b.probed != 1 {
			t.Errorf("Was told %d times that probing has ended, want once", b.probed)
		}
	})
}

func TestAddressInUseIsNotAnnouncedUntilItIsFree(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip4))
		b.pass(10 * time.Millisecond)
		w := b.wires["eth0"]
		w.receive(ARP, frame(arpAnnouncementReply))
		expectSent(t, b.pass(990*time.Millisecond)) // nothing, neither further probes nor a defence
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: false in use by 02:00:00:00:00:01")
		if inUse, ok := errors.AsType[*InUseError](b.Announced()[0].Err); !ok || !bytes.Equal(inUse.MAC, clientMAC[:]) {
			t.Errorf("Err is %v, want an InUseError", inUse)
		}
		want := Conflict{Address: vip4, Interface: "eth0", MAC: clientMAC[:], Protocol: ARP, Probed: true}
		b.change(func() {
			if diff := cmp.Diff([]Conflict{want}, b.conflicts, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("Conflicts differ (-want +got):\n%s", diff)
			}
		})
		if answer := w.receive(ARP, frame(arpBroadcast)); answer != nil {
			t.Errorf("Answered %x for an address that is in use", answer)
		}

		// It is probed again at 1.01 s, and is still in use; at 3.02 s it is free.
		expectSent(t, b.pass(20*time.Millisecond), "1.01s eth0 probe 198.51.100.200")
		w.receive(ARP, frame(arpProbe)) // another station wants it as well
		expectSent(t, b.pass(2030*time.Millisecond), "3.02s eth0 probe 198.51.100.200")
		b.Set(append(probed("eth0", vip4), on("eth0", vip6)...))
		synctest.Wait()
		expectStatus(t, b.Announced(),
			"198.51.100.200 on eth0: false in use by 02:00:00:00:00:01", "2001:db8:51::c0de:200 on eth0: true <nil>")
		b.Set(probed("eth0", vip4))
		b.pass(0)
		expectSent(t, b.pass(270*time.Millisecond),
			"3.08s eth0 probe 198.51.100.200", "3.14s eth0 probe 198.51.100.200",
			"3.2s eth0 request 198.51.100.200", "3.2s eth0 reply 198.51.100.200",
			"3.3s eth0 request 198.51.100.200", "3.3s eth0 reply 198.51.100.200")
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>")
		if b.probed != 3 {
			t.Errorf("Was told %d times that probing has ended, want 3: in use, in use, free", b.probed)
		}
	})
}

func TestConflictOnOneInterfaceDoesNotConcernAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0", "eth1"}, Probe: []string{"eth0", "eth1"}}})
		b.pass(10 * time.Millisecond)
		b.wires["eth0"].receive(ARP, frame(arpAnnouncement))
		b.pass(500 * time.Millisecond)
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: false in use by 02:00:00:00:00:01", "198.51.100.200 on eth1: true <nil>")
	})
}

func TestInterfaceThatComesLaterIsProbed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set(on("eth0", vip6))
		b.pass(10 * time.Second)
		b.Set([]Announcement{{Address: vip6, Interfaces: []string{"eth0", "eth1"}, Probe: []string{"eth1"}}})
		expectSent(t, b.pass(200*time.Millisecond),
			"10s eth1 probe 2001:db8:51::c0de:200", "10.06s eth1 probe 2001:db8:51::c0de:200", "10.12s eth1 probe 2001:db8:51::c0de:200",
			"10.18s eth1 advertisement 2001:db8:51::c0de:200")
	})
}

func TestTakeoverIsNotProbed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip6))
		b.pass(10 * time.Millisecond)
		// Another node has recorded the address since, and died.
		b.Set(on("eth0", vip6))
		expectSent(t, b.pass(50*time.Millisecond), "10ms eth0 advertisement 2001:db8:51::c0de:200")
		expectStatus(t, b.Announced(), "2001:db8:51::c0de:200 on eth0: true <nil>")
	})
}

func TestAddressInUseIsTakenOverAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip4))
		b.pass(10 * time.Millisecond)
		b.wires["eth0"].receive(ARP, frame(arpAnnouncement))
		b.pass(10 * time.Millisecond)
		b.Set(on("eth0", vip4))
		expectSent(t, b.pass(50*time.Millisecond), "20ms eth0 request 198.51.100.200", "20ms eth0 reply 198.51.100.200")
	})
}

func TestAddressFoundFreeIsNotProbedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip6))
		b.pass(10 * time.Second)
		for name, change := range map[string]func(){
			"the reader fails": func() { b.wires["eth0"].failed(errors.New("network is down")) },
			"the interface goes and comes": func() {
				b.SetInterfaces(nil)
				b.pass(time.Millisecond)
				b.SetInterfaces([]Interface{eth0})
			},
			"the MAC changes":      func() { b.SetInterfaces([]Interface{{Name: "eth0", Index: 2, MAC: eth1.MAC}}) },
			"the order is another": func() { b.Set(probed("eth0", vip6, vip6)) },
		} {
			change()
			probes := slices.DeleteFunc(b.pass(time.Minute), func(line string) bool { return !strings.Contains(line, "probe") })
			if len(probes) > 1 { // One looks for speakers that have taken it over too.
				t.Errorf("%s: %q", name, probes)
			}
			expectStatus(t, b.Announced(), "2001:db8:51::c0de:200 on eth0: true <nil>")
		}
		// One that was withdrawn is.
		b.Set(nil)
		b.pass(time.Second)
		b.Set(probed("eth0", vip6))
		if sent := b.pass(10 * time.Millisecond); len(sent) != 1 || !strings.Contains(sent[0], "probe") {
			t.Errorf("After it was withdrawn: sent %v, want a probe", sent)
		}
	})
}

func TestInterfaceThatFailsInterruptsProbing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip6))
		b.pass(130 * time.Millisecond)
		b.wires["eth0"].failed(errors.New("network is down"))
		expectSent(t, b.pass(300*time.Millisecond),
			"230ms eth0 probe 2001:db8:51::c0de:200", "290ms eth0 probe 2001:db8:51::c0de:200", "350ms eth0 probe 2001:db8:51::c0de:200",
			"410ms eth0 advertisement 2001:db8:51::c0de:200")
	})
}

// Two nodes that become the holder at once probe at the same time, and hear each other.
func TestSpeakersDoNotBlockEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetSpeakers([]net.HardwareAddr{ownMAC[:], clientMAC[:], nil})
		b.SetInterfaces([]Interface{eth0})
		b.Set(probed("eth0", vip4, vip6))
		b.pass(10 * time.Millisecond)
		w := b.wires["eth0"]
		w.receive(ARP, frame(arpProbe))
		w.receive(NDP, frame(nsDetection))
		w.receive(ARP, frame(arpAnnouncement))
		b.pass(180 * time.Millisecond)
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>", "2001:db8:51::c0de:200 on eth0: true <nil>")
		if len(b.conflicts) > 0 {
			t.Errorf("Reported as conflicts: %v", b.conflicts)
		}
	})
}

func TestOwnOtherInterfaceDoesNotBlockProbing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0", "eth1"}, Probe: []string{"eth0", "eth1"}}})
		b.pass(10 * time.Millisecond)
		b.wires["eth0"].receive(ARP, probeARP(mac(eth1.MAC), vip4)) // Both are on the same LAN.
		b.wires["eth1"].receive(ARP, probeARP(mac(eth0.MAC), vip4))
		b.pass(180 * time.Millisecond)
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>", "198.51.100.200 on eth1: true <nil>")
	})
}

func TestRefreshDoesNotDisturbProbing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(append(probed("eth0", vip6), on("eth0", vip4)...))
		b.pass(50 * time.Millisecond)
		b.Refresh("membership changed")
		expectSent(t, b.pass(80*time.Millisecond),
			"50ms eth0 request 198.51.100.200", "50ms eth0 reply 198.51.100.200",
			"60ms eth0 probe 2001:db8:51::c0de:200", "120ms eth0 probe 2001:db8:51::c0de:200")
	})
}

// 500 new addresses are asked for at a bounded rate, all of them, and delay no other address. Those of which many are in use at once are
// all found to be.
func TestManyNewAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		var addrs []netip.Addr
		for n := range 500 {
			addrs = append(addrs, netip.AddrFrom4([4]byte{198, 18, byte(n / 250), byte(n % 250)}))
		}
		probes := map[netip.Addr]int{}
		var at []time.Duration
		b.change(func() {
			b.onSend = func(f []byte) {
				if target := netip.AddrFrom4([4]byte(f[38:42])); bytes.Equal(f, probeARP(ownMAC, target)) {
					probes[target]++
					at = append(at, time.Since(b.start))
				}
			}
		})
		b.Set(append(probed("eth0", addrs...), on("eth0", vip6)...))
		b.Set(append(probed("eth0", addrs...), on("eth0", vip6, vip4)...))
		b.pass(time.Millisecond)
		for _, s := range b.Announced() {
			if (s.Address == vip4 || s.Address == vip6) != s.Announced {
				t.Errorf("After a millisecond: %+v", s)
			}
		}
		// The first batch is in use, in one instant.
		var first []netip.Addr
		b.change(func() { first = slices.Collect(maps.Keys(probes)) })
		if len(first) != probeBurst {
			t.Errorf("%d addresses were probed at once, want %d", len(first), probeBurst)
		}
		w := b.wires["eth0"]
		for _, a := range first {
			go w.receive(ARP, neighbor.ARP(clientMAC, ownMAC, 2, clientMAC, a, ownMAC, netip.IPv4Unspecified()))
		}
		b.pass(900 * time.Millisecond)
		got := 0
		for _, s := range b.Announced() {
			if s.Err != nil {
				got++
			}
		}
		if got != len(first) {
			t.Errorf("%d addresses are in use, want %d", got, len(first))
		}
		b.pass(3 * time.Second)
		for _, s := range b.Announced() {
			if !s.Announced {
				t.Errorf("In the end: %+v", s)
			}
		}
		b.change(func() { at = slices.Clone(at) })
		for i := range at {
			if j := i + 1000; j < len(at) && at[j]-at[i] < time.Second {
				t.Errorf("1,000 probes between %s and %s", at[i], at[j])
				break
			}
		}
	})
}

func TestWithdrawnWhileProbed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(append(probed("eth0", vip4), on("eth0", vip6)...))
		b.pass(10 * time.Second)
		b.Set(probed("eth0", vip4, otherVIP4))
		b.pass(10 * time.Millisecond)
		b.Set(on("eth0", vip4))
		expectSent(t, b.pass(time.Second))
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>")
	})
}

// A conflict that was heard counts, even if it is taken in only when the last interval has ended.
func TestConflictAtTheLastMoment(t *testing.T) {
	a := New(Config{})
	var w nowhere
	a.open = func(_ Interface, handle handler, _ func(error)) (wire, error) {
		w.handle = handle
		return &w, nil
	}
	a.SetInterfaces([]Interface{eth0})
	a.Set(probed("eth0", vip4))
	logger := klog.Background()
	a.apply(logger)
	for range probeCount - 1 {
		now, _ := a.next()
		a.proceed(logger, now)
	}
	end, _ := a.next()
	w.handle(ARP, frame(arpAnnouncement), nil)
	a.proceed(logger, end)
	expectStatus(t, a.Announced(), "198.51.100.200 on eth0: false in use by 02:00:00:00:00:01")
}

// nowhere is a wire that leads nowhere.
type nowhere struct{ handle handler }

func (*nowhere) send(Protocol, []byte) error    { return nil }
func (*nowhere) dropped(Protocol) uint32        { return 0 }
func (*nowhere) receiveAllMulticast(bool) error { return nil }
func (*nowhere) join(netip.Addr) error          { return nil }
func (*nowhere) leave(netip.Addr)               {}
func (*nowhere) close()                         {}

// probeOn declares addresses that are new on eth0.
func (r *running) probeOn(addrs ...netip.Addr) { r.Set(probed("eth0", addrs...)) }

// conflict waits for a conflict.
func (r *running) conflict(t *testing.T) (c Conflict) {
	t.Helper()
	select {
	case c = <-r.conflicts:
	case <-time.After(patience):
		t.Fatalf("No conflict was reported; announced: %+v", r.Announced())
	}
	return c
}

func announcedAll(status []Status) bool {
	return len(status) > 0 && !slices.ContainsFunc(status, func(s Status) bool { return !s.Announced || s.Err != nil })
}

func inUseAll(status []Status) bool {
	return len(status) > 0 && !slices.ContainsFunc(status, func(s Status) bool {
		_, ok := errors.AsType[*InUseError](s.Err)
		return s.Announced || !ok
	})
}

// A Linux that has the addresses answers ARP probes and duplicate address detection.
func TestKernelThatHasTheAddressKeepsIt(t *testing.T) {
	l := newLAN(t)
	client, owner, node := l.add(t, "client", 1), l.add(t, "owner", 66), l.add(t, "node1", 11)
	owner.IP(t, "addr add %s/24 dev eth0", vip4)
	owner.IP(t, "addr add %s/64 dev eth0 nodad", vip6)
	r := node.announce(t)
	r.probeOn(vip4, vip6)
	r.waitUntil(t, "in use", inUseAll)
	for range 2 {
		if c := r.conflict(t); !c.Probed || !slices.Equal(c.MAC, owner.eth0(t).MAC) {
			t.Errorf("Conflict is %+v, want one with %s", c, owner.eth0(t).MAC)
		}
	}
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.talk(t, vip)
		client.waitNeighbour(t, vip, owner.eth0(t).MAC, netlink.NUD_REACHABLE)
	}
	if n := r.counter(t, "tandem_layer2_announcements_total"); n != 0 {
		t.Errorf("Sent %v announcements of addresses that are in use", n)
	}
	if n := r.counter(t, "tandem_layer2_addresses_in_use"); n != 2 {
		t.Errorf("tandem_layer2_addresses_in_use is %v, want 2", n)
	}

	// The owner gives them up, and they are announced without anybody's doing.
	owner.IP(t, "addr del %s/24 dev eth0", vip4)
	owner.IP(t, "addr del %s/64 dev eth0", vip6)
	r.waitUntil(t, "announced", announcedAll)
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.waitNeighbour(t, vip, node.eth0(t).MAC, netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE)
	}
}

// Nobody has the addresses. The client, which knows none of them, learns nothing from the probes.
func TestProbesOnTheWire(t *testing.T) {
	l := newLAN(t)
	client, node := l.add(t, "client", 1), l.add(t, "node1", 11)
	// A link that has just come up may lose the first frame.
	clientAddr := netip.MustParseAddr("198.51.100.1")
	node.talk(t, clientAddr)
	node.waitNeighbour(t, clientAddr, client.eth0(t).MAC, netlink.NUD_REACHABLE)
	arpTap, ndpTap := client.tap(t, neighbor.TypeARP), client.tap(t, neighbor.TypeIPv6)
	r := node.announce(t)
	r.probeOn(vip4, vip6)
	own := mac(node.eth0(t).MAC)

	request, _ := gratuitousARP(own, vip4)
	n := 0
	for _, f := range arpTap.until(t, func(f []byte) bool { return bytes.Equal(f[:42], request) }) {
		if bytes.Equal(f[:42], probeARP(own, vip4)) {
			n++
		}
	}
	if n != probeCount {
		t.Errorf("The client heard %d ARP probes before the announcement, want %d", n, probeCount)
	}
	var probes [][]byte
	announcement := unsolicitedAdvertisement(own, vip6)
	for _, f := range ndpTap.until(t, func(f []byte) bool { return bytes.Equal(f, announcement) }) {
		if isProbe6(f, own, vip6) {
			probes = append(probes, f)
		}
	}
	if len(probes) != probeCount {
		t.Fatalf("The client heard %d solicitations before the announcement, want %d", len(probes), probeCount)
	}
	for _, f := range probes {
		// Of the kernel's own, only the MAC, the nonce and so the checksum differ.
		want := frame(nsDetection)
		copy(want[6:], own[:])
		copy(want[56:], f[56:58])
		copy(want[80:], f[80:86])
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("Solicitation differs from the kernel's (-want +got):\n%s", diff)
		}
		if reason := decideNDP(f, clientMAC, inPhase(phaseSilent)).reason; reason != DropNotAnnounced {
			t.Errorf("Solicitation is not valid: %s", reason)
		}
	}
	if n := r.counter(t, "tandem_layer2_probes_total"); n != 2*probeCount {
		t.Errorf("Counted %v probes, want %d", n, 2*probeCount)
	}
}

// A host that is about to take the address gets it: both ask at the same time, and we step back.
func TestHostThatDetectsDuplicatesAtTheSameTime(t *testing.T) {
	l := newLAN(t)
	other, node := l.add(t, "other", 66), l.add(t, "node1", 11)
	r := node.announce(t)
	r.set(t, vip4) // so that the sockets are open
	heard, own, foreign := other.tap(t, neighbor.TypeIPv6), mac(node.eth0(t).MAC), other.eth0(t).MAC
	r.Set(append(on("eth0", vip4), probed("eth0", vip6)...))
	heard.until(t, func(f []byte) bool { return isProbe6(f, own, vip6) })
	heard.send(t, probeNDP(mac(foreign), vip6, ndp.NewNonce())) // within 180 ms
	if c := r.conflict(t); !c.Probed || c.Address != vip6 || !slices.Equal(c.MAC, foreign) {
		t.Errorf("Conflict is %+v, want one about %s with %s", c, vip6, foreign)
	}
}

// Two nodes that are both speakers and probe at the same time both announce in the end; the record decides which of them goes on.
func TestTwoSpeakersProbeAtTheSameTime(t *testing.T) {
	l := newLAN(t)
	node1, node2 := l.add(t, "node1", 11), l.add(t, "node2", 12)
	r1, r2 := node1.announce(t), node2.announce(t)
	macs := []net.HardwareAddr{node1.eth0(t).MAC, node2.eth0(t).MAC}
	for _, r := range []*running{r1, r2} {
		r.SetSpeakers(macs)
	}
	for _, r := range []*running{r1, r2} {
		r.probeOn(vip4, vip6)
	}
	for _, r := range []*running{r1, r2} {
		r.waitUntil(t, "announced", announcedAll)
	}
}

// BenchmarkProbe10000 is all that is done in the first 40 seconds of 10,000 new addresses on one interface.
func BenchmarkProbe10000(b *testing.B) {
	var addrs []netip.Addr
	for n := range 10000 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}))
	}
	logger := klog.Background()
	for b.Loop() {
		a := New(Config{})
		a.open = func(Interface, handler, func(error)) (wire, error) { return &nowhere{}, nil }
		a.SetInterfaces([]Interface{eth0})
		a.Set(probed("eth0", addrs...))
		a.apply(logger)
		end := time.Now().Add(40 * time.Second)
		for now, ok := a.next(); ok && now.Before(end); now, ok = a.next() {
			a.proceed(logger, now)
		}
		if s := a.Announced(); len(s) != len(addrs) || slices.ContainsFunc(s, func(s Status) bool { return !s.Announced }) {
			b.Fatal("not all are announced")
		}
	}
}
