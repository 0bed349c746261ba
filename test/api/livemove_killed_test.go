// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/speaker/observation"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// everyCutEnv has TestLiveMove end a command after each of its writes. By default it takes some of them, which lie apart.
const everyCutEnv = "TANDEM_MOVEIN_CUTS"

// someCuts is how many it takes by default.
const someCuts = 4

// gate is a proxy before the API server, which counts the writes of one command and may cut its connection after one of them. The command needs no
// account of its own: what passes is done as the person who moves.
type gate struct {
	*httptest.Server
	// wrote has one element for each write that the API server has taken. The command gets no answer before the test has received it and closed it.
	wrote chan chan struct{}
	// lossy has the command get no answer to its writes, though it stays connected.
	lossy func(write int) bool
	// isCut is closed when nothing passes any more.
	isCut chan struct{}

	mu     sync.Mutex
	writes int // guarded by mu
	last   int // the write after which nothing passes, 0 for none
	lose   bool
}

// newGate returns a gate to the API server that a transport reaches. Last is the number of the last write that passes, 0 for all; with lose the command
// does not learn that this one has succeeded.
func newGate(t *testing.T, host string, transport http.RoundTripper, last int, lose bool) *gate {
	t.Helper()
	server, err := url.Parse(host)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{wrote: make(chan chan struct{}), isCut: make(chan struct{}), last: last, lose: lose, lossy: func(int) bool { return false }}
	proxy := &httputil.ReverseProxy{
		Transport:      transport,
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(server) },
		ModifyResponse: g.answered,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.over() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

// over reports whether nothing passes any more, and closes isCut: where the last answer was not lost, the command has read it, since it goes on.
func (g *gate) over() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last == 0 || g.writes < g.last {
		return false
	}
	g.cut()
	return true
}

// cut closes isCut. The caller holds mu.
func (g *gate) cut() {
	select {
	case <-g.isCut:
	default:
		close(g.isCut)
	}
}

var errLost = errors.New("the answer is lost")

// answered counts writes. Those that say every few seconds that a command still runs do not count, so that numbers are the same each time, and neither do
// questions for rights.
func (g *gate) answered(response *http.Response) error {
	method, path := response.Request.Method, response.Request.URL.Path
	renewal := method == http.MethodPut && strings.Contains(path, "/leases/")
	question := strings.HasSuffix(path, "/selfsubjectaccessreviews")
	if method == http.MethodGet || response.StatusCode >= http.StatusMultipleChoices || renewal || question {
		return nil
	}
	g.mu.Lock()
	g.writes++
	number := g.writes
	g.mu.Unlock()
	done := make(chan struct{})
	select {
	case g.wrote <- done:
		<-done
	case <-response.Request.Context().Done():
	}
	if number == g.last && g.lose {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.cut()
		return errLost
	}
	if g.lossy(number) {
		return errLost
	}
	return nil
}

// count returns how many writes the API server has taken.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes
}

// ended is how a command has ended.
type ended struct {
	output string
	code   int // -1 where it was killed
	writes int
}

