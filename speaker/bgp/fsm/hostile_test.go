// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// recording is a connection on which the peer has said something and has closed it.
type recording struct {
	net.Conn // nil, since nothing else is called
	*bytes.Reader
}

func (r *recording) Read(b []byte) (int, error)      { return r.Reader.Read(b) }
func (r *recording) SetReadDeadline(time.Time) error { return nil }

// FuzzRead reads whatever a peer may send, up to its end. It must come to an end, without a panic that is not caught, and count no more than
// there is.
func FuzzRead(f *testing.F) {
	keepalive := mustSerialize(packet.NewBGPKeepAliveMessage())
	handshake := slices.Concat(mustSerialize(open(64513, 90, capabilities()...)), keepalive)
	f.Add(handshake)
	f.Add(slices.Concat(handshake, mustSerialize(packet.NewTestBGPUpdateMessage()), keepalive))
	f.Add(slices.Concat(handshake, mustSerialize(packet.NewBGPNotificationMessage(6, 9, []byte{6, 2, 200, 'a'}))))
	f.Add(slices.Concat(handshake, mustSerialize(packet.NewBGPRouteRefreshMessage(1, 0, 1)), mustSerialize(packet.NewEndOfRib(packet.RF_IPv6_UC))))
	f.Add(mustSerialize(packet.NewTestBGPOpenMessage()))
	for _, u := range hostileUpdates() {
		f.Add(slices.Concat(handshake, u))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		var limit atomic.Int64
		r := newReader(&recording{Reader: bytes.NewReader(sent)}, peerOfFakes(), newCounter(&limit))
		r.run()
		if l := <-r.ended; l == nil || l.reason == "" {
			t.Error("The reader ended for no reason")
		}
		if counted := int64(len(r.count.prefixes)); counted != r.count.ipv4.Load()+r.count.ipv6.Load() || counted > int64(len(sent)) {
			t.Errorf("%d prefixes in %d bytes", counted, len(sent))
		}
	})
}

// hostileUpdates returns UPDATEs that BGP implementations have crashed over.
func hostileUpdates() [][]byte {
	update := func(body ...byte) []byte {
		b := slices.Concat(slices.Repeat([]byte{0xff}, 16), []byte{0, 0, packet.BGP_MSG_UPDATE}, body)
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
		return b
	}
	return [][]byte{
		update(0, 0, 0, 6, 0xc0, 17, 0, 0x40, 2, 0),                    // an empty AS4_PATH before AS_PATH (CVE-2026-41643)
		update(0xff, 0xff, 0, 0),                                       // withdrawn routes beyond the message
		update(0, 0, 0xff, 0xff),                                       // attributes beyond the message
		update(0, 0, 0, 3, 0x90, 14, 0xff),                             // a long attribute without a length
		update(0, 0, 0, 8, 0x80, 14, 5, 0, 1, 1, 255, 0),               // an MP_REACH_NLRI whose next hop is longer than it
		update(0, 0, 0, 4, 0x80, 15, 1, 0),                             // an MP_UNREACH_NLRI without a family
		update(0, 0, 0, 0, 33, 1, 2, 3, 4, 5),                          // a prefix of 33 bits
		update(0, 4, 32, 1, 2, 3, 0, 0),                                // a withdrawn prefix that ends too early
		update(0, 0, 0, 10, 0x80, 14, 7, 0, 2, 1, 0, 0, 129, 1, 24, 9), // an IPv6 prefix of 129 bits
		update(0, 0, 0, 0),
	}
}

// hostile is a router on loopback that says whatever a test has it say.
type hostile struct {
	t           *testing.T
	peer        bgp.Peer
	connections chan net.Conn
}

func newHostile(t *testing.T) *hostile {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	h := &hostile{t: t, peer: peerOfFakes(), connections: make(chan net.Conn, 100)}
	h.peer.Address, h.peer.Port = netip.MustParseAddr("127.0.0.1"), uint16(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.connections <- conn
		}
	}()
	return h
}

