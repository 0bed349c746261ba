// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

// start is when every test begins.
var start = time.Unix(1_800_000_000, 0)

// wire joins two machines by a link without delay, and moves their clock from one deadline to the next.
type wire struct {
	t    *testing.T
	now  time.Time
	ends [2]*Machine
	// cut says of each end that what it sends is lost, off that it does nothing.
	cut, off [2]bool
	sent     [2][]sent
	// story is every change of a state, as "1.5s a Up".
	story []string
}

type sent struct {
	at time.Duration
	Packet
}

// params returns those of an active side with the same interval in both directions.
func params(interval time.Duration) Params {
	return Params{Transmit: interval, Receive: interval, Multiplier: 3}
}

// newWire joins two sides. Without jitter, all times can be told beforehand: spread is what their random numbers are.
func newWire(t *testing.T, spread float64, a, b Params) *wire {
	w := &wire{t: t, now: start}
	for i, p := range []Params{a, b} {
		w.ends[i] = NewMachine(start, p, uint32(10+i), func() float64 { return spread })
	}
	return w
}

// send has an end say something, which the other may answer at once.
func (w *wire) send(from int, packets []Packet) {
	for depth := 0; len(packets) > 0; depth++ {
		if depth > 10 {
			w.t.Fatal("the two sides answer each other without end")
		}
		var answers []Packet
		for _, p := range packets {
			if p.Poll && p.Final {
				w.t.Error("a packet both polls and answers a poll")
			}
			w.sent[from] = append(w.sent[from], sent{w.now.Sub(start), p})
			parsed, err := Parse(p.Append(nil))
			if err != nil {
				w.t.Fatalf("%+v: %v", p, err)
			}
			if !w.cut[from] && !w.off[1-from] {
				w.watch(func() { answers = append(answers, w.ends[1-from].Receive(w.now, parsed)...) })
			}
		}
		from, packets = 1-from, answers
	}
}

// act has an end do something, and sends what it says.
func (w *wire) act(end int, do func(m *Machine) []Packet) {
	var packets []Packet
	w.watch(func() { packets = do(w.ends[end]) })
	w.send(end, packets)
}

// watch notes what do changes.
func (w *wire) watch(do func()) {
	old := [2]State{w.ends[0].state, w.ends[1].state}
	do()
	for i, m := range w.ends {
		if m.state != old[i] {
			w.story = append(w.story, fmt.Sprintf("%v %c %v", w.now.Sub(start), 'a'+rune(i), m.state))
		}
	}
}

// run lets time pass.
func (w *wire) run(d time.Duration) {
	end := w.now.Add(d)
	for range 100_000 {
		next := -1
		for i, m := range w.ends {
			if at := m.Deadline(); !w.off[i] && !at.IsZero() && !at.After(end) && (next < 0 || at.Before(w.ends[next].Deadline())) {
				next = i
			}
		}
		if next < 0 {
			w.now = end
			return
		}
		w.now = w.ends[next].Deadline()
		w.act(next, func(m *Machine) []Packet { return m.Tick(w.now) })
	}
	w.t.Fatal("time does not pass")
}

// gaps returns the shortest and the longest time between two packets of an end since a moment.
func (w *wire) gaps(end int, since time.Duration) (shortest, longest time.Duration) {
	var last time.Duration = -1
	for _, s := range w.sent[end] {
		if s.at < since {
			continue
		}
		if gap := s.at - last; last >= 0 {
			longest = max(longest, gap)
			if shortest == 0 || gap < shortest {
				shortest = gap
			}
		}
		last = s.at
	}
	return shortest, longest
}

func (w *wire) want(story ...string) {
	w.t.Helper()
	if diff := cmp.Diff(story, w.story); diff != "" {
		w.t.Errorf("states (-want +got):\n%s", diff)
	}
	w.story = nil
}

