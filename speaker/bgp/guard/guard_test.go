// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// otherProgram has the test binary dial or listen in the place of the tests: what it says is the network address.
const otherProgram = "GUARD_OTHER_PROGRAM"

func TestMain(m *testing.M) {
	if what := os.Getenv(otherProgram); what != "" {
		os.Exit(beOther(what))
	}
	os.Exit(nettest.Main(m, nil))
}

// beOther is another program. It dials or listens, as in "dial 198.51.100.1:179", says so, and ends with its standard input.
func beOther(what string) int {
	verb, address, _ := strings.Cut(what, " ")
	var err error
	if verb == "listen" {
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err == nil {
			defer listener.Close() // The garbage collector closes one that nothing refers to.
		}
	} else {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, 10*time.Second); err == nil {
			defer conn.Close()
		}
	}
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// other runs beOther until the test ends, or stop is called, and returns when it has dialled or listens.
func other(t *testing.T, what string) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherProgram+"="+what)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = input.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	said := make([]byte, 200)
	if n, err := output.Read(said); err != nil || strings.TrimSpace(string(said[:n])) != "<nil>" {
		t.Fatalf("%s: %v, %s", what, err, said[:n])
	}
	return stop
}

// made counts links. Each has a name of its own, since package net remembers for a minute which index the name of an interface had.
var made int

// newRouter returns the address of a router in a namespace of its own, which takes all connections, on a link of this node. The link has
// the family of the address, or is link-local.
func newRouter(t *testing.T, router, own string) (netip.AddrPort, *nettest.Namespace) {
	t.Helper()
	ns := nettest.New(t, "router")
	made++
	link := fmt.Sprint("fab", made)
	nettest.Run(t, "ip", "link", "add", link, "type", "veth", "peer", "name", "up", "netns", ns.Name)
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", link) })
	nettest.Run(t, "ip", "link", "set", link, "addrgenmode", "none")
	nettest.Run(t, "ip", "addr", "add", own, "dev", link, "nodad")
	nettest.Run(t, "ip", "link", "set", link, "up")
	ns.IP(t, "link set dev up addrgenmode none")
	ns.IP(t, "addr add %s dev up nodad", router)
	ns.IP(t, "link set dev up up")
	ns.IP(t, "link set lo up")
	ns.Do(t, func() error {
		listener, err := net.Listen("tcp", ":179")
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			// A connection lasts as long as its other end: the garbage collector would close one that nothing refers to.
			var accepted []net.Conn
			for {
				conn, err := listener.Accept()
				if err != nil {
					break
				}
				accepted = append(accepted, conn)
			}
			for _, conn := range accepted {
				conn.Close()
			}
		}()
		return nil
	})
	address := netip.MustParsePrefix(router).Addr()
	if address.Is6() && address.IsLinkLocalUnicast() {
		address = address.WithZone(link)
	}
	return netip.AddrPortFrom(address, 179), ns
}

func newGuard(t *testing.T) (*Guard, signal.Signal) {
	t.Helper()
	logger, _ := ktesting.NewTestContext(t)
	changed := signal.New()
	g := New(logger, changed)
	g.booted = time.Now().Add(-time.Hour)
	return g, changed
}

var links = []struct{ name, router, own string }{
	{"IPv4", "198.51.100.1/24", "198.51.100.11/24"},
	{"IPv6", "2001:db8:51::1/64", "2001:db8:51::11/64"},
	{"link-local", "fe80::1/64", "fe80::11/64"},
}

