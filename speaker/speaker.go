// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bfd/udp"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/bgp/gobgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// settle is how long changes in the API are gathered before a new decision, so that a burst of them costs one. What
	// concerns a failure (gossip, interfaces) is never delayed.
	settle = 20 * time.Millisecond

	// A speaker that has just started knows nobody. For newcomer it takes only what it is on record for; within that time
	// gossip, which it joins by the addresses in the API, has shown it whoever is alive. For introduction at most it presumes those
	// alive whom it knows from the API and has not met.
	newcomer     = time.Second
	introduction = 3 * time.Second

	// isolationCheck is how often a speaker without any other asks whether it has lost the API too.
	isolationCheck = time.Second

	// bfdRetry is how soon a BFD session that could not be started is tried again.
	bfdRetry = 5 * time.Second
)

// Config is what a Speaker works with. All fields are required.
type Config struct {
	// Node is the name of this node.
	Node string
	// HostIP is this node's address, by which the other speakers reach it.
	HostIP netip.Addr
	// Namespace holds the Secrets: of membership and of BGP peers.
	Namespace string
	// MembershipPort is the UDP and TCP port of gossip, the same on every node.
	MembershipPort uint16
	REST           *rest.Config
	Registerer     prometheus.Registerer
	// Recorder writes events.
	Recorder record.EventRecorder
}

// Speaker announces addresses from one node. Run runs it.
type Speaker struct {
	cfg     Config
	cache   cache.Cache
	client  client.Client
	links   *rtnetlink.Watcher
	members *membership.Members
	layer2  *layer2.Announcer
	bgp     *gobgp.Speaker
	bfd     *udp.Speaker
	records *recorder

	changed   chan struct{} // the API's objects have changed
	status    chan struct{} // what this node publishes may have changed
	conflicts chan layer2.Conflict
	sessions  latest[peerings]
	bgpError  atomic.Pointer[error] // of the last hand-over to BGP and BFD
	ready     atomic.Bool
	problems  atomic.Pointer[map[string]string] // why a peer of this node has no session, or less than it should

	// What follows is owned by the goroutine in Run.

	started  time.Time
	met      map[string]bool // the speakers that gossip has shown at least once
	alone    bool
	isolated bool
}

// Scheme returns a scheme with all kinds that a speaker reads and writes.
func Scheme() (*runtime.Scheme, error) { return config.Scheme(), nil }

// New returns a speaker that has not started.
func New(cfg Config) (*Speaker, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	objects, err := cache.New(cfg.REST, cache.Options{
		Scheme:           scheme,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:             {Namespaces: map[string]cache.Config{cfg.Namespace: {}}},
			&corev1.Service{}:            {Transform: stripService},
			&corev1.Node{}:               {Transform: stripNode},
			&discoveryv1.EndpointSlice{}: {Transform: stripEndpointSlice},
			&networkingv1.IPAddress{}:    {Label: labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy})},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("building the cache: %w", err)
	}
	writer, err := client.New(cfg.REST, client.Options{Scheme: scheme, Cache: &client.CacheOptions{Reader: objects}})
	if err != nil {
		return nil, fmt.Errorf("building the client: %w", err)
	}
	links, err := rtnetlink.Open()
	if err != nil {
		return nil, fmt.Errorf("watching interfaces: %w", err)
	}
	s := &Speaker{
		cfg:       cfg,
		cache:     objects,
		client:    writer,
		links:     links,
		changed:   make(chan struct{}, 1),
		status:    make(chan struct{}, 1),
		conflicts: make(chan layer2.Conflict, 16),
		sessions:  make(latest[peerings], 1),
		met:       map[string]bool{},
	}
	s.layer2 = layer2.New(layer2.Config{
		Registerer: cfg.Registerer,
		OnConflict: func(c layer2.Conflict) {
			select {
			case s.conflicts <- c:
			default: // reported already, many times over
			}
		},
		OnChange: func() { signal(s.status) },
	})
	s.records = &recorder{client: writer, node: cfg.Node, events: cfg.Recorder, wanted: make(latest[wanted], 1)}
	return s, nil
}