// up brings both sides up and clears the story.
func (w *wire) up() {
	w.t.Helper()
	w.run(3 * time.Second)
	for _, m := range w.ends {
		if m.state != Up || m.polling {
			w.t.Fatalf("states %v and %v after 3 s, want both up and agreed", w.ends[0].state, w.ends[1].state)
		}
	}
	w.story, w.sent = nil, [2][]sent{}
}

func TestStates(t *testing.T) {
	tests := []struct {
		name string
		a, b Params
		play func(w *wire)
		want []string
	}{
		{
			name: "both come up with the first packet of each", a: params(300 * ms), b: params(300 * ms),
			play: func(w *wire) { w.run(2 * time.Second) },
			want: []string{"0s b Init", "0s a Up", "0s b Up"},
		},
		{
			name: "a passive one comes up with an active one", a: params(300 * ms),
			b:    Params{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3, Passive: true},
			play: func(w *wire) { w.run(2 * time.Second) },
			want: []string{"0s b Init", "0s a Up", "0s b Up"},
		},
		{
			name: "two passive ones stay silent", a: Params{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3, Passive: true},
			b: Params{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3, Passive: true},
			play: func(w *wire) {
				w.run(time.Minute)
				if n := len(w.sent[0]) + len(w.sent[1]); n > 0 {
					w.t.Errorf("%d packets, want none", n)
				}
			},
		},
		{
			name: "the session with a peer that dies fails after three intervals", a: params(300 * ms), b: params(300 * ms),
			play: func(w *wire) {
				w.up()
				w.off[1] = true
				w.run(950 * ms)
			},
			want: []string{"3.825s a Down"},
		},
		{
			name: "a side that is not heard is told so, and comes up again", a: params(300 * ms), b: params(300 * ms),
			play: func(w *wire) {
				w.up()
				w.cut[1] = true
				w.run(1300 * ms)
				w.cut[1] = false
				w.run(2 * time.Second)
			},
			want: []string{"3.825s a Down", "3.825s b Down", "4.575s b Init", "4.575s a Up", "4.575s b Up"},
		},
		{
			name: "a side that goes AdminDown takes the other down", a: params(300 * ms), b: params(300 * ms),
			play: func(w *wire) {
				w.up()
				w.act(1, func(m *Machine) []Packet { return m.GoAdminDown(w.now) })
				w.run(5 * time.Second)
				if d := w.ends[0].diag; d != NeighborSignaledDown {
					w.t.Errorf("diagnostic = %d, want %d", d, NeighborSignaledDown)
				}
			},
			want: []string{"3s b AdminDown", "3s a Down"},
		},
		{
			name: "a peer that has started again comes up at once", a: params(300 * ms), b: params(300 * ms),
			play: func(w *wire) {
				w.up()
				w.ends[1] = NewMachine(w.now, params(300*ms), 99, func() float64 { return 0 })
				w.send(1, []Packet{w.ends[1].packet(false)})
				w.run(time.Second)
			},
			want: []string{"3s a Down", "3s b Init", "3s a Up", "3s b Up"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, 0, tt.a, tt.b)
			tt.play(w)
			w.want(tt.want...)
		})
	}
}

