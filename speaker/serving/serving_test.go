// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/cert"

	"github.com/tandem-lb/tandem/speaker/connections"
)

// reviewer is an API server that knows two tokens: "prometheus" may read metrics, and "tenant" may not. asked counts its TokenReviews.
func reviewer(asked *int) *fake.Clientset {
	api := fake.NewClientset()
	api.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		*asked++
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if token := review.Spec.Token; token == "prometheus" || token == "tenant" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: token}}
		}
		return true, review, nil
	})
	api.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		attributes := review.Spec.NonResourceAttributes
		review.Status.Allowed = review.Spec.User == "prometheus" && attributes.Verb == "get" && attributes.Path == "/metrics"
		return true, review, nil
	})
	return api
}

// ask returns the status of a request for metrics by a token from a source.
func ask(handler http.Handler, token, from string) int {
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.RemoteAddr = from
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	return answer.Code
}

func TestAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		a := newAccess(reviewer(&asked), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
		const from, tenant = "192.0.2.5:40000", "192.0.2.66:40000"
		for _, tt := range []struct {
			name, token, from string
			want, wantAsked   int
		}{
			{"no token asks nobody", "", from, http.StatusUnauthorized, 0},
			{"a token that may", "prometheus", from, http.StatusOK, 1},
			{"the same again is remembered", "prometheus", from, http.StatusOK, 1},
			{"a token that may not", "tenant", tenant, http.StatusForbidden, 2},
			{"the same again is remembered too", "tenant", tenant, http.StatusForbidden, 2},
			{"an unknown token", "guess1", tenant, http.StatusUnauthorized, 3},
			{"a second one", "guess2", tenant, http.StatusUnauthorized, 4},
			{"a third one", "guess3", tenant, http.StatusUnauthorized, 5},
			{"a fourth one is too many", "guess4", tenant, http.StatusTooManyRequests, 5},
			{"another source is not limited by that", "guess4", "[2001:db8::1]:40000", http.StatusUnauthorized, 6},
		} {
			if got := ask(a, tt.token, tt.from); got != tt.want || asked != tt.wantAsked {
				t.Errorf("%s: got status %d after %d reviews, want %d after %d", tt.name, got, asked, tt.want, tt.wantAsked)
			}
		}
		time.Sleep(decisionTTL)
		for ask(a, "guess"+time.Now().String(), tenant) != http.StatusTooManyRequests {
			time.Sleep(time.Nanosecond)
		}
		before := asked
		if got := ask(a, "prometheus", tenant); got != http.StatusOK || asked != before+1 {
			t.Errorf("a token that was allowed, from a source whose limit is used up: got status %d after %d reviews, want 200 after 1", got, asked-before)
		}
	})
}

func TestAccessWithoutAPI(t *testing.T) {
	api := fake.NewClientset()
	api.PrependReactor("create", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("connection refused")
	})
	if got := ask(newAccess(api, http.NotFoundHandler()), "prometheus", "192.0.2.5:1"); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d while the API server is away, want 503", got)
	}
}

// gathererFunc counts as a gatherer.
type gathererFunc func() ([]*dto.MetricFamily, error)

func (f gathererFunc) Gather() ([]*dto.MetricFamily, error) { return f() }

func TestRecentGathersOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gathered := 0
		r := &recent{next: gathererFunc(func() ([]*dto.MetricFamily, error) { gathered++; return nil, nil })}
		for range 30 {
			_, _ = r.Gather()
			time.Sleep(gatherPeriod / 10)
		}
		if gathered != 3 {
			t.Errorf("30 scrapes in %v gathered %d times, want 3", 3*gatherPeriod, gathered)
		}
	})
}

// served serves until the test ends, and returns the address and the listener.
func served(t *testing.T, m Metrics) (string, connections.Listener) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := connections.Listener{Listener: inner, Set: &connections.Set{Limit: maxConnections}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.serveOn(ctx, listener); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return inner.Addr().String(), listener
}

// dial connects from a source of the loopback network.
func dial(t *testing.T, source, address string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestIdleConnectionsKeepNobodyOut: one host opens many connections, before and after the connection of another, and the other is answered on it.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "tandem_test", Help: "A metric."}))
	address, listener := served(t, Metrics{Gatherer: registry})
	flood := func() {
		for range 3 * maxConnections {
			dial(t, "127.0.0.66", address)
		}
	}
	flood()
	scraper := dial(t, "127.0.0.5", address)
	flood()
	if _, err := io.WriteString(scraper, "GET /metrics HTTP/1.1\r\nHost: node1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(scraper), nil)
	if err != nil {
		t.Fatalf("the scraper's connection: %v", err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(text), "tandem_test 0") {
		t.Errorf("got %q and error %v, want the metric", text, err)
	}
	if n := listener.Len(); n > maxConnections {
		t.Errorf("%d connections are open, want at most %d", n, maxConnections)
	}
}

func TestHTTPS(t *testing.T) {
	asked := 0
	address, _ := served(t, Metrics{Gatherer: prometheus.NewRegistry(), Reviews: reviewer(&asked)})
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // as Prometheus for kubelets
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", "", http.StatusUnauthorized},
		{"/metrics", "prometheus", http.StatusOK},
		{"/healthz", "prometheus", http.StatusNotFound},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			request.Header.Set("Authorization", "Bearer "+tt.token)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tt.want {
			t.Errorf("%s with token %q: got status %d, want %d", tt.path, tt.token, response.StatusCode, tt.want)
		}
	}
}

