// SPDX-License-Identifier: Apache-2.0

package election

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHolder(t *testing.T) {
	tests := []struct {
		name       string
		recorded   string
		candidates []Candidate
		dead       []string
		want       string // empty: none
	}{
		{
			name: "no candidate, no holder",
		},
		{
			name:     "a recorded holder that is no candidate holds nothing",
			recorded: "a",
		},
		{
			name:       "no candidate is alive",
			recorded:   "a",
			candidates: []Candidate{{Node: "a"}, {Node: "b"}},
			dead:       []string{"a", "b"},
		},
		{
			name:       "the only candidate holds",
			candidates: []Candidate{{Node: "a"}},
			want:       "a",
		},
		{
			name:       "the recorded holder keeps the group, first in the list",
			recorded:   "a",
			candidates: []Candidate{{Node: "a"}, {Node: "b"}, {Node: "c"}},
			want:       "a",
		},
		{
			name:       "the recorded holder keeps the group, last in the list",
			recorded:   "c",
			candidates: []Candidate{{Node: "a"}, {Node: "b"}, {Node: "c"}},
			want:       "c",
		},
		{
			name:       "a preferred node takes nothing from the recorded holder",
			recorded:   "a",
			candidates: []Candidate{{Node: "a"}, {Node: "b", Weight: 100}},
			want:       "a",
		},
		{
			name:       "a preferred node succeeds a dead holder",
			recorded:   "a",
			candidates: []Candidate{{Node: "a"}, {Node: "b", Weight: 1}, {Node: "c", Weight: 2}, {Node: "d", Weight: 1}},
			dead:       []string{"a"},
			want:       "c",
		},
		{
			name:       "the next preferred node, where the most preferred one is dead",
			candidates: []Candidate{{Node: "a"}, {Node: "b", Weight: 1}, {Node: "c", Weight: 2}},
			dead:       []string{"c"},
			want:       "b",
		},
		{
			name:       "a recorded holder that is excluded loses the group",
			recorded:   "a",
			candidates: []Candidate{{Node: "b"}},
			want:       "b",
		},
		{
			name:       "a recorded holder that never existed is passed over",
			recorded:   "z",
			candidates: []Candidate{{Node: "b"}},
			want:       "b",
		},
		{
			name:       "no preference ranks above a negative weight",
			candidates: []Candidate{{Node: "a", Weight: -1}, {Node: "b"}, {Node: "c", Weight: -1}},
			want:       "b",
		},
		{
			name:       "a negative weight excludes no candidate",
			candidates: []Candidate{{Node: "a", Weight: -1}},
			want:       "a",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			alive := func(node string) bool { return !slices.Contains(test.dead, node) }
			got, ok := Holder("default/web", test.recorded, test.candidates, alive)
			if ok != (test.want != "") || got != test.want {
				t.Errorf("Holder = %q, %t, want %q", got, ok, test.want)
			}
		})
	}
}

// TestRanking holds the scores that every release must compute. If it fails, the code is wrong.
func TestRanking(t *testing.T) {
	got := map[string]uint64{}
	for _, key := range []string{"", "default/web", "default/a-service-whose-name-is-longer-than-one-block-of-the-hash"} {
		for _, node := range []string{"node1", "node2"} {
			got[key+" "+node] = ranking(key)(node)
		}
	}
	want := map[string]uint64{
		" node1":            15618743734286592799,
		" node2":            6577737125339209006,
		"default/web node1": 3014963320707323202,
		"default/web node2": 3367355149952595767,
		"default/a-service-whose-name-is-longer-than-one-block-of-the-hash node1": 4784197271688257239,
		"default/a-service-whose-name-is-longer-than-one-block-of-the-hash node2": 17556544114395351215,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Scores (-want +got):\n%s", diff)
	}
}

func TestHolderAgreesWhateverTheOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		world := randomWorld(random)
		want, wantOK := world.holder()
		random.Shuffle(len(world.candidates), func(i, j int) {
			world.candidates[i], world.candidates[j] = world.candidates[j], world.candidates[i]
		})
		if got, ok := world.holder(); got != want || ok != wantOK {
			t.Fatalf("Holder = %q, %t, but in another order %q, %t: %+v", got, ok, want, wantOK, world)
		}
	}
}

func TestHolderIsTheRecordedOneOrAmongTheMostPreferred(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		world := randomWorld(random)
		var live []Candidate
		for _, c := range world.candidates {
			if world.alive[c.Node] {
				live = append(live, c)
			}
		}
		got, ok := world.holder()
		if !ok {
			if len(live) > 0 {
				t.Fatalf("No holder although candidates live: %+v", world)
			}
			continue
		}
		i := slices.IndexFunc(live, func(c Candidate) bool { return c.Node == got })
		if i < 0 {
			t.Fatalf("Holder = %q, which is no live candidate: %+v", got, world)
		}
		if slices.ContainsFunc(live, func(c Candidate) bool { return c.Node == world.recorded }) {
			if got != world.recorded {
				t.Fatalf("Holder = %q, want the recorded %q: %+v", got, world.recorded, world)
			}
			continue
		}
		if most := slices.MaxFunc(live, func(a, b Candidate) int { return int(a.Weight - b.Weight) }); live[i].Weight != most.Weight {
			t.Fatalf("Holder = %+v, but %+v is preferred: %+v", live[i], most, world)
		}
	}
}

func TestANodeThatDiesMovesOnlyItsOwnGroups(t *testing.T) {
	candidates := cluster(10)
	before := assign(candidates, nil, allAlive)
	for _, dead := range candidates {
		alive := func(node string) bool { return node != dead.Node }
		for _, recorded := range []map[string]string{nil, before} {
			for key, holder := range assign(candidates, recorded, alive) {
				if before[key] != dead.Node && holder != before[key] {
					t.Errorf("%s moved from %s to %s although %s died", key, before[key], holder, dead.Node)
				}
			}
		}
	}
}

func TestTheGroupsOfADeadNodeSpreadOverTheOthers(t *testing.T) {
	candidates := cluster(5)
	before := assign(candidates, nil, allAlive)
	after := assign(candidates, before, func(node string) bool { return node != "node0" })
	successors := map[string]int{}
	for key, holder := range after {
		if before[key] == "node0" {
			successors[holder]++
		}
	}
	checkBalance(t, successors, 4)
}

func TestANodeThatJoins(t *testing.T) {
	before := assign(cluster(9), nil, allAlive)

	// Without records it takes its share and no more, and nothing moves between the others.
	moved := 0
	for key, holder := range assign(cluster(10), nil, allAlive) {
		if holder == before[key] {
			continue
		}
		if moved++; holder != "node9" {
			t.Errorf("%s moved from %s to %s although node9 joined", key, before[key], holder)
		}
	}
	// The share of 1000 groups is binomial with a mean of 100 and a deviation of 9.5.
	if moved < 60 || moved > 140 {
		t.Errorf("%d of 1000 groups moved to the tenth node", moved)
	}

	// With records it takes nothing.
	if diff := cmp.Diff(before, assign(cluster(10), before, allAlive)); diff != "" {
		t.Errorf("Recorded groups moved (-want +got):\n%s", diff)
	}
}

func TestGroupsAreBalanced(t *testing.T) {
	for _, nodes := range []int{2, 3, 10} {
		counts := map[string]int{}
		for _, holder := range assign(cluster(nodes), nil, allAlive) {
			counts[holder]++
		}
		checkBalance(t, counts, nodes)
	}
}

