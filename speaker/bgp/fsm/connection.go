// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
	"unique"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

const (
	// farewellTimeout is how long a peer may take for the end of a session: withdrawals, NOTIFICATION and its answer, the end of the
	// connection. The end of a connection withdraws everything as well, so there is no use in waiting long for a slow peer.
	farewellTimeout = 500 * time.Millisecond
	// mostSendTime is how long a peer without a hold time may take for a message of ours (RFC 9687 §3.1). Where there is a hold time it is
	// that: a peer that has read nothing of ours for so long has to hold us for dead.
	mostSendTime = 8 * time.Minute
	// refreshInterval is how long to wait for the next ROUTE-REFRESH. A peer that asks without end is told everything each second.
	refreshInterval = time.Second
)

// connection is what the goroutine of a session knows of a TCP connection.
type connection struct {
	*session
	ctx    context.Context // ends the connection; the cause is a *loss
	conn   net.Conn
	in     *reader
	agreed *agreement // nil before the peer's OPEN
	// sendTime is how long the peer may take for a message; leaving says that the deadline of the farewell holds instead.
	sendTime time.Duration
	leaving  bool
	ended    *loss  // why the reader has ended, nil before
	sent     routes // what the peer has been told; changed with mu held, nil before the session is established
}

// converse uses a connection to its end, and returns why it has ended.
func (s *session) converse(ctx context.Context, conn net.Conn) *loss {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	release := s.guard.Hold(conn, func(why error) {
		end(&loss{
			reason: why.Error(), withdraw: true, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN,
			data: shutdownCommunication("another program of this node has a session with you"),
		})
	})
	defer release()
	count := newCounter(&s.limit)
	s.mu.Lock()
	s.conn, s.count, s.end = conn, count, end
	s.mu.Unlock()
	c := &connection{session: s, ctx: ctx, conn: conn, in: newReader(conn, s.peer, count), sendTime: openTimeout}
	// A message that is being written when the end comes gets no more time than the farewell.
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now().Add(farewellTimeout)) })()
	go c.in.run()
	l := c.speak()
	c.farewell(l)
	return l
}

// cause is why ctx has ended.
func (c *connection) cause() *loss {
	if l, ok := errors.AsType[*loss](context.Cause(c.ctx)); ok {
		return l
	}
	return failure("%v", context.Cause(c.ctx))
}

// speak is the states OpenSent, OpenConfirm and Established, as far as they concern what goes out. It returns why it goes no further.
func (c *connection) speak() *loss {
	open, err := newOpen(c.peer, c.established.Load() == 0)
	if err != nil {
		return failure("making the OPEN message: %v", err)
	}
	if l := c.sendMessage(open); l != nil {
		return l
	}
	c.enter(bgp.OpenSent)
	// A channel that is nil is not waited for yet.
	var confirmed, changed, refresh <-chan struct{}
	var keepalives, rested <-chan time.Time
	for {
		var l *loss
		select {
		case <-c.ctx.Done():
			l = c.cause()
		case c.ended = <-c.in.ended:
			l = c.ended
		case c.agreed = <-c.in.opened:
			confirmed = c.in.confirmed
			c.sendTime = cmp.Or(c.agreed.holdTime, mostSendTime)
			if hold := c.agreed.holdTime; hold > 0 {
				ticker := time.NewTicker(min(c.peer.KeepaliveTime, hold/3))
				defer ticker.Stop()
				keepalives = ticker.C
			}
			c.enter(bgp.OpenConfirm)
			l = c.sendMessage(packet.NewBGPKeepAliveMessage())
		case <-confirmed:
			changed, refresh = c.changed, c.in.refresh
			l = c.begin()
		case <-keepalives:
			l = c.sendMessage(packet.NewBGPKeepAliveMessage())
		case <-changed:
			l = c.sync(c.wanted())
		case <-refresh:
			refresh, rested = nil, time.After(refreshInterval)
			l = c.resend(c.wanted())
		case <-rested:
			refresh, rested = c.in.refresh, nil
		}
		if l != nil {
			return l
		}
	}
}

// begin tells a peer with which the session has just been established everything, and then that this was all (RFC 4724 §2).
func (c *connection) begin() *loss {
	c.sent = routes{}
	c.establish(c.conn, c.agreed, c.sent)
	if l := c.sync(c.wanted()); l != nil || !c.agreed.gracefulRestart {
		return l
	}
	for _, f := range c.agreed.families {
		if l := c.sendMessage(packet.NewEndOfRib(unicast[f])); l != nil {
			return l
		}
		c.updates.Add(1)
	}
	return nil
}

// wanted returns the routes that are declared.
func (c *connection) wanted() routes {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.declared
}

