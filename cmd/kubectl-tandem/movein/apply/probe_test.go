// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	"github.com/tandem-lb/tandem/speaker/reachability"
)

// lanProber answers as a speaker whose LAN is asked. Other questions end the test.
type lanProber struct {
	why.Prober
	answer func(ctx context.Context, node string) (reachability.Asked, error)
}

func (p lanProber) LAN(ctx context.Context, node, _, _ string, _ netip.Addr, _ uint16, _ bool) (reachability.Asked, error) {
	return p.answer(ctx, node)
}

// heard is what a node hears that asks the LAN: stations of these nodes.
func heard(nodes ...string) (asked reachability.Asked) {
	for i, node := range nodes {
		asked.Stations = append(asked.Stations, reachability.Station{MAC: fmt.Sprintf("02:00:00:00:00:%02x", i+1), Node: node})
	}
	return asked
}

// TestLAN: node1 is to answer for 198.51.100.200, and the others ask.
func TestLAN(t *testing.T) {
	busy := fmt.Errorf("the speaker of node2 on /probe/lan: %w", &cluster.RefusedError{Status: http.StatusTooManyRequests, Why: "try again in a second"})
	for name, tt := range map[string]struct {
		answer  func(ctx context.Context, node string, times int) (reachability.Asked, error)
		problem string // a part of it, "" for none
		doubts  int
		lasts   time.Duration
	}{
		"the holder answers": {answer: func(context.Context, string, int) (reachability.Asked, error) { return heard("node1"), nil }},
		"nobody answers": {
			answer:  func(context.Context, string, int) (reachability.Asked, error) { return heard(), nil },
			problem: "asks the LAN and hears nobody; node1 is to answer",
		},
		"another node answers, too": {
			answer:  func(context.Context, string, int) (reachability.Asked, error) { return heard("node1", "node3"), nil },
			problem: `hears 02:00:00:00:00:02 of "node3" answer, and node1 is to`,
		},
		"one of them hears nobody": {
			answer: func(_ context.Context, node string, _ int) (reachability.Asked, error) {
				if node == "node3" {
					return heard(), nil
				}
				return heard("node1"), nil
			},
			problem: "198.51.100.200 of shop/web: node3 asks the LAN and hears nobody",
		},
		"they have been asked too much": {
			answer: func(_ context.Context, _ string, times int) (reachability.Asked, error) {
				if times <= 4 {
					return reachability.Asked{}, busy
				}
				return heard("node1"), nil
			},
			lasts: 2 * time.Second,
		},
		"a node cannot ask": {
			answer: func(_ context.Context, node string, _ int) (reachability.Asked, error) {
				if node == "node2" {
					return reachability.Asked{}, errors.New("forbidden")
				}
				return heard("node1"), nil
			},
			doubts: 1,
		},
		"they say nothing in time": {
			answer: func(ctx context.Context, _ string, _ int) (reachability.Asked, error) {
				<-ctx.Done()
				return reachability.Asked{}, ctx.Err()
			},
			problem: "has not said in time who answers", lasts: time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var doubts []string
				times := 0
				p := &Prober{
					Speakers: lanProber{answer: func(ctx context.Context, node string) (reachability.Asked, error) {
						mu.Lock()
						times++
						n := times
						mu.Unlock()
						return tt.answer(ctx, node, n)
					}},
					Doubt: func(what string) { doubts = append(doubts, what) },
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				problem := p.lan(ctx, []string{"node1", "node2", "node3"}, []question{
					{types.NamespacedName{Namespace: "shop", Name: "web"}, netip.MustParseAddr("198.51.100.200"), "node1"},
				})
				if (problem == "") != (tt.problem == "") || !strings.Contains(problem, tt.problem) {
					t.Errorf("the problem is %q, want %q", problem, tt.problem)
				}
				if len(doubts) != tt.doubts || time.Since(start) != tt.lasts {
					t.Errorf("after %v, with doubts %q; want %d after %v", time.Since(start), doubts, tt.doubts, tt.lasts)
				}
			})
		})
	}
}

func TestAskers(t *testing.T) {
	nodes := []string{"node1", "node2", "node3", "node4"}
	for _, tt := range []struct {
		holder     string
		number, of int
		want       []string
	}{
		{"node1", 0, 2, []string{"node2", "node3"}},
		{"node1", 1, 2, []string{"node3", "node4"}},
		{"node1", 2, 10, []string{"node4", "node2"}},
		{"node1", 2, 11, []string{"node4"}},
		{"node9", 0, 1, []string{"node1", "node2"}},
	} {
		if got := askers(nodes, tt.holder, tt.number, tt.of); !slices.Equal(got, tt.want) {
			t.Errorf("question %d of %d, %s answers: %v ask, want %v", tt.number, tt.of, tt.holder, got, tt.want)
		}
	}
	if got := askers([]string{"node1"}, "node1", 0, 1); len(got) > 0 {
		t.Errorf("the holder alone: %v ask", got)
	}
}
