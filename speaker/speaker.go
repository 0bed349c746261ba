// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
)

const (
	// settle is how long changes in the API are gathered before a new decision, so that a burst of them costs one. Changes that a failure
	// causes (of gossip, of interfaces) are never delayed.
	settle = 20 * time.Millisecond
	// stopTimeout bounds the end of all parts.
	stopTimeout = 10 * time.Second
	// hung is how long the loop, which comes round each second, may take.
	hung = 30 * time.Second
)

// Config is what a Speaker works with. All fields are required but for the durations and the rate.
type Config struct {
	// Node is the name of this node.
	Node string
	// HostIP is this node's address, by which the other speakers reach it.
	HostIP netip.Addr
	// Namespace is Tandem's own, with the Leases of the speakers.
	Namespace string
	// SecretsNamespace holds the Secrets: of membership and of BGP peers.
	SecretsNamespace string
	// MembershipPort is the UDP and TCP port of gossip, the same on every node.
	MembershipPort uint16
	// RestartGrace is for how long the others wait for this speaker when it stops and may soon be back, and how long this one waits for a speaker
	// that has fallen silent. Zero means not at all.
	RestartGrace time.Duration
	// LANProbeInterval is how often the kernels of other nodes are asked whether they live. Zero means never. Then none is waited for.
	LANProbeInterval time.Duration
	// AnnouncementRate is how many announcements a second an interface sends at most. Zero stands for the default.
	AnnouncementRate int
	REST             *rest.Config
	Registerer       prometheus.Registerer
	// Recorder writes events.
	Recorder record.EventRecorder
}

// Speaker announces addresses from one node. Run runs it.
type Speaker struct {
	cfg       Config
	cache     cache.Cache
	client    client.Client
	links     *rtnetlink.Watcher
	layer2    *layer2.Announcer
	members   *membership.Members
	lan       *lan.Prober
	sessions  *sessions
	records   *recorder
	conflicts *conflictReporter
	liveness  *reporter
	probe     *apiProbe

	suspects signal.Latest[[]lan.Key] // what this speaker suspects, for the others
	heard    chan suspicion           // what the others suspect

	changed signal.Signal // the API's objects have changed
	status  signal.Signal // the state that this node publishes may have changed
	ready   atomic.Bool
	// comeback is set before ready.
	comeback comeback

	isolated atomic.Bool               // as isolation says, for metrics
	turned   atomic.Pointer[time.Time] // when the loop last came round; nil before it runs, and when it has ended

	// What follows is owned by the goroutine in loop.

	roster    *roster
	isolation isolation
	// waiting fires when the first of the speakers that are expected back is not expected any longer.
	waiting *time.Timer
	// away are the nodes that were away at the latest decision, silent the interfaces that several speakers found silent.
	away       map[string]bool
	silent     map[lan.Key]bool
	suspicions suspicions
}

// New returns a speaker that has not started.
func New(cfg Config) (*Speaker, error) {
	objects, writer, err := newCache(cfg)
	if err != nil {
		return nil, err
	}
	return newSpeaker(cfg, objects, writer)
}

// newSpeaker returns a speaker that has not started, with this cache, and this client that reads from it.
func newSpeaker(cfg Config, objects cache.Cache, writer client.Client) (*Speaker, error) {
	changed := signal.New()
	s := &Speaker{
		cfg:       cfg,
		cache:     objects,
		client:    writer,
		records:   newRecorder(writer, cfg.Node, cfg.Recorder, changed),
		conflicts: newConflictReporter(cfg.Node, objects, cfg.Recorder),
		liveness: &reporter{
			client: writer, namespace: cfg.Namespace, node: cfg.Node, latest: signal.NewLatest[livenessReport](),
		},
		suspects: signal.NewLatest[[]lan.Key](),
		heard:    make(chan suspicion, 64),
		changed:  changed,
		status:   signal.New(),
		waiting:  time.NewTimer(time.Hour), // set by each decision
	}
	if cfg.LANProbeInterval > 0 {
		s.lan = lan.New(cfg.LANProbeInterval, cfg.Registerer)
	}
	s.layer2 = layer2.New(layer2.Config{
		Registerer: cfg.Registerer, Rate: cfg.AnnouncementRate, OnConflict: s.conflicts.Note, OnChange: s.status.Raise, OnProbed: s.changed.Raise,
	})
	var err error
	if s.probe, err = newAPIProbe(cfg.REST, cfg.Node, objects); err != nil {
		return nil, err
	}
	if s.links, err = rtnetlink.Open(); err != nil {
		return nil, fmt.Errorf("watching interfaces: %w", err)
	}
	return s, nil
}

