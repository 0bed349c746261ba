// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// The frames are captured from Linux 6.18, arping (iputils) and ndisc6: a client at 198.51.100.1 and 2001:db8:51::1 with MAC 02:…:01 asks
// for vip4 and vip6, which in the capture belong to a kernel with MAC 02:…:0b.
var (
	clientMAC = mac{0x02, 0, 0, 0, 0, 0x01}
	ownMAC    = mac{0x02, 0, 0, 0, 0, 0x0b}
	announced = inPhase(phaseAnnounced, vip4, vip6)
)

const (
	arpBroadcast = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c6336401 ffffffffffff c63364c8"
	// The kernel confirms an entry.
	arpUnicast = "02000000000b 020000000001 0806 0001 0800 06 04 0001 020000000001 c6336401 000000000000 c63364c8"
	// arping -D.
	arpProbe = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 ffffffffffff c63364c8"
	// arping -U and -A by the client that has taken the address.
	arpAnnouncement      = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c63364c8 ffffffffffff c63364c8"
	arpAnnouncementReply = "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c63364c8 020000000001 c63364c8"

	// What the kernel itself answers to the first three.
	arpAnswer        = "020000000001 02000000000b 0806 0001 0800 06 04 0002 02000000000b c63364c8 020000000001 c6336401"
	arpAnswerToProbe = "020000000001 02000000000b 0806 0001 0800 06 04 0002 02000000000b c63364c8 020000000001 00000000"

	nsMulticast = `3333ffde0200 020000000001 86dd 60000000 0020 3a ff
		20010db8005100000000000000000001 ff0200000000000000000001ffde0200
		87 00 55cc 00000000 20010db80051000000000000c0de0200 0101020000000001`
	nsUnicast = `02000000000b 020000000001 86dd 60000000 0020 3a ff
		fe800000000000000000 00fffe000001 20010db80051000000000000c0de0200
		87 00 964f 00000000 20010db80051000000000000c0de0200 0101020000000001`
	// With the nonce option of RFC 7527.
	nsDetection = `3333ffde0200 020000000001 86dd 60000000 0020 3a ff
		00000000000000000000000000000000 ff0200000000000000000001ffde0200
		87 00 e78c 00000000 20010db80051000000000000c0de0200 0e016c006d71b7d9`

	// What the kernel itself answers to the multicast solicitation: its source is the target.
	naAnswer = `020000000001 02000000000b 86dd 60000000 0020 3a ff
		20010db80051000000000000c0de0200 20010db8005100000000000000000001
		88 00 03bc 60000000 20010db80051000000000000c0de0200 020102000000000b`
	// It answers the unicast one without a link-layer address; we give it (checksum as tcpdump confirms it).
	naAnswerToUnicast = `020000000001 02000000000b 86dd 60000000 0020 3a ff
		20010db80051000000000000c0de0200 fe800000000000000000 00fffe000001
		88 00 3445 60000000 20010db80051000000000000c0de0200 020102000000000b`
	naUnsolicited = `333300000001 02000000000b 86dd 60000000 0020 3a ff
		20010db80051000000000000c0de0200 ff020000000000000000000000000001
		88 00 72c3 20000000 20010db80051000000000000c0de0200 020102000000000b`
)

