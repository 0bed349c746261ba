// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
)

func bgpCommand(p *plugin) *cobra.Command {
	peers := bgpPeersCommand(p)
	cmd := &cobra.Command{
		Use:   "bgp",
		Short: "Shows BGP sessions, the routes that are to be announced, and those that were",
		Long:  "Shows BGP sessions, the routes that are to be announced, and those that were. Without a command it shows the sessions.",
		Args:  cobra.NoArgs,
		RunE:  peers.RunE,
	}
	cmd.AddCommand(peers, bgpRoutesCommand(p), bgpAdvertisedCommand(p))
	return cmd
}

func bgpPeersCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "Shows the session of each node with each peer, as speakers report it",
		Long: "Shows the session of each node with each peer, as speakers report it.\n\n" +
			"It exits with 1 if a session is not established, or withholds prefixes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			sessions := overview.Sessions(state)
			if err := p.print(sessions, func(out *terminal.Printer) { p.printSessions(out, state, sessions) }); err != nil {
				return err
			}
			if slices.ContainsFunc(sessions, func(s overview.Session) bool { return s.Problem != "" }) {
				return terminal.ErrProblem
			}
			return nil
		},
	}
}

// printSessions prints a row for each session, and says which peers no node has.
func (p *plugin) printSessions(out *terminal.Printer, state *cluster.State, sessions []overview.Session) {
	if len(state.Config.BGPPeers) == 0 {
		out.Printf("There is no BGPPeer.\n")
	}
	wide := p.output == outputWide
	header := []string{"PEER", "NODE", "ADDRESS", "AS", "STATE", "SINCE", "BFD", "IPV4", "IPV6", "WITHHELD"}
	if wide {
		header = append(header, "LOCAL ADDRESS", "FAMILIES", "NEXT HOPS", "GRACEFUL RESTART")
	}
	t := &terminal.Table{Header: append(header, "WRONG")}
	for _, s := range sessions {
		colour := terminal.Green
		switch {
		case s.Problem != "":
			colour = terminal.Red
		case s.State != "Established":
			colour = terminal.Yellow
		}
		as := ""
		if s.RemoteASN != 0 {
			as = fmt.Sprint(s.RemoteASN)
		}
		row := []terminal.Cell{
			{Text: s.Peer},
			{Text: s.Node},
			{Text: s.Address},
			{Text: as},
			{Text: s.State, Colour: colour},
			{Text: age(state.Now, s.Since)},
			{Text: s.BFD},
			{Text: fmt.Sprint(s.AdvertisedIPv4)},
			{Text: fmt.Sprint(s.AdvertisedIPv6)},
			{Text: fmt.Sprint(s.Withheld)},
		}
		if wide {
			for _, text := range []string{s.LocalAddress, strings.Join(s.Families, ","), strings.Join(s.NextHops, ","), yesNo(s.GracefulRestart)} {
				row = append(row, terminal.Cell{Text: text})
			}
		}
		t.AddCells(append(row, terminal.Cell{Text: s.Problem, Colour: terminal.Red})...)
	}
	if len(sessions) > 0 {
		out.Table("", t)
	}
	for i := range state.Config.BGPPeers {
		name := state.Config.BGPPeers[i].Name
		if !slices.ContainsFunc(sessions, func(s overview.Session) bool { return s.Peer == name }) {
			out.Printf("%s no node has a session with BGPPeer %s\n", out.Paint(terminal.Yellow, "–"), name)
		}
	}
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func bgpRoutesCommand(p *plugin) *cobra.Command {
	return &cobra.Command{
		Use:   "routes",
		Short: "Shows which prefixes are to be announced to which peers, by which nodes, and for which Services",
		Long: "Shows which prefixes are to be announced to which peers, by which nodes, and for which Services: what speakers decide, worked out of the API.\n" +
			"`kubectl tandem bgp advertised` asks the speakers what they have sent.\n\n" +
			"It exits with 1 if a session does not carry a prefix that it should.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			routes := overview.Routes(state)
			if err := p.print(routes, func(out *terminal.Printer) { printRoutes(out, routes) }); err != nil {
				return err
			}
			if slices.ContainsFunc(routes, func(r overview.Route) bool { return len(r.NotSentBy) > 0 }) {
				return terminal.ErrProblem
			}
			return nil
		},
	}
}

func printRoutes(out *terminal.Printer, routes []overview.Route) {
	if len(routes) == 0 {
		out.Printf("No address is to be announced by BGP.\n")
		return
	}
	t := &terminal.Table{Header: []string{"PREFIX", "PEER", "NODES", "SERVICES", "NOT SENT BY"}}
	for _, r := range routes {
		var problems []string
		for _, n := range r.NotSentBy {
			text := n.Node + ": " + n.Reason
			if n.Detail != "" {
				text += " (" + n.Detail + ")"
			}
			problems = append(problems, text)
		}
		t.AddCells(terminal.Cell{Text: r.Prefix.String()}, terminal.Cell{Text: r.Peer}, terminal.Cell{Text: strings.Join(r.Nodes, ",")},
			terminal.Cell{Text: few(r.Services)}, terminal.Cell{Text: strings.Join(problems, "; "), Colour: terminal.Red})
	}
	out.Table("", t)
}

