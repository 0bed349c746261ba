// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
)

// TestNodesOfBothFamilies: nodes with one family each see each other by way of those that have both, also while one of these dies.
func TestNodesOfBothFamilies(t *testing.T) {
	on := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	l := newLabOf(t, [][]netip.Prefix{
		on("10.9.0.1/24"), on("fd00::2/64"), on("10.9.0.3/24", "fd00::3/64"), on("10.9.0.4/24"), on("10.9.0.5/24", "fd00::5/64"),
	})
	for _, name := range l.names {
		l.start(name)
	}
	l.awaitAll()
	begun := len(l.history)
	for _, dead := range []string{"node0", "node1", "node2"} { // one of each kind
		isGone := func(v view) bool { return !slices.Contains(v.Nodes, dead) }
		l.kill(dead, syscall.SIGKILL)
		l.await("its death", l.without(dead), isGone)
		l.start(dead)
		l.awaitAll()
		for _, v := range l.history[begun:] {
			for _, node := range l.without(dead) {
				if v.Node != dead && !slices.Contains(v.Nodes, node) {
					t.Errorf("when %s died, %s lost %s: it sees %v", dead, v.Node, node, v.Nodes)
				}
			}
			if slices.Contains(v.CutOff, dead) && v.Node != dead {
				t.Errorf("%s says that %s is cut off, whose kernel refuses connections or has no address of its family", v.Node, dead)
			}
		}
		begun = len(l.history)
	}
}
