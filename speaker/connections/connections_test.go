// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"io"
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

// Each of the connections is sent some bytes, in turn, and ten are allowed in all.
func TestTheSourceThatSendsMostLosesAConnection(t *testing.T) {
	type sent struct{ connection, bytes int }
	sources := []string{"192.0.2.5:1", "192.0.2.66:1", "192.0.2.66:2"}
	for _, tt := range []struct {
		name string
		sent []sent
		want int // which one is closed; -1 is none
	}{
		{"as much as is allowed", []sent{{0, 4}, {1, 3}, {2, 3}}, -1},
		{"the one that sends too much", []sent{{0, 11}}, 0},
		{"the one that was sent most of the source that sends most", []sent{{0, 5}, {1, 4}, {2, 2}}, 1},
		{"one source's own, when it goes on", []sent{{1, 5}, {2, 5}, {2, 1}}, 2},
		{"what a connection was sent is forgotten when it is closed", []sent{{1, 9}, {1, -1}, {2, 9}}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := &Set{Limit: 3, Bytes: 10}
			var ends, raw, far []net.Conn
			for _, source := range sources {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { _ = theirs.Close() })
				ends, raw, far = append(ends, set.Add(remote{ours, source})), append(raw, ours), append(far, theirs)
			}
			closed := -1
			for _, s := range tt.sent {
				if s.bytes < 0 {
					_ = ends[s.connection].Close()
					closed = s.connection
					continue
				}
				go func() { _, _ = far[s.connection].Write(make([]byte, s.bytes)) }()
				if _, err := io.ReadFull(ends[s.connection], make([]byte, s.bytes)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range raw {
				if is := raw[i].SetDeadline(time.Time{}) != nil; is != (i == tt.want || i == closed) {
					t.Errorf("connection %d is closed: %t, want %d to be closed", i, is, tt.want)
				}
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
