// SPDX-License-Identifier: Apache-2.0

// Package ui serves a page that shows a cluster as it is: pools, Services, nodes, peers and LANs, how they hang together, and what happens.
//
//	API ──every two seconds while a page is open──▶ [Server.Run] ──▶ View ──server-sent events──▶ page
//
// The page is read-only, for the user who has started it, and whose rights it reads the cluster with. So it is served on loopback alone, below a path
// that nobody can guess, since other users of the machine reach loopback too; to requests with the host names of loopback alone, which a page of
// another site cannot have made by rebinding its name; and with a policy that lets it load nothing that is not in this program.
//
// The page is HTML, CSS and JavaScript as they are in the directory page.
package ui

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
)

const (
	// period is how often the cluster is read while a page is open, and idlePeriod while none is, for the use of pools over time.
	period     = 2 * time.Second
	idlePeriod = time.Minute
	// mostLoad bounds what a large cluster has to bear: a reading that takes 3 seconds is followed by the next one 12 seconds after its start.
	mostLoad = 4
	// samplePeriod is how often the use of pools is remembered, and mostSamples for how long: half an hour, or longer if no page was open.
	samplePeriod = 5 * time.Second
	mostSamples  = 360
	mostEvents   = 100
	// heartbeat keeps a connection with nothing to say from being taken for dead.
	heartbeat = 15 * time.Second
)

//go:embed page
var page embed.FS

// Server serves the page of one cluster.
type Server struct {
	// Read reads the cluster.
	Read func(context.Context) (*cluster.State, error)
	// Why says why a Service does not answer, as a value that is shown as JSON is.
	Why func(context.Context, types.NamespacedName) (any, error)

	token  string
	opened chan struct{} // has a value when a page has been opened
	mu     sync.Mutex
	// mu guards all following fields.
	view    *View  // nil before the first
	text    []byte // the view as JSON
	failure string // why the cluster could not be read last, "" if it could
	samples []sample
	clients map[chan struct{}]bool // each is told when there is something new
}

// sample is the use of pools at a moment.
type sample struct {
	Time time.Time `json:"time"`
	Used []float64 `json:"used"` // of each pool in the view, in its order: the share that is taken
	Keys []string  `json:"keys"` // name and family of each
}

// New returns a Server.
func New(read func(context.Context) (*cluster.State, error), why func(context.Context, types.NamespacedName) (any, error)) *Server {
	return &Server{Read: read, Why: why, token: rand.Text(), opened: make(chan struct{}, 1), clients: map[chan struct{}]bool{}}
}

// Path returns the path of the page, which nobody can guess.
func (s *Server) Path() string { return "/" + s.token + "/" }

// Run reads the cluster until the context ends: every two seconds while a page is open, at once when the first one is opened, and else once a minute.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		s.Update(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(period, mostLoad*time.Since(start)) - time.Since(start)):
		}
		if s.watched() {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.opened:
		case <-time.After(idlePeriod - time.Since(start)):
		}
	}
}

// watched reports whether a page is open.
func (s *Server) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients) > 0
}

// Update reads the cluster once, and tells all pages if something has changed.
func (s *Server) Update(ctx context.Context) {
	state, err := s.Read(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.failure != err.Error() {
			s.failure = err.Error()
			s.tell()
		}
		return
	}
	view := viewOf(state)
	if s.view != nil {
		view.Events = append(append(view.Events, changes(s.view, view)...), s.view.Events...)
		view.Events = view.Events[:min(len(view.Events), mostEvents)]
	}
	s.remember(view)
	now, wasDown := view.Time, s.failure != ""
	view.Time, view.Leader.Renewed, s.failure = time.Time{}, time.Time{}, "" // Times alone are no change.
	text, err := json.Marshal(view)
	view.Time = now
	if err != nil {
		s.failure = err.Error()
	}
	if changed := !bytes.Equal(text, s.text); changed || wasDown {
		s.text = text
		s.tell()
	}
	s.view = view
}

// remember keeps the use of pools.
func (s *Server) remember(v *View) {
	if len(s.samples) > 0 && v.Time.Sub(s.samples[len(s.samples)-1].Time) < samplePeriod {
		return
	}
	now := sample{Time: v.Time, Used: []float64{}, Keys: []string{}}
	for _, p := range v.Pools {
		used := 0.0
		if p.Capacity > 0 {
			used = float64(p.Allocated+p.Cooling) / float64(p.Capacity)
		}
		now.Used, now.Keys = append(now.Used, used), append(now.Keys, p.Name+" "+p.Family)
	}
	s.samples = append(s.samples, now)
	s.samples = slices.Delete(s.samples, 0, max(0, len(s.samples)-mostSamples))
}

// tell tells all pages that there is something new. The caller holds mu.
func (s *Server) tell() {
	for client := range s.clients {
		select {
		case client <- struct{}{}:
		default: // It has been told, and has not looked yet.
		}
	}
}

// policy is the content security policy: all that the page needs is in this program.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler returns what serves the page.
func (s *Server) Handler() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // The directory is part of the program.
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+s.Path(), http.StripPrefix(s.Path(), http.FileServerFS(files)))
	mux.HandleFunc("GET "+s.Path()+"events", s.serveEvents)
	mux.HandleFunc("GET "+s.Path()+"why", s.serveWhy)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer") // The path is a secret.
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if !isLoopback(r.Host) {
			http.Error(w, "this page is served to loopback alone", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// isLoopback reports whether the Host of a request is a name of loopback, with a port or without.
func isLoopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	return name == "localhost" || name == "127.0.0.1" || name == "::1"
}

// serveEvents tells a page what there is, and whatever changes: "history" once, "view" at first and after each change, and "failure" while the
// cluster cannot be read.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	news := make(chan struct{}, 1)
	news <- struct{}{}
	s.mu.Lock()
	s.clients[news] = true
	history, _ := json.Marshal(s.samples) // Times and numbers cannot fail.
	s.mu.Unlock()
	select {
	case s.opened <- struct{}{}:
	default: // Run has not looked yet since another page was opened.
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, news)
	}()
	fmt.Fprintf(w, "event: history\ndata: %s\n\n", history)
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
			fmt.Fprint(w, ": alive\n\n")
		case <-news:
			s.mu.Lock()
			text, failure := s.text, s.failure
			s.mu.Unlock()
			if failure != "" {
				message, _ := json.Marshal(failure) // A string cannot fail.
				fmt.Fprintf(w, "event: failure\ndata: %s\n\n", message)
			} else if text != nil {
				fmt.Fprintf(w, "event: view\ndata: %s\n\n", text)
			}
		}
		if control.Flush() != nil {
			return
		}
	}
}

// serveWhy answers why a Service does not answer: /why?service=default/web.
func (s *Server) serveWhy(w http.ResponseWriter, r *http.Request) {
	namespace, name, ok := strings.Cut(r.FormValue("service"), "/")
	if !ok {
		http.Error(w, "name a Service, as service=default/web", http.StatusBadRequest)
		return
	}
	answer, err := s.Why(r.Context(), types.NamespacedName{Namespace: namespace, Name: name})
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // it fails where the client is gone
}
