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
				client := runNodeController(t, node)
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

func runNodeController(t *testing.T, node *corev1.Node) *fake.Clientset {
	t.Helper()
	speakers := ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&speakerv1alpha1.SpeakerStatus{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Status:     speakerv1alpha1.SpeakerState{Addresses: []string{"198.51.100.11", "2001:db8:51::11"}},
	}).Build()
	client := fake.NewClientset(node)
	factory := informers.NewSharedInformerFactory(client, 0)
	controller, err := nodecontroller.NewCloudNodeController(
		factory.Core().V1().Nodes(), client, &Cloud{instances: &instances{speakers: speakers}}, 10*time.Second, 1, 1,
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
	return client
}
