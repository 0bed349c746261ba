// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/contest"
	"github.com/tandem-lb/tandem/loadbalancer/keyedlock"
	"github.com/tandem-lb/tandem/loadbalancer/ledger"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/loadbalancer/writer"
)

// +kubebuilder:rbac:groups="",resources=services;namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=ipaddresses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch

// maxClaimed bounds how many addresses in a row may turn out to be claimed by others before the Service goes to the
// back of the queue. The cache knows each of them from then on, so that the next attempt starts behind them.
const maxClaimed = 100

// Config is what a Server works with. The fields up to Wake are required.
type Config struct {
	Client kubernetes.Interface
	// Pools reads AddressPools from a cache and writes their status.
	Pools client.Client
	// PoolInformer tells of changes to AddressPools.
	PoolInformer Informer
	// Services shows the Services that are ours, with spec.loadBalancerClass cleared; see package provider.
	Services   coreinformers.ServiceInformer
	Namespaces coreinformers.NamespaceInformer
	// Claims shows IPAddresses with our label.
	Claims   networkinginformers.IPAddressInformer
	Recorder record.EventRecorder
	// Wake makes the service controller look at a Service now.
	Wake func(*corev1.Service)
	// Network reads, from caches, the network that the Nodes are on, so that no address of it is given; nothing is
	// given before NetworkSynced. The caller calls Server.NetworkChanged when it changes.
	Network       func(context.Context) (ipam.Network, error)
	NetworkSynced []cache.InformerSynced
	// LeaseDuration is how long a leader may go on before it notices that another one has taken the lead. Less than
	// 15 seconds count as 15.
	LeaseDuration time.Duration
	// Rules say which annotations of Services count.
	Rules request.Rules
}

// Informer is the part of an informer that is common to client-go's and controller-runtime's.
type Informer interface {
	AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
	HasSynced() bool
}

// Server implements cloudprovider.LoadBalancer over pools of addresses. Run must be running for its methods to
// answer.
//
// Two locks order the work on addresses, and a goroutine takes them in this order: that of a Service, which a
// request holds from beginning to end, and that of an address, held for one claim. What a Service holds is released
// under its lock, so that no request goes on with an address that is being released.
type Server struct {
	ledger       *ledger.Ledger // what is known of addresses and Services
	claims       *writer.Claims
	serviceLocks *keyedlock.Lock[ipam.Service]
	addressLocks *keyedlock.Lock[netip.Addr]
	client       kubernetes.Interface
	poolClient   client.Client
	namespaces   corelisters.NamespaceLister
	recorder     record.EventRecorder
	wake         func(*corev1.Service)
	network      func(context.Context) (ipam.Network, error) // nil where nothing is known of it
	poolLost     time.Time                                   // when a pool went last; of the goroutine of plans
	reservedHeld map[netip.Addr]bool                         // what Services held when reservations were last reported
	synced       []cache.InformerSynced                      // of all informers
	plans        workqueue.TypedRateLimitingInterface[item]  // for the one goroutine that works in memory
	repairs      workqueue.TypedRateLimitingInterface[item]  // for the workers, which a slow API delays
	contests     *contest.Contests                           // with other writers of statuses
	planning     atomic.Int64                                // when the item of plans was taken that is being worked on, in nanoseconds, or 0
	loaded       time.Time                                   // when everything held was read; set before ready is closed
	ready        chan struct{}                               // closed when everything held has been read
	pools        atomic.Pointer[request.Pools]               // as they are tried
	generations  atomic.Pointer[map[string]int64]            // of the AddressPools that the allocator has
}

var _ cloudprovider.LoadBalancer = &Server{}