func TestIntervals(t *testing.T) {
	tests := []struct {
		name      string
		a, b      Params
		spread    float64
		alone     bool // b is off
		shortest  time.Duration
		longest   time.Duration
		detection time.Duration // of b
	}{
		{name: "alone: one a second at most", a: params(10 * ms), b: params(10 * ms), alone: true, shortest: 750 * ms, longest: 750 * ms},
		{
			name: "alone, the other end of the jitter", a: params(10 * ms),
			b: params(10 * ms), alone: true, spread: 1, shortest: time.Second, longest: time.Second,
		},
		{
			name: "alone and slower than that", a: params(5 * time.Second),
			b: params(10 * ms), alone: true, spread: 1, shortest: 5 * time.Second, longest: 5 * time.Second,
		},
		{name: "the interval that both sides ask for", a: params(100 * ms), b: params(100 * ms), shortest: 75 * ms, longest: 75 * ms, detection: 300 * ms},
		{
			name: "no faster than the other receives", a: params(100 * ms),
			b: params(400 * ms), shortest: 300 * ms, longest: 300 * ms, detection: 1200 * ms,
		},
		{
			name: "no faster than we send", a: params(400 * ms),
			b: params(100 * ms), shortest: 300 * ms, longest: 300 * ms, detection: 1200 * ms,
		},
		{
			name: "nine tenths at most where none may be lost", a: Params{Transmit: 100 * ms, Receive: 100 * ms, Multiplier: 1},
			b:      params(100 * ms),
			spread: 1, shortest: 90 * ms, longest: 90 * ms, detection: 100 * ms,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, tt.spread, tt.a, tt.b)
			w.off[1] = tt.alone
			if !tt.alone {
				w.up()
				if d := w.ends[1].Detection(); d != tt.detection {
					t.Errorf("detection time = %v, want %v", d, tt.detection)
				}
			}
			w.run(20 * time.Second)
			if shortest, longest := w.gaps(0, 4*time.Second); shortest != tt.shortest || longest != tt.longest {
				t.Errorf("packets are between %v and %v apart, want %v and %v", shortest, longest, tt.shortest, tt.longest)
			}
		})
	}
}

func TestAPeerThatReceivesNothingGetsNothing(t *testing.T) {
	w := newWire(t, 0, params(100*ms), params(100*ms))
	w.up()
	p := w.ends[1].packet(false)
	p.RequiredMinRx = 0
	w.off[1] = true
	w.send(1, []Packet{p})
	w.run(200 * ms)
	if n := len(w.sent[0]); n > 0 {
		t.Errorf("%d packets were sent, want none", n)
	}
}

func TestAPeerInDemandModeGetsNothing(t *testing.T) {
	w := newWire(t, 0, params(100*ms), params(100*ms))
	w.up()
	p := w.ends[1].packet(false)
	p.Demand = true
	w.off[1] = true
	w.send(1, []Packet{p})
	w.run(200 * ms)
	if n := len(w.sent[0]); n > 0 {
		t.Errorf("%d packets were sent, want none", n)
	}
	p.Poll, p.Demand = true, true
	w.send(1, []Packet{p})
	if n := len(w.sent[0]); n != 1 || !w.sent[0][0].Final {
		t.Errorf("%d packets were sent, want one that answers the poll", n)
	}
}

// TestChange changes the parameters of one side while the session is up (RFC 5880 §6.8.3).
func TestChange(t *testing.T) {
	tests := []struct {
		name     string
		from, to Params
		// Before the other has answered, and after.
		tx, rx, txAfter, rxAfter time.Duration
	}{
		{"send faster at once", params(300 * ms), Params{100 * ms, 300 * ms, 3, false}, 100 * ms, 300 * ms, 100 * ms, 300 * ms},
		{"send slower once agreed", params(300 * ms), Params{900 * ms, 300 * ms, 3, false}, 300 * ms, 300 * ms, 900 * ms, 300 * ms},
		{"receive slower at once", params(300 * ms), Params{300 * ms, 900 * ms, 3, false}, 300 * ms, 900 * ms, 300 * ms, 900 * ms},
		{"receive faster once agreed", params(300 * ms), Params{300 * ms, 100 * ms, 3, false}, 300 * ms, 300 * ms, 300 * ms, 100 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, 0, tt.from, params(100*ms))
			w.up()
			w.cut[0] = true
			w.send(0, w.ends[0].Change(w.now, tt.to))
			m := w.ends[0]
			if m.tx != tt.tx || m.rx != tt.rx || !m.polling {
				t.Errorf("tx %v, rx %v, polling %t before the answer, want %v, %v, true", m.tx, m.rx, m.polling, tt.tx, tt.rx)
			}
			w.cut[0] = false
			w.run(time.Second)
			if m.tx != tt.txAfter || m.rx != tt.rxAfter || m.polling {
				t.Errorf("tx %v, rx %v, polling %t after the answer, want %v, %v, false", m.tx, m.rx, m.polling, tt.txAfter, tt.rxAfter)
			}
			w.run(10 * time.Second)
			w.want()
			if polls := slices.IndexFunc(w.sent[0][1:], func(s sent) bool { return s.at > 6*time.Second && s.Poll }); polls >= 0 {
				t.Error("it goes on polling")
			}
		})
	}
}

