// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// Interval is how often a target is asked, and how long an answer may take. Thus a kernel that falls silent is found after three to four
// intervals. Four targets cost 53 small packets a second, and as many answers.
const Interval = 75 * time.Millisecond

// A Prober asks targets again and again. Its methods may be called at any time, by any goroutine.
type Prober struct {
	interval time.Duration
	lost     *prometheus.CounterVec
	changes  signal.Signal
	wake     signal.Signal

	mu         sync.Mutex // guards all following fields
	targets    map[Key]Target
	interfaces map[string]net.Interface
	states     map[Key]State

	// What follows is owned by the goroutine in Run.

	id      uint16 // of the echoes
	links   map[string]*link
	watches map[Key]*watched
}

// watched is a target with what is known of it.
type watched struct {
	Target
	watch
	// station is the MAC to ask: that of the Target or, of a gateway, the one with which it has answered last.
	station neighbor.MAC
}

// link has the sockets on an interface of this node: for ARP, echoes of IPv4, and ICMPv6.
type link struct {
	net.Interface
	arp, echo, icmpv6 *packet.Conn
	// failed is why the sockets are not open, to be logged once.
	failed error
}

// New returns a Prober that asks nobody yet, and then each target once in an interval.
func New(interval time.Duration, registerer prometheus.Registerer) *Prober {
	p := &Prober{
		interval: interval,
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_lan_lost_probes_total", Help: "Questions to the kernels of other nodes that were not answered in time.",
		}, []string{"node", "interface"}),
		changes: signal.New(), wake: signal.New(), id: uint16(rand.Uint32()),
		states: map[Key]State{}, links: map[string]*link{}, watches: map[Key]*watched{},
	}
	if registerer != nil {
		registerer.MustRegister(p.lost)
	}
	return p
}

// Set declares the targets, and the interfaces of this node by which they are asked. From then on each target has a State. A target that
// was there before, and is the same, keeps its State.
func (p *Prober) Set(targets []Target, interfaces []net.Interface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.targets
	p.targets, p.interfaces = map[Key]Target{}, map[string]net.Interface{}
	for _, t := range targets {
		p.targets[t.Key] = t
		if old, ok := before[t.Key]; !ok || !old.equal(&t) {
			p.states[t.Key] = Unknown
		}
	}
	for _, i := range interfaces {
		p.interfaces[i.Name] = i
	}
	maps.DeleteFunc(p.states, func(k Key, _ State) bool {
		_, ok := p.targets[k]
		return !ok
	})
	p.wake.Raise()
}

// States returns the state of each target. Something that is no target has none.
func (p *Prober) States() map[Key]State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.states)
}

// Changes returns a channel that receives after a State has changed. Several changes may be one receive. It is made for one reader.
func (p *Prober) Changes() <-chan struct{} { return p.changes }

// Run asks until the context ends. Sockets are opened in the network namespace of the thread that calls Run.
func (p *Prober) Run(ctx context.Context) error {
	defer p.closeAll()
	timer := time.NewTimer(p.interval)
	defer timer.Stop()
	asked, rests := time.Now(), 0 // rests is for how many intervals more than one the timer runs
	for {
		due := timer.C
		if len(p.watches) == 0 {
			due = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			p.follow(klog.FromContext(ctx))
			if rested := min(rests, int(time.Since(asked)/p.interval)); rests > 0 && p.rests() < rests-rested {
				p.rest(rested)
				rests = 0
				timer.Reset(p.interval)
			}
			continue
		case <-due:
		}
		p.rest(rests)
		p.step(p.drain())
		p.ask()
		p.publish(klog.FromContext(ctx))
		// The interval counts from the questions, and not from when it was to begin: after a stall the answers are to have their time.
		asked, rests = time.Now(), p.rests()
		timer.Reset(p.interval * time.Duration(1+rests))
	}
}

// rests returns how many intervals may pass as one without a question, beyond the one that has begun: none where a host is watched or an
// answer is awaited. On the only node of a cluster, which watches its gateways alone, nothing wakes the process for five seconds.
func (p *Prober) rests() int {
	least := -1
	for _, w := range p.watches {
		if !w.IsGateway() || w.out || w.failed {
			return 0
		}
		if n := w.Rests(); least < 0 || n < least {
			least = n
		}
	}
	return max(least, 0)
}

// rest lets so many intervals pass.
func (p *Prober) rest(intervals int) {
	for _, w := range p.watches {
		for range intervals {
			w.Rest()
		}
	}
}

// follow opens and closes sockets, and begins and ends watches, as Set has declared.
func (p *Prober) follow(logger klog.Logger) {
	p.mu.Lock()
	targets, interfaces := p.targets, p.interfaces
	p.mu.Unlock()
	used := map[string]bool{}
	for key, t := range targets {
		used[t.Via] = true
		if w := p.watches[key]; w == nil || !w.equal(&t) {
			p.watches[key] = &watched{Target: t, watch: newWatch(len(t.Pairs), t.IsGateway()), station: t.MAC}
		}
	}
	for key := range p.watches {
		if _, ok := targets[key]; !ok {
			delete(p.watches, key)
			p.lost.DeleteLabelValues(key.Node, key.Interface)
		}
	}
	for name, l := range p.links {
		if i, ok := interfaces[name]; !ok || !used[name] || i.Index != l.Index || !bytes.Equal(i.HardwareAddr, l.HardwareAddr) {
			l.close()
			delete(p.links, name)
		}
	}
	for name, i := range interfaces {
		if l := p.links[name]; used[name] && (l == nil || l.arp == nil) {
			p.links[name] = p.open(logger, i, l)
		}
	}
}

