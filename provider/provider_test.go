// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	cloudprovider "k8s.io/cloud-provider"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/component-base/featuregate"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/utils/ptr"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/speaker/signal"
)

func TestMain(m *testing.M) {
	// The last of these handlers delays errors by a clock that it read outside of the bubbles of testing/synctest, and so for decades.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

func TestClassView(t *testing.T) {
	const other = "example.com/other"
	tests := []struct {
		name     string
		class    *string
		kind     corev1.ServiceType
		onlyOurs bool
		want     *string // viewed
	}{
		{name: "our class becomes none", class: new(v1alpha1.LoadBalancerClass), kind: corev1.ServiceTypeLoadBalancer},
		{
			name: "our class becomes none where only it is served", class: new(v1alpha1.LoadBalancerClass), kind: corev1.ServiceTypeLoadBalancer,
			onlyOurs: true,
		},
		{name: "none stays none", kind: corev1.ServiceTypeLoadBalancer},
		{name: "none is another's where only our class is served", kind: corev1.ServiceTypeLoadBalancer, onlyOurs: true, want: new(otherClass)},
		{name: "another class stays", class: new(other), kind: corev1.ServiceTypeLoadBalancer, want: new(other)},
		{
			name: "another class stays where only ours is served", class: new(other), kind: corev1.ServiceTypeLoadBalancer, onlyOurs: true,
			want: new(other),
		},
		{name: "a class of a former load balancer becomes none", class: new("example.com/former"), kind: corev1.ServiceTypeLoadBalancer},
		{
			name: "a class of a former load balancer becomes none beside another provider", class: new("example.com/former"),
			kind: corev1.ServiceTypeLoadBalancer, onlyOurs: true,
		},
		{name: "a Service that is internal has none, and its finalizer may be ours", kind: corev1.ServiceTypeClusterIP, onlyOurs: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{
					Name: "web", Annotations: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
				},
				Spec: corev1.ServiceSpec{Type: tt.kind, LoadBalancerClass: tt.class},
			}
			want := svc.DeepCopy()
			want.ManagedFields = nil
			want.Spec.LoadBalancerClass = tt.want
			if !ptr.Equal(tt.class, tt.want) {
				want.Annotations[viewedAnnotation] = ""
			}
			var viewed any = svc
			for _, time := range []string{"once", "twice", "three times"} {
				var err error
				before := viewed.(*corev1.Service).DeepCopy()
				before.ManagedFields = nil
				original := viewed
				if viewed, err = (classView{onlyOurs: tt.onlyOurs, former: []string{"example.com/former"}}).transform(viewed); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(any(want), viewed); diff != "" {
					t.Errorf("viewed %s (-want +got):\n%s", time, diff)
				}
				if diff := cmp.Diff(any(before), original); diff != "" {
					t.Errorf("the original was changed when it was viewed %s (-before +after):\n%s", time, diff)
				}
			}
			gone := cache.DeletedFinalStateUnknown{Key: "web", Obj: viewed}
			if got, err := (classView{onlyOurs: tt.onlyOurs, former: []string{"example.com/former"}}).transform(gone); err != nil || got != any(gone) {
				t.Errorf("of a Service that is gone %v, %v, want it unchanged", got, err)
			}
		})
	}
}

// The mark of a view cannot come from the API, and the API would refuse it.
func TestViewedAnnotation(t *testing.T) {
	if wrong := validation.IsQualifiedName(viewedAnnotation); len(wrong) == 0 {
		t.Errorf("%q is an annotation that users could set", viewedAnnotation)
	}
}

