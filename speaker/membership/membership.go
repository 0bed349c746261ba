// SPDX-License-Identifier: Apache-2.0

// Package membership tells which speakers are alive, without the API server.
//
// Every speaker gossips with the others (SWIM with the Lifeguard extensions, by hashicorp/memberlist) over UDP and
// TCP on one port. It probes one other speaker every 100 ms; one that answers neither directly, nor to others on its
// behalf, nor over TCP, is suspected, and everybody is told; unless it objects in time, it is dead, and everybody is
// told. The constants in this package say how fast, and what that costs.
//
//   - The name of the node is the identity. A node that comes back is the same node, with whatever address.
//   - [Members.Alive] is this speaker's view. It holds this speaker itself, and suspects, since most of them are
//     innocent. Views converge within fractions of a second but are never known to be equal: who acts on them
//     (package election) must bear with two answers for a moment.
//   - Nobody is dead by hearsay: whom gossip declares dead is asked once more, and is alive as long as it answers.
//   - Dead means silent for the better part of a second, nothing more: there is no fencing. In a partition each side
//     sees the other as dead, and both are right about what they can reach.
//   - [Members.Leave] is a farewell: the others know at once, and do not count it as a loss.
//   - A speaker that had others and lost the last of them is Alone: more likely it is cut off than they are dead.
//   - memberlist forgets the dead, and a cold start knows nobody. So [Members.SetPeers] takes the addresses of all
//     speakers' nodes, as the API lists them, and those that are not alive are dialled again and again, so that a
//     healed partition merges within about a second. While the API is down, the last list serves.
//   - Packets and streams are encrypted and authenticated with AES-256-GCM by a key derived from a secret. What does
//     not decrypt is dropped, and counted.
//     A recorded packet can be replayed: at worst it has a speaker taken for dead or leaving until that speaker, who
//     hears of it by gossip, objects.
package membership

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
)

// Config is what a speaker needs to become a member.
type Config struct {
	// Node is the name of this speaker's node. No two speakers may use the same.
	Node string
	// Bind is the address of this node that the other speakers reach it by, of either family. It is bound to and
	// advertised, so it cannot be unspecified.
	Bind netip.Addr
	// Port is the UDP and TCP port, the same on every node.
	Port uint16
	// Key is the secret that all speakers share: any text, from which the encryption key is derived.
	Key []byte
	// Registerer takes the metrics.
	Registerer prometheus.Registerer
}

func (c Config) validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("the node has no name"))
	}
	if !c.Bind.IsValid() || c.Bind.IsUnspecified() || c.Bind.IsMulticast() {
		errs = append(errs, fmt.Errorf("the bind address %v is not a node's address", c.Bind))
	}
	if c.Port == 0 {
		errs = append(errs, errors.New("the port is 0"))
	}
	if len(c.Key) == 0 {
		errs = append(errs, errors.New("the key is empty"))
	}
	return errors.Join(errs...)
}

// A Snapshot is who was alive at one moment. It is shared: do not modify it.
type Snapshot struct {
	// Nodes holds the names of the nodes whose speakers are alive, this one's included.
	Nodes map[string]struct{}
	// Alone says that there were other speakers, that at least one of them was lost rather than left, and that none is
	// alive now.
	Alone bool
	// Version rises with every change.
	Version uint64
}

// Has reports whether the node's speaker is alive.
func (s Snapshot) Has(node string) bool {
	_, ok := s.Nodes[node]
	return ok
}

// Members is this speaker's membership among the speakers.
type Members struct {
	node      string
	port      uint16
	logger    klog.Logger
	list      *memberlist.Memberlist // ended by run, and nobody else
	hearings  context.Context        // the parent of those of the accused
	leaving   atomic.Bool
	farewells chan farewell
	changes   chan struct{} // holds one token while there are changes unread
	redial    chan struct{} // holds one token while there are peers not yet tried
	ended     chan struct{} // closed when the sockets are

	// mu guards all following fields. Events take it while memberlist holds its own lock, so that none of memberlist's
	// methods may be called under it.
	mu       sync.Mutex
	peers    map[string]netip.Addr
	lost     map[string]struct{}           // once alive, and gone without a farewell
	accused  map[string]context.CancelFunc // said to be dead, and being asked; what is called acquits
	snapshot Snapshot
}

