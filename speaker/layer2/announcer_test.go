// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker/signal"
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
	joins     int // attempts to join a group
	onJoin    func(nth int)
	conflicts []Conflict
	rivals    []string // "address on interface: MAC"
	changes   int
	probed    int // how often probing has ended
	sendErr   error
	drops     uint32             // that the kernel counts, and has not told
	onSend    func(frame []byte) // sees each frame, in the place of sent
	sent      []string           // "time interface frame"
}

type fakeWire struct {
	bench  *bench
	iface  Interface
	handle handler
	failed func(error)
	groups map[netip.Addr]bool
	// allMulticast says that all multicast is received.
	allMulticast bool
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
		OnRival: func(r Rival) {
			b.change(func() { b.rivals = append(b.rivals, fmt.Sprintf("%s on %s: %s", r.Address, r.Interface, r.MAC)) })
		},
		OnChange: func() { b.change(func() { b.changes++ }) },
		OnProbed: func() { b.change(func() { b.probed++ }) },
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

func (w *fakeWire) send(_ Protocol, frame []byte) (err error) {
	if w.bench.change(func() { err = w.bench.sendErr }); err != nil {
		return err
	}
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
		if a.Is6() && string(frame) == string(askNDP(mac(w.iface.MAC), a)) { // a question for other speakers
			what = "probe " + a.String()
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
	if w.bench.onJoin != nil {
		w.bench.onJoin(w.bench.joins + 1)
	}
	w.bench.mu.Lock()
	defer w.bench.mu.Unlock()
	w.bench.joins++
	if w.bench.joinErr != nil {
		return w.bench.joinErr
	}
	w.groups[group] = true
	return nil
}

func (w *fakeWire) dropped(protocol Protocol) (frames uint32) {
	w.bench.change(func() { frames, w.bench.drops = w.bench.drops, 0 })
	return frames
}

func (w *fakeWire) receiveAllMulticast(on bool) error {
	w.bench.change(func() { w.allMulticast = on })
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
		// Another speaker may have taken the address over at the same time.
		want = append(want, "1s eth0 probe 198.51.100.200", "1s eth0 probe 2001:db8:51::c0de:200")
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
		if _, both := seen["eth0 reply 198.51.100.200"]; both || len(seen) != 4 {
			t.Errorf("Refreshed by %v, want one form for each address, and a probe", seen)
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

// Each speaker that comes back repeats all announcements, but many of them within ten seconds do so once more.
func TestRefreshIsNotRepeatedWithinTenSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip6))
		b.pass(30 * time.Second)
		var sent []string
		for range 9 {
			b.Refresh("another speaker came back")
			sent = append(sent, b.pass(time.Second)...)
		}
		isProbe := func(line string) bool { return strings.Contains(line, "probe") }
		if sent = slices.DeleteFunc(sent, isProbe); len(sent) != len(burst) {
			t.Errorf("Sent %v, want one burst", sent)
		}
		expectSent(t, b.pass(1050*time.Millisecond), "40s eth0 advertisement 2001:db8:51::c0de:200")
		if sent := slices.DeleteFunc(b.pass(time.Minute), isProbe); len(sent) != len(burst)-1 {
			t.Errorf("Sent %v, want the rest of a burst", sent)
		}
	})
}

// What the socket has no room for is sent again, be it an announcement or a probe.
func TestRefusedFramesAreSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip6))
		b.pass(time.Minute)
		b.change(func() { b.sendErr = os.NewSyscallError("send", unix.EAGAIN) })
		b.Refresh("another speaker came back")
		b.Set(slices.Concat(on("eth0", vip6), probed("eth0", vip4)))
		expectSent(t, b.pass(95*time.Millisecond))
		b.change(func() { b.sendErr = nil })
		expectSent(t, b.pass(10*time.Millisecond), "1m0.1s eth0 advertisement 2001:db8:51::c0de:200",
			"1m0.1s eth0 advertisement 2001:db8:51::c0de:200", "1m0.1s eth0 probe 198.51.100.200")
		if sent := b.pass(200 * time.Millisecond); !slices.Contains(sent, "1m0.28s eth0 request 198.51.100.200") {
			t.Errorf("Sent %v, want an announcement after three probes", sent)
		}
	})
}

