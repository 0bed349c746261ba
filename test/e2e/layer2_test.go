// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// layer2On announces the stage's pool on the LAN, from that node as long as it lives.
func (s *stage) layer2On(t *testing.T, node string) {
	t.Helper()
	s.create(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: L2Advertisement
metadata: {name: $NS}
spec:
  addressPools: [$NS]
  preferredNodes: [{weight: 100, nodeSelector: {matchLabels: {kubernetes.io/hostname: `+node+`}}}]
`)
}

// heldBy makes a pool, web servers on all nodes but one, and a Service that this one holds on layer 2, so that losing it loses no
// web server. It returns the Service's addresses.
func (s *stage) heldBy(t *testing.T, node string) []string {
	t.Helper()
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2On(t, node)
	s.add(t, s.service("web", v4, v6))
	s.web(t, s.others(node)...)
	ips := s.addresses(t, "web", 2)
	if holder := s.holder(t, "web", 2); holder != node {
		t.Fatalf("%s holds the Service, want the preferred %s", holder, node)
	}
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
	}
	return ips
}

// others returns the nodes but one.
func (s *stage) others(node string) []string {
	return slices.DeleteFunc(slices.Clone(s.Nodes()), func(n string) bool { return n == node })
}

func TestEveryQuestionOnTheLANGetsOneAnswerFromTheHolder(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	mac := s.mac(t, "node2")
	client := s.mac(t, lab.Client)
	c := s.tcpdump(t, lab.Client)
	everyone := func(ctx context.Context, ip string) error { return s.ask(ctx, ip) }
	holder := func(ctx context.Context, ip string) error { return s.probe(ctx, ip, mac) }
	for _, row := range []struct {
		name string
		ip   string
		dst  string // the beginning of the request's destination
		ask  func(context.Context, string) error
	}{
		{"a broadcast ARP request", ips[0], broadcast, everyone},
		{"a unicast ARP request", ips[0], mac, holder},
		{"a multicast neighbour solicitation", ips[1], "33:33:ff:", everyone},
		{"a unicast neighbour solicitation", ips[1], mac, holder},
	} {
		t.Run(row.name, func(t *testing.T) {
			mark := c.mark()
			for n := 1; n <= 10; n++ {
				if err := row.ask(t.Context(), row.ip); err != nil {
					t.Fatal(err)
				}
				// A second answer to one of the first nine would be here before the answer to the last.
				s.until(t, patience, fmt.Sprintf("answer %d", n), func(context.Context) (bool, string) {
					got := c.since(mark, row.ip, answer)
					return len(got) >= n, fmt.Sprint(got)
				})
			}
			if got := senders(c.since(mark, row.ip, answer)); !maps.Equal(got, map[string]int{mac: 10}) {
				t.Errorf("answers by MAC address = %v, want 10 of %s", got, mac)
			}
			requests := slices.DeleteFunc(c.since(mark, row.ip, request), func(p packet) bool { return p.src != client })
			if len(requests) != 10 {
				t.Errorf("the client sent %d requests, want 10: an answer was lost", len(requests))
			}
			for _, p := range requests {
				if !strings.HasPrefix(p.dst, row.dst) {
					t.Errorf("the client asked %s, want %s", p.dst, row.dst)
				}
			}
		})
	}
}

func TestAddressesMoveFromANodeThatFails(t *testing.T) {
	for _, row := range []struct {
		name   string
		holder string
		cut    func(context.Context, *testing.T, *stage, string) error
		heal   func(context.Context, *testing.T, *stage, string) error
	}{
		{
			"its cable is pulled", "node1",
			func(ctx context.Context, _ *testing.T, s *stage, node string) error {
				return s.SetLink(ctx, node, false)
			},
			func(ctx context.Context, _ *testing.T, s *stage, node string) error {
				return s.SetLink(ctx, node, true)
			},
		},
		{
			"the switch forwards nothing for it", "node2",
			func(ctx context.Context, _ *testing.T, s *stage, node string) error {
				return s.SetForwarding(ctx, node, false)
			},
			func(ctx context.Context, _ *testing.T, s *stage, node string) error {
				return s.SetForwarding(ctx, node, true)
			},
		},
		{
			"its speaker is killed", "node3",
			func(_ context.Context, t *testing.T, s *stage, node string) error {
				s.kill(t, node, programs["speaker"])
				return nil
			},
			func(context.Context, *testing.T, *stage, string) error { return nil },
		},
		{
			"its power is cut", "node1",
			func(ctx context.Context, _ *testing.T, s *stage, node string) error { return s.StopNode(ctx, node) },
			func(ctx context.Context, _ *testing.T, s *stage, node string) error { return s.StartNode(ctx, node) },
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, row.holder)
			mac := s.mac(t, row.holder)
			c := s.tcpdump(t, lab.Client)
			healed := false
			t.Cleanup(func() {
				if !healed {
					if err := row.heal(context.Background(), t, s, row.holder); err != nil {
						t.Error(err)
					}
				}
			})
			mark := c.mark()
			s.outage(t, ips, func() {
				if err := row.cut(t.Context(), t, s, row.holder); err != nil {
					t.Fatal(err)
				}
			}, func(ctx context.Context) (bool, string) {
				for _, ip := range ips {
					moved := slices.ContainsFunc(c.since(mark, ip, gratuitous), func(p packet) bool { return p.src != mac })
					if !moved {
						return false, "no other node has said that it has " + ip
					}
				}
				return true, ""
			})
			var now string
			s.until(t, patience, "another holder on record", func(ctx context.Context) (bool, string) {
				now = s.holder(t, "web", 2)
				return now != row.holder || row.name == "its speaker is killed", now
			})
			t.Logf("the addresses moved from %s to %s", row.holder, now)
			if now != row.holder {
				for _, ip := range ips {
					if got := senders(c.since(mark, ip, gratuitous)); got[s.mac(t, now)] == 0 {
						t.Errorf("gratuitous packets about %s by MAC address = %v, want some of %s", ip, got, s.mac(t, now))
					}
				}
			}
			if err := row.heal(t.Context(), t, s, row.holder); err != nil {
				t.Fatal(err)
			}
			healed = true
			s.nodeReady(t, row.holder)
			start := time.Now()
			s.answeredBy(t, c, now, ips)
			t.Logf("one node alone answered %v after healing", time.Since(start).Round(time.Millisecond))
			if after := s.holder(t, "web", 2); after != now {
				t.Errorf("%s holds the Service after healing, want it to stay on %s", after, now)
			}
		})
	}
}

// outage asks all addresses from the client, 50 times a second each, while cut happens and until the addresses have moved and
// answer again. It logs for how long they did not.
func (s *stage) outage(t *testing.T, ips []string, cut func(), moved func(context.Context) (bool, string)) {
	t.Helper()
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	answers := make([][]cluster.Answer, len(ips))
	var probes sync.WaitGroup
	for i, ip := range ips {
		// The timeout is shorter than that of TCP, so that an answer is one to the first packet.
		probes.Go(func() {
			answers[i] = s.Probe(probing, lab.Client, cluster.URL(ip, "/hostname"), 20*time.Millisecond, 900*time.Millisecond)
		})
	}
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
	}
	start := time.Now()
	cut()
	s.until(t, patience, "the move", moved)
	s.until(t, patience, "answers again, ten times in a row", func(ctx context.Context) (bool, string) {
		for range 10 {
			for _, ip := range ips {
				if _, err := s.Get(ctx, lab.Client, cluster.URL(ip, "/hostname")); err != nil {
					return false, err.Error()
				}
			}
		}
		return true, ""
	})
	stop()
	probes.Wait()
	for i, ip := range ips {
		outage, ok := cluster.Outage(answers[i], start)
		if !ok {
			t.Errorf("%s was not seen to answer again", ip)
		}
		failed, last := 0, time.Duration(0)
		for _, a := range answers[i] {
			if a.Err != nil && !a.At.Before(start) {
				failed++
				last = a.At.Sub(start)
			}
		}
		t.Logf("%s answered again after %v; of %d requests %d failed, the last of them sent after %v",
			ip, outage.Round(time.Millisecond), len(answers[i]), failed, last.Round(time.Millisecond))
	}
}

// nodeReady waits until a node is Ready and so is its speaker.
func (s *stage) nodeReady(t *testing.T, name string) {
	t.Helper()
	s.until(t, 90*time.Second, name+" to be ready", func(ctx context.Context) (bool, string) {
		var node corev1.Node
		if err := s.Client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
			return false, err.Error()
		}
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if _, err := s.Get(ctx, name, "http://127.0.0.1:7574/readyz"); err != nil {
			return false, fmt.Sprintf("node ready: %t, its speaker: %v", ready, err)
		}
		return ready, "it is not"
	})
}
