// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/apply"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

// moveInFlags are those of `kubectl tandem move-in`.
type moveInFlags struct {
	all, yes, keepInUse bool
	takeOver            bool
	from, selector      string
	pools, nodes        []string
	pace, timeout       time.Duration
	writes              int
}

// How long start and undo wait between two Nodes. Routers have to take in the routes of a session that has just opened before the next Node is without
// one, and on the way back the other product's speaker has yet to open its sessions.
const (
	nodePace     = 3 * time.Second
	nodePaceBack = 10 * time.Second
)

func moveInCommand(p *plugin) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move-in",
		Short: "Moves Services from another load balancer to Tandem while they serve, and back",
		Long: `Moves Services from a running MetalLB, kube-vip, PureLB or Cilium to Tandem, which is installed beside it, so that each keeps its address and goes on
answering. "plan" changes nothing. "start" goes on where it was interrupted, on any machine, and "undo" goes back, until "finish" has ended the move: what has been done is in
ConfigMaps tandem-move-in of Tandem's namespace.`,
	}
	cmd.AddCommand(moveInPlanCommand(p), moveInStartCommand(p), moveInStatusCommand(p), moveInFinishCommand(p), moveInUndoCommand(p),
		moveInObjectsCommand(p))
	return cmd
}

// source adds the flag that says where Services come from.
func (f *moveInFlags) source(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "", "The load balancer that Services come from, where there are several: "+strings.Join(live.Origins(), ", ")+".")
	cmd.Flags().BoolVar(&f.keepInUse, "keep-in-use", false, "Make a pool of the addresses that Services have and no other pool holds.")
}

// act adds the flags of a command that writes.
func (f *moveInFlags) act(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "yes", false, "Do not ask.")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "How long to wait for each thing, such as a pod that ends or an address that answers.")
	cmd.Flags().BoolVar(&f.takeOver, "take-over", false, "Go on in place of a command that seems to run, because you know that it is dead.")
	cmd.Flags().IntVar(&f.writes, "max-writes", 0, "Stop after this many writes to the API, for a rehearsal; 0 for no limit. The command exits with 1 then.")
}

func moveInPlanCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Says what a move would do, and what is in its way",
		Long: `Reads the other load balancer's objects, the Services and Tandem's objects, and says what maps and what does not, and of each Service: its addresses, the
pool that will hold them, who announces them now, and the unit that it moves in. It exits with 1 if the move cannot start, and says what to do. It writes
nothing.`,
		Args: cobra.NoArgs,
		RunE: p.moving(f, func(ctx context.Context, m *mover, _ []string) error {
			m.api.Review(ctx, m.snapshot)
			return m.plan(f)
		}),
	}
	f.source(cmd)
	return cmd
}

func moveInStartCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "start [SERVICE... | --all | --selector SELECTOR | --pool POOL | --node NODE]",
		Short: "Begins a move or goes on with it, and moves what is named",
		Long: `Prepares the move, unless that is done: saves what there is, makes Tandem's objects, stops what gave addresses, and lets Tandem adopt those that Services
have. Then it moves what is named, unit by unit: the other one stops, Tandem announces, and a probe says whether it answers. A unit that does not
answer goes back, and the command says why and stops. Services are layer 2's unit, and Nodes BGP's; kube-vip and PureLB can only be stopped whole, so that
all their Services move in one step, by --all. Without anything named it only prepares.

It exits with 0 if all that was named has moved, and with 1 if it has stopped before.`,
		Example: "  kubectl tandem move-in start\n  kubectl tandem move-in start web -n shop\n  kubectl tandem move-in start --all --pace 10s --yes",
		RunE: p.moving(f, func(ctx context.Context, m *mover, args []string) error {
			m.api.Review(ctx, m.snapshot)
			m.api.NodePace = nodePace
			return m.start(ctx, f, args)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "Move all Services, and then all Nodes.")
	flags.StringVarP(&f.selector, "selector", "l", "", "Move the Services with these labels; with -A those of all namespaces.")
	flags.StringSliceVar(&f.pools, "pool", nil, "Move the Services with an address of this AddressPool, in all namespaces.")
	flags.StringSliceVar(&f.nodes, "node", nil, "Move the BGP sessions of this Node.")
	flags.DurationVar(&f.pace, "pace", 0, fmt.Sprintf("How long to wait between two units; Nodes have at least %v.", nodePace))
	f.source(cmd)
	f.act(cmd)
	return cmd
}

func moveInStatusCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Says how far a move has come",
		Long:  "Says the phase of the move, which command works on it, what has moved and what has not, and what comes next. It writes nothing.",
		Args:  cobra.NoArgs,
		RunE: p.moving(&moveInFlags{}, func(ctx context.Context, m *mover, _ []string) error {
			status, err := live.StatusOf(m.snapshot)
			if err != nil {
				return err
			}
			runner, err := m.api.Lock.Runner(ctx)
			if err != nil {
				return err
			}
			return p.print(&moveInStatus{status, runner}, func(out *terminal.Printer) { printMoveIn(out, status, runner) })
		}),
	}
}

func moveInFinishCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "finish",
		Short: "Ends a move: has the other load balancer announce nothing, and removes what the move has left",
		Long: `Once everything has moved: takes what announced before off all nodes, removes the labels and selectors of the move and the other load balancer's own notes
on Services, and says what to uninstall by hand. There is no undo after it.`,
		Args: cobra.NoArgs,
		RunE: p.moving(f, func(ctx context.Context, m *mover, _ []string) error {
			m.api.Review(ctx, m.snapshot)
			if err := m.confirm(f, live.Finish, "What announced before stops for good, and there is no undo after that."); err != nil {
				return err
			}
			if err := m.run(ctx, live.Finish); err != nil {
				return err
			}
			return m.finished(ctx)
		}),
	}
	f.act(cmd)
	return cmd
}

func moveInUndoCommand(p *plugin) *cobra.Command {
	f := &moveInFlags{}
	cmd := &cobra.Command{
		Use:   "undo",
		Short: "Goes back to the other load balancer, from any point before finish",
		Long: `Takes everything back that start has done, in the reverse order: units first, then the controllers, then the objects. Services keep their addresses. It goes
on where it was interrupted.`,
		Args: cobra.NoArgs,
		RunE: p.moving(f, func(ctx context.Context, m *mover, _ []string) error {
			m.api.Review(ctx, m.snapshot)
			if m.snapshot.PhaseOf() == "" && !m.snapshot.PhaseLost() {
				m.out.Printf("There is no move to undo.\n")
				return m.run(ctx, live.Undo) // There may be what a command that was interrupted has saved.
			}
			m.api.NodePace = nodePaceBack
			if err := m.confirm(f, live.Undo, "All Services go back to where they came from, and what the move has made is deleted."); err != nil {
				return err
			}
			if err := m.run(ctx, live.Undo); err != nil {
				return err
			}
			m.out.Printf("%s The cluster is as it was before the move.\n", m.out.Paint(terminal.Green, "UNDONE:"))
			return nil
		}),
	}
	f.act(cmd)
	cmd.Flags().DurationVar(&f.pace, "pace", 0, fmt.Sprintf("How long to wait between two units; Nodes have at least %v.", nodePaceBack))
	return cmd
}

func moveInObjectsCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "objects",
		Short: "Prints Tandem's objects as files have them, to be put into Git after a move",
		Long: `Prints Tandem's AddressPools, BFDProfiles, Communities, BGPPeers, L2Advertisements and BGPAdvertisements as kubectl apply takes them: without what the API
server and Tandem write. Secrets with passwords of BGPPeers are named and not printed. It writes nothing.`,
		Args: cobra.NoArgs,
		RunE: p.moving(&moveInFlags{}, func(_ context.Context, m *mover, _ []string) error {
			objects, err := live.Files(m.snapshot)
			if err != nil {
				return err
			}
			if p.output == outputJSON || p.output == outputYAML {
				return terminal.Marshal(p.Out, p.output, map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
			}
			return printObjects(p.Out, objects)
		}),
	}
}

