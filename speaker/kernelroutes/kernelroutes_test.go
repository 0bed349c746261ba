// SPDX-License-Identifier: Apache-2.0

package kernelroutes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// TestMain runs the tests in a network namespace.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m, nil)) }

// patience bounds every wait; nothing is expected to take that long.
const patience = 20 * time.Second

func entry(prefix, iface string) Entry { return Entry{netip.MustParsePrefix(prefix), iface} }

// run runs a Table until the test ends or the function that it returns is called.
func run(t *testing.T) (table *Table, stop func()) {
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	table = New(signal.New())
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return table, stop
}

// inKernel returns what `ip` shows of our routes, and of all addresses of a single length on these interfaces, sorted: "192.0.2.10 on
// tandem-routes".
func inKernel(t *testing.T, interfaces ...string) []string {
	t.Helper()
	var found []string
	for _, f := range []string{"-4", "-6"} {
		var routes []struct{ Dst, Dev string }
		if err := json.Unmarshal([]byte(nettest.Run(t, "ip", f, "-j", "route", "show", "proto", "75")), &routes); err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			found = append(found, r.Dst+" via "+r.Dev)
		}
	}
	for _, name := range interfaces {
		var links []struct {
			Addresses []struct {
				Local  string
				Length int `json:"prefixlen"`
				Scope  string
			} `json:"addr_info"`
		}
		if err := json.Unmarshal([]byte(nettest.Run(t, "ip", "-j", "addr", "show", "dev", name)), &links); err != nil {
			t.Fatal(err)
		}
		for _, a := range links[0].Addresses {
			if a.Scope == "global" {
				found = append(found, fmt.Sprintf("%s/%d on %s", a.Local, a.Length, name))
			}
		}
	}
	slices.Sort(found)
	return found
}

// want waits until the kernel has these.
func want(t *testing.T, what string, interfaces []string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		diff := cmp.Diff(want, inKernel(t, interfaces...))
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s, the kernel has (-want +got):\n%s", what, diff)
		}
	}
}

// gone waits until an interface does not exist.
func gone(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(patience); strings.Contains(nettest.Run(t, "ip", "-br", "link"), name); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("interface %s still exists", name)
		}
	}
}

var (
	four, six = entry("192.0.2.10/32", ""), entry("2001:db8:c::10/128", "")
	aggregate = entry("2001:db8:c::/120", "")
)

func on(e Entry, iface string) Entry { e.Interface = iface; return e }

func TestRoutesWithoutAnInterface(t *testing.T) {
	table, stop := run(t)
	table.Set([]Entry{six, four, aggregate, four})
	all := []string{"192.0.2.10 via tandem-routes", "2001:db8:c::10 via tandem-routes", "2001:db8:c::/120 via tandem-routes"}
	none := []string{Device} // which has no address
	want(t, "at first", nil, all...)

	nettest.Run(t, "ip", "route", "flush", "proto", "75")
	nettest.Run(t, "ip", "-6", "route", "flush", "proto", "75")
	want(t, "after a flush", none, all...)
	nettest.Run(t, "ip", "link", "set", Device, "down")
	want(t, "after the interface was set down", nil, all...)
	nettest.Run(t, "ip", "link", "delete", Device)
	want(t, "after the interface was deleted", nil, all...)

	table.Set([]Entry{four})
	want(t, "without two", none, all[0])
	stop()
	want(t, "while no Table runs", none, all[0])
	table, _ = run(t)
	table.Set([]Entry{six})
	want(t, "by the next Table", none, all[1])
	if err := table.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	if got := inKernel(t); len(got) > 0 {
		t.Errorf("after Clear, the kernel has %v", got)
	}
	gone(t, Device)
}

// TestAnInterfaceOfAnotherProgram is never deleted, and keeps the addresses that are not ours.
func TestAnInterfaceOfAnotherProgram(t *testing.T) {
	nettest.Run(t, "ip", "link", "add", "kube-lb0", "type", "bridge")
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", "kube-lb0") })
	nettest.Run(t, "ip", "addr", "add", "203.0.113.1/32", "dev", "kube-lb0")
	table, stop := run(t)
	table.Set([]Entry{on(four, "kube-lb0")})
	for deadline := time.Now().Add(patience); table.State().Err == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no error while the interface is down")
		}
	}
	if err := table.State().Err.Error(); err != "interface kube-lb0: it is down, and was not made by Tandem: set it up" {
		t.Errorf("error %q", err)
	}
	nettest.Run(t, "ip", "link", "set", "kube-lb0", "up")
	table.Set([]Entry{on(four, "kube-lb0"), on(six, "kube-lb0"), on(aggregate, "kube-lb0")})
	names := []string{"kube-lb0"}
	all := []string{
		"203.0.113.1/32 on kube-lb0", "192.0.2.10 via kube-lb0", "192.0.2.10/32 on kube-lb0", "2001:db8:c::10 via kube-lb0",
		"2001:db8:c::10/128 on kube-lb0", "2001:db8:c::/120 via kube-lb0",
	}
	want(t, "at first", names, all...)
	nettest.Run(t, "ip", "addr", "del", "192.0.2.10/32", "dev", "kube-lb0")
	want(t, "after an address was removed", names, all...)
	stop()
	if err := Clear(); err != nil {
		t.Fatal(err)
	}
	want(t, "after Clear", names, all[0])
}

