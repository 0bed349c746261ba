// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// moveInFlags are those of `kubectl tandem move-in`.
type moveInFlags struct {
	all, yes, keepInUse bool
	selector            string
	pools, nodes        []string
	pace, timeout       time.Duration
	writes              int
}

func moveInCommand(p *plugin) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move-in",
		Short: "Moves Services from MetalLB to Tandem while they serve, and back",
		Long: `Moves Services from a running MetalLB to Tandem, which is installed beside it, so that each keeps its address and goes on answering. "plan" changes
nothing. "start" goes on where it was interrupted, on any machine, and "undo" goes back, until "finish" has ended the move: what has been done is in
ConfigMaps tandem-move-in of Tandem's namespace.`,
	}
	cmd.AddCommand(moveInPlanCommand(p), moveInStartCommand(p), moveInStatusCommand(p), moveInFinishCommand(p), moveInUndoCommand(p))
	return cmd
}

// act adds the flags of a command that writes.
func (f *moveInFlags) act(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "yes", false, "Do not ask.")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "How long to wait for each thing, such as a pod that ends or an address that answers.")
	cmd.Flags().IntVar(&f.writes, "max-writes", 0, "Stop after this many writes to the API, for a rehearsal; 0 for no limit. The command exits with 1 then.")
}

func moveInPlanCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Says what a move would do, and what is in its way",
		Long: `Reads MetalLB's objects, the Services and Tandem's objects, and says what maps and what does not, and of each Service: its addresses, the pool that will
hold them, who announces them now, and the unit that it moves in. It exits with 1 if the move cannot start. It writes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errNotBuilt },
	}
	cmd.Flags().BoolVar(&f.keepInUse, "keep-in-use", false, "Make a pool of the addresses that Services have and no other pool holds.")
	return cmd
}

func moveInStartCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "start [SERVICE... | --all | --selector SELECTOR | --pool POOL | --node NODE]",
		Short: "Begins a move or goes on with it, and moves what is named",
		Long: `Prepares the move, unless that is done: saves what there is, makes Tandem's objects, stops MetalLB's controller, and lets Tandem adopt the addresses that
Services have. Then it moves what is named, unit by unit: MetalLB stops, Tandem announces, and a probe says whether it answers. A unit that does not
answer goes back, and the command says why and stops. Services are layer 2's unit, and Nodes BGP's. Without anything named it only prepares.

It exits with 0 if all that was named has moved, and with 1 if it has stopped before.`,
		Example: "  kubectl tandem move-in start\n  kubectl tandem move-in start web -n shop\n  kubectl tandem move-in start --all --pace 10s --yes",
		RunE:    func(*cobra.Command, []string) error { return errNotBuilt },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "Move all Services, and then all Nodes.")
	flags.StringVarP(&f.selector, "selector", "l", "", "Move the Services with these labels; with -A those of all namespaces.")
	flags.StringSliceVar(&f.pools, "pool", nil, "Move the Services with an address of this AddressPool, in all namespaces.")
	flags.StringSliceVar(&f.nodes, "node", nil, "Move the BGP sessions of this Node.")
	flags.DurationVar(&f.pace, "pace", 0, "How long to wait between two units.")
	flags.BoolVar(&f.keepInUse, "keep-in-use", false, "Make a pool of the addresses that Services have and no other pool holds.")
	f.act(cmd)
	return cmd
}

func moveInStatusCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Says how far a move has come",
		Long:  "Says the phase of the move, what has moved and what has not, and what comes next. It writes nothing.",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errNotBuilt },
	}
}

func moveInFinishCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "finish",
		Short: "Ends a move: takes away MetalLB's speakers and what the move has left",
		Long: `Once everything has moved: takes MetalLB's speakers off all nodes, removes the labels and selectors of the move and MetalLB's own notes on Services, and
says what to uninstall by hand. There is no undo after it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errNotBuilt },
	}
	f.act(cmd)
	return cmd
}

func moveInUndoCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "undo",
		Short: "Goes back to MetalLB, from any point before finish",
		Long: `Takes everything back that start has done, in the reverse order: units first, then the controllers, then the objects. Services keep their addresses. It goes
on where it was interrupted.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errNotBuilt },
	}
	f.act(cmd)
	return cmd
}

var errNotBuilt = errors.New("this command is not built yet")