// printObjects writes objects as documents of YAML, with a comment for each Secret that a BGPPeer refers to.
func printObjects(w io.Writer, objects []map[string]any) error {
	for i, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if i > 0 {
			data = append([]byte("---\n"), data...)
		}
		if secret, _, _ := unstructured.NestedString(o, "spec", "passwordSecret", "name"); secret != "" {
			data = append(data, "# Its password is in the Secret "+secret+" of Tandem's namespace, which is not printed.\n"...)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// mover is a command of the live move under way.
type mover struct {
	*plugin
	out      *terminal.Printer
	api      *apply.API
	asks     *prober
	snapshot *live.Snapshot // as it was when the command began
}

// moving returns what a command of the live move does: it connects, reads the cluster, and calls do with the arguments.
func (p *plugin) moving(f *moveInFlags, do func(ctx context.Context, m *mover, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		m, err := p.mover(cmd, f)
		if err != nil {
			return err
		}
		defer m.asks.close()
		return do(cmd.Context(), m, args)
	}
}

// mover connects, and reads the cluster.
func (p *plugin) mover(cmd *cobra.Command, f *moveInFlags) (*mover, error) {
	ctx := cmd.Context()
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(c.REST)
	if err != nil {
		return nil, err
	}
	state, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	m := &mover{plugin: p, out: p.progress()}
	m.asks = newProber(c, state.System)
	start := time.Now()
	told := func(what string) { m.out.Printf("%6.1fs  %s\n", time.Since(start).Seconds(), what) }
	probe := &apply.Prober{Cluster: c, Speakers: m.asks, Doubt: func(what string) {
		told("not probed, so that the speakers' own reports count: " + what)
	}}
	m.api = &apply.API{
		Client: client, System: state.System, From: f.from, Probe: probe.Probe, Told: told, Timeout: f.timeout, Pace: f.pace, Writes: f.writes,
		Lock: &apply.Lock{
			Leases: c.Clientset.CoordinationV1().Leases(state.System), Identity: apply.Identity(cmd.CommandPath()), Now: c.Now, TakeOver: f.takeOver,
		},
	}
	m.snapshot, err = m.api.Read(ctx)
	return m, err
}

// run carries a command out, and says why it has stopped.
func (m *mover) run(ctx context.Context, next func(*live.Snapshot) (live.Action, error)) error {
	err := m.api.Run(ctx, next)
	if stopped, ok := errors.AsType[apply.Stopped](err); ok {
		m.out.Printf("%s %s\n", m.out.Paint(terminal.Red, "STOPPED:"), stopped.Why)
		return terminal.ErrProblem
	}
	if errors.Is(err, apply.ErrWrites) || errors.Is(err, context.Canceled) {
		m.out.Printf("%s Interrupted. The same command goes on, and kubectl tandem move-in undo goes back.\n", m.out.Paint(terminal.Yellow, "STOPPED:"))
		return terminal.ErrProblem
	}
	return err
}

// confirm asks whether to go on with a command. One that would stop at once says why, in place of the question.
func (m *mover) confirm(f *moveInFlags, next func(*live.Snapshot) (live.Action, error), what string) error {
	if f.yes || live.Stops(m.snapshot, next) != "" {
		return nil
	}
	m.out.Printf("%s Go on? [y/N] ", what)
	answer, err := bufio.NewReader(m.In).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); err != nil && answer == "" || answer != "y" && answer != "yes" {
		m.out.Printf("Nothing is changed; --yes does not ask.\n")
		return terminal.ErrProblem
	}
	return nil
}

// plan prints the plan of a move that has not begun.
func (m *mover) plan(f *moveInFlags) error {
	if phase := m.snapshot.PhaseOf(); phase != "" && phase != live.Finished {
		return fmt.Errorf("a move has begun, and is in phase %s: kubectl tandem move-in status says how far it is", phase)
	}
	if m.snapshot.PhaseOf() == live.Finished {
		m.out.Printf("The last move is finished, and kubectl tandem move-in status says what comes next. This would be a new one:\n")
	}
	plan, err := live.MakePlan(m.snapshot, f.keepInUse)
	if err != nil {
		return err
	}
	if err := m.print(plan, func(out *terminal.Printer) { printMoveInPlan(out, plan) }); err != nil {
		return err
	}
	if plan.Refused {
		return terminal.ErrProblem
	}
	return nil
}

// status reads the cluster anew, and says how far the move is.
func (m *mover) status(ctx context.Context) (*live.Status, error) {
	s, err := m.api.Read(ctx)
	if err != nil {
		return nil, err
	}
	return live.StatusOf(s)
}

// finished says what a person does after the end of a move.
func (m *mover) finished(ctx context.Context) error {
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	m.out.Printf("%s The move is finished. Next: %s:\n  kubectl tandem move-in objects > tandem.yaml\n"+
		"What was there before is in ConfigMaps %s* of namespace %s; delete them when you do not need them.\n",
		m.out.Paint(terminal.Green, "FINISHED:"), status.Next, live.ConfigMapName, m.snapshot.System)
	return nil
}

// goal returns what the arguments and flags name.
func (m *mover) goal(f *moveInFlags, args []string) (*live.Goal, error) {
	namespace, err := m.namespace()
	if err != nil {
		return nil, err
	}
	goal := &live.Goal{All: f.all, Pools: f.pools, Nodes: f.nodes, Namespace: namespace}
	if f.selector != "" {
		if goal.Selector, err = labels.Parse(f.selector); err != nil {
			return nil, fmt.Errorf("--selector: %w", err)
		}
	}
	if len(args) > 0 && namespace == "" {
		return nil, errors.New("give the namespace of the Services by -n: -A names none")
	}
	for _, arg := range args {
		service, err := parseService(arg, namespace)
		if err != nil {
			return nil, err
		}
		goal.Services = append(goal.Services, service.String())
	}
	if named := len(args) + len(f.pools) + len(f.nodes) + len(f.selector); f.all && named > 0 {
		return nil, errors.New("--all moves everything; leave the rest out")
	}
	return goal, nil
}

func (m *mover) start(ctx context.Context, f *moveInFlags, args []string) error {
	goal, err := m.goal(f, args)
	if err != nil {
		return err
	}
	what := "What is named moves to Tandem."
	if phase := m.snapshot.PhaseOf(); phase == "" || phase == live.Finished {
		if err := m.plan(f); err != nil {
			return err
		}
		what = "What gives addresses is stopped, and Tandem adopts them; what is named moves then."
	}
	unknown, err := m.snapshot.Unknown(goal)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("there is no %s that could move: a Service moves if an address of it is announced on layer 2, and a Node by its BGP sessions; "+
			"kubectl tandem move-in plan lists them", strings.Join(unknown, ", "))
	}
	next := func(s *live.Snapshot) (live.Action, error) { return live.Start(s, *goal, f.keepInUse) }
	if err := m.confirm(f, next, what); err != nil {
		return err
	}
	if err := m.run(ctx, next); err != nil {
		return err
	}
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	moved := 0
	for _, u := range status.Units {
		if u.State == "Tandem" {
			moved++
		}
	}
	m.out.Printf("%s %d of %s moved. Next: %s.\n", m.out.Paint(terminal.Green, "DONE:"), moved, plural(len(status.Units), "unit has", "units have"), status.Next)
	return nil
}

