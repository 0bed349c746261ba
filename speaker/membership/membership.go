// SPDX-License-Identifier: Apache-2.0

// Package membership tells which speakers are alive, without the API server.
//
// Every speaker gossips with the others (SWIM with the Lifeguard extensions, by hashicorp/memberlist) over UDP and TCP on one port. It
// probes one other speaker every 100 ms. A speaker that answers neither the probe, nor others that are asked to probe it too, nor over TCP,
// is suspect, and all speakers are told. Unless it refutes that in time, it is dead, and all speakers are told. The constants in this
// package say how fast that is, and what it costs.
//
//   - The name of the node is the identity. A node that comes back is the same node, with whatever address.
//   - [Members.Alive] is this speaker's view. It holds this speaker itself, and suspects, since most of them turn out to be alive. Views
//     converge within fractions of a second but are never known to be equal: code that acts on them (package election) must bear with two
//     answers for a moment.
//   - Gossip alone makes no speaker dead. A speaker that gossip declares dead is asked once more, and is alive as long as it answers.
//   - Nodes may have addresses of one family or of both. Two that have none in common reach each other by way of one that has both. If there is
//     none, they are dead to each other.
//   - Dead means silent for the better part of a second, nothing more: there is no fencing. In a partition each side sees the other as
//     dead, and both are right about what they can reach.
//   - After [Members.Leave] the others know at once that this speaker is gone, and do not count it as lost. After [Members.Restart] they also
//     know that it means to be back, and until when.
//   - A speaker that had others and lost the last of them is Alone: it is more likely to be cut off than they are to be dead.
//   - memberlist forgets the dead, and knows no other speaker after a cold start. So [Members.SetPeers] takes the addresses of all
//     speakers' nodes, as the API lists them. Those that are not alive are dialled again and again, so that a healed partition merges
//     within about a second. While the API is down, the last list serves.
//   - Packets and streams are encrypted and authenticated with AES-256-GCM by a key derived from a secret. A message that does not decrypt
//     is dropped and counted. A recorded packet can be replayed: at worst a speaker is then taken for dead or leaving until it hears of
//     that by gossip and refutes it.
//   - What hosts without the key can cost is bounded, whichever family they use: a packet takes memory as long as itself, 64 streams are open at a
//     time, and what these have been sent is 4 MiB together at most.
package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// Config is what a speaker needs to become a member.
type Config struct {
	// Node is the name of this speaker's node. No two speakers may use the same.
	Node string
	// Bind is the address of this node at which the other speakers reach it, of either family. The port is bound on it, and the others are
	// told of it, so that it cannot be unspecified.
	Bind netip.Addr
	// Other is this node's address of the other family, the zero Addr if it has none. At it the speakers reach this one whose nodes have no
	// address of the family of Bind.
	Other netip.Addr
	// Port is the UDP and TCP port, the same on every node.
	Port uint16
	// Key is the secret that all speakers share: any text, from which the encryption key is derived.
	Key []byte
	// OnMessage is called with each message of another speaker, and must return soon. The message is overwritten after that. It may be nil.
	OnMessage func(message []byte)
	// Registerer takes the metrics.
	Registerer prometheus.Registerer
}

func (c Config) validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("the node has no name"))
	}
	if !isNodeAddress(c.Bind.Unmap()) {
		errs = append(errs, fmt.Errorf("the bind address %v is not a node's address", c.Bind))
	}
	if o := c.Other.Unmap(); o.IsValid() && (!isNodeAddress(o) || family.Of(o) == family.Of(c.Bind.Unmap())) {
		errs = append(errs, fmt.Errorf("the other address %v is not a node's address of the other family than that of %v", o, c.Bind))
	}
	if c.Port == 0 {
		errs = append(errs, errors.New("the port is 0"))
	}
	if len(c.Key) == 0 {
		errs = append(errs, errors.New("the key is empty"))
	}
	return errors.Join(errs...)
}

