// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func poolsCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "pools",
		Short: "Shows how full each pool is, a line for each family, and what is the matter with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			pools := overview.Pools(state)
			if err := p.print(pools, func(out *terminal.Printer) {
				if len(pools) == 0 {
					out.Printf("There is no AddressPool.\n")
					return
				}
				printPools(out, "", pools, true)
				printNotes(out, pools)
			}); err != nil {
				return err
			}
			if countIf(pools, func(p overview.Pool) bool { return p.Problem != "" }) > 0 {
				return terminal.ErrProblem
			}
			return nil
		},
	}
}

// printPools prints a row for each partition; ranges only if wide.
func printPools(out *terminal.Printer, indent string, pools []overview.Pool, wide bool) {
	header := []string{"POOL", "FAMILY", "USE", "TAKEN", "COOLING", "FREE"}
	if wide {
		header = append(header, "RANGES")
	}
	t := &terminal.Table{Header: append(header, "WRONG")}
	for _, p := range pools {
		percent, colour := p.Percent(), terminal.Green
		switch {
		case percent >= 95 || p.Problem != "":
			colour = terminal.Red
		case percent >= 75:
			colour = terminal.Yellow
		}
		row := []terminal.Cell{
			{Text: p.Name},
			{Text: p.Family},
			{Text: bar(percent), Colour: colour},
			{Text: number(p.Allocated)},
			{Text: number(p.Cooling)},
			{Text: number(p.Available)},
		}
		if wide {
			row = append(row, terminal.Cell{Text: strings.Join(p.Ranges, ", ")})
		}
		t.AddCells(append(row, terminal.Cell{Text: p.Problem, Colour: terminal.Red})...)
	}
	if len(pools) > 0 {
		out.Table(indent, t)
	}
}

// printNotes prints what else is to be said of each pool, once for both families.
func printNotes(out *terminal.Printer, pools []overview.Pool) {
	for i, p := range pools {
		if i > 0 && pools[i-1].Name == p.Name || len(p.Notes) == 0 {
			continue
		}
		out.Printf("\n%s\n", out.Paint(terminal.Bold, p.Name))
		for _, note := range p.Notes {
			out.Printf("  %s\n", note)
		}
	}
}

// barWidth is how many characters a bar has.
const barWidth = 20

// bar draws how full something is: "█████░░░░░░░░░░░░░░░  27%". What is not empty has one character at least, and what is not full one free at least.
func bar(percent int) string {
	full := percent * barWidth / 100
	if percent > 0 {
		full = max(full, 1)
	}
	return fmt.Sprintf("%s%s %3d%%", strings.Repeat("█", full), strings.Repeat("░", barWidth-full), percent)
}

// number writes a count: whole up to six digits, 9.2e18 beyond, and the largest one, at which counts stop, with a ">".
func number(n int64) string {
	switch {
	case n == math.MaxInt64:
		return ">9.2e18"
	case n >= 1_000_000:
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(float64(n), 'e', 1, 64), "e+")
		return mantissa + "e" + strings.TrimPrefix(exponent, "0")
	}
	return strconv.FormatInt(n, 10)
}
