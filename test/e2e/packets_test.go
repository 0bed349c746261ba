// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tandem-lb/tandem/test/lab"
)

// capture is tcpdump on a host, which goes on until the test ends.
type capture struct {
	mu sync.Mutex
	// mu guards all following fields.
	packets []packet
}

// packet is what tcpdump says of an ARP packet, a neighbour solicitation or a neighbour advertisement.
type packet struct {
	src, dst string // MAC addresses
	form     form
	ip       string // which is asked for, or told
}

type form string

const (
	request    form = "request"    // an ARP request or a neighbour solicitation
	answer     form = "answer"     // to one host
	gratuitous form = "gratuitous" // an ARP packet about its sender, or an unsolicited advertisement to all nodes
)

var (
	arpRequest    = regexp.MustCompile(`^\S+ (\S+) > (\S+), ethertype ARP .*: Request who-has (\S+) (?:\(\S+\) )?tell (\S+), length`)
	arpReply      = regexp.MustCompile(`^\S+ (\S+) > (\S+), ethertype ARP .*: Reply (\S+) is-at`)
	solicitation  = regexp.MustCompile(`^\S+ (\S+) > (\S+), ethertype IPv6 .*neighbor solicitation, .*who has ([0-9a-f:]+),`)
	advertisement = regexp.MustCompile(`^\S+ (\S+) > (\S+), ethertype IPv6 .*neighbor advertisement, .*tgt is ([0-9a-f:]+),`)
)

const (
	broadcast = "ff:ff:ff:ff:ff:ff"
	allNodes  = "33:33:00:00:00:01"
)

// parse reads a line of tcpdump -e.
func parse(line string) (packet, bool) {
	if m := arpRequest.FindStringSubmatch(line); m != nil {
		p := packet{m[1], m[2], request, m[3]}
		if m[3] == m[4] {
			p.form = gratuitous
		}
		return p, true
	}
	if m := arpReply.FindStringSubmatch(line); m != nil {
		p := packet{m[1], m[2], answer, m[3]}
		if m[2] == broadcast {
			p.form = gratuitous
		}
		return p, true
	}
	if m := solicitation.FindStringSubmatch(line); m != nil {
		return packet{m[1], m[2], request, m[3]}, true
	}
	if m := advertisement.FindStringSubmatch(line); m != nil {
		p := packet{m[1], m[2], answer, m[3]}
		if m[2] == allNodes {
			p.form = gratuitous
		}
		return p, true
	}
	return packet{}, false
}

// start runs a program on a host until the test ends. read gets what it prints, and the returned reader has its errors.
func (s *stage) start(t *testing.T, host string, read func(io.Reader), name string, args ...string) (said io.Reader) {
	t.Helper()
	cmd := s.Command(t.Context(), host, name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err = cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { read(out) })
	t.Cleanup(func() { // t.Context has ended, and with it the program
		reading.Wait()
		_ = cmd.Wait()
	})
	return said
}

// startTcpdump runs tcpdump on a host until the test ends, and returns once it captures. read gets what it prints.
func (s *stage) startTcpdump(t *testing.T, host string, read func(io.Reader), options ...string) {
	t.Helper()
	said := s.start(t, host, read, "tcpdump", append([]string{"-nl", "--immediate-mode", "-i", "eth0"}, options...)...)
	text := ""
	for errs := bufio.NewScanner(said); errs.Scan(); {
		if text += errs.Text() + "\n"; strings.Contains(errs.Text(), "listening on") {
			return
		}
	}
	t.Fatalf("tcpdump on %s captures nothing: %s", host, text)
}

// tcpdump starts a capture of ARP and neighbour discovery.
func (s *stage) tcpdump(t *testing.T, host string) *capture {
	t.Helper()
	c := &capture{}
	s.startTcpdump(t, host, func(out io.Reader) {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if p, ok := parse(lines.Text()); ok {
				c.mu.Lock()
				c.packets = append(c.packets, p)
				c.mu.Unlock()
			}
		}
	}, "-e", "arp or icmp6")
	return c
}

// mark returns a position for since.
func (c *capture) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.packets)
}

// since returns the packets about an address after a mark.
func (c *capture) since(mark int, ip string, f form) []packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.packets[mark:]), func(p packet) bool { return p.ip != ip || p.form != f })
}

// taken reports whether, after a mark, a node other than the one with that MAC address has announced each of the addresses.
func (c *capture) taken(mark int, ips []string, mac string) (bool, string) {
	for _, ip := range ips {
		if !slices.ContainsFunc(c.since(mark, ip, gratuitous), func(p packet) bool { return p.src != mac }) {
			return false, "no other node has said that it has " + ip
		}
	}
	return true, ""
}

// senders counts packets by their source.
func senders(packets []packet) map[string]int {
	count := map[string]int{}
	for _, p := range packets {
		count[p.src]++
	}
	return count
}

// mac returns the MAC address of a host on the LAN.
func (s *stage) mac(t *testing.T, host string) string {
	t.Helper()
	link, err := s.Command(t.Context(), host, "ip", "-brief", "link", "show", "eth0").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(link))[2]
}

// ask makes the client on the LAN send one ARP request or neighbour solicitation for an address, to all stations.
func (s *stage) ask(ctx context.Context, ip string) error {
	if strings.Contains(ip, ":") {
		return s.Command(ctx, lab.Client, "ndisc6", "-1", "-q", "-r", "1", "-w", "1000", ip, "eth0").Run()
	}
	return s.Command(ctx, lab.Client, "arping", "-b", "-q", "-c", "1", "-w", "1", "-I", "eth0", ip).Run()
}

// probe makes the client's kernel verify what it knows of an address: it asks that MAC address alone, by RFC 4861 §7.3.3 and
// likewise in ARP.
func (s *stage) probe(ctx context.Context, ip, mac string) error {
	return s.Command(ctx, lab.Client, "ip", "neigh", "replace", ip, "lladdr", mac, "dev", "eth0", "nud", "probe").Run()
}

// answeredBy waits until, several times in a row, each request to all stations gets exactly one answer, and all answers are that node's.
func (s *stage) answeredBy(t *testing.T, c *capture, node string, ips []string) {
	t.Helper()
	const questions = 4
	mac := s.mac(t, node)
	s.until(t, patience, "exactly one answer to each question, from "+node, func(ctx context.Context) (bool, string) {
		for _, ip := range ips {
			mark := c.mark()
			for range questions {
				if err := s.ask(ctx, ip); err != nil {
					return false, ip + " is not answered"
				}
			}
			if got := senders(c.since(mark, ip, answer)); !maps.Equal(got, map[string]int{mac: questions}) {
				return false, fmt.Sprintf("%d questions about %s were answered by %v, %s is %s", questions, ip, got, node, mac)
			}
		}
		return true, ""
	})
}