func TestAllow(t *testing.T) {
	for _, tt := range links {
		t.Run(tt.name, func(t *testing.T) {
			router, _ := newRouter(t, tt.router, tt.own)
			g, changed := newGuard(t)
			s := g.Session(bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port()})
			if err := s.Allow(); err != nil {
				t.Errorf("nobody has a session, but Allow() = %v", err)
			}
			ours, err := net.Dial("tcp", router.String())
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			if err := s.Allow(); err != nil {
				t.Errorf("this process has a connection, but Allow() = %v", err)
			}
			other(t, "listen :179")
			if err := s.Allow(); err != nil {
				t.Errorf("another program listens on a node that is long up, but Allow() = %v", err)
			}
			receive(t, changed)
			if listening, taken := g.OtherRouter(); !listening || len(taken) > 0 {
				t.Errorf("OtherRouter() = %t, %v; want the listener alone", listening, taken)
			}
			stop := other(t, "dial "+router.String())
			if err := s.Allow(); err == nil || !strings.Contains(err.Error(), "already has a BGP session") {
				t.Errorf("another program has a connection, but Allow() = %v", err)
			}
			receive(t, changed)
			if _, taken := g.OtherRouter(); !slices.Equal(taken, []string{"tor1"}) {
				t.Errorf("taken = %v, want tor1", taken)
			}
			stop()
			if err := s.Allow(); err == nil || !strings.Contains(err.Error(), "had a BGP session") {
				t.Errorf("another program had a connection a moment ago, but Allow() = %v", err)
			}
			if err := g.Session(bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port()}).Allow(); err != nil {
				t.Errorf("the peer was declared anew, but Allow() = %v", err)
			}
			receive(t, changed)
			if _, taken := g.OtherRouter(); len(taken) > 0 {
				t.Errorf("taken = %v, want none", taken)
			}
		})
	}
}

// TestAllowSeesWhatIsNotAccepted: a connection that the router has opened has no process until the other program accepts it.
func TestAllowSeesWhatIsNotAccepted(t *testing.T) {
	router, ns := newRouter(t, links[0].router, links[0].own)
	g, _ := newGuard(t)
	other(t, "listen :179")
	ns.Do(t, func() error {
		conn, err := net.Dial("tcp", "198.51.100.11:179")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	if err := g.Session(bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port()}).Allow(); err == nil {
		t.Error("the router has opened a connection to another program, but Allow() = nil")
	}
}

// TestLook: while sessions are up Allow is not asked, and another program that begins to listen is seen all the same.
func TestLook(t *testing.T) {
	g, changed := newGuard(t)
	look := func(want bool) {
		t.Helper()
		g.Look()
		if listening, _ := g.OtherRouter(); listening != want {
			t.Errorf("OtherRouter() = %t, want %t", listening, want)
		}
	}
	look(false)
	stop := other(t, "listen :179")
	look(true)
	receive(t, changed)
	stop()
	look(false)
	receive(t, changed)
}

// TestSource: the address that a session would come from is that of the interface which its peer names.
func TestSource(t *testing.T) {
	router, _ := newRouter(t, links[0].router, links[0].own)
	newRouter(t, "198.51.100.1/24", "198.51.100.12/24")
	g, _ := newGuard(t)
	for name, want := range map[string]string{"": "198.51.100.11", fmt.Sprint("fab", made): "198.51.100.12", "nowhere": "invalid IP"} {
		peer := bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port(), Interface: name}
		if got := g.Session(peer).source(); got.String() != want {
			t.Errorf("the session of a peer with the interface %q would come from %v, want %s", name, got, want)
		}
	}
}

// TestSourceOfLinkMadeAnew: the source on a link is known at once when the link is there again under its name, with another index.
func TestSourceOfLinkMadeAnew(t *testing.T) {
	g, _ := newGuard(t)
	peer := bgp.Peer{Name: "tor1", Address: netip.MustParseAddr("fe80::1%again"), Port: 179}
	for range 2 {
		nettest.Run(t, "ip", "link", "add", "again", "type", "veth", "peer", "name", "far")
		nettest.Run(t, "ip", "link", "set", "again", "addrgenmode", "none")
		nettest.Run(t, "ip", "addr", "add", "fe80::11/64", "dev", "again", "nodad")
		nettest.Run(t, "ip", "link", "set", "far", "up")
		nettest.Run(t, "ip", "link", "set", "again", "up")
		if got := g.Session(peer).source(); got.String() != "fe80::11%again" {
			t.Errorf("the session would come from %v, want fe80::11%%again", got)
		}
		nettest.Run(t, "ip", "link", "delete", "again")
	}
}