// Announcements go before groups, which are joined in chunks. With many groups all multicast is received.
func TestGroupsAreJoinedBehindAnnouncements(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const n = 1000
		addresses := func(n int) (all []netip.Addr) {
			for i := range n {
				all = append(all, netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(i >> 8), 15: byte(i)}))
			}
			return all
		}
		first := -1 // how many groups were joined at the first announcement
		b.onSend = func([]byte) {
			if first < 0 {
				first = len(b.wires["eth0"].groups)
			}
		}
		b.SetInterfaces([]Interface{eth0})
		for _, step := range []struct {
			addresses int
			all       bool
		}{{n, true}, {manyGroups, false}, {manyGroups + 1, true}, {1, false}} {
			b.Set(on("eth0", addresses(step.addresses)...))
			b.pass(time.Second)
			w := b.wires["eth0"]
			if len(w.groups) != step.addresses || w.allMulticast != step.all {
				t.Errorf("With %d addresses %d groups are joined, and all multicast is received: %t", step.addresses, len(w.groups), w.allMulticast)
			}
		}
		if first != 0 {
			t.Errorf("%d groups were joined before the first announcement", first)
		}
	})
}

// TestNoConflictIsLost: of conflicts that come at once, as from a node that claims thousands of addresses, none is dropped.
func TestNoConflictIsLost(t *testing.T) {
	const n = 5000
	s := &conflictSet{wake: signal.New(), found: map[conflictKey]conflict{}}
	for range 2 {
		for i := range n {
			s.add(conflict{address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})})
		}
		if got := len(s.take()); got != n || len(s.wake) != 1 {
			t.Errorf("%d conflicts of %d are left, and raised is %d", got, n, len(s.wake))
		}
	}
}

// TestConflictsAreAnsweredBetweenJoins: 90 addresses are announced at once, and their groups joined then. A conflict that is found meanwhile is answered
// after the first chunk of them.
func TestConflictsAreAnsweredBetweenJoins(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const n = joinChunk + 26
		var all []netip.Addr
		for i := range n {
			all = append(all, netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(i >> 8), 15: byte(i)}))
		}
		sent, joined := 0, -1 // announcements, and how many groups were joined at the one that answers the conflict
		b.onSend = func([]byte) {
			if sent++; sent == n+1 {
				joined = b.joins
			}
		}
		b.onJoin = func(nth int) {
			if nth == 10 {
				b.Announcer.conflicts.add(conflict{port: b.ports["eth0"], protocol: NDP, address: all[0], station: clientMAC})
			}
		}
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", all...))
		if b.pass(0); joined != joinChunk || b.joins != n {
			t.Errorf("the conflict was answered when %d groups were joined, and %d are; want %d and %d", joined, b.joins, joinChunk, n)
		}
	})
}

// An address that is in conflict is announced before those that have waited longer.
func TestAnswersToConflictsGoFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4))
		b.pass(time.Minute)
		all, at, start := on("eth0", vip4), time.Duration(0), time.Now()
		for i := range 5000 {
			all = append(all, on("eth0", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))...)
		}
		b.onSend = func(frame []byte) {
			if netip.AddrFrom4([4]byte(frame[28:32])) == vip4 && at == 0 {
				at = time.Since(start)
			}
		}
		b.Set(all)
		b.pass(time.Second)
		b.wires["eth0"].receive(ARP, frame(arpAnnouncement))
		b.pass(time.Minute)
		if want := time.Second + 2*paceInterval; at < time.Second || at > want {
			t.Errorf("The conflict after a second is answered after %v, want %v", at, want)
		}
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