// New returns a server that has registered its event handlers; the caller starts the informers, then Run.
func New(cfg Config) (*Server, error) {
	ledger, err := ledger.New(cfg.Services, cfg.Claims, cfg.Rules, cfg.LeaseDuration)
	if err != nil {
		return nil, err
	}
	s := &Server{
		ledger:       ledger,
		claims:       writer.New(cfg.Client.NetworkingV1().IPAddresses(), ledger),
		serviceLocks: keyedlock.New[ipam.Service](),
		addressLocks: keyedlock.New[netip.Addr](),
		client:       cfg.Client,
		poolClient:   cfg.Pools,
		namespaces:   cfg.Namespaces.Lister(),
		recorder:     cfg.Recorder,
		wake:         cfg.Wake,
		network:      cfg.Network,
		synced:       slices.Clone(cfg.NetworkSynced),
		plans:        newQueue(),
		repairs:      newQueue(),
		contests:     contest.New(),
		ready:        make(chan struct{}),
	}
	return s, s.watch(cfg)
}

// GetLoadBalancer returns what the Service has. exists is true as long as anything is held or published, so that
// the service controller, which drops its finalizer where it is false, never skips a release.
//
// For example, web is being deleted, has 192.0.2.1, and another controller has emptied its status: exists is true, since
// the cache holds 192.0.2.1 for web.
func (s *Server) GetLoadBalancer(ctx context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, false, err
	}
	held := s.ledger.Cache.Held(request.ServiceOf(svc))
	return svc.Status.LoadBalancer.DeepCopy(), len(held) > 0 || len(svc.Status.LoadBalancer.Ingress) > 0, nil
}

// GetLoadBalancerName returns namespace/name; there is nothing outside the cluster that needs another name.
func (s *Server) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return request.ServiceOf(svc).String()
}

// UpdateLoadBalancer does nothing: which nodes answer for an address is the speakers' decision.
func (s *Server) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// EnsureLoadBalancer gives the Service one address for each family it wants and returns them in the order of its
// ipFamilies, or as the status shows them, if it shows these and no other. An error leaves the Service with what it has: the service controller then keeps the status, and tries
// again after 5 to 300 seconds.
//
// For example, web has ipFamilies IPv4, IPv6 and PreferDualStack, and no pool has IPv6 addresses. It returns
// 192.0.2.1 alone, and web waits: as soon as a pool has an IPv6 address, web is woken, and the next call returns
// 192.0.2.1 and 2001:db8::1.
func (s *Server) EnsureLoadBalancer(
	ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	unlock, err := s.serviceLocks.Acquire(ctx, request.ServiceOf(svc))
	if err != nil {
		return nil, err
	}
	defer unlock()
	start := time.Now()
	shows := s.ledger.Shows(svc)
	_, answered := s.ledger.Answer(request.ServiceOf(svc))
	out, err := s.allocate(ctx, svc)
	if err == nil {
		s.tellOfSharing(svc, out)
		if answered {
			shows = ipam.AddressesOf(out.Assigned)
		}
	}
	s.tellOfAnnotations(svc, shows)
	s.report(svc, out, err)
	if err != nil {
		return nil, fmt.Errorf("no change to the addresses of Service %s: %w", request.ServiceOf(svc), err)
	}
	if len(out.Added) > 0 {
		for _, as := range out.Added {
			allocationSeconds.WithLabelValues(as.Pool, string(family.Of(as.Address))).Observe(time.Since(start).Seconds())
		}
		klog.FromContext(ctx).Info("Allocated addresses", "service", klog.KObj(svc), "addresses", describe(out.Added))
		s.usageChanged()
	}
	if showsAll(&svc.Status.LoadBalancer, ipam.AddressesOf(out.Assigned)) {
		return svc.Status.LoadBalancer.DeepCopy(), nil
	}
	return status(out.Assigned), nil
}

