// SPDX-License-Identifier: Apache-2.0

// Package kernelroutes puts prefixes into the node's kernel, for routing software of the node to redistribute: FRR by `redistribute
// kernel` or `redistribute connected`, BIRD by `learn` or its protocol direct.
//
// A caller hands over all entries that there are to be, and [Table] makes the kernel have them:
//
//	entry                            in the kernel
//	192.0.2.10/32 on no interface    ip route add 192.0.2.10 dev tandem-routes proto 75
//	192.0.2.10/32 on kube-lb0        the same on kube-lb0, and ip address add 192.0.2.10/32 dev kube-lb0
//	192.0.2.0/24 on kube-lb0         ip route add 192.0.2.0/24 dev kube-lb0 proto 75
//
// The interface tandem-routes has no address, so that no port of the node is reachable by 192.0.2.10. Packets for ports that kube-proxy
// serves never meet the route, since their destination is translated before; all others end on the interface, which sends nothing
// anywhere. A route of the type unreachable would do that too, but the node's own connections to the address would fail: the kernel looks
// up the route of a local connection before it translates the destination.
//
// Interfaces that do not exist are made, as dummies or, by a kernel without them, as bridges without ports. They bear an alias, by which
// they are known and in the end deleted. Others are used as they are.
//
// # What is ours
//
// The routes bear the protocol number 75, which iproute2 assigns to nobody. They are also the ledger: an address on an interface is ours if
// there is a route of ours to it on that interface. So a Table needs no memory, and one that starts after another goes on with what that
// one has left. Nothing is removed before the first Set. An address that is there without such a route is another program's: it stays, and
// the entry is an error until that program removes it.
//
// What another program removes (systemd-networkd and NetworkManager remove routes that they do not know) is put back when the kernel says
// so, within a second; every 30 s all is looked at.
package kernelroutes

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/signal"
)

const (
	// Protocol is the protocol number of our routes. 80 is Calico's, 84 is OVN's, 186 and above are FRR's, and iproute2 knows no 75.
	Protocol = 75
	// Device is the interface of entries without one.
	Device = "tandem-routes"

	// alias marks the interfaces that we have made.
	alias = "tandem-lb.io"
	// metric of our routes, to which the index of the interface is added: a route of most others to the same prefix goes before.
	metric = 1024
	// gather is how long events are gathered, counted from the first, before the kernel is looked at; period is how often it is in any case;
	// retry is how soon it is again after an error.
	gather, period, retry = 100 * time.Millisecond, 30 * time.Second, 5 * time.Second
)

// Entry is a prefix that the kernel is to have, on an interface or, if that is "", on none that has addresses.
type Entry struct {
	Prefix    netip.Prefix
	Interface string
}

// compare orders entries by interface and prefix.
func compare(a, b Entry) int {
	return cmp.Or(
		cmp.Compare(a.Interface, b.Interface), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
	)
}

// isAddress reports whether the interface has the prefix as an address too.
func (e Entry) isAddress() bool { return e.Interface != Device && e.Prefix.IsSingleIP() }

// Permitted reports whether this process may change the kernel's interfaces and routes (CAP_NET_ADMIN).
func Permitted() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// Table makes the kernel have entries. Run has to run; the other methods may be called from any goroutine, Set and Clear
// from one.
type Table struct {
	changed signal.Signal
	desired signal.Latest[request]
	state   atomic.Pointer[State]
}

// request is what the kernel is to have; done, if it is not nil, is told when it has, or why not.
type request struct {
	entries []Entry
	done    chan<- error
}

// State is what a Table has come to.
type State struct {
	// Entries are those that the kernel has.
	Entries []Entry
	// Err says what could not be put there, nil if there is nothing.
	Err error
}

// New returns a Table whose entries are not known yet. It raises changed when its State has changed.
func New(changed signal.Signal) *Table {
	t := &Table{changed: changed, desired: signal.NewLatest[request]()}
	t.state.Store(&State{})
	return t
}

// Set makes these the entries that there are to be. It does not wait for them.
func (t *Table) Set(entries []Entry) { t.desired.Put(request{entries: normal(entries)}) }

// Clear removes everything that is ours, waits until Run has done so or the context ends, and returns what was in the way.
func (t *Table) Clear(ctx context.Context) error {
	done := make(chan error, 1)
	t.desired.Put(request{done: done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// normal returns entries in order, each once, with the name of our own interface where there is none.
func normal(entries []Entry) []Entry {
	sorted := slices.Clone(entries)
	for i := range sorted {
		sorted[i].Interface = cmp.Or(sorted[i].Interface, Device)
	}
	slices.SortFunc(sorted, compare)
	return slices.Compact(sorted)
}

// State returns what the Table has come to.
func (t *Table) State() State { return *t.state.Load() }

// Run keeps the kernel as it is to be, in the network namespace of the calling thread, until the context ends. It leaves the kernel so.
func (t *Table) Run(ctx context.Context) error {
	kernel, err := open()
	if err != nil {
		return err
	}
	defer kernel.close()
	events, err := kernel.watch(ctx)
	if err != nil {
		return err
	}
	var wanted request
	known := false
	due := time.NewTimer(period)
	defer due.Stop()
	gathering := false // due fires soon because of an event
	for {
		select {
		case <-ctx.Done():
			return nil
		case wanted = <-t.desired:
			known = true
			due.Reset(0)
		case <-events:
			if known && !gathering {
				gathering = true
				due.Reset(gather)
			}
		case <-due.C:
			gathering = false
			next := period
			if known {
				state := kernel.reconcile(wanted.entries)
				if t.note(ctx, state); state.Err != nil {
					next = retry
				}
				if wanted.done != nil {
					wanted.done <- state.Err
					wanted.done = nil
				}
			}
			due.Reset(next)
		}
	}
}

// note publishes a state.
func (t *Table) note(ctx context.Context, state State) {
	before := t.state.Swap(&state)
	if state.Err != nil && fmt.Sprint(before.Err) != state.Err.Error() {
		klog.FromContext(ctx).Error(state.Err, "Failed to put all into the kernel that is to be redistributed, trying again")
	}
	if fmt.Sprint(before.Err) != fmt.Sprint(state.Err) || !slices.Equal(before.Entries, state.Entries) {
		t.changed.Raise()
	}
}

// Clear removes everything that is ours from the kernel, routes, addresses and interfaces, where no Table runs.
func Clear() error {
	kernel, err := open()
	if err != nil {
		return err
	}
	defer kernel.close()
	return kernel.reconcile(nil).Err
}
