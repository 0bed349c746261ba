// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// What holds whatever fails, beside what batch.limits says.
const (
	// contestLimit is how long two MACs may answer for an address, as the asker sees it.
	contestLimit = time.Second + askInterval
	// settleLimit is how long Tandem may take until all is as before, once every part of the cluster is back.
	settleLimit = 10 * time.Second
	// leaderLimit is how long what the controller manager has to do may take while none leads.
	leaderLimit = 45 * time.Second
	// quietTime is how long nothing happens after that, and quietWrites how many records may be written meanwhile.
	quietTime, quietWrites = 4 * time.Second, 4
	// A speaker may have so many files open, and kB of memory resident. Goroutines that do not end would take more and more of both.
	mostFiles, mostMemory = 60, 100_000
)

// soakService is a Service that clients use all the time.
type soakService struct {
	name string
	ips  []netip.Addr
	// local says that only a node with an endpoint answers.
	local bool
	// chosen says that the Service is announced by the advertisement whose selector changes.
	chosen bool
}

// soak is one random run.
type soak struct {
	*stage
	t             *testing.T
	rand          *rand.Rand
	seed          uint64
	start         time.Time
	wire          *wire
	clients       *clients
	logs          *speakerLogs
	services      []*soakService
	names         map[string]string // of hosts by MAC
	normal        map[string]string // what conditions are when nothing is the matter
	files, memory int               // the most that a speaker had
	// unwell are the nodes that have died since all was well.
	unwell map[string]bool
	// apiWasAway says that the API server was away since all was well.
	apiWasAway bool
	// pids are those of the speakers when all was well, and disturbed says of which nodes somebody has ended the speaker since.
	pids      map[string]int
	disturbed map[string]bool
	// briefs counts the Services that were made and deleted again.
	briefs int
	brief  *soakService // the last one; nil before the first
	events int
	// underWay is what heals the events that have begun and not ended.
	underWay []heal
	past     []string // what was done, for a finding
	worst    map[string]*worst
	found    int
	settled  []time.Duration
}

// worst is the longest that was seen with some events.
type worst struct {
	batches                    int
	silence, unserved, contest time.Duration
}

// say notes what is done.
func (c *soak) say(format string, args ...any) {
	line := fmt.Sprintf("%8.2fs ", time.Since(c.start).Seconds()) + fmt.Sprintf(format, args...)
	c.t.Log(line)
	c.past = append(c.past, line)
}

// finding reports that something was not as it has to be, with what happened before and what the wire and the speakers said.
func (c *soak) finding(ip netip.Addr, from, to time.Time, format string, args ...any) {
	c.t.Helper()
	c.found++
	var b strings.Builder
	fmt.Fprintf(&b, "finding %d of seed %d, at %.2f s: %s\nThe last events:\n  %s\n", c.found, c.seed, from.Sub(c.start).Seconds(), fmt.Sprintf(format, args...),
		strings.Join(c.past[max(0, len(c.past)-25):], "\n  "))
	from, to = from.Add(-2*time.Second), to.Add(2*time.Second)
	if ip.IsValid() {
		fmt.Fprintf(&b, "On the wire, of %s:\n  %s\n", ip, strings.Join(c.wire.story(ip, from, to, c.start, c.names), "\n  "))
		fmt.Fprintf(&b, "Requests:\n  %s\n", strings.Join(c.clients.story(ip, from, to, c.start), "\n  "))
	}
	fmt.Fprintf(&b, "The speakers:\n  %s", strings.Join(c.logs.story(from.Add(-3*time.Second), to, c.start), "\n  "))
	c.t.Error(b.String())
}

// effect is what an event does to addresses, which decides what is still promised.
type effect struct {
	dies      bool // The node does not forward any more.
	flaps     bool // The node is off the LAN for an instant.
	degrades  bool // What finds a death or agrees on a holder is slower meanwhile.
	freezes   bool // The speaker stands still.
	endpoints bool // A Service with the local policy loses an endpoint.
	leaves    bool // The node is not to announce any more.
	needsAPI  bool // To begin and to end it takes the API.
	cutsAPI   bool // from all
	restarts  bool // Somebody ends the speaker.
}

// heal ends an event.
type heal func(context.Context) error

// selectorWithout is the name of the event that one Service is not to be announced by a node any more.
const selectorWithout = "selector without"

// failure is a kind of event.
type failure struct {
	name   string
	weight int
	nodes  []string // that it may strike; none where it strikes no node in particular
	effect
	// start begins it and returns what ends it, nil for nothing.
	start func(c *soak, node string) (heal, error)
	most  time.Duration // that it lasts; 0 for 6 s
}

// event is a failure that has happened.
type event struct {
	failure
	node string
	heal heal
}

func (e event) String() string { return strings.TrimSpace(e.name + " " + e.node) }

