// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer gives Services of type LoadBalancer their addresses. [Server] is the cloudprovider.LoadBalancer behind
// the upstream service controller: that controller decides when a Service needs attention, this package decides what it gets, and
// package ipam which address is free.
//
// Three records say who has an address, and they are kept in this order of trust:
//
//  1. The claim, a networking.k8s.io/v1 IPAddress named by the address. Creating it is the lock, across leaders, restarts and the
//     ClusterIP allocator.
//  2. The allocator in memory, a cache over the claims. A claim found to be somebody else's corrects the cache.
//  3. The Service's status, which the upstream controller writes from what EnsureLoadBalancer returns. A published address
//     without a claim is claimed again before anything else is given.
//
// Nothing is allocated before pools, Services, namespaces and claims have all been read. A request that cannot be met changes
// nothing: the error becomes an event on the Service, the Service keeps what it has and waits, and the event that could help it (a pool
// edit, a release, a label) wakes it through the service controller's own queue.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=services;namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=ipaddresses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch;update

// maxConflicts bounds how many addresses in a row may turn out to be claimed by somebody else before the Service goes to the
// back of the queue. Each of them is known from then on, so the next attempt starts behind them.
const maxConflicts = 100

// unpublishedGrace is how long a Service keeps an address that it no longer wants and that its status does not show. Another leader, which
// has not yet noticed that it was deposed, may be about to publish it; leases last 15 seconds by default.
const unpublishedGrace = 20 * time.Second

// missedWakeUp is how long others wait where a Service was woken for an address and did not take it. It keeps one that fails again and
// again from turning in circles.
const missedWakeUp = time.Second

// Config is what a Server works with. All fields are required.
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
}

// Informer is the part of an informer that is common to client-go's and controller-runtime's.
type Informer interface {
	AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
	HasSynced() bool
}

// Server implements cloudprovider.LoadBalancer over a pool of addresses. Run must be running for its methods to answer.
type Server struct {
	allocator   *ipam.Allocator
	claims      *claims
	turns       *turns[ipam.Service] // what is done to the addresses of one Service is done in turn
	client      kubernetes.Interface
	poolClient  client.Client
	claimLister networkinglisters.IPAddressLister
	strangers   *strangers
	services    corelisters.ServiceLister
	namespaces  corelisters.NamespaceLister
	recorder    record.EventRecorder
	wake        func(*corev1.Service)
	synced      []cache.InformerSynced
	queue       workqueue.TypedRateLimitingInterface[item]
	usage       chan struct{} // has an item when pool statuses may have changed
	ready       chan struct{} // closed when everything held has been read

	mu sync.Mutex
	// mu guards all following fields.
	pools    []pool                                    // as they are tried
	waiting  map[ipam.Service]waiting                  // Services without all they asked for, and what they were told
	inFlight map[netip.Addr]int                        // addresses being claimed
	retiring map[ipam.Service]map[netip.Addr]time.Time // given up, to be released when the status does not show them, from that time on
}

var _ cloudprovider.LoadBalancer = &Server{}

// New returns a server that has registered its event handlers; the caller starts the informers, then Run.
func New(cfg Config) (*Server, error) {
	s := &Server{
		allocator:   ipam.New(),
		claims:      newClaims(cfg.Client.NetworkingV1().IPAddresses(), cfg.Claims.Lister()),
		turns:       newTurns[ipam.Service](),
		client:      cfg.Client,
		poolClient:  cfg.Pools,
		claimLister: cfg.Claims.Lister(),
		strangers:   newStrangers(cfg.Client),
		services:    cfg.Services.Lister(),
		namespaces:  cfg.Namespaces.Lister(),
		recorder:    cfg.Recorder,
		wake:        cfg.Wake,
		queue:       workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]()),
		usage:       make(chan struct{}, 1),
		ready:       make(chan struct{}),
		waiting:     map[ipam.Service]waiting{},
		inFlight:    map[netip.Addr]int{},
		retiring:    map[ipam.Service]map[netip.Addr]time.Time{},
	}
	return s, s.watch(cfg)
}

