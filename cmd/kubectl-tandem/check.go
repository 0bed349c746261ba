// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/version"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/check"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func checkCommand(p *plugin) *cobra.Command {
	strict, ask, timeout, wait := false, true, time.Minute, time.Duration(0)
	var left []string
	cmd := &cobra.Command{
		Use:   "check [service/NAME]",
		Short: "Looks at the installation step by step, and says what to do about what is wrong",
		Long: `Looks at everything between Tandem's installation and an answer: kinds, versions, programs, nodes, gossip, links, sessions, pools, Services, sysctls,
kube-proxy, the pod network and other load balancers. Each step is PASS, WARN, FAIL or SKIP, with what to do. The exit code is 1 if a step fails, and 2 if
the cluster or Tandem's objects cannot be read.

With --wait it looks again and again until no step fails, as after an installation. --skip leaves a step out, such as "Services" where a Service that
waits for its users is no fault of Tandem.

With a Service it connects to each of its addresses from this machine, too. One without an address fails, and one without a TCP port is skipped.

What is read with the ClusterRole tandem-view is enough for most steps. The others need a view of the Pods, ConfigMaps and workloads of the cluster, as
the role view gives it, and the right to create pods/portforward in the namespace of Tandem: speakers tell what they see of their nodes. Steps
whose rights are missing are skipped.`,
		Example: "  kubectl tandem check\n  kubectl tandem check service/web --strict\n  kubectl tandem check --wait 2m",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := check.Options{Plugin: version.Get().GitVersion, System: p.system, Ask: ask}
			if len(args) > 0 {
				namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
				if err != nil {
					return err
				}
				if o.Service, err = parseService(args[0], namespace); err != nil {
					return err
				}
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			look := func() (*looked, error) {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				return lookOnce(ctx, c, o, left)
			}
			l, err := lookUntil(cmd.Context(), time.After(wait), look)
			if err != nil {
				return err
			}
			return p.printChecks(l, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "A step that warns counts as one that fails.")
	cmd.Flags().BoolVar(&ask, "ask-speakers", true, "Ask speakers by port-forward for what they see of their nodes.")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long all steps may take.")
	cmd.Flags().DurationVar(&wait, "wait", 0, "Look again until no step fails, for so long at most.")
	cmd.Flags().StringArrayVar(&left, "skip", nil, "Leave out the step of this name. May be given several times.")
	return cmd
}

// looked is what came of looking at all steps once.
type looked struct {
	steps  []check.Step
	unread error // why most could not be looked at, nil if it could; without any step nothing could
}

// again is how long after a step has failed --wait looks once more.
const again = 2 * time.Second

// lookUntil looks until no step fails and all could be read, or until the wait is over. It returns what the last look has found, and at once an error of
// what the user has typed.
func lookUntil(ctx context.Context, over <-chan time.Time, look func() (*looked, error)) (*looked, error) {
	for {
		l, err := look()
		if err != nil || l.unread == nil && check.Worst(l.steps) != check.Fail {
			return l, err
		}
		select {
		case <-ctx.Done():
			return l, nil
		case <-over:
			return l, nil
		case <-time.After(again):
		}
	}
}

// lookOnce looks at all steps, but for those that are left out.
func lookOnce(ctx context.Context, c *cluster.Cluster, o check.Options, left []string) (*looked, error) {
	in := check.Gather(ctx, c, o)
	if err := in.Unread(); err != nil {
		return &looked{unread: err}, nil
	}
	if o.Service.Name != "" && in.Service == "" {
		return nil, noBalancer(ctx, c, o.Service.Namespace, o.Service.Name)
	}
	l := &looked{steps: check.Run(in)}
	if apierrors.IsForbidden(in.StateErr) {
		l.unread = in.StateErr
	}
	for _, name := range left {
		i := slices.IndexFunc(l.steps, func(s check.Step) bool { return s.Name == name })
		switch {
		case i >= 0:
			l.steps[i] = check.Step{Name: name, Result: check.Skip, Message: "left out by --skip"}
		case in.State != nil: // Otherwise there are not all steps.
			names := make([]string, len(l.steps))
			for j, s := range l.steps {
				names[j] = s.Name
			}
			return nil, fmt.Errorf("--skip: there is no step %q; the steps are %s", name, strings.Join(names, ", "))
		}
	}
	return l, nil
}

// printChecks prints the steps. The error is the exit code.
func (p *plugin) printChecks(l *looked, strict bool) error {
	if len(l.steps) == 0 {
		return l.unread
	}
	if err := p.print(l.steps, func(out *terminal.Printer) { printSteps(out, l.steps) }); err != nil {
		return err
	}
	if l.unread != nil {
		return l.unread // Most of it could not be looked at.
	}
	if worst := check.Worst(l.steps); worst == check.Fail || strict && worst == check.Warn {
		return terminal.ErrProblem
	}
	return nil
}

func printSteps(out *terminal.Printer, steps []check.Step) {
	colours := map[check.Result]terminal.Colour{
		check.Pass: terminal.Green, check.Skip: terminal.Faint, check.Warn: terminal.Yellow, check.Fail: terminal.Red,
	}
	results := map[check.Result]int{}
	for _, s := range steps {
		results[s.Result]++
		out.Printf("%s  %s: %s\n", out.Paint(colours[s.Result], string(s.Result)), s.Name, s.Message)
		if s.Fix != "" {
			out.Printf("      → %s\n", s.Fix)
		}
	}
	out.Printf("%d passed, %d warned, %d failed, %d skipped\n", results[check.Pass], results[check.Warn], results[check.Fail], results[check.Skip])
}
