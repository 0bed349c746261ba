// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	ccmconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/pkg/clientbuilder"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/provider"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// faultInjector keeps the API from a controller manager from a chosen write on, as its sudden end does.
type faultInjector struct {
	next http.RoundTripper
	end  chan struct{} // closed at the end

	mu     sync.Mutex
	writes int // of Services and claims, that still pass; guarded by mu
}

// RoundTrip sends a request, unless the controller manager has ended.
func (f *faultInjector) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	counts := req.Method != http.MethodGet && (strings.Contains(req.URL.Path, "/services/") || strings.Contains(req.URL.Path, "/ipaddresses"))
	if counts && f.writes >= 0 {
		if f.writes--; f.writes < 0 {
			close(f.end)
		}
	}
	ended := f.writes < 0
	f.mu.Unlock()
	if ended {
		return nil, errors.New("the test has ended this controller manager")
	}
	return f.next.RoundTrip(req)
}

// endAfter has the controller manager end at the write after so many.
func (f *faultInjector) endAfter(writes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes >= 0 {
		f.writes = writes
	}
}

// stop ends the controller manager now.
func (f *faultInjector) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes >= 0 {
		f.writes = -1
		close(f.end)
	}
}

// ended reports whether the controller manager has ended.
func (f *faultInjector) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes < 0
}

// startManager runs the part of the controller manager that serves Services, as cmd/cloud-controller-manager wires it, until it is ended or the
// test ends.
func startManager(t *testing.T) *faultInjector {
	t.Helper()
	f, completed, cloud, ctx := newManager(t, false)
	cloud.Initialize(nil, ctx.Done())
	services := provider.Controllers()[names.ServiceLBController]
	start := services.Constructor(services.InitContext, completed, cloud)
	if _, _, err := start(ctx, genericcontrollermanager.ControllerContext{
		ControllerManagerMetrics: controllersmetrics.NewControllerManagerMetrics("test"),
	}); err != nil {
		t.Fatal(err)
	}
	completed.SharedInformers.Start(ctx.Done())
	return f
}

// newManager builds the parts of a controller manager, whose context ends with it.
func newManager(t *testing.T, nodesOnly bool) (*faultInjector, *ccmconfig.CompletedConfig, *provider.Cloud, context.Context) {
	t.Helper()
	f := &faultInjector{end: make(chan struct{}), writes: math.MaxInt}
	ours := rest.CopyConfig(config)
	ours.QPS, ours.Burst = 1000, 2000
	ours.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-f.end
		cancel()
	}()
	t.Cleanup(f.stop)
	clientset := kubernetes.NewForConfigOrDie(ours)
	completed := (&ccmconfig.Config{
		Kubeconfig: ours, ClientBuilder: clientbuilder.SimpleControllerClientBuilder{ClientConfig: ours},
		SharedInformers: informers.NewSharedInformerFactory(clientset, 12*time.Hour), EventRecorder: &record.FakeRecorder{},
	}).Complete()
	completed.ComponentConfig.ServiceController.ConcurrentServiceSyncs = 2
	cloud, err := provider.New(ctx, provider.Config{
		REST: ours, Client: clientset, Informers: completed.SharedInformers, Recorder: completed.EventRecorder, Namespace: "default",
		SecretsNamespace: "default", NodesOnly: nodesOnly,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, completed, cloud, ctx
}

// A change is what happens to a Service while a controller manager ends.
type change struct {
	fresh bool                                // the Service is created for the change; otherwise it has its addresses before
	with  []func(*testing.T, *corev1.Service) // made while the controller manager works
	after []func(*testing.T, *corev1.Service) // made when it has ended
	gone  bool                                // the Service is to be gone at last
	shows string                              // what another provider has published, and nobody is to touch
}

// TestCrashes ends the controller manager at each write of a change, and looks whether the next one leaves a finalizer, a claim or a status
// behind. CI ends it once at each write; TANDEM_CRASHES is the least number of ends for each change.
func TestCrashes(t *testing.T) {
	create(t, object(t, "AddressPool", `{metadata: {name: crashes}, spec: {ipv4: {ranges: [192.0.2.0/28]}, ipv6: {ranges: ["2001:db8::/124"]}}}`))
	least, _ := strconv.Atoi(os.Getenv("TANDEM_CRASHES"))
	patch := func(body string, subresource ...string) func(*testing.T, *corev1.Service) {
		return func(t *testing.T, svc *corev1.Service) {
			t.Helper()
			clientset := kubernetes.NewForConfigOrDie(config)
			_, err := clientset.CoreV1().Services(svc.Namespace).Patch(
				t.Context(), svc.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, subresource...)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(t *testing.T, svc *corev1.Service) {
		t.Helper()
		if err := apiClient.Delete(t.Context(), svc.DeepCopy()); err != nil {
			t.Fatal(err)
		}
	}
	type steps = []func(*testing.T, *corev1.Service)
	internal := patch(`{"spec":{"type":"ClusterIP","loadBalancerClass":null}}`)
	for name, c := range map[string]change{
		"to ClusterIP":                 {with: steps{internal}},
		"to ClusterIP while it starts": {fresh: true, after: steps{internal}},
		"deletion":                     {with: steps{remove}, gone: true},
		"deletion while it starts":     {fresh: true, after: steps{remove}, gone: true},
		"to another provider": {
			with: steps{
				internal, patch(`{"spec":{"type":"LoadBalancer","loadBalancerClass":"example.com/other"}}`),
				patch(`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}`, "status"),
			},
			shows: "203.0.113.7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			crashes, finished := 0, false
			for writes := 0; !finished || crashes < least; writes++ {
				if c.run(t, writes) {
					crashes++
				} else {
					finished, writes = true, -1
				}
			}
			t.Logf("%d ends, and nothing left", crashes)
		})
	}
}

// run makes a change while a controller manager ends after so many writes, and lets another one finish. It reports whether the change had so
// many writes.
func (c change) run(t *testing.T, writes int) (crashed bool) {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "crash"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}, LoadBalancerClass: new(ipamv1alpha1.LoadBalancerClass),
			IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
		},
	}
	first := startManager(t)
	if c.fresh {
		first.endAfter(writes)
	}
	if err := apiClient.Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	if !c.fresh {
		until(t, "addresses", func() string { return c.lacks(t, svc) })
		first.endAfter(writes)
	}
	for _, step := range c.with {
		step(t, svc)
	}
	until(t, "the end of the controller manager, or of its work", func() string {
		if first.ended() {
			return ""
		}
		if len(c.with) == 0 {
			return c.lacks(t, svc)
		}
		return c.left(t, svc)
	})
	crashed = first.ended()
	first.stop()
	for _, step := range c.after {
		step(t, svc)
	}
	second := startManager(t)
	until(t, "a clean Service", func() string { return c.left(t, svc) })
	second.stop()
	if !c.gone {
		if err := apiClient.Delete(t.Context(), svc); err != nil {
			t.Fatal(err)
		}
	}
	return crashed
}

