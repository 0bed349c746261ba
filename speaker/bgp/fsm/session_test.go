// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

func route(prefix, nextHop string) bgp.Route {
	return bgp.Route{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(nextHop)}
}

// wantLoss waits for the end of a connection, and compares the NOTIFICATION and what the user reads.
func wantLoss(t *testing.T, s *session, f *fake, code, subcode uint8, text string) {
	t.Helper()
	n := f.ending()
	synctest.Wait()
	var got [2]uint8
	if n != nil {
		got = [2]uint8{n.ErrorCode, n.ErrorSubcode}
	}
	if want := [2]uint8{code, subcode}; got != want {
		t.Errorf("The connection ended with NOTIFICATION %v, want %v", got, want)
	}
	if state := s.state(); !strings.Contains(state.LastError, text) || state.State == bgp.Established {
		t.Errorf("The state is %s with %q, want %q", state.State, state.LastError, text)
	}
}

// TestSilence: a router that accepts the connection and falls silent, at whatever point, is given up in time.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name     string
		messages []*packet.BGPMessage
		after    time.Duration
		want     string
	}{
		{"before its OPEN", nil, openTimeout, "the peer has accepted the connection and sent no OPEN for 1m30s"},
		{
			"after its OPEN",
			[]*packet.BGPMessage{open(64513, 9)},
			9 * time.Second, "the peer has sent its OPEN, and then no KEEPALIVE for 9s",
		},
		{
			"after its OPEN with a hold time of 0",
			[]*packet.BGPMessage{open(64513, 0)},
			openTimeout, "the peer has sent its OPEN, and then no KEEPALIVE for 1m30s",
		},
		{
			"once established",
			[]*packet.BGPMessage{open(64513, 9), packet.NewBGPKeepAliveMessage()},
			9 * time.Second, "hold timer expired: neither KEEPALIVE nor UPDATE came from the peer for the hold time of 9s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, conns := startFake(t, peerOfFakes(), nil)
				f := read(t, <-conns)
				f.send(tt.messages...)
				began := time.Now()
				wantLoss(t, s, f, packet.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, tt.want)
				if got := time.Since(began); got != tt.after {
					t.Errorf("The end came after %v, want %v", got, tt.after)
				}
			})
		})
	}
}

// TestHalfAMessage: the hold time is that of whole messages, so that a peer that sends a byte now and then is silent.
func TestHalfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conns := startFake(t, peerOfFakes(), nil)
		f := read(t, <-conns)
		f.establish(9, capabilities()...)
		f.repeat([]byte{0xff}, time.Second)
		wantLoss(t, s, f, packet.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, "hold timer expired")
	})
}

// TestKeepAlives: they are sent from OpenConfirm on, after a third of the hold time or as declared.
func TestKeepAlives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := peerOfFakes()
		peer.KeepaliveTime = 2 * time.Second
		_, conns := startFake(t, peer, nil)
		f := read(t, <-conns)
		f.next()
		f.send(open(64513, 9))
		began := time.Now()
		var got []time.Duration
		for range 3 {
			if m := f.next(); m.Header.Type != packet.BGP_MSG_KEEPALIVE {
				t.Fatalf("message of type %d", m.Header.Type)
			}
			got = append(got, time.Since(began))
		}
		if diff := cmp.Diff([]time.Duration{0, 2 * time.Second, 4 * time.Second}, got); diff != "" {
			t.Errorf("Unexpected KEEPALIVEs (-want +got):\n%s", diff)
		}
	})
}

// TestNoHoldTimer: with a hold time of 0, whoever proposes it, neither side sends KEEPALIVEs and the session stays.
func TestNoHoldTimer(t *testing.T) {
	for name, theirs := range map[string]uint16{"ours": 90, "theirs": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := peerOfFakes()
				if name == "ours" {
					peer.NoHoldTimer, peer.HoldTime, peer.KeepaliveTime = true, 0, 0
				}
				s, conns := startFake(t, peer, nil)
				f := read(t, <-conns)
				if ours := f.establish(theirs, capabilities()...); time.Duration(ours.HoldTime)*time.Second != peer.HoldTime {
					t.Errorf("The OPEN proposes %d s", ours.HoldTime)
				}
				time.Sleep(24 * time.Hour)
				if state := s.state(); state.State != bgp.Established || state.HoldTime != 0 || len(f.heard) > 0 {
					t.Errorf("After a day the state is %+v, with %d messages", state, len(f.heard))
				}
			})
		})
	}
}

