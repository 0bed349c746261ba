// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTwoLeaders lets two controller managers that both believe they lead serve 2,000 Services at once. Their claims are all that
// keeps them from giving an address twice.
func TestTwoLeaders(t *testing.T) {
	const services = 2000
	ctx := t.Context()
	a, err := newArena(ctx, "leaders", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	tandem, err := a.newTandem(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{7575, 7576} {
		leader, err := tandem.startAt(ctx, port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(leader.end)
	}
	if err := a.warm(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.create(ctx, "leaders", services); err != nil {
		t.Fatal(err)
	}
	if err := a.await(ctx, "served", services, func() int { return len(a.done) }); err != nil {
		t.Fatal(err)
	}
	// Where both served a Service at the same time, one status is the last, and what it does not show is released when the other leader can
	// no longer mean to publish it.
	if err := a.awaitClaims(ctx, 2*services); err != nil {
		t.Error(err)
	}
	if err := a.delete(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.awaitClaims(ctx, 0); err != nil {
		t.Error(err)
	}
}

// awaitClaims waits until exactly n addresses are claimed, each for the Service that shows it and no other.
func (a *arena) awaitClaims(ctx context.Context, n int) error {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		published, err := a.published()
		if err != nil {
			return err
		}
		claims, err := a.claims(ctx)
		if err != nil {
			return err
		}
		if len(claims) == n && maps.Equal(claims, published) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d claims (+) are not the %d addresses that Services show (-): %s", len(claims), n, cmp.Diff(published, claims))
		}
	}
}
