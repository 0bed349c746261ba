// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/handover"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// moveTimeout is how long one move may take: a holder answers until the other node is on record, which is a write.
const moveTimeout = 30 * time.Second

func moveCommand(p *plugin) *cobra.Command {
	var to string
	var dryRun bool
	timeout := moveTimeout
	cmd := &cobra.Command{
		Use:   "move service/NAME --to NODE",
		Short: "Moves the addresses of a Service to another node, on layer 2",
		Long: `Writes spec.target into the L2Announcement of the Service, and waits until the node has the addresses. The node before answers until then. Services that
share an address move together. A node that could not take all that the present one answers for is refused before anything is written, and if the
Service has not moved in time the target is taken back.

It takes the ClusterRole tandem-edit.`,
		Example: "  kubectl tandem move service/web --to node2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			service, err := parseService(args[0], namespace)
			if err != nil {
				return err
			}
			return p.move(ctx, service, to, dryRun)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "Name of the node that takes the addresses over.")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Say what would happen, and change nothing.")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long to wait.")
	_ = cmd.MarkFlagRequired("to") // It fails for a flag that does not exist.
	return cmd
}

// parseService returns the Service that an argument names, as service/web, svc/web or web.
func parseService(argument, namespace string) (types.NamespacedName, error) {
	kind, name, slash := strings.Cut(argument, "/")
	if !slash {
		kind, name = "service", argument
	}
	switch strings.ToLower(kind) {
	case "service", "services", "svc":
		if name != "" && !strings.Contains(name, "/") {
			return types.NamespacedName{Namespace: namespace, Name: name}, nil
		}
	}
	return types.NamespacedName{}, fmt.Errorf("%q is no Service; write service/NAME, and its namespace by --namespace", argument)
}

func (p *plugin) move(ctx context.Context, service types.NamespacedName, to string, dryRun bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	state, err := c.Read(ctx)
	if err != nil {
		return err
	}
	out := p.progress()
	plan, err := handover.PlanMove(state, service, to)
	if err != nil {
		out.Printf("%s %v\n", out.Paint(terminal.Red, "REFUSED:"), err)
		return terminal.ErrProblem
	}
	if p.output == outputJSON || p.output == outputYAML {
		if err := terminal.Marshal(p.Out, p.output, plan); err != nil {
			return err
		}
	}
	if len(plan.Moves) == 0 {
		out.Printf("%s is on %s already.\n", service, to)
		return nil
	}
	for _, m := range plan.Moves {
		out.Printf("%s: %s from %s to %s\n", m.Service, join(m.Addresses), nobodyIf(m.From), m.To)
	}
	if plan.Back != "" {
		out.Printf("%s %s is preferred, and takes the addresses back when it has been healthy for failbackAfter.\n",
			out.Paint(terminal.Yellow, "NOT FOR LONG:"), plan.Back)
	}
	if dryRun {
		return nil
	}
	return transfer(ctx, &handover.API{Client: c.Client}, service, plan, out)
}

func nobodyIf(node string) string {
	if node == "" {
		return "nobody"
	}
	return node
}

// transfer moves Services as planned, and says what happens.
func transfer(ctx context.Context, api *handover.API, service types.NamespacedName, plan *handover.Transfer, out *terminal.Printer) error {
	start := time.Now()
	api.Told = func(m handover.Move) {
		out.Printf("%5.1fs  %s is on %s\n", time.Since(start).Seconds(), m.Service, m.To)
	}
	if err := api.SetTarget(ctx, service, plan.Moves[0].To); err != nil {
		return fmt.Errorf("naming %s as the target of %s: %w", plan.Moves[0].To, service, err)
	}
	err := api.AwaitMove(ctx, service, plan)
	if errors.Is(err, handover.ErrTimeout) || errors.Is(err, context.Canceled) {
		out.Printf("%s %s has not taken %s: %v. kubectl describe service %s has the event TargetRefused if it will not.\n",
			out.Paint(terminal.Red, "NOT MOVED:"), plan.Moves[0].To, service, err, service.Name)
		return terminal.ErrProblem
	}
	return err
}

