// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// becomes waits until a node is on record for the Service web.
func (s *stage) becomes(t *testing.T, node string) {
	t.Helper()
	s.until(t, patience, node+" to be on record", func(context.Context) (bool, string) {
		now := s.record(t).Status.Node
		return now == node, now + " is"
	})
}

// markNode merges a text into the metadata of a Node, and undoes that by another when the test ends.
func (s *stage) markNode(t *testing.T, name, text, undo string) {
	t.Helper()
	node := &corev1.Node{}
	node.Name = name
	s.patch(t, node, text)
	t.Cleanup(func() {
		if err := s.Patch(context.Background(), node, client.RawPatch("application/merge-patch+json", []byte(undo))); err != nil {
			t.Error(err)
		}
	})
}

// exclude labels a Node as one that announces nothing, until the test ends.
func (s *stage) exclude(t *testing.T, name string) {
	t.Helper()
	label := corev1.LabelNodeExcludeBalancers
	s.markNode(t, name, `{metadata: {labels: {`+label+`: ""}}}`, `{"metadata":{"labels":{"`+label+`":null}}}`)
}

// drainNode drains a Node by its annotation until the test ends.
func (s *stage) drainNode(t *testing.T, name string) {
	t.Helper()
	annotation := ipamv1alpha1.AnnotationDrain
	s.markNode(t, name, `{metadata: {annotations: {`+annotation+`: "true"}}}`, `{"metadata":{"annotations":{"`+annotation+`":null}}}`)
}

// While a client asks 50 times a second, the addresses move between live nodes. A request that is under way when the client learns the new MAC
// ends, since the NAT of kube-proxy that it went through is the old node's: one for each address and move at most. No other fails.
func TestAHandoverFailsNoRequest(t *testing.T) {
	for _, row := range []struct {
		name string
		move func(t *testing.T, s *stage)
	}{
		{"the holder is excluded by its label", func(t *testing.T, s *stage) { s.exclude(t, "node1") }},
		{"the holder is drained by its annotation", func(t *testing.T, s *stage) { s.drainNode(t, "node1") }},
		{"another node is named as the target", func(t *testing.T, s *stage) {
			s.patch(t, s.record(t), `{spec: {target: node2}}`)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, "node1")
			s.steady(t, lab.Client, ips)
			stop := s.asking(t, lab.Client, ips, 80)
			time.Sleep(time.Second) // what is asked before the move
			row.move(t, s)
			s.until(t, patience, "another node on record, and no target", func(context.Context) (bool, string) {
				record := s.record(t)
				return record.Status.Node != "node1" && record.Spec.Target == "", fmt.Sprintf("%+v %+v", record.Spec, record.Status)
			})
			s.steady(t, lab.Client, ips)
			requests := tally{}
			stop(&requests)
			t.Logf("%v", requests)
			if requests.failed > len(ips) {
				t.Errorf("%d of %d requests failed, the last by %v", requests.failed, requests.sent, requests.last)
			}
		})
	}
}

// A target that cannot take the addresses over is refused by an event, and nothing moves.
func TestATargetThatDoesNotExistIsRefused(t *testing.T) {
	s := newStage(t, dual)
	s.heldBy(t, "node1")
	s.patch(t, s.record(t), `{spec: {target: node9}}`)
	s.event(t, "web", ipamv1alpha1.EventTargetRefused, "node9", "there is no such Node")
	if node := s.record(t).Status.Node; node != "node1" {
		t.Errorf("%s holds the Service, want node1", node)
	}
}

// A preferred node takes its addresses back when it has been healthy for failbackAfter.
func TestFailback(t *testing.T) {
	s := newStage(t, dual)
	s.heldBy(t, "node1")
	s.patch(t, s.record(t), `{spec: {target: node2}}`)
	s.becomes(t, "node2")
	s.patch(t, s.object(t, "L2Advertisement"), `{spec: {failbackAfter: 1s}}`)
	s.becomes(t, "node1")
}

// Of many Services no node gets more than 1.25 of the average, neither when they are new nor when a node is gone.
func TestLoadsAreBounded(t *testing.T) {
	const services = 12
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4)
	s.layer2(t)
	s.web(t, "node3")
	for i := range services {
		s.add(t, s.service(fmt.Sprintf("web%d", i), corev1.IPv4Protocol))
	}
	spread := func(limit int, nodes ...string) {
		t.Helper()
		s.until(t, patience, fmt.Sprintf("%d Services on %v, %d each at most", services, nodes, limit), func(ctx context.Context) (bool, string) {
			var records speakerv1alpha1.L2AnnouncementList
			if err := s.List(ctx, &records); err != nil {
				return false, err.Error()
			}
			loads, all := map[string]int{}, 0
			for _, a := range records.Items {
				if a.Service.Namespace == s.ns && a.Status.Node != "" {
					loads[a.Status.Node]++
				}
			}
			for _, node := range nodes {
				all += loads[node]
				if loads[node] > limit {
					return false, fmt.Sprint(loads)
				}
			}
			return all == services, fmt.Sprint(loads)
		})
	}
	spread(5, "node1", "node2", "node3")
	s.exclude(t, "node1")
	spread(8, "node2", "node3")
}