// isNodeAddress reports whether an address may be one of a node.
func isNodeAddress(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

// A Snapshot says which speakers were alive at one moment. It is shared: do not modify it.
type Snapshot struct {
	// Nodes holds the names of the nodes whose speakers are alive, this one's included.
	Nodes map[string]struct{}
	// Restarting holds the nodes whose speakers have said that they restart, and have not come back: until when each was to be back, by the
	// clock of this node. None of them is among Nodes.
	Restarting map[string]time.Time
	// Lost holds the nodes whose speakers were alive, and are gone without having said anything: since when.
	Lost map[string]time.Time
	// CutOff holds those of Lost that do not answer by TCP, neither at the port of gossip nor at that of the kubelet, not even by a refusal: not
	// the speaker alone is gone, but its node, or the node's way to the network on which the speakers reach each other.
	CutOff map[string]bool
	// Filtered holds those of Lost that do not answer at the port of gossip, and do at that of the kubelet: a firewall drops gossip, of a speaker
	// that may well be alive. One that has crashed leaves a kernel that refuses connections to its port.
	Filtered map[string]bool
	// Alone says that there were other speakers, that at least one of them was lost rather than left, and that none is alive now.
	Alone bool
}

// Has reports whether the node's speaker is alive.
func (s Snapshot) Has(node string) bool {
	_, ok := s.Nodes[node]
	return ok
}

func (s Snapshot) equal(o Snapshot) bool {
	return s.Alone == o.Alone && maps.Equal(s.Nodes, o.Nodes) && maps.Equal(s.Restarting, o.Restarting) && maps.Equal(s.Lost, o.Lost) &&
		maps.Equal(s.CutOff, o.CutOff) && maps.Equal(s.Filtered, o.Filtered)
}

// without returns a snapshot that says nothing of a node.
func (s Snapshot) without(node string) Snapshot {
	return Snapshot{
		Nodes: withoutKey(s.Nodes, node), Restarting: withoutKey(s.Restarting, node), Lost: withoutKey(s.Lost, node),
		CutOff: withoutKey(s.CutOff, node), Filtered: withoutKey(s.Filtered, node), Alone: s.Alone,
	}
}

// withoutKey returns a map without a key, and with returns one with it. Neither changes the map that it is given.
func withoutKey[V any](all map[string]V, key string) map[string]V {
	if _, ok := all[key]; !ok {
		return all
	}
	rest := maps.Clone(all)
	delete(rest, key)
	return rest
}

func with[V any](all map[string]V, key string, value V) map[string]V {
	more := maps.Clone(all)
	if more == nil {
		more = map[string]V{}
	}
	more[key] = value
	return more
}

// Members is this speaker's membership among the speakers.
type Members struct {
	node      string
	port      uint16
	logger    klog.Logger
	list      *memberlist.Memberlist // set when created is closed; ended by run alone
	created   chan struct{}
	transport *transport
	ctx       context.Context // the parent of those in confirmations
	farewell  atomic.Pointer[farewell]
	// onMessage is Config.OnMessage.
	onMessage func([]byte)
	leave     chan leaveRequest
	changes   signal.Signal // raised when Alive has changed
	redial    signal.Signal // raised when there are peers that were not dialled yet
	ended     chan struct{} // closed when the sockets are
	// dial exchanges what both know with the speaker at an address. dialling is a semaphore of maxDials for it.
	dial     func(netip.AddrPort)
	dialling chan struct{}
	// answers finds out how a lost node answers. explaining is a semaphore of maxExplanations for it.
	answers    func(ctx context.Context, address netip.AddrPort) answer
	explaining chan struct{}

	// mu guards all following fields. Events take it while memberlist holds its own lock, so that none of memberlist's methods may be
	// called under it.
	mu    sync.Mutex
	peers map[string][]netip.Addr
	// confirmations are the nodes that gossip has declared dead and that are being asked whether they are, each with what ends the asking.
	confirmations map[string]context.CancelFunc
	snapshot      Snapshot
	ring          *memberlist.Keyring
	keys          rotation
}

// Join binds the port and begins to gossip. The membership lasts until ctx ends or Leave returns. When ctx ends, this speaker falls silent,
// and the others find it dead.
func Join(ctx context.Context, config Config) (*Members, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("joining the speakers: %w", err)
	}
	key, err := derive(config.Key)
	if err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(nil, key)
	if err != nil {
		return nil, fmt.Errorf("joining the speakers: %w", err)
	}
	m := newMembers(ctx, config)
	m.ring, m.keys = ring, rotation{wanted: [][]byte{key}}
	alive, rejected := newAlive(m), newRejected()
	if err := errors.Join(config.Registerer.Register(alive), config.Registerer.Register(rejected)); err != nil {
		return nil, fmt.Errorf("registering the membership metrics: %w", err)
	}
	bind := config.Bind.Unmap().String()
	tuned := tuning()
	tuned.Name = config.Node
	tuned.BindAddr, tuned.BindPort = bind, int(config.Port)
	tuned.AdvertiseAddr, tuned.AdvertisePort = bind, int(config.Port)
	tuned.Keyring = ring
	tuned.Logger = log.New(newGossipLog(m.logger, rejected), "", 0)
	tuned.Delegate = meta{m}
	tuned.Events = events{m}
	transport, err := listen(ctx, netip.AddrPortFrom(config.Bind.Unmap(), config.Port), config.Other.Unmap())
	if partial := (*otherFamilyError)(nil); errors.As(err, &partial) {
		m.logger.Error(err, "Failed to bind the second address, going on without: speakers on nodes that have its family alone reach this one by others")
	} else if err != nil {
		return nil, fmt.Errorf("joining the speakers as %s on %s: %w", config.Node, bind, err)
	}
	transport.addresses, transport.relays, transport.pass = m.addressesOf, m.alivePeers, m.sendTo
	m.transport, tuned.Transport = transport, transport
	if m.list, err = memberlist.Create(tuned); err != nil {
		close(m.ended)
		return nil, errors.Join(fmt.Errorf("joining the speakers as %s on %s: %w", config.Node, bind, err), transport.Shutdown())
	}
	// Its success causes an event, and its failure is routine.
	m.dial = func(address netip.AddrPort) { _, _ = m.list.Join([]string{address.String()}) }
	close(m.created)
	go m.run(ctx)
	return m, nil
}