// TestViewedServices looks at Services in every way in which an informer hands them out.
func TestViewedServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(service("ours", new(v1alpha1.LoadBalancerClass)), service("theirs", nil))
		factory := informers.NewSharedInformerFactory(client, 0)
		services := factory.Core().V1().Services()
		if err := services.Informer().SetTransform(classView{onlyOurs: true}.transform); err != nil {
			t.Fatal(err)
		}
		var seen []string
		see := func(what string, svc *corev1.Service) {
			seen = append(seen, fmt.Sprintf("%s %s of %q", what, svc.Name, ptr.Deref(svc.Spec.LoadBalancerClass, "")))
		}
		handler := cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { see("added", obj.(*corev1.Service)) },
			UpdateFunc: func(old, cur any) { see("was", old.(*corev1.Service)); see("is", cur.(*corev1.Service)) },
			DeleteFunc: func(obj any) { see("deleted", obj.(*corev1.Service)) },
		}
		if _, err := services.Informer().AddEventHandlerWithOptions(handler, cache.HandlerOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer cancel()
		factory.WaitForCacheSync(ctx.Done())
		synctest.Wait()
		slices.Sort(seen)
		for _, name := range []string{"ours", "theirs"} {
			svc, err := services.Lister().Services("default").Get(name)
			if err != nil {
				t.Fatal(err)
			}
			see("got", svc)
		}
		lister := services.Lister()
		for _, list := range []func(labels.Selector) ([]*corev1.Service, error){lister.List, lister.Services("default").List} {
			all, err := list(labels.Everything())
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(all, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
			for _, svc := range all {
				see("listed", svc)
			}
		}
		again := service("ours", new(v1alpha1.LoadBalancerClass))
		if _, err := client.CoreV1().Services("default").Update(ctx, again, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := client.CoreV1().Services("default").Delete(ctx, "ours", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{
			`added ours of ""`, `added theirs of "tandem-lb.io/other-provider"`,
			`got ours of ""`, `got theirs of "tandem-lb.io/other-provider"`,
			`listed ours of ""`, `listed theirs of "tandem-lb.io/other-provider"`,
			`listed ours of ""`, `listed theirs of "tandem-lb.io/other-provider"`,
			`was ours of ""`, `is ours of ""`, `deleted ours of ""`,
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("viewed (-want +got):\n%s", diff)
		}
	})
}

// balancer is a LoadBalancer that gives every Service the same address and records the Services that ask.
type balancer struct {
	mu sync.Mutex
	// mu guards all following fields.
	ensured, deleted []string
	refuse           error
	updated, nodes   int
}

func (b *balancer) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	return &svc.Status.LoadBalancer, len(svc.Status.LoadBalancer.Ingress) > 0, nil
}

func (b *balancer) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return svc.Name
}

func (b *balancer) EnsureLoadBalancer(
	_ context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes += len(nodes)
	b.ensured = append(b.ensured, svc.Name)
	if b.refuse != nil {
		return nil, b.refuse
	}
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}, nil
}

func (b *balancer) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.updated++
	return nil
}

func (b *balancer) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *corev1.Service) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deleted = append(b.deleted, svc.Name)
	return nil
}

// asked returns the Services that have asked since it was last called, sorted.
func (b *balancer) asked() (ensured, deleted []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ensured, deleted = slices.Sorted(slices.Values(b.ensured)), slices.Sorted(slices.Values(b.deleted))
	b.ensured, b.deleted = nil, nil
	return slices.Compact(ensured), slices.Compact(deleted)
}

type cloud struct {
	Cloud
	balancer cloudprovider.LoadBalancer
}

func (c *cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c.balancer, true }

// run runs the upstream service controller on a fake API, wired as startServiceController does.
func run(t *testing.T, classOnly bool, services ...*corev1.Service) (*fake.Clientset, *serviceInformer, *balancer) {
	t.Helper()
	client := fake.NewClientset()
	for _, svc := range services {
		if _, err := client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	viewed := &serviceInformer{
		ServiceInformer: factory.Core().V1().Services(), alone: func() bool { return !classOnly },
	}
	if err := viewed.ServiceInformer.Informer().SetTransform(classView{onlyOurs: classOnly}.transform); err != nil {
		t.Fatal(err)
	}
	b, failures := &balancer{}, newFailures(signal.New())
	controller, err := servicecontroller.New(
		&cloud{balancer: notingLoadBalancer{b, failures}}, filteringClient{client, viewed.Lister(), failures}, viewed, oneNode{}, "kubernetes",
		featuregate.NewFeatureGate(),
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		controller.Run(ctx, 4, controllersmetrics.NewControllerManagerMetrics("tandem"))
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
		factory.Shutdown()
	})
	time.Sleep(time.Second) // of the bubble's clock, by which the controller looks whether its informers are ready
	synctest.Wait()
	return client, viewed, b
}

