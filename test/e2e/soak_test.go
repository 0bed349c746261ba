// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// The tests in this file repeat a scenario, and note figures that TestMain prints as a table at the end. Each runs once, and as often as
// TANDEM_SOAK says where it is set: `make soak`.

// repetitions returns how often a scenario is played. One that takes long has a number that is the most.
func repetitions(t *testing.T, most int) int {
	t.Helper()
	text := os.Getenv("TANDEM_SOAK")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("TANDEM_SOAK is %q, and has to be the number of repetitions", text)
	}
	return min(n, most)
}

// figures are what the scenarios have counted and measured.
type figures struct {
	mu   sync.Mutex
	rows []string // guarded by mu; its columns are separated by tabs
}

var soaked figures

// note adds a line to the table.
func (f *figures) note(t *testing.T, what, format string, args ...any) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	value := fmt.Sprintf(format, args...)
	t.Logf("%s: %s", what, value)
	f.rows = append(f.rows, strings.TrimPrefix(t.Name(), "TestSoak")+"\t"+what+"\t"+value)
}

// print prints the table, if there is anything in it.
func (f *figures) print(w io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rows) == 0 {
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nScenario\tWhat\tFigure")
	for _, row := range f.rows {
		fmt.Fprintln(table, row)
	}
	table.Flush()
}

// spread describes measured times.
func spread(took []time.Duration) string {
	slices.Sort(took)
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("median %v, most %v of %d", round(took[len(took)/2]), round(took[len(took)-1]), len(took))
}

// tally counts requests of clients.
type tally struct {
	sent, failed int
	last         error
	broken       []cluster.Answer // of those that failed, the ones whose connection had been established
}

func (t *tally) add(answers []cluster.Answer) {
	t.sent += len(answers)
	for _, a := range answers {
		if a.Err != nil {
			t.failed, t.last = t.failed+1, a.Err
			if a.Connected {
				t.broken = append(t.broken, a)
			}
		}
	}
}

// underWay counts the established connections that failed while one of the changes happened. A router that spreads connections over several
// nodes sends the rest of a connection to another node when their number changes, and that node does not know the connection.
func (t tally) underWay(changes []time.Time) (n int) {
	const late = 200 * time.Millisecond // how late a test may learn of a change
	for _, a := range t.broken {
		if slices.ContainsFunc(changes, func(c time.Time) bool { return !c.Before(a.At) && c.Before(a.At.Add(a.Took+late)) }) {
			n++
		}
	}
	return n
}

