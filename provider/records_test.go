// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestRecordsOfServicesThatAreGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	service := func(name string, kind corev1.ServiceType) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Type: kind}}
	}
	record := func(name, node string) *v1alpha1.L2Announcement {
		return &v1alpha1.L2Announcement{
			ObjectMeta: metav1.ObjectMeta{Name: "default." + name, UID: "uid"},
			Service:    v1alpha1.ServiceReference{Namespace: "default", Name: name},
			Status:     v1alpha1.L2AnnouncementStatus{Node: node},
		}
	}
	clientset := fake.NewClientset(service("web", corev1.ServiceTypeLoadBalancer), service("internal", corev1.ServiceTypeClusterIP))
	factory := informers.NewSharedInformerFactory(clientset, 0)
	deleted := make(chan string, 10)
	store := ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		record("web", "node1"), record("internal", "node1"), record("gone", "node2"), record("unheld", ""),
	).WithInterceptorFuncs(interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			err := c.Delete(ctx, obj, opts...)
			deleted <- obj.GetName()
			return err
		},
	}).Build()
	synced := true
	cached := &informertest.FakeInformers{Scheme: config.Scheme(), Synced: &synced}
	records, err := cached.FakeInformerFor(ctx, &v1alpha1.L2Announcement{})
	if err != nil {
		t.Fatal(err)
	}
	c := &recordCollector{client: store, cache: cached, services: factory.Core().V1().Services(), changed: signal.New()}
	c.services.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	ended := make(chan error)
	go func() { ended <- c.run(ctx) }()

	got := []string{<-deleted, <-deleted, <-deleted}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"default.gone", "default.internal", "default.unheld"}, got); diff != "" {
		t.Errorf("records deleted at the start (-want +got):\n%s", diff)
	}
	if err := clientset.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if name := <-deleted; name != "default.web" {
		t.Errorf("a Service was deleted, and then the record %s", name)
	}
	// A speaker that has not yet seen the end of a Service records it.
	late := record("web", "node1")
	if err := store.Create(ctx, late); err != nil {
		t.Fatal(err)
	}
	records.Add(late)
	if name := <-deleted; name != "default.web" {
		t.Errorf("a record came too late, and %s was deleted", name)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
