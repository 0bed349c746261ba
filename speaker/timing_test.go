// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/speaker/bgp"
)

// TestTiming plays what a decision declares over time, and says what is announced.
func TestTiming(t *testing.T) {
	type step struct {
		after    time.Duration
		declared string // prefixes
		want     string
		wait     time.Duration // zero for an hour
	}
	const web, mail, aggregate = "192.0.2.1/32", "192.0.2.2/32", "192.0.2.0/24"
	for _, tt := range []struct {
		name  string
		local bool
		steps []step
	}{
		{
			name: "what there is at the start is announced at once, and what comes later a second later",
			steps: []step{
				{declared: web, want: web},
				{after: time.Minute, declared: web + " " + mail, want: web, wait: time.Second},
				{after: time.Minute + 400*time.Millisecond, declared: web + " " + mail, want: web, wait: 600 * time.Millisecond},
				{after: time.Minute + time.Second, declared: web + " " + mail, want: web + " " + mail},
			},
		},
		{
			name: "a prefix of a local Service does not wait: it may have been another node's", local: true,
			steps: []step{{declared: web, want: web}, {after: time.Minute, declared: web + " " + mail, want: web + " " + mail}},
		},
		{
			name: "a prefix that goes and comes waits for longer each time",
			steps: []step{
				{declared: web + " " + mail, want: web + " " + mail},
				{after: 10 * time.Second, declared: mail, want: mail},
				{after: 11 * time.Second, declared: web + " " + mail, want: mail, wait: 2 * time.Second},
				{after: 13 * time.Second, declared: web + " " + mail, want: web + " " + mail},
				{after: 14 * time.Second, declared: mail, want: mail},
				{after: 15 * time.Second, declared: web + " " + mail, want: mail, wait: 4 * time.Second},
				{after: 16 * time.Second, declared: mail, want: mail},
				{after: 17 * time.Second, declared: web + " " + mail, want: mail, wait: 8 * time.Second},
				{after: 25 * time.Second, declared: web + " " + mail, want: web + " " + mail},
				{after: 85 * time.Second, declared: web + " " + mail, want: web + " " + mail}, // stable for a minute
				{after: 86 * time.Second, declared: mail, want: mail},
				{after: 87 * time.Second, declared: web + " " + mail, want: mail, wait: 2 * time.Second},
			},
		},
		{
			name: "no wait is longer than half a minute", local: true,
			steps: func() (steps []step) {
				at := time.Duration(0)
				steps = append(steps, step{declared: web + " " + mail, want: web + " " + mail})
				for _, wait := range []time.Duration{2, 4, 8, 16, 30, 30} {
					at += time.Second
					steps = append(steps, step{after: at, declared: mail, want: mail})
					at += time.Second
					steps = append(steps, step{after: at, declared: web + " " + mail, want: mail, wait: wait * time.Second})
				}
				return steps
			}(),
		},
		{
			name: "a prefix that comes back after ten seconds is a new one",
			steps: []step{
				{declared: web + " " + mail, want: web + " " + mail},
				{after: time.Second, declared: mail, want: mail},
				{after: 12 * time.Second, declared: web + " " + mail, want: mail, wait: time.Second},
			},
		},
		{
			name: "a new address that is announced in two lengths waits in both",
			steps: []step{
				{declared: "198.51.100.1/32", want: "198.51.100.1/32"},
				{after: time.Minute, declared: "198.51.100.1/32 " + web + " " + aggregate, want: "198.51.100.1/32", wait: time.Second},
			},
		},
		{
			name: "an aggregate takes the place of its addresses at once, and the other way round",
			steps: []step{
				{declared: web + " " + mail, want: web + " " + mail},
				{after: time.Minute, declared: aggregate, want: aggregate},
				{after: 3 * time.Minute, declared: web + " " + mail, want: web + " " + mail},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			var timing timing
			if got, _ := timing.Apply(start.Add(-time.Hour), nil, nil); len(got) != 0 {
				t.Errorf("without sessions there are %v", got)
			}
			for _, step := range tt.steps {
				sessions := []bgp.Session{{Peer: bgp.Peer{Name: "tor"}}}
				for prefix := range strings.FieldsSeq(step.declared) {
					sessions[0].Routes = append(sessions[0].Routes, bgp.Route{Prefix: netip.MustParsePrefix(prefix)})
				}
				declared := slices.Clone(sessions[0].Routes)
				timely, wait := timing.Apply(start.Add(step.after), sessions, allWanted(sessions, tt.local))
				var got []string
				for _, route := range timely[0].Routes {
					got = append(got, route.Prefix.String())
				}
				if diff := cmp.Diff(step.want, strings.Join(got, " ")); diff != "" {
					t.Errorf("after %v (-want +got):\n%s", step.after, diff)
				}
				if want := max(step.wait, 0); want != 0 && wait != want || want == 0 && wait != time.Hour {
					t.Errorf("after %v: wait %v, want %v", step.after, wait, want)
				}
				if !slices.EqualFunc(declared, sessions[0].Routes, func(a, b bgp.Route) bool { return a.Prefix == b.Prefix }) {
					t.Errorf("after %v: the declared routes have changed", step.after)
				}
			}
		})
	}
}

