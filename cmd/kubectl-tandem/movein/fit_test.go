// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// labelKeys are those of the random labels and selectors. Their values are numbers: of the first key one of three, so that selectors have some in common.
var labelKeys = []string{"row", "rack", "room", "zone"}

func randomValue(r *rand.Rand, key string) string {
	if key == labelKeys[0] {
		return strconv.Itoa(r.IntN(3))
	}
	return strconv.Itoa(r.IntN(600))
}

// randomSelectors returns ten selectors of one label, thirty of the first key and another, which can be put together, and count of two other keys, which
// mostly cannot.
func randomSelectors(r *rand.Rand, count int) (list []metav1.LabelSelector) {
	for i := range 40 + count {
		one, other := labelKeys[1+r.IntN(3)], labelKeys[0]
		if i >= 40 {
			other = labelKeys[1+(slices.Index(labelKeys, one)+r.IntN(2))%3]
		}
		s := in(one, randomValue(r, one))
		operator := metav1.LabelSelectorOpIn
		if r.IntN(40) == 0 { // Few, since they match almost everything.
			operator = metav1.LabelSelectorOpNotIn
		}
		if i >= 10 {
			s.MatchExpressions = append(s.MatchExpressions, requirement(other, operator, randomValue(r, other)).MatchExpressions...)
		}
		list = append(list, s)
	}
	return list
}

// randomLabels returns labels of which many match one of the selectors, and many others miss it by one value.
func randomLabels(r *rand.Rand, list []metav1.LabelSelector) map[string]string {
	of := map[string]string{}
	for _, s := range []metav1.LabelSelector{list[r.IntN(len(list))], list[r.IntN(len(list))]} {
		for _, e := range s.MatchExpressions {
			if e.Operator == metav1.LabelSelectorOpIn {
				of[e.Key] = e.Values[0]
			}
		}
		if r.IntN(2) == 0 {
			break
		}
	}
	if key := labelKeys[r.IntN(len(labelKeys))]; r.IntN(2) == 0 {
		of[key] = randomValue(r, key)
	}
	return of
}

// TestFitSelectsTheSame makes objects with more selectors than Tandem takes at random, and asks for labels at random what is selected before and after: a
// node has a peer once, a Service has a pool or an advertisement as soon as one of its parts selects it.
func TestFitSelectsTheSame(t *testing.T) {
	const inputs = 12
	parts := map[string]int{}
	for seed := range uint64(inputs) {
		r := rand.New(rand.NewPCG(seed, 0))
		d := newDraft(&journal{}, Options{})
		nodes, services := randomSelectors(r, 48+r.IntN(20)), randomSelectors(r, 60+r.IntN(80))
		d.pools = []*pool{{name: "lan", services: slices.Clone(services), spans: []span{{text: "192.0.2.0/28"}}}}
		d.peers = []*peer{{name: "tor", nodes: slices.Clone(nodes)}}
		d.advertisements = []*advertisement{{
			kind: bgpKind, name: "lan", pools: []string{"lan"}, peers: []string{"tor"}, nodes: slices.Clone(nodes), selected: selected{services: slices.Clone(services)},
		}}
		d.fit()
		parts[poolKind] += len(d.pools)
		parts[peerKind] += len(d.peers)
		parts[bgpKind] += len(d.advertisements)
		for range 60 {
			node, service := randomLabels(r, nodes), randomLabels(r, services)
			about := fmt.Sprintf("seed %d, node %v, Service %v", seed, node, service)
			sessions := slices.DeleteFunc(slices.Clone(d.peers), func(p *peer) bool { return !matches(p.nodes, node) })
			if want := matches(nodes, node); want && len(sessions) != 1 || !want && len(sessions) != 0 {
				t.Fatalf("%s: %d peers, and the input has one: %t", about, len(sessions), want)
			}
			if got, want := slices.ContainsFunc(d.pools, func(p *pool) bool { return matches(p.services, service) }), matches(services, service); got != want {
				t.Fatalf("%s: a pool: %t, and in the input: %t", about, got, want)
			}
			for _, p := range d.pools { // The address may be of any of them.
				announced := slices.ContainsFunc(d.advertisements, func(a *advertisement) bool {
					to := slices.ContainsFunc(sessions, func(p *peer) bool { return slices.Contains(a.peers, p.name) })
					return to && slices.Contains(a.pools, p.name) && matches(a.nodes, node) && matches(a.services, service)
				})
				if want := matches(nodes, node) && matches(services, service); announced != want {
					t.Fatalf("%s: an address of %s is announced: %t, and in the input: %t", about, p.name, announced, want)
				}
			}
		}
	}
	for _, kind := range []string{poolKind, peerKind, bgpKind} {
		if parts[kind] <= inputs {
			t.Errorf("no %s was split", kind)
		}
	}
}
