// SPDX-License-Identifier: Apache-2.0

//go:build e2e && movein

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// TestMoveInBGP moves Services that each node announces to the router by BGP, from MetalLB to Tandem, goes back, and moves again for good, while clients
// behind the router ask. MetalLB's own BGP carries IPv4 alone, and takes no pool with IPv6; with FRR each family has a session of its own, and where the
// router keeps the routes of a session that is lost, it sends no connection elsewhere while a node moves.
func TestMoveInBGP(t *testing.T) {
	for _, row := range []struct {
		name     string
		install  func(*testing.T, *cluster.Cluster)
		families []corev1.IPFamily
		graceful bool
	}{
		{"native", installMetalLB, []corev1.IPFamily{v4}, false},
		{"FRR", installMetalLBWithFRR, []corev1.IPFamily{v4, v6}, false},
		{"FRR with graceful restart", installMetalLBWithFRR, []corev1.IPFamily{v4, v6}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := builtPlugin(); err != nil { // Later the compiler would take its time from the clients.
				t.Fatal(err)
			}
			c := emptyCluster(t, lab.Config{Name: labName() + "-movein"})
			row.install(t, c)
			newRoutedBed(t, c, row.families, row.graceful).moveByBGP(t)
		})
	}
}

// routedBed is a bed whose addresses are on no link: MetalLB announces them by BGP.
type routedBed struct {
	*moveBed
	families []corev1.IPFamily
	graceful bool // both sides keep to graceful restart, so that the router has nothing to spread anew
}

// newRoutedBed has the MetalLB of a cluster announce Services to the router, over a session for each family, with graceful restart or without.
func newRoutedBed(t *testing.T, c *cluster.Cluster, families []corev1.IPFamily, graceful bool) *routedBed {
	t.Helper()
	options := ""
	if graceful {
		options = ", enableGracefulRestart: true"
		config := strings.Replace(cluster.RouterConfig, " neighbor NODES peer-group\n", " bgp graceful-restart\n neighbor NODES peer-group\n", 1)
		if err := c.StartFRR(t.Context(), lab.Router, config); err != nil {
			t.Fatal(err)
		}
	}
	b := &routedBed{&moveBed{stage: newStage(t, c), from: metalLB, before: map[string][]string{}}, families, graceful}
	b.web(t, b.Nodes()...)
	ranges := []string{"192.0.2.0/24", "2001:db8:c::/64"}[:len(families)]
	objects := fmt.Sprintf(`
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: routed, namespace: metallb-system}
spec: {addresses: ["%s"]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: routed, namespace: metallb-system}
spec: {ipAddressPools: [routed]}
`, strings.Join(ranges, `", "`))
	for i, family := range families {
		objects += fmt.Sprintf(`---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router-%s, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "%s"%s}
`, strings.ToLower(string(family)), b.Addresses(lab.Router)[i], options)
	}
	b.until(t, time.Minute, "MetalLB's webhook", func(ctx context.Context) (bool, string) {
		err := b.Apply(ctx, objects)
		return err == nil, fmt.Sprint(err)
	})
	for i := range moveServices(t) {
		b.add(t, b.service(fmt.Sprintf("web-%02d", i), families...))
	}
	for i := range moveServices(t) {
		name := fmt.Sprintf("web-%02d", i)
		b.before[name] = b.addresses(t, name, len(families))
	}
	b.routed(t)
	return b
}

