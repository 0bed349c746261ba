// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/signal"
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
	// RestartGrace is for how long the others wait for this speaker when it stops and may soon be back, and how long this one waits for a
	// speaker that has fallen silent. Zero means not at all.
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

// grace is RestartGrace where it has an effect. Where no kernel is asked, the others take over as soon as a speaker stops, so that it has
// to leave: otherwise both would answer until BGP has ended.
func (c Config) grace() time.Duration {
	if c.LANProbeInterval == 0 {
		return 0
	}
	return c.RestartGrace
}

// Speaker announces addresses from one node. Run runs it. It has the parts that are there before it runs; a loop joins them with those
// that are not.
type Speaker struct {
	cfg       Config
	cache     cache.Cache
	client    client.Client
	links     *rtnetlink.Watcher
	layer2    *layer2.Announcer
	kernels   *kernels
	records   *recorder
	conflicts *conflictReporter
	liveness  *reporter
	probe     *apiProbe
	health    health

	changed  signal.Signal // the API's objects have changed
	status   signal.Signal // the state that this node publishes may have changed
	isolated atomic.Bool   // as isolation says, for metrics
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
		kernels: newKernels(cfg.Node, nil),
		changed: changed,
		status:  signal.New(),
	}
	if cfg.LANProbeInterval > 0 {
		s.kernels = newKernels(cfg.Node, lan.New(cfg.LANProbeInterval, cfg.Registerer))
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

// Healthy returns an error if the loop hangs. A speaker that waits for the API at its start is healthy.
func (s *Speaker) Healthy() error { return s.health.Healthy(time.Now()) }

// Ready returns an error until the speaker has read everything, seen the others, and has the BGP sessions back that it had before it
// started.
func (s *Speaker) Ready() error { return s.health.Ready(time.Now()) }

// Run announces until the context ends, or until a part fails without which the speaker cannot go on. The error is that of the part.
func (s *Speaker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logger := klog.FromContext(ctx)
	// The parts outlive ctx until shutdown has ended them in order.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	start := func(name string, run func(context.Context) error) {
		go func() {
			if err := run(parts); err != nil && parts.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		}()
	}
	sessions := newSessions(parts, s.status)
	s.cfg.Registerer.MustRegister(sessions.bgp, sessions.bfd,
		&collector{peers: sessions.states, announced: s.layer2.Announced, isolated: &s.isolated})
	start("watching interfaces", s.links.Run)
	start("the cache", s.cache.Start)
	start("layer 2", s.layer2.Run)
	start("probes on the LAN", s.kernels.run)
	if err := watch(ctx, s.cache, s.changed, s.status); err != nil {
		return err
	}
	if !s.cache.WaitForCacheSync(ctx) {
		return context.Cause(ctx)
	}
	members, err := s.join(ctx, parts)
	if err != nil {
		return err
	}
	before, err := readComeback(ctx, time.Now(), s.client, s.cfg.Node)
	if err != nil {
		return err
	}
	s.health.await(before, sessions.published)
	publisher := &statusWriter{
		node: s.cfg.Node, client: s.client, links: s.links.Snapshot, announced: s.layer2.Announced, sessions: sessions,
	}
	start("records", s.records.run)
	start("conflicts", s.conflicts.run)
	start("suspicions", func(ctx context.Context) error { return s.kernels.tell(ctx, members.SendAll) })
	// Sessions that end because this speaker stops are no news.
	go newSessionReporter(s.cfg.Node, s.cache, s.cfg.Recorder, sessions.states).run(ctx, sessions.moved)
	start("liveness", s.liveness.run)
	start("BGP and BFD", sessions.run)
	start("states of BGP and BFD", sessions.watch)
	// The status ends with ctx, before shutdown ends the sessions, so that the next speaker of this node knows which there were.
	start("status", func(context.Context) error { return publisher.run(ctx, s.status) })
	logger.Info("Started", "node", s.cfg.Node, "address", s.cfg.HostIP)
	newLoop(s, members, sessions, newRoster(time.Now(), s.cfg.grace())).run(ctx)
	shutdown{
		node: s.cfg.Node, grace: s.cfg.grace(), cached: s.client, members: members,
		silence: func() { s.layer2.Set(nil) }, endSessions: sessions.close,
	}.run(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// join makes this speaker a member of the gossip of the speakers, which ends with parts.
func (s *Speaker) join(ctx, parts context.Context) (*membership.Members, error) {
	key, err := membershipKey(ctx, s.cache, s.cfg.SecretsNamespace)
	if err != nil {
		return nil, err
	}
	members, err := membership.Join(parts, membership.Config{
		Node: s.cfg.Node, Bind: s.cfg.HostIP, Port: s.cfg.MembershipPort, Key: key, Registerer: s.cfg.Registerer, OnMessage: s.kernels.hear,
	})
	if err != nil {
		return nil, fmt.Errorf("joining the other speakers: %w", err)
	}
	return members, nil
}
