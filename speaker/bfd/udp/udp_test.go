// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/ipv4"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// TestMain runs the tests in a network namespace, since the ports of BFD are fixed.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m, nil)) }

const ms = time.Millisecond

// patience bounds every wait; nothing is expected to take that long.
const patience = 20 * time.Second

var (
	here  = netip.MustParseAddr("127.0.0.1")
	there = netip.MustParseAddr("127.0.0.2")
)

// node is a Speaker on an address of the loopback interface.
type node struct {
	*Speaker
	t     *testing.T
	downs chan string
}

func newNode(t *testing.T) *node { return newNodeThat(t, false) }

func newNodeThat(t *testing.T, takesOver bool) *node {
	n := &node{t: t, downs: make(chan string, 10)}
	logger, _ := ktesting.NewTestContext(t)
	n.Speaker = New(Config{Logger: logger, TakeOver: takesOver, OnDown: func(name, reason string) { n.downs <- name + ": " + reason }})
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		n.Close(ended)
	})
	return n
}

func (n *node) set(sessions ...bfd.Session) {
	n.t.Helper()
	if err := n.Set(sessions); err != nil {
		n.t.Fatal(err)
	}
}

// becomes waits until the node's only session is in a state.
func (n *node) becomes(want bfd.State) bfd.SessionState {
	n.t.Helper()
	deadline := time.After(patience)
	for {
		states := n.States()
		if len(states) == 1 && states[0].State == want {
			return states[0]
		}
		select {
		case <-n.Changes():
		case <-deadline:
			n.t.Fatalf("sessions %+v, want one that is %v", states, want)
		}
	}
}

// between is a session that a busy machine does not end: three seconds of silence do.
func between(local, remote netip.Addr) bfd.Session {
	return bfd.Session{Name: "peer", Local: local, Remote: remote, Params: bfd.Params{Transmit: 50 * ms, Receive: 50 * ms, Multiplier: 60}}
}

// pair brings up a session between two nodes.
func pair(t *testing.T, edit func(*bfd.Session)) (a, b *node) {
	t.Helper()
	a, b = newNode(t), newNode(t)
	one, other := between(here, there), between(there, here)
	edit(&one)
	edit(&other)
	a.set(one)
	b.set(other)
	for _, n := range []*node{a, b} {
		if s := n.becomes(bfd.Up); s.Detection == 0 || s.Transmit == 0 {
			t.Errorf("state %+v, want times", s)
		}
	}
	return a, b
}

func TestASessionComesUp(t *testing.T) {
	t.Run("on one link", func(t *testing.T) { pair(t, func(*bfd.Session) {}) })
	t.Run("over several hops", func(t *testing.T) { pair(t, func(s *bfd.Session) { s.Multihop, s.MinimumTTL = true, 254 }) })
}

// The names are part of what users see: dashboards and alerts are made of them.
func TestMetricNames(t *testing.T) {
	a, _ := pair(t, func(*bfd.Session) {})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{} // the label values of each metric
	for _, family := range families {
		for _, m := range family.Metric {
			got[family.GetName()] = append(got[family.GetName()], m.Label[0].GetValue())
		}
	}
	want := map[string][]string{
		"tandem_bfd_session_failures_total": {"peer"}, "tandem_bfd_dropped_packets_total": {"busy", "malformed", "no_session", "ttl", "unread"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Metrics differ (-want +got):\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("GatherAndLint = %v, %v", problems, err)
	}
}

func TestAPeerThatDiesIsReported(t *testing.T) {
	a, b := pair(t, func(*bfd.Session) {})
	b.end(b.lone().ends, b.lone())
	select {
	case got := <-a.downs:
		if got != "peer: nothing was heard from the peer for 3s" {
			t.Errorf("reported %q", got)
		}
	case <-time.After(patience):
		t.Fatal("nothing was reported")
	}
	if s := a.becomes(bfd.Down); s.Downs != 1 || s.Diagnostic != bfd.DetectionTimeExpired {
		t.Errorf("state %+v, want one failure, of the detection time", s)
	}
}

// lone returns the node's only session.
func (n *node) lone() *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sessions {
		return s
	}
	n.t.Fatal("no session")
	return nil
}

