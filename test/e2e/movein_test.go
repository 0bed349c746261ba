// SPDX-License-Identifier: Apache-2.0

//go:build e2e && movein

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
	"github.com/tandem-lb/tandem/test/products"
)

// product is a load balancer that Services move from.
type product struct {
	// title is its name, as MetalLB, and namespace has its workloads.
	title, namespace string
	// install has it run on a cluster.
	install func(*testing.T, *cluster.Cluster)
	// configuration has it give the addresses of the LAN, and announce them on layer 2.
	configuration string
	// restored are what an undo has to restore of its own objects.
	restored []restored
	// mark begins the annotations by which it says who announces a Service, "" if it has none. It writes them itself, whenever another node announces.
	mark string
	// elects says that it elects the node of an address by itself, so that an address may have another one after a step, where open connections break.
	elects bool
	// uninstall are the arguments of kubectl that remove it.
	uninstall []string
}

// restored is a field of all objects of a kind in a product's namespace.
type restored struct {
	schema.GroupVersionKind
	path []string
}

// deployments and daemonSets are what an undo restores of any product's workloads.
var (
	deployments = restored{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, []string{"spec", "replicas"}}
	daemonSets  = restored{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}, []string{"spec", "template", "spec"}}
)

// specOf is the spec of objects of a kind.
func specOf(group, version, kind string) restored {
	return restored{schema.GroupVersionKind{Group: group, Version: version, Kind: kind}, []string{"spec"}}
}

// metalLB is MetalLB as its own manifest installs it.
var metalLB = product{
	title: "MetalLB", namespace: "metallb-system", install: installMetalLB,
	configuration: `
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [198.51.100.200-198.51.100.249, "2001:db8:51::1000-2001:db8:51::1031"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: lan, namespace: metallb-system}
spec: {ipAddressPools: [lan]}
`,
	restored: []restored{
		deployments, daemonSets, specOf("metallb.io", "v1beta1", "IPAddressPool"), specOf("metallb.io", "v1beta1", "L2Advertisement"),
		specOf("metallb.io", "v1beta1", "BGPAdvertisement"), specOf("metallb.io", "v1beta2", "BGPPeer"),
	},
	uninstall: []string{"delete", "namespace", "metallb-system", "--timeout=60s"},
}

// moveBed is a cluster in which a product serves Services, and that users of Tandem move from there.
type moveBed struct {
	*stage
	from product
	// before has the addresses that the product gave, by the Service.
	before map[string][]string
}

// moveServices is how many Services move: 50, or as many as TANDEM_MOVEIN_SERVICES says.
func moveServices(t *testing.T) int {
	t.Helper()
	text := cmp.Or(os.Getenv("TANDEM_MOVEIN_SERVICES"), "50")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 50 {
		t.Fatalf("TANDEM_MOVEIN_SERVICES is %q, and has to be a number up to 50", text)
	}
	return n
}

// newMoveBed brings up a cluster with a product, and dual-stack Services that it serves on layer 2.
func newMoveBed(t *testing.T, from product) *moveBed {
	t.Helper()
	c := emptyCluster(t, lab.Config{Name: labName() + "-movein"})
	from.install(t, c)
	b := &moveBed{stage: newStage(t, c), from: from, before: map[string][]string{}}
	b.web(t, b.Nodes()...)
	b.until(t, time.Minute, "the API server to take the configuration of "+b.from.title, func(ctx context.Context) (bool, string) {
		err := b.Apply(ctx, b.from.configuration)
		return err == nil, fmt.Sprint(err)
	})
	for i := range moveServices(t) {
		b.add(t, b.service(fmt.Sprintf("web-%02d", i), v4, v6))
	}
	for i := range moveServices(t) {
		name := fmt.Sprintf("web-%02d", i)
		b.before[name] = b.addresses(t, name, 2)
	}
	b.answer(t)
	return b
}

// answer waits until each address has answered the client five times in a row.
func (b *moveBed) answer(t *testing.T) {
	t.Helper()
	b.until(t, 3*time.Minute, "answers of all addresses", func(ctx context.Context) (bool, string) {
		for range 5 {
			for _, ip := range b.ips() {
				if _, err := b.Get(ctx, lab.Client, cluster.URL(ip, "/hostname")); err != nil {
					return false, err.Error()
				}
			}
		}
		return true, ""
	})
}