// printMoveInPlan prints a plan.
func printMoveInPlan(out *terminal.Printer, plan *live.Plan) {
	colours := map[movein.Level]terminal.Colour{movein.Error: terminal.Red, movein.Lost: terminal.Red, movein.Warn: terminal.Yellow}
	for _, m := range plan.Messages {
		if m.Level != movein.Info {
			out.Printf("%s %s\n", out.Paint(colours[m.Level], m.Level.String()), strings.TrimPrefix(m.String(), m.Level.String()+" "))
		}
	}
	table := &terminal.Table{Header: []string{"SERVICE", "ADDRESSES", "POOL", "NOW", "UNIT", "ITS TRAFFIC NOTICES"}}
	for _, s := range plan.Services {
		units := slices.DeleteFunc(slices.Clone(s.Units), func(u string) bool { return strings.HasPrefix(u, "node ") })
		if len(units) < len(s.Units) {
			units = append(units, "each node")
		}
		table.Add(s.Service, join(s.Addresses), strings.Join(s.Pools, ", "), s.Now, strings.Join(units, ", "), s.Notices)
	}
	out.Table("", table)
	if len(plan.Nodes) > 0 {
		out.Printf("BGP sessions move node by node: %s\n", strings.Join(plan.Nodes, ", "))
	}
	switch plan.Smallest {
	case "all":
		out.Printf("%s can only be stopped whole: all Services move in one step, and both announce them until it has stopped.\n", plan.From)
	case "pool":
		out.Printf("This %s can be stopped for a pool, and for no single Service: both announce a pool until it has stopped.\n", plan.From)
	}
	out.Printf("Objects to be made: %s\n", strings.Join(plan.Objects, ", "))
	if plan.Refused {
		out.Printf("%s the errors say what to do first.\n", out.Paint(terminal.Red, "THE MOVE CANNOT START:"))
	}
}

// moveInStatus is what `move-in status` prints for programs.
type moveInStatus struct {
	*live.Status
	// Runner is the command that works on the move, nil for none.
	Runner *apply.Runner `json:"runner,omitempty"`
}

// printMoveIn prints how far a move is.
func printMoveIn(out *terminal.Printer, status *live.Status, runner *apply.Runner) {
	if status.Phase == "" {
		out.Printf("There is no move.\n")
	} else {
		out.Printf("Phase %s\n", status.Phase)
	}
	if runner != nil {
		ended := ""
		if runner.Dead {
			ended = ", and counts as dead"
		}
		out.Printf("At work since %s: %s, heard of at %s%s\n", runner.Since.UTC().Format(time.RFC3339), runner.Identity,
			runner.Renewed.UTC().Format(time.RFC3339), ended)
	}
	colours := map[string]terminal.Colour{"Tandem": terminal.Green, "moving": terminal.Yellow}
	table := &terminal.Table{Header: []string{"UNIT", "ANNOUNCED BY", "SERVICES"}}
	for _, u := range status.Units {
		table.AddCells(terminal.Cell{Text: u.Name}, terminal.Cell{Text: u.State, Colour: colours[u.State]}, terminal.Cell{Text: strings.Join(u.Services, ", ")})
	}
	out.Table("", table)
	out.Printf("Next: %s.\n", status.Next)
}
