// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// The tests of this file run Tandem's BFD with other implementations, which are in namespaces of their own:
//
//	the namespace of the tests  10.78.N.1 ── 10.78.N.2  the daemon's
//	                           fd78:N::1      fd78:N::2
//	                                  └ fe80::1 ── fe80::2 ┘

var links int

// end is one end of a link between two namespaces. An empty namespace is that of the tests.
type end struct {
	t         *testing.T
	namespace *nettest.Namespace
	here      [3]netip.Addr // those of the tests' end: IPv4, IPv6 and link-local
	there     [3]netip.Addr // those of this end
	iface     string        // the tests' end
}

// newEnd makes a namespace and its link.
func newEnd(t *testing.T) *end {
	t.Helper()
	links++
	n := links
	e := &end{t: t, namespace: nettest.New(t, "bfd"), iface: fmt.Sprint("b", n)}
	for i, family := range []string{"10.78.%d.%d", "fd78:%d::%d"} {
		e.here[i], e.there[i] = netip.MustParseAddr(fmt.Sprintf(family, n, 1)), netip.MustParseAddr(fmt.Sprintf(family, n, 2))
	}
	e.here[2], e.there[2] = netip.MustParseAddr("fe80::1").WithZone(e.iface), netip.MustParseAddr("fe80::2").WithZone(e.iface)
	nettest.Run(t, "ip", "link", "add", e.iface, "type", "veth", "peer", "name", "eth0", "netns", e.namespace.Name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", e.iface).Run() })
	nettest.Run(t, "ip", "link", "set", e.iface, "addrgenmode", "none", "up")
	e.namespace.IP(t, "link set eth0 addrgenmode none up")
	e.namespace.IP(t, "link set lo up")
	for i, length := range []string{"/24", "/64", "/64"} {
		nettest.Run(t, "ip", append([]string{"addr", "add", e.here[i].WithZone("").String() + length, "dev", e.iface}, nodad(e.here[i])...)...)
		e.namespace.IP(t, "addr add %s%s dev eth0 %s", e.there[i].WithZone(""), length, strings.Join(nodad(e.here[i]), " "))
	}
	return e
}

func nodad(a netip.Addr) []string {
	if a.Is4() {
		return nil
	}
	return []string{"nodad"}
}

// session is one of ours with the daemon, as fast as users have it.
func (e *end) session(i int) bfd.Session {
	return bfd.Session{
		Name: "peer", Local: e.here[i], Remote: e.there[i],
		Params: bfd.Params{Transmit: 100 * ms, Receive: 100 * ms, Multiplier: 10}, // a busy machine does not end it
	}
}

// eventually waits until check has nothing to complain about.
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * ms) {
		complaint := check()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Waited in vain for %s: %s", what, complaint)
		}
	}
}

// daemon is another implementation of BFD that runs somewhere.
type daemon interface {
	// sessions returns what it says of its sessions, each in a line: the peer's address, whether it is up, and what changes when it was not.
	sessions() string
	Stop()
}

// frr is bfdd.
type frr struct {
	*nettest.Router
	t *testing.T
}

// startFRR starts bfdd in a namespace, with these peers: address and local address.
func startFRR(t *testing.T, namespace *nettest.Namespace, peers ...[2]netip.Addr) daemon {
	t.Helper()
	config := "bfd\n"
	for _, p := range peers {
		iface := ""
		if zone := p[0].Zone(); zone != "" {
			iface = " interface " + zone
		}
		config += fmt.Sprintf(" peer %s local-address %s%s\n  detect-multiplier 10\n  receive-interval 100\n  transmit-interval 100\n !\n",
			p[0].WithZone(""), p[1].WithZone(""), iface)
	}
	return &frr{nettest.StartFRR(t, namespace, "bfdd", config), t}
}

