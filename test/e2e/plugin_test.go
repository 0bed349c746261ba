// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/lab"
)

// builtPlugin builds kubectl-tandem of this tree, once, and returns its path.
var builtPlugin = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "tandem-e2e-"+labName(), "kubectl-tandem")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/tandem-lb/tandem/cmd/kubectl-tandem").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return path, nil
})

// plugin runs kubectl-tandem of this tree as the administrator on the control plane, and returns what it prints and its exit code.
func (s *stage) plugin(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	return s.pluginOn(t, lab.ControlPlane, args...)
}

// pluginOn runs it on a host.
func (s *stage) pluginOn(t *testing.T, host string, args ...string) (output string, code int) {
	t.Helper()
	path, err := builtPlugin()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.Kubectl(t.Context(), args...)
	for i, arg := range cmd.Args {
		if filepath.Base(arg) == "kubectl" {
			cmd.Args[i] = path
		}
		cmd.Args[i] = strings.Replace(cmd.Args[i], s.Namespace(lab.ControlPlane), s.Namespace(host), 1)
	}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("kubectl tandem %s: %v", strings.Join(args, " "), err)
	}
	t.Logf("$ kubectl tandem %s   (exit code %d)\n%s", strings.Join(args, " "), code, out)
	return string(out), code
}

// pluginSays runs the plugin, and fails the test if it exits with another code or does not print the texts.
func (s *stage) pluginSays(t *testing.T, code int, texts []string, args ...string) {
	t.Helper()
	out, got := s.plugin(t, args...)
	if got != code {
		t.Errorf("kubectl tandem %s exits with %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("kubectl tandem %s does not print %q:\n%s", strings.Join(args, " "), text, out)
		}
	}
}

// TestAUserDrainsANode: the plugin says what would move, and moves nothing; it drains the node, waits, and says that it may be rebooted. It refuses to
// move a Service to the drained node, and moves it there when the node is back.
func TestAUserDrainsANode(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	t.Cleanup(func() { s.kubectlAfter(t, "annotate", "node", "node1", "tandem-lb.io/drain-") })
	web := s.ns + "/web"
	s.pluginSays(t, 0, []string{web, strings.Join(ips, ", ")}, "drain", "node1", "--dry-run")
	if node := s.record(t).Status.Node; node != "node1" {
		t.Fatalf("the dry run moved the Service to %s", node)
	}
	s.pluginSays(t, 0, []string{web + " is on node", "SAFE TO REBOOT: node1"}, "drain", "node1")
	if node := s.record(t).Status.Node; node == "node1" || node == "" {
		t.Errorf("%q is on record after the drain, want another node", node)
	}
	s.pluginSays(t, 1, []string{"REFUSED: node1 cannot take the addresses", "it is drained"}, "move", "service/web", "--to", "node1", "-n", s.ns)
	s.pluginSays(t, 0, []string{"BACK: node1"}, "undrain", "node1", "--timeout=2m")
	s.pluginSays(t, 0, []string{web + " is on node1"}, "move", "service/web", "--to", "node1", "-n", s.ns, "--timeout=2m")
	s.becomes(t, "node1")
	for _, ip := range ips {
		s.reach(t, "client", ip, "/hostname")
	}
	// What only speakers see comes by a port-forward to each of them.
	out, code := s.plugin(t, "check", "--timeout=3m")
	if code == 2 || !strings.Contains(out, "PASS  sysctls: all nodes forward\n") || !strings.Contains(out, "kube-proxy: nftables\n") {
		t.Errorf("kubectl tandem check exits with %d, or does not say that all nodes forward by nftables", code)
	}
}

// TestAUserLooksAtAHealthyCluster: once a Service is announced, `status` finds nothing wrong, and the other commands that only read show who has its addresses.
// Speakers that a test before has restarted are given the time to see each other.
func TestAUserLooksAtAHealthyCluster(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(2 * time.Second) {
		out, code := s.plugin(t, "status")
		if code == 0 && strings.Contains(out, "✓ all is well") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("kubectl tandem status exits with %d:\n%s", code, out)
		}
	}
	s.pluginSays(t, 0, []string{"web", strings.Join(ips, ","), "Announced", "node1"}, "services", "-n", s.ns)
	s.pluginSays(t, 0, []string{"web", "node1"}, "l2", "-n", s.ns)
	s.pluginSays(t, 0, []string{s.ns + "/web", "by node1 on eth0"}, "ip", ips[0])
}