// patience bounds the wait for an event. None takes nearly as long.
const patience = 20 * time.Second

// receive waits for a value.
func receive[T any](t *testing.T, from <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(patience):
		t.Fatal("Waited in vain")
	}
	return value
}

// TestHold has another program open a connection to the same router while we have one.
func TestHold(t *testing.T) {
	for _, tt := range links {
		t.Run(tt.name, func(t *testing.T) {
			router, _ := newRouter(t, tt.router, tt.own)
			g, _ := newGuard(t)
			s := g.Session(bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port()})
			ours, err := net.Dial("tcp", router.String())
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			yielded := make(chan error, 1)
			release := s.Hold(ours, func(reason error) { yielded <- reason })
			again, err := net.Dial("tcp", router.String()) // a second connection of our own is none of another program
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
			other(t, "dial "+router.String())
			if err := receive(t, yielded); err == nil || !strings.Contains(err.Error(), "already has a BGP session") {
				t.Errorf("yield(%v)", err)
			}
			if err := s.Allow(); err == nil {
				t.Error("after yield the peer may be dialled")
			}
			release()
			release()
		})
	}
}

// TestHoldSeesWhatCameBefore has another program open its connection after Allow, and before Hold.
func TestHoldSeesWhatCameBefore(t *testing.T) {
	router, _ := newRouter(t, links[0].router, links[0].own)
	g, _ := newGuard(t)
	s := g.Session(bgp.Peer{Name: "tor1", Address: router.Addr(), Port: router.Port()})
	ours, err := net.Dial("tcp", router.String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	other(t, "dial "+router.String())
	yielded := make(chan error, 1)
	defer s.Hold(ours, func(reason error) { yielded <- reason })()
	if err := receive(t, yielded); err == nil {
		t.Error("yield without a reason")
	}
}

// TestForgedAnswer has a host send a SYN+ACK in the name of the router, to ports where no program has a connection. Otherwise any host
// could end a session. The router itself may send one for a connection that was closed before.
func TestForgedAnswer(t *testing.T) {
	router, ns := newRouter(t, links[0].router, links[0].own)
	closed, err := net.Dial("tcp", router.String())
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	ours, err := net.Dial("tcp", router.String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	a, err := listenForAnswers(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	sockets, err := listSockets(router.Port())
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	a.has = func(local, remote netip.AddrPort, index int) bool {
		has := hasSocket(local, remote, index)
		asked = append(asked, fmt.Sprint(local.Port(), has))
		if has {
			asked[len(asked)-1] = "another program's true"
		}
		return has
	}
	other(t, "listen :4712")
	local := ours.LocalAddr().(*net.TCPAddr)
	ns.Do(t, func() error {
		raw, err := net.DialIP("ip4:tcp", nil, &net.IPAddr{IP: local.IP})
		if err != nil {
			return err
		}
		defer raw.Close()
		for _, segment := range [][]byte{
			segment(179, uint16(local.Port), flagSYN|flagACK),
			segment(179, uint16(closed.LocalAddr().(*net.TCPAddr).Port), flagSYN|flagACK),
			segment(179, 4711, flagSYN|flagACK), // no socket
			segment(179, 4712, flagSYN|flagACK), // a listener
		} {
			if _, err := raw.Write(segment); err != nil {
				return err
			}
		}
		return nil
	})
	other(t, "dial "+router.String()) // the answer to which comes after those
	if want := []string{"4711 false", "4712 false", "another program's true"}; !a.next(sockets) || !slices.Equal(asked, want) {
		t.Errorf("looked for sockets with the results %q, want %q", asked, want)
	}
}

// segment returns a TCP header.
func segment(source, destination uint16, flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], source)
	binary.BigEndian.PutUint16(b[2:], destination)
	b[12], b[flagsOffset] = 5<<4, flags
	return b
}
