// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A bench runs an Announcer on interfaces that are only pretended, in a synctest bubble, where time is not real.
type bench struct {
	*Announcer
	start time.Time

	// mu guards what follows. synctest orders the goroutines already, but the race detector cannot see it.
	mu        sync.Mutex
	wires     map[string]*fakeWire // the open ones, by interface
	opened    map[string]int       // how often
	openErr   map[string]error
	joinErr   error
	conflicts []Conflict
	changes   int
	probed    int                // how often probing has ended
	onSend    func(frame []byte) // sees each frame, in the place of sent
	sent      []string           // "time interface frame"
}

type fakeWire struct {
	bench  *bench
	iface  Interface
	handle handler
	failed func(error)
	groups map[netip.Addr]bool
}

// change changes the bench's own state.
func (b *bench) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func newBench(t *testing.T) *bench {
	b := &bench{start: time.Now(), wires: map[string]*fakeWire{}, opened: map[string]int{}, openErr: map[string]error{}}
	b.Announcer = New(Config{
		OnConflict: func(c Conflict) { b.change(func() { b.conflicts = append(b.conflicts, c) }) },
		OnChange:   func() { b.change(func() { b.changes++ }) },
		OnProbed:   func() { b.change(func() { b.probed++ }) },
	})
	b.open = func(iface Interface, handle handler, failed func(error)) (wire, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.opened[iface.Name]++
		if err := b.openErr[iface.Name]; err != nil {
			return nil, err
		}
		w := &fakeWire{bench: b, iface: iface, handle: handle, failed: failed, groups: map[netip.Addr]bool{}}
		b.wires[iface.Name] = w
		return w, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(b.wires) > 0 {
			t.Errorf("Still open after the end: %v", b.wires)
		}
		if got := b.Announced(); len(got) > 0 {
			t.Errorf("Still announced after the end: %v", got)
		}
	})
	return b
}

func (w *fakeWire) send(_ Protocol, frame []byte) error {
	if w.bench.onSend != nil {
		w.bench.change(func() { w.bench.onSend(frame) })
		return nil
	}
	what := "?"
	for _, a := range []netip.Addr{vip4, otherVIP4, vip6} {
		if a.Is6() && isProbe6(frame, mac(w.iface.MAC), a) || a.Is4() && string(frame) == string(probeARP(mac(w.iface.MAC), a)) {
			what = "probe " + a.String()
		}
		request, reply := gratuitousARP(mac(w.iface.MAC), a)
		switch string(frame) {
		case string(request):
			what = "request " + a.String()
		case string(reply):
			what = "reply " + a.String()
		}
		if a.Is6() && string(frame) == string(unsolicitedAdvertisement(mac(w.iface.MAC), a)) {
			what = "advertisement " + a.String()
		}
	}
	w.bench.mu.Lock()
	defer w.bench.mu.Unlock()
	w.bench.sent = append(w.bench.sent, fmt.Sprintf("%s %s %s", time.Since(w.bench.start), w.iface.Name, what))
	return nil
}

func (w *fakeWire) join(group netip.Addr) error {
	w.bench.mu.Lock()
	defer w.bench.mu.Unlock()
	if w.bench.joinErr != nil {
		return w.bench.joinErr
	}
	w.groups[group] = true
	return nil
}

func (w *fakeWire) leave(group netip.Addr) { delete(w.groups, group) }
func (w *fakeWire) close() {
	w.bench.change(func() { delete(w.bench.wires, w.iface.Name) })
}

// receive is what a reader does with a frame; it returns the answer.
func (w *fakeWire) receive(protocol Protocol, frame []byte) (answer []byte) {
	w.handle(protocol, frame, func(b []byte) error {
		answer = b
		return nil
	})
	return answer
}

// pass lets time pass and returns what was sent meanwhile.
func (b *bench) pass(d time.Duration) (sent []string) {
	time.Sleep(d)
	synctest.Wait()
	b.change(func() { sent, b.sent = b.sent, nil })
	slices.Sort(sent)
	return sent
}