// TestSlowReader: a peer that sends KEEPALIVEs and reads nothing is given up after the hold time, and so it is when the session is to end.
func TestSlowReader(t *testing.T) {
	t.Run("is given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, conns := startFake(t, peerOfFakes(), nil)
			f := &fake{t: t, conn: <-conns}
			readOnly(t, f, 2)
			f.repeat(mustSerialize(packet.NewBGPKeepAliveMessage()), time.Second)
			if err := s.setRoutes([]bgp.Route{route("198.51.100.200/32", "192.0.2.11")}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for s.state().State == bgp.Established {
				time.Sleep(time.Second)
			}
			if got := time.Since(began); got > 10*time.Second || !strings.Contains(s.state().LastError, "the peer has read nothing for 9s") {
				t.Errorf("The end came after %v with %q", got, s.state().LastError)
			}
		})
	})
	t.Run("does not hold up the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, conns := startFake(t, peerOfFakes(), nil)
			f := &fake{t: t, conn: <-conns}
			readOnly(t, f, 2)
			if err := s.setRoutes([]bgp.Route{route("198.51.100.200/32", "192.0.2.11")}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			s.close(t.Context(), &loss{withdraw: true, code: packet.BGP_ERROR_CEASE})
			if got := time.Since(began); got > 2*farewellTimeout {
				t.Errorf("The end took %v", got)
			}
		})
	})
}

// readOnly establishes the session with a fake that reads so many messages and no more.
func readOnly(t *testing.T, f *fake, messages int) {
	t.Helper()
	go func() { // it ends with the connection
		_, _ = f.conn.Write(slices.Concat(mustSerialize(open(64513, 9, capabilities()...)), mustSerialize(packet.NewBGPKeepAliveMessage())))
	}()
	for range messages {
		if _, err := nextMessage(f.conn); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func TestRefusals(t *testing.T) {
	anOpen := func(change func([]byte)) []byte {
		b, err := open(64513, 90, capabilities()...).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		return b
	}
	keepalive, _ := packet.NewBGPKeepAliveMessage().Serialize()
	opened := anOpen(func([]byte) {})
	for _, tt := range []struct {
		name          string
		change        func(*bgp.Peer)
		sends         []byte
		code, subcode uint8
		want          string
	}{
		{name: "another version", sends: anOpen(func(b []byte) { b[19] = 3 }), code: 2, subcode: 1, want: "unsupported version 3"},
		{
			name: "another AS", sends: opened, change: func(p *bgp.Peer) { p.PeerASN = 64999 }, code: 2, subcode: 2,
			want: "sent NOTIFICATION code 2(open) subcode 2(bad peer as): as number mismatch expected 64999, received 64513",
		},
		{
			name: "our own AS, but external", sends: opened, code: 2, subcode: 2,
			change: func(p *bgp.Peer) { p.LocalASN, p.PeerASN, p.Dynamic = 64513, 0, bgp.External },
			want:   "the peer is in our own AS 64513, but dynamicASN is External",
		},
		{
			name: "AS 0", code: 2, subcode: 2, change: func(p *bgp.Peer) { p.PeerASN, p.Dynamic = 0, bgp.External }, want: "its AS is 0",
			sends: mustSerialize(open(0, 90)),
		},
		{name: "no identifier", sends: anOpen(func(b []byte) { copy(b[24:], []byte{0, 0, 0, 0}) }), code: 2, subcode: 3, want: "bad BGP identifier"},
		{name: "a hold time of 2 s", sends: mustSerialize(open(64513, 2)), code: 2, subcode: 6, want: "unacceptable hold time 2"},
		{name: "a capability that ends too early", sends: anOpen(func(b []byte) { b[32] = 200 }), code: 2, subcode: 7, want: "NOTIFICATION"},
		{name: "no marker", sends: anOpen(func(b []byte) { b[3] = 0 }), code: 1, subcode: 1, want: "marker is not all ones"},
		{name: "a message that is too long", sends: anOpen(func(b []byte) { b[16] = 0xff }), code: 1, subcode: 2, want: "bytes"},
		{name: "a message that is too short", sends: anOpen(func(b []byte) { b[16], b[17] = 0, 19 }), code: 1, subcode: 2, want: "with 19 bytes"},
		{name: "a message of no type", sends: anOpen(func(b []byte) { b[18] = 9 }), code: 1, subcode: 3, want: "message of type 9"},
		{name: "a KEEPALIVE instead of the OPEN", sends: keepalive, code: 5, subcode: 1, want: "first message is of type 4"},
		{name: "two OPENs", sends: slices.Concat(opened, opened), code: 5, subcode: 2, want: "second message is of type 1"},
		{name: "an OPEN once established", sends: slices.Concat(opened, keepalive, opened), code: 5, subcode: 3, want: "second OPEN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := peerOfFakes()
				if tt.change != nil {
					tt.change(&peer)
				}
				s, conns := startFake(t, peer, nil)
				f := read(t, <-conns)
				go func() { _, _ = f.conn.Write(tt.sends) }() // it fails where the speaker closes the connection meanwhile
				wantLoss(t, s, f, tt.code, tt.subcode, tt.want)
			})
		})
	}
}