// latest is a channel of capacity one in which a newer value replaces an older one. It has one sender.
type latest[T any] chan T

func (l latest[T]) put(value T) {
	select {
	case <-l:
	default:
	}
	l <- value
}

// signal sends on a channel of capacity one unless a signal is waiting there.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Ready reports whether the speaker has read everything and met the others.
func (s *Speaker) Ready(*http.Request) error {
	if !s.ready.Load() {
		return errors.New("still reading the API and meeting the other speakers")
	}
	return nil
}

// Run announces until the context ends.
func (s *Speaker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logger := klog.FromContext(ctx)
	s.bgp = gobgp.New(logger)
	// The parts outlive ctx by the farewell in stop.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.bfd = udp.New(udp.Config{Logger: logger, OnDown: func(peer, reason string) {
		go func() { // which takes its time
			if err := s.bgp.Reset(parts, peer, "BFD: "+reason); err != nil && parts.Err() == nil {
				logger.Error(err, "Failed to end the BGP session of a peer that BFD has lost", "peer", peer)
			}
		}()
	}})
	s.cfg.Registerer.MustRegister(s.bgp, s.bfd)
	part := func(name string, run func(context.Context) error) {
		go func() {
			if err := run(parts); err != nil && parts.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		}()
	}
	part("watching interfaces", s.links.Run)
	part("the cache", s.cache.Start)
	part("layer 2", s.layer2.Run)
	if err := s.watch(ctx); err != nil {
		return err
	}
	if !s.cache.WaitForCacheSync(ctx) {
		return context.Cause(ctx)
	}
	key, err := s.membershipKey(ctx)
	if err != nil {
		return err
	}
	if s.members, err = membership.Join(parts, membership.Config{
		Node: s.cfg.Node, Bind: s.cfg.HostIP, Port: s.cfg.MembershipPort, Key: key, Registerer: s.cfg.Registerer,
	}); err != nil {
		return fmt.Errorf("joining the other speakers: %w", err)
	}
	s.started = time.Now()
	part("records", s.records.run)
	part("BGP", s.followSessions)
	part("status", s.publishStatus)
	logger.Info("Started", "node", s.cfg.Node, "address", s.cfg.HostIP)
	s.loop(ctx)
	s.stop(logger)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// gather returns a channel that receives when changes have been gathered for so long, counted from the first: where they never cease, it
// goes on receiving.
func gather(ctx context.Context, changes <-chan struct{}, wait time.Duration) <-chan struct{} {
	gathered := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-changes:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			select {
			case <-changes:
			default:
			}
			signal(gathered)
		}
	}()
	return gathered
}

// loop decides anew whenever something has changed.
func (s *Speaker) loop(ctx context.Context) {
	logger := klog.FromContext(ctx)
	linkChanges := s.links.Subscribe()
	newcomerOver, introductionOver := time.After(newcomer), time.After(introduction)
	isolation := time.NewTicker(isolationCheck)
	defer isolation.Stop()
	var asked chan answer // delivers what the API says; nil while nobody asks
	signal(s.changed)
	gathered := gather(ctx, s.changed, settle)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-gathered:
		case <-linkChanges:
			signal(s.status)
		case <-s.members.Changes():
		case <-newcomerOver:
		case <-introductionOver:
		case <-isolation.C:
			if (s.alone || s.isolated) && asked == nil {
				asked = make(chan answer, 1)
				go func(to chan<- answer, alone, isolated bool) { to <- s.askAPI(ctx, alone, isolated) }(asked, s.alone, s.isolated)
			}
			continue
		case a := <-asked:
			asked = nil
			if !s.isolate(ctx, a) {
				continue
			}
		case <-s.bgp.Changes():
			signal(s.status)
			continue
		case <-s.bfd.Changes():
			signal(s.status)
			continue
		case conflict := <-s.conflicts:
			s.reportConflict(ctx, conflict)
			continue
		}
		if err := s.decide(ctx); err != nil && ctx.Err() == nil {
			logger.Error(err, "Failed to decide what to announce, keeping what is announced")
		}
	}
}

