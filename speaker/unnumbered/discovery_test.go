// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	start         = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	first, second = netip.MustParseAddr("fe80::1%eth1"), netip.MustParseAddr("fe80::2%eth1")
)

// fabric plays the routers of a link: each answers a solicitation after half a second, and advertises every ten.
type fabric struct {
	discovery
	now time.Time
}

// run lets time pass while there are these routers, in steps of a quarter of a second.
func (f *fabric) run(d time.Duration, routers ...netip.Addr) {
	var answer time.Time
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(250 * time.Millisecond) {
		if f.now.Equal(answer) || f.now.Sub(start)%(10*time.Second) == 9*time.Second {
			for _, router := range routers {
				f.hearAdvertisement(f.now, router)
			}
		}
		if _, solicit := f.step(f.now); solicit {
			answer = f.now.Add(500 * time.Millisecond)
		}
	}
}

func TestDiscovery(t *testing.T) {
	for _, tt := range []struct {
		name    string
		play    func(*fabric)
		want    netip.Addr
		wantErr string
	}{
		{"no router", func(f *fabric) { f.run(time.Minute) }, netip.Addr{}, "no router answers on eth1 yet"},
		{"one router", func(f *fabric) {
			f.run(2*time.Second, first)
		}, first, ""},
		{"a router that comes later", func(f *fabric) {
			f.run(time.Minute)
			f.run(12*time.Second, first)
		}, first, ""},
		{"a router that falls silent", func(f *fabric) {
			f.run(2*time.Second, first)
			f.run(time.Hour)
		}, first, ""},
		{"a router that comes back with another address", func(f *fabric) {
			f.run(time.Minute, first)
			f.run(time.Minute)
			f.run(16*time.Second, second)
		}, second, ""},
		{"two routers from the start", func(f *fabric) {
			f.run(2*time.Second, first, second)
		}, netip.Addr{}, "2 routers answer on eth1 (fe80::1, fe80::2), and an unnumbered session is for a link with one: no session is opened"},
		{"a second router later", func(f *fabric) {
			f.run(2*time.Second, second)
			f.run(16*time.Second, second, first)
		}, second, "the session stays with fe80::2, which was there first"},
		{"a second router that goes again", func(f *fabric) {
			f.run(2*time.Second, first)
			f.run(16*time.Second, first, second)
			f.run(20*time.Second, first)
		}, first, ""},
		{"the first of two routers goes", func(f *fabric) {
			f.run(2*time.Second, first)
			f.run(16*time.Second, first, second)
			f.run(20*time.Second, second)
		}, second, ""},
		{"one of two routers from the start goes", func(f *fabric) {
			f.run(2*time.Second, first, second)
			f.run(20*time.Second, second)
		}, second, ""},
		{"the link is cut while the routers are asked", func(f *fabric) {
			f.run(2*time.Second, first)
			f.restart(f.now)
			f.run(time.Minute)
		}, first, ""},
		{"a lost solicitation while a second router comes", func(f *fabric) {
			f.run(2*time.Second, first)
			f.hearAdvertisement(f.now, second)
			f.step(f.now)
			f.now = f.now.Add(250 * time.Millisecond)
			f.run(6*time.Second, first)
		}, first, "the session stays with fe80::1"},
		{"a flood of forged routers", func(f *fabric) {
			f.run(2*time.Second, first)
			for i := range 1000 {
				f.hearAdvertisement(f.now, netip.MustParseAddr(fmt.Sprintf("fe80::f:%x%%eth1", i)))
			}
			if len(f.heard) > maxRouters {
				t.Errorf("%d routers are told apart, want %d at most", len(f.heard), maxRouters)
			}
			f.run(30*time.Second, first)
		}, first, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fabric{now: start}
			f.restart(start)
			tt.play(f)
			got, err := f.neighbor("eth1")
			if got != tt.want {
				t.Errorf("the peer is %v, want %v", got, tt.want)
			}
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
}

// TestPace counts our advertisements: three at once, then one every 7.5 to 10 s, and not more than one in three seconds for those who ask.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name        string
		solicited   bool // each quarter of a second
		least, most int  // advertisements in a minute
	}{
		{"nobody asks", false, 8, 11},
		{"somebody asks all the time", true, 20, 22},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d discovery
			d.restart(start)
			count := 0
			for now := start; now.Before(start.Add(time.Minute)); now = now.Add(250 * time.Millisecond) {
				if tt.solicited {
					d.hearSolicitation(now)
				}
				if advertise, _ := d.step(now); advertise {
					count++
				}
				if now.Sub(start) == 2*time.Second && count != initialAdvertisements && !tt.solicited {
					t.Errorf("%d advertisements in the first two seconds, want %d", count, initialAdvertisements)
				}
			}
			if count < tt.least || count > tt.most {
				t.Errorf("%d advertisements in a minute, want %d to %d", count, tt.least, tt.most)
			}
		})
	}
}
