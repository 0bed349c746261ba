// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// loopback returns the nth node's address. The whole of 127.0.0.0/8 is this host's.
func loopback(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 9, 46, n}) }

func join(t *testing.T, node string, bind netip.Addr, key string) (*Members, *prometheus.Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	registry := prometheus.NewRegistry()
	m, err := Join(ctx, Config{Node: node, Bind: bind, Port: 7946, Key: []byte(key), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-m.ended
	})
	return m, registry
}

// await reads changes until the snapshot is as wanted.
func await(t *testing.T, m *Members, what string, want func(Snapshot) bool) Snapshot {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		s := m.Alive()
		if want(s) {
			return s
		}
		select {
		case <-m.Changes():
		case <-limit:
			t.Fatalf("%s waited in vain for %s: %+v", m.node, what, s)
		}
	}
}

func awaitNodes(t *testing.T, m *Members, nodes ...string) Snapshot {
	t.Helper()
	return await(t, m, fmt.Sprint(nodes), func(s Snapshot) bool {
		return slices.Equal(slices.Sorted(maps.Keys(s.Nodes)), nodes)
	})
}

func TestConfig(t *testing.T) {
	good := Config{Node: "a", Bind: loopback(1), Port: 7946, Key: []byte("k")}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"complete", func(*Config) {}, ""},
		{"without a name", func(c *Config) { c.Node = "" }, "the node has no name"},
		{"without an address", func(c *Config) { c.Bind = netip.Addr{} }, "the bind address invalid IP is not a node's address"},
		{"on all addresses", func(c *Config) { c.Bind = netip.IPv6Unspecified() }, "the bind address :: is not a node's address"},
		{"with two addresses of one family", func(c *Config) { c.Other = loopback(2) }, "the other address 127.9.46.2 is not a node's address of the other family than that of 127.9.46.1"},
		{"on a group", func(c *Config) { c.Bind = netip.MustParseAddr("ff02::1") }, "the bind address ff02::1 is not a node's address"},
		{"on all IPv4 addresses in IPv6 notation", func(c *Config) { c.Bind = netip.MustParseAddr("::ffff:0.0.0.0") }, "the bind address ::ffff:0.0.0.0 is not a node's address"},
		{"without a port", func(c *Config) { c.Port = 0 }, "the port is 0"},
		{"without a key", func(c *Config) { c.Key = nil }, "the key is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := good
			test.change(&config)
			got := ""
			if err := config.validate(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("validate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSpeakersFindEachOther(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	if diff := cmp.Diff(Snapshot{Nodes: map[string]struct{}{"a": {}}}, a.Alive()); diff != "" {
		t.Errorf("Alive of the first speaker (-want +got):\n%s", diff)
	}
	b, _ := join(t, "b", loopback(2), "secret")
	c, registry := join(t, "c", loopback(3), "secret")
	// Only b is told of the others.
	b.SetPeers(map[string][]netip.Addr{"a": {loopback(1)}, "b": {loopback(2)}, "c": {loopback(3)}})
	for _, m := range []*Members{a, b, c} {
		s := awaitNodes(t, m, "a", "b", "c")
		if s.Alone || !s.Has("a") || s.Has("z") {
			t.Errorf("Alive of %s = %+v", m.node, s)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	if diff := cmp.Diff([]string{"tandem_membership_alive_speakers", "tandem_membership_rejected_messages_total"}, names); diff != "" {
		t.Errorf("Metrics differ (-want +got):\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("GatherAndLint = %v, %v", problems, err)
	}
}

func TestASpeakerThatLeaves(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	b, _ := join(t, "b", loopback(2), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}})
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, b, "a", "b")

	if err := b.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	if s := awaitNodes(t, a, "a"); s.Alone {
		t.Error("A speaker that left counts as lost")
	}
	if err := b.Leave(t.Context()); err == nil {
		t.Error("Leaving twice succeeds")
	}

	// It comes back with another address, and without peers.
	b, _ = join(t, "b", loopback(3), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(3)}})
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, b, "a", "b")
}

