// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// speakerNamespace is where the tests run. GoBGP dials from goroutines of its own, which no thread of a test could move
// into a namespace, so the whole process is one level down.
const speakerNamespace = "BGPTEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(speakerNamespace) != "" {
		os.Exit(m.Run())
	}
	os.Exit(runInNamespace())
}

func runInNamespace() int {
	ns := fmt.Sprintf("bgptest%d", os.Getpid())
	defer removeNamespaces(ns)
	for _, args := range [][]string{{"netns", "add", ns}, {"-n", ns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip %s: %v: %s", strings.Join(args, " "), err, out)
			return 1
		}
	}
	child := exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns, "--", os.Args[0]}, os.Args[1:]...)...)
	child.Env = append(os.Environ(), speakerNamespace+"="+ns)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The daemons of a test that was killed must not outlive it.
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := child.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// removeNamespaces removes the namespaces whose names begin with prefix, and ends what still runs in them.
func removeNamespaces(prefix string) {
	list, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.SplitSeq(string(list), "\n") {
		if ns, _, _ := strings.Cut(line, " "); strings.HasPrefix(ns, prefix) {
			clearNamespace(ns)
			_ = exec.Command("ip", "netns", "delete", ns).Run()
		}
	}
}

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