// routeChanges collects when the routes to the addresses change in the router's kernel, from now on.
func (s *stage) routeChanges(t *testing.T, ips []string) (changes func() []time.Time) {
	t.Helper()
	var mu sync.Mutex
	var times []time.Time
	const mark = "198.18.0.1" // a route of the test's own, by which it sees that the monitor works
	seen := make(chan struct{})
	s.start(t, lab.Router, func(out io.Reader) {
		once := sync.Once{}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if slices.Contains(fields, mark) {
				once.Do(func() { close(seen) })
			}
			if slices.ContainsFunc(ips, func(ip string) bool { return slices.Contains(fields, ip) }) {
				mu.Lock()
				times = append(times, time.Now())
				mu.Unlock()
			}
		}
	}, "ip", "-o", "monitor", "route")
	for marked := false; !marked; {
		for _, verb := range []string{"replace", "delete"} {
			if out, err := s.Command(t.Context(), lab.Router, "ip", "route", verb, "blackhole", mark).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		select {
		case <-seen:
			marked = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(times)
	}
}

func (t tally) String() string {
	if t.failed == 0 {
		return fmt.Sprintf("none of %d requests failed", t.sent)
	}
	return fmt.Sprintf("%d of %d requests failed, the last: %v", t.failed, t.sent, t.last)
}

// asking has a host ask a port of every address, 50 times a second each, until stop is called.
func (s *stage) asking(t *testing.T, host string, ips []string, port int32) (stop func(*tally)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	wait := s.probesOf(ctx, host, ips, port)
	return func(sum *tally) {
		cancel()
		for i, a := range wait() {
			if len(a) == 0 {
				t.Errorf("%s has not asked %s at all", host, ips[i])
			}
			sum.add(a)
			var failed []time.Duration
			for _, answer := range a {
				if answer.Err != nil {
					failed = append(failed, answer.At.Sub(a[0].At).Round(10*time.Millisecond))
				}
			}
			if len(failed) > 0 {
				t.Logf("%s to %s port %d: no answer to %d of %d requests, sent %v to %v after the first", host, ips[i], port, len(failed), len(a),
					failed[0], failed[len(failed)-1])
			}
		}
	}
}

// answers waits until a port of every address answers a host, twenty times in a row.
func (s *stage) answers(t *testing.T, host string, ips []string, port int32) {
	t.Helper()
	s.until(t, patience, fmt.Sprintf("steady answers of port %d to %s", port, host), func(ctx context.Context) (bool, string) {
		for range 20 {
			for _, ip := range ips {
				if _, err := s.Get(ctx, host, cluster.URL(ip, fmt.Sprintf(":%d/hostname", port))); err != nil {
					return false, err.Error()
				}
			}
		}
		return true, ""
	})
}

// known waits until kube-proxy of each node knows a port of every address.
func (s *stage) known(t *testing.T, ips []string, port int32) {
	t.Helper()
	for _, node := range s.Nodes() {
		s.answers(t, node, ips, port)
	}
}

// withdrawals counts how often the router is told that one of the prefixes is unreachable, from now on. It reads what tcpdump says of BGP.
func (s *stage) withdrawals(t *testing.T, ips []string) (count func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s.startTcpdump(t, lab.Router, func(out io.Reader) {
		readWithdrawn(out, func(prefix string) {
			if slices.ContainsFunc(ips, func(ip string) bool { return host(ip) == prefix }) {
				mu.Lock()
				defer mu.Unlock()
				n++
			}
		})
	}, "-v", "tcp port 179")
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// readWithdrawn reads tcpdump -v and calls found for each prefix that an UPDATE message withdraws.
func readWithdrawn(tcpdump io.Reader, found func(prefix string)) {
	withdrawn := false
	for lines := bufio.NewScanner(tcpdump); lines.Scan(); {
		switch line := strings.TrimSpace(lines.Text()); {
		case strings.HasPrefix(line, "Withdrawn routes:"), strings.HasPrefix(line, "Multi-Protocol Unreach NLRI"):
			withdrawn = true
		case strings.Contains(line, "/") && !strings.Contains(line, " "):
			if withdrawn {
				found(line)
			}
		case !strings.HasPrefix(line, "AFI:"):
			withdrawn = false
		}
	}
}

func TestReadWithdrawn(t *testing.T) {
	const said = `
	Update Message (2), length: 28
	  Withdrawn routes:
	    198.51.100.200/32
	    198.51.100.201/32
	Update Message (2), length: 42
	  Next Hop (3), length: 4, Flags [T]: 198.51.100.11
	  Updated routes:
	    198.51.100.202/32
	Update Message (2), length: 46
	  Multi-Protocol Unreach NLRI (15), length: 20, Flags [O]: 
	    AFI: IPv6 (2), SAFI: Unicast (1)
	      2001:db8:51::1000/128
	Update Message (2), length: 29
	  Multi-Protocol Unreach NLRI (15), length: 3, Flags [O]: 
	    AFI: IPv6 (2), SAFI: Unicast (1)
	      End-of-Rib Marker (empty NLRI)
	Update Message (2), length: 68
	  Multi-Protocol Reach NLRI (14), length: 38, Flags [O]: 
	    AFI: IPv6 (2), SAFI: Unicast (1)
	    nexthop: 2001:db8:51::11, nh-length: 16, no SNPA
	      2001:db8:51::1001/128
`
	var got []string
	readWithdrawn(strings.NewReader(said), func(prefix string) { got = append(got, prefix) })
	if want := []string{"198.51.100.200/32", "198.51.100.201/32", "2001:db8:51::1000/128"}; !slices.Equal(got, want) {
		t.Errorf("withdrawn are %v, want %v", got, want)
	}
}

// Two Services share a pair of addresses. The one that the claims name is deleted and made again, over and over, while a client asks the
// other one. It is the nodes that ask first for a Service that was made again, and not the client: as long as kube-proxy of a node does not know a
// Service, the node forwards its packets as they are, and for two minutes conntrack then does the same with each connection from that address and port.
// A later request from the same port would be lost, whatever Tandem does.
func TestSoakTheParentOfSharedAddressesIsDeleted(t *testing.T) {
	for _, row := range []struct {
		name, client string
		announce     func(*stage, *testing.T)
	}{
		{"layer 2", lab.Client, (*stage).layer2},
		{"BGP", lab.Ext, (*stage).bgp},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := repetitions(t, 1000)
			s := newStage(t, dual)
			s.pool(t, "", lanIPv4, lanIPv6)
			row.announce(s, t)
			s.web(t, s.Nodes()...)
			ports := map[string]int32{"one": 80, "two": 81}
			sharer := func(name string, ips ...string) *corev1.Service {
				svc := s.service(name, v4, v6)
				svc.Spec.Ports = []corev1.ServicePort{{Port: ports[name], TargetPort: intstr.FromInt32(8080)}}
				svc.Annotations = map[string]string{ipamv1alpha1.AnnotationAllowSharedIP: "web"}
				if len(ips) > 0 {
					svc.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = strings.Join(ips, ",")
				}
				return svc
			}
			s.add(t, sharer("one"))
			ips := s.addresses(t, "one", 2)
			s.add(t, sharer("two", ips...))
			s.addresses(t, "two", 2)
			c := s.tcpdump(t, lab.Client)
			withdrawn := s.withdrawals(t, ips)
			var requests tally
			deleted, other := "one", "two"
			s.known(t, ips, ports[other])
			mark := c.mark()
			claims := s.claimUIDs(t, ips)
			for range n {
				s.answers(t, row.client, ips, ports[other])
				stop := s.asking(t, row.client, ips, ports[other])
				s.remove(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: deleted}})
				if after := s.claimUIDs(t, ips); !slices.Equal(after, claims) {
					t.Errorf("the claims are others without Service %s: %v, want %v", deleted, after, claims)
				}
				if err := s.Create(t.Context(), sharer(deleted, ips...)); err != nil {
					t.Fatal(err)
				}
				if got := s.addresses(t, deleted, 2); !slices.Equal(got, ips) {
					t.Fatalf("Service %s has %v, want %v", deleted, got, ips)
				}
				s.known(t, ips, ports[deleted])
				stop(&requests)
				deleted, other = other, deleted
			}
			var announced []packet
			for _, ip := range ips {
				announced = append(announced, c.since(mark, ip, gratuitous)...)
			}
			soaked.note(t, fmt.Sprintf("%d deletions", n), "%v", requests)
			soaked.note(t, "withdrawals that the router got", "%d", withdrawn())
			soaked.note(t, "gratuitous announcements on the LAN", "%d, of %d nodes", len(announced), len(senders(announced)))
			// A request without an answer is a figure: on a busy machine one may take longer than its time.
			if n := withdrawn(); n > 0 {
				t.Errorf("the router was told %d times that an address is unreachable", n)
			}
			if len(senders(announced)) > 1 {
				t.Errorf("the addresses moved: they were announced by %v", senders(announced))
			}
			if row.client == lab.Ext { // The last sharers go, and the count must see that, or it would have seen nothing above.
				s.remove(t, sharer("one"))
				s.remove(t, sharer("two"))
				s.until(t, patience, "withdrawals in the capture", func(context.Context) (bool, string) { return withdrawn() > 0, "none" })
			}
		})
	}
}

