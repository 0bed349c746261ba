// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// TestSoakDrainedNodesGoOff: three nodes announce by BGP, and a client behind the router asks 50 times a second. One node is drained, and its
// power fails when it announces nothing any more. Its pods have gone before, as `kubectl drain` sees to. No new connection
// fails.
func TestSoakDrainedNodesGoOff(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64") // on no link: the router needs the routes
	s.bgp(t)
	s.web(t, "node1", "node3")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.known(t, ips, 80)
	requests, changes := tally{}, s.routeChanges(t, ips)
	for range repetitions(t, 10) {
		s.announcedFrom(t, ips, s.Nodes()...)
		s.steady(t, lab.Ext, ips)
		stop := s.asking(t, lab.Ext, ips, 80)
		time.Sleep(time.Second) // what is asked before
		s.annotate(t, "node2", ipamv1alpha1.AnnotationDrain+"=true")
		t.Cleanup(func() { s.kubectlAfter(t, "annotate", "node", "node2", ipamv1alpha1.AnnotationDrain+"-") })
		s.leastPreferred(t, ips, "node2")
		s.drains(t, "node2", speakerv1alpha1.ReasonGone)
		s.announcedFrom(t, ips, "node1", "node3")
		s.powerOff(t, "node2")
		time.Sleep(2 * time.Second) // what is asked afterwards
		stop(&requests)
		if err := s.SetForwarding(t.Context(), "node2", true); err != nil {
			t.Fatal(err)
		}
		s.nodeReady(t.Context(), t, "node2")
		s.annotate(t, "node2", ipamv1alpha1.AnnotationDrain+"-")
		s.drains(t, "node2", speakerv1alpha1.ReasonNotDraining)
	}
	underWay := requests.underWay(changes())
	soaked.note(t, "a node is drained and goes off", "%v, %d of them under way while the router's routes changed", requests, underWay)
	if requests.failed > underWay {
		t.Errorf("%v, %d of them under way while the router's routes changed", requests, underWay)
	}
	s.nodeEvent(t, "node2", ipamv1alpha1.EventDraining)
	s.nodeEvent(t, "node2", ipamv1alpha1.EventDrained)
}

// annotate changes an annotation of a Node.
func (s *stage) annotate(t *testing.T, node, annotation string) {
	t.Helper()
	s.kubectl(t, "annotate", "node", node, annotation, "--overwrite")
}

// powerOff has a node fall silent, until the test ends at the latest.
func (s *stage) powerOff(t *testing.T, node string) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.SetForwarding(context.Background(), node, true); err != nil {
			t.Error(err)
		}
	})
	if err := s.SetForwarding(t.Context(), node, false); err != nil {
		t.Fatal(err)
	}
}

// drains waits until the condition Draining of a node has a reason.
func (s *stage) drains(t *testing.T, node, reason string) {
	t.Helper()
	s.until(t, patience, node+" to be "+reason, func(ctx context.Context) (bool, string) {
		state, err := s.speaker(ctx, node)
		i := slices.IndexFunc(state.Conditions, func(c metav1.Condition) bool { return c.Type == speakerv1alpha1.ConditionDraining })
		return err == nil && i >= 0 && state.Conditions[i].Reason == reason, fmt.Sprintf("%+v %v", state.Conditions, err)
	})
}

// leastPreferred waits until the router is told by a node that it leaves, and prefers all others.
func (s *stage) leastPreferred(t *testing.T, ips []string, node string) {
	t.Helper()
	var own []string
	for _, a := range s.Addresses(node) {
		own = append(own, a.String())
	}
	for _, ip := range ips {
		s.until(t, patience, ip+" to be announced by "+node+" with the least preference", func(ctx context.Context) (bool, string) {
			routes, err := s.routes(ctx, host(ip))
			return err == nil && slices.ContainsFunc(routes, func(r route) bool {
				return slices.Contains(own, r.NextHop) && strings.Contains(r.Communities, "graceful-shutdown") && r.LocalPref == 0
			}), fmt.Sprintf("%+v %v", routes, err)
		})
	}
}

// nodeEvent waits for an event of a Node.
func (s *stage) nodeEvent(t *testing.T, node, reason string) {
	t.Helper()
	s.until(t, patience, reason+" of "+node, func(ctx context.Context) (bool, string) {
		var events corev1.EventList
		err := s.List(ctx, &events)
		return err == nil && slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Kind == "Node" && e.InvolvedObject.Name == node && e.Reason == reason
		}), fmt.Sprint(err)
	})
}
