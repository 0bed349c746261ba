// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
)

// A firewall closes the port of gossip on one node: that is neither a crash nor a cut.
func TestAFirewallIsToldFromACut(t *testing.T) {
	l := newLab(t, 3, netip.MustParsePrefix("10.9.0.0/24"))
	for _, name := range l.names {
		l.start(name)
	}
	l.awaitAll()
	n := l.nodes["node1"].namespace
	n.Exec(t, "nft", "add table inet filter")
	for _, hook := range []string{"input", "output"} {
		n.Exec(t, "nft", "add chain inet filter "+hook+" { type filter hook "+hook+" priority 0; }")
		n.Exec(t, "nft", "add rule inet filter "+hook+" meta l4proto { tcp, udp } th dport 7946 drop")
	}
	l.await("node1 filtered", []string{"node0", "node2"}, func(v view) bool { return slices.Equal(v.Filtered, []string{"node1"}) })
	l.await("all others filtered", []string{"node1"}, func(v view) bool { return slices.Equal(v.Filtered, []string{"node0", "node2"}) })
	n.Exec(t, "nft", "delete table inet filter")
	l.awaitAll()
	for _, v := range l.history {
		if len(v.CutOff) > 0 || len(v.Nodes) == 3 && len(v.Filtered) > 0 {
			t.Errorf("nobody is cut off, and nobody is filtered who is alive: %+v", v)
		}
	}
}

// Of three members one crashes, and one loses its link. Both are lost, and only the second is cut off.
func TestACrashIsToldFromACut(t *testing.T) {
	l := newLab(t, 3, netip.MustParsePrefix("10.9.0.0/24"))
	for _, name := range l.names {
		l.start(name)
	}
	l.awaitAll()
	l.kill("node1", syscall.SIGKILL)
	l.await("node1 lost", []string{"node0", "node2"}, func(v view) bool { return slices.Equal(v.Lost, []string{"node1"}) })
	l.link("node2", "down")
	l.await("node2 cut off", []string{"node0"}, func(v view) bool { return slices.Equal(v.CutOff, []string{"node2"}) })
	l.link("node2", "up")
	l.start("node1")
	l.awaitAll()
	for _, v := range l.history {
		if slices.Contains(v.CutOff, "node1") && v.Node == "node0" {
			t.Errorf("node0 took node1, whose kernel refuses connections, for cut off: %+v", v)
		}
		if v.Node == "node0" && len(v.Nodes) == 3 && len(v.CutOff) > 0 {
			t.Errorf("all are back, and some are cut off: %+v", v)
		}
	}
}