// The speakers, and then the leader of the controller managers, are started again and again while clients ask.
func TestSoakTandemRestarts(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	s.bgp(t)
	s.announcedFrom(t, ips, s.Nodes()...)
	for _, row := range []struct{ name, kind string }{
		{"speakers", "daemonset/tandem-speaker"},
		{"controller managers", "deployment/tandem-cloud-controller-manager"},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := repetitions(t, 20)
			var took []time.Duration
			requests := map[string]*tally{lab.Client: {}, lab.Ext: {}}
			for range n {
				stops := map[string]func(*tally){}
				for client := range requests {
					s.answers(t, client, ips, 80)
					stops[client] = s.asking(t, client, ips, 80)
				}
				start := time.Now()
				s.kubectl(t, "rollout", "restart", "-n", "tandem-system", row.kind)
				s.kubectl(t, "rollout", "status", "-n", "tandem-system", row.kind, "--timeout=120s")
				took = append(took, time.Since(start))
				for client, stop := range stops {
					s.answers(t, client, ips, 80)
					stop(requests[client])
				}
			}
			soaked.note(t, "time of a restart", "%s", spread(took))
			for _, client := range []string{lab.Client, lab.Ext} {
				soaked.note(t, fmt.Sprintf("%d restarts, asked from %s", n, client), "%v", *requests[client])
			}
		})
	}
}

