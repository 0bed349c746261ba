// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/ui"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
)

func uiCommand(p *plugin) *cobra.Command {
	port := uint16(0)
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Serves a read-only page on this machine: topology, use, and what happens, live",
		Long: `Serves a page on loopback of this machine until it is interrupted: pools, Services, nodes, peers and LANs and how they hang together, the use of pools over
time, moves as they happen, and why a Service does not answer. The page changes nothing, and loads nothing from elsewhere. Its address has a
part that nobody can guess, since it shows what you may read.

It takes what status takes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.serveUI(cmd.Context(), port)
		},
	}
	cmd.Flags().Uint16Var(&port, "port", port, "Port on 127.0.0.1; 0 takes one that is free.")
	return cmd
}

func (p *plugin) serveUI(ctx context.Context, port uint16) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	if _, err := c.Read(ctx); err != nil {
		return err // before there is a page that shows nothing
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return fmt.Errorf("--port: %w", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100) // This command goes on for long, and reads again and again.
	}
	s := ui.New(c.Read, explainOn(c))
	// A page keeps its connection of events open, so that the end of the command ends the requests.
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go s.Run(ctx)
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	out := terminal.NewPrinter(p.Out)
	out.Printf("http://%s%s\nInterrupt (Ctrl-C) to end.\n", listener.Addr(), s.Path())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// explainOn returns what explains a Service of a cluster to the page.
func explainOn(c *cluster.Cluster) func(context.Context, types.NamespacedName) (any, error) {
	return func(ctx context.Context, service types.NamespacedName) (any, error) {
		state, err := c.Read(ctx)
		if err != nil {
			return nil, err
		}
		if err := c.ForeignOf(ctx, state, service); err != nil {
			return nil, err
		}
		answer, ok := why.New(state).Service(ctx, service)
		if !ok {
			return nil, fmt.Errorf("there is no Service %s of type LoadBalancer", service)
		}
		return answer, nil
	}
}
