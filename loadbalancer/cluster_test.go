// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// The tests of this package run in bubbles of testing/synctest: when settle returns, every informer has caught up,
// every event has been handled and every goroutine waits, and seconds of waiting cost nothing.

func TestMain(m *testing.M) {
	// The last of these handlers delays errors by a clock that it read outside of the bubbles, and so for decades.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// tracker makes client-go's fake clientset behave as the API server does where this package relies on it: UIDs and
// their preconditions, watches with a label selector, and watchers that are slow.
type tracker struct {
	clienttesting.ObjectTracker

	mu sync.Mutex
	// mu guards all following fields, and orders writes with their events.
	serial   int
	history  []event
	watchers map[*watcher]struct{}
	standing bool    // watches stand still
	delayed  []event // that watchers are to get when they go on
}

type event struct {
	watch.Event
	serial   int
	resource schema.GroupVersionResource
}

type watcher struct {
	resource  schema.GroupVersionResource
	namespace string
	selector  labels.Selector
	events    chan watch.Event
	stopped   chan struct{}
	stop      sync.Once
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.events }
func (w *watcher) Stop()                          { w.stop.Do(func() { close(w.stopped) }) }

func newTracker() *tracker {
	return &tracker{
		ObjectTracker: clienttesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder()),
		watchers:      map[*watcher]struct{}{},
	}
}

// tell sends an event to the watchers. The caller holds mu.
func (t *tracker) tell(kind watch.EventType, resource schema.GroupVersionResource, obj runtime.Object) {
	e := event{Event: watch.Event{Type: kind, Object: obj}, serial: t.serial, resource: resource}
	t.history = append(t.history, e)
	if t.standing {
		t.delayed = append(t.delayed, e)
		return
	}
	t.send(e)
}

// send sends an event to the watchers. The caller holds mu.
func (t *tracker) send(e event) {
	for w := range t.watchers {
		if !w.send(e) {
			delete(t.watchers, w)
		}
	}
}

// standStill has watches stand still, as on a slow network, or go on.
func (t *tracker) standStill(standing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.standing = standing; standing {
		return
	}
	for _, e := range t.delayed {
		t.send(e)
	}
	t.delayed = nil
}

// send reports whether the watcher still watches.
func (w *watcher) send(e event) bool {
	m, _ := meta.Accessor(e.Object)
	if w.resource != e.resource || w.namespace != "" && w.namespace != m.GetNamespace() || !w.selector.Matches(labels.Set(m.GetLabels())) {
		return true
	}
	select {
	case w.events <- watch.Event{Type: e.Type, Object: e.Object.DeepCopyObject()}:
		return true
	case <-w.stopped:
		return false
	}
}

func (t *tracker) Create(resource schema.GroupVersionResource, obj runtime.Object, ns string, opts ...metav1.CreateOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serial++
	obj = obj.DeepCopyObject()
	m, _ := meta.Accessor(obj)
	m.SetUID(types.UID(strconv.Itoa(t.serial)))
	m.SetResourceVersion(strconv.Itoa(t.serial))
	if m.SetCreationTimestamp(metav1.Now()); resource.Resource != "ipaddresses" { // no two of the same age
		m.SetCreationTimestamp(metav1.NewTime(time.Unix(int64(t.serial), 0)))
	}
	if err := t.ObjectTracker.Create(resource, obj, ns, opts...); err != nil {
		return err
	}
	t.tell(watch.Added, resource, obj)
	return nil
}

func (t *tracker) Update(resource schema.GroupVersionResource, obj runtime.Object, ns string, opts ...metav1.UpdateOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serial++
	obj = obj.DeepCopyObject()
	m, _ := meta.Accessor(obj)
	m.SetResourceVersion(strconv.Itoa(t.serial))
	if err := t.ObjectTracker.Update(resource, obj, ns, opts...); err != nil {
		return err
	}
	t.tell(watch.Modified, resource, obj)
	return nil
}

