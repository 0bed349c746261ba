// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
)

// TestProberConnectsAnew: of two that ask at the same time the first one connects for both, and gives up before the connection is there. The other one is
// answered all the same.
func TestProberConnectsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, giveUp := context.WithCancel(t.Context())
		connected := 0
		p := &prober{speakers: map[string]*connection{}}
		p.connect = func(ctx context.Context, _ string) (*cluster.Speaker, error) {
			if connected++; ctx != first {
				return &cluster.Speaker{}, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		answered := func(*cluster.Speaker) error { return nil }
		var gone, waits error
		go func() { gone = p.ask(first, "node1", answered) }()
		synctest.Wait()
		go func() { waits = p.ask(t.Context(), "node1", answered) }()
		synctest.Wait()
		if connected != 1 {
			t.Errorf("%d have connected, want the first alone", connected)
		}
		giveUp()
		synctest.Wait()
		if !errors.Is(gone, context.Canceled) || waits != nil || connected != 2 {
			t.Errorf("the first: %v, want the error of its context; the other one: %v; %d have connected, want 2", gone, waits, connected)
		}
	})
}