// The leader of the controller managers is told to end, as an upgrade does, and the other one takes over. A Service is created meanwhile. A leader that
// kept its lease would make it wait until the lease expires, 15 s.
func TestSoakTheLeaderEnds(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	const deployment = "deployment/tandem-cloud-controller-manager"
	var took []time.Duration
	for range repetitions(t, 20) {
		s.kubectl(t, "rollout", "status", "-n", "tandem-system", deployment, "--timeout=120s")
		leader := s.leader(t)
		start := time.Now()
		s.deletePod(t, "cloud-controller-manager", leader)
		svc := s.service("web", v4, v6)
		if err := s.Create(t.Context(), svc); err != nil {
			t.Fatal(err)
		}
		s.addresses(t, "web", 2)
		took = append(took, time.Since(start))
		s.remove(t, svc)
	}
	soaked.note(t, "from the end of the leader to the addresses of a new Service", "%s", spread(took))
}

// saysAfter returns how long it takes from a moment until the condition Announced of a Service has a status.
func (s *stage) saysAfter(t *testing.T, start time.Time, service string, status metav1.ConditionStatus) time.Duration {
	t.Helper()
	s.says(t, service, ipamv1alpha1.ServiceConditionAnnounced, status, "")
	return time.Since(start)
}

// All speakers freeze at once, so that none of them can say anything any more, and then go on.
func TestSoakAllSpeakersStop(t *testing.T) {
	s := newStage(t, dual)
	s.heldBy(t, "node1")
	var stopped, resumed []time.Duration
	signal := func(signal unix.Signal) {
		for _, node := range s.Nodes() {
			p, err := s.process(node, programs["speaker"])
			if err == nil {
				err = unix.Kill(p.pid, signal)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { signal(unix.SIGCONT) })
	for range repetitions(t, 10) {
		s.saysAfter(t, time.Now(), "web", metav1.ConditionTrue)
		start := time.Now()
		signal(unix.SIGSTOP)
		stopped = append(stopped, s.saysAfter(t, start, "web", metav1.ConditionFalse))
		start = time.Now()
		signal(unix.SIGCONT)
		resumed = append(resumed, s.saysAfter(t, start, "web", metav1.ConditionTrue))
	}
	soaked.note(t, "until Announced is False", "%s", spread(stopped))
	soaked.note(t, "until Announced is True again", "%s", spread(resumed))
}

// A Service has an address that is in the subnet of no node, and only layer 2. It gets BGP.
func TestSoakAnAddressInNoSubnet(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.64/29")
	s.layer2(t)
	s.web(t, "node1")
	s.bgp(t)
	advertisement := s.object(t, "BGPAdvertisement")
	var told, healed []time.Duration
	for range repetitions(t, 20) {
		s.remove(t, advertisement)
		svc := s.service("web", v4)
		start := time.Now()
		if err := s.Create(t.Context(), svc); err != nil {
			t.Fatal(err)
		}
		told = append(told, s.saysAfter(t, start, "web", metav1.ConditionFalse))
		start = time.Now()
		advertisement = s.objects(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS}
spec: {addressPools: [$NS], peers: [$NS]}
`)[0]
		if err := s.Create(t.Context(), advertisement); err != nil {
			t.Fatal(err)
		}
		healed = append(healed, s.saysAfter(t, start, "web", metav1.ConditionTrue))
		s.remove(t, svc)
	}
	soaked.note(t, "until Announced is False", "%s", spread(told))
	soaked.note(t, "until Announced is True, from the right advertisement on", "%s", spread(healed))
}