// TestPartition cuts a cluster in two, of which one side, or none, still reaches the API, and heals it again.
func TestPartition(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	candidates := cluster(8)
	for round := range 500 {
		key := fmt.Sprint("default/service", round)
		record, _ := Holder(key, "", candidates, allAlive)

		side := map[string]int{}
		size := [2]int{}
		for _, c := range candidates {
			s := random.IntN(2)
			side[c.Node] = s
			size[s]++
		}
		cut := announcers(key, record, candidates, func(viewer, node string) bool { return side[viewer] == side[node] })
		var holders [2][]string
		for _, node := range cut {
			holders[side[node]] = append(holders[side[node]], node)
		}
		for s := range 2 {
			if len(holders[s]) != min(size[s], 1) {
				t.Fatalf("Round %d: on a side of %d nodes %v hold the group", round, size[s], holders[s])
			}
		}
		if !slices.Contains(cut, record) {
			t.Fatalf("Round %d: the recorded %s holds no longer, but %v", round, record, cut)
		}

		if withAPI := random.IntN(3); withAPI < 2 && size[withAPI] > 0 {
			record = holders[withAPI][0]
		}
		healed := announcers(key, record, candidates, func(_, _ string) bool { return true })
		if diff := cmp.Diff([]string{record}, healed); diff != "" {
			t.Fatalf("Round %d: holders after the cut healed (-want +got):\n%s", round, diff)
		}
	}
}

func BenchmarkHolder(b *testing.B) {
	candidates := cluster(100)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("namespace-%d/service-%d", i%100, i)
	}
	for _, bench := range []struct{ name, recorded string }{{"Elect", ""}, {"Keep", "node99"}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, key := range keys {
					Holder(key, bench.recorded, candidates, allAlive)
				}
			}
		})
	}
}

func allAlive(string) bool { return true }

func cluster(nodes int) []Candidate {
	candidates := make([]Candidate, nodes)
	for i := range candidates {
		candidates[i].Node = fmt.Sprint("node", i)
	}
	return candidates
}

// assign returns the holders of 1000 groups.
func assign(candidates []Candidate, recorded map[string]string, alive func(string) bool) map[string]string {
	holders := map[string]string{}
	for i := range 1000 {
		key := fmt.Sprint("default/service", i)
		holders[key], _ = Holder(key, recorded[key], candidates, alive)
	}
	return holders
}

// announcers returns the nodes that hold the group by what each of them sees.
func announcers(key, recorded string, candidates []Candidate, sees func(viewer, node string) bool) []string {
	var nodes []string
	for _, c := range candidates {
		alive := func(node string) bool { return sees(c.Node, node) }
		if holder, ok := Holder(key, recorded, candidates, alive); ok && holder == c.Node {
			nodes = append(nodes, c.Node)
		}
	}
	return nodes
}

// checkBalance fails where Pearson's chi-square of the counts is beyond what an even spread exceeds once in 1000 cases.
func checkBalance(t *testing.T, counts map[string]int, nodes int) {
	t.Helper()
	limit := map[int]float64{2: 10.83, 3: 13.82, 4: 16.27, 10: 27.88}[nodes] // nodes-1 degrees of freedom
	total := 0
	for n := range maps.Values(counts) {
		total += n
	}
	expected := float64(total) / float64(nodes)
	chi := expected * float64(nodes-len(counts)) // the nodes that got none
	for _, n := range counts {
		chi += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	if chi > limit {
		t.Errorf("Chi-square of %v over %d nodes = %.1f, want at most %.2f", counts, nodes, chi, limit)
	}
}

type world struct {
	key, recorded string
	candidates    []Candidate
	alive         map[string]bool
}

func (w world) holder() (string, bool) {
	return Holder(w.key, w.recorded, w.candidates, func(node string) bool { return w.alive[node] })
}

func randomWorld(random *rand.Rand) world {
	w := world{key: fmt.Sprint("default/service", random.IntN(100)), alive: map[string]bool{}}
	for i := range 8 {
		node := fmt.Sprint("node", i)
		w.alive[node] = random.IntN(3) > 0
		if random.IntN(3) > 0 {
			w.candidates = append(w.candidates, Candidate{Node: node, Weight: int32(random.IntN(3))})
		}
	}
	if random.IntN(2) > 0 {
		w.recorded = fmt.Sprint("node", random.IntN(8))
	}
	return w
}
