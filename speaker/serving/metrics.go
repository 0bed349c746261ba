// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/connections"
)

const (
	// maxConnections is many times what two Prometheus servers and a person need.
	maxConnections = 64
	// requestTimeout bounds the reading and the writing of a request, idleTimeout the time between two of them.
	requestTimeout, idleTimeout = 10 * time.Second, 30 * time.Second
	maxRequests                 = 3
	// gatherPeriod is how old the metrics of an answer may be. Each gathering copies the states of all sessions and sockets.
	gatherPeriod = time.Second
	// listenRetry is how soon a port that another program has is tried again.
	listenRetry = 10 * time.Second
	// certificateAge is longer than any speaker runs.
	certificateAge = 10 * 365 * 24 * time.Hour
	// shutdownTimeout bounds the end of requests that are being answered.
	shutdownTimeout = time.Second
)

// Metrics serves metrics.
type Metrics struct {
	// Address is where to listen, such as ":7574".
	Address  string
	Gatherer prometheus.Gatherer
	// Reviews asks the API server who may read metrics. Without it, everybody may, over plain HTTP.
	Reviews kubernetes.Interface
	// CertFile and KeyFile have the certificate, and are read for each connection, so that they may be replaced. While they cannot be read, the
	// certificate that they had before stays. Without them, Run makes a certificate that nobody has signed.
	CertFile, KeyFile string
}

// Run serves until the context ends. While it cannot listen, it tries again.
func (m Metrics) Run(ctx context.Context) {
	retrying(ctx, "Failed to serve metrics, trying again every 10 s; announcements go on", m.Address, m.serve)
}

// retrying serves until the context ends, again after each failure, which it logs.
func retrying(ctx context.Context, failure, address string, serve func(context.Context) error) {
	logger := klog.FromContext(ctx)
	retry := time.NewTicker(listenRetry)
	defer retry.Stop()
	failed := ""
	for {
		err := serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if err.Error() != failed { // which is the same as long as another program has the port
			failed = err.Error()
			logger.Error(err, failure, "address", address)
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		}
	}
}

// serve listens, and serves until the context ends or the listener fails.
func (m Metrics) serve(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.Address)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Serving metrics", "address", listener.Addr(), "https", m.Reviews != nil)
	return m.serveOn(ctx, connections.Listener{Listener: listener, Set: &connections.Set{Limit: maxConnections}})
}

// serveOn serves on a listener, which it closes.
func (m Metrics) serveOn(ctx context.Context, listener net.Listener) error {
	server := newServer(klog.FromContext(ctx), m.handler())
	if m.Reviews != nil {
		certificate, err := m.certificate(klog.FromContext(ctx))
		if err != nil {
			return errors.Join(fmt.Errorf("certificate of the metrics port: %w", err), listener.Close())
		}
		server.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(), nil },
		}
	}
	return serve(ctx, server, listener)
}

func (m Metrics) handler() http.Handler {
	handler := promhttp.HandlerFor(&recent{next: m.Gatherer}, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxRequests, Timeout: requestTimeout / 2, ErrorHandling: promhttp.ContinueOnError,
	})
	if m.Reviews != nil {
		handler = newAccess(m.Reviews, handler)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", handler)
	return mux
}

// certificate returns a function that returns the certificate at the moment.
func (m Metrics) certificate(logger klog.Logger) (func() *tls.Certificate, error) {
	if m.CertFile != "" {
		return m.fromFiles(logger)
	}
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKeyWithOptions(cert.SelfSignedCertKeyOptions{Host: "tandem-speaker", MaxAge: certificateAge})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	return func() *tls.Certificate { return &pair }, err
}

// fromFiles returns a function that reads the certificate from its files. If it cannot, it returns the last one that it could read, and logs
// the error once.
func (m Metrics) fromFiles(logger klog.Logger) (func() *tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(m.CertFile, m.KeyFile)
	current, failed := &pair, ""
	var mu sync.Mutex // guards current and failed
	return func() *tls.Certificate {
		mu.Lock()
		defer mu.Unlock()
		switch read, err := tls.LoadX509KeyPair(m.CertFile, m.KeyFile); {
		case err == nil:
			current, failed = &read, ""
		case err.Error() != failed: // Otherwise each connection would log it.
			failed = err.Error()
			logger.Error(err, "Failed to read the certificate of the metrics port, keeping the one that it had before", "file", m.CertFile)
		}
		return current
	}, err
}

// newServer returns a server with limits. HTTP/2 is off, since one connection of it carries any number of requests.
func newServer(logger klog.Logger, handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: handler, Protocols: protocols,
		ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(serverLog{logger}, "", 0),
	}
}

// serverLog logs the errors of a server, such as that it cannot accept connections, without those of TLS handshakes: everybody who scans the
// port would write them.
type serverLog struct{ klog.Logger }

// Write implements io.Writer.
func (l serverLog) Write(line []byte) (int, error) {
	if !bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		l.Error(nil, "The HTTP server reports an error", "error", string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}

// serve serves on a listener, which it closes, until the context ends or the listener fails.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var stopped sync.WaitGroup
	stopped.Go(func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	var err error
	if server.TLSConfig != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	cancel()
	stopped.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// recent gathers at most once each gatherPeriod, and once at a time.
type recent struct {
	next prometheus.Gatherer

	// mu guards all following fields.
	mu       sync.Mutex
	at       time.Time
	families []*dto.MetricFamily
	err      error
}

// Gather implements prometheus.Gatherer.
func (r *recent) Gather() ([]*dto.MetricFamily, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) >= gatherPeriod {
		r.families, r.err = r.next.Gather()
		r.at = time.Now()
	}
	return r.families, r.err
}