// TestTimingOfServedAddresses: a BGPPeer that begins to select the node is told of old addresses at once, and of new ones a second after they are served.
func TestTimingOfServedAddresses(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	prefix, address := netip.MustParsePrefix, netip.MustParseAddr
	timing := timing{served: newlyServed{}}
	timing.advance(start, map[netip.Prefix]bool{prefix("198.51.100.1/32"): false}) // Time has begun, by another peer.
	timing.served.note(start.Add(-time.Minute), []netip.Addr{address("192.0.2.3")})
	timing.served.note(start.Add(400*time.Millisecond), []netip.Addr{address("192.0.2.130")})
	for _, row := range []struct {
		name, prefix string
		want         time.Duration // since start
	}{
		{"an old address", "192.0.2.1/32", time.Second},
		{"an address that was new a minute ago", "192.0.2.3/32", time.Second},
		{"a new address", "192.0.2.130/32", 1400 * time.Millisecond},
		{"an aggregate of old addresses", "192.0.2.0/25", time.Second},
		{"an aggregate with a new address", "192.0.2.128/25", 1400 * time.Millisecond},
		{"the other family", "2001:db8:c::1/128", time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := start.Add(time.Second)
			if got := timing.served.due(prefix(row.prefix), now).Sub(start); got != row.want {
				t.Errorf("due %v after the start, want %v", got, row.want)
			}
			all := map[netip.Prefix]bool{prefix("198.51.100.1/32"): false, prefix(row.prefix): false}
			of := timing
			of.prefixes = maps.Clone(timing.prefixes)
			if wait, held := of.advance(now, all); held != (row.want > time.Second) || held && wait != row.want-time.Second {
				t.Errorf("held %t, for %v", held, wait)
			}
		})
	}
	timing.served.note(start.Add(2*time.Second), []netip.Addr{address("192.0.2.131")})
	if len(timing.served) != 1 {
		t.Errorf("what is not new any more is still remembered: %v", timing.served)
	}
}

// TestAnAddressOfAnotherServiceHasNotFlapped: two Services have an address in turn, each for a second.
func TestAnAddressOfAnotherServiceHasNotFlapped(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.10/32")
	var service types.NamespacedName
	timing := timing{publishers: func(netip.Addr) iter.Seq[types.NamespacedName] { return slices.Values([]types.NamespacedName{service}) }}
	sessions := func(routes ...bgp.Route) []bgp.Session {
		return []bgp.Session{{Peer: bgp.Peer{Name: "tor"}, Routes: routes}}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	timing.Apply(now, sessions(), nil)
	for _, step := range []struct {
		service string
		want    time.Duration
	}{{"web", time.Second}, {"mail", time.Second}, {"web", time.Second}, {"web", 2 * time.Second}, {"web", 4 * time.Second}, {"mail", time.Second}} {
		service.Name = step.service
		now = now.Add(time.Second)
		if _, wait := timing.Apply(now, sessions(bgp.Route{Prefix: prefix}), map[netip.Prefix]bool{prefix: false}); wait != step.want {
			t.Errorf("%s waits for %v, want %v", step.service, wait, step.want)
		}
		now = now.Add(step.want)
		timing.Apply(now, sessions(), nil)
	}
}

// allWanted returns the prefixes of sessions, all local or none.
func allWanted(sessions []bgp.Session, local bool) map[netip.Prefix]bool {
	wanted := map[netip.Prefix]bool{}
	for _, s := range sessions {
		for _, r := range s.Routes {
			wanted[r.Prefix] = local
		}
	}
	return wanted
}

// TestTimingOfSessions: what is announced for the first time in a session that comes later is not new, and a session or a next hop that goes and
// comes makes nothing flap.
func TestTimingOfSessions(t *testing.T) {
	session := func(peer string, prefixes ...string) bgp.Session {
		s := bgp.Session{Peer: bgp.Peer{Name: peer}}
		for _, prefix := range prefixes {
			s.Routes = append(s.Routes, bgp.Route{Prefix: netip.MustParsePrefix(prefix)})
		}
		return s
	}
	const web, web6, mail = "192.0.2.1/32", "2001:db8:c::1/128", "192.0.2.2/32"
	tor, torWithoutIPv6, fabric := session("tor", web, web6), session("tor", web), session("fabric", mail)
	wanted := allWanted([]bgp.Session{tor, fabric}, false)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var timing timing
	for i, sessions := range [][]bgp.Session{
		nil,                      // No session is known yet.
		{torWithoutIPv6},         // The router of fabric is still looked for, and duplicate address detection goes on.
		{tor, fabric},            // Both are over.
		{torWithoutIPv6, fabric}, // The link has bounced.
		{tor, fabric},
		{torWithoutIPv6},
		{tor, fabric},
		nil,
		{tor, fabric},
	} {
		timely, wait := timing.Apply(start.Add(time.Duration(i)*time.Second), sessions, wanted)
		if diff := cmp.Diff(sessions, timely, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || wait != time.Hour {
			t.Errorf("step %d: again after %v, sessions (-want +got):\n%s", i, wait, diff)
		}
	}
}
