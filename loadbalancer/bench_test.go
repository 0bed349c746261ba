// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/ledger"
	"github.com/tandem-lb/tandem/loadbalancer/poolstatus"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// The benchmarks of this file measure what the server does as a whole, in memory, at two sizes each: everything that one event, one audit
// or one start costs. The name of a size has the number first, so that `make bench-loops` can work out how the cost grows.

// crowd is a server with many Services, each of which has a pair of addresses, in pools that are full.
type crowd struct {
	*Server
	services []*corev1.Service
	informer cache.Indexer // of Services
	woken    int
}

// poolReader lists AddressPools as a cache does, by copies, and takes every patch.
type poolReader struct {
	client.Client
	pools []v1alpha1.AddressPool
}

func (r *poolReader) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	(&v1alpha1.AddressPoolList{Items: r.pools}).DeepCopyInto(list.(*v1alpha1.AddressPoolList))
	return nil
}

// noEvents is an informer without events.
type noEvents struct{}

func (noEvents) AddEventHandler(cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}
func (noEvents) HasSynced() bool { return true }

// newCrowd builds the server, as it is after its start.
func newCrowd(b *testing.B, services, pools, nodes int) *crowd {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	reader := &poolReader{}
	each := services / pools
	for i := range pools {
		reader.pools = append(reader.pools, *newPool(fmt.Sprintf("pool%d", i), fmt.Sprintf(
			"10.%[1]d.%[2]d.0-10.%[1]d.%[2]d.%[3]d 2001:db8:%[4]x::/%[5]d", i/256, i%256, each-1, i, 128-bits(each))))
	}
	api := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(api, 0)
	core := shared.Core().V1()
	must(core.Namespaces().Informer().GetIndexer().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}))
	claims := &networkingv1.IPAddressList{}
	api.PrependReactor("list", "ipaddresses", func(clienttesting.Action) (bool, runtime.Object, error) { return true, claims, nil })
	c := &crowd{informer: core.Services().Informer().GetIndexer()}
	s, err := New(Config{
		Client: api, Pools: reader, PoolInformer: noEvents{}, Services: core.Services(), Namespaces: core.Namespaces(),
		Claims: shared.Networking().V1().IPAddresses(), Recorder: &record.FakeRecorder{}, Wake: func(*corev1.Service) { c.woken++ },
		Network: func(context.Context) (ipam.Network, error) { return manyNodes(nodes), nil },
	})
	must(err)
	c.Server = s
	for i := range services {
		svc := newService(fmt.Sprintf("web%d", i), require, "IPv4 IPv6", label("app", fmt.Sprintf("web%d", i)))
		svc.UID = types.UID(svc.Name)
		for _, ip := range []string{
			fmt.Sprintf("10.%d.%d.%d", i/each/256, i/each%256, i%each), netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", i/each, i%each)).String(),
		} {
			claim := networkingv1.IPAddress{
				ObjectMeta: metav1.ObjectMeta{Name: ip, UID: types.UID(ip), Labels: map[string]string{
					networkingv1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelAddressPool: fmt.Sprintf("pool%d", i/each),
				}},
				Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: svc.Name}},
			}
			claims.Items = append(claims.Items, claim)
			must(shared.Networking().V1().IPAddresses().Informer().GetIndexer().Add(&claim))
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
		c.services = append(c.services, svc)
		must(core.Services().Informer().GetIndexer().Add(svc))
	}
	must(s.load(b.Context()))
	close(s.ready)
	usage := s.ledger.Cache.Usage()
	for i := range reader.pools {
		poolstatus.Set(&reader.pools[i], usage[reader.pools[i].Name])
	}
	for _, svc := range c.services {
		if _, err := s.EnsureLoadBalancer(b.Context(), "", svc, nil); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

// bits returns how many bits count to n.
func bits(n int) (bits int) {
	for ; 1<<bits < n; bits++ {
	}
	return bits
}

// manyNodes returns a network of nodes with three interfaces each.
func manyNodes(n int) (network ipam.Network) {
	for i := range n {
		node := ipam.NetworkNode{Name: fmt.Sprintf("node%d", i), Addresses: []netip.Addr{addr(fmt.Sprintf("172.16.%d.%d", i/250, i%250+1))}}
		for j := range 3 {
			node.Interfaces = append(node.Interfaces, netip.MustParsePrefix(fmt.Sprintf("172.%d.%d.%d/16", 16+j, i/250, i%250+1)))
		}
		network.Nodes = append(network.Nodes, node)
	}
	return network
}

// loops runs a benchmark at the sizes that matter: ten times the Services, ten times the pools.
func loops(b *testing.B, run func(b *testing.B, c *crowd)) {
	b.Helper()
	for _, size := range []struct {
		name            string
		services, pools int
	}{{"1000 services", 1000, 100}, {"10000 services", 10_000, 100}, {"100 pools", 10_000, 100}, {"1000 pools", 10_000, 1000}} {
		b.Run(size.name, func(b *testing.B) {
			c := newCrowd(b, size.services, size.pools, 10)
			b.ReportAllocs()
			run(b, c)
		})
	}
}

// BenchmarkStart reads and holds everything, as a leader does first.
func BenchmarkStart(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			if err := c.load(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAudit looks at everything once more.
func BenchmarkAudit(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			c.audit()
		}
		if c.repairs.Len() > 1 { // The statuses of pools are to be written.
			b.Errorf("an audit of what is right found %d things to repair", c.repairs.Len()-1)
		}
	})
}

