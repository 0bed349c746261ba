// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The key changes while two speakers go on. One that knows the new key alone finds them when they use it, and neither loses the other.
func TestTheKeyChanges(t *testing.T) {
	a, _ := join(t, "a", loopback(1), "old")
	b, _ := join(t, "b", loopback(2), "old")
	a.SetPeers(map[string][]netip.Addr{"b": {loopback(2)}})
	awaitNodes(t, a, "a", "b")
	awaitNodes(t, b, "a", "b")
	start := time.Now()
	for _, m := range []*Members{a, b} {
		if err := m.SetKeys(start, []byte("new"), []byte("old")); err != nil {
			t.Fatal(err)
		}
	}
	a.rotate(start.Add(useAfter)) // b still encrypts with the old one.
	time.Sleep(20 * probeInterval)
	if got := a.Alive(); len(got.Nodes) != 2 || len(got.Lost) > 0 {
		t.Errorf("a sees %+v while only one uses the new key", got)
	}
	b.rotate(start.Add(useAfter))
	c, _ := join(t, "c", loopback(3), "new")
	c.SetPeers(map[string][]netip.Addr{"a": {loopback(1)}})
	for _, m := range []*Members{a, b, c} {
		awaitNodes(t, m, "a", "b", "c")
	}
	for _, m := range []*Members{a, b} {
		if s := m.Alive(); len(s.Lost) > 0 {
			t.Errorf("%s has lost %v", m.node, s.Lost)
		}
	}
}

// A speaker uses another key by itself when that is due.
func TestAKeyIsUsedWhenItIsDue(t *testing.T) {
	m, _ := join(t, "a", loopback(1), "old")
	if err := m.SetKeys(time.Now().Add(-useAfter), []byte("new")); err != nil {
		t.Fatal(err)
	}
	want, err := derive([]byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(10 * time.Second); !bytes.Equal(m.ring.GetPrimaryKey(), want); time.Sleep(redialInterval) {
		if time.Now().After(late) {
			t.Fatal("the new key is not used")
		}
	}
}

func TestRotation(t *testing.T) {
	m, _ := join(t, "a", loopback(1), "old")
	key := func(secret string) string {
		k, err := derive([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return string(k)
	}
	names := map[string]string{key("old"): "old", key("new"): "new", key("newer"): "newer"}
	start := time.Now()
	set := func(after time.Duration, secrets ...string) func() {
		return func() {
			var all [][]byte
			for _, s := range secrets {
				all = append(all, []byte(s))
			}
			if err := m.SetKeys(start.Add(after), all...); err != nil {
				t.Error(err)
			}
		}
	}
	at := func(after time.Duration) func() { return func() { m.rotate(start.Add(after)) } }
	for _, step := range []struct {
		name string
		do   func()
		want []string // the first encrypts
	}{
		{"at first", at(time.Hour), []string{"old"}},
		{"another key is learnt", set(0, "new"), []string{"old", "new"}},
		{"it is used", at(useAfter), []string{"new", "old"}},
		{"the same again", set(useAfter, "new"), []string{"new", "old"}},
		{"the old one is forgotten", at(useAfter + dropAfter), []string{"new"}},
		{"the next, with the one before", set(time.Hour, "newer", "new"), []string{"new", "newer"}},
		{"which stays", at(2 * time.Hour), []string{"newer", "new"}},
		{"until it is not in the Secret any more", set(3*time.Hour, "newer"), []string{"newer", "new"}},
		{"and is forgotten", at(4 * time.Hour), []string{"newer"}},
	} {
		step.do()
		var got []string
		for _, k := range m.ring.GetKeys() {
			got = append(got, names[string(k)])
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	if err := m.SetKeys(start); err == nil {
		t.Error("no key at all is taken for a key")
	}
	if err := m.SetKeys(start, []byte("")); err == nil {
		t.Error("an empty key is taken for a key")
	}
}
