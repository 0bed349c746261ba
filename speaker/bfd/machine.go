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

// Machine is the state of one session (RFC 5880 §6.8.1). It has neither clock nor socket: it is told what arrived and what time it is, and
// says what to send, and when it wants to be asked again.
type Machine struct {
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
	if m.state != Up {
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
	return time.Duration(m.params.Multiplier) * max(m.params.Transmit, m.remote.minRx)
}

// schedule sets the time of the next periodic packet, 75 to 100 % of the interval away, or 75 to 90 % if no packet may be lost.
func (m *Machine) schedule(now time.Time) {
	interval := m.Interval()
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
	wasHeard := m.yours != 0
	before := m.Interval()
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
	m.polling = state == Up && m.desired() != m.tx
	if state != Up || m.desired() < m.tx {
		m.tx = m.desired()
	}
}

// Tick does what is due at this time, and returns what to send.
func (m *Machine) Tick(now time.Time) (send []Packet) {
	old := m.state
	if !m.expires.IsZero() && !now.Before(m.expires) {
		m.expires, m.yours, m.remote.state = time.Time{}, 0, Down
		m.remote.minRx, m.remote.demand = unheard, false
		if m.state == Init || m.state == Up {
			m.enter(Down, DetectionTimeExpired)
		}
	}
	due := !m.nextTx.IsZero() && !now.Before(m.nextTx)
	if m.Interval() > 0 && (due || m.state != old) {
		send = append(send, m.packet(false))
	}
	if due || m.state != old {
		m.schedule(now)
	}
	return send
}

// Deadline is when Tick has something to do, zero for never.
func (m *Machine) Deadline() time.Time {
	if m.nextTx.IsZero() || !m.expires.IsZero() && m.expires.Before(m.nextTx) {
		return m.expires
	}
	return m.nextTx
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
		m.polling = true
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
	m.expires = time.Time{}
	m.schedule(now)
	if heard {
		send = append(send, m.packet(false))
	}
	return send
}