func rebalanceCommand(p *plugin) *cobra.Command {
	perMinute, dryRun := 10, false
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Moves Services off nodes that have more than their share, slowly, on layer 2",
		Long: `A node that was away takes nothing back by itself. This moves Services by hand, one after the other, until no node has more than 1.25 of the average of
the Services that the same nodes could have, which is what new Services are placed by. Each move ends the connections of its Service, so that no
more are made than it takes. Services that a preference has brought to their node stay.

It takes the ClusterRole tandem-edit.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if perMinute < 1 {
				return fmt.Errorf("--max-per-minute is %d; give 1 or more", perMinute)
			}
			return p.rebalance(cmd.Context(), time.Minute/time.Duration(perMinute), dryRun)
		},
	}
	cmd.Flags().IntVar(&perMinute, "max-per-minute", perMinute, "How many Services move in a minute at most.")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Say which Services would move, and change nothing.")
	return cmd
}

func (p *plugin) rebalance(ctx context.Context, pace time.Duration, dryRun bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	state, err := c.Read(ctx)
	if err != nil {
		return err
	}
	moves := decision.Rebalance(state.Snapshot)
	if err := p.print(plannedMoves(moves), func(out *terminal.Printer) { printRebalance(out, moves, pace) }); err != nil || dryRun {
		return err
	}
	out := p.progress()
	moved := 0
	for i, m := range moves {
		if i > 0 {
			select {
			case <-ctx.Done():
				out.Printf("Stopped after %d of %d moves.\n", moved, len(moves))
				return terminal.ErrProblem
			case <-time.After(pace):
			}
			if state, err = c.Read(ctx); err != nil {
				return err
			}
		}
		ok, err := p.rebalanceOne(ctx, c, state, m, out)
		if err != nil {
			return err
		}
		if ok {
			moved++
		}
	}
	if moved < len(moves) {
		return terminal.ErrProblem
	}
	return nil
}

// rebalanceOne makes one move, if it is still to be made by what the cluster is now, and reports whether it has.
func (p *plugin) rebalanceOne(ctx context.Context, c *cluster.Cluster, state *cluster.State, m decision.Move, out *terminal.Printer) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	if holder := state.Records()[m.Services[0]].Node; holder != m.From {
		out.Printf("        %s has moved meanwhile, from %s to %s\n", m.Services[0], m.From, nobodyIf(holder))
		return true, nil
	}
	plan, err := handover.PlanMove(state, m.Services[0], m.To)
	if err != nil {
		out.Printf("        %s stays: %v\n", m.Services[0], err)
		return false, nil
	}
	err = transfer(ctx, &handover.API{Client: c.Client}, m.Services[0], plan, out)
	if errors.Is(err, terminal.ErrProblem) {
		return false, nil
	}
	return err == nil, err
}

// plannedMoves returns the moves as programs read them.
func plannedMoves(moves []decision.Move) []handover.Move {
	planned := []handover.Move{}
	for _, m := range moves {
		for _, name := range m.Services {
			planned = append(planned, handover.Move{Service: name.String(), From: m.From, To: m.To})
		}
	}
	return planned
}

func printRebalance(out *terminal.Printer, moves []decision.Move, pace time.Duration) {
	if len(moves) == 0 {
		out.Printf("Nothing is to be moved: no node has more than 1.25 of the average.\n")
		return
	}
	table := &terminal.Table{Header: []string{"SERVICE", "FROM", "TO"}}
	for _, m := range moves[:min(len(moves), mostMoves)] {
		for _, name := range m.Services {
			table.Add(name.String(), m.From, m.To)
		}
	}
	out.Printf("%s, in about %v:\n", plural(len(moves), "move", "moves"), (time.Duration(len(moves)-1) * pace).Round(time.Second))
	out.Table("  ", table)
	if more := len(moves) - mostMoves; more > 0 {
		out.Printf("  and %d more; -o json has all of them\n", more)
	}
}
