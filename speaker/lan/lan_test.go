// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// TestWatch: in the events of an interval, '+' is an answer, '-' is silence, '!' that frames were dropped, '?' that the question could not
// be sent, '>' that another station has the address, and 'a' an answer if the question was no echo.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		name, events string
		gateway      bool
		want         State
	}{
		{name: "nothing was asked", want: Unknown},
		{name: "an answer", events: "+", want: Answers},
		{name: "two losses are few", events: "--", want: Unknown},
		{name: "three losses of one that never answered", events: "---", want: Unanswered},
		{name: "the first answer after many losses", events: "------+", want: Answers},
		{name: "two losses of one that has answered", events: "+--", want: Answers},
		{name: "three losses", events: "+---", want: Silent},
		{name: "losses that are not in a row", events: "+--+--+--", want: Answers},
		{name: "one answer is enough after silence", events: "+---+", want: Answers},
		{name: "what was dropped may have been an answer", events: "+--!-", want: Silent},
		{name: "only drops", events: "+!!!!!!", want: Answers},
		{name: "what could not be sent is not lost", events: "+--??????", want: Answers},
		{name: "one that cannot be asked at all is not waited for", events: "???", want: Unanswered},
		{name: "one that answers no echo", events: strings.Repeat("a", 20), want: Answers},
		{name: "three losses of such a one", events: strings.Repeat("a", 20) + "---", want: Silent},
		{name: "one that answers echoes no more", events: "++" + strings.Repeat("a", 7), want: NoEcho},
		{name: "two lost echoes are few", events: "++" + strings.Repeat("a", 5), want: Answers},
		{name: "then three losses", events: "++" + strings.Repeat("a", 7) + "---", want: Silent},
		{name: "one that answers echoes again", events: "++" + strings.Repeat("a", 7) + "++", want: Answers},
		{name: "one that has answered no echo for long", events: "++" + strings.Repeat("a", 2*forgotten+1), want: Answers},
		{name: "another station has the address of one that has answered", events: "++-->", want: Unknown},
		{name: "and goes on having it", events: "++-->->->->->->", want: Unknown},
		{name: "and the host is back", events: "++-->->+", want: Answers},
		{name: "and then no station has it", events: "++-->---", want: Unanswered},
		{name: "another station is found late", events: "++--->", want: Unknown},
		{name: "another station has the address of one that never answered", events: "--->", want: Unanswered},
		{name: "a gateway answers", events: "+", gateway: true, want: Answers},
		{name: "a single loss of a gateway", events: "+-", gateway: true, want: Unknown},
		{name: "two losses of a gateway", events: "+--", gateway: true, want: Unknown},
		{name: "three losses of a gateway", events: "+---", gateway: true, want: Silent},
		{name: "a gateway is back", events: "+----+", gateway: true, want: Answers},
		{name: "a gateway that never answered", events: "---", gateway: true, want: Unanswered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatch(1, tt.gateway)
			for _, e := range tt.events {
				s, _ := w.Next()
				w.Asked(e != '?')
				switch {
				case e == '+', e == 'a' && s.kind == toNeighbour:
					w.Heard(s.pair, s.kind)
				case e == '>':
					w.HeardElsewhere()
				}
				w.Step(e == '!')
			}
			if w.state != tt.want {
				t.Errorf("the target is %v, want %v", w.state, tt.want)
			}
		})
	}
}

// TestTurn: a host of both families is asked by each in turn, and what it does not answer only for a while, and then now and then.
func TestTurn(t *testing.T) {
	asked := func(answers func(s slot) bool, n int) string {
		w, log := newWatch(2, false), ""
		for range n {
			s, _ := w.Next()
			log += []string{"a", "n", "e", "f"}[int(s.kind)/int(echo)*2+s.pair]
			w.Asked(true)
			if answers(*s) {
				w.Heard(s.pair, s.kind)
			}
			w.Step(false)
		}
		return log
	}
	if got, want := asked(func(slot) bool { return true }, 10), "anefanefan"; got != want {
		t.Errorf("a host that answers everything is asked %s, want %s", got, want)
	}
	if got, want := asked(func(s slot) bool { return s.kind == toNeighbour }, 16), "anefanefanefanan"; got != want {
		t.Errorf("a host that answers no echo is asked %s, want %s", got, want)
	}
	if got, want := asked(func(s slot) bool { return s.pair == 0 }, 16), "anefanefanefaeae"; got != want {
		t.Errorf("a host that answers by one family is asked %s, want %s", got, want)
	}
	if got := asked(func(s slot) bool { return s.kind == toNeighbour }, 80); strings.Count(got, "e")+strings.Count(got, "f") != 2*tries+1 {
		t.Errorf("a host that answers no echo is asked %s, want one more", got)
	}
}

