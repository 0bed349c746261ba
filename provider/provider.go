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
	"runtime/debug"
	"time"

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

// startsWithin is the time within which the caches are filled at the start. After it, the memory that only the filling needed is given back to
// the system, of which the runtime would keep a part.
const startsWithin = time.Minute

// Config is what a Cloud works with. All fields but ClassOnly, FormerClasses and Rules are required.
type Config struct {
	REST      *rest.Config
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	// Namespace is Tandem's own, for the Leases of the speakers.
	Namespace string
	// SecretsNamespace is where the speakers look for their Secrets.
	SecretsNamespace string
	// ClassOnly leaves Services without a load balancer class to another provider.
	ClassOnly bool
	// FormerClasses are load balancer classes of other products that are served like Tandem's own.
	FormerClasses []string
	// NodesOnly leaves all Services to other providers, as where the service controller does not run.
	NodesOnly bool
	// LeaseDuration is how long a leader may go on before it notices that another one has taken the lead. Less than 15 seconds count as 15.
	LeaseDuration time.Duration
	// Rules say which annotations of Services count.
	Rules request.Rules
}

// Cloud implements cloudprovider.Interface.
type Cloud struct {
	balancer   cloudprovider.LoadBalancer // nil where Services are left to others, as the next two
	failures   *failures
	healthy    func() error
	instances  *instances
	services   *serviceInformer
	nodes      *nodeInformer
	claims     informers.SharedInformerFactory
	apiServers informers.SharedInformerFactory        // their endpoints
	parts      map[string]func(context.Context) error // run on the leader, by their names in logs
	recorder   record.EventRecorder
}

var _ cloudprovider.Interface = &Cloud{}

// New builds a Cloud whose informers have not started. It fails where the API does not serve AddressPool.
func New(ctx context.Context, cfg Config) (*Cloud, error) {
	kinds, kindsClient, err := newKinds(cfg)
	if err != nil {
		return nil, err
	}
	claims := informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String()
	}))
	core, ourClaims := cfg.Informers.Core().V1(), claims.Networking().V1().IPAddresses()
	for informer, trim := range map[cache.SharedInformer]cache.TransformFunc{
		core.Services().Informer():                                 classView{onlyOurs: cfg.ClassOnly, former: cfg.FormerClasses}.transform,
		core.Nodes().Informer():                                    trimNode,
		cfg.Informers.Discovery().V1().EndpointSlices().Informer(): trimEndpointSlice,
		ourClaims.Informer():                                       (&claimTrimmer{}).trim,
	} {
		if err := informer.SetTransform(trim); err != nil {
			return nil, fmt.Errorf("transforming what a cache keeps: %w", err)
		}
	}
	if err := warnOfAnnotations(cfg.Informers, cfg.Recorder); err != nil {
		return nil, err
	}
	nodes := &nodeInformer{NodeInformer: core.Nodes()}
	speakers, err := kinds.GetInformer(ctx, &speakerv1alpha1.SpeakerStatus{}, ctrlcache.BlockUntilSynced(false))
	if err == nil {
		_, err = speakers.AddEventHandler(nodes.speakerHandler())
	}
	if err != nil {
		return nil, fmt.Errorf("watching SpeakerStatuses: %w", err)
	}
	effective := newEffective()
	c := &Cloud{
		instances:  &instances{speakers: kindsClient, claims: ourClaims.Lister(), synced: ourClaims.Informer().HasSynced},
		services:   &serviceInformer{ServiceInformer: core.Services(), alone: func() bool { return false }},
		nodes:      nodes,
		claims:     claims,
		apiServers: apiServerEndpoints(cfg.Client),
		parts: map[string]func(context.Context) error{
			"the cache of Tandem's kinds":        kinds.Start,
			"the conditions of what users write": newConditionWriter(kindsClient, kinds, effective).run,
			"the key of the speakers' gossip":    (&gossipKey{client: cfg.Client, namespace: cfg.SecretsNamespace}).run,
			"the statuses of speakers that are gone": (&statusCollector{
				client: kindsClient, cache: kinds, api: cfg.Client, nodes: core.Nodes(), namespace: cfg.Namespace,
			}).run,
		},
		recorder: cfg.Recorder,
	}
	if !cfg.ClassOnly {
		c.services.alone = noOtherProvider(core.Nodes())
	}
	if cfg.NodesOnly {
		return c, nil
	}
	return c, c.serve(ctx, cfg, kinds, kindsClient, effective)
}

