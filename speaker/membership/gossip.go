// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/klog/v2"
)

// The tuning. A node that falls silent is dead after the wait until another probes it (one to two intervals), one interval for the probe to
// fail, the suspicion, and twice the probeTimeout, for which it is asked a last time. A speaker that merely stalls, for want of a processor,
// has all of these but the wait, 0.66 s, to recover and refute. For the same tolerance a shorter interval makes the wait shorter, and gives
// more probes to answer, so the probes are frequent and the suspicion is long in comparison. Measured with 3 and with 10 members on two
// cores, 20 deaths each: 0.8 s in the median until a survivor knows, at most 0.96 s. (With an interval of 200 ms, a timeout of 100 ms and a
// multiplier of 3, without the last questions: 1.0-1.4 s and 1.8 s.) Eight processes that burned the two cores, at equal priority, caused
// no false death. BenchmarkDetection and BenchmarkLoad repeat this.
const (
	// Ten probes a second and answers to as many, some 200 bytes each, are what a speaker pays, however large the cluster.
	probeInterval = 100 * time.Millisecond

	// A probe that is not answered by then is repeated by way of three others and by TCP (which memberlist does by default: a lost or
	// filtered UDP packet is no death), until the interval ends. The timeout is well under half the interval so that the three, which wait
	// as long, can say in time that they got no answer either. A prober that does not hear even this from them takes itself for the one
	// that is unhealthy. That is right, but with half the interval it would happen at every death.
	probeTimeout = 30 * time.Millisecond

	// The suspicion lasts 5 intervals, times log10 of the number of nodes beyond ten: 0.5 s, and 1 s at a hundred.
	suspicionMult = 5

	// The suspicion lasts so long if three others confirm it, and up to twice as long if fewer do: a node that is cut off, or unhealthy, is
	// slower to declare the others dead than they are to declare it dead. Where there are no three others, the short time holds at once. With
	// the default of 6 it would take seconds until a second death, soon after a first one, is found.
	suspicionMaxMult = 2

	// A prober that finds itself unhealthy (Lifeguard's local health awareness) stretches its interval up to 4 times, and not up to the
	// default of 8: in a small cluster there may be no other that could notice a death.
	awarenessMax = 4

	// Beside what the probes carry, news is sent to gossipNodes other speakers every gossipInterval. Where there is no news nothing is sent, and yet the
	// process is woken. Half the interval with half as many speakers would send as many packets, and wake it ten times a second more.
	gossipInterval = 100 * time.Millisecond
	gossipNodes    = 6

	// For this long a dead speaker is still sent gossip, so that it can refute, and remembered, so that the stale state of a speaker that was
	// cut off does not make it alive again.
	tombstoneTime = 10 * time.Second

	// A dead node's name may come back with another address at once: the names are Kubernetes' and unique. Zero would mean never.
	reclaimTime = time.Nanosecond

	// At this interval the whole state is exchanged with one other speaker, in case gossip lost some of it.
	pushPullInterval = 10 * time.Second

	// A stream ends after this, and so does a dial to an address that does not answer.
	streamTimeout = time.Second

	// So often a node that gossip declares dead is asked whether it is alive. When a partition heals, news from its other side is all that
	// speaks for the death: with one question, the loss of a packet or a stall of probeTimeout would confirm it.
	pingAttempts = 2

	// So often, and for so long each time, a connection to a lost speaker's port is tried. One attempt would take the loss of a packet for the
	// loss of the node.
	reachAttempts = 3
	reachTimeout  = 150 * time.Millisecond

	// maxExplanations bounds how many lost nodes are asked at a time how they answer, each by two connections: those that die with a switch in a cluster of
	// 100 nodes are asked at once, and of a larger cluster not hundreds.
	maxExplanations = 64

	// See Members.absent.
	redialInterval = 250 * time.Millisecond
	redialFanout   = 4

	// maxDials bounds the dials that are under way at a time: as many as begin within 2 seconds. One to a node that is dead ends after streamTimeout.
	maxDials = int(2 * streamTimeout / redialInterval * redialFanout)

	leaveTimeout = time.Second
)

func tuning() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.ProbeInterval = probeInterval
	c.ProbeTimeout = probeTimeout
	c.SuspicionMult = suspicionMult
	c.SuspicionMaxTimeoutMult = suspicionMaxMult
	c.AwarenessMaxMultiplier = awarenessMax
	c.GossipInterval = gossipInterval
	c.GossipNodes = gossipNodes
	c.GossipToTheDeadTime = tombstoneTime
	c.DeadNodeReclaimTime = reclaimTime
	c.PushPullInterval = pushPullInterval
	c.TCPTimeout = streamTimeout
	c.GossipVerifyIncoming = true
	c.GossipVerifyOutgoing = true
	c.EnableCompression = false // packets are small
	return c
}

// meta is the memberlist.Delegate. Memberlist spreads its NodeMeta along with this speaker's name: nothing, or a farewell.
type meta struct{ m *Members }

func (d meta) NodeMeta(int) []byte {
	if f := d.m.farewell.Load(); f != nil {
		return f.encode()
	}
	return nil
}