var (
	otherVIP4 = netip.MustParseAddr("198.51.100.201")
	eth0      = Interface{Name: "eth0", Index: 2, MAC: ownMAC[:]}
	eth1      = Interface{Name: "eth1", Index: 3, MAC: []byte{0x02, 0, 0, 0, 1, 0x0b}}
)

func on(iface string, addrs ...netip.Addr) (announcements []Announcement) {
	for _, a := range addrs {
		announcements = append(announcements, Announcement{Address: a, Interfaces: []string{iface}})
	}
	return announcements
}

// inBubble runs a test where time is not real.
func inBubble(t *testing.T, test func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) { test(t, newBench(t)) })
}

func expectSent(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Frames sent differ (-want +got):\n%s", diff)
	}
}

func expectStatus(t *testing.T, got []Status, want ...string) {
	t.Helper()
	var lines []string
	for _, s := range got {
		lines = append(lines, fmt.Sprintf("%s on %s: %t %v", s.Address, s.Interface, s.Announced, s.Err))
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("Status differs (-want +got):\n%s", diff)
	}
}

func TestTakeoverIsRepeatedAndThenRefreshedSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4, vip6))
		var want []string
		for _, at := range []string{"0s", "100ms", "300ms", "1s", "2s", "4s"} {
			want = append(want,
				at+" eth0 request 198.51.100.200",
				at+" eth0 reply 198.51.100.200",
				at+" eth0 advertisement 2001:db8:51::c0de:200")
		}
		expectSent(t, b.pass(time.Minute), want...)

		// From here on each address comes once in 120 to 180 s, at no fixed time.
		seen := map[string]int{}
		for _, line := range b.pass(time.Hour) {
			_, what, _ := strings.Cut(line, " ")
			seen[what]++
		}
		for what, times := range seen {
			if times < 20 || times > 30 {
				t.Errorf("In an hour %d times: %s", times, what)
			}
		}
		if _, both := seen["eth0 reply 198.51.100.200"]; both || len(seen) != 2 {
			t.Errorf("Refreshed by %v, want one form for each address", seen)
		}
	})
}

func TestWithdrawnAddressIsNeitherAnnouncedNorAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4, otherVIP4))
		b.pass(200 * time.Millisecond)
		w := b.wires["eth0"]
		if got := w.receive(ARP, frame(arpBroadcast)); hex.EncodeToString(got) != hex.EncodeToString(frame(arpAnswer)) {
			t.Errorf("Answered %x", got)
		}

		b.Set(on("eth0", otherVIP4))
		expectSent(t, b.pass(300*time.Millisecond), "300ms eth0 request 198.51.100.201", "300ms eth0 reply 198.51.100.201")
		if got := w.receive(ARP, frame(arpBroadcast)); got != nil {
			t.Errorf("Answered %x after withdrawal", got)
		}
		expectStatus(t, b.Announced(), "198.51.100.201 on eth0: true <nil>")

		b.Set(nil)
		expectSent(t, b.pass(time.Hour))
		if b.wires["eth0"] != nil {
			t.Error("Interface without addresses is still open")
		}
	})
}

func TestSameSetDoesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0", "eth1"}}, {Address: vip6, Interfaces: []string{"eth1"}}})
		b.pass(10 * time.Second)
		changes := b.changes
		b.Set([]Announcement{{Address: vip6, Interfaces: []string{"eth1"}}, {Address: vip4, Interfaces: []string{"eth1", "eth0", "eth1"}}})
		b.SetInterfaces([]Interface{eth1, eth0})
		expectSent(t, b.pass(10*time.Second))
		if b.changes != changes || b.opened["eth0"] != 1 || b.opened["eth1"] != 1 {
			t.Errorf("Changed %d times, opened %v", b.changes-changes, b.opened)
		}
	})
}

func TestAddedAddressDoesNotAnnounceTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4))
		b.pass(10 * time.Second)
		b.Set(on("eth0", vip4, vip6))
		expectSent(t, b.pass(50*time.Millisecond), "10s eth0 advertisement 2001:db8:51::c0de:200")
	})
}