func mustSerialize(m *packet.BGPMessage) []byte {
	b, err := m.Serialize()
	if err != nil {
		panic(err)
	}
	return b
}

// TestNotifications: the user reads what the peer has sent, in each state, and what to make of it.
func TestNotifications(t *testing.T) {
	text := shutdownCommunication("maintenance until 14:00")
	for _, tt := range []struct {
		name          string
		established   bool
		code, subcode uint8
		data          []byte
		want          string
	}{
		{
			name: "an operator's shutdown", established: true, code: 6, subcode: 2, data: text,
			want: `received NOTIFICATION code 6(cease) subcode 2(administrative shutdown) "maintenance until 14:00"`,
		},
		{
			name: "a hard reset for it", established: true, code: 6, subcode: 9, data: slices.Concat([]byte{6, 2}, text),
			want: `received NOTIFICATION code 6(cease) subcode 9(undefined) "maintenance until 14:00": a hard reset (RFC 8538)`,
		},
		{
			name: "a text that lies about its length", established: true, code: 6, subcode: 4, data: []byte{200, 'a'},
			want: `received NOTIFICATION code 6(cease) subcode 4(administrative reset) "a"`,
		},
		{
			name: "a text that is none", established: true, code: 6, subcode: 4, data: []byte{2, 0xff, '\n'},
			want: `received NOTIFICATION code 6(cease) subcode 4(administrative reset) "\xff\n"`,
		},
		{
			name: "the wrong AS", code: 2, subcode: 2, data: []byte{0xfc, 0},
			want: "received NOTIFICATION code 2(open) subcode 2(bad peer as): the peer expects another AS number than our 64512",
		},
		{
			name: "a collision", code: 6, subcode: 7,
			want: "received NOTIFICATION code 6(cease) subcode 7(connection collision resolution): the peer has another session with the " +
				"same address of this node, perhaps with another program on it",
		},
		{
			name: "BFD", established: true, code: 6, subcode: 10,
			want: "received NOTIFICATION code 6(cease) subcode 10(undefined): the peer's BFD session with this node is down (RFC 9384)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, conns := startFake(t, peerOfFakes(), nil)
				f := read(t, <-conns)
				if tt.established {
					f.establish(90, capabilities()...)
				}
				f.send(packet.NewBGPNotificationMessage(tt.code, tt.subcode, tt.data))
				f.conn.Close()
				synctest.Wait()
				if diff := cmp.Diff(tt.want, s.state().LastError); diff != "" {
					t.Errorf("Unexpected text (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestLastError: what has gone wrong in attempts does not hide why the session was lost, and a session that is back forgets only the former.
func TestLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conns := startFake(t, peerOfFakes(), nil)
		f := read(t, <-conns)
		f.establish(9, capabilities()...)
		f.ending()
		lost := time.Now()
		const loss = "hold timer expired: neither KEEPALIVE nor UPDATE came from the peer for the hold time of 9s"
		want := func(text string, at time.Time) {
			t.Helper()
			synctest.Wait()
			state := s.state()
			if diff := cmp.Diff(text, state.LastError); diff != "" || !state.LastErrorAt.Equal(at) {
				t.Errorf("At %v instead of %v the user reads (-want +got):\n%s", state.LastErrorAt, at, diff)
			}
		}
		want(loss, lost)
		var failed time.Time
		for i := range 3 { // the time is that of the first
			(<-conns).Close()
			synctest.Wait()
			if i == 0 {
				failed = time.Now()
			}
		}
		want(loss+"; since then: the peer closed the connection before it sent an OPEN", failed)
		f = read(t, <-conns)
		f.establish(9, capabilities()...)
		want(loss, lost)
	})
}

// TestRetries: a peer that does not answer is tried each ConnectTime, one that refuses us less and less often.
func TestRetries(t *testing.T) {
	for _, tt := range []struct {
		name        string
		connectTime time.Duration
		unanswered  int   // how many attempts are not answered, before all others are refused
		want        []int // in seconds, without the jitter
	}{
		{"no answer", 5 * time.Second, 100, []int{1, 2, 4, 5, 5, 5, 5, 5}},
		{"no answer, each second", time.Second, 100, []int{1, 1, 1, 1, 1, 1, 1, 1}},
		{"a refusal", 5 * time.Second, 0, []int{1, 2, 4, 8, 16, 32, 60, 60}},
		{"a refusal, with a connect time above a minute", 100 * time.Second, 0, []int{1, 2, 4, 8, 16, 32, 64, 100}},
		{"no answer, and then refusals", 5 * time.Second, 6, []int{1, 2, 4, 5, 5, 5, 1, 2, 4, 8}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := peerOfFakes()
				peer.ConnectTime = tt.connectTime
				times, attempts := make(chan time.Time), 0
				s := newSession(Config{Logger: discard}, peer, func() {})
				s.dial = func(ctx context.Context, _ bgp.Peer) (net.Conn, error) {
					select {
					case times <- time.Now():
					case <-ctx.Done():
					}
					if attempts++; attempts <= tt.unanswered {
						return nil, errors.New("connection refused")
					}
					ours, theirs := net.Pipe()
					theirs.Close()
					return ours, nil
				}
				s.start(t.Context())
				defer s.close(t.Context(), &loss{})
				last := <-times
				for i, want := range tt.want {
					now := <-times
					most := time.Duration(want) * time.Second
					if wait := now.Sub(last); wait > most || wait < most*3/4 {
						t.Errorf("Attempt %d came after %v, want %v to %v", i+2, wait, most*3/4, most)
					}
					last = now
				}
			})
		})
	}
}

