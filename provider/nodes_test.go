// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	cloudproviderapi "k8s.io/cloud-provider/api"
	nodecontroller "k8s.io/cloud-provider/controllers/node"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestNodeController runs the upstream node controller, with the period of cmd/cloud-controller-manager, on nodes that need nothing.
func TestNodeController(t *testing.T) {
	const v4, v6, external = "198.51.100.11", "2001:db8:51::11", "203.0.113.11"
	host := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "node1"}
	for _, test := range []struct {
		name       string
		providerID string
		provided   string
		addresses  []corev1.NodeAddress
	}{
		{name: "ours, with both families", providerID: "tandem://node1", addresses: append(internal(v4, v6), host)},
		{
			name: "ours, with both families of --node-ip", providerID: "tandem://node1", provided: v6 + "," + v4,
			addresses: append(internal(v6, v4), host),
		},
		{name: "of a kubelet without a cloud provider", addresses: append(internal(v4, v6), host)},
		{
			name: "of another provider, which knows more addresses", providerID: "metal://4711",
			addresses: append(internal(v4), corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: external}, host),
		},
		{
			name: "of another provider, with --node-ip", providerID: "k3s://node1", provided: v4,
			addresses: append(internal(v4), corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: external}, host),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := &corev1.Node{
					ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{}},
					Spec:       corev1.NodeSpec{ProviderID: test.providerID},
					Status:     corev1.NodeStatus{Addresses: test.addresses},
				}
				if test.provided != "" {
					node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr] = test.provided
				}
				client, _ := runNodeController(t, node, newSpeakers("198.51.100.11", "2001:db8:51::11"))
				time.Sleep(time.Minute) // of the bubble's clock
				synctest.Wait()
				after, err := client.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.addresses, after.Status.Addresses); diff != "" {
					t.Errorf("addresses (-before +after):\n%s", diff)
				}
				patches := 0
				for _, action := range client.Actions() {
					if action.Matches("patch", "nodes") {
						patches++
					}
				}
				if patches > 0 {
					t.Errorf("%d patches of the node in a minute, want none", patches)
				}
			})
		})
	}
}

// A Node whose kubelet knows no address is initialised as soon as its speaker has found some, however long that takes.
func TestNodeIsInitialisedWhenItsSpeakerReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taint := corev1.Taint{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}}
		speakers := newSpeakers()
		api, informer := runNodeController(t, node, speakers)
		is := func() *corev1.Node {
			is, err := api.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return is
		}
		time.Sleep(10 * time.Minute) // by when the controller tries every few minutes
		synctest.Wait()
		if taints := is().Spec.Taints; len(taints) == 0 {
			t.Fatal("the node was initialised without an address")
		}
		var before, after speakerv1alpha1.SpeakerStatus
		if err := speakers.Get(t.Context(), client.ObjectKey{Name: "node1"}, &before); err != nil {
			t.Fatal(err)
		}
		before.DeepCopyInto(&after)
		after.Status.Addresses = []string{"198.51.100.11"}
		if err := speakers.Update(t.Context(), &after); err != nil {
			t.Fatal(err)
		}
		informer.speakerHandler().OnUpdate(&before, &after)
		synctest.Wait() // the clock stands still
		got := is()
		if diff := cmp.Diff(append(internal("198.51.100.11"), corev1.NodeAddress{Type: corev1.NodeHostName, Address: "node1"}), got.Status.Addresses); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		if len(got.Spec.Taints) > 0 || got.Spec.ProviderID != "tandem://node1" {
			t.Errorf("taints %v, provider ID %s", got.Spec.Taints, got.Spec.ProviderID)
		}
	})
}

// newSpeakers returns a client of the SpeakerStatus of node1.
func newSpeakers(addresses ...string) client.Client {
	return ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&speakerv1alpha1.SpeakerStatus{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: speakerv1alpha1.SpeakerState{Addresses: addresses},
	}).Build()
}

func runNodeController(t *testing.T, node *corev1.Node, speakers client.Client) (*fake.Clientset, *nodeInformer) {
	t.Helper()
	client := fake.NewClientset(node)
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := &nodeInformer{NodeInformer: factory.Core().V1().Nodes()}
	controller, err := nodecontroller.NewCloudNodeController(
		informer, client, &Cloud{instances: newInstances(t, speakers)}, 10*time.Second, 1, 1,
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		controller.RunWithContext(ctx, controllersmetrics.NewControllerManagerMetrics("tandem"))
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
		factory.Shutdown()
	})
	return client, informer
}
