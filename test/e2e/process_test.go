// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// programs are Tandem's programs by the component that runs them.
var programs = map[string]string{"speaker": "tandem-speaker", "cloud-controller-manager": "tandem-cloud-controller-manager"}

// process is a process of a container.
type process struct {
	pid    int
	fields map[string]string // of /proc/PID/status
}

// process finds the process that runs a program in the network namespace of a node, as those of Tandem do. The kubelet's probes run the speaker's
// program too, for a moment, as "tandem-speaker health".
func (s *stage) process(node, program string) (process, error) {
	var namespace unix.Stat_t
	if err := unix.Stat(s.Namespace(node), &namespace); err != nil {
		return process{}, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return process{}, err
	}
	for _, dir := range all {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		name, arguments, _ := strings.Cut(string(cmdline), "\x00")
		if err != nil || filepath.Base(name) != program || strings.HasPrefix(arguments, "health\x00") {
			continue
		}
		var stat unix.Stat_t
		if unix.Stat(filepath.Join(dir, "ns/net"), &stat) != nil || stat.Ino != namespace.Ino {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		p := process{fields: map[string]string{}}
		if p.pid, err = strconv.Atoi(filepath.Base(dir)); err != nil {
			return process{}, err
		}
		for line := range strings.Lines(string(status)) {
			field, value, _ := strings.Cut(line, ":")
			p.fields[field] = strings.TrimSpace(value)
		}
		return p, nil
	}
	return process{}, fmt.Errorf("%s does not run on %s", program, node)
}

// kill ends a program on a node at once, as a crash does.
func (s *stage) kill(node, program string) error {
	p, err := s.process(node, program)
	if err != nil {
		return err
	}
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("killing %s on %s: %w", program, node, err)
	}
	return nil
}

// logMemory logs how much memory Tandem's programs have resident.
func (s *stage) logMemory(t *testing.T) {
	t.Helper()
	for _, node := range s.Nodes() {
		for _, program := range programs {
			if p, err := s.process(node, program); err == nil {
				t.Logf("memory of %s on %s: %s resident, %s at most", program, node, p.fields["VmRSS"], p.fields["VmHWM"])
			}
		}
	}
}
