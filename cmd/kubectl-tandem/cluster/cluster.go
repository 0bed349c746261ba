// SPDX-License-Identifier: Apache-2.0

// Package cluster reads a cluster for the commands of the plugin: once, whole, and into a form that they only have to print.
//
// A State holds the objects of the API, the [decision.Snapshot] that observation makes of them, and a [diagnosis.Diagnoser]. So each command says what
// speakers and the controller manager say, from the code by which they decide. For example `kubectl tandem status` counts the Services that are not
// announced by asking the Diagnoser, and never by a rule of its own.
//
// Reading needs the ClusterRole tandem-view, and writes nothing.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// DefaultSystem is the namespace in which the manifests install Tandem.
	DefaultSystem = "tandem-system"
	// LeaderLease is the name of the Lease of the controller manager's leader.
	LeaderLease = "tandem-cloud-controller-manager"
)

// Cluster is a connection to a cluster.
type Cluster struct {
	// Client reads and writes the kinds of [config.Scheme], without a cache.
	Client client.Client
	// Clientset is for what Client cannot do: subresources, and kinds that the scheme does not have.
	Clientset kubernetes.Interface
	// REST is the configuration of both, for port-forwards.
	REST *rest.Config
	// System is the namespace of Tandem that the user gave, "" for none.
	System string
	// Now returns the time of the API server, as its last answer had it.
	Now func() time.Time
}

// State is what a cluster is at a moment. Nothing in it may be changed.
type State struct {
	// Objects are without Secrets. Its Services are those of type LoadBalancer, and its EndpointSlices theirs. Its claims are Tandem's, and those that
	// [Cluster.Foreign] has added.
	observation.Objects
	Leases []coordinationv1.Lease
	// APIServers are the EndpointSlices of the Service kubernetes.
	APIServers []*discoveryv1.EndpointSlice
	// Leader is the Lease of the controller manager's leader, nil if there is none.
	Leader *coordinationv1.Lease
	// System is the namespace of Tandem: the one that the user gave, or where the speakers' Leases are, or else DefaultSystem.
	System string
	// Now is the time of the API server.
	Now time.Time
	// View is who is alive, by the Leases and the clock of the API server.
	View observation.View

	Snapshot  *decision.Snapshot
	Diagnoser *diagnosis.Diagnoser
}

// Read reads the cluster. The lists are read side by side, so that they are of slightly different moments, as those of any cache are. The error of a
// list that may not be read names the kind and the ClusterRole that gives the right.
func (c *Cluster) Read(ctx context.Context) (*State, error) {
	s, failures := c.ReadPart(ctx)
	if len(failures) > 0 {
		return nil, failures[0]
	}
	return s, nil
}

// ReadServices reads the cluster with a few Services alone: of other Services there are no objects in the State. What the Diagnoser says of these Services on
// layer 2 is right if none of the others shares an address with them. Whether a BGP session carries all that it should only Read can tell.
func (c *Cluster) ReadServices(ctx context.Context, services []types.NamespacedName) (*State, error) {
	s, r := &State{}, &reading{ctx: ctx, client: c.Client}
	parts := make([]struct {
		services      corev1.ServiceList
		slices        discoveryv1.EndpointSliceList
		announcements speakerv1alpha1.L2AnnouncementList
	}, len(services))
	for i, name := range services {
		p := &parts[i]
		r.list(&p.services, client.InNamespace(name.Namespace), client.MatchingFields{
			"metadata.name": name.Name, "spec.type": string(corev1.ServiceTypeLoadBalancer),
		})
		r.list(&p.slices, client.InNamespace(name.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: name.Name})
		r.list(&p.announcements, client.MatchingFields{"metadata.name": name.Namespace + "." + name.Name})
	}
	c.readCommon(s, r)
	r.wait.Wait()
	var ips []string
	for i := range parts {
		p := &parts[i]
		s.Services.Items = append(s.Services.Items, p.services.Items...)
		s.EndpointSlices.Items = append(s.EndpointSlices.Items, p.slices.Items...)
		s.Announcements.Items = append(s.Announcements.Items, p.announcements.Items...)
		for j := range p.services.Items {
			for _, ingress := range p.services.Items[j].Status.LoadBalancer.Ingress {
				if ip, err := netip.ParseAddr(ingress.IP); err == nil {
					ips = append(ips, ip.String()) // The name of an IPAddress is the address in its shortest form.
				}
			}
		}
	}
	claims := make([]networkingv1.IPAddressList, len(ips))
	for i, ip := range ips {
		r.list(&claims[i], client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy}, client.MatchingFields{"metadata.name": ip})
	}
	r.wait.Wait()
	for i := range claims {
		s.Claims.Items = append(s.Claims.Items, claims[i].Items...)
	}
	if len(r.failures) > 0 {
		return nil, r.failures[0]
	}
	c.finish(s, r)
	return s, nil
}

// reading reads lists side by side.
type reading struct {
	ctx             context.Context
	client          client.Client
	wait            sync.WaitGroup
	leases, leaders coordinationv1.LeaseList

	mu       sync.Mutex // guards failures and lists
	failures []error
	lists    int // that could be read
}