// GetLoadBalancer returns what the Service has. exists is true as long as anything is held or published, so that the service
// controller, which drops its finalizer where it is false, never skips a release.
func (s *Server) GetLoadBalancer(ctx context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, false, err
	}
	held := s.allocator.Held(serviceOf(svc))
	return svc.Status.LoadBalancer.DeepCopy(), len(held) > 0 || len(svc.Status.LoadBalancer.Ingress) > 0, nil
}

// GetLoadBalancerName returns namespace/name; there is nothing outside the cluster that needs another name.
func (s *Server) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return serviceOf(svc).String()
}

// UpdateLoadBalancer does nothing: which nodes answer for an address is the speakers' decision.
func (s *Server) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// EnsureLoadBalancer gives the Service one address for each family it wants and returns them in the order of its ipFamilies. An
// error leaves the Service with what it has.
func (s *Server) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	done, err := s.turns.take(ctx, serviceOf(svc))
	if err != nil {
		return nil, err
	}
	defer done()
	start := time.Now()
	out, err := s.ensure(ctx, svc)
	s.mu.Lock()
	woken, promised := s.waiting[serviceOf(svc)].woken, s.waiting[serviceOf(svc)].promised
	s.mu.Unlock()
	if woken && !slices.Equal(addressesOf(out.Assigned), promised) {
		// Others were left asleep for the sake of this one.
		s.queue.AddAfter(item{kind: wakeWaiting}, missedWakeUp)
	}
	if err != nil {
		s.setWaiting(serviceOf(svc), waiting{message: err.Error(), has: published(svc), failed: woken})
		recordFailure(err)
		return nil, fmt.Errorf("no change to the addresses of Service %s: %w", serviceOf(svc), err)
	}
	s.report(svc, out)
	if sharingOf(svc).Key != "" {
		// Its ports, its key or its policy may no longer be in the way of those who want to share.
		s.queue.Add(item{kind: wakeWaiting})
	}
	if len(out.Added) > 0 {
		for _, as := range out.Added {
			allocationSeconds.WithLabelValues(as.Pool, string(family.Of(as.Address))).Observe(time.Since(start).Seconds())
		}
		klog.FromContext(ctx).Info("Allocated addresses", "service", klog.KObj(svc), "addresses", describe(out.Added))
		s.usageChanged()
	}
	return status(out.Assigned), nil
}

func (s *Server) ensure(ctx context.Context, svc *corev1.Service) (ipam.Outcome, error) {
	req, err := s.request(svc)
	if err != nil {
		return ipam.Outcome{}, err
	}
	var claimed []ipam.Assignment
	for range maxConflicts {
		out, err := s.allocator.Allocate(req)
		if err == nil {
			var done []ipam.Assignment
			done, err = s.claim(ctx, req, out.Added)
			claimed = append(claimed, done...)
		}
		if taken, ok := errors.AsType[*conflict](err); ok {
			if err = s.learn(ctx, taken); err == nil {
				continue
			}
		}
		if err != nil {
			s.retireLater(svc, claimed)
			return ipam.Outcome{}, err
		}
		out.Added = slices.DeleteFunc(slices.Clone(out.Assigned), func(as ipam.Assignment) bool { return !slices.Contains(claimed, as) })
		s.retire(svc, out.Surplus)
		return out, nil
	}
	s.retireLater(svc, claimed)
	return ipam.Outcome{}, fmt.Errorf("%d addresses in a row are claimed by others, see kubectl get ipaddresses; trying again", maxConflicts)
}