// A Prober that rests for as many intervals as it says asks in the same ones as one that looks in each whether it may rest.
func TestRests(t *testing.T) {
	for _, tt := range []struct {
		name    string
		watches map[Key]*watched
		want    int
	}{
		{"nothing is watched", nil, 0},
		{"a gateway that is to be asked", map[Key]*watched{{}: gatewayAfter(0, false)}, 0},
		{"a gateway whose answer is awaited", map[Key]*watched{{}: gatewayAfter(1, true)}, 0},
		{"a gateway that has rested once since", map[Key]*watched{{}: gatewayAfter(2, false)}, retry - 2},
		{"two gateways", map[Key]*watched{{Interface: "a"}: gatewayAfter(2, false), {Interface: "b"}: gatewayAfter(60, false)}, retry - 60},
		{"a gateway and a host", map[Key]*watched{{}: gatewayAfter(2, false), {Node: "b"}: {Target: Target{MAC: peerMAC}, watch: newWatch(1, false)}}, 0},
	} {
		p := &Prober{watches: tt.watches}
		if got := p.rests(); got != tt.want {
			t.Errorf("%s: it may rest for %d intervals, want %d", tt.name, got, tt.want)
			continue
		}
		p.rest(tt.want)
		for _, w := range tt.watches {
			if least := p.rests(); least != 0 || w.asked > retry {
				t.Errorf("%s: afterwards it may rest for %d more, and has counted %d", tt.name, least, w.asked)
			}
		}
	}
}

// gatewayAfter returns a gateway that was watched for so many intervals.
func gatewayAfter(intervals int, out bool) *watched {
	w := &watched{watch: newWatch(1, true)}
	w.asked, w.out = intervals, out
	return w
}

// All stations are asked for a host that answers no more, and then now and then.
func TestAllStationsAreAsked(t *testing.T) {
	w, got := newWatch(1, false), ""
	for _, e := range "++--------------------" {
		s, toAll := w.Next()
		w.Asked(true)
		if e == '+' {
			w.Heard(s.pair, s.kind)
		}
		w.Step(false)
		got += map[bool]string{true: "A", false: "."}[toAll]
	}
	if want := "....A.......A.......A."; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
}

func TestRing(t *testing.T) {
	nodes := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint("node", i))
		}
		return all
	}
	if diff := cmp.Diff([]string{"node0", "node2"}, Ring("node1", nodes(3))); diff != "" {
		t.Errorf("a node of three watches (-want +got):\n%s", diff)
	}
	if got := Ring("node1", nodes(8)); len(got) != 7 {
		t.Errorf("a node of eight watches %v, want all others", got)
	}
	// Each is watched by as many as it watches, and a death makes few others watch somebody else.
	all := nodes(100)
	by, before := map[string]int{}, map[string][]string{}
	for _, node := range all {
		before[node] = Ring(node, all)
		if len(before[node]) != ringSize {
			t.Errorf("%s watches %v, want %d", node, before[node], ringSize)
		}
		for _, other := range before[node] {
			by[other]++
		}
	}
	changed := 0
	for _, node := range all[1:] {
		if by[node] != ringSize {
			t.Errorf("%s is watched by %d, want %d", node, by[node], ringSize)
		}
		if !cmp.Equal(before[node], Ring(node, all[1:])) {
			changed++
		}
	}
	if changed != ringSize {
		t.Errorf("after the death of node0, %d nodes watch others than before, want %d", changed, ringSize)
	}
}

var (
	ownMAC, peerMAC = neighbor.MAC{2, 0, 0, 0, 0, 0x0b}, neighbor.MAC{2, 0, 0, 0, 0, 0x0c}
	own4, peer4     = netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("198.51.100.12")
	own6, peer6     = netip.MustParseAddr("2001:db8:51::11"), netip.MustParseAddr("2001:db8:51::12")
)

