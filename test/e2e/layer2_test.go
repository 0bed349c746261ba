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

// The node that answers fails in one way or another, and another one takes its addresses over. When it is well again it takes nothing back.
func TestSoakAddressesMoveFromANodeThatFails(t *testing.T) {
	for _, row := range []struct {
		name      string
		holder    string
		cut, heal action
		// prepare is done before the clients begin to ask; it disturbs nobody.
		prepare action
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
		{name: "its VLAN is missing on a switch", holder: "node2", prepare: knowMACs, cut: pruneVLAN, heal: restoreVLAN},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, row.holder)
			c := s.tcpdump(t, lab.Client)
			healed := true
			t.Cleanup(func() {
				if !healed {
					if err := row.heal(context.Background(), s, row.holder); err != nil {
						t.Error(err)
					}
				}
			})
			outages := make([][]time.Duration, len(ips))
			n := repetitions(t, 20)
			for round := range n {
				if round > 0 {
					if row.returns {
						s.renewSpeaker(t, row.holder)
					}
					s.giveBack(t, c, row.holder, ips)
				}
				healed = false
				if row.prepare != nil {
					if err := row.prepare(t.Context(), s, row.holder); err != nil {
						t.Fatal(err)
					}
				}
				for i, outage := range s.fail(t, c, row.holder, ips, row.cut, row.returns) {
					outages[i] = append(outages[i], outage)
				}
				if err := row.heal(t.Context(), s, row.holder); err != nil {
					t.Fatal(err)
				}
				healed = true
				s.staysAfterHealing(t, c, row.holder, ips)
			}
			for i, ip := range ips {
				soaked.note(t, fmt.Sprintf("%d times, until %s answers again", n, ip), "%s", spread(outages[i]))
			}
		})
	}
}

// An action does something to a node, or ends it.
type action func(ctx context.Context, s *stage, node string) error