func (t *tracker) Delete(resource schema.GroupVersionResource, ns, name string, opts ...metav1.DeleteOptions) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	obj, err := t.Get(resource, ns, name)
	if err != nil {
		return err
	}
	m, _ := meta.Accessor(obj)
	if len(opts) > 0 && opts[0].Preconditions != nil {
		is := opts[0].Preconditions
		if is.UID != nil && *is.UID != m.GetUID() || is.ResourceVersion != nil && *is.ResourceVersion != m.GetResourceVersion() {
			return apierrors.NewConflict(resource.GroupResource(), name, errors.New("the UID or resourceVersion in the precondition is another"))
		}
	}
	if err := t.ObjectTracker.Delete(resource, ns, name, opts...); err != nil {
		return err
	}
	t.serial++
	t.tell(watch.Deleted, resource, obj)
	return nil
}

// Patch gets the whole object, with the UID and the resourceVersion of the patch where it has them.
func (t *tracker) Patch(resource schema.GroupVersionResource, obj runtime.Object, ns string, _ ...metav1.PatchOptions) error {
	m, _ := meta.Accessor(obj)
	is, err := t.Get(resource, ns, m.GetName())
	if err != nil {
		return err
	}
	have, _ := meta.Accessor(is)
	if have.GetUID() != m.GetUID() || have.GetResourceVersion() != m.GetResourceVersion() {
		return apierrors.NewConflict(resource.GroupResource(), m.GetName(), errors.New("the UID or resourceVersion in the patch is another"))
	}
	return t.Update(resource, obj, ns)
}

func (t *tracker) List(
	resource schema.GroupVersionResource, kind schema.GroupVersionKind, ns string, opts ...metav1.ListOptions,
) (runtime.Object, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list, err := t.ObjectTracker.List(resource, kind, ns, opts...)
	if err != nil {
		return nil, err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.Itoa(t.serial))
	return list, nil
}

func (t *tracker) Watch(resource schema.GroupVersionResource, ns string, opts ...metav1.ListOptions) (watch.Interface, error) {
	selector, err := labels.Parse(opts[0].LabelSelector)
	if err != nil {
		return nil, err
	}
	since, err := strconv.Atoi(opts[0].ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &watcher{resource: resource, namespace: ns, selector: selector, events: make(chan watch.Event, 1<<14), stopped: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.history {
		if e.serial > since {
			w.send(e)
		}
	}
	t.watchers[w] = struct{}{}
	return w, nil
}

// apiServer is a fake API server whose requests can be made to fail.
type apiServer struct {
	*fake.Clientset
	tracker *tracker

	mu sync.Mutex
	// mu guards fail.
	fail func(verb, resource, name string) error
}

func newAPIServer() *apiServer {
	t := newTracker()
	s := &apiServer{Clientset: &fake.Clientset{}, tracker: t}
	s.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := ""
		switch action := action.(type) {
		case clienttesting.CreateAction:
			m, _ := meta.Accessor(action.GetObject())
			name = m.GetName()
		case interface{ GetName() string }:
			name = action.GetName()
		}
		s.mu.Lock()
		fail := s.fail
		s.mu.Unlock()
		if fail != nil {
			if err := fail(action.GetVerb(), action.GetResource().Resource, name); err != nil {
				return true, nil, err
			}
		}
		return false, nil, nil
	})
	s.AddReactor("*", "*", clienttesting.ObjectReaction(t))
	s.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := t.Watch(action.GetResource(), action.GetNamespace(), action.(clienttesting.WatchActionImpl).ListOptions)
		return true, w, err
	})
	return s
}