// newMembers returns a Members that knows no other speaker yet, and has neither key nor sockets.
func newMembers(ctx context.Context, config Config) *Members {
	return &Members{
		node:          config.Node,
		port:          config.Port,
		logger:        klog.FromContext(ctx),
		onMessage:     config.OnMessage,
		ctx:           ctx,
		created:       make(chan struct{}),
		leave:         make(chan leaveRequest),
		changes:       signal.New(),
		redial:        signal.New(),
		ended:         make(chan struct{}),
		dialling:      make(chan struct{}, maxDials),
		answers:       answers,
		explaining:    make(chan struct{}, maxExplanations),
		confirmations: map[string]context.CancelFunc{},
		snapshot:      Snapshot{Nodes: map[string]struct{}{config.Node: {}}},
	}
}

// Alive returns which speakers are alive, as far as this one knows.
func (m *Members) Alive() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

// Changes returns a channel that receives after Alive has changed. Several changes may be one receive. It is made for one reader.
func (m *Members) Changes() <-chan struct{} { return m.changes }

// SendAll sends a message to all speakers that are alive, once and directly: it is lost for those that a packet does not reach. It has to
// fit into a packet.
func (m *Members) SendAll(message []byte) {
	for _, n := range m.list.Members() {
		if n.Name != m.node {
			_ = m.list.SendBestEffort(n, message) // A failure is like a loss.
		}
	}
}

// sendTo sends a message to one speaker, once and directly.
func (m *Members) sendTo(node string, message []byte) error {
	for _, n := range m.list.Members() {
		if n.Name == node {
			return m.list.SendBestEffort(n, message)
		}
	}
	return fmt.Errorf("there is no speaker on node %s", node)
}

// addressesOf returns the addresses of a peer.
func (m *Members) addressesOf(node string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peers[node]
}

