// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"testing"

	"github.com/tandem-lb/tandem/ipam/family"
)

// Requests of one shape are answered together, and each gets what it would get alone.
func TestPlanOfOneShape(t *testing.T) {
	pools := auto("lan")
	both := []family.Family{family.IPv4, family.IPv6}
	ask := func(name string, edits ...func(*Request)) Request {
		req := Request{Service: Service{"default", name}, Families: both, RequireAll: true, Pools: pools}
		for _, edit := range edits {
			edit(&req)
		}
		return req
	}
	a := withPools(makePool("lan", "10.0.0.0/30 2001:db8::/127"))
	a.Hold(Service{"default", "keyed"}, addr("10.0.0.3"), "lan", Sharing{Key: "k", Ports: []Port{{"TCP", 80}}})
	answers := a.Plan(noon,
		ask("first"), ask("second"), ask("third"), ask("fourth"),
		ask("only IPv4", func(r *Request) { r.Families = both[:1] }),
		ask("another pool", func(r *Request) { r.Pools = auto("none") }),
		ask("sharer", func(r *Request) {
			r.Families, r.Sharing = both[:1], Sharing{Key: "k", Ports: []Port{{"TCP", 81}}}
		}),
	)
	for i, served := range []bool{true, true, false, false, true, false, true} {
		if (answers[i].Err == nil) != served {
			t.Errorf("request %d is answered %v, %v; want it served: %v", i, answers[i].Outcome, answers[i].Err, served)
		}
	}
	if answers[2].Err.Error() != answers[3].Err.Error() {
		t.Errorf("the third is told %v, the fourth %v", answers[2].Err, answers[3].Err)
	}
}
