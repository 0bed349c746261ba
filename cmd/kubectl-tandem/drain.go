// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/handover"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

// mostMoves is how many moves are printed one by one. Of more, their number is.
const mostMoves = 50

func drainCommand(p *plugin) *cobra.Command {
	var dryRun, force bool
	timeout := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Moves what a node announces to other nodes, and says when it is safe to reboot it",
		Long: `Says which Services will move where, and which addresses no other node can announce. Then it sets the annotation tandem-lb.io/drain on the Node,
and waits until its speaker announces nothing any more: on layer 2 the node answers until another one is on record, and by BGP routers prefer
other nodes before the routes are withdrawn. The pods of the node stay: kubectl drain is for them.

A drain that would leave an address without a node that announces it is refused without --force.

It takes the ClusterRole tandem-view, and the right to patch Nodes.`,
		Example: "  kubectl tandem drain node1 --dry-run\n  kubectl tandem drain node1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return p.drain(ctx, args[0], dryRun, force)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Say what would happen, and change nothing. The exit code is 1 if an address would be left without a node, or the node is handing over.")
	cmd.Flags().BoolVar(&force, "force", false, "Drain the node even if an address is left without a node that announces it.")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long to wait. The node stays drained if it takes longer.")
	return cmd
}

func (p *plugin) drain(ctx context.Context, node string, dryRun, force bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	state, err := c.Read(ctx)
	if err != nil {
		return err
	}
	plan, err := handover.PlanDrain(state, node)
	if err != nil {
		return err
	}
	silenced := plan.Silenced()
	if err := p.print(plan, func(out *terminal.Printer) { printDrain(out, plan) }); err != nil {
		return err
	}
	progress := p.progress()
	switch {
	case dryRun && (len(silenced) > 0 || plan.HandingOver()):
		return terminal.ErrProblem
	case dryRun:
		return nil
	case len(silenced) > 0 && !force:
		progress.Printf("Nothing was changed, since %s would be left without a node; --force drains the node all the same.\n", addresses(len(silenced)))
		return terminal.ErrProblem
	}
	return p.follow(ctx, &handover.API{Client: c.Client}, plan, progress)
}

// follow drains a node as planned, and says what happens.
func (p *plugin) follow(ctx context.Context, api *handover.API, plan *handover.Drain, out *terminal.Printer) error {
	start, moved := time.Now(), 0
	api.Told = func(m handover.Move) {
		if moved++; moved <= mostMoves {
			out.Printf("%5.1fs  %s is on %s\n", time.Since(start).Seconds(), m.Service, m.To)
		}
	}
	if err := api.SetDrain(ctx, plan.Node, true); err != nil {
		return err
	}
	out.Printf("Draining %s\n", plan.Node)
	progress, err := api.AwaitDrained(ctx, plan)
	switch {
	case errors.Is(err, handover.ErrTimeout), errors.Is(err, context.Canceled):
		how := "its speaker has said nothing of it"
		switch {
		case !plan.Speaker:
			how = "no speaker is alive on it, and it is on record for " + services(len(progress.Recorded))
		case progress.Condition != nil:
			how = progress.Condition.Message
		}
		out.Printf("%s %s still announces, after %.0fs: %s. It stays drained; kubectl tandem undrain %s takes that back.\n",
			out.Paint(terminal.Red, "NOT YET:"), plan.Node, time.Since(start).Seconds(), how, plan.Node)
		return terminal.ErrProblem
	case err != nil:
		return fmt.Errorf("%s is drained, and how far it is could not be read: %w", plan.Node, err)
	}
	if moved > mostMoves {
		out.Printf("%5.1fs  and %d more Services are on other nodes\n", time.Since(start).Seconds(), moved-mostMoves)
	}
	if len(progress.Recorded) > 0 {
		out.Printf("%s keeps the record of %s, for which no node answers: %s\n", plan.Node, services(len(progress.Recorded)), list(progress.Recorded))
	}
	if !plan.Speaker {
		out.Printf("%s %s. When it is back: kubectl tandem undrain %s\n", out.Paint(terminal.Yellow, "DRAINED:"), unheard(plan.Node), plan.Node)
		return nil
	}
	out.Printf("%s %s announces nothing any more, after %.1fs. When it is back: kubectl tandem undrain %s\n",
		out.Paint(terminal.Green, "SAFE TO REBOOT:"), plan.Node, time.Since(start).Seconds(), plan.Node)
	return nil
}