// command returns an error that says what a command printed.
func (c *soak) command(ctx context.Context, args ...string) error {
	out, err := c.Kubectl(ctx, append(args, "--request-timeout=10s")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// kubectlBothWays returns the start of a failure that one command of kubectl begins and another ends, if there is one. NODE stands for the node.
func kubectlBothWays(begin, end string) func(*soak, string) (heal, error) {
	return func(c *soak, node string) (heal, error) {
		run := func(ctx context.Context, text string) error {
			return c.command(ctx, strings.Fields(strings.ReplaceAll(text, "NODE", node))...)
		}
		if err := run(c.t.Context(), begin); err != nil || end == "" {
			return nil, err
		}
		return func(ctx context.Context) error { return run(ctx, end) }, nil
	}
}

// drop returns the start of a failure for which nodes drop packets by rules of nftables.
func drop(table string, nodes []string, rules ...string) func(*soak, string) (heal, error) {
	return func(c *soak, node string) (heal, error) {
		at := nodes
		if at == nil {
			at = []string{node}
		}
		for _, node := range at {
			cmd := c.Command(c.t.Context(), node, "nft", "-f", "-")
			cmd.Stdin = strings.NewReader("table inet " + table + " {\n" + strings.Join(rules, "\n") + "\n}\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("nft on %s: %w: %s", node, err, out)
			}
		}
		return func(ctx context.Context) error {
			for _, node := range at { // A node that has booted has no rules any more.
				_ = c.Command(ctx, node, "nft", "delete", "table", "inet", table).Run()
			}
			return nil
		}, nil
	}
}

// bothWays returns the start of a failure of a link or a node.
func bothWays(begin, end action) func(*soak, string) (heal, error) {
	return func(c *soak, node string) (heal, error) {
		return func(ctx context.Context) error { return end(ctx, c.stage, node) }, begin(c.t.Context(), c.stage, node)
	}
}

// mortal returns the nodes that may die. The last node never does: the endpoints of the Services of the policy Cluster are there.
func (c *soak) mortal() []string {
	all := c.Nodes()
	return all[:len(all)-1]
}

// failures are all kinds of events.
func (c *soak) failures() []failure {
	return slices.Concat(c.nodeFailures(), c.speakerFailures(), c.networkFailures(), c.plannedEvents())
}

func (c *soak) nodeFailures() []failure {
	return []failure{
		{name: "cable pulled", weight: 4, nodes: c.mortal(), effect: effect{dies: true}, start: bothWays(
			func(ctx context.Context, s *stage, node string) error { return s.SetLink(ctx, node, false) },
			func(ctx context.Context, s *stage, node string) error { return s.SetLink(ctx, node, true) })},
		{name: "silent switch port", weight: 4, nodes: c.mortal(), effect: effect{dies: true}, start: bothWays(
			func(ctx context.Context, s *stage, node string) error { return s.SetForwarding(ctx, node, false) },
			func(ctx context.Context, s *stage, node string) error { return s.SetForwarding(ctx, node, true) })},
		{name: "power cut", weight: 4, nodes: c.mortal(), effect: effect{dies: true, restarts: true}, start: bothWays(
			func(ctx context.Context, s *stage, node string) error { return s.StopNode(ctx, node) },
			func(ctx context.Context, s *stage, node string) error { return s.StartNode(ctx, node) })},
		{name: "link flaps", weight: 3, nodes: c.mortal(), effect: effect{flaps: true}, start: flapLink},
		{name: "VLAN pruned", weight: 3, nodes: c.mortal(), effect: effect{dies: true}, start: func(c *soak, node string) (heal, error) {
			if err := knowMACs(c.t.Context(), c.stage, node); err != nil {
				return nil, err
			}
			return bothWays(pruneVLAN, restoreVLAN)(c, node)
		}},
	}
}

// flapLink takes the link of a node down for a tenth of a second: nobody may have noticed when it is up again.
func flapLink(c *soak, node string) (heal, error) {
	if err := c.SetLink(c.t.Context(), node, false); err != nil {
		return nil, err
	}
	time.Sleep(100 * time.Millisecond)
	return nil, c.SetLink(c.t.Context(), node, true)
}

func (c *soak) speakerFailures() []failure {
	return []failure{
		{name: "speaker killed", weight: 5, nodes: c.Nodes(), effect: effect{degrades: true, restarts: true}, start: killSpeaker},
		{name: "speaker frozen", weight: 3, nodes: c.Nodes(), effect: effect{degrades: true, freezes: true}, start: freezeSpeaker},
		{name: "speaker pod deleted", weight: 4, nodes: c.Nodes(), effect: effect{degrades: true, needsAPI: true, restarts: true}, start: kubectlBothWays(
			"delete pods -n tandem-system -l app.kubernetes.io/component=speaker --wait=false --field-selector=spec.nodeName=NODE", "")},
		{
			name: "rollout", weight: 2, effect: effect{degrades: true, needsAPI: true, restarts: true}, start: kubectlBothWays(
				"rollout restart -n tandem-system daemonset/tandem-speaker", "rollout status -n tandem-system daemonset/tandem-speaker --timeout=120s"),
			most: time.Second,
		},
		{name: "controller manager killed", weight: 3, effect: effect{needsAPI: true}, start: killControllerManager},
	}
}

func (c *soak) networkFailures() []failure {
	var api []string
	for _, a := range c.Addresses(lab.ControlPlane) {
		family := "ip6"
		if a.Is4() {
			family = "ip"
		}
		api = append(api, family+" saddr "+a.String()+" tcp sport 6443 drop;")
	}
	return []failure{
		{name: "nothing", weight: 1, start: func(*soak, string) (heal, error) { return nil, nil }},
		{name: "gossip cut between all", weight: 3, effect: effect{degrades: true}, start: drop("tandem-gossip", c.Nodes(), gossipIn)},
		{name: "gossip cut of", weight: 3, nodes: c.Nodes(), effect: effect{degrades: true}, start: drop("tandem-gossip", nil, gossipIn, gossipOut)},
		{name: "API server away", weight: 3, effect: effect{degrades: true, cutsAPI: true}, start: stopAPI, most: 30 * time.Second},
		{name: "API out of reach of", weight: 3, nodes: c.Nodes(), effect: effect{degrades: true}, start: drop("tandem-api", nil,
			"chain in { type filter hook prerouting priority -300; "+strings.Join(api, " ")+" }"), most: 20 * time.Second},
		{name: "client forgets its neighbours", weight: 2, start: func(c *soak, _ string) (heal, error) {
			return nil, c.Command(c.t.Context(), lab.Client, "ip", "neigh", "flush", "dev", "eth0").Run()
		}},
	}
}

func (c *soak) plannedEvents() []failure {
	drain := ipamv1alpha1.AnnotationDrain
	return []failure{
		{name: "drained", weight: 4, nodes: c.Nodes(), effect: effect{leaves: true, needsAPI: true}, start: kubectlBothWays(
			"annotate node NODE --overwrite "+drain+"=true", "annotate node NODE "+drain+"-")},
		{name: "excluded", weight: 3, nodes: c.Nodes(), effect: effect{leaves: true, needsAPI: true}, start: kubectlBothWays(
			"label node NODE --overwrite "+corev1.LabelNodeExcludeBalancers+"=", "label node NODE "+corev1.LabelNodeExcludeBalancers+"-")},
		{name: "named as the target", weight: 6, nodes: c.Nodes(), effect: effect{needsAPI: true}, start: func(c *soak, node string) (heal, error) {
			return nil, c.target(c.t.Context(), node, c.services[c.rand.IntN(len(c.services))])
		}},
		{name: "record deleted", weight: 1, effect: effect{needsAPI: true}, start: func(c *soak, _ string) (heal, error) {
			return nil, c.command(c.t.Context(), "delete", "l2announcement", c.ns+"."+c.services[c.rand.IntN(len(c.services))].name)
		}},
		{name: "endpoint gone from", weight: 4, nodes: c.Nodes(), effect: effect{endpoints: true, needsAPI: true}, start: kubectlBothWays(
			"label pod -n "+c.ns+" local-NODE --overwrite app=none", "label pod -n "+c.ns+" local-NODE --overwrite app=local")},
		{name: "Service made", weight: 3, effect: effect{needsAPI: true}, start: makeService},
		{name: selectorWithout, weight: 4, nodes: c.Nodes(), effect: effect{leaves: true, needsAPI: true}, start: kubectlBothWays(
			"patch l2advertisement "+c.ns+`-chosen --type=merge -p {"spec":{"nodeSelectors":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"NotIn","values":["NODE"]}]}]}}`,
			"patch l2advertisement "+c.ns+`-chosen --type=merge -p {"spec":{"nodeSelectors":null}}`)},
	}
}

func killSpeaker(c *soak, node string) (heal, error) {
	return nil, c.kill(node, programs["speaker"])
}

func freezeSpeaker(c *soak, node string) (heal, error) {
	p, err := c.process(node, programs["speaker"])
	if err != nil {
		return nil, err
	}
	pid := strconv.Itoa(p.pid)
	return func(ctx context.Context) error {
		_ = c.Command(ctx, node, "kill", "-CONT", pid).Run() // It may have ended with its node.
		return nil
	}, c.Command(c.t.Context(), node, "kill", "-STOP", pid).Run()
}

func stopAPI(c *soak, _ string) (heal, error) {
	const apiServer = "cp/kube-apiserver"
	c.apiWasAway = true
	return func(ctx context.Context) error {
		if err := c.StartComponent(apiServer); err != nil {
			return err
		}
		return cluster.Until(ctx, time.Minute, "the API server", func(ctx context.Context) (bool, string) {
			out, err := c.Kubectl(ctx, "get", "--raw=/readyz").CombinedOutput()
			return err == nil, string(out)
		})
	}, c.StopComponent(c.t.Context(), apiServer)
}

// killControllerManager kills one of the two, whichever leads. If it finds none, both wait to be started again.
func killControllerManager(c *soak, _ string) (heal, error) {
	nodes := c.Nodes()
	c.rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, node := range nodes {
		if err := c.kill(node, programs["cloud-controller-manager"]); err == nil {
			break
		}
	}
	return nil, nil
}

// makeService makes a Service, and deletes it at the end.
func makeService(c *soak, _ string) (heal, error) {
	c.briefs++
	svc := c.service(fmt.Sprintf("brief%d", c.briefs), v4, v6)
	svc.Annotations = map[string]string{ipamv1alpha1.AnnotationAddressPool: c.ns}
	if err := c.Create(c.t.Context(), svc); err != nil {
		return nil, err
	}
	ips, err := c.ServiceIPs(c.t.Context(), c.ns, svc.Name, 2)
	if err != nil {
		return nil, err
	}
	c.say("Service %s has %v", svc.Name, ips)
	brief := &soakService{name: svc.Name}
	for _, ip := range ips {
		brief.ips = append(brief.ips, netip.MustParseAddr(ip))
	}
	c.brief = brief
	c.wire.watch(brief.ips...)
	start := time.Now()
	if err := c.answered(brief, true, settleLimit); err != nil {
		c.finding(brief.ips[0], start, time.Now(), "the new Service %s: %v", svc.Name, err)
	}
	return func(ctx context.Context) error {
		start := time.Now()
		if err := client.IgnoreNotFound(c.Delete(ctx, svc)); err != nil {
			return err
		}
		// A controller manager that was killed a moment ago keeps its lease for 15 s, and the Service its finalizer until then.
		if err := c.answered(brief, false, leaderLimit); err != nil {
			c.finding(brief.ips[0], start, time.Now(), "Service %s, which was deleted: %v", svc.Name, err)
		}
		c.wire.forget(brief.ips...)
		return nil
	}, nil
}

// answered waits until all addresses of a Service are answered for, or none is.
func (c *soak) answered(svc *soakService, wanted bool, limit time.Duration) error {
	return cluster.Until(c.t.Context(), limit, "an answer, or none", func(context.Context) (bool, string) {
		for _, ip := range svc.ips {
			now := time.Now()
			rounds := c.wire.rounds(ip, now.Add(-5*askInterval), now.Add(-askInterval))
			if len(rounds) < 3 || slices.ContainsFunc(rounds, func(r round) bool { return (len(r.macs) > 0) != wanted }) {
				return false, fmt.Sprintf("%s: %d answers", ip, len(rounds))
			}
		}
		return true, ""
	})
}

// target names a node as that which is to take the addresses of Services over.
func (c *soak) target(ctx context.Context, node string, services ...*soakService) error {
	for _, svc := range services {
		if err := c.command(ctx, "patch", "l2announcement", c.ns+"."+svc.name, "--type=merge", "-p", `{"spec":{"target":"`+node+`"}}`); err != nil &&
			!strings.Contains(err.Error(), "not found") { // It was deleted a moment ago.
			return err
		}
	}
	return nil
}

// holders returns the nodes that are on record for the Services.
func (c *soak) holders(ctx context.Context) (nodes string) {
	for _, svc := range c.services {
		var record speakerv1alpha1.L2Announcement
		if err := c.Client.Get(ctx, client.ObjectKey{Name: c.ns + "." + svc.name}, &record); err != nil {
			return err.Error()
		}
		nodes += record.Status.Node + " "
	}
	return nodes
}

// choose returns an event that goes with those which are under way.
func (c *soak) choose(underWay []event) event {
	all := c.failures()
	sum := 0
	for _, f := range all {
		sum += f.weight
	}
	for {
		n := c.rand.IntN(sum)
		i := 0
		for ; n >= all[i].weight; i++ {
			n -= all[i].weight
		}
		e := event{failure: all[i]}
		if len(e.nodes) > 0 {
			e.node = e.nodes[c.rand.IntN(len(e.nodes))]
		}
		if !slices.ContainsFunc(underWay, func(other event) bool { return !e.goesWith(other) }) && (!e.dies || !c.unwell[e.node]) {
			return e
		}
	}
}

// goesWith reports whether an event can begin while another one is under way.
func (e event) goesWith(other event) bool {
	switch {
	case e.name == other.name && (e.node == other.node || e.name == "VLAN pruned" || e.name == selectorWithout):
		return false
	case other.cutsAPI && e.needsAPI:
		return false
	case strings.HasPrefix(e.name, "gossip") && strings.HasPrefix(other.name, "gossip"):
		return false // They use one table.
	case e.dies && other.dies && e.node == other.node:
		return false
	case other.dies && e.node == other.node: // Nobody does anything to a node that is gone.
		return false
	case e.freezes && other.restarts || e.restarts && other.freezes:
		return false
	}
	return true
}

// batch is one or two events, with a time from before the first one until all were healed.
type batch struct {
	span
	events []event
	// forgiven are nodes that were not well when it began, and that no promise depends on.
	unwell map[string]bool
}

func (b batch) String() string {
	var names []string
	for _, e := range b.events {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return strings.Join(names, " + ")
}

// candidates returns the nodes that could answer for a Service throughout.
func (b batch) candidates(nodes []string, svc *soakService) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(node string) bool {
		return b.unwell[node] || slices.ContainsFunc(b.events, func(e event) bool {
			return e.node == node && (e.dies || e.leaves && (svc.chosen || e.name != selectorWithout) || e.endpoints && svc.local)
		})
	})
}

// limits returns for how long an address may be without an answer on the wire, and requests without one. Where no request may fail, planned is true.
func (b batch) limits(svc *soakService) (silence, unserved time.Duration, planned bool) {
	deaths, others, frozen, endpoint := 0, 0, false, false
	for _, e := range b.events {
		switch {
		case e.dies, e.flaps:
			deaths++
		case e.degrades || e.endpoints && svc.local:
			others++
		}
		frozen = frozen || e.freezes
		endpoint = endpoint || e.endpoints && svc.local
	}
	switch {
	case deaths == 0 && !frozen && !endpoint:
		return time.Second + askInterval, 0, true
	case deaths == 0 && frozen:
		return 2 * time.Second, 2 * time.Second, false
	case deaths == 0, deaths == 1 && others == 0:
		return 1500 * time.Millisecond, 1500 * time.Millisecond, false
	default:
		return 3 * time.Second, 3 * time.Second, false
	}
}

// pause waits a random while.
func (c *soak) pause(least, most time.Duration) {
	time.Sleep(least + time.Duration(c.rand.Int64N(int64(most-least)+1)))
}

// play does one or two events and heals them.
func (c *soak) play() {
	b := batch{span: span{from: time.Now()}, unwell: maps.Clone(c.unwell)}
	for range 1 + min(1, c.rand.IntN(3)) { // mostly two
		b.events = append(b.events, c.choose(b.events))
	}
	slices.SortStableFunc(b.events, func(x, y event) int { // What takes the API comes first.
		return map[bool]int{false: 0, true: 1}[x.cutsAPI] - map[bool]int{false: 0, true: 1}[y.cutsAPI]
	})
	longest := time.Duration(0)
	for i := range b.events {
		e := &b.events[i]
		c.begin(e)
		longest = max(longest, e.most)
		if i+1 < len(b.events) {
			c.pause(0, 3*time.Second)
		}
	}
	if longest == 0 {
		longest = 6 * time.Second
	}
	c.pause(min(longest, 2*time.Second), longest)
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	for _, e := range slices.Backward(b.events) { // the API first
		if e.heal == nil {
			continue
		}
		c.say("heals: %v", e)
		err := e.heal(ctx)
		if c.underWay = c.underWay[:len(c.underWay)-1]; err != nil {
			c.t.Fatalf("healing %v: %v", e, err)
		}
		c.pause(0, 2*time.Second)
	}
	time.Sleep(time.Second) // for requests that are under way
	b.to = time.Now()
	c.judge(b)
}

// begin begins an event. Before a node dies it mostly gets the addresses.
func (c *soak) begin(e *event) {
	ctx := c.t.Context()
	if (e.dies || e.flaps) && c.rand.IntN(4) > 0 {
		if err := c.target(ctx, e.node, c.services...); err != nil {
			c.t.Fatal(err)
		}
		err := cluster.Until(ctx, 3*time.Second, "all on "+e.node, func(ctx context.Context) (bool, string) {
			held := c.holders(ctx)
			return held == strings.Repeat(e.node+" ", len(c.services)), held
		})
		c.say("the addresses are to be on %s: %v", e.node, err)
	}
	c.say("event: %v", *e)
	c.events++
	var err error
	if e.heal, err = e.start(c, e.node); err != nil {
		c.t.Fatalf("%v: %v", *e, err)
	}
	if e.heal != nil {
		c.underWay = append(c.underWay, e.heal)
	}
	if e.dies {
		c.unwell[e.node] = true
	}
	if e.restarts {
		for _, node := range c.Nodes() {
			c.disturbed[node] = c.disturbed[node] || e.node == "" || e.node == node
		}
	}
}

// judge says what was not as it has to be in a batch.
func (c *soak) judge(b batch) {
	w := c.worst[b.String()]
	if w == nil {
		w = &worst{}
		c.worst[b.String()] = w
	}
	w.batches++
	defer func() {
		if w.silence > time.Second || w.unserved > time.Second || w.contest > 500*time.Millisecond {
			c.say("worst so far of %v: without an answer %v, without service %v, with two answers %v", b, w.silence, w.unserved, w.contest)
		}
	}()
	if c.brief != nil {
		for _, ip := range c.brief.ips {
			c.judgeAnswers(ip, c.brief, c.wire.rounds(ip, b.from, b.to), w)
		}
	}
	for _, svc := range c.services {
		candidates := b.candidates(c.Nodes(), svc)
		silence, unserved, planned := b.limits(svc)
		for _, ip := range svc.ips {
			rounds := c.wire.rounds(ip, b.from, b.to)
			c.judgeAnswers(ip, svc, rounds, w)
			if len(candidates) == 0 {
				continue
			}
			for _, gap := range silences(rounds) {
				w.silence = max(w.silence, gap.length())
				if gap.length() > silence {
					c.finding(ip, gap.from, gap.to, "nobody answers for %s of %s for %v, more than %v, though %v could", ip, svc.name, gap.length(), silence, candidates)
				}
			}
			c.judgeRequests(b, svc, ip, w, unserved, planned)
		}
	}
}

// judgeAnswers says whether two MACs answered for an address.
func (c *soak) judgeAnswers(ip netip.Addr, svc *soakService, rounds []round, w *worst) {
	for _, contest := range contests(rounds) {
		w.contest = max(w.contest, contest.length())
		if contest.length() > contestLimit {
			c.finding(ip, contest.from, contest.to, "two MACs answer for %s of %s for %v", ip, svc.name, contest.length())
		}
	}
}

// judgeRequests says which requests had to be answered and were not.
func (c *soak) judgeRequests(b batch, svc *soakService, ip netip.Addr, w *worst, limit time.Duration, planned bool) {
	moves := c.wire.moves(ip, b.from, b.to)
	gaps, failed := c.clients.unserved(ip, b.from, b.to, moves)
	for _, gap := range gaps {
		w.unserved = max(w.unserved, gap.length())
		if !planned && gap.length() > limit {
			c.finding(ip, gap.from, gap.to, "%s of %s answers no request for %v, more than %v", ip, svc.name, gap.length(), limit)
		}
	}
	if planned && len(failed) > 0 {
		c.finding(ip, failed[0].at, failed[len(failed)-1].at, "%d requests to %s of %s failed, and nothing happened but what is planned, the first: %v", len(failed), ip,
			svc.name, failed[0].err)
	}
}

// settle waits until all parts of the cluster are back, and then for Tandem. It says what was not as before in time, and what was written while nothing
// happened.
func (c *soak) settle() {
	ctx := c.t.Context()
	if c.apiWasAway {
		c.restartKubernetes(c.t)
		c.apiWasAway = false
	}
	c.renewPods(ctx)
	for _, node := range c.Nodes() {
		c.nodeReady(ctx, c.t, node)
	}
	if err := c.RolledOut(ctx); err != nil {
		c.t.Fatal(err)
	}
	if err := cluster.Until(ctx, time.Minute, "all web servers", c.webReady); err != nil {
		c.t.Fatal(err)
	}
	start := time.Now()
	if err := cluster.Until(ctx, settleLimit, "all to be as before", c.asBefore); err != nil {
		c.finding(netip.Addr{}, start, time.Now(), "%v", err)
		if err := cluster.Until(ctx, time.Minute, "all to be as before", c.asBefore); err != nil {
			c.t.Fatal(err)
		}
	}
	c.settled = append(c.settled, time.Since(start))
	c.say("all is as before after %v", time.Since(start).Round(10*time.Millisecond))
	c.unwell = map[string]bool{}
	c.whoRuns()
	c.quiet(ctx)
}

// quiet counts the records that are written while nothing happens.
func (c *soak) quiet(ctx context.Context) {
	b := batch{span: span{from: time.Now()}}
	before, err := c.countRecordWrites(ctx)
	time.Sleep(quietTime)
	after, err2 := c.countRecordWrites(ctx)
	if err != nil || err2 != nil {
		c.t.Fatal(err, err2)
	}
	if after-before > quietWrites {
		c.finding(netip.Addr{}, b.from, time.Now(), "%d records were written in %v in which nothing happened", after-before, quietTime)
	}
	b.to = time.Now()
	c.judge(b)
}

// renewPods gives speakers that have crashed more than once new pods: a pod that crashes again is started after a back-off that soon is longer than
// the grace.
func (c *soak) renewPods(ctx context.Context) {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace("tandem-system"), client.MatchingLabels{"app.kubernetes.io/component": "speaker"}); err != nil {
		c.t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].RestartCount < 2 || pod.DeletionTimestamp != nil {
			continue
		}
		c.say("the speaker of %s gets a new pod", pod.Spec.NodeName)
		c.disturbed[pod.Spec.NodeName] = true
		if err := client.IgnoreNotFound(c.Delete(ctx, &pod)); err != nil {
			c.t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
	}
}

