// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// sysctls are those of every host. Addresses are usable at once, every host may forward, and no reverse path filter
// drops the answers of an address that sits on another link.
var sysctls = []string{
	"net.ipv4.ip_forward=1",
	"net.ipv6.conf.all.forwarding=1",
	"net.ipv4.conf.all.rp_filter=0",
	"net.ipv4.conf.default.rp_filter=0",
	"net.ipv6.conf.all.accept_dad=0",
	"net.ipv6.conf.default.accept_dad=0",
}

// inotifyInstances is the least number of inotify instances that a user may have, where labs run side by side. Debian allows 128; a node takes
// eight, and a kubelet that gets none ends with "inotify_init: too many open files".
const inotifyInstances = 1024

// allowInotify raises the limit of this machine if it is lower. A machine that does not let it be changed keeps its own.
func allowInotify() error {
	const path = "/proc/sys/fs/inotify/max_user_instances"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || n >= inotifyInstances {
		return err
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(inotifyInstances)), 0); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// buildNetwork makes the namespaces and connects them.
func (l *Lab) buildNetwork(ctx context.Context) error {
	var group errgroup.Group
	for _, namespace := range l.plan.namespaces() {
		if err := l.record.add(entry{Namespace: namespace}); err != nil {
			return err
		}
		group.Go(func() error {
			if err := run(exec.CommandContext(ctx, "ip", "netns", "add", namespace)); err != nil {
				return err
			}
			settings := sysctls
			if namespace == l.plan.namespace(bridge) {
				settings = []string{"net.ipv6.conf.default.disable_ipv6=1"}
			}
			sysctl := []string{"--net=/run/netns/" + namespace, "--", "sysctl", "-qw"}
			return run(exec.CommandContext(ctx, "nsenter", append(sysctl, settings...)...))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, batch := range l.plan.links() {
		cmd := exec.CommandContext(ctx, "ip", "-n", batch.namespace, "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(batch.commands, "\n") + "\n")
		if err := run(cmd); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command. Its error holds what the command said.
func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Addresses returns the addresses of a host: its LAN addresses, or those of Ext behind the router; IPv4 first.
func (l *Lab) Addresses(host string) []netip.Addr { return l.plan.addresses(host) }

// Namespace returns the path of a host's network namespace.
func (l *Lab) Namespace(host string) string { return "/run/netns/" + l.plan.namespace(host) }

// Command returns a command that runs in the network namespace of a host, and in all other respects here.
func (l *Lab) Command(ctx context.Context, host, name string, args ...string) *exec.Cmd {
	// Not `ip netns exec`: it mounts another /sys, which hides the cgroups.
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + l.Namespace(host), "--", name}, args...)...)
}

// Inside calls f on a thread that is in the network namespace of a host. Sockets that f makes stay there; goroutines that it starts do not run there.
func (l *Lab) Inside(host string, f func() error) error { return inNamespace(l.Namespace(host), f) }

// Dial returns a dialer in the network namespace of a host. Addresses must be literal: a name would be looked up in the
// namespace of this process.
func (l *Lab) Dial(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		err := inNamespace(l.Namespace(host), func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("from %s: %w", host, err)
		}
		return conn, nil
	}
}

// HTTP returns a client whose every request is a connection of its own from the host. The client ends it by a reset, so that no kernel
// remembers it. Otherwise the pod keeps a TIME-WAIT socket of each connection for a minute, and of 100 requests a second some come to the same
// pod by a port that such a socket has: their SYN is lost (1 in 1,000 requests after a minute), whatever Tandem does.
func (l *Lab) HTTP(host string, timeout time.Duration) *http.Client {
	dial := l.Dial(host)
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = tcp.SetLinger(0)
			}
			return conn, err
		}},
	}
}

// inNamespace calls f on a thread that is in a network namespace. A socket belongs to the namespace in which it was
// made, so that it may be used outside afterwards.
func inNamespace(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine, because it is never unlocked: no other goroutine can come to run in the
		// namespace, whatever happens.
		runtime.LockOSThread()
		done <- func() error {
			namespace, err := os.Open(path)
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering %s: %w", path, err)
			}
			return f()
		}()
	}()
	return <-done
}

// SetLink takes the link of a host down, or up again, as if its cable were pulled: the host sees its carrier go.
func (l *Lab) SetLink(ctx context.Context, host string, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return l.setPort(ctx, host, state)
}

// SetForwarding makes the switch stop forwarding for a host, or start again, as if something between them had failed:
// the host keeps its carrier and sees nothing but silence.
func (l *Lab) SetForwarding(ctx context.Context, host string, forwards bool) error {
	if forwards {
		return l.setPort(ctx, host, "master", "br0")
	}
	return l.setPort(ctx, host, "nomaster")
}

func (l *Lab) setPort(ctx context.Context, host string, args ...string) error {
	if _, ok := l.plan.number(host); !ok {
		return fmt.Errorf("%s has no port on the LAN's switch", host)
	}
	set := []string{"-n", l.plan.namespace(bridge), "link", "set", port(host)}
	return run(exec.CommandContext(ctx, "ip", append(set, args...)...))
}