// sync sends the UPDATEs after which the peer has the wanted routes, as far as they can be sent.
func (c *connection) sync(want routes) *loss {
	type group struct {
		attributes unique.Handle[attributes]
		family     family.Family
	}
	type field struct {
		family        family.Family
		multiprotocol bool
	}
	groups, gone := map[group][]netip.Prefix{}, map[field][]netip.Prefix{}
	for prefix, a := range want {
		if old, ok := c.sent[prefix]; (!ok || old != a) && c.agreed.carries(prefix, a) {
			g := group{a, family.Of(prefix.Addr())}
			groups[g] = append(groups[g], prefix)
		}
	}
	for prefix, old := range c.sent {
		if a, ok := want[prefix]; !ok || !c.agreed.carries(prefix, a) {
			f := family.Of(prefix.Addr())
			in := field{f, old.Value().multiprotocol(f)}
			gone[in] = append(gone[in], prefix)
		}
	}
	for g, prefixes := range groups {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		updates, err := announcements(c.peer, c.agreed.fourOctets, g.attributes.Value(), g.family, prefixes)
		if err != nil {
			return failure("making an UPDATE: %v", err)
		}
		for _, u := range updates {
			if l := c.sendUpdate(u, func(prefix netip.Prefix) { c.sent[prefix] = g.attributes }); l != nil {
				return l
			}
		}
	}
	for in, prefixes := range gone {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		updates, err := withdrawals(in.family, in.multiprotocol, prefixes)
		if err != nil {
			return failure("making an UPDATE: %v", err)
		}
		for _, u := range updates {
			if l := c.sendUpdate(u, func(prefix netip.Prefix) { delete(c.sent, prefix) }); l != nil {
				return l
			}
		}
	}
	c.publish(want)
	return nil
}

// resend sends everything once more. Withdrawals go first, while c.sent knows what there is to withdraw.
func (c *connection) resend(want routes) *loss {
	if l := c.sync(want); l != nil {
		return l
	}
	c.mu.Lock()
	clear(c.sent)
	c.mu.Unlock()
	return c.sync(want)
}

// publish takes note of how many of the wanted routes the peer has been sent.
func (c *connection) publish(want routes) {
	advertised, withheld := map[family.Family]int{}, map[family.Family]int{}
	for _, f := range c.agreed.families {
		advertised[f] = 0
	}
	for prefix := range c.sent {
		advertised[family.Of(prefix.Addr())]++
	}
	for prefix := range want {
		if _, ok := c.sent[prefix]; !ok {
			withheld[family.Of(prefix.Addr())]++
		}
	}
	c.mu.Lock()
	changed := !maps.Equal(c.status.Advertised, advertised) || !maps.Equal(c.status.Withheld, withheld)
	c.status.Advertised, c.status.Withheld = advertised, withheld
	c.mu.Unlock()
	if changed {
		c.notify()
	}
}

// farewell ends the connection: with withdrawals and a NOTIFICATION, or without a word, as the loss says.
func (c *connection) farewell(l *loss) {
	c.leaving = true
	if until := time.Now().Add(farewellTimeout); !l.restart || c.agreed == nil || !c.agreed.gracefulRestart {
		_ = c.conn.SetWriteDeadline(until) // if it fails, so does what follows
		if l.withdraw && c.sent != nil {
			_ = c.sync(nil)
		}
		if l.code != 0 {
			c.sayEnd(packet.NewBGPNotificationMessage(l.code, l.subcode, l.data), until)
		}
	}
	_ = c.conn.Close() // whatever comes of it, there is nothing to do
	if c.ended == nil {
		c.ended = <-c.in.ended
	}
}

// sayEnd sends a NOTIFICATION, and waits until the peer has ended the connection, within a time. If the connection were closed while
// something is still to be read from it, the kernel would reset it, and the peer might not see the NOTIFICATION.
func (c *connection) sayEnd(notification *packet.BGPMessage, until time.Time) {
	if c.sendMessage(notification) != nil {
		return
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil || c.ended != nil {
		return
	}
	select {
	case c.ended = <-c.in.ended:
	case <-time.After(time.Until(until)):
	}
}

// sendUpdate sends an UPDATE, counts it, and has its prefixes noted.
func (c *connection) sendUpdate(u update, note func(netip.Prefix)) *loss {
	if l := c.send(u.message); l != nil {
		return l
	}
	c.updates.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, prefix := range u.prefixes {
		note(prefix)
	}
	return nil
}

func (c *connection) sendMessage(m *packet.BGPMessage) *loss {
	b, err := m.Serialize()
	if err != nil {
		return failure("making a message: %v", err)
	}
	return c.send(b)
}

// send writes a message. Its loss says why the connection can be written to no more.
func (c *connection) send(message []byte) *loss {
	if !c.leaving {
		_ = c.conn.SetWriteDeadline(time.Now().Add(c.sendTime)) // if it fails, so does what follows
		if c.ctx.Err() != nil {
			return c.cause()
		}
	}
	_, err := c.conn.Write(message)
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return c.cause()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure("send hold timer expired: the peer has read nothing for %v", c.sendTime)
	case c.ended != nil:
		return failure("the connection was lost while writing to it: %v", err)
	}
	// Why the peer has ended the connection may still be to be read.
	select {
	case c.ended = <-c.in.ended:
		return c.ended
	case <-time.After(farewellTimeout):
		return failure("the connection was lost while writing to it: %v", err)
	}
}
