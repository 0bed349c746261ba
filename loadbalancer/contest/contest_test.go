// SPDX-License-Identifier: Apache-2.0

package contest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRounds has another writer answer each of our writes at once, a given time after its last write.
func TestRounds(t *testing.T) {
	const now = time.Duration(0)
	for name, test := range map[string]struct {
		after  []time.Duration // each of the other's writes
		pauses []time.Duration // before each of ours
	}{
		"three rounds in a minute": {
			after:  []time.Duration{now, now, now},
			pauses: []time.Duration{0, 0, 0},
		},
		"a round every half minute": {
			after:  []time.Duration{now, 30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second},
			pauses: []time.Duration{0, 0, 0, 0, 0, 0},
		},
		"without end": {
			after: make([]time.Duration, 10),
			pauses: []time.Duration{
				0, 0, 0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second,
			},
		},
		"again before it counts as over": {
			after:  []time.Duration{now, now, now, now, 79 * time.Second},
			pauses: []time.Duration{0, 0, 0, 10 * time.Second, 20 * time.Second},
		},
		"again when it is over": {
			after:  []time.Duration{now, now, now, now, 81 * time.Second},
			pauses: []time.Duration{0, 0, 0, 10 * time.Second, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := time.Unix(0, 0)
			c, version := &contest{since: clock, last: clock}, "0"
			var got []time.Duration
			for _, after := range test.after {
				clock, version = clock.Add(after), version+"+"
				write, pause := c.next(version, clock)
				if write == (pause > 0) {
					t.Fatalf("write = %v, pause = %s", write, pause)
				}
				got = append(got, pause)
				if pause == 0 {
					continue
				}
				version += "+" // the other one goes on writing in the pause
				if write, again := c.next(version, clock.Add(pause-1)); write || again != 0 {
					t.Errorf("in the pause: write = %v, pause = %s", write, again)
				}
				clock = clock.Add(pause)
				for _, family := range []string{"IPv4", "IPv6"} {
					if write, _ := c.next(version, clock); !write {
						t.Errorf("%s is not written after the pause", family)
					}
				}
			}
			if diff := cmp.Diff(test.pauses, got); diff != "" {
				t.Errorf("pauses (-want +got):\n%s", diff)
			}
		})
	}
}