// decide takes a snapshot and hands what follows from it to the announcers.
func (s *Speaker) decide(ctx context.Context) error {
	var o objects
	if err := o.read(ctx, s.cache); err != nil {
		return err
	}
	links := s.links.Snapshot()
	held := o.held()
	var usable []layer2.Interface
	for _, i := range links.Interfaces {
		if i.Unusable() == "" {
			usable = append(usable, layer2.Interface{Name: i.Name, Index: i.Index, MAC: i.MAC})
		}
	}
	s.layer2.SetInterfaces(usable)

	alive := s.members.Alive()
	s.alone = alive.Alone
	s.members.SetPeers(o.speakerAddresses(s.cfg.HostIP))
	returned := s.meet(alive)
	snapshot := o.snapshot(s.cfg.Node, announcing(links, held), s.presumedAlive(&o, alive))
	snapshot.StartupHold = time.Since(s.started) < newcomer
	snapshot.Isolated = s.isolated
	snapshot.Paths = s.links.Paths(decision.PeerAddresses(snapshot.Config, snapshot.Nodes[s.cfg.Node].Labels), held)
	snapshot.Password = func(key config.SecretKey) (bgp.Password, error) { return o.password(s.cfg.Namespace, key) }
	desired := decision.Decide(snapshot)
	announcements := make([]layer2.Announcement, len(desired.Layer2))
	for i, a := range desired.Layer2 {
		announcements[i] = layer2.Announcement(a)
	}
	s.layer2.Set(announcements)
	if returned {
		// Whoever comes back may have announced our addresses on its side of a partition.
		s.layer2.Refresh("another speaker came back")
	}
	if !s.isolated { // what is on record stays so, for nobody can read or change it from here
		s.records.wanted.put(wanted{records: desired.Records, announcements: o.announcements.Items, services: o.serviceNames(), alive: alive})
	}
	s.sessions.put(peerings{bgp: desired.BGP, bfd: desired.BFD})
	if old := s.problems.Swap(&desired.Problems); old == nil || !maps.Equal(*old, desired.Problems) {
		signal(s.status)
	}
	return nil
}

// peerings are the sessions that this node is to have.
type peerings struct {
	bgp []bgp.Session
	bfd []bfd.Session
}

// followSessions hands the latest sessions to BGP and BFD. It has a goroutine of its own, because a session that ends takes time, and layer 2
// must not wait for it.
func (s *Speaker) followSessions(ctx context.Context) error {
	var sessions peerings
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case sessions = <-s.sessions:
		case <-again: // a port that was in use, or an address that was not there yet
		}
		again = nil
		bfdErr := s.bfd.Set(sessions.bfd)
		if bfdErr != nil {
			again = time.After(bfdRetry)
		}
		err := errors.Join(bfdErr, s.bgp.Set(ctx, sessions.bgp))
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to follow a BGP peer, the others are followed")
		}
		s.bgpError.Store(&err)
		signal(s.status)
	}
}

// meet notes whom gossip shows, and reports whether somebody came back whom it had lost.
func (s *Speaker) meet(alive membership.Snapshot) (returned bool) {
	for node := range alive.Nodes {
		if here, known := s.met[node]; known && !here {
			returned = true
		}
		s.met[node] = true
	}
	for node := range s.met {
		if !alive.Has(node) {
			s.met[node] = false
		}
	}
	return returned
}

// presumedAlive is gossip's view, except that a speaker that has just started presumes those alive that it knows from the API and
// has not met yet: on its own it would take everything.
func (s *Speaker) presumedAlive(o *objects, alive membership.Snapshot) func(string) bool {
	strangers := map[string]bool{}
	if time.Since(s.started) < introduction {
		for node := range o.speakerAddresses(s.cfg.HostIP) {
			if _, known := s.met[node]; !known {
				strangers[node] = true
			}
		}
	}
	s.ready.Store(len(strangers) == 0)
	return func(node string) bool { return alive.Has(node) || strangers[node] }
}

// answer is what the API says about isolation, and whether this speaker was alone when it asked.
type answer struct {
	alone, outOfReach bool
	// behind says that the others have taken over what the cache believes to be this node's.
	behind bool
}