// Healthy returns an error if the loop has not come round for so long that it hangs, which nothing mends but a new start. A speaker that waits
// for the API at its start is healthy.
func (s *Speaker) Healthy() error {
	if turned := s.turned.Load(); turned != nil && time.Since(*turned) > hung {
		return fmt.Errorf("the speaker has decided nothing for %v", time.Since(*turned).Round(time.Second))
	}
	return nil
}

// Ready returns an error until the speaker has read everything, seen the others, and has the BGP sessions back that it had before it started.
func (s *Speaker) Ready() error {
	if !s.ready.Load() {
		return errors.New("still reading the API and looking for the other speakers")
	}
	if missing := s.comeback.Missing(time.Now(), s.sessions.published); len(missing) > 0 {
		return fmt.Errorf("waiting for BGP sessions that were established before the start: %s", strings.Join(missing, ", "))
	}
	return nil
}

// Run announces until the context ends, or until a part fails without which the speaker cannot go on. The error is that of the part.
func (s *Speaker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logger := klog.FromContext(ctx)
	// The parts outlive ctx until stop has ended them in order.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	start := func(name string, run func(context.Context) error) {
		go func() {
			if err := run(parts); err != nil && parts.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		}()
	}
	s.sessions = newSessions(parts, s.status)
	s.cfg.Registerer.MustRegister(s.sessions.bgp, s.sessions.bfd,
		&collector{peers: s.sessions.states, announced: s.layer2.Announced, isolated: &s.isolated})
	start("watching interfaces", s.links.Run)
	start("the cache", s.cache.Start)
	start("layer 2", s.layer2.Run)
	if s.lan != nil {
		start("probes on the LAN", s.lan.Run)
	}
	if err := watch(ctx, s.cache, s.changed, s.status); err != nil {
		return err
	}
	if !s.cache.WaitForCacheSync(ctx) {
		return context.Cause(ctx)
	}
	key, err := membershipKey(ctx, s.cache, s.cfg.SecretsNamespace)
	if err != nil {
		return err
	}
	if s.members, err = membership.Join(parts, membership.Config{
		Node: s.cfg.Node, Bind: s.cfg.HostIP, Port: s.cfg.MembershipPort, Key: key, Registerer: s.cfg.Registerer, OnMessage: s.hear,
	}); err != nil {
		return fmt.Errorf("joining the other speakers: %w", err)
	}
	if s.comeback, err = readComeback(ctx, time.Now(), s.client, s.cfg.Node); err != nil {
		return err
	}
	publisher := &statusWriter{
		node: s.cfg.Node, client: s.client,
		links: s.links.Snapshot, announced: s.layer2.Announced, sessions: s.sessions,
	}
	start("records", s.records.run)
	start("conflicts", s.conflicts.run)
	start("suspicions", func(ctx context.Context) error { return tell(ctx, s.cfg.Node, s.suspects, s.members.SendAll) })
	// Sessions that end because this speaker stops are no news.
	go newSessionReporter(s.cfg.Node, s.cache, s.cfg.Recorder, s.sessions.states).run(ctx, s.sessions.moved)
	start("liveness", s.liveness.run)
	start("BGP and BFD", s.sessions.run)
	start("states of BGP and BFD", s.sessions.watch)
	// The status ends with ctx, before stop ends the sessions, so that the next speaker of this node knows which there were.
	start("status", func(context.Context) error { return publisher.run(ctx, s.status) })
	logger.Info("Started", "node", s.cfg.Node, "address", s.cfg.HostIP)
	s.loop(ctx)
	s.stop(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// loop decides anew whenever something has changed.
func (s *Speaker) loop(ctx context.Context) {
	logger := klog.FromContext(ctx)
	s.roster = newRoster(time.Now(), s.cfg.RestartGrace)
	linkChanges := s.links.Subscribe()
	startupHoldOver, discoveryOver := time.After(startupHold), time.After(discoveryWindow)
	check := time.NewTicker(isolationCheck)
	defer check.Stop()
	var answers chan answer // delivers what the API says; nil while nothing is asked
	var kernels <-chan struct{}
	if s.lan != nil {
		kernels = s.lan.Changes()
	}
	s.changed.Raise()
	gathered := signal.Gather(ctx, s.changed, settle)
	defer s.turned.Store(nil)
	for ctx.Err() == nil {
		s.turned.Store(new(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-gathered:
		case <-linkChanges:
			s.status.Raise()
		case <-s.members.Changes():
		case <-kernels:
		case said := <-s.heard:
			if !s.suspicions.Hear(time.Now(), said) {
				continue
			}
		case <-s.waiting.C:
		case <-startupHoldOver:
		case <-discoveryOver:
		case <-check.C:
			if s.isolation.asks() && answers == nil {
				answers = make(chan answer, 1)
				go func(to chan<- answer, state isolation) { to <- s.probe.Ask(ctx, state) }(answers, s.isolation)
			}
			continue
		case a := <-answers:
			answers = nil
			if !s.isolation.Step(a) {
				continue
			}
			s.isolated.Store(s.isolation.isolated)
			logger.Info("Changed isolation: without the API and any other speaker nothing is announced on layer 2", "isolated", s.isolation.isolated)
		}
		if err := s.decide(ctx); err != nil && ctx.Err() == nil {
			logger.Error(err, "Failed to decide what to announce, keeping what is announced")
		}
	}
}

// decide takes a snapshot and hands what follows from it to the announcers.
func (s *Speaker) decide(ctx context.Context) error {
	o, err := readObjects(ctx, s.cache)
	if err != nil {
		return err
	}
	s.records.Renew(o.Announcements.Items)
	links, claimed := s.links.Snapshot(), observation.Claimed(o.Claims.Items)
	usable, own := usableInterfaces(links), interfaceStates(links, claimed)
	s.layer2.SetInterfaces(usable)
	s.layer2.SetSpeakers(speakerMACs(o.Speakers.Items))
	speakers := o.SpeakerAddresses(family.Of(s.cfg.HostIP))
	alive := s.members.Alive()
	s.members.SetPeers(speakers)
	presence := s.roster.Update(time.Now(), alive, speakers)
	s.isolation.alone = alive.Alone

	snapshot := o.Snapshot(s.cfg.Node, own)
	snapshot.Alive = presence.alive
	snapshot.Away = s.whoIsAway(ctx, presence, onLinks(s.cfg.Node, own, o.Speakers.Items), usable, snapshot.Nodes)
	here := func(node string) bool { return presence.alive(node) || snapshot.Away[node] }
	s.liveness.latest.Put(reportOn(s.cfg.Node, alive, here, speakers, o))
	snapshot.StartupHold = presence.startupHold
	snapshot.Isolated = s.isolation.isolated
	snapshot.Probed = probed(s.cfg.Node, s.layer2.Announced(), snapshot.Probed)
	snapshot.Paths = s.links.Paths(decision.PeerAddresses(snapshot.Config, snapshot.Nodes[s.cfg.Node].Labels), claimed)
	snapshot.Password = func(key config.SecretKey) (bgp.Password, error) { return o.Password(s.cfg.SecretsNamespace, key) }

	desired := decision.Decide(snapshot)
	s.layer2.Set(announcements(desired))
	if presence.returned {
		// A speaker that comes back may have announced our addresses on its side of a partition.
		s.layer2.Refresh("another speaker came back")
	}
	if !snapshot.Isolated { // An isolated speaker has no API to write records to.
		s.records.wanted.Put(wanted{records: desired.Records, announcements: o.Announcements.Items, services: o.LoadBalancers()})
	}
	s.sessions.Set(desired)
	s.ready.Store(presence.complete)
	return nil
}

// stop ends everything in the order that costs clients least. A speaker that restarts keeps what it has: the others wait for it, and BGP peers with
// graceful restart keep the routes for the speaker that follows. What is away meanwhile is answered by deputies, who say the same as this
// speaker, so that it answers to the end. One that leaves the node is replaced by the others at once, and is silent from then on.
func (s *Speaker) stop(running context.Context) {
	logger := klog.FromContext(running)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(running), stopTimeout)
	defer cancel()
	reason := leaving(ctx, s.client, s.cfg.Node)
	mode := bgp.Restart
	var err error
	switch {
	case reason == "" && s.cfg.RestartGrace > 0:
		err = s.members.Restart(ctx, s.cfg.RestartGrace)
	default:
		if reason != "" {
			mode = bgp.Withdraw
		}
		others := len(s.members.Alive().Nodes) > 1
		if err = s.members.Leave(ctx); err == nil && others {
			s.layer2.Set(nil)
		}
	}
	if err != nil {
		logger.Error(err, "Failed to tell the other speakers that this one stops")
	}
	s.sessions.close(ctx, mode)
	logger.Info("Stopped", "node", s.cfg.Node, "leaves", reason)
}

// leaving returns why a speaker that stops leaves its node, "" if it restarts, by the Node in the cache.
func leaving(ctx context.Context, cached client.Reader, name string) string {
	var node corev1.Node
	switch err := cached.Get(ctx, client.ObjectKey{Name: name}, &node); {
	case apierrors.IsNotFound(err):
		return observation.Leaving(nil)
	case err != nil:
		return ""
	}
	return observation.Leaving(&node)
}