func TestRefreshRepeatsTheTakeover(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip6))
		b.pass(10 * time.Second)
		b.Refresh("membership changed")
		expectSent(t, b.pass(500*time.Millisecond),
			"10s eth0 advertisement 2001:db8:51::c0de:200",
			"10.1s eth0 advertisement 2001:db8:51::c0de:200",
			"10.3s eth0 advertisement 2001:db8:51::c0de:200")
	})
}

func TestChangedInterfaceIsOpenedAgainAndAnnouncedAnew(t *testing.T) {
	for _, tt := range []struct {
		name    string
		changed Interface
	}{
		{"new MAC", Interface{Name: "eth0", Index: eth0.Index, MAC: eth1.MAC}},
		{"new index: removed and made again", Interface{Name: "eth0", Index: 17, MAC: eth0.MAC}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.SetInterfaces([]Interface{eth0})
				b.Set(on("eth0", vip6))
				b.pass(10 * time.Second)
				b.SetInterfaces([]Interface{tt.changed})
				expectSent(t, b.pass(50*time.Millisecond), "10s eth0 advertisement 2001:db8:51::c0de:200")
				w := b.wires["eth0"]
				if diff := cmp.Diff(tt.changed, w.iface); diff != "" {
					t.Errorf("Open interface differs (-want +got):\n%s", diff)
				}
				if !w.groups[solicitedNodeGroup(vip6)] {
					t.Error("Group was not joined again")
				}
			})
		})
	}
}

func TestGroupIsLeftWithItsLastAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		twin := netip.MustParseAddr("2001:db8:51:1::c0de:200") // The same last 24 bits.
		group := solicitedNodeGroup(vip6)
		b.SetInterfaces([]Interface{eth0})
		for _, step := range []struct {
			addrs []netip.Addr
			want  bool
		}{
			{[]netip.Addr{vip4, vip6}, true},
			{[]netip.Addr{vip4, vip6, twin}, true},
			{[]netip.Addr{vip4, twin}, true},
			{[]netip.Addr{vip4}, false},
		} {
			b.Set(on("eth0", step.addrs...))
			b.pass(time.Second)
			if got := b.wires["eth0"].groups[group]; got != step.want {
				t.Errorf("With %v membership in %s is %t, want %t", step.addrs, group, got, step.want)
			}
		}
	})
}

func TestOneBadInterfaceDoesNotStopTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.change(func() { b.openErr["eth0"] = errors.New("operation not permitted") })
		b.SetInterfaces([]Interface{eth0, eth1, {Name: "ib0", Index: 4, MAC: make([]byte, 20)}})
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0", "eth1", "eth9", "ib0"}}})
		b.pass(time.Second)
		const notEthernet = ` on ib0: false hardware address "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00"` +
			` is not an Ethernet address`
		expectStatus(t, b.Announced(),
			"198.51.100.200 on eth0: false operation not permitted",
			"198.51.100.200 on eth1: true <nil>",
			"198.51.100.200 on eth9: false interface does not exist or cannot be used",
			"198.51.100.200"+notEthernet)

		// Tried after 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7 s, then each 10 s.
		b.pass(12 * time.Second)
		if got, want := b.opened["eth0"], 8; got != want {
			t.Errorf("Tried %d times in 13 s, want %d", got, want)
		}
		b.change(func() { delete(b.openErr, "eth0") })
		b.pass(10 * time.Second)
		if b.wires["eth0"] == nil {
			t.Error("Interface was not opened when it could be")
		}
		expectStatus(t, b.Announced()[:1], "198.51.100.200 on eth0: true <nil>")
	})
}

func TestFailedReaderOpensTheInterfaceAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip6))
		b.pass(time.Minute)
		w := b.wires["eth0"]
		w.failed(errors.New("network is down"))
		synctest.Wait()
		expectStatus(t, b.Announced(), "2001:db8:51::c0de:200 on eth0: false network is down")
		expectSent(t, b.pass(150*time.Millisecond), "1m0.1s eth0 advertisement 2001:db8:51::c0de:200")
		if !b.wires["eth0"].groups[solicitedNodeGroup(vip6)] {
			t.Error("Group was not joined again")
		}
		w.failed(errors.New("network is down")) // The other reader of the old wire.
		b.pass(time.Second)
		if b.opened["eth0"] != 2 {
			t.Errorf("Opened %d times, want 2", b.opened["eth0"])
		}
	})
}

func TestGroupThatCannotBeJoinedIsReportedAndTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.change(func() { b.joinErr = errors.New("no such device") })
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4, vip6))
		b.pass(time.Second)
		expectStatus(t, b.Announced(),
			"198.51.100.200 on eth0: true <nil>",
			"2001:db8:51::c0de:200 on eth0: true no such device")
		b.change(func() { b.joinErr = nil })
		b.pass(10 * time.Second)
		expectStatus(t, b.Announced(),
			"198.51.100.200 on eth0: true <nil>",
			"2001:db8:51::c0de:200 on eth0: true <nil>")
	})
}

func TestConflictIsDefendedAtALimitedRate(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4, vip6))
		b.pass(10 * time.Second)
		w := b.wires["eth0"]
		var sent []string
		for range 25 { // Seconds.
			w.receive(ARP, frame(arpAnnouncement))
			sent = append(sent, b.pass(time.Second)...)
		}
		expectSent(t, sent,
			"10s eth0 request 198.51.100.200", "10s eth0 reply 198.51.100.200",
			"20s eth0 request 198.51.100.200", "20s eth0 reply 198.51.100.200",
			"30s eth0 request 198.51.100.200", "30s eth0 reply 198.51.100.200")
		want := Conflict{Address: vip4, Interface: "eth0", MAC: clientMAC[:], Protocol: ARP}
		var got []Conflict
		b.change(func() { got = slices.Clone(b.conflicts) })
		if diff := cmp.Diff([]Conflict{want, want, want}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("Conflicts differ (-want +got):\n%s", diff)
		}

		// A conflict about an address that was withdrawn just before is not answered.
		b.pass(10 * time.Second)
		b.Set(on("eth0", vip6))
		w.receive(ARP, frame(arpAnnouncement))
		expectSent(t, b.pass(time.Second))
	})
}

// Another speaker that wrongly takes this one for dead announces the address several times and then gives it up. The first announcement is
// answered at once. Neighbours that believed the later ones hear from us when the interval ends, and not only at the next refresh.
func TestAddressIsDefendedAgainWhenTheDefenceIntervalEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4))
		b.pass(10 * time.Second)
		w := b.wires["eth0"]
		var sent []string
		for _, pause := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 700 * time.Millisecond, 0} {
			w.receive(ARP, frame(arpAnnouncement))
			sent = append(sent, b.pass(pause)...)
		}
		expectSent(t, sent, "10s eth0 request 198.51.100.200", "10s eth0 reply 198.51.100.200")
		expectSent(t, b.pass(time.Minute), "20s eth0 request 198.51.100.200", "20s eth0 reply 198.51.100.200")
	})
}

func TestOwnOtherInterfaceIsNoConflict(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set([]Announcement{{Address: vip4, Interfaces: []string{"eth0", "eth1"}}})
		b.pass(time.Minute)
		request, _ := gratuitousARP(mac(eth1.MAC), vip4) // Both are on the same LAN.
		b.wires["eth0"].receive(ARP, request)
		expectSent(t, b.pass(time.Second))
		if len(b.conflicts) > 0 {
			t.Errorf("Reported as conflicts: %v", b.conflicts)
		}
	})
}

func TestAddressesThatCannotBeAnnouncedAreIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", netip.Addr{}, netip.MustParseAddr("224.0.0.1"), netip.IPv6Unspecified(),
			netip.MustParseAddr("::ffff:198.51.100.200")))
		b.pass(time.Second)
		expectStatus(t, b.Announced(), "198.51.100.200 on eth0: true <nil>")
	})
}
