// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	first := process{Name: "node1/kubelet", Command: []string{"kubelet"}, PID: 10, Start: 100}
	again := process{Name: "node1/kubelet", Command: []string{"kubelet"}, PID: 12, Start: 300}
	proxy := process{Name: "node1/kube-proxy", Command: []string{"kube-proxy"}, PID: 11, Start: 200}
	entries := []entry{
		{Cgroup: "/tandem-lab-x"},
		{Namespace: "x-node1"},
		{Process: &first},
		{Process: &proxy},
		{Directory: "/run/frr/x-router"},
		{Process: &again},
	}
	for _, e := range entries {
		if err := r.add(e); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("another process reads the latest first", func(t *testing.T) {
		want := []entry{entries[5], entries[4], entries[3], entries[2], entries[1], entries[0]}
		if diff := cmp.Diff(want, open(t, dir).all()); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
	})
	t.Run("a process that was started again counts once", func(t *testing.T) {
		if diff := cmp.Diff([]process{again, proxy}, open(t, dir).processes()); diff != "" {
			t.Errorf("processes (-want +got):\n%s", diff)
		}
	})
	t.Run("a line that was cut off spoils neither those before nor those after", func(t *testing.T) {
		file, err := os.OpenFile(filepath.Join(dir, "record.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString("\n{\"names"); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		last := entry{Namespace: "x-node2"}
		if err := open(t, dir).add(last); err != nil {
			t.Fatal(err)
		}
		got := open(t, dir).all()
		if len(got) != len(entries)+1 {
			t.Fatalf("got %d entries, want %d", len(got), len(entries)+1)
		}
		if diff := cmp.Diff(last, got[0]); diff != "" {
			t.Errorf("last entry (-want +got):\n%s", diff)
		}
	})
}

func open(t *testing.T, dir string) *record {
	t.Helper()
	r, err := openRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 243534 1 2 3"
	for _, test := range []struct {
		name      string
		stat      string
		wantState byte
		wantStart uint64
		wantError bool
	}{
		{name: "a plain name", stat: "42 (etcd)" + rest, wantState: 'S', wantStart: 243534},
		{name: "a name with spaces and parentheses", stat: "42 (a) b (c)" + rest, wantState: 'S', wantStart: 243534},
		{name: "a line that was cut off", stat: "42 (etcd) S 1", wantError: true},
		{name: "nothing", stat: "", wantError: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, start, err := parseStat([]byte(test.stat))
			if (err != nil) != test.wantError {
				t.Fatalf("error = %v, want one: %t", err, test.wantError)
			}
			if err == nil && (state != test.wantState || start != test.wantStart) {
				t.Errorf("parseStat = %c, %d, want %c, %d", state, start, test.wantState, test.wantStart)
			}
		})
	}
}

func TestKillSparesARecycledPID(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, start, err := stat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, or the test fails below
		close(ended)
	}()

	recycled := process{Name: "x", PID: cmd.Process.Pid, Start: start - 1}
	if err := recycled.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	same := process{Name: "x", PID: cmd.Process.Pid, Start: start}
	if !same.running() {
		t.Fatal("a process with the same number and another start was killed")
	}
	if err := same.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ended
	if same.running() {
		t.Error("the process still runs")
	}
	if err := same.kill(t.Context()); err != nil {
		t.Errorf("killing what has ended: %v", err)
	}
}
