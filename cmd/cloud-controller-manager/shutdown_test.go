// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/config"
)

// api answers requests; one that writes waits until it is let go.
type api struct {
	arrived chan string // paths of requests that write
	answer  chan struct{}
}

func (a api) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet {
		a.arrived <- req.URL.Path
		<-a.answer
	}
	return httptest.NewRecorder().Result(), nil
}

const leasePath = "/apis/coordination.k8s.io/v1/namespaces/tandem-system/leases/tandem"

func newGate(t *testing.T) (*gate, api, func(method, path string) error) {
	t.Helper()
	g, a := &gate{lease: "/namespaces/tandem-system/leases/tandem"}, api{make(chan string), make(chan struct{})}
	return g, a, func(method, path string) error {
		resp, err := gatedTransport{g, a}.RoundTrip(httptest.NewRequest(method, path, nil))
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
}

func TestShutDownEndsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a, send := newGate(t)
		sent := make(chan error, 1)
		go func() { sent <- send(http.MethodPatch, "/api/v1/namespaces/default/services/web/status") }()
		<-a.arrived
		closed := make(chan bool, 1)
		go func() { closed <- g.close(t.Context()) }()
		synctest.Wait()
		if err := send(http.MethodDelete, "/apis/networking.k8s.io/v1/ipaddresses/192.0.2.1"); !errors.Is(err, errShutDown) {
			t.Errorf("a write after the end: %v, want it refused", err)
		}
		if err := send(http.MethodGet, leasePath); err != nil {
			t.Errorf("to read the lease: %v", err)
		}
		select {
		case <-closed:
			t.Error("the gate closed with a write on its way")
		default:
		}
		a.answer <- struct{}{}
		if err := <-sent; err != nil || !<-closed {
			t.Errorf("the write on its way: %v, want it done and the gate closed", err)
		}
	})
}

func TestLeaseIsReleased(t *testing.T) {
	election := config.LeaderElectionConfiguration{
		ResourceNamespace: "tandem-system", ResourceName: "tandem", RenewDeadline: metav1.Duration{Duration: 10 * time.Second},
	}
	for name, test := range map[string]struct {
		writes []string // paths
		later  time.Duration
		want   string
	}{
		"ours":                         {writes: []string{leasePath}, later: 9 * time.Second},
		"ours once, and not renewed":   {writes: []string{leasePath}, later: 11 * time.Second, want: "holder"},
		"another's":                    {want: "holder"},
		"another's, beside our writes": {writes: []string{"/apis/coordination.k8s.io/v1/namespaces/default/leases/tandem"}, want: "holder"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(&coordinationv1.Lease{
					ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "tandem"},
					Spec:       coordinationv1.LeaseSpec{HolderIdentity: new("holder"), LeaseDurationSeconds: new(int32(15))},
				})
				g, a, send := newGate(t)
				for _, path := range test.writes {
					go func() { <-a.arrived; a.answer <- struct{}{} }()
					if err := send(http.MethodPut, path); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(test.later)
				if !g.close(t.Context()) {
					t.Fatal("the gate does not close")
				}
				if err := g.release(t.Context(), client, election); err != nil {
					t.Fatal(err)
				}
				lease, err := client.CoordinationV1().Leases("tandem-system").Get(t.Context(), "tandem", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got := *lease.Spec.HolderIdentity; got != test.want {
					t.Errorf("the holder is %q, want %q", got, test.want)
				}
			})
		})
	}
}
