// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// patience bounds each wait for an event. No test depends on how soon one comes.
const patience = 20 * time.Second

// nodes are two hosts on a switch, each a namespace with a kernel's stack of its own:
//
//	node1 .11 02:…:0b ──┬── switch        198.51.100.0/24, 2001:db8:51::/64
//	node2 .12 02:…:0c ──┘
func nodes(t *testing.T) (lan *nettest.Switch, node1, node2 *nettest.Namespace) {
	t.Helper()
	lan = nettest.NewSwitch(t, "lan-switch")
	node1, node2 = nettest.New(t, "lan-node1"), nettest.New(t, "lan-node2")
	for mac, node := range map[neighbor.MAC]*nettest.Namespace{ownMAC: node1, peerMAC: node2} {
		lan.Plug(t, node, mac.String())
		node.IP(t, "addr add 198.51.100.%d/24 dev eth0", mac[5])
		node.IP(t, "addr add 2001:db8:51::%x/64 dev eth0 nodad", 0x11+mac[5]-0x0b)
		node.IP(t, "link set eth0 up")
	}
	lan.Await(t, node1, node2)
	return lan, node1, node2
}

// run runs a Prober in a node until the test ends.
func run(t *testing.T, node *nettest.Namespace) (p *Prober, eth0 net.Interface) {
	t.Helper()
	return runEvery(t, node, 20*time.Millisecond)
}

// runEvery runs a Prober with an interval in a node until the test ends.
func runEvery(t *testing.T, node *nettest.Namespace, interval time.Duration) (p *Prober, eth0 net.Interface) {
	t.Helper()
	p = New(interval, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := node.Go(t, func() error { return p.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		<-done
	})
	node.Do(t, func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			eth0 = *i
		}
		return err
	})
	return p, eth0
}

// wait waits until a target is in a state.
func (p *Prober) wait(t *testing.T, key Key, want State) {
	t.Helper()
	limit := time.After(patience)
	for p.States()[key] != want {
		select {
		case <-p.Changes():
		case <-limit:
			t.Fatalf("%v is %v, want %v", key, p.States()[key], want)
		}
	}
}

func TestKernelsAnswer(t *testing.T) {
	lan, node1, node2 := nodes(t)
	p, eth0 := run(t, node1)
	key := Key{"node2", "eth0"}
	for _, tt := range []struct {
		name  string
		pairs []Pair
	}{
		{"ARP", []Pair{{own4, peer4}}},
		{"neighbour solicitations", []Pair{{own6, peer6}}},
		{"both in turn", []Pair{{own4, peer4}, {own6, peer6}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.Set([]Target{{Key: key, Via: "eth0", MAC: peerMAC, Pairs: tt.pairs}}, []net.Interface{eth0})
			if got := p.States()[key]; got != Unknown {
				t.Errorf("a new target is %v", got)
			}
			p.wait(t, key, Answers)
			// The cable is pulled at the switch, which this end does not see.
			lan.SetPort(t, node2, "down")
			p.wait(t, key, Silent)
			lan.SetPort(t, node2, "up")
			p.wait(t, key, Answers)
		})
	}
	t.Run("an address that the other has given up is no death", func(t *testing.T) {
		node2.IP(t, "addr del 198.51.100.12/24 dev eth0")
		for range 2 * losses * 2 {
			<-time.After(p.interval)
		}
		if got := p.States()[key]; got != Answers {
			t.Errorf("it is %v, want answering", got)
		}
	})
	t.Run("no targets", func(t *testing.T) {
		p.Set(nil, []net.Interface{eth0})
		if got := p.States(); len(got) > 0 {
			t.Errorf("States of no targets: %v", got)
		}
	})
}

