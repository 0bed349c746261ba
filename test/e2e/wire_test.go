// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	linklayer "github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/test/lab"
)

// The asker is a station that the LAN does not have: the client's link carries its frames, and no kernel learns from what it is answered.
var (
	askerMAC  = net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0x99}
	askerIPv4 = netip.MustParseAddr("198.51.100.99")
	askerIPv6 = netip.MustParseAddr("2001:db8:51::99")
)

// askInterval is how often the asker asks for each address.
const askInterval = 200 * time.Millisecond

// claim is a packet on the LAN that says at which MAC an address is.
type claim struct {
	at      time.Time
	ip      netip.Addr
	mac     string // that the packet names: a deputy names the holder's
	src     string // of the frame
	toAsker bool   // It answers the asker, and is no announcement to all.
}

// round is one question of the asker for an address, with the MACs of the answers that came before the next question.
type round struct {
	at   time.Time
	macs []string
}

// wire asks all stations of the LAN for addresses, and keeps what the LAN says of them.
type wire struct {
	conn *linklayer.Conn

	mu sync.Mutex
	// mu guards all following fields.
	addresses []netip.Addr // which are asked for
	asks      map[netip.Addr][]time.Time
	claims    map[netip.Addr][]claim
}

// wire starts to ask and to listen on the client's link, until the test ends.
func (s *stage) wire(t *testing.T) *wire {
	t.Helper()
	w := &wire{asks: map[netip.Addr][]time.Time{}, claims: map[netip.Addr][]claim{}}
	if err := s.Inside(lab.Client, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if w.conn, err = linklayer.Listen(link, linklayer.Raw, unix.ETH_P_ALL, nil); err != nil {
			return err
		}
		return w.conn.SetPromiscuous(true) // Answers to the asker are not for the client's own MAC.
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(w.listen)
	running.Go(func() {
		ticker := time.NewTicker(askInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				w.ask()
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		_ = w.conn.Close()
		running.Wait()
	})
	return w
}

// watch has the asker ask for addresses too.
func (w *wire) watch(ips ...netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses = append(w.addresses, ips...)
}

// forget has the asker ask for addresses no more.
func (w *wire) forget(ips ...netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses = slices.DeleteFunc(slices.Clone(w.addresses), func(ip netip.Addr) bool { return slices.Contains(ips, ip) })
}

// ask sends a question for each address. One that cannot be sent is not counted as asked.
func (w *wire) ask() {
	w.mu.Lock()
	ips := slices.Clone(w.addresses)
	w.mu.Unlock()
	for _, ip := range ips {
		frame, err := question(ip)
		if err != nil {
			panic(err) // An address makes a question, whatever it is.
		}
		now := time.Now()
		w.mu.Lock() // before the answer can be there
		w.asks[ip] = append(w.asks[ip], now)
		w.mu.Unlock()
		if _, err := w.conn.WriteTo(frame, &linklayer.Addr{HardwareAddr: askerMAC}); err != nil {
			w.mu.Lock()
			w.asks[ip] = w.asks[ip][:len(w.asks[ip])-1]
			w.mu.Unlock()
		}
	}
}

// question returns the frame of an ARP request or a neighbour solicitation to all stations.
func question(ip netip.Addr) ([]byte, error) {
	if ip.Is4() {
		frame := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, askerMAC, []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1},
			askerMAC, askerIPv4.AsSlice(), make([]byte, 6), ip.AsSlice())
		return frame, nil
	}
	target := ip.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], target[13:])
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{
		TargetAddress: ip, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: askerMAC}},
	}, askerIPv6, netip.AddrFrom16(group))
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte{0x33, 0x33}, group[12:], askerMAC, []byte{0x86, 0xdd, 0x60, 0, 0, 0},
		binary.BigEndian.AppendUint16(nil, uint16(len(message))), []byte{unix.IPPROTO_ICMPV6, 255}, askerIPv6.AsSlice(), group[:], message), nil
}

func (w *wire) listen() {
	buffer := make([]byte, 2048)
	for {
		n, _, err := w.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if c, ok := readClaim(buffer[:n]); ok {
			c.at = time.Now()
			w.mu.Lock()
			w.claims[c.ip] = append(w.claims[c.ip], c)
			w.mu.Unlock()
		}
	}
}

// readClaim reads an ARP reply, a gratuitous ARP request, or a neighbour advertisement.
func readClaim(frame []byte) (c claim, ok bool) {
	if len(frame) < 42 {
		return claim{}, false
	}
	mac := func(b []byte) string { return net.HardwareAddr(b[:6]).String() }
	c = claim{src: mac(frame[6:]), toAsker: mac(frame) == askerMAC.String()}
	switch {
	case frame[12] == 0x08 && frame[13] == 0x06:
		c.mac, c.ip = mac(frame[22:]), netip.AddrFrom4([4]byte(frame[28:32]))
		return c, frame[21] == 2 || c.ip == netip.AddrFrom4([4]byte(frame[38:42]))
	case frame[12] == 0x86 && frame[13] == 0xdd && len(frame) >= 78 && frame[20] == unix.IPPROTO_ICMPV6 && frame[54] == 136:
		c.mac, c.ip = c.src, netip.AddrFrom16([16]byte(frame[62:78]))
		for options := frame[78:]; len(options) >= 8; options = options[8:] {
			if options[0] == 2 {
				c.mac = mac(options[2:])
			}
		}
		return c, true
	}
	return claim{}, false
}

