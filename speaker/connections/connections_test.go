// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"net"
	"testing"
	"time"
)

// remote is the end of a pipe that has a remote address.
type remote struct {
	net.Conn
	address string
}

func (r remote) RemoteAddr() net.Addr { return r }
func (r remote) Network() string      { return "tcp" }
func (r remote) String() string       { return r.address }

func TestTheOldestConnectionOfTheSourceThatHasMostIsClosed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sources []string // of the connections, in order; three are allowed
		want    int      // which one is closed
	}{
		{"the oldest of the source that has most", []string{"192.0.2.5:1", "192.0.2.66:1", "192.0.2.66:2", "192.0.2.66:3"}, 1},
		{"the newcomer's own, if its source has most", []string{"192.0.2.66:1", "192.0.2.5:1", "192.0.2.66:2", "192.0.2.66:3"}, 0},
		{"the oldest of all, if each has one", []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"}, 0},
		{
			"an IPv6 network of 64 bits is one source",
			[]string{"[2001:db8:1::1]:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"},
			1,
		},
		{
			"an IPv4 address in IPv6 notation is the same",
			[]string{"192.0.2.5:1", "192.0.2.66:1", "[::ffff:192.0.2.66]:2", "192.0.2.7:1"},
			1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := &Set{Limit: 3}
			var ends []net.Conn
			for _, source := range tt.sources {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { _ = theirs.Close() })
				ends = append(ends, ours)
				set.Add(remote{ours, source})
			}
			for i, end := range ends {
				if closed := end.SetDeadline(time.Time{}) != nil; closed != (i == tt.want) {
					t.Errorf("connection %d of %v is closed: %t, want %d to be closed", i, tt.sources, closed, tt.want)
				}
			}
			if set.Len() != 3 {
				t.Errorf("%d connections are open, want 3", set.Len())
			}
		})
	}
}

func TestAClosedConnectionLeavesTheSet(t *testing.T) {
	set := &Set{Limit: 3}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	conn := set.Add(remote{ours, "192.0.2.5:1"})
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if set.Len() != 0 {
		t.Errorf("%d connections are open, want none", set.Len())
	}
}