// askAPI asks whether the API is gone and, of one that is isolated, whether the cache knows what the API has on record. It takes up to
// isolationCheck, for which no decision waits.
func (s *Speaker) askAPI(ctx context.Context, alone, isolated bool) answer {
	ctx, cancel := context.WithTimeout(ctx, isolationCheck)
	defer cancel()
	a := answer{alone: alone}
	if !isolated {
		a.outOfReach = s.reachAPI(ctx, "/readyz", nil) != nil
		return a
	}
	var live, cached v1alpha1.L2AnnouncementList
	if err := s.reachAPI(ctx, "/apis/"+v1alpha1.GroupVersion.String()+"/l2announcements", &live); err != nil {
		a.outOfReach = true
		return a
	}
	if err := s.cache.List(ctx, &cached, client.UnsafeDisableDeepCopy); err != nil {
		a.behind = true
		return a
	}
	holders := recordedHolders(live.Items)
	for service, node := range recordedHolders(cached.Items) {
		a.behind = a.behind || node == s.cfg.Node && holders[service] != node
	}
	return a
}

// isolate takes in an answer, and reports whether that makes or ends isolation. It does not end before the cache knows who took over
// meanwhile: a watch that was cut off for minutes is tried again only every 30 to 60 s, and until then the record is still this node's.
// Where the API is gone for the others too, the old record is what all go by.
func (s *Speaker) isolate(ctx context.Context, a answer) bool {
	isolated := s.isolated
	switch {
	case a.outOfReach && s.alone == a.alone:
		isolated = s.alone
	case !a.outOfReach && !a.behind:
		isolated = false
	}
	if isolated == s.isolated {
		return false
	}
	s.isolated = isolated
	klog.FromContext(ctx).Info("Changed isolation: without the API and any other speaker nothing is announced on layer 2", "isolated", isolated)
	return true
}

// stop ends everything in the order that costs clients least: the others take over the addresses of layer 2 at once, and
// BGP peers with graceful restart keep the routes for the speaker that will follow.
func (s *Speaker) stop(logger klog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.members.Leave(ctx); err != nil {
		logger.Error(err, "Failed to take leave of the other speakers")
	}
	s.bgp.Close(ctx, bgp.Restart)
	s.bfd.Close(ctx) // after BGP: a router that knows of the restart does not take this for a failure (RFC 5882 section 4.3.2)
	logger.Info("Stopped", "node", s.cfg.Node)
}

// watch signals every change of what the speaker reads.
func (s *Speaker) watch(ctx context.Context) error {
	changed := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal(s.changed) },
		UpdateFunc: func(any, any) { signal(s.changed) },
		DeleteFunc: func(any) { signal(s.changed) },
	}
	for _, obj := range []client.Object{
		&corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}, &networkingv1.IPAddress{}, &corev1.Secret{},
		&ipamv1alpha1.AddressPool{}, &v1alpha1.L2Advertisement{}, &v1alpha1.BGPPeer{}, &v1alpha1.BGPAdvertisement{},
		&v1alpha1.BFDProfile{}, &v1alpha1.Community{}, &v1alpha1.InterfaceAdvertisement{}, &v1alpha1.L2Announcement{}, &v1alpha1.SpeakerStatus{},
	} {
		informer, err := s.cache.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching %T (are the CustomResourceDefinitions installed?): %w", obj, err)
		}
		handler := changed
		if _, ok := obj.(*v1alpha1.SpeakerStatus); ok {
			// The status goes with its Node, and the Node may come back while this speaker runs.
			handler.DeleteFunc = func(any) { signal(s.changed); signal(s.status) }
		}
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
	}
	return nil
}

