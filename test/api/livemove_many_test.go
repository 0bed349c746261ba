// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/apply"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/reachability"
)

// manyServicesEnv is how many Services testMany moves, in place of fewServices.
const (
	manyServicesEnv = "TANDEM_MOVEIN_SERVICES"
	fewServices     = 8
)

// testMany moves many dual-stack Services from MetalLB, undoes it, and prints what that costs. The controllers of both products are played as controllers are
// written: they watch, and write what has to be written.
func (a *moveArena) testMany(t *testing.T) {
	defer a.clear(t)
	n := fewServices
	if text := os.Getenv(manyServicesEnv); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", manyServicesEnv, err)
		}
	}
	a.addMany(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	played := a.play(ctx, t)
	defer played.Wait()
	defer cancel()
	start := func(s *live.Snapshot) (live.Action, error) { return live.Start(s, live.Goal{All: true}, false) }
	for _, command := range []struct {
		name string
		next func(*live.Snapshot) (live.Action, error)
	}{{"start", start}, {"undo", live.Undo}, {"start again", start}, {"finish", live.Finish}} {
		spent := &spending{parts: map[string]time.Duration{}, times: map[string]int{}}
		api := a.measured(t, spent)
		begin := time.Now()
		if err := api.Run(t.Context(), command.next); err != nil {
			t.Fatalf("%s: %v", command.name, err)
		}
		t.Logf("%s of %d Services: %s", command.name, n, spent.String(time.Since(begin)))
		a.checkMany(t, command.name)
		if command.name == "start" {
			a.checkReading(t)
		}
	}
}

// checkReading checks that of a few Services the same is said, whether they are read alone or with all others.
func (a *moveArena) checkReading(t *testing.T) {
	t.Helper()
	c, err := cluster.Connect(configured{config: a.person}, "tandem-system")
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range fewServices {
		name := types.NamespacedName{Namespace: "shop", Name: fmt.Sprintf("s%d", i)}
		few, err := c.ReadServices(t.Context(), []types.NamespacedName{name})
		if err != nil {
			t.Fatal(err)
		}
		want := all.Diagnoser.Service(name, false)
		if diff := cmp.Diff(want, few.Diagnoser.Service(name, false), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || len(want) != 2 {
			t.Errorf("of %s is said (-all +alone):\n%s", name, diff)
		}
	}
}

// checkMany checks what a command has to leave: all Services with the label, or none.
func (a *moveArena) checkMany(t *testing.T, command string) {
	t.Helper()
	want := ""
	if strings.HasPrefix(command, "start") {
		want = "moved"
	}
	for ref, o := range a.now(t).Objects {
		if got := (&unstructured.Unstructured{Object: o}).GetLabels()[ipamv1alpha1.LabelMoveIn]; ref.Kind == "Service" && ref.Namespace == "shop" && got != want {
			t.Errorf("after %s %s has the label %q, want %q", command, ref, got, want)
		}
	}
}

// addMany adds a MetalLB of layer 2 with so many Services.
func (a *moveArena) addMany(t *testing.T, n int) {
	t.Helper()
	a.add(t, strings.NewReplacer("192.0.2.0/28", "10.64.0.0/16", "2001:db8::/124", "2001:db8::/64").Replace(manyServe))
	for _, node := range []string{"node1", "node2", "node3"} {
		a.speaks(t, node)
	}
	slices := a.programs.Client.Resource(discoveryv1.SchemeGroupVersion.WithResource("endpointslices")).Namespace("shop")
	for i := range n {
		a.add(t, manyServiceOf(i))
		if _, err := slices.Create(t.Context(), decode(t, fmt.Appendf(nil, manySlice, i))[0], metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// manyServe is that on three Nodes, and manyService one of its Services, with the EndpointSlice manySlice.
const manyServe = metalLBRuns + `apiVersion: v1
kind: Node
metadata: {name: node2}
---
apiVersion: v1
kind: Node
metadata: {name: node3}
`

const manyService = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: s%[1]d, annotations: {metallb.io/ip-allocated-from-pool: lan}}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: %[2]s}, {ip: "%[3]s"}]}}
---
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {namespace: metallb-system, name: l2-%[1]d}
status: {node: node1, serviceNamespace: shop, serviceName: s%[1]d}
`

// manyServiceOf returns the Service with a number from 0, with an address of each family.
func manyServiceOf(i int) string {
	return fmt.Sprintf(manyService, i, netip.AddrFrom4([4]byte{10, 64, byte((i + 1) >> 8), byte(i + 1)}), fmt.Sprintf("2001:db8::%x", i+1))
}

const manySlice = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: s%[1]d-a, labels: {kubernetes.io/service-name: s%[1]d}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.0.1], nodeName: node1, conditions: {ready: true}}]
`

