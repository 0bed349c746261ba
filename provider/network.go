// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"net/netip"

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

// read returns the network as the caches show it. What cannot be read as an address is left out: the API server has refused most of it.
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
	var network ipam.Network
	states := map[string]*v1alpha1.SpeakerState{}
	for i := range speakers.Items {
		states[speakers.Items[i].Name] = &speakers.Items[i].Status
	}
	for _, node := range nodes {
		network.Nodes = append(network.Nodes, networkNode(node, states[node.Name]))
	}
	for _, peer := range peers.Items {
		if address, err := netip.ParseAddr(peer.Spec.PeerAddress); err == nil {
			network.Peers = append(network.Peers, ipam.NetworkPeer{Name: peer.Name, Address: address})
		}
	}
	for _, slice := range endpoints {
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					network.APIServers = append(network.APIServers, address)
				}
			}
		}
	}
	return network, nil
}

// networkNode describes a Node by what its speaker has published, nil if it has none.
func networkNode(node *corev1.Node, state *v1alpha1.SpeakerState) ipam.NetworkNode {
	n := ipam.NetworkNode{Name: node.Name}
	for _, a := range node.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil { // Others are names.
			n.Addresses = append(n.Addresses, address)
		}
	}
	if state == nil {
		return n
	}
	for _, text := range state.DefaultGateways {
		if address, err := netip.ParseAddr(text); err == nil {
			n.Gateways = append(n.Gateways, address)
		}
	}
	for _, link := range state.Interfaces {
		for _, text := range link.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				n.Interfaces = append(n.Interfaces, prefix)
			}
		}
	}
	return n
}