func TestAdminDownIsNoFailure(t *testing.T) {
	for _, row := range []struct {
		name      string
		adminDown func(n *node)
	}{
		{"the peer is no longer declared", func(n *node) { n.set() }},
		{"the speaker stops", func(n *node) { n.Close(context.Background()) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := pair(t, func(*bfd.Session) {})
			row.adminDown(b)
			if s := a.becomes(bfd.Down); s.Downs != 0 || s.RemoteState != bfd.AdminDown {
				t.Errorf("state %+v, want no failure, and a peer that is AdminDown", s)
			}
			select {
			case got := <-a.downs:
				t.Errorf("reported %q, want nothing", got)
			default:
			}
		})
	}
}

func TestADeclarationThatComesBackIsServed(t *testing.T) {
	a, b := pair(t, func(*bfd.Session) {})
	b.set()
	a.becomes(bfd.Down)
	b.set(between(there, here))
	a.becomes(bfd.Up)
	err := b.Set([]bfd.Session{between(there, here), between(there, here)})
	if err == nil || !strings.Contains(err.Error(), "another peer has the same addresses") {
		t.Errorf("error = %v for two sessions with the same ends", err)
	}
	b.becomes(bfd.Up)
}

// TestOtherParameters changes a session without taking it down.
func TestOtherParameters(t *testing.T) {
	a, b := pair(t, func(s *bfd.Session) { s.Multihop, s.MinimumTTL = true, 254 })
	faster := between(there, here)
	faster.Name, faster.Multihop, faster.MinimumTTL = "renamed", true, 253
	faster.Transmit, faster.Receive, faster.Multiplier = 20*ms, 20*ms, 100
	first := b.lone()
	b.set(faster)
	deadline := time.Now().Add(patience)
	for a.States()[0].Detection != 100*50*ms && time.Now().Before(deadline) {
		time.Sleep(10 * ms) // intervals are no change that is told
	}
	if s := a.States()[0]; s.State != bfd.Up || s.Detection != 100*50*ms || s.Downs != 0 {
		t.Errorf("state %+v, want one that is up with a detection time of 5 s", s)
	}
	if b.lone() != first || b.States()[0].Name != "renamed" || first.minimumTTL.Load() != 253 {
		t.Errorf("the session is %+v, want the same one with a new name and minimumTTL", b.States()[0])
	}
}

func TestASessionThatCannotRunIsTriedAgain(t *testing.T) {
	n := newNode(t)
	elsewhere := between(netip.MustParseAddr("192.0.2.1"), there)
	err := n.Set([]bfd.Session{elsewhere, between(here, there)})
	if err == nil || !strings.Contains(err.Error(), `peer "peer": receiving on 192.0.2.1`) {
		t.Errorf("error = %v", err)
	}
	if n.becomes(bfd.Down); len(n.listeners) != 1 {
		t.Errorf("%d listeners, want one", len(n.listeners))
	}
	n.set(between(here, there))
	newNode(t).set(between(there, here))
	n.becomes(bfd.Up)
}

