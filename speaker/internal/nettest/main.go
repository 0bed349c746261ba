// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
)

// inside is the environment variable that has, in a test binary started by Main, the name of its namespace.
const inside = "NETTEST_NAMESPACE"

// Main runs the tests of a package in a network namespace of their own, and returns their exit code. It is for tests that need a fixed port,
// such as BFD's, which another program or another run of the tests may have; and for a library that opens sockets in goroutines of its own,
// which no test can move into a namespace. Main starts the test binary once more, in the namespace:
//
//	func TestMain(m *testing.M) { os.Exit(nettest.Main(m, nil)) }
//
// In the end it removes the namespace and those that New has made for tests that were killed. Before that it calls end, if it is not nil, with
// the name of each, to end the processes there. Without root, the tests run where they are.
func Main(m *testing.M, end func(namespace string)) int {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		return m.Run()
	}
	name := fmt.Sprintf("nettest%d", os.Getpid())
	defer removeAll(name, end)
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip %s: %v: %s", strings.Join(args, " "), err, out)
			return 1
		}
	}
	child := exec.Command("nsenter", append([]string{"--net=/run/netns/" + name, "--", os.Args[0]}, os.Args[1:]...)...)
	child.Env = append(os.Environ(), inside+"="+name)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := child.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Own returns the namespace that Main has made for the tests. The test is skipped if there is none.
func Own(t testing.TB) *Namespace {
	t.Helper()
	name := os.Getenv(inside)
	if name == "" {
		t.Skip("needs root for network namespaces")
	}
	handle, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handle.Close() })
	return &Namespace{Name: name, Handle: handle}
}

// removeAll removes the namespace that Main has made, and those of its tests.
func removeAll(name string, end func(namespace string)) {
	list, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.SplitSeq(string(list), "\n") {
		if ns, _, _ := strings.Cut(line, " "); ns == name || strings.HasPrefix(ns, name+"-") {
			if end != nil {
				end(ns)
			}
			_ = exec.Command("ip", "netns", "delete", ns).Run()
		}
	}
}
