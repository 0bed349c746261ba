// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a process and records it. It outlives the process that calls start: it leads a session of its own and
// holds no descriptor but its log. It belongs to the cgroup of its host, so that ending that cgroup ends it and all
// that it starts.
func (l *Lab) start(name string, command ...string) error {
	host, _, _ := strings.Cut(name, "/")
	group, err := os.Open(l.cgroupFor(host))
	if err != nil {
		return err
	}
	defer group.Close()
	log, err := os.OpenFile(l.log(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = filepath.Dir(l.log(name))
	cmd.Env = []string{"PATH=" + l.bin.path(), "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	_, start, err := stat(cmd.Process.Pid)
	// While this process lives it is the parent, and has to collect what its children leave.
	go func() { _ = cmd.Wait() }()
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	return l.record.add(entry{Process: &process{Name: name, Command: command, PID: cmd.Process.Pid, Start: start}})
}

// log returns the log of a process.
func (l *Lab) log(name string) string { return filepath.Join(l.dir, name+".log") }

// wait waits until ready returns nil. It ends early if the named process ends; its error holds what ready said last and
// the end of the process's log.
func (l *Lab) wait(ctx context.Context, name string, timeout time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if p, ok := l.record.process(name); ok && !p.running() {
			return fmt.Errorf("%s has ended: %w\n%s", name, err, l.tail(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s isn't ready (%w): %w\n%s", name, ctx.Err(), err, l.tail(name))
		case <-poll.C:
		}
	}
}

// tail returns the last lines of a process's log.
func (l *Lab) tail(name string) string {
	const last = 15
	content, err := os.ReadFile(l.log(name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-last):]
	return fmt.Sprintf("The last lines of %s:\n  %s", l.log(name), strings.Join(lines, "\n  "))
}

// kill ends a process at once and waits until it is gone.
func (p process) kill(ctx context.Context) error {
	// The descriptor names the process itself: between the check and the signal its number can't come to mean another.
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	// There is no such process, or the number has come to be that of a thread: ENOENT since Linux 6.15, EINVAL before.
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		return nil
	case err != nil:
		return fmt.Errorf("ending %s: %w", p.Name, err)
	}
	defer unix.Close(fd)
	if !p.running() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending %s: %w", p.Name, err)
	}
	return eventually(ctx, func() error {
		if p.running() {
			return fmt.Errorf("%s, process %d, doesn't end", p.Name, p.PID)
		}
		return nil
	})
}

// eventually calls done until it returns nil, for at most ten seconds.
func eventually(ctx context.Context, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A lab's cgroups form one tree, with the same path in each hierarchy:
//
//	/tandem-lab-NAME/HOST/daemons   what the lab starts on a host
//	/tandem-lab-NAME/HOST/pods      the kubelet's root: one cgroup for each pod of a node
//
// The unified hierarchy says what belongs to the lab. On a machine with version 1 controllers it stands beside those,
// and runc puts containers in the same place in all of them. The daemons have a leaf of their own because version 2
// allows no processes in a cgroup whose children have controllers.

// cgroup returns the path of the lab's cgroup.
func (l *Lab) cgroup() string { return "/tandem-lab-" + l.config.Name }

// podCgroup returns the path of the cgroup for a node's pods.
func (l *Lab) podCgroup(node string) string { return l.cgroup() + "/" + node + "/pods" }

// cgroupFor returns the directory of the cgroup for what the lab starts on a host.
func (l *Lab) cgroupFor(host string) string {
	return filepath.Join(l.hierarchies[0], l.cgroup(), host, "daemons")
}

// makePodCgroup makes the cgroup for a node's pods in every hierarchy. The kubelet insists that it exists, with all
// controllers that the machine has.
func (l *Lab) makePodCgroup(node string) error {
	for _, hierarchy := range l.hierarchies {
		if err := os.MkdirAll(hierarchy+l.podCgroup(node), 0o755); err != nil {
			return err
		}
	}
	if len(l.hierarchies) > 1 {
		return nil // The controllers are in the others, where they need no enabling.
	}
	dir := l.hierarchies[0]
	for name := range strings.SplitSeq(l.podCgroup(node)[1:], "/") {
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		enable := strings.ReplaceAll(" "+strings.TrimSpace(string(controllers)), " ", " +")
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(enable), 0); err != nil {
			return fmt.Errorf("enabling controllers: %w", err)
		}
		dir = filepath.Join(dir, name)
	}
	return nil
}

// hierarchies returns where cgroups are mounted, the unified hierarchy first.
func hierarchies() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var unified, others []string
	for line := range strings.Lines(string(mounts)) {
		switch fields := strings.Fields(line); fields[2] {
		case "cgroup2":
			unified = append(unified, fields[1])
		case "cgroup":
			others = append(others, fields[1])
		}
	}
	if len(unified) == 0 {
		return nil, errors.New("no cgroup version 2 hierarchy is mounted; beside version 1, " +
			"`mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` adds one")
	}
	return append(unified, others...), nil
}

// endCgroup ends every process in a cgroup and below it, and removes it from every hierarchy. It has to go: a kernel
// (6.18 for one) also kills what is cloned into a cgroup that was killed before.
func (l *Lab) endCgroup(ctx context.Context, cgroup string) error {
	unified := filepath.Join(l.hierarchies[0], cgroup)
	if err := os.WriteFile(filepath.Join(unified, "cgroup.kill"), []byte("1"), 0); err == nil {
		err = eventually(ctx, func() error {
			events, err := os.ReadFile(filepath.Join(unified, "cgroup.events"))
			if err == nil && !bytes.Contains(events, []byte("populated 0")) {
				err = fmt.Errorf("processes in %s don't end", unified)
			}
			return err
		})
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, hierarchy := range l.hierarchies {
		errs = append(errs, removeCgroup(ctx, filepath.Join(hierarchy, cgroup)))
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup and those below it from a hierarchy.
func removeCgroup(ctx context.Context, dir string) error {
	return eventually(ctx, func() error {
		var dirs []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			// Files of a cgroup can't be removed, and needn't be.
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing cgroup %s: %w", dir, err)
			}
		}
		return nil
	})
}
