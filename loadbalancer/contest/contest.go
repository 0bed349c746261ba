// SPDX-License-Identifier: Apache-2.0

// Package contest decides when a status is written back that another controller has overwritten. It is pure.
//
// Where ServiceLB of k3s, MetalLB or kube-vip serves the same Services, each of the two writes its own addresses over
// those of the other. We write a status back at once as long as that is rare, since a user may have edited it. From the
// fourth time in a minute on we wait before each write, longer each time, and say who else writes. Speakers announce
// meanwhile what our claims stand for (package observation).
//
//	writes over ours    we write back after
//	1 to 3              0 s
//	4                   10 s
//	5                   20 s
//	9 and later         300 s
package contest

import (
	"sync"
	"time"

	"github.com/tandem-lb/tandem/ipam"
)

// FreeRounds writes over ours in a minute are answered at once. FirstPause is how long the next answer waits.
const (
	FreeRounds = 3
	FirstPause = 10 * time.Second
)

const (
	roundPeriod = time.Minute
	lastPause   = 5 * time.Minute
)

// contest is what is remembered of another writer of one Service's status.
type contest struct {
	version string        // of the Service, for which we have written the status again, or are about to
	rounds  int           // how often, since
	since   time.Time     // the first of them
	last    time.Time     // the last of them
	pause   time.Duration // the last one, 0 where there was none
	until   time.Time     // the end of the pause that there is, or zero
	message string        // who else writes, "" if nobody does or it is not known yet
}

// over returns when the other writer can be taken to have stopped.
func (c *contest) over() time.Time { return c.last.Add(roundPeriod + 2*c.pause) }

// next is Next for the Service of this contest.
func (c *contest) next(version string, now time.Time) (write bool, pause time.Duration) {
	switch {
	case now.Before(c.until):
		return false, 0
	case !c.until.IsZero(): // the pause is over
		c.until, c.version, c.last = time.Time{}, version, now
		return true, 0
	case version == c.version: // the other address of a pair
		return true, 0
	case now.After(c.over()), c.pause == 0 && now.Sub(c.since) > roundPeriod:
		*c = contest{since: now}
	}
	c.rounds++
	c.version = version
	if c.rounds <= FreeRounds {
		c.last = now
		return true, 0
	}
	c.pause = min(max(FirstPause, 2*c.pause), lastPause)
	c.last, c.until = now, now.Add(c.pause)
	return false, c.pause
}

// Contests are the Services whose statuses others write too.
type Contests struct {
	mu sync.Mutex
	// mu guards all following fields.
	services map[ipam.Service]*contest
}

// New returns no contests.
func New() *Contests { return &Contests{services: map[ipam.Service]*contest{}} }

// Next reports whether the status of a Service, which is another one than ours in this version of the Service, is to
// be written again now. Otherwise it is to be written in pause; that is 0 where it has been said before.
func (c *Contests) Next(service ipam.Service, version string, now time.Time) (write bool, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.services[service] == nil {
		c.services[service] = &contest{since: now, last: now}
	}
	return c.services[service].next(version, now)
}

// Name records who writes the status of a Service.
func (c *Contests) Name(service ipam.Service, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.services[service]; known != nil {
		known.message = message
	}
}

// Forget ends the contest of a Service.
func (c *Contests) Forget(service ipam.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, service)
}

// Writer says who else writes the status of a Service, and until when this is to be taken for true if nothing
// happens. The message is "" where nobody does. A single write over ours is no contest.
func (c *Contests) Writer(service ipam.Service, now time.Time) (message string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.services[service]
	if known == nil || known.message == "" || now.After(known.over()) {
		return "", time.Time{}
	}
	return known.message, known.over()
}
