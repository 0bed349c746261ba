// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// used is one request of a client to an address.
type used struct {
	at   time.Time
	took time.Duration
	err  error
	// connected says that the connection was established. What failed later is a matter of the web server and of the machine.
	connected bool
}

// clients use addresses from the client's host as long as the test runs, each time over a new connection.
type clients struct {
	s   *stage
	ctx context.Context
	all sync.WaitGroup

	mu       sync.Mutex
	requests map[netip.Addr][]used // guarded by mu; in the order of their ends
}

func (s *stage) newClients(t *testing.T) *clients {
	t.Helper()
	c := &clients{s: s, ctx: t.Context(), requests: map[netip.Addr][]used{}}
	t.Cleanup(c.all.Wait)
	return c
}

// use has a client use addresses too. A request is given up before TCP would send its first packet again.
func (c *clients) use(ips ...netip.Addr) {
	const interval, timeout = 200 * time.Millisecond, 900 * time.Millisecond
	for _, ip := range ips {
		url := cluster.URL(ip.String(), "/hostname")
		from := c.s.HTTP(lab.Client, timeout)
		c.all.Go(func() {
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				select {
				case <-c.ctx.Done():
					return
				case <-ticker.C:
				}
				c.all.Go(func() {
					u := used{at: time.Now()}
					u.connected, u.err = ask(from, url)
					u.took = time.Since(u.at)
					c.mu.Lock()
					defer c.mu.Unlock()
					c.requests[ip] = append(c.requests[ip], u)
				})
			}
		})
	}
}

// ask makes one request, and reports whether the connection was established.
func ask(from *http.Client, url string) (connected bool, err error) {
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	response, err := from.Do(request)
	if err != nil {
		return connected, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode == http.StatusOK {
		return connected, err
	}
	return connected, errors.New(response.Status)
}

// between returns the requests to an address that began between two moments, in that order.
func (c *clients) between(ip netip.Addr, from, to time.Time) (requests []used) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.requests[ip] {
		if !u.at.Before(from) && !u.at.After(to) {
			requests = append(requests, u)
		}
	}
	slices.SortFunc(requests, func(a, b used) int { return a.at.Compare(b.at) })
	return requests
}

// unserved returns for how long requests had no answer: from the first one that failed to the next one that did not. Those that were under way when the
// address moved do not count: the rest of their packets came to another node.
func (c *clients) unserved(ip netip.Addr, from, to time.Time, moves []time.Time) (gaps []span, failed []used) {
	const late = 50 * time.Millisecond // how late the test may learn of a move
	failing := false
	for _, u := range c.between(ip, from, to) {
		if u.err != nil && u.connected {
			continue
		}
		if u.err != nil && slices.ContainsFunc(moves, func(m time.Time) bool { return !m.Before(u.at.Add(-late)) && !m.After(u.at.Add(u.took+late)) }) {
			continue
		}
		switch {
		case u.err == nil && failing:
			gaps[len(gaps)-1].to, failing = u.at, false
		case u.err == nil:
		case failing:
			gaps[len(gaps)-1].to = u.at
		default:
			gaps, failing = append(gaps, span{u.at, u.at}), true
		}
		if u.err != nil {
			failed = append(failed, u)
		}
	}
	return gaps, failed
}

// story tells which requests failed between two moments.
func (c *clients) story(ip netip.Addr, from, to, zero time.Time) (lines []string) {
	answered := 0
	for _, u := range c.between(ip, from, to) {
		if u.err == nil {
			answered++
			continue
		}
		lines = append(lines, fmt.Sprintf("%8.2fs +%v connected: %t %v", u.at.Sub(zero).Seconds(), u.took.Round(time.Millisecond), u.connected, u.err))
	}
	return append(lines, fmt.Sprintf("%d were answered", answered))
}

// logLine is a line of a speaker's log.
type logLine struct {
	at         time.Time
	node, text string
}

// speakerLogs reads the logs of all speakers while they are written: those of pods that are deleted go.
type speakerLogs struct {
	s     *stage
	mu    sync.Mutex
	files map[string]*bufio.Reader // guarded by mu, and so are the others
	part  map[string]string        // the beginning of a line that is not complete
	lines []logLine
	seen  int // lines that panics has looked at
}

func (s *stage) newSpeakerLogs(t *testing.T) *speakerLogs {
	t.Helper()
	l := &speakerLogs{s: s, files: map[string]*bufio.Reader{}, part: map[string]string{}}
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		ticker := time.NewTicker(300 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				l.read()
			}
		}
	})
	t.Cleanup(func() { close(stop); reading.Wait() })
	return l
}

// read takes in what has been written.
func (l *speakerLogs) read() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, node := range l.s.Nodes() {
		paths, _ := filepath.Glob(filepath.Join(l.s.Dir(), node, "root/var/log/pods/tandem-system_tandem-speaker-*/speaker/*.log"))
		for _, path := range paths {
			if l.files[path] == nil {
				if f, err := os.Open(path); err == nil {
					l.files[path] = bufio.NewReader(f)
				}
			}
		}
	}
	for path, reader := range l.files {
		text, _ := io.ReadAll(reader)
		text = append([]byte(l.part[path]), text...)
		complete := bytes.LastIndexByte(text, '\n') + 1
		l.part[path] = string(text[complete:])
		relative, _ := filepath.Rel(l.s.Dir(), path)
		node, _, _ := strings.Cut(relative, "/")
		for line := range strings.Lines(string(text[:complete])) {
			fields := strings.SplitN(strings.TrimSpace(line), " ", 4)
			if at, err := time.Parse(time.RFC3339Nano, fields[0]); err == nil && len(fields) == 4 {
				l.lines = append(l.lines, logLine{at, node, fields[3]})
			}
		}
	}
}

// story tells what the speakers logged between two moments.
func (l *speakerLogs) story(from, to, zero time.Time) (told []string) {
	l.read()
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 250
	var lines []logLine
	for _, line := range l.lines {
		if !line.at.Before(from) && !line.at.After(to) && !strings.Contains(line.text, "reflector.go") {
			lines = append(lines, line)
		}
	}
	slices.SortStableFunc(lines, func(a, b logLine) int { return a.at.Compare(b.at) })
	for _, line := range lines[:min(len(lines), most)] {
		told = append(told, fmt.Sprintf("%8.2fs %s %.300s", line.at.Sub(zero).Seconds(), line.node, line.text))
	}
	return told
}

// panics returns lines that say that a speaker panics, or that it has decided two things of one state, since it was called last.
func (l *speakerLogs) panics() (found []string) {
	l.read()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines[l.seen:] {
		if strings.HasPrefix(line.text, "panic:") || strings.Contains(line.text, "differ") || strings.Contains(line.text, "DATA RACE") {
			found = append(found, line.node+" "+line.text)
		}
	}
	l.seen = len(l.lines)
	return found
}
