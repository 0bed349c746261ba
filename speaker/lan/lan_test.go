// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// TestWatch: in the events of an interval, '+' is an answer, '-' is silence, '!' that frames were dropped, '?' that the question could not
// be sent.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		name, events string
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
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w watch
			for _, e := range tt.events {
				w.Asked(e != '?')
				if e == '+' {
					w.Heard()
				}
				w.Step(e == '!')
			}
			if w.state != tt.want {
				t.Errorf("the target is %v, want %v", w.state, tt.want)
			}
		})
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

func TestParse(t *testing.T) {
	// changed returns a frame with one byte changed.
	changed := func(frame []byte, at int, to byte) []byte { frame[at] = to; return frame }
	for _, tt := range []struct {
		name  string
		parse func([]byte) (answer, bool)
		frame []byte
		want  netip.Addr // not valid if the frame is no answer
	}{
		{name: "an ARP reply", parse: parseARP, frame: arpReply(), want: peer4},
		{name: "an ARP reply with padding", parse: parseARP, frame: append(arpReply(), make([]byte, 18)...), want: peer4},
		{name: "an ARP request", parse: parseARP, frame: changed(arpReply(), 21, 1)},
		{name: "an ARP reply that is cut", parse: parseARP, frame: arpReply()[:41]},
		{name: "an ARP reply for addresses of another length", parse: parseARP, frame: changed(arpReply(), 19, 16)},
		{name: "no ARP", parse: parseARP, frame: advertisement()},
		{name: "nothing", parse: parseARP},

		{name: "an advertisement", parse: parseNDP, frame: advertisement(), want: peer6},
		{name: "an advertisement with padding", parse: parseNDP, frame: append(advertisement(), 0, 0), want: peer6},
		{name: "an advertisement from beyond the link", parse: parseNDP, frame: changed(advertisement(), 21, 64)},
		{name: "a wrong checksum", parse: parseNDP, frame: changed(advertisement(), 70, 7)},
		{name: "an advertisement that is cut", parse: parseNDP, frame: advertisement()[:77]},
		{name: "a length beyond the frame", parse: parseNDP, frame: changed(advertisement(), 19, 80)},
		{name: "a length that is too short", parse: parseNDP, frame: changed(advertisement(), 19, 20)},
		{name: "a solicitation", parse: parseNDP, frame: question(peerMAC, &Target{MAC: ownMAC}, Pair{Own: peer6, Target: own6})},
		{name: "no IPv6", parse: parseNDP, frame: append(arpReply(), make([]byte, 60)...)},
		{name: "nothing", parse: parseNDP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := tt.parse(tt.frame)
			if want := (answer{peerMAC, tt.want}); ok != tt.want.IsValid() || ok && got != want {
				t.Errorf("parsed as %v, %t, want %v", got, ok, want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, frame := range [][]byte{arpReply(), advertisement()} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, parse := range []func([]byte) (answer, bool){parseARP, parseNDP} {
			if a, ok := parse(frame); ok && !a.address.IsValid() {
				t.Errorf("an answer about no address: %v", a)
			}
		}
	})
}

func TestQuestionsAreThoseOfAKernel(t *testing.T) {
	target := &Target{MAC: peerMAC}
	for _, tt := range []struct {
		pair Pair
		want string
	}{
		{
			Pair{own4, peer4},
			"02000000000c 02000000000b 0806 0001 0800 06 04 0001 02000000000b c633640b 000000000000 c633640c",
		},
		{
			Pair{own6, peer6},
			"02000000000c 02000000000b 86dd 60000000 0020 3a ff 20010db8005100000000000000000011 20010db8005100000000000000000012 " +
				"87 00 eb45 00000000 20010db8005100000000000000000012 0101 02000000000b",
		},
	} {
		got := question(ownMAC, target, tt.pair)
		if diff := cmp.Diff(strings.ReplaceAll(tt.want, " ", ""), hex.EncodeToString(got)); diff != "" {
			t.Errorf("question (-want +got):\n%s", diff)
		}
	}
}
