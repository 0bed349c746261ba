// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/memberlist"

	"github.com/tandem-lb/tandem/speaker/connections"
)

// openTransport opens the transport of a speaker on IPv4, and a socket of another that sends to it.
func openTransport(tb testing.TB) (*transport, *net.UDPConn) {
	tb.Helper()
	t := openTransportOn(tb, netip.Addr{})
	return t, dialUDP(tb, t.told)
}

// openTransportOn opens the transport of a speaker on IPv4, and on another address too unless it is the zero Addr.
func openTransportOn(tb testing.TB, other netip.Addr) *transport {
	tb.Helper()
	t, err := listen(context.Background(), netip.AddrPortFrom(loopback(1), 7946), other)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Shutdown(); err != nil {
			tb.Error(err)
		}
	})
	return t
}

func dialUDP(tb testing.TB, to netip.AddrPort) *net.UDPConn {
	tb.Helper()
	from, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = from.Close() })
	return from
}

// Packets are kept by memberlist after the next has been read, and are as long as UDP allows. One without content is no packet of a speaker.
func TestPacketsAreKept(t *testing.T) {
	transport, from := openTransport(t)
	sent := [][]byte{[]byte("a first one"), bytes.Repeat([]byte("long"), 65507/4), {}, []byte("b")}
	for _, packet := range sent {
		if _, err := from.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	var received []*memberlist.Packet
	for range len(sent) - 1 {
		received = append(received, <-transport.PacketCh())
	}
	for i, want := range [][]byte{sent[0], sent[1], sent[3]} {
		if got := received[i]; !bytes.Equal(got.Buf, want) || cap(got.Buf) > 2*len(want)+64 {
			t.Errorf("packet %d has %d bytes in a buffer of %d, want the %d that were sent", i, len(got.Buf), cap(got.Buf), len(want))
		}
		if at := received[i].From.String(); at != from.LocalAddr().String() {
			t.Errorf("packet %d is from %s, want %s", i, at, from.LocalAddr())
		}
	}
}

// Shutdown ends what waits for memberlist to take a packet or a stream, and gives the ports back. It may be called again, as memberlist does
// after it failed to start.
func TestShutdownWithPacketsThatNobodyTakes(t *testing.T) {
	for range 2 {
		transport, from := openTransport(t)
		if _, err := from.Write([]byte("packet")); err != nil {
			t.Fatal(err)
		}
		stream, err := net.Dial("tcp", transport.told.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := transport.Shutdown(); err != nil {
			t.Error(err)
		}
		if _, err := stream.Read(make([]byte, 1)); err == nil {
			t.Error("a stream that nobody took is open")
		}
		_ = stream.Close()
		if err := transport.Shutdown(); err != nil {
			t.Errorf("the second time: %v", err)
		}
	}
}

// A socket that fails again and again, for want of file descriptors, say, is not read in a busy loop, and stops when it is to.
func TestASocketThatFails(t *testing.T) {
	s, err := openSocket(netip.AddrPortFrom(loopback(1), 7946))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*socketRetry)
		defer cancel()
		s.receive(ctx, nil)
		s.accept(ctx, &connections.Set{}, nil)
	})
}

// BenchmarkReceive compares what one packet of the size of a probe costs with memberlist's own transport: mind the bytes for each.
func BenchmarkReceive(b *testing.B) {
	receive := func(b *testing.B, packets <-chan *memberlist.Packet, from *net.UDPConn) {
		packet := make([]byte, 200)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := from.Write(packet); err != nil {
				b.Fatal(err)
			}
			<-packets
		}
	}
	b.Run("socket", func(b *testing.B) {
		transport, from := openTransport(b)
		receive(b, transport.PacketCh(), from)
	})
	b.Run("NetTransport", func(b *testing.B) {
		transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{loopback(1).String()}, BindPort: 7946, Logger: log.New(io.Discard, "", 0),
		})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = transport.Shutdown() }()
		receive(b, transport.PacketCh(), dialUDP(b, netip.AddrPortFrom(loopback(1), 7946)))
	})
}
