// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

var (
	start  = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	wanted = connection{local: netip.MustParseAddr("198.51.100.11"), remote: netip.MustParseAddrPort("198.51.100.1:179")}
)

// sock returns a socket of another program.
func sock(local, remote string, state uint8) socket {
	return socket{local: netip.MustParseAddrPort(local), remote: netip.MustParseAddrPort(remote), state: state, foreign: true}
}

func TestIsTakenBy(t *testing.T) {
	ours := sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_ESTABLISHED)
	ours.foreign = false
	linkLocal := connection{local: netip.MustParseAddr("fe80::11%eth1"), remote: netip.MustParseAddrPort("[fe80::1%eth1]:179")}
	for _, tt := range []struct {
		name   string
		of     connection
		socket socket
		want   bool
	}{
		{"a session of another program", wanted, sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_ESTABLISHED), true},
		{"one that it is opening", wanted, sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_SYN_SENT), true},
		{"one that the router has opened", wanted, sock("198.51.100.11:179", "198.51.100.1:50214", netlink.TCP_ESTABLISHED), true},
		{"one that the router is opening", wanted, sock("198.51.100.11:179", "198.51.100.1:50214", netlink.TCP_SYN_RECV), true},
		{
			"while there is no route to the router",
			connection{remote: wanted.remote},
			sock("192.0.2.11:41822", "198.51.100.1:179", netlink.TCP_ESTABLISHED), false,
		},
		{"on the same link", linkLocal, sock("[fe80::11%eth1]:41822", "[fe80::1%eth1]:179", netlink.TCP_ESTABLISHED), true},
		{"our own, or one that nobody has", wanted, ours, false},
		{"one that has ended", wanted, sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_TIME_WAIT), false},
		{"one that the router has ended", wanted, sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_CLOSE_WAIT), false},
		{"from another address of the node", wanted, sock("198.51.100.12:41822", "198.51.100.1:179", netlink.TCP_ESTABLISHED), false},
		{"with another router", wanted, sock("198.51.100.11:41822", "198.51.100.2:179", netlink.TCP_ESTABLISHED), false},
		{"ssh from the router", wanted, sock("198.51.100.11:22", "198.51.100.1:50214", netlink.TCP_ESTABLISHED), false},
		{"a listener", wanted, sock("0.0.0.0:179", "0.0.0.0:0", netlink.TCP_LISTEN), false},
		{"on another link", linkLocal, sock("[fe80::11%eth2]:41822", "[fe80::1%eth2]:179", netlink.TCP_ESTABLISHED), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.of.isTakenBy(tt.socket); got != tt.want {
				t.Errorf("isTakenBy() = %t, want %t", got, tt.want)
			}
		})
	}
}

// TestJudge looks at the sockets of a node again and again, as a speaker does while it wants a session.
func TestJudge(t *testing.T) {
	session := sock("198.51.100.11:41822", "198.51.100.1:179", netlink.TCP_ESTABLISHED)
	listener := sock("0.0.0.0:179", "0.0.0.0:0", netlink.TCP_LISTEN)
	longUp, justUp := start.Add(-24*time.Hour), start.Add(-30*time.Second)
	type look struct {
		at      time.Duration // after the start
		sockets []socket
		want    string // in the error, "" for none
		edited  bool   // the BGPPeer was just before
	}
	for _, tt := range []struct {
		name   string
		booted time.Time
		looks  []look
	}{
		{"nobody else", longUp, []look{{0, nil, "", false}, {time.Minute, nil, "", false}}},
		{"another program has the session, and restarts", longUp, []look{
			{0, []socket{session}, "already has a BGP session", false},
			{time.Minute, []socket{session}, "already has a BGP session", false},
			{time.Minute + 5*time.Second, nil, "until 12:11:00 UTC", false},
			{11*time.Minute - time.Second, nil, "until 12:11:00 UTC", false},
		}},
		{"another program has left for good", longUp, []look{
			{0, []socket{session}, "already has a BGP session", false},
			{10 * time.Minute, nil, "", false},
		}},
		{"another program comes later", longUp, []look{
			{0, nil, "", false},
			{time.Hour, []socket{session}, "already has a BGP session", false},
		}},
		{"another program listens on a node that has just booted", justUp, []look{
			{0, []socket{listener}, "until 12:01:00 UTC", false},
			{59 * time.Second, []socket{listener}, "until 12:01:00 UTC", false},
			{time.Minute, []socket{listener}, "", false},
		}},
		{"another program begins to listen while the node boots", justUp, []look{
			{0, nil, "", false},
			{20 * time.Second, []socket{listener}, "until 12:01:20 UTC", false},
			{30 * time.Second, []socket{listener, session}, "already has a BGP session", false},
			{80 * time.Second, []socket{listener}, "until 12:10:30 UTC", false},
		}},
		{"a BGPPeer is edited on a node that has just booted", justUp, []look{
			{at: 0, sockets: []socket{listener}, want: "until 12:01:00 UTC"},
			{at: 2 * time.Minute, sockets: []socket{listener}, edited: true},
		}},
		{"another program listens on a node that is long up", longUp, []look{{0, []socket{listener}, "", false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m memory
			g := &Guard{booted: tt.booted}
			for _, l := range tt.looks {
				if l.edited {
					m = memory{}
				}
				now := start.Add(l.at)
				err := m.judge(now, g.startup(now, slices.ContainsFunc(l.sockets, socket.listensForBGP)), wanted, l.sockets)
				switch {
				case l.want == "" && err != nil, l.want != "" && (err == nil || !strings.Contains(err.Error(), l.want)):
					t.Errorf("after %v: judge() = %v, want %q", l.at, err, l.want)
				}
			}
		})
	}
}
