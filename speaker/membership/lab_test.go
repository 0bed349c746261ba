// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// A lab is a LAN of nodes, each a network namespace on a switch. On each runs a speaker's membership as a process: this test binary,
// started anew, which memberMain takes over.
//
//	node0 fd00::1 ──┬── switch ──┬── node2 fd00::3
//	node1 fd00::2 ──┘            └── …                  or 10.9.0.1 …
type lab struct {
	t     testing.TB
	lan   *nettest.Switch
	names []string
	peers map[string][]netip.Addr
	nodes map[string]*labNode
	views chan view
	// history has all views that await has read, in the order in which they were.
	history []view
}

type labNode struct {
	namespace *nettest.Namespace
	process   *exec.Cmd
	started   time.Time
	last      view // reported since then
}

// A view is what one member reports with each change.
type view struct {
	Node  string
	Time  time.Time
	Nodes []string
	// Lost, CutOff and Filtered are what a Snapshot has under these names.
	Lost, CutOff, Filtered []string
	Alone                  bool
}

const memberEnv = "TANDEM_TEST_MEMBER"

type memberConfig struct {
	Node  string
	Port  uint16
	Peers map[string][]netip.Addr
}

func TestMain(m *testing.M) {
	if config := os.Getenv(memberEnv); config != "" {
		if config == "burn" {
			for { //nolint:staticcheck // to keep a processor busy is what it is for
			}
		}
		if err := memberMain(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(nettest.Main(m, nil))
}

// memberMain is a member until SIGTERM, upon which it leaves. It writes its views to standard output.
func memberMain(encoded string) error {
	var config memberConfig
	if err := json.Unmarshal([]byte(encoded), &config); err != nil {
		return err
	}
	terminated, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	own := Config{
		Node: config.Node, Bind: config.Peers[config.Node][0], Port: config.Port, Key: []byte("secret"), Registerer: prometheus.NewRegistry(),
	}
	if addresses := config.Peers[config.Node]; len(addresses) > 1 {
		own.Other = addresses[1]
	}
	members, err := Join(context.Background(), own)
	if err != nil {
		return err
	}
	members.SetPeers(config.Peers)
	out := json.NewEncoder(os.Stdout)
	for {
		alive := members.Alive()
		v := view{
			Node: config.Node, Time: time.Now(), Nodes: slices.Sorted(maps.Keys(alive.Nodes)), Alone: alive.Alone,
			Lost: slices.Sorted(maps.Keys(alive.Lost)), CutOff: slices.Sorted(maps.Keys(alive.CutOff)),
			Filtered: slices.Sorted(maps.Keys(alive.Filtered)),
		}
		if err := out.Encode(v); err != nil {
			return err
		}
		select {
		case <-members.Changes():
		case <-terminated.Done():
			return members.Leave(context.Background())
		}
	}
}

// newLab builds a LAN whose nodes have one address each, from the prefix.
func newLab(t testing.TB, nodes int, prefix netip.Prefix) *lab {
	var all [][]netip.Prefix
	for address := prefix.Addr().Next(); len(all) < nodes; address = address.Next() {
		all = append(all, []netip.Prefix{netip.PrefixFrom(address, prefix.Bits())})
	}
	return newLabOf(t, all)
}

// newLabOf builds a LAN of nodes with these addresses, and takes it down when the test ends.
func newLabOf(t testing.TB, nodes [][]netip.Prefix) *lab {
	l := &lab{
		t: t, lan: nettest.NewSwitch(t, "membership-switch"),
		peers: map[string][]netip.Addr{}, nodes: map[string]*labNode{}, views: make(chan view, 1024),
	}
	for i, addresses := range nodes {
		name := fmt.Sprint("node", i)
		n := nettest.New(t, "membership-"+name)
		l.lan.Plug(t, n, "")
		for _, address := range addresses {
			nodad := ""
			if address.Addr().Is6() {
				nodad = "nodad"
			}
			n.IP(t, "address add %s dev eth0 %s", address, nodad)
			l.peers[name] = append(l.peers[name], address.Addr())
		}
		n.IP(t, "link set lo up")
		n.IP(t, "link set eth0 up")
		l.names = append(l.names, name)
		l.nodes[name] = &labNode{namespace: n}
	}
	return l
}

// start runs the node's member. The test's end kills it.
func (l *lab) start(name string) {
	l.t.Helper()
	config, err := json.Marshal(memberConfig{Node: name, Port: 7946, Peers: l.peers})
	if err != nil {
		l.t.Fatal(err)
	}
	n := l.nodes[name]
	n.process = n.namespace.Command(os.Args[0])
	n.process.Env = append(os.Environ(), memberEnv+"="+string(config))
	n.process.Stderr = os.Stderr
	out, err := n.process.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := n.process.Start(); err != nil {
		l.t.Fatal(err)
	}
	n.started, n.last = time.Now(), view{}
	process := n.process
	var read sync.WaitGroup
	read.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var v view
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				l.t.Errorf("Member %s wrote %q: %v", name, lines.Text(), err)
				return
			}
			l.views <- v
		}
	})
	l.t.Cleanup(func() {
		_ = process.Process.Kill()
		read.Wait()
		_ = process.Wait()
	})
}

func (l *lab) kill(name string, sig syscall.Signal) {
	l.t.Helper()
	if err := l.nodes[name].process.Process.Signal(sig); err != nil {
		l.t.Fatal(err)
	}
}

// link sets the switch's port of a node up or down.
func (l *lab) link(name, state string) {
	l.t.Helper()
	l.lan.SetPort(l.t, l.nodes[name].namespace, state)
}

// await reads views until each of the viewers sees what is wanted, and returns when each came to see it.
func (l *lab) await(what string, viewers []string, want func(view) bool) map[string]time.Time {
	l.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		seen := map[string]time.Time{}
		for _, name := range viewers {
			if v := l.nodes[name].last; v.Node != "" && want(v) {
				seen[name] = v.Time
			}
		}
		if len(seen) == len(viewers) {
			return seen
		}
		select {
		case v := <-l.views:
			l.history = append(l.history, v)
			if n := l.nodes[v.Node]; v.Time.After(n.started) {
				n.last = v
			}
		case <-limit:
			for _, name := range viewers {
				l.t.Logf("%+v", l.nodes[name].last)
			}
			l.t.Fatalf("Waited in vain until %v saw %s", viewers, what)
		}
	}
}

func (l *lab) without(name string) []string {
	return slices.DeleteFunc(slices.Clone(l.names), func(n string) bool { return n == name })
}

// awaitAll waits until every member sees every other.
func (l *lab) awaitAll() map[string]time.Time {
	l.t.Helper()
	return l.await("all of them", l.names, func(v view) bool { return slices.Equal(v.Nodes, slices.Sorted(slices.Values(l.names))) })
}