// spending is what a command spends its time with, and how much it reads.
type spending struct {
	mu       sync.Mutex // guards parts and times
	parts    map[string]time.Duration
	times    map[string]int
	bytes    atomic.Int64
	requests atomic.Int64
}

func (s *spending) add(part string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[part] += d
	s.times[part]++
}

// String returns the figures of a command that has taken so long.
func (s *spending) String(total time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f s", total.Seconds())
	var parts []string
	for part := range s.parts {
		parts = append(parts, part)
	}
	slices.Sort(parts)
	for _, part := range parts {
		fmt.Fprintf(&b, ", %s %.1f s (%d times)", part, s.parts[part].Seconds(), s.times[part])
	}
	fmt.Fprintf(&b, "; %d requests, %.1f MB read", s.requests.Load(), float64(s.bytes.Load())/1e6)
	return b.String()
}

// counting counts requests, and the bytes of their answers.
type counting struct {
	next  http.RoundTripper
	spent *spending
}

// RoundTrip implements [http.RoundTripper].
func (c counting) RoundTrip(request *http.Request) (*http.Response, error) {
	c.spent.requests.Add(1)
	response, err := c.next.RoundTrip(request)
	if err == nil {
		response.Body = countedBody{response.Body, c.spent}
	}
	return response, err
}

type countedBody struct {
	io.ReadCloser
	spent *spending
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.spent.bytes.Add(int64(n))
	return n, err
}

// answering is a Prober whose holder answers at once on the LAN.
type answering struct{ why.Prober }

// LAN implements [why.Prober].
func (answering) LAN(_ context.Context, _, holder, _ string, _ netip.Addr, _ uint16, _ bool) (reachability.Asked, error) {
	return reachability.Asked{Stations: []reachability.Station{{MAC: "02:00:00:00:00:01", Node: holder}}}, nil
}

// configured has the configuration of a client.
type configured struct {
	genericclioptions.RESTClientGetter
	config *rest.Config
}

// ToRESTConfig implements [genericclioptions.RESTClientGetter].
func (c configured) ToRESTConfig() (*rest.Config, error) { return c.config, nil }

// measured returns an API as the plugin has it, for the person who moves, but that what speakers say of the LAN is made up.
func (a *moveArena) measured(t *testing.T, spent *spending) *apply.API {
	t.Helper()
	config := rest.CopyConfig(a.person)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, spent} })
	c, err := cluster.Connect(configured{config: config}, "tandem-system")
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(c.REST)
	if err != nil {
		t.Fatal(err)
	}
	prober := &apply.Prober{Cluster: c, Speakers: answering{}, Doubt: func(what string) { t.Error(what) }}
	return &apply.API{
		Client: client, System: "tandem-system", Timeout: time.Minute, Told: func(string) {}, Spent: spent.add, Probe: prober.Probe,
		Lock: &apply.Lock{Leases: c.Clientset.CoordinationV1().Leases("tandem-system"), Identity: apply.Identity("start"), Now: c.Now},
	}
}

// players are the programs of both products, played by informers of their own.
type players struct {
	a       *moveArena
	t       *testing.T
	factory dynamicinformer.DynamicSharedInformerFactory
	wake    chan struct{}
}

