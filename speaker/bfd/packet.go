// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/binary"
	"errors"
	"time"
)

// State is the state of a session (RFC 5880 §4.1).
type State uint8

// The states of a session. A session that is AdminDown was taken down on purpose, which says nothing of the path.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// Diagnostic says why a session left the state Up (RFC 5880 §4.1).
type Diagnostic uint8

// The diagnostics that this package gives; a peer may give others.
const (
	NoDiagnostic               Diagnostic = 0
	DetectionTimeExpired       Diagnostic = 1
	NeighborSignaledDown       Diagnostic = 3
	AdministrativelyDown       Diagnostic = 7
	diagnosticBits                        = 0x1f
	minLength                             = 24 // bytes of a packet without authentication
	version                               = 1
	flagPoll, flagFinal                   = 0x20, 0x10
	flagIndependent, flagAuth             = 0x08, 0x04
	flagDemand, flagMultipoint            = 0x02, 0x01
)

// Packet is a BFD control packet without authentication (RFC 5880 §4.1). Intervals are whole microseconds, at most 2³²−1 of them.
type Packet struct {
	Diagnostic Diagnostic
	State      State
	Poll       bool
	Final      bool
	Demand     bool
	// DetectMultiplier is how many packets of the sender in a row have to be lost for the receiver to take it for dead.
	DetectMultiplier                       uint8
	MyDiscriminator, YourDiscriminator     uint32
	DesiredMinTx, RequiredMinRx, MinEchoRx time.Duration
}

// The reasons for which Parse refuses a packet, of those in RFC 5880 §6.8.6.
var (
	ErrShort         = errors.New("the packet is shorter than 24 bytes, or than it says")
	ErrVersion       = errors.New("the version is not 1")
	ErrMultiplier    = errors.New("the detection multiplier is zero")
	ErrMultipoint    = errors.New("the multipoint bit is set")
	ErrDiscriminator = errors.New("a discriminator is zero that must not be")
	ErrAuthenticated = errors.New("the packet is authenticated, and no key is agreed")
)

// Parse reads a packet. Bytes beyond the length that the packet states are ignored. An error is one of those above.
func Parse(b []byte) (Packet, error) {
	if len(b) < minLength || b[3] < minLength || int(b[3]) > len(b) {
		return Packet{}, ErrShort
	}
	p := Packet{
		Diagnostic:        Diagnostic(b[0] & diagnosticBits),
		State:             State(b[1] >> 6),
		Poll:              b[1]&flagPoll != 0,
		Final:             b[1]&flagFinal != 0,
		Demand:            b[1]&flagDemand != 0,
		DetectMultiplier:  b[2],
		MyDiscriminator:   binary.BigEndian.Uint32(b[4:]),
		YourDiscriminator: binary.BigEndian.Uint32(b[8:]),
		DesiredMinTx:      time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Microsecond,
		RequiredMinRx:     time.Duration(binary.BigEndian.Uint32(b[16:])) * time.Microsecond,
		MinEchoRx:         time.Duration(binary.BigEndian.Uint32(b[20:])) * time.Microsecond,
	}
	switch {
	case b[0]>>5 != version:
		return Packet{}, ErrVersion
	case p.DetectMultiplier == 0:
		return Packet{}, ErrMultiplier
	case b[1]&flagMultipoint != 0:
		return Packet{}, ErrMultipoint
	case p.MyDiscriminator == 0, p.YourDiscriminator == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, ErrDiscriminator
	case b[1]&flagAuth != 0:
		return Packet{}, ErrAuthenticated
	}
	return p, nil
}

// Append appends the packet's 24 bytes.
func (p Packet) Append(b []byte) []byte {
	flags := byte(p.State) << 6
	for flag, set := range map[byte]bool{flagPoll: p.Poll, flagFinal: p.Final, flagDemand: p.Demand} {
		if set {
			flags |= flag
		}
	}
	b = append(b, version<<5|byte(p.Diagnostic)&diagnosticBits, flags, p.DetectMultiplier, minLength)
	b = binary.BigEndian.AppendUint32(b, p.MyDiscriminator)
	b = binary.BigEndian.AppendUint32(b, p.YourDiscriminator)
	for _, interval := range []time.Duration{p.DesiredMinTx, p.RequiredMinRx, p.MinEchoRx} {
		b = binary.BigEndian.AppendUint32(b, uint32(interval/time.Microsecond))
	}
	return b
}
