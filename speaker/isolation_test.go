// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestIsolationStep(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		was                   isolation
		answer                answer
		wantChanged, isolated bool
	}{
		{name: "with others, the API away", answer: answer{outOfReach: true}},
		{
			name: "alone, the API away",
			was:  isolation{alone: true}, answer: answer{alone: true, outOfReach: true}, wantChanged: true, isolated: true,
		},
		{name: "alone, the API there", was: isolation{alone: true}, answer: answer{alone: true}},
		{name: "alone since the probe asked", was: isolation{alone: true}, answer: answer{outOfReach: true}},
		{name: "not alone any more since the probe asked", answer: answer{alone: true, outOfReach: true}},
		{name: "still isolated", was: isolation{alone: true, isolated: true}, answer: answer{alone: true, outOfReach: true}, isolated: true},
		{name: "another speaker comes back", was: isolation{isolated: true}, answer: answer{outOfReach: true}, wantChanged: true},
		{name: "the API comes back", was: isolation{alone: true, isolated: true}, answer: answer{alone: true}, wantChanged: true},
		{
			name: "the API comes back, the cache is behind",
			was:  isolation{alone: true, isolated: true}, answer: answer{alone: true, behind: true}, isolated: true,
		},
		{name: "everything comes back, the cache is behind", was: isolation{isolated: true}, answer: answer{behind: true}, isolated: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := tt.was
			if changed := i.Step(tt.answer); changed != tt.wantChanged || i.isolated != tt.isolated {
				t.Errorf("changed %v, isolated %v; want %v and %v", changed, i.isolated, tt.wantChanged, tt.isolated)
			}
		})
	}
}

// probeOf returns a probe of an API for node1, whose cache has the record of Service web with a holder.
func probeOf(t *testing.T, host, holder string) *apiProbe {
	t.Helper()
	cached := announcement("web", holder, v4)
	cache := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&cached).Build()
	probe, err := newAPIProbe(&rest.Config{Host: host}, "node1", cache)
	if err != nil {
		t.Fatal(err)
	}
	return probe
}

// An answer of any kind says that the API is in reach, of an API that is not ready too.
func TestProbeTakesAnyAnswer(t *testing.T) {
	for _, tt := range []struct {
		name           string
		status         int // 0 for no server at all
		body           string
		isolated       bool
		wantOutOfReach bool
	}{
		{name: "ready", status: http.StatusOK, body: "ok"},
		{name: "not ready", status: http.StatusInternalServerError, body: "[-]etcd failed: reason withheld"},
		{name: "overloaded", status: http.StatusTooManyRequests, body: "later"},
		{name: "forbidden", status: http.StatusForbidden},
		{name: "gone", wantOutOfReach: true},
		{name: "an isolated speaker may not list", isolated: true, status: http.StatusForbidden},
		{name: "an isolated speaker and no API", isolated: true, wantOutOfReach: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			t.Cleanup(api.Close)
			if tt.status == 0 {
				api.Close()
			}
			a := probeOf(t, api.URL, "node2").Ask(t.Context(), isolation{alone: true, isolated: tt.isolated})
			if want := (answer{alone: true, outOfReach: tt.wantOutOfReach}); a != want {
				t.Errorf("answer %+v, want %+v", a, want)
			}
		})
	}
}

// A speaker is isolated when it has lost both the API and every other speaker, and not any more when it sees either.
func TestIsolationByTheAPI(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(api.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	var i isolation
	for _, step := range []struct {
		name              string
		alone             bool
		host              string
		changed, isolated bool
	}{
		{name: "with others, the API away", host: gone.URL},
		{name: "alone, and the API answers with an error", alone: true, host: api.URL},
		{name: "alone without the API", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "still", alone: true, host: gone.URL, isolated: true},
		{name: "the API comes back", alone: true, host: api.URL, changed: true},
		{name: "and goes", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "another speaker comes back", host: gone.URL, changed: true},
	} {
		i.alone = step.alone
		if changed := i.Step(probeOf(t, step.host, "").Ask(t.Context(), i)); changed != step.changed || i.isolated != step.isolated {
			t.Errorf("%s: changed %v, isolated %v; want %v and %v", step.name, changed, i.isolated, step.changed, step.isolated)
		}
	}
}

// A speaker that comes back from isolation is silent until its cache knows who has taken over: its watch may take a minute more than
// the network.
func TestIsolationEndsWithTheCache(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	taken := announcement("web", "node2", v4)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v1alpha1.L2AnnouncementList{Items: []v1alpha1.L2Announcement{taken}})
	}))
	t.Cleanup(api.Close)
	var i isolation
	for _, step := range []struct {
		name     string
		alone    bool
		host     string
		cached   string // holder
		isolated bool
	}{
		{name: "alone without the API", alone: true, host: gone.URL, cached: "node1", isolated: true},
		{name: "the API comes back first, the cache is behind", alone: true, host: api.URL, cached: "node1", isolated: true},
		{name: "the others come back, the cache is behind", host: api.URL, cached: "node1", isolated: true},
		{name: "the cache has caught up", host: api.URL, cached: "node2"},
		{name: "alone again", alone: true, host: gone.URL, cached: "node3", isolated: true},
		{name: "the cache is behind in what was never this node's", host: api.URL, cached: "node3"},
	} {
		i.alone = step.alone
		if i.Step(probeOf(t, step.host, step.cached).Ask(t.Context(), i)); i.isolated != step.isolated {
			t.Errorf("%s: isolated %v, want %v", step.name, i.isolated, step.isolated)
		}
	}
}
