// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// drops has the kernel of a node drop packets by rules of nftables, in a table of the test's own, until heal is called or the test ends.
func (s *stage) drops(t *testing.T, node string, rules ...string) (heal func()) {
	t.Helper()
	const table = "tandem-test"
	heal = func() { _ = s.Command(context.Background(), node, "nft", "delete", "table", "inet", table).Run() }
	cmd := s.Command(t.Context(), node, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("table inet " + table + " {\n" + strings.Join(rules, "\n") + "\n}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft on %s: %v: %s", node, err, out)
	}
	t.Cleanup(heal)
	return heal
}

// What a node drops: what comes to the port of gossip, what it sends there, and all that its programs and pods receive, send and forward but for
// neighbour discovery: its kernel answers on the LAN all the same.
var (
	gossipIn  = "chain in { type filter hook input priority -300; meta l4proto {tcp, udp} th dport 7573 drop; }"
	gossipOut = "chain out { type filter hook output priority -300; meta l4proto {tcp, udp} th dport 7573 drop; }"
	everyIP   = []string{
		"chain in { type filter hook input priority -300; iifname lo accept; icmpv6 type {nd-neighbor-solicit, nd-neighbor-advert} accept; drop; }",
		"chain out { type filter hook output priority -300; oifname lo accept; icmpv6 type {nd-neighbor-solicit, nd-neighbor-advert} accept; drop; }",
		"chain through { type filter hook forward priority -300; drop; }",
	}
)

// macs returns all MAC addresses that the LAN says an address has, when the client asks for a second.
func (s *stage) macs(ctx context.Context, ip string) []string {
	command, says := []string{"arping", "-b", "-w", "1", "-I", "eth0", ip}, arpingSays
	if strings.Contains(ip, ":") {
		command, says = []string{"ndisc6", "-m", "-r", "1", "-w", "1000", ip, "eth0"}, ndiscSays
	}
	out, _ := s.Command(ctx, lab.Client, command[0], command[1:]...).CombinedOutput()
	all := map[string]bool{}
	for _, m := range says.FindAllSubmatch(out, -1) {
		all[strings.ToLower(string(m[1]))] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// oneAnswer waits until the LAN says, several times in a row, that each address has one MAC, the same for all, and returns that.
func (s *stage) oneAnswer(t *testing.T, ips []string) (mac string) {
	t.Helper()
	s.until(t, patience, "one answer", func(ctx context.Context) (bool, string) {
		mac = ""
		for range 4 {
			for _, ip := range ips {
				said := s.macs(ctx, ip)
				if len(said) != 1 || mac != "" && said[0] != mac {
					return false, fmt.Sprintf("%s is at %v, before it was %s", ip, said, mac)
				}
				mac = said[0]
			}
		}
		return true, ""
	})
	return mac
}

// recordWrites returns how many writes of L2Announcements the API server has seen.
func (s *stage) recordWrites(t *testing.T) int {
	t.Helper()
	n, err := s.countRecordWrites(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 { // The record of the Service that the test looks at was written.
		t.Fatal("the API server's metrics count no write of an L2Announcement")
	}
	return n
}

// countRecordWrites returns how many writes of L2Announcements the API server has seen since it started.
func (s *stage) countRecordWrites(ctx context.Context) (n int, err error) {
	text, err := s.Kubectl(ctx, "get", "--raw", "/metrics").Output()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `resource="l2announcements"`) ||
			!strings.Contains(line, `verb="PUT"`) && !strings.Contains(line, `verb="POST"`) {
			continue
		}
		fields := strings.Fields(line)
		count, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", line, err)
		}
		n += int(count)
	}
	return n, nil
}

// peersReachable waits until the condition PeersReachable of a node has a status, and its message has all texts.
func (s *stage) peersReachable(t *testing.T, node string, status metav1.ConditionStatus, texts ...string) {
	t.Helper()
	s.untilPeers(t, patience, node, status, texts...)
}

