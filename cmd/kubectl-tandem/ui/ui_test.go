// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

var everywhere = []string{"node1", "node2", "node3"}

// stage is a cluster that a test changes, and the server of its page.
type stage struct {
	client.Client
	*Server
	err error // of reading
}

func newStage(t *testing.T, objects ...client.Object) *stage {
	s := &stage{Client: fixture.Client(append(fixture.LAN(), objects...)...)}
	read := func(context.Context) (*cluster.State, error) {
		if s.err != nil {
			return nil, s.err
		}
		state := fixture.Read(t, s.Client)
		state.Leader = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("leader"), LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: fixture.Now},
		}}
		return state, nil
	}
	s.Server = New(read, func(ctx context.Context, service types.NamespacedName) (any, error) {
		state, err := read(ctx)
		if err != nil {
			return nil, err
		}
		answer, ok := why.New(state).Service(ctx, service)
		if !ok {
			return nil, errors.New("there is no such Service")
		}
		return answer, nil
	})
	return s
}

// add creates the objects of a Service.
func (s *stage) add(t *testing.T, objects []client.Object) {
	t.Helper()
	for _, o := range objects {
		o.SetResourceVersion("")
		if err := s.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// move puts a node on record for default/web.
func (s *stage) move(t *testing.T, node string) {
	t.Helper()
	record := &v1alpha1.L2Announcement{}
	if err := s.Get(t.Context(), client.ObjectKey{Name: "default.web"}, record); err != nil {
		t.Fatal(err)
	}
	record.Status.Node = node
	if err := s.Client.Update(t.Context(), record); err != nil {
		t.Fatal(err)
	}
}

func (s *stage) happened() (texts []string) {
	for _, e := range s.view.Events {
		texts = append(texts, e.Text)
	}
	return texts
}

// What changes from one reading to the next is told, the newest first.
func TestEvents(t *testing.T) {
	s := newStage(t)
	status := &v1alpha1.SpeakerStatus{}
	if err := s.Get(t.Context(), client.ObjectKey{Name: "node2"}, status); err != nil {
		t.Fatal(err)
	}
	status.Status.Interfaces = append(status.Status.Interfaces, v1alpha1.InterfaceState{Name: "cni0", Usable: true, Addresses: []string{"10.244.2.1/24"}})
	if err := s.Client.Update(t.Context(), status); err != nil { // of its Pods, and no LAN
		t.Fatal(err)
	}
	s.Server.Update(t.Context())
	s.add(t, fixture.Service("web", "node1", everywhere, "198.51.100.200"))
	s.Server.Update(t.Context())
	s.move(t, "node2")
	s.Server.Update(t.Context())
	node := &corev1.Node{}
	if err := s.Get(t.Context(), client.ObjectKey{Name: "node3"}, node); err != nil {
		t.Fatal(err)
	}
	node.Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
	if err := s.Client.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	s.Server.Update(t.Context())
	want := []string{"node3 is drained or excluded", "default/web moved from node1 to node2", "default/web is new"}
	if diff := cmp.Diff(want, s.happened()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if i := slices.IndexFunc(s.view.Nodes, func(n Node) bool { return n.Name == "node2" }); !cmp.Equal(s.view.Nodes[i].Services, []string{"default/web"}) ||
		!cmp.Equal(s.view.Nodes[i].LANs, []string{"198.51.100.0/24", "2001:db8:51::/64"}) {
		t.Errorf("node2 is %+v", s.view.Nodes[i])
	}
}

// stream reads the events that a page is sent, by their names.
func stream(t *testing.T, url string) (next func() string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	buffer, all := make([]byte, 1<<20), ""
	return func() string {
		for {
			if event, rest, ok := strings.Cut(all, "\n\n"); ok {
				all = rest
				return event
			}
			n, err := response.Body.Read(buffer)
			if all += string(buffer[:n]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A page is told what there is, what changes, and while the cluster cannot be read. Where nothing changes it is told nothing.
func TestStream(t *testing.T) {
	s := newStage(t)
	s.Server.Update(t.Context())
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	defer server.CloseClientConnections()
	next := stream(t, server.URL+s.Path()+"events")
	for _, want := range []string{"event: history\n", "event: view\n"} {
		if event := next(); !strings.HasPrefix(event, want) {
			t.Fatalf("%q, want %q", event, want)
		}
	}
	s.Server.Update(t.Context()) // no change
	s.err = errors.New("no connection")
	s.Server.Update(t.Context())
	if event := next(); event != "event: failure\ndata: \"no connection\"" {
		t.Errorf("%q", event)
	}
	s.err = nil
	s.add(t, fixture.Service("web", "node1", everywhere, "198.51.100.200"))
	s.Server.Update(t.Context())
	if event := next(); !strings.HasPrefix(event, "event: view\n") || !strings.Contains(event, "default/web is new") {
		t.Errorf("%q", event)
	}
}

// The cluster is read while a page is open, and once a minute otherwise. What takes long to read is read less often.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var takes atomic.Int64 // how long the next reading takes
		var reads []string
		start := time.Now()
		s := New(func(context.Context) (*cluster.State, error) {
			reads = append(reads, time.Since(start).String())
			time.Sleep(time.Duration(takes.Load()))
			return nil, errors.New("no cluster")
		}, nil)
		ended := make(chan struct{}, 2)
		go func() { s.Run(ctx); ended <- struct{}{} }()
		at := func(moment time.Duration) { // waits until it is some time since the start
			time.Sleep(moment - time.Since(start))
			synctest.Wait()
		}
		page, closePage := context.WithCancel(ctx)
		at(90 * time.Second)
		go func() {
			request := httptest.NewRequestWithContext(page, http.MethodGet, "http://localhost"+s.Path()+"events", nil)
			s.Handler().ServeHTTP(httptest.NewRecorder(), request)
			ended <- struct{}{}
		}()
		at(93 * time.Second)
		takes.Store(int64(3 * time.Second))
		at(107 * time.Second)
		takes.Store(0)
		closePage()
		at(3 * time.Minute)
		cancel()
		<-ended
		<-ended
		want := []string{"0s", "1m0s", "1m30s", "1m32s", "1m34s", "1m46s", "2m46s"}
		if diff := cmp.Diff(want, reads); diff != "" {
			t.Errorf("the cluster is read at (-want +got):\n%s", diff)
		}
	})
}

// The page is served to who knows its path, and to names of loopback alone. It loads nothing from elsewhere, and nothing can be written.
func TestWhoIsServed(t *testing.T) {
	s := newStage(t, fixture.Service("web", "node1", everywhere, "198.51.100.200")...)
	for _, tt := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", "127.0.0.1:7000", s.Path(), 200},
		{"GET", "localhost:7000", s.Path() + "app.js", 200},
		{"GET", "[::1]:7000", s.Path() + "style.css", 200},
		{"GET", "localhost", s.Path() + "why?service=default/web", 200},
		{"GET", "localhost", s.Path() + "why?service=web", 400},
		{"GET", "localhost", s.Path() + "why?service=default/other", 404},
		{"GET", "attacker.example:7000", s.Path(), 421},
		{"GET", "localhost.attacker.example", s.Path(), 421},
		{"GET", "198.51.100.7:7000", s.Path(), 421},
		{"GET", "127.0.0.1:7000", "/", 404},
		{"GET", "127.0.0.1:7000", "/guess/events", 404},
		{"POST", "127.0.0.1:7000", s.Path(), 405},
		{"DELETE", "127.0.0.1:7000", s.Path() + "why?service=default/web", 405},
	} {
		request := httptest.NewRequestWithContext(t.Context(), tt.method, "http://"+tt.host+tt.path, nil)
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, request)
		if answer.Code != tt.want {
			t.Errorf("%s %s of %s: %d, want %d", tt.method, tt.path, tt.host, answer.Code, tt.want)
		}
		if got := answer.Header().Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'") {
			t.Errorf("%s: the policy is %q", tt.path, got)
		}
	}
	if other := New(nil, nil); other.Path() == s.Path() {
		t.Error("two servers have one path")
	}
}

// The use of pools is remembered for half an hour, a sample every five seconds.
func TestSamples(t *testing.T) {
	s := newStage(t)
	v := viewOf(fixture.Read(t, s.Client))
	for range 3 * mostSamples {
		v.Time = v.Time.Add(samplePeriod / 2)
		s.remember(v)
	}
	if n, span := len(s.samples), s.samples[len(s.samples)-1].Time.Sub(s.samples[0].Time); n != mostSamples || span != (mostSamples-1)*samplePeriod {
		t.Errorf("%d samples of %v", n, span)
	}
}