// failing makes requests fail for which f returns an error, until it is called with nil.
func (s *apiServer) failing(f func(verb, resource, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// cluster is an API server with Services, pools and claims, and any number of leaders that work on it.
type cluster struct {
	t       *testing.T
	api     *apiServer
	pools   client.Client
	patches atomic.Int32  // of pool statuses
	blocked chan struct{} // what these wait for, nil for nothing
	frozen  bool          // settle lets no time pass
	lease   time.Duration
	leaders []*leader
	network atomic.Pointer[ipam.Network]
	rules   request.Rules // of leaders to come
}

// newCluster returns a cluster with the namespace default and the given pools. It is to be called in a bubble.
func newCluster(t *testing.T, pools ...*v1alpha1.AddressPool) *cluster {
	t.Helper()
	kinds := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(kinds); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, api: newAPIServer(), rules: rules}
	c.network.Store(&ipam.Network{})
	c.pools = ctrlfake.NewClientBuilder().WithScheme(kinds).WithStatusSubresource(&v1alpha1.AddressPool{}).
		WithInterceptorFuncs(interceptor.Funcs{
			SubResourcePatch: func(
				ctx context.Context, cl client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption,
			) error {
				c.patches.Add(1)
				if c.blocked != nil {
					<-c.blocked
				}
				return cl.SubResource(sub).Patch(ctx, obj, patch, opts...)
			},
		}).Build()
	c.label("default", nil)
	for _, ap := range pools {
		c.setPool(ap)
	}
	return c
}

// leader is a Server that runs, and what came of it.
type leader struct {
	*Server
	c       *cluster
	pools   poolInformer
	cancel  context.CancelFunc
	stopped chan struct{}
	muted   atomic.Bool // events of Services and claims get lost

	mu sync.Mutex
	// mu guards all following fields.
	woken  []string // names of Services
	events []string
}

// poolInformer passes on what setPool and deletePool tell it.
type poolInformer struct {
	handlers []cache.ResourceEventHandler
}

func (i *poolInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.handlers = append(i.handlers, h)
	return nil, nil
}

func (i *poolInformer) HasSynced() bool { return true }

// Event implements record.EventRecorder.
func (l *leader) Event(_ runtime.Object, kind, reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, kind+" "+reason+" "+message)
}

// Eventf implements record.EventRecorder.
func (l *leader) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	l.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

// wantEvents checks how many events of a reason there were, and returns them.
func (l *leader) wantEvents(reason string, want int) (got []string) {
	l.c.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, event := range l.events {
		if strings.Fields(event)[1] == reason {
			got = append(got, event)
		}
	}
	if len(got) != want {
		l.c.t.Errorf("%d events %s, want %d: %q", len(got), reason, want, got)
	}
	return got
}

// AnnotatedEventf implements record.EventRecorder.
func (l *leader) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	l.Eventf(obj, kind, reason, format, args...)
}