func TestMessagesReachTheOthers(t *testing.T) {
	heard := make(chan string, 10)
	var all []*Members
	for n, node := range []string{"a", "b", "c"} {
		m, err := Join(t.Context(), Config{
			Node: node, Bind: loopback(byte(n + 1)), Port: 7946, Key: []byte("secret"), Registerer: prometheus.NewRegistry(),
			OnMessage: func(message []byte) { heard <- node + " hears " + string(message) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Leave(context.Background()) })
		all = append(all, m)
	}
	all[0].SetPeers(map[string][]netip.Addr{"b": {loopback(2)}, "c": {loopback(3)}})
	awaitNodes(t, all[0], "a", "b", "c")
	all[0].SendAll([]byte("hello"))
	var got []string
	for limit := time.After(30 * time.Second); len(got) < 2; {
		select {
		case text := <-heard:
			got = append(got, text)
		case <-limit:
			t.Fatalf("heard %q", got)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"b hears hello", "c hears hello"}, got); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
}

func TestASpeakerThatDies(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	peers := map[string][]netip.Addr{"a": {loopback(1)}, "b": {loopback(2)}}
	a.SetPeers(peers)
	for _, bind := range []netip.Addr{loopback(2), loopback(2), loopback(3)} {
		peers["b"] = []netip.Addr{bind}
		a.SetPeers(peers)
		ctx, die := context.WithCancel(t.Context())
		b, err := Join(ctx, Config{Node: "b", Bind: bind, Port: 7946, Key: []byte("secret"), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		b.SetPeers(peers)
		awaitNodes(t, b, "a", "b")
		if s := awaitNodes(t, a, "a", "b"); s.Alone {
			t.Error("A speaker that sees another is alone")
		}
		die()
		<-b.ended
		if s := awaitNodes(t, a, "a"); !s.Alone {
			t.Error("A speaker that lost its only other is not alone")
		}
	}
	// A node that is deleted from the cluster was no loss.
	delete(peers, "b")
	a.SetPeers(peers)
	await(t, a, "not to be alone", func(s Snapshot) bool { return !s.Alone })
}

func TestDeathByGossipIsConfirmed(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	ctx, die := context.WithCancel(t.Context())
	b, err := Join(ctx, Config{Node: "b", Bind: loopback(2), Port: 7946, Key: []byte("secret"), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	join(t, "c", loopback(3), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}, "c": {loopback(3)}})
	awaitNodes(t, a, "a", "b", "c")
	gossip := func(node string, address netip.Addr) *memberlist.Node {
		return &memberlist.Node{Name: node, Addr: address.AsSlice(), Port: 7946}
	}
	isAsked := func(node string) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.confirmations[node] != nil
	}

	// Nothing answers for c at that address, so that c is gone. b, which is asked before, answers. Where the machine is so busy that b does not
	// answer in time, it is taken for dead, and both are found and asked anew.
	for limit := time.Now().Add(30 * time.Second); ; {
		events{a}.NotifyLeave(gossip("b", loopback(2)))
		events{a}.NotifyLeave(gossip("c", loopback(9)))
		await(t, a, "the death of c", func(s Snapshot) bool { return !s.Has("c") })
		askedB, askedC := isAsked("b"), isAsked("c")
		if s := a.Alive(); s.Has("b") {
			if !askedB || askedC {
				t.Errorf("being asked: b %v, c %v; want b, which answers, until gossip has it alive, and not c, which is gone", askedB, askedC)
			}
			break
		}
		if time.Now().After(limit) {
			t.Fatal("b answers, and is taken for dead")
		}
		events{a}.NotifyJoin(gossip("b", loopback(2)))
		events{a}.NotifyJoin(gossip("c", loopback(3)))
	}
	events{a}.NotifyJoin(gossip("b", loopback(2)))
	if s := a.Alive(); isAsked("b") || !s.Has("b") {
		t.Errorf("after b has refuted its death: being asked %v, alive %v", isAsked("b"), s.Nodes)
	}
	events{a}.NotifyLeave(gossip("b", loopback(2)))
	die()
	<-b.ended
	awaitNodes(t, a, "a")
	if isAsked("b") {
		t.Error("b is dead and still being asked")
	}
}

// The question whether b is alive, or the answer, may be lost: b is not dead before it was asked once more.
func TestDeathByGossipIsConfirmedTwice(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	join(t, "b", loopback(2), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}})
	awaitNodes(t, a, "a", "b")
	silent := net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback(9), 7946))
	conn, err := net.ListenUDP("udp", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	events{a}.NotifyLeave(&memberlist.Node{Name: "b", Addr: silent.IP, Port: 7946})
	awaitNodes(t, a, "a")
	const end = "end of what was sent before"
	if _, err := conn.WriteTo([]byte(end), silent); err != nil {
		t.Fatal(err)
	}
	questions := 0
	for packet := make([]byte, 1500); ; questions++ {
		if n, err := conn.Read(packet); err != nil {
			t.Fatal(err)
		} else if string(packet[:n]) == end {
			break
		}
	}
	if questions != 2 {
		t.Errorf("b was asked %d times before it was dead, want 2", questions)
	}
}