// TestAnAnswerToAnEarlierPoll: a speaker that is ended right after the session has come up polls twice. The first answer is not one to the
// parameters with which the peer is to wait for half a minute.
func TestAnAnswerToAnEarlierPoll(t *testing.T) {
	w := newWire(t, 0, params(100*ms), params(100*ms))
	w.up()
	w.cut = [2]bool{true, true} // The test answers.
	m := w.ends[0]
	m.Change(w.now, params(200*ms))
	m.Suspend(w.now)
	final := w.ends[1].packet(true)
	if send := m.Receive(w.now, final); m.Settled() || len(send) != 1 || !send[0].Poll || send[0].DesiredMinTx != 10*time.Second {
		t.Errorf("after the first answer: settled %t, sends %+v, want a poll with 10 s", m.Settled(), send)
	}
	if m.Receive(w.now, final); !m.Settled() {
		t.Error("the answer to the second poll settles nothing")
	}
}

// TestLoss has every third packet lost: no three in a row, so that nothing happens.
func TestLoss(t *testing.T) {
	w := newWire(t, 0.5, params(100*ms), params(100*ms))
	w.up()
	for i := range 300 {
		w.cut = [2]bool{i%3 == 0, i%3 == 1}
		w.run(80 * ms)
	}
	w.want()
}

// any admits every discriminator.
func any(uint32) bool { return true }

// takeOver puts a new process in the place of an end, and returns its machine.
func (w *wire) takeOver(end int, p Params, adopts func(uint32) bool) *Machine {
	m := NewMachine(w.now, p, 77, func() float64 { return 0 })
	m.Await(w.now, adopts)
	w.ends[end] = m
	return m
}

// TestTakeOver has one side end by Suspend, and another process follow. The peer notices nothing, and is watched as fast as before.
func TestTakeOver(t *testing.T) {
	for _, tt := range []struct {
		name         string
		before, then Params
		up           string
	}{
		{"with the same parameters", params(100 * ms), params(100 * ms), "23.025s a Up"},
		{"with slower ones", params(100 * ms), params(300 * ms), "23.025s a Up"},
		{"with faster ones", params(300 * ms), params(50 * ms), "23.175s a Up"},
		{"by a passive side", params(100 * ms), Params{Transmit: 100 * ms, Receive: 100 * ms, Multiplier: 3, Passive: true}, "23.025s a Up"},
		{
			"with a multiplier that makes packets rare",
			Params{Transmit: 10 * ms, Receive: 10 * ms, Multiplier: 255},
			Params{Transmit: 10 * ms, Receive: 10 * ms, Multiplier: 2},
			"23.025s a Up",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, 0, tt.before, params(100*ms))
			w.up()
			w.act(0, func(m *Machine) []Packet { return m.Suspend(w.now) })
			if !w.ends[0].Settled() {
				t.Fatal("the peer has not agreed")
			}
			if got := w.ends[1].Detection(); got < 29*time.Second || got > 31*time.Second {
				t.Errorf("the peer waits for %v, want half a minute", got)
			}
			w.off[0] = true
			w.run(20 * time.Second)
			w.off[0] = false
			m := w.takeOver(0, tt.then, any)
			w.run(time.Second)
			if got := w.ends[1].Detection(); got != time.Duration(tt.then.Multiplier)*time.Second {
				t.Errorf("the peer waits for %v at first, want %d s", got, tt.then.Multiplier)
			}
			w.run(5 * time.Second)
			if w.ends[0].State() != Up || !m.Settled() || m.Discriminator() != 10 {
				t.Errorf("the successor is %v, settled %t, discriminator %d, want Up, true, 10", m.State(), m.Settled(), m.Discriminator())
			}
			want := time.Duration(tt.then.Multiplier) * max(tt.then.Transmit, 100*ms)
			if got := w.ends[1].Detection(); got != want {
				t.Errorf("the peer waits for %v, want %v", got, want)
			}
			w.run(10 * time.Second)
			w.want(tt.up) // with the first packet of the peer
			w.off[0] = true
			w.run(want + 100*ms)
			if w.ends[1].State() != Down {
				t.Errorf("the peer is %v after the death of the successor, want Down", w.ends[1].State())
			}
		})
	}
}

