// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Of thousands of addresses that are taken over, each is announced once before any is announced twice, at a bounded rate, and requests come first. One
// that is withdrawn meanwhile is not announced any more.
func TestManyAnnouncementsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 5000, 400
		requests, replies := map[netip.Addr]int{}, map[netip.Addr]int{}
		perSecond, start := map[time.Duration]int{}, time.Now()
		var firstPass, firstReply time.Duration
		b := newBench(t)
		b.config.Rate = rate
		b.onSend = func(frame []byte) {
			since := time.Since(start)
			perSecond[since/time.Second]++
			ip := netip.AddrFrom4([4]byte(frame[28:32]))
			if frame[21] == 2 {
				if replies[ip]++; firstReply == 0 {
					firstReply = since
				}
				return
			}
			if requests[ip]++; requests[ip] == 2 && len(requests) < n-1 {
				t.Errorf("%s is announced a second time when %d were announced at all", ip, len(requests))
			}
			if len(requests) == n-1 && firstPass == 0 {
				firstPass = since
			}
		}
		b.SetInterfaces([]Interface{{Name: "eth0", Index: 2, MAC: ownMAC[:]}})
		var all []Announcement
		for i := range n {
			ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			all = append(all, Announcement{Address: ip, Interfaces: []string{"eth0"}})
		}
		b.Set(all)
		b.pass(5 * time.Second)
		withdrawn := all[n-1].Address
		before := requests[withdrawn] + replies[withdrawn]
		b.Set(all[:n-1])
		b.pass(5 * time.Minute)

		if want := n * time.Second / rate; firstPass == 0 || firstPass > want {
			t.Errorf("all were announced once after %v, want %v at most", firstPass, want)
		}
		if firstReply < firstPass {
			t.Errorf("the first reply was sent after %v, before the first pass was over after %v", firstReply, firstPass)
		}
		for second, count := range perSecond {
			if count > rate+paceBurst {
				t.Errorf("%d announcements in second %d, want %d a second", count, second/time.Nanosecond, rate)
			}
		}
		if after := requests[withdrawn] + replies[withdrawn]; after > before {
			t.Errorf("%s was announced %d times when it had been withdrawn", withdrawn, after-before)
		}
		for _, a := range all[:n-1] {
			if requests[a.Address] < len(burst)-1 || replies[a.Address] == 0 {
				t.Errorf("%s was announced by %d requests and %d replies", a.Address, requests[a.Address], replies[a.Address])
				break
			}
		}
	})
}

// TestANewAddressGoesFirst: an address that is taken over while thousands of others are repeated is announced before them.
func TestANewAddressGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		added := netip.AddrFrom4([4]byte{10, 2, 0, 1})
		b := newBench(t)
		announced := false
		b.onSend = func(frame []byte) { announced = announced || netip.AddrFrom4([4]byte(frame[28:32])) == added }
		b.SetInterfaces([]Interface{{Name: "eth0", Index: 2, MAC: ownMAC[:]}})
		var all []Announcement
		for i := range n {
			all = append(all, Announcement{Address: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Interfaces: []string{"eth0"}})
		}
		b.Set(all)
		b.pass(n*time.Second/DefaultRate + time.Second) // All were announced once, and wait for the second time.
		b.Update([]Announcement{{Address: added, Interfaces: []string{"eth0"}}}, nil)
		if b.pass(4 * paceInterval); !announced {
			t.Errorf("the address was not announced within %v", 4*paceInterval)
		}
	})
}

// A few addresses wait for nothing.
func TestFewAnnouncementsAreSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		sent := 0
		b.onSend = func([]byte) { sent++ }
		b.SetInterfaces([]Interface{{Name: "eth0", Index: 2, MAC: ownMAC[:]}})
		var all []Announcement
		for i := range paceBurst / 2 {
			all = append(all, Announcement{Address: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), Interfaces: []string{"eth0"}})
		}
		b.Set(all)
		if b.pass(0); sent != paceBurst {
			t.Errorf("%d announcements were sent at once, want %d: each address by both forms", sent, paceBurst)
		}
	})
}

// TestManyAddressesAreRefreshedSlowly: an interface refreshes 20 addresses a second at most, and each address every 150 s if it has few.
func TestManyAddressesAreRefreshedSlowly(t *testing.T) {
	for addresses, want := range map[int]time.Duration{1: 150 * time.Second, 3000: 150 * time.Second, 20_000: 1000 * time.Second} {
		p := &port{tasks: map[netip.Addr]*task{}}
		for i := range addresses {
			p.tasks[netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})] = nil
		}
		now := time.Now()
		for range 100 {
			s, of := schedule{}, task{port: p, step: len(burst), index: -1}
			if s.sent(&of, now); of.due.Before(now.Add(want*4/5)) || of.due.After(now.Add(want*6/5)) {
				t.Errorf("one of %d addresses is refreshed after %v, want %v, give or take a fifth", addresses, of.due.Sub(now), want)
			}
		}
	}
}