func TestASpeakerThatIsReplacedBeforeItsDeathIsNoticed(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	peers := map[string][]netip.Addr{"a": {loopback(1)}, "b": {loopback(2)}}
	a.SetPeers(peers)
	for range 5 {
		ctx, die := context.WithCancel(t.Context())
		b, err := Join(ctx, Config{Node: "b", Bind: loopback(2), Port: 7946, Key: []byte("secret"), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		b.SetPeers(peers)
		awaitNodes(t, b, "a", "b")
		awaitNodes(t, a, "a", "b")
		die()
		<-b.ended
	}
}

func TestAnotherKeyIsRejected(t *testing.T) {
	a, registry := join(t, "a", loopback(1), "secret")
	b, _ := join(t, "b", loopback(2), "secret")
	outsider, _ := join(t, "c", loopback(3), "another secret")
	all := map[string][]netip.Addr{"a": {loopback(1)}, "b": {loopback(2)}, "c": {loopback(3)}}
	outsider.SetPeers(all)
	a.SetPeers(all)
	awaitNodes(t, b, "a", "b")

	// A stream and a packet: a Join sends the one, a probe the other.
	address := netip.AddrPortFrom(loopback(1), 7946).String()
	if _, err := outsider.list.Join([]string{address}); err == nil {
		t.Error("An outsider's stream is answered")
	}
	if _, err := outsider.list.Ping("a", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address))); err == nil {
		t.Error("An outsider's probe is answered")
	}
	if got := rejectedBy(t, registry); got < 2 {
		t.Errorf("%v messages were counted as rejected, want both", got)
	}
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, outsider, "c")
}

// What memberlist logs, in its words.
func TestWhatMemberlistLogs(t *testing.T) {
	for _, tt := range []struct {
		line, level, text string
		rejected          bool
	}{
		{
			"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=192.0.2.66:7573\n",
			"ERR", "Decrypt packet failed: no installed keys could decrypt the message from=192.0.2.66:7573", true,
		},
		{
			"[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.66:40000\n",
			"ERR", "failed to receive: encryption is configured but remote state is not encrypted from=192.0.2.66:40000", true,
		},
		{"[DEBUG] memberlist: Failed UDP ping: node2 (timeout reached)\n", "DEBUG", "Failed UDP ping: node2 (timeout reached)", false},
		{"[ERR] Failed to shutdown transport: closed\n", "ERR", "Failed to shutdown transport: closed", false},
		{"Err: Could not set the deadline: closed\n", "INFO", "Err: Could not set the deadline: closed", false},
	} {
		rejected := newRejected()
		if n, err := newGossipLog(klog.Background(), rejected).Write([]byte(tt.line)); n != len(tt.line) || err != nil {
			t.Errorf("Write(%q) = %d, %v", tt.line, n, err)
		}
		if level, text := parseLine(strings.TrimSpace(tt.line)); level != tt.level || text != tt.text {
			t.Errorf("parseLine(%q) = %q, %q", tt.line, level, text)
		}
		if got := testutil.ToFloat64(rejected) == 1; got != tt.rejected {
			t.Errorf("%q is counted as rejected: %t, want %t", tt.line, got, tt.rejected)
		}
	}
}

func rejectedBy(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tandem_membership_rejected_messages_total" {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatal("No counter of rejected messages")
	return 0
}

// A host opens streams in one family or in both and says nothing. The oldest of them are closed, and memberlist, which is played here, need not do it.
func TestIdleStreamsAreBounded(t *testing.T) {
	one, both := []netip.Addr{loopback(1)}, []netip.Addr{loopback(1), netip.IPv6Loopback()}
	for name, addresses := range map[string][]netip.Addr{"one family": one, "both families": both} {
		t.Run(name, func(t *testing.T) { testIdleStreams(t, openTransportOn(t, netip.IPv6Loopback()), addresses) })
	}
}

