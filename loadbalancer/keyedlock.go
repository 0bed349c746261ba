// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"hash/maphash"

	"golang.org/x/sync/semaphore"
)

// stripes is the number of locks that stand for all keys. A lock is held during requests to the API, so there are
// many more locks than goroutines that take them, and two keys seldom have the same one.
const stripes = 1024

// keyedLock is a lock for each key, an address or a Service. Unlike for a mutex, waiting for it ends with a
// context, since a lock lasts as long as the API takes to answer. A goroutine must not lock two keys of one
// keyedLock: they may have the same stripe, and it would wait for itself.
type keyedLock[K comparable] struct {
	seed  maphash.Seed
	locks [stripes]*semaphore.Weighted
}

// newKeyedLock returns a keyedLock on which no key is locked.
func newKeyedLock[K comparable]() *keyedLock[K] {
	l := &keyedLock[K]{seed: maphash.MakeSeed()}
	for i := range l.locks {
		l.locks[i] = semaphore.NewWeighted(1)
	}
	return l
}

// Lock waits for the lock of a key, which is held until unlock is called. The error says that the context ended
// first.
func (l *keyedLock[K]) Lock(ctx context.Context, key K) (unlock func(), err error) {
	lock := l.locks[maphash.Comparable(l.seed, key)%stripes]
	if lock.Acquire(ctx, 1) != nil {
		return nil, fmt.Errorf("waiting for the lock of %v: %w", key, context.Cause(ctx))
	}
	return func() { lock.Release(1) }, nil
}
