// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
)

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