func service(name string, class *string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "1"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: class, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// deletedService returns a Service that has been deleted and that the standard finalizer keeps.
func deletedService(name string, class *string) *corev1.Service {
	svc := service(name, class)
	svc.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
	return svc
}

func TestServiceController(t *testing.T) {
	ours, theirs := new(v1alpha1.LoadBalancerClass), new("example.com/other")
	everything := func() []*corev1.Service {
		return []*corev1.Service{
			service("ours", ours), service("default", nil), service("theirs", theirs),
			deletedService("ours-deleted", ours), deletedService("default-deleted", nil), deletedService("theirs-deleted", theirs),
		}
	}
	tests := []struct {
		name             string
		classOnly        bool
		ensured, deleted []string
	}{
		{name: "beside none", ensured: []string{"default", "ours"}, deleted: []string{"default-deleted", "ours-deleted"}},
		{name: "beside another provider", classOnly: true, ensured: []string{"ours"}, deleted: []string{"ours-deleted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _, b := run(t, tt.classOnly, everything()...)
				time.Sleep(10 * time.Minute) // of the bubble's clock: resyncs show every Service again
				synctest.Wait()
				ensured, deleted := b.asked()
				if diff := cmp.Diff(tt.ensured, ensured); diff != "" {
					t.Errorf("ensured (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.deleted, deleted); diff != "" {
					t.Errorf("deleted (-want +got):\n%s", diff)
				}
				for _, before := range everything() {
					after, err := client.CoreV1().Services("default").Get(t.Context(), before.Name, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(before.Spec, after.Spec); diff != "" {
						t.Errorf("the spec of %s was changed (-before +after):\n%s", before.Name, diff)
					}
					switch touched := !cmp.Equal(before.Finalizers, after.Finalizers) || !cmp.Equal(before.Status, after.Status); {
					case slices.Contains(tt.ensured, before.Name):
						if !servicehelper.HasLBFinalizer(after) || len(after.Status.LoadBalancer.Ingress) != 1 {
							t.Errorf("Service %s has finalizers %v and status %v", after.Name, after.Finalizers, after.Status.LoadBalancer)
						}
					case slices.Contains(tt.deleted, before.Name):
						if servicehelper.HasLBFinalizer(after) {
							t.Errorf("Service %s still has the finalizer", after.Name)
						}
					case touched:
						t.Errorf(
							"Service %s of another provider was touched: finalizers %v, status %v", after.Name, after.Finalizers, after.Status.LoadBalancer,
						)
					}
				}
				for _, action := range client.Actions() {
					if action, ok := action.(clienttesting.PatchAction); ok {
						patch := string(action.GetPatch())
						if strings.Contains(patch, "loadBalancerClass") || strings.Contains(patch, viewedAnnotation) {
							t.Errorf("a patch writes the class, or the mark of the view: %s", patch)
						}
					}
				}
				// The role has no other right. A program that may patch Services as a whole could take any traffic of the cluster, by external IPs.
				for _, action := range client.Actions() {
					what := action.GetVerb() + " " + action.GetResource().Resource + "/" + action.GetSubresource()
					switch action.GetVerb() {
					case "get", "list", "watch":
						continue
					}
					// The test itself creates the Services.
					if !slices.Contains([]string{"create services/", "create events/", "patch services/status"}, what) {
						t.Errorf("the service controller has no right to %s", what)
					}
				}
			})
		})
	}
}

func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := new(v1alpha1.LoadBalancerClass), new("example.com/other")
		_, viewed, b := run(t, false, service("ours", ours), service("theirs", theirs))
		if ensured, _ := b.asked(); !slices.Equal(ensured, []string{"ours"}) {
			t.Fatalf("ensured %v", ensured)
		}
		for _, name := range []string{"ours", "theirs"} {
			svc, err := viewed.Lister().Services("default").Get(name)
			if err != nil {
				t.Fatal(err)
			}
			viewed.wake(svc)
		}
		synctest.Wait() // the clock stands still
		if ensured, _ := b.asked(); !slices.Equal(ensured, []string{"ours"}) {
			t.Errorf("ensured %v, want only ours", ensured)
		}
	})
	// A Service that is woken before the service controller has registered is handed to it when it does.
	early := &serviceInformer{}
	early.wake(service("ours", nil))
	var woken []string
	early.register(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { woken = append(woken, obj.(*corev1.Service).Name) }})
	early.wake(service("default", nil))
	if want := []string{"ours", "default"}; !slices.Equal(woken, want) {
		t.Errorf("woken %v, want %v", woken, want)
	}
}

