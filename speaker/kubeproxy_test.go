// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestKubeProxyAnswers: a node forwards when its kube-proxy says so, or when it has none.
func TestKubeProxyAnswers(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	nobody := httptest.NewServer(nil)
	nobody.Close() // Nothing listens there any more.
	defer server.Close()
	for _, tt := range []struct {
		name        string
		url         string
		status      int
		age, uptime time.Duration
		want        bool
	}{
		{name: "it has written its rules", url: server.URL, status: http.StatusOK, want: true},
		{name: "it has not", url: server.URL, status: http.StatusServiceUnavailable, age: time.Hour, uptime: time.Hour},
		{name: "there is none", url: nobody.URL, age: time.Hour, uptime: time.Hour, want: true},
		{name: "there is none yet since the boot", url: nobody.URL, age: time.Hour, uptime: time.Minute},
		{name: "there is none yet since the node has joined", url: nobody.URL, age: time.Minute, uptime: time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status = tt.status
			k := newKubeProxy(func(context.Context) time.Duration { return tt.age })
			k.urls, k.uptime = []string{tt.url}, func() time.Duration { return tt.uptime }
			if got := k.answers(t.Context()); got != tt.want {
				t.Errorf("forwards: %v", got)
			}
		})
	}
}

// TestKubeProxyPatience: a node that starts waits for half a minute for a kube-proxy that never answers, and any other for less than routers keep
// what the speaker before has announced.
func TestKubeProxyPatience(t *testing.T) {
	cannot := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Request: r}, nil
	})
	for _, tt := range []struct {
		name        string
		urls        []string
		age, uptime time.Duration
		want        time.Duration
	}{
		{"a node that boots", nil, time.Hour, time.Second, 30 * time.Second},
		{"a node that has joined", nil, time.Second, time.Hour, 30 * time.Second},
		{"a node without kube-proxy", nil, time.Hour, time.Hour, 0},
		{"a kube-proxy that cannot", []string{"http://192.0.2.1"}, time.Hour, time.Hour, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKubeProxy(func(context.Context) time.Duration { return tt.age })
				k.urls, k.uptime, k.client.Transport = tt.urls, func() time.Duration { return tt.uptime }, cannot
				start := time.Now()
				if err := k.run(t.Context()); err != nil {
					t.Fatal(err)
				}
				<-k.found
				if waited := time.Since(start); waited != tt.want || !k.forwards.Load() {
					t.Errorf("forwards %v after %v, want %v", k.forwards.Load(), waited, tt.want)
				}
			})
		})
	}
}

// roundTripper is what answers the requests of an HTTP client.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
