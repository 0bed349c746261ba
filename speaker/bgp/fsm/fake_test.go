// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/speaker/bgp"
)

// discard is a log that nobody reads.
var discard = logr.Discard()

// fake is a router whose every message a test writes. It has AS 64513, and the speaker 64512.
type fake struct {
	t     *testing.T
	conn  net.Conn
	heard chan *packet.BGPMessage // what the speaker has sent, closed with the connection; nil for a fake that does not read
}

// peerOfFakes is a declaration that fits a fake.
func peerOfFakes() bgp.Peer {
	p := bgp.Peer{
		Name: "tor1", LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("192.0.2.1"),
		RouterID: netip.MustParseAddr("192.0.2.254"),
	}
	p.Defaults()
	return p
}

// startFake starts a session with a peer over pipes, in a bubble of synctest. Each connection that it opens is received from the channel. The
// session ends with the test.
func startFake(t *testing.T, peer bgp.Peer, guard Guard, want ...bgp.Route) (*session, <-chan net.Conn) {
	t.Helper()
	if err := peer.Validate(); err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn)
	s := newSession(Config{Logger: discard}, peer, func() {})
	if guard != nil {
		s.guard = guard
	}
	s.limit.Store(int64(peer.MaxReceivedPrefixes))
	s.dial = func(ctx context.Context, _ bgp.Peer) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := s.setRoutes(want); err != nil {
		t.Fatal(err)
	}
	s.start(t.Context())
	t.Cleanup(func() { s.close(context.Background(), &loss{}) })
	return s, conns
}

// read makes a fake of a connection, which reads what it is sent.
func read(t *testing.T, conn net.Conn) *fake {
	f := &fake{t: t, conn: conn, heard: make(chan *packet.BGPMessage, 1000)}
	go func() {
		defer close(f.heard)
		for in := bufio.NewReader(conn); ; {
			m, err := nextMessage(in)
			if err != nil {
				return
			}
			f.heard <- m
		}
	}()
	return f
}

func nextMessage(in io.Reader) (*packet.BGPMessage, error) {
	head := make([]byte, packet.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, err
	}
	var h packet.BGPHeader
	if err := h.DecodeFromBytes(head); err != nil {
		return nil, err
	}
	body := make([]byte, int(h.Len)-len(head))
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	m, err := packet.ParseBGPBody(&h, body)
	if err != nil { // an AS_PATH does not say how long its AS numbers are
		return packet.ParseBGPBody(&h, body, &packet.MarshallingOption{Use2ByteAS: true})
	}
	return m, nil
}

// send writes messages.
func (f *fake) send(messages ...*packet.BGPMessage) {
	f.t.Helper()
	for _, m := range messages {
		b, err := m.Serialize()
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.conn.Write(b); err != nil {
			f.t.Fatalf("writing a message of type %d: %v", m.Header.Type, err)
		}
	}
}

// open returns the fake's OPEN with these capabilities.
func open(asn uint16, holdTime uint16, caps ...packet.ParameterCapabilityInterface) *packet.BGPMessage {
	var parameters []packet.OptionParameterInterface
	if len(caps) > 0 {
		parameters = []packet.OptionParameterInterface{packet.NewOptionParameterCapability(caps)}
	}
	m, err := packet.NewBGPOpenMessage(asn, holdTime, netip.MustParseAddr("192.0.2.1"), parameters)
	if err != nil {
		panic(err)
	}
	return m
}

// capabilities are those of a router that has everything.
func capabilities() []packet.ParameterCapabilityInterface {
	return []packet.ParameterCapabilityInterface{
		packet.NewCapMultiProtocol(packet.RF_IPv4_UC), packet.NewCapMultiProtocol(packet.RF_IPv6_UC), packet.NewCapRouteRefresh(),
		packet.NewCapFourOctetASNumber(64513), packet.NewCapGracefulRestart(false, false, 120, nil),
		packet.NewCapExtendedNexthop([]*packet.CapExtendedNexthopTuple{
			packet.NewCapExtendedNexthopTuple(packet.RF_IPv4_UC, packet.AFI_IP6),
		}),
	}
}

// establish brings the session up, and returns the OPEN of the speaker.
func (f *fake) establish(holdTime uint16, caps ...packet.ParameterCapabilityInterface) *packet.BGPOpen {
	f.t.Helper()
	open1 := f.next()
	ours, ok := open1.Body.(*packet.BGPOpen)
	if !ok {
		f.t.Fatalf("the first message is of type %d", open1.Header.Type)
	}
	f.send(open(64513, holdTime, caps...), packet.NewBGPKeepAliveMessage())
	if m := f.next(); m.Header.Type != packet.BGP_MSG_KEEPALIVE {
		f.t.Fatalf("the second message is of type %d", m.Header.Type)
	}
	return ours
}

// next returns the next message of the speaker.
func (f *fake) next() *packet.BGPMessage {
	f.t.Helper()
	m, ok := <-f.heard
	if !ok {
		f.t.Fatal("the speaker has closed the connection")
	}
	return m
}

// ending returns the NOTIFICATION that the speaker sends before it closes the connection, nil if it closes without one.
func (f *fake) ending() (n *packet.BGPNotification) {
	for m := range f.heard {
		if body, ok := m.Body.(*packet.BGPNotification); ok {
			n = body
		}
	}
	return n
}

// repeat writes a message, or a part of one, again and again until the connection ends.
func (f *fake) repeat(message []byte, interval time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := f.conn.Write(message); err != nil {
				return
			}
			time.Sleep(interval)
		}
	}()
	f.t.Cleanup(func() {
		f.conn.Close()
		<-done
	})
}