// fail has the holder fail, and waits until its addresses have moved or, if its speaker soon comes back by itself, until it is back. It returns for
// how long each address did not answer.
func (s *stage) fail(t *testing.T, c *capture, holder string, ips []string, cut action, returns bool) []time.Duration {
	t.Helper()
	mac, mark := s.mac(t, holder), c.mark()
	speaker, err := s.process(holder, programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	outages := s.outage(t, ips, func() {
		if err := cut(t.Context(), s, holder); err != nil {
			t.Fatal(err)
		}
	}, func(context.Context) (bool, string) {
		if returns {
			again, err := s.process(holder, programs["speaker"])
			return err == nil && again.pid != speaker.pid, fmt.Sprint("the speaker has not been started again: ", err)
		}
		return c.taken(mark, ips, mac)
	})
	if !returns {
		s.until(t, patience, "another holder on record", func(context.Context) (bool, string) {
			now := s.holder(t, "web", 2)
			return now != holder, now
		})
	}
	return outages
}

// staysAfterHealing waits until a node that had failed is ready again, and one node alone answers: the one that is on record.
func (s *stage) staysAfterHealing(t *testing.T, c *capture, node string, ips []string) {
	t.Helper()
	s.nodeReady(t.Context(), t, node)
	now := s.holder(t, "web", 2)
	t.Logf("the addresses were on %s and are on %s", node, now)
	start := time.Now()
	s.answeredBy(t, c, now, ips)
	t.Logf("one node alone answered %v after healing", time.Since(start).Round(time.Millisecond))
	if after := s.holder(t, "web", 2); after != now {
		t.Errorf("%s holds the Service after healing, want it to stay on %s", after, now)
	}
}

// giveBack makes a node the holder again: without a record the advertisement's preference decides. A node that was cut off is ready before the speakers
// of the others know that its speaker is back: then one of them has the record again, which is deleted again.
func (s *stage) giveBack(t *testing.T, c *capture, node string, ips []string) {
	t.Helper()
	var deleted time.Time
	s.until(t, patience, node+" on record", func(context.Context) (bool, string) {
		now := s.holder(t, "web", 2)
		if now != node && time.Since(deleted) > time.Second {
			s.kubectl(t, "delete", "l2announcement", s.ns+".web")
			deleted = time.Now()
		}
		return now == node, now
	})
	s.answeredBy(t, c, node, ips)
	s.steady(t, lab.Client, ips)
}

// theSwitch is the namespace of the LAN's switch, whose port for a host is p-HOST.
const theSwitch = "sw"

// knowMACs has the programs of a node, the other nodes and the control plane know each other's MACs for good: nobody can be asked for one when
// pruneVLAN has done its work.
func knowMACs(ctx context.Context, s *stage, node string) error {
	macs := map[string]string{}
	for _, host := range append(s.Nodes(), lab.ControlPlane) {
		out, err := s.Command(ctx, host, "ip", "-brief", "link", "show", "eth0").Output()
		if err != nil {
			return err
		}
		macs[host] = strings.Fields(string(out))[2]
	}
	know := func(at, of string) error {
		for _, address := range s.Addresses(of) {
			if err := s.Command(ctx, at, "ip", "neigh", "replace", address.String(), "lladdr", macs[of], "dev", "eth0", "nud", "permanent").Run(); err != nil {
				return fmt.Errorf("telling %s the MAC of %s: %w", at, of, err)
			}
		}
		return nil
	}
	for _, host := range append(s.others(node), lab.ControlPlane) {
		if err := errors.Join(know(host, node), know(node, host)); err != nil {
			return err
		}
	}
	return nil
}

// pruneVLAN has the switch forward nothing more for a node, but for TCP and UDP between it and the other nodes and the control plane, as if their
// programs spoke over another network, and the VLAN of the LAN was missing on a switch between: the node's link is up, and its speaker is alive for
// the others.
func pruneVLAN(ctx context.Context, s *stage, node string) error {
	var v4s, v6s []string
	for _, host := range append(s.Nodes(), lab.ControlPlane) {
		for _, address := range s.Addresses(host) {
			if address.Is4() {
				v4s = append(v4s, address.String())
			} else {
				v6s = append(v6s, address.String())
			}
		}
	}
	rules := fmt.Sprintf(`table bridge tandem-test {
		chain pruned {
			ip saddr { %[2]s } ip daddr { %[2]s } meta l4proto { tcp, udp } accept
			ip6 saddr { %[3]s } ip6 daddr { %[3]s } meta l4proto { tcp, udp } accept
			drop
		}
		chain forward {
			type filter hook forward priority 0
			iifname p-%[1]s jump pruned
			oifname p-%[1]s jump pruned
		}
	}`, node, strings.Join(v4s, ", "), strings.Join(v6s, ", "))
	cmd := s.Command(ctx, theSwitch, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on the switch: %w: %s", err, out)
	}
	return nil
}

// restoreVLAN ends what knowMACs and pruneVLAN have done.
func restoreVLAN(ctx context.Context, s *stage, node string) error {
	err := s.Command(ctx, theSwitch, "nft", "delete", "table", "bridge", "tandem-test").Run()
	for _, host := range append(s.Nodes(), lab.ControlPlane) {
		err = errors.Join(err, s.Command(ctx, host, "ip", "neigh", "flush", "dev", "eth0", "nud", "permanent").Run())
	}
	return err
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
		if r.Service.Namespace == s.ns && len(r.Status.Addresses) > 0 {
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
		outage = max(outage, longestGap(answers, start))
		t.Logf("%s answered again after %v; %s", ips[i], outage.Round(time.Millisecond), failures(answers, start))
		outages = append(outages, outage)
	}
	return outages
}

// steady waits until every address answers a host twenty times in a row: where each node is one of several ways to an address, every
// node's kube-proxy has to know the Service by then.
func (s *stage) steady(t *testing.T, host string, ips []string) {
	t.Helper()
	s.answers(t, host, ips, 80)
}

// probes asks port 80 of every address from a host, 50 times a second each, until the context ends. What it returns waits for that and returns
// the answers of each.
func (s *stage) probes(ctx context.Context, host string, ips []string) (wait func() [][]cluster.Answer) {
	return s.probesOf(ctx, host, ips, 80)
}

// probesOf is probes of another port. The timeout of a request is shorter than that of TCP, so that an answer is one to the first packet.
func (s *stage) probesOf(ctx context.Context, host string, ips []string, port int32) (wait func() [][]cluster.Answer) {
	answers := make([][]cluster.Answer, len(ips))
	var probes sync.WaitGroup
	for i, ip := range ips {
		probes.Go(func() {
			answers[i] = s.Probe(ctx, host, cluster.URL(ip, fmt.Sprintf(":%d/hostname", port)), 20*time.Millisecond, 900*time.Millisecond)
		})
	}
	return func() [][]cluster.Answer {
		probes.Wait()
		return answers
	}
}

// longestGap returns the longest time between a request that was answered and the next one that was, from a moment on. What happens then may take
// a moment to have an effect.
func longestGap(answers []cluster.Answer, since time.Time) (longest time.Duration) {
	last := since
	for _, a := range answers {
		if a.At.Before(since) || a.Err != nil {
			continue
		}
		longest, last = max(longest, a.At.Sub(last)), a.At
	}
	return longest
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
