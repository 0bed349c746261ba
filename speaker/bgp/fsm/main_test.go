// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// TestMain runs the tests in a namespace, since sessions dial from goroutines of their own. Each router is in one more. The daemons of a test
// that was killed end with it.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m, clearNamespace)) }

// clearNamespace ends what still runs in a namespace, and removes the files of its FRR.
func clearNamespace(ns string) {
	pids, _ := exec.Command("ip", "netns", "pids", ns).Output()
	for field := range strings.FieldsSeq(string(pids)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	os.RemoveAll("/run/frr/" + ns)
	os.RemoveAll("/etc/frr/" + ns)
}