// testIdleStreams opens more streams than a transport keeps, to each of some addresses in turn.
func testIdleStreams(t *testing.T, transport *transport, addresses []netip.Addr) {
	var streams []net.Conn
	for i := range maxStreams + 10 {
		stream, err := net.Dial("tcp", netip.AddrPortFrom(addresses[i%len(addresses)], 7946).String())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		streams = append(streams, stream)
		accepted := <-transport.StreamCh()
		defer accepted.Close()
	}
	for i, stream := range streams[:10] {
		if err := stream.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("stream %d: %v, want it to be closed", i, err)
		}
	}
	last := streams[len(streams)-1]
	if err := last.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the newest stream: %v, want it to be open", err)
	}
}

// Hosts that have no key send a lot by each stream, of which memberlist, which is played here, keeps up to 20 MiB. One of them has to go when it is too
// much.
func TestWhatStreamsAreSentIsBounded(t *testing.T) {
	transport, _ := openTransport(t)
	const count = 8
	streams := make([]net.Conn, count)
	received := make([]int64, count)
	var reading sync.WaitGroup
	for i := range count {
		host, err := net.Dial("tcp", transport.told.String())
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		go func() {
			_, _ = host.Write(make([]byte, maxStreamBytes/count*2)) // It fails if the stream is closed.
			_ = host.(*net.TCPConn).CloseWrite()
		}()
		streams[i] = <-transport.StreamCh()
		defer streams[i].Close()
		reading.Go(func() { received[i], _ = io.Copy(io.Discard, streams[i]) })
	}
	reading.Wait()
	total := int64(0)
	for i, stream := range streams {
		if isOpen := stream.SetDeadline(time.Time{}) == nil; isOpen {
			total += received[i]
		}
	}
	if total == 0 || total > maxStreamBytes {
		t.Errorf("The streams that are open were sent %d bytes, want some, and %d at most", total, maxStreamBytes)
	}
}

// The kernel keeps little of a stream that is not read.
func TestStreamsHaveSmallBuffers(t *testing.T) {
	s, err := openSocket(netip.AddrPortFrom(loopback(1), 7946))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	host, err := net.Dial("tcp", s.tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	stream, err := s.tcp.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	raw, err := stream.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		// The kernel doubles what it is asked for (socket(7)).
		if size, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || size != 2*streamBuffer {
			t.Errorf("the kernel keeps %d bytes of a stream, %v, want twice %d", size, err, streamBuffer)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// A lost node is asked how it answers, and of many only some at a time.
func TestFewLostNodesAreAskedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := newMembers(ctx, Config{Node: "a"})
		var asked atomic.Int32
		answered := make(chan struct{})
		m.answers = func(context.Context, netip.AddrPort) answer {
			asked.Add(1)
			<-answered
			return answersNot
		}
		const lost = 2 * maxExplanations
		since := time.Now()
		m.snapshot.Lost = map[string]time.Time{}
		for i := range lost {
			node := fmt.Sprint("node", i)
			m.snapshot.Lost[node] = since
			go m.explain(node, since, netip.AddrPort{})
		}
		synctest.Wait()
		if got := asked.Load(); got != maxExplanations {
			t.Errorf("%d nodes are asked at a time, want %d", got, maxExplanations)
		}
		close(answered)
		synctest.Wait()
		if got := len(m.Alive().CutOff); got != lost {
			t.Errorf("%d of %d lost nodes are cut off", got, lost)
		}
		cancel()
	})
}

// However many rounds there are, few peers are dialled at a time.
func TestFewPeersAreDialledAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(t.Context(), Config{Node: "a"})
		m.transport = &transport{families: map[family.Family]*socket{family.IPv4: {}}}
		m.peers = map[string][]netip.Addr{}
		for i := range 2 * maxDials {
			m.peers[fmt.Sprint("node", i)] = []netip.Addr{loopback(byte(i))}
		}
		var dialled atomic.Int32
		ended := make(chan struct{})
		m.dial = func(netip.AddrPort) {
			dialled.Add(1)
			<-ended
		}
		for range 2 * maxDials {
			m.dialAbsent()
		}
		synctest.Wait()
		if got := dialled.Load(); got != int32(maxDials) {
			t.Errorf("%d peers are dialled at a time, want %d", got, maxDials)
		}
		close(ended)
		synctest.Wait()
		m.dialAbsent()
		synctest.Wait()
		if got := dialled.Load(); got != int32(maxDials+redialFanout) {
			t.Errorf("%d peers were dialled in the next round, want %d", got-int32(maxDials), redialFanout)
		}
	})
}