func arpReply() []byte { return neighbor.ARP(peerMAC, ownMAC, 2, peerMAC, peer4, ownMAC, own4) }

func advertisement() []byte {
	// Linux answers a unicast solicitation so, without a link-layer address.
	return neighbor.NDP(peerMAC, ownMAC, &ndp.NeighborAdvertisement{Solicited: true, Override: true, TargetAddress: peer6}, peer6, own6)
}

func icmp(frame []byte) (answer, bool)   { return parseEcho(frame, 7) }
func icmpv6(frame []byte) (answer, bool) { return parseICMPv6(frame, 7) }

// echoReply is the answer of the peer to an echo request with id 7.
func echoReply(own, peer netip.Addr) []byte {
	b := question(echo, peerMAC, ownMAC, Pair{Own: peer, Target: own}, 7)
	if peer.Is4() {
		b[34], b[36], b[37] = 0, 0xff, 0xf8
		return b
	}
	b[54], b[56], b[57] = 129, 0, 0
	binary.BigEndian.PutUint16(b[56:], neighbor.Checksum(b[22:54], b[54:]))
	return b
}

func TestParse(t *testing.T) {
	// changed returns a frame with one byte changed.
	changed := func(frame []byte, at int, to byte) []byte { frame[at] = to; return frame }
	for _, tt := range []struct {
		name  string
		parse func([]byte) (answer, bool)
		frame []byte
		want  netip.Addr // not valid if the frame is no answer
		kind  kind
	}{
		{name: "an ARP reply", parse: parseARP, frame: arpReply(), want: peer4},
		{name: "an ARP reply with padding", parse: parseARP, frame: append(arpReply(), make([]byte, 18)...), want: peer4},
		{name: "an ARP request", parse: parseARP, frame: changed(arpReply(), 21, 1)},
		{name: "an ARP reply that is cut", parse: parseARP, frame: arpReply()[:41]},
		{name: "an ARP reply for addresses of another length", parse: parseARP, frame: changed(arpReply(), 19, 16)},
		{name: "no ARP", parse: parseARP, frame: advertisement()},
		{name: "nothing", parse: parseARP},

		{name: "an advertisement", parse: icmpv6, frame: advertisement(), want: peer6},
		{name: "an advertisement with padding", parse: icmpv6, frame: append(advertisement(), 0, 0), want: peer6},
		{name: "an advertisement from beyond the link", parse: icmpv6, frame: changed(advertisement(), 21, 64)},
		{name: "a wrong checksum", parse: icmpv6, frame: changed(advertisement(), 70, 7)},
		{name: "an advertisement that is cut", parse: icmpv6, frame: advertisement()[:77]},
		{name: "a length beyond the frame", parse: icmpv6, frame: changed(advertisement(), 19, 80)},
		{name: "a length that is too short", parse: icmpv6, frame: changed(advertisement(), 19, 20)},
		{name: "a solicitation", parse: icmpv6, frame: question(toNeighbour, peerMAC, ownMAC, Pair{Own: peer6, Target: own6}, 7)},
		{name: "an ARP reply to a probe", parse: parseARP, frame: changed(changed(changed(changed(arpReply(), 38, 0), 39, 0), 40, 0), 41, 0), want: peer4, kind: toGroup},
		{name: "an advertisement with a link-layer address", parse: icmpv6, frame: neighbor.NDP(peerMAC, ownMAC, &ndp.NeighborAdvertisement{
			Solicited: true, TargetAddress: peer6, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: peerMAC[:]}},
		}, peer6, own6), want: peer6, kind: toGroup},
		{name: "an echo reply", parse: icmp, frame: echoReply(own4, peer4), want: peer4, kind: echo},
		{name: "an echo reply with padding", parse: icmp, frame: append(echoReply(own4, peer4), make([]byte, 18)...), want: peer4, kind: echo},
		{name: "an echo reply to another", parse: icmp, frame: changed(changed(echoReply(own4, peer4), 39, 6), 37, 0)},
		{name: "an echo reply with a wrong checksum", parse: icmp, frame: changed(echoReply(own4, peer4), 37, 1)},
		{name: "an echo reply that is cut", parse: icmp, frame: echoReply(own4, peer4)[:41]},
		{name: "an echo request", parse: icmp, frame: question(echo, peerMAC, ownMAC, Pair{Own: peer4, Target: own4}, 7)},
		{name: "no ICMP", parse: icmp, frame: changed(echoReply(own4, peer4), 23, 17)},
		{name: "an echo reply of IPv6", parse: icmpv6, frame: echoReply(own6, peer6), want: peer6, kind: echo},
		{name: "an echo reply of IPv6 to another", parse: icmpv6, frame: changed(echoReply(own6, peer6), 59, 6)},
		{name: "an echo request of IPv6", parse: icmpv6, frame: question(echo, peerMAC, ownMAC, Pair{Own: peer6, Target: own6}, 7)},
		{name: "no IPv6", parse: icmpv6, frame: append(arpReply(), make([]byte, 60)...)},
		{name: "nothing", parse: icmpv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := tt.parse(tt.frame)
			if want := (answer{peerMAC, tt.want, tt.kind}); ok != tt.want.IsValid() || ok && got != want {
				t.Errorf("parsed as %v, %t, want %v", got, ok, want)
			}
		})
	}
}