// build returns a leader that does not run yet.
func (c *cluster) build() (l *leader, start func()) {
	c.t.Helper()
	// Zero loggers discard.
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Logger{}))
	l = &leader{c: c, cancel: cancel, stopped: make(chan struct{})}
	core := informers.NewSharedInformerFactory(c.api, 0)
	claims := informers.NewSharedInformerFactoryWithOptions(c.api, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String()
	}))
	var err error
	l.Server, err = New(Config{
		Client: c.api, Pools: c.pools, PoolInformer: &l.pools, Services: mutedServices{core.Core().V1().Services(), &l.muted},
		Namespaces: core.Core().V1().Namespaces(),
		Claims:     mutedClaims{claims.Networking().V1().IPAddresses(), &l.muted}, Recorder: l, Rules: c.rules,
		LeaseDuration: c.lease,
		Network:       func(context.Context) (ipam.Network, error) { return *c.network.Load(), nil },
		Wake: func(svc *corev1.Service) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.woken = append(l.woken, short(request.ServiceOf(svc)))
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.leaders = append(c.leaders, l)
	c.t.Cleanup(l.stop)
	return l, func() {
		core.Start(ctx.Done())
		claims.Start(ctx.Done())
		go func() {
			defer close(l.stopped)
			if err := l.Run(ctx); err != nil {
				c.t.Errorf("Run: %v", err)
			}
			core.Shutdown()
			claims.Shutdown()
		}()
	}
}

// lead returns a leader that has read everything.
func (c *cluster) lead() *leader {
	c.t.Helper()
	l, start := c.build()
	start()
	c.settle()
	return l
}

// stop ends the leader as a crash does, at once and with nothing tidied up.
func (l *leader) stop() {
	l.cancel()
	<-l.stopped
	l.c.leaders = slices.DeleteFunc(l.c.leaders, func(other *leader) bool { return other == l })
}

// settle returns when nothing is left to do, now or later.
func (c *cluster) settle() {
	synctest.Wait()
	if c.frozen {
		return
	}
	time.Sleep(2 * repair.Grace) // of the bubble's clock
	synctest.Wait()
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// setPool creates the pool or changes its spec.
func (c *cluster) setPool(ap *v1alpha1.AddressPool) {
	c.t.Helper()
	ctx := context.Background()
	var old v1alpha1.AddressPool
	err := c.pools.Get(ctx, client.ObjectKeyFromObject(ap), &old)
	if apierrors.IsNotFound(err) {
		created := ap.DeepCopy()
		created.Generation = 1
		c.must(c.pools.Create(ctx, created))
		for _, l := range c.leaders {
			l.pools.handlers[0].OnAdd(created, false)
		}
		return
	}
	c.must(err)
	changed := old.DeepCopy()
	changed.Spec = ap.Spec
	changed.Generation++
	c.must(c.pools.Update(ctx, changed))
	for _, l := range c.leaders {
		l.pools.handlers[0].OnUpdate(&old, changed)
	}
}

func (c *cluster) deletePool(name string) {
	c.t.Helper()
	gone := &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.must(c.pools.Delete(context.Background(), gone))
	for _, l := range c.leaders {
		l.pools.handlers[0].OnDelete(gone)
	}
}

func (c *cluster) pool(name string) *v1alpha1.AddressPool {
	c.t.Helper()
	var ap v1alpha1.AddressPool
	c.must(c.pools.Get(context.Background(), client.ObjectKey{Name: name}, &ap))
	return &ap
}

// label sets the labels of a namespace.
func (c *cluster) label(namespace string, set labels.Set) {
	c.t.Helper()
	ctx := context.Background()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: set}}
	_, err := c.api.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = c.api.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{})
	}
	c.must(err)
}

func (c *cluster) create(services ...*corev1.Service) {
	c.t.Helper()
	for _, svc := range services {
		_, err := c.api.CoreV1().Services(svc.Namespace).Create(context.Background(), svc, metav1.CreateOptions{})
		c.must(err)
	}
	c.settle()
}

// named reads the name of a Service: "web" is in namespace default, "shop/web" is not.
func named(name string) ipam.Service {
	if namespace, name, ok := strings.Cut(name, "/"); ok {
		return ipam.Service{Namespace: namespace, Name: name}
	}
	return ipam.Service{Namespace: "default", Name: name}
}

// short is the name that named reads.
func short(service ipam.Service) string { return strings.TrimPrefix(service.String(), "default/") }