// alivePeers returns the peers that are alive, with their addresses.
func (m *Members) alivePeers() map[string][]netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive := map[string][]netip.Addr{}
	for node, addresses := range m.peers {
		if m.snapshot.Has(node) {
			alive[node] = addresses
		}
	}
	return alive
}

// SetPeers says which nodes have speakers, and their addresses of both families. This node's own entry is ignored. Those that are not alive
// are dialled until they are, and at once if the peers have changed. A speaker that is alive stays so even if it is not among the peers.
func (m *Members) SetPeers(addresses map[string][]netip.Addr) {
	m.mu.Lock()
	before := m.peers
	m.peers = maps.Clone(addresses)
	delete(m.peers, m.node)
	changed := !maps.EqualFunc(before, m.peers, slices.Equal)
	s := m.snapshot
	for _, gone := range []map[string]time.Time{s.Restarting, s.Lost} {
		for node := range gone {
			if _, ok := m.peers[node]; !ok {
				s = s.without(node)
			}
		}
	}
	m.update(s)
	m.mu.Unlock()
	if changed {
		m.redial.Raise()
	}
}

// Leave tells the others that this speaker leaves, so that it is gone for them at once, and closes the sockets. If the others cannot be
// told, Leave returns after a second, or at ctx's deadline if that is earlier, with an error.
func (m *Members) Leave(ctx context.Context) error { return m.end(ctx, farewell{leaves: true}) }

// Restart is like Leave for a speaker that means to be back within grace. Speakers of a version before take it for dead when it is silent.
func (m *Members) Restart(ctx context.Context, grace time.Duration) error {
	return m.end(ctx, farewell{restarts: grace})
}

