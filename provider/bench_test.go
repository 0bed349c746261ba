// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// The benchmarks of this file run the loops of this package at two sizes each, whose numbers come first in their names, so that
// `make bench-loops` can work out how the cost grows.

// BenchmarkDiagnosis is a pass over Services that are all announced on layer 2.
func BenchmarkDiagnosis(b *testing.B) { benchmarkDiagnosis(b, true, nil) }

// BenchmarkDiagnosisOfSilence is a pass where nothing is announced: no node is in the subnet of any address.
func BenchmarkDiagnosisOfSilence(b *testing.B) {
	benchmarkDiagnosis(b, false, func(s *v1alpha1.SpeakerState) { s.Interfaces[0].Addresses = []string{"192.0.2.1/24"} })
}

func benchmarkDiagnosis(b *testing.B, records bool, state func(*v1alpha1.SpeakerState)) {
	layer2 := []client.Object{&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}}
	for _, size := range []struct {
		name            string
		services, nodes int
	}{{"1000 services", 1000, 100}, {"10000 services", 10_000, 100}, {"100 nodes", 1000, 100}, {"1000 nodes", 1000, 1000}} {
		b.Run(size.name, func(b *testing.B) {
			c := newBenchConditions(b, size.services, size.nodes, layer2, records, true, state)
			b.ReportAllocs()
			for now := time.Now(); b.Loop(); {
				if _, _, err := c.diagnose(b.Context(), now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// nodesAndSpeakers returns Nodes with what their speakers have found.
func nodesAndSpeakers(b *testing.B, n int) (informers.SharedInformerFactory, *listed) {
	b.Helper()
	shared := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	kinds := &listed{Client: ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).Build()}
	for i := range n {
		name, ip := fmt.Sprintf("node%d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)
		if err := shared.Core().V1().Nodes().Informer().GetIndexer().Add(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{corev1.LabelTopologyZone: "a"}, Annotations: map[string]string{ipamv1alpha1.AnnotationZone: "a"},
			},
			Spec:   corev1.NodeSpec{ProviderID: Name + "://" + name},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
		}); err != nil {
			b.Fatal(err)
		}
		kinds.speakers = append(kinds.speakers, v1alpha1.SpeakerStatus{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: v1alpha1.SpeakerState{
				Addresses: []string{ip}, Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", Addresses: []string{ip + "/16", "2001:db8::1/64"}}},
			},
		})
	}
	return shared, kinds
}

// Get finds a speaker as a cache does.
func (l *listed) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	if l.byName == nil {
		l.byName = map[string]*v1alpha1.SpeakerStatus{}
		for i := range l.speakers {
			l.byName[l.speakers[i].Name] = &l.speakers[i]
		}
	}
	l.byName[key.Name].DeepCopyInto(obj.(*v1alpha1.SpeakerStatus))
	return nil
}

// BenchmarkNodes does all that is done for Nodes: the network that they are on is read, each is asked for its metadata, and those without
// their labels of topology are looked for.
func BenchmarkNodes(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%d nodes", n), func(b *testing.B) {
			shared, kinds := nodesAndSpeakers(b, n)
			nodes, claims := shared.Core().V1().Nodes(), shared.Networking().V1().IPAddresses()
			network := &network{nodes: nodes.Lister(), apiServers: shared.Discovery().V1().EndpointSlices().Lister(), kinds: kinds}
			instances := &instances{speakers: kinds, claims: claims.Lister(), synced: func() bool { return true }}
			topology, err := newTopology(fake.NewClientset(), nodes, &record.FakeRecorder{})
			if err != nil {
				b.Fatal(err)
			}
			all, err := nodes.Lister().List(labels.Everything())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := network.read(b.Context()); err != nil {
					b.Fatal(err)
				}
				for _, node := range all {
					if _, err := instances.InstanceMetadata(b.Context(), node); err != nil {
						b.Fatal(err)
					}
				}
				if err := topology.label(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
