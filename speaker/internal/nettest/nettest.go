// SPDX-License-Identifier: Apache-2.0

// Package nettest gives a test network namespaces of its own, in which it may do with interfaces, addresses and routes as it likes. They
// are removed when the test ends. A test that calls New or NewSwitch without root is skipped.
//
//	node := nettest.New(t, "node")
//	node.IP(t, "link add eth0 type veth peer name peer0")
//	node.Do(t, func() error { … })   // sockets that are opened in here are the namespace's
//
// Several namespaces are one LAN when they are plugged into a [Switch]. [Main] has all tests of a package run in one namespace.
//
// Programs must not import this package, since it imports testing.
package nettest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// patience bounds each command. None takes nearly as long.
const patience = 20 * time.Second

// A Namespace is a network namespace.
type Namespace struct {
	// Name is what `ip netns` calls it.
	Name string
	// Handle is open until the test ends.
	Handle netns.NsHandle
}

var created atomic.Int32

// New creates a namespace that lasts until the test ends. Its Name has name in it and is unique on this machine. In a package whose
// TestMain calls Main, it begins with the name of that namespace.
func New(t testing.TB, name string) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if outer := os.Getenv(inside); outer != "" {
		name = outer + "-" + name
	}
	n := &Namespace{Name: fmt.Sprintf("%s-%d-%d", name, os.Getpid(), created.Add(1))}
	Run(t, "ip", "netns", "add", n.Name)
	t.Cleanup(func() { Run(t, "ip", "netns", "delete", n.Name) })
	var err error
	if n.Handle, err = netns.GetFromName(n.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Handle.Close() })
	return n
}

// IP runs a command of ip(8) in the namespace. Its arguments are separated by spaces:
//
//	n.IP(t, "addr add %s/24 dev eth0", address)
func (n *Namespace) IP(t testing.TB, format string, args ...any) {
	t.Helper()
	Run(t, "ip", append([]string{"-n", n.Name}, strings.Fields(fmt.Sprintf(format, args...))...)...)
}

// Exec runs a program in the namespace, which must succeed, and returns what it printed.
func (n *Namespace) Exec(t testing.TB, name string, args ...string) string {
	t.Helper()
	return Run(t, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Command returns a program to be started in the namespace.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Do calls f in the namespace and waits for it. The test fails if f does.
func (n *Namespace) Do(t testing.TB, f func() error) {
	t.Helper()
	if err := <-n.start(f); err != nil {
		t.Fatal(err)
	}
}

// Go calls f in the namespace, in a goroutine, and closes done when f has returned. The test fails if f does.
func (n *Namespace) Go(t testing.TB, f func() error) (done <-chan struct{}) {
	ended, result := make(chan struct{}), n.start(f)
	go func() {
		defer close(ended)
		if err := <-result; err != nil {
			t.Error(err)
		}
	}()
	return ended
}

func (n *Namespace) start(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // It is never unlocked, so that the thread ends with the goroutine.
		if err := netns.Set(n.Handle); err != nil {
			result <- fmt.Errorf("entering the network namespace %s: %w", n.Name, err)
			return
		}
		result <- f()
	}()
	return result
}

// Run runs a program, which must succeed, and returns what it wrote to its standard output. Its standard error is not mixed in: ip(8) warns there
// that the kernel's list has changed while it was read, which is no part of the JSON.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	// The test's context has ended when its cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var warnings strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &warnings)
	}
	return string(out)
}

// Start starts a program, which ends with this process, however this ends. The program has been waited for when ended is closed.
func Start(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, waited := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(waited)
		// The kernel sends the signal when the thread ends that has started the program. The threads of Do and Go end with their functions, and
		// before that any goroutine may run on them. So this goroutine keeps its thread until the program has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return waited, <-started
}

// A Switch is an Ethernet bridge in a namespace of its own, with multicast snooping off:
//
//	eth0 of one host ──┬── switch ──┬── eth0 of another host
type Switch struct {
	ns    *Namespace
	ports map[*Namespace]string
	made  int
}

// NewSwitch creates a switch that lasts until the test ends. The Name of its namespace begins with name.
func NewSwitch(t testing.TB, name string) *Switch {
	t.Helper()
	s := &Switch{ns: New(t, name), ports: map[*Namespace]string{}}
	s.ns.IP(t, "link add br0 type bridge mcast_snooping 0")
	s.ns.IP(t, "link set br0 up")
	return s
}

// Plug gives a host an interface eth0, which is down, and connects it to the switch. The host must have no eth0. An empty mac is any.
func (s *Switch) Plug(t testing.TB, host *Namespace, mac string) {
	t.Helper()
	s.made++
	port := fmt.Sprint("p", s.made)
	if mac != "" {
		mac = "address " + mac
	}
	s.ns.IP(t, "link add %s type veth peer name eth0 %s netns %s", port, mac, host.Name)
	s.ns.IP(t, "link set %s master br0 up", port)
	s.ports[host] = port
}

// Await waits until frames pass between hosts whose eth0 is set up. The kernel takes note of a carrier a moment after it has set the interface up, on a
// busy machine a longer one, and drops what is sent until then.
func (s *Switch) Await(t testing.TB, hosts ...*Namespace) {
	t.Helper()
	for _, host := range hosts {
		for deadline := time.Now().Add(patience); !s.passes(t, host); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("No frames pass between the switch and eth0 of %s", host.Name)
			}
		}
	}
}

// passes reports whether the kernel has a host's eth0 for up, and the switch forwards at its port.
func (s *Switch) passes(t testing.TB, host *Namespace) bool {
	t.Helper()
	return strings.Contains(Run(t, "ip", "-n", host.Name, "link", "show", "eth0"), " state UP ") &&
		strings.Contains(Run(t, "ip", "-n", s.ns.Name, "-d", "link", "show", s.ports[host]), " state forwarding ")
}

// SetPort sets the switch's end of a host's cable up or down.
func (s *Switch) SetPort(t testing.TB, host *Namespace, state string) {
	t.Helper()
	s.ns.IP(t, "link set %s %s", s.ports[host], state)
}