// few lists the first of many names.
func few(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ",")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ","), len(names)-3)
}

// sentRoute is a route as the speaker of a node says it has sent it to a peer, or why not.
type sentRoute struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	lookingglass.Route
}

func bgpAdvertisedCommand(p *plugin) *cobra.Command {
	var node, peer string
	cmd := &cobra.Command{
		Use:   "advertised",
		Short: "Asks the speakers what they have sent to their peers, with all attributes",
		Long: "Asks the speakers what they have sent to their peers, with all attributes, and what they have not and why.\n\n" +
			"Speakers answer on loopback of their nodes, by a port-forward through the API server: beside tandem-view it takes the right to list pods and to create\n" +
			"pods/portforward in the namespace of Tandem. It exits with 1 if a route is not sent.",
		Example: "  kubectl tandem bgp advertised --node node1 --peer tor1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			state, err := c.Read(cmd.Context())
			if err != nil {
				return err
			}
			routes, err := advertised(cmd.Context(), c, state, node, peer)
			if err != nil && len(routes) == 0 {
				return err
			}
			if err := errors.Join(err, p.print(routes, func(out *terminal.Printer) { printSent(out, routes) })); err != nil {
				return err
			}
			if slices.ContainsFunc(routes, func(r sentRoute) bool { return !r.Sent }) {
				return terminal.ErrProblem
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "Ask the speaker of this node alone.")
	cmd.Flags().StringVar(&peer, "peer", "", "Ask for the routes to this BGPPeer alone.")
	return cmd
}

// askedAtOnce is how many speakers are asked side by side.
const askedAtOnce = 8

// advertised asks the speakers of the nodes that have sessions. The routes are by peer, node and prefix. The error is of the speakers that did not answer.
func advertised(ctx context.Context, c *cluster.Cluster, state *cluster.State, node, peer string) ([]sentRoute, error) {
	peers := map[string][]string{}
	for _, s := range overview.Sessions(state) {
		if s.State != overview.Unknown && (node == "" || s.Node == node) && (peer == "" || s.Peer == peer) {
			peers[s.Node] = append(peers[s.Node], s.Peer)
		}
	}
	if len(peers) == 0 {
		return nil, errors.New("no speaker that is alive has such a session; `kubectl tandem bgp peers` lists all")
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	routes, failures := []sentRoute{}, []error{}
	slots := make(chan struct{}, askedAtOnce)
	for node, peers := range peers {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found, err := ask(ctx, c, state.System, node, peers)
			mu.Lock()
			defer mu.Unlock()
			routes = append(routes, found...)
			if err != nil {
				failures = append(failures, err)
			}
		})
	}
	wait.Wait()
	slices.SortFunc(routes, func(a, b sentRoute) int {
		return cmp.Or(strings.Compare(a.Peer, b.Peer), strings.Compare(a.Node, b.Node), a.Prefix.Compare(b.Prefix))
	})
	return routes, errors.Join(failures...)
}

// ask asks the speaker of a node for its routes to some peers.
func ask(ctx context.Context, c *cluster.Cluster, system, node string, peers []string) (routes []sentRoute, err error) {
	speaker, err := c.Speaker(ctx, system, node)
	if err != nil {
		return nil, err
	}
	defer speaker.Close()
	for _, peer := range peers {
		var found []lookingglass.Route
		if err := speaker.Get(ctx, "/bgp/routes?peer="+url.QueryEscape(peer), &found); err != nil {
			return routes, err
		}
		for _, r := range found {
			routes = append(routes, sentRoute{Node: node, Peer: peer, Route: r})
		}
	}
	return routes, nil
}

func printSent(out *terminal.Printer, routes []sentRoute) {
	if len(routes) == 0 {
		out.Printf("The speakers have no route for their peers.\n")
		return
	}
	optional := func(n *uint32) string {
		if n == nil {
			return ""
		}
		return fmt.Sprint(*n)
	}
	t := &terminal.Table{Header: []string{"PEER", "NODE", "PREFIX", "NEXT HOP", "SENT", "PREPEND", "LOCAL PREF", "MED", "COMMUNITIES", "WHY NOT"}}
	for _, r := range routes {
		sent := terminal.Cell{Text: "yes", Colour: terminal.Green}
		if !r.Sent {
			sent = terminal.Cell{Text: "no", Colour: terminal.Red}
		}
		hop := ""
		if r.NextHop.IsValid() {
			hop = r.NextHop.String()
		}
		if r.LinkLocal.IsValid() {
			hop += "," + r.LinkLocal.String()
		}
		t.AddCells(terminal.Cell{Text: r.Peer}, terminal.Cell{Text: r.Node}, terminal.Cell{Text: r.Prefix.String()}, terminal.Cell{Text: hop}, sent,
			terminal.Cell{Text: fmt.Sprint(r.ASPathPrepend)}, terminal.Cell{Text: optional(r.LocalPref)}, terminal.Cell{Text: optional(r.MED)},
			terminal.Cell{Text: strings.Join(r.Communities, ",")}, terminal.Cell{Text: r.Withheld, Colour: terminal.Red})
	}
	out.Table("", t)
}