// allocate answers a request: it allocates, claims, and allocates again where a claim is another's. Added in the
// outcome is what was claimed.
//
// For example, web is to get 192.0.2.1, and that is the IPAddress of a ClusterIP. The creation of the claim fails,
// repair blocks the address in the cache, and the allocator gives 192.0.2.2.
func (s *Server) allocate(ctx context.Context, svc *corev1.Service) (ipam.Outcome, error) {
	req, err := s.request(svc)
	if err != nil {
		return ipam.Outcome{}, err
	}
	var claimed []ipam.Assignment
	tries := map[netip.Addr]int{} // to claim an address for the Service, beside others that it may share it with
	for range maxClaimed {
		out, err := s.ledger.Cache.Allocate(time.Now(), req)
		if err == nil {
			var done []ipam.Assignment
			done, err = s.claim(ctx, svc, req, out.Added)
			claimed = append(claimed, done...)
		}
		if err == nil {
			var over []ipam.Assignment
			over, err = s.checkLimits(ctx, svc, req, out)
			claimed = append(claimed, over...)
		}
		if other, ok := errors.AsType[*writer.ClaimedByOther](err); ok && tries[other.Address] < writer.MaxTries {
			tries[other.Address]++
			if err = s.repair(ctx, other.Address, caller{service: req.Service, requesting: true, lagging: true}); err == nil {
				continue
			}
		}
		if err != nil {
			// What was claimed is there for the next attempt, and is released after the grace otherwise.
			s.markSurplus(svc, claimed)
			return ipam.Outcome{}, err
		}
		out.Added = slices.DeleteFunc(slices.Clone(out.Assigned), func(as ipam.Assignment) bool { return !slices.Contains(claimed, as) })
		s.ledger.Answered(req.Service, ipam.AddressesOf(out.Assigned))
		s.ledger.MarkWriting(svc, out.Assigned)
		s.markSurplus(svc, out.Surplus)
		return out, nil
	}
	s.markSurplus(svc, claimed)
	return ipam.Outcome{}, fmt.Errorf("%d addresses in a row are claimed by others, see kubectl get ipaddresses; trying again", maxClaimed)
}

// request reads the Service together with the pools and namespaces as they are now. For example, web of namespace shop
// asks for nothing in particular, and pool lan is for namespaces with the label team=shop. Whether the request may be
// met from lan depends on labels that the Service does not have: the namespace is looked up each time.
//
// What the status shows before our first answer may be another load balancer's. Afterwards it is ours, or somebody has written over it.
func (s *Server) request(svc *corev1.Service) (ipam.Request, error) {
	namespace, err := s.namespaces.Get(svc.Namespace)
	if err != nil {
		// The namespace's labels decide about pools, and a Service keeps what it was once given. The namespace's
		// event wakes the Service.
		return ipam.Request{}, fmt.Errorf("the labels of namespace %s are not known yet: %w", svc.Namespace, err)
	}
	shows := s.ledger.Shows(svc)
	has := len(shows) > 0 || len(s.ledger.Cache.Held(request.ServiceOf(svc))) > 0
	req, err := s.ledger.Rules.New(svc, s.pools.Load(), namespace.Labels, shows, has)
	if _, answered := s.ledger.Answer(req.Service); !answered {
		req.Inherited = request.Inherited(svc)
	}
	return req, err
}

// claim creates the claims of the new part of an outcome and returns how much of it is claimed. The rest the
// Service holds no longer.
//
// For example, web is to get 192.0.2.1 and 2001:db8::1. The first claim is created, and the creation of the second one
// fails. The cache takes 2001:db8::1 from web, and web holds 192.0.2.1, which the next attempt finds and goes on with.
func (s *Server) claim(
	ctx context.Context, svc *corev1.Service, req ipam.Request, added []ipam.Assignment,
) (done []ipam.Assignment, err error) {
	s.ledger.MarkWriting(svc, added)
	for i, as := range added {
		if err := s.claimOne(ctx, as, req); err != nil {
			// If the API server created the claim and the answer was lost, the claim's event brings the address
			// back.
			for _, undo := range added[i:] {
				s.ledger.Drop(time.Time{}, req.Service, undo.Address)
			}
			return added[:i], err
		}
	}
	return added, nil
}

