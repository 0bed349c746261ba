// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// frrDaemons are the daemons that StartFRR starts. Zebra comes first: the others connect to it.
var frrDaemons = []string{"zebra", "staticd", "bgpd", "bfdd"}

// StartFRR starts FRR on a host with a configuration as `show running-config` writes it. It replaces an FRR that runs
// there already. The host's FRR has a path space of its own, named like the host's network namespace.
func (l *Lab) StartFRR(ctx context.Context, host, config string) error {
	if l.plan.addresses(host) == nil {
		return fmt.Errorf("lab %s has no host %s", l.config.Name, host)
	}
	if err := l.StopFRR(ctx, host); err != nil {
		return err
	}
	if err := l.forgetRoutes(ctx, host); err != nil {
		return err
	}
	if err := l.prepareHost(host); err != nil {
		return err
	}
	space := l.plan.namespace(host)
	// The daemons give up root, and then write their sockets and read their configuration as this user.
	frr, err := user.Lookup("frr")
	if err != nil {
		return err
	}
	uid, uidErr := strconv.Atoi(frr.Uid)
	gid, gidErr := strconv.Atoi(frr.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return err
	}
	for _, parent := range []string{"/run/frr", "/etc/frr"} {
		dir := filepath.Join(parent, space)
		if err := l.record.add(entry{Directory: dir}); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.Chown(parent, uid, gid), os.Chown(dir, uid, gid)); err != nil {
			return err
		}
	}
	for file, content := range map[string]string{
		"frr.conf":   config + "\n",
		"vtysh.conf": "service integrated-vtysh-config\n",
	} {
		if err := os.WriteFile(filepath.Join("/etc/frr", space, file), []byte(content), 0o644); err != nil {
			return err
		}
	}

	for _, daemon := range frrDaemons {
		name := host + "/" + daemon
		command := []string{
			"nsenter", "--net=" + l.Namespace(host), "--", "/usr/lib/frr/" + daemon,
			"--pathspace", space, "--vty_addr", "127.0.0.1", "--vty_port", "0", "--log", "stdout",
		}
		if err := l.start(name, command...); err != nil {
			return err
		}
		if err := l.wait(ctx, name, 10*time.Second, func(context.Context) error {
			_, err := os.Stat(filepath.Join("/run/frr", space, daemon+".vty"))
			return err
		}); err != nil {
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, "vtysh", "--pathspace", space, "--boot").CombinedOutput(); err != nil {
		return fmt.Errorf("configuring FRR on %s: %w: %s", host, err, out)
	}
	return nil
}

// forgetRoutes takes the routes away that an FRR which was killed has left in a host's kernel, with their next hops. The next FRR does so
// itself, but leaves IPv6 routes over several next hops beside its own, so that the host would go on sending to nodes that are gone.
func (l *Lab) forgetRoutes(ctx context.Context, host string) error {
	const zebra = "11" // as a number, since not every version of ip knows the name
	if out, err := l.Command(ctx, host, "ip", "nexthop", "flush", "proto", zebra).CombinedOutput(); err != nil {
		return fmt.Errorf("forgetting the routes of FRR on %s: %w: %s", host, err, out)
	}
	return nil
}

// StopFRR kills FRR on a host, if it runs there. Its routes stay as they were, as after a crash of its daemons.
func (l *Lab) StopFRR(ctx context.Context, host string) error {
	for _, daemon := range frrDaemons {
		if p, ok := l.record.process(host + "/" + daemon); ok {
			if err := p.kill(ctx); err != nil {
				return err
			}
		}
		// A socket that is left would look like a daemon that is ready.
		if err := os.RemoveAll(filepath.Join("/run/frr", l.plan.namespace(host), daemon+".vty")); err != nil {
			return err
		}
	}
	return nil
}

// Vtysh asks FRR on a host and returns its answer: `show bgp ipv6 unicast json`, for example.
func (l *Lab) Vtysh(ctx context.Context, host string, commands ...string) (string, error) {
	args := []string{"--pathspace", l.plan.namespace(host)}
	for _, command := range commands {
		args = append(args, "--command", command)
	}
	out, err := exec.CommandContext(ctx, "vtysh", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("FRR on %s: %w: %s", host, err, out)
	}
	return string(out), nil
}