// newKinds returns a cache of Tandem's kinds, and a client that reads from it.
func newKinds(cfg Config) (ctrlcache.Cache, client.Client, error) {
	scheme := config.Scheme()
	kinds, err := ctrlcache.New(cfg.REST, ctrlcache.Options{
		Scheme: scheme, DefaultTransform: ctrlcache.TransformStripManagedFields(),
		ByObject: map[client.Object]ctrlcache.ByObject{&coordinationv1.Lease{}: {
			Namespaces: map[string]ctrlcache.Config{cfg.Namespace: {}},
			Label:      labels.SelectorFromSet(labels.Set{observation.LabelReport: "true"}),
		}},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("building the cache of Tandem's kinds: %w", err)
	}
	kindsClient, err := client.New(cfg.REST, client.Options{Scheme: scheme, Cache: &client.CacheOptions{Reader: kinds}})
	if err != nil {
		return nil, nil, fmt.Errorf("building the client of Tandem's kinds: %w", err)
	}
	return kinds, kindsClient, nil
}

// serve adds the parts that give Services their addresses, and that say how the Services are.
func (c *Cloud) serve(ctx context.Context, cfg Config, kinds ctrlcache.Cache, kindsClient client.Client, effective *effective) error {
	pools, err := kinds.GetInformer(ctx, &v1alpha1.AddressPool{}, ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watching AddressPools (are the CustomResourceDefinitions installed?): %w", err)
	}
	network, err := newNetwork(ctx, cfg.Informers, c.apiServers, kinds)
	if err != nil {
		return err
	}
	core, claims := cfg.Informers.Core().V1(), c.claims.Networking().V1().IPAddresses()
	server, err := loadbalancer.New(loadbalancer.Config{
		Client:        cfg.Client,
		Pools:         kindsClient,
		PoolInformer:  pools,
		Services:      core.Services(),
		Namespaces:    core.Namespaces(),
		Claims:        claims,
		Recorder:      cfg.Recorder,
		Rules:         cfg.Rules,
		Wake:          c.services.wake,
		Network:       network.read,
		NetworkSynced: network.synced(),
		LeaseDuration: cfg.LeaseDuration,
	})
	if err != nil {
		return err
	}
	if err := network.follow(server.NetworkChanged); err != nil {
		return err
	}
	conditions := &serviceConditions{
		client: cfg.Client, services: core.Services(), slices: cfg.Informers.Discovery().V1().EndpointSlices(), nodes: core.Nodes(),
		claims: claims, cache: kinds, objects: kinds, recorder: cfg.Recorder, contested: server.Contested,
		effective: effective, changed: signal.New(), diagnosed: map[types.NamespacedName]*diagnosed{},
	}
	conditions.failures = newFailures(conditions.changed)
	c.balancer, c.failures, c.healthy = notingLoadBalancer{server, conditions.failures}, conditions.failures, server.Healthy
	c.parts["addresses"] = server.Run
	c.parts["the conditions of Services"] = conditions.run
	c.parts["the records of Services that are gone"] = (&recordCollector{
		client: kindsClient, cache: kinds, services: core.Services(), changed: signal.New(),
	}).run
	return nil
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
	time.AfterFunc(startsWithin, debug.FreeOSMemory)
	for part, run := range c.parts {
		go func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				klog.ErrorS(err, "Failed to run a part of the provider", "part", part)
				klog.FlushAndExit(klog.ExitFlushTimeout, 1)
			}
		}()
	}
}

// LoadBalancer returns the server of addresses, unless Services are left to others.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) {
	return c.balancer, c.balancer != nil
}

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
