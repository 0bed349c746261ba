// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tandem-lb/tandem/speaker"
)

const slackEnv = "TANDEM_TEST_TIMER_SLACK"

// TestSlacken starts itself as another process, all of whose threads have to have the slack.
func TestSlacken(t *testing.T) {
	if os.Getenv(slackEnv) != "" {
		if err := slacken(); err != nil {
			t.Fatal(err)
		}
		const threads = 8
		found := make(chan string, threads)
		var held sync.WaitGroup // until all have answered, so that each has a thread of its own
		held.Add(threads)
		for range threads {
			go func() {
				runtime.LockOSThread()
				slack, err := currentSlack()
				found <- fmt.Sprint(slack, " ", err)
				held.Done()
				held.Wait()
			}()
		}
		for range threads {
			if got, want := <-found, fmt.Sprint(speaker.TimerSlack, " ", nil); got != want {
				t.Errorf("a thread has the slack %s, want %s", got, want)
			}
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSlacken$", "-test.v")
	cmd.Env = append(os.Environ(), slackEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestSlacken") {
		t.Errorf("%v: %s", err, out)
	}
}
