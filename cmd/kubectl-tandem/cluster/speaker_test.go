// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
)

// forwarding is an API server that knows SPDY alone and forwards ports to itself: to port 7577 an HTTP server listens, and to no other one. Of two
// connections with the same id it knows the first, as a kubelet does.
func forwarding(w http.ResponseWriter, r *http.Request) {
	var ids sync.Map
	pair := make(chan struct{}) // A question about peer=pair is answered together with another.
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	failures := make(chan httpstream.Stream, 16)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		switch {
		case s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError:
			failures <- s
		case s.Headers().Get(corev1.PortHeader) != "7577":
			go func() {
				refused := <-failures
				fmt.Fprint(refused, "connection refused")
				_, _ = refused.Close(), s.Close()
			}()
		default:
			if _, known := ids.LoadOrStore(s.Headers().Get(corev1.PortForwardRequestIDHeader), true); known {
				return errors.New("there is a connection with this id")
			}
			go func() {
				request, err := http.ReadRequest(bufio.NewReader(s))
				if err != nil {
					return
				}
				answer := httptest.NewRecorder()
				switch request.URL.RequestURI() {
				case "/bgp/routes?peer=pair":
					select {
					case pair <- struct{}{}:
					case <-pair:
					}
					fmt.Fprint(answer, `[]`)
				case "/bgp/routes?peer=tor1":
					fmt.Fprintf(answer, `[{"prefix": "203.0.113.0/32", "host": %q}]`, request.Host)
				default:
					http.Error(answer, "no such peer", http.StatusNotFound)
				}
				_ = answer.Result().Write(s)
				_ = s.Close()
			}()
		}
		return nil
	})
	if connection != nil {
		<-connection.CloseChan()
	}
}

// speakerPod returns the Pod of a speaker on a node, with an argument.
func speakerPod(name, node, arg string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: name, Labels: map[string]string{
			"app.kubernetes.io/name": "tandem", "app.kubernetes.io/component": "speaker",
		}},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Args: []string{arg}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// behind returns a cluster with Pods, whose ports the API server at an address forwards.
func behind(url string, pods ...client.Object) *Cluster {
	return &Cluster{
		REST:      &rest.Config{Host: url},
		Clientset: kubernetes.NewForConfigOrDie(&rest.Config{Host: url}),
		Client:    fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(pods...).Build(),
	}
}

// TestSpeaker asks a speaker through an API server.
func TestSpeaker(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(forwarding))
	defer server.Close()
	c := behind(server.URL, speakerPod("a", "node1", looking+"127.0.0.1:7577"), speakerPod("b", "node2", "--metrics-bind-address=:7574"),
		speakerPod("c", "node3", looking))
	for _, tt := range []struct{ node, path, want, wantError string }{
		{node: "node1", path: "/bgp/routes?peer=tor1", want: "203.0.113.0/32 localhost"},
		{node: "node1", path: "/bgp/routes?peer=tor9", wantError: "the speaker of node1 on /bgp/routes?peer=tor9: no such peer"},
		{node: "node2", path: "/bfd", wantError: "connection refused"},
		{node: "node3", path: "/bfd", wantError: "the speaker of node3 cannot be asked: its pod has " + looking},
		{node: "node9", path: "/bfd", wantError: "no pod of a speaker runs on node node9 in namespace tandem-system"},
	} {
		t.Run(tt.node+tt.path, func(t *testing.T) {
			var routes []struct{ Prefix, Host string }
			s, err := c.Speaker(t.Context(), "tandem-system", tt.node)
			if err == nil {
				defer s.Close()
				err = s.Get(t.Context(), tt.path, &routes)
			}
			switch {
			case tt.wantError != "" && (err == nil || !strings.Contains(err.Error(), tt.wantError)):
				t.Errorf("the error is %v, want %q", err, tt.wantError)
			case tt.wantError == "" && (err != nil || len(routes) != 1 || routes[0].Prefix+" "+routes[0].Host != tt.want):
				t.Errorf("got %v, error %v, want %s", routes, err, tt.want)
			}
		})
	}
}

// TestSpeakerAtOnce asks a speaker two questions of which it answers none before it has heard the other.
func TestSpeakerAtOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(forwarding))
	defer server.Close()
	s, err := behind(server.URL, speakerPod("a", "node1", looking+"127.0.0.1:7577")).Speaker(t.Context(), "tandem-system", "node1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var both errgroup.Group
	for range 2 {
		both.Go(func() error { return s.Get(t.Context(), "/bgp/routes?peer=pair", &[]string{}) })
	}
	if err := both.Wait(); err != nil {
		t.Error(err)
	}
}

// TestSpeakerInterrupted: an API server that does not answer a port-forward is waited for until the user interrupts, and a connection that it opens
// after that is closed.
func TestSpeakerInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	returned, closed := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost { // by SPDY, after WebSocket was refused
			interrupt()
			<-returned
			defer close(closed)
		}
		forwarding(w, r) // It returns when the connection is closed.
	}))
	defer server.Close()
	_, err := behind(server.URL, speakerPod("a", "node1", "")).Speaker(ctx, "tandem-system", "node1")
	close(returned)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "right") {
		t.Errorf("the error is %v, want that of the context", err)
	}
	<-closed
}