// A farewell is what a speaker says of itself before it stops: that it leaves, or that it restarts and for how long at most. The zero
// farewell is none.
type farewell struct {
	leaves   bool
	restarts time.Duration
}

// Farewells are gossiped as the text "leaving", or as fields that are separated by spaces, of which a speaker ignores those that it does
// not know: "restarting=30s". A speaker of a version that does not know restarts takes one that says so for alive until it is silent.
const (
	leavingMeta     = "leaving"
	restartingField = "restarting="
	// maxGrace bounds for how long a speaker is believed to be restarting, whatever it says.
	maxGrace = 10 * time.Minute
)

func (f farewell) encode() []byte {
	if f.leaves {
		return []byte(leavingMeta)
	}
	return []byte(restartingField + f.restarts.String())
}

func decodeFarewell(meta []byte) (f farewell) {
	if string(meta) == leavingMeta {
		return farewell{leaves: true}
	}
	for field := range strings.FieldsSeq(string(meta)) {
		if text, ok := strings.CutPrefix(field, restartingField); ok {
			if grace, err := time.ParseDuration(text); err == nil && grace > 0 {
				f.restarts = min(grace, maxGrace)
			}
		}
	}
	return f
}

// NotifyMsg takes a message that SendAll has sent, or a packet that this member is to pass on.
func (d meta) NotifyMsg(message []byte) {
	if !d.m.transport.Relay(message) && d.m.onMessage != nil {
		d.m.onMessage(message)
	}
}

func (meta) GetBroadcasts(_, _ int) [][]byte { return nil }
func (meta) LocalState(bool) []byte          { return nil }
func (meta) MergeRemoteState([]byte, bool)   {}

// events is the memberlist.EventDelegate. memberlist calls it for one event at a time, under its own lock.
type events struct{ m *Members }

func (e events) NotifyJoin(n *memberlist.Node) { e.NotifyUpdate(n) }

func (e events) NotifyLeave(n *memberlist.Node) {
	switch f := decodeFarewell(n.Meta); {
	case f.leaves:
		e.m.left(n.Name)
	case f.restarts > 0: // It has said so, and is silent now.
		e.m.restarts(n.Name, f.restarts)
	default:
		e.m.confirmDead(n.Name, addressOf(n))
	}
}

func (e events) NotifyUpdate(n *memberlist.Node) {
	switch f := decodeFarewell(n.Meta); {
	case f.leaves:
		e.m.left(n.Name)
	case f.restarts > 0:
		e.m.restarts(n.Name, f.restarts)
	default:
		e.m.arrived(n.Name, addressOf(n))
	}
}

func addressOf(n *memberlist.Node) netip.AddrPort {
	address, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(address.Unmap(), n.Port)
}

func newAlive(m *Members) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tandem_membership_alive_speakers",
		Help: "Speakers that this speaker takes for alive, itself included.",
	}, func() float64 { return float64(len(m.Alive().Nodes)) })
}

func newRejected() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tandem_membership_rejected_messages_total",
		Help: "Packets and streams that were dropped because the membership key does not decrypt them.",
	})
}

// gossipLog passes memberlist's log on to klog. What memberlist calls an error is often a refused connection to a dead node. An operator
// needs none of it, since Members itself logs which speakers come and go. So errors, warnings and information of memberlist are V(4), and
// its debugging is V(6). A message that the key does not decrypt is an exception: memberlist logs it, but neither counts it nor has a hook
// for it, so that it is recognised here by its text.
type gossipLog struct {
	logger   klog.Logger
	rejected prometheus.Counter
	warn     rate.Sometimes
}

func newGossipLog(logger klog.Logger, rejected prometheus.Counter) *gossipLog {
	return &gossipLog{logger: logger, rejected: rejected, warn: rate.Sometimes{Interval: time.Minute}}
}

// rejections are what memberlist says of a message that the key does not decrypt, among them that it is not encrypted at all.
var rejections = []string{"Decrypt packet failed", "no installed keys could decrypt", "remote state is not encrypted"}

// Write passes on one line, as log.Logger writes them. It is cheap, since each packet of any host that has no key is a line.
func (l *gossipLog) Write(line []byte) (int, error) {
	level, text := parseLine(strings.TrimSpace(string(line)))
	if level == "ERR" && slices.ContainsFunc(rejections, func(said string) bool { return strings.Contains(text, said) }) {
		l.rejected.Inc()
		l.warn.Do(func() {
			l.logger.Info("Dropped a message that the membership key does not decrypt; more within a minute are only counted",
				"reason", text)
		})
	}
	verbosity := 4
	if level == "DEBUG" {
		verbosity = 6
	}
	if to := l.logger.V(verbosity); to.Enabled() {
		to.Info("Gossip: "+text, "level", level)
	}
	return len(line), nil
}

// parseLine takes apart what memberlist writes: "[ERR] memberlist: Failed to send ping" has the level ERR, and its text begins with Failed.
func parseLine(line string) (level, text string) {
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, message, ok := strings.Cut(rest, "] "); ok {
			return name, strings.TrimPrefix(message, "memberlist: ")
		}
	}
	return "INFO", line
}
