// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	"github.com/tandem-lb/tandem/speaker/reachability"
)

// hereTimeout bounds the connection that this machine tries.
const hereTimeout = 3 * time.Second

func whyCommand(p *plugin) *cobra.Command {
	probe, port := false, uint16(0)
	cmd := &cobra.Command{
		Use:   "why (service/NAME | ADDRESS | node/NAME | peer/NAME)",
		Short: "Says hop by hop why an address does not answer, and what to do",
		Long: "Says hop by hop why an address does not answer, and what to do: for a Service, an address, what a node announces and why " +
			"not more, or a BGPPeer.\n\n" +
			"✓ is well, ✗ is at fault, and – is not known. With --probe speakers of other nodes ask the LAN and open connections, and so " +
			"does this machine; " +
			"that takes the right to create pods/portforward in the namespace of Tandem.\n\n" +
			"It exits with 1 if something is at fault.",
		Example: "  kubectl tandem why service/web --probe\n  kubectl tandem why 198.51.100.200\n  kubectl tandem why node/node3\n  " +
			"kubectl tandem why peer/tor1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := p.parseTarget(args[0])
			if err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			state, err := c.Read(cmd.Context())
			if err != nil {
				return err
			}
			if err := what.readForeign(cmd.Context(), c, state); err != nil {
				return err
			}
			engine := why.New(state)
			if engine.Port = port; probe {
				asks := newProber(c, state.System)
				defer asks.close()
				engine.Prober = asks
			}
			answers, err := explain(cmd.Context(), c, engine, what)
			if err != nil {
				return err
			}
			if err := p.print(answers, func(out *terminal.Printer) { printWhy(out, answers) }); err != nil {
				return err
			}
			for _, a := range answers {
				if a.Problem() {
					return terminal.ErrProblem
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "Ask for real: the LAN from other nodes, and connections from there and from this machine.")
	cmd.Flags().Uint16Var(&port, "port", 0, "TCP port to probe; default the first of the Service.")
	return cmd
}

// target is what `why` is asked about: an address, or an object by its kind and name.
type target struct {
	address netip.Addr
	kind    string // service, node or peer, if there is no address
	name    types.NamespacedName
}

// parseTarget reads the argument of `why`. The namespace of a Service is that of the flags.
func (p *plugin) parseTarget(text string) (target, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return target{address: ip}, nil
	}
	kind, name, found := strings.Cut(text, "/")
	if !found {
		kind, name = "service", text
	}
	switch kind {
	case "service", "svc", "services":
		namespace, err := p.namespace()
		if err != nil {
			return target{}, err
		}
		if namespace == "" {
			return target{}, errors.New("give the namespace by -n: -A names no Service")
		}
		return target{kind: "service", name: types.NamespacedName{Namespace: namespace, Name: name}}, nil
	case "node", "no", "nodes":
		return target{kind: "node", name: types.NamespacedName{Name: name}}, nil
	case "peer", "bgppeer", "bgppeers":
		return target{kind: "peer", name: types.NamespacedName{Name: name}}, nil
	}
	return target{}, fmt.Errorf("%q is none of service/NAME, ADDRESS, node/NAME and peer/NAME", text)
}

// readForeign reads the IPAddresses of others that matter for a target.
func (t target) readForeign(ctx context.Context, c *cluster.Cluster, s *cluster.State) error {
	switch {
	case t.address.IsValid():
		return c.Foreign(ctx, s, t.address)
	case t.kind == "service":
		return c.ForeignOf(ctx, s, t.name)
	}
	return nil
}

// explain explains a target. The error says what there is not.
func explain(ctx context.Context, c *cluster.Cluster, engine *why.Engine, t target) ([]*why.Answer, error) {
	if t.address.IsValid() {
		return engine.Address(ctx, t.address), nil
	}
	var answer *why.Answer
	ok := false
	switch t.kind {
	case "service":
		if answer, ok = engine.Service(ctx, t.name); !ok {
			return nil, noBalancer(ctx, c, t.name.Namespace, t.name.Name)
		}
	case "node":
		answer, ok = engine.Node(t.name.Name)
	case "peer":
		answer, ok = engine.Peer(t.name.Name)
	}
	if !ok {
		return nil, fmt.Errorf("there is no %s %s", t.kind, t.name.Name)
	}
	return []*why.Answer{answer}, nil
}

// noBalancer returns the error for a Service that is no load balancer, or does not exist.
func noBalancer(ctx context.Context, c *cluster.Cluster, namespace, name string) error {
	var svc corev1.Service
	switch err := c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &svc); {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no Service %s/%s", namespace, name)
	case err != nil:
		return err
	}
	return fmt.Errorf("the type of Service %s/%s is %s: only those of type LoadBalancer get addresses of Tandem", namespace, name, svc.Spec.Type)
}

