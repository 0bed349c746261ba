// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/controller-runtime/pkg/client"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// restartGrace is the speaker's default of --restart-grace.
const restartGrace = 30 * time.Second

// liveConnections is how many connections to each address, from each host, have to outlive a restart.
const liveConnections = 20

// talk opens connections to port 80 of an address from a host, and asks over each twice a second until the context ends. What it returns
// waits for that and returns the errors of the connections that broke, and after how long.
func (s *stage) talk(ctx context.Context, t *testing.T, host, ip string) (wait func() []error) {
	t.Helper()
	var conns []net.Conn
	for range liveConnections {
		conn, err := s.Dial(host)(ctx, "tcp", net.JoinHostPort(ip, "80"))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	var mu sync.Mutex
	var broken []error
	var talking sync.WaitGroup
	start := time.Now()
	for _, conn := range conns {
		talking.Go(func() {
			defer conn.Close()
			if err := converse(ctx, conn); err != nil {
				mu.Lock()
				defer mu.Unlock()
				broken = append(broken, fmt.Errorf("%s from %s, after %v: %w", ip, host, time.Since(start).Round(time.Millisecond), err))
			}
		})
	}
	return func() []error {
		talking.Wait()
		return broken
	}
}

// converse asks over a connection until the context ends or the connection breaks.
func converse(ctx context.Context, conn net.Conn) error {
	reader := bufio.NewReader(conn)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return err
		}
		_ = response.Body.Close()
	}
}

var (
	arpingSays = regexp.MustCompile(`(?m)^Unicast reply from \S+ \[([0-9A-F:]+)\]`)
	ndiscSays  = regexp.MustCompile(`(?m)^Target link-layer address: ([0-9A-F:]+)`)
)

// sayings counts what the LAN says of where an address is: the MAC addresses in the answers, and "" for no answer within a second.
func (s *stage) sayings(ctx context.Context, ip string) (wait func() map[string]int) {
	said := map[string]int{}
	done := make(chan struct{})
	command, says := []string{"arping", "-b", "-c", "1", "-w", "1", "-I", "eth0", ip}, arpingSays
	if strings.Contains(ip, ":") {
		command, says = []string{"ndisc6", "-1", "-r", "1", "-w", "1000", ip, "eth0"}, ndiscSays
	}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			out, _ := s.Command(context.WithoutCancel(ctx), lab.Client, command[0], command[1:]...).CombinedOutput()
			mac := ""
			if m := says.FindSubmatch(out); m != nil {
				mac = strings.ToLower(string(m[1]))
			}
			said[mac]++
			time.Sleep(50 * time.Millisecond) // as fast as a busy network asks
		}
	}()
	return func() map[string]int {
		<-done
		return said
	}
}

// speakerIsAnother waits until a node runs another speaker than the one with that process ID, and that speaker is ready.
func (s *stage) speakerIsAnother(t *testing.T, node string, pid int) {
	t.Helper()
	s.until(t, time.Minute, "another speaker on "+node, func(context.Context) (bool, string) {
		p, err := s.process(node, programs["speaker"])
		return err == nil && p.pid != pid, fmt.Sprint("there is none: ", err)
	})
	s.nodeReady(t.Context(), t, node)
}

// record returns the L2Announcement of the Service web.
func (s *stage) record(t *testing.T) *speakerv1alpha1.L2Announcement {
	t.Helper()
	var record speakerv1alpha1.L2Announcement
	if err := s.Client.Get(t.Context(), client.ObjectKey{Name: s.ns + ".web"}, &record); err != nil {
		t.Fatal(err)
	}
	return &record
}

// An experience is what clients see while speakers restart.
type experience struct {
	requests            tally // over new connections
	connections, broken int   // that were open before
	// questions that were asked of the LAN, and those of them that nobody answered within a second.
	questions, unanswered int
}

// note adds it to the table, after a number of restarts.
func (e experience) note(t *testing.T, n int) {
	t.Helper()
	soaked.note(t, fmt.Sprintf("%d times, new connections", n), "%v", e.requests)
	soaked.note(t, "connections that broke", "%d of %d", e.broken, e.connections)
	soaked.note(t, "questions on the LAN", "%d, %d of them without an answer for a second, no answer with another MAC", e.questions, e.unanswered)
}

