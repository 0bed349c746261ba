// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"time"
)

// Params are what one side asks of a session.
type Params struct {
	// Transmit is the shortest time between two packets that we want to send, Receive the shortest that we are ready to see. While the
	// session is not up, at most one packet a second is sent.
	Transmit, Receive time.Duration
	// Multiplier is how many packets in a row have to be lost for the peer to take us for dead. It is at least 1.
	Multiplier uint8
	// Passive says that nothing is sent before the peer has sent something (RFC 5880 §6.1).
	Passive bool
}

const (
	// slow is the interval of a session that is not up (RFC 5880 §6.8.3).
	slow = time.Second
	// farewells is how many packets say AdminDown at once, farewellGap apart. One that is lost would be a failure to the peer, and the
	// packets that follow at the slow interval would come too late to tell it otherwise.
	farewells   = 3
	farewellGap = 100 * time.Millisecond
	// absence is how long a peer that has agreed to Suspend waits for the process that follows: the grace of layer 2, and no more, since a
	// node that dies meanwhile is noticed as late.
	absence = 30 * time.Second
	// settling is for how long a machine that follows on an earlier process sends slowly. A process that has just started has much to do,
	// and on a busy node is not heard for some of the intervals of a fast session.
	settling = 5 * time.Second
	// unheard is the interval at which a peer is assumed to receive before it has said so (RFC 5880 §6.8.1, bfd.RemoteMinRxInterval).
	unheard = time.Microsecond
)

// Machine is the state of one session (RFC 5880 §6.8.1). It has neither clock nor socket: it is told what arrived and what time it is, and
// says what to send, and when it wants to be asked again.
type Machine struct {
	params Params
	state  State
	diag   Diagnostic
	// mine and yours are the discriminators. yours is zero while nothing was received from the peer.
	mine, yours uint32
	// adopts says whose session, by its discriminator, may be taken over; nil where none may be.
	adopts func(discriminator uint32) bool
	// settles is until when a session that is up sends slowly, zero if it does not any more.
	settles time.Time
	// farewells is how many more packets are to say AdminDown without delay.
	farewells int
	// pardoned is set when the peer was given more time, since this process stood still, and was not heard since.
	pardoned bool
	remote   struct {
		state        State
		minRx, minTx time.Duration
		multiplier   uint8
		demand       bool
	}
	// tx and rx are the intervals in force. A slower tx, or a faster rx, waits until the peer has answered a poll.
	tx, rx  time.Duration
	polling bool
	// stale says that the parameters have changed during a poll: the next answer may be one to the parameters before, and ends nothing
	// (RFC 5880 §6.5 has one poll at a time).
	stale bool
	// nextTx is when to send next, expires when the peer is to be taken for dead. Zero means never.
	nextTx, expires time.Time
	// spread is as in NewMachine.
	spread func() float64
}

// NewMachine returns the machine of a session that is Down. discriminator must be one that no other session of this node has, and not zero.
// spread returns a number in [0, 1) at each call, by which packets of several sessions are spread in time.
func NewMachine(now time.Time, params Params, discriminator uint32, spread func() float64) *Machine {
	m := &Machine{params: params, state: Down, mine: discriminator, spread: spread, rx: params.Receive}
	m.remote.state, m.remote.minRx = Down, unheard
	m.tx = m.desired()
	if m.Interval() > 0 {
		m.nextTx = now
	}
	return m
}

// Await has a new machine say nothing for twice the time in which a peer that is up sends a packet, and take over the session that an
// earlier process has left by Suspend: the peer's first packet says that it is Up, and names the discriminators of both sides. adopts
// reports whether a discriminator can be one of that process. A peer that is not up, or a packet of no such session, is answered as ever.
// For the first five seconds the session sends once a second at most, up or not.
func (m *Machine) Await(now time.Time, adopts func(discriminator uint32) bool) {
	m.adopts, m.settles = adopts, now.Add(settling)
	if m.Interval() > 0 {
		m.nextTx = now.Add(2 * max(slow, m.params.Receive))
	}
}

// Discriminator is that of this side. It is zero as long as it may become that of a session which is taken over.
func (m *Machine) Discriminator() uint32 {
	if m.adopts != nil {
		return 0
	}
	return m.mine
}

// adopt takes over the session that a packet is of, and polls: the peer has agreed to the intervals of Suspend, and is to learn of ours.
// Until it has, it may send as slowly as a session that is not up.
func (m *Machine) adopt(p Packet) {
	m.mine = p.YourDiscriminator
	m.state, m.polling = Up, true
	m.tx, m.rx = m.desired(), max(slow, m.params.Receive)
}

