// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const realtimeEnv = "TANDEM_TEST_REALTIME"

// TestRealtime starts itself as another process, all of whose threads have to be under SCHED_RR. Without the
// capability there is an error that names it.
func TestRealtime(t *testing.T) {
	if os.Getenv(realtimeEnv) != "" {
		if err := realtime(); err != nil {
			t.Fatal(err)
		}
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			id, _ := strconv.Atoi(thread.Name())
			if attr, err := unix.SchedGetAttr(id, 0); err != nil || attr.Policy != unix.SCHED_RR || attr.Priority != realtimePriority {
				t.Errorf("thread %d: %+v, %v", id, attr, err)
			}
		}
		return
	}
	start := func(t *testing.T) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRealtime$", "-test.v")
		cmd.Env = append(os.Environ(), realtimeEnv+"=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Run("with the capability SYS_NICE", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root for a real-time policy")
		}
		if out, err := start(t); err != nil || !strings.Contains(out, "--- PASS: TestRealtime") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("without it", func(t *testing.T) {
		// What is dropped is dropped for this thread and the process that it starts. The thread ends with the goroutine of this subtest.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_NICE, 0, 0, 0); err != nil && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		if out, err := start(t); err == nil || !strings.Contains(out, "has the container the capability SYS_NICE?") {
			t.Errorf("%v: %s", err, out)
		}
	})
}
