// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// The node that answers on the LAN has BGP sessions with routers that fuzz it, for six seconds, and for ten minutes in `make soak`. It answers on, its
// connections live, and its session with a good router is not disturbed.
func TestSoakAHostileRouter(t *testing.T) {
	n := repetitions(t, 100)
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	s.bgp(t)
	s.announcedFrom(t, ips, s.Nodes()...)
	before, err := s.process("node1", programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	var good speakerv1alpha1.BGPSession
	s.until(t, patience, "the session with the good router", func(ctx context.Context) (bool, string) {
		var said string
		good, said = s.bgpSession(ctx, "node1") // The status comes after the routes.
		return good.State == speakerv1alpha1.BGPEstablished, said
	})
	stop := s.hostile(t)
	for i := range hostileRouters {
		s.create(t, fmt.Sprintf(`
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS-hostile-%d}
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: %s
  peerPort: %d
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]
`, i, s.Addresses(lab.Client)[0], hostilePort+i))
	}
	s.until(t, patience, "sessions with hostile routers", func(ctx context.Context) (bool, string) {
		state, err := s.speaker(ctx, "node1")
		met := 0
		for _, session := range state.BGPSessions {
			if strings.Contains(session.Peer, "hostile") && (session.State == speakerv1alpha1.BGPEstablished || session.LastError != "") {
				met++
			}
		}
		return err == nil && met == hostileRouters, fmt.Sprintf("%d, %v", met, err)
	})
	var seen experience
	s.experiencing(t, ips, s.mac(t, "node1"), &seen, func() { time.Sleep(time.Duration(n) * 6 * time.Second) })
	soaked.note(t, "hostile routers", "%s", stop())
	seen.note(t, n)
	after, err := s.process("node1", programs["speaker"])
	if err != nil || after.pid != before.pid {
		t.Fatalf("the speaker of node1 is another: %v", err)
	}
	soaked.note(t, "memory of the speaker", "%s, and %s before", after.fields["VmRSS"], before.fields["VmRSS"])
	state, err := s.speaker(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(state.BGPSessions, func(session speakerv1alpha1.BGPSession) bool {
		return session.Peer == s.ns && session.State == speakerv1alpha1.BGPEstablished && session.Since.Equal(good.Since)
	}) {
		t.Errorf("the session with the good router is another than that since %v: %+v", good.Since, state.BGPSessions)
	}
}

const (
	// hostileRouters listen on as many ports, from hostilePort on.
	hostileRouters, hostilePort = 4, 1790
	// hostileEnv makes a process of this test binary be the hostile routers, instead of running tests.
	hostileEnv = "TANDEM_E2E_HOSTILE"
)

// hostile runs hostile routers on the client until stop is called, or the test ends. Stop returns what they have done.
func (s *stage) hostile(t *testing.T) (stop func() string) {
	t.Helper()
	routers := s.Command(context.Background(), lab.Client, os.Args[0])
	routers.Env = append(os.Environ(), hostileEnv+"=1")
	routers.Stderr = os.Stderr
	end, err := routers.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := routers.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := routers.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	t.Cleanup(func() {
		_ = end.Close()
		_ = routers.Wait()
	})
	if line, err := said.ReadString('\n'); err != nil {
		t.Fatalf("starting hostile routers: %v, they said %q", err, line)
	}
	return func() string {
		_ = end.Close()
		line, err := said.ReadString('\n')
		if err != nil {
			t.Errorf("the hostile routers said %q: %v", line, err)
		}
		return strings.TrimSpace(line)
	}
}

// hostileMain is the hostile routers, until standard input ends.
func hostileMain() error {
	var connections, messages atomic.Int64
	for i := range hostileRouters {
		listener, err := net.Listen("tcp", fmt.Sprint(":", hostilePort+i))
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				connections.Add(1)
				go fuzz(conn, rand.New(rand.NewPCG(uint64(i), uint64(connections.Load()))), &messages)
			}
		}()
	}
	fmt.Println("listening")
	_, err := io.Copy(io.Discard, os.Stdin)
	fmt.Printf("%d messages on %d connections\n", messages.Load(), connections.Load())
	return err
}

// The types of BGP's messages (RFC 4271 §4.1, RFC 2918 §3).
const (
	bgpOpen, bgpUpdate, bgpNotification, bgpKeepalive, bgpRouteRefresh = 1, 2, 3, 4, 5
)

// bgpMessage returns a message with its header.
func bgpMessage(kind byte, body []byte) []byte {
	m := slices.Concat(slices.Repeat([]byte{0xff}, 16), []byte{0, 0, kind}, body)
	binary.BigEndian.PutUint16(m[16:], uint16(len(m)))
	return m
}

// fuzz is one connection of a hostile router. It opens a session, sends UPDATEs that make no sense, and breaks the protocol after a while.
func fuzz(conn net.Conn, random *rand.Rand, messages *atomic.Int64) {
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	send := func(message []byte) bool {
		messages.Add(1)
		_, err := conn.Write(message)
		return err == nil
	}
	// Version 4, AS 64513, a hold time of 90 s, an identifier, and capabilities: both families, AS numbers of four octets, route refresh.
	open := []byte{4, 0xfc, 0x01, 0, 90, 192, 0, 2, 1, 22, 2, 20, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0xfc, 0x01, 2, 0}
	if random.IntN(4) == 0 {
		open[random.IntN(len(open))] = byte(random.Uint32())
	}
	if !send(bgpMessage(bgpOpen, open)) || !send(bgpMessage(bgpKeepalive, nil)) {
		return
	}
	for breaks := 200 + random.IntN(20_000); breaks > 0; breaks-- {
		var message []byte
		switch choice := random.IntN(10); {
		case choice < 7: // withdrawn routes, attributes and prefixes, whose lengths are nearly right
			body := noise(4 + random.IntN(200))
			binary.BigEndian.PutUint16(body, uint16(random.IntN(len(body))))
			message = bgpMessage(bgpUpdate, body)
		case choice < 8:
			message = bgpMessage(bgpUpdate, slices.Concat([]byte{0, 0}, noise(2+random.IntN(4000))))
		case choice < 9:
			message = bgpMessage(bgpKeepalive, nil)
		default:
			message = bgpMessage(bgpRouteRefresh, noise(4))
		}
		if !send(message) {
			return
		}
		if breaks%20 == 0 {
			time.Sleep(10 * time.Millisecond) // so that the processors of the lab are not all that is tested
		}
	}
	send([][]byte{
		noise(100), bgpMessage(bgpOpen, noise(40)), bgpMessage(bgpNotification, noise(30)), bgpMessage(byte(random.Uint32()), noise(20)), nil,
	}[random.IntN(5)])
}
