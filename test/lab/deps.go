// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// packages are the Debian packages that the lab needs, each with a program of its own that shows that it is there.
var packages = []struct{ name, program string }{
	{"iproute2", "ip"},
	{"procps", "sysctl"},
	{"runc", "runc"},
	{"containernetworking-plugins", "/usr/lib/cni/bridge"},
	{"nftables", "nft"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"frr", "/usr/lib/frr/bgpd"},
	{"bird2", "bird"},
	{"prometheus", "promtool"},
	{"chromium", "chromium"},
	// For the Pods of test/conformance.
	{"busybox-static", "busybox"},
	{"netcat-openbsd", "nc.openbsd"},
	{"wget", "wget"},
	// For looking, and for tests.
	{"curl", "curl"},
	{"iputils-ping", "ping"},
	{"iputils-arping", "arping"},
	{"ndisc6", "ndisc6"},
	{"tcpdump", "tcpdump"},
}

// MissingPackages returns the Debian packages that the lab needs and this machine lacks.
func MissingPackages() []string {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}

// InstallPackages installs what MissingPackages returns with apt-get. None of them starts a service.
func InstallPackages(ctx context.Context, progress io.Writer) (err error) {
	missing := MissingPackages()
	if len(missing) == 0 {
		return nil
	}
	// Installing frr would start a router in the namespace of this machine. Debian asks this script before it starts
	// anything; a machine that has one of its own has decided for itself.
	const policy = "/usr/sbin/policy-rc.d"
	if _, statErr := os.Stat(policy); errors.Is(statErr, fs.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(policy)) }()
	}
	fmt.Fprintf(progress, "Installing %s\n", strings.Join(missing, " "))
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-qq", "--yes", "--no-install-recommends"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := run(cmd); err != nil {
			return err
		}
	}
	if missing := MissingPackages(); len(missing) > 0 {
		return fmt.Errorf("still missing after installation: %s; is /usr/sbin in PATH?", strings.Join(missing, " "))
	}
	return nil
}