// TestServiceTurnsInternal turns load balancers that have the standard finalizer into something else, before and while the controller runs.
func TestServiceTurnsInternal(t *testing.T) {
	turn := func(svc *corev1.Service) *corev1.Service {
		svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
		return svc
	}
	withFinalizer := func(name string, class *string) *corev1.Service {
		svc := deletedService(name, class)
		svc.DeletionTimestamp = nil
		return svc
	}
	ours, theirs := new(v1alpha1.LoadBalancerClass), new("example.com/other")
	for _, tt := range []struct {
		name      string
		classOnly bool
		deleted   []string
	}{
		{name: "beside none", deleted: []string{"default", "ours", "woken"}},
		{name: "beside another provider", classOnly: true, deleted: []string{"ours", "woken"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := []*corev1.Service{withFinalizer("ours", ours), withFinalizer("default", nil), withFinalizer("theirs", theirs)}
				before, woken := turn(withFinalizer("before", nil)), turn(withFinalizer("woken", nil))
				client, viewed, b := run(t, tt.classOnly, append(all, before, woken)...)
				b.asked()
				for _, svc := range all {
					if _, err := client.CoreV1().Services("default").Update(t.Context(), turn(svc.DeepCopy()), metav1.UpdateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				viewed.wake(woken) // package loadbalancer has found that it is ours
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if _, deleted := b.asked(); !slices.Equal(deleted, tt.deleted) {
					t.Errorf("deleted %v, want %v", deleted, tt.deleted)
				}
				for _, svc := range append(all, before, woken) {
					after, err := client.CoreV1().Services("default").Get(t.Context(), svc.Name, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					cleaned, empty := slices.Contains(tt.deleted, svc.Name), len(after.Status.LoadBalancer.Ingress) == 0
					if servicehelper.HasLBFinalizer(after) == cleaned || empty != cleaned {
						t.Errorf("Service %s has finalizers %v and status %v", svc.Name, after.Finalizers, after.Status.LoadBalancer)
					}
				}
			})
		})
	}
}

// TestLeftFinalizers starts the controller on Services that are no load balancers of ours and bear the standard finalizer.
func TestLeftFinalizers(t *testing.T) {
	withFinalizer := func(name string, edits ...func(*corev1.Service)) *corev1.Service {
		svc := deletedService(name, nil)
		svc.DeletionTimestamp = nil
		for _, edit := range edits {
			edit(svc)
		}
		return svc
	}
	marked := func(svc *corev1.Service) { svc.Annotations = map[string]string{v1alpha1.AnnotationFinalizer: "true"} }
	internal := func(svc *corev1.Service) {
		svc.Spec.Type, svc.Status = corev1.ServiceTypeClusterIP, corev1.ServiceStatus{}
	}
	deleted := func(svc *corev1.Service) { svc.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	theirs := func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = new("example.com/other") }
	for _, tt := range []struct {
		name      string
		classOnly bool
		cleaned   []string
	}{
		{name: "alone", cleaned: []string{"deleted", "handed-over", "marked"}},
		{name: "beside another provider", classOnly: true, cleaned: []string{"handed-over", "marked"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := []*corev1.Service{
					withFinalizer("marked", marked, internal), withFinalizer("unmarked", internal), withFinalizer("deleted", internal, deleted),
					withFinalizer("theirs", theirs), withFinalizer("theirs-deleted", theirs, deleted),
					withFinalizer("handed-over", theirs, marked), withFinalizer("being-handed-over", theirs, marked),
				}
				client, viewed, _ := run(t, tt.classOnly, all...)
				handedOver, err := viewed.Lister().Services("default").Get("handed-over")
				if err != nil {
					t.Fatal(err)
				}
				viewed.wake(handedOver)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				for _, before := range all {
					after, err := client.CoreV1().Services("default").Get(t.Context(), before.Name, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					after.TypeMeta, after.ManagedFields = metav1.TypeMeta{}, nil
					want := before.DeepCopy()
					if slices.Contains(tt.cleaned, before.Name) {
						want.Finalizers, want.Annotations = nil, nil
					}
					if diff := cmp.Diff(want, after, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("Service %s (-want +got):\n%s", before.Name, diff)
					}
				}
			})
		})
	}
}

