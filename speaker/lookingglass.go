// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// LookingGlass returns a handler that answers, as JSON, what this speaker does by BGP at the moment, and asks the LAN for addresses of Services. It
// has no secrets, and changes nothing.
//
//	GET /bgp/sessions          each peer of this node, as the SpeakerStatus has it some seconds later
//	GET /bgp/routes?peer=tor1  each route that is declared to the peer, with the attributes that it is told, and why it is not sent if it is not
//	GET /bfd                   each BFD session
//	GET /facts?interface=eth0  facts of the node, with parameters of these interfaces; &to=198.51.100.12 asks by which one it sends there
//	POST /probe/…              whether an address answers, see probes
func (s *Speaker) LookingGlass() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, answer func(*sessions, *http.Request) any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			sessions := s.sessions.Load()
			if sessions == nil {
				http.Error(w, "the speaker is starting", http.StatusServiceUnavailable)
				return
			}
			content := answer(sessions, r)
			if content == nil {
				http.Error(w, "no such peer has a session on this node; /bgp/sessions lists them", http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(content) // it fails where the client is gone
		})
	}
	handle("/bgp/sessions", func(s *sessions, _ *http.Request) any { return nonNil(s.published()) })
	handle("/bgp/routes", func(s *sessions, r *http.Request) any {
		peer := r.FormValue("peer")
		if routes := s.bgp.Routes(peer); routes != nil {
			return routeAnswers(append(routes, s.unsent(peer)...))
		}
		return nil
	})
	handle("/bfd", func(s *sessions, _ *http.Request) any { return bfdAnswers(s.bfd.States()) })
	mux.HandleFunc("GET /facts", s.serveFacts)
	if s.probes != nil {
		s.probes.register(mux)
	}
	return mux
}

// nonNil returns a list that is [] in JSON where it is empty.
func nonNil(published []v1alpha1.BGPSession) []v1alpha1.BGPSession {
	if published == nil {
		return []v1alpha1.BGPSession{}
	}
	return published
}

func routeAnswers(routes []bgp.RouteState) []lookingglass.Route {
	answers := make([]lookingglass.Route, 0, len(routes))
	for _, r := range routes {
		a := lookingglass.Route{
			Prefix: r.Prefix, NextHop: r.NextHop, LinkLocal: r.LinkLocal, LocalPref: r.LocalPref, MED: r.MED, ASPathPrepend: r.Prepend, Sent: r.Withheld == "",
			Withheld: r.Withheld,
		}
		for _, c := range r.Communities {
			a.Communities = append(a.Communities, c.String())
		}
		answers = append(answers, a)
	}
	return answers
}

// bfdAnswer is a bfd.SessionState in JSON. Intervals are in milliseconds.
type bfdAnswer struct {
	Peer                  string    `json:"peer"`
	State                 string    `json:"state"`
	RemoteState           string    `json:"remoteState"`
	Since                 time.Time `json:"since,omitzero"`
	Diagnostic            uint8     `json:"diagnostic"` // by RFC 5880 §4.1
	TransmitMilliseconds  float64   `json:"transmitMilliseconds"`
	DetectionMilliseconds float64   `json:"detectionMilliseconds"`
	Downs                 uint64    `json:"downs"`
}

func bfdAnswers(states []bfd.SessionState) []bfdAnswer {
	answers := make([]bfdAnswer, 0, len(states))
	for _, s := range states {
		answers = append(answers, bfdAnswer{
			Peer: s.Name, State: s.State.String(), RemoteState: s.RemoteState.String(), Since: s.Since, Diagnostic: uint8(s.Diagnostic),
			TransmitMilliseconds: s.Transmit.Seconds() * 1000, DetectionMilliseconds: s.Detection.Seconds() * 1000, Downs: s.Downs,
		})
	}
	return answers
}