// webReady reports whether every web server answers its node.
func (c *soak) webReady(ctx context.Context) (bool, string) {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(c.ns)); err != nil {
		return false, err.Error()
	}
	for _, pod := range pods.Items {
		if !ready(&pod) {
			return false, pod.Name + " is not ready"
		}
		if _, err := c.Get(ctx, pod.Spec.NodeName, cluster.URL(pod.Status.PodIP, ":8080/healthz")); err != nil {
			return false, err.Error()
		}
	}
	return true, ""
}

// asBefore reports whether one holder is on record for each Service and alone answers, clients are served, and all conditions and addresses are as they were at
// the start.
func (c *soak) asBefore(ctx context.Context) (bool, string) {
	now := time.Now()
	for _, svc := range c.services {
		var record speakerv1alpha1.L2Announcement
		if err := c.Client.Get(ctx, client.ObjectKey{Name: c.ns + "." + svc.name}, &record); err != nil {
			return false, err.Error()
		}
		if record.Status.Node == "" || record.Spec.Target != "" || len(record.Status.Addresses) != len(svc.ips) {
			return false, fmt.Sprintf("the record of %s is %+v %+v", svc.name, record.Spec, record.Status)
		}
		for _, ip := range svc.ips {
			rounds := c.wire.rounds(ip, now.Add(-time.Second), now.Add(-askInterval))
			if len(rounds) < 3 {
				return false, "too little was asked"
			}
			for _, r := range rounds {
				if len(r.macs) != 1 || c.names[r.macs[0]] != record.Status.Node {
					return false, fmt.Sprintf("%s of %s is at %v, %s is on record", ip, svc.name, r.macs, record.Status.Node)
				}
			}
			if _, failed := c.clients.unserved(ip, now.Add(-time.Second), now, nil); len(failed) > 0 {
				return false, fmt.Sprintf("%s of %s: %v", ip, svc.name, failed[0].err)
			}
		}
	}
	conditions, err := c.conditions(ctx)
	if err != nil {
		return false, err.Error()
	}
	for what, status := range c.normal {
		if conditions[what] != status {
			return false, fmt.Sprintf("%s is %s, before it was %s", what, conditions[what], status)
		}
	}
	return true, ""
}

