// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/externalips"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func externalIPsCommand(p *plugin) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "externalips",
		Short: "Shows Services with spec.externalIPs, and which of their addresses Tandem can adopt",
		Long: "Shows the Services of a namespace, or with -A of all, that have spec.externalIPs: who answers for each address, as far " +
			"as Kubernetes knows, and\n" +
			"whether it can be adopted. An address can be if an AddressPool has it that consents (spec.adoptExternalIPs: true) and " +
			"that the Service may\n" +
			"use, and if no Node and no other Service has it.\n\nIt takes the right to list Services, Nodes, Namespaces, IPAddresses, " +
			"AddressPools and SpeakerStatuses.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, findings, err := p.externalIPs(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(findings, func(out *terminal.Printer) { printExternalIPs(out, findings) })
		},
	}
	all, dryRun, timeout := false, false, time.Minute
	adopt := &cobra.Command{
		Use:   "adopt (NAME... | --all)",
		Short: "Makes load balancers of Services with spec.externalIPs, which keep their addresses",
		Long: "Makes a load balancer of each Service, which asks for its external address, waits until the Service shows it, and then " +
			"takes it out of\n" +
			"spec.externalIPs. Nodes take the traffic all the while. What brought it to the nodes before, such as a static route, is " +
			"yours to take away.\n" +
			"A Service that does not show its address in time keeps both fields.",
		Example: "  kubectl tandem externalips adopt web\n  kubectl tandem externalips adopt --all -A --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("name Services, or give --all")
			}
			return p.adopt(cmd.Context(), args, dryRun, timeout)
		},
	}
	adopt.Flags().BoolVar(&all, "all", false, "All Services of the namespace, or with -A of all.")
	adopt.Flags().BoolVar(&dryRun, "dry-run", false, "Say what would be done, and change nothing.")
	adopt.Flags().DurationVar(&timeout, "timeout", timeout, "How long to wait for the addresses of each Service.")
	cmd.AddCommand(adopt)
	return cmd
}

// externalIPs returns the external addresses of the Services that the flags name.
func (p *plugin) externalIPs(ctx context.Context) (client.Client, []externalips.Finding, error) {
	namespace, err := p.namespace()
	if err != nil {
		return nil, nil, err
	}
	c, err := p.connect()
	if err != nil {
		return nil, nil, err
	}
	objects, err := externalips.Read(ctx, c.Client)
	if err != nil {
		return nil, nil, err
	}
	findings := slices.DeleteFunc(externalips.Find(objects),
		func(f externalips.Finding) bool { return namespace != "" && f.Namespace != namespace })
	return c.Client, findings, nil
}

func printExternalIPs(out *terminal.Printer, findings []externalips.Finding) {
	if len(findings) == 0 {
		out.Printf("No Service has spec.externalIPs.\n")
		return
	}
	table := &terminal.Table{Header: []string{"NAMESPACE", "NAME", "ADDRESS", "ANSWERS", "POOL", "ADOPTION"}}
	for _, f := range findings {
		adoption := terminal.Cell{Text: "can be adopted", Colour: terminal.Green}
		if f.Refused != "" {
			adoption = terminal.Cell{Text: f.Refused, Colour: terminal.Yellow}
		}
		answers := f.AnnouncedBy
		if answers == "" {
			answers = "nobody known"
		}
		table.AddCells(terminal.Cell{Text: f.Namespace}, terminal.Cell{Text: f.Name}, terminal.Cell{Text: f.Address},
			terminal.Cell{Text: answers},
			terminal.Cell{Text: f.Pool}, adoption)
	}
	out.Table("", table)
}

// adopt adopts what can be adopted of the Services, one after the other. Its error is ErrProblem if an address cannot be.
func (p *plugin) adopt(ctx context.Context, names []string, dryRun bool, timeout time.Duration) error {
	if namespace, err := p.namespace(); err != nil || namespace == "" && len(names) > 0 {
		return cmp.Or(err, errors.New("give the namespace of the Services by -n: -A names none"))
	}
	c, findings, err := p.externalIPs(ctx)
	if err != nil {
		return err
	}
	out := terminal.NewPrinter(p.Out)
	var keys []client.ObjectKey
	addresses := map[client.ObjectKey][]string{}
	problem := false
	for _, f := range findings {
		key := client.ObjectKey{Namespace: f.Namespace, Name: f.Name}
		switch {
		case len(names) > 0 && !slices.Contains(names, f.Name):
			continue
		case f.Refused != "":
			problem = true
			out.Printf("%s %s of %s: %s\n", out.Paint(terminal.Yellow, "LEFT:"), f.Address, key, f.Refused)
			continue
		case addresses[key] == nil:
			keys = append(keys, key)
		}
		addresses[key] = append(addresses[key], f.Address)
	}
	for _, name := range names {
		if !slices.ContainsFunc(findings, func(f externalips.Finding) bool { return f.Name == name }) {
			return fmt.Errorf("there is no Service %s with spec.externalIPs", name)
		}
	}
	for _, key := range keys {
		if dryRun {
			out.Printf("%s would keep %s as a load balancer.\n", key, list(addresses[key]))
			continue
		}
		if err := adoptOne(ctx, c, key, addresses[key], timeout); err != nil {
			return err
		}
		out.Printf("%s %s is a load balancer with %s. To go back: write spec.externalIPs again, then spec.type as it was.\n",
			out.Paint(terminal.Green, "ADOPTED:"), key, list(addresses[key]))
	}
	if problem {
		return terminal.ErrProblem
	}
	return nil
}

func adoptOne(ctx context.Context, c client.Client, key client.ObjectKey, addresses []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return externalips.Adopt(ctx, c, key, addresses)
}
