// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"golang.org/x/time/rate"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// openTimeout is how long a peer may take for its OPEN, and for the KEEPALIVE after it where no hold time was agreed. RFC 4271 §8.2.2 suggests
// four minutes; no router takes a second.
const openTimeout = 90 * time.Second

const (
	// mostMessages is how many messages of an established peer are read in a second, after as many at once. A full table of a million prefixes has a few
	// thousand UPDATEs. A peer that sends KEEPALIVEs without end would keep a processor busy, and is held up by TCP instead.
	mostMessages = 5000
	// paceBreak is how long nothing is read from a peer that sends more. It is short, since the end of a session waits for it.
	paceBreak = 100 * time.Millisecond
)

// reader reads what the peer sends on one connection, in a goroutine of its own. It never waits for the session, so that a peer that is being
// written to can be heard at the same time.
type reader struct {
	conn  net.Conn
	peer  bgp.Peer
	in    *bufio.Reader
	spent int // bytes of the message that was read last, which are still in the buffer
	count *counter

	pace *rate.Limiter // of messages once the session is established

	opened    chan *agreement // receives what the OPENs come to
	confirmed chan struct{}   // receives when the first KEEPALIVE has come
	refresh   signal.Signal   // raised by ROUTE-REFRESH
	ended     chan *loss      // receives why nothing more is read
}

func newReader(conn net.Conn, peer bgp.Peer, count *counter) *reader {
	return &reader{
		conn: conn, peer: peer, in: bufio.NewReaderSize(conn, packet.BGP_MAX_MESSAGE_LENGTH), count: count,
		pace:   rate.NewLimiter(mostMessages, mostMessages),
		opened: make(chan *agreement, 1), confirmed: make(chan struct{}, 1), refresh: signal.New(), ended: make(chan *loss, 1),
	}
}

// run reads until the connection ends, the peer breaks the protocol, or falls silent.
func (r *reader) run() {
	defer func() {
		if panicked := recover(); panicked != nil {
			r.ended <- breach(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, 0, "a message of the peer's cannot be read: %v", panicked)
		}
	}()
	r.ended <- r.read()
}

// read is the states OpenSent, OpenConfirm and Established, as far as they concern what comes in.
func (r *reader) read() *loss {
	kind, body, l := r.message(openTimeout, failure("the peer closed the connection before it sent an OPEN"),
		"the peer has accepted the connection and sent no OPEN for %v", openTimeout)
	switch {
	case l != nil:
		return l
	case kind != packet.BGP_MSG_OPEN:
		return breach(packet.BGP_ERROR_FSM_ERROR, packet.BGP_ERROR_SUB_RECEIVE_UNEXPECTED_MESSAGE_IN_OPENSENT_STATE,
			"the peer's first message is of type %d", kind)
	}
	agreed, l := parseOpen(body, r.peer)
	if l != nil {
		return l
	}
	r.opened <- agreed

	closed := failure("the connection was closed or reset by the peer")
	silence := agreed.holdTime
	if silence == 0 {
		silence = openTimeout
	}
	kind, _, l = r.message(silence, closed, "the peer has sent its OPEN, and then no KEEPALIVE for %v", silence)
	switch {
	case l != nil:
		return l
	case kind != packet.BGP_MSG_KEEPALIVE:
		return breach(packet.BGP_ERROR_FSM_ERROR, packet.BGP_ERROR_SUB_RECEIVE_UNEXPECTED_MESSAGE_IN_OPENCONFIRM_STATE,
			"the peer's second message is of type %d", kind)
	}
	r.confirmed <- struct{}{}

	for {
		if !r.pace.Allow() {
			time.Sleep(paceBreak)
		}
		kind, body, l := r.message(agreed.holdTime, closed,
			"hold timer expired: neither KEEPALIVE nor UPDATE came from the peer for the hold time of %v", agreed.holdTime)
		switch {
		case l != nil:
			return l
		case kind == packet.BGP_MSG_OPEN:
			return breach(packet.BGP_ERROR_FSM_ERROR, packet.BGP_ERROR_SUB_RECEIVE_UNEXPECTED_MESSAGE_IN_ESTABLISHED_STATE,
				"the peer has sent a second OPEN")
		case kind == packet.BGP_MSG_ROUTE_REFRESH:
			r.refresh.Raise()
		case kind == packet.BGP_MSG_UPDATE:
			r.count.update(body, agreed.families)
			if most := r.count.exceeded(); most > 0 {
				return breach(packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED,
					"the peer announces more than %d prefixes (maxReceivedPrefixes)", most)
			}
		}
	}
}

