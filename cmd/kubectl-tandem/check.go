// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/version"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/check"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func checkCommand(p *plugin) *cobra.Command {
	strict, ask, timeout := false, true, time.Minute
	cmd := &cobra.Command{
		Use:   "check [service/NAME]",
		Short: "Looks at the installation step by step, and says what to do about what is wrong",
		Long: `Looks at everything between Tandem's installation and an answer: kinds, versions, programs, nodes, gossip, links, sessions, pools, Services, sysctls,
kube-proxy, the pod network and other load balancers. Each step is PASS, WARN, FAIL or SKIP, with what to do. The exit code is 1 if a step fails, and 2 if
the cluster or Tandem's objects cannot be read.

With a Service it connects to each of its addresses from this machine, too. One without an address fails, and one without a TCP port is skipped.

What is read with the ClusterRole tandem-view is enough for most steps. The others need a view of the Pods, ConfigMaps and workloads of the cluster, as
the role view gives it, and the right to create pods/portforward in the namespace of Tandem: speakers tell what they see of their nodes. Steps
whose rights are missing are skipped.`,
		Example: "  kubectl tandem check\n  kubectl tandem check service/web --strict",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
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
			return p.check(ctx, o, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "A step that warns counts as one that fails.")
	cmd.Flags().BoolVar(&ask, "ask-speakers", true, "Ask speakers by port-forward for what they see of their nodes.")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long all steps may take.")
	return cmd
}

func (p *plugin) check(ctx context.Context, o check.Options, strict bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	in := check.Gather(ctx, c, o)
	if err := in.Unread(); err != nil {
		return err
	}
	if o.Service.Name != "" && in.Service == "" {
		return noBalancer(ctx, c, o.Service.Namespace, o.Service.Name)
	}
	steps := check.Run(in)
	if err := p.print(steps, func(out *terminal.Printer) { printSteps(out, steps) }); err != nil {
		return err
	}
	if apierrors.IsForbidden(in.StateErr) {
		return in.StateErr // Most of it could not be looked at.
	}
	if worst := check.Worst(steps); worst == check.Fail || strict && worst == check.Warn {
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
