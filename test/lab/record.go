// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// record lists what a lab has made outside its state directory, in a file that grows by a line before a thing is
// made, or, for a process, as soon as it has a number. Taking a lab down needs nothing else, however the process that
// brought it up has ended. (A process that ends between the start of another and its line leaves that one to its
// cgroup.)
type record struct {
	mu      sync.Mutex // guards all following fields
	file    string
	entries []entry
}

// entry has one field set.
type entry struct {
	Namespace string   `json:"namespace,omitempty"` // name of a network namespace under /run/netns
	Cgroup    string   `json:"cgroup,omitempty"`    // path of a cgroup below the root of each hierarchy
	Directory string   `json:"directory,omitempty"` // absolute path outside the state directory
	Process   *process `json:"process,omitempty"`
}

// process is a program of the lab, started at least once.
type process struct {
	// Name is the host and the program: "node1/kubelet".
	Name    string   `json:"name"`
	Command []string `json:"command"`
	PID     int      `json:"pid"`
	// Start is when the process started, in clock ticks since boot. A process with the same PID and another start is
	// a different one, and none of the lab's business.
	Start uint64 `json:"start"`
}

// openRecord reads the record of a state directory, or starts one.
func openRecord(dir string) (*record, error) {
	r := &record{file: filepath.Join(dir, "record.jsonl")}
	content, err := os.ReadFile(r.file)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e entry
		// A line that was cut off by a crash describes a thing that was not made yet.
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			r.entries = append(r.entries, e)
		}
	}
	return r, lines.Err()
}

func (r *record) add(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	file, err := os.OpenFile(r.file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	// The newline comes first, so that a line that was cut off spoils no other.
	if _, err := fmt.Fprintf(file, "\n%s", line); err != nil {
		return err
	}
	r.entries = append(r.entries, e)
	return nil
}

// all returns every entry, the latest first: the order in which to take things down.
func (r *record) all() []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := slices.Clone(r.entries)
	slices.Reverse(entries)
	return entries
}

// processes returns the latest entry of each process that was ever started, in the order of their first start.
func (r *record) processes() []process {
	r.mu.Lock()
	defer r.mu.Unlock()
	var processes []process
	for _, e := range r.entries {
		if e.Process == nil {
			continue
		}
		if i := slices.IndexFunc(processes, func(p process) bool { return p.Name == e.Process.Name }); i >= 0 {
			processes[i] = *e.Process
		} else {
			processes = append(processes, *e.Process)
		}
	}
	return processes
}

// process returns the latest entry of the process of that name.
func (r *record) process(name string) (process, bool) {
	processes := r.processes()
	i := slices.IndexFunc(processes, func(p process) bool { return p.Name == name })
	if i < 0 {
		return process{}, false
	}
	return processes[i], true
}

// running reports whether p is alive. A zombie is not.
func (p process) running() bool {
	state, start, err := stat(p.PID)
	return err == nil && state != 'Z' && state != 'X' && start == p.Start
}

// stat returns the state of a process and its start time.
func stat(pid int) (state byte, start uint64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStat(content)
}

// parseStat reads proc_pid_stat(5). The second field is the program's name in parentheses and may itself hold spaces
// and parentheses; the third is the state and the twenty-second the start time.
func parseStat(content []byte) (state byte, start uint64, err error) {
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("stat of a process has only %d fields after its name", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return fields[0][0], start, err
}