// Suspend prepares the peer for the absence of this side, by a poll: when it is Settled, the peer waits half a minute before it takes us
// for dead, and this process may end in silence. A process that follows may take the session over (Await). A session that is not up has
// nothing to keep.
func (m *Machine) Suspend(now time.Time) (send []Packet) {
	if m.state != Up {
		return nil
	}
	params := m.params
	params.Transmit = max(params.Transmit, absence/time.Duration(params.Multiplier))
	return m.Change(now, params)
}

// Settled reports whether the peer has agreed to the parameters, or the session is not up.
func (m *Machine) Settled() bool { return !m.polling }

// State is the state of the session on this side.
func (m *Machine) State() State { return m.state }

// Diagnostic says why the session left the state Up the last time.
func (m *Machine) Diagnostic() Diagnostic { return m.diag }

// RemoteState is the state of the peer, as its last packet says, and Down while it is silent.
func (m *Machine) RemoteState() State { return m.remote.state }

// Heard reports whether the peer is heard: it has sent a packet, and was not silent for the detection time since.
func (m *Machine) Heard() bool { return m.yours != 0 }

// Params are what this side asks for, as NewMachine or Change set it last.
func (m *Machine) Params() Params { return m.params }

// desired is the interval of sending that we advertise.
func (m *Machine) desired() time.Duration {
	if m.state != Up || !m.settles.IsZero() {
		return max(slow, m.params.Transmit)
	}
	return m.params.Transmit
}

// Interval is the time between periodic packets without jitter, zero where none are to be sent (RFC 5880 §6.8.7).
func (m *Machine) Interval() time.Duration {
	switch {
	case m.params.Passive && m.yours == 0, m.remote.minRx == 0:
		return 0
	case m.remote.demand && m.state == Up && m.remote.state == Up && !m.polling:
		return 0
	}
	return max(m.tx, m.remote.minRx)
}

// Detection is how long the peer may be silent (RFC 5880 §6.8.4).
func (m *Machine) Detection() time.Duration {
	return time.Duration(m.remote.multiplier) * max(m.rx, m.remote.minTx)
}

// AdminDownTime is how long AdminDown has to be sent (RFC 5880 §6.8.16): as long as the peer takes to find us silent.
func (m *Machine) AdminDownTime() time.Duration {
	return max(farewells*farewellGap, time.Duration(m.params.Multiplier)*max(m.params.Transmit, m.remote.minRx))
}

// schedule sets the time of the next periodic packet, 75 to 100 % of the interval away, or 75 to 90 % if no packet may be lost.
func (m *Machine) schedule(now time.Time) {
	interval := m.Interval()
	switch {
	case interval == 0:
		m.nextTx = time.Time{}
		return
	case m.farewells > 0:
		m.nextTx = now.Add(farewellGap)
		return
	}
	most := 0.25
	if m.params.Multiplier == 1 {
		most = 0.15
	}
	share := 0.75 + most*m.spread()
	m.nextTx = now.Add(time.Duration(share * float64(interval)))
}

// packet returns a packet with the present state. A packet that answers a poll does not poll itself.
func (m *Machine) packet(final bool) Packet {
	return Packet{
		Diagnostic: m.diag, State: m.state, Poll: m.polling && !final, Final: final, DetectMultiplier: m.params.Multiplier,
		MyDiscriminator: m.mine, YourDiscriminator: m.yours, DesiredMinTx: m.desired(), RequiredMinRx: m.params.Receive,
	}
}