// memberlist hears of a death while it is being created: the node is asked when it has been.
func TestADeathIsHeardOfWhileASpeakerStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(t.Context(), Config{Node: "a"})
		m.arrived("b", netip.AddrPort{})
		m.confirmDead("b", netip.AddrPort{})
		synctest.Wait()
		if !m.Alive().Has("b") {
			t.Error("b is dead, and has not been asked")
		}
		close(m.ended)
	})
}

// TestOnALAN lets processes die, lose their link and leave, in each family alone.
func TestOnALAN(t *testing.T) {
	for _, prefix := range []netip.Prefix{v4, v6} {
		t.Run(prefix.String(), func(t *testing.T) {
			l := newLab(t, 4, prefix)
			for _, name := range l.names {
				l.start(name)
			}
			l.awaitAll()

			dead := l.names[0]
			isGone := func(v view) bool { return !slices.Contains(v.Nodes, dead) }
			l.kill(dead, syscall.SIGKILL)
			l.await("its death", l.without(dead), isGone)
			l.start(dead)
			l.awaitAll()

			cut := l.names[1:3]
			for _, name := range cut {
				l.link(name, "down")
			}
			rest := []string{l.names[0], l.names[3]}
			l.await("the rest", rest, func(v view) bool { return slices.Equal(v.Nodes, rest) && !v.Alone })
			l.await("that they are alone", cut, func(v view) bool { return v.Alone })
			healed := len(l.history)
			for _, name := range cut {
				l.link(name, "up")
			}
			l.awaitAll()
			for _, v := range l.history[healed:] {
				if slices.Contains(rest, v.Node) && (!slices.Contains(v.Nodes, rest[0]) || !slices.Contains(v.Nodes, rest[1])) {
					t.Errorf("Nodes that came back made %s believe that only %v are alive", v.Node, v.Nodes)
				}
			}

			l.kill(dead, syscall.SIGTERM)
			l.await("that it left", l.without(dead), isGone)
		})
	}
}

// Peers are declared with every decision. Only new ones are dialled before the next round.
func TestDeclaringTheSamePeersAgain(t *testing.T) {
	dead, err := net.Listen("tcp", netip.AddrPortFrom(loopback(99), 7946).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dead.Close() })
	var dials atomic.Int32
	go func() {
		for {
			conn, err := dead.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			_ = conn.Close()
		}
	}()
	m, _ := join(t, "node1", loopback(1), "key")
	start := time.Now()
	for range 100 {
		m.SetPeers(map[string][]netip.Addr{"node2": {loopback(99)}})
		time.Sleep(10 * time.Millisecond) // in which a dial outside of the rounds would be counted
	}
	elapsed := time.Since(start)
	if got, most := dials.Load(), int32(elapsed/redialInterval)+3; got > most {
		t.Errorf("dialled %d times in %v, want %d at most", got, elapsed, most)
	}
}

// A node boots: its IPv6 address is tentative while its speaker starts, be it the first or the second.
func TestAnAddressIsTentative(t *testing.T) {
	tentative := netip.MustParseAddr("2001:db8:51::11")
	for _, tt := range []struct {
		name        string
		bind, other netip.Addr
	}{
		{"the first", tentative, loopback(1)},
		{"the second", loopback(1), tentative},
		{"the only one", tentative, netip.Addr{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nettest.Run(t, "ip", "link", "add", "dad0", "type", "veth", "peer", "name", "dad1")
			t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", "dad0") })
			nettest.Run(t, "ip", "link", "set", "dad1", "up")
			nettest.Run(t, "ip", "link", "set", "dad0", "up")
			nettest.Run(t, "ip", "addr", "add", tentative.String()+"/64", "dev", "dad0")
			ctx, cancel := context.WithCancel(t.Context())
			m, err := Join(ctx, Config{
				Node: "a", Bind: tt.bind, Other: tt.other, Port: 7946, Key: []byte("secret"), Registerer: prometheus.NewRegistry(),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cancel(); <-m.ended })
			if m.transport.families[family.IPv6] == nil {
				t.Errorf("the speaker is not reached at %s", tentative)
			}
		})
	}
}
