// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Router is a routing daemon that runs in a namespace until the test ends or Stop is called.
type Router struct {
	t         testing.TB
	namespace *Namespace
	pids      []int
	ask       []string // the command to which a question is appended
}

// Show asks the daemon by vtysh or birdc, and returns what it says.
func (r *Router) Show(question string) string {
	r.t.Helper()
	return Run(r.t, r.ask[0], append(r.ask[1:], question)...)
}

// Stop ends the daemon at once.
func (r *Router) Stop() {
	for _, pid := range r.pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	r.pids = nil
}

// StartFRR starts zebra and another daemon of FRR, bgpd or bfdd, with its configuration.
func StartFRR(t testing.TB, n *Namespace, daemon, config string) *Router {
	t.Helper()
	if _, err := os.Stat("/usr/lib/frr/" + daemon); err != nil {
		t.Fatalf("FRR is missing: apt-get install -y frr (%v)", err)
	}
	r := &Router{t: t, namespace: n, ask: []string{"vtysh", "-N", n.Name, "-c"}}
	for _, dir := range []string{"/run/frr/", "/etc/frr/"} {
		Run(t, "install", "-d", "-o", "frr", "-g", "frr", dir+n.Name)
		t.Cleanup(func() { _ = os.RemoveAll(dir + n.Name) })
	}
	t.Cleanup(r.Stop)
	for name, content := range map[string]string{"vtysh": "", "zebra": "", daemon: config} {
		if err := os.WriteFile(filepath.Join("/etc/frr", n.Name, name+".conf"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"zebra", daemon} {
		n.Exec(t, "/usr/lib/frr/"+program, "-d", "-N", n.Name, "-A", "127.0.0.1", "-P", "0", "-f", "/etc/frr/"+n.Name+"/"+program+".conf")
		text, err := os.ReadFile("/run/frr/" + n.Name + "/" + program + ".pid")
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		r.pids = append(r.pids, pid)
	}
	return r
}

// StartBIRD starts BIRD with its configuration, which need not say where it logs.
func StartBIRD(t testing.TB, n *Namespace, config string) *Router {
	t.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		t.Fatalf("BIRD is missing: apt-get install -y bird2 (%v)", err)
	}
	dir := t.TempDir()
	path, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	if err := os.WriteFile(path, []byte("log stderr all;\n"+config), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := &Router{t: t, namespace: n, ask: []string{"birdc", "-s", control, "-r"}}
	process := n.Command("bird", "-f", "-c", path, "-s", control)
	process.Stdout, process.Stderr = log, log
	ended, err := Start(process)
	if err != nil {
		t.Fatal(err)
	}
	r.pids = append(r.pids, process.Process.Pid) // ip(8) becomes the program that it executes
	t.Cleanup(func() { r.Stop(); <-ended })
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := exec.Command("birdc", "-s", control, "show", "status").CombinedOutput()
		if err == nil {
			return r
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("BIRD does not start: %s%s", out, text)
		}
	}
}