// BenchmarkPoolEdit handles the edit of one pool, with all that may follow.
func BenchmarkPoolEdit(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			if err := c.handle(b.Context(), item{kind: setPools}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWakeWaiting asks whether one of as many waiting Services could be served, where all pools are full, and every
// other one selects a tenth of the Services by their labels.
func BenchmarkWakeWaiting(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		pools := c.poolClient.(*poolReader).pools
		for i := 0; i < len(pools); i += 2 {
			forServices("tier", fmt.Sprint(i/2%10))(&pools[i])
		}
		if err := c.setPools(b.Context()); err != nil {
			b.Fatal(err)
		}
		for i := range c.services {
			svc := newService(fmt.Sprintf("late%d", i), require, "IPv4 IPv6", label("tier", fmt.Sprint(i%10)))
			if err := c.informer.Add(svc); err != nil {
				b.Fatal(err)
			}
			c.ledger.Wait(request.ServiceOf(svc), ledger.Waiting{Message: "no address is free"})
		}
		for b.Loop() {
			c.wakeWaiting(b.Context())
		}
		if c.woken > 0 {
			b.Errorf("%d Services were woken where nothing is free", c.woken)
		}
	})
}

// BenchmarkEvents looks at every Service and every claim, as after a change of each.
func BenchmarkEvents(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			for _, svc := range c.services {
				c.serviceEvent(svc, &corev1.Service{ObjectMeta: svc.ObjectMeta, Spec: svc.Spec})
			}
		}
	})
}

// BenchmarkEnsure is what the service controller asks of every Service at the start, where nothing has changed.
func BenchmarkEnsure(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			for _, svc := range c.services {
				if _, err := c.EnsureLoadBalancer(b.Context(), "", svc, nil); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkPoolStatus compares the statuses of all pools with what is in use.
func BenchmarkPoolStatus(b *testing.B) {
	loops(b, func(b *testing.B, c *crowd) {
		for b.Loop() {
			if err := c.writeUsage(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkNetwork takes in the network of the Nodes, after a change of one of them.
func BenchmarkNetwork(b *testing.B) {
	for _, nodes := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			c := newCrowd(b, 1000, 100, nodes)
			for b.Loop() {
				if err := c.setReserved(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