// sum gives an ICMP or ICMPv6 message, whatever it is, the checksum that a fuzzer cannot guess.
func sum(frame []byte) {
	if len(frame) < neighbor.HeaderLen+40 {
		return
	}
	packet := frame[neighbor.HeaderLen:]
	isIPv6, begin := packet[0]>>4 == 6, int(packet[0]&0xf)*4
	end := int(binary.BigEndian.Uint16(packet[2:]))
	if isIPv6 {
		begin, end = 40, 40+int(binary.BigEndian.Uint16(packet[4:]))
	}
	if end < begin+4 || end > len(packet) {
		return
	}
	message := packet[begin:end]
	binary.BigEndian.PutUint16(message[2:], 0)
	if isIPv6 {
		binary.BigEndian.PutUint16(message[2:], neighbor.Checksum(packet[8:40], message))
	} else {
		binary.BigEndian.PutUint16(message[2:], internetChecksum(message[:len(message)&^1]))
	}
}

func FuzzParse(f *testing.F) {
	for _, frame := range [][]byte{arpReply(), advertisement(), append(echoReply(own4, peer4), make([]byte, 18)...), echoReply(own6, peer6)} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		frame = slices.Clone(frame)
		sum(frame)
		for _, parse := range []func([]byte) (answer, bool){parseARP, icmp, icmpv6} {
			if a, ok := parse(frame); ok && !a.address.IsValid() {
				t.Errorf("an answer about no address: %v", a)
			}
		}
	})
}

func TestQuestionsAreThoseOfAKernel(t *testing.T) {
	for _, tt := range []struct {
		kind kind
		pair Pair
		want string
	}{
		{
			toNeighbour,
			Pair{own4, peer4},
			"02000000000c 02000000000b 0806 0001 0800 06 04 0001 02000000000b c633640b 000000000000 c633640c",
		},
		{
			toGroup,
			Pair{own4, peer4},
			"ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b 00000000 000000000000 c633640c",
		},
		{
			echo,
			Pair{own4, peer4},
			"02000000000c 02000000000b 0800 4500 001c 0000 4000 40 01 e662 c633640b c633640c 0800 f7f8 0007 0000",
		},
		{
			toGroup,
			Pair{own6, peer6},
			"3333ff000012 02000000000b 86dd 60000000 0020 3a ff 20010db8005100000000000000000011 ff0200000000000000000001ff000012 " +
				"87 00 1b4b 00000000 20010db8005100000000000000000012 0101 02000000000b",
		},
		{
			echo,
			Pair{own6, peer6},
			"02000000000c 02000000000b 86dd 60000000 0008 3a 40 20010db8005100000000000000000011 20010db8005100000000000000000012 " +
				"8000 237f 0007 0000",
		},
		{
			toNeighbour,
			Pair{own6, peer6},
			"02000000000c 02000000000b 86dd 60000000 0020 3a ff 20010db8005100000000000000000011 20010db8005100000000000000000012 " +
				"87 00 eb45 00000000 20010db8005100000000000000000012 0101 02000000000b",
		},
	} {
		got := question(tt.kind, ownMAC, peerMAC, tt.pair, 7)
		if diff := cmp.Diff(strings.ReplaceAll(tt.want, " ", ""), hex.EncodeToString(got)); diff != "" {
			t.Errorf("question (-want +got):\n%s", diff)
		}
	}
}
