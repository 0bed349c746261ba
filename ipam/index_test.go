// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func (x index) String() string {
	var words []string
	for _, s := range x {
		words = append(words, fmt.Sprint(s.Range, s.items))
	}
	return strings.Join(words, ", ")
}

func TestIndex(t *testing.T) {
	tests := []struct{ name, items, want string }{ // items are separated by semicolons
		{"nothing", "", ""},
		{"one range", "10.0.0.0/24", "10.0.0.0-10.0.0.255 [0]"},
		{"ranges of one item that touch", "10.0.0.0/25 10.0.0.128/25", "10.0.0.0-10.0.0.127 [0], 10.0.0.128-10.0.0.255 [0]"},
		{"ranges of one item that overlap", "10.0.0.0/31 10.0.0.1", "10.0.0.0 [0], 10.0.0.1 [0]"},
		{"two that overlap", "10.0.0.0-10.0.0.9; 10.0.0.8/29", "10.0.0.0-10.0.0.7 [0], 10.0.0.8-10.0.0.9 [0 1], 10.0.0.10-10.0.0.15 [1]"},
		{"one inside another", "10.0.0.0/30; 10.0.0.1", "10.0.0.0 [0], 10.0.0.1 [0 1], 10.0.0.2-10.0.0.3 [0]"},
		{"the same range twice", "10.0.0.1; 10.0.0.1", "10.0.0.1 [0 1]"},
		{
			"both families up to their ends", "0.0.0.0/0; ::/0; 255.255.255.255 " + topIPv6,
			"0.0.0.0-255.255.255.254 [0], 255.255.255.255 [0 2], ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe [1], " + topIPv6 + " [1 2]",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var spans []span
			for i, item := range strings.Split(tt.items, ";") {
				for _, r := range ranges(item) {
					spans = append(spans, span{r, i})
				}
			}
			if diff := cmp.Diff(tt.want, newIndex(spans).String()); diff != "" {
				t.Errorf("index (-want +got):\n%s", diff)
			}
		})
	}
}

// Random indexes agree with what their spans say of each address.
func TestIndexAgainstModel(t *testing.T) {
	rng := seeded(t)
	universe := ranges("0.0.0.0-0.0.0.40")[0]
	all := addresses(universe)
	random := func() (spans []span) {
		for i := range rng.IntN(6) {
			for _, r := range randomRanges(rng, universe, 3) {
				spans = append(spans, span{r, i})
			}
		}
		return spans
	}
	itemsAt := func(spans []span, a netip.Addr) (items []int) {
		for _, s := range spans {
			if s.Contains(a) && !slices.Contains(items, s.item) {
				items = append(items, s.item)
			}
		}
		slices.Sort(items)
		return items
	}
	for range 300 {
		some, others := random(), random()
		x, y := newIndex(some), newIndex(others)
		beyond := x.beyond(y)
		for i, a := range all {
			if diff := cmp.Diff(itemsAt(some, a), x.at(a)); diff != "" {
				t.Fatalf("items at %s of %s (-want +got):\n%s", a, x, diff)
			}
			in := slices.ContainsFunc(beyond, func(r Range) bool { return r.Contains(a) })
			if want := len(x.at(a)) > 0 && len(y.at(a)) == 0; in != want {
				t.Fatalf("%s is beyond: %v, want %v; %s beyond %s is %s", a, in, want, x, y, text(beyond))
			}
			r := Range{a, all[rng.IntN(len(all)-i)+i]}
			var want index
			for _, s := range x {
				if s.Overlaps(r) {
					want = append(want, s)
				}
			}
			if diff := cmp.Diff(want.String(), x.overlapping(r).String()); diff != "" {
				t.Fatalf("segments of %s that overlap %s (-want +got):\n%s", x, r, diff)
			}
		}
	}
}
