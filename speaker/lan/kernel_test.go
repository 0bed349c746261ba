// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"net"
	"testing"
	"time"

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
	return lan, node1, node2
}

// run runs a Prober in a node until the test ends.
func run(t *testing.T, node *nettest.Namespace) (p *Prober, eth0 net.Interface) {
	t.Helper()
	p = New(20*time.Millisecond, nil)
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