// printWhy prints the chains of answers.
func printWhy(out *terminal.Printer, answers []*why.Answer) {
	colours := map[why.Mark]terminal.Colour{why.Well: terminal.Green, why.Fault: terminal.Red, why.Unknown: terminal.Faint}
	for i, a := range answers {
		if i > 0 {
			out.Printf("\n")
		}
		out.Printf("%s\n", out.Paint(terminal.Bold, a.Kind+" "+a.Name))
		for _, chain := range a.Chains {
			if chain.Family != "" {
				out.Printf("%s\n", strings.TrimSpace(string(chain.Family)+" "+chain.Address))
			}
			t := &terminal.Table{}
			for _, step := range chain.Steps {
				t.AddCells(terminal.Cell{Text: step.Mark.Sign(), Colour: colours[step.Mark]}, terminal.Cell{Text: string(step.Hop)}, terminal.Cell{Text: step.Text})
				if step.Remedy != "" {
					t.AddCells(terminal.Cell{}, terminal.Cell{}, terminal.Cell{Text: "→ " + step.Remedy})
				}
			}
			out.Table("  ", t)
		}
	}
}

// prober asks speakers, each by one connection. One that breaks is opened anew for the next question.
type prober struct {
	connect func(ctx context.Context, node string) (*cluster.Speaker, error)

	mu       sync.Mutex // guards speakers
	speakers map[string]*connection
}

// connection is one to a speaker. The first caller connects, and the others wait until it is ready.
type connection struct {
	ready   chan struct{} // closed when one of the following is set
	speaker *cluster.Speaker
	err     error
}

// newProber returns a prober of the speakers in the namespace of Tandem.
func newProber(c *cluster.Cluster, system string) *prober {
	return &prober{
		connect:  func(ctx context.Context, node string) (*cluster.Speaker, error) { return c.Speaker(ctx, system, node) },
		speakers: map[string]*connection{},
	}
}

// ask has the speaker of a node answer a question. It connects anew where another caller has given up while it connected for both.
func (p *prober) ask(ctx context.Context, node string, question func(*cluster.Speaker) error) error {
	for {
		p.mu.Lock()
		c, known := p.speakers[node]
		if !known {
			c = &connection{ready: make(chan struct{})}
			p.speakers[node] = c
		}
		p.mu.Unlock()
		if !known {
			c.speaker, c.err = p.connect(ctx, node)
			close(c.ready)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil {
			p.forget(node, c)
			if errors.Is(c.err, context.Canceled) && ctx.Err() == nil {
				continue
			}
			return c.err
		}
		err := question(c.speaker)
		if _, refused := errors.AsType[*cluster.RefusedError](err); err != nil && !refused && ctx.Err() == nil {
			p.forget(node, c)
		}
		return err
	}
}

// forget ends a connection that has failed, unless that has happened already.
func (p *prober) forget(node string, c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.speakers[node] != c {
		return
	}
	delete(p.speakers, node)
	if c.err == nil {
		_ = c.speaker.Close()
	}
}

// close ends all connections. Nobody asks any more.
func (p *prober) close() {
	for node, c := range maps.Clone(p.speakers) {
		p.forget(node, c)
	}
}

// probe has the speaker of a node find something out.
func (p *prober) probe(ctx context.Context, node, path string, query url.Values, answer any) error {
	return p.ask(ctx, node, func(s *cluster.Speaker) error { return s.Post(ctx, path+"?"+query.Encode(), answer) })
}

// LAN implements [why.Prober].
func (p *prober) LAN(
	ctx context.Context, asker, node, iface string, ip netip.Addr, port uint16, neighbours bool,
) (asked reachability.Asked, err error) {
	err = p.probe(ctx, asker, "/probe/lan", url.Values{
		"address": {ip.String()}, "node": {node}, "interface": {iface}, "port": {strconv.Itoa(int(port))}, "neighbours": {strconv.FormatBool(neighbours)},
	}, &asked)
	return asked, err
}

// Kernel implements [why.Prober].
func (p *prober) Kernel(ctx context.Context, node string, ip netip.Addr, port uint16) (dialed reachability.Dialed, err error) {
	err = p.probe(ctx, node, "/probe/kernel", url.Values{"address": {ip.String()}, "port": {strconv.Itoa(int(port))}}, &dialed)
	return dialed, err
}

// Routes implements [why.Prober].
func (p *prober) Routes(ctx context.Context, node, peer string) (map[netip.Prefix]why.RouteState, error) {
	var routes []struct {
		Prefix   netip.Prefix `json:"prefix"`
		Sent     bool         `json:"sent"`
		Withheld string       `json:"withheld"`
	}
	if err := p.ask(ctx, node, func(s *cluster.Speaker) error {
		return s.Get(ctx, "/bgp/routes?"+url.Values{"peer": {peer}}.Encode(), &routes)
	}); err != nil {
		return nil, err
	}
	states := map[netip.Prefix]why.RouteState{}
	for _, r := range routes {
		states[r.Prefix] = why.RouteState{Sent: r.Sent, Withheld: r.Withheld}
	}
	return states, nil
}

// Through implements [why.Prober].
func (p *prober) Through(
	ctx context.Context, asker, node, router string, ip netip.Addr, port uint16,
) (said reachability.Through, err error) {
	err = p.probe(ctx, asker, "/probe/through", url.Values{
		"address": {ip.String()}, "node": {node}, "router": {router}, "port": {strconv.Itoa(int(port))},
	}, &said)
	return said, err
}

// StationHere implements [why.Prober].
func (*prober) StationHere(ip netip.Addr) (mac string, found bool) { return why.StationHere(ip) }

// Here implements [why.Prober].
func (p *prober) Here(ctx context.Context, ip netip.Addr, port uint16) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hereTimeout)
	defer cancel()
	return why.DialHere(ctx, ip, port)
}