// service returns a Service as the API has it, or nil.
func (c *cluster) service(name string) *corev1.Service {
	c.t.Helper()
	svc, err := c.api.CoreV1().Services(named(name).Namespace).Get(context.Background(), named(name).Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	c.must(err)
	return svc
}

// edit changes a Service, spec or status.
func (c *cluster) edit(name string, edits ...func(*corev1.Service)) {
	c.t.Helper()
	svc := c.service(name)
	for _, edit := range edits {
		edit(svc)
	}
	_, err := c.api.CoreV1().Services(svc.Namespace).Update(context.Background(), svc, metav1.UpdateOptions{})
	c.must(err)
	c.settle()
}

// vanish deletes a Service as if it never had a finalizer.
func (c *cluster) vanish(name string) {
	c.t.Helper()
	c.must(c.api.CoreV1().Services(named(name).Namespace).Delete(context.Background(), named(name).Name, metav1.DeleteOptions{}))
	c.settle()
}

// deleting has a Service wait for its finalizer to go.
func deleting(svc *corev1.Service) { svc.DeletionTimestamp = &metav1.Time{Time: time.Now()} }

// publish writes addresses into a Service's status.
func publish(addresses string) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		var assigned []ipam.Assignment
		for _, a := range addrs(addresses) {
			assigned = append(assigned, ipam.Assignment{Address: a})
		}
		svc.Status.LoadBalancer = *status(assigned)
	}
}

// shown returns what a Service's status shows.
func (c *cluster) shown(name string) string {
	c.t.Helper()
	var words []string
	for _, ingress := range c.service(name).Status.LoadBalancer.Ingress {
		words = append(words, ingress.IP)
	}
	return strings.Join(words, " ")
}

// claims returns all claims of ours with their parents, "left" for the claims that these have left.
func (c *cluster) claims() map[string]string {
	c.t.Helper()
	list, err := c.api.NetworkingV1().IPAddresses().List(context.Background(), metav1.ListOptions{})
	c.must(err)
	claims := map[string]string{}
	for _, object := range list.Items {
		if have := claim.Read(&object); have.State == repair.Ours {
			claims[object.Name] = short(have.Parent)
			if !have.Names(have.Parent) {
				claims[object.Name] = "left"
			}
		}
	}
	return claims
}

// wantSharers checks what the claim of an address says of sharers, as in "web=80 shop/api=443".
func (c *cluster) wantSharers(address, want string) {
	c.t.Helper()
	object, err := c.api.NetworkingV1().IPAddresses().Get(context.Background(), address, metav1.GetOptions{})
	c.must(err)
	var got []string
	for service, ports := range claim.Read(object).Sharers {
		word := short(service) + "="
		for _, port := range ports {
			word += strconv.Itoa(int(port.Number))
		}
		got = append(got, word)
	}
	slices.Sort(got)
	if got := strings.Join(got, " "); got != want {
		c.t.Errorf("the claim of %s has the sharers %q, want %q", address, got, want)
	}
}

// wantClaims checks claims against words like "192.0.2.1=web".
func (c *cluster) wantClaims(want string) {
	c.t.Helper()
	var got []string
	for address, service := range c.claims() {
		got = append(got, address+"="+service)
	}
	words := strings.Fields(want)
	slices.Sort(words)
	slices.Sort(got)
	if diff := cmp.Diff(words, got); diff != "" && len(words)+len(got) > 0 {
		c.t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func (c *cluster) wantShown(name, want string) {
	c.t.Helper()
	if got := c.shown(name); got != want {
		c.t.Errorf("Service %s shows %q, want %q", name, got, want)
	}
}

// deleteClaim deletes a claim by hand.
func (c *cluster) deleteClaim(name string) {
	c.t.Helper()
	c.must(c.api.NetworkingV1().IPAddresses().Delete(context.Background(), name, metav1.DeleteOptions{}))
}

// createClaim creates an IPAddress as somebody else does. It may be called while a request is being answered.
func (c *cluster) createClaim(name, managedBy, namespace, service string) {
	c.t.Helper()
	c.must(c.tryCreateClaim(name, managedBy, namespace, service))
}

func (c *cluster) tryCreateClaim(name, managedBy, namespace, service string) error {
	return c.api.tracker.Create(networkingv1.SchemeGroupVersion.WithResource("ipaddresses"), &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: managedBy}},
		Spec: networkingv1.IPAddressSpec{
			ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: service},
		},
	}, "")
}