func (f *frr) sessions() string {
	var peers, counters []struct {
		Peer     string
		Status   string
		Down     int `json:"session-down"`
		Detected int `json:"remote-transmit-interval"`
	}
	for into, question := range map[any]string{&peers: "show bfd peers json", &counters: "show bfd peers counters json"} {
		if err := json.Unmarshal([]byte(f.Show(question)), into); err != nil {
			f.t.Fatalf("%s: %v", question, err)
		}
	}
	downs := map[string]int{}
	for _, c := range counters {
		downs[c.Peer] += c.Down
	}
	var lines []string
	for _, p := range peers {
		lines = append(lines, fmt.Sprintf("%s up=%t downs=%d every=%dms", p.Peer, p.Status == "up", downs[p.Peer], p.Detected))
	}
	return strings.Join(lines, "\n")
}

// bird is BIRD's protocol bfd.
type bird struct {
	*nettest.Router
	since map[string]time.Time // by peer, as it was told first
}

// startBIRD starts BIRD in a namespace, with these peers: address and local address.
func startBIRD(t *testing.T, namespace *nettest.Namespace, peers ...[2]netip.Addr) daemon {
	t.Helper()
	config := "router id 10.0.0.1;\nprotocol device {}\nprotocol bfd {\n" +
		" interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; idle tx interval 1 s; multiplier 10; };\n"
	for _, p := range peers {
		device := "" // a link-local address of BIRD's has its interface, and any other is bound to an address
		if zone := p[0].Zone(); zone != "" {
			device = fmt.Sprintf(" dev %q", zone)
		}
		config += fmt.Sprintf(" neighbor %s%s local %s;\n", p[0].WithZone(""), device, p[1].WithZone(""))
	}
	return &bird{nettest.StartBIRD(t, namespace, config+"}\n"), map[string]time.Time{}}
}

var birdSession = regexp.MustCompile(`(?m)^(\S+)\s+\S+\s+(Up|Down|Init|AdminDown)\s+(\S+)\s+(\S+)\s+(\S+)`)

func (b *bird) sessions() string {
	var lines []string
	for _, m := range birdSession.FindAllStringSubmatch(b.Show("show bfd sessions"), -1) {
		lines = append(lines, fmt.Sprintf("%s up=%t since=%s timeout=%s", m[1], m[2] == "Up", b.changed(m[1], m[3]), m[5]))
	}
	return strings.Join(lines, "\n")
}

// changed returns since when a session is as it is. BIRD counts from a clock of its own, so that what it says of one moment differs by a
// millisecond: 10:00:21.500, and then 10:00:21.501. A session that has failed is not up again within a tenth of a second.
func (b *bird) changed(peer, since string) string {
	at, err := time.Parse("15:04:05.000", since)
	if err != nil {
		return since
	}
	if at.Sub(b.since[peer]).Abs() > 100*ms {
		b.since[peer] = at
	}
	return b.since[peer].Format("15:04:05.000")
}

var daemons = []struct {
	name  string
	start func(t *testing.T, namespace *nettest.Namespace, peers ...[2]netip.Addr) daemon
}{{"FRR", startFRR}, {"BIRD", startBIRD}}

// ups counts the sessions that a daemon has up.
func ups(d daemon) int { return strings.Count(d.sessions(), "up=true") }

// settled waits until a daemon has so many sessions up, and knows how often it is to hear of each peer: a session that has just come up may
// still have the second of the beginning. It returns what the daemon says of them then.
func settled(t *testing.T, d daemon, count int) (sessions string) {
	t.Helper()
	eventually(t, "sessions that are up and fast", func() string {
		sessions = d.sessions()
		if fast := strings.Count(sessions, "every=100ms") + strings.Count(sessions, "timeout=1.000"); fast == count && strings.Count(sessions, "up=true") == count {
			return ""
		}
		return sessions
	})
	return sessions
}