// membershipKey waits for the Secret that the controller manager makes.
func (s *Speaker) membershipKey(ctx context.Context) ([]byte, error) {
	logger := klog.FromContext(ctx)
	for waited := false; ; waited = true {
		var secret corev1.Secret
		err := s.cache.Get(ctx, client.ObjectKey{Namespace: s.cfg.Namespace, Name: config.MembershipSecret}, &secret)
		if key := secret.Data[config.MembershipSecretKey]; err == nil && len(key) > 0 {
			return key, nil
		}
		if !waited {
			logger.Info("Waiting for the controller manager to create the Secret of membership", "secret", klog.KRef(s.cfg.Namespace, config.MembershipSecret))
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// reachAPI asks the API past the cache, and reads the answer into an object unless that is nil. An answer of any kind is one.
func (s *Speaker) reachAPI(ctx context.Context, path string, into any) error {
	httpClient, err := rest.HTTPClientFor(s.cfg.REST)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.REST.Host+path, nil)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if into == nil || response.StatusCode != http.StatusOK {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// reportConflict tells the users of an address that another machine claims it. Another speaker is no other machine: two may overlap
// for a moment when an address moves.
func (s *Speaker) reportConflict(ctx context.Context, c layer2.Conflict) {
	var o objects
	for _, list := range []client.ObjectList{&o.services, &o.speakers} {
		if err := s.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return
		}
	}
	for i := range o.speakers.Items {
		if slices.ContainsFunc(o.speakers.Items[i].Status.Interfaces, func(i v1alpha1.InterfaceState) bool { return i.MAC == c.MAC.String() }) {
			return
		}
	}
	for i := range o.services.Items {
		svc := &o.services.Items[i]
		if slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == c.Address.String() }) {
			s.cfg.Recorder.Eventf(svc, corev1.EventTypeWarning, ipamv1alpha1.EventAddressConflict,
				"%s on %s of node %s says that it has %s too; take the address out of the pool with spec.ipv4.exclude or spec.ipv6.exclude, or away from that host",
				c.MAC, c.Interface, s.cfg.Node, c.Address)
		}
	}
}

// held returns whether an address is one that Services have, which a node never has for itself.
func (o *objects) held() func(netip.Addr) bool {
	claimed := map[netip.Addr]bool{}
	for i := range o.claims.Items {
		if address, err := netip.ParseAddr(o.claims.Items[i].Name); err == nil {
			claimed[address] = true
		}
	}
	return func(a netip.Addr) bool { return claimed[a] }
}

// speakerAddresses returns the nodes that have a speaker and their addresses of this node's family.
func (o *objects) speakerAddresses(like netip.Addr) map[string]netip.Addr {
	nodes := map[string]*corev1.Node{}
	for i := range o.nodes.Items {
		nodes[o.nodes.Items[i].Name] = &o.nodes.Items[i]
	}
	addresses := map[string]netip.Addr{}
	for i := range o.speakers.Items {
		name := o.speakers.Items[i].Name
		if node, ok := nodes[name]; ok {
			if address, ok := addressOf(node, like.Is4()); ok {
				addresses[name] = address
			}
		}
	}
	return addresses
}

func (o *objects) serviceNames() map[client.ObjectKey]*corev1.Service {
	names := map[client.ObjectKey]*corev1.Service{}
	for i := range o.services.Items {
		if svc := &o.services.Items[i]; svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			names[client.ObjectKeyFromObject(svc)] = svc
		}
	}
	return names
}

// The strip functions drop what the speaker does not look at, since every node holds every Service.

func stripService(obj any) (any, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		svc.ManagedFields = nil
		svc.Annotations = nil
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			svc.Labels, svc.Spec, svc.Status = nil, corev1.ServiceSpec{Type: svc.Spec.Type}, corev1.ServiceStatus{}
		}
		svc.Spec.Ports, svc.Spec.Selector = nil, nil
	}
	return obj, nil
}

func stripNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		node.ManagedFields = nil
		node.Annotations = nil
		node.Status.Images = nil
		node.Status.Capacity, node.Status.Allocatable = nil, nil
	}
	return obj, nil
}

func stripEndpointSlice(obj any) (any, error) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		slice.ManagedFields = nil
		service := slice.Labels[discoveryv1.LabelServiceName]
		slice.Annotations, slice.Labels, slice.Ports = nil, map[string]string{discoveryv1.LabelServiceName: service}, nil
		for i, e := range slice.Endpoints {
			slice.Endpoints[i] = discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName}
		}
	}
	return obj, nil
}
