// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"time"

	"golang.org/x/time/rate"
)

// DefaultRate is how many announcements a second an interface sends at most by default, and paceBurst how many of them at once. Access
// switches limit broadcasts to some hundred or thousand a second, and routers the ARP packets that reach their processor. What they drop
// they believe wrongly, until the address is announced again.
const (
	DefaultRate = 500
	paceBurst   = 100
	// paceInterval is how often those that wait are looked at.
	paceInterval = 10 * time.Millisecond
)

// A pace has the announcements of one port that are due. They are sent at a bounded rate: first the first announcement of each address,
// then the second of each, and so on. For example a node takes over 5,000 addresses: after 10 s every neighbour has heard of all of them
// once.
//
// While many wait, an IPv4 address is announced by one form of gratuitous ARP at a time: by a request at first, which most neighbours
// take, then by a reply, and by requests from then on.
//
// An announcement that answers a conflict goes before all others: neighbours believe another station meanwhile.
type pace struct {
	limiter *rate.Limiter
	waiting waiting
	count   int
	// due is when the next can be sent, the zero Time if none waits.
	due time.Time
}

// waiting are the tasks that wait: first those that answer a conflict, then by their step; the last are those whose burst is over.
type waiting [1 + len(burst) + 1][]*task

func newPace(perSecond int) *pace {
	return &pace{limiter: rate.NewLimiter(rate.Limit(perSecond), paceBurst)}
}

// add queues a task that is due, which is in no schedule.
func (p *pace) add(t *task) {
	t.queue = 1
	if t.conflict == nil {
		t.queue += 1 + min(t.step, len(burst))
	}
	p.waiting[t.queue-1] = append(p.waiting[t.queue-1], t)
	p.count++
}

// crowded reports whether more wait than are sent at once.
func (p *pace) crowded() bool { return p.count > paceBurst }

// next takes out the task that is to be announced now, and returns in which forms. It returns nil if there is none, or if all have to
// wait. Those that were withdrawn, or whose burst has begun anew, are left out.
func (p *pace) next(now time.Time) (*task, []form) {
	for q := range p.waiting {
		for len(p.waiting[q]) > 0 {
			t := p.waiting[q][0]
			if t.queue == q+1 && t.port.tasks[t.address] == t {
				forms := p.forms(t)
				if !p.limiter.AllowN(now, len(forms)) {
					p.due = now.Add(paceInterval)
					return nil, nil
				}
				p.drop(q)
				t.queue = 0
				return t, forms
			}
			p.drop(q)
		}
	}
	p.due = time.Time{}
	return nil, nil
}

func (p *pace) drop(q int) {
	p.waiting[q][0] = nil
	p.waiting[q] = p.waiting[q][1:]
	p.count--
}

// refused takes back a task whose announcement the socket has refused, since its queue is full. The rest wait for it.
func (p *pace) refused(t *task, now time.Time) {
	p.add(t)
	p.due = now.Add(paceInterval)
}

func (p *pace) clear() { p.waiting, p.count, p.due = waiting{}, 0, time.Time{} }

// A form is a form of an announcement.
type form uint8

const (
	formRequest form = iota // of IPv6 the only form: an unsolicited advertisement
	formReply
)

var (
	requestOnly = []form{formRequest}
	replyOnly   = []form{formReply}
	bothForms   = []form{formRequest, formReply}
)

// forms returns the forms in which an address is announced next. After the burst a request is enough to keep switches from forgetting.
func (p *pace) forms(t *task) []form {
	switch {
	case t.conflict != nil:
		return bothForms
	case t.address.Is6() || !t.isBurst():
		return requestOnly
	case !p.crowded():
		return bothForms
	case t.step == 1:
		return replyOnly
	}
	return requestOnly
}