// TestCertificateFiles: a certificate that is replaced is served from then on, and one that cannot be read does not take the one before away.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	m := Metrics{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	write := func(certPEM, keyPEM []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(m.CertFile, certPEM, 0o600), os.WriteFile(m.KeyFile, keyPEM, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var logged strings.Builder
	logger := funcr.New(func(_, line string) { logged.WriteString(line + "\n") }, funcr.Options{})
	if _, err := m.certificate(logger); err == nil {
		t.Error("there are no files, and no error")
	}
	var served func() *tls.Certificate
	for _, host := range []string{"first", "second"} {
		certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		write(certPEM, keyPEM)
		if served == nil {
			if served, err = m.certificate(logger); err != nil {
				t.Fatal(err)
			}
		}
		if err := served().Leaf.VerifyHostname(host); err != nil {
			t.Errorf("after the %s certificate was written: %v", host, err)
		}
	}
	write([]byte("not PEM"), nil)
	for range 3 {
		if err := served().Leaf.VerifyHostname("second"); err != nil {
			t.Errorf("after files that are no certificate: %v", err)
		}
	}
	if n := strings.Count(logged.String(), "Failed to read the certificate"); n != 1 {
		t.Errorf("the error is logged %d times, want once:\n%s", n, &logged)
	}
}

// TestServerLog: a port scanner writes no log, and what else a server reports is logged.
func TestServerLog(t *testing.T) {
	var logged []string
	logger := funcr.New(func(_, line string) { logged = append(logged, line) }, funcr.Options{})
	server := newServer(logger, http.NotFoundHandler())
	server.ErrorLog.Printf("http: TLS handshake error from 192.0.2.66:40000: EOF")
	server.ErrorLog.Printf("http: Accept error: too many open files; retrying in 5ms")
	if len(logged) != 1 || !strings.Contains(logged[0], "too many open files") {
		t.Errorf("logged %q, want the error of Accept alone", logged)
	}
}

// TestPortTaken: the speaker goes on, and its metrics stop waiting when it ends.
func TestPortTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	m := Metrics{Address: other.Addr().String(), Gatherer: prometheus.NewRegistry()}
	if err := m.serve(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got error %v, want one that says that the port is taken", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Run(ctx) // returns
}

func TestHealth(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "health.sock")
	for _, start := range []string{"first", "second"} {
		ctx, cancel := context.WithCancel(t.Context())
		// A process that was killed leaves its socket.
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
		ended := make(chan error, 1)
		go func() {
			ended <- Health(ctx, socket, map[string]func() error{
				"healthz": func() error { return nil },
				"readyz":  func() error { return errors.New("still looking for the other speakers") },
			})
		}()
		for AskHealth(ctx, socket, "healthz") != nil && len(ended) == 0 { // until it listens
			select {
			case <-t.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
		if err := AskHealth(ctx, socket, "readyz"); err == nil || err.Error() != "readyz: still looking for the other speakers" {
			t.Errorf("%s start: got error %v of readyz", start, err)
		}
		if err := AskHealth(ctx, socket, "nothing"); err == nil {
			t.Errorf("%s start: a check that does not exist succeeds", start)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s start: %v", start, err)
		}
	}
	if err := AskHealth(t.Context(), socket, "healthz"); err == nil {
		t.Error("nobody serves the socket, and healthz succeeds")
	}
}

// TestLocal: what is served on loopback is not for the pages that a browser on the node shows.
func TestLocal(t *testing.T) {
	handler := forLoopback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{
		"localhost:7576": http.StatusOK, "127.0.0.1:7576": http.StatusOK, "[::1]:7576": http.StatusOK, "localhost": http.StatusOK,
		"tandem.example.org:7576": http.StatusForbidden, "198.51.100.11:7576": http.StatusForbidden, "": http.StatusForbidden,
	} {
		request := httptest.NewRequest(http.MethodGet, "/bgp/sessions", nil)
		request.Host = host
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("A request for %q is answered by %d, want %d", host, answer.Code, want)
		}
	}
}