// experiencing has clients ask for addresses that a node with that MAC answers for, and adds up what they see while something restarts. Twice
// meanwhile the client on the LAN forgets all its neighbours. Connections that break, and answers with another MAC, are errors.
func (s *stage) experiencing(t *testing.T, ips []string, mac string, sum *experience, restart func()) {
	t.Helper()
	running, stop := context.WithCancel(t.Context())
	defer stop()
	var stops []func(*tally)
	var talks []func() []error
	var said []func() map[string]int
	for _, ip := range ips {
		said = append(said, s.sayings(running, ip))
		for _, host := range []string{lab.Client, lab.Ext} {
			talks = append(talks, s.talk(running, t, host, ip))
			stops = append(stops, s.asking(t, host, []string{ip}, 80))
		}
	}
	go func() { // The client forgets, when the others have noticed.
		for range 2 {
			time.Sleep(1200 * time.Millisecond)
			_ = s.Command(running, lab.Client, "ip", "neigh", "flush", "dev", "eth0").Run()
		}
	}()
	restart()
	for _, stop := range stops {
		stop(&sum.requests)
	}
	stop()
	for _, wait := range talks {
		sum.connections += liveConnections
		for _, err := range wait() {
			sum.broken++
			t.Errorf("a connection broke: %v", err)
		}
	}
	for i, wait := range said {
		all := wait()
		if all[mac] == 0 {
			t.Errorf("no answer says that %s is at %s: %v", ips[i], mac, all)
		}
		for from, count := range all {
			switch sum.questions += count; from {
			case mac:
			case "":
				sum.unanswered += count
			default:
				t.Errorf("%d answers say that %s is at %s, want %s", count, ips[i], from, mac)
			}
		}
	}
}

// The speaker of the node that answers stops in one way or another and comes back. No connection ends, no new one fails, all answers on the LAN
// name one MAC, and nothing is written. The client forgets all its neighbours twice meanwhile, and the router confirms its own each second.
func TestSoakARestartMovesNothing(t *testing.T) {
	for _, row := range []struct {
		name string
		stop func(t *testing.T, s *stage, node string)
	}{
		{"its pod is deleted", func(t *testing.T, s *stage, node string) { s.deletePod(t, "speaker", node) }},
		{"its speaker is killed", func(t *testing.T, s *stage, node string) {
			if err := s.kill(node, programs["speaker"]); err != nil {
				t.Fatal(err)
			}
		}},
		{"all speakers are rolled out", func(t *testing.T, s *stage, _ string) {
			s.kubectl(t, "rollout", "restart", "-n", "tandem-system", "daemonset/tandem-speaker")
			s.kubectl(t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=120s")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, "node2")
			s.confirmOften(t)
			mac := s.mac(t, "node2")
			var seen experience
			var took []time.Duration
			n := repetitions(t, 10)
			for round := range n {
				if round > 0 && row.name == "its speaker is killed" {
					s.renewSpeaker(t, "node2")
				}
				for _, host := range []string{lab.Client, lab.Ext} {
					s.steady(t, host, ips)
				}
				before := s.record(t)
				p, err := s.process("node2", programs["speaker"])
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				s.experiencing(t, ips, mac, &seen, func() {
					row.stop(t, s, "node2")
					s.speakerIsAnother(t, "node2", p.pid)
					took = append(took, time.Since(start))
				})
				if after := s.record(t); after.ResourceVersion != before.ResourceVersion {
					t.Errorf("the record was written: %+v, it was %+v", after.Status, before.Status)
				}
			}
			seen.note(t, n)
			soaked.note(t, "until the speaker is ready again", "%s", spread(took))
		})
	}
}

// renewSpeaker has a new pod take the place of a node's speaker. A pod that crashes again is started after a back-off, which soon is longer than the
// grace. A new pod has none.
func (s *stage) renewSpeaker(t *testing.T, node string) {
	t.Helper()
	p, err := s.process(node, programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	s.deletePod(t, "speaker", node)
	s.speakerIsAnother(t, node, p.pid)
}

// deletePod deletes the pod of a component on a node, and does not wait for that.
func (s *stage) deletePod(t *testing.T, component, node string) {
	t.Helper()
	s.kubectl(t, "delete", "pods", "-n", "tandem-system", "-l", "app.kubernetes.io/component="+component, "--wait=false",
		"--field-selector=spec.nodeName="+node)
}

// confirmOften has the router confirm its neighbours each second, until the test ends.
func (s *stage) confirmOften(t *testing.T) {
	t.Helper()
	set := func(ctx context.Context, milliseconds int) error {
		for _, family := range []string{"ipv4", "ipv6"} {
			setting := fmt.Sprintf("net.%s.neigh.eth0.base_reachable_time_ms=%d", family, milliseconds)
			if out, err := s.Command(ctx, lab.Router, "sysctl", "-qw", setting).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", setting, err, out)
			}
		}
		return nil
	}
	if err := set(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set(context.Background(), 30000) })
}

