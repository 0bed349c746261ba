// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/unnumbered"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TimerSlack is by how much later than asked the kernel may wake a thread of a program that runs a Speaker (PR_SET_TIMERSLACK of prctl(2), by
// default 50 µs). Each wake-up costs the program more than what it does then, and with a slack there are half as many. The intervals by
// which failures are found are of 30 ms and more.
const TimerSlack = time.Millisecond

// Processors is how many processors a program that runs a Speaker uses at a time (GOMAXPROCS). With a second one the Go runtime wakes a thread for each
// goroutine that passes something on, which costs more than what the goroutine does: a quarter of what a change of an endpoint takes. What is due
// while everything is decided anew waits for 10 ms, after which the runtime lets another goroutine run.
const Processors = 1

// Config is what a Speaker works with. All fields are required but for OtherIP, the durations and the rate.
type Config struct {
	// Node is the name of this node.
	Node string
	// HostIP is this node's address, by which the other speakers reach it. OtherIP is that of the other family, by which those do whose nodes
	// have no address of the family of HostIP; it may be the zero Addr.
	HostIP, OtherIP netip.Addr
	// HostIPFixed says that a user has given the addresses. Else the speaker ends when the Node has others.
	HostIPFixed bool
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
	// DrainTime is for how long routes are announced with the least preference when the node is excluded, before they are withdrawn. Zero means
	// that they are withdrawn at once.
	DrainTime time.Duration
	// DrainOnCordon says that a node that is cordoned announces nothing.
	DrainOnCordon bool
	// IgnoreExcludeLabel says that the label node.kubernetes.io/exclude-from-external-load-balancers keeps no node from announcing.
	IgnoreExcludeLabel bool
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

// exclusionRules returns what keeps a node from announcing.
func (c Config) exclusionRules() observation.ExclusionRules {
	return observation.ExclusionRules{CordonCounts: c.DrainOnCordon, IgnoreLabel: c.IgnoreExcludeLabel}
}

// hostIPs returns the addresses of this node.
func (c Config) hostIPs() []netip.Addr {
	if c.OtherIP.IsValid() {
		return []netip.Addr{c.HostIP, c.OtherIP}
	}
	return []netip.Addr{c.HostIP}
}

// Speaker announces addresses from one node. Run runs it. It has the parts that are there before it runs; a loop joins them with those
// that are not.
type Speaker struct {
	cfg       Config
	cache     cache.Cache
	client    client.Client
	links     *rtnetlink.Watcher
	routers   *unnumbered.Watcher // of unnumbered peers
	layer2    *layer2.Announcer
	kernels   *kernels
	records   *recorder
	conflicts *conflictReporter
	liveness  *reporter
	probe     *apiProbe
	kubeProxy *kubeProxy
	daemonSet *daemonSet
	rivals    rivals
	writes    writes
	health    health
	kernel    *redistribution
	reachable *reachable
	probes    *probes

	feed     *feed                    // what has changed of the API's objects
	sessions atomic.Pointer[sessions] // nil before Run
	status   signal.Signal            // the state that this node publishes may have changed
	isolated atomic.Bool              // as isolation says, for metrics
	// unreachable are the nodes whose speakers live and are not shown by gossip, with their addresses; nil before the first decision.
	unreachable atomic.Pointer[map[string]netip.Addr]
	drain       atomic.Pointer[drainState] // nil before the first decision
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
	feed := newFeed()
	s := &Speaker{
		cfg:       cfg,
		cache:     objects,
		client:    writer,
		records:   newRecorder(writer, cfg.Node, cfg.Recorder, feed.objects),
		conflicts: newConflictReporter(cfg.Node, objects, cfg.Recorder),
		liveness: &reporter{
			client: writer, namespace: cfg.Namespace, node: cfg.Node, latest: signal.NewLatest[livenessReport](),
		},
		kernels: newKernels(cfg.Node, nil),
		routers: unnumbered.New(klog.Background()),
		rivals:  rivals{changed: signal.New()},
		feed:    feed,
		status:  signal.New(),
	}
	if cfg.LANProbeInterval > 0 {
		s.kernels = newKernels(cfg.Node, lan.New(cfg.LANProbeInterval, cfg.Registerer))
	}
	s.kernel = newRedistribution(s.status)
	s.reachable = newReachable(cfg.Node, writer, func(ctx context.Context) ([]*v1alpha1.L2Announcement, error) {
		return stored[*v1alpha1.L2Announcement](ctx, objects, &v1alpha1.L2Announcement{})
	}, s.status)
	s.probes = newProbes(cfg.Node, cfg.MembershipPort, writer)
	s.layer2 = layer2.New(layer2.Config{
		Registerer: cfg.Registerer, Rate: cfg.AnnouncementRate, OnConflict: s.conflicts.Note, OnProbed: feed.objects.Raise,
		OnRival:  s.rivals.note,
		OnChange: func() { s.status.Raise(); feed.objects.Raise() },
		OnFailed: func() { s.status.Raise(); feed.others.Raise() },
	})
	s.kubeProxy = newKubeProxy(s.age)
	var err error
	if s.probe, err = newAPIProbe(cfg.REST); err != nil {
		return nil, err
	}
	if s.daemonSet, err = newDaemonSet(cfg.REST, cfg.Namespace, s.probe.Started); err != nil {
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

// startsWithin is how long the start takes at most. After it, the memory that only the filling of the caches needed is given back to the system, of
// which the runtime would keep a part.
const startsWithin = time.Minute

// Run announces until the context ends, or until a part fails without which the speaker cannot go on. The error is that of the part.
func (s *Speaker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logger := klog.FromContext(ctx)
	defer s.routers.Close()
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
	s.sessions.Store(sessions)
	s.cfg.Registerer.MustRegister(sessions.bgp, sessions.bfd, s.kernel.table,
		&collector{peers: sessions.states, announced: s.layer2.Announced, found: s.reachable.found, isolated: &s.isolated})
	start("watching interfaces", s.links.Run)
	start("the cache", s.cache.Start)
	start("layer 2", s.layer2.Run)
	start("probes on the LAN", s.kernels.run)
	if err := errors.Join(watch(ctx, s.cache, s.feed, s.status), s.writes.watch(ctx, s.cache)); err != nil {
		return err
	}
	if !s.cache.WaitForCacheSync(ctx) {
		return context.Cause(ctx)
	}
	turn, err := s.awaitTurn(ctx)
	if err != nil {
		return err
	}
	defer turn.Close() // when the sessions have ended, and gossip has
	members, err := s.join(ctx, parts)
	if err != nil {
		return err
	}
	before, err := readComeback(ctx, time.Now(), s.client, s.cfg.Node)
	if err != nil {
		return err
	}
	if err := s.reachable.restore(ctx); err != nil {
		return fmt.Errorf("reading which addresses did not answer before: %w", err)
	}
	s.daemonSet.Get(ctx)
	s.health.await(before, sessions.published)
	start("kube-proxy", s.kubeProxy.run)
	start("records", s.records.run)
	start("conflicts", s.conflicts.run)
	start("suspicions", func(ctx context.Context) error { return s.kernels.tell(ctx, members.SendAll) })
	// Sessions that end because this speaker stops are no news.
	go newSessionReporter(s.cfg.Node, s.cache, s.cfg.Recorder, sessions.states).run(ctx, sessions.moved)
	start("liveness", s.liveness.run)
	start("BGP and BFD", sessions.run)
	start("states of BGP and BFD", sessions.watch)
	start("the kernel's routes", s.kernel.run)
	start("questions for addresses", s.reachable.run)
	// The status ends with ctx, before shutdown ends the sessions, so that the next speaker of this node knows which there were.
	start("status", func(context.Context) error { return s.publisher(sessions).run(ctx, s.status) })
	defer time.AfterFunc(startsWithin, debug.FreeOSMemory).Stop()
	logger.Info("Started", "node", s.cfg.Node, "addresses", s.cfg.hostIPs())
	l := newLoop(s, members, sessions, newRoster(time.Now(), s.cfg.grace()))
	l.fail = func(err error) { cancel(err) }
	l.run(ctx)
	shutdown{
		node: s.cfg.Node, grace: s.cfg.grace(), ignoreLabel: s.cfg.IgnoreExcludeLabel, cached: s.client, members: members,
		daemonSet: s.daemonSet.Get, silence: func() { s.layer2.Set(nil) },
		endSessions: func(ctx context.Context, mode bgp.CloseMode) {
			sessions.close(ctx, mode)
			s.kernel.close(ctx, mode)
		},
		yield: func(ctx context.Context) { sessions.yield(ctx, min(s.cfg.DrainTime, stopDrainTime)) },
	}.run(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// age returns for how long the Node of this speaker has existed, zero if that is not known.
func (s *Speaker) age(ctx context.Context) time.Duration {
	var node corev1.Node
	if s.client.Get(ctx, client.ObjectKey{Name: s.cfg.Node}, &node) != nil {
		return 0
	}
	return time.Since(node.CreationTimestamp.Time)
}

// publisher returns what publishes the state of this node.
func (s *Speaker) publisher(sessions *sessions) *statusWriter {
	unreachable := func() map[string]netip.Addr {
		if nodes := s.unreachable.Load(); nodes != nil {
			return *nodes
		}
		return nil
	}
	return &statusWriter{
		node: s.cfg.Node, client: s.client, links: s.links.Snapshot, failing: s.layer2.Failing, failed: s.layer2.Failed,
		cutOff: s.kernels.CutOff, sessions: sessions, kernelRoutes: s.kernel.condition, unreachable: unreachable, port: s.cfg.MembershipPort,
		draining: s.draining, found: s.reachable.found,
	}
}

// join makes this speaker a member of the gossip of the speakers, which ends with parts.
func (s *Speaker) join(ctx, parts context.Context) (*membership.Members, error) {
	key, err := membershipKey(ctx, s.cache, s.cfg.SecretsNamespace)
	if err != nil {
		return nil, err
	}
	members, err := membership.Join(parts, membership.Config{
		Node: s.cfg.Node, Bind: s.cfg.HostIP, Other: s.cfg.OtherIP, Port: s.cfg.MembershipPort, Key: key, Registerer: s.cfg.Registerer,
		OnMessage: s.kernels.hear,
	})
	if err != nil {
		return nil, fmt.Errorf("joining the other speakers: %w", err)
	}
	return members, nil
}
