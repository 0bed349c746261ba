// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

// holding is which node answers for a Service on layer 2.
type holding struct {
	Namespace  string    `json:"namespace"`
	Service    string    `json:"service"`
	Node       string    `json:"node,omitempty"` // "" between two holders
	Addresses  []string  `json:"addresses"`
	Interfaces []string  `json:"interfaces"`
	Since      time.Time `json:"since,omitzero"`
	// Target is the node that is to take the addresses over by hand.
	Target string `json:"target,omitempty"`
	// Problem says why nobody answers, or another machine, "" if all is well.
	Problem string `json:"problem,omitempty"`
}

func l2Command(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:     "l2",
		Aliases: []string{"layer2"},
		Short:   "Shows which node answers for which Service on layer 2, and since when",
		Long: "Shows which node answers for which Service of a namespace, or with -A of all, on layer 2, and since when.\n\n" +
			"It exits with 1 if nobody answers for a Service that is on record, or another machine does too.",
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
			all := holdings(state, namespace)
			if err := p.print(all, func(out *terminal.Printer) { p.printHoldings(out, state.Now, all, namespace) }); err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(h holding) bool { return h.Problem != "" }) {
				return terminal.ErrProblem
			}
			return nil
		},
	}
}

// holdings returns what is on record on layer 2 for the Services of a namespace, "" for all.
func holdings(s *cluster.State, namespace string) []holding {
	conflicts := map[string]string{} // by address, who has it
	for i := range s.Speakers.Items {
		for _, c := range s.Speakers.Items[i].Status.Conflicts {
			conflicts[c.Address] = fmt.Sprintf("%s on %s of %s has %s too", c.MAC, c.Interface, s.Speakers.Items[i].Name, c.Address)
		}
	}
	all := []holding{}
	for i := range s.Announcements.Items {
		a := &s.Announcements.Items[i]
		if namespace != "" && a.Service.Namespace != namespace {
			continue
		}
		h := holding{
			Namespace: a.Service.Namespace, Service: a.Service.Name, Node: a.Status.Node, Addresses: a.Status.Addresses, Interfaces: a.Status.Interfaces,
			Target: a.Spec.Target,
		}
		if a.Status.Since != nil {
			h.Since = a.Status.Since.Time
		}
		for _, f := range s.Diagnoser.Service(types.NamespacedName{Namespace: h.Namespace, Name: h.Service}, true) {
			if !f.Announced && slices.Contains(h.Addresses, f.Address.String()) {
				h.Problem = f.Message
			}
		}
		for _, address := range h.Addresses {
			h.Problem = cmp.Or(h.Problem, conflicts[address])
		}
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b holding) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service))
	})
	return all
}

func (p *plugin) printHoldings(out *terminal.Printer, now time.Time, all []holding, namespace string) {
	if len(all) == 0 {
		where := "; -A looks at all namespaces"
		if namespace == "" {
			where = ""
		}
		out.Printf("No node answers for a Service on layer 2%s.\n", where)
		return
	}
	wide := p.output == outputWide
	header := []string{"SERVICE", "NODE", "SINCE", "ADDRESSES"}
	if namespace == "" {
		header = append([]string{"NAMESPACE"}, header...)
	}
	if wide {
		header = append(header, "INTERFACES", "TARGET")
	}
	t := &terminal.Table{Header: append(header, "WRONG")}
	for _, h := range all {
		row := []terminal.Cell{{Text: h.Service}, {Text: cmp.Or(h.Node, "none")}, {Text: age(now, h.Since)}, {Text: strings.Join(h.Addresses, ",")}}
		if namespace == "" {
			row = append([]terminal.Cell{{Text: h.Namespace}}, row...)
		}
		if wide {
			row = append(row, terminal.Cell{Text: strings.Join(h.Interfaces, ",")}, terminal.Cell{Text: h.Target})
		}
		t.AddCells(append(row, terminal.Cell{Text: h.Problem, Colour: terminal.Red})...)
	}
	out.Table("", t)
}