// TestGracefulRestart: the OPENs say that the node forwards on, and until the first session that the speaker has restarted. The end of the
// RIB is said of each negotiated family, after the paths.
func TestGracefulRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := peerOfFakes()
		peer.GracefulRestart = bgp.GracefulRestart{Enabled: true, RestartTime: 30 * time.Second}
		s, conns := startFake(t, peer, nil, route("198.51.100.200/32", "2001:db8::11"), route("2001:db8:51::1000/128", "2001:db8::11"))
		(<-conns).Close() // an OPEN that comes to nothing has told nobody
		for i, want := range []string{"restarted", "", ""} {
			f := read(t, <-conns)
			ours := f.establish(90, capabilities()...)
			if diff := cmp.Diff(fmt.Sprintf("%s 30 [{1 1 128} {2 1 128}]", want), restartOf(ours)); diff != "" {
				t.Errorf("OPEN %d (-want +got):\n%s", i+2, diff)
			}
			var got []string
			for range 4 {
				u := f.next().Body.(*packet.BGPUpdate)
				if end, af := u.IsEndOfRib(); end {
					got = append(got, "end of "+af.String())
				} else {
					got = append(got, "path")
				}
			}
			if diff := cmp.Diff([]string{"path", "path", "end of ipv4-unicast", "end of ipv6-unicast"}, got); diff != "" {
				t.Errorf("Unexpected UPDATEs (-want +got):\n%s", diff)
			}
			synctest.Wait()
			if state := s.state(); !state.GracefulRestart {
				t.Errorf("The state is %+v", state)
			}
			f.conn.Close()
		}
	})
}

