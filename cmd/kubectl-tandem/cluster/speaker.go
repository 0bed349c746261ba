// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// looking is the flag of a speaker with the address of its looking glass, and lookingPort the port where it is not set.
	looking     = "--looking-glass-bind-address="
	lookingPort = "7576"
	// speakerTimeout is how long the API server may take to forward a port, and a speaker for an answer.
	speakerTimeout = 10 * time.Second
	// mostOfAnswer is how many bytes of an answer are read: the routes of 10,000 Services are two million.
	mostOfAnswer = 64 << 20
	// atOnce is how many questions a speaker is asked at a time. It answers eight, and other people may have some.
	atOnce = 4
)

// A RefusedError is a speaker's answer that it does not do what it was asked for.
type RefusedError struct {
	Status int    // as HTTP has them
	Why    string // what the speaker has said
}

// Error returns what the speaker has said.
func (e *RefusedError) Error() string { return e.Why }

// IsBusy reports whether a speaker has refused a question because it has had too many: it will answer later.
func IsBusy(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && refused.Status == http.StatusTooManyRequests
}

// Speaker asks the speaker of a node what it does at the moment. A speaker answers on loopback of its node alone, and is reached through the API server as
// by `kubectl port-forward`: it takes the right to list pods and to create pods/portforward in the namespace of Tandem.
type Speaker struct {
	node   string
	client *http.Client
	stop   func() error
}

// Speaker returns the Speaker of a node. The caller closes it. It gives up when ctx ends, and after 10 s in any case.
func (c *Cluster) Speaker(ctx context.Context, system, node string) (*Speaker, error) {
	var pods corev1.PodList
	labels := client.MatchingLabels{"app.kubernetes.io/name": "tandem", "app.kubernetes.io/component": "speaker"}
	if err := c.Client.List(ctx, &pods, client.InNamespace(system), labels); err != nil {
		return nil, fmt.Errorf("looking for the speaker of %s: %w", node, err)
	}
	i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName == node && p.Status.Phase == corev1.PodRunning })
	if i < 0 {
		return nil, fmt.Errorf("no pod of a speaker runs on node %s in namespace %s", node, system)
	}
	port, err := portOf(&pods.Items[i])
	if err != nil {
		return nil, err
	}
	forward := c.Clientset.CoreV1().RESTClient().Post().Resource("pods").Namespace(system).Name(pods.Items[i].Name).SubResource("portforward").URL()
	connection, err := c.dial(ctx, forward)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("forwarding to pod %s/%s: no answer: %w", system, pods.Items[i].Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("forwarding to pod %s/%s: %w; it takes the right to create pods/portforward", system, pods.Items[i].Name, err)
	}
	s := &Speaker{node: node, stop: connection.Close}
	var opened atomic.Int64
	s.client = &http.Client{Timeout: speakerTimeout, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return openStream(connection, port, strconv.FormatInt(opened.Add(1), 10))
		},
		MaxConnsPerHost: atOnce, MaxIdleConnsPerHost: atOnce,
	}}
	return s, nil
}

// Close ends the connection.
func (s *Speaker) Close() error {
	s.client.CloseIdleConnections()
	return s.stop()
}

// Get asks for a path, as "/bgp/routes?peer=tor1", and decodes the answer, which is JSON. The error is a RefusedError where the speaker has answered otherwise.
func (s *Speaker) Get(ctx context.Context, path string, into any) error {
	return s.ask(ctx, http.MethodGet, path, into)
}

// Post has the speaker find something out, as "/probe/lan?…", and decodes its answer as Get does.
func (s *Speaker) Post(ctx context.Context, path string, into any) error {
	return s.ask(ctx, http.MethodPost, path, into)
}

func (s *Speaker) ask(ctx context.Context, method, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("asking the speaker of %s: %w", s.node, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, mostOfAnswer))
	if err == nil && response.StatusCode != http.StatusOK {
		err = &RefusedError{response.StatusCode, string(bytes.TrimSpace(text))}
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("the speaker of %s on %s: %w", s.node, path, err)
	}
	return nil
}

// portOf returns the port of the looking glass of a speaker.
func portOf(pod *corev1.Pod) (string, error) {
	for _, container := range pod.Spec.Containers {
		for _, arg := range container.Args {
			if address, ok := strings.CutPrefix(arg, looking); ok {
				_, port, err := net.SplitHostPort(address)
				if err != nil {
					return "", fmt.Errorf("the speaker of %s cannot be asked: its pod has %s", pod.Spec.NodeName, arg)
				}
				return port, nil
			}
		}
	}
	return lookingPort, nil
}

// dial opens a connection that forwards ports, by WebSocket, or by SPDY where an API server or a proxy before it does not know that. The dialers of
// client-go take no context, and wait without end for a kubelet that does not answer. So dial leaves a dialer alone when ctx ends or after
// speakerTimeout, and the connection that may come of it later is closed.
func (c *Cluster) dial(ctx context.Context, forward *url.URL) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.REST)
	if err != nil {
		return nil, err
	}
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(forward, c.REST)
	if err != nil {
		return nil, err
	}
	overSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, forward)
	dialer := portforward.NewFallbackDialerForStreaming(overWebSocket, overSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	ctx, cancel := context.WithTimeout(ctx, speakerTimeout)
	defer cancel()
	type outcome struct {
		connection httpstream.Connection
		err        error
	}
	dialed := make(chan outcome) // It has no buffer, so that either this function has a connection or the goroutine closes it.
	go func() {
		connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		select {
		case dialed <- outcome{connection, err}:
		case <-ctx.Done():
			if err == nil {
				_ = connection.Close()
			}
		}
	}()
	select {
	case o := <-dialed:
		return o.connection, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// openStream returns one TCP connection to a port of the pod, as a net.Conn. The kubelet says by a stream of its own why it cannot connect, and tells by
// the id which two streams belong together: connections at the same time have different ones.
func openStream(connection httpstream.Connection, port, id string) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, port)
	headers.Set(corev1.PortForwardRequestIDHeader, id)
	failures, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = failures.Close() // Nothing is written on it.
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	return &stream{Stream: data, failures: failures, of: connection}, nil
}

// stream is a net.Conn without addresses and deadlines, which [http.Client] does without: it closes a connection that is to end.
type stream struct {
	httpstream.Stream
	failures httpstream.Stream
	of       httpstream.Connection
	answered bool // something was read
}

// Read implements [net.Conn]. Where the stream ends before anything was read, the error is what the kubelet says.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if s.answered = s.answered || n > 0; !s.answered && errors.Is(err, io.EOF) {
		if text, _ := io.ReadAll(io.LimitReader(s.failures, 4096)); len(text) > 0 {
			err = errors.New(string(bytes.TrimSpace(text)))
		}
	}
	return n, err
}

// Close implements [net.Conn].
func (s *stream) Close() error {
	s.of.RemoveStreams(s.Stream, s.failures)
	return errors.Join(s.Reset(), s.failures.Reset())
}

// address is that of a port that is forwarded.
type address struct{}

func (address) Network() string { return "portforward" }
func (address) String() string  { return "portforward" }

func (*stream) LocalAddr() net.Addr              { return address{} }
func (*stream) RemoteAddr() net.Addr             { return address{} }
func (*stream) SetDeadline(time.Time) error      { return nil }
func (*stream) SetReadDeadline(time.Time) error  { return nil }
func (*stream) SetWriteDeadline(time.Time) error { return nil }
