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
	"k8s.io/apimachinery/pkg/labels"
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
)

// +kubebuilder:rbac:groups="",resources=services;namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=ipaddresses,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch;update

// maxConflicts bounds how many addresses in a row may turn out to be claimed by somebody else before the Service goes to the
// back of the queue. Each of them is known from then on, so the next attempt starts behind them.
const maxConflicts = 100

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
	client      kubernetes.Interface
	poolClient  client.Client
	claimLister networkinglisters.IPAddressLister
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
	pools    []pool                        // as they are tried
	waiting  map[ipam.Service]string       // Services without all they asked for, and what they were told
	inFlight map[netip.Addr]int            // addresses being claimed
	retiring map[ipam.Service][]netip.Addr // given up, to be released when the status no longer shows them
}

var _ cloudprovider.LoadBalancer = &Server{}

// New returns a server that has registered its event handlers; the caller starts the informers, then Run.
func New(cfg Config) (*Server, error) {
	s := &Server{
		allocator:   ipam.New(),
		claims:      newClaims(cfg.Client.NetworkingV1().IPAddresses()),
		client:      cfg.Client,
		poolClient:  cfg.Pools,
		claimLister: cfg.Claims.Lister(),
		services:    cfg.Services.Lister(),
		namespaces:  cfg.Namespaces.Lister(),
		recorder:    cfg.Recorder,
		wake:        cfg.Wake,
		queue:       workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]()),
		usage:       make(chan struct{}, 1),
		ready:       make(chan struct{}),
		waiting:     map[ipam.Service]string{},
		inFlight:    map[netip.Addr]int{},
		retiring:    map[ipam.Service][]netip.Addr{},
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
	start := time.Now()
	out, err := s.ensure(ctx, svc)
	if err != nil {
		s.setWaiting(serviceOf(svc), err.Error())
		recordFailure(err)
		return nil, fmt.Errorf("no change to the addresses of Service %s: %w", serviceOf(svc), err)
	}
	s.report(svc, out)
	if len(out.Added) > 0 {
		for _, as := range out.Added {
			allocationSeconds.WithLabelValues(as.Pool, string(ipam.FamilyOf(as.Address))).Observe(time.Since(start).Seconds())
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
	for range maxConflicts {
		out, err := s.allocator.Allocate(req)
		if err != nil {
			return ipam.Outcome{}, err
		}
		err = s.claim(ctx, req.Service, out)
		var taken *conflict
		if errors.As(err, &taken) {
			s.learn(taken)
			continue
		}
		if err != nil {
			return ipam.Outcome{}, err
		}
		return out, s.retire(ctx, svc, out.Surplus)
	}
	return ipam.Outcome{}, fmt.Errorf("%d addresses in a row are claimed by others, see kubectl get ipaddresses; trying again", maxConflicts)
}

// request reads the Service together with the pools and namespaces as they are now.
func (s *Server) request(svc *corev1.Service) (ipam.Request, error) {
	var namespace labels.Set
	if ns, err := s.namespaces.Get(svc.Namespace); err == nil {
		namespace = ns.Labels
	}
	s.mu.Lock()
	pools := s.pools
	s.mu.Unlock()
	return newRequest(svc, pools, namespace)
}

// claim makes the new part of an outcome true. On error it has undone what it did.
func (s *Server) claim(ctx context.Context, service ipam.Service, out ipam.Outcome) error {
	s.fly(out.Added, 1)
	defer s.fly(out.Added, -1)
	for i, as := range out.Added {
		err := s.claims.create(ctx, as, service, func() []ipam.Service { return s.allocator.Users(as.Address) })
		if err == nil {
			continue
		}
		for _, undo := range out.Added[i:] {
			s.allocator.Release(service, undo.Address)
		}
		// The request may have ended with its context; what it claimed must not stay behind.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		for _, undo := range out.Added[:i] {
			if undoErr := s.release(ctx, service, undo); undoErr != nil {
				err = errors.Join(err, undoErr)
			}
		}
		return err
	}
	return nil
}

// learn records an address that turned out to be claimed by somebody else.
func (s *Server) learn(taken *conflict) {
	if parent, ours := parentOf(taken.claim); ours {
		s.hold(parent, taken.address, taken.claim)
		return
	}
	s.allocator.Block(taken.address, parentName(taken.claim))
}

// release gives up one address of a Service, claim first.
func (s *Server) release(ctx context.Context, service ipam.Service, as ipam.Assignment) error {
	others := func() []ipam.Service {
		return slices.DeleteFunc(s.allocator.Users(as.Address), func(user ipam.Service) bool { return user == service })
	}
	return s.claims.release(ctx, as, service, others, func() {
		if s.allocator.Release(service, as.Address) {
			s.queue.Add(item{kind: wakeWaiting})
			s.usageChanged()
		}
	})
}

// retire releases what a Service no longer wants: at once where clients have not been told of it, else when the status no longer
// shows it, so that nobody else gets an address while clients still find it here.
func (s *Server) retire(ctx context.Context, svc *corev1.Service, surplus []ipam.Assignment) error {
	var later []netip.Addr
	var errs []error
	for _, as := range surplus {
		if slices.Contains(published(svc), as.Address) {
			later = append(later, as.Address)
			continue
		}
		errs = append(errs, s.release(ctx, serviceOf(svc), as))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(later) > 0 {
		s.retiring[serviceOf(svc)] = later
	} else {
		delete(s.retiring, serviceOf(svc))
	}
	return errors.Join(errs...)
}

// EnsureLoadBalancerDeleted releases everything the Service has. It may be called again after a success.
func (s *Server) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	held := s.allocator.Held(serviceOf(svc))
	if err := s.releaseAll(ctx, serviceOf(svc)); err != nil {
		return err
	}
	// Nobody reads the events of a Service that is going away.
	if len(held) > 0 && svc.DeletionTimestamp == nil {
		s.recorder.Eventf(svc, corev1.EventTypeNormal, "ReleasedAddresses", "Released %s", describe(held))
	}
	return nil
}

func (s *Server) releaseAll(ctx context.Context, service ipam.Service) error {
	s.mu.Lock()
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
		s.recorder.Eventf(svc, corev1.EventTypeNormal, "AllocatedAddresses", "Allocated %s", describe(out.Added))
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
	if s.setWaiting(service, message) {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, "MissingAddress", "Waiting for an address: %s", message)
	}
}

// setWaiting records that the Service lacks something. It reports whether it was told something else, or nothing, before.
func (s *Server) setWaiting(service ipam.Service, message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[service] == message {
		return false
	}
	s.waiting[service] = message
	return true
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