func (r *reading) read(objects client.ObjectList, options ...client.ListOption) {
	err := r.client.List(r.ctx, objects, options...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.lists++
	} else {
		r.failures = append(r.failures, fmt.Errorf("reading %T: %w", objects, readable(err, objects)))
	}
}

func (r *reading) list(objects client.ObjectList, options ...client.ListOption) {
	r.wait.Go(func() { r.read(objects, options...) })
}

// ReadPart reads what it can of the cluster, for a report. It returns an error for each list that failed. The State lacks the objects of these lists,
// so that what is derived in it may be wrong; it is nil if no list could be read.
func (c *Cluster) ReadPart(ctx context.Context) (*State, []error) {
	s, r := &State{}, &reading{ctx: ctx, client: c.Client}
	// The first list takes longest: of kinds that a CRD defines the API server has JSON alone.
	r.list(&s.Announcements)
	// Of 10,000 Services and twice as many IPAddresses most may be of no concern here: those of ClusterIPs. The API server leaves them out.
	r.list(&s.Services, client.MatchingFields{"spec.type": string(corev1.ServiceTypeLoadBalancer)})
	r.list(&s.Claims, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy})
	r.list(&s.EndpointSlices)
	c.readCommon(s, r)
	r.wait.Wait()
	if r.lists == 0 {
		return nil, r.failures
	}
	c.finish(s, r)
	return s, r.failures
}

// readCommon reads what does not belong to one Service.
func (c *Cluster) readCommon(s *State, r *reading) {
	r.list(&r.leases, client.HasLabels{observation.LabelReport})
	r.list(&r.leaders, client.MatchingFields{"metadata.name": LeaderLease})
	r.list(&s.Nodes)
	r.list(&s.Speakers)
	s.Config = config.ReadAtOnce(func(objects config.List) { r.read(objects.(client.ObjectList)) })
}

// finish works out what follows from what has been read.
func (c *Cluster) finish(s *State, r *reading) {
	s.Leases, s.Now = r.leases.Items, c.Now()
	s.System = c.System
	if len(s.Leases) > 0 {
		s.System = cmp.Or(s.System, s.Leases[0].Namespace)
	}
	s.System = cmp.Or(s.System, DefaultSystem)
	for i := range r.leaders.Items {
		if l := &r.leaders.Items[i]; s.Leader == nil || l.Namespace == s.System {
			s.Leader = l
		}
	}
	s.keepBalancers()
	s.Derive()
}

// Foreign adds the IPAddresses that stand for addresses and are not Tandem's to a State, which has Tandem's alone.
func (c *Cluster) Foreign(ctx context.Context, s *State, ips ...netip.Addr) error {
	for _, ip := range ips {
		claim := networkingv1.IPAddress{}
		if err := c.Client.Get(ctx, client.ObjectKey{Name: ip.String()}, &claim); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading IPAddress %s: %w", ip, readable(err, &claim))
		} else if err == nil && claim.Labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy {
			s.Claims.Items = append(s.Claims.Items, claim)
		}
	}
	return nil
}

// ForeignOf does the same for the addresses that the status of a Service shows, and that are not its own by a claim of Tandem.
func (c *Cluster) ForeignOf(ctx context.Context, s *State, service types.NamespacedName) error {
	i := slices.IndexFunc(s.Snapshot.Services, func(svc decision.Service) bool { return svc.Name == service })
	if i < 0 {
		return nil
	}
	return c.Foreign(ctx, s, s.Snapshot.Services[i].Unclaimed...)
}

// Derive works out View, Snapshot and Diagnoser from what the State has of the API. Tests call it for objects that they have made.
func (s *State) Derive() {
	s.View = observation.ViewAt(s.Now, s.Leases)
	s.Snapshot = s.Overview(s.View)
	s.Diagnoser = diagnosis.New(s.Snapshot, s.Records())
}

// keepBalancers drops the EndpointSlices of Services that are no load balancers.
func (s *State) keepBalancers() {
	balancers := make(map[client.ObjectKey]bool, len(s.Services.Items))
	for i := range s.Services.Items {
		balancers[client.ObjectKeyFromObject(&s.Services.Items[i])] = true
	}
	kept := s.EndpointSlices.Items[:0]
	for i := range s.EndpointSlices.Items {
		slice := &s.EndpointSlices.Items[i]
		if slice.Namespace == metav1.NamespaceDefault && slice.Labels[discoveryv1.LabelServiceName] == "kubernetes" {
			s.APIServers = append(s.APIServers, slice.DeepCopy())
		}
		if balancers[client.ObjectKey{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}] {
			kept = append(kept, *slice)
		}
	}
	s.EndpointSlices.Items = kept
}

// readable returns an error of reading objects in words that say what to do.
func readable(err error, objects runtime.Object) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; the ClusterRole tandem-view gives the rights that are needed", err)
	case apierrors.IsNotFound(err): // of the kind: a list that exists may be empty
		if _, isClaim := objects.(*networkingv1.IPAddressList); isClaim {
			return fmt.Errorf("%w: Tandem needs Kubernetes 1.33 or later", err)
		}
		return fmt.Errorf("%w: is Tandem installed in this cluster?", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the API server did not answer in time: %w", err)
	}
	return err
}