// command runs `kubectl tandem move-in` through a gate, as on a machine that has never seen the cluster. It kills the process where the gate is cut. After each
// write the programs of both products do their part, then checks that each address is announced still, and calls during, which may be nil.
func (a *moveArena) command(t *testing.T, g *gate, during func(write int), args ...string) ended {
	t.Helper()
	home := t.TempDir()
	kubeconfig := filepath.Join(home, "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: g.URL}}, Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}}, CurrentContext: "c",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), builtPlugin(t), append([]string{"move-in"}, args...)...)
	cmd.Env = []string{"HOME=" + home, "KUBECONFIG=" + kubeconfig}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	isCut, writes := g.isCut, 0
	for {
		select {
		case done := <-g.wrote:
			writes++
			a.programsDo(t)
			if during != nil {
				during(writes)
			}
			close(done)
		case <-isCut:
			isCut = nil
			_ = cmd.Process.Kill() // It may have ended by itself.
		case err := <-exited:
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ok && exit.ExitCode() < 0 && isCut != nil {
				t.Fatalf("move-in %v: %v\n%s", args, err, output.String())
			}
			return ended{output.String(), cmd.ProcessState.ExitCode(), writes}
		}
	}
}

// programsDo plays the programs of both products after a write, and fails the test if the move has taken a Service's address away, or left one that nobody
// announces.
func (a *moveArena) programsDo(t *testing.T) {
	t.Helper()
	s := a.now(t)
	a.settle(t, s)
	for ref, o := range s.Objects {
		u := &unstructured.Unstructured{Object: o}
		if ref.Kind != "Service" || ref.Namespace != "shop" {
			continue
		}
		if got := addressesOf(o); !slices.Equal(got, a.addresses[ref.Name]) {
			t.Errorf("%s has %v, and had %v", ref, got, a.addresses[ref.Name])
		}
		if !announced(s.Objects, labels.Set(u.GetLabels())) {
			t.Errorf("nobody announces %s on layer 2", ref)
		}
	}
}

// addressesOf returns the addresses in the status of a Service.
func addressesOf(o map[string]any) (ips []string) {
	ingress, _, _ := unstructured.NestedSlice(o, "status", "loadBalancer", "ingress")
	for _, item := range ingress {
		ips = append(ips, item.(map[string]any)["ip"].(string))
	}
	return ips
}

// announced reports whether an L2Advertisement of one of the products selects a Service by its labels.
func announced(objects live.Objects, of labels.Set) bool {
	for ref, o := range objects {
		if ref.Kind != "L2Advertisement" {
			continue
		}
		selectors, _, _ := unstructured.NestedSlice(o, "spec", "serviceSelectors")
		if len(selectors) == 0 {
			return true
		}
		for _, item := range selectors {
			var selector metav1.LabelSelector
			if runtime.DefaultUnstructuredConverter.FromUnstructured(item.(map[string]any), &selector) != nil {
				continue
			}
			if s, err := metav1.LabelSelectorAsSelector(&selector); err == nil && s.Matches(of) {
				return true
			}
		}
	}
	return false
}

// speaks adds what the speaker of a node reports until the test ends: that it is alive for long, and its BGP sessions.
func (a *moveArena) speaks(t *testing.T, node string, sessions ...any) {
	t.Helper()
	lease := observation.Report("tandem-system", node, nil, nil, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	lease.SetGroupVersionKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	report, err := runtime.DefaultUnstructuredConverter.ToUnstructured(lease)
	if err != nil {
		t.Fatal(err)
	}
	leases := a.programs.Client.Resource(coordinationv1.SchemeGroupVersion.WithResource("leases")).Namespace("tandem-system")
	if _, err := leases.Create(t.Context(), &unstructured.Unstructured{Object: report}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"bgpSessions": sessions}}}
	o.SetGroupVersionKind(speakerv1alpha1.GroupVersion.WithKind("SpeakerStatus"))
	o.SetName(node)
	client := a.programs.Client.Resource(speakerv1alpha1.GroupVersion.WithResource("speakerstatuses"))
	made, err := client.Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Object["status"] = o.Object["status"]
	if _, err := client.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(leases.Delete(ctx, lease.Name, metav1.DeleteOptions{}), client.Delete(ctx, node, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
}

// restore makes the cluster what it was, whatever a move has made of it.
func (a *moveArena) restore(t *testing.T, before live.Objects) {
	t.Helper()
	_ = a.leases().Delete(t.Context(), live.ConfigMapName, metav1.DeleteOptions{})
	now := a.now(t)
	for ref := range now.Objects {
		if before[ref] == nil && ref.Kind != "CustomResourceDefinition" {
			if err := a.programs.Write(t.Context(), &live.Write{Verb: live.Delete, Ref: ref}); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		}
	}
	for ref, o := range before {
		if cmp.Equal(o, now.Objects[ref]) {
			continue
		}
		if now.Objects[ref] == nil {
			t.Fatalf("%s is gone", ref)
		}
		a.put(t, ref, o, (&unstructured.Unstructured{Object: now.Objects[ref]}).GetResourceVersion())
	}
}

// put writes an object over a version of it, with its status.
func (a *moveArena) put(t *testing.T, ref live.Ref, o map[string]any, version string) {
	t.Helper()
	i := slices.IndexFunc(live.Kinds, func(k live.Kind) bool { return k.Group == ref.Group && k.Kind == ref.Kind })
	if i < 0 {
		t.Fatalf("%s cannot be written back", ref)
	}
	client := a.programs.Client.Resource(live.Kinds[i].GroupVersionResource).Namespace(ref.Namespace)
	obj := (&unstructured.Unstructured{Object: o}).DeepCopy()
	obj.SetResourceVersion(version)
	after, err := client.Update(t.Context(), obj, metav1.UpdateOptions{})
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	if status, ok := o["status"]; ok && (ref.Group == "" || ref.Group == "apps") {
		after.Object["status"] = status
		if _, err := client.UpdateStatus(t.Context(), after, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
	}
}

func (a *moveArena) leases() leaseClient {
	return a.programs.Client.Resource(coordinationv1.SchemeGroupVersion.WithResource("leases")).Namespace("tandem-system")
}

// leaseClient is what the test does to the Lease of a move.
type leaseClient interface {
	Get(ctx context.Context, name string, options metav1.GetOptions, subresources ...string) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions, subresources ...string) error
}

// A cutCase is a command that is killed after one of its writes, and the command that is given then.
type cutCase struct {
	killed, then string
	// prepared is the command that has ended before.
	prepared string
	after    int
	// lost says that the command does not learn that its last write has succeeded.
	lost bool
}

func (c *cutCase) String() string {
	answer := "answered"
	if c.lost {
		answer = "lost"
	}
	return fmt.Sprintf("%s after %d %s then %s", c.killed, c.after, answer, c.then)
}

// arguments returns those of a command that works by itself.
func arguments(command string) []string {
	if command == "start" {
		return []string{"start", "--all", "--yes"}
	}
	return []string{command, "--yes"}
}

// testKilled ends commands after their writes, with and without the answer to the last one. The next command comes from another machine, finishes or undoes the
// move, and leaves what one leaves that nothing has disturbed.
func (a *moveArena) testKilled(t *testing.T, raw live.Objects, whole *undisturbed) {
	t.Logf("writes: %v", whole.writes)
	var cases []cutCase
	for _, kind := range []cutCase{
		{killed: "start", then: "start"},
		{killed: "start", then: "undo"},
		{prepared: "start", killed: "undo", then: "undo"},
		{prepared: "start", killed: "finish", then: "finish"},
	} {
		for n := range whole.writes[kind.killed] {
			for _, kind.lost = range []bool{false, true} {
				kind.after = n + 1
				cases = append(cases, kind)
			}
		}
	}
	step := 1
	if os.Getenv(everyCutEnv) != "all" {
		step = len(cases)/someCuts | 1 // odd, so that answers are lost and not lost in turn
	}
	for i := step / 2; i < len(cases); i += step {
		c := &cases[i]
		t.Run(c.String(), func(t *testing.T) {
			defer a.restore(t, raw)
			a.testCut(t, c, whole.leaves[c.then])
		})
	}
}

func (a *moveArena) testCut(t *testing.T, c *cutCase, want live.Objects) {
	if c.prepared != "" {
		if end := a.command(t, a.gate(t, 0, false), nil, arguments(c.prepared)...); end.code != 0 {
			t.Fatalf("%s exits with %d:\n%s", c.prepared, end.code, end.output)
		}
	}
	g := a.gate(t, c.after, c.lost)
	if end := a.command(t, g, nil, arguments(c.killed)...); g.count() != c.after {
		t.Fatalf("%s made %d writes, and was to make %d:\n%s", c.killed, g.count(), c.after, end.output)
	}
	if end := a.command(t, a.gate(t, 0, false), nil, append(arguments(c.then), "--take-over")...); end.code != 0 {
		t.Fatalf("%s exits with %d:\n%s", c.then, end.code, end.output)
	}
	if diff := cmp.Diff(want, a.objects(t)); diff != "" {
		t.Errorf("the cluster is (-undisturbed +after):\n%s", diff)
	}
	if lease, err := a.leases().Get(t.Context(), live.ConfigMapName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Lease is %v, %v", lease, err)
	}
}

// testLossy loses answers to writes of a command that stays connected, and closes all its connections, with its watches: it goes on by itself.
func (a *moveArena) testLossy(t *testing.T, raw live.Objects, whole *undisturbed) {
	defer a.restore(t, raw)
	commands, every := []string{"start"}, 5
	if os.Getenv(everyCutEnv) == "all" {
		commands, every = []string{"start", "undo", "start", "finish"}, 1
	}
	for _, command := range commands {
		g := a.gate(t, 0, false)
		g.lossy = func(write int) bool { return write%every == 0 }
		cut := func(write int) {
			if write%5 == 3 {
				go g.CloseClientConnections() // It waits until the answer is written.
			}
		}
		if end := a.command(t, g, cut, arguments(command)...); end.code != 0 {
			t.Fatalf("%s exits with %d:\n%s", command, end.code, end.output)
		}
		if diff := cmp.Diff(whole.leaves[command], a.objects(t)); diff != "" {
			t.Errorf("after %s the cluster is (-undisturbed +after):\n%s", command, diff)
		}
	}
}

// testTwoAtOnce gives a command while another one is at work: the second one says who that is, and writes nothing. Once one takes over, the first one writes
// nothing more.
func (a *moveArena) testTwoAtOnce(t *testing.T, raw live.Objects) {
	defer a.restore(t, raw)
	const pause = 6 // The first one waits here for the answer to a write.
	firstGate := a.gate(t, 0, false)
	first := a.command(t, firstGate, func(write int) {
		if write != pause {
			return
		}
		g := a.gate(t, 0, false)
		second := a.command(t, g, nil, arguments("start")...)
		for _, want := range []string{"kubectl tandem move-in start of ", "has been running since", "--take-over"} {
			if second.code != 1 || !strings.Contains(second.output, want) || g.count() > 0 {
				t.Errorf("the second command exits with %d after %d writes, want 1 and %q:\n%s", second.code, g.count(), want, second.output)
			}
		}
		if status := a.command(t, a.gate(t, 0, false), nil, "status"); !strings.Contains(status.output, "At work since") {
			t.Errorf("status says nothing of the first command:\n%s", status.output)
		}
		if third := a.command(t, a.gate(t, 0, false), nil, "start", "--yes", "--take-over"); third.code != 0 {
			t.Errorf("the command that takes over exits with %d:\n%s", third.code, third.output)
		}
	}, arguments("start")...)
	if first.code != 1 || firstGate.count() != pause || !strings.Contains(first.output, "has taken the move over") {
		t.Errorf("the first command exits with %d after %d writes, want 1 and %d:\n%s", first.code, firstGate.count(), pause, first.output)
	}
}

// gate returns a gate to the arena's API server.
func (a *moveArena) gate(t *testing.T, last int, lose bool) *gate {
	t.Helper()
	return newGate(t, a.host, a.transport, last, lose)
}
