// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/speaker"
)

// slacken starts this program anew, as the same process, with a timer slack. It returns nil if that has happened already, or if the kernel grants
// none, as to threads with a real-time policy.
//
// A speaker with nothing to do is woken some forty times a second, by timers and packets, for a few microseconds of work each. While it works, a
// thread of the Go runtime (sysmon) looks each 20 µs whether a goroutine holds the others up, which costs as much as the work. The runtime asks
// the kernel to be woken after these 20 µs: with the slack the work is over by then. The slack belongs to a thread, and a thread that the
// runtime starts has that of the one which starts it. So it has to be there before the first.
func slacken() error {
	runtime.LockOSThread() // It is this thread that becomes the new program's first.
	defer runtime.UnlockOSThread()
	if slack, err := currentSlack(); err != nil || slack == speaker.TimerSlack {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(speaker.TimerSlack), 0, 0, 0); err != nil {
		return fmt.Errorf("setting the timer slack: %w", err)
	}
	if slack, err := currentSlack(); err != nil || slack != speaker.TimerSlack {
		return err
	}
	program, err := os.Executable() // and not /proc/self/exe, by which the process would be called exe
	if err == nil {
		err = syscall.Exec(program, os.Args, os.Environ())
	}
	return fmt.Errorf("starting anew with a timer slack: %w", err)
}

// currentSlack returns the timer slack of the calling thread.
func currentSlack() (time.Duration, error) {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("asking for the timer slack: %w", err)
	}
	return time.Duration(slack), nil
}