// loadMetalLB loads images of MetalLB's programs, which are built from the module proxy.
func loadMetalLB(t *testing.T, c *cluster.Cluster) *products.MetalLB {
	t.Helper()
	programs := []string{"controller", "speaker"}
	built, err := products.BuildMetalLB(t.Context(), t.Output(), programs...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, program := range programs {
		image, err := built.Image(dir, program)
		if err == nil {
			err = c.LoadImages(t.Context(), image)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return built
}

// installMetalLB installs MetalLB by its own manifest.
func installMetalLB(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	source, err := loadMetalLB(t, c).Source(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t.Context(), "apply", "-f", filepath.Join(source, "config", "manifests", "metallb-native.yaml")).CombinedOutput(); err != nil {
		t.Fatalf("installing MetalLB: %v\n%s", err, out)
	}
	rolledOut(t, c, "metallb-system", "deployment/controller", "daemonset/speaker")
}

// rolledOut waits until workloads run as they are written.
func rolledOut(t *testing.T, c *cluster.Cluster, namespace string, workloads ...string) {
	t.Helper()
	for _, workload := range workloads {
		if out, err := c.Kubectl(t.Context(), "rollout", "status", "-n", namespace, workload, "--timeout=120s").CombinedOutput(); err != nil {
			t.Fatalf("waiting for %s: %v\n%s", workload, err, out)
		}
	}
}

// ips returns the addresses that the product gave.
func (b *moveBed) ips() (all []string) {
	for _, name := range slices.Sorted(maps.Keys(b.before)) {
		all = append(all, b.before[name]...)
	}
	return all
}

// unchanged fails the test if a Service has other addresses than the product gave it.
func (b *moveBed) unchanged(t *testing.T) {
	t.Helper()
	after := map[string][]string{}
	for _, svc := range b.services(t.Context(), t) {
		after[svc.Name] = cluster.IPs(&svc)
	}
	if diff := gocmp.Diff(b.before, after); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

const (
	// moveInterval is the time between two requests for one Service, in each family, and turnInterval that between two for all Services in turn.
	moveInterval, turnInterval = 10 * time.Millisecond, 40 * time.Millisecond
	// movePatience is for how long a client waits for an answer. The first packet of a connection that is lost is sent again after a second.
	movePatience = 3 * time.Second
)

// watched has clients ask while something is done, notes what they saw, and fails the test for an address that is another, and for a request without an
// answer, unless it was under way and the product elects nodes.
func (b *moveBed) watched(t *testing.T, what string, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var probing sync.WaitGroup
	single, turn := [2][]cluster.Answer{}, [2][]cluster.Answer{}
	for family := range 2 {
		var urls []string
		for _, name := range slices.Sorted(maps.Keys(b.before)) {
			urls = append(urls, cluster.URL(inFamily(b.before[name], family), "/hostname"))
		}
		probing.Go(func() { single[family] = b.Probe(ctx, lab.Client, urls[0], moveInterval, movePatience) })
		probing.Go(func() { turn[family] = b.ProbeEach(ctx, lab.Client, urls, turnInterval, movePatience) })
	}
	stop := b.where(t, b.ips())
	b.answer(t)
	start := time.Now()
	do()
	took := time.Since(start)
	b.answer(t)
	cancel()
	probing.Wait()
	said := stop()
	soaked.note(t, what, "%d Services in %v", len(b.before), took.Round(10*time.Millisecond))
	for family, name := range []string{"IPv4", "IPv6"} {
		var requests tally
		requests.add(single[family])
		requests.add(turn[family])
		of := slices.DeleteFunc(slices.Clone(said), func(s saying) bool { return s.IP.Is4() != (family == 0) })
		soaked.note(t, what+", "+name, "both MACs answered for %v, nobody on the LAN for %v", bothAnswer(of).Round(time.Millisecond),
			nobodyAnswers(of).Round(time.Millisecond))
		soaked.note(t, what+", "+name, "longest time without an answer of one Service %v, %v; %d of them on an open connection; %d of all %d waited more than 0.9 s",
			silentFor(single[family]).Round(time.Millisecond), requests, len(requests.broken), late(single[family])+late(turn[family]), requests.sent)
		allowed := 0
		if b.from.elects {
			allowed = reset(single[family]) + reset(turn[family])
		}
		if requests.failed > allowed {
			t.Errorf("%s, %s: %v", what, name, requests)
		}
	}
	b.unchanged(t)
}

// inFamily returns the address of a family, of which IPv4 is 0.
func inFamily(ips []string, family int) string {
	return ips[slices.IndexFunc(ips, func(ip string) bool { return strings.Contains(ip, ":") == (family == 1) })]
}

// silentFor returns the longest time between two answers that followed one another.
func silentFor(answers []cluster.Answer) (longest time.Duration) {
	var at []time.Time
	for _, a := range answers {
		if a.Err == nil {
			at = append(at, a.At.Add(a.Took))
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	for i := 1; i < len(at); i++ {
		longest = max(longest, at[i].Sub(at[i-1]))
	}
	return longest
}

// reset counts the requests that failed while their connection was open, or was being opened: another node has got the rest of it.
func reset(answers []cluster.Answer) (n int) {
	for _, a := range answers {
		if a.Err != nil && (a.Connected || errors.Is(a.Err, syscall.ECONNRESET)) {
			n++
		}
	}
	return n
}

// late counts the requests whose first packet was lost, by the time that they took.
func late(answers []cluster.Answer) (n int) {
	for _, a := range answers {
		if a.Took > 900*time.Millisecond {
			n++
		}
	}
	return n
}

// installBeside installs Tandem in mode services.
func (b *moveBed) installBeside(t *testing.T) {
	t.Helper()
	b.kubectl(t, "apply", "-f", b.Release("install-services.yaml"))
	if err := b.RolledOut(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestMoveIn moves Services from MetalLB to Tandem on layer 2.
func TestMoveIn(t *testing.T) { newMoveBed(t, metalLB).thereAndBack(t) }

// thereAndBack moves all Services to Tandem, goes back, and moves again for good, while clients ask.
func (b *moveBed) thereAndBack(t *testing.T) {
	t.Helper()
	if _, err := builtPlugin(); err != nil { // Later the compiler would take its time from the clients.
		t.Fatal(err)
	}
	// Where requests fail while nothing happens the machine is too busy, and what fails later says nothing.
	b.watched(t, "nothing happens", func() { time.Sleep(5 * time.Second) })
	if t.Failed() {
		t.FailNow()
	}
	b.watched(t, "installing Tandem beside "+b.from.title, func() { b.installBeside(t) })
	before := b.inCluster(t)
	b.moveIn(t, "plan")
	b.watched(t, "start --all", func() { b.moveIn(t, "start", "--all", "--yes") })
	b.ours(t)
	b.watched(t, "undo", func() { b.moveIn(t, "undo", "--yes") })
	b.asBefore(t, before)
	b.watched(t, "start --all and finish", func() {
		b.moveIn(t, "start", "--all", "--yes")
		b.moveIn(t, "finish", "--yes")
	})
	b.watched(t, "deleting "+b.from.title, func() { b.kubectl(t, b.from.uninstall...) })
	b.ours(t)
}

// asBefore waits until the cluster is as it was: a product that runs again writes on Services who announces them when it does.
func (b *moveBed) asBefore(t *testing.T, before map[string]string) {
	t.Helper()
	b.until(t, time.Minute, "the cluster to be as before the move", func(context.Context) (bool, string) {
		diff := gocmp.Diff(before, b.inCluster(t))
		return diff == "", "what undo has left (-want +got):\n" + diff
	})
}

// ours waits until Tandem has claimed all addresses, and announces each Service.
func (b *moveBed) ours(t *testing.T) {
	t.Helper()
	b.until(t, time.Minute, "claims of all addresses", func(ctx context.Context) (bool, string) {
		claims := b.claims(ctx, t)
		return len(claims) == len(b.ips()), fmt.Sprintf("there are %d", len(claims))
	})
	for _, name := range slices.Sorted(maps.Keys(b.before)) {
		b.says(t, name, ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "")
	}
}

// moveIn runs `kubectl tandem move-in`, which has to succeed.
func (b *moveBed) moveIn(t *testing.T, args ...string) {
	t.Helper()
	start := time.Now()
	out, code := b.plugin(t, append([]string{"move-in"}, args...)...)
	t.Logf("move-in %s took %v", args[0], time.Since(start).Round(10*time.Millisecond))
	if code != 0 {
		b.dump(context.WithoutCancel(t.Context()), t)
		t.Fatalf("kubectl tandem move-in %s exits with %d:\n%s", strings.Join(args, " "), code, out)
	}
}

// inCluster returns what a move may change and an undo has to restore: of the product's objects, of Services and Nodes, and of Tandem's objects.
func (b *moveBed) inCluster(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	list := func(kind schema.GroupVersionKind, show func(*unstructured.Unstructured) any, options ...client.ListOption) {
		var list unstructured.UnstructuredList
		list.SetGroupVersionKind(kind)
		if err := b.List(t.Context(), &list, options...); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			all[kind.Kind+"."+kind.Group+" "+list.Items[i].GetNamespace()+"/"+list.Items[i].GetName()] = fmt.Sprint(show(&list.Items[i]))
		}
	}
	field := func(path ...string) func(*unstructured.Unstructured) any {
		return func(obj *unstructured.Unstructured) any {
			value, _, _ := unstructured.NestedFieldNoCopy(obj.Object, path...)
			return value
		}
	}
	nothing := func(*unstructured.Unstructured) any { return "" }
	for _, r := range b.from.restored {
		list(r.GroupVersionKind, field(r.path...), client.InNamespace(b.from.namespace))
	}
	for _, kind := range []string{"AddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer"} {
		list(ipamv1alpha1.GroupVersion.WithKind(kind), field("spec"))
	}
	list(deployments.GroupVersionKind, field(deployments.path...), client.InNamespace("tandem-system"))
	core := schema.GroupVersion{Version: "v1"}
	list(core.WithKind("Service"), b.metadata, client.InNamespace(b.ns))
	list(core.WithKind("Node"), func(obj *unstructured.Unstructured) any { return obj.GetLabels() })
	list(core.WithKind("ConfigMap"), nothing, client.InNamespace("tandem-system"))
	list(networkingv1.SchemeGroupVersion.WithKind("IPAddress"), nothing, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy})
	return all
}

// metadata returns the metadata of a Service that a move may change. Of the product's marks it has that they are there.
func (b *moveBed) metadata(svc *unstructured.Unstructured) any {
	notes := maps.Clone(svc.GetAnnotations())
	for key := range notes {
		if b.from.mark != "" && strings.HasPrefix(key, b.from.mark) {
			notes[key] = "there"
		}
	}
	return []any{svc.GetLabels(), notes, svc.GetFinalizers()}
}
