// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

const (
	// mostShown is how many rows of a table `status` shows, so that the whole fits on a screen. With -o wide it shows all.
	mostShown = 12
	// period is how often --watch looks again.
	period = 2 * time.Second
)

func statusCommand(p *plugin) *cobra.Command {
	watch := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows pools, speakers, sessions and Services on one screen, and says whether all is well",
		Long: "Shows pools, speakers, sessions and Services of the whole cluster on one screen, and says in the last line whether all is well.\n\n" +
			"It exits with 0 if all is well, with 1 if something is wrong, and with 2 if it could not tell. It needs the rights of the ClusterRole tandem-view.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return p.watch(cmd.Context(), period)
			}
			return p.status(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "Show it again every two seconds, until interrupted.")
	return cmd
}

// status prints the status once.
func (p *plugin) status(ctx context.Context) error {
	state, err := p.read(ctx)
	if err != nil {
		return err
	}
	o := overview.Of(state)
	if err := p.print(o, func(out *terminal.Printer) { printStatus(out, o, p.output == outputWide) }); err != nil {
		return err
	}
	if len(o.Problems) > 0 {
		return terminal.ErrProblem
	}
	return nil
}

// watch prints the status again and again, each time over the one before on a terminal, until the context ends. An error of one reading is shown, and
// the next one is tried: the API server may be restarting.
func (p *plugin) watch(ctx context.Context, period time.Duration) error {
	out := terminal.NewPrinter(p.Out)
	for {
		out.Clear()
		err := p.status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		terminal.ExitCode(p.ErrOut, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(period):
		}
	}
}

// printStatus prints an Overview on one screen, or all of it if wide.
func printStatus(out *terminal.Printer, o *overview.Overview, wide bool) {
	leader := "nobody leads"
	if o.Leader.Name != "" {
		leader = fmt.Sprintf("%s leads, heard of %s ago", o.Leader.Name, age(o.Time, o.Leader.Renewed))
	}
	out.Printf("%s in %s; %s\n", out.Paint(terminal.Bold, "Tandem"), o.Namespace, leader)
	section := func(title, count string) { out.Printf("\n%s   %s\n", out.Paint(terminal.Bold, title), count) }

	section("POOLS", plural(len(o.Pools), "partition", "partitions"))
	printPools(out, "  ", shorten(o.Pools, wide, func(p overview.Pool) bool { return p.Problem != "" }), wide)

	alive := countIf(o.Speakers, func(s overview.Speaker) bool { return s.Alive })
	section("SPEAKERS", fmt.Sprintf("%d of %d alive", alive, len(o.Speakers)))
	printSpeakers(out, o, wide)

	if len(o.Sessions) > 0 {
		established := countIf(o.Sessions, func(s overview.Session) bool { return s.State == "Established" })
		section("SESSIONS", fmt.Sprintf("%d of %d established", established, len(o.Sessions)))
		printPeers(out, o)
	}
	printServicesOf(out, o, wide, section)
	if len(o.Configuration) > 0 {
		section("CONFIGURATION", plural(len(o.Configuration), "object has no effect", "objects have no effect"))
		t := &terminal.Table{Header: []string{"OBJECT", "CONDITION", "REASON", "WHY"}}
		for _, c := range o.Configuration {
			t.AddCells(terminal.Cell{Text: c.Kind + "/" + c.Name}, terminal.Cell{Text: c.Condition + "=False"},
				terminal.Cell{Text: c.Reason, Colour: terminal.Red}, terminal.Cell{Text: c.Message})
		}
		out.Table("  ", t)
	}
	out.Printf("\n")
	if len(o.Problems) == 0 {
		out.Printf("%s all is well\n", out.Paint(terminal.Green, "✓"))
		return
	}
	out.Printf("%s %s\n", out.Paint(terminal.Red, "✗"), strings.Join(o.Problems, "; "))
}

// printSpeakers prints the speakers, and below each what is wrong with it.
func printSpeakers(out *terminal.Printer, o *overview.Overview, wide bool) {
	header := []string{"NODE", "STATE", "SEEN BY", "LAYER 2", "BGP"}
	if wide {
		header = append(header, "ADDRESSES")
	}
	t := &terminal.Table{Header: append(header, "NOTES")}
	unwell := func(s overview.Speaker) bool {
		return !s.Alive || s.Draining != "" || len(s.Problems) > 0 || len(s.NotSeenBy) > 0
	}
	shown := shorten(o.Speakers, wide, unwell)
	for _, s := range shown {
		state := terminal.Cell{Text: "alive", Colour: terminal.Green}
		switch {
		case !s.Alive:
			state = terminal.Cell{Text: "dead", Colour: terminal.Red}
		case s.Draining != "":
			state = terminal.Cell{Text: "draining", Colour: terminal.Yellow}
		}
		notes := s.Problems
		if s.Draining != "" {
			notes = append([]string{s.Draining}, notes...)
		}
		if s.Alive && len(s.NotSeenBy) > 0 {
			notes = append(notes, "not seen by "+strings.Join(s.NotSeenBy, ", "))
		}
		row := []terminal.Cell{
			{Text: s.Node},
			state,
			{Text: fmt.Sprintf("%d of %d", len(s.SeenBy), len(s.SeenBy)+len(s.NotSeenBy))},
			{Text: fmt.Sprint(s.Layer2)},
			{Text: fmt.Sprintf("%d/%d", s.Established, s.Sessions)},
		}
		if wide {
			row = append(row, terminal.Cell{Text: strings.Join(s.Addresses, ", ")})
		}
		t.AddCells(append(row, terminal.Cell{Text: strings.Join(notes, "; "), Colour: terminal.Yellow})...)
	}
	out.Table("  ", t)
	more(out, len(o.Speakers)-len(shown), "kubectl tandem status -o wide")
}