// An interface that cannot be opened has failed after two seconds, and goes on being tried when its addresses are announced elsewhere.
func TestFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var told atomic.Int32
		b.config.OnFailed = func() { told.Add(1) }
		check := func(when string, times int32, want ...string) {
			t.Helper()
			var got []string
			for name, err := range b.Failed() {
				got = append(got, name+": "+err.Error())
			}
			if diff := cmp.Diff(want, got); diff != "" || told.Load() != times {
				t.Errorf("%s, told %d times, failed (-want +got):\n%s", when, told.Load(), diff)
			}
		}
		b.change(func() { b.openErr["eth0"] = errors.New("operation not permitted") })
		b.SetInterfaces([]Interface{eth0, eth1})
		b.Set(on("eth0", vip4))
		b.pass(1999 * time.Millisecond)
		check("before two seconds", 0)
		b.pass(time.Millisecond)
		check("after two seconds", 1, "eth0: operation not permitted")
		b.Set(on("eth1", vip4))
		b.pass(time.Hour)
		check("without an address", 1, "eth0: operation not permitted")
		b.change(func() { delete(b.openErr, "eth0") })
		b.pass(10 * time.Second)
		check("when it can be opened", 2)
		if b.wires["eth0"] != nil || b.wires["eth1"] == nil {
			t.Errorf("Open are %v", b.wires)
		}

		// One that is not there any more has not failed.
		b.change(func() { b.openErr["eth0"] = errors.New("operation not permitted") })
		b.Set(on("eth0", vip4))
		b.pass(3 * time.Second)
		check("failed again", 3, "eth0: operation not permitted")
		b.SetInterfaces([]Interface{eth1})
		b.pass(time.Second)
		check("gone", 4)
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
		joins := b.joins // The next attempt is at 1.5 s.
		for range 10 {
			b.Set(on("eth0", vip6))
			b.pass(10 * time.Millisecond)
			b.Set(on("eth0", vip4, vip6))
			b.pass(10 * time.Millisecond)
		}
		if n := b.joins - joins; n != 0 {
			t.Errorf("while another address came and went, the group was tried %d times", n)
		}
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

// A speaker that uses an address is answered a second after it has done so for the last time, but no more often than another station.
func TestASpeakerIsAnsweredWhenItHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.SetInterfaces([]Interface{eth0})
		b.SetSpeakers([]net.HardwareAddr{clientMAC[:]})
		b.Set(on("eth0", vip4))
		b.pass(10 * time.Second)
		w := b.wires["eth0"]
		claim := func(pauses ...time.Duration) (sent []string) {
			for _, pause := range pauses {
				w.receive(ARP, frame(arpAnnouncement))
				sent = append(sent, b.pass(pause)...)
			}
			return sent
		}
		expectSent(t, claim(100*time.Millisecond, 200*time.Millisecond, 700*time.Millisecond, 999*time.Millisecond))
		expectSent(t, b.pass(time.Millisecond), "12s eth0 request 198.51.100.200", "12s eth0 reply 198.51.100.200")
		if len(b.conflicts) != 1 {
			t.Errorf("Reported are %v, want one conflict", b.conflicts)
		}
		expectSent(t, claim(5*time.Second, 4500*time.Millisecond)) // at 12 s and 17 s
		expectSent(t, claim(0))                                    // at 21.5 s: the interval ends at 22 s, and the second after that
		expectSent(t, b.pass(2*time.Second), "22.5s eth0 request 198.51.100.200", "22.5s eth0 reply 198.51.100.200")
	})
}

// What the kernel had to drop is counted.
func TestFramesThatTheKernelDropsAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		registry := prometheus.NewRegistry()
		b.metrics = newMetrics(registry)
		b.SetInterfaces([]Interface{eth0})
		b.Set(on("eth0", vip4))
		b.change(func() { b.drops = 7 })
		b.pass(countInterval)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := 0.0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == "receive_buffer" }) {
					got += m.GetCounter().GetValue()
				}
			}
		}
		if got != 7 {
			t.Errorf("Counted %v frames, want 7", got)
		}
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

// TestUpdateIsSet declares addresses by differences, and compares what is declared with what it would be by Set.
func TestUpdateIsSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	updated, set := New(Config{}), New(Config{})
	all := map[netip.Addr]Announcement{}
	for step := range 500 {
		var announced []Announcement
		var withdrawn []netip.Addr
		for range r.IntN(4) {
			ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(20))})
			if slices.ContainsFunc(announced, func(an Announcement) bool { return an.Address == ip }) || slices.Contains(withdrawn, ip) {
				continue
			}
			if delete(all, ip); r.IntN(3) == 0 {
				withdrawn = append(withdrawn, ip)
				continue
			}
			all[ip] = Announcement{Address: ip, Interfaces: []string{"eth1", "eth0"}[r.IntN(2):]}
			announced = append(announced, all[ip])
		}
		updated.Update(announced, withdrawn)
		set.Set(slices.Collect(maps.Values(all)))
		if step%3 == 0 {
			continue
		}
		updated.merge()
		if diff := cmp.Diff(set.announcements, updated.announcements, cmpopts.EquateEmpty(), cmp.Comparer(sameAddress)); diff != "" {
			t.Fatalf("step %d: declared (-Set +Update):\n%s", step, diff)
		}
	}
}

