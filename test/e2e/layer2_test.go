// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
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

// heldBy makes a pool, web servers on all nodes but one, and a Service of which the node without a web server is the holder, so that its
// failure fails no web server. It returns the Service's addresses.
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
	type action func(ctx context.Context, s *stage, node string) error
	for _, row := range []struct {
		name      string
		holder    string
		cut, heal action
		// returns says that the speaker soon comes back by itself, perhaps before the others notice that it is gone.
		returns bool
	}{
		{
			name: "its cable is pulled", holder: "node1",
			cut:  func(ctx context.Context, s *stage, node string) error { return s.SetLink(ctx, node, false) },
			heal: func(ctx context.Context, s *stage, node string) error { return s.SetLink(ctx, node, true) },
		},
		{
			name: "the switch forwards nothing for it", holder: "node2",
			cut:  func(ctx context.Context, s *stage, node string) error { return s.SetForwarding(ctx, node, false) },
			heal: func(ctx context.Context, s *stage, node string) error { return s.SetForwarding(ctx, node, true) },
		},
		{
			name: "its speaker is killed", holder: "node3", returns: true,
			cut:  func(_ context.Context, s *stage, node string) error { return s.kill(node, programs["speaker"]) },
			heal: func(context.Context, *stage, string) error { return nil },
		},
		{
			name: "its power is cut", holder: "node1",
			cut:  func(ctx context.Context, s *stage, node string) error { return s.StopNode(ctx, node) },
			heal: func(ctx context.Context, s *stage, node string) error { return s.StartNode(ctx, node) },
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
					if err := row.heal(context.Background(), s, row.holder); err != nil {
						t.Error(err)
					}
				}
			})
			speaker, err := s.process(row.holder, programs["speaker"])
			if err != nil {
				t.Fatal(err)
			}
			mark := c.mark()
			s.outage(t, ips, func() {
				if err := row.cut(t.Context(), s, row.holder); err != nil {
					t.Fatal(err)
				}
			}, func(ctx context.Context) (bool, string) {
				if row.returns {
					again, err := s.process(row.holder, programs["speaker"])
					return err == nil && again.pid != speaker.pid, fmt.Sprint("the speaker has not been started again: ", err)
				}
				return c.taken(mark, ips, mac)
			})
			if !row.returns {
				s.until(t, patience, "another holder on record", func(ctx context.Context) (bool, string) {
					holder := s.holder(t, "web", 2)
					return holder != row.holder, holder
				})
			}
			if err := row.heal(t.Context(), s, row.holder); err != nil {
				t.Fatal(err)
			}
			healed = true
			s.nodeReady(t.Context(), t, row.holder)
			now := s.holder(t, "web", 2)
			t.Logf("the addresses were on %s and are on %s", row.holder, now)
			if _, took := c.taken(mark, ips, mac); now != row.holder && took != "" {
				t.Error(took)
			}
			start := time.Now()
			s.answeredBy(t, c, now, ips)
			t.Logf("one node alone answered %v after healing", time.Since(start).Round(time.Millisecond))
			if after := s.holder(t, "web", 2); after != now {
				t.Errorf("%s holds the Service after healing, want it to stay on %s", after, now)
			}
		})
	}
}

// A machine on the LAN has the addresses that a Service asks for. They are the Service's once that machine gives them up.
func TestAddressesOfAnotherMachineAreNotAnnounced(t *testing.T) {
	s := newStage(t, dual)
	ips := []string{"198.51.100.239/24", "2001:db8:51::1ffe/64"}
	var bare []string
	change := func(ctx context.Context, verb string, flags ...string) error {
		var errs []error
		for _, ip := range ips {
			errs = append(errs, s.Command(ctx, lab.Client, "ip", append([]string{"addr", verb, ip, "dev", "eth0"}, flags...)...).Run())
		}
		return errors.Join(errs...)
	}
	for _, ip := range ips {
		address, _, _ := strings.Cut(ip, "/")
		bare = append(bare, address)
	}
	if err := change(t.Context(), "add", "nodad"); err != nil {
		t.Fatal(err)
	}
	given := false
	t.Cleanup(func() {
		if !given {
			_ = change(context.Background(), "del")
		}
	})
	mac := s.mac(t, lab.Client)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.web(t, s.Nodes()...)
	svc := s.service("web", v4, v6)
	svc.Annotations = map[string]string{ipamv1alpha1.AnnotationLoadBalancerIPs: strings.Join(bare, ",")}
	s.add(t, svc)
	s.addresses(t, "web", 2)
	for _, ip := range bare {
		s.event(t, "web", ipamv1alpha1.EventAddressConflict, mac, ip, "already")
	}
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, mac)
	var records speakerv1alpha1.L2AnnouncementList
	if err := s.List(t.Context(), &records); err != nil {
		t.Fatal(err)
	}
	for _, r := range records.Items {
		if r.Service.Namespace == s.ns {
			t.Errorf("%s is on record for %v", r.Status.Node, r.Status.Addresses)
		}
	}

	given = true
	if err := change(t.Context(), "del"); err != nil {
		t.Fatal(err)
	}
	holder := s.holder(t, "web", 2)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, bare[0]+" is announced on layer 2")
	c := s.tcpdump(t, lab.Client)
	s.answeredBy(t, c, holder, bare)
	for _, ip := range bare {
		s.reach(t, lab.Client, ip, "/hostname")
	}
}