// printPeers prints a row for each peer, with the sessions that are not as they should be.
func printPeers(out *terminal.Printer, o *overview.Overview) {
	t := &terminal.Table{Header: []string{"PEER", "ESTABLISHED", "IPV4", "IPV6", "WRONG"}}
	for first := 0; first < len(o.Sessions); {
		last := first
		for last < len(o.Sessions) && o.Sessions[last].Peer == o.Sessions[first].Peer {
			last++
		}
		sessions := o.Sessions[first:last]
		established, ipv4, ipv6 := 0, int32(0), int32(0)
		var problems []string
		for _, s := range sessions {
			if s.State == "Established" {
				established++
			}
			ipv4, ipv6 = max(ipv4, s.AdvertisedIPv4), max(ipv6, s.AdvertisedIPv6)
			if s.Problem != "" {
				problems = append(problems, fmt.Sprintf("%s: %s for %s (%s)", s.Node, s.State, age(o.Time, s.Since), s.Problem))
			}
		}
		if n := len(problems); n > 2 {
			problems = append(problems[:2], fmt.Sprintf("and %d more", n-2))
		}
		t.AddCells(terminal.Cell{Text: sessions[0].Peer}, terminal.Cell{Text: fmt.Sprintf("%d of %d", established, len(sessions))},
			terminal.Cell{Text: fmt.Sprint(ipv4)}, terminal.Cell{Text: fmt.Sprint(ipv6)},
			terminal.Cell{Text: strings.Join(problems, "; "), Colour: terminal.Red})
		first = last
	}
	out.Table("  ", t)
}

// printServicesOf prints how many Services there are in each state, and those with which something is wrong.
func printServicesOf(out *terminal.Printer, o *overview.Overview, wide bool, section func(title, count string)) {
	counts := map[overview.ServiceState]int{}
	for _, s := range o.Services {
		counts[s.State]++
	}
	var states []string
	for _, s := range []struct {
		state overview.ServiceState
		text  string
	}{
		{overview.Announced, "announced"},
		{overview.Waiting, "waiting for addresses"},
		{overview.NotAnnounced, "not announced"},
		{overview.Unanswered, "without an answer on the LAN"},
		{overview.Deleting, "being deleted"},
	} {
		if counts[s.state] > 0 {
			states = append(states, fmt.Sprintf("%d %s", counts[s.state], s.text))
		}
	}
	section("SERVICES", cmp.Or(strings.Join(states, ", "), "none"))
	problems := slices.DeleteFunc(slices.Clone(o.Services), func(s overview.Service) bool { return !s.Problem() })
	shown := problems
	if !wide {
		shown = problems[:min(len(problems), mostShown)]
	}
	if len(shown) > 0 {
		printServices(out, "  ", o.Time, shown, true, false)
	}
	more(out, len(problems)-len(shown), "kubectl tandem services --problems -A")
}

// shorten returns a list as it is, or if it is long and not all of it is wanted, the elements that are worth a look and then the first others.
func shorten[T any](list []T, all bool, worthALook func(T) bool) []T {
	if all || len(list) <= mostShown {
		return list
	}
	var first, others []T
	for _, e := range list {
		if worthALook(e) {
			first = append(first, e)
		} else {
			others = append(others, e)
		}
	}
	return append(first, others...)[:mostShown]
}

// more says how to see the rows that are left out, if there are any.
func more(out *terminal.Printer, n int, command string) {
	if n > 0 {
		out.Printf("  … and %d more: %s\n", n, command)
	}
}

func countIf[T any](list []T, is func(T) bool) (n int) {
	for _, e := range list {
		if is(e) {
			n++
		}
	}
	return n
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// age says how long something has been, as kubectl does: "5m". Of a time that is not known it says "?".
func age(now, then time.Time) string {
	if then.IsZero() {
		return "?"
	}
	return duration.HumanDuration(now.Sub(then))
}
