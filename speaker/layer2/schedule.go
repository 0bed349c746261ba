// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"
)

// burst is when an address is announced after it was taken over. The first ones are close together because a frame
// may be lost while a switch relearns; the later ones reach hosts that ignore updates for a second after the last.
var burst = [...]time.Duration{
	0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
}

// After the burst an address is announced again each refreshInterval, give or take refreshJitter. Switches
// forget a MAC after 300 s by default, and a silent node must not become one whose traffic is flooded.
const (
	refreshInterval = 150 * time.Second
	refreshJitter   = 30 * time.Second
)

// A task is the announcing of one address on one interface.
type task struct {
	port    *port
	address netip.Addr
	start   time.Time // of the burst
	step    int       // announcements since start
	due     time.Time
	claim   *claim // which the next announcement answers, nil for none
	index   int    // in the schedule
}

// isBurst reports whether the next announcement belongs to the burst.
func (t *task) isBurst() bool { return t.step < len(burst) }

// A schedule holds all tasks, the first one due in front. It implements heap.Interface.
type schedule []*task

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	t := x.(*task)
	t.index = len(*s)
	*s = append(*s, t)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	old := *s
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	return t
}

// add starts a burst for an address.
func (s *schedule) add(p *port, address netip.Addr, now time.Time) *task {
	t := &task{port: p, address: address, start: now, due: now}
	heap.Push(s, t)
	return t
}

func (s *schedule) remove(t *task) { heap.Remove(s, t.index) }

// restart begins all bursts anew.
func (s schedule) restart(now time.Time) {
	for _, t := range s {
		t.start, t.due, t.step = now, now, 0
	}
}

// hasten has a claim answered at due, unless an announcement comes before that anyway.
func (s schedule) hasten(t *task, due time.Time, c claim) {
	if !t.due.Before(due) {
		t.due, t.claim = due, &c
		heap.Fix(&s, t.index)
	}
}

// sent puts a task, which was just announced, to its next time.
func (s schedule) sent(t *task, now time.Time) {
	t.step++
	t.claim = nil
	if t.isBurst() {
		t.due = t.start.Add(burst[t.step])
	} else {
		t.due = now.Add(refreshInterval - refreshJitter + rand.N(2*refreshJitter))
	}
	heap.Fix(&s, t.index)
}