// restartOf returns what an OPEN says of graceful restart.
func restartOf(open *packet.BGPOpen) string {
	for _, p := range open.OptParams {
		for _, c := range p.(*packet.OptionParameterCapability).Capability {
			if gr, ok := c.(*packet.CapGracefulRestart); ok {
				restarted := ""
				if gr.Flags&0x08 != 0 {
					restarted = "restarted"
				}
				var tuples []packet.CapGracefulRestartTuple
				for _, tuple := range gr.Tuples {
					tuples = append(tuples, *tuple)
				}
				return fmt.Sprintf("%s %d %v", restarted, gr.Time, tuples)
			}
		}
	}
	return "nothing"
}

// TestFarewells: how a session ends depends on what is to become of the routes.
func TestFarewells(t *testing.T) {
	withdraw := &loss{withdraw: true, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_PEER_DECONFIGURED}
	restart := &loss{restart: true, code: packet.BGP_ERROR_CEASE, subcode: packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN}
	graceful := func(p *bgp.Peer) { p.GracefulRestart = bgp.GracefulRestart{Enabled: true, RestartTime: time.Minute} }
	for _, tt := range []struct {
		name   string
		change func(*bgp.Peer)
		caps   []packet.ParameterCapabilityInterface
		end    func(*session)
		want   []string
	}{
		{
			name: "withdraw", caps: capabilities(), change: graceful, end: func(s *session) { s.close(context.Background(), withdraw) },
			want: []string{"withdraws 198.51.100.200/32", "code 6(cease) subcode 3(peer deconfigured)"},
		},
		{
			name: "restart, agreed", caps: capabilities(), change: graceful, end: func(s *session) { s.close(context.Background(), restart) },
		},
		{
			name: "restart, not declared", caps: capabilities(), change: func(*bgp.Peer) {},
			end:  func(s *session) { s.close(context.Background(), restart) },
			want: []string{"code 6(cease) subcode 2(administrative shutdown)"},
		},
		{
			name: "restart, which the peer cannot do", change: graceful, end: func(s *session) { s.close(context.Background(), restart) },
			want: []string{"code 6(cease) subcode 2(administrative shutdown)"},
		},
		{
			name: "reset", caps: capabilities(), change: graceful, end: func(s *session) { s.reset("BFD: nothing was heard") },
			want: []string{`code 6(cease) subcode 4(administrative reset) "BFD: nothing was heard"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := peerOfFakes()
				tt.change(&peer)
				s, conns := startFake(t, peer, nil, route("198.51.100.200/32", "192.0.2.11"))
				f := read(t, <-conns)
				f.establish(90, tt.caps...)
				synctest.Wait()
				for len(f.heard) > 0 {
					<-f.heard
				}
				tt.end(s)
				if diff := cmp.Diff(tt.want, farewellOf(f)); diff != "" {
					t.Errorf("Unexpected end (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// farewellOf returns what the speaker says until it closes the connection.
func farewellOf(f *fake) (said []string) {
	for m := range f.heard {
		switch body := m.Body.(type) {
		case *packet.BGPUpdate:
			for _, w := range body.WithdrawnRoutes {
				said = append(said, "withdraws "+w.NLRI.String())
			}
		case *packet.BGPNotification:
			text := packet.NewNotificationErrorCode(body.ErrorCode, body.ErrorSubcode).String()
			if len(body.Data) > 1 {
				text += fmt.Sprintf(" %q", body.Data[1:])
			}
			said = append(said, text)
		}
	}
	return said
}

// TestRouteRefresh: everything is sent once more, and what was to be withdrawn at the same time is.
func TestRouteRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := route("198.51.100.200/32", "192.0.2.11"), route("198.51.100.201/32", "192.0.2.11")
		s, conns := startFake(t, peerOfFakes(), nil, one, two)
		f := read(t, <-conns)
		f.establish(90, capabilities()...)
		f.next()
		refresh := packet.NewBGPRouteRefreshMessage(packet.AFI_IP, 0, packet.SAFI_UNICAST)
		rib := map[string]bool{one.Prefix.String(): true, two.Prefix.String(): true}
		updates := 0
		hear := func() {
			synctest.Wait()
			for len(f.heard) > 0 {
				if u, ok := f.next().Body.(*packet.BGPUpdate); ok {
					updates++
					for _, w := range u.WithdrawnRoutes {
						delete(rib, w.NLRI.String())
					}
					for _, n := range u.NLRI {
						rib[n.NLRI.String()] = true
					}
				}
			}
		}
		for range 10 { // a second between two of them bounds what a peer can ask for
			f.send(refresh)
		}
		hear()
		if updates != 1 {
			t.Errorf("%d UPDATEs for ten requests at once, want 1", updates)
		}
		time.Sleep(refreshInterval)
		hear()
		if err := s.setRoutes([]bgp.Route{one}); err != nil {
			t.Fatal(err)
		}
		f.send(refresh)
		time.Sleep(refreshInterval)
		hear()
		if diff := cmp.Diff(map[string]bool{one.Prefix.String(): true}, rib); diff != "" {
			t.Errorf("The peer has (-want +got):\n%s", diff)
		}
	})
}

// TestRoutes: a user sees what a peer is told, and why not all of it.
func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := route("198.51.100.200/32", "192.0.2.11")
		full.MED, full.LocalPref, full.Prepend = new(uint32(7)), new(uint32(200)), 2
		full.Communities = []bgp.Community{{A: 64512, B: 100}, bgp.GracefulShutdown}
		overIPv6, ipv6 := route("198.51.100.201/32", "2001:db8::11"), route("2001:db8:51::1000/128", "2001:db8::11")
		s, conns := startFake(t, peerOfFakes(), nil, ipv6, overIPv6, full)
		told := full
		told.LocalPref = nil // which an external peer is not told
		want := func(reasons ...string) {
			t.Helper()
			synctest.Wait()
			var want []bgp.RouteState
			for i, r := range []bgp.Route{told, overIPv6, ipv6} {
				want = append(want, bgp.RouteState{Route: r, Withheld: reasons[i]})
			}
			if diff := cmp.Diff(want, s.routes(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("Unexpected routes (-want +got):\n%s", diff)
			}
		}
		const down = "the session is not established"
		want(down, down, down)
		f := read(t, <-conns)
		f.establish(90, packet.NewCapMultiProtocol(packet.RF_IPv4_UC), packet.NewCapFourOctetASNumber(64513))
		want("", "the peer takes no IPv4 prefixes with IPv6 next hops (RFC 8950)", "the peer has not agreed to IPv6")
		f.conn.Close()
		want(down, down, down)
		f = read(t, <-conns)
		f.establish(90, capabilities()...)
		want("", "", "")
	})
}

// TestTwoOctetPeer: a peer that knows AS numbers of two octets only has ours in AS4_PATH.
func TestTwoOctetPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := peerOfFakes()
		peer.LocalASN = 4200000001
		_, conns := startFake(t, peer, nil, route("198.51.100.200/32", "192.0.2.11"))
		f := read(t, <-conns)
		if ours := f.establish(90); ours.MyAS != packet.AS_TRANS {
			t.Errorf("The OPEN says AS %d", ours.MyAS)
		}
		var got []string
		for _, attr := range f.next().Body.(*packet.BGPUpdate).PathAttributes {
			switch attr := attr.(type) {
			case *packet.PathAttributeAsPath:
				got = append(got, attr.String())
			case *packet.PathAttributeAs4Path:
				got = append(got, attr.String())
			}
		}
		if diff := cmp.Diff([]string{"{AsPath: 23456}", "4200000001"}, got); diff != "" {
			t.Errorf("Unexpected paths (-want +got):\n%s", diff)
		}
	})
}

// TestReceived: what the peer announces is counted, and bounded where a bound is declared.
func TestReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := peerOfFakes()
		peer.MaxReceivedPrefixes = 3
		s, conns := startFake(t, peer, nil)
		f := read(t, <-conns)
		f.establish(90, capabilities()...)
		send := func(announce bool, nextHop string, prefixes ...string) {
			t.Helper()
			var updates []update
			var err error
			for _, p := range prefixes {
				prefix := netip.MustParsePrefix(p)
				if announce {
					updates, err = announcements(peer, true, attributes{nextHop: netip.MustParseAddr(nextHop)}, family.Of(prefix.Addr()), []netip.Prefix{prefix})
				} else {
					updates, err = withdrawals(family.Of(prefix.Addr()), prefix.Addr().Is6(), []netip.Prefix{prefix})
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range updates {
					if _, err := f.conn.Write(u.message); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		want := func(ipv4, ipv6 int) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(map[family.Family]int{family.IPv4: ipv4, family.IPv6: ipv6}, s.state().Received); diff != "" {
				t.Errorf("Unexpected counts (-want +got):\n%s", diff)
			}
		}
		send(true, "192.0.2.1", "203.0.113.0/24", "203.0.113.1/32")
		send(true, "192.0.2.2", "203.0.113.0/24") // a change is no new prefix
		send(true, "2001:db8::1", "2001:db8:1::/48")
		want(2, 1)
		send(false, "", "203.0.113.0/24", "2001:db8:2::/48")
		want(1, 1)
		send(true, "2001:db8::1", "203.0.113.0/24") // IPv4 by an IPv6 next hop
		want(2, 1)
		send(true, "192.0.2.1", "203.0.113.2/32")
		wantLoss(t, s, f, packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED,
			"the peer announces more than 3 prefixes (maxReceivedPrefixes)")
	})
}

// forbidding is a Guard that allows nothing while it has a reason.
type forbidding struct {
	why   chan error // the answers of Allow, nil once it is empty
	yield chan func(error)
}

func (g *forbidding) Allow() error {
	select {
	case err := <-g.why:
		return err
	default:
		return nil
	}
}

func (g *forbidding) Hold(_ net.Conn, yield func(error)) func() {
	g.yield <- yield
	return func() { g.yield <- nil }
}

// TestGuard: a session that must not be opened is Idle and says why, and one that has to yield withdraws, ends, and asks before the next.
func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := errors.New("another program of this node has a session with this router")
		g := &forbidding{why: make(chan error, 10), yield: make(chan func(error), 10)}
		g.why <- other
		s, conns := startFake(t, peerOfFakes(), g, route("198.51.100.200/32", "192.0.2.11"))
		synctest.Wait()
		if state := s.state(); state.State != bgp.Idle || state.LastError != other.Error() {
			t.Errorf("The state is %+v", state)
		}
		f := read(t, <-conns)
		f.establish(90, capabilities()...)
		synctest.Wait()
		g.why <- other
		(<-g.yield)(other)
		wantLoss(t, s, f, packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN, other.Error())
		if released := <-g.yield; released != nil {
			t.Error("The connection was not released")
		}
		time.Sleep(firstRetry * 5 / 4)
		synctest.Wait()
		if state := s.state(); state.State != bgp.Idle || state.LastError != other.Error() {
			t.Errorf("The state is %+v", state)
		}
		f = read(t, <-conns)
		f.establish(90, capabilities()...)
	})
}

// TestRoutesBeforeConnection: a session has its routes before it starts to connect. Otherwise a router that keeps 20,000 routes of the speaker
// before by graceful restart may get End-of-RIB first, and drop them.
func TestRoutesBeforeConnection(t *testing.T) {
	var s *Speaker
	started := false
	s = New(Config{Logger: funcr.New(func(_, line string) {
		if strings.Contains(line, "Started BGP session") { // which is said just before
			started = true
			if got := len(s.Routes("tor1")); got != 1 {
				t.Errorf("The session starts with %d routes, want 1", got)
			}
		}
	}, funcr.Options{})})
	set(t, s, bgp.Session{Peer: peerOfFakes(), Routes: []bgp.Route{route("198.51.100.200/32", "192.0.2.11")}})
	s.Close(t.Context(), bgp.Withdraw)
	if !started {
		t.Error("The log does not say that the session has started")
	}
}

// TestEndBeforeStart: the session of a BGPPeer that is renamed ends before the one of the new name starts, since both have the same router.
func TestEndBeforeStart(t *testing.T) {
	var s *Speaker
	s = New(Config{Logger: discard, Guard: func(peer bgp.Peer) Guard {
		for _, state := range s.States() {
			t.Errorf("%s starts while there is %s", peer.Name, state.Peer)
		}
		return &forbidding{why: make(chan error)}
	}})
	defer s.Close(t.Context(), bgp.Withdraw)
	old, renamed := peerOfFakes(), peerOfFakes()
	renamed.Name = "tor-new"
	set(t, s, bgp.Session{Peer: old})
	set(t, s, bgp.Session{Peer: renamed})
}

// TestServes: which changes of a BGPPeer leave its session alone.
func TestServes(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		change                  func(*bgp.Peer)
		established, connecting bool // whether the session stays
	}{
		{"nothing", func(*bgp.Peer) {}, true, true},
		{"ebgpMultiHop", func(p *bgp.Peer) { p.EBGPMultiHop = true }, true, false},
		{"connectTime", func(p *bgp.Peer) { p.ConnectTime = time.Minute }, true, false},
		{"maxReceivedPrefixes", func(p *bgp.Peer) { p.MaxReceivedPrefixes = 10 }, true, true},
		{"ttlSecurityHops", func(p *bgp.Peer) { p.TTLSecurityHops = 1 }, false, false},
		{"password", func(p *bgp.Peer) { p.Password = "secret" }, false, false},
	} {
		peer := peerOfFakes()
		tt.change(&peer)
		s := newSession(Config{Logger: discard}, peerOfFakes(), func() {})
		connecting := s.serves(peer)
		s.status.State = bgp.Established
		if established := s.serves(peer); established != tt.established || connecting != tt.connecting {
			t.Errorf("%s: stays while established %v, and before %v; want %v, %v", tt.name, established, connecting, tt.established, tt.connecting)
		}
	}
}

// TestConnectionOf: which declarations are of one router.
func TestConnectionOf(t *testing.T) {
	at := func(address, iface, vrf string) connectionKey {
		return connectionOf(bgp.Peer{Address: netip.MustParseAddr(address), Interface: iface, VRF: vrf, Port: 179})
	}
	for _, tt := range []struct {
		name string
		a, b connectionKey
		same bool
	}{
		{"169.254.0.1 on two links", at("169.254.0.1", "eth1", ""), at("169.254.0.1", "eth2", ""), false},
		{"fe80::1 on two links", at("fe80::1%eth1", "eth1", ""), at("fe80::1%eth2", "eth2", ""), false},
		{"a router by an interface, and by the routes", at("192.0.2.1", "eth1", ""), at("192.0.2.1", "", ""), true},
		{"192.0.2.1 in two VRFs", at("192.0.2.1", "", "blue"), at("192.0.2.1", "", "red"), false},
	} {
		if got := tt.a == tt.b; got != tt.same {
			t.Errorf("%s: one router %v, want %v", tt.name, got, tt.same)
		}
	}
}
