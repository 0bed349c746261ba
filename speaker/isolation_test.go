// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// isolationStart is when the tests of isolation begin.
var isolationStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestIsolationStep(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		was                   isolation
		answer                answer
		wantChanged, isolated bool
	}{
		{name: "with others, the API away", answer: answer{outOfReach: true}},
		{name: "alone, the API away", was: isolation{alone: true}, answer: answer{outOfReach: true}, wantChanged: true, isolated: true},
		{name: "alone, the API there", was: isolation{alone: true}},
		{name: "still isolated", was: isolation{alone: true, isolated: true}, answer: answer{outOfReach: true}, isolated: true},
		{name: "another speaker comes back", was: isolation{isolated: true}, answer: answer{outOfReach: true}, wantChanged: true},
		{name: "the API comes back", was: isolation{alone: true, isolated: true}, wantChanged: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := tt.was
			if changed := i.Step(tt.answer); changed != tt.wantChanged || i.isolated != tt.isolated {
				t.Errorf("changed %v, isolated %v; want %v and %v", changed, i.isolated, tt.wantChanged, tt.isolated)
			}
		})
	}
}

// A speaker that has lost the others takes nothing over before the API has answered a question that was asked since.
func TestIsolationHolds(t *testing.T) {
	at := func(seconds int) time.Time { return isolationStart.Add(time.Duration(seconds) * time.Second) }
	var i isolation
	for _, step := range []struct {
		name     string
		doubtful bool
		answer   *answer
		changed  bool // the answer changes what may be announced
		holds    bool
	}{
		{name: "with others"},
		{name: "the others are lost", doubtful: true, holds: true},
		{name: "an answer to a question from before", doubtful: true, answer: &answer{asked: at(0)}, holds: true},
		{name: "no answer", doubtful: true, answer: &answer{asked: at(3), outOfReach: true}, holds: true},
		{name: "an answer", doubtful: true, answer: &answer{asked: at(4)}, changed: true},
		{name: "still without others", doubtful: true},
		{name: "they are back"},
		{name: "and lost again", doubtful: true, holds: true},
		{name: "and back", holds: false},
	} {
		begun := i.Doubt(at(1), step.doubtful)
		if want := step.name == "the others are lost" || step.name == "and lost again"; begun != want {
			t.Errorf("%s: doubt has begun: %v", step.name, begun)
		}
		if step.answer != nil {
			if changed := i.Step(*step.answer); changed != step.changed {
				t.Errorf("%s: changed %v", step.name, changed)
			}
			if i.answered.After(at(1)) {
				i.answered = at(1)
			}
		}
		if i.holds() != step.holds || i.asks() != step.holds {
			t.Errorf("%s: holds %v, asks %v; want %v", step.name, i.holds(), i.asks(), step.holds)
		}
		if step.name == "they are back" {
			i.answered = at(0)
		}
	}
}

// probeOf returns a probe of an API.
func probeOf(t *testing.T, host string) *apiProbe {
	t.Helper()
	probe, err := newAPIProbe(&rest.Config{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	return probe
}

// An answer of any kind says that the API is in reach, of an API that is not ready too. But only a list says what is on record.
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
		{name: "an isolated speaker may not list", isolated: true, status: http.StatusForbidden, wantOutOfReach: true},
		{name: "an isolated speaker is not known", isolated: true, status: http.StatusUnauthorized, wantOutOfReach: true},
		{name: "an isolated speaker and an API that is not ready", isolated: true, status: http.StatusServiceUnavailable, wantOutOfReach: true},
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
			a := probeOf(t, api.URL).Ask(t.Context(), isolation{alone: true, isolated: tt.isolated}, nil)
			if a.outOfReach != tt.wantOutOfReach || len(a.records) > 0 {
				t.Errorf("answer %+v, want that the API is out of reach: %v", a, tt.wantOutOfReach)
			}
		})
	}
}

// Informers wait for an API that is away, and not for one that refuses to say whether it is ready.
func TestProbeOfReadiness(t *testing.T) {
	for status, want := range map[int]bool{
		http.StatusOK: true, http.StatusUnauthorized: true, http.StatusForbidden: true, http.StatusTooManyRequests: true,
		http.StatusInternalServerError: false, http.StatusServiceUnavailable: false,
	} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		if got := probeOf(t, api.URL).Ready(t.Context()); got != want {
			t.Errorf("an API that answers %d is there: %t, want %t", status, got, want)
		}
		api.Close()
	}
}

// A speaker is isolated when it has lost both the API and every other speaker, and not any more when it sees either. With the API come the
// records, which count before the cache has them.
func TestIsolationByTheAPI(t *testing.T) {
	taken := announcement("web", "node2", v4)
	taken.ResourceVersion = "7"
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v1alpha1.L2AnnouncementList{Items: []v1alpha1.L2Announcement{taken}})
	}))
	t.Cleanup(api.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	records := newRecorder(nil, "node1", nil, signal.New())
	var i isolation
	for _, step := range []struct {
		name              string
		alone             bool
		host              string
		changed, isolated bool
	}{
		{name: "with others, the API away", host: gone.URL},
		{name: "alone, and the API answers", alone: true, host: api.URL},
		{name: "alone without the API", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "still", alone: true, host: gone.URL, isolated: true},
		{name: "the API comes back", alone: true, host: api.URL, changed: true},
		{name: "and goes", alone: true, host: gone.URL, changed: true, isolated: true},
		{name: "another speaker comes back", host: gone.URL, changed: true},
	} {
		i.alone = step.alone
		a := probeOf(t, step.host).Ask(t.Context(), i, nil)
		records.Learn(a.records)
		if changed := i.Step(a); changed != step.changed || i.isolated != step.isolated {
			t.Errorf("%s: changed %v, isolated %v; want %v and %v", step.name, changed, i.isolated, step.changed, step.isolated)
		}
	}
	cached := announcement("web", "node1", v4)
	cached.ResourceVersion = "5"
	for _, step := range []struct{ version, want string }{{"5", "node2"}, {"8", "node1"}, {"5", "node1"}} {
		cached.ResourceVersion = step.version
		list := []*v1alpha1.L2Announcement{cached.DeepCopy()}
		records.Renew(list)
		if got := list[0].Status.Node; got != step.want {
			t.Errorf("the cache has version %s: the holder is %s, want %s", step.version, got, step.want)
		}
	}
}

// A speaker that disputes about some addresses reads their records, if there are any.
func TestProbeReadsRecords(t *testing.T) {
	taken := announcement("web", "node2", v4)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/default.mail") {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(apierrors.NewNotFound(schema.GroupResource{}, "default.mail").Status())
			return
		}
		_ = json.NewEncoder(w).Encode(taken)
	}))
	t.Cleanup(api.Close)
	a := probeOf(t, api.URL).Ask(t.Context(), isolation{}, []string{"default.web", "default.mail"})
	if a.outOfReach || len(a.records) != 1 || a.records[0].Status.Node != "node2" {
		t.Errorf("answer %+v, want the one record", a)
	}
}