// awaitUp waits until a daemon has so many sessions up, and our own are.
func awaitUp(t *testing.T, n *node, d daemon, count int) {
	t.Helper()
	eventually(t, "sessions that are up", func() string {
		for _, s := range n.States() {
			if s.State != bfd.Up {
				return fmt.Sprintf("%+v; %s", s, d.sessions())
			}
		}
		if ups(d) != count {
			return d.sessions()
		}
		return ""
	})
}

// peersOf are the peers that a daemon at this end is to have: ours.
func (e *end) peersOf() (peers [][2]netip.Addr) {
	for i := range 2 {
		peers = append(peers, [2]netip.Addr{e.here[i], e.there[i]})
	}
	return append(peers, [2]netip.Addr{e.here[2].WithZone("eth0"), e.there[2]})
}

// TestRestartBesideARouter has a Speaker suspend its sessions and another take them over, in both families and over link-local addresses.
// The router's sessions stay up, and it soon notices a death as fast as before.
func TestRestartBesideARouter(t *testing.T) {
	for _, router := range daemons {
		t.Run(router.name, func(t *testing.T) {
			e := newEnd(t)
			d := router.start(t, e.namespace, e.peersOf()...)
			var sessions []bfd.Session
			for i := range 3 {
				s := e.session(i)
				s.Name = fmt.Sprint("peer", i)
				sessions = append(sessions, s)
			}
			first := newNode(t)
			first.set(sessions...)
			awaitUp(t, first, d, 3)
			before := settled(t, d, 3)
			first.Suspend(t.Context())
			if slow := d.sessions(); ups(d) != 3 || slow == before {
				t.Errorf("after Suspend:\n%s\nbefore:\n%s", slow, before)
			}
			time.Sleep(1500 * ms) // longer than the router waited before
			next := newNodeThat(t, true)
			next.set(sessions...)
			awaitUp(t, next, d, 3)
			eventually(t, "the sessions as they were", func() string {
				if after := d.sessions(); after != before {
					return fmt.Sprintf("they are\n%s\nand were\n%s", after, before)
				}
				return ""
			})
			for _, s := range next.States() {
				if s.Downs > 0 {
					t.Errorf("%+v has failed", s)
				}
			}
		})
	}
}

// TestBesideADaemon has BIRD or FRR on this node, with a session of its own with one router, and ours with another, in both orders of
// starting. Nothing goes down.
func TestBesideADaemon(t *testing.T) {
	for _, beside := range daemons {
		for _, order := range []string{"first", "last"} {
			t.Run(beside.name+" starts "+order, func(t *testing.T) {
				ours, theirs := newEnd(t), newEnd(t)
				router := startFRR(t, ours.namespace, ours.peersOf()[:2]...)
				other := startBIRD(t, theirs.namespace, theirs.peersOf()[:2]...)
				here := [][2]netip.Addr{{theirs.there[0], theirs.here[0]}, {theirs.there[1], theirs.here[1]}}
				var daemon daemon
				n := newNode(t)
				one, two := ours.session(0), ours.session(1)
				two.Name = "peer6"
				if order == "first" {
					daemon = beside.start(t, nettest.Own(t), here...)
					settled(t, daemon, 2)
				}
				n.set(one, two)
				awaitUp(t, n, router, 2)
				if order == "last" {
					daemon = beside.start(t, nettest.Own(t), here...)
				}
				awaitUp(t, n, other, 2)
				before := settled(t, daemon, 2)
				router.Stop() // It starts again with other ports, of which the plug follows.
				eventually(t, "the death of the router", func() string {
					if s := n.States()[0]; s.State == bfd.Up {
						return fmt.Sprint(s)
					}
					return ""
				})
				router = startFRR(t, ours.namespace, ours.peersOf()[:2]...)
				awaitUp(t, n, router, 2)
				if after := daemon.sessions(); after != before || ups(daemon) != 2 {
					t.Errorf("the daemon's sessions are\n%s\nand were\n%s", after, before)
				}
			})
		}
	}
}
