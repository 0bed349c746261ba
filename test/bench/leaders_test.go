// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package main

import (
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
	// Where both served a Service, the one that was late gives back what it claimed.
	if _, err := a.settle(ctx); err != nil {
		t.Fatal(err)
	}
	published, err := a.published()
	if err != nil {
		t.Fatal(err)
	}
	if len(published) != 2*services {
		t.Errorf("%d addresses are published, want %d", len(published), 2*services)
	}
	claims, err := a.claims(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(published, claims) {
		t.Errorf("claims (+) are not what Services show (-): %s", cmp.Diff(published, claims))
	}

	if err := a.delete(ctx); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		claims, err := a.claims(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(claims) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d addresses are still claimed after all Services are gone", len(claims))
		}
	}
}