// TestAnAddressOfAnotherProgram stays its own, until it removes it.
func TestAnAddressOfAnotherProgram(t *testing.T) {
	nettest.Run(t, "ip", "link", "add", "kube-lb1", "type", "bridge")
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", "kube-lb1") })
	nettest.Run(t, "ip", "link", "set", "kube-lb1", "up")
	nettest.Run(t, "ip", "addr", "add", "192.0.2.10/32", "dev", "kube-lb1")
	names := []string{"kube-lb1"}
	table, stop := run(t)
	table.Set([]Entry{on(four, "kube-lb1"), on(six, "kube-lb1")})
	want(t, "at first", names, "192.0.2.10/32 on kube-lb1", "2001:db8:c::10 via kube-lb1", "2001:db8:c::10/128 on kube-lb1")
	for deadline := time.Now().Add(patience); table.State().Err == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no error while another program has the address")
		}
	}
	const text = "192.0.2.10/32 is on kube-lb1 already, by another program: when it is removed there, Tandem adds its own"
	if err := table.State().Err.Error(); err != text {
		t.Errorf("error %q", err)
	}
	if err := table.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "after Clear", names, "192.0.2.10/32 on kube-lb1")

	table.Set([]Entry{on(four, "kube-lb1")})
	nettest.Run(t, "ip", "addr", "del", "192.0.2.10/32", "dev", "kube-lb1")
	ours := []string{"192.0.2.10 via kube-lb1", "192.0.2.10/32 on kube-lb1"}
	want(t, "when it has removed it", names, ours...)
	nettest.Run(t, "ip", "route", "flush", "proto", "75")
	want(t, "after a flush of routes alone", names, ours...)
	stop()
	if err := Clear(); err != nil {
		t.Fatal(err)
	}
	want(t, "after the last Clear", names)
}

// TestAnInterfaceThatFailsStays has one that cannot be set up, since the interface below it has the same MAC.
func TestAnInterfaceThatFailsStays(t *testing.T) {
	nettest.Run(t, "ip", "link", "add", "below0", "address", "02:00:00:00:00:01", "type", "bridge")
	t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", "below0") })
	nettest.Run(t, "ip", "link", "add", "made1", "link", "below0", "address", "02:00:00:00:00:01", "type", "macvlan")
	nettest.Run(t, "ip", "link", "set", "made1", "alias", alias)
	table, _ := run(t)
	table.Set([]Entry{on(four, "made1")})
	for deadline := time.Now().Add(patience); table.State().Err == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no error while the interface cannot be set up")
		}
	}
	nettest.Run(t, "ip", "link", "show", "made1")
	if failed := map[string]bool{"made1": true}; !isOn(failed, []Entry{on(four, "made1")}, four.Prefix) ||
		isOn(failed, []Entry{on(four, "made1")}, six.Prefix) {
		t.Error("a route of an interface that failed is taken for none of ours")
	}
	nettest.Run(t, "ip", "link", "set", "made1", "address", "02:00:00:00:00:02")
	want(t, "when it can", []string{"made1"}, "192.0.2.10 via made1", "192.0.2.10/32 on made1")
	if err := table.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, "made1")
}

func TestAnInterfaceIsMadeAndDeleted(t *testing.T) {
	table, stop := run(t)
	table.Set([]Entry{on(six, "made0"), four})
	want(t, "at first", nil, "192.0.2.10 via tandem-routes", "2001:db8:c::10 via made0")
	want(t, "on the interface", []string{"made0"}, "192.0.2.10 via tandem-routes", "2001:db8:c::10 via made0", "2001:db8:c::10/128 on made0")
	stop()
	if err := Clear(); err != nil {
		t.Fatal(err)
	}
	gone(t, "made0")
	gone(t, Device)
}

// A list that another program changes while it is read is read again, and is an error only if that goes on and on.
func TestInterruptedLists(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		interruptions, dumps int
		fails                bool
	}{
		{"none", 0, 1, false},
		{"two changes", 2, 3, false},
		{"a change each time", 1000, mostDumps, true},
	} {
		dumps := 0
		all, err := whole(func() ([]int, error) {
			if dumps++; dumps <= tt.interruptions {
				return nil, netlink.ErrDumpInterrupted
			}
			return []int{dumps}, nil
		})
		if dumps != tt.dumps || (err != nil) != tt.fails || err == nil && !slices.Equal(all, []int{dumps}) {
			t.Errorf("%s: %d dumps, want %d, with %v and the error %v", tt.name, dumps, tt.dumps, all, err)
		}
	}
}

func TestPermitted(t *testing.T) {
	if !Permitted() {
		t.Error("root is not permitted to change routes")
	}
}