// unheard says of a node without a live speaker, and without a record, what is known of it.
func unheard(node string) string {
	return fmt.Sprintf("no speaker is alive on %s: no record of it is left; its routes are not known", node)
}

// printAlready prints how far a node has come that is not to announce.
func printAlready(out *terminal.Printer, plan *handover.Drain) {
	says := plan.Node + " is handing over what it announces"
	switch {
	case plan.Gone && plan.Speaker:
		says = plan.Node + " announces nothing now"
	case plan.Gone:
		says = unheard(plan.Node)
	case !plan.Speaker:
		says = fmt.Sprintf("no speaker is alive on %s: others take over what it is on record for", plan.Node)
	}
	out.Printf("%s (%s).\n", says, plan.Already)
}

// printDrain prints what happens when a node is drained.
func printDrain(out *terminal.Printer, plan *handover.Drain) {
	if plan.Already != "" {
		printAlready(out, plan)
		return
	}
	if !plan.Speaker {
		out.Printf("No speaker is alive on %s: what it is on record for moves when others find that out, and it hands nothing over.\n", plan.Node)
	}
	if len(plan.Moves) == 0 {
		out.Printf("On layer 2 %s answers for nothing that another node takes over.\n", plan.Node)
	} else {
		out.Printf("On layer 2 %s:\n", plural(len(plan.Moves), "Service moves", "Services move"))
		table := &terminal.Table{Header: []string{"SERVICE", "ADDRESSES", "FROM", "TO"}}
		for _, m := range plan.Moves[:min(len(plan.Moves), mostMoves)] {
			table.Add(m.Service, join(m.Addresses), m.From, m.To)
		}
		out.Table("  ", table)
		if more := len(plan.Moves) - mostMoves; more > 0 {
			out.Printf("  and %d more; -o json has all of them\n", more)
		}
	}
	if plan.Routes > 0 {
		out.Printf("By BGP %s withdraws what it tells %s of %s.\n", plan.Node, strings.Join(plan.Peers, ", "), addresses(plan.Routes))
	}
	for i, l := range plan.Left {
		if i == 0 {
			out.Printf("No other node can take over:\n")
		}
		label, still := out.Paint(terminal.Red, "NOBODY ANNOUNCES"), ""
		if l.Still {
			label, still = out.Paint(terminal.Yellow, "not on layer 2"), "; it is still announced by BGP or in the kernel of other nodes"
		}
		why := ""
		if l.Why != "" {
			why = ": " + l.Why
		}
		out.Printf("  %s %s of %s%s%s\n", label, l.Address, l.Service, why, still)
	}
}

func undrainCommand(p *plugin) *cobra.Command {
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "undrain NODE",
		Short: "Lets a node announce again that was drained",
		Long: `Removes the annotation tandem-lb.io/drain from the Node, and waits until its speaker says that it may announce. By BGP the node announces what it can.
On layer 2 it takes nothing from a node that answers: "kubectl tandem rebalance" gives it its share, and so does failbackAfter of an L2Advertisement
where it is preferred.

It takes the right to patch Nodes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return p.undrain(ctx, args[0])
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long to wait.")
	return cmd
}

func (p *plugin) undrain(ctx context.Context, node string) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	api := &handover.API{Client: c.Client}
	if err := api.SetDrain(ctx, node, false); err != nil {
		return err
	}
	out := terminal.NewPrinter(p.Out)
	reason, err := api.AwaitUndrained(ctx, node)
	switch {
	case errors.Is(err, handover.ErrTimeout):
		out.Printf("%s The annotation is gone, and no speaker of %s says yet that it may announce: look at kubectl get pods -A -o wide, and kubectl tandem status.\n",
			out.Paint(terminal.Red, "NOT YET:"), node)
		return terminal.ErrProblem
	case err != nil:
		return err
	case reason != "":
		out.Printf("%s The annotation is gone, and %s announces nothing all the same: %s.\n", out.Paint(terminal.Yellow, "STILL OUT:"), node, reason)
		return terminal.ErrProblem
	}
	out.Printf("%s %s may announce again.\n", out.Paint(terminal.Green, "BACK:"), node)
	return nil
}

func addresses(n int) string { return plural(n, "address", "addresses") }
func services(n int) string  { return plural(n, "Service", "Services") }

// list returns the first names of a list, and how many there are beside.
func list(names []string) string {
	const most = 5
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func join(addresses []netip.Addr) string {
	texts := make([]string, len(addresses))
	for i, a := range addresses {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
