// SPDX-License-Identifier: Apache-2.0

// Package signal passes on between goroutines that something has changed, or what it has become, where only the present state matters and
// not how often it changed on the way.
//
//   - A [Signal] says that something changed. The goroutine that receives it then looks up what the state is.
//   - A [Latest] carries the state itself, of which a newer one replaces an older one that was not received yet.
//   - [Gather] makes one signal of a burst of them, after the burst, and [Pace] makes few, and the first at once.
//   - [Every] writes a state somewhere when it has changed, and not more often than it is told.
//
// For instance, a controller raises a Signal in each event handler of an informer. However many events there are, it then works once on the
// objects as they are:
//
//	changed := signal.New()
//	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { changed.Raise() }})
//	gathered := signal.Gather(ctx, changed, 20*time.Millisecond)
//	for {
//		select {
//		case <-gathered:
//			decide(ctx)
//		case <-ctx.Done():
//			return
//		}
//	}
package signal

import (
	"context"
	"time"
)

// A Signal is a channel with room for one token. A token that waits in it covers all changes until it is received. Any number of goroutines
// may raise it; one receives from it.
type Signal chan struct{}

// New returns a Signal that is not raised.
func New() Signal { return make(Signal, 1) }

// Raise leaves a token, unless there is one. It never blocks.
func (s Signal) Raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// A Latest is a channel with room for one value, which a newer value replaces. One goroutine puts values, another receives them.
type Latest[T any] chan T

// NewLatest returns a Latest that has no value.
func NewLatest[T any]() Latest[T] { return make(Latest[T], 1) }

// Put leaves a value in the place of one that has not been received. It never blocks as long as no other goroutine puts values.
func (l Latest[T]) Put(value T) {
	select {
	case <-l:
	default:
	}
	l <- value
}

// Gather returns a Signal that is raised when wait has passed since the first of a number of changes, so that a burst of changes causes one
// signal. The time counts from the first change and not from the last: where changes never cease, the Signal is raised again and again.
// When the context has ended, the Signal is neither raised nor closed.
func Gather(ctx context.Context, changes <-chan struct{}, wait time.Duration) Signal {
	gathered := New()
	go func() {
		for receive(ctx, changes) && sleep(ctx, wait) {
			select {
			case <-changes:
			default:
			}
			gathered.Raise()
		}
	}()
	return gathered
}

// Pace returns a Signal that is raised with the first of a number of changes, and with those that follow when least has passed since: one
// change alone is not delayed, and a burst of them causes few signals. When the context has ended, the Signal is neither raised nor closed.
func Pace(ctx context.Context, changes <-chan struct{}, least time.Duration) Signal {
	paced := New()
	go func() {
		var raised time.Time
		for receive(ctx, changes) {
			if wait := least - time.Since(raised); wait > 0 { // No timer wakes the process after a change that is alone.
				if !sleep(ctx, wait) {
					return
				}
				select {
				case <-changes:
				default:
				}
			}
			raised = time.Now()
			paced.Raise()
		}
	}()
	return paced
}

// Every calls write whenever changed is raised, and not again before least has passed since the last call ended. If write fails, it is
// called again after retry, whether anything changes until then or not; the error is for write to log. Every returns when the context has
// ended.
func Every(ctx context.Context, changed Signal, least, retry time.Duration, write func(context.Context) error) {
	for receive(ctx, changed) {
		wait := least
		if err := write(ctx); err != nil {
			changed.Raise()
			wait = retry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// receive waits for a token. It returns false if the context ends first.
func receive(ctx context.Context, from <-chan struct{}) bool {
	select {
	case <-from:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// sleep waits for so long. It returns false if the context ends first.
func sleep(ctx context.Context, wait time.Duration) bool {
	select {
	case <-time.After(wait):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