// lacks says what a Service lacks that is to have two addresses.
func (change) lacks(t *testing.T, svc *corev1.Service) string {
	t.Helper()
	if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(svc), svc); err != nil {
		t.Fatal(err)
	}
	if len(svc.Status.LoadBalancer.Ingress) == 2 {
		return ""
	}
	return fmt.Sprintf("it shows %v", svc.Status.LoadBalancer.Ingress)
}

// left says what is left of a Service that we do not serve any more.
func (c change) left(t *testing.T, svc *corev1.Service) string {
	t.Helper()
	var claims networkingv1.IPAddressList
	if err := apiClient.List(t.Context(), &claims, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy}); err != nil {
		t.Fatal(err)
	}
	if len(claims.Items) > 0 {
		return fmt.Sprintf("%d claims are left, among them %s", len(claims.Items), claims.Items[0].Name)
	}
	var is corev1.Service
	err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(svc), &is)
	switch {
	case apierrors.IsNotFound(err) && c.gone:
		return ""
	case err != nil:
		t.Fatal(err)
	case c.gone:
		return fmt.Sprintf("it is still there, with finalizers %v", is.Finalizers)
	case len(is.Finalizers) > 0, is.Annotations[ipamv1alpha1.AnnotationFinalizer] != "":
		return fmt.Sprintf("it has finalizers %v and annotations %v", is.Finalizers, is.Annotations)
	}
	shown := ""
	for _, ingress := range is.Status.LoadBalancer.Ingress {
		shown += ingress.IP
	}
	if shown != c.shows || len(is.Status.Conditions) > 0 {
		return fmt.Sprintf("it shows %q, and conditions %v", shown, is.Status.Conditions)
	}
	return ""
}

// until waits until nothing is missing.
func until(t *testing.T, what string, missing func() string) {
	t.Helper()
	last := ""
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = missing()
		return last == "", nil
	}); err != nil {
		t.Fatalf("waiting for %s: %s", what, last)
	}
}

// A controller manager that looks after nodes only, with --controllers=-service-lb-controller, leaves Services and their addresses alone.
func TestNodesOnly(t *testing.T) {
	create(t, object(t, "AddressPool", `{metadata: {name: nodes-only}, spec: {ipv4: {ranges: [192.0.2.64/28]}}}`))
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "of-others"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	create(t, svc)
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.65"}}
	if err := apiClient.Status().Update(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	_, completed, cloud, ctx := newManager(t, true)
	if _, serves := cloud.LoadBalancer(); serves {
		t.Error("it has a load balancer")
	}
	cloud.Initialize(nil, ctx.Done())
	completed.SharedInformers.Start(ctx.Done())
	advertisement := &speakerv1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "nodes-only"}}
	create(t, advertisement)
	until(t, "the conditions of what users write", func() string {
		if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(advertisement), advertisement); err != nil {
			t.Fatal(err)
		}
		if len(advertisement.Status.Conditions) == 0 {
			return "there are none"
		}
		return ""
	})
	var claims networkingv1.IPAddressList
	if err := apiClient.List(t.Context(), &claims, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy}); err != nil {
		t.Fatal(err)
	}
	if len(claims.Items) > 0 {
		t.Errorf("it has claimed %s", claims.Items[0].Name)
	}
}
