// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"hash/maphash"
)

// stripes is how many turns stand for all keys. They last for requests to the API, so there are many more than workers, that two of these
// seldom meet.
const stripes = 1024

// turns lets one at a time work on a key, an address or a Service. Unlike for a mutex, who waits for a turn ends with a context.
type turns[K comparable] struct {
	seed  maphash.Seed
	taken [stripes]chan struct{} // each with room for the one whose turn it is
}

func newTurns[K comparable]() *turns[K] {
	t := &turns[K]{seed: maphash.MakeSeed()}
	for i := range t.taken {
		t.taken[i] = make(chan struct{}, 1)
	}
	return t
}

// take waits for the key's turn, which lasts until the caller calls done. The error says that the context ended first.
func (t *turns[K]) take(ctx context.Context, key K) (done func(), err error) {
	taken := t.taken[maphash.Comparable(t.seed, key)%stripes]
	select {
	case taken <- struct{}{}:
		return func() { <-taken }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for what is being done to %v: %w", key, context.Cause(ctx))
	}
}