// replaceClaim deletes a claim and creates another of its name, again if the leader was faster to restore it.
func (c *cluster) replaceClaim(name, managedBy, namespace, service string) {
	c.t.Helper()
	err := errors.New("not tried")
	for try := 0; err != nil && try < 1000; try++ {
		c.deleteClaim(name)
		err = c.tryCreateClaim(name, managedBy, namespace, service)
	}
	c.must(err)
}

// ensure asks for a Service as the service controller does, without writing the status.
func (l *leader) ensure(name string) (*corev1.LoadBalancerStatus, error) {
	l.c.t.Helper()
	svc := l.ledger.Service(named(name))
	before := svc.DeepCopy()
	got, err := l.EnsureLoadBalancer(context.Background(), "kubernetes", svc, nil)
	if diff := cmp.Diff(before, svc); diff != "" {
		l.c.t.Errorf("EnsureLoadBalancer changed the Service (-before +after):\n%s", diff)
	}
	// A nil status is an error to the service controller, and an empty one without an error wipes what was published.
	if (got == nil) != (err != nil) || got != nil && len(got.Ingress) == 0 {
		l.c.t.Errorf("EnsureLoadBalancer: got status %v and error %v", got, err)
	}
	return got, err
}

// sync does what the service controller does with a Service that exists and wants addresses.
func (l *leader) sync(name string) error {
	l.c.t.Helper()
	got, err := l.ensure(name)
	if err != nil {
		return err
	}
	l.c.edit(name, func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
	return nil
}

// mustSync is sync where it has to succeed.
func (l *leader) mustSync(names ...string) {
	l.c.t.Helper()
	for _, name := range names {
		l.c.must(l.sync(name))
	}
}

// wantError is sync where it has to fail with a message that says all of want, and to change nothing.
func (l *leader) wantError(name string, want ...string) {
	l.c.t.Helper()
	shown, claims := l.c.shown(name), l.c.claims()
	err := l.sync(name)
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			l.c.t.Errorf("Service %s: got error %v, want one that says %q", name, err, w)
		}
	}
	l.c.settle()
	l.c.wantShown(name, shown)
	if after := l.c.claims(); !maps.Equal(claims, after) {
		l.c.t.Errorf("a request that failed changed the claims from %v to %v", claims, after)
	}
}

// delete does what the service controller does with a Service that is being deleted, and has it go.
func (l *leader) delete(name string) {
	l.c.t.Helper()
	l.release(name)
	l.c.vanish(name)
}

// release does what the service controller does with a Service that is being deleted.
func (l *leader) release(name string) {
	l.c.t.Helper()
	if svc := l.c.service(name); request.Served(svc) {
		l.c.edit(name, deleting)
	}
	ctx, svc := context.Background(), l.c.service(name)
	_, exists, err := l.GetLoadBalancer(ctx, "kubernetes", svc)
	l.c.must(err)
	if !exists {
		return
	}
	before := svc.DeepCopy()
	l.c.must(l.EnsureLoadBalancerDeleted(ctx, "kubernetes", svc))
	if diff := cmp.Diff(before, svc); diff != "" {
		l.c.t.Errorf("EnsureLoadBalancerDeleted changed the Service (-before +after):\n%s", diff)
	}
}

// takeWoken returns the Services woken since it was last called, as words, in order, each once as the service
// controller's queue has them.
func (l *leader) takeWoken() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var once []string
	for _, name := range l.woken {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	woken := strings.Join(once, " ")
	l.woken = nil
	return woken
}

func (l *leader) wantWoken(want string) {
	l.c.t.Helper()
	if got := l.takeWoken(); got != want {
		l.c.t.Errorf("woken: %q, want %q", got, want)
	}
}

// syncWoken is what follows a wake: the service controller looks at the Service.
func (l *leader) syncWoken() {
	l.c.t.Helper()
	for name := range strings.FieldsSeq(l.takeWoken()) {
		_ = l.sync(name) // an error has its own event
	}
}