// conditions returns the status of all conditions that Tandem writes, and the addresses of the Services.
func (c *soak) conditions(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	add := func(what string, conditions []metav1.Condition) {
		for _, condition := range conditions {
			all[what+" "+condition.Type] = string(condition.Status)
		}
	}
	var speakers speakerv1alpha1.SpeakerStatusList
	var advertisements speakerv1alpha1.L2AdvertisementList
	var pools ipamv1alpha1.AddressPoolList
	var services corev1.ServiceList
	for _, list := range []client.ObjectList{&speakers, &advertisements, &pools, &services} {
		if err := c.List(ctx, list); err != nil {
			return nil, err
		}
	}
	for _, s := range speakers.Items {
		add("SpeakerStatus "+s.Name, s.Status.Conditions)
	}
	for _, a := range advertisements.Items {
		add("L2Advertisement "+a.Name, a.Status.Conditions)
	}
	for _, p := range pools.Items {
		add("AddressPool "+p.Name, p.Status.Conditions)
	}
	for _, svc := range services.Items {
		if svc.Namespace == c.ns {
			add("Service "+svc.Name, svc.Status.Conditions)
			all["the addresses of Service "+svc.Name] = strings.Join(cluster.IPs(&svc), ",")
		}
	}
	return all, nil
}