// TestUpdateDoesWhatSetDoes declares addresses by differences, and compares what comes of it with what Set does: what is sent, what is answered
// for, and what is said of it. One address of a few changes most of the time, on interfaces that exist or do not, and stations claim addresses.
func TestUpdateDoesWhatSetDoes(t *testing.T) {
	addresses := []netip.Addr{vip4, otherVIP4, vip6, netip.MustParseAddr("2001:db8:51::c0de:201")}
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			set, updated := newBench(t), newBench(t)
			all := map[netip.Addr]Announcement{}
			for step := range 40 {
				ip := addresses[r.IntN(len(addresses))]
				var announced []Announcement
				var withdrawn []netip.Addr
				if delete(all, ip); r.IntN(3) > 0 {
					an := Announcement{Address: ip, Interfaces: [][]string{{"eth0"}, {"eth1"}, {"eth0", "eth1"}, {"eth0", "eth9"}}[r.IntN(4)], Listen: r.IntN(8) == 0}
					if r.IntN(3) == 0 {
						an.Probe = an.Interfaces[:1]
					}
					if r.IntN(4) == 0 {
						an.As = map[string]net.HardwareAddr{"eth0": []net.HardwareAddr{holderMAC[:], ownMAC[:]}[r.IntN(2)]}
					}
					all[ip], announced = an, []Announcement{an}
				} else {
					withdrawn = []netip.Addr{ip}
				}
				interfaces := []Interface{eth0, eth1}[:2-r.IntN(20)/19]
				claims, wait := r.IntN(5) == 0, time.Duration(r.IntN(2000))*time.Millisecond
				set.SetInterfaces(interfaces)
				updated.SetInterfaces(interfaces)
				synctest.Wait() // What was announced before may be said once more on an interface that has just been opened, or not.
				set.Set(slices.Collect(maps.Values(all)))
				updated.Update(announced, withdrawn)
				synctest.Wait()
				for _, b := range []*bench{set, updated} {
					if w := b.wires["eth0"]; w != nil && claims {
						w.receive(ARP, frame(arpAnnouncement))
					}
				}
				want, got := set.pass(wait), updated.pass(0)
				if diff := cmp.Diff(append(want, set.said()...), append(got, updated.said()...)); diff != "" {
					t.Fatalf("seed %d, step %d: after %v and %v (-Set +Update):\n%s", seed, step, announced, withdrawn, diff)
				}
				if stale := append(set.stale(), updated.stale()...); len(stale) > 0 {
					t.Fatalf("seed %d, step %d: after %v and %v: %v", seed, step, announced, withdrawn, stale)
				}
			}
		})
	}
}

// said returns the state of an Announcer: what it says, and what its readers look at.
func (b *bench) said() (said []string) {
	for _, s := range b.Announced() {
		said = append(said, fmt.Sprintf("%s on %s: %t %v", s.Address, s.Interface, s.Announced, s.Err))
	}
	for name, p := range b.ports {
		for ip, e := range p.addresses {
			said = append(said, fmt.Sprintf("%s on %s is in phase %d, declared: %t, task: %t", ip, name, e.phase.Load(), b.entries[onInterface{ip, name}] == e, p.tasks[ip] != nil))
		}
		for group, n := range p.groups {
			said = append(said, fmt.Sprintf("%s has %d addresses on %s, joined: %t", group, n, name, b.wires[name] != nil && b.wires[name].groups[group]))
		}
	}
	said = append(said, fmt.Sprint(len(b.entries), " entries, ", len(b.schedule), " in the schedule"))
	b.Ask(nil) // Run goes on after this has been read.
	synctest.Wait()
	slices.Sort(said)
	return said
}

// stale returns what was said of an address, and is not true any more. Ended probing is said a moment later.
func (b *bench) stale() (stale []string) {
	for name, p := range b.ports {
		inUse := 0
		for ip := range p.addresses {
			want, announces := p.status(ip)
			said, found := b.Lookup()(ip, name)
			if !slices.Contains(b.ended, ip) && (found != announces || !said.equal(want)) {
				stale = append(stale, fmt.Sprintf("%s is said to be %+v, and is %+v", ip, said, want))
			}
			inUse += count(said)
		}
		if counted := testutil.ToFloat64(b.metrics.inUse.WithLabelValues(name)); counted != float64(inUse) {
			stale = append(stale, fmt.Sprintf("%v addresses are counted as in use on %s, and %d are", counted, name, inUse))
		}
	}
	b.Ask(nil) // Run goes on after this has been read.
	synctest.Wait()
	return stale
}

func sameAddress(a, b netip.Addr) bool { return a == b }
