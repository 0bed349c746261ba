// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/loadbalancer"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses;bgppeers,verbs=get;list;watch

// network reads from caches which addresses of the Nodes' network are no Service's: those of the Nodes and of their default gateways, as
// their statuses and their speakers say, those of BGP peers, and those under which the API server is reached.
type network struct {
	nodes      corelisters.NodeLister
	apiServers discoverylisters.EndpointSliceLister // of the Service kubernetes
	kinds      client.Reader                        // SpeakerStatuses and BGPPeers
	informers  map[string]loadbalancer.Informer     // of the kinds by their names
}

// apiServerEndpoints returns informers that see the endpoints of the API server, and no others.
func apiServerEndpoints(c kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: "kubernetes"}.String()
		}))
}

// newNetwork does not start the informers.
func newNetwork(ctx context.Context, core, endpoints informers.SharedInformerFactory, kinds ctrlcache.Cache) (*network, error) {
	nodes, apiServers := core.Core().V1().Nodes(), endpoints.Discovery().V1().EndpointSlices()
	n := &network{nodes: nodes.Lister(), apiServers: apiServers.Lister(), kinds: kinds, informers: map[string]loadbalancer.Informer{
		"Nodes": nodes.Informer(), "EndpointSlices": apiServers.Informer(),
	}}
	for _, obj := range []client.Object{&v1alpha1.SpeakerStatus{}, &v1alpha1.BGPPeer{}} {
		informer, err := kinds.GetInformer(ctx, obj, ctrlcache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watching %T: %w", obj, err)
		}
		n.informers[fmt.Sprintf("%T", obj)] = informer
	}
	return n, nil
}

func (n *network) synced() (synced []cache.InformerSynced) {
	for _, informer := range n.informers {
		synced = append(synced, informer.HasSynced)
	}
	return synced
}

// follow calls changed when something may have changed that read returns.
func (n *network) follow(changed func()) error {
	for name, informer := range n.informers {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { changed() },
			UpdateFunc: func(old, cur any) {
				if !equality.Semantic.DeepEqual(addressesIn(old), addressesIn(cur)) {
					changed()
				}
			},
			DeleteFunc: func(any) { changed() },
		})
		if err != nil {
			return fmt.Errorf("watching %s: %w", name, err)
		}
	}
	return nil
}

// addressesIn returns the part of an object that read uses. Most changes of Nodes and SpeakerStatuses are in other parts.
func addressesIn(obj any) any {
	switch o := obj.(type) {
	case *corev1.Node:
		return o.Status.Addresses
	case *v1alpha1.SpeakerStatus:
		return [2]any{o.Status.Interfaces, o.Status.DefaultGateways}
	case *v1alpha1.BGPPeer:
		return o.Spec.PeerAddress
	case *discoveryv1.EndpointSlice:
		return o.Endpoints
	}
	return nil
}

// read returns the network as the caches show it.
func (n *network) read(ctx context.Context) (ipam.Network, error) {
	nodes, err := n.nodes.List(labels.Everything())
	if err != nil {
		return ipam.Network{}, fmt.Errorf("listing Nodes: %w", err)
	}
	var speakers v1alpha1.SpeakerStatusList
	if err := n.kinds.List(ctx, &speakers, client.UnsafeDisableDeepCopy); err != nil {
		return ipam.Network{}, fmt.Errorf("listing SpeakerStatuses: %w", err)
	}
	var peers v1alpha1.BGPPeerList
	if err := n.kinds.List(ctx, &peers, client.UnsafeDisableDeepCopy); err != nil {
		return ipam.Network{}, fmt.Errorf("listing BGPPeers: %w", err)
	}
	endpoints, err := n.apiServers.List(labels.Everything())
	if err != nil {
		return ipam.Network{}, fmt.Errorf("listing the endpoints of the API server: %w", err)
	}
	return observation.Network(nodes, speakers.Items, peers.Items, endpoints), nil
}