// untilPeers is peersReachable for things that take longer.
func (s *stage) untilPeers(t *testing.T, limit time.Duration, node string, status metav1.ConditionStatus, texts ...string) {
	t.Helper()
	s.until(t, limit, fmt.Sprintf("PeersReachable=%s of %s", status, node), func(ctx context.Context) (bool, string) {
		state, err := s.speaker(ctx, node)
		if err != nil {
			return false, err.Error()
		}
		c := meta.FindStatusCondition(state.Conditions, speakerv1alpha1.ConditionPeersReachable)
		if c == nil {
			return false, "there is no such condition"
		}
		return c.Status == status && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(c.Message, text) }), c.Message
	})
}

// Gossip does not pass between some nodes, or between all, and the API does. One node answers for each address, and the API is not written to
// again and again. Speakers that start meanwhile change nothing about that.
func TestOneAnswerWhereGossipIsCut(t *testing.T) {
	for _, row := range []struct {
		name  string
		nodes []string // which drop
		rules []string
		// says are nodes whose status says that peers are not reachable, with what it says.
		says map[string][]string
	}{
		{
			name: "between all nodes", nodes: []string{"node1", "node2", "node3"}, rules: []string{gossipIn},
			says: map[string][]string{"node1": {"node2 (198.51.100.12:7573)", "node3 (198.51.100.13:7573)"}, "node3": {"node1 (", "node2 ("}},
		},
		{
			name: "of one node alone", nodes: []string{"node2"}, rules: []string{gossipIn, gossipOut},
			says: map[string][]string{"node2": {"node1 (198.51.100.11:7573)", "node3 (198.51.100.13:7573)"}},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, "node2")
			var heal []func()
			start := time.Now()
			for _, node := range row.nodes {
				heal = append(heal, s.drops(t, node, row.rules...))
			}
			time.Sleep(3 * time.Second)
			mac := s.oneAnswer(t, ips)
			t.Logf("one answer after %v", time.Since(start).Round(100*time.Millisecond))
			if holder := s.holder(t, "web", 2); holder != "node2" || mac != s.mac(t, "node2") {
				t.Errorf("the addresses were on node2, they are on %s, at %s", holder, mac)
			}
			for node, texts := range row.says {
				s.peersReachable(t, node, metav1.ConditionFalse, texts...)
			}
			const quiet = 3 // times about eight seconds
			writes := s.recordWrites(t)
			for range quiet {
				if again := s.oneAnswer(t, ips); again != mac {
					t.Errorf("the addresses are at %s, a moment ago they were at %s", again, mac)
					mac = again
				}
			}
			if more := s.recordWrites(t) - writes; more > 0 {
				t.Errorf("%d writes of records while nothing happened", more)
			}
			for _, ip := range ips {
				s.reach(t, lab.Client, ip, "/hostname")
			}

			// A new Service has one answer too.
			s.add(t, s.service("late", v4, v6))
			late := s.addresses(t, "late", 2)
			t.Logf("the new Service is at %s", s.oneAnswer(t, late))

			for _, f := range heal {
				f()
			}
			for _, node := range s.Nodes() {
				s.peersReachable(t, node, metav1.ConditionTrue)
			}
			if again := s.oneAnswer(t, ips); again != mac {
				t.Errorf("when gossip passes again the addresses are at %s, they were at %s", again, mac)
			}
		})
	}
}

// looksForOthers reports whether the speaker of a node runs, and is not ready since it has met no other; it returns what the speaker says.
func (s *stage) looksForOthers(ctx context.Context, node string) (bool, string) {
	out, err := s.NodeCommand(ctx, node, "sh", "-c", speakerReady).CombinedOutput()
	return err != nil && strings.Contains(string(out), "looking for the other speakers"), string(out)
}

