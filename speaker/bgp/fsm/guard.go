// SPDX-License-Identifier: Apache-2.0

package fsm

import "net"

// Guard keeps a session from taking its router away from another program of this node. A router keeps one session with each address: when
// Calico's BIRD has one from 198.51.100.11 to 198.51.100.1, a connection of ours between the same two ends BIRD's.
type Guard interface {
	// Allow returns why the peer must not be dialled now, or nil. It is asked before each attempt, in the goroutine of the session.
	Allow() error
	// Hold looks after a connection from when it is open, before the OPEN. It calls yield when another program of the node opens one to the
	// same router: the session then withdraws its routes, ends with CEASE, and asks Allow before it dials again. The caller calls release
	// when the connection is gone; yield has no effect from then on. Neither function blocks.
	Hold(conn net.Conn, yield func(reason error)) (release func())
}

// noGuard is the Guard of a session that has none.
type noGuard struct{}

func (noGuard) Allow() error                          { return nil }
func (noGuard) Hold(net.Conn, func(error)) (r func()) { return func() {} }