// play plays the programs until the context ends: Deployments become ready, Tandem's controller manager claims addresses, and its speakers go on record.
func (a *moveArena) play(ctx context.Context, t *testing.T) *sync.WaitGroup {
	t.Helper()
	p := &players{a: a, t: t, factory: dynamicinformer.NewDynamicSharedInformerFactory(a.programs.Client, 0), wake: make(chan struct{}, 1)}
	touched := func(any) {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	for _, resource := range playedResources {
		if _, err := p.factory.ForResource(resource).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: touched, UpdateFunc: func(_, o any) { touched(o) }, DeleteFunc: touched,
		}); err != nil {
			t.Fatal(err)
		}
	}
	p.factory.Start(ctx.Done())
	p.factory.WaitForCacheSync(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.wake:
				p.step(ctx)
			}
		}
	})
	return &running
}

var (
	deployments     = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	services        = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	announcements   = ipamv1alpha1.GroupVersion.WithResource("l2announcements")
	addressPools    = ipamv1alpha1.GroupVersion.WithResource("addresspools")
	playedResources = []schema.GroupVersionResource{deployments, services, announcements, addressPools}
)

func (p *players) list(resource schema.GroupVersionResource) (list []*unstructured.Unstructured) {
	for _, o := range p.factory.ForResource(resource).Informer().GetStore().List() {
		list = append(list, o.(*unstructured.Unstructured))
	}
	return list
}

// step does what the programs have to do now. What it has done already, and its informers have not seen, it does again: that changes nothing.
func (p *players) step(ctx context.Context) {
	ours := false
	for _, d := range p.list(deployments) {
		n, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas")
		ours = ours || d.GetName() == "tandem-cloud-controller-manager" && n > 0
		if ready, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas"); ready != n {
			p.write(ctx, &live.Write{Verb: live.Patch, Ref: live.RefOf(d.Object), Subresource: "status", Body: map[string]any{
				"status": map[string]any{"replicas": n, "readyReplicas": n},
			}})
		}
	}
	for _, o := range p.list(announcements) {
		if target, _, _ := unstructured.NestedString(o.Object, "spec", "target"); target != "" {
			p.write(ctx, &live.Write{Verb: live.Patch, Ref: live.RefOf(o.Object), Body: map[string]any{
				"spec": map[string]any{"target": nil}, "status": map[string]any{"node": target},
			}})
		}
	}
	if !ours || len(p.list(addressPools)) == 0 {
		return
	}
	for _, svc := range p.list(services) {
		if svc.GetNamespace() == "shop" && len(svc.GetFinalizers()) == 0 {
			p.adopt(ctx, svc)
		}
	}
}

// adopt is Tandem's controller manager.
func (p *players) adopt(ctx context.Context, svc *unstructured.Unstructured) {
	ref := live.RefOf(svc.Object)
	for _, ip := range addressesOf(svc.Object) {
		claim := decode(p.t, fmt.Appendf(nil, `
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: %q, labels: {ipaddress.kubernetes.io/managed-by: tandem-lb.io, %s: lan}}
spec: {parentRef: {resource: services, namespace: %s, name: %s}}`, ip, ipamv1alpha1.LabelAddressPool, ref.Namespace, ref.Name))[0]
		p.write(ctx, &live.Write{Verb: live.Create, Ref: live.RefOf(claim.Object), Body: claim.Object})
	}
	p.write(ctx, &live.Write{Verb: live.Patch, Ref: ref, Subresource: "status", Body: map[string]any{"status": map[string]any{"conditions": []any{map[string]any{
		"type": ipamv1alpha1.ServiceConditionAllocated, "status": "True", "reason": "Allocated", "message": "", "lastTransitionTime": "2026-01-02T15:04:05Z",
	}}}}})
	p.write(ctx, &live.Write{Verb: live.Patch, Ref: ref, Body: map[string]any{"metadata": map[string]any{
		"finalizers": []any{ipamv1alpha1.Finalizer}, "annotations": map[string]any{ipamv1alpha1.AnnotationFinalizer: "true"},
	}}})
}

// write makes one write. One that is refused is no fault: the informers may be behind.
func (p *players) write(ctx context.Context, w *live.Write) { _ = p.a.programs.Write(ctx, w) }