// Join binds the port and begins to gossip. The membership lasts until ctx ends or Leave returns. When ctx ends, this
// speaker falls silent, and the others find it dead.
func Join(ctx context.Context, config Config) (*Members, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("joining the speakers: %w", err)
	}
	key, err := hkdf.Key(sha256.New, config.Key, nil, "tandem-lb.io membership v1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the membership key: %w", err)
	}
	m := &Members{
		node:      config.Node,
		port:      config.Port,
		logger:    klog.FromContext(ctx),
		hearings:  ctx,
		farewells: make(chan farewell),
		changes:   make(chan struct{}, 1),
		redial:    make(chan struct{}, 1),
		ended:     make(chan struct{}),
		lost:      map[string]struct{}{},
		accused:   map[string]context.CancelFunc{},
		snapshot:  Snapshot{Nodes: map[string]struct{}{config.Node: {}}},
	}
	alive, rejected := newAlive(m), newRejected()
	if err := errors.Join(config.Registerer.Register(alive), config.Registerer.Register(rejected)); err != nil {
		return nil, fmt.Errorf("registering the membership metrics: %w", err)
	}
	bind := config.Bind.Unmap().String()
	tuned := tuning()
	tuned.Name = config.Node
	tuned.BindAddr, tuned.BindPort = bind, int(config.Port)
	tuned.AdvertiseAddr, tuned.AdvertisePort = bind, int(config.Port)
	tuned.SecretKey = key
	tuned.Logger = log.New(newGossipLog(m.logger, rejected), "", 0)
	tuned.Delegate = meta{m}
	tuned.Events = events{m}
	if m.list, err = memberlist.Create(tuned); err != nil {
		return nil, fmt.Errorf("joining the speakers as %s on %s: %w", config.Node, bind, err)
	}
	go m.run(ctx)
	return m, nil
}

// Alive returns who is alive, as far as this speaker knows.
func (m *Members) Alive() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

// Changes returns a channel that delivers after Alive has changed; several changes may be one delivery. It is made
// for one reader.
func (m *Members) Changes() <-chan struct{} { return m.changes }

// SetPeers says which nodes have speakers, and their addresses; this node's own entry is ignored. Those that are not
// alive are dialled until they are, and now if the peers have changed. Nobody dies for not being among them.
func (m *Members) SetPeers(addresses map[string]netip.Addr) {
	m.mu.Lock()
	before := m.peers
	m.peers = maps.Clone(addresses)
	delete(m.peers, m.node)
	changed := !maps.Equal(before, m.peers)
	maps.DeleteFunc(m.lost, func(node string, _ struct{}) bool {
		_, ok := m.peers[node]
		return !ok
	})
	m.update(m.snapshot.Nodes)
	m.mu.Unlock()
	if changed {
		notify(m.redial)
	}
}