// open opens the sockets of an interface. One that cannot be opened is tried again when something is declared.
func (p *Prober) open(logger klog.Logger, i net.Interface, before *link) *link {
	l := &link{Interface: i}
	var errs [3]error
	l.arp, errs[0] = neighbor.Listen(&i, neighbor.TypeARP, arpFilter(i.Index))
	l.echo, errs[1] = neighbor.Listen(&i, unix.ETH_P_IP, echoFilter(i.Index, p.id))
	l.icmpv6, errs[2] = neighbor.Listen(&i, neighbor.TypeIPv6, icmpv6Filter(i.Index, p.id))
	if l.failed = errors.Join(errs[:]...); l.failed == nil {
		return l
	}
	l.close()
	if before == nil || before.failed == nil {
		logger.Error(l.failed, "Cannot ask the kernels of other nodes on an interface", "interface", i.Name)
	}
	return l
}

func (l *link) close() {
	for _, conn := range []*packet.Conn{l.arp, l.echo, l.icmpv6} {
		if conn != nil {
			_ = conn.Close()
		}
	}
	l.arp, l.echo, l.icmpv6 = nil, nil, nil
}

// conn returns the socket for a question of a kind about an address.
func (l *link) conn(k kind, address netip.Addr) *packet.Conn {
	switch {
	case address.Is6():
		return l.icmpv6
	case k == echo:
		return l.echo
	}
	return l.arp
}

func (p *Prober) closeAll() {
	for _, l := range p.links {
		l.close()
	}
}

// drain takes in all answers that have arrived. It returns the interfaces on which some may have been dropped.
func (p *Prober) drain() (dropped map[string]bool) {
	buffer := make([]byte, maxFrame)
	dropped = map[string]bool{}
	for name, l := range p.links {
		if l.arp == nil {
			continue
		}
		drain := func(conn *packet.Conn, parse func([]byte) (answer, bool)) {
			some, err := neighbor.Drain(conn, buffer, func(frame []byte) {
				if a, ok := parse(frame); ok {
					p.heard(name, a)
				}
			})
			// A socket fails when its interface goes down. That is no loss of the others.
			dropped[name] = dropped[name] || some || err != nil
		}
		drain(l.arp, parseARP)
		drain(l.echo, func(frame []byte) (answer, bool) { return parseEcho(frame, p.id) })
		drain(l.icmpv6, func(frame []byte) (answer, bool) { return parseICMPv6(frame, p.id) })
	}
	return dropped
}

// heard takes in an answer that came by an interface. That to a question to all stations says nothing if it is what is known already: it may
// come from a switch that answers for its hosts.
func (p *Prober) heard(via string, a answer) {
	for _, w := range p.watches {
		i := slices.IndexFunc(w.Pairs, func(pair Pair) bool { return pair.Target.WithZone("") == a.address })
		switch {
		case w.Via != via || i < 0:
		case w.IsGateway() && a.kind != echo:
			w.station = a.mac
			w.Heard(i, toNeighbour)
		case w.MAC == a.mac && a.kind != toGroup:
			w.Heard(i, a.kind)
		case w.MAC != a.mac && a.kind != echo:
			w.HeardElsewhere()
		}
	}
}

// step ends the interval of all watches.
func (p *Prober) step(dropped map[string]bool) {
	for key, w := range p.watches {
		lost := w.lost
		w.Step(dropped[w.Via])
		if w.lost > lost && !w.IsGateway() {
			p.lost.WithLabelValues(key.Node, key.Interface).Inc()
		}
	}
}

// ask asks all targets. A gateway rests while all hosts on its link answer.
func (p *Prober) ask() {
	troubled := map[string]bool{}
	for _, w := range p.watches {
		troubled[w.Via] = troubled[w.Via] || !w.IsGateway() && w.lost > 0
	}
	for _, w := range p.watches {
		if w.IsGateway() && !troubled[w.Via] && w.Rest() {
			continue
		}
		l := p.links[w.Via]
		if l == nil || l.arp == nil || len(l.HardwareAddr) != len(neighbor.MAC{}) {
			w.Asked(false)
			continue
		}
		s, toAll := w.Next()
		pair, k, station := w.Pairs[s.pair], s.kind, w.station
		if w.IsGateway() && (w.lost > 0 || station == neighbor.MAC{}) {
			k, station = toNeighbour, neighbor.Broadcast
			if pair.Target.Is6() {
				k = toGroup
			}
		}
		send := func(k kind) error {
			return neighbor.Send(l.conn(k, pair.Target), question(k, neighbor.MAC(l.HardwareAddr), station, pair, p.id))
		}
		w.Asked(send(k) == nil)
		if toAll && !w.IsGateway() {
			_ = send(toGroup) // The other question counts.
		}
	}
}

// publish makes the states visible to States.
func (p *Prober) publish(logger klog.Logger) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, w := range p.watches {
		// What was declared since is not known yet.
		if t, ok := p.targets[key]; !ok || !t.equal(&w.Target) || p.states[key] == w.state {
			continue
		}
		if !w.IsGateway() {
			logger.Info("The kernel of a node is "+w.state.String(), "node", key.Node, "interface", key.Interface, "via", w.Via)
		}
		p.states[key] = w.state
		p.changes.Raise()
	}
}
