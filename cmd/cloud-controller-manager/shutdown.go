// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/config"
	"k8s.io/klog/v2"
)

// workPeriod and releasePeriod bound how long a shutdown takes. Kubernetes allows 30 seconds.
const (
	workPeriod    = 5 * time.Second
	releasePeriod = 3 * time.Second
)

// gate is what every write to the API passes, those of the lease among them, until the program shuts down. (Events of the
// framework itself, such as that of a new leader, do not: its client is older, and they decide nothing.) The framework neither ends the controllers nor releases the lease,
// so that the next leader would have to wait until the lease expires: at each upgrade, no Service would get an address for 15 seconds. Here
// the writes end first, in whatever state; the next leader goes on from there, as after a crash. Then the lease is released.
type gate struct {
	lease string // how the path of its requests ends

	mu sync.Mutex
	// mu guards all following fields.
	shut    bool
	writing sync.WaitGroup
	held    time.Time // when the lease was last written by us
}

// wrap has the requests that are made with a configuration pass the gate. A configuration is wrapped before its clients are built.
func (g *gate) wrap(config *rest.Config) {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return gatedTransport{g, next}
	})
}

type gatedTransport struct {
	*gate
	next http.RoundTripper
}

var errShutDown = errors.New("the program shuts down")

// RoundTrip sends a request that only reads, or that comes before the shutdown.
func (t gatedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return t.next.RoundTrip(req)
	}
	t.mu.Lock()
	if t.shut {
		t.mu.Unlock()
		return nil, errShutDown
	}
	t.writing.Add(1)
	t.mu.Unlock()
	defer t.writing.Done()
	start := time.Now()
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusOK && req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, t.lease) {
		t.mu.Lock()
		t.held = start
		t.mu.Unlock()
	}
	return resp, err
}

// close lets no further write pass, and waits for those on their way. It reports whether they have ended.
func (g *gate) close(ctx context.Context) bool {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		g.writing.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// release gives the lease back, after the gate was closed. A lease that we have written within the time in which a leader must renew it is
// ours: nobody takes it from us before it expires.
func (g *gate) release(ctx context.Context, client kubernetes.Interface, election config.LeaderElectionConfiguration) error {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held.IsZero() || time.Since(held) > election.RenewDeadline.Duration {
		return nil
	}
	leases := client.CoordinationV1().Leases(election.ResourceNamespace)
	lease, err := leases.Get(ctx, election.ResourceName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the lease: %w", err)
	}
	// What a LeaderElector of client-go writes that releases its lease. The resource version keeps a lease that has changed since.
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = new(""), new(int32(1))
	lease.Spec.RenewTime = new(metav1.NowMicro())
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("releasing the lease: %w", err)
	}
	return nil
}

// shutDownOnSignal shuts the program down when it is told to end, whatever clients are built from the configuration from now on.
func shutDownOnSignal(shared *rest.Config, election config.LeaderElectionConfiguration) {
	g := &gate{lease: "/namespaces/" + election.ResourceNamespace + "/leases/" + election.ResourceName}
	ungated := rest.CopyConfig(shared)
	g.wrap(shared)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		klog.InfoS("Shutting down", "signal", <-signals)
		signal.Stop(signals) // The next one ends the program at once.
		if err := g.shutDown(ungated, election); err != nil {
			klog.ErrorS(err, "Failed to release the lease; the next leader waits until it expires")
		}
		klog.FlushAndExit(klog.ExitFlushTimeout, 0)
	}()
}

// shutDown ends the writes and releases the lease.
func (g *gate) shutDown(ungated *rest.Config, election config.LeaderElectionConfiguration) error {
	ctx, cancel := context.WithTimeout(context.Background(), workPeriod)
	defer cancel()
	if !g.close(ctx) {
		return fmt.Errorf("a request to the API has not ended in %s", workPeriod)
	}
	client, err := kubernetes.NewForConfig(ungated)
	if err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), releasePeriod)
	defer cancel()
	return g.release(ctx, client, election)
}