// Speakers start where gossip's port is closed, as a firewall has it by default. They are not ready, and one node answers.
func TestSpeakersStartWithoutGossip(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	var heal []func()
	for _, node := range s.Nodes() {
		heal = append(heal, s.drops(t, node, gossipIn))
	}
	mac := s.oneAnswer(t, ips)
	s.kubectl(t, "delete", "pods", "-n", "tandem-system", "-l", "app.kubernetes.io/component=speaker")
	for _, node := range s.Nodes() {
		s.until(t, patience, "a speaker on "+node+" that looks for others", func(ctx context.Context) (bool, string) { return s.looksForOthers(ctx, node) })
	}
	if again := s.oneAnswer(t, ips); again != mac {
		t.Errorf("the addresses are at %s, they were at %s", again, mac)
	}
	for _, node := range s.Nodes() {
		s.peersReachable(t, node, metav1.ConditionFalse)
	}
	writes := s.recordWrites(t)
	s.oneAnswer(t, ips)
	if more := s.recordWrites(t) - writes; more > 0 {
		t.Errorf("%d writes of records while nothing happened", more)
	}
	for _, node := range s.Nodes() {
		if still, says := s.looksForOthers(t.Context(), node); !still {
			t.Errorf("the speaker of %s has met no other, and says of its readiness: %s", node, says)
		}
	}
	for _, f := range heal {
		f()
	}
	for _, node := range s.Nodes() {
		s.nodeReady(t.Context(), t, node)
	}
}

// A node loses the network of the cluster, but not the LAN: its kernel answers, and forwards to no other node. Another node takes over at
// once, and the first falls silent.
func TestANodeOffTheNetworkOfTheCluster(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node3")
	mac := s.mac(t, "node3")
	c := s.tcpdump(t, lab.Client)
	mark := c.mark()
	heal := func() {}
	s.outage(t, ips, func() { heal = s.drops(t, "node3", everyIP...) }, func(context.Context) (bool, string) { return c.taken(mark, ips, mac) })
	now := s.oneAnswer(t, ips)
	if now == mac {
		t.Error("the node that is cut off answers")
	}
	if holder := s.holder(t, "web", 2); holder == "node3" {
		t.Error("the node that is cut off is on record")
	}
	heal()
	s.nodeReady(t.Context(), t, "node3")
	if again := s.oneAnswer(t, ips); again != now {
		t.Errorf("when the node is back the addresses are at %s, they were at %s", again, now)
	}
}

// The Secret with the key of gossip is deleted, and speakers start anew before the others have the key that the controller manager makes: at first that
// of a node that holds nothing, then the holder's. No address moves, and when all have the new key they reach each other.
func TestAKeyThatIsDeletedMovesNothing(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	mac := s.oneAnswer(t, ips)
	before := s.record(t)
	key := func(ctx context.Context) string {
		var secret corev1.Secret
		if err := s.Client.Get(ctx, client.ObjectKey{Namespace: "tandem-system", Name: config.MembershipSecret}, &secret); err != nil {
			return ""
		}
		return string(secret.Data[config.MembershipSecretKey])
	}
	old := key(t.Context())
	stop := s.asking(t, lab.Client, ips, 80)
	s.kubectl(t, "delete", "secret", "-n", "tandem-system", config.MembershipSecret)
	s.until(t, patience, "another key", func(ctx context.Context) (bool, string) {
		now := key(ctx)
		return now != "" && now != old, "there is none"
	})
	for _, node := range []string{"node3", "node2"} {
		p, err := s.process(node, programs["speaker"])
		if err != nil {
			t.Fatal(err)
		}
		s.deletePod(t, "speaker", node)
		s.until(t, time.Minute, "another speaker on "+node, func(context.Context) (bool, string) {
			now, err := s.process(node, programs["speaker"])
			return err == nil && now.pid != p.pid, fmt.Sprint(err)
		})
		if again := s.oneAnswer(t, ips); again != mac {
			t.Errorf("when the speaker of %s has another key, the addresses are at %s, they were at %s", node, again, mac)
		}
	}
	start := time.Now()
	for _, node := range s.Nodes() { // The kubelet brings a changed Secret to a Pod within about a minute.
		s.untilPeers(t, 3*time.Minute, node, metav1.ConditionTrue)
		s.nodeReady(t.Context(), t, node)
	}
	t.Logf("all reach each other %v after the last start", time.Since(start).Round(time.Second))
	if again := s.oneAnswer(t, ips); again != mac {
		t.Errorf("when all have the key the addresses are at %s, they were at %s", again, mac)
	}
	requests := tally{}
	stop(&requests)
	if requests.failed > 0 {
		t.Errorf("%v, the last by %v", requests, requests.last)
	}
	if after := s.record(t); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the record was written: %+v, it was %+v", after.Status, before.Status)
	}
}

