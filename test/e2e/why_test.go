// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/test/lab"
)

// aFault is one that a test makes on the lab, where node1 holds the addresses of web, and undoes by heal; and what `kubectl tandem why` is to say of
// it: the hop that is at fault, and a part of the text.
type aFault struct {
	name      string
	make      func(t *testing.T, s *stage, ips []string) (heal func())
	hop, text string
}

// networkFaults are those that no object of the API shows at once: a probe finds them.
var networkFaults = []aFault{
	{"filtered ARP", func(t *testing.T, s *stage, ips []string) func() {
		cmd := s.Command(t.Context(), theSwitch, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader("table bridge tandem-why {\n chain forward {\n type filter hook forward priority 0\n arp daddr ip " + ips[0] + " drop\n }\n}\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft on the switch: %v: %s", err, out)
		}
		return func() {
			_ = s.Command(context.Background(), theSwitch, "nft", "delete", "table", "bridge", "tandem-why").Run()
		}
	}, "neighbour", "nobody answers node2 and node3"},
	{"two answers on the LAN", func(t *testing.T, s *stage, ips []string) func() {
		s.run(t, lab.Client, "ip addr add "+ips[0]+"/32 dev eth0")
		return func() {
			_ = s.Command(context.Background(), lab.Client, "ip", "addr", "del", ips[0]+"/32", "dev", "eth0").Run()
		}
	}, "neighbour", "several machines answer"},
	{"a firewall on the node", func(t *testing.T, s *stage, ips []string) func() {
		return s.drops(t, "node1", "chain pre { type filter hook prerouting priority -350; iifname eth0 ip daddr "+ips[0]+" drop; }")
	}, "TCP", "though the node forwards what it sends itself"},
}

// apiFaults are those that the objects of the API show.
var apiFaults = []aFault{
	{
		"no advertisement of the pool", patched(`patch l2advertisement $NS --type=merge -p {"spec":{"addressPools":["nobody"]}}`,
			`patch l2advertisement $NS --type=merge -p {"spec":{"addressPools":["$NS"]}}`),
		"advertisement", "no advertisement selects pool",
	},
	{
		"serviceSelectors", patched(`patch l2advertisement $NS --type=merge -p {"spec":{"serviceSelectors":[{"matchLabels":{"app":"db"}}]}}`,
			`patch l2advertisement $NS --type=merge -p {"spec":{"serviceSelectors":null}}`),
		"advertisement", "serviceSelectors",
	},
	{
		"excluded nodes", patched("label nodes node1 node2 node3 node.kubernetes.io/exclude-from-external-load-balancers=",
			"label nodes node1 node2 node3 node.kubernetes.io/exclude-from-external-load-balancers-"),
		"holder", "excluded",
	},
	{
		"no endpoint", patched(`-n $NS patch service web --type=merge -p {"spec":{"selector":{"app":"nobody"}}}`,
			`-n $NS patch service web --type=merge -p {"spec":{"selector":{"app":"web"}}}`),
		"endpoint", "no ready",
	},
}

// patched changes something by kubectl, and undoes it in the same way. No argument has a space in it.
func patched(change, undo string) func(t *testing.T, s *stage, ips []string) func() {
	return func(t *testing.T, s *stage, _ []string) func() {
		t.Helper()
		fill := func(text string) []string { return strings.Fields(strings.ReplaceAll(text, "$NS", s.ns)) }
		s.kubectl(t, fill(change)...)
		return func() { s.kubectlAfter(t, fill(undo)...) }
	}
}

// TestWhyNamesTheHop makes one fault after another, and heals each before the next: why --probe finds none while all is well, and names the
// hop of each.
func TestWhyNamesTheHop(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	s.whySays(t, 0, "✓   neighbour", "node2 and node3 hear node1", "✓   kube-proxy", "✓   TCP")
	for _, fault := range slices.Concat(apiFaults, networkFaults) {
		t.Run(fault.name, func(t *testing.T) {
			heal := fault.make(t, s, ips)
			t.Cleanup(heal)
			s.whySays(t, 1, "✗   "+fault.hop, fault.text)
		})
		s.whySays(t, 0)
	}
}

// whySays waits until why --probe exits with a code and prints all texts.
func (s *stage) whySays(t *testing.T, code int, texts ...string) {
	t.Helper()
	s.until(t, 2*patience, fmt.Sprintf("why to exit with %d and to print %q", code, texts), func(context.Context) (bool, string) {
		out, got := s.plugin(t, "why", "service/web", "-n", s.ns, "--probe")
		ok := got == code
		for _, text := range texts {
			ok = ok && strings.Contains(out, text)
		}
		return ok, fmt.Sprintf("it exits with %d:\n%s", got, out)
	})
}
