// SPDX-License-Identifier: Apache-2.0

//go:build e2e && movein

package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/tandem-lb/tandem/test/lab"
)

// A saying is an answer on the LAN, or an announcement to all: an address is at a MAC address.
type saying struct {
	At  time.Time
	IP  netip.Addr
	MAC string
}

// askerEnv makes a process of this test binary ask the LAN where addresses are, instead of running tests. Its value is the addresses.
const askerEnv = "TANDEM_E2E_ASKER"

func init() { processes[askerEnv] = askerMain }

// askEvery is how often the LAN is asked for one of the addresses, in turn.
const askEvery = 2 * time.Millisecond

// where asks the LAN from the client, again and again, where each of the addresses is, and hears what others say of it unasked, until stop is called.
// The client's kernel learns nothing by it.
func (s *stage) where(t *testing.T, ips []string) (stop func() []saying) {
	t.Helper()
	asker := s.Command(context.Background(), lab.Client, os.Args[0])
	asker.Env = append(os.Environ(), askerEnv+"="+strings.Join(ips, " "))
	asker.Stderr = os.Stderr
	end, err := asker.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := asker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := asker.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	wait := sync.OnceValue(func() []saying {
		_ = end.Close()
		var all []saying
		if err := json.NewDecoder(said).Decode(&all); err != nil {
			t.Errorf("reading what the LAN said: %v", err)
		}
		_ = asker.Wait()
		return all
	})
	if line, err := said.ReadString('\n'); err != nil {
		t.Fatalf("asking the LAN: %v, it said %q", err, line)
	}
	t.Cleanup(func() { wait() })
	return wait
}

// askerMain asks until standard input ends, and then prints what was said.
func askerMain(what string) error {
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	v4, err := arp.Dial(eth0)
	if err != nil {
		return err
	}
	v6, _, err := ndp.Listen(eth0, ndp.LinkLocal)
	if err != nil {
		return err
	}
	if err := v6.JoinGroup(netip.MustParseAddr("ff02::1")); err != nil {
		return err
	}
	var mu sync.Mutex
	var all []saying // guarded by mu
	hear := func(ip netip.Addr, mac net.HardwareAddr) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, saying{time.Now(), ip.WithZone(""), mac.String()})
	}
	go func() {
		for {
			p, _, err := v4.Read()
			if err != nil {
				return
			}
			if p.Operation == arp.OperationReply || p.SenderIP == p.TargetIP {
				hear(p.SenderIP, p.SenderHardwareAddr)
			}
		}
	}()
	go func() {
		for {
			m, _, _, err := v6.ReadFrom()
			if err != nil {
				return
			}
			if advertisement, ok := m.(*ndp.NeighborAdvertisement); ok {
				for _, option := range advertisement.Options {
					if lla, ok := option.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Target {
						hear(advertisement.TargetAddress, lla.Addr)
					}
				}
			}
		}
	}()
	fmt.Println("asking")
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	if err := askInTurn(v4, v6, eth0.HardwareAddr, strings.Fields(what), over); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	return json.NewEncoder(os.Stdout).Encode(all)
}

// askInTurn asks for one address after the other, until it is over. A question that finds no room is left out.
func askInTurn(v4 *arp.Client, v6 *ndp.Conn, own net.HardwareAddr, ips []string, over <-chan struct{}) error {
	ticks := time.NewTicker(askEvery)
	defer ticks.Stop()
	for i := 0; ; i++ {
		select {
		case <-over:
			return nil
		case <-ticks.C:
		}
		ip, err := netip.ParseAddr(ips[i%len(ips)])
		if err != nil {
			return err
		}
		if ip.Is4() {
			err = v4.Request(ip)
		} else {
			group, groupErr := ndp.SolicitedNodeMulticast(ip)
			question := &ndp.NeighborSolicitation{
				TargetAddress: ip, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: own}},
			}
			err = errors.Join(groupErr, v6.WriteTo(question, nil, group))
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Fprintf(os.Stderr, "asking for %s: %v\n", ip, err)
		}
	}
}

// silence is for how long a MAC address may say nothing of an address, and still count as one that answers for it.
const silence = time.Second

// bothAnswer returns for how long two MAC addresses answered for one of the addresses at the same time, of all addresses the longest.
func bothAnswer(all []saying) (longest time.Duration) {
	type span struct {
		mac         string
		first, last time.Time
	}
	spans := map[netip.Addr][]span{}
	slices.SortFunc(all, func(a, b saying) int { return a.At.Compare(b.At) })
	for _, s := range all {
		of := spans[s.IP]
		i := slices.IndexFunc(of, func(other span) bool { return other.mac == s.MAC && s.At.Sub(other.last) <= silence })
		if i < 0 {
			spans[s.IP] = append(of, span{s.MAC, s.At, s.At})
			continue
		}
		of[i].last = s.At
	}
	for _, of := range spans {
		for i, one := range of {
			for _, other := range of[i+1:] {
				if one.mac == other.mac {
					continue
				}
				first, last := one.first, one.last
				if other.first.After(first) {
					first = other.first
				}
				if other.last.Before(last) {
					last = other.last
				}
				longest = cmp.Or(max(longest, last.Sub(first)), 0)
			}
		}
	}
	return longest
}

// nobodyAnswers returns the longest time between two answers for one of the addresses, of all addresses. Each is asked for in turn, so that it is never
// shorter than a turn takes.
func nobodyAnswers(all []saying) (longest time.Duration) {
	last := map[netip.Addr]time.Time{}
	slices.SortFunc(all, func(a, b saying) int { return a.At.Compare(b.At) })
	for _, s := range all {
		if before, heard := last[s.IP]; heard {
			longest = max(longest, s.At.Sub(before))
		}
		last[s.IP] = s.At
	}
	return longest
}

func TestMoveInAnswers(t *testing.T) {
	start, one, other := time.Now(), netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("198.51.100.201")
	at := func(ms int, ip netip.Addr, mac string) saying {
		return saying{start.Add(time.Duration(ms) * time.Millisecond), ip, mac}
	}
	for _, row := range []struct {
		name         string
		said         []saying
		both, nobody time.Duration
	}{
		{"nobody", nil, 0, 0},
		{"one for each address", []saying{at(0, one, "a"), at(100, other, "b"), at(200, one, "a"), at(300, other, "b")}, 0, 200 * time.Millisecond},
		{"one after the other", []saying{at(0, one, "a"), at(200, one, "a"), at(210, one, "b"), at(400, one, "b")}, 0, 200 * time.Millisecond},
		{
			"both for a while",
			[]saying{at(0, one, "a"), at(200, one, "b"), at(400, one, "a"), at(500, one, "a"), at(600, one, "b")},
			300 * time.Millisecond, 200 * time.Millisecond,
		},
		{"there and back", []saying{at(0, one, "a"), at(100, one, "b"), at(900, one, "b"), at(5000, one, "a")}, 0, 4100 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := bothAnswer(row.said); got != row.both {
				t.Errorf("both answer for %v, want %v", got, row.both)
			}
			if got := nobodyAnswers(row.said); got != row.nobody {
				t.Errorf("nobody answers for %v, want %v", got, row.nobody)
			}
		})
	}
}
