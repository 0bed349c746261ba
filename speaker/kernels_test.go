// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
)

// fakeProber finds what it is told.
type fakeProber struct {
	states  map[lan.Key]lan.State
	targets []lan.Target // of the latest Set
}

func (p *fakeProber) Run(context.Context) error                   { return nil }
func (p *fakeProber) Set(targets []lan.Target, _ []net.Interface) { p.targets = targets }
func (p *fakeProber) States() map[lan.Key]lan.State               { return p.states }
func (p *fakeProber) Changes() <-chan struct{}                    { return nil }

// TestKernels has node1 see what becomes of node2, whose speaker is gone, and of node3, whose speaker is alive.
func TestKernels(t *testing.T) {
	const grace = 10 * time.Second
	node2, node3 := lan.Key{Node: "node2", Interface: "eth0"}, lan.Key{Node: "node3", Interface: "eth0"}
	for _, tt := range []struct {
		name     string
		states   map[lan.Key]lan.State
		heard    []suspicion
		before   map[lan.Key]bool // what was silent
		away     []string
		hopeless []string
		suspects []lan.Key
		silent   string // the node whose interface is marked as silent
		due      time.Duration
	}{
		{
			name: "the kernel of node2 answers", states: map[lan.Key]lan.State{node2: lan.Answers, node3: lan.Answers},
			away: []string{"node2"}, due: grace,
		},
		{
			name: "the kernel of node2 is silent", states: map[lan.Key]lan.State{node2: lan.Silent, node3: lan.Answers},
			hopeless: []string{"node2"}, suspects: []lan.Key{node2}, silent: "node2", due: suspicionTimeout,
		},
		{
			name:   "node2 was found silent, and node1 has just begun to ask it",
			states: map[lan.Key]lan.State{node2: lan.Unknown, node3: lan.Answers}, before: map[lan.Key]bool{node2: true},
			hopeless: []string{"node2"}, silent: "node2", due: grace,
		},
		{
			name: "nothing answers node1, which says nothing of node2", states: map[lan.Key]lan.State{node2: lan.Silent, node3: lan.Silent},
			away: []string{"node2"}, due: grace,
		},
		{
			name: "node1 alone suspects node3", states: map[lan.Key]lan.State{node2: lan.Answers, node3: lan.Silent},
			away: []string{"node2"}, suspects: []lan.Key{node3}, due: suspicionTimeout,
		},
		{
			name: "node4 suspects node3 too", states: map[lan.Key]lan.State{node2: lan.Answers, node3: lan.Silent},
			heard: []suspicion{{From: "node4", Suspects: []lan.Key{node3}}},
			away:  []string{"node2"}, suspects: []lan.Key{node3}, silent: "node3", due: suspicionTimeout,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				prober := &fakeProber{states: tt.states}
				k := newKernels("node1", prober)
				k.suspicions.silent = tt.before
				for _, said := range tt.heard {
					k.suspicions.Hear(start, said)
				}
				p := presence{
					alive:    func(node string) bool { return node != "node2" },
					expected: map[string]time.Time{"node2": start.Add(grace)},
				}
				nodes := map[string]decision.Node{}
				for _, name := range []string{"node2", "node3"} {
					nodes[name] = decision.Node{Interfaces: []decision.Interface{{Name: "eth0"}}}
				}
				on := []lan.Target{{Key: node2, Via: "eth0", MAC: [6]byte{2}}, {Key: node3, Via: "eth0", MAC: [6]byte{2}}}
				away, hopeless := k.Update(t.Context(), start, p, on, nil, nodes)
				if diff := cmp.Diff(tt.away, slices.Sorted(maps.Keys(away))); diff != "" {
					t.Errorf("away (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.hopeless, hopeless); diff != "" {
					t.Errorf("not expected back (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.suspects, (<-k.suspects).Suspects); diff != "" {
					t.Errorf("suspects (-want +got):\n%s", diff)
				}
				for name, node := range nodes {
					if node.Interfaces[0].Silent != (name == tt.silent) {
						t.Errorf("%s has %v", name, node.Interfaces)
					}
				}
				if len(prober.targets) != len(on) {
					t.Errorf("asked are %v", prober.targets)
				}
				if at := <-k.due.C; at.Sub(start) != tt.due {
					t.Errorf("the next decision is due after %v, want %v", at.Sub(start), tt.due)
				}
			})
		})
	}
}

// TestKernelsCutOff: a node that is cut off goes on asking the gateway when all others have been given up, so that it hears when it is not any more.
func TestKernelsCutOff(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	node2, gateway := lan.Key{Node: "node2", Interface: "eth0"}, lan.Key{Interface: "198.51.100.1"}
	prober := &fakeProber{states: map[lan.Key]lan.State{node2: lan.Silent, gateway: lan.Silent}}
	k := newKernels("node1", prober)
	update := func(alive bool) {
		on := []lan.Target{{Key: node2, Via: "eth0", MAC: [6]byte{2}}, {Key: gateway, Via: "eth0"}}
		k.Update(t.Context(), start, presence{alive: func(string) bool { return alive }}, on, nil, map[string]decision.Node{"node2": {}})
	}
	update(true)
	if !k.isCutOff() {
		t.Fatal("a node that hears neither the other nor the gateway is not cut off")
	}
	update(false)
	if len(prober.targets) != 1 || prober.targets[0].Key != gateway {
		t.Errorf("asked are %v, want the gateway", prober.targets)
	}
	if !k.isCutOff() {
		t.Error("it is not cut off any more when the other is given up")
	}
	prober.states = map[lan.Key]lan.State{gateway: lan.Answers}
	if update(false); k.isCutOff() {
		t.Error("it is cut off when the gateway answers")
	}
}