// request reads the Service together with the pools and namespaces as they are now.
func (s *Server) request(svc *corev1.Service) (ipam.Request, error) {
	namespace, err := s.namespaces.Get(svc.Namespace)
	if err != nil {
		// Its labels decide about pools, and what is once given stays. Its event wakes the Service.
		return ipam.Request{}, fmt.Errorf("the labels of namespace %s are not known yet: %w", svc.Namespace, err)
	}
	s.mu.Lock()
	pools := s.pools
	s.mu.Unlock()
	return newRequest(svc, pools, namespace.Labels)
}

// claim makes the new part of an outcome true and returns how much of it is. What is not, the Service does not hold any more.
func (s *Server) claim(ctx context.Context, req ipam.Request, added []ipam.Assignment) (done []ipam.Assignment, err error) {
	s.fly(added, 1)
	defer s.fly(added, -1)
	for i, as := range added {
		err := s.claims.create(ctx, as, req.Service, func() []ipam.Service {
			// Also one who stays under a key that he has no more, because there is no other address for him.
			return s.allocator.Sharers(as.Address, req.Sharing.Key)
		})
		if err != nil {
			// If the API server created the claim and the answer was lost, the claim's event brings the address back.
			for _, undo := range added[i:] {
				s.allocator.Release(req.Service, undo.Address)
			}
			return added[:i], err
		}
	}
	return added, nil
}

// learn records an address that turned out to be claimed by somebody else.
func (s *Server) learn(ctx context.Context, taken *conflict) error {
	if _, ours := parentOf(taken.claim); ours {
		return s.adopt(ctx, taken.claim)
	}
	s.dispossess(taken.address, ipam.Service{})
	s.allocator.Block(taken.address, parentName(taken.claim))
	s.strangers.meet()
	// It may have gone since it was read.
	s.queue.Add(item{kind: claimChanged, address: taken.address})
	return nil
}

// share reports whether two Services have the same sharing key. The allocator knows more, but for a moment it may have an address for two
// Services that do not share it, when the claim that another leader made becomes known here while the same address is being given.
func (s *Server) share(a, b ipam.Service) bool {
	one, err := s.services.Services(a.Namespace).Get(a.Name)
	if err != nil {
		return false
	}
	other, err := s.services.Services(b.Namespace).Get(b.Name)
	return err == nil && sharingOf(one).Key != "" && sharingOf(one).Key == sharingOf(other).Key
}

// dispossess makes Services forget an address whose claim is another's, and has them ask again.
func (s *Server) dispossess(address netip.Addr, owner ipam.Service) {
	for _, user := range s.allocator.Users(address) {
		if user == owner || s.share(user, owner) {
			continue
		}
		s.allocator.Release(user, address)
		if svc, err := s.services.Services(user.Namespace).Get(user.Name); err == nil && wants(svc) {
			s.wake(svc)
		}
	}
}

// release gives up one address of a Service, claim first.
func (s *Server) release(ctx context.Context, service ipam.Service, as ipam.Assignment) error {
	others := func() []ipam.Service {
		return slices.DeleteFunc(s.allocator.Users(as.Address), func(user ipam.Service) bool { return user == service })
	}
	return s.claims.release(ctx, as, service, others, func() {
		s.allocator.Release(service, as.Address)
		// Even where others stay on the address: it may have been this one who kept somebody from sharing it.
		s.queue.Add(item{kind: wakeWaiting})
		s.usageChanged()
	})
}

// retire has what a Service no longer wants released when the status no longer shows it, so that nobody else gets an address while clients
// still find it here.
func (s *Server) retire(svc *corev1.Service, surplus []ipam.Assignment) {
	s.mu.Lock()
	for address := range s.retiring[serviceOf(svc)] {
		if !slices.ContainsFunc(surplus, func(as ipam.Assignment) bool { return as.Address == address }) {
			delete(s.retiring[serviceOf(svc)], address)
		}
	}
	s.mu.Unlock()
	s.retireLater(svc, surplus)
}