// frame returns the bytes of a frame in hex.
func frame(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// with returns a frame with some bytes replaced.
func with(f []byte, offset int, bytes ...byte) []byte {
	f = slices.Clone(f)
	copy(f[offset:], bytes)
	return f
}

// summed returns an NDP frame with the IPv6 payload length and ICMPv6 checksum that it should have.
func summed(f []byte) []byte {
	f = with(f, 56, 0, 0)
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
	binary.BigEndian.PutUint16(f[56:], neighbor.Checksum(f[22:54], f[54:]))
	return f
}

// inPhase returns a set of addresses that are all in one phase.
func inPhase(p phase, addrs ...netip.Addr) addressSet {
	set := addressSet{}
	for _, a := range addrs {
		set[a] = &entry{}
		set[a].phase.Store(uint32(p))
	}
	return set
}

type decideTest struct {
	name        string
	frame       []byte
	want        string // the reply
	wantReason  DropReason
	wantAddress netip.Addr
	wantStation mac
}

func testDecide(t *testing.T, decide func([]byte, mac, addressSet) outcome, tests []decideTest) {
	t.Helper()
	testDecideIn(t, phaseAnnounced, announced, decide, tests)
}

func testDecideIn(t *testing.T, p phase, set addressSet, decide func([]byte, mac, addressSet) outcome, tests []decideTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			original := slices.Clone(tt.frame)
			got := decide(tt.frame, ownMAC, set)
			if diff := cmp.Diff(hex.EncodeToString(frame(tt.want)), hex.EncodeToString(got.reply)); diff != "" {
				t.Errorf("Reply differs (-want +got):\n%s", diff)
			}
			if got.reason != tt.wantReason {
				t.Errorf("Dropped for %q, want %q", got.reason, tt.wantReason)
			}
			if got.address != tt.wantAddress || got.station != tt.wantStation {
				t.Errorf("Conflict about %s with %x, want %s with %x", got.address, got.station, tt.wantAddress, tt.wantStation)
			}
			if want := got.reason == DropConflict && p == phaseProbing; got.probing != want {
				t.Errorf("About an address that is probed: %t, want %t", got.probing, want)
			}
			if !slices.Equal(tt.frame, original) {
				t.Error("Frame was changed")
			}
		})
	}
}

func TestDecideARP(t *testing.T) {
	padded := func(s string) []byte { return append(frame(s), make([]byte, 18)...) }
	testDecide(t, decideARP, []decideTest{
		{name: "broadcast request is answered as the kernel does", frame: frame(arpBroadcast), want: arpAnswer},
		{name: "unicast request is answered as the kernel does", frame: frame(arpUnicast), want: arpAnswer},
		{name: "probe of duplicate address detection is answered", frame: frame(arpProbe), want: arpAnswerToProbe},
		{name: "padding is ignored", frame: padded(arpBroadcast), want: arpAnswer},

		{
			name: "announcement by another station is a conflict", frame: frame(arpAnnouncement),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name: "announcement as a reply is a conflict", frame: frame(arpAnnouncementReply),
			wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name:  "another station's unicast answer for our address is a conflict",
			frame: with(frame(arpAnnouncementReply), 0, ownMAC[:]...), wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},
		{
			name:  "request for another address from one of ours is a conflict",
			frame: with(frame(arpAnnouncement), 41, 0xc9), wantReason: DropConflict, wantAddress: vip4, wantStation: clientMAC,
		},

		{name: "nothing", frame: nil, wantReason: DropTruncated},
		{name: "shorter than an Ethernet header", frame: frame(arpBroadcast)[:13], wantReason: DropTruncated},
		{name: "one byte short", frame: frame(arpBroadcast)[:41], wantReason: DropTruncated},
		{name: "VLAN tag", frame: with(frame(arpBroadcast), 12, 0x81, 0x00), wantReason: DropVLAN},
		{name: "service VLAN tag", frame: with(frame(arpBroadcast), 12, 0x88, 0xa8), wantReason: DropVLAN},
		{name: "IPv6", frame: with(frame(arpBroadcast), 12, 0x86, 0xdd), wantReason: DropProtocol},
		{name: "sent to another station", frame: with(frame(arpUnicast), 5, 0x0c), wantReason: DropOtherHost},
		{name: "sent to a multicast group", frame: with(frame(arpUnicast), 0, 0x01), wantReason: DropOtherHost},
		{name: "our own frame returned", frame: with(frame(arpBroadcast), 6, ownMAC[:]...), wantReason: DropOwnFrame},
		{name: "our own packet returned by a proxy", frame: with(frame(arpBroadcast), 22, ownMAC[:]...), wantReason: DropOwnFrame},
		{name: "sent by a group", frame: with(frame(arpBroadcast), 6, 0x03), wantReason: DropInvalidSender},
		{
			name:  "sender hardware address is broadcast",
			frame: with(frame(arpBroadcast), 22, neighbor.Broadcast[:]...), wantReason: DropInvalidSender,
		},
		{name: "sender hardware address is zero", frame: with(frame(arpBroadcast), 22, 0, 0, 0, 0, 0, 0), wantReason: DropInvalidSender},
		{name: "sender address is multicast", frame: with(frame(arpBroadcast), 28, 224), wantReason: DropInvalidSender},
		{name: "sender address is loopback", frame: with(frame(arpBroadcast), 28, 127), wantReason: DropInvalidSender},
		{name: "sender address is broadcast", frame: with(frame(arpBroadcast), 28, 255, 255, 255, 255), wantReason: DropInvalidSender},
		{name: "hardware type is not Ethernet", frame: with(frame(arpBroadcast), 15, 6), wantReason: DropMalformed},
		{name: "protocol type is not IPv4", frame: with(frame(arpBroadcast), 16, 0x86, 0xdd), wantReason: DropMalformed},
		{name: "hardware address length is zero", frame: with(frame(arpBroadcast), 18, 0), wantReason: DropMalformed},
		{name: "hardware address length goes beyond the frame", frame: with(frame(arpBroadcast), 18, 255), wantReason: DropMalformed},
		{name: "hardware address length is eight, in a padded frame", frame: with(padded(arpBroadcast), 18, 8), wantReason: DropMalformed},
		{name: "protocol address length is 16", frame: with(padded(arpBroadcast), 19, 16), wantReason: DropMalformed},
		{name: "reverse ARP", frame: with(frame(arpBroadcast), 21, 3), wantReason: DropOperation},
		{name: "answer to another station", frame: with(frame(arpAnnouncementReply), 31, 1), wantReason: DropOperation},
		{name: "request for another address", frame: with(frame(arpBroadcast), 41, 0xc9), wantReason: DropNotAnnounced},
	})
}