// TestKernelsHear: a message is news if something else is silent by it. All that wait are taken in at once.
func TestKernelsHear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node3 := lan.Key{Node: "node3", Interface: "eth0"}
		k := newKernels("node1", &fakeProber{})
		update := func() {
			nodes := map[string]decision.Node{"node3": {Interfaces: []decision.Interface{{Name: "eth0"}}}}
			k.Update(t.Context(), time.Now(), presence{alive: func(string) bool { return true }}, nil, nil, nodes)
		}
		update()
		by := func(node string) suspicion { return suspicion{From: node, Suspects: []lan.Key{node3}} }
		for _, step := range []struct {
			name    string
			said    suspicion
			waiting []suspicion
			want    bool
		}{
			{name: "one suspects node3", said: by("node4")},
			{name: "and repeats it", said: by("node4"), waiting: []suspicion{by("node4")}},
			{name: "another does too", said: suspicion{From: "node6", Suspects: []lan.Key{}}, waiting: []suspicion{by("node4"), by("node5")}, want: true},
			{name: "and a third", said: by("node6")},
		} {
			for _, said := range step.waiting {
				k.heard <- said
			}
			if got := k.Hear(time.Now(), step.said); got != step.want || len(k.heard) > 0 {
				t.Errorf("%s: changed %v, and %d wait; want %v and none", step.name, got, len(k.heard), step.want)
			}
			if step.want {
				update()
			}
			time.Sleep(suspicionPeriod)
		}
		begun := time.Now()
		if at := <-k.due.C; at.Sub(begun) > suspicionTimeout {
			t.Errorf("the next decision is due after %v, when the first suspicion is over", at.Sub(begun))
		}
	})
}

// Without a prober no node is away, and the loop waits for no kernel.
func TestKernelsThatAreNotAsked(t *testing.T) {
	k := newKernels("node1", nil)
	p := presence{alive: func(string) bool { return false }, expected: map[string]time.Time{"node2": time.Now().Add(time.Hour)}}
	if away, hopeless := k.Update(t.Context(), time.Now(), p, nil, nil, nil); len(away) > 0 || len(hopeless) > 0 {
		t.Errorf("away are %v, not expected back %v", away, hopeless)
	}
	if err := k.run(t.Context()); err != nil || k.changes() != nil {
		t.Errorf("run: %v", err)
	}
}

// A speaker takes in what others suspect, and not its own words. If too many messages wait, they are dropped.
func TestHear(t *testing.T) {
	k := newKernels("node1", nil)
	k.hear([]byte("x"))
	k.hear([]byte(`{"from":"node1","suspects":[]}`))
	for range 2 * cap(k.heard) {
		k.hear([]byte(`{"from":"node2","suspects":[]}`))
	}
	if len(k.heard) != cap(k.heard) {
		t.Errorf("%d messages wait", len(k.heard))
	}
	if said := <-k.heard; said.From != "node2" {
		t.Errorf("heard %+v", said)
	}
}

// A suspicion is told at once and repeated, and told once more when it is over.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		k, sent := newKernels("node1", nil), []suspicion{}
		done := make(chan error)
		go func() {
			done <- k.tell(ctx, func(message []byte) {
				said, ok := readSuspicion(message)
				if !ok {
					t.Errorf("cannot be read: %s", message)
				}
				sent = append(sent, said)
			})
		}()
		say := func(keys []lan.Key, wait time.Duration, want int) {
			t.Helper()
			k.suspects.Put(suspicion{Suspects: keys})
			time.Sleep(wait)
			synctest.Wait()
			if len(sent) != want {
				t.Errorf("%d messages after %v, want %d: %v", len(sent), keys, want, sent)
			}
			for _, m := range sent {
				if m.From != "node1" || !slices.Equal(m.Suspects, keys) {
					t.Errorf("told %+v, want %v", m, keys)
				}
			}
			sent = nil
		}
		say(nil, time.Minute, 0)
		say(eth0("node3"), time.Millisecond, 1)
		say(eth0("node3"), 10*suspicionPeriod-time.Millisecond, 10)
		say(nil, time.Minute, 1)
		var many []lan.Key
		for range 100 {
			many = append(many, lan.Key{Node: strings.Repeat("n", 40), Interface: "enp129s0f1np1"})
		}
		k.suspects.Put(suspicion{Suspects: many})
		synctest.Wait()
		if len(sent) != 1 || len(sent[0].Suspects) != maxSuspects {
			t.Errorf("of many suspects a message has %+v, want %d", sent, maxSuspects)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
