// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// conditionsAfter is how many seconds may pass without a write, at most, until the conditions of Services and events say that nothing announces them.
const conditionsAfter = 15

// measure lets a contestant give addresses to n Services and take them back.
func (a *arena) measure(ctx context.Context, c contestant, m mode, n int) (figure, error) {
	f := figure{contestant: c.name(), mode: m, services: n}
	fmt.Fprintf(a.progress, "%s, %d Services %s\n", c.name(), n, m)
	prefix, quiet := fmt.Sprintf("%s-%s", c.name(), m), 1
	if c.name() == "tandem" {
		quiet = conditionsAfter
	}
	var r running
	begin := func() (err error) {
		r, err = c.start(ctx)
		return err
	}
	user := requests{} // what is not the contestant's
	if m == existing {
		start := time.Now()
		if err := a.create(ctx, prefix, n); err != nil {
			return f, err
		}
		fmt.Fprintf(a.progress, "  created in %.1fs\n", time.Since(start).Seconds())
	} else {
		if err := begin(); err != nil {
			return f, err
		}
		defer func() { r.end() }()
		if err := a.warm(ctx); err != nil {
			return f, err
		}
		// The API server claims two ClusterIPs for each Service, by requests to itself.
		user = requests{"POST services": float64(n), "POST ipaddresses": float64(2 * n)}
	}
	before, err := a.settle(ctx, 1)
	if err != nil {
		return f, err
	}
	_, told, err := a.conditions(ctx)
	if err != nil {
		return f, err
	}
	start := time.Now()
	if m == existing {
		if err := begin(); err != nil {
			return f, err
		}
		defer func() { r.end() }()
	} else if err := a.create(ctx, prefix, n); err != nil {
		return f, err
	} else {
		fmt.Fprintf(a.progress, "  created in %.1fs\n", time.Since(start).Seconds())
	}
	if err := a.await(ctx, "served", n, func() int { return len(a.done) }); err != nil {
		return f, err
	}
	took := time.Since(start)
	fmt.Fprintf(a.progress, "  all have addresses after %.1fs\n", took.Seconds())
	first, last, waits := a.times()
	if m == existing {
		took = last.Sub(first)
	}
	f.allocated = float64(n) / took.Seconds()
	f.median, f.last = waits[len(waits)/2], waits[len(waits)*99/100]
	if _, err := a.published(); err != nil {
		return f, err
	}
	after, err := a.settle(ctx, quiet)
	if err != nil {
		return f, err
	}
	conditions, events, err := a.conditions(ctx)
	if err == nil && c.name() == "tandem" && conditions != n {
		err = fmt.Errorf("%d of %d Services say whether they are announced", conditions, n)
	}
	if err != nil {
		return f, err
	}
	user["POST events"] = float64(events - told) // Here are no speakers, and events say so.
	f.created = (after.writes(before) - user.writes(nil)) / float64(n)
	fmt.Fprintln(a.progress, "  requests:", after.describe(before, n))

	start = time.Now()
	if err := a.delete(ctx); err != nil {
		return f, err
	}
	took = time.Since(start)
	f.deleted = float64(n) / took.Seconds()
	fmt.Fprintf(a.progress, "  deleted in %.1fs\n", took.Seconds())
	claims, err := a.claims(ctx)
	if err == nil && len(claims) > 0 {
		err = fmt.Errorf("%d addresses are still claimed", len(claims))
	}
	if err != nil {
		return f, err
	}
	end, err := a.settle(ctx, 1)
	if err != nil {
		return f, err
	}
	user = requests{"DELETE services": float64(n), "DELETE ipaddresses": float64(2 * n)}
	f.removed = (end.writes(after) - user.writes(nil)) / float64(n)
	f.reads = end.reads(before) / float64(n)
	fmt.Fprintln(a.progress, "  requests:", end.describe(after, n))
	cpu, err := r.cpu()
	f.cpu = cpu / time.Duration(n)
	return f, err
}

// warm waits until a contestant serves, by one Service that comes and goes.
func (a *arena) warm(ctx context.Context) error {
	if err := a.create(ctx, "first", 1); err != nil {
		return err
	}
	if err := a.await(ctx, "served", 1, func() int { return len(a.done) }); err != nil {
		return err
	}
	return a.delete(ctx)
}

// times returns when the first and the last Service got their addresses, and how long each waited for them, in ascending order.
func (a *arena) times() (first, last time.Time, waits []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, done := range a.done {
		if first.IsZero() || done.Before(first) {
			first = done
		}
		if done.After(last) {
			last = done
		}
		waits = append(waits, max(0, done.Sub(a.created[name])))
	}
	slices.Sort(waits)
	return first, last, waits
}

// measureMemory prints what the controller manager needs with n Services, and how long it takes to serve again after a restart.
func (a *arena) measureMemory(ctx context.Context, n int) error {
	t, err := a.newTandem(ctx)
	if err != nil {
		return err
	}
	p, err := t.startAt(ctx, 7575)
	if err != nil {
		return err
	}
	defer func() { p.end() }()
	if err := a.warm(ctx); err != nil {
		return err
	}
	report := func(when string) error {
		rss, err := p.status("VmRSS")
		if err != nil {
			return err
		}
		hwm, err := p.status("VmHWM")
		fmt.Fprintf(a.progress, "%s: VmRSS %d MiB, VmHWM %d MiB\n", when, rss>>10, hwm>>10)
		return err
	}
	if err := report("Without a Service"); err != nil {
		return err
	}
	start := time.Now()
	if err := a.create(ctx, "memory", n); err != nil {
		return err
	}
	if err := a.await(ctx, "served", n, func() int { return len(a.done) }); err != nil {
		return err
	}
	fmt.Fprintf(a.progress, "%d Services had addresses after %.1fs\n", n, time.Since(start).Seconds())
	if err := report(fmt.Sprintf("With %d Services", n)); err != nil {
		return err
	}
	before, err := a.settle(ctx, conditionsAfter)
	if err != nil {
		return err
	}
	kept, err := a.published()
	if err != nil {
		return err
	}

	p.end()
	start = time.Now()
	if p, err = t.startAt(ctx, 7575); err != nil {
		return err
	}
	if err := a.create(ctx, "late", 1); err != nil {
		return err
	}
	if err := a.await(ctx, "served", n+1, func() int { return len(a.done) }); err != nil {
		return err
	}
	fmt.Fprintf(a.progress, "Served another Service %.1fs after its start with %d Services\n", time.Since(start).Seconds(), n)
	after, err := a.settle(ctx, conditionsAfter)
	if err != nil {
		return err
	}
	if err := report(fmt.Sprintf("Started with %d Services", n)); err != nil {
		return err
	}
	fmt.Fprintf(a.progress, "Requests of the restart, the other Service's included: %s\n", after.describe(before, 1))
	now, err := a.published()
	if err != nil {
		return err
	}
	for address, service := range kept {
		if now[address] != service {
			return fmt.Errorf("the Service %s lost %s to %q", service, address, now[address])
		}
	}
	fmt.Fprintf(a.progress, "All %d addresses stayed with their Services\n", len(kept))
	return nil
}