func TestDecideNDP(t *testing.T) {
	const (
		hopLimit, source, destination, icmpType, code, target, option = 21, 22, 38, 54, 55, 62, 78
	)
	ns, unicast, detection, na := frame(nsMulticast), frame(nsUnicast), frame(nsDetection), frame(naUnsolicited)
	// The same advertisement by the client.
	foreign := summed(with(with(na, 6, clientMAC[:]...), option+2, clientMAC[:]...))
	testDecide(t, decideNDP, []decideTest{
		{name: "multicast solicitation is answered as the kernel does", frame: ns, want: naAnswer},
		{name: "unicast solicitation is answered", frame: unicast, want: naAnswerToUnicast},
		{name: "duplicate address detection is answered to all nodes", frame: detection, want: naUnsolicited},
		{name: "padding is ignored", frame: append(slices.Clone(ns), 1, 2, 3, 4), want: naAnswer},
		{
			name:  "without source link-layer address the frame's source is answered",
			frame: summed(ns[:option]), want: naAnswer,
		},
		{
			name:  "source link-layer address goes before the frame's source",
			frame: with(ns, 6, 0x02, 0, 0, 0, 0, 0x02), want: naAnswer,
		},
		{name: "an unknown option is ignored", frame: summed(append(slices.Clone(ns), 200, 1, 0, 0, 0, 0, 0, 0)), want: naAnswer},
		{name: "a flow label is ignored", frame: with(ns, 15, 0x09, 0x16, 0x40), want: naAnswer},

		{
			name: "solicitation from one of our addresses is a conflict", frame: summed(with(unicast, source, vip6.AsSlice()...)),
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{
			name: "another station's advertisement is a conflict", frame: foreign,
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{
			name: "without target link-layer address the frame's source is the other station", frame: summed(foreign[:option]),
			wantReason: DropConflict, wantAddress: vip6, wantStation: clientMAC,
		},
		{name: "an advertisement of our MAC that a proxy sent is ours", frame: with(na, 6, clientMAC[:]...), wantReason: DropOwnFrame},
		{
			name:  "advertisement of another address",
			frame: summed(with(foreign, target+15, 1)), wantReason: DropNotAnnounced,
		},
		{name: "multicast advertisement with the Solicited flag", frame: summed(with(foreign, 58, 0x60)), wantReason: DropMalformed},
		{name: "advertisement of a multicast target", frame: summed(with(foreign, target, 0xff)), wantReason: DropTargetMulticast},

		{name: "nothing", frame: nil, wantReason: DropTruncated},
		{name: "Ethernet header only", frame: ns[:14], wantReason: DropTruncated},
		{name: "half an IPv6 header", frame: ns[:40], wantReason: DropTruncated},
		{name: "payload shorter than the header says", frame: ns[:len(ns)-1], wantReason: DropTruncated},
		{name: "VLAN tag", frame: with(ns, 12, 0x81, 0x00), wantReason: DropVLAN},
		{name: "ARP", frame: with(ns, 12, 0x08, 0x06), wantReason: DropProtocol},
		{name: "IP version 4 inside", frame: with(ns, 14, 0x45), wantReason: DropProtocol},
		{name: "fragment header", frame: with(ns, 20, 44), wantReason: DropProtocol},
		{name: "sent to another station", frame: with(unicast, 5, 0x0c), wantReason: DropOtherHost},
		{name: "sent to a group that is not IPv6's", frame: with(ns, 0, 0x01, 0x00, 0x5e), wantReason: DropOtherHost},
		{name: "our own frame returned", frame: with(ns, 6, ownMAC[:]...), wantReason: DropOwnFrame},
		{name: "sent by a group", frame: with(ns, 6, 0x03), wantReason: DropInvalidSender},
		{name: "hop limit 254: came through a router", frame: with(ns, hopLimit, 254), wantReason: DropHopLimit},
		{name: "length below 24", frame: summed(ns[:option-1]), wantReason: DropMalformed},
		{name: "router solicitation", frame: summed(with(ns, icmpType, 133)), wantReason: DropOperation},
		{name: "code is not 0", frame: summed(with(ns, code, 1)), wantReason: DropCode},
		{name: "checksum is wrong", frame: with(ns, 56, 0x55, 0xcd), wantReason: DropChecksum},
		{name: "checksum is over another source", frame: with(ns, source+15, 2), wantReason: DropChecksum},
		{name: "option of length zero", frame: summed(with(ns, option+1, 0)), wantReason: DropMalformed},
		{name: "option beyond the end", frame: summed(with(ns, option+1, 2)), wantReason: DropMalformed},
		{name: "multicast source", frame: summed(with(ns, source, 0xff, 0x02)), wantReason: DropInvalidSender},
		{name: "multicast target", frame: summed(with(ns, target, 0xff, 0x02)), wantReason: DropTargetMulticast},
		{name: "IPv4-mapped target", frame: summed(with(ns, target, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff)), wantReason: DropMalformed},
		{
			name:  "detection with a source link-layer address",
			frame: summed(with(detection, option, 1)), wantReason: DropUnspecifiedSource,
		},
		{
			name:  "detection sent to all nodes",
			frame: summed(with(detection, destination, allNodes.AsSlice()...)), wantReason: DropUnspecifiedSource,
		},
		{name: "source link-layer address is ours", frame: summed(with(ns, option+2, ownMAC[:]...)), wantReason: DropOwnFrame},
		{name: "source link-layer address is a group", frame: summed(with(ns, option+2, 0x33, 0x33)), wantReason: DropInvalidSender},
		{name: "solicitation for another address", frame: summed(with(ns, target+15, 1)), wantReason: DropNotAnnounced},
	})
}

func TestGratuitousARPReplacesEntriesAtOnce(t *testing.T) {
	request, reply := gratuitousARP(ownMAC, vip4)
	want := "ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b c63364c8 000000000000 c63364c8"
	if diff := cmp.Diff(frame(want), request); diff != "" {
		t.Errorf("Request differs (-want +got):\n%s", diff)
	}
	want = "ffffffffffff 02000000000b 0806 0001 0800 06 04 0002 02000000000b c63364c8 02000000000b c63364c8"
	if diff := cmp.Diff(frame(want), reply); diff != "" {
		t.Errorf("Reply differs (-want +got):\n%s", diff)
	}
}

func TestSolicitedNodeGroup(t *testing.T) {
	if got, want := solicitedNodeGroup(vip6), netip.MustParseAddr("ff02::1:ffde:200"); got != want {
		t.Errorf("Group of %s is %s, want %s", vip6, got, want)
	}
}

// The names are part of what users see: dashboards and alerts are made of them.
func TestMetricNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	m.counters(ARP, "eth0")
	m.inUse.WithLabelValues("eth0")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	want := []string{
		"tandem_layer2_addresses_in_use", "tandem_layer2_announcements_total", "tandem_layer2_answers_total",
		"tandem_layer2_conflicts_total", "tandem_layer2_dropped_frames_total", "tandem_layer2_probes_total",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("Metrics differ (-want +got):\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("GatherAndLint = %v, %v", problems, err)
	}

	var reasons []string
	for r := dropNone + 1; r < numDropReasons; r++ {
		reasons = append(reasons, r.String())
	}
	want = []string{
		"truncated", "vlan", "protocol", "other_host", "own_frame", "invalid_sender", "malformed", "operation", "hop_limit", "code",
		"checksum", "target_multicast", "unspecified_source", "not_announced", "conflict", "receive_buffer", "send_failed",
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("Reasons differ (-want +got):\n%s", diff)
	}
}

// fuzz holds a decision function to what must be true of any frame.
func fuzz(f *testing.F, decide func([]byte, mac, addressSet) outcome, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(s[:len(s)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := decide(b, ownMAC, announced)
		switch {
		case v.reason >= numDropReasons:
			t.Fatalf("Unknown reason %d", v.reason)
		case (v.reply == nil) != (v.reason != dropNone):
			t.Fatalf("Reply %x with reason %s", v.reply, v.reason)
		case v.reason == DropConflict:
			if _, ok := announced[v.address]; !ok || v.station == ownMAC {
				t.Fatalf("Conflict about %s with %x", v.address, v.station)
			}
		}
		if v.reply == nil {
			return
		}
		if mac(v.reply[6:12]) != ownMAC {
			t.Fatalf("Reply is not from us: %x", v.reply)
		}
		// An answer must never make us or another announcer answer, or two would never end.
		if again := decide(v.reply, ownMAC, announced); again.reply != nil {
			t.Fatalf("Reply %x is answered by %x", v.reply, again.reply)
		}
		if again := decide(v.reply, clientMAC, announced); again.reply != nil {
			t.Fatalf("Reply %x is answered by another announcer with %x", v.reply, again.reply)
		}
	})
}

func FuzzARP(f *testing.F) {
	fuzz(f, decideARP, frame(arpBroadcast), frame(arpUnicast), frame(arpProbe), frame(arpAnnouncement),
		frame(arpAnnouncementReply), append(frame(arpBroadcast), make([]byte, 18)...))
}

func FuzzNDP(f *testing.F) {
	// The fuzzer cannot guess a checksum, so each input is given the right one.
	fuzz(f, func(b []byte, own mac, announced addressSet) outcome {
		if len(b) >= 58 && len(b) <= maxFrame {
			b = summed(b)
		}
		return decideNDP(b, own, announced)
	}, frame(nsMulticast), frame(nsUnicast), frame(nsDetection), frame(naUnsolicited), frame(naAnswer),
		summed(append(frame(nsMulticast), 200, 1, 0, 0, 0, 0, 0, 0)))
}

// manyAnnounced is what a node with thousands of addresses owns.
func manyAnnounced() addressSet {
	addrs := []netip.Addr{vip4, vip6}
	for n := range 5000 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}),
			netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(n >> 8), 15: byte(n)}))
	}
	return inPhase(phaseAnnounced, addrs...)
}

func benchmark(b *testing.B, decide func([]byte, mac, addressSet) outcome, frames map[string][]byte) {
	set := manyAnnounced()
	for name, f := range frames {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decide(f, ownMAC, set)
			}
		})
	}
}

func BenchmarkDecideARP(b *testing.B) {
	benchmark(b, decideARP, map[string][]byte{
		"answered": frame(arpBroadcast), "not_announced": with(frame(arpBroadcast), 41, 0xc9),
	})
}

func BenchmarkDecideNDP(b *testing.B) {
	benchmark(b, decideNDP, map[string][]byte{
		"answered": frame(nsMulticast), "not_announced": summed(with(frame(nsMulticast), 77, 1)),
	})
}