// A kernel answers each kind of question, and an answer to all stations can be told from the others.
func TestKernelsAnswerEachKind(t *testing.T) {
	_, node1, _ := nodes(t)
	p := New(time.Hour, nil)
	var eth0 net.Interface
	node1.Do(t, func() error {
		i, err := net.InterfaceByName("eth0")
		eth0 = *i
		return err
	})
	w := &watched{Target: Target{Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}, {own6, peer6}}}}
	node1.Do(t, func() error { p.links["eth0"] = p.open(klog.Background(), eth0, nil); return p.links["eth0"].failed })
	t.Cleanup(p.closeAll)
	for _, pair := range w.Pairs {
		for _, k := range []kind{toNeighbour, toGroup, echo} {
			conn := p.links["eth0"].conn(k, pair.Target)
			buffer, n := make([]byte, maxFrame), 0
			// A link that has just come up may lose the first frames.
			for limit := time.Now().Add(patience); n == 0 && time.Now().Before(limit); {
				if err := neighbor.Send(conn, question(k, ownMAC, peerMAC, pair, p.id)); err != nil {
					t.Fatal(err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				n, _, _ = conn.ReadFrom(buffer)
			}
			parse := map[*packet.Conn]func([]byte) (answer, bool){
				p.links["eth0"].arp:    parseARP,
				p.links["eth0"].echo:   func(f []byte) (answer, bool) { return parseEcho(f, p.id) },
				p.links["eth0"].icmpv6: func(f []byte) (answer, bool) { return parseICMPv6(f, p.id) },
			}[conn]
			if a, ok := parse(buffer[:n]); !ok || a != (answer{peerMAC, pair.Target, k}) {
				t.Errorf("the question about %v of kind %d is answered by %x, read as %v, %t", pair.Target, k, buffer[:n], a, ok)
			}
		}
	}
}

// A node whose MAC changes is not dead: it is looked for, and asked at its new MAC when that is declared.
func TestANodeThatChangesItsMAC(t *testing.T) {
	_, node1, node2 := nodes(t)
	p, eth0 := run(t, node1)
	key := Key{"node2", "eth0"}
	target := Target{Key: key, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}, {own6, peer6}}}
	p.Set([]Target{target}, []net.Interface{eth0})
	p.wait(t, key, Answers)
	node2.IP(t, "link set eth0 address 02:00:00:00:00:99")
	p.wait(t, key, Unknown)
	for range 20 * losses {
		<-time.After(p.interval)
		if got := p.States()[key]; got != Unknown {
			t.Fatalf("it is %v, want unknown", got)
		}
	}
	target.MAC = neighbor.MAC{2, 0, 0, 0, 0, 0x99}
	p.Set([]Target{target}, []net.Interface{eth0})
	p.wait(t, key, Answers)
}

// A node whose firewall drops echoes answers, and so does one of which a switch answers ARP while it is alive.
func TestEchoes(t *testing.T) {
	_, node1, node2 := nodes(t)
	p, eth0 := run(t, node1)
	key := Key{"node2", "eth0"}
	p.Set([]Target{{Key: key, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}}}, []net.Interface{eth0})
	p.wait(t, key, Answers)
	for range 3 * losses { // until an echo was answered
		<-time.After(p.interval)
	}
	node2.Exec(t, "sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1")
	p.wait(t, key, NoEcho)
	node2.Exec(t, "sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=0")
	p.wait(t, key, Answers)
}

// A gateway is asked for its MAC, and found silent while the host beside it is.
func TestAGateway(t *testing.T) {
	lan, node1, node2 := nodes(t)
	router := nettest.New(t, "lan-router")
	lan.Plug(t, router, "02:00:00:00:00:01")
	router.IP(t, "addr add 198.51.100.1/24 dev eth0")
	router.IP(t, "addr add fe80::1/64 dev eth0 nodad")
	router.IP(t, "link set eth0 up")
	p, eth0 := run(t, node1)
	host, gateway4, gateway6 := Key{"node2", "eth0"}, Key{"", "198.51.100.1"}, Key{"", "fe80::1%eth0"}
	p.Set([]Target{
		{Key: host, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}},
		{Key: gateway4, Via: "eth0", Pairs: []Pair{{own4, netip.MustParseAddr("198.51.100.1")}}},
		{Key: gateway6, Via: "eth0", Pairs: []Pair{{own6, netip.MustParseAddr("fe80::1%eth0")}}},
	}, []net.Interface{eth0})
	for _, key := range []Key{host, gateway4, gateway6} {
		p.wait(t, key, Answers)
	}
	lan.SetPort(t, router, "down")
	lan.SetPort(t, node2, "down")
	for _, key := range []Key{host, gateway4, gateway6} {
		p.wait(t, key, Silent)
	}
	// Another router has taken the address over.
	lan.SetPort(t, router, "up")
	router.IP(t, "link set eth0 address 02:00:00:00:00:02")
	for _, key := range []Key{gateway4, gateway6} {
		p.wait(t, key, Answers)
	}
}

