// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/test/lab"
)

// node1 is known by IPv4 alone, node2 by IPv6 alone, and node3 by both: it passes gossip on between the two. No address moves from node2, not
// even while node3's speaker restarts. How the death of such a node is found is tested in speaker/membership.
func TestAnIPv6OnlyNodeAmongOthers(t *testing.T) {
	ip4, ip6 := "198.51.100.11", "2001:db8:51::12"
	c := emptyCluster(t, lab.Config{
		Name: labName() + "mix", ExternalCloudProvider: true, NodeIPs: map[string]string{"node1": ip4, "node2": ip6},
	})
	if err := c.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, c)
	for node, want := range map[string]string{"node1": ip4, "node2": ip6} {
		s.until(t, patience, "the address of "+node, func(ctx context.Context) (bool, string) {
			var n corev1.Node
			if err := s.Client.Get(ctx, client.ObjectKey{Name: node}, &n); err != nil {
				return false, err.Error()
			}
			var got []string
			for _, a := range n.Status.Addresses {
				if a.Type == corev1.NodeInternalIP {
					got = append(got, a.Address)
				}
			}
			return cmp.Equal(got, []string{want}), fmt.Sprint(got)
		})
		// A speaker starts before its Node has an address. It starts once more, ten seconds later, if it has chosen one of the other family.
		s.until(t, patience, "the speaker of "+node+" to gossip at "+want, func(ctx context.Context) (bool, string) {
			out, err := s.Command(ctx, node, "ss", "-Hlun", "sport = :7573").CombinedOutput()
			return err == nil && strings.Contains(string(out), want), fmt.Sprintf("%s %v", out, err)
		})
	}
	for _, node := range s.Nodes() {
		s.nodeReady(t.Context(), t, node)
		s.peersReachable(t, node, metav1.ConditionTrue)
	}
	ips := s.heldBy(t, "node2")
	mac := s.oneAnswer(t, ips)
	stays := func(when string) {
		t.Helper()
		if again := s.oneAnswer(t, ips); again != mac {
			t.Errorf("%s the addresses are at %s, they were at %s", when, again, mac)
		}
		if holder := s.record(t).Status.Node; holder != "node2" {
			t.Errorf("%s %s is on record, want node2", when, holder)
		}
	}
	stays("after a while")
	s.kubectl(t, "delete", "pods", "-n", "tandem-system", "-l", "app.kubernetes.io/component=speaker", "--field-selector=spec.nodeName=node3")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		stays("while the speaker of node3 restarts")
	}
	start := time.Now()
	for _, node := range s.Nodes() {
		s.nodeReady(t.Context(), t, node)
		s.peersReachable(t, node, metav1.ConditionTrue)
		t.Logf("%s is ready and reaches all others %v after that", node, time.Since(start).Round(time.Millisecond))
	}
	stays("after that")
}
