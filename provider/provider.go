// SPDX-License-Identifier: Apache-2.0

// Package provider is what Kubernetes sees of Tandem: the cloudprovider.Interface, and the controllers that run on it.
//
// It is thin. Addresses are package loadbalancer's business; here are the metadata of nodes ([Cloud.InstancesV2]), the conditions of the
// objects that users write for speakers, the key of the speakers' gossip, and the connection to the upstream service controller, which
// drives everything that happens to a Service. Two things make that controller serve more than it knows:
//
//   - It skips Services with a load balancer class. In its cache, Services with our class therefore have none, and a Service without a
//     class gets another one where it is left to another provider. One controller, one queue and one set of workers so serve Services with
//     our class and, unless told otherwise, those without a class. No other Service reaches the controller, which would take the standard
//     finalizer away before the provider that set it has cleaned up. Every provider sets the same finalizer; ours comes with a mark, an
//     annotation, in the same write. One without the mark is ours on a Service that still has addresses of ours, and on a Service that is
//     being deleted where no other provider is in the cluster.
//   - It looks at a Service only when the Service changes. [Cloud] hands it a waiting Service again, through the handler that
//     it registered, when a pool edit or a release may help.
//
// Routes, zones and clusters are not provided.
package provider

import (
	"context"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Name is the provider's name: the value of --cloud-provider inside the controller manager, and the scheme of provider IDs.
const Name = "tandem"

// Config is what a Cloud works with. All fields but ClassOnly and Rules are required.
type Config struct {
	REST      *rest.Config
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	// Namespace is Tandem's own, for the Secret of the speakers.
	Namespace string
	// ClassOnly leaves Services without a load balancer class to another provider.
	ClassOnly bool
	// Rules say which annotations of Services count.
	Rules request.Rules
}

// Cloud implements cloudprovider.Interface.
type Cloud struct {
	balancer   cloudprovider.LoadBalancer
	instances  *instances
	services   *serviceInformer
	nodes      *nodeInformer
	failures   *failures
	claims     informers.SharedInformerFactory
	apiServers informers.SharedInformerFactory        // their endpoints
	parts      map[string]func(context.Context) error // run on the leader, by their names in logs
	recorder   record.EventRecorder
}

var _ cloudprovider.Interface = &Cloud{}

// New builds a Cloud whose informers have not started. It fails where the API does not serve AddressPool.
func New(ctx context.Context, cfg Config) (*Cloud, error) {
	scheme := config.Scheme()
	pools, err := ctrlcache.New(cfg.REST, ctrlcache.Options{
		Scheme: scheme, DefaultTransform: ctrlcache.TransformStripManagedFields(),
		ByObject: map[client.Object]ctrlcache.ByObject{&coordinationv1.Lease{}: {
			Namespaces: map[string]ctrlcache.Config{cfg.Namespace: {}},
			Label:      labels.SelectorFromSet(labels.Set{observation.LabelReport: "true"}),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("building the cache of AddressPools: %w", err)
	}
	poolInformer, err := pools.GetInformer(ctx, &v1alpha1.AddressPool{}, ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watching AddressPools (are the CustomResourceDefinitions installed?): %w", err)
	}
	poolClient, err := client.New(cfg.REST, client.Options{Scheme: scheme, Cache: &client.CacheOptions{Reader: pools}})
	if err != nil {
		return nil, fmt.Errorf("building the client of AddressPools: %w", err)
	}
	claims := informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String()
	}))
	services := &serviceInformer{
		ServiceInformer: cfg.Informers.Core().V1().Services(), alone: func() bool { return false },
	}
	if !cfg.ClassOnly {
		services.alone = noOtherProvider(cfg.Informers.Core().V1().Nodes())
	}
	if err := services.ServiceInformer.Informer().SetTransform(classView{onlyOurs: cfg.ClassOnly}.transform); err != nil {
		return nil, fmt.Errorf("transforming Services: %w", err)
	}
	endpoints := cfg.Informers.Discovery().V1().EndpointSlices()
	for informer, trim := range map[cache.SharedInformer]cache.TransformFunc{
		endpoints.Informer():                              trimEndpointSlice,
		cfg.Informers.Core().V1().Nodes().Informer():      trimNode,
		claims.Networking().V1().IPAddresses().Informer(): (&claimTrimmer{}).trim,
	} {
		if err := informer.SetTransform(trim); err != nil {
			return nil, fmt.Errorf("transforming what a cache keeps: %w", err)
		}
	}
	if err := warnOfAnnotations(cfg.Informers, cfg.Recorder); err != nil {
		return nil, err
	}
	apiServers := apiServerEndpoints(cfg.Client)
	network, err := newNetwork(ctx, cfg.Informers, apiServers, pools)
	if err != nil {
		return nil, err
	}
	server, err := loadbalancer.New(loadbalancer.Config{
		Client:        cfg.Client,
		Pools:         poolClient,
		PoolInformer:  poolInformer,
		Services:      services.ServiceInformer,
		Namespaces:    cfg.Informers.Core().V1().Namespaces(),
		Claims:        claims.Networking().V1().IPAddresses(),
		Recorder:      cfg.Recorder,
		Rules:         cfg.Rules,
		Wake:          services.wake,
		Network:       network.read,
		NetworkSynced: network.synced(),
	})
	if err != nil {
		return nil, err
	}
	if err := network.follow(server.NetworkChanged); err != nil {
		return nil, err
	}
	nodes := &nodeInformer{NodeInformer: cfg.Informers.Core().V1().Nodes()}
	speakers, err := pools.GetInformer(ctx, &speakerv1alpha1.SpeakerStatus{}, ctrlcache.BlockUntilSynced(false))
	if err == nil {
		_, err = speakers.AddEventHandler(nodes.speakerHandler())
	}
	if err != nil {
		return nil, fmt.Errorf("watching SpeakerStatuses: %w", err)
	}
	ourClaims := claims.Networking().V1().IPAddresses()
	conditions := &serviceConditions{
		client: cfg.Client, services: services.ServiceInformer, slices: endpoints, nodes: cfg.Informers.Core().V1().Nodes(),
		claims: claims.Networking().V1().IPAddresses(), cache: pools, objects: pools, recorder: cfg.Recorder,
		effective: newEffective(), changed: signal.New(), diagnosed: map[types.NamespacedName]*diagnosed{},
	}
	conditions.failures = newFailures(conditions.changed)
	conditions.contested = server.Contested
	return &Cloud{
		balancer:   notingLoadBalancer{server, conditions.failures},
		instances:  &instances{speakers: poolClient, claims: ourClaims.Lister(), synced: ourClaims.Informer().HasSynced},
		services:   services,
		nodes:      nodes,
		failures:   conditions.failures,
		claims:     claims,
		apiServers: apiServers,
		parts: map[string]func(context.Context) error{
			"the cache of Tandem's kinds":        pools.Start,
			"addresses":                          server.Run,
			"the conditions of what users write": (&conditionWriter{poolClient, pools, conditions.effective}).run,
			"the conditions of Services":         conditions.run,
			"the key of the speakers' gossip":    (&gossipKey{client: cfg.Client, namespace: cfg.Namespace}).run,
		},
		recorder: cfg.Recorder,
	}, nil
}

// Initialize starts the parts of the provider: its caches, the server of addresses, and what a leader does for the speakers. The framework
// calls it once, on the leader.
func (c *Cloud) Initialize(_ cloudprovider.ControllerClientBuilder, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-stop
		cancel()
	}()
	c.claims.Start(stop)
	c.apiServers.Start(stop)
	for part, run := range c.parts {
		go func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				klog.ErrorS(err, "Failed to run a part of the provider", "part", part)
				klog.FlushAndExit(klog.ExitFlushTimeout, 1)
			}
		}()
	}
}

// LoadBalancer returns the server of addresses.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c.balancer, true }

// InstancesV2 returns the metadata of nodes.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return c.instances, true }

// Instances is not provided; InstancesV2 is.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// Zones is not provided.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not provided.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not provided: pod networking is the CNI's.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName returns Name.
func (c *Cloud) ProviderName() string { return Name }

// HasClusterID is always true: clusters share nothing in which an ID would have to tell them apart.
func (c *Cloud) HasClusterID() bool { return true }