// The speaker of one node cannot reach the API, while gossip and the LAN work. It takes nothing that is new, since it cannot put itself on record; when it
// reaches the API again it does.
func TestASpeakerWithoutTheAPITakesNothing(t *testing.T) {
	const services = 9
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.web(t, "node1")
	// Pods reach the API by its ClusterIP, and the kubelet, which goes on, does not.
	heal := s.drops(t, "node3", "chain out { type filter hook output priority -300; ip daddr 10.96.0.1 tcp dport 443 drop; }")
	var ips []string
	for i := range services {
		name := fmt.Sprintf("web%d", i)
		s.add(t, s.service(name, v4, v6))
		ips = append(ips, s.addresses(t, name, 2)...)
	}
	for i := range services {
		if node := s.holder(t, fmt.Sprintf("web%d", i), 2); node == "node3" {
			t.Errorf("node3 is on record for web%d, though it cannot write that", i)
		}
	}
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
	}
	writes := s.recordWrites(t)
	for _, ip := range ips {
		if said := s.macs(t.Context(), ip); len(said) != 1 || said[0] == s.mac(t, "node3") {
			t.Errorf("%s is at %v, want one node that is not node3, at %s", ip, said, s.mac(t, "node3"))
		}
	}
	if more := s.recordWrites(t) - writes; more > 0 {
		t.Errorf("%d writes of records while nothing happened", more)
	}
	heal()
	s.nodeReady(t.Context(), t, "node3")
	s.until(t, patience, "node3 to take a new Service", func(ctx context.Context) (bool, string) {
		name := fmt.Sprintf("new%d", time.Now().UnixNano())
		s.add(t, s.service(name, v4))
		s.addresses(t, name, 1)
		node := s.holder(t, name, 1)
		return node == "node3", node + " has"
	})
}

// The control plane is away for two minutes, and the kubelets come back one by one. No address moves.
func TestAnOutageOfTheControlPlaneMovesNothing(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	mac := s.oneAnswer(t, ips)
	back := func(name string) {
		if err := s.StartComponent(name); err != nil && !strings.Contains(err.Error(), "is running") {
			t.Error(err)
		}
	}
	for _, node := range s.Nodes() {
		if err := s.StopComponent(t.Context(), node+"/kubelet"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { back(node + "/kubelet") })
	}
	if err := s.StopComponent(t.Context(), "cp/kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if back("cp/kube-apiserver"); t.Failed() {
			s.restartKubernetes(t)
		}
	})
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if again := s.oneAnswer(t, ips); again != mac {
			t.Fatalf("without the control plane the addresses are at %s, they were at %s", again, mac)
		}
	}
	back("cp/kube-apiserver")
	s.until(t, 2*time.Minute, "all nodes to be found not Ready", func(ctx context.Context) (bool, string) {
		out, err := s.Kubectl(ctx, "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`).CombinedOutput()
		return err == nil && string(out) == "Unknown Unknown Unknown", string(out)
	})
	for _, node := range []string{"node3", "node2", "node1"} {
		back(node + "/kubelet")
		s.nodeReady(t.Context(), t, node)
		if holder := s.record(t).Status.Node; holder != "node1" {
			t.Errorf("when the kubelet of %s is back, %s holds the Service, want node1 as before", node, holder)
		}
	}
	if again := s.oneAnswer(t, ips); again != mac {
		t.Errorf("the addresses are at %s, they were at %s", again, mac)
	}
	// Speakers see what is new at once, though client-go would begin some of its watches again a minute after such an outage.
	s.restartKubernetes(t)
	s.add(t, s.service("late", v4, v6))
	s.oneAnswer(t, s.addresses(t, "late", 2))
}