// outage asks all addresses from the client while cut happens and until the addresses have moved and answer again. It logs for how
// long they did not, and returns it.
func (s *stage) outage(t *testing.T, ips []string, cut func(), moved func(context.Context) (bool, string)) (outages []time.Duration) {
	t.Helper()
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	probes := s.probes(probing, lab.Client, ips)
	s.steady(t, lab.Client, ips)
	start := time.Now()
	cut()
	s.until(t, patience, "the move", moved)
	s.steady(t, lab.Client, ips)
	stop()
	for i, answers := range probes() {
		outage, ok := cluster.Outage(answers, start)
		if !ok {
			t.Errorf("%s was not seen to answer again", ips[i])
		}
		t.Logf("%s answered again after %v; %s", ips[i], outage.Round(time.Millisecond), failures(answers, start))
		outages = append(outages, outage)
	}
	return outages
}

// steady waits until every address answers a host twenty times in a row: where each node is one of several ways to an address, every
// node's kube-proxy has to know the Service by then.
func (s *stage) steady(t *testing.T, host string, ips []string) {
	t.Helper()
	s.until(t, patience, "steady answers to "+host, func(ctx context.Context) (bool, string) {
		for range 20 {
			for _, ip := range ips {
				if _, err := s.Get(ctx, host, cluster.URL(ip, "/hostname")); err != nil {
					return false, err.Error()
				}
			}
		}
		return true, ""
	})
}

// probes asks every address from a host, 50 times a second each, until the context ends. What it returns waits for that and returns the
// answers of each. The timeout of a request is shorter than that of TCP, so that an answer is one to the first packet.
func (s *stage) probes(ctx context.Context, host string, ips []string) (wait func() [][]cluster.Answer) {
	answers := make([][]cluster.Answer, len(ips))
	var probes sync.WaitGroup
	for i, ip := range ips {
		probes.Go(func() {
			answers[i] = s.Probe(ctx, host, cluster.URL(ip, "/hostname"), 20*time.Millisecond, 900*time.Millisecond)
		})
	}
	return func() [][]cluster.Answer {
		probes.Wait()
		return answers
	}
}

// failures describes the requests since a moment that got no answer.
func failures(answers []cluster.Answer, since time.Time) string {
	sent, failed, last := 0, 0, cluster.Answer{}
	for _, a := range answers {
		if a.At.Before(since) {
			continue
		}
		sent++
		if a.Err != nil {
			failed, last = failed+1, a
		}
	}
	if failed == 0 {
		return fmt.Sprintf("none of %d requests failed", sent)
	}
	return fmt.Sprintf("%d of %d requests failed, the last of them sent after %v: %v", failed, sent, last.At.Sub(since).Round(time.Millisecond), last.Err)
}

// speakerReady asks the speaker of a node itself, on its socket. After a node has failed, the condition of its Pod may be of the time before.
const speakerReady = `for socket in /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/run/health.sock; do
  curl -sS --max-time 2 --fail-with-body --unix-socket "$socket" http://speaker/readyz && exit
done
exit 1`

// nodeReady waits until a node is Ready and so is its speaker. The context may be that of a test, or another where the test has ended.
func (s *stage) nodeReady(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if err := cluster.Until(ctx, 90*time.Second, name+" to be ready", func(ctx context.Context) (bool, string) {
		var node corev1.Node
		if err := s.Client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
			return false, err.Error()
		}
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if out, err := s.NodeCommand(ctx, name, "sh", "-c", speakerReady).CombinedOutput(); err != nil {
			return false, fmt.Sprintf("node ready: %t, its speaker: %v: %s", ready, err, out)
		}
		return ready, "it is not"
	}); err != nil {
		t.Error(err)
	}
}
