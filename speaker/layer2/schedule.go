// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"
)

// burst says when an address is announced after this node has taken it over. The first announcements are close together because a frame may
// be lost while a switch relearns. The later ones reach hosts that ignore an update for a second after the one before.
var burst = [...]time.Duration{
	0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
}

// askAfter is how many announcements of the burst go before the LAN is asked whether another speaker has taken the address over too: it is
// the one after a second.
const askAfter = 3

// After the burst an address is announced again each refreshInterval, give or take a fifth. Switches forget a MAC after 300 s by default, and
// a silent node must not become one whose traffic is flooded. Of many addresses of an interface refreshRate are announced a second: every host
// of the LAN has to look at each. For example an interface has 20,000: its MAC is heard 20 times a second, and each address every 17 minutes.
const (
	refreshInterval = 150 * time.Second
	refreshRate     = 20
)

// A task is to probe one address on one interface, and then to announce it, again and again.
type task struct {
	port    *port
	address netip.Addr
	entry   *entry
	start   time.Time // of the burst
	step    int       // announcements since start
	due     time.Time
	// conflict is what the next announcement answers, nil if it answers none.
	conflict *conflict
	index    int // in the schedule, -1 while it is not there
	// queue says in which queue of the port's pace the task waits, counted from 1; 0 if it does not.
	queue int
}

// isBurst reports whether the next announcement belongs to the burst.
func (t *task) isBurst() bool { return t.step < len(burst) }

// A schedule holds all tasks that have a time, the one that is due first in front. It implements heap.Interface.
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

// put sets when a task is due.
func (s *schedule) put(t *task, due time.Time) {
	t.due = due
	if t.index >= 0 {
		heap.Fix(s, t.index)
	} else {
		heap.Push(s, t)
	}
}

// burst begins the announcements of a task.
func (s *schedule) burst(t *task, now time.Time) {
	t.start, t.step, t.queue = now, 0, 0
	s.put(t, now)
}

func (s *schedule) remove(t *task) {
	if t.index >= 0 {
		heap.Remove(s, t.index)
		t.index = -1
	}
}

// deferDefence has a conflict answered at due, in the place of the one before, unless the address is announced before that anyway.
func (s schedule) deferDefence(t *task, due time.Time, c conflict) {
	if t.index >= 0 && (t.conflict != nil || !t.due.Before(due)) {
		t.due, t.conflict = due, &c
		heap.Fix(&s, t.index)
	}
}

// defend has a conflict answered as soon as the pace lets, wherever the task was.
func (s *schedule) defend(t *task, c conflict) {
	s.remove(t)
	t.conflict = &c
	t.port.pace.add(t)
}

// sent sets the next time of a task that was announced just now.
func (s *schedule) sent(t *task, now time.Time) {
	t.step++
	t.conflict = nil
	interval := max(refreshInterval, time.Duration(len(t.port.tasks))*time.Second/refreshRate)
	due := now.Add(interval*4/5 + rand.N(interval*2/5))
	if t.isBurst() {
		due = t.start.Add(burst[t.step])
	}
	s.put(t, due)
}