// TestAnotherProgramHasThePort begins with another program that has the ports of BFD, for all addresses or for ours. It gets no packet of
// our peer once the session is up.
func TestAnotherProgramHasThePort(t *testing.T) {
	for _, address := range []string{"0.0.0.0", "127.0.0.1"} {
		t.Run(address, func(t *testing.T) {
			config := net.ListenConfig{Control: reuseAddress}
			taken, err := config.ListenPacket(t.Context(), "udp4", net.JoinHostPort(address, strconv.Itoa(linkPort)))
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			a, _ := pair(t, func(*bfd.Session) {})
			b := make([]byte, 64)
			for deadline := time.Now().Add(patience); err == nil; { // until nothing comes for ten intervals
				if time.Now().After(deadline) {
					t.Fatal("the other program gets packets of our peer")
				}
				if err = taken.SetReadDeadline(time.Now().Add(500 * ms)); err == nil {
					_, _, err = taken.ReadFrom(b)
				}
			}
			if a.becomes(bfd.Up); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

// TestAProcessThatFollowsTakesOver ends a Speaker as a restart does, and starts another one.
func TestAProcessThatFollowsTakesOver(t *testing.T) {
	a, b := pair(t, func(*bfd.Session) {})
	before := b.States()[0]
	a.Suspend(t.Context())
	// The peer takes note after it has answered.
	for deadline := time.Now().Add(patience); b.States()[0].Detection != 30*time.Second; time.Sleep(ms) {
		if time.Now().After(deadline) {
			t.Fatalf("the peer waits for %v, want half a minute", b.States()[0].Detection)
		}
	}
	next := newNodeThat(t, true)
	next.set(between(here, there))
	next.becomes(bfd.Up)
	for deadline := time.Now().Add(patience); b.States()[0].Detection != 60*50*ms; time.Sleep(ms) {
		if time.Now().After(deadline) {
			t.Fatalf("the peer waits for %v, want 3 s", b.States()[0].Detection)
		}
	}
	if after := b.States()[0]; after.Since != before.Since || after.State != bfd.Up {
		t.Errorf("the peer's session is %+v, want the one before, %+v", after, before)
	}
}

// TestPacketsOfOthersAreDropped sends packets that may not change any session.
func TestPacketsOfOthersAreDropped(t *testing.T) {
	a, b := pair(t, func(*bfd.Session) {})
	down := bfd.Packet{State: bfd.Down, DetectMultiplier: 3, MyDiscriminator: 1, DesiredMinTx: time.Second, RequiredMinRx: time.Second}
	dropped := func(reason dropReason) float64 { return testutil.ToFloat64(a.dropped.WithLabelValues(string(reason))) }
	guessed := down
	guessed.YourDiscriminator = a.lone().discriminator.Load() + 1
	for _, row := range []struct {
		name   string
		from   netip.Addr
		ttl    int
		bytes  []byte
		reason dropReason
	}{
		{"through a router", there, 254, down.Append(nil), dropTTL},
		{"from another address", netip.MustParseAddr("127.0.0.3"), 255, down.Append(nil), dropNoSession},
		{"with a discriminator that is not ours", there, 255, guessed.Append(nil), dropNoSession},
		{"no packet", there, 255, []byte("hello"), dropMalformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := dropped(row.reason)
			conn, err := net.DialUDP("udp",
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(row.from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(here, linkPort)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := ipv4.NewConn(conn).SetTTL(row.ttl); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(row.bytes); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); dropped(row.reason) == before; time.Sleep(ms) {
				if time.Now().After(deadline) {
					t.Fatalf("%v packets dropped as %s, want one more", dropped(row.reason), row.reason)
				}
			}
		})
	}
	for _, n := range []*node{a, b} {
		if s := n.States()[0]; s.State != bfd.Up || s.Downs != 0 {
			t.Errorf("state %+v, want one that was not disturbed", s)
		}
	}
}

// TestAnInterfaceThatIsMadeAnew has a link-local peer on an interface that goes and comes back under its name: the sockets of the session
// are those of the old one.
func TestAnInterfaceThatIsMadeAnew(t *testing.T) {
	nettest.Own(t) // or the test is skipped
	make := func() {
		nettest.Run(t, "ip", "link", "add", "again0", "type", "bridge")
		nettest.Run(t, "ip", "link", "set", "again0", "addrgenmode", "none", "up")
		nettest.Run(t, "ip", "addr", "add", "fe80::1/64", "dev", "again0", "nodad")
	}
	make()
	n := newNode(t)
	peer := between(netip.MustParseAddr("fe80::1%again0"), netip.MustParseAddr("fe80::2%again0"))
	n.set(peer)
	first := n.lone()
	nettest.Run(t, "ip", "link", "delete", "again0")
	n.set(peer)
	if n.lone() != first {
		t.Error("the session was replaced while there is no interface: BFD is to find the peer dead")
	}
	make()
	n.set(peer)
	if n.lone() == first {
		t.Error("the session still uses sockets of the interface that is gone")
	}
	nettest.Run(t, "ip", "link", "delete", "again0")
}