// TestNothingToTakeOver has a process wait for a session that nobody has left.
func TestNothingToTakeOver(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(w *wire)
		want []string
	}{
		{
			"a peer that is not up is answered at once", func(w *wire) { w.takeOver(0, params(100*ms), any); w.run(time.Second) },
			[]string{"0s a Init", "0s b Up", "0s a Up"},
		},
		{
			"one that says nothing is called after two seconds",
			func(w *wire) {
				w.ends[1] = NewMachine(start, Params{Transmit: 100 * ms, Receive: 100 * ms, Multiplier: 3, Passive: true}, 11, func() float64 { return 0 })
				w.takeOver(0, params(100*ms), any)
				w.run(3 * time.Second)
			},
			[]string{"2s b Init", "2s a Up", "2s b Up"},
		},
		{
			"one whose session is with somebody else is left alone until it has ended",
			func(w *wire) {
				w.up()
				w.off[0] = true
				w.takeOver(0, params(100*ms), func(uint32) bool { return false })
				w.off[0] = false
				w.run(1500 * ms)
			},
			[]string{"3.3s b Down", "3.3s a Init", "3.3s b Up", "3.3s a Up"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, 0, params(100*ms), params(100*ms))
			tt.play(w)
			w.want(tt.want...)
		})
	}
}

// TestSuspendOfASessionThatIsNotUp has nothing to agree on.
func TestSuspendOfASessionThatIsNotUp(t *testing.T) {
	w := newWire(t, 0, params(100*ms), params(100*ms))
	w.off[1] = true
	w.run(time.Second)
	if sent := w.ends[0].Suspend(w.now); len(sent) > 0 || !w.ends[0].Settled() {
		t.Errorf("it sends %v, settled %t, want nothing", sent, w.ends[0].Settled())
	}
}

// TestAdminDownIsSentThrice counts the packets that a peer gets while it could still take the silence for a failure.
func TestAdminDownIsSentThrice(t *testing.T) {
	w := newWire(t, 0, params(100*ms), params(100*ms))
	w.up()
	w.act(0, func(m *Machine) []Packet { return m.GoAdminDown(w.now) })
	w.run(w.ends[0].AdminDownTime())
	var at []time.Duration
	for _, s := range w.sent[0] {
		if s.State == AdminDown && !s.Final {
			at = append(at, s.at)
		}
	}
	if diff := cmp.Diff([]time.Duration{3000 * ms, 3100 * ms, 3200 * ms}, at); diff != "" {
		t.Errorf("AdminDown was sent at (-want +got):\n%s", diff)
	}
}

// TestAStallOfThisProcess has the machine asked much later than it wanted: the peer was heard all the while, if only later.
func TestAStallOfThisProcess(t *testing.T) {
	for _, tt := range []struct {
		name  string
		heard bool
		want  State
	}{
		{"the packets of the peer are received after it", true, Up},
		{"the peer is silent after it", false, Down},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, 0, params(100*ms), params(100*ms))
			w.up()
			m := w.ends[0]
			m.Tick(w.now.Add(500 * ms))
			if m.State() != Up {
				t.Fatalf("it is %v at once, want Up", m.State())
			}
			if tt.heard {
				m.Receive(w.now.Add(550*ms), w.ends[1].packet(false))
			}
			m.Tick(w.now.Add(601 * ms))
			if m.State() != tt.want {
				t.Errorf("it is %v after one interval, want %v", m.State(), tt.want)
			}
		})
	}
}