func (m *Members) end(ctx context.Context, f farewell) error {
	deadline := time.Now().Add(leaveTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	told := make(chan error, 1)
	select {
	case m.leave <- leaveRequest{farewell: f, deadline: deadline, told: told}:
	case <-m.ended:
		return errors.New("leaving the speakers: the membership has ended")
	}
	err := <-told
	<-m.ended
	if err != nil {
		return fmt.Errorf("leaving the speakers: %w", err)
	}
	m.logger.Info("Left the other speakers", "restarts", f.restarts > 0)
	return nil
}

type leaveRequest struct {
	farewell farewell
	deadline time.Time
	told     chan<- error // receives when the others have been told, or with why they could not be
}

func (m *Members) run(ctx context.Context) {
	defer close(m.ended)
	defer func() {
		m.mu.Lock()
		for node := range m.confirmations {
			m.endConfirmation(node) // without a socket, no node can be asked
		}
		m.mu.Unlock()
		if err := m.list.Shutdown(); err != nil {
			m.logger.Error(err, "Failed to close the membership's sockets")
		}
	}()
	round := time.NewTicker(redialInterval)
	defer round.Stop()
	for {
		m.dialAbsent()
		select {
		case <-ctx.Done():
			return
		case request := <-m.leave:
			request.told <- m.sayFarewell(request.farewell, request.deadline)
			return
		case <-m.redial:
		case <-round.C:
			m.rotate(time.Now())
		}
	}
}

// dialAbsent dials the peers of this round, of which maxDials are dialled at a time with those of the rounds before. The others are left to a later round.
// Each death that is being confirmed causes a round, so that a switch that fails with hundreds of nodes behind it causes hundreds.
func (m *Members) dialAbsent() {
	for _, address := range m.absent() {
		select {
		case m.dialling <- struct{}{}:
		default:
			return
		}
		go func() {
			m.dial(address)
			<-m.dialling
		}()
	}
}

// sayFarewell tells the others first that this speaker is leaving or restarting, on which they act. One that leaves then tells them that
// it has left, so that their memberlist does not probe it any more. One that restarts does not: as long as it is not known to be gone, a
// speaker that starts meanwhile hears its farewell too.
func (m *Members) sayFarewell(f farewell, deadline time.Time) error {
	m.farewell.Store(&f)
	if !f.leaves {
		return m.list.UpdateNode(max(time.Until(deadline), time.Millisecond))
	}
	// A timeout of zero would mean to wait for ever.
	errLeaving := m.list.UpdateNode(max(time.Until(deadline)/2, time.Millisecond))
	errLeft := m.list.Leave(max(time.Until(deadline), time.Millisecond))
	return errors.Join(errLeaving, errLeft)
}

// absent returns the addresses to dial in this round, redialFanout at most. With n speakers alive, each peer that is not alive is among
// them with a chance of one in n. Thus a dead speaker is dialled by one of the others in each round, on average, however large the cluster
// is, while a speaker on its own dials all that it can. One dial that succeeds merges all that both sides know, so that two halves of a
// partition merge by any pair of their speakers.
func (m *Members) absent() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	var addresses []netip.AddrPort
	for node, of := range m.peers {
		_, confirming := m.confirmations[node]
		near := slices.IndexFunc(of, func(ip netip.Addr) bool { return m.transport.families[family.Of(ip)] != nil })
		if near >= 0 && (confirming || !m.snapshot.Has(node)) && rand.IntN(len(m.snapshot.Nodes)) == 0 {
			addresses = append(addresses, netip.AddrPortFrom(of[near], m.port))
		}
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses[:min(len(addresses), redialFanout)]
}

// confirmDead is called when gossip has declared a node dead. The node itself is asked before that is believed: another speaker may have
// brought the news along from the other side of a partition, or it is the consequence of a stall that is over. A node that answers stays
// alive, and is asked again and again until gossip has it alive. A node that does not answer is gone after pingAttempts times probeTimeout.
//
// For example, node3 is cut off from node1 and node2, and declares them dead. When the cut heals, its gossip tells node1 that node2 is
// dead. node2 answers node1, so that node1 does not take over its addresses.
func (m *Members) confirmDead(node string, address netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, confirming := m.confirmations[node]; confirming || !m.snapshot.Has(node) || node == m.node {
		return
	}
	confirmation, cancel := context.WithCancel(m.ctx)
	m.confirmations[node] = cancel
	m.redial.Raise() // a dial brings both sides' views together
	go func() {
		defer cancel()
		select {
		case <-m.created: // memberlist hears of the others while it is being created.
		case <-m.ended:
			return
		}
		for m.isAnswered(node, address) {
			select {
			case <-confirmation.Done():
				return
			case <-time.After(probeInterval):
			}
		}
		since, dead := m.declareDead(confirmation, node)
		// Of a node that has no family in common with this one nothing is known.
		if at := m.transport.reach(node, address); dead && at.IsValid() {
			m.explain(node, since, at)
		}
	}()
}

// explain finds out how a node answers at an address that has been lost since a time. Of many that are lost at once, maxExplanations are asked at a
// time.
func (m *Members) explain(node string, since time.Time, at netip.AddrPort) {
	select {
	case m.explaining <- struct{}{}:
	case <-m.ctx.Done():
		return
	}
	found := m.answers(m.ctx, at)
	<-m.explaining
	m.explainLoss(node, since, found)
}

// isAnswered asks a node whether it is alive.
func (m *Members) isAnswered(node string, address netip.AddrPort) bool {
	for range pingAttempts {
		if _, err := m.list.Ping(node, net.UDPAddrFromAddrPort(address)); err == nil {
			return true
		}
	}
	return false
}

// declareDead takes out a node that did not answer, unless its confirmation was ended meanwhile, and returns since when it is lost.
func (m *Members) declareDead(confirmation context.Context, node string) (since time.Time, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if confirmation.Err() == nil {
		m.goneLocked(node, false)
	}
	since, dead = m.snapshot.Lost[node]
	return since, dead
}

// explainLoss says how a node that has been lost since a time answers by TCP, unless it is back.
func (m *Members) explainLoss(node string, since time.Time, found answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lost, ok := m.snapshot.Lost[node]; !ok || !lost.Equal(since) || m.ctx.Err() != nil || found == answersGossip {
		return
	}
	s := m.snapshot
	if found == answersElsewhere {
		s.Filtered = with(s.Filtered, node, true)
		m.logger.Info("A lost speaker's node answers by TCP, but not at the port of gossip: is it closed by a firewall?", "node", node)
	} else {
		s.CutOff = with(s.CutOff, node, true)
		m.logger.Info("A lost speaker's node does not answer by TCP either", "node", node)
	}
	m.update(s)
}

// An answer is how a node answers by TCP: at the port of gossip, only at that of the kubelet, or not at all. A refusal is an answer.
type answer int

const (
	answersGossip answer = iota
	answersElsewhere
	answersNot
)

// kubeletPort is on each node, and open for the control plane at least. Where a firewall drops it, the answer is the same as of a node that is
// cut off.
const kubeletPort = 10250

// answers asks the node at an address how it answers. A speaker that has crashed leaves a kernel that refuses connections to its port. No answer
// at all comes from a node that has no power, or that has lost the network.
func answers(ctx context.Context, address netip.AddrPort) answer {
	elsewhere := make(chan bool, 1)
	go func() { elsewhere <- answersAt(ctx, netip.AddrPortFrom(address.Addr(), kubeletPort)) }()
	switch {
	case answersAt(ctx, address):
		return answersGossip
	case <-elsewhere:
		return answersElsewhere
	}
	return answersNot
}

// answersAt reports whether the kernel at an address answers by TCP, be it that it refuses.
func answersAt(ctx context.Context, address netip.AddrPort) bool {
	dialer := net.Dialer{Timeout: reachTimeout}
	for range reachAttempts {
		conn, err := dialer.DialContext(ctx, "tcp", address.String())
		if err == nil {
			_ = conn.Close()
			return true
		}
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
			return true
		}
	}
	return false
}

