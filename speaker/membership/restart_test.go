// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A speaker says that it restarts, is silent, and comes back. To the others it is neither alive nor lost meanwhile.
func TestASpeakerThatRestarts(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	b, _ := join(t, "b", loopback(2), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}, "c": {loopback(3)}})
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, b, "a", "b") // b answers a dial before it takes in what a has said, and cannot tell a node that it does not know yet.
	before := time.Now()
	if err := b.Restart(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	isAway := func(s Snapshot) bool {
		until, restarts := s.Restarting["b"]
		return restarts && !s.Has("b") && !s.Alone && len(s.Lost) == 0 && !until.Before(before.Add(time.Minute)) &&
			!until.After(time.Now().Add(time.Minute))
	}
	first := await(t, a, "b to restart", isAway)

	for a.list.NumMembers() > 1 { // until gossip has declared b dead
		time.Sleep(10 * time.Millisecond)
	}
	if s := a.Alive(); !isAway(s) || s.Restarting["b"] != first.Restarting["b"] {
		t.Errorf("When b has been silent for long, a sees %+v, want that b restarts as at first: %+v", s, first)
	}
	join(t, "b", loopback(2), "secret")
	if s := awaitNodes(t, a, "a", "b"); len(s.Restarting) > 0 {
		t.Errorf("When b is back, a sees %+v", s)
	}
}

// A speaker that starts while another one restarts hears of the restart from those that have heard the farewell.
func TestANewcomerHearsOfARestart(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "secret")
	b, _ := join(t, "b", loopback(2), "secret")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}})
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, b, "a", "b")
	c, _ := join(t, "c", loopback(3), "secret") // It knows nobody yet.
	if err := b.Restart(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	restarts := func(s Snapshot) bool { _, is := s.Restarting["b"]; return is && !s.Has("b") }
	await(t, a, "b to restart", restarts)
	c.SetPeers(map[string][]netip.Addr{"a": {loopback(1)}, "b": {loopback(2)}})
	await(t, c, "b to restart", restarts)
}

func TestFarewell(t *testing.T) {
	for _, test := range []struct {
		meta string
		want farewell
	}{
		{"", farewell{}},
		{"leaving", farewell{leaves: true}},
		{"restarting=30s", farewell{restarts: 30 * time.Second}},
		{"restarting=30s interfaces=7", farewell{restarts: 30 * time.Second}},
		{"interfaces=7", farewell{}},
		{"restarting=1h", farewell{restarts: maxGrace}},
		{"restarting=0s", farewell{}},
		{"restarting=-5s", farewell{}},
		{"restarting=soon", farewell{}},
		{"restarting=", farewell{}},
		{"leaving soon", farewell{}},
	} {
		if got := decodeFarewell([]byte(test.meta)); got != test.want {
			t.Errorf("decodeFarewell(%q) = %+v, want %+v", test.meta, got, test.want)
		}
	}
	for meta, f := range map[string]farewell{"leaving": {leaves: true}, "restarting=1m30s": {restarts: 90 * time.Second}} {
		if diff := cmp.Diff(meta, string(f.encode())); diff != "" {
			t.Errorf("encoded (-want +got):\n%s", diff)
		}
	}
}