// whoRuns says which speakers have ended though nobody ended them, and which take more and more.
func (c *soak) whoRuns() {
	for _, node := range c.Nodes() {
		p, err := c.process(node, programs["speaker"])
		if err != nil {
			c.t.Fatal(err)
		}
		if p.pid != c.pids[node] && c.pids[node] != 0 && !c.disturbed[node] {
			c.finding(netip.Addr{}, time.Now().Add(-30*time.Second), time.Now(), "the speaker of %s was started again, and nobody had ended it", node)
		}
		c.pids[node] = p.pid
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
		if err != nil {
			c.t.Fatal(err)
		}
		resident, _, _ := strings.Cut(p.fields["VmRSS"], " ")
		memory, err := strconv.Atoi(resident)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(files) > mostFiles || memory > mostMemory {
			c.finding(netip.Addr{}, time.Now(), time.Now(), "the speaker of %s has %d files and %d kB", node, len(files), memory)
		}
		c.files, c.memory = max(c.files, len(files)), max(c.memory, memory)
	}
	c.disturbed = map[string]bool{}
	for _, line := range c.logs.panics() {
		c.finding(netip.Addr{}, time.Now(), time.Now(), "a speaker panics: %s", line)
	}
}

// TestSoakRandomFailures has one or two things at a time fail in a cluster with Services on layer 2, which a seed decides, and heals them. Meanwhile a
// client sends requests to each address five times a second, and the LAN is asked as often which MAC it has. TANDEM_SOAK is the number of plays, and
// TANDEM_SEED the seed of a run that is to be repeated. What is promised is in batch.limits and the constants above. `make e2e` leaves it out: in a
// minute it shows little, and what it finds is looked into by people. The images have to be those of the code: `make images`.
func TestSoakRandomFailures(t *testing.T) {
	if os.Getenv("TANDEM_SOAK") == "" {
		t.Skip("a soak: TANDEM_SOAK is not set, make soak sets it")
	}
	c := newSoak(t)
	unsettled := 0
	for range repetitions(t, 100000) {
		c.play()
		if unsettled++; unsettled > 2 || c.apiWasAway || c.rand.IntN(3) == 0 {
			c.settle()
			unsettled = 0
		}
	}
	c.settle()
	for _, events := range slices.Sorted(maps.Keys(c.worst)) {
		w := c.worst[events]
		round := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
		t.Logf("%s: %d times; longest without an answer %v, without service %v, with two answers %v", events, w.batches, round(w.silence), round(w.unserved), round(w.contest))
	}
	soaked.note(t, "until all is as before", "%s", spread(c.settled))
	soaked.note(t, "most of a speaker", "%d files, %d kB", c.files, c.memory)
	soaked.note(t, fmt.Sprintf("seed %d", c.seed), "%d events, %d findings", c.events, c.found)
}

