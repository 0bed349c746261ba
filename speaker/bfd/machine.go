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
	// unheard is the interval at which a peer is assumed to receive before it has said so (RFC 5880 §6.8.1, bfd.RemoteMinRxInterval).
	unheard = time.Microsecond
)

// machine is the state of one session (RFC 5880 §6.8.1). It has neither clock nor socket: it is told what arrived and what time it is, and
// says what to send, and when it wants to be asked again.
type machine struct {
	params Params
	state  State
	diag   Diagnostic
	// mine and yours are the discriminators. yours is zero while nothing was received from the peer.
	mine, yours uint32
	remote      struct {
		state        State
		minRx, minTx time.Duration
		multiplier   uint8
		demand       bool
	}
	// tx and rx are the intervals in force. A slower tx, or a faster rx, waits until the peer has answered a poll.
	tx, rx  time.Duration
	polling bool
	// nextTx is when to send next, expires when the peer is to be taken for dead. Zero means never.
	nextTx, expires time.Time
	// spread returns a number in [0, 1), which spreads packets of several sessions.
	spread func() float64
}

func newMachine(now time.Time, params Params, discriminator uint32, spread func() float64) *machine {
	m := &machine{params: params, state: Down, mine: discriminator, spread: spread, rx: params.Receive}
	m.remote.state, m.remote.minRx = Down, unheard
	m.tx = m.desired()
	if m.interval() > 0 {
		m.nextTx = now
	}
	return m
}

// desired is the interval of sending that we advertise.
func (m *machine) desired() time.Duration {
	if m.state != Up {
		return max(slow, m.params.Transmit)
	}
	return m.params.Transmit
}

// interval is the time between periodic packets without jitter, zero where none are to be sent (RFC 5880 §6.8.7).
func (m *machine) interval() time.Duration {
	switch {
	case m.params.Passive && m.yours == 0, m.remote.minRx == 0:
		return 0
	case m.remote.demand && m.state == Up && m.remote.state == Up && !m.polling:
		return 0
	}
	return max(m.tx, m.remote.minRx)
}

// detection is how long the peer may be silent (RFC 5880 §6.8.4).
func (m *machine) detection() time.Duration {
	return time.Duration(m.remote.multiplier) * max(m.rx, m.remote.minTx)
}

// adminDownTime is how long AdminDown has to be sent (RFC 5880 §6.8.16): as long as the peer takes to find us silent.
func (m *machine) adminDownTime() time.Duration {
	return time.Duration(m.params.Multiplier) * max(m.params.Transmit, m.remote.minRx)
}

// schedule sets the time of the next periodic packet, 75 to 100 % of the interval away, or 75 to 90 % if no packet may be lost.
func (m *machine) schedule(now time.Time) {
	interval := m.interval()
	if interval == 0 {
		m.nextTx = time.Time{}
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
func (m *machine) packet(final bool) Packet {
	return Packet{
		Diagnostic: m.diag, State: m.state, Poll: m.polling && !final, Final: final, DetectMultiplier: m.params.Multiplier,
		MyDiscriminator: m.mine, YourDiscriminator: m.yours, DesiredMinTx: m.desired(), RequiredMinRx: m.params.Receive,
	}
}

// receive takes a packet that has passed Parse and is for this session (RFC 5880 §6.8.6), and returns what to send at once.
func (m *machine) receive(now time.Time, p Packet) (send []Packet) {
	if m.state == AdminDown {
		return nil
	}
	wasHeard := m.yours != 0
	before := m.interval()
	m.yours = p.MyDiscriminator
	m.remote.state, m.remote.demand = p.State, p.Demand
	m.remote.minTx, m.remote.minRx, m.remote.multiplier = p.DesiredMinTx, p.RequiredMinRx, p.DetectMultiplier
	if p.Final && m.polling {
		m.polling = false
		m.tx, m.rx = m.desired(), m.params.Receive
	}
	old := m.state
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
	m.expires = now.Add(m.detection())
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
	case m.interval() != before || !wasHeard:
		m.schedule(now)
	}
	return send
}

// enter changes the state. The interval that we advertise changes with it, so a session that comes up polls.
func (m *machine) enter(state State, diag Diagnostic) {
	m.state, m.diag = state, diag
	m.polling = state == Up && m.desired() != m.tx
	if state != Up || m.desired() < m.tx {
		m.tx = m.desired()
	}
}

// tick does what is due at this time, and returns what to send.
func (m *machine) tick(now time.Time) (send []Packet) {
	old := m.state
	if !m.expires.IsZero() && !now.Before(m.expires) {
		m.expires, m.yours, m.remote.state = time.Time{}, 0, Down
		m.remote.minRx, m.remote.demand = unheard, false
		if m.state == Init || m.state == Up {
			m.enter(Down, DetectionTimeExpired)
		}
	}
	due := !m.nextTx.IsZero() && !now.Before(m.nextTx)
	if m.interval() > 0 && (due || m.state != old) {
		send = append(send, m.packet(false))
	}
	if due || m.state != old {
		m.schedule(now)
	}
	return send
}

// deadline is when tick has something to do, zero for never.
func (m *machine) deadline() time.Time {
	if m.nextTx.IsZero() || !m.expires.IsZero() && m.expires.Before(m.nextTx) {
		return m.expires
	}
	return m.nextTx
}

// change goes on with other parameters, and agrees on them by a poll if the session is up (RFC 5880 §6.8.3).
func (m *machine) change(now time.Time, params Params) (send []Packet) {
	old := m.params
	m.params = params
	if m.state != Up || params.Receive > m.rx {
		m.rx = params.Receive
	}
	if m.state != Up || m.desired() < m.tx {
		m.tx = m.desired()
	}
	if m.state == Up && (params.Transmit != old.Transmit || params.Receive != old.Receive) {
		m.polling = true
	}
	m.schedule(now)
	if m.interval() > 0 {
		send = append(send, m.packet(false))
	}
	return send
}

// goAdminDown takes the session down on purpose, and returns what to send at once.
func (m *machine) goAdminDown(now time.Time) (send []Packet) {
	heard := m.yours != 0 || !m.params.Passive
	m.enter(AdminDown, AdministrativelyDown)
	m.expires = time.Time{}
	m.schedule(now)
	if heard {
		send = append(send, m.packet(false))
	}
	return send
}