// stopsForGood ends the speaker of a node, which says that it restarts, and nothing starts it again before the test ends.
func (s *stage) stopsForGood(t *testing.T, node string) {
	t.Helper()
	if err := s.StopComponent(t.Context(), node+"/kubelet"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.StartComponent(node + "/kubelet"); err != nil && !strings.Contains(err.Error(), "is running") {
			t.Error(err)
		}
	})
	p, err := s.process(node, programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until(t, patience, "the end of the speaker on "+node, func(context.Context) (bool, string) {
		_, err := s.process(node, programs["speaker"])
		return err != nil, "it runs"
	})
}

// The power of a node fails while the others wait for its speaker.
func TestSoakPowerCutDuringARestart(t *testing.T) {
	var outages []time.Duration
	for range repetitions(t, 5) {
		t.Run("once", func(t *testing.T) {
			s := newStage(t, dual)
			ips := s.heldBy(t, "node1")
			mac := s.mac(t, "node1")
			c := s.tcpdump(t, lab.Client)
			s.stopsForGood(t, "node1")
			time.Sleep(3 * time.Second)
			if node := s.record(t).Status.Node; node != "node1" {
				t.Errorf("%s has the Service while node1 is expected back", node)
			}
			mark := c.mark()
			outages = append(outages, s.outage(t, ips, func() {
				if err := s.StopNode(t.Context(), "node1"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := s.StartNode(context.Background(), "node1"); err != nil {
						t.Error(err)
					}
				})
			}, func(context.Context) (bool, string) { return c.taken(mark, ips, mac) })...)
		})
	}
	soaked.note(t, "until an address answers again", "%s", spread(outages))
}

// A speaker never returns. Its addresses move once, when the grace is over, and answer until then.
func TestASpeakerThatNeverReturns(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	mac := s.mac(t, "node1")
	c := s.tcpdump(t, lab.Client)
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	probes := s.probes(probing, lab.Client, ips)
	s.steady(t, lab.Client, ips)
	mark := c.mark()
	start := time.Now()
	s.stopsForGood(t, "node1")
	s.until(t, restartGrace+patience, "the move", func(context.Context) (bool, string) { return c.taken(mark, ips, mac) })
	took := time.Since(start).Round(100 * time.Millisecond)
	t.Logf("the addresses moved after %v", took)
	if took < restartGrace {
		t.Errorf("the addresses moved after %v, before the grace of %v was over", took, restartGrace)
	}
	s.steady(t, lab.Client, ips)
	stop()
	for i, answers := range probes() {
		t.Logf("%s: %s", ips[i], failures(answers, start))
	}
	holders := senders(slices.Concat(c.since(mark, ips[0], gratuitous), c.since(mark, ips[1], gratuitous)))
	delete(holders, mac) // node1 repeats its own announcement for four seconds, maybe until after the mark.
	if len(holders) != 1 {
		t.Errorf("the addresses were announced by %v after node1, want one node", holders)
	}
}
