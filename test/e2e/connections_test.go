// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/test/lab"
)

// maxOpen is how many connections a speaker keeps on a port, whoever opens them.
const maxOpen = 64

// The client opens connections to each TCP port on which a speaker listens, and says nothing on them: 2,000 for each port, and 20,000 in `make soak`.
// The speaker keeps few of them, answers Prometheus, and stays a member of the speakers and the holder of its Service.
func TestSoakIdleConnections(t *testing.T) {
	n := 2000
	if os.Getenv("TANDEM_SOAK") != "" {
		n = 20000
	}
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	speaker, err := s.process("node2", programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	ports := s.listening(t, "node2", speaker.pid)
	if want := []uint16{7573, 7574}; !slices.Equal(ports, want) {
		t.Errorf("the speaker listens on %v, want %v", ports, want)
	}
	token := s.metricsToken(t)
	s.scrape(t, "node2", token)
	before := speaker.fields["VmRSS"]
	c := s.tcpdump(t, lab.Client)

	for _, port := range ports {
		address := netip.AddrPortFrom(s.Addresses("node2")[0], port).String()
		start := time.Now()
		for left := n; left > 0; left -= perIdler {
			s.idle(t, lab.Client, address, min(left, perIdler))
		}
		soaked.note(t, fmt.Sprintf("%d connections to port %d", n, port), "opened in %v", time.Since(start).Round(10*time.Millisecond))
		s.until(t, patience, fmt.Sprintf("few connections on port %d", port), func(ctx context.Context) (bool, string) {
			out, err := s.Command(ctx, "node2", "ss", "-Htn", "state", "established", fmt.Sprintf("( sport = :%d )", port)).CombinedOutput()
			open := strings.Count(string(out), "\n")
			return err == nil && open <= maxOpen, fmt.Sprint(open, " are open ", err)
		})
	}
	if got := s.scrape(t, "node2", token); !strings.Contains(got, fmt.Sprintf("\ntandem_membership_alive_speakers %d\n", len(s.Nodes()))) {
		t.Errorf("the metrics do not count %d speakers:\n%.2000s", len(s.Nodes()), got)
	}
	s.answeredBy(t, c, "node2", ips)
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
	}
	if holder := s.holder(t, "web", 2); holder != "node2" {
		t.Errorf("%s holds the Service, want node2 as before", holder)
	}
	after, err := s.process("node2", programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	if after.pid != speaker.pid {
		t.Error("the speaker was started again")
	}
	soaked.note(t, "memory of the speaker", "%s before, %s after, %s at most", before, after.fields["VmRSS"], after.fields["VmHWM"])
}

// listening returns the TCP ports on which a process of a node listens for others: those of loopback are left out.
func (s *stage) listening(t *testing.T, node string, pid int) []uint16 {
	t.Helper()
	out, err := s.Command(t.Context(), node, "ss", "-Hltnp").CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v: %s", err, out)
	}
	var ports []uint16
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if !strings.Contains(line, fmt.Sprintf("pid=%d,", pid)) || len(fields) < 4 || strings.HasPrefix(fields[3], "127.0.0.1:") {
			continue
		}
		port, err := strconv.ParseUint(fields[3][strings.LastIndex(fields[3], ":")+1:], 10, 16)
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		ports = append(ports, uint16(port))
	}
	slices.Sort(ports)
	return slices.Compact(ports) // a port may be open on an address of each family
}

// perIdler is less than what a process may have open by most systems' defaults, 4,096 files.
const perIdler = 4000

// idlerEnv makes a process of this test binary open connections and wait, instead of running tests. Its value is an address and a number.
const idlerEnv = "TANDEM_E2E_IDLE"

// idle has a process on a host open n connections. It returns when they are open, and the process lives until the test ends.
func (s *stage) idle(t *testing.T, host, address string, n int) {
	t.Helper()
	idler := s.Command(context.Background(), host, os.Args[0])
	idler.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", idlerEnv, address, n))
	idler.Stderr = os.Stderr
	end, err := idler.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := idler.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := idler.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = end.Close()
		_ = idler.Wait()
	})
	if line, err := bufio.NewReader(opened).ReadString('\n'); err != nil {
		t.Fatalf("opening %d connections to %s: %v, it said %q", n, address, err, line)
	}
}

// idleMain opens the connections of idlerEnv, and keeps them until standard input ends.
func idleMain(what string) error {
	var address string
	var n int
	if _, err := fmt.Sscanf(what, "%s %d", &address, &n); err != nil {
		return err
	}
	opened := make([]net.Conn, n)
	var group errgroup.Group
	group.SetLimit(32)
	for i := range n {
		group.Go(func() (err error) {
			opened[i], err = net.Dial("tcp", address)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Println("opened")
	_, err := io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(opened) // whose finalizers would close them
	return err
}

// metricsToken returns a token that may get the metrics of speakers.
func (s *stage) metricsToken(t *testing.T) string {
	t.Helper()
	s.create(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $NS}
rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $NS}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: $NS}]
`)
	return strings.TrimSpace(s.kubectl(t, "create", "token", "-n", s.ns, "prometheus"))
}

// scrape waits until the metrics of a node's speaker are served, to a host beyond the router, and returns them.
func (s *stage) scrape(t *testing.T, node, token string) string {
	t.Helper()
	client := s.HTTP(lab.Ext, 5*time.Second)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // nobody has signed the certificate
	var text string
	s.until(t, patience, "metrics of "+node, func(ctx context.Context) (bool, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s:7574/metrics", s.Addresses(node)[0]), nil)
		if err != nil {
			return false, err.Error()
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(request)
		if err != nil {
			return false, err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		text = string(body)
		return err == nil && response.StatusCode == http.StatusOK, fmt.Sprint(response.Status, err)
	})
	return text
}
