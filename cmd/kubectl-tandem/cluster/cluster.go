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
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
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
	observation.Objects // Secrets are not read.
	Leases              []coordinationv1.Lease
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

// Connect returns a Cluster for the flags of a command. It opens no connection. System is the namespace of Tandem, "" to find it.
func Connect(flags genericclioptions.RESTClientGetter, system string) (*Cluster, error) {
	restConfig, err := flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS, restConfig.Burst = -1, -1 // One reading is a dozen requests at once. The API server's priority and fairness limits them.
	date := new(atomic.Int64)
	restConfig.Wrap(func(next http.RoundTripper) http.RoundTripper { return &clock{next, date} })
	c := &Cluster{REST: restConfig, System: system, Now: func() time.Time { return time.Unix(date.Load(), 0).UTC() }}
	if c.Client, err = client.New(restConfig, client.Options{Scheme: config.Scheme()}); err != nil {
		return nil, err
	}
	if c.Clientset, err = kubernetes.NewForConfig(restConfig); err != nil {
		return nil, err
	}
	return c, nil
}

// clock remembers the time that the API server puts into its answers. The clock of the user's machine may be wrong by minutes.
type clock struct {
	next http.RoundTripper
	date *atomic.Int64 // of the last answer, in Unix seconds
}

// RoundTrip implements [http.RoundTripper].
func (c *clock) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err == nil {
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			c.date.Store(date.Unix())
		}
	}
	return response, err
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

// ReadPart reads what it can of the cluster, for a report. It returns an error for each list that failed. The State lacks the objects of these lists,
// so that what is derived in it may be wrong; it is nil if no list could be read.
func (c *Cluster) ReadPart(ctx context.Context) (*State, []error) {
	s := &State{}
	var leases, leaders coordinationv1.LeaseList
	var wait sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	lists := 0 // that could be read
	read := func(ctx context.Context, objects client.ObjectList, options ...client.ListOption) error {
		err := c.Client.List(ctx, objects, options...)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			lists++
			return nil
		}
		failures = append(failures, fmt.Errorf("reading %T: %w", objects, readable(err)))
		return err
	}
	list := func(objects client.ObjectList, options ...client.ListOption) {
		wait.Go(func() { _ = read(ctx, objects, options...) }) // The error is among the failures.
	}
	list(&leases, client.HasLabels{observation.LabelReport})
	list(&leaders, client.MatchingFields{"metadata.name": LeaderLease})
	list(&s.Services)
	list(&s.EndpointSlices)
	list(&s.Nodes)
	list(&s.Claims)
	list(&s.Announcements)
	list(&s.Speakers)
	wait.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s.Config, _ = config.Read(func(objects config.List) error {
			err := read(ctx, objects.(client.ObjectList))
			if err != nil && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !meta.IsNoMatchError(err) {
				cancel() // The API server did not answer. It is not waited for once more for each of the other kinds.
			}
			return nil
		})
	})
	wait.Wait()
	if lists == 0 {
		return nil, failures
	}
	s.Leases, s.Now = leases.Items, c.Now()
	s.System = c.System
	if len(s.Leases) > 0 {
		s.System = cmp.Or(s.System, s.Leases[0].Namespace)
	}
	s.System = cmp.Or(s.System, DefaultSystem)
	for i := range leaders.Items {
		if l := &leaders.Items[i]; s.Leader == nil || l.Namespace == s.System {
			s.Leader = l
		}
	}
	s.keepBalancers()
	s.Derive()
	return s, failures
}

// Derive works out View, Snapshot and Diagnoser from what the State has of the API. Tests call it for objects that they have made.
func (s *State) Derive() {
	s.View = observation.ViewAt(s.Now, s.Leases)
	s.Snapshot = s.Overview(s.View)
	s.Diagnoser = diagnosis.New(s.Snapshot, s.Records())
}

// keepBalancers drops the Services that are no load balancers, and their EndpointSlices.
func (s *State) keepBalancers() {
	balancers := map[client.ObjectKey]bool{}
	services := s.Services.Items[:0]
	for i := range s.Services.Items {
		svc := &s.Services.Items[i]
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			balancers[client.ObjectKeyFromObject(svc)] = true
			services = append(services, *svc)
		}
	}
	s.Services.Items = services
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

// readable returns an error of reading a list in words that say what to do.
func readable(err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; the ClusterRole tandem-view gives the rights that are needed", err)
	case meta.IsNoMatchError(err):
		return fmt.Errorf("%w: is Tandem installed in this cluster?", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the API server did not answer in time: %w", err)
	}
	return err
}