// endConfirmation ends the confirmation of a node's death, if there is one: the node has refuted it, or is gone. mu is held.
func (m *Members) endConfirmation(node string) {
	if cancel, confirming := m.confirmations[node]; confirming {
		cancel()
		delete(m.confirmations, node)
	}
}

// arrived is called when gossip says that a node is alive.
func (m *Members) arrived(node string, address netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endConfirmation(node)
	if m.snapshot.Has(node) {
		return
	}
	s := m.snapshot.without(node)
	s.Nodes = with(s.Nodes, node, struct{}{})
	m.update(s)
	m.logger.Info("Found a speaker", "node", node, "address", address, "alive", len(s.Nodes))
}

// left is called when gossip says that a node leaves.
func (m *Members) left(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.goneLocked(node, true)
}

// restarts is called when gossip says that a node's speaker restarts, and perhaps more than once: the first time counts.
func (m *Members) restarts(node string, grace time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.snapshot.Restarting[node]; known || node == m.node {
		return
	}
	m.endConfirmation(node)
	s := m.snapshot.without(node)
	s.Restarting = with(s.Restarting, node, time.Now().Add(grace))
	m.update(s)
	m.logger.Info("A speaker restarts", "node", node, "grace", grace.String(), "alive", len(s.Nodes))
}

// goneLocked takes out a node that is dead, or has left. mu is held.
func (m *Members) goneLocked(node string, hasLeft bool) {
	m.endConfirmation(node)
	if node == m.node || !hasLeft && !m.snapshot.Has(node) {
		return
	}
	known := m.snapshot.Has(node)
	s := m.snapshot.without(node)
	if !hasLeft {
		s.Lost = with(s.Lost, node, time.Now())
	}
	m.update(s)
	if !known {
		return
	}
	message := "Lost a speaker"
	if hasLeft {
		message = "A speaker left"
	}
	m.logger.Info(message, "node", node, "alive", len(s.Nodes), "alone", m.snapshot.Alone)
}

// update replaces the snapshot if it has changed. mu is held.
func (m *Members) update(s Snapshot) {
	s.Alone = len(s.Nodes) == 1 && len(s.Lost) > 0
	if s.equal(m.snapshot) {
		return
	}
	m.snapshot = s
	m.changes.Raise()
}