// rounds returns the questions for an address between two moments, each with its answers.
func (w *wire) rounds(ip netip.Addr, from, to time.Time) []round {
	w.mu.Lock()
	defer w.mu.Unlock()
	var rounds []round
	claims := w.claims[ip]
	for i, at := range w.asks[ip] {
		if at.Before(from) || at.After(to) {
			continue
		}
		next := to
		if i+1 < len(w.asks[ip]) {
			next = w.asks[ip][i+1]
		}
		r := round{at: at}
		first, _ := slices.BinarySearchFunc(claims, at, func(c claim, at time.Time) int { return c.at.Compare(at) })
		for _, c := range claims[first:] {
			if !c.at.Before(next) {
				break
			}
			if c.toAsker && !slices.Contains(r.macs, c.mac) {
				r.macs = append(r.macs, c.mac)
			}
		}
		rounds = append(rounds, r)
	}
	return rounds
}

// moves returns when an address was said to be at another MAC than before, between two moments.
func (w *wire) moves(ip netip.Addr, from, to time.Time) (moves []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := ""
	for _, c := range w.claims[ip] {
		if last != "" && c.mac != last && !c.at.Before(from) && !c.at.After(to) {
			moves = append(moves, c.at)
		}
		last = c.mac
	}
	return moves
}

// story tells what the LAN said of an address between two moments, with the names of nodes in place of MACs. What is said again and again is told once.
func (w *wire) story(ip netip.Addr, from, to, zero time.Time, names map[string]string) []string {
	var lines []string
	add := func(at time.Time, what string) {
		lines = append(lines, fmt.Sprintf("%8.2fs %s", at.Sub(zero).Seconds(), what))
	}
	last := ""
	for _, r := range w.rounds(ip, from, to) {
		said := "nobody answers"
		if len(r.macs) > 0 {
			said = "answers name"
			for _, mac := range r.macs {
				said += " " + names[mac]
			}
		}
		if said != last {
			add(r.at, said)
			last = said
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.claims[ip] {
		if !c.toAsker && !c.at.Before(from) && !c.at.After(to) {
			add(c.at, fmt.Sprintf("%s says to others that it is at %s", names[c.src], names[c.mac]))
		}
	}
	slices.Sort(lines)
	return lines
}

// span is a time in which something was the matter.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// silences returns the times without an answer: from the first question that nobody answered to the next one that somebody did, or to the last one.
func silences(rounds []round) (found []span) {
	silent := false
	for _, r := range rounds {
		switch nobody := len(r.macs) == 0; {
		case nobody && !silent:
			found, silent = append(found, span{r.at, r.at}), true
		case silent:
			found[len(found)-1].to, silent = r.at, nobody
		}
	}
	return found
}

// contests returns the times in which two MACs answered: from the first question that both answered to the last one. A single question in between
// that was not answered by both, since a packet was lost, does not end it.
func contests(rounds []round) (found []span) {
	missed := 2
	for _, r := range rounds {
		switch {
		case len(r.macs) < 2:
			missed++
			continue
		case missed > 1:
			found = append(found, span{r.at, r.at})
		default:
			found[len(found)-1].to = r.at
		}
		missed = 0
	}
	return found
}

func TestSilencesAndContests(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, row := range []struct {
		name               string
		answers            string // a letter for each question: who answers. - is nobody, 2 is two MACs.
		silences, contests []string
	}{
		{name: "one node", answers: "aaaa"},
		{name: "one node and then another", answers: "aabb"},
		{name: "nobody for three questions", answers: "a---bb", silences: []string{"200ms+600ms"}},
		{name: "nobody to the end", answers: "a--", silences: []string{"200ms+200ms"}},
		{name: "two for a moment", answers: "a2bb", contests: []string{"200ms+0s"}},
		{name: "two for long", answers: "a2222b", contests: []string{"200ms+600ms"}},
		{name: "an answer is missing meanwhile", answers: "a22a22bb", contests: []string{"200ms+800ms"}},
		{name: "twice", answers: "2aa2", contests: []string{"0s+0s", "600ms+0s"}},
		{name: "two to the end", answers: "a22", contests: []string{"200ms+200ms"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var rounds []round
			for i, answer := range row.answers {
				r := round{at: start.Add(time.Duration(i) * askInterval)}
				switch answer {
				case '-':
				case '2':
					r.macs = []string{"a", "b"}
				default:
					r.macs = []string{string(answer)}
				}
				rounds = append(rounds, r)
			}
			for _, check := range []struct {
				what string
				got  []span
				want []string
			}{{"silences", silences(rounds), row.silences}, {"contests", contests(rounds), row.contests}} {
				var got []string
				for _, s := range check.got {
					got = append(got, fmt.Sprintf("%v+%v", s.from.Sub(start), s.length()))
				}
				if !slices.Equal(got, check.want) {
					t.Errorf("%s are %v, want %v", check.what, got, check.want)
				}
			}
		})
	}
}
