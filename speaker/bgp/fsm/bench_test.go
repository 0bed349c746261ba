// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// manyRoutes returns n host routes of each family.
func manyRoutes(n int, hop4, hop6 netip.Addr) (routes []bgp.Route) {
	for _, f := range family.All {
		for _, prefix := range manyPrefixes(f, n) {
			hop := hop4
			if f == family.IPv6 {
				hop = hop6
			}
			routes = append(routes, bgp.Route{Prefix: prefix, NextHop: hop})
		}
	}
	return routes
}

// routers is a listener on loopback whose connections all become sessions. Each is given to serve, which ends it.
func routersOnLoopback(b *testing.B, serve func(net.Conn)) netip.AddrPort {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	hello := slices.Concat(mustSerialize(open(64513, 90, capabilities()...)), mustSerialize(packet.NewBGPKeepAliveMessage()))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Write(hello); err == nil {
					serve(conn)
				}
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// benchSessions returns sessions with one listener, which tells them apart by our addresses.
func benchSessions(n int, router netip.AddrPort, routes []bgp.Route) (sessions []bgp.Session) {
	for i := range n {
		p := peerOfFakes()
		p.Name, p.Address, p.Port = fmt.Sprintf("tor%d", i), router.Addr(), router.Port()
		p.SourceAddress = netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
		sessions = append(sessions, bgp.Session{Peer: p, Routes: routes})
	}
	return sessions
}

func established(s *Speaker) (n int) {
	for _, state := range s.States() {
		if state.State == bgp.Established {
			n++
		}
	}
	return n
}

// BenchmarkPeer measures the memory of a session with 20 routes.
func BenchmarkPeer(b *testing.B) {
	const peers = 32
	router := routersOnLoopback(b, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	routes := manyRoutes(10, netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11"))
	for b.Loop() {
		before := heap()
		s := New(Config{Logger: discard})
		if err := s.Set(b.Context(), benchSessions(peers, router, routes)); err != nil {
			b.Fatal(err)
		}
		for established(s) < peers {
			<-s.Changes()
		}
		b.ReportMetric(float64(heap()-before)/peers/1024, "KiB/peer")
		s.Close(b.Context(), bgp.Withdraw)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkReceived measures what it costs that four routers send 100,000 routes each: processor time of the process, in which the routers'
// part is nothing but to write what was made before, and memory that stays.
func BenchmarkReceived(b *testing.B) {
	const peers, prefixes = 4, 100_000
	var table []byte
	updates, err := announcements(peerOfFakes(), true, attributes{nextHop: netip.MustParseAddr("192.0.2.1")}, family.IPv4,
		manyPrefixes(family.IPv4, prefixes))
	if err != nil {
		b.Fatal(err)
	}
	for _, u := range updates {
		table = append(table, u.message...)
	}
	router := routersOnLoopback(b, func(conn net.Conn) {
		_, _ = conn.Write(table) // the benchmark notices if it fails
		_, _ = io.Copy(io.Discard, conn)
	})
	for b.Loop() {
		before, began := heap(), processorTime()
		s := New(Config{Logger: discard})
		if err := s.Set(b.Context(), benchSessions(peers, router, nil)); err != nil {
			b.Fatal(err)
		}
		for received := 0; received < peers*prefixes; {
			received = 0
			for _, state := range s.States() {
				received += state.Received[family.IPv4]
			}
			time.Sleep(time.Millisecond)
		}
		b.ReportMetric(float64(processorTime()-began)/1e6, "cpu-ms")
		b.ReportMetric(float64(heap()-before)/1024, "KiB")
		s.Close(b.Context(), bgp.Withdraw)
	}
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkOneOfMany declares 20,000 routes of which one has changed, as each event of a large cluster does.
func BenchmarkOneOfMany(b *testing.B) {
	s := newSession(Config{Logger: discard}, peerOfFakes(), func() {})
	routes := manyRoutes(10_000, netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11"))
	communities := []bgp.Community{{A: 64512, B: 1}, {Large: true, A: 64512, B: 1, C: 2}}
	for i := range routes {
		routes[i].Communities = communities
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		routes[0].MED = new(uint32(i))
		if err := s.setRoutes(routes); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoutesToKernel has FRR put 10,000 IPv4 and 10,000 IPv6 routes into its kernel, from ours and from BIRD's session one after the other,
// and prints the time from the session to the last route, and the ratio of the two.
func BenchmarkRoutesToKernel(b *testing.B) {
	const each = 10_000
	for b.Loop() {
		ours := func(r *frr) func() {
			s := New(Config{Logger: discard})
			peer := r.peer()
			peer.Defaults()
			if err := s.Set(b.Context(), []bgp.Session{{Peer: peer, Routes: manyRoutes(each, r.speaker4, r.speaker6)}}); err != nil {
				b.Fatal(err)
			}
			return func() { s.Close(context.Background(), bgp.Withdraw) }
		}
		took := timeToKernel(b, 2*each, ours)
		birds := timeToKernel(b, 2*each, func(r *frr) func() { return startBIRD(b, r, each) })
		b.ReportMetric(took.Seconds()*1000, "ms")
		b.ReportMetric(birds.Seconds()*1000, "bird-ms")
		b.ReportMetric(took.Seconds()/birds.Seconds(), "ratio")
	}
}

// timeToKernel returns how long it takes from the session to so many routes in the router's kernel.
func timeToKernel(b *testing.B, want int, start func(*frr) (stop func())) time.Duration {
	b.Helper()
	r := newRouter(b, bothFamilies)
	stop := start(r)
	defer stop()
	for r.neighbor(r.speaker4).BGPState != "Established" {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	for deadline := began.Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		for _, family := range []string{"-4", "-6"} {
			n += strings.Count(nettest.Run(b, "ip", "-n", r.ns, family, "route", "show", "proto", "bgp"), "via ")
		}
		if n >= want {
			return time.Since(began)
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d routes", n, want)
		}
	}
}

// startBIRD runs BIRD with static routes in the namespace of the tests, as the peer of a router.
func startBIRD(b *testing.B, r *frr, each int) (stop func()) {
	b.Helper()
	dir := b.TempDir()
	config, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	var text strings.Builder
	text.WriteString(r.expand(`
router id 192.0.2.254;
protocol device {}
protocol bgp tor {
  local $S4 as 64512;
  neighbor $R4 as 64513;
  ipv4 { import none; export all; next hop self; };
  ipv6 { import none; export all; next hop address $S6; };
}
`))
	for _, f := range family.All {
		fmt.Fprintf(&text, "protocol static { %s;\n", strings.ToLower(string(f)))
		for _, prefix := range manyPrefixes(f, each) {
			fmt.Fprintf(&text, " route %v blackhole;\n", prefix)
		}
		text.WriteString("}\n")
	}
	if err := os.WriteFile(config, []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	nettest.Run(b, "bird", "-c", config, "-s", control)
	return func() { nettest.Run(b, "birdc", "-s", control, "down") }
}