// accept returns the next connection, on which the session is established, and which ends with the test.
func (h *hostile) accept() net.Conn {
	h.t.Helper()
	select {
	case conn := <-h.connections:
		h.t.Cleanup(func() { conn.Close() })
		h.say(conn, mustSerialize(open(64513, 90, capabilities()...)), mustSerialize(packet.NewBGPKeepAliveMessage()))
		return conn
	case <-time.After(patience):
		h.t.Fatal("the speaker connects no more")
		return nil
	}
}

// say writes messages, until the speaker has had enough.
func (h *hostile) say(conn net.Conn, messages ...[]byte) {
	for _, m := range messages {
		if _, err := conn.Write(m); err != nil {
			return
		}
	}
}

// TestMillionPrefixes: the memory that a peer can take is bounded, whatever it announces.
func TestMillionPrefixes(t *testing.T) {
	h := newHostile(t)
	var million [][]byte
	for prefixes := range slices.Chunk(manyPrefixes(family.IPv4, 1_000_000), 10_000) {
		updates, err := announcements(h.peer, true, attributes{nextHop: netip.MustParseAddr("192.0.2.1")}, family.IPv4, prefixes)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range updates {
			million = append(million, u.message)
		}
	}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: h.peer})
	conn := h.accept()
	awaitState(t, s, "tor1", bgp.Established)
	before := heap()
	go h.say(conn, million...)
	eventually(t, "the count to stop", func() string { return cmp.Diff(mostCounted, s.States()[0].Received[family.IPv4]) })
	if grown := heap() - before; grown > 10<<20 {
		t.Errorf("A million prefixes take %d bytes", grown)
	}
	if state := s.States()[0]; state.State != bgp.Established {
		t.Errorf("The state is %+v", state)
	}
}

// TestGarbage: a router that talks garbage ends its own session, each time, and that with another router goes on.
func TestGarbage(t *testing.T) {
	good, bad := newHostile(t), newHostile(t)
	good.peer.Name = "tor0"
	one, two := bgp.Session{Peer: good.peer}, bgp.Session{Peer: bad.peer}
	s := newSpeaker(t)
	set(t, s, one)
	good.accept()
	since := awaitState(t, s, "tor0", bgp.Established).Since
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, message := range append(hostileUpdates(), noise) {
		set(t, s, one) // the session takes longer and longer breaks from such a peer; a new declaration starts it at once
		set(t, s, one, two)
		bad.say(bad.accept(), message, noise)
		await(t, s, "tor1", "the end of the session", func(state bgp.SessionState) bool { return state.LastError != "" })
	}
	if state := awaitState(t, s, "tor0", bgp.Established); state.Since != since {
		t.Errorf("The good session was disturbed: %+v", state)
	}
}

// TestFloodIsPaced: a router that sends KEEPALIVEs as fast as it can is read no faster than mostMessages a second, and stays established.
func TestFloodIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conns := startFake(t, peerOfFakes(), nil)
		f := read(t, <-conns)
		f.establish(90, capabilities()...)
		start := time.Now()
		if _, err := f.conn.Write(bytes.Repeat(mustSerialize(packet.NewBGPKeepAliveMessage()), 4*mostMessages)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("%d messages were read in %v, want about 3s", 4*mostMessages, took)
		}
		if state := s.state(); state.State != bgp.Established {
			t.Errorf("The state is %+v", state)
		}
	})
}

// TestPanicIsCaught: GoBGP's decoder is the only code of others that sees what a peer has sent. Should it panic, that peer alone is refused.
func TestPanicIsCaught(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_, _ = theirs.Write(slices.Concat(mustSerialize(open(64513, 90)), mustSerialize(packet.NewBGPKeepAliveMessage())))
	}()
	r := newReader(ours, peerOfFakes(), nil)
	close(r.confirmed) // as good a panic as any: the first KEEPALIVE is told to a closed channel
	r.run()
	if l := <-r.ended; !strings.Contains(l.reason, "cannot be read") || l.code == 0 {
		t.Errorf("The connection ends with %+v", l)
	}
}