// Our mark changes an annotation, for which the service controller would look at each new Service twice.
func TestMarkBringsNoSecondLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, b := run(t, false, service("web", nil))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		svc, err := client.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !request.FinalizerIsOurs(svc) {
			t.Errorf("the Service has finalizers %v and annotations %v, want our finalizer with our mark", svc.Finalizers, svc.Annotations)
		}
		if len(b.ensured) != 1 {
			t.Errorf("the service controller looked at the Service %d times, want once", len(b.ensured))
		}
	})
}

func TestNoOtherProvider(t *testing.T) {
	for name, test := range map[string]struct {
		providerIDs []string
		want        bool
	}{
		"no Node has a provider":            {providerIDs: []string{"", ""}, want: true},
		"we have initialised Nodes":         {providerIDs: []string{"tandem://node0", ""}, want: true},
		"another one has initialised Nodes": {providerIDs: []string{"tandem://node0", "k3s://node1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var nodes []runtime.Object
				for i, id := range test.providerIDs {
					nodes = append(nodes, &corev1.Node{
						ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)}, Spec: corev1.NodeSpec{ProviderID: id},
					})
				}
				factory := informers.NewSharedInformerFactory(fake.NewClientset(nodes...), 0)
				alone := noOtherProvider(factory.Core().V1().Nodes())
				if alone() {
					t.Error("alone before the Nodes are known")
				}
				factory.StartWithContext(t.Context())
				factory.WaitForCacheSync(t.Context().Done())
				if got := alone(); got != test.want {
					t.Errorf("alone = %v, want %v", got, test.want)
				}
			})
		})
	}
}

// A Service that cannot be served is tried every five minutes without end. Its events come once an hour at most, and when the failure is another
// one. (Client-go itself lets fewer pass of an object that has had many.)
func TestFailuresAreReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, b := run(t, false)
		refuse := func(reason string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.refuse = errors.New(reason)
		}
		written := func() (n int) {
			for _, action := range client.Actions() {
				if action.GetResource().Resource == "events" {
					n++
				}
			}
			client.ClearActions()
			return n
		}
		refuse("no free address in pool lan")
		if _, err := client.CoreV1().Services("default").Create(t.Context(), service("web", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		if n := written(); n != 1 {
			t.Errorf("%d writes of events in 50 minutes, want 1", n)
		}
		if ensured, _ := b.asked(); !slices.Contains(ensured, "web") {
			t.Fatal("the service controller has not tried")
		}
		refuse("no pool with IPv4 addresses")
		time.Sleep(50 * time.Minute)
		if n := written(); n != 1 {
			t.Errorf("%d writes of events after the failure was another one, want 1", n)
		}
		// The API server has forgotten the event when it is due again, so that client-go's patch of it fails, and another one is created.
		events := func() []corev1.Event {
			list, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return list.Items
		}
		for _, event := range events() {
			if err := client.CoreV1().Events("default").Delete(t.Context(), event.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(50 * time.Minute)
		if n := len(events()); n != 1 {
			t.Errorf("%d events after those before were forgotten, want 1", n)
		}
	})
	f, now := newFailures(signal.New()), time.Now()
	f.note("1", errors.New("no free address"))
	for _, said := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {failurePeriod - 1, false}, {failurePeriod, true}, {failurePeriod + 1, false}} {
		message, due := f.due("1", now.Add(said.after))
		if due != said.want {
			t.Errorf("after %s: due = %v, want %v", said.after, due, said.want)
		}
		if due {
			f.reported("1", message, now.Add(said.after))
		}
	}
	message, _ := f.due("1", now)
	f.note("1", errors.New("another one"))
	f.reported("1", message, now)
	if _, due := f.due("1", now); !due {
		t.Error("a failure is taken for reported, since the one before it was")
	}
	if _, due := f.due("2", now); !due {
		t.Error("a failure that is not noted is not reported")
	}
}

// The service controller compares all Nodes for each of its Services, and remembers them, unless it is shown another one.
func TestServiceControllerSeesNoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, b := run(t, false, service("web", nil))
		for i := range 3 {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node", i)}}
			if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.updated > 0 || b.nodes > 0 {
			t.Errorf("%d updates of the load balancer for its Nodes, and %d Nodes handed to it, want none", b.updated, b.nodes)
		}
		for _, action := range client.Actions() {
			if action.GetResource().Resource == "nodes" && action.GetVerb() != "create" || action.GetResource().Resource == "events" {
				t.Errorf("the service controller sent %s %s", action.GetVerb(), action.GetResource().Resource)
			}
		}
	})
}