// newSoak makes the Services, and waits until all is well.
func newSoak(t *testing.T) *soak {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TANDEM_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("TANDEM_SEED: %v", err)
		}
	}
	c := &soak{
		stage: newStage(t, dual), t: t, rand: rand.New(rand.NewPCG(seed, 0)), seed: seed, start: time.Now(), names: map[string]string{},
		unwell: map[string]bool{}, pids: map[string]int{}, disturbed: map[string]bool{}, worst: map[string]*worst{},
	}
	t.Logf("the seed is %d", seed)
	t.Cleanup(func() {
		for _, heal := range slices.Backward(c.underWay) {
			if err := heal(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	for _, host := range append(c.Nodes(), lab.Client, lab.Router, lab.ControlPlane) {
		c.names[c.mac(t, host)] = host
	}
	c.serve(t)
	c.until(t, time.Minute, "all web servers", c.webReady)
	for _, svc := range c.services {
		c.says(t, svc.name, ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "")
	}
	c.until(t, time.Minute, "one holder for each Service", c.asBefore)
	var err error
	if c.normal, err = c.conditions(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.whoRuns()
	return c
}

// serve makes the Services with their web servers, and has clients use them.
func (c *soak) serve(t *testing.T) {
	t.Helper()
	c.pool(t, "", "198.51.100.200-198.51.100.219", "2001:db8:51::1000/120")
	c.pool(t, "-chosen", "198.51.100.220-198.51.100.229", "2001:db8:51::1100/120")
	c.layer2(t)
	c.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: L2Advertisement, metadata: {name: $NS-chosen}, spec: {addressPools: [$NS-chosen]}}`)
	c.poolsReady(t, 2)
	last := c.Nodes()[len(c.Nodes())-1]
	c.server(t, "web-1", "web", last)
	c.server(t, "web-2", "web", last)
	for _, node := range c.Nodes() {
		c.server(t, "local-"+node, "local", node)
	}
	c.wire, c.clients, c.logs = c.stage.wire(t), c.newClients(t), c.newSpeakerLogs(t)
	for _, svc := range []*soakService{{name: "all"}, {name: "local", local: true}, {name: "chosen", chosen: true}} {
		object := c.service(svc.name, v4, v6)
		pool := c.ns
		if svc.local {
			object.Spec.ExternalTrafficPolicy, object.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": "local"}
		}
		if svc.chosen {
			pool += "-chosen"
		}
		object.Annotations = map[string]string{ipamv1alpha1.AnnotationAddressPool: pool}
		c.add(t, object)
		for _, ip := range c.addresses(t, svc.name, 2) {
			svc.ips = append(svc.ips, netip.MustParseAddr(ip))
		}
		c.wire.watch(svc.ips...)
		c.clients.use(svc.ips...)
		c.services = append(c.services, svc)
	}
}

// server runs a web server on a node.
func (c *soak) server(t *testing.T, name, app, node string) {
	t.Helper()
	c.create(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: %s
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, name, app, node, lab.AgnhostImage))
}