// message reads the next message, which has to be there in whole within a time; 0 is no limit. It returns the type of the message and its body,
// which is valid until the next call. Or it returns why there is none: closed if the connection has ended, the words of late with its args
// if nothing came in time, the loss that a NOTIFICATION stands for, or a breach of the protocol.
func (r *reader) message(within time.Duration, closed *loss, late string, args ...any) (kind uint8, body []byte, l *loss) {
	var deadline time.Time
	if within > 0 {
		deadline = time.Now().Add(within)
	}
	fail := func(err error) *loss {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return closed
		}
		l := failure(late, args...)
		l.code = packet.BGP_ERROR_HOLD_TIMER_EXPIRED
		return l
	}
	// An error of SetReadDeadline is one of the connection, which the next call meets too.
	_ = r.conn.SetReadDeadline(deadline)
	_, _ = r.in.Discard(r.spent) // it is in the buffer, so that there can be no error
	r.spent = 0
	head, err := r.in.Peek(packet.BGP_HEADER_LENGTH)
	if err != nil {
		return 0, nil, fail(err)
	}
	var header packet.BGPHeader
	if err := header.DecodeFromBytes(head); err != nil {
		return 0, nil, refusal(err)
	}
	if l := checkLength(header); l != nil {
		return 0, nil, l
	}
	whole, err := r.in.Peek(int(header.Len))
	if err != nil {
		return 0, nil, fail(err)
	}
	r.spent = len(whole)
	if header.Type == packet.BGP_MSG_NOTIFICATION {
		return 0, nil, received(whole[packet.BGP_HEADER_LENGTH:], r.peer)
	}
	return header.Type, whole[packet.BGP_HEADER_LENGTH:], nil
}

// lengths are the least lengths of messages with their headers, and the greatest of those that have no variable part (RFC 4271 §6.1,
// RFC 2918 §3).
var lengths = map[uint8]struct{ least, most uint16 }{
	packet.BGP_MSG_OPEN:          {29, packet.BGP_MAX_MESSAGE_LENGTH},
	packet.BGP_MSG_UPDATE:        {23, packet.BGP_MAX_MESSAGE_LENGTH},
	packet.BGP_MSG_NOTIFICATION:  {21, packet.BGP_MAX_MESSAGE_LENGTH},
	packet.BGP_MSG_KEEPALIVE:     {19, 19},
	packet.BGP_MSG_ROUTE_REFRESH: {23, packet.BGP_MAX_MESSAGE_LENGTH}, // RFC 5291 adds filters to it, which we have not offered
}

func checkLength(h packet.BGPHeader) *loss {
	length, ok := lengths[h.Type]
	var l *loss
	switch {
	case !ok:
		l = breach(packet.BGP_ERROR_MESSAGE_HEADER_ERROR, packet.BGP_ERROR_SUB_BAD_MESSAGE_TYPE, "the peer has sent a message of type %d", h.Type)
		l.data = []byte{h.Type}
	case h.Len < length.least || h.Len > length.most:
		l = breach(packet.BGP_ERROR_MESSAGE_HEADER_ERROR, packet.BGP_ERROR_SUB_BAD_MESSAGE_LENGTH,
			"the peer has sent a message of type %d with %d bytes", h.Type, h.Len)
		l.data = binary.BigEndian.AppendUint16(nil, h.Len)
	}
	return l
}
