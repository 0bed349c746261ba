// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m, nil)) }

func TestMainRunsTestsInANamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	// A process is in the namespace of its first thread, which a function of Do may have had.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := exec.Command("ip", "netns", "identify", strconv.Itoa(syscall.Gettid())).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != os.Getenv(inside) || got == "" {
		t.Errorf("ip netns identify: %v, %q; want %q", err, got, os.Getenv(inside))
	}
	if n := New(t, "node"); !strings.HasPrefix(n.Name, os.Getenv(inside)+"-node-") {
		t.Errorf("a namespace made in that one is called %s", n.Name)
	}
}