// Receive takes a packet that has passed Parse and is for this session (RFC 5880 §6.8.6), and returns what to send at once.
func (m *Machine) Receive(now time.Time, p Packet) (send []Packet) {
	if m.state == AdminDown {
		return nil
	}
	adopted := m.adopts != nil && p.State == Up && p.YourDiscriminator != 0 && m.adopts(p.YourDiscriminator)
	if !adopted && p.YourDiscriminator != 0 && p.YourDiscriminator != m.mine {
		return nil
	}
	wasHeard := m.yours != 0
	before := m.Interval()
	m.adopts, m.pardoned = nil, false
	old := m.state
	if adopted {
		m.adopt(p)
	}
	m.yours = p.MyDiscriminator
	m.remote.state, m.remote.demand = p.State, p.Demand
	m.remote.minTx, m.remote.minRx, m.remote.multiplier = p.DesiredMinTx, p.RequiredMinRx, p.DetectMultiplier
	switch {
	case !p.Final || !m.polling || adopted:
	case m.stale:
		m.stale = false
		send = append(send, m.packet(false)) // polls anew
	default:
		m.polling = false
		m.tx, m.rx = m.desired(), m.params.Receive
	}
	switch {
	case p.State == AdminDown && m.state != Down:
		m.enter(Down, NeighborSignaledDown)
	case p.State == AdminDown:
	case m.state == Down && p.State == Down:
		m.enter(Init, m.diag)
	case m.state == Down && p.State == Init, m.state == Init && p.State >= Init:
		m.enter(Up, NoDiagnostic)
	case m.state == Up && p.State == Down:
		m.enter(Down, NeighborSignaledDown)
	}
	m.expires = now.Add(m.Detection())
	if p.Poll {
		send = append(send, m.packet(true))
	}
	switch {
	case m.state != old:
		// The peer shall know before the next periodic packet, unless the answer to its poll says so already.
		if !p.Poll || m.polling {
			send = append(send, m.packet(false))
		}
		m.schedule(now)
	case m.Interval() != before || !wasHeard:
		m.schedule(now)
	}
	return send
}

// enter changes the state. The interval that we advertise changes with it, so a session that comes up polls.
func (m *Machine) enter(state State, diag Diagnostic) {
	m.state, m.diag = state, diag
	m.polling, m.stale = state == Up && m.desired() != m.tx, false
	if state != Up || m.desired() < m.tx {
		m.tx = m.desired()
	}
}

// Tick does what is due at this time, and returns what to send. One that comes much later than the Deadline, since this process or its
// machine stood still, is no sign that the peer was silent: what it has sent may wait to be received. Then the peer gets one interval more.
func (m *Machine) Tick(now time.Time) (send []Packet) {
	old := m.state
	interval := max(m.rx, m.remote.minTx)
	if due := m.Deadline(); !m.expires.IsZero() && !now.Before(m.expires) && now.Sub(due) > interval && !m.pardoned {
		m.expires, m.pardoned = now.Add(interval), true
	}
	if !m.expires.IsZero() && !now.Before(m.expires) {
		m.expires, m.yours, m.remote.state = time.Time{}, 0, Down
		m.remote.minRx, m.remote.demand = unheard, false
		if m.state == Init || m.state == Up {
			m.enter(Down, DetectionTimeExpired)
		}
	}
	if !m.settles.IsZero() && !now.Before(m.settles) {
		m.settles = time.Time{}
		if m.state == Up && m.desired() != m.tx {
			m.tx, m.polling, m.stale, m.nextTx = m.desired(), true, m.polling, now
		}
	}
	due := !m.nextTx.IsZero() && !now.Before(m.nextTx)
	if due {
		m.adopts, m.farewells = nil, max(0, m.farewells-1)
	}
	if m.Interval() > 0 && (due || m.state != old) {
		send = append(send, m.packet(false))
	}
	if due || m.state != old {
		m.schedule(now)
	}
	return send
}

// Deadline is when Tick has something to do, zero for never.
func (m *Machine) Deadline() (next time.Time) {
	for _, at := range []time.Time{m.nextTx, m.expires, m.settles} {
		if next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

// Change goes on with other parameters, and agrees on them by a poll if the session is up (RFC 5880 §6.8.3).
func (m *Machine) Change(now time.Time, params Params) (send []Packet) {
	old := m.params
	m.params = params
	if m.state != Up || params.Receive > m.rx {
		m.rx = params.Receive
	}
	if m.state != Up || m.desired() < m.tx {
		m.tx = m.desired()
	}
	if m.state == Up && (params.Transmit != old.Transmit || params.Receive != old.Receive) {
		m.polling, m.stale = true, m.polling
	}
	m.schedule(now)
	if m.Interval() > 0 {
		send = append(send, m.packet(false))
	}
	return send
}

// GoAdminDown takes the session down on purpose, and returns what to send at once.
func (m *Machine) GoAdminDown(now time.Time) (send []Packet) {
	heard := m.yours != 0 || !m.params.Passive
	m.enter(AdminDown, AdministrativelyDown)
	m.expires, m.farewells = time.Time{}, farewells-1
	m.schedule(now)
	if heard {
		send = append(send, m.packet(false))
	}
	return send
}