// A host that is declared while a gateway rests, and nothing else is watched, is not asked first when the gateway is: that would be after 25 s here.
func TestAHostThatComesWhileAGatewayRests(t *testing.T) {
	_, node1, node2 := nodes(t)
	node2.IP(t, "addr add 198.51.100.1/24 dev eth0")
	p, eth0 := runEvery(t, node1, 400*time.Millisecond)
	host, gateway := Key{"node2", "eth0"}, Key{"", "198.51.100.1"}
	targets := []Target{
		{Key: gateway, Via: "eth0", Pairs: []Pair{{own4, netip.MustParseAddr("198.51.100.1")}}},
		{Key: host, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}},
	}
	p.Set(targets[:1], []net.Interface{eth0})
	p.wait(t, gateway, Answers)
	p.Set(targets, []net.Interface{eth0})
	p.wait(t, host, Answers)
}

// A machine that has the address of a node, with another MAC, is not that node.
func TestAnotherMachineWithTheAddressIsSilent(t *testing.T) {
	_, node1, node2 := nodes(t)
	p, eth0 := run(t, node1)
	key := Key{"node2", "eth0"}
	node2.IP(t, "link set eth0 down")
	node2.IP(t, "link set eth0 address 02:00:00:00:00:99")
	node2.IP(t, "link set eth0 up")
	p.Set([]Target{{Key: key, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}}}, []net.Interface{eth0})
	p.wait(t, key, Unanswered)
}

// While this node's own link is down, nobody is taken for silent; when it is up again, its sockets work.
func TestTheOwnLinkGoesDown(t *testing.T) {
	_, node1, _ := nodes(t)
	p, eth0 := run(t, node1)
	key := Key{"node2", "eth0"}
	p.Set([]Target{{Key: key, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}}}, []net.Interface{eth0})
	p.wait(t, key, Answers)
	node1.IP(t, "link set eth0 down")
	for range 4 * losses {
		<-time.After(p.interval)
	}
	if got := p.States()[key]; got != Answers {
		t.Errorf("it is %v, want answering: a question that cannot be sent is not lost", got)
	}
	node1.IP(t, "link set eth0 up")
	p.Set([]Target{{Key: Key{"node3", "eth0"}, Via: "eth0", MAC: peerMAC, Pairs: []Pair{{own4, peer4}}}}, []net.Interface{eth0})
	p.wait(t, Key{"node3", "eth0"}, Answers)
}

// A station that sends answers faster than they are read does not hold up the prober, which takes nothing for lost meanwhile.
func TestAFloodOfAnswers(t *testing.T) {
	_, node1, node2 := nodes(t)
	conns := map[*nettest.Namespace]*packet.Conn{}
	for _, node := range []*nettest.Namespace{node1, node2} {
		node.Do(t, func() error {
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			conns[node], err = neighbor.Listen(eth0, neighbor.TypeARP, arpFilter(eth0.Index))
			return err
		})
		t.Cleanup(func() { _ = conns[node].Close() })
	}
	flood := func() { // Two for each that is read, so that there is always one.
		for range 2 {
			if err := neighbor.Send(conns[node2], arpReply()); err != nil {
				t.Error(err)
			}
		}
	}
	for limit := time.Now().Add(patience); ; { // A link that has just come up may lose the first frames.
		read := 0
		flood()
		dropped, err := neighbor.Drain(conns[node1], make([]byte, maxFrame), func([]byte) {
			read++
			flood()
		})
		if err != nil {
			t.Fatal(err)
		}
		if dropped && read > losses {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("reading has ended after %d frames, dropped: %t", read, dropped)
		}
	}
}
