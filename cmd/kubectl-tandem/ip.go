// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// ipReport is what `kubectl tandem ip` says of an address.
type ipReport struct {
	*overview.Address
	// History has what events say of the address, the newest first. The API server keeps events for an hour.
	History []happening `json:"history"`
}

// happening is an event that names an address.
type happening struct {
	Time    time.Time `json:"time"`
	Reason  string    `json:"reason"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
}

// historic are the reasons of the events that tell who had an address.
var historic = []string{
	ipamv1alpha1.EventAllocatedAddresses, ipamv1alpha1.EventReleasedAddresses, ipamv1alpha1.EventAnnouncingLayer2, ipamv1alpha1.EventAddressConflict,
	ipamv1alpha1.EventReservedAddress,
}

func ipCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "ip ADDRESS",
		Short: "Says who has an address, since when and why, and who had it",
		Long: "Says who has an address, since when and why, and who had it: by its claim, the Services, what speakers report, and the events of the last hour.\n\n" +
			"It exits with 1 if the address is a Service's and is not announced, or another machine has it too.",
		Example: "  kubectl tandem ip 198.51.100.200",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ip, err := netip.ParseAddr(args[0])
			if err != nil || ip.Zone() != "" {
				return fmt.Errorf("%q is no IP address; give one such as 198.51.100.200", args[0])
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			return p.ip(cmd.Context(), c, ip.Unmap())
		},
	}
}

func (p *plugin) ip(ctx context.Context, c *cluster.Cluster, ip netip.Addr) error {
	state, err := c.Read(ctx)
	if err != nil {
		return err
	}
	if err := c.Foreign(ctx, state, ip); err != nil {
		return err
	}
	var namespaces corev1.NamespaceList
	if err := c.Client.List(ctx, &namespaces); err != nil {
		return fmt.Errorf("reading the namespaces: %w", err)
	}
	of := map[string]labels.Set{}
	for i := range namespaces.Items {
		of[namespaces.Items[i].Name] = namespaces.Items[i].Labels
	}
	history, err := historyOf(ctx, c, ip)
	if err != nil {
		return err
	}
	report := ipReport{overview.AddressOf(state, ip, of), history}
	if err := p.print(report, func(out *terminal.Printer) { printAddress(out, state.Now, report) }); err != nil {
		return err
	}
	if report.Problem() {
		return terminal.ErrProblem
	}
	return nil
}

// historyOf returns the events that name an address, the newest first; none where they may not be read.
func historyOf(ctx context.Context, c *cluster.Cluster, ip netip.Addr) ([]happening, error) {
	history := []happening{}
	for _, reason := range historic {
		var events corev1.EventList
		if err := c.Client.List(ctx, &events, client.MatchingFields{"reason": reason}); apierrors.IsForbidden(err) {
			return history, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading events: %w", err)
		}
		for i := range events.Items {
			e := &events.Items[i]
			if names(e.Message, ip) {
				history = append(history, happening{
					Time: lastTime(e), Reason: reason, Object: e.InvolvedObject.Kind + " " + strings.TrimPrefix(e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "/"),
					Message: e.Message,
				})
			}
		}
	}
	slices.SortFunc(history, func(a, b happening) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Reason, b.Reason)) })
	return history, nil
}

// lastTime returns when an event happened last.
func lastTime(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// names reports whether a text has an address, as one word: 192.0.2.1 is not in a text that has 192.0.2.11.
func names(text string, ip netip.Addr) bool {
	isPart := func(r rune) bool { return strings.ContainsRune("0123456789abcdefABCDEF.:", r) }
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !isPart(r) }) {
		for _, w := range []string{word, strings.TrimRight(word, ".:")} {
			if a, err := netip.ParseAddr(w); err == nil && a == ip {
				return true
			}
		}
	}
	return false
}

// fact is a line of what is known of an address.
type fact struct {
	mark       terminal.Cell
	what, text string
}

var (
	well    = terminal.Cell{Text: "✓", Colour: terminal.Green}
	bad     = terminal.Cell{Text: "✗", Colour: terminal.Red}
	neither = terminal.Cell{Text: "–", Colour: terminal.Faint}
)

// printAddress prints a line for each fact, and then the history.
func printAddress(out *terminal.Printer, now time.Time, r ipReport) {
	out.Printf("%s   %s\n", out.Paint(terminal.Bold, r.Address.Address.String()), r.Family)
	t := &terminal.Table{}
	for _, f := range append(placeOf(r.Address), usersOf(now, r.Address)...) {
		t.AddCells(f.mark, terminal.Cell{Text: f.what}, terminal.Cell{Text: f.text})
	}
	out.Table("  ", t)
	if len(r.History) == 0 {
		return
	}
	out.Printf("\n%s\n", out.Paint(terminal.Bold, "HISTORY"))
	h := &terminal.Table{Header: []string{"AGO", "OBJECT", "EVENT", "MESSAGE"}}
	for _, e := range r.History {
		h.Add(age(now, e.Time), e.Object, e.Reason, e.Message)
	}
	out.Table("  ", h)
}

// placeOf says where an address belongs: to pools, or to somebody else.
func placeOf(a *overview.Address) (facts []fact) {
	switch {
	case len(a.Pools) > 0:
		facts = append(facts, fact{well, "pool", strings.Join(a.Pools, ", ")})
	case len(a.Excluded) > 0:
	default:
		facts = append(facts, fact{neither, "pool", "no pool contains it"})
	}
	if len(a.Excluded) > 0 {
		facts = append(facts, fact{neither, "excluded", "by pool " + strings.Join(a.Excluded, ", ")})
	}
	for _, owner := range a.Reserved {
		facts = append(facts, fact{neither, "reserved", "it is the " + owner + ", and is given to no Service"})
	}
	if a.Foreign != "" {
		facts = append(facts, fact{neither, "claimed", "an IPAddress stands for it that is not Tandem's: " + a.Foreign})
	}
	for _, c := range a.Conflicts {
		facts = append(facts, fact{bad, "conflict", "another machine has it: " + c})
	}
	return facts
}

// usersOf says who has an address, and who had it.
func usersOf(now time.Time, a *overview.Address) (facts []fact) {
	if !a.Claimed.IsZero() {
		facts = append(facts, fact{well, "claimed", fmt.Sprintf("from pool %s, %s ago", a.Pool, age(now, a.Claimed))})
	}
	for _, u := range a.Users {
		facts = append(facts, fact{well, "Service", fmt.Sprintf("%s: %s", u.Service, u.Why)})
		if !u.Published {
			facts = append(facts, fact{bad, "published", "the status of " + u.Service + " does not show it"})
		}
		switch {
		case !u.Announced:
			facts = append(facts, fact{bad, "announced", u.Message})
		case u.Since.IsZero():
			facts = append(facts, fact{well, "announced", u.Message})
		default:
			facts = append(facts, fact{well, "announced", fmt.Sprintf("by %s on %s, for %s", u.By, strings.Join(u.Interfaces, ", "), age(now, u.Since))})
		}
	}
	if a.Unanswered != "" {
		facts = append(facts, fact{bad, "answers", a.Unanswered})
	}
	for _, l := range a.Left {
		facts = append(facts, fact{neither, "was", fmt.Sprintf("of Service %s, which left it %s ago", l.Service, age(now, l.At))})
	}
	switch {
	case len(a.Users) > 0:
	case a.Free.After(now):
		facts = append(facts, fact{neither, "waits", fmt.Sprintf("for a Service of the same name, for %s more, as reuseAfter of the pool says", age(a.Free, now))})
	case !a.Claimed.IsZero():
		facts = append(facts, fact{neither, "waits", "no Service publishes it: it is about to be published, or to be released"})
	case len(a.Reserved) == 0 && len(a.Pools) > 0 && a.Foreign == "":
		facts = append(facts, fact{well, "free", "no Service has it"})
	}
	return facts
}
