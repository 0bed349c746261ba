// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func servicesCommand(p *plugin) *cobra.Command {
	problems := false
	cmd := &cobra.Command{
		Use:     "services",
		Aliases: []string{"svc"},
		Short:   "Shows the Services that Tandem serves: their addresses, who announces them, and what is wrong",
		Long: "Shows the Services of a namespace that Tandem serves, or with -A of all: their addresses, who announces them, and what is wrong.\n\n" +
			"It exits with 1 if one of them waits for addresses, is not announced, or does not answer on the LAN.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace, err := p.namespace()
			if err != nil {
				return err
			}
			state, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			services := slices.DeleteFunc(overview.Services(state), func(s overview.Service) bool {
				return namespace != "" && s.Namespace != namespace || problems && !s.Problem()
			})
			if err := p.print(services, func(out *terminal.Printer) {
				if len(services) == 0 {
					out.Printf("%s\n", noServices(namespace, problems))
					return
				}
				printServices(out, "", state.Now, services, namespace == "", p.output == outputWide)
			}); err != nil {
				return err
			}
			if slices.ContainsFunc(services, overview.Service.Problem) {
				return terminal.ErrProblem
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&problems, "problems", false, "Only those that wait for addresses, are not announced, or do not answer on the LAN.")
	return cmd
}

// noServices says that there is nothing to show.
func noServices(namespace string, problems bool) string {
	text := "Tandem serves no Service"
	if problems {
		text = "No Service waits for addresses, and all are announced and answer"
	}
	if namespace != "" {
		text += " in namespace " + namespace + "; -A looks at all namespaces"
	}
	return text + "."
}

// printServices prints a row for each Service, with its namespace if there may be several, and with its pools and its age if wide.
func printServices(out *terminal.Printer, indent string, now time.Time, services []overview.Service, namespaces, wide bool) {
	header := []string{"NAME", "ADDRESSES", "STATE", "BY"}
	if namespaces {
		header = append([]string{"NAMESPACE"}, header...)
	}
	if wide {
		header = append(header, "POOLS", "AGE", "REASON")
	}
	t := &terminal.Table{Header: append(header, "WHY")}
	for _, s := range services {
		colour, why := terminal.Green, ""
		switch {
		case s.Problem():
			colour, why = terminal.Red, s.Message
		case s.State == overview.Deleting:
			colour, why = terminal.Yellow, s.Message
		}
		row := []terminal.Cell{
			{Text: s.Name}, {Text: strings.Join(s.Addresses, ",")}, {Text: string(s.State), Colour: colour}, {Text: s.By},
		}
		if namespaces {
			row = append([]terminal.Cell{{Text: s.Namespace}}, row...)
		}
		if wide {
			row = append(row, terminal.Cell{Text: strings.Join(s.Pools, ",")}, terminal.Cell{Text: age(now, s.Created)}, terminal.Cell{Text: s.Reason})
		}
		t.AddCells(append(row, terminal.Cell{Text: why})...)
	}
	out.Table(indent, t)
}
