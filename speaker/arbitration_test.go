// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestArbitration(t *testing.T) {
	address := netip.MustParseAddr(v4)
	at := func(d time.Duration) time.Time { return isolationStart.Add(d) }
	type step struct {
		after  time.Duration
		heard  bool    // the speaker of node2 uses the address
		answer *answer // of the API
		holder string  // by the API
		live   []string
		// yields and disputed say what holds after the step.
		yields, disputed bool
	}
	fresh := func(asked time.Duration) *answer { return &answer{asked: at(asked)} }
	none := func(asked time.Duration) *answer { return &answer{asked: at(asked), outOfReach: true} }
	for _, tt := range []struct {
		name  string
		node  string // this one
		alive bool   // gossip shows node2
		steps []step
	}{
		{name: "the API says that this node holds it", node: "node1", steps: []step{
			{heard: true, disputed: true},
			{after: time.Second, answer: fresh(time.Second / 2), holder: "node1"},
		}},
		{name: "the API says that the other does", node: "node1", steps: []step{
			{heard: true, disputed: true},
			{after: time.Second, answer: fresh(time.Second / 2), holder: "node2", live: []string{"node2"}},
		}},
		{name: "the answer is older than the dispute", node: "node1", steps: []step{
			{after: time.Second, heard: true, answer: fresh(time.Second / 2), holder: "node2", disputed: true},
		}},
		{name: "the API is away, and gossip does not show the other", node: "node1", steps: []step{
			{heard: true, disputed: true},
			{after: time.Second, answer: none(time.Second / 2), yields: true, disputed: true},
			{after: 2 * time.Second, heard: true, yields: true, disputed: true},
			{after: 4 * time.Second, answer: none(3 * time.Second), yields: true, disputed: true},
			{after: 5 * time.Second}, // The other is not heard any more.
		}},
		{name: "of two that yield, the second by name listens longer", node: "node3", steps: []step{
			{heard: true, answer: none(0), yields: true, disputed: true},
			{after: rivalTimeout, yields: true, disputed: true},
			{after: rivalTimeout + yieldTurn},
		}},
		{name: "the API is back", node: "node1", steps: []step{
			{heard: true, answer: none(0), yields: true, disputed: true},
			{after: time.Second, heard: true, answer: fresh(time.Second), holder: "node1"},
		}},
		{name: "the API is away, and gossip shows the other: the two go by the same records soon", node: "node1", alive: true, steps: []step{
			{heard: true, answer: none(0), disputed: true},
			{after: time.Second, heard: true, answer: none(time.Second), disputed: true},
			{after: 4 * time.Second},
		}},
		{name: "unless it goes on", node: "node1", alive: true, steps: []step{
			{heard: true, answer: none(0), disputed: true},
			{after: 2 * time.Second, heard: true, answer: none(2 * time.Second), disputed: true},
			{after: rivalPatience, heard: true, answer: none(rivalPatience), yields: true, disputed: true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArbitration(tt.node)
			for _, s := range tt.steps {
				now := at(s.after)
				if s.heard {
					a.Hear(now, address, "node2")
				}
				var live []string
				if s.answer != nil {
					live = a.Settle(*s.answer, now, func(netip.Addr) string { return s.holder }, func(string) bool { return tt.alive })
				}
				wait := a.Expire(now)
				if diff := cmp.Diff(s.live, live); diff != "" {
					t.Errorf("after %v, live (-want +got):\n%s", s.after, diff)
				}
				if got := a.Yielded()[address]; got != s.yields {
					t.Errorf("after %v: yields %v, want %v", s.after, got, s.yields)
				}
				if got := slices.Contains(a.Disputed(), address); got != s.disputed || got != (wait < time.Hour) {
					t.Errorf("after %v: disputed %v, want %v; wait %v", s.after, got, s.disputed, wait)
				}
			}
		})
	}
}

// What layer 2 hears is a rival if its MAC is that of a speaker.
func TestRivalsAreSpeakers(t *testing.T) {
	r := rivals{changed: make(chan struct{}, 1)}
	for _, heard := range []struct {
		address string
		mac     byte
	}{{v4, 0x0c}, {v4, 0x0d}, {v6, 0x42}} {
		r.note(layer2.Rival{Address: netip.MustParseAddr(heard.address), MAC: []byte{2, 0, 0, 0, 0, heard.mac}})
	}
	speakers := []v1alpha1.SpeakerStatus{speakerOn("node2", "02:00:00:00:00:0c"), speakerOn("node3", "02:00:00:00:00:0d")}
	if diff := cmp.Diff(map[netip.Addr]string{netip.MustParseAddr(v4): "node3"}, r.take(speakers), cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("rivals (-want +got):\n%s", diff)
	}
	if len(r.changed) != 1 || r.take(speakers) != nil {
		t.Error("nobody is told of the rivals, or they are told twice")
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }

func speakerOn(node, mac string) v1alpha1.SpeakerStatus {
	s := v1alpha1.SpeakerStatus{Status: v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", MAC: mac}}}}
	s.Name = node
	return s
}

func TestWritesOfSpeakers(t *testing.T) {
	var w writes
	taken, cleared := announcement("web", "node2", v4), announcement("mail", "")
	status := speakerOn("node3", "")
	for _, obj := range []any{&taken, &cleared, &status, "tombstone"} {
		w.note(nil, obj)
	}
	latest := w.latest()
	if len(latest) != 2 || latest["node2"].IsZero() || latest["node3"].IsZero() {
		t.Errorf("writes of %v, want those of node2 and node3", latest)
	}
}