// claimOne creates one claim, or joins the one that there is, under the lock of its address. A Service with a sharing
// key is written on the claim from the beginning, although it is alone there, so that those that come later know its
// ports: one write, as without a key.
func (s *Server) claimOne(ctx context.Context, as ipam.Assignment, req ipam.Request) error {
	unlock, err := s.addressLocks.Acquire(ctx, as.Address)
	if err != nil {
		return err
	}
	defer unlock()
	var sharers map[ipam.Service][]ipam.Port
	if req.Sharing.Key != "" {
		sharers = map[ipam.Service][]ipam.Port{req.Service: req.Sharing.Ports}
	}
	// The others are read under the lock, so that none of them leaves meanwhile.
	return s.claims.Create(ctx, as, writer.Claimant{
		Service: req.Service, Key: req.Sharing.Key, Sharers: sharers, Others: s.ledger.Cache.Sharers(as.Address, req.Sharing),
	})
}

// markSurplus has what a Service does not want any more released when the status does not show it, so that no other
// Service gets an address while clients still find it here.
//
// For example, web has 192.0.2.1 and asks for 192.0.2.7. The answer to the request is 192.0.2.7, and 192.0.2.1 is
// surplus. The service controller writes the status; its event shows 192.0.2.7 alone, and 192.0.2.1 is released.
func (s *Server) markSurplus(svc *corev1.Service, surplus []ipam.Assignment) {
	if len(surplus) == 0 {
		return
	}
	s.ledger.MarkSurplus(svc, surplus)
	// The event of the status that no longer shows it may have passed already, where another leader wrote that.
	s.repairs.AddAfter(item{kind: repairService, service: request.ServiceOf(svc)}, s.ledger.Grace)
}

// EnsureLoadBalancerDeleted releases everything the Service has. It may be called again after a success. After an
// error the Service holds what was not released, so that GetLoadBalancer still says that it exists, and the service
// controller calls again.
//
// For example, web and api share 192.0.2.1, and web is deleted: web is taken off the claim, which stays for api.
func (s *Server) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	service := request.ServiceOf(svc)
	unlock, err := s.serviceLocks.Acquire(ctx, service)
	if err != nil {
		return err
	}
	defer unlock()
	s.forget(service)
	held := s.ledger.Cache.Held(service)
	var errs []error
	for _, as := range held {
		errs = append(errs, s.repair(ctx, as.Address, caller{service: service, releasing: true}))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Nobody reads the events of a Service that is going away.
	if len(held) > 0 && svc.DeletionTimestamp == nil {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventReleasedAddresses, "Released %s", describe(held))
	}
	return nil
}

// waitReady waits until everything that is held has been read. Before, an address that looks free may be a
// Service's.
func (s *Server) waitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("still reading pools, Services and claims: %w", context.Cause(ctx))
	}
}

// describe lists addresses with their pools: "192.0.2.1 and 2001:db8::1 from AddressPool lan".
func describe(assigned []ipam.Assignment) string {
	var parts []string
	for i := 0; i < len(assigned); {
		var same []string
		pool := assigned[i].Pool
		for ; i < len(assigned) && assigned[i].Pool == pool; i++ {
			same = append(same, assigned[i].Address.String())
		}
		part := strings.Join(same, " and ")
		if pool != "" {
			part += " from AddressPool " + pool
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// showsAll reports whether a status shows these addresses and nothing else, so that it need not be written. Order, ports and further entries of
// an address are another load balancer's, and tell clients the same. For example, kube-vip writes the ports beside the address, and takes the
// address off its node when they go. With the mode Proxy the address has to be written: kube-proxy does not forward to it then.
func showsAll(status *corev1.LoadBalancerStatus, addresses []netip.Addr) bool {
	shown := map[netip.Addr]bool{}
	for _, ingress := range status.Ingress {
		a, err := netip.ParseAddr(ingress.IP)
		if err != nil || !slices.Contains(addresses, a) || ingress.IPMode != nil && *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
			return false
		}
		shown[a] = true
	}
	return len(shown) == len(addresses)
}

// status is what a Service with these addresses shows.
func status(assigned []ipam.Assignment) *corev1.LoadBalancerStatus {
	mode := corev1.LoadBalancerIPModeVIP
	s := &corev1.LoadBalancerStatus{}
	for _, as := range assigned {
		s.Ingress = append(s.Ingress, corev1.LoadBalancerIngress{IP: as.Address.String(), IPMode: &mode})
	}
	return s
}