// Leave takes leave of the others, who see this speaker gone at once, and closes the sockets. Where the others do not
// get to hear it, Leave returns after a second, or at ctx's deadline if that is earlier.
func (m *Members) Leave(ctx context.Context) error {
	deadline := time.Now().Add(farewellTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	said := make(chan error, 1)
	select {
	case m.farewells <- farewell{deadline: deadline, said: said}:
	case <-m.ended:
		return errors.New("leaving the speakers: the membership has ended")
	}
	err := <-said
	<-m.ended
	if err != nil {
		return fmt.Errorf("leaving the speakers: %w", err)
	}
	m.logger.Info("Left the other speakers")
	return nil
}

type farewell struct {
	deadline time.Time
	said     chan<- error
}

func (m *Members) run(ctx context.Context) {
	defer close(m.ended)
	defer func() {
		m.mu.Lock()
		for node := range m.accused {
			m.acquit(node) // nobody can be asked any more
		}
		m.mu.Unlock()
		if err := m.list.Shutdown(); err != nil {
			m.logger.Error(err, "Failed to close the membership's sockets")
		}
	}()
	round := time.NewTicker(redialInterval)
	defer round.Stop()
	for {
		for _, address := range m.absent() {
			// A dial ends within streamTimeout, so that few are under way at a time. Success is an event, failure routine.
			go func() { _, _ = m.list.Join([]string{address.String()}) }()
		}
		select {
		case <-ctx.Done():
			return
		case f := <-m.farewells:
			f.said <- m.takeLeave(f.deadline)
			return
		case <-m.redial:
		case <-round.C:
		}
	}
}

// takeLeave tells the others first that this speaker is leaving, which is what they act on, and then that it has
// left, so that their memberlist does not look for it any more.
func (m *Members) takeLeave(deadline time.Time) error {
	m.leaving.Store(true)
	// A timeout of zero would be none.
	errLeaving := m.list.UpdateNode(max(time.Until(deadline)/2, time.Millisecond))
	errLeft := m.list.Leave(max(time.Until(deadline), time.Millisecond))
	return errors.Join(errLeaving, errLeft)
}

// absent returns the addresses to dial in this round: each peer that is not alive with a chance of one in as many as
// are alive, and redialFanout at most. Thus the cluster as a whole dials each of its dead at the same rate however
// large it is, while a speaker on its own dials without restraint. One dial that gets through merges all that both
// sides know, so that two halves of a partition find together by any of their pairs.
func (m *Members) absent() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	var addresses []netip.AddrPort
	for node, address := range m.peers {
		_, accused := m.accused[node]
		if (accused || !m.snapshot.Has(node)) && rand.IntN(len(m.snapshot.Nodes)) == 0 {
			addresses = append(addresses, netip.AddrPortFrom(address.Unmap(), m.port))
		}
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses[:min(len(addresses), redialFanout)]
}

// accuse takes in that gossip has declared a node dead. It is asked itself before it is believed dead: the verdict may be a rumour that
// somebody brings along from the other side of a partition, or come of a stall that is over. A node that answers stays alive, and is asked
// again until gossip has heard of its objection; one that does not is gone after probeTimeout.
func (m *Members) accuse(node string, address netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, accused := m.accused[node]; accused || !m.snapshot.Has(node) || node == m.node {
		return
	}
	hearing, acquit := context.WithCancel(m.hearings)
	m.accused[node] = acquit
	notify(m.redial) // a dial brings both sides' views together
	go func() {
		defer acquit()
		for {
			if _, err := m.list.Ping(node, net.UDPAddrFromAddrPort(address)); err != nil {
				break
			}
			select {
			case <-hearing.Done():
				return
			case <-time.After(probeInterval):
			}
		}
		m.condemn(hearing, node)
	}()
}

// condemn ends a hearing that nothing else has ended.
func (m *Members) condemn(hearing context.Context, node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if hearing.Err() == nil {
		m.goneLocked(node, false)
	}
}

// acquit ends the hearing of a node, if there is one. mu is held.
func (m *Members) acquit(node string) {
	if acquit, accused := m.accused[node]; accused {
		acquit()
		delete(m.accused, node)
	}
}

// arrived takes in that gossip found a node.
func (m *Members) arrived(node string, address netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acquit(node)
	if m.snapshot.Has(node) {
		return
	}
	nodes := maps.Clone(m.snapshot.Nodes)
	nodes[node] = struct{}{}
	delete(m.lost, node)
	m.update(nodes)
	m.logger.Info("Found a speaker", "node", node, "address", address, "alive", len(nodes))
}

// left takes in that a node said farewell.
func (m *Members) left(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.goneLocked(node, true)
}

// goneLocked takes a node out, after its death or its farewell. mu is held.
func (m *Members) goneLocked(node string, saidFarewell bool) {
	m.acquit(node)
	if !m.snapshot.Has(node) || node == m.node {
		return
	}
	nodes := maps.Clone(m.snapshot.Nodes)
	delete(nodes, node)
	if !saidFarewell {
		m.lost[node] = struct{}{}
	}
	m.update(nodes)
	m.logger.Info("Lost a speaker", "node", node, "saidFarewell", saidFarewell, "alive", len(nodes),
		"alone", m.snapshot.Alone)
}

// update takes a new snapshot if it differs from the last. mu is held.
func (m *Members) update(nodes map[string]struct{}) {
	alone := len(nodes) == 1 && len(m.lost) > 0
	if alone == m.snapshot.Alone && maps.Equal(nodes, m.snapshot.Nodes) {
		return
	}
	m.snapshot = Snapshot{Nodes: nodes, Alone: alone, Version: m.snapshot.Version + 1}
	notify(m.changes)
}

// notify leaves a token, unless one is there already.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
