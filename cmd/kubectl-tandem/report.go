// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/check"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/report"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func reportCommand(p *plugin) *cobra.Command {
	var file string
	anonymize, timeout := false, 5*time.Minute
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Writes a support bundle without Secrets, and without names on request",
		Long: `Writes a tar.gz with Tandem's objects, the Services, claims, endpoints and Nodes that they are about, events, logs, what speakers say of their sessions,
and what check finds. No Secret is read. With --anonymize names and addresses are replaced, each by the same one everywhere; look through
the logs all the same before you hand it on.

It takes what check takes, and the right to get pods/log in the namespace of Tandem. What may not be read is listed in missing.txt.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return p.report(ctx, file, anonymize)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "File to write; default tandem-report-TIME.tar.gz in this directory.")
	cmd.Flags().BoolVar(&anonymize, "anonymize", false, "Replace names and addresses.")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "How long to read.")
	return cmd
}

func (p *plugin) report(ctx context.Context, file string, anonymize bool) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	bundle, err := report.Gather(ctx, c)
	if err != nil {
		return err
	}
	var steps bytes.Buffer
	printSteps(terminal.NewPrinter(&steps), check.Run(check.Gather(ctx, c, check.Options{Plugin: version.Get().GitVersion, System: p.system, Ask: true})))
	bundle.Texts["check.txt"] = steps.Bytes()
	if anonymize {
		bundle.Anonymize()
	}
	now := time.Now()
	folder := "tandem-report-" + now.UTC().Format("20060102-150405")
	if file == "" {
		file = folder + ".tar.gz"
	}
	var archive bytes.Buffer
	if err := bundle.Write(&archive, folder, now, anonymize); err != nil {
		return err
	}
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	out := terminal.NewPrinter(p.Out)
	out.Printf("Wrote %s, %d KiB. No Secret is in it; look through it before you hand it on.\n", file, (archive.Len()+1023)/1024)
	if n := len(bundle.Missing); n > 0 {
		out.Printf("%s could not be read; missing.txt says why.\n", plural(n, "thing", "things"))
	}
	return nil
}
