// SPDX-License-Identifier: Apache-2.0

package signal

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignalKeepsOneToken(t *testing.T) {
	s := New()
	for range 3 {
		s.Raise()
	}
	<-s
	select {
	case <-s:
		t.Error("raised three times and received twice, want once")
	default:
	}
	s.Raise()
	<-s
}

func TestLatestKeepsTheNewestValue(t *testing.T) {
	l := NewLatest[int]()
	for value := range 3 {
		l.Put(value)
	}
	if got := <-l; got != 2 {
		t.Errorf("received %d, want 2, which was put last", got)
	}
	select {
	case got := <-l:
		t.Errorf("received %d after the latest value", got)
	default:
	}
	l.Put(3)
	if got := <-l; got != 3 {
		t.Errorf("received %d, want 3", got)
	}
}

// One goroutine puts while another receives: the last value always arrives, and values never go backwards.
func TestLatestWhileOneReceives(t *testing.T) {
	const last = 10000
	l := NewLatest[int]()
	var putter sync.WaitGroup
	putter.Go(func() {
		for value := range last + 1 {
			l.Put(value)
		}
	})
	previous := -1
	for previous != last {
		got := <-l
		if got <= previous {
			t.Fatalf("received %d after %d", got, previous)
		}
		previous = got
	}
	putter.Wait()
}

func TestGather(t *testing.T) {
	const wait = 20 * time.Millisecond
	ms := func(of ...int) (times []time.Duration) {
		for _, n := range of {
			times = append(times, time.Duration(n)*time.Millisecond)
		}
		return times
	}
	for _, tt := range []struct {
		name    string
		changes []time.Duration // at which something changes
		want    []time.Duration // at which the gathered signal is raised
	}{
		{"no change, no signal", nil, nil},
		{"one change", ms(5), ms(25)},
		{"a burst is one signal", ms(0, 1, 2, 19), ms(20)},
		{"changes that do not cease cause a signal each wait", ms(0, 8, 16, 24, 32, 40, 48, 56), ms(20, 44, 68)},
		{"two changes far apart", ms(0, 100), ms(20, 120)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				changed, start := New(), time.Now()
				gathered := Gather(ctx, changed, wait)
				var got []time.Duration
				var receiver sync.WaitGroup
				receiver.Go(func() {
					for {
						select {
						case <-gathered:
							got = append(got, time.Since(start))
						case <-ctx.Done():
							return
						}
					}
				})
				for _, at := range tt.changes {
					time.Sleep(time.Until(start.Add(at)))
					changed.Raise()
				}
				time.Sleep(time.Second)
				cancel()
				receiver.Wait()
				if !slices.Equal(got, tt.want) {
					t.Errorf("raised at %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestPace: a change that is alone is passed on at once, and of those that follow soon one is, when the time is over. What has come until
// then is passed on with it.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed, start := New(), time.Now()
		paced := Pace(ctx, changed, 20*time.Millisecond)
		var raised []time.Duration
		for at := range 200 * time.Millisecond / time.Millisecond {
			if slices.Contains([]time.Duration{0, 5, 10, 30, 100, 121}, at) {
				changed.Raise()
			}
			synctest.Wait()
			select {
			case <-paced:
				raised = append(raised, time.Since(start)/time.Millisecond)
			default:
			}
			time.Sleep(time.Millisecond)
		}
		if want := []time.Duration{0, 20, 40, 100, 121}; !slices.Equal(raised, want) {
			t.Errorf("raised after %d ms, want %d", raised, want)
		}
		cancel()
		synctest.Wait()
	})
}

func TestEvery(t *testing.T) {
	const least, retry = 500 * time.Millisecond, 2 * time.Second
	s := func(of ...float64) (times []time.Duration) {
		for _, n := range of {
			times = append(times, time.Duration(n*float64(time.Second)))
		}
		return times
	}
	for _, tt := range []struct {
		name     string
		changes  []time.Duration // at which something changes
		failures int             // of the first writes
		want     []time.Duration // at which write is called
	}{
		{"nothing is written before something changes", nil, 0, nil},
		{"a first change is written at once", s(3), 0, s(3)},
		{"changes soon after it are written once, when the least time has passed", s(0, 0.1, 0.2, 0.4), 0, s(0, 0.5)},
		{"a change long after it is written at once", s(0, 0.9), 0, s(0, 0.9)},
		{"a write that fails is repeated without a change", s(0), 2, s(0, 2, 4)},
		{"a change does not make a repetition come sooner", s(0, 0.7), 1, s(0, 2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				changed, start := New(), time.Now()
				var got []time.Duration
				var writer sync.WaitGroup
				writer.Go(func() {
					Every(ctx, changed, least, retry, func(context.Context) error {
						got = append(got, time.Since(start))
						if len(got) <= tt.failures {
							return errors.New("the API server is away")
						}
						return nil
					})
				})
				for _, at := range tt.changes {
					time.Sleep(time.Until(start.Add(at)))
					changed.Raise()
				}
				time.Sleep(time.Minute)
				cancel()
				writer.Wait()
				if !slices.Equal(got, tt.want) {
					t.Errorf("written at %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// A context that ends while a write is under way ends Every, even if the write fails.
func TestEveryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed := New()
		changed.Raise()
		writes := 0
		Every(ctx, changed, time.Second, time.Second, func(ctx context.Context) error {
			writes++
			cancel()
			return ctx.Err()
		})
		if writes != 1 {
			t.Errorf("written %d times, want once", writes)
		}
	})
}
