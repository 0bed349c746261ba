// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestStatusesFailing changes the statuses of a few addresses at random: those that fail are those of all that have an error, and a clone is another
// state.
func TestStatusesFailing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	failing := func(x *statuses) []Status {
		return slices.DeleteFunc(listed(x.all), func(s Status) bool { return s.Err == nil })
	}
	now := newStatuses()
	for step := range 2000 {
		s := Status{Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(8))}), Interface: []string{"eth0", "eth1"}[random.IntN(2)]}
		before, was := now, listed(now.all)
		now = now.clone()
		switch random.IntN(3) {
		case 0:
			s.Err = errors.New("in use")
			now.put(s)
		case 1:
			s.Announced = true
			now.put(s)
		case 2:
			now.remove(s)
		}
		if got, want := listed(now.failing), failing(now); !slices.EqualFunc(got, want, Status.equal) {
			t.Fatalf("step %d: %v fail, want %v", step, got, want)
		}
		if got := listed(before.all); !slices.EqualFunc(got, was, Status.equal) || !slices.EqualFunc(listed(before.failing), failing(before), Status.equal) {
			t.Fatalf("step %d: the state before has become %v, and was %v", step, got, was)
		}
	}
}