// retireLater adds to what a Service no longer wants. So too goes what a request claimed before it failed: it is there for the next
// attempt, and otherwise released after unpublishedGrace.
func (s *Server) retireLater(svc *corev1.Service, more []ipam.Assignment) {
	service := serviceOf(svc)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, as := range more {
		if _, ok := s.retiring[service][as.Address]; ok {
			continue
		}
		var from time.Time
		if !slices.Contains(published(svc), as.Address) {
			from = time.Now().Add(unpublishedGrace)
		}
		// The event of the status that no longer shows it may have passed already, where another leader wrote that.
		s.queue.AddAfter(item{kind: serviceChanged, service: service}, unpublishedGrace)
		if s.retiring[service] == nil {
			s.retiring[service] = map[netip.Addr]time.Time{}
		}
		s.retiring[service][as.Address] = from
	}
	if len(s.retiring[service]) == 0 {
		delete(s.retiring, service)
	}
}

// EnsureLoadBalancerDeleted releases everything the Service has. It may be called again after a success.
func (s *Server) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	done, err := s.turns.take(ctx, serviceOf(svc))
	if err != nil {
		return err
	}
	defer done()
	held := s.allocator.Held(serviceOf(svc))
	if err := s.releaseAll(ctx, serviceOf(svc)); err != nil {
		return err
	}
	// Nobody reads the events of a Service that is going away.
	if len(held) > 0 && svc.DeletionTimestamp == nil {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventReleasedAddresses, "Released %s", describe(held))
	}
	return nil
}

func (s *Server) releaseAll(ctx context.Context, service ipam.Service) error {
	s.mu.Lock()
	if s.waiting[service].woken {
		s.queue.Add(item{kind: wakeWaiting})
	}
	delete(s.waiting, service)
	delete(s.retiring, service)
	s.mu.Unlock()
	held := s.allocator.Held(service)
	var errs []error
	for _, as := range held {
		errs = append(errs, s.release(ctx, service, as))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(held) > 0 {
		klog.FromContext(ctx).Info("Released addresses", "service", service, "addresses", describe(held))
	}
	return nil
}

// report tells the user, by events on the Service, what an outcome means.
func (s *Server) report(svc *corev1.Service, out ipam.Outcome) {
	if len(out.Added) > 0 {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, v1alpha1.EventAllocatedAddresses, "Allocated %s", describe(out.Added))
	}
	service := serviceOf(svc)
	if len(out.Missing) == 0 {
		s.mu.Lock()
		delete(s.waiting, service)
		s.mu.Unlock()
		return
	}
	var why []string
	for _, m := range out.Missing {
		why = append(why, m.Error())
		recordMissing(m)
	}
	message := strings.Join(why, "; ")
	if s.setWaiting(service, waiting{message: message, has: addressesOf(out.Assigned)}) {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventMissingAddress, "Waiting for an address: %s", message)
	}
}

// waiting is what a Service that lacks something was told, and the addresses it goes on with meanwhile.
type waiting struct {
	message  string
	has      []netip.Addr
	woken    bool         // since it was told so
	promised []netip.Addr // what it would have got when it was woken
	failed   bool         // it was woken and got nothing; who failed has to stand behind the others
}

// setWaiting records that the Service lacks something. It reports whether it was told something else, or nothing, before.
func (s *Server) setWaiting(service ipam.Service, w waiting) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, waited := s.waiting[service]
	s.waiting[service] = w
	return !waited || before.message != w.message
}

func addressesOf(assigned []ipam.Assignment) []netip.Addr {
	var addresses []netip.Addr
	for _, as := range assigned {
		addresses = append(addresses, as.Address)
	}
	return addresses
}

// fly counts addresses that are being claimed, which the claim's events must not be held against.
func (s *Server) fly(assigned []ipam.Assignment, delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, as := range assigned {
		if s.inFlight[as.Address] += delta; s.inFlight[as.Address] == 0 {
			delete(s.inFlight, as.Address)
		}
	}
}

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
