// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// realtimePriority is the lowest of the real-time priorities: it goes before all programs without one, and before none with one.
const realtimePriority = 1

// realtime starts this program anew, as the same process, under the real-time policy SCHED_RR, so that other programs do not keep it from a
// processor. It returns nil if that has happened already. The policy is that of a thread, and those that the Go runtime starts have that of the
// thread which starts them. So it has to be there before the first.
func realtime() error {
	if attr, err := unix.SchedGetAttr(0, 0); err == nil && attr.Policy == unix.SCHED_RR {
		return nil
	}
	runtime.LockOSThread() // It is this thread that becomes the new program's first.
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: realtimePriority}, 0); err != nil {
		return fmt.Errorf("asking for SCHED_RR (has the container the capability SYS_NICE?): %w", err)
	}
	if err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("starting anew under SCHED_RR: %w", err)
	}
	return nil
}
