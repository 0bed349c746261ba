// SPDX-License-Identifier: Apache-2.0

// Package keyedlock locks Services and addresses, each by itself. Unlike for a mutex, waiting for a lock ends with a
// context, since locks are held while the API answers.
package keyedlock

import (
	"context"
	"fmt"
	"hash/maphash"

	"golang.org/x/sync/semaphore"
)

// stripes is the number of locks that stand for all keys. A lock is held during requests to the API, so there are
// many more locks than goroutines that take them, and two keys seldom have the same one.
const stripes = 1024

// Lock is a lock for each key. A goroutine must not lock two keys of one Lock: they may have the same stripe, and it
// would wait for itself.
type Lock[K comparable] struct {
	seed  maphash.Seed
	locks [stripes]*semaphore.Weighted
}

// New returns a Lock on which no key is locked.
func New[K comparable]() *Lock[K] {
	l := &Lock[K]{seed: maphash.MakeSeed()}
	for i := range l.locks {
		l.locks[i] = semaphore.NewWeighted(1)
	}
	return l
}

// Acquire waits for the lock of a key, which is held until unlock is called. The error says that the context ended
// first.
func (l *Lock[K]) Acquire(ctx context.Context, key K) (unlock func(), err error) {
	lock := l.locks[maphash.Comparable(l.seed, key)%stripes]
	if lock.Acquire(ctx, 1) != nil {
		return nil, fmt.Errorf("waiting for the lock of %v: %w", key, context.Cause(ctx))
	}
	return func() { lock.Release(1) }, nil
}