// installMetalLBWithFRR installs MetalLB in the mode in which FRR, in the Pods of its speakers, has the sessions.
func installMetalLBWithFRR(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	built := loadMetalLB(t, c)
	image, err := built.FRRImage(t.Context(), t.TempDir())
	if err == nil {
		err = c.LoadImages(t.Context(), image)
	}
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := built.FRRManifest(t.Context())
	if err == nil {
		err = c.Apply(t.Context(), manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	rolledOut(t, c, "metallb-system", "deployment/controller", "daemonset/speaker")
}

// moveByBGP moves, goes back, and moves again.
func (b *routedBed) moveByBGP(t *testing.T) {
	t.Helper()
	// Where requests fail while nothing happens the machine is too busy, and what fails later says nothing.
	b.watchedByRouter(t, "nothing happens", func() { time.Sleep(5 * time.Second) })
	if t.Failed() {
		t.FailNow()
	}
	b.watchedByRouter(t, "installing Tandem beside MetalLB", func() { b.installBeside(t) })
	before := b.inCluster(t)
	b.moveIn(t, "plan")
	b.watchedByRouter(t, "start --all", func() { b.moveIn(t, "start", "--all", "--yes") })
	b.ours(t)
	b.watchedByRouter(t, "undo", func() {
		b.moveIn(t, "undo", "--yes")
		b.kubectl(t, "rollout", "status", "-n", b.from.namespace, "daemonset/speaker", "--timeout=5m") // They restart, one after the other.
		b.routed(t)
	})
	b.asBefore(t, before)
	b.watchedByRouter(t, "start --all and finish", func() {
		b.moveIn(t, "start", "--all", "--yes")
		b.moveIn(t, "finish", "--yes")
	})
	b.watchedByRouter(t, "deleting MetalLB", func() { b.kubectl(t, b.from.uninstall...) })
	b.ours(t)
}

// watchedByRouter has clients behind the router ask while something is done, notes what they and the router saw, and fails the test for an address that is
// another, and for a request without an answer, unless its connection was open at a moment at which the router spread connections anew. By graceful
// restart it has no such moment.
func (b *routedBed) watchedByRouter(t *testing.T, what string, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	single, turn := make([][]cluster.Answer, len(b.families)), make([][]cluster.Answer, len(b.families))
	b.routed(t)
	changes, table := b.routeChanges(t, b.ips()), b.nextHops(ctx, t)
	for family := range b.families {
		var urls []string
		for _, name := range slices.Sorted(maps.Keys(b.before)) {
			urls = append(urls, cluster.URL(b.before[name][family], "/hostname"))
		}
		asking.Go(func() { single[family] = b.Probe(ctx, lab.Ext, urls[0], moveInterval, movePatience) })
		asking.Go(func() { turn[family] = b.ProbeEach(ctx, lab.Ext, urls, turnInterval, movePatience) })
	}
	start := time.Now()
	do()
	took := time.Since(start)
	b.routed(t)
	cancel()
	asking.Wait()
	few := fewHops(table(), b.ips(), len(b.Nodes()))
	soaked.note(t, what, "%d Services in %v; of %d nodes, the router has %d or more for each address, and fewer than all for %v", len(b.before),
		took.Round(10*time.Millisecond), len(b.Nodes()), few.least, few.time.Round(10*time.Millisecond))
	for family, name := range b.families {
		var requests tally
		requests.add(single[family])
		requests.add(turn[family])
		spread := requests.underWay(changes())
		soaked.note(t, what+", "+string(name), "longest time without an answer of one Service %v, %v; %d of them over connections that the router sent "+
			"elsewhere; %d of all %d waited more than 0.9 s", silentFor(single[family]).Round(time.Millisecond), requests, spread,
			late(single[family])+late(turn[family]), requests.sent)
		t.Logf("%s, %s, by the second: %s", what, name, bySecond(start, slices.Concat(single[family], turn[family]), changes()))
		if b.graceful {
			spread = 0
		}
		if requests.failed > spread {
			t.Errorf("%s, %s: %v; %d of them while the router spread connections anew", what, name, requests, spread)
		}
	}
	b.unchanged(t)
}

// bySecond says in which seconds the router's routes changed, and requests failed or waited for long.
func bySecond(start time.Time, answers []cluster.Answer, changes []time.Time) string {
	type second struct{ changes, failed, late int }
	seconds := map[int]second{}
	at := func(when time.Time, count func(*second)) {
		n := int(when.Sub(start) / time.Second)
		s := seconds[n]
		count(&s)
		seconds[n] = s
	}
	for _, c := range changes {
		at(c, func(s *second) { s.changes++ })
	}
	for _, a := range answers {
		switch {
		case a.Err != nil:
			at(a.At, func(s *second) { s.failed++ })
		case a.Took > 900*time.Millisecond:
			at(a.At, func(s *second) { s.late++ })
		}
	}
	var texts []string
	for _, n := range slices.Sorted(maps.Keys(seconds)) {
		texts = append(texts, fmt.Sprintf("%d s: %d changes, %d failed, %d late", n, seconds[n].changes, seconds[n].failed, seconds[n].late))
	}
	return strings.Join(texts, "; ")
}

// routed waits until the router has each node for each address, and each has answered five times in a row.
func (b *routedBed) routed(t *testing.T) {
	t.Helper()
	b.until(t, 3*time.Minute, "routes to all nodes, and answers", func(ctx context.Context) (bool, string) {
		hops, err := b.hops(ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, ip := range b.ips() {
			if len(hops[ip]) != len(b.Nodes()) {
				return false, fmt.Sprintf("%s is behind %v", ip, hops[ip])
			}
		}
		for range 5 {
			for _, ip := range b.ips() {
				if _, err := b.Get(ctx, lab.Ext, cluster.URL(ip, "/hostname")); err != nil {
					return false, err.Error()
				}
			}
		}
		return true, ""
	})
}

// A forwarding is by which next hops the router forwards to each address at a moment.
type forwarding struct {
	at   time.Time
	hops map[string][]string
}

// lookEvery is how often the router's table is read.
const lookEvery = 200 * time.Millisecond

// nextHops reads the router's table again and again until the context ends. What it returns waits for that.
func (b *routedBed) nextHops(ctx context.Context, t *testing.T) (wait func() []forwarding) {
	t.Helper()
	var all []forwarding
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticks := time.NewTicker(lookEvery)
		defer ticks.Stop()
		for {
			now := time.Now()
			if hops, err := b.hops(ctx); err == nil {
				all = append(all, forwarding{now, hops})
			}
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
		}
	}()
	return func() []forwarding {
		<-done
		return all
	}
}

// scarcity is how few next hops addresses had.
type scarcity struct {
	// least is the least number of next hops of any address at any moment, and time how long an address had fewer than the full number.
	least int
	time  time.Duration
}

// fewHops looks how few next hops the addresses had, of a full number.
func fewHops(looks []forwarding, ips []string, full int) scarcity {
	s := scarcity{least: full}
	for i, look := range looks {
		least := full
		for _, ip := range ips {
			least = min(least, len(look.hops[ip]))
		}
		s.least = min(s.least, least)
		if least < full && i+1 < len(looks) {
			s.time += looks[i+1].at.Sub(look.at)
		}
	}
	return s
}

// TestMoveInScarcity looks at router tables.
func TestMoveInScarcity(t *testing.T) {
	start := time.Now()
	at := func(ms int, a, b []string) forwarding {
		return forwarding{start.Add(time.Duration(ms) * time.Millisecond), map[string][]string{"192.0.2.1": a, "2001:db8:c::1": b}}
	}
	both, one := []string{"198.51.100.11", "198.51.100.12"}, []string{"198.51.100.12"}
	for _, row := range []struct {
		name  string
		looks []forwarding
		want  scarcity
	}{
		{"nobody has looked", nil, scarcity{least: 2}},
		{"all nodes all the time", []forwarding{at(0, both, both), at(200, both, both)}, scarcity{least: 2}},
		{"one node for a while", []forwarding{at(0, both, both), at(200, both, one), at(400, one, one), at(700, both, both)}, scarcity{1, 500 * time.Millisecond}},
		{"an address without a route", []forwarding{at(0, both, nil), at(200, both, both)}, scarcity{0, 200 * time.Millisecond}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := fewHops(row.looks, []string{"192.0.2.1", "2001:db8:c::1"}, 2); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}
